/* Divergences of distributions whose divergence can be written down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "cli/bench_divergence.h"

static void assert_near(double found, double expected, double bound)
{
    if (fabs(found - expected) > bound)
        fail_msg("expected %.9g, found %.9g", expected, found);
}

static void test_log_softmax(void **state)
{
    (void)state;
    /* Probabilities 1/2, 1/4, 1/4, shifted far from zero, where exp overflows. */
    const float logits[] = {1000 + 0.69314718f, 1000, 1000};
    float found[3];
    divergence_log_softmax(logits, 3, found);
    assert_near(found[0], log(0.5), 1e-4); /* a float at 1000 has steps of 6e-5 */
    assert_near(found[1], log(0.25), 1e-4);
    assert_near(found[2], log(0.25), 1e-4);
}

static void test_divergence(void **state)
{
    (void)state;
    const float p[] = {logf(0.5f), logf(0.25f), logf(0.25f)};
    const float q[] = {logf(0.25f), logf(0.5f), logf(0.25f)};
    const float r[] = {logf(0.4f), logf(0.3f), logf(0.3f)};
    struct divergence found = {0};
    assert_true(divergence_add(&found, p, q, 3, 1));
    assert_near(found.kl.values[0], 0.5 * log(2) - 0.25 * log(2), 1e-6);
    assert_int_equal(found.same_top, 0);
    assert_near(divergence_perplexity(&found), 2, 1e-6);
    assert_true(divergence_add(&found, p, r, 3, 0));
    assert_near(found.kl.values[1], 0.5 * log(0.5 / 0.4) + 0.5 * log(0.25 / 0.3), 1e-6);
    assert_int_equal(found.same_top, 1);
    assert_near(divergence_perplexity(&found), sqrt(1 / (0.5 * 0.4)), 1e-6);
    assert_true(divergence_add(&found, p, p, 3, 2));
    assert_near(found.kl.values[2], 0, 0);
    struct divergence other = {0};
    assert_true(divergence_add(&other, p, q, 3, 1) && divergence_add(&other, p, p, 3, 1) &&
                divergence_add(&other, p, r, 3, 1));
    double mean, error;
    divergence_compare(&found, &other, &mean, &error);
    double off = found.kl.values[1];
    assert_near(mean, 0, 1e-9); /* 0, off and -off */
    assert_near(error, off * sqrt(1 / 3.0), 1e-9);
    divergence_compare(&found, &found, &mean, &error);
    assert_near(mean + error, 0, 0);
    divergence_close(&other);
    divergence_close(&found);
    assert_near(divergence_perplexity(&found), 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_softmax),
        cmocka_unit_test(test_divergence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
