/* The small models of every architecture and type against an independent implementation. */
#include "logits_check.h"

#define TOP_SHARE 0.98 /* of the faster classes, of equal top tokens */
#define BF16_BOUND 0.2 /* of any logit of the class cpu-bf16; 0.07 found */

/* GGUF files and directories. The golden of a directory whose vectors are F32 is the GGUF file's.
 */
static const struct {
    const char *path, *golden;
} models[] = {
    {"models/llama-f32-tied.gguf", "llama-f32-tied"},
    {"models/llama-q4_0.gguf", "llama-q4_0"},
    {"models/llama-q4_1-tied.gguf", "llama-q4_1-tied"},
    {"models/llama3-f16.gguf", "llama3-f16"},
    {"models/llama3-q4_k.gguf", "llama3-q4_k"},
    {"models/qwen2-bf16-tied.gguf", "qwen2-bf16-tied"},
    {"models/qwen2-q5_k.gguf", "qwen2-q5_k"},
    {"models/qwen3-q6_k-tied.gguf", "qwen3-q6_k-tied"},
    {"models/qwen3-q8_0.gguf", "qwen3-q8_0"},
    {"directories/llama-f32-tied", "llama-f32-tied"},
    {"directories/llama3-f16", "llama3-f16.dir"},
    {"directories/qwen2-bf16-tied", "qwen2-bf16-tied.dir"},
    {"directories/qwen3-f32", "qwen3-q8_0"},
};
#define MODEL_COUNT (sizeof(models) / sizeof(models[0]))

static void compare_model(struct logits_report *report, size_t index, const char *kernels,
                          enum engine_kv kv)
{
    char model[512], golden[512];
    snprintf(model, sizeof(model), "%s/vectors/%s", TEST_DATA_DIR, models[index].path);
    snprintf(golden, sizeof(golden), "%s/vectors/logits/%s.golden", TEST_DATA_DIR,
             models[index].golden);
    const struct fixture_config config = {
        .path = model, .kernels = kernels, .rows_max = 64, .kv = kv};
    compare_file(report, golden, &config, strcmp(kernels, "float") == 0, UINT32_MAX);
}

static void compare_float(enum engine_kv kv, double bound)
{
    for (size_t i = 0; i < MODEL_COUNT; i++) {
        struct logits_report report = {.worst = 0.0};
        compare_model(&report, i, "float", kv);
        print_message("%-28s %u positions, largest difference %.6f (%s), of the sum %.6f\n",
                      models[i].path, report.positions, report.worst, report.where,
                      report.worst_sum);
        assert_true(report.positions > 60);
        assert_true(report.worst <= bound);
        assert_true(report.worst_sum <= bound);
    }
}

static void float_class_is_within_its_bound(void **state)
{
    (void)state;
    compare_float(engine_kv_choose("auto", "float"), LOGIT_BOUND);
}

static void float_class_with_a_half_pool_is_near(void **state)
{
    (void)state;
    compare_float(ENGINE_KV_F16, KV_BOUND);
}

/* Of the models whose path has the word. */
static void compare_top(const char *kernels, const char *word, double bound)
{
    uint32_t equal = 0, positions = 0;
    for (size_t i = 0; i < MODEL_COUNT; i++) {
        struct logits_report report = {.worst = 0.0};
        if (strstr(models[i].path, word) == NULL)
            continue;
        compare_model(&report, i, kernels, ENGINE_KV_F16);
        print_message("%-28s %u of %u top tokens equal, difference %.4f root mean square, %.4f at "
                      "most (%s)\n",
                      models[i].path, report.top_equal, report.positions,
                      sqrt(report.square_sum / (double)report.compared), report.worst,
                      report.where);
        assert_true(report.worst <= bound);
        equal += report.top_equal;
        positions += report.positions;
    }
    print_message("%s: %u of %u top tokens equal\n", kernels, equal, positions);
    assert_true(positions > 0 && equal >= TOP_SHARE * positions);
}

static void int8_class_picks_the_same_tokens(void **state)
{
    (void)state;
    compare_top("int8", "", INFINITY);
}

static void bf16_class_picks_the_same_tokens(void **state)
{
    (void)state;
    compare_top("bf16", "bf16", BF16_BOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_class_is_within_its_bound),
        cmocka_unit_test(float_class_with_a_half_pool_is_near),
        cmocka_unit_test(int8_class_picks_the_same_tokens),
        cmocka_unit_test(bf16_class_picks_the_same_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
