/* store/store.h - the central KV store as a worker sees it: add, find and get blocks by what they
 * contain.
 *
 *     store_add   blocks that are sealed            references stay until STORE_ADDED
 *     store_find  how many leading keys are there   STORE_FOUND
 *     store_get   leading keys into own blocks      STORE_GOT: those that landed and were checked
 *
 * A get is a whole, checked block or absent; adding twice is one copy; what was added never
 * changes. What keeps the blocks is chosen by the address: `baton store` (remote.c), which moves
 * them by transfer/'s two verbs, or Redis and Redis Cluster (redis.c).
 *
 * Nothing here waits: a writer on its way to a token queues and goes on. The queue is bounded, and
 * what does not fit is refused at once and counted. Every call that was accepted is reported
 * exactly once, within its deadline, with the store there or not. A store that is lost is looked
 * for again in the background; meanwhile adds are refused and gets find nothing.
 *
 * Threads:  a thread of its own, made by store_open. Calls may come from any thread; reports go to
 *           options.reports as mail.
 * Memory:   keys and ids given are copied. Blocks of an accepted add must not change, and those of
 *           an accepted get must not be touched, until the report. A report is the taker's:
 *           store_report_free.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/status.h"
#include "kv/block_key.h"
#include "kv/layout.h"
#include "transfer/transfer.h"
#include "wire/hello.h"

#define STORE_TEXT_BYTES 256
#define STORE_BLOCKS_MAX 65536 /* of one call */

struct store;

struct store_options {
    const char *address;       /* "unix:PATH", "HOST:PORT", "redis://...": see docs/OPERATIONS.md */
    const char *password_file; /* of a Redis; read by store_open; NULL: none */
    const struct hello *hello; /* this process, HELLO_HAS_MODEL | HELLO_HAS_KV; copied */
    const struct kv_layout *layout; /* outlives the store */
    struct transfer *transfer;      /* outlives the store; its pool is where blocks lie */
    struct transfer_pool pool;      /* the same pool */
    const char *transfer_unix;      /* where a `baton store` of this host fetches what is added: */
    const char *transfer_tcp;       /* "unix:PATH" and "HOST:PORT" as told to peers, or NULL */
    const struct cluster_key *key;  /* a `baton store` must prove it; NULL: none. Outlives it */
    struct mailbox *reports;        /* outlives the store */
    uint32_t queue_blocks_max;      /* accepted adds that are not reported yet; 0: 1024 */
    uint32_t connect_ms;            /* 0: 3000 */
};

/* Start the thread; connecting goes on in the background. Errors: ERR_BAD_INPUT (an address that no
 * kind of store has; a password file and no Redis), ERR_UNSUPPORTED (rediss://, by name),
 * ERR_NO_MEMORY, those of the password file (base/secret_file.h). */
status store_open(const struct store_options *options, struct store **store_out);

/* Accepted calls are reported (ERR_CANCELLED) before this returns; nothing writes into any block
 * afterwards. */
void store_close(struct store *store);

/* Connected, and not refused by it. A hint: it may change at once. */
bool store_is_up(const struct store *store);

/* A block to keep. parent: the previous block of its chain; is_first: there is none. */
struct store_block {
    struct block_key key, parent;
    bool is_first;
    block_id id;
};

/* ticket: the caller's, comes back with the report. expiry_ms: 0: until evicted; a prompt's partial
 * block has a short one. Errors: ERR_FULL (the queue; counted), ERR_CLOSED (no store is connected;
 * counted), ERR_NO_MEMORY. */
status store_add(struct store *store, uint64_t ticket, const struct store_block *blocks,
                 uint32_t count, uint32_t expiry_ms);

/* Errors: ERR_CLOSED, ERR_FULL, ERR_NO_MEMORY. */
status store_find(struct store *store, uint64_t ticket, const struct block_key *keys,
                  uint32_t count, uint32_t deadline_ms);

/* ids: [count] own blocks; keys[i] goes to ids[i]. Errors: as store_find. */
status store_get(struct store *store, uint64_t ticket, const struct block_key *keys,
                 const block_id *ids, uint32_t count, uint32_t deadline_ms);

/* Give up a find or get; its report (ERR_CANCELLED, unless another was under way) says that nothing
 * writes there any more. */
void store_cancel(struct store *store, uint64_t ticket);

/* Give up all that was asked for and added so far; each call has its report, ERR_CANCELLED unless
 * another was under way. */
void store_give_up_all(struct store *store);

/* This process is another incarnation from now on: what it has under way is given up, and a store
 * that knows it by its incarnation is connected to anew. After transfer_renew. */
void store_renew(struct store *store, uint64_t incarnation);

/* ---- reports ---- */

enum store_report_kind {
    STORE_ADDED = 0x7500, /* mail.kind. OK: count blocks are kept (or were already) */
    STORE_FOUND,          /* OK: count leading keys are there now */
    STORE_GOT,            /* OK or not: count leading blocks landed and match their checksums */
};

struct store_report {
    struct mail mail; /* first */
    uint64_t ticket;
    status status;               /* OK, ERR_CLOSED, ERR_TIMEOUT, ERR_CORRUPT, ERR_FULL,
                                    ERR_REFUSED, ERR_IO, ERR_CANCELLED */
    char text[STORE_TEXT_BYTES]; /* "" when OK */
    uint32_t count;
    uint64_t bytes;    /* of KV moved */
    double seconds;    /* from the call to the report */
    uint64_t ended_ns; /* of clock_ns: when that was */
};

void store_report_free(struct store_report *report);

/* ---- counters; any thread ---- */

struct store_counters {
    uint64_t added_blocks, added_bytes;
    uint64_t dropped_blocks;         /* refused: the queue was full or no store was there */
    uint64_t failed_blocks;          /* accepted, and not kept */
    uint64_t found_keys, asked_keys; /* of gets and finds */
    uint64_t got_blocks, got_bytes;
    uint64_t checksum_failures;
    uint64_t connects;      /* times that a store was reached */
    uint64_t queued_blocks; /* now */
    double add_s;           /* sum over added blocks, from the call to the acknowledgement */
};

void store_count(const struct store *store, struct store_counters *counters_out);

#endif
