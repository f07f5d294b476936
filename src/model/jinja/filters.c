#include "model/jinja/filters.h"

#include <math.h>
#include <string.h>

#include "model/jinja/json.h"
#include "model/jinja/number.h"
#include "model/jinja/sort.h"

int64_t argument_integer(struct machine *m, const char *who, struct value value, int64_t otherwise)
{
    if (value.kind == VALUE_ABSENT)
        return otherwise;
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (!value_is_integer(value))
        machine_fail(m, ERR_BAD_INPUT, "%s: expected an integer, found '%s'", who,
                     value_type(value));
    return value_integer(value);
}

static struct value filter_default(struct render *r, struct value value,
                                   const struct value *arguments)
{
    bool boolean = arguments[1].kind != VALUE_ABSENT && value_truth(r->m, arguments[1]);
    if (value.kind != VALUE_UNDEFINED && !(boolean && !value_truth(r->m, value)))
        return value;
    return arguments[0].kind != VALUE_ABSENT ? arguments[0] : value_text(text_of(r->m, ""));
}

static struct value filter_attr(struct render *r, struct value value, const struct value *arguments)
{
    if (arguments[0].kind != VALUE_TEXT)
        machine_fail(r->m, ERR_BAD_INPUT, "attr: the name must be a string");
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(r->m, value);
    /* Attributes only: a dict's items are not found. */
    if (value.kind == VALUE_DICT)
        return value_attribute(r->m, value_dict(r->m), arguments[0].as.text);
    return value_attribute(r->m, value, arguments[0].as.text);
}

static struct value filter_abs(struct render *r, struct value value, const struct value *arguments)
{
    (void)arguments;
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(r->m, value);
    if (!value_is_number(value))
        machine_fail(r->m, ERR_BAD_INPUT, "bad operand type for abs(): '%s'", value_type(value));
    if (value.kind == VALUE_FLOAT)
        return value_float(fabs(value.as.real));
    int64_t integer = value_integer(value);
    return integer < 0 ? number_combine(r->m, '-', value_int(0), value_int(integer))
                       : value_int(integer);
}

static struct value filter_round(struct render *r, struct value value,
                                 const struct value *arguments)
{
    struct machine *m = r->m;
    int64_t digits = argument_integer(m, "round", arguments[0], 0);
    bool nearest = true, up = false;
    if (arguments[1].kind != VALUE_ABSENT) {
        if (arguments[1].kind != VALUE_TEXT ||
            (!text_is(arguments[1].as.text, "common") && !text_is(arguments[1].as.text, "ceil") &&
             !text_is(arguments[1].as.text, "floor")))
            machine_fail(m, ERR_BAD_INPUT, "round: method must be common, ceil or floor");
        nearest = text_is(arguments[1].as.text, "common");
        up = text_is(arguments[1].as.text, "ceil");
    }
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (!value_is_number(value))
        machine_fail(m, ERR_BAD_INPUT, "round: expected a number, found '%s'", value_type(value));
    if (nearest)
        return number_round(m, value, digits);
    struct value unit = number_combine(m, 'P', value_int(10), value_int(digits));
    double scaled = value_real(number_combine(m, '*', value, unit));
    double whole = up ? ceil(scaled) : floor(scaled);
    return number_combine(m, '/', value_int(real_truncate(m, whole)), unit);
}

static struct value filter_int(struct render *r, struct value value, const struct value *arguments)
{
    struct machine *m = r->m;
    struct value otherwise = arguments[0].kind != VALUE_ABSENT ? arguments[0] : value_int(0);
    int64_t base = argument_integer(m, "int", arguments[1], 10), integer;
    double real;
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (value_is_integer(value))
        return value_int(value_integer(value));
    if (value.kind == VALUE_FLOAT) {
        if (isnan(value.as.real))
            return otherwise;
        return isinf(value.as.real) ? (machine_fail(m, ERR_BAD_INPUT, "int: infinity"), value)
                                    : value_int(real_truncate(m, value.as.real));
    }
    if (value.kind != VALUE_TEXT)
        return otherwise;
    bool base_ok = base == 0 || (base >= 2 && base <= 36);
    if (base_ok && integer_parse(m, value.as.text, (int)base, &integer))
        return value_int(integer);
    if (real_parse(m, value.as.text, &real) && !isnan(real) && !isinf(real))
        return value_int(real_truncate(m, real));
    return otherwise;
}

static struct value filter_float(struct render *r, struct value value,
                                 const struct value *arguments)
{
    struct value otherwise = arguments[0].kind != VALUE_ABSENT ? arguments[0] : value_float(0);
    double real;
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(r->m, value);
    if (value_is_number(value))
        return value_float(value_real(value));
    if (value.kind == VALUE_TEXT && real_parse(r->m, value.as.text, &real))
        return value_float(real);
    return otherwise;
}

static struct value filter_string(struct render *r, struct value value,
                                  const struct value *arguments)
{
    (void)arguments;
    return value_text(value_to_soft_text(r->m, value));
}

static const struct text *json_indent(struct machine *m, struct value value)
{
    if (value.kind == VALUE_TEXT)
        return text_marked(m, value.as.text, false);
    int64_t width = argument_integer(m, "tojson", value, 0);
    return text_repeat(m, text_of(m, " "), width);
}

static const struct text *json_separator(struct machine *m, struct value value)
{
    if (value.kind != VALUE_TEXT)
        machine_fail(m, ERR_BAD_INPUT, "tojson: a separator must be a string");
    return value.as.text;
}

static struct value filter_tojson(struct render *r, struct value value,
                                  const struct value *arguments)
{
    struct machine *m = r->m;
    struct json_style style = {0};
    style.ascii = arguments[0].kind != VALUE_ABSENT && value_truth(m, arguments[0]);
    if (arguments[1].kind != VALUE_ABSENT && arguments[1].kind != VALUE_NONE)
        style.indent = json_indent(m, arguments[1]);
    style.item_separator = text_of(m, style.indent != NULL ? "," : ", ");
    style.key_separator = text_of(m, ": ");
    if (arguments[2].kind != VALUE_ABSENT && arguments[2].kind != VALUE_NONE) {
        const struct list *separators = value_items(m, arguments[2]);
        if (separators->count != 2)
            machine_fail(m, ERR_BAD_INPUT, "tojson: separators must be two strings");
        style.item_separator = json_separator(m, separators->items[0]);
        style.key_separator = json_separator(m, separators->items[1]);
    }
    style.sort_keys = arguments[3].kind != VALUE_ABSENT && value_truth(m, arguments[3]);
    size_t from = m->output.used;
    json_print(m, value, &style);
    return value_text(output_cut(m, from));
}

static const struct filter filters[] = {
    {"default", filter_default, NULL, "default_value boolean", 0, false},
    {"d", filter_default, NULL, "default_value boolean", 0, false},
    {"attr", filter_attr, NULL, "name", 1, false},
    {"abs", filter_abs, NULL, "", 0, false},
    {"round", filter_round, NULL, "precision method", 0, false},
    {"int", filter_int, NULL, "default base", 0, false},
    {"float", filter_float, NULL, "default", 0, false},
    {"string", filter_string, NULL, "", 0, false},
    {"tojson", filter_tojson, NULL, "ensure_ascii indent separators sort_keys", 0, false},
    {0},
};

static const struct filter *table_find(const struct filter *table, const struct text *name)
{
    for (; table->name != NULL; table++)
        if (text_is(name, table->name))
            return table;
    return NULL;
}

const struct filter *filter_find(const struct text *name)
{
    const struct filter *found = table_find(filters, name);
    if (found == NULL)
        found = table_find(filters_of_text, name);
    return found != NULL ? found : table_find(filters_of_lists, name);
}

bool filter_is_unbuilt(const struct text *name)
{
    static const char *const unbuilt[] = {"filesizeformat", "pprint",   "random", "striptags",
                                          "urlize",         "wordwrap", "xmlattr"};
    for (size_t i = 0; i < sizeof(unbuilt) / sizeof(unbuilt[0]); i++)
        if (text_is(name, unbuilt[i]))
            return true;
    return false;
}

static struct value filter_run(struct render *r, const struct filter *filter, struct value value,
                               const struct call *call, const struct value *arguments)
{
    return filter->apply_call != NULL ? filter->apply_call(r, value, call)
                                      : filter->apply(r, value, arguments);
}

const struct list *pending_make(struct machine *m, const struct pending *pending)
{
    /* The value may be pending too, and so on. */
    machine_enter(m);
    struct value made = filter_run(pending->render, pending->filter, pending->value, &pending->call,
                                   pending->arguments);
    machine_leave(m);
    return made.as.iterator->list;
}

struct value filter_apply(struct render *r, const struct filter *filter, struct value value,
                          const struct call *call)
{
    machine_spend(r->m, 1);
    struct value arguments[FILTER_PARAMETERS_MAX] = {0};
    if (filter->apply_call == NULL)
        call_bind(r->m, filter->name, call, filter->parameters, filter->required, true, arguments);
    if (!filter->lazy)
        return filter_run(r, filter, value, call, arguments);
    struct pending *pending = machine_take(r->m, sizeof(*pending));
    struct iterator *iterator = machine_take(r->m, sizeof(*iterator));
    *pending = (struct pending){.render = r, .filter = filter, .value = value, .call = *call};
    memcpy(pending->arguments, arguments, sizeof(arguments));
    iterator->type = "generator";
    iterator->pending = pending;
    return (struct value){.kind = VALUE_ITERATOR, .as.iterator = iterator};
}
