/* Log lines: their shape, the level, and that no value can forge a second line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <regex.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static char captured[8192];
static int saved_fd;
static int pipe_fds[2];

static void capture_start(void)
{
    assert_int_equal(pipe(pipe_fds), 0);
    saved_fd = dup(STDERR_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
}

/* What was written to standard error since capture_start. */
static const char *capture_end(void)
{
    dup2(saved_fd, STDERR_FILENO);
    close(saved_fd);
    close(pipe_fds[1]);
    size_t used = 0;
    ssize_t got;
    while ((got = read(pipe_fds[0], captured + used, sizeof(captured) - 1 - used)) > 0)
        used += (size_t)got;
    captured[used] = '\0';
    close(pipe_fds[0]);
    return captured;
}

static void assert_matches(const char *text, const char *pattern)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, text, 0, NULL, 0) != 0)
        fail_msg("\"%s\" does not match %s", text, pattern);
    regfree(&regex);
}

#define STAMP "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "

static void test_shape(void **state)
{
    (void)state;
    log_open("decode-0", LOG_INFO);
    capture_start();
    log_line(LOG_INFO, 0xf3a1, "handoff landed", "bytes=%d", 368640);
    assert_matches(capture_end(), STAMP "INFO decode-0 request=000000000000f3a1 "
                                        "event=\"handoff landed\" bytes=368640\n$");
    capture_start();
    log_warn("slow", "%s", "");
    assert_matches(capture_end(), STAMP "WARN decode-0 event=\"slow\"\n$");
}

static void test_level(void **state)
{
    (void)state;
    log_open("router", LOG_WARN);
    capture_start();
    log_debug("a", "x=%d", 1);
    log_info("b", "x=%d", 1);
    assert_string_equal(capture_end(), "");
    capture_start();
    log_warn("c", "x=%d", 1);
    log_error("d", "x=%d", 1);
    const char *text = capture_end();
    assert_non_null(strstr(text, "event=\"c\""));
    assert_non_null(strstr(text, "event=\"d\""));
    assert_int_equal(log_level_parse("debug"), LOG_DEBUG);
    assert_int_equal(log_level_parse("error"), LOG_ERROR);
    assert_int_equal(log_level_parse("Error"), -1);
}

static void test_hostile_values(void **state)
{
    (void)state;
    char text[5000];
    log_open("router", LOG_INFO);
    capture_start();
    log_info("request", "user=\"%s\"", "a\nb\r\033[2J\x7f\t");
    const char *line = capture_end();
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    assert_non_null(strstr(line, "user=\"a?b??[2J??\""));
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    capture_start();
    log_info("long", "text=%s", text);
    log_line(LOG_INFO, 0, text, "x=%d", 1);
    line = capture_end();
    const char *first_end = strchr(line, '\n');
    assert_non_null(first_end);
    assert_true(first_end - line <= 2048);
    assert_ptr_equal(strchr(first_end + 1, '\n'), line + strlen(line) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_level),
        cmocka_unit_test(test_hostile_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
