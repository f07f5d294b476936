/* A real store process and workers that add to it and get from it, over shm and tcp. */
#include "unit/store/store_rig.h"

static const struct keeper_options small = {.carrier = "auto", .memory_bytes = 64 * 24576};

static void fill_ids(uint32_t *ids, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ids[i] = first + i;
}

static void what_is_added_is_got(uint32_t carriers, const char *store_carrier)
{
    struct user a, b;
    uint32_t ids[64], to[64];
    struct keeper_options options = small;
    struct store_counters counters;
    options.carrier = store_carrier;
    pid_t pid = rig_store(options);
    user_open(&a, "a", 64, carriers, 0);
    user_open(&b, "b", 64, carriers, 0);
    assert_true(user_wait_up(&a, true) && user_wait_up(&b, true));
    fill_ids(ids, 0, 20);
    fill_ids(to, 30, 24);
    blocks_fill(&a.worker, ids, 20);
    assert_int_equal(user_find(&b, 1, 20), 0);
    assert_int_equal(user_get(&b, 1, to, 20, OK), 0);
    user_add(&a, 1, ids, 20, 0);
    assert_int_equal(user_find(&b, 1, 24), 20);
    assert_int_equal(user_get(&b, 1, to, 24, OK), 20);
    blocks_compare(&a.worker, ids, &b.worker, to, 0, 20);
    /* The second time nothing moves. */
    struct transfer_counters before, after;
    transfer_counters_read(a.worker.transfer, &before);
    user_add(&a, 1, ids, 20, 0);
    user_add(&a, 1, ids, 20, 0);
    transfer_counters_read(a.worker.transfer, &after);
    for (int i = 0; i < TRANSFER_CARRIERS; i++)
        assert_int_equal(before.carriers[i].sent_bytes, after.carriers[i].sent_bytes);
    store_count(a.store, &counters);
    assert_int_equal(counters.added_blocks, 60);
    assert_int_equal(counters.queued_blocks, 0);
    user_close(&a);
    user_close(&b);
    rig_kill(pid, SIGTERM);
}

static void added_blocks_are_got_over_shm(void **state)
{
    (void)state;
    what_is_added_is_got(TRANSFER_SHM, "shm");
}

static void added_blocks_are_got_over_tcp(void **state)
{
    (void)state;
    what_is_added_is_got(TRANSFER_TCP, "tcp");
}

/* More than is offered in a step, and a part of it is there already. */
static void a_long_add_is_whole(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        struct user a;
        uint32_t ids[150], to[150];
        struct keeper_options options = small;
        options.carrier = tcp ? "tcp" : "shm";
        options.memory_bytes = 256 * 24576;
        pid_t pid = rig_store(options);
        user_open(&a, "a", 300, tcp ? TRANSFER_TCP : TRANSFER_SHM, 0);
        assert_true(user_wait_up(&a, true));
        fill_ids(ids, 0, 150);
        fill_ids(to, 150, 150);
        blocks_fill(&a.worker, ids, 150);
        user_add(&a, 1, ids, 7, 0);
        user_add(&a, 1, ids, 150, 0);
        assert_int_equal(user_get(&a, 1, to, 150, OK), 150);
        blocks_compare(&a.worker, ids, &a.worker, to, 0, 150);
        user_close(&a);
        rig_kill(pid, SIGTERM);
    }
}

static void more_than_memory_evicts_the_oldest(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[64], to[32];
    pid_t pid = rig_store(small);
    user_open(&a, "a", 128, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 30);
    fill_ids(to, 64, 32);
    blocks_fill(&a.worker, ids, 30);
    for (uint64_t chain = 1; chain <= 3; chain++)
        user_add(&a, chain, ids, 30, 0);
    assert_true(user_find(&a, 1, 30) < 30);
    assert_int_equal(user_find(&a, 3, 30), 30);
    assert_int_equal(user_get(&a, 3, to, 30, OK), 30);
    blocks_compare(&a.worker, ids, &a.worker, to, 0, 30);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

static void a_short_life_ends(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[4];
    pid_t pid = rig_store(small);
    user_open(&a, "a", 16, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 4);
    user_add(&a, 1, ids, 4, 1500);
    user_add(&a, 2, ids, 4, 0);
    assert_int_equal(user_find(&a, 1, 4), 4);
    usleep(1600000);
    assert_int_equal(user_find(&a, 1, 4), 0);
    assert_int_equal(user_find(&a, 2, 4), 4);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* The store dies: calls end, none hangs; it is found again when it is back. */
static void store_lost(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[4], to[4];
    struct block_key keys[4];
    struct store_block blocks[4];
    struct store_counters counters;
    pid_t pid = rig_store(small);
    user_open(&a, "a", 16, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 4);
    fill_ids(to, 8, 4);
    user_add(&a, 1, ids, 4, 0);
    /* Stopped: an add and a get are under way when it is killed. */
    assert_int_equal(kill(pid, SIGSTOP), 0);
    chain_make(2, 4, ids, blocks, keys);
    assert_int_equal(store_add(a.store, 7, blocks, 4, 0), OK);
    assert_int_equal(store_get(a.store, 8, keys, to, 4, 300), OK);
    assert_int_equal(user_expect(&a, STORE_GOT, ERR_TIMEOUT), 0); /* the deadline */
    assert_int_equal(store_get(a.store, 9, keys, to, 4, 20000), OK);
    store_cancel(a.store, 9);
    assert_int_equal(user_expect(&a, STORE_GOT, ERR_CANCELLED), 0);
    rig_kill(pid, SIGKILL);
    assert_int_equal(user_expect(&a, STORE_ADDED, ERR_CLOSED), 0);
    assert_true(user_wait_up(&a, false));
    assert_int_equal(store_add(a.store, 7, blocks, 4, 0), ERR_CLOSED);
    assert_int_equal(store_get(a.store, 8, keys, to, 4, 300), ERR_CLOSED);
    store_count(a.store, &counters);
    assert_int_equal(counters.dropped_blocks, 4);
    assert_int_equal(counters.failed_blocks, 4);
    user_close(&a);
}

static void an_add_of_more_than_fits_says_what_was_kept(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[70];
    struct block_key keys[70];
    struct store_block blocks[70];
    pid_t pid = rig_store(small);
    user_open(&a, "a", 70, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 70);
    blocks_fill(&a.worker, ids, 70);
    chain_make(1, 70, ids, blocks, keys);
    assert_int_equal(store_add(a.store, 1, blocks, 70, 0), OK);
    assert_int_equal(user_expect(&a, STORE_ADDED, OK), 64);
    assert_int_equal(user_find(&a, 1, 70), 64);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* A get that is given up before the store has heard of it: its blocks are pinned for nobody. */
static void a_get_given_up_pins_nothing(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[60];
    struct block_key keys[30], others[60];
    struct store_block blocks[60];
    uint32_t kept = 0;
    pid_t pid = rig_store(small);
    user_open(&a, "a", 64, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 60);
    blocks_fill(&a.worker, ids, 60);
    user_add(&a, 1, ids, 30, 0);
    for (uint32_t i = 0; i < 30; i++)
        keys[i] = key_of(1, i);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(store_get(a.store, 9, keys, ids, 30, 20000), OK);
    store_cancel(a.store, 9);
    assert_int_equal(user_expect(&a, STORE_GOT, ERR_CANCELLED), 0);
    assert_int_equal(kill(pid, SIGCONT), 0);
    /* 64 slots: 60 blocks have room when none of the 30 is pinned. */
    uint64_t end_ns = clock_ns() + 1000000000u;
    for (uint64_t chain = 2; kept < 60 && clock_ns() < end_ns; chain++) {
        chain_make(chain, 60, ids, blocks, others);
        assert_int_equal(store_add(a.store, chain, blocks, 60, 0), OK);
        (void)user_expect(&a, STORE_ADDED, OK);
        kept = user_find(&a, chain, 60);
    }
    assert_int_equal(kept, 60);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

static void a_bounded_queue_is_counted(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[8];
    struct block_key keys[8];
    struct store_block blocks[8];
    struct store_counters counters;
    pid_t pid = rig_store(small);
    user_open(&a, "a", 16, 0, 10);
    assert_true(user_wait_up(&a, true));
    assert_int_equal(kill(pid, SIGSTOP), 0);
    fill_ids(ids, 0, 8);
    chain_make(1, 8, ids, blocks, keys);
    assert_int_equal(store_add(a.store, 1, blocks, 8, 0), OK);
    assert_int_equal(store_add(a.store, 2, blocks, 8, 0), ERR_FULL);
    assert_int_equal(store_add(a.store, 3, blocks, 2, 0), OK);
    store_count(a.store, &counters);
    assert_int_equal(counters.dropped_blocks, 8);
    assert_int_equal(counters.queued_blocks, 10);
    assert_int_equal(kill(pid, SIGCONT), 0);
    uint32_t kept = user_expect(&a, STORE_ADDED, OK);
    kept += user_expect(&a, STORE_ADDED, OK); /* in either order */
    assert_int_equal(kept, 10);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* Gets from a memory that is full, beside adds that want its slots: what arrives is right. */
static void store_lease_against_in_flight_read(void **state)
{
    (void)state;
    struct user a, b;
    uint32_t ids[30], to[30];
    struct block_key keys[30];
    struct store_block blocks[30];
    struct keeper_options options = small;
    pid_t pid = rig_store(options);
    user_open(&a, "a", 64, 0, 4096);
    user_open(&b, "b", 64, 0, 4096);
    assert_true(user_wait_up(&a, true) && user_wait_up(&b, true));
    fill_ids(ids, 0, 30);
    fill_ids(to, 30, 30);
    blocks_fill(&a.worker, ids, 30);
    blocks_fill(&b.worker, ids, 30);
    for (int round = 0; round < 30; round++) {
        uint64_t mine = 1000 + (uint64_t)round;
        user_add(&a, mine, ids, 30, 0);
        for (uint32_t i = 0; i < 30; i++)
            keys[i] = key_of(mine, i);
        assert_int_equal(store_get(a.store, 1, keys, to, 30, WAIT_MS), OK);
        for (uint64_t chain = 0; chain < 4; chain++) {
            struct block_key others[30];
            chain_make(5000 + (uint64_t)round * 4 + chain, 30, ids, blocks, others);
            assert_int_equal(store_add(b.store, chain, blocks, 30, 0), OK);
        }
        struct store_report *got = user_report(&a);
        assert_int_equal(got->status, OK);
        if (got->count > 0)
            blocks_compare(&a.worker, ids, &a.worker, to, 0, got->count);
        store_report_free(got);
        for (int i = 0; i < 4; i++)
            store_report_free(user_report(&b)); /* some are refused: every slot is pinned */
    }
    user_close(&a);
    user_close(&b);
    rig_kill(pid, SIGTERM);
}

/* What was written to disk is there after kill -9. */
static void killed_and_found_again(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[20], to[20];
    char disk[128];
    struct keeper_options options = small;
    snprintf(disk, sizeof(disk), "%s/disk", folder);
    options.disk = disk;
    options.disk_bytes = 64 << 20;
    pid_t pid = rig_store(options);
    user_open(&a, "a", 64, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 20);
    fill_ids(to, 30, 20);
    blocks_fill(&a.worker, ids, 20);
    user_add(&a, 1, ids, 20, 0);
    user_add(&a, 2, ids, 20, 60000); /* not for the disk */
    wait_on_disk(disk, 20);
    rig_kill(pid, SIGKILL);
    size_t bytes = 20 * a.worker.pool.block_bytes;
    uint8_t *kept = malloc(bytes);
    memcpy(kept, block_at(&a.worker, 0), bytes);
    user_close(&a);
    pid = rig_store(options);
    user_open(&a, "a2", 64, 0, 0);
    assert_true(user_wait_up(&a, true));
    assert_int_equal(user_find(&a, 2, 20), 0);
    assert_int_equal(user_get(&a, 1, to, 20, OK), 20);
    assert_memory_equal(block_at(&a.worker, 30), kept, bytes);
    free(kept);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* Blocks that were just written or sent keep their slots until the store has heard of it, and for
 * that moment there is no room to load others: what is on disk is all got when it is asked for
 * again. */
static void user_get_all(struct user *user, uint64_t chain, const uint32_t *ids, uint32_t count)
{
    for (int i = 0; i < WAIT_MS / 10; i++) {
        if (user_get(user, chain, ids, count, OK) == count)
            return;
        usleep(10000);
    }
    fail_msg("chain %llu was not got within %d ms", (unsigned long long)chain, WAIT_MS);
}

/* Memory is smaller than the chains: they come back from the disk, byte for byte. */
static void disk_gives_back_what_memory_evicted(void **state)
{
    (void)state;
    struct user a;
    uint32_t ids[40], to[40];
    char disk[128];
    struct keeper_options options = small;
    snprintf(disk, sizeof(disk), "%s/disk2", folder);
    options.disk = disk;
    options.disk_bytes = 256 << 20;
    /* Two chains fit: that of the last get is pinned until the store has heard that it arrived. */
    options.memory_bytes = 96 * 24576;
    pid_t pid = rig_store(options);
    user_open(&a, "a", 128, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 40);
    fill_ids(to, 64, 40);
    blocks_fill(&a.worker, ids, 40);
    for (uint64_t chain = 1; chain <= 5; chain++) {
        user_add(&a, chain, ids, 40, 0);
        wait_on_disk(disk, (uint32_t)chain * 40);
    }
    for (uint64_t chain = 1; chain <= 5; chain++) {
        memset(block_at(&a.worker, 64), POISON, 40 * a.worker.pool.block_bytes);
        user_get_all(&a, chain, to, 40);
        blocks_compare(&a.worker, ids, &a.worker, to, 0, 40);
    }
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* Wait until what goes to stderr since it went to file says the word. */
static bool wait_said(FILE *file, const char *word)
{
    char text[4096];
    for (int i = 0; i < WAIT_MS; i++) {
        ssize_t bytes = pread(fileno(file), text, sizeof(text) - 1, 0);
        text[bytes > 0 ? bytes : 0] = '\0';
        if (strstr(text, word) != NULL)
            return true;
        usleep(1000);
    }
    return false;
}

static void store_of_another_model(void **state)
{
    (void)state;
    struct user a, b;
    FILE *said = tmpfile();
    int err = dup(STDERR_FILENO);
    assert_true(said != NULL && err >= 0);
    pid_t pid = rig_store(small);
    user_open(&a, "a", 16, 0, 0);
    assert_true(user_wait_up(&a, true));
    user_open(&b, "b", 16, 0, 0);
    assert_true(user_wait_up(&b, true));
    user_close(&b);
    hello_spoil = true;
    dup2(fileno(said), STDERR_FILENO);
    user_open(&b, "c", 16, 0, 0);
    bool named = wait_said(said, "model fingerprint");
    dup2(err, STDERR_FILENO);
    close(err);
    fclose(said);
    hello_spoil = false;
    assert_true(named);
    assert_false(store_is_up(b.store));
    user_close(&b);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

static int make_folder(void **state)
{
    (void)state;
    return folder_make(LOG_WARN); /* one test reads what is said */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(added_blocks_are_got_over_shm),
        cmocka_unit_test(added_blocks_are_got_over_tcp),
        cmocka_unit_test(a_long_add_is_whole),
        cmocka_unit_test(more_than_memory_evicts_the_oldest),
        cmocka_unit_test(a_short_life_ends),
        cmocka_unit_test(store_lost),
        cmocka_unit_test(an_add_of_more_than_fits_says_what_was_kept),
        cmocka_unit_test(a_get_given_up_pins_nothing),
        cmocka_unit_test(a_bounded_queue_is_counted),
        cmocka_unit_test(store_lease_against_in_flight_read),
        cmocka_unit_test(killed_and_found_again),
        cmocka_unit_test(disk_gives_back_what_memory_evicted),
        cmocka_unit_test(store_of_another_model),
    };
    return cmocka_run_group_tests(tests, make_folder, folder_remove);
}
