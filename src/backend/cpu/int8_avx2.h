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

/* What a row's dot products of one group add to its sums. */
static ALWAYS_INLINE __m256 avx2_add(enum dtype type, __m256 sum, __m256i dot, __m256i dot_high,
                                     __m256 d, __m256 d_high, __m256 m, const struct quant_scale *s)
{
    __m256 x_scale = _mm256_set1_ps(s->scale);
    int32_t x_sum = type == DTYPE_Q6_K ? s->sum_low : s->sum;
    __m256 exact = _mm256_cvtepi32_ps(avx2_less_zero(type, dot, x_sum));
    sum = _mm256_fmadd_ps(exact, _mm256_mul_ps(d, x_scale), sum);
    if (type == DTYPE_Q6_K) {
        exact = _mm256_cvtepi32_ps(avx2_less_zero(type, dot_high, s->sum - s->sum_low));
        sum = _mm256_fmadd_ps(exact, _mm256_mul_ps(d_high, x_scale), sum);
    }
    if (INT8_HAS_MINIMUM(type))
        sum = _mm256_fmadd_ps(m, _mm256_set1_ps(s->scaled_sum), sum);
    return sum;
}

/* Quads whose products a 16-bit sum can hold. */
static ALWAYS_INLINE uint32_t avx2_flush(enum dtype type)
{
    return type == DTYPE_Q6_K ? 2 : type == DTYPE_Q5_K ? 4 : 8;
}

/* Q8_0 is two planes of 4 bits, and a sum for each. */
static ALWAYS_INLINE uint32_t avx2_planes(enum dtype type)
{
    return type == DTYPE_Q8_0 ? 2 : 1;
}

/* Vectors of columns at a time: with one plane and one sum there are registers for two. */
static ALWAYS_INLINE uint32_t avx2_vectors(enum dtype type, uint32_t rows)
{
    return avx2_flush(type) == 8 && rows * avx2_planes(type) <= 4 ? 2 : 1;
}

/* Where the rows of a block are. Pointers of their own that move on with the groups, so that every
 * address in the loop is one of them and a number known beforehand. */
struct avx2_x {
    const int8_t *values[4];
    const struct quant_scale *scales[4];
};

#define AVX2_KEEP_POINTER(p) __asm__("" : "+r"(p))

static ALWAYS_INLINE struct avx2_x avx2_x_at(const struct int8_place *p, uint32_t group,
                                             const uint32_t rows)
{
    struct avx2_x x;
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        x.values[r] = p->x + r * p->x_stride + group * 32;
        x.scales[r] = p->x_scales + r * p->scale_stride + group;
    }
    return x;
}

static ALWAYS_INLINE void avx2_x_next(struct avx2_x *x, const uint32_t rows)
{
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        x->values[r] += 32;
        x->scales[r]++;
        AVX2_KEEP_POINTER(x->values[r]);
        AVX2_KEEP_POINTER(x->scales[r]);
    }
}

static ALWAYS_INLINE __m256i avx2_four(const struct avx2_x *x, uint32_t r, uint32_t quad)
{
    return _mm256_set1_epi32(int8_four(x->values[r] + 4 * quad));
}

static ALWAYS_INLINE void avx2_accumulate(__m256i *sum, __m256i w, __m256i four)
{
    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, four));
    AVX2_KEEP(*sum);
}

/* The dot products of one group under way, for rows x vectors (sum s = r * vectors + v). */
struct avx2_dots {
    __m256i low[8];   /* 16-bit sums, of the first plane */
    __m256i upper[8]; /* of the second one */
    __m256i dot[8], dot_high[8];
};

static ALWAYS_INLINE void avx2_dots_begin(struct avx2_dots *dots, const uint32_t sums)
{
    UNROLL
    for (uint32_t s = 0; s < sums; s++)
        dots->low[s] = dots->upper[s] = _mm256_setzero_si256();
}

/* 16-bit sums into 32-bit ones, once so many quads are in that they might overflow. quads_done is
 * how many quads of the group are summed, this one included. */
static ALWAYS_INLINE void avx2_dots_flush(enum dtype type, struct avx2_dots *dots,
                                          const uint32_t quads_done, const uint32_t sums)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const uint32_t flush = avx2_flush(type);
    const bool second = type == DTYPE_Q6_K && quads_done > 4;
    const bool begins = quads_done == flush || (type == DTYPE_Q6_K && quads_done == 4 + flush);
    if (quads_done % flush != 0)
        return;
    UNROLL
    for (uint32_t s = 0; s < sums; s++) {
        __m256i wide = _mm256_madd_epi16(dots->low[s], ones);
        if (type == DTYPE_Q8_0)
            wide = _mm256_add_epi32(wide, _mm256_madd_epi16(dots->upper[s], _mm256_set1_epi16(16)));
        __m256i *to = second ? &dots->dot_high[s] : &dots->dot[s];
        *to = begins ? wide : _mm256_add_epi32(*to, wide);
        dots->low[s] = _mm256_setzero_si256();
    }
}

/* ---- few rows: weights as they are packed ---------------------------------------------------- */

/* Sums over the quads of a group. What is in the low nibbles comes first, so that quads are summed
 * in groups that can be flushed. */
static ALWAYS_INLINE void avx2_group(enum dtype type, const uint8_t *values, const uint8_t *high,
                                     const struct avx2_x *x, struct avx2_dots *dots,
                                     const uint32_t rows, const uint32_t vectors)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    avx2_dots_begin(dots, rows * vectors);
    if (type == DTYPE_Q8_0) {
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++) {
            UNROLL
            for (uint32_t v = 0; v < vectors; v++) {
                __m256i w = avx2_load(values + quad * 64 + v * 32);
                __m256i w_upper = _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble);
                w = _mm256_and_si256(w, nibble);
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    avx2_accumulate(&dots->low[r * vectors + v], w, avx2_four(x, r, quad));
                    avx2_accumulate(&dots->upper[r * vectors + v], w_upper, avx2_four(x, r, quad));
                }
            }
        }
        avx2_dots_flush(type, dots, 8, rows * vectors);
        return;
    }
    if (avx2_flush(type) == 8) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            UNROLL
            for (uint32_t v = 0; v < vectors; v++) {
                struct avx2_pair w = avx2_quads(type, values + v * 32, high, (int)j);
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    avx2_accumulate(&dots->low[r * vectors + v], w.low, avx2_four(x, r, j));
                    avx2_accumulate(&dots->low[r * vectors + v], w.high, avx2_four(x, r, j + 4));
                }
            }
        }
        avx2_dots_flush(type, dots, 8, rows * vectors);
        return;
    }
    UNROLL
    for (uint32_t quad = 0; quad < 8; quad++) { /* vectors is 1 */
        struct avx2_pair w = avx2_quads(type, values, high, (int)(quad % 4));
        UNROLL
        for (uint32_t r = 0; r < rows; r++)
            avx2_accumulate(&dots->low[r], quad < 4 ? w.low : w.high, avx2_four(x, r, quad));
        avx2_dots_flush(type, dots, quad + 1, rows);
    }
}

/* Columns first .. of a panel, all k. */
static ALWAYS_INLINE void avx2_rows(enum dtype type, const struct int8_place *p, uint32_t first,
                                    const uint32_t rows)
{
    const uint32_t vectors = avx2_vectors(type, rows);
    struct avx2_x x = avx2_x_at(p, 0, rows);
    struct avx2_dots dots;
    __m256 sum[8];
    UNROLL
    for (uint32_t s = 0; s < rows * vectors; s++)
        sum[s] = _mm256_setzero_ps();

    for (uint32_t group = 0; group < p->groups; group++) {
        struct packed_group at = packed_group_at(type, p->panel, group);
        uint32_t part = type == DTYPE_Q6_K ? group % 8 * 2 : group % 8;
        if (p->ahead && first == 0)
            int8_prefetch(type, p, group);
        avx2_group(type, at.values + first * 4, at.high + first * 4, &x, &dots, rows, vectors);
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            __m256 d, m, d_high = _mm256_setzero_ps();
            avx2_scale(type, at.scales, first + v * 8, part, &d, &m);
            if (type == DTYPE_Q6_K)
                avx2_scale(type, at.scales, first + v * 8, part + 1, &d_high, &m);
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t s = r * vectors + v;
                sum[s] = avx2_add(type, sum[s], dots.dot[s],
                                  type == DTYPE_Q6_K ? dots.dot_high[s] : dots.dot[s], d, d_high, m,
                                  x.scales[r]);
            }
        }
        avx2_x_next(&x, rows);
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            _mm256_storeu_ps(p->c + r * p->c_stride + first + v * 8, sum[r * vectors + v]);
    }
}

static ALWAYS_INLINE void avx2_rows_all(enum dtype type, const struct int8_place *p,
                                        const uint32_t rows)
{
    for (uint32_t first = 0; first < PANEL_COLUMNS; first += 8 * avx2_vectors(type, rows))
        avx2_rows(type, p, first, rows);
}

static ALWAYS_INLINE uint32_t avx2_block(enum dtype type, const struct int8_place *p, uint32_t left)
{
    if (left >= 4)
        avx2_rows_all(type, p, 4);
    else if (left == 3)
        avx2_rows_all(type, p, 3);
    else if (left == 2)
        avx2_rows_all(type, p, 2);
    else
        avx2_rows_all(type, p, 1);
    return left < 4 ? left : 4;
}

/* ---- many rows: a part of a panel is taken apart once ---------------------------------------- */

/* A part is some groups of one panel in scratch, which fit the first cache:
 *
 *     planes   [group][plane][8 quads][16 columns][4] bytes, one plane; Q8_0 has two, of 4 bits
 *     scales   [group][2][16] floats: d and m; for Q6_K the d of each half
 */
#define AVX2_GROUP_BYTES(type) (512u * avx2_planes(type))
#define AVX2_PART_GROUPS(type) (INT8_PLANE_BYTES / AVX2_GROUP_BYTES(type))

static ALWAYS_INLINE void avx2_store(uint8_t *to, __m256i v)
{
    _mm256_store_si256((__m256i *)(void *)to, v);
}

static ALWAYS_INLINE void avx2_take_apart(enum dtype type, const struct int8_place *p,
                                          uint32_t group0, uint32_t groups, uint8_t *planes,
                                          float *part_scales)
{
    const __m256i nibble = _mm256_set1_epi8(15);
    for (uint32_t i = 0; i < groups; i++, planes += AVX2_GROUP_BYTES(type), part_scales += 32) {
        uint32_t group = group0 + i;
        struct packed_group at = packed_group_at(type, p->panel, group);
        uint32_t part = type == DTYPE_Q6_K ? group % 8 * 2 : group % 8;
        for (uint32_t first = 0; first < PANEL_COLUMNS; first += 8) {
            const uint8_t *values = at.values + first * 4, *high = at.high + first * 4;
            uint8_t *to = planes + first * 4;
            if (type == DTYPE_Q8_0) {
                UNROLL
                for (int quad = 0; quad < 8; quad++) {
                    __m256i w = avx2_load(values + quad * 64);
                    avx2_store(to + quad * 64, _mm256_and_si256(w, nibble));
                    avx2_store(to + 512 + quad * 64,
                               _mm256_and_si256(_mm256_srli_epi16(w, 4), nibble));
                }
            } else {
                UNROLL
                for (int j = 0; j < 4; j++) {
                    struct avx2_pair w = avx2_quads(type, values, high, j);
                    avx2_store(to + j * 64, w.low);
                    avx2_store(to + (j + 4) * 64, w.high);
                }
            }
            __m256 d, m;
            avx2_scale(type, at.scales, first, part, &d, &m);
            _mm256_store_ps(part_scales + first, d);
            if (type == DTYPE_Q6_K)
                avx2_scale(type, at.scales, first, part + 1, &m, &d);
            _mm256_store_ps(part_scales + 16 + first, m);
        }
    }
}

/* Rows against columns first .. of a part; sums go on from c, or start from zero. */
static ALWAYS_INLINE void avx2_part(enum dtype type, const struct int8_place *p, uint32_t first,
                                    const uint8_t *planes, const float *part_scales,
                                    uint32_t group0, uint32_t groups, const uint32_t rows)
{
    const uint32_t vectors = avx2_vectors(type, rows);
    struct avx2_x x = avx2_x_at(p, group0, rows);
    struct avx2_dots dots;
    __m256 sum[8];
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            sum[r * vectors + v] = group0 == 0
                                       ? _mm256_setzero_ps()
                                       : _mm256_loadu_ps(p->c + r * p->c_stride + first + v * 8);
    }
    planes += first * 4;
    part_scales += first;
    const bool ahead = p->ahead && first == 0;
    for (uint32_t i = 0; i < groups; i++, planes += AVX2_GROUP_BYTES(type), part_scales += 32) {
        if (ahead)
            int8_prefetch_part(type, p, group0 + i);
        avx2_dots_begin(&dots, rows * vectors);
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++) {
            __m256i w[2], w_upper[2];
            UNROLL
            for (uint32_t v = 0; v < vectors; v++) {
                w[v] = avx2_load(planes + quad * 64 + v * 32);
                if (type == DTYPE_Q8_0)
                    w_upper[v] = avx2_load(planes + 512 + quad * 64 + v * 32);
            }
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                __m256i four = avx2_four(&x, r, quad);
                UNROLL
                for (uint32_t v = 0; v < vectors; v++) {
                    avx2_accumulate(&dots.low[r * vectors + v], w[v], four);
                    if (type == DTYPE_Q8_0)
                        avx2_accumulate(&dots.upper[r * vectors + v], w_upper[v], four);
                }
            }
            avx2_dots_flush(type, &dots, quad + 1, rows * vectors);
        }
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            __m256 d = _mm256_load_ps(part_scales + v * 8);
            __m256 m = _mm256_load_ps(part_scales + 16 + v * 8);
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t s = r * vectors + v;
                sum[s] = avx2_add(type, sum[s], dots.dot[s],
                                  type == DTYPE_Q6_K ? dots.dot_high[s] : dots.dot[s], d, m, m,
                                  x.scales[r]);
            }
        }
        avx2_x_next(&x, rows);
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            _mm256_storeu_ps(p->c + r * p->c_stride + first + v * 8, sum[r * vectors + v]);
    }
}

static ALWAYS_INLINE void avx2_part_all(enum dtype type, const struct int8_place *p,
                                        const uint8_t *planes, const float *part_scales,
                                        uint32_t group0, uint32_t groups, const uint32_t rows)
{
    for (uint32_t first = 0; first < PANEL_COLUMNS; first += 8 * avx2_vectors(type, rows))
        avx2_part(type, p, first, planes, part_scales, group0, groups, rows);
}

static ALWAYS_INLINE void avx2_part_rows(enum dtype type, const struct int8_place *p,
                                         const uint8_t *planes, const float *part_scales,
                                         uint32_t group0, uint32_t groups, uint32_t left)
{
    if (left >= 4)
        avx2_part_all(type, p, planes, part_scales, group0, groups, 4);
    else if (left == 3)
        avx2_part_all(type, p, planes, part_scales, group0, groups, 3);
    else if (left == 2)
        avx2_part_all(type, p, planes, part_scales, group0, groups, 2);
    else
        avx2_part_all(type, p, planes, part_scales, group0, groups, 1);
}

static ALWAYS_INLINE void avx2_many(enum dtype type, const struct int8_product *p)
{
    uint8_t *planes = p->scratch;
    float *part_scales = (float *)(void *)(p->scratch + INT8_PLANE_BYTES);
    for (uint32_t panel = 0; panel < p->panels; panel++) {
        struct int8_place place = int8_place_of(p, 0, panel);
        for (uint32_t group0 = 0; group0 < place.groups; group0 += AVX2_PART_GROUPS(type)) {
            uint32_t groups = place.groups - group0 < AVX2_PART_GROUPS(type)
                                  ? place.groups - group0
                                  : AVX2_PART_GROUPS(type);
            avx2_take_apart(type, &place, group0, groups, planes, part_scales);
            for (uint32_t row = 0; row < p->rows; row += 4) {
                struct int8_place at = int8_place_of(p, row, panel);
                avx2_part_rows(type, &at, planes, part_scales, group0, groups, p->rows - row);
            }
        }
    }
}

#define AVX2_MANY_ROWS 8u

#define AVX2_PRODUCT(name, type)                                                                   \
    static uint32_t name##_block(const struct int8_place *p, uint32_t left)                        \
    {                                                                                              \
        return avx2_block(type, p, left);                                                          \
    }                                                                                              \
    INT8_PRODUCT(name##_few, name##_block)                                                         \
    static void name(const struct int8_product *p)                                                 \
    {                                                                                              \
        if (p->rows >= AVX2_MANY_ROWS)                                                             \
            avx2_many(type, p);                                                                    \
        else                                                                                       \
            name##_few(p);                                                                         \
    }

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
