/* For loops and what their bodies see as loop. Items are fetched one at a time, and the filter of a
 * for is asked as they are, because a body may change what the filter reads. */
#include <string.h>

#include "model/jinja/eval.h"
#include "model/jinja/methods.h"

static bool item_passes(struct loop *loop, struct value item)
{
    const struct node *node = loop->node;
    if (node->right == NULL)
        return true;
    struct render *r = loop->render;
    struct scope *scope = machine_take(r->m, sizeof(*scope));
    struct scope *back = r->scope;
    r->scope = loop->scope;
    scope_enter(r, scope);
    assign(r, node->target, item);
    bool passes = value_truth(r->m, eval(r, node->right));
    r->scope = back;
    return passes;
}

static bool loop_fetch_source(struct machine *m, struct loop *loop, struct value *item_out)
{
    while (cursor_next(m, &loop->cursor, item_out))
        if (item_passes(loop, *item_out))
            return true;
    return false;
}

static bool loop_fetch(struct machine *m, struct loop *loop, struct value *item_out)
{
    if (loop->rest == NULL)
        return loop_fetch_source(m, loop, item_out);
    if (loop->rest_at >= loop->rest->count)
        return false;
    *item_out = loop->rest->items[loop->rest_at++];
    return true;
}

/* Whether there is a next item, which is fetched and kept. */
static bool loop_look(struct machine *m, struct loop *loop)
{
    if (!loop->has_after)
        loop->has_after = loop_fetch(m, loop, &loop->after);
    return loop->has_after;
}

size_t loop_length(struct machine *m, struct loop *loop)
{
    if (loop->has_length)
        return loop->length;
    if (loop->node->right == NULL && value_has_length(loop->cursor.of)) {
        loop->length = value_length(m, loop->cursor.of);
    } else {
        struct value *items = NULL, item;
        size_t count = 0, room = 0;
        while (loop_fetch_source(m, loop, &item)) {
            items = machine_grow(m, items, count, &room, sizeof(*items));
            items[count++] = item;
        }
        loop->rest = value_list(m, items, count).as.list;
        loop->length = count + (size_t)(loop->index0 + 1) + loop->has_after;
    }
    loop->has_length = true;
    return loop->length;
}

struct value loop_attribute(struct machine *m, struct loop *loop, const struct text *name)
{
    if (text_is(name, "index"))
        return value_int(loop->index0 + 1);
    if (text_is(name, "index0"))
        return value_int(loop->index0);
    if (text_is(name, "first"))
        return value_bool(loop->index0 == 0);
    if (text_is(name, "last"))
        return value_bool(!loop_look(m, loop));
    if (text_is(name, "length"))
        return value_int((int64_t)loop_length(m, loop));
    if (text_is(name, "revindex"))
        return value_int((int64_t)loop_length(m, loop) - loop->index0);
    if (text_is(name, "revindex0"))
        return value_int((int64_t)loop_length(m, loop) - loop->index0 - 1);
    if (text_is(name, "depth"))
        return value_int(loop->depth0 + 1);
    if (text_is(name, "depth0"))
        return value_int(loop->depth0);
    if (text_is(name, "previtem"))
        return loop->index0 == 0 ? value_undefined(m, "there is no previous item") : loop->before;
    if (text_is(name, "nextitem"))
        return loop_look(m, loop) ? loop->after : value_undefined(m, "there is no next item");
    return method_bind(m, (struct value){.kind = VALUE_LOOP, .as.loop = loop}, name);
}

static const struct name *loop_name(const struct render *r)
{
    for (const struct name *name = r->tree->names; name != NULL; name = name->next)
        if (text_is(name->text, "loop"))
            return name;
    return NULL;
}

/* One walk of the loop: the body for each item, or the else. */
static enum flow loop_run(struct render *r, struct loop *loop)
{
    const struct node *node = loop->node;
    const struct name *name = loop_name(r);
    struct scope *scope = machine_take(r->m, sizeof(*scope));
    struct value item;
    bool any = false;
    while (loop->has_after || loop_fetch(r->m, loop, &item)) {
        if (loop->has_after)
            item = loop->after;
        loop->has_after = false;
        loop->index0++;
        loop->before = loop->current;
        loop->current = item;
        scope->count = 0;
        scope_enter(r, scope);
        if (name != NULL)
            scope_set(r, scope, name, (struct value){.kind = VALUE_LOOP, .as.loop = loop});
        r->m->line = node->line;
        assign(r, node->target, item);
        enum flow flow = exec_body(r, node->body);
        scope_leave(r);
        /* As in Jinja, a round that break or continue ended does not keep the else away. */
        any |= flow == FLOW_NEXT;
        if (flow == FLOW_BREAK)
            break;
    }
    if (any || node->other == NULL)
        return FLOW_NEXT;
    struct scope *other = machine_take(r->m, sizeof(*other));
    scope_enter(r, other);
    enum flow flow = exec_body(r, node->other);
    scope_leave(r);
    return flow;
}

static struct loop *loop_make(struct render *r, const struct node *node, struct value of,
                              int64_t depth0)
{
    struct loop *loop = machine_take(r->m, sizeof(*loop));
    loop->render = r;
    loop->node = node;
    loop->scope = r->scope;
    loop->cursor = cursor_open(r->m, of);
    loop->index0 = -1;
    loop->depth0 = depth0;
    return loop;
}

enum flow exec_for(struct render *r, const struct node *node)
{
    struct value of = eval(r, node->left);
    r->m->line = node->line;
    return loop_run(r, loop_make(r, node, of, 0));
}

struct value loop_recurse(struct machine *m, struct loop *loop, const struct call *call)
{
    if (!loop->node->as.recursive)
        machine_fail(m, ERR_BAD_INPUT,
                     "the loop must have the 'recursive' marker to be called recursively");
    struct value of;
    call_bind(m, "loop", call, "iterable", 1, true, &of);
    struct render *r = loop->render;
    struct scope *back = r->scope;
    size_t from = m->output.used;
    r->scope = loop->scope;
    loop_run(r, loop_make(r, loop->node, of, loop->depth0 + 1));
    r->scope = back;
    return value_text(output_cut(m, from));
}
