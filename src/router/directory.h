/* router/directory.h - which worker can match which block, and what the store has acknowledged.
 *
 *     key --> holders: one bit a worker     saved: the store said so once
 *
 * It is fed by numbered messages (wire_blocks). After a gap nothing of that worker is believed
 * until it has said all of it again. A holder that is asked for a block that it has no more costs
 * time, nothing else: what is in here are hints.
 *
 * Threads:  the router's loop.
 * Memory:   56 bytes an entry, at most 2 x entries_max of them; what does not fit is not known, and
 *           counted.
 */
#ifndef ROUTER_DIRECTORY_H
#define ROUTER_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_key.h"
#include "wire/control.h"

#define DIRECTORY_WORKERS_MAX 256

struct directory;

struct directory_counts {
    uint64_t entries; /* now */
    uint64_t repairs; /* gaps found */
    uint64_t dropped; /* keys that did not fit */
};

/* entries_max: a power of two. Errors: ERR_NO_MEMORY. */
status directory_open(uint32_t entries_max, struct directory **directory_out);
void directory_close(struct directory *directory);

/* A worker has come; its slot, or -1 when there is none. It must be asked for all it has. */
int directory_join(struct directory *directory);
/* It is gone: all of its blocks are forgotten. O(entries). */
void directory_leave(struct directory *directory, int slot);

/* False: something is missing, and the worker is to be asked for all of it (once a gap). */
bool directory_take(struct directory *directory, int slot, const struct wire_blocks *blocks);

/* How many leading keys each worker can match: runs_out[DIRECTORY_WORKERS_MAX] by slot; and the
 * store, NULL when it is of no interest. O(longest run). */
void directory_find(const struct directory *directory, const struct block_key *keys, uint32_t count,
                    uint32_t *runs_out, uint32_t *saved_out);

void directory_count(const struct directory *directory, struct directory_counts *counts_out);

#endif
