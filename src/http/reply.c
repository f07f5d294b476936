/* http/reply.c - what a request's owner may do with it: http_request_*, http_reply, http_stream_*.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "http/connection.h"
#include "http/openai_response.h"

#define REPLY_HEAD_BYTES_MAX 16384
#define REPLY_ERROR_BYTES_MAX 4096

static struct connection_request *reply_request(struct http_request *request)
{
    struct connection_request *whole = (struct connection_request *)request;
    assert(whole->connection->request == whole);
    assert(whole->connection->state == CONNECTION_RUNNING);
    return whole;
}

/* A value that could end its line would let its author write headers of their own. */
static void reply_header(struct text *text, const char *name, const char *value)
{
    text_format(text, "%s: ", name);
    for (const char *at = value; *at != '\0'; at++) {
        bool control = (unsigned char)*at < 0x20 || *at == 0x7f;
        text_add(text, control ? "?" : at, 1);
    }
    text_put(text, "\r\n");
}

static void reply_date(struct text *text)
{
    char date[64];
    time_t now = time(NULL);
    struct tm parts;
    gmtime_r(&now, &parts);
    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    reply_header(text, "Date", date);
}

static const char *reply_reason(unsigned code)
{
    switch (code) {
#define REPLY_CASE(number, name, words)                                                            \
    case number:                                                                                   \
        return #words;
        HTTP_STATUS_MAP(REPLY_CASE)
#undef REPLY_CASE
    default:
        return "Unknown";
    }
}

/* Status line and the headers that every reply has; the caller adds its own and the empty line. */
static void reply_head(struct connection *c, struct text *text, unsigned code)
{
    text_format(text, "HTTP/1.1 %u %s\r\n", code, reply_reason(code));
    reply_date(text);
    if (c->server->draining)
        c->close_after = true;
    if (c->close_after)
        text_put(text, "Connection: close\r\n");
    else if (c->request != NULL && c->request->head->minor == 0)
        text_put(text, "Connection: keep-alive\r\n");
}

/* Add to the output and write; out of memory cuts the connection. */
static void reply_send(struct connection *c, const struct text *head, const char *body,
                       size_t bytes)
{
    struct evbuffer *output = connection_output(c);
    if (!text_ok(head) || evbuffer_add(output, head->data, head->bytes) != 0 ||
        (bytes > 0 && evbuffer_add(output, body, bytes) != 0))
        c->cut = true;
    connection_write(c);
}

void connection_refuse(struct connection *c, unsigned code, const char *extra_headers,
                       const char *why)
{
    bool head_only = c->request != NULL && c->request->head_only;
    /* Without its body read to the end, the next request can't be found. */
    if (c->request == NULL || !c->message_complete)
        c->close_after = true;
    if (code >= 400)
        c->server->counts.refused_requests++;

    struct text body = text_open(REPLY_ERROR_BYTES_MAX);
    if (code >= 400) {
        struct openai_error error;
        openai_error_fill(&error, code, NULL, code == 401 ? "invalid_api_key" : NULL, "%s", why);
        openai_error_write(&body, &error);
    }
    struct text head = text_open(REPLY_HEAD_BYTES_MAX);
    reply_head(c, &head, code);
    text_put(&head, extra_headers);
    if (code >= 400)
        text_format(&head, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.bytes);
    text_put(&head, "\r\n");
    reply_send(c, &head, body.data, head_only ? 0 : body.bytes);
    text_close(&head);
    text_close(&body);
    connection_request_end(c);
}

const char *http_request_header(const struct http_request *request, const char *name)
{
    const struct connection_request *whole = (const struct connection_request *)request;
    return http_head_value(whole->head, name);
}

void http_request_watch(struct http_request *request, void (*on_gone)(void *ctx), void *ctx)
{
    struct connection_request *whole = reply_request(request);
    whole->on_gone = on_gone;
    whole->gone_ctx = ctx;
}

char *http_request_take_body(struct http_request *request, size_t *bytes_out)
{
    struct connection_request *whole = reply_request(request);
    char *body = whole->body;
    *bytes_out = request->body_bytes;
    whole->body = NULL;
    request->body = "";
    request->body_bytes = 0;
    return body;
}

void http_body_free(char *body)
{
    free(body);
}

/* After the end of a request: the rest is the connection's. Inside a turn that goes on anyway. */
static void reply_end(struct connection *c)
{
    connection_request_end(c);
    if (!c->turning)
        connection_kick(c);
}

void http_reply(struct http_request *request, unsigned code, const char *content_type,
                const struct http_header *headers, uint32_t header_count, const char *body,
                size_t bytes)
{
    struct connection_request *whole = reply_request(request);
    struct connection *c = whole->connection;
    assert(!whole->streaming);
    struct text head = text_open(REPLY_HEAD_BYTES_MAX);
    reply_head(c, &head, code);
    for (uint32_t i = 0; i < header_count; i++)
        reply_header(&head, headers[i].name, headers[i].value);
    if (content_type != NULL)
        reply_header(&head, "Content-Type", content_type);
    if (code != 204 && code != 304)
        text_format(&head, "Content-Length: %zu\r\n", bytes);
    text_put(&head, "\r\n");
    reply_send(c, &head, body, whole->head_only ? 0 : bytes);
    text_close(&head);
    reply_end(c);
}

void http_stream_begin(struct http_request *request, const struct http_header *headers,
                       uint32_t header_count)
{
    struct connection_request *whole = reply_request(request);
    struct connection *c = whole->connection;
    assert(!whole->streaming);
    whole->streaming = true;
    if (whole->head->minor == 0)
        c->close_after = true; /* its end is the connection's end */
    struct text head = text_open(REPLY_HEAD_BYTES_MAX);
    reply_head(c, &head, 200);
    text_put(&head, "Content-Type: text/event-stream; charset=utf-8\r\n"
                    "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    if (whole->head->minor >= 1)
        text_put(&head, "Transfer-Encoding: chunked\r\n");
    for (uint32_t i = 0; i < header_count; i++)
        reply_header(&head, headers[i].name, headers[i].value);
    text_put(&head, "\r\n");
    reply_send(c, &head, NULL, 0);
    text_close(&head);
    connection_arm(c);
    if (c->cut)
        connection_kick(c);
}

status http_stream_send(struct http_request *request, const char *data, size_t bytes)
{
    struct connection_request *whole = reply_request(request);
    struct connection *c = whole->connection;
    assert(whole->streaming);
    if (c->cut || c->peer_closed)
        return error_set(ERR_CLOSED, "the client is gone");
    if (bytes == 0 || whole->head_only)
        return OK; /* an empty chunk would be the last one */
    struct evbuffer *output = connection_output(c);
    bool chunked = whole->head->minor >= 1;
    bool added = true;
    if (chunked)
        added = evbuffer_add_printf(output, "%zx\r\n", bytes) > 0;
    added = added && evbuffer_add(output, data, bytes) == 0;
    if (chunked)
        added = added && evbuffer_add(output, "\r\n", 2) == 0;
    connection_write(c);
    if (added && !c->cut && evbuffer_get_length(output) > c->server->options.stream_pending_bytes) {
        c->server->counts.cut_slow++;
        c->cut = true;
    }
    if (!added)
        c->cut = true;
    if (c->cut) {
        connection_kick(c);
        return error_set(ERR_CLOSED, "the client was cut: it reads too slowly, or is gone");
    }
    connection_arm(c);
    return OK;
}

void http_stream_end(struct http_request *request)
{
    struct connection_request *whole = reply_request(request);
    struct connection *c = whole->connection;
    assert(whole->streaming);
    if (whole->head->minor >= 1 && !whole->head_only &&
        evbuffer_add(connection_output(c), "0\r\n\r\n", 5) != 0)
        c->cut = true;
    connection_write(c);
    reply_end(c);
}

void http_stream_abort(struct http_request *request)
{
    struct connection_request *whole = reply_request(request);
    struct connection *c = whole->connection;
    assert(whole->streaming);
    c->close_after = true;
    connection_write(c);
    reply_end(c);
}

size_t http_request_pending_bytes(const struct http_request *request)
{
    const struct connection_request *whole = (const struct connection_request *)request;
    return evbuffer_get_length(whole->connection->output);
}
