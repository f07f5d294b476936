/* model/jinja/parser.h - tokens to a tree.
 *
 * Built: text, {{ }}, comments, raw; if, for (with a filter, else, recursive), break, continue, set
 * (of names, tuples, namespace attributes, and blocks), macro, call, filter, with, print and
 * generation; every expression of Jinja 3.1; the filters, tests and methods of filters.h, tests.h
 * and methods.h.
 *
 * Not built, and named by ERR_UNSUPPORTED with the line: extends, block, include, import, from,
 * autoescape; the functions lipsum, cycler and joiner; filters that are not in filters.h.
 *
 * Known to differ from Jinja, and left so: integers end at 64 bits (an error, not a wrong number);
 * what shows an address in Python (a generator, a method) shows none; sets made of dict views; and
 * what only Jinja's folding of constants makes different: a slice of a literal number, and -2 ** x
 * where the -2 was folded.
 *
 * Threads: one machine. Memory: the machine's arena.
 */
#ifndef MODEL_JINJA_PARSER_H
#define MODEL_JINJA_PARSER_H

#include "model/jinja/ast.h"
#include "model/jinja/lexer.h"

/* The first unknown filter or test outside of soft frames. */
struct unknown {
    const char *what; /* "filter", "test"; NULL: none */
    const struct text *name;
    uint32_t line;
};

struct parser {
    struct machine *m;
    struct tokens list;
    size_t at;
    struct tree *tree;
    /* What Jinja calls a soft frame: in the branches of an if, an unknown filter or test is an
     * error only when it is reached. */
    bool soft;
    struct unknown unknown;
    bool saw_rest, saw_keywords, saw_caller; /* in the macro being parsed */
    uint32_t loops;                          /* for loops around, for break and continue */
};

/* Leaves with ERR_BAD_INPUT (syntax) or ERR_UNSUPPORTED. source is UTF-8. */
struct tree *parser_read(struct machine *m, const char *source, size_t bytes);

/* Between parser.c (statements), expression.c and postfix.c. */
const struct token *parser_token(const struct parser *p);
const struct token *parser_peek(const struct parser *p); /* the one after */
void parser_skip(struct parser *p);
bool parser_sees(const struct parser *p, char operator);
bool parser_sees_name(const struct parser *p, const char *name);
bool parser_take(struct parser *p, char operator); /* skip it when it is there */
bool parser_take_name(struct parser *p, const char *name);
void parser_expect(struct parser *p, char operator);
const struct text *parser_expect_name(struct parser *p);
_Noreturn void parser_fail(struct parser *p, const char *expected);
struct node *parser_node(struct parser *p, enum node_kind kind, uint32_t line);
struct name *parser_name(struct parser *p, const struct text *text);
void node_add(struct parser *p, struct node *node, size_t *room, struct node *item);

struct node *parse_expression(struct parser *p);
/* An expression, or several with commas as a tuple. choice: "a if b" is allowed. */
struct node *parse_tuple(struct parser *p, bool choice);
/* A name, namespace.attribute (when namespaces is set), or a tuple of them. */
struct node *parse_target(struct parser *p, bool namespaces);
/* A name, a literal, or what is in brackets. */
struct node *parse_primary(struct parser *p, bool namespaces);
/* A primary with signs before it, and attributes, subscripts, calls and, when filters is set,
 * filters and tests after it. */
struct node *parse_unary(struct parser *p, bool filters);
/* A chain of filters; first: the chain starts without a bar. NULL when there is none. */
struct node *parse_filters(struct parser *p, struct node *left, bool first);

#endif
