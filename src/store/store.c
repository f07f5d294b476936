#include "store/store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "store/parts.h"
#include "store/redis_url.h"

#define QUEUE_BLOCKS_MAX 1024
#define ASKING_MAX 1024 /* finds and gets under way */
#define CONNECT_MS 3000
#define ADD_DEADLINE_MS 30000u /* nobody waits for an add, and none is waited for longer */

enum { CALL_CANCEL = STORE_JOB_GET + 1, CALL_GIVE_UP, CALL_RENEW, CALL_STOP };

/* What an address begins with, and who knows how to use it. The last one takes the rest. */
static const struct {
    const char *scheme;
    const struct store_calls *calls;
} kinds[] = {
    {"redis://", &store_redis},
    {"redis-cluster://", &store_redis},
    {"", &store_remote},
};

/* ---- jobs ---- */

static void job_free(struct store_job *job)
{
    free(job->blocks);
    free(job->keys);
    free(job->ids);
    free(job->report);
    free(job);
}

static struct store_job *job_new(uint32_t kind, uint64_t ticket)
{
    struct store_job *job = calloc(1, sizeof(*job));
    struct store_report *report = calloc(1, sizeof(*report));
    if (job == NULL || report == NULL) {
        free(job);
        free(report);
        error_set(ERR_NO_MEMORY, "no memory for a call of the store");
        return NULL;
    }
    job->mail.kind = kind;
    job->ticket = ticket;
    job->called_ns = clock_ns();
    job->report = report;
    return job;
}

static void *job_copy(const void *items, uint32_t count, size_t bytes)
{
    void *copy = malloc((size_t)count * bytes);
    if (copy != NULL)
        memcpy(copy, items, (size_t)count * bytes);
    else
        error_set(ERR_NO_MEMORY, "no memory for a call of the store with %u blocks", count);
    return copy;
}

struct store_job *store_job_find(struct store *store, uint64_t number)
{
    struct store_job *job = store->jobs;
    while (job != NULL && job->number != number)
        job = job->next;
    return job;
}

static void job_count(struct store *store, const struct store_job *job, status result,
                      uint32_t count, uint64_t bytes)
{
    switch (job->mail.kind) {
    case STORE_JOB_ADD:
        atomic_fetch_sub(&store->queued_blocks, job->count);
        atomic_fetch_add(&store->added_blocks, count);
        atomic_fetch_add(&store->added_bytes, bytes);
        atomic_fetch_add(&store->failed_blocks, job->count - count);
        if (result == OK)
            atomic_fetch_add(&store->add_ns, (clock_ns() - job->called_ns) * count);
        break;
    case STORE_JOB_GET:
        atomic_fetch_add(&store->got_blocks, count);
        atomic_fetch_add(&store->got_bytes, bytes);
        /* fall through */
    case STORE_JOB_FIND:
        atomic_fetch_sub(&store->asking, 1);
        atomic_fetch_add(&store->asked_keys, job->count);
        atomic_fetch_add(&store->found_keys, count);
        break;
    }
}

void store_job_end(struct store *store, struct store_job *job, status result, const char *text,
                   uint32_t count, uint64_t bytes)
{
    struct store_report *report = job->report;
    assert(count <= job->count);
    job_count(store, job, result, count, bytes);
    report->mail.kind = job->mail.kind == STORE_JOB_ADD    ? STORE_ADDED
                        : job->mail.kind == STORE_JOB_FIND ? STORE_FOUND
                                                           : STORE_GOT;
    report->ticket = job->ticket;
    report->status = result;
    snprintf(report->text, sizeof(report->text), "%s", text != NULL && result != OK ? text : "");
    report->count = count;
    report->bytes = bytes;
    report->ended_ns = clock_ns();
    report->seconds = (double)(report->ended_ns - job->called_ns) / 1e9;
    job->report = NULL;
    if (job->prev != NULL)
        job->prev->next = job->next;
    else
        store->jobs = job->next;
    if (job->next != NULL)
        job->next->prev = job->prev;
    job_free(job);
    mailbox_post(store->options.reports, &report->mail);
    if (store->stopping && store->jobs == NULL)
        loop_stop(store->loop);
}

void store_report_free(struct store_report *report)
{
    free(report);
}

/* ---- the store's thread ---- */

static void store_give_up(struct store *store, struct store_job *job, status cause,
                          const char *text)
{
    if (job->given_up)
        return;
    job->given_up = true;
    store->calls->give_up(store->client, job, cause, text);
}

static void store_on_deadline(void *ctx)
{
    struct store *store = ctx;
    uint64_t now = clock_ns(), next_ns = UINT64_MAX;
    for (struct store_job *job = store->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (job->deadline_ns <= now)
            store_give_up(store, job, ERR_TIMEOUT, "the store did not answer in time");
        else if (job->deadline_ns < next_ns)
            next_ns = job->deadline_ns;
    }
    if (next_ns != UINT64_MAX)
        loop_timer_start(store->deadline_timer, (next_ns - now) / 1000000u + 1);
}

static void store_drop_jobs(struct store *store, const char *text)
{
    for (struct store_job *job = store->jobs, *next; job != NULL; job = next) {
        next = job->next;
        store_give_up(store, job, ERR_CANCELLED, text);
    }
}

static void store_stop(struct store *store)
{
    store->stopping = true;
    store_drop_jobs(store, "the store is being closed");
    if (store->jobs == NULL)
        loop_stop(store->loop);
}

static void store_be(struct store *store, uint64_t incarnation)
{
    store->hello.incarnation = incarnation;
    store_drop_jobs(store, "this worker is another incarnation");
    if (store->calls->renew != NULL)
        store->calls->renew(store->client);
}

static void store_cancel_ticket(struct store *store, uint64_t ticket)
{
    for (struct store_job *job = store->jobs, *next; job != NULL; job = next) {
        next = job->next;
        if (job->ticket == ticket && job->mail.kind != STORE_JOB_ADD)
            store_give_up(store, job, ERR_CANCELLED, "given up by who asked for it");
    }
}

static void store_on_job(void *ctx, struct mail *mail)
{
    struct store *store = ctx;
    struct store_job *job = (struct store_job *)mail;
    if (mail->kind >= CALL_CANCEL) {
        if (mail->kind == CALL_STOP)
            store_stop(store);
        else if (mail->kind == CALL_RENEW)
            store_be(store, job->ticket);
        else if (mail->kind == CALL_GIVE_UP)
            store_drop_jobs(store, "given up by who asked for it");
        else
            store_cancel_ticket(store, job->ticket);
        job_free(job);
        return;
    }
    job->next = store->jobs;
    if (store->jobs != NULL)
        store->jobs->prev = job;
    store->jobs = job;
    store->calls->take(store->client, job);
    store_on_deadline(store);
}

static void *store_thread(void *ctx)
{
    struct store *store = ctx;
    loop_run(store->loop);
    store->calls->close(store->client);
    return NULL;
}

/* ---- open and close ---- */

static void store_free(struct store *store)
{
    loop_watch_close(store->jobs_watch);
    loop_timer_close(store->deadline_timer);
    if (store->jobs_in != NULL) {
        for (struct mail *mail = mailbox_take_all(store->jobs_in), *next; mail != NULL;
             mail = next) {
            next = mail->next;
            job_free((struct store_job *)mail);
        }
        mailbox_close(store->jobs_in);
    }
    if (store->loop != NULL)
        loop_close(store->loop);
    free(store);
}

status store_open(const struct store_options *options, struct store **store_out)
{
    if (strlen(options->address) >= STORE_ADDRESS_BYTES)
        return error_set(ERR_BAD_INPUT, "the store's address is longer than %u characters",
                         STORE_ADDRESS_BYTES - 1);
    if (strncmp(options->address, "rediss://", 9) == 0)
        return error_set(ERR_UNSUPPORTED, "rediss:// (Redis over TLS) is not built: use redis:// "
                                          "in a network that you trust, or a TLS proxy beside "
                                          "this process");
    struct store *store = calloc(1, sizeof(*store));
    if (store == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a store");
    store->options = *options;
    store->hello = *options->hello;
    snprintf(store->address, sizeof(store->address), "%s", options->address);
    store->options.address = store->address;
    store->options.hello = &store->hello;
    if (store->options.queue_blocks_max == 0)
        store->options.queue_blocks_max = QUEUE_BLOCKS_MAX;
    if (store->options.connect_ms == 0)
        store->options.connect_ms = CONNECT_MS;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && store->calls == NULL; i++) {
        if (strncmp(options->address, kinds[i].scheme, strlen(kinds[i].scheme)) == 0)
            store->calls = kinds[i].calls;
    }
    status st = redis_url_check_file(options->address, options->password_file);
    if (st == OK)
        st = loop_open(&store->loop);
    if (st == OK)
        st = mailbox_open(&store->jobs_in);
    if (st == OK)
        st =
            loop_mailbox_open(store->loop, store->jobs_in, store_on_job, store, &store->jobs_watch);
    if (st == OK)
        st = loop_timer_open(store->loop, store_on_deadline, store, &store->deadline_timer);
    if (st == OK)
        st = store->calls->open(store, &store->client);
    if (st == OK && (st = thread_start("store", store_thread, store, &store->thread)) != OK)
        store->calls->close(store->client);
    if (st != OK) {
        store_free(store);
        return st;
    }
    *store_out = store;
    return OK;
}

void store_close(struct store *store)
{
    if (store == NULL)
        return;
    struct store_job *stop = NULL;
    while ((stop = calloc(1, sizeof(*stop))) == NULL)
        continue; /* nothing else can end the thread */
    atomic_store(&store->up, false);
    stop->mail.kind = CALL_STOP;
    mailbox_post(store->jobs_in, &stop->mail);
    pthread_join(store->thread, NULL);
    store_free(store);
}

void store_set_up(struct store *store, bool up)
{
    bool was = atomic_exchange(&store->up, up && !store->stopping);
    if (up && !was)
        atomic_fetch_add(&store->connects, 1);
}

bool store_is_up(const struct store *store)
{
    return atomic_load(&store->up);
}

/* ---- calls ---- */

static void store_post(struct store *store, struct store_job *job, uint32_t count,
                       uint32_t deadline_ms)
{
    job->number = atomic_fetch_add(&store->next_number, 1) + 1;
    job->count = count;
    job->deadline_ns = job->called_ns + (uint64_t)deadline_ms * 1000000u;
    mailbox_post(store->jobs_in, &job->mail);
}

static status store_add_refused(struct store *store, uint32_t count, status cause)
{
    atomic_fetch_add(&store->dropped_blocks, count);
    return cause;
}

status store_add(struct store *store, uint64_t ticket, const struct store_block *blocks,
                 uint32_t count, uint32_t expiry_ms)
{
    assert(count >= 1 && count <= STORE_BLOCKS_MAX);
    if (!store_is_up(store))
        return store_add_refused(store, count, error_set(ERR_CLOSED, "no store is connected"));
    if (atomic_fetch_add(&store->queued_blocks, count) + count > store->options.queue_blocks_max) {
        atomic_fetch_sub(&store->queued_blocks, count);
        return store_add_refused(store, count,
                                 error_set(ERR_FULL,
                                           "the store's queue of %u blocks has no room for %u",
                                           store->options.queue_blocks_max, count));
    }
    struct store_job *job = job_new(STORE_JOB_ADD, ticket);
    if (job != NULL)
        job->blocks = job_copy(blocks, count, sizeof(*blocks));
    if (job == NULL || job->blocks == NULL) {
        if (job != NULL)
            job_free(job);
        atomic_fetch_sub(&store->queued_blocks, count);
        return store_add_refused(store, count, ERR_NO_MEMORY);
    }
    job->expiry_ms = expiry_ms;
    store_post(store, job, count, ADD_DEADLINE_MS);
    return OK;
}

static status store_ask(struct store *store, uint32_t kind, uint64_t ticket,
                        const struct block_key *keys, const block_id *ids, uint32_t count,
                        uint32_t deadline_ms)
{
    assert(count >= 1 && count <= STORE_BLOCKS_MAX);
    if (!store_is_up(store))
        return error_set(ERR_CLOSED, "no store is connected");
    if (atomic_fetch_add(&store->asking, 1) >= ASKING_MAX) {
        atomic_fetch_sub(&store->asking, 1);
        return error_set(ERR_FULL, "%u finds and gets wait for the store already", ASKING_MAX);
    }
    struct store_job *job = job_new(kind, ticket);
    if (job != NULL)
        job->keys = job_copy(keys, count, sizeof(*keys));
    if (job != NULL && ids != NULL)
        job->ids = job_copy(ids, count, sizeof(*ids));
    if (job == NULL || job->keys == NULL || (ids != NULL && job->ids == NULL)) {
        if (job != NULL)
            job_free(job);
        atomic_fetch_sub(&store->asking, 1);
        return ERR_NO_MEMORY;
    }
    store_post(store, job, count, deadline_ms);
    return OK;
}

status store_find(struct store *store, uint64_t ticket, const struct block_key *keys,
                  uint32_t count, uint32_t deadline_ms)
{
    return store_ask(store, STORE_JOB_FIND, ticket, keys, NULL, count, deadline_ms);
}

status store_get(struct store *store, uint64_t ticket, const struct block_key *keys,
                 const block_id *ids, uint32_t count, uint32_t deadline_ms)
{
    return store_ask(store, STORE_JOB_GET, ticket, keys, ids, count, deadline_ms);
}

/* Something that the thread is told, and does not report. */
static void store_tell(struct store *store, uint32_t kind, uint64_t about)
{
    struct store_job *job = calloc(1, sizeof(*job));
    if (job == NULL) {
        log_error("call lost", "cause=\"no memory to cancel\""); /* its deadline ends it instead */
        return;
    }
    job->mail.kind = kind;
    job->ticket = about;
    mailbox_post(store->jobs_in, &job->mail);
}

void store_cancel(struct store *store, uint64_t ticket)
{
    store_tell(store, CALL_CANCEL, ticket);
}

void store_give_up_all(struct store *store)
{
    store_tell(store, CALL_GIVE_UP, 0);
}

void store_renew(struct store *store, uint64_t incarnation)
{
    store_tell(store, CALL_RENEW, incarnation);
}

/* ---- counters ---- */

void store_count_checksum_failure(struct store *store)
{
    atomic_fetch_add(&store->checksum_failures, 1);
}

void store_count(const struct store *store, struct store_counters *counters_out)
{
    *counters_out = (struct store_counters){
        .added_blocks = atomic_load(&store->added_blocks),
        .added_bytes = atomic_load(&store->added_bytes),
        .dropped_blocks = atomic_load(&store->dropped_blocks),
        .failed_blocks = atomic_load(&store->failed_blocks),
        .found_keys = atomic_load(&store->found_keys),
        .asked_keys = atomic_load(&store->asked_keys),
        .got_blocks = atomic_load(&store->got_blocks),
        .got_bytes = atomic_load(&store->got_bytes),
        .checksum_failures = atomic_load(&store->checksum_failures),
        .connects = atomic_load(&store->connects),
        .queued_blocks = atomic_load(&store->queued_blocks),
        .add_s = (double)atomic_load(&store->add_ns) / 1e9,
    };
}
