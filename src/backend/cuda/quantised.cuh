/* backend/cuda/quantised.cuh - how Q8_0 and Q4_K matrices lie on the device.
 *
 *     unit        64 bytes of a row: 64 columns in Q8_0, 128 in Q4_K (and 32 in halves)
 *     octet       eight rows, unit after unit: [8 rows][64 bytes], then their scales: one f16 for
 *                 32 columns, in Q4_K a pair (scale, minimum), [8 rows][4 or 16 bytes]. Rows that
 *                 the last octet lacks are zeros.
 *
 * So eight rows come from memory as one piece, scales and all. Within a unit thread t of the four
 * that share a row (stream.cuh) has 16 bytes: its 8 columns of each 32, in Q8_0 a byte each, in
 * Q4_K nibbles i and i + 4 of a word for columns 2i and 2i + 1. */
#ifndef BACKEND_CUDA_QUANTISED_CUH
#define BACKEND_CUDA_QUANTISED_CUH

#include "backend/cuda/state.cuh"

#define UNIT_BYTES 64u
#define OCTET 8u

enum form { FORM_HALVES, FORM_Q8, FORM_Q4K };

static inline int form_of(enum dtype type)
{
    return type == DTYPE_Q8_0 ? FORM_Q8 : type == DTYPE_Q4_K ? FORM_Q4K : FORM_HALVES;
}

__host__ __device__ constexpr uint32_t unit_columns(int form)
{
    return form == FORM_HALVES ? 32 : form == FORM_Q8 ? 64 : 128;
}

/* Of one row of a unit. */
__host__ __device__ constexpr uint32_t scale_bytes(int form)
{
    return form == FORM_Q8 ? 4 : form == FORM_Q4K ? 16 : 0;
}

/* A unit of an octet, with its scales. */
__host__ __device__ constexpr uint32_t octet_bytes(int form)
{
    return OCTET * (UNIT_BYTES + scale_bytes(form));
}

/* The unit that has this value. */
__host__ __device__ inline size_t octet_at(int form, uint32_t row, uint32_t columns,
                                           uint32_t column)
{
    uint32_t units = columns / unit_columns(form);
    return ((size_t)(row / OCTET) * units + column / unit_columns(form)) * octet_bytes(form);
}

/* Where in the unit the eight columns from column on begin, and their scale. */
__host__ __device__ inline uint32_t eight_at(int form, uint32_t row, uint32_t column)
{
    uint32_t group = column % unit_columns(form) / 32, t = column % 32 / 8;
    return row % OCTET * UNIT_BYTES + t * 16 + group * (form == FORM_Q8 ? 8 : 4);
}
__host__ __device__ inline uint32_t scale_at(int form, uint32_t row, uint32_t column)
{
    uint32_t group = column % unit_columns(form) / 32;
    return OCTET * UNIT_BYTES + row % OCTET * scale_bytes(form) + group * (form == FORM_Q8 ? 2 : 4);
}

/* Eight values of a row. */
template <int FORM>
__device__ inline void eight_read(const char *matrix, uint32_t row, uint32_t columns,
                                  uint32_t column, float to[8])
{
    const char *unit = matrix + octet_at(FORM, row, columns, column);
    const char *eight = unit + eight_at(FORM, row, column);
    const char *scale = unit + scale_at(FORM, row, column);
    if (FORM == FORM_Q8) {
        uint2 bytes = *(const uint2 *)eight;
        const int8_t *values = (const int8_t *)&bytes;
        float by = __half2float(*(const __half *)scale);
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = (float)values[i] * by;
    } else {
        uint32_t word = *(const uint32_t *)eight;
        float2 by = __half22float2(*(const __half2 *)scale);
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = by.x * (float)(word >> (i / 2 * 4 + i % 2 * 16) & 15) - by.y;
    }
}

#endif
