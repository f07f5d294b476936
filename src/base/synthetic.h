/* base/synthetic.h - random weights that are computed where they are needed, not read.
 *
 * Value i of a tensor is middle + b * 2^exponent, where b is a signed byte of a word that depends
 * on the seed and on i / 8 alone:
 *
 *     i:      0  1  2  3  4  5  6  7 | 8  9 ...
 *     byte:   0  1  2  3  4  5  6  7 | 0  1 ...    of synthetic_word(seed, i / 8)
 *
 * So any part of a tensor can be made by anybody, in any order: every worker and every device gets
 * the same bytes. With the exponents and middles of model/dummy.c each value is exact in F32, F16
 * and BF16: the same model in each of them.
 *
 * Threads: any. Source: splitmix64 (Steele, Lea, Flood 2014), used as a counter's hash.
 */
#ifndef BASE_SYNTHETIC_H
#define BASE_SYNTHETIC_H

#include <stdint.h>

#include "base/dtype.h"

struct synthetic {
    uint64_t seed;
    int32_t exponent;
    float middle;
};

static inline uint64_t synthetic_word(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Values first .. first + count - 1 as type (F32, F16 or BF16) to to. */
void synthetic_fill(const struct synthetic *synthetic, enum dtype type, uint64_t first,
                    uint64_t count, void *to);

#endif
