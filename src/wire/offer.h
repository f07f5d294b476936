/* wire/offer.h - the messages of a transfer between a holder and a receiver.
 *
 *     receiver -> holder          holder -> receiver
 *     SUBSCRIBE lease, range      POOL      (Unix) the pool's read-only descriptor
 *     FETCH  offer, from, count   OFFER     number, layer, block ids, checksums
 *     ACK    all is verified      DATA      answers FETCH; bulk = the slices, one after another
 *     GIVE_UP                     COMPLETE  block count, payload, checksum of both
 *     PING                        GONE      the lease is over: why
 *     ASK_DEVICE                  PING
 *     ASK_REMOTE                  DEVICE    (Unix) what maps the pool in a device's memory, or why
 *                                           there is nothing
 *                                 REMOTE    (TCP) where the pool is, for RDMA
 *
 * Every message about a lease begins with {lease 16 bytes, epoch u32, rank u16, ranks u16}; those
 * of another epoch are dropped. Offers of a lease are numbered from 0 in the order they were made;
 * FETCH and DATA name an offer by its number, so a holder never looks at an address from a peer,
 * and can give only what it has offered under that lease. Block ids in an OFFER are the holder's
 * own and serve carriers that read its memory; the receiver checks them against the holder's pool.
 *
 * Threads: any. Memory: decoded messages point into the payload.
 */
#ifndef WIRE_OFFER_H
#define WIRE_OFFER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "wire/checksum.h"
#include "wire/frame.h"

#define LEASE_BYTES 16
#define OFFER_BLOCKS_MAX 1024u     /* in one OFFER, FETCH or DATA */
#define OFFER_INDEX_MAX (1u << 24) /* blocks of one sequence */
#define OFFER_TEXT_BYTES 256
#define OFFER_HANDLE_BYTES 128         /* backend/moves.h says what is in it */
#define REMOTE_PART_BYTES_MAX 4096u    /* of an address or a key in REMOTE */
#define OFFER_PAYLOAD_BYTES_MAX 65536u /* the opaque bytes of COMPLETE */
#define OFFER_FRAME_BYTES_MAX (OFFER_PAYLOAD_BYTES_MAX + 256u) /* any message's payload */

/* Random, per request: whoever does not know it gets nothing. */
struct lease_id {
    uint8_t bytes[LEASE_BYTES];
};

void lease_id_random(struct lease_id *lease_out);
bool lease_id_equal(const struct lease_id *x, const struct lease_id *y);

enum offer_frame {
    FRAME_SUBSCRIBE = FRAME_TRANSFER_FIRST,
    FRAME_POOL,
    FRAME_OFFER,
    FRAME_FETCH,
    FRAME_DATA,
    FRAME_COMPLETE,
    FRAME_ACK,
    FRAME_GIVE_UP,
    FRAME_GONE,
    FRAME_PING,
    FRAME_ASK_DEVICE, /* empty */
    FRAME_DEVICE,
    FRAME_ASK_REMOTE,
    FRAME_REMOTE,
};

/* What every message about a lease begins with. */
struct lease_tag {
    struct lease_id lease;
    uint32_t epoch;
    uint16_t rank, ranks;
};

struct subscribe_message {
    struct lease_tag tag;
    uint32_t first_index, block_count; /* wanted */
    uint32_t wait_ms;                  /* for the lease to be opened */
};

struct pool_message {
    uint32_t block_count;
    uint64_t block_bytes;
};

/* block_count 0: there is none, because of text. */
struct device_message {
    uint32_t block_count;
    uint64_t block_bytes;
    uint8_t handle[OFFER_HANDLE_BYTES];
    char text[OFFER_TEXT_BYTES];
};

/* Where a transport reads the pool; address_bytes 0: this holder has no such transport. What the
 * address and the key are is the transport's own. */
struct remote_message {
    uint32_t block_count;
    uint64_t block_bytes, base;
    const uint8_t *address, *key;
    uint32_t address_bytes, key_bytes;
};

struct offer_message {
    struct lease_tag tag;
    uint32_t number, layer, first_index, count;
    const uint8_t *block_ids; /* [count] u32: offer_block_id */
    const uint8_t *checksums; /* [count] CHECKSUM_BYTES: offer_checksum */
};

/* FETCH, and the head of DATA: blocks from .. from + count of that offer. */
struct fetch_message {
    struct lease_tag tag;
    uint32_t number, from, count;
};

struct complete_message {
    struct lease_tag tag;
    uint32_t block_count;
    uint32_t offer_count; /* made in all */
    const uint8_t *payload;
    uint32_t payload_bytes;
    bool whole; /* read: it is as it was written, by the checksum behind the payload */
};

/* ACK (status OK, bytes moved), GIVE_UP and GONE (status and text). */
struct end_message {
    struct lease_tag tag;
    status status;
    uint64_t bytes;
    char text[OFFER_TEXT_BYTES];
};

/* Writers return the payload's bytes; to has room for OFFER_FRAME_BYTES_MAX. */
uint32_t subscribe_write(const struct subscribe_message *message, uint8_t *to);
uint32_t pool_write(const struct pool_message *message, uint8_t *to);
uint32_t device_write(const struct device_message *message, uint8_t *to);
uint32_t remote_write(const struct remote_message *message, uint8_t *to);
uint32_t offer_write(const struct lease_tag *tag, uint32_t number, uint32_t layer,
                     uint32_t first_index, const uint32_t *block_ids,
                     const struct checksum *checksums, uint32_t count, uint8_t *to);
uint32_t fetch_write(const struct fetch_message *message, uint8_t *to);
uint32_t complete_write(const struct complete_message *message, uint8_t *to);
uint32_t end_write(const struct end_message *message, uint8_t *to);

/* Readers check every length and range that can be checked without knowing the lease: counts 1 ..
 * OFFER_BLOCKS_MAX, sums within OFFER_INDEX_MAX, no bytes left over. Errors: ERR_BAD_INPUT. */
status subscribe_read(const uint8_t *from, uint32_t bytes, struct subscribe_message *message_out);
status pool_read(const uint8_t *from, uint32_t bytes, struct pool_message *message_out);
status device_read(const uint8_t *from, uint32_t bytes, struct device_message *message_out);
status remote_read(const uint8_t *from, uint32_t bytes, struct remote_message *message_out);
status offer_read(const uint8_t *from, uint32_t bytes, struct offer_message *message_out);
status fetch_read(const uint8_t *from, uint32_t bytes, struct fetch_message *message_out);
status complete_read(const uint8_t *from, uint32_t bytes, struct complete_message *message_out);
status end_read(const uint8_t *from, uint32_t bytes, struct end_message *message_out);

uint32_t offer_block_id(const struct offer_message *message, uint32_t i);
struct checksum offer_checksum(const struct offer_message *message, uint32_t i);

#endif
