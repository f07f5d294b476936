/* A request asks for room: its own prefix is matched, blocks are taken, the rest is fetched. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/error.h"
#include "decode/request.h"
#include "transfer/transfer.h"

void decode_requests_push(struct decode_requests *list, struct decode_request *request)
{
    request->next = NULL;
    *list->tail = request;
    list->tail = &request->next;
    list->count++;
}

/* Before those of a larger priority number, after all others. */
static void decode_requests_insert(struct decode_requests *list, struct decode_request *request)
{
    struct decode_request **at = &list->head;
    while (*at != NULL && (*at)->wire->priority <= request->wire->priority)
        at = &(*at)->next;
    request->next = *at;
    if (*at == NULL)
        list->tail = &request->next;
    *at = request;
    list->count++;
}

void decode_requests_remove(struct decode_requests *list, struct decode_request *request)
{
    struct decode_request **at = &list->head;
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

void decode_request_close(struct decode *decode, struct decode_request *request)
{
    prefix_tree_drop(decode->tree, request->ids, request->block_count);
    if (request->sequences != NULL) {
        for (uint32_t i = 0; i < request->wire->sequence_count; i++) {
            free(request->sequences[i].tokens);
            free(request->sequences[i].ids);
            free(request->sequences[i].keys);
            free(request->sequences[i].slots);
        }
    }
    free(request->sequences);
    free(request->keys);
    free(request->ids);
    wire_request_free(request->wire);
    free(request);
}

status decode_request_open(struct decode *decode, struct wire_request *wire,
                           const struct sampling *sampling, struct decode_request **request_out)
{
    uint32_t blocks = kv_blocks_for(wire->prompt_tokens, decode->block_tokens);
    if (wire_request_tokens_max(wire) > (uint64_t)engine_context_tokens(decode->engine) + 1)
        return error_set(ERR_BAD_INPUT,
                         "a prompt of %u tokens and an answer of %u do not fit into the %u tokens "
                         "of a sequence here",
                         wire_request_prompt_tokens(wire), wire->sampling.max_tokens,
                         engine_context_tokens(decode->engine));
    if (wire->sequence_count > decode->options.batch_sequences)
        return error_set(ERR_BAD_INPUT,
                         "n is %u, this worker decodes at most %u sequences at once "
                         "(--decode-batch)",
                         wire->sequence_count, decode->options.batch_sequences);
    struct decode_request *request = calloc(1, sizeof(*request));
    if (request == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a request");
    request->ids = calloc(blocks, sizeof(*request->ids));
    request->keys = calloc(blocks, sizeof(*request->keys));
    if (request->ids == NULL || request->keys == NULL) {
        decode_request_close(decode, request);
        return error_set(ERR_NO_MEMORY, "no memory for a request of %u tokens",
                         wire->prompt_tokens);
    }
    request->wire = wire;
    request->sampling = *sampling;
    const struct kv_layout *layout = engine_layout(decode->engine);
    request->root =
        block_key_root(decode->options.fingerprint, layout->hash, layout->shape.dtype,
                       engine_numerics_class(decode->engine), wire->salt, sizeof(wire->salt));
    request->key_count = block_key_chain(&request->root, wire->prompt, wire->prompt_tokens,
                                         decode->block_tokens, request->keys);
    *request_out = request;
    return OK;
}

static void decode_answer(struct decode *decode, uint64_t request_id, status code,
                          uint32_t matched_blocks, const char *text)
{
    struct wire_reserved reserved = {
        .request_id = request_id, .status = code, .matched_blocks = matched_blocks};
    strncpy(reserved.text, text, sizeof(reserved.text) - 1);
    decode->calls->reserved(decode->ctx, &reserved);
}

void decode_reserve(struct decode *decode, struct wire_request *wire,
                    const struct wire_holder *holder, const struct sampling *sampling)
{
    struct decode_request *request = NULL;
    status st = decode_request_open(decode, wire, sampling, &request);
    if (st != OK) {
        decode_answer(decode, wire->request_id, st, 0, error_text());
        wire_request_free(wire);
        return;
    }
    request->holder = *holder;
    decode_requests_insert(&decode->waiting, request);
    decode_grant(decode);
}

/* By the count of sequences. */
static bool decode_has_room(const struct decode *decode, uint32_t sequence_count)
{
    uint32_t taken = decode->running.count + decode->preempted.count + decode->receiving_sequences +
                     decode->expected_sequences;
    return taken + sequence_count <= decode->options.batch_sequences;
}

bool decode_expect(struct decode *decode, uint32_t sequence_count)
{
    /* Those that were preempted had room before: they come first. */
    if (decode->preempted.count > 0 || !decode_has_room(decode, sequence_count))
        return false;
    decode->expected_sequences += sequence_count;
    return true;
}

void decode_expect_none(struct decode *decode, uint32_t sequence_count)
{
    assert(sequence_count <= decode->expected_sequences);
    decode->expected_sequences -= sequence_count;
}

/* Matched and taken blocks for the whole prompt. ERR_FULL: not now. */
static status decode_take_blocks(struct decode *decode, struct decode_request *request)
{
    const struct wire_request *wire = request->wire;
    uint32_t blocks = kv_blocks_for(wire->prompt_tokens, decode->block_tokens);
    uint32_t matched = 0;
    bool looks = decode_shares(decode, request);
    /* The last block is always fetched, because a receive is of one block at least. */
    uint32_t most = request->key_count < blocks ? request->key_count : blocks - 1;
    if (looks)
        matched = prefix_tree_match(decode->tree, request->keys, most, request->ids);
    uint32_t others = decode->running.count + decode->preempted.count + decode->receiving_sequences;
    if (!pressure_admits(prefix_tree_available(decode->tree), blocks - matched, others,
                         wire->sequence_count) ||
        prefix_tree_take(decode->tree, blocks - matched, request->ids + matched) != OK) {
        prefix_tree_drop(decode->tree, request->ids, matched);
        return ERR_FULL;
    }
    request->block_count = blocks;
    request->matched_blocks = matched;
    if (looks) {
        decode->counters.prefix_queries += wire->prompt_tokens;
        decode->counters.prefix_hits += (uint64_t)matched * decode->block_tokens;
    }
    return OK;
}

static status decode_receive(struct decode *decode, struct decode_request *request)
{
    const struct wire_holder *holder = &request->holder;
    struct address local, remote;
    struct transfer_wish wish = {
        .lease = request->wire->lease,
        .request_id = request->wire->request_id,
        .epoch = request->wire->epoch,
        .source.incarnation = holder->incarnation,
        .first_index = request->matched_blocks,
        .block_ids = request->ids + request->matched_blocks,
        .block_count = request->block_count - request->matched_blocks,
        .deadline_ms = request->wire->deadline_ms,
    };
    if (holder->transfer_unix[0] != '\0') {
        if (address_parse_numeric(holder->transfer_unix, &local) != OK)
            return error_prefix(ERR_BAD_INPUT, "holder %s", holder->name);
        wish.source.local = &local;
    }
    if (holder->transfer_tcp[0] != '\0') {
        if (address_parse_numeric(holder->transfer_tcp, &remote) != OK)
            return error_prefix(ERR_BAD_INPUT, "holder %s", holder->name);
        wish.source.remote = &remote;
    }
    return transfer_receive(decode->transfer, &wish);
}

void decode_grant(struct decode *decode)
{
    while (decode->waiting.head != NULL) {
        struct decode_request *request = decode->waiting.head;
        /* Those that were preempted had room before: they come first. */
        if (decode->preempted.count > 0 ||
            !decode_has_room(decode, request->wire->sequence_count) ||
            decode_take_blocks(decode, request) != OK)
            return;
        decode_requests_remove(&decode->waiting, request);
        status st = decode_receive(decode, request);
        if (st == ERR_BAD_INPUT)
            st = ERR_REFUSED; /* The deployment's fault, not the request's. */
        if (st != OK) {
            decode_answer(decode, request->wire->request_id, st, 0, error_text());
            decode_request_close(decode, request);
            continue;
        }
        decode->receiving_sequences += request->wire->sequence_count;
        decode_requests_push(&decode->receiving, request);
        decode_answer(decode, request->wire->request_id, OK, request->matched_blocks, "");
    }
}

/* The firsts that travelled with the handoff: n tokens, in order. */
static status decode_read_firsts(const struct decode_request *request, uint32_t vocabulary,
                                 const struct transfer_report *report, struct wire_token *firsts)
{
    struct reader from = reader_over(report->payload, report->payload_bytes);
    for (uint32_t i = 0; i < request->wire->sequence_count; i++) {
        status st = wire_token_decode(&from, &firsts[i]);
        if (st != OK)
            return st;
        if (firsts[i].sequence != i)
            return error_set(ERR_BAD_INPUT, "handoff: first token %u is of sequence %u", i,
                             firsts[i].sequence);
        if (firsts[i].token >= vocabulary)
            return error_set(ERR_BAD_INPUT, "handoff: first token %u is %u, expected less than %u",
                             i, firsts[i].token, vocabulary);
    }
    return OK;
}

bool decode_received(struct decode *decode, const struct transfer_report *report)
{
    struct decode_request *request = decode->receiving.head;
    while (request != NULL && !lease_id_equal(&request->wire->lease, &report->lease))
        request = request->next;
    if (request == NULL)
        return false;
    uint64_t request_id = request->wire->request_id;
    struct wire_token firsts[WIRE_SEQUENCES_MAX];
    decode_requests_remove(&decode->receiving, request);
    decode->receiving_sequences -= request->wire->sequence_count;
    status st = report->status;
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof(text), "handoff from %s: %s", request->holder.name, report->text);
    if (request->retired) {
        decode_request_close(decode, request);
        decode_grant(decode);
        return true;
    }
    if (report->mail.kind == TRANSFER_RECEIVED) {
        st = report->block_count == request->block_count - request->matched_blocks
                 ? decode_read_firsts(request, engine_vocabulary(decode->engine), report, firsts)
                 : error_set(ERR_BAD_INPUT, "handoff: %u blocks came, %u were expected",
                             report->block_count, request->block_count - request->matched_blocks);
        if (st == OK)
            st = decode_admit(decode, request, firsts);
        snprintf(text, sizeof(text), "%s", error_text());
    }
    if (st != OK) {
        decode->calls->failed(decode->ctx, request_id, st, text);
        decode_request_close(decode, request);
    }
    decode_grant(decode);
    return true;
}
