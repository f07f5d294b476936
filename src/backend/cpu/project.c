/* Projections: y (+)= W x (+ bias).
 *
 * A chunk of the team's job is up to CHUNK_PANELS panels of one matrix times up to CHUNK_ROWS rows:
 * fewer panels when there would be too few chunks to share out evenly. Its
 * sums are kept in scratch until all of k is added, then written to y:
 *
 *     scratch   tile [panels][k part][16] floats | sums [rows][16 * panels]
 *
 * With many rows a k part is as long as half a first-level cache holds; with few it is short, so
 * that the unpacked weights never leave that cache.
 */
#include <assert.h>

#include "backend/cpu/cpu_state.h"

#define CHUNK_PANELS 4u
#define CHUNK_ROWS 256u
#define CHUNKS_MIN 12u
#define PART_MANY 256u
#define PART_FEW 64u
#define MANY_ROWS 24u

struct project_job {
    struct cpu_backend *cpu;
    const struct backend_buffer *x;
    const struct backend_projection *projections;
    uint32_t projection_count;
    uint32_t rows, row_pieces;
    uint32_t chunk_panels;
};

size_t project_scratch_bytes(const struct cpu_backend *cpu)
{
    (void)cpu;
    return (CHUNK_PANELS * PART_MANY * PANEL_COLUMNS +
            (size_t)CHUNK_ROWS * CHUNK_PANELS * PANEL_COLUMNS) *
           sizeof(float);
}

static_assert(INT8_SCRATCH_BYTES <= CHUNK_PANELS * PART_MANY * PANEL_COLUMNS * sizeof(float),
              "the tile's place is the integer and bf16 kernels' scratch");
static_assert(CHUNK_ROWS % BF16_ROWS == 0, "a chunk is whole blocks of rows");

/* Ask memory for the part after this one of each panel, or the first one of the panels that come
 * next: with few rows memory is what counts, and a part ends before the machine has seen its
 * pattern. What lies beyond the last panel is asked for in vain. */
static void part_prefetch(const struct packed *w, uint32_t panel, uint32_t panels, uint32_t k,
                          uint32_t count)
{
    if (k + count < w->columns) {
        k += count;
    } else {
        panel += panels;
        k = 0;
    }
    size_t k_bytes = (size_t)PANEL_COLUMNS * dtype_group_bytes(w->type);
    for (uint32_t i = 0; i < panels; i++) {
        const char *from = (const char *)packed_panel(w, panel + i) + k * k_bytes;
        for (size_t at = 0; at < count * k_bytes; at += 64)
            __builtin_prefetch(from + at, 0, 2);
    }
}

static void float_sums(const struct project_job *job, const struct packed *w, uint32_t panel,
                       uint32_t panels, uint32_t row, uint32_t rows, float *scratch, float *sums)
{
    const struct kernels *kernels = job->cpu->kernels;
    uint32_t part = rows >= MANY_ROWS ? PART_MANY : PART_FEW;
    struct tile_product product = {.rows = rows,
                                   .panels = panels,
                                   .x_stride = job->x->stride,
                                   .c = sums,
                                   .c_stride = CHUNK_PANELS * PANEL_COLUMNS};
    for (uint32_t k = 0; k < w->columns; k += part) {
        product.k = w->columns - k < part ? w->columns - k : part;
        product.x = buffer_row(job->x, row) + k;
        product.add = k > 0;
        if (rows < MANY_ROWS && dtype_group(w->type) == 1)
            part_prefetch(w, panel, panels, k, product.k);
        if (w->type == DTYPE_F32) {
            const uint8_t *first = packed_panel(w, panel) + (size_t)k * PANEL_COLUMNS * 4;
            product.w = (const float *)(const void *)first;
            product.panel_stride = w->panel_bytes / sizeof(float);
        } else {
            product.panel_stride = (size_t)part * PANEL_COLUMNS;
            product.w = scratch;
            for (uint32_t i = 0; i < panels; i++)
                kernels->unpack[w->type](w, packed_panel(w, panel + i), k, product.k,
                                         scratch + i * product.panel_stride);
        }
        kernels->product(&product);
    }
}

static void few_sums(const struct project_job *job, const struct packed *w, uint32_t panel,
                     uint32_t panels, uint32_t row, uint32_t rows, float *sums)
{
    struct few_product product = {.rows = rows,
                                  .panels = panels,
                                  .first_panel = panel,
                                  .x = buffer_row(job->x, row),
                                  .x_stride = job->x->stride,
                                  .w = w,
                                  .c = sums,
                                  .c_stride = CHUNK_PANELS * PANEL_COLUMNS};
    job->cpu->kernels->few_product[w->type](&product);
}

/* Add bias, and add to or set y, of panels panel .. of rows row .. */
static void write_sums(const struct backend_projection *projection, uint32_t panel, uint32_t panels,
                       uint32_t row, uint32_t rows, const float *sums)
{
    uint32_t first = panel * PANEL_COLUMNS;
    uint32_t count = panels * PANEL_COLUMNS;
    if (count > projection->weight->packed.rows - first)
        count = projection->weight->packed.rows - first;
    const float *bias = projection->bias != NULL ? projection->bias->vector + first : NULL;
    for (uint32_t r = 0; r < rows; r++, sums += CHUNK_PANELS * PANEL_COLUMNS) {
        float *y = buffer_row(projection->y, row + r) + first;
        if (bias == NULL && !projection->accumulate) {
            for (uint32_t i = 0; i < count; i++)
                y[i] = sums[i];
            continue;
        }
        for (uint32_t i = 0; i < count; i++) {
            float value = bias != NULL ? sums[i] + bias[i] : sums[i];
            y[i] = projection->accumulate ? y[i] + value : value;
        }
    }
}

static uint32_t chunk_columns(const struct packed *w, uint32_t chunk_panels)
{
    return (w->panels + chunk_panels - 1) / chunk_panels;
}

/* As many panels as leave each thread CHUNKS_MIN chunks. */
static uint32_t choose_chunk_panels(const struct project_job *job, uint32_t panels)
{
    uint32_t chunk = CHUNK_PANELS;
    while (chunk > 1 &&
           panels * job->row_pieces < chunk * CHUNKS_MIN * team_threads(job->cpu->team))
        chunk /= 2;
    return chunk;
}

static void project_chunk(void *ctx, uint32_t chunk, uint32_t thread)
{
    const struct project_job *job = ctx;
    uint32_t piece = chunk % job->row_pieces;
    uint32_t column = chunk / job->row_pieces;
    const struct backend_projection *projection = job->projections;
    while (column >= chunk_columns(&projection->weight->packed, job->chunk_panels)) {
        column -= chunk_columns(&projection->weight->packed, job->chunk_panels);
        projection++;
    }

    const struct packed *w = &projection->weight->packed;
    uint32_t panel = column * job->chunk_panels;
    uint32_t panels = w->panels - panel < job->chunk_panels ? w->panels - panel : job->chunk_panels;
    uint32_t row = piece * CHUNK_ROWS;
    uint32_t rows = job->rows - row < CHUNK_ROWS ? job->rows - row : CHUNK_ROWS;
    float *tile = (float *)(void *)(job->cpu->scratch + thread * job->cpu->scratch_bytes);
    float *sums = tile + CHUNK_PANELS * PART_MANY * PANEL_COLUMNS;

    if (job->cpu->bf16 && w->type == DTYPE_BF16) {
        struct bf16_product product = {.rows = rows,
                                       .first_row = row,
                                       .panels = panels,
                                       .first_panel = panel,
                                       .x = &job->cpu->rounded,
                                       .w = w,
                                       .c = sums,
                                       .c_stride = CHUNK_PANELS * PANEL_COLUMNS,
                                       .scratch = (uint8_t *)tile};
        job->cpu->kernels->bf16_product(&product);
    } else if (job->cpu->int8 && dtype_group(w->type) > 1) {
        struct int8_product product = {.rows = rows,
                                       .first_row = row,
                                       .panels = panels,
                                       .first_panel = panel,
                                       .x = &job->cpu->quant,
                                       .w = w,
                                       .c = sums,
                                       .c_stride = CHUNK_PANELS * PANEL_COLUMNS,
                                       .scratch = (uint8_t *)tile};
        job->cpu->kernels->int8_product[w->type](&product);
    } else if (rows <= FEW_ROWS && job->cpu->kernels->few_product[w->type] != NULL) {
        few_sums(job, w, panel, panels, row, rows, sums);
    } else {
        float_sums(job, w, panel, panels, row, rows, tile, sums);
    }
    write_sums(projection, panel, panels, row, rows, sums);
}

#define QUANT_ROWS 16u

static void quantize_piece(void *ctx, uint32_t piece, uint32_t thread)
{
    (void)thread;
    const struct project_job *job = ctx;
    const struct quant_rows *quant = &job->cpu->quant;
    uint32_t end = (piece + 1) * QUANT_ROWS < job->rows ? (piece + 1) * QUANT_ROWS : job->rows;
    for (uint32_t row = piece * QUANT_ROWS; row < end; row++)
        job->cpu->kernels->quantize(buffer_row(job->x, row), job->x->width,
                                    quant->values + row * quant->value_stride,
                                    quant->scales + row * quant->scale_stride);
}

static void round_piece(void *ctx, uint32_t piece, uint32_t thread)
{
    (void)thread;
    const struct project_job *job = ctx;
    uint32_t end = (piece + 1) * BF16_ROWS < job->rows ? (piece + 1) * BF16_ROWS : job->rows;
    for (uint32_t row = piece * BF16_ROWS; row < end; row++)
        job->cpu->kernels->bf16_round(buffer_row(job->x, row), job->x->width, &job->cpu->rounded,
                                      row);
}

void cpu_project(struct backend *backend, const struct backend_buffer *x,
                 const struct backend_projection *projections, uint32_t projection_count)
{
    struct cpu_backend *cpu = cpu_of(backend);
    struct project_job job = {.cpu = cpu,
                              .x = x,
                              .projections = projections,
                              .projection_count = projection_count,
                              .rows = buffer_rows(cpu, x)};
    if (job.rows == 0)
        return;
    job.row_pieces = piece_count(job.rows, CHUNK_ROWS);
    uint32_t panels = 0, columns = 0;
    bool quantized = false, rounded = false;
    for (uint32_t i = 0; i < projection_count; i++) {
        const struct packed *w = &projections[i].weight->packed;
        assert(w->base != NULL && w->columns == x->width && w->rows == projections[i].y->width);
        assert(projections[i].y->outputs == x->outputs && projections[i].y != x);
        panels += w->panels;
        quantized |= dtype_group(w->type) > 1;
        rounded |= w->type == DTYPE_BF16;
        uint64_t operations = 2ull * job.rows * w->rows * w->columns;
        cpu->counters.operations += operations;
        if (cpu->int8 && dtype_group(w->type) > 1)
            cpu->counters.int8_operations += operations;
        if (cpu->bf16 && w->type == DTYPE_BF16)
            cpu->counters.bf16_operations += operations;
        cpu->counters.bytes += dtype_row_bytes(w->type, w->columns) * w->rows;
    }
    if (cpu->int8 && quantized)
        team_run(cpu->team, piece_count(job.rows, QUANT_ROWS), quantize_piece, &job);
    if (cpu->bf16 && rounded) {
        cpu->rounded.groups = packed_bf16_groups(x->width);
        team_run(cpu->team, piece_count(job.rows, BF16_ROWS), round_piece, &job);
    }
    job.chunk_panels = choose_chunk_panels(&job, panels);
    for (uint32_t i = 0; i < projection_count; i++)
        columns += chunk_columns(&projections[i].weight->packed, job.chunk_panels);
    team_run(cpu->team, columns * job.row_pieces, project_chunk, &job);
}
