/* What is learnt from where blocks came from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/status.h"
#include "router/request.h"

#define MS UINT64_C(1000000)

/* An asker that lies in slot 0, and a holder in slot 1. */
struct scene {
    struct router *router;
    struct worker *asker, *holder;
    struct request *request;
    struct wire_first first;
};

static struct scene scene_open(void)
{
    struct scene s = {.router = calloc(1, sizeof(*s.router)),
                      .asker = calloc(1, sizeof(*s.asker)),
                      .holder = calloc(1, sizeof(*s.holder)),
                      .request = calloc(1, sizeof(*s.request))};
    assert_true(s.router != NULL && s.asker != NULL && s.holder != NULL && s.request != NULL);
    s.router->workers = s.asker;
    s.asker->next = s.holder;
    s.asker->router = s.holder->router = s.router;
    s.asker->registered = s.holder->registered = true;
    s.holder->slot = 1;
    s.asker->registration.incarnation = 10;
    s.holder->registration.incarnation = s.request->sources[0].holder.incarnation = 11;
    s.request->wire.source_count = 1;
    s.request->found_idle = true;
    s.request->holders_decoding = 1;
    s.first.range_count = 1;
    s.first.ranges[0] = (struct wire_range){.from = WIRE_FROM_PEER,
                                            .status = OK,
                                            .block_count = 1,
                                            .holder = 11,
                                            .bytes = 1000000,
                                            .ns = 21 * MS,
                                            .wait_ns = 20 * MS};
    return s;
}

static void scene_close(struct scene *s)
{
    free(s->router);
    free(s->asker);
    free(s->holder);
    free(s->request);
}

static void assert_near(double found, double expected)
{
    if (found < 0.999 * expected || found > 1.001 * expected)
        fail_msg("found %g, expected %g", found, expected);
}

/* A megabyte in the last millisecond of 21: a link of 1 GB/s, and a holder whose steps take 20 ms.
 */
static void a_wait_is_the_holders_and_no_slow_link(void **state)
{
    (void)state;
    struct scene s = scene_open();
    sources_measure(s.asker, s.request, &s.first);
    assert_near(s.asker->pulls[1].rate, 1e9);
    assert_near(s.holder->lend_s, 0.020);
    assert_true(s.holder->lend_ns > 0 && s.asker->pulls[1].measured_ns > 0);
    s.first.ranges[0].ns = 26 * MS;
    s.first.ranges[0].wait_ns = 24 * MS;
    sources_measure(s.asker, s.request, &s.first);
    assert_near(s.asker->pulls[1].rate, 0.875e9);
    assert_near(s.holder->lend_s, 0.021);
    assert_true(s.asker->lend_s == 0 && s.asker->store_rate == 0);
    scene_close(&s);
}

/* The holder had a prompt, or nothing, to do; or the asker had, and came late itself. */
static void other_waits_are_not_its_steps(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) {
        struct scene s = scene_open();
        s.request->found_idle = way != 0;
        s.request->holders_decoding = way != 1;
        s.request->wire.source_count = way != 2;
        s.first.ranges[0].status = way != 3 ? OK : ERR_CLOSED;
        sources_measure(s.asker, s.request, &s.first);
        assert_true(s.holder->lend_s == 0);
        if (way != 3)
            assert_near(s.asker->pulls[1].rate, 1e9);
        else
            assert_true(s.asker->pulls[1].rate == 0);
        scene_close(&s);
    }
}

static void the_stores_rate_is_of_the_whole(void **state)
{
    (void)state;
    struct scene s = scene_open();
    s.first.ranges[0].from = WIRE_FROM_STORE;
    s.first.ranges[0].holder = 0;
    s.first.ranges[0].wait_ns = 0;
    sources_measure(s.asker, s.request, &s.first);
    assert_near(s.asker->store_rate, 1e9 / 21);
    assert_true(s.asker->pulls[1].rate == 0 && s.holder->lend_s == 0);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wait_is_the_holders_and_no_slow_link),
        cmocka_unit_test(other_waits_are_not_its_steps),
        cmocka_unit_test(the_stores_rate_is_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
