/* http/text.h - text that is being written: it grows up to a limit and remembers a failure.
 *
 * Like a writer (base/bytes.h), nothing needs checking until the end: after a failure (limit
 * passed, no memory) every later call does nothing and text_ok is false.
 *
 * Threads: one at a time. Memory: the text owns its bytes until text_close; text_reset keeps them
 * for the next use.
 */
#ifndef HTTP_TEXT_H
#define HTTP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; /* bytes of it, and a NUL after them; NULL while nothing was written */
    size_t bytes;
    size_t capacity_bytes;
    size_t limit_bytes;
    bool failed;
};

/* An empty text that will hold limit_bytes at most. Takes no memory yet. */
struct text text_open(size_t limit_bytes);
void text_close(struct text *text);
void text_reset(struct text *text);
bool text_ok(const struct text *text);

void text_add(struct text *text, const char *data, size_t bytes);
void text_put(struct text *text, const char *word); /* up to its NUL */
void text_format(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD, one for each maximal
 * invalid run of a character; control characters are escaped. */
void text_json_string(struct text *text, const char *data, size_t bytes);

/* A JSON number with the shortest digits that read back as the same float; not finite: -9999 for
 * minus infinity (as the field's servers write a log probability of zero), null otherwise. */
void text_json_number(struct text *text, double value);

/* Length of the well-formed UTF-8 character at data (1 to 4), or 0 when there is none. */
size_t text_utf8_length(const char *data, size_t bytes);

/* True when all bytes are well-formed UTF-8 (no surrogates, no overlong forms). */
bool text_utf8_valid(const char *data, size_t bytes);

#endif
