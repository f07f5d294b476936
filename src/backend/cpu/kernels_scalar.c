#include "backend/cpu/kernels.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/bf16_class.h"
#include "backend/cpu/elementary.h"
#include "backend/cpu/scalar_scales.h"
#include "base/bytes.h"
#include "base/half.h"

static void unpack_single(const struct packed *w, const uint8_t *panel, uint32_t k0, uint32_t count,
                          float *tile)
{
    size_t first = (size_t)k0 * PANEL_COLUMNS;
    for (size_t i = 0; i < (size_t)count * PANEL_COLUMNS; i++) {
        if (w->type == DTYPE_F32)
            tile[i] = float_from_bits(load_u32(panel + 4 * (first + i)));
        else if (w->type == DTYPE_F16)
            tile[i] = f16_to_f32(load_u16(panel + 2 * (first + i)));
        else
            tile[i] = bf16_to_f32(load_u16(
                panel + packed_bf16_at(k0 + i / PANEL_COLUMNS, (uint32_t)(i % PANEL_COLUMNS))));
    }
}

static bool has_minimum(enum dtype type)
{
    return type == DTYPE_Q4_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K;
}

static void unpack_groups(const struct packed *w, const uint8_t *panel, uint32_t k0, uint32_t count,
                          float *tile)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t column = 0; column < PANEL_COLUMNS; column++) {
            uint32_t k = k0 + i;
            struct column_scale scale = column_scale(w, panel, k, column);
            int32_t q = (int32_t)column_value(w, panel, k, column) - scale.zero;
            *tile++ = has_minimum(w->type) ? fmaf(scale.scale, (float)q, scale.minimum)
                                           : scale.scale * (float)q;
        }
    }
}

static float half_weight(enum dtype type, const uint8_t *panel, size_t k, uint32_t column)
{
    if (type == DTYPE_F16)
        return f16_to_f32(load_u16(panel + 2 * (k * PANEL_COLUMNS + column)));
    return bf16_to_f32(load_u16(panel + packed_bf16_at(k, column)));
}

static void few_product(const struct few_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        const float *x = p->x + row * p->x_stride;
        for (uint32_t column = 0; column < p->panels * PANEL_COLUMNS; column++) {
            const uint8_t *w = packed_panel(p->w, p->first_panel + column / PANEL_COLUMNS);
            float sum = 0.0f;
            for (uint32_t k = 0; k < p->w->columns; k++)
                sum = fmaf(x[k], half_weight(p->w->type, w, k, column % PANEL_COLUMNS), sum);
            p->c[row * p->c_stride + column] = sum;
        }
    }
}

static void product(const struct tile_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        const float *x = p->x + row * p->x_stride;
        for (uint32_t column = 0; column < p->panels * PANEL_COLUMNS; column++) {
            const float *w =
                p->w + column / PANEL_COLUMNS * p->panel_stride + column % PANEL_COLUMNS;
            float *c = p->c + row * p->c_stride + column;
            float sum = p->add ? *c : 0.0f;
            for (uint32_t k = 0; k < p->k; k++)
                sum = fmaf(x[k], w[(size_t)k * PANEL_COLUMNS], sum);
            *c = sum;
        }
    }
}

static void quantize(const float *x, uint32_t count, int8_t *values, struct quant_scale *scales)
{
    for (uint32_t group = 0; group < count / 32; group++) {
        const float *from = x + group * 32;
        float largest = 0.0f;
        for (uint32_t i = 0; i < 32; i++) {
            float magnitude = fabsf(from[i]);
            largest = magnitude > largest ? magnitude : largest;
        }
        /* Below 2^-100 the inverse would overflow; such a group is zero. */
        bool some = largest >= 0x1p-100f;
        float inverse = some ? 127.0f / largest : 0.0f;
        struct quant_scale scale = {.scale = some ? largest / 127.0f : 0.0f};
        for (uint32_t i = 0; i < 32; i++) {
            int8_t q = (int8_t)lrintf(from[i] * inverse);
            values[group * 32 + i] = q;
            scale.sum += q;
            scale.sum_low += i < 16 ? q : 0;
        }
        scale.scaled_sum = scale.scale * (float)scale.sum;
        scales[group] = scale;
    }
}

/* One output: the definition of the class cpu-int8. */
static float int8_column(const struct packed *w, const uint8_t *panel, uint32_t column,
                         const int8_t *x, const struct quant_scale *x_scales)
{
    uint32_t run = w->type == DTYPE_Q6_K ? 16 : 32; /* k under one scale */
    float sum = 0.0f;
    for (uint32_t k0 = 0; k0 < w->columns; k0 += run) {
        struct column_scale scale = column_scale(w, panel, k0, column);
        const struct quant_scale *x_scale = &x_scales[k0 / 32];
        int32_t dot = 0;
        for (uint32_t k = k0; k < k0 + run; k++)
            dot += ((int32_t)column_value(w, panel, k, column) - scale.zero) * x[k];
        sum = fmaf((float)dot, scale.scale * x_scale->scale, sum);
        if (has_minimum(w->type))
            sum = fmaf(scale.minimum, x_scale->scaled_sum, sum);
    }
    return sum;
}

static void int8_product(const struct int8_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        const int8_t *x = p->x->values + (p->first_row + row) * p->x->value_stride;
        const struct quant_scale *scales = p->x->scales + (p->first_row + row) * p->x->scale_stride;
        for (uint32_t column = 0; column < p->panels * PANEL_COLUMNS; column++) {
            const uint8_t *panel = packed_panel(p->w, p->first_panel + column / PANEL_COLUMNS);
            p->c[row * p->c_stride + column] =
                int8_column(p->w, panel, column % PANEL_COLUMNS, x, scales);
        }
    }
}

static void bf16_round(const float *x, uint32_t count, const struct bf16_rows *to, uint32_t row)
{
    for (uint32_t k = 0; k < to->groups * BF16_GROUP; k++)
        bf16_rows_at(to, row, k / BF16_GROUP)[k % BF16_GROUP] = k < count ? bf16_of(x[k]) : 0;
}

/* One output: the definition of the class cpu-bf16. */
static float bf16_column(const uint8_t *panel, uint32_t column, const struct bf16_rows *x,
                         uint32_t row)
{
    float sum = 0.0f;
    for (uint32_t group = 0; group < x->groups; group++) {
        const uint16_t *values = bf16_rows_at(x, row, group);
        float halves[2] = {0.0f, 0.0f}; /* of even and odd k */
        for (uint32_t i = 0; i < BF16_GROUP; i++) {
            size_t at = packed_bf16_at((size_t)group * BF16_GROUP + i, column);
            float weight = bf16_to_f32(load_u16(panel + at));
            halves[i % 2] = bf16_fma(weight, bf16_to_f32(values[i]), halves[i % 2]);
        }
        sum = bf16_add(sum, bf16_add(halves[0], halves[1]));
    }
    return sum;
}

static void bf16_product(const struct bf16_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        for (uint32_t column = 0; column < p->panels * PANEL_COLUMNS; column++) {
            const uint8_t *panel = packed_panel(p->w, p->first_panel + column / PANEL_COLUMNS);
            p->c[row * p->c_stride + column] =
                bf16_column(panel, column % PANEL_COLUMNS, p->x, p->first_row + row);
        }
    }
}

static float square_sum(const float *x, uint32_t count)
{
    float partial[SUM_LANES] = {0};
    for (uint32_t i = 0; i < count; i++)
        partial[i % SUM_LANES] = fmaf(x[i], x[i], partial[i % SUM_LANES]);
    return sum_merge(partial);
}

static void gate(const float *gate_in, const float *up, float *h, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float silu = gate_in[i] / (1.0f + exp_scalar(-gate_in[i]));
        h[i] = silu * up[i];
    }
}

static float softmax(float *s, uint32_t count, float *max_out)
{
    float largest = s[0];
    for (uint32_t t = 1; t < count; t++)
        largest = s[t] > largest ? s[t] : largest;
    float partial[SUM_LANES] = {0};
    for (uint32_t t = 0; t < count; t++) {
        s[t] = exp_weight(s[t] - largest, SOFTMAX_CUT);
        partial[t % SUM_LANES] += s[t];
    }
    for (uint32_t t = count; t % SUM_LANES != 0; t++)
        s[t] = 0.0f;
    *max_out = largest;
    return sum_merge(partial);
}

static void merge(float *o, const float *part, float a, float b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        o[i] = fmaf(o[i], a, part[i] * b);
}

static void half_store(const float *x, uint16_t *to, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        float value = x[i] > -65504.0f ? x[i] : -65504.0f;
        value = value < 65504.0f ? value : 65504.0f;
        to[i] = f32_to_f16(value);
    }
}

/* Number d of a key or value of the pool: f16, or Q8_0. */
static float kv_number(enum dtype type, const uint8_t *row, uint32_t d)
{
    if (type == DTYPE_F16)
        return f16_to_f32(load_u16(row + 2 * (size_t)d));
    const uint8_t *group = row + (size_t)(d / 32) * Q8_0_BYTES;
    return f16_to_f32(load_u16(group)) * (float)(int8_t)group[2 + d % 32];
}

static void key_tile(enum dtype type, const void *const keys[PANEL_COLUMNS], uint32_t dims,
                     float *tile)
{
    for (uint32_t d = 0; d < dims; d++)
        for (uint32_t t = 0; t < PANEL_COLUMNS; t++)
            tile[d * PANEL_COLUMNS + t] = kv_number(type, keys[t], d);
}

static void key_product(enum dtype type, const struct key_product *p)
{
    for (uint32_t t = 0; t < p->panels * PANEL_COLUMNS; t++) {
        uint32_t panel = t / PANEL_COLUMNS, first = panel * PANEL_COLUMNS;
        const uint8_t *key = p->keys[p->side_by_side[panel] ? first : t];
        if (p->side_by_side[panel])
            key += (t - first) * kv_row_bytes(type, p->dims);
        for (uint32_t row = 0; row < p->rows; row++) {
            float sum = 0.0f;
            for (uint32_t d = 0; d < p->dims; d++)
                sum = fmaf(p->queries[row * p->query_stride + d], kv_number(type, key, d), sum);
            p->c[row * p->c_stride + t] = sum;
        }
    }
}

static void value_product(enum dtype type, const struct value_product *p)
{
    size_t row_bytes = kv_row_bytes(type, p->dims);
    for (uint32_t row = 0; row < p->rows; row++) {
        for (uint32_t d = 0; d < p->dims; d++) {
            float *c = p->c + row * p->c_stride + d;
            float sum = p->add ? *c : 0.0f;
            for (uint32_t i = 0; i < p->count; i++)
                sum = fmaf(p->weights[row * p->weight_stride + i],
                           kv_number(type, (const uint8_t *)p->values + i * row_bytes, d), sum);
            *c = sum;
        }
    }
}

static void value_rows(enum dtype type, const uint8_t *values, uint32_t count, uint32_t dims,
                       float *to, size_t panel_stride)
{
    size_t row_bytes = kv_row_bytes(type, dims);
    for (uint32_t i = 0; i < count; i++, values += row_bytes, to += PANEL_COLUMNS) {
        for (uint32_t d = 0; d < (dims + 15) / PANEL_COLUMNS * PANEL_COLUMNS; d++)
            to[panel_stride * (d / PANEL_COLUMNS) + d % PANEL_COLUMNS] =
                d < dims ? kv_number(type, values, d) : 0.0f;
    }
}

#define KV_KERNELS(name, type)                                                                     \
    static void key_tile_##name(const void *const keys[PANEL_COLUMNS], uint32_t dims, float *tile, \
                                const void *ahead)                                                 \
    {                                                                                              \
        (void)ahead;                                                                               \
        key_tile(type, keys, dims, tile);                                                          \
    }                                                                                              \
    static void key_product_##name(const struct key_product *p)                                    \
    {                                                                                              \
        key_product(type, p);                                                                      \
    }                                                                                              \
    static void value_product_##name(const struct value_product *p)                                \
    {                                                                                              \
        value_product(type, p);                                                                    \
    }                                                                                              \
    static void value_rows_##name(const void *values, uint32_t count, uint32_t dims, float *to,    \
                                  size_t panel_stride)                                             \
    {                                                                                              \
        value_rows(type, values, count, dims, to, panel_stride);                                   \
    }

KV_KERNELS(f16, DTYPE_F16)
KV_KERNELS(q8_0, DTYPE_Q8_0)

/* Eight chains: more than an add waits for. */
static uint64_t peak_float(uint32_t rounds, float *sink_out)
{
    float sums[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (uint32_t i = 0; i < rounds; i++)
        for (uint32_t j = 0; j < 8; j++)
            sums[j] = sums[j] * 0.5f + 1.0f;
    *sink_out = sum_merge(
        (float[16]){sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], sums[7]});
    return (uint64_t)rounds * 16;
}

static uint64_t peak_int8(uint32_t rounds, float *sink_out)
{
    uint32_t sums[8] = {1, 2, 3, 4, 5, 6, 7, 8}, total = 0;
    for (uint32_t i = 0; i < rounds; i++)
        for (uint32_t j = 0; j < 8; j++)
            sums[j] = sums[j] * 5u + i;
    for (uint32_t j = 0; j < 8; j++)
        total += sums[j];
    *sink_out = (float)total;
    return (uint64_t)rounds * 16;
}

static void peak_read(const uint8_t *from, size_t bytes, float *sink_out)
{
    uint64_t sums[8] = {0}, total = 0;
    for (size_t at = 0; at < bytes; at += 64)
        for (size_t i = 0; i < 8; i++)
            sums[i] += load_u64(from + at + 8 * i);
    for (size_t i = 0; i < 8; i++)
        total += sums[i];
    *sink_out = (float)(total & 255);
}

const struct kernels kernels_scalar = {
    .name = "scalar",
    .peak_float = peak_float,
    .peak_int8 = peak_int8,
    .peak_bf16 = peak_float,
    .peak_read = peak_read,
    .unpack = {[DTYPE_F32] = unpack_single,
               [DTYPE_F16] = unpack_single,
               [DTYPE_BF16] = unpack_single,
               [DTYPE_Q8_0] = unpack_groups,
               [DTYPE_Q4_0] = unpack_groups,
               [DTYPE_Q4_1] = unpack_groups,
               [DTYPE_Q4_K] = unpack_groups,
               [DTYPE_Q5_K] = unpack_groups,
               [DTYPE_Q6_K] = unpack_groups},
    .product = product,
    .few_product = {[DTYPE_F16] = few_product, [DTYPE_BF16] = few_product},
    .quantize = quantize,
    .int8_product = {[DTYPE_Q8_0] = int8_product,
                     [DTYPE_Q4_0] = int8_product,
                     [DTYPE_Q4_1] = int8_product,
                     [DTYPE_Q4_K] = int8_product,
                     [DTYPE_Q5_K] = int8_product,
                     [DTYPE_Q6_K] = int8_product},
    .bf16_round = bf16_round,
    .bf16_product = bf16_product,
    .square_sum = square_sum,
    .gate = gate,
    .softmax = softmax,
    .merge = merge,
    .half_store = half_store,
    .kv = {[DTYPE_F16] = {key_tile_f16, key_product_f16, value_product_f16, value_rows_f16},
           [DTYPE_Q8_0] = {key_tile_q8_0, key_product_q8_0, value_product_q8_0, value_rows_q8_0}},
};
