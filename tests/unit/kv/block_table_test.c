#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "kv/block_table.h"

#define BLOCKS 8

static void grows_by_whole_blocks(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table table;
    struct block_copy copy;
    block_id ids[4];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    block_table_open(&table, ids, 4, 16);
    assert_int_equal(block_table_blocks_needed(&table, tree, 0), 0);
    assert_int_equal(block_table_blocks_needed(&table, tree, 17), 2);
    assert_int_equal(block_table_reserve(&table, tree, 17, &copy), OK);
    assert_false(copy.needed);
    assert_int_equal(table.block_count, 2);
    assert_int_equal(table.token_count, 0);
    block_table_advance(&table, 17);
    assert_int_equal(block_table_room(&table), 15);
    assert_int_equal(block_table_blocks_needed(&table, tree, 15), 0);
    assert_int_equal(block_table_reserve(&table, tree, 15, &copy), OK);
    block_table_advance(&table, 15);
    assert_int_equal(table.block_count, 2);
    assert_int_equal(block_table_reserve(&table, tree, 32, &copy), OK);
    block_table_advance(&table, 32);
    assert_int_equal(block_table_reserve(&table, tree, 1, &copy), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "65 tokens"));
    assert_int_equal(table.block_count, 4);
    block_table_drop(&table, tree);
    assert_int_equal(prefix_tree_available(tree), BLOCKS);
    prefix_tree_close(tree);
}

static void a_full_pool_changes_nothing(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table table, other;
    struct block_copy copy;
    block_id ids[BLOCKS], other_ids[BLOCKS];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    block_table_open(&table, ids, BLOCKS, 4);
    block_table_open(&other, other_ids, BLOCKS, 4);
    assert_int_equal(block_table_reserve(&table, tree, 28, &copy), OK);
    block_table_advance(&table, 26);
    assert_int_equal(block_table_reserve(&other, tree, 5, &copy), ERR_FULL);
    assert_int_equal(other.block_count, 0);
    assert_int_equal(block_table_reserve(&other, tree, 4, &copy), OK);
    block_table_drop(&other, tree);

    /* Room for the copy and for the new block, or for neither. */
    block_table_share(&other, tree, &table);
    assert_int_equal(block_table_blocks_needed(&other, tree, 3), 2);
    assert_int_equal(block_table_reserve(&other, tree, 3, &copy), ERR_FULL);
    assert_int_equal(other_ids[6], ids[6]);
    assert_int_equal(prefix_tree_references(tree, ids[6]), 2);
    block_table_drop(&other, tree);
    block_table_drop(&table, tree);
    prefix_tree_close(tree);
}

static void a_shared_partial_block_is_copied_once(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table a, b;
    struct block_copy copy;
    block_id a_ids[4], b_ids[4];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    block_table_open(&a, a_ids, 4, 16);
    block_table_open(&b, b_ids, 4, 16);
    assert_int_equal(block_table_reserve(&a, tree, 20, &copy), OK);
    block_table_advance(&a, 20);
    block_table_share(&b, tree, &a);
    assert_int_equal(b.token_count, 20);
    block_id shared = a_ids[1];

    assert_int_equal(block_table_blocks_needed(&b, tree, 1), 1);
    assert_int_equal(block_table_reserve(&b, tree, 1, &copy), OK);
    assert_true(copy.needed);
    assert_int_equal(copy.from, shared);
    assert_int_equal(copy.to, b_ids[1]);
    assert_int_not_equal(b_ids[1], shared);
    assert_int_equal(b_ids[0], a_ids[0]);
    block_table_advance(&b, 1);

    /* The other one is alone with it now, and writes in place. */
    assert_int_equal(block_table_blocks_needed(&a, tree, 1), 0);
    assert_int_equal(block_table_reserve(&a, tree, 1, &copy), OK);
    assert_false(copy.needed);
    assert_int_equal(a_ids[1], shared);
    block_table_drop(&a, tree);
    block_table_drop(&b, tree);
    assert_int_equal(prefix_tree_available(tree), BLOCKS);
    prefix_tree_close(tree);
}

/* The blocks that a step's tokens go into, and no other one. */
static void what_is_written_to_is_renewed(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table table;
    struct block_copy copy;
    block_id ids[4];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    const atomic_uint_fast64_t *fills = prefix_tree_fills(tree);
    block_table_open(&table, ids, 4, 16);
    assert_int_equal(block_table_reserve(&table, tree, 64, &copy), OK);
    const struct {
        uint32_t tokens, first, end; /* blocks written to */
    } steps[] = {{16, 0, 1}, {10, 1, 2}, {6, 1, 2}, {1, 2, 3}, {31, 2, 4}};
    for (uint32_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
        uint64_t before[4];
        for (uint32_t i = 0; i < 4; i++)
            before[i] = fills[ids[i]];
        block_table_write(&table, tree, steps[s].tokens);
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(fills[ids[i]] != before[i], i >= steps[s].first && i < steps[s].end);
        block_table_advance(&table, steps[s].tokens);
    }
    block_table_drop(&table, tree);
    prefix_tree_close(tree);
}

static void shared_full_blocks_are_not_copied(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table a, b;
    struct block_copy copy;
    block_id a_ids[4], b_ids[4];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    block_table_open(&a, a_ids, 4, 16);
    block_table_open(&b, b_ids, 4, 16);
    assert_int_equal(block_table_reserve(&a, tree, 33, &copy), OK);
    block_table_advance(&a, 32); /* one block more is reserved than is used */
    block_table_share(&b, tree, &a);
    assert_int_equal(b.block_count, 2);
    assert_int_equal(block_table_reserve(&b, tree, 1, &copy), OK);
    assert_false(copy.needed);
    assert_int_not_equal(b_ids[2], a_ids[2]);
    block_table_drop(&a, tree);
    block_table_drop(&b, tree);
    prefix_tree_close(tree);
}

static void adopts_what_a_match_found(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_table table;
    block_id ids[4], found[2];
    assert_int_equal(prefix_tree_open(BLOCKS, UINT32_MAX, &tree), OK);
    assert_int_equal(prefix_tree_take(tree, 2, found), OK);
    block_table_open(&table, ids, 4, 16);
    block_table_adopt(&table, found, 2, 20);
    assert_int_equal(table.token_count, 20);
    assert_int_equal(ids[1], found[1]);
    block_table_drop(&table, tree);
    assert_int_equal(prefix_tree_available(tree), BLOCKS);
    prefix_tree_close(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_by_whole_blocks),
        cmocka_unit_test(a_full_pool_changes_nothing),
        cmocka_unit_test(a_shared_partial_block_is_copied_once),
        cmocka_unit_test(what_is_written_to_is_renewed),
        cmocka_unit_test(shared_full_blocks_are_not_copied),
        cmocka_unit_test(adopts_what_a_match_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
