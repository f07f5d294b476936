/* tests/unit/transfer/worker_sample.h - a worker reduced to what transfer/ needs: a pool, a mailbox
 * and sequences of random blocks, shared by the tests of transfer/. */
#ifndef WORKER_SAMPLE_H
#define WORKER_SAMPLE_H

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/transfer.h"

#define LAYERS_MAX 8
#define POISON 0xdb

static _Thread_local uint64_t random_state = 88172645463325252u;

static inline uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static inline uint32_t random_below(uint32_t limit)
{
    return (uint32_t)(random_u64() % limit);
}

/* ---- a worker: pool, transfer, mailbox ---- */

struct shape {
    uint32_t layer_count, block_count;
    struct transfer_slice layers[LAYERS_MAX];
    size_t block_bytes;
};

struct worker {
    struct shape shape;
    struct transfer_pool pool;
    atomic_uint_fast64_t *fills;
    struct mailbox *reports;
    struct transfer *transfer;
    struct hello hello;
    struct address unix_address, tcp_address;
    struct transfer_report *kept; /* taken, not yet asked for */
};

static char folder[64];
static bool sample_rdma; /* what a test calls tcp is rdma, over a transport that needs no device */
static const struct cluster_key *sample_key; /* of the workers that start next; NULL: none */

/* A folder for the sockets of a test program, and how loud its log is. */
static inline int folder_make(enum log_level level)
{
    log_open("test", level);
    snprintf(folder, sizeof(folder), "/tmp/baton-test-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static inline int folder_remove(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

/* Layers of odd sizes with holes between them, as other layouts may have. */
static inline struct shape shape_random(uint32_t block_count, uint32_t bytes_max)
{
    struct shape shape = {.layer_count = 1 + random_below(LAYERS_MAX), .block_count = block_count};
    for (uint32_t i = 0; i < shape.layer_count; i++) {
        shape.block_bytes += random_below(3) * 8;
        shape.layers[i].offset = shape.block_bytes;
        shape.layers[i].bytes = 1 + random_below(bytes_max);
        shape.block_bytes += shape.layers[i].bytes;
    }
    return shape;
}

static inline struct shape shape_even(uint32_t layers, uint32_t block_count, size_t layer_bytes)
{
    struct shape shape = {
        .layer_count = layers, .block_count = block_count, .block_bytes = layers * layer_bytes};
    for (uint32_t i = 0; i < layers; i++)
        shape.layers[i] = (struct transfer_slice){.offset = i * layer_bytes, .bytes = layer_bytes};
    return shape;
}

static inline struct hello hello_sample(const char *name)
{
    struct hello hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                          .kv_dtype = DTYPE_F16,
                          .block_tokens = 16,
                          .ranks = 1,
                          .role = HELLO_PREFILL,
                          .incarnation = hello_incarnation_random()};
    snprintf(hello.name, sizeof(hello.name), "%s", name);
    strcpy(hello.numerics_class, "cpu-int8");
    return hello;
}

static inline void worker_prepare(struct worker *worker, const char *name,
                                  const struct shape *shape)
{
    static unsigned made; /* a test that failed has left its listeners */
    char text[ADDRESS_TEXT_BYTES];
    memset(worker, 0, sizeof(*worker));
    worker->shape = *shape;
    worker->hello = hello_sample(name);
    snprintf(text, sizeof(text), "unix:%s/%s-%u", folder, name, made++);
    assert_int_equal(address_parse(text, 0, &worker->unix_address), OK);
    size_t bytes = shape->block_bytes * shape->block_count;
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    worker->fills = calloc(shape->block_count, sizeof(*worker->fills));
    worker->pool =
        (struct transfer_pool){.host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
                               .fd = fd,
                               .block_count = shape->block_count,
                               .block_bytes = shape->block_bytes,
                               .fills = worker->fills};
    assert_true(worker->pool.host != MAP_FAILED && worker->fills != NULL);
    for (uint32_t i = 0; i < shape->block_count; i++)
        worker->fills[i] = 1;
    memset(worker->pool.host, POISON, bytes);
    assert_int_equal(mailbox_open(&worker->reports), OK);
}

static inline void worker_start(struct worker *worker, struct transfer_options options)
{
    struct address any;
    assert_int_equal(address_parse("127.0.0.1:0", 0, &any), OK);
    options.hello = &worker->hello;
    options.key = options.key != NULL ? options.key : sample_key;
    if (sample_rdma && options.carriers == 0) {
        options.carriers = TRANSFER_SHM | TRANSFER_RDMA;
        options.rdma_transports = "tcp";
    }
    options.unix_listen = &worker->unix_address;
    options.tcp_listen = &any;
    options.pool = worker->pool;
    options.layers = worker->shape.layers;
    options.layer_count = worker->shape.layer_count;
    options.reports = worker->reports;
    status st = transfer_open(&options, &worker->transfer);
    if (st != OK)
        fail_msg("transfer_open: %s", error_text());
    if (options.carriers == 0 || (options.carriers & TRANSFER_REMOTE) != 0)
        assert_int_equal(transfer_tcp_address(worker->transfer, &worker->tcp_address), OK);
}

static inline void worker_open(struct worker *worker, const char *name, const struct shape *shape)
{
    worker_prepare(worker, name, shape);
    worker_start(worker, (struct transfer_options){0});
}

static inline void worker_close_pool(struct worker *worker, bool owned)
{
    for (struct mail *mail = mailbox_take_all(worker->reports), *next; mail != NULL; mail = next) {
        next = mail->next;
        transfer_report_free((struct transfer_report *)mail);
    }
    assert_null(worker->kept);
    mailbox_close(worker->reports);
    free(worker->fills);
    if (!owned)
        return;
    munmap(worker->pool.host, worker->pool.block_bytes * worker->pool.block_count);
    close(worker->pool.fd);
}

static inline void worker_close(struct worker *worker)
{
    transfer_close(worker->transfer);
    worker_close_pool(worker, true);
}

/* The next report, or NULL after timeout_ms. */
static inline struct transfer_report *worker_report(struct worker *worker, int timeout_ms)
{
    if (worker->kept == NULL && mailbox_wait(worker->reports, timeout_ms))
        worker->kept = (struct transfer_report *)mailbox_take_all(worker->reports);
    struct transfer_report *report = worker->kept;
    if (report != NULL)
        worker->kept = (struct transfer_report *)report->mail.next;
    return report;
}

static inline struct transfer_report *worker_expect(struct worker *worker, uint32_t kind,
                                                    status expected)
{
    struct transfer_report *report = worker_report(worker, 10000);
    if (report == NULL)
        fail_msg("no report within 10 s");
    if (report->mail.kind != kind || report->status != expected)
        fail_msg("expected report %x %s, found %x %s: %s", kind, status_name(expected),
                 report->mail.kind, status_name(report->status), report->text);
    return report;
}

static inline void worker_expect_free(struct worker *worker, uint32_t kind, status expected)
{
    transfer_report_free(worker_expect(worker, kind, expected));
}

/* Until a peer is connected (and, of a holder over shm, its pool mapped). */
static inline void worker_wait_peer(const struct worker *worker, bool mapped)
{
    struct transfer_counters counters;
    for (int i = 0; i < 5000; i++) {
        transfer_counters_read(worker->transfer, &counters);
        if (counters.peers > 0 && (!mapped || counters.mapped_bytes > 0))
            return;
        usleep(1000);
    }
    fail_msg("no peer within 5 s");
}

/* ---- a sequence: which blocks hold it on a side ---- */

static inline void blocks_pick(uint32_t *ids, uint32_t count, uint32_t block_count)
{
    uint32_t *all = malloc(block_count * sizeof(*all));
    for (uint32_t i = 0; i < block_count; i++)
        all[i] = i;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t swap = i + random_below(block_count - i);
        uint32_t id = all[swap];
        all[swap] = all[i];
        all[i] = id;
        ids[i] = id;
    }
    free(all);
}

static inline uint8_t *block_at(const struct worker *worker, uint32_t id)
{
    return worker->pool.host + (size_t)id * worker->pool.block_bytes;
}

static inline void blocks_fill(struct worker *worker, const uint32_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = block_at(worker, ids[i]);
        for (size_t b = 0; b < worker->pool.block_bytes; b++)
            at[b] = (uint8_t)(random_u64() >> 30);
        atomic_fetch_add(&worker->fills[ids[i]], 1); /* last: some are on offer meanwhile */
    }
}

/* Every byte of every layer, and poison between and around them. */
static inline void blocks_compare(const struct worker *from, const uint32_t *from_ids,
                                  const struct worker *to, const uint32_t *to_ids, uint32_t first,
                                  uint32_t count)
{
    size_t bytes = to->pool.block_bytes;
    uint8_t *expected = malloc(bytes);
    for (uint32_t i = 0; i < count; i++) {
        memset(expected, POISON, bytes);
        for (uint32_t l = 0; l < to->shape.layer_count; l++) {
            const struct transfer_slice *layer = &to->shape.layers[l];
            memcpy(expected + layer->offset, block_at(from, from_ids[first + i]) + layer->offset,
                   layer->bytes);
        }
        assert_memory_equal(block_at(to, to_ids[i]), expected, bytes);
    }
    free(expected);
}

static inline void blocks_are_poison(const struct worker *worker, const uint32_t *except,
                                     uint32_t count)
{
    for (uint32_t id = 0; id < worker->pool.block_count; id++) {
        bool skip = false;
        for (uint32_t i = 0; i < count; i++)
            skip = skip || except[i] == id;
        for (size_t b = 0; !skip && b < worker->pool.block_bytes; b++) {
            if (block_at(worker, id)[b] != POISON)
                fail_msg("byte %zu of block %u was written", b, id);
        }
    }
}

/* Flip a bit of a slice, as memory may: nobody is told. */
static inline void slice_flip(struct worker *worker, uint32_t layer, uint32_t id)
{
    const struct transfer_slice *slice = &worker->shape.layers[layer];
    uint32_t bit = random_below((uint32_t)slice->bytes * 8);
    block_at(worker, id)[slice->offset + bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* Chunk by chunk, layer by layer, as a prefill does. */
static inline void offer_all(struct worker *holder, const struct lease_id *lease,
                             const uint32_t *ids, uint32_t count)
{
    for (uint32_t at = 0; at < count;) {
        uint32_t chunk = 1 + random_below(count - at);
        for (uint32_t layer = 0; layer < holder->shape.layer_count; layer++)
            transfer_offer(holder->transfer, lease, layer, at, ids + at, chunk, NULL);
        at += chunk;
    }
}

static inline struct transfer_wish wish_of(const struct worker *holder,
                                           const struct lease_id *lease,
                                           enum transfer_carrier carrier, const uint32_t *ids,
                                           uint32_t count)
{
    return (struct transfer_wish){
        .lease = *lease,
        .request_id = 7,
        .epoch = 3,
        .block_ids = ids,
        .block_count = count,
        .deadline_ms = 8000,
        .source = {.incarnation = holder->hello.incarnation,
                   .local = carrier == TRANSFER_SHM ? &holder->unix_address : NULL,
                   .remote = carrier == TRANSFER_TCP ? &holder->tcp_address : NULL}};
}

/* What a fetch from there goes by, and its place among the counters. */
static inline enum transfer_carrier carrier_taken(enum transfer_carrier carrier)
{
    return carrier == TRANSFER_TCP && sample_rdma ? TRANSFER_RDMA : carrier;
}

static inline int carrier_index(enum transfer_carrier carrier)
{
    return carrier == TRANSFER_SHM ? 0 : sample_rdma ? 3 : 1;
}

/* With nothing but rdma; transports: NULL for those that check keys. */
static inline status worker_open_rdma(struct worker *worker, const char *transports)
{
    struct shape shape = shape_even(1, 1, 64);
    struct address any;
    worker_prepare(worker, "rdma", &shape);
    assert_int_equal(address_parse("127.0.0.1:0", 0, &any), OK);
    struct transfer_options options = {.hello = &worker->hello,
                                       .tcp_listen = &any,
                                       .pool = worker->pool,
                                       .layers = shape.layers,
                                       .layer_count = 1,
                                       .carriers = TRANSFER_RDMA,
                                       .rdma_transports = transports,
                                       .reports = worker->reports};
    return transfer_open(&options, &worker->transfer);
}

/* False, and why is said: this build or this machine has no UCX. */
static inline bool sample_has_rdma(void)
{
    struct worker worker;
    bool has = worker_open_rdma(&worker, "tcp") == OK;
    if (!has)
        printf("no carrier rdma here: %s\n", error_text());
    worker_close(&worker);
    return has;
}

/* ---- everything arrives ---- */

static inline void one_handoff(struct worker *holder, struct worker *receiver,
                               enum transfer_carrier carrier, int order)
{
    uint32_t block_count = holder->pool.block_count;
    uint32_t count = 1 + random_below(block_count);
    uint32_t first = random_below(3) == 0 ? random_below(count) : 0;
    uint32_t wanted = count - first;
    uint32_t room = wanted + random_below(block_count - wanted + 1);
    uint32_t from_ids[256], to_ids[256];
    struct lease_id lease;
    char payload[100];
    memset(receiver->pool.host, POISON, receiver->pool.block_bytes * block_count);
    blocks_pick(from_ids, count, block_count);
    blocks_pick(to_ids, room, block_count);
    blocks_fill(holder, from_ids, count);
    lease_id_random(&lease);
    snprintf(payload, sizeof(payload), "first token of %u", count);
    struct transfer_wish wish = wish_of(holder, &lease, carrier, to_ids, room);
    wish.first_index = first;

    if (order == 0)
        assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);
    assert_int_equal(transfer_lease_open(holder->transfer, &lease, 9, 3, 20000), OK);
    if (order == 1)
        assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);
    offer_all(holder, &lease, from_ids, count);
    if (order == 2)
        assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);
    assert_int_equal(transfer_complete(holder->transfer, &lease, count, payload, 100), OK);
    if (order == 3)
        assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);

    struct transfer_report *got = worker_expect(receiver, TRANSFER_RECEIVED, OK);
    assert_int_equal(got->carrier, carrier_taken(carrier));
    assert_int_equal(got->request_id, 7);
    assert_int_equal(got->block_count, wanted);
    assert_int_equal(got->payload_bytes, 100);
    assert_string_equal((char *)got->payload, payload);
    assert_true(got->exposed_s >= 0 && got->seconds >= 0);
    struct transfer_report *done = worker_expect(holder, TRANSFER_HOLDER_DONE, OK);
    assert_int_equal(done->bytes, got->bytes);
    assert_int_equal(done->carrier, carrier_taken(carrier));
    assert_int_equal(done->request_id, 9);
    blocks_compare(holder, from_ids, receiver, to_ids, first, wanted);
    blocks_are_poison(receiver, to_ids, wanted);
    transfer_report_free(got);
    transfer_report_free(done);
}

#endif
