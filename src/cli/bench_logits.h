/* cli/bench_logits.h - log-probabilities as llama-perplexity --kl-divergence-base writes them.
 *
 *     "_logits_" | context u32 | vocabulary u32 | chunks u32 | token ids u32 [chunks][context]
 *     then for each chunk, for each position of its second half but the last:
 *         scale f32 | least f32 | u16 [vocabulary, padded to even]     log q = least + scale * u16
 *
 * The file may be a pipe: it is read once, in order. Numbers are little-endian.
 *
 * Threads: one at a time. Memory: a file owns what it has read until logits_file_close.
 * Source: llama.cpp, tools/perplexity/perplexity.cpp.
 */
#ifndef CLI_BENCH_LOGITS_H
#define CLI_BENCH_LOGITS_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

#define LOGITS_CONTEXT_MAX 65536u
#define LOGITS_CHUNKS_MAX 65536u

struct logits_file {
    FILE *file;
    const char *path; /* the caller's */
    uint32_t context_tokens, vocabulary, chunk_count;
    uint32_t *token_ids; /* [chunk_count * context_tokens] */
    uint8_t *row;
};

/* Positions of a chunk that are kept: first, first + 1, ... (count of them). */
static inline uint32_t logits_first(uint32_t context_tokens)
{
    return context_tokens / 2;
}

static inline uint32_t logits_count(uint32_t context_tokens)
{
    return context_tokens - 1 - logits_first(context_tokens);
}

/* Reads up to the first position. vocabulary: what is expected. Errors: ERR_NOT_FOUND, ERR_IO,
 * ERR_BAD_INPUT (no such file, or of another vocabulary). */
status logits_file_open(const char *path, uint32_t vocabulary, struct logits_file *file_out);

/* The next position's log-probabilities [vocabulary]. Errors: ERR_IO, ERR_BAD_INPUT (it ends, or
 * what it has are no log-probabilities). */
status logits_file_next(struct logits_file *file, float *log_out);

void logits_file_close(struct logits_file *file);

/* What the file's 16 bits would make of these log-probabilities: nothing below the largest - 16. */
void logits_round(float *log_probabilities, uint32_t count);

#endif
