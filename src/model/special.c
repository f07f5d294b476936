#include "model/special.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

/* Byte order; what is a beginning of another comes first; of equals the lower id. */
static int spelling_order(const void *a, const void *b)
{
    const struct special_spelling *x = a, *y = b;
    uint32_t shared = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, shared);
    if (order != 0)
        return order;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

void special_open(struct special_spelling *spellings, uint32_t count, struct special_set *set_out)
{
    if (count > 0)
        qsort(spellings, count, sizeof(*spellings), spelling_order);
    set_out->spellings = spellings;
    set_out->count = count;
    uint32_t at = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        set_out->first[byte] = at;
        while (at < count && spellings[at].text[0] == byte) {
            assert(spellings[at].bytes > 0);
            at++;
        }
    }
    set_out->first[256] = at;
    assert(at == count);
}

void special_close(struct special_set *set)
{
    free(set->spellings);
    memset(set, 0, sizeof(*set));
}

/* The first index in [low, high) whose byte at depth is at least byte (longer than depth, all). */
static uint32_t range_bound(const struct special_set *set, uint32_t low, uint32_t high,
                            uint32_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->spellings[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest spelling at text[0 .. left), or NULL. */
static const struct special_spelling *longest_at(const struct special_set *set, const uint8_t *text,
                                                 size_t left)
{
    uint32_t low = set->first[text[0]], high = set->first[text[0] + 1u];
    const struct special_spelling *found = NULL;
    for (uint32_t depth = 1; low < high; depth++) {
        /* The range agrees with the text in depth bytes. Those that end here sort first. */
        if (set->spellings[low].bytes == depth)
            found = &set->spellings[low];
        while (low < high && set->spellings[low].bytes == depth)
            low++;
        if (depth >= left)
            break;
        unsigned byte = text[depth];
        low = range_bound(set, low, high, depth, byte);
        high = range_bound(set, low, high, depth, byte + 1);
    }
    return found;
}

/* Unicode White_Space. */
static bool is_space(uint32_t point)
{
    return (point >= 9 && point <= 13) || point == ' ' || point == 0x85 || point == 0xa0 ||
           point == 0x1680 || (point >= 0x2000 && point <= 0x200a) || point == 0x2028 ||
           point == 0x2029 || point == 0x202f || point == 0x205f || point == 0x3000;
}

/* Bytes of the space at the start of text, or 0. */
static unsigned space_at(const uint8_t *text, size_t left)
{
    enum utf8_kind kind = UTF8_BROKEN;
    unsigned step = left > 0 ? utf8_take(text, left, &kind) : 0;
    return kind == UTF8_WHOLE && is_space(utf8_code_point(text, step)) ? step : 0;
}

static void match_strip(const struct special_spelling *found, const uint8_t *text, size_t bytes,
                        size_t from, struct special_match *match)
{
    while ((found->strip & TOKEN_STRIP_LEFT) != 0 && match->start > from) {
        size_t start = match->start - 1;
        while (start > from && (text[start] & 0xc0) == 0x80)
            start--;
        if (space_at(text + start, match->start - start) != match->start - start)
            break;
        match->start = start;
    }
    while ((found->strip & TOKEN_STRIP_RIGHT) != 0) {
        unsigned space = space_at(text + match->end, bytes - match->end);
        if (space == 0)
            break;
        match->end += space;
    }
}

bool special_find(const struct special_set *set, const char *text, size_t bytes, size_t from,
                  struct special_match *match_out)
{
    if (set->count == 0)
        return false;
    const uint8_t *at = (const uint8_t *)text;
    for (size_t i = from; i < bytes; i++) {
        if (set->first[at[i]] == set->first[at[i] + 1u])
            continue;
        const struct special_spelling *found = longest_at(set, at + i, bytes - i);
        if (found != NULL) {
            *match_out = (struct special_match){i, i + found->bytes, found->id};
            match_strip(found, at, bytes, from, match_out);
            return true;
        }
    }
    return false;
}
