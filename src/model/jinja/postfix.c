/* The tightest levels of the expression parser: signs, and what follows a primary: attributes,
 * subscripts, calls, filters and tests. */
#include <string.h>

#include "model/jinja/filters.h"
#include "model/jinja/methods.h"
#include "model/jinja/parser.h"
#include "model/jinja/tests.h"

static void argument_add(struct parser *p, struct arguments *arguments, size_t *room)
{
    if (arguments->keyword_count > 0 || arguments->rest != NULL || arguments->keyword_rest != NULL)
        parser_fail(p, "a keyword argument, as the one before was");
    arguments->values =
        machine_grow(p->m, arguments->values, arguments->count, room, sizeof(struct node *));
    arguments->values[arguments->count++] = parse_expression(p);
}

static void keyword_add(struct parser *p, struct arguments *arguments, size_t *room)
{
    if (arguments->keyword_rest != NULL)
        parser_fail(p, "no argument after **");
    struct keyword keyword = {.name = parser_expect_name(p)};
    parser_expect(p, '=');
    for (size_t i = 0; i < arguments->keyword_count; i++)
        if (text_equal(arguments->keywords[i].name, keyword.name))
            machine_fail(p->m, ERR_BAD_INPUT, "keyword argument repeated");
    keyword.value = parse_expression(p);
    arguments->keywords = machine_grow(p->m, arguments->keywords, arguments->keyword_count, room,
                                       sizeof(struct keyword));
    arguments->keywords[arguments->keyword_count++] = keyword;
}

static struct arguments *parse_arguments(struct parser *p)
{
    struct arguments *arguments = machine_take(p->m, sizeof(*arguments));
    size_t room = 0, keyword_room = 0;
    bool first = true;
    parser_expect(p, '(');
    while (!parser_sees(p, ')')) {
        if (!first) {
            parser_expect(p, ',');
            if (parser_sees(p, ')'))
                break;
        }
        first = false;
        const struct token *next = parser_peek(p);
        if (parser_sees(p, '*') && arguments->rest == NULL && arguments->keyword_rest == NULL) {
            parser_skip(p);
            arguments->rest = parse_expression(p);
        } else if (parser_sees(p, OPERATOR_POWER) && arguments->keyword_rest == NULL) {
            parser_skip(p);
            arguments->keyword_rest = parse_expression(p);
        } else if (parser_token(p)->kind == TOKEN_NAME && next->kind == TOKEN_OPERATOR &&
                   next->operator== '=') {
            keyword_add(p, arguments, &keyword_room);
        } else {
            argument_add(p, arguments, &room);
        }
    }
    parser_skip(p);
    return arguments;
}

static struct node *parse_slice_part(struct parser *p)
{
    if (parser_sees(p, ':') || parser_sees(p, ']') || parser_sees(p, ','))
        return NULL;
    return parse_expression(p);
}

/* One of the comma-separated parts in brackets: an index, or a slice (of nothing yet). */
static struct node *parse_subscript_part(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *start = NULL;
    if (!parser_sees(p, ':')) {
        start = parse_expression(p);
        if (!parser_sees(p, ':'))
            return start;
    }
    parser_skip(p);
    struct node *node = parser_node(p, NODE_SLICE, line);
    node->items = machine_take_array(p->m, 3, sizeof(struct node *));
    node->items[0] = start;
    node->items[1] = parse_slice_part(p);
    node->items[2] = parser_take(p, ':') ? parse_slice_part(p) : NULL;
    return node;
}

static struct node *parse_subscript(struct parser *p, struct node *left)
{
    struct node *node = parser_node(p, NODE_ITEM, parser_token(p)->line);
    parser_skip(p);
    struct node *tuple = parser_node(p, NODE_TUPLE, node->line);
    size_t room = 0;
    while (!parser_sees(p, ']')) {
        if (tuple->count > 0)
            parser_expect(p, ',');
        node_add(p, tuple, &room, parse_subscript_part(p));
    }
    parser_skip(p);
    node->left = left;
    node->right = tuple->count == 1 ? tuple->items[0] : tuple;
    for (size_t i = 0; i < tuple->count && tuple->count != 1; i++)
        if (tuple->items[i]->kind == NODE_SLICE)
            machine_fail(p->m, ERR_UNSUPPORTED, "several slices in one subscript are not built");
    if (node->right->kind == NODE_SLICE) {
        node->right->left = left;
        return node->right;
    }
    return node;
}

static struct node *parse_attribute(struct parser *p, struct node *left)
{
    uint32_t line = parser_token(p)->line;
    parser_skip(p);
    const struct token *token = parser_token(p);
    if (token->kind == TOKEN_INTEGER) {
        struct node *node = parser_node(p, NODE_ITEM, line);
        node->left = left;
        node->right = parser_node(p, NODE_CONSTANT, token->line);
        node->right->constant = value_int(token->integer);
        parser_skip(p);
        return node;
    }
    struct node *node = parser_node(p, NODE_ATTRIBUTE, line);
    node->left = left;
    node->constant = value_text(parser_expect_name(p));
    return node;
}

/* What may be called but is not built is named now, not when a request first gets there. */
static void check_callee(struct parser *p, const struct node *callee)
{
    static const char *const functions[] = {"lipsum", "cycler", "joiner"};
    const struct text *name = callee->kind == NODE_ATTRIBUTE ? callee->constant.as.text
                              : callee->kind == NODE_NAME    ? callee->name->text
                                                             : NULL;
    if (name == NULL)
        return;
    int bytes = (int)(name->bytes < 70 ? name->bytes : 70);
    p->m->line = callee->line;
    if (callee->kind == NODE_ATTRIBUTE && method_is_unbuilt(name))
        machine_fail(p->m, ERR_UNSUPPORTED, "the method '%.*s' is not built", bytes, name->data);
    for (size_t i = 0; callee->kind == NODE_NAME && i < 3; i++)
        if (text_is(name, functions[i]))
            machine_fail(p->m, ERR_UNSUPPORTED, "the function '%s' is not built", functions[i]);
    p->m->line = parser_token(p)->line;
}

static struct node *parse_call(struct parser *p, struct node *callee)
{
    struct node *node = parser_node(p, NODE_CALL, parser_token(p)->line);
    check_callee(p, callee);
    node->left = callee;
    node->arguments = parse_arguments(p);
    return node;
}

static struct node *parse_postfix(struct parser *p, struct node *node)
{
    for (;;) {
        if (parser_sees(p, '.'))
            node = parse_attribute(p, node);
        else if (parser_sees(p, '['))
            node = parse_subscript(p, node);
        else if (parser_sees(p, '('))
            node = parse_call(p, node);
        else
            return node;
    }
}

static void note_unknown(struct parser *p, const char *what, const struct text *name, uint32_t line)
{
    if (!p->soft && p->unknown.what == NULL)
        p->unknown = (struct unknown){.what = what, .name = name, .line = line};
}

/* name or name.name, as some registries have them; here none has a dot. */
static const struct text *parse_dotted(struct parser *p)
{
    const struct text *name = parser_expect_name(p);
    while (parser_take(p, '.')) {
        name = text_join(p->m, name, text_of(p->m, "."));
        name = text_join(p->m, name, parser_expect_name(p));
    }
    return name;
}

static void check_filter(struct parser *p, const struct text *name, uint32_t line)
{
    if (filter_is_unbuilt(name)) {
        p->m->line = line;
        machine_fail(p->m, ERR_UNSUPPORTED, "the filter '%.*s' is not built", (int)name->bytes,
                     name->data);
    }
}

struct node *parse_filters(struct parser *p, struct node *left, bool first)
{
    while (first || parser_sees(p, '|')) {
        if (!first)
            parser_skip(p);
        first = false;
        struct node *node = parser_node(p, NODE_FILTER, parser_token(p)->line);
        const struct text *name = parse_dotted(p);
        check_filter(p, name, node->line);
        node->left = left;
        node->constant = value_text(name);
        node->as.filter = filter_find(name);
        if (node->as.filter == NULL)
            note_unknown(p, "filter", name, node->line);
        node->arguments =
            parser_sees(p, '(') ? parse_arguments(p) : machine_take(p->m, sizeof(struct arguments));
        /* map('trim') names a filter too. */
        if (text_is(name, "map") && node->arguments->count > 0 &&
            node->arguments->values[0]->kind == NODE_CONSTANT &&
            node->arguments->values[0]->constant.kind == VALUE_TEXT)
            check_filter(p, node->arguments->values[0]->constant.as.text, node->line);
        left = node;
    }
    return left;
}

/* Whether the next token is the test's only argument, written without brackets. */
static bool sees_test_argument(const struct parser *p)
{
    const struct token *token = parser_token(p);
    switch (token->kind) {
    case TOKEN_NAME:
        return !parser_sees_name(p, "else") && !parser_sees_name(p, "or") &&
               !parser_sees_name(p, "and");
    case TOKEN_STRING:
    case TOKEN_INTEGER:
    case TOKEN_REAL:
        return true;
    case TOKEN_OPERATOR:
        return token->operator== '[' || token->operator== '{';
    default:
        return false;
    }
}

static struct node *parse_test(struct parser *p, struct node *left)
{
    struct node *node = parser_node(p, NODE_TEST, parser_token(p)->line);
    parser_skip(p); /* is */
    bool negated = parser_take_name(p, "not");
    const struct text *name = parse_dotted(p);
    node->left = left;
    node->constant = value_text(name);
    node->as.test = test_find(name);
    if (node->as.test == NULL)
        note_unknown(p, "test", name, node->line);
    if (parser_sees(p, '(')) {
        node->arguments = parse_arguments(p);
    } else {
        node->arguments = machine_take(p->m, sizeof(struct arguments));
        if (sees_test_argument(p)) {
            if (parser_sees_name(p, "is"))
                parser_fail(p, "no second test with 'is'");
            node->arguments->values = machine_take_array(p->m, 1, sizeof(struct node *));
            node->arguments->values[0] = parse_postfix(p, parse_primary(p, false));
            node->arguments->count = 1;
        }
    }
    if (!negated)
        return node;
    struct node *not = parser_node(p, NODE_NOT, node->line);
    not ->left = node;
    return not ;
}

struct node *parse_unary(struct parser *p, bool filters)
{
    struct node *node;
    uint32_t line = parser_token(p)->line;
    bool minus = parser_take(p, '-');
    if (minus || parser_take(p, '+')) {
        machine_enter(p->m);
        node = parser_node(p, minus ? NODE_NEGATE : NODE_PLUS, line);
        node->left = parse_unary(p, false);
        machine_leave(p->m);
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    for (;;) {
        if (filters && parser_sees(p, '|'))
            node = parse_filters(p, node, false);
        else if (filters && parser_sees_name(p, "is"))
            node = parse_test(p, node);
        else if (filters && parser_sees(p, '('))
            node = parse_call(p, node);
        else
            return node;
    }
}
