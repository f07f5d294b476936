/* store/disk.h - the disk tier of a store: segments of blocks that outlive the process.
 *
 *     DIR/lock            held by the store that uses the folder
 *     DIR/segment-N       | head: what the blocks are | record 0 | record 1 | ...      4 KiB steps
 *     record              | state, key, parent, checksums of the layers, sum | block |
 *
 * Records of a segment have one size, so one that is damaged hides none that follow it. They are
 * only appended; the one word that changes in place is a record's state, when its block is
 * forgotten. At open the heads of all records are read and summed: what was cut off in the middle
 * (kill -9, power) is thrown away, and blocks are checked against their layers' checksums whenever
 * they are read. Segments are flushed when they are full and once a second while they grow.
 *
 * The size is bounded: beyond it, a segment that is mostly forgotten has the rest copied to the
 * end; otherwise the oldest one is dropped, with all that is in it.
 *
 * A disk that is full or broken is reported once by name, and not written to for a while; what was
 * written before can be read.
 *
 * Threads: a thread of its own; calls from one thread. None waits for the disk but open and close.
 * Memory:  blocks that are written or read into stay untouched until the report.
 */
#ifndef STORE_DISK_H
#define STORE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/status.h"
#include "kv/block_key.h"
#include "transfer/transfer.h"
#include "wire/checksum.h"
#include "wire/hello.h"

#define DISK_VERSION 1u
#define DISK_QUEUE_MAX 256 /* writes that wait */
#define DISK_BLOCK_BYTES_MAX (1ull << 30)
#define DISK_TEXT_BYTES 256

struct disk;

struct disk_place {
    uint32_t segment, record;
};

/* What blocks are: of a folder, and of whoever uses it. */
struct disk_shape {
    struct hello hello; /* fingerprint, layout_hash, numerics_class, kv_dtype, block_tokens */
    uint64_t block_bytes;
    uint32_t layer_count;
    struct transfer_slice *layers;
};

struct disk_options {
    const char *folder; /* made if it is not there */
    uint64_t bytes_max;
    const struct disk_shape *shape;
    struct mailbox *reports;
    uint64_t segment_bytes; /* 0: chosen from bytes_max */
    uint32_t retry_ms;      /* after a failed write; 0: 10000 */
};

struct disk_record {
    struct block_key key, parent;
    bool is_first;
    const struct checksum *checksums; /* [layer_count] */
};

enum disk_report_kind {
    DISK_WRITTEN = 0x7600, /* place; or why not */
    DISK_READ,    /* OK: the block is there and matches; ERR_CORRUPT, ERR_NOT_FOUND, ERR_IO */
    DISK_MOVED,   /* key: from old_place to place */
    DISK_EVICTED, /* key: not at old_place any more */
};

struct disk_report {
    struct mail mail; /* first */
    uint64_t ticket;
    status status;
    struct block_key key;
    struct disk_place place, old_place;
    char text[DISK_TEXT_BYTES];
};

/* What the blocks of a folder are. Errors: ERR_NOT_FOUND (it has no segments, or is not there),
 * ERR_REFUSED (another version), ERR_CORRUPT, ERR_IO. layers is malloc'd. */
status disk_learn(const char *folder, struct disk_shape *shape_out);

/* Reads every record's head and calls found for those that are whole. Errors: ERR_REFUSED (in use;
 * of another model or layout: named), ERR_IO, ERR_NO_MEMORY, ERR_BAD_INPUT (too small). */
status disk_open(const struct disk_options *options,
                 void (*found)(void *ctx, const struct disk_record *record,
                               struct disk_place place),
                 void *ctx, struct disk **disk_out);

/* What was accepted is written and reported first; then it is flushed. */
void disk_close(struct disk *disk);

/* Errors, without a message: ERR_FULL (the queue), ERR_IO (writing is off for now), ERR_NO_MEMORY:
 * no report follows. */
status disk_write(struct disk *disk, uint64_t ticket, const struct disk_record *record,
                  const uint8_t *block);
status disk_read(struct disk *disk, uint64_t ticket, const struct block_key *key,
                 struct disk_place place, const struct checksum *checksums, uint8_t *block);
void disk_forget(struct disk *disk, const struct block_key *key, struct disk_place place);

struct disk_counters {
    uint64_t bytes, bytes_max; /* of files now */
    uint64_t records;          /* whole and not forgotten */
    uint64_t written, dropped, read, evicted, compacted, corrupt, failures;
    bool up; /* it can be written to */
};

void disk_count(const struct disk *disk, struct disk_counters *counters_out); /* any thread */

#endif
