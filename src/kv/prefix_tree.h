/* kv/prefix_tree.h - a worker's blocks: taken, shared, sealed under their keys, kept as cache.
 *
 *             root
 *            /    \              a node is a sealed block: key -> block id, and its parent's node
 *          k0      k9            referenced: somebody uses it, or uses a descendant of it
 *         /  \       \           cached:     sealed, and nobody does; evicted when blocks are
 *       k1    k5      k10                    needed, least recently used first
 *       |                        free:       neither
 *       k2
 *
 *     free + cached + referenced = block_count, always.
 *
 * A referenced node holds a reference on its parent, so whatever is under a cached node is cached
 * too and was dropped before it: the least recently used cached block never has a child in the
 * tree, and leaves go before their parents.
 *
 * Threads:  one thread owns a tree and makes every call.
 * Memory:   all of it at open (about 80 bytes a block); no call allocates.
 */
#ifndef KV_PREFIX_TREE_H
#define KV_PREFIX_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_key.h"
#include "kv/block_pool.h"

struct prefix_tree;

enum prefix_tree_event {
    PREFIX_TREE_STORED,  /* the key can be matched from now on */
    PREFIX_TREE_REMOVED, /* it was evicted */
};

/* Called inside insert, take, drop and clear; must not call the tree. */
typedef void (*prefix_tree_hook)(void *ctx, enum prefix_tree_event event,
                                 const struct block_key *key, block_id id);

struct prefix_tree_counts {
    uint32_t free, cached, referenced; /* their sum is the block count */
    uint64_t evictions;                /* since open */
};

/* cached_blocks_max: most blocks kept as cache (UINT32_MAX: all that are not needed; 0: none).
 * Errors: ERR_NO_MEMORY. */
status prefix_tree_open(uint32_t block_count, uint32_t cached_blocks_max,
                        struct prefix_tree **tree_out);

/* Every taken reference must have been dropped. */
void prefix_tree_close(struct prefix_tree *tree);

void prefix_tree_set_hook(struct prefix_tree *tree, prefix_tree_hook hook, void *ctx);

/* The longest run of leading keys that are here: takes a reference on each block and writes its id.
 * Returns their number. ids_out: count ids. O(count). */
uint32_t prefix_tree_match(struct prefix_tree *tree, const struct block_key *keys, uint32_t count,
                           block_id *ids_out);

/* As match, but only counts; nothing is touched. */
uint32_t prefix_tree_peek(const struct prefix_tree *tree, const struct block_key *keys,
                          uint32_t count);

/* Seal block id, which the caller holds a reference on and which is full and final, under key.
 * parent: the previous block's key, NULL for a chain's first block.
 *   OK             sealed; *id_out = id.
 *   ERR_FULL       another block has that key and stays; *id_out is it, without a reference for the
 *                  caller. Swapping to it (prefix_tree_swap) saves a block.
 *   ERR_NOT_FOUND  the parent is not in the tree (evicted, or never sealed): the block stays
 *                  private; *id_out = id.
 * No message is set: all three are expected. Sealing twice under the same key is OK. O(1). */
status prefix_tree_insert(struct prefix_tree *tree, const struct block_key *key,
                          const struct block_key *parent, block_id id, block_id *id_out);

/* Move the caller's reference from *id to the block that insert answered. */
void prefix_tree_swap(struct prefix_tree *tree, block_id *id, block_id to);

/* Take count blocks, one reference each, evicting cached blocks as needed. All or nothing: on
 * ERR_FULL (free + cached < count) nothing is changed, and no message is set. O(count). */
status prefix_tree_take(struct prefix_tree *tree, uint32_t count, block_id *ids_out);

/* One more reference on a block that has one: for a sequence that shares it, or an offer. */
void prefix_tree_share(struct prefix_tree *tree, block_id id);

/* Drop a reference on each. Blocks without a key become free, sealed ones cached. ids in chain
 * order: later ones are let go first. O(count). */
void prefix_tree_drop(struct prefix_tree *tree, const block_id *ids, uint32_t count);

/* As block_pool_renew and block_pool_fills. */
void prefix_tree_renew(struct prefix_tree *tree, block_id id);
const atomic_uint_fast64_t *prefix_tree_fills(const struct prefix_tree *tree);

/* References that callers hold on a block, not counting the tree's own. */
uint32_t prefix_tree_references(const struct prefix_tree *tree, block_id id);

/* The key a block is sealed under; false when it is not. */
bool prefix_tree_key_of(const struct prefix_tree *tree, block_id id, struct block_key *key_out);

/* Evict everything that is cached; what is referenced stays. */
void prefix_tree_clear(struct prefix_tree *tree);

void prefix_tree_count(const struct prefix_tree *tree, struct prefix_tree_counts *counts_out);

/* free + cached: what take can give now. O(1). */
uint32_t prefix_tree_available(const struct prefix_tree *tree);

#endif
