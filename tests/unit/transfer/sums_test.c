/* The book of sums: a slice is summed once while its block holds the same bytes, never taken for
 * what was there before, and what flips after its sum was made is found by every receiver. */
#include "unit/transfer/worker_sample.h"

#include <pthread.h>

#define BLOCKS 8u
#define LAYERS 3u
#define FLIPS 10000u

static struct checksum slice_now(const struct worker *worker, uint32_t layer, uint32_t id)
{
    const struct transfer_slice *slice = &worker->shape.layers[layer];
    return checksum_of(block_at(worker, id) + slice->offset, slice->bytes);
}

static bool sum_is_now(struct worker *worker, uint32_t layer, uint32_t id)
{
    return checksum_equal(transfer_sum(worker->transfer, layer, id), slice_now(worker, layer, id));
}

static void ids_all(uint32_t ids[BLOCKS])
{
    for (uint32_t i = 0; i < BLOCKS; i++)
        ids[i] = i;
}

/* All blocks, in their order on both sides. */
static void hand_over(struct worker *holder, struct worker *receiver, enum transfer_carrier carrier,
                      status expected)
{
    uint32_t ids[BLOCKS];
    struct lease_id lease;
    ids_all(ids);
    lease_id_random(&lease);
    struct transfer_wish wish = wish_of(holder, &lease, carrier, ids, BLOCKS);
    assert_int_equal(transfer_lease_open(holder->transfer, &lease, 9, 3, 20000), OK);
    assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);
    offer_all(holder, &lease, ids, BLOCKS);
    assert_int_equal(transfer_complete(holder->transfer, &lease, BLOCKS, NULL, 0), OK);
    worker_expect_free(receiver, expected == OK ? TRANSFER_RECEIVED : TRANSFER_FAILED, expected);
    worker_expect_free(holder, TRANSFER_HOLDER_DONE, expected);
    if (expected == OK)
        blocks_compare(holder, ids, receiver, ids, 0, BLOCKS);
}

static void a_sum_is_made_once_for_each_filling(void **state)
{
    (void)state;
    struct shape shape = shape_even(LAYERS, BLOCKS, 1000);
    struct worker worker;
    uint32_t id = 5;
    worker_open(&worker, "worker", &shape);
    for (int round = 0; round < 100; round++) {
        uint32_t layer = random_below(LAYERS);
        blocks_fill(&worker, &id, 1);
        assert_true(sum_is_now(&worker, layer, id));
        slice_flip(&worker, layer, id); /* nobody knows: what was made is what is said */
        assert_false(sum_is_now(&worker, layer, id));
        assert_true(sum_is_now(&worker, (layer + 1) % LAYERS, id));
        atomic_fetch_add(&worker.fills[id], 1);
        assert_true(sum_is_now(&worker, layer, id));
    }
    worker_close(&worker);
}

/* Who has offered a block, and who has received it, need not read it again. */
static void both_sides_of_a_handoff_know_its_sums(void **state)
{
    (void)state;
    for (int carrier = TRANSFER_SHM; carrier <= TRANSFER_TCP; carrier++) {
        struct shape shape = shape_even(LAYERS, BLOCKS, 1000);
        struct worker workers[2];
        uint32_t ids[BLOCKS];
        ids_all(ids);
        worker_open(&workers[0], "holder", &shape);
        worker_open(&workers[1], "receiver", &shape);
        for (int round = 0; round < 5; round++) {
            blocks_fill(&workers[0], ids, BLOCKS);
            hand_over(&workers[0], &workers[1], (enum transfer_carrier)carrier, OK);
            for (uint32_t at = 0; at < 2 * BLOCKS * LAYERS; at++) {
                struct worker *worker = &workers[at % 2];
                uint32_t layer = at / 2 % LAYERS, id = at / 2 / LAYERS;
                assert_true(sum_is_now(worker, layer, id));
                slice_flip(worker, layer, id);
                assert_false(sum_is_now(worker, layer, id));
            }
        }
        worker_close(&workers[1]);
        worker_close(&workers[0]);
    }
}

/* Each is found, by the sum from before; then the slices of that lease are summed as they are. */
static void flips_after_the_sum_are_caught(void **state)
{
    (void)state;
    struct shape shape = shape_even(LAYERS, BLOCKS, 1000);
    struct worker holder, receiver;
    uint32_t ids[BLOCKS], flips = 0, rounds = 0;
    ids_all(ids);
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    blocks_fill(&holder, ids, BLOCKS);
    for (; flips < FLIPS; rounds++) {
        enum transfer_carrier carrier = rounds % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        hand_over(&holder, &receiver, carrier, OK);
        for (uint32_t slice = 0; slice < BLOCKS * LAYERS; slice++) {
            if (slice != rounds % (BLOCKS * LAYERS) && random_below(2) == 0)
                continue;
            slice_flip(&holder, slice % LAYERS, slice / LAYERS);
            assert_false(sum_is_now(&holder, slice % LAYERS, slice / LAYERS));
            flips++;
        }
        hand_over(&holder, &receiver, carrier, ERR_CORRUPT);
        for (uint32_t slice = 0; slice < BLOCKS * LAYERS; slice++)
            assert_true(sum_is_now(&holder, slice % LAYERS, slice / LAYERS));
    }
    struct transfer_counters counters;
    transfer_counters_read(receiver.transfer, &counters);
    assert_int_equal(counters.carriers[0].failed_handoffs + counters.carriers[1].failed_handoffs,
                     rounds);
    print_message("%u flips in %u handoffs: all caught\n", flips, rounds);
    worker_close(&receiver);
    worker_close(&holder);
}

/* ---- several threads, as compute, transfer and store of a worker ---- */

struct summing {
    struct worker *worker;
    atomic_bool stop;
    atomic_uint wrong;
};

static void *sum_thread(void *ctx)
{
    struct summing *summing = ctx;
    struct worker *worker = summing->worker;
    while (!atomic_load(&summing->stop)) {
        for (uint32_t slice = 0; slice < BLOCKS * LAYERS; slice++) {
            uint32_t layer = slice % LAYERS, id = slice / LAYERS;
            if (!sum_is_now(worker, layer, id))
                atomic_fetch_add(&summing->wrong, 1);
        }
    }
    return NULL;
}

static void all_threads_find_the_same(void **state)
{
    (void)state;
    struct shape shape = shape_even(LAYERS, BLOCKS, 1000);
    struct worker holder, receiver;
    uint32_t ids[BLOCKS];
    ids_all(ids);
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    for (int round = 0; round < 30; round++) {
        struct summing summing = {.worker = &holder};
        pthread_t threads[2];
        blocks_fill(&holder, ids, BLOCKS); /* nobody has the blocks but this thread */
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, sum_thread, &summing), 0);
        for (int i = 0; i < 4; i++)
            hand_over(&holder, &receiver, i % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP, OK);
        atomic_store(&summing.stop, true);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(atomic_load(&summing.wrong), 0);
    }
    worker_close(&receiver);
    worker_close(&holder);
}

static int make_folder(void **state)
{
    (void)state;
    return folder_make(LOG_ERROR + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_is_made_once_for_each_filling),
        cmocka_unit_test(both_sides_of_a_handoff_know_its_sums),
        cmocka_unit_test(flips_after_the_sum_are_caught),
        cmocka_unit_test(all_threads_find_the_same),
    };
    return cmocka_run_group_tests(tests, make_folder, folder_remove);
}
