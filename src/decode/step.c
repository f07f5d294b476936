/* One token per running sequence; and who gives way when blocks run out. */
#include <assert.h>

#include "base/error.h"
#include "decode/request.h"

/* It gives up its blocks, and comes back when there is room. */
static void decode_preempt(struct decode *decode, struct decode_sequence *sequence)
{
    decode_sequences_remove(&decode->running, sequence);
    decode_swap_out(decode, sequence);
    block_table_drop(&sequence->table, decode->tree);
    sequence->preempted = true;
    sequence->step = NULL;
    decode_sequences_insert(&decode->preempted, sequence);
    decode->counters.preemptions++;
}

/* Of the lowest rank: the list's last. */
static struct decode_sequence *decode_last(struct decode *decode)
{
    struct decode_sequence *last = decode->running.head;
    while (last != NULL && last->next != NULL)
        last = last->next;
    return last;
}

/* What is still in the pool of a preempted sequence's blocks, under their keys. */
static void decode_match(struct decode *decode, struct decode_sequence *sequence)
{
    uint32_t full = 0, matched;
    if (decode_shares(decode, sequence->request))
        full = (sequence->token_count - 1) / decode->block_tokens;
    decode_keys(decode, sequence, full);
    matched = prefix_tree_match(decode->tree, sequence->keys, full, sequence->ids);
    block_table_adopt(&sequence->table, sequence->ids, matched, matched * decode->block_tokens);
    sequence->sealed_blocks = matched;
    sequence->private_blocks = false;
}

/* Bring preempted sequences back, by rank, while what they need is there beside the growth of those
 * that run. They get all their blocks at once: nobody else may take them while some are computed
 * again. */
static void decode_resume(struct decode *decode)
{
    while (decode->preempted.head != NULL) {
        struct decode_sequence *sequence = decode->preempted.head;
        struct block_copy copy;
        if (!pressure_returns(prefix_tree_available(decode->tree), 1, decode->running.count))
            return; /* It needs one block at least. */
        decode_match(decode, sequence);
        uint32_t tokens = sequence->token_count - sequence->table.token_count;
        uint32_t blocks = block_table_blocks_needed(&sequence->table, decode->tree, tokens);
        if (!pressure_returns(prefix_tree_available(decode->tree), blocks, decode->running.count)) {
            block_table_drop(&sequence->table, decode->tree);
            return;
        }
        status st = block_table_reserve(&sequence->table, decode->tree, tokens, &copy);
        assert(st == OK && !copy.needed); /* Matched blocks are full. */
        decode_swap_in(decode, sequence);
        decode_seal(decode, sequence, false);
        decode_sequences_remove(&decode->preempted, sequence);
        sequence->preempted = false;
        decode_sequences_insert(&decode->running, sequence);
    }
}

/* Room for the sequence's next tokens; those of lower rank give way. False: it was the last. */
static bool decode_make_room(struct decode *decode, struct decode_sequence *sequence,
                             uint32_t tokens)
{
    struct block_copy copy;
    for (;;) {
        status st = block_table_reserve(&sequence->table, decode->tree, tokens, &copy);
        if (st == OK)
            break;
        assert(st == ERR_FULL);
        struct decode_sequence *last = decode_last(decode);
        decode_preempt(decode, last);
        if (last == sequence)
            return false;
    }
    if (copy.needed)
        engine_block_copy(decode->engine, copy.from, copy.to);
    return true;
}

static void decode_fill(struct decode_sequence *sequence, uint32_t tokens,
                        struct engine_sequence *out)
{
    const struct wire_request *wire = sequence->request->wire;
    uint32_t start = sequence->table.token_count;
    uint32_t prompt_count = wire_request_prompt_tokens(wire);
    *out = (struct engine_sequence){.token_ids = sequence->tokens + start,
                                    .token_count = tokens,
                                    .start_position = start,
                                    .table = &sequence->table};
    sequence->step = out;
    if (start + tokens < sequence->token_count)
        return;
    sequence->sample = (struct engine_sample){
        .sampling = &sequence->request->sampling,
        .prompt_ids = wire->prompt,
        .prompt_count = prompt_count,
        .output_ids = sequence->tokens + prompt_count,
        .output_count = sequence->token_count - prompt_count,
        .sequence_index = wire->first_sequence + sequence->index,
    };
    out->sample_count = 1;
    out->samples = &sequence->sample;
}

uint32_t decode_plan(struct decode *decode, uint32_t rows_max, uint32_t sequences_max,
                     struct engine_sequence *sequences)
{
    uint32_t count = 0;
    uint32_t rows_left = rows_max;
    uint32_t again_left = decode->options.chunk_tokens; /* rows for what was preempted */
    decode_resume(decode);
    decode_grant(decode);
    for (struct decode_sequence *s = decode->running.head; s != NULL; s = s->next)
        s->step = NULL;
    struct decode_sequence *next;
    for (struct decode_sequence *s = decode->running.head; s != NULL; s = next) {
        uint32_t tokens = s->token_count - s->table.token_count;
        if (tokens > 1)
            tokens = tokens < again_left ? tokens : again_left;
        if (tokens > rows_left)
            tokens = rows_left;
        bool ran = tokens > 0 && count < sequences_max && decode_make_room(decode, s, tokens);
        next = s->preempted ? NULL : s->next; /* Only the last in the list is ever preempted. */
        if (!ran)
            continue;
        if (s->token_count - s->table.token_count > 1)
            again_left -= tokens;
        decode_fill(s, tokens, &sequences[count++]);
        block_table_write(&s->table, decode->tree, tokens);
        rows_left -= tokens;
    }
    return count;
}
