/* wire/checksum.h - 128 bits over a slice of KV, parallel on any device.
 *
 * Over the slice's 64-bit little-endian words w[0 .. n), the last one filled up with zero bytes
 * when the slice's length is no multiple of 8, all modulo 2^64:
 *
 *     m[i] = w[i] xor (w[i] >> 32)
 *     a = sum of m[i]                b = sum of (i + 1) * m[i]
 *
 * Any number of parts can be summed in any order: a part that starts at word p with sums (a', b')
 * over its own words contributes a' to a and b' + p * a' to b (checksum_join). That is how a GPU
 * block, or several slices of a block, combine; a part before the last has whole words.
 *
 * It catches every change of one word (m is reversible, so a changes), every two flipped bits,
 * swapped words (b changes), torn and stale blocks. Why m: a flip of bit 63 of w adds 2^63 to a sum
 * whichever way it goes, and two of them, an even number of words apart, would leave sums of w as
 * they were. In m every flip also moves one of the lower 32 bits, whose sign shows: where two
 * cancel in a, they differ by d * 2^k in b, d the words between them and k < 32, which is not 0
 * for slices below 2^33 words. It is no defence against someone who chooses the bytes: that is the
 * cluster key's job. Test vectors: tests/unit/wire/checksum_test.c.
 *
 * Threads: any. Memory: none.
 */
#ifndef WIRE_CHECKSUM_H
#define WIRE_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHECKSUM_BYTES 16 /* on the wire: a, b */

struct checksum {
    uint64_t a, b;
};

struct checksum checksum_of(const void *data, size_t bytes);

/* Copy bytes from one place to another, not overlapping, reading the source once; the sum is of the
 * bytes that were written. Large aligned copies go past the cache. */
struct checksum land_copy(void *to, const void *from, size_t bytes);

/* The sums of a whole, of a first part of first_words words and what follows it. */
struct checksum checksum_join(struct checksum first, uint64_t first_words, struct checksum rest);

static inline bool checksum_equal(struct checksum x, struct checksum y)
{
    return x.a == y.a && x.b == y.b;
}

#endif
