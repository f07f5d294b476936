/* model/jinja/lexer.h - a template's source as tokens.
 *
 *     "Hi {{ name }}!\n"  ->  DATA "Hi " | PRINT_BEGIN | NAME name | PRINT_END | DATA "!" | END
 *
 * White space is settled here, as transformers sets it: the newline after a block's %} goes
 * (trim_blocks), blanks between a line's start and {% go (lstrip_blocks), '-' takes all white space
 * on its side, '+' keeps it, and one newline at the very end goes. Comments and raw end here too.
 *
 * Memory: the machine's arena; tokens point into the source or the arena.
 */
#ifndef MODEL_JINJA_LEXER_H
#define MODEL_JINJA_LEXER_H

#include "model/jinja/machine.h"
#include "model/jinja/text.h"

enum token_kind {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_REAL,
    TOKEN_OPERATOR,
};

/* An operator's code: its character, or for two characters one of these. */
enum token_operator {
    OPERATOR_FLOOR = 'D',    /* // */
    OPERATOR_POWER = 'P',    /* ** */
    OPERATOR_EQUAL = 'E',    /* == */
    OPERATOR_DIFFER = 'N',   /* != */
    OPERATOR_AT_LEAST = 'G', /* >= */
    OPERATOR_AT_MOST = 'L',  /* <= */
};

struct token {
    enum token_kind kind;
    uint32_t line;
    char operator;           /* of TOKEN_OPERATOR */
    const struct text *text; /* of DATA, NAME, STRING */
    int64_t integer;
    double real;
};

struct tokens {
    size_t count;
    struct token *tokens; /* the last is TOKEN_END */
};

/* Leaves with ERR_BAD_INPUT at what is no token. source is UTF-8. */
struct tokens lexer_read(struct machine *m, const char *source, size_t bytes);

/* What an error calls the token: "end of template", "'endfor'". */
const char *token_describe(struct machine *m, const struct token *token);

#endif
