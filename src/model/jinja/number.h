/* model/jinja/number.h - numbers to and from text, as Python writes and reads them. */
#ifndef MODEL_JINJA_NUMBER_H
#define MODEL_JINJA_NUMBER_H

#include "model/jinja/value.h"

#define NUMBER_BYTES 40

/* repr(float): the shortest digits that read back the same, "1e+16", "inf". Returns bytes. */
size_t real_print(double real, char to[NUMBER_BYTES]);

/* int(text, base), base 0 or 2 to 36; float(text). False when Python would raise ValueError.
 * An integer of more than 64 bits leaves. */
bool integer_parse(struct machine *m, const struct text *text, int base, int64_t *integer_out);
bool real_parse(struct machine *m, const struct text *text, double *real_out);

/* int(real): towards zero; leaves for what has no integer. */
int64_t real_truncate(struct machine *m, double real);

/* round(value, digits). */
struct value number_round(struct machine *m, struct value value, int64_t digits);

/* The arithmetic operators: '+', '-', '*', '/', 'D' for //, '%', 'P' for **. Both are numbers. */
struct value number_combine(struct machine *m, char op, struct value a, struct value b);

#endif
