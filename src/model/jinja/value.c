#include "model/jinja/value.h"

#include <math.h>
#include <string.h>

#include "model/jinja/eval.h"

struct value value_undefined(struct machine *m, const char *hint)
{
    struct undefined *why = machine_take(m, sizeof(*why));
    why->hint = hint;
    return (struct value){.kind = VALUE_UNDEFINED, .as.undefined = why};
}

struct value value_missing(struct machine *m, const struct text *name, const char *type)
{
    struct undefined *why = machine_take(m, sizeof(*why));
    why->name = name;
    why->type = type;
    return (struct value){.kind = VALUE_UNDEFINED, .as.undefined = why};
}

_Noreturn void value_fail_undefined(struct machine *m, struct value value)
{
    const struct undefined *why = value.as.undefined;
    if (why->hint != NULL)
        machine_fail(m, ERR_BAD_INPUT, "%s", why->hint);
    int bytes = (int)(why->name->bytes < 100 ? why->name->bytes : 100);
    if (why->type == NULL)
        machine_fail(m, ERR_BAD_INPUT, "'%.*s' is undefined", bytes, why->name->data);
    machine_fail(m, ERR_BAD_INPUT, "'%s' has no attribute '%.*s'", why->type, bytes,
                 why->name->data);
}

static struct value value_sequence(struct machine *m, enum value_kind kind,
                                   const struct value *items, size_t count)
{
    struct list *list = machine_take(m, sizeof(*list));
    list->items = items;
    list->count = count;
    return (struct value){.kind = kind, .as.list = list};
}

struct value value_list(struct machine *m, const struct value *items, size_t count)
{
    return value_sequence(m, VALUE_LIST, items, count);
}

struct value value_tuple(struct machine *m, const struct value *items, size_t count)
{
    return value_sequence(m, VALUE_TUPLE, items, count);
}

struct value value_pair(struct machine *m, struct value first, struct value second)
{
    struct value *items = machine_take_array(m, 2, sizeof(*items));
    items[0] = first;
    items[1] = second;
    return value_tuple(m, items, 2);
}

struct value value_iterator(struct machine *m, const char *type, const struct value *items,
                            size_t count)
{
    struct iterator *iterator = machine_take(m, sizeof(*iterator));
    iterator->type = type;
    iterator->list = value_list(m, items, count).as.list;
    return (struct value){.kind = VALUE_ITERATOR, .as.iterator = iterator};
}

const char *value_type(struct value value)
{
    switch (value.kind) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
        return "Undefined";
    case VALUE_NONE:
        return "None";
    case VALUE_BOOL:
        return "bool";
    case VALUE_INT:
        return "int";
    case VALUE_FLOAT:
        return "float";
    case VALUE_TEXT:
        return value.as.text->markup ? "Markup" : "str";
    case VALUE_LIST:
        return "list";
    case VALUE_TUPLE:
        return "tuple";
    case VALUE_DICT:
        return "dict";
    case VALUE_NAMESPACE:
        return "Namespace";
    case VALUE_RANGE:
        return "range";
    case VALUE_VIEW:
        return value.as.view->kind == VIEW_KEYS     ? "dict_keys"
               : value.as.view->kind == VIEW_VALUES ? "dict_values"
                                                    : "dict_items";
    case VALUE_ITERATOR:
        return value.as.iterator->type;
    case VALUE_LOOP:
        return "LoopContext";
    case VALUE_MACRO:
        return "Macro";
    case VALUE_METHOD:
        return "method";
    case VALUE_FUNCTION:
        return "function";
    }
    return "object";
}

bool value_truth(struct machine *m, struct value value)
{
    switch (value.kind) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return value.as.truth;
    case VALUE_INT:
        return value.as.integer != 0;
    case VALUE_FLOAT:
        return value.as.real < 0 || value.as.real > 0 || isnan(value.as.real);
    case VALUE_TEXT:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_RANGE:
    case VALUE_VIEW:
    case VALUE_LOOP:
        return value_length(m, value) > 0;
    case VALUE_NAMESPACE:
    case VALUE_ITERATOR:
    case VALUE_MACRO:
    case VALUE_METHOD:
    case VALUE_FUNCTION:
        return true;
    }
    return true;
}

bool value_is_integer(struct value value)
{
    return value.kind == VALUE_BOOL || value.kind == VALUE_INT;
}

bool value_is_number(struct value value)
{
    return value_is_integer(value) || value.kind == VALUE_FLOAT;
}

int64_t value_integer(struct value value)
{
    return value.kind == VALUE_BOOL ? (value.as.truth ? 1 : 0) : value.as.integer;
}

double value_real(struct value value)
{
    return value.kind == VALUE_FLOAT ? value.as.real : (double)value_integer(value);
}

/* Negative, 0, positive, or 2 when one is not a number. Exact: no integer is rounded to a float. */
static int numbers_compare(struct value a, struct value b)
{
    if (a.kind != VALUE_FLOAT && b.kind != VALUE_FLOAT) {
        int64_t x = value_integer(a), y = value_integer(b);
        return (x > y) - (x < y);
    }
    long double x = a.kind == VALUE_FLOAT ? (long double)a.as.real : (long double)value_integer(a);
    long double y = b.kind == VALUE_FLOAT ? (long double)b.as.real : (long double)value_integer(b);
    if (isnan(x) || isnan(y))
        return 2;
    return (x > y) - (x < y);
}

bool value_same(struct value a, struct value b)
{
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case VALUE_NONE:
        return true;
    case VALUE_BOOL:
        return a.as.truth == b.as.truth;
    case VALUE_INT:
        return a.as.integer == b.as.integer;
    case VALUE_FLOAT:
        return false;
    case VALUE_FUNCTION:
        return a.as.function == b.as.function;
    case VALUE_TEXT:
        return text_equal(a.as.text, b.as.text);
    default:
        return a.as.list == b.as.list;
    }
}

static bool lists_equal(struct machine *m, const struct list *a, const struct list *b)
{
    if (a == b)
        return true;
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!value_equal(m, a->items[i], b->items[i]))
            return false;
    return true;
}

static bool dicts_equal(struct machine *m, const struct dict *a, const struct dict *b)
{
    if (a == b)
        return true;
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct value *other = dict_get(m, b, a->entries[i].key);
        if (other == NULL || !value_equal(m, a->entries[i].value, *other))
            return false;
    }
    return true;
}

static bool ranges_equal(const struct range *a, const struct range *b)
{
    return a->count == b->count && (a->count == 0 || a->start == b->start) &&
           (a->count <= 1 || a->step == b->step);
}

/* Keys and items compare as sets, values only as themselves. */
static bool views_equal(struct machine *m, const struct view *a, const struct view *b)
{
    if (a->kind != b->kind || a->kind == VIEW_VALUES || a->dict->count != b->dict->count)
        return a == b;
    if (a->kind == VIEW_ITEMS)
        return dicts_equal(m, a->dict, b->dict);
    for (size_t i = 0; i < a->dict->count; i++)
        if (dict_get(m, b->dict, a->dict->entries[i].key) == NULL)
            return false;
    return true;
}

bool value_equal(struct machine *m, struct value a, struct value b)
{
    machine_spend(m, 1);
    if (value_is_number(a) && value_is_number(b))
        return numbers_compare(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    machine_enter(m);
    bool equal;
    switch (a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        equal = true;
        break;
    case VALUE_TEXT:
        machine_spend_bytes(m, a.as.text->bytes);
        equal = text_equal(a.as.text, b.as.text);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        equal = lists_equal(m, a.as.list, b.as.list);
        break;
    case VALUE_DICT:
        equal = dicts_equal(m, a.as.dict, b.as.dict);
        break;
    case VALUE_RANGE:
        equal = ranges_equal(a.as.range, b.as.range);
        break;
    case VALUE_VIEW:
        equal = views_equal(m, a.as.view, b.as.view);
        break;
    default:
        equal = value_same(a, b);
        break;
    }
    machine_leave(m);
    return equal;
}

static int lists_compare(struct machine *m, const struct list *a, const struct list *b,
                         const char *op)
{
    for (size_t i = 0; i < a->count && i < b->count; i++)
        if (!value_equal(m, a->items[i], b->items[i]))
            return value_compare(m, a->items[i], b->items[i], op);
    return (a->count > b->count) - (a->count < b->count);
}

int value_compare(struct machine *m, struct value a, struct value b, const char *op)
{
    machine_spend(m, 1);
    if (value_is_number(a) && value_is_number(b))
        return numbers_compare(a, b);
    if (a.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, a);
    if (b.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, b);
    if (a.kind == VALUE_TEXT && b.kind == VALUE_TEXT) {
        machine_spend_bytes(m, a.as.text->bytes);
        return text_compare(a.as.text, b.as.text);
    }
    if (a.kind != b.kind || (a.kind != VALUE_LIST && a.kind != VALUE_TUPLE))
        machine_fail(m, ERR_BAD_INPUT, "'%s' not supported between instances of '%s' and '%s'", op,
                     value_type(a), value_type(b));
    machine_enter(m);
    int order = lists_compare(m, a.as.list, b.as.list, op);
    machine_leave(m);
    return order;
}

bool value_contains(struct machine *m, struct value container, struct value item)
{
    if (container.kind == VALUE_TEXT) {
        if (item.kind != VALUE_TEXT)
            machine_fail(m, ERR_BAD_INPUT, "'in <string>' requires string as left operand, not %s",
                         value_type(item));
        const struct text *in = container.as.text;
        return text_find(m, in, item.as.text, 0, in->bytes) != TEXT_NOT_FOUND;
    }
    if (container.kind == VALUE_DICT ||
        (container.kind == VALUE_VIEW && container.as.view->kind == VIEW_KEYS)) {
        const struct dict *dict =
            container.kind == VALUE_DICT ? container.as.dict : container.as.view->dict;
        return dict_get(m, dict, item) != NULL;
    }
    struct cursor cursor = cursor_open(m, container);
    struct value each;
    while (cursor_next(m, &cursor, &each))
        if (value_equal(m, each, item))
            return true;
    return false;
}
