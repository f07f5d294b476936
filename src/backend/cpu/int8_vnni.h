/* backend/cpu/int8_vnni.h - integer products with AVX-512 VNNI, sixteen outputs to a vector.
 *
 *     for each group of 32 k:   eight vectors of weights, u8 [16 columns][4 k]     in registers
 *         for each row:         eight dot-accumulates with 4 activations broadcast -> 16 x int32
 *                               to float, times both scales, added to the row's sums
 *
 * Few rows take the weights as they are packed. Many take them, and their own values, from where
 * int8_wide.h has laid them out.
 *
 * Included once, by kernels_vnni.c.
 */
#include "backend/cpu/int8_quantize.h"
#include "backend/cpu/int8_wide.h"

/* dot - zero * (sum of the activations) */
static ALWAYS_INLINE __m512i vnni_less_zero(enum dtype type, __m512i dot, int32_t sum)
{
    if (type == DTYPE_Q8_0)
        return _mm512_sub_epi32(dot, _mm512_slli_epi32(_mm512_set1_epi32(sum), 7));
    if (type == DTYPE_Q4_0)
        return _mm512_sub_epi32(dot, _mm512_slli_epi32(_mm512_set1_epi32(sum), 3));
    if (type == DTYPE_Q6_K)
        return _mm512_sub_epi32(dot, _mm512_slli_epi32(_mm512_set1_epi32(sum), 5));
    return dot;
}

static ALWAYS_INLINE void vnni_rows(enum dtype type, const struct int8_place *p,
                                    const uint32_t rows)
{
    __m512 sum[16];
    UNROLL
    for (uint32_t r = 0; r < rows; r++)
        sum[r] = _mm512_setzero_ps();

    for (uint32_t group = 0; group < p->groups; group++) {
        struct packed_group at = packed_group_at(type, p->panel, group);
        uint32_t part = type == DTYPE_Q6_K ? group % 8 * 2 : group % 8;
        if (p->ahead)
            int8_prefetch(type, p, group);
        __m512 d, m, d_high = _mm512_setzero_ps();
        lanes_scale(type, at.scales, part, 0, &d, &m);
        if (type == DTYPE_Q6_K)
            lanes_scale(type, at.scales, part + 1, 0, &d_high, &m);
        __m512i w[8];
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++)
            w[quad] = lanes_quad(type, at.values, at.high, quad, 0);

        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            const int8_t *x = p->x + r * p->x_stride + group * 32;
            const struct quant_scale *s = p->x_scales + r * p->scale_stride + group;
            __m512i dot = _mm512_setzero_si512(), dot_high = _mm512_setzero_si512();
            UNROLL
            for (uint32_t quad = 0; quad < 4; quad++)
                dot = _mm512_dpbusd_epi32(dot, w[quad], _mm512_set1_epi32(int8_four(x + 4 * quad)));
            if (type != DTYPE_Q6_K)
                dot_high = dot;
            UNROLL
            for (uint32_t quad = 4; quad < 8; quad++)
                dot_high = _mm512_dpbusd_epi32(dot_high, w[quad],
                                               _mm512_set1_epi32(int8_four(x + 4 * quad)));
            __m512 x_scale = _mm512_set1_ps(s->scale);
            if (type == DTYPE_Q6_K) {
                dot = vnni_less_zero(type, dot, s->sum_low);
                dot_high = vnni_less_zero(type, dot_high, s->sum - s->sum_low);
                sum[r] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, x_scale), sum[r]);
                sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot_high),
                                         _mm512_mul_ps(d_high, x_scale), sum[r]);
                continue;
            }
            dot = vnni_less_zero(type, dot_high, s->sum);
            sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, x_scale), sum[r]);
            if (INT8_HAS_MINIMUM(type))
                sum[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(s->scaled_sum), sum[r]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++)
        _mm512_storeu_ps(p->c + r * p->c_stride, sum[r]);
}

static ALWAYS_INLINE uint32_t vnni_block(enum dtype type, const struct int8_place *p, uint32_t left)
{
    if (left >= 16) {
        vnni_rows(type, p, 16);
        return 16;
    }
    if (left >= 8) {
        vnni_rows(type, p, 8);
        return 8;
    }
    if (left >= 4) {
        vnni_rows(type, p, 4);
        return 4;
    }
    if (left == 3) {
        vnni_rows(type, p, 3);
        return 3;
    }
    if (left == 2) {
        vnni_rows(type, p, 2);
        return 2;
    }
    vnni_rows(type, p, 1);
    return 1;
}

/* ---- many rows ------------------------------------------------------------------------------- */

/* A dot-accumulate whose activations are broadcast by the instruction itself. The compilers load
 * them into registers of their own first, an instruction more for each: it cost a quarter. */
#define VNNI_DOT(sum, weights, four)                                                               \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"                                                         \
            : "+v"(sum)                                                                            \
            : "v"(weights), "m"(*(const int32_t(*)[1])(const void *)(four)))

/* Rows first .. first + 7 of the block. Eight dot products (Q6_K: 4 x 2) run side by side: each
 * step of one waits for the step before it, and what waits takes room from what could begin. */
#define VNNI_WIDE_ROWS 8u
static ALWAYS_INLINE void vnni_wide(enum dtype type, const struct wide_block *b, uint32_t first)
{
    const uint32_t together = type == DTYPE_Q6_K ? 4 : 8;
    const struct wide_weights *w = b->weights;
    const struct wide_rows *x = b->rows;
    float *c = b->c + first * b->c_stride;
    uint32_t live = b->live - first;
    __m512 sum[VNNI_WIDE_ROWS];
    UNROLL
    for (uint32_t r = 0; r < VNNI_WIDE_ROWS; r++)
        sum[r] = b->add && r < live ? _mm512_loadu_ps(c + r * b->c_stride) : _mm512_setzero_ps();
    for (uint32_t i = 0; i < b->groups; i++, w++, x++) {
        const struct wide_scale *scales = x->scales + first;
        __m512 d = _mm512_load_ps(w->d), m = _mm512_load_ps(w->m);
        UNROLL
        for (uint32_t r0 = 0; r0 < VNNI_WIDE_ROWS; r0 += together) {
            __m512i dot[8], high[8];
            UNROLL
            for (uint32_t r = 0; r < together; r++) {
                dot[r] = _mm512_set1_epi32(scales[r0 + r].less);
                high[r] = _mm512_set1_epi32(scales[r0 + r].less_high);
            }
            UNROLL
            for (uint32_t quad = 0; quad < 8; quad++) {
                __m512i weights = _mm512_load_si512(w->values[quad]);
                UNROLL
                for (uint32_t r = 0; r < together; r++) {
                    const int8_t *four = x->values[first + r0 + r] + 4 * quad;
                    if (type == DTYPE_Q6_K && quad >= 4)
                        VNNI_DOT(high[r], weights, four);
                    else
                        VNNI_DOT(dot[r], weights, four);
                }
            }
            UNROLL
            for (uint32_t r = 0; r < together; r++)
                sum[r0 + r] = wide_add(type, sum[r0 + r], dot[r], high[r], d, m, &scales[r0 + r]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < VNNI_WIDE_ROWS; r++)
        if (r < live)
            _mm512_storeu_ps(c + r * b->c_stride, sum[r]);
}

#define VNNI_MANY_ROWS 16u

#define VNNI_PRODUCT(name, type)                                                                   \
    static uint32_t name##_block(const struct int8_place *p, uint32_t left)                        \
    {                                                                                              \
        return vnni_block(type, p, left);                                                          \
    }                                                                                              \
    INT8_PRODUCT(name##_few, name##_block)                                                         \
    static void name##_wide(const struct wide_block *block)                                        \
    {                                                                                              \
        for (uint32_t first = 0; first < block->live; first += VNNI_WIDE_ROWS)                     \
            vnni_wide(type, block, first);                                                         \
    }                                                                                              \
    static void name(const struct int8_product *p)                                                 \
    {                                                                                              \
        if (p->rows >= VNNI_MANY_ROWS)                                                             \
            wide_product(type, p, name##_wide);                                                    \
        else                                                                                       \
            name##_few(p);                                                                         \
    }

VNNI_PRODUCT(int8_product_q8_0, DTYPE_Q8_0)
VNNI_PRODUCT(int8_product_q4_0, DTYPE_Q4_0)
VNNI_PRODUCT(int8_product_q4_1, DTYPE_Q4_1)
VNNI_PRODUCT(int8_product_q4_k, DTYPE_Q4_K)
VNNI_PRODUCT(int8_product_q5_k, DTYPE_Q5_K)
VNNI_PRODUCT(int8_product_q6_k, DTYPE_Q6_K)

#if !defined(TABLE_AMX)
static uint64_t int8_peak(uint32_t rounds, float *sink_out)
{
    __m512i sums[12], weights = _mm512_set1_epi8(3), total = _mm512_setzero_si512();
    UNROLL
    for (int i = 0; i < 12; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (uint32_t round = 0; round < rounds; round++) {
        UNROLL
        for (int i = 0; i < 12; i++)
            sums[i] = _mm512_dpbusd_epi32(sums[i], weights, weights);
    }
    UNROLL
    for (int i = 0; i < 12; i++)
        total = _mm512_add_epi32(total, sums[i]);
    *sink_out = (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(total));
    return (uint64_t)rounds * 12 * 64 * 2;
}
#endif
