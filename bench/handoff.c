/* bench/handoff.c - what a handoff costs on this host, beside what moves the same bytes and does
 * nothing else. One round is one of each, one after another:
 *
 *     socket   send and recv between two threads         tcp, key     a handoff, without and with a
 *     memcpy   one call, cold memory                                  cluster key
 *                                                        shm, move    a handoff; move: its holder
 *                                                                     has the checksums already
 *
 * The holder's threads run on the first core, the receiver's on the second, as workers do that have
 * cores of their own; left alone, the kernel puts both ends of a loopback socket on one core.
 * The receiver verifies every slice, always.
 *
 *     cmake --build build/release && gcc -O2 -std=gnu11 -Isrc bench/handoff.c -o /tmp/handoff \
 *         build/release/libbaton_core.a -lpthread -lm \
 *         $(pkg-config --libs libevent libevent_pthreads libsodium libgcrypt)
 *     /tmp/handoff [ROUNDS]
 *
 * Prints GB/s of each round, and medians and ratios at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/transfer.h"
#include "wire/seal.h"

#define LAYERS 30
#define LAYER_BYTES (32u << 10) /* keys and values of 16 tokens: 1 KiB a token and layer */
#define BLOCKS 256              /* 4096 tokens, 240 MiB */
#define BLOCK_BYTES (LAYERS * (size_t)LAYER_BYTES)
#define BYTES (BLOCKS * BLOCK_BYTES)
#define ROUNDS_MAX 32

enum { SOCKET, TCP, TCP_KEY, MEMCPY, SHM, SHM_MOVE, KINDS };

struct side {
    int core;
    uint32_t carrier;
    bool has_sums; /* offers bring their checksums */
    struct checksum *sums;
    struct mailbox *reports;
    struct transfer *transfer;
    struct hello hello;
    uint8_t *pool;
    struct address address, local;
};

static void check(status st)
{
    if (st == OK)
        return;
    fprintf(stderr, "handoff: %s\n", error_text());
    exit(1);
}

static void on_core(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(0, sizeof(set), &set); /* of one core only: stays where it is */
}

static uint8_t *pool_make(int *fd_out)
{
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)BYTES) != 0)
        exit(1);
    uint8_t *pool = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (pool == MAP_FAILED)
        exit(1);
    for (size_t i = 0; i < BYTES; i += 8)
        memcpy(pool + i, &(uint64_t){i * 0x9e3779b97f4a7c15u}, 8);
    *fd_out = fd;
    return pool;
}

static void side_open(struct side *side, const char *name, int core, uint32_t carrier,
                      const struct cluster_key *key)
{
    char path[64];
    struct transfer_slice layers[LAYERS];
    struct address any;
    int fd;
    on_core(core);
    side->core = core;
    side->carrier = carrier;
    side->pool = pool_make(&fd);
    side->hello = (struct hello){.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                                 .ranks = 1,
                                 .role = HELLO_PREFILL,
                                 .incarnation = hello_incarnation_random()};
    snprintf(side->hello.name, sizeof(side->hello.name), "%s", name);
    for (size_t i = 0; i < LAYERS; i++)
        layers[i] = (struct transfer_slice){i * LAYER_BYTES, LAYER_BYTES};
    check(address_parse("127.0.0.1:0", 0, &any));
    snprintf(path, sizeof(path), "unix:/tmp/handoff-%d-%s.sock", getpid(), name);
    check(address_parse(path, 0, &side->local));
    check(mailbox_open(&side->reports));
    struct transfer_options options = {
        .hello = &side->hello,
        .key = key,
        .unix_listen = &side->local,
        .tcp_listen = &any,
        .pool = {.host = side->pool, .fd = fd, .block_count = BLOCKS, .block_bytes = BLOCK_BYTES},
        .layers = layers,
        .layer_count = LAYERS,
        .carriers = carrier,
        .reports = side->reports};
    check(transfer_open(&options, &side->transfer));
    if (carrier == TRANSFER_TCP)
        check(transfer_tcp_address(side->transfer, &side->address));
    side->sums = malloc(LAYERS * BLOCKS * sizeof(*side->sums));
    for (size_t layer = 0; layer < LAYERS; layer++) {
        for (size_t block = 0; block < BLOCKS; block++)
            side->sums[layer * BLOCKS + block] =
                checksum_of(side->pool + block * BLOCK_BYTES + layer * LAYER_BYTES, LAYER_BYTES);
    }
}

static void side_expect(struct side *side)
{
    if (!mailbox_wait(side->reports, 20000))
        exit(1);
    struct transfer_report *report = (struct transfer_report *)mailbox_take_all(side->reports);
    if (report->status != OK) {
        fprintf(stderr, "handoff: %s\n", report->text);
        exit(1);
    }
    transfer_report_free(report);
}

/* GB/s of one handoff of the whole pool, as a prefill worker makes it. */
static double handoff(struct side *holder, struct side *receiver)
{
    uint32_t ids[BLOCKS];
    struct lease_id lease;
    for (uint32_t i = 0; i < BLOCKS; i++)
        ids[i] = i;
    lease_id_random(&lease);
    struct transfer_wish wish = {
        .lease = lease,
        .epoch = 1,
        .block_ids = ids,
        .block_count = BLOCKS,
        .deadline_ms = 20000,
        .source = {holder->hello.incarnation, &holder->local, &holder->address}};
    if (holder->carrier == TRANSFER_TCP)
        wish.source.local = NULL;
    else
        wish.source.remote = NULL;
    uint64_t from = clock_ns();
    check(transfer_lease_open(holder->transfer, &lease, 1, 1, 20000));
    check(transfer_receive(receiver->transfer, &wish));
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        transfer_offer(holder->transfer, &lease, layer, 0, ids, BLOCKS,
                       holder->has_sums ? holder->sums + layer * BLOCKS : NULL);
    check(transfer_complete(holder->transfer, &lease, BLOCKS, "x", 1));
    side_expect(receiver);
    double seconds = (double)(clock_ns() - from) / 1e9;
    side_expect(holder);
    if (memcmp(holder->pool, receiver->pool, BYTES) != 0)
        exit(1);
    memset(receiver->pool, 0, BYTES);
    return BYTES / seconds / 1e9;
}

struct plain {
    int fd, core;
    uint8_t *pool;
};

static void *plain_send(void *ctx)
{
    struct plain *plain = ctx;
    on_core(plain->core);
    for (size_t at = 0; at < BYTES;) {
        ssize_t sent =
            send(plain->fd, plain->pool + at, BYTES - at < 1 << 20 ? BYTES - at : 1 << 20, 0);
        if (sent <= 0)
            exit(1);
        at += (size_t)sent;
    }
    return NULL;
}

/* GB/s of send and recv between two threads, and nothing else. */
static double plain_socket(struct side *holder, struct side *receiver)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(at);
    int listener = socket(AF_INET, SOCK_STREAM, 0), from = socket(AF_INET, SOCK_STREAM, 0);
    pthread_t thread;
    if (bind(listener, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&at, &bytes) != 0 ||
        connect(from, (struct sockaddr *)&at, sizeof(at)) != 0)
        exit(1);
    struct plain plain = {accept(listener, NULL, NULL), holder->core, holder->pool};
    on_core(receiver->core);
    uint64_t start = clock_ns();
    pthread_create(&thread, NULL, plain_send, &plain);
    for (size_t got = 0; got < BYTES;) {
        ssize_t step =
            recv(from, receiver->pool + got, BYTES - got < 1 << 20 ? BYTES - got : 1 << 20, 0);
        if (step <= 0)
            exit(1);
        got += (size_t)step;
    }
    double seconds = (double)(clock_ns() - start) / 1e9;
    pthread_join(thread, NULL);
    close(listener), close(from), close(plain.fd);
    memset(receiver->pool, 0, BYTES);
    return BYTES / seconds / 1e9;
}

static double plain_memcpy(struct side *holder, struct side *receiver)
{
    on_core(receiver->core);
    uint64_t from = clock_ns();
    memcpy(receiver->pool, holder->pool, BYTES);
    double seconds = (double)(clock_ns() - from) / 1e9;
    memset(receiver->pool, 0, BYTES);
    return BYTES / seconds / 1e9;
}

static int less(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double run(int kind, struct side sides[3][2])
{
    struct side *pair = kind == TCP_KEY ? sides[1] : kind < MEMCPY ? sides[0] : sides[2];
    pair[0].has_sums = kind == SHM_MOVE;
    switch (kind) {
    case SOCKET:
        return plain_socket(&pair[0], &pair[1]);
    case MEMCPY:
        return plain_memcpy(&pair[0], &pair[1]);
    default:
        return handoff(&pair[0], &pair[1]);
    }
}

int main(int argc, char **argv)
{
    static const struct cluster_key key = {{7}};
    static const char *const names[KINDS] = {"socket", "tcp", "key", "memcpy", "shm", "move"};
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    static struct side sides[3][2];
    double rates[KINDS][ROUNDS_MAX], middle[KINDS];
    log_open("handoff", LOG_ERROR);
    if (rounds < 1 || rounds > ROUNDS_MAX)
        return 2;
    for (int i = 0; i < 2; i++) {
        side_open(&sides[0][i], i == 0 ? "a" : "b", i, TRANSFER_TCP, NULL);
        side_open(&sides[1][i], i == 0 ? "c" : "d", i, TRANSFER_TCP, &key);
        side_open(&sides[2][i], i == 0 ? "e" : "f", i, TRANSFER_SHM, NULL);
    }
    printf("%zu MiB, %s, GB/s\n", BYTES >> 20,
           seal_has_aes() ? "AES-256-OCB" : "ChaCha20-Poly1305");
    for (int kind = 0; kind < KINDS; kind++) {
        run(kind, sides); /* connects, maps */
        printf("%8s%s", names[kind], kind == KINDS - 1 ? "\n" : "");
    }
    for (int i = 0; i < rounds; i++) {
        for (int kind = 0; kind < KINDS; kind++) {
            rates[kind][i] = run(kind, sides);
            printf("%8.2f%s", rates[kind][i], kind == KINDS - 1 ? "\n" : "");
            fflush(stdout);
        }
    }
    for (int kind = 0; kind < KINDS; kind++) {
        qsort(rates[kind], (size_t)rounds, sizeof(double), less);
        middle[kind] = rates[kind][rounds / 2];
        printf("%8.2f%s", middle[kind], kind == KINDS - 1 ? "   medians\n" : "");
    }
    printf("of a plain socket: tcp %.2f, with a key %.2f; of memcpy: shm %.2f, move %.2f\n",
           middle[TCP] / middle[SOCKET], middle[TCP_KEY] / middle[SOCKET],
           middle[SHM] / middle[MEMCPY], middle[SHM_MOVE] / middle[MEMCPY]);
    for (int i = 0; i < 6; i++)
        transfer_close(sides[i / 2][i % 2].transfer);
    return 0;
}
