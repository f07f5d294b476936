/* http/intake.c - from the first byte of a request to on_request: the states HEAD and BODY. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "http/connection.h"

static int connection_on_header(http_parser *parser, const char *data, size_t bytes)
{
    (void)data;
    (void)bytes;
    struct connection *c = parser->data;
    if (c->state != CONNECTION_BODY)
        return 0;
    c->refusal = (struct http_refusal){.code = 400};
    snprintf(c->refusal.why, sizeof(c->refusal.why), "trailers after a chunked body are refused");
    return 1;
}

static int body_refuse(struct connection *c, unsigned code, const char *why, size_t limit)
{
    c->refusal.code = code;
    snprintf(c->refusal.why, sizeof(c->refusal.why), "%s (limit %zu bytes)", why, limit);
    return 1;
}

static int connection_on_body(http_parser *parser, const char *data, size_t bytes)
{
    struct connection *c = parser->data;
    struct http_server *server = c->server;
    struct connection_request *request = c->request;
    size_t have = request->public.body_bytes;
    if (bytes > server->options.body_bytes_max - have)
        return body_refuse(c, 413, "the request's body is too large",
                           server->options.body_bytes_max);
    size_t need = have + bytes + 1;
    if (need > request->body_capacity) {
        size_t capacity = request->body_capacity > 0 ? request->body_capacity * 2 : 4096;
        while (capacity < need)
            capacity *= 2;
        if (request->head->has_length && capacity > request->head->length + 1)
            capacity = (size_t)request->head->length + 1;
        size_t more = capacity - request->body_capacity;
        if (more > server->options.bodies_bytes_max - server->counts.bodies_bytes)
            return body_refuse(c, 503, "too many large bodies at once, try again",
                               server->options.bodies_bytes_max);
        char *body = realloc(request->body, capacity);
        if (body == NULL)
            return body_refuse(c, 503, "no memory for the request's body", capacity);
        request->body = body;
        request->body_capacity = capacity;
        server->counts.bodies_bytes += more;
    }
    memcpy(request->body + have, data, bytes);
    request->body[have + bytes] = '\0';
    request->public.body_bytes = have + bytes;
    return 0;
}

static int connection_on_complete(http_parser *parser)
{
    struct connection *c = parser->data;
    c->message_complete = true;
    http_parser_pause(parser, 1); /* what follows is the next request */
    return 0;
}

static const http_parser_settings connection_settings = {
    .on_header_field = connection_on_header,
    .on_body = connection_on_body,
    .on_message_complete = connection_on_complete,
};

static const struct http_route *connection_route(const struct http_server *server, const char *path)
{
    for (uint32_t i = 0; i < server->route_count; i++) {
        if (strcmp(server->routes[i].path, path) == 0)
            return &server->routes[i];
    }
    return NULL;
}

static unsigned method_bit(enum http_method method)
{
    switch (method) {
    case HTTP_GET:
    case HTTP_HEAD:
        return HTTP_METHOD_GET;
    case HTTP_POST:
        return HTTP_METHOD_POST;
    case HTTP_DELETE:
        return HTTP_METHOD_DELETE;
    case HTTP_PUT:
        return HTTP_METHOD_PUT;
    default:
        return 0;
    }
}

/* What can be said from the head alone. False: refused. */
static bool connection_admit(struct connection *c, const struct http_head *head,
                             const struct http_route *route)
{
    const struct http_server_options *options = &c->server->options;
    bool guarded = http_keys_count(options->keys) > 0 && (route == NULL || !route->open);
    if (guarded &&
        !http_keys_match_authorization(options->keys, http_head_value(head, "authorization"))) {
        connection_refuse(c, 401, "WWW-Authenticate: Bearer\r\n",
                          "this server needs an API key: expected a header "
                          "\"Authorization: Bearer KEY\" with a known key");
        return false;
    }
    char why[256];
    if (route == NULL) {
        snprintf(why, sizeof(why), "no such path: %.100s", head->path);
        connection_refuse(c, 404, "", why);
        return false;
    }
    if ((route->methods & method_bit(head->method)) == 0) {
        char allow[80];
        snprintf(allow, sizeof(allow), "Allow: %s%s%s%sOPTIONS\r\n",
                 route->methods & HTTP_METHOD_GET ? "GET, HEAD, " : "",
                 route->methods & HTTP_METHOD_POST ? "POST, " : "",
                 route->methods & HTTP_METHOD_DELETE ? "DELETE, " : "",
                 route->methods & HTTP_METHOD_PUT ? "PUT, " : "");
        snprintf(why, sizeof(why), "%s is not a method of %.100s", http_method_str(head->method),
                 head->path);
        connection_refuse(c, head->method == HTTP_OPTIONS ? 204 : 405, allow, why);
        return false;
    }
    if (head->has_length && head->length > options->body_bytes_max) {
        snprintf(why, sizeof(why), "the request's body has %llu bytes, at most %zu are taken",
                 (unsigned long long)head->length, options->body_bytes_max);
        connection_refuse(c, 413, "", why);
        return false;
    }
    return true;
}

static struct connection_request *connection_request_new(struct connection *c,
                                                         struct http_head *head)
{
    struct connection_request *request = calloc(1, sizeof(*request));
    if (request == NULL)
        return NULL;
    request->connection = c;
    request->head = head;
    request->head_only = head->method == HTTP_HEAD;
    request->public.method =
        request->head_only ? http_method_str(HTTP_GET) : http_method_str(head->method);
    request->public.path = head->path;
    request->public.query = head->query;
    request->public.body = "";
    request->public.started_ns = c->state_ns;
    request->public.id = c->server->next_id++;
    request->public.peer = c->peer;
    return request;
}

/* A whole head of bytes bytes lies at the front of input. */
static void connection_begin(struct connection *c, size_t bytes)
{
    const char *data = (const char *)evbuffer_pullup(c->input, (ev_ssize_t)bytes);
    c->message_complete = false;
    c->parser.data = c;
    struct http_refusal refusal;
    struct http_head *head = http_head_open(data, bytes, c->server->options.headers_max,
                                            c->server->options.url_bytes_max, &c->parser,
                                            &connection_settings, &refusal);
    evbuffer_drain(c->input, bytes);
    c->head_scanned = 0;
    c->served = true;
    if (head == NULL) {
        c->close_after = true;
        connection_refuse(c, refusal.code, "", refusal.why);
        return;
    }
    c->close_after = !head->keep_alive;
    c->request = connection_request_new(c, head);
    if (c->request == NULL) {
        http_head_close(head);
        c->close_after = true;
        connection_refuse(c, 503, "Retry-After: 1\r\n", "no memory for the request");
        return;
    }
    c->request->route = connection_route(c->server, head->path);
    if (!connection_admit(c, head, c->request->route))
        return;
    if (head->expects_continue && !c->message_complete && evbuffer_get_length(c->input) == 0) {
        evbuffer_add_printf(connection_output(c), "HTTP/1.1 100 Continue\r\n\r\n");
        connection_write(c);
    }
    connection_enter(c, CONNECTION_BODY);
}

/* True: something changed, step again. */
bool connection_step_head(struct connection *c)
{
    connection_fill(c);
    size_t have = evbuffer_get_length(c->input);
    const char *data = have > 0 ? (const char *)evbuffer_pullup(c->input, -1) : NULL;
    if (have >= 2 && data[0] == '\r' && data[1] == '\n') {
        evbuffer_drain(c->input, 2); /* empty lines before a request line are allowed */
        return true;
    }
    if (have == 0) {
        if (!c->peer_closed && !c->server->draining && !c->cut)
            return false;
        c->state = CONNECTION_DEAD;
        return true;
    }
    if (!c->first_byte) {
        c->first_byte = true;
        c->state_ns = clock_ns();
    }
    size_t scanned = c->head_scanned;
    size_t bytes = http_head_find(data, have, &c->head_scanned);
    size_t limit = c->server->options.head_bytes_max;
    if (bytes > 0 && bytes <= limit) {
        connection_begin(c, bytes);
        return true;
    }
    if (bytes > limit || have > limit) {
        connection_refuse(c, 431, "", "the request's headers are too large");
        return true;
    }
    /* What can't become a request is refused without waiting for its end. */
    bool wrong = (data[0] < 'A' || data[0] > 'Z') && data[0] != '\r';
    for (size_t i = scanned; i < have && !wrong; i++)
        wrong = data[i] == '\0' || (data[i] == '\n' && (i == 0 || data[i - 1] != '\r'));
    if (wrong) {
        connection_refuse(c, 400, "",
                          "this is not an HTTP/1.1 request (TLS is not spoken here); lines end in "
                          "CR LF");
        return true;
    }
    if (c->peer_closed)
        c->state = CONNECTION_DEAD;
    return c->peer_closed;
}

static void connection_run(struct connection *c)
{
    struct connection_request *request = c->request;
    if (request->body != NULL)
        request->public.body = request->body;
    connection_enter(c, CONNECTION_RUNNING);
    c->server->counts.requests++;
    c->server->counts.requests_total++;
    request->route->on_request(c->server->ctx, &request->public);
}

bool connection_step_body(struct connection *c)
{
    size_t budget = CONNECTION_TURN_BYTES;
    while (!c->message_complete) {
        connection_fill(c);
        size_t bytes = evbuffer_get_contiguous_space(c->input);
        if (bytes == 0) {
            if (c->peer_closed || c->cut)
                c->state = CONNECTION_DEAD;
            return c->state == CONNECTION_DEAD;
        }
        const char *data = (const char *)evbuffer_pullup(c->input, (ev_ssize_t)bytes);
        size_t fed = http_parser_execute(&c->parser, &connection_settings, data, bytes);
        enum http_errno error = HTTP_PARSER_ERRNO(&c->parser);
        if (error != HPE_OK && error != HPE_PAUSED) {
            if (error != HPE_CB_body && error != HPE_CB_header_field) {
                c->refusal.code = 400;
                snprintf(c->refusal.why, sizeof(c->refusal.why), "malformed body: %s",
                         http_errno_description(error));
            }
            connection_refuse(c, c->refusal.code,
                              c->refusal.code == 503 ? "Retry-After: 1\r\n" : "", c->refusal.why);
            return true;
        }
        evbuffer_drain(c->input, fed);
        c->progress_ns = clock_ns();
        if (fed >= budget) {
            connection_kick(c);
            return false;
        }
        budget -= fed;
    }
    connection_run(c);
    return true;
}
