/* The index of a store, against a plain list that a printed seed drives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "store/memory.h"

#define KEYS 300
#define SLOTS 32

static struct block_key key_of(uint32_t i)
{
    struct block_key key = {{0}};
    memcpy(key.bytes, &i, sizeof(i));
    memcpy(key.bytes + 8, &i, sizeof(i));
    return key;
}

static struct memory_entry *add(struct memory *memory, uint32_t i, uint32_t parent, bool is_first)
{
    struct memory_entry *entry;
    if (memory_take(memory, &entry) != OK)
        return NULL;
    entry->key = key_of(i);
    entry->parent = key_of(parent);
    entry->is_first = is_first;
    if (!memory_publish(memory, entry)) {
        memory_unpin(memory, entry);
        return NULL;
    }
    return entry;
}

static void counts_add_up(const struct memory *memory, uint32_t pinned)
{
    struct memory_counts counts;
    memory_count(memory, &counts);
    assert_int_equal(counts.slots, SLOTS);
    assert_int_equal(counts.pinned, pinned);
    assert_true(counts.used >= pinned && counts.used <= SLOTS);
}

static void a_pinned_block_is_never_evicted(void **state)
{
    (void)state;
    struct memory *memory;
    struct memory_entry *pinned[SLOTS - 2], *entry;
    assert_int_equal(memory_open(SLOTS, 1, &memory), OK);
    for (uint32_t i = 0; i < SLOTS - 2; i++)
        assert_non_null(pinned[i] = add(memory, i, 0, true));
    for (uint32_t i = 100; i < 200; i++) {
        assert_non_null(entry = add(memory, i, 0, true));
        memory_unpin(memory, entry);
    }
    for (uint32_t i = 0; i < SLOTS - 2; i++) {
        struct block_key key = key_of(i);
        assert_ptr_equal(memory_find(memory, &key), pinned[i]);
        assert_true(pinned[i]->ready && pinned[i]->slot != MEMORY_NO_SLOT);
    }
    counts_add_up(memory, SLOTS - 2);
    /* All pinned: full, and not a slot more. */
    struct memory_entry *a = add(memory, 201, 0, true), *b = add(memory, 202, 0, true);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(memory_take(memory, &entry), ERR_FULL);
    memory_unpin(memory, a);
    assert_int_equal(memory_take(memory, &entry), OK);
    memory_unpin(memory, entry); /* never published: gone */
    struct block_key key = key_of(201);
    assert_null(memory_find(memory, &key));
    memory_close(memory);
}

static void descendants_go_with_their_parent(void **state)
{
    (void)state;
    struct memory *memory;
    assert_int_equal(memory_open(SLOTS, 1, &memory), OK);
    /* 1 - 2 - 3, 2 - 4, 9 - 10; 7 alone; the parent of 20 is not there. */
    static const uint32_t tree[][2] = {{1, 0}, {2, 1},  {3, 2}, {4, 2},
                                       {9, 0}, {10, 9}, {7, 0}, {20, 19}};
    for (uint32_t i = 0; i < 8; i++)
        memory_unpin(memory, add(memory, tree[i][0], tree[i][1], tree[i][1] == 0));
    struct block_key key = key_of(2);
    assert_int_equal(memory_drop_tree(memory, &key, NULL, NULL), 3);
    key = key_of(1);
    assert_non_null(memory_find(memory, &key));
    key = key_of(19);
    assert_int_equal(memory_drop_tree(memory, &key, NULL, NULL), 1);
    assert_int_equal(memory_drop_all(memory, NULL, NULL), 4);
    counts_add_up(memory, 0);
    memory_close(memory);
}

/* Random calls; a model says what must be found, pinned and counted. */
static void random_calls(void **state)
{
    (void)state;
    uint64_t seed = clock_ns() | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct memory *memory;
    struct memory_entry *held[KEYS] = {0};
    uint32_t pins[KEYS] = {0};
    assert_int_equal(memory_open(SLOTS, 1, &memory), OK);
    for (uint32_t n = 0; n < 200000; n++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(seed >> 33) % KEYS;
        struct block_key key = key_of(i);
        struct memory_entry *entry = memory_find(memory, &key);
        if (pins[i] > 0 && held[i]->indexed)
            assert_ptr_equal(entry, held[i]);
        uint32_t slots = 0;
        for (uint32_t k = 0; k < KEYS; k++)
            slots += pins[k] > 0;
        switch ((seed >> 20) % 5) {
        case 0:
        case 1:
            if (pins[i] == 0 && (held[i] = add(memory, i, i / 2, i < 2)) != NULL)
                pins[i] = 1;
            else if (pins[i] == 0 && entry == NULL)
                assert_int_equal(slots, SLOTS);
            break;
        case 2:
            if (entry != NULL && (pins[i] == 0 || held[i] == entry)) {
                memory_pin(memory, entry);
                held[i] = entry;
                pins[i]++;
            }
            break;
        case 3:
            if (pins[i] > 0 && --pins[i] == 0)
                memory_unpin(memory, held[i]);
            else if (pins[i] > 0)
                memory_unpin(memory, held[i]);
            break;
        case 4:
            if (entry != NULL && n % 7 == 0)
                memory_drop(memory, entry, NULL, NULL);
            break;
        }
        slots = 0;
        for (uint32_t k = 0; k < KEYS; k++)
            slots += pins[k] > 0;
        counts_add_up(memory, slots);
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        for (; pins[k] > 0; pins[k]--)
            memory_unpin(memory, held[k]);
    }
    counts_add_up(memory, 0);
    memory_drop_all(memory, NULL, NULL);
    struct memory_counts counts;
    memory_count(memory, &counts);
    assert_int_equal(counts.used, 0);
    assert_int_equal(counts.entries, 0);
    memory_close(memory);
}

/* What is on disk too outlives its slot, can be loaded again, and is listed once. */
static void disk_entries_outlive_their_slots(void **state)
{
    (void)state;
    struct memory *memory;
    struct checksum sum = {0};
    const struct memory_entry *entries[KEYS];
    struct block_key zero = key_of(0);
    assert_int_equal(memory_open(SLOTS, 1, &memory), OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        struct block_key key = key_of(i);
        struct disk_place place = {.record = i};
        assert_non_null(memory_add_stored(memory, &key, &zero, true, &sum, place));
        assert_null(memory_add_stored(memory, &key, &zero, true, &sum, place));
    }
    for (uint32_t i = 0; i < KEYS; i++) {
        struct block_key key = key_of(i);
        struct memory_entry *entry = memory_find(memory, &key);
        assert_true(entry->on_disk && entry->slot == MEMORY_NO_SLOT && entry->place.record == i);
        memory_pin(memory, entry);
        assert_int_equal(memory_load(memory, entry), OK);
        entry->ready = true;
        memory_unpin(memory, entry);
    }
    uint64_t place = 0;
    uint32_t listed = 0;
    do
        listed += memory_list(memory, &place, entries, 50);
    while (place != 0);
    assert_int_equal(listed, KEYS);
    counts_add_up(memory, 0);
    struct memory_entry *entry = memory_find(memory, &zero);
    memory_lost_place(memory, entry); /* it had no slot any more: gone */
    assert_null(memory_find(memory, &zero));
    memory_close(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pinned_block_is_never_evicted),
        cmocka_unit_test(descendants_go_with_their_parent),
        cmocka_unit_test(random_calls),
        cmocka_unit_test(disk_entries_outlive_their_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
