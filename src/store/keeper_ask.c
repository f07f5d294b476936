/* Questions that move no blocks: find, delete, list, stat. */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "store/keeper_parts.h"

#define LIST_KEYS 4096u

void keeper_forget(void *ctx, const struct memory_entry *entry)
{
    struct keeper *keeper = ctx;
    if (keeper->disk != NULL)
        disk_forget(keeper->disk, &entry->key, entry->place);
}

status keeper_on_find(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_ask ask;
    status st = wire_store_ask_decode(payload, bytes, WIRE_STORE_KEY_BYTES, &ask);
    if (st != OK)
        return st;
    uint32_t found = 0;
    for (; keeper->known && found < ask.count; found++) {
        struct block_key key;
        memcpy(key.bytes, ask.items + (size_t)found * WIRE_STORE_KEY_BYTES, BLOCK_KEY_BYTES);
        if (memory_find(keeper->memory, &key) == NULL)
            break;
    }
    client_answer(client, FRAME_STORE_FOUND, ask.number, OK, found, NULL);
    return OK;
}

status keeper_on_delete(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_delete message;
    struct memory_entry *entry;
    struct block_key key;
    uint64_t count = 0;
    status st = wire_store_delete_decode(payload, bytes, &message);
    if (st != OK)
        return st;
    memcpy(key.bytes, message.key, BLOCK_KEY_BYTES);
    if (!keeper->known) {
        client_answer(client, FRAME_STORE_DELETED, message.number, OK, 0, NULL);
        return OK;
    }
    switch (message.scope) {
    case WIRE_STORE_ONE:
        entry = memory_find(keeper->memory, &key);
        if (entry != NULL)
            memory_drop(keeper->memory, entry, keeper_forget, keeper);
        count = entry != NULL;
        break;
    case WIRE_STORE_TREE:
        count = memory_drop_tree(keeper->memory, &key, keeper_forget, keeper);
        break;
    case WIRE_STORE_MODEL:
        if (memcmp(message.fingerprint, keeper->hello.fingerprint, HELLO_HASH_BYTES) != 0)
            break; /* nothing of that model is here */
        /* fall through */
    case WIRE_STORE_ALL:
        count = memory_drop_all(keeper->memory, keeper_forget, keeper);
        break;
    default:
        return error_set(ERR_BAD_INPUT, "a delete of scope %u", message.scope);
    }
    keeper->counts.deleted_blocks += count;
    log_info("deleted", "by=\"%s\" scope=%u blocks=%llu", client->hello.name, message.scope,
             (unsigned long long)count);
    client_answer(client, FRAME_STORE_DELETED, message.number, OK, (uint32_t)count, NULL);
    return OK;
}

/* The answer's lease holds where to go on: the asker gives it back as the key; zeros: the end. */
status keeper_on_list(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_delete message;
    const struct memory_entry *entries[LIST_KEYS];
    uint8_t items[LIST_KEYS * WIRE_STORE_RECORD_BYTES];
    uint64_t place;
    status st = wire_store_delete_decode(payload, bytes, &message);
    if (st != OK)
        return st;
    bool records = message.scope == WIRE_STORE_LIST_RECORDS;
    uint32_t item_bytes = records ? WIRE_STORE_RECORD_BYTES : WIRE_STORE_KEY_BYTES;
    struct wire_store_ask answer = {.number = message.number, .items = items};
    memcpy(&place, message.key, sizeof(place));
    if (keeper->known)
        answer.count = memory_list(keeper->memory, &place, entries, LIST_KEYS);
    else
        place = 0;
    for (uint32_t i = 0; i < answer.count; i++) {
        uint8_t *item = items + (size_t)i * item_bytes;
        memcpy(item, entries[i]->key.bytes, BLOCK_KEY_BYTES);
        if (!records)
            continue;
        memcpy(item + BLOCK_KEY_BYTES, entries[i]->parent.bytes, BLOCK_KEY_BYTES);
        item[2 * BLOCK_KEY_BYTES] = entries[i]->is_first;
    }
    memcpy(answer.lease.bytes, &place, sizeof(place));
    wire_frame_reset(&keeper->frame);
    wire_store_ask_encode(&keeper->frame, &answer, item_bytes);
    client_send(client, FRAME_STORE_KEYS);
    return OK;
}

void keeper_stats(const struct keeper *keeper, struct wire_store_stats *stats_out)
{
    struct wire_store_stats stats = keeper->counts;
    stats.links = keeper->client_count;
    for (const struct move *move = keeper->moves; move != NULL; move = move->next) {
        stats.leases += move->is_get;
        stats.adding += move->is_get ? 0 : move->count;
    }
    if (keeper->known) {
        struct memory_counts memory;
        memory_count(keeper->memory, &memory);
        for (uint32_t i = 0; i < HELLO_HASH_BYTES / 8; i++)
            stats.fingerprint[i] = load_u64(keeper->hello.fingerprint + 8 * i);
        stats.block_bytes = keeper->shape.block_bytes;
        stats.memory_blocks = memory.slots;
        stats.memory_used = memory.used;
        stats.memory_pinned = memory.pinned;
        stats.keys = memory.entries;
        stats.evicted_blocks = memory.evicted;
        stats.expired_blocks = memory.expired;
    }
    if (keeper->disk != NULL) {
        struct disk_counters disk;
        disk_count(keeper->disk, &disk);
        stats.disk_bytes = disk.bytes;
        stats.disk_bytes_max = disk.bytes_max;
        stats.disk_blocks = disk.records;
        stats.disk_up = disk.up;
        stats.disk_written_blocks = disk.written;
        stats.disk_dropped_blocks = disk.dropped;
        stats.disk_read_blocks = disk.read;
        stats.disk_evicted_blocks = disk.evicted;
        stats.disk_compacted_blocks = disk.compacted;
        stats.disk_corrupt_blocks = disk.corrupt;
        stats.disk_failures = disk.failures;
    }
    *stats_out = stats;
}

status keeper_on_stat(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_delete message;
    struct wire_store_stats stats;
    status st = wire_store_delete_decode(payload, bytes, &message);
    if (st != OK)
        return st;
    keeper_stats(keeper, &stats);
    stats.number = message.number;
    wire_frame_reset(&keeper->frame);
    wire_store_stats_encode(&keeper->frame, &stats);
    client_send(client, FRAME_STORE_STATS);
    return OK;
}
