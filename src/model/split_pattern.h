/* model/split_pattern.h - a pattern of tokenizer.json, written for Oniguruma, as one for PCRE2.
 *
 *     "\s+(?!\S)|\s+"   ->   "[\t-\r \x{85}...]+(?![^\t-\r \x{85}...])|..."
 *
 * The two agree but for a few escapes. Those that mean the same are taken over, \s, \S, \d, \D and
 * \v are written out, and everything else (\w, \b, ^, $, sets within sets, references, conditions)
 * is refused by name: a pattern that would cut differently is worse than none.
 *
 * Threads: any. Memory: the result is the caller's, from malloc.
 * Source:  Oniguruma's doc/RE, Ruby syntax with Unicode; pcre2pattern(3).
 */
#ifndef MODEL_SPLIT_PATTERN_H
#define MODEL_SPLIT_PATTERN_H

#include <stddef.h>

#include "base/status.h"

#define SPLIT_PATTERN_BYTES_MAX 4096u

/* Unicode White_Space, inside a class. PCRE2's own \s takes U+180E as well, which has not been a
 * space since Unicode 6.3. */
#define PATTERN_SPACE                                                                              \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Errors: ERR_UNSUPPORTED (with the construct), ERR_BAD_INPUT (length), ERR_NO_MEMORY. */
status split_pattern_translate(const char *pattern, size_t bytes, char **translated_out);

/* A pattern for exactly this text. Errors: ERR_BAD_INPUT, ERR_NO_MEMORY. */
status split_pattern_literal(const char *text, size_t bytes, char **pattern_out);

#endif
