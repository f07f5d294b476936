/* The kind of store that is a `baton store` process. Its frames are wire/store.h; blocks move by
 * transfer/'s two verbs: for an add this worker opens a lease and the store fetches, for a get the
 * other way round.
 *
 *     ADD -> WANT -> lease open, offered -> ADDED and HOLDER_DONE -> end     (ADDED at once: end)
 *     GET -> GOT  -> receive                -> its report          -> end     (nothing there: end)
 *
 * What is offered and was never summed is summed here, a step at a time, while the transfer's
 * thread sends what was offered before: one thread that did both would be what an add waits for.
 *
 * A job ends only when its lease or receive has been reported: nothing is read or written then. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/parts.h"
#include "wire/control.h"
#include "wire/link.h"
#include "wire/store.h"

#define RETRY_FIRST_MS 50
#define RETRY_LAST_MS 2000
#define PENDING_BYTES (16u << 20)
#define UNACKNOWLEDGED_MS 4000 /* after it a link that was cut is made anew, not waited for */
#define LEASE_MARGIN_MS 1000   /* that a lease outlives the job's deadline */
#define OFFER_BLOCKS 64        /* of one layer, summed and offered before the loop looks around */

struct remote {
    struct store *store;
    struct address address;
    struct address holder_unix, holder_tcp; /* the store's transfer */
    bool has_unix, has_tcp, refused_before;
    uint64_t incarnation;
    struct link *link;
    struct loop_timer *retry_timer, *offer_timer;
    uint32_t retry_ms;
    struct mailbox *transfers;
    struct loop_watch *transfers_watch;
    struct wire_frame frame;
};

/* What a job is to the store. */
struct remote_job {
    struct lease_id lease;
    bool moving;   /* the lease is open, or the receive under way: its report will come */
    bool answered; /* nothing more will come from the store */
    uint32_t wants_first, wants_count; /* of an add: what the store fetches */
    uint32_t layer, offered;           /* offered: all layers before, and blocks of this one */
    status result;
    uint32_t count;
    uint64_t bytes;
    char text[STORE_TEXT_BYTES];
};

/* ---- the end of a job ---- */

static void remote_settle(struct remote *remote, struct store_job *job, status result,
                          const char *text)
{
    struct remote_job *own = job->own;
    if (own->answered)
        return;
    own->answered = true;
    own->result = result;
    snprintf(own->text, sizeof(own->text), "%s", result != OK && text != NULL ? text : "");
    (void)remote;
}

static void remote_end_if_over(struct remote *remote, struct store_job *job)
{
    struct remote_job own = *(struct remote_job *)job->own;
    if (!own.answered || own.moving)
        return;
    free(job->own);
    job->own = NULL;
    store_job_end(remote->store, job, own.result, own.text, own.count, own.bytes);
}

/* ---- sending ---- */

static status remote_send(struct remote *remote, uint16_t type)
{
    if (remote->frame.failed)
        return error_set(ERR_NO_MEMORY, "no memory for a message to the store");
    if (remote->link == NULL || !store_is_up(remote->store))
        return error_set(ERR_CLOSED, "no store is connected");
    return link_send(remote->link, type, remote->frame.data, (uint32_t)remote->frame.bytes);
}

/* Else the store keeps blocks pinned, until the deadline, for a get that nobody waits for. Without
 * a connection it lets go by itself. */
static void remote_leave(struct remote *remote, const struct store_job *job)
{
    const struct wire_store_leave leave = {.number = job->number};
    wire_frame_reset(&remote->frame);
    wire_store_leave_encode(&remote->frame, &leave);
    (void)remote_send(remote, FRAME_STORE_LEAVE);
}

static void remote_abandon(struct remote *remote, struct store_job *job, status cause,
                           const char *text)
{
    struct remote_job *own = job->own;
    bool awaits_got = job->mail.kind == STORE_JOB_GET && !own->answered && !own->moving;
    remote_settle(remote, job, cause, text);
    if (awaits_got)
        remote_leave(remote, job);
    if (own->moving && job->mail.kind == STORE_JOB_ADD)
        transfer_lease_close(remote->store->options.transfer, &own->lease);
    else if (own->moving)
        transfer_receive_cancel(remote->store->options.transfer, &own->lease);
    remote_end_if_over(remote, job);
}

static void remote_abandon_all(struct remote *remote, status cause, const char *text)
{
    for (struct store_job *job = remote->store->jobs, *next; job != NULL; job = next) {
        next = job->next;
        struct remote_job *own = job->own;
        /* What is on its way by transfer ends by itself, and may end well. */
        if (!(own->moving && job->mail.kind == STORE_JOB_GET))
            remote_abandon(remote, job, cause, text);
    }
}

static status remote_send_add(struct remote *remote, struct store_job *job)
{
    struct remote_job *own = job->own;
    uint8_t *records = malloc((size_t)job->count * WIRE_STORE_RECORD_BYTES);
    if (records == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a message to the store");
    for (uint32_t i = 0; i < job->count; i++) {
        uint8_t *to = records + (size_t)i * WIRE_STORE_RECORD_BYTES;
        const struct store_block *block = &job->blocks[i];
        memcpy(to, block->key.bytes, BLOCK_KEY_BYTES);
        memset(to + BLOCK_KEY_BYTES, 0, BLOCK_KEY_BYTES);
        if (!block->is_first)
            memcpy(to + BLOCK_KEY_BYTES, block->parent.bytes, BLOCK_KEY_BYTES);
        to[2 * BLOCK_KEY_BYTES] = block->is_first;
    }
    const struct wire_store_ask ask = {.number = job->number,
                                       .lease = own->lease,
                                       .time_ms = job->expiry_ms,
                                       .count = job->count,
                                       .items = records};
    wire_store_ask_encode(&remote->frame, &ask, WIRE_STORE_RECORD_BYTES);
    free(records);
    return remote_send(remote, FRAME_STORE_ADD);
}

static uint32_t job_left_ms(const struct store_job *job)
{
    uint64_t now = clock_ns();
    return job->deadline_ns > now ? (uint32_t)((job->deadline_ns - now) / 1000000u) : 0;
}

static status remote_send_keys(struct remote *remote, struct store_job *job)
{
    struct remote_job *own = job->own;
    const struct wire_store_ask ask = {.number = job->number,
                                       .lease = own->lease,
                                       .time_ms = job_left_ms(job),
                                       .count = job->count,
                                       .items = job->keys[0].bytes};
    wire_store_ask_encode(&remote->frame, &ask, WIRE_STORE_KEY_BYTES);
    return remote_send(remote,
                       job->mail.kind == STORE_JOB_FIND ? FRAME_STORE_FIND : FRAME_STORE_GET);
}

static void remote_take(void *client, struct store_job *job)
{
    struct remote *remote = client;
    struct remote_job *own = calloc(1, sizeof(*own));
    if (own == NULL) {
        store_job_end(remote->store, job, ERR_NO_MEMORY, "no memory for a call of the store", 0, 0);
        return;
    }
    job->own = own;
    lease_id_random(&own->lease);
    wire_frame_reset(&remote->frame);
    status st = job->mail.kind == STORE_JOB_ADD ? remote_send_add(remote, job)
                                                : remote_send_keys(remote, job);
    if (st != OK)
        remote_abandon(remote, job, st, error_text());
}

static void remote_give_up(void *client, struct store_job *job, status cause, const char *text)
{
    remote_abandon(client, job, cause, text);
}

/* ---- what the store says ---- */

/* Offer some blocks of a layer, with their sums where the host can read them. */
static void remote_offer_some(struct remote *remote, struct store_job *job)
{
    struct remote_job *own = job->own;
    const struct store_options *options = &remote->store->options;
    bool on_host = options->pool.device == NULL;
    block_id ids[OFFER_BLOCKS];
    struct checksum sums[OFFER_BLOCKS];
    uint32_t count = own->wants_count - own->offered;
    count = count < OFFER_BLOCKS ? count : OFFER_BLOCKS;
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = job->blocks[own->wants_first + own->offered + i].id;
        if (on_host)
            sums[i] = transfer_sum(options->transfer, own->layer, ids[i]);
    }
    transfer_offer(options->transfer, &own->lease, own->layer, own->offered, ids, count,
                   on_host ? sums : NULL);
    own->offered += count;
    if (own->offered == own->wants_count) {
        own->offered = 0;
        own->layer++;
    }
}

static bool remote_offers(const struct remote *remote, const struct store_job *job)
{
    const struct remote_job *own = job->own;
    return job->mail.kind == STORE_JOB_ADD && own->moving && !own->answered &&
           own->layer < remote->store->options.layout->shape.layer_count;
}

/* A step of each job that is being offered. */
static void remote_on_offer(void *ctx)
{
    struct remote *remote = ctx;
    bool more = false;
    for (struct store_job *job = remote->store->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (!remote_offers(remote, job))
            continue;
        struct remote_job *own = job->own;
        remote_offer_some(remote, job);
        if (remote_offers(remote, job)) {
            more = true;
            continue;
        }
        status st = transfer_complete(remote->store->options.transfer, &own->lease,
                                      own->wants_count, NULL, 0);
        if (st != OK)
            remote_abandon(remote, job, st, error_text());
    }
    if (more)
        loop_timer_start(remote->offer_timer, 0);
}

static status remote_offer(struct remote *remote, struct store_job *job,
                           const struct wire_store_want *want)
{
    struct remote_job *own = job->own;
    status st = transfer_lease_open_to(remote->store->options.transfer, &own->lease, job->number, 0,
                                       job_left_ms(job) + LEASE_MARGIN_MS, remote->transfers);
    if (st != OK)
        return st;
    own->moving = true;
    own->wants_first = want->first;
    own->wants_count = want->count;
    loop_timer_start(remote->offer_timer, 0);
    return OK;
}

static status remote_on_want(struct remote *remote, const uint8_t *payload, uint32_t bytes)
{
    struct wire_store_want want;
    status st = wire_store_want_decode(payload, bytes, &want);
    if (st != OK)
        return st;
    struct store_job *job = store_job_find(remote->store, want.number);
    if (job == NULL || job->given_up)
        return OK;
    struct remote_job *own = job->own;
    if (job->mail.kind != STORE_JOB_ADD || own->moving || own->answered || want.count == 0 ||
        want.first >= job->count || want.count > job->count - want.first)
        return error_set(ERR_BAD_INPUT,
                         "the store wants %u blocks from %u on, which it was not "
                         "offered",
                         want.count, want.first);
    st = remote_offer(remote, job, &want);
    if (st != OK)
        remote_abandon(remote, job, st, error_text());
    return OK;
}

static status remote_receive(struct remote *remote, struct store_job *job, uint32_t count)
{
    struct remote_job *own = job->own;
    const struct transfer_wish wish = {
        .lease = own->lease,
        .request_id = job->number,
        .source = {.incarnation = remote->incarnation,
                   .local = remote->has_unix ? &remote->holder_unix : NULL,
                   .remote = remote->has_tcp ? &remote->holder_tcp : NULL},
        .block_ids = job->ids,
        .block_count = count,
        .deadline_ms = job_left_ms(job),
        .reports = remote->transfers};
    status st = transfer_receive(remote->store->options.transfer, &wish);
    own->moving = st == OK;
    return st;
}

static status remote_on_answer(struct remote *remote, uint16_t type, const uint8_t *payload,
                               uint32_t bytes)
{
    struct wire_store_answer answer;
    status st = wire_store_answer_decode(payload, bytes, &answer);
    if (st != OK)
        return st;
    struct store_job *job = store_job_find(remote->store, answer.number);
    if (job == NULL || job->given_up || ((struct remote_job *)job->own)->answered)
        return OK;
    struct remote_job *own = job->own;
    uint16_t expected = job->mail.kind == STORE_JOB_ADD    ? FRAME_STORE_ADDED
                        : job->mail.kind == STORE_JOB_FIND ? FRAME_STORE_FOUND
                                                           : FRAME_STORE_GOT;
    if (type != expected || answer.count > job->count)
        return error_set(ERR_BAD_INPUT, "the store answers %u blocks to a question about %u",
                         answer.count, job->count);
    if (type == FRAME_STORE_GOT && answer.status == OK && answer.count > 0 && !own->moving) {
        st = remote_receive(remote, job, answer.count);
        if (st != OK)
            remote_abandon(remote, job, st, error_text());
        return OK;
    }
    own->count = type == FRAME_STORE_GOT ? 0 : answer.count;
    remote_settle(remote, job, (status)answer.status, answer.text);
    remote_end_if_over(remote, job);
    return OK;
}

static status remote_on_welcome(struct remote *remote, const uint8_t *payload, uint32_t bytes)
{
    struct wire_store_layout welcome;
    status st = wire_store_layout_decode(payload, bytes, &welcome);
    if (st != OK)
        return st;
    if (welcome.status != OK)
        return error_set(ERR_REFUSED, "the store refuses this worker: %s", welcome.text);
    remote->has_unix = welcome.transfer_unix[0] != '\0';
    remote->has_tcp = welcome.transfer_tcp[0] != '\0';
    if (remote->has_unix)
        st = address_parse_numeric(welcome.transfer_unix, &remote->holder_unix);
    if (st == OK && remote->has_tcp)
        st = address_parse_numeric(welcome.transfer_tcp, &remote->holder_tcp);
    if (st != OK)
        return st;
    remote->retry_ms = RETRY_FIRST_MS;
    remote->refused_before = false;
    log_info("store connected", "address=\"%s\" blocks=%u", remote->address.text,
             welcome.block_count);
    store_set_up(remote->store, true);
    return OK;
}

/* ---- the connection ---- */

static void remote_lost(struct remote *remote, status cause, const char *why)
{
    char text[STORE_TEXT_BYTES];
    snprintf(text, sizeof(text), "%s", why);
    bool was_up = store_is_up(remote->store);
    store_set_up(remote->store, false);
    remote->link = NULL;
    /* One that is not there yet may be on its way; one that stays away is named, once. */
    bool stays_away = remote->retry_ms >= RETRY_LAST_MS;
    if (was_up || cause == ERR_REFUSED || cause == ERR_BAD_INPUT || stays_away) {
        if (!remote->refused_before)
            log_warn(was_up ? "store lost" : "store not usable", "address=\"%s\" cause=\"%s\"",
                     remote->address.text, text);
        remote->refused_before = !was_up;
    }
    remote_abandon_all(remote, ERR_CLOSED, text);
    if (cause == ERR_REFUSED)
        remote->retry_ms = RETRY_LAST_MS;
    loop_timer_start(remote->retry_timer, remote->retry_ms);
    remote->retry_ms = remote->retry_ms * 2 < RETRY_LAST_MS ? remote->retry_ms * 2 : RETRY_LAST_MS;
}

static void remote_on_close(void *ctx, status cause)
{
    remote_lost(ctx, cause, error_text());
}

static void remote_on_ready(void *ctx, const struct hello *peer)
{
    struct remote *remote = ctx;
    const struct store_options *options = &remote->store->options;
    const struct kv_layout *layout = options->layout;
    uint32_t layer_count = layout->shape.layer_count;
    struct wire_store_layout message = {.block_bytes = layout->block_bytes,
                                        .layer_count = layer_count};
    remote->incarnation = peer->incarnation;
    uint8_t *layers = malloc((size_t)layer_count * 16);
    if (layers == NULL) {
        link_close(remote->link);
        remote_lost(remote, ERR_NO_MEMORY, "no memory for the layout");
        return;
    }
    for (uint32_t i = 0; i < layer_count; i++) {
        size_t offset, bytes;
        kv_layout_layer(layout, i, &offset, &bytes);
        store_u64(layers + (size_t)i * 16, offset);
        store_u64(layers + (size_t)i * 16 + 8, bytes);
    }
    message.layers = layers;
    if (options->transfer_unix != NULL)
        snprintf(message.transfer_unix, sizeof(message.transfer_unix), "%s",
                 options->transfer_unix);
    if (options->transfer_tcp != NULL)
        snprintf(message.transfer_tcp, sizeof(message.transfer_tcp), "%s", options->transfer_tcp);
    wire_frame_reset(&remote->frame);
    wire_store_layout_encode(&remote->frame, &message);
    free(layers);
    if (!remote->frame.failed)
        link_send(remote->link, FRAME_STORE_LAYOUT, remote->frame.data,
                  (uint32_t)remote->frame.bytes);
}

static void remote_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct remote *remote = ctx;
    status st;
    switch (type) {
    case FRAME_STORE_WELCOME:
        st = remote_on_welcome(remote, payload, bytes);
        break;
    case FRAME_STORE_WANT:
        st = remote_on_want(remote, payload, bytes);
        break;
    case FRAME_STORE_ADDED:
    case FRAME_STORE_FOUND:
    case FRAME_STORE_GOT:
        st = remote_on_answer(remote, type, payload, bytes);
        break;
    default:
        st = error_set(ERR_BAD_INPUT, "frame of type 0x%04x is not a store's", type);
    }
    if (st != OK) {
        char text[STORE_TEXT_BYTES];
        snprintf(text, sizeof(text), "%s", error_text());
        link_close(remote->link);
        remote_lost(remote, st, text);
    }
}

static const struct link_calls remote_link_calls = {
    .on_ready = remote_on_ready, .on_frame = remote_on_frame, .on_close = remote_on_close};

static void remote_connect(void *ctx)
{
    struct remote *remote = ctx;
    if (remote->store->stopping)
        return;
    const struct link_setup setup = {
        .calls = &remote_link_calls,
        .ctx = remote,
        .hello = &remote->store->hello,
        .key = remote->store->options.key,
        .limits = {.payload_bytes_max = WIRE_STORE_PAYLOAD_BYTES_MAX,
                   .pending_bytes_max = PENDING_BYTES,
                   .handshake_ms = remote->store->options.connect_ms,
                   .unacknowledged_ms = UNACKNOWLEDGED_MS},
    };
    status st = link_connect(remote->store->loop, &remote->address,
                             remote->store->options.connect_ms, &setup, &remote->link);
    if (st != OK)
        remote_lost(remote, st, error_text());
}

/* The store fetches from the incarnation that said hello: say it again. */
static void remote_renew(void *client)
{
    struct remote *remote = client;
    link_close(remote->link);
    remote->link = NULL;
    store_set_up(remote->store, false);
    remote_abandon_all(remote, ERR_CLOSED, "this worker is another incarnation");
    remote->retry_ms = RETRY_FIRST_MS;
    loop_timer_start(remote->retry_timer, 0);
}

/* ---- transfers ---- */

static void remote_on_transfer(void *ctx, struct mail *mail)
{
    struct remote *remote = ctx;
    struct transfer_report *report = (struct transfer_report *)mail;
    struct store_job *job = store_job_find(remote->store, report->request_id);
    assert(job != NULL); /* a job ends after its transfer's report */
    struct remote_job *own = job->own;
    own->moving = false;
    if (mail->kind == TRANSFER_HOLDER_DONE) {
        own->bytes = report->status == OK ? report->bytes : 0;
        /* ADDED follows, or the link's end, or the deadline; the first bad news counts. */
        if (report->status != OK)
            remote_settle(remote, job, report->status, report->text);
    } else {
        if (report->status == ERR_CORRUPT)
            store_count_checksum_failure(remote->store);
        if (mail->kind == TRANSFER_RECEIVED) {
            own->count = report->block_count;
            own->bytes = report->bytes;
        }
        remote_settle(remote, job, report->status, report->text);
    }
    transfer_report_free(report);
    remote_end_if_over(remote, job);
}

/* ---- open and close ---- */

static void remote_close(void *client)
{
    struct remote *remote = client;
    link_close(remote->link);
    loop_timer_close(remote->retry_timer);
    loop_timer_close(remote->offer_timer);
    loop_watch_close(remote->transfers_watch);
    if (remote->transfers != NULL)
        mailbox_close(remote->transfers);
    wire_frame_close(&remote->frame);
    free(remote);
}

static status remote_open(struct store *store, void **client_out)
{
    struct remote *remote = calloc(1, sizeof(*remote));
    if (remote == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a store");
    remote->store = store;
    remote->retry_ms = RETRY_FIRST_MS;
    status st = address_parse(store->address, 0, &remote->address);
    if (st != OK)
        st = error_prefix(ERR_BAD_INPUT, "store \"%s\"", store->address);
    if (st == OK)
        st = mailbox_open(&remote->transfers);
    if (st == OK)
        st = loop_mailbox_open(store->loop, remote->transfers, remote_on_transfer, remote,
                               &remote->transfers_watch);
    if (st == OK)
        st = loop_timer_open(store->loop, remote_connect, remote, &remote->retry_timer);
    if (st == OK)
        st = loop_timer_open(store->loop, remote_on_offer, remote, &remote->offer_timer);
    if (st != OK) {
        remote_close(remote);
        return st;
    }
    loop_timer_start(remote->retry_timer, 0);
    *client_out = remote;
    return OK;
}

const struct store_calls store_remote = {.open = remote_open,
                                         .close = remote_close,
                                         .take = remote_take,
                                         .give_up = remote_give_up,
                                         .renew = remote_renew};
