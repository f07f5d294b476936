/* tests/scheduler_rig.h - the schedulers of workers over real engines, without threads or sockets.
 *
 *     model --- station 0: engine, tree, prefill, decode      a worker's compute thread, stepped
 *          \--- station 1: ...                                by hand: station_step()
 *           \-- reference: an engine that runs one sequence at a time, undisturbed
 *
 *     book: what was said about each request, whoever said it
 *
 * A test makes an ask, gives it to a station as the router would, steps, and compares what is in
 * the book with the reference. What moves blocks between stations is the test's: real transfers
 * (transfer_rig.h), or the simulation's.
 */
#ifndef TESTS_SCHEDULER_RIG_H
#define TESTS_SCHEDULER_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "base/error.h"
#include "decode/decode.h"
#include "engine/engine.h"
#include "prefill/prefill.h"
#include "transfer/transfer.h"

#define RIG_PROMPT_MAX 200
#define RIG_OUTPUT_MAX 100
#define RIG_SEQUENCES_MAX 4
#define RIG_ASKS_MAX 256
#define RIG_BLOCK_TOKENS 4

#define ASSERT_OK(call)                                                                            \
    do {                                                                                           \
        status code_ = (call);                                                                     \
        if (code_ != OK)                                                                           \
            fail_msg("%s: %s: %s", #call, status_name(code_), error_text());                       \
    } while (0)

/* ---- requests, and what was said about them ---- */

struct rig_ask {
    uint64_t id;
    uint32_t prompt[RIG_PROMPT_MAX];
    uint32_t prompt_tokens;
    uint32_t resumed_tokens; /* of the prompt: output that is known already */
    uint32_t n;              /* 0: 1 */
    uint32_t first_sequence;
    uint32_t max_tokens, min_tokens;
    int32_t priority;
    uint32_t flags;
    uint32_t stop_ids[4], stop_count;
    uint32_t logprob_count;
    float temperature; /* 0: greedy */
    float frequency_penalty;
    uint64_t seed;
    uint32_t deadline_ms; /* 0: 20 s */
    uint32_t epoch;
    uint32_t handoff; /* enum wire_handoff */
    uint8_t salt;
};

struct rig_tokens {
    uint32_t counts[RIG_SEQUENCES_MAX];
    uint32_t finish[RIG_SEQUENCES_MAX];
    uint32_t tokens[RIG_SEQUENCES_MAX][RIG_OUTPUT_MAX];
};

struct rig_entry {
    uint64_t id;
    uint32_t starting_count, first_count, reserved_count, failed_count, handed_count;
    struct wire_first first;
    struct wire_token first_tokens[RIG_SEQUENCES_MAX];
    struct wire_reserved reserved;
    struct wire_failed failed;
    struct wire_handed handed;
    struct wire_token *prompt_tokens; /* [first.prompt_logprob_count] */
    struct rig_tokens got;            /* counts[i]: tokens 0 .. counts[i] - 1 are all there */
    uint32_t resumed;                 /* index of its first token */
    uint32_t order;                   /* of its first token among all requests */
};

struct rig_book {
    struct rig_entry *entries; /* [RIG_ASKS_MAX] */
    uint32_t count;
    uint32_t firsts;
};

static inline void rig_book_open(struct rig_book *book)
{
    book->entries = calloc(RIG_ASKS_MAX, sizeof(*book->entries));
    assert_non_null(book->entries);
    book->count = book->firsts = 0;
}

static inline void rig_book_clear(struct rig_book *book)
{
    for (uint32_t i = 0; i < book->count; i++)
        free(book->entries[i].prompt_tokens);
    memset(book->entries, 0, RIG_ASKS_MAX * sizeof(*book->entries));
    book->count = book->firsts = 0;
}

static inline void rig_book_close(struct rig_book *book)
{
    rig_book_clear(book);
    free(book->entries);
}

static inline struct rig_entry *rig_entry(struct rig_book *book, uint64_t id)
{
    for (uint32_t i = 0; i < book->count; i++) {
        if (book->entries[i].id == id)
            return &book->entries[i];
    }
    assert_true(book->count < RIG_ASKS_MAX);
    struct rig_entry *entry = &book->entries[book->count++];
    entry->id = id;
    for (uint32_t i = 0; i < RIG_SEQUENCES_MAX; i++) {
        for (uint32_t k = 0; k < RIG_OUTPUT_MAX; k++)
            entry->got.tokens[i][k] = UINT32_MAX;
    }
    return entry;
}

/* A token comes once; after the last one of a sequence none comes. */
static inline void rig_take_token(struct rig_book *book, const struct wire_token *token)
{
    struct rig_entry *entry = rig_entry(book, token->request_id);
    assert_true(token->sequence < RIG_SEQUENCES_MAX && token->index < RIG_OUTPUT_MAX);
    uint32_t *tokens = entry->got.tokens[token->sequence];
    uint32_t *count = &entry->got.counts[token->sequence];
    assert_int_equal(tokens[token->index], UINT32_MAX);
    tokens[token->index] = token->token;
    while (*count < RIG_OUTPUT_MAX && tokens[*count] != UINT32_MAX)
        (*count)++;
    if (token->finish != WIRE_FINISH_NONE) {
        assert_int_equal(entry->got.finish[token->sequence], WIRE_FINISH_NONE);
        entry->got.finish[token->sequence] = token->finish;
    }
}

static inline bool rig_finished(struct rig_book *book, const struct rig_ask *ask)
{
    const struct rig_entry *entry = rig_entry(book, ask->id);
    if (entry->failed_count > 0)
        return true;
    for (uint32_t i = 0; i < (ask->n > 0 ? ask->n : 1); i++) {
        if (entry->got.finish[i] == WIRE_FINISH_NONE || entry->got.counts[i] == 0)
            return false;
        /* The first token comes from another worker: it may be the last to be heard. */
        for (uint32_t k = entry->got.counts[i]; k < RIG_OUTPUT_MAX; k++) {
            if (entry->got.tokens[i][k] != UINT32_MAX)
                return false;
        }
    }
    return true;
}

/* ---- a worker ---- */

enum rig_said { RIG_STARTING, RIG_FIRST, RIG_FAILED, RIG_HANDED, RIG_RESERVED, RIG_TOKENS };

struct station {
    char name[16];
    struct rig_book *book;
    struct engine *engine;
    struct prefix_tree *tree;
    uint32_t block_count;
    struct transfer *transfer; /* not closed by station_close */
    struct prefill *prefill;
    struct decode *decode;
    struct engine_sequence *sequences;
    uint32_t chunk_tokens, decode_batch;
    uint32_t swap_slots;
    uint32_t decoded, prefilled; /* sequences of the last step, of either half */
    uint32_t rows;               /* of the last step */
    uint64_t steps;
    status fail_next;    /* the next step fails so */
    uint32_t spoil_next; /* this sequence of the next step (1: the first) is ERR_CORRUPT */
    /* Called for everything that is said, after it was entered into the book. May be NULL. */
    void (*heard)(void *ctx, struct station *station, enum rig_said said, uint64_t request_id,
                  const void *message);
    /* As prefill's calls; without fetch there is no store. */
    void (*sealed)(void *ctx, uint64_t owner, const struct block_key *key,
                   const struct block_key *parent, block_id id);
    status (*fetch)(void *ctx, uint64_t ticket, const struct block_key *keys, const block_id *ids,
                    uint32_t count, uint32_t deadline_ms);
    void (*fetch_cancel)(void *ctx, uint64_t ticket);
    void (*save)(void *ctx, uint64_t request_id, const struct block_key *keys, const block_id *ids,
                 uint32_t block_count, bool partial);
    void *ctx;
};

struct station_config {
    const char *name;
    uint32_t block_count;    /* of the pool; 0: 256 */
    uint32_t batch_tokens;   /* 0: 64 */
    uint32_t chunk_tokens;   /* 0: 16 */
    uint32_t decode_batch;   /* 0: 8 */
    uint32_t context_tokens; /* 0: 256 */
    uint32_t outputs_max;    /* 0: decode_batch + chunk_tokens */
    uint32_t swap_slots;     /* 0: none */
    bool no_prefix_cache;
    struct transfer *transfer;
};

static inline void station_say(struct station *station, enum rig_said said, uint64_t request_id,
                               const void *message)
{
    if (station->heard != NULL)
        station->heard(station->ctx, station, said, request_id, message);
}

static inline void station_starting(void *ctx, uint64_t request_id)
{
    struct station *station = ctx;
    rig_entry(station->book, request_id)->starting_count++;
    station_say(station, RIG_STARTING, request_id, NULL);
}

static inline void station_first(void *ctx, const struct wire_first *first,
                                 const struct wire_token *tokens,
                                 const struct wire_token *prompt_tokens)
{
    struct station *station = ctx;
    struct rig_entry *entry = rig_entry(station->book, first->request_id);
    entry->first = *first;
    entry->first_count++;
    entry->order = station->book->firsts++;
    for (uint32_t i = 0; i < first->sequence_count; i++) {
        assert_int_equal(tokens[i].index, entry->resumed);
        assert_int_equal(tokens[i].sequence, i);
        entry->first_tokens[i] = tokens[i];
        rig_take_token(station->book, &tokens[i]);
    }
    if (first->prompt_logprob_count > 0) {
        entry->prompt_tokens = calloc(first->prompt_logprob_count, sizeof(*prompt_tokens));
        assert_non_null(entry->prompt_tokens);
        memcpy(entry->prompt_tokens, prompt_tokens,
               first->prompt_logprob_count * sizeof(*prompt_tokens));
    }
    station_say(station, RIG_FIRST, first->request_id, first);
}

static inline void station_failed(void *ctx, uint64_t request_id, status code, const char *text)
{
    struct station *station = ctx;
    struct rig_entry *entry = rig_entry(station->book, request_id);
    entry->failed = (struct wire_failed){.request_id = request_id, .status = code};
    snprintf(entry->failed.text, sizeof(entry->failed.text), "%s", text);
    entry->failed_count++;
    assert_true(code != OK && text[0] != '\0'); /* a named error */
    station_say(station, RIG_FAILED, request_id, &entry->failed);
}

static inline void station_handed(void *ctx, const struct wire_handed *handed)
{
    struct station *station = ctx;
    struct rig_entry *entry = rig_entry(station->book, handed->request_id);
    entry->handed = *handed;
    entry->handed_count++;
    station_say(station, RIG_HANDED, handed->request_id, handed);
}

static inline void station_reserved(void *ctx, const struct wire_reserved *reserved)
{
    struct station *station = ctx;
    struct rig_entry *entry = rig_entry(station->book, reserved->request_id);
    entry->reserved = *reserved;
    entry->reserved_count++;
    assert_true(reserved->status == OK || reserved->text[0] != '\0');
    station_say(station, RIG_RESERVED, reserved->request_id, reserved);
}

static inline void station_tokens(void *ctx, const struct wire_token *tokens, uint32_t count)
{
    struct station *station = ctx;
    for (uint32_t i = 0; i < count; i++) {
        rig_take_token(station->book, &tokens[i]);
        station_say(station, RIG_TOKENS, tokens[i].request_id, &tokens[i]);
    }
}

static inline void station_local(void *ctx, struct wire_request *request,
                                 const struct sampling *sampling, const block_id *ids,
                                 uint32_t block_count, const struct wire_token *firsts)
{
    struct station *station = ctx;
    decode_adopt(station->decode, request, sampling, ids, block_count, firsts);
}

static inline bool station_local_take(void *ctx, uint32_t sequence_count)
{
    struct station *station = ctx;
    return decode_expect(station->decode, sequence_count);
}

static inline void station_local_drop(void *ctx, uint32_t sequence_count)
{
    struct station *station = ctx;
    decode_expect_none(station->decode, sequence_count);
}

static inline void station_sealed_prompt(void *ctx, uint64_t owner, const struct block_key *key,
                                         const struct block_key *parent, block_id id)
{
    struct station *station = ctx;
    if (station->sealed != NULL)
        station->sealed(station->ctx, owner, key, parent, id);
}

static inline void station_sealed_output(void *ctx, const struct block_key *key,
                                         const struct block_key *parent, block_id id)
{
    station_sealed_prompt(ctx, 0, key, parent, id);
}

static inline status station_fetch(void *ctx, uint64_t ticket, const struct block_key *keys,
                                   const block_id *ids, uint32_t count, uint32_t deadline_ms)
{
    struct station *station = ctx;
    if (station->fetch == NULL)
        return ERR_CLOSED;
    return station->fetch(station->ctx, ticket, keys, ids, count, deadline_ms);
}

static inline void station_fetch_cancel(void *ctx, uint64_t ticket)
{
    struct station *station = ctx;
    station->fetch_cancel(station->ctx, ticket);
}

static inline void station_save(void *ctx, uint64_t request_id, const struct block_key *keys,
                                const block_id *ids, uint32_t block_count, bool partial)
{
    struct station *station = ctx;
    station->save(station->ctx, request_id, keys, ids, block_count, partial);
}

static inline uint32_t rig_or(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static inline void rig_engine_open(const struct model *model, const struct engine_config *config,
                                   uint32_t block_count, uint32_t swap_slots,
                                   struct engine **engine_out)
{
    struct engine_plan plan;
    struct backend *backend;
    struct engine_config sized = *config;
    sized.block_tokens = RIG_BLOCK_TOKENS;
    sized.kv_bytes = UINT64_C(1) << 24;
    ASSERT_OK(engine_plan(model, &sized, &plan));
    size_t block_bytes = plan.layout->block_bytes;
    engine_plan_close(&plan);
    sized.kv_bytes = (uint64_t)block_count * block_bytes;
    sized.swap_bytes = (uint64_t)swap_slots * block_bytes;
    ASSERT_OK(engine_plan(model, &sized, &plan));
    assert_int_equal(plan.block_count, block_count);
    assert_int_equal(plan.swap_slots, swap_slots);
    const struct backend_cpu_options cpu = {.threads = 1, .kernels = "float"};
    ASSERT_OK(backend_cpu_open(&plan.shape, &plan.limits, &cpu, &backend));
    ASSERT_OK(engine_open(model, &plan, backend, engine_out));
}

/* Engine, tree and sequences; the schedulers come with station_start, when the transfer is there.
 */
static inline void station_open(struct station *station, const struct model *model,
                                struct rig_book *book, const struct station_config *config)
{
    memset(station, 0, sizeof(*station));
    snprintf(station->name, sizeof(station->name), "%s", config->name ? config->name : "station");
    station->book = book;
    station->block_count = rig_or(config->block_count, 256);
    station->chunk_tokens = rig_or(config->chunk_tokens, 16);
    station->decode_batch = rig_or(config->decode_batch, 8);
    const struct engine_config engine = {
        .context_tokens = rig_or(config->context_tokens, 256),
        .rows_max = 2 * station->chunk_tokens + station->decode_batch,
        .sequences_max = station->decode_batch + 16,
        .outputs_max = rig_or(config->outputs_max, station->decode_batch + station->chunk_tokens),
    };
    rig_engine_open(model, &engine, station->block_count, config->swap_slots, &station->engine);
    ASSERT_OK(prefix_tree_open(station->block_count, UINT32_MAX, &station->tree));
    station->sequences = calloc(engine.sequences_max, sizeof(*station->sequences));
    assert_non_null(station->sequences);
}

static inline void station_start(struct station *station, const struct model *model,
                                 const struct station_config *config, struct transfer *transfer)
{
    static const struct prefill_calls prefill_calls = {
        .starting = station_starting,
        .first = station_first,
        .failed = station_failed,
        .handed = station_handed,
        .local = station_local,
        .local_take = station_local_take,
        .local_drop = station_local_drop,
        .sealed = station_sealed_prompt,
        .fetch = station_fetch,
        .fetch_cancel = station_fetch_cancel,
        .save = station_save,
    };
    static const struct decode_calls decode_calls = {
        .reserved = station_reserved,
        .tokens = station_tokens,
        .failed = station_failed,
        .sealed = station_sealed_output,
    };
    struct prefill_options prefill = {.batch_tokens = rig_or(config->batch_tokens, 64),
                                      .chunk_tokens = station->chunk_tokens,
                                      .local_sequences_max = station->decode_batch,
                                      .split_bytes = 1,
                                      .prefix_cache = !config->no_prefix_cache};
    struct decode_options decode = {.batch_sequences = station->decode_batch,
                                    .chunk_tokens = station->chunk_tokens,
                                    .swap_slots = config->swap_slots,
                                    .prefix_cache = !config->no_prefix_cache};
    station->swap_slots = config->swap_slots;
    memcpy(prefill.fingerprint, model->fingerprint, sizeof(prefill.fingerprint));
    memcpy(decode.fingerprint, model->fingerprint, sizeof(decode.fingerprint));
    station->transfer = transfer;
    ASSERT_OK(prefill_open(&prefill, station->engine, station->tree, transfer, &prefill_calls,
                           station, &station->prefill));
    ASSERT_OK(decode_open(&decode, station->engine, station->tree, transfer, &decode_calls, station,
                          &station->decode));
}

/* Nothing is referenced, nothing is lost. */
static inline void station_assert_idle(const struct station *station)
{
    struct prefix_tree_counts counts;
    struct decode_counters decode;
    prefix_tree_count(station->tree, &counts);
    decode_count(station->decode, &decode);
    assert_int_equal(decode.swapped_blocks, 0);
    assert_true(prefill_idle(station->prefill));
    assert_true(decode_idle(station->decode));
    assert_int_equal(counts.referenced, 0);
    assert_int_equal(counts.free + counts.cached, station->block_count);
}

static inline void station_close(struct station *station)
{
    station_assert_idle(station);
    prefill_close(station->prefill);
    decode_close(station->decode);
    free(station->sequences);
    engine_close(station->engine);
    prefix_tree_close(station->tree);
}

static inline void station_layer_ready(void *ctx, uint32_t layer)
{
    struct station *station = ctx;
    prefill_layer_ready(station->prefill, layer);
}

/* One step, as the compute thread does it; false: there was nothing to do. */
static inline bool station_step(struct station *station)
{
    const struct backend_limits *limits = engine_limits(station->engine);
    station->decoded = decode_plan(station->decode, limits->rows_max - station->chunk_tokens,
                                   station->decode_batch, station->sequences);
    uint32_t outputs = 0;
    for (uint32_t i = 0; i < station->decoded; i++)
        outputs += engine_outputs_of(&station->sequences[i]);
    station->prefilled = prefill_plan(
        station->prefill, station->chunk_tokens, limits->sequences_max - station->decoded,
        limits->outputs_max - outputs, station->sequences + station->decoded);
    uint32_t count = station->decoded + station->prefilled;
    station->rows = 0;
    for (uint32_t i = 0; i < count; i++)
        station->rows += station->sequences[i].token_count;
    if (count == 0)
        return false;
    status st = station->fail_next;
    station->fail_next = OK;
    if (st != OK) {
        error_set(st, "the step was made to fail");
        for (uint32_t i = 0; i < count; i++)
            station->sequences[i].outcome = st;
    } else {
        st = engine_step(station->engine, station->sequences, count, station_layer_ready, station);
        if (st != OK)
            fail_msg("engine_step: %s", error_text());
    }
    if (station->spoil_next > 0) {
        st = error_set(ERR_CORRUPT, "the logits were made to be no numbers");
        station->sequences[station->spoil_next - 1].outcome = st;
        station->spoil_next = 0;
    }
    char failure[ERROR_TEXT_BYTES];
    snprintf(failure, sizeof(failure), "%s", error_text());
    decode_stepped(station->decode, st != OK ? failure : NULL);
    prefill_stepped(station->prefill, st != OK ? failure : NULL);
    station->steps++;
    return true;
}

/* ---- asks as the wire's requests ---- */

/* A lease for each ask and epoch. */
static inline struct lease_id rig_lease(const struct rig_ask *ask)
{
    struct lease_id lease = {{0}};
    store_u64(lease.bytes, ask->id);
    store_u32(lease.bytes + 8, ask->epoch);
    return lease;
}

static inline struct wire_request *rig_wire(const struct rig_ask *ask)
{
    struct wire_frame frame = {0};
    struct wire_request *made, request = {
                                   .request_id = ask->id,
                                   .lease = rig_lease(ask),
                                   .epoch = ask->epoch,
                                   .salt = {ask->salt},
                                   .flags = ask->flags,
                                   .sequence_count = rig_or(ask->n, 1),
                                   .first_sequence = ask->first_sequence,
                                   .priority = ask->priority,
                                   .deadline_ms = rig_or(ask->deadline_ms, 20000),
                                   .prompt_tokens = ask->prompt_tokens,
                                   .resumed_tokens = ask->resumed_tokens,
                                   .prompt = ask->prompt,
                                   .handoff = ask->handoff,
                                   .sampling = {.temperature = ask->temperature,
                                                .top_p = 1,
                                                .repetition_penalty = 1,
                                                .frequency_penalty = ask->frequency_penalty,
                                                .logprob_count = ask->logprob_count,
                                                .min_tokens = ask->min_tokens,
                                                .max_tokens = ask->max_tokens,
                                                .seed = ask->seed,
                                                .stop_count = ask->stop_count,
                                                .stop_ids = ask->stop_ids},
                               };
    wire_prefill_encode(&frame, &request);
    ASSERT_OK(wire_prefill_decode(frame.data, frame.bytes, &made));
    wire_frame_close(&frame);
    return made;
}

static inline struct sampling rig_sampling(const struct rig_ask *ask)
{
    struct sampling sampling;
    sampling_defaults(&sampling);
    sampling.temperature = ask->temperature;
    sampling.seed = ask->seed;
    sampling.frequency_penalty = ask->frequency_penalty;
    sampling.logprobs = (ask->flags & WIRE_REQUEST_LOGPROBS) != 0;
    sampling.top_logprobs = ask->logprob_count;
    sampling.min_tokens = ask->min_tokens;
    sampling.end_id_count = ask->stop_count;
    memcpy(sampling.end_ids, ask->stop_ids, ask->stop_count * sizeof(*ask->stop_ids));
    return sampling;
}

static inline void station_submit(struct station *station, const struct rig_ask *ask)
{
    struct sampling sampling = rig_sampling(ask);
    prefill_submit(station->prefill, rig_wire(ask), &sampling);
}

/* ---- the reference: one sequence at a time, one step for the prompt, no cache, no company ---- */

struct rig_reference {
    struct engine *engine;
    struct prefix_tree *tree;
};

static inline void rig_reference_open(struct rig_reference *reference, const struct model *model)
{
    const struct engine_config config = {
        .context_tokens = 512, .rows_max = 256, .sequences_max = 1};
    rig_engine_open(model, &config, 512 / RIG_BLOCK_TOKENS, 0, &reference->engine);
    ASSERT_OK(prefix_tree_open(512 / RIG_BLOCK_TOKENS, 0, &reference->tree));
}

static inline void rig_reference_close(struct rig_reference *reference)
{
    engine_close(reference->engine);
    prefix_tree_close(reference->tree);
}

static inline void rig_reference_run(struct rig_reference *reference, const struct rig_ask *ask,
                                     struct rig_tokens *out)
{
    memset(out, 0, sizeof(*out));
    struct sampling sampling = rig_sampling(ask);
    struct wire_request *wire = rig_wire(ask);
    for (uint32_t i = 0; i < wire->sequence_count; i++) {
        block_id ids[512 / RIG_BLOCK_TOKENS];
        struct block_table table;
        struct block_copy copy;
        block_table_open(&table, ids, 512 / RIG_BLOCK_TOKENS, RIG_BLOCK_TOKENS);
        uint32_t count = 0, tokens = ask->prompt_tokens;
        const uint32_t *next = ask->prompt;
        while (out->finish[i] == WIRE_FINISH_NONE) {
            struct engine_sample sample = {.sampling = &sampling,
                                           .prompt_ids = ask->prompt,
                                           .prompt_count = ask->prompt_tokens,
                                           .output_ids = out->tokens[i],
                                           .output_count = count,
                                           .sequence_index = ask->first_sequence + i};
            ASSERT_OK(block_table_reserve(&table, reference->tree, tokens, &copy));
            struct engine_sequence sequence = {.token_ids = next,
                                               .token_count = tokens,
                                               .start_position = table.token_count,
                                               .table = &table,
                                               .sample_count = 1,
                                               .samples = &sample};
            ASSERT_OK(engine_step(reference->engine, &sequence, 1, NULL, NULL));
            block_table_advance(&table, tokens);
            assert_true(count < RIG_OUTPUT_MAX);
            out->tokens[i][count] = sample.result.token_id;
            out->finish[i] = (uint32_t)wire_request_finish(wire, sample.result.token_id, count);
            next = &out->tokens[i][count++];
            tokens = 1;
        }
        out->counts[i] = count;
        block_table_drop(&table, reference->tree);
    }
    wire_request_free(wire);
}

/* What the book has for the ask is what the reference says. */
static inline void rig_assert_tokens(struct rig_reference *reference, struct rig_book *book,
                                     const struct rig_ask *ask)
{
    struct rig_tokens *expected = malloc(sizeof(*expected));
    const struct rig_entry *entry = rig_entry(book, ask->id);
    assert_non_null(expected);
    if (entry->failed_count > 0)
        fail_msg("request %llu failed: %s", (unsigned long long)ask->id, entry->failed.text);
    rig_reference_run(reference, ask, expected);
    for (uint32_t i = 0; i < rig_or(ask->n, 1); i++) {
        assert_int_equal(entry->got.counts[i], expected->counts[i]);
        assert_int_equal(entry->got.finish[i], expected->finish[i]);
        for (uint32_t k = 0; k < expected->counts[i]; k++) {
            if (entry->got.tokens[i][k] != expected->tokens[i][k])
                fail_msg("request %llu, sequence %u: token %u is %u, expected %u",
                         (unsigned long long)ask->id, i, k, entry->got.tokens[i][k],
                         expected->tokens[i][k]);
        }
    }
    free(expected);
}

/* The ask as one that goes on after so many tokens of a whole answer, which the book then has. */
static inline struct rig_ask rig_resume(struct rig_book *book, const struct rig_ask *ask,
                                        const uint32_t *answer, uint32_t sequence, uint32_t resumed)
{
    struct rig_ask again = *ask;
    struct rig_entry *entry = rig_entry(book, ask->id);
    assert_true(ask->prompt_tokens + resumed <= RIG_PROMPT_MAX);
    again.n = 1;
    again.first_sequence = ask->first_sequence + sequence;
    again.resumed_tokens = entry->resumed = entry->got.counts[0] = resumed;
    for (uint32_t i = 0; i < resumed; i++)
        again.prompt[again.prompt_tokens++] = entry->got.tokens[0][i] = answer[i];
    return again;
}

/* ---- random numbers that print their seed ---- */

struct rig_random {
    uint64_t state;
};

static inline uint32_t rig_below(struct rig_random *random, uint32_t limit)
{
    random->state = random->state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = random->state ^ (random->state >> 29);
    return (uint32_t)((x * 0x9e3779b97f4a7c15u >> 32) % limit);
}

/* A prompt of made-up tokens: those of family begin alike. */
static inline void rig_fill_prompt(struct rig_ask *ask, uint32_t tokens, uint32_t family,
                                   uint32_t alike)
{
    struct rig_random random = {family};
    assert_true(tokens <= RIG_PROMPT_MAX);
    ask->prompt_tokens = tokens;
    for (uint32_t i = 0; i < tokens; i++) {
        if (i == alike)
            random.state += ask->id * 7919;
        ask->prompt[i] = 3 + rig_below(&random, 290);
    }
}

#endif
