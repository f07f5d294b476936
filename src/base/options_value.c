#include "base/options_value.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct value_suffix {
    const char *name;
    double scale;
};

static const struct value_suffix byte_suffixes[] = {
    {"", 1.0},
    {"K", 1024.0},
    {"M", 1024.0 * 1024},
    {"G", 1024.0 * 1024 * 1024},
    {"T", 1024.0 * 1024 * 1024 * 1024},
};

static const struct value_suffix time_suffixes[] = {
    {"", 1000.0}, {"ms", 1.0}, {"s", 1000.0}, {"m", 60000.0}, {"h", 3600000.0},
};

static bool option_has_limits(const struct option_spec *spec)
{
    return spec->min != 0 || spec->max != 0;
}

static bool option_in_limits(const struct option_spec *spec, double value)
{
    return !option_has_limits(spec) || (value >= spec->min && value <= spec->max);
}

/* The largest unit that number is a whole multiple of: 65536 is "64K". */
static void print_scaled(double number, const struct value_suffix *suffixes, size_t count,
                         char *text, size_t text_bytes)
{
    const struct value_suffix *best = NULL;
    for (size_t i = 0; i < count; i++) {
        double units = number / suffixes[i].scale;
        if (units == floor(units) && (best == NULL || suffixes[i].scale > best->scale))
            best = &suffixes[i];
    }
    if (number == 0 || best == NULL)
        snprintf(text, text_bytes, "%.15g", number);
    else
        snprintf(text, text_bytes, "%.15g%s", number / best->scale,
                 best->scale == 1000.0 ? "s" : best->name);
}

static void print_limit(const struct option_spec *spec, double limit, char *text, size_t text_bytes)
{
    if (spec->type == OPTION_BYTES)
        print_scaled(limit, byte_suffixes, sizeof(byte_suffixes) / sizeof(byte_suffixes[0]), text,
                     text_bytes);
    else if (spec->type == OPTION_SECONDS)
        print_scaled(limit, time_suffixes, sizeof(time_suffixes) / sizeof(time_suffixes[0]), text,
                     text_bytes);
    else
        snprintf(text, text_bytes, "%.15g", limit);
}

void option_value_limits(const struct option_spec *spec, char *text, size_t text_bytes)
{
    char min[64];
    char max[64];
    text[0] = '\0';
    bool limited = spec->type == OPTION_UINT || spec->type == OPTION_BYTES ||
                   spec->type == OPTION_REAL || spec->type == OPTION_SECONDS;
    if (!limited || !option_has_limits(spec))
        return;
    print_limit(spec, spec->min, min, sizeof(min));
    print_limit(spec, spec->max, max, sizeof(max));
    snprintf(text, text_bytes, "%s to %s", min, max);
}

void option_value_expected(const struct option_spec *spec, char *text, size_t text_bytes)
{
    static const char *const kinds[] = {
        [OPTION_FLAG] = "yes or no",
        [OPTION_UINT] = "a whole number",
        [OPTION_BYTES] = "a number of bytes (as 512, 64K, 1.5G)",
        [OPTION_REAL] = "a number",
        [OPTION_SECONDS] = "a time (as 500ms, 2s, 1m, or seconds)",
        [OPTION_TEXT] = "text",
        [OPTION_TEXTS] = "text",
        [OPTION_CHOICE] = "one of",
    };
    char limits[160];
    option_value_limits(spec, limits, sizeof(limits));
    if (spec->type == OPTION_CHOICE)
        snprintf(text, text_bytes, "one of %s", spec->unit);
    else if (limits[0] != '\0')
        snprintf(text, text_bytes, "%s from %s", kinds[spec->type], limits);
    else
        snprintf(text, text_bytes, "%s", kinds[spec->type]);
}

static bool parse_flag(const char *text, bool *value_out)
{
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *value_out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

/* A decimal number at the start of text; strtod alone would also take "nan", "0x1p3" and spaces. */
static bool parse_decimal(const char *text, double *value_out, const char **end_out)
{
    size_t length = strspn(text, "+-0123456789.");
    if (length == 0 || strcspn(text, "0123456789") >= length)
        return false;
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return false;
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || errno == ERANGE || !isfinite(value))
        return false;
    *value_out = value;
    *end_out = end;
    return true;
}

static bool parse_uint(const char *text, uint32_t *value_out)
{
    if (text[0] < '0' || text[0] > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end != '\0' || errno == ERANGE || value > UINT32_MAX)
        return false;
    *value_out = (uint32_t)value;
    return true;
}

static bool parse_scaled(const char *text, const struct value_suffix *suffixes, size_t count,
                         uint64_t *value_out)
{
    double number;
    const char *end;
    if (!parse_decimal(text, &number, &end) || number < 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(end, suffixes[i].name) != 0)
            continue;
        double scaled = number * suffixes[i].scale;
        if (scaled >= 9223372036854775808.0) /* 2^63: far above any real limit */
            return false;
        *value_out = (uint64_t)llround(scaled);
        return true;
    }
    return false;
}

static bool parse_real(const char *text, double *value_out)
{
    const char *end;
    if (strcmp(text, "inf") == 0) {
        *value_out = INFINITY;
        return true;
    }
    return parse_decimal(text, value_out, &end) && *end == '\0';
}

static bool parse_choice(const char *words, const char *text, uint32_t *index_out)
{
    size_t length = strlen(text);
    uint32_t index = 0;
    for (const char *word = words; word != NULL; index++) {
        size_t word_bytes = strcspn(word, "|");
        if (word_bytes == length && strncmp(word, text, length) == 0) {
            *index_out = index;
            return true;
        }
        word = word[word_bytes] == '|' ? word + word_bytes + 1 : NULL;
    }
    return false;
}

const char *option_word(const char *words, uint32_t index, int *bytes_out)
{
    for (; index > 0; index--)
        words = strchr(words, '|') + 1;
    *bytes_out = (int)strcspn(words, "|");
    return words;
}

/* Parse and store; false when text is not of the type or not in the limits. */
static bool value_store(const struct option_spec *spec, const char *text, void *field)
{
    bool flag;
    uint32_t number;
    uint64_t wide;
    double real;
    switch (spec->type) {
    case OPTION_FLAG:
        if (!parse_flag(text, &flag))
            return false;
        *(bool *)field = flag;
        return true;
    case OPTION_UINT:
        if (!parse_uint(text, &number) || !option_in_limits(spec, number))
            return false;
        *(uint32_t *)field = number;
        return true;
    case OPTION_BYTES:
        if (!parse_scaled(text, byte_suffixes, sizeof(byte_suffixes) / sizeof(byte_suffixes[0]),
                          &wide) ||
            !option_in_limits(spec, (double)wide))
            return false;
        *(uint64_t *)field = wide;
        return true;
    case OPTION_SECONDS:
        if (!parse_scaled(text, time_suffixes, sizeof(time_suffixes) / sizeof(time_suffixes[0]),
                          &wide) ||
            !option_in_limits(spec, (double)wide))
            return false;
        *(uint64_t *)field = wide;
        return true;
    case OPTION_REAL:
        if (!parse_real(text, &real) || !option_in_limits(spec, real))
            return false;
        *(double *)field = real;
        return true;
    case OPTION_TEXT:
        *(const char **)field = text;
        return true;
    case OPTION_CHOICE:
        if (!parse_choice(spec->unit, text, &number))
            return false;
        *(uint32_t *)field = number;
        return true;
    case OPTION_TEXTS:
        break;
    }
    assert(false); /* OPTION_TEXTS is not a single value */
    return false;
}

status option_value_parse(const struct option_spec *spec, const char *text, void *options)
{
    if (value_store(spec, text, (char *)options + spec->offset))
        return OK;
    char expected[256];
    option_value_expected(spec, expected, sizeof(expected));
    return error_set(ERR_BAD_INPUT, "expected %s, found \"%s\"", expected, text);
}
