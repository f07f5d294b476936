/* Requests are given to workers, as chosen (choose.h), and who is told when that is over. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/choose.h"
#include "router/request.h"

#define ROUTE_QUEUE_MAX 64 /* prompts of a worker's queue that are looked at */
#define ROUTE_MOVES_MAX 3  /* of one prompt */

/* ---- requests by id ---- */

struct request *request_find(struct router *router, uint64_t id)
{
    struct request *request = router->buckets[id % ROUTER_BUCKETS];
    while (request != NULL && request->id != id)
        request = request->next_in_bucket;
    return request;
}

void request_track(struct router *router, struct request *request)
{
    struct request **bucket = &router->buckets[request->id % ROUTER_BUCKETS];
    request->next_in_bucket = *bucket;
    *bucket = request;
    router->tracked_count++;
}

void request_untrack(struct router *router, struct request *request)
{
    struct request **at = &router->buckets[request->id % ROUTER_BUCKETS];
    while (*at != NULL && *at != request)
        at = &(*at)->next_in_bucket;
    if (*at == NULL)
        return;
    *at = request->next_in_bucket;
    router->tracked_count--;
}

/* ---- what the choice looks at ---- */

/* Tokens that it has still to compute before it comes to another prompt. The first of what it was
 * given is under way, as far as the time since goes; it is not done before it says so. */
static uint64_t route_ahead(const struct worker *worker)
{
    struct cost cost = cost_of(&worker->cost);
    if (worker->ahead_count == 0)
        return 0;
    double first = (double)worker->ahead_tokens / worker->ahead_count;
    double passed_s = (double)(clock_ns() - worker->ahead_ns) / 1e9;
    double done = cost.token_s > 0 ? passed_s / cost.token_s : 0;
    return worker->ahead_tokens - (uint64_t)(done < first ? done : first);
}

uint32_t route_views(struct router *router, struct route_view *views, struct worker **workers)
{
    uint32_t count = 0;
    for (struct worker *w = router->workers; w != NULL && count < ROUTE_WORKERS_MAX; w = w->next) {
        if (!w->registered)
            continue; /* whoever connects is no worker yet, and must not take a place of one */
        workers[count] = w;
        views[count++] = (struct route_view){
            .roles = w->registration.roles,
            .usable = w->registered && !w->leaving && !w->closed,
            .queued_tokens = route_ahead(w) + w->beat.others_tokens,
            .decoding = w->decoding + (uint32_t)w->beat.others_sequences,
            .decode_batch = w->registration.decode_batch > 0 ? w->registration.decode_batch : 1,
            .cost = cost_of(&w->cost),
            .cost_age_s = (double)(clock_ns() - w->cost_ns) / 1e9,
            .place_s = w->place_s,
            .lend_s = w->lend_s,
            .lend_age_s = (double)(clock_ns() - w->lend_ns) / 1e9,
            .store_up = w->registration.has_store && w->beat.store_up,
            .store_rate = w->store_rate,
            .slot = w->slot,
            .pulls = w->pulls,
            .now_ns = clock_ns(),
        };
    }
    return count;
}

/* ---- what a worker has been given ---- */

void route_send(struct worker *worker, uint16_t type, const struct wire_frame *frame)
{
    if (worker->closed)
        return;
    if (!frame->failed && link_send(worker->link, type, frame->data, (uint32_t)frame->bytes) == OK)
        return;
    /* A worker that does not read, or a frame that could not be made: a hole in what it was told
     * would leave requests hanging. Its requests go on elsewhere, from the next tick. */
    log_warn("worker does not read", "worker=%s reason=\"%s\"", worker->registration.name,
             error_text());
    worker->closed = true;
}

static void route_enqueue(struct worker *worker, struct request *request)
{
    request->found_idle = worker->ahead_count == 0;
    if (worker->ahead_count++ == 0)
        worker->ahead_ns = clock_ns();
    worker->ahead_tokens += request->ahead_tokens;
    worker->queued_tokens += request->wire.prompt_tokens;
}

static void route_dequeue(struct worker *worker, const struct request *request)
{
    worker->ahead_count--;
    worker->ahead_ns = clock_ns(); /* The next one's turn. */
    worker->ahead_tokens -= request->ahead_tokens;
    worker->queued_tokens -= request->wire.prompt_tokens;
}

static void route_set_prefill(struct request *request, struct worker *worker)
{
    if (request->prefill != NULL && request->state == REQUEST_WAITING)
        route_dequeue(request->prefill, request);
    request->prefill = worker;
    if (worker != NULL && request->state == REQUEST_WAITING)
        route_enqueue(worker, request);
}

static void route_set_decode(struct request *request, struct worker *worker)
{
    if (request->decode != NULL)
        request->decode->decoding -= request->wire.sequence_count;
    request->decode = worker;
    if (worker != NULL)
        worker->decoding += request->wire.sequence_count;
}

void route_computed(struct request *request)
{
    if (request->prefill != NULL && request->state == REQUEST_WAITING)
        route_dequeue(request->prefill, request);
    request->state = REQUEST_RUNNING;
}

static void route_cancel_at(struct router *router, struct worker *worker, uint64_t request_id,
                            uint32_t sequence)
{
    struct wire_cancel cancel = {.request_id = request_id, .sequence = sequence};
    wire_frame_reset(&router->frame);
    wire_cancel_encode(&router->frame, &cancel);
    route_send(worker, WIRE_CANCEL, &router->frame);
}

void route_stop(struct sequence *sequence)
{
    struct request *request = sequence->request;
    struct router *router = request->answer->router;
    request->stopped = true;
    if (request->decode != NULL)
        route_cancel_at(router, request->decode, request->id,
                        sequence->number - request->first_number);
}

void route_release(struct request *request)
{
    struct router *router = request->answer->router;
    if (request->id == 0)
        return;
    /* That it came to its end by itself the workers know. Not so after a stop string: what was said
     * of the sequence may have come before the worker had it. */
    bool over = request->state == REQUEST_DONE && !request->stopped;
    /* Nor does a decode worker know that all ended with the first token: it keeps room for the
     * rest. */
    bool decode_over = over && request->handed;
    struct worker *prefill = request->prefill, *decode = request->decode;
    why_end(request);
    sources_end(request);
    route_set_prefill(request, NULL);
    route_set_decode(request, NULL);
    request_untrack(router, request);
    request->state = REQUEST_DONE;
    if (!over && prefill != NULL)
        route_cancel_at(router, prefill, request->id, WIRE_ALL_SEQUENCES);
    if (!decode_over && decode != NULL && decode != prefill)
        route_cancel_at(router, decode, request->id, WIRE_ALL_SEQUENCES);
    request->id = 0;
}

/* Something was done for it. One that lost a worker has come no further until it has a token. */
static void route_progress(struct request *request)
{
    if (request->tries <= 1)
        request->progress_ns = clock_ns();
}

static void route_give(struct router *router, struct request *request, struct worker *worker,
                       bool local, struct worker *holder, const uint32_t *runs)
{
    struct wire_request *wire = &request->wire;
    wire->flags &= ~(uint32_t)WIRE_REQUEST_LOCAL;
    if (local)
        wire->flags |= WIRE_REQUEST_LOCAL;
    wire->epoch = ++request->attempts;
    request->tries++;
    lease_id_random(&wire->lease);
    request->state = REQUEST_WAITING;
    request->sent_ns = clock_ns();
    route_progress(request);
    route_set_prefill(request, worker);
    if (local)
        route_set_decode(request, worker);
    sources_ask(request, worker, holder, runs);
    wire_frame_reset(&router->frame);
    wire_prefill_encode(&router->frame, wire);
    route_send(worker, WIRE_PREFILL, &router->frame);
    log_line(LOG_DEBUG, request->id, "routed", "prefill=%s local=%d prompt_tokens=%u resumed=%u",
             worker->registration.name, local, wire->prompt_tokens, wire->resumed_tokens);
}

void route_resume(struct router *router, struct request *request, struct worker *worker)
{
    uint32_t runs[DIRECTORY_WORKERS_MAX], key_count;
    struct worker *holder = NULL;
    const struct block_key *keys = sources_keys_of(request, &key_count);
    directory_find(router->directory, keys, key_count, runs, &request->wire.saved_blocks);
    for (struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w != worker && w->registered && !w->closed && w->slot >= 0 && runs[w->slot] > 0 &&
            handoff_may_fetch(worker, w) && (holder == NULL || runs[w->slot] > runs[holder->slot]))
            holder = w;
    }
    why_resume(request, worker, holder);
    uint32_t run = holder != NULL ? runs[holder->slot] : 0;
    if (worker->slot >= 0 && runs[worker->slot] > run)
        run = runs[worker->slot];
    uint32_t held = run * request->block_tokens;
    request->ahead_tokens =
        request->wire.prompt_tokens - 1 > held ? request->wire.prompt_tokens - held : 1;
    route_give(router, request, worker, true, holder, runs);
}

/* Of keys and values; a guess of the layout's, which only the workers know, good for a cost. */
static double route_block_bytes(const struct router *router, uint32_t block_tokens)
{
    const struct model *m = router->model;
    return 2.0 * 2.0 * m->layer_count * m->kv_head_count * m->head_dim * block_tokens;
}

/* What the directory knows of the prompt goes into runs and views. */
static struct route_ask route_ask_of(struct router *router, struct request *request,
                                     struct route_view *views, struct worker *const *workers,
                                     uint32_t count, uint32_t *runs)
{
    uint32_t key_count;
    const struct block_key *keys = sources_keys_of(request, &key_count);
    directory_find(router->directory, keys, key_count, runs, &request->wire.saved_blocks);
    for (uint32_t i = 0; i < count; i++)
        views[i].run_blocks = workers[i]->slot >= 0 ? runs[workers[i]->slot] : 0;
    return (struct route_ask){.prompt_tokens = request->wire.prompt_tokens,
                              .block_tokens = request->block_tokens,
                              .block_bytes = route_block_bytes(router, request->block_tokens),
                              .local_tokens_max = router->options->local_tokens,
                              .saved_blocks = request->wire.saved_blocks,
                              .apart = router->handoff == ROUTER_HANDOFF_STORE,
                              .place = router->options->place};
}

status route_prefill(struct router *router, struct request *request)
{
    struct route_view views[ROUTE_WORKERS_MAX];
    struct worker *workers[ROUTE_WORKERS_MAX];
    uint32_t runs[DIRECTORY_WORKERS_MAX];
    struct route_choice choice;
    uint32_t count = route_views(router, views, workers);
    const struct route_ask ask = route_ask_of(router, request, views, workers, count, runs);
    if (!route_choose(&ask, views, count, &choice))
        return error_set(ERR_CLOSED, "no worker is connected; try again");
    const struct route_option *option = &choice.ways[choice.way];
    struct worker *worker = workers[option->worker];
    enum handoff_way way = choice.local ? HANDOFF_DIRECT : handoff_choose(worker);
    if (way == HANDOFF_NONE) {
        route_resume(router, request, workers[route_choose_decode(views, count)]);
        return OK;
    }
    why_choice(request, &choice, workers);
    request->ahead_tokens = choice.compute_tokens;
    request->wire.handoff = way == HANDOFF_BY_STORE ? WIRE_HANDOFF_STORE : WIRE_HANDOFF_DIRECT;
    route_give(router, request, worker, choice.local,
               option->holder >= 0 ? workers[option->holder] : NULL, runs);
    return OK;
}

void route_decode(struct router *router, struct request *request)
{
    struct route_view views[ROUTE_WORKERS_MAX];
    struct worker *workers[ROUTE_WORKERS_MAX];
    uint32_t count = route_views(router, views, workers);
    if (request->prefill == NULL || request->decode != NULL || request->state != REQUEST_WAITING)
        return;
    request->started = true;
    /* One that has become a decode worker since hands nothing over to itself. */
    for (uint32_t i = 0; i < count; i++)
        views[i].usable = views[i].usable && workers[i] != request->prefill &&
                          handoff_reaches(workers[i], request->prefill);
    int best = route_choose_decode(views, count);
    if (best < 0) {
        /* The last decode worker left after this was routed: one worker does both. */
        failover_request(router, request, NULL);
        return;
    }
    struct worker *worker = workers[best];
    struct wire_holder holder;
    route_holder_fill(request->prefill, worker, &holder);
    why_reserve(request, worker);
    route_set_decode(request, worker);
    route_progress(request);
    wire_frame_reset(&router->frame);
    wire_reserve_encode(&router->frame, &request->wire, &holder);
    route_send(worker, WIRE_RESERVE, &router->frame);
}

void route_reserved(struct router *router, struct worker *worker,
                    const struct wire_reserved *reserved)
{
    struct request *request = request_find(router, reserved->request_id);
    if (request == NULL || request->decode != worker || request->prefill == NULL)
        return;
    route_progress(request);
    if (reserved->status == ERR_BAD_INPUT) {
        request_fail(request, 400, NULL, reserved->text);
        return;
    }
    if (reserved->status != OK) {
        /* Nothing is wrong with the request: it goes on as after a handoff that broke. */
        log_line(LOG_WARN, request->id, "attempt failed", "reason=\"%s\"", reserved->text);
        if (reserved->status == ERR_REFUSED)
            handoff_apart(worker, request->prefill);
        failover_request(router, request, NULL);
        return;
    }
    request->why.placed_ns = clock_ns();
    struct wire_place place = {.request_id = request->id,
                               .matched_blocks = reserved->matched_blocks};
    wire_frame_reset(&router->frame);
    wire_place_encode(&router->frame, &place);
    route_send(request->prefill, WIRE_PLACE, &router->frame);
}

void route_take_back(struct router *router, struct request *request, const struct worker *lost)
{
    struct worker *prefill = request->prefill, *decode = request->decode;
    route_set_prefill(request, NULL);
    route_set_decode(request, NULL);
    sources_end(request);
    request_untrack(router, request);
    if (prefill != NULL && prefill != lost)
        route_cancel_at(router, prefill, request->id, WIRE_ALL_SEQUENCES);
    if (decode != NULL && decode != lost && decode != prefill)
        route_cancel_at(router, decode, request->id, WIRE_ALL_SEQUENCES);
    request->id = 0;
    request->handed = request->stopped = request->started = false;
}

/* The first request of an unfinished answer that depends on the worker. */
static struct request *route_dependent(struct router *router, const struct worker *worker)
{
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            /* A prefill worker matters until the first token is here and the receiver has
             * everything: decode's first token says so. */
            bool needs_prefill =
                r->prefill == worker && (!r->handed || r->state == REQUEST_WAITING);
            if (needs_prefill || r->decode == worker)
                return r;
        }
    }
    return NULL;
}

void route_worker_lost(struct router *router, struct worker *worker)
{
    struct request *request;
    worker->closed = true;
    worker->marked = failover_count_marked(router, worker);
    while ((request = route_dependent(router, worker)) != NULL)
        failover_request(router, request, worker);
    /* Requests that are past it only forget it. */
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            if (r->prefill == worker)
                r->prefill = NULL;
        }
    }
}

/* Requests that no worker has moved for too long come to their end. */
static void route_expire(struct router *router, uint64_t now_ns)
{
    uint64_t limit_ns = router->options->request_timeout_ms * 1000000u;
    for (uint32_t b = 0; router->tracked_count > 0 && b < ROUTER_BUCKETS; b++) {
        struct request *r = router->buckets[b];
        while (r != NULL && now_ns <= r->progress_ns + limit_ns)
            r = r->next_in_bucket;
        /* One a bucket and tick: the failing may free others. */
        if (r != NULL && r->state == REQUEST_PARKED)
            request_fail(r, 503, "no_workers",
                         "the worker of this request was lost, and no other came in time");
        else if (r != NULL)
            request_fail(r, 504, "timeout", "no worker made progress with this request in time");
    }
}

/* ---- from a queue to a worker that has nothing to do ---- */

bool route_asks(const struct request *request)
{
    const struct wire_request *wire = &request->wire;
    return (wire->flags & WIRE_REQUEST_LOCAL) == 0 && wire->handoff != WIRE_HANDOFF_STORE &&
           wire->sampling.max_tokens > wire->resumed_tokens + 1;
}

/* In the order in which the worker comes to them: what it has not begun with. */
static uint32_t route_queue(const struct router *router, const struct worker *worker,
                            struct request *queue[ROUTE_QUEUE_MAX])
{
    uint32_t count = 0;
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            if (r->prefill != worker || r->state != REQUEST_WAITING || r->started ||
                !route_asks(r) || count == ROUTE_QUEUE_MAX)
                continue;
            uint32_t at = count++;
            for (; at > 0 && (queue[at - 1]->wire.priority > r->wire.priority ||
                              (queue[at - 1]->wire.priority == r->wire.priority &&
                               queue[at - 1]->sent_ns > r->sent_ns));
                 at--)
                queue[at] = queue[at - 1];
            queue[at] = r;
        }
    }
    return count;
}

/* The first of the queue that gains by it is taken back and given to another worker. Should the one
 * that had it begin meanwhile: it is told to cancel, and what it says of the old id is dropped. */
static bool route_move_from(struct router *router, struct route_view *views,
                            struct worker *const *workers, uint32_t count, uint32_t at)
{
    struct request *queue[ROUTE_QUEUE_MAX];
    uint32_t runs[DIRECTORY_WORKERS_MAX];
    uint32_t waiting = route_queue(router, workers[at], queue);
    uint64_t behind = 0;
    for (uint32_t i = 0; i < waiting; i++)
        behind += queue[i]->ahead_tokens;
    views[at].queued_tokens -= behind < views[at].queued_tokens ? behind : views[at].queued_tokens;
    for (uint32_t i = 0; i < waiting; i++) {
        struct request *r = queue[i];
        if (r->tries == 1 && r->deaths == 0 && !r->broken && r->moves < ROUTE_MOVES_MAX) {
            const struct route_ask ask = route_ask_of(router, r, views, workers, count, runs);
            if (route_gains(&ask, views, count, at)) {
                failover_move(router, r);
                return true;
            }
        }
        views[at].queued_tokens += r->ahead_tokens;
    }
    return false;
}

static void route_balance(struct router *router)
{
    struct route_view views[ROUTE_WORKERS_MAX];
    struct worker *workers[ROUTE_WORKERS_MAX];
    uint32_t count = 1;
    for (uint32_t moved = 0; moved < count; moved++) {
        count = route_views(router, views, workers);
        bool idle = false, any = false;
        for (uint32_t i = 0; i < count; i++)
            idle = idle || (views[i].usable && views[i].queued_tokens == 0 &&
                            (views[i].roles & WIRE_ROLE_PREFILL) != 0);
        for (uint32_t i = 0; idle && !any && i < count; i++)
            any = workers[i]->ahead_count > 1 && route_move_from(router, views, workers, count, i);
        if (!any)
            return;
    }
}

void route_tick(struct router *router)
{
    /* Each by its own clock: what one has done just now is not in the future of the next. */
    health_tick(router, clock_ns());
    failover_tick(router, clock_ns());
    route_expire(router, clock_ns());
    route_balance(router);
}
