#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/link_parts.h"

#define LINK_WRITE_TURN_BYTES (4u * 1024u * 1024u)

void link_out_open(struct link_out *out)
{
    out->tail = &out->head;
}

static void link_piece_free(struct link_piece *piece)
{
    if (piece->fd >= 0)
        close(piece->fd);
    free(piece);
}

void link_out_close(struct link_out *out)
{
    while (out->head != NULL) {
        struct link_piece *piece = out->head;
        out->head = piece->next;
        link_piece_free(piece);
    }
    out->tail = &out->head;
    out->pending_bytes = 0;
}

static void link_out_append(struct link_out *out, struct link_piece *piece)
{
    piece->next = NULL;
    *out->tail = piece;
    out->tail = &piece->next;
    out->pending_bytes += piece->bytes;
}

static struct link_piece *link_piece_make(size_t data_bytes)
{
    struct link_piece *piece = malloc(offsetof(struct link_piece, data) + data_bytes);
    if (piece == NULL) {
        error_set(ERR_NO_MEMORY, "no memory for a frame of %zu bytes", data_bytes);
        return NULL;
    }
    piece->next = NULL;
    piece->sent = 0;
    piece->fd = -1;
    piece->span_count = 0;
    piece->plain_bytes = 0;
    return piece;
}

static void link_piece_write(struct link_out *out, struct link_piece *piece,
                             const struct frame_header *header, const void *payload)
{
    uint8_t header_bytes[FRAME_HEADER_BYTES];
    frame_header_write(header, header_bytes);
    if (out->seal != NULL) {
        link_sealed_frame(out, header_bytes, payload, header->payload_bytes, piece->data.own);
        return;
    }
    memcpy(piece->data.own, header_bytes, FRAME_HEADER_BYTES);
    if (header->payload_bytes > 0)
        memcpy(piece->data.own + FRAME_HEADER_BYTES, payload, header->payload_bytes);
}

status link_out_queue(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                      const struct iovec *spans, uint32_t span_count, int fd)
{
    struct link_out *out = &link->out;
    size_t bulk_bytes = 0;
    assert(span_count <= LINK_SPANS_MAX);
    for (uint32_t i = 0; i < span_count; i++)
        bulk_bytes += spans[i].iov_len;
    assert(bulk_bytes <= UINT32_MAX);
    bool sealed = out->seal != NULL;
    size_t frame_bytes = sealed ? link_sealed_frame_bytes(payload_bytes)
                                : FRAME_HEADER_BYTES + (size_t)payload_bytes;
    size_t bulk_wire_bytes = sealed ? seal_wire_bytes(bulk_bytes) : bulk_bytes;
    /* One frame always fits, so that a small limit cannot stop a large frame for ever. */
    if (out->pending_bytes > 0 &&
        out->pending_bytes + frame_bytes + bulk_wire_bytes > link->limits.pending_bytes_max)
        return error_set(ERR_FULL, "\"%s\" has not read %zu bytes sent to it", link->peer.name,
                         out->pending_bytes);

    struct link_piece *frame = link_piece_make(frame_bytes);
    if (frame == NULL)
        return ERR_NO_MEMORY;
    struct link_piece *bulk = NULL;
    if (bulk_bytes > 0) {
        bulk = link_piece_make(span_count * sizeof(*spans));
        if (bulk == NULL) {
            link_piece_free(frame);
            return ERR_NO_MEMORY;
        }
        bulk->bytes = bulk_wire_bytes;
        bulk->plain_bytes = bulk_bytes;
        bulk->span_count = span_count;
        memcpy(bulk->data.spans, spans, span_count * sizeof(*spans));
    }
    if (fd >= 0) {
        frame->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (frame->fd < 0) {
            link_piece_free(frame);
            free(bulk);
            return error_set(ERR_IO, "cannot duplicate a descriptor: %s", strerror(errno));
        }
    }
    struct frame_header header = {.payload_bytes = payload_bytes,
                                  .type = type,
                                  .flags = fd >= 0 ? FRAME_HAS_FD : 0,
                                  .bulk_bytes = (uint32_t)bulk_bytes,
                                  .number = out->number++};
    frame->bytes = frame_bytes;
    link_piece_write(out, frame, &header, payload);
    link_out_append(out, frame);
    if (bulk != NULL) {
        bulk->record = out->record;
        out->record += sealed ? seal_records(bulk_bytes) : 0;
        link_out_append(out, bulk);
        out->bulk_queued += bulk_bytes;
    }
    return OK;
}

/* Put what is left of a piece into iov[0 .. room); the count used. */
static uint32_t link_piece_gather(const struct link_piece *piece, struct iovec *iov, uint32_t room)
{
    if (piece->span_count == 0) {
        iov[0].iov_base = (void *)(uintptr_t)(piece->data.own + piece->sent);
        iov[0].iov_len = piece->bytes - piece->sent;
        return 1;
    }
    uint32_t used = 0;
    size_t skip = piece->sent;
    for (uint32_t i = 0; i < piece->span_count && used < room; i++) {
        const struct iovec *span = &piece->data.spans[i];
        if (skip >= span->iov_len) {
            skip -= span->iov_len;
            continue;
        }
        iov[used].iov_base = (uint8_t *)span->iov_base + skip;
        iov[used].iov_len = span->iov_len - skip;
        skip = 0;
        used++;
    }
    return used;
}

static ssize_t link_out_send_once(struct link *link)
{
    struct iovec iov[LINK_SPANS_MAX + 2];
    uint32_t count = 0;
    struct link_piece *piece = link->out.head;
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = iov};
    if (piece->fd >= 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &piece->fd, sizeof(int));
    }
    uint32_t room = (uint32_t)(sizeof(iov) / sizeof(iov[0]));
    do {
        if (link->out.seal != NULL && piece->span_count > 0) {
            iov[count++] = link_sealed_spans(&link->out, piece);
            break;
        }
        count += link_piece_gather(piece, iov + count, room - count);
        piece = piece->next;
    } while (piece != NULL && piece->fd < 0 && count < room);
    message.msg_iovlen = count;
    return sendmsg(link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Spans may be given back once they are sent; a record of them, once it is sent whole. */
static void link_out_advance_spans(struct link_out *out, const struct link_piece *piece,
                                   size_t step)
{
    if (out->seal == NULL) {
        out->bulk_sent += step;
        return;
    }
    out->sealed_at += step;
    out->bulk_sent += seal_plain_bytes(piece->plain_bytes, piece->sent + step) -
                      seal_plain_bytes(piece->plain_bytes, piece->sent);
}

static void link_out_advance(struct link_out *out, size_t bytes)
{
    out->pending_bytes -= bytes;
    while (bytes > 0) {
        struct link_piece *piece = out->head;
        size_t step = piece->bytes - piece->sent < bytes ? piece->bytes - piece->sent : bytes;
        if (piece->span_count > 0)
            link_out_advance_spans(out, piece, step);
        piece->sent += step;
        bytes -= step;
        if (piece->fd >= 0) {
            close(piece->fd);
            piece->fd = -1;
        }
        if (piece->sent < piece->bytes)
            break;
        out->head = piece->next;
        if (out->head == NULL)
            out->tail = &out->head;
        free(piece);
    }
}

status link_out_write(struct link *link)
{
    struct link_out *out = &link->out;
    size_t turn = 0;
    while (out->head != NULL && turn < LINK_WRITE_TURN_BYTES) {
        ssize_t sent = link_out_send_once(link);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS))
            break;
        if (sent < 0)
            return error_set(errno == EPIPE || errno == ECONNRESET ? ERR_CLOSED : ERR_IO,
                             "cannot write to \"%s\": %s", link->peer.name, strerror(errno));
        link_out_advance(out, (size_t)sent);
        turn += (size_t)sent;
    }
    return OK;
}
