/* The rules for when blocks run out, by themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "decode/pressure.h"

static void priority_goes_before_age(void **state)
{
    (void)state;
    const struct pressure_rank ranks[] = {{-2, 9}, {0, 3}, {0, 4}, {5, 1}, {5, 2}};
    for (uint32_t a = 0; a < 5; a++) {
        for (uint32_t b = 0; b < 5; b++)
            assert_int_equal(pressure_before(ranks[a], ranks[b]), a < b);
    }
}

static void who_comes_back_is_not_sent_away_by_the_next_step(void **state)
{
    (void)state;
    assert_true(pressure_returns(5, 5, 0)); /* alone it needs no room beside its own */
    assert_false(pressure_returns(4, 5, 0));
    assert_true(pressure_returns(9, 5, 3));
    assert_false(pressure_returns(8, 5, 3));
    assert_false(pressure_returns(UINT32_MAX, 5, UINT32_MAX)); /* sums do not wrap */
}

static void newcomers_leave_room_for_the_others(void **state)
{
    (void)state;
    assert_true(pressure_admits(5, 5, 0, 4));
    assert_false(pressure_admits(4, 5, 0, 4));
    assert_true(pressure_admits(5 + 2 + 4, 5, 2, 4));
    assert_false(pressure_admits(5 + 2 + 3, 5, 2, 4));
    assert_false(pressure_admits(UINT32_MAX, 1, UINT32_MAX, 1));
}

static void leading_blocks_are_copied_as_far_as_there_is_room(void **state)
{
    (void)state;
    assert_int_equal(pressure_copies(8, 0, 20), 8);
    assert_int_equal(pressure_copies(8, 3, 20), 5);
    assert_int_equal(pressure_copies(8, 3, 2), 2);
    assert_int_equal(pressure_copies(8, 8, 2), 0);
    assert_int_equal(pressure_copies(8, 0, 0), 0);
    assert_int_equal(pressure_copies(0, 0, 5), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(priority_goes_before_age),
        cmocka_unit_test(who_comes_back_is_not_sent_away_by_the_next_step),
        cmocka_unit_test(newcomers_leave_room_for_the_others),
        cmocka_unit_test(leading_blocks_are_copied_as_far_as_there_is_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
