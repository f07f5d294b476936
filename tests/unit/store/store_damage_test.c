/* Bits that flip in the memory of a store process, under blocks that are published: each is found
 * by whoever gets the block, over shm and tcp, none is served, and the store lets go of the block,
 * so that it can be added, or read from its disk, again. */
#include "unit/store/store_rig.h"

#define BLOCKS 8u
#define FLIPS 10000u

static void fill_ids(uint32_t *ids, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ids[i] = first + i;
}

static void flipped_bits_in_memory_are_caught(void **state)
{
    (void)state;
    const struct keeper_options options = {
        .carrier = "auto", .transfer_tcp = "127.0.0.1:0", .memory_bytes = 24 * 24576};
    struct user shm, tcp;
    struct damage damage;
    uint32_t ids[BLOCKS], to[BLOCKS], flips = 0, rounds = 0;
    pid_t pid = rig_store(options);
    user_open(&shm, "shm", 2 * BLOCKS, TRANSFER_SHM, 0);
    user_open(&tcp, "tcp", 2 * BLOCKS, TRANSFER_TCP, 0);
    assert_true(user_wait_up(&shm, true) && user_wait_up(&tcp, true));
    fill_ids(ids, 0, BLOCKS);
    fill_ids(to, BLOCKS, BLOCKS);
    blocks_fill(&shm.worker, ids, BLOCKS);
    user_add(&shm, 1, ids, BLOCKS, 0);
    damage_open(&damage, pid, shm.worker.pool.block_bytes);
    for (; flips < FLIPS; rounds++) {
        struct user *user = rounds % 2 == 0 ? &shm : &tcp;
        uint32_t which = 1 + random_below((1u << BLOCKS) - 1);
        damage_look(&damage);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            if ((which >> i & 1) == 0)
                continue;
            damage_flip(&damage, block_at(&shm.worker, ids[i]));
            flips++;
        }
        user_get(user, 1, to, BLOCKS, ERR_CORRUPT);
        /* Exactly those are gone; added again, all are right. */
        for (uint32_t i = 0; i < BLOCKS; i++)
            user_wait_find(user, 1, i, (which >> i & 1) == 0);
        user_add(&shm, 1, ids, BLOCKS, 0);
        assert_int_equal(user_get(user, 1, to, BLOCKS, OK), BLOCKS);
        blocks_compare(&shm.worker, ids, &user->worker, to, 0, BLOCKS);
    }
    struct store_counters counted[2];
    store_count(shm.store, &counted[0]);
    store_count(tcp.store, &counted[1]);
    assert_int_equal(counted[0].checksum_failures + counted[1].checksum_failures, rounds);
    print_message("%u flips in %u gets: all found\n", flips, rounds);
    damage_close(&damage);
    user_close(&shm);
    user_close(&tcp);
    rig_kill(pid, SIGTERM);
}

/* A block that lies on the disk too comes from there, and nobody needs to add it. */
static void the_disk_has_it_still(void **state)
{
    (void)state;
    struct keeper_options options = {
        .carrier = "auto", .memory_bytes = 24 * 24576, .disk_bytes = 64 << 20};
    struct user user;
    struct damage damage;
    uint32_t ids[BLOCKS], to[BLOCKS];
    char disk[128];
    snprintf(disk, sizeof(disk), "%s/damage", folder);
    options.disk = disk;
    pid_t pid = rig_store(options);
    user_open(&user, "user", 2 * BLOCKS, 0, 0);
    assert_true(user_wait_up(&user, true));
    fill_ids(ids, 0, BLOCKS);
    fill_ids(to, BLOCKS, BLOCKS);
    blocks_fill(&user.worker, ids, BLOCKS);
    user_add(&user, 1, ids, BLOCKS, 0);
    wait_on_disk(disk, BLOCKS);
    usleep(200000); /* the last one's report */
    damage_open(&damage, pid, user.worker.pool.block_bytes);
    for (uint32_t round = 0; round < 40; round++) {
        damage_look(&damage);
        damage_flip(&damage, block_at(&user.worker, ids[round % BLOCKS]));
        user_get(&user, 1, to, BLOCKS, ERR_CORRUPT);
        memset(block_at(&user.worker, BLOCKS), POISON, BLOCKS * user.worker.pool.block_bytes);
        for (int i = 0; i < WAIT_MS; i++) { /* until the store has heard of it */
            struct block_key keys[BLOCKS];
            for (uint32_t k = 0; k < BLOCKS; k++)
                keys[k] = key_of(1, k);
            assert_int_equal(store_get(user.store, 1, keys, to, BLOCKS, WAIT_MS), OK);
            struct store_report *report = user_report(&user);
            status got = report->status;
            assert_true(got == ERR_CORRUPT || (got == OK && report->count == BLOCKS));
            store_report_free(report);
            if (got == OK)
                break;
            usleep(1000);
        }
        blocks_compare(&user.worker, ids, &user.worker, to, 0, BLOCKS);
    }
    damage_close(&damage);
    user_close(&user);
    rig_kill(pid, SIGTERM);
}

static int make_folder(void **state)
{
    (void)state;
    return folder_make(LOG_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipped_bits_in_memory_are_caught),
        cmocka_unit_test(the_disk_has_it_still),
    };
    return cmocka_run_group_tests(tests, make_folder, folder_remove);
}
