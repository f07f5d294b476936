/* The expression half of the parser, one function a level of precedence, loosest first:
 * choice, or, and, not, comparison, + -, ~, * / // %, **, then postfix.c. And what stands alone. */
#include <stdio.h>
#include <string.h>

#include "model/jinja/parser.h"

static struct node *parse_choice(struct parser *p);

struct node *parse_expression(struct parser *p)
{
    machine_enter(p->m);
    struct node *node = parse_choice(p);
    machine_leave(p->m);
    return node;
}

static bool name_is_one_of(const struct text *name, const char *const *names)
{
    for (; *names != NULL; names++)
        if (text_is(name, *names))
            return true;
    return false;
}

static struct node *parse_pair(struct parser *p, enum node_kind kind, uint32_t line,
                               struct node *left, struct node *right)
{
    struct node *node = parser_node(p, kind, line);
    node->left = left;
    node->right = right;
    return node;
}

static struct node *parse_power(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *left = parse_unary(p, true);
    while (parser_take(p, OPERATOR_POWER)) {
        left = parse_pair(p, NODE_BINARY, line, left, parse_unary(p, true));
        left->as.operator= OPERATOR_POWER;
    }
    return left;
}

static struct node *parse_binary(struct parser *p, const char *operators,
                                 struct node *(*below)(struct parser *p))
{
    uint32_t line = parser_token(p)->line;
    struct node *left = below(p);
    while (parser_token(p)->kind == TOKEN_OPERATOR &&
           strchr(operators, parser_token(p)->operator) != NULL) {
        char operator= parser_token(p)->operator;
        parser_skip(p);
        left = parse_pair(p, NODE_BINARY, line, left, below(p));
        left->as.operator= operator;
    }
    return left;
}

static struct node *parse_product(struct parser *p)
{
    return parse_binary(p, "*/D%", parse_power);
}

static struct node *parse_concat(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *first = parse_product(p);
    if (!parser_sees(p, '~'))
        return first;
    struct node *node = parser_node(p, NODE_CONCAT, line);
    size_t room = 0;
    node_add(p, node, &room, first);
    while (parser_take(p, '~'))
        node_add(p, node, &room, parse_product(p));
    return node;
}

static struct node *parse_sum(struct parser *p)
{
    return parse_binary(p, "+-", parse_concat);
}

/* The comparison that comes next, passed, or 0. */
static char take_comparison(struct parser *p)
{
    const struct token *token = parser_token(p);
    if (token->kind == TOKEN_OPERATOR && strchr("<>ENGL", token->operator) != NULL) {
        char operator= token->operator;
        parser_skip(p);
        return operator;
    }
    if (parser_take_name(p, "in"))
        return 'I';
    const struct token *next = parser_peek(p);
    if (parser_sees_name(p, "not") && next->kind == TOKEN_NAME && text_is(next->text, "in")) {
        parser_skip(p);
        parser_skip(p);
        return 'X';
    }
    return 0;
}

static struct node *parse_comparison(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *left = parse_sum(p), *node = NULL;
    char *operators = NULL;
    size_t room = 0, operator_room = 0;
    for (char operator= take_comparison(p); operator!= 0; operator= take_comparison(p)) {
        if (node == NULL) {
            node = parser_node(p, NODE_COMPARE, line);
            node->left = left;
        }
        operators = machine_grow(p->m, operators, node->count, &operator_room, 1);
        operators[node->count] = operator;
        node_add(p, node, &room, parse_sum(p));
        node->as.operators = operators;
    }
    return node != NULL ? node : left;
}

static struct node *parse_not(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    if (!parser_take_name(p, "not"))
        return parse_comparison(p);
    machine_enter(p->m);
    struct node *node = parse_pair(p, NODE_NOT, line, parse_not(p), NULL);
    machine_leave(p->m);
    return node;
}

static struct node *parse_and(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *left = parse_not(p);
    while (parser_take_name(p, "and"))
        left = parse_pair(p, NODE_AND, line, left, parse_not(p));
    return left;
}

static struct node *parse_or(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct node *left = parse_and(p);
    while (parser_take_name(p, "or"))
        left = parse_pair(p, NODE_OR, line, left, parse_and(p));
    return left;
}

static struct node *parse_choice(struct parser *p)
{
    uint32_t line = parser_token(p)->line;
    struct unknown unknown = p->unknown;
    struct node *node = parse_or(p);
    if (!parser_sees_name(p, "if"))
        return node;
    /* A choice makes its parts soft, the first one too, as is now known. */
    bool soft = p->soft;
    p->soft = true;
    p->unknown = unknown;
    while (parser_take_name(p, "if")) {
        struct node *choice = parser_node(p, NODE_CHOICE, line);
        choice->right = node;
        choice->left = parse_or(p);
        if (parser_take_name(p, "else"))
            choice->other = parse_expression(p);
        node = choice;
    }
    p->soft = soft;
    return node;
}

static struct node *parse_list(struct parser *p, uint32_t line)
{
    struct node *node = parser_node(p, NODE_LIST, line);
    size_t room = 0;
    while (!parser_sees(p, ']')) {
        if (node->count > 0) {
            parser_expect(p, ',');
            if (parser_sees(p, ']'))
                break;
        }
        node_add(p, node, &room, parse_expression(p));
    }
    parser_skip(p);
    return node;
}

static struct node *parse_dict(struct parser *p, uint32_t line)
{
    struct node *node = parser_node(p, NODE_DICT, line);
    size_t room = 0;
    while (!parser_sees(p, '}')) {
        if (node->count > 0) {
            parser_expect(p, ',');
            if (parser_sees(p, '}'))
                break;
        }
        node_add(p, node, &room, parse_expression(p));
        parser_expect(p, ':');
        node_add(p, node, &room, parse_expression(p));
    }
    parser_skip(p);
    return node;
}

/* The items of a tuple; parse gives one. A single item without a comma is that item. */
static struct node *parse_items(struct parser *p, struct node *(*parse)(struct parser *p),
                                bool in_brackets)
{
    struct node *node = parser_node(p, NODE_TUPLE, parser_token(p)->line);
    size_t room = 0;
    bool comma = false;
    for (;;) {
        const struct token *token = parser_token(p);
        if (token->kind == TOKEN_PRINT_END || token->kind == TOKEN_BLOCK_END || parser_sees(p, ')'))
            break;
        node_add(p, node, &room, parse(p));
        if (!parser_take(p, ','))
            break;
        comma = true;
    }
    if (comma)
        return node;
    if (node->count == 1)
        return node->items[0];
    if (!in_brackets)
        parser_fail(p, "an expression");
    return node;
}

static struct node *parse_no_choice(struct parser *p)
{
    machine_enter(p->m);
    struct node *node = parse_or(p);
    machine_leave(p->m);
    return node;
}

struct node *parse_tuple(struct parser *p, bool choice)
{
    return parse_items(p, choice ? parse_expression : parse_no_choice, false);
}

static struct node *parse_name_target(struct parser *p)
{
    return parse_primary(p, false);
}

static struct node *parse_any_target(struct parser *p)
{
    return parse_primary(p, true);
}

static void check_target(struct parser *p, const struct node *target)
{
    if (target->kind == NODE_TUPLE) {
        for (size_t i = 0; i < target->count; i++)
            check_target(p, target->items[i]);
        return;
    }
    if (target->kind != NODE_NAME && target->kind != NODE_NS_TARGET)
        machine_fail(p->m, ERR_BAD_INPUT, "cannot assign to this expression");
}

struct node *parse_target(struct parser *p, bool namespaces)
{
    struct node *target = parse_items(p, namespaces ? parse_any_target : parse_name_target, false);
    check_target(p, target);
    return target;
}

static struct node *parse_name(struct parser *p, const struct token *token, bool namespaces)
{
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None", NULL};
    if (name_is_one_of(token->text, constants)) {
        struct node *node = parser_node(p, NODE_CONSTANT, token->line);
        char letter = (char)(token->text->data[0] | 0x20);
        node->constant = letter == 'n' ? value_none() : value_bool(letter == 't');
        return node;
    }
    struct node *node = parser_node(p, NODE_NAME, token->line);
    node->name = parser_name(p, token->text);
    if (namespaces && parser_take(p, '.')) {
        node->kind = NODE_NS_TARGET;
        node->constant = value_text(parser_expect_name(p));
        return node;
    }
    node->name->read = true;
    p->saw_rest |= text_is(token->text, "varargs");
    p->saw_keywords |= text_is(token->text, "kwargs");
    p->saw_caller |= text_is(token->text, "caller");
    return node;
}

static struct node *parse_strings(struct parser *p, struct node *node)
{
    const struct text *text = parser_token(p)->text;
    parser_skip(p);
    while (parser_token(p)->kind == TOKEN_STRING) {
        text = text_join(p->m, text, parser_token(p)->text);
        parser_skip(p);
    }
    /* Renders on other threads must not append in place to what all of them share. */
    node->constant = value_text(text_copy(p->m, text->data, text->bytes));
    return node;
}

struct node *parse_primary(struct parser *p, bool namespaces)
{
    const struct token *token = parser_token(p);
    struct node *node = NULL;
    if (token->kind == TOKEN_NAME) {
        parser_skip(p);
        return parse_name(p, token, namespaces);
    }
    if (token->kind == TOKEN_STRING)
        return parse_strings(p, parser_node(p, NODE_CONSTANT, token->line));
    if (token->kind == TOKEN_INTEGER || token->kind == TOKEN_REAL) {
        parser_skip(p);
        node = parser_node(p, NODE_CONSTANT, token->line);
        node->constant =
            token->kind == TOKEN_INTEGER ? value_int(token->integer) : value_float(token->real);
        return node;
    }
    if (parser_take(p, '(')) {
        node = parse_items(p, parse_expression, true);
        parser_expect(p, ')');
        return node;
    }
    if (parser_take(p, '['))
        return parse_list(p, token->line);
    if (parser_take(p, '{'))
        return parse_dict(p, token->line);
    parser_fail(p, "an expression");
}
