/* http/server.h - an HTTP/1.1 server on one loop: requests in whole, replies whole or streamed.
 *
 *     accept -> head (checked) -> route, key, length -> body -> on_request
 *        ^                                                        |
 *        |        http_reply  or  http_stream_begin, _send ..., _end   (now or later)
 *        +-- next request of the connection (keep-alive, pipelined) --+
 *
 * What the server answers by itself: 400 (syntax), 401 (no key), 404, 405 with Allow, 408, 411,
 * 413, 414, 417, 431, 501, 503 (too many connections or too much body memory), 505; all with the
 * error body of the OpenAI API. OPTIONS on a known path: 204 with Allow. HEAD where GET is allowed.
 *
 * Strict on purpose (each of these is a 400): two Content-Length or one that is not plain digits,
 * Content-Length beside Transfer-Encoding, a transfer coding other than "chunked", anything but one
 * Host on HTTP/1.1, a space before a header's colon, NUL or control characters, folded headers,
 * lines that end in anything but CR LF, trailers.
 *
 * Life of a request: on_request is called once, with the whole body. From then on exactly one of
 * these ends it, and after it the request must not be touched:
 *   - http_reply or http_stream_end (the last bytes may still be on their way to the client), or
 *   - on_gone (http_request_watch), called from the loop, never from inside a call of this header.
 * A request without a watch that the client leaves ends silently: only for routes that reply at
 * once. Gone means: connection reset or closed, cut for reading too slowly, a write timeout, or
 * http_server_close. A client that shuts down only its sending side (half-close) before the reply
 * is complete counts as gone: on the wire it cannot be told from a close until something is sent,
 * and work for nobody is worse than a refused rarity. A reply that was complete before is
 * delivered.
 *
 * Threads: all calls on the loop's thread. Other threads get copies, or the body by
 *          http_request_take_body.
 * Memory:  connections, header and body memory are bounded by the options; one streamed reply holds
 *          at most stream_pending_bytes that the client has not taken.
 * Source:  RFC 9110, RFC 9112; http-parser 2.9 for request line, framing and chunks.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/address.h"
#include "base/loop.h"
#include "base/status.h"
#include "http/keys.h"

struct http_server;

enum http_methods {
    HTTP_METHOD_GET = 1, /* and HEAD */
    HTTP_METHOD_POST = 2,
    HTTP_METHOD_DELETE = 4,
    HTTP_METHOD_PUT = 8,
};

struct http_header {
    const char *name;
    const char *value;
};

struct http_request {
    const char *method; /* "GET" (for HEAD too), "POST", ... */
    const char *path;   /* as it was routed, "/v1/models" */
    const char *query;  /* what follows '?', not decoded; "" when there is none */
    const char *body;   /* body_bytes, and a NUL after them; "" when there is none */
    size_t body_bytes;
    uint64_t started_ns; /* first byte of the request (clock_ns) */
    uint64_t id;         /* of this server, from 1; for logs */
    const char *peer;    /* "127.0.0.1:51234" */
    void *user;          /* the caller's, NULL at first */
};

struct http_route {
    const char *path; /* the whole path */
    unsigned methods; /* bits of enum http_methods */
    bool open;        /* needs no API key: only for /health and /live */
    void (*on_request)(void *ctx, struct http_request *request);
};

/* 0 stands for the default in brackets. */
struct http_server_options {
    uint32_t connections_max;     /* [1024] beyond: 503 and close */
    uint32_t headers_max;         /* [64] beyond: 431 */
    size_t head_bytes_max;        /* [32768] request line and headers; beyond: 431 */
    size_t url_bytes_max;         /* [4096] beyond: 414 */
    size_t body_bytes_max;        /* [16 MiB] beyond: 413, without reading it */
    size_t bodies_bytes_max;      /* [256 MiB] all bodies that are held; beyond: 503 */
    size_t stream_pending_bytes;  /* [1 MiB] beyond: the client is cut */
    uint64_t head_timeout_ms;     /* [10 s] from the first byte to the end of the head: 408 */
    uint64_t body_progress_ms;    /* [20 s] without a byte of body: 408 */
    uint64_t body_timeout_ms;     /* [120 s] for a whole body: 408 */
    uint64_t idle_timeout_ms;     /* [75 s] keep-alive without a request: close */
    uint64_t write_stall_ms;      /* [30 s] output waiting and none taken: cut */
    uint64_t flush_timeout_ms;    /* [120 s] from the end of a reply to its last byte taken: cut */
    const struct http_keys *keys; /* NULL or empty: no key needed; outlives the server */
};

/* For /metrics. */
struct http_server_counts {
    uint32_t connections; /* open now */
    uint32_t requests;    /* given to on_request and not ended */
    size_t bodies_bytes;  /* held now */
    uint64_t accepted;    /* since start, as all below */
    uint64_t refused_connections;
    uint64_t requests_total;
    uint64_t refused_requests; /* answered by the server itself with 4xx or 5xx */
    uint64_t cut_slow;         /* pending output over the limit, write stall, flush timeout */
    uint64_t gone;             /* client left before its reply was complete */
};

/* Listen at address and serve routes (kept by pointer; they outlive the server). A host that is not
 * loopback without a key is refused: anyone who can reach the port could use the model.
 * Errors: ERR_REFUSED, ERR_IO (address in use), ERR_NO_MEMORY. */
status http_server_open(struct loop *loop, const struct address *address,
                        const struct http_server_options *options, const struct http_route *routes,
                        uint32_t route_count, void *ctx, struct http_server **server_out);

/* Where it listens; the port is real even when 0 was asked for. */
const struct address *http_server_address(const struct http_server *server);

void http_server_counts(const struct http_server *server, struct http_server_counts *counts_out);

/* Stop listening, close idle connections, let running requests finish (their connections close
 * after it) and then call on_drained, from the loop, once. A router that wants its /health to say
 * 503 for a while does so before it calls this. */
void http_server_drain(struct http_server *server, void (*on_drained)(void *ctx), void *ctx);

/* Cut everything now. Requests that run get their on_gone before this returns (the one exception to
 * "never from inside a call"). NULL is allowed. */
void http_server_close(struct http_server *server);

/* A header of the request, name in any case; NULL when absent. A name sent twice gives the first.
 */
const char *http_request_header(const struct http_request *request, const char *name);

/* Call on_gone(ctx) when the request ends by the client's going. May be called again to change it.
 */
void http_request_watch(struct http_request *request, void (*on_gone)(void *ctx), void *ctx);

/* The body now belongs to the caller, who frees it with http_body_free, from any thread (it still
 * counts in bodies_bytes until the request ends). NULL when there is no body. */
char *http_request_take_body(struct http_request *request, size_t *bytes_out);
void http_body_free(char *body);

/* The whole reply. headers: besides Content-Type, Content-Length, Connection and Date, which the
 * server writes; content_type may be NULL when there is no body. Ends the request. */
void http_reply(struct http_request *request, unsigned code, const char *content_type,
                const struct http_header *headers, uint32_t header_count, const char *body,
                size_t bytes);

/* Begin a reply of unknown length: 200, text/event-stream, chunked (HTTP/1.0: until the connection
 * closes). The head goes out at once. */
void http_stream_begin(struct http_request *request, const struct http_header *headers,
                       uint32_t header_count);

/* Bytes of the stream, written at once as far as the client takes them. Errors: ERR_CLOSED: the
 * client is gone or was just cut; on_gone follows (if the request is not ended before). */
status http_stream_send(struct http_request *request, const char *data, size_t bytes);

/* The stream is complete. Ends the request. */
void http_stream_end(struct http_request *request);

/* The client did not get all of it and must notice: the connection is cut without the final chunk.
 * Ends the request. */
void http_stream_abort(struct http_request *request);

/* Bytes that the client has not taken yet. */
size_t http_request_pending_bytes(const struct http_request *request);

#endif
