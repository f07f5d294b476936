#include "cli/bench_redis.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/address.h"
#include "base/error.h"

#define WAIT_MS 30000
#define LINE_BYTES 256
#define KEY_FORMAT "baton-bench:%010u"
#define KEY_BYTES 22

status bench_redis_open(const char *text, int *fd_out)
{
    struct address address;
    int fd = -1;
    status st = address_parse(text, 6379, &address);
    if (st == OK)
        st = address_connect(&address, &fd);
    if (st != OK)
        return st;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int cause = poll(&wait, 1, WAIT_MS) == 1 ? 0 : ETIMEDOUT;
    socklen_t bytes = sizeof(cause);
    if (cause == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &cause, &bytes) != 0)
        cause = errno;
    if (cause != 0) {
        close(fd);
        return error_set(ERR_IO, "cannot connect to Redis at %s: %s", text, strerror(cause));
    }
    *fd_out = fd;
    return OK;
}

/* Wait until the socket takes or has something. */
static status redis_wait(int fd, short events)
{
    struct pollfd wait = {.fd = fd, .events = events};
    if (poll(&wait, 1, WAIT_MS) == 1)
        return OK;
    return error_set(ERR_IO, "Redis says nothing for %d s", WAIT_MS / 1000);
}

static status redis_put(int fd, struct iovec *parts, int count)
{
    while (count > 0) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        ssize_t put = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (put < 0 && errno == EAGAIN) {
            status st = redis_wait(fd, POLLOUT);
            if (st != OK)
                return st;
            continue;
        }
        if (put < 0)
            return error_set(ERR_IO, "cannot write to Redis: %s", strerror(errno));
        for (size_t left = (size_t)put; left > 0;) {
            size_t step = parts->iov_len < left ? parts->iov_len : left;
            parts->iov_base = (uint8_t *)parts->iov_base + step;
            parts->iov_len -= step;
            left -= step;
            if (parts->iov_len > 0)
                break;
            parts++;
            count--;
        }
    }
    return OK;
}

static status redis_take(int fd, uint8_t *to, size_t bytes)
{
    while (bytes > 0) {
        ssize_t got = recv(fd, to, bytes, 0);
        if (got < 0 && errno == EAGAIN) {
            status st = redis_wait(fd, POLLIN);
            if (st != OK)
                return st;
            continue;
        }
        if (got <= 0)
            return error_set(ERR_IO, "cannot read from Redis: %s",
                             got == 0 ? "it closed the connection" : strerror(errno));
        to += got;
        bytes -= (size_t)got;
    }
    return OK;
}

/* A reply's first line, which must be this one; `expected` has its end of line. */
static status redis_expect(int fd, const char *expected)
{
    char line[LINE_BYTES] = "";
    size_t length = strlen(expected);
    status st = redis_take(fd, (uint8_t *)line, length);
    if (st != OK || memcmp(line, expected, length) == 0)
        return st;
    for (size_t at = length; st == OK && at < LINE_BYTES - 1 && line[at - 1] != '\n'; at++)
        st = redis_take(fd, (uint8_t *)line + at, 1);
    line[strcspn(line, "\r\n")] = '\0';
    return st != OK ? st
                    : error_set(ERR_BAD_INPUT, "expected \"%.*s\" of Redis, found \"%s\"",
                                (int)length - 2, expected, line);
}

status bench_redis_set(int fd, uint32_t first, const uint8_t *from, size_t value_bytes,
                       uint32_t count)
{
    status st = OK;
    for (uint32_t i = 0; st == OK && i < count; i++) {
        char head[LINE_BYTES];
        int bytes =
            snprintf(head, sizeof(head), "*3\r\n$3\r\nSET\r\n$%d\r\n" KEY_FORMAT "\r\n$%zu\r\n",
                     KEY_BYTES, first + i, value_bytes);
        struct iovec parts[] = {
            {head, (size_t)bytes},
            {(void *)(uintptr_t)(from + i * value_bytes), value_bytes},
            {(void *)(uintptr_t) "\r\n", 2},
        };
        st = redis_put(fd, parts, 3);
    }
    for (uint32_t i = 0; st == OK && i < count; i++)
        st = redis_expect(fd, "+OK\r\n");
    return st;
}

/* One command without a value for each key. */
static status redis_ask(int fd, const char *name, uint32_t first, uint32_t count)
{
    status st = OK;
    for (uint32_t i = 0; st == OK && i < count; i++) {
        char command[LINE_BYTES];
        int bytes =
            snprintf(command, sizeof(command), "*2\r\n$%zu\r\n%s\r\n$%d\r\n" KEY_FORMAT "\r\n",
                     strlen(name), name, KEY_BYTES, first + i);
        struct iovec part = {command, (size_t)bytes};
        st = redis_put(fd, &part, 1);
    }
    return st;
}

status bench_redis_get(int fd, uint32_t first, uint8_t *to, size_t value_bytes, uint32_t count)
{
    char head[LINE_BYTES];
    snprintf(head, sizeof(head), "$%zu\r\n", value_bytes);
    status st = redis_ask(fd, "GET", first, count);
    for (uint32_t i = 0; st == OK && i < count; i++) {
        st = redis_expect(fd, head);
        if (st == OK)
            st = redis_take(fd, to + i * value_bytes, value_bytes);
        if (st == OK)
            st = redis_expect(fd, "\r\n");
    }
    return st;
}

void bench_redis_close(int fd, uint32_t count)
{
    if (fd < 0)
        return;
    status st = redis_ask(fd, "UNLINK", 0, count);
    for (uint32_t i = 0; st == OK && i < count; i++)
        st = redis_expect(fd, ":1\r\n");
    close(fd);
}
