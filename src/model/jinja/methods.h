/* model/jinja/methods.h - methods of strings, lists and dicts, as Python's.
 *
 * str: capitalize center count endswith find format index isalnum isalpha isascii
 * isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition
 * removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
 * startswith strip swapcase title upper zfill. list and tuple: count index (copy). dict: get items
 * keys values copy. What changes a list or dict is refused, as transformers' sandbox refuses it.
 */
#ifndef MODEL_JINJA_METHODS_H
#define MODEL_JINJA_METHODS_H

#include "model/jinja/eval.h"

/* The method bound to value; undefined with a reason when the sandbox refuses it; ABSENT when the
 * value's type has no such method. */
struct value method_bind(struct machine *m, struct value value, const struct text *name);
struct value method_call(struct render *r, const struct method *method, const struct call *call);

/* Python has a method of this name, and it is not built here. */
bool method_is_unbuilt(const struct text *name);

/* str.format, and the % operator and the format filter; format.c. */
struct value text_format_fields(struct render *r, const struct text *format,
                                const struct call *call);
struct value text_percent(struct machine *m, const struct text *format, struct value arguments);

/* Cut at by (NULL: runs of white space) at most most times (negative: no limit), counted from the
 * left or the right: a list. */
struct value text_cut(struct machine *m, const struct text *text, const struct text *by,
                      int64_t most, bool from_right);
/* Split into lines as str.splitlines does: a list. */
struct value text_lines(struct machine *m, const struct text *text, bool keep_ends);
/* Fill up to width points: side 'l' keeps text left, 'r' right, 'c' in the middle. */
const struct text *text_pad(struct machine *m, const struct text *text, int64_t width,
                            const struct text *fill, char side);

#endif
