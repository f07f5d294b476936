/* backend/cpu/bf16_dot.h - products of the class cpu-bf16 with AVX-512 BF16, sixteen outputs to a
 * vector.
 *
 * VDPBF16PS adds the product of the upper halves of two dwords to a sum and then that of the lower
 * halves. The class has one sum for even and one for odd k of a group (bf16_class.h), so k and k +
 * 2 are put side by side:
 *
 *     packed weights            [16 pairs of k][16 columns]     k | k + 1 << 16
 *     taken apart (many rows)   [8][even, odd][16 columns]      even: k + 2 | k << 16
 *                                                               odd:  k + 3 | k + 1 << 16
 *     rows                      [even [8], odd [8]] dwords      the same
 *
 * Many rows have the weights of a part taken apart once, in scratch, for two panels; few do that
 * each time, in registers.
 *
 * Included once, by kernels_bf16.c.
 */
#include "backend/cpu/bf16_class.h"

#define BF16_MXCSR_FLUSH 0x8040u
#define DOT_PART 8u /* groups: with two panels half of a first cache of 32 KB */
#define DOT_PANELS 2u
#define DOT_ROWS 6u

/* What a block of rows works on. */
struct dot_block {
    const uint8_t *w;
    size_t w_stride; /* from panel to panel */
    const uint16_t *x;
    uint32_t groups;
    float *c;
    size_t c_stride;
    bool ahead; /* ask memory for what comes next */
};

static void bf16_round(const float *x, uint32_t count, const struct bf16_rows *to, uint32_t row)
{
    _Alignas(64) uint16_t order[BF16_GROUP];
    for (uint16_t i = 0; i < BF16_GROUP; i++)
        order[i] = (uint16_t)(i % 16 / 2 * 4 + (i % 2 == 0 ? 2 : 0) + i / 16);
    const __m512i places = _mm512_load_si512(order);
    for (uint32_t group = 0; group < to->groups; group++, x += BF16_GROUP) {
        uint32_t left = count - group * BF16_GROUP;
        __mmask16 low = 0xffff, high = 0xffff;
        if (left < BF16_GROUP) {
            low = (__mmask16)(left < 16 ? (1u << left) - 1 : 0xffffu);
            high = (__mmask16)(left > 16 ? (1u << (left - 16)) - 1 : 0u);
        }
        __m512bh both =
            _mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, x + 16), _mm512_maskz_loadu_ps(low, x));
        _mm512_storeu_si512(bf16_rows_at(to, row, group),
                            _mm512_permutexvar_epi16(places, (__m512i)both));
    }
}

/* Of two pairs of k, the even and the odd ones; the earlier is in the upper halves. */
static ALWAYS_INLINE __m512i dot_even(__m512i first, __m512i second)
{
    return _mm512_mask_blend_epi16(0x55555555, _mm512_slli_epi32(first, 16), second);
}

static ALWAYS_INLINE __m512i dot_odd(__m512i first, __m512i second)
{
    return _mm512_mask_blend_epi16(0x55555555, first, _mm512_srli_epi32(second, 16));
}

static ALWAYS_INLINE __m512 dot_step(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static ALWAYS_INLINE __m512i dot_pair(const uint16_t *x)
{
    int32_t pair;
    memcpy(&pair, x, sizeof(pair));
    return _mm512_set1_epi32(pair);
}

static void dot_take(const uint8_t *panel, uint32_t groups, uint8_t *to)
{
    for (uint32_t i = 0; i < groups * 8; i++, panel += 128, to += 128) {
        __m512i first = _mm512_loadu_si512(panel), second = _mm512_loadu_si512(panel + 64);
        _mm512_store_si512(to, dot_even(first, second));
        _mm512_store_si512(to + 64, dot_odd(first, second));
    }
}

/* rows x panels, whose sums of a group stay in registers. packed: weights as they are packed. */
static ALWAYS_INLINE void dot_rows(const struct dot_block *b, const uint32_t rows,
                                   const uint32_t panels, const bool packed)
{
    const uint8_t *w = b->w;
    const uint16_t *x = b->x;
    for (uint32_t g = 0; g < b->groups; g++, x += (size_t)BF16_ROWS * BF16_GROUP) {
        __m512 even[DOT_ROWS * DOT_PANELS], odd[DOT_ROWS * DOT_PANELS];
        UNROLL
        for (uint32_t i = 0; i < rows * panels; i++)
            even[i] = odd[i] = _mm512_setzero_ps();
        UNROLL
        for (uint32_t step = 0; step < 8; step++, w += 128) {
            __m512i w_even[DOT_PANELS], w_odd[DOT_PANELS];
            UNROLL
            for (uint32_t i = 0; i < panels; i++) {
                const uint8_t *from = w + i * b->w_stride;
                w_even[i] = _mm512_loadu_si512(from);
                w_odd[i] = _mm512_loadu_si512(from + 64);
                if (packed) {
                    __m512i first = w_even[i];
                    w_even[i] = dot_even(first, w_odd[i]);
                    w_odd[i] = dot_odd(first, w_odd[i]);
                    if (b->ahead) {
                        _mm_prefetch((const char *)from + FEW_AHEAD_BYTES, _MM_HINT_T0);
                        _mm_prefetch((const char *)from + FEW_AHEAD_BYTES + 64, _MM_HINT_T0);
                    }
                }
            }
            UNROLL
            for (uint32_t r = 0; r < rows; r++) {
                __m512i x_even = dot_pair(x + (size_t)r * BF16_GROUP + 2 * step);
                __m512i x_odd = dot_pair(x + (size_t)r * BF16_GROUP + 16 + 2 * step);
                UNROLL
                for (uint32_t i = 0; i < panels; i++) {
                    even[r * panels + i] = dot_step(even[r * panels + i], w_even[i], x_even);
                    odd[r * panels + i] = dot_step(odd[r * panels + i], w_odd[i], x_odd);
                }
            }
        }
        UNROLL
        for (uint32_t i = 0; i < rows * panels; i++) {
            float *c = b->c + i / panels * b->c_stride + i % panels * PANEL_COLUMNS;
            __m512 sum = _mm512_add_ps(even[i], odd[i]);
            _mm512_storeu_ps(c, _mm512_add_ps(_mm512_loadu_ps(c), sum));
        }
    }
}

#define DOT_CASE(rows)                                                                             \
    case rows:                                                                                     \
        if (panels == DOT_PANELS)                                                                  \
            dot_rows(b, rows, DOT_PANELS, packed);                                                 \
        else                                                                                       \
            dot_rows(b, rows, 1, packed);                                                          \
        break

static ALWAYS_INLINE void dot_block_rows(const struct dot_block *b, uint32_t rows, uint32_t panels,
                                         const bool packed)
{
    switch (rows) {
        DOT_CASE(1);
        DOT_CASE(2);
        DOT_CASE(3);
        DOT_CASE(4);
        DOT_CASE(5);
        DOT_CASE(6);
    default:
        break;
    }
}

static void dot_rows_packed(const struct dot_block *b, uint32_t rows, uint32_t panels)
{
    dot_block_rows(b, rows, panels, true);
}

static void dot_rows_taken(const struct dot_block *b, uint32_t rows, uint32_t panels)
{
    dot_block_rows(b, rows, panels, false);
}

/* Groups group0 .. of panels panel .. , their weights at w, for all rows: sixteen as 6, 5 and 5. */
static void dot_part(const struct bf16_product *p, uint32_t panel, uint32_t panels, uint32_t group0,
                     struct dot_block *b,
                     void (*run)(const struct dot_block *b, uint32_t rows, uint32_t panels))
{
    b->c_stride = p->c_stride;
    for (uint32_t row = 0; row < p->rows;) {
        uint32_t left = p->rows - row, in_block = BF16_ROWS - row % BF16_ROWS;
        left = left < in_block ? left : in_block;
        uint32_t blocks = (left + DOT_ROWS - 1) / DOT_ROWS, rows = (left + blocks - 1) / blocks;
        b->x = bf16_rows_at(p->x, p->first_row + row, group0);
        b->c = p->c + row * p->c_stride + (size_t)panel * PANEL_COLUMNS;
        b->ahead = row == 0;
        run(b, rows, panels);
        row += rows;
    }
}

/* Not inlined: no operation may move to where MXCSR is another. */
static __attribute__((noinline)) void dot_all(const struct bf16_product *p)
{
    const bool few = p->rows <= FEW_ROWS;
    const uint32_t all = p->x->groups, part = few ? all : DOT_PART;
    for (uint32_t row = 0; row < p->rows; row++)
        for (uint32_t i = 0; i < p->panels * PANEL_COLUMNS; i += 16)
            _mm512_storeu_ps(p->c + row * p->c_stride + i, _mm512_setzero_ps());
    for (uint32_t panel = 0; panel < p->panels; panel += DOT_PANELS) {
        uint32_t left = p->panels - panel, panels = left < DOT_PANELS ? left : DOT_PANELS;
        for (uint32_t group0 = 0; group0 < all; group0 += part) {
            uint32_t groups = all - group0 < part ? all - group0 : part;
            const uint8_t *w =
                packed_panel(p->w, p->first_panel + panel) + group0 * BF16_GROUP_BYTES;
            struct dot_block b = {.w = w, .w_stride = p->w->panel_bytes, .groups = groups};
            if (few) {
                dot_part(p, panel, panels, group0, &b, dot_rows_packed);
                continue;
            }
            for (uint32_t i = 0; i < panels; i++)
                dot_take(w + i * p->w->panel_bytes, groups,
                         p->scratch + i * DOT_PART * BF16_GROUP_BYTES);
            b.w = p->scratch;
            b.w_stride = DOT_PART * BF16_GROUP_BYTES;
            dot_part(p, panel, panels, group0, &b, dot_rows_taken);
        }
    }
}

/* The flush bits are for the additions; the dot products do not look at them. */
static void bf16_product(const struct bf16_product *p)
{
    unsigned mxcsr = _mm_getcsr();
    _mm_setcsr(mxcsr | BF16_MXCSR_FLUSH);
    dot_all(p);
    _mm_setcsr(mxcsr);
}

/* Sixteen chains: two a cycle, each ready after six. */
static uint64_t bf16_peak(uint32_t rounds, float *sink_out)
{
    __m512 sums[16], total = _mm512_setzero_ps();
    __m512i ones = _mm512_set1_epi32(0x3f803f80);
    UNROLL
    for (int i = 0; i < 16; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (uint32_t round = 0; round < rounds; round++) {
        UNROLL
        for (int i = 0; i < 16; i++)
            sums[i] = dot_step(sums[i], ones, ones);
    }
    UNROLL
    for (int i = 0; i < 16; i++)
        total = _mm512_add_ps(total, sums[i]);
    *sink_out = _mm512_cvtss_f32(total);
    return (uint64_t)rounds * 16 * 32 * 2;
}
