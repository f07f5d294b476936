/* wire/frame.h - how a message lies on a stream between two baton processes.
 *
 *     0            4      6       8            12         16
 *     +------------+------+-------+------------+----------+---------+---------+
 *     |payload u32 |type  |flags  |bulk u32    |number u32| payload |  bulk   |
 *     |bytes       |u16   |u16    |bytes       |          |         |         |
 *     +------------+------+-------+------------+----------+---------+---------+
 *
 * Everything is little-endian. The payload is a small message, decoded as a whole; bulk is raw
 * bytes that land where the receiver says, without being copied in between. number counts the
 * frames of one direction from 0: a stream that lost its place is noticed at the next header. Both
 * lengths are checked against the limits of the connection's phase before anything is allocated.
 *
 * Threads: any.
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include <stdint.h>

#include "base/status.h"

#define FRAME_HEADER_BYTES 16

/* Of the whole protocol: raised by any change of a frame's or message's form. Other versions are
 * refused in the handshake. */
#define WIRE_VERSION 15u

/* Who owns which numbers. A type is known by the link's user; an unknown one is ERR_BAD_INPUT. */
enum frame_type {
    FRAME_LINK_FIRST = 0x0000,     /* the handshake: hello.h; never seen by a link's user */
    FRAME_CONTROL_FIRST = 0x0100,  /* router and worker */
    FRAME_TRANSFER_FIRST = 0x0200, /* offer.h */
    FRAME_STORE_FIRST = 0x0300,
};

enum frame_flags {
    FRAME_HAS_FD = 1, /* a descriptor travels with the first byte (Unix sockets) */
    FRAME_FLAGS_KNOWN = FRAME_HAS_FD,
};

struct frame_header {
    uint32_t payload_bytes;
    uint16_t type;
    uint16_t flags;
    uint32_t bulk_bytes;
    uint32_t number;
};

void frame_header_write(const struct frame_header *header, uint8_t to[FRAME_HEADER_BYTES]);

/* Reads a header and checks it against the limits and the number that must come now.
 * Errors: ERR_BAD_INPUT naming the field, what was expected and what was found. */
status frame_header_read(const uint8_t from[FRAME_HEADER_BYTES], uint32_t payload_bytes_max,
                         uint32_t bulk_bytes_max, uint32_t number, struct frame_header *header_out);

#endif
