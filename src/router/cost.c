#include "router/cost.h"

#include <stdint.h>

#define COST_KEEP 0.95  /* of the samples before, with each new one */
#define COST_LEVEL 0.25 /* of the newest, in the factor */
#define COST_WILD 8.0   /* one sample is not believed to be further off than this */
#define COST_SWEEPS 24

/* Coordinate descent from where it was: each of the three in turn as good as it gets, not below
 * zero. Tokens first: what cannot be told apart is theirs. */
static void cost_descend(struct cost_fit *fit)
{
    static const uint32_t order[3] = {1, 0, 2};
    for (int sweep = 0; sweep < COST_SWEEPS; sweep++) {
        for (int k = 0; k < 3; k++) {
            uint32_t i = order[k];
            double left = fit->targets[i];
            if (fit->products[i][i] <= 0)
                continue;
            for (uint32_t j = 0; j < 3; j++)
                left -= j != i ? fit->products[i][j] * fit->shape[j] : 0;
            fit->shape[i] = left > 0 ? left / fit->products[i][i] : 0;
        }
    }
}

void cost_measure(struct cost_fit *fit, const struct cost_sample *sample)
{
    if (sample->tokens <= 0 || sample->seconds <= 0)
        return;
    const double x[3] = {sample->prompts, sample->tokens, sample->context};
    double weight = 1 / sample->seconds; /* a sample counts by its relative error */
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t j = 0; j < 3; j++)
            fit->products[i][j] = COST_KEEP * fit->products[i][j] + x[i] * weight * (x[j] * weight);
        fit->targets[i] = COST_KEEP * fit->targets[i] + x[i] * weight;
    }
    cost_descend(fit);
    double predicted = 0;
    for (uint32_t i = 0; i < 3; i++)
        predicted += fit->shape[i] * x[i];
    if (predicted <= 0)
        return;
    double ratio = sample->seconds / predicted;
    ratio = ratio < 1 / COST_WILD ? 1 / COST_WILD : ratio > COST_WILD ? COST_WILD : ratio;
    fit->level = fit->level > 0 ? fit->level + COST_LEVEL * (ratio - fit->level) : ratio;
}

struct cost cost_of(const struct cost_fit *fit)
{
    return (struct cost){.prompt_s = fit->level * fit->shape[0],
                         .token_s = fit->level * fit->shape[1],
                         .context_s = fit->level * fit->shape[2]};
}

double cost_prompt_s(const struct cost *cost, double before, double tokens)
{
    return cost->prompt_s + tokens * (cost->token_s + cost->context_s * (before + tokens / 2));
}
