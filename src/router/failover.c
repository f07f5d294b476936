/* A worker is lost, or a handoff failed: what it was doing goes on elsewhere, and no client sees
 * it.
 *
 *     request (n = 3)   prompt | a0 a1 a2 a3
 *                              | b0 b1 end            done: nothing to do
 *                              | c0 c1
 *
 *     resumes           [prompt a0 a1 a2 a3]          the request itself, from now on with one
 *                       [prompt c0 c1]                sequence; and a piece of it for each other
 *
 * Sampling has no hidden state, so whoever goes on draws the tokens that the lost one would have
 * drawn. Every attempt has an id of its own: what a lost worker still had to say is dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/request.h"
#include "router/choose.h"

#define RETRY_FIRST_NS UINT64_C(50000000)
#define RETRY_MOST_NS UINT64_C(1000000000)
#define SUSPECTS_DOUBLED_MOST 8

static bool failover_has_tokens(const struct request *request)
{
    return request->sequences[request->first_number].token_count > 0;
}

/* ---- requests that take workers down ---- */

/* One more death, and it is given up. A worker has many requests when it dies, and only one of them
 * may be to blame: suspects are tried one at a time, so that none is there when another one
 * strikes. Each is let off by its next token, and then twice as many are tried at a time: where
 * none is to blame they do not wait for all the others. A death makes it one again; a token of one
 * that was sent before it says nothing of those that are left. */
static bool failover_suspects(const struct router *router, const struct request *request)
{
    uint32_t limit = router->options->crashes;
    return limit > 1 && request->deaths + 1 >= limit;
}

static uint32_t failover_suspects_out(const struct router *router)
{
    uint32_t count = 0;
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (const struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket)
            count += r->state != REQUEST_PARKED && failover_suspects(router, r);
    }
    return count;
}

void failover_let_off(struct router *router, struct request *request)
{
    if (failover_suspects(router, request) && request->sent_ns > router->suspects_ns &&
        router->suspects_doubled < SUSPECTS_DOUBLED_MOST)
        router->suspects_doubled++;
    request->deaths = 0;
}

static bool failover_was_computing(const struct request *request, const struct worker *lost)
{
    /* Where no place is asked for, it may be computed at any time. */
    bool begun = request->started || !route_asks(request);
    return (lost == request->prefill && !request->handed && begun) ||
           (lost == request->decode && (request->handed || request->state == REQUEST_RUNNING));
}

uint32_t failover_count_marked(const struct router *router, const struct worker *lost)
{
    uint32_t count = 0;
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (const struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket)
            count += r->deaths > 0 && failover_was_computing(r, lost);
    }
    return count;
}

/* Its worker is dead, and was computing it. True: so many died of it that it ends here. Beside
 * another one that saw a worker die, a suspect is not blamed for good: the other one becomes a
 * suspect too, and then each is tried without the other. */
static bool failover_blame(struct router *router, struct request *request,
                           const struct worker *lost)
{
    if (lost->leaving || router->ending || !failover_was_computing(request, lost))
        return false;
    router->suspects_doubled = 0;
    router->suspects_ns = clock_ns();
    if (failover_suspects(router, request) && lost->marked > 1)
        return false;
    request->deaths++;
    return router->options->crashes > 0 && request->deaths >= router->options->crashes;
}

/* The one to blame is found: what the others saw die is explained by it. They are suspects no more,
 * and one death away from it, should there be another one among them. */
static void failover_let_off_others(struct router *router)
{
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            if (failover_suspects(router, r))
                r->deaths = router->options->crashes - 2;
        }
    }
}

/* ---- where it goes on ---- */

/* What the store has of it no worker has that may lend it. */
static bool failover_is_saved(const struct router *router, const struct request *request)
{
    uint32_t runs[DIRECTORY_WORKERS_MAX], key_count, saved;
    const struct block_key *keys = sources_keys_of(request, &key_count);
    if (router->handoff == ROUTER_HANDOFF_STORE || request->wire.handoff == WIRE_HANDOFF_STORE)
        return true;
    directory_find(router->directory, keys, key_count, runs, &saved);
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w->registered && !w->closed && w->slot >= 0 && runs[w->slot] >= saved)
            return false;
    }
    return saved > 0;
}

/* Where its answer is decoded there is a part of its blocks, or there are those who get it
 * cheaply; and nothing is handed over once more. */
static struct worker *failover_choose(struct router *router, const struct request *request)
{
    struct route_view views[ROUTE_WORKERS_MAX];
    struct worker *workers[ROUTE_WORKERS_MAX];
    uint32_t count = route_views(router, views, workers);
    int best = route_choose_resume(views, count, failover_is_saved(router, request));
    return best >= 0 ? workers[best] : NULL;
}

static void failover_park(const struct router *router, struct request *request, uint64_t now_ns)
{
    uint64_t wait_ns = RETRY_FIRST_NS << (request->tries < 8 ? request->tries : 8);
    if (wait_ns > RETRY_MOST_NS)
        wait_ns = RETRY_MOST_NS;
    /* Workers that died together are all known to be dead by then: it is not blamed for those. */
    uint64_t silence_ns = router->options->silence_ms * 1000000u;
    if (failover_suspects(router, request) && wait_ns < silence_ns)
        wait_ns = silence_ns;
    request->state = REQUEST_PARKED;
    request->retry_ns = now_ns + wait_ns;
}

/* False: nobody is there. */
static bool failover_place(struct router *router, struct request *request)
{
    if (!failover_has_tokens(request) && !request->broken)
        return route_prefill(router, request) == OK;
    struct worker *worker = failover_choose(router, request);
    if (worker != NULL)
        route_resume(router, request, worker);
    return worker != NULL;
}

/* Under a new id: now, when this is the first attempt since its last token, else a little later. A
 * suspect waits for its turn, unless it has it. */
static void failover_send(struct router *router, struct request *request, bool has_turn)
{
    request->id = request->wire.request_id = router->next_request_id++;
    request_track(router, request);
    if (request->tries > 1 || (failover_suspects(router, request) && !has_turn) ||
        !failover_place(router, request))
        failover_park(router, request, clock_ns());
}

/* ---- what goes on ---- */

/* The request as the rest of one of its sequences. */
static status failover_resume(struct request *request, struct sequence *sequence)
{
    const struct token_list *prompt = &request->prompt, *given = &sequence->given;
    struct wire_request *wire = &request->wire;
    size_t count = prompt->count + given->count;
    uint32_t *ids = malloc(count * sizeof(*ids));
    if (ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to go on after %zu tokens", count);
    memcpy(ids, prompt->ids, prompt->count * sizeof(*ids));
    memcpy(ids + prompt->count, given->ids, given->count * sizeof(*ids));
    token_list_close(&request->resumed);
    request->resumed = (struct token_list){.ids = ids, .count = count, .capacity = count};
    request->first_number = sequence->number;
    request->sequences_left = 1;
    sequence->request = request;
    wire->flags &= ~(uint32_t)(WIRE_REQUEST_PROMPT_LOGPROBS | WIRE_REQUEST_NO_PREFIX);
    wire->sequence_count = 1;
    wire->first_sequence = request->number * request->answer->openai->n + sequence->number;
    wire->prompt = ids;
    wire->prompt_tokens = (uint32_t)count;
    wire->resumed_tokens = (uint32_t)given->count;
    sources_resume(request);
    return OK;
}

/* A request of its own for one more of the sequences. What it points to stays the request's, but
 * for its tokens. NULL: no memory. */
static struct request *failover_piece(struct request *request)
{
    struct answer *answer = request->answer;
    struct request *piece = malloc(sizeof(*piece));
    if (piece == NULL)
        return NULL;
    *piece = *request;
    piece->resumed = (struct token_list){0};
    piece->resumed_keys = NULL;
    piece->resumed_key_count = 0;
    piece->wire.source_count = 0;
    piece->next_in_bucket = NULL;
    piece->prefill = piece->decode = NULL;
    piece->id = 0;
    piece->next_piece = answer->pieces;
    answer->pieces = piece;
    answer->requests_left++;
    return piece;
}

void failover_close(struct answer *answer)
{
    while (answer->pieces != NULL) {
        struct request *piece = answer->pieces;
        answer->pieces = piece->next_piece;
        token_list_close(&piece->resumed);
        free(piece->resumed_keys);
        free(piece);
    }
}

/* All unfinished sequences of a request that has tokens. A turn is for one of them. */
static status failover_split(struct router *router, struct request *request, bool has_turn)
{
    uint32_t first = request->first_number, end = first + request->wire.sequence_count;
    const struct request before = *request;
    bool taken = false; /* the request itself has become one of them */
    for (uint32_t i = first; i < end; i++) {
        struct sequence *sequence = &before.sequences[i];
        if (sequence->done)
            continue;
        struct request *part = taken ? failover_piece(request) : request;
        if (part == NULL)
            return error_set(ERR_NO_MEMORY, "no memory to go on with a sequence");
        /* A piece is one more try as the request was, not as it is after it was sent. */
        if (taken)
            part->tries = before.tries;
        status st = failover_resume(part, sequence);
        if (st != OK)
            return st;
        failover_send(router, part, has_turn && !taken);
        taken = true;
    }
    return OK;
}

static void failover_count(struct router *router, const char *phase)
{
    struct router_metrics *m = &router->metrics;
    router->failover_count++;
    prometheus_add(m->all, prometheus_series(m->all, m->failovers, phase), 1);
}

void failover_request(struct router *router, struct request *request, const struct worker *lost)
{
    uint64_t was = request->id;
    bool resumes = failover_has_tokens(request);
    uint32_t first = request->first_number, count = request->wire.sequence_count;
    bool given_up = lost != NULL && failover_blame(router, request, lost);
    route_take_back(router, request, lost);
    if (given_up) {
        char text[160];
        snprintf(text, sizeof(text),
                 "%u workers died one after another while they computed this request; it is not "
                 "given to another one",
                 request->deaths);
        failover_let_off_others(router);
        request_fail(request, 500, "crashes_workers", text);
        return;
    }
    request->broken = request->broken || lost == NULL;
    for (uint32_t i = first; i < first + count; i++)
        request->sequences[i].early_count = 0;
    log_line(LOG_INFO, was, "failing over", "lost=%s tokens=%u sequences=%u",
             lost != NULL ? lost->registration.name : "a handoff",
             request->sequences[first].token_count, request->sequences_left);
    failover_count(router, resumes ? "decode" : "prefill");
    status st = OK;
    if (resumes)
        st = failover_split(router, request, false);
    else
        failover_send(router, request, false);
    if (st != OK)
        request_fail(request, 503, NULL, error_text());
}

void failover_hand_over(struct router *router, struct request *request)
{
    route_take_back(router, request, request->prefill);
    /* What it may be suspected of has not happened: its turn goes on where it is decoded. */
    if (failover_split(router, request, true) != OK)
        request_fail(request, 503, NULL, error_text());
}

void failover_move(struct router *router, struct request *request)
{
    struct worker *from = request->prefill;
    uint64_t was = request->id, progress_ns = request->progress_ns;
    route_take_back(router, request, NULL);
    request->moves++;
    request->tries = 0;
    why_move(request, from);
    failover_send(router, request, false);
    request->progress_ns = progress_ns; /* its deadline is as it was */
    router->moved_count++;
    prometheus_add(router->metrics.all,
                   prometheus_series(router->metrics.all, router->metrics.moved), 1);
    log_line(LOG_DEBUG, was, "moved", "from=%s to=%s", from->registration.name,
             request->prefill != NULL ? request->prefill->registration.name : "nobody yet");
}

void failover_tick(struct router *router, uint64_t now_ns)
{
    if (router->tracked_count == 0)
        return;
    uint32_t out = failover_suspects_out(router);
    for (uint32_t b = 0; b < ROUTER_BUCKETS; b++) {
        for (struct request *r = router->buckets[b]; r != NULL; r = r->next_in_bucket) {
            bool suspect = failover_suspects(router, r);
            if (r->state != REQUEST_PARKED || now_ns < r->retry_ns ||
                (suspect && out >= UINT32_C(1) << router->suspects_doubled))
                continue;
            if (!failover_place(router, r))
                return; /* Nobody is there, for the others either. */
            out += suspect;
        }
    }
}
