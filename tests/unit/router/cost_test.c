/* What computing costs, from what was measured. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/cost.h"

static uint64_t state_of_chance = 5;

/* -1 .. 1 */
static double chance(void)
{
    state_of_chance = state_of_chance * 6364136223846793005u + 1442695040888963407u;
    return (double)(state_of_chance >> 33) / (double)(1u << 30) - 1;
}

static double truth_s(double before, double tokens)
{
    return 0.010 + tokens * (0.002 + 1e-6 * (before + tokens / 2));
}

static void measure(struct cost_fit *fit, double before, double tokens, double factor)
{
    const struct cost_sample sample = {.prompts = 1,
                                       .tokens = tokens,
                                       .context = tokens * (before + tokens / 2),
                                       .seconds = factor * truth_s(before, tokens)};
    cost_measure(fit, &sample);
}

static void assert_near(double found, double expected, double part)
{
    if (found < expected * (1 - part) || found > expected * (1 + part))
        fail_msg("found %.6f, expected %.6f within %.3f of it", found, expected, part);
}

static void nothing_is_known_before_the_first(void **state)
{
    (void)state;
    struct cost_fit fit = {0};
    struct cost cost = cost_of(&fit);
    assert_false(cost_known(&cost));
    const struct cost_sample none = {.prompts = 1, .seconds = 1}, still = {.tokens = 9};
    cost_measure(&fit, &none);
    cost_measure(&fit, &still);
    cost = cost_of(&fit);
    assert_false(cost_known(&cost));
    measure(&fit, 0, 100, 1);
    cost = cost_of(&fit);
    assert_true(cost_known(&cost));
    assert_near(cost_prompt_s(&cost, 0, 100), truth_s(0, 100), 0.001);
}

static void of_one_kind_it_is_a_rate(void **state)
{
    (void)state;
    struct cost_fit fit = {0};
    for (int i = 0; i < 100; i++)
        measure(&fit, 0, 256, 1);
    struct cost cost = cost_of(&fit);
    assert_near(cost_prompt_s(&cost, 0, 256), truth_s(0, 256), 0.001);
    assert_near(cost_prompt_s(&cost, 0, 200), truth_s(0, 256) * 200 / 256, 0.01);
}

static void of_several_kinds_each_is_right(void **state)
{
    (void)state;
    static const double kinds[][2] = {{0, 24}, {256, 24}, {0, 512}, {2048, 100}, {3000, 900}};
    struct cost_fit fit = {0};
    for (int i = 0; i < 200; i++)
        measure(&fit, kinds[i % 5][0], kinds[i % 5][1], 1 + 0.05 * chance());
    struct cost cost = cost_of(&fit);
    for (int i = 0; i < 5; i++)
        assert_near(cost_prompt_s(&cost, kinds[i][0], kinds[i][1]),
                    truth_s(kinds[i][0], kinds[i][1]), 0.05);
    /* And one that was never seen. */
    assert_near(cost_prompt_s(&cost, 1000, 300), truth_s(1000, 300), 0.05);
}

/* A long prompt is many samples, of which the last alone has its end. */
static void parts_of_a_prompt_are_samples_too(void **state)
{
    (void)state;
    struct cost_fit fit = {0};
    for (int i = 0; i < 120; i++) {
        const double before = i % 4 * 500;
        const struct cost_sample part = {.prompts = i % 4 == 3,
                                         .tokens = 500,
                                         .context = 500 * (before + 250),
                                         .seconds = 500 * (0.002 + 1e-6 * (before + 250))};
        cost_measure(&fit, &part);
    }
    struct cost cost = cost_of(&fit);
    assert_near(cost_prompt_s(&cost, 0, 2000), 2000 * (0.002 + 1e-6 * 1000), 0.02);
}

static void a_machine_that_others_use_is_noticed_at_once(void **state)
{
    (void)state;
    struct cost_fit fit = {0};
    for (int i = 0; i < 60; i++)
        measure(&fit, 0, i % 2 == 0 ? 24 : 512, 1);
    for (int i = 0; i < 8; i++)
        measure(&fit, 0, 512, 2);
    struct cost cost = cost_of(&fit);
    assert_near(cost_prompt_s(&cost, 0, 512), 2 * truth_s(0, 512), 0.15);
    assert_near(cost_prompt_s(&cost, 0, 24), 2 * truth_s(0, 24), 0.25);
    for (int i = 0; i < 12; i++)
        measure(&fit, 0, 512, 1);
    cost = cost_of(&fit);
    assert_near(cost_prompt_s(&cost, 0, 512), truth_s(0, 512), 0.1);
}

static void nothing_is_ever_negative(void **state)
{
    (void)state;
    struct cost_fit fit = {0};
    for (int i = 0; i < 3000; i++) {
        const struct cost_sample wild = {.prompts = (uint32_t)i % 3,
                                         .tokens = 1 + 500 * (1 + chance()),
                                         .context = 1e5 * (1 + chance()),
                                         .seconds = 0.001 + 1 + chance()};
        cost_measure(&fit, &wild);
        struct cost cost = cost_of(&fit);
        assert_true(cost.prompt_s >= 0 && cost.token_s >= 0 && cost.context_s >= 0);
        assert_true(cost_prompt_s(&cost, 100, 100) < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_before_the_first),
        cmocka_unit_test(of_one_kind_it_is_a_rate),
        cmocka_unit_test(of_several_kinds_each_is_right),
        cmocka_unit_test(parts_of_a_prompt_are_samples_too),
        cmocka_unit_test(a_machine_that_others_use_is_noticed_at_once),
        cmocka_unit_test(nothing_is_ever_negative),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
