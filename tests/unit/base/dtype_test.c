/* The packed sizes of every number format, by the figures of the GGUF specification. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/dtype.h"

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        uint32_t number;
        const char *name;
        uint32_t group, group_bytes;
    } facts[] = {
        {0, "F32", 1, 4},       {1, "F16", 1, 2},       {2, "Q4_0", 32, 18},
        {3, "Q4_1", 32, 20},    {8, "Q8_0", 32, 34},    {12, "Q4_K", 256, 144},
        {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {30, "BF16", 1, 2},
    };
    size_t known = 0;
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        assert_true(dtype_known(facts[i].number));
        enum dtype type = (enum dtype)facts[i].number;
        assert_string_equal(dtype_name(type), facts[i].name);
        assert_int_equal(dtype_group(type), facts[i].group);
        assert_int_equal(dtype_group_bytes(type), facts[i].group_bytes);
        assert_int_equal(dtype_row_bytes(type, 512), 512 / facts[i].group * facts[i].group_bytes);
        assert_int_equal(dtype_row_bytes(type, 0), 0);
    }
    for (uint32_t number = 0; number < 1000; number++)
        known += dtype_known(number);
    assert_int_equal(known, sizeof(facts) / sizeof(facts[0]));
    assert_false(dtype_known(UINT32_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
