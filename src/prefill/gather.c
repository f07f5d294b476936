/* The longest prefix that need not be computed. */
#include "base/clock.h"
#include "prefill/request.h"

status prefill_gather(struct prefill *prefill, struct prefill_request *request)
{
    const struct wire_request *wire = request->wire;
    struct block_copy copy;
    uint32_t matched = 0;
    bool looks = prefill->options.prefix_cache && (wire->flags & WIRE_REQUEST_NO_PREFIX) == 0;
    /* At least the last token is computed: its logits are what the request came for. */
    uint32_t most = (wire->prompt_tokens - 1) / prefill->block_tokens;
    if (looks)
        matched = prefix_tree_match(prefill->tree, request->keys, most, request->ids);
    block_table_adopt(&request->table, request->ids, matched, matched * prefill->block_tokens);

    status st = block_table_reserve(&request->table, prefill->tree,
                                    wire->prompt_tokens - request->table.token_count, &copy);
    if (st != OK) {
        block_table_drop(&request->table, prefill->tree);
        return st;
    }
    /* Matched blocks are full, so the first new token never falls into a shared one. */
    request->cached_tokens = request->table.token_count;
    request->sealed_blocks = matched;
    if (looks) {
        prefill->counters.prefix_queries += wire->prompt_tokens;
        prefill->counters.prefix_hits += request->cached_tokens;
    }
    return OK;
}

void prefill_seal(struct prefill *prefill, struct prefill_request *request)
{
    if (!prefill->options.prefix_cache || (request->wire->flags & WIRE_REQUEST_NO_PREFIX) != 0)
        return;
    uint32_t full = request->table.token_count / prefill->block_tokens;
    while (request->sealed_blocks < full) {
        uint32_t i = request->sealed_blocks++;
        block_id there;
        /* Another block with this key, or a parent that is gone: ours stays private. It is not
         * swapped, because its id may be on offer. */
        prefix_tree_insert(prefill->tree, &request->keys[i], i > 0 ? &request->keys[i - 1] : NULL,
                           request->ids[i], &there);
    }
}
