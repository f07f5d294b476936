/* backend/cpu/int8_quantize.h - activations to int8 with AVX2, for any x86 table; the rounding is
 * that of kernels_scalar.c. Included by int8_avx2.h and int8_vnni.h.
 */
#ifndef BACKEND_CPU_INT8_QUANTIZE_H
#define BACKEND_CPU_INT8_QUANTIZE_H

#include "backend/cpu/int8_place.h"
#include "backend/cpu/lanes_x86.h"

static ALWAYS_INLINE int32_t int8_sum16(__m128i bytes)
{
    /* Unsigned sums of bytes plus 128, eight at a time, in the halves of the vector. */
    __m128i sums =
        _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
}

static void int8_quantize(const float *x, uint32_t count, int8_t *values,
                          struct quant_scale *scales)
{
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (uint32_t group = 0; group < count / 32; group++, x += 32, values += 32) {
        __m256 part[4];
        __m256 most = _mm256_setzero_ps();
        UNROLL
        for (int i = 0; i < 4; i++) {
            part[i] = _mm256_loadu_ps(x + 8 * i);
            most = _mm256_max_ps(_mm256_and_ps(part[i], no_sign), most);
        }
        __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
        four = _mm_max_ps(four, _mm_movehl_ps(four, four));
        four = _mm_max_ss(four, _mm_movehdup_ps(four));
        float largest = _mm_cvtss_f32(four);

        bool some = largest >= 0x1p-100f;
        float inverse = some ? 127.0f / largest : 0.0f;
        struct quant_scale scale = {.scale = some ? largest / 127.0f : 0.0f};
        __m256i q[4];
        UNROLL
        for (int i = 0; i < 4; i++)
            q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(part[i], _mm256_set1_ps(inverse)));
        __m256i bytes =
            _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, order);
        _mm256_storeu_si256((__m256i *)(void *)values, bytes);
        scale.sum_low = int8_sum16(_mm256_castsi256_si128(bytes));
        scale.sum = scale.sum_low + int8_sum16(_mm256_extracti128_si256(bytes, 1));
        scale.scaled_sum = scale.scale * (float)scale.sum;
        scales[group] = scale;
    }
}

#endif
