/* str() and repr() of values. Both write to the machine's output; what becomes a value is cut off
 * its end again. */
#include <stdio.h>
#include <string.h>

#include "model/jinja/eval.h"
#include "model/jinja/number.h"
#include "model/jinja/value.h"

static void put(struct machine *m, const char *terminated)
{
    output_write(m, terminated, strlen(terminated));
}

static void print_repr(struct machine *m, struct value value);

/* How Python escapes a code point in a quoted string; 0 bytes when it stands for itself. */
static size_t escape_point(uint32_t point, char quote, char to[12])
{
    switch (point) {
    case '\n':
        return (size_t)snprintf(to, 12, "\\n");
    case '\r':
        return (size_t)snprintf(to, 12, "\\r");
    case '\t':
        return (size_t)snprintf(to, 12, "\\t");
    case '\\':
        return (size_t)snprintf(to, 12, "\\\\");
    default:
        break;
    }
    if (point == (uint32_t)quote)
        return (size_t)snprintf(to, 12, "\\%c", quote);
    if (point_is_printable(point))
        return 0;
    return (size_t)snprintf(to, 12,
                            point < 0x100     ? "\\x%02x"
                            : point < 0x10000 ? "\\u%04x"
                                              : "\\U%08x",
                            point);
}

static void print_quoted(struct machine *m, const struct text *text)
{
    bool single = memchr(text->data, '\'', text->bytes) != NULL;
    bool twofold = memchr(text->data, '"', text->bytes) != NULL;
    char quote = single && !twofold ? '"' : '\'';
    if (text->markup)
        put(m, "Markup(");
    output_write(m, &quote, 1);
    size_t kept = 0;
    machine_spend(m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;) {
        size_t from = at;
        char escape[12];
        size_t bytes = escape_point(text_next(text->data, &at), quote, escape);
        if (bytes > 0) {
            output_write(m, text->data + kept, from - kept);
            output_write(m, escape, bytes);
            kept = at;
        }
    }
    output_write(m, text->data + kept, text->bytes - kept);
    output_write(m, &quote, 1);
    if (text->markup)
        put(m, ")");
}

static void print_list(struct machine *m, struct value value)
{
    bool tuple = value.kind == VALUE_TUPLE;
    const struct list *list = value.as.list;
    put(m, tuple ? "(" : "[");
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            put(m, ", ");
        print_repr(m, list->items[i]);
    }
    put(m, !tuple ? "]" : list->count == 1 ? ",)" : ")");
}

static void print_dict(struct machine *m, const struct dict *dict)
{
    put(m, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0)
            put(m, ", ");
        print_repr(m, dict->entries[i].key);
        put(m, ": ");
        print_repr(m, dict->entries[i].value);
    }
    put(m, "}");
}

static void print_view(struct machine *m, struct value value)
{
    put(m, value_type(value));
    put(m, "(");
    print_list(m, (struct value){.kind = VALUE_LIST, .as.list = value_items(m, value)});
    put(m, ")");
}

static void print_range(struct machine *m, const struct range *range)
{
    char text[100];
    if (range->step == 1)
        snprintf(text, sizeof(text), "range(%lld, %lld)", (long long)range->start,
                 (long long)range->stop);
    else
        snprintf(text, sizeof(text), "range(%lld, %lld, %lld)", (long long)range->start,
                 (long long)range->stop, (long long)range->step);
    put(m, text);
}

static void print_loop(struct machine *m, struct loop *loop)
{
    char text[100];
    size_t length = loop_length(m, loop);
    snprintf(text, sizeof(text), "<LoopContext %lld/%zu>", (long long)loop->index0 + 1, length);
    put(m, text);
}

static void print_number(struct machine *m, struct value value)
{
    char text[NUMBER_BYTES];
    if (value.kind == VALUE_FLOAT)
        real_print(value.as.real, text);
    else
        snprintf(text, sizeof(text), "%lld", (long long)value.as.integer);
    put(m, text);
}

static void print_repr(struct machine *m, struct value value)
{
    machine_enter(m);
    machine_spend(m, 1);
    switch (value.kind) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
        put(m, "Undefined");
        break;
    case VALUE_NONE:
        put(m, "None");
        break;
    case VALUE_BOOL:
        put(m, value.as.truth ? "True" : "False");
        break;
    case VALUE_INT:
    case VALUE_FLOAT:
        print_number(m, value);
        break;
    case VALUE_TEXT:
        print_quoted(m, value.as.text);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        print_list(m, value);
        break;
    case VALUE_DICT:
        print_dict(m, value.as.dict);
        break;
    case VALUE_NAMESPACE:
        put(m, "<Namespace ");
        print_dict(m, value.as.dict);
        put(m, ">");
        break;
    case VALUE_RANGE:
        print_range(m, value.as.range);
        break;
    case VALUE_VIEW:
        print_view(m, value);
        break;
    case VALUE_LOOP:
        print_loop(m, value.as.loop);
        break;
    case VALUE_MACRO:
        put(m, "<Macro ");
        print_repr(m, macro_name(value.as.macro));
        put(m, ">");
        break;
    case VALUE_ITERATOR:
    case VALUE_METHOD:
    case VALUE_FUNCTION:
        /* Python shows an address here, so no template can mean it. */
        put(m, "<");
        put(m, value_type(value));
        put(m, " object>");
        break;
    }
    machine_leave(m);
}

void value_print(struct machine *m, struct value value)
{
    if (value.kind == VALUE_TEXT)
        output_write(m, value.as.text->data, value.as.text->bytes);
    else if (value.kind != VALUE_UNDEFINED)
        print_repr(m, value);
}

const struct text *output_cut(struct machine *m, size_t from)
{
    struct output *out = &m->output;
    const struct text *text =
        out->used > from ? text_copy(m, out->data + from, out->used - from) : text_of(m, "");
    out->used = from;
    return text;
}

const struct text *value_to_text(struct machine *m, struct value value)
{
    if (value.kind == VALUE_TEXT)
        return text_marked(m, value.as.text, false);
    size_t from = m->output.used;
    value_print(m, value);
    return output_cut(m, from);
}

const struct text *value_to_soft_text(struct machine *m, struct value value)
{
    return value.kind == VALUE_TEXT ? value.as.text : value_to_text(m, value);
}

const struct text *value_repr(struct machine *m, struct value value)
{
    size_t from = m->output.used;
    print_repr(m, value);
    return output_cut(m, from);
}
