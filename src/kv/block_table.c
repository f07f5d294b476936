#include "kv/block_table.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"

void block_table_open(struct block_table *table, block_id *ids, uint32_t block_capacity,
                      uint32_t block_tokens)
{
    assert(block_capacity > 0 && block_tokens > 0);
    *table = (struct block_table){
        .ids = ids, .block_capacity = block_capacity, .block_tokens = block_tokens};
}

void block_table_adopt(struct block_table *table, const block_id *ids, uint32_t block_count,
                       uint32_t token_count)
{
    assert(table->block_count == 0 && block_count <= table->block_capacity);
    assert(kv_blocks_for(token_count, table->block_tokens) <= block_count);
    if (block_count > 0 && ids != table->ids)
        memcpy(table->ids, ids, block_count * sizeof(*ids));
    table->block_count = block_count;
    table->token_count = token_count;
}

void block_table_share(struct block_table *table, struct prefix_tree *tree,
                       const struct block_table *from)
{
    uint32_t count = kv_blocks_for(from->token_count, from->block_tokens);
    assert(table->block_count == 0 && count <= table->block_capacity);
    assert(table->block_tokens == from->block_tokens);
    for (uint32_t i = 0; i < count; i++) {
        prefix_tree_share(tree, from->ids[i]);
        table->ids[i] = from->ids[i];
    }
    table->block_count = count;
    table->token_count = from->token_count;
}

/* Is the block that the next token goes into partly filled, and somebody else's too? */
static bool copy_needed(const struct block_table *table, const struct prefix_tree *tree)
{
    if (table->token_count % table->block_tokens == 0)
        return false;
    block_id last = table->ids[table->token_count / table->block_tokens];
    return prefix_tree_references(tree, last) > 1;
}

static uint32_t blocks_beyond(const struct block_table *table, uint32_t tokens)
{
    uint32_t all = kv_blocks_for(table->token_count + tokens, table->block_tokens);
    return all > table->block_count ? all - table->block_count : 0;
}

uint32_t block_table_blocks_needed(const struct block_table *table, const struct prefix_tree *tree,
                                   uint32_t tokens)
{
    assert(tokens <= UINT32_MAX - table->token_count);
    if (tokens == 0)
        return 0;
    return blocks_beyond(table, tokens) + (copy_needed(table, tree) ? 1 : 0);
}

status block_table_reserve(struct block_table *table, struct prefix_tree *tree, uint32_t tokens,
                           struct block_copy *copy_out)
{
    assert(tokens > 0 && tokens <= UINT32_MAX - table->token_count);
    uint32_t more = blocks_beyond(table, tokens);
    bool copies = copy_needed(table, tree);
    struct block_copy copy = {.needed = false};

    if (more > table->block_capacity - table->block_count)
        return error_set(ERR_BAD_INPUT,
                         "a sequence of %u tokens needs more than the %u blocks of %u "
                         "tokens that a sequence may have",
                         table->token_count + tokens, table->block_capacity, table->block_tokens);
    if (more + (copies ? 1u : 0u) > prefix_tree_available(tree))
        return ERR_FULL;
    if (copies) {
        block_id *last = &table->ids[table->token_count / table->block_tokens];
        copy.needed = true;
        copy.from = *last;
        status code = prefix_tree_take(tree, 1, &copy.to);
        assert(code == OK);
        prefix_tree_drop(tree, &copy.from, 1);
        *last = copy.to;
    }
    status code = prefix_tree_take(tree, more, table->ids + table->block_count);
    assert(code == OK);
    table->block_count += more;
    *copy_out = copy;
    return OK;
}

void block_table_write(const struct block_table *table, struct prefix_tree *tree, uint32_t tokens)
{
    uint32_t end = kv_blocks_for(table->token_count + tokens, table->block_tokens);
    assert(end <= table->block_count);
    for (uint32_t i = table->token_count / table->block_tokens; i < end; i++)
        prefix_tree_renew(tree, table->ids[i]);
}

void block_table_advance(struct block_table *table, uint32_t tokens)
{
    assert(tokens <= UINT32_MAX - table->token_count);
    assert(kv_blocks_for(table->token_count + tokens, table->block_tokens) <= table->block_count);
    table->token_count += tokens;
}

uint32_t block_table_room(const struct block_table *table)
{
    return table->block_count * table->block_tokens - table->token_count;
}

void block_table_drop(struct block_table *table, struct prefix_tree *tree)
{
    prefix_tree_drop(tree, table->ids, table->block_count);
    table->block_count = 0;
    table->token_count = 0;
}
