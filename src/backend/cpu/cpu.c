#include "backend/cpu/cpu.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/angles.h"
#include "backend/cpu/attend.h"
#include "backend/cpu/cpu_state.h"
#include "backend/cpu/packed_file.h"
#include "base/bytes.h"
#include "base/dequant.h"
#include "base/error.h"
#include "base/log.h"
#include "base/placement.h"

#define REGION_BYTES (32u << 20)
#define HUGE_PAGE_BYTES (2u << 20)

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t rounded_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* Before the first touch: on the worker's nodes, and in huge pages. */
static void memory_place(struct cpu_backend *cpu, void *base, size_t bytes)
{
    if (cpu->nodes != 0 && placement_apply(base, bytes, cpu->nodes) != OK) {
        cpu->nodes = 0;
        log_info("memory is not placed", "reason=\"%s\"", error_text());
    }
    (void)madvise(base, bytes, MADV_HUGEPAGE);
}

void *cpu_take(struct cpu_backend *cpu, size_t bytes)
{
    size_t size;
    if (!size_add(bytes, 4096, &size))
        return NULL;
    size = rounded_up(bytes, 64);
    struct region *region = cpu->regions;
    if (region == NULL || region->bytes - region->used < size) {
        region = malloc(sizeof(*region));
        if (region == NULL)
            return NULL;
        *region = (struct region){.next = cpu->regions,
                                  .bytes = size > REGION_BYTES ? size : REGION_BYTES};
        region->bytes = rounded_up(region->bytes, HUGE_PAGE_BYTES);
        void *base =
            mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) {
            free(region);
            return NULL;
        }
        memory_place(cpu, base, region->bytes);
        region->base = base;
        cpu->regions = region;
    }
    void *taken = region->base + region->used;
    region->used += size;
    return taken;
}

static void regions_close(struct cpu_backend *cpu)
{
    while (cpu->regions != NULL) {
        struct region *next = cpu->regions->next;
        (void)munmap(cpu->regions->base, cpu->regions->bytes);
        free(cpu->regions);
        cpu->regions = next;
    }
}

/* ---- tensors and buffers --------------------------------------------------------------------- */

struct pack_job {
    const struct backend_weight *weight;
    const struct packed *packed;
    uint8_t *to;
};

static void pack_chunk(void *ctx, uint32_t panel, uint32_t thread)
{
    (void)thread;
    const struct pack_job *job = ctx;
    pack_panel(job->weight, job->packed, panel, job->to + panel * job->packed->panel_bytes);
}

static status tensor_pack(struct cpu_backend *cpu, const struct backend_weight *weight,
                          struct backend_tensor *tensor)
{
    status result = pack_layout(weight, &tensor->packed);
    if (result != OK)
        return result;
    bool filled = false;
    uint8_t *to = NULL;
    if (cpu->packed_file != NULL)
        to = packed_file_take(cpu->packed_file, &tensor->packed, &filled);
    if (to != NULL && filled) {
        tensor->packed.base = to;
        return OK;
    }
    if (to == NULL)
        to = cpu_take(cpu, pack_bytes(&tensor->packed));
    if (to == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory for %zu bytes of packed weights",
                         weight->name, pack_bytes(&tensor->packed));
    struct pack_job job = {weight, &tensor->packed, to};
    team_run(cpu->team, tensor->packed.panels, pack_chunk, &job);
    tensor->packed.base = to;
    return OK;
}

static void cpu_weights_done(struct backend *backend)
{
    struct cpu_backend *cpu = cpu_of(backend);
    if (cpu->packed_file != NULL && packed_file_done(cpu->packed_file) != OK)
        log_warn("weights are not shared", "reason=\"%s\"", error_text());
}

/* Room for activations of a quantised matrix with so many columns, once for the widest. */
static status quant_room(struct cpu_backend *cpu, uint32_t columns)
{
    if (columns <= cpu->quant_columns)
        return OK;
    uint32_t rows = cpu->limits.rows_max > cpu->limits.outputs_max ? cpu->limits.rows_max
                                                                   : cpu->limits.outputs_max;
    /* One line more than a row: rows a power of two apart share the sets of a cache. */
    struct quant_rows quant = {.value_stride = rounded_up(columns, 64) + 64,
                               .scale_stride = columns / 32 + 64 / sizeof(struct quant_scale)};
    quant.values = cpu_take(cpu, rows * quant.value_stride);
    quant.scales = cpu_take(cpu, rows * quant.scale_stride * sizeof(struct quant_scale));
    if (quant.values == NULL || quant.scales == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u rows of %u quantised activations", rows,
                         columns);
    cpu->quant = quant;
    cpu->quant_columns = columns;
    return OK;
}

/* The same for BF16 matrices in the class cpu-bf16. */
static status rounded_room(struct cpu_backend *cpu, uint32_t columns)
{
    uint32_t groups = packed_bf16_groups(columns);
    if (groups <= cpu->rounded_groups)
        return OK;
    uint32_t rows = cpu->limits.rows_max > cpu->limits.outputs_max ? cpu->limits.rows_max
                                                                   : cpu->limits.outputs_max;
    size_t bytes = rounded_up(rows, BF16_ROWS) * groups * BF16_GROUP * sizeof(uint16_t);
    cpu->rounded.values = cpu_take(cpu, bytes);
    if (cpu->rounded.values == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u rows of %u activations in bf16", rows,
                         columns);
    cpu->rounded_groups = groups;
    return OK;
}

static status cpu_tensor_open(struct backend *backend, const struct backend_weight *weight,
                              struct backend_tensor **tensor_out)
{
    struct cpu_backend *cpu = cpu_of(backend);
    struct packed checked;
    status result = pack_layout(weight, &checked);
    if (result != OK)
        return result;
    struct backend_tensor *tensor = cpu_take(cpu, sizeof(*tensor));
    if (tensor == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory", weight->name);
    tensor->file = *weight;
    tensor->file.name = NULL;
    if (weight->rows == 1) {
        tensor->vector = cpu_take(cpu, weight->columns * sizeof(float));
        if (tensor->vector == NULL)
            return error_set(ERR_NO_MEMORY, "%s: no memory", weight->name);
        if (weight->data == NULL)
            synthetic_fill(&weight->synthetic, DTYPE_F32, 0, weight->columns, tensor->vector);
        else
            dequant_row(weight->type, weight->data, weight->columns, tensor->vector);
    } else if (!weight->lookup_only) {
        result = tensor_pack(cpu, weight, tensor);
        if (result == OK && cpu->int8 && dtype_group(weight->type) > 1)
            result = quant_room(cpu, weight->columns);
        if (result == OK && cpu->bf16 && weight->type == DTYPE_BF16)
            result = rounded_room(cpu, weight->columns);
    }
    if (result == OK)
        *tensor_out = tensor;
    return result;
}

static status cpu_buffer_open(struct backend *backend, uint32_t width, bool outputs,
                              struct backend_buffer **buffer_out)
{
    struct cpu_backend *cpu = cpu_of(backend);
    uint32_t rows = outputs ? cpu->limits.outputs_max : cpu->limits.rows_max;
    struct backend_buffer *buffer = cpu_take(cpu, sizeof(*buffer));
    size_t stride = rounded_up(width, 16) + 16, bytes; /* as in quant_room */
    if (buffer == NULL || !size_mul(stride * sizeof(float), rows, &bytes) ||
        (buffer->data = cpu_take(cpu, bytes)) == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a buffer of %u rows of %u", rows, width);
    buffer->width = width;
    buffer->stride = stride;
    buffer->outputs = outputs;
    *buffer_out = buffer;
    return OK;
}

static status cpu_pool_open(struct backend *backend, uint32_t block_count,
                            struct backend_pool *pool_out)
{
    struct cpu_backend *cpu = cpu_of(backend);
    assert(cpu->pool.host == NULL && block_count > 0);
    size_t bytes;
    if (!size_mul(block_count, cpu->shape.block_bytes, &bytes) || bytes > INT64_MAX)
        return error_set(ERR_NO_MEMORY, "a pool of %u blocks of %zu bytes is too large",
                         block_count, cpu->shape.block_bytes);
    int fd = memfd_create("baton-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return error_set(ERR_NO_MEMORY, "no memory file for the pool: %s", strerror(errno));
    void *host = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (host == MAP_FAILED) {
        status result = error_set(ERR_NO_MEMORY, "no memory for a pool of %zu bytes: %s", bytes,
                                  strerror(errno));
        (void)close(fd);
        return result;
    }
    memory_place(cpu, host, bytes);
    cpu->pool =
        (struct backend_pool){.block_count = block_count, .host = host, .fd = fd, .bytes = bytes};
    *pool_out = cpu->pool;
    return OK;
}

static void cpu_block_copy(struct backend *backend, block_id from, block_id to)
{
    struct cpu_backend *cpu = cpu_of(backend);
    size_t bytes = cpu->shape.block_bytes;
    assert(from < cpu->pool.block_count && to < cpu->pool.block_count && from != to);
    memcpy(cpu->pool.host + to * bytes, cpu->pool.host + from * bytes, bytes);
}

/* ---- blocks that give way -------------------------------------------------------------------- */

static status cpu_swap_open(struct backend *backend, uint32_t slot_count)
{
    struct cpu_backend *cpu = cpu_of(backend);
    size_t bytes;
    assert(cpu->swap == NULL && slot_count > 0);
    if (!size_mul(slot_count, cpu->shape.block_bytes, &bytes))
        return error_set(ERR_NO_MEMORY, "%u blocks of %zu bytes are too many to swap", slot_count,
                         cpu->shape.block_bytes);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "no memory for %zu bytes of swapped blocks: %s", bytes,
                         strerror(errno));
    memory_place(cpu, base, bytes);
    cpu->swap = base;
    cpu->swap_slots = slot_count;
    return OK;
}

struct swap_job {
    struct cpu_backend *cpu;
    const block_id *ids, *slots;
    bool out;
};

static void swap_chunk(void *ctx, uint32_t i, uint32_t thread)
{
    (void)thread;
    const struct swap_job *job = ctx;
    size_t bytes = job->cpu->shape.block_bytes;
    assert(job->ids[i] < job->cpu->pool.block_count && job->slots[i] < job->cpu->swap_slots);
    uint8_t *block = job->cpu->pool.host + job->ids[i] * bytes;
    uint8_t *slot = job->cpu->swap + job->slots[i] * bytes;
    memcpy(job->out ? slot : block, job->out ? block : slot, bytes);
}

static status cpu_swap_out(struct backend *backend, const block_id *ids, const block_id *slots,
                           uint32_t count)
{
    struct swap_job job = {cpu_of(backend), ids, slots, true};
    team_run(job.cpu->team, count, swap_chunk, &job);
    return OK;
}

static status cpu_swap_in(struct backend *backend, const block_id *slots, const block_id *ids,
                          uint32_t count)
{
    struct swap_job job = {cpu_of(backend), ids, slots, false};
    team_run(job.cpu->team, count, swap_chunk, &job);
    return OK;
}

/* ---- the simple operations, row by row ------------------------------------------------------- */

#define PIECE_ROWS 16u

struct rows_job {
    struct cpu_backend *cpu;
    const struct backend_buffer *x, *other;
    const struct backend_tensor *tensor;
    struct backend_buffer *y;
    void (*row)(const struct rows_job *job, uint32_t row);
    uint32_t rows;
};

static void rows_piece(void *ctx, uint32_t piece, uint32_t thread)
{
    (void)thread;
    const struct rows_job *job = ctx;
    uint32_t end = (piece + 1) * PIECE_ROWS < job->rows ? (piece + 1) * PIECE_ROWS : job->rows;
    for (uint32_t row = piece * PIECE_ROWS; row < end; row++)
        job->row(job, row);
}

static void rows_run(struct rows_job *job)
{
    team_run(job->cpu->team, piece_count(job->rows, PIECE_ROWS), rows_piece, job);
}

static void cpu_step_begin(struct backend *backend, const struct step *step)
{
    struct cpu_backend *cpu = cpu_of(backend);
    assert(step->row_count <= cpu->limits.rows_max);
    assert(step->sequence_count <= cpu->limits.sequences_max);
    assert(step->output_count <= cpu->limits.outputs_max);
    cpu->step = step;
    attend_begin(cpu);
}

static void embed_row(const struct rows_job *job, uint32_t row)
{
    const struct backend_weight *table = &job->tensor->file;
    uint32_t token = job->cpu->step->token_ids[row];
    assert(token < table->rows);
    const uint8_t *from = table->data;
    if (from == NULL) {
        synthetic_fill(&table->synthetic, DTYPE_F32, (uint64_t)token * table->columns,
                       table->columns, buffer_row(job->y, row));
        return;
    }
    dequant_row(table->type, from + token * dtype_row_bytes(table->type, table->columns),
                table->columns, buffer_row(job->y, row));
}

static void cpu_embed(struct backend *backend, const struct backend_tensor *table,
                      struct backend_buffer *x)
{
    struct cpu_backend *cpu = cpu_of(backend);
    assert(table->file.columns == x->width && !x->outputs);
    struct rows_job job = {
        .cpu = cpu, .tensor = table, .y = x, .row = embed_row, .rows = cpu->step->row_count};
    rows_run(&job);
    cpu->counters.bytes += job.rows * dtype_row_bytes(table->file.type, table->file.columns);
}

void norm_row(const struct kernels *kernels, const float *x, const float *weight, uint32_t width,
              float epsilon, float *y)
{
    float mean = kernels->square_sum(x, width) / (float)width;
    float scale = 1.0f / sqrtf(mean + epsilon);
    for (uint32_t i = 0; i < width; i++)
        y[i] = x[i] * scale * weight[i];
}

static void norm_job_row(const struct rows_job *job, uint32_t row)
{
    norm_row(job->cpu->kernels, buffer_row(job->x, row), job->tensor->vector, job->x->width,
             job->cpu->shape.norm_epsilon, buffer_row(job->y, row));
}

static void cpu_norm(struct backend *backend, const struct backend_buffer *x,
                     const struct backend_tensor *weight, struct backend_buffer *y)
{
    struct cpu_backend *cpu = cpu_of(backend);
    assert(weight->vector != NULL && weight->file.columns == x->width);
    assert(x->width == y->width && x->outputs == y->outputs);
    struct rows_job job = {.cpu = cpu,
                           .x = x,
                           .tensor = weight,
                           .y = y,
                           .row = norm_job_row,
                           .rows = buffer_rows(cpu, x)};
    rows_run(&job);
}

static void gate_row(const struct rows_job *job, uint32_t row)
{
    job->cpu->kernels->gate(buffer_row(job->x, row), buffer_row(job->other, row),
                            buffer_row(job->y, row), job->x->width);
}

static void cpu_gate(struct backend *backend, const struct backend_buffer *gate,
                     const struct backend_buffer *up, struct backend_buffer *h)
{
    struct cpu_backend *cpu = cpu_of(backend);
    assert(gate->width == up->width && gate->width == h->width);
    struct rows_job job = {.cpu = cpu,
                           .x = gate,
                           .other = up,
                           .y = h,
                           .row = gate_row,
                           .rows = buffer_rows(cpu, gate)};
    rows_run(&job);
}

static void cpu_layer_done(struct backend *backend, uint32_t layer)
{
    const struct step *step = cpu_of(backend)->step;
    if (step->layer_ready != NULL)
        step->layer_ready(step->layer_ready_ctx, layer);
}

static void cpu_take_outputs(struct backend *backend, const struct backend_buffer *x,
                             struct backend_buffer *y)
{
    const struct step *step = cpu_of(backend)->step;
    assert(x->width == y->width && !x->outputs && y->outputs);
    for (uint32_t i = 0; i < step->output_count; i++) {
        assert(step->output_rows[i] < step->row_count);
        memcpy(buffer_row(y, i), buffer_row(x, step->output_rows[i]), x->width * sizeof(float));
    }
}

static status cpu_step_submit(struct backend *backend)
{
    assert(cpu_of(backend)->step != NULL);
    return OK;
}

static status cpu_step_wait(struct backend *backend)
{
    cpu_of(backend)->step = NULL;
    return OK;
}

static const float *cpu_output_row(struct backend *backend, const struct backend_buffer *buffer,
                                   uint32_t output)
{
    assert(buffer->outputs && output < cpu_of(backend)->limits.outputs_max);
    return buffer_row(buffer, output);
}

static void cpu_counters(const struct backend *backend, struct backend_counters *counters_out)
{
    *counters_out = ((const struct cpu_backend *)(const void *)backend)->counters;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void cpu_close(struct backend *backend)
{
    struct cpu_backend *cpu = cpu_of(backend);
    team_close(cpu->team);
    if (cpu->pool.host != NULL) {
        (void)munmap(cpu->pool.host, cpu->pool.bytes);
        (void)close(cpu->pool.fd);
    }
    if (cpu->swap != NULL)
        (void)munmap(cpu->swap, cpu->swap_slots * cpu->shape.block_bytes);
    packed_file_close(cpu->packed_file);
    regions_close(cpu);
    free(cpu);
}

static const struct backend_calls cpu_calls = {
    .close = cpu_close,
    .tensor_open = cpu_tensor_open,
    .weights_done = cpu_weights_done,
    .buffer_open = cpu_buffer_open,
    .pool_open = cpu_pool_open,
    .block_copy = cpu_block_copy,
    .swap_open = cpu_swap_open,
    .swap_out = cpu_swap_out,
    .swap_in = cpu_swap_in,
    .step_begin = cpu_step_begin,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .project = cpu_project,
    .rope_store = cpu_rope_store,
    .attend = cpu_attend,
    .gate = cpu_gate,
    .layer_done = cpu_layer_done,
    .take_outputs = cpu_take_outputs,
    .step_submit = cpu_step_submit,
    .step_wait = cpu_step_wait,
    .output_row = cpu_output_row,
    .counters = cpu_counters,
};

static status shape_check(const struct backend_shape *s)
{
    if (s->kv_dtype != DTYPE_F16 && s->kv_dtype != DTYPE_F32 && s->kv_dtype != DTYPE_Q8_0)
        return error_set(ERR_UNSUPPORTED,
                         "KV type: the cpu backend keeps F16, Q8_0 or F32, found %d",
                         (int)s->kv_dtype);
    if (s->layer_count == 0 || s->head_count == 0 || s->kv_head_count == 0 ||
        s->head_count % s->kv_head_count != 0 || s->block_tokens == 0)
        return error_set(ERR_BAD_INPUT,
                         "model shape: expected layers, heads a multiple of kv heads "
                         "and tokens in a block, found %u layers, %u heads, %u kv heads, %u tokens",
                         s->layer_count, s->head_count, s->kv_head_count, s->block_tokens);
    if (s->head_dim == 0 || s->head_dim > ATTEND_DIMS_MAX || s->rope_dims > s->head_dim ||
        s->rope_dims % 2 != 0 || s->head_count / s->kv_head_count > ATTEND_QUERIES_MAX)
        return error_set(ERR_UNSUPPORTED,
                         "head of %u dimensions, %u rotated, %u heads for each kv "
                         "head: the cpu backend takes 1 to %u, an even number of them, 1 to %u",
                         s->head_dim, s->rope_dims, s->head_count / s->kv_head_count,
                         ATTEND_DIMS_MAX, ATTEND_QUERIES_MAX);
    size_t row_bytes = dtype_row_bytes(s->kv_dtype, s->head_dim);
    assert(s->layer_bytes == (size_t)2 * s->kv_head_count * s->block_tokens * row_bytes);
    assert(s->block_bytes == s->layer_bytes * s->layer_count);
    return OK;
}

static status kernels_choose(struct cpu_backend *cpu, const struct backend_cpu_options *options)
{
    const char *class_name = options->kernels;
    cpu->bf16 = strcmp(class_name, "bf16") == 0;
    cpu->int8 = cpu->bf16 || strcmp(class_name, "int8") == 0 || strcmp(class_name, "auto") == 0;
    if (!cpu->int8 && strcmp(class_name, "float") != 0)
        return error_set(ERR_BAD_INPUT, "kernels: expected float, int8, bf16 or auto, found %s",
                         class_name);
    bool known;
    cpu->kernels = kernels_find(options->variant, &known);
    if (cpu->kernels == NULL && known)
        return error_set(ERR_UNSUPPORTED, "this machine has no %s instructions", options->variant);
    if (cpu->kernels == NULL)
        return error_set(ERR_BAD_INPUT,
                         "kernel variant: expected scalar, avx2, avx512, vnni, bf16, amx, neon or "
                         "dotprod, found %s",
                         options->variant);
    return OK;
}

static status step_memory(struct cpu_backend *cpu, uint32_t threads)
{
    const struct backend_shape *shape = &cpu->shape;
    uint32_t half = shape->rope_dims / 2;
    size_t angles = (size_t)cpu->limits.rows_max * half * sizeof(float);
    size_t project = project_scratch_bytes(cpu), attend = attend_scratch_bytes(cpu);
    cpu->scratch_bytes = rounded_up(project > attend ? project : attend, 4096);
    cpu->rows = cpu_take(cpu, cpu->limits.rows_max * sizeof(*cpu->rows));
    cpu->units = cpu_take(cpu, attend_units_max(cpu) * sizeof(*cpu->units));
    cpu->frequencies = cpu_take(cpu, half * sizeof(double));
    cpu->cosines = cpu_take(cpu, angles);
    cpu->sines = cpu_take(cpu, angles);
    cpu->scratch = cpu_take(cpu, threads * cpu->scratch_bytes);
    if (cpu->rows == NULL || cpu->units == NULL || cpu->frequencies == NULL ||
        cpu->cosines == NULL || cpu->sines == NULL || cpu->scratch == NULL ||
        !attend_decode_open(cpu))
        return error_set(ERR_NO_MEMORY, "no memory for steps of %u rows", cpu->limits.rows_max);
    angles_frequencies(shape->rope_theta, shape->rope_dims, shape->rope_factors, cpu->frequencies);
    return OK;
}

status backend_cpu_open(const struct backend_shape *shape, const struct backend_limits *limits,
                        const struct backend_cpu_options *options, struct backend **backend_out)
{
    if (options->threads < 1 || options->threads > CPU_THREADS_MAX)
        return error_set(ERR_BAD_INPUT, "threads: expected 1 to %u, found %u", CPU_THREADS_MAX,
                         options->threads);
    status result = shape_check(shape);
    if (result != OK)
        return result;
    struct cpu_backend *cpu = calloc(1, sizeof(*cpu));
    if (cpu == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a backend");
    cpu->backend.calls = &cpu_calls;
    cpu->backend.name = "cpu";
    cpu->shape = *shape;
    cpu->limits = *limits;
    cpu->nodes = options->nodes;
    result = kernels_choose(cpu, options);
    if (result == OK)
        result = team_open(options->threads, options->cpus, &cpu->team);
    if (result == OK)
        result = step_memory(cpu, options->threads);
    cpu->shape.rope_factors = NULL; /* in frequencies from here on */
    if (result != OK) {
        cpu_close(&cpu->backend);
        return result;
    }
    if (options->weights != NULL && packed_file_open(options->weights, &cpu->packed_file) != OK)
        log_warn("weights are not shared", "reason=\"%s\"", error_text());
    cpu->backend.numerics_class = cpu->bf16 ? "cpu-bf16" : cpu->int8 ? "cpu-int8" : "cpu-float";
    *backend_out = &cpu->backend;
    return OK;
}

uint32_t backend_cpu_variants(const char *names_out[CPU_VARIANTS_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < KERNELS_COUNT; i++)
        if (kernels_at(i) != NULL)
            names_out[count++] = kernels_at(i)->name;
    return count;
}
