/* tests/unit/http/http_rig.h - a real server on loopback in its own thread, and raw sockets to it.
 *
 * Routes: /health (open), /echo (POST: answers the body), /hold (never answers, counts the gone),
 * /stream (POST: as many bytes of 'x' as the body says, as fast as it can, then ends), /trickle
 * (one event every 5 ms until the client is gone), /counts, /drain.
 */
#ifndef HTTP_RIG_H
#define HTTP_RIG_H

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/loop.h"
#include "http/server.h"

struct rig {
    struct loop *loop;
    struct http_server *server;
    struct http_server_options options;
    pthread_t thread;
    uint16_t port;
    atomic_int gone;
    atomic_int held;
    atomic_int drained;
    atomic_int cut; /* http_stream_send said ERR_CLOSED */
};

struct rig_trickle {
    struct rig *rig;
    struct http_request *request;
    struct loop_timer *timer;
};

static void rig_health(void *ctx, struct http_request *request)
{
    (void)ctx;
    http_reply(request, 200, "text/plain", NULL, 0, "ok", 2);
}

static void rig_echo(void *ctx, struct http_request *request)
{
    (void)ctx;
    const char *id = http_request_header(request, "X-Request-Id");
    struct http_header headers[] = {{"X-Request-Id", id != NULL ? id : "none"},
                                    {"X-Query", request->query}};
    size_t bytes;
    char *body = http_request_take_body(request, &bytes);
    http_reply(request, 200, "application/octet-stream", headers, 2, body != NULL ? body : "",
               bytes);
    http_body_free(body);
}

static void rig_on_gone(void *ctx)
{
    struct rig *rig = ctx;
    atomic_fetch_add(&rig->gone, 1);
}

static void rig_hold(void *ctx, struct http_request *request)
{
    struct rig *rig = ctx;
    http_request_watch(request, rig_on_gone, rig);
    atomic_fetch_add(&rig->held, 1);
}

static void rig_stream(void *ctx, struct http_request *request)
{
    struct rig *rig = ctx;
    char data[1000];
    memset(data, 'x', sizeof(data));
    size_t left = (size_t)atoll(request->body);
    http_request_watch(request, rig_on_gone, rig);
    http_stream_begin(request, NULL, 0);
    while (left > 0) {
        size_t piece = left < sizeof(data) ? left : sizeof(data);
        if (http_stream_send(request, data, piece) != OK) {
            atomic_fetch_add(&rig->cut, 1);
            return; /* on_gone follows */
        }
        left -= piece;
    }
    http_stream_end(request);
}

static void rig_trickle_gone(void *ctx)
{
    struct rig_trickle *trickle = ctx;
    atomic_fetch_add(&trickle->rig->gone, 1);
    loop_timer_close(trickle->timer);
    free(trickle);
}

static void rig_trickle_tick(void *ctx)
{
    struct rig_trickle *trickle = ctx;
    if (http_stream_send(trickle->request, "data: tick\n\n", 12) == OK)
        loop_timer_start(trickle->timer, 5);
}

static void rig_trickle(void *ctx, struct http_request *request)
{
    struct rig_trickle *trickle = calloc(1, sizeof(*trickle));
    trickle->rig = ctx;
    trickle->request = request;
    loop_timer_open(trickle->rig->loop, rig_trickle_tick, trickle, &trickle->timer);
    http_request_watch(request, rig_trickle_gone, trickle);
    http_stream_begin(request, NULL, 0);
    rig_trickle_tick(trickle);
}

static void rig_counts(void *ctx, struct http_request *request)
{
    struct rig *rig = ctx;
    struct http_server_counts counts;
    http_server_counts(rig->server, &counts);
    char text[256];
    int bytes =
        snprintf(text, sizeof(text), "%u %u %zu %llu %llu accepted=%llu", counts.connections,
                 counts.requests, counts.bodies_bytes, (unsigned long long)counts.gone,
                 (unsigned long long)counts.cut_slow, (unsigned long long)counts.accepted);
    http_reply(request, 200, "text/plain", NULL, 0, text, (size_t)bytes);
}

static void rig_on_drained(void *ctx)
{
    struct rig *rig = ctx;
    atomic_store(&rig->drained, 1);
}

static void rig_drain(void *ctx, struct http_request *request)
{
    struct rig *rig = ctx;
    http_reply(request, 200, NULL, NULL, 0, NULL, 0);
    http_server_drain(rig->server, rig_on_drained, rig);
}

static const struct http_route rig_routes[] = {
    {"/health", HTTP_METHOD_GET, true, rig_health},
    {"/echo", HTTP_METHOD_POST | HTTP_METHOD_GET, false, rig_echo},
    {"/hold", HTTP_METHOD_POST | HTTP_METHOD_GET, false, rig_hold},
    {"/stream", HTTP_METHOD_POST, false, rig_stream},
    {"/trickle", HTTP_METHOD_GET, false, rig_trickle},
    {"/counts", HTTP_METHOD_GET, false, rig_counts},
    {"/drain", HTTP_METHOD_POST, false, rig_drain},
};

static void *rig_thread(void *ctx)
{
    struct rig *rig = ctx;
    loop_run(rig->loop);
    return NULL;
}

/* options of the rig are set before. */
static inline void rig_start(struct rig *rig)
{
    struct address address;
    assert(loop_open(&rig->loop) == OK);
    assert(address_parse("127.0.0.1:0", 0, &address) == OK);
    status st = http_server_open(rig->loop, &address, &rig->options, rig_routes,
                                 sizeof(rig_routes) / sizeof(rig_routes[0]), rig, &rig->server);
    if (st != OK)
        fprintf(stderr, "%s\n", error_text());
    assert(st == OK);
    const struct address *at = http_server_address(rig->server);
    rig->port = ntohs(((const struct sockaddr_in *)&at->socket_address)->sin_port);
    assert(pthread_create(&rig->thread, NULL, rig_thread, rig) == 0);
}

static inline void rig_stop(struct rig *rig)
{
    loop_stop(rig->loop);
    pthread_join(rig->thread, NULL);
    http_server_close(rig->server);
    loop_close(rig->loop);
}

/* ---- raw sockets ---- */

static inline int rig_connect_with(const struct rig *rig, int receive_bytes)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert(fd >= 0);
    if (receive_bytes > 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(rig->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    return fd;
}

static inline int rig_connect(const struct rig *rig)
{
    return rig_connect_with(rig, 0);
}

static inline void rig_send(int fd, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent < 0)
            return; /* a server that refused early: its answer is what is looked at */
        data += sent;
        bytes -= (size_t)sent;
    }
}

static inline void rig_say(int fd, const char *text)
{
    rig_send(fd, text, strlen(text));
}

/* Read until the server closes, until has (if not NULL) was seen, or until timeout_ms without a
 * byte. Answer with NUL, to be freed. *closed_out (may be NULL): the server closed. */
static inline char *rig_read(int fd, const char *has, int timeout_ms, bool *closed_out)
{
    size_t bytes = 0, capacity = 4096;
    char *data = malloc(capacity);
    assert(data != NULL);
    data[0] = '\0';
    bool closed = false;
    while (has == NULL || strstr(data, has) == NULL) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (poll(&wait, 1, timeout_ms) <= 0)
            break;
        if (capacity - bytes < 2048)
            assert((data = realloc(data, capacity *= 2)) != NULL);
        ssize_t got = recv(fd, data + bytes, capacity - bytes - 1, 0);
        if (got <= 0) {
            closed = true;
            break;
        }
        bytes += (size_t)got;
        data[bytes] = '\0';
    }
    if (closed_out != NULL)
        *closed_out = closed;
    return data;
}

/* One request on a connection of its own; the whole answer. */
static inline char *rig_ask(const struct rig *rig, const char *data, size_t bytes)
{
    int fd = rig_connect(rig);
    rig_send(fd, data, bytes);
    char *answer = rig_read(fd, NULL, 3000, NULL);
    close(fd);
    return answer;
}

/* 0 when the answer has no status line. */
static inline int rig_code(const char *answer)
{
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : 0;
}

static inline bool rig_wait(atomic_int *value, int at_least, unsigned timeout_ms)
{
    uint64_t until = clock_ns() + timeout_ms * UINT64_C(1000000);
    while (atomic_load(value) < at_least) {
        if (clock_ns() > until)
            return false;
        usleep(1000);
    }
    return true;
}

#endif
