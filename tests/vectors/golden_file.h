/* tests/vectors/golden_file.h - reads the golden logits of tests/vectors/logits.
 *
 *     struct golden golden;
 *     struct golden_sequence sequence;
 *     struct golden_position position;
 *     assert_true(golden_open(TEST_DATA_DIR "/vectors/logits/qwen3-q8_0.golden", &golden));
 *     while (golden_next_sequence(&golden, &sequence))
 *         for (uint32_t i = sequence.first_position; i < sequence.token_count; i++) {
 *             golden_position_at(&golden, &sequence, i, &position);
 *             ... position.logits[id], or position.top_logits[k] of position.top_ids[k] ...
 *         }
 *     golden_close(&golden);
 *
 * The logits of position i are what comes after tokens 0 .. i. The format is in README.md here. The
 * files are our own, so a broken one is a broken checkout: golden_open says false, the rest
 * asserts.
 *
 * Memory: everything given out points into the file's bytes, until golden_close. Little-endian
 * hosts.
 */
#ifndef TESTS_GOLDEN_FILE_H
#define TESTS_GOLDEN_FILE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct golden {
    uint8_t *data;
    size_t bytes;
    size_t at;
    uint32_t vocabulary;
    uint32_t sequence_count;
    uint32_t sequences_left;
    bool full;             /* all logits of a position, else the top and a sample */
    uint32_t top_count;    /* 0 when full */
    uint32_t sample_count; /* 0 when full */
};

struct golden_sequence {
    char name[64];
    const char *prompt; /* the text that the tokens are of; "" for made-up ids */
    uint32_t prompt_bytes;
    const char *continuation; /* what the greedy tokens say, special tokens left out */
    uint32_t continuation_bytes;
    const uint32_t *tokens;
    uint32_t token_count;
    uint32_t first_position; /* the first one whose logits are kept */
    const uint32_t *greedy;  /* what follows the tokens at temperature 0; may end early */
    uint32_t greedy_count;
    size_t positions_at;
};

struct golden_position {
    float log_sum_exp;       /* over the whole vocabulary */
    const float *logits;     /* [vocabulary] when full, else NULL */
    const uint32_t *top_ids; /* [top_count], highest first; NULL when full, as all that follow */
    const float *top_logits;
    const uint32_t *sample_ids; /* [sample_count] random ids, without repetition */
    const float *sample_logits;
};

static inline const void *golden_take(struct golden *golden, size_t bytes)
{
    assert(bytes <= golden->bytes - golden->at);
    const void *from = golden->data + golden->at;
    golden->at += bytes;
    return from;
}

static inline uint32_t golden_u32(struct golden *golden)
{
    uint32_t value;
    memcpy(&value, golden_take(golden, 4), 4);
    return value;
}

static inline const char *golden_text(struct golden *golden, uint32_t *bytes_out)
{
    *bytes_out = golden_u32(golden);
    return golden_take(golden, ((size_t)*bytes_out + 3) / 4 * 4);
}

static inline size_t golden_position_bytes(const struct golden *golden)
{
    if (golden->full)
        return 4 + (size_t)golden->vocabulary * 4;
    return 4 + ((size_t)golden->top_count + golden->sample_count) * 8;
}

static inline bool golden_open(const char *path, struct golden *golden)
{
    memset(golden, 0, sizeof(*golden));
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return false;
    fseek(file, 0, SEEK_END);
    long end = ftell(file);
    rewind(file);
    golden->bytes = end > 0 ? (size_t)end : 0;
    golden->data = malloc(golden->bytes + 1);
    bool read =
        golden->data != NULL && fread(golden->data, 1, golden->bytes, file) == golden->bytes;
    fclose(file);
    if (!read || golden->bytes < 28 || memcmp(golden->data, "GOLDEN01", 8) != 0) {
        free(golden->data);
        return false;
    }
    golden->at = 8;
    golden->vocabulary = golden_u32(golden);
    golden->sequence_count = golden_u32(golden);
    golden->sequences_left = golden->sequence_count;
    golden->full = golden_u32(golden) != 0;
    golden->top_count = golden_u32(golden);
    golden->sample_count = golden_u32(golden);
    return true;
}

static inline void golden_close(struct golden *golden)
{
    free(golden->data);
    golden->data = NULL;
}

/* The next sequence; false after the last. */
static inline bool golden_next_sequence(struct golden *golden, struct golden_sequence *sequence_out)
{
    if (golden->sequences_left == 0)
        return false;
    golden->sequences_left--;
    struct golden_sequence sequence = {.name = ""};
    uint32_t name_bytes;
    const char *name = golden_text(golden, &name_bytes);
    assert(name_bytes < sizeof(sequence.name));
    memcpy(sequence.name, name, name_bytes);
    sequence.prompt = golden_text(golden, &sequence.prompt_bytes);
    sequence.continuation = golden_text(golden, &sequence.continuation_bytes);
    sequence.token_count = golden_u32(golden);
    sequence.first_position = golden_u32(golden);
    sequence.greedy_count = golden_u32(golden);
    assert(sequence.first_position <= sequence.token_count);
    sequence.tokens = golden_take(golden, (size_t)sequence.token_count * 4);
    sequence.greedy = golden_take(golden, (size_t)sequence.greedy_count * 4);
    sequence.positions_at = golden->at;
    golden_take(golden,
                golden_position_bytes(golden) * (sequence.token_count - sequence.first_position));
    *sequence_out = sequence;
    return true;
}

/* first_position <= position < token_count. */
static inline void golden_position_at(const struct golden *golden,
                                      const struct golden_sequence *sequence, uint32_t position,
                                      struct golden_position *position_out)
{
    assert(position >= sequence->first_position && position < sequence->token_count);
    const uint8_t *at = golden->data + sequence->positions_at +
                        golden_position_bytes(golden) * (position - sequence->first_position);
    memset(position_out, 0, sizeof(*position_out));
    memcpy(&position_out->log_sum_exp, at, 4);
    /* malloc'd bytes, and every field takes a multiple of four. */
    const void *words = at + 4;
    if (golden->full) {
        position_out->logits = words;
        return;
    }
    position_out->top_ids = words;
    position_out->top_logits = (const float *)words + golden->top_count;
    position_out->sample_ids = (const uint32_t *)words + 2 * (size_t)golden->top_count;
    position_out->sample_logits =
        (const float *)words + 2 * (size_t)golden->top_count + golden->sample_count;
}

#endif
