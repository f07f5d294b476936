#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kv/prefix_tree.h"

static struct block_key key_of(uint32_t number)
{
    static const uint8_t zeros[BLOCK_KEY_FINGERPRINT_BYTES];
    struct block_key root = block_key_root(zeros, zeros, DTYPE_F16, "test", NULL, 0);
    return block_key_next(&root, &number, 1);
}

static void assert_counts(const struct prefix_tree *tree, uint32_t free_blocks, uint32_t cached,
                          uint32_t referenced)
{
    struct prefix_tree_counts counts;
    prefix_tree_count(tree, &counts);
    assert_int_equal(counts.free, free_blocks);
    assert_int_equal(counts.cached, cached);
    assert_int_equal(counts.referenced, referenced);
}

/* A chain of count keys, sealed in fresh blocks. */
static void seal_chain(struct prefix_tree *tree, struct block_key *keys, uint32_t count,
                       block_id *ids)
{
    block_id is;
    assert_int_equal(prefix_tree_take(tree, count, ids), OK);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(
            prefix_tree_insert(tree, &keys[i], i > 0 ? &keys[i - 1] : NULL, ids[i], &is), OK);
        assert_int_equal(is, ids[i]);
    }
}

static void dropped_blocks_stay_and_are_found(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key keys[4] = {key_of(0), key_of(1), key_of(2), key_of(3)};
    block_id ids[4], found[4], extra;
    assert_int_equal(prefix_tree_open(8, UINT32_MAX, &tree), OK);
    assert_int_equal(prefix_tree_match(tree, keys, 3, found), 0);
    seal_chain(tree, keys, 3, ids);
    assert_int_equal(prefix_tree_take(tree, 1, &extra), OK);
    assert_counts(tree, 4, 0, 4);
    prefix_tree_drop(tree, &extra, 1);
    prefix_tree_drop(tree, ids, 3);
    assert_counts(tree, 5, 3, 0);
    assert_int_equal(prefix_tree_available(tree), 8);

    assert_int_equal(prefix_tree_peek(tree, keys, 4), 3);
    assert_counts(tree, 5, 3, 0);
    assert_int_equal(prefix_tree_match(tree, keys, 4, found), 3);
    assert_memory_equal(found, ids, 3 * sizeof(*ids));
    assert_counts(tree, 5, 0, 3);
    assert_int_equal(prefix_tree_references(tree, ids[0]), 1);
    struct block_key key;
    assert_true(prefix_tree_key_of(tree, ids[1], &key));
    assert_true(block_key_equal(&key, &keys[1]));
    prefix_tree_drop(tree, found, 3);
    prefix_tree_close(tree);
}

static void leaves_go_before_their_parents(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key keys[4] = {key_of(0), key_of(1), key_of(2), key_of(3)};
    block_id ids[4], taken[4];
    assert_int_equal(prefix_tree_open(4, UINT32_MAX, &tree), OK);
    seal_chain(tree, keys, 4, ids);
    prefix_tree_drop(tree, ids, 4);
    for (uint32_t left = 3; left > 0; left--) {
        assert_int_equal(prefix_tree_take(tree, 1, &taken[left]), OK);
        assert_int_equal(taken[left], ids[left]);
        assert_int_equal(prefix_tree_peek(tree, keys, 4), left);
    }
    prefix_tree_drop(tree, taken + 1, 3);
    prefix_tree_close(tree);
}

static void least_recently_used_goes_first(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key keys[3] = {key_of(0), key_of(1), key_of(2)};
    block_id ids[3], taken[3];
    assert_int_equal(prefix_tree_open(3, UINT32_MAX, &tree), OK);
    for (int i = 0; i < 3; i++)
        seal_chain(tree, &keys[i], 1, &ids[i]);
    prefix_tree_drop(tree, &ids[1], 1);
    prefix_tree_drop(tree, &ids[0], 1);
    prefix_tree_drop(tree, &ids[2], 1);
    assert_int_equal(prefix_tree_match(tree, &keys[1], 1, taken), 1); /* now the newest */
    prefix_tree_drop(tree, taken, 1);
    assert_int_equal(prefix_tree_take(tree, 3, taken), OK);
    prefix_tree_drop(tree, taken, 3);

    assert_int_equal(prefix_tree_take(tree, 3, ids), OK);
    prefix_tree_drop(tree, ids, 3);
    prefix_tree_close(tree);
}

static void take_is_all_or_nothing(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key keys[2] = {key_of(0), key_of(1)};
    block_id ids[2], taken[4] = {77, 77, 77, 77};
    assert_int_equal(prefix_tree_open(4, UINT32_MAX, &tree), OK);
    seal_chain(tree, keys, 2, ids);
    prefix_tree_drop(tree, ids + 1, 1);
    assert_counts(tree, 2, 1, 1);
    assert_int_equal(prefix_tree_take(tree, 4, taken), ERR_FULL);
    assert_int_equal(taken[0], 77);
    assert_counts(tree, 2, 1, 1);
    assert_int_equal(prefix_tree_take(tree, 3, taken), OK);
    assert_int_equal(prefix_tree_peek(tree, keys, 2), 1);
    prefix_tree_drop(tree, taken, 3);
    prefix_tree_drop(tree, ids, 1);
    prefix_tree_close(tree);
}

static void a_second_block_of_a_key_is_swapped(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key key = key_of(0), child = key_of(1);
    block_id first, second, third, is;
    assert_int_equal(prefix_tree_open(4, UINT32_MAX, &tree), OK);
    seal_chain(tree, &key, 1, &first);
    assert_int_equal(prefix_tree_take(tree, 1, &second), OK);
    assert_int_equal(prefix_tree_insert(tree, &key, NULL, second, &is), ERR_FULL);
    assert_int_equal(is, first);

    /* Without swapping, a child keeps the block of its parent in use, though nobody else does. */
    assert_int_equal(prefix_tree_take(tree, 1, &third), OK);
    assert_int_equal(prefix_tree_insert(tree, &child, &key, third, &is), OK);
    prefix_tree_drop(tree, &first, 1);
    assert_int_equal(prefix_tree_references(tree, first), 0);
    assert_counts(tree, 1, 0, 3);

    prefix_tree_swap(tree, &second, first);
    assert_int_equal(second, first);
    assert_counts(tree, 2, 0, 2);
    prefix_tree_drop(tree, &third, 1);
    prefix_tree_drop(tree, &second, 1);
    assert_counts(tree, 2, 2, 0);
    prefix_tree_close(tree);
}

static void an_absent_parent_keeps_a_block_private(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key key = key_of(1), parent = key_of(0);
    block_id id, is;
    assert_int_equal(prefix_tree_open(2, UINT32_MAX, &tree), OK);
    assert_int_equal(prefix_tree_take(tree, 1, &id), OK);
    assert_int_equal(prefix_tree_insert(tree, &key, &parent, id, &is), ERR_NOT_FOUND);
    prefix_tree_drop(tree, &id, 1);
    assert_counts(tree, 2, 0, 0);
    prefix_tree_close(tree);
}

struct heard {
    uint32_t stored, removed;
    block_id last_id;
};

static void hear(void *ctx, enum prefix_tree_event event, const struct block_key *key, block_id id)
{
    struct heard *heard = ctx;
    (void)key;
    if (event == PREFIX_TREE_STORED)
        heard->stored++;
    else
        heard->removed++;
    heard->last_id = id;
}

static void cache_is_capped_and_told(void **state)
{
    (void)state;
    struct prefix_tree *tree;
    struct block_key keys[4] = {key_of(0), key_of(1), key_of(2), key_of(3)};
    struct heard heard = {0};
    block_id ids[4];
    assert_int_equal(prefix_tree_open(8, 2, &tree), OK);
    prefix_tree_set_hook(tree, hear, &heard);
    seal_chain(tree, keys, 4, ids);
    assert_int_equal(heard.stored, 4);
    assert_int_equal(heard.last_id, ids[3]);
    prefix_tree_drop(tree, ids, 4);
    assert_counts(tree, 6, 2, 0);
    assert_int_equal(heard.removed, 2);
    assert_int_equal(prefix_tree_peek(tree, keys, 4), 2);
    prefix_tree_clear(tree);
    assert_counts(tree, 8, 0, 0);
    assert_int_equal(heard.removed, 4);
    struct prefix_tree_counts counts;
    prefix_tree_count(tree, &counts);
    assert_int_equal(counts.evictions, 4);
    prefix_tree_close(tree);
}

/* ---- random operations against a naive model ----
 *
 * Keys are the paths of a small tree: path p has the children 3p+1 .. 3p+3. A holder is a sequence
 * with some blocks of one path. The model knows for each path its block and when it became cached,
 * and finds out everything else by looking at all holders. */

#define PATHS 364 /* 3^0 + .. + 3^5 */
#define BLOCKS 40
#define HOLDERS 12
#define DEPTH 6
#define OPERATIONS 60000

struct holder {
    uint32_t count;
    block_id ids[DEPTH];
    uint32_t paths[DEPTH];
};

struct naive {
    struct prefix_tree *tree;
    struct block_key keys[PATHS];
    bool sealed[PATHS];
    block_id block[PATHS];
    uint64_t cached_at[PATHS]; /* 0: not cached */
    uint64_t now;
    uint32_t cached_max;
    struct holder holders[HOLDERS];
};

static bool naive_block_held(const struct naive *naive, block_id id)
{
    for (int h = 0; h < HOLDERS; h++)
        for (uint32_t i = 0; i < naive->holders[h].count; i++)
            if (naive->holders[h].ids[i] == id)
                return true;
    return false;
}

static bool naive_path_held(const struct naive *naive, uint32_t path)
{
    if (!naive->sealed[path])
        return false;
    if (naive_block_held(naive, naive->block[path]))
        return true;
    for (uint32_t child = 3 * path + 1; child <= 3 * path + 3 && child < PATHS; child++)
        if (naive_path_held(naive, child))
            return true;
    return false;
}

static uint32_t naive_cached(const struct naive *naive)
{
    uint32_t count = 0;
    for (uint32_t path = 0; path < PATHS; path++)
        count += naive->cached_at[path] != 0 ? 1 : 0;
    return count;
}

/* What became cached by the last reference that was dropped: deeper paths first. */
static void naive_settle(struct naive *naive)
{
    for (uint32_t path = PATHS; path-- > 0;) {
        bool cached = naive->sealed[path] && !naive_path_held(naive, path);
        if (!cached)
            naive->cached_at[path] = 0;
        else if (naive->cached_at[path] == 0)
            naive->cached_at[path] = ++naive->now;
    }
}

static void naive_evict(struct naive *naive)
{
    uint32_t oldest = PATHS;
    for (uint32_t path = 0; path < PATHS; path++)
        if (naive->cached_at[path] != 0 &&
            (oldest == PATHS || naive->cached_at[path] < naive->cached_at[oldest]))
            oldest = path;
    assert_true(oldest < PATHS);
    naive->sealed[oldest] = false;
    naive->cached_at[oldest] = 0;
}

static uint32_t naive_free(const struct naive *naive)
{
    uint32_t count = 0;
    for (block_id id = 0; id < BLOCKS; id++) {
        bool used = naive_block_held(naive, id);
        for (uint32_t path = 0; path < PATHS; path++)
            used = used || (naive->sealed[path] && naive->block[path] == id);
        count += used ? 0 : 1;
    }
    return count;
}

static void naive_compare(const struct naive *naive)
{
    uint32_t free_blocks = naive_free(naive);
    uint32_t cached = naive_cached(naive);
    assert_counts(naive->tree, free_blocks, cached, BLOCKS - free_blocks - cached);
    for (uint32_t path = 0; path < PATHS; path++)
        assert_int_equal(prefix_tree_peek(naive->tree, &naive->keys[path], 1),
                         naive->sealed[path] ? 1 : 0);
    for (block_id id = 0; id < BLOCKS; id++) {
        uint32_t held = 0;
        for (int h = 0; h < HOLDERS; h++)
            for (uint32_t i = 0; i < naive->holders[h].count; i++)
                held += naive->holders[h].ids[i] == id ? 1 : 0;
        assert_int_equal(prefix_tree_references(naive->tree, id), held);
    }
}

static void naive_start(struct naive *naive, struct holder *holder)
{
    struct block_key keys[DEPTH];
    uint32_t depth = 1 + (uint32_t)rand() % DEPTH, path = 0;
    for (uint32_t i = 0; i < depth; i++) {
        holder->paths[i] = path;
        keys[i] = naive->keys[path];
        path = 3 * path + 1 + (uint32_t)rand() % 3;
    }
    uint32_t expected = 0;
    while (expected < depth && naive->sealed[holder->paths[expected]])
        expected++;
    assert_int_equal(prefix_tree_match(naive->tree, keys, depth, holder->ids), expected);
    for (uint32_t i = 0; i < expected; i++)
        assert_int_equal(holder->ids[i], naive->block[holder->paths[i]]);
    holder->count = expected;
    naive_settle(naive);

    uint32_t more = depth - expected;
    uint32_t free_blocks = naive_free(naive), cached = naive_cached(naive);
    status code = prefix_tree_take(naive->tree, more, holder->ids + expected);
    assert_int_equal(code, more <= free_blocks + cached ? OK : ERR_FULL);
    if (code == OK) {
        for (; free_blocks < more; free_blocks++)
            naive_evict(naive);
        holder->count = depth;
    }
}

static void naive_seal(struct naive *naive, struct holder *holder)
{
    uint32_t i = (uint32_t)rand() % holder->count;
    uint32_t path = holder->paths[i];
    struct block_key key;
    if (prefix_tree_key_of(naive->tree, holder->ids[i], &key))
        return;
    bool known = naive->sealed[path];
    bool parent_known = path == 0 || naive->sealed[(path - 1) / 3];
    block_id is;
    status code =
        prefix_tree_insert(naive->tree, &naive->keys[path],
                           path > 0 ? &naive->keys[(path - 1) / 3] : NULL, holder->ids[i], &is);
    assert_int_equal(code, known ? ERR_FULL : parent_known ? OK : ERR_NOT_FOUND);
    if (code == OK) {
        naive->sealed[path] = true;
        naive->block[path] = holder->ids[i];
    } else if (code == ERR_FULL) {
        assert_int_equal(is, naive->block[path]);
        if (rand() % 2 == 0)
            prefix_tree_swap(naive->tree, &holder->ids[i], is);
    }
    naive_settle(naive);
}

static void naive_drop(struct naive *naive, struct holder *holder)
{
    prefix_tree_drop(naive->tree, holder->ids, holder->count);
    while (holder->count > 0) {
        holder->count--;
        naive_settle(naive);
    }
    while (naive_cached(naive) > naive->cached_max)
        naive_evict(naive);
}

static void random_operations_match_a_naive_model(void **state)
{
    (void)state;
    const char *given = getenv("BATON_TEST_SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    print_message("seed %u (BATON_TEST_SEED=%u repeats it)\n", seed, seed);
    srand(seed);

    for (int round = 0; round < 2; round++) {
        struct naive *naive = calloc(1, sizeof(*naive));
        assert_non_null(naive);
        naive->cached_max = round == 0 ? UINT32_MAX : 9;
        for (uint32_t path = 0; path < PATHS; path++)
            naive->keys[path] = key_of(path);
        assert_int_equal(prefix_tree_open(BLOCKS, naive->cached_max, &naive->tree), OK);
        for (int n = 0; n < OPERATIONS; n++) {
            struct holder *holder = &naive->holders[rand() % HOLDERS];
            if (holder->count == 0)
                naive_start(naive, holder);
            else if (rand() % 4 != 0)
                naive_seal(naive, holder);
            else
                naive_drop(naive, holder);
            if (n % 16 == 0)
                naive_compare(naive);
        }
        for (int h = 0; h < HOLDERS; h++)
            naive_drop(naive, &naive->holders[h]);
        naive_compare(naive);
        prefix_tree_close(naive->tree);
        free(naive);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropped_blocks_stay_and_are_found),
        cmocka_unit_test(leaves_go_before_their_parents),
        cmocka_unit_test(least_recently_used_goes_first),
        cmocka_unit_test(take_is_all_or_nothing),
        cmocka_unit_test(a_second_block_of_a_key_is_swapped),
        cmocka_unit_test(an_absent_parent_keeps_a_block_private),
        cmocka_unit_test(cache_is_capped_and_told),
        cmocka_unit_test(random_operations_match_a_naive_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
