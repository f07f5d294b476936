/* baton bench store: add and get of a running store, beside what sockets, memory and, when asked,
 * a Redis do with the same bytes. Rounds alternate, so that a noisy moment hits all of them.
 *
 * An add is measured twice, of different blocks that both lie in no cache: of blocks that nobody
 * has summed, as when a prompt goes to the store alone or what decode computed goes there; and of
 * blocks whose sums are in the book (transfer/sums.c), as when a handoff has offered them. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/bench_redis.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "cli/worker_options.h"
#include "kv/layout.h"
#include "store/store.h"

#define WAIT_MS 30000
#define LEASES_END_NS UINT64_C(1000000000)
#define ROUNDS_MAX 1000

struct bench_store_options {
    const char *store, *store_password_file, *carrier, *rdma_transports, *redis, *cluster_key;
    uint32_t layers, blocks, rounds, pool_blocks, redis_keys;
};

#define T struct bench_store_options

static const struct option_spec bench_store_rows[] = {
    {"store", OPTION_TEXT, "ADDR", "127.0.0.1:8002", 0, 0, offsetof(T, store),
     "the store: HOST:PORT, unix:PATH, redis://HOST:PORT"},
    STORE_PASSWORD_ROW(T),
    {"carrier", OPTION_TEXT, "NAME", "auto", 0, 0, offsetof(T, carrier), "shm, tcp, rdma or auto"},
    TEST_RDMA_ROW(T),
    {"redis", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, redis),
     "also measure SET and GET of this Redis, pipelined, unchecked: HOST:PORT or unix:PATH"},
    {"redis-keys", OPTION_UINT, "N", "0", 0, 65536, offsetof(T, redis_keys),
     "how many values that Redis holds, each written once before; a round writes the next --blocks "
     "of them. 0: as many as half the pool has blocks, so that they lie in no cache either. As "
     "many as --blocks: the same ones in each round"},
    {"layers", OPTION_UINT, "N", "32", 1, 1024, offsetof(T, layers),
     "layers of a block, 32 KiB each"},
    {"blocks", OPTION_UINT, "N", "32", 1, 4096, offsetof(T, blocks), "blocks of one call"},
    {"rounds", OPTION_UINT, "N", "20", 3, ROUNDS_MAX, offsetof(T, rounds), "how often"},
    {"pool-blocks", OPTION_UINT, "N", "512", 2, 65536, offsetof(T, pool_blocks),
     "blocks of the pool that they come from and go to; larger than any cache"},
    CLUSTER_KEY_ROW(T),
};

enum { ADD, ADD_SUMMED, GET, MEMCPY, SOCKET, REDIS_SET, REDIS_GET, KINDS };

struct bench_store {
    const struct bench_store_options *options;
    struct kv_layout *layout;
    struct cluster_key *key;
    struct transfer_pool pool;
    atomic_uint_fast64_t *fills; /* of the pool */
    uint8_t *copy;               /* of the pool's size */
    size_t pool_bytes, move_bytes;
    struct hello hello;
    struct address unix_address, tcp_address;
    struct transfer *transfer;
    struct mailbox *transfers, *reports;
    struct store *store;
    int sockets[2], redis; /* -1: none */
    uint32_t redis_keys;
    double seconds[KINDS][ROUNDS_MAX];
};

/* ---- floors ---- */

static double bench_memcpy(struct bench_store *bench, size_t from, size_t to)
{
    uint64_t start_ns = clock_ns();
    memcpy(bench->copy + to, bench->pool.host + from, bench->move_bytes);
    return (double)(clock_ns() - start_ns) / 1e9;
}

struct sending {
    int fd;
    const uint8_t *from;
    size_t bytes;
};

static void *bench_send(void *ctx)
{
    struct sending *sending = ctx;
    for (size_t done = 0; done < sending->bytes;) {
        ssize_t put = send(sending->fd, sending->from + done, sending->bytes - done, MSG_NOSIGNAL);
        if (put <= 0)
            break;
        done += (size_t)put;
    }
    return NULL;
}

static double bench_socket(struct bench_store *bench, size_t from, size_t to)
{
    struct sending sending = {
        .fd = bench->sockets[0], .from = bench->pool.host + from, .bytes = bench->move_bytes};
    pthread_t thread;
    uint64_t start_ns = clock_ns();
    if (pthread_create(&thread, NULL, bench_send, &sending) != 0)
        return 1e9;
    for (size_t done = 0; done < bench->move_bytes;) {
        ssize_t got = recv(bench->sockets[1], bench->copy + to + done, bench->move_bytes - done, 0);
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    pthread_join(thread, NULL);
    return seconds;
}

/* A connected pair over the loopback interface. */
static status bench_open_sockets(struct bench_store *bench)
{
    struct address any, bound;
    int listener = -1;
    status st = address_parse("127.0.0.1:0", 0, &any);
    if (st == OK)
        st = address_listen(&any, &listener);
    if (st == OK)
        st = address_of_socket(listener, &bound);
    if (st != OK)
        return st;
    bench->sockets[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bench->sockets[0] < 0 ||
        connect(bench->sockets[0], (struct sockaddr *)&bound.socket_address, bound.bytes) != 0)
        st = error_set(ERR_IO, "cannot connect over loopback: %s", strerror(errno));
    for (int i = 0; st == OK && i < 1000 && bench->sockets[1] < 0; i++) {
        bench->sockets[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (bench->sockets[1] < 0)
            usleep(1000);
    }
    close(listener);
    return st == OK && bench->sockets[1] < 0 ? error_set(ERR_IO, "nothing to accept") : st;
}

/* ---- the store ---- */

static status bench_wait(struct bench_store *bench, uint32_t kind, double *seconds_out)
{
    if (!mailbox_wait(bench->reports, WAIT_MS))
        return error_set(ERR_TIMEOUT, "the store did not report");
    struct store_report *report = (struct store_report *)mailbox_take_all(bench->reports);
    status st = report->status;
    if (st != OK)
        st = error_set(st, "%s", report->text);
    else if (report->mail.kind != kind || report->count != bench->options->blocks)
        st = error_set(ERR_NOT_FOUND, "%u of %u blocks; give the store more memory", report->count,
                       bench->options->blocks);
    *seconds_out = report->seconds;
    store_report_free(report);
    return st;
}

static status bench_redis(struct bench_store *bench, uint32_t round, size_t from, size_t to)
{
    size_t bytes = bench->pool.block_bytes;
    uint32_t count = bench->options->blocks;
    uint32_t first = round * count % (bench->redis_keys - bench->redis_keys % count);
    uint64_t start_ns = clock_ns();
    status st = bench_redis_set(bench->redis, first, bench->pool.host + from, bytes, count);
    bench->seconds[REDIS_SET][round] = (double)(clock_ns() - start_ns) / 1e9;
    start_ns = clock_ns();
    if (st == OK)
        st = bench_redis_get(bench->redis, first, bench->copy + to, bytes, count);
    bench->seconds[REDIS_GET][round] = (double)(clock_ns() - start_ns) / 1e9;
    if (st == OK && memcmp(bench->pool.host + from, bench->copy + to, bench->move_bytes) != 0)
        st = error_set(ERR_CORRUPT, "Redis gave back something else than it was given");
    return st;
}

/* All values are there before a round replaces some, as the store's memory has been written to. */
static status bench_fill_redis(struct bench_store *bench)
{
    const struct bench_store_options *options = bench->options;
    uint32_t half = options->pool_blocks / 2;
    bench->redis_keys = options->redis_keys > 0 ? options->redis_keys : half;
    if (bench->redis_keys < options->blocks)
        return error_set(ERR_BAD_INPUT, "--redis-keys is %u, expected at least --blocks (%u)",
                         bench->redis_keys, options->blocks);
    status st = OK;
    for (uint32_t first = 0, count; st == OK && first < bench->redis_keys; first += count) {
        count = bench->redis_keys - first < half ? bench->redis_keys - first : half;
        st = bench_redis_set(bench->redis, first, bench->pool.host, bench->pool.block_bytes, count);
    }
    return st;
}

/* Blocks that nobody has seen before, each the child of the one before it. */
static void bench_name(const struct bench_store *bench, struct store_block *blocks,
                       struct block_key *keys, uint32_t first)
{
    uint64_t salt = hello_incarnation_random();
    for (uint32_t i = 0; i < bench->options->blocks; i++) {
        uint32_t token = i;
        keys[i] = block_key_root(bench->hello.fingerprint, bench->layout->hash, DTYPE_F16,
                                 bench->hello.numerics_class, &salt, sizeof(salt));
        keys[i] = block_key_next(i > 0 ? &keys[i - 1] : &keys[i], &token, 1);
        blocks[i] = (struct store_block){.key = keys[i], .is_first = i == 0, .id = first + i};
        if (i > 0)
            blocks[i].parent = keys[i - 1];
    }
}

/* A small store still lends what the round before has got, until its lease is closed: the add that
 * meets this is not counted, and another one made. summed: their sums are in the book, as
 * bench_sum or an add has left them; else nobody has made any. */
static status bench_add(struct bench_store *bench, struct store_block *blocks,
                        struct block_key *keys, uint32_t first, bool summed, double *seconds_out)
{
    uint64_t end_ns = clock_ns() + LEASES_END_NS;
    for (;;) {
        bench_name(bench, blocks, keys, first);
        for (uint32_t i = 0; i < bench->options->blocks && !summed; i++)
            atomic_fetch_add(&bench->fills[first + i], 1);
        status st = store_add(bench->store, 1, blocks, bench->options->blocks, 0);
        if (st == OK)
            st = bench_wait(bench, STORE_ADDED, seconds_out);
        if ((st != ERR_FULL && st != ERR_NOT_FOUND) || clock_ns() >= end_ns)
            return st;
        usleep(1000);
    }
}

/* What a handoff of all blocks that are added would have left behind. */
static void bench_sum(struct bench_store *bench)
{
    for (uint32_t id = 0; id < bench->options->pool_blocks / 2; id++) {
        for (uint32_t layer = 0; layer < bench->options->layers; layer++)
            (void)transfer_sum(bench->transfer, layer, id);
    }
}

static status bench_round(struct bench_store *bench, uint32_t round)
{
    uint32_t count = bench->options->blocks, half = bench->options->pool_blocks / 2;
    uint32_t places = half / count;
    uint32_t first = round % places * count, summed = (round + places / 2) % places * count;
    struct store_block *blocks = calloc(count, sizeof(*blocks));
    struct block_key *keys = calloc(count, sizeof(*keys));
    block_id *ids = calloc(count, sizeof(*ids));
    status st = blocks == NULL || keys == NULL || ids == NULL
                    ? error_set(ERR_NO_MEMORY, "no memory for a round")
                    : OK;
    for (uint32_t i = 0; st == OK && i < count; i++)
        ids[i] = half + first + i;
    if (st == OK)
        st = bench_add(bench, blocks, keys, first, false, &bench->seconds[ADD][round]);
    if (st == OK)
        st = store_get(bench->store, 2, keys, ids, count, WAIT_MS);
    if (st == OK)
        st = bench_wait(bench, STORE_GOT, &bench->seconds[GET][round]);
    if (st == OK)
        st = bench_add(bench, blocks, keys, summed, true, &bench->seconds[ADD_SUMMED][round]);
    size_t from = (size_t)first * bench->pool.block_bytes;
    size_t to = (size_t)(half + first) * bench->pool.block_bytes;
    if (st == OK && memcmp(bench->pool.host + from, bench->pool.host + to, bench->move_bytes) != 0)
        st = error_set(ERR_CORRUPT, "what came back is not what was added");
    bench->seconds[MEMCPY][round] = bench_memcpy(bench, from, to);
    bench->seconds[SOCKET][round] = bench_socket(bench, from, to);
    if (st == OK && bench->redis >= 0)
        st = bench_redis(bench, round, from, to);
    free(blocks);
    free(keys);
    free(ids);
    return st;
}

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void bench_print(struct bench_store *bench)
{
    static const char *const names[KINDS] = {"add, never summed", "add, summed before", "get",
                                             "memcpy, cold",      "tcp socket, plain",  "Redis SET",
                                             "Redis GET"};
    uint32_t rounds = bench->options->rounds;
    int kinds = bench->redis >= 0 ? KINDS : REDIS_SET;
    double rate[KINDS];
    for (int kind = 0; kind < kinds; kind++) {
        qsort(bench->seconds[kind], rounds, sizeof(double), double_order);
        rate[kind] = (double)bench->move_bytes / bench->seconds[kind][rounds / 2];
    }
    printf("%u rounds of %u blocks of %zu KiB, medians\n", rounds, bench->options->blocks,
           bench->pool.block_bytes / 1024);
    for (int kind = 0; kind < kinds; kind++)
        printf("%-18s %7.2f GB/s   of memcpy %5.2f   of a plain socket %5.2f\n", names[kind],
               rate[kind] / 1e9, rate[kind] / rate[MEMCPY], rate[kind] / rate[SOCKET]);
    if (bench->redis >= 0)
        printf("of Redis: add %.2f of SET, %.2f summed before, get %.2f of GET\n",
               rate[ADD] / rate[REDIS_SET], rate[ADD_SUMMED] / rate[REDIS_SET],
               rate[GET] / rate[REDIS_GET]);
}

/* ---- open and close ---- */

static status bench_open_pool(struct bench_store *bench)
{
    const struct kv_shape shape = {.layer_count = bench->options->layers,
                                   .kv_head_count = 8,
                                   .head_dim = 64,
                                   .block_tokens = 16,
                                   .dtype = DTYPE_F16,
                                   .ranks = 1};
    status st = kv_layout_open(&shape, &bench->layout);
    if (st != OK)
        return st;
    bench->pool_bytes = bench->layout->block_bytes * bench->options->pool_blocks;
    bench->move_bytes = bench->layout->block_bytes * bench->options->blocks;
    bench->pool.block_bytes = bench->layout->block_bytes;
    bench->pool.block_count = bench->options->pool_blocks;
    bench->pool.fd = memfd_create("baton-bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (bench->pool.fd < 0 || ftruncate(bench->pool.fd, (off_t)bench->pool_bytes) != 0)
        return error_set(ERR_NO_MEMORY, "cannot make a pool: %s", strerror(errno));
    void *host =
        mmap(NULL, bench->pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bench->pool.fd, 0);
    bench->copy = malloc(bench->pool_bytes);
    bench->fills = calloc(bench->pool.block_count, sizeof(*bench->fills));
    if (host == MAP_FAILED || bench->copy == NULL || bench->fills == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for two pools of %zu bytes", bench->pool_bytes);
    bench->pool.host = host;
    bench->pool.fills = bench->fills;
    for (uint32_t id = 0; id < bench->pool.block_count; id++)
        bench->fills[id] = 1;
    for (size_t i = 0; i < bench->pool_bytes; i += 8) {
        uint64_t word = (i + 1) * 0x9e3779b97f4a7c15u;
        memcpy(bench->pool.host + i, &word, 8);
    }
    memset(bench->copy, 1, bench->pool_bytes);
    return OK;
}

static status bench_open_store(struct bench_store *bench)
{
    const struct bench_store_options *options = bench->options;
    uint32_t carriers = transfer_carriers_parse(options->carrier);
    struct transfer_slice layers[1024];
    struct address any;
    char text[ADDRESS_TEXT_BYTES];
    for (uint32_t i = 0; i < options->layers; i++)
        kv_layout_layer(bench->layout, i, &layers[i].offset, &layers[i].bytes);
    bench->hello = (struct hello){.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                                  .kv_dtype = DTYPE_F16,
                                  .block_tokens = 16,
                                  .ranks = 1,
                                  .role = HELLO_COLOCATED,
                                  .incarnation = hello_incarnation_random(),
                                  .name = "bench",
                                  .numerics_class = "bench"};
    memcpy(bench->hello.layout_hash, bench->layout->hash, KV_LAYOUT_HASH_BYTES);
    snprintf(text, sizeof(text), "unix:/tmp/baton-bench-%ld.sock", (long)getpid());
    status st = cluster_key_open(options->cluster_key, &bench->key);
    if (st == OK)
        st = address_parse(text, 0, &bench->unix_address);
    if (st == OK)
        st = address_parse("127.0.0.1:0", 0, &any);
    if (st == OK)
        st = mailbox_open(&bench->transfers);
    if (st == OK)
        st = mailbox_open(&bench->reports);
    const struct transfer_options transfer = {.hello = &bench->hello,
                                              .key = bench->key,
                                              .unix_listen = &bench->unix_address,
                                              .tcp_listen = &any,
                                              .pool = bench->pool,
                                              .layers = layers,
                                              .layer_count = options->layers,
                                              .carriers = carriers,
                                              .rdma_transports = options->rdma_transports,
                                              .reports = bench->transfers};
    if (st == OK)
        st = transfer_open(&transfer, &bench->transfer);
    if (st == OK && (carriers & TRANSFER_REMOTE) != 0)
        st = transfer_tcp_address(bench->transfer, &bench->tcp_address);
    const struct store_options store = {
        .address = options->store,
        .password_file = options->store_password_file,
        .hello = &bench->hello,
        .layout = bench->layout,
        .transfer = bench->transfer,
        .pool = bench->pool,
        .transfer_unix = (carriers & TRANSFER_SHM) != 0 ? bench->unix_address.text : NULL,
        .transfer_tcp = (carriers & TRANSFER_REMOTE) != 0 ? bench->tcp_address.text : NULL,
        .key = bench->key,
        .reports = bench->reports,
        .queue_blocks_max = options->blocks};
    if (st == OK)
        st = store_open(&store, &bench->store);
    for (int i = 0; st == OK && i < 5000 && !store_is_up(bench->store); i++)
        usleep(1000);
    if (st == OK && !store_is_up(bench->store))
        st = error_set(ERR_TIMEOUT, "%s is no store that can be used", options->store);
    return st;
}

static void bench_close(struct bench_store *bench)
{
    store_close(bench->store);
    if (bench->transfer != NULL)
        transfer_close(bench->transfer);
    if (bench->reports != NULL)
        mailbox_close(bench->reports);
    if (bench->transfers != NULL)
        mailbox_close(bench->transfers);
    for (int i = 0; i < 2; i++) {
        if (bench->sockets[i] >= 0)
            close(bench->sockets[i]);
    }
    bench_redis_close(bench->redis, bench->redis_keys);
    if (bench->pool.host != NULL)
        munmap(bench->pool.host, bench->pool_bytes);
    if (bench->pool.fd >= 0)
        close(bench->pool.fd);
    free(bench->copy);
    free(bench->fills);
    if (bench->layout != NULL)
        kv_layout_close(bench->layout);
    cluster_key_close(bench->key);
    free(bench);
}

static int bench_store_run(const void *options_given, const char *const *operands,
                           uint32_t operand_count)
{
    const struct bench_store_options *options = options_given;
    struct bench_store *bench = calloc(1, sizeof(*bench));
    (void)operands, (void)operand_count;
    if (bench == NULL)
        return EXIT_FAILED;
    log_open("bench", LOG_WARN);
    if (!worker_words_known(options->carrier, "auto", "auto", "warn")) {
        free(bench);
        return EXIT_USAGE;
    }
    bench->options = options;
    bench->sockets[0] = bench->sockets[1] = bench->redis = bench->pool.fd = -1;
    status st = options->pool_blocks / 2 < options->blocks
                    ? error_set(ERR_BAD_INPUT,
                                "--pool-blocks is %u, expected at least twice "
                                "--blocks (%u)",
                                options->pool_blocks, options->blocks)
                    : bench_open_pool(bench);
    if (st == OK)
        st = bench_open_sockets(bench);
    if (st == OK)
        st = bench_open_store(bench);
    if (st == OK && options->redis != NULL)
        st = bench_redis_open(options->redis, &bench->redis);
    if (st == OK && bench->redis >= 0)
        st = bench_fill_redis(bench);
    if (st == OK)
        bench_sum(bench);
    for (uint32_t round = 0; st == OK && round < options->rounds; round++)
        st = bench_round(bench, round);
    if (st == OK)
        bench_print(bench);
    else
        fprintf(stderr, "baton bench store: %s\n", error_text());
    bench_close(bench);
    return st == OK ? EXIT_OK : EXIT_FAILED;
}

const struct command_spec bench_store_command = {
    .name = "bench store",
    .operands = "",
    .summary = "measure add and get of a running store beside memcpy and a plain socket",
    .details = "The store must be empty or of this benchmark's own layout, and hold a few calls' "
               "blocks.",
    .options = bench_store_rows,
    .option_count = sizeof(bench_store_rows) / sizeof(bench_store_rows[0]),
    .options_bytes = sizeof(struct bench_store_options),
    .run = bench_store_run,
};
