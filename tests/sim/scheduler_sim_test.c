/* Prefill and decode schedulers of several workers, with real engines, under a router that is slow
 * to hear and to be heard: messages of different connections overtake each other, clients hang up,
 * handoffs break, pools are small. Whatever happens: every request comes to a result or a named
 * error, the tokens are those of an undisturbed run, and no worker keeps a block.
 *
 *     scheduler_sim_test [seeds] [first seed]
 *
 * One seed is one world, the same every time. */
#include "fake_transfer.h"

#include "router/choose.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama3-f16.gguf"
#define WORKERS_MAX 5
#define ASKS_MAX 24
#define MESSAGES_MAX 4096
#define TICKS_MAX 60000
#define ATTEMPTS_MAX 3
#define POOL_BLOCKS 64 /* of the engines; a world uses fewer */
#define SWAP_SLOTS 40  /* likewise */
#define CONTEXT_TOKENS 128

enum ask_state { ASK_NEW, ASK_WAITING, ASK_RUNNING, ASK_DONE };
enum ask_outcome { OUTCOME_NONE, OUTCOME_RESULT, OUTCOME_ERROR, OUTCOME_CANCELLED };

/* A client's request, as the router knows it. */
struct sim_ask {
    struct rig_ask ask;         /* with the id of the current attempt */
    uint64_t arrives, hangs_up; /* ticks; 0: stays */
    uint32_t
        stop_at[RIG_SEQUENCES_MAX]; /* a stop string is found in this token; UINT32_MAX: none */
    enum ask_state state;
    enum ask_outcome outcome;
    status error;
    uint32_t attempts;
    int prefill, decode; /* worker or -1 */
    bool handed, stopped;
    uint32_t left;
    uint32_t tokens[RIG_SEQUENCES_MAX][RIG_OUTPUT_MAX], counts[RIG_SEQUENCES_MAX];
    uint32_t finish_at[RIG_SEQUENCES_MAX]; /* index of the last token; UINT32_MAX: not heard */
    bool done[RIG_SEQUENCES_MAX];
};

struct sim_worker {
    struct station station;
    struct transfer transfer;
    uint32_t roles;
    bool usable;
    uint32_t speed; /* it steps in so many of 8 ticks */
    uint64_t queued_tokens;
    uint32_t decoding;
    uint64_t last_up, last_down; /* when the last message of either direction arrives */
};

struct sim_message {
    uint64_t due, number; /* number: order of sending */
    int worker;
    bool up; /* from the worker to the router */
    uint16_t type;
    uint64_t id;
    union {
        struct wire_reserved reserved;
        struct wire_place place;
        struct wire_failed failed;
        struct wire_cancel cancel;
        struct wire_token token;
        struct {
            uint32_t count;
            struct wire_token tokens[RIG_SEQUENCES_MAX];
        } first;
        struct {
            struct rig_ask ask;
            int holder;
        } request;
    } is;
};

static struct sim {
    uint64_t seed;
    struct rig_random random;
    struct model *model;
    struct rig_book book;
    struct rig_reference reference;
    struct engine *engines[WORKERS_MAX];
    struct sim_worker workers[WORKERS_MAX];
    uint32_t worker_count;
    struct sim_ask asks[ASKS_MAX];
    uint32_t ask_count;
    struct sim_message *messages; /* [MESSAGES_MAX] */
    uint32_t message_count;
    uint64_t now, next_id, next_number;
    uint32_t delay_max;       /* ticks that a message takes */
    uint32_t long_percent;    /* of answers */
    uint32_t step_faults;     /* of 1000 steps */
    bool broken_stays_broken; /* faults may make an error of any request */
    /* Over all worlds. */
    uint64_t results, errors, cancelled, again, preemptions, evictions, local, steps, ticks;
    uint64_t swap_out_blocks, swap_in_blocks, recomputed_tokens;
} sim;

static uint32_t below(uint32_t limit)
{
    return rig_below(&sim.random, limit);
}

static bool percent(uint32_t chance)
{
    return below(100) < chance;
}

/* ---- connections ---- */

static struct sim_message *sim_send(int worker, bool up, uint16_t type, uint64_t id)
{
    struct sim_worker *w = &sim.workers[worker];
    uint64_t *last = up ? &w->last_up : &w->last_down;
    uint64_t due = sim.now + 1 + below(sim.delay_max);
    if (percent(3))
        due += 10 * sim.delay_max;     /* a pause of the line */
    *last = due > *last ? due : *last; /* one connection keeps its order */
    assert_true(sim.message_count < MESSAGES_MAX);
    struct sim_message *m = &sim.messages[sim.message_count++];
    m->due = *last;
    m->number = sim.next_number++;
    m->worker = worker;
    m->up = up;
    m->type = type;
    m->id = id;
    return m;
}

static void sim_cancel_at(int worker, uint64_t id, uint32_t sequence)
{
    sim_send(worker, false, WIRE_CANCEL, id)->is.cancel =
        (struct wire_cancel){.request_id = id, .sequence = sequence};
}

/* ---- the router, after router/choose.c, route.c and relay.c ---- */

static struct sim_ask *ask_find(uint64_t id)
{
    for (uint32_t i = 0; i < sim.ask_count; i++) {
        struct sim_ask *a = &sim.asks[i];
        if (a->ask.id == id && (a->state == ASK_WAITING || a->state == ASK_RUNNING))
            return a;
    }
    return NULL;
}

static uint32_t ask_n(const struct sim_ask *a)
{
    return rig_or(a->ask.n, 1);
}

static void ask_set_workers(struct sim_ask *a, int prefill, int decode)
{
    if (a->prefill >= 0 && a->state == ASK_WAITING)
        sim.workers[a->prefill].queued_tokens -= a->ask.prompt_tokens;
    if (a->decode >= 0)
        sim.workers[a->decode].decoding -= ask_n(a);
    a->prefill = prefill;
    a->decode = decode;
    if (prefill >= 0 && a->state == ASK_WAITING)
        sim.workers[prefill].queued_tokens += a->ask.prompt_tokens;
    if (decode >= 0)
        sim.workers[decode].decoding += ask_n(a);
}

/* Its workers are told, as far as they do not know. */
static void ask_release(struct sim_ask *a, enum ask_outcome outcome)
{
    bool over = outcome == OUTCOME_RESULT && !a->stopped;
    bool decode_over = over && a->handed;
    if (!over && a->prefill >= 0)
        sim_cancel_at(a->prefill, a->ask.id, WIRE_ALL_SEQUENCES);
    if (!decode_over && a->decode >= 0 && a->decode != a->prefill)
        sim_cancel_at(a->decode, a->ask.id, WIRE_ALL_SEQUENCES);
    ask_set_workers(a, -1, -1);
    a->state = ASK_DONE;
    a->outcome = outcome;
}

static void ask_fail(struct sim_ask *a, status error)
{
    ask_release(a, OUTCOME_ERROR);
    a->error = error;
}

static void sim_views(struct route_view *views)
{
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        const struct sim_worker *w = &sim.workers[i];
        views[i] = (struct route_view){.roles = w->roles,
                                       .usable = w->usable,
                                       .queued_tokens = w->queued_tokens,
                                       .decoding = w->decoding,
                                       .decode_batch = w->station.decode_batch};
    }
}

static void ask_route(struct sim_ask *a)
{
    struct route_view views[WORKERS_MAX];
    bool local = false;
    sim_views(views);
    int best = route_choose_prefill(views, sim.worker_count, &local);
    assert_true(best >= 0); /* one is always there */
    a->ask.id = sim.next_id++;
    a->ask.epoch = ++a->attempts;
    a->ask.flags &= ~(uint32_t)WIRE_REQUEST_LOCAL;
    a->ask.flags |= local ? WIRE_REQUEST_LOCAL : 0;
    sim.local += local;
    a->state = ASK_WAITING;
    a->prefill = a->decode = -1;
    ask_set_workers(a, best, local ? best : -1);
    sim_send(best, false, WIRE_PREFILL, a->ask.id)->is.request.ask = a->ask;
}

/* Begin again, with another id, when nothing was said to the client. */
static bool ask_again(struct sim_ask *a)
{
    if (a->state != ASK_WAITING || a->attempts >= ATTEMPTS_MAX)
        return false;
    if (a->prefill >= 0)
        sim_cancel_at(a->prefill, a->ask.id, WIRE_ALL_SEQUENCES);
    if (a->decode >= 0 && a->decode != a->prefill)
        sim_cancel_at(a->decode, a->ask.id, WIRE_ALL_SEQUENCES);
    ask_set_workers(a, -1, -1);
    sim.again++;
    ask_route(a);
    return true;
}

/* starting: where will it be decoded? */
static void ask_place(struct sim_ask *a)
{
    struct route_view views[WORKERS_MAX];
    sim_views(views);
    int best = route_choose_decode(views, sim.worker_count);
    if (a->state != ASK_WAITING || a->decode >= 0)
        return;
    if (best < 0) { /* the last one has left */
        if (!ask_again(a))
            ask_fail(a, ERR_CLOSED);
        return;
    }
    struct sim_message *m = sim_send(best, false, WIRE_RESERVE, a->ask.id);
    m->is.request.ask = a->ask;
    m->is.request.holder = a->prefill;
    ask_set_workers(a, a->prefill, best);
}

static void ask_take_in_order(struct sim_ask *a, uint32_t s)
{
    while (!a->done[s] && a->tokens[s][a->counts[s]] != UINT32_MAX) {
        uint32_t index = a->counts[s]++;
        bool stops = index == a->stop_at[s];
        if (stops || index == a->finish_at[s]) {
            a->done[s] = true;
            a->left--;
        }
        if (stops && index != a->finish_at[s]) {
            a->stopped = true;
            if (a->decode >= 0)
                sim_cancel_at(a->decode, a->ask.id, s);
        }
    }
}

static void ask_take_token(struct sim_ask *a, const struct wire_token *token)
{
    uint32_t s = token->sequence;
    assert_true(s < ask_n(a) && token->index < RIG_OUTPUT_MAX - 1);
    if (a->done[s] || token->index < a->counts[s])
        return;
    a->tokens[s][token->index] = token->token;
    if (token->finish != WIRE_FINISH_NONE)
        a->finish_at[s] = token->index;
    ask_take_in_order(a, s);
    if (a->left == 0)
        ask_release(a, OUTCOME_RESULT);
}

static void ask_take_first(struct sim_ask *a, const struct sim_message *m)
{
    uint64_t id = a->ask.id;
    if (a->state != ASK_WAITING)
        return;
    sim.workers[a->prefill].queued_tokens -= a->ask.prompt_tokens;
    a->state = ASK_RUNNING;
    if ((a->ask.flags & WIRE_REQUEST_LOCAL) != 0)
        a->handed = true;
    for (uint32_t i = 0; i < m->is.first.count && ask_find(id) == a; i++)
        ask_take_token(a, &m->is.first.tokens[i]);
}

static void ask_take_failed(struct sim_ask *a, const struct wire_failed *failed)
{
    bool broke = failed->status == ERR_CLOSED || failed->status == ERR_CORRUPT ||
                 failed->status == ERR_NOT_FOUND || failed->status == ERR_IO ||
                 failed->status == ERR_CANCELLED;
    if (!broke || !ask_again(a))
        ask_fail(a, failed->status);
}

static void router_take(const struct sim_message *m)
{
    struct sim_ask *a = ask_find(m->id);
    if (a == NULL)
        return; /* it crossed a cancel */
    switch (m->type) {
    case WIRE_STARTING:
        if (a->prefill == m->worker)
            ask_place(a);
        break;
    case WIRE_RESERVED:
        if (a->decode != m->worker)
            break;
        if (m->is.reserved.status != OK)
            ask_fail(a, m->is.reserved.status);
        else
            sim_send(a->prefill, false, WIRE_PLACE, m->id)->is.place = (struct wire_place){
                .request_id = m->id, .matched_blocks = m->is.reserved.matched_blocks};
        break;
    case WIRE_FIRST:
        ask_take_first(a, m);
        break;
    case WIRE_TOKENS:
        a->handed = true;
        ask_take_token(a, &m->is.token);
        break;
    case WIRE_FAILED:
        ask_take_failed(a, &m->is.failed);
        break;
    default:
        break;
    }
}

/* ---- workers ---- */

static void worker_heard(void *ctx, struct station *station, enum rig_said said, uint64_t id,
                         const void *message)
{
    static const uint16_t types[] = {WIRE_STARTING, WIRE_FIRST,    WIRE_FAILED,
                                     WIRE_HANDED,   WIRE_RESERVED, WIRE_TOKENS};
    int worker = (int)((struct sim_worker *)ctx - sim.workers);
    struct sim_message *m = sim_send(worker, true, types[said], id);
    switch (said) {
    case RIG_FIRST:
        m->is.first.count = ((const struct wire_first *)message)->sequence_count;
        memcpy(m->is.first.tokens, rig_entry(station->book, id)->first_tokens,
               sizeof(m->is.first.tokens));
        break;
    case RIG_FAILED:
        m->is.failed = *(const struct wire_failed *)message;
        break;
    case RIG_RESERVED:
        m->is.reserved = *(const struct wire_reserved *)message;
        break;
    case RIG_TOKENS:
        m->is.token = *(const struct wire_token *)message;
        break;
    default:
        break;
    }
}

static void worker_take(const struct sim_message *m)
{
    struct station *station = &sim.workers[m->worker].station;
    struct sampling sampling;
    struct wire_holder holder = {.incarnation = 1, .transfer_unix = "unix:/nowhere"};
    switch (m->type) {
    case WIRE_PREFILL:
        station_submit(station, &m->is.request.ask);
        break;
    case WIRE_RESERVE:
        sampling = rig_sampling(&m->is.request.ask);
        decode_reserve(station->decode, rig_wire(&m->is.request.ask), &holder, &sampling);
        break;
    case WIRE_PLACE:
        prefill_place(station->prefill, &m->is.place);
        break;
    default:
        if (m->is.cancel.sequence == WIRE_ALL_SEQUENCES)
            prefill_cancel(station->prefill, m->id);
        decode_cancel(station->decode, m->id, m->is.cancel.sequence);
        break;
    }
}

static void worker_check(const struct sim_worker *w)
{
    struct prefix_tree_counts blocks;
    struct decode_counters counters;
    prefix_tree_count(w->station.tree, &blocks);
    decode_count(w->station.decode, &counters);
    assert_int_equal(blocks.free + blocks.cached + blocks.referenced, w->station.block_count);
    assert_true(counters.running + counters.preempted <= w->station.decode_batch);
    assert_true(counters.reserved_blocks <= blocks.referenced);
    assert_true(counters.swapped_blocks <= w->station.swap_slots);
    assert_true(counters.preempted > 0 || counters.swapped_blocks == 0);
}

/* ---- a world ---- */

static void world_workers(void)
{
    static const uint32_t role_sets[][WORKERS_MAX] = {{1, 2},    {1, 2},       {1, 1, 2},
                                                      {1, 2, 2}, {1, 1, 2, 2}, {3, 3},
                                                      {3, 1, 2}, {3},          {1, 1, 2, 2, 3}};
    const uint32_t *roles = role_sets[below(sizeof(role_sets) / sizeof(role_sets[0]))];
    bool prefix_cache = !percent(25);
    for (sim.worker_count = 0; sim.worker_count < WORKERS_MAX && roles[sim.worker_count] != 0;
         sim.worker_count++) {
        struct sim_worker *w = &sim.workers[sim.worker_count];
        struct station *s = &w->station;
        memset(w, 0, sizeof(*w));
        snprintf(s->name, sizeof(s->name), "w%u", sim.worker_count);
        s->book = &sim.book;
        s->engine = sim.engines[sim.worker_count];
        s->block_count = CONTEXT_TOKENS / RIG_BLOCK_TOKENS +
                         (percent(60) ? below(8) : below(POOL_BLOCKS / 2 + 1));
        s->chunk_tokens = 4 + below(29);
        s->decode_batch = RIG_SEQUENCES_MAX + below(5);
        s->sequences = calloc(engine_limits(s->engine)->sequences_max, sizeof(*s->sequences));
        assert_non_null(s->sequences);
        ASSERT_OK(prefix_tree_open(s->block_count, percent(20) ? below(8) : UINT32_MAX, &s->tree));
        fake_transfer_open(&w->transfer, s);
        const struct station_config config = {.batch_tokens = 8 + below(120),
                                              .swap_slots = percent(40) ? 0 : below(SWAP_SLOTS + 1),
                                              .no_prefix_cache = !prefix_cache};
        station_start(s, sim.model, &config, &w->transfer);
        s->heard = worker_heard;
        s->ctx = w;
        w->roles = roles[sim.worker_count];
        w->usable = true;
        w->speed = 1 + below(8);
    }
}

static void world_ask(struct sim_ask *a, uint32_t number, uint64_t span)
{
    memset(a, 0, sizeof(*a));
    memset(a->tokens, 0xff, sizeof(a->tokens));
    a->prefill = a->decode = -1;
    struct rig_ask *ask = &a->ask;
    ask->id = number + 1;
    ask->n = percent(25) ? 1 + below(RIG_SEQUENCES_MAX) : 1;
    ask->max_tokens = percent(10) ? 1 : 1 + below(percent(sim.long_percent) ? 90 : 20);
    uint32_t most = CONTEXT_TOKENS + 1 - ask->max_tokens;
    most = most < CONTEXT_TOKENS ? most : CONTEXT_TOKENS;
    uint32_t tokens = 1 + below(percent(20) ? most : most < 40 ? most : 40);
    rig_fill_prompt(ask, tokens, 40 + below(4), below(40));
    ask->temperature = percent(30) ? 0 : 2;
    ask->seed = below(1000);
    ask->frequency_penalty = percent(20) ? 0.8f : 0;
    ask->salt = percent(10);
    ask->priority = (int32_t)below(3) - 1;
    ask->first_sequence = below(3);
    ask->flags = percent(10) ? WIRE_REQUEST_NO_PREFIX : 0;
    if (percent(8))
        ask->flags = WIRE_REQUEST_NO_PREFIX | WIRE_REQUEST_PROMPT_LOGPROBS;
    if (percent(30)) { /* end tokens, common enough to come */
        ask->stop_count = 4;
        for (uint32_t i = 0; i < 4; i++)
            ask->stop_ids[i] = ask->prompt[below(tokens)] % 310;
        ask->min_tokens = below(4);
    }
    ask->deadline_ms = sim.broken_stays_broken && percent(10) ? 30 + below(200) : 1000000;
    a->left = ask->n;
    for (uint32_t i = 0; i < RIG_SEQUENCES_MAX; i++) {
        a->finish_at[i] = UINT32_MAX;
        a->stop_at[i] = percent(15) ? below(12) : UINT32_MAX;
    }
    a->arrives = 1 + below((uint32_t)span);
    a->hangs_up = percent(20) ? a->arrives + 1 + below(400) : 0;
}

static void world_open(uint64_t seed)
{
    sim.seed = seed;
    sim.random = (struct rig_random){seed * 2654435761u + 1};
    sim.now = sim.next_number = 0;
    sim.next_id = 1000;
    sim.message_count = 0;
    sim.delay_max = 1 + below(30);
    sim.long_percent = percent(50) ? 20 : 80;
    sim.broken_stays_broken = percent(40);
    sim.step_faults = sim.broken_stays_broken && percent(50) ? 2 : 0;
    fake_transfer_reset(seed, sim.broken_stays_broken ? 10 + below(60) : 0);
    rig_book_clear(&sim.book);
    world_workers();
    sim.ask_count = 1 + below(ASKS_MAX);
    uint64_t span = percent(50) ? 20 : 600;
    for (uint32_t i = 0; i < sim.ask_count; i++)
        world_ask(&sim.asks[i], i, span);
}

/* All messages that are due, in the order in which they arrive. */
static void world_deliver(void)
{
    for (;;) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < sim.message_count; i++) {
            const struct sim_message *m = &sim.messages[i];
            if (m->due <= sim.now &&
                (best == UINT32_MAX || m->due < sim.messages[best].due ||
                 (m->due == sim.messages[best].due && m->number < sim.messages[best].number)))
                best = i;
        }
        if (best == UINT32_MAX)
            return;
        struct sim_message m = sim.messages[best];
        sim.messages[best] = sim.messages[--sim.message_count];
        if (m.up)
            router_take(&m);
        else
            worker_take(&m);
    }
}

/* Workers leave (they get nothing new) and come back; one stays. */
static void world_drain(void)
{
    uint32_t usable = 0, i = below(sim.worker_count);
    for (uint32_t k = 0; k < sim.worker_count; k++)
        usable += sim.workers[k].usable;
    if (sim.workers[i].usable && usable > 1)
        sim.workers[i].usable = false;
    else
        sim.workers[i].usable = true;
}

static void world_tick(void)
{
    sim.now++;
    for (uint32_t i = 0; i < sim.ask_count; i++) {
        struct sim_ask *a = &sim.asks[i];
        if (a->state == ASK_NEW && a->arrives <= sim.now)
            ask_route(a);
        if (a->hangs_up != 0 && a->hangs_up <= sim.now && a->state != ASK_NEW &&
            a->state != ASK_DONE)
            ask_release(a, OUTCOME_CANCELLED);
    }
    if (below(1000) == 0)
        world_drain();
    fake_transfer_tick();
    world_deliver();
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        struct sim_worker *w = &sim.workers[i];
        if (below(8) >= w->speed)
            continue;
        if (below(1000) < sim.step_faults)
            w->station.fail_next = ERR_IO;
        sim.steps += station_step(&w->station);
        w->station.fail_next = OK;
        worker_check(w);
    }
}

static bool world_over(void)
{
    bool over = sim.message_count == 0 && fake_transfer_idle();
    for (uint32_t i = 0; i < sim.ask_count; i++)
        over = over && sim.asks[i].state == ASK_DONE;
    for (uint32_t i = 0; i < sim.worker_count; i++)
        over = over && prefill_idle(sim.workers[i].station.prefill) &&
               decode_idle(sim.workers[i].station.decode);
    return over;
}

static void ask_check(const struct sim_ask *a)
{
    struct rig_tokens *expected = malloc(sizeof(*expected));
    assert_non_null(expected);
    rig_reference_run(&sim.reference, &a->ask, expected);
    for (uint32_t s = 0; s < ask_n(a); s++) {
        uint32_t count = a->counts[s];
        if (a->outcome == OUTCOME_RESULT) {
            uint32_t all =
                a->stop_at[s] < expected->counts[s] ? a->stop_at[s] + 1 : expected->counts[s];
            assert_int_equal(count, all);
        }
        /* Those of an error or a client that left are right as far as they go. */
        assert_true(count <= expected->counts[s]);
        assert_memory_equal(a->tokens[s], expected->tokens[s], count * sizeof(uint32_t));
    }
    free(expected);
    if (a->outcome == OUTCOME_ERROR && !sim.broken_stays_broken)
        fail_msg("request %llu failed (%s) where nothing broke", (unsigned long long)a->ask.id,
                 status_name(a->error));
}

static void world_close(void)
{
    for (uint32_t i = 0; i < sim.ask_count; i++) {
        const struct sim_ask *a = &sim.asks[i];
        ask_check(a);
        sim.results += a->outcome == OUTCOME_RESULT;
        sim.errors += a->outcome == OUTCOME_ERROR;
        sim.cancelled += a->outcome == OUTCOME_CANCELLED;
    }
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        struct station *s = &sim.workers[i].station;
        struct decode_counters counters;
        struct prefix_tree_counts blocks;
        decode_count(s->decode, &counters);
        prefix_tree_count(s->tree, &blocks);
        sim.preemptions += counters.preemptions;
        sim.evictions += blocks.evictions;
        sim.swap_out_blocks += counters.swap_out_blocks;
        sim.swap_in_blocks += counters.swap_in_blocks;
        sim.recomputed_tokens += counters.recomputed_tokens;
        station_assert_idle(s);
        assert_int_equal(sim.workers[i].decoding, 0);
        assert_int_equal(sim.workers[i].queued_tokens, 0);
        prefill_close(s->prefill);
        decode_close(s->decode);
        prefix_tree_close(s->tree);
        free(s->sequences);
    }
    sim.ticks += sim.now;
}

static void world_print(void)
{
    print_message("seed %llu, tick %llu, %u messages, leases and receives %s\n",
                  (unsigned long long)sim.seed, (unsigned long long)sim.now, sim.message_count,
                  fake_transfer_idle() ? "over" : "open");
    for (uint32_t i = 0; i < sim.ask_count; i++) {
        const struct sim_ask *a = &sim.asks[i];
        if (a->state != ASK_DONE)
            print_message("  request %llu: state %d, prefill %d, decode %d, prompt %u, n %u\n",
                          (unsigned long long)a->ask.id, a->state, a->prefill, a->decode,
                          a->ask.prompt_tokens, ask_n(a));
    }
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        struct station *s = &sim.workers[i].station;
        struct prefill_counters p;
        struct decode_counters d;
        struct prefix_tree_counts b;
        prefill_count(s->prefill, &p);
        decode_count(s->decode, &d);
        prefix_tree_count(s->tree, &b);
        print_message(
            "  worker %u (roles %u): prefill %u waiting %u running %u held; decode %u "
            "waiting %u receiving %u running %u preempted; blocks %u free %u cached of %u\n",
            i, sim.workers[i].roles, p.waiting, p.running, p.held, d.waiting, d.receiving,
            d.running, d.preempted, b.free, b.cached, s->block_count);
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static uint64_t seed_count = 100, seed_first = 1;
#else
static uint64_t seed_count = 400, seed_first = 1;
#endif

static void every_world_comes_to_its_end(void **state)
{
    (void)state;
    rig_book_open(&sim.book);
    ASSERT_OK(weights_open(MODEL, &sim.model));
    rig_reference_open(&sim.reference, sim.model);
    sim.messages = calloc(MESSAGES_MAX, sizeof(*sim.messages));
    assert_non_null(sim.messages);
    const struct engine_config config = {.context_tokens = CONTEXT_TOKENS,
                                         .rows_max = 2 * 32 + 8,
                                         .sequences_max = 8 + 16,
                                         .outputs_max = 8 + 32};
    for (int i = 0; i < WORKERS_MAX; i++)
        rig_engine_open(sim.model, &config, POOL_BLOCKS, SWAP_SLOTS, &sim.engines[i]);

    for (uint64_t seed = seed_first; seed < seed_first + seed_count; seed++) {
        fprintf(stderr, "\rseed %llu ",
                (unsigned long long)seed); /* the last one, should it abort */
        world_open(seed);
        while (!world_over()) {
            world_tick();
            if (sim.now > TICKS_MAX) {
                world_print();
                fail_msg("seed %llu does not come to its end", (unsigned long long)seed);
            }
        }
        world_close();
    }
    fprintf(stderr, "\n");
    print_message(
        "%llu worlds: %llu results, %llu errors, %llu cancelled, %llu begun again, %llu "
        "local, %llu handoffs, %llu preemptions, %llu blocks swapped out, %llu in, %llu tokens "
        "computed again, %llu evictions, %llu steps, %llu ticks\n",
        (unsigned long long)seed_count, (unsigned long long)sim.results,
        (unsigned long long)sim.errors, (unsigned long long)sim.cancelled,
        (unsigned long long)sim.again, (unsigned long long)sim.local,
        (unsigned long long)fake_handoffs, (unsigned long long)sim.preemptions,
        (unsigned long long)sim.swap_out_blocks, (unsigned long long)sim.swap_in_blocks,
        (unsigned long long)sim.recomputed_tokens, (unsigned long long)sim.evictions,
        (unsigned long long)sim.steps, (unsigned long long)sim.ticks);
    if (seed_count >= 100) { /* the worlds are as eventful as they are meant to be */
        assert_true(sim.swap_in_blocks > seed_count && sim.recomputed_tokens > seed_count);
        assert_true(sim.preemptions > seed_count && sim.again > 0 && sim.errors > 0);
        assert_true(sim.cancelled > seed_count && fake_handoffs > seed_count && sim.local > 0);
        assert_true(fake_known > 0);
    }
    fake_transfer_reset(0, 0);
    for (int i = 0; i < WORKERS_MAX; i++)
        engine_close(sim.engines[i]);
    rig_reference_close(&sim.reference);
    rig_book_close(&sim.book);
    weights_close(sim.model);
    free(sim.messages);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_world_comes_to_its_end)};
    seed_count = argc > 1 ? strtoull(argv[1], NULL, 0) : seed_count;
    seed_first = argc > 2 ? strtoull(argv[2], NULL, 0) : seed_first;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
