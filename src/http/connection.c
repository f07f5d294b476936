#include "http/connection.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

#define NS_PER_MS UINT64_C(1000000)
#define WRITE_PIECES 16

/* ---- reading and writing ---- */

/* Read what there is, up to CONNECTION_INPUT_BYTES in waiting. */
void connection_fill(struct connection *c)
{
    while (c->readable && !c->peer_closed) {
        size_t waiting = evbuffer_get_length(c->input);
        if (waiting >= CONNECTION_INPUT_BYTES)
            return;
        struct evbuffer_iovec space;
        if (evbuffer_reserve_space(c->input, (ev_ssize_t)(CONNECTION_INPUT_BYTES - waiting), &space,
                                   1) != 1) {
            c->cut = true;
            return;
        }
        if (space.iov_len > CONNECTION_INPUT_BYTES - waiting)
            space.iov_len = CONNECTION_INPUT_BYTES - waiting;
        ssize_t got = recv(c->fd, space.iov_base, space.iov_len, 0);
        if (got > 0) {
            space.iov_len = (size_t)got;
            evbuffer_commit_space(c->input, &space, 1);
            continue;
        }
        space.iov_len = 0;
        evbuffer_commit_space(c->input, &space, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->readable = false;
            return;
        }
        c->peer_closed = true;
        if (got < 0)
            c->cut = true; /* reset: nobody reads either */
    }
}

/* Throw away what comes. False when there is no more now. */
static bool connection_discard(struct connection *c)
{
    char waste[16384];
    size_t budget = CONNECTION_TURN_BYTES;
    evbuffer_drain(c->input, evbuffer_get_length(c->input));
    while (c->readable && !c->peer_closed) {
        ssize_t got = recv(c->fd, waste, sizeof(waste), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->readable = false;
        } else if (got <= 0) {
            c->peer_closed = true;
        } else if ((size_t)got >= budget) {
            connection_kick(c);
            return false;
        } else {
            budget -= (size_t)got;
        }
    }
    return c->peer_closed;
}

void connection_write(struct connection *c)
{
    while (c->writable && !c->cut && evbuffer_get_length(c->output) > 0) {
        struct evbuffer_iovec pieces[WRITE_PIECES];
        int count = evbuffer_peek(c->output, -1, NULL, pieces, WRITE_PIECES);
        if (count > WRITE_PIECES)
            count = WRITE_PIECES;
        struct iovec vector[WRITE_PIECES];
        for (int i = 0; i < count; i++)
            vector[i] = (struct iovec){pieces[i].iov_base, pieces[i].iov_len};
        struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)count};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent > 0) {
            evbuffer_drain(c->output, (size_t)sent);
            c->write_ns = clock_ns();
        } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->writable = false;
        } else if (sent < 0 && errno != EINTR) {
            c->cut = true;
        }
    }
}

/* ---- the states ---- */

void connection_enter(struct connection *c, enum connection_state state)
{
    c->state = state;
    c->state_ns = clock_ns();
    c->progress_ns = c->state_ns;
}

static bool connection_step_running(struct connection *c)
{
    connection_fill(c);
    connection_write(c);
    if (!c->peer_closed && !c->cut)
        return false;
    struct connection_request *request = c->request;
    c->state = CONNECTION_DEAD;
    c->server->counts.gone++;
    c->server->counts.requests--;
    if (request->on_gone != NULL)
        request->on_gone(request->gone_ctx);
    connection_request_free(c);
    return true;
}

static bool connection_step_flush(struct connection *c)
{
    connection_write(c);
    if (c->cut) {
        c->state = CONNECTION_DEAD;
        return true;
    }
    if (evbuffer_get_length(c->output) > 0)
        return false;
    if (c->close_after) {
        shutdown(c->fd, SHUT_WR);
        connection_enter(c, CONNECTION_LINGER);
        return true;
    }
    connection_enter(c, CONNECTION_HEAD);
    c->first_byte = false;
    return true;
}

static bool connection_step(struct connection *c)
{
    switch (c->state) {
    case CONNECTION_HEAD:
        return connection_step_head(c);
    case CONNECTION_BODY:
        return connection_step_body(c);
    case CONNECTION_RUNNING:
        return connection_step_running(c);
    case CONNECTION_FLUSH:
        return connection_step_flush(c);
    case CONNECTION_LINGER:
        if (connection_discard(c))
            c->state = CONNECTION_DEAD;
        return c->state == CONNECTION_DEAD;
    case CONNECTION_DEAD:
        break;
    }
    return false;
}

/* ---- deadlines ---- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* UINT64_MAX: none, the request has its own in the router. */
static uint64_t connection_deadline_ns(const struct connection *c)
{
    const struct http_server_options *o = &c->server->options;
    uint64_t stall = evbuffer_get_length(c->output) > 0
                         ? c->write_ns + o->write_stall_ms * NS_PER_MS
                         : UINT64_MAX;
    switch (c->state) {
    case CONNECTION_HEAD: {
        bool idle = c->served && !c->first_byte;
        return c->state_ns + (idle ? o->idle_timeout_ms : o->head_timeout_ms) * NS_PER_MS;
    }
    case CONNECTION_BODY:
        return earlier(c->progress_ns + o->body_progress_ms * NS_PER_MS,
                       c->state_ns + o->body_timeout_ms * NS_PER_MS);
    case CONNECTION_RUNNING:
        return stall;
    case CONNECTION_FLUSH:
        return earlier(stall, c->state_ns + o->flush_timeout_ms * NS_PER_MS);
    case CONNECTION_LINGER:
        return c->state_ns + CONNECTION_LINGER_MS * NS_PER_MS;
    case CONNECTION_DEAD:
        break;
    }
    return UINT64_MAX;
}

static void connection_check_deadline(struct connection *c)
{
    if (clock_ns() < connection_deadline_ns(c))
        return;
    switch (c->state) {
    case CONNECTION_HEAD:
        if (c->first_byte)
            connection_refuse(c, 408, "", "the request's headers did not arrive in time");
        else
            c->state = CONNECTION_DEAD;
        break;
    case CONNECTION_BODY:
        connection_refuse(c, 408, "", "the request's body did not arrive in time");
        break;
    case CONNECTION_RUNNING:
    case CONNECTION_FLUSH:
        c->server->counts.cut_slow++;
        c->cut = true;
        break;
    case CONNECTION_LINGER:
    case CONNECTION_DEAD:
        c->state = CONNECTION_DEAD;
        break;
    }
}

void connection_arm(struct connection *c)
{
    if (c->kicked)
        return; /* the turn that comes will arm it */
    uint64_t deadline = connection_deadline_ns(c);
    if (deadline == UINT64_MAX || (c->armed_ns != 0 && c->armed_ns <= deadline))
        return;
    uint64_t now = clock_ns();
    /* One millisecond more, so that the deadline has passed when the timer fires. */
    uint64_t delay_ms = (deadline > now ? (deadline - now) / NS_PER_MS : 0) + 1;
    struct timeval delay = {.tv_sec = (time_t)(delay_ms / 1000),
                            .tv_usec = (suseconds_t)(delay_ms % 1000 * 1000)};
    event_add(c->timer, &delay);
    c->armed_ns = deadline;
}

/* ---- turns ---- */

void connection_turn(struct connection *c)
{
    assert(!c->turning);
    c->turning = true;
    c->kicked = false;
    connection_check_deadline(c);
    for (int steps = 0; connection_step(c); steps++) {
        if (steps == CONNECTION_TURN_STEPS && c->state != CONNECTION_DEAD) {
            connection_kick(c); /* a flood of pipelined requests: others first */
            break;
        }
    }
    c->turning = false;
    if (c->state == CONNECTION_DEAD)
        connection_free(c);
    else
        connection_arm(c);
}

void connection_kick(struct connection *c)
{
    if (c->kicked)
        return;
    c->kicked = true;
    c->armed_ns = 1;
    /* By a timeout that is over, not by event_active: what is activated while callbacks run runs
     * before the sockets are looked at again, so one connection could keep all others waiting. */
    struct timeval now = {0};
    event_add(c->timer, &now);
}

static void connection_on_timer(evutil_socket_t fd, short events, void *ctx)
{
    (void)fd;
    (void)events;
    struct connection *c = ctx;
    c->armed_ns = 0;
    connection_turn(c);
}

static void connection_on_io(evutil_socket_t fd, short events, void *ctx)
{
    struct connection *c = ctx;
    if (events & EV_WRITE)
        c->writable = true;
    if (events & (EV_READ | EV_CLOSED))
        c->readable = true;
    /* With a full input nothing is read, so an end or a reset has to be asked for. */
    if (evbuffer_get_length(c->input) >= CONNECTION_INPUT_BYTES) {
        int error = 0;
        socklen_t bytes = sizeof(error);
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error != 0)
            c->cut = true;
        if (events & EV_CLOSED)
            c->peer_closed = true;
    }
    connection_turn(c);
}

status connection_open(struct http_server *server, int fd, const char *peer)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (c == NULL)
        goto err_fd;
    c->server = server;
    c->fd = fd;
    c->writable = true;
    c->readable = true;
    snprintf(c->peer, sizeof(c->peer), "%s", peer);
    c->input = evbuffer_new();
    c->output = evbuffer_new();
    c->io = event_new(server->base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST,
                      connection_on_io, c);
    c->timer = event_new(server->base, -1, 0, connection_on_timer, c);
    if (c->input == NULL || c->output == NULL || c->io == NULL || c->timer == NULL ||
        event_add(c->io, NULL) != 0)
        goto err_connection;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on a Unix socket: fine */
    connection_enter(c, CONNECTION_HEAD);
    c->accepted_ns = c->state_ns;
    c->next = server->connections;
    if (c->next != NULL)
        c->next->previous = c;
    server->connections = c;
    server->counts.connections++;
    connection_kick(c);
    return OK;

err_connection:
    if (c->io != NULL)
        event_free(c->io);
    if (c->timer != NULL)
        event_free(c->timer);
    if (c->input != NULL)
        evbuffer_free(c->input);
    if (c->output != NULL)
        evbuffer_free(c->output);
    free(c);
err_fd:
    close(fd);
    return error_set(ERR_NO_MEMORY, "no memory for a connection");
}

void connection_request_free(struct connection *c)
{
    struct connection_request *request = c->request;
    if (request == NULL)
        return;
    c->server->counts.bodies_bytes -= request->body_capacity;
    http_head_close(request->head);
    free(request->body);
    free(request);
    c->request = NULL;
}

void connection_request_end(struct connection *c)
{
    if (c->state == CONNECTION_RUNNING)
        c->server->counts.requests--;
    connection_request_free(c);
    connection_enter(c, CONNECTION_FLUSH);
}

struct evbuffer *connection_output(struct connection *c)
{
    if (evbuffer_get_length(c->output) == 0)
        c->write_ns = clock_ns(); /* a stall is counted from here */
    return c->output;
}

void connection_free(struct connection *c)
{
    struct http_server *server = c->server;
    if (c->state == CONNECTION_RUNNING) {
        c->cut = true;
        connection_step_running(c);
    }
    connection_request_free(c);
    if (c->cut) {
        /* A reset: what lies in the system's buffers goes too. */
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    event_free(c->io);
    event_free(c->timer);
    evbuffer_free(c->input);
    evbuffer_free(c->output);
    close(c->fd);
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        server->connections = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    free(c);
    http_server_forget(server);
}
