#include "model/merge.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define MERGE_CAPACITY_MIN 64

status merge_reserve(struct merge_scratch *scratch, size_t count)
{
    if (count <= scratch->capacity)
        return OK;
    size_t capacity = count > MERGE_CAPACITY_MIN ? count : MERGE_CAPACITY_MIN;
    merge_close(scratch);
    if (capacity < UINT32_MAX) { /* so that the sizes below fit */
        scratch->symbols = malloc(capacity * sizeof(*scratch->symbols));
        scratch->queue = malloc(2 * capacity * sizeof(*scratch->queue));
    }
    if (scratch->symbols == NULL || scratch->queue == NULL) {
        merge_close(scratch);
        return error_set(ERR_NO_MEMORY, "no memory for a word of %zu symbols", count);
    }
    scratch->capacity = capacity;
    return OK;
}

void merge_close(struct merge_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->queue);
    memset(scratch, 0, sizeof(*scratch));
}

static void queue_sink(uint64_t *queue, size_t count, size_t at)
{
    uint64_t entry = queue[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && queue[child + 1] < queue[child])
            child++;
        if (entry <= queue[child])
            break;
        queue[at] = queue[child];
        at = child;
    }
    queue[at] = entry;
}

static void queue_push(struct merge_scratch *scratch, uint64_t entry)
{
    uint64_t *queue = scratch->queue;
    size_t at = scratch->queued++;
    assert(at < 2 * scratch->capacity);
    while (at > 0 && entry < queue[(at - 1) / 2]) {
        queue[at] = queue[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue[at] = entry;
}

static uint64_t queue_pop(struct merge_scratch *scratch)
{
    uint64_t least = scratch->queue[0];
    scratch->queue[0] = scratch->queue[--scratch->queued];
    if (scratch->queued > 0)
        queue_sink(scratch->queue, scratch->queued, 0);
    return least;
}

static uint64_t queue_entry(uint32_t key, uint32_t position)
{
    return (uint64_t)key << 32 | position;
}

/* What the pair at position is now. */
static void pair_look(struct merge_symbol *symbols, uint32_t position,
                      const struct merge_rules *rules, const char *text)
{
    struct merge_symbol *left = &symbols[position];
    left->key = left->next == MERGE_NONE
                    ? MERGE_NONE
                    : rules->pair(rules, text, left, &symbols[left->next], &left->product);
}

void merge_run(struct merge_scratch *scratch, size_t count, const struct merge_rules *rules,
               const char *text)
{
    assert(count > 0 && count <= scratch->capacity);
    struct merge_symbol *symbols = scratch->symbols;
    scratch->queued = 0;
    for (uint32_t i = 0; i < count; i++) {
        symbols[i].previous = i > 0 ? i - 1 : MERGE_NONE;
        symbols[i].next = i + 1 < count ? i + 1 : MERGE_NONE;
    }
    for (uint32_t i = 0; i < count; i++) {
        pair_look(symbols, i, rules, text);
        if (symbols[i].key != MERGE_NONE)
            scratch->queue[scratch->queued++] = queue_entry(symbols[i].key, i);
    }
    for (size_t i = scratch->queued / 2; i-- > 0;)
        queue_sink(scratch->queue, scratch->queued, i);

    /* Each round takes one entry and, when it joins two symbols, puts at most two: with at most
     * count - 1 joins the queue never holds more than 2 * count. */
    while (scratch->queued > 0) {
        uint64_t entry = queue_pop(scratch);
        uint32_t position = (uint32_t)entry;
        struct merge_symbol *left = &symbols[position];
        if (left->key != (uint32_t)(entry >> 32))
            continue;
        struct merge_symbol *right = &symbols[left->next];
        left->id = left->product;
        left->bytes += right->bytes;
        left->next = right->next;
        right->key = MERGE_NONE; /* gone: its entries are stale */
        if (left->next != MERGE_NONE)
            symbols[left->next].previous = position;

        pair_look(symbols, position, rules, text);
        if (left->key != MERGE_NONE)
            queue_push(scratch, queue_entry(left->key, position));
        if (left->previous != MERGE_NONE) {
            struct merge_symbol *before = &symbols[left->previous];
            pair_look(symbols, left->previous, rules, text);
            if (before->key != MERGE_NONE)
                queue_push(scratch, queue_entry(before->key, left->previous));
        }
    }
}
