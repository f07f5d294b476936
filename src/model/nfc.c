#include "model/nfc.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "base/utf8.h"

/* Characters that stay as they are and join with nothing before them, in ranges that cover most
 * text: below U+0300, Cyrillic, kana, CJK, Hangul syllables, emoji. Text may be cut before them. */
static bool is_boundary(uint32_t point)
{
    return point < 0x300 || (point >= 0x400 && point < 0x483) ||
           (point >= 0x3041 && point <= 0x3096) || (point >= 0x30a1 && point <= 0x30fe) ||
           (point >= 0x4e00 && point <= 0x9fff) || (point >= 0xac00 && point <= 0xd7a3) ||
           (point >= 0x2010 && point <= 0x2027) || (point >= 0x3001 && point <= 0x3020) ||
           (point >= 0x1f300 && point <= 0x1faff);
}

bool nfc_is_sure(const char *text, size_t bytes)
{
    const uint8_t *at = (const uint8_t *)text;
    for (size_t i = 0; i < bytes;) {
        if (at[i] < 0xcc) { /* U+0000 .. U+02FF, and broken bytes, which stay */
            i++;
            continue;
        }
        enum utf8_kind kind;
        unsigned step = utf8_take(at + i, bytes - i, &kind);
        if (kind == UTF8_WHOLE && !is_boundary(utf8_code_point(at + i, step)))
            return false;
        i += step;
    }
    return true;
}

struct composing {
    char *text;
    size_t count, capacity;
};

static bool put(struct composing *out, const void *data, size_t bytes)
{
    if (bytes > out->capacity - out->count) {
        if (out->capacity > SIZE_MAX / 4 || bytes > out->capacity)
            return false;
        char *more = realloc(out->text, 2 * out->capacity);
        if (more == NULL)
            return false;
        out->text = more;
        out->capacity *= 2;
    }
    memcpy(out->text + out->count, data, bytes);
    out->count += bytes;
    return true;
}

/* Compose a valid span that ends at boundaries. */
static bool put_composed(struct composing *out, const uint8_t *span, size_t bytes,
                         size_t marks_longest)
{
    if (marks_longest > NFC_MARKS_MAX)
        return put(out, span, bytes);
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t count =
        utf8proc_map(span, (utf8proc_ssize_t)bytes, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    bool done = count >= 0 && put(out, composed, (size_t)count);
    free(composed);
    return done;
}

status nfc_compose(const char *text, size_t bytes, char **composed_out, size_t *bytes_out)
{
    const uint8_t *at = (const uint8_t *)text;
    /* A composed span is never longer than three times itself. */
    struct composing out = {.capacity = 3 * bytes + 64};
    out.text = malloc(out.capacity);
    bool done = out.text != NULL;
    size_t start = 0; /* of the span, a boundary */
    size_t marks = 0, marks_longest = 0;
    bool plain = true; /* the span holds boundary characters only */
    for (size_t i = 0; i < bytes && done;) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at + i, bytes - i, &kind);
        uint32_t point = kind == UTF8_WHOLE ? utf8_code_point(at + i, step) : 0;
        bool boundary = kind != UTF8_WHOLE || is_boundary(point);
        if (boundary) {
            done = plain ? put(&out, at + start, i - start)
                         : put_composed(&out, at + start, i - start, marks_longest);
            start = i;
            plain = true;
            marks = marks_longest = 0;
            if (kind != UTF8_WHOLE) { /* stays, and nothing joins it */
                done = done && put(&out, at + i, step);
                start = i + step;
            }
        } else {
            plain = false;
            const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)point);
            marks = property->combining_class != 0 ? marks + 1 : 0;
            if (marks > marks_longest)
                marks_longest = marks;
        }
        i += step;
    }
    if (done)
        done = plain ? put(&out, at + start, bytes - start)
                     : put_composed(&out, at + start, bytes - start, marks_longest);
    if (!done) {
        free(out.text);
        return error_set(ERR_NO_MEMORY, "no memory to normalise %zu bytes of text", bytes);
    }
    *composed_out = out.text;
    *bytes_out = out.count;
    return OK;
}
