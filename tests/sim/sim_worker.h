/* tests/sim/sim_worker.h - the work of a worker as routers see it, without arithmetic. A token is a
 * hash of all tokens before it, so that one wrong token, or one too many, makes all that follow
 * wrong. A few blocks come and go.
 *
 *     queued -> placing -> computing -> held (until the receiver has it)      prefill
 *     waiting -> receiving -> running                                        decode
 *
 * What a worker is given is noted for all of them (sim.given): each attempt has at most one worker
 * that computes it, one that decodes it, and a place only after that one has granted it.
 */
#ifndef TESTS_SIM_WORKER_H
#define TESTS_SIM_WORKER_H

#include "fake_network.h"
#include "kv/block_key.h"

#define SIM_WORKERS_MAX 5
#define SIM_ROUTERS_MAX 3
#define SIM_GIVEN_MAX 16384
#define SIM_POISON 15 /* a prompt that begins with it takes down who computes it */
#define SIM_JOBS_MAX 128
#define SIM_LENDS_MAX 128
#define SIM_TREE_MAX 48
#define SIM_BLOCK_TOKENS 16
#define SIM_CONTEXT 512
#define SIM_CHUNK 48
#define SIM_TOKENS_MAX 64 /* of one answer */
#define SIM_BEAT_NS (250 * MS)

enum job_state {
    JOB_NONE,
    JOB_QUEUED,
    JOB_PLACING,
    JOB_PLACED,
    JOB_COMPUTING,
    JOB_HELD,
    JOB_WAITING,
    JOB_RECEIVING,
    JOB_RUNNING,
};

struct sim_job {
    enum job_state state;
    struct wire_request *wire;
    struct wire_holder holder;
    uint32_t left; /* prompt tokens to compute */
    uint32_t cached;
    uint64_t order, since_ns;
    struct wire_range ranges[WIRE_RANGES_MAX];
    uint32_t range_count;
    uint64_t orphan_ns; /* since when no router knows its request; 0: one does */
    uint32_t outputs[WIRE_SEQUENCES_MAX][SIM_TOKENS_MAX]; /* new ones, after the resumed */
    uint32_t counts[WIRE_SEQUENCES_MAX];
    bool done[WIRE_SEQUENCES_MAX];
};

struct sim_lend {
    bool open;
    uint64_t request_id, expiry_ns;
    uint64_t orphan_ns;
    struct lease_id lease;
    uint32_t epoch, block_count;
};

/* An attempt of a request, by its id. */
struct sim_given {
    uint64_t id, prefill, decode; /* incarnations */
    uint32_t matched_blocks;
    bool granted;
};

struct sim_worker {
    uint32_t index, roles;
    char name[WIRE_NAME_BYTES];
    uint64_t incarnation;
    uint64_t life; /* of its process */
    bool alive, stopped, hung, leaving, stepping;
    bool mute;          /* some of its events are lost */
    uint64_t asleep_ns; /* when it last was stopped or hung */
    uint64_t last_incarnation, died_ns, hung_ns;
    struct link *links[SIM_ROUTERS_MAX];
    uint32_t numbers[SIM_ROUTERS_MAX]; /* of their requests; 0: not ready */
    struct sim_job jobs[SIM_JOBS_MAX];
    struct sim_lend lends[SIM_LENDS_MAX];
    struct block_key tree[SIM_TREE_MAX];
    uint32_t tree_count;
    uint64_t next_number, order, steps, step_ns;
    uint8_t events[4 * SIM_TREE_MAX][WIRE_EVENT_BYTES];
    uint32_t event_count;
    uint64_t prefill_tokens, prefill_prompts, prefill_ns;
    uint32_t decode_batch;
};

static struct {
    struct sim_worker workers[SIM_WORKERS_MAX];
    uint32_t worker_count, router_count;
    struct sim_given given[SIM_GIVEN_MAX];
    struct hello hello; /* of any worker */
    struct block_key root;
    struct wire_frame frame;
    bool calm;                                               /* no more harm */
    uint64_t handoffs, pulls, failed_pulls, failed_handoffs; /* of all worlds */
} sim;

static void worker_step(struct net_event *event);
static void worker_kill(struct sim_worker *w);

/* ---- what everybody knows ---- */

static uint32_t sim_token(const uint32_t *before, uint32_t count, const uint32_t *outputs,
                          uint32_t output_count, uint64_t seed, uint32_t sequence)
{
    uint64_t h = seed * 0x9e3779b97f4a7c15u + sequence;
    for (uint32_t i = 0; i < count + output_count; i++) {
        h ^= i < count ? before[i] : outputs[i - count];
        h *= 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    return 20 + (uint32_t)((h >> 20) % 280);
}

/* What is in sim.frame, to the router of this number or to every one. */
static void worker_send(struct sim_worker *w, uint32_t number, uint16_t type)
{
    for (uint32_t i = 0; i < sim.router_count; i++) {
        if (w->numbers[i] != 0 && (number == WIRE_EVERY_ROUTER || number == w->numbers[i]) &&
            w->links[i]->worker_open && !w->links[i]->black)
            link_post(w->links[i], true, type, sim.frame.data, sim.frame.bytes);
    }
    wire_frame_reset(&sim.frame);
}

static void worker_wake(struct sim_worker *w)
{
    if (w->stepping || !w->alive || w->stopped || w->hung)
        return;
    w->stepping = true;
    net_after(w->step_ns, worker_step, w, w->life);
}

static struct sim_given *sim_given(uint64_t id)
{
    uint32_t at = (uint32_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 40) % SIM_GIVEN_MAX;
    uint32_t tries = 0;
    while (sim.given[at].id != 0 && sim.given[at].id != id) {
        at = (at + 1) % SIM_GIVEN_MAX;
        assert_true(++tries < SIM_GIVEN_MAX);
    }
    sim.given[at].id = id;
    return &sim.given[at];
}

static struct sim_worker *worker_of(uint64_t incarnation)
{
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        if (sim.workers[i].alive && sim.workers[i].incarnation == incarnation)
            return &sim.workers[i];
    }
    return NULL;
}

/* ---- blocks ---- */

static void worker_event(struct sim_worker *w, enum wire_event kind, const struct block_key *key)
{
    if (w->event_count == 4 * SIM_TREE_MAX) {
        w->next_number++; /* what a gap tells of */
        w->event_count = 0;
    }
    w->events[w->event_count][0] = (uint8_t)kind;
    memcpy(w->events[w->event_count++] + 1, key->bytes, sizeof(key->bytes));
}

static void worker_flush(struct sim_worker *w, uint32_t flags)
{
    struct wire_blocks message = {.number = w->next_number++,
                                  .flags = flags,
                                  .event_count = w->event_count,
                                  .events = w->events[0]};
    w->event_count = 0;
    for (uint32_t i = 0; i < sim.router_count; i++) {
        wire_frame_reset(&sim.frame);
        wire_blocks_encode(&sim.frame, &message);
        bool lost = w->mute && flags == 0 && !sim.calm && net_chance(100); /* its number too */
        if (w->numbers[i] != 0 && !lost)
            worker_send(w, w->numbers[i], WIRE_BLOCKS);
    }
    wire_frame_reset(&sim.frame);
}

static void worker_tell_all(struct sim_worker *w)
{
    w->event_count = 0;
    for (uint32_t i = 0; i < w->tree_count; i++)
        worker_event(w, WIRE_EVENT_STORED, &w->tree[i]);
    worker_flush(w, WIRE_BLOCKS_ALL);
}

static bool worker_holds(const struct sim_worker *w, const struct block_key *key)
{
    for (uint32_t i = 0; i < w->tree_count; i++) {
        if (block_key_equal(&w->tree[i], key))
            return true;
    }
    return false;
}

static uint32_t worker_run(const struct sim_worker *w, const struct block_key *keys, uint32_t count)
{
    uint32_t run = 0;
    while (run < count && worker_holds(w, &keys[run]))
        run++;
    return run;
}

static void worker_seal(struct sim_worker *w, const uint32_t *tokens, uint32_t count)
{
    struct block_key keys[SIM_CONTEXT / SIM_BLOCK_TOKENS];
    uint32_t blocks = block_key_chain(&sim.root, tokens, count, SIM_BLOCK_TOKENS, keys);
    for (uint32_t i = 0; i < blocks; i++) {
        if (worker_holds(w, &keys[i]))
            continue;
        if (w->tree_count == SIM_TREE_MAX) {
            uint32_t victim = net_below(SIM_TREE_MAX);
            worker_event(w, WIRE_EVENT_REMOVED, &w->tree[victim]);
            w->tree[victim] = w->tree[--w->tree_count];
        }
        w->tree[w->tree_count++] = keys[i];
        worker_event(w, WIRE_EVENT_STORED, &keys[i]);
    }
}

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
        bool local =
            w->jobs[i].state == JOB_COMPUTING && (w->jobs[i].wire->flags & WIRE_REQUEST_LOCAL) != 0;
        if (local || w->jobs[i].state == JOB_RECEIVING || w->jobs[i].state == JOB_RUNNING)
            count += w->jobs[i].wire->sequence_count;
    }
    return count;
}

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
    job->left = r->prompt_tokens - job->cached;
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
    if (job_is_done(job))
        job_end(job);
    else
        job->state = (r->flags & WIRE_REQUEST_LOCAL) != 0 ? JOB_RUNNING : JOB_HELD;
    if (job->state != JOB_NONE)
        job->since_ns = net.now_ns;
}

/* The oldest first, one at a time. */
static bool worker_step_prefill(struct sim_worker *w)
{
    struct sim_job *first = NULL;
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state >= JOB_QUEUED && job->state <= JOB_COMPUTING && job->state != JOB_PLACING &&
            (first == NULL || job->order < first->order))
            first = job;
    }
    if (first == NULL)
        return false;
    bool local = (first->wire->flags & WIRE_REQUEST_LOCAL) != 0;
    if (first->state == JOB_QUEUED && !local && first->wire->sampling.max_tokens > 1) {
        first->state = JOB_PLACING;
        wire_id_encode(&sim.frame, first->wire->request_id);
        worker_send(w, WIRE_ROUTER_OF(first->wire->request_id), WIRE_STARTING);
        return true;
    }
    if (first->state == JOB_QUEUED && local &&
        worker_sequences(w) + first->wire->sequence_count > w->decode_batch)
        return true; /* no room to decode it yet */
    if (first->state != JOB_COMPUTING) {
        job_gather(w, first);
        first->state = JOB_COMPUTING;
    }
    uint32_t tokens = first->left < SIM_CHUNK ? first->left : SIM_CHUNK;
    first->left -= tokens;
    w->prefill_tokens += tokens;
    w->prefill_ns += w->step_ns;
    w->prefill_prompts += first->left == 0;
    if (first->left == 0)
        job_computed(w, first);
    return true;
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
        if (w->jobs[i].state == JOB_COMPUTING && w->jobs[i].wire->prompt[0] == SIM_POISON)
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
