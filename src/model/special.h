/* model/special.h - finds tokens that are spelled out in text, before anything else is done to it.
 *
 *     "hi<|im_end|>\n"  ->  [0 .. 2) text, [2 .. 12) token 2, [12 .. 13) text
 *
 * The spellings are sorted; a match narrows the sorted range byte by byte, so a position costs
 * O(length of the match * log(spellings)), and nothing where no spelling begins with its byte.
 *
 * Threads: open and close by one; find by any. Memory: spellings are the caller's and must outlive
 * the set.
 */
#ifndef MODEL_SPECIAL_H
#define MODEL_SPECIAL_H

#include "model/tokenizer.h"

struct special_spelling {
    const uint8_t *text;
    uint32_t bytes; /* > 0 */
    uint32_t id;
    uint8_t strip; /* TOKEN_STRIP_LEFT, TOKEN_STRIP_RIGHT */
};

struct special_set {
    struct special_spelling *spellings; /* [count] in byte order */
    uint32_t count;
    uint32_t first[257]; /* spellings that begin with byte b: first[b] .. first[b + 1] */
};

struct special_match {
    size_t start, end; /* in the text */
    uint32_t id;
};

/* Takes over spellings (from malloc), count of them in any order. */
void special_open(struct special_spelling *spellings, uint32_t count, struct special_set *set_out);
void special_close(struct special_set *set);

/* The leftmost spelling at or after from; of several that begin there the longest. The match
 * includes the spaces that the token strips, back to from. */
bool special_find(const struct special_set *set, const char *text, size_t bytes, size_t from,
                  struct special_match *match_out);

#endif
