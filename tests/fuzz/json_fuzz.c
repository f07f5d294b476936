/* Any body to every kind of request: either a request whose values keep their promises, or an error
 * that says something. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "http/openai_request.h"
#include "http/openai_response.h"

static const struct openai_limits limits = {.vocabulary = 1000, .context_tokens = 128};

static void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

static void check_error(const struct openai_error *error)
{
    must(error->http_code == 400 || error->http_code == 503, "a code");
    must(error->message[0] != '\0', "a message");
    struct text text = text_open(1 << 16);
    openai_error_write(&text, error);
    json_t *json = json_loadb(text.data, text.bytes, JSON_ALLOW_NUL, NULL);
    must(json != NULL, "the error is JSON");
    json_decref(json);
    text_close(&text);
}

static void check_request(const struct openai_request *r)
{
    must(r->n >= 1 && r->n <= OPENAI_N_MAX, "n");
    must(r->temperature >= 0 && r->temperature <= 2, "temperature");
    must(r->top_p > 0 && r->top_p <= 1 && r->min_p >= 0 && r->min_p <= 1, "top_p, min_p");
    must(r->repetition_penalty > 0 && r->repetition_penalty <= 10, "repetition_penalty");
    must(r->max_tokens <= limits.context_tokens || r->max_tokens == OPENAI_TOKENS_REST, "max");
    must(r->min_tokens <= r->max_tokens, "min_tokens");
    must(r->stop_count <= OPENAI_STOPS_MAX, "stops");
    must(r->top_logprobs <= OPENAI_TOP_LOGPROBS_MAX, "top_logprobs");
    for (uint32_t i = 0; i < r->bias_count; i++)
        must(r->biases[i].token < limits.vocabulary, "bias");
    for (uint32_t i = 0; i < r->stop_token_count; i++)
        must(r->stop_tokens[i] < limits.vocabulary, "stop token");
    must(r->kind == OPENAI_CHAT || r->prompt_count > 0, "prompts");
    for (uint32_t i = 0; i < r->prompt_count; i++) {
        const struct openai_prompt *prompt = &r->prompts[i];
        must(prompt->token_count <= limits.context_tokens, "prompt tokens");
        must(text_utf8_valid(prompt->text.data, prompt->text.bytes), "prompt text");
        for (uint32_t k = 0; k < prompt->token_count; k++)
            must(prompt->tokens[k] < limits.vocabulary, "prompt token");
    }
    must(r->kind == OPENAI_COMPLETION || json_array_size(r->messages) > 0, "messages");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *body = (const char *)data;
    struct openai_request *request;
    struct openai_tokenize *tokenize;
    struct openai_detokenize *detokenize;
    struct openai_error error;

    if (openai_chat_parse(body, bytes, &limits, &request, &error) == OK) {
        check_request(request);
        openai_request_free(request);
    } else {
        check_error(&error);
    }
    if (openai_completion_parse(body, bytes, &limits, &request, &error) == OK) {
        check_request(request);
        openai_request_free(request);
    } else {
        check_error(&error);
    }
    if (openai_tokenize_parse(body, bytes, &limits, &tokenize, &error) == OK)
        openai_tokenize_free(tokenize);
    else
        check_error(&error);
    if (openai_detokenize_parse(body, bytes, &limits, &detokenize, &error) == OK)
        openai_detokenize_free(detokenize);
    else
        check_error(&error);

    struct text text = text_open(bytes * 6 + 16);
    text_json_string(&text, body, bytes);
    must(text_ok(&text) && text_utf8_valid(text.data, text.bytes), "an escaped text is UTF-8");
    text_close(&text);
    return 0;
}
