/* Attention of sequences that have a single row in the step, which is decode: each key and value
 * is read once, at the speed of memory if the cores keep up.
 *
 * A unit is one partition of one sequence, for all kv heads (or some, when there are few units):
 * its blocks are read in the order in which they lie in memory, all heads of a block side by side.
 *
 *     sequence A   partition 0 | 1 | 2          units, any thread, any order
 *                      part, largest, sum of each query head
 *     then         output of A = parts 0, 1, 2 merged in this order
 *
 * Which is what attend.c does for one row, operation by operation; the order in which units are
 * computed shows in no bit. Parts are kept for a wave of units, and merged after each wave.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/attend.h"
#include "backend/cpu/cpu_state.h"
#include "backend/cpu/elementary.h"

#define WAVE_UNITS DECODE_WAVE_UNITS
#define STEP_KEYS 32u /* keys of a head that are turned round at once */

struct decode_job {
    struct cpu_backend *cpu;
    uint32_t layer;
    const struct backend_buffer *q;
    struct backend_buffer *o;
    uint32_t first_unit, unit_count; /* of the wave */
    uint32_t head_parts;             /* kv heads of a unit are shared out in so many parts */
};

static size_t padded_dims(const struct backend_shape *shape)
{
    return (shape->head_dim + PANEL_COLUMNS - 1) / PANEL_COLUMNS * PANEL_COLUMNS;
}

static uint32_t partitions_of(uint32_t keys)
{
    return (keys + ATTEND_PARTITION - 1) / ATTEND_PARTITION;
}

/* Floats of one part of one query head: the sum of values, the largest score, the sum of weights.
 */
static size_t part_floats(const struct backend_shape *shape)
{
    return padded_dims(shape) + 2;
}

bool attend_decode_open(struct cpu_backend *cpu)
{
    const struct backend_shape *shape = &cpu->shape;
    size_t keys = (size_t)cpu->limits.table_blocks_max * shape->block_tokens;
    size_t partitions = (keys + ATTEND_PARTITION - 1) / ATTEND_PARTITION;
    size_t part = shape->head_count * part_floats(shape) * sizeof(float);
    size_t units = cpu->limits.sequences_max * partitions;
    if (units > UINT32_MAX)
        return false;
    cpu->decode_units_max = (uint32_t)units;
    cpu->decode_units = cpu_take(cpu, units * sizeof(*cpu->decode_units));
    cpu->decode_parts = cpu_take(cpu, WAVE_UNITS * part);
    cpu->decode_sums = cpu_take(cpu, cpu->limits.sequences_max * part);
    return cpu->decode_units != NULL && cpu->decode_parts != NULL && cpu->decode_sums != NULL;
}

size_t attend_decode_scratch_bytes(const struct backend_shape *shape)
{
    size_t queries = shape->head_count;
    return sizeof(float) *
           (queries * (padded_dims(shape) + ATTEND_SCORE_STRIDE) + STEP_KEYS * padded_dims(shape));
}

void attend_decode_append(struct cpu_backend *cpu, uint32_t sequence, uint32_t keys)
{
    for (uint32_t partition = 0; partition < partitions_of(keys); partition++) {
        assert(cpu->decode_unit_count < cpu->decode_units_max);
        cpu->decode_units[cpu->decode_unit_count++] =
            (struct decode_unit){.sequence = sequence, .partition = partition};
    }
}

/* ---- one unit -------------------------------------------------------------------------------- */

struct unit_place {
    const struct cpu_backend *cpu;
    const struct step_sequence *sequence;
    uint32_t layer;
    uint32_t head, head_end; /* kv heads */
    uint32_t start;          /* its first key */
    uint32_t known;          /* keys of the sequence */
};

static struct unit_place place_of(const struct decode_job *job, uint32_t slot, uint32_t part)
{
    const struct cpu_backend *cpu = job->cpu;
    const struct decode_unit *unit = &cpu->decode_units[job->first_unit + slot];
    const struct step_sequence *sequence = &cpu->step->sequences[unit->sequence];
    uint32_t heads = cpu->shape.kv_head_count;
    return (struct unit_place){.cpu = cpu,
                               .sequence = sequence,
                               .layer = job->layer,
                               .head = heads * part / job->head_parts,
                               .head_end = heads * (part + 1) / job->head_parts,
                               .start = unit->partition * ATTEND_PARTITION,
                               .known = sequence->start_position + 1};
}

static const uint8_t *token_at(const struct unit_place *place, uint32_t plane, uint32_t head,
                               uint32_t position)
{
    uint32_t tokens = place->cpu->shape.block_tokens;
    uint32_t block = position / tokens;
    return pool_token(place->cpu, place->sequence->block_ids[block], place->layer, plane, head,
                      position - block * tokens);
}

/* Tokens from position on in its block, at most most. */
static uint32_t run_at(const struct unit_place *place, uint32_t position, uint32_t most)
{
    uint32_t tokens = place->cpu->shape.block_tokens;
    uint32_t run = tokens - position % tokens;
    return run < most ? run : most;
}

/* Where tokens from position on lie, if count of them are there side by side: to ask for them
 * early. The machine sees no pattern by itself: what lies side by side is one block's. */
static const void *ahead_at(const struct unit_place *place, uint32_t plane, uint32_t head,
                            uint32_t position, uint32_t count)
{
    if (position >= place->known || run_at(place, position, count) < count)
        return NULL;
    return token_at(place, plane, head, position);
}

/* Scores of the queries of one kv head against count keys from start on, at most STEP_KEYS. */
static void head_scores(const struct unit_place *place, uint32_t head, uint32_t start,
                        uint32_t count, const float *queries, float *tile, float *scores)
{
    static const uint16_t zero_key[ATTEND_DIMS_MAX]; /* of either type */
    const struct backend_shape *shape = &place->cpu->shape;
    const struct kernels *kernels = place->cpu->kernels;
    uint32_t group = shape->head_count / shape->kv_head_count, dims = shape->head_dim;
    uint32_t panels = (count + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
    size_t token_bytes = kv_token_bytes(place->cpu);
    const void *keys[STEP_KEYS];
    for (uint32_t i = 0; i < count;) {
        uint32_t run = run_at(place, start + i, count - i);
        const uint8_t *key = token_at(place, 0, head, start + i);
        for (; run > 0; run--, key += token_bytes)
            keys[i++] = key;
    }
    for (uint32_t i = count; i < panels * PANEL_COLUMNS; i++)
        keys[i] = zero_key;
    for (uint32_t at = 0; at < panels * PANEL_COLUMNS; at += PANEL_COLUMNS)
        kv_kernels_of(place->cpu)
            ->key_tile(keys + at, dims, tile + (size_t)at * dims,
                       ahead_at(place, 1, head, start + at, PANEL_COLUMNS));
    struct tile_product product = {.rows = group,
                                   .panels = panels,
                                   .k = dims,
                                   .x = queries + (size_t)head * group * dims,
                                   .x_stride = dims,
                                   .w = tile,
                                   .panel_stride = (size_t)dims * PANEL_COLUMNS,
                                   .c = scores + (size_t)head * group * ATTEND_SCORE_STRIDE,
                                   .c_stride = ATTEND_SCORE_STRIDE};
    kernels->product(&product);
}

/* The sums of values of all query heads, each part_floats apart from parts on. The keys of the next
 * unit are asked for on the way. */
static void unit_values(const struct unit_place *place, const struct unit_place *next,
                        uint32_t start, uint32_t count, const float *scores, float *parts)
{
    const struct backend_shape *shape = &place->cpu->shape;
    uint32_t group = shape->head_count / shape->kv_head_count;
    struct value_product product = {.rows = group,
                                    .dims = shape->head_dim,
                                    .weight_stride = ATTEND_SCORE_STRIDE,
                                    .c_stride = part_floats(shape)};
    for (uint32_t i = 0; i < count; i += product.count) {
        product.count = run_at(place, start + i, count - i);
        product.add = i > 0;
        for (uint32_t head = place->head; head < place->head_end; head++) {
            product.values = token_at(place, 1, head, start + i);
            product.ahead = ahead_at(next, 0, head, next->start + i, product.count);
            product.weights = scores + (size_t)head * group * ATTEND_SCORE_STRIDE + i;
            product.c = parts + head * group * part_floats(shape);
            kv_kernels_of(place->cpu)->value_product(&product);
        }
    }
}

static void decode_unit_run(void *ctx, uint32_t chunk, uint32_t thread)
{
    const struct decode_job *job = ctx;
    struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    uint32_t slot = chunk / job->head_parts, part = chunk % job->head_parts;
    struct unit_place place = place_of(job, slot, part);
    struct unit_place next = place_of(job, slot + 1 < job->unit_count ? slot + 1 : slot, part);
    uint32_t dims = shape->head_dim, group = shape->head_count / shape->kv_head_count;
    uint32_t query0 = place.head * group, query_end = place.head_end * group;
    float *queries = (float *)(void *)(cpu->scratch + thread * cpu->scratch_bytes);
    float *scores = queries + shape->head_count * padded_dims(shape);
    float *tile = scores + (size_t)shape->head_count * ATTEND_SCORE_STRIDE;
    float *parts = cpu->decode_parts + slot * shape->head_count * part_floats(shape);

    float scale = 1.0f / sqrtf((float)dims);
    const float *q = buffer_row(job->q, place.sequence->first_row);
    for (uint32_t i = query0 * dims; i < query_end * dims; i++)
        queries[i] = q[i] * scale;

    uint32_t count = place.known - place.start;
    count = count < ATTEND_PARTITION ? count : ATTEND_PARTITION;
    for (uint32_t t = 0; t < count; t += STEP_KEYS) {
        uint32_t keys = count - t < STEP_KEYS ? count - t : STEP_KEYS;
        for (uint32_t head = place.head; head < place.head_end; head++)
            head_scores(&place, head, place.start + t, keys, queries, tile, scores + t);
    }
    for (uint32_t query = query0; query < query_end; query++) {
        float *most = parts + query * part_floats(shape) + padded_dims(shape);
        most[1] = cpu->kernels->softmax(scores + (size_t)query * ATTEND_SCORE_STRIDE, count, most);
    }
    unit_values(&place, &next, place.start, count, scores, parts);
}

/* ---- merge ----------------------------------------------------------------------------------- */

/* All units of the wave that are of the sequence with this rank among those that decode. */
static void decode_merge(void *ctx, uint32_t rank, uint32_t thread)
{
    (void)thread;
    const struct decode_job *job = ctx;
    struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    size_t floats = part_floats(shape), most = padded_dims(shape);
    uint32_t first = job->first_unit + cpu->decode_firsts[rank],
             end = job->first_unit + cpu->decode_firsts[rank + 1];
    const struct decode_unit *unit = &cpu->decode_units[first];
    const struct step_sequence *sequence = &cpu->step->sequences[unit->sequence];
    float *sums = cpu->decode_sums + unit->sequence * shape->head_count * floats;
    for (uint32_t u = first; u < end; u++) {
        const float *parts = cpu->decode_parts + (u - job->first_unit) * shape->head_count * floats;
        for (uint32_t query = 0; query < shape->head_count; query++)
            attend_merge(cpu, sums + query * floats, &sums[query * floats + most],
                         &sums[query * floats + most + 1], parts + query * floats,
                         parts[query * floats + most], parts[query * floats + most + 1],
                         cpu->decode_units[u].partition == 0);
    }
    if (cpu->decode_units[end - 1].partition + 1 < partitions_of(sequence->start_position + 1))
        return; /* another wave goes on with it */
    float *o = buffer_row(job->o, sequence->first_row);
    for (uint32_t query = 0; query < shape->head_count; query++, sums += floats)
        for (uint32_t d = 0; d < shape->head_dim; d++)
            *o++ = sums[d] / sums[most + 1];
}

/* Where each sequence's units begin in the wave, counted from its first one. */
static uint32_t wave_firsts(struct cpu_backend *cpu, const struct decode_job *job)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < job->unit_count; i++) {
        const struct decode_unit *unit = &cpu->decode_units[job->first_unit + i];
        if (i == 0 || unit->sequence != unit[-1].sequence)
            cpu->decode_firsts[count++] = i;
    }
    cpu->decode_firsts[count] = job->unit_count;
    return count;
}

void attend_decode(struct cpu_backend *cpu, uint32_t layer, const struct backend_buffer *q,
                   struct backend_buffer *o)
{
    struct decode_job job = {.cpu = cpu, .layer = layer, .q = q, .o = o};
    uint32_t threads = team_threads(cpu->team), heads = cpu->shape.kv_head_count;
    for (; job.first_unit < cpu->decode_unit_count; job.first_unit += job.unit_count) {
        uint32_t left = cpu->decode_unit_count - job.first_unit;
        job.unit_count = left < WAVE_UNITS ? left : WAVE_UNITS;
        job.head_parts = threads == 1 || job.unit_count >= 4 * threads ? 1 : heads;
        team_run(cpu->team, job.unit_count * job.head_parts, decode_unit_run, &job);
        team_run(cpu->team, wave_firsts(cpu, &job), decode_merge, &job);
    }
}
