/* store/memory.h - what a store knows of its blocks, and which of them lie in memory.
 *
 *     by key      key -> entry                  one copy of each
 *     by parent   parent's key -> its children  descendants, whether the parent is there or not
 *     slots       blocks of the pool, each of one entry; an entry may be on disk only
 *
 *     take (slot, pinned) -> publish -> [pin ... unpin]* -> evicted, or dropped
 *
 * A pinned entry keeps its slot. Slots of others are taken from the least recently used when a new
 * one is needed; an entry that is on disk too lives on without. An entry that is dropped while
 * pinned is found no more, and goes with its last pin.
 *
 * Threads: one. Memory: an entry is memory's; whoever pins it may look at it until unpin.
 */
#ifndef STORE_MEMORY_H
#define STORE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_key.h"
#include "store/disk.h"
#include "wire/checksum.h"

#define MEMORY_NO_SLOT UINT32_MAX

struct memory;

struct memory_entry {
    struct block_key key, parent;
    bool is_first;
    bool indexed, ready; /* ready: its slot holds the block, whole and checked */
    bool loading;        /* its slot is being filled from the disk */
    bool on_disk;
    struct disk_place place;
    uint32_t slot, pins;
    uint64_t expiry_ns; /* clock_ns; 0: none */
    struct memory_entry *key_next, *parent_next, *newer, *older;
    struct checksum checksums[]; /* of each layer */
};

struct memory_counts {
    uint32_t slots, used, pinned; /* pinned: slots of entries with pins */
    uint64_t entries, evicted, expired;
};

/* Errors: ERR_NO_MEMORY. */
status memory_open(uint32_t slot_count, uint32_t layer_count, struct memory **memory_out);
void memory_close(struct memory *memory); /* pinned ones go too */

/* The entry that has this key; NULL: none, or it has expired. */
struct memory_entry *memory_find(struct memory *memory, const struct block_key *key);

/* A new entry with a slot, pinned once, found by nobody. Errors, without a message: ERR_FULL (every
 * slot is pinned), ERR_NO_MEMORY. */
status memory_take(struct memory *memory, struct memory_entry **entry_out);

/* The entry, whose key, parent, checksums and expiry are set, can be found from now on. False: the
 * key is there already, and the entry goes with its last pin. */
bool memory_publish(struct memory *memory, struct memory_entry *entry);

/* A block that lies on disk only. NULL: no memory, or the key is there already. */
struct memory_entry *memory_add_stored(struct memory *memory, const struct block_key *key,
                                       const struct block_key *parent, bool is_first,
                                       const struct checksum *checksums, struct disk_place place);

/* A slot for an entry that has none and is pinned: to load it. Errors: ERR_FULL. */
status memory_load(struct memory *memory, struct memory_entry *entry);

/* Take the slot away again: the load failed. */
void memory_unload(struct memory *memory, struct memory_entry *entry);

/* Use: it is the most recently used then. */
void memory_pin(struct memory *memory, struct memory_entry *entry);
void memory_unpin(struct memory *memory, struct memory_entry *entry);

/* Forget: found no more. forget is told of each one that is on disk; may be NULL. */
typedef void (*memory_forget)(void *ctx, const struct memory_entry *entry);
void memory_drop(struct memory *memory, struct memory_entry *entry, memory_forget forget,
                 void *ctx);

/* key (there or not) and everything that continues it. Returns how many were dropped. */
uint64_t memory_drop_tree(struct memory *memory, const struct block_key *key, memory_forget forget,
                          void *ctx);
uint64_t memory_drop_all(struct memory *memory, memory_forget forget, void *ctx);

/* Drop what has expired; O(entries) when anything expires at all. */
void memory_expire(struct memory *memory, uint64_t now_ns, memory_forget forget, void *ctx);

/* The disk does not have it any more: without a slot it is gone. */
void memory_lost_place(struct memory *memory, struct memory_entry *entry);

/* Up to count entries, from a place that 0 begins and that is 0 again at the end. They are memory's
 * until its next call. */
uint32_t memory_list(const struct memory *memory, uint64_t *place,
                     const struct memory_entry **entries_out, uint32_t count);

void memory_count(const struct memory *memory, struct memory_counts *counts_out);

#endif
