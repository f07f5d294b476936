/* tests/sim/fake_http.h - http/server.h for a router whose clients are the program's own, and a
 * task pool of one thread that takes its time.
 *
 *     net_client   the request as the router has it, and what it was answered
 */
#ifndef TESTS_FAKE_HTTP_H
#define TESTS_FAKE_HTTP_H

#include "base/task_pool.h"
#include "fake_network.h"
#include "http/server.h"
#include "router/request.h"

/* What a stream is sent that would be silent for longer. */
#define NET_PING ": ping\n\n"
#define NET_PING_MS 10000

struct net_client {
    struct http_request http; /* first */
    char *body;               /* until it is taken */
    void (*on_gone)(void *ctx);
    void *gone_ctx;
    struct text streamed;
    uint64_t heard_ns, pings;
    bool begun, over, left;
    unsigned code; /* of a whole reply, or of the stream's head */
};

/* The world looks at an answer before the router forgets it. */
static void client_ended(struct net_client *client, const char *body, size_t bytes);

const char *http_request_header(const struct http_request *request, const char *name)
{
    (void)request, (void)name;
    return NULL;
}

void http_request_watch(struct http_request *request, void (*on_gone)(void *ctx), void *ctx)
{
    struct net_client *client = (struct net_client *)request;
    client->on_gone = on_gone;
    client->gone_ctx = ctx;
}

char *http_request_take_body(struct http_request *request, size_t *bytes_out)
{
    struct net_client *client = (struct net_client *)request;
    char *body = client->body;
    *bytes_out = strlen(body);
    client->body = NULL;
    return body;
}

void http_body_free(char *body)
{
    free(body);
}

void http_reply(struct http_request *request, unsigned code, const char *content_type,
                const struct http_header *headers, uint32_t header_count, const char *body,
                size_t bytes)
{
    struct net_client *client = (struct net_client *)request;
    (void)content_type, (void)headers, (void)header_count;
    assert_true(!client->over && !client->begun);
    client->code = code;
    client->over = true;
    client_ended(client, body, bytes);
}

void http_stream_begin(struct http_request *request, const struct http_header *headers,
                       uint32_t header_count)
{
    struct net_client *client = (struct net_client *)request;
    (void)headers, (void)header_count;
    assert_true(!client->over && !client->begun);
    client->begun = true;
    client->code = 200;
}

status http_stream_send(struct http_request *request, const char *data, size_t bytes)
{
    struct net_client *client = (struct net_client *)request;
    assert_true(client->begun && !client->over);
    if (bytes == strlen(NET_PING) && memcmp(data, NET_PING, bytes) == 0) {
        assert_true(net.now_ns - client->heard_ns >= NET_PING_MS * 1000000u);
        client->pings++;
    }
    client->heard_ns = net.now_ns;
    text_add(&client->streamed, data, bytes);
    return OK;
}

void http_stream_end(struct http_request *request)
{
    struct net_client *client = (struct net_client *)request;
    assert_true(client->begun && !client->over);
    client->over = true;
    client_ended(client, client->streamed.data, client->streamed.bytes);
}

void http_stream_abort(struct http_request *request)
{
    (void)request;
    fail_msg("a stream was cut by the router");
}

const struct address *http_server_address(const struct http_server *server)
{
    static const struct address address = {.text = "sim:80"};
    (void)server;
    return &address;
}

void http_server_counts(const struct http_server *server, struct http_server_counts *counts_out)
{
    (void)server;
    *counts_out = (struct http_server_counts){0};
}

/* ---- the pool: a task is done a little later ---- */

static void net_nothing(struct net_event *event)
{
    (void)event;
}

static void net_task_done(struct net_event *event)
{
    struct task *task = event->subject;
    task->run(task);
    accept_done((struct router *)(uintptr_t)event->number, &task->mail);
}

/* The router is about to go: what is in its pool is done now. */
static void net_tasks_finish(const struct router *router)
{
    for (uint32_t i = 0; i < net.count; i++) {
        struct net_event *event = net.heap[i];
        if (event->run != net_task_done || event->number != (uintptr_t)router)
            continue;
        event->run = net_nothing;
        accept_done((struct router *)(uintptr_t)event->number,
                    &((struct task *)event->subject)->mail);
    }
}

/* The pool is the router. */
status task_pool_post(struct task_pool *pool, struct task *task)
{
    net_after(100000 + net_below(2000000), net_task_done, task, (uint64_t)(uintptr_t)pool);
    return OK;
}

#endif
