#include "router/directory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define ASK_AGAIN 32 /* messages */
#define WORDS (DIRECTORY_WORKERS_MAX / 64)

struct entry {
    struct block_key key;
    uint64_t holders[WORDS];
    bool used;
    bool saved;
};

struct member {
    bool used;
    bool whole;       /* all that it said is known */
    uint32_t unheard; /* messages since it was asked for all, while it has not answered */
    uint64_t next_number;
};

struct directory {
    struct entry *entries; /* [capacity] open addressing, linear probing; at most half are used */
    uint32_t capacity, used, entries_max;
    struct member members[DIRECTORY_WORKERS_MAX];
    uint64_t repairs, dropped;
};

status directory_open(uint32_t entries_max, struct directory **directory_out)
{
    assert(entries_max >= 16 && (entries_max & (entries_max - 1)) == 0);
    struct directory *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the directory of blocks");
    d->entries_max = entries_max;
    d->capacity = entries_max < 1024 ? 2 * entries_max : 2048;
    d->entries = calloc(d->capacity, sizeof(*d->entries));
    if (d->entries == NULL) {
        free(d);
        return error_set(ERR_NO_MEMORY, "no memory for the directory of blocks");
    }
    *directory_out = d;
    return OK;
}

void directory_close(struct directory *directory)
{
    if (directory == NULL)
        return;
    free(directory->entries);
    free(directory);
}

/* ---- entries ---- */

static uint32_t entry_home(const struct directory *d, const struct block_key *key)
{
    return load_u32(key->bytes) & (d->capacity - 1);
}

static uint32_t entry_find(const struct directory *d, const struct block_key *key)
{
    uint32_t at = entry_home(d, key);
    while (d->entries[at].used && !block_key_equal(&d->entries[at].key, key))
        at = (at + 1) & (d->capacity - 1);
    return at;
}

static bool entry_empty(const struct entry *entry)
{
    uint64_t any = 0;
    for (int i = 0; i < WORDS; i++)
        any |= entry->holders[i];
    return any == 0 && !entry->saved;
}

/* Empty the slot, moving back those that were pushed past it. */
static void entry_remove(struct directory *d, uint32_t hole)
{
    uint32_t mask = d->capacity - 1;
    for (uint32_t next = (hole + 1) & mask; d->entries[next].used; next = (next + 1) & mask) {
        uint32_t home = entry_home(d, &d->entries[next].key);
        if (((next - home) & mask) >= ((next - hole) & mask)) {
            d->entries[hole] = d->entries[next];
            hole = next;
        }
    }
    d->entries[hole] = (struct entry){0};
    d->used--;
}

/* Into a table of another size, without what keep does not want. False: no memory. */
static bool entries_rebuild(struct directory *d, uint32_t capacity,
                            bool (*keep)(const struct entry *))
{
    struct entry *old = d->entries;
    uint32_t old_capacity = d->capacity;
    struct entry *entries = calloc(capacity, sizeof(*entries));
    if (entries == NULL)
        return false;
    d->entries = entries;
    d->capacity = capacity;
    d->used = 0;
    for (uint32_t i = 0; i < old_capacity; i++) {
        if (!old[i].used || !keep(&old[i]))
            continue;
        d->entries[entry_find(d, &old[i].key)] = old[i];
        d->used++;
    }
    free(old);
    return true;
}

static bool keep_known(const struct entry *entry)
{
    return !entry_empty(entry);
}

/* A store tells of what it got, never of what it dropped: such entries go first. */
static bool keep_held(const struct entry *entry)
{
    struct entry held = *entry;
    held.saved = false;
    return !entry_empty(&held);
}

static struct entry *entry_make(struct directory *d, const struct block_key *key)
{
    uint32_t at = entry_find(d, key);
    if (d->entries[at].used)
        return &d->entries[at];
    if (2 * (d->used + 1) > d->capacity) {
        bool room = d->capacity < 2 * d->entries_max
                        ? entries_rebuild(d, 2 * d->capacity, keep_known)
                        : entries_rebuild(d, d->capacity, keep_held);
        if (!room || 2 * (d->used + 1) > d->capacity) {
            d->dropped++;
            return NULL;
        }
        at = entry_find(d, key);
    }
    d->entries[at] = (struct entry){.key = *key, .used = true};
    d->used++;
    return &d->entries[at];
}

/* ---- workers ---- */

int directory_join(struct directory *directory)
{
    for (int slot = 0; slot < DIRECTORY_WORKERS_MAX; slot++) {
        if (!directory->members[slot].used) {
            directory->members[slot] = (struct member){.used = true};
            return slot;
        }
    }
    return -1;
}

static void member_forget(struct directory *d, int slot)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);
    bool any = false;
    for (uint32_t i = 0; i < d->capacity; i++) {
        any = any || (d->entries[i].holders[slot / 64] & bit) != 0;
        d->entries[i].holders[slot / 64] &= ~bit;
    }
    if (any) /* Without memory for it the empty ones stay until the next time. */
        entries_rebuild(d, d->capacity, keep_known);
}

void directory_leave(struct directory *directory, int slot)
{
    if (slot < 0)
        return;
    member_forget(directory, slot);
    directory->members[slot] = (struct member){0};
}

static void directory_event(struct directory *d, int slot, enum wire_event event,
                            const struct block_key *key)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);
    if (event == WIRE_EVENT_REMOVED) {
        uint32_t at = entry_find(d, key);
        d->entries[at].holders[slot / 64] &= ~bit;
        if (d->entries[at].used && entry_empty(&d->entries[at]))
            entry_remove(d, at);
        return;
    }
    struct entry *entry = entry_make(d, key);
    if (entry == NULL)
        return;
    if (event == WIRE_EVENT_STORED)
        entry->holders[slot / 64] |= bit;
    else
        entry->saved = true;
}

bool directory_take(struct directory *directory, int slot, const struct wire_blocks *blocks)
{
    if (slot < 0)
        return true;
    struct member *member = &directory->members[slot];
    assert(member->used);
    bool all = (blocks->flags & WIRE_BLOCKS_ALL) != 0;
    if (!all && !member->whole) /* It was asked; again when the answer seems to be lost too. */
        return ++member->unheard % ASK_AGAIN != 0;
    if (!all && blocks->number < member->next_number)
        return true; /* Twice the same. */
    if (!all && blocks->number > member->next_number) {
        member->whole = false;
        directory->repairs++;
        member_forget(directory, slot);
        return false;
    }
    if (all)
        member_forget(directory, slot);
    member->whole = true;
    member->unheard = 0;
    member->next_number = blocks->number + 1;
    for (uint32_t i = 0; i < blocks->event_count; i++) {
        const uint8_t *event = blocks->events + (size_t)i * WIRE_EVENT_BYTES;
        struct block_key key;
        memcpy(key.bytes, event + 1, sizeof(key.bytes));
        directory_event(directory, slot, (enum wire_event)event[0], &key);
    }
    return true;
}

void directory_find(const struct directory *directory, const struct block_key *keys, uint32_t count,
                    uint32_t *runs_out, uint32_t *saved_out)
{
    uint64_t going[WORDS]; /* those that have all keys so far */
    bool saved = true;
    memset(going, 0xff, sizeof(going));
    memset(runs_out, 0, DIRECTORY_WORKERS_MAX * sizeof(*runs_out));
    if (saved_out != NULL)
        *saved_out = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct entry *entry = &directory->entries[entry_find(directory, &keys[i])];
        uint64_t any = 0;
        if (!entry->used)
            return;
        saved = saved && entry->saved;
        if (saved && saved_out != NULL)
            *saved_out = i + 1;
        for (int w = 0; w < WORDS; w++) {
            going[w] &= entry->holders[w];
            any |= going[w];
            for (uint64_t bits = going[w]; bits != 0; bits &= bits - 1)
                runs_out[w * 64 + __builtin_ctzll(bits)] = i + 1;
        }
        if (any == 0 && !saved)
            return;
    }
}

void directory_count(const struct directory *directory, struct directory_counts *counts_out)
{
    *counts_out = (struct directory_counts){
        .entries = directory->used, .repairs = directory->repairs, .dropped = directory->dropped};
}
