/* Cutting texts into lists, and padding them. */
#include <string.h>

#include "model/jinja/methods.h"

/* Pieces as they are found, from the left or from the right. */
struct pieces {
    struct machine *m;
    const struct text *text;
    struct value *items;
    size_t count, room;
};

static void pieces_add(struct pieces *p, size_t from, size_t to)
{
    machine_spend(p->m, 1);
    p->items = machine_grow(p->m, p->items, p->count, &p->room, sizeof(*p->items));
    p->items[p->count++] = value_text(text_piece(p->m, p->text, from, to));
}

static struct value pieces_list(struct pieces *p, bool reversed)
{
    for (size_t i = 0; reversed && i < p->count / 2; i++) {
        struct value swap = p->items[i];
        p->items[i] = p->items[p->count - 1 - i];
        p->items[p->count - 1 - i] = swap;
    }
    return value_list(p->m, p->items, p->count);
}

static size_t point_before(const struct text *text, size_t at)
{
    do
        at--;
    while (((unsigned char)text->data[at] & 0xc0) == 0x80);
    return at;
}

static bool space_at(const struct text *text, size_t at)
{
    return point_is_space(text_next(text->data, &at));
}

static size_t point_after(const struct text *text, size_t at)
{
    text_next(text->data, &at);
    return at;
}

/* By runs of white space, and none at the ends; after most cuts the rest keeps what follows it. */
static struct value cut_space(struct pieces *p, uint64_t most)
{
    const struct text *text = p->text;
    size_t at = 0;
    for (;;) {
        while (at < text->bytes && space_at(text, at))
            at = point_after(text, at);
        if (at == text->bytes)
            break;
        size_t from = at;
        if (p->count >= most) {
            pieces_add(p, from, text->bytes);
            break;
        }
        while (at < text->bytes && !space_at(text, at))
            at = point_after(text, at);
        pieces_add(p, from, at);
    }
    return pieces_list(p, false);
}

static struct value cut_space_right(struct pieces *p, uint64_t most)
{
    const struct text *text = p->text;
    size_t at = text->bytes;
    for (;;) {
        while (at > 0 && space_at(text, point_before(text, at)))
            at = point_before(text, at);
        if (at == 0)
            break;
        size_t to = at;
        if (p->count >= most) {
            pieces_add(p, 0, to);
            break;
        }
        while (at > 0 && !space_at(text, point_before(text, at)))
            at = point_before(text, at);
        pieces_add(p, at, to);
    }
    return pieces_list(p, true);
}

struct value text_cut(struct machine *m, const struct text *text, const struct text *by,
                      int64_t most, bool from_right)
{
    struct pieces p = {.m = m, .text = text};
    uint64_t limit = most < 0 ? UINT64_MAX : (uint64_t)most;
    machine_spend(m, text->bytes / 16);
    if (by == NULL)
        return from_right ? cut_space_right(&p, limit) : cut_space(&p, limit);
    if (by->bytes == 0)
        machine_fail(m, ERR_BAD_INPUT, "empty separator");
    size_t from = 0, to = text->bytes;
    while (p.count < limit) {
        size_t found = TEXT_NOT_FOUND;
        if (from_right) {
            found = text_find_last(m, text, by, 0, to);
        } else {
            const char *place = memmem(text->data + from, to - from, by->data, by->bytes);
            if (place != NULL)
                found = (size_t)(place - text->data);
        }
        if (found == TEXT_NOT_FOUND)
            break;
        if (from_right) {
            pieces_add(&p, found + by->bytes, to);
            to = found;
        } else {
            pieces_add(&p, from, found);
            from = found + by->bytes;
        }
    }
    pieces_add(&p, from, to);
    return pieces_list(&p, from_right);
}

struct value text_lines(struct machine *m, const struct text *text, bool keep_ends)
{
    struct pieces p = {.m = m, .text = text};
    size_t from = 0;
    machine_spend(m, text->bytes / 16);
    for (size_t at = 0; at < text->bytes;) {
        size_t end = at;
        uint32_t point = text_next(text->data, &at);
        if (!point_is_line_end(point))
            continue;
        if (point == '\r' && at < text->bytes && text->data[at] == '\n')
            at++;
        pieces_add(&p, from, keep_ends ? at : end);
        from = at;
    }
    if (from < text->bytes)
        pieces_add(&p, from, text->bytes);
    return pieces_list(&p, false);
}

const struct text *text_pad(struct machine *m, const struct text *text, int64_t width,
                            const struct text *fill, char side)
{
    int64_t missing = width - (int64_t)text->points;
    if (missing <= 0)
        return text;
    /* Where centering is uneven, the extra one goes left when the width is odd. */
    int64_t left = side == 'l' ? 0 : side == 'r' ? missing : missing / 2 + (missing & width & 1);
    const struct text *padded = text_repeat(m, fill, left);
    padded = text_join(m, padded, text_marked(m, text, false));
    padded = text_join(m, padded, text_repeat(m, fill, missing - left));
    return text_marked(m, padded, text->markup);
}
