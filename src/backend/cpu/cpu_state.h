/* backend/cpu/cpu_state.h - what cpu.c, project.c and attend.c share: the backend and its objects.
 *
 *     buffer   [rows_max or outputs_max][stride]  floats, stride = width rounded up to 16, and 16
 *     row      one token of the step: its position, and where its keys and values go in the pool
 *     unit     rows of one sequence for one kv head: what one thread attends for at a time
 *
 * Threads: the compute thread; team calls read it while a job runs.
 * Memory:  regions, mapped at open and when tensors are opened, unmapped at close.
 */
#ifndef BACKEND_CPU_CPU_STATE_H
#define BACKEND_CPU_CPU_STATE_H

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/pack.h"
#include "backend/cpu/team.h"

/* What attention has fixed-size arrays for; checked at open. */
#define ATTEND_DIMS_MAX 1024u   /* dimensions of a head */
#define ATTEND_QUERIES_MAX 512u /* query heads of one kv head */
#define DECODE_WAVE_UNITS 256u

struct region {
    struct region *next;
    uint8_t *base;
    size_t bytes, used;
};

struct backend_tensor {
    struct backend_tensor *next;
    struct backend_weight file; /* name is not kept */
    float *vector;              /* rows = 1: as floats */
    struct packed packed;       /* base NULL when not packed */
};

struct backend_buffer {
    struct backend_buffer *next;
    float *data;
    uint32_t width;
    size_t stride;
    bool outputs;
};

struct step_row {
    uint32_t position;
    uint32_t token; /* index in its block */
    block_id block;
};

struct attend_unit {
    uint32_t sequence;
    uint32_t first_row, row_count;
    uint32_t first_position;
};

/* One partition of a sequence that has one row: attend_decode.c. */
struct decode_unit {
    uint32_t sequence, partition;
};

struct cpu_backend {
    struct backend backend; /* first */
    struct backend_shape shape;
    struct backend_limits limits;
    const struct kernels *kernels;
    bool int8; /* quantised weights by integer products */
    bool bf16; /* BF16 weights by products of the class cpu-bf16 */
    struct team *team;
    struct region *regions;
    uint64_t nodes;                  /* of regions, pool and swap; 0: wherever */
    struct packed_file *packed_file; /* NULL: packed weights are in regions */
    struct backend_tensor *tensors;
    struct backend_buffer *buffers;
    struct backend_pool pool;
    uint8_t *swap; /* [swap_slots] blocks, or NULL */
    uint32_t swap_slots;
    struct backend_counters counters;

    const struct step *step; /* between step_begin and step_wait */
    struct step_row *rows;   /* [rows_max] */
    struct attend_unit *units;
    uint32_t unit_count;
    struct decode_unit *decode_units;
    uint32_t decode_unit_count, decode_units_max;
    float *decode_parts, *decode_sums;
    uint32_t decode_firsts[DECODE_WAVE_UNITS + 1]; /* of the sequences in a wave */
    double *frequencies;                           /* [rope_dims / 2] */
    float *cosines, *sines;                        /* [rows_max][rope_dims / 2] */

    uint8_t *scratch; /* scratch_bytes for each thread */
    size_t scratch_bytes;
    struct quant_rows quant; /* rows_max rows of the widest matrix; int8 only */
    uint32_t quant_columns;
    struct bf16_rows rounded; /* the same, rounded to bf16; groups of the rows in hand; bf16 only */
    uint32_t rounded_groups;  /* there is room for */
};

static inline struct cpu_backend *cpu_of(struct backend *backend)
{
    return (struct cpu_backend *)(void *)backend;
}

/* Zeroed memory that lives until close, aligned to 64; NULL when there is none. */
void *cpu_take(struct cpu_backend *cpu, size_t bytes);

static inline uint32_t buffer_rows(const struct cpu_backend *cpu,
                                   const struct backend_buffer *buffer)
{
    return buffer->outputs ? cpu->step->output_count : cpu->step->row_count;
}

static inline float *buffer_row(const struct backend_buffer *buffer, uint32_t row)
{
    return buffer->data + row * buffer->stride;
}

/* Rows in pieces of at most piece, for calls that go row by row. */
static inline uint32_t piece_count(uint32_t rows, uint32_t piece)
{
    return (rows + piece - 1) / piece;
}

/* Scratch bytes a thread needs. */
size_t project_scratch_bytes(const struct cpu_backend *cpu);
size_t attend_scratch_bytes(const struct cpu_backend *cpu);

void cpu_project(struct backend *backend, const struct backend_buffer *x,
                 const struct backend_projection *projections, uint32_t projection_count);
void cpu_attend(struct backend *backend, uint32_t layer, const struct backend_buffer *q,
                struct backend_buffer *o);
void cpu_rope_store(struct backend *backend, uint32_t layer, struct backend_buffer *q,
                    struct backend_buffer *k, const struct backend_buffer *v,
                    const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);

/* Fill rows, units and angles for the step. */
void attend_begin(struct cpu_backend *cpu);
/* Rows of a unit and how many units a step may have. */
uint32_t attend_unit_rows(const struct backend_shape *shape);
uint32_t attend_units_max(const struct cpu_backend *cpu);

/* y = x / rms(x) * weight, over width values. */
void norm_row(const struct kernels *kernels, const float *x, const float *weight, uint32_t width,
              float epsilon, float *y);

/* Bytes of a key or value of one head of a token in the pool. */
static inline size_t kv_token_bytes(const struct cpu_backend *cpu)
{
    size_t dims = cpu->shape.head_dim;
    return cpu->shape.kv_dtype == DTYPE_F32 ? dims * sizeof(float)
                                            : kv_row_bytes(cpu->shape.kv_dtype, dims);
}

/* Of keys and values in the pool's type; NULL for F32, which is for comparisons and has none. */
static inline const struct kv_kernels *kv_kernels_of(const struct cpu_backend *cpu)
{
    return cpu->shape.kv_dtype == DTYPE_F32 ? NULL : &cpu->kernels->kv[cpu->shape.kv_dtype];
}

/* The keys (plane 0) or values (1) of a token: head_dim numbers. */
static inline void *pool_token(const struct cpu_backend *cpu, block_id block, uint32_t layer,
                               uint32_t plane, uint32_t kv_head, uint32_t token)
{
    const struct backend_shape *s = &cpu->shape;
    size_t at = block * s->block_bytes + layer * s->layer_bytes + plane * (s->layer_bytes / 2) +
                ((size_t)kv_head * s->block_tokens + token) * kv_token_bytes(cpu);
    return cpu->pool.host + at;
}

#endif
