#include "cli/bench_divergence.h"

#include <assert.h>
#include <math.h>

static uint32_t largest(const float *values, uint32_t count)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < count; i++)
        if (values[i] > values[at])
            at = i;
    return at;
}

void divergence_log_softmax(const float *logits, uint32_t count, float *log_out)
{
    assert(count > 0);
    double most = logits[largest(logits, count)];
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += expf((float)(logits[i] - most));
    double log_sum = most + log(sum);
    for (uint32_t i = 0; i < count; i++)
        log_out[i] = (float)(logits[i] - log_sum);
}

bool divergence_add(struct divergence *divergence, const float *log_p, const float *log_q,
                    uint32_t count, uint32_t token_id)
{
    assert(token_id < count);
    double kl = 0;
    for (uint32_t i = 0; i < count; i++)
        kl += (double)expf(log_p[i]) * ((double)log_p[i] - log_q[i]);
    if (largest(log_p, count) == largest(log_q, count))
        divergence->same_top++;
    divergence->surprise -= log_q[token_id];
    return samples_add(&divergence->kl, kl);
}

double divergence_perplexity(const struct divergence *divergence)
{
    size_t count = divergence->kl.count;
    return count > 0 ? exp(divergence->surprise / (double)count) : 0;
}

void divergence_compare(const struct divergence *a, const struct divergence *b, double *mean_out,
                        double *error_out)
{
    size_t count = a->kl.count;
    assert(count == b->kl.count && !a->kl.sorted && !b->kl.sorted);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++)
        sum += a->kl.values[i] - b->kl.values[i];
    double mean = count > 0 ? sum / (double)count : 0;
    for (size_t i = 0; i < count; i++) {
        double off = a->kl.values[i] - b->kl.values[i] - mean;
        squares += off * off;
    }
    *mean_out = mean;
    *error_out = count > 1 ? sqrt(squares / (double)(count - 1) / (double)count) : 0;
}

void divergence_close(struct divergence *divergence)
{
    samples_close(&divergence->kl);
}
