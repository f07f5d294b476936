/* model/jinja/ast.h - a parsed template.
 *
 * One node type for all: which fields a kind uses stands beside it. Nodes are made by the parser,
 * then never change, so that any number of renders may walk them at once.
 *
 *     {% for m in messages if m.ok %}{{ m.text|trim }}{% endfor %}
 *
 *     FOR target NAME m, left NAME messages, right GETATTR, body BODY [ PRINT left FILTER ]
 */
#ifndef MODEL_JINJA_AST_H
#define MODEL_JINJA_AST_H

#include "model/jinja/value.h"

/* A variable's name, one object for all its uses; index counts the names of a template. */
struct name {
    const struct text *text;
    uint32_t index;
    bool read; /* somewhere as a variable */
    struct name *next;
};

enum node_kind {
    /* Expressions. */
    NODE_CONSTANT,  /* constant */
    NODE_NAME,      /* name */
    NODE_LIST,      /* items */
    NODE_TUPLE,     /* items */
    NODE_DICT,      /* items: key, value, key, value */
    NODE_ATTRIBUTE, /* left . constant */
    NODE_ITEM,      /* left [ right ] */
    NODE_SLICE,     /* left [ items[0] : items[1] : items[2] ], each may be NULL */
    NODE_CALL,      /* left ( arguments ) */
    NODE_FILTER,    /* left | filter ( arguments ); left NULL at the start of a block's */
    NODE_TEST,      /* left is test ( arguments ) */
    NODE_NOT,       /* left */
    NODE_NEGATE,    /* left */
    NODE_PLUS,      /* left */
    NODE_BINARY,    /* left operator right */
    NODE_CONCAT,    /* items */
    NODE_COMPARE,   /* left, then operators[i] items[i] */
    NODE_AND,       /* left, right */
    NODE_OR,        /* left, right */
    NODE_CHOICE,    /* right if left else other; other may be NULL */
    NODE_NS_TARGET, /* name . constant, only as a target */
    /* Statements. */
    NODE_BODY,         /* items */
    NODE_TEXT,         /* constant */
    NODE_PRINT,        /* left */
    NODE_IF,           /* left, body, other (NULL, a BODY, or the IF of an elif) */
    NODE_FOR,          /* target, left, right (its filter, may be NULL), body, other, recursive */
    NODE_SET,          /* target = left */
    NODE_SET_BLOCK,    /* target, left (FILTER chain or NULL), body */
    NODE_MACRO,        /* name, parameters, body, takes_* */
    NODE_CALL_BLOCK,   /* left (CALL), parameters, body, takes_* */
    NODE_FILTER_BLOCK, /* left (FILTER chain), body */
    NODE_WITH,         /* items: target, value, ...; body */
    NODE_SCOPE,        /* body: a generation block */
    NODE_BREAK,
    NODE_CONTINUE,
};

struct keyword {
    const struct text *name;
    struct node *value;
};

struct arguments {
    size_t count, keyword_count;
    struct node **values;
    struct keyword *keywords;
    struct node *rest, *keyword_rest; /* *rest, **keyword_rest; may be NULL */
};

struct parameter {
    struct name *name;
    struct node *otherwise; /* the default; may be NULL */
};

struct node {
    enum node_kind kind;
    uint32_t line;
    struct name *name;
    struct value constant;
    struct node *left, *right, *other, *body, *target;
    struct node **items;
    size_t count;
    union {
        char operator;               /* of BINARY, a token_operator */
        const char *operators;       /* of COMPARE: also 'I' in, 'X' not in */
        const struct filter *filter; /* filters.h; NULL: unknown, an error when it is reached */
        const struct test *test;     /* tests.h; the same */
        bool recursive;
    } as;
    struct arguments *arguments;
    struct parameter *parameters;
    size_t parameter_count;
    bool takes_rest, takes_keywords, takes_caller; /* the body reads varargs, kwargs, caller */
};

struct tree {
    struct node *body;
    struct name *names; /* newest first */
    uint32_t name_count;
};

#endif
