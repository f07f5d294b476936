/* backend/cuda/step.cu - a step from its descriptor to its end: eager, recorded, or replayed.
 *
 * A step of single rows (decode) is a graph: run as it is when its bucket is met first (kernels
 * are loaded then), recorded the second time, afterwards replayed by one launch. A bucket is (rows,
 * partitions of keys), both rounded up; what changes from step to step is in the descriptor, which
 * the graph's kernels read on the device. Rows that only fill the bucket compute something of no
 * use: they store nothing into the pool. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/state.cuh"

#define WORKSPACE_BYTES ((size_t)64 << 20)
#define GRAPH_ROWS_MAX 512u

uint32_t bucket_of(uint32_t rows)
{
    uint32_t bucket = 1;
    while (bucket < rows)
        bucket = bucket < 8      ? bucket * 2
                 : bucket < 32   ? bucket + 8
                 : bucket < 128  ? bucket + 16
                                 : bucket + 64;
    return bucket;
}

/* ---- the descriptor ---- */

/* Arrays one behind the other, tables and units last; the same places on host and device. */
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
        {&step->tables, sequences * limits->table_blocks_max + DECODE_UNITS_MAX},
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
    *table_end += decode_units(cuda, *table_end);
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

static void step_set(struct cuda_backend *cuda, const struct step *step)
{
    __atomic_store_n(&cuda->step, step, __ATOMIC_RELAXED);
}

void step_begin(struct cuda_backend *cuda, const struct step *step)
{
    uint32_t table_end;
    step_set(cuda, step);
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

/* ---- the end of a step ---- */

/* A graph's layers are told of after the step: its steps have one row a sequence. */
void step_layer_done(struct cuda_backend *cuda, uint32_t layer)
{
    cuda->layers_done = layer + 1;
    if (cuda->mode != STEP_EAGER || cuda->step->layer_ready == NULL)
        return;
    cuda_good(cuda, cudaEventRecord(cuda->layer_events[layer], cuda->stream), "event");
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

status step_submit(struct cuda_backend *cuda)
{
    if (cuda->mode == STEP_RECORD)
        graph_finish(cuda);
    if (cuda->mode != STEP_EAGER && cuda->failed == OK)
        cuda_good(cuda, cudaGraphLaunch(cuda->graph->exec, cuda->stream), "launch of a step");
    if (cuda->failed != OK)
        step_set(cuda, NULL);
    return cuda_failure(cuda);
}

status step_wait(struct cuda_backend *cuda)
{
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
    step_set(cuda, NULL);
    return cuda_failure(cuda);
}

const float *step_output_row(struct cuda_backend *cuda, const struct backend_buffer *buffer,
                             uint32_t output)
{
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

/* ---- open and close ---- */

bool step_open(struct cuda_backend *cuda)
{
    struct device_step none;
    uint32_t outputs = bucket_of(cuda->limits.outputs_max);
    uint32_t contexts = (cuda->limits.table_blocks_max * cuda->shape.block_tokens +
                         PARTITION_KEYS - 1) / PARTITION_KEYS * 2;
    size_t least = decode_partial_bytes(cuda, contexts);
    cuda->units_max = DECODE_UNITS_MAX;
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
        cuda_good(cuda, cudaMemset(cuda->arrivals, 0, arrivals), "memory for steps");
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

void step_close(struct cuda_backend *cuda)
{
    for (uint32_t i = 0; i < cuda->graph_count; i++)
        if (cuda->graphs[i].exec != NULL)
            (void)cudaGraphExecDestroy(cuda->graphs[i].exec);
    for (uint32_t i = 0; cuda->layer_events != NULL && i < cuda->shape.layer_count; i++)
        if (cuda->layer_events[i] != NULL)
            (void)cudaEventDestroy(cuda->layer_events[i]);
    void *const pinned[] = {cuda->descriptor_host, cuda->picked_host, cuda->row_host};
    for (size_t i = 0; i < sizeof(pinned) / sizeof(pinned[0]); i++)
        if (pinned[i] != NULL)
            (void)cudaFreeHost(pinned[i]);
    free(cuda->plans);
    free(cuda->layer_events);
}
