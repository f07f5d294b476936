/* Any bytes from a client: the whole server over a socket pair. The first byte cuts the input in
 * two writes, so that heads and chunks also arrive in parts. */
#include <event2/event.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "http/connection.h"

static struct loop *fuzz_loop;
static struct http_server *fuzz_server;

static void fuzz_reply(void *ctx, struct http_request *request)
{
    (void)ctx;
    struct http_header header = {"X", request->query};
    http_reply(request, 200, "text/plain", &header, 1, request->body, request->body_bytes);
}

static void fuzz_stream(void *ctx, struct http_request *request)
{
    (void)ctx;
    http_stream_begin(request, NULL, 0);
    if (http_stream_send(request, request->path, 3) == OK)
        http_stream_end(request);
}

static void fuzz_hold(void *ctx, struct http_request *request)
{
    (void)ctx;
    (void)request; /* ends when the client goes */
}

static const struct http_route fuzz_routes[] = {
    {"/r", HTTP_METHOD_GET | HTTP_METHOD_POST, true, fuzz_reply},
    {"/s", HTTP_METHOD_POST | HTTP_METHOD_GET, true, fuzz_stream},
    {"/h", HTTP_METHOD_POST | HTTP_METHOD_GET, true, fuzz_hold},
};

static void fuzz_start(void)
{
    struct address address;
    struct http_server_options options = {.body_bytes_max = 5000, .head_bytes_max = 2000};
    if (loop_open(&fuzz_loop) != OK || address_parse("127.0.0.1:0", 0, &address) != OK ||
        http_server_open(fuzz_loop, &address, &options, fuzz_routes, 3, NULL, &fuzz_server) != OK) {
        fprintf(stderr, "cannot start: %s\n", error_text());
        abort();
    }
}

static void fuzz_write(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
            return;
        data += sent;
        bytes -= (size_t)sent;
    }
}

static void fuzz_turn(int fd)
{
    char waste[4096];
    for (int i = 0; i < 4; i++) {
        event_base_loop(loop_event_base(fuzz_loop), EVLOOP_NONBLOCK);
        while (recv(fd, waste, sizeof(waste), MSG_DONTWAIT) > 0)
            ;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (fuzz_server == NULL)
        fuzz_start();
    int fds[2];
    if (bytes < 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) != 0)
        return 0;
    size_t cut = (size_t)data[0] * (bytes - 1) / 255;
    if (connection_open(fuzz_server, fds[0], "fuzz") == OK) {
        fuzz_write(fds[1], data + 1, cut);
        fuzz_turn(fds[1]);
        fuzz_write(fds[1], data + 1 + cut, bytes - 1 - cut);
        fuzz_turn(fds[1]);
    }
    close(fds[1]);
    event_base_loop(loop_event_base(fuzz_loop), EVLOOP_NONBLOCK);
    event_base_loop(loop_event_base(fuzz_loop), EVLOOP_NONBLOCK);
    struct http_server_counts counts;
    http_server_counts(fuzz_server, &counts);
    if (counts.connections != 0 || counts.requests != 0 || counts.bodies_bytes != 0) {
        fprintf(stderr, "left behind: %u connections, %u requests, %zu bytes\n", counts.connections,
                counts.requests, counts.bodies_bytes);
        abort();
    }
    return 0;
}
