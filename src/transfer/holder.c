#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

struct lease *lease_find(struct transfer *transfer, const struct lease_id *id)
{
    struct lease *lease = transfer->leases[table_bucket(id)];
    while (lease != NULL && !lease_id_equal(&lease->id, id))
        lease = lease->next;
    return lease;
}

static struct lease_tag holder_tag(const struct transfer *transfer, const struct lease_id *id,
                                   uint32_t epoch)
{
    return (struct lease_tag){.lease = *id,
                              .epoch = epoch,
                              .rank = (uint16_t)transfer->hello.rank,
                              .ranks = (uint16_t)transfer->hello.ranks};
}

/* Tell a subscriber that there is nothing, or nothing more. Not told when it does not read. */
static void holder_send_gone(struct peer *peer, const struct lease_tag *tag, status cause,
                             const char *text)
{
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct end_message message = {.tag = *tag, .status = cause};
    snprintf(message.text, sizeof(message.text), "%s", text);
    link_send(peer->link, FRAME_GONE, payload, end_write(&message, payload));
}

/* ---- a lease's end ---- */

void lease_free(struct lease *lease)
{
    for (uint32_t i = 0; i < lease->offer_count; i++)
        free(lease->offers[i]);
    free(lease->offers);
    free(lease->payload);
    free(lease);
}

/* From here on the worker may drop the blocks. */
static void lease_report(struct lease *lease)
{
    struct mailbox *reports = lease->reports;
    struct transfer_report *report = lease->report;
    report->mail.kind = TRANSFER_HOLDER_DONE;
    lease_free(lease);
    mailbox_post(reports, &report->mail);
}

void lease_drained(struct peer *peer)
{
    uint64_t sent = peer->link != NULL ? link_bulk_sent(peer->link) : UINT64_MAX;
    for (struct lease **place = &peer->draining; *place != NULL;) {
        struct lease *lease = *place;
        if (lease->bulk_mark > sent) {
            place = &lease->peer_next;
            continue;
        }
        *place = lease->peer_next;
        lease_report(lease);
    }
}

static void lease_fill_report(struct lease *lease, status cause, const char *text)
{
    struct transfer_report *report = lease->report;
    uint64_t now = clock_ns();
    report->status = cause;
    report->ended_ns = now;
    if (cause != OK)
        snprintf(report->text, sizeof(report->text), "%s", text != NULL ? text : "");
    report->block_count = lease->lent ? lease->acknowledged : lease->block_count;
    report->bytes += lease->bytes;
    if (lease->first_offer_ns != 0)
        report->seconds = (double)(now - lease->first_offer_ns) / 1e9;
    if (lease->complete_ns != 0)
        report->exposed_s = (double)(now - lease->complete_ns) / 1e9;
    if (lease->peer != NULL)
        report->carrier = lease->peer->carrier->id;
}

static void lease_unlink(struct lease *lease)
{
    struct transfer *transfer = lease->transfer;
    struct lease **place = &transfer->leases[table_bucket(&lease->id)];
    while (*place != lease)
        place = &(*place)->next;
    *place = lease->next;
    work_remove(transfer, &lease->summing);
    atomic_fetch_sub(&transfer->lease_count, 1);
    if (lease->peer == NULL)
        return;
    place = &lease->peer->leases;
    while (*place != lease)
        place = &(*place)->peer_next;
    *place = lease->peer_next;
}

void lease_end(struct lease *lease, status cause, const char *text, bool tell)
{
    struct transfer *transfer = lease->transfer;
    struct peer *peer = lease->peer;
    if (peer == NULL && lease->acknowledged > 0)
        cause = OK; /* It was lent, and is not needed any more. */
    if (cause == ERR_CORRUPT)
        sums_forget(lease);
    lease_fill_report(lease, cause, text);
    lease_unlink(lease);
    moving_forget(transfer, lease);
    transfer->awake_ns = 0;
    if (peer != NULL) {
        tcp_drop_asked(peer, lease);
        struct lease_tag tag = holder_tag(transfer, &lease->id, lease->epoch);
        if (tell && peer->link != NULL)
            holder_send_gone(peer, &tag, cause, lease->report->text);
        if (cause == OK) {
            struct carrier_totals *totals = transfer_totals(transfer, peer->carrier->id);
            atomic_fetch_add(&totals->sent_bytes, lease->bytes);
            atomic_fetch_add(&totals->sent_handoffs, 1);
        }
        /* Bytes that are queued on the link are still read from the blocks. */
        if (peer->link != NULL && lease->bulk_mark > link_bulk_sent(peer->link)) {
            lease->drain_deadline_ns =
                clock_ns() + (uint64_t)transfer->options.silence_ms * 1000000u;
            transfer_deadline(transfer, lease->drain_deadline_ns);
            lease->peer_next = peer->draining;
            peer->draining = lease;
            return;
        }
    }
    lease_report(lease);
}

/* ---- a lease's life ---- */

static size_t lease_sum(void *owner);

static void lease_subscribe(struct lease *lease, struct peer *peer,
                            const struct subscribe_message *message)
{
    char text[OFFER_TEXT_BYTES] = "";
    if (message->tag.epoch != lease->epoch)
        snprintf(text, sizeof(text),
                 "epoch: the lease is of %u, the subscription of %u; it is from "
                 "another attempt at this request",
                 lease->epoch, message->tag.epoch);
    else if (lease->peer != NULL)
        snprintf(text, sizeof(text), "the lease has a receiver already: \"%s\"", lease->peer->name);
    if (text[0] != '\0') {
        transfer_refused(lease->transfer, peer, text);
        holder_send_gone(peer, &message->tag, ERR_REFUSED, text);
        return;
    }
    lease->peer = peer;
    lease->peer_next = peer->leases;
    peer->leases = lease;
    lease->first_index = message->first_index;
    lease->wanted_count = message->block_count;
    lease_push(lease);
}

void lease_open(struct lease *lease)
{
    struct transfer *transfer = lease->transfer;
    if (lease_find(transfer, &lease->id) != NULL) {
        lease_fill_report(lease, ERR_REFUSED, "a lease of this name is open already");
        lease_report(lease);
        return;
    }
    struct lease **bucket = &transfer->leases[table_bucket(&lease->id)];
    lease->next = *bucket;
    *bucket = lease;
    lease->summing.run = lease_sum;
    lease->summing.owner = lease;
    atomic_fetch_add(&transfer->lease_count, 1);
    transfer_deadline(transfer, lease->expiry_ns);
    /* Somebody may be waiting for it; the first one with the right epoch gets it. */
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        for (struct waiting **place = &peer->waiting; *place != NULL;) {
            struct waiting *waiting = *place;
            if (!lease_id_equal(&waiting->message.tag.lease, &lease->id)) {
                place = &waiting->next;
                continue;
            }
            *place = waiting->next;
            peer->waiting_count--;
            lease_subscribe(lease, peer, &waiting->message);
            free(waiting);
        }
    }
}

static struct offered *offered_make(const struct call *call)
{
    uint32_t count = call->is.offer.count;
    struct offered *offered =
        malloc(sizeof(*offered) + count * (sizeof(struct checksum) + sizeof(uint32_t)));
    if (offered == NULL)
        return NULL;
    offered->layer = call->is.offer.layer;
    offered->first_index = call->is.offer.first_index;
    offered->count = count;
    offered->summed = call->is.offer.has_checksums ? count : 0;
    offered->staged = 0;
    offered->checksums = (struct checksum *)(offered + 1);
    offered->block_ids = (uint32_t *)(offered->checksums + count);
    memcpy(offered->block_ids, call->is.offer.block_ids, count * sizeof(uint32_t));
    if (call->is.offer.has_checksums)
        memcpy(offered->checksums, call->is.offer.checksums, count * sizeof(struct checksum));
    return offered;
}

void lease_offer(struct transfer *transfer, struct call *call)
{
    struct lease *lease = lease_find(transfer, &call->lease);
    if (lease == NULL)
        return; /* over: its report is under way */
    if (lease->complete) {
        lease_end(lease, ERR_BAD_INPUT, "an offer was made after the lease was complete", true);
        return;
    }
    if (lease->offer_count == lease->offer_capacity) {
        uint32_t capacity = lease->offer_capacity == 0 ? 64 : lease->offer_capacity * 2;
        struct offered **offers = realloc(lease->offers, capacity * sizeof(struct offered *));
        if (offers == NULL) {
            lease_end(lease, ERR_NO_MEMORY, "the holder has no memory for an offer", true);
            return;
        }
        lease->offers = offers;
        lease->offer_capacity = capacity;
    }
    struct offered *offered = offered_make(call);
    if (offered == NULL) {
        lease_end(lease, ERR_NO_MEMORY, "the holder has no memory for an offer", true);
        return;
    }
    lease->offers[lease->offer_count++] = offered;
    if (lease->first_offer_ns == 0)
        lease->first_offer_ns = clock_ns();
    work_add(transfer, &lease->summing);
}

void lease_complete(struct transfer *transfer, struct call *call)
{
    struct lease *lease = lease_find(transfer, &call->lease);
    if (lease == NULL || lease->complete) {
        free(call->is.complete.payload);
        return;
    }
    lease->complete = true;
    lease->complete_ns = call->is.complete.at_ns;
    lease->block_count = call->is.complete.block_count;
    lease->payload = call->is.complete.payload;
    lease->payload_bytes = call->is.complete.payload_bytes;
    lease_push(lease);
}

/* ---- a pool in a device: it sums, and copies to the host for carriers that start there ---- */

static bool lease_wants(const struct lease *lease, const struct offered *offered)
{
    uint64_t wanted_end = (uint64_t)lease->first_index + lease->wanted_count;
    return offered->first_index < wanted_end &&
           (uint64_t)offered->first_index + offered->count > lease->first_index;
}

static void lease_advance(struct lease *lease)
{
    while (lease->summed_count < lease->offer_count &&
           lease->offers[lease->summed_count]->summed == lease->offers[lease->summed_count]->count)
        lease->summed_count++;
    if (lease->summed_count > 0 && lease->summed_count == lease->offer_count && !lease->complete &&
        lease->offers[lease->offer_count - 1]->layer + 1 == lease->transfer->options.layer_count)
        moving_await(lease->transfer);
    lease_push(lease);
}

static void lease_on_sums(struct moving *moving, status st, const struct move_sum *sums)
{
    struct lease *lease = moving->owner;
    struct transfer *transfer = moving->transfer;
    if (st != OK) {
        lease_end(lease, st, error_text(), true);
        return;
    }
    struct offered *offered = lease->offers[moving->number];
    for (uint32_t i = 0; i < moving->count; i++) {
        offered->checksums[moving->first + i] = (struct checksum){.a = sums[i].a, .b = sums[i].b};
        if (++transfer->slices_summed == transfer->options.test_flip_offered)
            moving_flip(transfer, offered->layer, offered->block_ids[moving->first + i]);
    }
    offered->summed += moving->count;
    lease_advance(lease);
}

static void lease_on_staged(struct moving *moving, status st, const struct move_sum *sums)
{
    struct lease *lease = moving->owner;
    (void)sums;
    if (st != OK) {
        lease_end(lease, st, error_text(), true);
        return;
    }
    lease->offers[moving->number]->staged += moving->count;
    lease_push(lease);
}

/* Ask the device for a move of one offer; kind SUM or OUT. */
static status lease_move(struct lease *lease, uint32_t number, enum move_kind kind)
{
    const struct offered *offered = lease->offers[number];
    const struct moving_slices slices = {.kind = kind,
                                         .layer = offered->layer,
                                         .count = offered->count,
                                         .from_ids = offered->block_ids,
                                         .to_ids = offered->block_ids,
                                         .owner = lease,
                                         .over = kind == MOVE_SUM ? lease_on_sums : lease_on_staged,
                                         .number = number};
    return moving_add(lease->transfer, &slices);
}

static size_t lease_sum_on_device(struct lease *lease)
{
    status st = OK;
    while (st == OK && lease->asked_count < lease->offer_count) {
        const struct offered *offered = lease->offers[lease->asked_count];
        if (offered->summed < offered->count)
            st = lease_move(lease, lease->asked_count, MOVE_SUM);
        lease->asked_count++;
    }
    if (st != OK)
        lease_end(lease, st, error_text(), true);
    else
        lease_advance(lease);
    return 0;
}

/* Can the subscriber's carrier get at the bytes of this offer? Sees to it that it soon can.
 * Errors: ERR_NO_MEMORY. */
static status lease_stage(struct lease *lease, uint32_t number, bool *staged_out)
{
    status st = OK;
    const struct offered *offered = lease->offers[number];
    *staged_out = lease->transfer->options.pool.device == NULL || !lease->peer->carrier->by_host ||
                  !lease_wants(lease, offered) || offered->staged == offered->count;
    while (!*staged_out && st == OK && lease->staging_count < lease->summed_count) {
        if (lease_wants(lease, lease->offers[lease->staging_count]))
            st = lease_move(lease, lease->staging_count, MOVE_OUT);
        lease->staging_count++;
    }
    return st;
}

/* ---- offers on their way ---- */

/* Work: the checksums of what was offered, in order, but for those that are known. */
static size_t lease_sum(void *owner)
{
    struct lease *lease = owner;
    struct transfer *transfer = lease->transfer;
    if (transfer->options.pool.device != NULL)
        return lease_sum_on_device(lease);
    const struct transfer_pool *pool = &transfer->options.pool;
    size_t moved = 0;
    while (lease->summed_count < lease->offer_count && moved < STEP_BYTES) {
        struct offered *offered = lease->offers[lease->summed_count];
        const struct transfer_slice *layer = &transfer->layers[offered->layer];
        if (offered->summed == offered->count) {
            lease->summed_count++;
            continue;
        }
        uint32_t id = offered->block_ids[offered->summed];
        struct checksum *sum = &offered->checksums[offered->summed++];
        bool known = sums_find(transfer, offered->layer, id, sum);
        if (!known)
            *sum = sums_make(transfer, offered->layer, id);
        moved += known ? sizeof(*sum) : layer->bytes;
        if (++transfer->slices_summed == transfer->options.test_flip_offered)
            pool->host[id * pool->block_bytes + layer->offset + layer->bytes / 2] ^= 0x10;
    }
    if (lease->summed_count < lease->offer_count)
        work_add(transfer, &lease->summing);
    lease_push(lease);
    return moved;
}

/* Send one offer, if it has anything that the subscriber wants. */
static status lease_send_offer(struct lease *lease, uint32_t number)
{
    const struct offered *offered = lease->offers[number];
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    if (!lease_wants(lease, offered))
        return OK;
    struct lease_tag tag = holder_tag(lease->transfer, &lease->id, lease->epoch);
    uint32_t bytes = offer_write(&tag, number, offered->layer, offered->first_index,
                                 offered->block_ids, offered->checksums, offered->count, payload);
    return link_send(lease->peer->link, FRAME_OFFER, payload, bytes);
}

static status lease_send_complete(struct lease *lease)
{
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct complete_message message = {.tag = holder_tag(lease->transfer, &lease->id, lease->epoch),
                                       .block_count = lease->block_count,
                                       .offer_count = lease->offer_count,
                                       .payload = lease->payload,
                                       .payload_bytes = lease->payload_bytes};
    return link_send(lease->peer->link, FRAME_COMPLETE, payload, complete_write(&message, payload));
}

void lease_push(struct lease *lease)
{
    status st = OK;
    if (lease->peer == NULL || lease->peer->link == NULL)
        return;
    while (st == OK && lease->sent_count < lease->summed_count) {
        bool staged;
        st = lease_stage(lease, lease->sent_count, &staged);
        if (st == OK && !staged)
            break;
        if (st == OK)
            st = lease_send_offer(lease, lease->sent_count);
        if (st == OK)
            lease->sent_count++;
    }
    if (st == OK && lease->complete && !lease->complete_sent &&
        lease->sent_count == lease->offer_count) {
        st = lease_send_complete(lease);
        lease->complete_sent = st == OK;
    }
    /* ERR_FULL: on_drain comes back here. ERR_CLOSED: on_close follows. */
    if (st == ERR_NO_MEMORY)
        lease_end(lease, st, error_text(), false);
}

/* ---- what a receiver says ---- */

static status holder_on_subscribe(struct peer *peer, const uint8_t *payload, uint32_t bytes)
{
    struct transfer *transfer = peer->transfer;
    struct subscribe_message message;
    status st = subscribe_read(payload, bytes, &message);
    if (st != OK)
        return st;
    if (message.tag.rank != transfer->hello.rank || message.tag.ranks != transfer->hello.ranks) {
        holder_send_gone(peer, &message.tag, ERR_REFUSED, "this holder is of another rank");
        return OK;
    }
    struct lease *lease = lease_find(transfer, &message.tag.lease);
    if (lease != NULL) {
        lease_subscribe(lease, peer, &message);
        return OK;
    }
    struct waiting *waiting = peer->waiting_count < WAITING_MAX ? malloc(sizeof(*waiting)) : NULL;
    if (waiting == NULL) {
        holder_send_gone(peer, &message.tag, ERR_FULL,
                         "too many subscriptions wait for their leases");
        return OK;
    }
    uint32_t wait_ms = message.wait_ms < transfer->options.subscribe_ms
                           ? message.wait_ms
                           : transfer->options.subscribe_ms;
    waiting->message = message;
    waiting->deadline_ns = clock_ns() + (uint64_t)wait_ms * 1000000u;
    waiting->next = peer->waiting;
    peer->waiting = waiting;
    peer->waiting_count++;
    transfer_deadline(transfer, waiting->deadline_ns);
    return OK;
}

/* A receiver that gives up while it waits for the lease. */
static bool holder_forget_waiting(struct peer *peer, const struct lease_id *id)
{
    for (struct waiting **place = &peer->waiting; *place != NULL; place = &(*place)->next) {
        struct waiting *waiting = *place;
        if (!lease_id_equal(&waiting->message.tag.lease, id))
            continue;
        *place = waiting->next;
        peer->waiting_count--;
        free(waiting);
        return true;
    }
    return false;
}

/* All that was wanted is there. What was lent is free for the next one; but when bytes are still
 * queued, which no honest receiver leaves, it drains and is over. */
static void lease_acknowledge(struct lease *lease)
{
    struct peer *peer = lease->peer;
    uint32_t held =
        lease->block_count > lease->first_index ? lease->block_count - lease->first_index : 0;
    lease->acknowledged += lease->wanted_count < held ? lease->wanted_count : held;
    if (!lease->lent || lease->bulk_mark > link_bulk_sent(peer->link)) {
        lease_end(lease, OK, NULL, false);
        return;
    }
    struct carrier_totals *totals = transfer_totals(lease->transfer, peer->carrier->id);
    atomic_fetch_add(&totals->sent_bytes, lease->bytes);
    atomic_fetch_add(&totals->sent_handoffs, 1);
    tcp_drop_asked(peer, lease);
    struct lease **place = &peer->leases;
    while (*place != lease)
        place = &(*place)->peer_next;
    *place = lease->peer_next;
    lease->peer = NULL;
    lease->report->bytes += lease->bytes;
    lease->bytes = 0;
    lease->sent_count = 0;
    lease->complete_sent = false;
}

static status holder_on_end(struct peer *peer, uint16_t type, const uint8_t *payload,
                            uint32_t bytes)
{
    struct end_message message;
    status st = end_read(payload, bytes, &message);
    if (st != OK)
        return st;
    struct lease *lease = lease_find(peer->transfer, &message.tag.lease);
    if (lease == NULL && type == FRAME_GIVE_UP && holder_forget_waiting(peer, &message.tag.lease))
        return OK;
    if (lease == NULL || lease->peer != peer || lease->epoch != message.tag.epoch ||
        (type == FRAME_ACK && !lease->complete_sent)) {
        transfer_refused(peer->transfer, peer, "the end of a lease that is not the peer's");
        return OK;
    }
    if (type == FRAME_ACK) {
        lease->bytes = message.bytes;
        lease_acknowledge(lease);
    } else {
        char text[TRANSFER_TEXT_BYTES];
        snprintf(text, sizeof(text), "\"%s\" gave up: %s", peer->name, message.text);
        lease_end(lease, message.status == ERR_CORRUPT ? ERR_CORRUPT : ERR_CLOSED, text, false);
    }
    return OK;
}

status holder_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    switch (type) {
    case FRAME_SUBSCRIBE:
        return holder_on_subscribe(peer, payload, bytes);
    case FRAME_FETCH:
        return tcp_on_fetch(peer, payload, bytes);
    case FRAME_ASK_DEVICE:
        return cuda_ipc_on_ask(peer, bytes);
    case FRAME_ASK_REMOTE:
        return link_is_unix(peer->link)
                   ? error_set(ERR_BAD_INPUT, "ASK_REMOTE does not belong on a Unix socket")
                   : rdma_on_ask(peer);
    case FRAME_ACK:
    case FRAME_GIVE_UP:
        return holder_on_end(peer, type, payload, bytes);
    default:
        return error_set(ERR_BAD_INPUT, "frame of type 0x%04x is not for a holder", type);
    }
}

void holder_on_peer_end(struct peer *peer, const char *text)
{
    while (peer->leases != NULL)
        lease_end(peer->leases, ERR_CLOSED, text, false);
    lease_drained(peer);
    while (peer->waiting != NULL) {
        struct waiting *waiting = peer->waiting;
        peer->waiting = waiting->next;
        free(waiting);
    }
}

/* ---- deadlines ---- */

static uint64_t earlier(uint64_t x, uint64_t y)
{
    return x < y ? x : y;
}

static uint64_t holder_check_waiting(struct peer *peer, uint64_t now_ns, uint64_t next_ns)
{
    for (struct waiting **place = &peer->waiting; *place != NULL;) {
        struct waiting *waiting = *place;
        if (waiting->deadline_ns > now_ns) {
            next_ns = earlier(next_ns, waiting->deadline_ns);
            place = &waiting->next;
            continue;
        }
        *place = waiting->next;
        peer->waiting_count--;
        holder_send_gone(peer, &waiting->message.tag, ERR_NOT_FOUND,
                         "the lease was not opened in time");
        free(waiting);
    }
    return next_ns;
}

uint64_t holder_check_deadlines(struct transfer *transfer, uint64_t now_ns)
{
    uint64_t next_ns = UINT64_MAX;
    for (int i = 0; i < TABLE_BUCKETS; i++) {
        for (struct lease *lease = transfer->leases[i], *next; lease != NULL; lease = next) {
            next = lease->next;
            if (lease->expiry_ns <= now_ns)
                lease_end(lease, ERR_TIMEOUT, "the lease expired before its receiver acknowledged",
                          true);
            else
                next_ns = earlier(next_ns, lease->expiry_ns);
        }
    }
    for (struct peer *peer = transfer->peers, *next; peer != NULL; peer = next) {
        next = peer->next;
        next_ns = holder_check_waiting(peer, now_ns, next_ns);
        uint64_t drain_ns = UINT64_MAX;
        for (struct lease *lease = peer->draining; lease != NULL; lease = lease->peer_next)
            drain_ns = earlier(drain_ns, lease->drain_deadline_ns);
        if (drain_ns > now_ns)
            next_ns = earlier(next_ns, drain_ns);
        else
            peer_close(peer,
                       error_set(ERR_TIMEOUT, "\"%s\" does not read what it fetched", peer->name));
    }
    return next_ns;
}

void holder_stop(struct transfer *transfer)
{
    for (int i = 0; i < TABLE_BUCKETS; i++) {
        while (transfer->leases[i] != NULL)
            lease_end(transfer->leases[i], ERR_CANCELLED, "the worker stops", true);
    }
}
