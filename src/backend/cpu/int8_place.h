/* backend/cpu/int8_place.h - where an integer product is, and how early its weights are asked for:
 * what the products of every instruction set share. Included by the int8_*.h files.
 */
#ifndef BACKEND_CPU_INT8_PLACE_H
#define BACKEND_CPU_INT8_PLACE_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/unroll.h"

/* Where a product is: one panel against rows row .. */
struct int8_place {
    const uint8_t *panel;
    const int8_t *x;
    const struct quant_scale *x_scales;
    size_t x_stride, scale_stride;
    uint32_t groups;
    bool ahead; /* ask memory for what comes */
    float *c;
    size_t c_stride;
};

static inline struct int8_place int8_place_of(const struct int8_product *p, uint32_t row,
                                              uint32_t panel)
{
    return (struct int8_place){
        .panel = packed_panel(p->w, p->first_panel + panel),
        .x = p->x->values + (p->first_row + row) * p->x->value_stride,
        .x_scales = p->x->scales + (p->first_row + row) * p->x->scale_stride,
        .x_stride = p->x->value_stride,
        .scale_stride = p->x->scale_stride,
        .groups = p->w->columns / 32,
        .ahead = row == 0,
        .c = p->c + row * p->c_stride + panel * PANEL_COLUMNS,
        .c_stride = p->c_stride,
    };
}

static ALWAYS_INLINE int32_t int8_four(const int8_t *from)
{
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return four;
}

#define INT8_HAS_MINIMUM(type)                                                                     \
    ((type) == DTYPE_Q4_1 || (type) == DTYPE_Q4_K || (type) == DTYPE_Q5_K)

/* With few rows memory is what a product waits for, and a core has too few misses in flight at a
 * time when it only reads: asking for a piece a little later in the stream keeps more of them
 * going. The first block of rows does that. The end of the matrix is overrun harmlessly. */
#define INT8_AHEAD_BYTES 2048u

/* With many rows a part of a panel is read at once, and then worked on for long: the next part is
 * asked for meanwhile. */
#define INT8_AHEAD_PART_BYTES 8192u

static ALWAYS_INLINE const char *int8_stream(enum dtype type, const struct int8_place *p,
                                             uint32_t group)
{
    return (const char *)p->panel + group * packed_unit_bytes(type) / packed_unit_groups(type);
}

static ALWAYS_INLINE void int8_prefetch(enum dtype type, const struct int8_place *p, uint32_t group)
{
    size_t bytes = packed_unit_bytes(type) / packed_unit_groups(type);
    UNROLL
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(int8_stream(type, p, group) + INT8_AHEAD_BYTES + at, 0, 3);
}

static ALWAYS_INLINE void int8_prefetch_part(enum dtype type, const struct int8_place *p,
                                             uint32_t group)
{
    size_t bytes = packed_unit_bytes(type) / packed_unit_groups(type);
    UNROLL
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(int8_stream(type, p, group) + INT8_AHEAD_PART_BYTES + at, 0, 2);
}

/* Rows in blocks of the sizes that there is code for; block(rows) runs one. */
#define INT8_PRODUCT(name, block)                                                                  \
    static void name(const struct int8_product *p)                                                 \
    {                                                                                              \
        for (uint32_t panel = 0; panel < p->panels; panel++) {                                     \
            for (uint32_t row = 0; row < p->rows;) {                                               \
                struct int8_place place = int8_place_of(p, row, panel);                            \
                row += block(&place, p->rows - row);                                               \
            }                                                                                      \
        }                                                                                          \
    }

#endif
