/* Memory on given nodes: what the kernel says of a range and of a thread afterwards. Where the
 * calls are forbidden, as in a container, the same program runs without them. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <numaif.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/cpu/cpu.h"
#include "backend_rig.h"
#include "base/error.h"
#include "base/placement.h"
#include "base/topology.h"

#define BYTES ((size_t)4 << 20)

/* Nodes of this host, as the program would use them; one of them, and one that is not there. */
static uint64_t host_nodes, one_node, no_node;

/* By the system call, not by the library that is tested. */
static long policy_read(void *address, uint64_t *mask_out)
{
    int mode = -1;
    unsigned long mask = 0;
    if (syscall(SYS_get_mempolicy, &mode, &mask, 65UL, address,
                address != NULL ? MPOL_F_ADDR : 0UL) != 0)
        return -1;
    *mask_out = mask;
    return mode;
}

static int group_open(void **state)
{
    (void)state;
    struct topology host;
    uint64_t mask = 0;
    if (policy_read(NULL, &mask) < 0) {
        print_message("this kernel or container has no memory policies: skipped\n");
        exit(77);
    }
    topology_host(&host);
    host_nodes = topology_memory_of_all(&host);
    one_node = host_nodes & ~(host_nodes - 1);
    no_node = UINT64_C(1) << 63;
    return host_nodes != 0 && (host_nodes & no_node) == 0 ? 0 : -1;
}

static void *pages(void)
{
    void *base = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED);
    return base;
}

/* The second word of the line of the mapping at base. */
static void numa_maps_word(const void *base, char word[64])
{
    char line[4096];
    FILE *file = fopen("/proc/self/numa_maps", "r");
    assert_non_null(file);
    word[0] = '\0';
    while (fgets(line, sizeof(line), file) != NULL) {
        char *end;
        if (strtoull(line, &end, 16) == (uint64_t)(uintptr_t)base)
            sscanf(end, "%63s", word);
    }
    fclose(file);
}

static void test_range(void **state)
{
    (void)state;
    uint64_t mask = 0;
    char word[64], expected[64];
    uint8_t *base = pages();
    assert_int_equal(policy_read(base, &mask), MPOL_DEFAULT);
    assert_int_equal(placement_apply(base, BYTES, one_node), OK);
    assert_int_equal(policy_read(base, &mask), MPOL_PREFERRED);
    assert_true(mask == one_node);
    assert_int_equal(policy_read(base + BYTES - 1, &mask), MPOL_PREFERRED);
    placement_text(one_node, expected, sizeof(expected));
    numa_maps_word(base, word);
    assert_string_equal(word, expected);

    memset(base, 1, BYTES); /* where the pages came to lie */
    int node = -1;
    assert_int_equal(syscall(SYS_get_mempolicy, &node, NULL, 0UL, base, MPOL_F_NODE | MPOL_F_ADDR),
                     0);
    assert_true(UINT64_C(1) << node == one_node);

    assert_int_equal(placement_apply(base, BYTES, 0), OK);
    assert_int_equal(policy_read(base, &mask), MPOL_DEFAULT);
    assert_int_equal(placement_apply(base, BYTES, no_node), ERR_IO);
    assert_non_null(strstr(error_text(), "prefer:63"));
    assert_int_equal(policy_read(base, &mask), MPOL_DEFAULT);
    munmap(base, BYTES);
}

/* On a host with one node interleaving comes out as that node. */
static void test_interleave(void **state)
{
    (void)state;
    uint64_t mask = 0;
    uint8_t *base = pages();
    assert_int_equal(placement_apply(base, BYTES, one_node | no_node), OK);
    assert_int_equal(policy_read(base, &mask), MPOL_INTERLEAVE);
    assert_true(mask == one_node);
    munmap(base, BYTES);
}

static void *thread_policy(void *mode_out)
{
    uint64_t mask = 0;
    *(long *)mode_out = policy_read(NULL, &mask);
    return mask == one_node ? mode_out : NULL;
}

static void *thread_main(void *unused)
{
    uint64_t mask = 0;
    long mode = -1;
    pthread_t started;
    void *same = NULL;
    assert_int_equal(placement_thread(one_node), OK);
    assert_int_equal(policy_read(NULL, &mask), MPOL_PREFERRED);
    assert_true(mask == one_node);
    assert_int_equal(pthread_create(&started, NULL, thread_policy, &mode), 0);
    pthread_join(started, &same);
    assert_int_equal(mode, MPOL_PREFERRED);
    assert_ptr_equal(same, &mode);
    assert_int_equal(placement_thread(no_node), ERR_IO);
    return unused;
}

/* A thread's own, and that of threads that it starts; others keep theirs. */
static void test_thread(void **state)
{
    (void)state;
    uint64_t mask = 0;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, thread_main, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(policy_read(NULL, &mask), MPOL_DEFAULT);
}

static void test_text(void **state)
{
    (void)state;
    char text[64];
    placement_text(0, text, sizeof(text));
    assert_string_equal(text, "default");
    placement_text(1 << 3, text, sizeof(text));
    assert_string_equal(text, "prefer:3");
    placement_text(0x17, text, sizeof(text));
    assert_string_equal(text, "interleave:0-2,4");
}

/* ---- the pool of a backend ---- */

static status backend_with(uint64_t nodes, struct backend **backend_out,
                           struct backend_pool *pool_out)
{
    struct backend_shape shape = rig_small_shape();
    const struct backend_cpu_options options = {.threads = 1, .kernels = "float", .nodes = nodes};
    status st = backend_cpu_open(&shape, &rig_small_limits, &options, backend_out);
    return st == OK ? (*backend_out)->calls->pool_open(*backend_out, 5000, pool_out) : st;
}

static void test_pool(void **state)
{
    (void)state;
    struct backend *backend;
    struct backend_pool pool;
    uint64_t mask = 0;
    assert_int_equal(backend_with(one_node, &backend, &pool), OK);
    assert_int_equal(policy_read(pool.host, &mask), MPOL_PREFERRED);
    assert_true(mask == one_node);
    assert_int_equal(policy_read(pool.host + pool.bytes - 1, &mask), MPOL_PREFERRED);
    backend->calls->close(backend);
    assert_int_equal(backend_with(0, &backend, &pool), OK);
    assert_int_equal(policy_read(pool.host, &mask), MPOL_DEFAULT);
    backend->calls->close(backend);
}

/* ---- where it is forbidden ---- */

/* From here on the calls of memory policies answer error, as container runtimes have it. */
static int forbid(int error)
{
    static const long numbers[] = {SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy};
    struct sock_filter rows[16] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    unsigned short count = 1;
    for (size_t i = 0; i < 3; i++) {
        rows[count++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)numbers[i], 0, 1);
        rows[count++] =
            (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error);
    }
    rows[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = count, .filter = rows};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* 0: as it should be; else the number of the first line that is not. */
static int forbidden_run(int error)
{
    struct backend *backend;
    struct backend_pool pool;
    uint64_t mask = 0;
    void *base = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || forbid(error) != 0)
        return 1;
    if (policy_read(NULL, &mask) != -1 || errno != error)
        return 2;
    if (placement_apply(base, BYTES, one_node) != ERR_UNSUPPORTED || error_text()[0] == '\0')
        return 3;
    if (placement_thread(one_node) != ERR_UNSUPPORTED)
        return 4;
    if (backend_with(one_node, &backend, &pool) != OK)
        return 5;
    memset(pool.host, 1, pool.bytes);
    backend->calls->block_copy(backend, 0, 1);
    backend->calls->close(backend);
    return 0;
}

/* In a child each, as a filter is for good. */
static void forbidden_in_child(int error)
{
    int ended;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(forbidden_run(error));
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFEXITED(ended));
    assert_int_equal(WEXITSTATUS(ended), 0);
}

static void test_forbidden_first(void **state)
{
    (void)state;
    forbidden_in_child(EPERM);
    forbidden_in_child(ENOSYS);
}

static void test_forbidden_later(void **state)
{
    (void)state;
    uint8_t *base = pages();
    assert_int_equal(placement_apply(base, BYTES, one_node), OK);
    munmap(base, BYTES);
    forbidden_in_child(EPERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forbidden_first), /* libnuma is not loaded yet */
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_interleave),
        cmocka_unit_test(test_thread),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_forbidden_later),
    };
    return cmocka_run_group_tests(tests, group_open, NULL);
}
