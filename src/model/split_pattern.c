#include "model/split_pattern.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/utf8.h"

/* All but PATTERN_SPACE, inside a class. */
#define PATTERN_NO_SPACE                                                                           \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"      \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"                 \
    "\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}"

/* What one byte of a pattern may become, and some. */
#define GROWTH 256u

struct translation {
    const char *at, *end;
    char *out;
    size_t written;
    bool in_class;
};

static void put(struct translation *t, const char *text, size_t bytes)
{
    memcpy(t->out + t->written, text, bytes);
    t->written += bytes;
}

static void put_text(struct translation *t, const char *text)
{
    put(t, text, strlen(text));
}

static status refuse(const char *construct, size_t bytes, const char *why)
{
    return error_set(ERR_UNSUPPORTED, "\"%.*s\" in a pattern is not supported%s", (int)bytes,
                     construct, why);
}

/* \s and \S, as a class or as a part of one. */
static void put_space(struct translation *t, bool negated)
{
    if (t->in_class)
        put_text(t, negated ? PATTERN_NO_SPACE : PATTERN_SPACE);
    else
        put_text(t, negated ? "[^" PATTERN_SPACE "]" : "[" PATTERN_SPACE "]");
}

/* \p{Name}, \P{Name}, \p{^Name} */
static status take_property(struct translation *t)
{
    const char *start = t->at, *at = t->at + 2;
    if (at >= t->end || *at != '{')
        return refuse(start, 2, " (supported: \\p{Name})");
    at++;
    while (at < t->end &&
           (*at == '^' || *at == '_' || (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z')))
        at++;
    if (at >= t->end || *at != '}' || at - start > 40)
        return refuse(start, 3, " (supported: \\p{Name})");
    at++;
    put(t, start, (size_t)(at - start));
    t->at = at;
    return OK;
}

static bool is_punctuation(char c)
{
    return c > 0x20 && c < 0x7f &&
           !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'));
}

/* at the backslash */
static status take_escape(struct translation *t)
{
    if (t->end - t->at < 2)
        return refuse(t->at, 1, "");
    char c = t->at[1];
    if (c == 'p' || c == 'P')
        return take_property(t);
    if (c == 's' || c == 'S')
        put_space(t, c == 'S');
    else if (c == 'd' || c == 'D')
        put_text(t, c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
    else if (c == 'v')
        put_text(t, "\\x{b}");
    else if (strchr("rntfae", c) != NULL || is_punctuation(c))
        put(t, t->at, 2);
    else
        return refuse(t->at, 2, "");
    t->at += 2;
    return OK;
}

/* at an opening parenthesis outside a class */
static status take_group(struct translation *t)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    size_t left = (size_t)(t->end - t->at);
    if (left > 1 && t->at[1] == '*')
        return refuse(t->at, 2, "");
    if (left < 2 || t->at[1] != '?') {
        put(t, t->at++, 1);
        return OK;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        size_t bytes = strlen(known[i]);
        if (left >= bytes && memcmp(t->at, known[i], bytes) == 0) {
            put(t, t->at, bytes);
            t->at += bytes;
            return OK;
        }
    }
    return refuse(t->at, left < 4 ? left : 4, "");
}

static status take_plain(struct translation *t)
{
    char c = *t->at, next = t->end - t->at > 1 ? t->at[1] : '\0';
    if (t->in_class && c == '[')
        return refuse(t->at, 1, " within a set");
    if (t->in_class && c == '&' && next == '&')
        return refuse(t->at, 2, " within a set");
    if (!t->in_class && (c == '^' || c == '$'))
        return refuse(t->at, 1, "");
    if (!t->in_class && c == '{' && next == ',')
        return refuse(t->at, 2, "");
    if (!t->in_class && c == '(')
        return take_group(t);
    if (!t->in_class && c == '[') {
        t->in_class = true;
        put(t, t->at++, 1);
        if (t->at < t->end && *t->at == '^')
            put(t, t->at++, 1);
        if (t->at < t->end && *t->at == ']')
            return refuse(t->at, 1, " at the start of a set");
        return OK;
    }
    if (t->in_class && c == ']')
        t->in_class = false;
    put(t, t->at++, 1);
    return OK;
}

status split_pattern_translate(const char *pattern, size_t bytes, char **translated_out)
{
    if (bytes == 0 || bytes > SPLIT_PATTERN_BYTES_MAX || memchr(pattern, '\0', bytes) != NULL)
        return error_set(ERR_BAD_INPUT,
                         "a pattern of %zu bytes (expected 1 to %u, and no NUL among them)", bytes,
                         SPLIT_PATTERN_BYTES_MAX);
    struct translation t = {.at = pattern, .end = pattern + bytes};
    t.out = malloc(bytes * GROWTH + 1);
    if (t.out == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a pattern");
    status code = OK;
    while (code == OK && t.at < t.end)
        code = *t.at == '\\' ? take_escape(&t) : take_plain(&t);
    if (code != OK) {
        free(t.out);
        return code;
    }
    t.out[t.written] = '\0';
    *translated_out = t.out;
    return OK;
}

status split_pattern_literal(const char *text, size_t bytes, char **pattern_out)
{
    const uint8_t *at = (const uint8_t *)text;
    if (bytes == 0 || bytes > SPLIT_PATTERN_BYTES_MAX)
        return error_set(ERR_BAD_INPUT, "a pattern of %zu bytes (expected 1 to %u)", bytes,
                         SPLIT_PATTERN_BYTES_MAX);
    char *out = malloc(bytes * 16 + 1);
    if (out == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a pattern");
    size_t written = 0;
    for (size_t i = 0; i < bytes;) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at + i, bytes - i, &kind);
        uint32_t point = kind == UTF8_WHOLE ? utf8_code_point(at + i, step) : 0xfffd;
        written += (size_t)snprintf(out + written, 16, "\\x{%x}", point);
        i += step;
    }
    out[written] = '\0';
    *pattern_out = out;
    return OK;
}
