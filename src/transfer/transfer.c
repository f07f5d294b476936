#include "transfer/transfer.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

#define CONNECT_MS 3000
#define SILENCE_MS 3000
#define BEAT_MS 250u /* the other side may take less silence for an end than we do */
#define SUBSCRIBE_MS 60000
#define WORK_BYTES_MIN 4096 /* what any piece of work counts at least */

uint32_t table_bucket(const struct lease_id *lease)
{
    return lease->bytes[0] % TABLE_BUCKETS;
}

struct carrier_totals *transfer_totals(struct transfer *transfer, enum transfer_carrier carrier)
{
    uint32_t i = 0;
    while (i + 1 < TRANSFER_CARRIERS && 1u << i != (unsigned)carrier)
        i++;
    return &transfer->totals[i];
}

void transfer_refused(struct transfer *transfer, const struct peer *peer, const char *text)
{
    atomic_fetch_add(&transfer->refused_frames, 1);
    log_debug("frame refused", "peer=\"%s\" cause=\"%s\"", peer->name, text);
}

/* ---- work ---- */

void work_add(struct transfer *transfer, struct work *work)
{
    if (work->queued)
        return;
    work->queued = true;
    work->next = NULL;
    work->prev = transfer->work_tail;
    if (transfer->work_tail != NULL)
        transfer->work_tail->next = work;
    else
        transfer->work_head = work;
    transfer->work_tail = work;
    if (work->prev == NULL)
        loop_timer_start(transfer->work_timer, 0);
}

void work_remove(struct transfer *transfer, struct work *work)
{
    if (!work->queued)
        return;
    work->queued = false;
    if (work->prev != NULL)
        work->prev->next = work->next;
    else
        transfer->work_head = work->next;
    if (work->next != NULL)
        work->next->prev = work->prev;
    else
        transfer->work_tail = work->prev;
}

static void transfer_on_work(void *ctx)
{
    struct transfer *transfer = ctx;
    size_t moved = 0;
    while (transfer->work_head != NULL && moved < TURN_BYTES) {
        struct work *work = transfer->work_head;
        work_remove(transfer, work);
        size_t bytes = work->run(work->owner);
        moved += bytes > WORK_BYTES_MIN ? bytes : WORK_BYTES_MIN;
    }
    if (transfer->work_head != NULL)
        loop_timer_start(transfer->work_timer, 0);
}

/* ---- deadlines ---- */

void transfer_deadline(struct transfer *transfer, uint64_t when_ns)
{
    if (transfer->deadline_ns != 0 && transfer->deadline_ns <= when_ns)
        return;
    transfer->deadline_ns = when_ns;
    uint64_t now = clock_ns();
    loop_timer_start(transfer->deadline_timer, when_ns > now ? (when_ns - now) / 1000000u + 1 : 0);
}

static void transfer_on_deadline(void *ctx)
{
    struct transfer *transfer = ctx;
    uint64_t now = clock_ns();
    transfer->deadline_ns = 0;
    uint64_t holder = holder_check_deadlines(transfer, now);
    uint64_t receiver = receiver_check_deadlines(transfer, now);
    uint64_t next = holder < receiver ? holder : receiver;
    if (next != UINT64_MAX)
        transfer_deadline(transfer, next);
}

static void transfer_beat_later(struct transfer *transfer)
{
    uint32_t quarter = transfer->options.silence_ms / 4 + 1;
    loop_timer_start(transfer->beat_timer, quarter < BEAT_MS ? quarter : BEAT_MS);
}

static void transfer_on_beat(void *ctx)
{
    struct transfer *transfer = ctx;
    peer_beat(transfer);
    transfer_beat_later(transfer);
}

/* ---- what is read from any thread ---- */

void transfer_report_free(struct transfer_report *report)
{
    if (report == NULL)
        return;
    free(report->payload);
    free(report->sums);
    free(report);
}

void transfer_counters_read(const struct transfer *transfer, struct transfer_counters *counters_out)
{
    counters_out->checksum_failures = 0;
    for (int i = 0; i < TRANSFER_CARRIERS; i++) {
        const struct carrier_totals *from = &transfer->totals[i];
        counters_out->carriers[i] = (struct transfer_carrier_counters){
            .received_bytes = atomic_load(&from->received_bytes),
            .received_handoffs = atomic_load(&from->received_handoffs),
            .sent_bytes = atomic_load(&from->sent_bytes),
            .sent_handoffs = atomic_load(&from->sent_handoffs),
            .received_s = (double)atomic_load(&from->received_ns) / 1e9,
            .exposed_s = (double)atomic_load(&from->exposed_ns) / 1e9,
            .checksum_failures = atomic_load(&from->checksum_failures),
            .failed_handoffs = atomic_load(&from->failed_handoffs),
        };
        counters_out->checksum_failures += counters_out->carriers[i].checksum_failures;
    }
    counters_out->peers = atomic_load(&transfer->peer_count);
    counters_out->mapped_bytes = atomic_load(&transfer->mapped_bytes);
    counters_out->leases = atomic_load(&transfer->lease_count);
    counters_out->receives = atomic_load(&transfer->receive_count);
    counters_out->refused_frames = atomic_load(&transfer->refused_frames);
}

status transfer_tcp_address(const struct transfer *transfer, struct address *address_out)
{
    if (transfer->tcp_listener == NULL)
        return error_set(ERR_NOT_FOUND, "this worker's transfer does not listen on TCP");
    *address_out = transfer->tcp_address;
    return OK;
}

/* ---- life ---- */

static void *transfer_run(void *ctx)
{
    struct transfer *transfer = ctx;
    loop_run(transfer->loop);
    mapping_stop(transfer); /* here, because one thread unmaps */
    return NULL;
}

static status transfer_copy_options(struct transfer *transfer,
                                    const struct transfer_options *options)
{
    assert(options->layer_count >= 1 && options->pool.block_count >= 1);
    transfer->options = *options;
    transfer->hello = *options->hello;
    transfer->pool_fd = -1;
    struct transfer_options *own = &transfer->options;
    own->connect_ms = own->connect_ms != 0 ? own->connect_ms : CONNECT_MS;
    own->silence_ms = own->silence_ms != 0 ? own->silence_ms : SILENCE_MS;
    own->subscribe_ms = own->subscribe_ms != 0 ? own->subscribe_ms : SUBSCRIBE_MS;
    uint32_t possible = options->pool.device != NULL ? TRANSFER_CUDA_IPC : 0;
    if (options->pool.host != NULL)
        possible |= TRANSFER_SHM | TRANSFER_TCP | TRANSFER_RDMA;
    own->carriers = (own->carriers != 0 ? own->carriers : ~(uint32_t)TRANSFER_RDMA) & possible;
    if (own->carriers == 0)
        return error_set(
            ERR_UNSUPPORTED, "carrier %s cannot move blocks of a pool %s; use --carrier auto",
            transfer_carrier_name((enum transfer_carrier)options->carriers),
            options->pool.device != NULL ? "that is in a GPU alone" : "in memory of the host");
    transfer->moving_tail = &transfer->moving;
    transfer->layers = calloc(options->layer_count, sizeof(*transfer->layers));
    transfer->kept_memory = calloc(CALLS_KEPT, sizeof(*transfer->kept_memory));
    if (transfer->layers == NULL || transfer->kept_memory == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a transfer");
    memcpy(transfer->layers, options->layers, options->layer_count * sizeof(*transfer->layers));
    for (uint32_t i = 0; i < options->layer_count; i++) {
        const struct transfer_slice *layer = &transfer->layers[i];
        assert(layer->bytes >= 1 && layer->offset <= options->pool.block_bytes &&
               layer->bytes <= options->pool.block_bytes - layer->offset);
        assert(layer->bytes <= UINT32_MAX / 2);
        if (layer->bytes > transfer->layer_bytes_max)
            transfer->layer_bytes_max = layer->bytes;
    }
    for (int i = 0; i < CALLS_KEPT; i++) {
        transfer->kept_memory[i].kept = true;
        call_give_back(transfer, &transfer->kept_memory[i]);
    }
    return sums_open(transfer);
}

static status transfer_listen(struct transfer *transfer)
{
    const struct transfer_options *options = &transfer->options;
    status st = OK;
    bool shm = (options->carriers & TRANSFER_SHM) != 0 && options->pool.fd >= 0;
    if (options->unix_listen != NULL && (shm || (options->carriers & TRANSFER_CUDA_IPC) != 0)) {
        if (shm)
            st = shm_seal_pool(&options->pool, &transfer->pool_fd);
        if (st == OK)
            st = link_listen(transfer->loop, options->unix_listen, peer_on_accept, transfer,
                             &transfer->unix_listener);
    }
    if (st == OK && options->tcp_listen != NULL && (options->carriers & TRANSFER_REMOTE) != 0) {
        st = link_listen(transfer->loop, options->tcp_listen, peer_on_accept, transfer,
                         &transfer->tcp_listener);
        if (st == OK)
            transfer->tcp_address = *link_listener_address(transfer->tcp_listener);
    }
    return st;
}

static status transfer_open_loop(struct transfer *transfer)
{
    status st = mailbox_open(&transfer->calls);
    if (st == OK)
        st = loop_open(&transfer->loop);
    if (st == OK)
        st = loop_mailbox_open(transfer->loop, transfer->calls, transfer_on_call, transfer,
                               &transfer->calls_watch);
    if (st == OK)
        st = loop_timer_open(transfer->loop, transfer_on_work, transfer, &transfer->work_timer);
    if (st == OK)
        st = loop_timer_open(transfer->loop, transfer_on_deadline, transfer,
                             &transfer->deadline_timer);
    if (st == OK)
        st = loop_timer_open(transfer->loop, transfer_on_beat, transfer, &transfer->beat_timer);
    if (st == OK)
        st = moving_open(transfer);
    if (st == OK)
        st = mapping_open(transfer);
    return st;
}

static void transfer_free(struct transfer *transfer)
{
    mapping_close(transfer);
    rdma_close(transfer);
    link_listener_close(transfer->unix_listener);
    link_listener_close(transfer->tcp_listener);
    loop_timer_close(transfer->work_timer);
    loop_timer_close(transfer->deadline_timer);
    loop_timer_close(transfer->beat_timer);
    loop_timer_close(transfer->moving_timer);
    loop_watch_close(transfer->calls_watch);
    loop_close(transfer->loop);
    mailbox_close(transfer->calls);
    if (transfer->pool_fd >= 0)
        close(transfer->pool_fd);
    pthread_mutex_destroy(&transfer->kept_lock);
    free(transfer->kept_memory);
    free(transfer->sums);
    free(transfer->layers);
    free(transfer);
}

status transfer_open(const struct transfer_options *options, struct transfer **transfer_out)
{
    struct transfer *transfer = calloc(1, sizeof(*transfer));
    if (transfer == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a transfer");
    pthread_mutex_init(&transfer->kept_lock, NULL);
    status st = transfer_copy_options(transfer, options);
    if (st == OK)
        st = transfer_open_loop(transfer);
    if (st == OK && (transfer->options.carriers & TRANSFER_RDMA) != 0)
        st = rdma_open(transfer);
    if (st == OK)
        st = transfer_listen(transfer);
    if (st == OK) {
        transfer_beat_later(transfer);
        st = thread_start("transfer", transfer_run, transfer, &transfer->thread);
    }
    if (st != OK) {
        transfer_free(transfer);
        return st;
    }
    *transfer_out = transfer;
    return OK;
}

void transfer_close(struct transfer *transfer)
{
    if (transfer == NULL)
        return;
    transfer->stop_call.kept = true; /* so that stopping needs no memory; nobody takes it again */
    transfer->stop_call.mail.kind = CALL_STOP;
    mailbox_post(transfer->calls, &transfer->stop_call.mail);
    pthread_join(transfer->thread, NULL);
    transfer_free(transfer);
}
