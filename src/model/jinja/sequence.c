/* Lengths, walks, indices and slices of everything that holds items. */
#include <stdlib.h>
#include <string.h>

#include "model/jinja/eval.h"
#include "model/jinja/filters.h"
#include "model/jinja/value.h"

bool value_has_length(struct value value)
{
    switch (value.kind) {
    case VALUE_UNDEFINED:
    case VALUE_TEXT:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_RANGE:
    case VALUE_VIEW:
    case VALUE_LOOP:
        return true;
    default:
        return false;
    }
}

size_t value_length(struct machine *m, struct value value)
{
    switch (value.kind) {
    case VALUE_UNDEFINED:
        return 0;
    case VALUE_TEXT:
        return value.as.text->points;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return value.as.list->count;
    case VALUE_DICT:
        return value.as.dict->count;
    case VALUE_RANGE:
        return value.as.range->count;
    case VALUE_VIEW:
        return value.as.view->dict->count;
    case VALUE_LOOP:
        return loop_length(m, value.as.loop);
    default:
        machine_fail(m, ERR_BAD_INPUT, "object of type '%s' has no len()", value_type(value));
    }
}

bool value_is_iterable(struct value value)
{
    return value_has_length(value) || value.kind == VALUE_ITERATOR;
}

struct cursor cursor_open(struct machine *m, struct value value)
{
    if (!value_is_iterable(value))
        machine_fail(m, ERR_BAD_INPUT, "'%s' object is not iterable", value_type(value));
    return (struct cursor){.of = value};
}

static struct value view_at(struct machine *m, const struct view *view, size_t at)
{
    const struct dict_entry *entry = &view->dict->entries[at];
    if (view->kind == VIEW_ITEMS)
        return value_pair(m, entry->key, entry->value);
    return view->kind == VIEW_KEYS ? entry->key : entry->value;
}

static bool text_cursor_next(struct machine *m, struct cursor *cursor, struct value *item_out)
{
    const struct text *text = cursor->of.as.text;
    if (cursor->at >= text->bytes)
        return false;
    size_t from = cursor->at;
    text_next(text->data, &cursor->at);
    *item_out = value_text(text_piece(m, text_marked(m, text, false), from, cursor->at));
    return true;
}

bool cursor_next(struct machine *m, struct cursor *cursor, struct value *item_out)
{
    machine_spend(m, 1);
    struct value of = cursor->of;
    if (of.kind == VALUE_TEXT)
        return text_cursor_next(m, cursor, item_out);
    if (of.kind == VALUE_ITERATOR) {
        struct iterator *iterator = of.as.iterator;
        if (iterator->list == NULL)
            iterator->list = pending_make(m, iterator->pending);
        if (iterator->at >= iterator->list->count)
            return false;
        *item_out = iterator->list->items[iterator->at++];
        return true;
    }
    if (of.kind == VALUE_LOOP)
        machine_fail(m, ERR_UNSUPPORTED, "a walk over the loop variable itself is not built");
    if (cursor->at >= value_length(m, of))
        return false;
    size_t at = cursor->at++;
    if (of.kind == VALUE_DICT)
        *item_out = of.as.dict->entries[at].key;
    else if (of.kind == VALUE_VIEW)
        *item_out = view_at(m, of.as.view, at);
    else
        *item_out = sequence_at(m, of, (int64_t)at);
    return true;
}

const struct list *value_items(struct machine *m, struct value value)
{
    if (value.kind == VALUE_LIST || value.kind == VALUE_TUPLE)
        return value.as.list;
    struct cursor cursor = cursor_open(m, value);
    struct value *items = NULL, item;
    size_t count = 0, room = 0;
    while (cursor_next(m, &cursor, &item)) {
        items = machine_grow(m, items, count, &room, sizeof(*items));
        items[count++] = item;
    }
    return value_list(m, items, count).as.list;
}

struct value value_range(struct machine *m, int64_t start, int64_t stop, int64_t step)
{
    if (step == 0)
        machine_fail(m, ERR_BAD_INPUT, "range() arg 3 must not be zero");
    uint64_t from = (uint64_t)start, to = (uint64_t)stop, pace = (uint64_t)step;
    uint64_t span = step > 0 ? to - from : from - to;
    if (step < 0)
        pace = 0 - pace;
    uint64_t count = (step > 0 ? stop > start : start > stop) ? (span - 1) / pace + 1 : 0;
    if (count > 100000)
        machine_fail(m, ERR_BAD_INPUT, "range too big: at most 100000 items");
    struct range *range = machine_take(m, sizeof(*range));
    range->start = start;
    range->stop = stop;
    range->step = step;
    range->count = (size_t)count;
    return (struct value){.kind = VALUE_RANGE, .as.range = range};
}

struct value sequence_at(struct machine *m, struct value value, int64_t index)
{
    int64_t length = (int64_t)value_length(m, value);
    if (index < 0)
        index += length;
    if (index < 0 || index >= length)
        return (struct value){.kind = VALUE_ABSENT};
    if (value.kind == VALUE_RANGE)
        return value_int(value.as.range->start + index * value.as.range->step);
    if (value.kind == VALUE_TEXT) {
        size_t from = text_offset(m, value.as.text, (size_t)index), to = from;
        text_next(value.as.text->data, &to);
        return value_text(text_piece(m, value.as.text, from, to));
    }
    return value.as.list->items[index];
}

/* A slice bound as Python bends it: negative counts from the end, then held within the sequence. */
static int64_t bound_bend(struct machine *m, struct value bound, int64_t length, int64_t step,
                          int64_t missing)
{
    if (bound.kind == VALUE_NONE)
        return missing;
    if (!value_is_integer(bound))
        machine_fail(m, ERR_BAD_INPUT, "slice indices must be integers or none, not '%s'",
                     value_type(bound));
    int64_t at = value_integer(bound);
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    if (at < 0)
        at = at < -length ? low : at + length;
    return at < low ? low : at > high ? high : at;
}

static struct value text_slice(struct machine *m, const struct text *text, int64_t start,
                               int64_t step, size_t count)
{
    if (step == 1) {
        size_t from = text_offset(m, text, (size_t)start);
        size_t to = text_offset(m, text, (size_t)start + count);
        return value_text(text_piece(m, text, from, to));
    }
    if (step == -1 && count == text->points)
        return value_text(text_reverse(m, text));
    machine_spend(m, text->points);
    size_t *offsets = machine_take_array(m, text->points + 1, sizeof(*offsets));
    size_t at = 0;
    for (size_t i = 0; i < text->points; i++) {
        offsets[i] = at;
        text_next(text->data, &at);
    }
    offsets[text->points] = at;
    char *data = machine_take_array(m, count, 4);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        size_t point = (size_t)(start + (int64_t)i * step);
        memcpy(data + used, text->data + offsets[point], offsets[point + 1] - offsets[point]);
        used += offsets[point + 1] - offsets[point];
    }
    return value_text(text_marked(m, text_over(m, data, used), text->markup));
}

static struct value range_slice(struct machine *m, const struct range *of, int64_t from, int64_t to,
                                int64_t stride, size_t count)
{
    struct range *range = machine_take(m, sizeof(*range));
    int64_t first, stop;
    if (__builtin_mul_overflow(of->step, stride, &range->step) ||
        __builtin_mul_overflow(of->step, from, &first) ||
        __builtin_mul_overflow(of->step, to, &stop) ||
        __builtin_add_overflow(of->start, first, &range->start) ||
        __builtin_add_overflow(of->start, stop, &range->stop))
        machine_fail(m, ERR_BAD_INPUT, "integer of more than 64 bits");
    range->count = count;
    return (struct value){.kind = VALUE_RANGE, .as.range = range};
}

struct value sequence_slice(struct machine *m, struct value value, struct value start,
                            struct value stop, struct value step)
{
    int64_t length = (int64_t)value_length(m, value);
    int64_t stride = 1;
    if (step.kind != VALUE_NONE) {
        if (!value_is_integer(step))
            machine_fail(m, ERR_BAD_INPUT, "slice indices must be integers or none, not '%s'",
                         value_type(step));
        stride = value_integer(step);
    }
    if (stride == 0)
        machine_fail(m, ERR_BAD_INPUT, "slice step cannot be zero");
    /* Beyond the length all steps are the same; this keeps the sums below from overflowing. */
    stride = stride > length + 1 ? length + 1 : stride < -length - 1 ? -length - 1 : stride;
    int64_t from = bound_bend(m, start, length, stride, stride < 0 ? length - 1 : 0);
    int64_t to = bound_bend(m, stop, length, stride, stride < 0 ? -1 : length);
    int64_t span = stride > 0 ? to - from : from - to;
    int64_t pace = stride > 0 ? stride : -stride;
    size_t count = span > 0 ? (size_t)((span + pace - 1) / pace) : 0;

    if (value.kind == VALUE_TEXT)
        return text_slice(m, value.as.text, from, stride, count);
    if (value.kind == VALUE_RANGE) {
        return range_slice(m, value.as.range, from, to, stride, count);
    }
    const struct value *items = value.as.list->items;
    if (stride == 1) {
        items = count > 0 ? items + from : NULL;
    } else {
        machine_spend(m, count);
        struct value *picked = machine_take_array(m, count, sizeof(*picked));
        for (size_t i = 0; i < count; i++)
            picked[i] = items[from + (int64_t)i * stride];
        items = picked;
    }
    return value.kind == VALUE_LIST ? value_list(m, items, count) : value_tuple(m, items, count);
}
