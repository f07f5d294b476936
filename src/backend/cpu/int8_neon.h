/* backend/cpu/int8_neon.h - integer products with NEON, four outputs to a vector of 16 bytes.
 *
 *     for each group of 32 k:   weights, s8 [4 columns][4 k] a vector
 *         for each quad:        4 activations of a row against them -> 4 x int32
 *                               to float, times both scales, added to the row's sums
 *
 * With dot products (SDOT, ARMv8.2) a vector costs one instruction a row, which takes the four
 * activations from a lane of a register that holds 16. Without, it costs two (SMLAL, SMLAL2), which
 * add products in 16 bits. Activations are within +-127, so what such a sum can hold is
 *
 *     4-bit weights, Q5_K   8 x 31 x 127 = 31496    a whole group of 32: one product a quad
 *     Q6_K                  4 x 63 x 127 = 32004    a half, which is what one scale is for
 *     Q8_0                  2 x 128 x 127 = 32512   two quads
 *
 * Weights are as they are packed, Q8_0 less its 128 (a bit); other zero points are what an integer
 * sum starts from. With many rows a part of a panel is taken apart once.
 *
 * Included once, by kernels_neon.c and by kernels_dotprod.c.
 */
#include "backend/cpu/int8_place.h"

static void int8_quantize(const float *x, uint32_t count, int8_t *values,
                          struct quant_scale *scales)
{
    for (uint32_t group = 0; group < count / 32; group++, x += 32, values += 32) {
        float32x4_t part[8];
        float32x4_t most = vdupq_n_f32(0.0f);
        UNROLL
        for (int i = 0; i < 8; i++) {
            part[i] = vld1q_f32(x + 4 * i);
            most = vmaxnmq_f32(vabsq_f32(part[i]), most);
        }
        float largest = vmaxnmvq_f32(most);

        bool some = largest >= 0x1p-100f;
        float inverse = some ? 127.0f / largest : 0.0f;
        struct quant_scale scale = {.scale = some ? largest / 127.0f : 0.0f};
        UNROLL
        for (int i = 0; i < 2; i++) {
            int16x4_t q[4];
            UNROLL
            for (int j = 0; j < 4; j++)
                q[j] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(part[4 * i + j], inverse)));
            int8x16_t bytes = vcombine_s8(vqmovn_s16(vcombine_s16(q[0], q[1])),
                                          vqmovn_s16(vcombine_s16(q[2], q[3])));
            vst1q_s8(values + 16 * i, bytes);
            scale.sum_low = i == 0 ? vaddlvq_s8(bytes) : scale.sum_low;
            scale.sum += vaddlvq_s8(bytes);
        }
        scale.scaled_sum = scale.scale * (float)scale.sum;
        scales[group] = scale;
    }
}

/* ---- four activations against four columns --------------------------------------------------- */

/* The dot products of one row and four columns under way. */
struct neon_dot {
    int32x4_t sum;
#if !defined(__ARM_FEATURE_DOTPROD)
    int16x8_t low, high; /* of the columns 0 and 1, and 2 and 3 */
#endif
};

static ALWAYS_INLINE struct neon_dot neon_dot_from(int32_t start)
{
    return (struct neon_dot){.sum = vdupq_n_s32(start)};
}

#if defined(__ARM_FEATURE_DOTPROD)

/* Columns vectors of a block of so many rows: sums and dot products fill half of the registers. */
#define NEON_VECTORS(rows) ((rows) <= 2 ? 4u : 2u)

#define NEON_DOT(lane)                                                                             \
    case lane:                                                                                     \
        dot->sum = vdotq_laneq_s32(dot->sum, w, x, lane);                                          \
        break

/* Quad quad of a group: lane quad % 4 of x, its half of the activations. */
static ALWAYS_INLINE void neon_dot_add(enum dtype type, struct neon_dot *dot, int8x16_t w,
                                       int8x16_t x, const uint32_t quad)
{
    (void)type;
    switch (quad % 4) {
        NEON_DOT(0);
        NEON_DOT(1);
        NEON_DOT(2);
        NEON_DOT(3);
    }
}

#else

/* A dot product has two registers more, for 16 bits. */
#define NEON_VECTORS(rows) ((rows) == 1 ? 4u : (rows) == 2 ? 2u : 1u)

#define NEON_LANE(lane)                                                                            \
    case lane:                                                                                     \
        four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane));               \
        break

static ALWAYS_INLINE void neon_dot_add(enum dtype type, struct neon_dot *dot, int8x16_t w,
                                       int8x16_t x, const uint32_t quad)
{
    const uint32_t flush = type == DTYPE_Q8_0 ? 2 : type == DTYPE_Q6_K ? 4 : 8;
    int8x16_t four = x;
    switch (quad % 4) {
        NEON_LANE(0);
        NEON_LANE(1);
        NEON_LANE(2);
        NEON_LANE(3);
    }
    if (quad % flush == 0) {
        dot->low = vmull_s8(vget_low_s8(w), vget_low_s8(four));
        dot->high = vmull_high_s8(w, four);
    } else {
        dot->low = vmlal_s8(dot->low, vget_low_s8(w), vget_low_s8(four));
        dot->high = vmlal_high_s8(dot->high, w, four);
    }
    if (quad % flush == flush - 1)
        dot->sum = vaddq_s32(dot->sum, vpaddq_s32(vpaddlq_s16(dot->low), vpaddlq_s16(dot->high)));
}

#endif

/* ---- rows against columns -------------------------------------------------------------------- */

/* Some groups of one panel. planes: NULL for weights as they are packed; else taken apart into
 *
 *     planes   [group][8 quads][16 columns][4] bytes
 *     scales   [group][2][16] floats: d and m; for Q6_K the d of each half
 */
struct neon_part {
    uint32_t group0, groups;
    const int8_t *planes;
    const float *scales;
};

#define NEON_GROUP_BYTES 512u
#define NEON_PART_GROUPS (INT8_PLANE_BYTES / NEON_GROUP_BYTES)

_Static_assert(INT8_PLANE_BYTES + NEON_PART_GROUPS * 32 * sizeof(float) <= INT8_SCRATCH_BYTES,
               "a part is in the scratch");

/* What the type's zero point takes off a dot product is so much times the activations' sum. */
static ALWAYS_INLINE int32_t neon_zero(enum dtype type)
{
    return type == DTYPE_Q4_0 ? 8 : type == DTYPE_Q6_K ? 32 : 0;
}

static ALWAYS_INLINE int8x16_t neon_quad(enum dtype type, const struct packed_group *at,
                                         uint32_t quad, uint32_t c0)
{
    int8x16_t w = vreinterpretq_s8_s32(lanes_quad(type, at->values, at->high, quad, c0));
    return type == DTYPE_Q8_0 ? veorq_s8(w, vdupq_n_s8(-128)) : w;
}

/* d and m of four columns; of Q6_K the d of each half. */
static ALWAYS_INLINE void neon_scale(enum dtype type, const struct packed_group *at, uint32_t group,
                                     uint32_t c0, float32x4_t *d_out, float32x4_t *m_out)
{
    float32x4_t none;
    if (type == DTYPE_Q6_K) {
        lanes_scale(type, at->scales, group % 8 * 2, c0, d_out, &none);
        lanes_scale(type, at->scales, group % 8 * 2 + 1, c0, m_out, &none);
    } else {
        lanes_scale(type, at->scales, group % 8, c0, d_out, m_out);
    }
}

/* What a row's dot products of one group add to its sum. */
static ALWAYS_INLINE float32x4_t neon_add(enum dtype type, float32x4_t sum, int32x4_t dot,
                                          int32x4_t dot_high, float32x4_t d, float32x4_t m,
                                          const struct quant_scale *s)
{
    sum = vfmaq_f32(sum, vcvtq_f32_s32(dot), vmulq_n_f32(d, s->scale));
    if (type == DTYPE_Q6_K)
        sum = vfmaq_f32(sum, vcvtq_f32_s32(dot_high), vmulq_n_f32(m, s->scale));
    if (INT8_HAS_MINIMUM(type))
        sum = vfmaq_n_f32(sum, m, s->scaled_sum);
    return sum;
}

/* Where the rows of a block are: pointers that move on with the groups. */
struct neon_x {
    const int8_t *values[4];
    const struct quant_scale *scales[4];
};

/* The dot products of one group, for rows x vectors (s = r * vectors + v). */
static ALWAYS_INLINE void neon_group(enum dtype type, const struct packed_group *at,
                                     const int8_t *planes, const bool apart, const struct neon_x *x,
                                     uint32_t c0, struct neon_dot *dot, struct neon_dot *dot_high,
                                     const uint32_t rows, const uint32_t vectors)
{
    int8x16_t values[8];
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        int32_t sum = x->scales[r]->sum, low = x->scales[r]->sum_low;
        values[2 * r] = vld1q_s8(x->values[r]);
        values[2 * r + 1] = vld1q_s8(x->values[r] + 16);
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            uint32_t s = r * vectors + v;
            dot[s] = neon_dot_from(-neon_zero(type) * (type == DTYPE_Q6_K ? low : sum));
            dot_high[s] = neon_dot_from(-neon_zero(type) * (sum - low));
        }
    }
    UNROLL
    for (uint32_t quad = 0; quad < 8; quad++) {
        struct neon_dot *to = type == DTYPE_Q6_K && quad >= 4 ? dot_high : dot;
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            int8x16_t w = apart ? vld1q_s8(planes + quad * 64 + (c0 + v * 4) * 4)
                                : neon_quad(type, at, quad, c0 + v * 4);
            UNROLL
            for (uint32_t r = 0; r < rows; r++)
                neon_dot_add(type, &to[r * vectors + v], w, values[2 * r + quad / 4], quad);
        }
    }
}

/* Rows against columns c0 .. of a part; sums go on from c, or start from zero. */
static ALWAYS_INLINE void neon_rows(enum dtype type, const struct int8_place *p,
                                    const struct neon_part *part, const bool apart, uint32_t c0,
                                    const uint32_t rows)
{
    const uint32_t vectors = NEON_VECTORS(rows);
    const size_t planes_bytes = apart ? NEON_GROUP_BYTES : 0;
    float *c = p->c + c0;
    float32x4_t sum[8];
    struct neon_x x;
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        x.values[r] = p->x + r * p->x_stride + part->group0 * 32;
        x.scales[r] = p->x_scales + r * p->scale_stride + part->group0;
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            sum[r * vectors + v] =
                part->group0 == 0 ? vdupq_n_f32(0.0f) : vld1q_f32(c + r * p->c_stride + v * 4);
    }
    for (uint32_t i = 0; i < part->groups; i++) {
        const uint32_t group = part->group0 + i;
        struct packed_group at = packed_group_at(type, p->panel, group);
        struct neon_dot dot[8], dot_high[8];
        if (p->ahead && c0 == 0 && apart)
            int8_prefetch_part(type, p, group);
        else if (p->ahead && c0 == 0)
            int8_prefetch(type, p, group);
        neon_group(type, &at, part->planes + i * planes_bytes, apart, &x, c0, dot, dot_high, rows,
                   vectors);
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            float32x4_t d, m;
            if (apart) {
                d = vld1q_f32(part->scales + i * 32 + c0 + v * 4);
                m = vld1q_f32(part->scales + i * 32 + 16 + c0 + v * 4);
            } else {
                neon_scale(type, &at, group, c0 + v * 4, &d, &m);
            }
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t s = r * vectors + v;
                sum[s] = neon_add(type, sum[s], dot[s].sum, dot_high[s].sum, d, m, x.scales[r]);
            }
        }
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            x.values[r] += 32;
            x.scales[r]++;
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            vst1q_f32(c + r * p->c_stride + v * 4, sum[r * vectors + v]);
    }
}

static ALWAYS_INLINE void neon_rows_all(enum dtype type, const struct int8_place *p,
                                        const struct neon_part *part, const bool apart,
                                        const uint32_t rows)
{
    for (uint32_t c0 = 0; c0 < PANEL_COLUMNS; c0 += 4 * NEON_VECTORS(rows))
        neon_rows(type, p, part, apart, c0, rows);
}

/* The next rows of so many that are left; returns how many. */
static ALWAYS_INLINE uint32_t neon_block(enum dtype type, const struct int8_place *p,
                                         const struct neon_part *part, const bool apart,
                                         uint32_t left)
{
    if (left >= 4)
        neon_rows_all(type, p, part, apart, 4);
    else if (left == 3)
        neon_rows_all(type, p, part, apart, 3);
    else if (left == 2)
        neon_rows_all(type, p, part, apart, 2);
    else
        neon_rows_all(type, p, part, apart, 1);
    return left < 4 ? left : 4;
}

/* ---- many rows ------------------------------------------------------------------------------- */

static ALWAYS_INLINE void neon_take_apart(enum dtype type, const struct int8_place *p,
                                          uint32_t group0, uint32_t groups, int8_t *planes,
                                          float *scales)
{
    for (uint32_t group = group0; group < group0 + groups; group++, scales += 32) {
        struct packed_group at = packed_group_at(type, p->panel, group);
        UNROLL
        for (uint32_t c0 = 0; c0 < PANEL_COLUMNS; c0 += 4) {
            float32x4_t d, m;
            neon_scale(type, &at, group, c0, &d, &m);
            vst1q_f32(scales + c0, d);
            vst1q_f32(scales + 16 + c0, m);
            UNROLL
            for (uint32_t quad = 0; quad < 8; quad++)
                vst1q_s8(planes + quad * 64 + c0 * 4, neon_quad(type, &at, quad, c0));
        }
        planes += NEON_GROUP_BYTES;
    }
}

static ALWAYS_INLINE void neon_many(enum dtype type, const struct int8_product *p)
{
    int8_t *planes = (int8_t *)p->scratch;
    float *scales = (float *)(void *)(p->scratch + INT8_PLANE_BYTES);
    const uint32_t all = p->w->columns / 32;
    for (uint32_t panel = 0; panel < p->panels; panel++) {
        for (uint32_t group0 = 0; group0 < all; group0 += NEON_PART_GROUPS) {
            uint32_t left = all - group0;
            struct neon_part part = {.group0 = group0,
                                     .groups = left < NEON_PART_GROUPS ? left : NEON_PART_GROUPS,
                                     .planes = planes,
                                     .scales = scales};
            struct int8_place place = int8_place_of(p, 0, panel);
            neon_take_apart(type, &place, group0, part.groups, planes, scales);
            for (uint32_t row = 0; row < p->rows;) {
                place = int8_place_of(p, row, panel);
                row += neon_block(type, &place, &part, true, p->rows - row);
            }
        }
    }
}

#define NEON_MANY_ROWS 8u

#define NEON_PRODUCT(name, type)                                                                   \
    static uint32_t name##_block(const struct int8_place *p, uint32_t left)                        \
    {                                                                                              \
        struct neon_part all = {.groups = p->groups, .planes = NULL};                              \
        return neon_block(type, p, &all, false, left);                                             \
    }                                                                                              \
    INT8_PRODUCT(name##_few, name##_block)                                                         \
    static void name(const struct int8_product *p)                                                 \
    {                                                                                              \
        if (p->rows >= NEON_MANY_ROWS)                                                             \
            neon_many(type, p);                                                                    \
        else                                                                                       \
            name##_few(p);                                                                         \
    }

NEON_PRODUCT(int8_product_q8_0, DTYPE_Q8_0)
NEON_PRODUCT(int8_product_q4_0, DTYPE_Q4_0)
NEON_PRODUCT(int8_product_q4_1, DTYPE_Q4_1)
NEON_PRODUCT(int8_product_q4_k, DTYPE_Q4_K)
NEON_PRODUCT(int8_product_q5_k, DTYPE_Q5_K)
NEON_PRODUCT(int8_product_q6_k, DTYPE_Q6_K)

/* ---- peak ------------------------------------------------------------------------------------ */

#define NEON_KEEP(v) __asm__("" : "+w"(v))

/* What most steps of a product cost: one dot product, or a widening multiply and add. Sixteen
 * chains, for four pipes and results that are ready after four cycles. */
static uint64_t int8_peak(uint32_t rounds, float *sink_out)
{
    int8x16_t weights = vdupq_n_s8(3);
    int32x4_t sums[16], total = vdupq_n_s32(0);
    UNROLL
    for (int i = 0; i < 16; i++)
        sums[i] = vdupq_n_s32(i);
    for (uint32_t round = 0; round < rounds; round++) {
        NEON_KEEP(weights);
        UNROLL
        for (int i = 0; i < 16; i++)
#if defined(__ARM_FEATURE_DOTPROD)
            sums[i] = vdotq_s32(sums[i], weights, weights);
#else
            sums[i] = vreinterpretq_s32_s16(
                vmlal_high_s8(vreinterpretq_s16_s32(sums[i]), weights, weights));
#endif
    }
    UNROLL
    for (int i = 0; i < 16; i++)
        total = vaddq_s32(total, sums[i]);
    *sink_out = (float)vgetq_lane_s32(total, 0);
#if defined(__ARM_FEATURE_DOTPROD)
    return (uint64_t)rounds * 16 * 16 * 2;
#else
    return (uint64_t)rounds * 16 * 8 * 2;
#endif
}
