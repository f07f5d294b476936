/* Attention of sequences that have a single row in the step, which is decode: each key and value
 * is read once, at the speed of memory if the cores keep up.
 *
 * A unit is one partition of one sequence, for all kv heads (or one, when there are few units): all
 * its keys, then all its values, in the order in which they lie in memory, heads of a block side by
 * side. What comes next is asked for in that order, a few KB before it is used, and again just
 * before (kv_lanes.h says why).
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
    size_t queries = shape->head_count;
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
static struct unit_place place_after(const struct decode_job *job, uint32_t chunk)
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

/* A unit at work. */
struct unit_work {
    const struct cpu_backend *cpu;
    const struct unit_runs *runs;
    uint32_t head, head_end; /* kv heads */
    const float *queries;    /* of the first head, as all below */
    float *scores;           /* [queries][ATTEND_SCORE_STRIDE] */
    float *tile;
    float *parts; /* part_floats apart */
};

static uint32_t group_of(const struct backend_shape *shape)
{
    return shape->head_count / shape->kv_head_count;
}

/* ---- what is asked for ------------------------------------------------------------------------
 */

/* Where the next lines lie that are to be asked for: keys of the unit's runs, all heads of a run
 * side by side, then their values, then keys of what comes next. The machine sees no pattern in
 * blocks by itself, but goes on where lines follow each other. */
struct ask_cursor {
    const struct unit_work *work, *next;
    uint32_t run;
    bool values;
    size_t at; /* bytes of the run that have been asked for */
};

/* The next bytes of keys or values, or NULL if there are not so many side by side. */
static const void *ask_next(struct ask_cursor *cursor, size_t bytes)
{
    if (cursor->work != NULL && cursor->run == cursor->work->runs->count) {
        if (cursor->values) {
            cursor->work = cursor->next;
            cursor->next = NULL;
        }
        cursor->values = !cursor->values;
        cursor->run = 0;
    }
    const struct unit_work *work = cursor->work;
    if (work == NULL || work->runs->count == 0)
        return NULL;
    const struct cpu_backend *cpu = work->cpu;
    size_t end = head_offset(cpu, work->head_end - 1 - work->head) +
                 work->runs->runs[cursor->run].tokens * kv_token_bytes(cpu);
    const uint8_t *ask = work->runs->runs[cursor->run].keys + head_offset(cpu, work->head) +
                         (cursor->values ? value_offset(&cpu->shape) : 0) + cursor->at;
    if (cursor->at + bytes > end)
        ask = NULL;
    cursor->at += bytes;
    if (cursor->at >= end) {
        cursor->run++;
        cursor->at = 0;
    }
    return ask;
}

/* ---- keys -------------------------------------------------------------------------------------
 */

/* The next keys of a head, panel after panel. */
struct key_cursor {
    uint32_t run, token;
};

static struct key_cursor cursor_after(const struct unit_runs *runs, struct key_cursor cursor,
                                      uint32_t tokens)
{
    while (cursor.run < runs->count) {
        uint32_t left = runs->runs[cursor.run].tokens - cursor.token;
        if (tokens < left)
            return (struct key_cursor){cursor.run, cursor.token + tokens};
        tokens -= left;
        cursor = (struct key_cursor){.run = cursor.run + 1};
    }
    return cursor;
}

/* A panel of a head's keys from cursor on, or NULL if they do not lie side by side. */
static const void *keys_at(const struct unit_work *work, uint32_t head, struct key_cursor cursor)
{
    const struct unit_runs *runs = work->runs;
    if (cursor.run >= runs->count || runs->runs[cursor.run].tokens - cursor.token < PANEL_COLUMNS)
        return NULL;
    return runs->runs[cursor.run].keys + head_offset(work->cpu, head) +
           cursor.token * kv_token_bytes(work->cpu);
}

/* Up to 16 keys as a panel of product, with zeros after the last. */
static void keys_take(const struct unit_work *work, uint32_t head, struct key_cursor *cursor,
                      uint32_t panel, const void **keys, struct key_product *product)
{
    static const uint16_t zero_key[ATTEND_DIMS_MAX]; /* of either type */
    const struct unit_runs *runs = work->runs;
    size_t token_bytes = kv_token_bytes(work->cpu), offset = head_offset(work->cpu, head);
    product->side_by_side[panel] = false;
    for (uint32_t have = 0; have < PANEL_COLUMNS;) {
        if (cursor->run == runs->count) {
            keys[have++] = zero_key;
            continue;
        }
        uint32_t left = runs->runs[cursor->run].tokens - cursor->token;
        uint32_t take = left < PANEL_COLUMNS - have ? left : PANEL_COLUMNS - have;
        const uint8_t *key = runs->runs[cursor->run].keys + offset + cursor->token * token_bytes;
        if (take == PANEL_COLUMNS) {
            product->side_by_side[panel] = true;
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

/* Scores of a head's queries against the next panels of keys, which are keys first .. of the unit.
 * What is read next are the same panels of the next head, or after the last head the panels that
 * follow, of the first one. */
static void head_scores(const struct unit_work *work, uint32_t head, uint32_t first,
                        struct key_cursor *cursor, struct ask_cursor *ask)
{
    const struct backend_shape *shape = &work->cpu->shape;
    uint32_t query = (head - work->head) * group_of(shape);
    const void *keys[KEY_PANELS_MAX * PANEL_COLUMNS];
    struct key_product product = {.rows = group_of(shape),
                                  .dims = shape->head_dim,
                                  .queries = work->queries + (size_t)query * shape->head_dim,
                                  .query_stride = shape->head_dim,
                                  .keys = keys,
                                  .c = work->scores + query * ATTEND_SCORE_STRIDE + first,
                                  .c_stride = ATTEND_SCORE_STRIDE,
                                  .tile = work->tile};
    bool last = head + 1 == work->head_end;
    struct key_cursor soon =
        last ? cursor_after(work->runs, *cursor, KEY_PANELS_MAX * PANEL_COLUMNS) : *cursor;
    for (; product.panels < KEY_PANELS_MAX && cursor->run < work->runs->count; product.panels++) {
        uint32_t panel = product.panels;
        product.soon[panel] = keys_at(work, last ? work->head : head + 1, soon);
        soon = cursor_after(work->runs, soon, PANEL_COLUMNS);
        keys_take(work, head, cursor, panel, keys + (size_t)panel * PANEL_COLUMNS, &product);
        product.ahead[panel] = ask_next(ask, PANEL_COLUMNS * kv_token_bytes(work->cpu));
    }
    kv_kernels_of(work->cpu)->key_product(&product);
}

static void unit_scores(const struct unit_work *work, struct ask_cursor *ask)
{
    struct key_cursor cursor = {0};
    for (uint32_t first = 0; cursor.run < work->runs->count;
         first += KEY_PANELS_MAX * PANEL_COLUMNS) {
        struct key_cursor begin = cursor;
        for (uint32_t head = work->head; head < work->head_end; head++) {
            cursor = begin;
            head_scores(work, head, first, &cursor, ask);
        }
    }
}

/* ---- values -----------------------------------------------------------------------------------
 */

/* The values of a head that lie in a run. */
static const uint8_t *values_at(const struct unit_work *work, uint32_t head, uint32_t run)
{
    return work->runs->runs[run].keys + head_offset(work->cpu, head) +
           value_offset(&work->cpu->shape);
}

static void unit_values(const struct unit_work *work, struct ask_cursor *ask)
{
    const struct backend_shape *shape = &work->cpu->shape;
    struct value_product product = {.rows = group_of(shape),
                                    .dims = shape->head_dim,
                                    .weight_stride = ATTEND_SCORE_STRIDE,
                                    .c_stride = part_floats(shape)};
    uint32_t first = 0;
    for (uint32_t run = 0; run < work->runs->count; run++) {
        product.count = work->runs->runs[run].tokens;
        for (uint32_t head = work->head; head < work->head_end; head++) {
            uint32_t query = (head - work->head) * group_of(shape);
            product.weights = work->scores + query * ATTEND_SCORE_STRIDE + first;
            product.values = values_at(work, head, run);
            product.c = work->parts + query * part_floats(shape);
            product.ahead = ask_next(ask, product.count * kv_token_bytes(work->cpu));
            if (head + 1 < work->head_end)
                product.soon = values_at(work, head + 1, run);
            else
                product.soon =
                    run + 1 < work->runs->count ? values_at(work, work->head, run + 1) : NULL;
            kv_kernels_of(work->cpu)->value_product(&product);
        }
        first += product.count;
        product.add = true;
    }
}

/* ---- all of a unit ----------------------------------------------------------------------------
 */

static void decode_unit_run(void *ctx, uint32_t chunk, uint32_t thread)
{
    const struct decode_job *job = ctx;
    struct cpu_backend *cpu = job->cpu;
    const struct backend_shape *shape = &cpu->shape;
    uint32_t slot = chunk / job->head_parts;
    struct unit_place place = place_of(job, slot, chunk % job->head_parts);
    struct unit_place next_place = place_after(job, chunk);
    struct unit_runs runs, next_runs;
    runs_find(&place, &runs);
    runs_find(&next_place, &next_runs);

    uint32_t dims = shape->head_dim, group = group_of(shape), query = place.head * group;
    uint32_t queries = (place.head_end - place.head) * group, left = place.known - place.start;
    float *scaled = (float *)(void *)(cpu->scratch + thread * cpu->scratch_bytes);
    struct unit_work work = {
        .cpu = cpu, .runs = &runs, .head = place.head, .head_end = place.head_end};
    struct unit_work next = {
        .cpu = cpu, .runs = &next_runs, .head = next_place.head, .head_end = next_place.head_end};
    work.queries = scaled;
    work.scores = scaled + queries * padded_dims(shape);
    work.tile = work.scores + (size_t)queries * ATTEND_SCORE_STRIDE;
    work.parts = cpu->decode_parts + (slot * shape->head_count + query) * part_floats(shape);

    const float *q = buffer_row(job->q, place.sequence->first_row) + (size_t)query * dims;
    float scale = 1.0f / sqrtf((float)dims);
    for (uint32_t i = 0; i < queries * dims; i++)
        scaled[i] = q[i] * scale;

    /* What the first panels take is known to the thread's last unit, and asked for by it. */
    struct ask_cursor ask = {.work = &work, .next = &next};
    for (uint32_t i = 0; i < (place.head_end - place.head) * KEY_PANELS_MAX; i++)
        (void)ask_next(&ask, PANEL_COLUMNS * kv_token_bytes(cpu));
    unit_scores(&work, &ask);
    for (uint32_t i = 0; i < queries; i++) {
        float *most = work.parts + i * part_floats(shape) + padded_dims(shape);
        most[1] = cpu->kernels->softmax(work.scores + (size_t)i * ATTEND_SCORE_STRIDE,
                                        left < ATTEND_PARTITION ? left : ATTEND_PARTITION, most);
    }
    unit_values(&work, &ask);
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
