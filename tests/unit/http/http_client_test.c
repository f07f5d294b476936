/* The client against the real server, and against answers that no good server gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "http/client.h"
#include "unit/http/http_rig.h"

/* What came back; the loop stops when wanted exchanges have ended. */
struct seen {
    struct loop *loop;
    struct http_exchange *exchange;
    int ended, wanted;
    status result;
    unsigned code;
    char header[64];
    uint64_t data_bytes;
    int events;
    char last_event[256];
    int cancel_at; /* event number at which to hang up; 0: never */
};

static void on_head(void *ctx, struct http_exchange *exchange, unsigned code)
{
    struct seen *seen = ctx;
    seen->code = code;
    const char *value = http_exchange_header(exchange, "x-request-id");
    snprintf(seen->header, sizeof(seen->header), "%s", value != NULL ? value : "");
    assert_null(http_exchange_header(exchange, "x-nothing"));
}

static void on_data(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    struct seen *seen = ctx;
    assert_true(bytes > 0 && data != NULL && at_ns > 0);
    seen->data_bytes += bytes;
}

static void on_event(void *ctx, const char *data, size_t bytes, uint64_t at_ns)
{
    struct seen *seen = ctx;
    assert_int_equal(strlen(data), bytes);
    assert_true(at_ns > 0);
    seen->events++;
    snprintf(seen->last_event, sizeof(seen->last_event), "%s", data);
    if (seen->cancel_at == seen->events) {
        http_exchange_cancel(seen->exchange);
        loop_stop(seen->loop);
    }
}

static void on_end(void *ctx, status result)
{
    struct seen *seen = ctx;
    seen->result = result;
    if (++seen->ended == seen->wanted)
        loop_stop(seen->loop);
}

static struct http_call call_of(struct seen *seen, const char *method, const char *path,
                                const char *body)
{
    return (struct http_call){.method = method,
                              .path = path,
                              .body = body,
                              .body_bytes = body != NULL ? strlen(body) : 0,
                              .on_head = on_head,
                              .on_data = on_data,
                              .on_event = on_event,
                              .on_end = on_end,
                              .ctx = seen};
}

static struct http_client *client_to(struct loop *loop, uint16_t port,
                                     const struct http_client_options *options)
{
    char text[64];
    struct address address;
    struct http_client *client;
    snprintf(text, sizeof(text), "127.0.0.1:%u", port);
    assert_int_equal(address_parse(text, 0, &address), OK);
    assert_int_equal(http_client_open(loop, &address, text, options, &client), OK);
    return client;
}

static void run(struct seen *seen, struct http_client *client, const struct http_call *call)
{
    seen->ended = 0;
    seen->wanted = 1;
    seen->data_bytes = 0;
    seen->events = 0;
    assert_int_equal(http_client_start(client, call, &seen->exchange), OK);
    assert_int_equal(seen->ended, 0);
    loop_run(seen->loop);
}

static void answers_and_streams_come_whole(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    struct seen seen = {0};
    assert_int_equal(loop_open(&seen.loop), OK);
    struct http_client_options options = {0};
    struct http_client *client = client_to(seen.loop, rig.port, &options);

    struct http_header header = {"X-Request-Id", "r1"};
    struct http_call call = call_of(&seen, "POST", "/echo", "{\"a\": 1}");
    call.headers = &header;
    call.header_count = 1;
    for (int i = 0; i < 3; i++) {
        run(&seen, client, &call);
        assert_int_equal(seen.result, OK);
        assert_int_equal(seen.code, 200);
        assert_int_equal(seen.data_bytes, 8);
        assert_string_equal(seen.header, "r1");
    }
    /* All three on one connection, and one that asks. */
    static const char ask[] = "GET /counts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    char *counts = rig_ask(&rig, ask, strlen(ask));
    assert_non_null(strstr(counts, "accepted=2"));
    free(counts);

    call = call_of(&seen, "GET", "/nothing", NULL);
    run(&seen, client, &call);
    assert_int_equal(seen.result, OK);
    assert_int_equal(seen.code, 404);
    assert_true(seen.data_bytes > 20);

    call = call_of(&seen, "HEAD", "/health", NULL);
    run(&seen, client, &call);
    assert_int_equal(seen.result, OK);
    assert_int_equal(seen.data_bytes, 0);

    /* A big chunked stream that has no events in it. */
    call = call_of(&seen, "POST", "/stream", "3000000");
    call.on_event = NULL;
    run(&seen, client, &call);
    assert_int_equal(seen.result, OK);
    assert_int_equal(seen.data_bytes, 3000000);

    /* Events, until we hang up: the server is told. */
    call = call_of(&seen, "GET", "/trickle", NULL);
    seen.cancel_at = 3;
    run(&seen, client, &call);
    assert_int_equal(seen.events, 3);
    assert_int_equal(seen.ended, 0);
    assert_string_equal(seen.last_event, "tick");
    assert_true(rig_wait(&rig.gone, 1, 3000));

    /* Many at once. */
    enum { MANY = 50 };
    struct http_exchange *exchange;
    call = call_of(&seen, "POST", "/echo", "abc");
    seen.ended = 0;
    seen.wanted = MANY;
    for (int i = 0; i < MANY; i++)
        assert_int_equal(http_client_start(client, &call, &exchange), OK);
    loop_run(seen.loop);
    assert_int_equal(seen.ended, MANY);
    assert_int_equal(seen.result, OK);

    /* A connection that the server closed while it lay idle is not noticed by the caller. */
    rig_stop(&rig);
    call = call_of(&seen, "GET", "/health", NULL);
    run(&seen, client, &call);
    assert_int_equal(seen.result, ERR_IO); /* nobody listens */
    http_client_close(client);
    loop_close(seen.loop);
}

/* A listening socket that accepts one connection, reads a little, answers with text and closes (or
 * stays open). */
struct script {
    int fd;
    uint16_t port;
    const char *text;
    bool stay;
    pthread_t thread;
};

static void *script_thread(void *ctx)
{
    struct script *script = ctx;
    int fd = accept(script->fd, NULL, NULL);
    char waste[4096];
    ssize_t got = recv(fd, waste, sizeof(waste), 0);
    (void)got;
    /* In small pieces, so that every boundary is crossed. */
    for (const char *at = script->text; *at != '\0'; at++) {
        if (send(fd, at, 1, MSG_NOSIGNAL) != 1)
            break;
    }
    if (script->stay) {
        got = recv(fd, waste, sizeof(waste), 0);
        (void)got;
    }
    close(fd);
    return NULL;
}

static void script_start(struct script *script, const char *text, bool stay)
{
    script->text = text;
    script->stay = stay;
    script->fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(script->fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(script->fd, 4), 0);
    socklen_t bytes = sizeof(at);
    assert_int_equal(getsockname(script->fd, (struct sockaddr *)&at, &bytes), 0);
    script->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&script->thread, NULL, script_thread, script), 0);
}

static void scripted(struct seen *seen, const char *text, bool stay,
                     const struct http_client_options *options, status result)
{
    struct script script;
    script_start(&script, text, stay);
    memset(seen->last_event, 0, sizeof(seen->last_event));
    seen->cancel_at = 0;
    assert_int_equal(loop_open(&seen->loop), OK);
    struct http_client *client = client_to(seen->loop, script.port, options);
    struct http_call call = call_of(seen, "POST", "/", "{}");
    run(seen, client, &call);
    if (seen->result != result)
        fail_msg("%s: expected %s, found %s (%s)", text, status_name(result),
                 status_name(seen->result), error_text());
    http_client_close(client);
    loop_close(seen->loop);
    pthread_join(script.thread, NULL);
    close(script.fd);
}

#define STREAM "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

static void strange_answers_end_in_named_errors(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct http_client_options options = {.event_bytes_max = 1000, .head_bytes_max = 1000};
    struct http_client_options quick = {.silence_timeout_ms = 100, .head_timeout_ms = 100};

    scripted(&seen,
             STREAM "\r\n: ping\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata: three\nid: 5\n\n"
                    ": ping\n\n\n\ndata\n\ndata: four\r\rdata: [DONE]\n\n",
             false, &options, OK);
    assert_int_equal(seen.events, 4);
    assert_string_equal(seen.last_event, "[DONE]");
    scripted(&seen, STREAM "\r\ndata:two\ndata: three\n\ndata: never ended\n", false, &options, OK);
    assert_int_equal(seen.events, 1);
    assert_string_equal(seen.last_event, "two\nthree");

    scripted(&seen,
             "HTTP/1.1 100 Continue\r\nX-Request-Id: early\r\n\r\nHTTP/1.1 201 Created\r\n"
             "X-Request-Id: late\r\nContent-Length: 2\r\n\r\nab",
             true, &options, OK);
    assert_int_equal(seen.code, 201);
    assert_string_equal(seen.header, "late");
    scripted(&seen, "HTTP/1.1 204 No Content\r\n\r\n", true, &options, OK);

    scripted(&seen, "", false, &options, ERR_CLOSED);
    scripted(&seen, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", false, &options, ERR_CLOSED);
    scripted(&seen, STREAM "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", false, &options,
             ERR_CLOSED);
    scripted(&seen, "SSH-2.0-OpenSSH_9.2\r\n", false, &options, ERR_BAD_INPUT);
    scripted(&seen, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false, &options, ERR_BAD_INPUT);
    scripted(&seen, "HTTP/1.1 200 OK\r\n", true, &quick, ERR_TIMEOUT);
    scripted(&seen, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", true, &quick, ERR_TIMEOUT);

    char big[4000];
    int at = snprintf(big, sizeof(big), STREAM "\r\ndata: ");
    memset(big + at, 'e', 2000);
    snprintf(big + at + 2000, 10, "\n\n");
    scripted(&seen, big, false, &options, ERR_FULL);
    at = snprintf(big, sizeof(big), "HTTP/1.1 200 OK\r\nX: ");
    memset(big + at, 'h', 2000);
    snprintf(big + at + 2000, 10, "\r\n\r\n");
    scripted(&seen, big, false, &options, ERR_FULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_streams_come_whole),
        cmocka_unit_test(strange_answers_end_in_named_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
