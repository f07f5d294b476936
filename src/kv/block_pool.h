/* kv/block_pool.h - a fixed set of KV blocks, shared by reference count.
 *
 *     free_ids    [ 7 | 6 | 2 | . | . | . ]     a stack; top at free_count - 1
 *     references  [ 1 | 3 | 0 | 1 | 1 | 2 | 0 | 0 ]   by block id; 0 means free
 *     fills       [ 4 | 9 | 1 | 1 | 2 | 7 | 0 | 0 ]   by block id; which bytes it holds
 *
 * The pool deals in ids and counts. It never touches block memory, which may be on a device;
 * kv/layout.h turns an id into an address. A worker's scheduler uses it through kv/prefix_tree.h,
 * which adds keys and the cache of blocks that nobody references.
 *
 * Threads:  one thread owns a pool and makes every call; fills may be read by any.
 * Memory:   reserved by open; take, share and drop never allocate.
 * Source:   Kwon et al. 2023, arXiv 2309.06180 (PagedAttention).
 */
#ifndef KV_BLOCK_POOL_H
#define KV_BLOCK_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/status.h"

#define BLOCK_COUNT_MAX (1u << 24)

struct block_pool;

/* Ids for block_count blocks, 1 .. BLOCK_COUNT_MAX. Errors: ERR_NO_MEMORY. */
status block_pool_open(uint32_t block_count, struct block_pool **pool_out);

/* Every block must have been dropped. */
void block_pool_close(struct block_pool *pool);

/* Take count blocks, one reference each, into ids_out[0 .. count). All or nothing: on ERR_FULL pool
 * and ids_out are unchanged; no message is set, as it is an expected answer. O(count). */
status block_pool_take(struct block_pool *pool, uint32_t count, block_id *ids_out);

/* Add a reference to a block that has one. O(1). */
void block_pool_share(struct block_pool *pool, block_id id);

/* Drop a reference; the last one frees the block. Returns the references left. Reads must be over,
 * a peer's too: a block on offer keeps a reference until it was acknowledged. O(1). */
uint32_t block_pool_drop(struct block_pool *pool, block_id id);

/* Other bytes will be in a block that has a reference: what is known of those before holds no more.
 * A take says so by itself. O(1). */
void block_pool_renew(struct block_pool *pool, block_id id);

/* [block_count] A number for what is in each block: another one after each take and renewal, never
 * one that it had before, not 0 once it was taken. Whoever was given a block that stays referenced
 * and is not written to finds the same number until he lets go of it. */
const atomic_uint_fast64_t *block_pool_fills(const struct block_pool *pool);

uint32_t block_pool_references(const struct block_pool *pool, block_id id);
uint32_t block_pool_free_count(const struct block_pool *pool);
uint32_t block_pool_block_count(const struct block_pool *pool);

#endif
