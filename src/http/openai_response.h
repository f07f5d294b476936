/* http/openai_response.h - answers of the OpenAI API as text.
 *
 * Whole answer:                        Stream (each line one event, "data: " before, blank line
 * after): openai_answer_write                  openai_chunk_write with choice.role     (chat: role
 * first) openai_chunk_write per piece of text openai_chunk_write with finish_reason
 *                                        openai_chunk_write with choice == NULL  (usage, if asked
 * for) openai_done_write                       ("data: [DONE]") openai_ping_write any time (":
 * ping") openai_error_event_write                (failed in mid-stream)
 *
 * Text of choices is UTF-8 by contract; what is not becomes U+FFFD. The single tokens of logprobs
 * may be parts of characters: their "bytes" are exact.
 *
 * Threads: any; all calls are pure. Memory: written into the caller's text (http/text.h), checked
 *          with text_ok at the end.
 */
#ifndef HTTP_OPENAI_RESPONSE_H
#define HTTP_OPENAI_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http/openai_request.h"
#include "http/text.h"

/* Same for every chunk of an answer. */
struct openai_head {
    enum openai_kind kind;
    const char *id;    /* "chatcmpl-...", "cmpl-..." */
    const char *model; /* the served name */
    uint64_t created_s;
    bool include_usage; /* stream_options.include_usage: other chunks then say "usage": null */
};

struct openai_alternative {
    const char *piece; /* the token's bytes */
    size_t bytes;
    float logprob;
};

/* One generated (or echoed) token with its log probability. */
struct openai_token {
    const char *piece;
    size_t bytes;
    float logprob;
    bool has_logprob; /* false for the first token of an echoed prompt: null */
    const struct openai_alternative *top;
    uint32_t top_count;
    uint32_t text_offset; /* completions: characters of the choice's text before this token */
};

struct openai_choice {
    uint32_t index;
    bool role; /* chat chunk that opens the choice: "delta": {"role": "assistant", "content": ""} */
    const char *text;
    size_t bytes;
    const char *finish_reason; /* "stop", "length"; NULL: goes on */
    bool has_logprobs;         /* write logprobs, from tokens; else "logprobs": null */
    const struct openai_token *tokens;
    uint32_t token_count;
};

struct openai_usage {
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    uint32_t cached_tokens; /* of prompt_tokens, not computed again */
};

/* "chatcmpl-" or "cmpl-" and 32 hex digits. */
#define OPENAI_ID_BYTES 48
void openai_id_write(enum openai_kind kind, const uint8_t random[16], char id_out[OPENAI_ID_BYTES]);

/* chat.completion or text_completion. */
void openai_answer_write(struct text *text, const struct openai_head *head,
                         const struct openai_choice *choices, uint32_t choice_count,
                         const struct openai_usage *usage);

/* One event with one choice, or with choice NULL and usage: "choices": []. usage may be NULL. */
void openai_chunk_write(struct text *text, const struct openai_head *head,
                        const struct openai_choice *choice, const struct openai_usage *usage);
void openai_done_write(struct text *text);
void openai_ping_write(struct text *text);

/* {"error": {...}}, and the same as an event. */
void openai_error_write(struct text *text, const struct openai_error *error);
void openai_error_event_write(struct text *text, const struct openai_error *error);

/* /v1/models: one model. */
void openai_models_write(struct text *text, const char *model, uint64_t created_s,
                         uint32_t context_tokens);

/* /tokenize; pieces (and piece_bytes) may be NULL, otherwise "token_strs" is written. */
void openai_tokenize_write(struct text *text, const uint32_t *tokens, uint32_t token_count,
                           uint32_t context_tokens, const char *const *pieces,
                           const size_t *piece_bytes);
void openai_detokenize_write(struct text *text, const char *prompt, size_t bytes);

struct openai_tokenizer_info {
    const char *kind; /* "bpe", "spm" */
    const char *pre;  /* pre-tokenizer's name, or NULL */
    uint32_t vocabulary;
    uint32_t context_tokens;
    int64_t bos, eos; /* -1: none */
    bool add_bos;
    const char *chat_template; /* NULL: none, or one that is not understood */
    size_t chat_template_bytes;
};
void openai_tokenizer_info_write(struct text *text, const struct openai_tokenizer_info *info);

#endif
