#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* A result depends on nothing but its row, on any machine: sums run in double, over token ids in
 * ascending order or over candidates best first, and the exponential is our own (libm's differs
 * between processors in its last bits). A weight is exp((logit - largest) / temperature): 1 for the
 * largest, so that a weight over the sum of all is a probability. */

#define GROUP_TOKENS 32u /* looked at together, to be quick */

struct candidate {
    float logit;
    uint32_t token_id;
};

struct sampler {
    uint32_t vocabulary;
    float *logits;                /* [vocabulary] after bias and penalties */
    float *weights;               /* [vocabulary] */
    uint32_t *seen;               /* [vocabulary] zero between calls: 2 * (times in the output),
                                     plus 1 if anywhere */
    struct candidate *candidates; /* [vocabulary] a heap, the best at 0; behind its end what was
                                     taken from it, the last taken first */
    uint32_t candidate_count;     /* in heap and tail */
    uint32_t heap_count;
};

status sampler_open(uint32_t vocabulary, struct sampler **sampler_out)
{
    assert(vocabulary > 0);
    struct sampler *sampler = calloc(1, sizeof(*sampler));
    if (sampler == NULL)
        goto err_none;
    sampler->vocabulary = vocabulary;
    sampler->logits = calloc(vocabulary, sizeof(*sampler->logits));
    sampler->weights = calloc(vocabulary, sizeof(*sampler->weights));
    sampler->seen = calloc(vocabulary, sizeof(*sampler->seen));
    sampler->candidates = calloc(vocabulary, sizeof(*sampler->candidates));
    if (sampler->logits == NULL || sampler->weights == NULL || sampler->seen == NULL ||
        sampler->candidates == NULL)
        goto err_sampler;
    *sampler_out = sampler;
    return OK;

err_sampler:
    sampler_close(sampler);
err_none:
    return error_set(ERR_NO_MEMORY, "no memory for a sampler of %u tokens", vocabulary);
}

void sampler_close(struct sampler *sampler)
{
    if (sampler == NULL)
        return;
    free(sampler->candidates);
    free(sampler->seen);
    free(sampler->weights);
    free(sampler->logits);
    free(sampler);
}

/* ---- weights ---- */

/* e^x for x <= 0, within 2 ulp; 0 for -87 and below. Written so that a loop over it is vectorised,
 * with the same bits for any width: range reduction by ln 2 in two parts, then the Taylor
 * polynomial; -87 is compared as an integer, for a comparison of floats may trap and is kept out of
 * vectors. */
static inline float exp_negative(float x)
{
    static const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    static const int32_t far = 0x42ae0000;  /* 87.0f */
    int32_t magnitude;
    memcpy(&magnitude, &x, sizeof(magnitude));
    magnitude &= INT32_MAX;
    int32_t bounded = magnitude < far ? magnitude : far;
    memcpy(&x, &bounded, sizeof(x)); /* -x from here on */
    float k = (x * -1.44269504f + magic) - magic;
    float r = (-x - k * 0.693359375f) - k * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = magnitude < far ? ((int32_t)k + 127) * (1 << 23) : 0;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

/* Fill the weights; returns their sum. */
static double weights_fill(struct sampler *sampler, const float *logits, float largest,
                           float temperature)
{
    float *weights = sampler->weights;
    uint32_t vocabulary = sampler->vocabulary; /* kept apart: stores could change it */
    double sum = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++)
        weights[i] = exp_negative((logits[i] - largest) / temperature);
    for (uint32_t i = 0; i < vocabulary; i++)
        sum += (double)weights[i];
    return sum;
}

/* ---- candidates ---- */

static bool better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.token_id < b.token_id);
}

/* Restore the heap (best at 0) below index at. */
static void heap_sink(struct candidate *heap, uint32_t count, uint32_t at)
{
    struct candidate moved = heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && better(heap[child + 1], heap[child]))
            child++;
        if (!better(heap[child], moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void candidates_heap(struct sampler *sampler, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        heap_sink(sampler->candidates, count, i);
    sampler->candidate_count = count;
    sampler->heap_count = count;
}

/* The heap of all candidates with at least this weight and logit. */
static void candidates_gather(struct sampler *sampler, const float *logits, float weight_min,
                              float logit_min)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sampler->vocabulary; i++)
        if (logits[i] > -INFINITY && logits[i] >= logit_min && sampler->weights[i] >= weight_min)
            sampler->candidates[count++] = (struct candidate){.logit = logits[i], .token_id = i};
    candidates_heap(sampler, count);
}

/* The candidate of a rank, 0 the best; below candidate_count. */
static struct candidate candidate_at(struct sampler *sampler, uint32_t rank)
{
    struct candidate *heap = sampler->candidates;
    assert(rank < sampler->candidate_count);
    while (sampler->candidate_count - sampler->heap_count <= rank) {
        struct candidate best = heap[0];
        uint32_t last = --sampler->heap_count;
        heap[0] = heap[last];
        heap[last] = best;
        if (last > 0)
            heap_sink(heap, last, 0);
    }
    return heap[sampler->candidate_count - 1 - rank];
}

#define LANES 16

/* The best of all logits. Errors: ERR_CORRUPT. */
static status logits_best(const float *logits, uint32_t vocabulary, struct candidate *best_out)
{
    float largest[LANES];
    uint32_t bad[LANES] = {0};
    for (uint32_t lane = 0; lane < LANES; lane++)
        largest[lane] = -INFINITY;
    uint32_t whole = vocabulary / LANES * LANES;
    for (uint32_t i = 0; i < whole; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++) {
            float logit = logits[i + lane];
            largest[lane] = logit > largest[lane] ? logit : largest[lane];
            bad[lane] |= logit < INFINITY ? 0u : 1u; /* 1 for NaN too */
        }
    for (uint32_t i = whole; i < vocabulary; i++) {
        largest[0] = logits[i] > largest[0] ? logits[i] : largest[0];
        bad[0] |= logits[i] < INFINITY ? 0u : 1u;
    }
    for (uint32_t lane = 1; lane < LANES; lane++) {
        largest[0] = largest[lane] > largest[0] ? largest[lane] : largest[0];
        bad[0] |= bad[lane];
    }
    if (bad[0] != 0)
        return error_set(ERR_CORRUPT,
                         "the model's logits hold a NaN or an infinity: the weights or "
                         "the KV of this sequence are damaged");
    if (largest[0] == -INFINITY)
        return error_set(ERR_CORRUPT, "no token is left to pick: every logit is -infinity");
    uint32_t id = 0;
    while (logits[id] != largest[0])
        id++;
    *best_out = (struct candidate){.logit = largest[0], .token_id = id};
    return OK;
}

/* ---- log-probabilities ---- */

/* Insert into the list of the best so far, at most limit long. */
static void top_insert(struct sampled *sampled, uint32_t limit, uint32_t token_id, float logit)
{
    uint32_t at = sampled->top_count;
    if (at == limit) {
        if (logit <= sampled->top_logprobs[limit - 1])
            return;
        at = limit - 1;
    } else {
        sampled->top_count++;
    }
    for (; at > 0 && logit > sampled->top_logprobs[at - 1]; at--) {
        sampled->top_logprobs[at] = sampled->top_logprobs[at - 1];
        sampled->top_ids[at] = sampled->top_ids[at - 1];
    }
    sampled->top_logprobs[at] = logit;
    sampled->top_ids[at] = token_id;
}

/* Of logits as the model gave them, of which largest is the largest. Sets all but token_id. */
static void score(struct sampler *sampler, const float *logits, float largest, uint32_t token_id,
                  uint32_t top_count, struct sampled *sampled)
{
    double log_sum = (double)largest + log(weights_fill(sampler, logits, largest, 1.0f));
    float logit = logits[token_id];
    uint32_t vocabulary = sampler->vocabulary;
    uint32_t rank = 1;
    for (uint32_t i = 0; i < vocabulary; i++)
        rank += (logits[i] > logit) | ((logits[i] == logit) & (i < token_id));

    sampled->top_count = 0;
    for (uint32_t i = 0; top_count > 0 && i < vocabulary; i++)
        top_insert(sampled, top_count, i, logits[i]);
    for (uint32_t i = 0; i < sampled->top_count; i++)
        sampled->top_logprobs[i] = (float)((double)sampled->top_logprobs[i] - log_sum);
    sampled->logprob = (float)((double)logit - log_sum);
    sampled->rank = rank;
}

status sampler_score(struct sampler *sampler, const float *logits, uint32_t token_id,
                     uint32_t top_count, struct sampled *sampled_out)
{
    assert(token_id < sampler->vocabulary && top_count <= SAMPLING_LOGPROBS_MAX);
    struct candidate best;
    status code = logits_best(logits, sampler->vocabulary, &best);
    if (code != OK)
        return code;
    sampled_out->token_id = token_id;
    score(sampler, logits, best.logit, token_id, top_count, sampled_out);
    return OK;
}

/* ---- the stages ---- */

static void penalties_apply(struct sampler *sampler, const struct sampling *sampling,
                            const struct sampler_row *row)
{
    float *logits = sampler->logits;
    uint32_t *seen = sampler->seen;
    for (uint32_t i = 0; i < row->prompt_count; i++) {
        assert(row->prompt_ids[i] < sampler->vocabulary);
        seen[row->prompt_ids[i]] |= 1;
    }
    for (uint32_t i = 0; i < row->output_count; i++) {
        assert(row->output_ids[i] < sampler->vocabulary);
        seen[row->output_ids[i]] = (seen[row->output_ids[i]] + 2) | 1;
    }

    /* Each token once, at its first occurrence; its count goes back to zero there. */
    for (uint64_t i = 0; i < (uint64_t)row->prompt_count + row->output_count; i++) {
        uint32_t id =
            i < row->prompt_count ? row->prompt_ids[i] : row->output_ids[i - row->prompt_count];
        uint32_t times = seen[id] >> 1;
        if (seen[id] == 0)
            continue;
        seen[id] = 0;
        logits[id] = logits[id] > 0.0f ? logits[id] / sampling->repetition_penalty
                                       : logits[id] * sampling->repetition_penalty;
        logits[id] -= sampling->frequency_penalty * (float)times;
        logits[id] -= times > 0 ? sampling->presence_penalty : 0.0f;
    }
}

/* Everything before the temperature. Returns the logits to go on with: the row's own when no stage
 * applies. */
static const float *logits_adjust(struct sampler *sampler, const struct sampling *sampling,
                                  const struct sampler_row *row)
{
    bool holds_end = row->output_count < sampling->min_tokens && sampling->end_id_count > 0;
    if (!holds_end && sampling->bias_count == 0 && !sampling_needs_history(sampling))
        return row->logits;

    float *logits = sampler->logits;
    for (uint32_t i = 0; i < sampler->vocabulary; i++)
        logits[i] = row->logits[i];
    for (uint32_t i = 0; i < sampling->bias_count; i++)
        logits[sampling->bias[i].token_id] += sampling->bias[i].bias;
    if (sampling_needs_history(sampling))
        penalties_apply(sampler, sampling, row);
    for (uint32_t i = 0; holds_end && i < sampling->end_id_count; i++)
        logits[sampling->end_ids[i]] = -INFINITY;
    return logits;
}

/* A logit that at least count tokens reach, found without ordering them all: the count-th largest
 * of the largest ones of some groups. -INFINITY when count is too near the number of groups. */
static float logit_bound(struct sampler *sampler, const float *logits, uint32_t count)
{
    uint32_t groups = sampler->vocabulary / GROUP_TOKENS;
    if (count > groups / 4)
        return -INFINITY;
    for (uint32_t group = 0; group < groups; group++) {
        const float *at = logits + (size_t)group * GROUP_TOKENS;
        float largest[GROUP_TOKENS / 4];
        for (uint32_t i = 0; i < GROUP_TOKENS / 4; i++)
            largest[i] = at[i];
        for (uint32_t i = GROUP_TOKENS / 4; i < GROUP_TOKENS; i++) {
            uint32_t lane = i % (GROUP_TOKENS / 4);
            largest[lane] = at[i] > largest[lane] ? at[i] : largest[lane];
        }
        for (uint32_t i = 1; i < GROUP_TOKENS / 4; i++)
            largest[0] = largest[i] > largest[0] ? largest[i] : largest[0];
        sampler->candidates[group] = (struct candidate){.logit = largest[0], .token_id = group};
    }
    candidates_heap(sampler, groups);
    return candidate_at(sampler, count - 1).logit;
}

/* The worst candidate that top_k and top_p keep; total: the sum of all weights. */
static struct candidate filters_apply(struct sampler *sampler, const struct sampling *sampling,
                                      const float *logits, double total)
{
    bool cuts_k = sampling->top_k > 0 && sampling->top_k < sampler->vocabulary;
    bool cuts_p = sampling->top_p < 1.0f;
    struct candidate worst = {.logit = -INFINITY, .token_id = UINT32_MAX};
    if (!cuts_k && !cuts_p)
        return worst;

    /* Candidates so light that all of them together are less than half of what top_p cuts off
     * cannot be kept: leave them out of the heap. */
    double light = cuts_k ? 0.0 : 0.5 * (1.0 - (double)sampling->top_p) * total;
    candidates_gather(sampler, logits, (float)(light / (double)sampler->vocabulary),
                      cuts_k ? logit_bound(sampler, logits, sampling->top_k) : -INFINITY);
    uint32_t kept = sampler->candidate_count;
    if (cuts_k && sampling->top_k <= kept) {
        kept = sampling->top_k;
        total = 0.0;
        for (uint32_t rank = 0; rank < kept; rank++)
            total += (double)sampler->weights[candidate_at(sampler, rank).token_id];
    }
    if (!cuts_p)
        return candidate_at(sampler, kept - 1);

    double sum = 0.0;
    for (uint32_t rank = 0; rank < kept && sum < (double)sampling->top_p * total; rank++) {
        worst = candidate_at(sampler, rank);
        sum += (double)sampler->weights[worst.token_id];
    }
    return worst;
}

/* Set the weight of everything that is not kept to 0. */
static void weights_cut(struct sampler *sampler, const float *logits, struct candidate worst,
                        float weight_min)
{
    float *weights = sampler->weights;
    uint32_t vocabulary = sampler->vocabulary;
    for (uint32_t i = 0; i < vocabulary; i++) {
        int kept = (logits[i] > worst.logit) | ((logits[i] == worst.logit) & (i <= worst.token_id));
        weights[i] = (kept & (weights[i] >= weight_min)) != 0 ? weights[i] : 0.0f;
    }
}

static double group_sum(const struct sampler *sampler, uint32_t first)
{
    uint32_t left = sampler->vocabulary - first;
    double sum = 0.0;
    for (uint32_t i = 0; i < (left < GROUP_TOKENS ? left : GROUP_TOKENS); i++)
        sum += (double)sampler->weights[first + i];
    return sum;
}

/* Walk in order of token ids until the sum of weights passes u times their total; group by group
 * first, then within the group. */
static uint32_t draw(const struct sampler *sampler, double u)
{
    double total = 0.0, sum = 0.0;
    uint32_t first = 0, last = 0;
    for (uint32_t i = 0; i < sampler->vocabulary; i += GROUP_TOKENS)
        total += group_sum(sampler, i);
    for (; first < sampler->vocabulary; first += GROUP_TOKENS) {
        double group = group_sum(sampler, first);
        if (sum + group > u * total)
            break;
        sum += group;
    }
    for (uint32_t i = first; i < sampler->vocabulary; i++) {
        sum += (double)sampler->weights[i];
        if (sum > u * total)
            return i;
    }
    for (uint32_t i = 0; i < sampler->vocabulary; i++) /* u * total was rounded up to the total */
        last = sampler->weights[i] > 0.0f ? i : last;
    return last;
}

status sampler_pick(struct sampler *sampler, const struct sampling *sampling,
                    const struct sampler_row *row, struct sampled *sampled_out)
{
    struct candidate raw_best, best;
    struct sampled sampled = {.token_id = 0};
    status code = logits_best(row->logits, sampler->vocabulary, &raw_best);
    if (code != OK)
        return code;

    const float *logits = logits_adjust(sampler, sampling, row);
    best = raw_best;
    if (logits != row->logits) {
        code = logits_best(logits, sampler->vocabulary, &best);
        if (code != OK)
            return code;
    }
    if (sampling->temperature > 0.0f) {
        double total = weights_fill(sampler, logits, best.logit, sampling->temperature);
        struct candidate worst = filters_apply(sampler, sampling, logits, total);
        double u = sampler_uniform(sampling->seed, row->position, row->sequence_index);
        weights_cut(sampler, logits, worst, sampling->min_p);
        sampled.token_id = draw(sampler, u);
    } else {
        sampled.token_id = best.token_id;
    }
    if (sampling->logprobs)
        score(sampler, row->logits, raw_best.logit, sampled.token_id, sampling->top_logprobs,
              &sampled);
    *sampled_out = sampled;
    return OK;
}
