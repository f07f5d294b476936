/* backend/cpu/packed_file.h - packed weights on a host once: a file that all workers of a model
 * map.
 *
 *     header 4096   magic, version, key, table offset, tensor count, file bytes
 *     tensors       each at a multiple of 4096, as pack.h lays them out
 *     table         for each tensor its type and the number of that layout, rows, columns, offset
 *
 * The first worker that finds no file makes it: it holds a lock on the model file meanwhile, writes
 * path + ".part" and renames it when it is complete, so that nobody ever maps half a file and one
 * that dies leaves nothing that is taken for whole. Others wait for the lock and then map what it
 * made. A file of another version or key, or one that others could write to, is made anew. Its
 * tensors must come in the order in which they were packed; one that does not fit the table is
 * packed into private memory, as are all when there is no room on the disk.
 *
 * Threads: the compute thread; packing writes what take gave from any.
 * Memory:  mapped at open, read-only once done, unmapped at close.
 */
#ifndef BACKEND_CPU_PACKED_FILE_H
#define BACKEND_CPU_PACKED_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/pack.h"
#include "base/status.h"

struct packed_file;

/* Errors: ERR_IO (the file cannot be read, made or locked), ERR_TIMEOUT (another process holds the
 * lock for too long), ERR_NO_MEMORY. */
status packed_file_open(const struct backend_cpu_weights *weights, struct packed_file **file_out);

/* The place of the next tensor. *filled_out: it is packed already; else the caller packs it there.
 * NULL: not in this file, take private memory. */
uint8_t *packed_file_take(struct packed_file *file, const struct packed *packed, bool *filled_out);

/* All tensors are taken and packed: let others have it. Errors: ERR_IO; what was taken stays
 * valid. */
status packed_file_done(struct packed_file *file);
void packed_file_close(struct packed_file *file);

#endif
