/* Little-endian bytes by their written form, readers and writers that stop at the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/bytes.h"

/* 0x01 | 0x0302 | 0x07060504 | 0x0f0e0d0c0b0a0908 | 1.5f, least significant byte first */
static const uint8_t golden[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                                 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x00, 0x00, 0xc0, 0x3f};

static void test_write(void **state)
{
    (void)state;
    uint8_t data[sizeof(golden) + 1];
    memset(data, 0xee, sizeof(data));
    struct writer w = writer_over(data, sizeof(golden));
    write_u8(&w, 0x01);
    write_u16(&w, 0x0302);
    write_u32(&w, 0x07060504);
    write_u64(&w, 0x0f0e0d0c0b0a0908);
    write_f32(&w, 1.5f);
    assert_false(w.failed);
    assert_int_equal(w.left, 0);
    assert_memory_equal(data, golden, sizeof(golden));
    write_bytes(&w, NULL, 0);
    assert_false(w.failed);
    write_u8(&w, 1);
    assert_true(w.failed);
    assert_int_equal(data[sizeof(golden)], 0xee);
}

static void test_write_past_end(void **state)
{
    (void)state;
    uint8_t data[8] = {0};
    struct writer w = writer_over(data, 7);
    write_u64(&w, UINT64_MAX);
    assert_true(w.failed);
    write_u8(&w, 0xff); /* it would fit, but what came before did not */
    for (size_t i = 0; i < sizeof(data); i++)
        assert_int_equal(data[i], 0);
}

static void test_read(void **state)
{
    (void)state;
    struct reader r = reader_over(golden, sizeof(golden));
    assert_int_equal(read_u8(&r), 0x01);
    assert_int_equal(read_u16(&r), 0x0302);
    assert_int_equal(read_u32(&r), 0x07060504);
    assert_true(read_u64(&r) == 0x0f0e0d0c0b0a0908);
    assert_true(read_f32(&r) == 1.5f);
    assert_true(reader_ok(&r));
    assert_int_equal(r.left, 0);
    assert_non_null(read_bytes(&r, 0));
    assert_int_equal(read_u8(&r), 0);
    assert_false(reader_ok(&r));
}

static void test_read_past_end(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 8; bytes++) {
        struct reader r = reader_over(golden, bytes);
        assert_int_equal(read_u64(&r), 0);
        assert_false(reader_ok(&r));
        assert_int_equal(read_u8(&r), 0); /* failed stays failed */
        assert_null(read_bytes(&r, 0));
    }
    struct reader r = reader_over(golden, sizeof(golden));
    assert_null(read_bytes(&r, SIZE_MAX));
}

static void test_sizes(void **state)
{
    (void)state;
    size_t size = 7;
    assert_true(size_add(SIZE_MAX - 1, 1, &size));
    assert_true(size == SIZE_MAX);
    assert_false(size_add(SIZE_MAX, 1, &size));
    assert_true(size_mul(SIZE_MAX / 3, 3, &size));
    assert_false(size_mul(SIZE_MAX / 3 + 1, 3, &size));
    assert_true(size_mul(0, SIZE_MAX, &size));
    assert_int_equal(size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write), cmocka_unit_test(test_write_past_end),
        cmocka_unit_test(test_read),  cmocka_unit_test(test_read_past_end),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
