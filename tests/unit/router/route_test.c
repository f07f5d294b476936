/* The choice of workers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/route.h"
#include "wire/control.h"

#define P WIRE_ROLE_PREFILL
#define D WIRE_ROLE_DECODE

static struct route_view view(uint32_t roles, uint64_t queued_tokens, uint32_t decoding)
{
    return (struct route_view){.roles = roles,
                               .usable = true,
                               .queued_tokens = queued_tokens,
                               .decoding = decoding,
                               .decode_batch = 8};
}

static void the_shortest_queue_is_taken(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 100, 0), view(P, 20, 0), view(D, 0, 0), view(P, 20, 0)};
    bool local = true;
    assert_int_equal(route_choose_prefill(views, 4, &local), 1);
    assert_false(local);
    views[1].queued_tokens = 21;
    assert_int_equal(route_choose_prefill(views, 4, &local), 3);
    /* A decode worker has the shortest queue of all and is not asked. */
    views[0].queued_tokens = views[1].queued_tokens = views[3].queued_tokens = UINT64_MAX;
    assert_int_equal(route_choose_prefill(views, 4, &local), 0);
}

static void equal_queues_go_by_what_they_decode(void **state)
{
    (void)state;
    struct route_view views[] = {view(P | D, 0, 3), view(P | D, 0, 2), view(P | D, 0, 4)};
    bool local = false;
    assert_int_equal(route_choose_prefill(views, 3, &local), 1);
    assert_true(local); /* it does both */
}

static void the_emptiest_batch_is_taken(void **state)
{
    (void)state;
    struct route_view views[] = {view(D, 0, 4), view(D, 0, 3), view(P, 0, 0), view(D, 0, 5)};
    assert_int_equal(route_choose_decode(views, 4), 1);
    views[3].decode_batch = 64; /* 5 of 64 is emptier than 3 of 8 */
    assert_int_equal(route_choose_decode(views, 4), 3);
    views[3].usable = false;
    assert_int_equal(route_choose_decode(views, 4), 1);
    /* Equal parts: the first. No overflow at the ends of the range. */
    views[0] = view(D, 0, UINT32_MAX - 1);
    views[1] = view(D, 0, UINT32_MAX);
    views[0].decode_batch = views[1].decode_batch = UINT32_MAX;
    assert_int_equal(route_choose_decode(views, 2), 0);
}

static void who_leaves_gets_nothing_new(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 0, 0), view(P, 500, 0), view(D, 0, 0), view(D, 0, 7)};
    bool local = true;
    views[0].usable = false;
    views[2].usable = false;
    assert_int_equal(route_choose_prefill(views, 4, &local), 1);
    assert_false(local);
    assert_int_equal(route_choose_decode(views, 4), 3);
}

/* One plus one survives the loss of either. */
static void with_a_role_missing_the_others_do_it(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 50, 0), view(D, 10, 0)};
    bool local = false;
    views[1].usable = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), 0);
    assert_true(local); /* nobody decodes: where it was computed */
    assert_int_equal(route_choose_decode(views, 2), -1);

    views[0].usable = false;
    views[1].usable = true;
    local = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), 1);
    assert_true(local);

    views[1].usable = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), -1);
    assert_int_equal(route_choose_prefill(views, 0, &local), -1);
    assert_int_equal(route_choose_decode(views, 0), -1);
}

static void one_that_does_both_may_hand_nothing_over(void **state)
{
    (void)state;
    /* A busy colocated worker beside a free prefill worker, and the other way round. */
    struct route_view views[] = {view(P | D, 90, 0), view(P, 10, 0), view(D, 0, 0)};
    bool local = true;
    assert_int_equal(route_choose_prefill(views, 3, &local), 1);
    assert_false(local);
    views[1].queued_tokens = 100;
    assert_int_equal(route_choose_prefill(views, 3, &local), 0);
    assert_true(local);
    /* It may be the receiver of another's handoff. */
    views[2].decoding = 5;
    assert_int_equal(route_choose_decode(views, 3), 0);
}

/* Prompts of one length, one after the other: every worker gets the same number. */
static void work_is_balanced(void **state)
{
    (void)state;
    struct route_view views[5] = {view(P, 0, 0), view(P, 0, 0), view(P, 0, 0), view(D, 0, 0),
                                  view(D, 0, 0)};
    bool local;
    for (int i = 0; i < 300; i++) {
        views[route_choose_prefill(views, 5, &local)].queued_tokens += 100;
        views[route_choose_decode(views, 5)].decoding++;
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(views[i].queued_tokens, 10000);
    assert_int_equal(views[3].decoding, 150);
    assert_int_equal(views[4].decoding, 150);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shortest_queue_is_taken),
        cmocka_unit_test(equal_queues_go_by_what_they_decode),
        cmocka_unit_test(the_emptiest_batch_is_taken),
        cmocka_unit_test(who_leaves_gets_nothing_new),
        cmocka_unit_test(with_a_role_missing_the_others_do_it),
        cmocka_unit_test(one_that_does_both_may_hand_nothing_over),
        cmocka_unit_test(work_is_balanced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
