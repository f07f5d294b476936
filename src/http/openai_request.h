/* http/openai_request.h - bodies of the OpenAI API become typed values, once, at the edge.
 *
 *     body bytes --openai_chat_parse--> struct openai_request  (or struct openai_error: a 400 that
 *                                                              names the parameter)
 *
 * One table (openai_parameters.c) gives each parameter's type, range and default; nothing is
 * silently ignored: a parameter that is not in a table is refused by name. null is as absent,
 * everywhere. Accepted without effect, because they ask for nothing: "user", "metadata" (labels;
 * object of strings), "parallel_tool_calls", "store": false, and every parameter of the second
 * table at the value that means "off" (tools: [], response_format: {"type": "text"}, best_of equal
 * to n, ...).
 *
 * Limits before anything is built: body depth 64, values by their memory, duplicate keys, invalid
 * UTF-8 and NUL characters refused.
 *
 * Threads: the parse calls are pure: any thread. A request belongs to one thread at a time.
 * Memory:  the request owns all it points to, openai_request_free frees it; body may go before it.
 * Source:  the OpenAI API reference; vLLM's extensions to it (top_k, min_p, ignore_eos, ...).
 */
#ifndef HTTP_OPENAI_REQUEST_H
#define HTTP_OPENAI_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define OPENAI_N_MAX 16
#define OPENAI_STOPS_MAX 16
#define OPENAI_STOP_BYTES_MAX 512
#define OPENAI_STOP_TOKENS_MAX 48 /* workers take 64, the model's end tokens included */
#define OPENAI_BIASES_MAX 300
#define OPENAI_TOP_LOGPROBS_MAX 20
#define OPENAI_PROMPTS_MAX 64
#define OPENAI_SEQUENCES_MAX 128 /* prompts x n */
#define OPENAI_MESSAGES_MAX 4096
#define OPENAI_SALT_BYTES_MAX 256
#define OPENAI_TOKENS_REST UINT32_MAX /* max_tokens: as many as the context has room for */

/* What an error answer says; openai_response.h writes it. */
struct openai_error {
    unsigned http_code; /* 400, 401, 404, 429, 500, 503 ... */
    const char *type;   /* "invalid_request_error", ... a constant */
    const char *code;   /* a constant, or NULL */
    char param[96];     /* "" for none */
    char message[512];
};

/* What the parser must know of the server. */
struct openai_limits {
    uint32_t vocabulary; /* token ids of a prompt, a bias or a stop are below it; 0: not checked */
    uint32_t context_tokens; /* most tokens of one prompt given as ids, and of max_tokens */
};

struct openai_string {
    const char *data; /* bytes of UTF-8, and a NUL after them; may be "" */
    size_t bytes;
};

/* One prompt of /v1/completions: text, or token ids (tokens != NULL). */
struct openai_prompt {
    struct openai_string text;
    const uint32_t *tokens;
    uint32_t token_count;
};

struct openai_bias {
    uint32_t token;
    float bias; /* -100 .. 100, added to the logit */
};

enum openai_kind { OPENAI_CHAT, OPENAI_COMPLETION };

struct openai_request {
    enum openai_kind kind;
    const char *model; /* NULL when absent: the served one */

    /* Chat: messages is a list of {"role": text, "content": text} (parts of a content list joined
     * by a newline; "name", "tool_call_id", "reasoning_content" kept where given), for the
     * template. */
    json_t *messages;
    json_t *template_kwargs; /* an object, or NULL */
    bool add_generation_prompt;
    bool add_special_tokens; /* when the text is tokenized: chat false, completions true by default
                              */

    /* Completions: 1 to OPENAI_PROMPTS_MAX prompts; choice index = prompt * n + k. */
    const struct openai_prompt *prompts;
    uint32_t prompt_count;
    bool echo;

    uint32_t n;
    uint32_t max_tokens; /* OPENAI_TOKENS_REST when not given in chat; 0 only with echo */
    uint32_t min_tokens;
    bool ignore_eos;
    bool stream;
    bool include_usage;

    float temperature; /* 0: greedy */
    float top_p;       /* (0, 1] */
    float min_p;       /* [0, 1] */
    uint32_t top_k;    /* 0: off (-1 and 0 of the API) */
    float frequency_penalty;
    float presence_penalty;
    float repetition_penalty; /* 1: off */
    bool has_seed;
    uint64_t seed; /* the 64 bits of the signed number given */

    const struct openai_bias *biases;
    uint32_t bias_count;
    const struct openai_string *stops;
    uint32_t stop_count;
    const uint32_t *stop_tokens;
    uint32_t stop_token_count;

    bool logprobs;         /* log probabilities of the chosen tokens are wanted */
    uint32_t top_logprobs; /* and of so many most likely ones at each place */

    int32_t priority;                /* smaller is sooner; 0 */
    struct openai_string cache_salt; /* bytes 0: none */
    struct openai_string user;       /* for logs; bytes 0: none */
};

/* /tokenize: exactly one of text (from "prompt" or "content") and messages. */
struct openai_tokenize {
    const char *model;
    struct openai_string text;
    json_t *messages; /* NULL when text was given */
    json_t *template_kwargs;
    bool add_generation_prompt;
    bool add_special_tokens; /* text: true, messages: false by default */
    bool return_token_strs;
};

struct openai_detokenize {
    const char *model;
    const uint32_t *tokens;
    uint32_t token_count;
};

/* Errors: ERR_BAD_INPUT, ERR_UNSUPPORTED, ERR_NO_MEMORY; error_out is then what to answer. */
status openai_chat_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                         struct openai_request **request_out, struct openai_error *error_out);
status openai_completion_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                               struct openai_request **request_out, struct openai_error *error_out);
void openai_request_free(struct openai_request *request);

status openai_tokenize_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                             struct openai_tokenize **request_out, struct openai_error *error_out);
void openai_tokenize_free(struct openai_tokenize *request);
status openai_detokenize_parse(const char *body, size_t bytes, const struct openai_limits *limits,
                               struct openai_detokenize **request_out,
                               struct openai_error *error_out);
void openai_detokenize_free(struct openai_detokenize *request);

/* Fill an error: http_code chooses the type (400 invalid_request_error, 401 authentication_error,
 * 404 not_found_error, 429 rate_limit_error, 503 overloaded_error, 500 server_error). param and
 * code may be NULL; code must be a constant. */
void openai_error_fill(struct openai_error *error, unsigned http_code, const char *param,
                       const char *code, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
