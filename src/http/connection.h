/* http/connection.h - one client connection of the server (private to src/http).
 *
 *               +------------------------- keep-alive ----------------------------+
 *               v                                                                 |
 *     accept -> HEAD -> BODY -> RUNNING -> FLUSH ---------------------------------+
 *                 \_______\________________^  \-> LINGER -> DEAD
 *                  refused by the server           half-closed: what still comes is thrown away, so
 *                                                  that no reset overtakes the reply
 *
 * One edge-triggered event (read, write, closed) stays registered for the connection's life; the
 * flags readable and writable remember edges. Everything that happens goes through
 * connection_turn, the only place that frees a connection, so calls from inside on_request only
 * change state and kick a turn.
 *
 * Threads: the loop's. Memory: the connection owns its request, head, body and buffers.
 */
#ifndef HTTP_CONNECTION_H
#define HTTP_CONNECTION_H

#include <event2/buffer.h>
#include <event2/event.h>
#include <http_parser.h>

#include "http/head.h"
#include "http/openai_request.h"
#include "http/server.h"
#include "http/text.h"

#define CONNECTION_INPUT_BYTES 65536 /* read and not yet used: pipelined requests wait here */
#define CONNECTION_TURN_BYTES (1 << 20)
#define CONNECTION_TURN_STEPS 64
#define CONNECTION_LINGER_MS 3000
#define CONNECTION_PEER_BYTES 64

enum connection_state {
    CONNECTION_HEAD,
    CONNECTION_BODY,
    CONNECTION_RUNNING,
    CONNECTION_FLUSH,
    CONNECTION_LINGER,
    CONNECTION_DEAD,
};

/* A request with what only the server sees of it; public first. */
struct connection_request {
    struct http_request public;
    struct connection *connection;
    const struct http_route *route;
    struct http_head *head;
    char *body;
    size_t body_capacity; /* of body, or of what was taken: counted in bodies_bytes */
    void (*on_gone)(void *ctx);
    void *gone_ctx;
    bool streaming;
    bool head_only; /* HEAD */
};

struct connection {
    struct http_server *server;
    struct connection *previous, *next;
    enum connection_state state;
    int fd;
    struct event *io;    /* edges of the socket */
    struct event *timer; /* the deadline, and kicks */
    bool readable, writable;
    bool peer_closed; /* it sends no more, or is reset */
    bool cut;         /* write failed, stalled or over its limit: nothing more goes out */
    bool turning, kicked;
    bool close_after; /* no further request after this reply */
    bool message_complete;
    struct evbuffer *input, *output;
    size_t head_scanned;
    http_parser parser;
    struct http_refusal refusal; /* set by parser callbacks */
    struct connection_request *request;
    uint64_t accepted_ns;
    uint64_t state_ns;    /* when state was entered, or its first byte came */
    uint64_t progress_ns; /* last byte of body read */
    uint64_t write_ns;    /* output began to wait, or last byte was taken */
    uint64_t armed_ns;    /* when timer fires; 0: not armed */
    bool first_byte;      /* of the head */
    bool served;          /* at least one request */
    char peer[CONNECTION_PEER_BYTES];
};

struct http_server {
    struct loop *loop;
    struct event_base *base;
    struct http_server_options options;
    const struct http_route *routes;
    uint32_t route_count;
    void *ctx;
    struct address address;
    int listen_fd;
    struct event *listen_event;
    struct event *resume_event; /* accept again after descriptors ran out */
    struct event *drained_event;
    bool draining, closing;
    void (*on_drained)(void *ctx);
    void *drained_ctx;
    struct connection *connections;
    struct http_server_counts counts;
    uint64_t next_id;
};

/* Takes fd (closed when this fails). */
status connection_open(struct http_server *server, int fd, const char *peer);

/* Runs the connection as far as it goes now; may free it. */
void connection_turn(struct connection *connection);

/* A turn soon, from the loop. */
void connection_kick(struct connection *connection);

/* Have the timer fire by the next deadline. */
void connection_arm(struct connection *connection);

/* intake.c: true when something changed and the connection is to be stepped again. */
bool connection_step_head(struct connection *connection);
bool connection_step_body(struct connection *connection);

void connection_enter(struct connection *connection, enum connection_state state);

/* Read what there is, up to CONNECTION_INPUT_BYTES in waiting. */
void connection_fill(struct connection *connection);

/* Where to add output; a stall is counted from when it was empty. */
struct evbuffer *connection_output(struct connection *connection);

/* Write what the client takes; sets cut when it is gone. */
void connection_write(struct connection *connection);

/* Close and free, giving a running request its on_gone. */
void connection_free(struct connection *connection);

/* reply.c: answer with an error of the server itself; connection's request may be NULL. */
void connection_refuse(struct connection *connection, unsigned code, const char *extra_headers,
                       const char *why);

/* The running request has ended: free it, go to FLUSH. */
void connection_request_end(struct connection *connection);
void connection_request_free(struct connection *connection);

/* server.c: called when a connection is freed. */
void http_server_forget(struct http_server *server);

#endif
