/* backend/cpu/kernels.h - the inner loops, one table of them per instruction set.
 *
 *     kernels_scalar.c   the definition: plain C, every operation in the order that counts
 *     kernels_avx2.c     lanes_x86.h with 8 lanes, and kernels_lanes.h
 *     kernels_avx512.c   the same with 16 lanes
 *     kernels_vnni.c     kernels_avx512.c with int8_vnni.h instead of int8_avx2.h
 *     kernels_bf16.c     the same, and bf16_dot.h instead of bf16_lanes.h
 *     kernels_amx.c      kernels_vnni.c, with int8_amx.h for many rows, and bf16_amx.h
 *     kernels_neon.c     lanes_neon.h with 4 lanes, kernels_lanes.h and int8_neon.h
 *     kernels_dotprod.c  the same with the dot products of ARMv8.2
 *
 * All tables compute the same bits. Sums along a row of activations (square_sum, softmax) are 16
 * partial sums by index mod 16, merged as ((i, i+8), (i, i+4), (i, i+2), (0, 1)). Products run over
 * k in order. No table may be used on a machine that kernels_find does not answer it for.
 *
 * Threads: any. Memory: the caller's; nothing is allocated.
 */
#ifndef BACKEND_CPU_KERNELS_H
#define BACKEND_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/pack.h"
#include "base/dtype.h"

#define SUM_LANES 16u
#define DTYPE_NUMBERS (DTYPE_BF16 + 1)

/* Softmax weights of exp(-60) and less are zero. It makes every product of a weight and an f16
 * value (or an f16 scale times an int8) a multiple of 2^-134, so that adding a masked key's 0 x
 * value never changes a sum, not even the sign of its zero. */
#define SOFTMAX_CUT (-60.0f)

/* c[rows][16 * panels] (+)= x[rows][k] times panels of floats [k][16]. Strides are in floats. */
struct tile_product {
    uint32_t rows, panels, k;
    const float *x;
    size_t x_stride;
    const float *w;
    size_t panel_stride;
    float *c;
    size_t c_stride;
    bool add; /* go on from what c holds; else start from zero */
};

/* c[rows][16 * panels] = x[rows][columns] times panels of packed F16 or BF16 weights, all k: what
 * unpack and product do, straight from the weights. FEW_ROWS and less are faster so. */
#define FEW_ROWS 12u
struct few_product {
    uint32_t rows;
    uint32_t panels, first_panel;
    const float *x;
    size_t x_stride;
    const struct packed *w;
    float *c;
    size_t c_stride;
};

/* c[rows][16 * panels] = queries[rows][dims] times 16 * panels keys. Strides are in floats. */
#define KEY_PANELS_MAX 2u
struct key_product {
    uint32_t rows, panels, dims;
    const float *queries;
    size_t query_stride;
    const void *const *keys;           /* [16 * panels]; side by side: the first counts */
    bool side_by_side[KEY_PANELS_MAX]; /* the panel's 16 keys are, as the pool has them */
    float *c;
    size_t c_stride;
    float *tile;                       /* [panels][dims][16] to compute with */
    const void *ahead[KEY_PANELS_MAX]; /* what is read later, as many bytes as a panel's keys: asked
                                        * for on the way; NULL for nothing */
    const void *soon[KEY_PANELS_MAX];  /* the same of what is read next: asked for again, for the
                                        * machine forgets what it has no room to wait for */
};

/* c[rows][dims] (+)= weights[rows][count] times values[count][dims]. Strides are in floats. */
struct value_product {
    uint32_t rows, count, dims;
    const float *weights;
    size_t weight_stride;
    const void *values; /* as the pool has them, side by side */
    float *c;
    size_t c_stride;
    bool add;
    const void *ahead, *soon; /* as of keys, as many bytes as values */
};

/* What the integer dot product needs of 32 activations beside their int8 values. */
struct quant_scale {
    float scale;      /* value = scale * int8 */
    float scaled_sum; /* scale * sum of all 32 */
    int32_t sum;      /* of the int8 values, all 32 */
    int32_t sum_low;  /* of the first 16 */
};

/* Activations as int8: rows [columns] and scales [columns / 32]; columns is a multiple of 32. */
struct quant_rows {
    int8_t *values;
    struct quant_scale *scales;
    size_t value_stride; /* from row to row */
    size_t scale_stride;
};

/* c[rows][16 * panels] = quantised rows first_row.. times panels of packed weights, all k. */
struct int8_product {
    uint32_t rows, first_row;
    uint32_t panels, first_panel;
    const struct quant_rows *x;
    const struct packed *w;
    float *c;
    size_t c_stride;
    uint8_t *scratch; /* INT8_SCRATCH_BYTES, aligned to 64: weights taken apart */
};

/* Activations as bf16, in blocks of 16 rows: [rows / 16][groups][16][BF16_GROUP], zeros up to whole
 * groups. The order within a group is the table's own. */
#define BF16_ROWS 16u
struct bf16_rows {
    uint16_t *values;
    uint32_t groups;
};

static inline uint16_t *bf16_rows_at(const struct bf16_rows *x, uint32_t row, uint32_t group)
{
    size_t block = (size_t)(row / BF16_ROWS) * x->groups + group;
    return x->values + (block * BF16_ROWS + row % BF16_ROWS) * BF16_GROUP;
}

/* c[rows][16 * panels] = rows first_row.. times panels of packed BF16 weights, all k, in the order
 * and rounding of the class cpu-bf16. first_row is a multiple of BF16_ROWS. */
struct bf16_product {
    uint32_t rows, first_row;
    uint32_t panels, first_panel;
    const struct bf16_rows *x;
    const struct packed *w;
    float *c;
    size_t c_stride;
    uint8_t *scratch; /* INT8_SCRATCH_BYTES, aligned to 64 */
};

#define INT8_PLANE_BYTES 16384u
#define INT8_SCRATCH_BYTES 65536u /* int8_wide.h takes most */

/* A group of Q8_0: an f16 scale and 32 int8. */
#define Q8_0_BYTES 34u

/* Bytes of dims numbers of a key or value, F16 or Q8_0. */
static inline size_t kv_row_bytes(enum dtype type, size_t dims)
{
    return type == DTYPE_F16 ? 2 * dims : dims / 32 * Q8_0_BYTES;
}

/* Keys and values of the pool, of one type. dims is a multiple of 32 for Q8_0; a number of it, the
 * scale times the int8, is exact in a float. */
struct kv_kernels {
    /* Sixteen keys as a panel [dims][16]. ahead: what is read after them, as many bytes, asked for
     * on the way; or NULL. */
    void (*key_tile)(const void *const keys[PANEL_COLUMNS], uint32_t dims, float *tile,
                     const void *ahead);
    /* Scores of a few queries, each a sum over the dimensions in order: what key_tile and product
     * do. */
    void (*key_product)(const struct key_product *product);
    /* c[rows][dims] (+)= weights[rows][count] times values [count][dims] side by side, one value
     * after the other, for a few rows: what value_rows and product do for many. */
    void (*value_product)(const struct value_product *product);
    /* count values [dims] side by side as rows of panels: dimension d of value i at panel_stride *
     * (d / 16) + 16 * i + d % 16, zeros after the last d up to a multiple of 16. */
    void (*value_rows)(const void *values, uint32_t count, uint32_t dims, float *to,
                       size_t panel_stride);
};

struct kernels {
    const char *name;

    /* Nothing but multiply and add in registers, as fast as the instructions of the class allow:
     * rounds times. Returns the operations done; *sink_out keeps the compiler from dropping them.
     */
    uint64_t (*peak_float)(uint32_t rounds, float *sink_out);
    uint64_t (*peak_int8)(uint32_t rounds, float *sink_out);
    uint64_t (*peak_bf16)(uint32_t rounds, float *sink_out);
    /* Nothing but loads: all of bytes (a multiple of 256), once. */
    void (*peak_read)(const uint8_t *from, size_t bytes, float *sink_out);

    /* k0 .. k0 + count of a panel as floats [count][16]; multiples of 32 for quantised types. */
    void (*unpack[DTYPE_NUMBERS])(const struct packed *w, const uint8_t *panel, uint32_t k0,
                                  uint32_t count, float *tile);
    void (*product)(const struct tile_product *product);
    void (*few_product[DTYPE_NUMBERS])(const struct few_product *product); /* NULL: other types */

    /* count x int8 with its scales; count is a multiple of 32. */
    void (*quantize)(const float *x, uint32_t count, int8_t *values, struct quant_scale *scales);
    void (*int8_product[DTYPE_NUMBERS])(const struct int8_product *product);

    /* count floats to row row of x, from its first group on: to nearest even, subnormal ones to
     * zeros. */
    void (*bf16_round)(const float *x, uint32_t count, const struct bf16_rows *to, uint32_t row);
    void (*bf16_product)(const struct bf16_product *product);

    float (*square_sum)(const float *x, uint32_t count);
    void (*gate)(const float *gate, const float *up, float *h, size_t count);

    /* s[t] becomes exp(s[t] - max); returns their sum and the maximum. count >= 1; s has room for
     * count rounded up to SUM_LANES, and zeros are written there. */
    float (*softmax)(float *s, uint32_t count, float *max_out);
    /* o = o * a + part * b. */
    void (*merge)(float *o, const float *part, float a, float b, uint32_t count);

    /* Floats to f16, saturating at +-65504 (and NaN to -65504). */
    void (*half_store)(const float *x, uint16_t *to, uint32_t count);
    struct kv_kernels kv[DTYPE_NUMBERS]; /* F16 and Q8_0 */
};

/* The table of that name, the best for NULL or "auto"; NULL when this machine (or this build) lacks
 * it. *known_out tells an unknown name from one that is only missing here. */
const struct kernels *kernels_find(const char *name, bool *known_out);

/* Tables by rising speed; NULL where this machine or build lacks one. */
#define KERNELS_COUNT 8u
const struct kernels *kernels_at(uint32_t index);

/* What the tables are made of. */
extern const struct kernels kernels_scalar;
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
extern const struct kernels kernels_vnni;
extern const struct kernels kernels_bf16;
extern const struct kernels kernels_amx;
extern const struct kernels kernels_neon;
extern const struct kernels kernels_dotprod;

#endif
