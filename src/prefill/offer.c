/* Each layer of each chunk goes to the receiver while the next one is computed. */
#include <assert.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "prefill/request.h"
#include "transfer/transfer.h"

static void prefill_offer_blocks(struct prefill *prefill, struct prefill_request *request,
                                 uint32_t layer, uint32_t first, uint32_t count)
{
    transfer_offer(prefill->transfer, &request->wire->lease, layer, first, request->ids + first,
                   count, NULL);
}

/* All layers of those before end that are not offered yet. */
static void prefill_offer_until(struct prefill *prefill, struct prefill_request *request,
                                uint32_t end)
{
    uint32_t first = request->offered_blocks;
    if (end <= first)
        return;
    uint32_t layers = engine_layout(prefill->engine)->shape.layer_count;
    for (uint32_t layer = 0; layer < layers; layer++)
        prefill_offer_blocks(prefill, request, layer, first, end - first);
    request->offered_blocks = end;
}

void prefill_offer_start(struct prefill *prefill, struct prefill_request *request)
{
    const struct wire_request *wire = request->wire;
    status st = transfer_lease_open(prefill->transfer, &wire->lease, wire->request_id, wire->epoch,
                                    wire->deadline_ms);
    if (st != OK) {
        /* The receiver will not find the lease and give up in time; so does the request. */
        prefill_list_remove(&prefill->batch, request);
        prefill_request_fail(prefill, request, st, error_text());
        return;
    }
    request->lease_open = true;
    request->offered_blocks = request->matched_blocks;
    if (!prefill->options.offer_late)
        prefill_offer_until(prefill, request, request->table.token_count / prefill->block_tokens);
}

void prefill_offer_landed(struct prefill *prefill, struct prefill_request *request)
{
    if (request->lease_open && !prefill->options.offer_late)
        prefill_offer_until(prefill, request, request->table.token_count / prefill->block_tokens);
}

void prefill_offer_plan(struct prefill *prefill, struct prefill_request *request)
{
    uint32_t end = request->table.token_count + request->step->token_count;
    uint32_t blocks = end == request->wire->prompt_tokens
                          ? kv_blocks_for(end, prefill->block_tokens)
                          : end / prefill->block_tokens;
    request->offer_count = 0;
    if (request->hands_over && !prefill->options.offer_late && blocks > request->offered_blocks)
        request->offer_count = blocks - request->offered_blocks;
}

void prefill_layer_ready(struct prefill *prefill, uint32_t layer)
{
    for (struct prefill_request *r = prefill->batch.head; r != NULL; r = r->next) {
        if (r->step != NULL && r->offer_count > 0)
            prefill_offer_blocks(prefill, r, layer, r->offered_blocks, r->offer_count);
    }
}

static void prefill_token(const struct wire_request *wire, const struct sampled *from,
                          struct wire_token *token)
{
    token->request_id = wire->request_id;
    token->token = from->token_id;
    token->logprob = from->logprob;
    token->top_count = from->top_count;
    token->finish = WIRE_FINISH_NONE;
    for (uint32_t i = 0; i < from->top_count; i++) {
        token->top_tokens[i] = from->top_ids[i];
        token->top_logprobs[i] = from->top_logprobs[i];
    }
}

/* The answer to the router: first tokens, and the prompt's log-probabilities when asked for. */
static status prefill_report_first(struct prefill *prefill, struct prefill_request *r,
                                   const struct wire_token *firsts)
{
    const struct wire_request *wire = r->wire;
    struct wire_first first = {.request_id = wire->request_id,
                               .sequence_count = wire->sequence_count,
                               .cached_tokens = r->cached_tokens,
                               .peer_tokens = r->peer_tokens,
                               .store_tokens = r->store_tokens,
                               .gather_ns = r->gather_ns,
                               .range_count = r->range_count,
                               .queue_ns = r->started_ns - r->arrived_ns,
                               .place_ns = r->hands_over ? r->placed_ns - r->asked_ns : 0,
                               .prefill_ns = r->finished_ns - r->started_ns};
    for (uint32_t i = 0; i < r->range_count; i++)
        first.ranges[i] = r->ranges[i].told;
    struct wire_token *prompt_tokens = NULL;
    if (r->scores != NULL && wire->prompt_tokens > 1) {
        first.prompt_logprob_count = wire->prompt_tokens - 1;
        prompt_tokens = calloc(first.prompt_logprob_count, sizeof(*prompt_tokens));
        if (prompt_tokens == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for the log-probabilities of %u tokens",
                             first.prompt_logprob_count);
        for (uint32_t i = 0; i < first.prompt_logprob_count; i++) {
            prefill_token(wire, &r->scores[i], &prompt_tokens[i]);
            prompt_tokens[i].index = i + 1;
        }
    }
    prefill->calls->first(prefill->ctx, &first, firsts, prompt_tokens);
    free(prompt_tokens);
    return OK;
}

/* The blocks stay until the receiver has them; the first tokens travel with the last offer. */
static status prefill_hand_over(struct prefill *prefill, struct prefill_request *r,
                                const struct wire_token *firsts)
{
    struct wire_frame payload = {0};
    for (uint32_t i = 0; i < r->wire->sequence_count; i++)
        wire_token_encode(&payload, &firsts[i]);
    prefill_offer_until(prefill, r, r->table.block_count);
    status st = payload.failed
                    ? error_set(ERR_NO_MEMORY, "no memory to complete a handoff")
                    : transfer_complete(prefill->transfer, &r->wire->lease, r->table.block_count,
                                        payload.data, (uint32_t)payload.bytes);
    wire_frame_close(&payload);
    return st;
}

/* All of the prompt to the store, the last block under a key over exactly its tokens. */
static void prefill_save(struct prefill *prefill, struct prefill_request *r)
{
    uint32_t full = r->key_count, tokens = r->wire->prompt_tokens % prefill->block_tokens;
    if (tokens > 0)
        r->keys[full] = block_key_next(full > 0 ? &r->keys[full - 1] : &r->root,
                                       r->wire->prompt + full * prefill->block_tokens, tokens);
    prefill->calls->save(prefill->ctx, r->wire->request_id, r->keys, r->ids, r->table.block_count,
                         tokens > 0);
    r->table.block_count = 0; /* Its blocks have a new owner. */
    prefill_request_close(prefill, r);
}

void prefill_finish(struct prefill *prefill, struct prefill_request *r)
{
    struct wire_token firsts[WIRE_SEQUENCES_MAX];
    bool goes_on = false;
    r->finished_ns = clock_ns();
    for (uint32_t i = 0; i < r->wire->sequence_count; i++) {
        prefill_token(r->wire, &r->samples[i].result, &firsts[i]);
        firsts[i].sequence = i;
        firsts[i].index = r->wire->resumed_tokens;
        firsts[i].finish = (uint32_t)wire_request_finish(r->wire, firsts[i].token, firsts[i].index);
        goes_on = goes_on || firsts[i].finish == WIRE_FINISH_NONE;
    }
    prefill_list_remove(&prefill->batch, r);
    /* The last token's keys and values nobody had computed yet. */
    if (r->wire->resumed_tokens > 0)
        prefill->counters.recomputed_tokens += r->wire->prompt_tokens - r->cached_tokens - 1;
    status st = prefill_report_first(prefill, r, firsts);
    if (st == OK && goes_on && r->hands_over)
        st = prefill_hand_over(prefill, r, firsts);
    if (st != OK) {
        prefill_request_fail(prefill, r, st, error_text());
    } else if (!goes_on) {
        prefill_request_retire(prefill, r); /* Nothing is handed over. */
    } else if (r->hands_over) {
        r->state = PREFILL_HELD;
        prefill_list_push(&prefill->held, r);
    } else if (r->saves) {
        prefill_save(prefill, r);
    } else {
        r->local_taken = false;
        prefill->calls->local(prefill->ctx, r->wire, &r->sampling, r->ids, r->table.block_count,
                              firsts);
        r->wire = NULL; /* The request and its blocks have a new owner. */
        r->table.block_count = 0;
        prefill_request_close(prefill, r);
    }
}

static struct prefill_request *prefill_of_lease(const struct prefill_list *list,
                                                const struct lease_id *lease)
{
    struct prefill_request *r = list->head;
    while (r != NULL && !(r->lease_open && lease_id_equal(&r->wire->lease, lease)))
        r = r->next;
    return r;
}

static void prefill_report_handed(struct prefill *prefill, const struct prefill_request *r,
                                  const struct transfer_report *report)
{
    struct wire_handed handed = {.request_id = r->wire->request_id,
                                 .status = report->status,
                                 .carrier = (uint32_t)report->carrier,
                                 .bytes = report->bytes,
                                 .total_ns = (uint64_t)(report->seconds * 1e9),
                                 .exposed_ns = (uint64_t)(report->exposed_s * 1e9)};
    prefill->calls->handed(prefill->ctx, &handed);
}

bool prefill_released(struct prefill *prefill, const struct transfer_report *report)
{
    struct prefill_request *r = prefill_of_lease(&prefill->held, &report->lease);
    if (r != NULL) {
        r->lease_open = false;
        prefill_list_remove(&prefill->held, r);
        if (!r->retired)
            prefill_report_handed(prefill, r, report);
        prefill_request_close(prefill, r);
        return true;
    }
    /* The lease ended before the prefill did: its receiver is gone, or has given up, and nobody
     * will take the rest. The router hears it from the receiver, or from its silence: then it
     * begins again elsewhere, which a failure told here might forestall. */
    r = prefill_of_lease(&prefill->batch, &report->lease);
    if (r == NULL)
        return false;
    log_line(LOG_WARN, r->wire->request_id, "prefill given up", "computed=%u of=%u reason=\"%s\"",
             r->table.token_count, r->wire->prompt_tokens, report->text);
    r->lease_open = false;
    prefill_list_remove(&prefill->batch, r);
    prefill_request_close(prefill, r);
    return true;
}
