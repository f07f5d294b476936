/* base/utf8.h - UTF-8 in bytes from outside, one character or one broken piece at a time.
 *
 * Strict: no overlong forms, no surrogates, nothing above U+10FFFF. A broken piece is the longest
 * beginning of a character that is there ("maximal subpart", Unicode 15, section 3.9), else one
 * byte, so that replacing every piece by one U+FFFD gives what decoders of the field give.
 *
 * Threads: any. Memory: none.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum utf8_kind {
    UTF8_WHOLE,  /* a character */
    UTF8_BROKEN, /* can't be or become one */
    UTF8_OPEN,   /* the bytes end within what may become one */
};

/* Bytes (1 .. 4) of the character or piece at at[0 .. left), left > 0. */
static inline unsigned utf8_take(const uint8_t *at, size_t left, enum utf8_kind *kind_out)
{
    uint8_t first = at[0];
    if (first < 0x80) {
        *kind_out = UTF8_WHOLE;
        return 1;
    }
    unsigned more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0xc2 || first > 0xf4) {
        *kind_out = UTF8_BROKEN;
        return 1;
    }
    for (unsigned i = 1; i <= more; i++) {
        if (i >= left) {
            *kind_out = UTF8_OPEN;
            return i;
        }
        if (at[i] < low || at[i] > high) {
            *kind_out = UTF8_BROKEN;
            return i;
        }
        low = 0x80;
        high = 0xbf;
    }
    *kind_out = UTF8_WHOLE;
    return more + 1;
}

/* The code point of a whole character of bytes bytes (1 .. 4). */
static inline uint32_t utf8_code_point(const uint8_t *at, unsigned bytes)
{
    if (bytes == 1)
        return at[0];
    uint32_t point = at[0] & (0x7fu >> bytes);
    for (unsigned i = 1; i < bytes; i++)
        point = point << 6 | (at[i] & 0x3fu);
    return point;
}

/* Length of the longest prefix that is valid UTF-8. */
static inline size_t utf8_valid_prefix(const uint8_t *at, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at + done, bytes - done, &kind);
        if (kind != UTF8_WHOLE)
            break;
        done += step;
    }
    return done;
}

#endif
