/* store/parts.h - what a kind of store is made of; nobody outside store/ includes it.
 *
 *     store.c    the calls of store.h, the thread and its loop, the bounded queue, deadlines,
 *                reports and counters: the same for every kind
 *     remote.c   `baton store`: add and get by transfer/'s two verbs
 *     redis.c    Redis and Redis Cluster
 *
 *     any thread                     store's thread
 *     store_add --- job as mail ---> calls.take(client, job) ... store_job_end(job)  --> report
 *                                    calls.give_up(client, job)  (deadline, cancel, close)
 *     store_renew ----------------->   calls.renew(client)
 *
 * A kind is a table of calls. open runs on the thread of store_open, before the loop runs; all
 * others run on the store's thread and must never block. A job that was taken is ended exactly
 * once, by store_job_end; only then may anything forget that its blocks are in use.
 *
 * Threads: the store's, but for what store.c says of calls.
 */
#ifndef STORE_PARTS_H
#define STORE_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/loop.h"
#include "store/store.h"

#define STORE_ADDRESS_BYTES 1024

enum store_job_kind { STORE_JOB_ADD = 1, STORE_JOB_FIND, STORE_JOB_GET };

struct store_job {
    struct mail mail; /* first; kind: enum store_job_kind */
    struct store_job *next, *prev;
    uint64_t number; /* of this store, never used twice */
    uint64_t ticket, called_ns, deadline_ns;
    uint32_t count;
    uint32_t expiry_ms;         /* ADD */
    struct store_block *blocks; /* ADD: [count] */
    struct block_key *keys;     /* FIND, GET: [count] */
    block_id *ids;              /* GET: [count] */
    bool given_up;              /* give_up was called; it will end soon */
    struct store_report *report;
    void *own; /* the kind's; freed by it before store_job_end */
};

struct store_calls {
    /* Check the address and prepare; connecting begins here or in the first turn of the loop, and
     * goes on in the background for as long as the store is open. Errors: as store_open. */
    status (*open)(struct store *store, void **client_out);
    /* No job is left. */
    void (*close)(void *client);
    /* A job is the kind's now. The store may be down by now: then end it with ERR_CLOSED. */
    void (*take)(void *client, struct store_job *job);
    /* See to it that nothing writes into its blocks any more, and end it with cause and text, now
     * or as soon as that is so. Called once for a job at most. */
    void (*give_up)(void *client, struct store_job *job, status cause, const char *text);
    /* store->hello is another incarnation's; no job is wanted any more. NULL: nobody is told who
     * this is. */
    void (*renew)(void *client);
};

extern const struct store_calls store_remote, store_redis;

struct store {
    const struct store_calls *calls;
    void *client;
    struct store_options options; /* address and hello point into the fields below */
    char address[STORE_ADDRESS_BYTES];
    struct hello hello;
    struct loop *loop;
    struct mailbox *jobs_in;
    struct loop_watch *jobs_watch;
    struct loop_timer *deadline_timer;
    pthread_t thread;
    struct store_job *jobs; /* taken, and not ended */
    bool stopping;
    atomic_bool up;
    atomic_uint_fast64_t next_number;
    atomic_uint_fast64_t queued_blocks, asking; /* of adds; finds and gets under way */
    atomic_uint_fast64_t added_blocks, added_bytes, dropped_blocks, failed_blocks, found_keys,
        asked_keys, got_blocks, got_bytes, checksum_failures, connects, add_ns;
};

/* The store was reached (counted), or lost: a hint for callers, who are refused while it is down.
 * Jobs that it had are the kind's to end. */
void store_set_up(struct store *store, bool up);

/* A job that is not ended, by its number; NULL: none. */
struct store_job *store_job_find(struct store *store, uint64_t number);

/* Report a job and free it. count: blocks or keys as store.h says of each report; bytes: of KV that
 * moved. text: "" or NULL when OK; may be error_text(). */
void store_job_end(struct store *store, struct store_job *job, status result, const char *text,
                   uint32_t count, uint64_t bytes);

/* A block came that does not match its checksum. */
void store_count_checksum_failure(struct store *store);

#endif
