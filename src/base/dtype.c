#include "base/dtype.h"

#include <assert.h>

struct dtype_facts {
    const char *name;
    uint32_t group;
    uint32_t group_bytes;
};

static const struct dtype_facts dtype_table[DTYPE_BF16 + 1] = {
    [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},
    [DTYPE_Q4_0] = {"Q4_0", 32, 2 + 16},             /* scale, 32 nibbles */
    [DTYPE_Q4_1] = {"Q4_1", 32, 4 + 16},             /* scale, minimum, 32 nibbles */
    [DTYPE_Q8_0] = {"Q8_0", 32, 2 + 32},             /* scale, 32 bytes */
    [DTYPE_Q4_K] = {"Q4_K", 256, 4 + 12 + 128},      /* two scales, 8 x (6 + 6 bits), nibbles */
    [DTYPE_Q5_K] = {"Q5_K", 256, 4 + 12 + 160},      /* as Q4_K, and a fifth bit each */
    [DTYPE_Q6_K] = {"Q6_K", 256, 128 + 64 + 16 + 2}, /* low 4, high 2 bits, 16 scales, scale */
    [DTYPE_BF16] = {"BF16", 1, 2},
};

bool dtype_known(uint32_t number)
{
    return number <= DTYPE_BF16 && dtype_table[number].name != NULL;
}

const char *dtype_name(enum dtype type)
{
    assert(dtype_known(type));
    return dtype_table[type].name;
}

uint32_t dtype_group(enum dtype type)
{
    assert(dtype_known(type));
    return dtype_table[type].group;
}

uint32_t dtype_group_bytes(enum dtype type)
{
    assert(dtype_known(type));
    return dtype_table[type].group_bytes;
}

size_t dtype_row_bytes(enum dtype type, size_t count)
{
    assert(count % dtype_group(type) == 0);
    return count / dtype_group(type) * dtype_group_bytes(type);
}
