/* tests/sim/sim_parts.h - what workers are made of, what everybody knows, and the blocks that a
 * worker has: a few, which come and go. What is new goes to the central store in the background.
 *
 * What a worker is given is noted for all of them (sim.given): each attempt has at most one worker
 * that computes it, one that decodes it, and a place only after that one has granted it.
 */
#ifndef TESTS_SIM_PARTS_H
#define TESTS_SIM_PARTS_H

#include "router/router.h"
#include "sim_store.h"

#define SIM_WORKERS_MAX 5
#define SIM_ROUTERS_MAX 3
#define SIM_GIVEN_MAX 16384
#define SIM_POISON 15 /* a prompt that begins with it takes down who computes it */
#define SIM_JOBS_MAX 128
#define SIM_LENDS_MAX 128
#define SIM_TREE_MAX 48
#define SIM_BLOCK_TOKENS 16
#define SIM_SILENCE_NS (3000 * MS) /* a store that says nothing: worker/save.h */
#define SIM_CONTEXT 512
#define SIM_CHUNK 48
#define SIM_BATCH_TOKENS 512 /* of prompts whose blocks come, or that are computed, at a time */
#define SIM_TOKENS_MAX 64    /* of one sequence */
#define SIM_SEQUENCES_MAX 3  /* of one request */
#define SIM_BEAT_NS (250 * MS)

enum job_state {
    JOB_NONE,
    JOB_QUEUED,
    JOB_PLACING,
    JOB_PLACED,
    JOB_GATHERING, /* the store is asked */
    JOB_COMPUTING,
    JOB_HELD,
    JOB_SAVING, /* handed over by the store */
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
    uint64_t move, asked_ns; /* of the store, that it waits for */
    struct wire_range ranges[WIRE_RANGES_MAX];
    uint32_t range_count;
    uint64_t orphan_ns; /* since when no router knows its request; 0: one does */
    uint32_t outputs[SIM_SEQUENCES_MAX][SIM_TOKENS_MAX]; /* new ones, after the resumed */
    uint32_t counts[SIM_SEQUENCES_MAX];
    bool done[SIM_SEQUENCES_MAX];
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
    bool has_store, changed_roles;
    uint64_t store_life; /* that it is connected to; 0: none */
    uint64_t avoid_until_ns;
};

static struct {
    struct sim_worker workers[SIM_WORKERS_MAX];
    uint32_t worker_count, router_count;
    struct sim_given given[SIM_GIVEN_MAX];
    struct hello hello; /* of any worker */
    struct block_key root;
    struct wire_frame frame;
    bool calm; /* no more harm */
    enum router_handoff handoff;
    bool sure; /* a store that has room for all, is quick, and stays: nothing is computed twice */
    uint64_t handoffs, pulls, failed_pulls, failed_handoffs, refusals; /* of all worlds */
    uint64_t saves, failed_saves, gets, failed_gets, again; /* again: tokens computed twice */
} sim;

static void worker_step(struct net_event *event);
static void worker_kill(struct sim_worker *w);
static bool worker_stored(const struct store_move *move);

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

/* ---- its store ---- */

static bool worker_has_store(const struct sim_worker *w)
{
    return w->has_store && w->store_life != 0 && net.now_ns >= w->avoid_until_ns;
}

/* Its connection broke, or there is one to be had again. */
static void worker_look_for_store(struct sim_worker *w)
{
    if (w->store_life != sim_store.life)
        w->store_life = 0;
    if (w->has_store && w->store_life == 0 && store_answers())
        w->store_life = sim_store.life;
}

/* Those from keys[first] on, of a chain, in the background. */
static void worker_add(struct sim_worker *w, const struct block_key *keys, uint32_t first,
                       uint32_t count)
{
    const struct store_move ask = {.report = worker_stored,
                                   .client = w,
                                   .client_life = w->incarnation,
                                   .store_life = w->store_life};
    store_ask(&ask, first > 0 ? &keys[first - 1] : NULL, keys + first, count);
}

static void worker_seal(struct sim_worker *w, const uint32_t *tokens, uint32_t count)
{
    struct block_key keys[SIM_CONTEXT / SIM_BLOCK_TOKENS];
    uint32_t blocks = block_key_chain(&sim.root, tokens, count, SIM_BLOCK_TOKENS, keys);
    uint32_t known = worker_run(w, keys, blocks);
    if (blocks > known && worker_has_store(w))
        worker_add(w, keys, known, blocks - known);
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

#endif
