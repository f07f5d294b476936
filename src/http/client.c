#include "http/client.h"

#include <assert.h>
#include <errno.h>
#include <http_parser.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "http/text.h"

#define NS_PER_MS UINT64_C(1000000)
#define READ_BYTES 65536

struct idle_connection {
    struct http_client *client;
    struct idle_connection *previous, *next;
    int fd;
    struct loop_watch *watch; /* readable while idle: the server closed it */
};

struct http_client {
    struct loop *loop;
    struct address address;
    char host[256];
    struct http_client_options options;
    struct http_exchange *exchanges;
    struct idle_connection *idle;
    uint32_t idle_count;
};

enum exchange_state { EXCHANGE_CONNECTING, EXCHANGE_SENDING, EXCHANGE_HEAD, EXCHANGE_BODY };

struct http_exchange {
    struct http_client *client;
    struct http_exchange *previous, *next;
    struct http_call call; /* only callbacks and ctx are used after the start */
    struct text request;   /* head and body, kept for a second sending */
    size_t sent;
    int fd;
    struct loop_watch *watch;
    struct loop_timer *timer;
    enum exchange_state state;
    bool reused; /* the connection; a failure before any byte is then retried */
    bool got_bytes;
    bool head_method; /* HEAD: no body whatever the headers say */
    bool busy;        /* inside the parser */
    bool cancelled;
    bool complete;
    bool keep_alive;
    http_parser parser;
    struct text head; /* "name\0value\0" of each header */
    bool in_value;
    bool stream;      /* text/event-stream */
    struct text line; /* of the stream, unfinished */
    bool after_cr;
    struct text event; /* its data lines so far */
    bool has_data;
    status failure;   /* of a callback of the parser */
    uint64_t read_ns; /* when the bytes at hand were read */
    uint64_t body_bytes;
    uint64_t start_ns, phase_ns; /* of the whole; of the phase, or the last byte */
};

static void exchange_on_ready(void *ctx, int events);
static status exchange_connect(struct http_exchange *x);

/* ---- life ---- */

static void exchange_unplug(struct http_exchange *x)
{
    loop_watch_close(x->watch);
    x->watch = NULL;
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
}

static void exchange_free(struct http_exchange *x)
{
    exchange_unplug(x);
    loop_timer_close(x->timer);
    if (x->previous != NULL)
        x->previous->next = x->next;
    else if (x->client->exchanges == x)
        x->client->exchanges = x->next;
    if (x->next != NULL)
        x->next->previous = x->previous;
    text_close(&x->request);
    text_close(&x->head);
    text_close(&x->line);
    text_close(&x->event);
    free(x);
}

/* error_text() holds the reason when result is not OK. */
static void exchange_end(struct http_exchange *x, status result)
{
    void (*on_end)(void *, status) = x->call.on_end;
    void *ctx = x->call.ctx;
    exchange_free(x);
    if (on_end != NULL)
        on_end(ctx, result);
}

static void idle_free(struct idle_connection *idle)
{
    struct http_client *client = idle->client;
    if (idle->previous != NULL)
        idle->previous->next = idle->next;
    else
        client->idle = idle->next;
    if (idle->next != NULL)
        idle->next->previous = idle->previous;
    client->idle_count--;
    loop_watch_close(idle->watch);
    if (idle->fd >= 0)
        close(idle->fd);
    free(idle);
}

static void idle_on_ready(void *ctx, int events)
{
    (void)events;
    idle_free(ctx);
}

/* Keep the connection for the next exchange, if there is room. */
static void exchange_park(struct http_exchange *x)
{
    struct http_client *client = x->client;
    if (client->idle_count >= client->options.idle_max)
        return;
    struct idle_connection *idle = calloc(1, sizeof(*idle));
    if (idle == NULL)
        return;
    loop_watch_close(x->watch);
    x->watch = NULL;
    idle->client = client;
    idle->fd = x->fd;
    if (loop_watch_open(client->loop, idle->fd, LOOP_READ, idle_on_ready, idle, &idle->watch) !=
        OK) {
        free(idle);
        return;
    }
    x->fd = -1;
    idle->next = client->idle;
    if (idle->next != NULL)
        idle->next->previous = idle;
    client->idle = idle;
    client->idle_count++;
}

/* ---- the answer's head ---- */

static int answer_on_field(http_parser *parser, const char *data, size_t bytes)
{
    struct http_exchange *x = parser->data;
    if (x->state == EXCHANGE_BODY)
        return 0; /* trailers */
    if (x->in_value)
        text_add(&x->head, "", 1);
    x->in_value = false;
    text_add(&x->head, data, bytes);
    return text_ok(&x->head) ? 0 : 1;
}

static int answer_on_value(http_parser *parser, const char *data, size_t bytes)
{
    struct http_exchange *x = parser->data;
    if (x->state == EXCHANGE_BODY)
        return 0;
    if (!x->in_value)
        text_add(&x->head, "", 1);
    x->in_value = true;
    text_add(&x->head, data, bytes);
    return text_ok(&x->head) ? 0 : 1;
}

static int answer_on_head(http_parser *parser)
{
    struct http_exchange *x = parser->data;
    text_add(&x->head, "", 1);
    if (!text_ok(&x->head))
        return -1;
    if (parser->status_code / 100 == 1)
        return 0; /* 100 Continue: the answer follows */
    x->state = EXCHANGE_BODY;
    const char *type = http_exchange_header(x, "content-type");
    x->stream = type != NULL && strncasecmp(type, "text/event-stream", 17) == 0;
    if (x->call.on_head != NULL)
        x->call.on_head(x->call.ctx, x, parser->status_code);
    if (x->cancelled)
        return -1;
    return x->head_method ? 1 : 0;
}

const char *http_exchange_header(const struct http_exchange *x, const char *name)
{
    size_t at = 0;
    while (at < x->head.bytes) {
        const char *field = x->head.data + at;
        const char *value = field + strlen(field) + 1;
        if (strcasecmp(field, name) == 0)
            return value;
        at = (size_t)(value - x->head.data) + strlen(value) + 1;
    }
    return NULL;
}

uint64_t http_exchange_body_bytes(const struct http_exchange *x)
{
    return x->body_bytes;
}

/* ---- the answer's body ---- */

/* One whole line of the stream, without its end. */
static void stream_line(struct http_exchange *x)
{
    const char *line = x->line.data != NULL ? x->line.data : "";
    size_t bytes = x->line.bytes;
    if (bytes == 0) {
        if (x->has_data && x->call.on_event != NULL)
            x->call.on_event(x->call.ctx, x->event.data != NULL ? x->event.data : "",
                             x->event.bytes, x->read_ns);
        text_reset(&x->event);
        x->has_data = false;
    } else if (bytes >= 5 && memcmp(line, "data:", 5) == 0) {
        size_t skip = bytes > 5 && line[5] == ' ' ? 6 : 5;
        if (x->has_data)
            text_add(&x->event, "\n", 1);
        x->has_data = true;
        text_add(&x->event, line + skip, bytes - skip);
    } /* ':' comments, "event:", "id:" and "retry:" mean nothing here */
    text_reset(&x->line);
}

static bool stream_feed(struct http_exchange *x, const char *data, size_t bytes)
{
    size_t at = 0;
    while (at < bytes && !x->cancelled) {
        if (x->after_cr && data[at] == '\n') {
            x->after_cr = false;
            at++;
            continue;
        }
        x->after_cr = false;
        size_t length = 0;
        while (at + length < bytes && data[at + length] != '\n' && data[at + length] != '\r')
            length++;
        text_add(&x->line, data + at, length);
        at += length;
        if (at < bytes) {
            x->after_cr = data[at] == '\r';
            at++;
            if (text_ok(&x->line))
                stream_line(x);
        }
        if (!text_ok(&x->line) || !text_ok(&x->event)) {
            x->failure = error_set(ERR_FULL, "an event of the stream has more than %zu bytes",
                                   x->client->options.event_bytes_max);
            return false;
        }
    }
    return !x->cancelled;
}

static int answer_on_body(http_parser *parser, const char *data, size_t bytes)
{
    struct http_exchange *x = parser->data;
    x->body_bytes += bytes;
    if (x->stream && x->call.on_event != NULL) {
        if (!stream_feed(x, data, bytes))
            return 1;
    } else if (x->call.on_data != NULL) {
        x->call.on_data(x->call.ctx, data, bytes, x->read_ns);
    }
    return x->cancelled ? 1 : 0;
}

static int answer_on_complete(http_parser *parser)
{
    struct http_exchange *x = parser->data;
    if (x->state != EXCHANGE_BODY) {
        text_reset(&x->head); /* 100 Continue */
        x->in_value = false;
        return 0;
    }
    x->complete = true;
    x->keep_alive = http_should_keep_alive(parser) != 0;
    http_parser_pause(parser, 1);
    return 0;
}

static const http_parser_settings answer_settings = {
    .on_header_field = answer_on_field,
    .on_header_value = answer_on_value,
    .on_headers_complete = answer_on_head,
    .on_body = answer_on_body,
    .on_message_complete = answer_on_complete,
};

/* ---- sockets ---- */

/* The connection failed: once more on a new one where the server may just have closed it. */
static void exchange_broken(struct http_exchange *x, status result)
{
    if (!x->reused || x->got_bytes) {
        exchange_end(x, result);
        return;
    }
    exchange_unplug(x);
    status st = exchange_connect(x);
    if (st != OK)
        exchange_end(x, st);
}

static void exchange_send(struct http_exchange *x)
{
    while (x->sent < x->request.bytes) {
        ssize_t sent =
            send(x->fd, x->request.data + x->sent, x->request.bytes - x->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (sent < 0) {
            /* A server may answer (413) and close before it has read all: read that answer. */
            x->sent = x->request.bytes;
            break;
        }
        x->sent += (size_t)sent;
        x->phase_ns = clock_ns();
    }
    x->phase_ns = clock_ns();
    if (x->state == EXCHANGE_SENDING)
        x->state = EXCHANGE_HEAD;
    loop_watch_set(x->watch, LOOP_READ);
}

/* False: the exchange is gone. */
static bool exchange_feed(struct http_exchange *x, const char *data, size_t bytes)
{
    x->busy = true;
    size_t fed = http_parser_execute(&x->parser, &answer_settings, data, bytes);
    x->busy = false;
    if (x->cancelled) {
        exchange_free(x);
        return false;
    }
    if (x->complete) {
        bool clean = x->keep_alive && fed == bytes && x->sent == x->request.bytes;
        if (clean && bytes > 0)
            exchange_park(x);
        exchange_end(x, OK);
        return false;
    }
    enum http_errno error = HTTP_PARSER_ERRNO(&x->parser);
    if (error == HPE_OK)
        return true;
    if (x->failure == OK && !text_ok(&x->head))
        x->failure = error_set(ERR_FULL, "the answer's headers have more than %zu bytes",
                               x->client->options.head_bytes_max);
    if (x->failure == OK && bytes == 0)
        x->failure = error_set(ERR_CLOSED, "the server closed the connection in mid-answer");
    if (x->failure == OK)
        x->failure = error_set(ERR_BAD_INPUT, "the answer is not HTTP/1.1: %s",
                               http_errno_description(error));
    exchange_end(x, x->failure);
    return false;
}

static void exchange_receive(struct http_exchange *x)
{
    char data[READ_BYTES];
    ssize_t got = recv(x->fd, data, sizeof(data), 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
        return;
    if (got < 0) {
        exchange_broken(x, error_set(ERR_CLOSED, "the connection broke: %s", strerror(errno)));
        return;
    }
    x->read_ns = clock_ns();
    x->phase_ns = x->read_ns;
    if (got > 0) {
        x->got_bytes = true;
        exchange_feed(x, data, (size_t)got);
        return;
    }
    if (!x->got_bytes) {
        exchange_broken(x, error_set(ERR_CLOSED, "the server closed the connection unanswered"));
        return;
    }
    /* The end of the connection may be the end of the body; the parser knows. */
    if (exchange_feed(x, data, 0))
        exchange_end(x, error_set(ERR_CLOSED, "the server closed the connection in mid-answer"));
}

static void exchange_on_ready(void *ctx, int events)
{
    struct http_exchange *x = ctx;
    if (x->state == EXCHANGE_CONNECTING) {
        int error = 0;
        socklen_t bytes = sizeof(error);
        getsockopt(x->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error != 0) {
            exchange_end(x, error_set(ERR_IO, "cannot connect to %s: %s", x->client->address.text,
                                      strerror(error)));
            return;
        }
        x->state = EXCHANGE_SENDING;
        x->phase_ns = clock_ns();
    }
    if (events & LOOP_WRITE)
        exchange_send(x);
    if (events & LOOP_READ)
        exchange_receive(x);
}

static void exchange_reset(struct http_exchange *x)
{
    x->sent = 0;
    x->phase_ns = clock_ns();
    http_parser_init(&x->parser, HTTP_RESPONSE);
    x->parser.data = x;
    text_reset(&x->head);
    x->in_value = false;
}

static status exchange_plug(struct http_exchange *x, int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    x->fd = fd;
    return loop_watch_open(x->client->loop, fd, LOOP_READ | LOOP_WRITE, exchange_on_ready, x,
                           &x->watch);
}

static status exchange_connect(struct http_exchange *x)
{
    int fd;
    exchange_reset(x);
    x->reused = false;
    x->state = EXCHANGE_CONNECTING;
    status st = address_connect(&x->client->address, &fd);
    return st == OK ? exchange_plug(x, fd) : st;
}

static status exchange_reuse(struct http_exchange *x, struct idle_connection *idle)
{
    exchange_reset(x);
    x->reused = true;
    x->state = EXCHANGE_SENDING;
    int fd = idle->fd;
    idle->fd = -1;
    loop_watch_close(idle->watch);
    idle->watch = NULL;
    idle_free(idle);
    return exchange_plug(x, fd);
}

/* ---- deadlines ---- */

static uint64_t exchange_deadline_ns(const struct http_exchange *x)
{
    const struct http_client_options *o = &x->client->options;
    uint64_t whole = x->start_ns + o->total_timeout_ms * NS_PER_MS;
    uint64_t phase_ms = x->state == EXCHANGE_CONNECTING ? o->connect_timeout_ms
                        : x->state == EXCHANGE_BODY     ? o->silence_timeout_ms
                                                        : o->head_timeout_ms;
    uint64_t phase = x->phase_ns + phase_ms * NS_PER_MS;
    return phase < whole ? phase : whole;
}

static void exchange_arm(struct http_exchange *x)
{
    uint64_t now = clock_ns();
    uint64_t deadline = exchange_deadline_ns(x);
    uint64_t wait_ms = deadline > now ? (deadline - now) / NS_PER_MS + 1 : 1;
    /* Phases have limits of their own: look again at least as often as the shortest of them. */
    uint64_t look_ms = x->client->options.silence_timeout_ms;
    loop_timer_start(x->timer, wait_ms < look_ms ? wait_ms : look_ms);
}

static void exchange_on_timer(void *ctx)
{
    struct http_exchange *x = ctx;
    if (clock_ns() < exchange_deadline_ns(x)) {
        exchange_arm(x);
        return;
    }
    const char *phase = x->state == EXCHANGE_CONNECTING ? "connecting"
                        : x->state == EXCHANGE_BODY     ? "the answer's body"
                                                        : "waiting for an answer";
    exchange_end(x,
                 error_set(ERR_TIMEOUT, "timeout while %s (%s)", phase, x->client->address.text));
}

/* ---- calls ---- */

status http_client_open(struct loop *loop, const struct address *address, const char *host,
                        const struct http_client_options *options, struct http_client **client_out)
{
    struct http_client *client = calloc(1, sizeof(*client));
    if (client == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an HTTP client");
    client->loop = loop;
    client->address = *address;
    snprintf(client->host, sizeof(client->host), "%s", host);
    client->options = *options;
    struct http_client_options *o = &client->options;
#define CLIENT_DEFAULT(field, value) o->field = o->field != 0 ? o->field : (value)
    CLIENT_DEFAULT(idle_max, 1024);
    CLIENT_DEFAULT(head_bytes_max, 65536);
    CLIENT_DEFAULT(event_bytes_max, (size_t)4 << 20);
    CLIENT_DEFAULT(connect_timeout_ms, 10000);
    CLIENT_DEFAULT(head_timeout_ms, 600000);
    CLIENT_DEFAULT(silence_timeout_ms, 120000);
    CLIENT_DEFAULT(total_timeout_ms, 3600000);
#undef CLIENT_DEFAULT
    *client_out = client;
    return OK;
}

void http_client_close(struct http_client *client)
{
    if (client == NULL)
        return;
    while (client->exchanges != NULL) {
        assert(!client->exchanges->busy);
        exchange_free(client->exchanges);
    }
    while (client->idle != NULL)
        idle_free(client->idle);
    free(client);
}

static void exchange_write_request(struct http_exchange *x, const struct http_call *call)
{
    struct text *text = &x->request;
    text_format(text, "%s %s HTTP/1.1\r\nHost: %s\r\n", call->method, call->path, x->client->host);
    for (uint32_t i = 0; i < call->header_count; i++)
        text_format(text, "%s: %s\r\n", call->headers[i].name, call->headers[i].value);
    if (call->body != NULL) {
        const char *type = call->content_type != NULL ? call->content_type : "application/json";
        text_format(text, "Content-Type: %s\r\nContent-Length: %zu\r\n", type, call->body_bytes);
    }
    text_put(text, "\r\n");
    if (call->body != NULL)
        text_add(text, call->body, call->body_bytes);
}

status http_client_start(struct http_client *client, const struct http_call *call,
                         struct http_exchange **exchange_out)
{
    struct http_exchange *x = calloc(1, sizeof(*x));
    if (x == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an HTTP exchange");
    x->client = client;
    x->call = *call;
    x->fd = -1;
    x->head_method = strcmp(call->method, "HEAD") == 0;
    x->request = text_open(SIZE_MAX / 4);
    x->head = text_open(client->options.head_bytes_max);
    x->line = text_open(client->options.event_bytes_max + 8);
    x->event = text_open(client->options.event_bytes_max);
    x->next = client->exchanges;
    if (x->next != NULL)
        x->next->previous = x;
    client->exchanges = x;
    exchange_write_request(x, call);
    x->start_ns = clock_ns();
    status st = text_ok(&x->request)
                    ? loop_timer_open(client->loop, exchange_on_timer, x, &x->timer)
                    : error_set(ERR_NO_MEMORY, "no memory for the request");
    if (st == OK)
        st = client->idle != NULL ? exchange_reuse(x, client->idle) : exchange_connect(x);
    if (st != OK) {
        exchange_free(x);
        return st;
    }
    exchange_arm(x);
    *exchange_out = x;
    return OK;
}

void http_exchange_cancel(struct http_exchange *x)
{
    if (x->busy)
        x->cancelled = true; /* freed when the parser has returned */
    else
        exchange_free(x);
}
