#include "store/memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"

#define BUCKETS_FIRST 1024u

struct memory {
    uint32_t layer_count, slot_count;
    uint32_t *free_slots;
    uint32_t free_count, pinned;
    struct memory_entry **by_key, **by_parent;
    uint64_t bucket_count; /* a power of two; of each table */
    uint64_t entries, expiring;
    struct memory_entry *newest, *oldest; /* indexed, with a slot, not pinned */
    uint64_t evicted, expired;
};

static uint64_t bucket_of(const struct memory *memory, const struct block_key *key)
{
    return load_u64(key->bytes) & (memory->bucket_count - 1); /* keys are hashes already */
}

status memory_open(uint32_t slot_count, uint32_t layer_count, struct memory **memory_out)
{
    struct memory *memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the store's index");
    memory->layer_count = layer_count;
    memory->slot_count = memory->free_count = slot_count;
    memory->bucket_count = BUCKETS_FIRST;
    memory->free_slots = malloc((size_t)slot_count * sizeof(uint32_t));
    memory->by_key = calloc(memory->bucket_count, sizeof(*memory->by_key));
    memory->by_parent = calloc(memory->bucket_count, sizeof(*memory->by_parent));
    if (memory->free_slots == NULL || memory->by_key == NULL || memory->by_parent == NULL) {
        memory_close(memory);
        return error_set(ERR_NO_MEMORY, "no memory for the store's index of %u blocks", slot_count);
    }
    for (uint32_t i = 0; i < slot_count; i++)
        memory->free_slots[i] = slot_count - 1 - i;
    *memory_out = memory;
    return OK;
}

void memory_close(struct memory *memory)
{
    if (memory == NULL)
        return;
    for (uint64_t i = 0; memory->by_key != NULL && i < memory->bucket_count; i++) {
        for (struct memory_entry *entry = memory->by_key[i], *next; entry != NULL; entry = next) {
            next = entry->key_next;
            free(entry);
        }
    }
    free(memory->by_key);
    free(memory->by_parent);
    free(memory->free_slots);
    free(memory);
}

/* ---- tables ---- */

/* Twice the buckets when there are more entries; without memory for it chains only get longer. */
static void memory_grow(struct memory *memory)
{
    uint64_t old_count = memory->bucket_count;
    struct memory_entry **by_key = calloc(old_count * 2, sizeof(*by_key));
    struct memory_entry **by_parent = calloc(old_count * 2, sizeof(*by_parent));
    if (by_key == NULL || by_parent == NULL) {
        free(by_key);
        free(by_parent);
        return;
    }
    struct memory_entry **old = memory->by_key;
    memory->bucket_count = old_count * 2;
    for (uint64_t i = 0; i < old_count; i++) {
        for (struct memory_entry *entry = old[i], *next; entry != NULL; entry = next) {
            next = entry->key_next;
            struct memory_entry **place = &by_key[bucket_of(memory, &entry->key)];
            entry->key_next = *place;
            *place = entry;
            place = &by_parent[bucket_of(memory, &entry->parent)];
            entry->parent_next = *place;
            *place = entry;
        }
    }
    free(memory->by_key);
    free(memory->by_parent);
    memory->by_key = by_key;
    memory->by_parent = by_parent;
}

static struct memory_entry *index_find(const struct memory *memory, const struct block_key *key)
{
    struct memory_entry *entry = memory->by_key[bucket_of(memory, key)];
    while (entry != NULL && !block_key_equal(&entry->key, key))
        entry = entry->key_next;
    return entry;
}

static void index_insert(struct memory *memory, struct memory_entry *entry)
{
    if (memory->entries >= memory->bucket_count)
        memory_grow(memory);
    struct memory_entry **place = &memory->by_key[bucket_of(memory, &entry->key)];
    entry->key_next = *place;
    *place = entry;
    place = &memory->by_parent[bucket_of(memory, &entry->parent)];
    entry->parent_next = *place;
    *place = entry;
    entry->indexed = true;
    memory->entries++;
    memory->expiring += entry->expiry_ns != 0;
}

static void index_remove(struct memory *memory, struct memory_entry *entry)
{
    struct memory_entry **place = &memory->by_key[bucket_of(memory, &entry->key)];
    while (*place != entry)
        place = &(*place)->key_next;
    *place = entry->key_next;
    place = &memory->by_parent[bucket_of(memory, &entry->parent)];
    while (*place != entry)
        place = &(*place)->parent_next;
    *place = entry->parent_next;
    entry->indexed = false;
    memory->entries--;
    memory->expiring -= entry->expiry_ns != 0;
}

/* ---- slots and their order of use ---- */

static void lru_push(struct memory *memory, struct memory_entry *entry)
{
    entry->older = memory->newest;
    entry->newer = NULL;
    if (memory->newest != NULL)
        memory->newest->newer = entry;
    else
        memory->oldest = entry;
    memory->newest = entry;
}

static void lru_remove(struct memory *memory, struct memory_entry *entry)
{
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        memory->newest = entry->older;
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        memory->oldest = entry->newer;
    entry->newer = entry->older = NULL;
}

static void slot_give_back(struct memory *memory, struct memory_entry *entry)
{
    if (entry->slot == MEMORY_NO_SLOT)
        return;
    memory->free_slots[memory->free_count++] = entry->slot;
    entry->slot = MEMORY_NO_SLOT;
    entry->ready = false;
}

/* Not pinned, in no list: it leaves. */
static void entry_free(struct memory *memory, struct memory_entry *entry)
{
    slot_give_back(memory, entry);
    if (entry->indexed)
        index_remove(memory, entry);
    free(entry);
}

static uint32_t slot_take(struct memory *memory)
{
    if (memory->free_count == 0) {
        struct memory_entry *entry = memory->oldest;
        if (entry == NULL)
            return MEMORY_NO_SLOT;
        lru_remove(memory, entry);
        memory->evicted++;
        if (entry->on_disk)
            slot_give_back(memory, entry);
        else
            entry_free(memory, entry);
    }
    return memory->free_slots[--memory->free_count];
}

/* ---- an entry's life ---- */

static struct memory_entry *entry_new(const struct memory *memory)
{
    struct memory_entry *entry =
        calloc(1, sizeof(*entry) + memory->layer_count * sizeof(entry->checksums[0]));
    if (entry != NULL)
        entry->slot = MEMORY_NO_SLOT;
    return entry;
}

struct memory_entry *memory_find(struct memory *memory, const struct block_key *key)
{
    struct memory_entry *entry = index_find(memory, key);
    if (entry != NULL && entry->expiry_ns != 0 && entry->expiry_ns <= clock_ns())
        return NULL;
    return entry;
}

status memory_take(struct memory *memory, struct memory_entry **entry_out)
{
    struct memory_entry *entry = entry_new(memory);
    if (entry == NULL)
        return ERR_NO_MEMORY;
    entry->slot = slot_take(memory);
    if (entry->slot == MEMORY_NO_SLOT) {
        free(entry);
        return ERR_FULL;
    }
    entry->pins = 1;
    memory->pinned++;
    *entry_out = entry;
    return OK;
}

bool memory_publish(struct memory *memory, struct memory_entry *entry)
{
    struct memory_entry *other = index_find(memory, &entry->key);
    if (other != NULL) {
        /* What was to expire stays when somebody adds it for good. */
        if (other->expiry_ns != 0 &&
            (entry->expiry_ns == 0 || entry->expiry_ns > other->expiry_ns)) {
            memory->expiring -= entry->expiry_ns == 0;
            other->expiry_ns = entry->expiry_ns;
        }
        return false;
    }
    entry->ready = true;
    index_insert(memory, entry);
    return true;
}

struct memory_entry *memory_add_stored(struct memory *memory, const struct block_key *key,
                                       const struct block_key *parent, bool is_first,
                                       const struct checksum *checksums, struct disk_place place)
{
    if (index_find(memory, key) != NULL)
        return NULL;
    struct memory_entry *entry = entry_new(memory);
    if (entry == NULL)
        return NULL;
    entry->key = *key;
    entry->parent = *parent;
    entry->is_first = is_first;
    entry->on_disk = true;
    entry->place = place;
    memcpy(entry->checksums, checksums, memory->layer_count * sizeof(*checksums));
    index_insert(memory, entry);
    return entry;
}

status memory_load(struct memory *memory, struct memory_entry *entry)
{
    assert(entry->pins > 0 && entry->slot == MEMORY_NO_SLOT);
    entry->slot = slot_take(memory);
    if (entry->slot == MEMORY_NO_SLOT)
        return ERR_FULL;
    memory->pinned++;
    return OK;
}

void memory_unload(struct memory *memory, struct memory_entry *entry)
{
    assert(entry->pins > 0 && entry->slot != MEMORY_NO_SLOT);
    memory->pinned--;
    slot_give_back(memory, entry);
}

void memory_pin(struct memory *memory, struct memory_entry *entry)
{
    if (entry->pins++ == 0 && entry->slot != MEMORY_NO_SLOT) {
        lru_remove(memory, entry);
        memory->pinned++;
    }
}

void memory_unpin(struct memory *memory, struct memory_entry *entry)
{
    assert(entry->pins > 0);
    if (--entry->pins > 0)
        return;
    memory->pinned -= entry->slot != MEMORY_NO_SLOT;
    if (!entry->indexed || (entry->slot == MEMORY_NO_SLOT && !entry->on_disk))
        entry_free(memory, entry);
    else if (entry->slot != MEMORY_NO_SLOT)
        lru_push(memory, entry);
}

void memory_drop(struct memory *memory, struct memory_entry *entry, memory_forget forget, void *ctx)
{
    if (entry->on_disk && forget != NULL)
        forget(ctx, entry);
    entry->on_disk = false;
    index_remove(memory, entry);
    if (entry->pins > 0)
        return;
    if (entry->slot != MEMORY_NO_SLOT)
        lru_remove(memory, entry);
    entry_free(memory, entry);
}

uint64_t memory_drop_tree(struct memory *memory, const struct block_key *key, memory_forget forget,
                          void *ctx)
{
    /* Without recursion: a chain may be as long as a context. Keys that are still to be looked at
     * wait in a list that grows; without memory for it the drop is cut short. */
    uint64_t dropped = 0, waiting = 1, capacity = 64;
    struct block_key *keys = malloc(capacity * sizeof(*keys));
    if (keys == NULL)
        return 0;
    keys[0] = *key;
    while (waiting > 0) {
        struct block_key at = keys[--waiting];
        struct memory_entry *child = memory->by_parent[bucket_of(memory, &at)];
        for (; child != NULL; child = child->parent_next) {
            if (child->is_first || !block_key_equal(&child->parent, &at))
                continue;
            if (waiting == capacity) {
                struct block_key *more = realloc(keys, capacity * 2 * sizeof(*keys));
                if (more == NULL)
                    break;
                keys = more;
                capacity *= 2;
            }
            keys[waiting++] = child->key;
        }
        struct memory_entry *entry = index_find(memory, &at);
        if (entry != NULL) {
            memory_drop(memory, entry, forget, ctx);
            dropped++;
        }
    }
    free(keys);
    return dropped;
}

uint64_t memory_drop_all(struct memory *memory, memory_forget forget, void *ctx)
{
    uint64_t dropped = 0;
    for (uint64_t i = 0; i < memory->bucket_count; i++) {
        while (memory->by_key[i] != NULL) {
            memory_drop(memory, memory->by_key[i], forget, ctx);
            dropped++;
        }
    }
    return dropped;
}

void memory_expire(struct memory *memory, uint64_t now_ns, memory_forget forget, void *ctx)
{
    for (uint64_t i = 0; memory->expiring > 0 && i < memory->bucket_count; i++) {
        for (struct memory_entry *entry = memory->by_key[i], *next; entry != NULL; entry = next) {
            next = entry->key_next;
            if (entry->expiry_ns == 0 || entry->expiry_ns > now_ns)
                continue;
            memory_drop(memory, entry, forget, ctx);
            memory->expired++;
        }
    }
}

void memory_lost_place(struct memory *memory, struct memory_entry *entry)
{
    entry->on_disk = false;
    if (entry->pins == 0 && entry->slot == MEMORY_NO_SLOT)
        entry_free(memory, entry);
}

uint32_t memory_list(const struct memory *memory, uint64_t *place,
                     const struct memory_entry **entries_out, uint32_t count)
{
    /* place: buckets done. Whole buckets only, so that a list that changes repeats nothing. */
    uint32_t filled = 0;
    for (; *place < memory->bucket_count; ++*place) {
        uint32_t here = 0;
        const struct memory_entry *entry = memory->by_key[*place];
        for (; entry != NULL; entry = entry->key_next)
            here++;
        if (filled + here > count && filled > 0)
            return filled;
        for (entry = memory->by_key[*place]; entry != NULL && filled < count;
             entry = entry->key_next)
            entries_out[filled++] = entry;
    }
    *place = 0;
    return filled;
}

void memory_count(const struct memory *memory, struct memory_counts *counts_out)
{
    *counts_out = (struct memory_counts){.slots = memory->slot_count,
                                         .used = memory->slot_count - memory->free_count,
                                         .pinned = memory->pinned,
                                         .entries = memory->entries,
                                         .evicted = memory->evicted,
                                         .expired = memory->expired};
}
