/* http/client.h - an HTTP/1.1 client on a loop: for baton bench, and for tests.
 *
 *     http_client_open(loop, address, options) ---- keeps idle connections for reuse
 *       http_client_start(request) -> exchange: on_head, then on_event (text/event-stream) or
 *                                     on_data, then on_end, exactly once, unless it is cancelled
 *
 * Every exchange ends in bounded time: connect, head, silence and whole deadlines. An exchange on a
 * reused connection that dies before the first byte of its answer is sent once more on a new one.
 *
 * Threads: the loop's. on_end is never called from inside http_client_start.
 * Memory:  the request's texts are copied; an event or a head that is larger than its limit ends
 * the exchange with ERR_FULL; data is not kept. Source:  RFC 9112; WHATWG HTML, "Server-sent
 * events" (data and comment lines).
 */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/address.h"
#include "base/loop.h"
#include "base/status.h"
#include "http/server.h"

struct http_client;
struct http_exchange;

/* 0 stands for the default in brackets. */
struct http_client_options {
    uint32_t idle_max;           /* [1024] idle connections kept */
    size_t head_bytes_max;       /* [65536] */
    size_t event_bytes_max;      /* [4 MiB] one SSE event */
    uint64_t connect_timeout_ms; /* [10 s] */
    uint64_t head_timeout_ms;    /* [600 s] from sending to the answer's head */
    uint64_t silence_timeout_ms; /* [120 s] between two bytes of an answer */
    uint64_t total_timeout_ms;   /* [3600 s] */
};

struct http_call {
    const char *method;                /* "POST" */
    const char *path;                  /* with query */
    const struct http_header *headers; /* besides Host, Content-Length, Connection */
    uint32_t header_count;
    const char *content_type; /* NULL: "application/json" when there is a body */
    const char *body;
    size_t body_bytes;

    /* Each may be NULL. at_ns is when the bytes were read from the socket (clock_ns). */
    void (*on_head)(void *ctx, struct http_exchange *exchange, unsigned code);
    void (*on_data)(void *ctx, const char *data, size_t bytes, uint64_t at_ns);
    void (*on_event)(void *ctx, const char *data, size_t bytes, uint64_t at_ns); /* NUL after it */
    /* OK: the answer is complete, whatever its code. Errors: ERR_IO, ERR_CLOSED (cut in the
     * middle), ERR_TIMEOUT, ERR_FULL, ERR_BAD_INPUT (not HTTP); error_text() says more. The
     * exchange is gone after it. */
    void (*on_end)(void *ctx, status result);
    void *ctx;
};

/* address is where to connect; host is written into the Host header. Errors: ERR_NO_MEMORY. */
status http_client_open(struct loop *loop, const struct address *address, const char *host,
                        const struct http_client_options *options, struct http_client **client_out);

/* Cancels every exchange (no on_end). */
void http_client_close(struct http_client *client);

/* Errors: ERR_NO_MEMORY, ERR_IO (no socket); then nothing is called. */
status http_client_start(struct http_client *client, const struct http_call *call,
                         struct http_exchange **exchange_out);

/* Hang up. No further callback. Allowed inside on_head, on_data and on_event. */
void http_exchange_cancel(struct http_exchange *exchange);

/* A header of the answer, in on_head and after; NULL when absent. */
const char *http_exchange_header(const struct http_exchange *exchange, const char *name);

/* Bytes of the answer's body so far. */
uint64_t http_exchange_body_bytes(const struct http_exchange *exchange);

#endif
