/* Opening a cpu backend and what it owns: names and numbers out of range are refused with a
 * message, the pool is zeroed shared memory that nobody can resize, blocks are copied whole. */
#include "cpu_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend_rig.h"

static status open_with(const struct backend_shape *shape, uint32_t threads, const char *kernels,
                        const char *variant)
{
    struct backend_cpu_options options = {
        .threads = threads, .kernels = kernels, .variant = variant};
    struct backend *backend = NULL;
    status result = backend_cpu_open(shape, &rig_small_limits, &options, &backend);
    if (result == OK)
        backend->calls->close(backend);
    else
        assert_null(backend);
    return result;
}

static void test_refusals(void **state)
{
    (void)state;
    struct backend_shape shape = rig_small_shape();
    assert_int_equal(open_with(&shape, 1, "float", NULL), OK);
    assert_int_equal(open_with(&shape, 1, "auto", "auto"), OK);
    assert_int_equal(open_with(&shape, 0, "float", NULL), ERR_BAD_INPUT);
    assert_int_equal(open_with(&shape, CPU_THREADS_MAX + 1, "float", NULL), ERR_BAD_INPUT);
    assert_int_equal(open_with(&shape, 1, "double", NULL), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "double"));
    assert_int_equal(open_with(&shape, 1, "float", "mmx"), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "mmx"));
    bool known;
    if (kernels_find("vnni", &known) == NULL)
        assert_int_equal(open_with(&shape, 1, "float", "vnni"), ERR_UNSUPPORTED);

    shape.kv_dtype = DTYPE_BF16;
    assert_int_equal(open_with(&shape, 1, "float", NULL), ERR_UNSUPPORTED);
    shape = rig_small_shape();
    shape.kv_head_count = 3;
    assert_int_equal(open_with(&shape, 1, "float", NULL), ERR_BAD_INPUT);
    shape = rig_small_shape();
    shape.rope_dims = 10;
    assert_int_equal(open_with(&shape, 1, "float", NULL), ERR_UNSUPPORTED);
    shape.head_dim = 4000;
    assert_int_equal(open_with(&shape, 1, "float", NULL), ERR_UNSUPPORTED);
}

static void test_classes(void **state)
{
    (void)state;
    struct backend_shape shape = rig_small_shape();
    static const char *const names[][2] = {
        {"float", "cpu-float"}, {"int8", "cpu-int8"}, {"bf16", "cpu-bf16"}, {"auto", "cpu-int8"}};
    for (size_t i = 0; i < 4; i++) {
        struct backend_cpu_options options = {.threads = 1, .kernels = names[i][0]};
        struct backend *backend;
        assert_int_equal(backend_cpu_open(&shape, &rig_small_limits, &options, &backend), OK);
        assert_string_equal(backend->numerics_class, names[i][1]);
        assert_string_equal(backend->name, "cpu");
        backend->calls->close(backend);
    }
}

static void test_pool(void **state)
{
    (void)state;
    struct backend_shape shape = rig_small_shape();
    struct backend_cpu_options options = {.threads = 2, .kernels = "float"};
    struct backend *backend;
    struct backend_pool pool;
    assert_int_equal(backend_cpu_open(&shape, &rig_small_limits, &options, &backend), OK);
    assert_int_equal(backend->calls->pool_open(backend, 5, &pool), OK);
    assert_int_equal(pool.block_count, 5);
    assert_int_equal(pool.bytes, 5 * shape.block_bytes);
    for (size_t i = 0; i < pool.bytes; i++)
        assert_int_equal(pool.host[i], 0);

    /* Another process maps the descriptor; what the backend writes is there. */
    uint8_t *other = mmap(NULL, pool.bytes, PROT_READ, MAP_SHARED, pool.fd, 0);
    assert_true(other != MAP_FAILED);
    for (size_t i = 0; i < shape.block_bytes; i++)
        pool.host[shape.block_bytes + i] = (uint8_t)(i * 7 + 1);
    backend->calls->block_copy(backend, 1, 4);
    assert_memory_equal(other + 4 * shape.block_bytes, pool.host + shape.block_bytes,
                        shape.block_bytes);
    for (size_t i = 2 * shape.block_bytes; i < 4 * shape.block_bytes; i++)
        assert_int_equal(other[i], 0);
    /* Out to the host's slots and back into other blocks. */
    const block_id ids[] = {1, 4, 0}, slots[] = {2, 0, 1}, back[] = {3, 0, 2};
    assert_int_equal(backend->calls->swap_open(backend, 3), OK);
    memset(pool.host + 4 * shape.block_bytes, 9, shape.block_bytes);
    assert_int_equal(backend->calls->swap_out(backend, ids, slots, 3), OK);
    assert_int_equal(backend->calls->swap_in(backend, slots, back, 2), OK);
    assert_memory_equal(other + 3 * shape.block_bytes, other + shape.block_bytes,
                        shape.block_bytes);
    assert_memory_equal(other, other + 4 * shape.block_bytes, shape.block_bytes);
    assert_int_equal(backend->calls->swap_in(backend, slots + 2, back + 1, 1), OK);
    for (size_t i = 0; i < shape.block_bytes; i++)
        assert_int_equal(other[i], 0);
    munmap(other, pool.bytes);

    assert_true((fcntl(pool.fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(ftruncate(pool.fd, 0), -1);
    assert_int_equal(ftruncate(pool.fd, (off_t)pool.bytes * 2), -1);
    backend->calls->close(backend);
}

static void test_bad_tensors(void **state)
{
    (void)state;
    struct backend_shape shape = rig_small_shape();
    struct backend_cpu_options options = {.threads = 1, .kernels = "int8"};
    struct backend *backend;
    assert_int_equal(backend_cpu_open(&shape, &rig_small_limits, &options, &backend), OK);
    struct backend_tensor *tensor = NULL;
    uint8_t data[64] = {0};
    struct backend_weight weight = {
        .name = "w.q", .type = DTYPE_Q4_0, .rows = 2, .columns = 33, .data = data};
    assert_int_equal(backend->calls->tensor_open(backend, &weight, &tensor), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "w.q"));
    weight.columns = 0;
    assert_int_equal(backend->calls->tensor_open(backend, &weight, &tensor), ERR_BAD_INPUT);
    weight.type = (enum dtype)7;
    assert_int_equal(backend->calls->tensor_open(backend, &weight, &tensor), ERR_UNSUPPORTED);
    assert_null(tensor);
    backend->calls->close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_bad_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
