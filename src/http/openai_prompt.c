/* http/openai_prompt.c - what is to be continued: prompts as text or ids, chat messages. */
#include <stdio.h>
#include <string.h>

#include "http/openai_parse.h"
#include "http/text.h"

#define CONTENT_PARTS_MAX 1024

/* ---- prompts ---- */

static bool prompt_text(struct openai_parse *p, const char *param, const json_t *value,
                        struct openai_prompt *prompt)
{
    if (json_string_length(value) == 0)
        return parse_fail(p, param, "\"%s\": expected a text that is not empty", param);
    prompt->text = (struct openai_string){json_string_value(value), json_string_length(value)};
    return true;
}

static bool prompt_tokens(struct openai_parse *p, const char *param, const json_t *value,
                          struct openai_prompt *prompt)
{
    if (json_array_size(value) == 0)
        return parse_fail(p, param, "\"%s\": expected at least one token id, found an empty list",
                          param);
    size_t limit = p->limits->context_tokens > 0 ? p->limits->context_tokens : UINT32_MAX;
    return parse_tokens(p, param, value, limit, &prompt->tokens, &prompt->token_count);
}

bool prompt_parse(struct openai_parse *p, const char *name, json_t *value)
{
    json_t *first = json_array_get(value, 0); /* NULL unless a list with something in it */
    bool one = json_is_string(value) || json_is_integer(first);
    size_t count = one ? 1 : json_array_size(value);
    if (!one && !json_is_string(first) && !json_is_array(first))
        return parse_expected(p, name, value,
                              "a text, a list of texts, a list of token ids or a list of such "
                              "lists, not empty");
    if (count > OPENAI_PROMPTS_MAX)
        return parse_fail(p, name, "\"%s\": expected at most %d prompts, found %zu", name,
                          OPENAI_PROMPTS_MAX, count);
    struct openai_prompt *prompts = arena_take_array(p->arena, count, sizeof(*prompts));
    if (prompts == NULL)
        return parse_no_memory(p);
    for (size_t i = 0; i < count; i++) {
        char place[32];
        snprintf(place, sizeof(place), one ? "%s" : "%s[%zu]", name, i);
        json_t *prompt = one ? value : json_array_get(value, i);
        prompts[i].text.data = "";
        if (!one && json_typeof(prompt) != json_typeof(first))
            return parse_expected(p, place, prompt, "%s, as the first prompt is",
                                  json_is_string(first) ? "a text" : "a list of token ids");
        bool well = json_is_string(prompt) ? prompt_text(p, place, prompt, &prompts[i])
                                           : prompt_tokens(p, place, prompt, &prompts[i]);
        if (!well)
            return false;
    }
    p->values.generate.prompts = prompts;
    p->values.generate.prompt_count = (uint32_t)count;
    return true;
}

bool content_parse(struct openai_parse *p, const char *name, json_t *value)
{
    if (!json_is_string(value))
        return parse_expected(p, name, value, "a text");
    if (p->values.has_content)
        return parse_fail(p, name, "\"prompt\" and \"content\" in one request: expected one");
    p->values.has_content = true;
    p->values.content = (struct openai_string){json_string_value(value), json_string_length(value)};
    return true;
}

/* ---- messages ---- */

/* [{"type": "text", "text": "..."}, ...] joined by newlines; NULL: failed. */
static json_t *parts_join(struct openai_parse *p, const char *place, const json_t *parts)
{
    if (json_array_size(parts) == 0 || json_array_size(parts) > CONTENT_PARTS_MAX) {
        parse_expected(p, place, parts, "a text or a list of 1 to %d text parts",
                       CONTENT_PARTS_MAX);
        return NULL;
    }
    struct text joined = text_open(SIZE_MAX / 2);
    json_t *result = NULL;
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part)
    {
        char inner[80];
        snprintf(inner, sizeof(inner), "%s[%zu]", place, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *words = json_object_get(part, "text");
        if (type != NULL && strcmp(type, "text") != 0) {
            parse_fail(p, inner, "\"%s\": parts of type \"%.40s\" are not supported, only \"text\"",
                       inner, type);
            goto out;
        }
        if (type == NULL || !json_is_string(words) || json_object_size(part) != 2) {
            parse_expected(p, inner, part, "{\"type\": \"text\", \"text\": TEXT} and nothing else");
            goto out;
        }
        if (i > 0)
            text_put(&joined, "\n");
        text_add(&joined, json_string_value(words), json_string_length(words));
    }
    if (text_ok(&joined))
        result = json_stringn(joined.data, joined.bytes);
    if (result == NULL)
        parse_no_memory(p);
out:
    text_close(&joined);
    return result;
}

static bool role_known(const char *role)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(roles[i], role) == 0)
            return true;
    }
    return false;
}

static bool message_role(struct openai_parse *p, const char *place, const json_t *message,
                         json_t *to)
{
    char inner[64];
    snprintf(inner, sizeof(inner), "%s.role", place);
    json_t *role = json_object_get(message, "role");
    if (role == NULL)
        return parse_fail(p, inner, "\"%s\" is missing", inner);
    if (!json_is_string(role) || !role_known(json_string_value(role)))
        return parse_expected(p, inner, role,
                              "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
    return json_object_set(to, "role", role) == 0 || parse_no_memory(p);
}

static bool message_content(struct openai_parse *p, const char *place, const json_t *message,
                            json_t *to)
{
    char inner[64];
    snprintf(inner, sizeof(inner), "%s.content", place);
    json_t *content = json_object_get(message, "content");
    if (content == NULL || json_is_null(content))
        return parse_fail(p, inner, "\"%s\" is missing: expected a text or a list of text parts",
                          inner);
    if (json_is_array(content)) {
        json_t *joined = parts_join(p, inner, content);
        if (joined == NULL)
            return false;
        return json_object_set_new(to, "content", joined) == 0 || parse_no_memory(p);
    }
    if (!json_is_string(content))
        return parse_expected(p, inner, content, "a text or a list of text parts");
    return json_object_set(to, "content", content) == 0 || parse_no_memory(p);
}

/* The members besides role and content. */
static bool message_others(struct openai_parse *p, const char *place, json_t *message, json_t *to)
{
    const char *key;
    json_t *value;
    json_object_foreach(message, key, value)
    {
        char inner[112];
        snprintf(inner, sizeof(inner), "%s.%.40s", place, key);
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || json_is_null(value))
            continue;
        bool kept = strcmp(key, "name") == 0 || strcmp(key, "tool_call_id") == 0 ||
                    strcmp(key, "reasoning_content") == 0;
        bool empty_calls =
            strcmp(key, "tool_calls") == 0 && json_is_array(value) && json_array_size(value) == 0;
        if (empty_calls)
            continue;
        if (!kept)
            return parse_fail(p, inner, "\"%s\" is not supported by this server; leave it out",
                              inner);
        if (!json_is_string(value))
            return parse_expected(p, inner, value, "a text");
        if (json_object_set(to, key, value) != 0)
            return parse_no_memory(p);
    }
    return true;
}

bool messages_parse(struct openai_parse *p, const char *name, json_t *value)
{
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count == 0 || count > OPENAI_MESSAGES_MAX)
        return parse_expected(p, name, value, "a list of 1 to %d messages", OPENAI_MESSAGES_MAX);
    json_t *list = json_array();
    p->values.generate.messages = list; /* freed with the parse when this fails */
    if (list == NULL)
        return parse_no_memory(p);
    size_t i;
    json_t *message;
    json_array_foreach(value, i, message)
    {
        char place[32];
        snprintf(place, sizeof(place), "%s[%zu]", name, i);
        if (!json_is_object(message))
            return parse_expected(p, place, message, "an object with \"role\" and \"content\"");
        json_t *to = json_object();
        if (to == NULL || json_array_append_new(list, to) != 0)
            return parse_no_memory(p);
        if (!message_role(p, place, message, to) || !message_content(p, place, message, to) ||
            !message_others(p, place, message, to))
            return false;
    }
    return true;
}

bool template_kwargs_parse(struct openai_parse *p, const char *name, json_t *value)
{
    /* The template's own input, and what would replace the template, are not a client's to set. */
    static const char *const reserved[] = {
        "messages", "tools",     "documents", "add_generation_prompt", "chat_template",
        "tokenize", "bos_token", "eos_token", "continue_final_message"};
    if (!json_is_object(value) || json_object_size(value) > 64)
        return parse_expected(p, name, value, "an object of at most 64 values");
    for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        if (json_object_get(value, reserved[i]) != NULL) {
            char inner[64];
            snprintf(inner, sizeof(inner), "%s.%s", name, reserved[i]);
            return parse_fail(p, inner, "\"%s\" is not a client's to set; leave it out", inner);
        }
    }
    p->values.generate.template_kwargs = value;
    return true;
}
