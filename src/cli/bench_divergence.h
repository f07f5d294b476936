/* cli/bench_divergence.h - how far a distribution over the vocabulary is from a reference's.
 *
 *     logits ----> log_softmax ----> log q  \
 *     logits ----> log_softmax ----> log p --> KL(p || q) = sum of p (log p - log q), a position
 *
 * p is the reference. Sums are taken in double; log-probabilities are floats, whose rounding adds
 * less than 1e-6 to a position's divergence.
 *
 * Threads: one at a time. Memory: a divergence owns its samples until divergence_close.
 */
#ifndef CLI_BENCH_DIVERGENCE_H
#define CLI_BENCH_DIVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/bench_samples.h"

/* Starts from {0}. */
struct divergence {
    struct samples kl; /* in nats, of each position */
    uint64_t same_top; /* positions where both find the same token likeliest */
    double surprise;   /* sum of -log q of the tokens that came */
};

void divergence_log_softmax(const float *logits, uint32_t count, float *log_out);

/* One position: log p and log q of count tokens, and the one that came. False: no memory. */
bool divergence_add(struct divergence *divergence, const float *log_p, const float *log_q,
                    uint32_t count, uint32_t token_id);

/* exp of the mean surprise; 0 without a position. */
double divergence_perplexity(const struct divergence *divergence);

/* Mean over the positions of a's divergence less b's, and its standard error: whether one is nearer
 * to the reference than the other. Both have the same positions, in order; before any summary,
 * which sorts them. */
void divergence_compare(const struct divergence *a, const struct divergence *b, double *mean_out,
                        double *error_out);

void divergence_close(struct divergence *divergence);

#endif
