/* Blocks of sequences that give way, to memory of the host and back.
 *
 * The slots there are kept by a prefix tree of their own. A sequence that is away holds references
 * on its slots; full ones are sealed under their blocks' keys, so that two sequences with one
 * prompt have it there once, and one that goes a second time finds what is still there of the
 * first. What nobody holds is dropped when room is needed. */
#include <assert.h>

#include "base/error.h"
#include "base/log.h"
#include "decode/request.h"

/* Slots under the keys of the blocks that they are copies of. */
static void swap_seal(struct decode *decode, struct decode_sequence *sequence, uint32_t first,
                      uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        const struct block_key *parent = i > 0 ? &sequence->keys[i - 1] : NULL;
        block_id there;
        status st = prefix_tree_insert(decode->slots, &sequence->keys[i], parent,
                                       sequence->slots[i], &there);
        assert(st == OK); /* All before it are there, and it is not: it would have been matched. */
    }
}

void decode_swap_out(struct decode *decode, struct decode_sequence *sequence)
{
    const struct block_table *table = &sequence->table;
    assert(sequence->slot_count == 0);
    if (decode->slots == NULL)
        return;
    uint32_t blocks = kv_blocks_for(table->token_count, decode->block_tokens);
    uint32_t full = 0;
    if (decode_shares(decode, sequence->request))
        full = table->token_count / decode->block_tokens;
    decode_keys(decode, sequence, full);
    uint32_t known = prefix_tree_match(decode->slots, sequence->keys, full, sequence->slots);
    uint32_t copies = pressure_copies(blocks, known, prefix_tree_available(decode->slots));
    status st = prefix_tree_take(decode->slots, copies, sequence->slots + known);
    assert(st == OK);
    sequence->slot_count = known + copies;
    if (copies > 0)
        st = engine_swap_out(decode->engine, table->ids + known, sequence->slots + known, copies);
    if (st != OK) { /* Then it is computed again, if the device still computes. */
        log_line(LOG_ERROR, sequence->request->wire->request_id, "not swapped out",
                 "blocks=%u reason=\"%s\"", copies, error_text());
        decode_swap_drop(decode, sequence);
        return;
    }
    uint32_t end = sequence->slot_count < full ? sequence->slot_count : full;
    swap_seal(decode, sequence, known, end > known ? end : known);
    sequence->slot_tokens = sequence->slot_count * decode->block_tokens;
    if (sequence->slot_tokens > table->token_count)
        sequence->slot_tokens = table->token_count;
    decode->counters.swap_out_blocks += copies;
}

void decode_swap_in(struct decode *decode, struct decode_sequence *sequence)
{
    struct block_table *table = &sequence->table;
    uint32_t first = table->token_count / decode->block_tokens;
    assert(table->token_count % decode->block_tokens == 0);
    if (sequence->slot_tokens > table->token_count) {
        uint32_t copies = sequence->slot_count - first;
        status st =
            engine_swap_in(decode->engine, sequence->slots + first, table->ids + first, copies);
        if (st == OK) {
            block_table_advance(table, sequence->slot_tokens - table->token_count);
            decode->counters.swap_in_blocks += copies;
        } else {
            log_line(LOG_ERROR, sequence->request->wire->request_id, "not swapped in",
                     "blocks=%u reason=\"%s\"", copies, error_text());
        }
    }
    decode_swap_drop(decode, sequence);
}

void decode_swap_drop(struct decode *decode, struct decode_sequence *sequence)
{
    if (sequence->slot_count > 0)
        prefix_tree_drop(decode->slots, sequence->slots, sequence->slot_count);
    sequence->slot_count = sequence->slot_tokens = 0;
}
