/* Peers that die, stop, lie or flood: the survivor ends what it had with them in bounded time, touches
 * nothing afterwards and serves the next one. Forks happen while the process has no second thread. */
#include "unit/transfer/worker_sample.h"

#include "wire/link.h"

#define BLOCKS 32

struct introduction {
    uint64_t incarnation;
    struct address tcp_address;
};

static uint8_t pattern(uint32_t block, size_t byte)
{
    return (uint8_t)(block * 131 + byte * 7 + (byte >> 8) * 13);
}

static void introduce(int fd, const struct worker *worker)
{
    struct introduction me = {worker->hello.incarnation, worker->tcp_address};
    assert_int_equal(write(fd, &me, sizeof(me)), sizeof(me));
}

/* Fill in what the other process says of itself; its Unix socket is known by name. */
static void meet(int fd, const char *name, struct worker *other_out)
{
    struct introduction other;
    char text[ADDRESS_TEXT_BYTES];
    memset(other_out, 0, sizeof(*other_out));
    assert_int_equal(read(fd, &other, sizeof(other)), sizeof(other));
    other_out->hello.incarnation = other.incarnation;
    other_out->tcp_address = other.tcp_address;
    snprintf(text, sizeof(text), "unix:%s/%s", folder, name);
    assert_int_equal(address_parse(text, 0, &other_out->unix_address), OK);
}

static void all_ids(uint32_t *ids)
{
    for (uint32_t i = 0; i < BLOCKS; i++)
        ids[i] = i;
}

/* A process that holds a lease of BLOCKS blocks, says so, and lives until its lease ends. Its exit
 * status is the report's status, negated. */
static pid_t holder_process(const struct shape *shape, const struct lease_id *lease, bool complete,
                            struct worker *holder_out)
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct worker holder;
        uint32_t ids[BLOCKS];
        alarm(30);
        all_ids(ids);
        worker_open(&holder, "holder", shape);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            for (size_t b = 0; b < shape->block_bytes; b++)
                block_at(&holder, i)[b] = pattern(i, b);
        }
        transfer_lease_open(holder.transfer, lease, 1, 3, 20000);
        offer_all(&holder, lease, ids, BLOCKS);
        if (complete)
            transfer_complete(holder.transfer, lease, BLOCKS, "x", 1);
        introduce(pipe_fds[1], &holder);
        struct transfer_report *report = worker_report(&holder, 20000);
        status st = report != NULL ? report->status : ERR_TIMEOUT;
        transfer_report_free(report);
        worker_close(&holder);
        _exit(-st);
    }
    meet(pipe_fds[0], "holder", holder_out);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return pid;
}

/* A process that receives slowly from a holder that introduces itself through *fd_out. */
static pid_t receiver_process(const struct shape *shape, const struct lease_id *lease,
                              enum transfer_carrier carrier, int *fd_out)
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct worker holder, receiver;
        uint32_t ids[BLOCKS];
        alarm(30);
        all_ids(ids);
        meet(pipe_fds[0], "holder", &holder);
        worker_prepare(&receiver, "receiver", shape);
        worker_start(&receiver, (struct transfer_options){.test_slow_us = 20000});
        struct transfer_wish wish = wish_of(&holder, lease, carrier, ids, BLOCKS);
        transfer_receive(receiver.transfer, &wish);
        transfer_report_free(worker_report(&receiver, 20000));
        worker_close(&receiver);
        _exit(0);
    }
    close(pipe_fds[0]);
    *fd_out = pipe_fds[1];
    return pid;
}

static int process_end(pid_t pid)
{
    int code;
    assert_int_equal(waitpid(pid, &code, 0), pid);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

/* Is another's pool mapped into this process? Ours is mapped for writing. */
static bool maps_a_pool_to_read(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    bool found = false;
    while (fgets(line, sizeof(line), maps) != NULL)
        found = found || (strstr(line, "memfd:pool") != NULL && strstr(line, " r--s ") != NULL);
    fclose(maps);
    return found;
}

static void between_processes(void **state)
{
    (void)state;
    for (int carrier = TRANSFER_SHM; carrier <= TRANSFER_TCP; carrier++) {
        struct shape shape = shape_random(BLOCKS, 20000);
        struct worker holder, receiver;
        struct lease_id lease;
        uint32_t ids[BLOCKS];
        lease_id_random(&lease);
        pid_t pid = holder_process(&shape, &lease, true, &holder);
        blocks_pick(ids, BLOCKS, BLOCKS);
        worker_open(&receiver, "receiver", &shape);
        struct transfer_wish wish =
            wish_of(&holder, &lease, (enum transfer_carrier)carrier, ids, BLOCKS);
        transfer_receive(receiver.transfer, &wish);
        worker_expect_free(&receiver, TRANSFER_RECEIVED, OK);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            for (uint32_t l = 0; l < shape.layer_count; l++) {
                for (size_t b = 0; b < shape.layers[l].bytes; b++)
                    assert_int_equal(block_at(&receiver, ids[i])[shape.layers[l].offset + b],
                                     pattern(i, shape.layers[l].offset + b));
            }
        }
        assert_int_equal(process_end(pid), 0);
        worker_close(&receiver);
    }
}

/* kill -9 in mid-transfer: FAILED at once, unmapped, and not a byte later. */
static void a_killed_holder(void **state)
{
    (void)state;
    for (int round = 0; round < 6; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        struct shape shape = shape_even(4, BLOCKS, 20000);
        struct worker holder, receiver;
        struct lease_id lease;
        uint32_t ids[BLOCKS];
        all_ids(ids);
        lease_id_random(&lease);
        pid_t pid = holder_process(&shape, &lease, false, &holder);
        worker_prepare(&receiver, "receiver", &shape);
        worker_start(&receiver, (struct transfer_options){.test_slow_us = 500});
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, BLOCKS);
        transfer_receive(receiver.transfer, &wish);
        worker_wait_peer(&receiver, carrier == TRANSFER_SHM);
        usleep(random_below(40000));
        kill(pid, SIGKILL);
        uint64_t from = clock_ns();
        struct transfer_report *report = worker_report(&receiver, 5000);
        assert_non_null(report);
        assert_int_equal(report->mail.kind, TRANSFER_FAILED);
        assert_true(clock_ns() - from < 1000000000u);
        transfer_report_free(report);
        assert_false(maps_a_pool_to_read());
        memset(receiver.pool.host, POISON, shape.block_bytes * BLOCKS);
        usleep(20000);
        blocks_are_poison(&receiver, NULL, 0);
        assert_int_equal(process_end(pid), -1);
        worker_close(&receiver);
    }
}

/* SIGSTOP: the deadline ends it; the holder that wakes up can touch nothing. */
static void a_stopped_holder(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        bool before = round < 2; /* even the handshake is not answered */
        struct shape shape = shape_even(4, BLOCKS, 20000);
        struct worker holder, receiver;
        struct lease_id lease;
        uint32_t ids[BLOCKS];
        all_ids(ids);
        lease_id_random(&lease);
        pid_t pid = holder_process(&shape, &lease, false, &holder);
        worker_prepare(&receiver, "receiver", &shape);
        worker_start(&receiver, (struct transfer_options){.test_slow_us = 500});
        struct transfer_wish wish = wish_of(&holder, &lease, carrier, ids, BLOCKS);
        wish.deadline_ms = 400;
        if (before)
            kill(pid, SIGSTOP);
        uint64_t from = clock_ns();
        transfer_receive(receiver.transfer, &wish);
        if (!before) {
            worker_wait_peer(&receiver, carrier == TRANSFER_SHM);
            kill(pid, SIGSTOP);
        }
        worker_expect_free(&receiver, TRANSFER_FAILED, ERR_TIMEOUT);
        assert_true(clock_ns() - from < 1400000000u);
        memset(receiver.pool.host, POISON, shape.block_bytes * BLOCKS);
        kill(pid, SIGCONT);
        usleep(100000);
        blocks_are_poison(&receiver, NULL, 0);
        kill(pid, SIGKILL);
        process_end(pid);
        worker_close(&receiver);
    }
}

/* kill -9 or SIGSTOP of the receiver: the holder may drop its blocks soon. */
static void a_lost_receiver(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        enum transfer_carrier carrier = round % 2 == 0 ? TRANSFER_SHM : TRANSFER_TCP;
        int how = round < 2 ? SIGKILL : SIGSTOP;
        struct shape shape = shape_even(4, BLOCKS, 300000);
        struct worker holder;
        struct lease_id lease;
        uint32_t ids[BLOCKS];
        int fd;
        all_ids(ids);
        lease_id_random(&lease);
        pid_t pid = receiver_process(&shape, &lease, carrier, &fd);
        worker_prepare(&holder, "holder", &shape);
        worker_start(&holder, (struct transfer_options){.silence_ms = 600});
        transfer_lease_open(holder.transfer, &lease, 1, 3, 20000);
        offer_all(&holder, &lease, ids, BLOCKS);
        transfer_complete(holder.transfer, &lease, BLOCKS, NULL, 0);
        introduce(fd, &holder);
        worker_wait_peer(&holder, false);
        usleep(300000);
        kill(pid, how);
        uint64_t from = clock_ns();
        worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
        assert_true(clock_ns() - from < 1800000000u);
        kill(pid, SIGKILL);
        process_end(pid);
        close(fd);
        worker_close(&holder);
    }
}

/* ---- peers that lie: a link driven by hand ---- */

struct liar {
    struct loop *loop;
    struct loop_timer *timer;
    struct link *link;
    struct link_listener *listener;
    struct hello hello;
    bool ready, closed, timed_out;
    uint32_t offers, gones, bulks, completes;
    status gone_status;
    struct subscribe_message subscription;
    uint8_t place[1 << 20];
};

static void liar_on_ready(void *ctx, const struct hello *peer)
{
    (void)peer;
    struct liar *liar = ctx;
    liar->ready = true;
    loop_stop(liar->loop);
}

static void liar_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes)
{
    struct liar *liar = ctx;
    struct end_message end;
    if (type == FRAME_PING || type == FRAME_POOL)
        return;
    liar->offers += type == FRAME_OFFER;
    liar->completes += type == FRAME_COMPLETE;
    if (type == FRAME_GONE) {
        assert_int_equal(end_read(payload, payload_bytes, &end), OK);
        liar->gone_status = end.status;
        liar->gones++;
    }
    if (type == FRAME_SUBSCRIBE)
        assert_int_equal(subscribe_read(payload, payload_bytes, &liar->subscription), OK);
    loop_stop(liar->loop);
}

static void liar_on_close(void *ctx, status cause)
{
    (void)cause;
    struct liar *liar = ctx;
    liar->link = NULL;
    liar->closed = true;
    loop_stop(liar->loop);
}

static uint32_t liar_on_bulk(void *ctx, uint16_t type, const uint8_t *payload,
                             uint32_t payload_bytes, uint32_t bulk_bytes,
                             struct iovec spans[LINK_SPANS_MAX])
{
    (void)type, (void)payload, (void)payload_bytes;
    struct liar *liar = ctx;
    spans[0] = (struct iovec){.iov_base = liar->place, .iov_len = bulk_bytes};
    return 1;
}

static void liar_on_landed(void *ctx)
{
    struct liar *liar = ctx;
    liar->bulks++;
    loop_stop(liar->loop);
}

static void liar_on_timer(void *ctx)
{
    struct liar *liar = ctx;
    liar->timed_out = true;
    loop_stop(liar->loop);
}

static const struct link_calls liar_calls = {.on_ready = liar_on_ready, .on_frame = liar_on_frame,
                                             .on_close = liar_on_close, .on_bulk = liar_on_bulk,
                                             .on_landed = liar_on_landed};

static struct link_setup liar_setup(struct liar *liar)
{
    return (struct link_setup){.calls = &liar_calls, .ctx = liar, .hello = &liar->hello,
                               .limits = {.payload_bytes_max = 200000, .bulk_bytes_max = 1 << 20,
                                          .pending_bytes_max = 64 << 20}};
}

static void liar_on_accept(void *ctx, int fd)
{
    struct liar *liar = ctx;
    struct link_setup setup = liar_setup(liar);
    assert_int_equal(link_open(liar->loop, fd, &setup, &liar->link), OK);
}

/* Run until something happens, or timeout_ms. */
static void liar_turn(struct liar *liar, uint32_t timeout_ms)
{
    liar->timed_out = false;
    loop_timer_start(liar->timer, timeout_ms);
    loop_run(liar->loop);
    loop_timer_stop(liar->timer);
}

#define LIAR_UNTIL(liar, condition)                                        \
    do {                                                                   \
        for (int turns_ = 0; turns_ < 2000 && !(condition); turns_++) {    \
            liar_turn(liar, 3000);                                         \
            if ((liar)->timed_out)                                         \
                fail_msg("waited in vain for " #condition);                \
        }                                                                  \
    } while (0)

static struct liar *liar_open(void)
{
    struct liar *liar = calloc(1, sizeof(*liar));
    assert_int_equal(loop_open(&liar->loop), OK);
    assert_int_equal(loop_timer_open(liar->loop, liar_on_timer, liar, &liar->timer), OK);
    liar->hello = hello_sample("liar");
    return liar;
}

static void liar_connect(struct liar *liar, const struct address *address)
{
    struct link_setup setup = liar_setup(liar);
    link_close(liar->link);
    liar->ready = liar->closed = false;
    assert_int_equal(link_connect(liar->loop, address, 2000, &setup, &liar->link), OK);
    LIAR_UNTIL(liar, liar->ready);
}

static void liar_close(struct liar *liar)
{
    link_close(liar->link);
    link_listener_close(liar->listener);
    loop_timer_close(liar->timer);
    loop_close(liar->loop);
    free(liar);
}

static uint8_t message[OFFER_FRAME_BYTES_MAX];

static void liar_fetch(struct liar *liar, const struct lease_tag *tag, uint32_t number,
                       uint32_t from, uint32_t count)
{
    struct fetch_message fetch = {.tag = *tag, .number = number, .from = from, .count = count};
    link_send(liar->link, FRAME_FETCH, message, fetch_write(&fetch, message));
}

static void liar_subscribe(struct liar *liar, const struct lease_tag *tag)
{
    struct subscribe_message subscribe = {.tag = *tag, .block_count = 8, .wait_ms = 5000};
    link_send(liar->link, FRAME_SUBSCRIBE, message, subscribe_write(&subscribe, message));
}

/* A receiver that forges leases, epochs, offers and ranges gets nothing, and disturbs nobody. */
static void a_receiver_that_lies(void **state)
{
    (void)state;
    struct shape shape = shape_even(2, BLOCKS, 500);
    struct worker holder, receiver;
    uint32_t ids[4] = {3, 1, 2, 0};
    struct lease_tag tag = {.epoch = 3, .ranks = 1}, forged = {.epoch = 3, .ranks = 1};
    struct transfer_counters counters;
    worker_open(&holder, "holder", &shape);
    worker_open(&receiver, "receiver", &shape);
    struct liar *liar = liar_open();
    lease_id_random(&tag.lease);
    lease_id_random(&forged.lease);
    blocks_fill(&holder, ids, 4);
    transfer_lease_open(holder.transfer, &tag.lease, 9, 3, 20000);
    transfer_offer(holder.transfer, &tag.lease, 0, 0, ids, 4, NULL);

    /* No lease, no subscription: no bytes. */
    liar_connect(liar, &holder.tcp_address);
    liar_fetch(liar, &forged, 0, 0, 1);
    liar_fetch(liar, &tag, 0, 0, 1);
    liar_turn(liar, 100);
    assert_int_equal(liar->bulks, 0);
    transfer_counters_read(holder.transfer, &counters);
    assert_int_equal(counters.refused_frames, 2);
    /* With it: what was offered, and nothing else. */
    liar_subscribe(liar, &tag);
    LIAR_UNTIL(liar, liar->offers == 1);
    liar_fetch(liar, &tag, 0, 1, 3);
    LIAR_UNTIL(liar, liar->bulks == 1);
    assert_memory_equal(liar->place, block_at(&holder, 1), 500);
    forged = tag;
    forged.epoch = 2;
    liar_fetch(liar, &forged, 0, 0, 1);
    liar_turn(liar, 50);
    assert_int_equal(liar->bulks, 1);
    /* A second receiver of the same lease. */
    struct liar *second = liar_open();
    liar_connect(second, &holder.tcp_address);
    liar_subscribe(second, &tag);
    LIAR_UNTIL(second, second->gones == 1);
    assert_int_equal(second->gone_status, ERR_REFUSED);
    liar_fetch(second, &tag, 0, 0, 1);
    liar_turn(second, 50);
    assert_int_equal(second->bulks, 0);
    liar_close(second);
    /* Past the end of an offer: the connection ends, and the lease with it. */
    liar_fetch(liar, &tag, 0, 2, 3);
    LIAR_UNTIL(liar, liar->closed);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);

    /* An offer that was not made; an unknown frame; a holder's frame; a flood of subscriptions. */
    lease_id_random(&tag.lease);
    transfer_lease_open(holder.transfer, &tag.lease, 9, 3, 20000);
    liar_connect(liar, &holder.tcp_address);
    liar_subscribe(liar, &tag);
    liar_fetch(liar, &tag, 0, 0, 1);
    LIAR_UNTIL(liar, liar->closed);
    worker_expect_free(&holder, TRANSFER_HOLDER_DONE, ERR_CLOSED);
    liar_connect(liar, &holder.tcp_address);
    link_send(liar->link, 0x2ff, "?", 1);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.unix_address);
    link_send(liar->link, FRAME_OFFER, message, 60);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.tcp_address);
    struct iovec span = {.iov_base = liar->place, .iov_len = 1000};
    link_send_bulk(liar->link, FRAME_DATA, message, 40, &span, 1);
    LIAR_UNTIL(liar, liar->closed);
    liar_connect(liar, &holder.tcp_address);
    liar->gones = 0;
    for (int i = 0; i < 1500; i++) {
        lease_id_random(&forged.lease);
        liar_subscribe(liar, &forged);
    }
    LIAR_UNTIL(liar, liar->gones == 1500 - 1024);
    assert_int_equal(liar->gone_status, ERR_FULL);

    one_handoff(&holder, &receiver, TRANSFER_TCP, 0);
    one_handoff(&holder, &receiver, TRANSFER_SHM, 0);
    liar_close(liar);
    worker_close(&receiver);
    worker_close(&holder);
}

struct lie {
    bool tcp, unsealed, no_pool;
    uint32_t layer, block_id, number_second;
    bool data;
    status expected;
};

static void liar_send_pool(struct liar *liar, const struct lie *lie, const struct shape *shape)
{
    size_t bytes = shape->block_bytes * shape->block_count;
    int fd = memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    if (!lie->unsealed)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    struct pool_message pool = {.block_count = shape->block_count, .block_bytes = shape->block_bytes};
    link_send_fd(liar->link, FRAME_POOL, message, pool_write(&pool, message), fd);
    close(fd);
}

static void liar_offer(struct liar *liar, const struct lie *lie, uint32_t number)
{
    struct checksum sums[2] = {{0, 0}, {0, 0}};
    uint32_t ids[2] = {0, lie->block_id};
    link_send(liar->link, FRAME_OFFER, message,
              offer_write(&liar->subscription.tag, number, lie->layer, 0, ids, sums, 2, message));
}

/* A holder that offers blocks outside its pool, layers that are not, memory that may vanish, or sends
 * what was not asked for: FAILED by name, and the receiver's other blocks are untouched. */
static void a_holder_that_lies(void **state)
{
    (void)state;
    static const struct lie lies[] = {
        {.block_id = BLOCKS, .expected = ERR_BAD_INPUT},
        {.block_id = UINT32_MAX, .expected = ERR_BAD_INPUT},
        {.layer = 2, .expected = ERR_BAD_INPUT},
        {.unsealed = true, .expected = ERR_BAD_INPUT},
        {.no_pool = true, .expected = ERR_BAD_INPUT},
        {.tcp = true, .layer = 99, .expected = ERR_BAD_INPUT},
        {.tcp = true, .data = true, .expected = ERR_BAD_INPUT},
    };
    struct shape shape = shape_even(2, BLOCKS, 500);
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        const struct lie *lie = &lies[i];
        struct worker receiver, as_seen;
        struct address address;
        uint32_t ids[2] = {4, 9};
        struct lease_id lease;
        char text[ADDRESS_TEXT_BYTES];
        struct liar *liar = liar_open();
        snprintf(text, sizeof(text), "unix:%s/liar", folder);
        assert_int_equal(address_parse(lie->tcp ? "127.0.0.1:0" : text, 0, &address), OK);
        assert_int_equal(link_listen(liar->loop, &address, liar_on_accept, liar, &liar->listener), OK);
        worker_open(&receiver, "receiver", &shape);
        lease_id_random(&lease);
        memset(&as_seen, 0, sizeof(as_seen));
        as_seen.hello = liar->hello;
        as_seen.unix_address = as_seen.tcp_address = *link_listener_address(liar->listener);
        struct transfer_wish wish =
            wish_of(&as_seen, &lease, lie->tcp ? TRANSFER_TCP : TRANSFER_SHM, ids, 2);
        transfer_receive(receiver.transfer, &wish);
        LIAR_UNTIL(liar, liar->ready);
        if (lie->no_pool)
            link_send(liar->link, FRAME_POOL, message,
                      pool_write(&(struct pool_message){.block_count = BLOCKS, .block_bytes = 1000},
                                 message));
        else if (!lie->tcp)
            liar_send_pool(liar, lie, &shape);
        if (!lie->unsealed && !lie->no_pool) {
            LIAR_UNTIL(liar, liar->subscription.block_count == 2);
            liar_offer(liar, lie, 0);
        }
        if (lie->data) { /* the question was for entries from 0 on */
            struct fetch_message head = {.tag = liar->subscription.tag, .from = 1, .count = 1};
            struct iovec span = {.iov_base = liar->place, .iov_len = 500};
            link_send_bulk(liar->link, FRAME_DATA, message, fetch_write(&head, message), &span, 1);
        }
        for (int turns = 0; turns < 50 && !mailbox_wait(receiver.reports, 0); turns++)
            liar_turn(liar, 20);
        worker_expect_free(&receiver, TRANSFER_FAILED, lie->expected);
        blocks_are_poison(&receiver, ids, 2);
        liar_close(liar);
        worker_close(&receiver);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_processes),    cmocka_unit_test(a_killed_holder),
        cmocka_unit_test(a_stopped_holder),     cmocka_unit_test(a_lost_receiver),
        cmocka_unit_test(a_receiver_that_lies), cmocka_unit_test(a_holder_that_lies),
    };
    strcpy(folder, "/tmp/baton-peer-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    log_open("peer-test", LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[100];
    snprintf(command, sizeof(command), "rm -rf %s", folder); /* killed holders leave sockets */
    return system(command) != 0 || failed;
}
