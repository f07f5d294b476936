/* Bits that flip on the way between two workers, in whatever is sent, both ways: a block is whole
 * where it arrives, or the handoff fails by name, in bounded time. Without a cluster key: with one,
 * a flipped bit ends the connection (auth_test). */
#include "unit/transfer/worker_sample.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define BLOCKS 8u
#define FLIPS 10000u
#define DEADLINE_MS 300u
#define PAYLOAD_BYTES 1500u /* first tokens, with log-probabilities */

/* Bytes from one flip to the next, at most: of what a holder says, and of what a receiver does. */
static const uint32_t apart[2] = {256u << 10, 32u << 10};

/* ---- the wire ---- */

struct wire {
    int listen_fd;
    struct address address, holder;
    pthread_t thread;
    atomic_bool stop;
    atomic_uint flips[2]; /* from the holder, to the holder */
    uint64_t random;
    uint32_t left[2]; /* bytes until the next one */
};

static uint32_t wire_random(struct wire *wire, uint32_t limit)
{
    wire->random = wire->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((wire->random >> 33) % limit);
}

static bool send_all(int fd, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        count -= (size_t)sent;
    }
    return true;
}

/* False: one side has closed. */
static bool wire_carry(struct wire *wire, int from, int to, int direction)
{
    static uint8_t bytes[64 << 10];
    ssize_t got = recv(from, bytes, sizeof(bytes), 0);
    if (got <= 0)
        return false;
    size_t at = 0;
    while (wire->left[direction] < (size_t)got - at) {
        at += wire->left[direction];
        bytes[at++] ^= (uint8_t)(1u << wire_random(wire, 8));
        wire->left[direction] = wire_random(wire, apart[direction]);
        atomic_fetch_add(&wire->flips[direction], 1);
    }
    wire->left[direction] -= (uint32_t)((size_t)got - at);
    return send_all(to, bytes, (size_t)got);
}

static void wire_connection(struct wire *wire, int receiver)
{
    int holder = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    to.sin_port = htons((uint16_t)atoi(strrchr(wire->holder.text, ':') + 1));
    bool open = connect(holder, (const struct sockaddr *)&to, sizeof(to)) == 0;
    int one = 1;
    setsockopt(holder, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(receiver, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    while (open && !atomic_load(&wire->stop)) {
        struct pollfd fds[2] = {{.fd = holder, .events = POLLIN},
                                {.fd = receiver, .events = POLLIN}};
        poll(fds, 2, 50);
        if (fds[0].revents != 0)
            open = wire_carry(wire, holder, receiver, 0);
        if (open && fds[1].revents != 0)
            open = wire_carry(wire, receiver, holder, 1);
    }
    close(holder);
    close(receiver);
}

static void *wire_thread(void *ctx)
{
    struct wire *wire = ctx;
    while (!atomic_load(&wire->stop)) {
        struct pollfd one = {.fd = wire->listen_fd, .events = POLLIN};
        int fd = poll(&one, 1, 50) > 0 ? accept(wire->listen_fd, NULL, NULL) : -1;
        if (fd >= 0)
            wire_connection(wire, fd);
    }
    return NULL;
}

static void wire_open(struct wire *wire, const struct worker *holder)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(at);
    char text[ADDRESS_TEXT_BYTES];
    memset(wire, 0, sizeof(*wire));
    wire->holder = holder->tcp_address;
    wire->random = 7;
    for (int i = 0; i < 2; i++)
        wire->left[i] = wire_random(wire, apart[i]);
    wire->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(wire->listen_fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(wire->listen_fd, 16), 0);
    assert_int_equal(getsockname(wire->listen_fd, (struct sockaddr *)&at, &bytes), 0);
    snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(at.sin_port));
    assert_int_equal(address_parse(text, 0, &wire->address), OK);
    assert_int_equal(pthread_create(&wire->thread, NULL, wire_thread, wire), 0);
}

static void wire_close(struct wire *wire)
{
    atomic_store(&wire->stop, true);
    pthread_join(wire->thread, NULL);
    close(wire->listen_fd);
}

/* ---- the handoffs ---- */

/* One over the wire. True: it arrived. */
static bool one_over(struct worker *holder, struct worker *receiver, const struct wire *wire,
                     uint32_t *bad_ends)
{
    uint32_t from_ids[BLOCKS], to_ids[BLOCKS];
    uint8_t payload[PAYLOAD_BYTES];
    struct lease_id lease;
    for (uint32_t i = 0; i < PAYLOAD_BYTES; i++)
        payload[i] = (uint8_t)(i * i >> 4);
    blocks_pick(from_ids, BLOCKS, BLOCKS);
    blocks_pick(to_ids, BLOCKS, BLOCKS);
    memset(receiver->pool.host, POISON, receiver->pool.block_bytes * BLOCKS);
    lease_id_random(&lease);
    struct transfer_wish wish = wish_of(holder, &lease, TRANSFER_TCP, to_ids, BLOCKS);
    wish.source.remote = &wire->address;
    wish.deadline_ms = DEADLINE_MS;
    assert_int_equal(transfer_lease_open(holder->transfer, &lease, 9, 3, 20000), OK);
    offer_all(holder, &lease, from_ids, BLOCKS);
    assert_int_equal(transfer_complete(holder->transfer, &lease, BLOCKS, payload, sizeof(payload)),
                     OK);
    assert_int_equal(transfer_receive(receiver->transfer, &wish), OK);
    uint64_t begin_ns = clock_ns();
    struct transfer_report *report = worker_report(receiver, 10000);
    assert_non_null(report);
    bool arrived = report->mail.kind == TRANSFER_RECEIVED;
    if (arrived) {
        /* What is told is what is there: all of it, and the payload. */
        assert_int_equal(report->block_count, BLOCKS);
        blocks_compare(holder, from_ids, receiver, to_ids, 0, BLOCKS);
        assert_int_equal(report->payload_bytes, PAYLOAD_BYTES);
        assert_memory_equal(report->payload, payload, PAYLOAD_BYTES);
    } else {
        assert_int_equal(report->mail.kind, TRANSFER_FAILED);
        assert_true(report->status != OK && report->text[0] != '\0');
        *bad_ends += strstr(report->text, "that ends the lease") != NULL;
        assert_true(clock_ns() - begin_ns < 5000000000ull);
    }
    transfer_report_free(report);
    transfer_lease_close(holder->transfer, &lease);
    report = worker_report(holder, 10000);
    assert_non_null(report);
    transfer_report_free(report);
    return arrived;
}

static void flipped_bits_on_the_way_are_caught(void **state)
{
    (void)state;
    struct shape shape = shape_even(4, BLOCKS, 16384);
    struct worker holder, receiver;
    struct wire wire;
    uint32_t arrived = 0, failed = 0, bad_ends = 0, ids[BLOCKS];
    /* A connection that is stuck, because the length of a frame was hit, is given up after this. */
    const struct transfer_options options = {.silence_ms = 250};
    worker_prepare(&holder, "holder", &shape);
    worker_prepare(&receiver, "receiver", &shape);
    worker_start(&holder, options);
    worker_start(&receiver, options);
    blocks_pick(ids, BLOCKS, BLOCKS);
    blocks_fill(&holder, ids, BLOCKS);
    wire_open(&wire, &holder);
    while (atomic_load(&wire.flips[0]) + atomic_load(&wire.flips[1]) < FLIPS) {
        if (one_over(&holder, &receiver, &wire, &bad_ends))
            arrived++;
        else
            failed++;
    }
    struct transfer_counters counters;
    transfer_counters_read(receiver.transfer, &counters);
    uint64_t caught = counters.carriers[1].checksum_failures;
    print_message("%u and %u flips, %llu by checksum, %u at the end; of %u handoffs %u arrived\n",
                  atomic_load(&wire.flips[0]), atomic_load(&wire.flips[1]),
                  (unsigned long long)caught, bad_ends, arrived + failed, arrived);
    assert_true(caught > FLIPS / 2 && bad_ends > 0 && failed > 0 && arrived > failed);
    assert_true(atomic_load(&wire.flips[1]) > 50);
    wire_close(&wire);
    worker_close(&receiver);
    worker_close(&holder);
}

static int make_folder(void **state)
{
    (void)state;
    return folder_make(LOG_ERROR + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(flipped_bits_on_the_way_are_caught)};
    return cmocka_run_group_tests(tests, make_folder, folder_remove);
}
