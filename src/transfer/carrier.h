/* transfer/carrier.h - how the bytes of a fetch get into the receiver's blocks.
 *
 *     carrier   peer_ready                fetch                         forget
 *     shm       wait for POOL, map it     copy in the loop's idle time  off the queue of work
 *     tcp       nothing                   ask; bytes arrive as bulk     throw away what arrives
 *     cuda-ipc  ask for the handle, map   a kernel that copies and      wait for the kernels
 *                                         sums what an offer has
 *     rdma      ask for its pool's key    ucp_get into slots, copy      slots mean nothing now
 *
 * shm, tcp and rdma land in memory of the host. When the pool is in a device, receiver.c moves on
 * what they landed, and holder.c puts there what they will fetch.
 *
 * A carrier that cannot be quiet at once lands in memory of its own (rdma). The cluster key's
 * encryption is no carrier: it sits in wire/link, under tcp.
 *
 * Threads: the transfer thread.
 */
#ifndef TRANSFER_CARRIER_H
#define TRANSFER_CARRIER_H

#include "transfer/parts.h"

struct carrier {
    enum transfer_carrier id;
    bool by_host; /* bytes leave and land in memory of the host */
    /* Our connection to a holder is open; calls peer_set_usable, now or later. */
    void (*peer_ready)(struct peer *peer);
    /* A frame that only carriers know. ERR_UNSUPPORTED: not mine. */
    status (*on_frame)(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes);
    /* A fetch was added to the end of receive->fetches: see to it, in order; tell each entry by
     * receive_landed and the fetch's end by receive_fetch_done. */
    void (*fetch)(struct receive *receive);
    /* Write nothing for this receive any more once this has returned. */
    void (*forget)(struct receive *receive);
    /* The connection is over. */
    void (*peer_end)(struct peer *peer);
};

extern const struct carrier carrier_shm;
extern const struct carrier carrier_tcp;
extern const struct carrier carrier_cuda_ipc;
extern const struct carrier carrier_rdma;

/* shm, holder's side: make the pool's descriptor fit for peers. Errors: ERR_UNSUPPORTED, ERR_IO. */
status shm_seal_pool(const struct transfer_pool *pool, int *read_only_fd_out);
/* Give it to a peer that has just connected. */
status shm_send_pool(struct peer *peer);

/* cuda-ipc, holder's side: a peer asks for the pool's handle. */
status cuda_ipc_on_ask(struct peer *peer, uint32_t bytes);

/* cuda-ipc, receiver's side: the mapping of peer's pool is over, one way or the other. */
void cuda_ipc_mapped(struct peer *peer, const struct mapping *mapping);

/* tcp, holder's side: a FETCH; answer when the link has room. */
status tcp_on_fetch(struct peer *peer, const uint8_t *payload, uint32_t bytes);
/* Drop unanswered fetches of a lease; NULL: all. */
void tcp_drop_asked(struct peer *peer, const struct lease *lease);
size_t tcp_serve(void *peer);
/* tcp, receiver's side: the link's calls for bulk. */
uint32_t tcp_on_bulk(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes,
                     uint32_t bulk_bytes, struct iovec spans[LINK_SPANS_MAX]);
void tcp_on_landed(void *ctx);

/* rdma: open UCX for transfer->rdma, before its thread runs, and let go of it, after. Errors:
 * ERR_UNSUPPORTED (no such transport here; not in this build), ERR_NO_MEMORY, ERR_IO. */
status rdma_open(struct transfer *transfer);
void rdma_close(struct transfer *transfer);
/* rdma, holder's side: tell where the pool is. */
status rdma_on_ask(struct peer *peer);

#endif
