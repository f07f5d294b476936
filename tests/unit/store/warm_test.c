/* Pages made ahead: as many as were asked for, whatever lies there already. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/warm.h"

#define POOL_BYTES (24u << 20)
#define AHEAD_BYTES (4u << 20)
#define SLACK_BYTES (1u << 20)

struct pool {
    int fd;
    uint8_t *host;
};

static void pool_open(struct pool *pool, size_t bytes)
{
    pool->fd = memfd_create("warm-test", MFD_CLOEXEC);
    assert_true(pool->fd >= 0 && ftruncate(pool->fd, (off_t)bytes) == 0);
    pool->host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd, 0);
    assert_ptr_not_equal(pool->host, MAP_FAILED);
}

static void pool_close(struct pool *pool, size_t bytes)
{
    munmap(pool->host, bytes);
    close(pool->fd);
}

/* Bytes of memory that the pool has. */
static size_t pool_made(const struct pool *pool)
{
    struct stat stat;
    assert_int_equal(fstat(pool->fd, &stat), 0);
    return (size_t)stat.st_blocks * 512;
}

static void wait_for(const struct pool *pool, size_t bytes)
{
    for (int i = 0; i < 10000 && pool_made(pool) < bytes; i++)
        usleep(1000);
    assert_true(pool_made(pool) >= bytes);
    usleep(20000); /* and no more */
    assert_true(pool_made(pool) <= bytes + SLACK_BYTES);
}

static void a_bounded_distance_ahead_of_what_is_used(void **state)
{
    (void)state;
    struct pool pool;
    struct warm *warm;
    pool_open(&pool, POOL_BYTES);
    assert_int_equal(warm_open(pool.host, POOL_BYTES, AHEAD_BYTES, &warm), 0);
    wait_for(&pool, AHEAD_BYTES);
    memset(pool.host, 0xa5, 6u << 20); /* faster than the thread */
    warm_reach(warm, 6u << 20);
    wait_for(&pool, (6u << 20) + AHEAD_BYTES);
    warm_reach(warm, 5u << 20); /* used again: nothing new */
    wait_for(&pool, (6u << 20) + AHEAD_BYTES);
    for (uint32_t i = 0; i < 6u << 20; i += 1000)
        assert_int_equal(pool.host[i], 0xa5);
    warm_reach(warm, POOL_BYTES - 1000); /* the end is the end */
    wait_for(&pool, POOL_BYTES);
    warm_close(warm);
    assert_int_equal(pool.host[6u << 20], 0);
    pool_close(&pool, POOL_BYTES);
}

static void closing_does_not_wait_for_all_of_it(void **state)
{
    (void)state;
    struct pool pool;
    struct warm *warm;
    size_t bytes = (256u << 20) + 4096; /* no whole number of parts */
    pool_open(&pool, bytes);
    assert_int_equal(warm_open(pool.host, bytes, bytes, &warm), 0);
    warm_close(warm);
    assert_true(pool_made(&pool) < bytes / 2);
    pool_close(&pool, bytes);
    warm_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bounded_distance_ahead_of_what_is_used),
        cmocka_unit_test(closing_does_not_wait_for_all_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
