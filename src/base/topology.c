#include "base/topology.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define PATH_BYTES 512
#define LINE_BYTES 8192 /* of a list of cores */
#define DISTANCE_SELF 10u
#define DISTANCE_UNKNOWN 20u
#define GIB (1024.0 * 1024.0 * 1024.0)

/* ---- reading ---- */

static FILE *file_open(const char *folder, uint32_t node, const char *name)
{
    char path[PATH_BYTES];
    if (name == NULL)
        snprintf(path, sizeof(path), "%s/online", folder);
    else
        snprintf(path, sizeof(path), "%s/node%u/%s", folder, node, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        (void)error_set(ERR_IO, "cannot read %s: %s", path, strerror(errno));
    return file;
}

/* The first line, and the numbers listed in it. */
static status list_read(const char *folder, uint32_t node, const char *name, struct cpus *list_out)
{
    char line[LINE_BYTES] = "";
    FILE *file = file_open(folder, node, name);
    if (file == NULL)
        return ERR_IO;
    if (fgets(line, sizeof(line), file) == NULL)
        line[0] = '\0';
    fclose(file);
    line[strcspn(line, "\n")] = '\0';
    return cpus_list(line, list_out);
}

/* "Node 0 MemFree:   123 kB"; false when the line is another. */
static bool meminfo_field(const char *line, const char *word, uint64_t *bytes_out)
{
    const char *at = strstr(line, word);
    if (at == NULL)
        return false;
    *bytes_out = strtoull(at + strlen(word), NULL, 10) * 1024;
    return true;
}

static status memory_read(const char *folder, struct topology_node *node)
{
    char line[LINE_BYTES];
    uint64_t total = 0, free_bytes = 0, inactive = 0;
    bool found = false;
    FILE *file = file_open(folder, node->id, "meminfo");
    if (file == NULL)
        return ERR_IO;
    while (fgets(line, sizeof(line), file) != NULL) {
        found = meminfo_field(line, " MemTotal:", &total) || found;
        (void)meminfo_field(line, " MemFree:", &free_bytes);
        (void)meminfo_field(line, " Inactive(file):", &inactive);
    }
    fclose(file);
    if (!found)
        return error_set(ERR_BAD_INPUT, "%s/node%u/meminfo: expected a line with MemTotal", folder,
                         node->id);
    node->has_memory = total > 0;
    node->free_bytes = free_bytes + inactive;
    return OK;
}

/* One number for each node that is online, in their order. */
static status distances_read(const char *folder, uint32_t online_count, struct topology_node *node,
                             uint32_t index)
{
    for (uint32_t i = 0; i < TOPOLOGY_NODES_MAX; i++)
        node->distances[i] = i == index ? DISTANCE_SELF : DISTANCE_UNKNOWN;
    FILE *file = file_open(folder, node->id, "distance");
    if (file == NULL)
        return ERR_IO;
    status st = OK;
    for (uint32_t i = 0; st == OK && i < online_count && i < TOPOLOGY_NODES_MAX; i++) {
        unsigned distance;
        if (fscanf(file, "%3u", &distance) != 1 || distance < DISTANCE_SELF || distance > 255)
            st = error_set(ERR_BAD_INPUT, "%s/node%u/distance: expected %u numbers from 10 to 255",
                           folder, node->id, online_count);
        else
            node->distances[i] = (uint8_t)distance;
    }
    fclose(file);
    return st;
}

static status node_read(const char *folder, uint32_t online_count, struct topology *topology)
{
    uint32_t index = topology->node_count - 1;
    struct topology_node *node = &topology->nodes[index];
    struct cpus cpus;
    status st = list_read(folder, node->id, "cpulist", &cpus);
    if (st == OK)
        st = memory_read(folder, node);
    if (st == OK)
        st = distances_read(folder, online_count, node, index);
    if (st != OK)
        return st;
    node->cpu_count = cpus.count;
    for (uint32_t i = 0; i < cpus.count; i++)
        topology->node_of[cpus.ids[i]] = (uint8_t)index;
    return OK;
}

status topology_read(const char *folder, struct topology *topology_out)
{
    struct cpus online;
    struct topology topology = {.node_count = 0};
    memset(topology.node_of, TOPOLOGY_NO_NODE, sizeof(topology.node_of));
    status st = list_read(folder, 0, NULL, &online);
    for (uint32_t i = 0; st == OK && i < online.count; i++) {
        if (online.ids[i] >= TOPOLOGY_NODES_MAX)
            break;
        topology.nodes[topology.node_count++].id = online.ids[i];
        st = node_read(folder, online.count, &topology);
    }
    if (st == OK && topology.node_count == 0)
        st = error_set(ERR_BAD_INPUT, "%s/online: expected a list of nodes below %u", folder,
                       TOPOLOGY_NODES_MAX);
    if (st == OK)
        *topology_out = topology;
    return st;
}

/* All nodes where it does not say. */
static uint64_t memory_allowed(void)
{
    char line[LINE_BYTES];
    struct cpus list;
    uint64_t nodes = UINT64_MAX;
    FILE *file = fopen("/proc/self/status", "re");
    if (file == NULL)
        return nodes;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "Mems_allowed_list:", 18) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        if (cpus_list(line + 18 + strspn(line + 18, " \t"), &list) == OK && list.count > 0) {
            nodes = 0;
            for (uint32_t i = 0; i < list.count && list.ids[i] < TOPOLOGY_NODES_MAX; i++)
                nodes |= UINT64_C(1) << list.ids[i];
        }
    }
    fclose(file);
    return nodes;
}

void topology_host(struct topology *topology_out)
{
    if (topology_read("/sys/devices/system/node", topology_out) != OK) {
        struct cpus cpus;
        cpus_allowed(&cpus);
        *topology_out = (struct topology){
            .node_count = 1,
            .nodes = {{.cpu_count = cpus.count, .has_memory = true, .distances = {DISTANCE_SELF}}}};
    }
    uint64_t allowed = memory_allowed();
    for (uint32_t i = 0; i < topology_out->node_count; i++) {
        struct topology_node *node = &topology_out->nodes[i];
        node->has_memory = node->has_memory && (allowed >> node->id & 1) != 0;
    }
}

/* ---- choosing ---- */

uint32_t topology_count(uint64_t nodes)
{
    return (uint32_t)__builtin_popcountll(nodes);
}

/* The node's own memory, or the nearest; as a mask. */
static uint64_t memory_near(const struct topology *topology, uint32_t index)
{
    uint32_t best = TOPOLOGY_NO_NODE;
    for (uint32_t i = 0; i < topology->node_count; i++) {
        const uint8_t *distances = topology->nodes[index].distances;
        if (topology->nodes[i].has_memory &&
            (best == TOPOLOGY_NO_NODE || distances[i] < distances[best]))
            best = i;
    }
    return best == TOPOLOGY_NO_NODE ? 0 : UINT64_C(1) << topology->nodes[best].id;
}

uint64_t topology_memory_of(const struct topology *topology, const struct cpus *cpus)
{
    uint64_t nodes = 0;
    for (uint32_t i = 0; i < cpus->count; i++) {
        uint32_t index = topology->node_of[cpus->ids[i]];
        if (index != TOPOLOGY_NO_NODE)
            nodes |= memory_near(topology, index);
    }
    return nodes;
}

uint64_t topology_memory_of_all(const struct topology *topology)
{
    uint64_t nodes = 0;
    for (uint32_t i = 0; i < topology->node_count; i++) {
        if (topology->nodes[i].cpu_count > 0)
            nodes |= memory_near(topology, i);
    }
    return nodes;
}

/* The cores of one node after another: those of node index go to group_of[index]. Cores near no
 * node go with the first. */
struct groups {
    uint32_t count;
    uint32_t cpu_counts[TOPOLOGY_NODES_MAX], parts[TOPOLOGY_NODES_MAX];
    uint8_t group_of[TOPOLOGY_NODES_MAX];
};

static uint32_t group_of(const struct groups *groups, const struct topology *topology, uint32_t cpu)
{
    uint32_t index = topology->node_of[cpu];
    return index == TOPOLOGY_NO_NODE ? 0 : groups->group_of[index];
}

static void groups_make(const struct topology *topology, const struct cpus *cpus,
                        struct groups *groups)
{
    uint32_t on_node[TOPOLOGY_NODES_MAX] = {0};
    *groups = (struct groups){.count = 0};
    for (uint32_t i = 0; i < cpus->count; i++) {
        uint32_t index = topology->node_of[cpus->ids[i]];
        if (index != TOPOLOGY_NO_NODE)
            on_node[index]++;
    }
    for (uint32_t i = 0; i < topology->node_count; i++) {
        if (on_node[i] > 0)
            groups->group_of[i] = (uint8_t)groups->count++;
    }
    for (uint32_t i = 0; i < cpus->count; i++)
        groups->cpu_counts[group_of(groups, topology, cpus->ids[i])]++;
}

/* How many parts each group is cut into: one, and the others where cores are the most for each. */
static void groups_cut(struct groups *groups, uint32_t parts)
{
    for (uint32_t g = 0; g < groups->count; g++)
        groups->parts[g] = 1;
    for (uint32_t left = parts - groups->count; left > 0; left--) {
        uint32_t best = 0;
        for (uint32_t g = 1; g < groups->count; g++) {
            if ((uint64_t)groups->cpu_counts[g] * groups->parts[best] >
                (uint64_t)groups->cpu_counts[best] * groups->parts[g])
                best = g;
        }
        groups->parts[best]++;
    }
}

/* Round and round over the groups that have parts left: where part comes out, and as which. */
static void groups_deal(const struct groups *groups, uint32_t part, uint32_t *group_out,
                        uint32_t *rank_out)
{
    uint32_t dealt = 0;
    for (uint32_t round = 0;; round++) {
        for (uint32_t g = 0; g < groups->count; g++) {
            if (round < groups->parts[g] && dealt++ == part) {
                *group_out = g;
                *rank_out = round;
                return;
            }
        }
    }
}

static void groups_take(const struct groups *groups, const struct topology *topology,
                        const struct cpus *cpus, uint32_t first, uint32_t end,
                        struct cpus *taken_out)
{
    taken_out->count = 0;
    for (uint32_t i = 0; i < cpus->count; i++) {
        uint32_t group = group_of(groups, topology, cpus->ids[i]);
        if (group >= first && group < end)
            taken_out->ids[taken_out->count++] = cpus->ids[i];
    }
}

void topology_share(const struct topology *topology, const struct cpus *cpus, uint32_t part,
                    uint32_t parts, struct cpus *share_out)
{
    struct groups groups;
    struct cpus near;
    groups_make(topology, cpus, &groups);
    if (groups.count <= 1) {
        cpus_share(cpus, part, parts, share_out);
    } else if (parts <= groups.count) {
        groups_take(&groups, topology, cpus, groups.count * part / parts,
                    groups.count * (part + 1) / parts, share_out);
    } else {
        uint32_t group, rank;
        groups_cut(&groups, parts);
        groups_deal(&groups, part, &group, &rank);
        groups_take(&groups, topology, cpus, group, group + 1, &near);
        cpus_share(&near, rank, groups.parts[group], share_out);
    }
}

/* Over pairs of different nodes. */
static double distance_mean(const struct topology *topology, uint64_t nodes)
{
    double sum = 0;
    uint32_t pairs = 0;
    for (uint32_t a = 0; a < topology->node_count; a++) {
        for (uint32_t b = 0; b < topology->node_count; b++) {
            if (a != b && (nodes >> topology->nodes[a].id & 1) != 0 &&
                (nodes >> topology->nodes[b].id & 1) != 0) {
                sum += topology->nodes[a].distances[b];
                pairs++;
            }
        }
    }
    return pairs > 0 ? sum / pairs : DISTANCE_SELF;
}

static uint64_t free_least(const struct topology *topology, uint64_t nodes)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < topology->node_count; i++) {
        if ((nodes >> topology->nodes[i].id & 1) != 0 && topology->nodes[i].free_bytes < least)
            least = topology->nodes[i].free_bytes;
    }
    return least;
}

enum topology_weights topology_choose(const struct topology *topology, uint64_t nodes,
                                      uint64_t weight_bytes, char *why_out, size_t why_bytes)
{
    uint32_t count = topology_count(nodes);
    if (count <= 1) {
        snprintf(why_out, why_bytes, "one node");
        return TOPOLOGY_LOCAL;
    }
    double distance = distance_mean(topology, nodes);
    double link = (count - 1.0) / count * distance / DISTANCE_SELF;
    uint64_t least = free_least(topology, nodes);
    snprintf(why_out, why_bytes,
             "%u nodes at distance %.1f: interleaved, the link takes %.2f of the time that a "
             "node's own memory takes; a copy is %.1f GiB, the fullest node has %.1f GiB free",
             count, distance, link, (double)weight_bytes / GIB, (double)least / GIB);
    return link > 1.0 && weight_bytes <= least / 2 ? TOPOLOGY_COPY : TOPOLOGY_INTERLEAVE;
}
