/* tests/unit/store/store_rig.h - a real store process, and workers that use it. */
#ifndef STORE_RIG_H
#define STORE_RIG_H

#include "unit/transfer/worker_sample.h"

#include <sys/prctl.h>
#include <sys/stat.h>

#include "base/loop.h"
#include "kv/layout.h"
#include "store/keeper.h"
#include "store/store.h"

#define WAIT_MS 10000

struct user {
    struct kv_layout *layout;
    struct worker worker;
    struct store *store;
    struct mailbox *reports;
    struct store_report *kept;
};

static struct address store_address;
static bool hello_spoil; /* the next user is of another model */

static void rig_end(void *ctx, int number)
{
    (void)number;
    loop_stop(ctx);
}

/* Fork: the child is the store. */
static inline pid_t rig_store(struct keeper_options options)
{
    char text[ADDRESS_TEXT_BYTES], transfer[ADDRESS_TEXT_BYTES];
    static int number;
    snprintf(text, sizeof(text), "unix:%s/store-%d", folder, ++number);
    snprintf(transfer, sizeof(transfer), "unix:%s/store-transfer-%d", folder, number);
    assert_int_equal(address_parse(text, 0, &store_address), OK);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) {
        struct stat about;
        for (int i = 0; i < 5000 && stat(text + 5, &about) != 0; i++)
            usleep(1000);
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves no process */
    struct loop *loop;
    struct loop_watch *watch;
    struct keeper *keeper;
    log_open("store", LOG_ERROR);
    options.listen = text;
    options.transfer = transfer;
    options.log_level = "error";
    if (loop_open(&loop) != OK || loop_signal_open(loop, SIGTERM, rig_end, loop, &watch) != OK ||
        keeper_open(loop, &options, &keeper) != OK) {
        fprintf(stderr, "store: %s\n", error_text());
        _exit(1);
    }
    loop_run(loop);
    keeper_close(keeper);
    loop_watch_close(watch);
    loop_close(loop);
    _exit(0);
}

static inline void rig_kill(pid_t pid, int signal)
{
    int how;
    assert_int_equal(kill(pid, signal), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    if (signal == SIGTERM)
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

static inline void user_open(struct user *user, const char *name, uint32_t block_count,
                             uint32_t carriers, uint32_t queue)
{
    const struct kv_shape kv = {.layer_count = 3,
                                .kv_head_count = 2,
                                .head_dim = 64,
                                .block_tokens = 16,
                                .dtype = DTYPE_F16,
                                .ranks = 1};
    struct shape shape = {.layer_count = 3, .block_count = block_count};
    memset(user, 0, sizeof(*user));
    assert_int_equal(kv_layout_open(&kv, &user->layout), OK);
    for (uint32_t i = 0; i < 3; i++)
        kv_layout_layer(user->layout, i, &shape.layers[i].offset, &shape.layers[i].bytes);
    shape.block_bytes = user->layout->block_bytes;
    worker_prepare(&user->worker, name, &shape);
    memcpy(user->worker.hello.layout_hash, user->layout->hash, KV_LAYOUT_HASH_BYTES);
    user->worker.hello.fingerprint[0] = hello_spoil;
    worker_start(&user->worker, (struct transfer_options){.carriers = carriers});
    assert_int_equal(mailbox_open(&user->reports), OK);
    const struct store_options options = {
        .address = store_address.text,
        .hello = &user->worker.hello,
        .layout = user->layout,
        .transfer = user->worker.transfer,
        .pool = user->worker.pool,
        .transfer_unix = carriers != TRANSFER_TCP ? user->worker.unix_address.text : NULL,
        .transfer_tcp = carriers != TRANSFER_SHM ? user->worker.tcp_address.text : NULL,
        .reports = user->reports,
        .queue_blocks_max = queue};
    status st = store_open(&options, &user->store);
    if (st != OK)
        fail_msg("store_open: %s", error_text());
}

static inline void user_close(struct user *user)
{
    store_close(user->store);
    for (struct mail *mail = mailbox_take_all(user->reports), *next; mail != NULL; mail = next) {
        next = mail->next;
        store_report_free((struct store_report *)mail);
    }
    mailbox_close(user->reports);
    worker_close(&user->worker);
    kv_layout_close(user->layout);
}

static inline bool user_wait_up(struct user *user, bool up)
{
    for (int i = 0; i < WAIT_MS && store_is_up(user->store) != up; i++)
        usleep(1000);
    return store_is_up(user->store) == up;
}

static inline struct store_report *user_report(struct user *user)
{
    if (user->kept == NULL && mailbox_wait(user->reports, WAIT_MS))
        user->kept = (struct store_report *)mailbox_take_all(user->reports);
    struct store_report *report = user->kept;
    assert_non_null(report);
    user->kept = (struct store_report *)report->mail.next;
    return report;
}

static inline uint32_t user_expect(struct user *user, uint32_t kind, status expected)
{
    struct store_report *report = user_report(user);
    if (report->mail.kind != kind || report->status != expected)
        fail_msg("expected report %x %s, found %x %s: %s", kind, status_name(expected),
                 report->mail.kind, status_name(report->status), report->text);
    uint32_t count = report->count;
    store_report_free(report);
    return count;
}

static inline struct block_key key_of(uint64_t chain, uint32_t i)
{
    /* Keys are hashes: any bytes do, if they differ. */
    struct block_key key;
    struct checksum sum = {.a = (chain * 1000003 + i + 1) * 0x9e3779b97f4a7c15u, .b = chain};
    memcpy(key.bytes, &sum, sizeof(key.bytes));
    return key;
}

static inline void chain_make(uint64_t chain, uint32_t count, const uint32_t *ids,
                              struct store_block *blocks, struct block_key *keys)
{
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = key_of(chain, i);
        blocks[i] = (struct store_block){.key = keys[i], .is_first = i == 0, .id = ids[i]};
        if (i > 0)
            blocks[i].parent = keys[i - 1];
    }
}

static inline void user_add(struct user *user, uint64_t chain, const uint32_t *ids, uint32_t count,
                            uint32_t expiry_ms)
{
    struct store_block blocks[256];
    struct block_key keys[256];
    chain_make(chain, count, ids, blocks, keys);
    assert_int_equal(store_add(user->store, chain, blocks, count, expiry_ms), OK);
    assert_int_equal(user_expect(user, STORE_ADDED, OK), count);
}

/* Until a find says so: adds and deletes are seen at once, disk and expiry later. */
static inline uint32_t user_find(struct user *user, uint64_t chain, uint32_t count)
{
    struct block_key keys[256];
    for (uint32_t i = 0; i < count; i++)
        keys[i] = key_of(chain, i);
    assert_int_equal(store_find(user->store, chain, keys, count, WAIT_MS), OK);
    return user_expect(user, STORE_FOUND, OK);
}

static inline uint32_t user_get(struct user *user, uint64_t chain, const uint32_t *ids,
                                uint32_t count, status expected)
{
    struct block_key keys[256];
    for (uint32_t i = 0; i < count; i++)
        keys[i] = key_of(chain, i);
    assert_int_equal(store_get(user->store, chain, keys, ids, count, WAIT_MS), OK);
    return user_expect(user, STORE_GOT, expected);
}

/* Until so many blocks, of 28 KiB each with their heads, are in the folder's files. */
static inline void wait_on_disk(const char *disk, uint32_t blocks)
{
    for (int i = 0; i < 20000; i++) {
        off_t bytes = 0;
        for (uint32_t number = 0; number < 100; number++) {
            char path[256];
            struct stat about;
            snprintf(path, sizeof(path), "%s/segment-%08u", disk, number);
            bytes += stat(path, &about) == 0 ? about.st_size - 4096 + 4095 : 0;
        }
        if (bytes >= (off_t)blocks * 28672)
            return;
        usleep(1000);
    }
    fail_msg("%u blocks were not on disk within 20 s", blocks);
}

/* ---- what damages memory: the block pool of a store process, written behind its back ---- */

struct damage {
    int fd; /* of the process' memory */
    off_t at;
    size_t bytes, block_bytes;
    uint8_t *copy;
};

static inline void damage_open(struct damage *damage, pid_t pid, size_t block_bytes)
{
    char path[64], line[512];
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    memset(damage, 0, sizeof(*damage));
    while (damage->bytes == 0 && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long long from, to;
        if (strstr(line, "memfd:baton-store") == NULL || sscanf(line, "%llx-%llx", &from, &to) != 2)
            continue;
        damage->at = (off_t)from;
        damage->bytes = (size_t)(to - from);
    }
    fclose(maps);
    assert_true(damage->bytes > 0);
    snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
    damage->fd = open(path, O_RDWR | O_CLOEXEC);
    damage->block_bytes = block_bytes;
    damage->copy = malloc(damage->bytes);
    assert_true(damage->fd >= 0 && damage->copy != NULL);
}

static inline void damage_close(struct damage *damage)
{
    close(damage->fd);
    free(damage->copy);
}

/* Look at the pool as it is now. */
static inline void damage_look(struct damage *damage)
{
    assert_int_equal(pread(damage->fd, damage->copy, damage->bytes, damage->at),
                     (ssize_t)damage->bytes);
}

/* Flip a bit of the block that has this content; slots that were given back may hold a copy. */
static inline void damage_flip(struct damage *damage, const uint8_t *block)
{
    size_t byte = random_below((uint32_t)damage->block_bytes);
    uint8_t flipped = block[byte] ^ (uint8_t)(1u << random_below(8));
    bool found = false;
    for (size_t at = 0; at + damage->block_bytes <= damage->bytes; at += damage->block_bytes) {
        if (memcmp(damage->copy + at, block, damage->block_bytes) != 0)
            continue;
        found = true;
        assert_int_equal(pwrite(damage->fd, &flipped, 1, damage->at + (off_t)(at + byte)), 1);
    }
    assert_true(found);
}

/* Until the store has, or has not, this one block. */
static inline void user_wait_find(struct user *user, uint64_t chain, uint32_t i, bool there)
{
    const struct block_key key = key_of(chain, i);
    for (int n = 0; n < WAIT_MS; n++) {
        assert_int_equal(store_find(user->store, chain, &key, 1, WAIT_MS), OK);
        if (user_expect(user, STORE_FOUND, OK) == there)
            return;
        usleep(1000);
    }
    fail_msg("block %u of chain %llu: expected %d within %d ms", i, (unsigned long long)chain,
             there, WAIT_MS);
}

#endif
