/* backend/cpu/bf16_class.h - the arithmetic of the class cpu-bf16, one number at a time.
 *
 * A product y = w x of bf16 numbers is summed in groups of 32 k, the last filled up with zeros:
 *
 *     even = fma(w[k], x[k], even)   k = 0, 2, .. 30 of the group, from zero
 *     odd  = fma(w[k], x[k], odd)    k = 1, 3, .. 31
 *     y    = y + (even + odd)
 *
 * Every operation is a float's, rounded to nearest even, with subnormal operands read as zeros and
 * subnormal results written as zeros: what a result is is decided after it is rounded as if
 * exponents had no end. That is TDPBF16PS as documented, with a whole tile of 32 k. VDPBF16PS has
 * the same operation, one product after the other on one sum: given k = 0 and 2 as a pair it is two
 * steps of even. And multiply-adds of any x86 do the same with both flush bits of MXCSR set.
 *
 * Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, both
 * instructions.
 */
#ifndef BACKEND_CPU_BF16_CLASS_H
#define BACKEND_CPU_BF16_CLASS_H

#include <math.h>

#include "base/half.h"

#define BF16_LEAST 0x1p-126f /* the smallest float that is not subnormal */

static inline float bf16_flush(float value)
{
    return fabsf(value) < BF16_LEAST ? copysignf(0.0f, value) : value;
}

static inline float bf16_fma(float a, float b, float c)
{
    a = bf16_flush(a);
    b = bf16_flush(b);
    c = bf16_flush(c);
    float sum = fmaf(a, b, c);
    /* A float has one place less just below BF16_LEAST than it would have without an end: what was
     * rounded up to it here may not have reached it. Only small numbers come so near. */
    if (fabsf(sum) == BF16_LEAST && fabsf(fmaf(a * 0x1p64f, b, c * 0x1p64f)) < 0x1p-62f)
        return copysignf(0.0f, sum);
    return bf16_flush(sum);
}

/* Sums that are subnormal are exact. */
static inline float bf16_add(float a, float b)
{
    return bf16_flush(bf16_flush(a) + bf16_flush(b));
}

/* VCVTNEPS2BF16. */
static inline uint16_t bf16_of(float value)
{
    return f32_to_bf16(bf16_flush(value));
}

#endif
