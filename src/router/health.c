/* Workers: who is there, who is silent, who is stuck. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/request.h"
#include "router/choose.h"
#include "transfer/transfer.h"

#define WORKER_FRAME_BYTES_MAX (64u << 20)
#define WORKER_PENDING_BYTES_MAX (256u << 20)
#define DIRECTORY_ENTRIES_MAX (1u << 19)
#define STRANGERS_MAX 64 /* connections that are not registered */
#define STRANGER_FRAME_BYTES_MAX 16384u

static void health_update_context(struct router *router)
{
    uint32_t least = router->model->context_tokens;
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w->registered && !w->closed && w->registration.context_tokens < least)
            least = w->registration.context_tokens;
    }
    router->context_tokens = least;
}

uint32_t health_worker_count(const struct router *router, uint32_t roles)
{
    uint32_t count = 0;
    for (const struct worker *w = router->workers; w != NULL; w = w->next)
        count += w->registered && !w->leaving && !w->closed && (w->registration.roles & roles) != 0;
    return count;
}

static void health_say_ready(struct router *router)
{
    if (router->ready_said || health_worker_count(router, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE) <
                                  router->options->expect_workers)
        return;
    router->ready_said = true;
    log_info("ready", "url=http://%s workers=%u model=\"%s\" ctx=%u",
             http_server_address(router->http)->text,
             health_worker_count(router, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE), router->model_name,
             router->context_tokens);
    if (router->options->ready_fd != NULL) {
        int fd = atoi(router->options->ready_fd);
        ssize_t written = write(fd, "ready\n", 6);
        (void)written; /* Who asked may be gone. */
        close(fd);
    }
}

/* Unlink and free; its requests have been taken care of. */
static void worker_free(struct router *router, struct worker *worker)
{
    struct worker **at = &router->workers;
    while (*at != worker)
        at = &(*at)->next;
    *at = worker->next;
    free(worker);
    health_update_context(router);
}

/* The others forget it at once, instead of when they notice: its connections may be half dead, and
 * its memory must not stay mapped. */
static void worker_tell_lost(struct router *router, const struct worker *lost)
{
    for (struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w == lost || !w->registered || w->closed)
            continue;
        wire_frame_reset(&router->frame);
        wire_id_encode(&router->frame, lost->registration.incarnation);
        route_send(w, WIRE_PEER_LOST, &router->frame);
    }
}

static void worker_lose(struct worker *worker, const char *reason)
{
    struct router *router = worker->router;
    if (worker->registered) {
        log_line(worker->leaving ? LOG_INFO : LOG_WARN, 0,
                 worker->leaving ? "worker left" : "worker lost", "worker=%s reason=\"%s\"",
                 worker->registration.name, reason);
        metrics_worker_gone(router, worker);
        directory_leave(router->directory, worker->slot);
        worker->slot = -1;
        route_worker_lost(router, worker);
        if (!router->ending) /* Then it is the router that goes: to others they are well. */
            worker_tell_lost(router, worker);
    }
    link_close(worker->link);
    worker_free(router, worker);
}

static void worker_tell_peer(struct worker *worker, const struct worker *other)
{
    struct router *router = worker->router;
    struct wire_holder holder;
    route_holder_fill(other, worker, &holder);
    if (holder.transfer_unix[0] == '\0' || !handoff_may_fetch(worker, other))
        return;
    wire_frame_reset(&router->frame);
    wire_holder_encode(&router->frame, &holder);
    route_send(worker, WIRE_PEER, &router->frame);
}

/* What takes long before the first block comes, such as mapping a pool, workers of one host can do
 * before anybody waits for it. */
static void worker_introduce(struct worker *newcomer)
{
    for (struct worker *w = newcomer->router->workers; w != NULL; w = w->next) {
        if (w == newcomer || !w->registered || w->closed)
            continue;
        worker_tell_peer(newcomer, w);
        worker_tell_peer(w, newcomer);
    }
}

/* All workers' blocks must mean the same: compare with any that is here. */
static status worker_check_class(struct router *router, const struct worker *worker)
{
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w != worker && w->registered && !w->closed)
            return hello_check(&w->hello, &worker->hello);
    }
    return OK;
}

/* Tell a worker why it cannot be here, and close. */
static void worker_refuse(struct worker *worker)
{
    struct router *router = worker->router;
    struct wire_failed failed = {.status = ERR_REFUSED};
    strncpy(failed.text, error_text(), sizeof(failed.text) - 1);
    log_warn("worker refused", "worker=%s reason=\"%s\"", worker->hello.name, failed.text);
    wire_frame_reset(&router->frame);
    wire_failed_encode(&router->frame, &failed);
    route_send(worker, WIRE_FAILED, &router->frame);
    link_close(worker->link);
    worker_free(router, worker);
}

static void worker_ask_blocks(struct worker *worker)
{
    struct wire_frame empty = {0};
    if (worker->slot >= 0)
        route_send(worker, WIRE_BLOCKS_ASK, &empty);
}

static void worker_take_blocks(struct worker *worker, const uint8_t *payload, uint32_t bytes)
{
    struct wire_blocks blocks;
    if (wire_blocks_decode(payload, bytes, &blocks) != OK) {
        log_warn("blocks dropped", "worker=%s reason=\"%s\"", worker->registration.name,
                 error_text());
        worker_ask_blocks(worker);
    } else if (!directory_take(worker->router->directory, worker->slot, &blocks)) {
        log_info("blocks asked again", "worker=%s", worker->registration.name);
        worker_ask_blocks(worker);
    }
}

/* What is thought of a pair until it is measured; another may have had this slot before. */
static void worker_guess_pulls(struct router *router, struct worker *worker)
{
    for (struct worker *w = router->workers; w != NULL && worker->slot >= 0; w = w->next) {
        float rate = route_pull_guess(worker->hello.numerics_class, w->hello.numerics_class,
                                      strcmp(worker->registration.host, w->registration.host) == 0);
        const struct route_pull guess = {.rate = rate, .guess = rate};
        w->pulls[worker->slot] = guess;
        w->apart_until_ns[worker->slot] = 0;
        if (w->registered && w->slot >= 0)
            worker->pulls[w->slot] = guess;
    }
}

/* Another live process has this name: the two would push each other out for ever. One that comes
 * back after its death does so later than --silence, or its connection has told. */
static status worker_check_name(struct router *router, const struct wire_register *newcomer)
{
    uint64_t now_ns = clock_ns();
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        const struct wire_register *old = &w->registration;
        if (w->registered && !w->closed && strcmp(old->name, newcomer->name) == 0 &&
            (old->pid != newcomer->pid || strcmp(old->host, newcomer->host) != 0) &&
            now_ns - w->beat_ns < router->options->silence_ms * 1000000)
            return error_set(ERR_REFUSED,
                             "a worker of the name %s is here and alive (pid %u); give this one "
                             "another --name",
                             old->name, old->pid);
    }
    return OK;
}

/* False: the worker is gone. */
static bool worker_register(struct worker *worker, const uint8_t *payload, uint32_t bytes)
{
    struct router *router = worker->router;
    struct wire_register registration;
    status st = wire_register_decode(payload, bytes, &registration);
    if (st == OK && worker->registered)
        st = error_set(ERR_BAD_INPUT, "worker %s registers twice", registration.name);
    if (st == OK)
        st = worker_check_class(router, worker);
    if (st == OK)
        st = worker_check_name(router, &registration);
    if (st == OK &&
        health_worker_count(router, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE) >= ROUTE_WORKERS_MAX)
        st = error_set(ERR_FULL, "a router has at most %u workers; start another router",
                       ROUTE_WORKERS_MAX);
    if (st != OK) {
        worker_refuse(worker);
        return false;
    }
    /* One that comes back under its name is a new incarnation; the old one is dead. */
    for (struct worker *old = router->workers, *next; old != NULL; old = next) {
        next = old->next;
        if (old != worker && old->registered &&
            strcmp(old->registration.name, registration.name) == 0)
            worker_lose(old, "another incarnation has registered under this name");
    }
    worker->registration = registration;
    worker->registered = true;
    worker->slot = directory_join(router->directory);
    worker_guess_pulls(router, worker);
    worker_ask_blocks(worker);
    worker_introduce(worker);
    link_limit_payload(worker->link, WORKER_FRAME_BYTES_MAX);
    worker->progress_ns = worker->beat_ns = clock_ns();
    log_info("worker registered", "worker=%s roles=%s%s blocks=%u ctx=%u pid=%u", registration.name,
             registration.roles & WIRE_ROLE_PREFILL ? "p" : "",
             registration.roles & WIRE_ROLE_DECODE ? "d" : "", registration.block_count,
             registration.context_tokens, registration.pid);
    health_update_context(router);
    health_say_ready(router);
    failover_tick(router, clock_ns());
    return true;
}

void health_set_roles(struct worker *worker, uint32_t roles)
{
    if (worker->registration.roles == roles)
        return;
    log_info("worker has another role", "worker=%s roles=%s%s", worker->registration.name,
             roles & WIRE_ROLE_PREFILL ? "p" : "", roles & WIRE_ROLE_DECODE ? "d" : "");
    worker->registration.roles = roles;
    metrics_worker_gone(worker->router, worker); /* Its series name the role. */
    failover_tick(worker->router, clock_ns());
}

static void worker_take_roles(struct worker *worker, const uint8_t *payload, uint32_t bytes)
{
    uint32_t roles;
    if (wire_roles_decode(payload, bytes, &roles) == OK)
        health_set_roles(worker, roles);
}

static void worker_measure(struct worker *worker, const struct wire_heartbeat *beat)
{
    const struct wire_heartbeat *last = &worker->beat;
    if (beat->prefill_ns <= last->prefill_ns || beat->prefill_tokens <= last->prefill_tokens)
        return;
    const struct cost_sample sample = {
        .prompts = (double)(beat->prefill_prompts - last->prefill_prompts),
        .tokens = (double)(beat->prefill_tokens - last->prefill_tokens),
        .context = (double)(beat->prefill_context - last->prefill_context),
        .seconds = (double)(beat->prefill_ns - last->prefill_ns) / 1e9,
    };
    cost_measure(&worker->cost, &sample);
    worker->cost_ns = clock_ns();
}

static void worker_beat(struct worker *worker, const uint8_t *payload, uint32_t bytes)
{
    struct wire_heartbeat beat;
    if (wire_heartbeat_decode(payload, bytes, &beat) != OK) {
        log_warn("heartbeat dropped", "worker=%s reason=\"%s\"", worker->registration.name,
                 error_text());
        return;
    }
    /* The first beat that tells of work comes some time after the work: it counts from there. */
    if (beat.step_count != worker->beat.step_count || !beat.busy || !worker->beat.busy)
        worker->progress_ns = clock_ns();
    if (beat.step_ns > worker->beat.step_ns) {
        worker->recent_operations = (double)(beat.operations - worker->beat.operations);
        worker->recent_bytes = (double)(beat.bytes - worker->beat.bytes);
        worker->recent_step_s = (double)(beat.step_ns - worker->beat.step_ns) / 1e9;
    }
    worker_measure(worker, &beat);
    worker->beat = beat;
    worker->beat_ns = clock_ns();
    struct wire_frame empty = {0};
    route_send(worker, WIRE_ALIVE, &empty);
}

static void worker_handed(struct router *router, const uint8_t *payload, uint32_t bytes)
{
    struct wire_handed handed;
    struct router_metrics *m = &router->metrics;
    if (wire_handed_decode(payload, bytes, &handed) != OK || handed.status != OK)
        return;
    const char *carrier = transfer_carrier_name((enum transfer_carrier)handed.carrier);
    struct request *request = request_find(router, handed.request_id);
    if (request != NULL)
        why_handed(request, &handed);
    prometheus_observe(m->all, prometheus_series(m->all, m->handoff),
                       (double)handed.total_ns / 1e9);
    prometheus_observe(m->all, prometheus_series(m->all, m->exposed),
                       (double)handed.exposed_ns / 1e9);
    prometheus_add(m->all, prometheus_series(m->all, m->handoffs, carrier), 1);
    prometheus_add(m->all, prometheus_series(m->all, m->handoff_bytes, carrier),
                   (double)handed.bytes);
    log_line(LOG_DEBUG, handed.request_id, "handed over", "carrier=%s bytes=%llu exposed_us=%llu",
             carrier, (unsigned long long)handed.bytes,
             (unsigned long long)(handed.exposed_ns / 1000));
}

static void worker_request_frame(struct worker *worker, uint16_t type, const uint8_t *payload,
                                 uint32_t bytes)
{
    struct router *router = worker->router;
    struct reader from = reader_over(payload, bytes);
    struct wire_reserved reserved;
    struct wire_failed failed;
    struct wire_saved saved;
    uint64_t id;
    switch (type) {
    case WIRE_STARTING:
        if (wire_id_decode(payload, bytes, &id) == OK) {
            struct request *request = request_find(router, id);
            if (request != NULL && request->prefill == worker)
                route_decode(router, request);
        }
        break;
    case WIRE_RESERVED:
        if (wire_reserved_decode(payload, bytes, &reserved) == OK)
            route_reserved(router, worker, &reserved);
        break;
    case WIRE_FIRST:
        relay_first(worker, &from);
        break;
    case WIRE_TOKENS:
        relay_tokens(router, &from);
        break;
    case WIRE_FAILED:
        if (wire_failed_decode(payload, bytes, &failed) == OK) {
            handoff_failed(worker, &failed);
            relay_failed(router, &failed);
        }
        break;
    case WIRE_SAVED:
        if (wire_saved_decode(payload, bytes, &saved) == OK)
            handoff_saved(worker, &saved);
        break;
    case WIRE_ROLES:
        worker_take_roles(worker, payload, bytes);
        break;
    case WIRE_BLOCKS:
        worker_take_blocks(worker, payload, bytes);
        break;
    case WIRE_HANDED:
        worker_handed(router, payload, bytes);
        break;
    default:
        log_warn("frame dropped", "worker=%s type=%u", worker->registration.name, type);
        break;
    }
}

static void worker_on_ready(void *ctx, const struct hello *peer)
{
    struct worker *worker = ctx;
    worker->hello = *peer;
}

static void worker_on_frame(void *ctx, uint16_t type, const uint8_t *payload,
                            uint32_t payload_bytes)
{
    struct worker *worker = ctx;
    if (type == WIRE_REGISTER) {
        worker_register(worker, payload, payload_bytes);
    } else if (!worker->registered && operator_take(worker, type, payload, payload_bytes)) {
        return;
    } else if (!worker->registered) {
        error_set(ERR_BAD_INPUT, "expected to register first");
        worker_refuse(worker);
    } else if (type == WIRE_HEARTBEAT) {
        worker_beat(worker, payload, payload_bytes);
    } else if (type == WIRE_LEAVING) {
        worker->leaving = true;
        log_info("worker leaving", "worker=%s", worker->registration.name);
    } else {
        worker_request_frame(worker, type, payload, payload_bytes);
    }
}

static void worker_on_close(void *ctx, status cause)
{
    struct worker *worker = ctx;
    char reason[256];
    (void)cause;
    snprintf(reason, sizeof(reason), "%s", error_text());
    worker->link = NULL;
    if (!worker->registered && cause != ERR_CLOSED)
        log_warn("connection refused", "reason=\"%s\"", reason);
    worker_lose(worker, reason);
}

static const struct link_calls worker_calls = {
    .on_ready = worker_on_ready,
    .on_frame = worker_on_frame,
    .on_close = worker_on_close,
};

/* When there are too many of those that are not registered, the oldest goes: a worker registers at
 * once, so a crowd of others does not keep it out. */
static void health_limit_strangers(struct router *router)
{
    struct worker *oldest = NULL;
    uint32_t count = 0;
    for (struct worker *w = router->workers; w != NULL; w = w->next) {
        if (!w->registered) {
            oldest = w;
            count++;
        }
    }
    if (count >= STRANGERS_MAX)
        worker_lose(oldest, "too many connections that do not register");
}

static void health_on_accept(void *ctx, int fd)
{
    struct router *router = ctx;
    health_limit_strangers(router);
    struct worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        close(fd);
        return;
    }
    struct link_setup setup = {
        .calls = &worker_calls,
        .ctx = worker,
        .hello = &router->hello,
        .key = router->key,
        .limits = {.payload_bytes_max = STRANGER_FRAME_BYTES_MAX,
                   .pending_bytes_max = WORKER_PENDING_BYTES_MAX,
                   .idle_ms = (uint32_t)router->options->silence_ms},
    };
    worker->router = router;
    worker->slot = -1;
    if (link_open(router->loop, fd, &setup, &worker->link) != OK) {
        free(worker);
        return;
    }
    worker->next = router->workers;
    router->workers = worker;
}

status health_open(struct router *router)
{
    struct address address;
    status st = address_parse(router->options->workers, 8001, &address);
    if (st != OK)
        return st;
    st = cluster_key_allows(router->key, router->options->trust_network, &address, "--workers",
                            router->options->workers);
    if (st != OK)
        return st;
    router->context_tokens = router->model->context_tokens;
    st = directory_open(DIRECTORY_ENTRIES_MAX, &router->directory);
    if (st == OK)
        st = why_open(router);
    if (st != OK)
        return st;
    return link_listen(router->loop, &address, health_on_accept, router, &router->listener);
}

void health_close(struct router *router)
{
    link_listener_close(router->listener);
    router->ending = true;
    while (router->workers != NULL) {
        router->workers->leaving = true;
        worker_lose(router->workers, "the router ends");
    }
    directory_close(router->directory);
    why_close(router);
}

void health_tick(struct router *router, uint64_t now_ns)
{
    struct worker *next;
    for (struct worker *w = router->workers; w != NULL; w = next) {
        next = w->next;
        if (!w->registered)
            continue;
        if (w->closed)
            worker_lose(w, "it does not read what it is sent");
        else if (now_ns - w->progress_ns > router->options->stuck_ms * 1000000u)
            worker_lose(w, "it has work and makes no progress");
    }
}
