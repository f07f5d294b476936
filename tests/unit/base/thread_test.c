/* Threads: which signals they block, and their names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/thread.h"

struct seen {
    sigset_t blocked;
    char name[16];
    _Atomic int named; /* from the test: look now */
};

static void *look(void *ctx)
{
    struct seen *seen = ctx;
    while (seen->named == 0)
        sched_yield();
    pthread_sigmask(SIG_SETMASK, NULL, &seen->blocked);
    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    return ctx;
}

/* Signals are the main loop's; a crash is the process's; and the starter's own mask is as before.
 */
static void blocks_all_but_crashes(void **state)
{
    (void)state;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct seen seen = {0};
    pthread_t thread;
    assert_int_equal(thread_start("a-name", look, &seen, &thread), OK);
    seen.named = 1;
    void *result;
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &seen);
    pthread_sigmask(SIG_SETMASK, NULL, &after);

    assert_string_equal(seen.name, "a-name");
    assert_int_equal(sigismember(&seen.blocked, SIGTERM), 1);
    assert_int_equal(sigismember(&seen.blocked, SIGCHLD), 1);
    assert_int_equal(sigismember(&seen.blocked, SIGSEGV), 0);
    assert_int_equal(sigismember(&seen.blocked, SIGBUS), 0);
    assert_int_equal(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks_all_but_crashes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
