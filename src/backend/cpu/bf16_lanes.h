/* backend/cpu/bf16_lanes.h - products of the class cpu-bf16 by multiply-adds of floats, with both
 * flush bits of MXCSR set (bf16_class.h).
 *
 *     scratch   weights [2 panels][k of LANES_BF16_PART groups][16] | rows [rows][k], floats
 *
 * Few rows take the weights as they are packed: a pair of k is a dword, whose halves are floats
 * after a shift and a mask, and even and odd k are summed side by side. Many rows have a part of
 * the weights unpacked once, and sum even and then odd k: that leaves registers for more rows.
 *
 * Included once by the tables without bf16 instructions, after kernels_lanes.h.
 */
#include "backend/cpu/bf16_round.h"

#define LANES_BF16_PART 8u
#define LANES_BF16_PANELS (LANES == 16 ? 2u : 1u)
#define LANES_BF16_ROWS (LANES == 16 ? 12u : 6u)
#define LANES_BF16_FEW_ROWS (LANES == 16 ? 6u : 2u)
#define LANES_BF16_PANEL ((size_t)LANES_BF16_PART * BF16_GROUP * PANEL_COLUMNS)

/* A chunk of a product: groups group0 .. of some rows and panels. */
struct lanes_bf16 {
    const struct bf16_product *p;
    uint32_t group0, groups;
    const float *tile; /* many rows: of each panel */
    const float *x;    /* [row][32 * groups] from x_row on */
    uint32_t x_row;
};

static void lanes_bf16_rows(const struct lanes_bf16 *b, uint32_t rows, float *to)
{
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t g = 0; g < b->groups; g++, to += BF16_GROUP) {
            const uint16_t *from =
                bf16_rows_at(b->p->x, b->p->first_row + b->x_row + r, b->group0 + g);
            UNROLL
            for (uint32_t i = 0; i < BF16_GROUP; i += LANES)
                lanes_store(to + i, lanes_from_brain(from + i));
        }
    }
}

/* c += even + odd */
static ALWAYS_INLINE void lanes_bf16_add(float *c, lanes_f even, lanes_f odd)
{
    lanes_store(c, lanes_add(lanes_load(c), lanes_add(even, odd)));
}

static ALWAYS_INLINE void lanes_bf16_few(const struct lanes_bf16 *b, uint32_t row, uint32_t panel,
                                         const uint32_t rows, const uint32_t panels)
{
    const struct bf16_product *p = b->p;
    const size_t x_stride = (size_t)b->groups * BF16_GROUP, stride = p->w->panel_bytes;
    const float *x = b->x + (row - b->x_row) * x_stride;
    const uint8_t *w = packed_panel(p->w, p->first_panel + panel) + b->group0 * BF16_GROUP_BYTES;
    float *c = p->c + row * p->c_stride + (size_t)panel * PANEL_COLUMNS;
    const lanes_i upper = lanes_i_set((int)0xffff0000u);
    for (uint32_t g = 0; g < b->groups; g++) {
        lanes_f even[8], odd[8];
        UNROLL
        for (uint32_t i = 0; i < rows * panels * PANEL_VECTORS; i++)
            even[i] = odd[i] = lanes_zero();
        UNROLL
        for (uint32_t k = 0; k < BF16_GROUP; k += 2, w += 4 * PANEL_COLUMNS, x += 2) {
            UNROLL
            for (uint32_t i = 0; i < panels * PANEL_VECTORS; i++) {
                const uint8_t *from = w + i / PANEL_VECTORS * stride;
                if (row == 0 && i % PANEL_VECTORS == 0)
                    __builtin_prefetch((const char *)from + FEW_AHEAD_BYTES, 0, 3);
                lanes_i pair = lanes_i_load(from + i % PANEL_VECTORS * LANES * 4);
                lanes_f first = lanes_cast(lanes_i_left(pair, 16));
                lanes_f second = lanes_cast(lanes_i_and(pair, upper));
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    uint32_t at = r * panels * PANEL_VECTORS + i;
                    even[at] = lanes_fma(lanes_set(x[r * x_stride]), first, even[at]);
                    odd[at] = lanes_fma(lanes_set(x[r * x_stride + 1]), second, odd[at]);
                }
            }
        }
        UNROLL
        for (uint32_t i = 0; i < rows * panels * PANEL_VECTORS; i++) {
            uint32_t r = i / (panels * PANEL_VECTORS), at = i % (panels * PANEL_VECTORS);
            lanes_bf16_add(c + r * p->c_stride + at * LANES, even[i], odd[i]);
        }
    }
}

static ALWAYS_INLINE void lanes_bf16_many(const struct lanes_bf16 *b, uint32_t row, uint32_t panel,
                                          const uint32_t rows, const uint32_t panels)
{
    const uint32_t vectors = panels * PANEL_VECTORS;
    const size_t x_stride = (size_t)b->groups * BF16_GROUP;
    const float *x = b->x, *w = b->tile;
    float *c = b->p->c + row * b->p->c_stride + (size_t)panel * PANEL_COLUMNS;
    _Alignas(64) float even[24 * 16];
    for (uint32_t g = 0; g < b->groups; g++, x += BF16_GROUP, w += BF16_GROUP * PANEL_COLUMNS) {
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            lanes_f sum[24];
            UNROLL
            for (uint32_t i = 0; i < rows * vectors; i++)
                sum[i] = lanes_zero();
            for (uint32_t k = half; k < BF16_GROUP; k += 2) {
                lanes_f column[4];
                UNROLL
                for (uint32_t v = 0; v < vectors; v++)
                    column[v] = lanes_load(w + v / PANEL_VECTORS * LANES_BF16_PANEL +
                                           (size_t)k * PANEL_COLUMNS + v % PANEL_VECTORS * LANES);
                UNROLL
                for (uint32_t r = 0; r < rows; r++) {
                    lanes_f one = lanes_set(x[r * x_stride + k]);
                    UNROLL
                    for (uint32_t v = 0; v < vectors; v++)
                        sum[r * vectors + v] = lanes_fma(one, column[v], sum[r * vectors + v]);
                }
            }
            UNROLL
            for (uint32_t i = 0; i < rows * vectors; i++) {
                if (half == 0)
                    lanes_store(even + i * LANES, sum[i]);
                else
                    lanes_bf16_add(c + i / vectors * b->p->c_stride + i % vectors * LANES,
                                   lanes_load(even + i * LANES), sum[i]);
            }
        }
    }
}

/* A block of as many rows as there are registers for, or what is left of them. Returns how many. */
static uint32_t lanes_bf16_few_rows(const struct lanes_bf16 *b, uint32_t row, uint32_t left,
                                    uint32_t panel)
{
#if LANES == 16
    if (left >= 6) {
        lanes_bf16_few(b, row, panel, 6, 1);
        return 6;
    }
    if (left >= 4) {
        lanes_bf16_few(b, row, panel, 4, 1);
        return 4;
    }
#endif
    if (left >= 2) {
        lanes_bf16_few(b, row, panel, 2, 1);
        return 2;
    }
    lanes_bf16_few(b, row, panel, 1, 1);
    return 1;
}

static uint32_t lanes_bf16_many_rows(const struct lanes_bf16 *b, uint32_t row, uint32_t left,
                                     uint32_t panel, uint32_t panels)
{
#define LANES_BF16_MANY(rows)                                                                      \
    do {                                                                                           \
        if (panels > 1)                                                                            \
            lanes_bf16_many(b, row, panel, rows, LANES_BF16_PANELS);                               \
        else                                                                                       \
            lanes_bf16_many(b, row, panel, rows, 1);                                               \
        return rows;                                                                               \
    } while (0)
#if LANES == 16
    if (left >= 12)
        LANES_BF16_MANY(12);
#endif
    if (left >= 6)
        LANES_BF16_MANY(6);
    if (left >= 3)
        LANES_BF16_MANY(3);
    LANES_BF16_MANY(1);
#undef LANES_BF16_MANY
}

/* Every panel is one stream; rows are floats for as much of k as scratch holds. */
static void lanes_bf16_few_all(const struct bf16_product *p)
{
    uint32_t all = p->x->groups;
    uint32_t part = INT8_SCRATCH_BYTES / (BF16_GROUP * (uint32_t)sizeof(float)) / p->rows;
    struct lanes_bf16 b = {.p = p, .x = (float *)(void *)p->scratch};
    for (; b.group0 < all; b.group0 += part) {
        b.groups = all - b.group0 < part ? all - b.group0 : part;
        lanes_bf16_rows(&b, p->rows, (float *)(void *)p->scratch);
        uint32_t panel = 0;
        for (; p->rows == 1 && panel + 2 <= p->panels; panel += 2)
            lanes_bf16_few(&b, 0, panel, 1, 2);
        for (; panel < p->panels; panel++)
            for (uint32_t row = 0; row < p->rows;)
                row += lanes_bf16_few_rows(&b, row, p->rows - row, panel);
    }
}

static void lanes_bf16_many_all(const struct bf16_product *p)
{
    float *tile = (float *)(void *)p->scratch, *rows = tile + LANES_BF16_PANELS * LANES_BF16_PANEL;
    uint32_t all = p->x->groups;
    _Static_assert(
        (LANES_BF16_PANELS * LANES_BF16_PANEL + LANES_BF16_ROWS * LANES_BF16_PART * BF16_GROUP) *
                sizeof(float) <=
            INT8_SCRATCH_BYTES,
        "it is the scratch's place");
    struct lanes_bf16 b = {.p = p, .tile = tile, .x = rows};
    for (uint32_t panel = 0; panel < p->panels; panel += LANES_BF16_PANELS) {
        uint32_t left = p->panels - panel;
        uint32_t panels = left < LANES_BF16_PANELS ? left : LANES_BF16_PANELS;
        for (b.group0 = 0; b.group0 < all; b.group0 += LANES_BF16_PART) {
            b.groups = all - b.group0 < LANES_BF16_PART ? all - b.group0 : LANES_BF16_PART;
            for (uint32_t i = 0; i < panels; i++)
                lanes_unpack_bf16(p->w, packed_panel(p->w, p->first_panel + panel + i),
                                  b.group0 * BF16_GROUP, b.groups * BF16_GROUP,
                                  tile + i * LANES_BF16_PANEL);
            for (uint32_t row = 0; row < p->rows;) {
                uint32_t rest = p->rows - row;
                b.x_row = row;
                lanes_bf16_rows(&b, rest < LANES_BF16_ROWS ? rest : LANES_BF16_ROWS, rows);
                row += lanes_bf16_many_rows(&b, row, rest, panel, panels);
            }
        }
    }
}

/* Not inlined: no operation may move to where MXCSR is another. */
static __attribute__((noinline)) void lanes_bf16_all(const struct bf16_product *p)
{
    for (uint32_t row = 0; row < p->rows; row++)
        for (uint32_t i = 0; i < p->panels * PANEL_COLUMNS; i += LANES)
            lanes_store(p->c + row * p->c_stride + i, lanes_zero());
    if (p->rows <= FEW_ROWS)
        lanes_bf16_few_all(p);
    else
        lanes_bf16_many_all(p);
}

static void bf16_product(const struct bf16_product *p)
{
    unsigned mxcsr = _mm_getcsr();
    _mm_setcsr(mxcsr | BF16_MXCSR_FLUSH);
    lanes_bf16_all(p);
    _mm_setcsr(mxcsr);
}

#define bf16_peak lanes_peak_float
