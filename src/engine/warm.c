#include "engine/warm.h"

#include <stdlib.h>

#include "base/error.h"

#define WARM_ROWS 512u     /* of a prompt */
#define WARM_DEPTH 1024u   /* tokens before those that decode: attention meets several partitions */
#define WARM_SEQUENCES 33u /* more than the kernels for few rows take */

struct warm {
    struct engine *engine;
    uint32_t *token_ids;               /* [WARM_ROWS] all 0 */
    struct engine_sequence *sequences; /* [WARM_SEQUENCES] */
    struct engine_sample *samples;     /* likewise */
    struct sampling greedy;
    struct block_table table; /* of all of them: the pool's first blocks */
};

static uint32_t least(uint32_t x, uint32_t y)
{
    return x < y ? x : y;
}

/* What is in the blocks may be no numbers, and so may be what comes out. */
static status warm_step(struct warm *warm, uint32_t count, uint32_t depth, uint32_t rows)
{
    warm->table.token_count = depth;
    for (uint32_t i = 0; i < count; i++) {
        warm->samples[i] = (struct engine_sample){.sampling = &warm->greedy};
        warm->sequences[i] = (struct engine_sequence){.token_ids = warm->token_ids,
                                                      .token_count = rows,
                                                      .start_position = depth,
                                                      .table = &warm->table,
                                                      .sample_count = 1,
                                                      .samples = &warm->samples[i]};
    }
    status st = engine_step(warm->engine, warm->sequences, count, NULL, NULL);
    return st == ERR_CORRUPT ? OK : st;
}

static status warm_steps(struct warm *warm)
{
    static const uint32_t counts[] = {1, 8, WARM_SEQUENCES};
    const struct backend_limits *limits = engine_limits(warm->engine);
    uint32_t context = engine_context_tokens(warm->engine);
    uint32_t most = least(least(limits->sequences_max, limits->outputs_max), limits->rows_max);
    status st = warm_step(warm, 1, 0, least(WARM_ROWS, least(limits->rows_max, context)));
    for (size_t i = 0; st == OK && i < sizeof(counts) / sizeof(counts[0]); i++)
        st = warm_step(warm, least(counts[i], most), least(WARM_DEPTH, context - 1), 1);
    return st;
}

status engine_warm(struct engine *engine)
{
    uint32_t block_tokens = engine_layout(engine)->shape.block_tokens;
    uint32_t capacity =
        least(engine_limits(engine)->table_blocks_max, kv_blocks_for(WARM_DEPTH + 1, block_tokens));
    block_id *ids = calloc(capacity, sizeof(*ids));
    struct warm warm = {.engine = engine,
                        .token_ids = calloc(WARM_ROWS, sizeof(*warm.token_ids)),
                        .sequences = calloc(WARM_SEQUENCES, sizeof(*warm.sequences)),
                        .samples = calloc(WARM_SEQUENCES, sizeof(*warm.samples))};
    status st = ERR_NO_MEMORY;
    sampling_defaults(&warm.greedy);
    if (ids == NULL || warm.token_ids == NULL || warm.sequences == NULL || warm.samples == NULL) {
        error_set(st, "no memory for the first steps");
    } else {
        for (uint32_t i = 0; i < capacity; i++)
            ids[i] = i;
        block_table_open(&warm.table, ids, capacity, block_tokens);
        block_table_adopt(&warm.table, ids, capacity, 0);
        st = warm_steps(&warm);
    }
    free(ids);
    free(warm.token_ids);
    free(warm.sequences);
    free(warm.samples);
    return st;
}
