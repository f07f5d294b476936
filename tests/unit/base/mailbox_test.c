/* Mailbox: order per sender, nothing lost between threads, waits that end when they should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mailbox.h"

#define SENDERS 3
#define MAILS 20000

struct note {
    struct mail mail;
    uint32_t sender, number;
};

static struct mailbox *mailbox;
static struct note notes[SENDERS][MAILS];

static bool readable(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    return poll(&look, 1, 0) == 1;
}

static void test_order_and_wake(void **state)
{
    (void)state;
    assert_int_equal(mailbox_open(&mailbox), OK);
    assert_false(mailbox_wait(mailbox, 0));
    assert_null(mailbox_take_all(mailbox));
    for (int round = 0; round < 3; round++) {
        struct mail a = {.kind = 1}, b = {.kind = 2};
        mailbox_post(mailbox, &a);
        mailbox_post(mailbox, &b);
        assert_true(readable(mailbox_fd(mailbox)));
        assert_true(mailbox_wait(mailbox, -1));
        struct mail *list = mailbox_take_all(mailbox);
        assert_ptr_equal(list, &a);
        assert_ptr_equal(list->next, &b);
        assert_null(b.next);
        assert_false(readable(mailbox_fd(mailbox)));
        assert_null(mailbox_take_all(mailbox));
    }
    mailbox_close(mailbox);
}

static void *send_all(void *ctx)
{
    uint32_t sender = *(uint32_t *)ctx;
    for (uint32_t i = 0; i < MAILS; i++) {
        notes[sender][i].sender = sender;
        notes[sender][i].number = i;
        mailbox_post(mailbox, &notes[sender][i].mail);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[SENDERS];
    uint32_t ids[SENDERS];
    uint32_t next[SENDERS] = {0};
    uint32_t taken = 0;
    assert_int_equal(mailbox_open(&mailbox), OK);
    for (uint32_t i = 0; i < SENDERS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &ids[i]), 0);
    }
    while (taken < SENDERS * MAILS) {
        assert_true(mailbox_wait(mailbox, 10000));
        for (struct mail *mail = mailbox_take_all(mailbox); mail != NULL; mail = mail->next) {
            struct note *note = (struct note *)mail;
            assert_int_equal(note->number, next[note->sender]);
            next[note->sender]++;
            taken++;
        }
    }
    for (uint32_t i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_false(mailbox_wait(mailbox, 0));
    mailbox_close(mailbox);
}

static void on_alarm(int number)
{
    (void)number;
}

/* A signal in the middle neither ends the wait early nor makes it start again. */
static void test_wait_survives_signals(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    assert_int_equal(mailbox_open(&mailbox), OK);
    uint64_t start_ns = clock_ns();
    ualarm(20000, 20000);
    assert_false(mailbox_wait(mailbox, 150));
    ualarm(0, 0);
    uint64_t waited_ms = (clock_ns() - start_ns) / 1000000u;
    assert_true(waited_ms >= 149);
    assert_true(waited_ms < 10000);
    mailbox_close(mailbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_wake),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_wait_survives_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
