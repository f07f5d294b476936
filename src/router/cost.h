/* router/cost.h - what computing prompts costs a worker, fitted to what its heartbeats say.
 *
 *     seconds = prompt_s * prompts + token_s * tokens + context_s * context
 *
 * context is the sum, over the tokens, of how many lie before each: attention. One rate of tokens
 * will not do: a prompt of 24 tokens takes more a token than one of 500, because its step reads
 * the same weights, so a worker that had short prompts of late would look slow for a long one.
 *
 * The three are a least squares fit of relative errors in which samples fade, none negative; what
 * the samples cannot tell apart stays as it is. What is quick to change, a machine that others use
 * too, is one factor over all three, which follows the last few samples.
 *
 * Threads: the owner's. Memory: none.
 */
#ifndef ROUTER_COST_H
#define ROUTER_COST_H

#include <stdbool.h>

struct cost {
    double prompt_s, token_s, context_s; /* all 0: unknown */
};

/* What was computed, and how long it took. prompts: those whose last token was among it. */
struct cost_sample {
    double prompts, tokens, context, seconds;
};

struct cost_fit {
    double products[3][3], targets[3]; /* sums over samples, faded */
    double shape[3];                   /* in the order of struct cost */
    double level;                      /* the factor; 0: no sample yet */
};

/* Samples without tokens or time are passed over. */
void cost_measure(struct cost_fit *fit, const struct cost_sample *sample);
struct cost cost_of(const struct cost_fit *fit);

static inline bool cost_known(const struct cost *cost)
{
    return cost->prompt_s + cost->token_s + cost->context_s > 0;
}

/* Of one prompt of which tokens are left to compute, behind those before. */
double cost_prompt_s(const struct cost *cost, double before, double tokens);

#endif
