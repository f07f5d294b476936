/* backend/cpu/scalar_scales.h - single values and scales of a packed panel, for the scalar kernels
 * and for tests. weight = scale * (value - zero) + minimum.
 */
#ifndef BACKEND_CPU_SCALAR_SCALES_H
#define BACKEND_CPU_SCALAR_SCALES_H

#include <stdint.h>

#include "backend/cpu/pack.h"
#include "base/bytes.h"
#include "base/half.h"

struct column_scale {
    float scale, minimum;
    int32_t zero;
};

static inline uint32_t column_value(const struct packed *w, const uint8_t *panel, uint32_t k,
                                    uint32_t column)
{
    uint32_t quad = k % 32 / 4, at = column * 4 + k % 4;
    struct packed_group group = packed_group_at(w->type, panel, k / 32);
    if (w->type == DTYPE_Q8_0)
        return group.values[quad * 64 + at];
    uint32_t value = group.values[quad % 4 * 64 + at] >> (quad / 4 * 4) & 15;
    if (w->type == DTYPE_Q5_K)
        value |= (group.high[at] >> quad & 1u) << 4;
    else if (w->type == DTYPE_Q6_K)
        value |= ((uint32_t)group.high[quad / 4 * 64 + at] >> (quad % 4 * 2) & 3u) << 4;
    return value;
}

static inline struct column_scale column_scale(const struct packed *w, const uint8_t *panel,
                                               uint32_t k, uint32_t column)
{
    const uint8_t *scales = packed_group_at(w->type, panel, k / 32).scales;
    float d = f16_to_f32(load_u16(scales + column * 2));
    uint32_t part;
    switch (w->type) {
    case DTYPE_Q8_0:
        return (struct column_scale){.scale = d, .zero = 128};
    case DTYPE_Q4_0:
        return (struct column_scale){.scale = d, .zero = 8};
    case DTYPE_Q4_1:
        return (struct column_scale){.scale = d,
                                     .minimum = f16_to_f32(load_u16(scales + 32 + column * 2))};
    case DTYPE_Q6_K:
        part = k % 256 / 16;
        return (struct column_scale){.scale = d * (float)(int8_t)scales[32 + part * 16 + column],
                                     .zero = 32};
    default: /* Q4_K, Q5_K */
        part = k % 256 / 32;
        scales += 32;
        return (struct column_scale){.scale = d * (float)scales[32 + part * 32 + column],
                                     .minimum = -(f16_to_f32(load_u16(scales + column * 2)) *
                                                  (float)scales[32 + part * 32 + 16 + column])};
    }
}

#endif
