/* worker/blocks.h - what the own tree can match, and what the store has got, told to the router.
 *
 * The tree's hook writes events, and so does the store's acknowledgement; they go out in numbered
 * messages, at most every BLOCKS_INTERVAL and at least every BLOCKS_EVENTS of them, or when the
 * thread has nothing else to do. When events come faster than messages may go out, they are dropped
 * and a number is left out: the router sees the gap, asks, and gets all of it (blocks_tell_all).
 *
 * Threads:  the compute thread.
 * Memory:   BLOCKS_PENDING_MAX events.
 */
#ifndef WORKER_BLOCKS_H
#define WORKER_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/prefix_tree.h"
#include "wire/control.h"

#define BLOCKS_INTERVAL_NS 20000000u
#define BLOCKS_EVENTS 256
#define BLOCKS_PENDING_MAX 16384

struct blocks;

/* send: called with every message, which is read before it returns. Sets the tree's hook. Errors:
 * ERR_NO_MEMORY. */
status blocks_open(struct prefix_tree *tree, uint32_t block_count,
                   void (*send)(void *ctx, const struct wire_blocks *message), void *ctx,
                   struct blocks **blocks_out);
void blocks_close(struct blocks *blocks);

/* Send what is due at now_ns; idle: send all there is. */
void blocks_flush(struct blocks *blocks, uint64_t now_ns, bool idle);

/* The store has acknowledged the block with this key. */
void blocks_saved(struct blocks *blocks, const struct block_key *key);

/* The router asked: all that the tree can match. What the store has it keeps in mind itself. */
void blocks_tell_all(struct blocks *blocks);

#endif
