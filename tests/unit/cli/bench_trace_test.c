/* Trace readers: both formats, and lines that are wrong in every way, each named by its number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench_trace.h"

static char path[] = "/tmp/bench_trace_testXXXXXX";

static int set_up(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    close(fd);
    return fd >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static status read_bytes_as_trace(const char *text, size_t bytes, size_t limit,
                                  struct trace *trace_out)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    return trace_open(path, limit, trace_out);
}

static status read_text(const char *text, size_t limit, struct trace *trace_out)
{
    return read_bytes_as_trace(text, strlen(text), limit, trace_out);
}

static void test_mooncake(void **state)
{
    (void)state;
    struct trace trace;
    const char *text = "{\"timestamp\": 1000, \"input_length\": 900, \"output_length\": 52, "
                       "\"hash_ids\": [3, 9]}\n"
                       "\r\n"
                       "{\"timestamp\": 1027, \"input_length\": 600, \"output_length\": 0, "
                       "\"hash_ids\": [3, 11]}\r\n"
                       "{\"timestamp\": 2000.5, \"input_length\": 10, \"output_length\": 5}";
    assert_int_equal(read_text(text, 0, &trace), OK);
    assert_int_equal(trace.request_count, 3);
    assert_int_equal(trace.id_count, 4);
    assert_true(trace.requests[0].at_ms == 0);
    assert_true(trace.requests[1].at_ms == 27);
    assert_true(trace.requests[2].at_ms == 1000.5);
    assert_int_equal(trace.requests[1].input_tokens, 600);
    assert_int_equal(trace.requests[0].output_tokens, 52);
    assert_int_equal(trace.requests[1].id_first, 2);
    assert_int_equal(trace.requests[1].id_count, 2);
    assert_int_equal(trace.ids[trace.requests[1].id_first], 3);
    assert_int_equal(trace.ids[trace.requests[1].id_first + 1], 11);
    assert_int_equal(trace.requests[2].id_count, 0);
    trace_close(&trace);
    assert_int_equal(read_text(text, 2, &trace), OK);
    assert_int_equal(trace.request_count, 2);
    trace_close(&trace);
}

static void test_azure(void **state)
{
    (void)state;
    struct trace trace;
    assert_int_equal(read_text("TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                               "2023-11-16 23:59:59.7500000,374,44\r\n"
                               "2023-11-17 00:00:01,396,109\n",
                               0, &trace),
                     OK);
    assert_int_equal(trace.request_count, 2);
    assert_int_equal(trace.requests[0].input_tokens, 374);
    assert_int_equal(trace.requests[1].output_tokens, 109);
    assert_true(fabs(trace.requests[1].at_ms - 1250) < 0.001);
    assert_int_equal(trace.id_count, 0);
    trace_close(&trace);
}

/* Each as the second line, after a good one. */
static const char *const bad_mooncake[] = {
    "nonsense",
    "{",
    "[]",
    "{}",
    "{\"timestamp\": 1}",
    "{\"timestamp\": \"1\", \"input_length\": 1, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": 0, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": -5, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": 1e3, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": 4294967297, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": 99999999999999999999, \"output_length\": 1}",
    "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": -1}",
    "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 3}",
    "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-3]}",
    "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [\"a\"]}",
    "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1, 2]}",
    "{\"timestamp\": 1, \"timestamp\": 2, \"input_length\": 1, \"output_length\": 1}",
    "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", /* time goes back */
};

static const char *const bad_azure[] = {
    "nonsense",
    "2023-11-16",
    "2023-11-16 18:15:46",
    "2023-11-16 18:15:46,",
    "2023-11-16 18:15:46,5",
    "2023-11-16 18:15:46,5,",
    "2023-11-16 18:15:46,5,6,7",
    "2023-11-16 18:15:46,0,6",
    "2023-11-16 18:15:46,-1,6",
    "2023-11-16 18:15:46,5,6x",
    "2023-11-16 18:15:46,99999999999999999999999,6",
    "2023-11-16 18:15:46,10000001,6",
    "2023-13-16 18:15:46,5,6",
    "2022-11-16 18:15:46,5,6",
    "\x01\x02\xff",
};

static void assert_bad_line(const char *first, const char *line)
{
    char text[1024];
    struct trace trace = {.request_count = 77};
    snprintf(text, sizeof(text), "%s\n%s\n", first, line);
    status st = read_text(text, 0, &trace);
    if (st != ERR_BAD_INPUT || strstr(error_text(), "line ") == NULL ||
        strstr(error_text(), path) == NULL)
        fail_msg("\"%s\": status %d, \"%s\"", line, st, error_text());
    assert_int_equal(trace.request_count, 77);
}

static void test_bad_lines(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_mooncake) / sizeof(bad_mooncake[0]); i++)
        assert_bad_line("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}",
                        bad_mooncake[i]);
    for (size_t i = 0; i < sizeof(bad_azure) / sizeof(bad_azure[0]); i++)
        assert_bad_line("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:00,1,1",
                        bad_azure[i]);
}

static void test_bad_files(void **state)
{
    (void)state;
    struct trace trace;
    assert_int_equal(trace_open("/nonexistent/trace", 0, &trace), ERR_NOT_FOUND);
    assert_int_equal(trace_open("/tmp", 0, &trace), ERR_IO);
    assert_int_equal(read_text("", 0, &trace), ERR_BAD_INPUT);
    assert_int_equal(read_text("\n\n", 0, &trace), ERR_BAD_INPUT);
    assert_int_equal(read_text("TIMESTAMP,ContextTokens,GeneratedTokens\n", 0, &trace),
                     ERR_BAD_INPUT);
    assert_int_equal(read_bytes_as_trace("{}\0{}\n", 6, 0, &trace), ERR_BAD_INPUT);
    /* A line of brackets, deep and long. */
    size_t bytes = 5u << 20;
    char *deep = malloc(bytes);
    assert_non_null(deep);
    memset(deep, '[', bytes);
    assert_int_equal(read_bytes_as_trace(deep, bytes, 0, &trace), ERR_BAD_INPUT);
    assert_int_equal(read_bytes_as_trace(deep, 100000, 0, &trace), ERR_BAD_INPUT);
    free(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mooncake),
        cmocka_unit_test(test_azure),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_bad_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
