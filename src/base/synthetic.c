#include "base/synthetic.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/half.h"

static void store(enum dtype type, void *to, uint64_t at, float value)
{
    if (type == DTYPE_F32) {
        memcpy((uint8_t *)to + at * 4, &value, 4);
        return;
    }
    uint16_t half = type == DTYPE_F16 ? f32_to_f16(value) : f32_to_bf16(value);
    memcpy((uint8_t *)to + at * 2, &half, 2);
}

void synthetic_fill(const struct synthetic *synthetic, enum dtype type, uint64_t first,
                    uint64_t count, void *to)
{
    assert(type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16);
    const float scale = ldexpf(1.0f, synthetic->exponent), middle = synthetic->middle;
    uint64_t word = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t index = first + i;
        if (i == 0 || index % 8 == 0)
            word = synthetic_word(synthetic->seed, index / 8);
        int8_t byte = (int8_t)(uint8_t)(word >> (index % 8 * 8));
        store(type, to, i, middle + (float)byte * scale);
    }
}
