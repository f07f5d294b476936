/* A safetensors header that lies is refused with words; a right one gives its tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "model/safetensors.h"

/* header as text, data_bytes bytes 0, 1, 2, ... behind it. */
static status open_file(const char *header, uint64_t header_bytes, size_t data_bytes,
                        struct safetensors **file_out)
{
    size_t bytes = strlen(header);
    uint8_t *file = malloc(8 + bytes + data_bytes);
    assert_non_null(file);
    store_u64(file, header_bytes);
    memcpy(file + 8, header, bytes);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + bytes + i] = (uint8_t)i;
    status code = safetensors_open_memory("t.safetensors", file, 8 + bytes + data_bytes, file_out);
    free(file);
    return code;
}

static void expect_refused(const char *header, size_t data_bytes, status expected,
                           const char *words)
{
    struct safetensors *file = NULL;
    status code = open_file(header, strlen(header), data_bytes, &file);
    if (code != expected)
        fail_msg("%s: status %d, expected %d (%s)", header, code, expected, error_text());
    assert_null(file);
    if (strstr(error_text(), words) == NULL || strstr(error_text(), "t.safetensors: ") == NULL)
        fail_msg("the message is: %s; expected in it: %s", error_text(), words);
}

static void gives_what_is_there(void **state)
{
    (void)state;
    struct safetensors *file = NULL;
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]}}";
    char padded[256]; /* spaces, so that the data begins at a multiple of 8 */
    snprintf(padded, sizeof(padded), "%-*s", (int)((strlen(header) + 7) / 8 * 8), header);
    assert_int_equal(open_file(padded, strlen(padded), 16, &file), OK);
    assert_int_equal(safetensors_count(file), 2);
    const struct safetensors_tensor *a = safetensors_find(file, "a");
    assert_ptr_equal(a, safetensors_at(file, 0));
    assert_string_equal(a->dtype, "BF16");
    assert_int_equal(a->dimension_count, 2);
    assert_int_equal(a->dimensions[0], 2);
    assert_int_equal(a->dimensions[1], 3);
    assert_int_equal(a->bytes, 12);
    assert_int_equal(a->data[11], 11);
    assert_int_equal(safetensors_find(file, "b")->data[0], 12);
    assert_null(safetensors_find(file, "c"));
    assert_null(safetensors_find(file, "__metadata__"));
    safetensors_close(file);
    assert_int_equal(open_file("{}", 2, 0, &file), OK);
    assert_int_equal(safetensors_count(file), 0);
    assert_null(safetensors_find(file, "a"));
    safetensors_close(file);
    safetensors_close(NULL);
}

#define A(rest) "{\"a\":{\"dtype\":\"F32\"," rest "}}"

static void refuses_what_lies(void **state)
{
    (void)state;
    struct safetensors *file = NULL;
    /* A second tensor after one of 4 bytes. */
#define B(dtype, shape, from, to)                                                                  \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"" dtype     \
    "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}}"
    expect_refused(B("U8", "[4]", "2", "6"), 6, ERR_BAD_INPUT, "tensors a and b overlap");
    expect_refused(B("U8", "[4]", "0", "4"), 4, ERR_BAD_INPUT, "overlap");
    expect_refused(B("U8", "[2]", "6", "8"), 8, ERR_BAD_INPUT,
                   "2 bytes between a and tensor b belong to nothing");
    expect_refused(B("U8", "[2]", "4", "6"), 9, ERR_BAD_INPUT, "3 bytes after b belong to nothing");
    expect_refused(B("U8", "[9]", "4", "13"), 12, ERR_BAD_INPUT,
                   "tensor b ends at byte 13 of the data, but there are 12: the file is truncated");
    expect_refused(A("\"shape\":[3],\"data_offsets\":[0,8]"), 8, ERR_BAD_INPUT,
                   "tensor a takes 8 bytes, but its shape and dtype F32 make 12");
    expect_refused(A("\"shape\":[2],\"data_offsets\":[8,0]"), 8, ERR_BAD_INPUT, "in order");
    expect_refused(A("\"shape\":[2],\"data_offsets\":[-8,0]"), 8, ERR_BAD_INPUT, "whole numbers");
    expect_refused(A("\"shape\":[2],\"data_offsets\":[0,8.0]"), 8, ERR_BAD_INPUT, "whole numbers");
    expect_refused(A("\"shape\":[-1],\"data_offsets\":[0,8]"), 8, ERR_BAD_INPUT, "dimension 0");
    expect_refused(A("\"shape\":[4611686018427387904,4611686018427387904],\"data_offsets\":[0,8]"),
                   8, ERR_BAD_INPUT, "its shape overflows");
    expect_refused(A("\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4, ERR_BAD_INPUT,
                   "an array of at most 8");
    expect_refused(A("\"shape\":2,\"data_offsets\":[0,8]"), 8, ERR_BAD_INPUT, "its shape is");
    expect_refused(A("\"shape\":[2]"), 8, ERR_BAD_INPUT, "data_offsets");
    expect_refused("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, ERR_BAD_INPUT,
                   "tensor a has no dtype");
    expect_refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1,
                   ERR_UNSUPPORTED, "tensor a has dtype F4 (known: F32, F16, BF16");
    expect_refused("{\"a\":3}", 0, ERR_BAD_INPUT, "tensor a is an integer (expected an object)");
    expect_refused("{\"\":{}}", 0, ERR_BAD_INPUT, "name is empty");
    expect_refused("{\"a\":{}", 0, ERR_BAD_INPUT, "not a JSON object");
    expect_refused("{\"a\":{},\"a\":{}}", 0, ERR_BAD_INPUT, "duplicate");
    expect_refused("[]", 0, ERR_BAD_INPUT, "not a JSON object");

    /* One byte further than its numbers want: 8 + 71 bytes of header. */
    const char *odd = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    char padded[128];
    snprintf(padded, sizeof(padded), "%s%*s", odd, (int)((8 - strlen(odd) % 8) % 8 + 1), "");
    expect_refused(padded, 4, ERR_BAD_INPUT, "tensor a is unaligned");

    assert_int_equal(open_file("{}", 3, 0, &file), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "a header of 3 bytes in a file of 10"));
    assert_int_equal(open_file("{}", UINT64_MAX - 4, 0, &file), ERR_BAD_INPUT);
    assert_int_equal(open_file("{}", 0, 0, &file), ERR_BAD_INPUT);
    assert_int_equal(safetensors_open_memory("x", "abc", 3, &file), ERR_BAD_INPUT);
    assert_int_equal(safetensors_open("/no/such", &file), ERR_NOT_FOUND);
    assert_int_equal(safetensors_open("/tmp", &file), ERR_BAD_INPUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_what_is_there),
        cmocka_unit_test(refuses_what_lies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
