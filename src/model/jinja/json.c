#include "model/jinja/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/jinja/number.h"
#include "model/jinja/sort.h"

static struct value dict_from_json(struct machine *m, const json_t *json)
{
    struct value dict = value_dict(m);
    /* jansson's iterators take what is not const, but change nothing. */
    json_t *object = (json_t *)(uintptr_t)json;
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        struct value name = value_text(text_over(m, key, json_object_iter_key_len(at)));
        dict_set(m, dict.as.dict, name, value_from_json(m, json_object_iter_value(at)));
    }
    return dict;
}

static struct value list_from_json(struct machine *m, const json_t *json)
{
    size_t count = json_array_size(json);
    struct value *items = machine_take_array(m, count, sizeof(*items));
    for (size_t i = 0; i < count; i++)
        items[i] = value_from_json(m, json_array_get(json, i));
    return value_list(m, items, count);
}

struct value value_from_json(struct machine *m, const json_t *json)
{
    machine_enter(m);
    machine_spend(m, 1);
    struct value value = value_none();
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        value = dict_from_json(m, json);
        break;
    case JSON_ARRAY:
        value = list_from_json(m, json);
        break;
    case JSON_STRING:
        value = value_text(text_over(m, json_string_value(json), json_string_length(json)));
        break;
    case JSON_INTEGER:
        value = value_int(json_integer_value(json));
        break;
    case JSON_REAL:
        value = value_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        value = value_bool(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    }
    machine_leave(m);
    return value;
}

static void put(struct machine *m, const char *terminated)
{
    output_write(m, terminated, strlen(terminated));
}

/* 0 bytes when the point stands for itself. */
static size_t escape_point(uint32_t point, bool ascii, char to[16])
{
    static const char shorts[] = "b\bt\tn\nf\fr\r";
    if (point == '"' || point == '\\')
        return (size_t)snprintf(to, 16, "\\%c", (char)point);
    for (size_t i = 0; point < 0x20 && i < sizeof(shorts) - 1; i += 2)
        if (point == (uint32_t)shorts[i + 1])
            return (size_t)snprintf(to, 16, "\\%c", shorts[i]);
    if (point >= 0x20 && (!ascii || point < 0x7f))
        return 0;
    if (point >= 0x10000)
        return (size_t)snprintf(to, 16, "\\u%04x\\u%04x", 0xd800 + ((point - 0x10000) >> 10),
                                0xdc00 + ((point - 0x10000) & 0x3ff));
    return (size_t)snprintf(to, 16, "\\u%04x", point);
}

static void print_string(struct machine *m, const struct text *text, bool ascii)
{
    put(m, "\"");
    size_t kept = 0;
    machine_spend(m, text->bytes / 16);
    for (size_t at = 0; at < text->bytes;) {
        size_t from = at;
        char escape[16];
        size_t bytes = escape_point(text_next(text->data, &at), ascii, escape);
        if (bytes > 0) {
            output_write(m, text->data + kept, from - kept);
            output_write(m, escape, bytes);
            kept = at;
        }
    }
    output_write(m, text->data + kept, text->bytes - kept);
    put(m, "\"");
}

/* True when the value is one that has no parts, which was written. */
static bool print_plain(struct machine *m, struct value value, bool ascii)
{
    char text[NUMBER_BYTES];
    switch (value.kind) {
    case VALUE_NONE:
        put(m, "null");
        return true;
    case VALUE_BOOL:
        put(m, value.as.truth ? "true" : "false");
        return true;
    case VALUE_INT:
        snprintf(text, sizeof(text), "%lld", (long long)value.as.integer);
        put(m, text);
        return true;
    case VALUE_FLOAT:
        real_print(value.as.real, text);
        put(m, isnan(value.as.real)    ? "NaN"
               : !isinf(value.as.real) ? text
               : value.as.real < 0     ? "-Infinity"
                                       : "Infinity");
        return true;
    case VALUE_TEXT:
        print_string(m, value.as.text, ascii);
        return true;
    default:
        return false;
    }
}

static void print_break(struct machine *m, const struct json_style *style, uint32_t level)
{
    if (style->indent == NULL)
        return;
    put(m, "\n");
    for (uint32_t i = 0; i < level; i++)
        output_write(m, style->indent->data, style->indent->bytes);
}

static void print_value(struct machine *m, struct value value, const struct json_style *style,
                        uint32_t level);

static void print_list(struct machine *m, const struct list *list, const struct json_style *style,
                       uint32_t level)
{
    if (list->count == 0) {
        put(m, "[]");
        return;
    }
    put(m, "[");
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            output_write(m, style->item_separator->data, style->item_separator->bytes);
        print_break(m, style, level + 1);
        print_value(m, list->items[i], style, level + 1);
    }
    print_break(m, style, level);
    put(m, "]");
}

static void print_key(struct machine *m, struct value key, const struct json_style *style)
{
    if (key.kind == VALUE_TEXT) {
        print_string(m, key.as.text, style->ascii);
        return;
    }
    put(m, "\"");
    if (!print_plain(m, key, style->ascii))
        machine_fail(m, ERR_BAD_INPUT, "keys must be str, int, float, bool or None, not %s",
                     value_type(key));
    put(m, "\"");
}

static void print_dict(struct machine *m, const struct dict *dict, const struct json_style *style,
                       uint32_t level)
{
    if (dict->count == 0) {
        put(m, "{}");
        return;
    }
    const struct dict_entry *entries = dict->entries;
    if (style->sort_keys)
        entries = entries_sorted(m, dict);
    put(m, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0)
            output_write(m, style->item_separator->data, style->item_separator->bytes);
        print_break(m, style, level + 1);
        print_key(m, entries[i].key, style);
        output_write(m, style->key_separator->data, style->key_separator->bytes);
        print_value(m, entries[i].value, style, level + 1);
    }
    print_break(m, style, level);
    put(m, "}");
}

static void print_value(struct machine *m, struct value value, const struct json_style *style,
                        uint32_t level)
{
    machine_enter(m);
    machine_spend(m, 1);
    if (value.kind == VALUE_LIST || value.kind == VALUE_TUPLE)
        print_list(m, value.as.list, style, level);
    else if (value.kind == VALUE_DICT)
        print_dict(m, value.as.dict, style, level);
    else if (!print_plain(m, value, style->ascii))
        machine_fail(m, ERR_BAD_INPUT, "object of type %s is not JSON serializable",
                     value_type(value));
    machine_leave(m);
}

void json_print(struct machine *m, struct value value, const struct json_style *style)
{
    print_value(m, value, style, 0);
}
