/* wire/link_parts.h - the inside of a link, shared by link.c (life, handshake), link_in.c (reading)
 * and link_out.c (the queue of what is to be written). Nobody else includes it. */
#ifndef WIRE_LINK_PARTS_H
#define WIRE_LINK_PARTS_H

#include "wire/frame.h"
#include "wire/link.h"

#define LINK_STAGE_BYTES 8192           /* read ahead: headers and small payloads */
#define LINK_TURN_BYTES (1024u * 1024u) /* read from one link in one turn of the loop */
#define LINK_FDS_MAX 4

enum link_phase {
    LINK_CONNECTING,
    LINK_HELLO_WANTED, /* ours is sent (connector) or not yet (acceptor) */
    LINK_READY_WANTED, /* acceptor: HELLO answered */
    LINK_OPEN,
    LINK_ENDED, /* descriptor closed; freed when no callback is on the stack */
};

enum link_expect { EXPECT_HEADER, EXPECT_PAYLOAD, EXPECT_BULK };

/* A piece of the output queue: bytes of its own after it, or borrowed spans. */
struct link_piece {
    struct link_piece *next;
    size_t bytes, sent;
    int fd;              /* travels with the first byte; -1 */
    uint32_t span_count; /* 0: own bytes */
    union {
        uint8_t own[1];
        struct iovec spans[1];
    } data;
};

struct link_in {
    enum link_expect expect;
    uint32_t number; /* of the next frame */
    uint8_t header_bytes[FRAME_HEADER_BYTES];
    uint32_t header_got;
    struct frame_header header;
    uint8_t *payload;
    uint32_t payload_capacity, payload_got;
    struct iovec spans[LINK_SPANS_MAX]; /* where the bulk goes; advanced as it comes */
    uint32_t span_at, span_count;       /* span_at == span_count: thrown away */
    uint32_t bulk_left;
    uint8_t stage[LINK_STAGE_BYTES];
    size_t stage_at, stage_end;
    int fds[LINK_FDS_MAX];
    uint32_t fd_count;
    int frame_fd; /* of the frame being given to its user; -1 */
    uint64_t heard_ns;
};

struct link_out {
    uint32_t number;
    struct link_piece *head, **tail;
    size_t pending_bytes;
    uint64_t bulk_queued, bulk_sent;
    status broken; /* a write failed: told from the loop */
};

struct link {
    struct loop *loop;
    int fd;
    struct loop_watch *watch;
    struct loop_timer *timer;
    enum link_phase phase;
    bool accepted, is_unix;
    uint32_t depth; /* callbacks on the stack */
    uint64_t handshake_deadline_ns;
    const struct link_calls *calls;
    void *ctx;
    struct link_limits limits;
    uint64_t peer_incarnation;
    struct hello hello, peer;
    struct link_in in;
    struct link_out out;
};

/* link.c */
void link_fail(struct link *link, status cause); /* close, then on_close; error_text() is set */
status link_handshake_frame(struct link *link, uint16_t type, const uint8_t *payload,
                            uint32_t payload_bytes);
void link_watch_update(struct link *link);

/* link_in.c: read until nothing is there or the turn is over. Errors end the link. */
void link_in_open(struct link_in *in);
void link_in_close(struct link_in *in);
status link_in_read(struct link *link);

/* link_out.c */
void link_out_open(struct link_out *out);
void link_out_close(struct link_out *out);
/* Queue without regard to the phase; bulk may be NULL. */
status link_out_queue(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                      const struct iovec *spans, uint32_t span_count, int fd);
/* Write what the system takes. Errors: ERR_CLOSED, ERR_IO. */
status link_out_write(struct link *link);

#endif
