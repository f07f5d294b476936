/* The CUDA backend against the CPU's float class, model by model: the small ones of the tree and
 * those that BATON_CUDA_MODELS names (paths with : between), teacher-forced on random tokens, as
 * one chunk, as chunks of unequal length and token by token (what graphs replay), three at once and
 * alone.
 *
 * Needs a device: without one, or without the plug-in, it says so and is skipped. */
#include <math.h>
#include <unistd.h>

#include "engine_fixture.h"

#define SKIPPED 77
#define TOKENS 300u
#define RUNS 3u
/* Root mean square difference over that of the logits: activations have 8 (bf16) or 11 bits. */
#define BOUND_BF16 0.04
#define BOUND_F16 0.01

static struct device device;
static const char *paths[32];
static uint32_t path_count;

static const struct {
    const char *name;
    uint32_t chunk; /* 0: all at once */
    bool together;  /* a step has a part of every sequence */
} cuts[] = {{"whole", 0, false}, {"chunks", 37, false}, {"singles", 1, true}, {"alone", 1, false}};
#define CUTS (sizeof(cuts) / sizeof(cuts[0]))

static uint32_t random_below(uint32_t limit)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % limit);
}

/* Logits [count][vocabulary] of RUNS sequences side by side, cut as asked for. */
static float *logits_of(struct fixture *fixture, uint32_t *const tokens[RUNS], uint32_t count,
                        uint32_t chunk, bool side_by_side)
{
    uint32_t vocabulary = engine_vocabulary(fixture->engine);
    float *logits = malloc((size_t)RUNS * count * vocabulary * sizeof(float));
    struct run runs[RUNS];
    assert_non_null(logits);
    for (uint32_t i = 0; i < RUNS; i++)
        run_open(&runs[i], fixture);
    for (uint32_t at = 0; at < count;) {
        uint32_t take = chunk == 0 || chunk > count - at ? count - at : chunk;
        struct part parts[RUNS];
        struct run *of[RUNS];
        uint32_t together = side_by_side ? RUNS : 1; /* a batch of single tokens */
        for (uint32_t first = 0; first < RUNS; first += together) {
            for (uint32_t i = 0; i < together; i++) {
                of[i] = &runs[first + i];
                parts[i] = (struct part){tokens[first + i] + at, take, true};
            }
            run_step(fixture, of, parts, together);
            for (uint32_t i = 0; i < together * take; i++)
                memcpy(logits + ((size_t)(first + i / take) * count + at + i % take) * vocabulary,
                       engine_logits(fixture->engine, i), vocabulary * sizeof(float));
        }
        at += take;
    }
    for (uint32_t i = 0; i < RUNS; i++)
        run_close(&runs[i], fixture);
    return logits;
}

static void tokens_make(uint32_t *tokens[RUNS], uint32_t count, uint32_t vocabulary)
{
    for (uint32_t i = 0; i < RUNS; i++) {
        tokens[i] = malloc(count * sizeof(uint32_t));
        assert_non_null(tokens[i]);
        for (uint32_t k = 0; k < count; k++)
            tokens[i][k] = random_below(vocabulary);
    }
}

static double difference(const float *found, const float *expected, size_t count)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)found[i] - (double)expected[i];
        off += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(off / size);
}

static struct fixture_config config_of(const char *path, bool on_device, bool deterministic)
{
    return (struct fixture_config){.path = path,
                                   .kernels = "float",
                                   .threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN),
                                   .context_tokens = 512,
                                   .kv = ENGINE_KV_F16,
                                   .device = on_device ? &device : NULL,
                                   .deterministic = deterministic};
}

static uint32_t length_of(const struct fixture *fixture)
{
    uint32_t most = engine_context_tokens(fixture->engine);
    return most < TOKENS ? most : TOKENS;
}

static void near_the_cpu(void **state)
{
    (void)state;
    for (uint32_t m = 0; m < path_count; m++) {
        struct fixture cpu, cuda;
        struct fixture_config config = config_of(paths[m], false, false);
        uint32_t *tokens[RUNS];
        fixture_open(&cpu, &config);
        config.device = &device;
        fixture_open(&cuda, &config);
        uint32_t count = length_of(&cpu), vocabulary = engine_vocabulary(cpu.engine);
        tokens_make(tokens, count, vocabulary);
        float *expected = logits_of(&cpu, tokens, count, 0, false);
        const char *class = engine_numerics_class(cuda.engine);
        double bound = strncmp(class, "cuda-bf16", 9) == 0 ? BOUND_BF16 : BOUND_F16;
        for (uint32_t c = 0; c < CUTS; c++) {
            float *found = logits_of(&cuda, tokens, count, cuts[c].chunk, cuts[c].together);
            double off = difference(found, expected, (size_t)RUNS * count * vocabulary);
            print_message("%-40s %-10s %-8s off by %.5f of root mean square\n",
                          strrchr(paths[m], '/') + 1, class, cuts[c].name, off);
            free(found);
            assert_true(off <= bound);
        }
        for (uint32_t i = 0; i < RUNS; i++)
            free(tokens[i]);
        free(expected);
        fixture_close(&cuda);
        fixture_close(&cpu);
    }
}

static void deterministic_bits_do_not_depend_on_the_cut(void **state)
{
    (void)state;
    for (uint32_t m = 0; m < path_count; m++) {
        struct fixture cuda;
        struct fixture_config config = config_of(paths[m], true, true);
        uint32_t *tokens[RUNS];
        fixture_open(&cuda, &config);
        uint32_t count = length_of(&cuda), vocabulary = engine_vocabulary(cuda.engine);
        size_t values = (size_t)RUNS * count * vocabulary;
        tokens_make(tokens, count, vocabulary);
        float *expected = logits_of(&cuda, tokens, count, 0, false);
        for (uint32_t c = 1; c < CUTS; c++) {
            float *found = logits_of(&cuda, tokens, count, cuts[c].chunk, cuts[c].together);
            if (memcmp(found, expected, values * sizeof(float)) != 0)
                fail_msg("%s: %s differ from the whole by %.3g", paths[m], cuts[c].name,
                         difference(found, expected, values));
            free(found);
        }
        for (uint32_t i = 0; i < RUNS; i++)
            free(tokens[i]);
        free(expected);
        fixture_close(&cuda);
    }
}

/* The device's pick is the sampler's, greedy and drawn. */
static void picks_are_the_samplers(void **state)
{
    (void)state;
    struct fixture cuda;
    struct fixture_config config = config_of(paths[0], true, false);
    fixture_open(&cuda, &config);
    uint32_t vocabulary = engine_vocabulary(cuda.engine), tokens[8], equal = 0;
    float *logits = malloc(vocabulary * sizeof(float));
    struct sampler *sampler;
    assert_non_null(logits);
    ASSERT_OK(sampler_open(vocabulary, &sampler));
    for (uint32_t round = 0; round < 200; round++) {
        struct run run;
        struct block_copy copy;
        struct sampling sampling;
        struct sampled expected;
        run_open(&run, &cuda);
        for (uint32_t i = 0; i < 8; i++)
            tokens[i] = random_below(vocabulary);
        sampling_defaults(&sampling);
        sampling.temperature = round % 4 == 0 ? 0.0f : (float)(round % 4);
        sampling.seed = round * 7919u;
        struct engine_sample sample = {.sampling = &sampling};
        ASSERT_OK(block_table_reserve(&run.table, cuda.tree, 8, &copy));
        struct engine_sequence sequence = {.token_ids = tokens,
                                           .token_count = 8,
                                           .table = &run.table,
                                           .sample_count = 1,
                                           .samples = &sample};
        ASSERT_OK(engine_step(cuda.engine, &sequence, 1, NULL, NULL));
        memcpy(logits, engine_logits(cuda.engine, 0), vocabulary * sizeof(float));
        const struct sampler_row row = {.logits = logits, .position = 8};
        ASSERT_OK(sampler_pick(sampler, &sampling, &row, &expected));
        equal += expected.token_id == sample.result.token_id;
        run_close(&run, &cuda);
    }
    assert_int_equal(equal, 200);
    sampler_close(sampler);
    free(logits);
    fixture_close(&cuda);
}

static void paths_find(void)
{
    static char texts[9][512], given[4096];
    static const char *const models[] = {
        "llama-f32-tied",  "llama-q4_0", "llama-q4_1-tied", "llama3-f16", "llama3-q4_k",
        "qwen2-bf16-tied", "qwen2-q5_k", "qwen3-q6_k-tied", "qwen3-q8_0",
    };
    const char *folder =
        getenv("BATON_TEST_DATA") != NULL ? getenv("BATON_TEST_DATA") : TEST_DATA_DIR;
    for (uint32_t i = 0; i < 9; i++) {
        snprintf(texts[i], sizeof(texts[i]), "%s/vectors/models/%s.gguf", folder, models[i]);
        paths[path_count++] = texts[i];
    }
    if (getenv("BATON_CUDA_MODELS") == NULL)
        return;
    snprintf(given, sizeof(given), "%s", getenv("BATON_CUDA_MODELS"));
    for (char *at = strtok(given, ":"); at != NULL && path_count < 32; at = strtok(NULL, ":"))
        paths[path_count++] = at;
}

int main(void)
{
    uint64_t available;
    status code = device_find("cuda", getenv("BATON_CUDA_PLUGIN"), &device);
    if (code == OK)
        code = device_memory(&device, &available);
    if (code != OK) {
        printf("skipped: the CUDA backend was not run here: %s\n", error_text());
        return SKIPPED;
    }
    paths_find();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_the_cpu),
        cmocka_unit_test(deterministic_bits_do_not_depend_on_the_cut),
        cmocka_unit_test(picks_are_the_samplers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
