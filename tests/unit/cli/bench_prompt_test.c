/* Prompts: as long as asked for, the same for the same seed, shared where their pieces are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "cli/bench_prompt.h"

static json_t *prompt(const struct prompt_kind *kind, const struct prompt_piece *pieces,
                      size_t count)
{
    struct text text = text_open(10u << 20);
    prompt_write(&text, kind, pieces, count);
    assert_true(text_ok(&text));
    json_t *value = json_loadb(text.data, text.bytes, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    text_close(&text);
    return value;
}

static json_int_t token(const json_t *prompt_ids, size_t index)
{
    return json_integer_value(json_array_get(prompt_ids, index));
}

static void test_tokens(void **state)
{
    (void)state;
    struct prompt_kind kind = {.vocabulary = 29000, .seed = 5};
    struct prompt_piece a[] = {{3, 512}, {9, 300}};
    struct prompt_piece b[] = {{3, 512}, {11, 100}};
    json_t *first = prompt(&kind, a, 2);
    json_t *again = prompt(&kind, a, 2);
    json_t *other = prompt(&kind, b, 2);
    size_t same = 0;
    assert_int_equal(json_array_size(first), 812);
    assert_int_equal(json_array_size(other), 612);
    assert_true(json_equal(first, again));
    for (size_t i = 0; i < 812; i++)
        assert_true(token(first, i) >= 1000 && token(first, i) < 29000);
    for (size_t i = 0; i < 512; i++)
        assert_int_equal(token(first, i), token(other, i));
    for (size_t i = 512; i < 612; i++)
        same += token(first, i) == token(other, i);
    assert_true(same <= 2);
    kind.seed = 6;
    json_t *reseeded = prompt(&kind, a, 2);
    assert_false(json_equal(first, reseeded));
    json_decref(first);
    json_decref(again);
    json_decref(other);
    json_decref(reseeded);
}

static void test_small_vocabulary(void **state)
{
    (void)state;
    for (uint32_t vocabulary = 2; vocabulary < 3000; vocabulary += 499) {
        struct prompt_kind kind = {.vocabulary = vocabulary};
        struct prompt_piece piece = {1, 500};
        json_t *ids = prompt(&kind, &piece, 1);
        for (size_t i = 0; i < 500; i++)
            assert_in_range(token(ids, i), 1, vocabulary - 1);
        json_decref(ids);
    }
}

static void test_text(void **state)
{
    (void)state;
    struct prompt_kind kind = {.as_text = true, .seed = 1};
    struct prompt_piece pieces[] = {{1, 20}, {2, 30}};
    json_t *value = prompt(&kind, pieces, 2);
    const char *text = json_string_value(value);
    size_t words = 1;
    assert_non_null(text);
    for (const char *at = strchr(text, ' '); at != NULL; at = strchr(at + 1, ' '))
        words++;
    assert_int_equal(words, 50);
    json_decref(value);
}

static void test_random(void **state)
{
    (void)state;
    struct bench_random random = {.state = 1};
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        double unit = bench_random_unit(&random);
        assert_true(unit > 0 && unit <= 1);
        sum += -log(unit);
    }
    assert_true(fabs(sum / 100000 - 1) < 0.02); /* the mean gap of a Poisson process of rate 1 */
    random.state = 0;
    assert_true(bench_random_next(&random) == 0xe220a8397b1dcdafu); /* splitmix64's first from 0 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_small_vocabulary),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
