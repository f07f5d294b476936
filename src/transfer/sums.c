/* The book of sums: each slice of the own pool is summed once, by whoever needs it first.
 *
 *              layer 0      layer 1
 *     block 0  [fill a b]   [fill a b]  ...     what landed here and was verified is written down
 *     block 1  [fill a b]   [fill a b]  ...     too; 0: nothing known
 *
 * An entry holds while its fill is the one that the pool's owner has for the block now
 * (transfer_pool.fills): a block that was taken anew, or written to, has another.
 *
 * A sum is of the moment when it was made. What flips in a block afterwards does not match it, so
 * its receiver finds it, however much later; what flipped before is what was summed. When a
 * receiver says that slices of a lease do not match, nobody knows on which side they changed: all
 * entries of the lease are forgotten, and the next who offers these blocks sums them as they are.
 *
 * Threads: any, for blocks that they were given. Two that write one entry write the same. */
#include <stdlib.h>

#include "base/error.h"
#include "transfer/parts.h"

struct slice_sum {
    atomic_uint_fast64_t fill, a, b;
};

status sums_open(struct transfer *transfer)
{
    const struct transfer_options *options = &transfer->options;
    if (options->pool.fills == NULL || options->pool.device != NULL)
        return OK;
    transfer->sums =
        calloc((size_t)options->pool.block_count * options->layer_count, sizeof(*transfer->sums));
    return transfer->sums != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for a book of sums");
}

static struct slice_sum *sums_at(const struct transfer *transfer, uint32_t layer, uint32_t id)
{
    return &transfer->sums[(size_t)id * transfer->options.layer_count + layer];
}

uint64_t sums_fill(const struct transfer *transfer, uint32_t id)
{
    return transfer->sums != NULL ? atomic_load(&transfer->options.pool.fills[id]) : 0;
}

bool sums_find(const struct transfer *transfer, uint32_t layer, uint32_t id,
               struct checksum *sum_out)
{
    if (transfer->sums == NULL)
        return false;
    const struct slice_sum *at = sums_at(transfer, layer, id);
    if (atomic_load(&at->fill) != sums_fill(transfer, id))
        return false;
    *sum_out = (struct checksum){.a = atomic_load(&at->a), .b = atomic_load(&at->b)};
    return true;
}

void sums_book(struct transfer *transfer, uint32_t layer, uint32_t id, uint64_t fill,
               struct checksum sum)
{
    if (transfer->sums == NULL)
        return;
    struct slice_sum *at = sums_at(transfer, layer, id);
    atomic_store_explicit(&at->a, sum.a, memory_order_relaxed);
    atomic_store_explicit(&at->b, sum.b, memory_order_relaxed);
    atomic_store_explicit(&at->fill, fill, memory_order_release);
}

struct checksum sums_make(struct transfer *transfer, uint32_t layer, uint32_t id)
{
    const struct transfer_pool *pool = &transfer->options.pool;
    const struct transfer_slice *slice = &transfer->layers[layer];
    uint64_t fill = sums_fill(transfer, id);
    struct checksum sum =
        checksum_of(pool->host + (size_t)id * pool->block_bytes + slice->offset, slice->bytes);
    sums_book(transfer, layer, id, fill, sum);
    return sum;
}

void sums_forget(const struct lease *lease)
{
    for (uint32_t n = 0; n < lease->offer_count && lease->transfer->sums != NULL; n++) {
        const struct offered *offered = lease->offers[n];
        for (uint32_t i = 0; i < offered->count; i++)
            atomic_store(&sums_at(lease->transfer, offered->layer, offered->block_ids[i])->fill, 0);
    }
}

struct checksum transfer_sum(struct transfer *transfer, uint32_t layer, uint32_t id)
{
    struct checksum sum;
    return sums_find(transfer, layer, id, &sum) ? sum : sums_make(transfer, layer, id);
}
