/* transfer/transfer.h - offer and fetch: the only place that moves KV between processes.
 *
 *     holder (has the blocks)                        receiver (will have them)
 *     transfer_lease_open(lease)                     transfer_receive(lease, holder, own blocks)
 *     transfer_offer(lease, layer, blocks)    ---->    fetches each offer into its own blocks,
 *       ... for each layer of each chunk                verifies every slice's checksum
 *     transfer_complete(lease, payload)       ---->    all there:
 *     report HOLDER_DONE: drop the blocks     <----  report RECEIVED(payload): use the blocks
 *
 * The receiver lands every byte: nobody writes into another's memory. A holder keeps what it
 * offered until HOLDER_DONE. A receiver's blocks are written to until its report, and never after
 * it. A lease knows nothing of who asked for the movement: handoff, pull and store use the same
 * calls. The two sides may begin in either order: a receiver may subscribe before the lease is
 * open, or after offers were made, or completed (they are sent again from the start).
 *
 * Carriers: shm (same host: the pool's read-only descriptor, mapped once per incarnation; a fetch
 * is a copy by the receiver), tcp (a fetch is a request, answered with bytes straight from the
 * holder's pool into the receiver's block), cuda-ipc (two GPU pools of one host: the holder's
 * mapped once, a fetch is a kernel of the receiver's) and, where it is asked for, rdma (UCX;
 * control messages go over a tcp connection). A GPU's pool reaches all but cuda-ipc by way of
 * memory of the host, and the other way round.
 *
 * Threads: one transfer thread per worker, made by transfer_open, does all the work; with a pool in
 *          a device another one maps others' pools. Every call may be made from any thread, for one
 *          lease from one at a time (the compute thread); none waits for a peer. Reports come as
 *          mail to options.reports.
 * Memory:  ids and payloads given are copied. A report is the taker's: transfer_report_free.
 */
#ifndef TRANSFER_TRANSFER_H
#define TRANSFER_TRANSFER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/address.h"
#include "base/mailbox.h"
#include "base/status.h"
#include "wire/auth.h"
#include "wire/checksum.h"
#include "wire/hello.h"
#include "wire/offer.h"

#define TRANSFER_PAYLOAD_BYTES_MAX 65536
#define TRANSFER_TEXT_BYTES 256

struct transfer;

enum transfer_carrier {
    TRANSFER_SHM = 1,
    TRANSFER_TCP = 2,
    TRANSFER_CUDA_IPC = 4,
    TRANSFER_RDMA = 8,
};
#define TRANSFER_CARRIERS 4
#define TRANSFER_LOCAL (TRANSFER_SHM | TRANSFER_CUDA_IPC) /* begin at a Unix socket */
#define TRANSFER_REMOTE (TRANSFER_TCP | TRANSFER_RDMA)    /* begin at a TCP port */
#define TRANSFER_RDMA_TRANSPORTS "rc,dc,ud"               /* of UCX: what checks keys */

const char *transfer_carrier_name(enum transfer_carrier carrier); /* "shm" */

/* What an operator wrote, as enum transfer_carrier or-ed: "auto" is all that need not be asked for,
 * the others are themselves. 0: no such word. */
uint32_t transfer_carriers_parse(const char *text);

/* The worker's pool: block i is at host + i * block_bytes. fd is the memfd behind host, made with
 * MFD_ALLOW_SEALING (it gets sealed against shrinking, so that no peer can fault); -1: no shm.
 * Of a pool in a device's memory, host is where shm and tcp put blocks down on their way; NULL:
 * they are not used. */
struct transfer_pool {
    struct backend *device; /* has moves, and outlives the transfer; NULL: host is the pool */
    uint8_t *host;
    int fd;
    uint32_t block_count;
    size_t block_bytes;
    /* [block_count] of kv/block_pool.h, outlives the transfer: a slice whose sum is known is not
     * summed again while its block's fill is the same. NULL: every offer is summed. Of a pool in a
     * device they are not used. */
    const atomic_uint_fast64_t *fills;
};

/* One layer's part of a block, contiguous. */
struct transfer_slice {
    size_t offset, bytes;
};

struct transfer_options {
    const struct hello *hello;         /* this process, HELLO_HAS_MODEL | HELLO_HAS_KV; copied */
    const struct cluster_key *key;     /* peers must prove it; NULL: none. Outlives the transfer */
    const struct address *unix_listen; /* for peers of this host; NULL: none */
    const struct address *tcp_listen;  /* for peers of other hosts; NULL: none; port 0: any */
    struct transfer_pool pool;
    const struct transfer_slice *layers; /* [layer_count]; copied */
    uint32_t layer_count;
    uint32_t carriers; /* enum transfer_carrier or-ed: those allowed; 0: shm and tcp. With rdma
                          other hosts are reached by it alone */
    const char *rdma_transports; /* of UCX, to test: TRANSPORTS[@DEVICE]; they check no keys, so the
                                    device is lo if none is named. NULL: TRANSFER_RDMA_TRANSPORTS */
    struct mailbox *reports;     /* lives longer than the transfer */
    /* 0: the default. */
    uint32_t connect_ms;   /* connection and handshake; 3000 */
    uint32_t silence_ms;   /* nothing heard from a connected peer: it is gone; 3000 */
    uint32_t subscribe_ms; /* the longest wait of a subscription for its lease; 60000 */
    /* Test switches. */
    uint32_t test_flip_offered; /* flip a bit in the nth slice offered, after its checksum */
    uint32_t test_spoil_landed; /* take the nth slice landed for damaged, once */
    uint32_t test_slow_us;      /* sleep so long before each slice is landed */
};

/* Start the thread and listen. Errors: ERR_IO (address in use), ERR_NO_MEMORY, ERR_UNSUPPORTED (the
 * pool's memfd cannot be sealed; no RDMA here). */
status transfer_open(const struct transfer_options *options, struct transfer **transfer_out);

/* Stop. Nothing writes into any block afterwards. Leases and receives that are not over end here
 * and are reported (ERR_CANCELLED) before this returns; take the mail afterwards. */
void transfer_close(struct transfer *transfer);

/* Where the tcp listener is bound. Errors: ERR_NOT_FOUND (there is none). */
status transfer_tcp_address(const struct transfer *transfer, struct address *address_out);

/* ---- holder ---- */

/* From now on lease may be subscribed to by whoever knows it, under this epoch only. It ends by
 * acknowledgement, expiry_ms from now, transfer_lease_close, or the loss of its receiver; each
 * opened lease is reported exactly once (HOLDER_DONE). Errors: ERR_NO_MEMORY. */
status transfer_lease_open(struct transfer *transfer, const struct lease_id *lease,
                           uint64_t request_id, uint32_t epoch, uint32_t expiry_ms);

/* The same, and to acknowledge does not end it: it may be received again, one receiver at a time,
 * until it expires or is closed. HOLDER_DONE is OK then if anything was acknowledged. */
status transfer_lease_lend(struct transfer *transfer, const struct lease_id *lease,
                           uint64_t request_id, uint32_t epoch, uint32_t expiry_ms);

/* The same for another user of this transfer than its owner: HOLDER_DONE goes to reports, which
 * outlives the lease. */
status transfer_lease_open_to(struct transfer *transfer, const struct lease_id *lease,
                              uint64_t request_id, uint32_t epoch, uint32_t expiry_ms,
                              struct mailbox *reports);

/* This layer of the sequence's blocks first_index .. first_index + count is computed and lies in
 * block_ids; it will not change before HOLDER_DONE, unless it is offered again afterwards (a block
 * that was partly filled, and has another fill then; the later offer wins; better to offer a block
 * when it is full). Cheap: no allocation in the usual case, no system call but a mailbox's wake;
 * callable from layer_ready, on any thread. A lease that is over is ignored. checksums: [count]
 * when they are known, else NULL: the transfer's thread sees to them. */
void transfer_offer(struct transfer *transfer, const struct lease_id *lease, uint32_t layer,
                    uint32_t first_index, const uint32_t *block_ids, uint32_t count,
                    const struct checksum *checksums);

/* The checksum of a slice of the host's pool, whose block the caller was given and nobody writes:
 * looked up, or made (reads all of it) and kept. For who offers and has a thread for it. */
struct checksum transfer_sum(struct transfer *transfer, uint32_t layer, uint32_t id);

/* Everything has been offered: block_count blocks in all, index 0 .. block_count. payload (at most
 * TRANSFER_PAYLOAD_BYTES_MAX) reaches the receiver with its report. Errors: ERR_NO_MEMORY. */
status transfer_complete(struct transfer *transfer, const struct lease_id *lease,
                         uint32_t block_count, const void *payload, uint32_t payload_bytes);

/* Revoke; HOLDER_DONE follows (unless it was already under way). */
void transfer_lease_close(struct transfer *transfer, const struct lease_id *lease);

/* ---- receiver ---- */

struct transfer_source {
    uint64_t incarnation;         /* of the holder: any other is refused. 0: whoever is there */
    const struct address *local;  /* its Unix socket, NULL when unknown; tried first */
    const struct address *remote; /* its TCP address, NULL when unknown */
};

struct transfer_wish {
    struct lease_id lease;
    uint64_t request_id;
    uint32_t epoch;
    struct transfer_source source;
    uint32_t first_index;      /* first block of the sequence that is wanted */
    const uint32_t *block_ids; /* [block_count] own; nobody else writes them until the report */
    uint32_t block_count;      /* at most this many are fetched; fewer if the holder has fewer */
    uint32_t deadline_ms;      /* from now to the report */
    bool keeps_sums;           /* the report is to say what landed (sums) */
    struct mailbox *reports;   /* where the report goes; NULL: options.reports */
};

/* Exactly one report follows: RECEIVED, FAILED or CANCELLED. A lease may be received once at a
 * time. Errors: ERR_NO_MEMORY, ERR_BAD_INPUT (no address that an allowed carrier could use). */
status transfer_receive(struct transfer *transfer, const struct transfer_wish *wish);

/* Give up; the report (CANCELLED, unless another was under way) says that nothing writes there. */
void transfer_receive_cancel(struct transfer *transfer, const struct lease_id *lease);

/* That incarnation is on this host, and its blocks may be wanted: where a pool must be mapped first
 * (cuda-ipc), that is done now, in the background, and not when a receive waits for it. A hint:
 * what does not succeed is tried again by the first receive. */
void transfer_meet(struct transfer *transfer, uint64_t incarnation, const struct address *local);

/* Close every connection with that incarnation and unmap its pool: it was declared dead elsewhere.
 * Its receives fail with ERR_CLOSED, its leases end as if the receiver were gone. */
void transfer_drop_peer(struct transfer *transfer, uint64_t incarnation);

/* This process may have been declared dead: from now on it is that incarnation to all whom it
 * meets, and every connection of the old one is closed, with what is still under way there. */
void transfer_renew(struct transfer *transfer, uint64_t incarnation);

/* ---- reports ---- */

enum transfer_report_kind {
    TRANSFER_HOLDER_DONE = 0x7400, /* mail.kind; status: OK acknowledged, ERR_CLOSED receiver gone
                                      or gave up, ERR_CORRUPT what it fetched does not match, twice,
                                      ERR_TIMEOUT expired, ERR_CANCELLED revoked, ERR_REFUSED the
                                      lease was open already */
    TRANSFER_RECEIVED,             /* status OK: all wanted blocks landed and verified */
    TRANSFER_FAILED,               /* ERR_CLOSED, ERR_TIMEOUT, ERR_CORRUPT, ERR_REFUSED,
                                      ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT; text says why */
    TRANSFER_CANCELLED,
};

struct transfer_report {
    struct mail mail; /* first; kind as above */
    struct lease_id lease;
    uint64_t request_id;
    uint32_t epoch;
    status status;
    char text[TRANSFER_TEXT_BYTES]; /* "" when OK */
    uint32_t block_count;           /* RECEIVED: blocks that landed, from first_index; HOLDER_DONE:
                                       all that were offered, of what was lent the fetched ones */
    uint8_t *payload;               /* RECEIVED: the holder's, or NULL */
    uint32_t payload_bytes;
    struct checksum *sums; /* [layer][block of the wish] RECEIVED, of the bytes that landed, each
                              equal to the holder's; NULL unless the wish keeps them */
    uint64_t bytes;        /* of KV moved */
    double seconds;        /* first offer to the end */
    double exposed_s;      /* complete to the end: what the overlap did not hide */
    uint64_t ended_ns;     /* of clock_ns: when this was known; it may be read much later */
    enum transfer_carrier carrier; /* 0 when none was reached */
};

void transfer_report_free(struct transfer_report *report);

/* ---- counters ---- */

struct transfer_carrier_counters {
    uint64_t received_bytes, received_handoffs, sent_bytes, sent_handoffs; /* sent: acknowledged */
    double received_s, exposed_s; /* sums over received handoffs */
    uint64_t checksum_failures;   /* slices and ends that did not match what their holder said */
    uint64_t failed_handoffs;     /* received side: FAILED; CANCELLED is not one */
};

struct transfer_counters {
    struct transfer_carrier_counters carriers[TRANSFER_CARRIERS]; /* shm, tcp, cuda-ipc, rdma */
    uint64_t peers;                                               /* connected now */
    uint64_t mapped_bytes;                                        /* of peers' pools now */
    uint64_t leases;                                              /* open now */
    uint64_t receives;                                            /* under way now */
    uint64_t refused_frames;    /* from peers: malformed, unknown lease, stale epoch */
    uint64_t checksum_failures; /* of all carriers */
};

/* Any thread. */
void transfer_counters_read(const struct transfer *transfer,
                            struct transfer_counters *counters_out);

#endif
