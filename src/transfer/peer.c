#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

static void peer_on_ready(void *ctx, const struct hello *hello)
{
    struct peer *peer = ctx;
    struct transfer *transfer = peer->transfer;
    peer->ready = true;
    peer->incarnation = hello->incarnation;
    snprintf(peer->name, sizeof(peer->name), "%s", hello->name);
    atomic_fetch_add(&transfer->peer_count, 1);
    log_debug("transfer peer connected",
              "peer=\"%s\" incarnation=%016" PRIx64 " direction=%s "
              "carrier=%s",
              peer->name, peer->incarnation, peer->outgoing ? "out" : "in",
              peer->outgoing             ? transfer_carrier_name(peer->carrier->id)
              : link_is_unix(peer->link) ? "local"
                                         : "tcp");
    if (peer->outgoing) {
        peer->carrier->peer_ready(peer);
        return;
    }
    if (link_is_unix(peer->link)) {
        status st = shm_send_pool(peer);
        if (st != OK)
            peer_close(peer, st);
    }
}

static void peer_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes)
{
    struct peer *peer = ctx;
    if (type == FRAME_PING)
        return;
    status st = ERR_UNSUPPORTED;
    if (peer->outgoing) {
        st = peer->carrier->on_frame(peer, type, payload, payload_bytes);
        if (st == ERR_UNSUPPORTED)
            st = receiver_on_frame(peer, type, payload, payload_bytes);
    } else {
        st = holder_on_frame(peer, type, payload, payload_bytes);
    }
    if (st != OK) {
        transfer_refused(peer->transfer, peer, error_text());
        peer_close(peer, st);
    }
}

/* Everything that hangs on a connection that is over; link is gone already. */
static void peer_end(struct peer *peer, status cause)
{
    struct transfer *transfer = peer->transfer;
    char text[OFFER_TEXT_BYTES];
    if (peer->outgoing && !peer->ready)
        snprintf(text, sizeof(text), "cannot reach %s: %s", peer->name, error_text());
    else
        snprintf(text, sizeof(text), "%s", error_text());
    log_line(cause == ERR_CLOSED || cause == ERR_CANCELLED ? LOG_DEBUG : LOG_WARN, 0,
             "transfer peer gone", "peer=\"%s\" status=\"%s\" cause=\"%s\"", peer->name,
             status_name(cause), text);
    struct peer **place = &transfer->peers;
    while (*place != peer)
        place = &(*place)->next;
    *place = peer->next;
    if (peer->ready)
        atomic_fetch_sub(&transfer->peer_count, 1);
    work_remove(transfer, &peer->serving);
    if (peer->outgoing) {
        /* First the mapping, or what else the carrier has of it, then what the receives make of it.
         */
        for (struct receive *receive = peer->receives; receive != NULL;
             receive = receive->peer_next)
            peer->carrier->forget(receive);
        peer->carrier->peer_end(peer);
        receiver_on_peer_end(peer, cause, text);
    } else {
        transfer->incoming_count--;
        tcp_drop_asked(peer, NULL);
        holder_on_peer_end(peer, text);
    }
    free(peer);
}

static void peer_on_close(void *ctx, status cause)
{
    struct peer *peer = ctx;
    peer->link = NULL;
    peer_end(peer, cause);
}

void peer_close(struct peer *peer, status cause)
{
    char text[ERROR_TEXT_BYTES];
    memcpy(text, error_text(), sizeof(text));
    link_close(peer->link);
    peer->link = NULL;
    error_set(cause, "%s", text);
    peer_end(peer, cause);
}

static void peer_on_drain(void *ctx)
{
    struct peer *peer = ctx;
    if (peer->outgoing)
        return;
    lease_drained(peer);
    for (struct lease *lease = peer->leases, *next; lease != NULL; lease = next) {
        next = lease->peer_next;
        lease_push(lease);
    }
    if (peer->asked != NULL)
        work_add(peer->transfer, &peer->serving);
}

static const struct link_calls peer_calls = {
    .on_ready = peer_on_ready,
    .on_frame = peer_on_frame,
    .on_close = peer_on_close,
    .on_drain = peer_on_drain,
    .on_bulk = tcp_on_bulk,
    .on_landed = tcp_on_landed,
};

static struct peer *peer_make(struct transfer *transfer)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    if (peer == NULL)
        return NULL;
    peer->transfer = transfer;
    strcpy(peer->name, "?");
    peer->asked_tail = &peer->asked;
    peer->serving.run = tcp_serve;
    peer->serving.owner = peer;
    return peer;
}

static struct link_setup peer_setup(struct peer *peer)
{
    const struct transfer *transfer = peer->transfer;
    size_t bulk = transfer->layer_bytes_max > DATA_BYTES ? transfer->layer_bytes_max : DATA_BYTES;
    return (struct link_setup){
        .calls = &peer_calls,
        .ctx = peer,
        .hello = &transfer->hello,
        .key = transfer->options.key,
        .peer_incarnation = peer->incarnation,
        .limits = {.payload_bytes_max = OFFER_FRAME_BYTES_MAX,
                   /* Bulk comes from holders only. */
                   .bulk_bytes_max = peer->outgoing ? (uint32_t)bulk : 0,
                   .pending_bytes_max = PEER_PENDING_BYTES,
                   .handshake_ms = transfer->options.connect_ms,
                   .idle_ms = transfer->options.silence_ms},
    };
}

static void peer_add(struct peer *peer)
{
    peer->next = peer->transfer->peers;
    peer->transfer->peers = peer;
}

/* Who only connects and does not speak makes room for who does. */
static void peer_drop_silent(struct transfer *transfer)
{
    struct peer *oldest = NULL;
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        if (!peer->outgoing && !peer->ready)
            oldest = peer;
    }
    if (oldest != NULL)
        peer_close(oldest,
                   error_set(ERR_FULL, "others wait, and it has not finished its handshake"));
}

void peer_on_accept(void *ctx, int fd)
{
    struct transfer *transfer = ctx;
    if (transfer->incoming_count >= PEERS_MAX)
        peer_drop_silent(transfer);
    struct peer *peer = transfer->incoming_count < PEERS_MAX ? peer_make(transfer) : NULL;
    if (peer == NULL) {
        log_warn("transfer peer refused", "cause=\"%u connections are open\"",
                 transfer->incoming_count);
        close(fd);
        return;
    }
    struct link_setup setup = peer_setup(peer);
    status st = link_open(transfer->loop, fd, &setup, &peer->link);
    if (st != OK) {
        log_warn("transfer peer refused", "cause=\"%s\"", error_text());
        free(peer);
        return;
    }
    peer->carrier = link_is_unix(peer->link) ? &carrier_shm : &carrier_tcp;
    transfer->incoming_count++;
    peer_add(peer);
}

struct peer *peer_find(struct transfer *transfer, const struct carrier *carrier,
                       uint64_t incarnation, const struct address *address)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        if (!peer->outgoing || peer->carrier != carrier)
            continue;
        bool same_address = strcmp(peer->address.text, address->text) == 0;
        if (same_address && (incarnation == 0 || peer->incarnation == incarnation))
            return peer;
    }
    return NULL;
}

status peer_connect(struct transfer *transfer, const struct carrier *carrier, uint64_t incarnation,
                    const struct address *address, struct peer **peer_out)
{
    struct peer *peer = peer_make(transfer);
    if (peer == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a connection");
    peer->outgoing = true;
    peer->carrier = carrier;
    peer->incarnation = incarnation;
    peer->address = *address;
    snprintf(peer->name, sizeof(peer->name), "%.*s", HELLO_NAME_BYTES - 1, address->text);
    struct link_setup setup = peer_setup(peer);
    status st =
        link_connect(transfer->loop, address, transfer->options.connect_ms, &setup, &peer->link);
    if (st != OK) {
        free(peer);
        return st;
    }
    peer_add(peer);
    *peer_out = peer;
    return OK;
}

void peer_meet(struct transfer *transfer, uint64_t incarnation, const struct address *local)
{
    struct peer *peer = peer_find(transfer, &carrier_cuda_ipc, incarnation, local);
    if (peer != NULL)
        return;
    if (peer_connect(transfer, &carrier_cuda_ipc, incarnation, local, &peer) != OK)
        log_info("peer not met", "address=%s cause=\"%s\"", local->text, error_text());
}

void peer_set_usable(struct peer *peer)
{
    peer->usable = true;
    for (struct receive *receive = peer->receives, *next; receive != NULL; receive = next) {
        next = receive->peer_next;
        receive_subscribe(receive);
    }
}

void peer_set_unmappable(struct peer *peer, const char *text)
{
    char kept[OFFER_TEXT_BYTES];
    snprintf(kept, sizeof(kept), "%s", text);
    peer->unmappable = true;
    log_info("blocks by way of the host", "peer=\"%s\" cause=\"%s\"", peer->name, kept);
    receiver_on_peer_end(peer, ERR_UNSUPPORTED, kept);
}

void peer_beat(struct transfer *transfer)
{
    for (struct peer *peer = transfer->peers; peer != NULL; peer = peer->next) {
        /* What is pending says as much; and a full queue needs no more. */
        if (peer->ready && link_pending_bytes(peer->link) == 0)
            link_send(peer->link, FRAME_PING, NULL, 0);
    }
}
