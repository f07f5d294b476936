/* Why a request took the time it took: what was chosen, what was not, and how long each part was.
 * Kept for the last requests, read by `baton why`. */
#include "router/why.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "router/request.h"
#include "router/choose.h"
#include "transfer/transfer.h"

#define WHY_KEPT 512
#define WHY_BYTES 3072

struct why_ring {
    uint32_t next;
    char records[WHY_KEPT][WHY_BYTES];
};

status why_open(struct router *router)
{
    router->why = calloc(1, sizeof(*router->why));
    return router->why != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for past requests");
}

void why_close(struct router *router)
{
    free(router->why);
    router->why = NULL;
}

/* ---- what is noted on the way ---- */

static const char *why_name(struct worker *const *workers, int of)
{
    return of >= 0 ? workers[of]->registration.name : "";
}

static void why_sent(struct why *why)
{
    if (why->sent_ns == 0)
        why->sent_ns = clock_ns();
}

/* Its first token was made elsewhere, and this is said of the worker that goes on. */
static bool why_goes_on(const struct request *request)
{
    return request->why.first.request_id != 0;
}

void why_choice(struct request *request, const struct route_choice *choice,
                struct worker *const *workers)
{
    static const char *const names[ROUTE_WAYS] = {"prefill", "pull, then prefill",
                                                  "prefill on the decode worker"};
    struct why *why = &request->why;
    size_t at = 0;
    why_sent(why);
    why->choice[0] = '\0';
    for (int i = 0; i < ROUTE_WAYS; i++) {
        const struct route_option *way = &choice->ways[i];
        bool chosen = i == (int)choice->way;
        int more;
        if (way->worker < 0)
            more = snprintf(why->choice + at, sizeof(why->choice) - at, "  not      %s: %s\n",
                            names[i],
                            i == ROUTE_PULL ? "nobody holds more of it than a prefill worker"
                                            : "no decode worker holds it, has room, and may "
                                              "compute so much (--local-tokens)");
        else
            more =
                snprintf(why->choice + at, sizeof(why->choice) - at,
                         "  %s %s: %s%s%s, predicted %.3f ms\n", chosen ? "chosen  " : "not     ",
                         names[i], why_name(workers, way->worker), way->holder >= 0 ? " from " : "",
                         why_name(workers, way->holder), way->seconds * 1e3);
        if (more < 0 || (size_t)more >= sizeof(why->choice) - at)
            return;
        at += (size_t)more;
    }
}

void why_resume(struct request *request, const struct worker *worker, const struct worker *holder)
{
    struct why *why = &request->why;
    bool on = why_goes_on(request);
    why_sent(why);
    why->taken.request_id = 0;
    snprintf(on ? why->taker : why->choice, on ? sizeof(why->taker) : sizeof(why->choice),
             "  chosen   goes on after %u tokens: %s%s%s\n", request->wire.resumed_tokens,
             worker->registration.name, holder != NULL ? ", blocks from " : "",
             holder != NULL ? holder->registration.name : "");
}

void why_move(struct request *request, const struct worker *from)
{
    snprintf(request->why.moved_from, sizeof(request->why.moved_from), "%s",
             from->registration.name);
}

void why_reserve(struct request *request, const struct worker *worker)
{
    snprintf(request->why.decode, sizeof(request->why.decode), "%s", worker->registration.name);
    request->why.reserve_ns = clock_ns();
    request->why.placed_ns = 0;
}

void why_first(struct request *request, const struct wire_first *first)
{
    *(why_goes_on(request) ? &request->why.taken : &request->why.first) = *first;
}

void why_handed(struct request *request, const struct wire_handed *handed)
{
    request->why.handed = *handed;
}

void why_saved(struct request *request, const struct wire_saved *saved)
{
    request->why.saved = *saved;
}

/* ---- the record ---- */

static const char *why_holder(const struct router *router, uint64_t incarnation)
{
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w->registered && w->registration.incarnation == incarnation)
            return w->registration.name;
    }
    return "one that is gone";
}

static void why_write_gather(const struct request *request, const struct wire_first *first,
                             uint32_t prompt_tokens, struct text *text)
{
    uint32_t fetched = first->peer_tokens + first->store_tokens;
    text_format(text, "  gather   %.3f ms; tokens: own %u, peers %u, store %u, computed %u\n",
                (double)first->gather_ns / 1e6, first->cached_tokens - fetched, first->peer_tokens,
                first->store_tokens, prompt_tokens - first->cached_tokens);
    for (uint32_t i = 0; i < first->range_count; i++) {
        const struct wire_range *r = &first->ranges[i];
        text_format(text,
                    "           blocks %u to %u from %s by %s: %s, %llu bytes in %.3f ms, "
                    "%.1f MB/s\n",
                    r->first_block, r->first_block + r->block_count,
                    r->from == WIRE_FROM_STORE ? "store"
                                               : why_holder(request->answer->router, r->holder),
                    transfer_carrier_name((enum transfer_carrier)r->carrier),
                    status_name((status)r->status), (unsigned long long)r->bytes,
                    (double)r->ns / 1e6, r->ns > 0 ? (double)r->bytes * 1e3 / (double)r->ns : 0);
    }
}

static void why_write_times(const struct request *request, struct text *text)
{
    const struct why *why = &request->why;
    const struct wire_first *first = &why->first;
    const struct answer *answer = request->answer;
    text_format(text, "  accept   %.3f ms: read, templated, tokenized\n",
                (double)(why->sent_ns - answer->arrived_ns) / 1e6);
    if (why->moved_from[0] != '\0')
        text_format(text, "  moved    from the queue of %s\n", why->moved_from);
    text_put(text, why->choice);
    if (why->reserve_ns != 0)
        text_format(
            text, "  reserve  %s%s%.3f ms\n", why->decode,
            why->placed_ns != 0 ? ", after " : ", not granted within ",
            (double)((why->placed_ns != 0 ? why->placed_ns : clock_ns()) - why->reserve_ns) / 1e6);
    if (request->first_ns == 0) {
        text_put(text, "  no first token\n");
        return;
    }
    text_format(text, "  queue    %.3f ms on the worker; of that %.3f ms for a place\n",
                (double)first->queue_ns / 1e6, (double)first->place_ns / 1e6);
    why_write_gather(request, first, (uint32_t)request->prompt.count, text);
    text_format(text, "  prefill  %.3f ms\n", (double)first->prefill_ns / 1e6);
    text_format(text, "  first    %.3f ms after it arrived\n",
                (double)(request->first_ns - answer->arrived_ns) / 1e6);
    if (why->saved.request_id != 0)
        text_format(text, "  handoff  %llu bytes to the store after the first token: %s, %.3f ms\n",
                    (unsigned long long)why->saved.bytes, status_name((status)why->saved.status),
                    (double)why->saved.ns / 1e6);
    if (why->handed.request_id != 0)
        text_format(text, "  handoff  %llu bytes by %s in %.3f ms; exposed %.3f ms\n",
                    (unsigned long long)why->handed.bytes,
                    transfer_carrier_name((enum transfer_carrier)why->handed.carrier),
                    (double)why->handed.total_ns / 1e6, (double)why->handed.exposed_ns / 1e6);
    text_put(text, why->taker);
    if (why->taken.request_id != 0)
        why_write_gather(request, &why->taken, request->wire.prompt_tokens, text);
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < request->wire.sequence_count; i++)
        tokens += request->sequences[request->first_number + i].token_count;
    text_format(text, "  decode   %u tokens in %.3f ms\n", tokens,
                (double)(clock_ns() - request->first_ns) / 1e6);
}

void why_end(const struct request *request)
{
    struct router *router = request->answer->router;
    if (router->why == NULL)
        return;
    struct text text = text_open(WHY_BYTES - 2);
    text_format(&text, "request %s\n  prompt   %u, %u tokens, attempt %u, id %016llx\n",
                request->answer->id, request->number, request->wire.prompt_tokens,
                request->attempts, (unsigned long long)request->id);
    why_write_times(request, &text);
    char *record = router->why->records[router->why->next++ % WHY_KEPT];
    snprintf(record, WHY_BYTES, "%s\n", text.data != NULL ? text.data : "");
    text_close(&text);
}

void why_write(const struct router *router, struct text *text)
{
    for (uint32_t i = 0; i < WHY_KEPT; i++)
        text_put(text, router->why->records[(router->why->next + i) % WHY_KEPT]);
}
