/* kv/block_table.h - the blocks of one sequence, in position order.
 *
 *     ids           [ 4 | 17 | 9 | 30 | . | . ]      block_count of at most block_capacity
 *     tokens        |16 | 16 |16 |  5 |              token_count = 53, block_tokens = 16
 *
 * The last block may be partly filled, and shared: by sequences of one prompt (n > 1), or with an
 * offer that a peer still reads. It is then copied before the first write.
 *
 *     block_table_reserve(table, tree, tokens, &copy)      room for the next step
 *     if (copy.needed) engine_block_copy(engine, copy.from, copy.to)
 *     block_table_write(table, tree, tokens)
 *     ... the step writes ...
 *     block_table_advance(table, tokens)
 *
 * Threads:  the owner of the tree.
 * Memory:   the ids' memory is given at open and stays the caller's; no call allocates.
 */
#ifndef KV_BLOCK_TABLE_H
#define KV_BLOCK_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/prefix_tree.h"

struct block_table {
    block_id *ids;
    uint32_t block_count;
    uint32_t block_capacity;
    uint32_t block_tokens;
    uint32_t token_count; /* tokens whose keys and values are in the blocks */
};

/* A copy that must be done before the next step writes. from stays valid until then: who shares it
 * holds it. */
struct block_copy {
    bool needed;
    block_id from, to;
};

/* An empty table over ids[0 .. block_capacity). */
void block_table_open(struct block_table *table, block_id *ids, uint32_t block_capacity,
                      uint32_t block_tokens);

/* Start an empty table with blocks that the caller holds references on (a match's, or fetched
 * ones), which hold token_count tokens. The references are the table's from now on. */
void block_table_adopt(struct block_table *table, const block_id *ids, uint32_t block_count,
                       uint32_t token_count);

/* Make the empty table to the same tokens as from, sharing every block. */
void block_table_share(struct block_table *table, struct prefix_tree *tree,
                       const struct block_table *from);

/* Blocks that reserve would take for tokens more. */
uint32_t block_table_blocks_needed(const struct block_table *table, const struct prefix_tree *tree,
                                   uint32_t tokens);

/* Room for tokens more, with the block that they start in not shared. Errors, with nothing changed:
 * ERR_FULL (the tree has too few blocks; no message), ERR_BAD_INPUT (beyond block_capacity). */
status block_table_reserve(struct block_table *table, struct prefix_tree *tree, uint32_t tokens,
                           struct block_copy *copy_out);

/* The next step writes tokens more: the blocks that they go into are renewed (kv/block_pool.h). */
void block_table_write(const struct block_table *table, struct prefix_tree *tree, uint32_t tokens);

/* The step has written tokens more; there was room. */
void block_table_advance(struct block_table *table, uint32_t tokens);

/* Tokens that fit before the next reserve has to take a block. */
uint32_t block_table_room(const struct block_table *table);

/* Drop every block; the table is empty. */
void block_table_drop(struct block_table *table, struct prefix_tree *tree);

#endif
