#include "model/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/jinja/eval.h"
#include "model/jinja/json.h"
#include "model/jinja/parser.h"

#define PARSE_MEMORY_BYTES (256u << 20)
#define PARSE_STEPS 20000000u
#define PARSE_DEPTH 200u

const struct chat_template_limits chat_template_limits_default = {
    .steps = 20000000,
    .output_bytes = 16u << 20,
    .memory_bytes = 128u << 20,
    .depth = 400,
};

struct chat_template {
    struct arena *arena; /* of the tree */
    const struct tree *tree;
};

struct source {
    const char *data;
    size_t bytes;
    const struct tree *tree_out;
};

static void parse(struct machine *m, void *context)
{
    struct source *source = context;
    source->tree_out = parser_read(m, source->data, source->bytes);
}

status chat_template_open(const char *source, size_t source_bytes,
                          struct chat_template **template_out)
{
    if (source_bytes > CHAT_TEMPLATE_SOURCE_BYTES)
        return error_set(ERR_BAD_INPUT, "chat template of %zu bytes: at most %d are read",
                         source_bytes, CHAT_TEMPLATE_SOURCE_BYTES);
    if (!text_valid(source, source_bytes))
        return error_set(ERR_BAD_INPUT, "chat template is not valid UTF-8");
    struct chat_template *tmpl = calloc(1, sizeof(*tmpl));
    if (tmpl == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a chat template");
    status code = arena_open(PARSE_MEMORY_BYTES, &tmpl->arena);
    if (code != OK) {
        free(tmpl);
        return code;
    }
    struct machine m = {
        .arena = tmpl->arena, .steps_left = PARSE_STEPS, .depth_limit = PARSE_DEPTH, .line = 1};
    struct source context = {.data = source, .bytes = source_bytes};
    code = machine_run(&m, parse, &context);
    if (code != OK) {
        chat_template_close(tmpl);
        return code;
    }
    tmpl->tree = context.tree_out;
    *template_out = tmpl;
    return OK;
}

void chat_template_close(struct chat_template *tmpl)
{
    if (tmpl == NULL)
        return;
    arena_close(tmpl->arena);
    free(tmpl);
}

bool chat_template_reads(const struct chat_template *tmpl, const char *name)
{
    for (const struct name *each = tmpl->tree->names; each != NULL; each = each->next)
        if (each->read && text_is(each->text, name))
            return true;
    return false;
}

/* A message with its reasoning under the names that templates read it by: thinking comes first (a
 * message's own stays), reasoning_content last or where it was. */
static struct value message_complete(struct machine *m, struct value message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const struct value *reasoning = NULL;
    for (size_t i = 0; i < 3 && reasoning == NULL; i++) {
        reasoning = dict_get_text(m, message.as.dict, text_of(m, names[i]));
        if (reasoning != NULL && reasoning->kind == VALUE_NONE)
            reasoning = NULL;
    }
    if (reasoning == NULL)
        return message;
    struct value complete = value_dict(m);
    dict_set(m, complete.as.dict, value_text(text_of(m, "thinking")), *reasoning);
    for (size_t i = 0; i < message.as.dict->count; i++) {
        struct dict_entry entry = message.as.dict->entries[i];
        dict_set(m, complete.as.dict, entry.key, entry.value);
    }
    dict_set(m, complete.as.dict, value_text(text_of(m, "reasoning_content")), *reasoning);
    return complete;
}

static struct value messages_complete(struct machine *m, struct value messages)
{
    if (messages.kind != VALUE_LIST)
        machine_fail(m, ERR_BAD_INPUT, "messages must be an array, not '%s'", value_type(messages));
    const struct list *list = messages.as.list;
    struct value *complete = machine_take_array(m, list->count, sizeof(*complete));
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].kind != VALUE_DICT)
            machine_fail(m, ERR_BAD_INPUT, "messages[%zu] must be an object, not '%s'", i,
                         value_type(list->items[i]));
        complete[i] = message_complete(m, list->items[i]);
    }
    return value_list(m, complete, list->count);
}

struct request {
    const struct chat_template *tmpl;
    const json_t *variables;
};

/* What a name means before the template sets it. */
static struct value global_find(struct machine *m, const struct name *name, const json_t *variables)
{
    const struct text *text = name->text;
    struct value found = {.kind = VALUE_ABSENT};
    /* Names are ASCII words; a copy ends in a NUL. */
    const json_t *json = json_object_get(variables, text_copy(m, text->data, text->bytes)->data);
    if (json != NULL)
        found = value_from_json(m, json);
    if (text_is(text, "messages"))
        return messages_complete(m, json != NULL ? found : value_list(m, NULL, 0));
    if (json != NULL)
        return found;
    if (text_is(text, "tools") || text_is(text, "documents"))
        return value_none();
    if (text_is(text, "add_generation_prompt"))
        return value_bool(false);
    return function_find(text);
}

static void render(struct machine *m, void *context)
{
    const struct request *request = context;
    const struct tree *tree = request->tmpl->tree;
    struct render *r = machine_take(m, sizeof(*r));
    struct scope *scope = machine_take(m, sizeof(*scope));
    r->m = m;
    r->tree = tree;
    r->globals = machine_take_array(m, tree->name_count, sizeof(*r->globals));
    for (const struct name *name = tree->names; name != NULL; name = name->next)
        r->globals[name->index] = global_find(m, name, request->variables);
    scope_enter(r, scope);
    exec_body(r, tree->body);
    output_write(m, "", 1); /* a NUL, which is not counted */
}

status chat_template_render(const struct chat_template *tmpl, const json_t *variables,
                            const struct tm *now, const struct chat_template_limits *limits,
                            char **text_out, size_t *bytes_out)
{
    if (limits == NULL)
        limits = &chat_template_limits_default;
    if (!json_is_object(variables))
        return error_set(ERR_BAD_INPUT, "a chat template's variables must be an object");
    struct arena *arena;
    status code = arena_open(limits->memory_bytes, &arena);
    if (code != OK)
        return code;
    struct machine m = {.arena = arena,
                        .steps_left = limits->steps,
                        .depth_limit = limits->depth,
                        .line = 1,
                        .now = now};
    m.output.limit_bytes = limits->output_bytes < SIZE_MAX ? limits->output_bytes + 1 : SIZE_MAX;
    struct request context = {.tmpl = tmpl, .variables = variables};
    code = machine_run(&m, render, &context);
    if (code == OK) {
        *text_out = m.output.data;
        *bytes_out = m.output.used - 1;
    } else {
        free(m.output.data);
    }
    arena_close(arena);
    return code;
}
