/* Calls of macros and of call blocks' bodies. */
#include <string.h>

#include "model/jinja/eval.h"

struct value macro_name(const struct macro *macro)
{
    return macro->node->name != NULL ? value_text(macro->node->name->text) : value_none();
}

static const struct name *name_find(const struct render *r, const char *text)
{
    for (const struct name *name = r->tree->names; name != NULL; name = name->next)
        if (text_is(name->text, text))
            return name;
    return NULL;
}

static const struct keyword_value *keyword_find(const struct call *call, const struct text *name)
{
    for (size_t i = 0; i < call->keyword_count; i++)
        if (text_equal(call->keywords[i].name, name))
            return &call->keywords[i];
    return NULL;
}

/* Whether the keyword went to a parameter: those that no positional argument filled. */
static bool keyword_is_taken(const struct node *node, const struct call *call,
                             const struct text *name)
{
    for (size_t i = call->count; i < node->parameter_count; i++)
        if (text_equal(node->parameters[i].name->text, name))
            return true;
    return false;
}

/* Set the parameters in the macro's scope; defaults see the parameters before them. */
static void bind_parameters(struct render *r, const struct node *node, const struct call *call)
{
    struct machine *m = r->m;
    for (size_t i = 0; i < node->parameter_count; i++) {
        const struct parameter *parameter = &node->parameters[i];
        const struct keyword_value *keyword =
            i < call->count ? NULL : keyword_find(call, parameter->name->text);
        struct value value;
        if (i < call->count)
            value = call->values[i];
        else if (keyword != NULL)
            value = keyword->value;
        else if (parameter->otherwise != NULL)
            value = eval(r, parameter->otherwise);
        else
            value = value_undefined(m, "a macro's parameter was not provided");
        scope_set(r, r->scope, parameter->name, value);
    }
}

/* What no parameter takes: varargs, kwargs and caller, where the body reads them. */
static void bind_rest(struct render *r, const struct node *node, const struct call *call)
{
    struct machine *m = r->m;
    struct value rest_keywords = value_dict(m);
    struct value caller = value_undefined(m, "no caller defined");
    for (size_t i = 0; i < call->keyword_count; i++) {
        const struct keyword_value *keyword = &call->keywords[i];
        if (keyword_is_taken(node, call, keyword->name))
            continue;
        if (node->takes_caller && text_is(keyword->name, "caller"))
            caller = keyword->value;
        else if (node->takes_keywords)
            dict_set(m, rest_keywords.as.dict, value_text(keyword->name), keyword->value);
        else
            machine_fail(m, ERR_BAD_INPUT, "a macro takes no keyword argument '%.*s'",
                         (int)(keyword->name->bytes < 70 ? keyword->name->bytes : 70),
                         keyword->name->data);
    }
    if (node->takes_caller && !keyword_is_taken(node, &(struct call){0}, text_of(m, "caller")))
        scope_set(r, r->scope, name_find(r, "caller"), caller);
    if (node->takes_keywords)
        scope_set(r, r->scope, name_find(r, "kwargs"), rest_keywords);
    size_t extra = call->count > node->parameter_count ? call->count - node->parameter_count : 0;
    if (extra > 0 && !node->takes_rest)
        machine_fail(m, ERR_BAD_INPUT, "a macro takes not more than %zu arguments",
                     node->parameter_count);
    if (node->takes_rest)
        scope_set(r, r->scope, name_find(r, "varargs"),
                  value_tuple(m, extra > 0 ? call->values + node->parameter_count : NULL, extra));
}

struct value macro_call(struct render *r, const struct macro *macro, const struct call *call)
{
    struct machine *m = r->m;
    machine_enter(m);
    struct scope *back = r->scope;
    struct scope *scope = machine_take(m, sizeof(*scope));
    r->scope = macro->scope;
    scope_enter(r, scope);
    bind_parameters(r, macro->node, call);
    bind_rest(r, macro->node, call);
    enum flow flow;
    const struct text *text = exec_captured(r, macro->node->body, &flow);
    r->scope = back;
    machine_leave(m);
    return value_text(text);
}
