/* backend/cpu/bf16_amx.h - products of the class cpu-bf16 with AMX tiles: two blocks of 16 rows by
 * two panels by 32 k at once.
 *
 *     tiles 0 .. 3   sums [block][panel]: [16 rows][16 columns] floats
 *     tiles 4, 5     rows of a block and group [16 rows][32 k], as bf16_round wrote them
 *     tiles 6, 7     weights of a panel and group [16 pairs of k][16 columns], as they are packed
 *
 * TDPBF16PS is the class's step of a group (bf16_class.h), so sums stay in their tiles for a part
 * of k and nothing is taken apart or laid out. A block of fewer rows is a tile of fewer rows: one
 * row is computed like many.
 *
 * Included once, by kernels_amx.c, after int8_amx.h.
 */
#include "backend/cpu/bf16_round.h"

#define AMX_BF16_PART 64u /* groups: 256 rows are 1 MB, which the second cache holds */
#define AMX_BF16_AHEAD 2u /* groups */

/* What a pass over a part of k works on. */
struct amx_bf16 {
    const uint8_t *w;
    size_t w_stride;
    const uint16_t *x;
    size_t x_stride; /* from block to block */
    uint32_t groups;
    float *c;
    size_t c_stride;
    bool add, ahead;
};

/* Rows of the first and of the second block; at least one of the second, which is used if there. */
static void amx_bf16_configure(uint32_t first, uint32_t second)
{
    _Alignas(64) struct amx_config config = {.palette = 1};
    for (uint32_t tile = 0; tile < 8; tile++) {
        bool weights = tile >= 6, lower = tile == 2 || tile == 3 || tile == 5;
        config.row_bytes[tile] = 64;
        config.rows[tile] = (uint8_t)(weights ? 16 : lower ? second : first);
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* GCC thinks 8 bytes of it are read */
    _tile_loadconfig(&config);
}

static ALWAYS_INLINE void amx_bf16_sums(const struct amx_bf16 *b, const bool blocks,
                                        const bool panels)
{
    float *lower = b->c + BF16_ROWS * b->c_stride;
    const size_t stride = b->c_stride * sizeof(float);
    if (!b->add) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, b->c, stride);
    if (panels)
        _tile_loadd(1, b->c + PANEL_COLUMNS, stride);
    if (blocks)
        _tile_loadd(2, lower, stride);
    if (blocks && panels)
        _tile_loadd(3, lower + PANEL_COLUMNS, stride);
}

static ALWAYS_INLINE void amx_bf16_store(const struct amx_bf16 *b, const bool blocks,
                                         const bool panels)
{
    float *lower = b->c + BF16_ROWS * b->c_stride;
    const size_t stride = b->c_stride * sizeof(float);
    _tile_stored(0, b->c, stride);
    if (panels)
        _tile_stored(1, b->c + PANEL_COLUMNS, stride);
    if (blocks)
        _tile_stored(2, lower, stride);
    if (blocks && panels)
        _tile_stored(3, lower + PANEL_COLUMNS, stride);
}

static ALWAYS_INLINE void amx_bf16_ahead(const uint8_t *w)
{
    const char *next = (const char *)w + AMX_BF16_AHEAD * BF16_GROUP_BYTES;
    for (size_t at = 0; at < BF16_GROUP_BYTES; at += 64)
        _mm_prefetch(next + at, _MM_HINT_T0);
}

/* blocks, panels: two of them. */
static ALWAYS_INLINE void amx_bf16_pass(const struct amx_bf16 *b, const bool blocks,
                                        const bool panels)
{
    const uint8_t *w = b->w;
    const uint16_t *x = b->x;
    amx_bf16_sums(b, blocks, panels);
    for (uint32_t g = 0; g < b->groups; g++, w += BF16_GROUP_BYTES, x += BF16_ROWS * BF16_GROUP) {
        if (b->ahead) {
            amx_bf16_ahead(w);
            if (panels)
                amx_bf16_ahead(w + b->w_stride);
        }
        _tile_loadd(6, w, 64);
        _tile_loadd(4, x, 64);
        if (panels)
            _tile_loadd(7, w + b->w_stride, 64);
        if (blocks)
            _tile_loadd(5, x + b->x_stride, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (panels)
            _tile_dpbf16ps(1, 4, 7);
        if (blocks)
            _tile_dpbf16ps(2, 5, 6);
        if (blocks && panels)
            _tile_dpbf16ps(3, 5, 7);
    }
    amx_bf16_store(b, blocks, panels);
}

static void amx_bf16_run(const struct amx_bf16 *b, bool blocks, bool panels)
{
    if (blocks && panels)
        amx_bf16_pass(b, true, true);
    else if (blocks)
        amx_bf16_pass(b, true, false);
    else if (panels)
        amx_bf16_pass(b, false, true);
    else
        amx_bf16_pass(b, false, false);
}

static void bf16_product(const struct bf16_product *p)
{
    const uint32_t all = p->x->groups, step = 2 * BF16_ROWS;
    const uint32_t part = p->rows <= step ? all : AMX_BF16_PART;
    uint32_t first = 0, second = 0;
    struct amx_bf16 b = {.w_stride = p->w->panel_bytes,
                         .x_stride = (size_t)all * BF16_ROWS * BF16_GROUP,
                         .c_stride = p->c_stride};
    for (uint32_t panel = 0; panel < p->panels; panel += 2) {
        const uint8_t *w = packed_panel(p->w, p->first_panel + panel);
        for (uint32_t group0 = 0; group0 < all; group0 += part) {
            b.w = w + group0 * BF16_GROUP_BYTES;
            b.groups = all - group0 < part ? all - group0 : part;
            b.add = group0 > 0;
            for (uint32_t row = 0; row < p->rows; row += step) {
                uint32_t left = p->rows - row;
                uint32_t upper = left < BF16_ROWS ? left : BF16_ROWS;
                uint32_t lower = left <= BF16_ROWS ? 1 : left < step ? left - BF16_ROWS : BF16_ROWS;
                if (upper != first || lower != second)
                    amx_bf16_configure(upper, lower);
                first = upper;
                second = lower;
                b.x = bf16_rows_at(p->x, p->first_row + row, group0);
                b.c = p->c + row * p->c_stride + (size_t)panel * PANEL_COLUMNS;
                b.ahead = row == 0;
                amx_bf16_run(&b, left > BF16_ROWS, p->panels - panel > 1);
            }
        }
    }
    if (p->rows > 0)
        _tile_release();
}

/* Tile products of bf16 numbers and nothing else. */
static uint64_t bf16_peak(uint32_t rounds, float *sink_out)
{
    _Alignas(64) float sums[256];
    rounds /= 16;
    amx_bf16_configure(16, 16);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(6);
    for (uint32_t round = 0; round < rounds; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_release();
    *sink_out = sums[0];
    return (uint64_t)rounds * 4 * 16 * 16 * 32 * 2;
}
