/* Offer and fetch, over shm and tcp, in one process and between processes: every byte arrives,
 * nothing is written after a report, and each way of failing ends in bounded time with its name. */
#include "unit/transfer/worker_sample.h"

/* ---- everything arrives ---- */

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
        int index = carrier_index(carrier);
        assert_int_equal(counters.carriers[index].received_handoffs, 4);
        assert_int_equal(counters.carriers[index].checksum_failures, 0);
        assert_int_equal(counters.receives, 0);
        assert_int_equal(counters.peers, 1);
        assert_int_equal(counters.mapped_bytes,
                         carrier == TRANSFER_SHM ? shape.block_bytes * shape.block_count : 0);
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

/* They are those of the blocks as they lie here. */
static void assert_sums(const struct worker *worker, const uint32_t *ids, uint32_t count,
                        const struct checksum *sums)
{
    assert_non_null(sums);
    for (uint32_t layer = 0; layer < worker->shape.layer_count; layer++) {
        const struct transfer_slice *slice = &worker->shape.layers[layer];
        for (uint32_t i = 0; i < count; i++)
            assert_true(checksum_equal(
                sums[layer * count + i],
                checksum_of(block_at(worker, ids[i]) + slice->offset, slice->bytes)));
    }
}

/* A block offered half full, then again: the later bytes are those that count. */
static void the_later_offer_wins(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* filling a block that is on offer is a race, which the checksum and the later offer
               mend */
#endif
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
            wish.keeps_sums = true;
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
            struct transfer_report *report = worker_expect(&receiver, TRANSFER_RECEIVED, OK);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);
            blocks_compare(&holder, from_ids, &receiver, to_ids, 0, 4);
            assert_sums(&receiver, to_ids, 4, report->sums);
            transfer_report_free(report);
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
        worker_start(&holder, (struct transfer_options){.test_flip_offered =
                                                            stored ? 1 + random_below(12) : 0});
        worker_start(&receiver, (struct transfer_options){.test_spoil_landed =
                                                              stored ? 0 : 1 + random_below(12)});
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
            struct transfer_report *report = worker_expect(&receiver, TRANSFER_FAILED, ERR_CORRUPT);
            assert_non_null(strstr(report->text, "checksum"));
            transfer_report_free(report);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CORRUPT);
        } else {
            worker_expect_free(&receiver, TRANSFER_RECEIVED, OK);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, OK);
            blocks_compare(&holder, from_ids, &receiver, to_ids, 0, 4);
        }
        transfer_counters_read(receiver.transfer, &counters);
        assert_int_equal(counters.carriers[carrier_index(carrier)].checksum_failures,
                         stored ? 2 : 1);
        assert_int_equal(counters.carriers[carrier_index(carrier)].failed_handoffs, stored);
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

/* Until a block of a poisoned pool has something. It is read by the kernel, from the pool's file: a
 * thread of the receiver is writing it. */
static void wait_for_bytes(const struct worker *receiver)
{
    uint8_t seen[16], poison[16];
    memset(poison, POISON, sizeof(poison));
    for (int i = 0; i < 5000; i++) {
        for (uint32_t block = 0; block < receiver->pool.block_count; block++) {
            off_t at = (off_t)(block * receiver->shape.block_bytes);
            if (pread(receiver->pool.fd, seen, sizeof(seen), at) == sizeof(seen) &&
                memcmp(seen, poison, sizeof(seen)) != 0)
                return;
        }
        usleep(1000);
    }
    fail_msg("nothing came within 5 s");
}

/* Over rdma a get that was given up may still be reading its block: another one comes behind it. */
static void hand_over_one(struct worker *holder, struct worker *receiver,
                          enum transfer_carrier carrier, uint32_t id)
{
    struct lease_id lease;
    lease_id_random(&lease);
    struct transfer_wish wish = wish_of(holder, &lease, carrier, &id, 1);
    transfer_receive(receiver->transfer, &wish);
    transfer_lease_open(holder->transfer, &lease, 9, 3, 20000);
    offer_all(holder, &lease, &id, 1);
    transfer_complete(holder->transfer, &lease, 1, NULL, 0);
    worker_expect_free(receiver, TRANSFER_RECEIVED, OK);
    worker_expect_free(holder, TRANSFER_HOLDER_DONE, OK);
}

/* After CANCELLED nothing is written: the blocks are poisoned at once and looked at later. */
static void cancel_in_the_middle(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(4, 65, 40000);
        struct worker holder, receiver;
        worker_open(&holder, "holder", &shape);
        worker_prepare(&receiver, "receiver", &shape);
        memset(receiver.pool.host, POISON, shape.block_bytes * 65);
        /* A quarter of a second at least, so that a busy machine is still in the middle. */
        worker_start(&receiver, (struct transfer_options){.test_slow_us = 1000});
        uint32_t ids[65];
        struct lease_id lease;
        lease_id_random(&lease);
        blocks_pick(ids, 65, 65);
        blocks_fill(&holder, ids, 65);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 64);
        transfer_receive(receiver.transfer, &wish);
        transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
        offer_all(&holder, &lease, ids, 64);
        if (round % 3 != 0)
            transfer_complete(holder.transfer, &lease, 64, NULL, 0);
        wait_for_bytes(&receiver);
        usleep(random_below(20000));
        transfer_receive_cancel(receiver.transfer, &lease);
        worker_expect_free(&receiver, TRANSFER_CANCELLED, ERR_CANCELLED);
        memset(receiver.pool.host, POISON, shape.block_bytes * 65);
        worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
        usleep(20000);
        blocks_are_poison(&receiver, NULL, 0);
        /* The connection is as good as before. */
        hand_over_one(&holder, &receiver, carrier, ids[64]);
        one_handoff(&holder, &receiver, carrier, round % 4);
        struct transfer_counters counters;
        transfer_counters_read(holder.transfer, &counters);
        assert_int_equal(counters.leases, 0);
        worker_close(&receiver);
        worker_close(&holder);
    }
}

/* Until the receiver's block has the bytes of the holder's. It is read by the kernel, from the
 * pool's file: a thread of the receiver may be writing it. */
static void wait_for_block(const struct worker *receiver, const struct worker *holder,
                           uint32_t block)
{
    uint8_t seen[4096];
    size_t bytes = receiver->shape.block_bytes;
    assert_true(bytes <= sizeof(seen));
    for (int i = 0; i < 5000; i++) {
        if (pread(receiver->pool.fd, seen, bytes, (off_t)(block * bytes)) == (ssize_t)bytes &&
            memcmp(seen, block_at(holder, block), bytes) == 0)
            return;
        usleep(1000);
    }
    fail_msg("block %u did not come within 5 s", block);
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
    blocks_fill(&holder, ids, 4);
    for (int round = 0; round < 8; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct lease_id lease;
        lease_id_random(&lease);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 4);
        if (round / 2 == 0) { /* revoked */
            memset(receiver.pool.host, POISON, shape.block_bytes * 8);
            transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
            transfer_receive(receiver.transfer, &wish);
            offer_all(&holder, &lease, ids, 2);
            wait_for_block(&receiver, &holder, 1);
            transfer_lease_close(holder.transfer, &lease);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
            worker_expect_free(&receiver, TRANSFER_FAILED, ERR_CANCELLED);
        } else if (round / 2 == 1) { /* expired */
            transfer_lease_open(holder.transfer, &lease, 9, 3, 500);
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
            struct transfer_report *report = worker_expect(&receiver, TRANSFER_FAILED, ERR_REFUSED);
            assert_non_null(strstr(report->text, "epoch"));
            transfer_report_free(report);
            transfer_lease_close(holder.transfer, &lease);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
        }
    }
    worker_close(&receiver);
    worker_close(&holder);
}

/* Two ask for one lease, or it is over before it is asked for: one gets it, the others a reason. */
static void a_lease_is_for_one(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, first, second;
    uint32_t ids[4] = {0, 1, 2, 3};
    worker_prepare(&holder, "holder", &shape);
    worker_start(&holder, (struct transfer_options){.subscribe_ms = 500});
    worker_open(&first, "first", &shape);
    worker_open(&second, "second", &shape);
    blocks_fill(&holder, ids, 4);
    for (int round = 0; round < 4; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct lease_id lease;
        struct transfer_report *report;
        lease_id_random(&lease);
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, 4);
        if (round < 2) {
            memset(first.pool.host, POISON, shape.block_bytes * 8);
            memset(second.pool.host, POISON, shape.block_bytes * 8);
            transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
            transfer_receive(first.transfer, &wish);
            offer_all(&holder, &lease, ids, 2);
            wait_for_block(&first, &holder, 1);
            transfer_receive(second.transfer, &wish);
            report = worker_expect(&second, TRANSFER_FAILED, ERR_REFUSED);
            assert_non_null(strstr(report->text, "has a receiver already: \"first\""));
            transfer_report_free(report);
            assert_int_equal(block_at(&second, 0)[0], POISON);
            transfer_lease_close(holder.transfer, &lease);
            worker_expect_free(&first, TRANSFER_FAILED, ERR_CANCELLED);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
        } else {
            transfer_lease_open(holder.transfer, &lease, 9, 3, 50);
            offer_all(&holder, &lease, ids, 4);
            transfer_complete(holder.transfer, &lease, 4, NULL, 0);
            worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_TIMEOUT);
            transfer_receive(second.transfer, &wish);
            report = worker_expect(&second, TRANSFER_FAILED, ERR_NOT_FOUND);
            assert_non_null(strstr(report->text, "lease"));
            transfer_report_free(report);
        }
    }
    worker_close(&second);
    worker_close(&first);
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
        struct transfer_report *report = worker_report(&receiver, 10000);
        assert_non_null(report);
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
    static const struct cluster_key other_key = {{9}};
    for (int round = 0; round < 8; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(2, 8, 500);
        struct worker holder, receiver;
        struct transfer_options options = {0};
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
        } else if (round / 2 == 2) {
            wish.source.incarnation++;
            named = "incarnation";
        } else {
            options.key = &other_key;
            named = "cluster key";
        }
        worker_start(&receiver, options);
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
    assert_int_equal(report->carrier, carrier_taken(TRANSFER_TCP));
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

static int with_a_key(void **state)
{
    static const struct cluster_key key = {{7}};
    (void)state;
    sample_key = &key;
    return 0;
}

static int with_rdma(void **state)
{
    (void)state;
    sample_key = NULL;
    sample_rdma = true;
    return 0;
}

/* ---- rdma ---- */

/* A holder without it says so, and the receiver names it; nothing goes another way. */
static void a_holder_without_rdma(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, 8, 500);
    struct worker holder, receiver;
    uint32_t ids[4] = {0, 1, 2, 3};
    struct lease_id lease;
    lease_id_random(&lease);
    worker_prepare(&holder, "holder", &shape);
    worker_start(&holder, (struct transfer_options){.carriers = TRANSFER_TCP});
    worker_open(&receiver, "receiver", &shape);
    struct transfer_wish wish = wish_of(&holder, &lease, TRANSFER_TCP, ids, 4);
    transfer_lease_open(holder.transfer, &lease, 9, 3, 20000);
    transfer_receive(receiver.transfer, &wish);
    struct transfer_report *report = worker_expect(&receiver, TRANSFER_FAILED, ERR_REFUSED);
    assert_non_null(strstr(report->text, "no carrier rdma"));
    transfer_report_free(report);
    worker_close(&receiver);
    worker_close(&holder);
}

/* Without the test switch only transports that check keys are taken, and this machine has none. */
static void a_machine_without_rdma(void **state)
{
    (void)state;
    struct worker worker;
    status st = worker_open_rdma(&worker, NULL);
    if (st == OK) {
        print_message("this machine has an RDMA device\n");
        worker_close(&worker);
        skip();
    }
    assert_int_equal(st, ERR_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "rdma"));
    worker.transfer = NULL;
    worker_close(&worker);
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
        cmocka_unit_test(a_lease_is_for_one),
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
    failed += cmocka_run_group_tests_name("with a key", tests, with_a_key, NULL);
    const struct CMUnitTest rdma_tests[] = {
        cmocka_unit_test(a_holder_without_rdma),
        cmocka_unit_test(a_machine_without_rdma),
    };
    if (sample_has_rdma()) {
        failed += cmocka_run_group_tests_name("over rdma", tests, with_rdma, NULL);
        failed += cmocka_run_group_tests_name("rdma alone", rdma_tests, with_rdma, NULL);
    }
    rmdir(folder);
    return failed;
}
