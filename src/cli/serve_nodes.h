/* cli/serve_nodes.h - the memory nodes of the host that serve starts workers on: which cores each
 * worker gets, and how many copies of the weights that makes.
 *
 * Threads: the caller's. Memory: the caller's.
 */
#ifndef CLI_SERVE_NODES_H
#define CLI_SERVE_NODES_H

#include <stdint.h>

#include "base/topology.h"

struct serve_nodes {
    struct topology topology;
    struct cpus cpus; /* to share out among the workers */
    uint32_t workers;
};

/* Worker number part's cores; numa: of enum topology_weights. */
void serve_nodes_share(const struct serve_nodes *nodes, uint32_t numa, uint32_t part,
                       struct cpus *share_out);

/* Choose for *numa, if it is TOPOLOGY_AUTO, and say so in the log where there is a choice; other
 * words stay. other_bytes: what the workers take beside the weights. Returns the copies of the
 * weights that there will be. */
uint32_t serve_nodes_choose(const struct serve_nodes *nodes, uint64_t weight_bytes,
                            uint64_t other_bytes, uint64_t available_bytes, uint32_t *numa);

#endif
