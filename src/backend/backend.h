/* backend/backend.h - what a device must be able to do: a CPU here, a GPU as a plug-in.
 *
 * A step is one pass of a batch of rows (tokens) of several sequences through the model:
 *
 *     step_begin(descriptor)         all that changes per step, handed over once
 *       embed                        token ids -> x [rows][width]
 *       per layer:
 *         norm, project              x -> q, k, v
 *         rope_store                 rotate q and k; write k and v into the blocks of the pool
 *         layer_done                 "the pool holds this layer of all rows of this step"
 *         attend                     q and the pool -> o
 *         project (accumulate)       x += Wo o
 *         norm, project, gate, project (accumulate)
 *       take_outputs, norm, project  only the rows that want logits -> logits [outputs][vocabulary]
 *                                    (no row does: the step ends with the last layer_done)
 *     step_submit ... step_wait      the next step may be prepared in between
 *
 * Calls between step_begin and step_submit enqueue work in order; no call reads host data of the
 * engine but the descriptor, which stays untouched until step_wait. A backend may run them at once
 * (CPU) or record them (CUDA graph, one per bucket of shapes).
 *
 * Numerics: every backend names a class. Within a class a row's results are bit for bit the same
 * alone, in any batch, in any chunking, on any number of threads: each output value is computed by
 * one fixed order of operations that depends only on its own row.
 *
 * Threads:  one compute thread makes every call; layer_ready may be called on any thread.
 * Memory:   tensors, buffers and the pool live until close; nothing is allocated inside a step.
 */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/moves.h"
#include "base/dtype.h"
#include "base/status.h"
#include "base/synthetic.h"

typedef uint32_t block_id; /* index of a block in the pool: 0 .. block_count - 1 */

struct backend;
struct backend_tensor; /* weights, in whatever form the device likes them */
struct backend_buffer; /* activations: rows_max rows of one width */

/* A weight as the model file has it: rows x columns, row-major, columns the summed dimension. */
struct backend_weight {
    const char *name; /* for messages */
    enum dtype type;
    uint32_t rows, columns; /* a vector has rows = 1 */
    const void *data;       /* dtype_row_bytes(type, columns) * rows bytes; outlives the backend */
    struct synthetic synthetic; /* data NULL (--dummy-weights): value row * columns + column is that
                                   of synthetic_fill; the type is F32, F16 or BF16 */
    bool lookup_only; /* read by embed and never by project: need not be packed for it. A table
                         that is also the output head (tied) leaves it false, and is opened
                         once. */
};

enum rope_style {
    ROPE_PAIRS,  /* (0,1), (2,3), ...: llama files */
    ROPE_HALVES, /* (0,d/2), (1,d/2+1), ...: qwen files */
};

/* The part of a model that attention and the pool depend on; constant after open. */
struct backend_shape {
    uint32_t layer_count;
    uint32_t head_count; /* query heads; a multiple of kv_head_count */
    uint32_t kv_head_count;
    uint32_t head_dim;
    uint32_t block_tokens;
    enum dtype kv_dtype; /* F16; Q8_0, and F32 for comparisons, where a backend has it */
    size_t block_bytes;  /* one block: [layer][k,v][kv_head][token][head_dim] */
    size_t layer_bytes;  /* one layer of it, k and v */
    enum rope_style rope_style;
    uint32_t rope_dims; /* leading dimensions of a head that are rotated */
    float rope_theta;
    const float *rope_factors; /* rope_dims / 2 divisors of the frequencies, or NULL */
    float norm_epsilon;
};

/* Capacities of a step: arrays and buffers are made for these once. */
struct backend_limits {
    uint32_t rows_max;
    uint32_t sequences_max;
    uint32_t outputs_max;      /* rows that want logits */
    uint32_t table_blocks_max; /* blocks of one sequence */
};

/* One sequence's part of a step. Its rows are consecutive, at consecutive positions. */
struct step_sequence {
    uint32_t first_row;
    uint32_t row_count;
    uint32_t start_position;   /* of the first row; the blocks hold all positions before it */
    const block_id *block_ids; /* covers start_position + row_count tokens */
    uint32_t block_count;
};

/* A token that the device shall pick from an output's logits, so that they need not be copied. */
struct backend_pick {
    bool wanted;
    float temperature; /* 0: the largest, ties: the lowest id. Else drawn from
                          exp((logit - largest) / temperature), in order of token ids */
    double uniform;    /* 0 <= u < 1 */
};

struct backend_picked {
    uint32_t token_id;
    bool corrupt; /* a NaN or +inf among the logits, or nothing but -inf: no token */
};

/* The step descriptor. Rows of a sequence are in position order; sequences are in any order. */
struct step {
    uint32_t row_count;
    const uint32_t *token_ids; /* [row_count] */
    uint32_t sequence_count;
    const struct step_sequence *sequences;
    uint32_t output_count;
    const uint32_t *output_rows;      /* [output_count] rows that want logits */
    const struct backend_pick *picks; /* [output_count]; read by pick */
    /* Called when layer_done(layer) has happened on the device. May be NULL. */
    void (*layer_ready)(void *ctx, uint32_t layer);
    void *layer_ready_ctx;
};

/* y = W x (+ bias), or y += W x + bias when accumulate is set. */
struct backend_projection {
    const struct backend_tensor *weight;
    const struct backend_tensor *bias; /* or NULL */
    struct backend_buffer *y;          /* width = weight rows */
    bool accumulate;
};

/* The pool's memory, for the carriers. */
struct backend_pool {
    uint32_t block_count;
    uint8_t
        *host; /* block i is at host + i * block_bytes. Of a device (backend.moves) it is where
                  blocks are put down on their way: see MOVE_OUT, MOVE_IN. NULL: there is none */
    int fd;    /* memfd behind host, or -1 */
    size_t bytes;
};

/* What was done since open: for "how near to its limits is this worker". */
struct backend_counters {
    uint64_t operations;      /* multiply and add count as two */
    uint64_t int8_operations; /* of them, those of 8-bit integers */
    uint64_t bf16_operations; /* of them, those of bf16 numbers in a class that rounds to them */
    uint64_t bytes;           /* weights and KV read from memory, as the floor counts them */
};

/* The calls of a backend. All are set but where it says otherwise. */
struct backend_calls {
    void (*close)(struct backend *backend);

    /* Errors: ERR_UNSUPPORTED (a type this backend does not compute), ERR_NO_MEMORY. */
    status (*tensor_open)(struct backend *backend, const struct backend_weight *weight,
                          struct backend_tensor **tensor_out);

    /* All tensors are open. NULL: nothing to do then. */
    void (*weights_done)(struct backend *backend);

    /* rows_max rows of width values; outputs: outputs_max rows instead. */
    status (*buffer_open)(struct backend *backend, uint32_t width, bool outputs,
                          struct backend_buffer **buffer_out);

    /* Once. Zeroed. Errors: ERR_NO_MEMORY. */
    status (*pool_open)(struct backend *backend, uint32_t block_count,
                        struct backend_pool *pool_out);

    /* Copy one block inside the pool; not inside a step. */
    void (*block_copy)(struct backend *backend, block_id from, block_id to);

    /* Room for slot_count blocks in memory of the host, once, beside the pool. Its pages are taken
     * as they are used, where the device does not want them pinned. Errors: ERR_NO_MEMORY. */
    status (*swap_open)(struct backend *backend, uint32_t slot_count);

    /* Copy pool block ids[i] to slot slots[i], or back; done on return. Not inside a step. Errors:
     * ERR_IO when the device failed. */
    status (*swap_out)(struct backend *backend, const block_id *ids, const block_id *slots,
                       uint32_t count);
    status (*swap_in)(struct backend *backend, const block_id *slots, const block_id *ids,
                      uint32_t count);

    void (*step_begin)(struct backend *backend, const struct step *step);
    void (*embed)(struct backend *backend, const struct backend_tensor *table,
                  struct backend_buffer *x);
    /* y = x / rms(x) * weight, over rows, or over outputs when both are output buffers. */
    void (*norm)(struct backend *backend, const struct backend_buffer *x,
                 const struct backend_tensor *weight, struct backend_buffer *y);
    /* All of them read the same x. */
    void (*project)(struct backend *backend, const struct backend_buffer *x,
                    const struct backend_projection *projections, uint32_t projection_count);
    /* q_norm, k_norm: weights of a norm per head before the rotation, or NULL. */
    void (*rope_store)(struct backend *backend, uint32_t layer, struct backend_buffer *q,
                       struct backend_buffer *k, const struct backend_buffer *v,
                       const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);
    void (*attend)(struct backend *backend, uint32_t layer, const struct backend_buffer *q,
                   struct backend_buffer *o);
    /* h = silu(gate) * up; h may be gate. */
    void (*gate)(struct backend *backend, const struct backend_buffer *gate,
                 const struct backend_buffer *up, struct backend_buffer *h);
    void (*layer_done)(struct backend *backend, uint32_t layer);
    /* y [outputs] = the rows of x that the step wants logits of. */
    void (*take_outputs)(struct backend *backend, const struct backend_buffer *x,
                         struct backend_buffer *y);
    /* Pick the tokens that step.picks asks for. NULL: the engine's sampler picks them all. */
    void (*pick)(struct backend *backend, const struct backend_buffer *logits);
    status (*step_submit)(struct backend *backend);
    /* After it, every result is there. Errors: ERR_IO when the device failed; it stays failed. */
    status (*step_wait)(struct backend *backend);

    /* One row of an output buffer as floats, for the host's sampler; after step_wait, until the
     * next step_begin. width floats. */
    const float *(*output_row)(struct backend *backend, const struct backend_buffer *buffer,
                               uint32_t output);

    /* What pick found, as output_row. NULL when pick is. */
    const struct backend_picked *(*picked)(struct backend *backend, uint32_t output);

    void (*counters)(const struct backend *backend, struct backend_counters *counters_out);
};

struct backend {
    const struct backend_calls *calls;
    const char *name;                  /* "cpu" */
    const char *numerics_class;        /* "cpu-float", "cpu-int8", ...: part of every block key */
    const struct backend_moves *moves; /* NULL: the pool is memory of the host */
};

#endif
