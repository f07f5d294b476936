/* A request's blocks are here: its sequences join the running ones. And how they leave. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "decode/request.h"
#include "transfer/transfer.h"

status decode_open(const struct decode_options *options, struct engine *engine,
                   struct prefix_tree *tree, struct transfer *transfer,
                   const struct decode_calls *calls, void *ctx, struct decode **decode_out)
{
    struct decode *decode = calloc(1, sizeof(*decode));
    if (decode == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the decode scheduler");
    uint32_t out_count = options->batch_sequences > WIRE_SEQUENCES_MAX ? options->batch_sequences
                                                                       : WIRE_SEQUENCES_MAX;
    decode->out = calloc(out_count, sizeof(*decode->out));
    if (decode->out == NULL) {
        free(decode);
        return error_set(ERR_NO_MEMORY, "no memory for the decode scheduler");
    }
    assert(options->swap_slots <= engine_swap_slots(engine));
    if (options->swap_slots > 0) {
        status st = prefix_tree_open(options->swap_slots, UINT32_MAX, &decode->slots);
        if (st != OK) {
            free(decode->out);
            free(decode);
            return st;
        }
    }
    decode->options = *options;
    decode->engine = engine;
    decode->tree = tree;
    decode->transfer = transfer;
    decode->calls = calls;
    decode->ctx = ctx;
    decode->block_tokens = engine_layout(engine)->shape.block_tokens;
    decode->waiting.tail = &decode->waiting.head;
    decode->receiving.tail = &decode->receiving.head;
    decode->admitted.tail = &decode->admitted.head;
    decode->running.tail = &decode->running.head;
    decode->preempted.tail = &decode->preempted.head;
    *decode_out = decode;
    return OK;
}

void decode_close(struct decode *decode)
{
    if (decode == NULL)
        return;
    assert(decode_idle(decode));
    prefix_tree_close(decode->slots);
    free(decode->out);
    free(decode);
}

struct pressure_rank decode_rank(const struct decode_sequence *sequence)
{
    return (struct pressure_rank){.priority = sequence->request->wire->priority,
                                  .age = sequence->age};
}

/* By rank; newcomers are the youngest, so this is nearly always an append. */
void decode_sequences_insert(struct decode_sequences *list, struct decode_sequence *sequence)
{
    struct decode_sequence **at = &list->head;
    while (*at != NULL && pressure_before(decode_rank(*at), decode_rank(sequence)))
        at = &(*at)->next;
    sequence->next = *at;
    if (*at == NULL)
        list->tail = &sequence->next;
    *at = sequence;
    list->count++;
}

void decode_sequences_remove(struct decode_sequences *list, struct decode_sequence *sequence)
{
    struct decode_sequence **at = &list->head;
    while (*at != sequence) {
        assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = sequence->next;
    if (list->tail == &sequence->next)
        list->tail = at;
    sequence->next = NULL;
    list->count--;
}

static status decode_sequences_open(struct decode *decode, struct decode_request *request)
{
    const struct wire_request *wire = request->wire;
    uint32_t tokens_max = (uint32_t)wire_request_tokens_max(wire);
    uint32_t blocks_max = kv_blocks_for(tokens_max, decode->block_tokens);
    request->sequences = calloc(wire->sequence_count, sizeof(*request->sequences));
    if (request->sequences == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u sequences", wire->sequence_count);
    for (uint32_t i = 0; i < wire->sequence_count; i++) {
        struct decode_sequence *sequence = &request->sequences[i];
        sequence->request = request;
        sequence->index = i;
        sequence->tokens = calloc(tokens_max, sizeof(*sequence->tokens));
        sequence->ids = calloc(blocks_max, sizeof(*sequence->ids));
        sequence->keys = calloc(blocks_max, sizeof(*sequence->keys));
        sequence->slots = calloc(blocks_max, sizeof(*sequence->slots));
        if (sequence->tokens == NULL || sequence->ids == NULL || sequence->keys == NULL ||
            sequence->slots == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for a sequence of %u tokens", tokens_max);
        memcpy(sequence->tokens, wire->prompt, wire->prompt_tokens * sizeof(*wire->prompt));
        block_table_open(&sequence->table, sequence->ids, blocks_max, decode->block_tokens);
    }
    return OK;
}

status decode_admit(struct decode *decode, struct decode_request *request,
                    const struct wire_token *firsts)
{
    const struct wire_request *wire = request->wire;
    status st = decode_sequences_open(decode, request);
    if (st != OK)
        return st;

    struct decode_sequence *owner = &request->sequences[0];
    block_table_adopt(&owner->table, request->ids, request->block_count, wire->prompt_tokens);
    request->block_count = 0; /* The references are the table's now. */
    decode_seal(decode, owner, false);
    for (uint32_t i = 1; i < wire->sequence_count; i++) {
        struct decode_sequence *sequence = &request->sequences[i];
        block_table_share(&sequence->table, decode->tree, &owner->table);
        sequence->sealed_blocks = owner->sealed_blocks;
        sequence->private_blocks = owner->private_blocks;
    }

    decode_requests_push(&decode->admitted, request);
    request->sequences_left = wire->sequence_count;
    for (uint32_t i = 0; i < wire->sequence_count; i++) {
        struct decode_sequence *sequence = &request->sequences[i];
        sequence->tokens[wire->prompt_tokens] = firsts[i].token;
        sequence->token_count = wire->prompt_tokens + 1;
        sequence->age = decode->next_age++;
        decode_sequences_insert(&decode->running, sequence);
    }
    /* Last: the request goes with the last of its sequences. */
    struct decode_sequence *sequences = request->sequences;
    for (uint32_t i = wire->sequence_count; i-- > 0;) {
        if (firsts[i].finish != WIRE_FINISH_NONE) {
            decode_sequences_remove(&decode->running, &sequences[i]);
            decode_sequence_finish(decode, &sequences[i]);
        }
    }
    return OK;
}

void decode_adopt(struct decode *decode, struct wire_request *wire, const struct sampling *sampling,
                  const block_id *ids, uint32_t block_count, const struct wire_token *firsts)
{
    struct decode_request *request = NULL;
    decode_expect_none(decode, wire->sequence_count);
    status st = decode_request_open(decode, wire, sampling, &request);
    if (st != OK) {
        decode->calls->failed(decode->ctx, wire->request_id, st, error_text());
        prefix_tree_drop(decode->tree, ids, block_count);
        wire_request_free(wire);
        return;
    }
    memcpy(request->ids, ids, block_count * sizeof(*ids));
    request->block_count = block_count;
    st = decode_admit(decode, request, firsts);
    if (st != OK) {
        decode->calls->failed(decode->ctx, wire->request_id, st, error_text());
        decode_request_close(decode, request);
    }
}

void decode_sequence_finish(struct decode *decode, struct decode_sequence *sequence)
{
    struct decode_request *request = sequence->request;
    block_table_drop(&sequence->table, decode->tree);
    decode_swap_drop(decode, sequence);
    sequence->done = true;
    if (--request->sequences_left == 0) {
        decode_requests_remove(&decode->admitted, request);
        decode_request_close(decode, request);
    }
}

static struct decode_request *decode_requests_find(const struct decode_requests *list,
                                                   uint64_t request_id)
{
    struct decode_request *request = list->head;
    while (request != NULL && (request->retired || request->wire->request_id != request_id))
        request = request->next;
    return request;
}

void decode_stop(struct decode *decode, struct decode_request *request, uint32_t sequence)
{
    uint32_t count = request->wire->sequence_count;
    struct decode_sequence *sequences = request->sequences;
    uint32_t left = request->sequences_left; /* The request goes with the last of them. */
    for (uint32_t i = 0; i < count && left > 0; i++) {
        struct decode_sequence *s = &sequences[i];
        if (s->done || (sequence != WIRE_ALL_SEQUENCES && sequence != i))
            continue;
        decode_sequences_remove(s->preempted ? &decode->preempted : &decode->running, s);
        left--;
        decode_sequence_finish(decode, s);
    }
}

static void decode_cancel_early(struct decode *decode, uint64_t request_id)
{
    struct decode_request *request = decode_requests_find(&decode->waiting, request_id);
    if (request != NULL) {
        decode_requests_remove(&decode->waiting, request);
        decode_request_close(decode, request);
    }
    request = decode_requests_find(&decode->receiving, request_id);
    if (request != NULL) {
        /* Bytes may be landing in its blocks: they go when the transfer says that none will. */
        request->retired = true;
        transfer_receive_cancel(decode->transfer, &request->wire->lease);
    }
}

void decode_cancel(struct decode *decode, uint64_t request_id, uint32_t sequence)
{
    if (sequence == WIRE_ALL_SEQUENCES)
        decode_cancel_early(decode, request_id);
    struct decode_request *request = decode_requests_find(&decode->admitted, request_id);
    if (request != NULL)
        decode_stop(decode, request, sequence);
    decode_grant(decode);
}

void decode_cancel_all(struct decode *decode)
{
    while (decode->waiting.head != NULL)
        decode_cancel(decode, decode->waiting.head->wire->request_id, WIRE_ALL_SEQUENCES);
    for (struct decode_request *r = decode->receiving.head; r != NULL; r = r->next) {
        if (!r->retired)
            decode_cancel(decode, r->wire->request_id, WIRE_ALL_SEQUENCES);
    }
    while (decode->admitted.head != NULL)
        decode_cancel(decode, decode->admitted.head->wire->request_id, WIRE_ALL_SEQUENCES);
}

/* The first of one router that is not cancelled. */
static struct decode_request *decode_requests_of(const struct decode_requests *list,
                                                 uint32_t router)
{
    struct decode_request *r = list->head;
    while (r != NULL && (r->retired || WIRE_ROUTER_OF(r->wire->request_id) != router))
        r = r->next;
    return r;
}

void decode_cancel_router(struct decode *decode, uint32_t router)
{
    /* The waiting first: what others let go of is not for them. */
    const struct decode_requests *const lists[] = {&decode->waiting, &decode->receiving,
                                                   &decode->admitted};
    for (int i = 0; i < 3; i++) {
        const struct decode_request *r;
        while ((r = decode_requests_of(lists[i], router)) != NULL)
            decode_cancel(decode, r->wire->request_id, WIRE_ALL_SEQUENCES);
    }
}

void decode_each(const struct decode *decode,
                 void (*each)(void *ctx, uint64_t request_id, uint32_t sequences), void *ctx)
{
    const struct decode_requests *const lists[] = {&decode->waiting, &decode->receiving};
    for (int i = 0; i < 2; i++) {
        for (const struct decode_request *r = lists[i]->head; r != NULL; r = r->next)
            each(ctx, r->wire->request_id, r->wire->sequence_count);
    }
    for (const struct decode_request *r = decode->admitted.head; r != NULL; r = r->next)
        each(ctx, r->wire->request_id, r->sequences_left);
}

bool decode_idle(const struct decode *decode)
{
    return decode->waiting.head == NULL && decode->receiving.head == NULL &&
           decode->admitted.head == NULL;
}

bool decode_has_work(const struct decode *decode)
{
    return decode->running.head != NULL || decode->preempted.head != NULL;
}

void decode_count(const struct decode *decode, struct decode_counters *counters_out)
{
    *counters_out = decode->counters;
    counters_out->waiting = decode->waiting.count;
    counters_out->receiving = decode->receiving.count;
    counters_out->running = decode->running.count;
    counters_out->preempted = decode->preempted.count;
    struct prefix_tree_counts slots = {0};
    if (decode->slots != NULL)
        prefix_tree_count(decode->slots, &slots);
    counters_out->swapped_blocks = slots.referenced;
    counters_out->reserved_blocks = 0;
    for (const struct decode_request *r = decode->receiving.head; r != NULL; r = r->next)
        counters_out->reserved_blocks += r->block_count - r->matched_blocks;
}
