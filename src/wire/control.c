#include "wire/control.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "wire/codec.h"
#include "wire/control_fields.h"

/* Encoding reads fields through the same pointers that decoding writes; it never changes them. */
static struct codec codec_into(struct wire_frame *frame)
{
    return (struct codec){.frame = frame};
}

static struct codec codec_from(const uint8_t *data, size_t bytes)
{
    return (struct codec){.from = reader_over(data, bytes)};
}

void wire_register_fields(struct codec *c, struct wire_register *m)
{
    codec_u32(c, &m->roles, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE, "roles");
    codec_u32(c, &m->pid, UINT32_MAX, "pid");
    codec_u32(c, &m->block_count, UINT32_MAX, "block_count");
    codec_u32(c, &m->context_tokens, WIRE_PROMPT_TOKENS_MAX, "context_tokens");
    codec_u32(c, &m->decode_batch, 1u << 16, "decode_batch");
    codec_u64(c, &m->incarnation);
    codec_text(c, m->name, sizeof(m->name), "name");
    codec_text(c, m->transfer_unix, sizeof(m->transfer_unix), "transfer_unix");
    codec_text(c, m->transfer_tcp, sizeof(m->transfer_tcp), "transfer_tcp");
    codec_text(c, m->host, sizeof(m->host), "host");
    codec_u32(c, &m->has_store, 1, "has_store");
    codec_f64(c, &m->limit_operations_per_s, "limit_operations_per_s");
    codec_f64(c, &m->limit_bytes_per_s, "limit_bytes_per_s");
}
WIRE_MESSAGE(register, wire_register_fields)

void wire_heartbeat_fields(struct codec *c, struct wire_heartbeat *m)
{
    uint64_t *const fields[] = {
        &m->step_count,
        &m->busy,
        &m->blocks_free,
        &m->blocks_cached,
        &m->blocks_referenced,
        &m->blocks_reserved,
        &m->blocks_swapped,
        &m->sequences_running,
        &m->sequences_waiting,
        &m->sequences_preempted,
        &m->prefill_tokens,
        &m->decode_tokens,
        &m->cached_tokens,
        &m->preemptions,
        &m->swap_out_blocks,
        &m->swap_out_bytes,
        &m->swap_in_blocks,
        &m->swap_in_bytes,
        &m->recomputed_tokens,
        &m->prefix_queries,
        &m->prefix_hits,
        &m->operations,
        &m->bytes,
        &m->step_ns,
        &m->handoffs,
        &m->handoff_bytes,
        &m->handoff_ns,
        &m->handoff_exposed_ns,
        &m->checksum_failures,
        &m->leases,
        &m->prefill_ns,
        &m->prefill_prompts,
        &m->prefill_context,
        &m->peer_tokens,
        &m->store_tokens,
        &m->gather_failures,
        &m->lendings,
        &m->lent_blocks,
        &m->others_tokens,
        &m->others_sequences,
        &m->store_up,
        &m->saving_blocks,
        &m->saved_blocks,
        &m->saved_bytes,
        &m->unsaved_blocks,
        &m->save_lag_ns,
    };
    static_assert((sizeof(fields) / sizeof(fields[0]) + WIRE_LAGS) * 8 ==
                      sizeof(struct wire_heartbeat),
                  "every field of a heartbeat travels");
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        codec_u64(c, fields[i]);
    for (size_t i = 0; i < WIRE_LAGS; i++)
        codec_u64(c, &m->save_lags[i]);
}
WIRE_MESSAGE(heartbeat, wire_heartbeat_fields)

static void reserved_fields(struct codec *c, struct wire_reserved *m)
{
    codec_u64(c, &m->request_id);
    codec_i32(c, &m->status);
    codec_u32(c, &m->matched_blocks, WIRE_PROMPT_TOKENS_MAX, "matched_blocks");
    codec_text(c, m->text, sizeof(m->text), "text");
}
WIRE_MESSAGE(reserved, reserved_fields)

static void place_fields(struct codec *c, struct wire_place *m)
{
    codec_u64(c, &m->request_id);
    codec_u32(c, &m->matched_blocks, WIRE_PROMPT_TOKENS_MAX, "matched_blocks");
}
WIRE_MESSAGE(place, place_fields)

static void cancel_fields(struct codec *c, struct wire_cancel *m)
{
    codec_u64(c, &m->request_id);
    codec_u32(c, &m->sequence, UINT32_MAX, "sequence");
}
WIRE_MESSAGE(cancel, cancel_fields)

static void failed_fields(struct codec *c, struct wire_failed *m)
{
    codec_u64(c, &m->request_id);
    codec_i32(c, &m->status);
    codec_text(c, m->text, sizeof(m->text), "text");
}
WIRE_MESSAGE(failed, failed_fields)

static void handed_fields(struct codec *c, struct wire_handed *m)
{
    codec_u64(c, &m->request_id);
    codec_i32(c, &m->status);
    codec_u32(c, &m->carrier, 15, "carrier");
    codec_u64(c, &m->bytes);
    codec_u64(c, &m->total_ns);
    codec_u64(c, &m->exposed_ns);
}
WIRE_MESSAGE(handed, handed_fields)

static void saved_fields(struct codec *c, struct wire_saved *m)
{
    codec_u64(c, &m->request_id);
    codec_i32(c, &m->status);
    codec_u64(c, &m->bytes);
    codec_u64(c, &m->ns);
    codec_text(c, m->text, sizeof(m->text), "text");
}
WIRE_MESSAGE(saved, saved_fields)

uint32_t wire_lag_of(uint64_t ns)
{
    uint32_t at = 0;
    while (at + 1 < WIRE_LAGS && ns > UINT64_C(1000000) << at)
        at++;
    return at;
}

void wire_id_encode(struct wire_frame *frame, uint64_t request_id)
{
    struct codec c = codec_into(frame);
    codec_u64(&c, &request_id);
}

status wire_id_decode(const uint8_t *data, size_t bytes, uint64_t *request_id_out)
{
    struct codec c = codec_from(data, bytes);
    uint64_t request_id = 0;
    codec_u64(&c, &request_id);
    status st = codec_finish(&c, "id", false);
    if (st == OK)
        *request_id_out = request_id;
    return st;
}

void wire_roles_encode(struct wire_frame *frame, uint32_t roles)
{
    struct codec c = codec_into(frame);
    codec_u32(&c, &roles, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE, "roles");
}

status wire_roles_decode(const uint8_t *data, size_t bytes, uint32_t *roles_out)
{
    struct codec c = codec_from(data, bytes);
    uint32_t roles = 0;
    codec_u32(&c, &roles, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE, "roles");
    status st = codec_finish(&c, "roles", false);
    if (st == OK && roles == 0)
        st = error_set(ERR_BAD_INPUT, "message roles: expected at least one role");
    if (st == OK)
        *roles_out = roles;
    return st;
}

static void range_fields(struct codec *c, struct wire_range *m)
{
    codec_u32(c, &m->from, WIRE_FROM_STORE, "from");
    codec_i32(c, &m->status);
    codec_u32(c, &m->carrier, 15, "carrier");
    codec_u32(c, &m->first_block, WIRE_PROMPT_TOKENS_MAX, "first_block");
    codec_u32(c, &m->block_count, WIRE_PROMPT_TOKENS_MAX, "block_count");
    codec_u64(c, &m->holder);
    codec_u64(c, &m->bytes);
    codec_u64(c, &m->ns);
    codec_u64(c, &m->wait_ns);
}

static void first_fields(struct codec *c, struct wire_first *m)
{
    codec_u64(c, &m->request_id);
    codec_u32(c, &m->sequence_count, WIRE_SEQUENCES_MAX, "sequence_count");
    codec_u32(c, &m->prompt_logprob_count, WIRE_PROMPT_TOKENS_MAX, "prompt_logprob_count");
    codec_u32(c, &m->cached_tokens, WIRE_PROMPT_TOKENS_MAX, "cached_tokens");
    codec_u32(c, &m->peer_tokens, WIRE_PROMPT_TOKENS_MAX, "peer_tokens");
    codec_u32(c, &m->store_tokens, WIRE_PROMPT_TOKENS_MAX, "store_tokens");
    codec_u64(c, &m->queue_ns);
    codec_u64(c, &m->place_ns);
    codec_u64(c, &m->gather_ns);
    codec_u64(c, &m->prefill_ns);
    codec_u32(c, &m->range_count, WIRE_RANGES_MAX, "range_count");
    for (uint32_t i = 0; i < m->range_count; i++)
        range_fields(c, &m->ranges[i]);
}

WIRE_MESSAGE_HEAD(first, first_fields)

static void token_fields(struct codec *c, struct wire_token *t)
{
    codec_u64(c, &t->request_id);
    codec_u32(c, &t->sequence, WIRE_SEQUENCES_MAX - 1, "sequence");
    codec_u32(c, &t->index, WIRE_PROMPT_TOKENS_MAX, "index");
    codec_u32(c, &t->token, UINT32_MAX, "token");
    codec_u32(c, &t->finish, WIRE_FINISH_LENGTH, "finish");
    codec_f32(c, &t->logprob, "logprob");
    codec_u32(c, &t->top_count, WIRE_LOGPROBS_MAX, "top_count");
    for (uint32_t i = 0; i < t->top_count; i++) {
        codec_u32(c, &t->top_tokens[i], UINT32_MAX, "top_token");
        codec_f32(c, &t->top_logprobs[i], "top_logprob");
    }
}

void wire_token_encode(struct wire_frame *frame, const struct wire_token *token)
{
    struct codec c = codec_into(frame);
    struct wire_token copy = *token;
    token_fields(&c, &copy);
}

status wire_token_decode(struct reader *from, struct wire_token *token_out)
{
    struct codec c = {.from = *from};
    token_out->top_count = 0;
    token_fields(&c, token_out);
    status st = codec_finish(&c, "token", true);
    if (st == OK)
        *from = c.from;
    return st;
}

static void holder_fields(struct codec *c, struct wire_holder *m)
{
    codec_u64(c, &m->incarnation);
    codec_text(c, m->name, sizeof(m->name), "name");
    codec_text(c, m->transfer_unix, sizeof(m->transfer_unix), "transfer_unix");
    codec_text(c, m->transfer_tcp, sizeof(m->transfer_tcp), "transfer_tcp");
}
WIRE_MESSAGE(holder, holder_fields)

static void source_fields(struct codec *c, struct wire_source *m)
{
    holder_fields(c, &m->holder);
    codec_bytes(c, m->lease.bytes, sizeof(m->lease.bytes));
    codec_u32(c, &m->first_block, WIRE_PROMPT_TOKENS_MAX, "first_block");
    codec_u32(c, &m->block_count, WIRE_PROMPT_TOKENS_MAX, "block_count");
    codec_u32(c, &m->again, 1, "again");
}

/* All of a request but its arrays. */
static void request_fields(struct codec *c, struct wire_request *m)
{
    struct wire_sampling *s = &m->sampling;
    codec_u64(c, &m->request_id);
    codec_bytes(c, m->lease.bytes, sizeof(m->lease.bytes));
    codec_u32(c, &m->epoch, UINT32_MAX, "epoch");
    codec_bytes(c, m->salt, sizeof(m->salt));
    codec_u32(c, &m->flags, 15, "flags");
    codec_u32(c, &m->sequence_count, WIRE_SEQUENCES_MAX, "sequence_count");
    codec_u32(c, &m->first_sequence, 1u << 20, "first_sequence");
    codec_i32(c, &m->priority);
    codec_u32(c, &m->deadline_ms, 24u * 3600 * 1000, "deadline_ms");
    codec_u32(c, &m->prompt_tokens, WIRE_PROMPT_TOKENS_MAX, "prompt_tokens");
    codec_f32(c, &s->temperature, "temperature");
    codec_f32(c, &s->top_p, "top_p");
    codec_f32(c, &s->min_p, "min_p");
    codec_f32(c, &s->repetition_penalty, "repetition_penalty");
    codec_f32(c, &s->frequency_penalty, "frequency_penalty");
    codec_f32(c, &s->presence_penalty, "presence_penalty");
    codec_u32(c, &s->top_k, UINT32_MAX, "top_k");
    codec_u32(c, &s->logprob_count, WIRE_LOGPROBS_MAX, "logprob_count");
    codec_u32(c, &s->min_tokens, WIRE_PROMPT_TOKENS_MAX, "min_tokens");
    codec_u32(c, &s->max_tokens, WIRE_PROMPT_TOKENS_MAX, "max_tokens");
    codec_u64(c, &s->seed);
    codec_u32(c, &s->bias_count, WIRE_BIAS_MAX, "bias_count");
    codec_u32(c, &s->stop_count, WIRE_STOP_IDS_MAX, "stop_count");
    codec_u32(c, &m->source_count, WIRE_SOURCES_MAX, "source_count");
    codec_u32(c, &m->resumed_tokens, WIRE_PROMPT_TOKENS_MAX, "resumed_tokens");
    codec_u32(c, &m->handoff, WIRE_HANDOFF_STORE, "handoff");
    codec_u32(c, &m->saved_blocks, WIRE_PROMPT_TOKENS_MAX, "saved_blocks");
}

static void request_encode(struct codec *c, const struct wire_request *request)
{
    struct wire_request copy = *request;
    request_fields(c, &copy);
    for (uint32_t i = 0; i < copy.sampling.bias_count; i++) {
        struct wire_bias bias = copy.sampling.bias[i];
        codec_u32(c, &bias.token, UINT32_MAX, "bias");
        codec_f32(c, &bias.add, "bias");
    }
    for (uint32_t i = 0; i < copy.sampling.stop_count; i++) {
        uint32_t id = copy.sampling.stop_ids[i];
        codec_u32(c, &id, UINT32_MAX, "stop_id");
    }
    for (uint32_t i = 0; i < copy.prompt_tokens; i++) {
        uint32_t id = copy.prompt[i];
        codec_u32(c, &id, UINT32_MAX, "prompt");
    }
    for (uint32_t i = 0; i < copy.source_count; i++) {
        struct wire_source source = copy.sources[i];
        source_fields(c, &source);
    }
}

/* One piece of memory: the request, then its sources, bias, stop ids and prompt. */
static status request_decode(struct codec *c, struct wire_request **request_out)
{
    struct wire_request head;
    memset(&head, 0, sizeof(head));
    request_fields(c, &head);
    struct wire_sampling *s = &head.sampling;
    if (!c->from.failed &&
        (head.prompt_tokens == 0 || head.sequence_count == 0 || s->max_tokens == 0))
        return error_set(ERR_BAD_INPUT, "message request: prompt, n and max_tokens are at least 1");
    if (!c->from.failed && head.resumed_tokens > 0 &&
        (head.resumed_tokens >= head.prompt_tokens || head.resumed_tokens >= s->max_tokens ||
         head.sequence_count != 1))
        return error_set(ERR_BAD_INPUT,
                         "message request: %u tokens resumed, of a prompt of %u, max_tokens %u and "
                         "n %u; expected fewer than either, and n 1",
                         head.resumed_tokens, head.prompt_tokens, s->max_tokens,
                         head.sequence_count);
    /* The arrays must really be there before memory is taken for them. */
    size_t array_bytes =
        (size_t)s->bias_count * 8 + (size_t)s->stop_count * 4 + (size_t)head.prompt_tokens * 4;
    if (c->from.failed || c->from.left < array_bytes)
        c->from.failed = true;
    status st = codec_finish(c, "request", true);
    if (st != OK)
        return st;
    size_t source_bytes = head.source_count * sizeof(struct wire_source);
    struct wire_request *request = malloc(sizeof(*request) + source_bytes + array_bytes);
    if (request == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a request of %u tokens", head.prompt_tokens);
    *request = head;
    struct wire_source *sources = (struct wire_source *)(request + 1);
    struct wire_bias *bias = (struct wire_bias *)(sources + head.source_count);
    uint32_t *stop_ids = (uint32_t *)(bias + s->bias_count);
    uint32_t *prompt = stop_ids + s->stop_count;
    for (uint32_t i = 0; i < s->bias_count; i++) {
        codec_u32(c, &bias[i].token, UINT32_MAX, "bias");
        codec_f32(c, &bias[i].add, "bias");
    }
    for (uint32_t i = 0; i < s->stop_count; i++)
        codec_u32(c, &stop_ids[i], UINT32_MAX, "stop_id");
    for (uint32_t i = 0; i < head.prompt_tokens; i++)
        codec_u32(c, &prompt[i], UINT32_MAX, "prompt");
    memset(sources, 0, source_bytes);
    for (uint32_t i = 0; i < head.source_count; i++) {
        source_fields(c, &sources[i]);
        if (sources[i].block_count == 0 && !c->from.failed) {
            c->from.failed = true;
            c->wrong = "block_count";
        }
    }
    request->sampling.bias = bias;
    request->sampling.stop_ids = stop_ids;
    request->prompt = prompt;
    request->sources = sources;
    st = codec_finish(c, "request", true);
    if (st != OK) {
        wire_request_free(request);
        return st;
    }
    *request_out = request;
    return OK;
}

void wire_request_free(struct wire_request *request)
{
    free(request);
}

uint32_t wire_request_prompt_tokens(const struct wire_request *request)
{
    return request->prompt_tokens - request->resumed_tokens;
}

uint64_t wire_request_tokens_max(const struct wire_request *request)
{
    return (uint64_t)wire_request_prompt_tokens(request) + request->sampling.max_tokens;
}

enum wire_finish wire_request_finish(const struct wire_request *request, uint32_t token,
                                     uint32_t index)
{
    const struct wire_sampling *s = &request->sampling;
    if (index + 1 > s->min_tokens) {
        for (uint32_t i = 0; i < s->stop_count; i++) {
            if (s->stop_ids[i] == token)
                return WIRE_FINISH_STOP;
        }
    }
    return index + 1 >= s->max_tokens ? WIRE_FINISH_LENGTH : WIRE_FINISH_NONE;
}

void wire_prefill_encode(struct wire_frame *frame, const struct wire_request *request)
{
    struct codec c = codec_into(frame);
    request_encode(&c, request);
}

status wire_prefill_decode(const uint8_t *data, size_t bytes, struct wire_request **request_out)
{
    struct codec c = codec_from(data, bytes);
    struct wire_request *request;
    status st = request_decode(&c, &request);
    if (st != OK)
        return st;
    st = codec_finish(&c, "prefill", false);
    if (st != OK) {
        wire_request_free(request);
        return st;
    }
    *request_out = request;
    return OK;
}

void wire_reserve_encode(struct wire_frame *frame, const struct wire_request *request,
                         const struct wire_holder *holder)
{
    struct codec c = codec_into(frame);
    struct wire_holder copy = *holder;
    holder_fields(&c, &copy);
    request_encode(&c, request);
}

status wire_reserve_decode(const uint8_t *data, size_t bytes, struct wire_request **request_out,
                           struct wire_holder *holder_out)
{
    struct codec c = codec_from(data, bytes);
    struct wire_holder holder;
    struct wire_request *request;
    memset(&holder, 0, sizeof(holder));
    holder_fields(&c, &holder);
    status st = request_decode(&c, &request);
    if (st != OK)
        return st;
    st = codec_finish(&c, "reserve", false);
    if (st != OK) {
        wire_request_free(request);
        return st;
    }
    *holder_out = holder;
    *request_out = request;
    return OK;
}

/* ---- lending, and what can be matched where ---- */

/* count pieces of bytes each, as they lie. Decoding leaves them in the frame. */
static void array_fields(struct codec *c, const uint8_t **array, uint32_t count, size_t bytes)
{
    if (c->frame != NULL) {
        for (uint32_t i = 0; i < count; i++) {
            uint8_t piece[WIRE_EVENT_BYTES];
            memcpy(piece, *array + i * bytes, bytes);
            codec_bytes(c, piece, bytes);
        }
        return;
    }
    *array = c->from.failed ? NULL : read_bytes(&c->from, count * bytes);
}

static void lend_fields(struct codec *c, struct wire_lend *m)
{
    codec_u64(c, &m->request_id);
    codec_bytes(c, m->lease.bytes, sizeof(m->lease.bytes));
    codec_u32(c, &m->epoch, UINT32_MAX, "epoch");
    codec_u32(c, &m->expiry_ms, 3600u * 1000, "expiry_ms");
    codec_u32(c, &m->first_block, WIRE_KEYS_MAX - 1, "first_block");
    codec_u32(c, &m->again, 1, "again");
    codec_u32(c, &m->key_count, WIRE_KEYS_MAX, "key_count");
    array_fields(c, &m->keys, m->key_count, WIRE_KEY_BYTES);
    if (c->frame == NULL && (m->expiry_ms == 0 || m->key_count <= m->first_block)) {
        c->wrong = c->wrong != NULL ? c->wrong : "key_count";
        c->from.failed = true;
    }
}
WIRE_MESSAGE(lend, lend_fields)

static void blocks_fields(struct codec *c, struct wire_blocks *m)
{
    codec_u64(c, &m->number);
    codec_u32(c, &m->flags, WIRE_BLOCKS_ALL, "flags");
    codec_u32(c, &m->event_count, WIRE_EVENTS_MAX, "event_count");
    array_fields(c, &m->events, m->event_count, WIRE_EVENT_BYTES);
    if (c->frame != NULL || m->events == NULL)
        return;
    for (uint32_t i = 0; i < m->event_count; i++) {
        uint8_t kind = m->events[(size_t)i * WIRE_EVENT_BYTES];
        if (kind < WIRE_EVENT_STORED || kind > WIRE_EVENT_SAVED) {
            c->wrong = c->wrong != NULL ? c->wrong : "event";
            c->from.failed = true;
        }
    }
}
WIRE_MESSAGE(blocks, blocks_fields)
