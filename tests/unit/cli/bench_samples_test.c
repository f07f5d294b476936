/* Statistics against figures computed by hand (and numpy's definitions). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "cli/bench_samples.h"

static void assert_near(double found, double expected)
{
    if (fabs(found - expected) > 1e-9 * (1 + fabs(expected)))
        fail_msg("found %.12g, expected %.12g", found, expected);
}

static void test_known(void **state)
{
    (void)state;
    static const double values[] = {15, 20, 35, 40, 50};
    struct samples samples = {0};
    for (int i = 4; i >= 0; i--)
        assert_true(samples_add(&samples, values[i]));
    struct samples_summary summary = samples_summarize(&samples);
    assert_near(summary.mean, 32);
    assert_near(summary.median, 35);
    assert_near(summary.deviation, 12.884098726725126); /* sqrt(166) */
    assert_near(summary.max, 50);
    assert_near(samples_percentile(&samples, 0), 15);
    assert_near(samples_percentile(&samples, 40), 29); /* between 20 and 35 */
    assert_near(samples_percentile(&samples, 99), 49.6);
    assert_true(samples_add(&samples, 1)); /* after it was sorted */
    assert_near(samples_percentile(&samples, 0), 1);
    assert_near(samples_percentile(&samples, 50), 27.5);
    samples_close(&samples);
}

static void test_few(void **state)
{
    (void)state;
    struct samples samples = {0};
    struct samples_summary summary = samples_summarize(&samples);
    assert_near(summary.mean, 0);
    assert_near(summary.p99, 0);
    assert_true(samples_add(&samples, 7));
    summary = samples_summarize(&samples);
    assert_near(summary.median, 7);
    assert_near(summary.p99, 7);
    assert_near(summary.deviation, 0);
    samples_close(&samples);
}

static void test_many(void **state)
{
    (void)state;
    struct samples samples = {0};
    for (int i = 0; i < 100001; i++)
        assert_true(samples_add(&samples, (double)(i * 7919 % 100001)));
    assert_near(samples_percentile(&samples, 50), 50000);
    assert_near(samples_percentile(&samples, 99), 99000);
    assert_near(samples_percentile(&samples, 100), 100000);
    samples_close(&samples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_few),
        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
