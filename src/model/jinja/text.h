/* model/jinja/text.h - strings as templates see them: UTF-8 inside, code points outside.
 *
 * Lengths, indices and slices that a template sees count code points; data and bytes are UTF-8 that
 * was checked when it came in. A text never changes; pieces of one share its bytes.
 *
 *     data -> [ h ][ c3 a9 ][ y ]     bytes = 4, points = 3
 *
 * Case and classes follow Unicode as Python's str does: case by utf8proc, with the unconditional
 * special casings (text_case.c) and the final sigma. Assigned characters may differ by Unicode
 * version.
 *
 * Memory: data may lie outside the arena (the template's, the request's variables): whoever owns it
 * must keep it until the render is over.
 */
#ifndef MODEL_JINJA_TEXT_H
#define MODEL_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/jinja/machine.h"

struct text_tail;

struct text {
    const char *data;
    size_t bytes, points;
    struct text_tail *tail; /* set when the text was joined: where the next may be appended */
    bool markup;            /* made by the safe or escape filter: what is added gets escaped */
};

enum text_case { TEXT_UPPER, TEXT_LOWER, TEXT_TITLE, TEXT_CAPITALIZE, TEXT_SWAP };
enum text_strip { TEXT_STRIP_LEFT = 1, TEXT_STRIP_RIGHT = 2, TEXT_STRIP_BOTH = 3 };

#define TEXT_NOT_FOUND SIZE_MAX

/* True when bytes are UTF-8 without surrogates and overlong forms. */
bool text_valid(const char *data, size_t bytes);

/* A text over data, which is not copied. */
const struct text *text_over(struct machine *m, const char *data, size_t bytes);
const struct text *text_of(struct machine *m, const char *terminated);
/* A text over a copy. */
const struct text *text_copy(struct machine *m, const char *data, size_t bytes);
/* The same bytes with the mark set or taken away. */
const struct text *text_marked(struct machine *m, const struct text *text, bool markup);
/* bytes from .. to, keeping the mark. */
const struct text *text_piece(struct machine *m, const struct text *text, size_t from, size_t to);

/* left and right; appends in place when left was the last one joined, so that building a text in a
 * loop costs its length once. */
const struct text *text_join(struct machine *m, const struct text *left, const struct text *right);
const struct text *text_repeat(struct machine *m, const struct text *text, int64_t times);
const struct text *text_escape(struct machine *m, const struct text *text);

/* The code point at *at, which moves on. at < end. */
uint32_t text_next(const char *data, size_t *at);
size_t text_append(char *to, uint32_t point); /* 1 to 4 bytes */
/* Where the point-th code point starts; points or more is bytes. */
size_t text_offset(struct machine *m, const struct text *text, size_t point);
/* How many code points the first bytes bytes hold. */
size_t text_points(const char *data, size_t bytes);

bool text_equal(const struct text *a, const struct text *b);
bool text_is(const struct text *text, const char *terminated);
int text_compare(const struct text *a, const struct text *b);
/* Byte offset of the first (last) place at or after from, ending at or before to. */
size_t text_find(struct machine *m, const struct text *in, const struct text *what, size_t from,
                 size_t to);
size_t text_find_last(struct machine *m, const struct text *in, const struct text *what,
                      size_t from, size_t to);

/* chars NULL: white space. */
const struct text *text_strip(struct machine *m, const struct text *text, const struct text *chars,
                              enum text_strip sides);
const struct text *text_replace(struct machine *m, const struct text *text, const struct text *old,
                                const struct text *new, int64_t most);
const struct text *text_reverse(struct machine *m, const struct text *text);
const struct text *text_to_case(struct machine *m, const struct text *text, enum text_case to);

bool point_is_space(uint32_t point);
bool point_is_line_end(uint32_t point);
bool point_is_printable(uint32_t point);
bool point_is_upper(uint32_t point);
bool point_is_lower(uint32_t point);
bool point_is_title(uint32_t point);
bool point_is_alpha(uint32_t point);
bool point_is_alnum(uint32_t point);
bool point_is_digit(uint32_t point);
bool point_is_numeric(uint32_t point);
bool point_is_decimal(uint32_t point);

#endif
