#include "worker/lend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

struct lending {
    struct lending *next;
    struct lease_id lease;
    uint64_t request_id;
    uint32_t first_block, block_count; /* matched, from the first of the prompt */
    bool ended;                        /* revoked; only its report is missing */
    bool again;                        /* fetched from until it is revoked */
    block_id ids[];
};

struct lend {
    struct prefix_tree *tree;
    struct transfer *transfer;
    uint32_t held_max, layer_count;
    struct lending *open;
    uint32_t count, held_blocks;
    uint64_t fetched_blocks;
};

status lend_open(struct prefix_tree *tree, uint32_t block_count, uint32_t layer_count,
                 struct transfer *transfer, struct lend **lend_out)
{
    struct lend *lend = calloc(1, sizeof(*lend));
    if (lend == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to lend blocks");
    lend->tree = tree;
    lend->transfer = transfer;
    lend->held_max = block_count / 2;
    lend->layer_count = layer_count;
    *lend_out = lend;
    return OK;
}

void lend_close(struct lend *lend)
{
    if (lend == NULL)
        return;
    assert(lend_idle(lend));
    free(lend);
}

static void lending_free(struct lend *lend, struct lending *lending)
{
    prefix_tree_drop(lend->tree, lending->ids, lending->block_count);
    lend->held_blocks -= lending->block_count;
    free(lending);
}

/* Every layer of the blocks that are wanted, and that this is all. */
static status lending_offer(struct lend *lend, const struct lending *lending)
{
    uint32_t first = lending->first_block;
    for (uint32_t layer = 0; layer < lend->layer_count && lending->block_count > first; layer++)
        transfer_offer(lend->transfer, &lending->lease, layer, first, lending->ids + first,
                       lending->block_count - first, NULL);
    return transfer_complete(lend->transfer, &lending->lease, lending->block_count, NULL, 0);
}

status lend_take(struct lend *lend, const struct wire_lend *message)
{
    if (lend->count >= LEND_MAX)
        return error_set(ERR_FULL, "%u lendings are open, the most there may be", lend->count);
    struct lending *lending =
        malloc(sizeof(*lending) + message->key_count * sizeof(lending->ids[0]));
    struct block_key *keys = malloc(message->key_count * sizeof(*keys));
    if (lending == NULL || keys == NULL) {
        free(lending);
        free(keys);
        return error_set(ERR_NO_MEMORY, "no memory to lend %u blocks", message->key_count);
    }
    static_assert(sizeof(struct block_key) == WIRE_KEY_BYTES, "keys lie as they travel");
    memcpy(keys, message->keys, message->key_count * sizeof(*keys));
    *lending = (struct lending){.lease = message->lease,
                                .request_id = message->request_id,
                                .first_block = message->first_block};
    lending->block_count = prefix_tree_match(lend->tree, keys, message->key_count, lending->ids);
    lend->held_blocks += lending->block_count;
    free(keys);
    status st = OK;
    if (lend->held_blocks > lend->held_max)
        st = error_set(ERR_FULL, "%u blocks would be lent, at most %u may be", lend->held_blocks,
                       lend->held_max);
    if (st == OK)
        st = (message->again != 0 ? transfer_lease_lend : transfer_lease_open)(
            lend->transfer, &lending->lease, message->request_id, message->epoch,
            message->expiry_ms);
    lending->again = message->again != 0;
    if (st != OK) {
        lending_free(lend, lending);
        return st;
    }
    lending->next = lend->open;
    lend->open = lending;
    lend->count++;
    st = lending_offer(lend, lending);
    if (st != OK) /* Its report frees it. */
        transfer_lease_close(lend->transfer, &lending->lease);
    return st;
}

static void lending_end(struct lend *lend, struct lending *lending)
{
    if (!lending->ended)
        transfer_lease_close(lend->transfer, &lending->lease);
    lending->ended = true;
}

void lend_end(struct lend *lend, uint64_t request_id)
{
    for (struct lending *l = lend->open; l != NULL; l = l->next) {
        if (l->request_id == request_id)
            lending_end(lend, l);
    }
}

void lend_end_all(struct lend *lend)
{
    for (struct lending *l = lend->open; l != NULL; l = l->next)
        lending_end(lend, l);
}

void lend_end_router(struct lend *lend, uint32_t router)
{
    for (struct lending *l = lend->open; l != NULL; l = l->next) {
        if (WIRE_ROUTER_OF(l->request_id) == router)
            lending_end(lend, l);
    }
}

bool lend_released(struct lend *lend, const struct transfer_report *report)
{
    struct lending **at = &lend->open;
    while (*at != NULL && !lease_id_equal(&(*at)->lease, &report->lease))
        at = &(*at)->next;
    struct lending *lending = *at;
    if (lending == NULL)
        return false;
    *at = lending->next;
    lend->count--;
    if (lending->again)
        lend->fetched_blocks += report->block_count;
    else if (report->status == OK && lending->block_count > lending->first_block)
        lend->fetched_blocks += lending->block_count - lending->first_block;
    log_line(LOG_DEBUG, lending->request_id, "lent", "blocks=%u from=%u bytes=%llu status=\"%s\"",
             lending->block_count, lending->first_block, (unsigned long long)report->bytes,
             status_name(report->status));
    lending_free(lend, lending);
    return true;
}

bool lend_idle(const struct lend *lend)
{
    return lend->open == NULL;
}

uint32_t lend_count(const struct lend *lend)
{
    return lend->count;
}

uint64_t lend_fetched_blocks(const struct lend *lend)
{
    return lend->fetched_blocks;
}
