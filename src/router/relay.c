/* Tokens become text, text is searched for stop strings, and goes to the client. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "router/request.h"

#define EARLY_TOKENS_MAX 65536
#define PING_NS 10000000000u

static void relay_observe(struct router *router, uint32_t family, double seconds)
{
    prometheus_observe(router->metrics.all, prometheus_series(router->metrics.all, family),
                       seconds);
}

/* ---- to the client ---- */

/* Send what is in router->text as part of the stream, beginning it if need be. */
static void answer_send(struct answer *answer)
{
    struct router *router = answer->router;
    if (answer->http == NULL)
        return;
    if (!answer->streaming) {
        struct http_header id = {"X-Request-Id", answer->id};
        answer->streaming = true;
        http_stream_begin(answer->http, &id, 1);
    }
    answer->last_sent_ns = clock_ns();
    /* A client that was cut, or has gone, is reported by on_gone. */
    http_stream_send(answer->http, router->text.data, router->text.bytes);
}

static struct openai_usage answer_usage(const struct answer *answer)
{
    struct openai_usage usage = {0};
    for (uint32_t i = 0; i < answer->prompt_count; i++) {
        const struct request *request = &answer->requests[i];
        usage.prompt_tokens += (uint32_t)request->prompt.count;
        usage.cached_tokens += request->cached_tokens;
        for (uint32_t k = 0; k < answer->openai->n; k++)
            usage.completion_tokens += request->sequences[k].token_count;
    }
    if (answer->openai->max_tokens == 0)
        usage.completion_tokens = 0;
    return usage;
}

static void sequence_forget_tokens(struct sequence *sequence)
{
    for (uint32_t i = 0; i < sequence->shown_count; i++) {
        free(sequence->tokens[i].piece);
        free(sequence->tokens[i].top);
    }
    sequence->shown_count = 0;
}

/* The tokens of a choice as one array, in router-independent form. NULL when there are none. */
static struct openai_token *sequence_tokens(const struct sequence *sequence)
{
    struct openai_token *tokens = calloc(sequence->shown_count + 1, sizeof(*tokens));
    for (uint32_t i = 0; tokens != NULL && i < sequence->shown_count; i++)
        tokens[i] = sequence->tokens[i].shown;
    return tokens;
}

static void sequence_stream(struct sequence *sequence)
{
    struct answer *answer = sequence->request->answer;
    struct router *router = answer->router;
    struct openai_choice choice = {.index = sequence->choice,
                                   .has_logprobs = answer->openai->logprobs};
    text_reset(&router->text);
    if (!sequence->role_sent && answer->kind == OPENAI_CHAT) {
        struct openai_choice role = {.index = sequence->choice, .role = true};
        openai_chunk_write(&router->text, &answer->head, &role, NULL);
    }
    sequence->role_sent = true;
    if (sequence->text.bytes > 0 || sequence->shown_count > 0) {
        struct openai_token *tokens = sequence_tokens(sequence);
        choice.text = sequence->text.data != NULL ? sequence->text.data : "";
        choice.bytes = sequence->text.bytes;
        choice.tokens = tokens;
        choice.token_count = tokens != NULL ? sequence->shown_count : 0;
        openai_chunk_write(&router->text, &answer->head, &choice, NULL);
        free(tokens);
        text_reset(&sequence->text);
        sequence_forget_tokens(sequence);
    }
    if (sequence->done) {
        struct openai_choice last = {
            .index = sequence->choice, .text = "", .finish_reason = sequence->finish_reason};
        openai_chunk_write(&router->text, &answer->head, &last, NULL);
    }
    if (router->text.bytes > 0)
        answer_send(answer);
}

static void answer_finish_stream(struct answer *answer)
{
    struct router *router = answer->router;
    text_reset(&router->text);
    if (answer->openai->include_usage) {
        struct openai_usage usage = answer_usage(answer);
        openai_chunk_write(&router->text, &answer->head, NULL, &usage);
    }
    openai_done_write(&router->text);
    answer_send(answer);
    http_stream_end(answer->http);
}

static void answer_finish_whole(struct answer *answer)
{
    struct router *router = answer->router;
    uint32_t count = answer->prompt_count * answer->openai->n;
    struct openai_choice *choices = calloc(count, sizeof(*choices));
    struct openai_token **tokens = calloc(count, sizeof(*tokens));
    struct http_header id = {"X-Request-Id", answer->id};
    bool whole = choices != NULL && tokens != NULL;
    for (uint32_t i = 0; whole && i < count; i++) {
        struct sequence *sequence =
            &answer->requests[i / answer->openai->n].sequences[i % answer->openai->n];
        tokens[i] = sequence_tokens(sequence);
        whole = tokens[i] != NULL && text_ok(&sequence->text);
        choices[i] =
            (struct openai_choice){.index = i,
                                   .text = sequence->text.data != NULL ? sequence->text.data : "",
                                   .bytes = sequence->text.bytes,
                                   .finish_reason = sequence->finish_reason,
                                   .has_logprobs = answer->openai->logprobs,
                                   .tokens = tokens[i],
                                   .token_count = sequence->shown_count};
    }
    text_reset(&router->text);
    unsigned code = 200;
    if (whole) {
        struct openai_usage usage = answer_usage(answer);
        openai_answer_write(&router->text, &answer->head, choices, count, &usage);
    }
    if (!whole || !text_ok(&router->text)) {
        struct openai_error error;
        openai_error_fill(&error, 500, NULL, NULL, "the answer does not fit into memory");
        text_reset(&router->text);
        openai_error_write(&router->text, &error);
        code = 500;
    }
    http_reply(answer->http, code, "application/json", &id, 1, router->text.data,
               router->text.bytes);
    for (uint32_t i = 0; tokens != NULL && i < count; i++)
        free(tokens[i]);
    free(tokens);
    free(choices);
}

static void answer_finish(struct answer *answer)
{
    struct router *router = answer->router;
    relay_observe(router, router->metrics.e2e, (double)(clock_ns() - answer->arrived_ns) / 1e9);
    if (answer->openai->stream)
        answer_finish_stream(answer);
    else
        answer_finish_whole(answer);
    answer_end(answer);
}

/* Proxies and clients give a stream up that is silent for long. */
static void answer_ping(struct answer *answer, uint64_t now_ns)
{
    if (answer->requests == NULL || !answer->openai->stream || answer->http == NULL ||
        now_ns - (answer->last_sent_ns > 0 ? answer->last_sent_ns : answer->arrived_ns) < PING_NS)
        return;
    text_reset(&answer->router->text);
    openai_ping_write(&answer->router->text);
    answer_send(answer);
}

void relay_tick(struct router *router)
{
    uint64_t now_ns = clock_ns();
    struct answer *next;
    for (struct answer *a = router->answers; a != NULL; a = next) {
        next = a->next;
        answer_ping(a, now_ns);
    }
}

void request_fail(struct request *request, unsigned http_code, const char *code, const char *text)
{
    struct openai_error error;
    log_line(LOG_WARN, request->id, "request failed", "code=%u reason=\"%s\"", http_code, text);
    openai_error_fill(&error, http_code, NULL, code, "%s", text);
    answer_error(request->answer, &error);
}

/* ---- from tokens to text ---- */

static uint32_t text_count_characters(const char *text, size_t bytes)
{
    uint32_t count = 0;
    for (size_t i = 0; i < bytes; i++)
        count += (text[i] & 0xc0) != 0x80;
    return count;
}

/* Keep a token for logprobs. It is shown with the next text that goes out. */
static bool sequence_show(struct sequence *sequence, const struct wire_token *token,
                          bool has_logprob)
{
    const struct tokenizer *tokenizer = sequence->request->answer->router->tokenizer;
    if (sequence->shown_count == sequence->shown_capacity) {
        uint32_t capacity = sequence->shown_capacity * 2 + 16;
        struct sequence_token *tokens = realloc(sequence->tokens, capacity * sizeof(*tokens));
        if (tokens == NULL)
            return false;
        sequence->tokens = tokens;
        sequence->shown_capacity = capacity;
    }
    struct sequence_token *to = &sequence->tokens[sequence->shown_count];
    memset(to, 0, sizeof(*to));
    to->shown.piece =
        (const char *)tokenizer_token_bytes(tokenizer, token->token, &to->shown.bytes);
    to->shown.logprob = token->logprob;
    to->shown.has_logprob = has_logprob;
    to->shown.text_offset = sequence->text_characters;
    if (token->top_count > 0) {
        to->top = calloc(token->top_count, sizeof(*to->top));
        if (to->top == NULL)
            return false;
        for (uint32_t i = 0; i < token->top_count; i++) {
            to->top[i].piece = (const char *)tokenizer_token_bytes(tokenizer, token->top_tokens[i],
                                                                   &to->top[i].bytes);
            to->top[i].logprob = token->top_logprobs[i];
        }
        to->shown.top = to->top;
        to->shown.top_count = token->top_count;
    }
    sequence->shown_count++;
    return true;
}

static void sequence_add_text(struct sequence *sequence, const char *text, size_t bytes)
{
    text_add(&sequence->text, text, bytes);
    sequence->text_characters += text_count_characters(text, bytes);
}

/* The text of one more token (id TOKEN_NONE: none, for the end), past the stop strings. */
static status sequence_extend(struct sequence *sequence, uint32_t id, bool ends)
{
    char piece[2 * DETOKENIZER_PIECE_BYTES_MAX];
    size_t bytes = 0, more = 0, free_bytes = 0;
    bool stopped = false;
    if (id != TOKEN_NONE) {
        status st = detokenizer_push(&sequence->detokenizer, id, piece, &bytes);
        if (st != OK)
            return st;
    }
    if (ends) {
        detokenizer_flush(&sequence->detokenizer, piece + bytes, &more);
        bytes += more;
    }
    status st = stops_push(&sequence->stops, piece, bytes, &free_bytes, &stopped);
    if (st != OK)
        return st;
    if (ends && !stopped)
        free_bytes = sequence->stops.held_bytes;
    sequence_add_text(sequence, sequence->stops.held, free_bytes);
    stops_take(&sequence->stops, free_bytes);
    if (stopped && !sequence->done) {
        sequence->done = true;
        sequence->finish_reason = "stop";
        route_stop(sequence);
    }
    return OK;
}

static void relay_measure(struct sequence *sequence, uint64_t now_ns)
{
    struct router *router = sequence->request->answer->router;
    if (sequence->last_ns != 0)
        relay_observe(router, router->metrics.itl, (double)(now_ns - sequence->last_ns) / 1e9);
    sequence->last_ns = now_ns;
    prometheus_add(router->metrics.all,
                   prometheus_series(router->metrics.all, router->metrics.generation_tokens), 1);
}

static void relay_sequence_done(struct sequence *sequence)
{
    struct request *request = sequence->request;
    struct router *router = request->answer->router;
    prometheus_add(
        router->metrics.all,
        prometheus_series(router->metrics.all, router->metrics.success, sequence->finish_reason),
        1);
    if (sequence->token_count > 1 && request->first_ns != 0)
        relay_observe(router, router->metrics.tpot,
                      (double)(sequence->last_ns - request->first_ns) / 1e9 /
                          (sequence->token_count - 1));
    request->sequences_left--;
}

/* One token in its order. */
static status sequence_take(struct sequence *sequence, const struct wire_token *token)
{
    struct answer *answer = sequence->request->answer;
    bool dropped = answer->openai->max_tokens == 0; /* only the echo was wanted */
    bool hidden = token->finish == WIRE_FINISH_STOP || dropped;
    status st = token_list_push(&sequence->given, WIRE_PROMPT_TOKENS_MAX, token->token);
    if (st != OK)
        return st;
    sequence->token_count++;
    relay_measure(sequence, clock_ns());
    if (answer->openai->logprobs && !hidden && !sequence_show(sequence, token, true))
        return error_set(ERR_NO_MEMORY, "no memory for log-probabilities");
    if (token->finish != WIRE_FINISH_NONE) {
        sequence->done = true;
        sequence->finish_reason = token->finish == WIRE_FINISH_STOP ? "stop" : "length";
    }
    bool ends = sequence->done;
    st = sequence_extend(sequence, hidden ? TOKEN_NONE : token->token, ends);
    if (st == OK && sequence->done)
        relay_sequence_done(sequence);
    return st;
}

/* A token that overtook the first one, which comes from another worker. */
static status sequence_keep_early(struct sequence *sequence, const struct wire_token *token)
{
    if (sequence->early_count == EARLY_TOKENS_MAX)
        return error_set(ERR_FULL, "%u tokens came before the first one", EARLY_TOKENS_MAX);
    struct wire_token *early =
        realloc(sequence->early, (sequence->early_count + 1) * sizeof(*early));
    if (early == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an early token");
    sequence->early = early;
    sequence->early[sequence->early_count++] = *token;
    return OK;
}

/* Take a token and the early ones that follow it, and send. The request may be gone after it. */
static void relay_token(struct request *request, const struct wire_token *token)
{
    struct sequence *sequence = &request->sequences[request->first_number + token->sequence];
    struct answer *answer = request->answer;
    status st = OK;
    if (sequence->done || token->index < sequence->token_count)
        return;
    if (token->index > sequence->token_count) {
        st = sequence_keep_early(sequence, token);
    } else {
        st = sequence_take(sequence, token);
        for (uint32_t i = 0; st == OK && !sequence->done && i < sequence->early_count; i++) {
            if (sequence->early[i].index == sequence->token_count)
                st = sequence_take(sequence, &sequence->early[i]);
        }
        if (st == OK && answer->openai->stream)
            sequence_stream(sequence);
    }
    if (st != OK) {
        request_fail(request, 500, NULL, error_text());
        return;
    }
    if (request->sequences_left == 0 && request->state != REQUEST_DONE) {
        request->state = REQUEST_DONE;
        struct router *router = answer->router;
        relay_observe(router, router->metrics.decode,
                      (double)(clock_ns() - request->first_ns) / 1e9);
        route_release(request);
        if (--answer->requests_left == 0)
            answer_finish(answer);
    }
}

/* ---- from the workers ---- */

/* echo: the prompt's text, and its log-probabilities, come before the answer's. */
static status relay_echo(struct request *request, struct sequence *sequence,
                         const struct wire_token *prompt_tokens, uint32_t count)
{
    struct router *router = request->answer->router;
    char *text = NULL;
    size_t bytes = 0;
    status st = OK;
    if (request->answer->openai->logprobs) {
        struct wire_token token = {.token = request->prompt.ids[0]};
        bool shown = sequence_show(sequence, &token, false);
        struct detokenizer detokenizer;
        char piece[DETOKENIZER_PIECE_BYTES_MAX];
        size_t piece_bytes;
        detokenizer_open(router->tokenizer, DETOKENIZER_TEXT_START, &detokenizer);
        for (uint32_t i = 0; shown && i <= count; i++) {
            detokenizer_push(&detokenizer, request->prompt.ids[i], piece, &piece_bytes);
            sequence->text_characters += text_count_characters(piece, piece_bytes);
            if (i < count)
                shown = sequence_show(sequence, &prompt_tokens[i], true);
        }
        sequence->text_characters = 0;
        if (!shown)
            return error_set(ERR_NO_MEMORY, "no memory for log-probabilities");
    }
    st = tokenizer_decode(router->tokenizer, request->prompt.ids, request->prompt.count, false,
                          &text, &bytes);
    if (st == OK)
        sequence_add_text(sequence, text, bytes);
    free(text);
    return st;
}

static void relay_first_times(struct request *request, const struct wire_first *first)
{
    struct answer *answer = request->answer;
    struct router *router = answer->router;
    uint64_t now_ns = clock_ns();
    request->progress_ns = now_ns;
    request->tries = request->corrupts = 0; /* not the deaths: decoding it is to come */
    if (request->wire.resumed_tokens > 0)
        return; /* The client has had its first token. */
    request->cached_tokens = first->cached_tokens;
    request->first_ns = now_ns;
    relay_observe(router, router->metrics.ttft, (double)(now_ns - answer->arrived_ns) / 1e9);
    relay_observe(router, router->metrics.queue, (double)first->queue_ns / 1e9);
    relay_observe(router, router->metrics.place, (double)first->place_ns / 1e9);
    relay_observe(router, router->metrics.prefill, (double)first->prefill_ns / 1e9);
    struct prometheus *all = router->metrics.all;
    prometheus_add(all, prometheus_series(all, router->metrics.prompt_tokens),
                   request->wire.prompt_tokens);
    prometheus_add(all, prometheus_series(all, router->metrics.cached_tokens),
                   first->cached_tokens);
    if (answer->waiting) {
        answer->waiting = false;
        router->waiting_count--;
    }
}

/* Where the tokens came from: those of a prompt that were not computed, and all of what goes on. */
static void relay_first_sources(struct request *request, const struct wire_first *first)
{
    struct router_metrics *m = &request->answer->router->metrics;
    bool resumed = request->wire.resumed_tokens > 0;
    uint32_t family = resumed ? m->resumed_tokens : m->reused_tokens;
    uint32_t fetched = first->peer_tokens + first->store_tokens;
    uint32_t own = first->cached_tokens > fetched ? first->cached_tokens - fetched : 0;
    prometheus_add(m->all, prometheus_series(m->all, family, "local"), own);
    prometheus_add(m->all, prometheus_series(m->all, family, "peer"), first->peer_tokens);
    prometheus_add(m->all, prometheus_series(m->all, family, "store"), first->store_tokens);
    /* Nobody had computed the last one. */
    if (resumed && request->wire.prompt_tokens > first->cached_tokens)
        prometheus_add(m->all, prometheus_series(m->all, family, "computed"),
                       request->wire.prompt_tokens - first->cached_tokens - 1);
    if (first->range_count > 0)
        relay_observe(request->answer->router, m->gather, (double)first->gather_ns / 1e9);
    for (uint32_t i = 0; i < first->range_count; i++)
        prometheus_add(
            m->all,
            prometheus_series(m->all, m->ranges, first->ranges[i].status == OK ? "ok" : "failed"),
            1);
}

void relay_first(struct worker *worker, struct reader *from)
{
    struct router *router = worker->router;
    struct wire_first first;
    struct wire_token tokens[WIRE_SEQUENCES_MAX];
    if (wire_first_decode(from, &first) != OK)
        return;
    struct request *request = request_find(router, first.request_id);
    if (request == NULL || request->state != REQUEST_WAITING ||
        first.sequence_count != request->wire.sequence_count ||
        first.prompt_logprob_count >= request->wire.prompt_tokens + 1)
        return;
    struct wire_token *prompt_tokens =
        calloc(first.prompt_logprob_count + 1, sizeof(*prompt_tokens));
    status st =
        prompt_tokens == NULL ? error_set(ERR_NO_MEMORY, "no memory for a first token") : OK;
    for (uint32_t i = 0; st == OK && i < first.sequence_count; i++)
        st = wire_token_decode(from, &tokens[i]);
    for (uint32_t i = 0; st == OK && i < first.prompt_logprob_count; i++)
        st = wire_token_decode(from, &prompt_tokens[i]);

    route_computed(request);
    relay_first_times(request, &first);
    relay_first_sources(request, &first);
    why_first(request, &first);
    sources_measure(worker, request, &first);
    sources_end(request);
    if (request->wire.flags & WIRE_REQUEST_LOCAL)
        request->handed = true;
    bool echo = request->answer->openai->echo && request->wire.resumed_tokens == 0;
    for (uint32_t i = 0; st == OK && echo && i < first.sequence_count; i++)
        st = relay_echo(request, &request->sequences[i], prompt_tokens, first.prompt_logprob_count);
    free(prompt_tokens);
    if (st != OK) {
        request_fail(request, 500, NULL, error_text());
        return;
    }
    uint64_t id = request->id;
    for (uint32_t i = 0; i < first.sequence_count; i++) {
        if (request_find(router, id) != request)
            return; /* It came to its end, or failed. */
        relay_token(request, &tokens[i]);
    }
}

void relay_tokens(struct router *router, struct reader *from)
{
    struct wire_token token;
    while (from->left > 0) {
        if (wire_token_decode(from, &token) != OK) {
            log_error("tokens dropped", "reason=\"%s\"", error_text());
            return;
        }
        struct request *request = request_find(router, token.request_id);
        if (request == NULL || token.sequence >= request->wire.sequence_count)
            continue;
        request->handed = true;
        request->progress_ns = clock_ns();
        request->tries = request->corrupts = 0;
        failover_let_off(router, request);
        relay_token(request, &token);
    }
}

void relay_failed(struct router *router, const struct wire_failed *failed)
{
    struct request *request = request_find(router, failed->request_id);
    if (request == NULL)
        return;
    /* A handoff that broke: often the first sign that a worker has died, or that another process
     * has its address by now (ERR_REFUSED). */
    bool broke = failed->status == ERR_CLOSED || failed->status == ERR_CORRUPT ||
                 failed->status == ERR_NOT_FOUND || failed->status == ERR_IO ||
                 failed->status == ERR_CANCELLED || failed->status == ERR_TIMEOUT ||
                 failed->status == ERR_REFUSED;
    /* What is corrupt again and again was not damaged on its way. */
    if (failed->status == ERR_CORRUPT && ++request->corrupts >= ROUTER_CORRUPT_MAX) {
        request_fail(request, 503, "handoff_failed", failed->text);
        return;
    }
    if (broke) {
        log_line(LOG_WARN, request->id, "attempt failed", "reason=\"%s\"", failed->text);
        failover_request(router, request, NULL);
        return;
    }
    unsigned http_code = failed->status == ERR_BAD_INPUT || failed->status == ERR_UNSUPPORTED ? 400
                         : failed->status == ERR_FULL                                         ? 429
                         : failed->status == ERR_TIMEOUT                                      ? 504
                                                                                              : 500;
    request_fail(request, http_code, NULL, failed->text);
}
