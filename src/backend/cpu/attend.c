/* Attention of prompts over the blocks of the pool, and the rotation of queries and keys on their
 * way there.
 *
 * A unit is some rows of one sequence and the query heads of one kv head; queries of a unit are
 * rows x heads of the group, a row's heads side by side. Keys are taken in partitions of
 * ATTEND_PARTITION by position. For each partition, in order:
 *
 *     scores [queries][keys]  = queries x keys, each one a sum over the dimensions in order
 *     weights                 = exp(score - largest of the partition), their sum in 16 partial sums
 *     part [queries][dims]    = weights x values, each one a sum over the keys in order
 *     merge                   output, largest and sum so far with those of the partition
 *
 * So a row's result depends on its own query and the keys up to its position, not on the rows that
 * are computed with it. Slots that are not filled are never read; keys after a row's position have
 * weight zero (kernels.h says why adding them is exact).
 *
 * Source: Dao et al., FlashAttention (2022), for the merge of partial softmax sums.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/angles.h"
#include "backend/cpu/attend.h"
#include "backend/cpu/cpu_state.h"
#include "backend/cpu/elementary.h"
#include "base/bytes.h"
#include "base/half.h"

#define VALUE_KEYS 64u /* values unpacked at a time */
#define KEY_PANELS 4u  /* key panels at a time, for few queries */
#define FEW_QUERIES 12u
#define UNIT_QUERIES 96u

/* Value panels are not 4 KB apart. */
#define VALUE_STRIDE ((size_t)(VALUE_KEYS + 1) * PANEL_COLUMNS)

static const float zero_key[ATTEND_DIMS_MAX]; /* of any type */

uint32_t attend_unit_rows(const struct backend_shape *shape)
{
    uint32_t group = shape->head_count / shape->kv_head_count;
    return group >= UNIT_QUERIES ? 1 : UNIT_QUERIES / group;
}

uint32_t attend_units_max(const struct cpu_backend *cpu)
{
    return cpu->limits.sequences_max + cpu->limits.rows_max / attend_unit_rows(&cpu->shape) + 1;
}

/* A thread's memory for one unit. */
struct unit_scratch {
    float *queries; /* [queries][head_dim], scaled */
    float *scores;  /* [queries][ATTEND_SCORE_STRIDE] */
    float *keys;    /* [KEY_PANELS][head_dim][16] */
    float *values;  /* [panels][VALUE_STRIDE] */
    float *part;    /* [queries][16 * panels] */
    float *output;  /* the same */
    float *largest; /* [queries] */
    float *sum;     /* the same */
};

static uint32_t value_panels(const struct backend_shape *shape)
{
    return (shape->head_dim + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
}

/* Lay the parts out from base on; returns the bytes they take. */
static size_t scratch_lay(const struct backend_shape *shape, uint8_t *base,
                          struct unit_scratch *scratch_out)
{
    size_t queries = attend_unit_rows(shape) * (shape->head_count / shape->kv_head_count);
    size_t panels = value_panels(shape);
    size_t dims = panels * PANEL_COLUMNS;
    const size_t counts[] = {queries * dims,
                             queries * ATTEND_SCORE_STRIDE,
                             KEY_PANELS * PANEL_COLUMNS * dims,
                             VALUE_STRIDE * panels,
                             queries * dims,
                             queries * dims,
                             (queries + 15) / 16 * 16,
                             (queries + 15) / 16 * 16};
    float **parts[] = {&scratch_out->queries, &scratch_out->scores, &scratch_out->keys,
                       &scratch_out->values,  &scratch_out->part,   &scratch_out->output,
                       &scratch_out->largest, &scratch_out->sum};
    size_t at = 0;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        *parts[i] = (float *)(void *)(base + at);
        at += counts[i] * sizeof(float);
    }
    return at;
}

size_t attend_scratch_bytes(const struct cpu_backend *cpu)
{
    struct unit_scratch unused;
    static uint8_t origin[1];
    size_t units = scratch_lay(&cpu->shape, origin, &unused);
    size_t decode = attend_decode_scratch_bytes(&cpu->shape);
    return units > decode ? units : decode;
}

/* A pool of floats is for comparisons with other implementations, not for speed. */
static bool pool_is_float(const struct cpu_backend *cpu)
{
    return cpu->shape.kv_dtype == DTYPE_F32;
}

void attend_begin(struct cpu_backend *cpu)
{
    const struct step *step = cpu->step;
    const struct backend_shape *shape = &cpu->shape;
    uint32_t half = shape->rope_dims / 2;
    uint32_t unit_rows = attend_unit_rows(shape);
    cpu->unit_count = 0;
    cpu->decode_unit_count = 0;
    uint32_t covered = 0;
    for (uint32_t s = 0; s < step->sequence_count; s++) {
        const struct step_sequence *sequence = &step->sequences[s];
        assert(sequence->first_row + sequence->row_count <= step->row_count);
        assert((uint64_t)sequence->start_position + sequence->row_count <=
               (uint64_t)sequence->block_count * shape->block_tokens);
        covered += sequence->row_count;
        bool decodes = sequence->row_count == 1 && !pool_is_float(cpu);
        if (decodes)
            attend_decode_append(cpu, s, sequence->start_position + 1);
        for (uint32_t i = 0; i < sequence->row_count; i++) {
            uint32_t row = sequence->first_row + i, position = sequence->start_position + i;
            cpu->rows[row] =
                (struct step_row){.position = position,
                                  .token = position % shape->block_tokens,
                                  .block = sequence->block_ids[position / shape->block_tokens]};
            assert(cpu->rows[row].block < cpu->pool.block_count);
            angles_at(position, cpu->frequencies, half, cpu->cosines + (size_t)row * half,
                      cpu->sines + (size_t)row * half);
            if (!decodes && i % unit_rows == 0) {
                uint32_t left = sequence->row_count - i;
                assert(cpu->unit_count < attend_units_max(cpu));
                cpu->units[cpu->unit_count++] =
                    (struct attend_unit){.sequence = s,
                                         .first_row = row,
                                         .row_count = left < unit_rows ? left : unit_rows,
                                         .first_position = position};
            }
        }
    }
    assert(covered == step->row_count);
}

/* ---- numbers of the pool --------------------------------------------------------------------- */

/* Saturating like half_store, so that no scale is infinite. */
static void q8_0_store(const struct cpu_backend *cpu, const float *x, uint8_t *to)
{
    for (uint32_t d = 0; d < cpu->shape.head_dim; d += 32, to += Q8_0_BYTES) {
        float group[32];
        struct quant_scale scale;
        for (uint32_t i = 0; i < 32; i++) {
            float value = x[d + i] > -65504.0f ? x[d + i] : -65504.0f;
            group[i] = value < 65504.0f ? value : 65504.0f;
        }
        cpu->kernels->quantize(group, 32, (int8_t *)to + 2, &scale);
        store_u16(to, f32_to_f16(scale.scale));
    }
}

static void kv_store(const struct cpu_backend *cpu, const float *x, void *to)
{
    if (pool_is_float(cpu))
        memcpy(to, x, cpu->shape.head_dim * sizeof(*x));
    else if (cpu->shape.kv_dtype == DTYPE_Q8_0)
        q8_0_store(cpu, x, to);
    else
        cpu->kernels->half_store(x, to, cpu->shape.head_dim);
}

/* Keys of PANEL_COLUMNS tokens -> tile [head_dim][PANEL_COLUMNS]. */
static void keys_unpack(const struct cpu_backend *cpu, const void *const keys[PANEL_COLUMNS],
                        float *tile)
{
    if (!pool_is_float(cpu)) {
        kv_kernels_of(cpu)->key_tile(keys, cpu->shape.head_dim, tile, NULL);
        return;
    }
    for (uint32_t t = 0; t < PANEL_COLUMNS; t++) {
        const float *key = keys[t];
        for (uint32_t d = 0; d < cpu->shape.head_dim; d++)
            tile[d * PANEL_COLUMNS + t] = key[d];
    }
}

/* Values of count tokens side by side -> as many rows of each panel. */
static void values_unpack(const struct cpu_backend *cpu, const void *values, uint32_t count,
                          float *to, size_t panel_stride)
{
    uint32_t dims = cpu->shape.head_dim;
    if (!pool_is_float(cpu)) {
        kv_kernels_of(cpu)->value_rows(values, count, dims, to, panel_stride);
        return;
    }
    for (const float *from = values; count > 0; count--, from += dims, to += PANEL_COLUMNS)
        for (uint32_t d = 0; d < value_panels(&cpu->shape) * PANEL_COLUMNS; d++)
            to[panel_stride * (d / PANEL_COLUMNS) + d % PANEL_COLUMNS] = d < dims ? from[d] : 0.0f;
}

/* ---- rotate and store ------------------------------------------------------------------------ */

struct rope_job {
    struct cpu_backend *cpu;
    uint32_t layer;
    struct backend_buffer *q, *k;
    const struct backend_buffer *v;
    const struct backend_tensor *q_norm, *k_norm;
};

static void rotate(const struct backend_shape *shape, const float *cosines, const float *sines,
                   float *head)
{
    uint32_t half = shape->rope_dims / 2;
    uint32_t next = shape->rope_style == ROPE_PAIRS ? 2 : 1;
    uint32_t apart = shape->rope_style == ROPE_PAIRS ? 1 : half;
    for (uint32_t i = 0; i < half; i++) {
        float a = head[i * next], b = head[i * next + apart];
        head[i * next] = a * cosines[i] - b * sines[i];
        head[i * next + apart] = a * sines[i] + b * cosines[i];
    }
}

static void rope_row(const struct rope_job *job, uint32_t row)
{
    const struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    const struct step_row *at = &cpu->rows[row];
    const float *cosines = cpu->cosines + (size_t)row * (shape->rope_dims / 2);
    const float *sines = cpu->sines + (size_t)row * (shape->rope_dims / 2);
    uint32_t dims = shape->head_dim;

    for (uint32_t h = 0; h < shape->head_count; h++) {
        float *head = buffer_row(job->q, row) + (size_t)h * dims;
        if (job->q_norm != NULL)
            norm_row(cpu->kernels, head, job->q_norm->vector, dims, shape->norm_epsilon, head);
        rotate(shape, cosines, sines, head);
    }
    for (uint32_t h = 0; h < shape->kv_head_count; h++) {
        float *head = buffer_row(job->k, row) + (size_t)h * dims;
        if (job->k_norm != NULL)
            norm_row(cpu->kernels, head, job->k_norm->vector, dims, shape->norm_epsilon, head);
        rotate(shape, cosines, sines, head);
        kv_store(cpu, head, pool_token(cpu, at->block, job->layer, 0, h, at->token));
        kv_store(cpu, buffer_row(job->v, row) + (size_t)h * dims,
                 pool_token(cpu, at->block, job->layer, 1, h, at->token));
    }
}

#define ROPE_ROWS 8u

static void rope_piece(void *ctx, uint32_t piece, uint32_t thread)
{
    (void)thread;
    const struct rope_job *job = ctx;
    uint32_t rows = job->cpu->step->row_count;
    uint32_t end = (piece + 1) * ROPE_ROWS < rows ? (piece + 1) * ROPE_ROWS : rows;
    for (uint32_t row = piece * ROPE_ROWS; row < end; row++)
        rope_row(job, row);
}

void cpu_rope_store(struct backend *backend, uint32_t layer, struct backend_buffer *q,
                    struct backend_buffer *k, const struct backend_buffer *v,
                    const struct backend_tensor *q_norm, const struct backend_tensor *k_norm)
{
    struct cpu_backend *cpu = cpu_of(backend);
    const struct backend_shape *shape = &cpu->shape;
    assert(q->width == shape->head_count * shape->head_dim);
    assert(k->width == shape->kv_head_count * shape->head_dim && v->width == k->width);
    assert(layer < shape->layer_count && cpu->pool.host != NULL);
    struct rope_job job = {cpu, layer, q, k, v, q_norm, k_norm};
    team_run(cpu->team, piece_count(cpu->step->row_count, ROPE_ROWS), rope_piece, &job);
}

/* ---- attend ---------------------------------------------------------------------------------- */

struct attend_job {
    struct cpu_backend *cpu;
    uint32_t layer;
    const struct backend_buffer *q;
    struct backend_buffer *o;
};

/* A unit at work. */
struct unit_work {
    const struct attend_job *job;
    const struct attend_unit *unit;
    const struct step_sequence *sequence;
    uint32_t kv_head, group;
    struct unit_scratch scratch;
};

/* Key or value of a token, and how many tokens from it on lie side by side. */
static const uint8_t *token_run(const struct unit_work *work, uint32_t plane, uint32_t position,
                                uint32_t *run_out)
{
    const struct cpu_backend *cpu = work->job->cpu;
    uint32_t tokens = cpu->shape.block_tokens;
    uint32_t block = position / tokens, token = position - block * tokens;
    *run_out = tokens - token;
    return pool_token(cpu, work->sequence->block_ids[block], work->job->layer, plane, work->kv_head,
                      token);
}

#define FIRST_KEYS 64u /* of a unit, before which nothing could be asked for */
#define LINE_BYTES 64u

/* Ask for the keys or values of count tokens from start on. They lie in pieces of a block's tokens,
 * too short for the machine to see the pattern by itself. While keys are computed, the values of
 * the same partition are asked for, and while values are, the keys of the next one. To the second
 * cache: the first one can wait for a few lines only, and would keep the kernels waiting with it.
 */
static void unit_prefetch(const struct unit_work *work, uint32_t plane, uint32_t start,
                          uint32_t count)
{
    uint32_t known = work->unit->first_position + work->unit->row_count;
    uint32_t end = start + count < known ? start + count : known;
    size_t token_bytes = kv_token_bytes(work->job->cpu);
    while (start < end) {
        uint32_t run;
        const uint8_t *from = token_run(work, plane, start, &run);
        run = run < end - start ? run : end - start;
        for (size_t at = 0; at < run * token_bytes; at += LINE_BYTES)
            __builtin_prefetch(from + at, 0, 2);
        start += run;
    }
}

/* Up to 16 keys from start on as a panel; zeros for those beyond count. */
static void key_panel(const struct unit_work *work, uint32_t start, uint32_t count, float *tile)
{
    const struct cpu_backend *cpu = work->job->cpu;
    const void *keys[PANEL_COLUMNS];
    size_t token_bytes = kv_token_bytes(cpu);
    uint32_t have = count < PANEL_COLUMNS ? count : PANEL_COLUMNS, i = 0;
    while (i < have) {
        uint32_t run;
        const uint8_t *key = token_run(work, 0, start + i, &run);
        for (; run > 0 && i < have; run--, key += token_bytes)
            keys[i++] = key;
    }
    while (i < PANEL_COLUMNS)
        keys[i++] = zero_key;
    keys_unpack(cpu, keys, tile);
}

/* Scores of rows from first_row on against keys start .. start + count. With few queries several
 * panels are computed at once, to have enough sums under way. */
static void unit_scores(const struct unit_work *work, uint32_t first_row, uint32_t start,
                        uint32_t count)
{
    uint32_t dims = work->job->cpu->shape.head_dim;
    uint32_t queries = work->unit->row_count * work->group;
    uint32_t step = queries <= FEW_QUERIES ? KEY_PANELS * PANEL_COLUMNS : PANEL_COLUMNS;
    if (start == 0)
        unit_prefetch(work, 0, start, FIRST_KEYS);
    for (uint32_t t = 0; t < count; t += step) {
        uint32_t panels = 0;
        for (uint32_t at = t; at < count && at < t + step; at += PANEL_COLUMNS, panels++) {
            if (start == 0)
                unit_prefetch(work, 0, at + FIRST_KEYS, PANEL_COLUMNS);
            unit_prefetch(work, 1, start + at, PANEL_COLUMNS);
            key_panel(work, start + at, count - at,
                      work->scratch.keys + (size_t)panels * dims * PANEL_COLUMNS);
        }
        uint32_t row = first_row;
        while (work->unit->first_position + row < start + t)
            row++;
        size_t query = (size_t)row * work->group;
        struct tile_product product = {
            .rows = queries - (uint32_t)query,
            .panels = panels,
            .k = dims,
            .x = work->scratch.queries + query * dims,
            .x_stride = dims,
            .w = work->scratch.keys,
            .panel_stride = (size_t)dims * PANEL_COLUMNS,
            .c = work->scratch.scores + query * ATTEND_SCORE_STRIDE + t,
            .c_stride = ATTEND_SCORE_STRIDE,
        };
        work->job->cpu->kernels->product(&product);
    }
}

/* count values from start on as rows of the value panels. */
static void value_panels_fill(const struct unit_work *work, uint32_t start, uint32_t count)
{
    const struct cpu_backend *cpu = work->job->cpu;
    for (uint32_t i = 0; i < count;) {
        uint32_t run;
        const uint8_t *value = token_run(work, 1, start + i, &run);
        run = run < count - i ? run : count - i;
        unit_prefetch(work, 0, start + ATTEND_PARTITION + i, run);
        values_unpack(cpu, value, run, work->scratch.values + (size_t)i * PANEL_COLUMNS,
                      VALUE_STRIDE);
        i += run;
    }
}

/* part = weights x values, of rows from first_row on. */
static void unit_values(const struct unit_work *work, uint32_t first_row, uint32_t start,
                        uint32_t count)
{
    const struct cpu_backend *cpu = work->job->cpu;
    uint32_t panels = value_panels(&cpu->shape);
    size_t query = (size_t)first_row * work->group;
    struct tile_product product = {
        .rows = (work->unit->row_count - first_row) * work->group,
        .panels = panels,
        .x_stride = ATTEND_SCORE_STRIDE,
        .w = work->scratch.values,
        .panel_stride = VALUE_STRIDE,
        .c = work->scratch.part + query * panels * PANEL_COLUMNS,
        .c_stride = (size_t)panels * PANEL_COLUMNS,
    };
    for (uint32_t t = 0; t < count; t += VALUE_KEYS) {
        product.k = count - t < VALUE_KEYS ? count - t : VALUE_KEYS;
        value_panels_fill(work, start + t, product.k);
        product.x = work->scratch.scores + query * ATTEND_SCORE_STRIDE + t;
        product.add = t > 0;
        cpu->kernels->product(&product);
    }
}

void attend_merge(const struct cpu_backend *cpu, float *output, float *largest, float *sum,
                  const float *part, float part_largest, float part_sum, bool first)
{
    uint32_t dims = value_panels(&cpu->shape) * PANEL_COLUMNS;
    if (first) {
        memcpy(output, part, dims * sizeof(float));
        *largest = part_largest;
        *sum = part_sum;
        return;
    }
    float both = *largest > part_largest ? *largest : part_largest;
    float a = exp_weight(*largest - both, SOFTMAX_CUT);
    float b = exp_weight(part_largest - both, SOFTMAX_CUT);
    cpu->kernels->merge(output, part, a, b, dims);
    *sum = fmaf(*sum, a, part_sum * b);
    *largest = both;
}

/* Keys start .. start + count, which is one partition or the filled part of the last one. */
static void unit_partition(const struct unit_work *work, uint32_t start, uint32_t count)
{
    const struct attend_unit *unit = work->unit;
    const struct cpu_backend *cpu = work->job->cpu;
    size_t dims = (size_t)value_panels(&cpu->shape) * PANEL_COLUMNS;
    uint32_t first_row = unit->first_position < start ? start - unit->first_position : 0;
    float largest[ATTEND_QUERIES_MAX], sum[ATTEND_QUERIES_MAX];
    unit_scores(work, first_row, start, count);
    for (uint32_t row = first_row; row < unit->row_count; row++) {
        uint32_t seen = unit->first_position + row - start + 1;
        if (seen > count)
            seen = count;
        for (uint32_t g = 0; g < work->group; g++) {
            uint32_t query = row * work->group + g;
            float *scores = work->scratch.scores + (size_t)query * ATTEND_SCORE_STRIDE;
            sum[query] = cpu->kernels->softmax(scores, seen, &largest[query]);
            memset(scores + seen, 0, (count - seen) * sizeof(float));
        }
    }
    unit_values(work, first_row, start, count);
    for (uint32_t query = first_row * work->group; query < unit->row_count * work->group; query++)
        attend_merge(cpu, work->scratch.output + query * dims, &work->scratch.largest[query],
                     &work->scratch.sum[query], work->scratch.part + query * dims, largest[query],
                     sum[query], start == 0);
}

static void attend_unit(void *ctx, uint32_t chunk, uint32_t thread)
{
    const struct attend_job *job = ctx;
    struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    struct unit_work work = {.job = job,
                             .unit = &cpu->units[chunk / shape->kv_head_count],
                             .kv_head = chunk % shape->kv_head_count,
                             .group = shape->head_count / shape->kv_head_count};
    work.sequence = &cpu->step->sequences[work.unit->sequence];
    scratch_lay(shape, cpu->scratch + thread * cpu->scratch_bytes, &work.scratch);

    uint32_t dims = shape->head_dim, width = work.group * dims;
    float scale = 1.0f / sqrtf((float)dims);
    for (uint32_t row = 0; row < work.unit->row_count; row++) {
        const float *q = buffer_row(job->q, work.unit->first_row + row) + work.kv_head * width;
        for (uint32_t i = 0; i < width; i++)
            work.scratch.queries[(size_t)row * width + i] = q[i] * scale;
    }
    uint32_t keys = work.unit->first_position + work.unit->row_count;
    for (uint32_t start = 0; start < keys; start += ATTEND_PARTITION)
        unit_partition(&work, start,
                       keys - start < ATTEND_PARTITION ? keys - start : ATTEND_PARTITION);

    uint32_t padded = value_panels(shape) * PANEL_COLUMNS;
    for (uint32_t row = 0; row < work.unit->row_count; row++) {
        float *o = buffer_row(job->o, work.unit->first_row + row) + work.kv_head * width;
        for (uint32_t g = 0; g < work.group; g++) {
            uint32_t query = row * work.group + g;
            for (uint32_t d = 0; d < dims; d++)
                o[g * dims + d] =
                    work.scratch.output[(size_t)query * padded + d] / work.scratch.sum[query];
        }
    }
}

void cpu_attend(struct backend *backend, uint32_t layer, const struct backend_buffer *q,
                struct backend_buffer *o)
{
    struct cpu_backend *cpu = cpu_of(backend);
    const struct backend_shape *shape = &cpu->shape;
    assert(o->width == q->width && q->width == shape->head_count * shape->head_dim);
    for (uint32_t s = 0; s < cpu->step->sequence_count; s++) {
        const struct step_sequence *sequence = &cpu->step->sequences[s];
        uint64_t rows = sequence->row_count, keys = sequence->start_position + rows;
        /* The sum of (position + 1) over the rows. */
        uint64_t pairs = rows * sequence->start_position + rows * (rows + 1) / 2;
        cpu->counters.operations += 4 * pairs * shape->head_count * shape->head_dim;
        cpu->counters.bytes += keys * shape->kv_head_count * 2 * kv_token_bytes(cpu);
    }
    struct attend_job job = {cpu, layer, q, o};
    team_run(cpu->team, cpu->unit_count * shape->kv_head_count, attend_unit, &job);
    attend_decode(cpu, layer, q, o);
}
