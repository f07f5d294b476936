/* backend/cpu/kv_lanes.h - keys and values of the pool in the products of attention, over vectors
 * of LANES floats.
 *
 * A part of kernels_lanes.h, which includes it at its end.
 */
static void lanes_half_store(const float *x, uint16_t *to, uint32_t count)
{
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f value = lanes_max(lanes_load(x + i), lanes_set(-65504.0f));
        value = lanes_min(value, lanes_set(65504.0f));
        lanes_to_half(to + i, value);
    }
    for (; i < count; i++) {
        float value = x[i] > -65504.0f ? x[i] : -65504.0f;
        value = value < 65504.0f ? value : 65504.0f;
        to[i] = f32_to_f16(value);
    }
}

/* Ask for bytes from at on of what the caller will read next. */
static ALWAYS_INLINE void lanes_ahead(const void *ahead, size_t at, uint32_t bytes)
{
    if (ahead != NULL)
        for (uint32_t i = 0; i < bytes; i += 64)
            __builtin_prefetch((const char *)ahead + at + i, 0, 2);
}

static void lanes_key_tile_f16(const void *const keys[PANEL_COLUMNS], uint32_t dims, float *tile,
                               const void *ahead)
{
    const uint32_t step = PANEL_COLUMNS * sizeof(uint16_t); /* of a dimension of all keys */
    uint32_t d = 0;
    for (; d + 8 <= dims; d += 8) {
        lanes_ahead(ahead, (size_t)d * step, 8 * step);
        lanes_turn_keys(keys, d, tile + (size_t)d * PANEL_COLUMNS);
    }
    for (; d < dims; d++)
        for (uint32_t t = 0; t < PANEL_COLUMNS; t++)
            tile[d * PANEL_COLUMNS + t] = f16_to_f32(load_u16((const uint16_t *)keys[t] + d));
}

/* A group of all keys, then the next: 32 dimensions under one scale a key. */
static void lanes_key_tile_q8_0(const void *const keys[PANEL_COLUMNS], uint32_t dims, float *tile,
                                const void *ahead)
{
    for (size_t at = 0; at < dims / 32 * Q8_0_BYTES; at += Q8_0_BYTES) {
        lanes_ahead(ahead, at * PANEL_COLUMNS, Q8_0_BYTES * PANEL_COLUMNS);
        uint16_t halves[PANEL_COLUMNS];
        lanes_f scales[PANEL_VECTORS];
        UNROLL
        for (int t = 0; t < (int)PANEL_COLUMNS; t++)
            halves[t] = load_u16((const uint8_t *)keys[t] + at);
        UNROLL
        for (int v = 0; v < PANEL_VECTORS; v++)
            scales[v] = lanes_from_half(halves + v * LANES);
        for (size_t half = 0; half < 32; half += 16, tile += 16 * PANEL_COLUMNS) {
            int8_t turned[16 * PANEL_COLUMNS];
            lanes_turn_bytes(keys, at + 2 + half, turned);
            UNROLL
            for (int i = 0; i < 16 * PANEL_VECTORS; i++)
                lanes_store(tile + i * LANES,
                            lanes_mul(lanes_float(lanes_i_from_s8(turned + i * LANES)),
                                      scales[i % PANEL_VECTORS]));
        }
    }
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* By way of floats in p->tile. */
static ALWAYS_INLINE void lanes_key_floats(const enum dtype type, const struct key_product *p)
{
    const size_t panel_floats = (size_t)p->dims * PANEL_COLUMNS;
    for (uint32_t i = 0; i < p->panels; i++) {
        const void *keys[PANEL_COLUMNS];
        const void *const *of = p->keys + (size_t)i * PANEL_COLUMNS;
        float *tile = p->tile + i * panel_floats;
        for (uint32_t t = 0; t < PANEL_COLUMNS; t++)
            keys[t] = p->side_by_side[i] ? (const uint8_t *)of[0] + t * kv_row_bytes(type, p->dims)
                                         : of[t];
        if (type == DTYPE_F16)
            lanes_key_tile_f16(keys, p->dims, tile, p->ahead[i]);
        else
            lanes_key_tile_q8_0(keys, p->dims, tile, p->ahead[i]);
    }
    const struct tile_product product = {.rows = p->rows,
                                         .panels = p->panels,
                                         .k = p->dims,
                                         .x = p->queries,
                                         .x_stride = p->query_stride,
                                         .w = p->tile,
                                         .panel_stride = panel_floats,
                                         .c = p->c,
                                         .c_stride = p->c_stride};
    lanes_product(&product);
}

#if defined(LANES_TURN_HALVES)

/* Eight dimensions of the panels' keys are turned round, and go through the multiply-adds while the
 * next eight are: both want other pipes of the core. */
static ALWAYS_INLINE void lanes_key_block(const struct key_product *p, uint32_t panel,
                                          const uint32_t rows, const uint32_t panels,
                                          const uint32_t dims, const bool side_by_side)
{
    enum { SLAB = 8 };
    const void *const *keys = p->keys + (size_t)panel * PANEL_COLUMNS;
    const float *queries = p->queries;
    const size_t stride = p->query_stride;
    lanes_f sum[8 * PANEL_VECTORS];
    UNROLL
    for (uint32_t s = 0; s < rows * panels * PANEL_VECTORS; s++)
        sum[s] = lanes_zero();
    for (uint32_t d = 0; d < dims; d += SLAB) {
        _Alignas(64) uint16_t halves[KEY_PANELS_MAX][SLAB * PANEL_COLUMNS];
        UNROLL
        for (uint32_t i = 0; i < panels; i++) {
            const void *const *of = keys + (size_t)i * PANEL_COLUMNS;
            lanes_ahead(p->ahead[panel + i], (size_t)d * 32, SLAB * 32);
            lanes_turn_halves(side_by_side ? NULL : of, of[0], 2 * (size_t)dims, d, halves[i]);
        }
        UNROLL
        for (uint32_t k = 0; k < SLAB; k++) {
            UNROLL
            for (uint32_t v = 0; v < panels * PANEL_VECTORS; v++) {
                lanes_f number = lanes_from_half(halves[v / PANEL_VECTORS] + k * PANEL_COLUMNS +
                                                 v % PANEL_VECTORS * LANES);
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    lanes_f *to = &sum[r * panels * PANEL_VECTORS + v];
                    *to = lanes_fma(lanes_set(queries[r * stride + d + k]), number, *to);
                }
            }
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < panels * PANEL_VECTORS; v++)
            lanes_store(p->c + r * p->c_stride + (size_t)panel * PANEL_COLUMNS + v * LANES,
                        sum[r * panels * PANEL_VECTORS + v]);
    }
}

/* The usual dimensions as constants: the addresses of sixteen keys are then one and offsets. Side
 * by side with others, they are made into pointers first. */
static ALWAYS_INLINE void lanes_key_blocks(const struct key_product *p, const uint32_t rows,
                                           const uint32_t panels_most)
{
    for (uint32_t panel = 0; panel < p->panels;) {
        bool whole = p->side_by_side[panel];
        if (whole && p->dims == 64 && panels_most == 2 && panel + 2 <= p->panels &&
            p->side_by_side[panel + 1]) {
            lanes_key_block(p, panel, rows, 2, 64, true);
            panel += 2;
            continue;
        }
        if (whole && p->dims == 64)
            lanes_key_block(p, panel, rows, 1, 64, true);
        else if (whole && p->dims == 128)
            lanes_key_block(p, panel, rows, 1, 128, true);
        else
            lanes_key_block(p, panel, rows, 1, p->dims, whole);
        panel++;
    }
}

/* Two panels at once where few sums would wait for themselves. */
static void lanes_key_product_f16(const struct key_product *p)
{
    if (p->dims % 8 != 0 || p->rows > 4)
        lanes_key_floats(DTYPE_F16, p);
    else if (p->rows == 4)
        lanes_key_blocks(p, 4, 1);
    else if (p->rows == 3)
        lanes_key_blocks(p, 3, 1);
    else if (p->rows == 2)
        lanes_key_blocks(p, 2, 2);
    else
        lanes_key_blocks(p, 1, 2);
}

#else

static void lanes_key_product_f16(const struct key_product *p)
{
    lanes_key_floats(DTYPE_F16, p);
}

#endif

static void lanes_key_product_q8_0(const struct key_product *p)
{
    lanes_key_floats(DTYPE_Q8_0, p);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Numbers d .. d + LANES of a value; d is a multiple of LANES. scale: of their group, for Q8_0. */
static ALWAYS_INLINE lanes_f lanes_kv(const enum dtype type, const uint8_t *value, uint32_t d,
                                      lanes_f scale)
{
    if (type == DTYPE_F16)
        return lanes_from_half(value + 2 * (size_t)d);
    const uint8_t *from = value + (size_t)(d / 32) * Q8_0_BYTES + 2 + d % 32;
    return lanes_mul(lanes_float(lanes_i_from_s8(from)), scale);
}

static ALWAYS_INLINE lanes_f lanes_kv_scale(const enum dtype type, const uint8_t *value, uint32_t d)
{
    if (type == DTYPE_F16)
        return lanes_zero();
    return lanes_set_half(load_u16(value + (size_t)(d / 32) * Q8_0_BYTES));
}

static float lanes_kv_one(const enum dtype type, const uint8_t *value, uint32_t d)
{
    assert(type == DTYPE_F16); /* a group of Q8_0 is whole vectors */
    return f16_to_f32(load_u16(value + 2 * (size_t)d));
}

static ALWAYS_INLINE void lanes_value_rows(const enum dtype type, const uint8_t *values,
                                           uint32_t count, uint32_t dims, float *to,
                                           size_t panel_stride)
{
    const size_t row_bytes = kv_row_bytes(type, dims);
    for (; count > 0; count--, values += row_bytes, to += PANEL_COLUMNS) {
        float *panel = to;
        uint32_t d = 0;
        for (; d + PANEL_COLUMNS <= dims; d += PANEL_COLUMNS, panel += panel_stride) {
            lanes_f scale = lanes_kv_scale(type, values, d);
            UNROLL
            for (uint32_t v = 0; v < PANEL_VECTORS; v++)
                lanes_store(panel + v * LANES, lanes_kv(type, values, d + v * LANES, scale));
        }
        for (uint32_t i = 0; d < dims && i < PANEL_COLUMNS; i++)
            panel[i] = d + i < dims ? lanes_kv_one(type, values, d + i) : 0.0f;
    }
}

/* rows x (vectors of dimensions d ..) held in registers over all values. */
static ALWAYS_INLINE void lanes_value_tile(const enum dtype type, const struct value_product *p,
                                           uint32_t row, uint32_t d, const uint32_t rows,
                                           const uint32_t vectors)
{
    const float *weights = p->weights + row * p->weight_stride;
    const uint8_t *value = p->values;
    float *c = p->c + row * p->c_stride + d;
    lanes_f sum[16], scale = lanes_zero();
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            sum[r * vectors + v] =
                p->add ? lanes_load(c + r * p->c_stride + v * LANES) : lanes_zero();
    }
    const void *ahead = row == 0 ? p->ahead : NULL;
    const size_t row_bytes = kv_row_bytes(type, p->dims), stride = p->weight_stride;
    const size_t at = kv_row_bytes(type, d); /* of the group, for Q8_0 */
    /* Of f16, a pass asks for the lines that begin in it. */
    const uint32_t asks = type != DTYPE_F16
                              ? vectors * LANES
                              : ((d + vectors * LANES + 31) / 32 - (d + 31) / 32) * 64;
    const uint32_t count = p->count;
    for (uint32_t i = 0; i < count; i++, value += row_bytes, weights++) {
        lanes_ahead(ahead, (type == DTYPE_F16 ? (d + 31) / 32 * 64 : at) + i * row_bytes, asks);
        lanes_f weight[4];
        UNROLL
        for (uint32_t r = 0; r < rows; r++)
            weight[r] = lanes_set(weights[r * stride]);
        UNROLL
        for (uint32_t v = 0; v < vectors; v++) {
            if (v * LANES % 32 == 0)
                scale = lanes_kv_scale(type, value, d + v * LANES);
            lanes_f number = lanes_kv(type, value, d + v * LANES, scale);
            UNROLL
            for (uint32_t r = 0; r < rows; r++)
                sum[r * vectors + v] = lanes_fma(weight[r], number, sum[r * vectors + v]);
            /* One number after the other, or they take the registers of the sums. */
            __asm__ volatile("" ::: "memory");
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            lanes_store(c + r * p->c_stride + v * LANES, sum[r * vectors + v]);
    }
}

/* As many as there are registers for: a value is read once, and whole lines of it if possible. They
 * begin at a multiple of their own size, so none crosses a group of Q8_0 in its middle. */
#define VALUE_VECTORS(rows) (LANES != 8 || (rows) < 4 ? 4u : 2u)

static ALWAYS_INLINE void lanes_value_rows_of(const enum dtype type, const struct value_product *p,
                                              uint32_t row, const uint32_t rows)
{
    uint32_t d = 0;
    const uint32_t vectors = VALUE_VECTORS(rows);
    for (; d + vectors * LANES <= p->dims; d += vectors * LANES)
        lanes_value_tile(type, p, row, d, rows, vectors);
    for (; d + LANES <= p->dims; d += LANES)
        lanes_value_tile(type, p, row, d, rows, 1);
    const size_t row_bytes = kv_row_bytes(type, p->dims);
    for (; d < p->dims; d++) {
        for (uint32_t r = row; r < row + rows; r++) {
            float *c = p->c + r * p->c_stride + d;
            float sum = p->add ? *c : 0.0f;
            for (uint32_t i = 0; i < p->count; i++)
                sum = __builtin_fmaf(
                    p->weights[r * p->weight_stride + i],
                    lanes_kv_one(type, (const uint8_t *)p->values + i * row_bytes, d), sum);
            *c = sum;
        }
    }
}

static ALWAYS_INLINE void lanes_value_product(const enum dtype type, const struct value_product *p)
{
    for (uint32_t row = 0; row < p->rows;) {
        uint32_t left = p->rows - row;
        if (left >= 4)
            lanes_value_rows_of(type, p, row, 4);
        else if (left == 3)
            lanes_value_rows_of(type, p, row, 3);
        else if (left == 2)
            lanes_value_rows_of(type, p, row, 2);
        else
            lanes_value_rows_of(type, p, row, 1);
        row += left < 4 ? left : 4;
    }
}

#define LANES_KV(name, type)                                                                       \
    static void lanes_value_product_##name(const struct value_product *p)                          \
    {                                                                                              \
        lanes_value_product(type, p);                                                              \
    }                                                                                              \
    static void lanes_value_rows_##name(const void *values, uint32_t count, uint32_t dims,         \
                                        float *to, size_t panel_stride)                            \
    {                                                                                              \
        lanes_value_rows(type, values, count, dims, to, panel_stride);                             \
    }

LANES_KV(f16, DTYPE_F16)
LANES_KV(q8_0, DTYPE_Q8_0)
