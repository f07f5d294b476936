/* decode/pressure.h - the rules for when blocks run out: who gives way, who comes back, who is let
 * in. Numbers in, an answer out; the lists and the blocks are decode's.
 *
 *     by rank    [ first | . | . | . | last ]     smaller priority number, then older
 *                  never gives way    gives way
 *
 * Threads:  any.
 * Memory:   nothing is kept.
 */
#ifndef DECODE_PRESSURE_H
#define DECODE_PRESSURE_H

#include <stdbool.h>
#include <stdint.h>

struct pressure_rank {
    int32_t priority; /* of its request; smaller is sooner */
    uint64_t age;     /* order of admission; no two are equal */
};

/* Does a keep its blocks longer than b, and come back sooner? A total order: in any set of
 * sequences one is before all others, and it gets to its end. */
bool pressure_before(struct pressure_rank a, struct pressure_rank b);

/* May a sequence that needs so many blocks come back beside those that run? Not when the next step
 * could send it away again: each that runs, and itself, may need one block. */
bool pressure_returns(uint32_t available_blocks, uint32_t needed_blocks, uint32_t running);

/* May a new request of so many sequences have its blocks? others: sequences that run, were sent
 * away or wait for their blocks. */
bool pressure_admits(uint32_t available_blocks, uint32_t needed_blocks, uint32_t others,
                     uint32_t sequences);

/* Of the blocks of a sequence that gives way, of which the first known are in slots already, how
 * many are copied to free slots: leading ones, since what is computed again is the end. */
uint32_t pressure_copies(uint32_t blocks, uint32_t known, uint32_t free_slots);

#endif
