/* The routers' own code under a fake clock: routing, directory, lending, failover, relay. One to
 * three routers share workers that die, are stopped, hang, are slow, leave, change their roles and
 * come back as other incarnations; routers die too; links break or swallow everything; clients
 * leave. In every third world the network is lossy: single messages are dropped, come twice, late
 * and out of order, which TCP never does to them.
 *
 *     router_sim_test [SEEDS [FIRST]]     a seed is a world, the same every time; the last one
 *                                         printed is the one that fails
 *
 * After every event:
 *   - a router's books are right: what it believes to have given each worker is the sum of its
 *     requests, each of which is found by its id, and has workers that are there;
 *   - an attempt has one worker that computes it and one that decodes it, and a place only after
 *     that one granted it; no worker has more sequences than it may (sim_worker.h);
 *   - what a client has is the beginning of what it should have: nothing twice, nothing lost;
 * and every 100 ms:
 *   - no lease, lending or sequence on a worker outlives its request, or its router;
 *   - the directory names workers that are there, and never a dead incarnation;
 *   - no request is without progress beyond its deadline;
 *   - no stream is silent for longer than 10 s.
 * At the end nothing is left of anybody, and the directory knows what the workers hold. With a
 * network that keeps its word every request that has a worker, and its router, gets its answer,
 * but for one that takes workers down: it ends by name, and those beside it do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/log.h"
#include "sim_client.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama-q4_1-tied.gguf"
#define REQUEST_TIMEOUT_MS 20000
#define SILENCE_MS 1000
#define STUCK_MS 3000
#define TICK_MS 100
#define ARRIVALS_MS 3000
#define DIRECTORY_ASK_AGAIN 32 /* router/directory.c */
#define LEND_MS 30000          /* router/sources.c: unfetched, it ends by itself */

static struct {
    uint64_t kills, stops, hangs, leaves, breaks, holes, roles, routers, failovers, moved, repairs,
        lossy;
    uint64_t stores, store_stops, evicted;
} harms;

/* ---- routers ---- */

static void router_start(struct net_event *event)
{
    struct sim_router *s = event->subject;
    uint64_t index = event->number;
    struct router *router = calloc(1, sizeof(*router));
    assert_non_null(router);
    s->router = router;
    s->lives++;
    router->options = &s->options;
    router->handoff = sim.handoff;
    router->model = world.model;
    router->tokenizer = world.tokenizer;
    router->model_name = "sim";
    router->pool = (struct task_pool *)router; /* task_pool_post gives it back */
    router->loop = (struct loop *)(uintptr_t)index;
    router->text = text_open(256u << 20);
    router->hello = (struct hello){.parts = HELLO_HAS_MODEL,
                                   .ranks = 1,
                                   .role = HELLO_ROUTER,
                                   .incarnation = (s->lives << 8) + index + 1,
                                   .name = "router"};
    router->next_request_id = (router->hello.incarnation << (64 - WIRE_ROUTER_BITS)) + 1;
    assert_int_equal(http_keys_open(&router->keys), OK);
    assert_int_equal(metrics_open(router), OK);
    assert_int_equal(health_open(router), OK);
}

static void router_close(struct sim_router *s)
{
    struct router *router = s->router;
    struct directory_counts counts;
    directory_count(router->directory, &counts);
    harms.repairs += counts.repairs;
    harms.failovers += router->failover_count;
    harms.moved += router->moved_count;
    s->router = NULL;
    health_close(router);
    metrics_close(router);
    http_keys_close(router->keys);
    text_close(&router->text);
    wire_frame_close(&router->frame);
    free(router);
}

/* Its process is gone at once; what it had in memory is only freed. */
static void router_kill(uint32_t index)
{
    struct sim_router *s = &world.routers[index];
    if (s->router == NULL)
        return;
    net_router_gone(index);
    for (uint32_t i = 0; i < world.client_count; i++) {
        if (world.clients[i].router == index)
            client_cut(&world.clients[i]);
    }
    net_tasks_finish(s->router);
    router_close(s);
    net_after((100 + net_below(1500)) * MS, router_start, s, index);
}

/* ---- after every event ---- */

static void check_request(const struct router *router, const struct request *r)
{
    if (r->id == 0) {
        assert_true(r->state == REQUEST_DONE);
        return;
    }
    assert_ptr_equal(request_find((struct router *)router, r->id), r);
    assert_true(r->state != REQUEST_DONE);
    assert_true(r->id == r->wire.request_id);
    if (r->state == REQUEST_PARKED)
        assert_true(r->prefill == NULL && r->decode == NULL);
    else
        assert_true(r->prefill != NULL || r->decode != NULL);
    assert_true(r->sequences_left > 0 && r->sequences_left <= r->wire.sequence_count);
}

/* What it believes to have given to this worker. */
static void check_worker(const struct router *router, const struct worker *w)
{
    uint64_t queued = 0, decoding = 0;
    for (const struct answer *a = router->answers; a != NULL; a = a->next) {
        for (uint32_t i = 0; a->requests != NULL && i < a->prompt_count; i++) {
            const struct request *r = &a->requests[i];
            if (r->prefill == w && r->state == REQUEST_WAITING)
                queued += r->wire.prompt_tokens;
            decoding += r->decode == w ? r->wire.sequence_count : 0;
        }
        for (const struct request *r = a->pieces; r != NULL; r = r->next_piece) {
            if (r->prefill == w && r->state == REQUEST_WAITING)
                queued += r->wire.prompt_tokens;
            decoding += r->decode == w ? r->wire.sequence_count : 0;
        }
    }
    assert_int_equal(w->queued_tokens, queued);
    assert_int_equal(w->decoding, decoding);
}

/* Returns how many of its requests some worker has, or is to have. */
static uint32_t check_answer(const struct router *router, const struct answer *a)
{
    uint32_t left = 0;
    for (uint32_t i = 0; a->requests != NULL && i < a->prompt_count; i++) {
        check_request(router, &a->requests[i]);
        left += a->requests[i].id != 0;
    }
    for (const struct request *r = a->pieces; r != NULL; r = r->next_piece) {
        check_request(router, r);
        left += r->id != 0;
    }
    if (a->requests != NULL)
        assert_int_equal(left, a->requests_left);
    return left;
}

static void check_books(void)
{
    for (uint32_t i = 0; i < sim.router_count; i++) {
        const struct router *router = world.routers[i].router;
        uint32_t waiting = 0, left = 0;
        if (router == NULL)
            continue;
        for (const struct answer *a = router->answers; a != NULL; a = a->next) {
            left += check_answer(router, a);
            waiting += a->waiting;
        }
        assert_int_equal(router->tracked_count, left);
        assert_int_equal(router->waiting_count, waiting);
        for (const struct worker *w = router->workers; w != NULL; w = w->next)
            check_worker(router, w);
    }
}

/* ---- every 100 ms ---- */

static bool request_is_known(uint64_t id)
{
    for (uint32_t i = 0; i < sim.router_count; i++) {
        struct router *router = world.routers[i].router;
        if (router != NULL && request_find(router, id) != NULL)
            return true;
    }
    return false;
}

/* How long a worker may hold something for a request that is over: until it hears of it, or that
 * its router is gone. Where messages are lost, until the deadline that it was given. */
static uint64_t orphan_limit_ms(const struct sim_worker *w, uint64_t id, bool lending)
{
    if (net.was_lossy)
        return lending ? LEND_MS + 1000 : REQUEST_TIMEOUT_MS + 1000;
    for (uint32_t i = 0; i < sim.router_count; i++) {
        if (w->numbers[i] == WIRE_ROUTER_OF(id) && w->links[i]->black)
            return NET_WORKER_IDLE_MS + 1000;
    }
    return 1000;
}

static void check_orphan(const struct sim_worker *w, uint64_t id, uint64_t *orphan_ns, bool lending)
{
    if (request_is_known(id)) {
        *orphan_ns = 0;
        return;
    }
    if (*orphan_ns == 0 || *orphan_ns < w->asleep_ns)
        *orphan_ns = net.now_ns;
    if (net.now_ns - *orphan_ns > orphan_limit_ms(w, id, lending) * MS)
        fail_msg("%s holds %s for request %016llx, which is over since %llu ms", w->name,
                 lending ? "a lease" : "a sequence", (unsigned long long)id,
                 (unsigned long long)((net.now_ns - *orphan_ns) / MS));
}

static void check_leases(void)
{
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        struct sim_worker *w = &sim.workers[i];
        if (!w->alive || w->stopped || w->hung)
            continue;
        for (uint32_t k = 0; k < SIM_JOBS_MAX; k++) {
            if (w->jobs[k].state != JOB_NONE)
                check_orphan(w, w->jobs[k].wire->request_id, &w->jobs[k].orphan_ns, false);
        }
        for (uint32_t k = 0; k < SIM_LENDS_MAX; k++) {
            if (w->lends[k].open)
                check_orphan(w, w->lends[k].request_id, &w->lends[k].orphan_ns, true);
        }
    }
}

static uint64_t incarnation_death_ns(uint64_t incarnation)
{
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        if (sim.workers[i].incarnation == incarnation)
            return sim.workers[i].alive ? 0 : sim.workers[i].died_ns;
        if (sim.workers[i].last_incarnation == incarnation)
            return sim.workers[i].died_ns;
    }
    return 1; /* long ago */
}

/* What a router believes to be there is, but for the time that it takes to notice. */
static void check_worker_is_there(const struct router *router, const struct worker *w)
{
    const struct wire_register *r = &w->registration;
    uint64_t died_ns = incarnation_death_ns(r->incarnation);
    const struct sim_worker *there = worker_of(r->incarnation);
    if (died_ns != 0 && net.now_ns - died_ns > (SILENCE_MS + 2 * TICK_MS + 300) * MS)
        fail_msg("%s is known as %016llx, which is dead", r->name,
                 (unsigned long long)r->incarnation);
    if (there != NULL && there->hung && worker_has(there, JOB_QUEUED, JOB_RUNNING) &&
        net.now_ns - there->hung_ns > (STUCK_MS + 1000) * MS)
        fail_msg("%s hangs for %llu ms and is still there", r->name,
                 (unsigned long long)((net.now_ns - there->hung_ns) / MS));
    for (const struct worker *other = router->workers; other != w; other = other->next) {
        if (other->registered && strcmp(other->registration.name, r->name) == 0)
            fail_msg("%s is there twice", r->name);
    }
}

static void check_directory_of(const struct router *router)
{
    uint32_t runs[DIRECTORY_WORKERS_MAX], nobody[DIRECTORY_WORKERS_MAX];
    memset(nobody, 0xff, sizeof(nobody));
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w->slot < 0)
            continue;
        assert_true(w->registered && nobody[w->slot] != 0);
        nobody[w->slot] = 0;
        check_worker_is_there(router, w);
    }
    for (uint32_t c = 0; c < world.client_count; c++) {
        const struct sim_client *client = &world.clients[c];
        uint32_t named = 0;
        directory_find(router->directory, client->keys, client->key_count, runs, NULL);
        for (uint32_t slot = 0; slot < DIRECTORY_WORKERS_MAX; slot++)
            named |= runs[slot] & nobody[slot];
        if (named != 0)
            fail_msg("the directory names a slot where nobody is, for client %u", c);
    }
}

static void check_deadlines(const struct router *router)
{
    uint64_t limit_ns = (REQUEST_TIMEOUT_MS + 1000) * MS;
    for (uint32_t b = 0; router->tracked_count > 0 && b < ROUTER_BUCKETS; b++) {
        for (const struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            if (net.now_ns - r->progress_ns > limit_ns)
                fail_msg("request %016llx outlives its deadline", (unsigned long long)r->id);
        }
    }
}

/* A stream is told every 10 s that it is alive, whatever it waits for. */
static void check_silence(const struct router *router)
{
    for (const struct answer *a = router->answers; a != NULL; a = a->next) {
        const struct net_client *client = (const struct net_client *)a->http;
        if (client != NULL && a->requests != NULL && a->openai->stream)
            assert_true(net.now_ns - client->heard_ns < (NET_PING_MS + TICK_MS) * MS);
    }
}

static void tick(struct net_event *event)
{
    (void)event;
    net_look_for_silence();
    store_tick();
    for (uint32_t i = 0; i < sim.router_count; i++) {
        struct router *router = world.routers[i].router;
        if (router == NULL)
            continue;
        route_tick(router);
        relay_tick(router);
        check_silence(router);
        check_directory_of(router);
        check_deadlines(router);
    }
    check_leases();
    net_after(TICK_MS * MS, tick, NULL, 0);
}

/* ---- harm ---- */

static void do_harm(struct net_event *event)
{
    struct sim_worker *w = &sim.workers[net_below(sim.worker_count)];
    uint32_t router = net_below(sim.router_count);
    struct link *link = w->links[router];
    (void)event;
    switch (net_below(sim_store.there ? 13 : 10)) {
    case 10:
        store_kill();
        harms.stores++;
        break;
    case 11:
        store_sleep(50 + net_below(6000));
        harms.store_stops++;
        break;
    case 12:
        sim_store.lag_ns = (50 + net_below(1500)) * MS;
        break;
    case 0:
    case 1:
        worker_kill(w);
        harms.kills++;
        break;
    case 2:
        worker_sleep(w, false, 50 + net_below(3500));
        harms.stops++;
        break;
    case 3:
        worker_sleep(w, true, 50 + net_below(6000));
        harms.hangs++;
        break;
    case 4:
        if (link != NULL)
            link_break(link);
        harms.breaks++;
        break;
    case 5:
        if (link != NULL)
            link->black = true;
        harms.holes++;
        break;
    case 6:
        worker_change_roles(w, 1 + net_below(3));
        harms.roles++;
        break;
    case 7:
        worker_leave(w);
        harms.leaves++;
        break;
    case 8:
        router_kill(router);
        harms.routers++;
        break;
    default:
        w->mute = !w->mute; /* its directory events have gaps */
        break;
    }
}

/* ---- a world ---- */

/* How prompts are handed over, and whether there is a store that has room for them. */
static void world_open_store(void)
{
    bool big = net_chance(600), slow = net_chance(100), all = true;
    sim.handoff = (enum router_handoff)net_below(3);
    if (sim.handoff != ROUTER_HANDOFF_DIRECT || net_chance(300))
        store_open(big ? STORE_SLOTS_MAX : 16 + net_below(96), slow ? 600 : 2 + net_below(10));
    else
        store_open(0, 0);
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        sim.workers[i].has_store = sim_store.there && net_chance(950);
        all = all && sim.workers[i].has_store;
    }
    sim.sure = world.harm_count == 0 && big && !slow && all &&
               sim.handoff == ROUTER_HANDOFF_STORE && world.clients[0].poison == false;
}

static void world_open(uint64_t seed)
{
    net_open(seed);
    memset(&sim.workers, 0, sizeof(sim.workers));
    memset(&sim.given, 0, sizeof(sim.given));
    memset(world.clients, 0, sizeof(world.clients));
    memset(world.routers, 0, sizeof(world.routers));
    sim.calm = false;
    wire_frame_reset(&sim.frame);
    sim.router_count = net_chance(500) ? 1 : 2 + net_below(SIM_ROUTERS_MAX - 1);
    sim.worker_count = 2 + net_below(SIM_WORKERS_MAX - 1);
    uint32_t local = net_chance(500) ? 64 : 0, crashes = net_chance(500) ? 3 : 0;
    for (uint32_t i = 0; i < sim.router_count; i++) {
        struct sim_router *s = &world.routers[i];
        s->options = (struct router_options){.workers = "127.0.0.1:1",
                                             .queue = 256,
                                             .expect_workers = 1,
                                             .local_tokens = local,
                                             .crashes = crashes,
                                             .request_timeout_ms = REQUEST_TIMEOUT_MS,
                                             .silence_ms = SILENCE_MS,
                                             .stuck_ms = STUCK_MS};
        net_after(0, router_start, s, i);
    }
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        struct sim_worker *w = &sim.workers[i];
        w->index = i;
        w->roles = i == 0 ? WIRE_ROLE_PREFILL : i == 1 ? WIRE_ROLE_DECODE : 1 + net_below(3);
        w->decode_batch = 4 + net_below(8);
        w->step_ns = (net_chance(100) ? 40 + net_below(40) : 2 + net_below(10)) * MS;
        snprintf(w->name, sizeof(w->name), "worker-%u", i);
        net_after((1 + net_below(100)) * MS, worker_start, w, 0);
    }
    world.client_count = 4 + net_below(CLIENTS_MAX - 3);
    for (uint32_t i = 0; i < world.client_count; i++) {
        uint64_t at = NET_START + (300 + net_below(ARRIVALS_MS)) * MS;
        world.clients[i].router = net_below(sim.router_count);
        net_at(at, client_arrive, &world.clients[i], 0);
        if (net_chance(150))
            net_at(at + net_below(600) * MS, client_leave, &world.clients[i], 0);
    }
    world.clients[0].poison = crashes > 0 && net_chance(400);
    world.harm_count = net_chance(250) ? 0 : net_below(12);
    world_open_store();
    for (uint32_t i = 0; i < world.harm_count; i++)
        net_at(NET_START + (300 + net_below(ARRIVALS_MS)) * MS, do_harm, NULL, 0);
    net.lossy = net.was_lossy = world.harm_count > 0 && seed % 3 == 0;
    harms.lossy += net.lossy;
    net_after(TICK_MS * MS, tick, NULL, 0);
}

static bool world_clients_over(void)
{
    for (uint32_t i = 0; i < world.client_count; i++) {
        if (!world.clients[i].arrived || !world.clients[i].net.over)
            return false;
    }
    return true;
}

static void world_run(uint64_t ms)
{
    uint64_t end_ns = net.now_ns + ms * MS;
    while (net.count > 0 && net.heap[0]->at_ns <= end_ns) {
        net_run_one();
        check_books();
    }
    net.now_ns = net.now_ns > end_ns ? net.now_ns : end_ns;
}

static void world_check_clients(void)
{
    for (uint32_t i = 0; i < world.client_count; i++) {
        const struct sim_client *c = &world.clients[i];
        uint64_t took_ms = (c->ended_ns - c->arrived_ns) / MS;
        assert_true(c->net.over);
        world.left += c->net.left;
        /* Waiting, and then without progress: each has its bound. */
        assert_true(took_ms < 3 * REQUEST_TIMEOUT_MS);
        assert_true(!c->poison || c->failed || c->net.left);
        if (!c->failed)
            continue;
        bool known = false;
        for (uint32_t k = 0; k < KNOWN_ERRORS; k++)
            known = known || strcmp(c->failure, known_errors[k]) == 0;
        bool refused = strcmp(c->failure, "no_workers") == 0 && took_ms < 10;
        /* Who is there at three deaths may be blamed for them, but not for those of another that
         * its router knows of. */
        bool crashed = strcmp(c->failure, "crashes_workers") == 0 &&
                       (c->poison || net.was_lossy || world.harm_count > 2 || sim.router_count > 1);
        if (!known || (!net.was_lossy && !refused && !crashed))
            fail_msg("client %u got the error \"%s\" after %llu ms", i, c->failure,
                     (unsigned long long)took_ms);
    }
}

/* What a router believes of each worker is what is there. */
static void check_router_at_end(const struct router *router)
{
    uint32_t runs[DIRECTORY_WORKERS_MAX], registered = 0;
    assert_null(router->answers);
    assert_int_equal(router->waiting_count, 0);
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++)
        assert_null(router->buckets[b]);
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        registered += w->registered && !w->closed;
        assert_int_equal(w->decoding, 0);
        assert_int_equal(w->queued_tokens, 0);
        const struct sim_worker *there = worker_of(w->registration.incarnation);
        assert_non_null(there);
        for (uint32_t c = 0; c < world.client_count; c++) {
            const struct sim_client *client = &world.clients[c];
            directory_find(router->directory, client->keys, client->key_count, runs, NULL);
            uint32_t run = worker_run(there, client->keys, client->key_count);
            if (runs[w->slot] != run)
                fail_msg("of client %u's prompt the directory knows %u blocks at %s, which has %u",
                         c, runs[w->slot], w->registration.name, run);
        }
    }
    assert_int_equal(registered, sim.worker_count);
}

static void world_check_end(void)
{
    for (uint32_t i = 0; i < sim.router_count; i++) {
        assert_non_null(world.routers[i].router);
        check_router_at_end(world.routers[i].router);
    }
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        const struct sim_worker *w = &sim.workers[i];
        if (worker_has(w, JOB_QUEUED, JOB_RUNNING) || worker_lends(w))
            fail_msg("%s still holds something", w->name);
    }
    store_check_at_rest();
}

/* One more event shows every gap; where the router's question was lost too, it takes some more. */
static void world_tell_more(uint32_t events)
{
    for (uint32_t k = 0; k < events; k++) {
        for (uint32_t i = 0; i < sim.worker_count; i++) {
            const uint32_t tokens[SIM_BLOCK_TOKENS] = {300, i, k};
            worker_seal(&sim.workers[i], tokens, SIM_BLOCK_TOKENS);
            worker_wake(&sim.workers[i]);
        }
        world_run(100);
    }
    world_run(5000); /* a slow store is slow */
}

static void world_close(void)
{
    for (uint32_t i = 0; i < sim.worker_count; i++) {
        worker_forget(&sim.workers[i], 0);
        sim.workers[i].alive = false;
    }
    for (uint32_t i = 0; i < sim.router_count; i++)
        router_close(&world.routers[i]);
    store_close();
    harms.evicted += sim_store.evicted;
    for (uint32_t i = 0; i < world.client_count; i++) {
        text_close(&world.clients[i].net.streamed);
        free(world.clients[i].net.body);
    }
    net_close();
}

/* Returns what was said in it, summed up. */
static uint64_t world_live(uint64_t seed)
{
    world_open(seed);
    world_run(300 + ARRIVALS_MS);
    /* Whoever lost something lives on with it; but nothing new goes wrong. */
    sim.calm = true;
    net.lossy = false;
    uint64_t end_ns = net.now_ns + 3 * REQUEST_TIMEOUT_MS * MS;
    while (!world_clients_over() && net.now_ns < end_ns)
        world_run(TICK_MS);
    world_check_clients();
    /* After a lossy life a worker may hold what nobody wants until its own deadline. */
    world_run(net.was_lossy ? 2 * REQUEST_TIMEOUT_MS + LEND_MS + 5000 : 15000);
    world_tell_more(net.was_lossy ? 2 * DIRECTORY_ASK_AGAIN : 1);
    world_check_end();
    uint64_t trace = net.trace;
    world_close();
    return trace;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static uint64_t seed_count = 100, seed_first = 1;
#else
static uint64_t seed_count = 250, seed_first = 1;
#endif

static void tell(void)
{
    const struct {
        const char *what;
        uint64_t count;
    } counts[] = {
        {"lossy", harms.lossy},
        {"answers", world.answers},
        {"errors", world.errors},
        {known_errors[0], world.codes[0]},
        {known_errors[1], world.codes[1]},
        {known_errors[2], world.codes[2]},
        {known_errors[3], world.codes[3]},
        {"clients that left", world.left},
        {"refused by a dead router", world.refused},
        {"pings", world.pings},
        {"kills", harms.kills},
        {"stops", harms.stops},
        {"hangs", harms.hangs},
        {"drains", harms.leaves},
        {"broken links", harms.breaks},
        {"black holes", harms.holes},
        {"other roles", harms.roles},
        {"dead routers", harms.routers},
        {"failovers", harms.failovers},
        {"moved to idle workers", harms.moved},
        {"handoffs", sim.handoffs},
        {"failed handoffs", sim.failed_handoffs},
        {"refused places", sim.refusals},
        {"pulls", sim.pulls},
        {"failed pulls", sim.failed_pulls},
        {"handoffs by the store", sim.saves},
        {"failed handoffs by the store", sim.failed_saves},
        {"gets", sim.gets},
        {"failed gets", sim.failed_gets},
        {"tokens computed again", sim.again},
        {"dead stores", harms.stores},
        {"stopped stores", harms.store_stops},
        {"evicted", harms.evicted},
        {"gaps repaired", harms.repairs},
        {"messages dropped", net_dropped},
        {"twice", net_twice},
        {"late", net_late},
    };
    print_message("%llu worlds", (unsigned long long)seed_count);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        print_message(", %llu %s", (unsigned long long)counts[i].count, counts[i].what);
    print_message("\n");
}

static void every_world_comes_to_its_end(void **state)
{
    (void)state;
    for (uint64_t seed = seed_first; seed < seed_first + seed_count; seed++) {
        fprintf(stderr, "\rseed %llu ", (unsigned long long)seed);
        world_live(seed);
    }
    fprintf(stderr, "\n");
    tell();
    if (seed_count < 100)
        return;
    /* The worlds are as eventful as they are meant to be. */
    assert_true(world.answers > 5 * seed_count && harms.failovers > seed_count);
    assert_true(harms.moved > 0);
    assert_true(sim.handoffs > seed_count && sim.failed_handoffs > 0 && sim.pulls > 0);
    assert_true(sim.refusals > 0);
    assert_true(sim.saves > seed_count && sim.failed_saves > 0 && sim.gets > seed_count);
    assert_true(harms.stores > 0 && harms.evicted > 0);
    assert_true(world.codes[2] > 0); /* crashes_workers */
    assert_true(world.pings > 0);
    assert_true(harms.repairs > 0 && harms.roles > 0 && world.left > 0);
}

/* A seed that fails can be looked at: it fails again. */
static void a_seed_is_one_world(void **state)
{
    (void)state;
    for (uint64_t seed = seed_first; seed < seed_first + 6; seed++) {
        uint64_t once = world_live(seed);
        assert_true(world_live(seed) == once);
    }
}

static int group_open(void **state)
{
    const uint8_t salt[WIRE_SALT_BYTES] = {0};
    (void)state;
    log_open("sim", LOG_ERROR);
    json_object_seed(1);
    randombytes_set_implementation(&net_random_source);
    assert_true(sodium_init() >= 0);
    assert_int_equal(weights_choose(MODEL, NULL, &world.model), OK);
    assert_int_equal(model_tokenizer_open(world.model, &world.tokenizer), OK);
    sim.hello = (struct hello){.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                               .numerics_class = "sim",
                               .kv_dtype = DTYPE_F16,
                               .block_tokens = SIM_BLOCK_TOKENS,
                               .ranks = 1};
    sim.root =
        block_key_root(sim.hello.fingerprint, sim.hello.layout_hash, (enum dtype)sim.hello.kv_dtype,
                       sim.hello.numerics_class, salt, sizeof(salt));
    return 0;
}

static int group_close(void **state)
{
    (void)state;
    wire_frame_close(&sim.frame);
    tokenizer_close(world.tokenizer);
    weights_close(world.model);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_world_comes_to_its_end),
                                       cmocka_unit_test(a_seed_is_one_world)};
    seed_count = argc > 1 ? strtoull(argv[1], NULL, 0) : seed_count;
    seed_first = argc > 2 ? strtoull(argv[2], NULL, 0) : seed_first;
    return cmocka_run_group_tests(tests, group_open, group_close);
}
