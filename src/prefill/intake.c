/* A request arrives, waits, and ends. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "prefill/request.h"
#include "transfer/transfer.h"

void prefill_list_push(struct prefill_list *list, struct prefill_request *request)
{
    request->next = NULL;
    *list->tail = request;
    list->tail = &request->next;
    list->count++;
}

/* Before those of a larger priority number, after all others. */
static void prefill_list_insert(struct prefill_list *list, struct prefill_request *request)
{
    struct prefill_request **at = &list->head;
    while (*at != NULL && (*at)->wire->priority <= request->wire->priority)
        at = &(*at)->next;
    request->next = *at;
    if (*at == NULL)
        list->tail = &request->next;
    *at = request;
    list->count++;
}

void prefill_list_remove(struct prefill_list *list, struct prefill_request *request)
{
    struct prefill_request **at = &list->head;
    while (*at != request) {
        assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = request->next;
    if (list->tail == &request->next)
        list->tail = at;
    request->next = NULL;
    list->count--;
}

static struct prefill_request *prefill_list_find(const struct prefill_list *list,
                                                 uint64_t request_id)
{
    struct prefill_request *request = list->head;
    while (request != NULL && (request->retired || request->wire->request_id != request_id))
        request = request->next;
    return request;
}

status prefill_open(const struct prefill_options *options, struct engine *engine,
                    struct prefix_tree *tree, struct transfer *transfer,
                    const struct prefill_calls *calls, void *ctx, struct prefill **prefill_out)
{
    uint32_t block_tokens = engine_layout(engine)->shape.block_tokens;
    if (options->chunk_tokens < block_tokens)
        return error_set(ERR_BAD_INPUT,
                         "prefill chunk: expected at least a block of %u tokens, found %u",
                         block_tokens, options->chunk_tokens);
    struct prefill *prefill = calloc(1, sizeof(*prefill));
    if (prefill == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the prefill scheduler");
    prefill->options = *options;
    if (prefill->options.split_bytes == 0)
        prefill->options.split_bytes = 256u << 10;
    prefill->engine = engine;
    prefill->tree = tree;
    prefill->transfer = transfer;
    prefill->calls = calls;
    prefill->ctx = ctx;
    prefill->block_tokens = block_tokens;
    prefill->waiting.tail = &prefill->waiting.head;
    prefill->batch.tail = &prefill->batch.head;
    prefill->held.tail = &prefill->held.head;
    *prefill_out = prefill;
    return OK;
}

void prefill_close(struct prefill *prefill)
{
    if (prefill == NULL)
        return;
    assert(prefill_idle(prefill));
    free(prefill);
}

bool prefill_goes_on(const struct wire_request *wire)
{
    return wire->sampling.max_tokens > wire->resumed_tokens + 1;
}

void prefill_drop_local(struct prefill *prefill, struct prefill_request *request)
{
    if (request->local_taken)
        prefill->calls->local_drop(prefill->ctx, request->wire->sequence_count);
    request->local_taken = false;
}

void prefill_request_close(struct prefill *prefill, struct prefill_request *request)
{
    assert(!request->lease_open && request->ranges_open == 0);
    prefill_drop_local(prefill, request);
    block_table_drop(&request->table, prefill->tree);
    wire_request_free(request->wire);
    free(request->ids);
    free(request->keys);
    free(request->samples);
    free(request->scores);
    free(request);
}

void prefill_request_retire(struct prefill *prefill, struct prefill_request *request)
{
    if (!request->lease_open && request->ranges_open == 0) {
        prefill_request_close(prefill, request);
        return;
    }
    /* The transfer may be reading or writing: the blocks go when it says so (prefill_released,
     * prefill_gathered). */
    request->retired = true;
    prefill_gather_cancel(prefill, request);
    if (request->lease_open)
        transfer_lease_close(prefill->transfer, &request->wire->lease);
    prefill_list_push(&prefill->held, request);
}

void prefill_request_fail(struct prefill *prefill, struct prefill_request *request, status code,
                          const char *text)
{
    prefill->calls->failed(prefill->ctx, request->wire->request_id, code, text);
    prefill_request_retire(prefill, request);
}

/* Everything the request will need but blocks. */
static status prefill_request_open(struct prefill *prefill, struct wire_request *wire,
                                   const struct sampling *sampling,
                                   struct prefill_request **request_out)
{
    uint32_t blocks = kv_blocks_for(wire->prompt_tokens, prefill->block_tokens);
    struct prefill_request *request = calloc(1, sizeof(*request));
    if (request == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a request");
    request->wire = wire;
    request->sampling = *sampling;
    request->ids = calloc(blocks, sizeof(*request->ids));
    request->keys = calloc(blocks, sizeof(*request->keys));
    request->samples = calloc(wire->sequence_count, sizeof(*request->samples));
    bool scored = (wire->flags & WIRE_REQUEST_PROMPT_LOGPROBS) != 0;
    if (scored)
        request->scores = calloc(wire->prompt_tokens, sizeof(*request->scores));
    if (request->ids == NULL || request->keys == NULL || request->samples == NULL ||
        (scored && request->scores == NULL)) {
        request->wire = NULL;
        prefill_request_close(prefill, request);
        return error_set(ERR_NO_MEMORY, "no memory for a request of %u tokens",
                         wire->prompt_tokens);
    }
    block_table_open(&request->table, request->ids, blocks, prefill->block_tokens);
    bool elsewhere = (wire->flags & WIRE_REQUEST_LOCAL) == 0 && prefill_goes_on(wire);
    request->saves = elsewhere && wire->handoff == WIRE_HANDOFF_STORE;
    request->hands_over = elsewhere && !request->saves;
    request->state = request->hands_over ? PREFILL_QUEUED : PREFILL_PLACED;
    request->arrived_ns = clock_ns();
    *request_out = request;
    return OK;
}

/* What could never run here. */
static status prefill_check(const struct prefill *prefill, const struct wire_request *wire)
{
    uint32_t context_tokens = engine_context_tokens(prefill->engine);
    uint32_t most = prefill->options.local_sequences_max;
    if (wire->prompt_tokens > context_tokens)
        return error_set(ERR_BAD_INPUT, "the prompt has %u tokens, this worker takes at most %u",
                         wire->prompt_tokens, context_tokens);
    if ((wire->flags & WIRE_REQUEST_LOCAL) != 0 && wire->sequence_count > most)
        return error_set(ERR_BAD_INPUT,
                         "n is %u, this worker decodes at most %u sequences at once "
                         "(--decode-batch)",
                         wire->sequence_count, most);
    return OK;
}

void prefill_submit(struct prefill *prefill, struct wire_request *wire,
                    const struct sampling *sampling)
{
    struct prefill_request *request = NULL;
    status st = prefill_check(prefill, wire);
    if (st == OK)
        st = prefill_request_open(prefill, wire, sampling, &request);
    if (st != OK) {
        prefill->calls->failed(prefill->ctx, wire->request_id, st, error_text());
        wire_request_free(wire);
        return;
    }
    request->root =
        block_key_root(prefill->options.fingerprint, engine_layout(prefill->engine)->hash,
                       engine_layout(prefill->engine)->shape.dtype,
                       engine_numerics_class(prefill->engine), wire->salt, sizeof(wire->salt));
    request->key_count = block_key_chain(&request->root, wire->prompt, wire->prompt_tokens,
                                         prefill->block_tokens, request->keys);
    prefill_list_insert(&prefill->waiting, request);
}

void prefill_place(struct prefill *prefill, const struct wire_place *place)
{
    struct prefill_request *request = prefill_list_find(&prefill->waiting, place->request_id);
    if (request == NULL || request->state != PREFILL_PLACING)
        return;
    uint32_t blocks = kv_blocks_for(request->wire->prompt_tokens, prefill->block_tokens);
    request->matched_blocks = place->matched_blocks < blocks ? place->matched_blocks : blocks;
    request->state = PREFILL_PLACED;
    request->placed_ns = clock_ns();
}

void prefill_cancel(struct prefill *prefill, uint64_t request_id)
{
    struct prefill_list *const lists[] = {&prefill->waiting, &prefill->batch, &prefill->held};
    for (int i = 0; i < 3; i++) {
        struct prefill_request *request = prefill_list_find(lists[i], request_id);
        if (request != NULL && !request->retired) {
            prefill_list_remove(lists[i], request);
            prefill_request_retire(prefill, request);
        }
    }
}

static void prefill_cancel_list(struct prefill *prefill, struct prefill_list *list, uint32_t router)
{
    struct prefill_request *next;
    for (struct prefill_request *r = list->head; r != NULL; r = next) {
        next = r->next;
        bool theirs = router == WIRE_EVERY_ROUTER || WIRE_ROUTER_OF(r->wire->request_id) == router;
        if (theirs && !r->retired) {
            prefill_list_remove(list, r);
            prefill_request_retire(prefill, r);
        }
    }
}

void prefill_cancel_router(struct prefill *prefill, uint32_t router)
{
    /* The held last: retiring puts requests there. */
    prefill_cancel_list(prefill, &prefill->waiting, router);
    prefill_cancel_list(prefill, &prefill->batch, router);
    prefill_cancel_list(prefill, &prefill->held, router);
}

void prefill_cancel_all(struct prefill *prefill)
{
    prefill_cancel_router(prefill, WIRE_EVERY_ROUTER);
}

void prefill_each(const struct prefill *prefill,
                  void (*each)(void *ctx, uint64_t request_id, uint32_t prompt_tokens), void *ctx)
{
    const struct prefill_list *const lists[] = {&prefill->waiting, &prefill->batch};
    for (int i = 0; i < 2; i++) {
        for (const struct prefill_request *r = lists[i]->head; r != NULL; r = r->next)
            each(ctx, r->wire->request_id, r->wire->prompt_tokens);
    }
}

bool prefill_idle(const struct prefill *prefill)
{
    return prefill->waiting.head == NULL && prefill->batch.head == NULL &&
           prefill->held.head == NULL;
}

void prefill_count(const struct prefill *prefill, struct prefill_counters *counters_out)
{
    *counters_out = prefill->counters;
    counters_out->waiting = prefill->waiting.count;
    counters_out->running = prefill->batch.count;
    counters_out->held = prefill->held.count;
}
