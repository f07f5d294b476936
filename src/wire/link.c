#include "wire/link.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "wire/link_parts.h"

#define LINK_HANDSHAKE_MS 5000

static void link_on_event(void *ctx, int events);

static void link_free(struct link *link)
{
    link_sealed_free(link);
    auth_close(link->auth);
    free(link->in.payload);
    free(link);
}

/* Close the descriptor and all that depends on it; the struct goes when no callback is running. */
static void link_end(struct link *link)
{
    link->phase = LINK_ENDED;
    loop_watch_close(link->watch);
    link->watch = NULL;
    loop_timer_close(link->timer);
    link->timer = NULL;
    link_in_close(&link->in);
    link_out_close(&link->out);
    if (link->fd >= 0)
        close(link->fd);
    link->fd = -1;
}

static void link_leave(struct link *link)
{
    link->depth--;
    if (link->depth == 0 && link->phase == LINK_ENDED)
        link_free(link);
}

void link_close(struct link *link)
{
    if (link == NULL || link->phase == LINK_ENDED)
        return;
    link->depth++;
    if (link->phase != LINK_CONNECTING)
        link_out_write(link);
    link_end(link);
    link_leave(link);
}

void link_fail(struct link *link, status cause)
{
    /* Closing may overwrite the message that explains the failure. */
    char text[ERROR_TEXT_BYTES];
    memcpy(text, error_text(), sizeof(text));
    link_end(link);
    error_set(cause, "%s", text);
    link->calls->on_close(link->ctx, cause);
}

void link_watch_update(struct link *link)
{
    if (link->phase == LINK_ENDED)
        return;
    bool write = link->phase == LINK_CONNECTING || link->out.head != NULL || link->out.broken != OK;
    loop_watch_set(link->watch, LOOP_READ | (write ? LOOP_WRITE : 0));
}

/* ---- deadlines ---- */

/* How long a loop that was late itself is given to read what has arrived. */
#define LINK_LATE_MS 20

/* A payload comes at this rate at least, and whole: one that was announced too long would swallow
 * the frames behind it, each of which is heard. */
#define LINK_RATE_MIN 65536u /* bytes a second */

static uint64_t link_silence_ns(const struct link *link)
{
    return link->in.heard_ns + (uint64_t)link->limits.idle_ms * 1000000u;
}

static uint64_t link_payload_ns(const struct link *link)
{
    if (link->in.expect != EXPECT_PAYLOAD)
        return UINT64_MAX;
    return link->in.begun_ns + (uint64_t)link->limits.idle_ms * 1000000u +
           link->in.header.payload_bytes * (1000000000ull / LINK_RATE_MIN);
}

static void link_timer_update(struct link *link)
{
    uint64_t now = clock_ns();
    uint64_t deadline = link->handshake_deadline_ns;
    if (link->phase == LINK_OPEN) {
        deadline = link->limits.idle_ms == 0 ? UINT64_MAX : link_silence_ns(link);
        if (link->limits.idle_ms != 0 && deadline > link_payload_ns(link))
            deadline = link_payload_ns(link);
        if (link->in.mark > 1 && deadline > now + LINK_BULK_MARK_MS * UINT64_C(1000000))
            deadline = now + LINK_BULK_MARK_MS * UINT64_C(1000000);
        if (deadline == UINT64_MAX) {
            loop_timer_stop(link->timer);
            return;
        }
    }
    loop_timer_start(link->timer, deadline > now ? (deadline - now) / 1000000u + 1 : 0);
}

/* Bytes have arrived that this loop has not read yet: then it is us who were late, not the peer. */
static bool link_has_unread(const struct link *link)
{
    struct pollfd look = {.fd = link->fd, .events = POLLIN};
    return poll(&look, 1, 0) == 1 && (look.revents & POLLIN) != 0;
}

static void link_on_timer(void *ctx)
{
    struct link *link = ctx;
    link->depth++;
    if (link->phase == LINK_OPEN && link->in.mark > 1) /* what came since, of less than the mark */
        link_on_event(link, LOOP_READ);
    uint64_t now = clock_ns();
    if (link->phase == LINK_ENDED) {
        link_leave(link);
        return;
    }
    if (link->phase == LINK_OPEN) {
        bool idle_ends = link->limits.idle_ms != 0;
        bool silent = idle_ends && now >= link_silence_ns(link);
        bool slow = idle_ends && now >= link_payload_ns(link);
        if ((silent || slow) && link_has_unread(link))
            loop_timer_start(link->timer, LINK_LATE_MS);
        else if (slow)
            link_fail(link,
                      error_set(ERR_TIMEOUT,
                                "\"%s\" announced a frame of %u bytes and sends it at less "
                                "than %u bytes a second",
                                link->peer.name, link->in.header.payload_bytes, LINK_RATE_MIN));
        else if (silent)
            link_fail(link, error_set(ERR_TIMEOUT, "nothing was heard from \"%s\" for %u ms",
                                      link->peer.name, link->limits.idle_ms));
        else
            link_timer_update(link);
    } else if (now >= link->handshake_deadline_ns) {
        link_fail(link, error_set(ERR_TIMEOUT,
                                  "no %s before the deadline; the peer is stopped, "
                                  "unreachable or busy",
                                  link->phase == LINK_CONNECTING ? "connection" : "handshake"));
    } else {
        link_timer_update(link);
    }
    link_leave(link);
}

void link_ready(struct link *link)
{
    link->phase = LINK_OPEN;
    link->in.heard_ns = clock_ns();
    link_timer_update(link);
    link->calls->on_ready(link->ctx, &link->peer);
}

/* ---- life ---- */

/* A Unix socket tells who is at its other end. */
static status link_check_user(const struct link *link)
{
    struct ucred peer;
    socklen_t bytes = sizeof(peer);
    if (!link->is_unix)
        return OK;
    if (getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0)
        return error_set(ERR_IO, "cannot read the user of a Unix socket's peer: %s",
                         strerror(errno));
    if (peer.uid != geteuid() && peer.uid != 0)
        return error_set(ERR_REFUSED,
                         "the process at the other end of a Unix socket runs as user %u, "
                         "ours is %u; run all processes as the same user",
                         peer.uid, geteuid());
    return OK;
}

static void link_set_options(const struct link *link)
{
    int one = 1; /* a request must not wait for the acknowledgement of the one before */
    unsigned limit_ms = link->limits.unacknowledged_ms;
    if (link->is_unix)
        return;
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(link->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms));
}

static status link_make(struct loop *loop, int fd, bool accepted, const struct link_setup *setup,
                        struct link **link_out)
{
    struct link *link = calloc(1, sizeof(*link));
    if (link == NULL) {
        close(fd);
        return error_set(ERR_NO_MEMORY, "no memory for a connection");
    }
    link->loop = loop;
    link->fd = fd;
    link->accepted = accepted;
    link->phase = accepted ? LINK_HELLO_WANTED : LINK_CONNECTING;
    link->calls = setup->calls;
    link->ctx = setup->ctx;
    link->limits = setup->limits;
    if (link->limits.handshake_ms == 0)
        link->limits.handshake_ms = LINK_HANDSHAKE_MS;
    link->peer_incarnation = setup->peer_incarnation;
    link->key = setup->key;
    link->hello = *setup->hello;
    strcpy(link->peer.name, "peer");
    link_in_open(&link->in);
    link_out_open(&link->out);
    struct sockaddr_storage local;
    socklen_t bytes = sizeof(local);
    link->is_unix =
        getsockname(fd, (struct sockaddr *)&local, &bytes) == 0 && local.ss_family == AF_UNIX;
    link_set_options(link);
    link->handshake_deadline_ns = clock_ns() + (uint64_t)link->limits.handshake_ms * 1000000u;
    status st = link_handshake_open(link);
    if (st == OK)
        st = loop_watch_open(loop, fd, accepted ? LOOP_READ : LOOP_READ | LOOP_WRITE, link_on_event,
                             link, &link->watch);
    if (st == OK)
        st = loop_timer_open(loop, link_on_timer, link, &link->timer);
    if (st != OK) {
        link_end(link);
        link_free(link);
        return st;
    }
    link_timer_update(link);
    *link_out = link;
    return OK;
}

status link_open(struct loop *loop, int fd, const struct link_setup *setup, struct link **link_out)
{
    struct link *link;
    status st = link_make(loop, fd, true, setup, &link);
    if (st != OK)
        return st;
    st = link_check_user(link);
    if (st != OK) {
        link_refuse(link, st);
        link_end(link);
        link_free(link);
        return st;
    }
    *link_out = link;
    return OK;
}

status link_connect(struct loop *loop, const struct address *address, uint32_t timeout_ms,
                    const struct link_setup *setup, struct link **link_out)
{
    int fd;
    status st = address_connect(address, &fd);
    if (st != OK)
        return st;
    struct link_setup bounded = *setup;
    bounded.limits.handshake_ms = timeout_ms;
    return link_make(loop, fd, false, &bounded, link_out);
}

static status link_connected(struct link *link)
{
    int cause = 0;
    socklen_t bytes = sizeof(cause);
    if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &cause, &bytes) != 0)
        cause = errno;
    if (cause != 0)
        return error_set(ERR_IO, "cannot connect: %s", strerror(cause));
    status st = link_check_user(link);
    if (st != OK)
        return st;
    return link_handshake_begin(link);
}

static void link_on_event(void *ctx, int events)
{
    struct link *link = ctx;
    status st = OK;
    link->depth++;
    if (link->phase == LINK_CONNECTING) {
        st = link_connected(link);
        events = LOOP_WRITE;
    }
    /* What the peer said last counts, so reading comes before a failed write is told. */
    if (st == OK && (events & LOOP_READ) != 0)
        st = link_in_read(link);
    if (st == OK && link_in_set_mark(link))
        link_timer_update(link);
    if (st == OK && link->phase != LINK_ENDED && link->out.broken != OK)
        st = error_set(link->out.broken, "cannot write to \"%s\": it is gone", link->peer.name);
    bool had_pending = link->out.pending_bytes > 0;
    if (st == OK && link->phase != LINK_ENDED)
        st = link_out_write(link);
    if (st != OK && link->phase != LINK_ENDED)
        link_fail(link, st);
    if (had_pending && link->phase == LINK_OPEN && link->calls->on_drain != NULL &&
        link->out.pending_bytes <= link->limits.pending_bytes_max / 2)
        link->calls->on_drain(link->ctx);
    link_watch_update(link);
    link_leave(link);
}

/* ---- sending ---- */

static status link_send_any(struct link *link, uint16_t type, const void *payload,
                            uint32_t payload_bytes, const struct iovec *spans, uint32_t span_count,
                            int fd)
{
    assert(payload_bytes <= link->limits.payload_bytes_max);
    assert(type >= FRAME_CONTROL_FIRST);
    if (link->phase != LINK_OPEN || link->out.broken != OK)
        return error_set(ERR_CLOSED, "the connection to \"%s\" is not open", link->peer.name);
    bool was_empty = link->out.head == NULL;
    status st = link_out_queue(link, type, payload, payload_bytes, spans, span_count, fd);
    if (st != OK)
        return st;
    /* At once when nothing waits: saves a turn of the loop. A failure is told from the loop. */
    if (was_empty)
        link->out.broken = link_out_write(link);
    if (link->depth == 0)
        link_watch_update(link);
    return OK;
}

void link_limit_payload(struct link *link, uint32_t payload_bytes_max)
{
    link->limits.payload_bytes_max = payload_bytes_max;
}

status link_send(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes)
{
    return link_send_any(link, type, payload, payload_bytes, NULL, 0, -1);
}

status link_send_fd(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                    int fd)
{
    assert(link->is_unix && fd >= 0);
    return link_send_any(link, type, payload, payload_bytes, NULL, 0, fd);
}

status link_send_bulk(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                      const struct iovec *spans, uint32_t span_count)
{
    return link_send_any(link, type, payload, payload_bytes, spans, span_count, -1);
}

uint64_t link_bulk_queued(const struct link *link)
{
    return link->out.bulk_queued;
}

uint64_t link_bulk_sent(const struct link *link)
{
    return link->out.bulk_sent;
}

int link_take_fd(struct link *link)
{
    int fd = link->in.frame_fd;
    link->in.frame_fd = -1;
    return fd;
}

void link_discard_bulk(struct link *link)
{
    link->in.span_at = link->in.span_count = 0;
}

size_t link_pending_bytes(const struct link *link)
{
    return link->out.pending_bytes;
}

bool link_is_ready(const struct link *link)
{
    return link->phase == LINK_OPEN;
}

bool link_is_unix(const struct link *link)
{
    return link->is_unix;
}
