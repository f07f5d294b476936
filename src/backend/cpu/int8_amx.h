/* backend/cpu/int8_amx.h - integer products with AMX tiles: 16 rows by 16 outputs by 32 k at once.
 *
 *     A   u8 weights, as the panel has them     [8 quads][16 columns][4 k]     tile 1, "B" of the
 * ISA X   s8 activations of 16 rows             [16 rows][32 k]                tile 2, "A" of the
 * ISA D   16 x 16 exact dot products            [16 rows][16 columns] int32    tile 0
 *
 * A tile product sums 32 k, which is a group, so the definition's order of operations stands: D
 * goes through the first cache to vectors, and each row adds its part to its sums as with VNNI.
 * Weights of a panel's part are taken apart once for all rows. Rows that fill no tile go to VNNI,
 * and so does Q6_K, whose groups are of 16.
 *
 * Included once, by kernels_amx.c, after int8_vnni.h.
 */

#define AMX_ROWS 16u
#define AMX_PART_GROUPS (INT8_PLANE_BYTES / 512)

struct amx_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* This thread's tiles: 0 and 3 are 16 x 64 bytes of sums, 1 and 4 weights, 2 activations. */
static void amx_configure(void)
{
    static const struct amx_config config = {
        .palette = 1, .row_bytes = {64, 64, 32, 64, 64}, .rows = {16, 8, 16, 16, 8}};
    _tile_loadconfig(&config);
}

static ALWAYS_INLINE void amx_take_apart(enum dtype type, const struct int8_place *p,
                                         uint32_t group0, uint32_t groups, uint8_t *planes,
                                         float *part_scales)
{
    for (uint32_t i = 0; i < groups; i++, planes += 512, part_scales += 32) {
        uint32_t group = group0 + i;
        struct packed_group at = packed_group_at(type, p->panel, group);
        __m512 d, m;
        lanes_scale(type, at.scales, group % 8, 0, &d, &m);
        _mm512_store_ps(part_scales, d);
        _mm512_store_ps(part_scales + 16, m);
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++)
            _mm512_store_si512(planes + quad * 64, lanes_quad(type, at.values, at.high, quad, 0));
    }
}

/* Add what one tile of dot products is worth to the sums of 16 rows. */
static ALWAYS_INLINE void amx_add(enum dtype type, const int32_t *dots, const float *part_scales,
                                  const struct quant_scale *x_scales, size_t scale_stride,
                                  float *sums)
{
    __m512 d = _mm512_load_ps(part_scales), m = _mm512_load_ps(part_scales + 16);
    UNROLL
    for (uint32_t r = 0; r < AMX_ROWS; r++) {
        const struct quant_scale *s = x_scales + r * scale_stride;
        __m512 sum = _mm512_load_ps(sums + 16 * r);
        __m512i dot = vnni_less_zero(type, _mm512_load_si512(dots + 16 * r), s->sum);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, _mm512_set1_ps(s->scale)),
                              sum);
        if (INT8_HAS_MINIMUM(type))
            sum = _mm512_fmadd_ps(m, _mm512_set1_ps(s->scaled_sum), sum);
        _mm512_store_ps(sums + 16 * r, sum);
    }
}

/* Sixteen rows against a part of a panel. The tile of the next group is computed while the vectors
 * work on the one before. */
static ALWAYS_INLINE void amx_part(enum dtype type, const struct int8_place *p,
                                   const uint8_t *planes, const float *part_scales, uint32_t group0,
                                   uint32_t groups)
{
    _Alignas(64) int32_t dots[2][AMX_ROWS * 16];
    _Alignas(64) float sums[AMX_ROWS * 16];
    const int8_t *x = p->x + group0 * 32;
    const struct quant_scale *x_scales = p->x_scales + group0;
    for (uint32_t r = 0; r < AMX_ROWS; r++)
        _mm512_store_ps(sums + 16 * r, group0 == 0 ? _mm512_setzero_ps()
                                                   : _mm512_loadu_ps(p->c + r * p->c_stride));
    for (uint32_t i = 0; i <= groups; i++) {
        if (i < groups) {
            if (p->ahead)
                int8_prefetch_part(type, p, group0 + i);
            _tile_zero(0);
            _tile_loadd(1, planes + i * 512, 64);
            _tile_loadd(2, x + i * 32, p->x_stride);
            _tile_dpbsud(0, 2, 1);
            _tile_stored(0, dots[i % 2], 64);
        }
        if (i > 0)
            amx_add(type, dots[(i - 1) % 2], part_scales + (i - 1) * 32, x_scales + i - 1,
                    p->scale_stride, sums);
    }
    for (uint32_t r = 0; r < AMX_ROWS; r++)
        _mm512_storeu_ps(p->c + r * p->c_stride, _mm512_load_ps(sums + 16 * r));
}

static ALWAYS_INLINE void amx_product(enum dtype type, const struct int8_product *p)
{
    uint8_t *planes = p->scratch;
    float *part_scales = (float *)(void *)(p->scratch + INT8_PLANE_BYTES);
    uint32_t rows = p->rows / AMX_ROWS * AMX_ROWS;
    amx_configure();
    for (uint32_t panel = 0; panel < p->panels; panel++) {
        struct int8_place place = int8_place_of(p, 0, panel);
        for (uint32_t group0 = 0; group0 < place.groups; group0 += AMX_PART_GROUPS) {
            uint32_t left = place.groups - group0;
            uint32_t groups = left < AMX_PART_GROUPS ? left : AMX_PART_GROUPS;
            amx_take_apart(type, &place, group0, groups, planes, part_scales);
            for (uint32_t row = 0; row < rows; row += AMX_ROWS) {
                struct int8_place at = int8_place_of(p, row, panel);
                amx_part(type, &at, planes, part_scales, group0, groups);
            }
        }
        for (uint32_t row = rows; row < p->rows;) {
            struct int8_place at = int8_place_of(p, row, panel);
            row += vnni_block(type, &at, p->rows - row);
        }
    }
    _tile_release();
}

#define AMX_PRODUCT(name, type)                                                                    \
    static void amx_##name(const struct int8_product *p)                                           \
    {                                                                                              \
        if (p->rows < AMX_ROWS)                                                                    \
            name(p);                                                                               \
        else                                                                                       \
            amx_product(type, p);                                                                  \
    }

AMX_PRODUCT(int8_product_q8_0, DTYPE_Q8_0)
AMX_PRODUCT(int8_product_q4_0, DTYPE_Q4_0)
AMX_PRODUCT(int8_product_q4_1, DTYPE_Q4_1)
AMX_PRODUCT(int8_product_q4_k, DTYPE_Q4_K)
AMX_PRODUCT(int8_product_q5_k, DTYPE_Q5_K)

/* Tile products of full tiles (64 k) and nothing else. */
static uint64_t amx_peak(uint32_t rounds, float *sink_out)
{
    static const struct amx_config config = {
        .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16}};
    _Alignas(64) int32_t sums[256];
    rounds /= 16;
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (uint32_t round = 0; round < rounds; round++) {
        _tile_dpbsud(0, 4, 5);
        _tile_dpbsud(1, 4, 5);
        _tile_dpbsud(2, 4, 5);
        _tile_dpbsud(3, 4, 5);
    }
    _tile_stored(0, sums, 64);
    _tile_release();
    *sink_out = (float)sums[0];
    return (uint64_t)rounds * 4 * 16 * 16 * 64 * 2;
}
