/* http/openai_parameters.c - the tables of what a body may say: type, range and default of every
 * parameter, and those that are accepted only where they ask for nothing. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/openai_parse.h"

enum parameter_type {
    PARAMETER_BOOL,
    PARAMETER_UINT, /* uint32_t; an integer from min to max */
    PARAMETER_INT,  /* int32_t */
    PARAMETER_REAL, /* float; from min to max */
    PARAMETER_TEXT, /* struct openai_string; min to max bytes */
    PARAMETER_OWN,  /* read by a function */
};

struct parameter {
    const char *name;
    unsigned kinds; /* bits of enum parse_kinds */
    enum parameter_type type;
    double min, max, default_value;
    bool above_min; /* min itself is out */
    size_t offset;  /* in struct parse_values */
    bool (*read)(struct openai_parse *p, const char *name, json_t *value);
};

static bool seed_read(struct openai_parse *p, const char *name, json_t *value);
static bool model_read(struct openai_parse *p, const char *name, json_t *value);
static bool top_k_read(struct openai_parse *p, const char *name, json_t *value);
static bool max_tokens_read(struct openai_parse *p, const char *name, json_t *value);
static bool stop_read(struct openai_parse *p, const char *name, json_t *value);
static bool stop_tokens_read(struct openai_parse *p, const char *name, json_t *value);
static bool bias_read(struct openai_parse *p, const char *name, json_t *value);
static bool logprobs_read(struct openai_parse *p, const char *name, json_t *value);
static bool top_logprobs_read(struct openai_parse *p, const char *name, json_t *value);
static bool special_read(struct openai_parse *p, const char *name, json_t *value);
static bool stream_options_read(struct openai_parse *p, const char *name, json_t *value);
static bool metadata_read(struct openai_parse *p, const char *name, json_t *value);
static bool tokens_read(struct openai_parse *p, const char *name, json_t *value);
static bool any_bool_read(struct openai_parse *p, const char *name, json_t *value);

#define OF(field) offsetof(struct parse_values, field), NULL
#define IN(field) OF(generate.field)
#define OWN(reader) PARAMETER_OWN, 0, 0, 0, false, 0, reader
#define ALL (PARSE_GENERATE | PARSE_TOKENIZE | PARSE_DETOKENIZE)
#define MESSAGES (PARSE_CHAT | PARSE_TOKENIZE)
#define GEN PARSE_GENERATE
#define COMPLETION PARSE_COMPLETION
#define UINT PARAMETER_UINT
#define REAL PARAMETER_REAL
#define BOOL PARAMETER_BOOL
#define TEXT PARAMETER_TEXT

/* clang-format off */
static const struct parameter parameters[] = {
    /* name                   kinds       type  min max      default above  field */
    {"model",                 ALL,        OWN(model_read)},
    {"prompt",                COMPLETION, OWN(prompt_parse)},
    {"prompt",                PARSE_TOKENIZE, OWN(content_parse)},
    {"content",               PARSE_TOKENIZE, OWN(content_parse)},
    {"messages",              MESSAGES,   OWN(messages_parse)},
    {"tokens",                PARSE_DETOKENIZE, OWN(tokens_read)},
    {"chat_template_kwargs",  MESSAGES,   OWN(template_kwargs_parse)},
    {"add_generation_prompt", MESSAGES,   BOOL, 0, 1,            1, false,
                                                                    IN(add_generation_prompt)},
    {"add_special_tokens",    GEN | PARSE_TOKENIZE, OWN(special_read)},
    {"return_token_strs",     PARSE_TOKENIZE, BOOL, 0, 1,        0, false, OF(return_token_strs)},
    {"n",                     GEN,        UINT, 1, OPENAI_N_MAX, 1, false, IN(n)},
    {"best_of",               COMPLETION, UINT, 1, OPENAI_N_MAX, 0, false, OF(best_of)},
    {"echo",                  COMPLETION, BOOL, 0, 1,            0, false, IN(echo)},
    {"max_tokens",            GEN,        OWN(max_tokens_read)},
    {"max_completion_tokens", PARSE_CHAT, OWN(max_tokens_read)},
    {"min_tokens",            GEN,        UINT, 0, 1 << 24,      0, false, IN(min_tokens)},
    {"ignore_eos",            GEN,        BOOL, 0, 1,            0, false, IN(ignore_eos)},
    {"stream",                GEN,        BOOL, 0, 1,            0, false, IN(stream)},
    {"stream_options",        GEN,        OWN(stream_options_read)},
    {"temperature",           GEN,        REAL, 0, 2,            1, false, IN(temperature)},
    {"top_p",                 GEN,        REAL, 0, 1,            1, true,  IN(top_p)},
    {"min_p",                 GEN,        REAL, 0, 1,            0, false, IN(min_p)},
    {"top_k",                 GEN,        OWN(top_k_read)},
    {"frequency_penalty",     GEN,        REAL, -2, 2,           0, false, IN(frequency_penalty)},
    {"presence_penalty",      GEN,        REAL, -2, 2,           0, false, IN(presence_penalty)},
    {"repetition_penalty",    GEN,        REAL, 0, 10,           1, true,  IN(repetition_penalty)},
    {"seed",                  GEN,        OWN(seed_read)},
    {"logit_bias",            GEN,        OWN(bias_read)},
    {"stop",                  GEN,        OWN(stop_read)},
    {"stop_token_ids",        GEN,        OWN(stop_tokens_read)},
    {"logprobs",              GEN,        OWN(logprobs_read)},
    {"top_logprobs",          PARSE_CHAT, OWN(top_logprobs_read)},
    {"priority",              GEN,        PARAMETER_INT, INT32_MIN, INT32_MAX, 0, false,
                                                                    IN(priority)},
    {"cache_salt",            GEN,        TEXT, 1, OPENAI_SALT_BYTES_MAX, 0, false, IN(cache_salt)},
    {"user",                  GEN,        TEXT, 0, 512,          0, false, IN(user)},
    {"metadata",              GEN,        OWN(metadata_read)},
    {"parallel_tool_calls",   PARSE_CHAT, OWN(any_bool_read)},
};

/* Not built, but harmless at these values (a JSON list of them). */
static const struct neutral {
    const char *name;
    unsigned kinds;
    const char *values;
} neutrals[] = {
    {"tools",                         PARSE_CHAT,       "[[]]"},
    {"tool_choice",                   PARSE_CHAT,       "[\"none\", \"auto\"]"},
    {"functions",                     PARSE_CHAT,       "[[]]"},
    {"function_call",                 PARSE_CHAT,       "[\"none\", \"auto\"]"},
    {"response_format",               PARSE_GENERATE,   "[{\"type\": \"text\"}]"},
    {"modalities",                    PARSE_CHAT,       "[[\"text\"]]"},
    {"documents",                     PARSE_CHAT,       "[[]]"},
    {"echo",                          PARSE_CHAT,       "[false]"},
    {"continue_final_message",        PARSE_CHAT | PARSE_TOKENIZE, "[false]"},
    {"service_tier",                  PARSE_GENERATE,   "[\"auto\", \"default\"]"},
    {"store",                         PARSE_GENERATE,   "[false]"},
    {"suffix",                        PARSE_COMPLETION, "[\"\"]"},
    {"use_beam_search",               PARSE_GENERATE,   "[false]"},
    {"length_penalty",                PARSE_GENERATE,   "[1, 1.0]"},
    {"early_stopping",                PARSE_GENERATE,   "[false]"},
    {"skip_special_tokens",           PARSE_GENERATE,   "[true]"},
    {"spaces_between_special_tokens", PARSE_GENERATE,   "[true]"},
    {"include_stop_str_in_output",    PARSE_GENERATE,   "[false]"},
    {"return_tokens_as_token_ids",    PARSE_GENERATE,   "[false]"},
    {"return_token_ids",              PARSE_GENERATE,   "[false]"},
    {"bad_words",                     PARSE_GENERATE,   "[[]]"},
    {"logits_processors",             PARSE_GENERATE,   "[[]]"},
    {"with_pieces",                   PARSE_TOKENIZE,   "[false]"},
};
/* clang-format on */

#define PARAMETER_COUNT (sizeof(parameters) / sizeof(parameters[0]))
#define NEUTRAL_COUNT (sizeof(neutrals) / sizeof(neutrals[0]))

const char *parameters_at(size_t index, unsigned *kinds_out)
{
    if (index >= PARAMETER_COUNT + NEUTRAL_COUNT)
        return NULL;
    if (index < PARAMETER_COUNT) {
        *kinds_out = parameters[index].kinds;
        return parameters[index].name;
    }
    *kinds_out = neutrals[index - PARAMETER_COUNT].kinds;
    return neutrals[index - PARAMETER_COUNT].name;
}

/* ---- readers by type ---- */

static bool integer_read(struct openai_parse *p, const char *name, const json_t *value,
                         json_int_t min, json_int_t max, json_int_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max)
        return parse_expected(p, name, value, "an integer from %lld to %lld", (long long)min,
                              (long long)max);
    *out = json_integer_value(value);
    return true;
}

static bool real_read(struct openai_parse *p, const struct parameter *parameter,
                      const json_t *value, float *out)
{
    double number = json_number_value(value);
    /* The float is what will be used: a tiny double must not round to an excluded 0. */
    float narrow = (float)number;
    bool inside = json_is_number(value) && isfinite(number) && number >= parameter->min &&
                  number <= parameter->max &&
                  !(parameter->above_min && (double)narrow <= parameter->min);
    if (!inside)
        return parse_expected(p, parameter->name, value, "a number %s %g and at most %g",
                              parameter->above_min ? "above" : "of at least", parameter->min,
                              parameter->max);
    *out = narrow;
    return true;
}

static bool text_read(struct openai_parse *p, const char *name, const json_t *value,
                      size_t bytes_min, size_t bytes_max, struct openai_string *out)
{
    if (!json_is_string(value) || json_string_length(value) < bytes_min ||
        json_string_length(value) > bytes_max)
        return parse_expected(p, name, value, "a text of %zu to %zu bytes", bytes_min, bytes_max);
    *out = (struct openai_string){json_string_value(value), json_string_length(value)};
    return true;
}

static bool bool_read(struct openai_parse *p, const char *name, const json_t *value, bool *out)
{
    if (!json_is_boolean(value))
        return parse_expected(p, name, value, "true or false");
    *out = json_is_true(value);
    return true;
}

static bool parameter_read(struct openai_parse *p, const struct parameter *parameter, json_t *value)
{
    char *field = (char *)&p->values + parameter->offset;
    json_int_t integer = 0;
    switch (parameter->type) {
    case PARAMETER_BOOL:
        return bool_read(p, parameter->name, value, (bool *)field);
    case PARAMETER_UINT:
        if (!integer_read(p, parameter->name, value, (json_int_t)parameter->min,
                          (json_int_t)parameter->max, &integer))
            return false;
        *(uint32_t *)field = (uint32_t)integer;
        return true;
    case PARAMETER_INT:
        if (!integer_read(p, parameter->name, value, (json_int_t)parameter->min,
                          (json_int_t)parameter->max, &integer))
            return false;
        *(int32_t *)field = (int32_t)integer;
        return true;
    case PARAMETER_REAL:
        return real_read(p, parameter, value, (float *)field);
    case PARAMETER_TEXT:
        return text_read(p, parameter->name, value, (size_t)parameter->min, (size_t)parameter->max,
                         (struct openai_string *)field);
    case PARAMETER_OWN:
        return parameter->read(p, parameter->name, value);
    }
    return false;
}

void parameters_default(struct openai_parse *p)
{
    for (size_t i = 0; i < PARAMETER_COUNT; i++) {
        char *field = (char *)&p->values + parameters[i].offset;
        switch (parameters[i].type) {
        case PARAMETER_BOOL:
            *(bool *)field = parameters[i].default_value != 0;
            break;
        case PARAMETER_UINT:
            *(uint32_t *)field = (uint32_t)parameters[i].default_value;
            break;
        case PARAMETER_INT:
            *(int32_t *)field = (int32_t)parameters[i].default_value;
            break;
        case PARAMETER_REAL:
            *(float *)field = (float)parameters[i].default_value;
            break;
        case PARAMETER_TEXT:
            *(struct openai_string *)field = (struct openai_string){"", 0};
            break;
        case PARAMETER_OWN:
            break; /* zero, or set in openai_request.c */
        }
    }
}

static bool neutral_read(struct openai_parse *p, const struct neutral *neutral, const json_t *value)
{
    json_t *values = json_loads(neutral->values, 0, NULL);
    if (values == NULL)
        return parse_no_memory(p);
    bool harmless = false;
    size_t i;
    json_t *one;
    json_array_foreach(values, i, one) harmless = harmless || json_equal(one, value) == 1;
    json_decref(values);
    if (!harmless)
        return parse_fail(p, neutral->name,
                          "\"%s\" is not supported by this server; leave it out (accepted without "
                          "effect: %.*s)",
                          neutral->name, (int)strlen(neutral->values) - 2, neutral->values + 1);
    return true;
}

static bool member_parse(struct openai_parse *p, const char *name, json_t *value)
{
    if (json_is_null(value))
        return true; /* as absent */
    for (size_t i = 0; i < PARAMETER_COUNT; i++) {
        if ((parameters[i].kinds & p->kind) != 0 && strcmp(parameters[i].name, name) == 0)
            return parameter_read(p, &parameters[i], value);
    }
    for (size_t i = 0; i < NEUTRAL_COUNT; i++) {
        if ((neutrals[i].kinds & p->kind) != 0 && strcmp(neutrals[i].name, name) == 0)
            return neutral_read(p, &neutrals[i], value);
    }
    return parse_fail(
        p, name, "\"%.80s\" is not a parameter that this server supports here; leave it out", name);
}

bool parameters_parse(struct openai_parse *p)
{
    const char *name;
    json_t *value;
    json_object_foreach(p->root, name, value)
    {
        if (!member_parse(p, name, value))
            return false;
    }
    return true;
}

/* ---- readers of one parameter ---- */

static bool model_read(struct openai_parse *p, const char *name, json_t *value)
{
    struct openai_string model = {NULL, 0};
    if (!text_read(p, name, value, 1, 512, &model))
        return false;
    p->values.generate.model = model.data;
    return true;
}

static bool seed_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_integer(value))
        return parse_expected(p, name, value, "an integer of 64 bits");
    p->values.generate.has_seed = true;
    p->values.generate.seed = (uint64_t)json_integer_value(value);
    return true;
}

static bool top_k_read(struct openai_parse *p, const char *name, json_t *value)
{
    json_int_t top_k = 0;
    if (!integer_read(p, name, value, -1, INT32_MAX, &top_k))
        return false;
    p->values.generate.top_k = top_k > 0 ? (uint32_t)top_k : 0;
    return true;
}

/* Both names; whether 0 is allowed and whether they agree is seen when all is read. */
static bool max_tokens_read(struct openai_parse *p, const char *name, json_t *value)
{
    json_int_t limit = p->limits->context_tokens > 0 ? p->limits->context_tokens : INT32_MAX;
    json_int_t tokens = 0;
    if (!integer_read(p, name, value, p->kind == PARSE_COMPLETION ? 0 : 1, limit, &tokens))
        return false;
    if (strcmp(name, "max_tokens") == 0) {
        p->values.has_max_tokens = true;
        p->values.generate.max_tokens = (uint32_t)tokens;
    } else {
        p->values.has_max_completion_tokens = true;
        p->values.max_completion_tokens = (uint32_t)tokens;
    }
    return true;
}

static bool stop_read(struct openai_parse *p, const char *name, json_t *value)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if ((!json_is_array(value) && !json_is_string(value)) || count > OPENAI_STOPS_MAX)
        return parse_expected(p, name, value, "a text or a list of at most %d texts",
                              OPENAI_STOPS_MAX);
    struct openai_string *stops = arena_take_array(p->arena, count + 1, sizeof(*stops));
    if (stops == NULL)
        return parse_no_memory(p);
    for (size_t i = 0; i < count; i++) {
        char place[32];
        snprintf(place, sizeof(place), json_is_array(value) ? "%s[%zu]" : "%s", name, i);
        json_t *stop = json_is_array(value) ? json_array_get(value, i) : value;
        if (!text_read(p, place, stop, 1, OPENAI_STOP_BYTES_MAX, &stops[i]))
            return false;
    }
    p->values.generate.stops = stops;
    p->values.generate.stop_count = (uint32_t)count;
    return true;
}

static bool stop_tokens_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_array(value))
        return parse_expected(p, name, value, "a list of token ids");
    return parse_tokens(p, name, value, OPENAI_STOP_TOKENS_MAX, &p->values.generate.stop_tokens,
                        &p->values.generate.stop_token_count);
}

/* {"50256": -100, ...}: names are token ids in decimal, without sign or leading zeros. */
static bool bias_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_object(value) || json_object_size(value) > OPENAI_BIASES_MAX)
        return parse_expected(p, name, value,
                              "an object of at most %d token ids and their biases (found %zu)",
                              OPENAI_BIASES_MAX, json_object_size(value));
    size_t count = json_object_size(value);
    struct openai_bias *biases = arena_take_array(p->arena, count + 1, sizeof(*biases));
    if (biases == NULL)
        return parse_no_memory(p);
    unsigned long limit = p->limits->vocabulary > 0 ? p->limits->vocabulary : INT32_MAX;
    uint32_t i = 0;
    const char *key;
    json_t *bias;
    json_object_foreach(value, key, bias)
    {
        char place[96];
        snprintf(place, sizeof(place), "%s[\"%.60s\"]", name, key);
        size_t digits = strlen(key);
        bool plain = digits > 0 && digits <= 9 && strspn(key, "0123456789") == digits &&
                     (key[0] != '0' || digits == 1);
        unsigned long token = plain ? strtoul(key, NULL, 10) : ULONG_MAX;
        if (token >= limit)
            return parse_fail(p, place,
                              "\"%s\": expected a token id from 0 to %lu as the name, found "
                              "\"%.60s\"",
                              name, limit - 1, key);
        double number = json_number_value(bias);
        if (!json_is_number(bias) || !(number >= -100 && number <= 100))
            return parse_expected(p, place, bias, "a number from -100 to 100");
        biases[i++] = (struct openai_bias){(uint32_t)token, (float)number};
    }
    p->values.generate.biases = biases;
    p->values.generate.bias_count = i;
    return true;
}

/* Chat: true or false. Completions: how many of the most likely. */
static bool logprobs_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (p->kind == PARSE_CHAT)
        return bool_read(p, name, value, &p->values.generate.logprobs);
    json_int_t top = 0;
    if (!integer_read(p, name, value, 0, OPENAI_TOP_LOGPROBS_MAX, &top))
        return false;
    p->values.generate.logprobs = true;
    p->values.generate.top_logprobs = (uint32_t)top;
    return true;
}

static bool top_logprobs_read(struct openai_parse *p, const char *name, json_t *value)
{
    json_int_t top = 0;
    if (!integer_read(p, name, value, 0, OPENAI_TOP_LOGPROBS_MAX, &top))
        return false;
    p->values.has_top_logprobs = top > 0;
    p->values.generate.top_logprobs = (uint32_t)top;
    return true;
}

static bool special_read(struct openai_parse *p, const char *name, json_t *value)
{
    p->values.has_special = true;
    return bool_read(p, name, value, &p->values.special);
}

static bool stream_options_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_object(value))
        return parse_expected(p, name, value, "an object");
    p->values.has_stream_options = true;
    const char *key;
    json_t *option;
    json_object_foreach(value, key, option)
    {
        char place[96];
        snprintf(place, sizeof(place), "%s.%.60s", name, key);
        if (json_is_null(option))
            continue;
        bool on = false;
        if (!bool_read(p, place, option, &on))
            return false;
        if (strcmp(key, "include_usage") == 0)
            p->values.generate.include_usage = on;
        else if (on || (strcmp(key, "include_obfuscation") != 0 &&
                        strcmp(key, "continuous_usage_stats") != 0))
            return parse_fail(p, place, "\"%s\" is not supported by this server; leave it out",
                              place);
    }
    return true;
}

static bool metadata_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_object(value) || json_object_size(value) > 16)
        return parse_expected(p, name, value, "an object of at most 16 texts");
    const char *key;
    json_t *label;
    json_object_foreach(value, key, label)
    {
        if (!json_is_string(label))
            return parse_expected(p, name, label, "texts as values");
    }
    return true;
}

static bool tokens_read(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_array(value))
        return parse_expected(p, name, value, "a list of token ids");
    p->values.has_tokens = true;
    return parse_tokens(p, name, value, SIZE_MAX, &p->values.tokens, &p->values.token_count);
}

static bool any_bool_read(struct openai_parse *p, const char *name, json_t *value)
{
    bool ignored = false;
    return bool_read(p, name, value,
                     &ignored); /* with no tools there is nothing to do in parallel */
}
