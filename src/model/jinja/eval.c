#include "model/jinja/eval.h"

#include <stdio.h>
#include <string.h>

#include "model/jinja/filters.h"
#include "model/jinja/lexer.h"
#include "model/jinja/methods.h"
#include "model/jinja/number.h"
#include "model/jinja/tests.h"

void scope_enter(struct render *r, struct scope *scope)
{
    scope->around = r->scope;
    r->scope = scope;
}

void scope_leave(struct render *r)
{
    r->scope = r->scope->around;
}

static struct binding *scope_find(struct render *r, const struct scope *scope,
                                  const struct name *name)
{
    machine_spend(r->m, scope->count / 16);
    for (size_t i = scope->count; i > 0; i--)
        if (scope->bindings[i - 1].name == name)
            return &scope->bindings[i - 1];
    return NULL;
}

void scope_set(struct render *r, struct scope *scope, const struct name *name, struct value value)
{
    struct binding *binding = scope_find(r, scope, name);
    if (binding == NULL) {
        scope->bindings = machine_grow(r->m, scope->bindings, scope->count, &scope->room,
                                       sizeof(*scope->bindings));
        binding = &scope->bindings[scope->count++];
        binding->name = name;
    }
    binding->value = value;
}

static struct value eval_name(struct render *r, const struct name *name)
{
    for (const struct scope *scope = r->scope; scope != NULL; scope = scope->around) {
        machine_spend(r->m, 1);
        const struct binding *binding = scope_find(r, scope, name);
        if (binding != NULL)
            return binding->value;
    }
    struct value global = r->globals[name->index];
    if (global.kind != VALUE_ABSENT)
        return global;
    return value_missing(r->m, name->text, NULL);
}

static void assign_tuple(struct render *r, const struct node *target, struct value value)
{
    const struct list *items = value_items(r->m, value);
    if (items->count != target->count)
        machine_fail(r->m, ERR_BAD_INPUT, "cannot unpack %zu values into %zu names", items->count,
                     target->count);
    for (size_t i = 0; i < items->count; i++)
        assign(r, target->items[i], items->items[i]);
}

void assign(struct render *r, const struct node *target, struct value value)
{
    if (target->kind == NODE_TUPLE) {
        assign_tuple(r, target, value);
    } else if (target->kind == NODE_NAME) {
        scope_set(r, r->scope, target->name, value);
    } else {
        struct value space = eval_name(r, target->name);
        r->m->line = target->line;
        if (space.kind != VALUE_NAMESPACE)
            machine_fail(r->m, ERR_BAD_INPUT, "cannot assign attribute on non-namespace object");
        if (target->constant.as.text->data[0] == '_')
            machine_fail(r->m, ERR_BAD_INPUT, "a namespace's attribute cannot start with '_'");
        dict_set(r->m, space.as.dict, target->constant, value);
    }
}

/* Names that are attributes of every object in Python, and that the sandbox refuses. */
static bool is_internal(const struct text *name)
{
    return name->bytes > 4 && memcmp(name->data, "__", 2) == 0 &&
           memcmp(name->data + name->bytes - 2, "__", 2) == 0;
}

static struct value own_attribute(struct machine *m, struct value value, const struct text *name)
{
    if (is_internal(name))
        return value_undefined(m, "access to an internal attribute is unsafe");
    if (value.kind == VALUE_NAMESPACE) {
        const struct value *found = dict_get_text(m, value.as.dict, name);
        return found != NULL ? *found : (struct value){.kind = VALUE_ABSENT};
    }
    if (value.kind == VALUE_LOOP)
        return loop_attribute(m, value.as.loop, name);
    if (value.kind == VALUE_MACRO && text_is(name, "name"))
        return macro_name(value.as.macro);
    return method_bind(m, value, name);
}

struct value value_attribute(struct machine *m, struct value value, const struct text *name)
{
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    struct value own = own_attribute(m, value, name);
    if (own.kind != VALUE_ABSENT)
        return own;
    if (value.kind == VALUE_DICT) {
        const struct value *found = dict_get_text(m, value.as.dict, name);
        if (found != NULL)
            return *found;
    }
    return value_missing(m, name, value_type(value));
}

struct value value_item(struct machine *m, struct value value, struct value key)
{
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, value);
    if (value.kind == VALUE_DICT && value_is_hashable(m, key)) {
        const struct value *found = dict_get(m, value.as.dict, key);
        if (found != NULL)
            return *found;
    }
    bool sequence = value.kind == VALUE_TEXT || value.kind == VALUE_LIST ||
                    value.kind == VALUE_TUPLE || value.kind == VALUE_RANGE;
    if (sequence && value_is_integer(key)) {
        struct value found = sequence_at(m, value, value_integer(key));
        if (found.kind != VALUE_ABSENT)
            return found;
    }
    if (key.kind == VALUE_TEXT) {
        struct value own = own_attribute(m, value, key.as.text);
        if (own.kind != VALUE_ABSENT)
            return own;
        return value_missing(m, key.as.text, value_type(value));
    }
    return value_undefined(m, "the object has no such element");
}

static struct value eval_slice(struct render *r, const struct node *node)
{
    struct value of = eval(r, node->left);
    struct value parts[3];
    for (size_t i = 0; i < 3; i++)
        parts[i] = node->items[i] != NULL ? eval(r, node->items[i]) : value_none();
    r->m->line = node->line;
    if (of.kind == VALUE_UNDEFINED)
        value_fail_undefined(r->m, of);
    if (of.kind != VALUE_TEXT && of.kind != VALUE_LIST && of.kind != VALUE_TUPLE &&
        of.kind != VALUE_RANGE)
        machine_fail(r->m, ERR_BAD_INPUT, "'%s' object cannot be sliced", value_type(of));
    return sequence_slice(r->m, of, parts[0], parts[1], parts[2]);
}

static const struct value *eval_items(struct render *r, const struct node *node)
{
    struct value *items = machine_take_array(r->m, node->count, sizeof(*items));
    for (size_t i = 0; i < node->count; i++)
        items[i] = eval(r, node->items[i]);
    return items;
}

static struct value eval_dict(struct render *r, const struct node *node)
{
    struct value dict = value_dict(r->m);
    for (size_t i = 0; i < node->count; i += 2) {
        struct value key = eval(r, node->items[i]);
        struct value value = eval(r, node->items[i + 1]);
        dict_set(r->m, dict.as.dict, key, value);
    }
    return dict;
}

static struct value eval_concat(struct render *r, const struct node *node)
{
    const struct text *joined = text_of(r->m, "");
    for (size_t i = 0; i < node->count; i++)
        joined = text_join(r->m, joined, value_to_text(r->m, eval(r, node->items[i])));
    return value_text(joined);
}

static struct value lists_join(struct machine *m, struct value a, struct value b)
{
    const struct list *x = a.as.list, *y = b.as.list;
    struct value *items = machine_take_array(m, x->count + y->count, sizeof(*items));
    if (x->count > 0)
        memcpy(items, x->items, x->count * sizeof(*items));
    if (y->count > 0)
        memcpy(items + x->count, y->items, y->count * sizeof(*items));
    return a.kind == VALUE_LIST ? value_list(m, items, x->count + y->count)
                                : value_tuple(m, items, x->count + y->count);
}

static struct value list_repeat(struct machine *m, struct value of, int64_t times)
{
    const struct list *list = of.as.list;
    size_t rounds = times > 0 ? (size_t)times : 0, count;
    if (__builtin_mul_overflow(rounds, list->count, &count))
        machine_fail(m, ERR_FULL, "more memory than a render may take");
    struct value *items = machine_take_array(m, count, sizeof(*items));
    for (size_t i = 0; i < count; i++)
        items[i] = list->items[i % list->count];
    return of.kind == VALUE_LIST ? value_list(m, items, count) : value_tuple(m, items, count);
}

static struct value texts_add(struct machine *m, const struct text *a, const struct text *b)
{
    if (a->markup || b->markup) {
        a = text_escape(m, a);
        b = text_escape(m, b);
    }
    return value_text(text_join(m, a, b));
}

static struct value combine(struct render *r, char op, struct value a, struct value b)
{
    struct machine *m = r->m;
    if (value_is_number(a) && value_is_number(b))
        return number_combine(m, op, a, b);
    if (op == '%' && a.kind == VALUE_TEXT)
        return text_percent(m, a.as.text, b);
    if (a.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, a);
    if (b.kind == VALUE_UNDEFINED)
        value_fail_undefined(m, b);
    if (op == '+' && a.kind == VALUE_TEXT && b.kind == VALUE_TEXT)
        return texts_add(m, a.as.text, b.as.text);
    if (op == '+' && a.kind == b.kind && (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE))
        return lists_join(m, a, b);
    if (op == '*' && value_is_integer(a)) {
        struct value swap = a;
        a = b;
        b = swap;
    }
    if (op == '*' && value_is_integer(b)) {
        if (a.kind == VALUE_TEXT)
            return value_text(text_repeat(m, a.as.text, value_integer(b)));
        if (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE)
            return list_repeat(m, a, value_integer(b));
    }
    char name[3] = {op == 'D' ? '/' : op == 'P' ? '*' : op, op == 'D' ? '/' : op == 'P' ? '*' : 0};
    machine_fail(m, ERR_BAD_INPUT, "unsupported operand types for %s: '%s' and '%s'", name,
                 value_type(a), value_type(b));
}

static bool compare(struct machine *m, char op, struct value a, struct value b)
{
    int order;
    switch (op) {
    case OPERATOR_EQUAL:
        return value_equal(m, a, b);
    case OPERATOR_DIFFER:
        return !value_equal(m, a, b);
    case 'I':
        return value_contains(m, b, a);
    case 'X':
        return !value_contains(m, b, a);
    case '<':
        return value_compare(m, a, b, "<") == -1;
    case '>':
        return value_compare(m, a, b, ">") == 1;
    case OPERATOR_AT_MOST:
        order = value_compare(m, a, b, "<=");
        return order == -1 || order == 0;
    default:
        order = value_compare(m, a, b, ">=");
        return order == 1 || order == 0;
    }
}

static struct value eval_compare(struct render *r, const struct node *node)
{
    struct value left = eval(r, node->left);
    for (size_t i = 0; i < node->count; i++) {
        struct value right = eval(r, node->items[i]);
        r->m->line = node->line;
        if (!compare(r->m, node->as.operators[i], left, right))
            return value_bool(false);
        left = right;
    }
    return value_bool(true);
}

static struct value eval_sign(struct render *r, const struct node *node)
{
    struct value value = eval(r, node->left);
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(r->m, value);
    if (!value_is_number(value))
        machine_fail(r->m, ERR_BAD_INPUT, "bad operand type for a sign: '%s'", value_type(value));
    if (node->kind == NODE_PLUS)
        return value.kind == VALUE_BOOL ? value_int(value_integer(value)) : value;
    if (value.kind == VALUE_FLOAT)
        return value_float(-value.as.real);
    return number_combine(r->m, '-', value_int(0), value_int(value_integer(value)));
}

static struct value eval_choice(struct render *r, const struct node *node)
{
    if (value_truth(r->m, eval(r, node->left)))
        return eval(r, node->right);
    if (node->other != NULL)
        return eval(r, node->other);
    r->m->line = node->line;
    return value_undefined(r->m, "an inline if was false and has no else");
}

static struct value eval_filter(struct render *r, const struct node *node)
{
    struct value value = eval(r, node->left);
    struct call call = arguments_evaluate(r, node->arguments);
    r->m->line = node->line;
    if (node->as.filter == NULL)
        machine_fail(r->m, ERR_BAD_INPUT, "no filter named '%.*s'",
                     (int)node->constant.as.text->bytes, node->constant.as.text->data);
    return filter_apply(r, node->as.filter, value, &call);
}

static struct value eval_test(struct render *r, const struct node *node)
{
    struct value value = eval(r, node->left);
    struct call call = arguments_evaluate(r, node->arguments);
    r->m->line = node->line;
    if (node->as.test == NULL)
        machine_fail(r->m, ERR_BAD_INPUT, "no test named '%.*s'",
                     (int)node->constant.as.text->bytes, node->constant.as.text->data);
    return value_bool(test_apply(r, node->as.test, value, &call));
}

static struct value eval_pair(struct render *r, const struct node *node)
{
    struct value left = eval(r, node->left);
    if (node->kind == NODE_AND)
        return value_truth(r->m, left) ? eval(r, node->right) : left;
    if (node->kind == NODE_OR)
        return value_truth(r->m, left) ? left : eval(r, node->right);
    struct value right = eval(r, node->right);
    r->m->line = node->line;
    return node->kind == NODE_ITEM ? value_item(r->m, left, right)
                                   : combine(r, node->as.operator, left, right);
}

static struct value eval_kind(struct render *r, const struct node *node)
{
    switch (node->kind) {
    case NODE_CONSTANT:
        return node->constant;
    case NODE_NAME:
        return eval_name(r, node->name);
    case NODE_LIST:
        return value_list(r->m, eval_items(r, node), node->count);
    case NODE_TUPLE:
        return value_tuple(r->m, eval_items(r, node), node->count);
    case NODE_DICT:
        return eval_dict(r, node);
    case NODE_ATTRIBUTE:
        return value_attribute(r->m, eval(r, node->left), node->constant.as.text);
    case NODE_SLICE:
        return eval_slice(r, node);
    case NODE_CALL:
        return eval_call(r, node);
    case NODE_FILTER:
        return eval_filter(r, node);
    case NODE_TEST:
        return eval_test(r, node);
    case NODE_NOT:
        return value_bool(!value_truth(r->m, eval(r, node->left)));
    case NODE_NEGATE:
    case NODE_PLUS:
        return eval_sign(r, node);
    case NODE_CONCAT:
        return eval_concat(r, node);
    case NODE_COMPARE:
        return eval_compare(r, node);
    case NODE_ITEM:
    case NODE_BINARY:
    case NODE_AND:
    case NODE_OR:
        return eval_pair(r, node);
    case NODE_CHOICE:
        return eval_choice(r, node);
    default:
        machine_fail(r->m, ERR_BAD_INPUT, "a statement where an expression is expected");
    }
}

struct value eval(struct render *r, const struct node *node)
{
    machine_enter(r->m);
    machine_spend(r->m, 1);
    r->m->line = node->line;
    struct value value = eval_kind(r, node);
    machine_leave(r->m);
    return value;
}
