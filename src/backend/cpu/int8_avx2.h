/* backend/cpu/int8_avx2.h - integer products with AVX2, eight outputs to a vector.
 *
 * maddubs multiplies u8 weights by s8 activations and adds pairs in 16 bits, saturating.
 * Activations are within +-127, so what a 16-bit sum can hold without ever saturating is
 *
 *     4-bit weights    8 x 2 x 15 x 127 = 30480     a whole group of 32
 *     Q5_K             4 x 2 x 31 x 127 = 31496     half a group
 *     Q6_K             2 x 2 x 63 x 127 = 32004     a quarter
 *     Q8_0             u8 weights of 255 would not fit twice; they go as two 4-bit halves, the
 * upper one's sum counted sixteenfold
 *
 * then madd widens it to 32 bits. So most steps cost one multiply and one add for 32 products.
 *
 * Included once, by kernels_avx2.c and by kernels_avx512.c.
 */
#include "backend/cpu/int8_quantize.h"

/* Keeps the compiler from turning a chain of sums into a tree, which needs more registers than
 * there are. The result is the same: integers. */
#define AVX2_KEEP(v) __asm__("" : "+x"(v))

/* The four bytes of lanes_quad for eight columns, whatever LANES is. */
static ALWAYS_INLINE __m256i avx2_load(const uint8_t *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

struct avx2_pair {
    __m256i low, high; /* quad j, and j + 4 */
};

static ALWAYS_INLINE struct avx2_pair avx2_quads(enum dtype type, const uint8_t *values,
                                                 const uint8_t *high, int j)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i both = avx2_load(values + j * 64);
    struct avx2_pair pair = {_mm256_and_si256(both, nibble),
                             _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)};
    if (type == DTYPE_Q5_K) {
        const __m256i bit = _mm256_set1_epi8(1);
        __m256i bits = avx2_load(high);
        __m256i low_bit = _mm256_and_si256(_mm256_srli_epi16(bits, j), bit);
        __m256i high_bit = _mm256_and_si256(_mm256_srli_epi16(bits, j + 4), bit);
        pair.low = _mm256_or_si256(pair.low, _mm256_slli_epi16(low_bit, 4));
        pair.high = _mm256_or_si256(pair.high, _mm256_slli_epi16(high_bit, 4));
    } else if (type == DTYPE_Q6_K) {
        const __m256i bits = _mm256_set1_epi8(3);
        __m256i low_bits = _mm256_and_si256(_mm256_srli_epi16(avx2_load(high), 2 * j), bits);
        __m256i high_bits = _mm256_and_si256(_mm256_srli_epi16(avx2_load(high + 64), 2 * j), bits);
        pair.low = _mm256_or_si256(pair.low, _mm256_slli_epi16(low_bits, 4));
        pair.high = _mm256_or_si256(pair.high, _mm256_slli_epi16(high_bits, 4));
    }
    return pair;
}

/* Dot products of a group: of all 32 k in low, or (Q6_K) of the first and last 16. */
static ALWAYS_INLINE void avx2_dots(enum dtype type, const uint8_t *values, const uint8_t *high,
                                    const int8_t *x, size_t x_stride, const uint32_t rows,
                                    __m256i *low_out, __m256i *high_out)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low[4], upper[4];
    UNROLL
    for (uint32_t r = 0; r < rows; r++)
        low[r] = upper[r] = _mm256_setzero_si256();

    if (type == DTYPE_Q8_0) {
        const __m256i nibble = _mm256_set1_epi8(15);
        UNROLL
        for (int quad = 0; quad < 8; quad++) {
            __m256i w = avx2_load(values + quad * 64);
            __m256i w_low = _mm256_and_si256(w, nibble);
            __m256i w_high = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                __m256i four = _mm256_set1_epi32(int8_four(x + r * x_stride + 4 * quad));
                low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(w_low, four));
                upper[r] = _mm256_add_epi16(upper[r], _mm256_maddubs_epi16(w_high, four));
                AVX2_KEEP(low[r]);
                AVX2_KEEP(upper[r]);
            }
        }
        UNROLL
        for (uint32_t r = 0; r < rows; r++)
            low_out[r] = _mm256_add_epi32(_mm256_madd_epi16(low[r], ones),
                                          _mm256_madd_epi16(upper[r], _mm256_set1_epi16(16)));
        return;
    }

    const bool one_sum = type != DTYPE_Q5_K && type != DTYPE_Q6_K;
    UNROLL
    for (int j = 0; j < 4; j++) {
        struct avx2_pair w = avx2_quads(type, values, high, j);
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            const int8_t *at = x + r * x_stride + 4 * j;
            __m256i product = _mm256_maddubs_epi16(w.low, _mm256_set1_epi32(int8_four(at)));
            low[r] = _mm256_add_epi16(low[r], product);
            AVX2_KEEP(low[r]);
            product = _mm256_maddubs_epi16(w.high, _mm256_set1_epi32(int8_four(at + 16)));
            if (one_sum)
                low[r] = _mm256_add_epi16(low[r], product);
            else
                upper[r] = _mm256_add_epi16(upper[r], product);
            AVX2_KEEP(low[r]);
            AVX2_KEEP(upper[r]);
        }
        if (type != DTYPE_Q6_K || j % 2 == 0)
            continue;
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            __m256i first = _mm256_madd_epi16(low[r], ones);
            __m256i last = _mm256_madd_epi16(upper[r], ones);
            low_out[r] = j == 1 ? first : _mm256_add_epi32(low_out[r], first);
            high_out[r] = j == 1 ? last : _mm256_add_epi32(high_out[r], last);
            low[r] = upper[r] = _mm256_setzero_si256();
        }
    }
    if (type == DTYPE_Q6_K)
        return;
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        low_out[r] = _mm256_madd_epi16(low[r], ones);
        if (!one_sum)
            low_out[r] = _mm256_add_epi32(low_out[r], _mm256_madd_epi16(upper[r], ones));
    }
}

static ALWAYS_INLINE __m256 avx2_halves(const uint8_t *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

static ALWAYS_INLINE __m128i avx2_bytes(const uint8_t *from)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)from);
}

/* Scale and minimum of eight columns (scales points at the first's): what lanes_scale does. */
static ALWAYS_INLINE void avx2_scale(enum dtype type, const uint8_t *scales, uint32_t first,
                                     uint32_t part, __m256 *scale_out, __m256 *minimum_out)
{
    __m256 d = avx2_halves(scales + 2 * first);
    __m256 m = _mm256_setzero_ps();
    if (INT8_HAS_MINIMUM(type))
        m = avx2_halves(scales + 32 + 2 * first);
    if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
        const uint8_t *of_part = scales + 64 + part * 32 + first;
        __m256i minimums = _mm256_cvtepu8_epi32(avx2_bytes(of_part + 16));
        m = _mm256_mul_ps(_mm256_mul_ps(m, _mm256_cvtepi32_ps(minimums)), _mm256_set1_ps(-1.0f));
        d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(avx2_bytes(of_part))));
    } else if (type == DTYPE_Q6_K) {
        const uint8_t *of_part = scales + 32 + part * 16 + first;
        d = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(avx2_bytes(of_part))));
    }
    *scale_out = d;
    *minimum_out = m;
}

static ALWAYS_INLINE __m256i avx2_less_zero(enum dtype type, __m256i dot, int32_t sum)
{
    if (type == DTYPE_Q8_0)
        return _mm256_sub_epi32(dot, _mm256_slli_epi32(_mm256_set1_epi32(sum), 7));
    if (type == DTYPE_Q4_0)
        return _mm256_sub_epi32(dot, _mm256_slli_epi32(_mm256_set1_epi32(sum), 3));
    if (type == DTYPE_Q6_K)
        return _mm256_sub_epi32(dot, _mm256_slli_epi32(_mm256_set1_epi32(sum), 5));
    return dot;
}

/* Eight columns, from first on, of a panel. */
static ALWAYS_INLINE void avx2_rows(enum dtype type, const struct int8_place *p, uint32_t first,
                                    const uint32_t rows)
{
    __m256 sum[4];
    UNROLL
    for (uint32_t r = 0; r < rows; r++)
        sum[r] = _mm256_setzero_ps();

    for (uint32_t group = 0; group < p->groups; group++) {
        const uint8_t *scales =
            p->scales + group / INT8_GROUPS_PER_SCALE(type) * packed_scale_bytes(type);
        uint32_t part = type == DTYPE_Q6_K ? group % 8 * 2 : group % 8;
        if (first == 0)
            int8_prefetch(p, group);
        __m256i dot[4], dot_high[4];
        avx2_dots(type, p->values + group * packed_group_bytes(type) + first * 4,
                  p->high + group * packed_high_bytes(type) + first * 4, p->x + group * 32,
                  p->x_stride, rows, dot, dot_high);
        __m256 d, m, d_high = _mm256_setzero_ps();
        avx2_scale(type, scales, first, part, &d, &m);
        if (type == DTYPE_Q6_K)
            avx2_scale(type, scales, first, part + 1, &d_high, &m);
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            const struct quant_scale *s = p->x_scales + r * p->scale_stride + group;
            __m256 x_scale = _mm256_set1_ps(s->scale);
            int32_t x_sum = type == DTYPE_Q6_K ? s->sum_low : s->sum;
            __m256 exact = _mm256_cvtepi32_ps(avx2_less_zero(type, dot[r], x_sum));
            sum[r] = _mm256_fmadd_ps(exact, _mm256_mul_ps(d, x_scale), sum[r]);
            if (type == DTYPE_Q6_K) {
                exact = _mm256_cvtepi32_ps(avx2_less_zero(type, dot_high[r], s->sum - s->sum_low));
                sum[r] = _mm256_fmadd_ps(exact, _mm256_mul_ps(d_high, x_scale), sum[r]);
            }
            if (INT8_HAS_MINIMUM(type))
                sum[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(s->scaled_sum), sum[r]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++)
        _mm256_storeu_ps(p->c + r * p->c_stride + first, sum[r]);
}

static ALWAYS_INLINE uint32_t avx2_block(enum dtype type, const struct int8_place *p, uint32_t left)
{
    for (uint32_t first = 0; first < PANEL_COLUMNS; first += 8) {
        if (left >= 4)
            avx2_rows(type, p, first, 4);
        else if (left == 3)
            avx2_rows(type, p, first, 3);
        else if (left == 2)
            avx2_rows(type, p, first, 2);
        else
            avx2_rows(type, p, first, 1);
    }
    return left < 4 ? left : 4;
}

#define AVX2_PRODUCT(name, type)                                                                   \
    static uint32_t name##_block(const struct int8_place *p, uint32_t left)                        \
    {                                                                                              \
        return avx2_block(type, p, left);                                                          \
    }                                                                                              \
    INT8_PRODUCT(name, name##_block)

AVX2_PRODUCT(int8_product_q8_0, DTYPE_Q8_0)
AVX2_PRODUCT(int8_product_q4_0, DTYPE_Q4_0)
AVX2_PRODUCT(int8_product_q4_1, DTYPE_Q4_1)
AVX2_PRODUCT(int8_product_q4_k, DTYPE_Q4_K)
AVX2_PRODUCT(int8_product_q5_k, DTYPE_Q5_K)
AVX2_PRODUCT(int8_product_q6_k, DTYPE_Q6_K)

/* A multiply and an add in 16 bits, which is what most steps of a product cost. */
static uint64_t int8_peak(uint32_t rounds, float *sink_out)
{
    __m256i sums[6], weights[6], total = _mm256_setzero_si256();
    UNROLL
    for (int i = 0; i < 6; i++) {
        sums[i] = _mm256_set1_epi16((short)i);
        weights[i] = _mm256_set1_epi8((char)i);
    }
    for (uint32_t round = 0; round < rounds; round++) {
        UNROLL
        for (int i = 0; i < 6; i++) {
            AVX2_KEEP(weights[i]);
            sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(weights[i], weights[i]));
            AVX2_KEEP(sums[i]);
        }
    }
    UNROLL
    for (int i = 0; i < 6; i++)
        total = _mm256_add_epi16(total, sums[i]);
    *sink_out = (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(total));
    return (uint64_t)rounds * 6 * 32 * 2;
}
