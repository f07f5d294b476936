/* store/warm.h - pages of a store's pool, made before they are written to.
 *
 *     pool |  taken  |  ahead, there already  |  not there: no memory is used for it  |
 *          0       reached                 + ahead_bytes
 *
 * The first write to a page of a memfd is a fault in which the kernel clears it: on the way of an
 * add that comes to half of what a socket moves. A thread that runs when nobody else wants the core
 * does it a bounded distance ahead of the highest slot that was taken. Who is faster than it makes
 * its pages by itself, as without it. Slots are taken from below, and used again.
 *
 * Threads: warm_reach from one thread. Memory: the mapping outlives it.
 * Source:  madvise(2), MADV_POPULATE_WRITE (Linux 5.14; without it nothing is done ahead).
 */
#ifndef STORE_WARM_H
#define STORE_WARM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct warm;

/* Errors: ERR_NO_MEMORY. */
status warm_open(uint8_t *pool, size_t pool_bytes, size_t ahead_bytes, struct warm **warm_out);
void warm_close(struct warm *warm);

/* Everything below is in use, or was. No system call when it is not the highest yet. */
void warm_reach(struct warm *warm, size_t reached_bytes);

#endif
