/* backend/cpu/bf16_round.h - floats to bf16 as VCVTNEPS2BF16 rounds them, by integer operations.
 *
 * Included by bf16_lanes.h and bf16_amx.h.
 */
#ifndef BACKEND_CPU_BF16_ROUND_H
#define BACKEND_CPU_BF16_ROUND_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/bf16_class.h"
#include "backend/cpu/kernels.h"

/* Subnormal results become zeros (bit 15), subnormal operands are read as zeros (bit 6). */
#define BF16_MXCSR_FLUSH 0x8040u

/* Eight floats to the lower halves of eight dwords. */
static ALWAYS_INLINE __m256i bf16_round_eight(__m256i bits)
{
    const __m256i infinity = _mm256_set1_epi32(0x7f800000);
    __m256i upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i nan = _mm256_cmpgt_epi32(magnitude, infinity);
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
    return _mm256_blendv_epi8(rounded, _mm256_and_si256(upper, _mm256_set1_epi32(0x8000)), small);
}

/* A group in the order of k; what is missing of it is zeros. */
static ALWAYS_INLINE void bf16_round_group(const float *x, uint32_t count, uint16_t *to)
{
    float full[BF16_GROUP];
    if (count < BF16_GROUP) {
        memset(full, 0, sizeof(full));
        memcpy(full, x, count * sizeof(*x));
        x = full;
    }
    for (uint32_t i = 0; i < BF16_GROUP; i += 16) {
        const __m256i *from = (const __m256i *)(const void *)(x + i);
        __m256i both = _mm256_packus_epi32(bf16_round_eight(_mm256_loadu_si256(from)),
                                           bf16_round_eight(_mm256_loadu_si256(from + 1)));
        /* The instruction packs halves of its operands in turns. */
        both = _mm256_permute4x64_epi64(both, 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(to + i), both);
    }
}

static void bf16_round(const float *x, uint32_t count, const struct bf16_rows *to, uint32_t row)
{
    for (uint32_t group = 0; group < to->groups; group++, x += BF16_GROUP) {
        uint32_t left = count - group * BF16_GROUP;
        bf16_round_group(x, left < BF16_GROUP ? left : BF16_GROUP, bf16_rows_at(to, row, group));
    }
}

#endif
