/* http/openai_parse.h - one body on its way to a request (private to src/http).
 *
 * Every parse function returns true, or false after it has filled the error (parse_fail).
 *
 * Threads: one a parse. Memory: the parse owns root and arena until its request takes them over.
 */
#ifndef HTTP_OPENAI_PARSE_H
#define HTTP_OPENAI_PARSE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "http/openai_request.h"

enum parse_kinds { PARSE_CHAT = 1, PARSE_COMPLETION = 2, PARSE_TOKENIZE = 4, PARSE_DETOKENIZE = 8 };
#define PARSE_GENERATE (PARSE_CHAT | PARSE_COMPLETION)

/* What every kind of body may say; openai_request.c copies from it what the kind's struct has. */
struct parse_values {
    struct openai_request generate; /* messages, prompts and all numbers */
    bool has_special, special;      /* add_special_tokens */
    bool return_token_strs;
    bool has_max_tokens, has_max_completion_tokens;
    uint32_t max_completion_tokens;
    uint32_t best_of; /* 0: not given */
    bool has_stream_options;
    bool has_top_logprobs;
    struct openai_string content; /* of /tokenize, from either name */
    bool has_content;
    const uint32_t *tokens; /* of /detokenize */
    uint32_t token_count;
    bool has_tokens;
};

struct openai_parse {
    enum parse_kinds kind;
    json_t *root;
    struct arena *arena;
    const struct openai_limits *limits;
    struct openai_error *error;
    struct parse_values values;
};

/* ---- openai_parse.c ---- */

/* Load the body and make the arena. */
bool parse_open(struct openai_parse *p, enum parse_kinds kind, const char *body, size_t bytes,
                const struct openai_limits *limits, struct openai_error *error);
void parse_close(struct openai_parse *p);

/* Always false. parse_expected: "param": expected WHAT, found (a description of value). */
bool parse_fail(struct openai_parse *p, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool parse_expected(struct openai_parse *p, const char *param, const json_t *value,
                    const char *format, ...) __attribute__((format(printf, 4, 5)));
bool parse_no_memory(struct openai_parse *p);

/* A list of token ids, each below the vocabulary. */
bool parse_tokens(struct openai_parse *p, const char *param, const json_t *list, size_t count_max,
                  const uint32_t **tokens_out, uint32_t *count_out);

/* ---- openai_parameters.c: the tables ---- */

/* Set every default of p's kind. */
void parameters_default(struct openai_parse *p);

/* Look at every member of root. */
bool parameters_parse(struct openai_parse *p);

/* The name of a row of the tables, and in which kinds of body it may stand; NULL past the last. */
const char *parameters_at(size_t index, unsigned *kinds_out);

/* ---- openai_prompt.c: what is to be continued ---- */
bool prompt_parse(struct openai_parse *p, const char *name, json_t *value);
bool messages_parse(struct openai_parse *p, const char *name, json_t *value);
bool content_parse(struct openai_parse *p, const char *name, json_t *value);
bool template_kwargs_parse(struct openai_parse *p, const char *name, json_t *value);

#endif
