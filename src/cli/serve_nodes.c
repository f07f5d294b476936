#include "cli/serve_nodes.h"

#include "base/log.h"
#include "base/options.h"

void serve_nodes_share(const struct serve_nodes *nodes, uint32_t numa, uint32_t part,
                       struct cpus *share_out)
{
    if (numa == TOPOLOGY_OFF)
        cpus_share(&nodes->cpus, part, nodes->workers, share_out);
    else
        topology_share(&nodes->topology, &nodes->cpus, part, nodes->workers, share_out);
}

/* The nodes of all workers; copies_out: nodes with workers that lie on no other, and one more for
 * those that do. */
static uint64_t nodes_used(const struct serve_nodes *nodes, uint32_t *copies_out)
{
    uint64_t used = 0, alone = 0;
    bool across = false;
    for (uint32_t part = 0; part < nodes->workers; part++) {
        struct cpus share;
        topology_share(&nodes->topology, &nodes->cpus, part, nodes->workers, &share);
        uint64_t own = topology_memory_of(&nodes->topology, &share);
        used |= own;
        if (topology_count(own) == 1)
            alone |= own;
        else
            across = true;
    }
    *copies_out = topology_count(alone) + (across ? 1 : 0);
    return used;
}

uint32_t serve_nodes_choose(const struct serve_nodes *nodes, uint64_t weight_bytes,
                            uint64_t other_bytes, uint64_t available_bytes, uint32_t *numa)
{
    char why[256];
    uint32_t copies;
    int bytes;
    uint64_t used = nodes_used(nodes, &copies);
    if (*numa == TOPOLOGY_AUTO) {
        uint64_t room = available_bytes > other_bytes ? available_bytes - other_bytes : 0;
        *numa = topology_choose(&nodes->topology, used, weight_bytes, why, sizeof(why));
        if (*numa == TOPOLOGY_COPY && weight_bytes > room / copies)
            *numa = TOPOLOGY_INTERLEAVE;
        const char *word = option_word(TOPOLOGY_WEIGHTS_WORDS, *numa, &bytes);
        if (topology_count(used) > 1)
            log_info("memory nodes", "weights=%.*s why=\"%s\"", bytes, word, why);
    }
    return *numa == TOPOLOGY_COPY && copies > 0 ? copies : 1;
}
