/* The limits are numbers a machine can have, for every class, and wrong arguments are refused. */
#include "cpu_fixture.h"

#include "backend/cpu/limits.h"

static void test_limits(void **state)
{
    (void)state;
    static const char *const classes[] = {"float", "int8", "bf16", "auto"};
    for (size_t i = 0; i < 4; i++) {
        struct cpu_limits limits;
        assert_int_equal(cpu_limits_measure(1 + (uint32_t)i % 2, NULL, classes[i], NULL, &limits),
                         OK);
        print_message("%s, %zu threads: reads %.1f GB/s, %.1f G operations/s\n", classes[i],
                      1 + i % 2, limits.read_bytes_per_s * 1e-9, limits.operations_per_s * 1e-9);
        assert_true(limits.read_bytes_per_s > 1e7 && limits.read_bytes_per_s < 1e13);
        assert_true(limits.operations_per_s > 1e7 && limits.operations_per_s < 1e15);
    }
}

static void test_bad_arguments(void **state)
{
    (void)state;
    struct cpu_limits limits;
    assert_int_equal(cpu_limits_measure(0, NULL, "float", NULL, &limits), ERR_BAD_INPUT);
    assert_int_equal(cpu_limits_measure(1, NULL, "fast", NULL, &limits), ERR_BAD_INPUT);
    assert_int_equal(cpu_limits_measure(1, NULL, "int8", "mmx", &limits), ERR_BAD_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_bad_arguments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
