/* The text exposition, and what promtool says of it where it is installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "http/prometheus.h"

static const double bounds[] = {0.001, 0.01, 0.1, 1, 2.5};

static void exposition_is_as_specified(void **state)
{
    (void)state;
    struct prometheus *metrics;
    assert_int_equal(prometheus_open(8, 16, &metrics), OK);
    uint32_t plain =
        prometheus_counter(metrics, "baton_tokens_total", "Tokens.\nAll \\ of them.", "");
    uint32_t gauge = prometheus_gauge(metrics, "baton_blocks", "Blocks.", "worker,state");
    uint32_t times = prometheus_histogram(metrics, "baton_ttft_seconds", "Time to first token.",
                                          "worker", bounds, 5);
    prometheus_counter(metrics, "baton_never_total", "No series yet.", "worker");
    uint32_t total = prometheus_series(metrics, plain);
    prometheus_add(metrics, total, 1);
    prometheus_add(metrics, total, 4294967296.0);
    uint32_t free_blocks = prometheus_series(metrics, gauge, "w\"0\\", "free");
    prometheus_set(metrics, free_blocks, 0.1);
    prometheus_set(metrics, prometheus_series(metrics, gauge, "w\"0\\", "used"), -3);
    assert_int_equal(prometheus_series(metrics, gauge, "w\"0\\", "free"), free_blocks);
    uint32_t ttft = prometheus_series(metrics, times, "p0");
    prometheus_observe(metrics, ttft, 0.001); /* a bound belongs to its bucket */
    prometheus_observe(metrics, ttft, 0.5);
    prometheus_observe(metrics, ttft, 100);
    struct text text = text_open(1 << 16);
    prometheus_write(metrics, &text);
    assert_true(text_ok(&text));
    assert_string_equal(text.data, "# HELP baton_tokens_total Tokens.\\nAll \\\\ of them.\n"
                                   "# TYPE baton_tokens_total counter\n"
                                   "baton_tokens_total 4294967297\n"
                                   "# HELP baton_blocks Blocks.\n"
                                   "# TYPE baton_blocks gauge\n"
                                   "baton_blocks{worker=\"w\\\"0\\\\\",state=\"free\"} 0.1\n"
                                   "baton_blocks{worker=\"w\\\"0\\\\\",state=\"used\"} -3\n"
                                   "# HELP baton_ttft_seconds Time to first token.\n"
                                   "# TYPE baton_ttft_seconds histogram\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"0.001\"} 1\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"0.01\"} 1\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"0.1\"} 1\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"1\"} 2\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"2.5\"} 2\n"
                                   "baton_ttft_seconds_bucket{worker=\"p0\",le=\"+Inf\"} 3\n"
                                   "baton_ttft_seconds_sum{worker=\"p0\"} 100.501\n"
                                   "baton_ttft_seconds_count{worker=\"p0\"} 3\n");
    if (system("command -v promtool >/dev/null 2>&1") == 0) {
        FILE *promtool = popen("promtool check metrics", "w");
        assert_non_null(promtool);
        fwrite(text.data, 1, text.bytes, promtool);
        assert_int_equal(pclose(promtool), 0);
    } else {
        print_message("promtool is not installed: not checked by it\n");
    }
    text_close(&text);
    prometheus_close(metrics);
}

static void series_are_bounded_and_reused(void **state)
{
    (void)state;
    struct prometheus *metrics;
    assert_int_equal(prometheus_open(2, 4, &metrics), OK);
    uint32_t family = prometheus_counter(metrics, "a_total", "A.", "worker");
    uint32_t other = prometheus_gauge(metrics, "b", "B.", "worker");
    char name[16];
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "w%d", i);
        prometheus_add(metrics, prometheus_series(metrics, family, name), 1);
    }
    prometheus_set(metrics, prometheus_series(metrics, other, "w0"), 7);
    struct text text = text_open(1 << 16);
    prometheus_write(metrics, &text);
    assert_non_null(strstr(text.data, "a_total{worker=\"w3\"} 1\n"));
    assert_null(strstr(text.data, "w4"));
    assert_non_null(strstr(text.data, "a_total{worker=\"other\"} 96\n"));
    assert_non_null(strstr(text.data, "b{worker=\"other\"} 7\n"));

    /* A worker that left makes room. */
    prometheus_drop(metrics, "worker", "w1");
    prometheus_drop(metrics, "state", "w2");
    prometheus_add(metrics, prometheus_series(metrics, family, "new"), 5);
    text_reset(&text);
    prometheus_write(metrics, &text);
    assert_null(strstr(text.data, "w1"));
    assert_non_null(strstr(text.data, "a_total{worker=\"w2\"} 1\n"));
    assert_non_null(strstr(text.data, "a_total{worker=\"new\"} 5\n"));

    /* A label's value longer than its field is one series, cut. */
    char longer[200];
    memset(longer, 'l', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    prometheus_drop(metrics, "worker", "w2");
    uint32_t series = prometheus_series(metrics, family, longer);
    assert_int_equal(prometheus_series(metrics, family, longer), series);
    text_close(&text);
    prometheus_close(metrics);
}

static void histograms_counted_elsewhere(void **state)
{
    (void)state;
    struct prometheus *metrics;
    assert_int_equal(prometheus_open(1, 1, &metrics), OK);
    uint32_t family = prometheus_histogram(metrics, "h", "H.", "", bounds, 5);
    static const uint64_t counts[] = {1, 0, 2, 0, 0, 4};
    prometheus_set_histogram(metrics, prometheus_series(metrics, family), counts, 12.5);
    struct text text = text_open(1 << 12);
    prometheus_write(metrics, &text);
    assert_non_null(strstr(text.data, "h_bucket{le=\"0.1\"} 3\n"));
    assert_non_null(strstr(text.data, "h_bucket{le=\"+Inf\"} 7\nh_sum 12.5\nh_count 7\n"));
    text_close(&text);
    prometheus_close(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exposition_is_as_specified),
        cmocka_unit_test(series_are_bounded_and_reused),
        cmocka_unit_test(histograms_counted_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
