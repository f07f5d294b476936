#include "worker/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

struct blocks {
    struct prefix_tree *tree;
    uint32_t block_count;
    void (*send)(void *ctx, const struct wire_blocks *message);
    void *ctx;
    uint64_t next_number;
    uint64_t oldest_ns; /* of the pending events */
    uint32_t count;
    bool lost; /* events were dropped since the last message */
    uint8_t events[BLOCKS_PENDING_MAX][WIRE_EVENT_BYTES];
};

static void blocks_add(struct blocks *blocks, enum wire_event event, const struct block_key *key)
{
    if (blocks->count == BLOCKS_PENDING_MAX) {
        blocks->lost = true;
        return;
    }
    if (blocks->count == 0)
        blocks->oldest_ns = clock_ns();
    uint8_t *to = blocks->events[blocks->count++];
    to[0] = (uint8_t)event;
    memcpy(to + 1, key->bytes, sizeof(key->bytes));
}

static void blocks_on_event(void *ctx, enum prefix_tree_event event, const struct block_key *key,
                            block_id id)
{
    (void)id;
    blocks_add(ctx, event == PREFIX_TREE_STORED ? WIRE_EVENT_STORED : WIRE_EVENT_REMOVED, key);
}

void blocks_saved(struct blocks *blocks, const struct block_key *key)
{
    blocks_add(blocks, WIRE_EVENT_SAVED, key);
}

status blocks_open(struct prefix_tree *tree, uint32_t block_count,
                   void (*send)(void *ctx, const struct wire_blocks *message), void *ctx,
                   struct blocks **blocks_out)
{
    struct blocks *blocks = calloc(1, sizeof(*blocks));
    if (blocks == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to tell of blocks");
    blocks->tree = tree;
    blocks->block_count = block_count;
    blocks->send = send;
    blocks->ctx = ctx;
    blocks->next_number = 1;
    prefix_tree_set_hook(tree, blocks_on_event, blocks);
    *blocks_out = blocks;
    return OK;
}

void blocks_close(struct blocks *blocks)
{
    if (blocks == NULL)
        return;
    prefix_tree_set_hook(blocks->tree, NULL, NULL);
    free(blocks);
}

static void blocks_send(struct blocks *blocks, uint32_t flags)
{
    struct wire_blocks message = {
        .flags = flags, .event_count = blocks->count, .events = blocks->events[0]};
    blocks->next_number += blocks->lost; /* The gap that tells of it. */
    message.number = blocks->next_number++;
    blocks->lost = false;
    blocks->count = 0;
    blocks->send(blocks->ctx, &message);
}

void blocks_flush(struct blocks *blocks, uint64_t now_ns, bool idle)
{
    if (blocks->count == 0 && !blocks->lost)
        return;
    if (idle || blocks->count >= BLOCKS_EVENTS || now_ns - blocks->oldest_ns >= BLOCKS_INTERVAL_NS)
        blocks_send(blocks, 0);
}

void blocks_tell_all(struct blocks *blocks)
{
    struct block_key key;
    uint32_t flags = WIRE_BLOCKS_ALL;
    blocks->count = 0; /* What is there now says it all. */
    blocks->lost = false;
    for (uint32_t id = 0; id < blocks->block_count; id++) {
        if (!prefix_tree_key_of(blocks->tree, id, &key))
            continue;
        blocks_add(blocks, WIRE_EVENT_STORED, &key);
        if (blocks->count == BLOCKS_PENDING_MAX) {
            blocks_send(blocks, flags);
            flags = 0;
        }
    }
    if (blocks->count > 0 || flags != 0)
        blocks_send(blocks, flags);
}
