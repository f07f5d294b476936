/* base/topology.h - the memory nodes of a host (NUMA): which cores are near which memory, how far
 * nodes are from each other, and what that means for where cores, pools and weights go.
 *
 *     node 0: cores 0-15, 64 GiB  ---- distance 21 ----  node 1: cores 16-31, 64 GiB
 *                                                        (itself: 10)
 *
 * All choices are functions of a description that was read before; nothing here changes the system.
 * A set of nodes is a mask, bit number = the kernel's number of the node. Nodes from number 64 on
 * are left out: cores of theirs count as being near no memory.
 *
 * Threads: any. Memory: the caller's. Source: the kernel's Documentation/ABI/stable/
 * sysfs-devices-node; proc(5) Mems_allowed_list.
 */
#ifndef BASE_TOPOLOGY_H
#define BASE_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpus.h"
#include "base/status.h"

#define TOPOLOGY_NODES_MAX 64u
#define TOPOLOGY_NO_NODE 255u

struct topology_node {
    uint32_t id;
    uint32_t cpu_count;
    bool has_memory;     /* that this process may use */
    uint64_t free_bytes; /* with page cache that was read once and can be dropped */
    uint8_t distances[TOPOLOGY_NODES_MAX]; /* to nodes[i]; 10 is itself, 20 twice as slow */
};

struct topology {
    uint32_t node_count;
    struct topology_node nodes[TOPOLOGY_NODES_MAX]; /* by ascending id */
    uint8_t node_of[CPUS_MAX];                      /* core -> index, or TOPOLOGY_NO_NODE */
};

/* folder: /sys/devices/system/node, or one like it. Errors: ERR_IO (no such files), ERR_BAD_INPUT
 * (they say something else). */
status topology_read(const char *folder, struct topology *topology_out);

/* This host, less the memory that this process may not use. One node with all cores where the
 * kernel tells nothing. */
void topology_host(struct topology *topology_out);

/* Where threads on these cores have their memory: the nodes of the cores, and for a node without
 * memory the nearest that has some. 0: nothing is known of them. */
uint64_t topology_memory_of(const struct topology *topology, const struct cpus *cpus);

/* Of all cores of the host. */
uint64_t topology_memory_of_all(const struct topology *topology);

/* Part number part of cpus, cut into parts so that no part lies on two nodes unless there are more
 * nodes than parts, which then get whole nodes. Parts are dealt out node by node: what comes one
 * after another (workers of a role) is spread. With one node this is cpus_share. Never empty. */
void topology_share(const struct topology *topology, const struct cpus *cpus, uint32_t part,
                    uint32_t parts, struct cpus *share_out);

/* How weights that all workers read lie on nodes. */
enum topology_weights {
    TOPOLOGY_AUTO,       /* what topology_choose says */
    TOPOLOGY_OFF,        /* wherever the kernel puts them; pools too */
    TOPOLOGY_LOCAL,      /* one copy, near the worker that makes or reads it first */
    TOPOLOGY_INTERLEAVE, /* one copy, page by page over the nodes */
    TOPOLOGY_COPY,       /* a copy on each node */
};
#define TOPOLOGY_WEIGHTS_WORDS "auto|off|local|interleave|copy"

/* What is best for weight_bytes read by workers on all of nodes at once; never AUTO or OFF. With n
 * nodes at a mean distance d each reads (n-1)/n of an interleaved copy over a link that is taken to
 * have 10/d of a memory's rate. While that takes no longer than reading all from the own memory
 * would, one copy is enough; else each node gets one, if it takes at most half of what is free
 * there. why_out: that sum, in words. */
enum topology_weights topology_choose(const struct topology *topology, uint64_t nodes,
                                      uint64_t weight_bytes, char *why_out, size_t why_bytes);

uint32_t topology_count(uint64_t nodes);

#endif
