/* Filters over sequences. */
#include <string.h>

#include "model/jinja/filters.h"
#include "model/jinja/number.h"
#include "model/jinja/sort.h"
#include "model/jinja/tests.h"

/* A list that grows. */
struct pile {
    struct value *items;
    size_t count, room;
};

static void pile_add(struct machine *m, struct pile *pile, struct value item)
{
    pile->items = machine_grow(m, pile->items, pile->count, &pile->room, sizeof(*pile->items));
    pile->items[pile->count++] = item;
}

static bool all_digits(const struct text *text)
{
    for (size_t i = 0; i < text->bytes; i++)
        if (text->data[i] < '0' || text->data[i] > '9')
            return false;
    return text->bytes > 0;
}

/* One part of a path: "0" is an index, anything else a name. */
static struct value path_step(struct machine *m, struct value item, const struct text *part)
{
    int64_t index;
    if (all_digits(part) && integer_parse(m, part, 10, &index))
        return value_item(m, item, value_int(index));
    return value_item(m, item, value_text(part));
}

/* item.a.0.b for the attribute "a.0.b"; a number is an index, absent or none is the item. */
static struct value attribute_of(struct machine *m, struct value item, struct value attribute,
                                 struct value otherwise)
{
    if (attribute.kind == VALUE_ABSENT || attribute.kind == VALUE_NONE)
        return item;
    bool has_default = otherwise.kind != VALUE_ABSENT && otherwise.kind != VALUE_NONE;
    if (attribute.kind != VALUE_TEXT) {
        item = value_item(m, item, attribute);
        return item.kind == VALUE_UNDEFINED && has_default ? otherwise : item;
    }
    const struct text *path = attribute.as.text;
    for (size_t at = 0; at <= path->bytes;) {
        const char *dot = memchr(path->data + at, '.', path->bytes - at);
        size_t end = dot != NULL ? (size_t)(dot - path->data) : path->bytes;
        item = path_step(m, item, text_piece(m, path, at, end));
        if (item.kind == VALUE_UNDEFINED && has_default)
            item = otherwise;
        at = end + 1;
    }
    return item;
}

static struct value fold(struct machine *m, struct value value, bool case_sensitive)
{
    if (case_sensitive || value.kind != VALUE_TEXT)
        return value;
    return value_text(text_to_case(m, value.as.text, TEXT_LOWER));
}

static bool argument_truth(struct machine *m, struct value value)
{
    return value.kind != VALUE_ABSENT && value_truth(m, value);
}

static struct value filter_length(struct render *r, struct value value,
                                  const struct value *arguments)
{
    (void)arguments;
    return value_int((int64_t)value_length(r->m, value));
}

static struct value filter_first(struct render *r, struct value value,
                                 const struct value *arguments)
{
    (void)arguments;
    struct cursor cursor = cursor_open(r->m, value);
    struct value item;
    if (cursor_next(r->m, &cursor, &item))
        return item;
    return value_undefined(r->m, "no first item, sequence was empty");
}

static struct value filter_last(struct render *r, struct value value, const struct value *arguments)
{
    (void)arguments;
    if (!value_has_length(value))
        machine_fail(r->m, ERR_BAD_INPUT, "'%s' object is not reversible", value_type(value));
    if (value.kind == VALUE_TEXT) {
        struct value last = sequence_at(r->m, value, -1);
        if (last.kind != VALUE_ABSENT)
            return value_text(text_marked(r->m, last.as.text, false));
        return value_undefined(r->m, "no last item, sequence was empty");
    }
    const struct list *items = value_items(r->m, value);
    if (items->count > 0)
        return items->items[items->count - 1];
    return value_undefined(r->m, "no last item, sequence was empty");
}

static struct value filter_list(struct render *r, struct value value, const struct value *arguments)
{
    (void)arguments;
    const struct list *items = value_items(r->m, value);
    return value_list(r->m, items->items, items->count);
}

static struct value filter_join(struct render *r, struct value value, const struct value *arguments)
{
    struct machine *m = r->m;
    const struct text *between =
        arguments[0].kind != VALUE_ABSENT ? value_to_text(m, arguments[0]) : text_of(m, "");
    struct cursor cursor = cursor_open(m, value);
    struct value item;
    size_t from = m->output.used;
    for (bool first = true; cursor_next(m, &cursor, &item); first = false) {
        if (!first)
            output_write(m, between->data, between->bytes);
        value_print(m, attribute_of(m, item, arguments[1], (struct value){.kind = VALUE_ABSENT}));
    }
    return value_text(output_cut(m, from));
}

static struct value filter_reverse(struct render *r, struct value value,
                                   const struct value *arguments)
{
    (void)arguments;
    struct machine *m = r->m;
    if (value.kind == VALUE_TEXT)
        return value_text(text_reverse(m, value.as.text));
    const struct list *items = value_items(m, value);
    struct value *reversed = machine_take_array(m, items->count, sizeof(*reversed));
    for (size_t i = 0; i < items->count; i++)
        reversed[items->count - 1 - i] = items->items[i];
    if (value.kind == VALUE_ITERATOR)
        return value_list(m, reversed, items->count);
    return value_iterator(m, "list_reverseiterator", reversed, items->count);
}

static struct value filter_items(struct render *r, struct value value,
                                 const struct value *arguments)
{
    (void)arguments;
    struct machine *m = r->m;
    if (value.kind != VALUE_UNDEFINED && value.kind != VALUE_DICT)
        machine_fail(m, ERR_BAD_INPUT, "can only get item pairs from a mapping, not '%s'",
                     value_type(value));
    size_t count = value.kind == VALUE_DICT ? value.as.dict->count : 0;
    struct value *pairs = machine_take_array(m, count, sizeof(*pairs));
    for (size_t i = 0; i < count; i++)
        pairs[i] = value_pair(m, value.as.dict->entries[i].key, value.as.dict->entries[i].value);
    return value_iterator(m, "generator", pairs, count);
}

static struct value filter_dictsort(struct render *r, struct value value,
                                    const struct value *arguments)
{
    struct machine *m = r->m;
    bool by_value = false;
    if (arguments[1].kind != VALUE_ABSENT) {
        by_value = arguments[1].kind == VALUE_TEXT && text_is(arguments[1].as.text, "value");
        if (!by_value && !(arguments[1].kind == VALUE_TEXT && text_is(arguments[1].as.text, "key")))
            machine_fail(m, ERR_BAD_INPUT, "dictsort: by must be 'key' or 'value'");
    }
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (value.kind != VALUE_DICT)
        machine_fail(m, ERR_BAD_INPUT, "dictsort: expected a dict, found '%s'", value_type(value));
    bool case_sensitive = argument_truth(m, arguments[0]);
    size_t count = value.as.dict->count;
    struct sort_item *sorted = machine_take_array(m, count, sizeof(*sorted));
    for (size_t i = 0; i < count; i++) {
        struct dict_entry entry = value.as.dict->entries[i];
        sorted[i].key = fold(m, by_value ? entry.value : entry.key, case_sensitive);
        sorted[i].item = value_pair(m, entry.key, entry.value);
    }
    items_sort(m, sorted, count, argument_truth(m, arguments[2]));
    struct value *pairs = machine_take_array(m, count, sizeof(*pairs));
    for (size_t i = 0; i < count; i++)
        pairs[i] = sorted[i].item;
    return value_list(m, pairs, count);
}

/* The key of sort: a tuple of the attributes named between commas. */
static struct value sort_key(struct machine *m, struct value item, struct value attribute,
                             bool case_sensitive)
{
    struct value absent = {.kind = VALUE_ABSENT};
    struct pile keys = {0};
    if (attribute.kind != VALUE_TEXT) {
        pile_add(m, &keys, fold(m, attribute_of(m, item, attribute, absent), case_sensitive));
        return value_list(m, keys.items, keys.count);
    }
    const struct text *names = attribute.as.text;
    for (size_t at = 0; at <= names->bytes;) {
        const char *comma = memchr(names->data + at, ',', names->bytes - at);
        size_t end = comma != NULL ? (size_t)(comma - names->data) : names->bytes;
        struct value name = value_text(text_piece(m, names, at, end));
        pile_add(m, &keys, fold(m, attribute_of(m, item, name, absent), case_sensitive));
        at = end + 1;
    }
    return value_list(m, keys.items, keys.count);
}

static struct value filter_sort(struct render *r, struct value value, const struct value *arguments)
{
    struct machine *m = r->m;
    const struct list *items = value_items(m, value);
    bool case_sensitive = argument_truth(m, arguments[1]);
    struct sort_item *sorted = machine_take_array(m, items->count, sizeof(*sorted));
    for (size_t i = 0; i < items->count; i++) {
        sorted[i].key = sort_key(m, items->items[i], arguments[2], case_sensitive);
        sorted[i].item = items->items[i];
    }
    items_sort(m, sorted, items->count, argument_truth(m, arguments[0]));
    struct value *out = machine_take_array(m, items->count, sizeof(*out));
    for (size_t i = 0; i < items->count; i++)
        out[i] = sorted[i].item;
    return value_list(m, out, items->count);
}

static struct value filter_unique(struct render *r, struct value value,
                                  const struct value *arguments)
{
    struct machine *m = r->m;
    struct value seen = value_dict(m), absent = {.kind = VALUE_ABSENT};
    bool case_sensitive = argument_truth(m, arguments[0]);
    struct cursor cursor = cursor_open(m, value);
    struct value item;
    struct pile kept = {0};
    while (cursor_next(m, &cursor, &item)) {
        struct value key = fold(m, attribute_of(m, item, arguments[1], absent), case_sensitive);
        if (dict_get(m, seen.as.dict, key) != NULL)
            continue;
        dict_set(m, seen.as.dict, key, value_none());
        pile_add(m, &kept, item);
    }
    return value_iterator(m, "generator", kept.items, kept.count);
}

static struct value extreme(struct render *r, struct value value, const struct value *arguments,
                            int sign)
{
    struct machine *m = r->m;
    struct value absent = {.kind = VALUE_ABSENT}, item, best = absent, best_key = absent;
    bool case_sensitive = argument_truth(m, arguments[0]);
    struct cursor cursor = cursor_open(m, value);
    while (cursor_next(m, &cursor, &item)) {
        struct value key = fold(m, attribute_of(m, item, arguments[1], absent), case_sensitive);
        if (best.kind == VALUE_ABSENT ||
            value_compare(m, key, best_key, sign > 0 ? ">" : "<") == sign) {
            best = item;
            best_key = key;
        }
    }
    if (best.kind == VALUE_ABSENT)
        return value_undefined(m, "no aggregated item, sequence was empty");
    return best;
}

static struct value filter_min(struct render *r, struct value value, const struct value *arguments)
{
    return extreme(r, value, arguments, -1);
}

static struct value filter_max(struct render *r, struct value value, const struct value *arguments)
{
    return extreme(r, value, arguments, 1);
}

static struct value filter_sum(struct render *r, struct value value, const struct value *arguments)
{
    struct machine *m = r->m;
    struct value absent = {.kind = VALUE_ABSENT}, item;
    struct value sum = arguments[1].kind != VALUE_ABSENT ? arguments[1] : value_int(0);
    struct cursor cursor = cursor_open(m, value);
    while (cursor_next(m, &cursor, &item)) {
        item = attribute_of(m, item, arguments[0], absent);
        if (item.kind == VALUE_UNDEFINED)
            value_fail_undefined(m, item);
        if (!value_is_number(sum) || !value_is_number(item))
            machine_fail(m, ERR_BAD_INPUT, "sum: unsupported operand types: '%s' and '%s'",
                         value_type(sum), value_type(item));
        sum = number_combine(m, '+', sum, item);
    }
    return sum;
}

static struct value filter_slice(struct render *r, struct value value,
                                 const struct value *arguments)
{
    struct machine *m = r->m;
    const struct list *items = value_items(m, value);
    int64_t slices = argument_integer(m, "slice", arguments[0], 0);
    if (slices == 0)
        machine_fail(m, ERR_BAD_INPUT, "slice: into 0 slices");
    struct pile out = {0};
    size_t each = slices > 0 ? items->count / (size_t)slices : 0;
    size_t extra = slices > 0 ? items->count % (size_t)slices : 0, at = 0;
    bool fills = arguments[1].kind != VALUE_ABSENT && arguments[1].kind != VALUE_NONE;
    for (int64_t i = 0; i < slices; i++) {
        machine_spend(m, 1);
        bool longer = (size_t)i < extra;
        size_t count = each + longer;
        struct value *slice = machine_take_array(m, count + 1, sizeof(*slice));
        if (count > 0)
            memcpy(slice, items->items + at, count * sizeof(*slice));
        at += count;
        if (fills && !longer)
            slice[count++] = arguments[1];
        pile_add(m, &out, value_list(m, slice, count));
    }
    return value_iterator(m, "generator", out.items, out.count);
}

static struct value filter_batch(struct render *r, struct value value,
                                 const struct value *arguments)
{
    struct machine *m = r->m;
    int64_t size = argument_integer(m, "batch", arguments[0], 0);
    bool fills = arguments[1].kind != VALUE_ABSENT && arguments[1].kind != VALUE_NONE;
    struct cursor cursor = cursor_open(m, value);
    struct value item;
    struct pile out = {0}, batch = {0};
    bool first = true;
    while (cursor_next(m, &cursor, &item)) {
        if ((int64_t)batch.count == size && !(first && size == 0)) {
            pile_add(m, &out, value_list(m, batch.items, batch.count));
            batch = (struct pile){0};
        } else if (first && size == 0) {
            pile_add(m, &out, value_list(m, NULL, 0));
        }
        first = false;
        pile_add(m, &batch, item);
    }
    while (fills && batch.count > 0 && (int64_t)batch.count < size)
        pile_add(m, &batch, arguments[1]);
    if (batch.count > 0)
        pile_add(m, &out, value_list(m, batch.items, batch.count));
    return value_iterator(m, "generator", out.items, out.count);
}

static struct value filter_groupby(struct render *r, struct value value,
                                   const struct value *arguments)
{
    struct machine *m = r->m;
    const struct list *items = value_items(m, value);
    bool case_sensitive = argument_truth(m, arguments[2]);
    struct sort_item *sorted = machine_take_array(m, items->count, sizeof(*sorted));
    for (size_t i = 0; i < items->count; i++) {
        sorted[i].key =
            fold(m, attribute_of(m, items->items[i], arguments[0], arguments[1]), case_sensitive);
        sorted[i].item = items->items[i];
    }
    items_sort(m, sorted, items->count, false);
    struct pile out = {0};
    for (size_t i = 0; i < items->count;) {
        struct pile group = {0};
        size_t start = i;
        for (; i < items->count && value_equal(m, sorted[i].key, sorted[start].key); i++)
            pile_add(m, &group, sorted[i].item);
        struct value key = attribute_of(m, group.items[0], arguments[0], arguments[1]);
        pile_add(m, &out, value_pair(m, key, value_list(m, group.items, group.count)));
        if (i == start)
            machine_fail(m, ERR_BAD_INPUT, "groupby: a key is not equal to itself");
    }
    return value_list(m, out.items, out.count);
}

static struct value filter_map(struct render *r, struct value value, const struct call *call)
{
    struct machine *m = r->m;
    struct pile out = {0};
    struct value attribute[2] = {{.kind = VALUE_ABSENT}, {.kind = VALUE_ABSENT}}, item;
    const struct filter *filter = NULL;
    if (!value_truth(m, value))
        return value_iterator(m, "generator", NULL, 0);
    if (call->count == 0) {
        call_bind(m, "map", call, "attribute default", 1, true, attribute);
    } else {
        struct value name = call->values[0];
        filter = name.kind == VALUE_TEXT ? filter_find(name.as.text) : NULL;
        if (filter == NULL)
            machine_fail(m, ERR_BAD_INPUT, "map: no such filter");
    }
    struct call rest = *call;
    if (filter != NULL) {
        rest.count--;
        rest.values++;
    }
    struct cursor cursor = cursor_open(m, value);
    while (cursor_next(m, &cursor, &item)) {
        if (filter != NULL)
            item = filter_apply(r, filter, item, &rest);
        else
            item = attribute_of(m, item, attribute[0], attribute[1]);
        pile_add(m, &out, item);
    }
    return value_iterator(m, "generator", out.items, out.count);
}

/* select, reject and their attr forms: keep the items (by an attribute of each) that pass a test,
 * or are true when no test is named. */
static struct value pick(struct render *r, struct value value, const struct call *call,
                         bool by_attribute, bool wanted)
{
    struct machine *m = r->m;
    struct pile kept = {0};
    struct value absent = {.kind = VALUE_ABSENT}, item;
    struct call rest = *call;
    struct value attribute = absent;
    const struct test *test = NULL;
    if (!value_truth(m, value))
        return value_iterator(m, "generator", NULL, 0);
    if (by_attribute) {
        if (rest.count == 0)
            machine_fail(m, ERR_BAD_INPUT, "missing parameter for attribute name");
        attribute = *rest.values++;
        rest.count--;
    }
    if (rest.count > 0) {
        struct value name = *rest.values++;
        rest.count--;
        test = name.kind == VALUE_TEXT ? test_find(name.as.text) : NULL;
        if (test == NULL)
            machine_fail(m, ERR_BAD_INPUT, "no such test for select or reject");
    }
    struct cursor cursor = cursor_open(m, value);
    while (cursor_next(m, &cursor, &item)) {
        struct value of = attribute_of(m, item, attribute, absent);
        bool passes = test != NULL ? test_apply(r, test, of, &rest) : value_truth(m, of);
        if (passes == wanted)
            pile_add(m, &kept, item);
    }
    return value_iterator(m, "generator", kept.items, kept.count);
}

static struct value filter_select(struct render *r, struct value value, const struct call *call)
{
    return pick(r, value, call, false, true);
}

static struct value filter_reject(struct render *r, struct value value, const struct call *call)
{
    return pick(r, value, call, false, false);
}

static struct value filter_selectattr(struct render *r, struct value value, const struct call *call)
{
    return pick(r, value, call, true, true);
}

static struct value filter_rejectattr(struct render *r, struct value value, const struct call *call)
{
    return pick(r, value, call, true, false);
}

const struct filter filters_of_lists[] = {
    {"length", filter_length, NULL, "", 0, false},
    {"count", filter_length, NULL, "", 0, false},
    {"first", filter_first, NULL, "", 0, false},
    {"last", filter_last, NULL, "", 0, false},
    {"list", filter_list, NULL, "", 0, false},
    {"join", filter_join, NULL, "d attribute", 0, false},
    {"reverse", filter_reverse, NULL, "", 0, false},
    {"items", filter_items, NULL, "", 0, true},
    {"dictsort", filter_dictsort, NULL, "case_sensitive by reverse", 0, false},
    {"sort", filter_sort, NULL, "reverse case_sensitive attribute", 0, false},
    {"unique", filter_unique, NULL, "case_sensitive attribute", 0, true},
    {"min", filter_min, NULL, "case_sensitive attribute", 0, false},
    {"max", filter_max, NULL, "case_sensitive attribute", 0, false},
    {"sum", filter_sum, NULL, "attribute start", 0, false},
    {"slice", filter_slice, NULL, "slices fill_with", 1, true},
    {"batch", filter_batch, NULL, "linecount fill_with", 1, true},
    {"groupby", filter_groupby, NULL, "attribute default case_sensitive", 1, false},
    {"map", NULL, filter_map, NULL, 0, true},
    {"select", NULL, filter_select, NULL, 0, true},
    {"reject", NULL, filter_reject, NULL, 0, true},
    {"selectattr", NULL, filter_selectattr, NULL, 0, true},
    {"rejectattr", NULL, filter_rejectattr, NULL, 0, true},
    {0},
};
