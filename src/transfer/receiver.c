#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

struct receive *receive_find(struct transfer *transfer, const struct lease_id *id)
{
    struct receive *receive = transfer->receives[table_bucket(id)];
    while (receive != NULL && !lease_id_equal(&receive->id, id))
        receive = receive->next;
    return receive;
}

static struct lease_tag receive_tag(const struct receive *receive)
{
    const struct hello *hello = &receive->transfer->hello;
    return (struct lease_tag){.lease = receive->id,
                              .epoch = receive->epoch,
                              .rank = (uint16_t)hello->rank,
                              .ranks = (uint16_t)hello->ranks};
}

static struct cell *receive_cell(const struct fetch *fetch, uint32_t i)
{
    const struct receive *receive = fetch->receive;
    return &receive->cells[(size_t)fetch->layer * receive->block_count +
                           (fetch->first_index + i - receive->first_index)];
}

/* ---- a receive's end ---- */

static void fetch_list_free(struct fetch *fetch)
{
    while (fetch != NULL) {
        struct fetch *next = fetch->next;
        free(fetch);
        fetch = next;
    }
}

void receive_free(struct receive *receive)
{
    fetch_list_free(receive->fetches);
    fetch_list_free(receive->suspects);
    free(receive->block_ids);
    free(receive->cells);
    free(receive);
}

static void receive_count(struct receive *receive, uint32_t kind)
{
    struct transfer_report *report = receive->report;
    uint64_t now = clock_ns();
    report->bytes = receive->bytes;
    report->ended_ns = now;
    if (receive->first_offer_ns != 0)
        report->seconds = (double)(now - receive->first_offer_ns) / 1e9;
    if (receive->complete_ns != 0)
        report->exposed_s = (double)(now - receive->complete_ns) / 1e9;
    if (receive->carrier == NULL)
        return;
    report->carrier = receive->carrier->id;
    struct carrier_totals *totals = transfer_totals(receive->transfer, report->carrier);
    if (kind == TRANSFER_FAILED)
        atomic_fetch_add(&totals->failed_handoffs, 1);
    if (kind != TRANSFER_RECEIVED)
        return;
    atomic_fetch_add(&totals->received_bytes, receive->bytes);
    atomic_fetch_add(&totals->received_handoffs, 1);
    atomic_fetch_add(&totals->exposed_ns, now - receive->complete_ns);
    if (receive->first_offer_ns != 0)
        atomic_fetch_add(&totals->received_ns, now - receive->first_offer_ns);
}

static void receive_unlink(struct receive *receive)
{
    struct transfer *transfer = receive->transfer;
    struct receive **place = &transfer->receives[table_bucket(&receive->id)];
    while (*place != receive)
        place = &(*place)->next;
    *place = receive->next;
    atomic_fetch_sub(&transfer->receive_count, 1);
    if (receive->peer == NULL)
        return;
    place = &receive->peer->receives;
    while (*place != receive)
        place = &(*place)->peer_next;
    *place = receive->peer_next;
}

/* The report is the last word: whoever takes it may use, or give away, the blocks. */
static void receive_report(struct receive *receive, uint32_t kind, status cause, const char *text)
{
    struct mailbox *reports = receive->reports;
    struct transfer_report *report = receive->report;
    report->mail.kind = kind;
    report->status = cause;
    if (cause != OK)
        snprintf(report->text, sizeof(report->text), "%s", text);
    receive_free(receive);
    mailbox_post(reports, &report->mail);
}

void receive_end(struct receive *receive, uint32_t kind, status cause, const char *text, bool tell)
{
    struct peer *peer = receive->peer;
    /* text may be error_text(), which sending overwrites. */
    char kept[TRANSFER_TEXT_BYTES];
    snprintf(kept, sizeof(kept), "%s", text != NULL ? text : "");
    moving_forget(receive->transfer, receive);
    receive->transfer->awake_ns = 0;
    if (peer != NULL) {
        peer->carrier->forget(receive);
        if (tell && receive->subscribed && peer->link != NULL) {
            uint8_t payload[OFFER_FRAME_BYTES_MAX];
            struct end_message message = {
                .tag = receive_tag(receive), .status = cause, .bytes = receive->bytes};
            snprintf(message.text, sizeof(message.text), "%s", kept);
            link_send(peer->link, cause == OK ? FRAME_ACK : FRAME_GIVE_UP, payload,
                      end_write(&message, payload));
        }
    }
    receive_unlink(receive);
    receive_count(receive, kind);
    log_line(kind == TRANSFER_FAILED ? LOG_WARN : LOG_DEBUG, receive->report->request_id,
             kind == TRANSFER_RECEIVED ? "blocks landed" : "blocks not landed",
             "from=\"%s\" carrier=%s bytes=%" PRIu64 " us=%.0f exposed_us=%.0f status=\"%s\" "
             "cause=\"%s\"",
             peer != NULL ? peer->name : "?", transfer_carrier_name(receive->report->carrier),
             receive->bytes, 1e6 * receive->report->seconds, 1e6 * receive->report->exposed_s,
             status_name(cause), kept);
    receive_report(receive, kind, cause, kept);
}

/* ---- reaching the holder ---- */

static void receive_fail(struct receive *receive, status cause, const char *text)
{
    receive_end(receive, TRANSFER_FAILED, cause, text, true);
}

/* The holder waits for its lease a little less long than we do: so its reason comes before our
 * deadline, which could only say that nothing came. */
static uint32_t receive_wait_ms(const struct receive *receive)
{
    uint64_t now = clock_ns();
    uint64_t left_ms = receive->deadline_ns > now ? (receive->deadline_ns - now) / 1000000u : 0;
    return (uint32_t)(left_ms - left_ms / 8);
}

void receive_subscribe(struct receive *receive)
{
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct subscribe_message message = {.tag = receive_tag(receive),
                                        .first_index = receive->first_index,
                                        .block_count = receive->block_count,
                                        .wait_ms = receive_wait_ms(receive)};
    status st = link_send(receive->peer->link, FRAME_SUBSCRIBE, payload,
                          subscribe_write(&message, payload));
    if (st == OK)
        receive->subscribed = true;
    else if (st != ERR_CLOSED) /* then the connection's end follows, and with it the next address */
        receive_fail(receive, st, error_text());
}

/* Take the next way to the holder that was not tried; fail with error_text() when there is none. */
static void receive_try(struct receive *receive, status cause)
{
    struct transfer *transfer = receive->transfer;
    struct peer *peer = NULL;
    while (peer == NULL && (receive->has_device || receive->has_local || receive->has_remote)) {
        bool *way = receive->has_device  ? &receive->has_device
                    : receive->has_local ? &receive->has_local
                                         : &receive->has_remote;
        const struct carrier *carrier = receive->has_device      ? &carrier_cuda_ipc
                                        : receive->has_local     ? &carrier_shm
                                        : transfer->rdma != NULL ? &carrier_rdma
                                                                 : &carrier_tcp;
        const struct address *address =
            way == &receive->has_remote ? &receive->remote : &receive->local;
        *way = false;
        peer = peer_find(transfer, carrier, receive->incarnation, address);
        if (peer == NULL)
            cause = peer_connect(transfer, carrier, receive->incarnation, address, &peer);
        else if (peer->unmappable) {
            peer = NULL;
            cause = error_set(ERR_UNSUPPORTED, "the pool of its GPU cannot be mapped here");
        }
    }
    if (peer == NULL) {
        receive_fail(receive, cause, error_text());
        return;
    }
    receive->peer = peer;
    receive->carrier = peer->carrier;
    receive->peer_next = peer->receives;
    peer->receives = receive;
    if (peer->usable)
        receive_subscribe(receive);
}

void receive_start(struct receive *receive)
{
    struct transfer *transfer = receive->transfer;
    if (receive_find(transfer, &receive->id) != NULL) {
        receive_report(receive, TRANSFER_FAILED, ERR_REFUSED,
                       "this lease is being received already");
        return;
    }
    struct receive **bucket = &transfer->receives[table_bucket(&receive->id)];
    receive->next = *bucket;
    *bucket = receive;
    receive->final_count = receive->block_count;
    atomic_fetch_add(&transfer->receive_count, 1);
    transfer_deadline(transfer, receive->deadline_ns);
    receive_try(receive, ERR_NOT_FOUND);
}

void receiver_on_peer_end(struct peer *peer, status cause, const char *text)
{
    struct receive *receive = peer->receives;
    peer->receives = NULL;
    while (receive != NULL) {
        struct receive *next = receive->peer_next;
        receive->peer = NULL;
        error_set(cause, "%s", text);
        if (!receive->subscribed && cause != ERR_CANCELLED)
            receive_try(receive, cause);
        else
            receive_fail(receive, cause, text);
        receive = next;
    }
}

/* ---- landing ---- */

bool receive_wants(const struct fetch *fetch, uint32_t i)
{
    return receive_cell(fetch, i)->offer == fetch->number + 1;
}

uint8_t *receive_place(const struct fetch *fetch, uint32_t i, size_t *bytes_out)
{
    const struct receive *receive = fetch->receive;
    const struct transfer *transfer = receive->transfer;
    const struct transfer_slice *layer = &transfer->layers[fetch->layer];
    uint32_t id = receive->block_ids[fetch->first_index + i - receive->first_index];
    *bytes_out = layer->bytes;
    return transfer->options.pool.host + (size_t)id * transfer->options.pool.block_bytes +
           layer->offset;
}

static struct fetch *fetch_make(struct receive *receive, uint32_t count)
{
    struct fetch *fetch =
        calloc(1, sizeof(*fetch) + count * (sizeof(struct checksum) + sizeof(uint32_t)));
    if (fetch == NULL)
        return NULL;
    fetch->receive = receive;
    fetch->count = count;
    fetch->checksums = (struct checksum *)(fetch + 1);
    fetch->holder_ids = (uint32_t *)(fetch->checksums + count);
    return fetch;
}

static void receive_append(struct receive *receive, struct fetch *fetch)
{
    fetch->next = NULL;
    *receive->fetches_tail = fetch;
    receive->fetches_tail = &fetch->next;
    receive->queued_slices += fetch->count;
}

/* Fetch suspects again that no later offer has replaced. */
static void receive_retry_suspects(struct receive *receive)
{
    struct fetch *suspect = receive->suspects;
    receive->suspects = NULL;
    while (suspect != NULL) {
        struct fetch *next = suspect->next;
        if (receive_wants(suspect, 0)) {
            struct carrier_totals *totals =
                transfer_totals(receive->transfer, receive->carrier->id);
            atomic_fetch_add(&totals->checksum_failures, 1);
            log_warn("checksum mismatch", "from=\"%s\" layer=%u block=%u next=\"fetch it again\"",
                     receive->peer->name, suspect->layer, suspect->first_index);
            receive_append(receive, suspect);
        } else {
            free(suspect);
        }
        suspect = next;
    }
}

/* A slice does not match. Before the lease is complete a later offer of the same block may explain
 * it (the holder was filling it), so it waits; otherwise it is fetched once more. */
static bool receive_mismatch(struct fetch *fetch, uint32_t i)
{
    struct receive *receive = fetch->receive;
    if (fetch->retry) {
        char text[TRANSFER_TEXT_BYTES];
        struct carrier_totals *totals = transfer_totals(receive->transfer, receive->carrier->id);
        atomic_fetch_add(&totals->checksum_failures, 1);
        snprintf(text, sizeof(text),
                 "layer %u of block %u from \"%s\" does not match its checksum, "
                 "twice; get it elsewhere or compute it",
                 fetch->layer, fetch->first_index + i, receive->peer->name);
        receive_fail(receive, ERR_CORRUPT, text);
        return false;
    }
    struct fetch *suspect = fetch_make(receive, 1);
    if (suspect == NULL) {
        receive_fail(receive, ERR_NO_MEMORY, "no memory to fetch a slice again");
        return false;
    }
    suspect->retry = true;
    suspect->number = fetch->number;
    suspect->layer = fetch->layer;
    suspect->from = fetch->from + i;
    suspect->first_index = fetch->first_index + i;
    suspect->checksums[0] = fetch->checksums[i];
    suspect->holder_ids[0] = fetch->holder_ids[i];
    suspect->next = receive->suspects;
    receive->suspects = suspect;
    if (receive->complete)
        receive_retry_suspects(receive);
    return true;
}

bool receive_landed(struct fetch *fetch, uint32_t i, struct checksum sum)
{
    struct receive *receive = fetch->receive;
    struct transfer *transfer = receive->transfer;
    struct cell *cell = receive_cell(fetch, i);
    bool spoiled = ++transfer->slices_landed == transfer->options.test_spoil_landed;
    if (spoiled || !checksum_equal(sum, fetch->checksums[i]))
        return receive_mismatch(fetch, i);
    cell->landed = true;
    uint32_t id = receive->block_ids[fetch->first_index + i - receive->first_index];
    sums_book(transfer, fetch->layer, id, sums_fill(transfer, id), sum);
    if (receive->report->sums != NULL)
        receive->report->sums[cell - receive->cells] = sum;
    receive->bytes += transfer->layers[fetch->layer].bytes;
    if (fetch->first_index + i - receive->first_index < receive->final_count)
        receive->missing--;
    return true;
}

/* All there? False: the receive is over. */
static bool receive_check(struct receive *receive)
{
    if (!receive->complete && receive->missing == 0)
        moving_await(receive->transfer);
    if (!receive->complete || receive->fetches != NULL || receive->moving_in > 0)
        return true;
    if (receive->missing > 0) {
        char text[TRANSFER_TEXT_BYTES];
        snprintf(text, sizeof(text),
                 "\"%s\" says that all is offered, and %" PRIu64 " of %" PRIu64
                 " slices never were",
                 receive->peer->name, receive->missing,
                 (uint64_t)receive->final_count * receive->transfer->options.layer_count);
        receive_fail(receive, ERR_BAD_INPUT, text);
        return false;
    }
    receive->report->block_count = receive->final_count;
    receive_end(receive, TRANSFER_RECEIVED, OK, NULL, true);
    return false;
}

static void receive_on_moved_in(struct moving *moving, status st, const struct move_sum *sums)
{
    struct receive *receive = moving->owner;
    (void)sums;
    receive->moving_in--;
    if (st != OK)
        receive_fail(receive, st, error_text());
    else
        receive_check(receive);
}

/* The bytes of a fetch lie where the host can write; the pool is elsewhere. */
static status receive_move_in(struct receive *receive, const struct fetch *fetch)
{
    const uint32_t *ids = receive->block_ids + (fetch->first_index - receive->first_index);
    const struct moving_slices slices = {.kind = MOVE_IN,
                                         .layer = fetch->layer,
                                         .count = fetch->count,
                                         .from_ids = ids,
                                         .to_ids = ids,
                                         .owner = receive,
                                         .over = receive_on_moved_in};
    receive->moving_in += (fetch->count + MOVE_SPANS_MAX - 1) / MOVE_SPANS_MAX;
    return moving_add(receive->transfer, &slices);
}

bool receive_fetch_done(struct receive *receive)
{
    struct fetch *fetch = receive->fetches;
    if (receive->transfer->options.pool.device != NULL && receive->carrier->by_host) {
        status st = receive_move_in(receive, fetch);
        if (st != OK) {
            receive_fail(receive, st, error_text());
            return false;
        }
    }
    receive->fetches = fetch->next;
    if (receive->fetches == NULL)
        receive->fetches_tail = &receive->fetches;
    receive->queued_slices -= fetch->count;
    free(fetch);
    return receive_check(receive);
}

/* ---- what a holder says ---- */

/* The receive that a message is about; NULL when it is none of this peer's, or of another epoch. */
static struct receive *receiver_find(struct peer *peer, const struct lease_tag *tag)
{
    struct receive *receive = receive_find(peer->transfer, &tag->lease);
    if (receive != NULL && receive->peer == peer && receive->epoch == tag->epoch &&
        receive->subscribed)
        return receive;
    transfer_refused(peer->transfer, peer, "a message about a lease that is not received from it");
    return NULL;
}

/* Note that these entries come from this offer now. */
static void receive_claim(struct receive *receive, const struct fetch *fetch)
{
    for (uint32_t i = 0; i < fetch->count; i++) {
        struct cell *cell = receive_cell(fetch, i);
        if (cell->landed)
            receive->missing++;
        cell->landed = false;
        cell->offer = fetch->number + 1;
    }
}

static void receive_offer(struct receive *receive, const struct offer_message *message)
{
    const struct transfer *transfer = receive->transfer;
    uint64_t cells = (uint64_t)receive->block_count * transfer->options.layer_count;
    if (message->layer >= transfer->options.layer_count || message->number < receive->next_offer ||
        message->number == UINT32_MAX || receive->complete ||
        receive->queued_slices > 4 * cells + 4096) {
        receive_fail(receive, ERR_BAD_INPUT,
                     "an offer has a layer or a number that cannot be, or there "
                     "are too many");
        return;
    }
    receive->next_offer = message->number + 1;
    if (receive->first_offer_ns == 0)
        receive->first_offer_ns = clock_ns();
    uint32_t end = message->first_index + message->count;
    uint32_t wanted_end = receive->first_index + receive->block_count;
    uint32_t first =
        message->first_index > receive->first_index ? message->first_index : receive->first_index;
    if (end > wanted_end)
        end = wanted_end;
    if (first >= end)
        return;
    struct fetch *fetch = fetch_make(receive, end - first);
    if (fetch == NULL) {
        receive_fail(receive, ERR_NO_MEMORY, "no memory for a fetch");
        return;
    }
    fetch->number = message->number;
    fetch->layer = message->layer;
    fetch->from = first - message->first_index;
    fetch->first_index = first;
    for (uint32_t i = 0; i < fetch->count; i++) {
        fetch->holder_ids[i] = offer_block_id(message, fetch->from + i);
        fetch->checksums[i] = offer_checksum(message, fetch->from + i);
    }
    receive_claim(receive, fetch);
    receive_append(receive, fetch);
    receive->carrier->fetch(receive);
}

/* Only so many of the wanted blocks count: what of them is missing? */
static void receive_shorten(struct receive *receive, uint32_t block_count)
{
    receive->final_count = block_count;
    receive->missing = 0;
    for (uint32_t layer = 0; layer < receive->transfer->options.layer_count; layer++) {
        for (uint32_t i = 0; i < block_count; i++)
            receive->missing += !receive->cells[(size_t)layer * receive->block_count + i].landed;
    }
}

static void receive_complete(struct receive *receive, const struct complete_message *message)
{
    if (receive->complete) {
        receive_fail(receive, ERR_BAD_INPUT, "the lease was completed twice");
        return;
    }
    if (!message->whole) {
        struct carrier_totals *totals = transfer_totals(receive->transfer, receive->carrier->id);
        atomic_fetch_add(&totals->checksum_failures, 1);
        receive_fail(receive, ERR_CORRUPT,
                     "the message that ends the lease, with the first tokens, does not match its "
                     "checksum; compute it again");
        return;
    }
    if (message->payload_bytes > 0) {
        receive->report->payload = malloc(message->payload_bytes);
        if (receive->report->payload == NULL) {
            receive_fail(receive, ERR_NO_MEMORY, "no memory for the payload of a lease");
            return;
        }
        memcpy(receive->report->payload, message->payload, message->payload_bytes);
        receive->report->payload_bytes = message->payload_bytes;
    }
    receive->complete = true;
    receive->complete_ns = clock_ns();
    uint32_t held = message->block_count > receive->first_index
                        ? message->block_count - receive->first_index
                        : 0;
    if (held < receive->final_count)
        receive_shorten(receive, held);
    receive_retry_suspects(receive);
    if (receive->fetches != NULL)
        receive->carrier->fetch(receive);
    receive_check(receive);
}

static status receiver_on_gone(struct peer *peer, const uint8_t *payload, uint32_t bytes)
{
    struct end_message message;
    status st = end_read(payload, bytes, &message);
    if (st != OK)
        return st;
    struct receive *receive = receiver_find(peer, &message.tag);
    if (receive == NULL)
        return OK;
    char text[TRANSFER_TEXT_BYTES];
    snprintf(text, sizeof(text), "\"%s\" ended the lease: %s", peer->name, message.text);
    receive_end(receive, TRANSFER_FAILED, message.status != OK ? message.status : ERR_BAD_INPUT,
                text, false);
    return OK;
}

status receiver_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct receive *receive;
    status st;
    if (type == FRAME_OFFER) {
        struct offer_message message;
        st = offer_read(payload, bytes, &message);
        if (st == OK && (receive = receiver_find(peer, &message.tag)) != NULL)
            receive_offer(receive, &message);
        return st;
    }
    if (type == FRAME_COMPLETE) {
        struct complete_message message;
        st = complete_read(payload, bytes, &message);
        if (st == OK && (receive = receiver_find(peer, &message.tag)) != NULL)
            receive_complete(receive, &message);
        return st;
    }
    if (type == FRAME_GONE)
        return receiver_on_gone(peer, payload, bytes);
    return error_set(ERR_BAD_INPUT, "frame of type 0x%04x is not for a receiver", type);
}

/* ---- deadlines ---- */

uint64_t receiver_check_deadlines(struct transfer *transfer, uint64_t now_ns)
{
    uint64_t next_ns = UINT64_MAX;
    for (int i = 0; i < TABLE_BUCKETS; i++) {
        for (struct receive *receive = transfer->receives[i], *next; receive != NULL;
             receive = next) {
            next = receive->next;
            if (receive->deadline_ns > now_ns) {
                next_ns = receive->deadline_ns < next_ns ? receive->deadline_ns : next_ns;
                continue;
            }
            char text[TRANSFER_TEXT_BYTES];
            snprintf(text, sizeof(text),
                     "the deadline passed while %s \"%s\"; %" PRIu64 " slices are missing",
                     !receive->subscribed           ? "connecting to"
                     : receive->first_offer_ns == 0 ? "waiting for the first offer of"
                                                    : "fetching from",
                     receive->peer != NULL ? receive->peer->name : "?", receive->missing);
            receive_fail(receive, ERR_TIMEOUT, text);
        }
    }
    return next_ns;
}

void receiver_stop(struct transfer *transfer)
{
    for (int i = 0; i < TABLE_BUCKETS; i++) {
        while (transfer->receives[i] != NULL)
            receive_end(transfer->receives[i], TRANSFER_CANCELLED, ERR_CANCELLED,
                        "the worker stops", true);
    }
}
