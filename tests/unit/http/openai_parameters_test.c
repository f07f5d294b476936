/* Every parameter of a body: its types, its values at and beyond its limits, the bodies it may
 * stand in; what parameters say of each other; lists; what is not built. */
#include "unit/http/openai_rig.h"

#include "http/openai_parse.h"

/* What a row's parameter takes. */
#define B 1u  /* true, false */
#define I 2u  /* an integer */
#define R 4u  /* another number */
#define T 8u  /* a text */
#define L 16u /* a list */
#define O 32u /* an object */

#define CHAT PARSE_CHAT
#define COMPLETION PARSE_COMPLETION
#define GEN PARSE_GENERATE
#define TOKENIZE PARSE_TOKENIZE
#define DETOKENIZE PARSE_DETOKENIZE
#define MESSAGES (CHAT | TOKENIZE)
#define ALL (GEN | TOKENIZE | DETOKENIZE)

/* The values just inside and just outside. Those of other types are in no row: each is tried. */
struct row {
    const char *name;
    unsigned kinds; /* of body */
    unsigned types;
    size_t text_bytes_max; /* 0: no limit, or no text */
    const char *with;      /* what must stand beside it; NULL: nothing */
    const char *good[5];
    const char *bad[8];
};

/* clang-format off */
static const struct row rows[] = {
    {"model", ALL, T, 512, NULL, {"\"m\""}, {"\"\""}},
    {"prompt", COMPLETION, T | L, 0, NULL,
     {"\"a\"", "[\"a\", \"b\"]", "[1, 999]", "[[1], [2, 3]]"},
     {"\"\"", "[]", "[\"\"]", "[[]]", "[1000]", "[-1]", "[true]", "[1, \"a\"]"}},
    {"prompt", TOKENIZE, T, 0, NULL, {"\"a\"", "\"\""}, {NULL}},
    {"content", TOKENIZE, T, 0, NULL, {"\"a\"", "\"\""}, {NULL}},
    {"messages", MESSAGES, L, 0, NULL,
     {"[{\"role\": \"user\", \"content\": \"x\"}]"}, {"[]", "[5]", "[{}]"}},
    {"tokens", DETOKENIZE, L, 0, NULL,
     {"[]", "[0, 999]"}, {"[1000]", "[-1]", "[1.0]", "[\"1\"]", "[true]", "[[1]]"}},
    {"chat_template_kwargs", MESSAGES, O, 0, NULL,
     {"{}", "{\"enable_thinking\": false}"}, {"{\"chat_template\": \"x\"}", "{\"messages\": []}"}},
    {"add_generation_prompt", MESSAGES, B, 0, NULL, {"true", "false"}, {NULL}},
    {"add_special_tokens", GEN | TOKENIZE, B, 0, NULL, {"true", "false"}, {NULL}},
    {"return_token_strs", TOKENIZE, B, 0, NULL, {"true", "false"}, {NULL}},
    {"n", GEN, I, 0, NULL, {"1", "16"}, {"0", "17", "-1", "1.0", "99999999999"}},
    {"best_of", COMPLETION, I, 0, "\"n\": 16", {"16"}, {"0", "17", "-16", "1", "16.0"}},
    {"echo", COMPLETION, B, 0, NULL, {"true", "false"}, {NULL}},
    {"echo", CHAT, B, 0, NULL, {"false"}, {"true"}},
    {"max_tokens", CHAT, I, 0, NULL, {"1", "512"}, {"0", "513", "-1", "1.5", "4294967296"}},
    {"max_tokens", COMPLETION, I, 0, "\"echo\": true",
     {"0", "1", "512"}, {"513", "-1", "1.5", "4294967296"}},
    {"max_completion_tokens", CHAT, I, 0, NULL,
     {"1", "512"}, {"0", "513", "-1", "1.5", "4294967296"}},
    {"min_tokens", COMPLETION, I, 0, NULL, {"0", "1", "16"}, {"17", "-1", "0.5", "99999999"}},
    {"min_tokens", CHAT, I, 0, NULL, {"0", "1", "16777216"}, {"16777217", "-1", "0.5"}},
    {"ignore_eos", GEN, B, 0, NULL, {"true", "false"}, {NULL}},
    {"stream", GEN, B, 0, NULL, {"true", "false"}, {NULL}},
    {"stream_options", GEN, O, 0, "\"stream\": true",
     {"{}", "{\"include_usage\": true}", "{\"include_usage\": null}"},
     {"{\"include_usage\": 1}", "{\"other\": true}", "{\"other\": \"\"}"}},
    {"temperature", GEN, I | R, 0, NULL,
     {"0", "2", "0.5", "2.0"}, {"-0.001", "2.001", "-1", "3", "1e300"}},
    {"top_p", GEN, I | R, 0, NULL,
     {"1", "0.001", "1e-30"}, {"0", "-0.1", "1.001", "2", "1e-300"}},
    {"min_p", GEN, I | R, 0, NULL, {"0", "1", "0.05"}, {"-0.001", "1.001", "-1", "2"}},
    {"top_k", GEN, I, 0, NULL,
     {"-1", "0", "1", "2147483647"}, {"-2", "2147483648", "1.5", "1.0"}},
    {"frequency_penalty", GEN, I | R, 0, NULL, {"-2", "2", "0"}, {"-2.001", "2.001", "-3", "3"}},
    {"presence_penalty", GEN, I | R, 0, NULL, {"-2", "2", "0"}, {"-2.001", "2.001", "-3", "3"}},
    {"repetition_penalty", GEN, I | R, 0, NULL,
     {"0.01", "1", "10"}, {"0", "-1", "10.001", "11"}},
    {"seed", GEN, I, 0, NULL,
     {"0", "-1", "9223372036854775807", "-9223372036854775808"}, {"1.5", "1.0"}},
    {"logit_bias", GEN, O, 0, NULL,
     {"{}", "{\"0\": -100, \"999\": 100}", "{\"5\": 0.5}"},
     {"{\"0\": -100.1}", "{\"0\": 100.1}", "{\"1000\": 1}", "{\"x\": 1}", "{\"1\": true}"}},
    {"stop", GEN, T | L, 512, NULL,
     {"\"x\"", "[\"x\", \"y\"]", "[]"}, {"\"\"", "[\"\"]", "[5]", "[[\"x\"]]", "[null]"}},
    {"stop_token_ids", GEN, L, 0, NULL,
     {"[]", "[0, 999]"}, {"[1000]", "[-1]", "[1.0]", "[\"1\"]", "[true]"}},
    {"logprobs", CHAT, B, 0, NULL, {"true", "false"}, {NULL}},
    {"logprobs", COMPLETION, I, 0, NULL, {"0", "1", "20"}, {"-1", "21", "1.0"}},
    {"top_logprobs", CHAT, I, 0, "\"logprobs\": true", {"0", "1", "20"}, {"-1", "21", "1.0"}},
    {"priority", GEN, I, 0, NULL,
     {"-2147483648", "2147483647", "0"}, {"2147483648", "-2147483649", "0.5"}},
    {"cache_salt", GEN, T, 256, NULL, {"\"s\""}, {"\"\""}},
    {"user", GEN, T, 512, NULL, {"\"\"", "\"u\""}, {NULL}},
    {"metadata", GEN, O, 0, NULL,
     {"{}", "{\"a\": \"b\"}"}, {"{\"a\": 1}", "{\"a\": null}", "{\"a\": {}}"}},
    {"parallel_tool_calls", CHAT, B, 0, NULL, {"true", "false"}, {NULL}},
    /* Not built: only what asks for nothing. */
    {"tools", CHAT, L, 0, NULL, {"[]"}, {"[{\"type\": \"function\"}]"}},
    {"tool_choice", CHAT, T, 0, NULL, {"\"none\"", "\"auto\""}, {"\"required\"", "\"\""}},
    {"functions", CHAT, L, 0, NULL, {"[]"}, {"[{}]"}},
    {"function_call", CHAT, T, 0, NULL, {"\"none\"", "\"auto\""}, {"\"f\""}},
    {"response_format", GEN, O, 0, NULL,
     {"{\"type\": \"text\"}"}, {"{}", "{\"type\": \"json_object\"}"}},
    {"modalities", CHAT, L, 0, NULL, {"[\"text\"]"}, {"[]", "[\"audio\"]"}},
    {"documents", CHAT, L, 0, NULL, {"[]"}, {"[{}]"}},
    {"continue_final_message", MESSAGES, B, 0, NULL, {"false"}, {"true"}},
    {"service_tier", GEN, T, 0, NULL, {"\"auto\"", "\"default\""}, {"\"flex\""}},
    {"store", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"suffix", COMPLETION, T, 0, NULL, {"\"\""}, {"\"end\""}},
    {"use_beam_search", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"length_penalty", GEN, I | R, 0, NULL, {"1", "1.0"}, {"0", "2", "1.5"}},
    {"early_stopping", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"skip_special_tokens", GEN, B, 0, NULL, {"true"}, {"false"}},
    {"spaces_between_special_tokens", GEN, B, 0, NULL, {"true"}, {"false"}},
    {"include_stop_str_in_output", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"return_tokens_as_token_ids", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"return_token_ids", GEN, B, 0, NULL, {"false"}, {"true"}},
    {"bad_words", GEN, L, 0, NULL, {"[]"}, {"[\"x\"]"}},
    {"logits_processors", GEN, L, 0, NULL, {"[]"}, {"[\"x\"]"}},
    {"with_pieces", TOKENIZE, B, 0, NULL, {"false"}, {"true"}},
};
/* clang-format on */
#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

/* A value of each type. */
static const struct {
    unsigned type;
    const char *value;
} samples[] = {{B, "true"}, {I, "5"}, {R, "0.25"}, {T, "\"5\""}, {L, "[]"}, {O, "{}"}};

/* The body's own member of this kind: none where the parameter stands for it. */
static const char *body_base(unsigned kind, const char *name)
{
    static const char *const texts[] = {"prompt", "content", "messages", "tokens"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (strcmp(name, texts[i]) == 0)
            return "";
    }
    return kind == CHAT         ? "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], "
           : kind == DETOKENIZE ? "\"tokens\": [1], "
                                : "\"prompt\": \"hi\", ";
}

static status body_parse(unsigned kind, const char *body, struct openai_error *error)
{
    struct openai_request *request = NULL;
    struct openai_tokenize *tokenize = NULL;
    struct openai_detokenize *detokenize = NULL;
    size_t bytes = strlen(body);
    status st =
        kind == CHAT         ? openai_chat_parse(body, bytes, &limits, &request, error)
        : kind == COMPLETION ? openai_completion_parse(body, bytes, &limits, &request, error)
        : kind == TOKENIZE   ? openai_tokenize_parse(body, bytes, &limits, &tokenize, error)
                             : openai_detokenize_parse(body, bytes, &limits, &detokenize, error);
    openai_request_free(request);
    openai_tokenize_free(tokenize);
    openai_detokenize_free(detokenize);
    return st;
}

/* Whether a body of this kind with this value is taken; a refusal must name the parameter. */
static void value_try(unsigned kind, const char *name, const char *value, const char *with,
                      bool taken)
{
    char body[1024];
    struct openai_error error;
    snprintf(body, sizeof(body), "{%s\"%s\": %s%s%s}", body_base(kind, name), name, value,
             with != NULL ? ", " : "", with != NULL ? with : "");
    if ((body_parse(kind, body, &error) == OK) != taken)
        fail_msg("kind %u, %s: %s", kind, body, taken ? error.message : "accepted");
    if (taken)
        return;
    size_t bytes = strlen(name);
    char quoted[64];
    snprintf(quoted, sizeof(quoted), "\"%s", name);
    assert_int_equal(error.http_code, 400);
    /* The parameter or a part of it: stop, stop[1], stream_options.other. */
    if (strncmp(error.param, name, bytes) != 0 || strchr("[.", error.param[bytes]) == NULL ||
        strstr(error.message, quoted) == NULL)
        fail_msg("kind %u, %s: the error is about \"%s\": %s", kind, body, error.param,
                 error.message);
}

static void text_try(unsigned kind, const struct row *row)
{
    char text[700];
    assert_true(row->text_bytes_max + 4 <= sizeof(text));
    for (size_t more = 0; more < 2; more++) {
        size_t bytes = row->text_bytes_max + more;
        memset(text, 'x', sizeof(text));
        text[0] = '"';
        memcpy(text + 1 + bytes, "\"", 2);
        value_try(kind, row->name, text, row->with, more == 0);
    }
}

static void row_try(unsigned kind, const struct row *row)
{
    for (size_t i = 0; i < sizeof(row->good) / sizeof(row->good[0]) && row->good[i] != NULL; i++)
        value_try(kind, row->name, row->good[i], row->with, true);
    for (size_t i = 0; i < sizeof(row->bad) / sizeof(row->bad[0]) && row->bad[i] != NULL; i++)
        value_try(kind, row->name, row->bad[i], row->with, false);
    for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++) {
        if ((samples[i].type & row->types) == 0)
            value_try(kind, row->name, samples[i].value, row->with, false);
    }
    if (row->text_bytes_max != 0)
        text_try(kind, row);
    if (body_base(kind, row->name)[0] != '\0')
        value_try(kind, row->name, "null", row->with, true);
}

static void types_and_ranges_hold_at_their_limits(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        for (unsigned kind = CHAT; kind <= DETOKENIZE; kind <<= 1) {
            if ((rows[i].kinds & kind) != 0)
                row_try(kind, &rows[i]);
        }
    }
}

static unsigned row_kinds(const char *name)
{
    unsigned kinds = 0;
    for (size_t i = 0; i < ROW_COUNT; i++)
        kinds |= strcmp(rows[i].name, name) == 0 ? rows[i].kinds : 0u;
    return kinds;
}

/* A parameter that the parser learns needs a row here. */
static void every_parameter_has_its_rows(void **state)
{
    (void)state;
    const char *name;
    unsigned kinds = 0;
    size_t count = 0;
    for (; (name = parameters_at(count, &kinds)) != NULL; count++) {
        if ((kinds & ~row_kinds(name)) != 0)
            fail_msg("\"%s\" has no row for kinds %#x of body", name, kinds & ~row_kinds(name));
    }
    assert_true(count > 50);
}

/* Where a parameter has no meaning it is refused by name, as an unknown one is. */
static void a_parameter_of_another_body_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        for (unsigned kind = CHAT; kind <= DETOKENIZE; kind <<= 1) {
            if ((row_kinds(rows[i].name) & kind) == 0)
                value_try(kind, rows[i].name, rows[i].good[0], NULL, false);
        }
    }
}

static void parameters_agree_with_each_other(void **state)
{
    (void)state;
    refused(OPENAI_CHAT, "\"max_tokens\": 5, \"max_completion_tokens\": 6", "max_tokens", NULL);
    openai_request_free(accepted(OPENAI_CHAT, "\"max_tokens\": 5, \"max_completion_tokens\": 5"));
    refused(OPENAI_COMPLETION, "\"max_completion_tokens\": 5", "max_completion_tokens", NULL);
    refused(OPENAI_COMPLETION, "\"max_tokens\": 0", "max_tokens", "echo");
    openai_request_free(accepted(OPENAI_COMPLETION, "\"max_tokens\": 0, \"echo\": true"));
    refused(OPENAI_CHAT, "\"max_tokens\": 0", "max_tokens", NULL);
    both_refuse("\"max_tokens\": 5, \"min_tokens\": 6", "min_tokens");
    refused(OPENAI_COMPLETION, "\"best_of\": 2", "best_of", NULL);
    openai_request_free(accepted(OPENAI_COMPLETION, "\"best_of\": 1"));
    refused(OPENAI_CHAT, "\"top_logprobs\": 2", "top_logprobs", NULL);
    refused(OPENAI_CHAT, "\"logprobs\": true, \"top_logprobs\": 21", "top_logprobs", NULL);
    refused(OPENAI_CHAT, "\"logprobs\": 1", "logprobs", NULL);
    refused(OPENAI_COMPLETION, "\"logprobs\": true", "logprobs", NULL);
    refused(OPENAI_COMPLETION, "\"logprobs\": 21", "logprobs", NULL);
    refused(OPENAI_COMPLETION, "\"logprobs\": -1", "logprobs", NULL);
    refused(OPENAI_COMPLETION, "\"top_logprobs\": 1", "top_logprobs", NULL);
    both_refuse("\"stream_options\": {\"include_usage\": true}", "stream_options");
    both_refuse("\"stream\": true, \"stream_options\": {\"other\": true}", "stream_options.other");
    both_refuse("\"stream\": true, \"stream_options\": {\"include_usage\": 1}",
                "stream_options.include_usage");
    both_refuse("\"stream\": true, \"stream_options\": {\"continuous_usage_stats\": true}",
                "stream_options.continuous_usage_stats");
    both_accept("\"stream\": true, \"stream_options\": {\"continuous_usage_stats\": false}");
}

static void what_is_not_built_is_named(void **state)
{
    (void)state;
    static const char *const chat_only[] = {
        "tools",         "[{\"type\": \"function\"}]",
        "tool_choice",   "\"required\"",
        "functions",     "[{}]",
        "function_call", "\"f\"",
        "modalities",    "[\"audio\"]",
        "audio",         "{}",
        "prediction",    "{}",
        "documents",     "[{}]",
    };
    for (size_t i = 0; i < sizeof(chat_only) / sizeof(chat_only[0]); i += 2) {
        char members[200];
        snprintf(members, sizeof(members), "\"%s\": %s", chat_only[i], chat_only[i + 1]);
        refused(OPENAI_CHAT, members, chat_only[i], "leave it out");
    }
    both_refuse("\"response_format\": {\"type\": \"json_object\"}", "response_format");
    both_refuse("\"store\": true", "store");
    both_refuse("\"use_beam_search\": true", "use_beam_search");
    both_refuse("\"length_penalty\": 2.0", "length_penalty");
    both_refuse("\"skip_special_tokens\": false", "skip_special_tokens");
    both_refuse("\"guided_json\": {}", "guided_json");
    both_refuse("\"temprature\": 1", "temprature");
    both_refuse("\"Temperature\": 1", "Temperature");
    both_refuse("\"\": 1", NULL);
    refused(OPENAI_COMPLETION, "\"suffix\": \"end\"", "suffix", NULL);
    refused(OPENAI_COMPLETION, "\"messages\": []", "messages", NULL);
    refused(OPENAI_CHAT, "\"prompt\": \"x\"", "prompt", NULL);
    refused(OPENAI_CHAT, "\"echo\": true", "echo", NULL);
    /* The same where they ask for nothing. */
    openai_request_free(accepted(
        OPENAI_CHAT, "\"tools\": [], \"tool_choice\": \"none\", \"functions\": null, "
                     "\"response_format\": {\"type\": \"text\"}, \"store\": false, "
                     "\"parallel_tool_calls\": true, \"service_tier\": \"auto\", \"user\": \"u\", "
                     "\"modalities\": [\"text\"], \"metadata\": {\"k\": \"v\"}, \"unheard_of\": "
                     "null, \"length_penalty\": 1.0, \"echo\": false"));
    openai_request_free(accepted(OPENAI_COMPLETION, "\"suffix\": null, \"best_of\": null"));
    openai_request_free(accepted(OPENAI_COMPLETION, "\"suffix\": \"\", \"length_penalty\": 1"));
}

/* OPEN, then 0 .. count - 1, each as format has it, then close. */
static void list_fill(char *out, const char *open, const char *item, int count, const char *close)
{
    int at = sprintf(out, "%s", open);
    for (int i = 0; i < count; i++) {
        at += sprintf(out + at, "%s", i > 0 ? ", " : "");
        at += sprintf(out + at, item, i);
    }
    sprintf(out + at, "%s", close);
}

static void lists_are_bounded(void **state)
{
    (void)state;
    char members[65536];
    int at = snprintf(members, sizeof(members), "\"stop\": [\"s\"");
    for (int i = 1; i < OPENAI_STOPS_MAX; i++)
        at += snprintf(members + at, sizeof(members) - (size_t)at, ", \"s\"");
    snprintf(members + at, sizeof(members) - (size_t)at, "]");
    both_accept(members);
    snprintf(members + at, sizeof(members) - (size_t)at, ", \"s\"]");
    both_refuse(members, "stop");
    both_refuse("\"stop\": [\"a\", \"\"]", "stop[1]");
    both_refuse("\"stop\": [5]", "stop[0]");
    both_refuse("\"stop_token_ids\": [1, 1000]", "stop_token_ids[1]");
    both_refuse("\"stop_token_ids\": [-1]", "stop_token_ids[0]");
    both_refuse("\"stop_token_ids\": [1.0]", "stop_token_ids[0]");
    list_fill(members, "\"stop_token_ids\": [", "%d", OPENAI_STOP_TOKENS_MAX, "]");
    both_accept(members);
    list_fill(members, "\"stop_token_ids\": [", "%d", OPENAI_STOP_TOKENS_MAX + 1, "]");
    both_refuse(members, "stop_token_ids");
    list_fill(members, "\"metadata\": {", "\"%d\": \"\"", 16, "}");
    both_accept(members);
    list_fill(members, "\"metadata\": {", "\"%d\": \"\"", 17, "}");
    both_refuse(members, "metadata");

    at = snprintf(members, sizeof(members), "\"stop\": \"");
    memset(members + at, 's', OPENAI_STOP_BYTES_MAX);
    snprintf(members + at + OPENAI_STOP_BYTES_MAX, 10, "\"");
    both_accept(members);
    snprintf(members + at + OPENAI_STOP_BYTES_MAX, 10, "s\"");
    both_refuse(members, "stop");

    both_refuse("\"logit_bias\": {\"1000\": 1}", "logit_bias[\"1000\"]");
    both_refuse("\"logit_bias\": {\"-1\": 1}", "logit_bias[\"-1\"]");
    both_refuse("\"logit_bias\": {\"01\": 1}", "logit_bias[\"01\"]");
    both_refuse("\"logit_bias\": {\"+1\": 1}", "logit_bias[\"+1\"]");
    both_refuse("\"logit_bias\": {\"\": 1}", "logit_bias[\"\"]");
    both_refuse("\"logit_bias\": {\"x\": 1}", "logit_bias[\"x\"]");
    both_refuse("\"logit_bias\": {\"99999999999999999999\": 1}",
                "logit_bias[\"99999999999999999999\"]");
    both_refuse("\"logit_bias\": {\"1\": 101}", "logit_bias[\"1\"]");
    both_refuse("\"logit_bias\": {\"1\": -100.5}", "logit_bias[\"1\"]");
    both_refuse("\"logit_bias\": {\"1\": \"1\"}", "logit_bias[\"1\"]");
    at = snprintf(members, sizeof(members), "\"logit_bias\": {");
    for (int i = 0; i <= OPENAI_BIASES_MAX; i++)
        at += snprintf(members + at, sizeof(members) - (size_t)at, "%s\"%d\": 1", i ? ", " : "", i);
    snprintf(members + at, sizeof(members) - (size_t)at, "}");
    both_refuse(members, "logit_bias");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_and_ranges_hold_at_their_limits),
        cmocka_unit_test(every_parameter_has_its_rows),
        cmocka_unit_test(a_parameter_of_another_body_is_refused),
        cmocka_unit_test(parameters_agree_with_each_other),
        cmocka_unit_test(what_is_not_built_is_named),
        cmocka_unit_test(lists_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
