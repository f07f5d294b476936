/* Blocks of a real store to a file and into another store; and files that are no such thing. */
#include "unit/store/store_rig.h"

#include <sys/resource.h>

#include "cli/kv_ask.h"
#include "cli/commands.h"
#include "store/export.h"

extern const struct command_spec kv_export_command, kv_import_command;

static const struct keeper_options small = {.carrier = "auto", .memory_bytes = 64 * 24576};
static char file[300], said[4096];

/* Run a command; what it writes to standard error is in said. */
static int kv(const struct command_spec *command, const struct kv_options *options,
              const char *const *operands, uint32_t count)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/said", folder);
    fflush(stderr);
    int kept = dup(STDERR_FILENO), to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && to >= 0);
    dup2(to, STDERR_FILENO);
    int rc = command->run(options, operands, count);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    ssize_t bytes = pread(to, said, sizeof(said) - 1, 0);
    said[bytes > 0 ? bytes : 0] = '\0';
    close(to);
    return rc;
}

static int export_to(const char *path, const struct kv_options *options)
{
    return kv(&kv_export_command, options, (const char *const[]){path}, 1);
}

static int import_from(const char *path, const struct kv_options *options)
{
    return kv(&kv_import_command, options, (const char *const[]){path}, 1);
}

static void assert_said(const char *words)
{
    if (strstr(said, words) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", words, said);
}

static void fill_ids(uint32_t *ids, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ids[i] = first + i;
}

/* ---- stores ---- */

static void from_store_to_store(void **state)
{
    (void)state;
    struct user a, b;
    uint32_t ids[64], to[64];
    struct kv_options options = {.store = store_address.text};
    pid_t from = rig_store(small);
    const struct address from_address = store_address;
    pid_t into = rig_store(small); /* while this process has one thread */
    const struct address into_address = store_address;
    store_address = from_address;
    assert_int_equal(export_to(file, &options), EXIT_FAILED);
    assert_said("no blocks yet");
    user_open(&a, "a", 64, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 45);
    fill_ids(to, 0, 45);
    blocks_fill(&a.worker, ids, 45);
    user_add(&a, 1, ids, 30, 0);
    user_add(&a, 2, ids + 30, 15, 0);
    assert_int_equal(export_to(file, &options), EXIT_OK);
    const uint8_t *print = a.worker.hello.fingerprint;
    char model[2 * HELLO_HASH_BYTES + 1];
    for (uint32_t i = 0; i < HELLO_HASH_BYTES; i++)
        snprintf(model + 2 * i, 3, "%02x", print[i]);

    /* Some keys: all of them or nothing. */
    char key[2][BLOCK_KEY_TEXT_BYTES], part[330];
    struct block_key there = key_of(2, 4), nowhere = key_of(9, 0);
    snprintf(part, sizeof(part), "%s-part", file);
    const char *const some[] = {part, block_key_text(&there, key[0]),
                                block_key_text(&nowhere, key[1])};
    assert_int_equal(kv(&kv_export_command, &options, some, 3), EXIT_FAILED);
    assert_said("has 1 of these 2 keys");
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(kv(&kv_export_command, &options, some, 2), EXIT_OK);

    /* Into an empty store, and again into one that has them. */
    store_address = into_address;
    options.fingerprint = model;
    assert_int_equal(import_from(part, &options), EXIT_OK);
    user_open(&b, "b", 64, 0, 0);
    assert_true(user_wait_up(&b, true));
    const struct block_key lone = key_of(2, 4);
    assert_int_equal(store_get(b.store, 7, &lone, to, 1, WAIT_MS), OK);
    assert_int_equal(user_expect(&b, STORE_GOT, OK), 1);
    blocks_compare(&a.worker, ids + 34, &b.worker, to, 0, 1);
    assert_int_equal(import_from(file, &options), EXIT_OK);
    assert_int_equal(import_from(file, &options), EXIT_OK);
    assert_int_equal(user_get(&b, 1, to, 45, OK), 30);
    blocks_compare(&a.worker, ids, &b.worker, to, 0, 30);
    assert_int_equal(user_get(&b, 2, to, 45, OK), 15);
    blocks_compare(&a.worker, ids + 30, &b.worker, to, 0, 15);
    model[5] = model[5] == '0' ? '1' : '0';
    assert_int_equal(import_from(file, &options), EXIT_FAILED);
    assert_said("another model");
    user_close(&a);
    user_close(&b);
    rig_kill(from, SIGTERM);
    rig_kill(into, SIGTERM);
}

/* A bit flips in the file: the block that it hit is left out by name, all others are in the store.
 * A file that is cut short adds nothing. */
static void damaged_files_add_what_is_whole(void **state)
{
    (void)state;
    struct user a, b;
    uint32_t ids[20], to[20];
    struct kv_options options = {.store = store_address.text};
    pid_t from = rig_store(small);
    const struct address from_address = store_address;
    pid_t into = rig_store(small); /* while this process has one thread */
    const struct address into_address = store_address;
    store_address = from_address;
    user_open(&a, "a", 20, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 20);
    fill_ids(to, 0, 20);
    blocks_fill(&a.worker, ids, 20);
    user_add(&a, 1, ids, 20, 0);
    assert_int_equal(export_to(file, &options), EXIT_OK);
    struct stat about;
    assert_int_equal(stat(file, &about), 0);
    size_t bytes = (size_t)about.st_size;
    uint8_t *data = malloc(bytes);
    int fd = open(file, O_RDWR);
    assert_int_equal(pread(fd, data, bytes, 0), about.st_size);

    store_address = into_address;
    user_open(&b, "b", 20, 0, 0);
    assert_true(user_wait_up(&b, true));
    assert_int_equal(ftruncate(fd, about.st_size - 30000), 0);
    assert_int_equal(import_from(file, &options), EXIT_FAILED);
    assert_said("cut short");
    assert_int_equal(user_find(&b, 1, 20), 0);

    const uint8_t *hit = memmem(data, bytes, block_at(&a.worker, 13), a.worker.pool.block_bytes);
    assert_non_null(hit);
    data[hit - data + 9999] ^= 4;
    assert_int_equal(pwrite(fd, data, bytes, 0), about.st_size);
    assert_int_equal(import_from(file, &options), EXIT_FAILED);
    assert_said("left out");
    const struct block_key key = key_of(1, 13), next = key_of(1, 14);
    assert_said("1 of 20 blocks of");
    assert_int_equal(store_find(b.store, 1, &key, 1, WAIT_MS), OK);
    assert_int_equal(user_expect(&b, STORE_FOUND, OK), 0);
    assert_int_equal(store_find(b.store, 1, &next, 1, WAIT_MS), OK);
    assert_int_equal(user_expect(&b, STORE_FOUND, OK), 1);
    assert_int_equal(user_get(&b, 1, to, 20, OK), 13);
    blocks_compare(&a.worker, ids, &b.worker, to, 0, 13);
    close(fd);
    free(data);
    user_close(&a);
    user_close(&b);
    rig_kill(from, SIGTERM);
    rig_kill(into, SIGTERM);
}

/* A block that is damaged in the store does not go into a file: there is none, and why is said.
 * Then the store has forgotten it, and the rest can be exported. */
static void damaged_blocks_are_not_exported(void **state)
{
    (void)state;
    struct user a;
    struct damage damage;
    uint32_t ids[20];
    pid_t pid = rig_store(small);
    const struct kv_options options = {.store = store_address.text};
    user_open(&a, "a", 20, 0, 0);
    assert_true(user_wait_up(&a, true));
    fill_ids(ids, 0, 20);
    blocks_fill(&a.worker, ids, 20);
    user_add(&a, 1, ids, 20, 0);
    damage_open(&damage, pid, a.worker.pool.block_bytes);
    damage_look(&damage);
    damage_flip(&damage, block_at(&a.worker, 4));
    unlink(file);
    assert_int_equal(export_to(file, &options), EXIT_FAILED);
    assert_said("1 blocks came damaged");
    assert_int_equal(access(file, F_OK), -1);
    user_wait_find(&a, 1, 4, false);
    assert_int_equal(export_to(file, &options), EXIT_OK);
    struct export *export;
    assert_int_equal(export_open(file, &export), OK);
    assert_int_equal(export_count(export), 19);
    export_close(export);
    damage_close(&damage);
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* A store whose worker is of another model, layout or block size takes none of it, and says why. */
static void another_store_refuses_by_name(void **state)
{
    (void)state;
    static const char *const words[] = {"model fingerprint", "numerics class", "kv dtype",
                                        "block tokens", "block layout"};
    for (int round = 0; round < 5; round++) {
        struct export *export;
        struct user a;
        pid_t pid = rig_store(small);
        const struct kv_options options = {.store = store_address.text};
        user_open(&a, "a", 16, 0, 0);
        assert_true(user_wait_up(&a, true));
        struct disk_shape shape = {.hello = a.worker.hello,
                                   .block_bytes = a.worker.pool.block_bytes,
                                   .layer_count = 3,
                                   .layers = a.worker.shape.layers};
        shape.hello.fingerprint[1] ^= round == 0;
        shape.hello.numerics_class[0] ^= round == 1;
        shape.hello.kv_dtype ^= round == 2;
        shape.hello.block_tokens += round == 3;
        shape.hello.layout_hash[0] ^= round == 4;
        uint8_t *block = calloc(1, shape.block_bytes);
        struct block_key key = key_of(1, 1);
        assert_int_equal(export_make(file, &shape, &export), OK);
        assert_int_equal(export_put(export, &key, &key, true, block), OK);
        assert_int_equal(export_finish(export), OK);
        export_close(export);
        assert_int_equal(import_from(file, &options), EXIT_FAILED);
        assert_said(words[round]);
        assert_int_equal(user_find(&a, 1, 2), 0);
        free(block);
        user_close(&a);
        rig_kill(pid, SIGTERM);
    }
    /* The hashes agree, the numbers do not. */
    struct user a;
    struct export *export;
    pid_t pid = rig_store(small);
    const struct kv_options options = {.store = store_address.text};
    user_open(&a, "a", 16, 0, 0);
    assert_true(user_wait_up(&a, true));
    struct disk_shape shape = {.hello = a.worker.hello,
                               .block_bytes = a.worker.pool.block_bytes + 64,
                               .layer_count = 3,
                               .layers = a.worker.shape.layers};
    assert_int_equal(export_make(file, &shape, &export), OK);
    assert_int_equal(export_finish(export), OK);
    export_close(export);
    assert_int_equal(import_from(file, &options), EXIT_FAILED);
    assert_said("block size");
    user_close(&a);
    rig_kill(pid, SIGTERM);
}

/* ---- files ---- */

#define BLOCKS 5u
#define BLOCK_BYTES 700u

static struct transfer_slice slices[] = {{0, 400}, {400, 300}};
static const struct disk_shape tiny = {
    .hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV, .ranks = 1, .block_tokens = 16},
    .block_bytes = BLOCK_BYTES,
    .layer_count = 2,
    .layers = slices};

static void block_of(uint32_t i, uint8_t *block)
{
    for (uint32_t k = 0; k < BLOCK_BYTES; k++)
        block[k] = (uint8_t)(i * 31 + k * 7 + k / 256);
}

static uint8_t *file_make(size_t *bytes_out)
{
    struct export *export;
    struct stat about;
    uint8_t block[BLOCK_BYTES];
    assert_int_equal(export_make(file, &tiny, &export), OK);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        struct block_key key = key_of(1, i), parent = key_of(1, i - 1);
        block_of(i, block);
        assert_int_equal(export_put(export, &key, &parent, i == 0, block), OK);
    }
    assert_int_equal(export_finish(export), OK);
    export_close(export);
    assert_int_equal(stat(file, &about), 0);
    uint8_t *data = malloc((size_t)about.st_size);
    int fd = open(file, O_RDONLY);
    assert_int_equal(read(fd, data, (size_t)about.st_size), about.st_size);
    close(fd);
    *bytes_out = (size_t)about.st_size;
    return data;
}

static void file_write(const uint8_t *data, size_t bytes)
{
    int fd = open(file, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
    close(fd);
}

/* Everything that can be read is what was put. Returns how many records can. */
static uint32_t file_read(status *opened_out)
{
    struct export *export;
    uint32_t whole = 0;
    *opened_out = export_open(file, &export);
    if (*opened_out != OK)
        return 0;
    assert_true(export_count(export) == BLOCKS);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint8_t block[BLOCK_BYTES], expected[BLOCK_BYTES];
        struct disk_record record;
        struct block_key key = key_of(1, i), parent = key_of(1, i - 1);
        status st = export_get(export, i, &record, block);
        if (st != OK) {
            assert_int_equal(st, ERR_CORRUPT);
            continue;
        }
        block_of(i, expected);
        assert_memory_equal(block, expected, BLOCK_BYTES);
        assert_true(block_key_equal(&record.key, &key));
        assert_true(block_key_equal(&record.parent, &parent) && record.is_first == (i == 0));
        whole++;
    }
    export_close(export);
    return whole;
}

/* Where something is kept: the head's fields and sum, and of each record, which begin on 4 KiB, its
 * fields with the sum, and the block. */
#define HEAD_BYTES (10u * 4 + 2 * 8 + 3 * 32 + 2 * 16 + 16)
#define RECORD_BYTES (4u + 16 + 16 + 4 + 2 * 16 + 16)
#define RECORD_HEAD_BYTES 128u
#define KEPT_BYTES (HEAD_BYTES + BLOCKS * (RECORD_BYTES + BLOCK_BYTES))

static size_t file_kept(uint32_t i)
{
    if (i < HEAD_BYTES)
        return i;
    uint32_t record = (i - HEAD_BYTES) / (RECORD_BYTES + BLOCK_BYTES);
    uint32_t at = (i - HEAD_BYTES) % (RECORD_BYTES + BLOCK_BYTES);
    return 4096 * (size_t)(record + 1) +
           (at < RECORD_BYTES ? at : RECORD_HEAD_BYTES + at - RECORD_BYTES);
}

static bool file_keeps(size_t at)
{
    size_t in = at % 4096;
    return at < 4096 ? in < HEAD_BYTES
                     : in < RECORD_BYTES ||
                           (in >= RECORD_HEAD_BYTES && in < RECORD_HEAD_BYTES + BLOCK_BYTES);
}

static void a_flipped_bit_is_caught(void **state)
{
    (void)state;
    size_t bytes;
    status opened;
    uint8_t *data = file_make(&bytes);
    uint32_t caught = 0, padding = 0;
    assert_int_equal(file_read(&opened), BLOCKS);
    int fd = open(file, O_RDWR);
    for (uint32_t i = 0; i < 10000; i++) {
        /* Every other one where something is kept; there each must be caught. */
        size_t at =
            i % 2 == 0 ? random_below((uint32_t)bytes) : file_kept(random_below(KEPT_BYTES));
        uint8_t flipped = data[at] ^ (uint8_t)(1u << random_below(8));
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
        uint32_t whole = file_read(&opened);
        bool found = opened != OK || whole == BLOCKS - 1;
        assert_true(found || (opened == OK && whole == BLOCKS));
        assert_true(found || !file_keeps(at));
        caught += found;
        padding += !found;
        assert_int_equal(pwrite(fd, data + at, 1, (off_t)at), 1);
    }
    print_message("%u caught, %u where nothing is kept\n", caught, padding);
    assert_true(caught >= 5000);
    close(fd);
    free(data);
}

static void what_is_no_whole_export_is_refused(void **state)
{
    (void)state;
    size_t bytes;
    status opened;
    uint8_t *data = file_make(&bytes);
    for (size_t cut = 0; cut < bytes; cut += cut < 300 ? 1 : 509) {
        file_write(data, cut);
        assert_int_equal(file_read(&opened), 0);
        assert_int_equal(opened, ERR_CORRUPT);
    }
    assert_non_null(strstr(error_text(), "cut short"));
    data[4] = 9; /* the version */
    file_write(data, bytes);
    file_read(&opened);
    assert_int_equal(opened, ERR_REFUSED);
    assert_non_null(strstr(error_text(), "version 9"));
    file_write((const uint8_t *)"hello", 5);
    file_read(&opened);
    assert_int_equal(opened, ERR_CORRUPT);
    free(data);
}

/* A full disk, and a process that ends before it is done: no FILE, and an old one stays. */
static void an_export_is_whole_or_not_there(void **state)
{
    (void)state;
    size_t bytes;
    status opened;
    free(file_make(&bytes));
    pid_t pid = fork();
    if (pid == 0) {
        struct export *export;
        struct rlimit limit = {.rlim_cur = 9000, .rlim_max = RLIM_INFINITY};
        uint8_t block[BLOCK_BYTES] = {0};
        struct block_key key = key_of(7, 7);
        status st = OK;
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0 || export_make(file, &tiny, &export) != OK)
            _exit(1);
        for (int i = 0; st == OK && i < 9; i++)
            st = export_put(export, &key, &key, true, block);
        bool named = st == ERR_IO && strstr(error_text(), "File too large") != NULL;
        export_close(export);
        _exit(named ? 0 : 2);
    }
    int how;
    char part[330];
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_int_equal(how, 0);
    snprintf(part, sizeof(part), "%s.part", file);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(file_read(&opened), BLOCKS);
}

static int make_folder(void **state)
{
    (void)state;
    if (folder_make(LOG_ERROR + 1) != 0)
        return 1;
    snprintf(file, sizeof(file), "%s/export", folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_store_to_store),
        cmocka_unit_test(damaged_files_add_what_is_whole),
        cmocka_unit_test(damaged_blocks_are_not_exported),
        cmocka_unit_test(another_store_refuses_by_name),
        cmocka_unit_test(a_flipped_bit_is_caught),
        cmocka_unit_test(what_is_no_whole_export_is_refused),
        cmocka_unit_test(an_export_is_whole_or_not_there),
    };
    return cmocka_run_group_tests(tests, make_folder, folder_remove);
}
