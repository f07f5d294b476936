/* Memory nodes: described machines are read as they are, cores are dealt out so that no worker lies
 * on two nodes without need, and weights are copied only where the link would be what they wait
 * for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/topology.h"
#include "worker/nodes.h"

#define GIB (UINT64_C(1) << 30)

static void machine(const char *name, struct topology *topology)
{
    char folder[512];
    snprintf(folder, sizeof(folder), TEST_DATA_DIR "/unit/base/nodes/%s", name);
    assert_int_equal(topology_read(folder, topology), OK);
}

static void all_cpus(uint32_t count, struct cpus *cpus)
{
    cpus->count = count;
    for (uint32_t i = 0; i < count; i++)
        cpus->ids[i] = i;
}

static void assert_share(const struct topology *topology, const struct cpus *cpus, uint32_t part,
                         uint32_t parts, const char *expected)
{
    struct cpus share;
    char text[256];
    topology_share(topology, cpus, part, parts, &share);
    cpus_format(&share, text, sizeof(text));
    assert_string_equal(text, expected);
}

static void test_read(void **state)
{
    (void)state;
    struct topology two;
    machine("two", &two);
    assert_int_equal(two.node_count, 2);
    assert_int_equal(two.nodes[0].id, 0);
    assert_int_equal(two.nodes[1].cpu_count, 16);
    assert_true(two.nodes[0].has_memory);
    assert_true(two.nodes[0].free_bytes == 48 * GIB); /* 40 free, 8 of page cache */
    assert_true(two.nodes[1].free_bytes == 60 * GIB);
    assert_int_equal(two.nodes[0].distances[0], 10);
    assert_int_equal(two.nodes[0].distances[1], 21);
    assert_int_equal(two.node_of[23], 0);
    assert_int_equal(two.node_of[24], 1);
    assert_int_equal(two.node_of[32], TOPOLOGY_NO_NODE);

    struct topology odd;
    machine("no-memory", &odd);
    assert_int_equal(odd.node_count, 3);
    assert_int_equal(odd.nodes[2].id, 8);
    assert_int_equal(odd.nodes[2].cpu_count, 0);
    assert_false(odd.nodes[1].has_memory);
    assert_int_equal(odd.nodes[1].distances[2], 28);
}

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* What is no description is refused, and nothing is written to the output. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *online, *cpulist, *meminfo, *distance;
        status expected;
    } rows[] = {
        {"0\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "10\n", OK},
        {"zero\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "10\n", ERR_BAD_INPUT},
        {"\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "10\n", ERR_BAD_INPUT},
        {"64\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "10\n", ERR_BAD_INPUT},
        {"0-1\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "10 20\n", ERR_IO}, /* no node1 */
        {"0\n", "1-0\n", "Node 0 MemTotal: 4 kB\n", "10\n", ERR_BAD_INPUT},
        {"0\n", "0-99999\n", "Node 0 MemTotal: 4 kB\n", "10\n", ERR_BAD_INPUT},
        {"0\n", "0-1\n", "MemTotal\n", "10\n", ERR_BAD_INPUT},
        {"0\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "\n", ERR_BAD_INPUT},
        {"0\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "9\n", ERR_BAD_INPUT},
        {"0\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "-1\n", ERR_BAD_INPUT},
        {"0\n", "0-1\n", "Node 0 MemTotal: 4 kB\n", "256\n", ERR_BAD_INPUT},
    };
    char folder[] = "/tmp/baton-topology-XXXXXX", node[64], command[80];
    assert_non_null(mkdtemp(folder));
    snprintf(node, sizeof(node), "%s/node0", folder);
    assert_int_equal(mkdir(node, 0700), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct topology topology = {.node_count = 77};
        write_file(folder, "online", rows[i].online);
        write_file(node, "cpulist", rows[i].cpulist);
        write_file(node, "meminfo", rows[i].meminfo);
        write_file(node, "distance", rows[i].distance);
        assert_int_equal(topology_read(folder, &topology), rows[i].expected);
        assert_int_equal(topology.node_count, rows[i].expected == OK ? 1 : 77);
    }
    struct topology topology;
    assert_int_equal(topology_read("/nonexistent", &topology), ERR_IO);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_host(void **state)
{
    (void)state;
    struct topology host;
    struct cpus allowed;
    topology_host(&host);
    cpus_allowed(&allowed);
    assert_true(host.node_count >= 1);
    assert_true(topology_memory_of(&host, &allowed) != 0);
    for (uint32_t i = 0; i < allowed.count; i++)
        assert_int_not_equal(host.node_of[allowed.ids[i]], TOPOLOGY_NO_NODE);
}

static void test_memory(void **state)
{
    (void)state;
    struct topology two, odd;
    struct cpus cpus;
    machine("two", &two);
    assert_int_equal(cpus_list("0-7", &cpus), OK);
    assert_true(topology_memory_of(&two, &cpus) == 1);
    assert_int_equal(cpus_list("24,31", &cpus), OK);
    assert_true(topology_memory_of(&two, &cpus) == 2);
    assert_int_equal(cpus_list("7,8", &cpus), OK);
    assert_true(topology_memory_of(&two, &cpus) == 3);
    assert_int_equal(cpus_list("99", &cpus), OK);
    assert_true(topology_memory_of(&two, &cpus) == 0);
    assert_true(topology_memory_of_all(&two) == 3);

    /* Cores without memory use the nearest; memory without cores is used by nobody. */
    machine("no-memory", &odd);
    assert_int_equal(cpus_list("4-7", &cpus), OK);
    assert_true(topology_memory_of(&odd, &cpus) == 1);
    assert_true(topology_memory_of_all(&odd) == 1);
    odd.nodes[1].distances[2] = 14;
    assert_true(topology_memory_of(&odd, &cpus) == 1 << 8);
    odd.nodes[0].has_memory = odd.nodes[2].has_memory = false; /* not allowed to this process */
    assert_true(topology_memory_of(&odd, &cpus) == 0);
}

static void test_share(void **state)
{
    (void)state;
    struct topology two, four;
    struct cpus cpus;
    machine("two", &two);
    all_cpus(32, &cpus);
    assert_share(&two, &cpus, 0, 1, "0-31");
    assert_share(&two, &cpus, 0, 2, "0-7,16-23"); /* by number it would have been 0-15 */
    assert_share(&two, &cpus, 1, 2, "8-15,24-31");
    /* Three on two nodes: one has a node of its own. */
    assert_share(&two, &cpus, 0, 3, "0-7");
    assert_share(&two, &cpus, 1, 3, "8-15,24-31");
    assert_share(&two, &cpus, 2, 3, "16-23");
    /* Two prefill workers, then two decode workers: one of each on each node. */
    assert_share(&two, &cpus, 0, 4, "0-7");
    assert_share(&two, &cpus, 1, 4, "8-15");
    assert_share(&two, &cpus, 2, 4, "16-23");
    assert_share(&two, &cpus, 3, 4, "24-31");

    machine("four", &four);
    all_cpus(16, &cpus);
    assert_share(&four, &cpus, 0, 2, "0-7");
    assert_share(&four, &cpus, 1, 2, "8-15");
    assert_share(&four, &cpus, 0, 3, "0-3");
    assert_share(&four, &cpus, 1, 3, "4-7");
    assert_share(&four, &cpus, 2, 3, "8-15");
    assert_share(&four, &cpus, 3, 4, "12-15");

    /* Unequal: four cores on node 0, one on node 1; two of three workers where the cores are. */
    assert_int_equal(cpus_list("0-3,8", &cpus), OK);
    assert_share(&two, &cpus, 0, 3, "0-1");
    assert_share(&two, &cpus, 1, 3, "8");
    assert_share(&two, &cpus, 2, 3, "2-3");
    /* More workers than cores. */
    assert_int_equal(cpus_list("0,8", &cpus), OK);
    assert_share(&two, &cpus, 2, 4, "0");
    assert_share(&two, &cpus, 3, 4, "8");
    /* A core that no node has. */
    assert_int_equal(cpus_list("0,8,40", &cpus), OK);
    assert_share(&two, &cpus, 0, 2, "0,40");
}

/* Every core once, whatever the machine and the parts; one node: as it was before there were any.
 */
static void test_share_all(void **state)
{
    (void)state;
    static const char *const names[] = {"two", "four", "four-far", "no-memory"};
    for (size_t m = 0; m < 4; m++) {
        struct topology topology;
        struct cpus cpus, share;
        machine(names[m], &topology);
        all_cpus(m == 0 ? 32 : m == 3 ? 8 : 16, &cpus);
        for (uint32_t parts = 1; parts <= cpus.count; parts++) {
            uint32_t seen[CPUS_MAX] = {0};
            for (uint32_t part = 0; part < parts; part++) {
                topology_share(&topology, &cpus, part, parts, &share);
                assert_true(share.count > 0);
                for (uint32_t i = 0; i < share.count; i++)
                    seen[share.ids[i]]++;
            }
            for (uint32_t i = 0; i < cpus.count; i++)
                assert_int_equal(seen[i], 1);
        }
    }
    struct topology one = {.node_count = 1};
    struct cpus cpus, ours, plain;
    all_cpus(7, &cpus);
    for (uint32_t parts = 1; parts < 10; parts++) {
        for (uint32_t part = 0; part < parts; part++) {
            topology_share(&one, &cpus, part, parts, &ours);
            cpus_share(&cpus, part, parts, &plain);
            assert_int_equal(ours.count, plain.count);
            assert_memory_equal(ours.ids, plain.ids, ours.count * sizeof(ours.ids[0]));
        }
    }
}

static void test_choose(void **state)
{
    (void)state;
    char why[256];
    struct topology two, four, far;
    machine("two", &two);
    machine("four", &four);
    machine("four-far", &far);
    assert_int_equal(topology_choose(&two, 1, 8 * GIB, why, sizeof(why)), TOPOLOGY_LOCAL);
    assert_int_equal(topology_choose(&two, 0, 8 * GIB, why, sizeof(why)), TOPOLOGY_LOCAL);
    /* 1/2 x 21/10 = 1.05: the link is what it would wait for. 48 GiB free on the fullest. */
    assert_int_equal(topology_choose(&two, 3, 8 * GIB, why, sizeof(why)), TOPOLOGY_COPY);
    assert_non_null(strstr(why, "1.05"));
    assert_int_equal(topology_choose(&two, 3, 24 * GIB, why, sizeof(why)), TOPOLOGY_COPY);
    assert_int_equal(topology_choose(&two, 3, 25 * GIB, why, sizeof(why)), TOPOLOGY_INTERLEAVE);
    two.nodes[0].distances[1] = two.nodes[1].distances[0] = 20;
    assert_int_equal(topology_choose(&two, 3, 8 * GIB, why, sizeof(why)), TOPOLOGY_INTERLEAVE);
    /* 3/4 x 12/10 = 0.9; four far: 3/4 x (12 + 2 x 32) / 3 / 10 = 1.9; its near half: 0.6. */
    assert_int_equal(topology_choose(&four, 15, GIB, why, sizeof(why)), TOPOLOGY_INTERLEAVE);
    assert_int_equal(topology_choose(&far, 15, GIB, why, sizeof(why)), TOPOLOGY_COPY);
    assert_int_equal(topology_choose(&far, 3, GIB, why, sizeof(why)), TOPOLOGY_INTERLEAVE);
}

static void test_worker(void **state)
{
    (void)state;
    struct topology two, odd;
    struct cpus near, both;
    struct worker_nodes nodes;
    machine("two", &two);
    machine("no-memory", &odd);
    assert_int_equal(cpus_list("8-15", &near), OK);
    assert_int_equal(cpus_list("0-15", &both), OK);
    worker_nodes_choose(&two, TOPOLOGY_AUTO, &near, GIB, &nodes);
    assert_true(nodes.own == 2 && nodes.weights == 2 && nodes.copy == 1);
    assert_true(nodes.free_bytes == 60 * GIB && nodes.host_count == 2);
    worker_nodes_choose(&two, TOPOLOGY_AUTO, &near, 40 * GIB, &nodes);
    assert_true(nodes.own == 2 && nodes.weights == 3 && nodes.copy == WORKER_NODES_SHARED);
    worker_nodes_choose(&two, TOPOLOGY_COPY, &both, GIB, &nodes);
    assert_true(nodes.own == 3 && nodes.weights == 3 && nodes.copy == WORKER_NODES_SHARED);
    worker_nodes_choose(&two, TOPOLOGY_LOCAL, &near, GIB, &nodes);
    assert_true(nodes.own == 2 && nodes.weights == 2 && nodes.copy == WORKER_NODES_SHARED);
    worker_nodes_choose(&two, TOPOLOGY_OFF, &near, GIB, &nodes);
    assert_true(nodes.own == 0 && nodes.weights == 0 && nodes.copy == WORKER_NODES_SHARED);
    assert_int_equal(cpus_list("4-7", &near), OK);
    worker_nodes_choose(&odd, TOPOLOGY_COPY, &near, GIB, &nodes);
    assert_true(nodes.own == 1 && nodes.copy == 0 && nodes.host_count == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_host),   cmocka_unit_test(test_memory),
        cmocka_unit_test(test_share),  cmocka_unit_test(test_share_all),
        cmocka_unit_test(test_choose), cmocka_unit_test(test_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
