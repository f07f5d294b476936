/* wire/link_parts.h - the inside of a link, shared by link.c (life), link_handshake.c,
 * link_in.c (reading), link_out.c (the queue of what is to be written) and link_sealed.c (both of
 * them on a connection whose records are encrypted). Nobody else includes it. */
#ifndef WIRE_LINK_PARTS_H
#define WIRE_LINK_PARTS_H

#include "wire/auth.h"
#include "wire/frame.h"
#include "wire/link.h"
#include "wire/seal.h"

#define LINK_STAGE_BYTES 8192           /* read ahead: headers and small payloads */
#define LINK_TURN_BYTES (1024u * 1024u) /* read from one link in one turn of the loop */
#define LINK_FDS_MAX 4
/* A bulk over tcp that is not sealed: so many bytes wake its reader, or the rest of it; what came
 * of less is read after a while, so that it is heard. */
#define LINK_BULK_MARK_BYTES (256u * 1024u)
#define LINK_BULK_MARK_MS 20
#define LINK_SEALED_BYTES (4 * SEAL_RECORD_BYTES_MAX) /* of one direction, on their way */

enum link_phase {
    LINK_CONNECTING,
    LINK_HELLO_WANTED, /* ours is sent (connector) or not yet (acceptor) */
    LINK_PROOF_WANTED, /* with a cluster key: both HELLOs are known */
    LINK_READY_WANTED, /* acceptor: HELLO answered, the proof is right */
    LINK_OPEN,
    LINK_ENDED, /* descriptor closed; freed when no callback is on the stack */
};

enum link_expect { EXPECT_HEADER, EXPECT_PAYLOAD, EXPECT_BULK };

/* A piece of the output queue: bytes of its own after it, or borrowed spans. */
struct link_piece {
    struct link_piece *next;
    size_t bytes, sent;  /* on the wire */
    size_t plain_bytes;  /* of borrowed spans */
    uint64_t record;     /* sealed spans: number of their first record */
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
    int frame_fd;                /* of the frame being given to its user; -1 */
    uint64_t heard_ns, begun_ns; /* begun: the payload that is expected */
    int mark;                    /* bytes that make the socket readable (SO_RCVLOWAT) */
    /* Sealed: bytes come into `sealed` instead of the stage, and are opened from there. */
    struct seal *seal; /* NULL: plain */
    uint64_t record;
    uint8_t *sealed;
    size_t sealed_at, sealed_end;
};

struct link_out {
    uint32_t number;
    struct link_piece *head, **tail;
    size_t pending_bytes;
    uint64_t bulk_queued, bulk_sent;
    struct seal *seal; /* NULL: plain */
    uint64_t record;
    uint8_t *sealed; /* records of the first piece with spans, not yet taken by the system */
    size_t sealed_at, sealed_end;
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
    const struct cluster_key *key;
    struct auth *auth; /* until the handshake is over */
    struct hello hello, peer;
    struct link_in in;
    struct link_out out;
};

/* link.c */
void link_fail(struct link *link, status cause); /* close, then on_close; error_text() is set */
void link_watch_update(struct link *link);
void link_ready(struct link *link); /* the handshake is over */

/* link_handshake.c */
status link_handshake_open(struct link *link);  /* draws nonce or key pair */
status link_handshake_begin(struct link *link); /* connector: the connection is there */
/* Tell the peer why, as far as the socket takes it at once; the link then ends with that status. */
status link_refuse(struct link *link, status cause);
status link_handshake_frame(struct link *link, uint16_t type, const uint8_t *payload,
                            uint32_t payload_bytes);

/* link_in.c: read until nothing is there or the turn is over. Errors end the link. */
void link_in_open(struct link_in *in);
void link_in_close(struct link_in *in);
status link_in_read(struct link *link);
status link_in_parse(struct link *link);
/* Wake for as much of a bulk as can be expected, for any byte of all else. True when less than that
 * has to be looked for from now on. */
bool link_in_set_mark(struct link *link);
/* bytes of the bulk are where they belong already. */
void link_in_advance_bulk(struct link_in *in, size_t bytes);

/* link_out.c */
void link_out_open(struct link_out *out);
void link_out_close(struct link_out *out);
/* Queue without regard to the phase; bulk may be NULL. */
status link_out_queue(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                      const struct iovec *spans, uint32_t span_count, int fd);
/* Write what the system takes. Errors: ERR_CLOSED, ERR_IO. */
status link_out_write(struct link *link);

/* link_sealed.c */
/* From the next frame on both directions are sealed. Errors: ERR_NO_MEMORY. */
status link_sealed_begin(struct link *link);
void link_sealed_free(struct link *link);
/* Where the next bytes come; open the records that have come and hand on what is in them. */
struct iovec link_sealed_place(struct link_in *in);
status link_sealed_open(struct link *link);
/* A frame's header and payload as records at `to`; the bytes there. */
size_t link_sealed_frame_bytes(uint32_t payload_bytes);
void link_sealed_frame(struct link_out *out, const uint8_t header[FRAME_HEADER_BYTES],
                       const uint8_t *payload, uint32_t payload_bytes, uint8_t *to);
/* The next sealed bytes of a piece with spans, which is the first such one of the queue. */
struct iovec link_sealed_spans(struct link_out *out, const struct link_piece *piece);

#endif
