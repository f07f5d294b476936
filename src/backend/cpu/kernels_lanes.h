/* backend/cpu/kernels_lanes.h - the float kernels over vectors of LANES floats (4, 8 or 16).
 *
 * Included once by each kernels_*.c after its lanes file; it is the body of that file. Each loop is
 * the one of kernels_scalar.c with the lanes being outputs (products) or the index mod 16 (sums).
 */
#include <assert.h>
#include <string.h>

#include "backend/cpu/elementary.h"
#include "backend/cpu/kernels.h"
#include "base/bytes.h"

#define PANEL_VECTORS (16 / LANES)

/* ---- exp ------------------------------------------------------------------------------------- */

/* Of a few vectors, step by step: one after the other, the core would have room for the steps of
 * three, which wait for each other. */
static ALWAYS_INLINE void lanes_exps(lanes_f *x, const int count)
{
    static const float factors[] = {EXP_C6, EXP_C5, EXP_C4, EXP_C3, EXP_C2, 1.0f, 1.0f};
    lanes_i n[8];
    lanes_f p[8];
    UNROLL
    for (int v = 0; v < count; v++) {
        x[v] = lanes_min(lanes_max(x[v], lanes_set(EXP_LOW)), lanes_set(EXP_HIGH));
        n[v] = lanes_round(lanes_mul(x[v], lanes_set(EXP_LOG2E)));
    }
    UNROLL
    for (int v = 0; v < count; v++) {
        lanes_f minus_n = lanes_sub(lanes_zero(), lanes_float(n[v]));
        x[v] = lanes_fma(minus_n, lanes_set(EXP_LN2_HIGH), x[v]);
        x[v] = lanes_fma(minus_n, lanes_set(EXP_LN2_LOW), x[v]);
        p[v] = lanes_set(EXP_C7);
    }
    UNROLL
    for (int i = 0; i < 7; i++) {
        UNROLL
        for (int v = 0; v < count; v++)
            p[v] = lanes_fma(p[v], x[v], lanes_set(factors[i]));
    }
    UNROLL
    for (int v = 0; v < count; v++) {
        lanes_i power = lanes_i_left(lanes_i_add(n[v], lanes_i_set(127)), 23);
        x[v] = lanes_mul(p[v], lanes_cast(power));
    }
}

static ALWAYS_INLINE lanes_f lanes_exp(lanes_f x)
{
    lanes_exps(&x, 1);
    return x;
}

/* ---- sums over 16 partial sums --------------------------------------------------------------- */

static float lanes_square_sum(const float *x, uint32_t count)
{
    lanes_f sum[PANEL_VECTORS];
    UNROLL
    for (int v = 0; v < PANEL_VECTORS; v++)
        sum[v] = lanes_zero();
    uint32_t i = 0;
    for (; i + SUM_LANES <= count; i += SUM_LANES) {
        UNROLL
        for (int v = 0; v < PANEL_VECTORS; v++) {
            lanes_f value = lanes_load(x + i + v * LANES);
            sum[v] = lanes_fma(value, value, sum[v]);
        }
    }
    float partial[SUM_LANES];
    UNROLL
    for (int v = 0; v < PANEL_VECTORS; v++)
        lanes_store(partial + v * LANES, sum[v]);
    for (; i < count; i++)
        partial[i % SUM_LANES] = __builtin_fmaf(x[i], x[i], partial[i % SUM_LANES]);
    return sum_merge(partial);
}

/* The weights of count vectors of scores, and their sums. */
static ALWAYS_INLINE void lanes_weights(float *s, float largest, const int count, lanes_f *sum)
{
    lanes_f x[8], weight[8];
    UNROLL
    for (int v = 0; v < count; v++)
        weight[v] = x[v] = lanes_sub(lanes_load(s + v * LANES), lanes_set(largest));
    lanes_exps(weight, count);
    UNROLL
    for (int v = 0; v < count; v++) {
        weight[v] = lanes_where_not_below(x[v], lanes_set(SOFTMAX_CUT), weight[v]);
        lanes_store(s + v * LANES, weight[v]);
        sum[v % PANEL_VECTORS] = lanes_add(sum[v % PANEL_VECTORS], weight[v]);
    }
}

static float lanes_softmax(float *s, uint32_t count, float *max_out)
{
    uint32_t padded = (count + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
    for (uint32_t t = count; t < padded; t++)
        s[t] = -INFINITY;

    lanes_f most[PANEL_VECTORS], sum[PANEL_VECTORS];
    UNROLL
    for (int v = 0; v < PANEL_VECTORS; v++) {
        most[v] = lanes_set(s[0]);
        sum[v] = lanes_zero();
    }
    for (uint32_t t = 0; t < padded; t += SUM_LANES) {
        UNROLL
        for (int v = 0; v < PANEL_VECTORS; v++)
            most[v] = lanes_max(lanes_load(s + t + v * LANES), most[v]);
    }
    float partial[SUM_LANES];
    UNROLL
    for (int v = 0; v < PANEL_VECTORS; v++)
        lanes_store(partial + v * LANES, most[v]);
    float largest = partial[0];
    for (uint32_t i = 1; i < SUM_LANES; i++)
        largest = partial[i] > largest ? partial[i] : largest;

    uint32_t t = 0;
    for (; t + 2 * SUM_LANES <= padded; t += 2 * SUM_LANES)
        lanes_weights(s + t, largest, 2 * PANEL_VECTORS, sum);
    if (t < padded)
        lanes_weights(s + t, largest, PANEL_VECTORS, sum);
    UNROLL
    for (int v = 0; v < PANEL_VECTORS; v++)
        lanes_store(partial + v * LANES, sum[v]);
    *max_out = largest;
    return sum_merge(partial);
}

/* ---- value by value -------------------------------------------------------------------------- */

static void lanes_gate(const float *gate, const float *up, float *h, size_t count)
{
    lanes_f one = lanes_set(1.0f);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f g = lanes_load(gate + i);
        lanes_f silu = lanes_div(g, lanes_add(one, lanes_exp(lanes_sub(lanes_zero(), g))));
        lanes_store(h + i, lanes_mul(silu, lanes_load(up + i)));
    }
    for (; i < count; i++) {
        float silu = gate[i] / (1.0f + exp_scalar(-gate[i]));
        h[i] = silu * up[i];
    }
}

static void lanes_merge(float *o, const float *part, float a, float b, uint32_t count)
{
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        lanes_f scaled = lanes_mul(lanes_load(part + i), lanes_set(b));
        lanes_store(o + i, lanes_fma(lanes_load(o + i), lanes_set(a), scaled));
    }
    for (; i < count; i++)
        o[i] = __builtin_fmaf(o[i], a, part[i] * b);
}

/* ---- packed weights to floats ---------------------------------------------------------------- */

static void lanes_unpack_f32(const struct packed *w, const uint8_t *panel, uint32_t k0,
                             uint32_t count, float *tile)
{
    (void)w;
    memcpy(tile, panel + (size_t)k0 * PANEL_COLUMNS * 4, (size_t)count * PANEL_COLUMNS * 4);
}

static void lanes_unpack_f16(const struct packed *w, const uint8_t *panel, uint32_t k0,
                             uint32_t count, float *tile)
{
    (void)w;
    const uint8_t *from = panel + (size_t)k0 * PANEL_COLUMNS * 2;
    for (size_t i = 0; i < (size_t)count * PANEL_COLUMNS; i += LANES)
        lanes_store(tile + i, lanes_from_half(from + 2 * i));
}

/* Of LANES pairs of k, the first or the second. */
static ALWAYS_INLINE lanes_f lanes_brain_of(const uint8_t *pairs, bool second)
{
    lanes_i two = lanes_i_load(pairs);
    return lanes_cast(second ? lanes_i_and(two, lanes_i_set((int)0xffff0000u))
                             : lanes_i_left(two, 16));
}

static ALWAYS_INLINE void lanes_unpack_brain(const uint8_t *panel, uint32_t k, bool second,
                                             float *tile)
{
    UNROLL
    for (uint32_t i = 0; i < PANEL_COLUMNS; i += LANES)
        lanes_store(tile + i, lanes_brain_of(panel + packed_bf16_at(k, i), second));
}

static void lanes_unpack_bf16(const struct packed *w, const uint8_t *panel, uint32_t k0,
                              uint32_t count, float *tile)
{
    (void)w;
    const uint32_t end = k0 + count;
    uint32_t k = k0;
    if (k % 2 != 0 && k < end) {
        lanes_unpack_brain(panel, k - 1, true, tile);
        k++;
    }
    for (; k + 2 <= end; k += 2) {
        lanes_unpack_brain(panel, k, false, tile + (size_t)(k - k0) * PANEL_COLUMNS);
        lanes_unpack_brain(panel, k, true, tile + (size_t)(k + 1 - k0) * PANEL_COLUMNS);
    }
    if (k < end)
        lanes_unpack_brain(panel, k, false, tile + (size_t)(k - k0) * PANEL_COLUMNS);
}

/* ---- few rows times packed halves ------------------------------------------------------------ */

/* With few rows memory is what a product waits for: this much later in the stream is asked for, as
 * in int8_quantize.h. */
#define FEW_AHEAD_BYTES 2048u

/* Two k of a panel: 16 columns of two times two bytes. */
#define FEW_STEP_BYTES (4 * PANEL_COLUMNS)

/* Vector v of the first or second of two k. */
static ALWAYS_INLINE lanes_f lanes_from(enum dtype type, const uint8_t *two, uint32_t v,
                                        bool second)
{
    if (type == DTYPE_F16)
        return lanes_from_half(two + (second ? 2 * PANEL_COLUMNS : 0) + v * LANES * 2);
    return lanes_brain_of(two + v * LANES * 4, second);
}

/* One k of a block: the first or second of two. */
static ALWAYS_INLINE void lanes_few_step(enum dtype type, const uint8_t *two, size_t stride,
                                         const float *x, size_t x_stride, const uint32_t rows,
                                         const uint32_t panels, bool second, lanes_f *sum)
{
    UNROLL
    for (uint32_t i = 0; i < panels; i++) {
        UNROLL
        for (uint32_t v = 0; v < PANEL_VECTORS; v++) {
            lanes_f weight = lanes_from(type, two + i * stride, v, second);
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                lanes_f *to = &sum[(r * panels + i) * PANEL_VECTORS + v];
                *to = lanes_fma(lanes_set(x[r * x_stride]), weight, *to);
            }
        }
    }
}

/* rows x (panels side by side), whose sums stay in registers over all k. */
static ALWAYS_INLINE void lanes_few_block(enum dtype type, const struct few_product *p,
                                          uint32_t panel, uint32_t row, const uint32_t rows,
                                          const uint32_t panels)
{
    const size_t stride = p->w->panel_bytes;
    const uint8_t *w = packed_panel(p->w, p->first_panel + panel);
    const float *x = p->x + row * p->x_stride;
    const bool first = row == 0;
    lanes_f sum[16];
    UNROLL
    for (uint32_t s = 0; s < rows * panels * PANEL_VECTORS; s++)
        sum[s] = lanes_zero();
    uint32_t k = 0;
    for (; k + 2 <= p->w->columns; k += 2, w += FEW_STEP_BYTES, x += 2) {
        if (first) {
            /* Where a panel ends, what comes next is behind the panels beside it. */
            bool ends = k + 2 * (FEW_AHEAD_BYTES / FEW_STEP_BYTES) >= p->w->columns;
            const uint8_t *ahead = w + FEW_AHEAD_BYTES + (ends ? (panels - 1) * stride : 0);
            UNROLL
            for (uint32_t i = 0; i < panels; i++)
                __builtin_prefetch((const char *)ahead + i * stride, 0, 3);
        }
        lanes_few_step(type, w, stride, x, p->x_stride, rows, panels, false, sum);
        lanes_few_step(type, w, stride, x + 1, p->x_stride, rows, panels, true, sum);
    }
    if (k < p->w->columns)
        lanes_few_step(type, w, stride, x, p->x_stride, rows, panels, false, sum);
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        float *c = p->c + (row + r) * p->c_stride + (size_t)panel * PANEL_COLUMNS;
        UNROLL
        for (uint32_t v = 0; v < panels * PANEL_VECTORS; v++)
            lanes_store(c + v * LANES, sum[r * panels * PANEL_VECTORS + v]);
    }
}

/* Rows row .. of a panel, the first block of which brings it into the cache. */
static ALWAYS_INLINE uint32_t lanes_few_rows(enum dtype type, const struct few_product *p,
                                             uint32_t panel, uint32_t row)
{
    uint32_t left = p->rows - row;
    if (left >= 4)
        lanes_few_block(type, p, panel, row, 4, 1);
    else if (left == 3)
        lanes_few_block(type, p, panel, row, 3, 1);
    else if (left == 2)
        lanes_few_block(type, p, panel, row, 2, 1);
    else
        lanes_few_block(type, p, panel, row, 1, 1);
    return left < 4 ? left : 4;
}

/* Two panels at once for one row or two: a chain of sums waits for itself. */
static ALWAYS_INLINE void lanes_few(enum dtype type, const struct few_product *p)
{
    uint32_t panel = 0;
    for (; p->rows == 1 && panel + 2 <= p->panels; panel += 2)
        lanes_few_block(type, p, panel, 0, 1, 2);
    for (; p->rows == 2 && panel + 2 <= p->panels; panel += 2)
        lanes_few_block(type, p, panel, 0, 2, 2);
    for (; panel < p->panels; panel++)
        for (uint32_t row = 0; row < p->rows;)
            row += lanes_few_rows(type, p, panel, row);
}

static void lanes_few_f16(const struct few_product *p)
{
    lanes_few(DTYPE_F16, p);
}

static void lanes_few_bf16(const struct few_product *p)
{
    lanes_few(DTYPE_BF16, p);
}

/* Scale and minimum of LANES columns from c0 on, for part part of 32 (Q6_K: 16) values. */
static ALWAYS_INLINE void lanes_scale(enum dtype type, const uint8_t *scales, uint32_t part,
                                      uint32_t c0, lanes_f *scale_out, lanes_f *minimum_out)
{
    lanes_f d = lanes_from_half(scales + c0 * 2);
    *minimum_out = lanes_zero();
    if (type == DTYPE_Q4_1)
        *minimum_out = lanes_from_half(scales + 32 + c0 * 2);
    if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
        lanes_f dmin = lanes_from_half(scales + 32 + c0 * 2);
        const uint8_t *of_part = scales + 64 + part * 32 + c0;
        lanes_f m = lanes_mul(dmin, lanes_float(lanes_i_from_u8(of_part + 16)));
        *minimum_out = lanes_mul(m, lanes_set(-1.0f));
        d = lanes_mul(d, lanes_float(lanes_i_from_u8(of_part)));
    } else if (type == DTYPE_Q6_K) {
        d = lanes_mul(d, lanes_float(lanes_i_from_s8(scales + 32 + part * 16 + c0)));
    }
    *scale_out = d;
}

/* Four values (bytes) of each of LANES columns: quad of a group. */
static ALWAYS_INLINE lanes_i lanes_quad(enum dtype type, const uint8_t *values, const uint8_t *high,
                                        uint32_t quad, uint32_t c0)
{
    if (type == DTYPE_Q8_0)
        return lanes_i_load(values + quad * 64 + c0 * 4);
    lanes_i q = lanes_i_load(values + quad % 4 * 64 + c0 * 4);
    q = lanes_i_and(lanes_i_right(q, quad / 4 * 4), lanes_i_set(0x0f0f0f0f));
    if (type == DTYPE_Q5_K) {
        lanes_i bit = lanes_i_right(lanes_i_load(high + c0 * 4), quad);
        q = lanes_i_or(q, lanes_i_left(lanes_i_and(bit, lanes_i_set(0x01010101)), 4));
    } else if (type == DTYPE_Q6_K) {
        lanes_i bits = lanes_i_right(lanes_i_load(high + quad / 4 * 64 + c0 * 4), quad % 4 * 2);
        q = lanes_i_or(q, lanes_i_left(lanes_i_and(bits, lanes_i_set(0x03030303)), 4));
    }
    return q;
}

static ALWAYS_INLINE void lanes_unpack_group(enum dtype type, const uint8_t *panel, uint32_t group,
                                             float *tile)
{
    struct packed_group at = packed_group_at(type, panel, group);
    int32_t zero = type == DTYPE_Q8_0 ? 128 : type == DTYPE_Q4_0 ? 8 : type == DTYPE_Q6_K ? 32 : 0;
    bool minimum = type == DTYPE_Q4_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K;
    for (uint32_t c0 = 0; c0 < PANEL_COLUMNS; c0 += LANES) {
        lanes_f d, m;
        lanes_scale(type, at.scales, type == DTYPE_Q6_K ? group % 8 * 2 : group % 8, c0, &d, &m);
        UNROLL
        for (uint32_t quad = 0; quad < 8; quad++) {
            if (type == DTYPE_Q6_K && quad == 4)
                lanes_scale(type, at.scales, group % 8 * 2 + 1, c0, &d, &m);
            lanes_i q = lanes_quad(type, at.values, at.high, quad, c0);
            UNROLL
            for (uint32_t byte = 0; byte < 4; byte++) {
                lanes_i one = lanes_i_and(lanes_i_right(q, byte * 8), lanes_i_set(0xff));
                lanes_f value = lanes_float(lanes_i_sub(one, lanes_i_set(zero)));
                value = minimum ? lanes_fma(d, value, m) : lanes_mul(d, value);
                lanes_store(tile + (quad * 4 + byte) * PANEL_COLUMNS + c0, value);
            }
        }
    }
}

static ALWAYS_INLINE void lanes_unpack(enum dtype type, const uint8_t *panel, uint32_t k0,
                                       uint32_t count, float *tile)
{
    for (uint32_t group = k0 / 32; group < (k0 + count) / 32; group++, tile += 32 * PANEL_COLUMNS)
        lanes_unpack_group(type, panel, group, tile);
}

#define UNPACK(name, type)                                                                         \
    static void name(const struct packed *w, const uint8_t *panel, uint32_t k0, uint32_t count,    \
                     float *tile)                                                                  \
    {                                                                                              \
        (void)w;                                                                                   \
        lanes_unpack(type, panel, k0, count, tile);                                                \
    }
UNPACK(lanes_unpack_q8_0, DTYPE_Q8_0)
UNPACK(lanes_unpack_q4_0, DTYPE_Q4_0)
UNPACK(lanes_unpack_q4_1, DTYPE_Q4_1)
UNPACK(lanes_unpack_q4_k, DTYPE_Q4_K)
UNPACK(lanes_unpack_q5_k, DTYPE_Q5_K)
UNPACK(lanes_unpack_q6_k, DTYPE_Q6_K)

/* ---- float products -------------------------------------------------------------------------- */

/* rows x (16 panels) outputs held in registers over all of k. */
static ALWAYS_INLINE void lanes_tile(const struct tile_product *p, uint32_t row, uint32_t panel,
                                     const uint32_t rows, const uint32_t panels)
{
    const uint32_t vectors = panels * PANEL_VECTORS;
    const float *x = p->x + row * p->x_stride;
    const float *w = p->w + panel * p->panel_stride;
    float *c = p->c + row * p->c_stride + panel * PANEL_COLUMNS;
    lanes_f sum[12 * 8];

    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            sum[r * vectors + v] =
                p->add ? lanes_load(c + r * p->c_stride + v * LANES) : lanes_zero();
    }
    for (uint32_t k = 0; k < p->k; k++) {
        lanes_f column[16];
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            column[v] = lanes_load(w + v / PANEL_VECTORS * p->panel_stride +
                                   (size_t)k * PANEL_COLUMNS + v % PANEL_VECTORS * LANES);
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            lanes_f one = lanes_set(x[r * p->x_stride + k]);
            UNROLL
            for (uint32_t v = 0; v < vectors; v++)
                sum[r * vectors + v] = lanes_fma(one, column[v], sum[r * vectors + v]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vectors; v++)
            lanes_store(c + r * p->c_stride + v * LANES, sum[r * vectors + v]);
    }
}

/* All rows of panels panel .. panel + panels, in blocks that fill the registers. */
#define TILE_CASE(rows, panels)                                                                    \
    case rows:                                                                                     \
        lanes_tile(p, row, panel, rows, panels);                                                   \
        break

#define TILE_ROWS (LANES == 16 ? 12u : 6u)

static void lanes_rows_wide(const struct tile_product *p, uint32_t row, uint32_t panel,
                            uint32_t rows)
{
    switch (rows) {
#if LANES == 16
        TILE_CASE(1, 4);
        TILE_CASE(2, 4);
        TILE_CASE(3, 4);
        TILE_CASE(4, 4);
        TILE_CASE(5, 4);
        TILE_CASE(6, 4);
        TILE_CASE(7, 2);
        TILE_CASE(8, 2);
        TILE_CASE(9, 2);
        TILE_CASE(10, 2);
        TILE_CASE(11, 2);
        TILE_CASE(12, 2);
#else
        TILE_CASE(1, 4);
        TILE_CASE(2, 2);
#if LANES == 8
        TILE_CASE(3, 2);
#endif
#endif
    default:
        break;
    }
}

static void lanes_rows_narrow(const struct tile_product *p, uint32_t row, uint32_t panel,
                              uint32_t rows)
{
    switch (rows) {
        TILE_CASE(1, 1);
        TILE_CASE(2, 1);
        TILE_CASE(3, 1);
        TILE_CASE(4, 1);
        TILE_CASE(5, 1);
        TILE_CASE(6, 1);
#if LANES == 16
        TILE_CASE(7, 1);
        TILE_CASE(8, 1);
        TILE_CASE(9, 1);
        TILE_CASE(10, 1);
        TILE_CASE(11, 1);
        TILE_CASE(12, 1);
#endif
    default:
        break;
    }
}

/* Panels that a tile of so many rows is wide. */
static uint32_t lanes_tile_panels(uint32_t rows)
{
#if LANES == 16
    return rows <= 6 ? 4 : 2;
#elif LANES == 8
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#else
    return rows == 1 ? 4 : rows == 2 ? 2 : 1;
#endif
}

static void lanes_product(const struct tile_product *p)
{
    uint32_t most = p->rows < TILE_ROWS ? p->rows : TILE_ROWS;
    uint32_t step = lanes_tile_panels(most);
    for (uint32_t panel = 0; panel < p->panels; panel += step) {
        uint32_t panels = p->panels - panel < step ? p->panels - panel : step;
        for (uint32_t row = 0; row < p->rows; row += TILE_ROWS) {
            uint32_t rows = p->rows - row < TILE_ROWS ? p->rows - row : TILE_ROWS;
            uint32_t at = panel;
            uint32_t wide = lanes_tile_panels(rows);
            for (; wide > 1 && at + wide <= panel + panels; at += wide)
                lanes_rows_wide(p, row, at, rows);
            for (; at < panel + panels; at++)
                lanes_rows_narrow(p, row, at, rows);
        }
    }
}

/* Twelve chains: two multiply-adds a cycle, each ready after four or five. Vectors of 4 lanes may
 * have four pipes. */
#define PEAK_CHAINS (LANES == 4 ? 20 : 12)
static uint64_t lanes_peak_float(uint32_t rounds, float *sink_out)
{
    lanes_f sums[PEAK_CHAINS], factor = lanes_set(0.5f), one = lanes_set(1.0f),
                               total = lanes_zero();
    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++)
        sums[i] = lanes_set((float)i);
    for (uint32_t round = 0; round < rounds; round++) {
        UNROLL
        for (int i = 0; i < PEAK_CHAINS; i++)
            sums[i] = lanes_fma(sums[i], factor, one);
    }
    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++)
        total = lanes_add(total, sums[i]);
    float partial[LANES];
    lanes_store(partial, total);
    *sink_out = partial[0];
    return (uint64_t)rounds * PEAK_CHAINS * LANES * 2;
}

static void lanes_peak_read(const uint8_t *from, size_t bytes, float *sink_out)
{
    lanes_i sums[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        sums[i] = lanes_i_set(0);
    for (size_t at = 0; at < bytes; at += sizeof(sums)) {
        UNROLL
        for (int i = 0; i < 4; i++)
            sums[i] = lanes_i_add(sums[i], lanes_i_load(from + at + (size_t)i * sizeof(lanes_i)));
    }
    float partial[LANES];
    lanes_store(partial, lanes_cast(lanes_i_add(lanes_i_add(sums[0], sums[1]),
                                                lanes_i_add(sums[2], sums[3]))));
    *sink_out = partial[0];
}

#include "backend/cpu/kv_lanes.h"
