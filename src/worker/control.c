#include "worker/control.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "wire/link.h"
#include "worker/mail.h"

#define CONNECT_TIMEOUT_MS 3000
#define RECONNECT_MS 250
#define ROUTER_SILENCE_MS 5000
#define FRAME_BYTES_MAX (64u << 20)
#define PENDING_BYTES_MAX (128u << 20)

struct control {
    struct control_setup setup;
    struct hello hello;                /* ours, of this incarnation */
    struct wire_register registration; /* likewise */
    struct address router;
    struct link *link;
    bool ready;    /* the handshake is over */
    bool renewing; /* the old incarnation's work is being cancelled: no connection until then */
    bool leaving;
    bool refused;
    bool told;            /* "cannot reach" was logged for this outage */
    uint64_t asked_count; /* requests sent to the compute thread */
    struct loop_timer *reconnect;
    struct loop_timer *heartbeat;
    struct wire_heartbeat stats; /* the compute thread's last */
    struct wire_frame frame;     /* scratch */
};

static const struct link_calls control_calls;

/* The router is lost, or has given this worker up: to it, and to the peers that it tells, this
 * incarnation is dead. What it has is cancelled, and then it registers as another one. */
static void control_renew(struct control *control)
{
    struct worker_mail *mail = worker_mail_new(WORKER_RENEW);
    assert(mail != NULL);
    control->ready = false;
    control->renewing = true;
    mail->incarnation = hello_incarnation_random();
    mailbox_post(control->setup.compute, &mail->mail);
}

static void control_renewed(struct control *control, uint64_t incarnation)
{
    control->renewing = false;
    control->hello.incarnation = control->registration.incarnation = incarnation;
    log_info("another incarnation", "incarnation=%016llx", (unsigned long long)incarnation);
    loop_timer_start(control->reconnect, RECONNECT_MS);
}

/* End the connection and begin another: requests of this one are cancelled here, and the router
 * gives them to somebody else. */
static void control_break(struct control *control, const char *reason)
{
    log_warn("router lost", "reason=\"%s\"", reason);
    link_close(control->link);
    control->link = NULL;
    control_renew(control);
}

static void control_send(struct control *control, uint16_t type, const void *data, size_t bytes)
{
    if (!control->ready)
        return;
    assert(bytes <= FRAME_BYTES_MAX);
    status st = link_send(control->link, type, data, (uint32_t)bytes);
    if (st == OK)
        return;
    /* A router that does not read is lost: better a clean break than a hole in the stream. */
    control_break(control, error_text());
}

static void control_connect(void *ctx)
{
    struct control *control = ctx;
    if (control->refused)
        return;
    struct link_setup setup = {
        .calls = &control_calls,
        .ctx = control,
        .hello = &control->hello,
        .key = control->setup.key,
        .limits = {.payload_bytes_max = FRAME_BYTES_MAX,
                   .pending_bytes_max = PENDING_BYTES_MAX,
                   .idle_ms = ROUTER_SILENCE_MS},
    };
    status st = link_connect(control->setup.loop, &control->router, CONNECT_TIMEOUT_MS, &setup,
                             &control->link);
    if (st == OK)
        return;
    control->link = NULL;
    if (!control->told)
        log_warn("cannot reach router", "router=%s reason=\"%s\"", control->router.text,
                 error_text());
    control->told = true;
    loop_timer_start(control->reconnect, RECONNECT_MS);
}

static void control_beat(void *ctx)
{
    struct control *control = ctx;
    wire_frame_reset(&control->frame);
    wire_heartbeat_encode(&control->frame, &control->stats);
    if (!control->frame.failed)
        control_send(control, WIRE_HEARTBEAT, control->frame.data, control->frame.bytes);
    loop_timer_start(control->heartbeat, control->setup.heartbeat_ms);
}

static void control_on_ready(void *ctx, const struct hello *peer)
{
    struct control *control = ctx;
    control->ready = true;
    control->told = false;
    log_info("router reached", "router=%s name=%s", control->router.text, peer->name);
    wire_frame_reset(&control->frame);
    wire_register_encode(&control->frame, &control->registration);
    control_send(control, WIRE_REGISTER, control->frame.data, control->frame.bytes);
    if (control->leaving)
        control_send(control, WIRE_LEAVING, NULL, 0);
    control_beat(control);
}

static void control_refused(struct control *control, const char *reason)
{
    if (!control->refused)
        control->setup.on_refused(control->setup.ctx, reason);
    control->refused = true;
}

static void control_on_close(void *ctx, status cause)
{
    struct control *control = ctx;
    bool was_ready = control->ready;
    control->link = NULL;
    control->ready = false;
    if (cause == ERR_REFUSED) {
        control_refused(control, error_text());
        return;
    }
    if (was_ready || !control->told)
        log_warn(was_ready ? "router lost" : "cannot reach router",
                 "router=%s cause=\"%s\" reason=\"%s\"", control->router.text, status_name(cause),
                 error_text());
    control->told = true;
    if (was_ready)
        control_renew(control);
    else if (!control->renewing)
        loop_timer_start(control->reconnect, RECONNECT_MS);
}

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
static void control_take_request(struct control *control, struct worker_mail *mail)
{
    struct wire_request *request = mail->request;
    status st = control_sampling(control, request, &mail->sampling);
    for (uint32_t i = 0; st == OK && i < request->prompt_tokens; i++) {
        if (request->prompt[i] >= control->setup.vocabulary)
            st = error_set(ERR_BAD_INPUT, "prompt token %u is %u, expected less than %u", i,
                           request->prompt[i], control->setup.vocabulary);
    }
    if (st == OK) {
        control->asked_count++;
        mailbox_post(control->setup.compute, &mail->mail);
        return;
    }
    struct wire_failed failed = {.request_id = request->request_id, .status = st};
    strncpy(failed.text, error_text(), sizeof(failed.text) - 1);
    wire_frame_reset(&control->frame);
    wire_failed_encode(&control->frame, &failed);
    control_send(control, WIRE_FAILED, control->frame.data, control->frame.bytes);
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

static status control_decode(struct control *control, uint16_t type, const uint8_t *payload,
                             uint32_t bytes, struct worker_mail *mail)
{
    status st;
    (void)control;
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
        st = error_set(ERR_BAD_INPUT, "frame type %u is not one that a router sends", type);
        return st;
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
    control_send(control, WIRE_ROLES, control->frame.data, control->frame.bytes);
}

static void control_on_frame(void *ctx, uint16_t type, const uint8_t *payload,
                             uint32_t payload_bytes)
{
    struct control *control = ctx;
    if (type == WIRE_ALIVE)
        return;
    uint32_t roles;
    if (type == WIRE_DRAIN) {
        control->setup.on_drain(control->setup.ctx);
        return;
    }
    if (type == WIRE_SET_ROLES && wire_roles_decode(payload, payload_bytes, &roles) == OK) {
        control_set_roles(control, roles);
        return;
    }
    struct wire_failed failed;
    if (type == WIRE_FAILED && wire_failed_decode(payload, payload_bytes, &failed) == OK) {
        control_refused(control, failed.text);
        return;
    }
    struct worker_mail *mail = worker_mail_new(WORKER_CANCEL);
    if (mail == NULL) {
        log_error("frame dropped", "reason=\"no memory\" type=%u", type);
        return;
    }
    status st = control_decode(control, type, payload, payload_bytes, mail);
    if (st != OK) {
        /* Dropped, it would leave a request waiting for ever. */
        worker_mail_free(mail);
        control_break(control, error_text());
    } else if (mail->request != NULL) {
        control_take_request(control, mail);
    } else {
        mailbox_post(control->setup.compute, &mail->mail);
    }
}

static const struct link_calls control_calls = {
    .on_ready = control_on_ready,
    .on_frame = control_on_frame,
    .on_close = control_on_close,
};

status control_open(const struct control_setup *setup, struct control **control_out)
{
    struct control *control = calloc(1, sizeof(*control));
    if (control == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the router's connection");
    control->setup = *setup;
    control->hello = *setup->hello;
    control->registration = *setup->registration;
    status st = address_parse(setup->router, 8001, &control->router);
    if (st == OK)
        st = loop_timer_open(setup->loop, control_connect, control, &control->reconnect);
    if (st == OK)
        st = loop_timer_open(setup->loop, control_beat, control, &control->heartbeat);
    if (st != OK) {
        control_close(control);
        return st;
    }
    control_connect(control);
    *control_out = control;
    return OK;
}

void control_close(struct control *control)
{
    if (control == NULL)
        return;
    link_close(control->link);
    loop_timer_close(control->reconnect);
    loop_timer_close(control->heartbeat);
    wire_frame_close(&control->frame);
    free(control);
}

void control_take(struct control *control, struct mail *taken)
{
    struct worker_mail *mail = (struct worker_mail *)taken;
    if (taken->kind == WORKER_FRAME)
        control_send(control, mail->type, mail->frame.data, mail->frame.bytes);
    else if (taken->kind == WORKER_STATS)
        control->stats = mail->heartbeat;
    else if (taken->kind == WORKER_RENEWED)
        control_renewed(control, mail->incarnation);
    worker_mail_free(mail);
}

void control_leave(struct control *control)
{
    control->leaving = true;
    control_send(control, WIRE_LEAVING, NULL, 0);
}

uint64_t control_requests(const struct control *control)
{
    return control->stats.sequences_running + control->stats.sequences_waiting +
           control->stats.sequences_preempted;
}
