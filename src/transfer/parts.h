/* transfer/parts.h - what the files of transfer/ share; nobody outside includes it.
 *
 *     transfer.c   the thread, its life, deadlines, the queue of work
 *     calls.c      the calls of transfer.h, from any thread to that one
 *     carrier.c    the carriers' names
 *     peer.c       connections, both ways
 *     holder.c     leases: offers made, checksums, subscribers
 *     sums.c       the book of what slices of the pool sum up to
 *     receiver.c   receives: what is wanted, what has landed, when it is done
 *     shm.c tcp.c cuda_ipc.c rdma.c   how the bytes of a fetch get here (carrier.h)
 *     moving.c     what the device of the pool does for them (backend/moves.h)
 *     mapping.c    the thread that maps pools of other processes there
 *
 * Threads: everything here belongs to the transfer thread, but for what calls.c does before
 *          a call is posted, and what mapping.c says of a mapping.
 */
#ifndef TRANSFER_PARTS_H
#define TRANSFER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/loop.h"
#include "transfer/transfer.h"
#include "wire/link.h"

#define TABLE_BUCKETS 256
#define CALL_BLOCKS 128         /* block ids in one call; longer offers are split */
#define CALLS_KEPT 512          /* calls made at open, so that an offer does not allocate */
#define TURN_BYTES (1u << 20)   /* summed, copied or queued before the loop looks around again */
#define STEP_BYTES (256u << 10) /* of it, for one lease, receive or peer */
#define DATA_BYTES (1u << 20)   /* bulk of one DATA frame, unless one slice is larger */
#define PEER_PENDING_BYTES (4u << 20)
#define PEERS_MAX 1024   /* connections from others */
#define WAITING_MAX 1024 /* subscriptions of one peer for leases that are not open yet */
#define FETCHES_MAX 4096 /* one peer's, not yet answered */

struct carrier;

/* Something to do when the loop has nothing more urgent. run does about STEP_BYTES, answers the
 * bytes it moved and adds itself again when there is more. */
struct work {
    struct work *next, *prev;
    bool queued;
    size_t (*run)(void *owner);
    void *owner;
};

/* ---- calls from other threads ---- */

enum call_kind {
    CALL_LEASE_OPEN,
    CALL_OFFER,
    CALL_COMPLETE,
    CALL_LEASE_CLOSE,
    CALL_RECEIVE,
    CALL_CANCEL,
    CALL_MEET,
    CALL_DROP_PEER,
    CALL_RENEW,
    CALL_STOP,
};

struct call {
    struct mail mail;
    bool kept; /* goes back to the list of kept calls */
    struct lease_id lease;
    union {
        struct lease *opened;
        struct receive *received;
        uint64_t incarnation;
        struct {
            uint64_t incarnation;
            struct address local;
        } met;
        struct {
            uint32_t block_count, payload_bytes;
            uint8_t *payload;
            uint64_t at_ns; /* of the call, not of its turn here */
        } complete;
        struct {
            uint32_t layer, first_index, count;
            bool has_checksums;
            uint32_t block_ids[CALL_BLOCKS];
            struct checksum checksums[CALL_BLOCKS];
        } offer;
    } is;
};

/* ---- holder ---- */

struct offered {
    uint32_t layer, first_index, count;
    uint32_t summed; /* checksums done */
    uint32_t staged; /* of a pool in a device: copied to the host, for carriers that start there */
    uint32_t *block_ids;
    struct checksum *checksums;
};

struct lease {
    struct lease *next; /* in its bucket */
    struct transfer *transfer;
    struct lease_id id;
    uint32_t epoch;
    uint64_t expiry_ns, first_offer_ns, complete_ns;
    struct offered **offers;
    uint32_t offer_count, offer_capacity;
    uint32_t summed_count;               /* offers whose checksums are done */
    uint32_t asked_count, staging_count; /* whose sums, whose copies the device was asked for */
    struct work summing;
    bool complete;
    bool lent; /* it goes on after an acknowledgement */
    uint32_t block_count;
    uint32_t acknowledged; /* blocks, of one that was lent */
    uint8_t *payload;
    uint32_t payload_bytes;
    struct peer *peer; /* who subscribed, or NULL */
    struct lease *peer_next;
    uint32_t first_index, wanted_count; /* what it wants */
    uint32_t sent_count;                /* offers it knows */
    bool complete_sent;
    uint64_t bulk_mark; /* its link's bulk_sent must pass this before blocks may be dropped */
    uint64_t bytes;
    uint64_t drain_deadline_ns;
    struct transfer_report *report;
    struct mailbox *reports;
};

struct waiting {
    struct waiting *next;
    struct subscribe_message message;
    uint64_t deadline_ns;
};

/* A FETCH not yet answered. */
struct asked {
    struct asked *next;
    struct lease *lease;
    uint32_t number, from, count;
};

/* ---- receiver ---- */

/* One layer of one wanted block. */
struct cell {
    uint32_t offer; /* number + 1 of the newest offer of it; 0: none yet */
    bool landed;    /* and verified */
};

/* An offer, or a part of one, on its way here. */
struct fetch {
    struct fetch *next;
    struct receive *receive;
    uint32_t number, layer;
    uint32_t from;        /* place in the offer of entry 0 */
    uint32_t first_index; /* of the sequence, of entry 0 */
    uint32_t count, done, requested;
    bool retry;
    struct checksum *checksums; /* [count], in the same piece of memory */
    uint32_t *holder_ids;       /* [count] */
};

struct receive {
    struct receive *next; /* in its bucket */
    struct transfer *transfer;
    struct lease_id id;
    uint32_t epoch;
    uint64_t incarnation;
    bool has_device, has_local, has_remote; /* still to be tried; device: cuda-ipc, by local too */
    struct address local, remote;
    uint32_t first_index, block_count;
    uint32_t *block_ids;
    struct cell *cells; /* [layer][block] */
    uint64_t missing;   /* cells not landed, of those that count */
    uint64_t deadline_ns, first_offer_ns, complete_ns;
    struct peer *peer;
    const struct carrier *carrier; /* of the last peer tried */
    struct receive *peer_next;
    bool subscribed, complete;
    uint32_t next_offer;  /* smallest number that may come */
    uint32_t final_count; /* blocks that count, once complete */
    struct fetch *fetches, **fetches_tail;
    struct fetch *suspects; /* did not match, wait for complete or a later offer */
    uint64_t queued_slices;
    uint32_t moving_in;                    /* from memory of the host to the pool in a device */
    struct work landing;                   /* shm, rdma */
    struct rdma_slot *slots, **slots_tail; /* rdma: on their way, in order */
    uint64_t bytes;
    struct transfer_report *report;
    struct mailbox *reports;
};

/* ---- connections ---- */

struct peer {
    struct peer *next;
    struct transfer *transfer;
    struct link *link;
    bool outgoing, ready, usable; /* usable: subscriptions may be sent */
    const struct carrier *carrier;
    uint64_t incarnation; /* 0 until known */
    char name[HELLO_NAME_BYTES];
    struct address address;
    /* outgoing */
    struct receive *receives;
    const uint8_t *map; /* shm */
    size_t map_bytes;
    uint32_t map_blocks;
    struct pool_map *pool;   /* cuda-ipc */
    struct mapping *mapping; /* the same: under way, or NULL */
    bool unmappable;         /* the same: open, so that it is not tried again, and not used */
    struct fetch *landing;   /* tcp: whose bytes are arriving; NULL: thrown away */
    uint32_t landing_count;
    struct rdma_peer *remote; /* rdma */
    /* incoming */
    struct lease *leases;
    struct lease *draining; /* over, but bytes of theirs are still queued */
    struct waiting *waiting;
    uint32_t waiting_count;
    struct asked *asked, **asked_tail;
    uint32_t asked_count;
    struct work serving;
};

/* ---- moves of the device ---- */

/* A move, or a part of one, waiting or under way: what it is for. The parts of a move lie behind
 * each other in the list. */
struct moving {
    struct moving *next;
    struct transfer *transfer;
    bool started, is_over;
    uint32_t parts;  /* of the first part of a move that was started: how many; else 0 */
    uint32_t ticket; /* of the first part */
    status result;   /* once it is over */
    enum move_kind kind;
    const struct pool_map *map;
    void *owner; /* the lease or receive that must not go before */
    /* It is over; may end the owner. sums: [count], of entries first .. of the offer or fetch. */
    void (*over)(struct moving *moving, status st, const struct move_sum *sums);
    uint32_t number; /* of the offer */
    uint32_t first, count;
    size_t bytes;
    union {
        struct move_span of; /* until it is over */
        struct move_sum sum;
    } spans[];
};

/* A pool of another process that is being mapped. */
struct mapping {
    struct mail mail;
    struct peer *peer; /* the transfer thread's; NULL: gone meanwhile */
    uint8_t handle[POOL_HANDLE_BYTES];
    uint32_t block_count;
    uint64_t bytes;
    /* Once it is over: */
    status result;
    struct pool_map *map;
    char text[OFFER_TEXT_BYTES];
};

/* Slices of one layer, between blocks of two places. */
struct moving_slices {
    enum move_kind kind;
    const struct pool_map *map;
    uint32_t layer, count;
    const uint32_t *from_ids, *to_ids;
    void *owner;
    void (*over)(struct moving *moving, status st, const struct move_sum *sums);
    uint32_t number;
};

struct carrier_totals {
    atomic_uint_fast64_t received_bytes, received_handoffs, sent_bytes, sent_handoffs, received_ns,
        exposed_ns, checksum_failures, failed_handoffs;
};

struct transfer {
    struct transfer_options options; /* pointers inside are copies or unused */
    struct hello hello;
    struct transfer_slice *layers;
    size_t layer_bytes_max;
    struct address tcp_address;
    int pool_fd; /* read-only, for peers; -1 */
    pthread_t thread;
    struct loop *loop;
    struct mailbox *calls;
    struct loop_watch *calls_watch;
    struct link_listener *unix_listener, *tcp_listener;
    struct loop_timer *deadline_timer, *work_timer, *beat_timer, *moving_timer;
    uint64_t deadline_ns; /* what deadline_timer is set to; 0: nothing */
    struct work *work_head, *work_tail;
    struct moving *moving, **moving_tail; /* in the order in which they were asked for */
    uint32_t moves_open;                  /* the device was given and has not ended */
    struct work moving_work;
    uint64_t moved_ns;               /* when the last one was over */
    uint64_t awake_ns;               /* until then the thread does not sleep */
    struct mailbox *to_map, *mapped; /* of struct mapping; NULL: no pool in a device */
    struct loop_watch *mapped_watch;
    pthread_t mapping_thread;
    bool maps; /* that thread runs */
    struct mail stop_mapping;
    struct rdma *rdma;      /* NULL: not this carrier */
    struct slice_sum *sums; /* [block][layer]; NULL: no book is kept */
    struct peer *peers;
    uint32_t incoming_count;
    struct lease *leases[TABLE_BUCKETS];
    struct receive *receives[TABLE_BUCKETS];
    uint64_t slices_summed, slices_landed; /* for the test switches */

    pthread_mutex_t kept_lock;
    struct call *kept; /* linked by mail.next */
    struct call *kept_memory;
    struct call stop_call;

    struct carrier_totals totals[TRANSFER_CARRIERS];
    atomic_uint_fast64_t peer_count, mapped_bytes, lease_count, receive_count, refused_frames;
};

/* calls.c */
void call_give_back(struct transfer *transfer, struct call *call); /* any thread */
void transfer_on_call(void *ctx, struct mail *mail);

/* transfer.c */
void work_add(struct transfer *transfer, struct work *work);
void work_remove(struct transfer *transfer, struct work *work);
/* See to it that deadlines are looked at by then. */
void transfer_deadline(struct transfer *transfer, uint64_t when_ns);
struct carrier_totals *transfer_totals(struct transfer *transfer, enum transfer_carrier carrier);
void transfer_refused(struct transfer *transfer, const struct peer *peer, const char *text);
uint32_t table_bucket(const struct lease_id *lease);

/* sums.c */
status sums_open(struct transfer *transfer);
/* The block's, to be read before its bytes are, and given to sums_book; 0: there is no book. */
uint64_t sums_fill(const struct transfer *transfer, uint32_t id);
/* False: it is not in the book. */
bool sums_find(const struct transfer *transfer, uint32_t layer, uint32_t id,
               struct checksum *sum_out);
void sums_book(struct transfer *transfer, uint32_t layer, uint32_t id, uint64_t fill,
               struct checksum sum);
/* Read the slice, and book it. */
struct checksum sums_make(struct transfer *transfer, uint32_t layer, uint32_t id);
/* All that the lease offers. */
void sums_forget(const struct lease *lease);

/* moving.c */
status moving_open(struct transfer *transfer);
/* Ask the device for it. over is called from the loop, for each part, in order of the calls of this
 * owner and kind. Errors: ERR_NO_MEMORY. */
status moving_add(struct transfer *transfer, const struct moving_slices *slices);
/* Nothing of this owner is under way any more, and over will not be called. Waits for what the
 * device has begun. */
void moving_forget(struct transfer *transfer, const void *owner);
/* The last message of a lease comes within milliseconds: with a pool in a device the thread stays
 * awake for it (20 ms at most; lease_end and receive_end end that). A core that slept as long as a
 * layer takes needs 50 us and more to wake up, three times a handoff. */
void moving_await(struct transfer *transfer);
/* For the test switch: flip a bit of a slice in the device's pool. */
void moving_flip(struct transfer *transfer, uint32_t layer, uint32_t id);

/* mapping.c */
status mapping_open(struct transfer *transfer);
/* No peer is left: end the thread, unmap what it mapped for those that have gone. */
void mapping_stop(struct transfer *transfer);
void mapping_close(struct transfer *transfer);
/* Map the pool behind a handle for peer; cuda_ipc_mapped follows unless the peer ends before.
 * Errors: ERR_NO_MEMORY. */
status mapping_add(struct peer *peer, const uint8_t handle[POOL_HANDLE_BYTES], uint32_t block_count,
                   uint64_t bytes);
/* The peer ends: what was mapped for it is unmapped as soon as it is there. */
void mapping_forget(struct peer *peer);

/* peer.c */
struct peer *peer_find(struct transfer *transfer, const struct carrier *carrier,
                       uint64_t incarnation, const struct address *address);
status peer_connect(struct transfer *transfer, const struct carrier *carrier, uint64_t incarnation,
                    const struct address *address, struct peer **peer_out);
void peer_on_accept(void *ctx, int fd);
/* Connect, and map its pool, unless that was done; nothing where no receive waits for that. */
void peer_meet(struct transfer *transfer, uint64_t incarnation, const struct address *local);
/* Close the connection; what hangs on it ends with this status and error_text(). */
void peer_close(struct peer *peer, status cause);
void peer_beat(struct transfer *transfer);
/* Now subscriptions may be sent. */
void peer_set_usable(struct peer *peer);
/* It is of no use, and stays open so that nobody tries again: what waits for it goes elsewhere. */
void peer_set_unmappable(struct peer *peer, const char *text);

/* holder.c */
void lease_open(struct lease *lease);
void lease_offer(struct transfer *transfer, struct call *call);
void lease_complete(struct transfer *transfer, struct call *call);
struct lease *lease_find(struct transfer *transfer, const struct lease_id *id);
/* The lease is over. text may be NULL. tell: its receiver does not know yet. */
void lease_end(struct lease *lease, status cause, const char *text, bool tell);
void lease_push(struct lease *lease); /* send what the subscriber does not know yet */
void lease_free(struct lease *lease);
void lease_drained(struct peer *peer); /* report those whose bytes are all sent */
status holder_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes);
void holder_on_peer_end(struct peer *peer, const char *text);
/* Ends what is past its time; the earliest time that is still to come, or UINT64_MAX. */
uint64_t holder_check_deadlines(struct transfer *transfer, uint64_t now_ns);
void holder_stop(struct transfer *transfer);

/* receiver.c */
void receive_start(struct receive *receive);
struct receive *receive_find(struct transfer *transfer, const struct lease_id *id);
void receive_subscribe(struct receive *receive);
/* kind: enum transfer_report_kind. tell: the holder does not know yet. */
void receive_end(struct receive *receive, uint32_t kind, status cause, const char *text, bool tell);
void receive_free(struct receive *receive);
/* Bytes of entry i of a fetch are in their block and have this sum. The receive may be gone when
 * this returns false. */
bool receive_landed(struct fetch *fetch, uint32_t i, struct checksum sum);
/* Is this entry still wanted (not overtaken by a newer offer)? */
bool receive_wants(const struct fetch *fetch, uint32_t i);
/* Where entry i of a fetch belongs. */
uint8_t *receive_place(const struct fetch *fetch, uint32_t i, size_t *bytes_out);
/* The first fetch is done: forget it. The receive may be gone when this returns false. */
bool receive_fetch_done(struct receive *receive);
status receiver_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes);
/* What hangs on it goes on elsewhere if it can, or fails. */
void receiver_on_peer_end(struct peer *peer, status cause, const char *text);
uint64_t receiver_check_deadlines(struct transfer *transfer, uint64_t now_ns);
void receiver_stop(struct transfer *transfer);

#endif
