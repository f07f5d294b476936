/* tests/sim/sim_control.h - a worker's connections with its routers, and its life, as
 * worker/control.h has them: with one router lost its requests end, with the last one lost the
 * worker comes back as another incarnation. It dies, is stopped or hangs and goes on, leaves when
 * it is done, and comes back.
 */
#ifndef TESTS_SIM_CONTROL_H
#define TESTS_SIM_CONTROL_H

#include "sim_worker.h"

/* ---- frames from the router ---- */

static void worker_cancel(struct sim_worker *w, const struct wire_cancel *cancel)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state == JOB_NONE || job->wire->request_id != cancel->request_id)
            continue;
        if (cancel->sequence == WIRE_ALL_SEQUENCES) {
            job_end(job);
        } else if (job->state == JOB_RUNNING && cancel->sequence < job->wire->sequence_count) {
            job->done[cancel->sequence] = true;
            if (job_is_done(job))
                job_end(job);
        }
    }
}

static void worker_lend(struct sim_worker *w, const struct wire_lend *lend)
{
    struct block_key keys[SIM_CONTEXT / SIM_BLOCK_TOKENS];
    assert_true(lend->key_count <= SIM_CONTEXT / SIM_BLOCK_TOKENS);
    memcpy(keys, lend->keys, lend->key_count * sizeof(*keys));
    for (uint32_t i = 0; i < SIM_LENDS_MAX; i++) {
        if (w->lends[i].open)
            continue;
        w->lends[i] = (struct sim_lend){.open = true,
                                        .request_id = lend->request_id,
                                        .expiry_ns = net.now_ns + lend->expiry_ms * MS,
                                        .lease = lend->lease,
                                        .epoch = lend->epoch,
                                        .block_count = worker_run(w, keys, lend->key_count)};
        return;
    }
    fail_msg("%s lends more than %u times: something leaks", w->name, SIM_LENDS_MAX);
}

/* Its connections with that incarnation are gone, and what was coming over them. */
static void worker_drop_peer(struct sim_worker *w, uint64_t incarnation)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state == JOB_RECEIVING && job->holder.incarnation == incarnation)
            job_fail(w, job, ERR_CLOSED, "the holder is lost");
    }
}

/* With --handoff store, those who compute prompts and those who decode never connect. */
static void worker_check_apart(const struct sim_worker *w, const struct sim_worker *holder)
{
    if (sim.handoff == ROUTER_HANDOFF_STORE && holder != NULL && !w->changed_roles &&
        !holder->changed_roles)
        assert_true((w->roles & holder->roles) != 0);
}

static void worker_take_request(struct sim_worker *w, uint16_t type, const uint8_t *payload,
                                uint32_t bytes)
{
    struct wire_request *wire;
    struct wire_holder holder = {0};
    assert_int_equal(type == WIRE_PREFILL ? wire_prefill_decode(payload, bytes, &wire)
                                          : wire_reserve_decode(payload, bytes, &wire, &holder),
                     OK);
    bool decodes = type == WIRE_RESERVE;
    struct sim_given *given = sim_given(wire->request_id);
    uint64_t *given_to = decodes ? &given->decode : &given->prefill;
    assert_true(*given_to == 0 || (net.was_lossy && *given_to == w->incarnation));
    *given_to = w->incarnation;
    if (job_find(w, wire->request_id, decodes ? JOB_WAITING : JOB_QUEUED,
                 decodes ? JOB_RUNNING : JOB_SAVING) != NULL) {
        wire_request_free(wire); /* twice the same */
        return;
    }
    assert_true(holder.incarnation != w->incarnation);
    assert_true(!decodes || sim.handoff != ROUTER_HANDOFF_STORE);
    for (uint32_t i = 0; i < wire->source_count; i++)
        worker_check_apart(w, worker_of(wire->sources[i].holder.incarnation));
    assert_true(wire->sequence_count <= SIM_SEQUENCES_MAX);
    struct sim_job *job = job_new(w, wire, decodes ? JOB_WAITING : JOB_QUEUED);
    job->holder = holder;
}

static void worker_take(struct sim_worker *w, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct wire_cancel cancel;
    struct wire_place place;
    struct wire_lend lend;
    uint64_t id;
    struct sim_job *job;
    switch (type) {
    case WIRE_PREFILL:
    case WIRE_RESERVE:
        worker_take_request(w, type, payload, bytes);
        break;
    case WIRE_PLACE:
        assert_int_equal(wire_place_decode(payload, bytes, &place), OK);
        assert_true(sim_given(place.request_id)->granted);
        assert_int_equal(sim_given(place.request_id)->matched_blocks, place.matched_blocks);
        if ((job = job_find(w, place.request_id, JOB_PLACING, JOB_PLACING)) != NULL)
            job->state = JOB_PLACED;
        break;
    case WIRE_CANCEL:
        assert_int_equal(wire_cancel_decode(payload, bytes, &cancel), OK);
        worker_cancel(w, &cancel);
        break;
    case WIRE_LEND:
        assert_int_equal(wire_lend_decode(payload, bytes, &lend), OK);
        worker_lend(w, &lend);
        break;
    case WIRE_LEND_END:
        assert_int_equal(wire_id_decode(payload, bytes, &id), OK);
        for (uint32_t i = 0; i < SIM_LENDS_MAX; i++)
            w->lends[i].open = w->lends[i].open && w->lends[i].request_id != id;
        break;
    case WIRE_BLOCKS_ASK:
        worker_tell_all(w);
        break;
    case WIRE_PEER_LOST:
        assert_int_equal(wire_id_decode(payload, bytes, &id), OK);
        worker_drop_peer(w, id);
        break;
    case WIRE_ALIVE:
        return;
    default:
        fail_msg("the router sends a frame of type 0x%04x", type);
    }
    worker_wake(w);
}

static bool worker_reads(const struct link *link)
{
    const struct sim_worker *w = link->worker;
    return w->alive && !w->stopped && !w->hung;
}

static void worker_on_frame(struct link *link, uint16_t type, const uint8_t *payload,
                            uint32_t bytes)
{
    struct sim_worker *w = link->worker;
    if (w->alive && w->links[link->router] == link)
        worker_take(w, type, payload, bytes);
}

/* ---- connections ---- */

static void worker_connect(struct net_event *event)
{
    struct sim_worker *w = event->subject;
    uint32_t router = event->type;
    if (!w->alive || w->life != event->number || w->links[router] != NULL)
        return;
    struct hello hello = sim.hello;
    hello.incarnation = w->incarnation;
    hello.role = HELLO_COLOCATED;
    snprintf(hello.name, sizeof(hello.name), "%s", w->name);
    if (!w->stopped && !w->hung)
        w->links[router] = net_connect(w, router, &hello);
    if (w->links[router] == NULL)
        net_after(250 * MS, worker_connect, w, w->life)->type = (uint16_t)router;
}

static void worker_connect_soon(struct sim_worker *w, uint32_t router, uint64_t delay_ms)
{
    net_after(delay_ms * MS, worker_connect, w, w->life)->type = (uint16_t)router;
}

static void worker_on_ready(struct link *link)
{
    struct sim_worker *w = link->worker;
    if (w->links[link->router] != link)
        return;
    w->numbers[link->router] = WIRE_ROUTER_NUMBER(link->setup.hello->incarnation);
    struct wire_register r = {.roles = w->roles,
                              .pid = w->index + 1,
                              .block_count = 1000,
                              .context_tokens = SIM_CONTEXT,
                              .decode_batch = w->decode_batch,
                              .has_store = w->has_store,
                              .incarnation = w->incarnation,
                              .transfer_tcp = "127.0.0.1:1",
                              .host = "sim"};
    snprintf(r.name, sizeof(r.name), "%s", w->name);
    wire_register_encode(&sim.frame, &r);
    worker_send(w, w->numbers[link->router], WIRE_REGISTER);
    if (w->leaving)
        worker_send(w, w->numbers[link->router], WIRE_LEAVING);
}

/* What this router has given it (0: any) is over. */
static void worker_forget(struct sim_worker *w, uint32_t number)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        struct sim_job *job = &w->jobs[i];
        if (job->state != JOB_NONE &&
            (number == 0 || WIRE_ROUTER_OF(job->wire->request_id) == number))
            job_end(job);
    }
    for (uint32_t i = 0; i < SIM_LENDS_MAX; i++) {
        if (number == 0 || WIRE_ROUTER_OF(w->lends[i].request_id) == number)
            w->lends[i].open = false;
    }
}

static void worker_disconnect(struct sim_worker *w)
{
    for (uint32_t i = 0; i < sim.router_count; i++) {
        net_disconnect(w->links[i]);
        w->links[i] = NULL;
        w->numbers[i] = 0;
    }
}

static void worker_new_incarnation(struct sim_worker *w)
{
    if (w->alive)
        w->died_ns = net.now_ns;
    w->last_incarnation = w->incarnation;
    w->store_life = 0;
    w->incarnation = (uint64_t)net_below(1u << 30) << 32 | (net.order + 1);
}

/* This router is lost, or has given it up. */
static void worker_on_cut(struct link *link)
{
    struct sim_worker *w = link->worker;
    uint32_t number = w->numbers[link->router], others = 0;
    if (w->links[link->router] != link || !w->alive)
        return;
    w->links[link->router] = NULL;
    w->numbers[link->router] = 0;
    for (uint32_t i = 0; i < sim.router_count; i++)
        others += w->numbers[i] != 0;
    if (number == 0 || others > 0) {
        if (number != 0)
            worker_forget(w, number);
        worker_connect_soon(w, link->router, 250);
        return;
    }
    worker_disconnect(w);
    worker_forget(w, 0);
    worker_new_incarnation(w);
    for (uint32_t i = 0; i < sim.router_count; i++)
        worker_connect_soon(w, i, 250 + net_below(100));
}

/* What others have given it, and all that it has. */
static void worker_load(const struct sim_worker *w, uint32_t number, struct wire_heartbeat *beat)
{
    for (uint32_t i = 0; i < SIM_JOBS_MAX; i++) {
        const struct sim_job *job = &w->jobs[i];
        if (job->state == JOB_NONE)
            continue;
        beat->busy = 1;
        if (WIRE_ROUTER_OF(job->wire->request_id) == number)
            continue;
        if (job->state < JOB_HELD)
            beat->others_tokens += job->wire->prompt_tokens;
        if (job->state >= JOB_WAITING)
            beat->others_sequences += job->wire->sequence_count;
    }
}

/* The loop thread says it, also when the compute thread hangs. */
static void worker_beat(struct net_event *event)
{
    struct sim_worker *w = event->subject;
    if (!w->alive || w->life != event->number)
        return;
    if (!w->stopped)
        worker_look_for_store(w);
    for (uint32_t i = 0; i < sim.router_count && !w->stopped; i++) {
        struct wire_heartbeat beat = {.store_up = worker_has_store(w),
                                      .step_count = w->steps,
                                      .prefill_tokens = w->prefill_tokens,
                                      .prefill_ns = w->prefill_ns,
                                      .prefill_prompts = w->prefill_prompts};
        if (w->numbers[i] == 0)
            continue;
        worker_load(w, w->numbers[i], &beat);
        wire_heartbeat_encode(&sim.frame, &beat);
        worker_send(w, w->numbers[i], WIRE_HEARTBEAT);
    }
    net_after(SIM_BEAT_NS, worker_beat, w, w->life);
}

/* ---- life ---- */

static void worker_start(struct net_event *event)
{
    struct sim_worker *w = event->subject;
    if (w->alive)
        return;
    worker_new_incarnation(w);
    w->alive = true;
    w->stopped = w->hung = w->leaving = w->stepping = false;
    w->tree_count = w->event_count = 0;
    w->next_number = 1;
    w->life++;
    w->asleep_ns = 0;
    for (uint32_t i = 0; i < sim.router_count; i++)
        worker_connect_soon(w, i, 0);
    net_after(SIM_BEAT_NS, worker_beat, w, w->life);
}

static void worker_kill(struct sim_worker *w)
{
    if (!w->alive)
        return;
    worker_disconnect(w);
    worker_forget(w, 0);
    w->alive = false;
    w->died_ns = net.now_ns;
    net_after((200 + net_below(2000)) * MS, worker_start, w, 0);
}

static void worker_continue(struct net_event *event)
{
    struct sim_worker *w = event->subject;
    if (!w->alive || w->life != event->number)
        return;
    w->stopped = w->hung = false;
    w->asleep_ns = net.now_ns;
    for (uint32_t i = 0; i < sim.router_count; i++) {
        if (w->links[i] != NULL)
            link_catch_up(w->links[i]);
    }
    worker_wake(w);
}

/* It goes on where it was; until then it is stopped, or only its compute thread hangs. */
static void worker_sleep(struct sim_worker *w, bool hangs, uint64_t ms)
{
    if (!w->alive || w->stopped || w->hung)
        return;
    w->hung = hangs;
    w->hung_ns = net.now_ns;
    w->stopped = !hangs;
    net_after(ms * MS, worker_continue, w, w->life);
}

static void worker_leave(struct sim_worker *w)
{
    if (!w->alive || w->stopped || w->hung || w->leaving)
        return;
    w->leaving = true;
    worker_send(w, WIRE_EVERY_ROUTER, WIRE_LEAVING);
    worker_wake(w);
}

static void worker_change_roles(struct sim_worker *w, uint32_t roles)
{
    if (!w->alive || w->stopped || w->hung)
        return;
    w->roles = roles;
    w->changed_roles = true;
    wire_roles_encode(&sim.frame, roles);
    worker_send(w, WIRE_EVERY_ROUTER, WIRE_ROLES);
}

#endif
