#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "engine/engine.h"
#include "engine/memory.h"

#define BLOCK_TOKENS_DEFAULT 16u
#define ROWS_DEFAULT 512u
#define SEQUENCES_DEFAULT 64u
#define STEP_MAX 65536u /* rows, sequences or outputs of a step */
#define CONTEXTS_DEFAULT 4u

static double megabytes(uint64_t bytes)
{
    return (double)bytes / (1024.0 * 1024.0);
}

static uint32_t chosen(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static status limits_fill(const struct model *model, const struct engine_config *config,
                          struct engine_plan *plan)
{
    static const enum dtype kv_dtypes[] = {
        [ENGINE_KV_F16] = DTYPE_F16, [ENGINE_KV_F32] = DTYPE_F32, [ENGINE_KV_Q8_0] = DTYPE_Q8_0};
    uint32_t block_tokens = chosen(config->block_tokens, BLOCK_TOKENS_DEFAULT);
    struct backend_limits *limits = &plan->limits;

    plan->context_tokens = chosen(config->context_tokens, model->context_tokens);
    if (plan->context_tokens > model->context_tokens)
        return error_set(ERR_BAD_INPUT,
                         "context: expected at most the %u tokens that the model was trained for, "
                         "found %u",
                         model->context_tokens, plan->context_tokens);
    if (block_tokens > KV_BLOCK_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "block tokens: expected at most %u, found %u",
                         KV_BLOCK_TOKENS_MAX, block_tokens);
    limits->rows_max = chosen(config->rows_max, ROWS_DEFAULT);
    limits->sequences_max = chosen(config->sequences_max, SEQUENCES_DEFAULT);
    limits->outputs_max = chosen(config->outputs_max, limits->sequences_max);
    limits->table_blocks_max = kv_blocks_for(plan->context_tokens, block_tokens);
    if (limits->rows_max > STEP_MAX || limits->sequences_max > STEP_MAX ||
        limits->outputs_max > STEP_MAX)
        return error_set(ERR_BAD_INPUT,
                         "a step: expected at most %u tokens, sequences and outputs, found %u, %u "
                         "and %u",
                         STEP_MAX, limits->rows_max, limits->sequences_max, limits->outputs_max);

    const struct kv_shape shape = {
        .layer_count = model->layer_count,
        .kv_head_count = model->kv_head_count,
        .head_dim = model->head_dim,
        .block_tokens = block_tokens,
        .dtype = kv_dtypes[config->kv],
        .rank = 0,
        .ranks = 1,
    };
    return kv_layout_open(&shape, &plan->layout);
}

static void shape_fill(const struct model *model, struct engine_plan *plan)
{
    plan->shape = (struct backend_shape){
        .head_count = model->head_count,
        .rope_style = model->rope_halves ? ROPE_HALVES : ROPE_PAIRS,
        .rope_dims = model->rope_dims,
        .rope_theta = model->rope_theta,
        .rope_factors = model->rope_factors,
        .norm_epsilon = model->norm_epsilon,
    };
    kv_layout_fill_shape(plan->layout, &plan->shape);
}

/* Floats of a step's buffers and of the sampler: engine_open opens exactly these. Numbers of a
 * model are below 2^24 (weights.c) and those of a step below 2^16: no product overflows. */
static uint64_t activation_bytes(const struct model *model, const struct backend_limits *limits)
{
    uint64_t q_width = (uint64_t)model->head_count * model->head_dim;
    uint64_t kv_width = (uint64_t)model->kv_head_count * model->head_dim;
    uint64_t row =
        2 * (uint64_t)model->width + 2 * q_width + 2 * kv_width + 2 * (uint64_t)model->ffn_width;
    uint64_t output = 2 * (uint64_t)model->width + model->vocabulary;
    uint64_t sampler = 5 * (uint64_t)model->vocabulary;
    return sizeof(float) * (limits->rows_max * row + limits->outputs_max * output + sampler);
}

static status pool_size(const struct engine_config *config, struct engine_plan *plan)
{
    uint64_t block_bytes = plan->layout->block_bytes;
    uint64_t one_context = plan->limits.table_blocks_max * block_bytes;
    uint64_t bytes = config->kv_bytes;

    if (bytes == 0) {
        bytes = CONTEXTS_DEFAULT * one_context;
        if (bytes > plan->available_bytes / 4)
            bytes = plan->available_bytes / 4;
        if (bytes < one_context)
            bytes = one_context;
    }
    if (bytes < one_context)
        return error_set(
            ERR_BAD_INPUT,
            "KV pool: expected at least %" PRIu64 " bytes (one context of %u tokens: %u "
            "blocks of %" PRIu64 "), found %" PRIu64 "; give more bytes or a shorter context",
            one_context, plan->context_tokens, plan->limits.table_blocks_max, block_bytes, bytes);
    uint64_t blocks = bytes / block_bytes;
    plan->block_count = blocks < BLOCK_COUNT_MAX ? (uint32_t)blocks : BLOCK_COUNT_MAX;
    plan->pool_bytes = plan->block_count * block_bytes;
    return OK;
}

/* Host memory that the sum leaves: of a device with memory of its own, all that is available. */
static status swap_size(const struct engine_config *config, struct engine_plan *plan)
{
    uint64_t block_bytes = plan->layout->block_bytes;
    uint64_t left = memory_available_bytes();
    uint64_t bytes = config->swap_bytes;
    if (bytes > 0 && bytes < block_bytes)
        return error_set(ERR_BAD_INPUT,
                         "swap: expected at least %" PRIu64 " bytes (one block), found %" PRIu64
                         "; give more bytes, or 0 for none",
                         block_bytes, bytes);
    if (config->available_bytes == 0)
        left = plan->available_bytes - plan->total_bytes;
    if (bytes > left / 4)
        bytes = left / 4;
    uint64_t slots = bytes / block_bytes;
    uint64_t most = (uint64_t)plan->limits.sequences_max * plan->limits.table_blocks_max;
    most = most < BLOCK_COUNT_MAX ? most : BLOCK_COUNT_MAX;
    plan->swap_slots = (uint32_t)(slots < most ? slots : most);
    return OK;
}

status engine_plan(const struct model *model, const struct engine_config *config,
                   struct engine_plan *plan_out)
{
    struct engine_plan plan = {.layout = NULL};
    char text[256];
    status code = limits_fill(model, config, &plan);
    if (code != OK)
        return code;
    shape_fill(model, &plan);
    plan.available_bytes =
        config->available_bytes != 0 ? config->available_bytes : memory_available_bytes();
    code = pool_size(config, &plan);
    if (code != OK)
        goto err_plan;
    plan.weight_bytes = model->weight_bytes;
    plan.activation_bytes = activation_bytes(model, &plan.limits);
    plan.total_bytes = plan.weight_bytes + plan.pool_bytes + plan.activation_bytes;
    if (plan.total_bytes > plan.available_bytes) {
        code = error_set(ERR_NO_MEMORY,
                         "the model does not fit in memory: %s; use a smaller model, context or KV "
                         "pool",
                         engine_plan_text(&plan, text, sizeof(text)));
        goto err_plan;
    }
    code = swap_size(config, &plan);
    if (code != OK)
        goto err_plan;
    *plan_out = plan;
    return OK;

err_plan:
    engine_plan_close(&plan);
    return code;
}

void engine_plan_close(struct engine_plan *plan)
{
    kv_layout_close(plan->layout);
    plan->layout = NULL;
}

const char *engine_plan_text(const struct engine_plan *plan, char *text_out, size_t text_bytes)
{
    snprintf(text_out, text_bytes,
             "weights %.1f MiB + KV pool %.1f MiB (%u blocks of %zu bytes) + activations %.1f MiB "
             "= %.1f MiB of "
             "%.1f MiB available",
             megabytes(plan->weight_bytes), megabytes(plan->pool_bytes), plan->block_count,
             plan->shape.block_bytes, megabytes(plan->activation_bytes),
             megabytes(plan->total_bytes), megabytes(plan->available_bytes));
    return text_out;
}
