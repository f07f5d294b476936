/* Every kernel of every variant: against dequant_row or a float64 reference, on random shapes, with
 * poisoned outputs, and bit for bit against the scalar one. */
#include "cpu_fixture.h"

#include <math.h>

#include "backend/cpu/elementary.h"

#define POISON (-7.5e33f)

static const struct kernels *variant(uint32_t index, const char **name_out)
{
    const char *names[CPU_VARIANTS_MAX];
    uint32_t count = backend_cpu_variants(names);
    if (index >= count)
        return NULL;
    bool known;
    *name_out = names[index];
    return kernels_find(names[index], &known);
}

static uint8_t *packed_copy(const struct backend_weight *weight, struct packed *packed)
{
    assert_int_equal(pack_layout(weight, packed), OK);
    uint8_t *to = aligned_alloc(PACK_ALIGN, pack_bytes(packed));
    assert_non_null(to);
    memset(to, 0xa5, pack_bytes(packed));
    for (uint32_t panel = 0; panel < packed->panels; panel++)
        pack_panel(weight, packed, panel, to + panel * packed->panel_bytes);
    packed->base = to;
    return to;
}

/* Unpacked panels hold the bits of dequant_row, from any k on. */
static void test_unpack(void **state)
{
    (void)state;
    const char *name;
    const struct kernels *kernels;
    for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
        for (size_t t = 0; t < TYPE_COUNT; t++) {
            enum dtype type = all_types[t];
            uint32_t unit = dtype_group(type) == 1 ? 1 : 32;
            uint32_t columns = dtype_group(type) == 1 ? 77 : 768;
            struct backend_weight weight = random_weight(type, 21, columns);
            struct packed packed;
            uint8_t *base = packed_copy(&weight, &packed);
            uint32_t k0 = random_below(columns / unit) * unit;
            uint32_t count = (1 + random_below((columns - k0) / unit)) * unit;
            float *row = malloc(columns * sizeof(float));
            float *tile = malloc((size_t)count * 16 * sizeof(float));
            for (uint32_t r = 0; r < weight.rows; r++) {
                dequant_row(type, (const uint8_t *)weight.data + r * dtype_row_bytes(type, columns),
                            columns, row);
                kernels->unpack[type](&packed, packed_panel(&packed, r / 16), k0, count, tile);
                for (uint32_t i = 0; i < count; i++)
                    assert_same_bits(&tile[i * 16 + r % 16], &row[k0 + i], 1, dtype_name(type));
            }
            free(row);
            free(tile);
            free(base);
            free((void *)weight.data);
        }
    }
}

/* Products of any number of rows and panels are the fma chain of their own row and column. */
static void test_product(void **state)
{
    (void)state;
    enum { ROWS = 29, PANELS = 9, K = 67 };
    static float x[ROWS * K], w[PANELS * K * 16], c[ROWS * PANELS * 16 + 1];
    static float expected[ROWS * PANELS * 16], start[ROWS * PANELS * 16];
    random_floats(x, ROWS * K);
    random_floats(w, PANELS * K * 16);
    random_floats(start, ROWS * PANELS * 16);
    const char *name;
    const struct kernels *kernels;
    for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
        for (uint32_t rows = 1; rows <= ROWS; rows++) {
            uint32_t panels = 1 + rows % PANELS;
            for (int add = 0; add < 2; add++) {
                struct tile_product p = {.rows = rows,
                                         .panels = panels,
                                         .k = K,
                                         .x = x,
                                         .x_stride = K,
                                         .w = w,
                                         .panel_stride = K * 16,
                                         .c = c,
                                         .c_stride = panels * 16,
                                         .add = add};
                size_t count = (size_t)rows * panels * 16;
                for (size_t i = 0; i < count; i++) {
                    uint32_t row = (uint32_t)i / (panels * 16),
                             column = (uint32_t)i % (panels * 16);
                    float sum = add ? start[i] : 0;
                    double exact = (double)sum, size = fabs(exact);
                    for (uint32_t k = 0; k < K; k++) {
                        float weight = w[column / 16 * (K * 16) + k * 16 + column % 16];
                        sum = fmaf(x[row * K + k], weight, sum);
                        exact += (double)x[row * K + k] * (double)weight;
                        size += fabs((double)x[row * K + k] * (double)weight);
                    }
                    expected[i] = sum;
                    assert_true(fabs((double)sum - exact) <= size * K * 0x1p-24);
                    c[i] = add ? start[i] : POISON;
                }
                c[count] = POISON;
                kernels->product(&p);
                assert_same_bits(c, expected, count, name);
                assert_true(c[count] == POISON);
            }
        }
    }
}

/* Few rows times packed halves are the same chain. */
static void test_few_product(void **state)
{
    (void)state;
    enum { PANELS = 5, ROWS_OF_W = PANELS * 16 - 3, K_MAX = 213 };
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
    static const uint32_t widths[] = {1, 2, 63, 64, 65, 128, K_MAX};
    static float x[FEW_ROWS * K_MAX], expected[FEW_ROWS * PANELS * 16];
    static float c[FEW_ROWS * PANELS * 16 + 1];
    for (size_t t = 0; t < 2 * sizeof(widths) / sizeof(widths[0]); t++) {
        enum dtype type = types[t % 2];
        uint32_t columns = widths[t / 2];
        struct backend_weight weight = random_weight(type, ROWS_OF_W, columns);
        struct packed packed;
        uint8_t *base = packed_copy(&weight, &packed);
        random_floats(x, FEW_ROWS * columns);
        const char *name;
        const struct kernels *kernels;
        for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
            for (uint32_t i = 0; i < FEW_ROWS * PANELS; i++) {
                uint32_t rows = 1 + i % FEW_ROWS, first = i / FEW_ROWS, panels = PANELS - first;
                size_t count = (size_t)rows * panels * 16;
                for (size_t at = 0; at < count; at++) {
                    uint32_t row = (uint32_t)at / (panels * 16);
                    uint32_t column = (uint32_t)at % (panels * 16);
                    const uint8_t *w = packed_panel(&packed, first + column / 16);
                    float sum = 0;
                    for (uint32_t k = 0; k < columns; k++) {
                        size_t place = type == DTYPE_F16 ? (k * 16 + column % 16) * 2
                                                         : packed_bf16_at(k, column % 16);
                        uint16_t bits = load_u16(w + place);
                        float value = type == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
                        sum = fmaf(x[row * columns + k], value, sum);
                    }
                    expected[at] = sum;
                    c[at] = POISON;
                }
                c[count] = POISON;
                struct few_product p = {.rows = rows,
                                        .panels = panels,
                                        .first_panel = first,
                                        .x = x,
                                        .x_stride = columns,
                                        .w = &packed,
                                        .c = c,
                                        .c_stride = panels * 16};
                kernels->few_product[type](&p);
                assert_same_bits(c, expected, count, name);
                assert_true(c[count] == POISON);
            }
        }
        free(base);
        free((void *)weight.data);
    }
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -86.9f; x < 87.9f; x += 0.00137f) {
        double exact = exp((double)x);
        double error = fabs((double)exp_scalar(x) - exact) / exact;
        worst = error > worst ? error : worst;
    }
    assert_true(worst < 0x1p-23);
    assert_true(exp_scalar(0.0f) == 1.0f);
    assert_true(exp_scalar(-INFINITY) > 0 && isfinite(exp_scalar(INFINITY)));
}

/* Sums, gates, softmax: the scalar ones near the truth, the others equal to the scalar ones. */
static void test_rows(void **state)
{
    (void)state;
    enum { MOST = 300 };
    const char *name;
    const struct kernels *kernels;
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t count = 1 + random_below(MOST - 16);
        float a[MOST], b[MOST], expected[MOST], found[MOST];
        random_floats(a, MOST);
        random_floats(b, MOST);
        double squares = 0, weights = 0, most = -1e30;
        for (uint32_t i = 0; i < count; i++) {
            squares += (double)a[i] * (double)a[i];
            most = (double)a[i] > most ? (double)a[i] : most;
        }
        for (uint32_t i = 0; i < count; i++)
            weights += exp((double)a[i] - most);

        float sum = kernels_scalar.square_sum(a, count);
        assert_true(fabs((double)sum - squares) <= squares * 1e-6);
        float scalar_max, scalar_soft[MOST], scalar_merge[MOST];
        memcpy(scalar_soft, a, sizeof(a));
        float total = kernels_scalar.softmax(scalar_soft, count, &scalar_max);
        assert_true((double)scalar_max == most && fabs((double)total - weights) <= weights * 1e-6);
        kernels_scalar.gate(a, b, expected, count);
        for (uint32_t i = 0; i < count; i++) {
            double silu = (double)a[i] / (1 + exp(-(double)a[i])) * (double)b[i];
            assert_true(fabs((double)expected[i] - silu) <= fabs(silu) * 1e-6);
        }
        memcpy(scalar_merge, a, sizeof(a));
        kernels_scalar.merge(scalar_merge, b, 0.3f, 1.7f, count);

        for (uint32_t v = 1; (kernels = variant(v, &name)) != NULL; v++) {
            float other = kernels->square_sum(a, count), largest;
            assert_same_bits(&sum, &other, 1, "square_sum");
            memcpy(found, a, sizeof(a));
            other = kernels->softmax(found, count, &largest);
            assert_same_bits(&total, &other, 1, "softmax sum");
            assert_same_bits(&scalar_max, &largest, 1, "softmax max");
            assert_same_bits(scalar_soft, found, (count + 15) / 16 * 16, "softmax");
            memset(found, 0xee, sizeof(found));
            kernels->gate(a, b, found, count);
            assert_same_bits(expected, found, count, "gate");
            memcpy(found, a, sizeof(a));
            kernels->merge(found, b, 0.3f, 1.7f, count);
            assert_same_bits(scalar_merge, found, MOST, "merge");
        }
    }
}

#define KV_DIMS 128

/* Scores of a few queries against 16 keys and 32, side by side or anywhere: sums over the
 * dimensions in order. */
static void scores_check(const struct kv_kernels *kv, uint32_t dims, const void *const keys[16],
                         bool side_by_side, float numbers[16][KV_DIMS])
{
    enum { ROWS = 9, STRIDE = 33 };
    float queries[ROWS * KV_DIMS], tile[KEY_PANELS_MAX * KV_DIMS * 16], c[ROWS * STRIDE + 1];
    const void *all[32];
    uint32_t which[32];
    random_floats(queries, ROWS * KV_DIMS);
    for (uint32_t t = 0; t < 32; t++)
        all[t] = keys[which[t] = side_by_side ? t % 16 : t * 7 % 16];
    for (uint32_t rows = 1; rows <= ROWS; rows++) {
        for (uint32_t panels = 1; panels <= 2; panels++) {
            for (uint32_t i = 0; i <= ROWS * STRIDE; i++)
                c[i] = POISON;
            const struct key_product p = {.rows = rows,
                                          .panels = panels,
                                          .dims = dims,
                                          .queries = queries,
                                          .query_stride = KV_DIMS,
                                          .keys = all,
                                          .side_by_side = {side_by_side, side_by_side},
                                          .c = c,
                                          .c_stride = STRIDE,
                                          .tile = tile,
                                          .ahead = {rows % 2 == 0 ? keys[0] : NULL, NULL}};
            kv->key_product(&p);
            for (uint32_t row = 0; row < rows; row++) {
                for (uint32_t t = 0; t < panels * 16; t++) {
                    float sum = 0;
                    for (uint32_t d = 0; d < dims; d++)
                        sum = fmaf(queries[row * KV_DIMS + d], numbers[which[t]][d], sum);
                    assert_same_bits(&c[row * STRIDE + t], &sum, 1, "key_product");
                }
                for (uint32_t t = panels * 16; t < STRIDE; t++)
                    assert_true(c[row * STRIDE + t] == POISON);
            }
            assert_true(c[rows * STRIDE] == POISON);
        }
    }
}

/* Keys and values of one type and length: unpacked exactly, and in sums as one after the other. */
static void kv_check(const struct kernels *kernels, enum dtype type, uint32_t dims)
{
    enum { DIMS = KV_DIMS, TOKENS = 16 };
    const struct kv_kernels *kv = &kernels->kv[type];
    size_t row_bytes = dtype_row_bytes(type, dims);
    uint8_t stored[TOKENS * DIMS * 2];
    float numbers[TOKENS][DIMS];
    const void *keys[TOKENS];
    assert_int_equal(kv_row_bytes(type, dims), row_bytes);
    for (uint32_t t = 0; t < TOKENS; t++) {
        uint8_t *row = stored + t * row_bytes;
        random_row(type, dims, row);
        if (type == DTYPE_Q8_0) { /* the smallest scale there is, and an int8 that no store makes */
            row[2 + 7] = 0x80;
            if (t == 3)
                store_u16(row, 1);
        }
        dequant_row(type, row, dims, numbers[t]);
        keys[t] = row;
    }

    float tile[DIMS * TOKENS], row[8 * 56];
    kv->key_tile(keys, dims, tile, dims % 2 == 0 ? stored : NULL);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t d = 0; d < dims; d++)
            assert_true(tile[d * 16 + t] == numbers[t][d]);
    for (uint32_t i = 0; i < 8 * 56; i++)
        row[i] = POISON;
    kv->value_rows(stored, 3, dims, row, 56);
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t d = 0; d < (dims + 15) / 16 * 16; d++)
            assert_true(row[d / 16 * 56 + i * 16 + d % 16] == (d < dims ? numbers[i][d] : 0));
    assert_true(row[48] == POISON);
    scores_check(kv, dims, keys, true, numbers);
    scores_check(kv, dims, keys, false, numbers);

    /* A few rows at once: the same sums as one value after the other. */
    float weights[7 * 3], c[7 * DIMS + 1];
    random_floats(weights, 7 * 3);
    for (uint32_t rows = 1; rows <= 7; rows++) {
        for (uint32_t i = 0; i <= 7 * DIMS; i++)
            c[i] = POISON;
        struct value_product p = {.rows = rows,
                                  .count = 2,
                                  .dims = dims,
                                  .weights = weights,
                                  .weight_stride = 3,
                                  .values = stored,
                                  .c = c,
                                  .c_stride = dims,
                                  .ahead = rows % 2 == 0 ? tile : NULL};
        kv->value_product(&p);
        p.count = 1;
        p.weights += 2;
        p.values = stored + 2 * row_bytes;
        p.add = true;
        kv->value_product(&p);
        for (uint32_t i = 0; i < rows * dims; i++) {
            float sum = 0;
            for (uint32_t k = 0; k < 3; k++)
                sum = fmaf(weights[i / dims * 3 + k], numbers[k][i % dims], sum);
            assert_same_bits(&c[i], &sum, 1, "value_product");
        }
        assert_true(c[rows * dims] == POISON);
    }
}

static void test_keys_and_values(void **state)
{
    (void)state;
    enum { DIMS = 83 };
    float x[DIMS];
    random_floats(x, DIMS);
    x[3] = 1e9f;
    x[4] = -INFINITY;
    x[5] = NAN;
    x[6] = 1e-9f;
    const char *name;
    const struct kernels *kernels;
    for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
        for (uint32_t dims = 1; dims <= DIMS; dims++) {
            uint16_t halves[DIMS + 1];
            memset(halves, 0x5a, sizeof(halves));
            kernels->half_store(x, halves, dims);
            for (uint32_t i = 0; i < dims; i++) {
                float cut = x[i] > -65504.0f ? x[i] : -65504.0f;
                assert_int_equal(halves[i], f32_to_f16(cut < 65504.0f ? cut : 65504.0f));
            }
            assert_int_equal(halves[dims], 0x5a5a);
            kv_check(kernels, DTYPE_F16, dims);
        }
        kv_check(kernels, DTYPE_F16, 128);
        for (uint32_t dims = 32; dims <= 96; dims += 32)
            kv_check(kernels, DTYPE_Q8_0, dims);
    }
}

/* ---- int8 ------------------------------------------------------------------------------------ */

/* Rounding is within half a step, scales cover the largest value, sums are those of the bytes. */
static void test_quantize(void **state)
{
    (void)state;
    enum { COUNT = 32 * 40 };
    float x[COUNT];
    random_floats(x, COUNT);
    memset(x, 0, 32 * sizeof(float));
    for (uint32_t i = 0; i < 32; i++) {
        x[32 + i] *= 1e-33f;
        x[64 + i] *= 1e30f;
        x[96 + i] = i % 2 != 0 ? 3.0f : -3.0f;
    }
    int8_t expected[COUNT], found[COUNT + 1];
    struct quant_scale expected_scales[COUNT / 32], scales[COUNT / 32];
    kernels_scalar.quantize(x, COUNT, expected, expected_scales);
    for (uint32_t g = 0; g < COUNT / 32; g++) {
        int32_t sum = 0, low = 0;
        for (uint32_t i = 0; i < 32; i++) {
            int8_t q = expected[g * 32 + i];
            double value = (double)q * (double)expected_scales[g].scale;
            assert_true(g == 1 || fabs(value - (double)x[g * 32 + i]) <=
                                      (double)expected_scales[g].scale * 0.500001);
            assert_true(q >= -127);
            sum += q;
            low += i < 16 ? q : 0;
        }
        assert_int_equal(sum, expected_scales[g].sum);
        assert_int_equal(low, expected_scales[g].sum_low);
    }
    const char *name;
    const struct kernels *kernels;
    for (uint32_t v = 1; (kernels = variant(v, &name)) != NULL; v++) {
        memset(found, 0x55, sizeof(found));
        kernels->quantize(x, COUNT, found, scales);
        assert_memory_equal(expected, found, COUNT);
        assert_int_equal(found[COUNT], 0x55);
        assert_memory_equal(expected_scales, scales, sizeof(scales));
    }
}

static void quantized_rows(const float *x, uint32_t rows, uint32_t columns, struct quant_rows *q)
{
    *q = (struct quant_rows){.value_stride = columns, .scale_stride = columns / 32};
    q->values = malloc((size_t)rows * columns);
    q->scales = malloc(rows * q->scale_stride * sizeof(struct quant_scale));
    assert_non_null(q->values);
    assert_non_null(q->scales);
    for (uint32_t r = 0; r < rows; r++)
        kernels_scalar.quantize(x + (size_t)r * columns, columns, q->values + r * q->value_stride,
                                q->scales + r * q->scale_stride);
}

/* The scalar product against the weights and the rounded activations in double. */
static void int8_near_exact(const struct backend_weight *weight, const struct quant_rows *x,
                            uint32_t rows, const float *c, size_t c_stride)
{
    uint32_t columns = weight->columns;
    float *row = malloc(columns * sizeof(float));
    for (uint32_t n = 0; n < weight->rows; n++) {
        dequant_row(weight->type,
                    (const uint8_t *)weight->data + n * dtype_row_bytes(weight->type, columns),
                    columns, row);
        for (uint32_t r = 0; r < rows; r++) {
            double sum = 0, size = 0;
            for (uint32_t k = 0; k < columns; k++) {
                double product = (double)row[k] * (double)x->values[r * x->value_stride + k] *
                                 (double)x->scales[r * x->scale_stride + k / 32].scale;
                sum += product;
                size += fabs(product);
            }
            /* Values and minimums are summed apart, so their sizes may exceed that of the sum. */
            if (!(fabs((double)c[r * c_stride + n] - sum) <= 1e-5 * (size + 1)))
                fail_msg("%s row %u column %u: %.9g, expected %.9g", dtype_name(weight->type), r, n,
                         (double)c[r * c_stride + n], sum);
        }
    }
    free(row);
}

static void test_int8_product(void **state)
{
    (void)state;
    static _Alignas(64) uint8_t scratch[INT8_SCRATCH_BYTES];
    enum { ROWS = 31, N = 53, PANELS = 4 };
    const char *name;
    const struct kernels *kernels;
    for (size_t t = 0; t < TYPE_COUNT; t++) {
        enum dtype type = all_types[t];
        if (dtype_group(type) == 1)
            continue;
        for (uint32_t round = 0; round < 4; round++) {
            /* The last round: more than the kernels take apart at once. */
            uint32_t columns = round < 3 ? dtype_group(type) * (1 + random_below(3)) : 1280;
            struct backend_weight weight = random_weight(type, N, columns);
            float *x = malloc((size_t)ROWS * columns * sizeof(float));
            random_floats(x, (size_t)ROWS * columns);
            if (round == 2) { /* all that can be largest at once */
                memset((void *)(uintptr_t)weight.data, 0xff, N * dtype_row_bytes(type, columns));
                for (uint32_t n = 0; n < N; n++) {
                    uint8_t *group =
                        (uint8_t *)(uintptr_t)weight.data + n * dtype_row_bytes(type, columns);
                    for (uint32_t g = 0; g < columns / dtype_group(type); g++) {
                        store_u16(group + (type == DTYPE_Q6_K ? 208 : 0), f32_to_f16(0.001f));
                        if (type != DTYPE_Q8_0 && type != DTYPE_Q4_0 && type != DTYPE_Q6_K)
                            store_u16(group + 2, f32_to_f16(-0.001f));
                        for (uint32_t i = 2; type == DTYPE_Q8_0 && i < 34; i++)
                            group[i] = n % 2 != 0 ? 0x7f : 0x80;
                        group += dtype_group_bytes(type);
                    }
                }
                for (uint32_t i = 0; i < ROWS * columns; i++)
                    x[i] = i / columns % 2 != 0 ? -2.5f : 2.5f;
            }
            struct packed packed;
            uint8_t *base = packed_copy(&weight, &packed);
            struct quant_rows q;
            quantized_rows(x, ROWS, columns, &q);
            static float expected[ROWS * PANELS * 16], c[ROWS * PANELS * 16 + 1];
            struct int8_product p = {.rows = ROWS,
                                     .panels = PANELS,
                                     .x = &q,
                                     .w = &packed,
                                     .c = expected,
                                     .c_stride = PANELS * 16,
                                     .scratch = scratch};
            kernels_scalar.int8_product[type](&p);
            int8_near_exact(&weight, &q, ROWS, expected, PANELS * 16);
            for (uint32_t v = 1; (kernels = variant(v, &name)) != NULL; v++) {
                for (uint32_t rows = 1; rows <= ROWS; rows++) {
                    uint32_t first_row = random_below(ROWS - rows + 1);
                    for (size_t i = 0; i <= ROWS * PANELS * 16; i++)
                        c[i] = POISON;
                    p = (struct int8_product){.rows = rows,
                                              .first_row = first_row,
                                              .panels = PANELS - 1,
                                              .first_panel = 1,
                                              .x = &q,
                                              .w = &packed,
                                              .c = c,
                                              .c_stride = PANELS * 16,
                                              .scratch = scratch};
                    memset(scratch, 0xa5, sizeof(scratch));
                    kernels->int8_product[type](&p);
                    for (uint32_t r = 0; r < rows; r++) {
                        assert_same_bits(c + r * PANELS * 16,
                                         expected + (first_row + r) * PANELS * 16 + 16,
                                         (PANELS - 1) * 16, dtype_name(type));
                        assert_true(c[r * PANELS * 16 + (PANELS - 1) * 16] == POISON);
                    }
                }
            }
            free(q.values);
            free(q.scales);
            free(base);
            free(x);
            free((void *)(uintptr_t)weight.data);
        }
    }
}

int main(void)
{
    const char *names[CPU_VARIANTS_MAX];
    variants_here(names);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack),      cmocka_unit_test(test_product),
        cmocka_unit_test(test_few_product), cmocka_unit_test(test_exp),
        cmocka_unit_test(test_rows),        cmocka_unit_test(test_keys_and_values),
        cmocka_unit_test(test_quantize),    cmocka_unit_test(test_int8_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
