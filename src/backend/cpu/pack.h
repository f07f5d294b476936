/* backend/cpu/pack.h - weights in the order in which kernels read them.
 *
 * A matrix is cut into panels of 16 rows (16 output columns of y = W x), each one contiguous piece.
 * Sixteen lanes of a kernel are sixteen outputs, so the sum of every output runs over k in order,
 * whatever the width of a machine's vectors. Values stay as the file has them; only their places
 * change, and Q8_0 is stored plus 128. Rows beyond the last are zeros with zero scales.
 *
 *     F32, F16         [k][16]
 *     BF16             [k / 2][16][2], zeros up to a multiple of 32 k: a pair is a dword of a tile
 * or a vector, and its halves are floats after one instruction each quantised        units, one
 * after another, of dtype_group(type) k each: values of the unit's groups (32 k each) | their upper
 * bits | scales
 *
 * So a product reads its matrix as one stream in the order of memory, which is what memory is
 * fastest at.
 *
 *     values of a group   Q8_0: [8 quads][16][4] bytes; quad j of column c holds k = 4j .. 4j + 3
 *                         4-bit and more: [4][16][4], quad j in the low, j + 4 in the high nibbles
 *     upper bits          Q5_K: [16][4] bytes a group, bit j of byte b: k = 4j + b
 *                         Q6_K: [2][16][4], bits 2(j mod 4).. of byte b of half j / 4
 *     scales              Q4_0, Q8_0: f16 d [16]     Q4_1: f16 d [16], f16 m [16]
 *                         Q4_K, Q5_K: f16 d [16], f16 dmin [16], then (u8 s [16], u8 m [16]) for
 *                                     each of 8 groups
 *                         Q6_K: f16 d [16], then i8 s [16] for each 16 k
 *
 * A packed matrix has no pointers in it: it may lie in a file or shared memory.
 *
 * Threads: pack_panel by any number at once, for different panels. Memory: the caller's.
 */
#ifndef BACKEND_CPU_PACK_H
#define BACKEND_CPU_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/dtype.h"
#include "base/status.h"

#define PANEL_COLUMNS 16u
#define PACK_ALIGN 64u

#define BF16_GROUP 32u /* k that a group of BF16 weights has; its sums are one step of a class */
#define BF16_GROUP_BYTES ((size_t)BF16_GROUP * PANEL_COLUMNS * 2)

struct packed {
    enum dtype type;
    uint32_t rows, columns; /* of the matrix: outputs, summed dimension */
    uint32_t panels;
    size_t panel_bytes; /* a multiple of PACK_ALIGN */
    const uint8_t *base;
};

/* Fill in all but base. Errors: ERR_UNSUPPORTED (type), ERR_BAD_INPUT (columns not a multiple of
 * the type's group, or too large). */
status pack_layout(const struct backend_weight *weight, struct packed *packed_out);

/* panels * panel_bytes. */
size_t pack_bytes(const struct packed *packed);

/* Write panel panel_bytes at to, which is aligned to PACK_ALIGN. */
void pack_panel(const struct backend_weight *weight, const struct packed *packed, uint32_t panel,
                uint8_t *to);

static inline const uint8_t *packed_panel(const struct packed *packed, uint32_t panel)
{
    return packed->base + panel * packed->panel_bytes;
}

/* Groups of a row of BF16, the last one filled up with zeros. */
static inline uint32_t packed_bf16_groups(uint32_t columns)
{
    return (columns + BF16_GROUP - 1) / BF16_GROUP;
}

/* Where a number of a BF16 panel is, in bytes. */
static inline size_t packed_bf16_at(size_t k, uint32_t column)
{
    return (k / 2 * PANEL_COLUMNS + column) * 4 + k % 2 * 2;
}

/* Groups of a unit. */
static inline size_t packed_unit_groups(enum dtype type)
{
    return type == DTYPE_Q4_K || type == DTYPE_Q5_K || type == DTYPE_Q6_K ? 8 : 1;
}

/* Of a group, without its scales. */
static inline size_t packed_group_bytes(enum dtype type)
{
    return type == DTYPE_Q8_0 ? 512 : 256;
}

static inline size_t packed_high_bytes(enum dtype type)
{
    return type == DTYPE_Q5_K ? 64 : type == DTYPE_Q6_K ? 128 : 0;
}

/* Scale bytes of a unit. */
static inline size_t packed_scale_bytes(enum dtype type)
{
    switch (type) {
    case DTYPE_Q4_0:
    case DTYPE_Q8_0:
        return 32;
    case DTYPE_Q4_1:
        return 64;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        return 64 + 8 * 32;
    case DTYPE_Q6_K:
        return 32 + 16 * 16;
    default:
        return 0;
    }
}

static inline size_t packed_unit_bytes(enum dtype type)
{
    return packed_unit_groups(type) * (packed_group_bytes(type) + packed_high_bytes(type)) +
           packed_scale_bytes(type);
}

/* Where a group of a panel is: its values, its upper bits, and the scales of its unit. */
struct packed_group {
    const uint8_t *values, *high, *scales;
};

static inline struct packed_group packed_group_at(enum dtype type, const uint8_t *panel,
                                                  size_t group)
{
    const size_t groups = packed_unit_groups(type);
    const uint8_t *unit = panel + group / groups * packed_unit_bytes(type);
    const uint8_t *high = unit + groups * packed_group_bytes(type);
    return (struct packed_group){.values = unit + group % groups * packed_group_bytes(type),
                                 .high = high + group % groups * packed_high_bytes(type),
                                 .scales = high + groups * packed_high_bytes(type)};
}

#endif
