/* engine/engine.h - one step over a batch of sequences.
 *
 *     engine_plan      the written sum of memory, and whether it fits     before anything is taken
 *     (open a backend for plan.shape and plan.limits)
 *     engine_open      weights, buffers and the pool into the backend
 *     engine_step      a mixed batch: prompt chunks and single tokens, in any order
 *
 * A step takes some tokens of some sequences, runs them through the model, and for those that want
 * it picks tokens from the last row's logits:
 *
 *     A   start 32,  tokens [t32 .. t95]   a chunk in the middle of a prompt   wants nothing
 *     B   start 0,   tokens [t0 .. t6]     a whole short prompt                wants 3 samples
 *     C   start 211, tokens [t211]         one decode step                     wants 1 sample
 *
 * The engine knows nothing of roles, requests or keys. It reads block tables and never changes
 * them: the caller reserves before the step and advances after it.
 *
 * Threads:  one compute thread makes every call; layer_ready may come on a thread of the backend.
 * Memory:   everything is taken by open; a step allocates nothing.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/status.h"
#include "engine/sampler.h"
#include "kv/block_table.h"
#include "kv/layout.h"
#include "model/weights.h"

/* f16, f32 (rounding to f16 moves a logit by up to some hundredths), or q8_0: int8 in groups of 32
 * with an f16 scale, 0.53 of f16's memory. */
enum engine_kv { ENGINE_KV_F16, ENGINE_KV_F32, ENGINE_KV_Q8_0 };

/* What --kv-dtype means beside --kernels: "f16", "f32", "q8_0", or "auto", which is f32 for the
 * class "float", whose bound on every logit a pool of f16 would break, and f16 for all others. */
enum engine_kv engine_kv_choose(const char *kv_dtype, const char *kernels);

/* What an operator chooses. 0 means the default. */
struct engine_config {
    uint32_t context_tokens; /* most tokens of a sequence; default and most: the model's */
    uint32_t block_tokens;   /* 16 */
    uint32_t rows_max;       /* most tokens in a step; 512 */
    uint32_t sequences_max;  /* most sequences in a step; 64 */
    uint32_t outputs_max;    /* most rows with logits in a step; sequences_max */
    uint64_t kv_bytes;       /* the pool; default: four whole contexts, at most a quarter of what is
                                available, at least one context */
    uint64_t swap_bytes;     /* most memory of the host for blocks that give way; 0: none */
    enum engine_kv kv;       /* what keys and values are stored in */
    uint64_t available_bytes; /* of a device with memory of its own; 0: the system's counts */
};

/* The sum, and what the backend is opened with. */
struct engine_plan {
    struct kv_layout *layout; /* engine_plan_close frees it, or the engine once opened */
    struct backend_shape shape;
    struct backend_limits limits;
    uint32_t context_tokens;
    uint32_t block_count;
    uint32_t swap_slots;   /* not in the sum: taken as it is used; at most a quarter of what is left
                              of the host's memory, and whole contexts for all of a step */
    uint64_t weight_bytes; /* as the file has them; a backend may keep a packed copy instead */
    uint64_t pool_bytes;
    uint64_t activation_bytes; /* buffers of a step, logits and the sampler's scratch */
    uint64_t total_bytes;
    uint64_t available_bytes; /* the system's, or the control group's, whichever is less */
};

/* Errors: ERR_BAD_INPUT (a number out of range, or kv_bytes below one context, said with the figure
 * that is needed), ERR_NO_MEMORY (the sum does not fit; the message has every term). */
status engine_plan(const struct model *model, const struct engine_config *config,
                   struct engine_plan *plan_out);
void engine_plan_close(struct engine_plan *plan);

/* The sum as one line for the log: "weights 98 MB + pool 64 MB + ... = 183 MB of ...". */
const char *engine_plan_text(const struct engine_plan *plan, char *text_out, size_t text_bytes);

struct engine;

/* Takes backend (opened for plan's shape and limits) and plan->layout (NULL in the plan after
 * that); on failure too: they are closed then. The model must outlive the engine. Errors: the
 * backend's, ERR_NO_MEMORY. */
status engine_open(const struct model *model, struct engine_plan *plan, struct backend *backend,
                   struct engine **engine_out);
void engine_close(struct engine *engine);

/* A token to pick from the logits of a sequence's last row. */
struct engine_sample {
    const struct sampling *sampling;
    const uint32_t *prompt_ids; /* history, see struct sampler_row */
    uint32_t prompt_count;
    const uint32_t *output_ids;
    uint32_t output_count;
    uint32_t sequence_index;
    struct sampled result; /* set by the step */
};

/* Log-probabilities of the rows' next tokens: row r scores token_ids[r + 1], and the last row
 * scores next_token_id unless it is ENGINE_NO_TOKEN. Every row that is scored counts as an output.
 */
struct engine_score {
    uint32_t next_token_id;
    uint32_t top_count;      /* 0 .. SAMPLING_LOGPROBS_MAX */
    struct sampled *results; /* [token_count] */
};

#define ENGINE_NO_TOKEN UINT32_MAX

/* One sequence's part of a step. */
struct engine_sequence {
    const uint32_t *token_ids;       /* [token_count] the tokens to run */
    uint32_t token_count;            /* at least 1 */
    uint32_t start_position;         /* table->token_count: what is in the blocks already */
    const struct block_table *table; /* reserved for token_count more */
    uint32_t sample_count;           /* 0: no token is wanted */
    struct engine_sample *samples;
    struct engine_score *score; /* NULL: no prompt log-probabilities */
    status outcome;             /* set by the step: OK, or ERR_CORRUPT when the logits of this
                                   sequence are no numbers; the others are not touched by that. When
                                   the step did not run, all have its error */
};

/* Outputs (rows with logits) that a sequence takes of limits.outputs_max. */
uint32_t engine_outputs_of(const struct engine_sequence *sequence);

/* Run one step and pick the tokens. The sums of rows, sequences and outputs are within the limits.
 * layer_ready(ctx, layer): called when the pool holds that layer of all rows; may be NULL.
 * Errors: ERR_BAD_INPUT (a token id outside the vocabulary, a table too short, a limit passed: the
 * step did not run), ERR_CORRUPT (the step ran, but some sequence's outcome is ERR_CORRUPT), the
 * backend's. */
status engine_step(struct engine *engine, struct engine_sequence *sequences, uint32_t count,
                   void (*layer_ready)(void *ctx, uint32_t layer), void *layer_ready_ctx);

/* The two halves of a step: between them the caller may prepare the next one. The sequences must
 * stay until wait. Every submit that answered OK is followed by one wait. */
status engine_submit(struct engine *engine, struct engine_sequence *sequences, uint32_t count,
                     void (*layer_ready)(void *ctx, uint32_t layer), void *layer_ready_ctx);
status engine_wait(struct engine *engine);

/* The logits of output (0 .. outputs of the last step - 1), until the next step: for tests. */
const float *engine_logits(const struct engine *engine, uint32_t output);

/* Copy a block (see struct block_copy); not between submit and wait. */
void engine_block_copy(struct engine *engine, block_id from, block_id to);

/* The device that the pool is in, for the carriers; NULL: it is memory of the host. */
struct backend *engine_moving_backend(const struct engine *engine);

/* Copy blocks to slots of the host's memory, and back. Not between submit and wait. Errors: ERR_IO.
 */
status engine_swap_out(struct engine *engine, const block_id *ids, const block_id *slots,
                       uint32_t count);
status engine_swap_in(struct engine *engine, const block_id *slots, const block_id *ids,
                      uint32_t count);
/* plan.swap_slots. */
uint32_t engine_swap_slots(const struct engine *engine);

const struct kv_layout *engine_layout(const struct engine *engine);
const struct backend_pool *engine_pool(const struct engine *engine);
const struct backend_limits *engine_limits(const struct engine *engine);
const char *engine_numerics_class(const struct engine *engine);
uint32_t engine_context_tokens(const struct engine *engine);
uint32_t engine_vocabulary(const struct engine *engine);
uint64_t engine_block_bytes(const struct engine *engine);

/* Since open. */
struct engine_counters {
    struct backend_counters backend;
    uint64_t steps, rows, outputs;
    uint64_t busy_ns; /* between submit and the end of wait */
};
void engine_count(const struct engine *engine, struct engine_counters *counters_out);

#endif
