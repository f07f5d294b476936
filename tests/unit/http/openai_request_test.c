/* Bodies to requests: defaults, values, prompts, messages, and bytes that are no request. Types and
 * ranges of the parameters are in openai_parameters_test.c. */
#include "unit/http/openai_rig.h"

static void defaults_are_those_of_the_api(void **state)
{
    (void)state;
    struct openai_request *r = accepted(OPENAI_CHAT, "");
    assert_int_equal(r->kind, OPENAI_CHAT);
    assert_null(r->model);
    assert_int_equal(r->n, 1);
    assert_int_equal(r->max_tokens, OPENAI_TOKENS_REST);
    assert_int_equal(r->min_tokens, 0);
    assert_true(r->temperature == 1 && r->top_p == 1 && r->min_p == 0 && r->top_k == 0);
    assert_true(r->frequency_penalty == 0 && r->presence_penalty == 0);
    assert_true(r->repetition_penalty == 1);
    assert_false(r->has_seed || r->stream || r->include_usage || r->ignore_eos || r->logprobs);
    assert_true(r->add_generation_prompt);
    assert_false(r->add_special_tokens);
    assert_int_equal(r->bias_count + r->stop_count + r->stop_token_count + r->top_logprobs, 0);
    assert_int_equal(r->cache_salt.bytes, 0);
    openai_request_free(r);
    r = accepted(OPENAI_COMPLETION, "");
    assert_int_equal(r->kind, OPENAI_COMPLETION);
    assert_int_equal(r->max_tokens, 16);
    assert_int_equal(r->prompt_count, 1);
    assert_string_equal(r->prompts[0].text.data, "hi");
    assert_true(r->add_special_tokens);
    assert_false(r->echo);
    openai_request_free(r);
}

static void values_arrive(void **state)
{
    (void)state;
    struct openai_request *r = accepted(
        OPENAI_COMPLETION,
        "\"model\": \"m\", \"n\": 3, \"max_tokens\": 7, \"min_tokens\": 2, \"temperature\": 0.25, "
        "\"top_p\": 0.5, \"top_k\": 40, \"min_p\": 0.125, \"frequency_penalty\": -1.5, "
        "\"presence_penalty\": 1.5, \"repetition_penalty\": 1.25, \"seed\": -2, \"stream\": true, "
        "\"stream_options\": {\"include_usage\": true}, \"stop\": [\"a\", \"\\u00e9\"], "
        "\"stop_token_ids\": [5, 6], \"logit_bias\": {\"7\": -100, \"8\": 1.5}, \"logprobs\": 5, "
        "\"echo\": true, \"ignore_eos\": true, \"priority\": -3, \"cache_salt\": \"salt\", "
        "\"user\": \"u1\", \"add_special_tokens\": false, \"best_of\": 3");
    assert_string_equal(r->model, "m");
    assert_int_equal(r->n, 3);
    assert_int_equal(r->max_tokens, 7);
    assert_int_equal(r->min_tokens, 2);
    assert_true(r->temperature == 0.25f && r->top_p == 0.5f && r->min_p == 0.125f);
    assert_int_equal(r->top_k, 40);
    assert_true(r->frequency_penalty == -1.5f && r->presence_penalty == 1.5f);
    assert_true(r->repetition_penalty == 1.25f);
    assert_true(r->has_seed && r->seed == UINT64_MAX - 1);
    assert_true(r->stream && r->include_usage && r->echo && r->ignore_eos && r->logprobs);
    assert_int_equal(r->top_logprobs, 5);
    assert_int_equal(r->stop_count, 2);
    assert_string_equal(r->stops[1].data, "\xc3\xa9");
    assert_int_equal(r->stops[1].bytes, 2);
    assert_int_equal(r->stop_token_count, 2);
    assert_int_equal(r->stop_tokens[1], 6);
    assert_int_equal(r->bias_count, 2);
    assert_int_equal(r->biases[0].token, 7);
    assert_true(r->biases[0].bias == -100 && r->biases[1].bias == 1.5f);
    assert_int_equal(r->priority, -3);
    assert_string_equal(r->cache_salt.data, "salt");
    assert_string_equal(r->user.data, "u1");
    assert_false(r->add_special_tokens);
    openai_request_free(r);
    r = accepted(OPENAI_CHAT, "\"top_k\": -1, \"max_completion_tokens\": 9, \"logprobs\": true, "
                              "\"top_logprobs\": 20, \"add_generation_prompt\": false, "
                              "\"chat_template_kwargs\": {\"enable_thinking\": false}");
    assert_int_equal(r->top_k, 0);
    assert_int_equal(r->max_tokens, 9);
    assert_int_equal(r->top_logprobs, 20);
    assert_false(r->add_generation_prompt);
    assert_true(json_is_false(json_object_get(r->template_kwargs, "enable_thinking")));
    openai_request_free(r);
}

static void prompt_refused(const char *body, const char *param)
{
    struct openai_request *request = NULL;
    struct openai_error error;
    if (openai_completion_parse(body, strlen(body), &limits, &request, &error) == OK)
        fail_msg("accepted: %s", body);
    if (strcmp(error.param, param) != 0)
        fail_msg("%.200s: expected param %s, found %s: %s", body, param, error.param,
                 error.message);
}

static struct openai_request *prompt_accepted(const char *body)
{
    struct openai_request *request = NULL;
    struct openai_error error;
    if (openai_completion_parse(body, strlen(body), &limits, &request, &error) != OK)
        fail_msg("%.200s: refused: %s", body, error.message);
    return request;
}

static void prompts_come_in_four_shapes(void **state)
{
    (void)state;
    struct openai_request *r = prompt_accepted("{\"prompt\": [\"a\", \"bc\"]}");
    assert_int_equal(r->prompt_count, 2);
    assert_string_equal(r->prompts[1].text.data, "bc");
    assert_null(r->prompts[1].tokens);
    openai_request_free(r);
    r = prompt_accepted("{\"prompt\": [1, 2, 999]}");
    assert_int_equal(r->prompt_count, 1);
    assert_int_equal(r->prompts[0].token_count, 3);
    assert_int_equal(r->prompts[0].tokens[2], 999);
    openai_request_free(r);
    r = prompt_accepted("{\"prompt\": [[1], [2, 3]]}");
    assert_int_equal(r->prompt_count, 2);
    assert_int_equal(r->prompts[1].token_count, 2);
    assert_int_equal(r->prompts[1].tokens[0], 2);
    openai_request_free(r);

    prompt_refused("{}", "prompt");
    prompt_refused("{\"prompt\": null}", "prompt");
    prompt_refused("{\"prompt\": \"\"}", "prompt");
    prompt_refused("{\"prompt\": []}", "prompt");
    prompt_refused("{\"prompt\": 5}", "prompt");
    prompt_refused("{\"prompt\": {}}", "prompt");
    prompt_refused("{\"prompt\": [null]}", "prompt");
    prompt_refused("{\"prompt\": [1.5]}", "prompt");
    prompt_refused("{\"prompt\": [\"a\", \"\"]}", "prompt[1]");
    prompt_refused("{\"prompt\": [\"a\", 1]}", "prompt[1]");
    prompt_refused("{\"prompt\": [\"a\", [1]]}", "prompt[1]");
    prompt_refused("{\"prompt\": [[1], \"a\"]}", "prompt[1]");
    prompt_refused("{\"prompt\": [[1], []]}", "prompt[1]");
    prompt_refused("{\"prompt\": [[1], [[2]]]}", "prompt[1][0]");
    prompt_refused("{\"prompt\": [1, \"a\"]}", "prompt[1]");
    prompt_refused("{\"prompt\": [1, 1000]}", "prompt[1]");
    prompt_refused("{\"prompt\": [1, -1]}", "prompt[1]");
    prompt_refused("{\"prompt\": [1, 4294967297]}", "prompt[1]");

    char body[8192];
    int at = snprintf(body, sizeof(body), "{\"prompt\": [1");
    for (int i = 1; i < 512; i++)
        at += snprintf(body + at, sizeof(body) - (size_t)at, ",1");
    snprintf(body + at, sizeof(body) - (size_t)at, "]}");
    openai_request_free(prompt_accepted(body));
    snprintf(body + at, sizeof(body) - (size_t)at, ",1]}");
    prompt_refused(body, "prompt"); /* one more than the context */

    at = snprintf(body, sizeof(body), "{\"prompt\": [\"p\"");
    for (int i = 1; i < OPENAI_PROMPTS_MAX; i++)
        at += snprintf(body + at, sizeof(body) - (size_t)at, ",\"p\"");
    snprintf(body + at, sizeof(body) - (size_t)at, "], \"n\": 2}");
    openai_request_free(prompt_accepted(body));
    snprintf(body + at, sizeof(body) - (size_t)at, "], \"n\": 3}");
    prompt_refused(body, "n"); /* 192 sequences */
    snprintf(body + at, sizeof(body) - (size_t)at, ",\"p\"]}");
    prompt_refused(body, "prompt");
}

static void chat_refused(const char *messages, const char *param)
{
    char body[4096];
    snprintf(body, sizeof(body), "{\"messages\": %s}", messages);
    struct openai_request *request = NULL;
    struct openai_error error;
    if (openai_chat_parse(body, strlen(body), &limits, &request, &error) == OK)
        fail_msg("accepted: %s", body);
    if (strcmp(error.param, param) != 0)
        fail_msg("%s: expected param %s, found %s: %s", body, param, error.param, error.message);
}

static void messages_are_normalised(void **state)
{
    (void)state;
    static const char body[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"be\"},"
        "{\"role\": \"user\", \"name\": \"ann\", \"content\": [{\"type\": \"text\", \"text\": "
        "\"a\"},"
        "{\"type\": \"text\", \"text\": \"b\"}]}, {\"role\": \"assistant\", \"content\": \"\","
        "\"refusal\": null, \"tool_calls\": []}]}";
    struct openai_request *r;
    struct openai_error error;
    assert_int_equal(openai_chat_parse(body, strlen(body), &limits, &r, &error), OK);
    json_t *want = json_loads("[{\"role\": \"system\", \"content\": \"be\"},"
                              "{\"role\": \"user\", \"name\": \"ann\", \"content\": \"a\\nb\"},"
                              "{\"role\": \"assistant\", \"content\": \"\"}]",
                              0, NULL);
    assert_true(json_equal(r->messages, want));
    json_decref(want);
    openai_request_free(r);

    chat_refused("null", "messages");
    chat_refused("[]", "messages");
    chat_refused("{}", "messages");
    chat_refused("\"hi\"", "messages");
    chat_refused("[\"hi\"]", "messages[0]");
    chat_refused("[{\"content\": \"x\"}]", "messages[0].role");
    chat_refused("[{\"role\": 5, \"content\": \"x\"}]", "messages[0].role");
    chat_refused("[{\"role\": \"king\", \"content\": \"x\"}]", "messages[0].role");
    chat_refused("[{\"role\": \"user\"}]", "messages[0].content");
    chat_refused("[{\"role\": \"user\", \"content\": null}]", "messages[0].content");
    chat_refused("[{\"role\": \"user\", \"content\": 5}]", "messages[0].content");
    chat_refused("[{\"role\": \"user\", \"content\": []}]", "messages[0].content");
    chat_refused("[{\"role\": \"user\", \"content\": [\"x\"]}]", "messages[0].content[0]");
    chat_refused("[{\"role\": \"user\", \"content\": [{\"type\": \"image_url\", \"image_url\": "
                 "{}}]}]",
                 "messages[0].content[0]");
    chat_refused("[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": 5}]}]",
                 "messages[0].content[0]");
    chat_refused("[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", "
                 "\"content\": \"\", \"tool_calls\": [{}]}]",
                 "messages[1].tool_calls");
    chat_refused("[{\"role\": \"user\", \"content\": \"x\", \"extra\": 1}]", "messages[0].extra");
    chat_refused("[{\"role\": \"user\", \"content\": \"x\", \"name\": 1}]", "messages[0].name");

    refused(OPENAI_CHAT, "\"chat_template_kwargs\": []", "chat_template_kwargs", NULL);
    refused(OPENAI_CHAT, "\"chat_template_kwargs\": {\"chat_template\": \"x\"}",
            "chat_template_kwargs.chat_template", NULL);
    refused(OPENAI_CHAT, "\"chat_template\": \"x\"", "chat_template", NULL);
}

static void bytes_that_are_no_request(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *words;
    } cases[] = {
        {"", "no body"},
        {"   ", "not valid JSON"},
        {"{", "not valid JSON"},
        {"{\"prompt\": \"a\"", "not valid JSON"},
        {"{\"prompt\": \"a\"} x", "not valid JSON"},
        {"{\"prompt\": 'a'}", "not valid JSON"},
        {"{\"prompt\": \"a\",}", "not valid JSON"},
        {"{\"prompt\": \"a\", \"n\": 01}", "not valid JSON"},
        {"{\"prompt\": \"a\", \"n\": NaN}", "not valid JSON"},
        {"{\"prompt\": \"a\", \"temperature\": 1e999}", "not valid JSON"},
        {"{\"prompt\": \"a\", \"seed\": 99999999999999999999}", "not valid JSON"},
        {"{\"prompt\": \"a\", \"prompt\": \"b\"}", "duplicate"},
        {"{\"prompt\": \"a\", \"logit_bias\": {\"1\": 1, \"1\": 2}}", "duplicate"},
        {"{\"prompt\": \"a\xff\"}", "UTF-8"},
        {"{\"prompt\": \"\xed\xa0\x80\"}", "UTF-8"},
        {"{\"prompt\": \"\xc0\x80\"}", "UTF-8"},
        {"{\"prompt\": \"\\ud800\"}", "not valid JSON"},
        {"{\"prompt\": \"a\\u0000b\"}", "NUL"},
        {"{\"prompt\": \"a\nb\"}", "not valid JSON"},
        {"[]", "expected a JSON object, found a list of 0"},
        {"\"hi\"", "expected a JSON object, found the text \"hi\""},
        {"5", "expected a JSON object, found 5"},
        {"null", "expected a JSON object, found null"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct openai_request *request;
        struct openai_error error;
        if (openai_completion_parse(cases[i].body, strlen(cases[i].body), &limits, &request,
                                    &error) == OK)
            fail_msg("accepted: %s", cases[i].body);
        assert_int_equal(error.http_code, 400);
        if (strstr(error.message, cases[i].words) == NULL)
            fail_msg("%s: expected \"%s\", found \"%s\"", cases[i].body, cases[i].words,
                     error.message);
    }
    struct openai_request *request;
    struct openai_error error;
    assert_int_not_equal(
        openai_completion_parse("{\"prompt\": \"a\0\"}", 16, &limits, &request, &error), OK);
}

static void deep_and_wide_bodies_are_refused_before_they_are_built(void **state)
{
    (void)state;
    size_t bytes = 4 << 20;
    char *body = malloc(bytes);
    assert_non_null(body);
    struct openai_request *request;
    struct openai_error error;

    memset(body, '[', bytes);
    assert_int_not_equal(openai_chat_parse(body, bytes, &limits, &request, &error), OK);
    assert_non_null(strstr(error.message, "nested deeper than 64"));

    memset(body, ' ', bytes);
    memcpy(body, "{\"x\":[", 6);
    for (size_t i = 6; i + 3 <= bytes; i += 3)
        memcpy(body + i, "{},", 3);
    assert_int_not_equal(openai_chat_parse(body, bytes, &limits, &request, &error), OK);
    assert_non_null(strstr(error.message, "too many values"));

    /* Brackets in a long text are neither. */
    memset(body, '[', bytes);
    memcpy(body, "{\"prompt\":\"", 11);
    memcpy(body + bytes - 2, "\"}", 2);
    assert_int_equal(openai_completion_parse(body, bytes, &limits, &request, &error), OK);
    assert_int_equal(request->prompts[0].text.bytes, bytes - 13);
    openai_request_free(request);
    free(body);
}

static void tokenize_and_detokenize(void **state)
{
    (void)state;
    struct openai_tokenize *t;
    struct openai_detokenize *d;
    struct openai_error error;
    static const struct {
        const char *body;
        const char *param; /* NULL: accepted */
    } cases[] = {
        {"{\"prompt\": \"hi\"}", NULL},
        {"{\"content\": \"\"}", NULL},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", NULL},
        {"{}", "prompt"},
        {"{\"prompt\": \"a\", \"content\": \"b\"}", "content"},
        {"{\"prompt\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "prompt"},
        {"{\"prompt\": [1]}", "prompt"},
        {"{\"prompt\": \"a\", \"n\": 1}", "n"},
        {"{\"prompt\": \"a\", \"add_special_tokens\": 1}", "add_special_tokens"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        status st =
            openai_tokenize_parse(cases[i].body, strlen(cases[i].body), &limits, &t, &error);
        if ((st == OK) != (cases[i].param == NULL))
            fail_msg("%s: %s", cases[i].body, st == OK ? "accepted" : error.message);
        if (st == OK)
            openai_tokenize_free(t);
        else
            assert_string_equal(error.param, cases[i].param);
    }
    static const char text[] = "{\"content\": \"hi\", \"return_token_strs\": true}";
    assert_int_equal(openai_tokenize_parse(text, strlen(text), &limits, &t, &error), OK);
    assert_string_equal(t->text.data, "hi");
    assert_true(t->add_special_tokens && t->return_token_strs);
    openai_tokenize_free(t);

    static const char ids[] = "{\"tokens\": [1, 999], \"model\": \"m\"}";
    assert_int_equal(openai_detokenize_parse(ids, strlen(ids), &limits, &d, &error), OK);
    assert_int_equal(d->token_count, 2);
    assert_int_equal(d->tokens[1], 999);
    openai_detokenize_free(d);
    static const char empty[] = "{\"tokens\": []}";
    assert_int_equal(openai_detokenize_parse(empty, strlen(empty), &limits, &d, &error), OK);
    openai_detokenize_free(d);
    static const char *const bad[] = {"{}", "{\"tokens\": \"x\"}", "{\"tokens\": [1000]}",
                                      "{\"tokens\": [-1]}", "{\"prompt\": \"x\"}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_not_equal(openai_detokenize_parse(bad[i], strlen(bad[i]), &limits, &d, &error),
                             OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_api),
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(prompts_come_in_four_shapes),
        cmocka_unit_test(messages_are_normalised),
        cmocka_unit_test(bytes_that_are_no_request),
        cmocka_unit_test(deep_and_wide_bodies_are_refused_before_they_are_built),
        cmocka_unit_test(tokenize_and_detokenize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
