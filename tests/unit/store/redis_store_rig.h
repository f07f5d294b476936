/* tests/unit/store/redis_store_rig.h - a store in a real Redis, and a pool of blocks to add to it
 * and get from it. */
#ifndef REDIS_STORE_RIG_H
#define REDIS_STORE_RIG_H

#include "store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "redis_rig.h"

#define BLOCK_BYTES 65536
#define POOL_BLOCKS 512

struct store_rig {
    struct store *store;
    struct mailbox *reports;
    uint8_t *pool;
    struct hello hello;
};

static inline void fill(uint8_t *block, uint32_t number)
{
    uint64_t x = number * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < BLOCK_BYTES; i += sizeof(x)) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(block + i, &x, sizeof(x));
    }
}

static inline bool is_filled(const uint8_t *block, uint32_t number)
{
    static uint8_t wanted[BLOCK_BYTES];
    fill(wanted, number);
    return memcmp(block, wanted, BLOCK_BYTES) == 0;
}

static inline struct block_key key_of(uint32_t number)
{
    struct block_key key = {.bytes = {1, 2, 3}};
    memcpy(key.bytes + 4, &number, sizeof(number));
    return key;
}

static inline void rig_open_at(struct store_rig *rig, const char *address, uint32_t queue)
{
    *rig = (struct store_rig){.hello.fingerprint = {9}};
    rig->pool = calloc(POOL_BLOCKS, BLOCK_BYTES);
    assert_non_null(rig->pool);
    assert_int_equal(mailbox_open(&rig->reports), OK);
    struct store_options options = {
        .address = address,
        .hello = &rig->hello,
        .pool = {.host = rig->pool, .block_count = POOL_BLOCKS, .block_bytes = BLOCK_BYTES},
        .reports = rig->reports,
        .queue_blocks_max = queue,
        .connect_ms = 1000};
    assert_int_equal(store_open(&options, &rig->store), OK);
}

static inline bool wait_up(struct store_rig *rig, bool up, int timeout_ms)
{
    for (int i = 0; i < timeout_ms / 5 && store_is_up(rig->store) != up; i++)
        rig_sleep_ms(5);
    return store_is_up(rig->store) == up;
}

static inline void rig_open(struct store_rig *rig, const struct redis_server *server)
{
    char address[128];
    snprintf(address, sizeof(address), "redis://127.0.0.1:%d", server->port);
    rig_open_at(rig, address, 0);
    assert_true(wait_up(rig, true, 5000));
}

static inline void rig_close(struct store_rig *rig)
{
    store_close(rig->store);
    for (struct mail *m = mailbox_take_all(rig->reports), *next; m != NULL; m = next) {
        next = m->next;
        store_report_free((struct store_report *)m);
    }
    mailbox_close(rig->reports);
    free(rig->pool);
}

static inline struct store_report take(struct store_rig *rig, int timeout_ms)
{
    assert_true(mailbox_wait(rig->reports, timeout_ms));
    struct mail *mail = mailbox_take_all(rig->reports);
    struct store_report report = *(struct store_report *)mail;
    assert_null(mail->next);
    store_report_free((struct store_report *)mail);
    return report;
}

/* Blocks first .. first + count as a chain, from pool places at. */
static inline struct store_report add(struct store_rig *rig, uint32_t first, uint32_t count,
                                      block_id at, uint32_t expiry_ms)
{
    struct store_block *blocks = calloc(count, sizeof(*blocks));
    for (uint32_t i = 0; i < count; i++) {
        fill(rig->pool + (size_t)(at + i) * BLOCK_BYTES, first + i);
        blocks[i] = (struct store_block){
            .key = key_of(first + i), .is_first = first + i == 0, .id = at + i};
        if (first + i > 0)
            blocks[i].parent = key_of(first + i - 1);
    }
    assert_int_equal(store_add(rig->store, 7, blocks, count, expiry_ms), OK);
    free(blocks);
    struct store_report report = take(rig, 40000);
    assert_int_equal(report.mail.kind, STORE_ADDED);
    assert_int_equal(report.ticket, 7);
    return report;
}

static inline void ask(struct store_rig *rig, bool get, uint32_t first, uint32_t count, block_id at,
                       uint32_t deadline_ms)
{
    struct block_key keys[POOL_BLOCKS];
    block_id ids[POOL_BLOCKS];
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = key_of(first + i);
        ids[i] = at + i;
    }
    if (get)
        memset(rig->pool + (size_t)at * BLOCK_BYTES, 0xee, (size_t)count * BLOCK_BYTES);
    assert_int_equal(get ? store_get(rig->store, 8, keys, ids, count, deadline_ms)
                         : store_find(rig->store, 8, keys, count, deadline_ms),
                     OK);
}

/* Get, and check that exactly the reported leading blocks are whole. */
static inline struct store_report get(struct store_rig *rig, uint32_t first, uint32_t count,
                                      block_id at)
{
    ask(rig, true, first, count, at, 15000);
    struct store_report report = take(rig, 20000);
    assert_int_equal(report.mail.kind, STORE_GOT);
    for (uint32_t i = 0; i < report.count; i++)
        assert_true(is_filled(rig->pool + (size_t)(at + i) * BLOCK_BYTES, first + i));
    return report;
}

static inline uint32_t find(struct store_rig *rig, uint32_t first, uint32_t count)
{
    ask(rig, false, first, count, 0, 5000);
    struct store_report report = take(rig, 10000);
    assert_int_equal(report.mail.kind, STORE_FOUND);
    assert_int_equal(report.status, OK);
    return report.count;
}

#endif
