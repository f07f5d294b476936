/* store/keeper.h - the process `baton store`: keeps blocks for workers, in memory and on disk.
 *
 *     loop thread       links, the index (memory.h), adds and gets under way
 *     transfer thread   moves blocks between workers' pools and the memory tier
 *     disk thread       writes what was added, reads what is asked for (disk.h)
 *     warm thread       makes pages of the memory tier before they are needed (warm.h)
 *
 * One store serves one model and layout: those of the first worker that connects, or of its disk
 * folder. Anyone else is refused by name. A block that has landed and matches its checksums is
 * published, and written to disk in the background. A get pins what it gives until the receiver has
 * acknowledged it.
 *
 * Threads: the loop's. Memory: options are copied.
 */
#ifndef STORE_KEEPER_H
#define STORE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"
#include "wire/store.h"

struct keeper;

struct keeper_options {
    const char *listen;       /* HOST:PORT or unix:PATH */
    const char *transfer;     /* Unix socket where workers of this host fetch; NULL: made up */
    const char *transfer_tcp; /* where workers of other hosts fetch; NULL: not at all */
    const char *transfer_advertise; /* what workers are told; NULL: the bound address */
    const char *carrier;            /* "auto", "shm", "tcp", "rdma" */
    const char *rdma_transports;    /* NULL: those of RDMA; others to test */
    const char *disk;               /* folder; NULL: memory only */
    const char *log_level;
    const char *cluster_key; /* file; NULL: none */
    uint64_t memory_bytes, disk_bytes;
    uint64_t silence_ms;   /* a worker's connection for blocks that is silent so long is closed, and
                              its memory let go of; 0: as transfer.h says */
    uint32_t metrics_port; /* of 127.0.0.1; 0: none */
    bool trust_network;    /* without a key: other hosts may connect, unauthenticated */
};

/* Listen; the pool is made when the layout is known. Errors: ERR_BAD_INPUT, ERR_REFUSED (an address
 * others can reach, without trust_network; a disk folder of another version), ERR_IO. */
status keeper_open(struct loop *loop, const struct keeper_options *options,
                   struct keeper **keeper_out);
void keeper_close(struct keeper *keeper);

/* The bound address. */
const struct address *keeper_address(const struct keeper *keeper);

void keeper_stats(const struct keeper *keeper, struct wire_store_stats *stats_out);

#endif
