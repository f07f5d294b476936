#include "http/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_FIRST_BYTES 256

struct text text_open(size_t limit_bytes)
{
    return (struct text){.limit_bytes = limit_bytes};
}

void text_close(struct text *text)
{
    free(text->data);
    *text = (struct text){.limit_bytes = text->limit_bytes};
}

void text_reset(struct text *text)
{
    text->bytes = 0;
    text->failed = false;
    if (text->data != NULL)
        text->data[0] = '\0';
}

bool text_ok(const struct text *text)
{
    return !text->failed;
}

/* Room for bytes more and a NUL; NULL and failed when there is none. */
static char *text_room(struct text *text, size_t bytes)
{
    if (text->failed || bytes > text->limit_bytes - text->bytes) {
        text->failed = true;
        return NULL;
    }
    size_t need = text->bytes + bytes + 1;
    if (need > text->capacity_bytes) {
        size_t capacity = text->capacity_bytes > 0 ? text->capacity_bytes : TEXT_FIRST_BYTES;
        while (capacity < need)
            capacity *= 2;
        char *data = realloc(text->data, capacity);
        if (data == NULL) {
            text->failed = true;
            return NULL;
        }
        text->data = data;
        text->capacity_bytes = capacity;
    }
    return text->data + text->bytes;
}

void text_add(struct text *text, const char *data, size_t bytes)
{
    char *at = text_room(text, bytes);
    if (at == NULL)
        return;
    if (bytes > 0)
        memcpy(at, data, bytes);
    text->bytes += bytes;
    text->data[text->bytes] = '\0';
}

void text_put(struct text *text, const char *word)
{
    text_add(text, word, strlen(word));
}

void text_format(struct text *text, const char *format, ...)
{
    char small[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(small, sizeof(small), format, args);
    va_end(args);
    if (length < 0) {
        text->failed = true;
        return;
    }
    if ((size_t)length < sizeof(small)) {
        text_add(text, small, (size_t)length);
        return;
    }
    char *at = text_room(text, (size_t)length);
    if (at == NULL)
        return;
    va_start(args, format);
    vsnprintf(at, (size_t)length + 1, format, args);
    va_end(args);
    text->bytes += (size_t)length;
}

/* Bytes of the character that first begins, and the bounds of its second byte; 0: cannot begin one.
 * The bounds are what keeps overlong forms, surrogates and values above U+10FFFF out. */
static size_t utf8_expect(unsigned char first, unsigned char *low_out, unsigned char *high_out)
{
    *low_out = 0x80;
    *high_out = 0xbf;
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return 0;
    if (first < 0xe0)
        return 2;
    if (first < 0xf0) {
        if (first == 0xe0)
            *low_out = 0xa0;
        if (first == 0xed)
            *high_out = 0x9f;
        return 3;
    }
    if (first == 0xf0)
        *low_out = 0x90;
    if (first == 0xf4)
        *high_out = 0x8f;
    return 4;
}

/* How many bytes at data are a character, or (well_out false) an invalid start that one U+FFFD
 * stands for: at least 1. bytes > 0. */
static size_t utf8_step(const char *data, size_t bytes, bool *well_out)
{
    const unsigned char *b = (const unsigned char *)data;
    unsigned char low, high;
    size_t expect = utf8_expect(b[0], &low, &high);
    *well_out = false;
    if (expect == 0)
        return 1;
    for (size_t i = 1; i < expect; i++) {
        if (i >= bytes || b[i] < low || b[i] > high)
            return i;
        low = 0x80;
        high = 0xbf;
    }
    *well_out = true;
    return expect;
}

size_t text_utf8_length(const char *data, size_t bytes)
{
    bool well;
    if (bytes == 0)
        return 0;
    size_t step = utf8_step(data, bytes, &well);
    return well ? step : 0;
}

bool text_utf8_valid(const char *data, size_t bytes)
{
    size_t at = 0;
    while (at < bytes) {
        bool well;
        at += utf8_step(data + at, bytes - at, &well);
        if (!well)
            return false;
    }
    return true;
}

static void text_json_escape(struct text *text, unsigned char c)
{
    switch (c) {
    case '"':
        text_put(text, "\\\"");
        break;
    case '\\':
        text_put(text, "\\\\");
        break;
    case '\n':
        text_put(text, "\\n");
        break;
    case '\r':
        text_put(text, "\\r");
        break;
    case '\t':
        text_put(text, "\\t");
        break;
    default:
        text_format(text, "\\u%04x", c);
    }
}

void text_json_string(struct text *text, const char *data, size_t bytes)
{
    text_add(text, "\"", 1);
    size_t plain_from = 0;
    size_t at = 0;
    while (at < bytes && !text->failed) {
        unsigned char c = (unsigned char)data[at];
        bool well = true;
        size_t step = 1;
        bool escape = c < 0x20 || c == '"' || c == '\\' || c == 0x7f;
        if (c >= 0x80)
            step = utf8_step(data + at, bytes - at, &well);
        if (escape || !well) {
            text_add(text, data + plain_from, at - plain_from);
            if (escape)
                text_json_escape(text, c);
            else
                text_put(text, "\xef\xbf\xbd");
            plain_from = at + step;
        }
        at += step;
    }
    if (at > plain_from)
        text_add(text, data + plain_from, at - plain_from);
    text_add(text, "\"", 1);
}

void text_json_number(struct text *text, double value)
{
    if (isnan(value) || (isinf(value) && value > 0)) {
        text_put(text, "null");
        return;
    }
    if (isinf(value)) {
        text_put(text, "-9999.0");
        return;
    }
    char digits[40];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if ((float)strtod(digits, NULL) == (float)value)
            break;
    }
    text_put(text, digits);
    if (strpbrk(digits, ".e") == NULL)
        text_put(text, ".0");
}
