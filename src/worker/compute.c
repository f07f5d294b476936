#include "worker/compute.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "model/weights.h"
#include "store/store.h"
#include "transfer/transfer.h"
#include "worker/blocks.h"
#include "worker/lend.h"
#include "worker/mail.h"
#include "worker/save.h"

#define STATS_INTERVAL_NS 100000000u
#define STOP_SAVE_NS UINT64_C(1000000000) /* what is on its way to the store may still arrive */

struct compute {
    struct compute_setup setup;
    struct prefill *prefill;
    struct decode *decode;
    struct lend *lend;
    struct blocks *blocks;
    struct save *save;
    struct engine_sequence *sequences; /* [limits.sequences_max] of the next step */
    uint64_t step_count;
    uint64_t step_ns;
    uint64_t stats_ns; /* when the last stats went out */
    uint64_t handoffs, handoff_bytes, handoff_ns, handoff_exposed_ns;
    bool stopping;
    uint64_t stop_save_ns; /* stopping: what is not saved by then is given up */
    uint64_t renewing;     /* the incarnation to be, once everything is cancelled; 0: none */
};

struct worker_mail *worker_mail_new(enum worker_mail_kind kind)
{
    struct worker_mail *mail = calloc(1, sizeof(*mail));
    if (mail != NULL)
        mail->mail.kind = kind;
    return mail;
}

void worker_mail_free(struct worker_mail *mail)
{
    wire_request_free(mail->request);
    free(mail->keys);
    wire_frame_close(&mail->frame);
    free(mail);
}

/* A frame for a router. Without memory for it the process has no way to keep its word: it ends,
 * and the router sees that. */
static struct worker_mail *compute_frame(uint16_t type, uint32_t router)
{
    struct worker_mail *mail = worker_mail_new(WORKER_FRAME);
    assert(mail != NULL);
    mail->type = type;
    mail->router = router;
    return mail;
}

static void compute_send(struct compute *compute, struct worker_mail *mail)
{
    assert(!mail->frame.failed);
    mailbox_post(compute->setup.out, &mail->mail);
}

static void compute_starting(void *ctx, uint64_t request_id)
{
    struct worker_mail *mail = compute_frame(WIRE_STARTING, WIRE_ROUTER_OF(request_id));
    wire_id_encode(&mail->frame, request_id);
    compute_send(ctx, mail);
}

static void compute_first(void *ctx, const struct wire_first *first,
                          const struct wire_token *tokens, const struct wire_token *prompt_tokens)
{
    struct worker_mail *mail = compute_frame(WIRE_FIRST, WIRE_ROUTER_OF(first->request_id));
    wire_first_encode(&mail->frame, first);
    for (uint32_t i = 0; i < first->sequence_count; i++)
        wire_token_encode(&mail->frame, &tokens[i]);
    for (uint32_t i = 0; i < first->prompt_logprob_count; i++)
        wire_token_encode(&mail->frame, &prompt_tokens[i]);
    compute_send(ctx, mail);
}

static void compute_failed(void *ctx, uint64_t request_id, status code, const char *text)
{
    struct wire_failed failed = {.request_id = request_id, .status = code};
    strncpy(failed.text, text, sizeof(failed.text) - 1);
    struct worker_mail *mail = compute_frame(WIRE_FAILED, WIRE_ROUTER_OF(request_id));
    wire_failed_encode(&mail->frame, &failed);
    compute_send(ctx, mail);
}

static void compute_handed(void *ctx, const struct wire_handed *handed)
{
    struct compute *compute = ctx;
    if (handed->status == OK) {
        compute->handoffs++;
        compute->handoff_bytes += handed->bytes;
        compute->handoff_ns += handed->total_ns;
        compute->handoff_exposed_ns += handed->exposed_ns;
    }
    struct worker_mail *mail = compute_frame(WIRE_HANDED, WIRE_ROUTER_OF(handed->request_id));
    wire_handed_encode(&mail->frame, handed);
    compute_send(compute, mail);
}

static void compute_local(void *ctx, struct wire_request *request, const struct sampling *sampling,
                          const block_id *ids, uint32_t block_count,
                          const struct wire_token *firsts)
{
    struct compute *compute = ctx;
    decode_adopt(compute->decode, request, sampling, ids, block_count, firsts);
}

static bool compute_local_take(void *ctx, uint32_t sequence_count)
{
    struct compute *compute = ctx;
    return decode_expect(compute->decode, sequence_count);
}

static void compute_local_drop(void *ctx, uint32_t sequence_count)
{
    struct compute *compute = ctx;
    decode_expect_none(compute->decode, sequence_count);
}

static void compute_reserved(void *ctx, const struct wire_reserved *reserved)
{
    struct worker_mail *mail = compute_frame(WIRE_RESERVED, WIRE_ROUTER_OF(reserved->request_id));
    wire_reserved_encode(&mail->frame, reserved);
    compute_send(ctx, mail);
}

static void compute_tokens(void *ctx, const struct wire_token *tokens, uint32_t count)
{
    /* One frame for each router that has some; nearly always there is one. */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t router = WIRE_ROUTER_OF(tokens[i].request_id);
        bool first = true;
        for (uint32_t k = 0; k < i && first; k++)
            first = WIRE_ROUTER_OF(tokens[k].request_id) != router;
        if (!first)
            continue;
        struct worker_mail *mail = compute_frame(WIRE_TOKENS, router);
        for (uint32_t k = i; k < count; k++) {
            if (WIRE_ROUTER_OF(tokens[k].request_id) == router)
                wire_token_encode(&mail->frame, &tokens[k]);
        }
        compute_send(ctx, mail);
    }
}

static void compute_tell_blocks(void *ctx, const struct wire_blocks *message)
{
    struct worker_mail *mail = compute_frame(WIRE_BLOCKS, WIRE_EVERY_ROUTER);
    wire_blocks_encode(&mail->frame, message);
    compute_send(ctx, mail);
}

static void compute_sealed_prompt(void *ctx, uint64_t owner, const struct block_key *key,
                                  const struct block_key *parent, block_id id)
{
    struct compute *compute = ctx;
    save_block(compute->save, owner, key, parent, id);
}

static void compute_sealed_output(void *ctx, const struct block_key *key,
                                  const struct block_key *parent, block_id id)
{
    struct compute *compute = ctx;
    save_block(compute->save, 0, key, parent, id);
}

static status compute_fetch(void *ctx, uint64_t ticket, const struct block_key *keys,
                            const block_id *ids, uint32_t count, uint32_t deadline_ms)
{
    struct compute *compute = ctx;
    if (compute->setup.store == NULL)
        return ERR_CLOSED;
    return store_get(compute->setup.store, ticket, keys, ids, count, deadline_ms);
}

static void compute_fetch_cancel(void *ctx, uint64_t ticket)
{
    struct compute *compute = ctx;
    store_cancel(compute->setup.store, ticket);
}

static void compute_save(void *ctx, uint64_t request_id, const struct block_key *keys,
                         const block_id *ids, uint32_t block_count, bool partial)
{
    struct compute *compute = ctx;
    save_hand_over(compute->save, request_id, keys, ids, block_count, partial);
}

static void compute_kept(void *ctx, const struct block_key *key)
{
    struct compute *compute = ctx;
    blocks_saved(compute->blocks, key);
}

static void compute_saved(void *ctx, const struct wire_saved *saved)
{
    struct worker_mail *mail = compute_frame(WIRE_SAVED, WIRE_ROUTER_OF(saved->request_id));
    wire_saved_encode(&mail->frame, saved);
    compute_send(ctx, mail);
}

static const struct save_calls save_calls = {.kept = compute_kept, .handed = compute_saved};

static const struct prefill_calls prefill_calls = {
    .starting = compute_starting,
    .first = compute_first,
    .failed = compute_failed,
    .handed = compute_handed,
    .local = compute_local,
    .local_take = compute_local_take,
    .local_drop = compute_local_drop,
    .sealed = compute_sealed_prompt,
    .fetch = compute_fetch,
    .fetch_cancel = compute_fetch_cancel,
    .save = compute_save,
};

static const struct decode_calls decode_calls = {
    .reserved = compute_reserved,
    .tokens = compute_tokens,
    .failed = compute_failed,
    .sealed = compute_sealed_output,
};

status compute_open(const struct compute_setup *setup, struct compute **compute_out)
{
    const struct worker_options *options = setup->options;
    struct compute *compute = calloc(1, sizeof(*compute));
    if (compute == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the compute thread");
    compute->setup = *setup;
    compute->sequences =
        calloc(engine_limits(setup->engine)->sequences_max, sizeof(*compute->sequences));
    if (compute->sequences == NULL) {
        free(compute);
        return error_set(ERR_NO_MEMORY, "no memory for the compute thread");
    }
    bool prefix_cache = options->prefix_cache_bytes > 0;
    struct prefill_options prefill_options = {.batch_tokens = options->prefill_batch_tokens,
                                              .chunk_tokens = options->prefill_chunk,
                                              .local_sequences_max = options->decode_batch,
                                              .prefix_cache = prefix_cache,
                                              .offer_late = strcmp(options->offer, "late") == 0};
    struct decode_options decode_options = {.batch_sequences = options->decode_batch,
                                            .chunk_tokens = options->prefill_chunk,
                                            .swap_slots = engine_swap_slots(setup->engine),
                                            .prefix_cache = prefix_cache};
    memcpy(prefill_options.fingerprint, setup->model->fingerprint,
           sizeof(prefill_options.fingerprint));
    memcpy(decode_options.fingerprint, setup->model->fingerprint,
           sizeof(decode_options.fingerprint));
    status st = prefill_open(&prefill_options, setup->engine, setup->tree, setup->transfer,
                             &prefill_calls, compute, &compute->prefill);
    if (st == OK)
        st = decode_open(&decode_options, setup->engine, setup->tree, setup->transfer,
                         &decode_calls, compute, &compute->decode);
    if (st == OK)
        st = lend_open(setup->tree, engine_pool(setup->engine)->block_count,
                       engine_layout(setup->engine)->shape.layer_count, setup->transfer,
                       &compute->lend);
    if (st == OK)
        st = blocks_open(setup->tree, engine_pool(setup->engine)->block_count, compute_tell_blocks,
                         compute, &compute->blocks);
    if (st == OK)
        st = save_open(setup->tree, engine_pool(setup->engine)->block_count, setup->store,
                       &save_calls, compute, &compute->save);
    if (st != OK) {
        compute_close(compute);
        return st;
    }
    *compute_out = compute;
    return OK;
}

void compute_close(struct compute *compute)
{
    if (compute == NULL)
        return;
    save_close(compute->save);
    blocks_close(compute->blocks);
    lend_close(compute->lend);
    prefill_close(compute->prefill);
    decode_close(compute->decode);
    free(compute->sequences);
    free(compute);
}

static void compute_take_report(struct compute *compute, struct transfer_report *report)
{
    bool known =
        report->mail.kind == TRANSFER_HOLDER_DONE
            ? prefill_released(compute->prefill, report) || lend_released(compute->lend, report)
            : decode_received(compute->decode, report) ||
                  prefill_gathered(compute->prefill, report);
    if (!known)
        log_debug("report without owner", "request_id=%016llx",
                  (unsigned long long)report->request_id);
    transfer_report_free(report);
}

static void compute_take_store_report(struct compute *compute, struct store_report *report)
{
    if (report->mail.kind == STORE_ADDED) {
        save_added(compute->save, report);
    } else {
        const struct prefill_fetch fetch = {.ticket = report->ticket,
                                            .status = report->status,
                                            .text = report->text,
                                            .block_count = report->count,
                                            .bytes = report->bytes,
                                            .seconds = report->seconds,
                                            .ended_ns = report->ended_ns};
        prefill_fetched(compute->prefill, &fetch);
    }
    store_report_free(report);
}

/* What is under way for the router ends; whoever waits for compute_idle gets there. */
static void compute_cancel_all(struct compute *compute)
{
    lend_end_all(compute->lend);
    prefill_cancel_all(compute->prefill);
    decode_cancel_all(compute->decode);
}

static bool compute_idle(const struct compute *compute)
{
    return prefill_idle(compute->prefill) && decode_idle(compute->decode) &&
           lend_idle(compute->lend) && save_idle(compute->save);
}

static void compute_take(struct compute *compute, struct mail *taken)
{
    if (taken->kind >= STORE_ADDED) {
        compute_take_store_report(compute, (struct store_report *)taken);
        return;
    }
    if (taken->kind >= TRANSFER_HOLDER_DONE) {
        compute_take_report(compute, (struct transfer_report *)taken);
        return;
    }
    struct worker_mail *mail = (struct worker_mail *)taken;
    struct wire_request *request = mail->request;
    switch ((enum worker_mail_kind)taken->kind) {
    case WORKER_PREFILL:
        mail->request = NULL;
        prefill_submit(compute->prefill, request, &mail->sampling);
        break;
    case WORKER_RESERVE:
        mail->request = NULL;
        decode_reserve(compute->decode, request, &mail->holder, &mail->sampling);
        break;
    case WORKER_PLACE:
        prefill_place(compute->prefill, &mail->place);
        break;
    case WORKER_CANCEL:
        if (mail->cancel.sequence == WIRE_ALL_SEQUENCES) {
            prefill_cancel(compute->prefill, mail->cancel.request_id);
            save_end(compute->save, mail->cancel.request_id);
        }
        decode_cancel(compute->decode, mail->cancel.request_id, mail->cancel.sequence);
        break;
    case WORKER_PEER_LOST:
        if (compute->setup.transfer != NULL)
            transfer_drop_peer(compute->setup.transfer, mail->incarnation);
        break;
    case WORKER_LEND:
        if (compute->setup.transfer != NULL && lend_take(compute->lend, &mail->lend) != OK)
            log_line(LOG_WARN, mail->lend.request_id, "not lent", "reason=\"%s\"", error_text());
        break;
    case WORKER_LEND_END:
        lend_end(compute->lend, mail->incarnation);
        break;
    case WORKER_BLOCKS_ASK:
        blocks_tell_all(compute->blocks);
        break;
    case WORKER_STOP:
        compute->stopping = true;
        compute->stop_save_ns = clock_ns() + STOP_SAVE_NS;
        compute_cancel_all(compute);
        break;
    case WORKER_FORGET:
        lend_end_router(compute->lend, mail->router);
        save_end_router(compute->save, mail->router);
        prefill_cancel_router(compute->prefill, mail->router);
        decode_cancel_router(compute->decode, mail->router);
        break;
    case WORKER_RENEW:
        compute->renewing = mail->incarnation;
        compute_cancel_all(compute);
        save_end_all(compute->save);
        break;
    default:
        assert(false); /* mail that compute never gets */
    }
    worker_mail_free(mail);
}

/* The entry of the request's router; NULL when there are too many. */
static struct worker_load *compute_load(struct worker_mail *mail, uint64_t request_id)
{
    uint32_t router = WIRE_ROUTER_OF(request_id), i = 0;
    while (i < mail->load_count && mail->loads[i].router != router)
        i++;
    if (i == WIRE_ROUTERS_MAX)
        return NULL;
    if (i == mail->load_count)
        mail->loads[mail->load_count++].router = router;
    return &mail->loads[i];
}

static void compute_load_prefill(void *ctx, uint64_t request_id, uint32_t prompt_tokens)
{
    struct worker_load *load = compute_load(ctx, request_id);
    if (load != NULL)
        load->tokens += prompt_tokens;
}

static void compute_load_decode(void *ctx, uint64_t request_id, uint32_t sequences)
{
    struct worker_load *load = compute_load(ctx, request_id);
    if (load != NULL)
        load->sequences += sequences;
}

static void compute_stats_of_store(const struct compute *compute, struct wire_heartbeat *beat)
{
    struct store_counters store;
    if (compute->setup.store == NULL)
        return;
    store_count(compute->setup.store, &store);
    beat->checksum_failures += store.checksum_failures;
}

/* What the loop thread puts into the next heartbeat. */
static void compute_send_stats(struct compute *compute, bool busy)
{
    struct worker_mail *mail = worker_mail_new(WORKER_STATS);
    if (mail == NULL)
        return; /* The next one will do. */
    struct prefill_counters prefill;
    struct decode_counters decode;
    struct prefix_tree_counts blocks;
    struct engine_counters engine;
    struct transfer_counters transfer = {0};
    uint64_t block_bytes = engine_block_bytes(compute->setup.engine);
    struct save_counters save;
    save_count(compute->save, &save);
    prefill_count(compute->prefill, &prefill);
    decode_count(compute->decode, &decode);
    prefix_tree_count(compute->setup.tree, &blocks);
    engine_count(compute->setup.engine, &engine);
    if (compute->setup.transfer != NULL)
        transfer_counters_read(compute->setup.transfer, &transfer);
    mail->heartbeat = (struct wire_heartbeat){
        .step_count = compute->step_count,
        .busy = busy,
        .blocks_free = blocks.free,
        .blocks_cached = blocks.cached,
        .blocks_referenced = blocks.referenced - decode.reserved_blocks,
        .blocks_reserved = decode.reserved_blocks,
        .blocks_swapped = decode.swapped_blocks,
        .sequences_running = decode.running + prefill.running,
        .sequences_waiting =
            decode.waiting + decode.receiving + prefill.waiting + prefill.held + save.handoffs,
        .sequences_preempted = decode.preempted,
        .prefill_tokens = prefill.tokens,
        .decode_tokens = decode.tokens,
        .preemptions = decode.preemptions,
        .swap_out_blocks = decode.swap_out_blocks,
        .swap_out_bytes = decode.swap_out_blocks * block_bytes,
        .swap_in_blocks = decode.swap_in_blocks,
        .swap_in_bytes = decode.swap_in_blocks * block_bytes,
        .recomputed_tokens = prefill.recomputed_tokens + decode.recomputed_tokens,
        .prefix_queries = prefill.prefix_queries + decode.prefix_queries,
        .prefix_hits = prefill.prefix_hits + decode.prefix_hits,
        .cached_tokens = prefill.prefix_hits,
        .operations = engine.backend.operations,
        .bytes = engine.backend.bytes,
        .step_ns = compute->step_ns,
        .handoffs = compute->handoffs,
        .handoff_bytes = compute->handoff_bytes,
        .handoff_ns = compute->handoff_ns,
        .handoff_exposed_ns = compute->handoff_exposed_ns,
        .checksum_failures = transfer.checksum_failures,
        .leases = transfer.leases + transfer.receives,
        .prefill_ns = prefill.compute_ns,
        .prefill_prompts = prefill.prompts,
        .prefill_context = prefill.context,
        .peer_tokens = prefill.peer_tokens,
        .gather_failures = prefill.gather_failures,
        .lendings = lend_count(compute->lend),
        .lent_blocks = lend_fetched_blocks(compute->lend),
        .store_tokens = prefill.store_tokens,
        .saving_blocks = save.saving_blocks,
        .saved_blocks = save.saved_blocks,
        .saved_bytes = save.saved_bytes,
        .unsaved_blocks = save.unsaved_blocks,
        .save_lag_ns = save.lag_ns,
        .store_up = save_trusts_store(compute->save),
    };
    prefill_each(compute->prefill, compute_load_prefill, mail);
    decode_each(compute->decode, compute_load_decode, mail);
    memcpy(mail->heartbeat.save_lags, save.lags, sizeof(save.lags));
    compute_stats_of_store(compute, &mail->heartbeat);
    compute->stats_ns = clock_ns();
    mailbox_post(compute->setup.out, &mail->mail);
}

static void compute_layer_ready(void *ctx, uint32_t layer)
{
    struct compute *compute = ctx;
    prefill_layer_ready(compute->prefill, layer);
}

static void compute_delay(uint64_t delay_ms)
{
    struct timespec delay = {.tv_sec = (time_t)(delay_ms / 1000),
                             .tv_nsec = (long)(delay_ms % 1000) * 1000000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, NULL);
}

/* One step of whatever there is to do; false: nothing. */
static bool compute_step(struct compute *compute)
{
    const struct backend_limits *limits = engine_limits(compute->setup.engine);
    uint32_t chunk = compute->setup.options->prefill_chunk;
    /* Decode first: people are reading. What it leaves, a prompt's chunk takes. */
    uint32_t decoding = decode_plan(compute->decode, limits->rows_max - chunk,
                                    compute->setup.options->decode_batch, compute->sequences);
    uint32_t outputs = 0;
    for (uint32_t i = 0; i < decoding; i++)
        outputs += engine_outputs_of(&compute->sequences[i]);
    uint32_t prefilling =
        prefill_plan(compute->prefill, chunk, limits->sequences_max - decoding,
                     limits->outputs_max - outputs, compute->sequences + decoding);
    if (decoding + prefilling == 0)
        return false;

    uint64_t start_ns = clock_ns();
    status st = engine_step(compute->setup.engine, compute->sequences, decoding + prefilling,
                            compute_layer_ready, compute);
    if (compute->setup.options->step_delay_ms > 0)
        compute_delay(compute->setup.options->step_delay_ms);
    compute->step_ns += clock_ns() - start_ns;
    compute->step_count++;
    char failure[ERROR_TEXT_BYTES];
    if (st != OK) {
        snprintf(failure, sizeof(failure), "%s", error_text());
        log_error("step failed", "reason=\"%s\"", failure);
    }
    decode_stepped(compute->decode, st != OK ? failure : NULL);
    prefill_stepped(compute->prefill, st != OK ? failure : NULL);
    return true;
}

/* What the old incarnation had is gone, its leases and receives too: be the new one. */
static void compute_renew(struct compute *compute)
{
    struct worker_mail *mail = worker_mail_new(WORKER_RENEWED);
    assert(mail != NULL);
    mail->incarnation = compute->renewing;
    if (compute->setup.transfer != NULL)
        transfer_renew(compute->setup.transfer, compute->renewing);
    if (compute->setup.store != NULL)
        store_renew(compute->setup.store, compute->renewing);
    compute->renewing = 0;
    mailbox_post(compute->setup.out, &mail->mail);
}

/* How long the thread may sleep: until mail comes, or the store has been silent for too long, or
 * prompts have waited for another's blocks for long enough. */
static int compute_wait_ms(struct compute *compute, uint64_t now_ns)
{
    int wait_ms = save_wait_ms(compute->save, now_ns);
    int hold_ms = prefill_wait_ms(compute->prefill, now_ns);
    if (hold_ms >= 0 && (wait_ms < 0 || hold_ms < wait_ms))
        wait_ms = hold_ms;
    if (!compute->stopping || wait_ms < 0)
        return wait_ms;
    if (now_ns >= compute->stop_save_ns) {
        save_end_all(compute->save);
        return wait_ms;
    }
    int left_ms = (int)((compute->stop_save_ns - now_ns) / 1000000u) + 1;
    return wait_ms < left_ms ? wait_ms : left_ms;
}

void compute_run(struct compute *compute)
{
    bool rested = true; /* no step since it last waited */
    compute_send_stats(compute, false);
    for (;;) {
        struct mail *mail = mailbox_take_all(compute->setup.in);
        while (mail != NULL) {
            struct mail *next = mail->next;
            compute_take(compute, mail);
            mail = next;
        }
        if (compute->stopping && compute_idle(compute))
            break;
        if (compute->renewing != 0 && compute_idle(compute))
            compute_renew(compute);
        if (rested && !compute_idle(compute)) /* If this step never ends, it is known of. */
            compute_send_stats(compute, true);
        bool worked = compute_step(compute);
        rested = !worked;
        uint64_t now_ns = clock_ns();
        save_flush(compute->save, now_ns);
        if (!worked || now_ns - compute->stats_ns > STATS_INTERVAL_NS)
            compute_send_stats(compute, worked);
        blocks_flush(compute->blocks, now_ns, !worked);
        if (!worked)
            mailbox_wait(compute->setup.in, compute_wait_ms(compute, now_ns));
    }
    compute_send_stats(compute, false);
    struct worker_mail *stopped = worker_mail_new(WORKER_STOPPED);
    assert(stopped != NULL);
    mailbox_post(compute->setup.out, &stopped->mail);
}
