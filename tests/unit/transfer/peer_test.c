/* Peers that die or stop: the survivor ends what it had with them in bounded time, touches nothing
 * afterwards. Forks happen while the process has no second thread. */
#include "unit/transfer/worker_sample.h"

#include <sys/prctl.h>

#define BLOCKS 32

struct introduction {
    uint64_t incarnation;
    struct address unix_address, tcp_address;
};

static uint8_t pattern(uint32_t block, size_t byte)
{
    return (uint8_t)(block * 131 + byte * 7 + (byte >> 8) * 13);
}

static void introduce(int fd, const struct worker *worker)
{
    struct introduction me = {worker->hello.incarnation, worker->unix_address, worker->tcp_address};
    assert_int_equal(write(fd, &me, sizeof(me)), sizeof(me));
}

/* Fill in what the other process says of itself. */
static void meet(int fd, struct worker *other_out)
{
    struct introduction other;
    memset(other_out, 0, sizeof(*other_out));
    assert_int_equal(read(fd, &other, sizeof(other)), sizeof(other));
    other_out->hello.incarnation = other.incarnation;
    other_out->unix_address = other.unix_address;
    other_out->tcp_address = other.tcp_address;
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
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when it is stopped */
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
    meet(pipe_fds[0], holder_out);
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
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when it is stopped */
        all_ids(ids);
        meet(pipe_fds[0], &holder);
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

/* ---- rdma ---- */

/* Gets from a stopped holder keep their slots until it is given up. Meanwhile others are fetched
 * from, and afterwards the slots are there again, however often it happens. */
static void stopped_holders_take_no_slots_for_good(void **state)
{
    (void)state;
    struct shape shape = shape_even(4, BLOCKS, 20000);
    pid_t pids[4];
    struct worker stopped[4], other, receiver;
    struct lease_id leases[4];
    uint32_t ids[BLOCKS];
    all_ids(ids);
    for (int i = 0; i < 4; i++) {
        lease_id_random(&leases[i]);
        pids[i] = holder_process(&shape, &leases[i], false, &stopped[i]);
        unlink(stopped[i].unix_address.text + strlen("unix:")); /* the next one's too */
    }
    worker_prepare(&receiver, "receiver", &shape);
    worker_start(&receiver, (struct transfer_options){.test_slow_us = 300, .silence_ms = 600});
    for (int i = 0; i < 4; i++) {
        struct transfer_wish wish = wish_of(&stopped[i], &leases[i], TRANSFER_TCP, ids, BLOCKS);
        transfer_receive(receiver.transfer, &wish);
        worker_wait_peer(&receiver, false);
        usleep(5000);
        kill(pids[i], SIGSTOP);
        usleep(100000); /* all slots that it may have are asked for now */
        memset(receiver.pool.host, POISON, shape.block_bytes * BLOCKS);
        worker_open(&other, "other", &shape);
        one_handoff(&other, &receiver, TRANSFER_TCP, 0);
        worker_close(&other);
        worker_expect_free(&receiver, TRANSFER_FAILED, ERR_TIMEOUT);
        kill(pids[i], SIGKILL);
        process_end(pids[i]);
    }
    worker_close(&receiver);
}

static int with_rdma(void **state)
{
    (void)state;
    sample_rdma = true;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_processes),
        cmocka_unit_test(a_killed_holder),
        cmocka_unit_test(a_stopped_holder),
        cmocka_unit_test(a_lost_receiver),
    };
    strcpy(folder, "/tmp/baton-peer-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return 1;
    log_open("peer-test", LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const struct CMUnitTest rdma_tests[] = {
        cmocka_unit_test(stopped_holders_take_no_slots_for_good),
    };
    if (sample_has_rdma()) {
        failed += cmocka_run_group_tests_name("over rdma", tests, with_rdma, NULL);
        failed += cmocka_run_group_tests_name("rdma alone", rdma_tests, with_rdma, NULL);
    }
    char command[100];
    snprintf(command, sizeof(command), "rm -rf %s", folder); /* killed holders leave sockets */
    return system(command) != 0 || failed;
}
