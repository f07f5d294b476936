/* base/options_value.h - the text of one option's value, and the words that describe it.
 *
 * For options.c and options_help.c; other code includes base/options.h.
 *
 * Threads: any. Memory: nothing is kept; OPTION_TEXT stores the pointer it is given.
 */
#ifndef BASE_OPTIONS_VALUE_H
#define BASE_OPTIONS_VALUE_H

#include "base/options.h"

/* Parse text into the field that spec describes. OPTION_TEXTS is not a single value and is not
 * taken here. Errors: ERR_BAD_INPUT, "expected ..., found ...". */
status option_value_parse(const struct option_spec *spec, const char *text, void *options);

/* "a whole number from 1 to 1024", for messages. */
void option_value_expected(const struct option_spec *spec, char *text, size_t text_bytes);

/* "1 to 1024", or "" when there are no limits to show. */
void option_value_limits(const struct option_spec *spec, char *text, size_t text_bytes);

#endif
