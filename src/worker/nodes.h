/* worker/nodes.h - on which memory nodes of its host a worker has its pool and its weights.
 *
 *     --numa       pool, swap, buffers       packed weights
 *     off          wherever                  wherever
 *     local        the nodes of its cores    the same file for all; what this worker has read into
 *                                            the page cache: there too
 *     interleave   the nodes of its cores    the same file for all, over all nodes of the host
 *     copy         the nodes of its cores    on one node: a file of that node; on several: as
 *                                            interleave
 *     auto         what topology_choose says for all nodes of the host
 *
 * Threads: any. Memory: the caller's.
 */
#ifndef WORKER_NODES_H
#define WORKER_NODES_H

#include <stdint.h>

#include "base/topology.h"

#define WORKER_NODES_SHARED (-1)

struct worker_nodes {
    uint64_t own;        /* of pool, swap and buffers; 0: wherever */
    uint64_t weights;    /* of what is made and read of the packed file; 0: wherever */
    int32_t copy;        /* the node whose copy it reads, or WORKER_NODES_SHARED */
    uint64_t free_bytes; /* on its own nodes; UINT64_MAX: not known */
    uint32_t host_count; /* nodes with cores and memory */
    char why[256];       /* what topology_choose said, or "--numa" */
};

/* numa: of enum topology_weights. */
void worker_nodes_choose(const struct topology *topology, uint32_t numa, const struct cpus *cpus,
                         uint64_t weight_bytes, struct worker_nodes *nodes_out);

/* Say so in the log, and have the calling thread, and those that it starts, read and make the
 * weights there. need_bytes: of pool and buffers. What the system refuses is logged and left. */
void worker_nodes_enter(const struct worker_nodes *nodes, uint64_t need_bytes);

#endif
