#include "cli/bench_server.h"

#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "http/client.h"
#include "http/text.h"

#define BODY_BYTES_MAX (256u << 20)
#define ANSWER_BYTES_MAX (1u << 20)
#define HEADERS_MAX 1

struct bench_server {
    struct loop *loop;
    struct http_client *client;
    struct bench_server_options options;
    char host[ADDRESS_TEXT_BYTES];
    char path[256];  /* before /v1; "" mostly */
    char model[256]; /* "" until it is known */
    char authorization[512];
    struct http_header headers[HEADERS_MAX];
    uint32_t header_count;
};

struct bench_stream {
    struct bench_server *server;
    struct http_exchange *exchange;
    struct bench_stream_calls calls;
    struct bench_result result;
    struct text refusal; /* the body of an answer that is no stream */
    unsigned code;
    bool done; /* [DONE] was seen */
};

/* http://HOST[:PORT][/PATH][/v1][/] */
static status parse_url(struct bench_server *server, const char *url, struct address *address_out)
{
    if (strncmp(url, "http://", 7) != 0)
        return error_set(ERR_BAD_INPUT,
                         "expected --base-url http://HOST:PORT, found \"%s\" (TLS is "
                         "for a proxy in between)",
                         url);
    const char *host = url + 7;
    size_t host_bytes = strcspn(host, "/");
    const char *path = host + host_bytes;
    size_t path_bytes = strlen(path);
    while (path_bytes > 0 && path[path_bytes - 1] == '/')
        path_bytes--;
    if (path_bytes >= 3 && strncmp(path + path_bytes - 3, "/v1", 3) == 0)
        path_bytes -= 3;
    if (host_bytes >= sizeof(server->host) || path_bytes >= sizeof(server->path))
        return error_set(ERR_BAD_INPUT, "--base-url is too long");
    snprintf(server->host, sizeof(server->host), "%.*s", (int)host_bytes, host);
    snprintf(server->path, sizeof(server->path), "%.*s", (int)path_bytes, path);
    return address_parse(server->host, 80, address_out);
}

status bench_server_open(struct loop *loop, const struct bench_server_options *options,
                         struct bench_server **server_out)
{
    struct address address;
    struct bench_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a client");
    server->loop = loop;
    server->options = *options;
    if (options->model != NULL)
        snprintf(server->model, sizeof(server->model), "%s", options->model);
    if (options->api_key != NULL) {
        snprintf(server->authorization, sizeof(server->authorization), "Bearer %s",
                 options->api_key);
        server->headers[server->header_count++] =
            (struct http_header){"Authorization", server->authorization};
    }
    struct http_client_options client = {.idle_max = 4096};
    status st = parse_url(server, options->base_url, &address);
    if (st == OK)
        st = http_client_open(loop, &address, server->host, &client, &server->client);
    if (st != OK) {
        free(server);
        return st;
    }
    *server_out = server;
    return OK;
}

void bench_server_close(struct bench_server *server)
{
    if (server == NULL)
        return;
    http_client_close(server->client);
    free(server);
}

const char *bench_server_model(const struct bench_server *server)
{
    return server->model;
}

/* The message in {"error": {"message": ...}} and its like; the body itself when there is none. */
static void print_refusal(const char *body, size_t bytes, char *to, size_t to_bytes)
{
    json_t *object = json_loadb(body != NULL ? body : "", bytes, 0, NULL);
    const json_t *error = json_object_get(object, "error");
    const json_t *message = json_object_get(json_is_object(error) ? error : object, "message");
    if (json_is_string(error))
        message = error;
    if (json_is_string(message))
        snprintf(to, to_bytes, "%s", json_string_value(message));
    else
        snprintf(to, to_bytes, "%.*s", bytes < 200 ? (int)bytes : 200, body != NULL ? body : "");
    json_decref(object);
}

/* Asking for the models. */
struct models_ask {
    struct loop *loop;
    struct text body;
    unsigned code;
    status result;
};

static void models_on_head(void *ctx, struct http_exchange *exchange, unsigned code)
{
    (void)exchange;
    struct models_ask *ask = ctx;
    ask->code = code;
}

static void models_on_data(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    (void)at_ns;
    struct models_ask *ask = ctx;
    text_add(&ask->body, data, bytes);
}

static void models_on_end(void *ctx, status result)
{
    struct models_ask *ask = ctx;
    ask->result = result;
    loop_stop(ask->loop);
}

static status models_take(struct bench_server *server, const struct models_ask *ask)
{
    char refusal[256];
    print_refusal(ask->body.data, ask->body.bytes, refusal, sizeof(refusal));
    if (ask->code != 200)
        return error_set(ERR_REFUSED, "%s answers %u to /v1/models: %s", server->host, ask->code,
                         refusal);
    json_t *object = json_loadb(ask->body.data, ask->body.bytes, 0, NULL);
    const json_t *id = json_object_get(json_array_get(json_object_get(object, "data"), 0), "id");
    status st = OK;
    if (!json_is_string(id))
        st = error_set(ERR_BAD_INPUT,
                       "%s: expected a list of models from /v1/models, found \"%.80s\"",
                       server->host, refusal);
    else if (server->model[0] == '\0')
        snprintf(server->model, sizeof(server->model), "%s", json_string_value(id));
    json_decref(object);
    return st;
}

status bench_server_find_model(struct bench_server *server)
{
    char path[300];
    struct models_ask ask = {.loop = server->loop, .body = text_open(ANSWER_BYTES_MAX)};
    snprintf(path, sizeof(path), "%s/v1/models", server->path);
    struct http_call call = {
        .method = "GET",
        .path = path,
        .headers = server->headers,
        .header_count = server->header_count,
        .on_head = models_on_head,
        .on_data = models_on_data,
        .on_end = models_on_end,
        .ctx = &ask,
    };
    struct http_exchange *exchange;
    status st = http_client_start(server->client, &call, &exchange);
    if (st == OK) {
        loop_run(server->loop);
        st = ask.result;
        if (st == OK)
            st = models_take(server, &ask);
        else
            error_prefix(st, "cannot reach %s", server->options.base_url);
    }
    text_close(&ask.body);
    return st;
}

static void stream_on_head(void *ctx, struct http_exchange *exchange, unsigned code)
{
    (void)exchange;
    struct bench_stream *stream = ctx;
    stream->code = code;
}

static void stream_on_data(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    (void)at_ns;
    struct bench_stream *stream = ctx;
    text_add(&stream->refusal, data, bytes);
}

static uint32_t count_of(const json_t *value)
{
    json_int_t count = json_integer_value(value);
    return count > 0 && count <= UINT32_MAX ? (uint32_t)count : 0;
}

/* True when the chunk brings a token: text; or empty text that is neither the role's chunk nor the
 * last one (half of a character, held back). */
static bool chunk_has_token(const struct bench_stream *stream, const json_t *choice)
{
    const json_t *delta = json_object_get(choice, "delta");
    const json_t *text = json_object_get(choice, "text");
    if (stream->server->options.chat) {
        text = json_object_get(delta, "content");
        if (!json_is_string(text) || json_string_length(text) == 0) {
            const json_t *thought = json_object_get(delta, "reasoning_content");
            text = json_is_string(thought) ? thought : text;
        }
    }
    if (!json_is_string(text))
        return false;
    return json_string_length(text) > 0 ||
           (!json_is_string(json_object_get(choice, "finish_reason")) &&
            json_object_get(delta, "role") == NULL);
}

static void stream_take_chunk(struct bench_stream *stream, const json_t *chunk, uint64_t at_ns)
{
    struct bench_result *result = &stream->result;
    const json_t *usage = json_object_get(chunk, "usage");
    if (json_is_object(usage)) {
        result->input_tokens = count_of(json_object_get(usage, "prompt_tokens"));
        result->output_tokens = count_of(json_object_get(usage, "completion_tokens"));
    }
    const json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
    if (choice == NULL || !chunk_has_token(stream, choice))
        return;
    uint64_t previous_ns = result->last_ns;
    result->events++;
    result->last_ns = at_ns;
    if (result->first_ns == 0)
        result->first_ns = at_ns;
    if (stream->calls.on_token != NULL)
        stream->calls.on_token(stream->calls.ctx, at_ns, previous_ns);
}

static void stream_on_event(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    struct bench_stream *stream = ctx;
    if (strcmp(data, "[DONE]") == 0) {
        stream->done = true;
        return;
    }
    json_t *chunk = json_loadb(data, bytes, JSON_ALLOW_NUL, NULL); /* a token may be one */
    if (chunk == NULL)
        snprintf(stream->result.error, sizeof(stream->result.error),
                 "a chunk that is no JSON: %.100s", data);
    else if (json_object_get(chunk, "error") != NULL)
        print_refusal(data, bytes, stream->result.error, sizeof(stream->result.error));
    else
        stream_take_chunk(stream, chunk, at_ns);
    json_decref(chunk);
}

static void stream_free(struct bench_stream *stream)
{
    text_close(&stream->refusal);
    free(stream);
}

static void stream_on_end(void *ctx, status result)
{
    struct bench_stream *stream = ctx;
    struct bench_result *to = &stream->result;
    if (result != OK) {
        snprintf(to->error, sizeof(to->error), "%s", error_text());
    } else if (stream->code != 200) {
        int used = snprintf(to->error, sizeof(to->error), "%u: ", stream->code);
        print_refusal(stream->refusal.data, stream->refusal.bytes, to->error + used,
                      sizeof(to->error) - (size_t)used);
    } else if (to->error[0] == '\0' && !stream->done) {
        snprintf(to->error, sizeof(to->error), "the stream ended without [DONE]");
    } else if (to->error[0] == '\0' && to->events == 0) {
        snprintf(to->error, sizeof(to->error), "the answer is empty");
    }
    to->ok = to->error[0] == '\0';
    if (to->output_tokens == 0)
        to->output_tokens = to->events;
    stream->calls.on_done(stream->calls.ctx, to);
    stream_free(stream);
}

static void stream_write_body(const struct bench_server *server, const char *prompt_json,
                              uint32_t output_tokens, struct text *body)
{
    const struct bench_server_options *options = &server->options;
    text_put(body, "{\"model\":");
    text_json_string(body, server->model, strlen(server->model));
    text_put(body,
             options->chat ? ",\"messages\":[{\"role\":\"user\",\"content\":" : ",\"prompt\":");
    text_put(body, prompt_json);
    text_put(body, options->chat ? "}]" : "");
    text_format(body, ",\"%s\":%u", options->chat ? "max_completion_tokens" : "max_tokens",
                output_tokens);
    text_put(body, ",\"temperature\":");
    text_json_number(body, options->temperature);
    if (options->ignore_eos)
        text_put(body, ",\"ignore_eos\":true");
    text_put(body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

status bench_stream_start(struct bench_server *server, const char *prompt_json,
                          uint32_t output_tokens, const struct bench_stream_calls *calls,
                          struct bench_stream **stream_out)
{
    char path[300];
    struct text body = text_open(BODY_BYTES_MAX);
    struct bench_stream *stream = calloc(1, sizeof(*stream));
    if (stream == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a request");
    stream->server = server;
    stream->calls = *calls;
    stream->refusal = text_open(ANSWER_BYTES_MAX);
    snprintf(path, sizeof(path), "%s/v1/%s", server->path,
             server->options.chat ? "chat/completions" : "completions");
    stream_write_body(server, prompt_json, output_tokens, &body);
    struct http_call call = {
        .method = "POST",
        .path = path,
        .headers = server->headers,
        .header_count = server->header_count,
        .body = body.data,
        .body_bytes = body.bytes,
        .on_head = stream_on_head,
        .on_data = stream_on_data,
        .on_event = stream_on_event,
        .on_end = stream_on_end,
        .ctx = stream,
    };
    status st = text_ok(&body) ? OK : error_set(ERR_NO_MEMORY, "no memory for a request's body");
    stream->result.sent_ns = clock_ns();
    if (st == OK)
        st = http_client_start(server->client, &call, &stream->exchange);
    text_close(&body);
    if (st != OK) {
        stream_free(stream);
        return st;
    }
    *stream_out = stream;
    return OK;
}

void bench_stream_cancel(struct bench_stream *stream)
{
    http_exchange_cancel(stream->exchange);
    stream_free(stream);
}
