/* baton bench engine: prefill and decode of the engine alone, each figure beside its floor.
 *
 *     for each depth:   the pool holds depth tokens of random keys and values
 *         prefill       one sequence, --prefill tokens more, in chunks
 *         for each batch:
 *             decode    batch sequences, --decode steps of one token each
 *             fetching  the same, while blocks of another GPU are fetched without a pause
 *
 * The floor of a step is the time that its bytes need at the machine's read bandwidth, or its
 * operations at the peaks of their instructions, whichever is longer.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/device.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "cli/bench_fetch.h"
#include "cli/bench_floor.h"
#include "cli/bench_samples.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "engine/engine.h"
#include "engine/memory.h"

#define LIST_MAX 16u
#define BATCH_MAX 1024u

struct engine_bench_options {
    const char *batch, *depth, *kernels, *variant, *json, *dummy_weights;
    const char *device, *cuda_plugin, *fetch_from;
    bool deterministic;
    uint32_t kv; /* enum engine_kv */
    uint32_t prefill, decode, threads, repeat, chunk, block_tokens;
};

#define FIELD(name) offsetof(struct engine_bench_options, name)

static const struct option_spec specs[] = {
    MODEL_ROWS(struct engine_bench_options),
    {"prefill", OPTION_UINT, "TOKENS", "512", 1, 1u << 20, FIELD(prefill), "length of a prompt"},
    {"decode", OPTION_UINT, "STEPS", "128", 1, 1u << 20, FIELD(decode), "steps of decode"},
    {"batch", OPTION_TEXT, "LIST", "1,8,32", 0, 0, FIELD(batch), "sequences that decode together"},
    {"depth", OPTION_TEXT, "LIST", "0", 0, 0, FIELD(depth),
     "tokens that a sequence has already, before what is measured"},
    {"threads", OPTION_UINT, "N", "0", 0, CPU_THREADS_MAX, FIELD(threads),
     "cores to compute with; 0 for all that the process may use"},
    {"repeat", OPTION_UINT, "N", "5", 1, 1000, FIELD(repeat), "measurements to take a median of"},
    {"prefill-chunk", OPTION_UINT, "TOKENS", "512", 1, 65536, FIELD(chunk),
     "tokens of the prompt in one step"},
    {"block-tokens", OPTION_UINT, "TOKENS", "16", 1, KV_BLOCK_TOKENS_MAX, FIELD(block_tokens),
     "tokens of a KV block"},
    {"kernels", OPTION_TEXT, "CLASS", "auto", 0, 0, FIELD(kernels),
     "arithmetic: float (reference), int8 (faster), bf16 (BF16 weights too) or auto (int8)"},
    {"kv-dtype", OPTION_CHOICE, "f16|f32|q8_0", "f16", 0, 0, FIELD(kv),
     "what keys and values are stored in; f32 is to compare with other implementations"},
    {"variant", OPTION_TEXT, "NAME", "auto", 0, 0, FIELD(variant),
     "instructions: scalar, avx2, avx512, vnni, bf16, amx, neon, dotprod, or auto, the best that "
     "there are"},
    {"device", OPTION_TEXT, "NAME", "cpu", 0, 0, FIELD(device),
     "what computes: cpu, cuda (the first GPU) or cuda:N"},
    {"cuda-plugin", OPTION_TEXT, "PATH", NULL, 0, 0, FIELD(cuda_plugin),
     "the backend for cuda; unset: baton-cuda.so beside the binary or in ../lib/baton"},
    {"deterministic", OPTION_FLAG, NULL, NULL, 0, 0, FIELD(deterministic),
     "on a GPU: the same bits for any batch and chunks"},
    {"fetch-from", OPTION_TEXT, "NAME", NULL, 0, 0, FIELD(fetch_from),
     "measure decode once more while blocks are fetched from another process on this GPU"},
    {"json", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(json),
     "also write the result as JSON; - writes it to standard output instead of the table"},
};

struct list {
    uint32_t count, items[LIST_MAX];
};

/* What is open while it runs. */
struct engine_bench {
    const struct engine_bench_options *options;
    struct list batches, depths;
    uint32_t threads;
    struct model *model;
    struct device device;
    uint64_t available_bytes;
    struct engine *engine;
    struct prefix_tree *tree;
    struct bench_floor floor;
    uint32_t table_blocks; /* capacity of a table */
    uint32_t batch_max, tokens_max;
    struct block_table *tables;        /* [batch_max] */
    struct engine_sequence *sequences; /* [batch_max] */
    struct engine_sample *samples;     /* [batch_max] */
    uint32_t *token_ids;               /* [prefill or batch_max] */
    struct sampling sampling;
    uint64_t random;
    json_t *results;
    struct fetch_holder holder;
    struct fetch fetch;
    atomic_bool fetching;
    status fetched;
    uint64_t fetched_bytes;
};

/* One measurement: the median run, and what its floor would have taken; of decode its steps; what
 * was fetched meanwhile. */
struct figure {
    double tokens_per_s, floor_ratio, step_p50_ms, step_p99_ms, fetched_per_s;
};

static uint32_t random_next(struct engine_bench *bench)
{
    bench->random = bench->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(bench->random >> 33);
}

/* "1,8,32" */
static status list_parse(const char *name, const char *text, uint32_t least, uint32_t most,
                         struct list *list_out)
{
    struct list list = {.count = 0};
    const char *at = text;
    for (;;) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || *at < '0' || *at > '9' || value < least || value > most ||
            list.count == LIST_MAX || (*end != ',' && *end != '\0'))
            return error_set(ERR_BAD_INPUT,
                             "--%s: expected up to %u numbers from %u to %u like 1,8,32, found "
                             "\"%s\"",
                             name, LIST_MAX, least, most, text);
        list.items[list.count++] = (uint32_t)value;
        if (*end == '\0')
            break;
        at = end + 1;
    }
    *list_out = list;
    return OK;
}

static uint32_t blocks_for(const struct engine_bench *bench, uint32_t tokens)
{
    return kv_blocks_for(tokens, bench->options->block_tokens);
}

/* Do batch sequences of depth and tokens more fit the model, and half of the memory? */
static bool case_fits(const struct engine_bench *bench, uint32_t batch, uint32_t tokens,
                      uint64_t block_bytes)
{
    return tokens <= bench->model->context_tokens &&
           (uint64_t)batch * blocks_for(bench, tokens) * block_bytes < bench->available_bytes / 2;
}

/* The largest pool that any case needs. */
static uint64_t pool_bytes(struct engine_bench *bench, uint64_t block_bytes)
{
    uint64_t most = blocks_for(bench, bench->model->context_tokens) * block_bytes;
    for (uint32_t d = 0; d < bench->depths.count; d++) {
        uint32_t tokens = bench->depths.items[d] + bench->options->decode;
        for (uint32_t b = 0; b < bench->batches.count; b++) {
            uint32_t batch = bench->batches.items[b];
            uint64_t bytes = (uint64_t)batch * blocks_for(bench, tokens) * block_bytes;
            if (case_fits(bench, batch, tokens, block_bytes) && bytes > most)
                most = bytes;
        }
    }
    return most;
}

static status engine_start(struct engine_bench *bench)
{
    const struct engine_bench_options *options = bench->options;
    struct engine_config config = {
        .block_tokens = options->block_tokens,
        .rows_max = options->chunk > bench->batch_max ? options->chunk : bench->batch_max,
        .sequences_max = bench->batch_max,
        .outputs_max = bench->batch_max,
        .available_bytes = bench->device.plugin != NULL ? bench->available_bytes : 0,
        .kv = (enum engine_kv)options->kv,
    };
    struct engine_plan plan;
    struct backend *backend;
    status code = engine_plan(bench->model, &config, &plan);
    if (code != OK)
        return code;
    config.kv_bytes = pool_bytes(bench, plan.layout->block_bytes);
    engine_plan_close(&plan);
    code = engine_plan(bench->model, &config, &plan);
    if (code != OK)
        return code;
    const struct device_options opening = {.cpu = {.threads = bench->threads,
                                                   .kernels = options->kernels,
                                                   .variant = options->variant},
                                           .deterministic = options->deterministic};
    code = device_open(&bench->device, &plan.shape, &plan.limits, &opening, &backend);
    if (code != OK) {
        engine_plan_close(&plan);
        return code;
    }
    uint32_t block_count = plan.block_count;
    bench->table_blocks = plan.limits.table_blocks_max;
    code = engine_open(bench->model, &plan, backend, &bench->engine);
    return code == OK ? prefix_tree_open(block_count, 0, &bench->tree) : code;
}

static status arrays_open(struct engine_bench *bench)
{
    uint32_t ids =
        bench->options->chunk > bench->batch_max ? bench->options->chunk : bench->batch_max;
    bench->tables = calloc(bench->batch_max, sizeof(*bench->tables));
    bench->sequences = calloc(bench->batch_max, sizeof(*bench->sequences));
    bench->samples = calloc(bench->batch_max, sizeof(*bench->samples));
    bench->token_ids = calloc(ids, sizeof(*bench->token_ids));
    if (bench->tables == NULL || bench->sequences == NULL || bench->samples == NULL ||
        bench->token_ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u sequences", bench->batch_max);
    for (uint32_t i = 0; i < bench->batch_max; i++) {
        block_id *blocks = calloc(bench->table_blocks, sizeof(*blocks));
        if (blocks == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for a table of %u blocks",
                             bench->table_blocks);
        block_table_open(&bench->tables[i], blocks, bench->table_blocks,
                         bench->options->block_tokens);
    }
    for (uint32_t i = 0; i < ids; i++)
        bench->token_ids[i] = random_next(bench) % bench->model->vocabulary;
    return OK;
}

static void bench_close(struct engine_bench *bench)
{
    for (uint32_t i = 0; bench->tables != NULL && i < bench->batch_max; i++) {
        if (bench->tables[i].block_count > 0)
            block_table_drop(&bench->tables[i], bench->tree);
        free(bench->tables[i].ids);
    }
    free(bench->tables);
    free(bench->sequences);
    free(bench->samples);
    free(bench->token_ids);
    prefix_tree_close(bench->tree);
    fetch_unmap(&bench->fetch);
    engine_close(bench->engine);
    fetch_holder_stop(&bench->holder);
    if (bench->model != NULL)
        weights_close(bench->model);
    json_decref(bench->results);
}

/* Groups of Q8_0: a scale of 2^-8 .. 2^-7 and any bytes. */
static void pool_fill_q8_0(struct engine_bench *bench, const struct backend_pool *pool)
{
    size_t group = dtype_group_bytes(DTYPE_Q8_0);
    for (size_t at = 0; at + group <= pool->bytes; at += group) {
        store_u16(pool->host + at, (uint16_t)(0x1c00 | (random_next(bench) & 0x3ff)));
        for (size_t i = 2; i < group; i += 4)
            store_u32(pool->host + at + i, random_next(bench) << 1);
    }
}

/* Keys and values that a model could have made: numbers of about -1 .. 1. */
static void pool_fill(struct engine_bench *bench)
{
    const struct backend_pool *pool = engine_pool(bench->engine);
    if (pool->host == NULL) /* of a device: zeros take as long to read */
        return;
    if (bench->options->kv == ENGINE_KV_Q8_0) {
        pool_fill_q8_0(bench, pool);
        return;
    }
    bool floats = bench->options->kv == ENGINE_KV_F32;
    for (size_t at = 0; at + 4 <= pool->bytes; at += 4) {
        uint32_t bits = random_next(bench);
        uint32_t number = floats ? (bits & 0x803fffff) | 0x3e800000
                                 : (bits & 0x83ff83ff) | 0x34003400 | (bits << 31);
        memcpy(pool->host + at, &number, sizeof(number));
    }
}

/* Tables of batch sequences with depth tokens, and room for tokens more. */
static status tables_fill(struct engine_bench *bench, uint32_t batch, uint32_t depth,
                          uint32_t tokens)
{
    for (uint32_t i = 0; i < bench->batch_max; i++)
        if (bench->tables[i].block_count > 0)
            block_table_drop(&bench->tables[i], bench->tree);
    for (uint32_t i = 0; i < batch; i++) {
        struct block_copy copy;
        status code = block_table_reserve(&bench->tables[i], bench->tree, depth + tokens, &copy);
        if (code != OK)
            return error_set(code, "the KV pool has no room for %u sequences of %u tokens", batch,
                             depth + tokens);
        block_table_advance(&bench->tables[i], depth);
    }
    return OK;
}

/* Seconds that the operations and bytes between two counts need at least. */
static double floor_seconds(const struct engine_bench *bench, const struct engine_counters *from,
                            const struct engine_counters *to)
{
    const struct bench_floor *floor = &bench->floor;
    double bytes = (double)(to->backend.bytes - from->backend.bytes);
    double all = (double)(to->backend.operations - from->backend.operations);
    double int8 = (double)(to->backend.int8_operations - from->backend.int8_operations);
    double bf16 = (double)(to->backend.bf16_operations - from->backend.bf16_operations);
    double memory = bytes / floor->read_bytes_per_s;
    double compute = (all - int8 - bf16) / floor->float_per_s;
    if (int8 > 0)
        compute += int8 / floor->int8_per_s;
    if (bf16 > 0)
        compute += bf16 / floor->bf16_per_s;
    return memory > compute ? memory : compute;
}

static status prefill_once(struct engine_bench *bench, uint32_t depth)
{
    uint32_t tokens = bench->options->prefill;
    struct engine_sample sample = {.sampling = &bench->sampling};
    for (uint32_t at = 0; at < tokens;) {
        uint32_t count = tokens - at < bench->options->chunk ? tokens - at : bench->options->chunk;
        struct engine_sequence sequence = {
            .token_ids = bench->token_ids,
            .token_count = count,
            .start_position = depth + at,
            .table = &bench->tables[0],
            .sample_count = at + count == tokens ? 1 : 0,
            .samples = &sample,
        };
        status code = engine_step(bench->engine, &sequence, 1, NULL, NULL);
        if (code != OK)
            return code;
        block_table_advance(&bench->tables[0], count);
        at += count;
    }
    return OK;
}

static status decode_once(struct engine_bench *bench, uint32_t batch, uint32_t depth,
                          struct samples *step_ms)
{
    for (uint32_t step = 0; step < bench->options->decode; step++) {
        uint64_t begin_ns = clock_ns();
        for (uint32_t i = 0; i < batch; i++) {
            bench->samples[i] = (struct engine_sample){.sampling = &bench->sampling};
            bench->sequences[i] = (struct engine_sequence){
                .token_ids = &bench->token_ids[i],
                .token_count = 1,
                .start_position = depth + step,
                .table = &bench->tables[i],
                .sample_count = 1,
                .samples = &bench->samples[i],
            };
        }
        status code = engine_step(bench->engine, bench->sequences, batch, NULL, NULL);
        if (code != OK)
            return code;
        for (uint32_t i = 0; i < batch; i++) {
            block_table_advance(&bench->tables[i], 1);
            bench->token_ids[i] = bench->samples[i].result.token_id;
        }
        if (!samples_add(step_ms, (double)(clock_ns() - begin_ns) * 1e-6))
            return error_set(ERR_NO_MEMORY, "no memory for the times of steps");
    }
    return OK;
}

/* What lands does not matter: no step's result is looked at. */
static void *fetch_run(void *ctx)
{
    struct engine_bench *bench = ctx;
    bench->fetched_bytes = 0;
    while (bench->fetched == OK && atomic_load(&bench->fetching)) {
        bench->fetched = fetch_slices(&bench->fetch, MOVE_SPANS_MAX, MOVES_MAX);
        bench->fetched_bytes += (uint64_t)MOVE_SPANS_MAX * MOVES_MAX * FETCH_LAYER_BYTES;
    }
    return NULL;
}

/* batch 0: prefill. The first run warms up and does not count. */
static status measure(struct engine_bench *bench, uint32_t batch, uint32_t depth,
                      struct figure *figure_out)
{
    uint32_t tokens = batch == 0 ? bench->options->prefill : bench->options->decode;
    struct samples seconds = {0}, steps = {0};
    double floor = 0;
    status code = OK;
    for (uint32_t round = 0; code == OK && round <= bench->options->repeat; round++) {
        struct engine_counters before, after;
        code = tables_fill(bench, batch == 0 ? 1 : batch, depth, tokens);
        if (code != OK)
            break;
        engine_count(bench->engine, &before);
        uint64_t begin_ns = clock_ns();
        struct samples *none = &(struct samples){0};
        code = batch == 0 ? prefill_once(bench, depth)
                          : decode_once(bench, batch, depth, round > 0 ? &steps : none);
        samples_close(none);
        double took = (double)(clock_ns() - begin_ns) * 1e-9;
        engine_count(bench->engine, &after);
        floor = floor_seconds(bench, &before, &after);
        if (code == OK && round > 0 && !samples_add(&seconds, took))
            code = error_set(ERR_NO_MEMORY, "no memory for %u measurements", round);
    }
    if (code == OK) {
        double median = samples_percentile(&seconds, 50);
        figure_out->tokens_per_s = (double)tokens * (batch == 0 ? 1 : batch) / median;
        figure_out->floor_ratio = floor / median;
        figure_out->step_p50_ms = batch > 0 ? samples_percentile(&steps, 50) : 0;
        figure_out->step_p99_ms = batch > 0 ? samples_percentile(&steps, 99) : 0;
    }
    samples_close(&seconds);
    samples_close(&steps);
    return code;
}

/* Decode while another thread fetches. */
static status measure_fetching(struct engine_bench *bench, uint32_t batch, uint32_t depth,
                               struct figure *figure_out)
{
    pthread_t thread;
    uint64_t begin_ns = clock_ns();
    atomic_store(&bench->fetching, true);
    status code = thread_start("fetch", fetch_run, bench, &thread);
    if (code != OK)
        return code;
    code = measure(bench, batch, depth, figure_out);
    atomic_store(&bench->fetching, false);
    pthread_join(thread, NULL);
    figure_out->fetched_per_s =
        (double)bench->fetched_bytes / ((double)(clock_ns() - begin_ns) * 1e-9);
    return code == OK ? bench->fetched : code;
}

/* Print and keep one figure; kind is "prefill" or "decode". */
static void figure_report(struct engine_bench *bench, const char *kind, uint32_t depth,
                          uint32_t batch, const struct figure *figure)
{
    char speed[32], ratio[32];
    snprintf(speed, sizeof(speed), "%s_tok_s", kind);
    snprintf(ratio, sizeof(ratio), "%s_floor_ratio", kind);
    if (bench->options->json == NULL || strcmp(bench->options->json, "-") != 0) {
        printf("%-8s %8u %6u %12.2f %8.3f", kind, depth, batch, figure->tokens_per_s,
               figure->floor_ratio);
        if (figure->step_p50_ms > 0)
            printf(" %8.3f %8.3f", figure->step_p50_ms, figure->step_p99_ms);
        if (figure->fetched_per_s > 0)
            printf("   %.1f GB/s fetched", figure->fetched_per_s * 1e-9);
        printf("\n");
        (void)fflush(stdout);
    }
    (void)json_array_append_new(bench->results,
                                json_pack("{si si sf sf sf sf sf}", "depth", (int)depth, "batch",
                                          (int)batch, speed, figure->tokens_per_s, ratio,
                                          figure->floor_ratio, "step_p50_ms", figure->step_p50_ms,
                                          "step_p99_ms", figure->step_p99_ms, "fetched_bytes_per_s",
                                          figure->fetched_per_s));
}

static status depth_run(struct engine_bench *bench, uint32_t depth)
{
    const struct engine_bench_options *options = bench->options;
    uint64_t block_bytes = engine_block_bytes(bench->engine);
    struct figure figure = {0};
    status code = OK;
    if (case_fits(bench, 1, depth + options->prefill, block_bytes)) {
        code = measure(bench, 0, depth, &figure);
        if (code == OK)
            figure_report(bench, "prefill", depth, 1, &figure);
    } else {
        fprintf(stderr, "depth %u: no room for a prompt of %u tokens, left out\n", depth,
                options->prefill);
    }
    for (uint32_t b = 0; code == OK && b < bench->batches.count; b++) {
        uint32_t batch = bench->batches.items[b];
        if (!case_fits(bench, batch, depth + options->decode, block_bytes)) {
            fprintf(stderr, "depth %u, batch %u: no room in context or memory, left out\n", depth,
                    batch);
            continue;
        }
        code = measure(bench, batch, depth, &figure);
        if (code == OK)
            figure_report(bench, "decode", depth, batch, &figure);
        struct figure beside = {0};
        if (code == OK && bench->fetch.map != NULL)
            code = measure_fetching(bench, batch, depth, &beside);
        if (code == OK && bench->fetch.map != NULL)
            figure_report(bench, "fetching", depth, batch, &beside);
    }
    return code;
}

static status fetch_start(struct engine_bench *bench)
{
    struct backend *backend = engine_moving_backend(bench->engine);
    if (backend == NULL)
        return error_set(ERR_BAD_INPUT, "--fetch-from: blocks go to a GPU: give --device cuda");
    return fetch_map(&bench->holder, backend, engine_pool(bench->engine)->bytes, &bench->fetch);
}

static status bench_all(struct engine_bench *bench, const char *path)
{
    const struct engine_bench_options *options = bench->options;
    status code = list_parse("batch", options->batch, 1, BATCH_MAX, &bench->batches);
    if (code == OK)
        code = list_parse("depth", options->depth, 0, 1u << 24, &bench->depths);
    for (uint32_t i = 0; code == OK && i < bench->batches.count; i++)
        if (bench->batches.items[i] > bench->batch_max)
            bench->batch_max = bench->batches.items[i];
    bench->threads = bench_threads(options->threads);
    sampling_defaults(&bench->sampling);
    if (code == OK && options->fetch_from != NULL)
        code = fetch_holder_start(options->fetch_from, options->cuda_plugin, &bench->holder);
    if (code == OK)
        code = device_find(options->device, options->cuda_plugin, &bench->device);
    if (code == OK)
        code = device_memory(&bench->device, &bench->available_bytes);
    if (bench->available_bytes == 0)
        bench->available_bytes = memory_available_bytes();
    if (code == OK)
        code =
            bench->device.plugin != NULL
                ? bench->device.plugin->floor(bench->device.index, &bench->floor.read_bytes_per_s,
                                              &bench->floor.float_per_s)
                : floor_measure(bench->threads, options->variant, options->repeat, &bench->floor);
    if (code == OK)
        code = weights_choose(path, bench->options->dummy_weights, &bench->model);
    if (code == OK)
        code = engine_start(bench);
    if (code == OK)
        code = arrays_open(bench);
    if (code == OK && options->fetch_from != NULL)
        code = fetch_start(bench);
    if (code != OK)
        return code;
    pool_fill(bench);
    if (options->json == NULL || strcmp(options->json, "-") != 0)
        printf("%s, %s, %u threads; floor: reads %.1f GB/s, f32 %.1f GFLOP/s, int8 %.1f GOP/s, "
               "bf16 %.1f GFLOP/s\n"
               "%-8s %8s %6s %12s %8s %8s %8s\n",
               bench->model->name, engine_numerics_class(bench->engine), bench->threads,
               bench->floor.read_bytes_per_s * 1e-9, bench->floor.float_per_s * 1e-9,
               bench->floor.int8_per_s * 1e-9, bench->floor.bf16_per_s * 1e-9, "", "depth", "batch",
               "tokens/s", "of floor", "p50 ms", "p99 ms");
    for (uint32_t d = 0; code == OK && d < bench->depths.count; d++)
        code = depth_run(bench, bench->depths.items[d]);
    if (code != OK || options->json == NULL)
        return code;
    return bench_json_write(json_pack("{ss ss si so sO}", "model", bench->model->name,
                                      "numerics_class", engine_numerics_class(bench->engine),
                                      "threads", (int)bench->threads, "floor",
                                      floor_json(&bench->floor), "results", bench->results),
                            options->json);
}

static int engine_bench_run(const void *options, const char *const *operands,
                            uint32_t operand_count)
{
    struct engine_bench bench = {.options = options, .results = json_array()};
    (void)operand_count;
    status code = bench_all(&bench, operands[0]);
    bench_close(&bench);
    if (code == OK)
        return EXIT_OK;
    fprintf(stderr, "baton bench engine: %s\n", error_text());
    return EXIT_FAILED;
}

extern const struct command_spec bench_engine_command;
const struct command_spec bench_engine_command = {
    .name = "bench engine",
    .operands = "MODEL",
    .summary = "measure the engine alone, beside the floors of the machine",
    .details =
        "Loads MODEL (a GGUF file or a directory) and measures prefill, and decode of several "
        "sequences at once, "
        "without a server. Beside each speed stands its floor ratio: the time that the bytes of a "
        "step need at the read bandwidth of memory, or its operations at the peak of the "
        "instructions, whichever is longer, over the time that it took; 1 is the limit of the "
        "machine. Floors are measured first (see baton bench floor). The JSON has a list of "
        "results with the keys prefill_tok_s and prefill_floor_ratio, or decode_tok_s and "
        "decode_floor_ratio (fetching_... beside fetches), and the steps' times.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct engine_bench_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = engine_bench_run,
};
