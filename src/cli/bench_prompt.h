/* cli/bench_prompt.h - prompts of a given length that a seed determines.
 *
 *     prompt 7 of 1300 tokens, prefix 100:   [ shared 100 ][ 1200 of (seed, 7)             ]
 *     a trace's prompt with ids 3, 9, 4:     [ 512 of id 3 ][ 512 of id 9 ][ 276 of id 4 ]
 *
 * Equal pieces give equal tokens, so prompts share what the trace's prompts shared. A prompt is a
 * list of token ids (exactly as many as asked for), or text of as many short English words; most
 * tokenizers make one token of each, and the server's usage says how many it really was.
 *
 * Threads: one at a time. Memory: written into the caller's text.
 */
#ifndef CLI_BENCH_PROMPT_H
#define CLI_BENCH_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/text.h"

struct prompt_piece {
    uint64_t id;
    uint32_t tokens;
};

/* The same numbers for the same seed on every machine (splitmix64). */
struct bench_random {
    uint64_t state;
};

uint64_t bench_random_next(struct bench_random *random);
double bench_random_unit(struct bench_random *random); /* 0 < u <= 1 */

/* What prompts are made of. */
struct prompt_kind {
    bool as_text;
    uint32_t vocabulary; /* token ids are below it */
    uint64_t seed;
};

/* Write the JSON value of a prompt: [17,4,...] or "words ...". */
void prompt_write(struct text *to, const struct prompt_kind *kind,
                  const struct prompt_piece *pieces, size_t piece_count);

#endif
