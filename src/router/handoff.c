/* How a prompt's blocks get to the worker that decodes it, when that is another one.
 *
 *     direct   the decode worker fetches from the prefill worker, layer by layer
 *     store    prefill -> first token -> all in the store (saved) -> a resume fetches it there:
 *              prefill and decode workers never connect
 *     both     direct; by the store between workers that could not reach each other of late
 *
 * Where the store is needed and away, the prompt is computed where it is decoded. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "router/request.h"
#include "router/choose.h"

#define APART_NS UINT64_C(10000000000) /* workers that could not reach each other try again */

int router_handoff_parse(const char *word)
{
    static const char *const words[] = {"direct", "store", "both"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, words[i]) == 0)
            return i;
    }
    return -1;
}

static bool handoff_has_store(const struct worker *worker)
{
    return worker->registration.has_store && worker->beat.store_up;
}

bool handoff_may_fetch(const struct worker *asker, const struct worker *holder)
{
    return asker->router->handoff != ROUTER_HANDOFF_STORE ||
           (asker->registration.roles & holder->registration.roles) != 0;
}

bool handoff_reaches(const struct worker *decode, const struct worker *prefill)
{
    return decode->router->handoff == ROUTER_HANDOFF_DIRECT || prefill->slot < 0 ||
           clock_ns() >= decode->apart_until_ns[prefill->slot] || !handoff_has_store(decode) ||
           !handoff_has_store(prefill);
}

enum handoff_way handoff_choose(const struct worker *prefill)
{
    const struct router *router = prefill->router;
    bool store = false, direct = false;
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w == prefill || !w->registered || w->closed || w->leaving ||
            (w->registration.roles & WIRE_ROLE_DECODE) == 0)
            continue;
        store = store || handoff_has_store(w);
        direct = direct || handoff_reaches(w, prefill);
    }
    if (router->handoff != ROUTER_HANDOFF_STORE && direct)
        return HANDOFF_DIRECT;
    return store && handoff_has_store(prefill) ? HANDOFF_BY_STORE : HANDOFF_NONE;
}

void handoff_apart(struct worker *decode, const struct worker *prefill)
{
    if (prefill->slot >= 0)
        decode->apart_until_ns[prefill->slot] = clock_ns() + APART_NS;
}

void handoff_failed(struct worker *decode, const struct wire_failed *failed)
{
    const struct request *request = request_find(decode->router, failed->request_id);
    if (request == NULL || request->decode != decode || request->prefill == NULL ||
        request->prefill == decode)
        return;
    if (failed->status == ERR_TIMEOUT || failed->status == ERR_CLOSED || failed->status == ERR_IO)
        handoff_apart(decode, request->prefill);
}

void handoff_saved(struct worker *prefill, const struct wire_saved *saved)
{
    struct router *router = prefill->router;
    struct router_metrics *m = &router->metrics;
    struct request *request = request_find(router, saved->request_id);
    if (request == NULL || request->prefill != prefill || request->handed ||
        request->state != REQUEST_RUNNING || request->wire.handoff != WIRE_HANDOFF_STORE)
        return;
    why_saved(request, saved);
    if (saved->status != OK) {
        log_line(LOG_WARN, request->id, "handoff by the store failed", "reason=\"%s\"",
                 saved->text);
        if (saved->status == ERR_CLOSED) /* The next heartbeat says how it is. */
            prefill->beat.store_up = 0;
        failover_request(router, request, NULL);
        return;
    }
    log_line(LOG_DEBUG, request->id, "handed over", "carrier=store bytes=%llu exposed_us=%llu",
             (unsigned long long)saved->bytes, (unsigned long long)(saved->ns / 1000));
    prometheus_observe(m->all, prometheus_series(m->all, m->handoff), (double)saved->ns / 1e9);
    prometheus_observe(m->all, prometheus_series(m->all, m->exposed), (double)saved->ns / 1e9);
    prometheus_add(m->all, prometheus_series(m->all, m->handoffs, "store"), 1);
    prometheus_add(m->all, prometheus_series(m->all, m->handoff_bytes, "store"),
                   (double)saved->bytes);
    failover_hand_over(router, request);
}
