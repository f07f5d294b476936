/* Loop: timers, watches, mailboxes and signals, also when they close themselves or each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/loop.h"

static struct loop *loop;

static int set_up(void **state)
{
    (void)state;
    return loop_open(&loop) == OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    loop_close(loop);
    return 0;
}

static void on_guard(void *ctx)
{
    (void)ctx;
    fail_msg("the loop was not stopped in time");
}

/* Run until loop_stop; fail after a while. */
static void run(void)
{
    struct loop_timer *guard;
    assert_int_equal(loop_timer_open(loop, on_guard, NULL, &guard), OK);
    loop_timer_start(guard, 20000);
    loop_run(loop);
    loop_timer_close(guard);
}

static void *stop_from_thread(void *ctx)
{
    (void)ctx;
    usleep(20000);
    loop_stop(loop);
    return NULL;
}

static void test_stop(void **state)
{
    (void)state;
    pthread_t thread;
    loop_stop(loop); /* before the run: it ends at once */
    run();
    assert_int_equal(pthread_create(&thread, NULL, stop_from_thread, NULL), 0);
    run();
    pthread_join(thread, NULL);
}

struct ticks {
    struct loop_timer *timer, *other;
    int count;
    uint64_t fired_ns;
};

static void on_tick(void *ctx)
{
    struct ticks *ticks = ctx;
    ticks->fired_ns = clock_ns();
    if (++ticks->count < 3)
        loop_timer_start(ticks->timer, 5);
    else
        loop_stop(loop);
}

static void on_never(void *ctx)
{
    (void)ctx;
    fail_msg("a stopped timer fired");
}

static void test_timer(void **state)
{
    (void)state;
    struct ticks ticks = {0};
    struct loop_timer *never;
    assert_int_equal(loop_timer_open(loop, on_tick, &ticks, &ticks.timer), OK);
    assert_int_equal(loop_timer_open(loop, on_never, NULL, &never), OK);
    loop_timer_start(ticks.timer, 600000); /* moved by the next line */
    loop_timer_start(ticks.timer, 10);
    loop_timer_start(never, 1);
    loop_timer_stop(never);
    uint64_t start_ns = clock_ns();
    run();
    assert_int_equal(ticks.count, 3);
    assert_true(ticks.fired_ns - start_ns >= 19000000u);
    loop_timer_close(never);
    loop_timer_close(ticks.timer);
}

static void on_slow(void *ctx)
{
    struct ticks *ticks = ctx;
    usleep(60000);
    ticks->fired_ns = clock_ns();
    loop_timer_start(ticks->other, 30);
    loop_timer_close(ticks->timer); /* from inside its own callback */
    ticks->timer = NULL;
}

static void on_after_slow(void *ctx)
{
    struct ticks *ticks = ctx;
    ticks->fired_ns = clock_ns() - ticks->fired_ns;
    loop_stop(loop);
}

/* A delay counts from loop_timer_start, not from when the callback around it began. */
static void test_timer_after_slow_callback(void **state)
{
    (void)state;
    struct ticks ticks = {0};
    assert_int_equal(loop_timer_open(loop, on_slow, &ticks, &ticks.timer), OK);
    assert_int_equal(loop_timer_open(loop, on_after_slow, &ticks, &ticks.other), OK);
    loop_timer_start(ticks.timer, 1);
    run();
    assert_true(ticks.fired_ns >= 29000000u);
    loop_timer_close(ticks.other);
}

struct pipe_end {
    int fds[2];
    struct loop_watch *watch;
    int reads, writes;
};

static void on_ready(void *ctx, int events)
{
    struct pipe_end *end = ctx;
    char byte;
    if (events & LOOP_WRITE) {
        end->writes++;
        loop_watch_set(end->watch, 0);
        assert_int_equal(write(end->fds[1], "xy", 2), 2);
    }
    if (events & LOOP_READ) {
        end->reads++;
        assert_int_equal(read(end->fds[0], &byte, 1), 1);
    }
}

static void on_read_twice(void *ctx, int events)
{
    struct pipe_end *end = ctx;
    assert_int_equal(events, LOOP_READ);
    on_ready(ctx, events);
    if (end->reads == 2) {
        loop_watch_close(end->watch);
        loop_stop(loop);
    }
}

static void test_watch(void **state)
{
    (void)state;
    struct pipe_end in = {.reads = 0}, out = {.reads = 0};
    assert_int_equal(pipe2(in.fds, O_NONBLOCK), 0);
    memcpy(out.fds, in.fds, sizeof(in.fds));
    assert_int_equal(loop_watch_open(loop, in.fds[0], LOOP_READ, on_read_twice, &in, &in.watch),
                     OK);
    assert_int_equal(loop_watch_open(loop, out.fds[1], 0, on_ready, &out, &out.watch), OK);
    loop_watch_set(out.watch, LOOP_WRITE);
    run();
    assert_int_equal(out.writes, 1); /* it was set to 0 in its first call */
    assert_int_equal(in.reads, 2);   /* level-triggered: the second byte came without a new write */
    loop_watch_close(out.watch);
    close(in.fds[0]);
    close(in.fds[1]);
}

static void test_watch_refused(void **state)
{
    (void)state;
    struct loop_watch *watch = NULL;
    int fd = open("/proc/self/exe", O_RDONLY); /* epoll takes no plain files */
    assert_int_equal(loop_watch_open(loop, fd, LOOP_READ, on_ready, NULL, &watch), ERR_IO);
    assert_null(watch);
    assert_true(error_text()[0] != '\0');
    close(fd);
}

struct letters {
    struct mailbox *mailbox;
    struct loop_watch *watch;
    struct mail mails[3];
    uint32_t taken;
};

static void on_mail(void *ctx, struct mail *mail)
{
    struct letters *letters = ctx;
    assert_ptr_equal(mail, &letters->mails[letters->taken]);
    memset(mail, 0xaa, sizeof(*mail)); /* it is ours now */
    letters->taken++;
    if (letters->taken == 2) {
        loop_watch_close(letters->watch);
        letters->watch = NULL;
    }
    if (letters->taken == 3)
        loop_stop(loop);
}

static void *post_all(void *ctx)
{
    struct letters *letters = ctx;
    for (int i = 0; i < 3; i++)
        mailbox_post(letters->mailbox, &letters->mails[i]);
    return NULL;
}

static void test_mailbox(void **state)
{
    (void)state;
    struct letters letters = {.taken = 0};
    assert_int_equal(mailbox_open(&letters.mailbox), OK);
    post_all(&letters);
    assert_int_equal(loop_mailbox_open(loop, letters.mailbox, on_mail, &letters, &letters.watch),
                     OK);
    run();
    assert_int_equal(letters.taken, 3);
    mailbox_close(letters.mailbox);
}

static void on_signal(void *ctx, int number)
{
    int *seen = ctx;
    *seen = number;
    loop_stop(loop);
}

static void test_signal(void **state)
{
    (void)state;
    int seen = 0;
    struct loop_watch *watch;
    assert_int_equal(loop_signal_open(loop, SIGUSR1, on_signal, &seen, &watch), OK);
    raise(SIGUSR1);
    run();
    assert_int_equal(seen, SIGUSR1);
    loop_watch_close(watch);
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(test_stop),
        LOOP_TEST(test_timer),
        LOOP_TEST(test_timer_after_slow_callback),
        LOOP_TEST(test_watch),
        LOOP_TEST(test_watch_refused),
        LOOP_TEST(test_mailbox),
        LOOP_TEST(test_signal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
