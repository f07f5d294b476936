/* Error messages: set, prefixed, cut, one per thread; and a name for every status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"

static void test_set_and_prefix(void **state)
{
    (void)state;
    assert_string_equal(error_text(), "");
    assert_int_equal(error_set(ERR_IO, "expected %d, found %d", 1, 2), ERR_IO);
    assert_string_equal(error_text(), "expected 1, found 2");
    assert_int_equal(error_prefix(ERR_FULL, "cannot open \"%s\"", "a"), ERR_FULL);
    assert_string_equal(error_text(), "cannot open \"a\": expected 1, found 2");
    error_set(ERR_IO, "again: %s", error_text()); /* the message as its own argument */
    assert_string_equal(error_text(), "again: cannot open \"a\": expected 1, found 2");
    error_prefix(ERR_IO, "%s", error_text());
    assert_int_equal(strncmp(error_text(), "again: cannot", 13), 0);
}

static void test_cut(void **state)
{
    (void)state;
    char text[3 * ERROR_TEXT_BYTES];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    error_set(ERR_IO, "%s", text);
    assert_int_equal(strlen(error_text()), ERROR_TEXT_BYTES - 1);
    error_prefix(ERR_IO, "%s", "front");
    assert_int_equal(strlen(error_text()), ERROR_TEXT_BYTES - 1);
    assert_int_equal(strncmp(error_text(), "front: xxx", 10), 0);
    error_prefix(ERR_IO, "%s", text);
    assert_int_equal(strlen(error_text()), ERROR_TEXT_BYTES - 1);
}

static void *other_thread(void *ctx)
{
    (void)ctx;
    int empty = error_text()[0] == '\0';
    error_set(ERR_IO, "theirs");
    return empty ? ctx : NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t thread;
    char any[1];
    void *result;
    error_set(ERR_IO, "mine");
    assert_int_equal(pthread_create(&thread, NULL, other_thread, any), 0);
    pthread_join(thread, &result);
    assert_non_null(result);
    assert_string_equal(error_text(), "mine");
}

static void test_names(void **state)
{
    (void)state;
    for (int code = ERR_CANCELLED; code <= OK; code++) {
        assert_string_not_equal(status_name((status)code), "unknown");
        for (int other = ERR_CANCELLED; other < code; other++)
            assert_string_not_equal(status_name((status)code), status_name((status)other));
    }
    assert_string_equal(status_name((status)-1000), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_and_prefix),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
