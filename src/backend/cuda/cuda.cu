/* backend/cuda/cuda.cu - the backend itself: memory, steps, graphs, errors. state.cuh has the
 * picture.
 *
 * A step of single rows (decode) is a graph: run as it is when its bucket is met first (kernels
 * are loaded then), recorded the second time, afterwards replayed by one launch. A bucket is (rows,
 * partitions of keys), both rounded up; what changes from step to step is in the descriptor, which
 * the graph's kernels read on the device. Rows that only fill the bucket compute something of no
 * use: they store nothing into the pool. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cuda/state.cuh"

#define REGION_BYTES ((size_t)256 << 20)
#define WORKSPACE_BYTES ((size_t)64 << 20)
#define GRAPH_ROWS_MAX 512u

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

static status failure(struct cuda_backend *cuda)
{
    return cuda->failed == OK ? OK : error_set(cuda->failed, "%s", cuda->failure);
}

/* ---- memory ---- */

void *device_take(struct cuda_backend *cuda, size_t bytes)
{
    size_t size = (bytes + 255) / 256 * 256;
    struct region *region = cuda->regions;
    if (region == NULL || region->bytes - region->used < size) {
        region = (struct region *)malloc(sizeof(*region));
        if (region == NULL)
            return NULL;
        region->next = cuda->regions;
        region->bytes = size > REGION_BYTES ? size : REGION_BYTES;
        region->used = 0;
        void *base;
        cudaError_t code = cudaMalloc(&base, region->bytes);
        if (code == cudaErrorMemoryAllocation && region->bytes > size) {
            (void)cudaGetLastError();
            region->bytes = size;
            code = cudaMalloc(&base, region->bytes);
        }
        if (code != cudaSuccess) {
            (void)cudaGetLastError();
            free(region);
            return NULL;
        }
        region->base = (char *)base;
        cuda->regions = region;
    }
    void *taken = region->base + region->used;
    region->used += size;
    return taken;
}

status scratch_reserve(struct cuda_backend *cuda, size_t bytes)
{
    if (bytes <= cuda->scratch_bytes)
        return OK;
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "loading");
    if (cuda->scratch != NULL)
        cuda_good(cuda, cudaFree(cuda->scratch), "scratch");
    cuda->scratch = NULL;
    cuda->scratch_bytes = 0;
    if (!cuda_good(cuda, cudaMalloc(&cuda->scratch, bytes), "scratch for weights"))
        return failure(cuda);
    cuda->scratch_bytes = bytes;
    return OK;
}

static status cuda_tensor_open(struct backend *backend, const struct backend_weight *weight,
                               struct backend_tensor **tensor_out)
{
    return tensor_load(cuda_of(backend), weight, tensor_out);
}

static uint32_t bucket_of(uint32_t rows)
{
    uint32_t bucket = 1;
    while (bucket < rows)
        bucket = bucket < 8      ? bucket * 2
                 : bucket < 32   ? bucket + 8
                 : bucket < 128  ? bucket + 16
                                 : bucket + 64;
    return bucket;
}

static status cuda_buffer_open(struct backend *backend, uint32_t width, bool outputs,
                               struct backend_buffer **buffer_out)
{
    struct cuda_backend *cuda = cuda_of(backend);
    struct backend_buffer *buffer = (struct backend_buffer *)calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a buffer");
    buffer->width = width;
    buffer->rows = outputs ? cuda->limits.outputs_max : cuda->limits.rows_max;
    buffer->outputs = outputs;
    buffer->stride = width;
    size_t bytes = (size_t)bucket_of(buffer->rows) * width * sizeof(float);
    buffer->storage = buffer->data = (char *)device_take(cuda, bytes);
    if (buffer->storage == NULL) {
        free(buffer);
        return error_set(ERR_NO_MEMORY, "the device has no memory for a buffer of %zu bytes",
                         bytes);
    }
    cuda_good(cuda, cudaMemsetAsync(buffer->storage, 0, bytes, cuda->stream), "buffer");
    if (outputs && width > cuda->row_host_width) {
        if (cuda->row_host != NULL)
            cuda_good(cuda, cudaFreeHost(cuda->row_host), "pinned memory");
        cuda_good(cuda, cudaMallocHost((void **)&cuda->row_host, width * sizeof(float)),
                  "pinned memory");
        cuda->row_host_width = width;
    }
    *buffer_out = buffer;
    return failure(cuda);
}

/* A memory file, pinned, where carriers that start from the host put blocks down. */
static status staging_open(struct cuda_backend *cuda)
{
    size_t bytes = cuda->pool.bytes;
    int fd = memfd_create("baton-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        status code = error_set(ERR_NO_MEMORY,
                                "no host memory for the copy of a pool of %zu bytes: %s", bytes,
                                strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    cuda->pool.host = (uint8_t *)at;
    cuda->pool.fd = fd;
    if (!cuda_good(cuda, cudaHostRegister(at, bytes, cudaHostRegisterMapped), "pinned memory") ||
        !cuda_good(cuda, cudaHostGetDevicePointer((void **)&cuda->staging_device, at, 0),
                   "pinned memory"))
        return failure(cuda);
    return OK;
}

static status cuda_pool_open(struct backend *backend, uint32_t block_count,
                             struct backend_pool *pool_out)
{
    struct cuda_backend *cuda = cuda_of(backend);
    size_t bytes = (size_t)block_count * cuda->shape.block_bytes;
    if (cuda->shape.layer_bytes % 16 != 0)
        return error_set(ERR_UNSUPPORTED,
                         "cuda:%u: a layer of a block is %zu bytes, expected a multiple of 16",
                         cuda->options.device, cuda->shape.layer_bytes);
    cudaError_t code = cudaMalloc((void **)&cuda->pool_device, moves_pool_bytes(bytes));
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        return error_set(ERR_NO_MEMORY,
                         "cuda:%u has no memory for a KV pool of %zu bytes: give fewer with "
                         "--kv-bytes",
                         cuda->options.device, bytes);
    }
    cuda_good(cuda, cudaMemsetAsync(cuda->pool_device, 0, bytes, cuda->stream), "pool");
    cuda->pool.block_count = block_count;
    cuda->pool.host = NULL;
    cuda->pool.fd = -1;
    cuda->pool.bytes = bytes;
    status result = cuda->options.staged ? staging_open(cuda) : failure(cuda);
    if (result == OK && !moves_open(cuda))
        result = failure(cuda);
    *pool_out = cuda->pool;
    return result;
}

static void cuda_block_copy(struct backend *backend, block_id from, block_id to)
{
    struct cuda_backend *cuda = cuda_of(backend);
    size_t bytes = cuda->shape.block_bytes;
    cuda_good(cuda,
              cudaMemcpyAsync(cuda->pool_device + to * bytes, cuda->pool_device + from * bytes,
                              bytes, cudaMemcpyDeviceToDevice, cuda->stream),
              "copy of a block");
}

/* Pinned, so that the device copies at the speed of its bus. Where that much cannot be pinned the
 * driver copies through a buffer of its own, which is slower and as right. */
static status cuda_swap_open(struct backend *backend, uint32_t slot_count)
{
    struct cuda_backend *cuda = cuda_of(backend);
    size_t bytes = (size_t)slot_count * cuda->shape.block_bytes;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "no memory for %zu bytes of swapped blocks: %s", bytes,
                         strerror(errno));
    cuda->swap = (char *)at;
    cuda->swap_slots = slot_count;
    cuda->swap_pinned = cudaHostRegister(at, bytes, cudaHostRegisterDefault) == cudaSuccess;
    if (!cuda->swap_pinned)
        (void)cudaGetLastError();
    return OK;
}

static status cuda_swap_out(struct backend *backend, const block_id *ids, const block_id *slots,
                            uint32_t count)
{
    struct cuda_backend *cuda = cuda_of(backend);
    size_t bytes = cuda->shape.block_bytes;
    for (uint32_t i = 0; i < count && cuda->failed == OK; i++)
        cuda_good(cuda,
                  cudaMemcpyAsync(cuda->swap + slots[i] * bytes, cuda->pool_device + ids[i] * bytes,
                                  bytes, cudaMemcpyDeviceToHost, cuda->stream),
                  "copy of blocks to the host");
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "copy of blocks to the host");
    return failure(cuda);
}

static status cuda_swap_in(struct backend *backend, const block_id *slots, const block_id *ids,
                           uint32_t count)
{
    struct cuda_backend *cuda = cuda_of(backend);
    size_t bytes = cuda->shape.block_bytes;
    for (uint32_t i = 0; i < count && cuda->failed == OK; i++)
        cuda_good(cuda,
                  cudaMemcpyAsync(cuda->pool_device + ids[i] * bytes, cuda->swap + slots[i] * bytes,
                                  bytes, cudaMemcpyHostToDevice, cuda->stream),
                  "copy of blocks from the host");
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "copy of blocks from the host");
    return failure(cuda);
}

/* ---- the descriptor ---- */

/* Arrays one behind the other, tables last; the same places on host and device. */
static size_t descriptor_place(struct cuda_backend *cuda, char *base, struct device_step *step)
{
    const struct backend_limits *limits = &cuda->limits;
    size_t at = 0;
    size_t rows = limits->rows_max, outputs = bucket_of(limits->outputs_max);
    size_t sequences = limits->sequences_max, tiles = rows / TILE_ROWS + sequences + 1;
    rows = bucket_of((uint32_t)rows);
    struct {
        uint32_t **array;
        size_t count;
    } const arrays[] = {
        {&step->head, 16},
        {&step->token_ids, rows},
        {&step->positions, rows},
        {&step->row_sequences, rows},
        {&step->output_rows, outputs},
        {&step->single_rows, rows},
        {&step->tiles, 2 * tiles},
        {&step->first_rows, sequences},
        {&step->row_counts, sequences},
        {&step->starts, sequences},
        {&step->table_offsets, sequences},
        {(uint32_t **)&step->wishes, outputs * sizeof(struct pick_wish) / 4},
        {&step->tables, sequences * limits->table_blocks_max},
    };
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++) {
        cuda->tables_at = at;
        *arrays[i].array = (uint32_t *)(base + at);
        at += (arrays[i].count * 4 + 15) / 16 * 16;
    }
    return at;
}

static void sequence_place(struct cuda_backend *cuda, uint32_t index, uint32_t *table_end)
{
    const struct step_sequence *sequence = &cuda->step->sequences[index];
    struct device_step *to = &cuda->host;
    bool tiled = sequence->row_count > 1 && attend_tiles_can(cuda);
    to->first_rows[index] = sequence->first_row;
    to->row_counts[index] = sequence->row_count;
    to->starts[index] = sequence->start_position;
    to->table_offsets[index] = *table_end;
    memcpy(to->tables + *table_end, sequence->block_ids,
           sequence->block_count * sizeof(*to->tables));
    *table_end += sequence->block_count;
    for (uint32_t i = 0; i < sequence->row_count; i++) {
        uint32_t row = sequence->first_row + i;
        to->positions[row] = sequence->start_position + i;
        to->row_sequences[row] = index;
        if (!tiled)
            to->single_rows[cuda->single_count++] = row;
    }
    for (uint32_t row = 0; tiled && row < sequence->row_count; row += TILE_ROWS) {
        to->tiles[2 * cuda->tile_count] = index;
        to->tiles[2 * cuda->tile_count++ + 1] = row;
    }
    uint32_t length = sequence->start_position + sequence->row_count;
    uint32_t partitions = (length + PARTITION_KEYS - 1) / PARTITION_KEYS;
    if (!tiled && partitions > cuda->partitions)
        cuda->partitions = partitions;
}

static void descriptor_fill(struct cuda_backend *cuda, uint32_t *table_end)
{
    const struct step *step = cuda->step;
    struct device_step *to = &cuda->host;
    *table_end = 0;
    cuda->single_count = cuda->tile_count = 0;
    cuda->partitions = 1;
    memcpy(to->token_ids, step->token_ids, step->row_count * sizeof(*to->token_ids));
    for (uint32_t i = 0; i < step->sequence_count; i++)
        sequence_place(cuda, i, table_end);
    for (uint32_t i = 0; i < step->output_count; i++) {
        const struct backend_pick *pick = step->picks != NULL ? &step->picks[i] : NULL;
        to->output_rows[i] = step->output_rows[i];
        to->wishes[i].temperature = pick != NULL && pick->wanted ? pick->temperature : -1.0f;
        to->wishes[i].uniform = pick != NULL ? pick->uniform : 0.0;
    }
    to->head[0] = step->row_count;
    to->head[1] = step->sequence_count;
    to->head[2] = step->output_count;
    to->head[3] = cuda->single_count;
}

/* Can this step be a graph, and which? Rows that fill up read row 0's token and block. */
static void mode_choose(struct cuda_backend *cuda)
{
    const struct step *step = cuda->step;
    struct device_step *to = &cuda->host;
    uint32_t rows = bucket_of(step->row_count);
    cuda->mode = STEP_EAGER;
    cuda->rows = step->row_count;
    cuda->outputs = step->output_count;
    cuda->graph = NULL;
    if (cuda->tile_count > 0 || step->row_count != step->sequence_count ||
        step->output_count != step->row_count || rows > GRAPH_ROWS_MAX ||
        rows > cuda->limits.rows_max || rows > cuda->limits.outputs_max)
        return;
    uint32_t partitions = 1;
    while (partitions < cuda->partitions)
        partitions *= 2;
    for (uint32_t i = 0; i < cuda->graph_count; i++)
        if (cuda->graphs[i].rows == rows && cuda->graphs[i].partitions == partitions)
            cuda->graph = &cuda->graphs[i];
    if (cuda->graph == NULL && cuda->graph_count == GRAPHS_MAX)
        return;
    cuda->rows = cuda->outputs = rows;
    cuda->partitions = partitions;
    for (uint32_t i = step->row_count; i < rows; i++) {
        to->token_ids[i] = to->positions[i] = to->row_sequences[i] = to->output_rows[i] = 0;
        to->wishes[i].temperature = -1.0f;
    }
    if (cuda->graph != NULL) {
        cuda->mode = cuda->graph->exec != NULL ? STEP_REPLAY : STEP_RECORD;
        return;
    }
    cuda->graph = &cuda->graphs[cuda->graph_count++];
    *cuda->graph = {};
    cuda->graph->rows = rows;
    cuda->graph->partitions = partitions;
}

/* What the floor counts: weights are counted by project; here the keys and values. */
static void kv_count(struct cuda_backend *cuda)
{
    const struct backend_shape *shape = &cuda->shape;
    size_t token_bytes = shape->block_bytes / shape->block_tokens;
    for (uint32_t i = 0; i < cuda->step->sequence_count; i++) {
        const struct step_sequence *sequence = &cuda->step->sequences[i];
        uint64_t end = (uint64_t)sequence->start_position + sequence->row_count;
        uint64_t pairs = (end * (end + 1) - (uint64_t)sequence->start_position *
                                                (sequence->start_position + 1ull)) / 2;
        cuda->counters.bytes += end * token_bytes;
        cuda->counters.operations +=
            pairs * 4 * shape->head_count * shape->head_dim * shape->layer_count;
    }
}

static void cuda_step_begin(struct backend *backend, const struct step *step)
{
    struct cuda_backend *cuda = cuda_of(backend);
    uint32_t table_end;
    cuda->step = step;
    cuda->layers_done = 0;
    cuda->row_host_index = UINT32_MAX;
    descriptor_fill(cuda, &table_end);
    mode_choose(cuda);
    kv_count(cuda);
    cuda_good(cuda,
              cudaMemcpyAsync(cuda->descriptor_device, cuda->descriptor_host,
                              cuda->tables_at + table_end * sizeof(uint32_t),
                              cudaMemcpyHostToDevice, cuda->stream),
              "descriptor of a step");
    if (cuda->mode == STEP_RECORD && cuda->failed == OK)
        cuda_good(cuda, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                  "recording of a step");
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
    uint32_t most = 16;
    if (cuda->options.deterministic)
        return true;
    return product->rows <= most || product->x->stride % 8 != 0 ||
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
        if (streams(cuda, &one))
            stream_product(cuda, &one);
        else
            gemm_product(cuda, &one);
    }
}

static void cuda_rope_store(struct backend *backend, uint32_t layer, struct backend_buffer *q,
                            struct backend_buffer *k, const struct backend_buffer *v,
                            const struct backend_tensor *q_norm,
                            const struct backend_tensor *k_norm)
{
    rows_rope_store(cuda_of(backend), layer, q, k, v, q_norm, k_norm);
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
    if (cuda->tile_count > 0)
        attend_tiles(cuda, layer, q, o);
    if (cuda->single_count > 0)
        attend_singles(cuda, layer, q, o);
}

static void cuda_gate(struct backend *backend, const struct backend_buffer *gate,
                      const struct backend_buffer *up, struct backend_buffer *h)
{
    rows_gate(cuda_of(backend), gate, up, h);
}

/* A graph's layers are told of after the step: its steps have one row a sequence. */
static void cuda_layer_done(struct backend *backend, uint32_t layer)
{
    struct cuda_backend *cuda = cuda_of(backend);
    cuda->layers_done = layer + 1;
    if (cuda->mode != STEP_EAGER || cuda->step->layer_ready == NULL)
        return;
    cuda_good(cuda, cudaEventRecord(cuda->layer_events[layer], cuda->stream), "event");
}

static void cuda_take_outputs(struct backend *backend, const struct backend_buffer *x,
                              struct backend_buffer *y)
{
    rows_take_outputs(cuda_of(backend), x, y);
}

static void cuda_pick(struct backend *backend, const struct backend_buffer *logits)
{
    pick_tokens(cuda_of(backend), logits);
}

static void graph_finish(struct cuda_backend *cuda)
{
    cudaGraph_t graph = NULL;
    bool good = cuda_good(cuda, cudaStreamEndCapture(cuda->stream, &graph), "recording of a step");
    if (good && cuda->failed == OK)
        cuda_good(cuda, cudaGraphInstantiate(&cuda->graph->exec, graph, 0), "graph of a step");
    if (graph != NULL)
        cudaGraphDestroy(graph);
}

static status cuda_step_submit(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_of(backend);
    if (cuda->mode == STEP_RECORD)
        graph_finish(cuda);
    if (cuda->mode != STEP_EAGER && cuda->failed == OK)
        cuda_good(cuda, cudaGraphLaunch(cuda->graph->exec, cuda->stream), "launch of a step");
    if (cuda->failed != OK)
        cuda->step = NULL;
    return failure(cuda);
}

static status cuda_step_wait(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_of(backend);
    const struct step *step = cuda->step;
    for (uint32_t i = 0; i < cuda->layers_done && cuda->mode == STEP_EAGER; i++) {
        if (step->layer_ready == NULL ||
            !cuda_good(cuda, cudaEventSynchronize(cuda->layer_events[i]), "layer of a step"))
            break;
        step->layer_ready(step->layer_ready_ctx, i);
    }
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "step");
    if (cuda->mode != STEP_EAGER && step->layer_ready != NULL && cuda->failed == OK)
        for (uint32_t i = 0; i < cuda->layers_done; i++)
            step->layer_ready(step->layer_ready_ctx, i);
    cuda->step = NULL;
    return failure(cuda);
}

static const float *cuda_output_row(struct backend *backend, const struct backend_buffer *buffer,
                                    uint32_t output)
{
    struct cuda_backend *cuda = cuda_of(backend);
    if (cuda->row_host_index != output) {
        cuda_good(cuda,
                  cudaMemcpyAsync(cuda->row_host,
                                  buffer->data + (size_t)output * buffer->stride * sizeof(float),
                                  buffer->width * sizeof(float), cudaMemcpyDeviceToHost,
                                  cuda->stream),
                  "copy of logits");
        cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "copy of logits");
        cuda->row_host_index = output;
    }
    return cuda->row_host;
}

static const struct backend_picked *cuda_picked(struct backend *backend, uint32_t output)
{
    return &cuda_of(backend)->picked_host[output];
}

static void cuda_counters(const struct backend *backend, struct backend_counters *counters_out)
{
    *counters_out = ((const struct cuda_backend *)backend)->counters;
}

/* ---- open and close ---- */

static void cuda_close(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_of(backend);
    (void)cudaDeviceSynchronize();
    moves_close(cuda);
    for (uint32_t i = 0; i < cuda->graph_count; i++)
        if (cuda->graphs[i].exec != NULL)
            (void)cudaGraphExecDestroy(cuda->graphs[i].exec);
    for (uint32_t i = 0; cuda->layer_events != NULL && i < cuda->shape.layer_count; i++)
        if (cuda->layer_events[i] != NULL)
            (void)cudaEventDestroy(cuda->layer_events[i]);
    for (int i = 0; i < 2; i++) {
        if (cuda->staging[i] != NULL)
            (void)cudaFreeHost(cuda->staging[i]);
        if (cuda->staged[i] != NULL)
            (void)cudaEventDestroy(cuda->staged[i]);
    }
    if (cuda->pool.host != NULL) {
        (void)cudaHostUnregister(cuda->pool.host);
        (void)munmap(cuda->pool.host, cuda->pool.bytes);
        (void)close(cuda->pool.fd);
    }
    if (cuda->swap != NULL) {
        if (cuda->swap_pinned)
            (void)cudaHostUnregister(cuda->swap);
        (void)munmap(cuda->swap, cuda->swap_slots * cuda->shape.block_bytes);
    }
    void *const pinned[] = {cuda->descriptor_host, cuda->picked_host, cuda->row_host};
    for (size_t i = 0; i < sizeof(pinned) / sizeof(pinned[0]); i++)
        if (pinned[i] != NULL)
            (void)cudaFreeHost(pinned[i]);
    (void)cudaFree(cuda->scratch);
    (void)cudaFree(cuda->pool_device);
    while (cuda->regions != NULL) {
        struct region *next = cuda->regions->next;
        (void)cudaFree(cuda->regions->base);
        free(cuda->regions);
        cuda->regions = next;
    }
    if (cuda->lt != NULL)
        (void)cublasLtDestroy(cuda->lt);
    if (cuda->stream != NULL)
        (void)cudaStreamDestroy(cuda->stream);
    free(cuda->plans);
    free(cuda->layer_events);
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

static bool frequencies_open(struct cuda_backend *cuda)
{
    const struct backend_shape *shape = &cuda->shape;
    uint32_t half = shape->rope_dims / 2;
    double *host = (double *)malloc((half + 1) * sizeof(double));
    cuda->frequencies = (double *)device_take(cuda, (half + 1) * sizeof(double));
    if (host == NULL || cuda->frequencies == NULL) {
        free(host);
        return false;
    }
    for (uint32_t i = 0; i < half; i++) {
        host[i] = pow((double)shape->rope_theta, -2.0 * i / shape->rope_dims);
        if (shape->rope_factors != NULL)
            host[i] /= (double)shape->rope_factors[i];
    }
    bool good = cuda_good(cuda,
                          cudaMemcpy(cuda->frequencies, host, half * sizeof(double),
                                     cudaMemcpyHostToDevice),
                          "rotation");
    free(host);
    return good;
}

static bool step_memory(struct cuda_backend *cuda)
{
    struct device_step none;
    uint32_t outputs = bucket_of(cuda->limits.outputs_max);
    uint32_t contexts = (cuda->limits.table_blocks_max * cuda->shape.block_tokens +
                         PARTITION_KEYS - 1) / PARTITION_KEYS * 2;
    size_t least = decode_partial_bytes(cuda, contexts);
    cuda->descriptor_bytes = descriptor_place(cuda, NULL, &none);
    cuda->plans = (struct gemm_plan *)calloc(GEMM_PLANS, sizeof(*cuda->plans));
    cuda->layer_events =
        (cudaEvent_t *)calloc(cuda->shape.layer_count, sizeof(*cuda->layer_events));
    cuda->descriptor_device = (char *)device_take(cuda, cuda->descriptor_bytes);
    cuda->picked_device = (struct backend_picked *)device_take(
        cuda, outputs * sizeof(*cuda->picked_device));
    cuda->partials = (float *)device_take(
        cuda, least > DECODE_PARTIALS_BYTES ? least : DECODE_PARTIALS_BYTES);
    size_t arrivals = DECODE_SINGLES_MAX * sizeof(uint32_t) * cuda->shape.kv_head_count;
    cuda->arrivals = (uint32_t *)device_take(cuda, arrivals);
    cuda->workspace = device_take(cuda, WORKSPACE_BYTES);
    if (cuda->plans == NULL || cuda->layer_events == NULL || cuda->descriptor_device == NULL ||
        cuda->picked_device == NULL || cuda->partials == NULL || cuda->arrivals == NULL ||
        cuda->workspace == NULL) {
        cuda_good(cuda, cudaErrorMemoryAllocation, "memory for steps");
        return false;
    }
    bool good =
        cuda_good(cuda,
                  cudaMallocHost((void **)&cuda->descriptor_host, cuda->descriptor_bytes),
                  "pinned memory") &&
        cuda_good(cuda,
                  cudaMallocHost((void **)&cuda->picked_host,
                                 outputs * sizeof(*cuda->picked_host)),
                  "pinned memory") &&
        cuda_good(cuda, cudaMemset(cuda->arrivals, 0, arrivals), "memory for steps") &&
        frequencies_open(cuda);
    for (uint32_t i = 0; good && i < cuda->shape.layer_count; i++)
        good = cuda_good(
            cuda, cudaEventCreateWithFlags(&cuda->layer_events[i], cudaEventDisableTiming),
            "event");
    if (!good)
        return false;
    memset(cuda->descriptor_host, 0, cuda->descriptor_bytes);
    (void)descriptor_place(cuda, cuda->descriptor_host, &cuda->host);
    (void)descriptor_place(cuda, cuda->descriptor_device, &cuda->device);
    return true;
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
                lt_good(cuda, cublasLtCreate(&cuda->lt), "cuBLASLt") && step_memory(cuda);
    cuda->shape.rope_factors = NULL;
    if (!good) {
        result = failure(cuda);
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
