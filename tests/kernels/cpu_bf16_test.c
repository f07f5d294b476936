/* The class cpu-bf16: every variant's products against the operation of TDPBF16PS as Intel's manual
 * writes it down, bit for bit, and against float64; the rounding of activations; and that the check
 * which a processor must pass before its instructions are used finds what it is there for. */
#include "cpu_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#include "backend/cpu/bf16_check.h"
#include "backend/cpu/bf16_class.h"
#include "backend/cpu/packed_file.h"

#define POISON (-7.5e33f)
#define ROWS_MAX 70u
#define PANELS 5u

/* ---- the manual's operation, in double --------------------------------------------------------
 */

/* "DAZ" */
static float read_as_zero(float value)
{
    return (float_bits(value) & 0x7f800000u) == 0 ? copysignf(0.0f, value) : value;
}

/* "FTZ, RNE": the exact sum of two doubles as a float. The sum is rounded to odd in double, which
 * has more than two places more than a float, so that it can be rounded again; and as doubles go
 * much further down, scaled, it tells what the float would be without an end. */
static float round_sum(double a, double b)
{
    volatile double sum = a + b;
    volatile double of_b = sum - a, of_a = sum - of_b;
    double rest = (a - of_a) + (b - of_b);
    double odd = sum;
    uint64_t bits;
    memcpy(&bits, &odd, sizeof(bits));
    if (rest != 0.0 && bits % 2 == 0) {
        bits += (rest > 0) == (odd > 0) ? 1u : (uint64_t)-1;
        memcpy(&odd, &bits, sizeof(odd));
    }
    if (fabs(odd) < 0x1p-100) {
        float scaled = (float)(odd * 0x1p80); /* exact but for the float's rounding */
        if (fabsf(scaled) < 0x1p-46f)
            return copysignf(0.0f, (float)(odd == 0.0 ? a + b : odd));
        return scaled * 0x1p-80f;
    }
    return (float)odd;
}

static float manual_fma(float a, float b, float c)
{
    double product = (double)read_as_zero(a) * (double)read_as_zero(b);
    return round_sum(product, (double)read_as_zero(c));
}

static float manual_add(float a, float b)
{
    return round_sum((double)read_as_zero(a), (double)read_as_zero(b));
}

/* TDPBF16PS of one row and column with 16 dwords of each: pairs [0] and [1]. */
static float manual_tile(float sum, const uint16_t row[16][2], const uint16_t column[16][2])
{
    float temp[2] = {0.0f, 0.0f};
    for (uint32_t k = 0; k < 16; k++)
        for (uint32_t i = 0; i < 2; i++)
            temp[i] = manual_fma(bf16_to_f32(row[k][i]), bf16_to_f32(column[k][i]), temp[i]);
    return manual_add(sum, manual_add(temp[0], temp[1]));
}

/* "VCVTNEPS2BF16" */
static uint16_t manual_round(float value)
{
    uint32_t bits = float_bits(value);
    if ((bits & 0x7f800000u) == 0)
        return (uint16_t)(bits >> 16 & 0x8000u);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* ---- numbers ----------------------------------------------------------------------------------
 */

enum kind { PLAIN, WIDE, TINY, KINDS };

/* PLAIN as weights are; WIDE of all sizes whose products are floats; TINY such that products and
 * sums are about the smallest floats, some subnormal themselves. */
static float draw(enum kind kind)
{
    float value = random_float();
    if (kind == WIDE)
        value = ldexpf(value, (int)random_below(100) - 50);
    else if (kind == TINY)
        value = ldexpf(value, -58 - (int)random_below(10));
    if (kind != PLAIN && random_below(20) == 0)
        value = random_below(2) != 0 ? 0x1.234p-129f : -0x1.8p-127f;
    return random_below(50) == 0 ? 0.0f : value;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

/* The definition's operations are the manual's, where that is hard: sums that nearly vanish. */
static void test_definition(void **state)
{
    (void)state;
    uint32_t flushed = 0, least = 0;
    for (uint32_t i = 0; i < 400000; i++) {
        enum kind kind = i % KINDS;
        float a = bf16_to_f32(f32_to_bf16(draw(kind))), b = bf16_to_f32(f32_to_bf16(draw(kind)));
        float c = draw(kind) * (kind == TINY ? 0x1p-62f : 1.0f);
        if (kind == TINY && i % 5 == 0)
            c = -(a * b) + (random_below(2) != 0 ? BF16_LEAST : -BF16_LEAST);
        float found = bf16_fma(a, b, c), expected = manual_fma(a, b, c);
        assert_same_bits(&found, &expected, 1, "fma");
        flushed += expected == 0.0f && (a != 0.0f || c != 0.0f);
        float sum = bf16_add(a, c), other = manual_add(a, c);
        assert_same_bits(&sum, &other, 1, "add");
        assert_int_equal(bf16_of(c), manual_round(c));
    }
    /* 2^-126 less a part of 2^-150, the last place of what is just below: it stays or it goes. */
    for (float less = 0x1p-94f; less < 0x1p-86f; less *= 1.0625f) {
        float b = bf16_to_f32(f32_to_bf16(less));
        float found = bf16_fma(-0x1p-63f, b, BF16_LEAST);
        float expected = manual_fma(-0x1p-63f, b, BF16_LEAST);
        assert_same_bits(&found, &expected, 1, "least");
        least += found != 0.0f;
        flushed += found == 0.0f;
    }
    assert_true(flushed > 1000 && least > 50);
}

static const struct kernels *variant(uint32_t index, const char **name_out)
{
    const char *names[CPU_VARIANTS_MAX];
    bool known;
    if (index >= backend_cpu_variants(names))
        return NULL;
    *name_out = names[index];
    return kernels_find(names[index], &known);
}

struct sample {
    struct backend_weight weight;
    struct packed packed;
    uint8_t *base;
    uint32_t columns;
    float *x;        /* [ROWS_MAX][columns] */
    float *expected; /* [ROWS_MAX][16 * PANELS] */
};

static uint16_t weight_of(const struct sample *sample, uint32_t n, uint32_t k)
{
    const uint8_t *data = sample->weight.data;
    if (n >= sample->weight.rows || k >= sample->columns)
        return 0;
    return load_u16(data + ((size_t)n * sample->columns + k) * 2);
}

static float expected_of(const struct sample *sample, uint32_t row, uint32_t n)
{
    float sum = 0.0f;
    for (uint32_t k0 = 0; k0 < sample->columns; k0 += 32) {
        uint16_t x[16][2], w[16][2];
        for (uint32_t i = 0; i < 32; i++) {
            uint32_t k = k0 + i;
            x[i / 2][i % 2] =
                k < sample->columns ? manual_round(sample->x[row * sample->columns + k]) : 0;
            w[i / 2][i % 2] = weight_of(sample, n, k);
        }
        sum = manual_tile(sum, (const uint16_t(*)[2])x, (const uint16_t(*)[2])w);
    }
    return sum;
}

/* Within the roundings of a group's sums of 16, their sum, and all groups'; of what x was, within
 * its rounding to eight places too; and what was flushed. */
static void near_exact(const struct sample *sample, uint32_t row, uint32_t n)
{
    double exact = 0, exact_x = 0, size = 0, size_x = 0, flushed_x = 0;
    for (uint32_t k = 0; k < sample->columns; k++) {
        double w = (double)read_as_zero(bf16_to_f32(weight_of(sample, n, k)));
        double x = (double)sample->x[row * sample->columns + k];
        double rounded = (double)bf16_to_f32(manual_round((float)x));
        exact += w * rounded;
        size += fabs(w * rounded);
        exact_x += w * x;
        size_x += fabs(w * x);
        flushed_x += fabs(w) * 0x1p-126;
    }
    double steps = 16 + 1 + (sample->columns + 31) / 32,
           flushed = (sample->columns + 40) * 0x1p-126;
    double found = (double)sample->expected[row * PANELS * 16 + n];
    assert_true(fabs(found - exact) <= size * steps * 0x1p-24 + flushed);
    assert_true(fabs(found - exact_x) <=
                size * steps * 0x1p-24 + size_x * 0x1p-8 + flushed + flushed_x);
}

static void sample_open(struct sample *sample, enum kind kind, uint32_t columns)
{
    sample->columns = columns;
    sample->weight = random_weight(DTYPE_BF16, PANELS * 16 - 3, columns);
    uint8_t *data = (uint8_t *)(uintptr_t)sample->weight.data;
    for (size_t i = 0; i < (size_t)sample->weight.rows * columns; i++)
        store_u16(data + 2 * i, f32_to_bf16(draw(kind)));
    sample->x = malloc((size_t)ROWS_MAX * columns * sizeof(float));
    sample->expected = malloc((size_t)ROWS_MAX * PANELS * 16 * sizeof(float));
    assert_true(sample->x != NULL && sample->expected != NULL);
    for (size_t i = 0; i < (size_t)ROWS_MAX * columns; i++)
        sample->x[i] = draw(kind);
    /* Half of the rows take off again what they added, all but a last place. */
    for (uint32_t row = 0; row < ROWS_MAX; row += 2)
        for (uint32_t k = 2; k < columns; k += 3)
            sample->x[row * columns + k] = sample->x[row * columns + k - 2];
    for (uint32_t n = 0; n < sample->weight.rows; n += 2)
        for (uint32_t k = 2; k < columns; k += 3)
            store_u16(data + 2 * ((size_t)n * columns + k),
                      weight_of(sample, n, k - 2) ^ 0x8000u ^ (uint16_t)random_below(2));
    assert_int_equal(pack_layout(&sample->weight, &sample->packed), OK);
    sample->base = aligned_alloc(PACK_ALIGN, pack_bytes(&sample->packed));
    assert_non_null(sample->base);
    memset(sample->base, 0xa5, pack_bytes(&sample->packed));
    for (uint32_t panel = 0; panel < sample->packed.panels; panel++)
        pack_panel(&sample->weight, &sample->packed, panel,
                   sample->base + panel * sample->packed.panel_bytes);
    sample->packed.base = sample->base;
    for (uint32_t row = 0; row < ROWS_MAX; row++)
        for (uint32_t n = 0; n < PANELS * 16; n++)
            sample->expected[row * PANELS * 16 + n] = expected_of(sample, row, n);
    for (uint32_t row = 0; row < ROWS_MAX; row++)
        for (uint32_t n = 0; n < sample->weight.rows; n++)
            near_exact(sample, row, n);
}

static void sample_close(struct sample *sample)
{
    free(sample->base);
    free(sample->x);
    free(sample->expected);
    free((void *)(uintptr_t)sample->weight.data);
}

static uint16_t *rows_room(uint32_t groups)
{
    uint16_t *values = aligned_alloc(64, (size_t)(ROWS_MAX + BF16_ROWS) * groups * BF16_GROUP * 2);
    assert_non_null(values);
    memset(values, 0xff, (size_t)(ROWS_MAX + BF16_ROWS) * groups * BF16_GROUP * 2);
    return values;
}

/* rows rows of x from first on, against all panels from first_panel on. */
static void check_product(const struct kernels *kernels, const char *name,
                          const struct sample *sample, uint32_t first, uint32_t rows,
                          uint32_t first_panel)
{
    static _Alignas(64) uint8_t scratch[INT8_SCRATCH_BYTES];
    static float c[ROWS_MAX * (PANELS * 16 + 1)];
    uint32_t panels = PANELS - first_panel, first_row = random_below(2) * BF16_ROWS;
    struct bf16_rows x = {rows_room(packed_bf16_groups(sample->columns)),
                          packed_bf16_groups(sample->columns)};
    if (first_row + rows > ROWS_MAX)
        first_row = 0;
    for (uint32_t row = 0; row < rows; row++)
        kernels->bf16_round(sample->x + (first + row) * sample->columns, sample->columns, &x,
                            first_row + row);
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++)
        c[i] = POISON;
    memset(scratch, 0xa5, sizeof(scratch));
    const struct bf16_product product = {.rows = rows,
                                         .first_row = first_row,
                                         .panels = panels,
                                         .first_panel = first_panel,
                                         .x = &x,
                                         .w = &sample->packed,
                                         .c = c,
                                         .c_stride = panels * 16 + 1,
                                         .scratch = scratch};
    kernels->bf16_product(&product);
    for (uint32_t row = 0; row < rows; row++) {
        char what[64];
        snprintf(what, sizeof(what), "%s, row %u of %u, %u columns", name, row, rows,
                 sample->columns);
        assert_same_bits(c + row * product.c_stride,
                         sample->expected + (first + row) * PANELS * 16 + first_panel * 16,
                         panels * 16, what);
        assert_true(c[row * product.c_stride + panels * 16] == POISON);
    }
    assert_true(rows == ROWS_MAX || c[rows * product.c_stride] == POISON);
    free(x.values);
}

/* Any number of rows and panels, from any row on, of widths that end within a group and within a
 * part: a row's bits are the manual's, alone and in any company. */
static void test_product(void **state)
{
    (void)state;
    static const uint32_t widths[] = {1, 2, 31, 32, 64, 77, 256, 300, 576, 1120};
    const char *name;
    const struct kernels *kernels;
    for (size_t i = 0; i < (SLOW_BUILD ? 7 : sizeof(widths) / sizeof(widths[0])); i++) {
        struct sample sample;
        sample_open(&sample, i % KINDS, widths[i]);
        for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
            bool plain = strcmp(name, "neon") == 0 || strcmp(name, "dotprod") == 0;
            for (uint32_t rows = 1; rows <= ROWS_MAX; rows += rows < 40 ? 1 : 10) {
                if ((v == 0 || plain) && rows % 13 != 0)
                    continue; /* the definition is slow and has no blocks */
                check_product(kernels, name, &sample, random_below(ROWS_MAX - rows + 1), rows,
                              rows % PANELS);
            }
        }
        sample_close(&sample);
    }
}

/* What an activation becomes, seen through weights of one: halves, ties, subnormal numbers. */
static void test_round(void **state)
{
    (void)state;
    enum { COLUMNS = 53 };
    static _Alignas(64) uint8_t scratch[INT8_SCRATCH_BYTES];
    uint8_t data[64 * COLUMNS * 2] = {0};
    float x[COLUMNS], c[64];
    for (uint32_t k = 0; k < COLUMNS; k++)
        store_u16(data + (k * COLUMNS + k) * 2, 0x3f80);
    struct backend_weight weight = {
        .name = "one", .type = DTYPE_BF16, .rows = 64, .columns = COLUMNS, .data = data};
    struct packed packed;
    assert_int_equal(pack_layout(&weight, &packed), OK);
    _Alignas(64) uint8_t base[4 * 2 * BF16_GROUP_BYTES];
    assert_int_equal(pack_bytes(&packed), sizeof(base));
    for (uint32_t panel = 0; panel < 4; panel++)
        pack_panel(&weight, &packed, panel, base + panel * packed.panel_bytes);
    packed.base = base;
    const char *name;
    const struct kernels *kernels;
    for (uint32_t round = 0; round < 500; round++) {
        for (uint32_t k = 0; k < COLUMNS; k++) {
            x[k] = float_from_bits(random_u32());
            if (random_below(2) == 0) /* ties */
                x[k] = float_from_bits((float_bits(x[k]) & 0xffff0000u) | 0x8000u);
            if (random_below(8) == 0)
                x[k] = float_from_bits(float_bits(x[k]) & 0x80ffffffu);
            if (!isfinite(x[k]) || fabsf(x[k]) > 0x1.fep127f)
                x[k] = 1.0f;
        }
        for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
            struct bf16_rows rows = {rows_room(2), 2};
            kernels->bf16_round(x, COLUMNS, &rows, 0);
            const struct bf16_product product = {.rows = 1,
                                                 .panels = 4,
                                                 .x = &rows,
                                                 .w = &packed,
                                                 .c = c,
                                                 .c_stride = 64,
                                                 .scratch = scratch};
            kernels->bf16_product(&product);
            for (uint32_t k = 0; k < COLUMNS; k++) {
                float expected = bf16_to_f32(manual_round(x[k])) + 0.0f; /* never -0 */
                assert_same_bits(&c[k], &expected, 1, name);
            }
            free(rows.values);
        }
    }
}

/* Infinities and NaN come out as such. */
static void test_not_finite(void **state)
{
    (void)state;
    struct sample sample;
    const char *name;
    const struct kernels *kernels;
    sample_open(&sample, PLAIN, 64);
    static _Alignas(64) uint8_t scratch[INT8_SCRATCH_BYTES];
    float c[3 * PANELS * 16];
    sample.x[5] = NAN;
    sample.x[64 + 7] = INFINITY;
    sample.x[128 + 7] = float_from_bits(0x7f7fffffu); /* rounds to infinity */
    for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++) {
        struct bf16_rows x = {rows_room(2), 2};
        for (uint32_t row = 0; row < 3; row++)
            kernels->bf16_round(sample.x + row * 64, 64, &x, row);
        const struct bf16_product product = {.rows = 3,
                                             .panels = PANELS,
                                             .x = &x,
                                             .w = &sample.packed,
                                             .c = c,
                                             .c_stride = PANELS * 16,
                                             .scratch = scratch};
        kernels->bf16_product(&product);
        for (uint32_t n = 0; n < sample.weight.rows; n++) {
            assert_true(isnan(c[n]));
            uint16_t w = weight_of(&sample, n, 7);
            float sign = (w & 0x8000u) != 0 ? -INFINITY : INFINITY;
            for (uint32_t row = 1; row < 3; row++) {
                float found = c[row * PANELS * 16 + n];
                assert_true((w & 0x7fffu) == 0 ? isnan(found) : found == sign);
            }
        }
        free(x.values);
    }
    sample_close(&sample);
}

/* Products that are almost the class's: without flushing, in one sum, with pairs swapped round. */
static void (*wrong_step)(const float w[32], const float x[32], float *sum);

static void wrong_no_flush(const float w[32], const float x[32], float *sum)
{
    float even = 0, odd = 0;
    for (uint32_t i = 0; i < 32; i += 2) {
        even = fmaf(w[i], x[i], even);
        odd = fmaf(w[i + 1], x[i + 1], odd);
    }
    *sum += even + odd;
}

static void wrong_one_sum(const float w[32], const float x[32], float *sum)
{
    for (uint32_t i = 0; i < 32; i++)
        *sum = bf16_fma(w[i], x[i], *sum);
}

static void wrong_order(const float w[32], const float x[32], float *sum)
{
    float even = 0, odd = 0;
    for (uint32_t i = 0; i < 32; i += 2) {
        even = bf16_fma(w[i ^ 2], x[i ^ 2], even);
        odd = bf16_fma(w[(i ^ 2) + 1], x[(i ^ 2) + 1], odd);
    }
    *sum = bf16_add(*sum, bf16_add(even, odd));
}

/* Flushes what was below the smallest float before it was rounded. */
static void wrong_tininess(const float w[32], const float x[32], float *sum)
{
    float halves[2] = {0, 0};
    for (uint32_t i = 0; i < 32; i++) {
        double exact =
            (double)read_as_zero(w[i]) * (double)read_as_zero(x[i]) + (double)halves[i % 2];
        halves[i % 2] = fabs(exact) < 0x1p-126 ? copysignf(0.0f, (float)exact)
                                               : bf16_fma(w[i], x[i], halves[i % 2]);
    }
    *sum = bf16_add(*sum, bf16_add(halves[0], halves[1]));
}

static void wrong_product(const struct bf16_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        for (uint32_t column = 0; column < 16; column++) {
            float sum = 0;
            for (uint32_t group = 0; group < p->x->groups; group++) {
                float w[32], x[32];
                for (uint32_t i = 0; i < 32; i++) {
                    size_t at = packed_bf16_at((size_t)group * 32 + i, column);
                    w[i] = bf16_to_f32(load_u16(packed_panel(p->w, 0) + at));
                    x[i] = bf16_to_f32(bf16_rows_at(p->x, row, group)[i]);
                }
                wrong_step(w, x, &sum);
            }
            p->c[row * p->c_stride + column] = sum;
        }
    }
}

static void test_check(void **state)
{
    (void)state;
    void (*const all[])(const float w[32], const float x[32],
                        float *sum) = {wrong_no_flush, wrong_one_sum, wrong_order, wrong_tininess};
    const char *name;
    const struct kernels *kernels;
    for (uint32_t v = 0; (kernels = variant(v, &name)) != NULL; v++)
        assert_true(bf16_check(kernels));
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct kernels wrong = kernels_scalar;
        wrong.bf16_product = wrong_product;
        wrong_step = all[i];
        if (bf16_check(&wrong))
            fail_msg("wrong product %zu passes", i);
    }
}

/* Is there a packed file for weight already? If not, it is made. */
static bool file_there(const char *path, const struct backend_weight *weight)
{
    const struct backend_cpu_weights weights = {
        .path = path, .model_path = "/proc/self/exe", .key = {7}, .bytes_max = 1u << 20};
    struct packed_file *file;
    struct packed packed;
    bool filled;
    assert_int_equal(pack_layout(weight, &packed), OK);
    assert_int_equal(packed_file_open(&weights, &file), OK);
    uint8_t *to = packed_file_take(file, &packed, &filled);
    assert_non_null(to);
    if (!filled)
        pack_panel(weight, &packed, 0, to);
    assert_int_equal(packed_file_done(file), OK);
    packed_file_close(file);
    return filled;
}

/* A file whose BF16 weights lie as an earlier version had them is made anew. */
static void test_file_layout(void **state)
{
    (void)state;
    char path[] = "/tmp/baton-bf16-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && close(fd) == 0 && unlink(path) == 0);
    struct backend_weight weight = random_weight(DTYPE_BF16, 16, 64);
    assert_false(file_there(path, &weight));
    assert_true(file_there(path, &weight));
    fd = open(path, O_RDWR);
    uint64_t table_at;
    const uint32_t earlier = 0;
    assert_int_equal(pread(fd, &table_at, 8, 8 + 4 + 4 + BACKEND_WEIGHTS_KEY_BYTES), 8);
    assert_int_equal(pwrite(fd, &earlier, 4, (off_t)table_at + 12), 4);
    assert_int_equal(close(fd), 0);
    assert_false(file_there(path, &weight));
    assert_true(file_there(path, &weight));
    assert_int_equal(unlink(path), 0);
    free((void *)(uintptr_t)weight.data);
}

int main(void)
{
    const char *names[CPU_VARIANTS_MAX];
    variants_here(names);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition), cmocka_unit_test(test_product),
        cmocka_unit_test(test_round),      cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_check),      cmocka_unit_test(test_file_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
