/* Answers, parsed back by a JSON parser, and text that must survive the way. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "http/openai_response.h"

/* The text as JSON, which must be the whole of it. */
static json_t *parsed(const struct text *text, size_t from, size_t bytes)
{
    json_error_t error;
    assert_true(text_ok(text));
    json_t *json = json_loadb(text->data + from, bytes, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        fail_msg("%s in %s", error.text, text->data);
    return json;
}

/* One event: "data: JSON\n\n". */
static json_t *parsed_event(const struct text *text)
{
    assert_true(text->bytes > 8);
    assert_memory_equal(text->data, "data: ", 6);
    assert_string_equal(text->data + text->bytes - 2, "\n\n");
    return parsed(text, 6, text->bytes - 8);
}

static void expect(json_t *json, const char *want)
{
    json_error_t error;
    json_t *wanted = json_loads(want, JSON_DECODE_ANY, &error);
    if (wanted == NULL)
        fail_msg("the test's own JSON: %s", error.text);
    if (!json_equal(json, wanted)) {
        char *found = json_dumps(json, JSON_ENCODE_ANY);
        fail_msg("expected %s, found %s", want, found);
    }
    json_decref(wanted);
    json_decref(json);
}

static const struct openai_head chat_head = {OPENAI_CHAT, "chatcmpl-1", "m\"1", 1700000000, false};
static const struct openai_head completion_head = {OPENAI_COMPLETION, "cmpl-1", "m", 5, false};

static void chat_answer_has_every_member(void **state)
{
    (void)state;
    struct text text = text_open(1 << 20);
    struct openai_choice choices[2] = {
        {.index = 0, .text = "hi", .bytes = 2, .finish_reason = "stop"},
        {.index = 1, .text = "", .bytes = 0, .finish_reason = "length"},
    };
    struct openai_usage usage = {10, 3, 8};
    openai_answer_write(&text, &chat_head, choices, 2, &usage);
    expect(parsed(&text, 0, text.bytes),
           "{\"id\": \"chatcmpl-1\", \"object\": \"chat.completion\", \"created\": 1700000000,"
           "\"model\": \"m\\\"1\", \"choices\": ["
           "{\"index\": 0, \"message\": {\"role\": \"assistant\", \"content\": \"hi\","
           "\"refusal\": null}, \"logprobs\": null, \"finish_reason\": \"stop\"},"
           "{\"index\": 1, \"message\": {\"role\": \"assistant\", \"content\": \"\","
           "\"refusal\": null}, \"logprobs\": null, \"finish_reason\": \"length\"}],"
           "\"usage\": {\"prompt_tokens\": 10, \"completion_tokens\": 3, \"total_tokens\": 13,"
           "\"prompt_tokens_details\": {\"cached_tokens\": 8}}}");
    text_close(&text);
}

static void streams_open_with_the_role_and_close_with_usage(void **state)
{
    (void)state;
    struct text text = text_open(1 << 20);
    struct openai_head head = chat_head;
    head.include_usage = true;
    struct openai_choice choice = {.index = 2, .role = true};
    openai_chunk_write(&text, &head, &choice, NULL);
    expect(parsed_event(&text),
           "{\"id\": \"chatcmpl-1\", \"object\": \"chat.completion.chunk\", \"created\": "
           "1700000000, \"model\": \"m\\\"1\", \"choices\": [{\"index\": 2, \"delta\": {\"role\": "
           "\"assistant\", \"content\": \"\"}, \"logprobs\": null, \"finish_reason\": null}],"
           "\"usage\": null}");
    text_reset(&text);
    choice = (struct openai_choice){.text = "\n\n", .bytes = 2};
    openai_chunk_write(&text, &chat_head, &choice, NULL);
    expect(parsed_event(&text),
           "{\"id\": \"chatcmpl-1\", \"object\": \"chat.completion.chunk\", \"created\": "
           "1700000000, \"model\": \"m\\\"1\", \"choices\": [{\"index\": 0, \"delta\": "
           "{\"content\": \"\\n\\n\"}, \"logprobs\": null, \"finish_reason\": null}]}");
    text_reset(&text);
    choice = (struct openai_choice){.finish_reason = "stop"};
    openai_chunk_write(&text, &chat_head, &choice, NULL);
    json_t *json = parsed_event(&text);
    json_t *last = json_incref(json_array_get(json_object_get(json, "choices"), 0));
    json_decref(json);
    expect(last, "{\"index\": 0, \"delta\": {}, \"logprobs\": null, \"finish_reason\": \"stop\"}");
    text_reset(&text);
    struct openai_usage usage = {UINT32_MAX, UINT32_MAX, 0};
    openai_chunk_write(&text, &completion_head, NULL, &usage);
    expect(parsed_event(&text),
           "{\"id\": \"cmpl-1\", \"object\": \"text_completion\", \"created\": 5, \"model\": \"m\","
           "\"choices\": [], \"usage\": {\"prompt_tokens\": 4294967295, \"completion_tokens\": "
           "4294967295, \"total_tokens\": 8589934590, \"prompt_tokens_details\": "
           "{\"cached_tokens\": 0}}}");
    text_reset(&text);
    openai_done_write(&text);
    openai_ping_write(&text);
    assert_string_equal(text.data, "data: [DONE]\n\n: ping\n\n");
    text_close(&text);
}

static void logprobs_of_both_kinds(void **state)
{
    (void)state;
    struct text text = text_open(1 << 20);
    const struct openai_alternative top[] = {{"a", 1, -0.5f}, {"\xf0\x9f", 2, -1.25f}};
    const struct openai_alternative twins[] = {{"\xf0", 1, -1}, {"\x9f", 1, -2}, {"b", 1, -3}};
    const struct openai_token tokens[] = {
        {"x", 1, 0, false, NULL, 0, 0},
        {"a", 1, -0.5f, true, top, 2, 1},
        {"\xf0\x9f", 2, -INFINITY, true, twins, 3, 2},
        {"z", 1, -7, true, top, 2, 3}, /* chosen, and not among the likeliest */
        {"y", 1, -8, true, NULL, 0, 4},
    };
    struct openai_choice choice = {.text = "xa",
                                   .bytes = 2,
                                   .finish_reason = "length",
                                   .has_logprobs = true,
                                   .tokens = tokens + 1,
                                   .token_count = 1};
    openai_answer_write(&text, &chat_head, &choice, 1, NULL);
    json_t *json = parsed(&text, 0, text.bytes);
    json_t *first = json_array_get(json_object_get(json, "choices"), 0);
    json_t *logprobs = json_incref(json_object_get(first, "logprobs"));
    json_decref(json);
    expect(logprobs, "{\"content\": [{\"token\": \"a\", \"logprob\": -0.5, \"bytes\": [97],"
                     "\"top_logprobs\": [{\"token\": \"a\", \"logprob\": -0.5, \"bytes\": [97]},"
                     "{\"token\": \"\\ufffd\", \"logprob\": -1.25, \"bytes\": [240, 159]}]}],"
                     "\"refusal\": null}");
    text_reset(&text);
    choice.tokens = tokens;
    choice.token_count = 5;
    openai_answer_write(&text, &completion_head, &choice, 1, NULL);
    json = parsed(&text, 0, text.bytes);
    first = json_array_get(json_object_get(json, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(first, "text")), "xa");
    logprobs = json_incref(json_object_get(first, "logprobs"));
    json_decref(json);
    expect(logprobs, "{\"tokens\": [\"x\", \"a\", \"\\ufffd\", \"z\", \"y\"],"
                     "\"token_logprobs\": [null, -0.5, -9999.0, -7.0, -8.0], \"top_logprobs\": "
                     "[null, {\"a\": -0.5, \"\\ufffd\": -1.25},"
                     "{\"\\ufffd\": -1.0, \"b\": -3.0},"
                     "{\"a\": -0.5, \"\\ufffd\": -1.25, \"z\": -7.0}, {\"y\": -8.0}],"
                     "\"text_offset\": [0, 1, 2, 3, 4]}");
    text_close(&text);
}

static void any_bytes_become_valid_json(void **state)
{
    (void)state;
    struct text text = text_open(1 << 20);
    char all[512];
    for (int i = 0; i < 256; i++) {
        all[2 * i] = (char)i;
        all[2 * i + 1] = 'a';
    }
    struct openai_choice choice = {.text = all, .bytes = sizeof(all)};
    openai_answer_write(&text, &completion_head, &choice, 1, NULL);
    assert_null(memchr(text.data, '\n', text.bytes));
    assert_true(text_utf8_valid(text.data, text.bytes));
    json_error_t error;
    json_t *json = json_loadb(text.data, text.bytes, JSON_ALLOW_NUL, &error);
    assert_non_null(json);
    json_t *first = json_array_get(json_object_get(json, "choices"), 0);
    const char *back = json_string_value(json_object_get(first, "text"));
    assert_memory_equal(back, all, 256); /* ASCII as it was */
    assert_memory_equal(back + 256,
                        "\xef\xbf\xbd"
                        "a",
                        4);
    json_decref(json);

    static const struct {
        const char *in, *out;
    } cases[] = {
        {"\xe2\x82\xac", "\"\xe2\x82\xac\""},
        {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""},
        {"\xe2\x82", "\"\xef\xbf\xbd\""}, /* cut: one for what there is */
        {"\xe2\x82x", "\"\xef\xbf\xbdx\""},
        {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},                 /* overlong */
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* surrogate */
        {"\xf4\x90\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\"\\\n\r\t\x01\x7f", "\"\\\"\\\\\\n\\r\\t\\u0001\\u007f\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        text_reset(&text);
        text_json_string(&text, cases[i].in, strlen(cases[i].in));
        assert_string_equal(text.data, cases[i].out);
    }
    text_close(&text);
}

static void numbers_read_back_as_the_same_float(void **state)
{
    (void)state;
    struct text text = text_open(1 << 10);
    static const float values[] = {0.0f, -1.0f, -0.1f, -1.0e-7f, -123.456789f, 1.17549435e-38f};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        text_reset(&text);
        text_json_number(&text, (double)values[i]);
        json_t *json = json_loads(text.data, JSON_DECODE_ANY, NULL);
        assert_true(json_is_real(json));
        assert_true((float)json_real_value(json) == values[i]);
        json_decref(json);
    }
    text_reset(&text);
    text_json_number(&text, -0.1f);
    assert_string_equal(text.data, "-0.1");
    text_reset(&text);
    text_json_number(&text, NAN);
    assert_string_equal(text.data, "null");
    text_close(&text);
}

static void errors_name_what_is_wrong(void **state)
{
    (void)state;
    struct text text = text_open(1 << 12);
    struct openai_error error;
    openai_error_fill(&error, 400, "temperature", NULL, "expected %d\n\"x\"", 5);
    openai_error_write(&text, &error);
    expect(parsed(&text, 0, text.bytes),
           "{\"error\": {\"message\": \"expected 5\\n\\\"x\\\"\", \"type\": "
           "\"invalid_request_error\", \"param\": \"temperature\", \"code\": null}}");
    text_reset(&text);
    openai_error_fill(&error, 503, NULL, "worker_lost", "gone");
    openai_error_event_write(&text, &error);
    expect(parsed_event(&text),
           "{\"error\": {\"message\": \"gone\", \"type\": \"overloaded_error\","
           "\"param\": null, \"code\": \"worker_lost\"}}");
    /* A message longer than its field is cut, even inside a character. */
    char longer[2000];
    for (size_t i = 0; i + 2 < sizeof(longer); i += 2)
        memcpy(longer + i, "\xc3\xa9", 2);
    longer[sizeof(longer) - 2] = '\0';
    text_reset(&text);
    openai_error_fill(&error, 400, longer, NULL, "x%s", longer);
    openai_error_write(&text, &error);
    json_decref(parsed(&text, 0, text.bytes));
    text_close(&text);
}

static void the_small_answers(void **state)
{
    (void)state;
    struct text text = text_open(1 << 12);
    openai_models_write(&text, "m", 7, 2048);
    expect(
        parsed(&text, 0, text.bytes),
        "{\"object\": \"list\", \"data\": [{\"id\": \"m\", \"object\": \"model\", \"created\": 7,"
        "\"owned_by\": \"baton\", \"max_model_len\": 2048}]}");
    text_reset(&text);
    const uint32_t tokens[] = {5, 4294967295u};
    const char *pieces[] = {"a", "\xff"};
    const size_t bytes[] = {1, 1};
    openai_tokenize_write(&text, tokens, 2, 99, pieces, bytes);
    expect(parsed(&text, 0, text.bytes),
           "{\"count\": 2, \"max_model_len\": 99, \"tokens\": [5, 4294967295],"
           "\"token_strs\": [\"a\", \"\\ufffd\"]}");
    text_reset(&text);
    openai_tokenize_write(&text, NULL, 0, 99, NULL, NULL);
    expect(parsed(&text, 0, text.bytes), "{\"count\": 0, \"max_model_len\": 99, \"tokens\": []}");
    text_reset(&text);
    openai_detokenize_write(&text, "a\"b", 3);
    expect(parsed(&text, 0, text.bytes), "{\"prompt\": \"a\\\"b\", \"content\": \"a\\\"b\"}");
    text_reset(&text);
    struct openai_tokenizer_info info = {"bpe", NULL, 10, 20, -1, 2, true, "{{x}}", 5};
    openai_tokenizer_info_write(&text, &info);
    expect(parsed(&text, 0, text.bytes),
           "{\"tokenizer_class\": \"bpe\", \"pre_tokenizer\": null, \"vocab_size\": 10,"
           "\"model_max_length\": 20, \"bos_token_id\": null, \"eos_token_id\": 2,"
           "\"add_bos_token\": true, \"chat_template\": \"{{x}}\"}");
    char id[OPENAI_ID_BYTES];
    uint8_t random[16] = {0xab, 1};
    openai_id_write(OPENAI_CHAT, random, id);
    assert_string_equal(id, "chatcmpl-ab010000000000000000000000000000");
    text_close(&text);
}

static void text_is_bounded(void **state)
{
    (void)state;
    struct text text = text_open(10);
    text_put(&text, "0123456789");
    assert_true(text_ok(&text));
    text_add(&text, "x", 1);
    assert_false(text_ok(&text));
    text_put(&text, "");
    assert_false(text_ok(&text));
    assert_string_equal(text.data, "0123456789");
    text_reset(&text);
    assert_true(text_ok(&text));
    text_format(&text, "%d", 5);
    assert_string_equal(text.data, "5");
    text_format(&text, "%s", "much longer than ten bytes");
    assert_false(text_ok(&text));
    text_close(&text);
    text = text_open(5000);
    text_format(&text, "%01000d", 7);
    assert_int_equal(text.bytes, 1000);
    assert_int_equal(text.data[999], '7');
    text_close(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_answer_has_every_member),
        cmocka_unit_test(streams_open_with_the_role_and_close_with_usage),
        cmocka_unit_test(logprobs_of_both_kinds),
        cmocka_unit_test(any_bytes_become_valid_json),
        cmocka_unit_test(numbers_read_back_as_the_same_float),
        cmocka_unit_test(errors_name_what_is_wrong),
        cmocka_unit_test(the_small_answers),
        cmocka_unit_test(text_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
