#include "http/openai_response.h"

#include <stdio.h>
#include <string.h>

static void word_write(struct text *text, const char *word)
{
    if (word == NULL)
        text_put(text, "null");
    else
        text_json_string(text, word, strlen(word));
}

void openai_id_write(enum openai_kind kind, const uint8_t random[16], char id_out[OPENAI_ID_BYTES])
{
    int at = snprintf(id_out, OPENAI_ID_BYTES, "%s", kind == OPENAI_CHAT ? "chatcmpl-" : "cmpl-");
    for (int i = 0; i < 16; i++)
        at += snprintf(id_out + at, OPENAI_ID_BYTES - (size_t)at, "%02x", random[i]);
}

/* ---- log probabilities ---- */

static void bytes_write(struct text *text, const char *piece, size_t bytes)
{
    text_put(text, "[");
    for (size_t i = 0; i < bytes; i++)
        text_format(text, i == 0 ? "%u" : ",%u", (unsigned)(unsigned char)piece[i]);
    text_put(text, "]");
}

static void logprob_write(struct text *text, const char *piece, size_t bytes, float logprob)
{
    text_put(text, "\"token\":");
    text_json_string(text, piece, bytes);
    text_put(text, ",\"logprob\":");
    text_json_number(text, (double)logprob);
    text_put(text, ",\"bytes\":");
    bytes_write(text, piece, bytes);
}

static void chat_logprobs_write(struct text *text, const struct openai_choice *choice)
{
    text_put(text, "{\"content\":[");
    for (uint32_t i = 0; i < choice->token_count; i++) {
        const struct openai_token *token = &choice->tokens[i];
        text_put(text, i == 0 ? "{" : ",{");
        logprob_write(text, token->piece, token->bytes, token->logprob);
        text_put(text, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < token->top_count; k++) {
            text_put(text, k == 0 ? "{" : ",{");
            logprob_write(text, token->top[k].piece, token->top[k].bytes, token->top[k].logprob);
            text_put(text, "}");
        }
        text_put(text, "]}");
    }
    text_put(text, "],\"refusal\":null}");
}

/* Two tokens may look the same (parts of characters do): a JSON object holds each name once, the
 * more likely one. Is a piece's name among the first count of the likeliest? */
static bool top_has(const struct openai_token *token, uint32_t count, const char *piece,
                    size_t bytes)
{
    bool broken = !text_utf8_valid(piece, bytes);
    for (uint32_t i = 0; i < count; i++) {
        const struct openai_alternative *top = &token->top[i];
        bool same = top->bytes == bytes && memcmp(top->piece, piece, bytes) == 0;
        if (same || (broken && !text_utf8_valid(top->piece, top->bytes)))
            return true;
    }
    return false;
}

static void top_write(struct text *text, bool *first, const char *piece, size_t bytes,
                      float logprob)
{
    if (!*first)
        text_put(text, ",");
    *first = false;
    text_json_string(text, piece, bytes);
    text_put(text, ":");
    text_json_number(text, (double)logprob);
}

/* The likeliest, and the token itself when it is not one of them: one entry more than asked for. */
static void completion_top_write(struct text *text, const struct openai_token *token)
{
    if (!token->has_logprob) {
        text_put(text, "null");
        return;
    }
    text_put(text, "{");
    bool first = true;
    for (uint32_t k = 0; k < token->top_count; k++) {
        const struct openai_alternative *top = &token->top[k];
        if (!top_has(token, k, top->piece, top->bytes))
            top_write(text, &first, top->piece, top->bytes, top->logprob);
    }
    if (!top_has(token, token->top_count, token->piece, token->bytes))
        top_write(text, &first, token->piece, token->bytes, token->logprob);
    text_put(text, "}");
}

static void completion_logprobs_write(struct text *text, const struct openai_choice *choice)
{
    const struct openai_token *tokens = choice->tokens;
    text_put(text, "{\"tokens\":[");
    for (uint32_t i = 0; i < choice->token_count; i++) {
        if (i > 0)
            text_put(text, ",");
        text_json_string(text, tokens[i].piece, tokens[i].bytes);
    }
    text_put(text, "],\"token_logprobs\":[");
    for (uint32_t i = 0; i < choice->token_count; i++) {
        if (i > 0)
            text_put(text, ",");
        if (tokens[i].has_logprob)
            text_json_number(text, (double)tokens[i].logprob);
        else
            text_put(text, "null");
    }
    text_put(text, "],\"top_logprobs\":[");
    for (uint32_t i = 0; i < choice->token_count; i++) {
        if (i > 0)
            text_put(text, ",");
        completion_top_write(text, &tokens[i]);
    }
    text_put(text, "],\"text_offset\":[");
    for (uint32_t i = 0; i < choice->token_count; i++)
        text_format(text, i == 0 ? "%u" : ",%u", tokens[i].text_offset);
    text_put(text, "]}");
}

static void logprobs_write(struct text *text, enum openai_kind kind,
                           const struct openai_choice *choice)
{
    text_put(text, ",\"logprobs\":");
    if (!choice->has_logprobs)
        text_put(text, "null");
    else if (kind == OPENAI_CHAT)
        chat_logprobs_write(text, choice);
    else
        completion_logprobs_write(text, choice);
}

/* ---- answers and chunks ---- */

static void usage_write(struct text *text, const struct openai_usage *usage)
{
    text_format(text,
                "\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%llu,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
                usage->prompt_tokens, usage->completion_tokens,
                (unsigned long long)usage->prompt_tokens + usage->completion_tokens,
                usage->cached_tokens);
}

static void head_write(struct text *text, const struct openai_head *head, const char *object)
{
    text_put(text, "{\"id\":");
    word_write(text, head->id);
    text_format(text, ",\"object\":\"%s\",\"created\":%llu,\"model\":", object,
                (unsigned long long)head->created_s);
    word_write(text, head->model);
}

static void choice_write(struct text *text, enum openai_kind kind,
                         const struct openai_choice *choice)
{
    text_format(text, "{\"index\":%u,", choice->index);
    if (kind == OPENAI_CHAT) {
        text_put(text, "\"message\":{\"role\":\"assistant\",\"content\":");
        text_json_string(text, choice->text, choice->bytes);
        text_put(text, ",\"refusal\":null}");
    } else {
        text_put(text, "\"text\":");
        text_json_string(text, choice->text, choice->bytes);
    }
    logprobs_write(text, kind, choice);
    text_put(text, ",\"finish_reason\":");
    word_write(text, choice->finish_reason);
    text_put(text, "}");
}

void openai_answer_write(struct text *text, const struct openai_head *head,
                         const struct openai_choice *choices, uint32_t choice_count,
                         const struct openai_usage *usage)
{
    head_write(text, head, head->kind == OPENAI_CHAT ? "chat.completion" : "text_completion");
    text_put(text, ",\"choices\":[");
    for (uint32_t i = 0; i < choice_count; i++) {
        if (i > 0)
            text_put(text, ",");
        choice_write(text, head->kind, &choices[i]);
    }
    text_put(text, "]");
    if (usage != NULL) {
        text_put(text, ",");
        usage_write(text, usage);
    }
    text_put(text, "}");
}

static void chunk_choice_write(struct text *text, enum openai_kind kind,
                               const struct openai_choice *choice)
{
    text_format(text, "{\"index\":%u,", choice->index);
    if (kind == OPENAI_CHAT) {
        text_put(text, "\"delta\":{");
        if (choice->role)
            text_put(text, "\"role\":\"assistant\",");
        /* The chunk that only finishes a choice has an empty delta. */
        if (choice->role || choice->bytes > 0 || choice->finish_reason == NULL) {
            text_put(text, "\"content\":");
            text_json_string(text, choice->text, choice->bytes);
        }
        text_put(text, "}");
    } else {
        text_put(text, "\"text\":");
        text_json_string(text, choice->text, choice->bytes);
    }
    logprobs_write(text, kind, choice);
    text_put(text, ",\"finish_reason\":");
    word_write(text, choice->finish_reason);
    text_put(text, "}");
}

void openai_chunk_write(struct text *text, const struct openai_head *head,
                        const struct openai_choice *choice, const struct openai_usage *usage)
{
    text_put(text, "data: ");
    head_write(text, head, head->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion");
    text_put(text, ",\"choices\":[");
    if (choice != NULL)
        chunk_choice_write(text, head->kind, choice);
    text_put(text, "]");
    if (usage != NULL) {
        text_put(text, ",");
        usage_write(text, usage);
    } else if (head->include_usage) {
        text_put(text, ",\"usage\":null");
    }
    text_put(text, "}\n\n");
}

void openai_done_write(struct text *text)
{
    text_put(text, "data: [DONE]\n\n");
}

void openai_ping_write(struct text *text)
{
    text_put(text, ": ping\n\n");
}

/* ---- errors ---- */

void openai_error_write(struct text *text, const struct openai_error *error)
{
    text_put(text, "{\"error\":{\"message\":");
    word_write(text, error->message);
    text_put(text, ",\"type\":");
    word_write(text, error->type);
    text_put(text, ",\"param\":");
    word_write(text, error->param[0] != '\0' ? error->param : NULL);
    text_put(text, ",\"code\":");
    word_write(text, error->code);
    text_put(text, "}}");
}

void openai_error_event_write(struct text *text, const struct openai_error *error)
{
    text_put(text, "data: ");
    openai_error_write(text, error);
    text_put(text, "\n\n");
}

/* ---- the small ones ---- */

void openai_models_write(struct text *text, const char *model, uint64_t created_s,
                         uint32_t context_tokens)
{
    text_put(text, "{\"object\":\"list\",\"data\":[{\"id\":");
    word_write(text, model);
    text_format(text,
                ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"baton\","
                "\"max_model_len\":%u}]}",
                (unsigned long long)created_s, context_tokens);
}

void openai_tokenize_write(struct text *text, const uint32_t *tokens, uint32_t token_count,
                           uint32_t context_tokens, const char *const *pieces,
                           const size_t *piece_bytes)
{
    text_format(text, "{\"count\":%u,\"max_model_len\":%u,\"tokens\":[", token_count,
                context_tokens);
    for (uint32_t i = 0; i < token_count; i++)
        text_format(text, i == 0 ? "%u" : ",%u", tokens[i]);
    text_put(text, "]");
    if (pieces != NULL) {
        text_put(text, ",\"token_strs\":[");
        for (uint32_t i = 0; i < token_count; i++) {
            if (i > 0)
                text_put(text, ",");
            text_json_string(text, pieces[i], piece_bytes[i]);
        }
        text_put(text, "]");
    }
    text_put(text, "}");
}

void openai_detokenize_write(struct text *text, const char *prompt, size_t bytes)
{
    /* vLLM's name for the text is "prompt", llama.cpp's is "content": both, for either's clients.
     */
    text_put(text, "{\"prompt\":");
    text_json_string(text, prompt, bytes);
    text_put(text, ",\"content\":");
    text_json_string(text, prompt, bytes);
    text_put(text, "}");
}

void openai_tokenizer_info_write(struct text *text, const struct openai_tokenizer_info *info)
{
    text_put(text, "{\"tokenizer_class\":");
    word_write(text, info->kind);
    text_put(text, ",\"pre_tokenizer\":");
    word_write(text, info->pre);
    text_format(text,
                ",\"vocab_size\":%u,\"model_max_length\":%u,\"bos_token_id\":", info->vocabulary,
                info->context_tokens);
    if (info->bos >= 0)
        text_format(text, "%lld", (long long)info->bos);
    else
        text_put(text, "null");
    text_put(text, ",\"eos_token_id\":");
    if (info->eos >= 0)
        text_format(text, "%lld", (long long)info->eos);
    else
        text_put(text, "null");
    text_format(text, ",\"add_bos_token\":%s,\"chat_template\":", info->add_bos ? "true" : "false");
    if (info->chat_template != NULL)
        text_json_string(text, info->chat_template, info->chat_template_bytes);
    else
        text_put(text, "null");
    text_put(text, "}");
}
