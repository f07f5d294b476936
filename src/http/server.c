#include "http/server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "http/connection.h"

#define ACCEPTS_A_TURN 64
#define ACCEPT_PAUSE_MS 100

static const char server_busy[] = "HTTP/1.1 503 Service Unavailable\r\n"
                                  "Connection: close\r\n"
                                  "Retry-After: 1\r\n"
                                  "Content-Type: application/json\r\n"
                                  "Content-Length: 106\r\n"
                                  "\r\n"
                                  "{\"error\":{\"message\":\"too many connections, try again\","
                                  "\"type\":\"overloaded_error\",\"param\":null,\"code\":null}}";

static void server_peer(const struct sockaddr_storage *from, char peer_out[CONNECTION_PEER_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(peer_out, CONNECTION_PEER_BYTES, "%s:%u", host, ntohs(v4->sin_port));
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(peer_out, CONNECTION_PEER_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(peer_out, CONNECTION_PEER_BYTES, "unix");
    }
}

/* Descriptors ran out: leave the others in the backlog for a moment instead of spinning. */
static void server_pause(struct http_server *server)
{
    struct timeval delay = {.tv_usec = ACCEPT_PAUSE_MS * 1000};
    log_warn("accept paused", "reason=\"%s\"", strerror(errno));
    event_del(server->listen_event);
    event_add(server->resume_event, &delay);
}

static void server_on_resume(evutil_socket_t fd, short events, void *ctx)
{
    (void)fd;
    (void)events;
    struct http_server *server = ctx;
    if (server->listen_event != NULL)
        event_add(server->listen_event, NULL);
}

static void server_on_listen(evutil_socket_t listen_fd, short events, void *ctx)
{
    (void)events;
    struct http_server *server = ctx;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage from;
        socklen_t bytes = sizeof(from);
        memset(&from, 0, sizeof(from));
        int fd = accept4(listen_fd, (struct sockaddr *)&from, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                server_pause(server);
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return;
        }
        server->counts.accepted++;
        if (server->counts.connections >= server->options.connections_max) {
            ssize_t sent = send(fd, server_busy, sizeof(server_busy) - 1, MSG_NOSIGNAL);
            (void)sent; /* best effort */
            server->counts.refused_connections++;
            close(fd);
            continue;
        }
        char peer[CONNECTION_PEER_BYTES];
        server_peer(&from, peer);
        if (connection_open(server, fd, peer) != OK) {
            server->counts.refused_connections++;
            log_warn("connection refused", "peer=%s reason=\"%s\"", peer, error_text());
        }
    }
}

static void server_on_drained(evutil_socket_t fd, short events, void *ctx)
{
    (void)fd;
    (void)events;
    struct http_server *server = ctx;
    void (*on_drained)(void *) = server->on_drained;
    server->on_drained = NULL;
    if (on_drained != NULL)
        on_drained(server->drained_ctx);
}

void http_server_forget(struct http_server *server)
{
    server->counts.connections--;
    if (server->draining && !server->closing && server->connections == NULL)
        event_active(server->drained_event, EV_WRITE, 0);
}

static void server_defaults(struct http_server_options *o)
{
#define SERVER_DEFAULT(field, value)                                                               \
    if (o->field == 0)                                                                             \
    o->field = (value)
    SERVER_DEFAULT(connections_max, 1024);
    SERVER_DEFAULT(headers_max, 64);
    SERVER_DEFAULT(head_bytes_max, 32768);
    SERVER_DEFAULT(url_bytes_max, 4096);
    SERVER_DEFAULT(body_bytes_max, (size_t)16 << 20);
    SERVER_DEFAULT(bodies_bytes_max, (size_t)256 << 20);
    SERVER_DEFAULT(stream_pending_bytes, (size_t)1 << 20);
    SERVER_DEFAULT(head_timeout_ms, 10000);
    SERVER_DEFAULT(body_progress_ms, 20000);
    SERVER_DEFAULT(body_timeout_ms, 120000);
    SERVER_DEFAULT(idle_timeout_ms, 75000);
    SERVER_DEFAULT(write_stall_ms, 30000);
    SERVER_DEFAULT(flush_timeout_ms, 120000);
#undef SERVER_DEFAULT
    if (o->head_bytes_max > CONNECTION_INPUT_BYTES - 4)
        o->head_bytes_max = CONNECTION_INPUT_BYTES - 4;
    if (o->headers_max > 1024)
        o->headers_max = 1024;
}

/* Listening socket and events; undone by server_free. */
static status server_listen(struct http_server *server, const struct address *address)
{
    status st = address_listen(address, &server->listen_fd);
    if (st != OK)
        return st;
    st = address_of_socket(server->listen_fd, &server->address);
    if (st != OK)
        return st;
    server->listen_event =
        event_new(server->base, server->listen_fd, EV_READ | EV_PERSIST, server_on_listen, server);
    server->resume_event = event_new(server->base, -1, 0, server_on_resume, server);
    server->drained_event = event_new(server->base, -1, 0, server_on_drained, server);
    if (server->listen_event == NULL || server->resume_event == NULL ||
        server->drained_event == NULL || event_add(server->listen_event, NULL) != 0)
        return error_set(ERR_NO_MEMORY, "no memory for the HTTP server");
    return OK;
}

static void server_stop_listening(struct http_server *server)
{
    if (server->listen_event != NULL)
        event_free(server->listen_event);
    server->listen_event = NULL;
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    server->listen_fd = -1;
}

static void server_free(struct http_server *server)
{
    server_stop_listening(server);
    if (server->resume_event != NULL)
        event_free(server->resume_event);
    if (server->drained_event != NULL)
        event_free(server->drained_event);
    free(server);
}

status http_server_open(struct loop *loop, const struct address *address,
                        const struct http_server_options *options, const struct http_route *routes,
                        uint32_t route_count, void *ctx, struct http_server **server_out)
{
    if (!address_is_loopback(address) && http_keys_count(options->keys) == 0)
        return error_set(ERR_REFUSED,
                         "refusing to listen on %s without an API key: whoever reaches this "
                         "address could use the model; give --api-key or --api-key-file, or "
                         "listen on 127.0.0.1",
                         address->text);
    struct http_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the HTTP server");
    server->loop = loop;
    server->base = loop_event_base(loop);
    server->options = *options;
    server_defaults(&server->options);
    server->routes = routes;
    server->route_count = route_count;
    server->ctx = ctx;
    server->listen_fd = -1;
    server->next_id = 1;
    status st = server_listen(server, address);
    if (st != OK) {
        server_free(server);
        return st;
    }
    *server_out = server;
    return OK;
}

const struct address *http_server_address(const struct http_server *server)
{
    return &server->address;
}

void http_server_counts(const struct http_server *server, struct http_server_counts *counts_out)
{
    *counts_out = server->counts;
}

void http_server_drain(struct http_server *server, void (*on_drained)(void *ctx), void *ctx)
{
    assert(!server->draining);
    server->draining = true;
    server->on_drained = on_drained;
    server->drained_ctx = ctx;
    server_stop_listening(server);
    for (struct connection *c = server->connections; c != NULL; c = c->next) {
        if (!c->turning)
            connection_kick(c); /* an idle one then sees that it has to go */
    }
    if (server->connections == NULL)
        event_active(server->drained_event, EV_WRITE, 0);
}

void http_server_close(struct http_server *server)
{
    if (server == NULL)
        return;
    server->closing = true;
    while (server->connections != NULL) {
        assert(!server->connections->turning);
        connection_free(server->connections);
    }
    server_free(server);
}
