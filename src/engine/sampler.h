/* engine/sampler.h - from one row of logits to one token.
 *
 * The stages, in this order (the order of vLLM's sampler but for min_p, which comes last here):
 *
 *     logits
 *       min_tokens            end tokens get -inf while fewer than min_tokens were generated
 *       bias                  + bias[token]
 *       repetition_penalty    tokens of prompt and output: / r when positive, * r when negative
 *       frequency_penalty     - f * (times in the output)
 *       presence_penalty      - p, if in the output
 *     temperature 0: the largest; ties: the lowest token id. Otherwise
 *       / temperature
 *       top_k                 the k largest; ties: lower token ids first
 *       top_p                 of those, the fewest largest whose probabilities sum to p or more
 *       min_p                 of those, the ones with at least p of the largest's probability
 *       draw                  walk what is left in order of token ids until the sum passes u
 *
 * u is Philox4x32-10 of (seed; position, sequence index): there is no hidden state, so any worker
 * at any time draws the same token from the same logits. Log-probabilities are those of the model:
 * of the logits as they came, before every stage.
 *
 * Threads:  a sampler is one thread's.
 * Memory:   scratch of 20 bytes a vocabulary entry, made by open; no call allocates.
 * Source:   Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox);
 *           Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p).
 */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define SAMPLING_BIAS_MAX 300 /* as the OpenAI API */
#define SAMPLING_END_IDS_MAX 64
#define SAMPLING_LOGPROBS_MAX 20

struct sampling_bias {
    uint32_t token_id;
    float bias; /* -100 .. 100 */
};

/* Fixed-size and without pointers: it travels as it is described. */
struct sampling {
    uint64_t seed;
    float temperature;        /* 0: greedy */
    float top_p;              /* 0 < p <= 1; 1: off */
    float min_p;              /* 0 .. 1; 0: off */
    uint32_t top_k;           /* 0: off */
    float repetition_penalty; /* > 0; 1: off */
    float frequency_penalty;  /* -2 .. 2; 0: off */
    float presence_penalty;   /* -2 .. 2; 0: off */
    bool logprobs;            /* log-probability of the token, and of the best top_logprobs */
    uint32_t top_logprobs;    /* 0 .. SAMPLING_LOGPROBS_MAX */
    uint32_t min_tokens;      /* no end token before so many were generated */
    uint32_t end_id_count;    /* the end tokens that min_tokens holds back */
    uint32_t end_ids[SAMPLING_END_IDS_MAX];
    uint32_t bias_count;
    struct sampling_bias bias[SAMPLING_BIAS_MAX];
};

/* Greedy, everything else off. */
void sampling_defaults(struct sampling *sampling);

/* Every number in the range above, token ids below vocabulary. Errors: ERR_BAD_INPUT, with a
 * message that names the field, its range and what was found. */
status sampling_check(const struct sampling *sampling, uint32_t vocabulary);

/* Does the pick depend on the tokens before it? Then the row needs its history. */
bool sampling_needs_history(const struct sampling *sampling);

/* What a pick depends on, beside the parameters. */
struct sampler_row {
    const float *logits;        /* [vocabulary] */
    const uint32_t *prompt_ids; /* may be NULL when sampling_needs_history says no */
    uint32_t prompt_count;
    const uint32_t *output_ids; /* generated so far; as prompt_ids */
    uint32_t output_count;      /* always given: min_tokens counts it */
    uint32_t position;          /* of the token that is picked: 0 is the first of the prompt */
    uint32_t sequence_index;    /* 0 .. n - 1, of the sequences of one request */
};

struct sampled {
    uint32_t token_id;
    float logprob;      /* 0 when not asked for */
    uint32_t rank;      /* 1: the model's first choice; 0 when not asked for */
    uint32_t top_count; /* best first; ties: lower token ids first */
    uint32_t top_ids[SAMPLING_LOGPROBS_MAX];
    float top_logprobs[SAMPLING_LOGPROBS_MAX];
};

struct sampler;

/* Errors: ERR_NO_MEMORY. */
status sampler_open(uint32_t vocabulary, struct sampler **sampler_out);
void sampler_close(struct sampler *sampler);

/* Errors: ERR_CORRUPT (a NaN or +inf among the logits, or nothing but -inf).
 * Cost: greedy one pass; with filters some passes and a partial sort. */
status sampler_pick(struct sampler *sampler, const struct sampling *sampling,
                    const struct sampler_row *row, struct sampled *sampled_out);

/* The model's log-probability of a given token, and its best top_count: for prompt
 * log-probabilities. Errors: ERR_CORRUPT. */
status sampler_score(struct sampler *sampler, const float *logits, uint32_t token_id,
                     uint32_t top_count, struct sampled *sampled_out);

/* Philox4x32-10. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The uniform number in [0, 1) that a draw uses: 53 bits. */
double sampler_uniform(uint64_t seed, uint32_t position, uint32_t sequence_index);

#endif
