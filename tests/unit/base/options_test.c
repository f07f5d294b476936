/* Options: every type, form, limit and source, and the messages people meet when they mistype. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/options.h"

struct sample {
    bool verbose, warm;
    uint32_t batch;
    uint64_t cache_bytes, wait_ms;
    double rate;
    const char *router, *key;
    struct option_texts goals;
    uint32_t kernels;
};

#define FIELD(name) offsetof(struct sample, name)

static const struct option_spec specs[] = {
    {"verbose", OPTION_FLAG, NULL, NULL, 0, 0, FIELD(verbose), "say more"},
    {"warm", OPTION_FLAG, NULL, "yes", 0, 0, FIELD(warm), "warm up first"},
    {"decode-batch", OPTION_UINT, "N", "64", 1, 1024, FIELD(batch), "most sequences in a step"},
    {"cache", OPTION_BYTES, "BYTES", "1.5K", 1024, 1024.0 * 1024 * 1024, FIELD(cache_bytes),
     "bytes of cache"},
    {"wait", OPTION_SECONDS, "TIME", "2s", 1, 60000, FIELD(wait_ms), "how long to wait"},
    {"rate", OPTION_REAL, "PER-SECOND", "inf", 0, INFINITY, FIELD(rate), "requests a second"},
    {"router", OPTION_TEXT, "ADDR", "127.0.0.1:8001", 0, 0, FIELD(router), "where the router is"},
    {"key", OPTION_TEXT, "TEXT", NULL, 0, 0, FIELD(key), NULL},
    {"goal", OPTION_TEXTS, "NAME:MS", NULL, 0, 0, FIELD(goals), "what counts as good"},
    {"kernels", OPTION_CHOICE, "auto|float|avx2", "auto", 0, 0, FIELD(kernels), "which kernels"},
};

static const struct command_spec command = {
    .name = "sample",
    .operands = "MODEL",
    .summary = "a command for tests",
    .details = "First paragraph.\n\n.Second one begins like a troff request.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct sample),
    .operands_min = 1,
    .operands_max = 2,
};

static struct sample sample;
static const char *operands[16];
static uint32_t operand_count;
static bool help;

/* Parse words, which spaces separate. What options point to must outlive the call. */
static status parse(const char *words)
{
    static char copies[512][128];
    static char *pieces[4096];
    static unsigned copy_next;
    static unsigned piece_next;
    char **argv = pieces + piece_next;
    int argc = 0;
    char *copy = copies[copy_next++];
    assert_true(copy_next < 512 && piece_next < 4000);
    snprintf(copy, 128, "%s", words);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    piece_next += (unsigned)argc;
    return options_parse(&command, argc, argv, &sample, operands, &operand_count, &help);
}

static void assert_refused(const char *words, const char *message_part)
{
    status st = parse(words);
    if (st != ERR_BAD_INPUT || strstr(error_text(), message_part) == NULL)
        fail_msg("\"%s\": status %d, message \"%s\", expected \"%s\"", words, st, error_text(),
                 message_part);
}

static void test_defaults(void **state)
{
    (void)state;
    assert_int_equal(parse("m.gguf"), OK);
    assert_false(sample.verbose);
    assert_true(sample.warm);
    assert_int_equal(sample.batch, 64);
    assert_int_equal(sample.cache_bytes, 1536);
    assert_int_equal(sample.wait_ms, 2000);
    assert_true(isinf(sample.rate));
    assert_string_equal(sample.router, "127.0.0.1:8001");
    assert_null(sample.key);
    assert_int_equal(sample.goals.count, 0);
    assert_int_equal(sample.kernels, 0);
    assert_int_equal(operand_count, 1);
    assert_string_equal(operands[0], "m.gguf");
}

static void test_forms(void **state)
{
    (void)state;
    assert_int_equal(parse("--decode-batch=8 a --verbose --no-warm --cache 64K --wait 500ms b"),
                     OK);
    assert_int_equal(sample.batch, 8);
    assert_true(sample.verbose);
    assert_false(sample.warm);
    assert_int_equal(sample.cache_bytes, 65536);
    assert_int_equal(sample.wait_ms, 500);
    assert_int_equal(operand_count, 2);
    assert_string_equal(operands[1], "b");
    assert_int_equal(parse("--warm=no --rate 2.5 --key= --kernels avx2 -- --a"), OK);
    assert_false(sample.warm);
    assert_true(sample.rate == 2.5);
    assert_string_equal(sample.key, "");
    assert_int_equal(sample.kernels, 2);
    assert_string_equal(operands[0], "--a");
    assert_int_equal(parse("--goal ttft:500 m --goal=tpot:30 -"), OK);
    assert_int_equal(sample.goals.count, 2);
    assert_string_equal(sample.goals.items[0], "ttft:500");
    assert_string_equal(sample.goals.items[1], "tpot:30");
    assert_string_equal(operands[1], "-");
    assert_int_equal(parse("--decode-batch 8 --decode-batch 9 m"), OK);
    assert_int_equal(sample.batch, 9);
}

static void test_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t value;
    } bytes[] = {{"1024", 1024}, {"1K", 1024}, {"0.5M", 524288}, {"1G", 1u << 30}},
      times[] = {{"1", 1000}, {"0.25", 250}, {"1ms", 1}, {"1m", 60000}, {"1.5s", 1500}};
    char words[64];
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        snprintf(words, sizeof(words), "m --cache %s", bytes[i].text);
        assert_int_equal(parse(words), OK);
        assert_int_equal(sample.cache_bytes, bytes[i].value);
    }
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        snprintf(words, sizeof(words), "m --wait %s", times[i].text);
        assert_int_equal(parse(words), OK);
        assert_int_equal(sample.wait_ms, times[i].value);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    assert_refused("m --decode-batch 0", "--decode-batch: expected a whole number from 1 to 1024, "
                                         "found \"0\"");
    assert_refused("m --decode-batch 1025", "found \"1025\"");
    assert_refused("m --decode-batch 4294967297", "found");
    assert_refused("m --decode-batch -1", "found \"-1\"");
    assert_refused("m --decode-batch 1.5", "found \"1.5\"");
    assert_refused("m --decode-batch= ", "found \"\"");
    assert_refused("m --cache 1X", "expected a number of bytes");
    assert_refused("m --cache 1023", "from 1K to 1G");
    assert_refused("m --cache -1K", "found \"-1K\"");
    assert_refused("m --cache 99999999999T", "found");
    assert_refused("m --cache 1e3000", "found");
    assert_refused("m --wait 61s", "from 1ms to 1m");
    assert_refused("m --wait nan", "found \"nan\"");
    assert_refused("m --rate nan", "found \"nan\"");
    assert_refused("m --rate 0x10", "found \"0x10\"");
    assert_refused("m --rate -1", "found \"-1\"");
    assert_refused("m --rate 1x", "found \"1x\"");
    assert_refused("m --kernels avx", "expected one of auto|float|avx2, found \"avx\"");
    assert_refused("m --verbose=perhaps", "expected yes or no");
    assert_refused("m --no-verbose=yes", "takes no value");
    assert_refused("m --router", "--router needs a value: --router ADDR");
    assert_refused("m --router --verbose", "--router needs a value");
    assert_refused("m --config", "--config needs a value: --config FILE");
    assert_refused("--verbose", "MODEL is missing");
    assert_refused("a b c", "unexpected \"c\"");
    assert_refused("-x m", "unknown option -x");
}

static void test_nearest(void **state)
{
    (void)state;
    assert_refused("m --decode-bach 3", "did you mean --decode-batch?");
    assert_refused("m --ruoter=x", "did you mean --router?");
    assert_refused("m --dec 1", "did you mean --decode-batch?");
    assert_refused("m --zzzzzzzz 3", "\"baton sample --help\" lists");
    assert_refused("m --keys 3", "lists"); /* a hidden option is not offered */
    assert_refused("m --no-router", "unknown option --no-router");
    /* Longer than any buffer in the way. */
    assert_refused(
        "m --aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "unknown option --aaaa");
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_file(void **state)
{
    (void)state;
    char path[] = "/tmp/options_testXXXXXX";
    char words[128];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_file(path, "# a comment\n\n decode-batch = 32 \nrouter=\"unix:/a b\"\r\nverbose = yes\n"
                     "goal = a:1\ngoal = b:2\ncache=2K");
    snprintf(words, sizeof(words), "m --config %s --decode-batch 7", path);
    assert_int_equal(parse(words), OK);
    assert_int_equal(sample.batch, 7);
    assert_string_equal(sample.router, "unix:/a b");
    assert_true(sample.verbose);
    assert_int_equal(sample.goals.count, 2);
    assert_int_equal(sample.cache_bytes, 2048);
    snprintf(words, sizeof(words), "--goal c:3 --no-verbose m --config=%s", path);
    assert_int_equal(parse(words), OK);
    assert_int_equal(sample.batch, 32);
    assert_false(sample.verbose);
    assert_int_equal(sample.goals.count, 1);
    assert_string_equal(sample.goals.items[0], "c:3");

    write_file(path, "decode-batch = 32\ndecode-batsh = 3\n");
    assert_refused(words, ":2: unknown option decode-batsh; did you mean decode-batch?");
    write_file(path, "decode-batch = 0\n");
    assert_refused(words, ":1: decode-batch: expected a whole number from 1 to 1024");
    write_file(path, "decode-batch\n");
    assert_refused(words, "expected name = value");
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 5000; i++)
        fputc('#', file);
    fclose(file);
    assert_refused(words, "a line has at most");
    unlink(path);
    assert_int_equal(parse(words), ERR_NOT_FOUND);
    assert_non_null(strstr(error_text(), path));
}

static void test_help(void **state)
{
    (void)state;
    assert_int_equal(parse("--nonsense --help"), OK);
    assert_true(help);
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    options_help(&command, to);
    fclose(to);
    for (size_t i = 0; i < command.option_count; i++) {
        char name[64];
        snprintf(name, sizeof(name), "--%s", specs[i].name);
        assert_true((strstr(text, name) != NULL) == (specs[i].help != NULL));
    }
    assert_non_null(strstr(text, "usage: baton sample [options] MODEL"));
    assert_non_null(strstr(text, "(1 to 1024; default 64)"));
    assert_non_null(strstr(text, "(1K to 1G; default 1.5K)"));
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 80);
    free(text);

    to = open_memstream(&text, &bytes);
    options_man(&command, to);
    fclose(to);
    assert_non_null(strstr(text, ".TH BATON\\-SAMPLE 1"));
    assert_non_null(strstr(text, "\\-\\-decode\\-batch \\fIN\\fR"));
    assert_non_null(strstr(text, "\n\\&.Second one"));
    assert_null(strstr(text, "\\-\\-key"));
    free(text);
}

static void test_word_of_a_choice(void **state)
{
    static const char words[] = "auto|off|interleave";
    int bytes;
    (void)state;
    assert_ptr_equal(option_word(words, 0, &bytes), words);
    assert_int_equal(bytes, 4);
    assert_memory_equal(option_word(words, 1, &bytes), "off", 3);
    assert_int_equal(bytes, 3);
    assert_string_equal(option_word(words, 2, &bytes), "interleave");
    assert_int_equal(bytes, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_word_of_a_choice),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
