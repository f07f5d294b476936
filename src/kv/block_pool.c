#include "kv/block_pool.h"

#include <assert.h>
#include <stdlib.h>

#include "base/error.h"

struct block_pool {
    uint32_t block_count; /* constant after open */
    uint32_t free_count;
    block_id *free_ids;   /* stack, top at free_count - 1 */
    uint32_t *references; /* by block id; 0 means free */
    atomic_uint_fast64_t *fills;
};

status block_pool_open(uint32_t block_count, struct block_pool **pool_out)
{
    assert(block_count > 0 && block_count <= BLOCK_COUNT_MAX);

    struct block_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        goto err_none;
    pool->free_ids = calloc(block_count, sizeof(*pool->free_ids));
    if (pool->free_ids == NULL)
        goto err_pool;
    pool->references = calloc(block_count, sizeof(*pool->references));
    if (pool->references == NULL)
        goto err_free_ids;
    pool->fills = calloc(block_count, sizeof(*pool->fills));
    if (pool->fills == NULL)
        goto err_references;

    /* Reversed, so that a fresh pool hands out ids in address order. */
    for (uint32_t i = 0; i < block_count; i++)
        pool->free_ids[i] = block_count - 1 - i;
    pool->block_count = block_count;
    pool->free_count = block_count;
    *pool_out = pool;
    return OK;

err_references:
    free(pool->references);
err_free_ids:
    free(pool->free_ids);
err_pool:
    free(pool);
err_none:
    return error_set(ERR_NO_MEMORY, "no memory for a pool of %u blocks", block_count);
}

void block_pool_close(struct block_pool *pool)
{
    if (pool == NULL)
        return;
    assert(pool->free_count == pool->block_count);
    free(pool->fills);
    free(pool->references);
    free(pool->free_ids);
    free(pool);
}

status block_pool_take(struct block_pool *pool, uint32_t count, block_id *ids_out)
{
    if (count > pool->free_count)
        return ERR_FULL;

    for (uint32_t i = 0; i < count; i++) {
        block_id id = pool->free_ids[--pool->free_count];
        assert(pool->references[id] == 0);
        pool->references[id] = 1;
        block_pool_renew(pool, id);
        ids_out[i] = id;
    }
    return OK;
}

void block_pool_share(struct block_pool *pool, block_id id)
{
    assert(id < pool->block_count);
    assert(pool->references[id] > 0 && pool->references[id] < UINT32_MAX);
    pool->references[id]++;
}

uint32_t block_pool_drop(struct block_pool *pool, block_id id)
{
    assert(id < pool->block_count);
    assert(pool->references[id] > 0);
    uint32_t left = --pool->references[id];
    if (left == 0) {
        assert(pool->free_count < pool->block_count);
        pool->free_ids[pool->free_count++] = id;
    }
    return left;
}

void block_pool_renew(struct block_pool *pool, block_id id)
{
    assert(id < pool->block_count && pool->references[id] > 0);
    atomic_fetch_add_explicit(&pool->fills[id], 1, memory_order_relaxed);
}

const atomic_uint_fast64_t *block_pool_fills(const struct block_pool *pool)
{
    return pool->fills;
}

uint32_t block_pool_references(const struct block_pool *pool, block_id id)
{
    assert(id < pool->block_count);
    return pool->references[id];
}

uint32_t block_pool_free_count(const struct block_pool *pool)
{
    return pool->free_count;
}

uint32_t block_pool_block_count(const struct block_pool *pool)
{
    return pool->block_count;
}
