/* backend/cuda/cuda.cu - the plug-in: errors, the calls of a backend, open and close. state.cuh has
 * the picture. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/state.cuh"

/* ---- errors ---- */

static const struct backend_plugin_host *host_side;

extern "C" void error_write(const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    host_side->error_write("%s", text);
}

bool cuda_good(struct cuda_backend *cuda, cudaError_t code, const char *what)
{
    if (code == cudaSuccess)
        return true;
    if (cuda->failed == OK) {
        cuda->failed = code == cudaErrorMemoryAllocation ? ERR_NO_MEMORY : ERR_IO;
        snprintf(cuda->failure, sizeof(cuda->failure), "cuda:%u: %s: %s (%s)",
                 cuda->options.device, what, cudaGetErrorName(code), cudaGetErrorString(code));
    }
    return false;
}

bool lt_good(struct cuda_backend *cuda, cublasStatus_t code, const char *what)
{
    if (code == CUBLAS_STATUS_SUCCESS)
        return true;
    if (cuda->failed == OK) {
        cuda->failed = ERR_IO;
        snprintf(cuda->failure, sizeof(cuda->failure), "cuda:%u: %s: cuBLASLt error %d",
                 cuda->options.device, what, (int)code);
    }
    return false;
}

status cuda_failure(struct cuda_backend *cuda)
{
    return cuda->failed == OK ? OK : error_set(cuda->failed, "%s", cuda->failure);
}

/* ---- memory, and steps ---- */

static status cuda_tensor_open(struct backend *backend, const struct backend_weight *weight,
                               struct backend_tensor **tensor_out)
{
    return tensor_load(cuda_of(backend), weight, tensor_out);
}

static status cuda_buffer_open(struct backend *backend, uint32_t width, bool outputs,
                               struct backend_buffer **buffer_out)
{
    return buffer_open(cuda_of(backend), width, outputs, buffer_out);
}

static status cuda_pool_open(struct backend *backend, uint32_t block_count,
                             struct backend_pool *pool_out)
{
    return pool_open(cuda_of(backend), block_count, pool_out);
}

static void cuda_block_copy(struct backend *backend, block_id from, block_id to)
{
    pool_copy(cuda_of(backend), from, to);
}

static status cuda_swap_open(struct backend *backend, uint32_t slot_count)
{
    return swap_open(cuda_of(backend), slot_count);
}

static status cuda_swap_out(struct backend *backend, const block_id *ids, const block_id *slots,
                            uint32_t count)
{
    return swap_out(cuda_of(backend), ids, slots, count);
}

static status cuda_swap_in(struct backend *backend, const block_id *slots, const block_id *ids,
                           uint32_t count)
{
    return swap_in(cuda_of(backend), slots, ids, count);
}

static void cuda_step_begin(struct backend *backend, const struct step *step)
{
    step_begin(cuda_of(backend), step);
}

static status cuda_step_submit(struct backend *backend)
{
    line_flush(cuda_of(backend));
    return step_submit(cuda_of(backend));
}

static status cuda_step_wait(struct backend *backend)
{
    return step_wait(cuda_of(backend));
}

static const float *cuda_output_row(struct backend *backend, const struct backend_buffer *buffer,
                                    uint32_t output)
{
    return step_output_row(cuda_of(backend), buffer, output);
}

static const struct backend_picked *cuda_picked(struct backend *backend, uint32_t output)
{
    return &cuda_of(backend)->picked_host[output];
}

static void cuda_counters(const struct backend *backend, struct backend_counters *counters_out)
{
    *counters_out = ((const struct cuda_backend *)backend)->counters;
}

/* ---- the operations ---- */

static void cuda_embed(struct backend *backend, const struct backend_tensor *table,
                       struct backend_buffer *x)
{
    struct cuda_backend *cuda = cuda_of(backend);
    cuda->counters.bytes += cuda->step->row_count * (table->bytes / table->rows);
    rows_embed(cuda, table, x);
}

static void cuda_norm(struct backend *backend, const struct backend_buffer *x,
                      const struct backend_tensor *weight, struct backend_buffer *y)
{
    if (!line_norm(cuda_of(backend), x, weight, y))
        rows_norm(cuda_of(backend), x, weight, y);
}

/* Columns of the first one's storage for all of them when they fit, so that one product can write
 * them. */
static void ys_place(struct product *product)
{
    struct backend_buffer *first = product->ys[0];
    uint32_t width = 0;
    for (uint32_t i = 0; i < product->count; i++)
        width += product->weights[i]->rows;
    bool together = !first->outputs && width <= 2 * first->width;
    for (uint32_t i = 0, before = 0; i < product->count; i++) {
        struct backend_buffer *y = product->ys[i];
        if (product->accumulate)
            continue;
        y->halves = !y->outputs;
        y->data = together ? first->storage + before * 2 : y->storage;
        y->stride = together ? width : y->width;
        before += product->weights[i]->rows;
    }
}

/* Few rows stream the weights; with many the tensor cores are what is short. */
static bool streams(const struct cuda_backend *cuda, const struct product *product)
{
    if (cuda->options.deterministic)
        return true;
    return product->rows <= stream_rows(cuda, product) || product->x->stride % 8 != 0 ||
           product->weights[0]->columns % 8 != 0 || product->ys[0]->stride % 8 != 0;
}

static void cuda_project(struct backend *backend, const struct backend_buffer *x,
                         const struct backend_projection *projections, uint32_t count)
{
    struct cuda_backend *cuda = cuda_of(backend);
    uint32_t real = x->outputs ? cuda->step->output_count : cuda->step->row_count;
    struct product product = {};
    product.count = count;
    product.x = x;
    product.accumulate = projections[0].accumulate;
    product.rows = x->outputs ? cuda->outputs : cuda->rows;
    for (uint32_t i = 0; i < count; i++) {
        product.weights[i] = projections[i].weight;
        product.biases[i] = projections[i].bias;
        product.ys[i] = projections[i].y;
        cuda->counters.bytes += projections[i].weight->bytes;
        cuda->counters.operations +=
            2ull * real * projections[i].weight->rows * projections[i].weight->columns;
    }
    ys_place(&product);
    if (!launches(cuda))
        return;
    bool alike = true;
    for (uint32_t i = 1; i < count; i++)
        alike = alike && product.weights[i]->type == product.weights[0]->type;
    for (uint32_t i = 0; i < (alike ? 1 : count); i++) {
        struct product one = product;
        if (!alike) {
            one.count = 1;
            one.weights[0] = product.weights[i];
            one.biases[0] = product.biases[i];
            one.ys[0] = product.ys[i];
        }
        if (line_product(cuda, &one))
            continue;
        if (streams(cuda, &one))
            stream_product(cuda, &one);
        else if (batch_can(cuda, &one))
            batch_product(cuda, &one);
        else
            gemm_product(cuda, &one);
    }
}

static void cuda_rope_store(struct backend *backend, uint32_t layer, struct backend_buffer *q,
                            struct backend_buffer *k, const struct backend_buffer *v,
                            const struct backend_tensor *q_norm,
                            const struct backend_tensor *k_norm)
{
    line_rope_store(cuda_of(backend), layer, q, k, v, q_norm, k_norm);
}

static void cuda_attend(struct backend *backend, uint32_t layer, const struct backend_buffer *q,
                        struct backend_buffer *o)
{
    struct cuda_backend *cuda = cuda_of(backend);
    o->halves = true;
    o->data = o->storage;
    o->stride = o->width;
    if (!launches(cuda))
        return;
    line_flush(cuda);
    if (cuda->tile_count > 0)
        attend_tiles(cuda, layer, q, o);
    if (cuda->single_count > 0)
        attend_singles(cuda, layer, q, o);
}

static void cuda_gate(struct backend *backend, const struct backend_buffer *gate,
                      const struct backend_buffer *up, struct backend_buffer *h)
{
    if (!line_gate(cuda_of(backend), gate, up, h))
        rows_gate(cuda_of(backend), gate, up, h);
}

static void cuda_layer_done(struct backend *backend, uint32_t layer)
{
    step_layer_done(cuda_of(backend), layer);
}

static void cuda_take_outputs(struct backend *backend, const struct backend_buffer *x,
                              struct backend_buffer *y)
{
    line_flush(cuda_of(backend));
    rows_take_outputs(cuda_of(backend), x, y);
}

static void cuda_pick(struct backend *backend, const struct backend_buffer *logits)
{
    line_flush(cuda_of(backend));
    pick_tokens(cuda_of(backend), logits);
}

/* ---- open and close ---- */

static void cuda_close(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_of(backend);
    (void)cudaDeviceSynchronize();
    moves_close(cuda);
    step_close(cuda);
    line_close(cuda);
    load_close(cuda);
    pool_close(cuda);
    memory_close(cuda);
    if (cuda->lt != NULL)
        (void)cublasLtDestroy(cuda->lt);
    if (cuda->stream != NULL)
        (void)cudaStreamDestroy(cuda->stream);
    free(cuda);
}

static struct backend_calls calls_make(void)
{
    struct backend_calls calls = {};
    calls.close = cuda_close;
    calls.tensor_open = cuda_tensor_open;
    calls.buffer_open = cuda_buffer_open;
    calls.pool_open = cuda_pool_open;
    calls.block_copy = cuda_block_copy;
    calls.swap_open = cuda_swap_open;
    calls.swap_out = cuda_swap_out;
    calls.swap_in = cuda_swap_in;
    calls.step_begin = cuda_step_begin;
    calls.embed = cuda_embed;
    calls.norm = cuda_norm;
    calls.project = cuda_project;
    calls.rope_store = cuda_rope_store;
    calls.attend = cuda_attend;
    calls.gate = cuda_gate;
    calls.layer_done = cuda_layer_done;
    calls.take_outputs = cuda_take_outputs;
    calls.pick = cuda_pick;
    calls.step_submit = cuda_step_submit;
    calls.step_wait = cuda_step_wait;
    calls.output_row = cuda_output_row;
    calls.picked = cuda_picked;
    calls.counters = cuda_counters;
    return calls;
}

static const struct backend_calls cuda_calls = calls_make();

static status device_check(uint32_t device)
{
    int count = 0, major = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess)
        return error_set(ERR_UNSUPPORTED,
                         "no CUDA device can be used: %s; check the driver with nvidia-smi (this "
                         "build needs one for CUDA %d.%d)",
                         cudaGetErrorString(code), CUDART_VERSION / 1000,
                         CUDART_VERSION % 1000 / 10);
    if (device >= (uint32_t)count)
        return error_set(ERR_UNSUPPORTED, "cuda:%u: expected a device below %d, the number of them",
                         device, count);
    code = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, (int)device);
    if (code != cudaSuccess || major < 8)
        return error_set(ERR_UNSUPPORTED,
                         "cuda:%u: expected compute capability 8.0 or more, found %d.x", device,
                         major);
    code = cudaSetDevice((int)device);
    if (code != cudaSuccess)
        return error_set(ERR_IO, "cuda:%u: %s", device, cudaGetErrorString(code));
    return OK;
}

static status plugin_memory(uint32_t device, uint64_t *available_out)
{
    size_t available, total;
    status result = device_check(device);
    if (result != OK)
        return result;
    cudaError_t code = cudaMemGetInfo(&available, &total);
    if (code != cudaSuccess)
        return error_set(ERR_IO, "cuda:%u: %s", device, cudaGetErrorString(code));
    *available_out = available;
    return OK;
}

static status plugin_floor(uint32_t device, double *read_bytes_per_s_out,
                           double *operations_per_s_out)
{
    status result = device_check(device);
    return result == OK ? floor_take(device, read_bytes_per_s_out, operations_per_s_out) : result;
}

static status plugin_copy_floor(uint32_t device, uint32_t from, uint64_t bytes,
                                double *alone_s_out, double *behind_s_out)
{
    status result = device_check(from);
    if (result == OK)
        result = device_check(device);
    return result == OK ? copy_floor_take(device, from, bytes, alone_s_out, behind_s_out) : result;
}

static bool device_look(struct cuda_backend *cuda)
{
    int device = (int)cuda->options.device, major = 0;
    bool good = cuda_good(cuda,
                          cudaDeviceGetAttribute(&cuda->processors,
                                                 cudaDevAttrMultiProcessorCount, device),
                          "device") &&
                cuda_good(cuda,
                          cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                          "device");
    cuda->hopper = major == 9 && hopper_has_code();
    return good;
}

static status plugin_open(const struct backend_shape *shape, const struct backend_limits *limits,
                          const struct backend_plugin_options *options,
                          struct backend **backend_out)
{
    status result = device_check(options->device);
    if (result != OK)
        return result;
    if (shape->kv_dtype != DTYPE_F16)
        return error_set(ERR_UNSUPPORTED,
                         "KV type: the cuda backend keeps f16; use --kv-dtype f16");
    struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof(*cuda));
    if (cuda == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a backend");
    cuda->backend.calls = &cuda_calls;
    cuda->backend.name = "cuda";
    snprintf(cuda->class_name, sizeof(cuda->class_name), "cuda");
    cuda->backend.numerics_class = cuda->class_name;
    cuda->shape = *shape;
    cuda->limits = *limits;
    cuda->options = *options;
    cuda->pool.fd = -1;
    bool good = device_look(cuda) &&
                cuda_good(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                          "stream") &&
                lt_good(cuda, cublasLtCreate(&cuda->lt), "cuBLASLt") && step_open(cuda) &&
                line_open(cuda) && rope_open(cuda);
    cuda->shape.rope_factors = NULL;
    if (!good) {
        result = cuda_failure(cuda);
        cuda_close(&cuda->backend);
        return result;
    }
    *backend_out = &cuda->backend;
    return OK;
}

static const struct backend_plugin plugin = {BACKEND_PLUGIN_VERSION, "cuda", plugin_memory,
                                             plugin_floor, plugin_copy_floor, plugin_open};

extern "C" __attribute__((visibility("default"))) const struct backend_plugin *
baton_backend_plugin(const struct backend_plugin_host *host)
{
    if (host->version != BACKEND_PLUGIN_VERSION)
        return NULL;
    host_side = host;
    return &plugin;
}
