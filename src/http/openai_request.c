#include "http/openai_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "http/openai_parse.h"

#define COMPLETION_TOKENS_DEFAULT 16 /* as the API has it */

/* A request and what it points into; the request first, so that its address is the record's. */
struct request_record {
    struct openai_request request;
    json_t *root;
    struct arena *arena;
};

struct tokenize_record {
    struct openai_tokenize request;
    json_t *root;
    struct arena *arena;
};

struct detokenize_record {
    struct openai_detokenize request;
    json_t *root;
    struct arena *arena;
};

static const char *error_type(unsigned http_code)
{
    switch (http_code) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return http_code >= 500 ? "server_error" : "invalid_request_error";
    }
}

void openai_error_fill(struct openai_error *error, unsigned http_code, const char *param,
                       const char *code, const char *format, ...)
{
    memset(error, 0, sizeof(*error));
    error->http_code = http_code;
    error->type = error_type(http_code);
    error->code = code;
    if (param != NULL)
        snprintf(error->param, sizeof(error->param), "%s", param);
    va_list args;
    va_start(args, format);
    vsnprintf(error->message, sizeof(error->message), format, args);
    va_end(args);
}

/* The status that goes with a filled error. */
static status parse_status(const struct openai_error *error)
{
    return error_set(error->http_code == 503 ? ERR_NO_MEMORY : ERR_BAD_INPUT, "%s", error->message);
}

/* ---- what can only be seen when all is read ---- */

static bool tokens_check(struct openai_parse *p)
{
    struct openai_request *r = &p->values.generate;
    bool chat = p->kind == PARSE_CHAT;
    if (p->values.has_max_tokens && p->values.has_max_completion_tokens &&
        r->max_tokens != p->values.max_completion_tokens)
        return parse_fail(p, "max_tokens",
                          "\"max_tokens\" is %u and \"max_completion_tokens\" is %u: expected one "
                          "of them, or both the same",
                          r->max_tokens, p->values.max_completion_tokens);
    if (p->values.has_max_completion_tokens)
        r->max_tokens = p->values.max_completion_tokens;
    else if (!p->values.has_max_tokens)
        r->max_tokens = chat ? OPENAI_TOKENS_REST : COMPLETION_TOKENS_DEFAULT;
    if (r->max_tokens == 0 && !r->echo)
        return parse_fail(p, "max_tokens",
                          "\"max_tokens\": expected at least 1, found 0 (0 only with \"echo\")");
    if (r->min_tokens > r->max_tokens)
        return parse_fail(p, "min_tokens",
                          "\"min_tokens\": expected at most max_tokens (%u), "
                          "found %u",
                          r->max_tokens, r->min_tokens);
    return true;
}

static bool generate_check(struct openai_parse *p)
{
    struct openai_request *r = &p->values.generate;
    if (p->kind == PARSE_CHAT && r->messages == NULL)
        return parse_fail(p, "messages", "\"messages\" is missing");
    if (p->kind == PARSE_COMPLETION && r->prompts == NULL)
        return parse_fail(p, "prompt", "\"prompt\" is missing");
    if (!tokens_check(p))
        return false;
    if (p->values.best_of != 0 && p->values.best_of != r->n)
        return parse_fail(p, "best_of",
                          "\"best_of\": only best_of equal to n (%u) is supported, "
                          "found %u",
                          r->n, p->values.best_of);
    if (p->values.has_top_logprobs && !r->logprobs)
        return parse_fail(p, "top_logprobs", "\"top_logprobs\" needs \"logprobs\": true");
    if (p->values.has_stream_options && !r->stream)
        return parse_fail(p, "stream_options", "\"stream_options\" needs \"stream\": true");
    if (p->kind == PARSE_COMPLETION && (uint64_t)r->prompt_count * r->n > OPENAI_SEQUENCES_MAX)
        return parse_fail(p, "n", "prompts x n: expected at most %d, found %u x %u",
                          OPENAI_SEQUENCES_MAX, r->prompt_count, r->n);
    if (!r->logprobs)
        r->top_logprobs = 0;
    r->kind = p->kind == PARSE_CHAT ? OPENAI_CHAT : OPENAI_COMPLETION;
    r->add_special_tokens = p->values.has_special ? p->values.special : p->kind != PARSE_CHAT;
    return true;
}

static status generate_parse(enum parse_kinds kind, const char *body, size_t bytes,
                             const struct openai_limits *limits,
                             struct openai_request **request_out, struct openai_error *error_out)
{
    struct openai_parse p;
    bool well = parse_open(&p, kind, body, bytes, limits, error_out);
    if (well) {
        parameters_default(&p);
        well = parameters_parse(&p) && generate_check(&p);
    }
    struct request_record *record = well ? arena_take(p.arena, sizeof(*record)) : NULL;
    if (well && record == NULL)
        well = parse_no_memory(&p);
    if (!well) {
        parse_close(&p);
        return parse_status(error_out);
    }
    record->request = p.values.generate;
    record->root = p.root;
    record->arena = p.arena;
    *request_out = &record->request;
    return OK;
}

status openai_chat_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                         struct openai_request **request_out, struct openai_error *error_out)
{
    return generate_parse(PARSE_CHAT, body, bytes, limits, request_out, error_out);
}

status openai_completion_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                               struct openai_request **request_out, struct openai_error *error_out)
{
    return generate_parse(PARSE_COMPLETION, body, bytes, limits, request_out, error_out);
}

void openai_request_free(struct openai_request *request)
{
    if (request == NULL)
        return;
    struct request_record *record = (struct request_record *)request;
    json_decref(request->messages);
    json_decref(record->root);
    arena_close(record->arena); /* the record lies in it */
}

static bool tokenize_check(struct openai_parse *p)
{
    bool messages = p->values.generate.messages != NULL;
    if (p->values.has_content == messages)
        return parse_fail(p, "prompt",
                          messages ? "a text and \"messages\" in one request: expected one"
                                   : "expected \"prompt\", \"content\" or \"messages\"");
    return true;
}

status openai_tokenize_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                             struct openai_tokenize **request_out, struct openai_error *error_out)
{
    struct openai_parse p;
    bool well = parse_open(&p, PARSE_TOKENIZE, body, bytes, limits, error_out);
    if (well) {
        parameters_default(&p);
        well = parameters_parse(&p) && tokenize_check(&p);
    }
    struct tokenize_record *record = well ? arena_take(p.arena, sizeof(*record)) : NULL;
    if (well && record == NULL)
        well = parse_no_memory(&p);
    if (!well) {
        parse_close(&p);
        return parse_status(error_out);
    }
    bool messages = p.values.generate.messages != NULL;
    record->request = (struct openai_tokenize){
        .model = p.values.generate.model,
        .text = messages ? (struct openai_string){"", 0} : p.values.content,
        .messages = p.values.generate.messages,
        .template_kwargs = p.values.generate.template_kwargs,
        .add_generation_prompt = p.values.generate.add_generation_prompt,
        .add_special_tokens = p.values.has_special ? p.values.special : !messages,
        .return_token_strs = p.values.return_token_strs,
    };
    record->root = p.root;
    record->arena = p.arena;
    *request_out = &record->request;
    return OK;
}

void openai_tokenize_free(struct openai_tokenize *request)
{
    if (request == NULL)
        return;
    struct tokenize_record *record = (struct tokenize_record *)request;
    json_decref(request->messages);
    json_decref(record->root);
    arena_close(record->arena);
}

status openai_detokenize_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                               struct openai_detokenize **request_out,
                               struct openai_error *error_out)
{
    struct openai_parse p;
    bool well = parse_open(&p, PARSE_DETOKENIZE, body, bytes, limits, error_out);
    if (well) {
        parameters_default(&p);
        well = parameters_parse(&p);
    }
    if (well && !p.values.has_tokens)
        well = parse_fail(&p, "tokens", "\"tokens\" is missing");
    struct detokenize_record *record = well ? arena_take(p.arena, sizeof(*record)) : NULL;
    if (well && record == NULL)
        well = parse_no_memory(&p);
    if (!well) {
        parse_close(&p);
        return parse_status(error_out);
    }
    record->request = (struct openai_detokenize){.model = p.values.generate.model,
                                                 .tokens = p.values.tokens,
                                                 .token_count = p.values.token_count};
    record->root = p.root;
    record->arena = p.arena;
    *request_out = &record->request;
    return OK;
}

void openai_detokenize_free(struct openai_detokenize *request)
{
    if (request == NULL)
        return;
    struct detokenize_record *record = (struct detokenize_record *)request;
    json_decref(record->root);
    arena_close(record->arena);
}
