#include "transfer/transfer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/parts.h"

static struct call *call_take(struct transfer *transfer, uint32_t kind)
{
    pthread_mutex_lock(&transfer->kept_lock);
    struct call *call = transfer->kept;
    if (call != NULL)
        transfer->kept = (struct call *)call->mail.next;
    pthread_mutex_unlock(&transfer->kept_lock);
    if (call == NULL) {
        call = malloc(sizeof(*call));
        if (call == NULL) {
            error_set(ERR_NO_MEMORY, "no memory for a call to the transfer thread");
            return NULL;
        }
        call->kept = false;
    }
    call->mail.kind = kind;
    return call;
}

void call_give_back(struct transfer *transfer, struct call *call)
{
    if (!call->kept) {
        free(call);
        return;
    }
    pthread_mutex_lock(&transfer->kept_lock);
    call->mail.next = transfer->kept != NULL ? &transfer->kept->mail : NULL;
    transfer->kept = call;
    pthread_mutex_unlock(&transfer->kept_lock);
}

static void transfer_drop(struct transfer *transfer, uint64_t incarnation)
{
    struct peer *peer = transfer->peers;
    while (peer != NULL) {
        struct peer *next = peer->next;
        if (peer->incarnation == incarnation) {
            peer_close(peer, error_set(ERR_CLOSED, "\"%s\" was declared dead", peer->name));
            next = transfer->peers; /* closing one may have changed the list */
        }
        peer = next;
    }
}

static void transfer_close_peers(struct transfer *transfer, status cause)
{
    while (transfer->peers != NULL)
        peer_close(transfer->peers, cause);
}

static void transfer_stop(struct transfer *transfer)
{
    receiver_stop(transfer);
    holder_stop(transfer);
    transfer_close_peers(transfer, error_set(ERR_CANCELLED, "the worker stops"));
    loop_stop(transfer->loop);
}

void transfer_on_call(void *ctx, struct mail *mail)
{
    struct transfer *transfer = ctx;
    struct call *call = (struct call *)mail;
    switch (call->mail.kind) {
    case CALL_LEASE_OPEN:
        lease_open(call->is.opened);
        break;
    case CALL_OFFER:
        lease_offer(transfer, call);
        break;
    case CALL_COMPLETE:
        lease_complete(transfer, call);
        break;
    case CALL_LEASE_CLOSE: {
        struct lease *lease = lease_find(transfer, &call->lease);
        if (lease != NULL)
            lease_end(lease, ERR_CANCELLED, "the holder took the lease back", true);
        break;
    }
    case CALL_RECEIVE:
        receive_start(call->is.received);
        break;
    case CALL_CANCEL: {
        struct receive *receive = receive_find(transfer, &call->lease);
        if (receive != NULL)
            receive_end(receive, TRANSFER_CANCELLED, ERR_CANCELLED, "given up by the receiver",
                        true);
        break;
    }
    case CALL_MEET:
        peer_meet(transfer, call->is.met.incarnation, &call->is.met.local);
        break;
    case CALL_DROP_PEER:
        transfer_drop(transfer, call->is.incarnation);
        break;
    case CALL_RENEW:
        transfer->hello.incarnation = call->is.incarnation;
        transfer_close_peers(transfer, error_set(ERR_CLOSED, "this is another incarnation now"));
        break;
    case CALL_STOP:
        transfer_stop(transfer);
        break;
    default:
        assert(false); /* an unknown call */
    }
    call_give_back(transfer, call);
}

static status transfer_lease_make(struct transfer *transfer, const struct lease_id *id,
                                  uint64_t request_id, uint32_t epoch, uint32_t expiry_ms,
                                  struct mailbox *reports, bool lent)
{
    struct lease *lease = calloc(1, sizeof(*lease));
    struct transfer_report *report = calloc(1, sizeof(*report));
    struct call *call = call_take(transfer, CALL_LEASE_OPEN);
    if (lease == NULL || report == NULL || call == NULL) {
        free(lease);
        free(report);
        if (call != NULL)
            call_give_back(transfer, call);
        return error_set(ERR_NO_MEMORY, "no memory for a lease");
    }
    report->lease = *id;
    report->request_id = request_id;
    report->epoch = epoch;
    lease->transfer = transfer;
    lease->id = *id;
    lease->epoch = epoch;
    lease->expiry_ns = clock_ns() + (uint64_t)expiry_ms * 1000000u;
    lease->report = report;
    lease->reports = reports;
    lease->lent = lent;
    call->is.opened = lease;
    mailbox_post(transfer->calls, &call->mail);
    return OK;
}

status transfer_lease_open(struct transfer *transfer, const struct lease_id *id,
                           uint64_t request_id, uint32_t epoch, uint32_t expiry_ms)
{
    return transfer_lease_make(transfer, id, request_id, epoch, expiry_ms,
                               transfer->options.reports, false);
}

status transfer_lease_lend(struct transfer *transfer, const struct lease_id *id,
                           uint64_t request_id, uint32_t epoch, uint32_t expiry_ms)
{
    return transfer_lease_make(transfer, id, request_id, epoch, expiry_ms,
                               transfer->options.reports, true);
}

status transfer_lease_open_to(struct transfer *transfer, const struct lease_id *id,
                              uint64_t request_id, uint32_t epoch, uint32_t expiry_ms,
                              struct mailbox *reports)
{
    return transfer_lease_make(transfer, id, request_id, epoch, expiry_ms, reports, false);
}

void transfer_offer(struct transfer *transfer, const struct lease_id *lease, uint32_t layer,
                    uint32_t first_index, const uint32_t *block_ids, uint32_t count,
                    const struct checksum *checksums)
{
    assert(layer < transfer->options.layer_count);
    assert(first_index < OFFER_INDEX_MAX && count <= OFFER_INDEX_MAX - first_index);
    for (uint32_t done = 0; done < count;) {
        uint32_t part = count - done < CALL_BLOCKS ? count - done : CALL_BLOCKS;
        struct call *call = call_take(transfer, CALL_OFFER);
        if (call == NULL) {
            /* The receiver finds the hole when the lease completes, and fails by name. */
            log_error("offer lost", "cause=\"%s\"", error_text());
            return;
        }
        call->lease = *lease;
        call->is.offer.layer = layer;
        call->is.offer.first_index = first_index + done;
        call->is.offer.count = part;
        call->is.offer.has_checksums = checksums != NULL;
        for (uint32_t i = 0; i < part; i++) {
            assert(block_ids[done + i] < transfer->options.pool.block_count);
            call->is.offer.block_ids[i] = block_ids[done + i];
            if (checksums != NULL)
                call->is.offer.checksums[i] = checksums[done + i];
        }
        mailbox_post(transfer->calls, &call->mail);
        done += part;
    }
}

status transfer_complete(struct transfer *transfer, const struct lease_id *lease,
                         uint32_t block_count, const void *payload, uint32_t payload_bytes)
{
    assert(payload_bytes <= TRANSFER_PAYLOAD_BYTES_MAX && block_count <= OFFER_INDEX_MAX);
    struct call *call = call_take(transfer, CALL_COMPLETE);
    if (call == NULL)
        return ERR_NO_MEMORY;
    call->lease = *lease;
    call->is.complete.block_count = block_count;
    call->is.complete.payload_bytes = payload_bytes;
    call->is.complete.payload = NULL;
    call->is.complete.at_ns = clock_ns();
    if (payload_bytes > 0) {
        call->is.complete.payload = malloc(payload_bytes);
        if (call->is.complete.payload == NULL) {
            call_give_back(transfer, call);
            return error_set(ERR_NO_MEMORY, "no memory for a payload of %u bytes", payload_bytes);
        }
        memcpy(call->is.complete.payload, payload, payload_bytes);
    }
    mailbox_post(transfer->calls, &call->mail);
    return OK;
}

/* For calls that have no answer: whoever made this one does without. */
static struct call *call_take_or_log(struct transfer *transfer, uint32_t kind)
{
    struct call *call = call_take(transfer, kind);
    if (call == NULL)
        log_error("call lost", "cause=\"%s\"", error_text());
    return call;
}

/* A lost one is made up for by the lease's deadline. */
static void transfer_call_lease(struct transfer *transfer, const struct lease_id *lease,
                                uint32_t kind)
{
    struct call *call = call_take_or_log(transfer, kind);
    if (call == NULL)
        return;
    call->lease = *lease;
    mailbox_post(transfer->calls, &call->mail);
}

void transfer_lease_close(struct transfer *transfer, const struct lease_id *lease)
{
    transfer_call_lease(transfer, lease, CALL_LEASE_CLOSE);
}

void transfer_receive_cancel(struct transfer *transfer, const struct lease_id *lease)
{
    transfer_call_lease(transfer, lease, CALL_CANCEL);
}

static status receive_make(struct transfer *transfer, const struct transfer_wish *wish,
                           struct receive **receive_out)
{
    struct receive *receive = calloc(1, sizeof(*receive));
    if (receive == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a receive");
    size_t cells = (size_t)transfer->options.layer_count * wish->block_count;
    receive->block_ids = malloc(wish->block_count * sizeof(*receive->block_ids));
    receive->cells = calloc(cells, sizeof(*receive->cells));
    receive->report = calloc(1, sizeof(*receive->report));
    if (receive->report != NULL && wish->keeps_sums)
        receive->report->sums = calloc(cells, sizeof(*receive->report->sums));
    if (receive->block_ids == NULL || receive->cells == NULL || receive->report == NULL ||
        (wish->keeps_sums && receive->report->sums == NULL)) {
        transfer_report_free(receive->report);
        receive_free(receive);
        return error_set(ERR_NO_MEMORY, "no memory for a receive of %u blocks", wish->block_count);
    }
    for (uint32_t i = 0; i < wish->block_count; i++) {
        assert(wish->block_ids[i] < transfer->options.pool.block_count);
        receive->block_ids[i] = wish->block_ids[i];
    }
    receive->transfer = transfer;
    receive->id = wish->lease;
    receive->epoch = wish->epoch;
    receive->incarnation = wish->source.incarnation;
    receive->first_index = wish->first_index;
    receive->block_count = wish->block_count;
    receive->missing = cells;
    receive->deadline_ns = clock_ns() + (uint64_t)wish->deadline_ms * 1000000u;
    receive->fetches_tail = &receive->fetches;
    receive->reports = wish->reports != NULL ? wish->reports : transfer->options.reports;
    receive->report->lease = wish->lease;
    receive->report->request_id = wish->request_id;
    receive->report->epoch = wish->epoch;
    *receive_out = receive;
    return OK;
}

status transfer_receive(struct transfer *transfer, const struct transfer_wish *wish)
{
    uint32_t carriers = transfer->options.carriers;
    bool device = wish->source.local != NULL && (carriers & TRANSFER_CUDA_IPC) != 0;
    bool local = wish->source.local != NULL && (carriers & TRANSFER_SHM) != 0;
    bool remote = wish->source.remote != NULL && (carriers & TRANSFER_REMOTE) != 0;
    assert(wish->block_count >= 1 && wish->first_index < OFFER_INDEX_MAX &&
           wish->block_count <= OFFER_INDEX_MAX - wish->first_index);
    if (!device && !local && !remote)
        return error_set(ERR_BAD_INPUT,
                         "the holder has no address for a carrier that is allowed here "
                         "(%s%s%s%s); allow another one or give its address",
                         (carriers & TRANSFER_SHM) != 0 ? "shm " : "",
                         (carriers & TRANSFER_TCP) != 0 ? "tcp " : "",
                         (carriers & TRANSFER_CUDA_IPC) != 0 ? "cuda-ipc " : "",
                         (carriers & TRANSFER_RDMA) != 0 ? "rdma" : "");
    struct receive *receive = NULL;
    status st = receive_make(transfer, wish, &receive);
    if (st != OK)
        return st;
    receive->has_device = device;
    receive->has_local = local;
    receive->has_remote = remote;
    if (device || local)
        receive->local = *wish->source.local;
    if (remote)
        receive->remote = *wish->source.remote;
    struct call *call = call_take(transfer, CALL_RECEIVE);
    if (call == NULL) {
        transfer_report_free(receive->report);
        receive_free(receive);
        return ERR_NO_MEMORY;
    }
    call->is.received = receive;
    mailbox_post(transfer->calls, &call->mail);
    return OK;
}

static void transfer_call_incarnation(struct transfer *transfer, uint32_t kind,
                                      uint64_t incarnation)
{
    struct call *call = call_take_or_log(transfer, kind);
    if (call == NULL)
        return;
    call->is.incarnation = incarnation;
    mailbox_post(transfer->calls, &call->mail);
}

void transfer_meet(struct transfer *transfer, uint64_t incarnation, const struct address *local)
{
    if ((transfer->options.carriers & TRANSFER_CUDA_IPC) == 0)
        return;
    struct call *call = call_take_or_log(transfer, CALL_MEET);
    if (call == NULL)
        return;
    call->is.met.incarnation = incarnation;
    call->is.met.local = *local;
    mailbox_post(transfer->calls, &call->mail);
}

void transfer_drop_peer(struct transfer *transfer, uint64_t incarnation)
{
    transfer_call_incarnation(transfer, CALL_DROP_PEER, incarnation);
}

void transfer_renew(struct transfer *transfer, uint64_t incarnation)
{
    transfer_call_incarnation(transfer, CALL_RENEW, incarnation);
}
