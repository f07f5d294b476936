/* The statements. */
#include "model/jinja/eval.h"
#include "model/jinja/filters.h"

const struct text *exec_captured(struct render *r, const struct node *body, enum flow *flow_out)
{
    size_t from = r->m->output.used;
    *flow_out = exec_body(r, body);
    return output_cut(r->m, from);
}

static struct scope *scope_open(struct render *r)
{
    struct scope *scope = machine_take(r->m, sizeof(*scope));
    scope_enter(r, scope);
    return scope;
}

/* A chain of filters whose innermost has no left: value goes there. */
static struct value filter_chain(struct render *r, const struct node *node, struct value value)
{
    if (node->left != NULL) {
        machine_enter(r->m);
        value = filter_chain(r, node->left, value);
        machine_leave(r->m);
    }
    struct call call = arguments_evaluate(r, node->arguments);
    r->m->line = node->line;
    if (node->as.filter == NULL)
        machine_fail(r->m, ERR_BAD_INPUT, "no such filter");
    return filter_apply(r, node->as.filter, value, &call);
}

static enum flow exec_if(struct render *r, const struct node *node)
{
    for (; node != NULL && node->kind == NODE_IF; node = node->other) {
        r->m->line = node->line;
        machine_spend(r->m, 1);
        if (value_truth(r->m, eval(r, node->left)))
            return exec_body(r, node->body);
    }
    return node != NULL ? exec_body(r, node) : FLOW_NEXT;
}

static enum flow exec_set_block(struct render *r, const struct node *node)
{
    enum flow flow;
    scope_open(r);
    struct value value = value_text(exec_captured(r, node->body, &flow));
    if (flow == FLOW_NEXT && node->left != NULL)
        value = filter_chain(r, node->left, value);
    scope_leave(r);
    if (flow == FLOW_NEXT)
        assign(r, node->target, value);
    return flow;
}

static enum flow exec_filter_block(struct render *r, const struct node *node)
{
    enum flow flow;
    scope_open(r);
    struct value value = value_text(exec_captured(r, node->body, &flow));
    if (flow == FLOW_NEXT)
        value_print(r->m, filter_chain(r, node->left, value));
    scope_leave(r);
    return flow;
}

/* The values are computed outside, then all given inside. */
static enum flow exec_with(struct render *r, const struct node *node)
{
    struct value *values = machine_take_array(r->m, node->count, sizeof(*values));
    for (size_t i = 1; i < node->count; i += 2)
        values[i] = eval(r, node->items[i]);
    scope_open(r);
    for (size_t i = 0; i < node->count; i += 2)
        assign(r, node->items[i], values[i + 1]);
    enum flow flow = exec_body(r, node->body);
    scope_leave(r);
    return flow;
}

static struct value macro_make(struct render *r, const struct node *node)
{
    struct macro *macro = machine_take(r->m, sizeof(*macro));
    macro->render = r;
    macro->node = node;
    macro->scope = r->scope;
    return (struct value){.kind = VALUE_MACRO, .as.macro = macro};
}

static void exec_call_block(struct render *r, const struct node *node)
{
    struct value callee = eval(r, node->left->left);
    struct call call = arguments_evaluate(r, node->left->arguments);
    struct keyword_value *keywords =
        machine_take_array(r->m, call.keyword_count + 1, sizeof(*keywords));
    for (size_t i = 0; i < call.keyword_count; i++)
        keywords[i] = call.keywords[i];
    keywords[call.keyword_count].name = text_of(r->m, "caller");
    keywords[call.keyword_count].value = macro_make(r, node);
    call.keywords = keywords;
    call.keyword_count++;
    r->m->line = node->line;
    value_print(r->m, value_call(r, callee, &call));
}

static enum flow exec_statement(struct render *r, const struct node *node)
{
    enum flow flow = FLOW_NEXT;
    switch (node->kind) {
    case NODE_TEXT:
        output_write(r->m, node->constant.as.text->data, node->constant.as.text->bytes);
        return FLOW_NEXT;
    case NODE_PRINT:
        value_print(r->m, eval(r, node->left));
        return FLOW_NEXT;
    case NODE_BODY:
        return exec_body(r, node);
    case NODE_IF:
        return exec_if(r, node);
    case NODE_FOR:
        return exec_for(r, node);
    case NODE_SET:
        assign(r, node->target, eval(r, node->left));
        return FLOW_NEXT;
    case NODE_SET_BLOCK:
        return exec_set_block(r, node);
    case NODE_MACRO:
        scope_set(r, r->scope, node->name, macro_make(r, node));
        return FLOW_NEXT;
    case NODE_CALL_BLOCK:
        exec_call_block(r, node);
        return FLOW_NEXT;
    case NODE_FILTER_BLOCK:
        return exec_filter_block(r, node);
    case NODE_WITH:
        return exec_with(r, node);
    case NODE_SCOPE:
        scope_open(r);
        flow = exec_body(r, node->body);
        scope_leave(r);
        return flow;
    case NODE_BREAK:
        return FLOW_BREAK;
    case NODE_CONTINUE:
        return FLOW_CONTINUE;
    default:
        machine_fail(r->m, ERR_BAD_INPUT, "an expression where a statement is expected");
    }
}

enum flow exec_body(struct render *r, const struct node *body)
{
    machine_enter(r->m);
    enum flow flow = FLOW_NEXT;
    for (size_t i = 0; i < body->count && flow == FLOW_NEXT; i++) {
        machine_spend(r->m, 1);
        r->m->line = body->items[i]->line;
        flow = exec_statement(r, body->items[i]);
    }
    machine_leave(r->m);
    return flow;
}
