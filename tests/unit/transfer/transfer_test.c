/* Offer and fetch, over shm and tcp, in one process and between processes: every byte arrives, nothing
 * is written after a report, and each way of failing ends in bounded time with its name. */
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

static uint64_t random_state = 88172645463325252u;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint32_t random_below(uint32_t limit)
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
    struct mailbox *reports;
    struct transfer *transfer;
    struct hello hello;
    struct address unix_address, tcp_address;
    struct transfer_report *kept; /* taken, not yet asked for */
};

static char folder[64];

/* Layers of odd sizes with holes between them, as other layouts may have. */
static struct shape shape_random(uint32_t block_count, uint32_t bytes_max)
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

static struct shape shape_even(uint32_t layers, uint32_t block_count, size_t layer_bytes)
{
    struct shape shape = {.layer_count = layers, .block_count = block_count,
                          .block_bytes = layers * layer_bytes};
    for (uint32_t i = 0; i < layers; i++)
        shape.layers[i] = (struct transfer_slice){.offset = i * layer_bytes, .bytes = layer_bytes};
    return shape;
}

static struct hello hello_sample(const char *name)
{
    struct hello hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV, .kv_dtype = DTYPE_F16,
                          .block_tokens = 16, .ranks = 1, .role = HELLO_PREFILL,
                          .incarnation = hello_incarnation_random()};
    snprintf(hello.name, sizeof(hello.name), "%s", name);
    strcpy(hello.numerics_class, "cpu-int8");
    return hello;
}

static void worker_prepare(struct worker *worker, const char *name, const struct shape *shape)
{
    char text[ADDRESS_TEXT_BYTES];
    memset(worker, 0, sizeof(*worker));
    worker->shape = *shape;
    worker->hello = hello_sample(name);
    snprintf(text, sizeof(text), "unix:%s/%s", folder, name);
    assert_int_equal(address_parse(text, 0, &worker->unix_address), OK);
    size_t bytes = shape->block_bytes * shape->block_count;
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    worker->pool = (struct transfer_pool){
        .host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
        .fd = fd,
        .block_count = shape->block_count,
        .block_bytes = shape->block_bytes};
    assert_true(worker->pool.host != MAP_FAILED);
    memset(worker->pool.host, POISON, bytes);
    assert_int_equal(mailbox_open(&worker->reports), OK);
}

static void worker_start(struct worker *worker, struct transfer_options options)
{
    struct address any;
    assert_int_equal(address_parse("127.0.0.1:0", 0, &any), OK);
    options.hello = &worker->hello;
    options.unix_listen = &worker->unix_address;
    options.tcp_listen = &any;
    options.pool = worker->pool;
    options.layers = worker->shape.layers;
    options.layer_count = worker->shape.layer_count;
    options.reports = worker->reports;
    status st = transfer_open(&options, &worker->transfer);
    if (st != OK)
        fail_msg("transfer_open: %s", error_text());
    if (options.carriers != TRANSFER_SHM)
        assert_int_equal(transfer_tcp_address(worker->transfer, &worker->tcp_address), OK);
}

static void worker_open(struct worker *worker, const char *name, const struct shape *shape)
{
    worker_prepare(worker, name, shape);
    worker_start(worker, (struct transfer_options){0});
}

static void worker_close(struct worker *worker)
{
    transfer_close(worker->transfer);
    for (struct mail *mail = mailbox_take_all(worker->reports), *next; mail != NULL; mail = next) {
        next = mail->next;
        transfer_report_free((struct transfer_report *)mail);
    }
    assert_null(worker->kept);
    mailbox_close(worker->reports);
    munmap(worker->pool.host, worker->pool.block_bytes * worker->pool.block_count);
    close(worker->pool.fd);
}

/* The next report, or NULL after timeout_ms. */
static struct transfer_report *worker_report(struct worker *worker, int timeout_ms)
{
    if (worker->kept == NULL && mailbox_wait(worker->reports, timeout_ms))
        worker->kept = (struct transfer_report *)mailbox_take_all(worker->reports);
    struct transfer_report *report = worker->kept;
    if (report != NULL)
        worker->kept = (struct transfer_report *)report->mail.next;
    return report;
}

static struct transfer_report *worker_expect(struct worker *worker, uint32_t kind, status expected)
{
    struct transfer_report *report = worker_report(worker, 10000);
    if (report == NULL)
        fail_msg("no report within 10 s");
    if (report->mail.kind != kind || report->status != expected)
        fail_msg("expected report %x %s, found %x %s: %s", kind, status_name(expected),
                 report->mail.kind, status_name(report->status), report->text);
    return report;
}

static void worker_expect_free(struct worker *worker, uint32_t kind, status expected)
{
    transfer_report_free(worker_expect(worker, kind, expected));
}

/* ---- a sequence: which blocks hold it on a side ---- */

static void blocks_pick(uint32_t *ids, uint32_t count, uint32_t block_count)
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

static uint8_t *block_at(const struct worker *worker, uint32_t id)
{
    return worker->pool.host + (size_t)id * worker->pool.block_bytes;
}

static void blocks_fill(struct worker *worker, const uint32_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = block_at(worker, ids[i]);
        for (size_t b = 0; b < worker->pool.block_bytes; b++)
            at[b] = (uint8_t)(random_u64() >> 30);
    }
}

/* Every byte of every layer, and poison between and around them. */
static void blocks_compare(const struct worker *from, const uint32_t *from_ids,
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

static void blocks_are_poison(const struct worker *worker, const uint32_t *except, uint32_t count)
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

/* Chunk by chunk, layer by layer, as a prefill does. */
static void offer_all(struct worker *holder, const struct lease_id *lease, const uint32_t *ids,
                      uint32_t count)
{
    for (uint32_t at = 0; at < count;) {
        uint32_t chunk = 1 + random_below(count - at);
        for (uint32_t layer = 0; layer < holder->shape.layer_count; layer++)
            transfer_offer(holder->transfer, lease, layer, at, ids + at, chunk, NULL);
        at += chunk;
    }
}

static struct transfer_wish wish_of(const struct worker *holder, const struct lease_id *lease,
                                    enum transfer_carrier carrier, const uint32_t *ids,
                                    uint32_t count)
{
    return (struct transfer_wish){
        .lease = *lease, .request_id = 7, .epoch = 3, .block_ids = ids, .block_count = count,
        .deadline_ms = 8000,
        .source = {.incarnation = holder->hello.incarnation,
                   .local = carrier == TRANSFER_SHM ? &holder->unix_address : NULL,
                   .remote = carrier == TRANSFER_TCP ? &holder->tcp_address : NULL}};
}

/* ---- everything arrives ---- */

static void one_handoff(struct worker *holder, struct worker *receiver,
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
    assert_int_equal(got->carrier, carrier);
    assert_int_equal(got->request_id, 7);
    assert_int_equal(got->block_count, wanted);
    assert_int_equal(got->payload_bytes, 100);
    assert_string_equal((char *)got->payload, payload);
    assert_true(got->exposed_s >= 0 && got->seconds >= 0);
    struct transfer_report *done = worker_expect(holder, TRANSFER_HOLDER_DONE, OK);
    assert_int_equal(done->bytes, got->bytes);
    assert_int_equal(done->carrier, carrier);
    assert_int_equal(done->request_id, 9);
    blocks_compare(holder, from_ids, receiver, to_ids, first, wanted);
    blocks_are_poison(receiver, to_ids, wanted);
    transfer_report_free(got);
    transfer_report_free(done);
}

static void every_byte_arrives(enum transfer_carrier carrier, uint32_t bytes_max, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        struct shape shape = shape_random(1 + random_below(100), bytes_max);
        struct worker holder, receiver;
        worker_open(&holder, "holder", &shape);
        worker_open(&receiver, "receiver", &shape);
        for (int order = 0; order < 4; order++)
            one_handoff(&holder, &receiver, carrier, order);
        struct transfer_counters counters;
        transfer_counters_read(receiver.transfer, &counters);
        int index = carrier == TRANSFER_TCP;
        assert_int_equal(counters.carriers[index].received_handoffs, 4);
        assert_int_equal(counters.carriers[index].checksum_failures, 0);
        assert_int_equal(counters.receives, 0);
        assert_int_equal(counters.peers, 1);
        assert_int_equal(counters.mapped_bytes, carrier == TRANSFER_SHM
                                                    ? shape.block_bytes * shape.block_count
                                                    : 0);
        worker_close(&receiver);
        worker_close(&holder);
    }
}

static void every_byte_arrives_over_shm(void **state)
{
    (void)state;
    every_byte_arrives(TRANSFER_SHM, 300, 20);
    every_byte_arrives(TRANSFER_SHM, 20000, 10);
}

static void every_byte_arrives_over_tcp(void **state)
{
    (void)state;
    every_byte_arrives(TRANSFER_TCP, 300, 20);
    every_byte_arrives(TRANSFER_TCP, 20000, 10);
}

/* A slice larger than one DATA frame, more than the link's queue takes. */
static void large_slices_arrive(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 3, 3000001);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    one_handoff(&holder, &receiver, TRANSFER_TCP, 0);
    one_handoff(&holder, &receiver, TRANSFER_SHM, 1);
    worker_close(&receiver);
    worker_close(&holder);
}

/* Many leases at once, both workers hold and receive, both carriers. */
static void many_leases_at_once(void **state)
{
    (void)state;
    enum { LEASES = 40, BLOCKS = 5 };
    struct shape shape = shape_random(2 * LEASES * BLOCKS, 5000);
    struct worker workers[2];
    uint32_t ids[2][2 * LEASES * BLOCKS];
    worker_open(&workers[0], "w0", &shape);
    worker_open(&workers[1], "w1", &shape);
    for (int w = 0; w < 2; w++) {
        blocks_pick(ids[w], 2 * LEASES * BLOCKS, shape.block_count);
        blocks_fill(&workers[w], ids[w], LEASES * BLOCKS); /* the first half is offered */
    }
    struct lease_id leases[2][LEASES];
    for (int i = 0; i < LEASES; i++) {
        for (int w = 0; w < 2; w++) {
            lease_id_random(&leases[w][i]);
            struct transfer_wish wish =
                wish_of(&workers[w], &leases[w][i], i % 3 == 0 ? TRANSFER_TCP : TRANSFER_SHM,
                        &ids[1 - w][(LEASES + i) * BLOCKS], BLOCKS);
            transfer_lease_open(workers[w].transfer, &leases[w][i], 0, 3, 20000);
            assert_int_equal(transfer_receive(workers[1 - w].transfer, &wish), OK);
            offer_all(&workers[w], &leases[w][i], &ids[w][i * BLOCKS], BLOCKS);
            transfer_complete(workers[w].transfer, &leases[w][i], BLOCKS, NULL, 0);
        }
    }
    for (int w = 0; w < 2; w++) {
        for (int i = 0; i < 2 * LEASES; i++) {
            struct transfer_report *report = worker_report(&workers[w], 10000);
            assert_non_null(report);
            assert_int_equal(report->status, OK);
            transfer_report_free(report);
        }
    }
    for (int w = 0; w < 2; w++) {
        for (int i = 0; i < LEASES; i++)
            blocks_compare(&workers[w], &ids[w][i * BLOCKS], &workers[1 - w],
                           &ids[1 - w][(LEASES + i) * BLOCKS], 0, BLOCKS);
    }
    worker_close(&workers[0]);
    worker_close(&workers[1]);
}

/* A block offered half full, then again: the later bytes are those that count. */
static void the_later_offer_wins(void **state)
{
    (void)state;
    for (int carrier = TRANSFER_SHM; carrier <= TRANSFER_TCP; carrier++) {
        struct shape shape = shape_even(3, 8, 4096);
        struct worker holder, receiver;
        worker_open(&holder, "holder", &shape);
        worker_open(&receiver, "receiver", &shape);
        uint32_t from_ids[4] = {5, 1, 7, 2}, to_ids[4] = {0, 3, 6, 4};
        for (int round = 0; round < 10; round++) {
            struct lease_id lease;
            lease_id_random(&lease);
            struct transfer_wish wish =
                wish_of(&holder, &lease, (enum transfer_carrier)carrier, to_ids, 4);
            transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
            assert_int_equal(transfer_receive(receiver.transfer, &wish), OK);
            blocks_fill(&holder, from_ids, 4);
            for (uint32_t layer = 0; layer < 3; layer++)
                transfer_offer(holder.transfer, &lease, layer, 0, from_ids, 4, NULL);
            if (round % 2 == 0)
                usleep(2000);
            blocks_fill(&holder, from_ids + 3, 1);
            for (uint32_t layer = 0; layer < 3; layer++)
                transfer_offer(holder.transfer, &lease, layer, 3, from_ids + 3, 1, NULL);
            transfer_complete(holder.transfer, &lease, 4, NULL, 0);
            worker_expect_free(&receiver, TRANSFER_RECEIVED, OK);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);
            blocks_compare(&holder, from_ids, &receiver, to_ids, 0, 4);
        }
        worker_close(&receiver);
        worker_close(&holder);
    }
}

/* ---- damage ---- */

static void a_flipped_bit_is_caught(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(3, 8, 1000 + random_below(9000));
        struct worker holder, receiver;
        worker_prepare(&holder, "holder", &shape);
        worker_prepare(&receiver, "receiver", &shape);
        bool stored = round % 4 < 2; /* in the holder's memory, or only on the way */
        worker_start(&holder, (struct transfer_options){
                                  .test_flip_offered = stored ? 1 + random_below(12) : 0});
        worker_start(&receiver, (struct transfer_options){
                                    .test_spoil_landed = stored ? 0 : 1 + random_below(12)});
        uint32_t from_ids[4] = {5, 1, 7, 2}, to_ids[4] = {0, 3, 6, 4};
        struct lease_id lease;
        lease_id_random(&lease);
        blocks_fill(&holder, from_ids, 4);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, to_ids, 4);
        transfer_receive(receiver.transfer, &wish);
        transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
        offer_all(&holder, &lease, from_ids, 4);
        transfer_complete(holder.transfer, &lease, 4, NULL, 0);
        struct transfer_counters counters;
        if (stored) {
            struct transfer_report *report =
                worker_expect(&receiver, TRANSFER_FAILED, ERR_CORRUPT);
            assert_non_null(strstr(report->text, "checksum"));
            transfer_report_free(report);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
        } else {
            worker_expect_free(&receiver, TRANSFER_RECEIVED, OK);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);
            blocks_compare(&holder, from_ids, &receiver, to_ids, 0, 4);
        }
        transfer_counters_read(receiver.transfer, &counters);
        assert_int_equal(counters.carriers[carrier == TRANSFER_TCP].checksum_failures,
                         stored ? 2 : 1);
        assert_int_equal(counters.carriers[carrier == TRANSFER_TCP].failed_handoffs, stored);
        worker_close(&receiver);
        worker_close(&holder);
    }
}

/* A holder that says "complete" with a layer missing must not pass for done. */
static void a_hole_is_not_complete(void **state)
{
    (void)state;
    struct shape shape = shape_even(3, 8, 500);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    uint32_t ids[4] = {0, 1, 2, 3};
    struct lease_id lease;
    lease_id_random(&lease);
    struct transfer_wish wish = wish_of(&holder, &lease, TRANSFER_SHM, ids, 4);
    transfer_receive(receiver.transfer, &wish);
    transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
    transfer_offer(holder.transfer, &lease, 0, 0, ids, 4, NULL);
    transfer_offer(holder.transfer, &lease, 2, 0, ids, 4, NULL);
    transfer_offer(holder.transfer, &lease, 1, 0, ids, 3, NULL);
    transfer_complete(holder.transfer, &lease, 4, NULL, 0);
    struct transfer_report *report = worker_expect(&receiver, TRANSFER_FAILED, ERR_BAD_INPUT);
    assert_non_null(strstr(report->text, "1 of 12 slices"));
    transfer_report_free(report);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
    worker_close(&receiver);
    worker_close(&holder);
}

/* ---- ends ---- */

/* After CANCELLED nothing is written: the blocks are poisoned at once and looked at later. */
static void cancel_in_the_middle(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(4, 64, 40000);
        struct worker holder, receiver;
        worker_open(&holder, "holder", &shape);
        worker_prepare(&receiver, "receiver", &shape);
        worker_start(&receiver, (struct transfer_options){.test_slow_us = 100});
        uint32_t ids[64];
        struct lease_id lease;
        lease_id_random(&lease);
        blocks_pick(ids, 64, 64);
        blocks_fill(&holder, ids, 64);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 64);
        transfer_receive(receiver.transfer, &wish);
        transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
        offer_all(&holder, &lease, ids, 64);
        if (round % 3 != 0)
            transfer_complete(holder.transfer, &lease, 64, NULL, 0);
        usleep(random_below(20000));
        transfer_receive_cancel(receiver.transfer, &lease);
        worker_expect_free(&receiver, TRANSFER_CANCELLED, ERR_CANCELLED);
        memset(receiver.pool.host, POISON, shape.block_bytes * 64);
        worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
        usleep(20000);
        blocks_are_poison(&receiver, NULL, 0);
        /* The connection is as good as before. */
        one_handoff(&holder, &receiver, carrier, round % 4);
        struct transfer_counters counters;
        transfer_counters_read(holder.transfer, &counters);
        assert_int_equal(counters.leases, 0);
        worker_close(&receiver);
        worker_close(&holder);
    }
}

static void revoked_expired_and_never_opened(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_prepare(&receiver, "receiver", &shape);
    worker_start(&receiver, (struct transfer_options){0});
    uint32_t ids[4] = {0, 1, 2, 3};
    for (int round = 0; round < 8; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct lease_id lease;
        lease_id_random(&lease);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 4);
        if (round / 2 == 0) { /* revoked */
            transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
            transfer_receive(receiver.transfer, &wish);
            offer_all(&holder, &lease, ids, 2);
            usleep(20000);
            transfer_lease_close(holder.transfer, &lease);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
            worker_expect_free(&receiver, TRANSFER_FAILED, ERR_CANCELLED);
        } else if (round / 2 == 1) { /* expired */
            transfer_lease_open(holder.transfer, &lease, 9, 3, 100);
            transfer_receive(receiver.transfer, &wish);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_TIMEOUT);
            worker_expect_free(&receiver, TRANSFER_FAILED, ERR_TIMEOUT);
        } else if (round / 2 == 2) { /* forged, or never opened: it waits, and not for ever */
            wish.deadline_ms = 200;
            uint64_t from = clock_ns();
            transfer_receive(receiver.transfer, &wish);
            struct transfer_report *report = worker_report(&receiver, 5000);
            assert_int_equal(report->mail.kind, TRANSFER_FAILED);
            assert_true(report->status == ERR_TIMEOUT || report->status == ERR_NOT_FOUND);
            assert_true(clock_ns() - from < 1200000000u);
            transfer_report_free(report);
        } else { /* another attempt's epoch */
            wish.epoch = 2;
            transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
            transfer_receive(receiver.transfer, &wish);
            struct transfer_report *report =
                worker_expect(&receiver, TRANSFER_FAILED, ERR_REFUSED);
            assert_non_null(strstr(report->text, "epoch"));
            transfer_report_free(report);
            transfer_lease_close(holder.transfer, &lease);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
        }
    }
    worker_close(&receiver);
    worker_close(&holder);
}

static void a_worker_stops_in_the_middle(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    uint32_t ids[4] = {0, 1, 2, 3};
    struct lease_id leases[2];
    for (int i = 0; i < 2; i++) {
        lease_id_random(&leases[i]);
        struct transfer_wish wish =
            wish_of(&holder, &leases[i], i == 0 ? TRANSFER_SHM : TRANSFER_TCP, ids, 4);
        transfer_lease_open(holder.transfer, &leases[i], 9, 3, 20000);
        transfer_receive(receiver.transfer, &wish);
        offer_all(&holder, &leases[i], ids, 2);
    }
    usleep(30000);
    transfer_close(holder.transfer);
    for (int i = 0; i < 2; i++) {
        worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
        struct transfer_report *report = worker_report(&receiver, 5000);
        assert_int_equal(report->mail.kind, TRANSFER_FAILED);
        transfer_report_free(report);
    }
    struct transfer_counters counters;
    for (int i = 0; i < 100; i++) {
        transfer_counters_read(receiver.transfer, &counters);
        if (counters.mapped_bytes == 0 && counters.peers == 0)
            break;
        usleep(10000);
    }
    assert_int_equal(counters.mapped_bytes, 0);
    assert_int_equal(counters.peers, 0);
    worker_start(&holder, (struct transfer_options){0}); /* the address is free again */
    worker_close(&holder);
    worker_close(&receiver);
}

static void the_wrong_peer_is_refused_by_name(void **state)
{
    (void)state;
    for (int round = 0; round < 6; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(2, 8, 500);
        struct worker holder, receiver;
        worker_open(&holder, "holder", &shape);
        worker_prepare(&receiver, "receiver", &shape);
        uint32_t ids[4] = {0, 1, 2, 3};
        struct lease_id lease;
        lease_id_random(&lease);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 4);
        const char *named = "model fingerprint";
        if (round / 2 == 0) {
            receiver.hello.fingerprint[3] = 9;
        } else if (round / 2 == 1) {
            receiver.hello.layout_hash[3] = 9;
            named = "block layout";
        } else {
            wish.source.incarnation++;
            named = "incarnation";
        }
        worker_start(&receiver, (struct transfer_options){0});
        transfer_receive(receiver.transfer, &wish);
        struct transfer_report *report = worker_expect(&receiver, TRANSFER_FAILED, ERR_REFUSED);
        if (strstr(report->text, named) == NULL)
            fail_msg("\"%s\" should name \"%s\"", report->text, named);
        transfer_report_free(report);
        worker_close(&receiver);
        worker_close(&holder);
    }
}

/* The local address may be another host's: then tcp is taken. And with neither there, ERR_IO. */
static void the_other_address_is_tried(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    uint32_t ids[4] = {0, 1, 2, 3};
    struct lease_id lease;
    struct address nowhere;
    lease_id_random(&lease);
    address_parse("unix:/tmp/baton-nobody-is-here", 0, &nowhere);
    struct transfer_wish wish = wish_of(&holder, &lease, TRANSFER_TCP, ids, 4);
    wish.source.local = &nowhere;
    transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
    transfer_receive(receiver.transfer, &wish);
    offer_all(&holder, &lease, ids, 4);
    transfer_complete(holder.transfer, &lease, 4, NULL, 0);
    struct transfer_report *report = worker_expect(&receiver, TRANSFER_RECEIVED, OK);
    assert_int_equal(report->carrier, TRANSFER_TCP);
    transfer_report_free(report);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);

    /* Somebody else's socket: refused by incarnation, then tcp. */
    lease_id_random(&lease);
    wish.lease = lease;
    wish.source.local = &receiver.unix_address;
    transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
    transfer_receive(receiver.transfer, &wish);
    offer_all(&holder, &lease, ids, 4);
    transfer_complete(holder.transfer, &lease, 4, NULL, 0);
    worker_expect_free(&receiver, TRANSFER_RECEIVED, OK);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);

    lease_id_random(&wish.lease);
    wish.source.local = &nowhere;
    wish.source.remote = NULL;
    transfer_receive(receiver.transfer, &wish);
    worker_expect_free(&receiver, TRANSFER_FAILED, ERR_IO);
    worker_close(&receiver);
    worker_close(&holder);
}

static void a_dropped_peer_is_unmapped(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, receiver;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    uint32_t ids[4] = {0, 1, 2, 3};
    struct lease_id lease;
    lease_id_random(&lease);
    struct transfer_wish wish = wish_of(&holder, &lease, TRANSFER_SHM, ids, 4);
    one_handoff(&holder, &receiver, TRANSFER_SHM, 0);
    transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
    transfer_receive(receiver.transfer, &wish);
    transfer_drop_peer(receiver.transfer, holder.hello.incarnation);
    worker_expect_free(&receiver, TRANSFER_FAILED, ERR_CLOSED);
    struct transfer_counters counters;
    transfer_counters_read(receiver.transfer, &counters);
    assert_int_equal(counters.mapped_bytes, 0);
    transfer_lease_close(holder.transfer, &lease);
    struct transfer_report *report = worker_report(&holder, 5000);
    assert_int_equal(report->mail.kind, TRANSFER_HOLDER_DONE);
    transfer_report_free(report);
    worker_close(&receiver);
    worker_close(&holder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_arrives_over_shm),
        cmocka_unit_test(every_byte_arrives_over_tcp),
        cmocka_unit_test(large_slices_arrive),
        cmocka_unit_test(many_leases_at_once),
        cmocka_unit_test(the_later_offer_wins),
        cmocka_unit_test(a_flipped_bit_is_caught),
        cmocka_unit_test(a_hole_is_not_complete),
        cmocka_unit_test(cancel_in_the_middle),
        cmocka_unit_test(revoked_expired_and_never_opened),
        cmocka_unit_test(a_worker_stops_in_the_middle),
        cmocka_unit_test(the_wrong_peer_is_refused_by_name),
        cmocka_unit_test(the_other_address_is_tried),
        cmocka_unit_test(a_dropped_peer_is_unmapped),
    };
    strcpy(folder, "/tmp/baton-transfer-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    log_open("transfer-test", LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
