#include "backend/cpu/bf16_check.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"

#define ROWS 19u /* a block and a part of one */
#define COLUMNS 96u
#define OUTPUTS PANEL_COLUMNS
#define ROUNDS 8u

struct check {
    float x[ROWS][COLUMNS];
    uint16_t w[OUTPUTS][COLUMNS];
    _Alignas(64) uint8_t panel[COLUMNS / BF16_GROUP * BF16_GROUP_BYTES];
    _Alignas(64) uint8_t scratch[INT8_SCRATCH_BYTES];
    _Alignas(64) uint16_t rounded[2 * BF16_ROWS * COLUMNS];
    uint32_t state;
};

static uint32_t draw(struct check *check, uint32_t bound)
{
    check->state = check->state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)check->state * bound) >> 32);
}

/* Full fractions, and exponents from a narrow band around the middle: sums round and cancel; or
 * such that products and sums are about the smallest floats there are; or subnormal operands. */
static float number(struct check *check, int middle)
{
    float value = ldexpf((float)(128 + draw(check, 128)), middle - 7 + (int)draw(check, 9) - 4);
    if (draw(check, 16) == 0)
        value = draw(check, 2) == 0 ? 0.0f : 0x1.8p-128f;
    return draw(check, 2) == 0 ? value : -value;
}

static void fill(struct check *check, int middle)
{
    for (uint32_t k = 0; k < COLUMNS; k++) {
        /* Now and then the product of two k before is taken off again, but for its last places. */
        bool again = k >= 2 && draw(check, 3) == 0;
        for (uint32_t row = 0; row < ROWS; row++)
            check->x[row][k] = again ? check->x[row][k - 2] : number(check, middle);
        for (uint32_t n = 0; n < OUTPUTS; n++)
            check->w[n][k] = again ? (uint16_t)(check->w[n][k - 2] ^ 0x8000u ^ draw(check, 2))
                                   : f32_to_bf16(number(check, middle));
    }
    /* 2^-126 less what leaves it there or not, by a hair. */
    static const float less[] = {0x1p-88f, 0x1.8p-88f, 0x1p-87f, 0x1p-89f};
    for (uint32_t row = 0; row < 4; row++) {
        memset(check->x[row], 0, sizeof(check->x[row]));
        check->x[row][0] = 0x1p-63f;
        check->x[row][2] = -less[row];
    }
    check->w[0][0] = f32_to_bf16(0x1p-63f);
    check->w[0][2] = f32_to_bf16(0x1p-63f);
}

static void run(struct check *check, const struct kernels *kernels, const struct packed *packed,
                float *c)
{
    struct bf16_rows rows = {check->rounded, COLUMNS / BF16_GROUP};
    memset(check->rounded, 0, sizeof(check->rounded));
    for (uint32_t row = 0; row < ROWS; row++)
        kernels->bf16_round(check->x[row], COLUMNS, &rows, row);
    const struct bf16_product product = {.rows = ROWS,
                                         .panels = 1,
                                         .x = &rows,
                                         .w = packed,
                                         .c = c,
                                         .c_stride = OUTPUTS,
                                         .scratch = check->scratch};
    kernels->bf16_product(&product);
}

/* Bits, not values: -0 is not 0 here, and a NaN is itself. */
static bool same_bits(const float *expected, const float *found, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (float_bits(expected[i]) != float_bits(found[i]))
            return false;
    }
    return true;
}

bool bf16_check(const struct kernels *kernels)
{
    struct check check = {.state = 1};
    const struct backend_weight weight = {
        .name = "check", .type = DTYPE_BF16, .rows = OUTPUTS, .columns = COLUMNS, .data = check.w};
    struct packed packed;
    if (pack_layout(&weight, &packed) != OK)
        return false;
    packed.base = check.panel;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        float expected[ROWS * OUTPUTS], found[ROWS * OUTPUTS];
        fill(&check, round % 2 == 0 ? 0 : -63);
        pack_panel(&weight, &packed, 0, check.panel);
        run(&check, &kernels_scalar, &packed, expected);
        run(&check, kernels, &packed, found);
        if (!same_bits(expected, found, ROWS * OUTPUTS))
            return false;
    }
    return true;
}
