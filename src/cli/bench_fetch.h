/* cli/bench_fetch.h - blocks in another process' GPU, fetched by the calls that a worker makes.
 *
 *     holder (a child)                       this process
 *     a pool of 2 GiB, its handle    --->    maps it, and fetches slices of one layer of blocks
 *     loaded: copies in itself               that lie anywhere, to anywhere in its own pool
 *
 * Threads: fetch_slices as backend/moves.h says. The holder is started before this process has met
 *          CUDA, which a child cannot inherit.
 * Memory:  fetch_holder_stop ends the child; the map is gone before its backend closes.
 */
#ifndef CLI_BENCH_FETCH_H
#define CLI_BENCH_FETCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "backend/device.h"

#define FETCH_LAYERS 32u
#define FETCH_LAYER_BYTES (64u << 10) /* keys and values of 16 tokens: 8 heads of 128, f16 */
#define FETCH_BLOCK_BYTES ((size_t)FETCH_LAYERS * FETCH_LAYER_BYTES)
#define FETCH_BLOCKS 1024u /* of the holder */

struct fetch_holder {
    pid_t pid;
    int up, down;
};

/* Where slices go to. */
struct fetch {
    struct backend *backend;
    struct pool_map *map;
    uint32_t blocks; /* of FETCH_BLOCK_BYTES, in its pool */
    uint64_t dice;
};

/* Errors: ERR_IO. A holder that fails says so on stderr, and fetch_map fails. */
status fetch_holder_start(const char *device, const char *plugin, struct fetch_holder *holder_out);
void fetch_holder_stop(struct fetch_holder *holder);
/* Copies on its GPU without a pause, or not. */
status fetch_holder_load(const struct fetch_holder *holder, bool loaded);

/* A backend with a pool of FETCH_BLOCKS and no weights. */
status fetch_open(const char *device, const char *plugin, struct device *device_out,
                  struct fetch *fetch_out);
/* Into a backend whose pool has so many bytes. */
status fetch_map(const struct fetch_holder *holder, struct backend *backend, uint64_t pool_bytes,
                 struct fetch *fetch_out);
void fetch_unmap(struct fetch *fetch);

/* One layer of so many blocks, times over, some at once; returns when all are there. Errors:
 * ERR_TIMEOUT (10 s), ERR_IO. */
status fetch_slices(struct fetch *fetch, uint32_t blocks, uint32_t times);

#endif
