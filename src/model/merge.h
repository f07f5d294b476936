/* model/merge.h - the loop of byte-pair encoding: join the best neighbours until none are left.
 *
 *     symbols:  [l] [o] [w] [e] [r]      a doubly linked list in one array, from symbols[0]
 *     queue:    (key, position) of every pair that may join, least first
 *
 * The rules give each pair of neighbours a key (less is better) and what it becomes; equal keys go
 * left to right. A queue entry is stale when its symbol's pair has another key by now, and is
 * dropped when it comes up. O(n log n) for n symbols, whatever the text.
 *
 * Threads: one for a scratch. Memory: the scratch keeps its room from word to word.
 */
#ifndef MODEL_MERGE_H
#define MODEL_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define MERGE_NONE UINT32_MAX /* no neighbour, no pair */

struct merge_symbol {
    uint32_t id;           /* the token, or TOKEN_NONE: no token has this text */
    uint32_t start, bytes; /* its text */
    uint32_t previous, next;
    uint32_t key;     /* of the pair of this symbol and the next; MERGE_NONE: they stay apart */
    uint32_t product; /* what the pair becomes */
};

struct merge_scratch {
    struct merge_symbol *symbols; /* [capacity] */
    uint64_t *queue;              /* [2 * capacity] a heap of key << 32 | position */
    size_t capacity;
    size_t queued;
};

struct merge_rules {
    /* The key of left and right as neighbours, or MERGE_NONE. */
    uint32_t (*pair)(const struct merge_rules *rules, const char *text,
                     const struct merge_symbol *left, const struct merge_symbol *right,
                     uint32_t *product_out);
};

/* Room for count symbols. Errors: ERR_NO_MEMORY. */
status merge_reserve(struct merge_scratch *scratch, size_t count);

/* symbols[0 .. count) have id, start and bytes set; afterwards those that are left are the list
 * from symbols[0] by next to MERGE_NONE. count > 0 and reserved. */
void merge_run(struct merge_scratch *scratch, size_t count, const struct merge_rules *rules,
               const char *text);

void merge_close(struct merge_scratch *scratch);

#endif
