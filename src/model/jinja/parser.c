#include "model/jinja/parser.h"

#include <stdio.h>
#include <string.h>

const struct token *parser_token(const struct parser *p)
{
    return &p->list.tokens[p->at];
}

const struct token *parser_peek(const struct parser *p)
{
    return &p->list.tokens[p->at + 1 < p->list.count ? p->at + 1 : p->at];
}

void parser_skip(struct parser *p)
{
    machine_spend(p->m, 1);
    if (p->at + 1 < p->list.count)
        p->at++;
    p->m->line = parser_token(p)->line;
}

bool parser_sees(const struct parser *p, char operator)
{
    return parser_token(p)->kind == TOKEN_OPERATOR && parser_token(p)->operator== operator;
}

bool parser_sees_name(const struct parser *p, const char *name)
{
    return parser_token(p)->kind == TOKEN_NAME && text_is(parser_token(p)->text, name);
}

bool parser_take(struct parser *p, char operator)
{
    bool seen = parser_sees(p, operator);
    if (seen)
        parser_skip(p);
    return seen;
}

bool parser_take_name(struct parser *p, const char *name)
{
    bool seen = parser_sees_name(p, name);
    if (seen)
        parser_skip(p);
    return seen;
}

_Noreturn void parser_fail(struct parser *p, const char *expected)
{
    p->m->line = parser_token(p)->line;
    machine_fail(p->m, ERR_BAD_INPUT, "expected %s, found %s", expected,
                 token_describe(p->m, parser_token(p)));
}

void parser_expect(struct parser *p, char operator)
{
    char expected[4] = {'\'', operator, '\'' };
    if (!parser_take(p, operator))
        parser_fail(p, expected);
}

const struct text *parser_expect_name(struct parser *p)
{
    if (parser_token(p)->kind != TOKEN_NAME)
        parser_fail(p, "a name");
    const struct text *name = parser_token(p)->text;
    parser_skip(p);
    return name;
}

static void expect_kind(struct parser *p, enum token_kind kind, const char *expected)
{
    if (parser_token(p)->kind != kind)
        parser_fail(p, expected);
    parser_skip(p);
}

struct node *parser_node(struct parser *p, enum node_kind kind, uint32_t line)
{
    struct node *node = machine_take(p->m, sizeof(*node));
    node->kind = kind;
    node->line = line;
    return node;
}

struct name *parser_name(struct parser *p, const struct text *text)
{
    for (struct name *name = p->tree->names; name != NULL; name = name->next) {
        machine_spend(p->m, 1);
        if (text_equal(name->text, text))
            return name;
    }
    struct name *name = machine_take(p->m, sizeof(*name));
    name->text = text;
    name->index = p->tree->name_count++;
    name->next = p->tree->names;
    p->tree->names = name;
    return name;
}

void node_add(struct parser *p, struct node *node, size_t *room, struct node *item)
{
    node->items = machine_grow(p->m, node->items, node->count, room, sizeof(struct node *));
    node->items[node->count++] = item;
}

static struct node *parse_statement(struct parser *p);

static bool at_end_tag(const struct parser *p, const char *const *ends)
{
    for (; *ends != NULL; ends++)
        if (parser_sees_name(p, *ends))
            return true;
    return false;
}

/* Everything up to a block tag that is one of ends (NULL-terminated; the tag's name is the next
 * token then), or up to the end of the template when ends is NULL. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    struct node *body = parser_node(p, NODE_BODY, p->m->line);
    size_t room = 0;
    machine_enter(p->m);
    for (;;) {
        const struct token *token = parser_token(p);
        if (token->kind == TOKEN_DATA) {
            struct node *text = parser_node(p, NODE_TEXT, token->line);
            text->constant = value_text(token->text);
            node_add(p, body, &room, text);
            parser_skip(p);
        } else if (token->kind == TOKEN_PRINT_BEGIN) {
            struct node *print = parser_node(p, NODE_PRINT, token->line);
            parser_skip(p);
            print->left = parse_tuple(p, true);
            expect_kind(p, TOKEN_PRINT_END, "'}}'");
            node_add(p, body, &room, print);
        } else if (token->kind == TOKEN_BLOCK_BEGIN) {
            parser_skip(p);
            if (ends != NULL && at_end_tag(p, ends))
                break;
            node_add(p, body, &room, parse_statement(p));
            expect_kind(p, TOKEN_BLOCK_END, "'%}'");
        } else {
            break;
        }
    }
    if (ends != NULL && parser_token(p)->kind == TOKEN_END)
        machine_fail(p->m, ERR_BAD_INPUT, "expected '%s' for the block of line %u, found the end",
                     ends[0], body->line);
    machine_leave(p->m);
    return body;
}

/* The body of a statement: an optional colon, %}, and all up to one of ends. */
static struct node *parse_block(struct parser *p, const char *const *ends)
{
    parser_take(p, ':');
    expect_kind(p, TOKEN_BLOCK_END, "'%}'");
    return parse_body(p, ends);
}

/* A block with one possible end, which is passed, in a frame of its own. */
static struct node *parse_closed_block(struct parser *p, const char *end)
{
    bool soft = p->soft;
    p->soft = false;
    struct node *body = parse_block(p, (const char *const[]){end, NULL});
    parser_skip(p);
    p->soft = soft;
    return body;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    struct node *first = NULL, *node = NULL;
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        struct node *next = parser_node(p, NODE_IF, parser_token(p)->line);
        parser_skip(p); /* if, elif */
        next->left = parse_tuple(p, false);
        next->body = parse_block(p, ends);
        if (first == NULL)
            first = next;
        else
            node->other = next;
        node = next;
        if (!parser_sees_name(p, "elif"))
            break;
    }
    if (parser_take_name(p, "else"))
        node->other = parse_block(p, (const char *const[]){"endif", NULL});
    parser_skip(p); /* endif */
    p->soft = soft;
    return first;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct node *node = parser_node(p, NODE_FOR, parser_token(p)->line);
    parser_skip(p);
    node->target = parse_target(p, false);
    if (!parser_take_name(p, "in"))
        parser_fail(p, "'in'");
    node->left = parse_tuple(p, false);
    bool soft = p->soft;
    p->soft = false;
    if (parser_take_name(p, "if"))
        node->right = parse_expression(p);
    node->as.recursive = parser_take_name(p, "recursive");
    p->loops++;
    node->body = parse_block(p, ends);
    p->loops--;
    if (parser_take_name(p, "else"))
        node->other = parse_block(p, (const char *const[]){"endfor", NULL});
    parser_skip(p); /* endfor */
    p->soft = soft;
    return node;
}

static struct node *parse_set(struct parser *p)
{
    struct node *node = parser_node(p, NODE_SET, parser_token(p)->line);
    parser_skip(p);
    node->target = parse_target(p, true);
    if (parser_take(p, '=')) {
        node->left = parse_tuple(p, true);
        return node;
    }
    node->kind = NODE_SET_BLOCK;
    node->left = parse_filters(p, NULL, false);
    node->body = parse_closed_block(p, "endset");
    return node;
}

static void parse_parameters(struct parser *p, struct node *node)
{
    size_t room = 0;
    bool defaults = false;
    parser_expect(p, '(');
    while (!parser_sees(p, ')')) {
        if (node->parameter_count > 0)
            parser_expect(p, ',');
        struct parameter parameter = {.name = parser_name(p, parser_expect_name(p))};
        if (parser_take(p, '=')) {
            parameter.otherwise = parse_expression(p);
            defaults = true;
        } else if (defaults) {
            parser_fail(p, "a default, as the parameter before has one");
        }
        node->parameters = machine_grow(p->m, node->parameters, node->parameter_count, &room,
                                        sizeof(struct parameter));
        node->parameters[node->parameter_count++] = parameter;
    }
    parser_skip(p);
}

/* The body of a macro or call block; which of varargs, kwargs and caller it reads decides what it
 * may be called with. What an inner macro reads counts for the outer one too. */
static void parse_macro_body(struct parser *p, struct node *node, const char *end)
{
    bool rest = p->saw_rest, keywords = p->saw_keywords, caller = p->saw_caller;
    uint32_t loops = p->loops;
    p->saw_rest = p->saw_keywords = p->saw_caller = false;
    p->loops = 0;
    node->body = parse_closed_block(p, end);
    p->loops = loops;
    node->takes_rest = p->saw_rest;
    node->takes_keywords = p->saw_keywords;
    node->takes_caller = p->saw_caller;
    p->saw_rest |= rest;
    p->saw_keywords |= keywords;
    p->saw_caller |= caller;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *node = parser_node(p, NODE_MACRO, parser_token(p)->line);
    parser_skip(p);
    node->name = parser_name(p, parser_expect_name(p));
    parse_parameters(p, node);
    parse_macro_body(p, node, "endmacro");
    return node;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *node = parser_node(p, NODE_CALL_BLOCK, parser_token(p)->line);
    parser_skip(p);
    if (parser_sees(p, '('))
        parse_parameters(p, node);
    node->left = parse_expression(p);
    if (node->left->kind != NODE_CALL)
        parser_fail(p, "a call before this");
    parse_macro_body(p, node, "endcall");
    return node;
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *node = parser_node(p, NODE_FILTER_BLOCK, parser_token(p)->line);
    parser_skip(p);
    node->left = parse_filters(p, NULL, true);
    node->body = parse_closed_block(p, "endfilter");
    return node;
}

static struct node *parse_with(struct parser *p)
{
    struct node *node = parser_node(p, NODE_WITH, parser_token(p)->line);
    size_t room = 0;
    parser_skip(p);
    while (parser_token(p)->kind != TOKEN_BLOCK_END) {
        if (node->count > 0)
            parser_expect(p, ',');
        node_add(p, node, &room, parse_target(p, false));
        parser_expect(p, '=');
        node_add(p, node, &room, parse_expression(p));
    }
    node->body = parse_closed_block(p, "endwith");
    return node;
}

static struct node *parse_print(struct parser *p)
{
    struct node *node = parser_node(p, NODE_BODY, parser_token(p)->line);
    size_t room = 0;
    parser_skip(p);
    while (parser_token(p)->kind != TOKEN_BLOCK_END) {
        if (node->count > 0)
            parser_expect(p, ',');
        struct node *print = parser_node(p, NODE_PRINT, parser_token(p)->line);
        print->left = parse_expression(p);
        node_add(p, node, &room, print);
    }
    return node;
}

static struct node *parse_generation(struct parser *p)
{
    struct node *node = parser_node(p, NODE_SCOPE, parser_token(p)->line);
    uint32_t loops = p->loops;
    p->loops = 0;
    parser_skip(p);
    node->body = parse_closed_block(p, "endgeneration");
    p->loops = loops;
    return node;
}

static struct node *parse_jump(struct parser *p)
{
    bool is_break = parser_sees_name(p, "break");
    struct node *node = parser_node(p, is_break ? NODE_BREAK : NODE_CONTINUE, p->m->line);
    if (p->loops == 0)
        machine_fail(p->m, ERR_BAD_INPUT, "'%s' outside of a for loop",
                     is_break ? "break" : "continue");
    parser_skip(p);
    return node;
}

static struct node *parse_statement(struct parser *p)
{
    static const struct {
        const char *name;
        struct node *(*parse)(struct parser *p);
    } statements[] = {
        {"if", parse_if},       {"for", parse_for},         {"set", parse_set},
        {"macro", parse_macro}, {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},   {"print", parse_print},     {"generation", parse_generation},
        {"break", parse_jump},  {"continue", parse_jump},
    };
    static const char *const unbuilt[] = {"extends", "block", "include",
                                          "import",  "from",  "autoescape"};
    for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++)
        if (parser_sees_name(p, statements[i].name))
            return statements[i].parse(p);
    for (size_t i = 0; i < sizeof(unbuilt) / sizeof(unbuilt[0]); i++)
        if (parser_sees_name(p, unbuilt[i]))
            machine_fail(p->m, ERR_UNSUPPORTED, "the statement '%s' is not built", unbuilt[i]);
    parser_fail(p, "a statement");
}

struct tree *parser_read(struct machine *m, const char *source, size_t bytes)
{
    struct parser *p = machine_take(m, sizeof(*p));
    p->m = m;
    p->tree = machine_take(m, sizeof(*p->tree));
    p->list = lexer_read(m, source, bytes);
    m->line = 1;
    p->tree->body = parse_body(p, NULL);
    if (parser_token(p)->kind != TOKEN_END)
        parser_fail(p, "text or a tag");
    if (p->unknown.what != NULL) {
        int name_bytes = (int)(p->unknown.name->bytes < 70 ? p->unknown.name->bytes : 70);
        m->line = p->unknown.line;
        machine_fail(m, ERR_UNSUPPORTED, "the %s '%.*s' is not built", p->unknown.what, name_bytes,
                     p->unknown.name->data);
    }
    return p->tree;
}
