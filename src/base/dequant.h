/* base/dequant.h - a stored row of numbers as floats: the reference that every kernel is held to.
 *
 *     Q8_0 Q4_0   value = scale * q           32 values a group, f16 scale
 *     Q4_1        value = scale * q + minimum 32 values a group, f16 scale and minimum
 *     Q4_K Q5_K   value = (d * s) * q - (dmin * m)   256 a group, a 6-bit s and m for each 32
 *     Q6_K        value = (d * s) * q         256 a group, an 8-bit s for each 16
 *
 * Each value is computed in float in exactly the order of operations written above, which is also
 * that of the gguf Python package, so results compare bit for bit.
 *
 * Threads: any. Memory: the caller's. Source: ggml's block formats (GGUF specification).
 */
#ifndef BASE_DEQUANT_H
#define BASE_DEQUANT_H

#include <stddef.h>

#include "base/dtype.h"

/* count values of a row that lies packed at row (any alignment); count is a multiple of
 * dtype_group(type). Writes count floats. */
void dequant_row(enum dtype type, const void *row, size_t count, float *out);

#endif
