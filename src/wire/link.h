/* wire/link.h - one framed connection between two baton processes, on a loop.
 *
 *     link_connect / link_listen, link_open
 *          |  handshake (hello.h)
 *       on_ready(peer)
 *          |  link_send ... on_frame ...
 *       on_close(status)   or   link_close
 *
 * A link never hangs: connecting and the handshake have a deadline, idle_ms ends one whose peer has
 * fallen silent, and what a peer does not read is bounded (ERR_FULL), so a stopped peer costs
 * pending_bytes_max. Each turn of the loop reads a bounded number of bytes from one link.
 * Over Unix sockets only processes of our own user, or root, are let in. With a cluster key both
 * sides prove it in the handshake (auth.h), and on tcp every frame is then sealed (seal.h): bulk is
 * handed on record by record; one that does not open leaves zeros in its place and ends the link.
 *
 * Threads: the loop's. Memory: a link owns its descriptor and its queues; payloads given to calls
 * are valid until the call returns. Every call may call any function of this page, link_close of
 *          its own link included; after link_close no call is made for that link.
 */
#ifndef WIRE_LINK_H
#define WIRE_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/address.h"
#include "base/loop.h"
#include "base/status.h"
#include "wire/auth.h"
#include "wire/hello.h"

#define LINK_SPANS_MAX 64

struct link;
struct link_listener;

struct link_calls {
    /* The handshake is over: frames may be sent. peer is valid until the link is closed. */
    void (*on_ready)(void *ctx, const struct hello *peer);
    void (*on_frame)(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes);
    /* The connection is over, error_text() says why, and the link is already gone: do not close it.
     * ERR_CLOSED (peer ended), ERR_TIMEOUT (connect, handshake or idle deadline), ERR_REFUSED (by a
     * side, in the handshake), ERR_BAD_INPUT (not our protocol; a sealed record that does not
     * open), ERR_IO. */
    void (*on_close)(void *ctx, status cause);
    /* After bytes were written and at most half of pending_bytes_max is left. May be NULL. */
    void (*on_drain)(void *ctx);
    /* A frame with bulk begins: say where its bulk_bytes go, in up to LINK_SPANS_MAX spans whose
     * sum is bulk_bytes; return their count, or 0 to have the bytes thrown away. on_landed follows
     * when the last byte is there (thrown away or not). NULL when bulk_bytes_max is 0. */
    uint32_t (*on_bulk)(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes,
                        uint32_t bulk_bytes, struct iovec spans[LINK_SPANS_MAX]);
    void (*on_landed)(void *ctx);
};

struct link_limits {
    uint32_t payload_bytes_max; /* largest payload taken or sent once ready */
    uint32_t bulk_bytes_max;    /* largest bulk taken; 0: frames with bulk are refused */
    size_t pending_bytes_max;   /* sent by us, not yet taken by the system */
    uint32_t handshake_ms;      /* 0: 5000 */
    uint32_t idle_ms; /* nothing received for so long, or a payload that is longer late (at
                         64 KiB/s): ERR_TIMEOUT. 0: no limit */
    uint32_t unacknowledged_ms; /* the peer's host took nothing of what was sent for so long: the
                                   link ends. 0: the system's limit, a quarter of an hour */
};

struct link_setup {
    const struct link_calls *calls; /* lives as long as the link */
    void *ctx;
    const struct hello *hello;     /* ours; copied */
    uint64_t peer_incarnation;     /* refuse any other peer; 0: any */
    const struct cluster_key *key; /* both must prove it; NULL: none. Lives as long as the link */
    struct link_limits limits;
};

/* Take over fd, a connected socket that was accepted (owned even when this fails). */
status link_open(struct loop *loop, int fd, const struct link_setup *setup, struct link **link_out);

/* Begin to connect; on_ready or on_close follows within timeout_ms, which covers the handshake.
 * Errors: ERR_IO (refused at once), ERR_NO_MEMORY. No call is made when it fails. */
status link_connect(struct loop *loop, const struct address *address, uint32_t timeout_ms,
                    const struct link_setup *setup, struct link **link_out);

/* What is queued is offered to the system once more, then the connection ends. NULL is allowed. */
void link_close(struct link *link);

/* From now on payloads up to this are taken and sent: once more is known of the peer. */
void link_limit_payload(struct link *link, uint32_t payload_bytes_max);

/* Queue a frame; payload is copied. Errors: ERR_FULL (the peer does not read; nothing was queued),
 * ERR_CLOSED (not ready, or ending: on_close follows from the loop), ERR_NO_MEMORY.
 * payload_bytes above the limit is an assertion. */
status link_send(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes);

/* The same with a descriptor (Unix sockets only: assertion); fd is duplicated. */
status link_send_fd(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                    int fd);

/* The same with bulk: the spans' memory must stay until link_bulk_sent passes what it was before
 * this call plus their bytes, or the link is gone. At most LINK_SPANS_MAX spans. */
status link_send_bulk(struct link *link, uint16_t type, const void *payload, uint32_t payload_bytes,
                      const struct iovec *spans, uint32_t span_count);
uint64_t link_bulk_queued(const struct link *link); /* bulk bytes ever queued */
uint64_t link_bulk_sent(const struct link *link);   /* of them, taken by the system */

/* Inside on_frame: the descriptor that came with this frame, now the caller's; -1 when none came.
 * One not taken is closed. */
int link_take_fd(struct link *link);

/* The rest of the bulk that is arriving is thrown away: no span is written to after this call. */
void link_discard_bulk(struct link *link);

size_t link_pending_bytes(const struct link *link);
bool link_is_ready(const struct link *link);
bool link_is_unix(const struct link *link);

/* A listening socket; on_accept owns each fd (to link_open, or to close). When the process has no
 * descriptors left it pauses instead of spinning. Errors: as address_listen. */
status link_listen(struct loop *loop, const struct address *address,
                   void (*on_accept)(void *ctx, int fd), void *ctx,
                   struct link_listener **listener_out);
/* The bound address, with the port that was given for port 0. */
const struct address *link_listener_address(const struct link_listener *listener);
/* Removes a Unix socket's file too. NULL is allowed. */
void link_listener_close(struct link_listener *listener);

#endif
