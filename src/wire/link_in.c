#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "wire/link_parts.h"

#define LINK_PAYLOAD_KEPT_BYTES 65536u /* a larger buffer is given back after its frame */

void link_in_open(struct link_in *in)
{
    in->frame_fd = -1;
    in->heard_ns = clock_ns();
    in->mark = 1;
}

void link_in_close(struct link_in *in)
{
    for (uint32_t i = 0; i < in->fd_count; i++)
        close(in->fds[i]);
    in->fd_count = 0;
    if (in->frame_fd >= 0)
        close(in->frame_fd);
    in->frame_fd = -1;
    in->span_at = in->span_count = 0;
}

/* Descriptors that came with bytes. Before the handshake, or too many: closed. */
static void link_in_take_fds(struct link *link, struct msghdr *message)
{
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg != NULL;
         cmsg = CMSG_NXTHDR(message, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
            if (link->phase == LINK_OPEN && link->in.fd_count < LINK_FDS_MAX)
                link->in.fds[link->in.fd_count++] = fd;
            else
                close(fd);
        }
    }
}

static ssize_t link_in_receive(struct link *link, struct iovec *iov, uint32_t count)
{
    if (!link->is_unix)
        return readv(link->fd, iov, (int)count);
    union {
        char bytes[CMSG_SPACE(LINK_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov,
                             .msg_iovlen = count,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    ssize_t got = recvmsg(link->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got >= 0)
        link_in_take_fds(link, &message);
    return got;
}

/* Note that bytes of the bulk are where they belong. */
void link_in_advance_bulk(struct link_in *in, size_t bytes)
{
    in->bulk_left -= (uint32_t)bytes;
    while (bytes > 0 && in->span_at < in->span_count) {
        struct iovec *span = &in->spans[in->span_at];
        size_t step = span->iov_len < bytes ? span->iov_len : bytes;
        span->iov_base = (uint8_t *)span->iov_base + step;
        span->iov_len -= step;
        bytes -= step;
        if (span->iov_len == 0)
            in->span_at++;
    }
}

static void link_in_copy_bulk(struct link_in *in, const uint8_t *from, size_t bytes)
{
    in->bulk_left -= (uint32_t)bytes;
    while (bytes > 0 && in->span_at < in->span_count) {
        struct iovec *span = &in->spans[in->span_at];
        size_t step = span->iov_len < bytes ? span->iov_len : bytes;
        memcpy(span->iov_base, from, step);
        span->iov_base = (uint8_t *)span->iov_base + step;
        span->iov_len -= step;
        from += step;
        bytes -= step;
        if (span->iov_len == 0)
            in->span_at++;
    }
}

static void link_in_bulk_from_stage(struct link_in *in)
{
    size_t bytes = in->stage_end - in->stage_at;
    if (bytes > in->bulk_left)
        bytes = in->bulk_left;
    link_in_copy_bulk(in, in->stage + in->stage_at, bytes);
    in->stage_at += bytes;
}

static status link_in_header(struct link *link)
{
    struct link_in *in = &link->in;
    bool open = link->phase == LINK_OPEN;
    status st = frame_header_read(in->header_bytes,
                                  open ? link->limits.payload_bytes_max : HELLO_PAYLOAD_BYTES_MAX,
                                  open ? link->limits.bulk_bytes_max : 0, in->number, &in->header);
    if (st != OK)
        return st;
    in->number++;
    in->header_got = 0;
    if (in->header.payload_bytes > in->payload_capacity) {
        uint8_t *payload = realloc(in->payload, in->header.payload_bytes);
        if (payload == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for a payload of %u bytes",
                             in->header.payload_bytes);
        in->payload = payload;
        in->payload_capacity = in->header.payload_bytes;
    }
    in->payload_got = 0;
    in->begun_ns = clock_ns();
    in->expect = EXPECT_PAYLOAD;
    return OK;
}

static status link_in_begin_bulk(struct link *link)
{
    struct link_in *in = &link->in;
    in->bulk_left = in->header.bulk_bytes;
    in->span_at = 0;
    in->span_count = 0;
    uint32_t count = link->calls->on_bulk(link->ctx, in->header.type, in->payload,
                                          in->header.payload_bytes, in->bulk_left, in->spans);
    if (link->phase == LINK_ENDED)
        return OK;
    size_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += in->spans[i].iov_len;
    /* A wrong sum would be our own mistake, and a write past the end. */
    if (count > LINK_SPANS_MAX || (count > 0 && sum != in->bulk_left))
        return error_set(ERR_BAD_INPUT, "bulk of %u bytes has places for %zu", in->bulk_left, sum);
    in->span_count = count;
    in->expect = EXPECT_BULK;
    return OK;
}

/* The payload is whole: give the frame to its user, or begin its bulk. */
static status link_in_frame(struct link *link)
{
    struct link_in *in = &link->in;
    in->expect = EXPECT_HEADER;
    if ((in->header.flags & FRAME_HAS_FD) != 0) {
        if (in->fd_count == 0 || in->header.bulk_bytes > 0)
            return error_set(ERR_BAD_INPUT,
                             "frame of type 0x%04x should bring a descriptor and nothing "
                             "else",
                             in->header.type);
        in->frame_fd = in->fds[0];
        in->fd_count--;
        memmove(in->fds, in->fds + 1, in->fd_count * sizeof(in->fds[0]));
    }
    if (in->header.bulk_bytes > 0)
        return link_in_begin_bulk(link);
    if (link->phase != LINK_OPEN || in->header.type < FRAME_CONTROL_FIRST) {
        status st =
            link_handshake_frame(link, in->header.type, in->payload, in->header.payload_bytes);
        if (st != OK)
            return st;
    } else {
        link->calls->on_frame(link->ctx, in->header.type, in->payload, in->header.payload_bytes);
    }
    if (in->frame_fd >= 0)
        close(in->frame_fd);
    in->frame_fd = -1;
    if (in->payload_capacity > LINK_PAYLOAD_KEPT_BYTES) {
        free(in->payload);
        in->payload = NULL;
        in->payload_capacity = 0;
    }
    return OK;
}

/* Move staged bytes on to where they are expected. True when more of the stage may be used. */
static status link_in_step(struct link *link, bool *idle_out)
{
    struct link_in *in = &link->in;
    size_t staged = in->stage_end - in->stage_at;
    *idle_out = false;
    if (in->expect == EXPECT_BULK) {
        link_in_bulk_from_stage(in);
        if (in->bulk_left > 0) {
            *idle_out = true;
            return OK;
        }
        in->expect = EXPECT_HEADER;
        in->span_at = in->span_count = 0;
        link->calls->on_landed(link->ctx);
        return OK;
    }
    bool header = in->expect == EXPECT_HEADER;
    uint8_t *to = header ? in->header_bytes : in->payload;
    uint32_t *got = header ? &in->header_got : &in->payload_got;
    uint32_t wanted = header ? FRAME_HEADER_BYTES : in->header.payload_bytes;
    size_t bytes = wanted - *got < staged ? wanted - *got : staged;
    if (bytes > 0)
        memcpy(to + *got, in->stage + in->stage_at, bytes);
    in->stage_at += bytes;
    *got += (uint32_t)bytes;
    if (*got < wanted) {
        *idle_out = true;
        return OK;
    }
    return header ? link_in_header(link) : link_in_frame(link);
}

status link_in_parse(struct link *link)
{
    bool idle = false;
    while (link->phase != LINK_ENDED && !idle) {
        status st = link_in_step(link, &idle);
        if (st != OK)
            return st;
    }
    return OK;
}

/* Where the next bytes go: the rest of a bulk or of a payload, and behind it the (empty) stage. */
static uint32_t link_in_places(struct link_in *in, struct iovec *iov)
{
    uint32_t count = 0;
    if (in->seal != NULL) {
        iov[0] = link_sealed_place(in);
        return 1;
    }
    if (in->expect == EXPECT_BULK) {
        for (uint32_t i = in->span_at; i < in->span_count; i++)
            iov[count++] = in->spans[i];
    } else if (in->expect == EXPECT_PAYLOAD) {
        iov[count].iov_base = in->payload + in->payload_got;
        iov[count++].iov_len = in->header.payload_bytes - in->payload_got;
    }
    iov[count].iov_base = in->stage;
    iov[count++].iov_len = LINK_STAGE_BYTES;
    return count;
}

static size_t link_in_room(const struct iovec *iov, uint32_t count)
{
    size_t room = 0;
    for (uint32_t i = 0; i < count; i++)
        room += iov[i].iov_len;
    return room;
}

/* got bytes were received into link_in_places. */
static void link_in_received(struct link_in *in, size_t got)
{
    size_t direct = 0;
    if (in->seal != NULL) {
        in->sealed_end += got;
        return;
    }
    if (in->expect == EXPECT_BULK && in->span_at < in->span_count) {
        direct = got < in->bulk_left ? got : in->bulk_left;
        link_in_advance_bulk(in, direct);
    } else if (in->expect == EXPECT_PAYLOAD) {
        size_t wanted = in->header.payload_bytes - in->payload_got;
        direct = got < wanted ? got : wanted;
        in->payload_got += (uint32_t)direct;
    }
    in->stage_at = 0;
    in->stage_end = got - direct;
}

bool link_in_set_mark(struct link *link)
{
    struct link_in *in = &link->in;
    if (link->phase != LINK_OPEN || link->is_unix || in->seal != NULL)
        return false;
    int mark = 1, was = in->mark;
    if (in->expect == EXPECT_BULK)
        mark = (int)(in->bulk_left < LINK_BULK_MARK_BYTES ? in->bulk_left : LINK_BULK_MARK_BYTES);
    if (mark == was || setsockopt(link->fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof(mark)) != 0)
        return false;
    in->mark = mark;
    return was == 1;
}

status link_in_read(struct link *link)
{
    struct link_in *in = &link->in;
    size_t turn = 0;
    while (link->phase != LINK_ENDED && turn < LINK_TURN_BYTES) {
        struct iovec iov[LINK_SPANS_MAX + 1];
        uint32_t places = link_in_places(in, iov);
        ssize_t got = link_in_receive(link, iov, places);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return OK;
        if (got < 0)
            return error_set(errno == ECONNRESET ? ERR_CLOSED : ERR_IO,
                             "cannot read from \"%s\": %s", link->peer.name, strerror(errno));
        if (got == 0)
            return error_set(ERR_CLOSED, "\"%s\" closed the connection", link->peer.name);
        in->heard_ns = clock_ns();
        turn += (size_t)got;
        bool emptied = (size_t)got < link_in_room(iov, places);
        link_in_received(in, (size_t)got);
        status st = link_in_parse(link);
        if (st == OK && in->seal != NULL)
            st = link_sealed_open(link);
        if (st != OK || emptied)
            return st; /* what came since is told by the loop, for less than one more call */
    }
    return OK;
}
