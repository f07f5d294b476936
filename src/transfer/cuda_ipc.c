#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"

/* ---- holder ---- */

/* The link is past its handshake, with the cluster key's proof where there is one, and it is a Unix
 * socket that lets in only the same user or root: nobody else gets a handle. */
status cuda_ipc_on_ask(struct peer *peer, uint32_t bytes)
{
    const struct transfer_options *options = &peer->transfer->options;
    struct device_message message = {.block_bytes = options->pool.block_bytes};
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    if (bytes != 0 || !link_is_unix(peer->link))
        return error_set(ERR_BAD_INPUT, "\"%s\" asks for a device in a way that nobody does",
                         peer->name);
    status st = ERR_UNSUPPORTED;
    if ((options->carriers & TRANSFER_CUDA_IPC) == 0)
        error_set(st, "it has no pool on a GPU that it shares");
    else
        st = options->pool.device->moves->pool_export(options->pool.device, message.handle);
    if (st == OK) {
        message.block_count = options->pool.block_count;
        peer->carrier = &carrier_cuda_ipc;
    } else {
        snprintf(message.text, sizeof(message.text), "%s", error_text());
    }
    return link_send(peer->link, FRAME_DEVICE, payload, device_write(&message, payload));
}

/* ---- receiver ---- */

static void cuda_ipc_peer_ready(struct peer *peer)
{
    if (link_send(peer->link, FRAME_ASK_DEVICE, NULL, 0) != OK)
        peer_set_unmappable(peer, error_text());
}

static status cuda_ipc_map(struct peer *peer, const struct device_message *message)
{
    size_t expected = peer->transfer->options.pool.block_bytes;
    if (peer->pool != NULL || peer->unmappable || peer->mapping != NULL)
        return error_set(ERR_BAD_INPUT, "a second DEVICE message");
    if (message->block_count > 0 && message->block_bytes != expected)
        return error_set(ERR_REFUSED, "block bytes: ours are %zu, those of \"%s\" are %llu",
                         expected, peer->name, (unsigned long long)message->block_bytes);
    uint64_t bytes = message->block_count * message->block_bytes;
    if (message->block_count == 0)
        peer_set_unmappable(peer, message->text);
    else if (mapping_add(peer, message->handle, message->block_count, bytes) != OK)
        peer_set_unmappable(peer, error_text());
    return OK;
}

void cuda_ipc_mapped(struct peer *peer, const struct mapping *mapping)
{
    if (mapping->result != OK) {
        peer_set_unmappable(peer, mapping->text);
        return;
    }
    peer->pool = mapping->map;
    peer->map_bytes = mapping->bytes;
    peer->map_blocks = mapping->block_count;
    atomic_fetch_add(&peer->transfer->mapped_bytes, mapping->bytes);
    log_debug("pool mapped", "peer=\"%s\" bytes=%" PRIu64, peer->name, mapping->bytes);
    peer_set_usable(peer);
}

static status cuda_ipc_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload,
                                uint32_t bytes)
{
    if (type == FRAME_POOL) { /* for shm, comes by itself */
        int fd = link_take_fd(peer->link);
        if (fd >= 0)
            close(fd);
        return OK;
    }
    if (type != FRAME_DEVICE)
        return ERR_UNSUPPORTED;
    struct device_message message;
    status st = device_read(payload, bytes, &message);
    return st == OK ? cuda_ipc_map(peer, &message) : st;
}

/* A part of the oldest fetch has been copied, and summed on the way. */
static void cuda_ipc_over(struct moving *moving, status st, const struct move_sum *sums)
{
    struct receive *receive = moving->owner;
    struct fetch *fetch = receive->fetches;
    if (st != OK) {
        receive_end(receive, TRANSFER_FAILED, st, error_text(), true);
        return;
    }
    for (uint32_t i = 0; i < moving->count; i++) {
        struct checksum sum = {.a = sums[i].a, .b = sums[i].b};
        if (receive_wants(fetch, fetch->done) && !receive_landed(fetch, fetch->done, sum))
            return;
        fetch->done++;
    }
    if (fetch->done < fetch->count || receive_fetch_done(receive))
        carrier_cuda_ipc.fetch(receive); /* what did not match, once more */
}

static void cuda_ipc_fetch(struct receive *receive)
{
    struct peer *peer = receive->peer;
    struct transfer *transfer = receive->transfer;
    for (struct fetch *fetch = receive->fetches; fetch != NULL; fetch = fetch->next) {
        if (fetch->requested > 0)
            continue;
        for (uint32_t i = 0; i < fetch->count; i++) {
            if (fetch->holder_ids[i] < peer->map_blocks)
                continue;
            char text[OFFER_TEXT_BYTES];
            snprintf(text, sizeof(text), "\"%s\" offers block %u of a pool of %u", peer->name,
                     fetch->holder_ids[i], peer->map_blocks);
            receive_end(receive, TRANSFER_FAILED, ERR_BAD_INPUT, text, true);
            return;
        }
        fetch->requested = fetch->count;
        const struct moving_slices slices = {.kind = MOVE_FETCH,
                                             .map = peer->pool,
                                             .layer = fetch->layer,
                                             .count = fetch->count,
                                             .from_ids = fetch->holder_ids,
                                             .to_ids = receive->block_ids +
                                                       (fetch->first_index - receive->first_index),
                                             .owner = receive,
                                             .over = cuda_ipc_over};
        if (moving_add(transfer, &slices) != OK) {
            receive_end(receive, TRANSFER_FAILED, ERR_NO_MEMORY, error_text(), true);
            return;
        }
    }
}

static void cuda_ipc_forget(struct receive *receive)
{
    moving_forget(receive->transfer, receive);
}

static void cuda_ipc_peer_end(struct peer *peer)
{
    struct backend *device = peer->transfer->options.pool.device;
    mapping_forget(peer);
    if (peer->pool == NULL)
        return;
    device->moves->pool_unmap(device, peer->pool);
    atomic_fetch_sub(&peer->transfer->mapped_bytes, peer->map_bytes);
    peer->pool = NULL;
}

const struct carrier carrier_cuda_ipc = {
    .id = TRANSFER_CUDA_IPC,
    .peer_ready = cuda_ipc_peer_ready,
    .on_frame = cuda_ipc_on_frame,
    .fetch = cuda_ipc_fetch,
    .forget = cuda_ipc_forget,
    .peer_end = cuda_ipc_peer_end,
};
