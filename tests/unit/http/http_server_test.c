/* The server against raw sockets: syntax it must refuse, slow and vanishing clients, keys, limits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "unit/http/http_rig.h"

#define HOST "Host: a\r\n"
#define CLOSE "Connection: close\r\n"

static void answers(const struct rig *rig, const char *request, size_t bytes, int code)
{
    char *answer = rig_ask(rig, request, bytes);
    if (rig_code(answer) != code)
        fail_msg("expected %d to \"%s\", found: %s", code, request, answer);
    if (code >= 400)
        assert_non_null(strstr(answer, "{\"error\":{\"message\":"));
    free(answer);
}

static void malformed_requests_are_refused(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *text;
    } cases[] = {
        {200, "GET /health HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {200, "GET /health HTTP/1.0\r\n\r\n"},
        {200, "\r\n\r\nGET /health HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {200, "GET http://a.example/health?x=1 HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {200, "GET /health HTTP/1.1\r\nhOsT:a\r\nconnection:  close \t\r\n\r\n"},
        /* framing */
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length : 5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nabcde"},
        {400, "POST /echo HTTP/1.1\r\n" HOST
              "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST
              "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST
              "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {501, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n"},
        {400, "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST
              "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"},
        {400, "POST /echo HTTP/1.1\r\n" HOST
              "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nabc\r\n"},
        /* hosts */
        {400, "GET /health HTTP/1.1\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "Host: b\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST HOST "\r\n"},
        {400, "GET /health HTTP/1.0\r\n" HOST HOST "\r\n"},
        /* lines */
        {400, "GET /health HTTP/1.1\n" HOST "\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "X: a\r\n folded\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "X: a\r\n\tfolded\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n Host: a\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "no colon\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST ": empty name\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "X(y): a\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "X: a\x01\r\n\r\n"},
        {400, "GET /health HTTP/1.1\r\n" HOST "X: a\x7f\r\n\r\n"},
        /* request line */
        {400, "GET  /health HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET /health\r\n" HOST "\r\n"},
        {400, "GET /heal th HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET /h\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET health HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET /health#x HTTP/1.1\r\n" HOST "\r\n"},
        {400, "get /health HTTP/1.1\r\n" HOST "\r\n"},
        {400, "FROB /health HTTP/1.1\r\n" HOST "\r\n"},
        {400, "GET /health HTTP/x.y\r\n" HOST "\r\n"},
        {400, "GET /health HTP/1.1\r\n" HOST "\r\n"},
        {505, "GET /health HTTP/2.0\r\n" HOST "\r\n"},
        {400, "\x16\x03\x01\x02"},
        /* what the server answers for the routes */
        {404, "GET /nothing HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {404, "GET /health/ HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {405, "POST /health HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {405, "DELETE /echo HTTP/1.1\r\n" HOST CLOSE "\r\n"},
        {417, "POST /echo HTTP/1.1\r\n" HOST "Expect: tea\r\nContent-Length: 1\r\n\r\na"},
        {204, "OPTIONS /echo HTTP/1.1\r\n" HOST CLOSE "\r\n"},
    };
    struct rig rig = {0};
    rig_start(&rig);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        answers(&rig, cases[i].text, strlen(cases[i].text), cases[i].code);
    static const char nul[] = "GET /health HTTP/1.1\r\nHost: a\0b\r\n\r\n";
    answers(&rig, nul, sizeof(nul) - 1, 400);
    static const char nul_in_name[] = "GET /health HTTP/1.1\r\nHo\0st: a\r\nHost: a\r\n\r\n";
    answers(&rig, nul_in_name, sizeof(nul_in_name) - 1, 400);
    rig_stop(&rig);
}

static void allow_header_lists_the_methods(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    static const char request[] = "PUT /echo HTTP/1.1\r\n" HOST CLOSE "\r\n";
    char *answer = rig_ask(&rig, request, strlen(request));
    assert_int_equal(rig_code(answer), 405);
    assert_non_null(strstr(answer, "\r\nAllow: GET, HEAD, POST, OPTIONS\r\n"));
    free(answer);
    rig_stop(&rig);
}

static void heads_are_bounded(void **state)
{
    (void)state;
    struct rig rig = {.options = {.headers_max = 8, .head_bytes_max = 4096, .url_bytes_max = 64}};
    rig_start(&rig);
    char request[8192];

    int at = snprintf(request, sizeof(request), "GET /health HTTP/1.1\r\n" HOST CLOSE);
    for (int i = 2; i < 8; i++)
        at += snprintf(request + at, sizeof(request) - (size_t)at, "X-%d: y\r\n", i);
    snprintf(request + at, sizeof(request) - (size_t)at, "\r\n");
    answers(&rig, request, strlen(request), 200);
    snprintf(request + at, sizeof(request) - (size_t)at, "X-8: y\r\n\r\n");
    answers(&rig, request, strlen(request), 431);

    for (int pad = 0; pad < 2; pad++) {
        at = snprintf(request, sizeof(request), "GET /health HTTP/1.1\r\n" HOST CLOSE "X: ");
        int fill = 4096 - at - 4 + pad;
        memset(request + at, 'y', (size_t)fill);
        snprintf(request + at + fill, sizeof(request) - (size_t)(at + fill), "\r\n\r\n");
        assert_int_equal(strlen(request), 4096 + pad);
        answers(&rig, request, strlen(request), pad == 0 ? 200 : 431);
    }
    /* A head without an end is refused as soon as it is over the limit. */
    memset(request, 'y', 5000);
    memcpy(request, "GET /", 5);
    answers(&rig, request, 5000, 431);

    for (int pad = 0; pad < 2; pad++) {
        char url[80] = "/health?";
        memset(url + 8, 'q', (size_t)(56 + pad));
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n" HOST CLOSE "\r\n", url);
        answers(&rig, request, strlen(request), pad == 0 ? 200 : 414);
    }
    rig_stop(&rig);
}

static void requests_arrive_byte_by_byte(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    static const char *const requests[] = {
        "POST /echo?q=1 HTTP/1.1\r\n" HOST "X-Request-Id: abc\r\nContent-Length: 7\r\n" CLOSE
        "\r\nhello\r\n",
        "POST /echo?q=1 HTTP/1.1\r\n" HOST
        "x-request-id: abc\r\nTransfer-Encoding: Chunked\r\n" CLOSE
        "\r\n5;x=y\r\nhello\r\n2\r\n\r\n\r\n0\r\n\r\n",
    };
    for (size_t i = 0; i < 2; i++) {
        int fd = rig_connect(&rig);
        for (const char *at = requests[i]; *at != '\0'; at++) {
            rig_send(fd, at, 1);
            usleep(200);
        }
        char *answer = rig_read(fd, NULL, 3000, NULL);
        assert_int_equal(rig_code(answer), 200);
        assert_non_null(strstr(answer, "\r\nX-Request-Id: abc\r\n"));
        assert_non_null(strstr(answer, "\r\nX-Query: q=1\r\n"));
        assert_non_null(strstr(answer, "\r\nContent-Length: 7\r\n"));
        assert_non_null(strstr(answer, "\r\n\r\nhello\r\n"));
        free(answer);
        close(fd);
    }
    rig_stop(&rig);
}

static void requests_are_pipelined(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    int fd = rig_connect(&rig);
    char all[8192];
    int at = 0;
    for (int i = 0; i < 50; i++)
        at += snprintf(all + at, sizeof(all) - (size_t)at,
                       "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\n<%02d>", i);
    rig_say(fd, all);
    rig_say(fd, "HEAD /health HTTP/1.1\r\n" HOST "\r\nGET /health HTTP/1.1\r\n" HOST CLOSE "\r\n");
    bool closed;
    char *answer = rig_read(fd, NULL, 3000, &closed);
    assert_true(closed);
    char *from = answer;
    for (int i = 0; i < 50; i++) {
        char want[16];
        snprintf(want, sizeof(want), "\r\n\r\n<%02d>HTTP/1.1 200", i);
        from = strstr(from, want);
        assert_non_null(from);
    }
    /* HEAD: the length of what GET would have, and nothing of it. */
    char *head = strstr(from + 4, "HTTP/1.1 200");
    assert_non_null(strstr(head, "\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200"));
    assert_string_equal(answer + strlen(answer) - 6, "\r\n\r\nok");
    free(answer);
    close(fd);
    rig_stop(&rig);
}

static void bodies_are_bounded(void **state)
{
    (void)state;
    struct rig rig = {.options = {.body_bytes_max = 100000}};
    rig_start(&rig);

    /* 100 MB announced: refused from the head, and the client that sends on can read why. */
    static char block[1 << 20];
    memset(block, 'b', sizeof(block));
    int fd = rig_connect(&rig);
    rig_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 104857600\r\n\r\n");
    for (int i = 0; i < 100; i++)
        rig_send(fd, block, sizeof(block));
    bool closed;
    char *answer = rig_read(fd, NULL, 5000, &closed);
    assert_int_equal(rig_code(answer), 413);
    assert_true(closed);
    free(answer);
    close(fd);

    /* Expect: 100-continue gets the refusal instead of a go-ahead. */
    fd = rig_connect(&rig);
    rig_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n"
                "Content-Length: 104857600\r\n\r\n");
    answer = rig_read(fd, "\r\n\r\n", 3000, NULL);
    assert_int_equal(rig_code(answer), 413);
    free(answer);
    close(fd);

    /* Chunks add up. */
    fd = rig_connect(&rig);
    rig_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        rig_say(fd, "7530\r\n"); /* 30000 */
        rig_send(fd, block, 30000);
        rig_say(fd, "\r\n");
    }
    answer = rig_read(fd, NULL, 5000, NULL);
    assert_int_equal(rig_code(answer), 413);
    free(answer);
    close(fd);

    /* Exactly the limit is taken, after a go-ahead. */
    fd = rig_connect(&rig);
    rig_say(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n" CLOSE
                "Content-Length: 100000\r\n\r\n");
    answer = rig_read(fd, "\r\n\r\n", 3000, NULL);
    assert_string_equal(answer, "HTTP/1.1 100 Continue\r\n\r\n");
    free(answer);
    rig_send(fd, block, 100000);
    answer = rig_read(fd, NULL, 3000, NULL);
    assert_int_equal(rig_code(answer), 200);
    assert_int_equal(strlen(strstr(answer, "\r\n\r\n") + 4), 100000);
    free(answer);
    close(fd);
    rig_stop(&rig);
}

static void body_memory_is_shared(void **state)
{
    (void)state;
    struct rig rig = {.options = {.body_bytes_max = 100000, .bodies_bytes_max = 150000}};
    rig_start(&rig);
    static char block[100000];
    int first = rig_connect(&rig);
    rig_say(first, "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
    rig_send(first, block, sizeof(block));
    assert_true(rig_wait(&rig.held, 1, 3000));
    int second = rig_connect(&rig);
    rig_say(second, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
    rig_send(second, block, sizeof(block));
    char *answer = rig_read(second, NULL, 3000, NULL);
    assert_int_equal(rig_code(answer), 503);
    assert_non_null(strstr(answer, "\r\nRetry-After: "));
    free(answer);
    close(second);
    close(first);
    assert_true(rig_wait(&rig.gone, 1, 3000));
    /* All given back. */
    answers(&rig, "GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n",
            strlen("GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n"), 200);
    answer = rig_ask(&rig, "GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n",
                     strlen("GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n"));
    assert_non_null(strstr(answer, " 1 0 1 0")); /* this request; no bodies; one gone; none cut */
    free(answer);
    rig_stop(&rig);
}

static void slow_reader_is_cut_at_the_bound(void **state)
{
    (void)state;
    struct rig rig = {.options = {.stream_pending_bytes = 1 << 20}};
    rig_start(&rig);
    int fd = rig_connect_with(&rig, 4096);
    rig_say(fd, "POST /stream HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\n100000000");
    assert_true(rig_wait(&rig.gone, 1, 5000));
    assert_int_equal(atomic_load(&rig.cut), 1);
    close(fd);

    /* One that fits the bound (and the system's buffers) is not cut, however late it reads. */
    fd = rig_connect_with(&rig, 4096);
    rig_say(fd, "POST /stream HTTP/1.1\r\n" HOST CLOSE "Content-Length: 6\r\n\r\n900000");
    usleep(200000);
    char *answer = rig_read(fd, NULL, 3000, NULL);
    assert_int_equal(rig_code(answer), 200);
    assert_non_null(strstr(answer, "\r\nTransfer-Encoding: chunked\r\n"));
    assert_non_null(strstr(answer, "\r\n0\r\n\r\n"));
    size_t count = 0;
    for (const char *at = strstr(answer, "\r\n\r\n"); *at != '\0'; at++)
        count += *at == 'x';
    assert_int_equal(count, 900000);
    free(answer);
    close(fd);
    rig_stop(&rig);
}

static void stalled_reader_is_cut(void **state)
{
    (void)state;
    struct rig rig = {.options = {.write_stall_ms = 200}};
    rig_start(&rig);
    /* The stream is complete and waits in the server: no bound is passed, only time. */
    int fd = rig_connect_with(&rig, 4096);
    rig_say(fd, "POST /stream HTTP/1.1\r\n" HOST "Content-Length: 7\r\n\r\n5000000");
    usleep(100000);
    for (int i = 0; i < 100; i++) {
        char *answer = rig_ask(&rig, "GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n",
                               strlen("GET /counts HTTP/1.1\r\n" HOST CLOSE "\r\n"));
        bool cut = strstr(answer, "\r\n\r\n1 ") != NULL; /* only the asking connection is left */
        free(answer);
        if (cut)
            break;
        assert_true(i < 99);
        usleep(50000);
    }
    close(fd);
    rig_stop(&rig);
}

static void vanished_clients_are_told(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    static const char hold[] = "POST /hold HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi";

    /* Closed before any byte of reply. */
    int fd = rig_connect(&rig);
    rig_say(fd, hold);
    assert_true(rig_wait(&rig.held, 1, 3000));
    uint64_t from = clock_ns();
    close(fd);
    assert_true(rig_wait(&rig.gone, 1, 3000));
    assert_true(clock_ns() - from < UINT64_C(1000000000));

    /* Reset instead of closed. */
    fd = rig_connect(&rig);
    rig_say(fd, hold);
    assert_true(rig_wait(&rig.held, 2, 3000));
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
    assert_true(rig_wait(&rig.gone, 2, 3000));

    /* Half-closed counts as gone, and the same with more input than the server keeps. */
    static char junk[100000];
    memset(junk, 'j', sizeof(junk));
    fd = rig_connect(&rig);
    rig_say(fd, hold);
    assert_true(rig_wait(&rig.held, 3, 3000));
    rig_send(fd, junk, sizeof(junk));
    usleep(50000);
    assert_int_equal(atomic_load(&rig.gone), 2);
    shutdown(fd, SHUT_WR);
    assert_true(rig_wait(&rig.gone, 3, 3000));
    close(fd);
    fd = rig_connect(&rig);
    rig_say(fd, hold);
    assert_true(rig_wait(&rig.held, 4, 3000));
    rig_send(fd, junk, sizeof(junk));
    usleep(50000);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
    assert_true(rig_wait(&rig.gone, 4, 3000));

    /* In mid-stream. */
    fd = rig_connect(&rig);
    rig_say(fd, "GET /trickle HTTP/1.1\r\n" HOST "\r\n");
    char *answer = rig_read(fd, "tick", 3000, NULL);
    assert_int_equal(rig_code(answer), 200);
    assert_non_null(strstr(answer, "\r\nContent-Type: text/event-stream"));
    free(answer);
    close(fd);
    assert_true(rig_wait(&rig.gone, 5, 3000));

    /* A request that came with its end of sending gets an answer that is ready at once. */
    fd = rig_connect(&rig);
    rig_say(fd, "GET /health HTTP/1.1\r\n" HOST "\r\n");
    shutdown(fd, SHUT_WR);
    answer = rig_read(fd, NULL, 3000, NULL);
    assert_int_equal(rig_code(answer), 200);
    free(answer);
    close(fd);
    /* Closing the server tells those who are left. */
    fd = rig_connect(&rig);
    rig_say(fd, hold);
    assert_true(rig_wait(&rig.held, 5, 3000));
    rig_stop(&rig);
    assert_int_equal(atomic_load(&rig.gone), 6);
    close(fd);
}

static void slow_senders_are_timed_out(void **state)
{
    (void)state;
    struct rig rig = {.options = {.head_timeout_ms = 200,
                                  .body_progress_ms = 200,
                                  .body_timeout_ms = 600,
                                  .idle_timeout_ms = 200}};
    rig_start(&rig);
    static const struct {
        const char *text;
        const char *drip; /* sent every 50 ms, so that the connection is never silent */
        int code;
    } cases[] = {
        {"GET /health HTTP/1.1\r\n", "X: y\r\n", 408},
        {"", NULL, 0},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\nabc", NULL, 408},
        {"POST /echo HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\nabc", "d", 408},
        {"GET /health HTTP/1.1\r\n" HOST "\r\n", NULL, 200}, /* then idle */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = rig_connect(&rig);
        rig_say(fd, cases[i].text);
        uint64_t from = clock_ns();
        for (int k = 0; k < 10 && cases[i].drip != NULL; k++) {
            usleep(50000);
            rig_say(fd, cases[i].drip);
        }
        bool closed;
        char *answer = rig_read(fd, NULL, 3000, &closed);
        assert_int_equal(rig_code(answer), cases[i].code);
        assert_true(closed);
        assert_true(clock_ns() - from < UINT64_C(2500000000));
        free(answer);
        close(fd);
    }
    rig_stop(&rig);
}

static void keys_guard_every_route_but_the_open_ones(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct http_keys *keys;
    assert_int_equal(http_keys_open(&keys), OK);
    assert_int_equal(http_keys_add(keys, "first-key"), OK);
    assert_int_equal(http_keys_add(keys, "second-key"), OK);
    rig.options.keys = keys;
    rig_start(&rig);
    static const struct {
        const char *path, *authorization;
        int code;
    } cases[] = {
        {"/health", "", 200},
        {"/echo", "", 401},
        {"/counts", "", 401},
        {"/nothing", "", 401}, /* what exists is not told either */
        {"/health/", "", 401},
        {"//health", "", 401},
        {"/echo", "Authorization: Bearer wrong\r\n", 401},
        {"/echo", "Authorization: Bearer \r\n", 401},
        {"/echo", "Authorization: Bearer first-ke\r\n", 401},
        {"/echo", "Authorization: Bearer first-key2\r\n", 401},
        {"/echo", "Authorization: Basic first-key\r\n", 401},
        {"/echo", "Authorization: first-key\r\n", 401},
        {"/echo", "X-Authorization: Bearer first-key\r\n", 401},
        {"/echo", "Authorization: Bearer first-key\r\n", 200},
        {"/echo", "authorization: bearer second-key\r\n", 200},
        {"/nothing", "Authorization: Bearer second-key\r\n", 404},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char request[512];
        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n" HOST CLOSE "%s\r\n", cases[i].path,
                 cases[i].authorization);
        char *answer = rig_ask(&rig, request, strlen(request));
        if (rig_code(answer) != cases[i].code)
            fail_msg("%s %s: expected %d, found %s", cases[i].path, cases[i].authorization,
                     cases[i].code, answer);
        if (cases[i].code == 401) {
            assert_non_null(strstr(answer, "\r\nWWW-Authenticate: Bearer\r\n"));
            assert_non_null(strstr(answer, "\"code\":\"invalid_api_key\""));
        }
        free(answer);
    }
    rig_stop(&rig);
    http_keys_close(keys);
}

static void key_files_are_checked(void **state)
{
    (void)state;
    struct http_keys *keys;
    assert_int_equal(http_keys_open(&keys), OK);
    assert_int_equal(http_keys_add(keys, ""), ERR_BAD_INPUT);
    assert_int_equal(http_keys_add(keys, "a b"), ERR_BAD_INPUT);
    assert_int_equal(http_keys_add(keys, "caf\xc3\xa9"), ERR_BAD_INPUT);
    assert_int_equal(http_keys_add_file(keys, "/nonexistent/keys"), ERR_NOT_FOUND);
    char path[] = "/tmp/baton-keys-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(http_keys_add_file(keys, path), ERR_BAD_INPUT); /* empty */
    static const char file[] = "# comment\n\n  key-one  \r\nkey-two";
    assert_int_equal(write(fd, file, strlen(file)), strlen(file));
    assert_int_equal(http_keys_add_file(keys, path), OK);
    assert_int_equal(http_keys_count(keys), 2);
    assert_true(http_keys_match(keys, "key-one", 7));
    assert_true(http_keys_match(keys, "key-two", 7));
    assert_false(http_keys_match(keys, "key-tw", 6));
    assert_false(http_keys_match(keys, "", 0));
    close(fd);
    unlink(path);
    http_keys_close(keys);
    assert_int_equal(http_keys_count(NULL), 0);
}

static void other_hosts_need_a_key(void **state)
{
    (void)state;
    struct loop *loop;
    assert_int_equal(loop_open(&loop), OK);
    struct address address;
    assert_int_equal(address_parse("0.0.0.0:0", 0, &address), OK);
    struct http_server_options options = {0};
    struct http_server *server;
    assert_int_equal(http_server_open(loop, &address, &options, rig_routes, 1, NULL, &server),
                     ERR_REFUSED);
    assert_non_null(strstr(error_text(), "--api-key"));
    struct http_keys *keys;
    assert_int_equal(http_keys_open(&keys), OK);
    options.keys = keys;
    assert_int_equal(http_server_open(loop, &address, &options, rig_routes, 1, NULL, &server),
                     ERR_REFUSED);
    assert_int_equal(http_keys_add(keys, "k"), OK);
    assert_int_equal(http_server_open(loop, &address, &options, rig_routes, 1, NULL, &server), OK);
    /* A port in use is said. */
    struct http_server *second;
    assert_int_equal(
        http_server_open(loop, http_server_address(server), &options, rig_routes, 1, NULL, &second),
        ERR_IO);
    http_server_close(server);
    http_keys_close(keys);
    loop_close(loop);
}

static void connections_are_limited(void **state)
{
    (void)state;
    struct rig rig = {.options = {.connections_max = 4}};
    rig_start(&rig);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = rig_connect(&rig);
        rig_say(fds[i], "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    }
    assert_true(rig_wait(&rig.held, 4, 3000));
    int fd = rig_connect(&rig);
    char *answer = rig_read(fd, NULL, 3000, NULL);
    assert_int_equal(rig_code(answer), 503);
    assert_non_null(strstr(answer, "\r\nRetry-After: "));
    char *body = strstr(answer, "\r\n\r\n") + 4;
    assert_int_equal(strlen(body), atoi(strstr(answer, "Content-Length: ") + 16));
    free(answer);
    close(fd);
    close(fds[0]);
    assert_true(rig_wait(&rig.gone, 1, 3000));
    answers(&rig, "GET /health HTTP/1.1\r\n" HOST CLOSE "\r\n",
            strlen("GET /health HTTP/1.1\r\n" HOST CLOSE "\r\n"), 200);
    for (int i = 1; i < 4; i++)
        close(fds[i]);
    rig_stop(&rig);
}

static void drain_lets_running_requests_finish(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    int idle = rig_connect(&rig);
    rig_say(idle, "GET /health HTTP/1.1\r\n" HOST "\r\n");
    free(rig_read(idle, "ok", 3000, NULL));
    int running = rig_connect(&rig);
    rig_say(running, "GET /trickle HTTP/1.1\r\n" HOST "\r\n");
    free(rig_read(running, "tick", 3000, NULL));

    char *answer = rig_ask(&rig, "POST /drain HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n",
                           strlen("POST /drain HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"));
    assert_int_equal(rig_code(answer), 200);
    free(answer);
    bool closed;
    free(rig_read(idle, NULL, 3000, &closed));
    assert_true(closed);
    /* Nobody new, while the stream goes on. */
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(rig.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), -1);
    close(fd);
    free(rig_read(running, "tick", 3000, &closed));
    assert_false(closed);
    assert_int_equal(atomic_load(&rig.drained), 0);
    close(running);
    assert_true(rig_wait(&rig.drained, 1, 3000));
    close(idle);
    rig_stop(&rig);
}

static void old_clients_get_their_way(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig);
    /* HTTP/1.0: a stream without chunks, ended by the end of the connection. */
    char *answer = rig_ask(&rig, "POST /stream HTTP/1.0\r\nContent-Length: 4\r\n\r\n2500",
                           strlen("POST /stream HTTP/1.0\r\nContent-Length: 4\r\n\r\n2500"));
    assert_int_equal(rig_code(answer), 200);
    assert_null(strstr(answer, "chunked"));
    char *body = strstr(answer, "\r\n\r\n") + 4;
    assert_int_equal(strlen(body), 2500);
    free(answer);
    /* Keep-alive when asked for. */
    int fd = rig_connect(&rig);
    for (int i = 0; i < 2; i++) {
        rig_say(fd, "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        answer = rig_read(fd, "ok", 3000, NULL);
        assert_int_equal(rig_code(answer), 200);
        assert_non_null(strstr(answer, "\r\nConnection: keep-alive\r\n"));
        free(answer);
    }
    close(fd);
    /* An offer of another protocol is not taken up. */
    static const char upgrade[] =
        "GET /health HTTP/1.1\r\n" HOST "Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    answers(&rig, upgrade, strlen(upgrade), 200);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_requests_are_refused),
        cmocka_unit_test(allow_header_lists_the_methods),
        cmocka_unit_test(heads_are_bounded),
        cmocka_unit_test(requests_arrive_byte_by_byte),
        cmocka_unit_test(requests_are_pipelined),
        cmocka_unit_test(bodies_are_bounded),
        cmocka_unit_test(body_memory_is_shared),
        cmocka_unit_test(slow_reader_is_cut_at_the_bound),
        cmocka_unit_test(stalled_reader_is_cut),
        cmocka_unit_test(vanished_clients_are_told),
        cmocka_unit_test(slow_senders_are_timed_out),
        cmocka_unit_test(keys_guard_every_route_but_the_open_ones),
        cmocka_unit_test(key_files_are_checked),
        cmocka_unit_test(other_hosts_need_a_key),
        cmocka_unit_test(connections_are_limited),
        cmocka_unit_test(drain_lets_running_requests_finish),
        cmocka_unit_test(old_clients_get_their_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
