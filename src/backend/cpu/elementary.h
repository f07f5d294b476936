/* backend/cpu/elementary.h - exp as every variant computes it, and sums in the fixed order.
 *
 *     n = round(x / ln 2), r = x - n ln 2 in two parts, |r| <= 0.347
 *     exp(x) = 2^n (1 + r + r^2/2! + ... + r^7/7!)      Horner with fma; error below 1 ulp
 *
 * x is first cut to EXP_LOW .. EXP_HIGH, where n keeps 2^n a normal number.
 *
 * Threads: any.
 */
#ifndef BACKEND_CPU_ELEMENTARY_H
#define BACKEND_CPU_ELEMENTARY_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

#define EXP_LOW (-87.0f)
#define EXP_HIGH 88.0f
#define EXP_LOG2E 0x1.715476p0f
#define EXP_LN2_HIGH 0x1.62e400p-1f
#define EXP_LN2_LOW 0x1.7f7d1cp-20f
#define EXP_C7 (1.0f / 5040)
#define EXP_C6 (1.0f / 720)
#define EXP_C5 (1.0f / 120)
#define EXP_C4 (1.0f / 24)
#define EXP_C3 (1.0f / 6)
#define EXP_C2 0.5f

static inline float exp_scalar(float x)
{
    x = x > EXP_LOW ? x : EXP_LOW;
    x = x < EXP_HIGH ? x : EXP_HIGH;
    int32_t n = (int32_t)lrintf(x * EXP_LOG2E);
    float r = fmaf(-(float)n, EXP_LN2_HIGH, x);
    r = fmaf(-(float)n, EXP_LN2_LOW, r);
    float p = EXP_C7;
    p = fmaf(p, r, EXP_C6);
    p = fmaf(p, r, EXP_C5);
    p = fmaf(p, r, EXP_C4);
    p = fmaf(p, r, EXP_C3);
    p = fmaf(p, r, EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * float_from_bits((uint32_t)(n + 127) << 23);
}

/* exp for weights of a softmax, x <= 0: zero below SOFTMAX_CUT (kernels.h). */
static inline float exp_weight(float x, float cut)
{
    return x >= cut ? exp_scalar(x) : 0.0f;
}

static inline float sum_merge(float partial[16])
{
    for (int width = 8; width >= 1; width /= 2)
        for (int i = 0; i < width; i++)
            partial[i] += partial[i + width];
    return partial[0];
}

#endif
