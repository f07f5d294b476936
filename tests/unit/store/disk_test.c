/* The disk tier alone: what was written comes back, and what was damaged never does. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "store/disk.h"

#define LAYERS 2
#define BLOCK_BYTES 3000
#define RECORDS 40
#define FLIPS 10000

static char folder[64], disk_folder[128];
static struct transfer_slice layers[LAYERS] = {{0, 1500}, {1500, 1500}};

struct rig {
    struct disk_shape shape;
    struct mailbox *reports;
    struct disk *disk;
    uint32_t found;
    bool here[RECORDS];
    struct disk_place places[RECORDS];
};

static struct block_key key_of(uint32_t i)
{
    struct block_key key = {{0}};
    memcpy(key.bytes, &i, sizeof(i));
    key.bytes[15] = 7;
    return key;
}

/* Content follows from the number, so that another process can tell whether it is right. */
static void block_of(uint32_t i, uint8_t block[BLOCK_BYTES])
{
    uint64_t state = (i + 1) * 0x9e3779b97f4a7c15u;
    for (uint32_t b = 0; b < BLOCK_BYTES; b++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block[b] = (uint8_t)(state >> 20);
    }
}

static void sums_of(const uint8_t *block, struct checksum sums[LAYERS])
{
    for (uint32_t l = 0; l < LAYERS; l++)
        sums[l] = checksum_of(block + layers[l].offset, layers[l].bytes);
}

static void on_found(void *ctx, const struct disk_record *record, struct disk_place place)
{
    struct rig *rig = ctx;
    uint32_t i;
    uint8_t block[BLOCK_BYTES];
    struct checksum sums[LAYERS];
    memcpy(&i, record->key.bytes, sizeof(i));
    assert_true(i < RECORDS);
    struct block_key key = key_of(i);
    assert_true(block_key_equal(&record->key, &key));
    block_of(i, block);
    sums_of(block, sums);
    assert_memory_equal(record->checksums, sums, sizeof(sums));
    rig->found++;
    rig->here[i] = true;
    rig->places[i] = place;
}

static status rig_try(struct rig *rig, uint64_t bytes_max, uint64_t segment_bytes)
{
    memset(rig, 0, sizeof(*rig));
    rig->shape = (struct disk_shape){.hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                                               .block_tokens = 16,
                                               .kv_dtype = 1,
                                               .ranks = 1},
                                     .block_bytes = BLOCK_BYTES,
                                     .layer_count = LAYERS,
                                     .layers = layers};
    assert_int_equal(mailbox_open(&rig->reports), OK);
    const struct disk_options options = {.folder = disk_folder,
                                         .bytes_max = bytes_max,
                                         .segment_bytes = segment_bytes,
                                         .shape = &rig->shape,
                                         .retry_ms = 100,
                                         .reports = rig->reports};
    status st = disk_open(&options, on_found, rig, &rig->disk);
    if (st != OK)
        mailbox_close(rig->reports);
    return st;
}

static void rig_open(struct rig *rig, uint64_t bytes_max, uint64_t segment_bytes)
{
    if (rig_try(rig, bytes_max, segment_bytes) != OK)
        fail_msg("disk_open: %s", error_text());
}

static struct disk_report *rig_report(struct rig *rig)
{
    static struct mail *kept;
    if (kept == NULL && mailbox_wait(rig->reports, 10000))
        kept = mailbox_take_all(rig->reports);
    struct mail *mail = kept;
    assert_non_null(mail);
    kept = mail->next;
    return (struct disk_report *)mail;
}

static void rig_close(struct rig *rig)
{
    disk_close(rig->disk);
    for (struct mail *mail = mailbox_take_all(rig->reports), *next; mail != NULL; mail = next) {
        next = mail->next;
        free(mail);
    }
    mailbox_close(rig->reports);
}

/* What moved or went is noted on the way to the report that is waited for. */
static status rig_expect(struct rig *rig, uint32_t kind, struct disk_place *place_out)
{
    for (;;) {
        struct disk_report *report = rig_report(rig);
        uint32_t i, got = report->mail.kind;
        status st = report->status;
        memcpy(&i, report->key.bytes, sizeof(i));
        if (got == DISK_MOVED)
            rig->places[i] = report->place;
        if (got == DISK_EVICTED)
            rig->here[i] = false;
        if (got == kind && place_out != NULL)
            *place_out = report->place;
        free(report);
        if (got == kind)
            return st;
    }
}

static status rig_write(struct rig *rig, uint32_t i)
{
    uint8_t block[BLOCK_BYTES];
    struct checksum sums[LAYERS];
    block_of(i, block);
    sums_of(block, sums);
    const struct disk_record record = {.key = key_of(i),
                                       .parent = key_of(i > 0 ? i - 1 : 0),
                                       .is_first = i == 0,
                                       .checksums = sums};
    status st = disk_write(rig->disk, i, &record, block);
    if (st == OK)
        st = rig_expect(rig, DISK_WRITTEN, &rig->places[i]);
    rig->here[i] = st == OK;
    return st;
}

/* The block comes back as it was, or not at all. */
static status rig_read(struct rig *rig, uint32_t i)
{
    uint8_t block[BLOCK_BYTES], expected[BLOCK_BYTES];
    struct checksum sums[LAYERS];
    struct block_key key = key_of(i);
    block_of(i, expected);
    sums_of(expected, sums);
    memset(block, 0xdb, sizeof(block));
    assert_int_equal(disk_read(rig->disk, i, &key, rig->places[i], sums, block), OK);
    status st = rig_expect(rig, DISK_READ, NULL);
    if (st == OK)
        assert_memory_equal(block, expected, BLOCK_BYTES);
    return st;
}

static void empty_folder(void)
{
    char command[256];
    snprintf(command, sizeof(command), "rm -rf %s", disk_folder);
    assert_int_equal(system(command), 0);
}

static void path_of(uint32_t segment, char *path, size_t bytes)
{
    snprintf(path, bytes, "%s/segment-%08u", disk_folder, segment);
}

static off_t size_of(uint32_t segment)
{
    char path[256];
    struct stat about;
    path_of(segment, path, sizeof(path));
    return stat(path, &about) == 0 ? about.st_size : -1;
}

static void written_is_found_again(void **state)
{
    (void)state;
    struct rig rig;
    struct disk_shape shape;
    empty_folder();
    assert_int_equal(disk_learn(disk_folder, &shape), ERR_NOT_FOUND);
    rig_open(&rig, 64 << 20, 64 << 10);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(rig_write(&rig, i), OK);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(rig_read(&rig, i), OK);
    struct block_key key = key_of(5);
    disk_forget(rig.disk, &key, rig.places[5]);
    assert_int_equal(rig_read(&rig, 5), ERR_NOT_FOUND);
    struct rig second;
    assert_int_equal(rig_try(&second, 64 << 20, 64 << 10), ERR_REFUSED); /* in use */
    rig_close(&rig);
    assert_int_equal(disk_learn(disk_folder, &shape), OK);
    assert_int_equal(shape.block_bytes, BLOCK_BYTES);
    assert_int_equal(shape.layer_count, LAYERS);
    free(shape.layers);
    rig_open(&rig, 64 << 20, 64 << 10);
    assert_int_equal(rig.found, RECORDS - 1);
    assert_false(rig.here[5]);
    for (uint32_t i = 0; i < RECORDS; i++) {
        if (i != 5)
            assert_int_equal(rig_read(&rig, i), OK);
    }
    rig_close(&rig);
}

/* Cut the last file at every one of many lengths: whole records stay, the torn one goes, and the
 * next write follows the last whole one. */
static void a_torn_end_is_cut_off(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        struct rig rig;
        char path[256];
        empty_folder();
        rig_open(&rig, 64 << 20, 4 << 20);
        off_t ends[6] = {size_of(0)};
        for (uint32_t i = 0; i < 5; i++) {
            assert_int_equal(rig_write(&rig, i), OK);
            ends[i + 1] = size_of(0);
        }
        rig_close(&rig);
        path_of(0, path, sizeof(path));
        off_t cut = ends[1] + (ends[5] - ends[1]) * (off_t)round / 60;
        uint32_t whole = 0;
        while (whole < 5 && ends[whole + 1] <= cut)
            whole++;
        assert_int_equal(truncate(path, cut), 0);
        rig_open(&rig, 64 << 20, 4 << 20);
        assert_int_equal(rig.found, whole);
        assert_int_equal(size_of(0), ends[whole]);
        assert_int_equal(rig_write(&rig, 10), OK);
        for (uint32_t i = 0; i < whole; i++)
            assert_int_equal(rig_read(&rig, i), OK);
        assert_int_equal(rig_read(&rig, 10), OK);
        rig_close(&rig);
    }
}

/* Flip one bit anywhere in a file: no read gives anything but the right bytes, or an error; and
 * whatever was hit in a block is noticed. */
static void flipped_bits_at_rest_are_caught(void **state)
{
    (void)state;
    struct rig rig;
    char path[256];
    uint32_t refused = 0, harmless = 0;
    empty_folder();
    rig_open(&rig, 64 << 20, 4 << 20);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(rig_write(&rig, i), OK);
    path_of(0, path, sizeof(path));
    int fd = open(path, O_RDWR);
    off_t size = size_of(0);
    uint64_t random = 99;
    for (uint32_t n = 0; n < FLIPS; n++) {
        uint8_t byte;
        random = random * 6364136223846793005u + 1442695040888963407u;
        off_t at = 4096 + (off_t)((random >> 33) % (uint64_t)(size - 4096));
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        uint8_t flipped = (uint8_t)(byte ^ (1u << (n % 8)));
        assert_int_equal(pwrite(fd, &flipped, 1, at), 1);
        uint32_t bad = 0;
        for (uint32_t i = 0; i < 8; i++)
            bad += rig_read(&rig, i) != OK; /* rig_read compares what it is given */
        assert_true(bad <= 1);
        refused += bad;
        harmless += bad == 0;

        if (bad == 0) /* only where nothing is kept: between head, block and the next record */
            assert_true(((at - 4096) % 4096 >= 88 && (at - 4096) % 4096 < 128) ||
                        (at - 4096) % 4096 >= 128 + BLOCK_BYTES);
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    assert_true(refused > FLIPS / 2);
    print_message("%u flips: %u refused, %u where nothing is kept\n", FLIPS, refused, harmless);
    close(fd);
    rig_close(&rig);
}

/* The same while it is closed: the scan at open finds out, or the read does. */
static void flipped_bits_are_caught_at_open(void **state)
{
    (void)state;
    uint64_t random = 7;
    for (uint32_t n = 0; n < 300; n++) {
        struct rig rig;
        char path[256];
        uint8_t byte;
        empty_folder();
        rig_open(&rig, 64 << 20, 4 << 20);
        for (uint32_t i = 0; i < 3; i++)
            assert_int_equal(rig_write(&rig, i), OK);
        rig_close(&rig);
        path_of(0, path, sizeof(path));
        random = random * 6364136223846793005u + 1442695040888963407u;
        off_t at = (off_t)((random >> 33) % (uint64_t)size_of(0));
        int fd = open(path, O_RDWR);
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= (uint8_t)(1u << (n % 8));
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        close(fd);
        status st = rig_try(&rig, 64 << 20, 4 << 20);
        if (st == ERR_REFUSED)
            continue; /* the version was hit: another version is not touched */
        assert_int_equal(st, OK);
        uint32_t found = 0;
        for (uint32_t i = 0; i < 3; i++)
            found += (uint32_t)(rig.here[i] && rig_read(&rig, i) == OK);
        if (at >= 4096) /* in a record: that one, and no other */
            assert_true(found >= 2);
        rig_close(&rig);
    }
}

/* kill -9 in the middle of writing, many times over: every record that is found is whole. */
static void killed_in_mid_write(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 15; round++) {
        struct rig rig;
        empty_folder();
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            rig_open(&rig, 64 << 20, 64 << 10);
            for (uint32_t i = 0;; i = (i + 1) % RECORDS)
                rig_write(&rig, i);
        }
        usleep(2000 + round * 3000);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        rig_open(&rig, 64 << 20, 64 << 10);
        for (uint32_t i = 0; i < RECORDS; i++) {
            if (rig.here[i])
                assert_int_equal(rig_read(&rig, i), OK);
        }
        rig_close(&rig);
    }
}

static uint64_t folder_bytes(void)
{
    uint64_t bytes = 0;
    DIR *dir = opendir(disk_folder);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct stat about;
        if (fstatat(dirfd(dir), entry->d_name, &about, 0) == 0 && S_ISREG(about.st_mode))
            bytes += (uint64_t)about.st_size;
    }
    closedir(dir);
    return bytes;
}

/* Bounded: the oldest go; what was mostly forgotten is compacted, and lives on. */
static void its_size_is_bounded(void **state)
{
    (void)state;
    struct rig rig;
    struct disk_counters counters;
    uint64_t bytes_max = 6 * 40000;
    empty_folder();
    rig_open(&rig, bytes_max, 40000); /* 8 records a segment, and 5 segments */
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < RECORDS; i++) {
            assert_int_equal(rig_write(&rig, i), OK);
            assert_true(folder_bytes() <= bytes_max);
        }
    }
    disk_count(rig.disk, &counters);
    assert_true(counters.evicted > 0);
    assert_true(counters.bytes <= bytes_max);
    rig_close(&rig);

    empty_folder();
    rig_open(&rig, bytes_max, 40000);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(rig_write(&rig, i), OK);
    for (uint32_t i = 0; i < 6; i++) {
        struct block_key key = key_of(i);
        disk_forget(rig.disk, &key, rig.places[i]);
    }
    for (uint32_t i = 8; i < RECORDS; i++)
        assert_int_equal(rig_write(&rig, i), OK);
    for (uint32_t i = 0; i < 6; i++) /* so that one segment too many is there */
        assert_int_equal(rig_write(&rig, i), OK);
    disk_count(rig.disk, &counters);
    assert_true(counters.compacted >= 2);
    assert_int_equal(rig_read(&rig, 6), OK);
    assert_int_equal(rig_read(&rig, 7), OK);
    rig_close(&rig);
}

/* A limit on file sizes is a full disk: a named error, nothing torn, and it goes on later. */
static void a_full_disk_is_an_error_and_passes(void **state)
{
    (void)state;
    empty_folder();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rig rig;
        struct rlimit limit = {.rlim_cur = 20000, .rlim_max = RLIM_INFINITY};
        bool ok = true;
        signal(SIGXFSZ, SIG_IGN);
        log_open("test", LOG_ERROR + 1);
        rig_open(&rig, 64 << 20, 4 << 20);
        ok = ok && setrlimit(RLIMIT_FSIZE, &limit) == 0;
        uint32_t kept = 0;
        while (kept < RECORDS && rig_write(&rig, kept) == OK)
            kept++;
        struct disk_counters counters;
        disk_count(rig.disk, &counters);
        ok = ok && kept == 4 && !counters.up && counters.failures == 1;
        ok = ok && rig_write(&rig, 20) == ERR_IO; /* off: refused at once */
        for (uint32_t i = 0; i < kept; i++)
            ok = ok && rig_read(&rig, i) == OK;
        limit.rlim_cur = RLIM_INFINITY;
        ok = ok && setrlimit(RLIMIT_FSIZE, &limit) == 0;
        usleep(150000);
        ok = ok && rig_write(&rig, 21) == OK && rig_read(&rig, 21) == OK;
        rig_close(&rig);
        rig_open(&rig, 64 << 20, 4 << 20);
        ok = ok && rig.found == kept + 1;
        rig_close(&rig);
        _exit(ok ? 0 : 1);
    }
    int how;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

static void another_model_is_refused_by_name(void **state)
{
    (void)state;
    struct rig rig;
    struct mailbox *reports;
    struct disk *disk;
    empty_folder();
    rig_open(&rig, 64 << 20, 4 << 20);
    assert_int_equal(rig_write(&rig, 0), OK);
    rig_close(&rig);
    assert_int_equal(mailbox_open(&reports), OK);
    struct disk_options options = {
        .folder = disk_folder, .bytes_max = 64 << 20, .shape = &rig.shape, .reports = reports};
    rig.shape.hello.fingerprint[3] = 1;
    assert_int_equal(disk_open(&options, on_found, &rig, &disk), ERR_REFUSED);
    assert_non_null(strstr(error_text(), "model fingerprint"));
    rig.shape.hello.fingerprint[3] = 0;
    rig.shape.block_bytes = 4000;
    assert_int_equal(disk_open(&options, on_found, &rig, &disk), ERR_REFUSED);
    assert_non_null(strstr(error_text(), "block layout"));
    rig.shape.block_bytes = BLOCK_BYTES;
    options.bytes_max = 5000;
    assert_int_equal(disk_open(&options, on_found, &rig, &disk), ERR_BAD_INPUT);
    mailbox_close(reports);
}

static int make_folder(void **state)
{
    (void)state;
    log_open("test", LOG_ERROR + 1); /* damage is what these tests are about */
    snprintf(folder, sizeof(folder), "/tmp/baton-test-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(disk_folder, sizeof(disk_folder), "%s/disk", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    empty_folder();
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_is_found_again),
        cmocka_unit_test(a_torn_end_is_cut_off),
        cmocka_unit_test(flipped_bits_at_rest_are_caught),
        cmocka_unit_test(flipped_bits_are_caught_at_open),
        cmocka_unit_test(killed_in_mid_write),
        cmocka_unit_test(its_size_is_bounded),
        cmocka_unit_test(a_full_disk_is_an_error_and_passes),
        cmocka_unit_test(another_model_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
