/* baton kv export and import: blocks of a store to a file and back (store/export.h).
 *
 *     ask the store what its blocks are -> export: list, get, put      a window of blocks at a time
 *                                          import: read, check, add    through a pool of our own
 *
 * Blocks move as they do for a worker: store/store.h over transfer/. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/kv_ask.h"
#include "store/export.h"
#include "store/redis_url.h"
#include "store/store.h"

#define T struct kv_options
#define WINDOW_BYTES (64u << 20)
#define WINDOW_BLOCKS 64u
#define MOVE_MS 30000u

/* A connection to the store as a worker has it. */
struct carry {
    const struct kv_options *options;
    struct cluster_key *key;
    struct disk_shape shape;
    struct kv_layout layout; /* a slice for each layer */
    struct transfer_pool pool;
    size_t pool_bytes;
    struct address local, remote;
    char told_tcp[ADDRESS_TEXT_BYTES];
    struct mailbox *transfers, *reports;
    struct transfer *transfer;
    struct store *store;
    uint64_t ticket;
};

/* ---- what the store's blocks are ---- */

static status shape_from(const struct kv *kv, struct disk_shape *shape_out)
{
    struct wire_store_layout layout;
    status st = wire_store_layout_decode(kv->payload, kv->bytes, &layout);
    if (st != OK)
        return st;
    struct disk_shape shape = {
        .hello = kv->peer, .block_bytes = layout.block_bytes, .layer_count = layout.layer_count};
    if (layout.layer_count > 0)
        shape.layers = calloc(layout.layer_count, sizeof(*shape.layers));
    if (layout.layer_count > 0 && shape.layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the store's layout");
    for (uint32_t i = 0; i < layout.layer_count; i++) {
        uint64_t offset, bytes;
        wire_store_layer(&layout, i, &offset, &bytes);
        if (bytes == 0 || offset > layout.block_bytes || bytes > layout.block_bytes - offset) {
            free(shape.layers);
            return error_set(ERR_BAD_INPUT, "the store tells a layout that cannot be");
        }
        shape.layers[i] = (struct transfer_slice){.offset = (size_t)offset, .bytes = (size_t)bytes};
    }
    *shape_out = shape;
    return OK;
}

/* layer_count 0: the store is empty, and takes whatever comes first. */
static status shape_ask(const struct kv_options *options, const char *name,
                        struct disk_shape *shape_out)
{
    struct kv kv = {.ask = FRAME_STORE_LAYOUT, .answer = FRAME_STORE_WELCOME};
    const struct wire_store_layout ask = {.status = OK};
    wire_store_layout_encode(&kv.frame, &ask);
    status st = kv_run(&kv, options);
    if (st == OK)
        st = shape_from(&kv, shape_out);
    (void)kv_close(&kv, name, OK); /* the message is the caller's to print */
    return st;
}

static status model_check(const struct kv_options *options, const struct disk_shape *shape,
                          const char *whose)
{
    uint8_t wanted[HELLO_HASH_BYTES];
    if (options->fingerprint == NULL)
        return OK;
    status st = kv_read_hex(options->fingerprint, "--model", wanted, sizeof(wanted));
    if (st == OK && memcmp(wanted, shape->hello.fingerprint, sizeof(wanted)) != 0)
        st = error_set(ERR_REFUSED, "the blocks of %s are of another model than --model names",
                       whose);
    return st;
}

/* May blocks of the file go to that store? */
static status shapes_compare(const struct disk_shape *store, const struct disk_shape *file,
                             const char *path)
{
    struct hello theirs = file->hello;
    snprintf(theirs.name, sizeof(theirs.name), "%.60s", path);
    theirs.auth = store->hello.auth;
    if (store->layer_count == 0)
        return OK;
    status st = hello_check(&store->hello, &theirs);
    bool equal = store->block_bytes == file->block_bytes && store->layer_count == file->layer_count;
    for (uint32_t i = 0; equal && i < store->layer_count; i++)
        equal = store->layers[i].offset == file->layers[i].offset &&
                store->layers[i].bytes == file->layers[i].bytes;
    if (st == OK && !equal)
        st = error_set(ERR_REFUSED,
                       "block size: the store's are %" PRIu64 " bytes in %u layers, those of %s "
                       "are %" PRIu64 " in %u",
                       store->block_bytes, store->layer_count, path, file->block_bytes,
                       file->layer_count);
    return st;
}

/* ---- a pool, a transfer and a client of the store ---- */

static status carry_open_pool(struct carry *carry)
{
    uint64_t blocks = WINDOW_BYTES / carry->shape.block_bytes;
    blocks = blocks < 1 ? 1 : blocks < WINDOW_BLOCKS ? blocks : WINDOW_BLOCKS;
    carry->pool_bytes = (size_t)(blocks * carry->shape.block_bytes);
    carry->pool.block_count = (uint32_t)blocks;
    carry->pool.block_bytes = (size_t)carry->shape.block_bytes;
    carry->pool.fd = memfd_create("baton-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *host = MAP_FAILED;
    if (carry->pool.fd >= 0 && ftruncate(carry->pool.fd, (off_t)carry->pool_bytes) == 0)
        host = mmap(NULL, carry->pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, carry->pool.fd, 0);
    if (host == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "no memory for %zu bytes of blocks", carry->pool_bytes);
    carry->pool.host = host;
    return OK;
}

static status carry_open_layout(struct carry *carry)
{
    uint32_t count = carry->shape.layer_count;
    carry->layout = (struct kv_layout){.shape = {.layer_count = count,
                                                 .block_tokens = carry->shape.hello.block_tokens,
                                                 .ranks = carry->shape.hello.ranks},
                                       .slice_count = count,
                                       .block_bytes = carry->pool.block_bytes};
    carry->layout.slices = calloc(count, sizeof(*carry->layout.slices));
    carry->layout.layer_slices = calloc(count + 1, sizeof(*carry->layout.layer_slices));
    if (carry->layout.slices == NULL || carry->layout.layer_slices == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a layout");
    for (uint32_t i = 0; i < count; i++) {
        carry->layout.slices[i] = (struct kv_slice){.layer = i,
                                                    .offset = carry->shape.layers[i].offset,
                                                    .bytes = carry->shape.layers[i].bytes};
        carry->layout.layer_slices[i + 1] = i + 1;
    }
    memcpy(carry->layout.hash, carry->shape.hello.layout_hash, sizeof(carry->layout.hash));
    return OK;
}

static status carry_open_transfer(struct carry *carry)
{
    const struct kv_options *options = carry->options;
    char unix_text[ADDRESS_TEXT_BYTES];
    snprintf(unix_text, sizeof(unix_text), "unix:/tmp/baton-%ld-kv.sock", (long)getpid());
    status st = address_parse(unix_text, 0, &carry->local);
    if (st == OK && options->transfer_tcp != NULL) {
        st = address_parse(options->transfer_tcp, 0, &carry->remote);
        if (st == OK)
            st = cluster_key_allows(carry->key, options->trust_network, &carry->remote,
                                    "--transfer-tcp", options->transfer_tcp);
    }
    if (st != OK)
        return st;
    const struct transfer_options transfer = {
        .hello = &carry->shape.hello,
        .key = carry->key,
        .unix_listen = &carry->local,
        .tcp_listen = options->transfer_tcp != NULL ? &carry->remote : NULL,
        .pool = carry->pool,
        .layers = carry->shape.layers,
        .layer_count = carry->shape.layer_count,
        .reports = carry->transfers};
    st = transfer_open(&transfer, &carry->transfer);
    if (st != OK || options->transfer_tcp == NULL)
        return st;
    struct address bound, told;
    st = transfer_tcp_address(carry->transfer, &bound);
    told = bound;
    if (st == OK && options->transfer_advertise != NULL) {
        st = address_parse(options->transfer_advertise, address_port(&bound), &told);
        if (st == OK)
            st = address_write_numeric(&told);
    }
    if (st == OK && address_is_wildcard(&told))
        st = error_set(ERR_BAD_INPUT,
                       "the store cannot connect to %s: give an address of this host with "
                       "--transfer-advertise",
                       told.text);
    snprintf(carry->told_tcp, sizeof(carry->told_tcp), "%s", told.text);
    return st;
}

static status carry_wait_up(struct carry *carry)
{
    uint64_t end_ns = clock_ns() + KV_TIMEOUT_MS * UINT64_C(1000000);
    while (!store_is_up(carry->store)) {
        if (clock_ns() > end_ns)
            return error_set(ERR_TIMEOUT, "the store at %s did not accept us within %u s",
                             carry->options->store, KV_TIMEOUT_MS / 1000);
        usleep(2000);
    }
    return OK;
}

/* carry->options and carry->shape are set; the shape's layers are the carry's from now on. */
static status carry_open(struct carry *carry)
{
    struct hello *hello = &carry->shape.hello;
    carry->pool.fd = -1;
    hello->role = HELLO_OPERATOR;
    hello->auth = HELLO_AUTH_NONE;
    hello->parts = HELLO_HAS_MODEL | HELLO_HAS_KV;
    hello->incarnation = hello_incarnation_random();
    snprintf(hello->name, sizeof(hello->name), "operator");
    log_open("kv", LOG_WARN);
    status st = cluster_key_open(carry->options->cluster_key, &carry->key);
    if (st == OK)
        st = carry_open_pool(carry);
    if (st == OK)
        st = carry_open_layout(carry);
    if (st == OK)
        st = mailbox_open(&carry->transfers);
    if (st == OK)
        st = mailbox_open(&carry->reports);
    if (st == OK)
        st = carry_open_transfer(carry);
    if (st != OK)
        return st;
    const struct store_options store = {.address = carry->options->store,
                                        .password_file = carry->options->store_password_file,
                                        .hello = hello,
                                        .layout = &carry->layout,
                                        .transfer = carry->transfer,
                                        .pool = carry->pool,
                                        .transfer_unix = carry->local.text,
                                        .transfer_tcp =
                                            carry->told_tcp[0] != '\0' ? carry->told_tcp : NULL,
                                        .key = carry->key,
                                        .reports = carry->reports};
    st = store_open(&store, &carry->store);
    return st == OK ? carry_wait_up(carry) : st;
}

static void carry_close(struct carry *carry)
{
    store_close(carry->store);
    if (carry->transfer != NULL)
        transfer_close(carry->transfer);
    if (carry->reports != NULL) {
        for (struct mail *mail = mailbox_take_all(carry->reports), *next; mail != NULL;
             mail = next) {
            next = mail->next;
            store_report_free((struct store_report *)mail);
        }
        mailbox_close(carry->reports);
    }
    if (carry->transfers != NULL)
        mailbox_close(carry->transfers);
    if (carry->pool.host != NULL)
        munmap(carry->pool.host, carry->pool_bytes);
    if (carry->pool.fd >= 0)
        close(carry->pool.fd);
    free(carry->layout.slices);
    free(carry->layout.layer_slices);
    free(carry->shape.layers);
    cluster_key_close(carry->key);
}

/* The report of the only call that is under way; it comes within the call's deadline. */
static status carry_report(struct carry *carry, uint32_t *count_out)
{
    (void)mailbox_wait(carry->reports, -1);
    struct store_report *report = (struct store_report *)mailbox_take_all(carry->reports);
    status st = report->status == OK ? OK : error_set(report->status, "%s", report->text);
    *count_out = report->count;
    store_report_free(report);
    return st;
}

static uint8_t *carry_block(const struct carry *carry, uint32_t id)
{
    return carry->pool.host + (size_t)id * carry->pool.block_bytes;
}

/* ---- export ---- */

struct export_run {
    struct carry carry;
    struct export *file;
    const uint8_t *wanted; /* [wanted_count] keys, sorted; none: all */
    uint32_t wanted_count;
    uint8_t window[WINDOW_BLOCKS * WIRE_STORE_RECORD_BYTES]; /* records to be fetched */
    uint32_t window_count;
    uint64_t done, gone, damaged;
};

static int key_compare(const void *a, const void *b)
{
    return memcmp(a, b, KEY_BYTES);
}

static status export_put_record(struct export_run *run, const uint8_t *record, uint32_t id)
{
    struct block_key key, parent;
    memcpy(key.bytes, record, KEY_BYTES);
    memcpy(parent.bytes, record + KEY_BYTES, KEY_BYTES);
    status st = export_put(run->file, &key, &parent, record[2 * KEY_BYTES] != 0,
                           carry_block(&run->carry, id));
    run->done += st == OK;
    return st;
}

/* Get so many records' blocks into the pool. */
static status export_fetch(struct carry *carry, const uint8_t *records, uint32_t count,
                           uint32_t *got_out)
{
    struct block_key keys[WINDOW_BLOCKS];
    block_id ids[WINDOW_BLOCKS];
    for (uint32_t i = 0; i < count; i++) {
        memcpy(keys[i].bytes, records + (size_t)i * WIRE_STORE_RECORD_BYTES, KEY_BYTES);
        ids[i] = i;
    }
    *got_out = 0;
    status st = store_get(carry->store, ++carry->ticket, keys, ids, count, MOVE_MS);
    return st == OK ? carry_report(carry, got_out) : st;
}

/* Fetch the window's blocks; one that has gone, or is damaged, is passed over. */
static status export_window(struct export_run *run)
{
    bool single = false; /* one of them is damaged: which? */
    status st = OK;
    for (uint32_t at = 0; st == OK && at < run->window_count;) {
        const uint8_t *records = run->window + (size_t)at * WIRE_STORE_RECORD_BYTES;
        uint32_t count = single ? 1 : run->window_count - at, got;
        st = export_fetch(&run->carry, records, count, &got);
        bool damage = st == ERR_CORRUPT;
        if (damage)
            st = OK;
        if (damage && count > 1) {
            single = true;
            continue;
        }
        for (uint32_t i = 0; st == OK && i < got; i++)
            st = export_put_record(run, records + (size_t)i * WIRE_STORE_RECORD_BYTES, i);
        /* A store forgets what it finds damaged: it may be gone when it is asked for alone. */
        bool lost = damage || (single && got < count);
        run->damaged += lost;
        run->gone += !lost && got < count;
        at += got < count ? got + 1 : got;
    }
    run->window_count = 0;
    return st;
}

static bool export_wants(const struct export_run *run, const uint8_t *key)
{
    return run->wanted_count == 0 ||
           bsearch(key, run->wanted, run->wanted_count, KEY_BYTES, key_compare) != NULL;
}

/* One page of the store's list. */
static status export_page(struct export_run *run, struct wire_store_delete *ask, bool *more_out)
{
    static const uint8_t end[KEY_BYTES];
    struct kv kv = {.ask = FRAME_STORE_LIST, .answer = FRAME_STORE_KEYS};
    struct wire_store_ask page;
    wire_store_delete_encode(&kv.frame, ask);
    status st = kv_run(&kv, run->carry.options);
    if (st == OK)
        st = wire_store_ask_decode(kv.payload, kv.bytes, WIRE_STORE_RECORD_BYTES, &page);
    for (uint32_t i = 0; st == OK && i < page.count; i++) {
        const uint8_t *record = page.items + (size_t)i * WIRE_STORE_RECORD_BYTES;
        if (!export_wants(run, record))
            continue;
        memcpy(run->window + (size_t)run->window_count++ * WIRE_STORE_RECORD_BYTES, record,
               WIRE_STORE_RECORD_BYTES);
        if (run->window_count == run->carry.pool.block_count)
            st = export_window(run);
    }
    if (st == OK) {
        memcpy(ask->key, page.lease.bytes, KEY_BYTES);
        *more_out = memcmp(ask->key, end, KEY_BYTES) != 0;
    }
    (void)kv_close(&kv, "export", OK);
    return st;
}

static status export_all(struct export_run *run, const char *path)
{
    struct wire_store_delete ask = {.number = 1, .scope = WIRE_STORE_LIST_RECORDS};
    status st = carry_open(&run->carry);
    if (st == OK)
        st = export_make(path, &run->carry.shape, &run->file);
    for (bool more = true; st == OK && more;)
        st = export_page(run, &ask, &more);
    if (st == OK)
        st = export_window(run);
    if (st == OK && run->damaged > 0)
        st = error_set(ERR_CORRUPT,
                       "%" PRIu64 " blocks came damaged; %s is not written. "
                       "The store forgets them: ask again",
                       run->damaged, path);
    if (st == OK && run->done < run->wanted_count)
        st = error_set(ERR_NOT_FOUND,
                       "the store has %" PRIu64 " of these %u keys; %s is not written", run->done,
                       run->wanted_count, path);
    return st == OK ? export_finish(run->file) : st;
}

static int export_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct export_run *run = calloc(1, sizeof(*run));
    uint8_t *keys = calloc(operand_count, KEY_BYTES);
    status st = run != NULL && keys != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory");
    if (st == OK)
        run->carry.options = options;
    for (uint32_t i = 1; st == OK && i < operand_count; i++)
        st = kv_read_hex(operands[i], "a key", keys + (size_t)(i - 1) * KEY_BYTES, KEY_BYTES);
    if (st == OK && redis_url_is(run->carry.options->store))
        st = error_set(ERR_UNSUPPORTED, "an export is from a `baton store`; a Redis has its own "
                                        "(BGSAVE)");
    if (st == OK)
        st = shape_ask(options, "export", &run->carry.shape);
    if (st == OK && run->carry.shape.layer_count == 0)
        st = error_set(ERR_NOT_FOUND, "the store has no blocks yet, and no model");
    if (st == OK)
        st = model_check(options, &run->carry.shape, "the store");
    if (st == OK) {
        qsort(keys, operand_count - 1, KEY_BYTES, key_compare);
        run->wanted = keys;
        run->wanted_count = operand_count - 1;
        st = export_all(run, operands[0]);
    }
    if (st == OK)
        printf("%" PRIu64 " blocks exported, %" PRIu64 " were evicted meanwhile\n", run->done,
               run->gone);
    else
        fprintf(stderr, "baton kv export: %s\n", error_text());
    if (run != NULL) {
        export_close(run->file);
        carry_close(&run->carry);
    }
    free(run);
    free(keys);
    return st == OK ? EXIT_OK : EXIT_FAILED;
}

#define FILE_ROWS                                                                                  \
    KV_ROWS(T),                                                                                    \
    {                                                                                              \
        "model", OPTION_TEXT, "FINGERPRINT", NULL, 0, 0, offsetof(T, fingerprint),                 \
            "only if the blocks are of the model with this fingerprint (64 hexadecimal digits)"    \
    }

static const struct option_spec export_rows[] = {FILE_ROWS};

const struct command_spec kv_export_command = {
    .name = "kv export",
    .operands = "FILE [KEY ...]",
    .summary = "write blocks of a store to a file",
    .details = "All that the store holds, or the blocks of these keys: then all of them, or none. "
               "FILE appears when it is whole.",
    .options = export_rows,
    .option_count = sizeof(export_rows) / sizeof(export_rows[0]),
    .options_bytes = sizeof(struct kv_options),
    .operands_min = 1,
    .operands_max = 4096,
    .run = export_run,
};

/* ---- import ---- */

/* Add what lies in blocks 0 .. count of the pool. */
static status import_window(struct carry *carry, const struct store_block *blocks, uint32_t count,
                            uint64_t *done)
{
    uint32_t kept = 0;
    status st = count > 0 ? store_add(carry->store, ++carry->ticket, blocks, count, 0) : OK;
    if (st == OK && count > 0)
        st = carry_report(carry, &kept);
    *done += kept;
    return st;
}

static status import_all(struct carry *carry, struct export *file, uint64_t *done,
                         uint64_t *damaged)
{
    struct store_block blocks[WINDOW_BLOCKS];
    uint32_t count = 0;
    status st = OK;
    for (uint32_t i = 0; st == OK && i < export_count(file); i++) {
        struct disk_record record;
        status got = export_get(file, i, &record, carry_block(carry, count));
        if (got == ERR_CORRUPT) {
            fprintf(stderr, "baton kv import: left out: %s\n", error_text());
            ++*damaged;
            continue;
        }
        st = got;
        blocks[count] = (struct store_block){
            .key = record.key, .parent = record.parent, .is_first = record.is_first, .id = count};
        count += got == OK;
        if (count == carry->pool.block_count) {
            st = import_window(carry, blocks, count, done);
            count = 0;
        }
    }
    return st == OK ? import_window(carry, blocks, count, done) : st;
}

/* The shape of the file, with layers of its own. */
static status import_shape(const struct export *file, struct disk_shape *shape_out)
{
    struct disk_shape shape = *export_shape(file);
    size_t bytes = shape.layer_count * sizeof(*shape.layers);
    shape.layers = malloc(bytes);
    if (shape.layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a layout");
    memcpy(shape.layers, export_shape(file)->layers, bytes);
    *shape_out = shape;
    return OK;
}

static int import_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct carry carry = {.options = options};
    struct disk_shape store = {.layer_count = 0};
    struct export *file = NULL;
    uint64_t done = 0, damaged = 0;
    (void)operand_count;
    status st = export_open(operands[0], &file);
    if (st == OK)
        st = model_check(options, export_shape(file), operands[0]);
    if (st == OK && !redis_url_is(carry.options->store))
        st = shape_ask(options, "import", &store);
    if (st == OK)
        st = shapes_compare(&store, export_shape(file), operands[0]);
    if (st == OK)
        st = import_shape(file, &carry.shape);
    if (st == OK)
        st = carry_open(&carry);
    if (st == OK)
        st = import_all(&carry, file, &done, &damaged);
    if (st == OK && damaged > 0)
        st = error_set(ERR_CORRUPT, "%" PRIu64 " of %u blocks of %s are damaged; the others are in",
                       damaged, export_count(file), operands[0]);
    if (st == OK)
        printf("%" PRIu64 " of %u blocks are in the store\n", done, export_count(file));
    else
        fprintf(stderr, "baton kv import: %s\n", error_text());
    export_close(file);
    if (carry.shape.layers != NULL)
        carry_close(&carry);
    free(store.layers);
    return st == OK ? EXIT_OK : EXIT_FAILED;
}

static const struct option_spec import_rows[] = {
    FILE_ROWS,
    {"transfer-tcp", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_tcp),
     "where a store on another host fetches the blocks; unset: a store of this host only"},
    {"transfer-advertise", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_advertise),
     "what the store is told of it; unset: the bound address"},
    {"trust-network", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, trust_network),
     "without a cluster key: let other hosts connect to it, unauthenticated"},
};

const struct command_spec kv_import_command = {
    .name = "kv import",
    .operands = "FILE",
    .summary = "add the blocks of a file to a store",
    .details = "The store must be empty or of the file's model and layout. What it has no memory "
               "for evicts what was used longest ago.",
    .options = import_rows,
    .option_count = sizeof(import_rows) / sizeof(import_rows[0]),
    .options_bytes = sizeof(struct kv_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = import_run,
};
