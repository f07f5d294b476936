/* backend/cuda/state.cuh - what the files of the CUDA backend share.
 *
 * Activations: x (the residual stream) and logits are float; everything between is bf16 when the
 * model's matrices are, else f16; q is f16 once it is rotated, as keys and values are. A buffer has
 * room for float rows and holds one form at a time. Products of several weights with one x run as
 * one when the weights lie one behind the other; then their y are columns of one wider buffer (data
 * and stride point into it).
 *
 *     the rest         cuda.cu      the plug-in: errors, calls, open and close
 *                      memory.cu    memory of the device, buffers
 *                      pool.cu      the pool of blocks, staging, swap
 *                      step.cu      descriptor, graphs, the end of a step
 *                      moves.cu     blocks of the pool for the carriers: moves.h;
 *                                   moves_hopper.cu from another GPU on sm_90
 *                      load.cu      the file's weights -> the device's form of them
 *     kernel files     rows.cu      embed, norm, gate, rope_store: a row at a time
 *                      stream.cu    y = W x for few rows: reads each weight once;
 *                                   stream_hopper.cu on sm_90
 *                      line.cu      of one row: several, norms and gates too, on sm_90
 *                                   as one kernel (line_hopper.cu)
 *                      band.cu      of 2 to 32 rows of bf16: likewise (band_hopper.cu)
 *                      batch_hopper.cu  for 9 to 32 rows, on sm_90
 *                      gemm.cu      y = W x for many rows: cuBLASLt
 *                      decode.cu    attention of single rows: splits the keys;
 *                                   decode_hopper.cu on sm_90
 *                      prefill.cu   attention of chunks of prompts; prefill_hopper.cu on sm_90
 *                      hopper.cu    tensor maps
 *                      pick.cu      logits -> tokens
 *
 * Threads: the compute thread, and no other; moves.cu but for open and close: the transfer thread.
 */
#ifndef BACKEND_CUDA_STATE_CUH
#define BACKEND_CUDA_STATE_CUH

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "backend/plugin.h"
#include "base/error.h"
}

#define PARTITION_KEYS 128u /* keys of one split of decode attention; fixed: see decode.cu */
#define DECODE_PARTIALS_BYTES ((size_t)256 << 20)
#define DECODE_SINGLES_MAX 1024u
#define DECODE_UNITS_MAX 32768u
#define TILE_ROWS 128u       /* rows of a prompt that one block of prefill.cu takes */
#define GRAPHS_MAX 96u
#define GEMM_PLANS 1024u

struct backend_tensor {
    enum dtype type; /* as it lies on the device: F32 vector, or F16, BF16, Q8_0, Q4_K matrix */
    uint32_t rows, columns;
    void *data;
    bool quantised; /* Q8_0 or Q4_K: quantised.cuh */
    size_t bytes;   /* read for one product */
};

struct backend_buffer {
    uint32_t width, rows;
    bool outputs;
    bool halves;        /* holds bf16 or f16 now, else float */
    char *storage;      /* rows x width floats */
    char *data;         /* of row 0: in storage, or in another buffer's */
    uint32_t stride;    /* values from row to row */
};

/* What changes from step to step, as the device has it: one copy, pointers into it. */
struct device_step {
    uint32_t *head; /* row_count, sequence_count, output_count, single_count; of decode_hopper.cu:
                     * where in tables its units begin, how many, keys of a partition */
    uint32_t *token_ids, *positions, *row_sequences, *output_rows;
    uint32_t *single_rows;  /* rows that decode.cu takes */
    uint32_t *tiles;        /* pairs (sequence, first row of the tile within it) for prefill.cu */
    uint32_t *first_rows, *row_counts, *starts, *table_offsets; /* of sequences */
    struct pick_wish *wishes;                                   /* [output_count] */
    uint32_t *tables; /* then the units of decode_hopper.cu */
};

struct pick_wish {
    float temperature; /* < 0: nothing is wanted */
    uint32_t pad;
    double uniform;
};

struct gemm_plan {
    uint32_t n, k, m, kind;
    bool known;
    cublasLtMatmulAlgo_t algo;
};

struct step_graph {
    uint32_t rows, partitions;
    cudaGraphExec_t exec; /* NULL: met once */
};

enum step_mode { STEP_EAGER, STEP_RECORD, STEP_REPLAY };

struct region {
    struct region *next;
    char *base;
    size_t bytes, used;
};

struct cuda_backend {
    struct backend backend;
    struct backend_shape shape;
    struct backend_limits limits;
    struct backend_plugin_options options;
    int processors;
    bool hopper; /* code for sm_90a runs */
    bool typed, bf16; /* the form of activations is known, and is bf16 */
    char class_name[32];
    cudaStream_t stream;
    cublasLtHandle_t lt;
    struct gemm_plan *plans;
    void *workspace;
    struct region *regions;

    char *staging[2]; /* pinned, for loading */
    cudaEvent_t staged[2];
    uint32_t staging_next;
    void *scratch; /* dequantised weights of one product, raw weights while loading */
    size_t scratch_bytes;

    struct backend_pool pool; /* host: where carriers put blocks down */
    char *pool_device, *staging_device; /* pool.host as the device sees it */
    struct cuda_moves *moving;
    char *swap; /* [swap_slots] blocks in memory of the host, or NULL */
    uint32_t swap_slots;
    bool swap_pinned;
    double *frequencies;

    const struct step *step; /* under way; moves.cu asks from another thread whether one is */
    size_t descriptor_bytes, tables_at;
    char *descriptor_host, *descriptor_device;
    struct device_step host, device;
    uint32_t single_count, tile_count, partitions; /* of the longest single row */
    uint32_t units_max;
    uint32_t rows, outputs;                        /* launched: padded when it is a graph */
    enum step_mode mode;
    struct step_graph graphs[GRAPHS_MAX], *graph;
    uint32_t graph_count;
    cudaEvent_t *layer_events;
    uint32_t layers_done;

    struct cuda_line *line; /* line.cu; or NULL */
    struct cuda_band *band; /* band.cu; or NULL */
    float *partials; /* decode.cu */
    uint32_t *arrivals;
    struct backend_picked *picked_host, *picked_device;
    float *row_host; /* one row of logits for the host's sampler */
    uint32_t row_host_index, row_host_width;

    status failed;
    char failure[256];
    struct backend_counters counters;
};

static inline struct cuda_backend *cuda_of(struct backend *backend)
{
    return (struct cuda_backend *)backend;
}

/* The first failure stays: step_submit and step_wait give it. */
bool cuda_good(struct cuda_backend *cuda, cudaError_t code, const char *what);
bool lt_good(struct cuda_backend *cuda, cublasStatus_t code, const char *what);

status cuda_failure(struct cuda_backend *cuda); /* of all so far, said */

/* memory.cu: until close; NULL when there is none. */
void *device_take(struct cuda_backend *cuda, size_t bytes);
status scratch_reserve(struct cuda_backend *cuda, size_t bytes);
status buffer_open(struct cuda_backend *cuda, uint32_t width, bool outputs,
                   struct backend_buffer **buffer_out);
void memory_close(struct cuda_backend *cuda);

/* pool.cu: as in backend.h. */
status pool_open(struct cuda_backend *cuda, uint32_t block_count, struct backend_pool *pool_out);
void pool_copy(struct cuda_backend *cuda, block_id from, block_id to);
status swap_open(struct cuda_backend *cuda, uint32_t slot_count);
status swap_out(struct cuda_backend *cuda, const block_id *ids, const block_id *slots,
                uint32_t count);
status swap_in(struct cuda_backend *cuda, const block_id *slots, const block_id *ids,
               uint32_t count);
void pool_close(struct cuda_backend *cuda);

/* step.cu: as in backend.h; open takes what steps need but the rotation's frequencies. */
uint32_t bucket_of(uint32_t rows); /* rows rounded up to what graphs are made for */
bool step_open(struct cuda_backend *cuda);
void step_begin(struct cuda_backend *cuda, const struct step *step);
void step_layer_done(struct cuda_backend *cuda, uint32_t layer);
status step_submit(struct cuda_backend *cuda);
status step_wait(struct cuda_backend *cuda);
const float *step_output_row(struct cuda_backend *cuda, const struct backend_buffer *buffer,
                             uint32_t output);
void step_close(struct cuda_backend *cuda);

/* Nothing is launched while a graph stands for it, nor after a failure. */
static inline bool launches(const struct cuda_backend *cuda)
{
    return cuda->mode != STEP_REPLAY && cuda->failed == OK;
}

/* The plug-in has code for sm_90a. */
bool hopper_has_code(void);

/* The operations; each named as in backend.h. */
void load_close(struct cuda_backend *cuda);
bool rope_open(struct cuda_backend *cuda);
status tensor_load(struct cuda_backend *cuda, const struct backend_weight *weight,
                   struct backend_tensor **tensor_out);
void rows_embed(struct cuda_backend *cuda, const struct backend_tensor *table,
                struct backend_buffer *x);
void rows_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y);
void rows_rope_store(struct cuda_backend *cuda, uint32_t layer, struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);
void rows_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h);
void rows_take_outputs(struct cuda_backend *cuda, const struct backend_buffer *x,
                       struct backend_buffer *y);
void rows_bias(struct cuda_backend *cuda, const struct backend_tensor *bias,
               struct backend_buffer *y);
/* decode_hopper.cu: the partitions of the single rows, listed in host.tables from at on, and in the
 * head. Returns how many were listed: 0, or all. */
uint32_t decode_units(struct cuda_backend *cuda, uint32_t at);
size_t decode_partial_bytes(const struct cuda_backend *cuda, uint32_t partitions);
void attend_singles(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                    struct backend_buffer *o);
void attend_tiles(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                  struct backend_buffer *o);
bool attend_tiles_can(const struct cuda_backend *cuda);
bool attend_hopper_can(const struct cuda_backend *cuda, const struct backend_buffer *q,
                       const struct backend_buffer *o);
void attend_hopper(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                   struct backend_buffer *o);
void pick_tokens(struct cuda_backend *cuda, const struct backend_buffer *logits);

/* moves.cu: after the pool, and before everything else goes. */
bool moves_open(struct cuda_backend *cuda);
void moves_close(struct cuda_backend *cuda);
size_t moves_pool_bytes(size_t bytes);

/* floor.cu: what plugin.h says. */
status floor_take(uint32_t device, double *read_bytes_per_s_out, double *operations_per_s_out);
status copy_floor_take(uint32_t device, uint32_t from, uint64_t bytes, double *alone_s_out,
                       double *behind_s_out);

/* One product of up to three weights that lie together or not. */
struct product {
    const struct backend_tensor *weights[3];
    const struct backend_tensor *biases[3];
    struct backend_buffer *ys[3];
    uint32_t count;
    const struct backend_buffer *x;
    bool accumulate;
    uint32_t rows; /* of x */
};
uint32_t stream_rows(const struct cuda_backend *cuda, const struct product *product);
void stream_product(struct cuda_backend *cuda, const struct product *product);
void gemm_product(struct cuda_backend *cuda, const struct product *product);
/* Its weights lie one behind the other, and so do its ys. */
bool product_joint(const struct product *product);
bool batch_can(const struct cuda_backend *cuda, const struct product *product);
void batch_product(struct cuda_backend *cuda, const struct product *product);
/* line.cu: true when the operation is kept back for a line; then it has happened for those
 * that are kept back too, and for all others after line_flush. A normed row is stored only if
 * somebody else than products of the line reads it next. */
bool line_open(struct cuda_backend *cuda);
void line_close(struct cuda_backend *cuda);
bool line_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y);
bool line_product(struct cuda_backend *cuda, const struct product *product);
bool line_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h);
/* The rotation too, whoever makes it: nothing is kept back afterwards. */
void line_rope_store(struct cuda_backend *cuda, uint32_t layer, struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);
void line_flush(struct cuda_backend *cuda);
/* band.cu: the same for several rows; line.cu's calls call it. */
bool band_open(struct cuda_backend *cuda);
void band_close(struct cuda_backend *cuda);
bool band_can(const struct cuda_backend *cuda);
bool band_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y);
bool band_product(struct cuda_backend *cuda, const struct product *product);
bool band_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h);
/* The last product of the band becomes one that also does this, if it can. */
bool band_rope_store(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);
void band_flush(struct cuda_backend *cuda);
/* A quantised matrix as activations are stored, in cuda->scratch. */
void tensor_unpack(struct cuda_backend *cuda, const struct backend_tensor *tensor, void *to);

template <typename T> __device__ inline float to_float(T value);
template <> __device__ inline float to_float(float value)
{
    return value;
}
template <> __device__ inline float to_float(__half value)
{
    return __half2float(value);
}
template <> __device__ inline float to_float(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}
template <typename T> __device__ inline T from_float(float value);
template <> __device__ inline float from_float(float value)
{
    return value;
}
template <> __device__ inline __half from_float(float value)
{
    return __float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f));
}
template <> __device__ inline __nv_bfloat16 from_float(float value)
{
    return __float2bfloat16_rn(value);
}

template <typename T> __device__ inline T gated(T gate, T up)
{
    float x = to_float(gate);
    return from_float<T>(x / (1.0f + __expf(-x)) * to_float(up));
}

/* ---- chains: a kernel may begin while the one before it ends ----
 *
 * It says chain_next() when those behind it may, and chain_wait() before it touches what any kernel
 * before it writes or reads: then all of these are over. So every thread that writes must wait, in
 * every kernel of a chain, and before the wait only weights may be read, the step's descriptor, and
 * keys and values of earlier steps: the first kernel of a step is not in the chain. */
#define CHAIN_ROWS 512u /* with more the gaps between kernels are nothing */

__device__ inline void chain_next(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void chain_wait(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* cluster: blocks that share their shared memory. */
template <typename... Parameters, typename... Arguments>
static inline void chain_clusters(struct cuda_backend *cuda, void (*kernel)(Parameters...),
                                  dim3 grid, uint32_t cluster, dim3 block, size_t shared_bytes,
                                  Arguments... arguments)
{
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = cuda->stream;
    config.attrs = attributes;
    if (cuda->hopper && cuda->rows <= CHAIN_ROWS) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs++].val.clusterDim = {cluster, 1, 1};
    }
    cuda_good(cuda, cudaLaunchKernelEx(&config, kernel, arguments...), "launch of a kernel");
}

template <typename... Parameters, typename... Arguments>
static inline void chain(struct cuda_backend *cuda, void (*kernel)(Parameters...), dim3 grid,
                         dim3 block, size_t shared_bytes, Arguments... arguments)
{
    chain_clusters(cuda, kernel, grid, 1, block, shared_bytes, arguments...);
}

/* Call f<T>(...) for the type of activations. */
#define BY_TYPE(cuda, f, ...)                                                                      \
    ((cuda)->bf16 ? f<__nv_bfloat16>(__VA_ARGS__) : f<__half>(__VA_ARGS__))

#endif
