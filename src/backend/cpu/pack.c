#include "backend/cpu/pack.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define SYNTHETIC_PIECE 512u /* values made at a time */

/* One group of a file's row, taken apart. */
struct group {
    uint8_t values[256]; /* unsigned as stored; Q8_0 plus 128 */
    uint8_t d[2], m[2];  /* f16 as in the file */
    uint8_t scales[16];  /* for each 32 (Q4_K, Q5_K) or 16 (Q6_K, signed) values */
    uint8_t minimums[8];
};

status pack_layout(const struct backend_weight *weight, struct packed *packed_out)
{
    if (!dtype_known(weight->type))
        return error_set(ERR_UNSUPPORTED, "%s: type %d is none that the cpu backend computes",
                         weight->name, (int)weight->type);
    uint32_t group = dtype_group(weight->type);
    if (weight->rows == 0 || weight->columns == 0 || weight->columns % group != 0 ||
        weight->columns > 1u << 24 || weight->rows > 1u << 28)
        return error_set(ERR_BAD_INPUT,
                         "%s: expected rows and columns above 0, columns a multiple of %u and at "
                         "most 16777216, found %u x %u",
                         weight->name, group, weight->rows, weight->columns);

    struct packed p = {.type = weight->type, .rows = weight->rows, .columns = weight->columns};
    p.panels = (p.rows + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    size_t columns = p.columns;
    if (p.type == DTYPE_BF16)
        p.panel_bytes = packed_bf16_groups(p.columns) * BF16_GROUP_BYTES;
    else if (group == 1)
        p.panel_bytes = columns * PANEL_COLUMNS * dtype_group_bytes(p.type);
    else
        p.panel_bytes = columns / group * packed_unit_bytes(p.type);
    p.panel_bytes = (p.panel_bytes + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
    size_t total;
    if (!size_mul(p.panels, p.panel_bytes, &total))
        return error_set(ERR_BAD_INPUT, "%s: %u x %u values are too many", weight->name,
                         weight->rows, weight->columns);
    *packed_out = p;
    return OK;
}

size_t pack_bytes(const struct packed *packed)
{
    return packed->panels * packed->panel_bytes;
}

static void take_nibbles(const uint8_t *from, uint32_t count, uint8_t *values)
{
    for (uint32_t i = 0; i < count; i++) {
        values[i] = from[i] & 15;
        values[i + count] = from[i] >> 4;
    }
}

/* Eight 6-bit scales and minimums in 12 bytes; base/dequant.c draws them. */
static void take_k_scales(const uint8_t *from, struct group *group)
{
    for (uint32_t i = 0; i < 4; i++) {
        group->scales[i] = from[i] & 63;
        group->minimums[i] = from[i + 4] & 63;
        group->scales[i + 4] = (uint8_t)((from[i + 8] & 15) | (from[i] >> 6) << 4);
        group->minimums[i + 4] = (uint8_t)(from[i + 8] >> 4 | (from[i + 4] >> 6) << 4);
    }
}

static void take_k4(const uint8_t *nibbles, struct group *group)
{
    for (uint32_t part = 0; part < 4; part++)
        take_nibbles(nibbles + part * 32, 32, group->values + part * 64);
}

static void take_q6_k(const uint8_t *from, struct group *group)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t half = i / 128, run = i % 128 / 32, at = i % 32;
        uint8_t low = from[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
        uint8_t high = from[128 + half * 32 + at] >> (run * 2) & 3;
        group->values[i] = (uint8_t)(low | high << 4);
    }
    memcpy(group->scales, from + 192, 16);
    memcpy(group->d, from + 208, 2);
}

static void take_group(enum dtype type, const uint8_t *from, struct group *group)
{
    switch (type) {
    case DTYPE_Q8_0:
        memcpy(group->d, from, 2);
        for (uint32_t i = 0; i < 32; i++)
            group->values[i] = from[2 + i] ^ 0x80;
        return;
    case DTYPE_Q4_0:
        memcpy(group->d, from, 2);
        take_nibbles(from + 2, 16, group->values);
        return;
    case DTYPE_Q4_1:
        memcpy(group->d, from, 2);
        memcpy(group->m, from + 2, 2);
        take_nibbles(from + 4, 16, group->values);
        return;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        memcpy(group->d, from, 2);
        memcpy(group->m, from + 2, 2);
        take_k_scales(from + 4, group);
        if (type == DTYPE_Q4_K) {
            take_k4(from + 16, group);
            return;
        }
        take_k4(from + 48, group);
        for (uint32_t i = 0; i < 256; i++)
            group->values[i] |= (uint8_t)((from[16 + i % 32] >> (i / 32) & 1) << 4);
        return;
    case DTYPE_Q6_K:
        take_q6_k(from, group);
        return;
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
        break;
    }
    assert(false);
}

/* 32 values of one column to their places in a unit; group is the group of the unit. */
static void put_values(const struct packed *p, uint8_t *unit, size_t group, uint32_t column,
                       const uint8_t *values)
{
    uint8_t *quads = unit + group * packed_group_bytes(p->type) + column * 4;
    uint8_t *high = unit + packed_unit_groups(p->type) * packed_group_bytes(p->type) +
                    group * packed_high_bytes(p->type) + column * 4;
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t quad = i / 4, byte = i % 4;
        if (p->type == DTYPE_Q8_0) {
            quads[quad * 64 + byte] = values[i];
            continue;
        }
        uint8_t nibble = (uint8_t)((values[i] & 15) << (quad / 4 * 4));
        quads[quad % 4 * 64 + byte] |= nibble;
        if (p->type == DTYPE_Q5_K)
            high[byte] |= (uint8_t)((values[i] >> 4) << quad);
        else if (p->type == DTYPE_Q6_K)
            high[quad / 4 * 64 + byte] |= (uint8_t)((values[i] >> 4) << (quad % 4 * 2));
    }
}

/* The scales of one column to their places in a unit. */
static void put_scales(const struct packed *p, uint8_t *unit, uint32_t column,
                       const struct group *group)
{
    uint8_t *scales = unit + packed_unit_bytes(p->type) - packed_scale_bytes(p->type);
    memcpy(scales + column * 2, group->d, 2);
    if (p->type == DTYPE_Q4_1 || p->type == DTYPE_Q4_K || p->type == DTYPE_Q5_K)
        memcpy(scales + 32 + column * 2, group->m, 2);
    if (p->type == DTYPE_Q4_K || p->type == DTYPE_Q5_K) {
        for (uint32_t part = 0; part < 8; part++) {
            scales[64 + part * 32 + column] = group->scales[part];
            scales[64 + part * 32 + 16 + column] = group->minimums[part];
        }
    } else if (p->type == DTYPE_Q6_K) {
        for (uint32_t part = 0; part < 16; part++)
            scales[32 + part * 16 + column] = group->scales[part];
    }
}

static void pack_column(const struct packed *p, const uint8_t *row, uint32_t column, uint8_t *to)
{
    uint32_t group_values = dtype_group(p->type);
    uint32_t group_bytes = dtype_group_bytes(p->type);
    struct group group = {.d = {0}};
    for (size_t at = 0; at < p->columns / group_values; at++) {
        take_group(p->type, row + at * group_bytes, &group);
        uint8_t *unit = to + at * packed_unit_bytes(p->type);
        for (uint32_t part = 0; part < group_values / 32; part++)
            put_values(p, unit, part, column, group.values + part * 32);
        put_scales(p, unit, column, &group);
    }
}

/* Plain numbers, those of k0 on, into their column of a panel, which interleaves PANEL_COLUMNS of
 * them. */
static void spread_row(const struct packed *p, const uint8_t *row, uint32_t k0, uint32_t count,
                       uint32_t column, uint8_t *panel)
{
    if (p->type == DTYPE_BF16) {
        for (size_t k = 0; k < count; k++)
            memcpy(panel + packed_bf16_at(k0 + k, column), row + 2 * k, 2);
        return;
    }
    const uint32_t bytes = dtype_group_bytes(p->type);
    uint8_t *to = panel + ((size_t)k0 * PANEL_COLUMNS + column) * bytes;
    for (size_t k = 0; k < count; k++)
        memcpy(to + k * PANEL_COLUMNS * bytes, row + k * bytes, bytes);
}

/* The same for a row that has no bytes: made a piece at a time. */
static void spread_synthetic(const struct backend_weight *weight, const struct packed *p,
                             uint32_t row, uint32_t column, uint8_t *panel)
{
    uint8_t piece[SYNTHETIC_PIECE * 4];
    for (uint32_t k = 0; k < weight->columns; k += SYNTHETIC_PIECE) {
        uint32_t left = weight->columns - k;
        uint32_t count = left < SYNTHETIC_PIECE ? left : SYNTHETIC_PIECE;
        synthetic_fill(&weight->synthetic, weight->type, (uint64_t)row * weight->columns + k, count,
                       piece);
        spread_row(p, piece, k, count, column, panel);
    }
}

void pack_panel(const struct backend_weight *weight, const struct packed *packed, uint32_t panel,
                uint8_t *to)
{
    memset(to, 0, packed->panel_bytes);
    size_t row_bytes = dtype_row_bytes(packed->type, packed->columns);
    uint32_t first = panel * PANEL_COLUMNS;
    for (uint32_t column = 0; column < PANEL_COLUMNS && first + column < packed->rows; column++) {
        if (weight->data == NULL) {
            spread_synthetic(weight, packed, first + column, column, to);
            continue;
        }
        const uint8_t *row = (const uint8_t *)weight->data + (first + column) * row_bytes;
        if (dtype_group(packed->type) > 1)
            pack_column(packed, row, column, to);
        else
            spread_row(packed, row, 0, packed->columns, column, to);
    }
}
