/* GGUF files that are right are read; every wrong one is refused with words that name the fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/error.h"
#include "gguf_build.h"
#include "model/gguf.h"

static struct build build;

/* A little of everything: 6 pieces of metadata, 2 tensors. */
static void small_start(uint32_t version)
{
    build_start(&build, version);
    build_string(&build, "general.architecture", "llama");
    build_u32(&build, "number", 7);
    build_f32(&build, "ratio", 0.25f);
    build_raw(&build, "yes", GGUF_BOOL, "\1", 1);
    build_letters(&build, "letters", 3);
    build_array(&build, "bytes", GGUF_I8, 3, "\1\xff\3", 3);
    build_vector(&build, "norm", 5);
    build_matrix(&build, "matrix", DTYPE_Q8_0, 3, 64);
}

static struct gguf *open_right(void)
{
    struct gguf *gguf = NULL;
    build_finish(&build);
    if (gguf_open_memory("small.gguf", build.data, build.bytes, &gguf) != OK)
        fail_msg("%s", error_text());
    build_end(&build);
    return gguf;
}

static void expect_bytes_refused(const void *data, size_t bytes, status expected, const char *words)
{
    struct gguf *gguf = NULL;
    status code = gguf_open_memory("small.gguf", data, bytes, &gguf);
    if (code != expected)
        fail_msg("status %d, expected %d (%s)", code, expected, code == OK ? "" : error_text());
    assert_null(gguf);
    if (strstr(error_text(), words) == NULL || strstr(error_text(), "small.gguf: ") == NULL)
        fail_msg("the message is: %s; expected in it: %s", error_text(), words);
}

/* What build holds now is refused; build starts anew. */
static void expect_refused(status expected, const char *words)
{
    build_finish(&build);
    expect_bytes_refused(build.data, build.bytes, expected, words);
    build_end(&build);
    small_start(3);
}

static void test_reads_what_is_there(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        small_start(version);
        struct gguf *gguf = open_right();
        uint32_t number = 0;
        float ratio = 0;
        bool yes = false;
        struct gguf_string text;
        assert_int_equal(gguf_read_u32(gguf, "number", &number), OK);
        assert_int_equal(number, 7);
        assert_int_equal(gguf_read_f32(gguf, "ratio", &ratio), OK);
        assert_true(ratio >= 0.25f && ratio <= 0.25f);
        assert_int_equal(gguf_read_bool(gguf, "yes", &yes), OK);
        assert_true(yes);
        assert_int_equal(gguf_read_string(gguf, "general.architecture", &text), OK);
        assert_int_equal(text.bytes, 5);
        assert_memory_equal(text.text, "llama", 5);
        assert_true(gguf_has(gguf, "letters"));
        assert_false(gguf_has(gguf, "letter"));
        assert_string_equal(gguf_path(gguf), "small.gguf");

        struct gguf_strings strings;
        assert_int_equal(gguf_read_strings(gguf, "letters", &strings), OK);
        assert_int_equal(strings.count, 3);
        for (int i = 0; i < 3; i++) {
            assert_true(gguf_strings_next(&strings, &text));
            assert_int_equal(text.bytes, 1);
            assert_int_equal(text.text[0], 'a' + i);
        }
        assert_false(gguf_strings_next(&strings, &text));

        struct gguf_array array;
        assert_int_equal(gguf_read_integers(gguf, "bytes", &array), OK);
        assert_int_equal(array.count, 3);
        assert_int_equal(gguf_array_integer(&array, 1), -1);
        assert_int_equal(gguf_array_integer(&array, 2), 3);
        gguf_close(gguf);
    }
}

static void test_tensors(void **state)
{
    (void)state;
    small_start(3);
    struct gguf *gguf = open_right();
    assert_int_equal(gguf_tensor_count(gguf), 2);
    const struct gguf_tensor *norm = gguf_tensor_find(gguf, "norm");
    const struct gguf_tensor *matrix = gguf_tensor_find(gguf, "matrix");
    assert_null(gguf_tensor_find(gguf, "matri"));
    assert_ptr_equal(norm, gguf_tensor_at(gguf, 0));
    assert_ptr_equal(matrix, gguf_tensor_at(gguf, 1));
    assert_int_equal(norm->bytes, 20);
    assert_int_equal(norm->dimensions[0], 5);
    assert_int_equal(norm->dimensions[1], 1);
    assert_int_equal(matrix->bytes, 3 * 68);
    assert_int_equal(matrix->dimensions[0], 64);
    assert_int_equal(matrix->dimensions[1], 3);
    assert_int_equal((uintptr_t)matrix->data % 32, 0);
    assert_int_equal(norm->data[0], 0); /* the builder's formula: tensor 0, then tensor 1 */
    assert_int_equal(matrix->data[0], 1);
    size_t header_bytes;
    assert_memory_equal(gguf_header(gguf, &header_bytes), "GGUF", 4);
    assert_true(header_bytes <= (size_t)(norm->data - gguf_header(gguf, &header_bytes)));
    gguf_close(gguf);

    /* A type that is not built is no fault of the file: the model decides. */
    small_start(3);
    build_tensor(&build, "old", 10, 1, (uint64_t[]){256});
    gguf = open_right();
    assert_null(gguf_tensor_find(gguf, "old")->data);
    gguf_close(gguf);

    small_start(3);
    build.alignment = 64;
    build_u32(&build, "general.alignment", 64);
    gguf = open_right();
    assert_int_equal((uintptr_t)gguf_tensor_find(gguf, "matrix")->data % 64, 0);
    gguf_close(gguf);
}

static void test_numbers_of_every_type(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        size_t bytes;
        const char *raw;
        int64_t value; /* below 0: refused */
    } cases[] = {
        {GGUF_U8, 1, "\xfe", 254},
        {GGUF_I8, 1, "\x05", 5},
        {GGUF_I8, 1, "\xfe", -2},
        {GGUF_U16, 2, "\xfe\xff", 65534},
        {GGUF_I16, 2, "\xfe\xff", -2},
        {GGUF_U32, 4, "\xfe\xff\xff\xff", 4294967294},
        {GGUF_I32, 4, "\xfe\xff\xff\x7f", 2147483646},
        {GGUF_I32, 4, "\xfe\xff\xff\xff", -2},
        {GGUF_U64, 8, "\xfe\xff\0\0\0\0\0\0", 65534},
        {GGUF_I64, 8, "\xfe\xff\0\0\0\0\0\0", 65534},
        {GGUF_I64, 8, "\xfe\xff\xff\xff\xff\xff\xff\xff", -2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        small_start(3);
        build_raw(&build, "n", cases[i].type, cases[i].raw, cases[i].bytes);
        build_array(&build, "list", cases[i].type, 1, cases[i].raw, cases[i].bytes);
        struct gguf *gguf = open_right();
        uint32_t narrow = 0;
        uint64_t wide = 0;
        struct gguf_array array;
        assert_int_equal(gguf_read_integers(gguf, "list", &array), OK);
        assert_int_equal(gguf_array_integer(&array, 0), cases[i].value);
        if (cases[i].value >= 0) {
            assert_int_equal(gguf_read_u32(gguf, "n", &narrow), OK);
            assert_int_equal(narrow, cases[i].value);
            assert_int_equal(gguf_read_u64(gguf, "n", &wide), OK);
            assert_int_equal(wide, cases[i].value);
        } else {
            assert_int_equal(gguf_read_u32(gguf, "n", &narrow), ERR_BAD_INPUT);
            assert_non_null(strstr(error_text(), "metadata n is -2 (expected 0 or more)"));
        }
        gguf_close(gguf);
    }

    small_start(3);
    uint8_t big[8];
    store_u64(big, UINT64_MAX);
    build_raw(&build, "big", GGUF_U64, big, 8);
    double third = 1.0 / 3;
    build_raw(&build, "third", GGUF_F64, &third, 8);
    build_raw(&build, "infinite", GGUF_F32, "\0\0\x80\x7f", 4);
    build_array(&build, "floats", GGUF_F32, 2, "\0\0\x80\x3f\0\0\0\xc0", 8);
    struct gguf *gguf = open_right();
    uint64_t wide = 0;
    uint32_t narrow = 0;
    float value = 0;
    struct gguf_array array;
    assert_int_equal(gguf_read_u64(gguf, "big", &wide), OK);
    assert_true(wide == UINT64_MAX);
    assert_int_equal(gguf_read_u32(gguf, "big", &narrow), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "expected at most 4294967295"));
    assert_int_equal(gguf_read_f32(gguf, "third", &value), OK);
    assert_true(value > 0.333f && value < 0.334f);
    assert_int_equal(gguf_read_f32(gguf, "infinite", &value), ERR_BAD_INPUT);
    assert_int_equal(gguf_read_floats(gguf, "floats", &array), OK);
    assert_true(gguf_array_float(&array, 0) > 0.9 && gguf_array_float(&array, 1) < -1.9);
    gguf_close(gguf);
}

static void test_wrong_types(void **state)
{
    (void)state;
    small_start(3);
    struct gguf *gguf = open_right();
    uint32_t number;
    float ratio;
    bool yes;
    struct gguf_string text;
    struct gguf_strings strings;
    struct gguf_array array;
    assert_int_equal(gguf_read_u32(gguf, "nothing", &number), ERR_NOT_FOUND);
    assert_string_equal(error_text(), "small.gguf: metadata nothing is missing");
    assert_int_equal(gguf_read_u32(gguf, "ratio", &number), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "metadata ratio is of type f32 (expected an integer)"));
    assert_int_equal(gguf_read_u32(gguf, "yes", &number), ERR_BAD_INPUT);
    assert_int_equal(gguf_read_u32(gguf, "bytes", &number), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "is an array of type i8 (expected an integer)"));
    assert_int_equal(gguf_read_f32(gguf, "number", &ratio), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "is of type u32 (expected f32 or f64)"));
    assert_int_equal(gguf_read_bool(gguf, "number", &yes), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "(expected bool)"));
    assert_int_equal(gguf_read_string(gguf, "number", &text), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "(expected string)"));
    assert_int_equal(gguf_read_strings(gguf, "bytes", &strings), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "(expected an array of strings)"));
    assert_int_equal(gguf_read_strings(gguf, "general.architecture", &strings), ERR_BAD_INPUT);
    assert_int_equal(gguf_read_integers(gguf, "letters", &array), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "(expected an array of integers)"));
    assert_int_equal(gguf_read_floats(gguf, "bytes", &array), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "(expected an array of f32 or f64)"));
    gguf_close(gguf);
}

static void test_truncated_anywhere(void **state)
{
    (void)state;
    small_start(3);
    build_finish(&build);
    for (size_t bytes = 0; bytes < build.bytes; bytes++) {
        /* A block of exactly that size, so that a sanitizer sees the first byte too far. */
        uint8_t *cut = malloc(bytes > 0 ? bytes : 1);
        assert_non_null(cut);
        memcpy(cut, build.data, bytes);
        expect_bytes_refused(cut, bytes, ERR_BAD_INPUT,
                             bytes < 4 ? "not a GGUF file" : "is truncated or corrupt");
        free(cut);
    }
    build_end(&build);
}

static void test_wrong_heads(void **state)
{
    (void)state;
    small_start(3);
    build_finish(&build);
    memcpy(build.data, "GGML", 4);
    expect_bytes_refused(build.data, build.bytes, ERR_BAD_INPUT, "not a GGUF file");
    build_end(&build);

    small_start(1);
    expect_refused(ERR_UNSUPPORTED, "GGUF version 1 (supported: 2 and 3)");
    build.version = 4;
    expect_refused(ERR_UNSUPPORTED, "GGUF version 4");
    build.version = 3u << 24;
    expect_refused(ERR_UNSUPPORTED, "big-endian");

    build.tensor_count_lie = UINT64_MAX - 1;
    expect_refused(ERR_BAD_INPUT, "18446744073709551614 tensors (expected at most");
    build.entry_count_lie = UINT64_MAX - 1;
    expect_refused(ERR_BAD_INPUT, "18446744073709551614 metadata entries (expected at most");
    build.tensor_count_lie = 1000;
    expect_refused(ERR_BAD_INPUT, "1000 tensors don't fit into the file's");
    build.entry_count_lie = 60000;
    expect_refused(ERR_BAD_INPUT, "60000 metadata entries don't fit");
    build.entry_count_lie = build.entry_count - 1; /* an entry is read as a tensor */
    expect_refused(ERR_BAD_INPUT, "tensor");
    build_end(&build);
}

static void test_hostile_metadata(void **state)
{
    (void)state;
    uint8_t huge[8];
    small_start(3);

    store_u64(huge, UINT64_MAX);
    build_raw(&build, "text", GGUF_STRING, huge, 8);
    expect_refused(ERR_BAD_INPUT, "metadata 7 of 7 runs past the end");
    store_u64(huge, (uint64_t)INT64_MAX);
    build_array(&build, "texts", GGUF_STRING, 1, huge, 8);
    expect_refused(ERR_BAD_INPUT, "metadata texts: 1 strings run past the end");
    build_array(&build, "texts", GGUF_STRING, UINT64_MAX, "", 0);
    expect_refused(ERR_BAD_INPUT, "18446744073709551615 strings run past the end");
    /* count * 8 would wrap round to 8 */
    build_array(&build, "list", GGUF_U64, (UINT64_MAX >> 3) + 2, huge, 8);
    expect_refused(ERR_BAD_INPUT, "values of type u64 run past the end");
    build_array(&build, "list", GGUF_U8, 1u << 31, huge, 8);
    expect_refused(ERR_BAD_INPUT, "2147483648 values of type u8 run past the end");
    build_array(&build, "nested", GGUF_ARRAY, 1, huge, 8);
    expect_refused(ERR_UNSUPPORTED, "metadata nested is an array of arrays");
    build_array(&build, "list", 13, 1, huge, 8);
    expect_refused(ERR_BAD_INPUT, "unknown element type 13");
    build_raw(&build, "value", 13, huge, 8);
    expect_refused(ERR_BAD_INPUT, "metadata value: unknown value type 13 (expected 0 to 12)");
    build_raw(&build, "yes", GGUF_BOOL, "\2", 1);
    expect_refused(ERR_BAD_INPUT, "metadata yes: a bool is neither 0 nor 1");
    build_array(&build, "flags", GGUF_BOOL, 3, "\0\1\xff", 3);
    expect_refused(ERR_BAD_INPUT, "metadata flags: a bool");

    strcpy(build_entry_at(&build, "ratio")->key, "number");
    expect_refused(ERR_BAD_INPUT, "metadata number is there twice");
    strcpy(build_entry_at(&build, "ratio")->key, "");
    expect_refused(ERR_BAD_INPUT, "metadata key 3 has 0 bytes (expected 1 to 65535)");
    strcpy(build_entry_at(&build, "ratio")->key, "r\x01");
    expect_refused(ERR_BAD_INPUT, "metadata key 3 is not printable ASCII");

    static const uint32_t alignments[] = {0, 1, 4, 24, 131072, 0x80000000u};
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++) {
        build_u32(&build, "general.alignment", alignments[i]);
        expect_refused(ERR_BAD_INPUT, "(expected a power of two from 8 to 65536)");
    }
    build_string(&build, "general.alignment", "32");
    expect_refused(ERR_BAD_INPUT, "metadata general.alignment is of type string");
    build_end(&build);
}

static void test_hostile_tensors(void **state)
{
    (void)state;
    const uint64_t big = UINT64_C(1) << 33;
    small_start(3);

    build_tensor(&build, "t", DTYPE_F32, 0, NULL);
    expect_refused(ERR_BAD_INPUT, "tensor t has 0 dimensions (expected 1 to 4)");
    build_tensor(&build, "t", DTYPE_F32, 5, (uint64_t[]){1, 1, 1, 1, 1});
    expect_refused(ERR_BAD_INPUT, "tensor t has 5 dimensions");
    build_tensor(&build, "t", DTYPE_F32, 2, (uint64_t[]){1, 0});
    expect_refused(ERR_BAD_INPUT, "tensor t: dimension 1 is 0");
    build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){UINT64_MAX})->placed = true;
    expect_refused(ERR_BAD_INPUT, "tensor t: dimension 0 is 18446744073709551615");
    build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){INT64_MAX})->placed = true;
    expect_refused(ERR_BAD_INPUT, "tensor t: its dimensions overflow");
    build_tensor(&build, "t", DTYPE_F32, 2, (uint64_t[]){big, big})->placed = true;
    expect_refused(ERR_BAD_INPUT, "tensor t: its dimensions overflow");
    /* The bytes wrap to 0: 2^62 values of 4 bytes. */
    build_tensor(&build, "t", DTYPE_F32, 2, (uint64_t[]){big, big >> 4})->placed = true;
    expect_refused(ERR_BAD_INPUT, "tensor t: its dimensions overflow");
    build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){big})->placed = true;
    expect_refused(ERR_BAD_INPUT, "tensor t (34359738368 bytes at offset 0");
    build_tensor(&build, "t", DTYPE_Q4_K, 2, (uint64_t[]){128, 2})->placed = true;
    expect_refused(ERR_BAD_INPUT,
                   "tensor t of type Q4_K has rows of 128 values (expected a multiple of 256)");

    struct build_tensor *tensor = build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){1});
    tensor->placed = true;
    tensor->offset = 4;
    expect_refused(ERR_BAD_INPUT, "tensor t lies at offset 4 (expected a multiple of 32)");
    tensor = build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){1});
    tensor->placed = true;
    tensor->offset = UINT64_MAX - 31;
    expect_refused(ERR_BAD_INPUT, "tensor t (4 bytes at offset 18446744073709551584");
    tensor = build_tensor(&build, "t", 99, 1, (uint64_t[]){1});
    tensor->placed = true;
    tensor->offset = 1 << 20;
    expect_refused(ERR_BAD_INPUT, "tensor t (0 bytes at offset 1048576");

    strcpy(build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){1})->name, "norm");
    expect_refused(ERR_BAD_INPUT, "tensor norm is there twice");
    strcpy(build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){1})->name, "no\nrm");
    expect_refused(ERR_BAD_INPUT, "tensor name 3 is not printable ASCII");
    memset(build_tensor(&build, "t", DTYPE_F32, 1, (uint64_t[]){1})->name, 'x', 65);
    expect_refused(ERR_BAD_INPUT, "tensor name 3 has 65 bytes (expected 1 to 64)");
    build_end(&build);
}

static void test_files(void **state)
{
    (void)state;
    struct gguf *gguf = NULL;
    assert_int_equal(gguf_open("/nowhere/model.gguf", &gguf), ERR_NOT_FOUND);
    assert_non_null(
        strstr(error_text(), "/nowhere/model.gguf: cannot open the model file: No such"));
    assert_int_equal(gguf_open(TEST_DATA_DIR, &gguf), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "not a regular file"));
    assert_int_equal(gguf_open("/dev/null", &gguf), ERR_BAD_INPUT);

    char path[] = "gguf_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(gguf_open(path, &gguf), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "the file is empty"));
    small_start(3);
    build_finish(&build);
    FILE *file = fdopen(fd, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(build.data, 1, build.bytes, file), build.bytes);
    fclose(file);
    build_end(&build);
    assert_int_equal(gguf_open(path, &gguf), OK);
    assert_non_null(gguf_tensor_find(gguf, "matrix"));
    gguf_close(gguf);
    remove(path);
    gguf_close(NULL);
}

static void test_type_names(void **state)
{
    (void)state;
    assert_string_equal(gguf_tensor_type_name(10), "Q2_K");
    assert_null(gguf_tensor_type_name(4));
    assert_null(gguf_tensor_type_name(41));
    assert_null(gguf_tensor_type_name(UINT32_MAX));
    for (uint32_t type = 0; type < 64; type++) {
        if (dtype_known(type))
            assert_string_equal(gguf_tensor_type_name(type), dtype_name((enum dtype)type));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_is_there),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_numbers_of_every_type),
        cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_wrong_heads),
        cmocka_unit_test(test_hostile_metadata),
        cmocka_unit_test(test_hostile_tensors),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_type_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
