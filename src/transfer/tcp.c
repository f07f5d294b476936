#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "transfer/carrier.h"

#define TCP_ASK_MAX 32 /* FETCHes of one receive on their way at once */

/* ---- holder ---- */

static void tcp_forget_asked(struct peer *peer, struct asked **place)
{
    struct asked *asked = *place;
    *place = asked->next;
    if (*place == NULL)
        peer->asked_tail = place;
    peer->asked_count--;
    free(asked);
}

void tcp_drop_asked(struct peer *peer, const struct lease *lease)
{
    struct asked **place = &peer->asked;
    while (*place != NULL) {
        if (lease == NULL || (*place)->lease == lease)
            tcp_forget_asked(peer, place);
        else
            place = &(*place)->next;
    }
}

status tcp_on_fetch(struct peer *peer, const uint8_t *payload, uint32_t bytes)
{
    struct fetch_message message;
    status st = fetch_read(payload, bytes, &message);
    if (st != OK)
        return st;
    struct lease *lease = lease_find(peer->transfer, &message.tag.lease);
    /* One that has just ended: its receiver is being told. One of another: the same answer, none.
     */
    if (lease == NULL || lease->peer != peer || lease->epoch != message.tag.epoch) {
        transfer_refused(peer->transfer, peer, "a fetch under a lease that is not the peer's");
        return OK;
    }
    if (message.number >= lease->sent_count ||
        message.count > lease->offers[message.number]->count ||
        message.from > lease->offers[message.number]->count - message.count)
        return error_set(ERR_BAD_INPUT,
                         "\"%s\" fetches %u blocks from %u on of offer %u, which was not "
                         "offered",
                         peer->name, message.count, message.from, message.number);
    if (peer->asked_count == FETCHES_MAX)
        return error_set(ERR_BAD_INPUT, "\"%s\" has %u fetches under way, more than is allowed",
                         peer->name, peer->asked_count);
    struct asked *asked = malloc(sizeof(*asked));
    if (asked == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a fetch");
    *asked = (struct asked){
        .lease = lease, .number = message.number, .from = message.from, .count = message.count};
    *peer->asked_tail = asked;
    peer->asked_tail = &asked->next;
    peer->asked_count++;
    work_add(peer->transfer, &peer->serving);
    return OK;
}

/* Queue as much of a fetch as one DATA frame takes. Errors: those of link_send_bulk. */
static status tcp_send_data(struct peer *peer, struct asked *asked, size_t *bytes_out)
{
    const struct transfer *transfer = peer->transfer;
    struct lease *lease = asked->lease;
    const struct offered *offered = lease->offers[asked->number];
    const struct transfer_slice *layer = &transfer->layers[offered->layer];
    struct iovec spans[LINK_SPANS_MAX];
    uint8_t head[OFFER_FRAME_BYTES_MAX];
    uint32_t count = 0;
    size_t bytes = 0;
    while (count < asked->count && count < LINK_SPANS_MAX &&
           (count == 0 || bytes + layer->bytes <= DATA_BYTES)) {
        uint32_t id = offered->block_ids[asked->from + count];
        spans[count].iov_base = transfer->options.pool.host +
                                (size_t)id * transfer->options.pool.block_bytes + layer->offset;
        spans[count++].iov_len = layer->bytes;
        bytes += layer->bytes;
    }
    struct fetch_message message = {.tag = {.lease = lease->id,
                                            .epoch = lease->epoch,
                                            .rank = (uint16_t)transfer->hello.rank,
                                            .ranks = (uint16_t)transfer->hello.ranks},
                                    .number = asked->number,
                                    .from = asked->from,
                                    .count = count};
    status st =
        link_send_bulk(peer->link, FRAME_DATA, head, fetch_write(&message, head), spans, count);
    if (st != OK)
        return st;
    lease->bulk_mark = link_bulk_queued(peer->link);
    lease->bytes += bytes;
    asked->from += count;
    asked->count -= count;
    *bytes_out = bytes;
    return OK;
}

size_t tcp_serve(void *owner)
{
    struct peer *peer = owner;
    size_t moved = 0;
    while (peer->asked != NULL && moved < TURN_BYTES) {
        size_t bytes;
        /* A full link calls on_drain, which comes back here. */
        if (link_pending_bytes(peer->link) > PEER_PENDING_BYTES / 2 ||
            tcp_send_data(peer, peer->asked, &bytes) != OK)
            return moved;
        moved += bytes;
        if (peer->asked->count == 0)
            tcp_forget_asked(peer, &peer->asked);
    }
    if (peer->asked != NULL)
        work_add(peer->transfer, &peer->serving);
    return moved;
}

/* ---- receiver ---- */

static void tcp_peer_ready(struct peer *peer)
{
    peer_set_usable(peer);
}

static status tcp_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    (void)peer, (void)type, (void)payload, (void)bytes;
    return ERR_UNSUPPORTED; /* DATA has bulk, and goes to tcp_on_bulk */
}

/* Ask for the first few fetches that were not asked for. */
static void tcp_fetch(struct receive *receive)
{
    struct peer *peer = receive->peer;
    const struct transfer *transfer = receive->transfer;
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    uint32_t under_way = 0;
    for (struct fetch *fetch = receive->fetches; fetch != NULL && under_way < TCP_ASK_MAX;
         fetch = fetch->next, under_way++) {
        if (fetch->requested > 0)
            continue;
        struct fetch_message message = {.tag = {.lease = receive->id,
                                                .epoch = receive->epoch,
                                                .rank = (uint16_t)transfer->hello.rank,
                                                .ranks = (uint16_t)transfer->hello.ranks},
                                        .number = fetch->number,
                                        .from = fetch->from,
                                        .count = fetch->count};
        /* A holder that does not even read requests is left to the deadline. */
        if (link_send(peer->link, FRAME_FETCH, payload, fetch_write(&message, payload)) != OK)
            return;
        fetch->requested = fetch->count;
    }
}

uint32_t tcp_on_bulk(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes,
                     uint32_t bulk_bytes, struct iovec spans[LINK_SPANS_MAX])
{
    struct peer *peer = ctx;
    struct fetch_message message;
    peer->landing = NULL;
    if (type != FRAME_DATA || fetch_read(payload, payload_bytes, &message) != OK)
        return 0;
    struct receive *receive = receive_find(peer->transfer, &message.tag.lease);
    if (receive == NULL || receive->peer != peer || receive->epoch != message.tag.epoch ||
        receive->fetches == NULL)
        return 0;
    struct fetch *fetch = receive->fetches;
    size_t bytes = peer->transfer->layers[fetch->layer].bytes;
    /* Answers come in the order of the questions; anything else is not ours to guess. */
    if (message.number != fetch->number || message.from != fetch->from + fetch->done ||
        message.count > fetch->requested - fetch->done || message.count > LINK_SPANS_MAX ||
        bulk_bytes != message.count * bytes) {
        status st = error_set(ERR_BAD_INPUT,
                              "\"%s\" sent DATA that does not answer the oldest fetch", peer->name);
        transfer_refused(peer->transfer, peer, error_text());
        peer_close(peer, st);
        return 0;
    }
    for (uint32_t i = 0; i < message.count; i++) {
        spans[i].iov_base = receive_place(fetch, fetch->done + i, &bytes);
        spans[i].iov_len = bytes;
    }
    peer->landing = fetch;
    peer->landing_count = message.count;
    return message.count;
}

void tcp_on_landed(void *ctx)
{
    struct peer *peer = ctx;
    struct fetch *fetch = peer->landing;
    peer->landing = NULL;
    if (fetch == NULL)
        return;
    struct receive *receive = fetch->receive;
    uint32_t until = fetch->done + peer->landing_count;
    while (fetch->done < until) {
        size_t bytes;
        const uint8_t *at = receive_place(fetch, fetch->done, &bytes);
        if (peer->transfer->options.test_slow_us > 0)
            usleep(peer->transfer->options.test_slow_us);
        if (receive_wants(fetch, fetch->done) &&
            !receive_landed(fetch, fetch->done, checksum_of(at, bytes)))
            return;
        fetch->done++;
    }
    if (fetch->done < fetch->count || receive_fetch_done(receive))
        tcp_fetch(receive);
}

static void tcp_forget(struct receive *receive)
{
    struct peer *peer = receive->peer;
    if (peer->landing == NULL || peer->landing->receive != receive)
        return;
    peer->landing = NULL;
    if (peer->link != NULL)
        link_discard_bulk(peer->link);
}

static void tcp_peer_end(struct peer *peer)
{
    (void)peer;
}

const struct carrier carrier_tcp = {
    .id = TRANSFER_TCP,
    .by_host = true,
    .peer_ready = tcp_peer_ready,
    .on_frame = tcp_on_frame,
    .fetch = tcp_fetch,
    .forget = tcp_forget,
    .peer_end = tcp_peer_end,
};
