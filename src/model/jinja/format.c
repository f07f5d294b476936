/* The two ways of Python to put values into text: "%s" % x, and "{}".format(x). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/jinja/methods.h"
#include "model/jinja/number.h"

#define WIDTH_MAX 1000

struct directive {
    bool left, zero, plus, space, alternate;
    int width, precision; /* -1: not given */
    char conversion;
};

/* Where the values of a % come from. */
struct source {
    const struct list *list;  /* positional */
    const struct dict *names; /* by name */
    size_t at;
};

static struct value source_next(struct machine *m, struct source *source)
{
    if (source->at >= source->list->count)
        machine_fail(m, ERR_BAD_INPUT, "not enough arguments for format string");
    return source->list->items[source->at++];
}

/* A width or precision: digits, or '*' for the next value. */
static int read_size(struct machine *m, const struct text *format, size_t *at,
                     struct source *source)
{
    int64_t size = 0;
    if (*at < format->bytes && format->data[*at] == '*') {
        struct value value = source_next(m, source);
        if (!value_is_integer(value))
            machine_fail(m, ERR_BAD_INPUT, "* wants int");
        size = value_integer(value);
        ++*at;
    }
    while (*at < format->bytes && format->data[*at] >= '0' && format->data[*at] <= '9' &&
           size <= WIDTH_MAX)
        size = size * 10 + (format->data[(*at)++] - '0');
    if (size > WIDTH_MAX || size < -WIDTH_MAX)
        machine_fail(m, ERR_UNSUPPORTED, "a format width beyond %d is not built", WIDTH_MAX);
    return (int)size;
}

static struct directive read_directive(struct machine *m, const struct text *format, size_t *at,
                                       struct source *source)
{
    struct directive d = {.width = -1, .precision = -1};
    for (; *at < format->bytes && strchr("-0+ #", format->data[*at]) != NULL &&
           format->data[*at] != '\0';
         ++*at) {
        char flag = format->data[*at];
        d.left |= flag == '-';
        d.zero |= flag == '0';
        d.plus |= flag == '+';
        d.space |= flag == ' ';
        d.alternate |= flag == '#';
    }
    d.width = read_size(m, format, at, source);
    if (d.width < 0) {
        d.left = true;
        d.width = -d.width;
    }
    if (*at < format->bytes && format->data[*at] == '.') {
        ++*at;
        d.precision = read_size(m, format, at, source);
        d.precision = d.precision < 0 ? 0 : d.precision;
    }
    while (*at < format->bytes && format->data[*at] != '\0' &&
           strchr("hlL", format->data[*at]) != NULL)
        ++*at;
    if (*at >= format->bytes)
        machine_fail(m, ERR_BAD_INPUT, "incomplete format");
    d.conversion = format->data[(*at)++];
    return d;
}

static void pad_write(struct machine *m, const struct directive *d, const struct text *text)
{
    size_t missing = (size_t)d->width > text->points ? (size_t)d->width - text->points : 0;
    for (size_t i = 0; !d->left && i < missing; i++)
        output_write(m, " ", 1);
    output_write(m, text->data, text->bytes);
    for (size_t i = 0; d->left && i < missing; i++)
        output_write(m, " ", 1);
}

/* printf's directive for a number, with the flags of d. */
static void number_directive(const struct directive *d, const char *conversion, char to[40])
{
    char precision[16] = "";
    if (d->precision >= 0)
        snprintf(precision, sizeof(precision), ".%d", d->precision);
    snprintf(to, 40, "%%%s%s%s%s%s%d%s%s", d->left ? "-" : "", d->zero ? "0" : "",
             d->plus ? "+" : "", d->space ? " " : "", d->alternate ? "#" : "", d->width, precision,
             conversion);
    if (d->width == 0)
        snprintf(to, 40, "%%%s%s%s%s%s%s%s", d->left ? "-" : "", d->zero ? "0" : "",
                 d->plus ? "+" : "", d->space ? " " : "", d->alternate ? "#" : "", precision,
                 conversion);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"

static void integer_write(struct machine *m, const struct directive *d, struct value value)
{
    char directive[40], text[2 * WIDTH_MAX + 100];
    bool decimal = d->conversion == 'd' || d->conversion == 'i' || d->conversion == 'u';
    if (value.kind == VALUE_FLOAT && decimal)
        value = value_int(real_truncate(m, value.as.real));
    if (!value_is_integer(value))
        machine_fail(m, ERR_BAD_INPUT, "%%%c format: a number is required, not %s", d->conversion,
                     value_type(value));
    int64_t integer = value_integer(value);
    if (!decimal && (integer < 0 || d->alternate || d->precision >= 0 || d->plus || d->space))
        machine_fail(m, ERR_UNSUPPORTED, "%%%c with a sign, '#' or precision is not built",
                     d->conversion);
    if (d->precision >= 0 && d->zero)
        machine_fail(m, ERR_UNSUPPORTED, "a number's zero padding with precision is not built");
    const char *conversion = d->conversion == 'x'   ? PRIx64
                             : d->conversion == 'X' ? PRIX64
                             : d->conversion == 'o' ? PRIo64
                                                    : PRId64;
    number_directive(d, conversion, directive);
    int bytes = snprintf(text, sizeof(text), directive, integer);
    output_write(m, text, (size_t)bytes);
}

static void real_write(struct machine *m, const struct directive *d, struct value value)
{
    char directive[40], text[2 * WIDTH_MAX + 400];
    char conversion[2] = {d->conversion, '\0'};
    if (!value_is_number(value))
        machine_fail(m, ERR_BAD_INPUT, "must be real number, not %s", value_type(value));
    if (!isfinite(value_real(value)) && d->zero)
        machine_fail(m, ERR_UNSUPPORTED, "zero padding of nan and inf is not built");
    number_directive(d, conversion, directive);
    int bytes = snprintf(text, sizeof(text), directive, value_real(value));
    output_write(m, text, (size_t)bytes);
}

#pragma GCC diagnostic pop

static void text_write(struct machine *m, const struct directive *d, struct value value)
{
    const struct text *text;
    char point[4];
    if (d->conversion == 'c' && value.kind == VALUE_TEXT && value.as.text->points == 1)
        text = value.as.text;
    else if (d->conversion == 'c' && value_is_integer(value) && value_integer(value) >= 0 &&
             value_integer(value) <= 0x10ffff && value_integer(value) >> 11 != 0x1b)
        text = text_copy(m, point, text_append(point, (uint32_t)value_integer(value)));
    else if (d->conversion == 'c')
        machine_fail(m, ERR_BAD_INPUT, "%%c requires int or char");
    else
        text = d->conversion == 'r' ? value_repr(m, value) : value_to_text(m, value);
    if (d->precision >= 0 && d->conversion != 'c')
        text = text_piece(m, text, 0, text_offset(m, text, (size_t)d->precision));
    pad_write(m, d, text);
}

/* "(name)" after a %: the value of that name. */
static struct value read_named(struct machine *m, const struct text *format, size_t *at,
                               const struct source *source)
{
    size_t from = ++*at;
    for (uint32_t depth = 1; *at < format->bytes; ++*at) {
        depth += format->data[*at] == '(';
        depth -= format->data[*at] == ')';
        if (depth == 0)
            break;
    }
    if (*at >= format->bytes)
        machine_fail(m, ERR_BAD_INPUT, "incomplete format key");
    if (source->names == NULL)
        machine_fail(m, ERR_BAD_INPUT, "format requires a mapping");
    const struct text *name = text_copy(m, format->data + from, *at - from);
    const struct value *found = dict_get_text(m, source->names, name);
    if (found == NULL)
        machine_fail(m, ERR_BAD_INPUT, "the format names a key that is not there");
    ++*at;
    return *found;
}

static void directive_write(struct machine *m, const struct text *format, size_t *at,
                            struct source *source)
{
    bool named = *at < format->bytes && format->data[*at] == '(';
    struct value value = named ? read_named(m, format, at, source) : value_none();
    struct directive d = read_directive(m, format, at, source);
    if (d.conversion == '%') {
        output_write(m, "%", 1);
        return;
    }
    if (!named)
        value = source_next(m, source);
    if (value.kind == VALUE_UNDEFINED && strchr("sra", d.conversion) == NULL)
        value_fail_undefined(m, value);
    if (d.conversion == 's' || d.conversion == 'r' || d.conversion == 'c')
        text_write(m, &d, value);
    else if (d.conversion != '\0' && strchr("diuxXo", d.conversion) != NULL)
        integer_write(m, &d, value);
    else if (d.conversion != '\0' && strchr("eEfFgG", d.conversion) != NULL)
        real_write(m, &d, value);
    else
        machine_fail(m, ERR_BAD_INPUT, "unsupported format character");
}

struct value text_percent(struct machine *m, const struct text *format, struct value arguments)
{
    struct source source = {0};
    bool tuple = arguments.kind == VALUE_TUPLE;
    struct value *one = machine_take(m, sizeof(*one));
    *one = arguments;
    source.list = tuple ? arguments.as.list : value_tuple(m, one, 1).as.list;
    source.names = arguments.kind == VALUE_DICT ? arguments.as.dict : NULL;
    if (format->markup)
        machine_fail(m, ERR_UNSUPPORTED, "formatting of a text marked safe is not built");
    size_t from = m->output.used, kept = 0;
    machine_spend(m, format->bytes / 16);
    for (size_t at = 0; at < format->bytes;) {
        if (format->data[at] != '%') {
            at++;
            continue;
        }
        output_write(m, format->data + kept, at - kept);
        at++;
        directive_write(m, format, &at, &source);
        kept = at;
    }
    output_write(m, format->data + kept, format->bytes - kept);
    /* One value that can be indexed may stay unused, as in Python. */
    bool may_stay = !tuple && (source.names != NULL || arguments.kind == VALUE_LIST ||
                               arguments.kind == VALUE_RANGE || arguments.kind == VALUE_UNDEFINED);
    if (source.at < source.list->count && !may_stay)
        machine_fail(m, ERR_BAD_INPUT, "not all arguments converted during string formatting");
    return value_text(output_cut(m, from));
}

/* The value of a field's name: nothing, an index or a keyword. */
static struct value field_value(struct machine *m, const struct text *name, const struct call *call,
                                size_t *next)
{
    size_t index = *next;
    bool digits = true;
    for (size_t i = 0; i < name->bytes; i++)
        digits &= name->data[i] >= '0' && name->data[i] <= '9';
    if (name->bytes == 0) {
        ++*next;
    } else if (digits) {
        int64_t given;
        if (!integer_parse(m, name, 10, &given))
            machine_fail(m, ERR_BAD_INPUT, "format: a broken index");
        index = (size_t)given;
    } else {
        for (size_t i = 0; i < call->keyword_count; i++)
            if (text_equal(call->keywords[i].name, name))
                return call->keywords[i].value;
        machine_fail(m, ERR_BAD_INPUT, "format: no argument of that name");
    }
    if (index >= call->count)
        machine_fail(m, ERR_BAD_INPUT, "format: replacement index %zu out of range", index);
    return call->values[index];
}

/* A field from after its { to after its }. */
static void field_write(struct machine *m, const struct text *format, size_t *at,
                        const struct call *call, size_t *next)
{
    size_t from = *at;
    while (*at < format->bytes && format->data[*at] != '}')
        ++*at;
    if (*at == format->bytes)
        machine_fail(m, ERR_BAD_INPUT, "format: expected '}' before end of string");
    const struct text *name = text_copy(m, format->data + from, *at - from);
    if (strpbrk(name->data, ".[!:{") != NULL)
        machine_fail(m, ERR_UNSUPPORTED,
                     "format fields with attributes, conversions or formats are not built");
    ++*at;
    value_print(m, field_value(m, name, call, next));
}

struct value text_format_fields(struct render *r, const struct text *format,
                                const struct call *call)
{
    struct machine *m = r->m;
    size_t from = m->output.used, next = 0;
    if (format->markup)
        machine_fail(m, ERR_UNSUPPORTED, "formatting of a text marked safe is not built");
    machine_spend(m, format->bytes / 8);
    for (size_t at = 0; at < format->bytes;) {
        char c = format->data[at];
        bool twice = at + 1 < format->bytes && format->data[at + 1] == c;
        if ((c == '{' || c == '}') && twice) {
            output_write(m, &c, 1);
            at += 2;
        } else if (c == '{') {
            at++;
            field_write(m, format, &at, call, &next);
        } else if (c == '}') {
            machine_fail(m, ERR_BAD_INPUT, "format: single '}' encountered in format string");
        } else {
            output_write(m, &c, 1);
            at++;
        }
    }
    return value_text(output_cut(m, from));
}
