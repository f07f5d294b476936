/* backend/cpu/int8_wide.h - integer products of many rows with AVX-512: weights and activations are
 * laid out once, in the order in which the inner loop reads them.
 *
 *     part     WIDE_GROUPS groups (32 k each) of up to WIDE_PANELS panels, in scratch
 *     weights  [panel][group]   u8 [8 quads][16 columns][4 k] | d [16] | m [16]
 *     rows     [group]          s8 [16 rows][32 k] | scale, scaled sum, less [16 rows]
 *
 * Both stay in the first two caches while a part's rows run over a part's weights, each as one
 * stream with addresses known beforehand; rows of the caller lie kilobytes apart. less is what the
 * type's zero point takes off a row's dot product: sums start from it instead of zero.
 *
 * What computes a block (int8_vnni.h, int8_amx.h) is given both. Included by int8_vnni.h.
 */

#define WIDE_GROUPS 16u
#define WIDE_PANELS 4u
#define WIDE_ROWS 16u

struct wide_weights {
    uint8_t values[8][PANEL_COLUMNS][4];
    float d[PANEL_COLUMNS];
    float m[PANEL_COLUMNS]; /* Q6_K: d of the upper half */
};

struct wide_scale {
    float scale, scaled_sum;
    int32_t less, less_high; /* Q6_K: of each half; others: less for all */
};

struct wide_rows {
    int8_t values[WIDE_ROWS][32];
    struct wide_scale scales[WIDE_ROWS];
};

struct wide_scratch {
    struct wide_weights weights[WIDE_PANELS][WIDE_GROUPS];
    struct wide_rows rows[WIDE_GROUPS];
};

_Static_assert(sizeof(struct wide_scratch) <= INT8_SCRATCH_BYTES, "it is the scratch's place");

/* Up to 16 rows against a part of one panel. */
struct wide_block {
    const struct wide_weights *weights; /* [groups] */
    const struct wide_rows *rows;       /* [groups] */
    uint32_t groups;
    uint32_t live; /* rows that are not only there to fill the block */
    float *c;
    size_t c_stride;
    bool add; /* go on from what c holds; else start from zero */
};

static ALWAYS_INLINE int32_t wide_zero(enum dtype type)
{
    return type == DTYPE_Q8_0 ? 128 : type == DTYPE_Q4_0 ? 8 : type == DTYPE_Q6_K ? 32 : 0;
}

static ALWAYS_INLINE void wide_take_weights(enum dtype type, const struct int8_place *p,
                                            uint32_t group0, uint32_t groups,
                                            struct wide_weights *to)
{
    for (uint32_t group = group0; group < group0 + groups; group++, to++) {
        struct packed_group at = packed_group_at(type, p->panel, group);
        uint32_t part = type == DTYPE_Q6_K ? group % 8 * 2 : group % 8;
        __m512 d, m;
        lanes_scale(type, at.scales, part, 0, &d, &m);
        _mm512_store_ps(to->d, d);
        if (type == DTYPE_Q6_K) {
            __m512 none;
            lanes_scale(type, at.scales, part + 1, 0, &m, &none);
        }
        _mm512_store_ps(to->m, m);
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++)
            _mm512_store_si512(to->values[quad], lanes_quad(type, at.values, at.high, quad, 0));
    }
}

/* Of a row: scale and scaled sum as they are, and what the zero point makes of the sums. */
static ALWAYS_INLINE void wide_take_scale(enum dtype type, const struct quant_scale *from,
                                          struct wide_scale *to)
{
    if (type == DTYPE_Q6_K) {
        *to = (struct wide_scale){.scale = from->scale,
                                  .scaled_sum = from->scaled_sum,
                                  .less = -32 * from->sum_low,
                                  .less_high = -32 * (from->sum - from->sum_low)};
        return;
    }
    const int bits = type == DTYPE_Q8_0 ? 7 : 3;
    const __m128i negative = _mm_setr_epi32(0, 0, -1, -1);
    __m128i four = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (type == DTYPE_Q8_0 || type == DTYPE_Q4_0) {
        four = _mm_sllv_epi32(four, _mm_setr_epi32(0, 0, bits, bits));
        four = _mm_sub_epi32(_mm_xor_si128(four, negative), negative);
    } else {
        four = _mm_andnot_si128(negative, four);
    }
    _mm_store_si128((__m128i *)(void *)to, four);
}

/* Rows row .. row + rows; those that are missing of a block are zeros. */
static ALWAYS_INLINE void wide_take_rows(enum dtype type, const struct int8_product *p,
                                         uint32_t row, uint32_t rows, uint32_t group0,
                                         uint32_t groups, struct wide_rows *to)
{
    if (rows < WIDE_ROWS)
        memset(to, 0, groups * sizeof(*to));
    for (uint32_t r = 0; r < rows; r++) {
        const int8_t *values =
            p->x->values + (p->first_row + row + r) * p->x->value_stride + group0 * 32;
        const struct quant_scale *scales =
            p->x->scales + (p->first_row + row + r) * p->x->scale_stride + group0;
        for (uint32_t i = 0; i < groups; i++, values += 32, scales++) {
            __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)values);
            _mm256_store_si256((__m256i *)(void *)to[i].values[r], v);
            wide_take_scale(type, scales, &to[i].scales[r]);
        }
    }
}

/* Ask for a block's share of what the next part will take apart: piece of pieces, of one panel. */
static ALWAYS_INLINE void wide_prefetch(enum dtype type, const struct int8_place *p,
                                        uint32_t group0, uint32_t piece, uint32_t pieces)
{
    size_t bytes = WIDE_GROUPS * packed_unit_bytes(type) / packed_unit_groups(type);
    const char *next = int8_stream(type, p, group0) + bytes;
    for (size_t at = bytes * piece / pieces; at < bytes * (piece + 1) / pieces; at += 64)
        _mm_prefetch(next + at, _MM_HINT_T1);
}

/* A row's dot products of one group to its sum. */
static ALWAYS_INLINE __m512 wide_add(enum dtype type, __m512 sum, __m512i dot, __m512i dot_high,
                                     __m512 d, __m512 m, const struct wide_scale *s)
{
    __m512 x_scale = _mm512_set1_ps(s->scale);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, x_scale), sum);
    if (type == DTYPE_Q6_K)
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot_high), _mm512_mul_ps(m, x_scale), sum);
    if (INT8_HAS_MINIMUM(type))
        sum = _mm512_fmadd_ps(m, _mm512_set1_ps(s->scaled_sum), sum);
    return sum;
}

/* All rows against panels panel .. panel + panels, at most WIDE_PANELS. */
static ALWAYS_INLINE void wide_panels(enum dtype type, const struct int8_product *p, uint32_t panel,
                                      uint32_t panels, void (*run)(const struct wide_block *block))
{
    struct wide_scratch *scratch = (struct wide_scratch *)(void *)p->scratch;
    uint32_t all = p->w->columns / 32, pieces = (p->rows + WIDE_ROWS - 1) / WIDE_ROWS;
    for (uint32_t group0 = 0; group0 < all; group0 += WIDE_GROUPS) {
        uint32_t groups = all - group0 < WIDE_GROUPS ? all - group0 : WIDE_GROUPS;
        for (uint32_t i = 0; i < panels; i++) {
            struct int8_place place = int8_place_of(p, 0, panel + i);
            wide_take_weights(type, &place, group0, groups, scratch->weights[i]);
        }
        for (uint32_t row = 0; row < p->rows; row += WIDE_ROWS) {
            uint32_t live = p->rows - row < WIDE_ROWS ? p->rows - row : WIDE_ROWS;
            wide_take_rows(type, p, row, live, group0, groups, scratch->rows);
            for (uint32_t i = 0; i < panels; i++) {
                struct int8_place place = int8_place_of(p, row, panel + i);
                wide_prefetch(type, &place, group0, row / WIDE_ROWS, pieces);
                struct wide_block block = {.weights = scratch->weights[i],
                                           .rows = scratch->rows,
                                           .groups = groups,
                                           .live = live,
                                           .c = place.c,
                                           .c_stride = place.c_stride,
                                           .add = group0 > 0};
                run(&block);
            }
        }
    }
}

static ALWAYS_INLINE void wide_product(enum dtype type, const struct int8_product *p,
                                       void (*run)(const struct wide_block *block))
{
    for (uint32_t panel = 0; panel < p->panels; panel += WIDE_PANELS)
        wide_panels(type, p, panel,
                    p->panels - panel < WIDE_PANELS ? p->panels - panel : WIDE_PANELS, run);
}
