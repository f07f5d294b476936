/* tests/unit/http/openai_rig.h - a body with some members, and what must become of it. */
#ifndef OPENAI_RIG_H
#define OPENAI_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "http/openai_request.h"

static const struct openai_limits limits = {.vocabulary = 1000, .context_tokens = 512};

/* {"prompt": "hi", MEMBERS}, or a chat. */
static inline status parse(enum openai_kind kind, const char *members,
                           struct openai_request **request_out, struct openai_error *error_out)
{
    size_t bytes = strlen(members) + 200;
    char *body = malloc(bytes);
    assert_non_null(body);
    const char *base = kind == OPENAI_CHAT
                           ? "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]"
                           : "\"prompt\": \"hi\"";
    int length = snprintf(body, bytes, "{%s%s%s}", base, members[0] != '\0' ? ", " : "", members);
    status st =
        kind == OPENAI_CHAT
            ? openai_chat_parse(body, (size_t)length, &limits, request_out, error_out)
            : openai_completion_parse(body, (size_t)length, &limits, request_out, error_out);
    memset(body, '#', bytes); /* a request must not point into the body */
    free(body);
    return st;
}

static inline struct openai_request *accepted(enum openai_kind kind, const char *members)
{
    struct openai_request *request = NULL;
    struct openai_error error;
    if (parse(kind, members, &request, &error) != OK)
        fail_msg("%s: refused: %s", members, error.message);
    return request;
}

/* The error names param (NULL: none) and its message holds words. */
static inline void refused(enum openai_kind kind, const char *members, const char *param,
                           const char *words)
{
    struct openai_request *request = NULL;
    struct openai_error error;
    if (parse(kind, members, &request, &error) == OK)
        fail_msg("%s: accepted", members);
    assert_int_equal(error.http_code, 400);
    assert_string_equal(error.type, "invalid_request_error");
    if (strcmp(error.param, param != NULL ? param : "") != 0 ||
        (words != NULL && strstr(error.message, words) == NULL))
        fail_msg("%s: expected param %s and \"%s\", found %s: %s", members,
                 param != NULL ? param : "", words != NULL ? words : "", error.param,
                 error.message);
    assert_string_equal(error_text(), error.message);
}

static inline void both_accept(const char *members)
{
    openai_request_free(accepted(OPENAI_CHAT, members));
    openai_request_free(accepted(OPENAI_COMPLETION, members));
}

static inline void both_refuse(const char *members, const char *param)
{
    refused(OPENAI_CHAT, members, param, NULL);
    refused(OPENAI_COMPLETION, members, param, NULL);
}

#endif
