/* backend/cpu/lanes_neon.h - vectors of 4 floats for kernels_lanes.h, with the NEON that every
 * AArch64 has. Another file like lanes_x86.h: every operation rounds as the scalar one does, and
 * lanes_max and lanes_min answer the second operand for NaN.
 *
 * Memory is read and written by the byte: nothing here needs alignment.
 */
#ifndef BACKEND_CPU_LANES_NEON_H
#define BACKEND_CPU_LANES_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/unroll.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lanes lie as memory does");

#define LANES 4
typedef float32x4_t lanes_f;
typedef int32x4_t lanes_i;
#define lanes_zero() vdupq_n_f32(0.0f)
#define lanes_set(x) vdupq_n_f32(x)
#define lanes_load(p) vld1q_f32(p)
#define lanes_store(p, v) vst1q_f32(p, v)
#define lanes_fma(a, b, c) vfmaq_f32(c, a, b)
#define lanes_add(a, b) vaddq_f32(a, b)
#define lanes_sub(a, b) vsubq_f32(a, b)
#define lanes_mul(a, b) vmulq_f32(a, b)
#define lanes_div(a, b) vdivq_f32(a, b)
#define lanes_round(x) vcvtnq_s32_f32(x)
#define lanes_float(i) vcvtq_f32_s32(i)
#define lanes_cast(i) vreinterpretq_f32_s32(i)
#define lanes_i_set(x) vdupq_n_s32(x)
#define lanes_i_load(p) vreinterpretq_s32_u8(neon_bytes(p))
#define lanes_i_add(a, b) vaddq_s32(a, b)
#define lanes_i_sub(a, b) vsubq_s32(a, b)
#define lanes_i_and(a, b) vandq_s32(a, b)
#define lanes_i_or(a, b) vorrq_s32(a, b)
/* Operators, as the shifts by an immediate want a literal, and those by a register a vector. */
#define lanes_i_right(a, n) vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) >> (uint32_t)(n))
#define lanes_i_left(a, n) vreinterpretq_s32_u32(vreinterpretq_u32_s32(a) << (uint32_t)(n))
#define lanes_from_half(p) vcvt_f32_f16(vreinterpret_f16_u8(neon_eight(p)))
#define lanes_set_half(bits) vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)))
#define lanes_from_brain(p)                                                                        \
    vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vreinterpret_u16_u8(neon_eight(p))), 16))
#define lanes_to_half(p, v) vst1_u8((uint8_t *)(void *)(p), vreinterpret_u8_f16(vcvt_f16_f32(v)))

static ALWAYS_INLINE uint8x16_t neon_bytes(const void *from)
{
    return vld1q_u8(from);
}

static ALWAYS_INLINE uint8x8_t neon_eight(const void *from)
{
    return vld1_u8(from);
}

static ALWAYS_INLINE uint8x8_t neon_four(const void *from)
{
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return vreinterpret_u8_u32(vdup_n_u32(four));
}

/* FMAX answers NaN for any NaN, FMAXNM the other operand, and both tell zeros by their signs. */
static ALWAYS_INLINE lanes_f lanes_max(lanes_f a, lanes_f b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static ALWAYS_INLINE lanes_f lanes_min(lanes_f a, lanes_f b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

/* a where x >= y, else zero */
static ALWAYS_INLINE lanes_f lanes_where_not_below(lanes_f x, lanes_f y, lanes_f a)
{
    return vreinterpretq_f32_u32(vandq_u32(vcgeq_f32(x, y), vreinterpretq_u32_f32(a)));
}

static ALWAYS_INLINE lanes_i lanes_i_from_u8(const void *from)
{
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(neon_four(from)))));
}

static ALWAYS_INLINE lanes_i lanes_i_from_s8(const void *from)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(neon_four(from)))));
}

/* Sixteen bytes at `at` of each of sixteen keys, turned round: to[i * 16 + t] = keys[t][at + i].
 * Each round interleaves a half with the other; after four, rows are columns. */
static ALWAYS_INLINE void lanes_turn_bytes(const void *const *keys, size_t at, int8_t *to)
{
    uint8x16_t r[16], s[16];
    UNROLL
    for (int t = 0; t < 16; t++)
        r[t] = neon_bytes((const uint8_t *)keys[t] + at);
    UNROLL
    for (int round = 0; round < 4; round++) {
        UNROLL
        for (int t = 0; t < 8; t++) {
            s[2 * t] = vzip1q_u8(r[t], r[t + 8]);
            s[2 * t + 1] = vzip2q_u8(r[t], r[t + 8]);
        }
        UNROLL
        for (int t = 0; t < 16; t++)
            r[t] = s[t];
    }
    UNROLL
    for (int i = 0; i < 16; i++)
        vst1q_s8(to + (size_t)i * 16, vreinterpretq_s8_u8(r[i]));
}

/* Eight keys by eight dimensions as halves: row t of r becomes dimension t. Pairs of rows change
 * places of 16 bits, pairs of pairs of 32, the halves of 64. */
static ALWAYS_INLINE void neon_turn_eight(uint16x8_t r[8])
{
    uint32x4_t s[8];
    uint64x2_t q[8];
    UNROLL
    for (int t = 0; t < 8; t += 2) {
        s[t] = vreinterpretq_u32_u16(vtrn1q_u16(r[t], r[t + 1]));
        s[t + 1] = vreinterpretq_u32_u16(vtrn2q_u16(r[t], r[t + 1]));
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        int t = i / 2 * 4 + i % 2;
        q[t] = vreinterpretq_u64_u32(vtrn1q_u32(s[t], s[t + 2]));
        q[t + 2] = vreinterpretq_u64_u32(vtrn2q_u32(s[t], s[t + 2]));
    }
    UNROLL
    for (int t = 0; t < 4; t++) {
        r[t] = vreinterpretq_u16_u64(vtrn1q_u64(q[t], q[t + 4]));
        r[t + 4] = vreinterpretq_u16_u64(vtrn2q_u64(q[t], q[t + 4]));
    }
}

/* Sixteen keys by eight dimensions, turned round: to[d * 16 + t] = keys[t][d]. They are turned as
 * halves, which takes half the shuffles that floats would. */
static ALWAYS_INLINE void lanes_turn_keys(const void *const *keys, uint32_t d, float *to)
{
    UNROLL
    for (int half = 0; half < 2; half++, to += 8) {
        uint16x8_t r[8];
        UNROLL
        for (int t = 0; t < 8; t++)
            r[t] = vreinterpretq_u16_u8(
                neon_bytes((const uint8_t *)keys[half * 8 + t] + 2 * (size_t)d));
        neon_turn_eight(r);
        UNROLL
        for (int i = 0; i < 8; i++) {
            float16x8_t halves = vreinterpretq_f16_u16(r[i]);
            vst1q_f32(to + (size_t)i * 16, vcvt_f32_f16(vget_low_f16(halves)));
            vst1q_f32(to + (size_t)i * 16 + 4, vcvt_high_f32_f16(halves));
        }
    }
}

#endif
