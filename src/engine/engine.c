#include "engine/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "engine/forward.h"

struct engine {
    struct backend *backend;
    struct kv_layout *layout;
    struct backend_limits limits;
    struct backend_pool pool;
    struct forward forward;
    struct sampler *sampler;
    uint32_t vocabulary;
    uint32_t context_tokens;

    /* The step: its descriptor and the arrays that it points into. */
    struct step step;
    uint32_t *token_ids;             /* [rows_max] */
    struct step_sequence *sequences; /* [sequences_max] */
    uint32_t *output_rows;           /* [outputs_max] */
    struct backend_pick *picks;      /* [outputs_max] */
    struct engine_sequence *wanted;  /* the caller's, from submit to wait */
    uint32_t wanted_count;
    bool running;
    uint64_t submit_ns;
    uint32_t swap_slots;
    struct engine_counters counters;
};

enum engine_kv engine_kv_choose(const char *kv_dtype, const char *kernels)
{
    bool exact = strcmp(kv_dtype, "auto") == 0 && strcmp(kernels, "float") == 0;
    if (strcmp(kv_dtype, "q8_0") == 0)
        return ENGINE_KV_Q8_0;
    return exact || strcmp(kv_dtype, "f32") == 0 ? ENGINE_KV_F32 : ENGINE_KV_F16;
}

static status arrays_open(struct engine *engine)
{
    const struct backend_limits *limits = &engine->limits;
    engine->token_ids = calloc(limits->rows_max, sizeof(*engine->token_ids));
    engine->sequences = calloc(limits->sequences_max, sizeof(*engine->sequences));
    engine->output_rows = calloc(limits->outputs_max, sizeof(*engine->output_rows));
    engine->picks = calloc(limits->outputs_max, sizeof(*engine->picks));
    if (engine->token_ids == NULL || engine->sequences == NULL || engine->output_rows == NULL ||
        engine->picks == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for steps of %u tokens", limits->rows_max);
    return OK;
}

status engine_open(const struct model *model, struct engine_plan *plan, struct backend *backend,
                   struct engine **engine_out)
{
    status code;
    struct engine *engine = calloc(1, sizeof(*engine));
    if (engine == NULL) {
        backend->calls->close(backend);
        engine_plan_close(plan);
        return error_set(ERR_NO_MEMORY, "no memory for an engine");
    }
    engine->backend = backend;
    engine->layout = plan->layout;
    plan->layout = NULL;
    engine->limits = plan->limits;
    engine->vocabulary = model->vocabulary;
    engine->context_tokens = plan->context_tokens;
    code = arrays_open(engine);
    if (code == OK)
        code = sampler_open(model->vocabulary, &engine->sampler);
    if (code == OK)
        code = backend->calls->pool_open(backend, plan->block_count, &engine->pool);
    engine->swap_slots = plan->swap_slots;
    if (code == OK && plan->swap_slots > 0)
        code = backend->calls->swap_open(backend, plan->swap_slots);
    if (code == OK)
        code = forward_open(model, backend, &engine->forward);
    if (code != OK) {
        engine_close(engine);
        return code;
    }
    *engine_out = engine;
    return OK;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    assert(!engine->running);
    forward_close(&engine->forward);
    sampler_close(engine->sampler);
    engine->backend->calls->close(engine->backend);
    free(engine->picks);
    free(engine->output_rows);
    free(engine->sequences);
    free(engine->token_ids);
    kv_layout_close(engine->layout);
    free(engine);
}

/* ---- from sequences to the descriptor ---- */

/* Does row i of the sequence score the token after it? */
static bool row_scored(const struct engine_sequence *sequence, uint32_t row)
{
    if (sequence->score == NULL)
        return false;
    return row + 1 < sequence->token_count || sequence->score->next_token_id != ENGINE_NO_TOKEN;
}

static bool row_wanted(const struct engine_sequence *sequence, uint32_t row)
{
    return row_scored(sequence, row) ||
           (sequence->sample_count > 0 && row + 1 == sequence->token_count);
}

uint32_t engine_outputs_of(const struct engine_sequence *sequence)
{
    if (sequence->score == NULL)
        return sequence->sample_count > 0 ? 1 : 0;
    bool last = row_wanted(sequence, sequence->token_count - 1);
    return sequence->token_count - (last ? 0 : 1);
}

static status tokens_check(const struct engine *engine, const struct engine_sequence *sequence)
{
    for (uint32_t i = 0; i < sequence->token_count; i++)
        if (sequence->token_ids[i] >= engine->vocabulary)
            return error_set(ERR_BAD_INPUT,
                             "token ids: expected numbers below the vocabulary of %u, found %u",
                             engine->vocabulary, sequence->token_ids[i]);
    const struct engine_score *score = sequence->score;
    if (score != NULL && score->next_token_id != ENGINE_NO_TOKEN &&
        score->next_token_id >= engine->vocabulary)
        return error_set(ERR_BAD_INPUT,
                         "token ids: expected numbers below the vocabulary of %u, found %u",
                         engine->vocabulary, score->next_token_id);
    return OK;
}

static status sequence_check(const struct engine *engine, const struct engine_sequence *sequence)
{
    const struct block_table *table = sequence->table;
    uint64_t end = (uint64_t)sequence->start_position + sequence->token_count;
    uint64_t room = (uint64_t)table->block_count * table->block_tokens;

    if (sequence->token_count == 0)
        return error_set(ERR_BAD_INPUT, "a step: expected at least one token of a sequence");
    if (end > engine->context_tokens)
        return error_set(ERR_BAD_INPUT, "a step: expected at most %u tokens of context, found %llu",
                         engine->context_tokens, (unsigned long long)end);
    if (table->block_tokens != engine->layout->shape.block_tokens || end > room)
        return error_set(ERR_BAD_INPUT,
                         "a step: the block table has room for %llu tokens, and %llu are needed; "
                         "reserve before the step",
                         (unsigned long long)room, (unsigned long long)end);
    for (uint32_t i = 0; i < table->block_count; i++)
        if (table->ids[i] >= engine->pool.block_count)
            return error_set(ERR_BAD_INPUT, "a step: block %u of a pool of %u", table->ids[i],
                             engine->pool.block_count);
    return tokens_check(engine, sequence);
}

/* Can the device pick this token? Not when a stage of the sampler needs more than the logits, nor
 * for several tokens of one row. */
static bool pick_fits(const struct engine_sequence *sequence)
{
    const struct sampling *sampling = sequence->samples[0].sampling;
    bool holds_end =
        sequence->samples[0].output_count < sampling->min_tokens && sampling->end_id_count > 0;
    bool filtered = sampling->temperature > 0.0f &&
                    (sampling->top_k != 0 || sampling->top_p < 1.0f || sampling->min_p > 0.0f);
    return sequence->sample_count == 1 && sequence->score == NULL && !sampling->logprobs &&
           sampling->bias_count == 0 && !holds_end && !filtered &&
           !sampling_needs_history(sampling);
}

static void pick_fill(struct engine *engine, const struct engine_sequence *sequence)
{
    struct backend_pick *pick = &engine->picks[engine->step.output_count];
    *pick = (struct backend_pick){.wanted = false};
    if (engine->backend->calls->pick == NULL || sequence->sample_count == 0 || !pick_fits(sequence))
        return;
    const struct sampling *sampling = sequence->samples[0].sampling;
    *pick = (struct backend_pick){
        .wanted = true,
        .temperature = sampling->temperature,
        .uniform =
            sampling->temperature > 0.0f
                ? sampler_uniform(sampling->seed, sequence->start_position + sequence->token_count,
                                  sequence->samples[0].sequence_index)
                : 0.0,
    };
}

static void sequence_append(struct engine *engine, const struct engine_sequence *sequence)
{
    struct step *step = &engine->step;
    engine->sequences[step->sequence_count++] = (struct step_sequence){
        .first_row = step->row_count,
        .row_count = sequence->token_count,
        .start_position = sequence->start_position,
        .block_ids = sequence->table->ids,
        .block_count = sequence->table->block_count,
    };
    memcpy(engine->token_ids + step->row_count, sequence->token_ids,
           sequence->token_count * sizeof(*engine->token_ids));
    for (uint32_t row = 0; row < sequence->token_count; row++)
        if (row_wanted(sequence, row)) {
            pick_fill(engine, sequence);
            engine->output_rows[step->output_count++] = step->row_count + row;
        }
    step->row_count += sequence->token_count;
}

static status step_fill(struct engine *engine, struct engine_sequence *sequences, uint32_t count)
{
    const struct backend_limits *limits = &engine->limits;
    struct step *step = &engine->step;

    *step = (struct step){
        .token_ids = engine->token_ids,
        .sequences = engine->sequences,
        .output_rows = engine->output_rows,
        .picks = engine->picks,
    };
    if (count == 0 || count > limits->sequences_max)
        return error_set(ERR_BAD_INPUT, "a step: expected 1 to %u sequences, found %u",
                         limits->sequences_max, count);
    for (uint32_t i = 0; i < count; i++) {
        status code = sequence_check(engine, &sequences[i]);
        if (code != OK)
            return code;
        if (sequences[i].token_count > limits->rows_max - step->row_count)
            return error_set(ERR_BAD_INPUT, "a step: expected at most %u tokens, found more",
                             limits->rows_max);
        if (engine_outputs_of(&sequences[i]) > limits->outputs_max - step->output_count)
            return error_set(ERR_BAD_INPUT,
                             "a step: expected at most %u tokens that want logits, found more",
                             limits->outputs_max);
        sequence_append(engine, &sequences[i]);
        sequences[i].outcome = OK;
    }
    return OK;
}

/* ---- from logits to tokens ---- */

static status sample_pick(struct engine *engine, const struct engine_sequence *sequence,
                          struct engine_sample *sample, const float *logits)
{
    const struct sampler_row row = {
        .logits = logits,
        .prompt_ids = sample->prompt_ids,
        .prompt_count = sample->prompt_count,
        .output_ids = sample->output_ids,
        .output_count = sample->output_count,
        .position = sequence->start_position + sequence->token_count,
        .sequence_index = sample->sequence_index,
    };
    return sampler_pick(engine->sampler, sample->sampling, &row, &sample->result);
}

/* The token that the device picked. */
static status picked_take(const struct engine *engine, uint32_t output, struct sampled *result)
{
    const struct backend_picked *picked = engine->backend->calls->picked(engine->backend, output);
    *result = (struct sampled){.token_id = picked->token_id};
    if (picked->corrupt || picked->token_id >= engine->vocabulary)
        return error_set(ERR_CORRUPT,
                         "the model's logits hold a NaN or an infinity: the weights or "
                         "the KV of this sequence are damaged");
    return OK;
}

/* All that a sequence wants; output is the number of its first one. */
static status sequence_finish(struct engine *engine, struct engine_sequence *sequence,
                              uint32_t output)
{
    status code = OK;
    for (uint32_t row = 0; row < sequence->token_count; row++) {
        if (!row_wanted(sequence, row))
            continue;
        if (engine->picks[output].wanted) {
            code = picked_take(engine, output++, &sequence->samples[0].result);
            if (code != OK)
                break;
            continue;
        }
        const float *logits = engine_logits(engine, output++);
        if (row_scored(sequence, row)) {
            const struct engine_score *score = sequence->score;
            uint32_t next = row + 1 < sequence->token_count ? sequence->token_ids[row + 1]
                                                            : score->next_token_id;
            code = sampler_score(engine->sampler, logits, next, score->top_count,
                                 &score->results[row]);
        }
        uint32_t samples = row + 1 == sequence->token_count ? sequence->sample_count : 0;
        for (uint32_t i = 0; i < samples && code == OK; i++)
            code = sample_pick(engine, sequence, &sequence->samples[i], logits);
        if (code != OK)
            break;
    }
    return code;
}

/* ---- the calls ---- */

/* The step did not run: nobody got anything. */
static status step_refuse(struct engine_sequence *sequences, uint32_t count, status code)
{
    for (uint32_t i = 0; i < count; i++)
        sequences[i].outcome = code;
    return code;
}

status engine_submit(struct engine *engine, struct engine_sequence *sequences, uint32_t count,
                     void (*layer_ready)(void *ctx, uint32_t layer), void *layer_ready_ctx)
{
    assert(!engine->running);
    uint64_t begin_ns = clock_ns();
    status code = step_fill(engine, sequences, count);
    if (code != OK)
        return step_refuse(sequences, count, code);
    engine->step.layer_ready = layer_ready;
    engine->step.layer_ready_ctx = layer_ready_ctx;
    forward_enqueue(&engine->forward, &engine->step);
    code = engine->backend->calls->step_submit(engine->backend);
    if (code != OK)
        return step_refuse(sequences, count, code);
    engine->wanted = sequences;
    engine->wanted_count = count;
    engine->running = true;
    engine->submit_ns = begin_ns;
    return OK;
}

status engine_wait(struct engine *engine)
{
    assert(engine->running);
    engine->running = false;
    status code = engine->backend->calls->step_wait(engine->backend);
    if (code != OK)
        return step_refuse(engine->wanted, engine->wanted_count, code);

    uint32_t output = 0;
    for (uint32_t i = 0; i < engine->wanted_count; i++) {
        struct engine_sequence *sequence = &engine->wanted[i];
        sequence->outcome = sequence_finish(engine, sequence, output);
        if (sequence->outcome != OK)
            code = sequence->outcome;
        output += engine_outputs_of(sequence);
    }
    assert(output == engine->step.output_count);
    engine->counters.steps++;
    engine->counters.rows += engine->step.row_count;
    engine->counters.outputs += engine->step.output_count;
    engine->counters.busy_ns += clock_ns() - engine->submit_ns;
    return code;
}

status engine_step(struct engine *engine, struct engine_sequence *sequences, uint32_t count,
                   void (*layer_ready)(void *ctx, uint32_t layer), void *layer_ready_ctx)
{
    status code = engine_submit(engine, sequences, count, layer_ready, layer_ready_ctx);
    return code == OK ? engine_wait(engine) : code;
}

const float *engine_logits(const struct engine *engine, uint32_t output)
{
    assert(output < engine->step.output_count);
    return engine->backend->calls->output_row(engine->backend, engine->forward.logits, output);
}

void engine_block_copy(struct engine *engine, block_id from, block_id to)
{
    assert(!engine->running);
    assert(from < engine->pool.block_count && to < engine->pool.block_count);
    engine->backend->calls->block_copy(engine->backend, from, to);
}

struct backend *engine_moving_backend(const struct engine *engine)
{
    return engine->backend->moves != NULL ? engine->backend : NULL;
}

status engine_swap_out(struct engine *engine, const block_id *ids, const block_id *slots,
                       uint32_t count)
{
    assert(!engine->running && engine->swap_slots > 0);
    return engine->backend->calls->swap_out(engine->backend, ids, slots, count);
}

status engine_swap_in(struct engine *engine, const block_id *slots, const block_id *ids,
                      uint32_t count)
{
    assert(!engine->running && engine->swap_slots > 0);
    return engine->backend->calls->swap_in(engine->backend, slots, ids, count);
}

uint32_t engine_swap_slots(const struct engine *engine)
{
    return engine->swap_slots;
}

const struct kv_layout *engine_layout(const struct engine *engine)
{
    return engine->layout;
}

const struct backend_pool *engine_pool(const struct engine *engine)
{
    return &engine->pool;
}

const struct backend_limits *engine_limits(const struct engine *engine)
{
    return &engine->limits;
}

const char *engine_numerics_class(const struct engine *engine)
{
    return engine->backend->numerics_class;
}

uint32_t engine_context_tokens(const struct engine *engine)
{
    return engine->context_tokens;
}

uint32_t engine_vocabulary(const struct engine *engine)
{
    return engine->vocabulary;
}

uint64_t engine_block_bytes(const struct engine *engine)
{
    return engine->layout->block_bytes;
}

void engine_count(const struct engine *engine, struct engine_counters *counters_out)
{
    *counters_out = engine->counters;
    engine->backend->calls->counters(engine->backend, &counters_out->backend);
}
