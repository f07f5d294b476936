/* What an operator asks (wire/operator.h): who is there, what they do, and to change it. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/request.h"
#include "wire/operator.h"

static void operator_fill(const struct worker *worker, struct wire_member *member)
{
    *member =
        (struct wire_member){.registration = worker->registration,
                             .beat = worker->beat,
                             .leaving = worker->leaving,
                             .beat_age_ms = (uint32_t)((clock_ns() - worker->beat_ns) / 1000000),
                             .decoding = worker->decoding,
                             .queued_tokens = worker->queued_tokens};
}

static void operator_status(struct worker *asker)
{
    struct router *router = asker->router;
    struct directory_counts directory;
    struct wire_member member;
    directory_count(router->directory, &directory);
    struct wire_status head = {.incarnation = router->hello.incarnation,
                               .waiting = router->waiting_count,
                               .draining = router->draining,
                               .directory_keys = directory.entries,
                               .directory_repairs = directory.repairs,
                               .failovers = router->failover_count};
    for (const struct answer *a = router->answers; a != NULL; a = a->next)
        head.requests++;
    for (const struct worker *w = router->workers; w != NULL; w = w->next)
        head.member_count += w->registered && !w->closed;
    wire_frame_reset(&router->frame);
    wire_status_encode(&router->frame, &head);
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (!w->registered || w->closed)
            continue;
        operator_fill(w, &member);
        wire_member_encode(&router->frame, &member);
    }
    link_limit_payload(asker->link, OPERATOR_FRAME_BYTES_MAX);
    route_send(asker, WIRE_STATUS, &router->frame);
}

static status operator_apply(struct router *router, const struct wire_change *change)
{
    struct worker *worker = router->workers;
    while (worker != NULL && (!worker->registered || worker->closed ||
                              strcmp(worker->registration.name, change->worker) != 0))
        worker = worker->next;
    if (worker == NULL)
        return error_set(ERR_NOT_FOUND, "no worker %s is here; `baton ctl status` lists them",
                         change->worker);
    wire_frame_reset(&router->frame);
    if (change->action == WIRE_CHANGE_DRAIN) {
        worker->leaving = true;
        log_info("worker told to leave", "worker=%s", change->worker);
        route_send(worker, WIRE_DRAIN, &router->frame);
        return OK;
    }
    wire_roles_encode(&router->frame, change->roles);
    route_send(worker, WIRE_SET_ROLES, &router->frame);
    health_set_roles(worker, change->roles);
    return OK;
}

static void operator_change(struct worker *asker, const uint8_t *payload, uint32_t bytes)
{
    struct router *router = asker->router;
    struct wire_change change;
    struct wire_changed changed = {.status = wire_change_decode(payload, bytes, &change)};
    if (changed.status == OK)
        changed.status = operator_apply(router, &change);
    if (changed.status != OK)
        snprintf(changed.text, sizeof(changed.text), "%s", error_text());
    wire_frame_reset(&router->frame);
    wire_changed_encode(&router->frame, &changed);
    route_send(asker, WIRE_CHANGED, &router->frame);
}

bool operator_take(struct worker *asker, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    if (asker->hello.role != HELLO_OPERATOR)
        return false;
    if (type == WIRE_STATUS_ASK)
        operator_status(asker);
    else if (type == WIRE_CHANGE)
        operator_change(asker, payload, bytes);
    else
        return false;
    return true;
}
