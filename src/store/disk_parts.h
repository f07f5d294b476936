/* store/disk_parts.h - what the files of the disk tier share; nobody else includes it.
 *
 *     disk.c            the thread, its queue, reports and counters; which segment goes when
 *     disk_segment.c    one file: its head, its records, what is checked of them
 *     export.c          a segment that is no part of a folder, and whose head counts its records
 */
#ifndef STORE_DISK_PARTS_H
#define STORE_DISK_PARTS_H

#include "store/disk.h"

/* Sizes that follow from a shape. */
struct disk_format {
    const struct disk_shape *shape;
    uint32_t head_bytes;        /* of a segment */
    uint32_t record_head_bytes; /* up to the block */
    uint64_t record_bytes;      /* from one record to the next */
    uint32_t records_max;       /* of a segment */
    uint32_t records;           /* that the head counts; 0: it does not, as in a folder */
};

struct segment {
    struct segment *next; /* by number */
    uint32_t number;
    int fd;
    uint32_t record_count, live_count;
    bool dirty; /* not flushed */
    bool *live; /* [records_max] */
};

void disk_format_of(const struct disk_shape *shape, uint64_t segment_bytes,
                    struct disk_format *format_out);

/* A new file with a head. Errors: ERR_IO, ERR_NO_MEMORY. */
status segment_make(const struct disk_format *format, int folder_fd, uint32_t number,
                    struct segment **segment_out);

/* The same under another name than its number's. */
status segment_make_named(const struct disk_format *format, int folder_fd, const char *name,
                          uint32_t number, struct segment **segment_out);

/* Write the head again: format->records has changed. Errors: ERR_IO, ERR_NO_MEMORY. */
status segment_write_head(const struct disk_format *format, const struct segment *segment);

/* Open a file, check its head, and look at every record; the torn end is cut off. *corrupt_out:
 * records that were damaged. Errors: ERR_CORRUPT (its head), ERR_REFUSED (it is of other blocks:
 * named), ERR_IO, ERR_NO_MEMORY. */
status segment_open(const struct disk_format *format, int folder_fd, uint32_t number,
                    void (*found)(void *ctx, const struct disk_record *record,
                                  struct disk_place place),
                    void *ctx, struct segment **segment_out, uint64_t *corrupt_out);
void segment_close(struct segment *segment);
void segment_name(uint32_t number, char name[32]);

/* The shape that a file's head tells. records_out: what it counts; may be NULL. */
status segment_learn(int folder_fd, const char *name, struct disk_shape *shape_out,
                     uint32_t *records_out);

/* There is room. On failure nothing was appended. Errors: ERR_IO, ERR_NO_MEMORY. */
status segment_append(const struct disk_format *format, struct segment *segment,
                      const struct disk_record *record, const uint8_t *block, uint32_t *record_out);

/* The head of a record, checked: checksums [layer_count]. Errors: ERR_CORRUPT, ERR_IO. */
status segment_read_head(const struct disk_format *format, const struct segment *segment,
                         uint32_t record, struct disk_record *head_out, struct checksum *checksums);

/* The block, checked against checksums. */
status segment_read_block(const struct disk_format *format, const struct segment *segment,
                          uint32_t record, const struct checksum *checksums, uint8_t *block);

/* Never found again, by a later scan either. */
status segment_kill(const struct disk_format *format, struct segment *segment, uint32_t record);

#endif
