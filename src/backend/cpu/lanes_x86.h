/* backend/cpu/lanes_x86.h - vectors of LANES floats for kernels_lanes.h: 16 with AVX-512, 8 with
 * AVX2 and FMA. Another instruction set is another file like this one.
 *
 * Every operation rounds as the scalar one does. lanes_max and lanes_min answer the second operand
 * for NaN. Only files named for these instructions may include it.
 */
#ifndef BACKEND_CPU_LANES_X86_H
#define BACKEND_CPU_LANES_X86_H

#include <immintrin.h>
#include <stdint.h>

#include "backend/cpu/unroll.h"

#if defined(__AVX512F__)

#define LANES 16
typedef __m512 lanes_f;
typedef __m512i lanes_i;
#define lanes_zero() _mm512_setzero_ps()
#define lanes_set(x) _mm512_set1_ps(x)
#define lanes_load(p) _mm512_loadu_ps(p)
#define lanes_store(p, v) _mm512_storeu_ps(p, v)
#define lanes_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define lanes_add(a, b) _mm512_add_ps(a, b)
#define lanes_sub(a, b) _mm512_sub_ps(a, b)
#define lanes_mul(a, b) _mm512_mul_ps(a, b)
#define lanes_div(a, b) _mm512_div_ps(a, b)
#define lanes_max(a, b) _mm512_max_ps(a, b)
#define lanes_min(a, b) _mm512_min_ps(a, b)
/* a where x >= y, else zero */
#define lanes_where_not_below(x, y, a) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), a)
#define lanes_round(x) _mm512_cvtps_epi32(x)
#define lanes_float(i) _mm512_cvtepi32_ps(i)
#define lanes_cast(i) _mm512_castsi512_ps(i)
#define lanes_i_set(x) _mm512_set1_epi32(x)
#define lanes_i_load(p) _mm512_loadu_si512(p)
#define lanes_i_add(a, b) _mm512_add_epi32(a, b)
#define lanes_i_sub(a, b) _mm512_sub_epi32(a, b)
#define lanes_i_and(a, b) _mm512_and_si512(a, b)
#define lanes_i_or(a, b) _mm512_or_si512(a, b)
#define lanes_i_right(a, n) _mm512_srli_epi32(a, (unsigned)(n))
#define lanes_i_left(a, n) _mm512_slli_epi32(a, (unsigned)(n))
#define lanes_from_half(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define lanes_set_half(bits) _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
#define lanes_from_brain(p)                                                                        \
    _mm512_castsi512_ps(_mm512_slli_epi32(                                                         \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))
#define lanes_i_from_u8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define lanes_i_from_s8(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define lanes_to_half(p, v)                                                                        \
    _mm256_storeu_si256((__m256i *)(void *)(p),                                                    \
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

#elif defined(__AVX2__)

#define LANES 8
typedef __m256 lanes_f;
typedef __m256i lanes_i;
#define lanes_zero() _mm256_setzero_ps()
#define lanes_set(x) _mm256_set1_ps(x)
#define lanes_load(p) _mm256_loadu_ps(p)
#define lanes_store(p, v) _mm256_storeu_ps(p, v)
#define lanes_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define lanes_add(a, b) _mm256_add_ps(a, b)
#define lanes_sub(a, b) _mm256_sub_ps(a, b)
#define lanes_mul(a, b) _mm256_mul_ps(a, b)
#define lanes_div(a, b) _mm256_div_ps(a, b)
#define lanes_max(a, b) _mm256_max_ps(a, b)
#define lanes_min(a, b) _mm256_min_ps(a, b)
#define lanes_where_not_below(x, y, a) _mm256_and_ps(_mm256_cmp_ps(x, y, _CMP_GE_OQ), a)
#define lanes_round(x) _mm256_cvtps_epi32(x)
#define lanes_float(i) _mm256_cvtepi32_ps(i)
#define lanes_cast(i) _mm256_castsi256_ps(i)
#define lanes_i_set(x) _mm256_set1_epi32(x)
#define lanes_i_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define lanes_i_add(a, b) _mm256_add_epi32(a, b)
#define lanes_i_sub(a, b) _mm256_sub_epi32(a, b)
#define lanes_i_and(a, b) _mm256_and_si256(a, b)
#define lanes_i_or(a, b) _mm256_or_si256(a, b)
#define lanes_i_right(a, n) _mm256_srli_epi32(a, (int)(n))
#define lanes_i_left(a, n) _mm256_slli_epi32(a, (int)(n))
#define lanes_from_half(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define lanes_set_half(bits) _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
#define lanes_from_brain(p)                                                                        \
    _mm256_castsi256_ps(_mm256_slli_epi32(                                                         \
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))
#define lanes_i_from_u8(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define lanes_i_from_s8(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define lanes_to_half(p, v)                                                                        \
    _mm_storeu_si128((__m128i *)(void *)(p),                                                       \
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))

#else
#error "compile this file for AVX2 and FMA at least"
#endif

/* Sixteen halves as floats. */
static ALWAYS_INLINE void lanes_store_halves(float *to, __m256i halves)
{
#if LANES == 16
    _mm512_storeu_ps(to, _mm512_cvtph_ps(halves));
#else
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
    _mm256_storeu_ps(to + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
#endif
}

static ALWAYS_INLINE __m128i lanes_load16(const void *from, size_t at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)((const uint8_t *)from + at));
}

/* Sixteen bytes at `at` of each of sixteen keys, turned round: to[i * 16 + t] = keys[t][at + i].
 * Each round interleaves a half with the other; after four, rows are columns. */
static ALWAYS_INLINE void lanes_turn_bytes(const void *const *keys, size_t at, int8_t *to)
{
    __m128i r[16], s[16];
    UNROLL
    for (int t = 0; t < 16; t++)
        r[t] = lanes_load16(keys[t], at);
    UNROLL
    for (int round = 0; round < 4; round++) {
        UNROLL
        for (int t = 0; t < 8; t++) {
            s[2 * t] = _mm_unpacklo_epi8(r[t], r[t + 8]);
            s[2 * t + 1] = _mm_unpackhi_epi8(r[t], r[t + 8]);
        }
        UNROLL
        for (int t = 0; t < 16; t++)
            r[t] = s[t];
    }
    UNROLL
    for (int i = 0; i < 16; i++)
        _mm_storeu_si128((__m128i *)(void *)(to + (size_t)i * 16), r[i]);
}

/* Dimensions d .. d + 8 of sixteen keys, turned round: dimension i of turned has a half of each
 * key, 0 .. 15. keys NULL: they lie side by side from first on, row_bytes each. They are turned as
 * halves, which takes half the shuffles that floats would. */
static ALWAYS_INLINE void lanes_turn(const void *const *keys, const uint8_t *first,
                                     size_t row_bytes, uint32_t d, __m256i turned[8])
{
    __m256i r[8], s[8];
    UNROLL
    for (size_t t = 0; t < 8; t++)
        r[t] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(
                lanes_load16(keys != NULL ? keys[t] : first + t * row_bytes, 2 * (size_t)d)),
            lanes_load16(keys != NULL ? keys[t + 8] : first + (t + 8) * row_bytes, 2 * (size_t)d),
            1);
    UNROLL
    for (int t = 0; t < 8; t += 2) {
        s[t] = _mm256_unpacklo_epi16(r[t], r[t + 1]);
        s[t + 1] = _mm256_unpackhi_epi16(r[t], r[t + 1]);
    }
    UNROLL
    for (int t = 0; t < 8; t += 4) {
        r[t] = _mm256_unpacklo_epi32(s[t], s[t + 2]);
        r[t + 1] = _mm256_unpackhi_epi32(s[t], s[t + 2]);
        r[t + 2] = _mm256_unpacklo_epi32(s[t + 1], s[t + 3]);
        r[t + 3] = _mm256_unpackhi_epi32(s[t + 1], s[t + 3]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        turned[i] = _mm256_unpacklo_epi64(r[i / 2], r[i / 2 + 4]);
        turned[i + 1] = _mm256_unpackhi_epi64(r[i / 2], r[i / 2 + 4]);
    }
}

/* Sixteen keys by eight dimensions as floats: to[i * 16 + t] = keys[t][d + i]. */
static ALWAYS_INLINE void lanes_turn_keys(const void *const *keys, uint32_t d, float *to)
{
    __m256i turned[8];
    lanes_turn(keys, NULL, 0, d, turned);
    UNROLL
    for (int i = 0; i < 8; i++)
        lanes_store_halves(to + (size_t)i * 16, turned[i]);
}

#if LANES == 8
/* The same as halves, which another load turns into floats: for those that are used once. Where
 * there are 16 lanes nobody has measured it. */
#define LANES_TURN_HALVES 1
static ALWAYS_INLINE void lanes_turn_halves(const void *const *keys, const uint8_t *first,
                                            size_t row_bytes, uint32_t d, uint16_t *to)
{
    __m256i turned[8];
    lanes_turn(keys, first, row_bytes, d, turned);
    UNROLL
    for (int i = 0; i < 8; i++)
        _mm256_storeu_si256((__m256i *)(void *)(to + (size_t)i * 16), turned[i]);
}
#endif

#endif
