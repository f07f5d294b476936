/* Filters that make text. */
#include <stdio.h>
#include <string.h>

#include "model/jinja/filters.h"
#include "model/jinja/methods.h"

static struct value filter_upper(struct render *r, struct value value,
                                 const struct value *arguments)
{
    (void)arguments;
    return value_text(text_to_case(r->m, value_to_soft_text(r->m, value), TEXT_UPPER));
}

static struct value filter_lower(struct render *r, struct value value,
                                 const struct value *arguments)
{
    (void)arguments;
    return value_text(text_to_case(r->m, value_to_soft_text(r->m, value), TEXT_LOWER));
}

static struct value filter_capitalize(struct render *r, struct value value,
                                      const struct value *arguments)
{
    (void)arguments;
    return value_text(text_to_case(r->m, value_to_soft_text(r->m, value), TEXT_CAPITALIZE));
}

static bool starts_word(uint32_t point)
{
    return point == '-' || point == '(' || point == '{' || point == '[' || point == '<' ||
           point_is_space(point);
}

/* Words are cut at white space and opening brackets; the first character of each goes up, the rest
 * down. */
static struct value filter_title(struct render *r, struct value value,
                                 const struct value *arguments)
{
    (void)arguments;
    struct machine *m = r->m;
    const struct text *text = value_to_soft_text(m, value);
    const struct text *title = text_of(m, "");
    for (size_t at = 0; at < text->bytes;) {
        size_t from = at, first;
        bool separator = starts_word(text_next(text->data, &at));
        first = at;
        while (at < text->bytes) {
            size_t next = at;
            if (starts_word(text_next(text->data, &next)) != separator)
                break;
            at = next;
        }
        const struct text *head = text_piece(m, text, from, first);
        const struct text *tail = text_piece(m, text, first, at);
        title = text_join(m, title, text_to_case(m, head, TEXT_UPPER));
        title = text_join(m, title, text_to_case(m, tail, TEXT_LOWER));
    }
    return value_text(text_marked(m, title, false));
}

static struct value filter_trim(struct render *r, struct value value, const struct value *arguments)
{
    struct machine *m = r->m;
    const struct text *chars = NULL;
    if (arguments[0].kind == VALUE_TEXT)
        chars = arguments[0].as.text;
    else if (arguments[0].kind != VALUE_ABSENT && arguments[0].kind != VALUE_NONE)
        machine_fail(m, ERR_BAD_INPUT, "trim: the characters must be a string");
    return value_text(text_strip(m, value_to_soft_text(m, value), chars, TEXT_STRIP_BOTH));
}

static struct value filter_replace(struct render *r, struct value value,
                                   const struct value *arguments)
{
    struct machine *m = r->m;
    int64_t most =
        arguments[2].kind == VALUE_NONE ? -1 : argument_integer(m, "replace", arguments[2], -1);
    return value_text(text_replace(m, value_to_text(m, value), value_to_text(m, arguments[0]),
                                   value_to_text(m, arguments[1]), most));
}

static struct value filter_indent(struct render *r, struct value value,
                                  const struct value *arguments)
{
    struct machine *m = r->m;
    if (value.kind != VALUE_TEXT)
        machine_fail(m, ERR_BAD_INPUT, "indent: expected a string, found '%s'", value_type(value));
    const struct text *newline = text_of(m, "\n");
    const struct text *indent =
        arguments[0].kind == VALUE_TEXT
            ? arguments[0].as.text
            : text_repeat(m, text_of(m, " "), argument_integer(m, "indent", arguments[0], 4));
    bool first = arguments[1].kind != VALUE_ABSENT && value_truth(m, arguments[1]);
    bool blank = arguments[2].kind != VALUE_ABSENT && value_truth(m, arguments[2]);
    bool markup = value.as.text->markup;
    const struct text *source = text_join(m, text_marked(m, value.as.text, false), newline);
    struct value lines = text_lines(m, source, false);
    size_t from = m->output.used;
    for (size_t i = 0; i < lines.as.list->count; i++) {
        const struct text *line = lines.as.list->items[i].as.text;
        if (i > 0)
            output_write(m, "\n", 1);
        if (i == 0 ? first : blank || line->bytes > 0)
            output_write(m, indent->data, indent->bytes);
        output_write(m, line->data, line->bytes);
    }
    return value_text(text_marked(m, output_cut(m, from), markup));
}

static struct value filter_center(struct render *r, struct value value,
                                  const struct value *arguments)
{
    struct machine *m = r->m;
    int64_t width = argument_integer(m, "center", arguments[0], 80);
    return value_text(text_pad(m, value_to_soft_text(m, value), width, text_of(m, " "), 'c'));
}

static struct value filter_truncate(struct render *r, struct value value,
                                    const struct value *arguments)
{
    struct machine *m = r->m;
    int64_t length = argument_integer(m, "truncate", arguments[0], 255);
    bool kill_words = arguments[1].kind != VALUE_ABSENT && value_truth(m, arguments[1]);
    const struct text *end =
        arguments[2].kind != VALUE_ABSENT ? value_to_text(m, arguments[2]) : text_of(m, "...");
    int64_t leeway =
        arguments[3].kind == VALUE_NONE ? 5 : argument_integer(m, "truncate", arguments[3], 5);
    if (length < (int64_t)end->points || leeway < 0)
        machine_fail(m, ERR_BAD_INPUT, "truncate: length must be at least %zu and leeway 0",
                     end->points);
    int64_t most;
    if (__builtin_add_overflow(length, leeway, &most) || (int64_t)value_length(m, value) <= most)
        return value;
    if (value.kind != VALUE_TEXT)
        machine_fail(m, ERR_BAD_INPUT, "truncate: expected a string, found '%s'",
                     value_type(value));
    const struct text *text = value.as.text;
    size_t cut = text_offset(m, text, (size_t)length - end->points);
    if (!kill_words) {
        size_t space = text_find_last(m, text, text_of(m, " "), 0, cut);
        cut = space != TEXT_NOT_FOUND ? space : cut;
    }
    return value_text(text_join(m, text_piece(m, text, 0, cut), end));
}

static struct value filter_wordcount(struct render *r, struct value value,
                                     const struct value *arguments)
{
    (void)arguments;
    const struct text *text = value_to_soft_text(r->m, value);
    int64_t words = 0;
    bool in_word = false;
    machine_spend(r->m, text->bytes / 8);
    for (size_t at = 0; at < text->bytes;) {
        uint32_t point = text_next(text->data, &at);
        bool word = point == '_' || point_is_alnum(point);
        words += word && !in_word;
        in_word = word;
    }
    return value_int(words);
}

static struct value filter_escape(struct render *r, struct value value,
                                  const struct value *arguments)
{
    (void)arguments;
    return value_text(text_escape(r->m, value_to_soft_text(r->m, value)));
}

static struct value filter_force_escape(struct render *r, struct value value,
                                        const struct value *arguments)
{
    (void)arguments;
    return value_text(text_escape(r->m, value_to_text(r->m, value)));
}

static struct value filter_safe(struct render *r, struct value value, const struct value *arguments)
{
    (void)arguments;
    return value_text(text_marked(r->m, value_to_text(r->m, value), true));
}

static struct value filter_format(struct render *r, struct value value, const struct call *call)
{
    struct machine *m = r->m;
    const struct text *format = value_to_soft_text(m, value);
    if (call->keyword_count == 0)
        return text_percent(m, format, value_tuple(m, call->values, call->count));
    if (call->count > 0)
        machine_fail(m, ERR_BAD_INPUT,
                     "format: cannot take positional and keyword arguments at the same time");
    struct value names = value_dict(m);
    for (size_t i = 0; i < call->keyword_count; i++)
        dict_set(m, names.as.dict, value_text(call->keywords[i].name), call->keywords[i].value);
    return text_percent(m, format, names);
}

static void quote_write(struct machine *m, struct value value, bool query)
{
    const struct text *text = value_to_text(m, value);
    for (size_t i = 0; i < text->bytes; i++) {
        char c = text->data[i], quoted[4];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     (c != '\0' && strchr(query ? "_.-~" : "_.-~/", c) != NULL);
        if (plain)
            output_write(m, &c, 1);
        else if (query && c == ' ')
            output_write(m, "+", 1);
        else
            output_write(m, quoted,
                         (size_t)snprintf(quoted, sizeof(quoted), "%%%02X", (unsigned char)c));
    }
}

static struct value filter_urlencode(struct render *r, struct value value,
                                     const struct value *arguments)
{
    (void)arguments;
    struct machine *m = r->m;
    size_t from = m->output.used;
    if (value.kind == VALUE_TEXT || !value_is_iterable(value)) {
        quote_write(m, value, false);
        return value_text(output_cut(m, from));
    }
    if (value.kind == VALUE_DICT) {
        struct view *view = machine_take(m, sizeof(*view));
        view->kind = VIEW_ITEMS;
        view->dict = value.as.dict;
        value = (struct value){.kind = VALUE_VIEW, .as.view = view};
    }
    struct cursor cursor = cursor_open(m, value);
    struct value pair;
    for (bool first = true; cursor_next(m, &cursor, &pair); first = false) {
        const struct list *items = value_items(m, pair);
        if (items->count != 2)
            machine_fail(m, ERR_BAD_INPUT, "urlencode needs pairs, found %zu items", items->count);
        if (!first)
            output_write(m, "&", 1);
        quote_write(m, items->items[0], true);
        output_write(m, "=", 1);
        quote_write(m, items->items[1], true);
    }
    return value_text(output_cut(m, from));
}

const struct filter filters_of_text[] = {
    {"upper", filter_upper, NULL, "", 0, false},
    {"lower", filter_lower, NULL, "", 0, false},
    {"capitalize", filter_capitalize, NULL, "", 0, false},
    {"title", filter_title, NULL, "", 0, false},
    {"trim", filter_trim, NULL, "chars", 0, false},
    {"replace", filter_replace, NULL, "old new count", 2, false},
    {"indent", filter_indent, NULL, "width first blank", 0, false},
    {"center", filter_center, NULL, "width", 0, false},
    {"truncate", filter_truncate, NULL, "length killwords end leeway", 0, false},
    {"wordcount", filter_wordcount, NULL, "", 0, false},
    {"escape", filter_escape, NULL, "", 0, false},
    {"e", filter_escape, NULL, "", 0, false},
    {"forceescape", filter_force_escape, NULL, "", 0, false},
    {"safe", filter_safe, NULL, "", 0, false},
    {"format", NULL, filter_format, NULL, 0, false},
    {"urlencode", filter_urlencode, NULL, "", 0, false},
    {0},
};
