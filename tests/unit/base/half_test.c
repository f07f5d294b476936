/* Conversions against their definition: the nearest of all values, found by search. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/half.h"

#define F16_INFINITY 0x7c00u

/* The value of a positive f16 by IEEE 754's formula; infinity counts as 2^16, as rounding does. */
static double f16_value(uint32_t half)
{
    uint32_t exponent = half >> 10;
    double fraction = (double)(half & 0x3ffu) / 1024.0;
    if (exponent == 0)
        return ldexp(fraction, -14);
    return ldexp(1.0 + fraction, (int)exponent - 15);
}

static uint16_t f16_nearest(float value)
{
    double wanted = fabs((double)value);
    uint32_t low = 0, high = F16_INFINITY;
    if (wanted >= f16_value(high))
        low = high;
    while (low + 1 < high && low != F16_INFINITY) {
        uint32_t middle = (low + high) / 2;
        if (f16_value(middle) <= wanted)
            low = middle;
        else
            high = middle;
    }
    if (low != F16_INFINITY) {
        double below = wanted - f16_value(low), above = f16_value(high) - wanted;
        if (above < below || (above <= below && low % 2 == 1))
            low = high;
    }
    return (uint16_t)(low | (signbit(value) ? 0x8000u : 0));
}

static void test_f16_widening(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x8000; half++) {
        float plus = f16_to_f32((uint16_t)half), minus = f16_to_f32((uint16_t)(half | 0x8000));
        assert_int_equal(float_bits(minus), float_bits(plus) | 0x80000000u);
        if (half < F16_INFINITY)
            assert_true(!((double)plus < f16_value(half)) && !((double)plus > f16_value(half)));
        else if (half == F16_INFINITY)
            assert_int_equal(float_bits(plus), 0x7f800000u);
        else
            assert_true(isnan(plus) && (float_bits(plus) & 0x400000u) != 0);
        if (half <= F16_INFINITY) {
            assert_int_equal(f32_to_f16(plus), half);
            assert_int_equal(f32_to_f16(minus), half | 0x8000);
        }
    }
}

static void test_f16_narrowing(void **state)
{
    (void)state;
    /* Around every f16 and every midpoint between two. */
    for (uint32_t half = 0; half < F16_INFINITY; half++) {
        double low = f16_value(half), high = f16_value(half + 1);
        float middle = (float)((low + high) / 2);
        float near[] = {(float)low, middle, nextafterf(middle, 0.0f), nextafterf(middle, 1e9f),
                        nextafterf((float)low, 1e9f)};
        for (int i = 0; i < 5; i++) {
            assert_int_equal(f32_to_f16(near[i]), f16_nearest(near[i]));
            assert_int_equal(f32_to_f16(-near[i]), f16_nearest(-near[i]));
        }
    }
    /* Over all exponents of a float. */
    uint32_t bits = 1;
    for (int i = 0; i < 200000; i++) {
        bits = bits * 1664525u + 1013904223u;
        float value = float_from_bits(bits);
        if (!isnan(value))
            assert_int_equal(f32_to_f16(value), f16_nearest(value));
    }
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_f16(float_from_bits(0x7f800001u)) & 0x7e00, 0x7e00);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t brain = 0; brain < 0x10000; brain++) {
        float value = bf16_to_f32((uint16_t)brain);
        assert_int_equal(float_bits(value), brain << 16);
        if (!isnan(value))
            assert_int_equal(f32_to_bf16(value), brain);
    }
    /* Halfway goes to even, a bit more goes up, and the largest floats overflow. */
    assert_int_equal(f32_to_bf16(float_from_bits(0x3f808000u)), 0x3f80);
    assert_int_equal(f32_to_bf16(float_from_bits(0x3f818000u)), 0x3f82);
    assert_int_equal(f32_to_bf16(float_from_bits(0x3f808001u)), 0x3f81);
    assert_int_equal(f32_to_bf16(float_from_bits(0x3f807fffu)), 0x3f80);
    assert_int_equal(f32_to_bf16(float_from_bits(0x7f7fffffu)), 0x7f80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(float_from_bits(0x7f800001u)))));
    assert_true(isnan(bf16_to_f32(f32_to_bf16(float_from_bits(0xffffffffu)))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_widening),
        cmocka_unit_test(test_f16_narrowing),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
