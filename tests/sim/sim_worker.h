/* tests/sim/sim_worker.h - the work of a worker as routers see it, without arithmetic. A token is a
 * hash of all tokens before it, so that one wrong token, or one too many, makes all that follow
 * wrong.
 *
 *     queued -> placing -> computing -> held (until the receiver has it)      prefill
 *                      gathering -> computing -> saving (until the store has it)
 *     waiting -> receiving -> running                                        decode
 */
#ifndef TESTS_SIM_WORKER_H
#define TESTS_SIM_WORKER_H

#include "sim_parts.h"

/* ---- jobs ---- */

static void job_end(struct sim_job *job)
{
    if (job->wire != NULL)
        wire_request_free(job->wire);
    memset(job, 0, sizeof(*job));
}

static struct sim_job *job_new(struct sim_worker *w, struct wire_request *wire,
                               enum job_state state)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state != JOB_NONE)
            continue;
        *job = (struct sim_job){
            .state = state, .wire = wire, .order = w->order++, .since_ns = net.now_ns};
        return job;
    }
    fail_msg("%s has more than %u jobs: something leaks", w->name, SIM_JOBS_MAX);
    return NULL;
}

static struct sim_job *job_find(struct sim_worker *w, uint64_t id, enum job_state from,
                                enum job_state to)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state >= from && job->state <= to && job->state != JOB_NONE &&
            job->wire->request_id == id)
            return job;
    }
    return NULL;
}

static void job_fail(struct sim_worker *w, struct sim_job *job, status code, const char *text)
{
    struct wire_failed failed = {.request_id = job->wire->request_id, .status = code};
    snprintf(failed.text, sizeof(failed.text), "%s", text);
    wire_failed_encode(&sim.frame, &failed);
    job_end(job);
    worker_send(w, WIRE_ROUTER_OF(failed.request_id), WIRE_FAILED);
}

/* The next token of one of its sequences; writes it to the frame. */
static void job_token(struct sim_job *job, uint32_t sequence)
{
    const struct wire_request *r = job->wire;
    uint32_t index = r->resumed_tokens + job->counts[sequence];
    struct wire_token token = {.request_id = r->request_id, .sequence = sequence, .index = index};
    token.token = sim_token(r->prompt, r->prompt_tokens, job->outputs[sequence],
                            job->counts[sequence], r->sampling.seed, r->first_sequence + sequence);
    token.finish = (uint32_t)wire_request_finish(r, token.token, index);
    assert_true(job->counts[sequence] < SIM_TOKENS_MAX);
    job->outputs[sequence][job->counts[sequence]++] = token.token;
    job->done[sequence] = token.finish != WIRE_FINISH_NONE;
    wire_token_encode(&sim.frame, &token);
}

static bool job_is_done(const struct sim_job *job)
{
    for (uint32_t i = 0; i < job->wire->sequence_count; i++) {
        if (!job->done[i])
            return false;
    }
    return true;
}

static void job_seal(struct sim_worker *w, const struct sim_job *job)
{
    uint32_t tokens[SIM_CONTEXT];
    const struct wire_request *r = job->wire;
    memcpy(tokens, r->prompt, r->prompt_tokens * sizeof(*tokens));
    memcpy(tokens + r->prompt_tokens, job->outputs[0], job->counts[0] * sizeof(*tokens));
    worker_seal(w, tokens, r->prompt_tokens + job->counts[0]);
}

static uint32_t worker_sequences(const struct sim_worker *w)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        enum job_state state = w->jobs[i].state;
        bool local = (state == JOB_COMPUTING || state == JOB_GATHERING) &&
                     (w->jobs[i].wire->flags & WIRE_REQUEST_LOCAL) != 0;
        if (local || w->jobs[i].state == JOB_RECEIVING || w->jobs[i].state == JOB_RUNNING)
            count += w->jobs[i].wire->sequence_count;
    }
    return count;
}

/* ---- the store ---- */

static void job_begin(struct sim_job *job)
{
    const struct wire_request *r = job->wire;
    job->left = r->prompt_tokens - job->cached;
    job->state = JOB_COMPUTING;
    if (r->resumed_tokens > 0)
        sim.again += job->left - 1;
    if (sim.sure && r->resumed_tokens == 1 && job->left != 1)
        fail_msg("%u tokens are computed again, which the store has", job->left - 1);
}

/* The blocks that are missing, and the prompt's last, partial one, which was added as it was handed
 * over. False: there is nothing to ask for, or nobody. */
static bool job_ask_store(struct sim_worker *w, struct sim_job *job, const struct block_key *keys,
                          uint32_t run, uint32_t count)
{
    const struct wire_request *r = job->wire;
    const struct store_move ask = {.is_get = true,
                                   .report = worker_stored,
                                   .client = w,
                                   .client_life = w->incarnation,
                                   .store_life = w->store_life,
                                   .request_id = r->request_id};
    struct block_key wanted[STORE_MOVE_BLOCKS];
    uint32_t rest = (r->prompt_tokens - 1) % SIM_BLOCK_TOKENS, wanted_count = count - run;
    memcpy(wanted, keys + run, wanted_count * sizeof(*keys));
    if (r->resumed_tokens == 1 && rest > 0)
        wanted[wanted_count++] = block_key_next(count > 0 ? &keys[count - 1] : &sim.root,
                                                r->prompt + count * SIM_BLOCK_TOKENS, rest);
    if (wanted_count == 0 || !worker_has_store(w))
        return false;
    job->asked_ns = net.now_ns;
    job->move = store_ask(&ask, run > 0 ? &keys[run - 1] : NULL, wanted, wanted_count);
    if (job->move != 0)
        job->state = JOB_GATHERING;
    return job->move != 0;
}

/* What landed need not be computed, but for the last token; NULL: it did not come in time. */
static void job_gathered(struct sim_job *job, const struct store_move *move)
{
    const struct wire_request *r = job->wire;
    uint32_t landed = move != NULL && move->status == OK ? move->landed : 0;
    if (job->range_count < WIRE_RANGES_MAX)
        job->ranges[job->range_count++] =
            (struct wire_range){.from = WIRE_FROM_STORE,
                                .status = move != NULL ? move->status : ERR_TIMEOUT,
                                .first_block = job->cached / SIM_BLOCK_TOKENS,
                                .block_count = landed > 0 ? landed : 1,
                                .bytes = landed << 16,
                                .ns = net.now_ns - job->asked_ns};
    job->cached += landed * SIM_BLOCK_TOKENS;
    if (job->cached > r->prompt_tokens - 1)
        job->cached = r->prompt_tokens - 1;
    sim.gets += landed > 0;
    sim.failed_gets += landed == 0;
    job_begin(job);
}

static void job_say_saved(struct sim_worker *w, struct sim_job *job, status code)
{
    struct wire_saved saved = {
        .request_id = job->wire->request_id, .status = code, .bytes = 4096, .ns = 1000};
    snprintf(saved.text, sizeof(saved.text), "%s", code != OK ? "it is not in the store" : "");
    sim.saves += code == OK;
    sim.failed_saves += code != OK;
    wire_saved_encode(&sim.frame, &saved);
    job_end(job);
    worker_send(w, WIRE_ROUTER_OF(saved.request_id), WIRE_SAVED);
}

/* Its prompt goes to the store, all of it; what is there already does not move. */
static void job_save(struct sim_worker *w, struct sim_job *job)
{
    const struct wire_request *r = job->wire;
    struct block_key keys[STORE_MOVE_BLOCKS];
    uint32_t count =
        block_key_chain(&sim.root, r->prompt, r->prompt_tokens, SIM_BLOCK_TOKENS, keys);
    uint32_t rest = r->prompt_tokens % SIM_BLOCK_TOKENS;
    const struct store_move ask = {.report = worker_stored,
                                   .client = w,
                                   .client_life = w->incarnation,
                                   .store_life = w->store_life,
                                   .request_id = r->request_id,
                                   .partial = rest > 0};
    if (rest > 0) {
        keys[count] = block_key_next(count > 0 ? &keys[count - 1] : &sim.root,
                                     r->prompt + count * SIM_BLOCK_TOKENS, rest);
        count++;
    }
    job->state = JOB_SAVING;
    job->asked_ns = net.now_ns;
    job->move = worker_has_store(w) ? store_ask(&ask, NULL, keys, count) : 0;
    if (job->move == 0)
        job_say_saved(w, job, ERR_CLOSED);
}

static struct sim_job *job_of_move(struct sim_worker *w, const struct store_move *move)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if ((job->state == JOB_GATHERING || job->state == JOB_SAVING) && job->move == move->number)
            return job;
    }
    return NULL;
}

/* The store's word on one of its moves. False: it sleeps. */
static bool worker_stored(const struct store_move *move)
{
    struct sim_worker *w = move->client;
    if (!w->alive || w->incarnation != move->client_life)
        return true;
    if (w->stopped || w->hung)
        return false;
    struct sim_job *job = job_of_move(w, move);
    if (move->status == ERR_CLOSED && w->store_life == move->store_life)
        w->store_life = 0;
    for (uint32_t i = 0; !move->is_get && move->status == OK && i < move->count; i++) {
        if (!move->partial || i + 1 < move->count)
            worker_event(w, WIRE_EVENT_SAVED, &move->keys[i]);
    }
    if (job != NULL && move->is_get)
        job_gathered(job, move);
    else if (job != NULL)
        job_say_saved(w, job, move->status);
    worker_wake(w);
    return true;
}

/* Who waits too long goes on without it. */
static void worker_step_store(struct sim_worker *w)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state == JOB_GATHERING && net.now_ns - job->asked_ns > 1000 * MS) {
            job_gathered(job, NULL);
        } else if (job->state == JOB_SAVING && net.now_ns - job->asked_ns > SIM_SILENCE_NS) {
            w->avoid_until_ns = net.now_ns + SIM_SILENCE_NS;
            job_say_saved(w, job, ERR_CANCELLED);
        }
    }
}

/* ---- prompts ---- */

/* What its sources give it is not computed. */
static void job_gather(struct sim_worker *w, struct sim_job *job)
{
    const struct wire_request *r = job->wire;
    struct block_key keys[SIM_CONTEXT / SIM_BLOCK_TOKENS];
    uint32_t count =
        block_key_chain(&sim.root, r->prompt, r->prompt_tokens, SIM_BLOCK_TOKENS, keys);
    uint32_t most = (r->prompt_tokens - 1) / SIM_BLOCK_TOKENS;
    uint32_t run = worker_run(w, keys, count < most ? count : most);
    for (uint32_t i = 0; i < r->source_count; i++) {
        const struct wire_source *source = &r->sources[i];
        struct sim_worker *holder = worker_of(source->holder.incarnation);
        struct wire_range *range = &job->ranges[job->range_count++];
        *range = (struct wire_range){.from = WIRE_FROM_PEER,
                                     .status = ERR_CLOSED,
                                     .carrier = 1,
                                     .first_block = source->first_block,
                                     .block_count = source->block_count,
                                     .holder = source->holder.incarnation,
                                     .ns = 1000000};
        bool answers = holder != NULL && !holder->stopped && !holder->hung;
        for (uint32_t k = 0; answers && k < SIM_LENDS_MAX; k++) {
            struct sim_lend *lend = &holder->lends[k];
            if (!lend->open || !lease_id_equal(&lend->lease, &source->lease))
                continue;
            assert_int_equal(lend->epoch, r->epoch);
            lend->open = false;
            range->status = OK;
            range->bytes = 1u << 20;
            uint32_t end = lend->block_count < most ? lend->block_count : most;
            run = source->first_block <= run && end > run ? end : run;
        }
        sim.pulls += range->status == OK;
        sim.failed_pulls += range->status != OK;
    }
    job->cached = run * SIM_BLOCK_TOKENS;
    if (count > most)
        count = most;
    if (!job_ask_store(w, job, keys, run, count))
        job_begin(job);
}

static void job_computed(struct sim_worker *w, struct sim_job *job)
{
    const struct wire_request *r = job->wire;
    struct wire_first first = {.request_id = r->request_id,
                               .sequence_count = r->sequence_count,
                               .cached_tokens = job->cached,
                               .queue_ns = net.now_ns - job->since_ns,
                               .range_count = job->range_count};
    memcpy(first.ranges, job->ranges, sizeof(first.ranges));
    wire_first_encode(&sim.frame, &first);
    for (uint32_t i = 0; i < r->sequence_count; i++)
        job_token(job, i);
    worker_send(w, WIRE_ROUTER_OF(r->request_id), WIRE_FIRST);
    job_seal(w, job);
    job->since_ns = net.now_ns;
    if (job_is_done(job))
        job_end(job);
    else if ((r->flags & WIRE_REQUEST_LOCAL) != 0)
        job->state = JOB_RUNNING;
    else if (r->handoff == WIRE_HANDOFF_STORE)
        job_save(w, job);
    else
        job->state = JOB_HELD;
}

/* The oldest of those that are not computed yet and were not given to it before this number. */
static struct sim_job *worker_next_prompt(struct sim_worker *w, uint64_t order)
{
    struct sim_job *next = NULL;
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state >= JOB_QUEUED && job->state <= JOB_COMPUTING && job->state != JOB_PLACING &&
            job->order >= order && (next == NULL || job->order < next->order))
            next = job;
    }
    return next;
}

/* False: there is no room for it now, or it waits for its place. */
static bool worker_begin_prompt(struct sim_worker *w, struct sim_job *job)
{
    const struct wire_request *r = job->wire;
    bool local = (r->flags & WIRE_REQUEST_LOCAL) != 0;
    bool asks = !local && r->handoff != WIRE_HANDOFF_STORE;
    if (job->state == JOB_QUEUED && asks && r->sampling.max_tokens > 1) {
        job->state = JOB_PLACING;
        wire_id_encode(&sim.frame, r->request_id);
        worker_send(w, WIRE_ROUTER_OF(r->request_id), WIRE_STARTING);
        return false;
    }
    if (job->state == JOB_QUEUED && local &&
        worker_sequences(w) + r->sequence_count > w->decode_batch)
        return false; /* no room to decode it yet */
    if (job->state < JOB_GATHERING)
        job_gather(w, job);
    return true;
}

/* As prefill/batch.c has it: the oldest first, one at a time. Those whose blocks are on their way
 * do not keep the others of their batch waiting; behind one that may not begin none begins, but
 * those that have begun go on. */
static bool worker_step_prefill(struct sim_worker *w)
{
    struct sim_job *job = worker_next_prompt(w, 0);
    bool any = job != NULL, full = false;
    uint32_t batch = 0;
    for (; job != NULL; job = worker_next_prompt(w, job->order + 1)) {
        if (full && job->state != JOB_COMPUTING)
            continue;
        batch += job->wire->prompt_tokens;
        if (batch > job->wire->prompt_tokens && batch > SIM_BATCH_TOKENS)
            break;
        if (!worker_begin_prompt(w, job)) {
            full = true;
            continue;
        }
        if (job->state == JOB_GATHERING)
            continue;
        uint32_t tokens = job->left < SIM_CHUNK ? job->left : SIM_CHUNK;
        job->left -= tokens;
        w->prefill_tokens += tokens;
        w->prefill_ns += w->step_ns;
        w->prefill_prompts += job->left == 0;
        if (job->left == 0)
            job_computed(w, job);
        break;
    }
    return any;
}

/* It knows no way to the holder, or has no memory for one more. */
static void worker_refuse(struct sim_worker *w, struct sim_job *job, struct wire_reserved *reserved)
{
    reserved->status = net_chance(500) ? ERR_REFUSED : ERR_NO_MEMORY;
    snprintf(reserved->text, sizeof(reserved->text), "the holder has no address");
    sim.refusals++;
    job_end(job);
    wire_reserved_encode(&sim.frame, reserved);
    worker_send(w, WIRE_ROUTER_OF(reserved->request_id), WIRE_RESERVED);
}

static void worker_grant(struct sim_worker *w, struct sim_job *job)
{
    struct block_key keys[SIM_CONTEXT / SIM_BLOCK_TOKENS];
    uint32_t count = block_key_chain(&sim.root, job->wire->prompt, job->wire->prompt_tokens,
                                     SIM_BLOCK_TOKENS, keys);
    struct wire_reserved reserved = {.request_id = job->wire->request_id,
                                     .matched_blocks = worker_run(w, keys, count)};
    struct sim_given *given = sim_given(reserved.request_id);
    assert_int_equal(given->decode, w->incarnation);
    if (!sim.calm && net_chance(10)) {
        worker_refuse(w, job, &reserved);
        return;
    }
    given->granted = true;
    given->matched_blocks = reserved.matched_blocks;
    job->state = JOB_RECEIVING;
    job->since_ns = net.now_ns;
    wire_reserved_encode(&sim.frame, &reserved);
    worker_send(w, WIRE_ROUTER_OF(reserved.request_id), WIRE_RESERVED);
}

static void job_landed(struct sim_worker *w, struct sim_job *job, struct sim_worker *holder,
                       struct sim_job *held)
{
    struct wire_handed handed = {.request_id = job->wire->request_id,
                                 .carrier = 1,
                                 .bytes = 4096,
                                 .total_ns = 1000,
                                 .exposed_ns = 100};
    assert_int_equal(held->wire->epoch, job->wire->epoch);
    memcpy(job->outputs, held->outputs, sizeof(job->outputs));
    memcpy(job->counts, held->counts, sizeof(job->counts));
    memcpy(job->done, held->done, sizeof(job->done));
    job_end(held);
    wire_handed_encode(&sim.frame, &handed);
    worker_send(holder, WIRE_ROUTER_OF(handed.request_id), WIRE_HANDED);
    job->state = JOB_RUNNING;
    sim.handoffs++;
    job_seal(w, job);
}

static void worker_step_receive(struct sim_worker *w, struct sim_job *job)
{
    struct sim_worker *holder = worker_of(job->holder.incarnation);
    uint64_t waited_ns = net.now_ns - job->since_ns;
    bool sleeps = holder != NULL && (holder->stopped || holder->hung);
    if (holder == NULL || (sleeps && waited_ns > 3000 * MS)) {
        sim.failed_handoffs++;
        job_fail(w, job, holder == NULL ? ERR_CLOSED : ERR_TIMEOUT, "the holder is gone");
        return;
    }
    if (sleeps)
        return;
    struct sim_job *held = job_find(holder, job->wire->request_id, JOB_QUEUED, JOB_HELD);
    if (held == NULL && waited_ns > 200 * MS) {
        sim.failed_handoffs++;
        job_fail(w, job, ERR_NOT_FOUND, "the holder knows no such lease");
    } else if (held != NULL && held->state == JOB_HELD &&
               lease_id_equal(&held->wire->lease, &job->wire->lease) && net_chance(600)) {
        if (!sim.calm && net_chance(15)) {
            sim.failed_handoffs++;
            job_fail(w, job, net_chance(300) ? ERR_CORRUPT : ERR_IO, "it did not land");
        } else {
            job_landed(w, job, holder, held);
        }
    } else if (waited_ns > job->wire->deadline_ms * MS) {
        job_fail(w, job, ERR_TIMEOUT, "the handoff did not come in time");
    }
}

/* A token for each sequence of this router, in one frame. */
static void worker_step_running(struct sim_worker *w, uint32_t number)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state != JOB_RUNNING || WIRE_ROUTER_OF(job->wire->request_id) != number)
            continue;
        for (uint32_t k = 0; k < job->wire->sequence_count; k++) {
            if (!job->done[k])
                job_token(job, k);
        }
        job_seal(w, job);
        if (job_is_done(job))
            job_end(job);
    }
    if (sim.frame.bytes > 0)
        worker_send(w, number, WIRE_TOKENS);
}

static bool worker_step_decode(struct sim_worker *w)
{
    bool any = false;
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        any = any || job->state >= JOB_HELD;
        if (job->state == JOB_WAITING &&
            worker_sequences(w) + job->wire->sequence_count <= w->decode_batch)
            worker_grant(w, job);
        else if (job->state == JOB_RECEIVING)
            worker_step_receive(w, job);
        else if ((job->state == JOB_HELD || job->state == JOB_WAITING) &&
                 net.now_ns - job->since_ns > job->wire->deadline_ms * MS)
            job_end(job); /* its lease is over; a cancel was lost */
    }
    for (uint32_t i = 0; i < sim.router_count; i++) {
        if (w->numbers[i] != 0)
            worker_step_running(w, w->numbers[i]);
    }
    assert_true(worker_sequences(w) <= w->decode_batch);
    return any;
}

static bool worker_has(const struct sim_worker *w, enum job_state from, enum job_state to)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        if (w->jobs[i].state >= from && w->jobs[i].state <= to)
            return true;
    }
    return false;
}

static bool worker_is_poisoned(const struct sim_worker *w)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        const struct sim_job *job = &w->jobs[i];
        if (job->state == JOB_COMPUTING && job->wire->prompt[0] == SIM_POISON &&
            job->left < job->wire->prompt_tokens - job->cached)
            return true;
    }
    return false;
}

static bool worker_lends(const struct sim_worker *w)
{
    for (uint32_t i = 0; i < SIM_LENDS_MAX; i++) {
        if (w->lends[i].open)
            return true;
    }
    return false;
}

static void worker_step(struct net_event *event)
{
    struct sim_worker *w = event->subject;
    if (!w->alive || w->life != event->number)
        return;
    w->stepping = false;
    if (w->stopped || w->hung)
        return;
    bool work = worker_step_prefill(w);
    if (worker_is_poisoned(w)) {
        worker_kill(w);
        return;
    }
    worker_step_store(w);
    work = worker_step_decode(w) || work;
    w->steps += work;
    for (uint32_t i = 0; i < SIM_LENDS_MAX; i++) {
        if (w->lends[i].open && net.now_ns > w->lends[i].expiry_ns)
            w->lends[i].open = false;
    }
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) { /* an answer that never comes: the lease ends */
        if (w->jobs[i].state == JOB_PLACING &&
            net.now_ns - w->jobs[i].since_ns > w->jobs[i].wire->deadline_ms * MS)
            job_end(&w->jobs[i]);
    }
    if (w->event_count > 0)
        worker_flush(w, 0);
    bool idle = !worker_has(w, JOB_QUEUED, JOB_RUNNING) && !worker_lends(w);
    if (idle && w->leaving)
        worker_kill(w); /* it has done what it had, and goes */
    else if (!idle || w->leaving)
        worker_wake(w);
}

#endif
