/* Text to ids and back over HTTP; the work is done in the pool. */
#include "router/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "router/chat.h"

#define TOKENS_REPLY_BYTES_MAX (64u << 20)

struct tokens_job {
    struct task task; /* first */
    struct router *router;
    struct http_request *http; /* NULL: the client is gone */
    bool encode;
    char *body;
    size_t body_bytes;
    uint32_t context_tokens;
    status read;
    struct openai_error error;
    struct text reply;
};

static void tokens_write(struct tokens_job *job, const struct token_list *list, bool strings)
{
    const char **pieces = NULL;
    size_t *piece_bytes = NULL;
    if (strings) {
        pieces = calloc(list->count + 1, sizeof(*pieces));
        piece_bytes = calloc(list->count + 1, sizeof(*piece_bytes));
    }
    if (strings && (pieces == NULL || piece_bytes == NULL)) {
        job->reply.failed = true;
    } else {
        for (size_t i = 0; strings && i < list->count; i++)
            pieces[i] = tokenizer_token_text(job->router->tokenizer, list->ids[i], &piece_bytes[i]);
        openai_tokenize_write(&job->reply, list->ids, (uint32_t)list->count, job->context_tokens,
                              pieces, piece_bytes);
    }
    free(pieces);
    free(piece_bytes);
}

static status tokens_encode(struct tokens_job *job)
{
    const struct router *router = job->router;
    struct openai_limits limits = {.vocabulary = router->model->vocabulary};
    struct openai_tokenize *request = NULL;
    status st = openai_tokenize_parse(job->body, job->body_bytes, &limits, &request, &job->error);
    if (st != OK)
        return st;
    char *rendered = NULL;
    const char *text = request->text.data;
    size_t bytes = request->text.bytes;
    if (request->messages != NULL) {
        st = chat_render(router, request->messages, request->template_kwargs,
                         request->add_generation_prompt, &rendered, &bytes);
        text = rendered;
    }
    struct token_list list = {0};
    unsigned flags =
        TOKENIZER_PARSE_SPECIAL | (request->add_special_tokens ? TOKENIZER_ADD_BOS : 0u);
    if (st == OK)
        st = tokenizer_encode(router->tokenizer, text, bytes, flags, SIZE_MAX, &list);
    if (st == OK)
        tokens_write(job, &list, request->return_token_strs);
    else
        openai_error_fill(&job->error, 400, NULL, NULL, "%s", error_text());
    token_list_close(&list);
    free(rendered);
    openai_tokenize_free(request);
    return st;
}

static status tokens_decode(struct tokens_job *job)
{
    const struct router *router = job->router;
    struct openai_limits limits = {.vocabulary = router->model->vocabulary};
    struct openai_detokenize *request = NULL;
    char *text = NULL;
    size_t bytes = 0;
    status st = openai_detokenize_parse(job->body, job->body_bytes, &limits, &request, &job->error);
    if (st != OK)
        return st;
    st = tokenizer_decode(router->tokenizer, request->tokens, request->token_count, false, &text,
                          &bytes);
    if (st == OK)
        openai_detokenize_write(&job->reply, text, bytes);
    else
        openai_error_fill(&job->error, 400, "tokens", NULL, "%s", error_text());
    free(text);
    openai_detokenize_free(request);
    return st;
}

static void tokens_run(struct task *task)
{
    struct tokens_job *job = (struct tokens_job *)task;
    job->reply = text_open(TOKENS_REPLY_BYTES_MAX);
    job->read = job->encode ? tokens_encode(job) : tokens_decode(job);
    if (job->read == OK && !text_ok(&job->reply)) {
        job->read = ERR_NO_MEMORY;
        openai_error_fill(&job->error, 500, NULL, NULL, "the reply does not fit into memory");
    }
}

static void tokens_gone(void *ctx)
{
    struct tokens_job *job = ctx;
    job->http = NULL;
}

static void tokens_close(struct tokens_job *job)
{
    http_body_free(job->body);
    text_close(&job->reply);
    free(job);
}

void tokens_done(struct router *router, struct mail *mail)
{
    struct tokens_job *job = (struct tokens_job *)mail;
    if (job->http != NULL) {
        struct text *text = &job->reply;
        if (job->read != OK) {
            text_reset(&router->text);
            openai_error_write(&router->text, &job->error);
            text = &router->text;
        }
        http_reply(job->http, job->read == OK ? 200 : job->error.http_code, "application/json",
                   NULL, 0, text->data, text->bytes);
    }
    tokens_close(job);
}

static void tokens_accept(struct router *router, struct http_request *http, bool encode)
{
    struct tokens_job *job = calloc(1, sizeof(*job));
    struct openai_error error;
    openai_error_fill(&error, 429, NULL, "queue_full", "the server is busy; try again");
    if (job != NULL) {
        job->task.mail.kind = TOKENS_TASK;
        job->task.run = tokens_run;
        job->router = router;
        job->http = http;
        job->encode = encode;
        job->context_tokens = router->context_tokens;
        job->body = http_request_take_body(http, &job->body_bytes);
        if (job->body != NULL && task_pool_post(router->pool, &job->task) == OK) {
            http_request_watch(http, tokens_gone, job);
            return;
        }
        if (job->body == NULL)
            openai_error_fill(&error, 400, NULL, NULL, "the body is empty: expected a JSON object");
        tokens_close(job);
    }
    struct http_header retry = {"Retry-After", "1"};
    text_reset(&router->text);
    openai_error_write(&router->text, &error);
    http_reply(http, error.http_code, "application/json", &retry, error.http_code == 429 ? 1 : 0,
               router->text.data, router->text.bytes);
}

void on_tokenize(void *ctx, struct http_request *http)
{
    tokens_accept(ctx, http, true);
}

void on_detokenize(void *ctx, struct http_request *http)
{
    tokens_accept(ctx, http, false);
}

void on_tokenizer_info(void *ctx, struct http_request *http)
{
    struct router *router = ctx;
    const struct tokenizer_facts *facts = tokenizer_facts(router->tokenizer);
    struct openai_tokenizer_info info = {
        .kind = strcmp(facts->model, "llama") == 0 ? "spm" : "bpe",
        .pre = facts->pre[0] != '\0' ? facts->pre : NULL,
        .vocabulary = facts->vocabulary,
        .context_tokens = router->context_tokens,
        .bos = facts->bos_id != TOKEN_NONE ? (int64_t)facts->bos_id : -1,
        .eos = facts->eos_id != TOKEN_NONE ? (int64_t)facts->eos_id : -1,
        .add_bos = facts->add_bos,
        .chat_template = router->chat_template != NULL ? router->template_source : NULL,
        .chat_template_bytes = router->template_bytes,
    };
    text_reset(&router->text);
    openai_tokenizer_info_write(&router->text, &info);
    http_reply(http, 200, "application/json", NULL, 0, router->text.data, router->text.bytes);
}
