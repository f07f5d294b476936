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

/* One number after the other, or they take the registers of the sums. */
#define LANES_ONE_BY_ONE __asm__ volatile("" ::: "memory")

/* Ask for bytes from at on of what the caller will read later. */
static ALWAYS_INLINE void lanes_ahead(const void *ahead, size_t at, uint32_t bytes)
{
    if (ahead != NULL)
        for (uint32_t i = 0; i < bytes; i += 64)
            __builtin_prefetch((const char *)ahead + at + i, 0, 2);
}

/* The same of what it will read next, into the first cache. It has been asked for before, but a
 * core that waits for as many lines as it can drops what else it is asked for. */
static ALWAYS_INLINE void lanes_soon(const void *soon, size_t at, uint32_t bytes)
{
    if (soon != NULL)
        for (uint32_t i = 0; i < bytes; i += 64)
            __builtin_prefetch((const char *)soon + at + i, 0, 3);
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

/* Sixteen keys turned round, as halves [dims][16]. The usual dimensions as a constant: the
 * addresses of the keys are then one and offsets. */
static ALWAYS_INLINE void lanes_key_halves_of(const struct key_product *p, uint32_t panel,
                                              uint16_t *to, const uint32_t dims, const bool whole)
{
    const void *const *keys = p->keys + (size_t)panel * PANEL_COLUMNS;
    for (uint32_t d = 0; d < dims; d += 8, to += 8 * PANEL_COLUMNS) {
        lanes_soon(p->soon[panel], (size_t)d * 2 * PANEL_COLUMNS, 8 * 2 * PANEL_COLUMNS);
        lanes_turn_halves(whole ? NULL : keys, whole ? keys[0] : NULL, 2 * (size_t)dims, d, to);
    }
}

static NOINLINE void lanes_key_halves(const struct key_product *p, uint32_t panel, uint16_t *to)
{
    if (p->side_by_side[panel] && p->dims == 64)
        lanes_key_halves_of(p, panel, to, 64, true);
    else
        lanes_key_halves_of(p, panel, to, p->dims, p->side_by_side[panel]);
}

/* All sums of a few rows and panels at once, in registers: from halves in p->tile, for turning
 * takes as many registers itself. */
static ALWAYS_INLINE void lanes_half_scores(const struct key_product *p, uint32_t row,
                                            uint32_t panel, const uint32_t rows,
                                            const uint32_t panels)
{
    const size_t stride = p->query_stride, panel_halves = (size_t)p->dims * PANEL_COLUMNS;
    const float *queries = p->queries + row * stride;
    const uint16_t *half = (const uint16_t *)(const void *)p->tile + panel * panel_halves;
    lanes_f sum[8 * PANEL_VECTORS];
    UNROLL
    for (uint32_t s = 0; s < rows * panels * PANEL_VECTORS; s++)
        sum[s] = lanes_zero();
    for (uint32_t i = 0; i < 2; i++) { /* half of the dimensions, and of the lines to ask for */
        const uint32_t asked = panel + (panels == 2 ? i : 0);
        const void *ahead = row > 0 ? NULL : p->ahead[asked];
        const void *soon = row > 0 ? NULL : p->soon[asked];
        for (uint32_t d = 0; d < p->dims / 2; d++, queries++, half += PANEL_COLUMNS) {
            if (panels == 2 || d % 2 == 0) {
                size_t line = panels == 2 ? d * 64 : (i * (p->dims / 2) + d) * 32;
                lanes_ahead(ahead, line, 64);
                lanes_soon(soon, line, 64);
            }
            lanes_f query[4];
            UNROLL
            for (uint32_t r = 0; r < rows; r++)
                query[r] = lanes_set(queries[r * stride]);
            UNROLL
            for (uint32_t v = 0; v < panels * PANEL_VECTORS; v++) {
                lanes_f number = lanes_from_half(half + v / PANEL_VECTORS * panel_halves +
                                                 v % PANEL_VECTORS * LANES);
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    lanes_f *to = &sum[r * panels * PANEL_VECTORS + v];
                    *to = lanes_fma(query[r], number, *to);
                }
                LANES_ONE_BY_ONE;
            }
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < panels * PANEL_VECTORS; v++)
            lanes_store(p->c + (row + r) * p->c_stride + (size_t)panel * PANEL_COLUMNS + v * LANES,
                        sum[r * panels * PANEL_VECTORS + v]);
    }
}

/* Functions of their own, or the compiler gives some of the sums no register. */
#define LANES_SCORES(rows, panels)                                                                 \
    static NOINLINE void lanes_scores_##rows##_##panels(const struct key_product *p, uint32_t row, \
                                                        uint32_t panel)                            \
    {                                                                                              \
        lanes_half_scores(p, row, panel, rows, panels);                                            \
    }

LANES_SCORES(4, 1)
LANES_SCORES(3, 1)
LANES_SCORES(2, 1)
LANES_SCORES(1, 1)
LANES_SCORES(3, 2)
LANES_SCORES(2, 2)
LANES_SCORES(1, 2)

/* Two panels at once where the sums of one would wait for themselves. */
static void lanes_key_product_f16(const struct key_product *p)
{
    typedef void scores(const struct key_product *, uint32_t row, uint32_t panel);
    static scores *const of[2][4] = {
        {lanes_scores_1_1, lanes_scores_2_1, lanes_scores_3_1, lanes_scores_4_1},
        {lanes_scores_1_2, lanes_scores_2_2, lanes_scores_3_2, NULL}};
    if (p->dims % 8 != 0) {
        lanes_key_floats(DTYPE_F16, p);
        return;
    }
    for (uint32_t i = 0; i < p->panels; i++)
        lanes_key_halves(p, i, (uint16_t *)(void *)p->tile + (size_t)i * p->dims * PANEL_COLUMNS);
    for (uint32_t row = 0, rows; row < p->rows; row += rows) {
        rows = p->rows - row < 4 ? p->rows - row : 4;
        if (rows < 4 && p->panels == 2)
            of[1][rows - 1](p, row, 0);
        else
            for (uint32_t i = 0; i < p->panels; i++)
                of[0][rows - 1](p, row, i);
    }
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

/* Of so many dimensions, of a group's part if need be. */
static ALWAYS_INLINE size_t lanes_kv_bytes(const enum dtype type, size_t dims)
{
    return type == DTYPE_F16 ? 2 * dims : dims * Q8_0_BYTES / 32;
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
    const void *ahead = row == 0 ? p->ahead : NULL, *soon = row == 0 ? p->soon : NULL;
    const size_t row_bytes = kv_row_bytes(type, p->dims), stride = p->weight_stride;
    /* What is to be asked for is shared out among the passes, and asked for in order: the machine
     * goes on where lines follow each other. */
    const size_t part = lanes_kv_bytes(type, vectors * LANES);
    size_t asked = lanes_kv_bytes(type, d) * p->count;
    const uint32_t count = p->count;
    for (uint32_t i = 0; i < count; i++, value += row_bytes, weights++, asked += part) {
        for (size_t line = (asked + 63) / 64 * 64; line < asked + part; line += 64) {
            lanes_ahead(ahead, line, 64);
            lanes_soon(soon, line, 64);
        }
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
            LANES_ONE_BY_ONE;
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

/* Functions of their own, as those of scores. */
#define LANES_VALUES(name, type, rows)                                                             \
    static NOINLINE void lanes_values_##name##_##rows(const struct value_product *p, uint32_t row) \
    {                                                                                              \
        lanes_value_rows_of(type, p, row, rows);                                                   \
    }

#define LANES_KV(name, type)                                                                       \
    LANES_VALUES(name, type, 1)                                                                    \
    LANES_VALUES(name, type, 2)                                                                    \
    LANES_VALUES(name, type, 3)                                                                    \
    LANES_VALUES(name, type, 4)                                                                    \
    static void lanes_value_product_##name(const struct value_product *p)                          \
    {                                                                                              \
        uint32_t row = 0;                                                                          \
        for (; row + 4 <= p->rows; row += 4)                                                       \
            lanes_values_##name##_4(p, row);                                                       \
        if (p->rows - row == 3)                                                                    \
            lanes_values_##name##_3(p, row);                                                       \
        else if (p->rows - row == 2)                                                               \
            lanes_values_##name##_2(p, row);                                                       \
        else if (p->rows - row == 1)                                                               \
            lanes_values_##name##_1(p, row);                                                       \
    }                                                                                              \
    static void lanes_value_rows_##name(const void *values, uint32_t count, uint32_t dims,         \
                                        float *to, size_t panel_stride)                            \
    {                                                                                              \
        lanes_value_rows(type, values, count, dims, to, panel_stride);                             \
    }

LANES_KV(f16, DTYPE_F16)
LANES_KV(q8_0, DTYPE_Q8_0)
