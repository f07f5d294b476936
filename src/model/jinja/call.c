#include <stdio.h>
#include <string.h>

#include "model/jinja/eval.h"
#include "model/jinja/methods.h"

enum function {
    FUNCTION_RANGE,
    FUNCTION_DICT,
    FUNCTION_NAMESPACE,
    FUNCTION_RAISE,
    FUNCTION_STRFTIME,
    FUNCTION_COUNT,
};

static const char *const function_names[FUNCTION_COUNT] = {
    [FUNCTION_RANGE] = "range",           [FUNCTION_DICT] = "dict",
    [FUNCTION_NAMESPACE] = "namespace",   [FUNCTION_RAISE] = "raise_exception",
    [FUNCTION_STRFTIME] = "strftime_now",
};

struct value function_find(const struct text *name)
{
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (text_is(name, function_names[i]))
            return (struct value){.kind = VALUE_FUNCTION, .as.function = i};
    return (struct value){.kind = VALUE_ABSENT};
}

static void keywords_add_rest(struct render *r, struct call *call, struct keyword_value *keywords,
                              struct value rest)
{
    for (size_t i = 0; i < rest.as.dict->count; i++) {
        struct dict_entry entry = rest.as.dict->entries[i];
        if (entry.key.kind != VALUE_TEXT)
            machine_fail(r->m, ERR_BAD_INPUT, "keywords must be strings");
        for (size_t k = 0; k < call->keyword_count; k++) {
            machine_spend(r->m, 1);
            if (text_equal(keywords[k].name, entry.key.as.text))
                machine_fail(r->m, ERR_BAD_INPUT, "got multiple values for a keyword argument");
        }
        keywords[call->keyword_count].name = entry.key.as.text;
        keywords[call->keyword_count++].value = entry.value;
    }
}

struct call arguments_evaluate(struct render *r, const struct arguments *arguments)
{
    struct call call = {0};
    struct value *values = NULL;
    size_t rest_count = 0;
    values = machine_take_array(r->m, arguments->count, sizeof(*values));
    for (size_t i = 0; i < arguments->count; i++)
        values[i] = eval(r, arguments->values[i]);
    call.count = arguments->count;
    if (arguments->rest != NULL) {
        const struct list *rest = value_items(r->m, eval(r, arguments->rest));
        rest_count = rest->count;
        struct value *all = machine_take_array(r->m, call.count + rest_count, sizeof(*all));
        for (size_t i = 0; i < call.count + rest_count; i++)
            all[i] = i < call.count ? values[i] : rest->items[i - call.count];
        values = all;
        call.count += rest_count;
    }
    call.values = values;
    struct value more = {.kind = VALUE_ABSENT};
    size_t room = arguments->keyword_count;
    struct value *keyword_values = machine_take_array(r->m, room, sizeof(*keyword_values));
    for (size_t i = 0; i < room; i++)
        keyword_values[i] = eval(r, arguments->keywords[i].value);
    if (arguments->keyword_rest != NULL) {
        more = eval(r, arguments->keyword_rest);
        if (more.kind != VALUE_DICT)
            machine_fail(r->m, ERR_BAD_INPUT, "argument after ** must be a mapping, not %s",
                         value_type(more));
        room += more.as.dict->count;
    }
    struct keyword_value *keywords = machine_take_array(r->m, room, sizeof(*keywords));
    for (; call.keyword_count < arguments->keyword_count; call.keyword_count++) {
        keywords[call.keyword_count].name = arguments->keywords[call.keyword_count].name;
        keywords[call.keyword_count].value = keyword_values[call.keyword_count];
    }
    if (more.kind == VALUE_DICT)
        keywords_add_rest(r, &call, keywords, more);
    call.keywords = keywords;
    return call;
}

struct value eval_call(struct render *r, const struct node *node)
{
    struct value callee = eval(r, node->left);
    struct call call = arguments_evaluate(r, node->arguments);
    r->m->line = node->line;
    return value_call(r, callee, &call);
}

/* The index-th word of words, or NULL; its length in *bytes_out. */
static const char *word_at(const char *words, size_t index, size_t *bytes_out)
{
    for (; *words != '\0'; index--) {
        size_t bytes = strcspn(words, " ");
        if (index == 0) {
            *bytes_out = bytes;
            return words;
        }
        words += bytes + (words[bytes] == ' ');
    }
    return NULL;
}

static size_t parameter_find(const char *parameters, const struct text *name)
{
    size_t bytes;
    const char *word;
    for (size_t i = 0; (word = word_at(parameters, i, &bytes)) != NULL; i++)
        if (bytes == name->bytes && memcmp(word, name->data, bytes) == 0)
            return i;
    return SIZE_MAX;
}

void call_bind(struct machine *m, const char *who, const struct call *call, const char *parameters,
               size_t required, bool keywords, struct value *values_out)
{
    size_t count = 0, bytes;
    while (word_at(parameters, count, &bytes) != NULL)
        values_out[count++] = (struct value){.kind = VALUE_ABSENT};
    if (call->count > count)
        machine_fail(m, ERR_BAD_INPUT, "%s takes at most %zu arguments, %zu were given", who, count,
                     call->count);
    for (size_t i = 0; i < call->count; i++)
        values_out[i] = call->values[i];
    for (size_t i = 0; i < call->keyword_count; i++) {
        const struct text *name = call->keywords[i].name;
        size_t at = keywords ? parameter_find(parameters, name) : SIZE_MAX;
        int name_bytes = (int)(name->bytes < 70 ? name->bytes : 70);
        if (at == SIZE_MAX)
            machine_fail(m, ERR_BAD_INPUT, "%s takes no keyword argument '%.*s'", who, name_bytes,
                         name->data);
        if (values_out[at].kind != VALUE_ABSENT)
            machine_fail(m, ERR_BAD_INPUT, "%s got multiple values for '%.*s'", who, name_bytes,
                         name->data);
        values_out[at] = call->keywords[i].value;
    }
    for (size_t i = 0; i < required; i++)
        if (values_out[i].kind == VALUE_ABSENT)
            machine_fail(m, ERR_BAD_INPUT, "%s needs %zu arguments, %zu were given", who, required,
                         call->count + call->keyword_count);
}

static int64_t call_integer(struct machine *m, const char *who, struct value value)
{
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (!value_is_integer(value))
        machine_fail(m, ERR_BAD_INPUT, "%s: '%s' object cannot be interpreted as an integer", who,
                     value_type(value));
    return value_integer(value);
}

static struct value call_range(struct machine *m, const struct call *call)
{
    struct value given[3];
    call_bind(m, "range", call, "start stop step", 1, false, given);
    int64_t start = call_integer(m, "range", given[0]);
    int64_t stop = given[1].kind != VALUE_ABSENT ? call_integer(m, "range", given[1]) : start;
    int64_t step = given[2].kind != VALUE_ABSENT ? call_integer(m, "range", given[2]) : 1;
    return value_range(m, given[1].kind != VALUE_ABSENT ? start : 0, stop, step);
}

/* dict(mapping or pairs, **more) */
static struct value call_dict(struct machine *m, const char *who, const struct call *call)
{
    struct value dict = value_dict(m);
    if (call->count > 1)
        machine_fail(m, ERR_BAD_INPUT, "%s takes at most 1 positional argument, %zu were given",
                     who, call->count);
    if (call->count == 1 && (call->values[0].kind == VALUE_DICT)) {
        const struct dict *from = call->values[0].as.dict;
        for (size_t i = 0; i < from->count; i++)
            dict_set(m, dict.as.dict, from->entries[i].key, from->entries[i].value);
    } else if (call->count == 1) {
        struct cursor cursor = cursor_open(m, call->values[0]);
        struct value pair;
        while (cursor_next(m, &cursor, &pair)) {
            const struct list *items = value_items(m, pair);
            if (items->count != 2)
                machine_fail(m, ERR_BAD_INPUT, "%s needs pairs, found %zu items", who,
                             items->count);
            dict_set(m, dict.as.dict, items->items[0], items->items[1]);
        }
    }
    for (size_t i = 0; i < call->keyword_count; i++)
        dict_set(m, dict.as.dict, value_text(call->keywords[i].name), call->keywords[i].value);
    return dict;
}

static struct value call_namespace(struct machine *m, const struct call *call)
{
    struct value space = call_dict(m, "namespace", call);
    for (size_t i = 0; i < space.as.dict->count; i++) {
        struct value name = space.as.dict->entries[i].key;
        if (name.kind == VALUE_TEXT && name.as.text->bytes > 0 && name.as.text->data[0] == '_')
            machine_fail(m, ERR_BAD_INPUT, "a namespace's attribute cannot start with '_'");
    }
    space.kind = VALUE_NAMESPACE;
    return space;
}

/* Python answers %f, %z and %Z itself: no microseconds and no zone here. */
static const char *format_settle(struct machine *m, const struct text *format)
{
    char *settled = machine_take(m, format->bytes * 3 + 2);
    size_t used = 0;
    for (size_t i = 0; i < format->bytes; i++) {
        char c = format->data[i];
        char next = i + 1 < format->bytes ? format->data[i + 1] : '\0';
        if (c == '\0')
            machine_fail(m, ERR_BAD_INPUT, "strftime_now: a NUL in the format");
        if (c == '%' && next != '\0') {
            i++;
            if (next == 'f') {
                memcpy(settled + used, "000000", 6);
                used += 6;
            } else if (next != 'z' && next != 'Z') {
                settled[used++] = '%';
                settled[used++] = next;
            }
        } else if (c == '%') {
            settled[used++] = '%';
            settled[used++] = '%';
        } else {
            settled[used++] = c;
        }
    }
    /* So that what is written is never empty, and 0 means too little room. */
    settled[used++] = '.';
    return settled;
}

static struct value call_strftime(struct machine *m, const struct call *call)
{
    struct value given;
    call_bind(m, "strftime_now", call, "format", 1, true, &given);
    if (given.kind != VALUE_TEXT)
        machine_fail(m, ERR_BAD_INPUT, "strftime_now: the format must be a string, not %s",
                     value_type(given));
    struct tm now;
    if (m->now != NULL) {
        now = *m->now;
        timegm(&now); /* sets the days of week and year */
    } else {
        time_t clock = time(NULL);
        localtime_r(&clock, &now);
    }
    const char *format = format_settle(m, given.as.text);
    size_t room = 256 + given.as.text->bytes * 16;
    char *data = machine_take(m, room);
    size_t used = strftime(data, room, format, &now);
    if (used == 0)
        machine_fail(m, ERR_BAD_INPUT, "strftime_now: the format gives too much");
    if (!text_valid(data, used))
        machine_fail(m, ERR_BAD_INPUT, "strftime_now: the result is not UTF-8");
    return value_text(text_over(m, data, used - 1));
}

static struct value call_function(struct machine *m, int function, const struct call *call)
{
    struct value given;
    const struct text *message;
    switch (function) {
    case FUNCTION_RANGE:
        return call_range(m, call);
    case FUNCTION_DICT:
        return call_dict(m, "dict", call);
    case FUNCTION_NAMESPACE:
        return call_namespace(m, call);
    case FUNCTION_STRFTIME:
        return call_strftime(m, call);
    default:
        call_bind(m, "raise_exception", call, "message", 1, true, &given);
        message = value_to_text(m, given);
        machine_refuse(m, message->data, message->bytes);
    }
}

struct value value_call(struct render *r, struct value callee, const struct call *call)
{
    machine_spend(r->m, 1);
    switch (callee.kind) {
    case VALUE_UNDEFINED:
        value_fail_undefined(r->m, callee);
    case VALUE_MACRO:
        return macro_call(r, callee.as.macro, call);
    case VALUE_METHOD:
        return method_call(r, callee.as.method, call);
    case VALUE_FUNCTION:
        return call_function(r->m, callee.as.function, call);
    case VALUE_LOOP:
        return loop_recurse(r->m, callee.as.loop, call);
    default:
        machine_fail(r->m, ERR_BAD_INPUT, "'%s' object is not callable", value_type(callee));
    }
}
