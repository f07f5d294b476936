/* Attention of sequences that have a single row in the step, which is decode: each key and value
 * is read once, at the speed of memory if the cores keep up.
 *
 * A unit is one partition of one sequence, for all kv heads (or one, when there are few units), one
 * head after the other: keys and values of a head's partition stay in the second cache between
 * being asked for and being used.
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
    size_t queries = shape->head_count / shape->kv_head_count;
    return sizeof(float) * (queries * (padded_dims(shape) + ATTEND_SCORE_STRIDE) +
                            KEY_PANELS_MAX * PANEL_COLUMNS * padded_dims(shape));
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

/* What the thread will probably be at after chunk; nothing is known of it when there is none. */
static struct unit_place next_place(const struct decode_job *job, uint32_t chunk)
{
    chunk++;
    if (chunk < job->unit_count * job->head_parts)
        return place_of(job, chunk / job->head_parts, chunk % job->head_parts);
    return (struct unit_place){.cpu = job->cpu};
}

/* Where a unit's keys lie: pieces of blocks, in order. Values lie beside them, by the same offset
 * in each block. Found once for all heads: a division costs as much as a key. */
struct unit_runs {
    uint32_t count;
    struct {
        const uint8_t *keys; /* of the first head */
        uint32_t tokens;
    } runs[ATTEND_PARTITION];
};

static void runs_find(const struct unit_place *place, struct unit_runs *runs_out)
{
    uint32_t tokens = place->cpu->shape.block_tokens, at = place->start;
    uint32_t end = at + ATTEND_PARTITION < place->known ? at + ATTEND_PARTITION : place->known;
    runs_out->count = 0;
    while (at < end) {
        uint32_t block = at / tokens, token = at - block * tokens;
        uint32_t run = tokens - token < end - at ? tokens - token : end - at;
        runs_out->runs[runs_out->count].keys =
            pool_token(place->cpu, place->sequence->block_ids[block], place->layer, 0, 0, token);
        runs_out->runs[runs_out->count++].tokens = run;
        at += run;
    }
}

/* Bytes from a key to its value, and from a head to the next one. */
static size_t value_offset(const struct backend_shape *shape)
{
    return shape->layer_bytes / 2;
}

static size_t head_offset(const struct cpu_backend *cpu, uint32_t head)
{
    return head * cpu->shape.block_tokens * kv_token_bytes(cpu);
}

/* One kv head of a unit at work. */
struct head_work {
    const struct cpu_backend *cpu;
    const struct unit_runs *runs, *next_runs; /* of what comes next */
    size_t offset, next_offset;               /* of the heads there */
    const float *queries;
    float *scores; /* [group][ATTEND_SCORE_STRIDE] */
    float *tile;
    float *parts; /* part_floats apart */
};

/* The next keys of a head, panel after panel. */
struct key_cursor {
    uint32_t run, token;
};

/* Up to 16 keys as a panel of product, with zeros after the last. The values of these tokens are to
 * be asked for on the way: the machine sees no pattern by itself, what lies side by side is one
 * block's. */
static void keys_take(const struct head_work *work, struct key_cursor *cursor, uint32_t panel,
                      const void **keys, struct key_product *product)
{
    static const uint16_t zero_key[ATTEND_DIMS_MAX]; /* of either type */
    const struct unit_runs *runs = work->runs;
    size_t token_bytes = kv_token_bytes(work->cpu);
    product->side_by_side[panel] = false;
    product->ahead[panel] = NULL;
    for (uint32_t have = 0; have < PANEL_COLUMNS;) {
        if (cursor->run == runs->count) {
            keys[have++] = zero_key;
            continue;
        }
        uint32_t left = runs->runs[cursor->run].tokens - cursor->token;
        uint32_t take = left < PANEL_COLUMNS - have ? left : PANEL_COLUMNS - have;
        const uint8_t *key =
            runs->runs[cursor->run].keys + work->offset + cursor->token * token_bytes;
        if (take == PANEL_COLUMNS) {
            product->side_by_side[panel] = true;
            product->ahead[panel] = key + value_offset(&work->cpu->shape);
            keys[0] = key;
        } else {
            for (uint32_t i = 0; i < take; i++)
                keys[have + i] = key + i * token_bytes;
        }
        have += take;
        cursor->token += take;
        if (take == left)
            *cursor = (struct key_cursor){.run = cursor->run + 1};
    }
}

/* Scores of the head's queries against all keys of the unit. */
static void head_scores(const struct head_work *work)
{
    const struct backend_shape *shape = &work->cpu->shape;
    const void *keys[KEY_PANELS_MAX * PANEL_COLUMNS];
    struct key_product product = {.rows = shape->head_count / shape->kv_head_count,
                                  .dims = shape->head_dim,
                                  .queries = work->queries,
                                  .query_stride = shape->head_dim,
                                  .keys = keys,
                                  .c = work->scores,
                                  .c_stride = ATTEND_SCORE_STRIDE,
                                  .tile = work->tile};
    struct key_cursor cursor = {0};
    while (cursor.run < work->runs->count) {
        for (product.panels = 0; product.panels < KEY_PANELS_MAX && cursor.run < work->runs->count;
             product.panels++)
            keys_take(work, &cursor, product.panels, keys + (size_t)product.panels * PANEL_COLUMNS,
                      &product);
        kv_kernels_of(work->cpu)->key_product(&product);
        product.c += (size_t)product.panels * PANEL_COLUMNS;
    }
}

/* The sums of the head's values. The keys of what comes next are asked for on the way. */
static void head_values(const struct head_work *work)
{
    const struct backend_shape *shape = &work->cpu->shape;
    struct value_product product = {.rows = shape->head_count / shape->kv_head_count,
                                    .dims = shape->head_dim,
                                    .weights = work->scores,
                                    .weight_stride = ATTEND_SCORE_STRIDE,
                                    .c = work->parts,
                                    .c_stride = part_floats(shape)};
    for (uint32_t run = 0; run < work->runs->count; run++) {
        product.count = work->runs->runs[run].tokens;
        product.values = work->runs->runs[run].keys + work->offset + value_offset(shape);
        product.ahead = NULL;
        if (run < work->next_runs->count && work->next_runs->runs[run].tokens >= product.count)
            product.ahead = work->next_runs->runs[run].keys + work->next_offset;
        kv_kernels_of(work->cpu)->value_product(&product);
        product.weights += product.count;
        product.add = true;
    }
}

static void head_run(const struct head_work *work, uint32_t count)
{
    uint32_t group = work->cpu->shape.head_count / work->cpu->shape.kv_head_count;
    head_scores(work);
    for (uint32_t g = 0; g < group; g++) {
        float *most =
            work->parts + g * part_floats(&work->cpu->shape) + padded_dims(&work->cpu->shape);
        most[1] = work->cpu->kernels->softmax(work->scores + (size_t)g * ATTEND_SCORE_STRIDE, count,
                                              most);
    }
    head_values(work);
}

/* One kv head after the other: what has been asked for is used while it is still in the cache. */
static void decode_unit_run(void *ctx, uint32_t chunk, uint32_t thread)
{
    const struct decode_job *job = ctx;
    struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    uint32_t slot = chunk / job->head_parts;
    struct unit_place place = place_of(job, slot, chunk % job->head_parts);
    struct unit_place next = next_place(job, chunk);
    struct unit_runs runs, next_runs;
    runs_find(&place, &runs);
    runs_find(&next, &next_runs);

    uint32_t dims = shape->head_dim, group = shape->head_count / shape->kv_head_count;
    uint32_t left = place.known - place.start;
    float *queries = (float *)(void *)(cpu->scratch + thread * cpu->scratch_bytes);
    float scale = 1.0f / sqrtf((float)dims);
    struct head_work work = {.cpu = cpu, .runs = &runs, .next_runs = &runs, .queries = queries};
    work.scores = queries + group * padded_dims(shape);
    work.tile = work.scores + (size_t)group * ATTEND_SCORE_STRIDE;
    for (uint32_t head = place.head; head < place.head_end; head++) {
        const float *q =
            buffer_row(job->q, place.sequence->first_row) + (size_t)head * group * dims;
        for (uint32_t i = 0; i < group * dims; i++)
            queries[i] = q[i] * scale;
        work.offset = head_offset(cpu, head);
        work.next_offset = head_offset(cpu, head + 1);
        if (head + 1 == place.head_end) {
            work.next_runs = &next_runs;
            work.next_offset = head_offset(cpu, next.head);
        }
        work.parts =
            cpu->decode_parts + (slot * shape->head_count + head * group) * part_floats(shape);
        head_run(&work, left < ATTEND_PARTITION ? left : ATTEND_PARTITION);
    }
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
