#include "worker/nodes.h"

#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/placement.h"

#define MIB (1024.0 * 1024.0)

static uint64_t free_on(const struct topology *topology, uint64_t nodes)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < topology->node_count; i++) {
        if ((nodes >> topology->nodes[i].id & 1) != 0)
            bytes += topology->nodes[i].free_bytes;
    }
    return bytes > 0 ? bytes : UINT64_MAX;
}

void worker_nodes_choose(const struct topology *topology, uint32_t numa, const struct cpus *cpus,
                         uint64_t weight_bytes, struct worker_nodes *nodes_out)
{
    uint64_t all = topology_memory_of_all(topology);
    struct worker_nodes nodes = {
        .copy = WORKER_NODES_SHARED, .host_count = topology_count(all), .free_bytes = UINT64_MAX};
    snprintf(nodes.why, sizeof(nodes.why), "--numa");
    if (numa == TOPOLOGY_AUTO)
        numa = topology_choose(topology, all, weight_bytes, nodes.why, sizeof(nodes.why));
    if (numa != TOPOLOGY_OFF) {
        nodes.own = topology_memory_of(topology, cpus);
        nodes.free_bytes = free_on(topology, nodes.own);
        nodes.weights = nodes.own;
        if (numa == TOPOLOGY_INTERLEAVE)
            nodes.weights = all;
        else if (numa == TOPOLOGY_COPY && topology_count(nodes.own) > 1)
            nodes.weights = all;
        else if (numa == TOPOLOGY_COPY && nodes.own != 0)
            nodes.copy = __builtin_ctzll(nodes.own);
    }
    *nodes_out = nodes;
}

void worker_nodes_enter(const struct worker_nodes *nodes, uint64_t need_bytes)
{
    char own[256], weights[256];
    if (nodes->own == 0)
        return;
    placement_text(nodes->own, own, sizeof(own));
    placement_text(nodes->weights, weights, sizeof(weights));
    if (placement_thread(nodes->weights) != OK) {
        log_info("memory is not placed", "reason=\"%s\"", error_text());
        return;
    }
    log_info("placement", "pool=%s weights=%s copy=%s why=\"%s\"", own, weights,
             nodes->copy == WORKER_NODES_SHARED ? "no" : "yes", nodes->why);
    if (nodes->host_count > 1 && need_bytes > nodes->free_bytes)
        log_warn("the own node is too small",
                 "need_mib=%.0f free_mib=%.0f reason=\"the rest will lie on other nodes, and be "
                 "slower; a smaller --kv-bytes fits\"",
                 (double)need_bytes / MIB, (double)nodes->free_bytes / MIB);
}
