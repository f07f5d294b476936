#include "model/jinja/text.h"

#include <string.h>

/* Where a joined text ends, and how far its bytes may grow in place. */
struct text_tail {
    const char *end;
    size_t room;
};

bool text_valid(const char *data, size_t bytes)
{
    const unsigned char *b = (const unsigned char *)data;
    for (size_t at = 0; at < bytes;) {
        unsigned char lead = b[at];
        size_t size = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        if (size == 0 || lead > 0xf4 || bytes - at < size)
            return false;
        for (size_t i = 1; i < size; i++)
            if ((b[at + i] & 0xc0) != 0x80)
                return false;
        if ((lead == 0xe0 && b[at + 1] < 0xa0) || (lead == 0xed && b[at + 1] > 0x9f) ||
            (lead == 0xf0 && b[at + 1] < 0x90) || (lead == 0xf4 && b[at + 1] > 0x8f))
            return false;
        at += size;
    }
    return true;
}

size_t text_points(const char *data, size_t bytes)
{
    size_t points = 0;
    for (size_t i = 0; i < bytes; i++)
        points += ((unsigned char)data[i] & 0xc0) != 0x80;
    return points;
}

static struct text *text_make(struct machine *m, const char *data, size_t bytes, size_t points)
{
    struct text *text = machine_take(m, sizeof(*text));
    text->data = data;
    text->bytes = bytes;
    text->points = points;
    return text;
}

const struct text *text_over(struct machine *m, const char *data, size_t bytes)
{
    machine_spend_bytes(m, bytes);
    return text_make(m, data, bytes, text_points(data, bytes));
}

const struct text *text_of(struct machine *m, const char *terminated)
{
    return text_over(m, terminated, strlen(terminated));
}

const struct text *text_copy(struct machine *m, const char *data, size_t bytes)
{
    char *copy = machine_take(m, bytes + 1);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    return text_over(m, copy, bytes);
}

const struct text *text_marked(struct machine *m, const struct text *text, bool markup)
{
    if (text->markup == markup)
        return text;
    struct text *copy = text_make(m, text->data, text->bytes, text->points);
    copy->markup = markup;
    return copy;
}

const struct text *text_piece(struct machine *m, const struct text *text, size_t from, size_t to)
{
    if (from == 0 && to == text->bytes)
        return text;
    size_t bytes = to - from;
    machine_spend_bytes(m, bytes);
    size_t points = text->points == text->bytes ? bytes : text_points(text->data + from, bytes);
    struct text *piece = text_make(m, text->data + from, bytes, points);
    piece->markup = text->markup;
    return piece;
}

const struct text *text_join(struct machine *m, const struct text *left, const struct text *right)
{
    if (right->bytes == 0)
        return left;
    if (left->bytes == 0)
        return right;
    machine_spend_bytes(m, right->bytes);
    struct text_tail *tail = left->tail;
    const char *data = left->data;
    if (tail == NULL || tail->end != left->data + left->bytes || tail->room < right->bytes) {
        /* A text that was joined before is likely to be joined again: double its room. */
        size_t room = tail != NULL ? left->bytes + right->bytes : 0;
        char *copy = machine_take(m, left->bytes + right->bytes + room);
        memcpy(copy, left->data, left->bytes);
        tail = machine_take(m, sizeof(*tail));
        tail->room = right->bytes + room;
        data = copy;
    }
    /* The bytes after the last text made here belong to nobody yet. */
    memcpy((char *)(uintptr_t)data + left->bytes, right->data, right->bytes);
    tail->end = data + left->bytes + right->bytes;
    tail->room -= right->bytes;
    struct text *joined =
        text_make(m, data, left->bytes + right->bytes, left->points + right->points);
    joined->tail = tail;
    joined->markup = left->markup;
    return joined;
}

const struct text *text_repeat(struct machine *m, const struct text *text, int64_t times)
{
    size_t count = times > 0 ? (size_t)times : 0;
    char *data = machine_take_array(m, count, text->bytes);
    for (size_t i = 0; i < count && text->bytes > 0; i++)
        memcpy(data + i * text->bytes, text->data, text->bytes);
    struct text *repeated = text_make(m, data, count * text->bytes, count * text->points);
    repeated->markup = text->markup;
    return repeated;
}

const struct text *text_escape(struct machine *m, const struct text *text)
{
    if (text->markup)
        return text;
    machine_spend_bytes(m, text->bytes);
    char *data = machine_take_array(m, text->bytes, 5);
    size_t used = 0;
    for (size_t i = 0; i < text->bytes; i++) {
        char c = text->data[i];
        const char *name = c == '&'    ? "&amp;"
                           : c == '<'  ? "&lt;"
                           : c == '>'  ? "&gt;"
                           : c == '\'' ? "&#39;"
                           : c == '"'  ? "&#34;"
                                       : NULL;
        if (name == NULL) {
            data[used++] = c;
        } else {
            size_t bytes = strlen(name);
            memcpy(data + used, name, bytes);
            used += bytes;
        }
    }
    struct text *escaped = text_make(m, data, used, text_points(data, used));
    escaped->markup = true;
    return escaped;
}

uint32_t text_next(const char *data, size_t *at)
{
    const unsigned char *b = (const unsigned char *)data + *at;
    if (b[0] < 0x80) {
        *at += 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *at += 2;
        return (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    }
    if (b[0] < 0xf0) {
        *at += 3;
        return (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    }
    *at += 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

size_t text_append(char *to, uint32_t point)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3f));
        to[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3f));
    to[2] = (char)(0x80 | (point >> 6 & 0x3f));
    to[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

size_t text_offset(struct machine *m, const struct text *text, size_t point)
{
    if (point >= text->points)
        return text->bytes;
    if (text->points == text->bytes)
        return point;
    machine_spend_bytes(m, point);
    size_t at = 0;
    for (; point > 0; point--)
        text_next(text->data, &at);
    return at;
}

bool text_equal(const struct text *a, const struct text *b)
{
    return a->bytes == b->bytes && (a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
}

bool text_is(const struct text *text, const char *terminated)
{
    return strlen(terminated) == text->bytes && memcmp(text->data, terminated, text->bytes) == 0;
}

int text_compare(const struct text *a, const struct text *b)
{
    /* The order of UTF-8 bytes is the order of code points. */
    size_t shorter = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = shorter > 0 ? memcmp(a->data, b->data, shorter) : 0;
    if (order != 0)
        return order < 0 ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

size_t text_find(struct machine *m, const struct text *in, const struct text *what, size_t from,
                 size_t to)
{
    if (from > to || what->bytes > to - from)
        return TEXT_NOT_FOUND;
    if (what->bytes == 0)
        return from;
    machine_spend_bytes(m, to - from);
    const char *found = memmem(in->data + from, to - from, what->data, what->bytes);
    return found != NULL ? (size_t)(found - in->data) : TEXT_NOT_FOUND;
}

size_t text_find_last(struct machine *m, const struct text *in, const struct text *what,
                      size_t from, size_t to)
{
    if (from > to || what->bytes > to - from)
        return TEXT_NOT_FOUND;
    for (size_t at = to - what->bytes;; at--) {
        if ((at & 63) == 0)
            machine_spend(m, 1 + what->bytes);
        if (what->bytes == 0 || memcmp(in->data + at, what->data, what->bytes) == 0)
            return at;
        if (at == from)
            return TEXT_NOT_FOUND;
    }
}

static bool strips(struct machine *m, const struct text *chars, const char *data, size_t at)
{
    size_t end = at;
    uint32_t point = text_next(data, &end);
    if (chars == NULL)
        return point_is_space(point);
    machine_spend(m, 1 + chars->bytes / 64);
    return memmem(chars->data, chars->bytes, data + at, end - at) != NULL;
}

const struct text *text_strip(struct machine *m, const struct text *text, const struct text *chars,
                              enum text_strip sides)
{
    size_t from = 0, to = text->bytes;
    machine_spend_bytes(m, text->bytes);
    while ((sides & TEXT_STRIP_LEFT) != 0 && from < to && strips(m, chars, text->data, from))
        text_next(text->data, &from);
    while ((sides & TEXT_STRIP_RIGHT) != 0 && from < to) {
        size_t last = to - 1;
        while (((unsigned char)text->data[last] & 0xc0) == 0x80)
            last--;
        if (!strips(m, chars, text->data, last))
            break;
        to = last;
    }
    return text_piece(m, text, from, to);
}

/* What Python does with an empty old: new goes before every code point and at the end. */
static const struct text *replace_empty(struct machine *m, const struct text *text,
                                        const struct text *new, size_t most)
{
    size_t places = text->points + 1 < most ? text->points + 1 : most;
    size_t inserted;
    if (__builtin_mul_overflow(places, new->bytes, &inserted))
        machine_fail(m, ERR_FULL, "more memory than a render may take");
    machine_spend_bytes(m, inserted);
    char *data = machine_take(m, text->bytes + inserted);
    size_t at = 0, used = 0;
    for (size_t place = 0; place <= text->points; place++) {
        if (place<places &&new->bytes> 0) {
            memcpy(data + used, new->data, new->bytes);
            used += new->bytes;
        }
        if (at < text->bytes) {
            size_t from = at;
            text_next(text->data, &at);
            memcpy(data + used, text->data + from, at - from);
            used += at - from;
        }
    }
    return text_make(m, data, used, text_points(data, used));
}

const struct text *text_replace(struct machine *m, const struct text *text, const struct text *old,
                                const struct text *new, int64_t most)
{
    size_t limit = most < 0 ? SIZE_MAX : (size_t)most;
    if (old->bytes == 0)
        return text_marked(m, replace_empty(m, text, new, limit), text->markup);
    size_t count = 0;
    for (size_t at = 0; count < limit; count++) {
        /* Each find is charged for what it looked at, not for what is left. */
        const char *found = memmem(text->data + at, text->bytes - at, old->data, old->bytes);
        if (found == NULL)
            break;
        machine_spend(m, 1);
        at = (size_t)(found - text->data) + old->bytes;
    }
    machine_spend_bytes(m, text->bytes);
    if (count == 0)
        return text;
    size_t added;
    if (__builtin_mul_overflow(count, new->bytes, &added))
        machine_fail(m, ERR_FULL, "more memory than a render may take");
    size_t bytes = text->bytes - count * old->bytes + added;
    char *data = machine_take(m, bytes);
    size_t at = 0, used = 0;
    for (size_t i = 0; i < count; i++) {
        const char *found = memmem(text->data + at, text->bytes - at, old->data, old->bytes);
        size_t kept = (size_t)(found - (text->data + at));
        memcpy(data + used, text->data + at, kept);
        used += kept;
        if (new->bytes > 0)
            memcpy(data + used, new->data, new->bytes);
        used += new->bytes;
        at += kept + old->bytes;
    }
    if (text->bytes > at)
        memcpy(data + used, text->data + at, text->bytes - at);
    struct text *replaced = text_make(m, data, bytes, text_points(data, bytes));
    replaced->markup = text->markup;
    return replaced;
}

const struct text *text_reverse(struct machine *m, const struct text *text)
{
    char *data = machine_take(m, text->bytes);
    size_t at = 0, to = text->bytes;
    while (at < text->bytes) {
        size_t from = at;
        text_next(text->data, &at);
        to -= at - from;
        memcpy(data + to, text->data + from, at - from);
    }
    struct text *reversed = text_make(m, data, text->bytes, text->points);
    reversed->markup = text->markup;
    return reversed;
}
