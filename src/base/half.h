/* base/half.h - f16 and bf16 to float and back, exactly.
 *
 *     f16   1 sign, 5 exponent, 10 fraction     bf16   the upper half of a float
 *
 * Widening is exact. Narrowing rounds to nearest, ties to even, overflows to infinity and keeps NaN
 * a (quiet) NaN: bit for bit what F16C, AVX-512 BF16 and GPUs do, so that a fast kernel may be
 * compared with these by memcmp. The one difference: bf16 keeps subnormal numbers here.
 *
 * Threads: any.
 * Source:  IEEE 754-2019, binary16.
 */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline float f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1f) /* infinity or NaN, which becomes quiet */
        return float_from_bits(sign | 0x7f800000u | fraction << 13 |
                               (fraction != 0 ? 0x400000u : 0));
    if (exponent != 0)
        return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    /* Zero or subnormal: fraction * 2^-24 is exact in a float. */
    float magnitude = (float)fraction * 0x1p-24f;
    return float_from_bits(sign | float_bits(magnitude));
}

static inline uint16_t f32_to_f16(float value)
{
    uint32_t bits = float_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN: quiet, upper fraction bits kept */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and up round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 the result counts units of 2^-24, which are the last places of 0.5: the
         * addition rounds to nearest even in hardware. */
        float sum = float_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_bits(sum) - 0x3f000000u));
    }
    uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

static inline float bf16_to_f32(uint16_t brain)
{
    return float_from_bits((uint32_t)brain << 16);
}

static inline uint16_t f32_to_bf16(float value)
{
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
