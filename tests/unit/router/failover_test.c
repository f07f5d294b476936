/* Which requests are tried together after workers died. What happens to them then is the
 * simulation's (tests/sim/router_sim_test.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "router/request.h"

static struct request suspect(uint64_t sent_ns)
{
    return (struct request){.deaths = 2, .sent_ns = sent_ns};
}

/* Twice as many are tried after each that is let off; but a token of one that was sent before the
 * last death says nothing of those that were there when it came. */
static void only_what_came_after_a_death_counts(void **state)
{
    (void)state;
    const struct router_options options = {.crashes = 3};
    struct router *router = calloc(1, sizeof(*router));
    assert_non_null(router);
    router->options = &options;
    router->suspects_ns = 1000;
    struct request before = suspect(999), after = suspect(1001), once = suspect(1002);
    once.deaths = 1; /* no suspect yet */
    failover_let_off(router, &before);
    assert_int_equal(router->suspects_doubled, 0);
    failover_let_off(router, &after);
    assert_int_equal(router->suspects_doubled, 1);
    failover_let_off(router, &once);
    assert_int_equal(router->suspects_doubled, 1);
    assert_int_equal(before.deaths + after.deaths + once.deaths, 0);
    for (int i = 0; i < 20; i++) {
        after = suspect(1001);
        failover_let_off(router, &after);
    }
    assert_int_equal(router->suspects_doubled, 8); /* it has an end */
    free(router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_what_came_after_a_death_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
