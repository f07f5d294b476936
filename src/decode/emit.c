/* Tokens to the router; blocks that filled up get their keys. */
#include "base/error.h"
#include "decode/request.h"

bool decode_shares(const struct decode *decode, const struct decode_request *request)
{
    return decode->options.prefix_cache && (request->wire->flags & WIRE_REQUEST_NO_PREFIX) == 0;
}

void decode_keys(const struct decode *decode, struct decode_sequence *sequence, uint32_t count)
{
    const struct decode_request *request = sequence->request;
    for (uint32_t i = sequence->key_count; i < count; i++)
        sequence->keys[i] =
            i < request->key_count
                ? request->keys[i]
                : block_key_next(i > 0 ? &sequence->keys[i - 1] : &request->root,
                                 sequence->tokens + i * decode->block_tokens, decode->block_tokens);
    if (sequence->key_count < count)
        sequence->key_count = count;
}

void decode_seal(struct decode *decode, struct decode_sequence *sequence, bool computed)
{
    if ((sequence->request->wire->flags & WIRE_REQUEST_NO_PREFIX) != 0)
        return;
    uint32_t full = sequence->table.token_count / decode->block_tokens;
    decode_keys(decode, sequence, full);
    while (sequence->sealed_blocks < full && !sequence->private_blocks) {
        uint32_t i = sequence->sealed_blocks;
        const struct block_key *parent = i > 0 ? &sequence->keys[i - 1] : NULL;
        block_id there;
        status st = OK;
        if (decode->options.prefix_cache)
            st = prefix_tree_insert(decode->tree, &sequence->keys[i], parent,
                                    sequence->table.ids[i], &there);
        if (st == ERR_FULL)
            prefix_tree_swap(decode->tree, &sequence->table.ids[i], there);
        else if (computed)
            decode->calls->sealed(decode->ctx, &sequence->keys[i], parent, sequence->table.ids[i]);
        sequence->private_blocks = st == ERR_NOT_FOUND;
        sequence->sealed_blocks++;
    }
}

/* The token that the step picked for the sequence: appended, and written for the router. */
static void decode_take_token(struct decode_sequence *sequence, struct wire_token *out)
{
    const struct wire_request *wire = sequence->request->wire;
    const struct sampled *result = &sequence->sample.result;
    uint32_t index = sequence->token_count - wire_request_prompt_tokens(wire);
    sequence->tokens[sequence->token_count++] = result->token_id;
    out->request_id = wire->request_id;
    out->sequence = sequence->index;
    out->index = index;
    out->token = result->token_id;
    out->logprob = result->logprob;
    out->top_count = result->top_count;
    for (uint32_t i = 0; i < result->top_count; i++) {
        out->top_tokens[i] = result->top_ids[i];
        out->top_logprobs[i] = result->top_logprobs[i];
    }
    out->finish = (uint32_t)wire_request_finish(wire, result->token_id, index);
}

/* The requests of sequences that got nothing from the step end; with all their sequences. */
static void decode_fail_step(struct decode *decode, const char *failure)
{
    struct decode_sequence *s = decode->running.head;
    while (s != NULL) {
        if (s->step == NULL || s->step->outcome == OK) {
            s = s->next;
            continue;
        }
        decode->calls->failed(decode->ctx, s->request->wire->request_id, s->step->outcome, failure);
        decode_stop(decode, s->request, WIRE_ALL_SEQUENCES);
        s = decode->running.head; /* Any of them may be gone. */
    }
}

void decode_stepped(struct decode *decode, const char *failure)
{
    uint32_t count = 0;
    decode_fail_step(decode, failure);
    struct decode_sequence *next;
    for (struct decode_sequence *s = decode->running.head; s != NULL; s = next) {
        next = s->next;
        if (s->step == NULL)
            continue;
        bool samples = s->step->sample_count > 0;
        block_table_advance(&s->table, s->step->token_count);
        decode->counters.recomputed_tokens += s->step->token_count - (samples ? 1 : 0);
        s->step = NULL;
        decode_seal(decode, s, true);
        if (!samples)
            continue;
        decode->counters.tokens++;
        decode_take_token(s, &decode->out[count]);
        if (decode->out[count++].finish != WIRE_FINISH_NONE) {
            decode_sequences_remove(&decode->running, s);
            decode_sequence_finish(decode, s);
        }
    }
    if (count > 0)
        decode->calls->tokens(decode->ctx, decode->out, count);
}
