#include "engine/sampler.h"

#include <math.h>
#include <stddef.h>

#include "base/error.h"

void sampling_defaults(struct sampling *sampling)
{
    *sampling = (struct sampling){
        .temperature = 0.0f,
        .top_p = 1.0f,
        .repetition_penalty = 1.0f,
    };
}

static status range_check(const char *name, float value, float low, float high)
{
    if (value >= low && value <= high) /* false for NaN */
        return OK;
    return error_set(ERR_BAD_INPUT, "%s: expected a number from %g to %g, found %g", name,
                     (double)low, (double)high, (double)value);
}

static status ids_check(const struct sampling *sampling, uint32_t vocabulary)
{
    if (sampling->end_id_count > SAMPLING_END_IDS_MAX)
        return error_set(ERR_BAD_INPUT, "end token ids: expected at most %d, found %u",
                         SAMPLING_END_IDS_MAX, sampling->end_id_count);
    if (sampling->bias_count > SAMPLING_BIAS_MAX)
        return error_set(ERR_BAD_INPUT, "logit_bias: expected at most %d tokens, found %u",
                         SAMPLING_BIAS_MAX, sampling->bias_count);
    for (uint32_t i = 0; i < sampling->end_id_count; i++)
        if (sampling->end_ids[i] >= vocabulary)
            return error_set(ERR_BAD_INPUT,
                             "end token ids: expected ids below the vocabulary of %u, found %u",
                             vocabulary, sampling->end_ids[i]);
    for (uint32_t i = 0; i < sampling->bias_count; i++) {
        const struct sampling_bias *bias = &sampling->bias[i];
        if (bias->token_id >= vocabulary)
            return error_set(ERR_BAD_INPUT,
                             "logit_bias: expected token ids below the vocabulary of %u, found %u",
                             vocabulary, bias->token_id);
        status code = range_check("logit_bias", bias->bias, -100.0f, 100.0f);
        if (code != OK)
            return code;
    }
    return OK;
}

status sampling_check(const struct sampling *sampling, uint32_t vocabulary)
{
    static const float tiny = 1e-6f; /* "greater than 0", with room to divide by */
    const struct {
        const char *name;
        float value, low, high;
    } ranges[] = {
        {"temperature", sampling->temperature, 0.0f, 100.0f},
        {"top_p", sampling->top_p, tiny, 1.0f},
        {"min_p", sampling->min_p, 0.0f, 1.0f},
        {"repetition_penalty", sampling->repetition_penalty, tiny, 100.0f},
        {"frequency_penalty", sampling->frequency_penalty, -2.0f, 2.0f},
        {"presence_penalty", sampling->presence_penalty, -2.0f, 2.0f},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        status code = range_check(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
        if (code != OK)
            return code;
    }
    if (sampling->top_logprobs > SAMPLING_LOGPROBS_MAX)
        return error_set(ERR_BAD_INPUT, "top_logprobs: expected 0 to %d, found %u",
                         SAMPLING_LOGPROBS_MAX, sampling->top_logprobs);
    return ids_check(sampling, vocabulary);
}

bool sampling_needs_history(const struct sampling *sampling)
{
    return sampling->repetition_penalty != 1.0f || sampling->frequency_penalty != 0.0f ||
           sampling->presence_penalty != 0.0f;
}
