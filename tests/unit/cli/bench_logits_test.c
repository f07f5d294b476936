/* A file of log-probabilities: read back as written, and refused by name when it is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "cli/bench_logits.h"

#define VOCABULARY 3u /* odd: rows are padded */
#define CONTEXT 6u

static char path[] = "/tmp/baton-logits-XXXXXX";

/* A head with these numbers, CONTEXT ids, and rows of 8 + 2 * (VOCABULARY + 1) bytes. */
static void file_write(const char *magic, uint32_t context, uint32_t vocabulary, uint32_t chunks,
                       uint32_t rows, float scale)
{
    uint8_t bytes[256];
    struct writer w = writer_over(bytes, sizeof(bytes));
    write_bytes(&w, magic, 8);
    write_u32(&w, context);
    write_u32(&w, vocabulary);
    write_u32(&w, chunks);
    for (uint32_t i = 0; i < CONTEXT; i++)
        write_u32(&w, 10 + i);
    for (uint32_t row = 0; row < rows; row++) {
        write_f32(&w, scale);
        write_f32(&w, -9);
        write_u16(&w, 0);
        write_u16(&w, (uint16_t)(row + 1));
        write_u16(&w, 65535);
        write_u16(&w, 0xffff);
    }
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, sizeof(bytes) - w.left, file), sizeof(bytes) - w.left);
    assert_int_equal(fclose(file), 0);
}

static void test_read(void **state)
{
    (void)state;
    struct logits_file file;
    float log_q[VOCABULARY];
    file_write("_logits_", CONTEXT, VOCABULARY, 1, 2, 0.0001f);
    assert_int_equal(logits_file_open(path, VOCABULARY, &file), OK);
    assert_int_equal(file.context_tokens, CONTEXT);
    assert_int_equal(file.chunk_count, 1);
    assert_int_equal(file.token_ids[5], 15);
    assert_int_equal(logits_first(CONTEXT), 3);
    assert_int_equal(logits_count(CONTEXT), 2);
    for (uint32_t row = 0; row < 2; row++) {
        assert_int_equal(logits_file_next(&file, log_q), OK);
        assert_true(log_q[0] == -9);
        assert_true(fabsf(log_q[1] - (-9 + 0.0001f * (float)(row + 1))) < 1e-6f);
        assert_true(fabsf(log_q[2] - (-9 + 6.5535f)) < 1e-5f);
    }
    assert_int_equal(logits_file_next(&file, log_q), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "another position"));
    logits_file_close(&file);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *magic;
        uint32_t context, vocabulary, chunks;
        const char *said;
    } cases[] = {
        {"_logits-", CONTEXT, VOCABULARY, 1, "begins otherwise"},
        {"_logits_", CONTEXT, VOCABULARY + 1, 1, "vocabulary of 3, found 4"},
        {"_logits_", 3, VOCABULARY, 1, "found 3 and 1"},
        {"_logits_", UINT32_MAX, VOCABULARY, UINT32_MAX, "chunks, found"},
        {"_logits_", CONTEXT, VOCABULARY, 2, "token ids"},
    };
    struct logits_file file;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        file_write(cases[i].magic, cases[i].context, cases[i].vocabulary, cases[i].chunks, 0, 0);
        assert_int_equal(logits_file_open(path, VOCABULARY, &file), ERR_BAD_INPUT);
        assert_non_null(strstr(error_text(), cases[i].said));
    }
    float log_q[VOCABULARY];
    file_write("_logits_", CONTEXT, VOCABULARY, 1, 1, NAN);
    assert_int_equal(logits_file_open(path, VOCABULARY, &file), OK);
    assert_int_equal(logits_file_next(&file, log_q), ERR_BAD_INPUT);
    logits_file_close(&file);
    assert_int_equal(logits_file_open("/nonexistent", VOCABULARY, &file), ERR_NOT_FOUND);
}

static void test_round(void **state)
{
    (void)state;
    float near[] = {-0.5f, -1, -8.4999f, -40};
    logits_round(near, 4);
    assert_true(near[0] == -0.5f);
    for (uint32_t i = 1; i < 3; i++)
        assert_true(fabsf(near[i] - (i == 1 ? -1 : -8.4999f)) < 16 / 65535.0f);
    assert_true(near[3] == -16.5f); /* nothing is told apart below the largest - 16 */
    float flat[] = {-1, -1};
    logits_round(flat, 2);
    assert_true(flat[0] == -1 && flat[1] == -1);
}

static int path_make(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd >= 0 ? close(fd) : -1;
}

static int path_remove(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_round),
    };
    return cmocka_run_group_tests(tests, path_make, path_remove);
}
