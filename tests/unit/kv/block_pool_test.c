#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kv/block_pool.h"

static void take_is_all_or_nothing(void **state)
{
    (void)state;
    struct block_pool *pool;
    block_id ids[4] = {9, 9, 9, 9};
    assert_int_equal(block_pool_open(3, &pool), OK);
    assert_int_equal(block_pool_take(pool, 4, ids), ERR_FULL);
    assert_int_equal(ids[0], 9);
    assert_int_equal(block_pool_free_count(pool), 3);
    assert_int_equal(block_pool_take(pool, 3, ids), OK);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[2], 2);
    assert_int_equal(block_pool_take(pool, 0, ids), OK);
    assert_int_equal(block_pool_take(pool, 1, ids + 3), ERR_FULL);
    for (int i = 0; i < 3; i++)
        assert_int_equal(block_pool_drop(pool, ids[i]), 0);
    assert_int_equal(block_pool_free_count(pool), 3);
    block_pool_close(pool);
}

static void the_last_reference_frees(void **state)
{
    (void)state;
    struct block_pool *pool;
    block_id id;
    assert_int_equal(block_pool_open(2, &pool), OK);
    assert_int_equal(block_pool_take(pool, 1, &id), OK);
    block_pool_share(pool, id);
    assert_int_equal(block_pool_references(pool, id), 2);
    assert_int_equal(block_pool_drop(pool, id), 1);
    assert_int_equal(block_pool_free_count(pool), 1);
    assert_int_equal(block_pool_drop(pool, id), 0);
    assert_int_equal(block_pool_references(pool, id), 0);
    assert_int_equal(block_pool_free_count(pool), 2);
    assert_int_equal(block_pool_block_count(pool), 2);
    block_pool_close(pool);
}

/* What is in a block has a number of its own, however often its id comes back. */
static void every_filling_has_another_number(void **state)
{
    (void)state;
    struct block_pool *pool;
    block_id ids[2];
    assert_int_equal(block_pool_open(2, &pool), OK);
    const atomic_uint_fast64_t *fills = block_pool_fills(pool);
    uint64_t last[2] = {0, 0};
    for (int round = 0; round < 10; round++) {
        assert_int_equal(block_pool_take(pool, 2, ids), OK);
        for (int i = 0; i < 2; i++) {
            assert_true(fills[ids[i]] > last[ids[i]]);
            last[ids[i]] = fills[ids[i]];
        }
        block_pool_share(pool, ids[0]);
        block_pool_drop(pool, ids[0]);
        assert_int_equal(fills[ids[0]], last[ids[0]]); /* the same bytes, whoever has them */
        block_pool_renew(pool, ids[0]);
        assert_true(fills[ids[0]] > last[ids[0]] && fills[ids[1]] == last[ids[1]]);
        last[ids[0]] = fills[ids[0]];
        block_pool_drop(pool, ids[0]);
        block_pool_drop(pool, ids[1]);
    }
    block_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_is_all_or_nothing),
        cmocka_unit_test(the_last_reference_frees),
        cmocka_unit_test(every_filling_has_another_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
