/* backend/cpu/bf16_plain.h - products of the class cpu-bf16 as kernels_scalar.c has them.
 *
 * For NEON: its flush mode takes a sum that is below the smallest float before it is rounded for
 * zero, where the class asks afterwards, and its bf16 instructions round in yet another way.
 *
 * Included once by each table without another.
 */

static void bf16_round(const float *x, uint32_t count, const struct bf16_rows *to, uint32_t row)
{
    kernels_scalar.bf16_round(x, count, to, row);
}

static void bf16_product(const struct bf16_product *p)
{
    kernels_scalar.bf16_product(p);
}

#define bf16_peak lanes_peak_float
