/* Batch invariance through the engine: a sequence's logits are the same bits however they come
 * about.
 *
 * The yardstick is one sequence alone, all its tokens in one step, one thread, the best kernels.
 * Everything else is compared with it bit by bit: chunks, company, threads, kernel variants, block
 * numbers, blocks from the prefix cache, a copied partial block.
 */
#include "engine_fixture.h"

#define LENGTH 300 /* more than one partition of attention, no multiple of a block */

struct kind {
    const char *model, *kernels;
    enum engine_kv kv;
};

static const struct kind kinds[] = {
    {"llama3-q4_k", "float", ENGINE_KV_F16},     {"llama3-q4_k", "int8", ENGINE_KV_F16},
    {"qwen2-bf16-tied", "float", ENGINE_KV_F16}, {"qwen2-bf16-tied", "int8", ENGINE_KV_F16},
    {"qwen3-q8_0", "float", ENGINE_KV_F16},      {"qwen3-q8_0", "int8", ENGINE_KV_F16},
    {"llama-q4_1-tied", "float", ENGINE_KV_F16}, {"llama-q4_1-tied", "int8", ENGINE_KV_F16},
    {"llama3-q4_k", "int8", ENGINE_KV_Q8_0},     {"qwen3-q8_0", "float", ENGINE_KV_Q8_0},
    {"llama-q4_1-tied", "int8", ENGINE_KV_Q8_0}, {"qwen2-bf16-tied", "bf16", ENGINE_KV_F16},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))
#if defined(TESTS_EMULATED) /* some twenty times slower: both classes, three types, both pools */
#define KIND_STEP 5
#else
#define KIND_STEP 1
#endif

struct bench {
    struct fixture fixture;
    uint32_t tokens[LENGTH];
    uint32_t others[PARTS_MAX][LENGTH];
    float *expected; /* [LENGTH][vocabulary] */
    uint32_t vocabulary;
};

static uint32_t random_state;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)random_state * bound) >> 32);
}

static struct fixture_config config_of(const struct kind *kind, char path[512])
{
    snprintf(path, 512, "%s/vectors/models/%s.gguf", TEST_DATA_DIR, kind->model);
    return (struct fixture_config){.path = path, .kernels = kind->kernels, .kv = kind->kv};
}

static void compare_rows(const struct bench *bench, const struct fixture *fixture,
                         uint32_t first_output, uint32_t first_position, uint32_t count,
                         const char *what)
{
    for (uint32_t i = 0; i < count; i++) {
        const float *found = engine_logits(fixture->engine, first_output + i);
        const float *expected = bench->expected + (size_t)(first_position + i) * bench->vocabulary;
        for (uint32_t id = 0; id < bench->vocabulary; id++)
            if (memcmp(&found[id], &expected[id], sizeof(float)) != 0)
                fail_msg("%s: position %u, token %u: %a instead of %a", what, first_position + i,
                         id, (double)found[id], (double)expected[id]);
    }
}

static void bench_open(struct bench *bench, const struct kind *kind)
{
    char path[512];
    struct fixture_config config = config_of(kind, path);
    struct run run, *runs[] = {&run};
    fixture_open(&bench->fixture, &config);
    bench->vocabulary = bench->fixture.model->vocabulary;
    assert_true(engine_context_tokens(bench->fixture.engine) >= LENGTH);
    random_state = 12345;
    for (uint32_t i = 0; i < LENGTH; i++) {
        bench->tokens[i] = random_below(bench->vocabulary);
        for (uint32_t other = 0; other < PARTS_MAX; other++)
            bench->others[other][i] = random_below(bench->vocabulary);
    }
    size_t row_bytes = bench->vocabulary * sizeof(float);
    bench->expected = malloc(LENGTH * row_bytes);
    assert_non_null(bench->expected);
    run_open(&run, &bench->fixture);
    struct part part = {bench->tokens, LENGTH, true};
    run_step(&bench->fixture, runs, &part, 1);
    for (uint32_t i = 0; i < LENGTH; i++)
        memcpy(bench->expected + (size_t)i * bench->vocabulary,
               engine_logits(bench->fixture.engine, i), row_bytes);
    run_close(&run, &bench->fixture);
}

static void bench_close(struct bench *bench)
{
    free(bench->expected);
    fixture_close(&bench->fixture);
}

/* chunk 1 is decode, token by token. */
static void in_chunks(const struct bench *bench, struct fixture *fixture, uint32_t chunk,
                      const char *what)
{
    struct run run, *runs[] = {&run};
    run_open(&run, fixture);
    for (uint32_t at = 0; at < LENGTH; at += chunk) {
        uint32_t count = LENGTH - at < chunk ? LENGTH - at : chunk;
        struct part part = {bench->tokens + at, count, true};
        run_step(fixture, runs, &part, 1);
        compare_rows(bench, fixture, 0, at, count, what);
    }
    run_close(&run, fixture);
}

/* Some tokens of the sequence in each step, among parts of others that come and go; tables grow in
 * turns, so that the blocks of one are scattered over the pool. */
static void in_company(const struct bench *bench, struct fixture *fixture, uint32_t company)
{
    struct run all[PARTS_MAX], *runs[PARTS_MAX];
    struct part parts[PARTS_MAX];
    for (uint32_t i = 0; i < company; i++)
        run_open(&all[i], fixture);
    for (uint32_t at = 0; at < LENGTH;) {
        uint32_t count = 1 + random_below(random_below(2) == 0 ? 3 : 40);
        uint32_t place = random_below(company), output = 0;
        count = LENGTH - at < count ? LENGTH - at : count;
        for (uint32_t i = 0; i < company; i++) {
            runs[i] = &all[i];
            if (i == place) {
                parts[i] = (struct part){bench->tokens + at, count, true};
                continue;
            }
            uint32_t of = i < place ? i : i - 1; /* which of the others: all[0] is the sequence */
            runs[i] = &all[of + 1];
            uint32_t more = 1 + random_below(12);
            if (runs[i]->table.token_count + more > LENGTH)
                block_table_drop(&runs[i]->table, fixture->tree);
            parts[i] = (struct part){bench->others[of] + runs[i]->table.token_count, more,
                                     random_below(2) == 0};
            if (i < place && parts[i].logits)
                output += more;
        }
        runs[place] = &all[0];
        run_step(fixture, runs, parts, company);
        compare_rows(bench, fixture, output, at, count, "in company");
        at += count;
    }
    for (uint32_t i = 0; i < company; i++)
        run_close(&all[i], fixture);
}

/* Seal the blocks of one run; another finds them and computes only what is left. */
static void from_cache(const struct bench *bench, struct fixture *fixture)
{
    uint32_t block_tokens = engine_layout(fixture->engine)->shape.block_tokens;
    struct block_key keys[LENGTH];
    uint32_t full = block_key_chain(&fixture->root, bench->tokens, LENGTH, block_tokens, keys);
    struct run run, *runs[] = {&run};
    struct part part = {bench->tokens, LENGTH, false};
    run_open(&run, fixture);
    run_step(fixture, runs, &part, 1);
    for (uint32_t i = 0; i < full; i++) {
        block_id is;
        ASSERT_OK(prefix_tree_insert(fixture->tree, &keys[i], i > 0 ? &keys[i - 1] : NULL,
                                     run.table.ids[i], &is));
    }
    run_close(&run, fixture);

    for (uint32_t want = 1; want <= full; want += 5) {
        block_id found[LENGTH];
        run_open(&run, fixture);
        assert_int_equal(prefix_tree_match(fixture->tree, keys, want, found), want);
        block_table_adopt(&run.table, found, want, want * block_tokens);
        uint32_t at = want * block_tokens;
        part = (struct part){bench->tokens + at, LENGTH - at, true};
        run_step(fixture, runs, &part, 1);
        compare_rows(bench, fixture, 0, at, part.count, "after a prefix hit");
        run_close(&run, fixture);
    }
    prefix_tree_clear(fixture->tree);
}

/* Two sequences share a prompt that ends within a block; each goes its way in its own copy. */
static void after_a_copy(const struct bench *bench, struct fixture *fixture)
{
    enum { SHARED = 41 };
    struct run first, second, *both[] = {&second, &first};
    struct part parts[2] = {{bench->tokens, SHARED, false}};
    run_open(&first, fixture);
    run_open(&second, fixture);
    run_step(fixture, &both[1], parts, 1);
    block_table_share(&second.table, fixture->tree, &first.table);
    for (uint32_t at = SHARED; at < SHARED + 20; at++) {
        parts[0] = (struct part){bench->others[0] + at, 1, true};
        parts[1] = (struct part){bench->tokens + at, 1, true};
        run_step(fixture, both, parts, 2);
        compare_rows(bench, fixture, 1, at, 1, "after a copy");
    }
    run_close(&first, fixture);
    run_close(&second, fixture);
}

static void one_engine_gives_the_same_bits(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 7, 16, 64};
    for (size_t k = 0; k < KIND_COUNT; k += KIND_STEP) {
        struct bench bench;
        bench_open(&bench, &kinds[k]);
        for (size_t i = 0; i < 4; i++)
            in_chunks(&bench, &bench.fixture, chunks[i], "in chunks");
        in_company(&bench, &bench.fixture, 4);
        in_company(&bench, &bench.fixture, 9);
        from_cache(&bench, &bench.fixture);
        after_a_copy(&bench, &bench.fixture);
        bench_close(&bench);
    }
}

/* Other threads, instructions and block sizes: another engine. */
static void other_engines_give_the_same_bits(void **state)
{
    (void)state;
    const char *variants[CPU_VARIANTS_MAX];
    uint32_t variant_count = backend_cpu_variants(variants);
    for (size_t k = 0; k < KIND_COUNT; k += KIND_STEP) {
        struct bench bench;
        struct fixture other;
        char path[512];
        bench_open(&bench, &kinds[k]);
        struct fixture_config config = config_of(&kinds[k], path);
        for (config.threads = 2; config.threads <= 4; config.threads++) {
            fixture_open(&other, &config);
            in_chunks(&bench, &other, 100, "with threads");
            in_company(&bench, &other, 5);
            fixture_close(&other);
        }
        config.threads = 2;
        for (uint32_t v = 0; v < variant_count; v++) {
            config.variant = variants[v];
            fixture_open(&other, &config);
            in_chunks(&bench, &other, 100, variants[v]);
            fixture_close(&other);
        }
        config.variant = NULL;
        for (config.block_tokens = 8; config.block_tokens <= 64; config.block_tokens *= 2) {
            fixture_open(&other, &config);
            in_chunks(&bench, &other, 100, "with other blocks");
            fixture_close(&other);
        }
        bench_close(&bench);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_engine_gives_the_same_bits),
        cmocka_unit_test(other_engines_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
