/* model/jinja/eval.h - runs a tree.
 *
 *     render { machine, tree, globals[name], scope -> scope -> ... }
 *
 * A scope is what {% set %} writes to: the template, each round of a for, each macro call and block
 * has its own, and sees those around it. A name that no scope has is a variable of the request,
 * then a function (range, dict, namespace, raise_exception, strftime_now), then undefined.
 *
 * Threads: one render, one thread; the tree is shared. Memory: the machine's arena.
 */
#ifndef MODEL_JINJA_EVAL_H
#define MODEL_JINJA_EVAL_H

#include "model/jinja/ast.h"
#include "model/jinja/value.h"

struct binding {
    const struct name *name;
    struct value value;
};

struct scope {
    struct scope *around;
    struct binding *bindings;
    size_t count, room;
};

struct render {
    struct machine *m;
    const struct tree *tree;
    struct value *globals; /* [name_count]; VALUE_ABSENT: not there */
    struct scope *scope;
};

struct macro {
    struct render *render;
    const struct node *node; /* MACRO or CALL_BLOCK */
    struct scope *scope;     /* where it was defined */
};

/* A for loop while it runs: what its body sees as loop. */
struct loop {
    struct render *render;
    const struct node *node;
    struct scope *scope; /* around the loop */
    struct cursor cursor;
    const struct list *rest; /* when its length was asked before the walk was over */
    size_t rest_at;
    bool has_after, has_length;
    struct value after, before, current, changed;
    int64_t index0, depth0;
    size_t length;
};

/* Arguments of one call, evaluated. */
struct call {
    size_t count, keyword_count;
    const struct value *values;
    const struct keyword_value *keywords;
};

struct keyword_value {
    const struct text *name;
    struct value value;
};

/* How a statement ended. */
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

struct value eval(struct render *r, const struct node *node);
enum flow exec_body(struct render *r, const struct node *body);
/* Run body and cut what it wrote off the output. A break or continue in it drops that. */
const struct text *exec_captured(struct render *r, const struct node *body, enum flow *flow_out);

/* A scope in the current one; until scope_leave. */
void scope_enter(struct render *r, struct scope *scope);
void scope_leave(struct render *r);
void scope_set(struct render *r, struct scope *scope, const struct name *name, struct value value);
/* Give values to a target: a name, a namespace's attribute, or a tuple of targets. */
void assign(struct render *r, const struct node *target, struct value value);

/* loop.c */
enum flow exec_for(struct render *r, const struct node *node);
size_t loop_length(struct machine *m, struct loop *loop);
struct value loop_attribute(struct machine *m, struct loop *loop, const struct text *name);
/* loop(items) in a recursive loop. */
struct value loop_recurse(struct machine *m, struct loop *loop, const struct call *call);

/* call.c */
struct value eval_call(struct render *r, const struct node *node);
/* args[0] is put before the node's own when it is not ABSENT; for filters and tests. */
struct call arguments_evaluate(struct render *r, const struct arguments *arguments);
struct value value_call(struct render *r, struct value callee, const struct call *call);
struct value macro_call(struct render *r, const struct macro *macro, const struct call *call);
struct value macro_name(const struct macro *macro);
/* The function of this name, or ABSENT. */
struct value function_find(const struct text *name);

/* Sort a call's arguments into values_out, one for each word of parameters ("width first blank"),
 * ABSENT when not given. required: how many must be there. keywords: whether they may be given by
 * name. who: for errors. */
void call_bind(struct machine *m, const char *who, const struct call *call, const char *parameters,
               size_t required, bool keywords, struct value *values_out);

/* The attribute or item as templates see it, value.name and value[key], or undefined. */
struct value value_attribute(struct machine *m, struct value value, const struct text *name);
struct value value_item(struct machine *m, struct value value, struct value key);

/* What the output holds from byte from on, cut off it. */
const struct text *output_cut(struct machine *m, size_t from);

#endif
