/* wire/store.h - what is said between a store and those who use it, beside the transfers.
 *
 *     worker or operator                          store
 *        | -- LAYOUT (workers) -------------------> |  what a block is, where our transfer is
 *        | <------------------------------ WELCOME  |  the same of the store; or why not
 *        | -- ADD number, lease, blocks ----------> |
 *        | <------------------ WANT number, range   |  it lacks these, and subscribes to the lease
 *        |       opens the lease, offers the range  |
 *        | <-------------------------------- ADDED  |  kept; at once when it lacked none
 *        | -- FIND number, keys ------------------> |
 *        | <-------------------------------- FOUND  |  leading keys that are there
 *        | -- GET number, lease, keys ------------> |
 *        | <---------------------------------- GOT  |  so many are pinned and offered under lease
 *        | -- LEAVE number -----------------------> |  the GET is given up before GOT came
 *        | -- DELETE, STAT, LIST -----------------> |
 *        | <---------------- DELETED, STATS, KEYS   |
 *
 * number is the asker's and comes back with the answer. Keys are 16 bytes each; a record of a block
 * is its key, its parent's and a byte that says whether it is a chain's first.
 *
 * Threads: any. Memory: decoded arrays point into the payload.
 */
#ifndef WIRE_STORE_H
#define WIRE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/status.h"
#include "wire/frame.h"
#include "wire/offer.h"

#define WIRE_STORE_KEYS_MAX 65536u /* of one message */
#define WIRE_STORE_LAYERS_MAX 4096u
#define WIRE_STORE_KEY_BYTES 16u
#define WIRE_STORE_RECORD_BYTES 33u
#define WIRE_STORE_TEXT_BYTES 256
#define WIRE_STORE_PAYLOAD_BYTES_MAX (WIRE_STORE_KEYS_MAX * WIRE_STORE_RECORD_BYTES + 4096u)

struct wire_frame;

enum wire_store_frame {
    FRAME_STORE_LAYOUT = FRAME_STORE_FIRST,
    FRAME_STORE_WELCOME,
    FRAME_STORE_ADD,
    FRAME_STORE_WANT,
    FRAME_STORE_ADDED,
    FRAME_STORE_FIND,
    FRAME_STORE_FOUND,
    FRAME_STORE_GET,
    FRAME_STORE_GOT,
    FRAME_STORE_DELETE,
    FRAME_STORE_DELETED,
    FRAME_STORE_STAT,
    FRAME_STORE_STATS,
    FRAME_STORE_LIST,
    FRAME_STORE_KEYS,
    FRAME_STORE_LEAVE,
};

/* LAYOUT and WELCOME. */
struct wire_store_layout {
    int32_t status; /* WELCOME: OK, or why the store will not serve; text says more */
    uint64_t block_bytes;
    uint32_t block_count; /* WELCOME: of the memory tier */
    uint32_t layer_count; /* 0: not known yet */
    char transfer_unix[ADDRESS_TEXT_BYTES], transfer_tcp[ADDRESS_TEXT_BYTES]; /* "": none */
    char text[WIRE_STORE_TEXT_BYTES];
    const uint8_t *layers; /* [layer_count] offset u64, bytes u64: wire_store_layer */
};

/* ADD, FIND, GET, and KEYS; what a message does not need is 0. */
struct wire_store_ask {
    uint64_t number;
    struct lease_id lease;
    uint32_t epoch;
    uint32_t time_ms;     /* ADD: expiry; GET: deadline */
    uint32_t count;       /* 1 .. WIRE_STORE_KEYS_MAX; of KEYS, from 0 */
    const uint8_t *items; /* [count] keys, or of ADD records */
};

/* WANT: blocks first .. first + count of the ADD. */
struct wire_store_want {
    uint64_t number;
    uint32_t first, count;
};

/* LEAVE: what the GET of this number pinned is not wanted any more; one that is over is no error.
 */
struct wire_store_leave {
    uint64_t number;
};

/* ADDED, FOUND, GOT, DELETED. */
struct wire_store_answer {
    uint64_t number;
    int32_t status;
    uint32_t count;
    char text[WIRE_STORE_TEXT_BYTES];
};

enum wire_store_scope {
    WIRE_STORE_ONE = 1, /* key */
    WIRE_STORE_TREE,    /* key and everything that continues it */
    WIRE_STORE_MODEL,   /* all of the model with this fingerprint */
    WIRE_STORE_ALL,
};

/* LIST uses number, key (from the lease of the answer before, or zeros) and a scope of its own. */
enum wire_store_list {
    WIRE_STORE_LIST_KEYS = 0,
    WIRE_STORE_LIST_RECORDS, /* KEYS has records then */
};

/* DELETE. */
struct wire_store_delete {
    uint64_t number;
    uint32_t scope;
    uint8_t key[WIRE_STORE_KEY_BYTES];
    uint8_t fingerprint[32];
};

/* STATS. All fields are uint64_t; they travel in this order. */
struct wire_store_stats {
    uint64_t number;
    uint64_t fingerprint[4]; /* of the model, its bytes in order; zeros: not known yet */
    uint64_t block_bytes, memory_blocks, memory_used, memory_pinned;
    uint64_t disk_bytes, disk_bytes_max, disk_blocks, disk_up;
    uint64_t keys, links, leases, adding;
    uint64_t asked_keys, hits_memory, hits_disk, misses;
    uint64_t added_blocks, duplicate_blocks, refused_blocks;
    uint64_t sent_blocks, sent_bytes, received_bytes;
    uint64_t evicted_blocks, expired_blocks, deleted_blocks;
    uint64_t disk_written_blocks, disk_dropped_blocks, disk_read_blocks;
    uint64_t disk_evicted_blocks, disk_compacted_blocks, disk_corrupt_blocks, disk_failures;
    uint64_t checksum_failures, refused_links;
};

/* Writers append to frame (wire/control.h). Readers refuse what is out of range, cut short or
 * longer than it should be. Errors: ERR_BAD_INPUT. */
void wire_store_layout_encode(struct wire_frame *frame, const struct wire_store_layout *message);
status wire_store_layout_decode(const uint8_t *data, size_t bytes,
                                struct wire_store_layout *message_out);
void wire_store_layer(const struct wire_store_layout *message, uint32_t layer, uint64_t *offset_out,
                      uint64_t *bytes_out);

/* item_bytes: WIRE_STORE_KEY_BYTES or WIRE_STORE_RECORD_BYTES. */
void wire_store_ask_encode(struct wire_frame *frame, const struct wire_store_ask *message,
                           uint32_t item_bytes);
status wire_store_ask_decode(const uint8_t *data, size_t bytes, uint32_t item_bytes,
                             struct wire_store_ask *message_out);

void wire_store_want_encode(struct wire_frame *frame, const struct wire_store_want *message);
status wire_store_want_decode(const uint8_t *data, size_t bytes,
                              struct wire_store_want *message_out);
void wire_store_leave_encode(struct wire_frame *frame, const struct wire_store_leave *message);
status wire_store_leave_decode(const uint8_t *data, size_t bytes,
                               struct wire_store_leave *message_out);
void wire_store_answer_encode(struct wire_frame *frame, const struct wire_store_answer *message);
status wire_store_answer_decode(const uint8_t *data, size_t bytes,
                                struct wire_store_answer *message_out);
void wire_store_delete_encode(struct wire_frame *frame, const struct wire_store_delete *message);
status wire_store_delete_decode(const uint8_t *data, size_t bytes,
                                struct wire_store_delete *message_out);
void wire_store_stats_encode(struct wire_frame *frame, const struct wire_store_stats *message);
status wire_store_stats_decode(const uint8_t *data, size_t bytes,
                               struct wire_store_stats *message_out);

#endif
