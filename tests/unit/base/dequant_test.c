/* Every tensor type against the gguf package, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/dequant.h"
#include "base/dtype.h"

static uint8_t *file_read(const char *path, size_t *bytes_out)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint8_t *data = malloc(1 << 20);
    assert_non_null(data);
    *bytes_out = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

static void row_check(enum dtype type, const uint8_t *packed, const uint8_t *expected,
                      uint32_t values)
{
    /* Odd addresses must do, and nothing may be written beyond the values. */
    size_t bytes = dtype_row_bytes(type, values);
    uint8_t *moved = malloc(bytes + 1);
    float *out = malloc((values + 1) * sizeof(float));
    assert_non_null(moved);
    assert_non_null(out);
    memcpy(moved + 1, packed, bytes);
    memset(out, 0x5a, (values + 1) * sizeof(float));
    dequant_row(type, moved + 1, values, out);
    for (uint32_t i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, &out[i], 4);
        /* A zero's sign may differ: -0 * q is a matter of the order of a sum with 0. */
        if ((bits | load_u32(expected + 4 * i)) << 1 != 0 && bits != load_u32(expected + 4 * i))
            fail_msg("%s value %u is %08x, expected %08x", dtype_name(type), i, bits,
                     load_u32(expected + 4 * i));
    }
    uint32_t guard;
    memcpy(&guard, &out[values], 4);
    assert_int_equal(guard, 0x5a5a5a5a);
    free(moved);
    free(out);
}

static void test_goldens(void **state)
{
    (void)state;
    size_t bytes;
    uint8_t *data = file_read(TEST_DATA_DIR "/vectors/dequant.bin", &bytes);
    struct reader r = reader_over(data, bytes);
    assert_memory_equal(read_bytes(&r, 8), "DEQUANT1", 8);
    uint32_t rows = read_u32(&r);
    uint32_t seen = 0;
    for (uint32_t row = 0; row < rows; row++) {
        uint32_t type = read_u32(&r), values = read_u32(&r), packed_bytes = read_u32(&r);
        assert_true(dtype_known(type));
        assert_int_equal(packed_bytes, dtype_row_bytes((enum dtype)type, values));
        const uint8_t *packed = read_bytes(&r, (packed_bytes + 3) / 4 * 4);
        const uint8_t *expected = read_bytes(&r, (size_t)values * 4);
        assert_non_null(expected);
        row_check((enum dtype)type, packed, expected, values);
        seen |= 1u << type;
    }
    assert_int_equal(r.left, 0);
    for (uint32_t type = 0; type < 32; type++)
        assert_int_equal(dtype_known(type), seen >> type & 1);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
