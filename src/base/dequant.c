#include "base/dequant.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/half.h"

static float f16_at(const uint8_t *from)
{
    return f16_to_f32(load_u16(from));
}

static void dequant_f32(const uint8_t *row, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = float_from_bits(load_u32(row + 4 * i));
}

static void dequant_f16(const uint8_t *row, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = f16_at(row + 2 * i);
}

static void dequant_bf16(const uint8_t *row, size_t count, float *out)
{
    for (size_t i = 0; i < count; i++)
        out[i] = bf16_to_f32(load_u16(row + 2 * i));
}

/* scale f16, 32 signed bytes */
static void dequant_q8_0(const uint8_t *group, float *out)
{
    float scale = f16_at(group);
    for (int i = 0; i < 32; i++)
        out[i] = scale * (float)(int8_t)group[2 + i];
}

/* scale f16, 16 bytes: the low nibbles are values 0 to 15, the high ones 16 to 31; 8 means 0 */
static void dequant_q4_0(const uint8_t *group, float *out)
{
    float scale = f16_at(group);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)((group[2 + i] & 15) - 8);
        out[i + 16] = scale * (float)((group[2 + i] >> 4) - 8);
    }
}

/* scale f16, minimum f16, nibbles as in Q4_0 */
static void dequant_q4_1(const uint8_t *group, float *out)
{
    float scale = f16_at(group);
    float minimum = f16_at(group + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)(group[4 + i] & 15) + minimum;
        out[i + 16] = scale * (float)(group[4 + i] >> 4) + minimum;
    }
}

/* The 6-bit scale and minimum of 32 values: eight of each are packed into 12 bytes, the first four
 * in the low six bits of bytes 0..3 and 4..7, the upper four as nibbles of bytes 8..11 with their
 * two high bits in the top of bytes 0..7. */
static void k_scale_minimum(const uint8_t *packed, int part, uint8_t *scale_out,
                            uint8_t *minimum_out)
{
    if (part < 4) {
        *scale_out = packed[part] & 63;
        *minimum_out = packed[part + 4] & 63;
    } else {
        *scale_out = (uint8_t)((packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4);
        *minimum_out = (uint8_t)(packed[part + 4] >> 4 | (packed[part] >> 6) << 4);
    }
}

/* d f16, dmin f16, 12 bytes of scales, 128 bytes: each 32 of them hold 64 values, low nibbles first
 */
static void dequant_q4_k(const uint8_t *group, float *out)
{
    float d = f16_at(group);
    float dmin = f16_at(group + 2);
    const uint8_t *nibbles = group + 16;
    for (int part = 0; part < 8; part++) {
        uint8_t s, m;
        k_scale_minimum(group + 4, part, &s, &m);
        float scale = d * (float)s;
        float minimum = dmin * (float)m;
        int shift = part % 2 * 4;
        for (int i = 0; i < 32; i++)
            *out++ = scale * (float)(nibbles[part / 2 * 32 + i] >> shift & 15) - minimum;
    }
}

/* as Q4_K, with 32 bytes of fifth bits before the nibbles: bit p of byte i is that of part p */
static void dequant_q5_k(const uint8_t *group, float *out)
{
    float d = f16_at(group);
    float dmin = f16_at(group + 2);
    const uint8_t *fifth = group + 16;
    const uint8_t *nibbles = group + 48;
    for (int part = 0; part < 8; part++) {
        uint8_t s, m;
        k_scale_minimum(group + 4, part, &s, &m);
        float scale = d * (float)s;
        float minimum = dmin * (float)m;
        int shift = part % 2 * 4;
        for (int i = 0; i < 32; i++) {
            int q = (nibbles[part / 2 * 32 + i] >> shift & 15) | (fifth[i] >> part & 1) << 4;
            *out++ = scale * (float)q - minimum;
        }
    }
}

/* 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d f16; 32 means 0. Each half
 * of a group is four runs of 32 values: nibbles at 0, 32 (low), 0, 32 (high); pairs at bits 0, 2,
 * 4, 6. */
static void dequant_q6_k(const uint8_t *group, float *out)
{
    float d = f16_at(group + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = group + half * 64;
        const uint8_t *high = group + 128 + half * 32;
        const uint8_t *scales = group + 192 + half * 8;
        for (int run = 0; run < 4; run++) {
            for (int i = 0; i < 32; i++) {
                int q = low[run % 2 * 32 + i] >> (run / 2 * 4) & 15;
                q |= (high[i] >> (run * 2) & 3) << 4;
                float scale = d * (float)(int8_t)scales[run * 2 + i / 16];
                *out++ = scale * (float)(q - 32);
            }
        }
    }
}

void dequant_row(enum dtype type, const void *row, size_t count, float *out)
{
    const uint8_t *from = row;
    assert(count % dtype_group(type) == 0);

    void (*group_call)(const uint8_t *group, float *to) = NULL;
    switch (type) {
    case DTYPE_F32:
        dequant_f32(from, count, out);
        return;
    case DTYPE_F16:
        dequant_f16(from, count, out);
        return;
    case DTYPE_BF16:
        dequant_bf16(from, count, out);
        return;
    case DTYPE_Q8_0:
        group_call = dequant_q8_0;
        break;
    case DTYPE_Q4_0:
        group_call = dequant_q4_0;
        break;
    case DTYPE_Q4_1:
        group_call = dequant_q4_1;
        break;
    case DTYPE_Q4_K:
        group_call = dequant_q4_k;
        break;
    case DTYPE_Q5_K:
        group_call = dequant_q5_k;
        break;
    case DTYPE_Q6_K:
        group_call = dequant_q6_k;
        break;
    }
    assert(group_call != NULL);
    size_t group = dtype_group(type);
    size_t group_bytes = dtype_group_bytes(type);
    for (size_t at = 0; at < count; at += group, from += group_bytes)
        group_call(from, out + at);
}
