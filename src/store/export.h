/* store/export.h - blocks of a store in one file, to take away and to bring back.
 *
 *     FILE    | head: what the blocks are, how many | record 0 | record 1 | ...
 *
 * A segment of the disk tier (disk.h: the same head, records, sums and version) whose head counts
 * its records. It is written as FILE.part and renamed when it is whole and flushed, so a FILE is
 * whole, or was damaged later: then the record that is damaged is left out by name.
 *
 * Threads: one. Memory: the shape's layers are the caller's and outlive an export that is written;
 * one that is read has its own.
 */
#ifndef STORE_EXPORT_H
#define STORE_EXPORT_H

#include <stdint.h>

#include "base/status.h"
#include "store/disk.h"

struct export;

/* Errors: ERR_IO, ERR_NO_MEMORY, ERR_BAD_INPUT (a name that is too long). */
status export_make(const char *path, const struct disk_shape *shape, struct export **export_out);

/* block: shape->block_bytes. Errors: ERR_IO (a full disk too), ERR_FULL (2^20 blocks). */
status export_put(struct export *export, const struct block_key *key,
                  const struct block_key *parent, bool is_first, const uint8_t *block);

/* Flush and give it its name. Errors: ERR_IO. */
status export_finish(struct export *export);

/* Errors: ERR_CORRUPT (no export, cut short, or its head is damaged), ERR_REFUSED (another
 * version), ERR_IO, ERR_NO_MEMORY. */
status export_open(const char *path, struct export **export_out);

const struct disk_shape *export_shape(const struct export *export);
uint32_t export_count(const struct export *export);

/* Record i, checked; record_out->checksums is NULL. Errors: ERR_CORRUPT, ERR_IO: other records can
 * still be read. */
status export_get(struct export *export, uint32_t i, struct disk_record *record_out,
                  uint8_t *block);

/* One that was not finished is deleted. */
void export_close(struct export *export);

#endif
