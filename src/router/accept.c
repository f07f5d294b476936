/* HTTP in: a body is read, templated and tokenized in the pool, checked, and sent on its way. */
#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/chat.h"
#include "router/request.h"
#include "router/tokens.h"

#define RETRY_AFTER_S "1"

/* What a client may ask for, a worker takes. */
static_assert(OPENAI_N_MAX <= WIRE_SEQUENCES_MAX, "n");
static_assert(OPENAI_BIASES_MAX <= WIRE_BIAS_MAX, "logit_bias");
static_assert(OPENAI_STOP_TOKENS_MAX < WIRE_STOP_IDS_MAX, "stop_token_ids");
static_assert(OPENAI_TOP_LOGPROBS_MAX <= WIRE_LOGPROBS_MAX, "top_logprobs");

/* ---- in the pool: no state of the router but what is constant ---- */

static void answer_refuse(struct answer *answer, unsigned http_code, const char *param,
                          const char *code, const char *message)
{
    answer->read = ERR_BAD_INPUT;
    openai_error_fill(&answer->error, http_code, param, code, "%s", message);
}

static status answer_encode(struct answer *answer, const char *text, size_t bytes, unsigned flags,
                            struct token_list *list)
{
    status st = tokenizer_encode(answer->router->tokenizer, text, bytes, flags,
                                 answer->context_tokens, list);
    char message[256];
    if (st == ERR_FULL) {
        snprintf(message, sizeof(message),
                 "the prompt has more tokens than the %u that a sequence may have here, prompt and "
                 "answer together; shorten it",
                 answer->context_tokens);
        answer_refuse(answer, 400, answer->kind == OPENAI_CHAT ? "messages" : "prompt",
                      "context_length_exceeded", message);
    } else if (st != OK) {
        answer_refuse(answer, 400, "prompt", NULL, error_text());
    }
    return st;
}

static status answer_read_chat(struct answer *answer)
{
    const struct openai_request *openai = answer->openai;
    char *text = NULL;
    size_t bytes = 0;
    status st = chat_render(answer->router, openai->messages, openai->template_kwargs,
                            openai->add_generation_prompt, &text, &bytes);
    if (st != OK) {
        answer_refuse(answer, st == ERR_NO_MEMORY ? 503 : 400, "messages", NULL, error_text());
        return st;
    }
    unsigned flags =
        TOKENIZER_PARSE_SPECIAL | (answer->openai->add_special_tokens ? TOKENIZER_ADD_BOS : 0u);
    st = answer_encode(answer, text, bytes, flags, &answer->prompts[0]);
    free(text);
    return st;
}

static status answer_read_prompt(struct answer *answer, const struct openai_prompt *prompt,
                                 struct token_list *list)
{
    if (prompt->tokens == NULL) {
        unsigned flags =
            TOKENIZER_PARSE_SPECIAL | (answer->openai->add_special_tokens ? TOKENIZER_ADD_BOS : 0u);
        return answer_encode(answer, prompt->text.data, prompt->text.bytes, flags, list);
    }
    list->ids = malloc(prompt->token_count * sizeof(*list->ids) + 1);
    if (list->ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a prompt");
    memcpy(list->ids, prompt->tokens, prompt->token_count * sizeof(*list->ids));
    list->count = list->capacity = prompt->token_count;
    return OK;
}

/* Room for the answer: max_tokens as given, or as many as there is room for. */
static void answer_check_length(struct answer *answer, size_t prompt_tokens)
{
    const struct openai_request *openai = answer->openai;
    char message[256];
    if (prompt_tokens == 0) {
        answer_refuse(answer, 400, "prompt", NULL,
                      "the prompt is empty: expected at least one "
                      "token");
    } else if (prompt_tokens >= answer->context_tokens) {
        snprintf(message, sizeof(message),
                 "the prompt has %zu tokens and leaves no room for an answer: a sequence has at "
                 "most %u tokens here",
                 prompt_tokens, answer->context_tokens);
        answer_refuse(answer, 400, answer->kind == OPENAI_CHAT ? "messages" : "prompt",
                      "context_length_exceeded", message);
    } else if (openai->max_tokens != OPENAI_TOKENS_REST &&
               openai->max_tokens > answer->context_tokens - prompt_tokens) {
        snprintf(message, sizeof(message),
                 "the prompt has %zu tokens and max_tokens is %u: together they are over the %u "
                 "tokens of a sequence here",
                 prompt_tokens, openai->max_tokens, answer->context_tokens);
        answer_refuse(answer, 400, "max_tokens", "context_length_exceeded", message);
    } else if (openai->min_tokens > answer->context_tokens - prompt_tokens) {
        answer_refuse(answer, 400, "min_tokens", NULL,
                      "min_tokens is larger than the room that the prompt leaves");
    }
}

/* What separates tenants in the prefix cache: the API key and what the request says. */
static void answer_fill_salt(struct answer *answer)
{
    const struct openai_string *salt = &answer->openai->cache_salt;
    if (salt->bytes == 0 && sodium_is_zero(answer->tenant, sizeof(answer->tenant)))
        return;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, sizeof(answer->salt));
    crypto_generichash_update(&state, answer->tenant, sizeof(answer->tenant));
    if (salt->bytes > 0)
        crypto_generichash_update(&state, (const unsigned char *)salt->data, salt->bytes);
    crypto_generichash_final(&state, answer->salt, sizeof(answer->salt));
}

/* Block keys of the prompts: who holds what of them is looked up on the loop. */
static void answer_key(struct answer *answer)
{
    answer_fill_salt(answer);
    if ((answer->worker.parts & HELLO_HAS_KV) == 0)
        return;
    answer->keys = calloc(answer->prompt_count, sizeof(struct block_key *));
    answer->key_counts = calloc(answer->prompt_count, sizeof(*answer->key_counts));
    if (answer->keys == NULL || answer->key_counts == NULL)
        return;
    for (uint32_t i = 0; i < answer->prompt_count; i++)
        sources_keys(&answer->worker, answer->salt, &answer->prompts[i], &answer->keys[i],
                     &answer->key_counts[i]);
}

static void answer_read(struct answer *answer)
{
    struct router *router = answer->router;
    struct openai_limits limits = {.vocabulary = router->model->vocabulary,
                                   .context_tokens = answer->context_tokens};
    answer->read = answer->kind == OPENAI_CHAT
                       ? openai_chat_parse(answer->body, answer->body_bytes, &limits,
                                           &answer->openai, &answer->error)
                       : openai_completion_parse(answer->body, answer->body_bytes, &limits,
                                                 &answer->openai, &answer->error);
    if (answer->read != OK)
        return;
    const struct openai_request *openai = answer->openai;
    if (openai->model != NULL && strcmp(openai->model, router->model_name) != 0) {
        char message[256];
        snprintf(message, sizeof(message),
                 "the model \"%.64s\" is not here; this server has \"%s\"", openai->model,
                 router->model_name);
        answer_refuse(answer, 404, "model", "model_not_found", message);
        return;
    }
    uint32_t prompt_count = answer->kind == OPENAI_CHAT ? 1 : openai->prompt_count;
    answer->prompts = calloc(prompt_count, sizeof(*answer->prompts));
    status st = answer->prompts == NULL ? error_set(ERR_NO_MEMORY, "no memory for prompts") : OK;
    if (st == OK)
        answer->prompt_count = prompt_count;
    for (uint32_t i = 0; st == OK && i < prompt_count && answer->read == OK; i++) {
        st = answer->kind == OPENAI_CHAT
                 ? answer_read_chat(answer)
                 : answer_read_prompt(answer, &openai->prompts[i], &answer->prompts[i]);
        if (st == OK)
            answer_check_length(answer, answer->prompts[i].count);
    }
    if (st != OK && answer->read == OK)
        answer_refuse(answer, 500, NULL, NULL, error_text());
    if (answer->read == OK)
        answer_key(answer);
}

static void answer_run(struct task *task)
{
    struct answer *answer = (struct answer *)task;
    answer_read(answer);
    http_body_free(answer->body);
    answer->body = NULL;
}

/* ---- on the loop ---- */

static void answer_free(struct answer *answer)
{
    for (uint32_t i = 0; answer->requests != NULL && i < answer->prompt_count; i++) {
        struct request *request = &answer->requests[i];
        for (uint32_t k = 0; request->sequences != NULL && k < answer->openai->n; k++) {
            struct sequence *sequence = &request->sequences[k];
            for (uint32_t t = 0; t < sequence->shown_count; t++) {
                free(sequence->tokens[t].piece);
                free(sequence->tokens[t].top);
            }
            free(sequence->tokens);
            free(sequence->early);
            token_list_close(&sequence->given);
            stops_close(&sequence->stops);
            text_close(&sequence->text);
        }
        free(request->sequences);
        free(request->bias);
        free(request->stop_ids);
        free(request->keys);
        token_list_close(&request->prompt);
        token_list_close(&request->resumed);
        free(request->resumed_keys);
    }
    failover_close(answer);
    for (uint32_t i = 0; answer->prompts != NULL && i < answer->prompt_count; i++)
        token_list_close(&answer->prompts[i]);
    for (uint32_t i = 0; answer->keys != NULL && i < answer->prompt_count; i++)
        free(answer->keys[i]);
    free(answer->keys);
    free(answer->key_counts);
    free(answer->requests);
    free(answer->prompts);
    free(answer->stops);
    openai_request_free(answer->openai);
    http_body_free(answer->body);
    free(answer);
}

void answer_end(struct answer *answer)
{
    struct router *router = answer->router;
    answer->http = NULL;
    if (answer->waiting) {
        answer->waiting = false;
        router->waiting_count--;
    }
    for (uint32_t i = 0; answer->requests != NULL && i < answer->prompt_count; i++)
        route_release(&answer->requests[i]);
    for (struct request *piece = answer->pieces; piece != NULL; piece = piece->next_piece)
        route_release(piece);
    if (answer->in_pool)
        return; /* accept_done frees it. */
    struct answer **at = &router->answers;
    while (*at != answer)
        at = &(*at)->next;
    *at = answer->next;
    answer_free(answer);
}

static void answer_gone(void *ctx)
{
    struct answer *answer = ctx;
    log_line(LOG_DEBUG, answer->requests != NULL ? answer->requests[0].id : 0, "client gone",
             "answer=%s", answer->id);
    answer_end(answer);
}

void answer_error(struct answer *answer, const struct openai_error *error)
{
    struct router *router = answer->router;
    struct http_header headers[] = {{"X-Request-Id", answer->id}, {"Retry-After", RETRY_AFTER_S}};
    bool later = error->http_code == 429 || error->http_code == 503;
    text_reset(&router->text);
    prometheus_add(router->metrics.all,
                   prometheus_series(router->metrics.all, router->metrics.failed, error->type), 1);
    if (answer->streaming) {
        openai_error_event_write(&router->text, error);
        if (http_stream_send(answer->http, router->text.data, router->text.bytes) == OK)
            http_stream_end(answer->http);
        else
            http_stream_abort(answer->http);
    } else {
        openai_error_write(&router->text, error);
        http_reply(answer->http, error->http_code, "application/json", headers, later ? 2 : 1,
                   router->text.data, router->text.bytes);
    }
    answer_end(answer);
}

static void reply_error(struct router *router, struct http_request *http,
                        const struct openai_error *error)
{
    struct http_header retry = {"Retry-After", RETRY_AFTER_S};
    bool later = error->http_code == 429 || error->http_code == 503;
    text_reset(&router->text);
    openai_error_write(&router->text, error);
    http_reply(http, error->http_code, "application/json", &retry, later ? 1 : 0, router->text.data,
               router->text.bytes);
}

/* May a new answer begin? Fills error when not. */
static bool accept_admits(struct router *router, enum openai_kind kind, struct openai_error *error)
{
    if (router->draining) {
        openai_error_fill(error, 503, NULL, "draining", "the server is shutting down");
    } else if (kind == OPENAI_CHAT && router->chat_template == NULL) {
        openai_error_fill(error, 400, NULL, "no_chat_template",
                          "this model has no chat template that can be used here; "
                          "/v1/completions works");
    } else if (health_worker_count(router, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE) == 0) {
        openai_error_fill(error, 503, NULL, "no_workers", "no worker is connected yet; try again");
    } else if (router->waiting_count >= router->options->queue) {
        openai_error_fill(error, 429, NULL, "queue_full",
                          "%u requests are waiting already, the most this server queues; try again",
                          router->waiting_count);
        prometheus_add(router->metrics.all,
                       prometheus_series(router->metrics.all, router->metrics.rejected), 1);
    } else {
        return true;
    }
    return false;
}

static void accept_answer(struct router *router, struct http_request *http, enum openai_kind kind)
{
    struct openai_error error;
    if (!accept_admits(router, kind, &error)) {
        reply_error(router, http, &error);
        return;
    }
    struct answer *answer = calloc(1, sizeof(*answer));
    if (answer == NULL) {
        openai_error_fill(&error, 503, NULL, NULL, "no memory for another request; try again");
        reply_error(router, http, &error);
        return;
    }
    uint8_t random[16];
    randombytes_buf(random, sizeof(random));
    openai_id_write(kind, random, answer->id);
    answer->router = router;
    answer->http = http;
    answer->kind = kind;
    answer->arrived_ns = http->started_ns;
    http_keys_tenant(router->keys, http_request_header(http, "authorization"), answer->tenant);
    answer->context_tokens = router->context_tokens;
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (w->registered && !w->closed)
            answer->worker = w->hello; /* Registered ones agree on what a block is. */
    }
    answer->body = http_request_take_body(http, &answer->body_bytes);
    answer->task.run = answer_run;
    answer->next = router->answers;
    router->answers = answer;
    answer->waiting = true;
    router->waiting_count++;
    http_request_watch(http, answer_gone, answer);
    if (answer->body == NULL) {
        openai_error_fill(&error, 400, NULL, NULL, "the body is empty: expected a JSON object");
        answer_error(answer, &error);
        return;
    }
    answer->in_pool = true;
    if (task_pool_post(router->pool, &answer->task) != OK) {
        answer->in_pool = false;
        openai_error_fill(&error, 429, NULL, "queue_full", "%s; try again", error_text());
        answer_error(answer, &error);
    }
}

static void on_chat(void *ctx, struct http_request *http)
{
    accept_answer(ctx, http, OPENAI_CHAT);
}

static void on_completion(void *ctx, struct http_request *http)
{
    accept_answer(ctx, http, OPENAI_COMPLETION);
}

/* The workers' form of one prompt of the answer. */
static status request_open(struct answer *answer, uint32_t number)
{
    struct router *router = answer->router;
    const struct openai_request *openai = answer->openai;
    struct request *request = &answer->requests[number];
    request->answer = answer;
    request->number = number;
    request->prompt = answer->prompts[number];
    answer->prompts[number] = (struct token_list){0};
    request->id = router->next_request_id++;
    request->sequences_left = openai->n;
    request->sequences = calloc(openai->n, sizeof(*request->sequences));
    const struct tokenizer_facts *facts = tokenizer_facts(router->tokenizer);
    uint32_t end_count = openai->ignore_eos ? 0 : facts->end_count;
    if (end_count > WIRE_STOP_IDS_MAX - openai->stop_token_count)
        end_count = WIRE_STOP_IDS_MAX - openai->stop_token_count;
    request->stop_ids = calloc(WIRE_STOP_IDS_MAX, sizeof(*request->stop_ids));
    request->bias = calloc(openai->bias_count + 1, sizeof(*request->bias));
    if (request->sequences == NULL || request->stop_ids == NULL || request->bias == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for another request");
    for (uint32_t i = 0; i < end_count; i++)
        request->stop_ids[i] = facts->end_ids[i];
    for (uint32_t i = 0; i < openai->stop_token_count; i++)
        request->stop_ids[end_count + i] = openai->stop_tokens[i];
    for (uint32_t i = 0; i < openai->bias_count; i++)
        request->bias[i] = (struct wire_bias){openai->biases[i].token, openai->biases[i].bias};
    for (uint32_t i = 0; i < openai->n; i++) {
        struct sequence *sequence = &request->sequences[i];
        sequence->request = request;
        sequence->number = i;
        sequence->choice = number * openai->n + i;
        detokenizer_open(router->tokenizer, DETOKENIZER_SKIP_SPECIAL, &sequence->detokenizer);
        stops_open(&sequence->stops, answer->stops, openai->stop_count);
        sequence->text = text_open(64u << 20);
    }
    uint32_t rest = answer->context_tokens - (uint32_t)request->prompt.count;
    uint32_t max_tokens = openai->max_tokens == OPENAI_TOKENS_REST ? rest : openai->max_tokens;
    request->wire = (struct wire_request){
        .request_id = request->id,
        .flags = (openai->logprobs ? WIRE_REQUEST_LOGPROBS : 0u) |
                 (openai->echo && openai->logprobs
                      ? WIRE_REQUEST_PROMPT_LOGPROBS | WIRE_REQUEST_NO_PREFIX
                      : 0u),
        .sequence_count = openai->n,
        .first_sequence = number * openai->n,
        .priority = openai->priority,
        .deadline_ms = (uint32_t)router->options->request_timeout_ms,
        .prompt_tokens = (uint32_t)request->prompt.count,
        .prompt = request->prompt.ids,
        .sampling = {.temperature = openai->temperature,
                     .top_p = openai->top_p,
                     .min_p = openai->min_p,
                     .repetition_penalty = openai->repetition_penalty,
                     .frequency_penalty = openai->frequency_penalty,
                     .presence_penalty = openai->presence_penalty,
                     .top_k = openai->top_k,
                     .logprob_count = openai->logprobs ? openai->top_logprobs : 0,
                     .min_tokens = openai->min_tokens,
                     .max_tokens = max_tokens > 0 ? max_tokens : 1,
                     .seed = openai->seed,
                     .bias_count = openai->bias_count,
                     .stop_count = end_count + openai->stop_token_count,
                     .bias = request->bias,
                     .stop_ids = request->stop_ids}};
    if (!openai->has_seed)
        randombytes_buf(&request->wire.sampling.seed, sizeof(request->wire.sampling.seed));
    memcpy(request->wire.salt, answer->salt, sizeof(request->wire.salt));
    if (answer->keys != NULL && answer->key_counts != NULL) {
        request->keys = answer->keys[number];
        request->key_count = answer->key_counts[number];
        answer->keys[number] = NULL;
        request->block_tokens = answer->worker.block_tokens;
    }
    request_track(router, request);
    return route_prefill(router, request);
}

static status answer_open_requests(struct answer *answer)
{
    const struct openai_request *openai = answer->openai;
    answer->requests = calloc(answer->prompt_count, sizeof(*answer->requests));
    answer->stops = calloc(openai->stop_count + 1, sizeof(*answer->stops));
    if (answer->requests == NULL || answer->stops == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for another request");
    for (uint32_t i = 0; i < openai->stop_count; i++)
        answer->stops[i] = (struct stop_string){openai->stops[i].data, openai->stops[i].bytes};
    answer->requests_left = answer->prompt_count;
    answer->head = (struct openai_head){.kind = answer->kind,
                                        .id = answer->id,
                                        .model = answer->router->model_name,
                                        .created_s = clock_wall_s(),
                                        .include_usage = openai->include_usage};
    for (uint32_t i = 0; i < answer->prompt_count; i++) {
        status st = request_open(answer, i);
        if (st != OK)
            return st;
    }
    return OK;
}

void accept_done(void *ctx, struct mail *mail)
{
    struct router *router = ctx;
    if (mail->kind == TOKENS_TASK) {
        tokens_done(router, mail);
        return;
    }
    struct answer *answer = (struct answer *)mail;
    answer->in_pool = false;
    if (answer->http == NULL) {
        answer_end(answer);
        return;
    }
    struct openai_error error;
    if (answer->read != OK) {
        error = answer->error;
        answer_error(answer, &error);
        return;
    }
    status st = answer_open_requests(answer);
    if (st == OK)
        return;
    openai_error_fill(&error, 503, NULL, st == ERR_CLOSED ? "no_workers" : NULL, "%s",
                      error_text());
    answer_error(answer, &error);
}

/* ---- the small routes ---- */

static void on_health(void *ctx, struct http_request *http)
{
    struct router *router = ctx;
    bool well = router->ready_said && !router->draining &&
                health_worker_count(router, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE) > 0;
    text_reset(&router->text);
    text_format(&router->text,
                "{\"status\": \"%s\", \"prefill_workers\": %u, "
                "\"decode_workers\": %u}\n",
                well               ? "ok"
                : router->draining ? "draining"
                                   : "loading",
                health_worker_count(router, WIRE_ROLE_PREFILL),
                health_worker_count(router, WIRE_ROLE_DECODE));
    http_reply(http, well ? 200 : 503, "application/json", NULL, 0, router->text.data,
               router->text.bytes);
}

static void on_live(void *ctx, struct http_request *http)
{
    (void)ctx;
    http_reply(http, 200, "application/json", NULL, 0, "{\"status\": \"live\"}\n", 19);
}

static void on_models(void *ctx, struct http_request *http)
{
    struct router *router = ctx;
    text_reset(&router->text);
    openai_models_write(&router->text, router->model_name, clock_wall_s(), router->context_tokens);
    http_reply(http, 200, "application/json", NULL, 0, router->text.data, router->text.bytes);
}

static void on_metrics(void *ctx, struct http_request *http)
{
    struct router *router = ctx;
    text_reset(&router->text);
    metrics_write(router, &router->text);
    http_reply(http, 200, PROMETHEUS_CONTENT_TYPE, NULL, 0, router->text.data, router->text.bytes);
}

static void on_requests(void *ctx, struct http_request *http)
{
    struct router *router = ctx;
    text_reset(&router->text);
    why_write(router, &router->text);
    http_reply(http, 200, "text/plain; charset=utf-8", NULL, 0, router->text.data,
               router->text.bytes);
}

const struct http_route router_routes[] = {
    {"/v1/chat/completions", HTTP_METHOD_POST, false, on_chat},
    {"/v1/completions", HTTP_METHOD_POST, false, on_completion},
    {"/v1/models", HTTP_METHOD_GET, false, on_models},
    {"/tokenize", HTTP_METHOD_POST, false, on_tokenize},
    {"/detokenize", HTTP_METHOD_POST, false, on_detokenize},
    {"/tokenizer_info", HTTP_METHOD_GET, false, on_tokenizer_info},
    {"/metrics", HTTP_METHOD_GET, false, on_metrics},
    {"/debug/requests", HTTP_METHOD_GET, false, on_requests},
    {"/health", HTTP_METHOD_GET, true, on_health},
    {"/live", HTTP_METHOD_GET, true, on_live},
};
const uint32_t router_route_count = sizeof(router_routes) / sizeof(router_routes[0]);
