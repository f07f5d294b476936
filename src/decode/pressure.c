#include "decode/pressure.h"

#include <assert.h>

bool pressure_before(struct pressure_rank a, struct pressure_rank b)
{
    return a.priority != b.priority ? a.priority < b.priority : a.age < b.age;
}

bool pressure_returns(uint32_t available_blocks, uint32_t needed_blocks, uint32_t running)
{
    uint64_t growth = running > 0 ? (uint64_t)running + 1 : 0;
    return available_blocks >= needed_blocks + growth;
}

bool pressure_admits(uint32_t available_blocks, uint32_t needed_blocks, uint32_t others,
                     uint32_t sequences)
{
    uint64_t growth = others > 0 ? (uint64_t)others + sequences : 0;
    return available_blocks >= needed_blocks + growth;
}

uint32_t pressure_copies(uint32_t blocks, uint32_t known, uint32_t free_slots)
{
    assert(known <= blocks);
    return blocks - known < free_slots ? blocks - known : free_slots;
}
