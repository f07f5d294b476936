#include "http/openai_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "http/text.h"

#define BODY_DEPTH_MAX 64
/* A parsed value takes up to about 64 bytes and an object 300; a body may cost so many units of 64.
 */
#define BODY_WEIGHT_MAX ((size_t)1 << 20)
#define BODY_WEIGHT_NEST 5
#define ARENA_EXTRA_BYTES ((size_t)1 << 20)

bool parse_fail(struct openai_parse *p, const char *param, const char *format, ...)
{
    char message[sizeof(p->error->message)];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    openai_error_fill(p->error, 400, param, NULL, "%s", message);
    return false;
}

bool parse_no_memory(struct openai_parse *p)
{
    openai_error_fill(p->error, 503, NULL, NULL, "no memory for this request, try again");
    return false;
}

/* "3.5", "the text \"abc\"", "a list of 4", ... */
static void value_describe(const json_t *value, char *out, size_t out_bytes)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        snprintf(out, out_bytes, "an object");
        break;
    case JSON_ARRAY:
        snprintf(out, out_bytes, "a list of %zu", json_array_size(value));
        break;
    case JSON_STRING:
        if (json_string_length(value) <= 60)
            snprintf(out, out_bytes, "the text \"%s\"", json_string_value(value));
        else
            snprintf(out, out_bytes, "a text of %zu bytes", json_string_length(value));
        break;
    case JSON_INTEGER:
        snprintf(out, out_bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(out, out_bytes, "%g", json_real_value(value));
        break;
    case JSON_TRUE:
        snprintf(out, out_bytes, "true");
        break;
    case JSON_FALSE:
        snprintf(out, out_bytes, "false");
        break;
    case JSON_NULL:
        snprintf(out, out_bytes, "null");
        break;
    }
}

bool parse_expected(struct openai_parse *p, const char *param, const json_t *value,
                    const char *format, ...)
{
    char what[240];
    char found[120];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    value_describe(value, found, sizeof(found));
    return parse_fail(p, param, "\"%s\": expected %s, found %s", param, what, found);
}

/* Depth and memory of the values to come, before any of them is built: a body of 16 MB can hold
 * millions of empty lists. Strings are skipped; what is not JSON is left to the parser. */
static bool body_weigh(struct openai_parse *p, const char *body, size_t bytes)
{
    size_t depth = 0, weight = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = body[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            weight += BODY_WEIGHT_NEST;
            depth++;
            if (depth > BODY_DEPTH_MAX)
                return parse_fail(p, NULL, "the body is nested deeper than %d levels",
                                  BODY_DEPTH_MAX);
        } else if (c == ']' || c == '}') {
            depth -= depth > 0;
        } else if (c == ',') {
            weight++;
        }
    }
    if (weight > BODY_WEIGHT_MAX)
        return parse_fail(p, NULL, "the body holds too many values (%zu, at most %zu)", weight,
                          (size_t)BODY_WEIGHT_MAX);
    return true;
}

static bool body_load(struct openai_parse *p, const char *body, size_t bytes)
{
    if (bytes == 0)
        return parse_fail(p, NULL, "the request has no body: expected a JSON object");
    if (!body_weigh(p, body, bytes))
        return false;
    json_error_t error;
    p->root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (p->root == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return parse_no_memory(p);
        const char *why = error.text;
        if (json_error_code(&error) == json_error_null_character)
            why = "NUL characters (\\u0000) are not accepted";
        if (json_error_code(&error) == json_error_invalid_utf8)
            why = "a byte that is not UTF-8";
        return parse_fail(p, NULL, "the body is not valid JSON, at byte %d (line %d): %s",
                          error.position, error.line, why);
    }
    if (!json_is_object(p->root)) {
        char found[120];
        value_describe(p->root, found, sizeof(found));
        return parse_fail(p, NULL, "the body: expected a JSON object, found %s", found);
    }
    return true;
}

bool parse_open(struct openai_parse *p, enum parse_kinds kind, const char *body, size_t bytes,
                const struct openai_limits *limits, struct openai_error *error)
{
    memset(p, 0, sizeof(*p));
    p->kind = kind;
    p->limits = limits;
    p->error = error;
    if (!body_load(p, body, bytes))
        return false;
    /* A token id is at least two bytes of body and four of arena; the rest is bounded by tables. */
    if (arena_open(bytes * 4 + ARENA_EXTRA_BYTES, &p->arena) != OK)
        return parse_no_memory(p);
    return true;
}

void parse_close(struct openai_parse *p)
{
    json_decref(p->values.generate.messages);
    json_decref(p->root);
    arena_close(p->arena);
    p->values.generate.messages = NULL;
    p->root = NULL;
    p->arena = NULL;
}

bool parse_tokens(struct openai_parse *p, const char *param, const json_t *list, size_t count_max,
                  const uint32_t **tokens_out, uint32_t *count_out)
{
    size_t count = json_array_size(list);
    if (count > count_max)
        return parse_fail(p, param, "\"%s\": expected at most %zu token ids, found %zu", param,
                          count_max, count);
    uint32_t *tokens = arena_take_array(p->arena, count + 1, sizeof(*tokens));
    if (tokens == NULL)
        return parse_no_memory(p);
    json_int_t limit = p->limits->vocabulary > 0 ? p->limits->vocabulary : INT32_MAX;
    size_t i;
    json_t *value;
    json_array_foreach(list, i, value)
    {
        json_int_t token = json_integer_value(value);
        if (!json_is_integer(value) || token < 0 || token >= limit) {
            char place[120];
            snprintf(place, sizeof(place), "%s[%zu]", param, i);
            return parse_expected(p, place, value, "a token id from 0 to %lld",
                                  (long long)limit - 1);
        }
        tokens[i] = (uint32_t)token;
    }
    *tokens_out = tokens;
    *count_out = (uint32_t)count;
    return true;
}
