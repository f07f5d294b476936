#include "worker/control.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/store.h"
#include "transfer/transfer.h"
#include "wire/link.h"
#include "worker/mail.h"

#define CONNECT_TIMEOUT_MS 3000
#define RECONNECT_MS 250
#define ROUTER_SILENCE_MS 5000
#define FRAME_BYTES_MAX (64u << 20)
#define PENDING_BYTES_MAX (128u << 20)

/* One of the worker's routers, and the connection with it. */
struct control_router {
    struct control *control;
    struct address address;
    struct link *link;
    uint32_t number; /* of its requests' ids; while ready */
    bool ready;      /* the handshake is over */
    bool refused;    /* it will not have this worker */
    bool told;       /* "cannot reach" was logged for this outage */
    struct loop_timer *reconnect;
};

struct control {
    struct control_setup setup;
    struct hello hello;                /* ours, of this incarnation */
    struct wire_register registration; /* likewise */
    struct control_router routers[WIRE_ROUTERS_MAX];
    uint32_t router_count;
    bool renewing; /* the old incarnation's work is being cancelled: no connection until then */
    bool leaving;
    struct loop_timer *heartbeat;
    struct wire_heartbeat stats; /* the compute thread's last; store_up: it is trusted */
    struct worker_load loads[WIRE_ROUTERS_MAX];
    uint32_t load_count;
    struct wire_frame frame; /* scratch */
};

static const struct link_calls control_calls;

/* ---- a router is lost ---- */

static bool control_any_ready(const struct control *control)
{
    for (uint32_t i = 0; i < control->router_count; i++) {
        if (control->routers[i].ready)
            return true;
    }
    return false;
}

/* No router is left: to them, and to the peers that they tell, this incarnation is dead. What it
 * has is cancelled, and then it registers as another one. */
static void control_renew(struct control *control)
{
    struct worker_mail *mail = worker_mail_new(WORKER_RENEW);
    assert(mail != NULL);
    control->renewing = true;
    for (uint32_t i = 0; i < control->router_count; i++) { /* Those under way say the old one. */
        link_close(control->routers[i].link);
        control->routers[i].link = NULL;
    }
    mail->incarnation = hello_incarnation_random();
    mailbox_post(control->setup.compute, &mail->mail);
}

/* This router is lost, or has given this worker up: its requests are cancelled, as nobody is there
 * to take their tokens. Those of the others go on, so the incarnation stays: whatever it still does
 * for the lost one has an id that nobody knows any more. */
static void control_lose(struct control_router *router)
{
    struct control *control = router->control;
    bool was_ready = router->ready;
    link_close(router->link);
    router->link = NULL;
    router->ready = false;
    if (was_ready && !control_any_ready(control)) {
        control_renew(control);
        return;
    }
    if (was_ready) {
        struct worker_mail *mail = worker_mail_new(WORKER_FORGET);
        assert(mail != NULL);
        mail->router = router->number;
        mailbox_post(control->setup.compute, &mail->mail);
    }
    if (!control->renewing)
        loop_timer_start(router->reconnect, RECONNECT_MS);
}

static void control_renewed(struct control *control, uint64_t incarnation)
{
    control->renewing = false;
    control->hello.incarnation = control->registration.incarnation = incarnation;
    log_info("another incarnation", "incarnation=%016llx", (unsigned long long)incarnation);
    for (uint32_t i = 0; i < control->router_count; i++)
        loop_timer_start(control->routers[i].reconnect, RECONNECT_MS);
}

/* End the connection and begin another: requests of this one are cancelled here, and the router
 * gives them to somebody else. */
static void control_break(struct control_router *router, const char *reason)
{
    log_warn("router lost", "router=%s reason=\"%s\"", router->address.text, reason);
    control_lose(router);
}

/* ---- what is sent ---- */

static void control_send(struct control_router *router, uint16_t type, const void *data,
                         size_t bytes)
{
    if (!router->ready)
        return;
    assert(bytes <= FRAME_BYTES_MAX);
    status st = link_send(router->link, type, data, (uint32_t)bytes);
    if (st == OK)
        return;
    /* A router that does not read is lost: better a clean break than a hole in the stream. */
    control_break(router, error_text());
}

/* number: of one router, or WIRE_EVERY_ROUTER. */
static void control_send_to(struct control *control, uint32_t number, uint16_t type,
                            const void *data, size_t bytes)
{
    for (uint32_t i = 0; i < control->router_count; i++) {
        if (number == WIRE_EVERY_ROUTER || number == control->routers[i].number)
            control_send(&control->routers[i], type, data, bytes);
    }
}

static void control_beat_one(struct control_router *router)
{
    struct control *control = router->control;
    struct wire_heartbeat beat = control->stats;
    beat.store_up =
        beat.store_up != 0 && control->setup.store != NULL && store_is_up(control->setup.store);
    for (uint32_t i = 0; i < control->load_count; i++) {
        if (control->loads[i].router == router->number)
            continue;
        beat.others_tokens += control->loads[i].tokens;
        beat.others_sequences += control->loads[i].sequences;
    }
    wire_frame_reset(&control->frame);
    wire_heartbeat_encode(&control->frame, &beat);
    if (!control->frame.failed)
        control_send(router, WIRE_HEARTBEAT, control->frame.data, control->frame.bytes);
}

static void control_beat(void *ctx)
{
    struct control *control = ctx;
    for (uint32_t i = 0; i < control->router_count; i++) {
        if (control->routers[i].ready)
            control_beat_one(&control->routers[i]);
    }
    loop_timer_start(control->heartbeat, control->setup.heartbeat_ms);
}

/* ---- connecting ---- */

static void control_connect(void *ctx)
{
    struct control_router *router = ctx;
    struct control *control = router->control;
    if (router->refused || control->renewing || router->link != NULL)
        return;
    struct link_setup setup = {
        .calls = &control_calls,
        .ctx = router,
        .hello = &control->hello,
        .key = control->setup.key,
        .limits = {.payload_bytes_max = FRAME_BYTES_MAX,
                   .pending_bytes_max = PENDING_BYTES_MAX,
                   .idle_ms = ROUTER_SILENCE_MS},
    };
    status st = link_connect(control->setup.loop, &router->address, CONNECT_TIMEOUT_MS, &setup,
                             &router->link);
    if (st == OK)
        return;
    router->link = NULL;
    if (!router->told)
        log_warn("cannot reach router", "router=%s reason=\"%s\"", router->address.text,
                 error_text());
    router->told = true;
    loop_timer_start(router->reconnect, RECONNECT_MS);
}

/* Ids say whose a request is. False: another of its routers has this number. */
static bool control_number_is_free(struct control_router *router, const struct hello *peer)
{
    struct control *control = router->control;
    router->number = WIRE_ROUTER_NUMBER(peer->incarnation);
    for (uint32_t i = 0; i < control->router_count; i++) {
        const struct control_router *other = &control->routers[i];
        if (other != router && other->ready && other->number == router->number) {
            error_set(ERR_REFUSED,
                      "its number %06x is that of %s too: both are one process, or one of them is "
                      "to be started again",
                      router->number, other->address.text);
            return false;
        }
    }
    return true;
}

static void control_on_ready(void *ctx, const struct hello *peer)
{
    struct control_router *router = ctx;
    struct control *control = router->control;
    if (!control_number_is_free(router, peer)) {
        if (!router->told)
            log_error("router not used", "router=%s reason=\"%s\"", router->address.text,
                      error_text());
        router->told = true;
        control_lose(router);
        return;
    }
    router->ready = true;
    router->told = false;
    log_info("router reached", "router=%s name=%s", router->address.text, peer->name);
    wire_frame_reset(&control->frame);
    wire_register_encode(&control->frame, &control->registration);
    control_send(router, WIRE_REGISTER, control->frame.data, control->frame.bytes);
    if (control->leaving)
        control_send(router, WIRE_LEAVING, NULL, 0);
    if (router->ready)
        control_beat_one(router);
}

/* The worker ends when all of them refuse it. */
static void control_refused(struct control_router *router, const char *reason)
{
    struct control *control = router->control;
    if (router->refused)
        return;
    router->refused = true;
    log_error("refused by router", "router=%s reason=\"%s\"", router->address.text, reason);
    for (uint32_t i = 0; i < control->router_count; i++) {
        if (!control->routers[i].refused)
            return;
    }
    control->setup.on_refused(control->setup.ctx, reason);
}

static void control_on_close(void *ctx, status cause)
{
    struct control_router *router = ctx;
    router->link = NULL;
    if (cause == ERR_REFUSED && !router->ready) {
        control_refused(router, error_text());
        return;
    }
    if (router->ready || !router->told)
        log_warn(router->ready ? "router lost" : "cannot reach router",
                 "router=%s cause=\"%s\" reason=\"%s\"", router->address.text, status_name(cause),
                 error_text());
    router->told = true;
    control_lose(router);
}

/* ---- what is received ---- */

/* The sampler's parameters from the wire's, checked. */
static status control_sampling(const struct control *control, const struct wire_request *request,
                               struct sampling *sampling)
{
    const struct wire_sampling *from = &request->sampling;
    sampling_defaults(sampling);
    sampling->seed = from->seed;
    sampling->temperature = from->temperature;
    sampling->top_p = from->top_p;
    sampling->min_p = from->min_p;
    sampling->top_k = from->top_k;
    sampling->repetition_penalty = from->repetition_penalty;
    sampling->frequency_penalty = from->frequency_penalty;
    sampling->presence_penalty = from->presence_penalty;
    sampling->logprobs = (request->flags & WIRE_REQUEST_LOGPROBS) != 0;
    sampling->top_logprobs = from->logprob_count;
    sampling->min_tokens = from->min_tokens;
    sampling->end_id_count = from->stop_count;
    memcpy(sampling->end_ids, from->stop_ids, from->stop_count * sizeof(*from->stop_ids));
    sampling->bias_count = from->bias_count;
    for (uint32_t i = 0; i < from->bias_count; i++) {
        sampling->bias[i] =
            (struct sampling_bias){.token_id = from->bias[i].token, .bias = from->bias[i].add};
    }
    return sampling_check(sampling, control->setup.vocabulary);
}

/* One of the router's requests to the compute thread, or a named failure back. */
static void control_take_request(struct control_router *router, struct worker_mail *mail)
{
    struct control *control = router->control;
    struct wire_request *request = mail->request;
    status st = control_sampling(control, request, &mail->sampling);
    if (st == OK && WIRE_ROUTER_OF(request->request_id) != router->number)
        st = error_set(ERR_BAD_INPUT, "the id %016llx is not one of this router's (%06x)",
                       (unsigned long long)request->request_id, router->number);
    for (uint32_t i = 0; st == OK && i < request->prompt_tokens; i++) {
        if (request->prompt[i] >= control->setup.vocabulary)
            st = error_set(ERR_BAD_INPUT, "prompt token %u is %u, expected less than %u", i,
                           request->prompt[i], control->setup.vocabulary);
    }
    if (st == OK) {
        mailbox_post(control->setup.compute, &mail->mail);
        return;
    }
    struct wire_failed failed = {.request_id = request->request_id, .status = st};
    strncpy(failed.text, error_text(), sizeof(failed.text) - 1);
    wire_frame_reset(&control->frame);
    wire_failed_encode(&control->frame, &failed);
    control_send(router, WIRE_FAILED, control->frame.data, control->frame.bytes);
    worker_mail_free(mail);
}

/* The frame goes, so the keys are copied. */
static status control_decode_lend(const uint8_t *payload, uint32_t bytes, struct worker_mail *mail)
{
    status st = wire_lend_decode(payload, bytes, &mail->lend);
    if (st != OK)
        return st;
    size_t key_bytes = (size_t)mail->lend.key_count * WIRE_KEY_BYTES;
    mail->keys = malloc(key_bytes);
    if (mail->keys == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u keys", mail->lend.key_count);
    memcpy(mail->keys, mail->lend.keys, key_bytes);
    mail->lend.keys = mail->keys;
    return OK;
}

static status control_decode(uint16_t type, const uint8_t *payload, uint32_t bytes,
                             struct worker_mail *mail)
{
    switch (type) {
    case WIRE_PREFILL:
        mail->mail.kind = WORKER_PREFILL;
        return wire_prefill_decode(payload, bytes, &mail->request);
    case WIRE_RESERVE:
        mail->mail.kind = WORKER_RESERVE;
        return wire_reserve_decode(payload, bytes, &mail->request, &mail->holder);
    case WIRE_PLACE:
        mail->mail.kind = WORKER_PLACE;
        return wire_place_decode(payload, bytes, &mail->place);
    case WIRE_PEER_LOST:
        mail->mail.kind = WORKER_PEER_LOST;
        return wire_id_decode(payload, bytes, &mail->incarnation);
    case WIRE_LEND:
        mail->mail.kind = WORKER_LEND;
        return control_decode_lend(payload, bytes, mail);
    case WIRE_LEND_END:
        mail->mail.kind = WORKER_LEND_END;
        return wire_id_decode(payload, bytes, &mail->incarnation);
    case WIRE_BLOCKS_ASK:
        mail->mail.kind = WORKER_BLOCKS_ASK;
        return OK;
    case WIRE_CANCEL:
        mail->mail.kind = WORKER_CANCEL;
        return wire_cancel_decode(payload, bytes, &mail->cancel);
    default:
        return error_set(ERR_BAD_INPUT, "frame type %u is not one that a router sends", type);
    }
}

/* Any worker does both halves: a role only says what it is sent. Blocks and what runs stay. */
static void control_set_roles(struct control *control, uint32_t roles)
{
    control->registration.roles = roles;
    control->hello.role = roles == WIRE_ROLE_PREFILL  ? HELLO_PREFILL
                          : roles == WIRE_ROLE_DECODE ? HELLO_DECODE
                                                      : HELLO_COLOCATED;
    log_info("another role", "role=%s", hello_role_name(control->hello.role));
    wire_frame_reset(&control->frame);
    wire_roles_encode(&control->frame, roles);
    control_send_to(control, WIRE_EVERY_ROUTER, WIRE_ROLES, control->frame.data,
                    control->frame.bytes);
}

/* Not by way of the compute thread, which may be in a step. */
static status control_meet(struct control *control, const uint8_t *payload, uint32_t bytes)
{
    struct wire_holder peer;
    struct address local;
    status st = wire_holder_decode(payload, bytes, &peer);
    if (st == OK)
        st = address_parse_numeric(peer.transfer_unix, &local);
    if (st != OK)
        return error_prefix(st, "peer");
    log_debug("peer is here", "peer=%s incarnation=%016llx", peer.name,
              (unsigned long long)peer.incarnation);
    transfer_meet(control->setup.transfer, peer.incarnation, &local);
    return OK;
}

static void control_on_frame(void *ctx, uint16_t type, const uint8_t *payload,
                             uint32_t payload_bytes)
{
    struct control_router *router = ctx;
    struct control *control = router->control;
    struct wire_failed failed;
    uint32_t roles;
    if (type == WIRE_ALIVE)
        return;
    if (type == WIRE_DRAIN) {
        control->setup.on_drain(control->setup.ctx);
        return;
    }
    if (type == WIRE_SET_ROLES && wire_roles_decode(payload, payload_bytes, &roles) == OK) {
        control_set_roles(control, roles);
        return;
    }
    if (type == WIRE_PEER) {
        if (control_meet(control, payload, payload_bytes) != OK)
            control_break(router, error_text());
        return;
    }
    if (type == WIRE_FAILED && wire_failed_decode(payload, payload_bytes, &failed) == OK) {
        control_refused(router, failed.text);
        return;
    }
    struct worker_mail *mail = worker_mail_new(WORKER_CANCEL);
    if (mail == NULL) {
        log_error("frame dropped", "reason=\"no memory\" type=%u", type);
        return;
    }
    status st = control_decode(type, payload, payload_bytes, mail);
    if (st != OK) {
        /* Dropped, it would leave a request waiting for ever. */
        worker_mail_free(mail);
        control_break(router, error_text());
    } else if (mail->request != NULL) {
        control_take_request(router, mail);
    } else {
        mailbox_post(control->setup.compute, &mail->mail);
    }
}

static const struct link_calls control_calls = {
    .on_ready = control_on_ready,
    .on_frame = control_on_frame,
    .on_close = control_on_close,
};

/* "A,B": each with its timer. */
static status control_open_routers(struct control *control, const char *list)
{
    for (const char *at = list; at != NULL;) {
        const char *comma = strchr(at, ',');
        char text[ADDRESS_TEXT_BYTES];
        snprintf(text, sizeof(text), "%.*s", comma != NULL ? (int)(comma - at) : (int)strlen(at),
                 at);
        if (control->router_count == WIRE_ROUTERS_MAX)
            return error_set(ERR_BAD_INPUT, "--router names more than %u routers",
                             WIRE_ROUTERS_MAX);
        struct control_router *router = &control->routers[control->router_count++];
        router->control = control;
        status st = address_parse(text, 8001, &router->address);
        for (uint32_t i = 0; st == OK && i + 1 < control->router_count; i++) {
            if (strcmp(control->routers[i].address.text, router->address.text) == 0)
                st = error_set(ERR_BAD_INPUT, "--router names %s twice", router->address.text);
        }
        if (st == OK)
            st = loop_timer_open(control->setup.loop, control_connect, router, &router->reconnect);
        if (st != OK)
            return st;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return OK;
}

status control_open(const struct control_setup *setup, struct control **control_out)
{
    struct control *control = calloc(1, sizeof(*control));
    if (control == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the connections with routers");
    control->setup = *setup;
    control->hello = *setup->hello;
    control->registration = *setup->registration;
    status st = control_open_routers(control, setup->routers);
    if (st == OK)
        st = loop_timer_open(setup->loop, control_beat, control, &control->heartbeat);
    if (st != OK) {
        control_close(control);
        return st;
    }
    for (uint32_t i = 0; i < control->router_count; i++)
        control_connect(&control->routers[i]);
    loop_timer_start(control->heartbeat, setup->heartbeat_ms);
    *control_out = control;
    return OK;
}

void control_close(struct control *control)
{
    if (control == NULL)
        return;
    for (uint32_t i = 0; i < control->router_count; i++) {
        link_close(control->routers[i].link);
        loop_timer_close(control->routers[i].reconnect);
    }
    loop_timer_close(control->heartbeat);
    wire_frame_close(&control->frame);
    free(control);
}

static void control_take_stats(struct control *control, const struct worker_mail *mail)
{
    control->stats = mail->heartbeat;
    control->load_count = mail->load_count;
    memcpy(control->loads, mail->loads, sizeof(control->loads));
}

void control_take(struct control *control, struct mail *taken)
{
    struct worker_mail *mail = (struct worker_mail *)taken;
    if (taken->kind == WORKER_FRAME)
        control_send_to(control, mail->router, mail->type, mail->frame.data, mail->frame.bytes);
    else if (taken->kind == WORKER_STATS)
        control_take_stats(control, mail);
    else if (taken->kind == WORKER_RENEWED)
        control_renewed(control, mail->incarnation);
    worker_mail_free(mail);
}

void control_leave(struct control *control)
{
    control->leaving = true;
    control_send_to(control, WIRE_EVERY_ROUTER, WIRE_LEAVING, NULL, 0);
}

uint64_t control_requests(const struct control *control)
{
    return control->stats.sequences_running + control->stats.sequences_waiting +
           control->stats.sequences_preempted;
}
