/* tests/vectors/engine_fixture.h - a model in an engine on CPU cores, and sequences to run in it.
 *
 *     struct fixture fixture;
 *     fixture_open(&fixture, &(struct fixture_config){.path = ..., .kernels = "float"});
 *     struct run run;
 *     run_open(&run, &fixture);
 *     run_step(&fixture, (struct run *[]){&run}, (struct part[]){{tokens, 12, true}}, 1);
 *     ... engine_logits(fixture.engine, row) of the rows of the parts that wanted logits ...
 *     run_close(&run, &fixture);
 *     fixture_close(&fixture);
 *
 * Everything is checked by assert_*; a test that gets on has what it asked for.
 */
#ifndef TESTS_ENGINE_FIXTURE_H
#define TESTS_ENGINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/device.h"
#include "base/error.h"
#include "engine/engine.h"

#define PARTS_MAX 16

struct fixture_config {
    const char *path;
    const char *kernels; /* "float", "int8", "bf16" */
    const char *variant; /* NULL: the best */
    uint32_t threads;    /* 0: 1 */
    uint32_t rows_max;   /* also the outputs; 0: 320 */
    uint32_t context_tokens;
    uint32_t block_tokens;
    enum engine_kv kv;
    const struct device *device; /* NULL: the CPU */
    bool deterministic;
};

struct fixture {
    struct model *model;
    struct engine *engine;
    struct prefix_tree *tree;
    struct sampled *scored; /* [rows_max], written by the engine, not read */
    struct block_key root;
};

struct run {
    struct block_table table;
};

/* Tokens of one run for one step. */
struct part {
    const uint32_t *tokens;
    uint32_t count;
    bool logits; /* of all rows */
};

#define ASSERT_OK(call)                                                                            \
    do {                                                                                           \
        status code_ = (call);                                                                     \
        if (code_ != OK)                                                                           \
            fail_msg("%s: %s: %s", #call, status_name(code_), error_text());                       \
    } while (0)

static inline void fixture_open(struct fixture *fixture, const struct fixture_config *config)
{
    struct engine_plan plan;
    struct backend *backend;
    uint32_t rows_max = config->rows_max != 0 ? config->rows_max : 320;
    ASSERT_OK(weights_open(config->path, &fixture->model));
    uint32_t context = config->context_tokens;
    if (context == 0 || context > fixture->model->context_tokens)
        context = fixture->model->context_tokens;
    const struct engine_config engine_config = {.rows_max = rows_max,
                                                .outputs_max = rows_max,
                                                .sequences_max = PARTS_MAX,
                                                .context_tokens = context,
                                                .block_tokens = config->block_tokens,
                                                .kv = config->kv};
    ASSERT_OK(engine_plan(fixture->model, &engine_config, &plan));
    const struct device_options options = {
        .cpu = {.threads = config->threads ? config->threads : 1,
                .kernels = config->kernels,
                .variant = config->variant},
        .deterministic = config->deterministic,
    };
    const struct device cpu = {.plugin = NULL};
    ASSERT_OK(device_open(config->device != NULL ? config->device : &cpu, &plan.shape, &plan.limits,
                          &options, &backend));
    ASSERT_OK(prefix_tree_open(plan.block_count, UINT32_MAX, &fixture->tree));
    ASSERT_OK(engine_open(fixture->model, &plan, backend, &fixture->engine));
    fixture->scored = calloc(rows_max, sizeof(*fixture->scored));
    assert_non_null(fixture->scored);
    fixture->root =
        block_key_root(fixture->model->fingerprint, engine_layout(fixture->engine)->hash,
                       engine_layout(fixture->engine)->shape.dtype,
                       engine_numerics_class(fixture->engine), NULL, 0);
}

static inline void fixture_close(struct fixture *fixture)
{
    free(fixture->scored);
    engine_close(fixture->engine);
    prefix_tree_close(fixture->tree);
    weights_close(fixture->model);
}

static inline void run_open(struct run *run, struct fixture *fixture)
{
    uint32_t capacity = engine_limits(fixture->engine)->table_blocks_max;
    block_id *ids = calloc(capacity, sizeof(*ids));
    assert_non_null(ids);
    block_table_open(&run->table, ids, capacity,
                     engine_layout(fixture->engine)->shape.block_tokens);
}

static inline void run_close(struct run *run, struct fixture *fixture)
{
    block_table_drop(&run->table, fixture->tree);
    free(run->table.ids);
}

/* One step with a part of each run. Outputs are in the order of the parts that want logits. */
static inline void run_step(struct fixture *fixture, struct run *const *runs,
                            const struct part *parts, uint32_t count)
{
    struct engine_sequence sequences[PARTS_MAX];
    struct engine_score score = {.next_token_id = 0, .top_count = 0, .results = fixture->scored};
    struct block_copy copy;
    assert_true(count <= PARTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct block_table *table = &runs[i]->table;
        ASSERT_OK(block_table_reserve(table, fixture->tree, parts[i].count, &copy));
        if (copy.needed)
            engine_block_copy(fixture->engine, copy.from, copy.to);
        sequences[i] = (struct engine_sequence){.token_ids = parts[i].tokens,
                                                .token_count = parts[i].count,
                                                .start_position = table->token_count,
                                                .table = table,
                                                .score = parts[i].logits ? &score : NULL};
    }
    ASSERT_OK(engine_step(fixture->engine, sequences, count, NULL, NULL));
    for (uint32_t i = 0; i < count; i++)
        block_table_advance(&runs[i]->table, parts[i].count);
}

#endif
