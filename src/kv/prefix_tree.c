#include "kv/prefix_tree.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define NONE UINT32_MAX

/* Of the pool's references on a block, one is the tree's while it is sealed, and one comes from
 * each referenced child; the others are the callers'. */
struct node {
    struct block_key key;     /* while sealed */
    block_id parent;          /* or NONE */
    uint32_t child_count;     /* in the tree */
    uint32_t children_active; /* of those, referenced ones */
    block_id older, newer;    /* in the list of cached blocks */
    bool sealed;
    bool cached;
};

struct prefix_tree {
    struct block_pool *pool;
    struct node *nodes; /* [block_count] by block id */
    block_id *slots;    /* open addressing, linear probing: the sealed blocks by key */
    uint32_t slot_mask;
    uint32_t block_count;
    uint32_t cached_max;
    uint32_t cached;
    uint32_t referenced;
    block_id oldest, newest; /* the cached blocks, by when they were let go */
    uint64_t evictions;
    prefix_tree_hook hook;
    void *hook_ctx;
};

static void counts_assert(const struct prefix_tree *tree)
{
    assert(block_pool_free_count(tree->pool) + tree->cached + tree->referenced ==
           tree->block_count);
}

/* ---- the table of keys ---- */

/* Keys are hashes already: their first bytes are as good as any. */
static uint32_t slot_of(const struct prefix_tree *tree, const struct block_key *key)
{
    return load_u32(key->bytes) & tree->slot_mask;
}

/* The slot that holds key, or the empty one where it would go. Half of the slots are empty. */
static uint32_t slot_find(const struct prefix_tree *tree, const struct block_key *key)
{
    uint32_t slot = slot_of(tree, key);
    while (tree->slots[slot] != NONE && !block_key_equal(&tree->nodes[tree->slots[slot]].key, key))
        slot = (slot + 1) & tree->slot_mask;
    return slot;
}

/* Empty a slot, moving back those that were pushed past it, so that no search ends early. */
static void slot_remove(struct prefix_tree *tree, uint32_t slot)
{
    uint32_t hole = slot;
    for (uint32_t next = (hole + 1) & tree->slot_mask; tree->slots[next] != NONE;
         next = (next + 1) & tree->slot_mask) {
        uint32_t home = slot_of(tree, &tree->nodes[tree->slots[next]].key);
        if (((next - home) & tree->slot_mask) >= ((next - hole) & tree->slot_mask)) {
            tree->slots[hole] = tree->slots[next];
            hole = next;
        }
    }
    tree->slots[hole] = NONE;
}

/* ---- the list of cached blocks ---- */

static void list_push(struct prefix_tree *tree, block_id id)
{
    struct node *node = &tree->nodes[id];
    node->older = tree->newest;
    node->newer = NONE;
    if (tree->newest != NONE)
        tree->nodes[tree->newest].newer = id;
    else
        tree->oldest = id;
    tree->newest = id;
    node->cached = true;
    tree->cached++;
}

static void list_remove(struct prefix_tree *tree, block_id id)
{
    struct node *node = &tree->nodes[id];
    if (node->older != NONE)
        tree->nodes[node->older].newer = node->newer;
    else
        tree->oldest = node->newer;
    if (node->newer != NONE)
        tree->nodes[node->newer].older = node->older;
    else
        tree->newest = node->older;
    node->cached = false;
    tree->cached--;
}

/* ---- states of a block ---- */

static void evict_oldest(struct prefix_tree *tree)
{
    block_id id = tree->oldest;
    assert(id != NONE);
    struct node *node = &tree->nodes[id];
    assert(node->cached && node->sealed && node->child_count == 0);

    uint32_t slot = slot_find(tree, &node->key);
    assert(tree->slots[slot] == id);
    list_remove(tree, id);
    slot_remove(tree, slot);
    if (node->parent != NONE)
        tree->nodes[node->parent].child_count--;
    node->sealed = false;
    tree->evictions++;
    uint32_t left = block_pool_drop(tree->pool, id);
    assert(left == 0);
    if (tree->hook != NULL)
        tree->hook(tree->hook_ctx, PREFIX_TREE_REMOVED, &node->key, id);
}

/* Add a reference. A cached block becomes referenced, and then holds its parent, and so on up: at
 * most one step when the parent is referenced already. */
static void block_acquire(struct prefix_tree *tree, block_id id)
{
    for (;;) {
        struct node *node = &tree->nodes[id];
        block_pool_share(tree->pool, id);
        if (!node->cached)
            return;
        list_remove(tree, id);
        tree->referenced++;
        if (node->parent == NONE)
            return;
        id = node->parent;
        tree->nodes[id].children_active++;
    }
}

/* Drop a reference. The last one frees a block, or makes it cached and lets go of its parent. */
static void block_release(struct prefix_tree *tree, block_id id)
{
    for (;;) {
        struct node *node = &tree->nodes[id];
        uint32_t left = block_pool_drop(tree->pool, id);
        if (left == 0) {
            assert(!node->sealed);
            tree->referenced--;
            return;
        }
        if (!node->sealed || left > 1)
            return;
        list_push(tree, id);
        tree->referenced--;
        if (node->parent == NONE)
            return;
        id = node->parent;
        assert(tree->nodes[id].children_active > 0);
        tree->nodes[id].children_active--;
    }
}

/* ---- the calls ---- */

status prefix_tree_open(uint32_t block_count, uint32_t cached_blocks_max,
                        struct prefix_tree **tree_out)
{
    struct prefix_tree *tree = calloc(1, sizeof(*tree));
    if (tree == NULL)
        goto err_none;
    status code = block_pool_open(block_count, &tree->pool);
    if (code != OK) {
        free(tree);
        return code;
    }
    uint32_t slots = 2;
    while (slots < 2 * block_count)
        slots *= 2;
    tree->nodes = calloc(block_count, sizeof(*tree->nodes));
    tree->slots = calloc(slots, sizeof(*tree->slots));
    if (tree->nodes == NULL || tree->slots == NULL)
        goto err_tree;
    for (uint32_t i = 0; i < slots; i++)
        tree->slots[i] = NONE;
    tree->slot_mask = slots - 1;
    tree->block_count = block_count;
    tree->cached_max = cached_blocks_max;
    tree->oldest = NONE;
    tree->newest = NONE;
    *tree_out = tree;
    return OK;

err_tree:
    free(tree->slots);
    free(tree->nodes);
    block_pool_close(tree->pool);
    free(tree);
err_none:
    return error_set(ERR_NO_MEMORY, "no memory for a prefix tree of %u blocks", block_count);
}

void prefix_tree_close(struct prefix_tree *tree)
{
    if (tree == NULL)
        return;
    tree->hook = NULL;
    prefix_tree_clear(tree);
    assert(tree->referenced == 0);
    block_pool_close(tree->pool);
    free(tree->slots);
    free(tree->nodes);
    free(tree);
}

void prefix_tree_set_hook(struct prefix_tree *tree, prefix_tree_hook hook, void *ctx)
{
    tree->hook = hook;
    tree->hook_ctx = ctx;
}

uint32_t prefix_tree_match(struct prefix_tree *tree, const struct block_key *keys, uint32_t count,
                           block_id *ids_out)
{
    uint32_t found = 0;
    for (; found < count; found++) {
        block_id id = tree->slots[slot_find(tree, &keys[found])];
        if (id == NONE)
            break;
        block_acquire(tree, id);
        ids_out[found] = id;
    }
    counts_assert(tree);
    return found;
}

uint32_t prefix_tree_peek(const struct prefix_tree *tree, const struct block_key *keys,
                          uint32_t count)
{
    uint32_t found = 0;
    while (found < count && tree->slots[slot_find(tree, &keys[found])] != NONE)
        found++;
    return found;
}

status prefix_tree_insert(struct prefix_tree *tree, const struct block_key *key,
                          const struct block_key *parent, block_id id, block_id *id_out)
{
    assert(id < tree->block_count);
    struct node *node = &tree->nodes[id];
    assert(block_pool_references(tree->pool, id) > 0 && !node->cached);

    uint32_t slot = slot_find(tree, key);
    if (tree->slots[slot] != NONE) {
        *id_out = tree->slots[slot];
        return *id_out == id ? OK : ERR_FULL;
    }
    assert(!node->sealed); /* a block has one content, so one key */
    *id_out = id;

    block_id parent_id = NONE;
    if (parent != NULL) {
        parent_id = tree->slots[slot_find(tree, parent)];
        if (parent_id == NONE)
            return ERR_NOT_FOUND;
        block_acquire(tree, parent_id);
        tree->nodes[parent_id].children_active++;
        tree->nodes[parent_id].child_count++;
    }
    *node = (struct node){
        .key = *key, .parent = parent_id, .older = NONE, .newer = NONE, .sealed = true};
    tree->slots[slot] = id;
    block_pool_share(tree->pool, id);
    counts_assert(tree);
    if (tree->hook != NULL)
        tree->hook(tree->hook_ctx, PREFIX_TREE_STORED, key, id);
    return OK;
}

void prefix_tree_swap(struct prefix_tree *tree, block_id *id, block_id to)
{
    assert(to < tree->block_count);
    block_acquire(tree, to);
    prefix_tree_drop(tree, id, 1);
    *id = to;
}

status prefix_tree_take(struct prefix_tree *tree, uint32_t count, block_id *ids_out)
{
    if (count > prefix_tree_available(tree))
        return ERR_FULL;
    while (block_pool_free_count(tree->pool) < count)
        evict_oldest(tree);
    status code = block_pool_take(tree->pool, count, ids_out);
    assert(code == OK);
    tree->referenced += count;
    counts_assert(tree);
    return OK;
}

void prefix_tree_share(struct prefix_tree *tree, block_id id)
{
    assert(id < tree->block_count && prefix_tree_references(tree, id) > 0);
    block_acquire(tree, id);
}

void prefix_tree_drop(struct prefix_tree *tree, const block_id *ids, uint32_t count)
{
    for (uint32_t i = count; i-- > 0;) {
        assert(ids[i] < tree->block_count && prefix_tree_references(tree, ids[i]) > 0);
        block_release(tree, ids[i]);
    }
    while (tree->cached > tree->cached_max)
        evict_oldest(tree);
    counts_assert(tree);
}

void prefix_tree_renew(struct prefix_tree *tree, block_id id)
{
    block_pool_renew(tree->pool, id);
}

const atomic_uint_fast64_t *prefix_tree_fills(const struct prefix_tree *tree)
{
    return block_pool_fills(tree->pool);
}

uint32_t prefix_tree_references(const struct prefix_tree *tree, block_id id)
{
    const struct node *node = &tree->nodes[id];
    uint32_t all = block_pool_references(tree->pool, id);
    uint32_t own = node->sealed ? 1 + node->children_active : 0;
    assert(all >= own);
    return all - own;
}

bool prefix_tree_key_of(const struct prefix_tree *tree, block_id id, struct block_key *key_out)
{
    assert(id < tree->block_count);
    if (!tree->nodes[id].sealed)
        return false;
    *key_out = tree->nodes[id].key;
    return true;
}

void prefix_tree_clear(struct prefix_tree *tree)
{
    while (tree->cached > 0)
        evict_oldest(tree);
    counts_assert(tree);
}

void prefix_tree_count(const struct prefix_tree *tree, struct prefix_tree_counts *counts_out)
{
    counts_assert(tree);
    *counts_out = (struct prefix_tree_counts){
        .free = block_pool_free_count(tree->pool),
        .cached = tree->cached,
        .referenced = tree->referenced,
        .evictions = tree->evictions,
    };
}

uint32_t prefix_tree_available(const struct prefix_tree *tree)
{
    return block_pool_free_count(tree->pool) + tree->cached;
}
