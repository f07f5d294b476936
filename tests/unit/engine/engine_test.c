/* Plans, refusals and what a step gives back; the numbers themselves are tests/vectors' matter. */
#include "../../vectors/engine_fixture.h"

#include <math.h>

#include "engine/warm.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama-q4_0.gguf"

static void a_plan_is_a_sum(void **state)
{
    (void)state;
    struct model *model;
    struct engine_plan plan;
    char text[256];
    ASSERT_OK(weights_open(MODEL, &model));
    const struct engine_config config = {.kv_bytes = 1u << 24, .rows_max = 128};
    ASSERT_OK(engine_plan(model, &config, &plan));
    assert_int_equal(plan.total_bytes, plan.weight_bytes + plan.pool_bytes + plan.activation_bytes);
    assert_int_equal(plan.weight_bytes, model->weight_bytes);
    assert_int_equal(plan.block_count, (1u << 24) / plan.layout->block_bytes);
    assert_int_equal(plan.pool_bytes, plan.block_count * plan.layout->block_bytes);
    assert_int_equal(plan.limits.rows_max, 128);
    assert_int_equal(plan.limits.outputs_max, plan.limits.sequences_max);
    assert_int_equal(plan.limits.table_blocks_max, kv_blocks_for(plan.context_tokens, 16));
    assert_int_equal(plan.shape.kv_head_count, model->kv_head_count);
    assert_true(plan.available_bytes > plan.total_bytes);
    assert_non_null(strstr(engine_plan_text(&plan, text, sizeof(text)), "KV pool 16.0 MiB"));
    engine_plan_close(&plan);

    /* The default has room for one whole context and more. */
    ASSERT_OK(engine_plan(model, &(struct engine_config){0}, &plan));
    assert_int_equal(plan.context_tokens, model->context_tokens);
    assert_int_equal(plan.block_count, 4 * plan.limits.table_blocks_max);
    engine_plan_close(&plan);
    weights_close(model);
}

static void a_plan_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const struct {
        struct engine_config config;
        status code;
        const char *word;
    } refused[] = {
        {{.kv_bytes = 4096}, ERR_BAD_INPUT, "one context"},
        {{.context_tokens = 1u << 30}, ERR_BAD_INPUT, "trained for"},
        {{.block_tokens = 1u << 20}, ERR_BAD_INPUT, "block tokens"},
        {{.rows_max = 1u << 20}, ERR_BAD_INPUT, "a step"},
        {{.kv_bytes = 1ull << 46}, ERR_NO_MEMORY, "weights"},
        {{.kv_bytes = UINT64_MAX}, ERR_NO_MEMORY, "KV pool"},
        {{.swap_bytes = 1}, ERR_BAD_INPUT, "swap: expected at least"},
    };
    struct model *model;
    struct engine_plan plan;
    ASSERT_OK(weights_open(MODEL, &model));
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(engine_plan(model, &refused[i].config, &plan), refused[i].code);
        assert_non_null(strstr(error_text(), refused[i].word));
    }
    weights_close(model);
}

/* Room for blocks that give way: whole blocks, not over a quarter of what is left, and not more
 * than all sequences could fill. */
static void swap_is_bounded(void **state)
{
    (void)state;
    struct model *model;
    struct engine_plan plan;
    ASSERT_OK(weights_open(MODEL, &model));
    ASSERT_OK(engine_plan(model, &(struct engine_config){0}, &plan));
    uint64_t block = plan.layout->block_bytes;
    uint32_t most = plan.limits.sequences_max * plan.limits.table_blocks_max;
    uint64_t sum = plan.total_bytes, roomy = 16 * sum;
    assert_int_equal(plan.swap_slots, 0);
    engine_plan_close(&plan);
    const struct {
        uint64_t swap_bytes, available_bytes;
        uint32_t slots;
    } cases[] = {
        {block, 0, 1},         {2 * block - 1, 0, 1},     {7 * block, 0, 7},
        {7 * block, roomy, 7}, {UINT64_MAX, roomy, most},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct engine_config config = {.swap_bytes = cases[i].swap_bytes,
                                             .available_bytes = cases[i].available_bytes};
        ASSERT_OK(engine_plan(model, &config, &plan));
        assert_int_equal(plan.swap_slots, cases[i].slots);
        assert_int_equal(plan.total_bytes, sum);
        engine_plan_close(&plan);
    }
    weights_close(model);
}

static uint32_t layers_heard;

static void hear_layer(void *ctx, uint32_t layer)
{
    (void)ctx;
    assert_int_equal(layer, layers_heard);
    layers_heard++;
}

/* Three samples of one prompt, prompt log-probabilities and a silent chunk, in one step. */
static void a_step_gives_what_is_wanted(void **state)
{
    (void)state;
    struct fixture fixture;
    static const uint32_t tokens[] = {5, 17, 99, 3, 42, 250, 7};
    fixture_open(&fixture, &(struct fixture_config){.path = MODEL, .kernels = "float"});
    struct run runs[3];
    struct sampling greedy, drawn;
    struct engine_sample samples[3];
    struct sampled scored[7];
    struct engine_score score = {.next_token_id = 11, .top_count = 2, .results = scored};
    struct engine_sequence sequences[3];
    sampling_defaults(&greedy);
    greedy.logprobs = true;
    greedy.top_logprobs = 1;
    drawn = greedy;
    drawn.temperature = 2.0f;
    drawn.seed = 99;
    for (uint32_t i = 0; i < 3; i++) {
        struct block_copy copy;
        run_open(&runs[i], &fixture);
        ASSERT_OK(block_table_reserve(&runs[i].table, fixture.tree, 7, &copy));
        samples[i] =
            (struct engine_sample){.sampling = i == 0 ? &greedy : &drawn, .sequence_index = i};
        sequences[i] = (struct engine_sequence){
            .token_ids = tokens, .token_count = 7, .table = &runs[i].table};
    }
    sequences[1].sample_count = 3;
    sequences[1].samples = samples;
    sequences[2].score = &score;
    assert_int_equal(engine_outputs_of(&sequences[0]), 0);
    assert_int_equal(engine_outputs_of(&sequences[1]), 1);
    assert_int_equal(engine_outputs_of(&sequences[2]), 7);
    layers_heard = 0;
    ASSERT_OK(engine_step(fixture.engine, sequences, 3, hear_layer, NULL));
    assert_int_equal(layers_heard, fixture.model->layer_count);

    /* All three ran the same tokens: the greedy sample is the score's best of the last row. */
    assert_int_equal(samples[0].result.token_id, scored[6].top_ids[0]);
    assert_int_equal(samples[0].result.rank, 1);
    assert_true(samples[0].result.logprob == scored[6].top_logprobs[0]);
    for (uint32_t row = 0; row < 7; row++) {
        assert_int_equal(scored[row].token_id, row < 6 ? tokens[row + 1] : 11);
        assert_int_equal(scored[row].top_count, 2);
        assert_true(scored[row].logprob <= scored[row].top_logprobs[0]);
    }
    const float *logits = engine_logits(fixture.engine, 0);
    for (uint32_t i = 1; i < 3; i++) {
        struct sampler *sampler;
        struct sampled expected;
        const struct sampler_row row = {.logits = logits, .position = 7, .sequence_index = i};
        ASSERT_OK(sampler_open(fixture.model->vocabulary, &sampler));
        ASSERT_OK(sampler_pick(sampler, &drawn, &row, &expected));
        assert_int_equal(samples[i].result.token_id, expected.token_id);
        sampler_close(sampler);
    }

    score.next_token_id = ENGINE_NO_TOKEN;
    assert_int_equal(engine_outputs_of(&sequences[2]), 6);
    struct engine_counters counters;
    engine_count(fixture.engine, &counters);
    assert_int_equal(counters.steps, 1);
    assert_int_equal(counters.rows, 21);
    assert_int_equal(counters.outputs, 8);
    assert_true(counters.backend.operations > 0 && counters.backend.bytes > 0);
    for (uint32_t i = 0; i < 3; i++)
        run_close(&runs[i], &fixture);
    fixture_close(&fixture);
}

/* What the first steps leave in the pool changes nothing of what comes after them. */
static void a_warm_engine_steps_as_a_cold_one(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {5, 17, 99, 3, 42, 250, 7};
    float cold[4096];
    for (int warm = 0; warm < 2; warm++) {
        struct fixture fixture;
        struct engine_counters counters;
        struct run run;
        fixture_open(&fixture, &(struct fixture_config){.path = MODEL, .kernels = "float"});
        assert_true(fixture.model->vocabulary <= 4096);
        if (warm == 1)
            ASSERT_OK(engine_warm(fixture.engine));
        engine_count(fixture.engine, &counters);
        assert_int_equal(counters.steps, 4 * warm); /* a prompt; one, eight and many sequences */
        assert_int_equal(counters.outputs, warm * (1 + 1 + 8 + PARTS_MAX));
        run_open(&run, &fixture);
        run_step(&fixture, (struct run *[]){&run}, (struct part[]){{tokens, 7, true}}, 1);
        const float *logits = engine_logits(fixture.engine, 6);
        size_t bytes = fixture.model->vocabulary * sizeof(float);
        if (warm == 0)
            memcpy(cold, logits, bytes);
        else
            assert_memory_equal(cold, logits, bytes);
        run_close(&run, &fixture);
        fixture_close(&fixture);
    }
}

static void a_step_that_cannot_be_is_refused(void **state)
{
    (void)state;
    struct fixture fixture;
    uint32_t tokens[400] = {1};
    struct run run;
    struct block_copy copy;
    struct sampling greedy;
    sampling_defaults(&greedy);
    fixture_open(&fixture, &(struct fixture_config){.path = MODEL, .kernels = "float"});
    run_open(&run, &fixture);
    ASSERT_OK(block_table_reserve(&run.table, fixture.tree, 20, &copy));
    const struct engine_sequence good = {
        .token_ids = tokens, .token_count = 20, .table = &run.table};
    struct engine_sequence bad[PARTS_MAX + 1];
#define REFUSED(count, word)                                                                       \
    do {                                                                                           \
        assert_int_equal(engine_step(fixture.engine, bad, count, NULL, NULL), ERR_BAD_INPUT);      \
        assert_non_null(strstr(error_text(), word));                                               \
    } while (0)
    for (uint32_t i = 0; i <= PARTS_MAX; i++)
        bad[i] = good;
    REFUSED(0, "sequences");
    REFUSED(PARTS_MAX + 1, "sequences");
    tokens[19] = fixture.model->vocabulary;
    REFUSED(1, "vocabulary");
    tokens[19] = 0;
    bad[0].token_count = 0;
    REFUSED(1, "at least one token");
    bad[0].token_count = 33;
    REFUSED(1, "reserve");
    bad[0].token_count = 20;
    bad[0].start_position = engine_context_tokens(fixture.engine);
    REFUSED(1, "context");
    bad[0].start_position = UINT32_MAX;
    REFUSED(1, "context");
    bad[0] = good;
    block_id held = run.table.ids[1];
    run.table.ids[1] = UINT32_MAX;
    REFUSED(1, "block 4294967295");
    run.table.ids[1] = held;
    ASSERT_OK(block_table_reserve(&run.table, fixture.tree, 321, &copy));
    bad[0].token_count = 321;
    REFUSED(1, "at most 320 tokens");
    struct engine_score score = {.next_token_id = fixture.model->vocabulary,
                                 .results = fixture.scored};
    bad[0] = good;
    bad[0].score = &score;
    REFUSED(1, "vocabulary");
#undef REFUSED
    bad[0] = good;
    ASSERT_OK(engine_step(fixture.engine, bad, 1, NULL, NULL));
    run_close(&run, &fixture);
    fixture_close(&fixture);
}

/* A NaN in the KV of one sequence spoils that sequence, and no other of the batch. */
static void damage_stays_where_it_is(void **state)
{
    (void)state;
    struct fixture fixture;
    static const uint32_t tokens[] = {5, 17, 99, 3, 42, 250, 7};
    struct run runs[2];
    struct sampling greedy;
    struct engine_sample samples[2];
    struct engine_sequence sequences[2];
    sampling_defaults(&greedy);
    fixture_open(&fixture, &(struct fixture_config){.path = MODEL, .kernels = "float"});
    for (uint32_t i = 0; i < 2; i++) {
        struct run *one[] = {&runs[i]};
        struct part part = {tokens, 6, false};
        struct block_copy copy;
        run_open(&runs[i], &fixture);
        run_step(&fixture, one, &part, 1);
        ASSERT_OK(block_table_reserve(&runs[i].table, fixture.tree, 1, &copy));
        samples[i] = (struct engine_sample){.sampling = &greedy};
        sequences[i] = (struct engine_sequence){.token_ids = tokens + 6,
                                                .token_count = 1,
                                                .start_position = 6,
                                                .table = &runs[i].table,
                                                .sample_count = 1,
                                                .samples = &samples[i]};
    }
    const struct kv_layout *layout = engine_layout(fixture.engine);
    uint8_t *keys =
        kv_layout_address(layout, engine_pool(fixture.engine)->host, runs[0].table.ids[0], 0);
    memset(keys, 0x7e, 2 * layout->shape.head_dim); /* 0x7e7e: a NaN in half precision */
    assert_int_equal(engine_step(fixture.engine, sequences, 2, NULL, NULL), ERR_CORRUPT);
    assert_int_equal(sequences[0].outcome, ERR_CORRUPT);
    assert_int_equal(sequences[1].outcome, OK);
    uint32_t found = samples[1].result.token_id;
    ASSERT_OK(engine_step(fixture.engine, &sequences[1], 1, NULL, NULL));
    assert_int_equal(samples[1].result.token_id, found);
    for (uint32_t i = 0; i < 2; i++)
        run_close(&runs[i], &fixture);
    fixture_close(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_is_a_sum),
        cmocka_unit_test(a_plan_that_cannot_be_is_refused),
        cmocka_unit_test(swap_is_bounded),
        cmocka_unit_test(a_step_gives_what_is_wanted),
        cmocka_unit_test(a_warm_engine_steps_as_a_cold_one),
        cmocka_unit_test(a_step_that_cannot_be_is_refused),
        cmocka_unit_test(damage_stays_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
