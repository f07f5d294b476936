/* bench/handoff.c - handoffs over tcp on this host: without a cluster key, with one, and a plain
 * socket that moves the same bytes into the same kind of memory, alternating.
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

struct side {
    struct mailbox *reports;
    struct transfer *transfer;
    struct hello hello;
    uint8_t *pool;
    struct address address;
};

static void check(status st)
{
    if (st == OK)
        return;
    fprintf(stderr, "handoff: %s\n", error_text());
    exit(1);
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

static void side_open(struct side *side, const char *name, const struct cluster_key *key)
{
    struct transfer_slice layers[LAYERS];
    struct address any;
    int fd;
    side->pool = pool_make(&fd);
    side->hello = (struct hello){.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                                 .ranks = 1,
                                 .role = HELLO_PREFILL,
                                 .incarnation = hello_incarnation_random()};
    snprintf(side->hello.name, sizeof(side->hello.name), "%s", name);
    for (size_t i = 0; i < LAYERS; i++)
        layers[i] = (struct transfer_slice){i * LAYER_BYTES, LAYER_BYTES};
    check(address_parse("127.0.0.1:0", 0, &any));
    check(mailbox_open(&side->reports));
    struct transfer_options options = {.hello = &side->hello,
                                       .key = key,
                                       .tcp_listen = &any,
                                       .pool = {side->pool, fd, BLOCKS, BLOCK_BYTES},
                                       .layers = layers,
                                       .layer_count = LAYERS,
                                       .carriers = TRANSFER_TCP,
                                       .reports = side->reports};
    check(transfer_open(&options, &side->transfer));
    check(transfer_tcp_address(side->transfer, &side->address));
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
    struct transfer_wish wish = {.lease = lease,
                                 .epoch = 1,
                                 .block_ids = ids,
                                 .block_count = BLOCKS,
                                 .deadline_ms = 20000,
                                 .source = {holder->hello.incarnation, NULL, &holder->address}};
    uint64_t from = clock_ns();
    check(transfer_lease_open(holder->transfer, &lease, 1, 1, 20000));
    check(transfer_receive(receiver->transfer, &wish));
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        transfer_offer(holder->transfer, &lease, layer, 0, ids, BLOCKS, NULL);
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
    int fd;
    uint8_t *pool;
};

static void *plain_send(void *ctx)
{
    struct plain *plain = ctx;
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
    struct plain plain = {accept(listener, NULL, NULL), holder->pool};
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

static int less(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(int argc, char **argv)
{
    static const struct cluster_key key = {{7}};
    int rounds = argc > 1 ? atoi(argv[1]) : 7;
    static struct side open_holder, open_receiver, key_holder, key_receiver;
    double rates[3][ROUNDS_MAX];
    log_open("handoff", LOG_ERROR);
    side_open(&open_holder, "a", NULL);
    side_open(&open_receiver, "b", NULL);
    side_open(&key_holder, "c", &key);
    side_open(&key_receiver, "d", &key);
    handoff(&open_holder, &open_receiver), handoff(&key_holder, &key_receiver);
    printf("%zu MiB, %s\nplain socket   no key   key, GB/s\n", BYTES >> 20,
           seal_has_aes() ? "AES-256-OCB" : "ChaCha20-Poly1305");
    for (int i = 0; i < rounds && i < ROUNDS_MAX; i++) {
        rates[0][i] = plain_socket(&open_holder, &open_receiver);
        rates[1][i] = handoff(&open_holder, &open_receiver);
        rates[2][i] = handoff(&key_holder, &key_receiver);
        printf("%12.2f %8.2f %5.2f\n", rates[0][i], rates[1][i], rates[2][i]);
    }
    for (int i = 0; i < 3; i++)
        qsort(rates[i], (size_t)rounds, sizeof(double), less);
    double middle[3] = {rates[0][rounds / 2], rates[1][rounds / 2], rates[2][rounds / 2]};
    printf("medians: %.2f %.2f %.2f; over plain: %.2f %.2f\n", middle[0], middle[1], middle[2],
           middle[1] / middle[0], middle[2] / middle[0]);
    return 0;
}
