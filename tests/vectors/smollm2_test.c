/* SmolLM2-135M-Instruct: logits against an independent implementation, and what it says. */
#include "logits_check.h"

#include <unistd.h>

#include "base/cpus.h"
#include "model/tokenizer.h"

#define TOP_SHARE 0.98
#define MODEL MODEL_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"
#define GOLDEN TEST_DATA_DIR "/vectors/logits/smollm2.golden"
#define GOLDEN_FAR TEST_DATA_DIR "/vectors/logits/smollm2-far.golden"

#define THREADS_MAX 8

/* As many threads as there are cores, for the sake of the sanitizers: logits do not depend on it
 * (vectors.invariance). */
static struct fixture_config float_config = {
    .path = MODEL, .kernels = "float", .rows_max = 64, .context_tokens = 1024};
static struct fixture_config int8_config = {
    .path = MODEL, .kernels = "int8", .rows_max = 64, .context_tokens = 1024};

/* ThreadSanitizer and emulation make a step some fifty times slower: there the first sentence is
 * enough, for what they look for is within one step. */
#if defined(__SANITIZE_THREAD__) || defined(TESTS_EMULATED)
#define POSITIONS_MIN 5
static void compare_all(struct logits_report *report, const struct fixture_config *config,
                        bool greedy)
{
    (void)greedy;
    compare_file(report, GOLDEN, config, false, 1);
}
#else
#define POSITIONS_MIN 100
static void compare_all(struct logits_report *report, const struct fixture_config *config,
                        bool greedy)
{
    compare_file(report, GOLDEN, config, greedy, UINT32_MAX);
    compare_file(report, GOLDEN_FAR, config, false, UINT32_MAX);
}
#endif

static void compare_float(enum engine_kv kv, double bound, bool greedy)
{
    struct logits_report report = {.worst = 0.0};
    struct fixture_config config = float_config;
    config.kv = kv;
    compare_all(&report, &config, greedy);
    print_message("float: %u positions, largest difference %.6f (%s), of the sum %.6f\n",
                  report.positions, report.worst, report.where, report.worst_sum);
    assert_true(report.positions >= POSITIONS_MIN);
    assert_true(report.worst <= bound);
    assert_true(report.worst_sum <= bound);
}

static void float_class_is_within_its_bound(void **state)
{
    (void)state;
    compare_float(engine_kv_choose("auto", "float"), LOGIT_BOUND, true);
}

static void float_class_with_a_half_pool_is_near(void **state)
{
    (void)state;
    compare_float(ENGINE_KV_F16, KV_BOUND, false);
}

static void int8_class_picks_the_same_tokens(void **state)
{
    (void)state;
    struct logits_report report = {.worst = 0.0};
    compare_all(&report, &int8_config, false);
    print_message("int8: %u of %u top tokens equal, difference %.4f root mean square, %.4f at most "
                  "(%s)\n",
                  report.top_equal, report.positions,
                  sqrt(report.square_sum / (double)report.compared), report.worst, report.where);
    assert_true(report.top_equal >= TOP_SHARE * report.positions);
}

/* Text to tokens to the engine's sampler to text, in the class that people run. */
static void says_where_paris_is(void **state)
{
    (void)state;
    static const char prompt[] = "The capital of France is";
    struct fixture fixture;
    struct tokenizer *tokenizer;
    struct token_list tokens = {0};
    struct sampling sampling;
    struct run run;
    uint32_t said[8], said_count = 0;
    fixture_open(&fixture, &int8_config);
    ASSERT_OK(model_tokenizer_open(fixture.model, &tokenizer));
    ASSERT_OK(tokenizer_encode(tokenizer, prompt, strlen(prompt), TOKENIZER_ADD_BOS, 64, &tokens));
    sampling_defaults(&sampling);
    run_open(&run, &fixture);

    const uint32_t *next = tokens.ids;
    uint32_t next_count = (uint32_t)tokens.count;
    while (said_count < 8) {
        struct engine_sample sample = {.sampling = &sampling, .output_count = said_count};
        struct block_copy copy;
        ASSERT_OK(block_table_reserve(&run.table, fixture.tree, next_count, &copy));
        struct engine_sequence sequence = {.token_ids = next,
                                           .token_count = next_count,
                                           .start_position = run.table.token_count,
                                           .table = &run.table,
                                           .sample_count = 1,
                                           .samples = &sample};
        ASSERT_OK(engine_step(fixture.engine, &sequence, 1, NULL, NULL));
        block_table_advance(&run.table, next_count);
        said[said_count] = sample.result.token_id;
        next = &said[said_count++];
        next_count = 1;
    }
    char *text;
    size_t bytes;
    ASSERT_OK(tokenizer_decode(tokenizer, said, said_count, true, &text, &bytes));
    print_message("\"%s\" goes on: \"%s\"\n", prompt, text);
    assert_int_equal(strncmp(text, " Paris", 6), 0);
    free(text);
    run_close(&run, &fixture);
    token_list_close(&tokens);
    tokenizer_close(tokenizer);
    fixture_close(&fixture);
}

int main(void)
{
    if (access(MODEL, R_OK) != 0) {
        printf("skipped: %s is not there; \"make model\" fetches it\n", MODEL);
        return 77;
    }
    struct cpus cpus;
    cpus_allowed(&cpus);
    float_config.threads = int8_config.threads =
        cpus.count < THREADS_MAX ? cpus.count : THREADS_MAX;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_class_is_within_its_bound),
        cmocka_unit_test(float_class_with_a_half_pool_is_near),
        cmocka_unit_test(int8_class_picks_the_same_tokens),
        cmocka_unit_test(says_where_paris_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
