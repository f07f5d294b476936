/* Adds and gets: what moves between the memory tier and the workers.
 *
 *     add  take slots, receive -> publish under the sums that were checked as each layer landed,
 *          answer; then to disk in the background
 *     get  pin the leading run, offer what is in memory at once and the rest as it is loaded;
 *          unpin when the receiver has acknowledged, or is gone
 */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/keeper_parts.h"

#define ADD_DEADLINE_MS 20000u
#define GET_MARGIN_MS 1000u
#define GET_DEADLINE_MAX_MS 600000u

/* ---- moves ---- */

static struct move *move_new(struct client *client, const struct wire_store_ask *ask, bool is_get,
                             uint32_t capacity)
{
    struct keeper *keeper = client->keeper;
    if (keeper->move_count >= KEEPER_MOVES_MAX)
        return NULL;
    struct move *move = calloc(1, sizeof(*move));
    if (move == NULL)
        return NULL;
    move->entries = calloc(capacity, sizeof(*move->entries));
    if (move->entries == NULL) {
        free(move);
        return NULL;
    }
    move->id = ++keeper->next_move;
    move->client = client;
    move->number = ask->number;
    move->lease = ask->lease;
    move->is_get = is_get;
    move->asked = ask->count;
    move->next = keeper->moves;
    keeper->moves = move;
    keeper->move_count++;
    return move;
}

static void move_free(struct keeper *keeper, struct move *move)
{
    struct move **place = &keeper->moves;
    while (*place != move)
        place = &(*place)->next;
    *place = move->next;
    keeper->move_count--;
    for (uint32_t i = 0; i < move->count; i++)
        memory_unpin(keeper->memory, move->entries[i]);
    free(move->entries);
    free(move);
}

static struct move *move_find(struct keeper *keeper, uint64_t id)
{
    struct move *move = keeper->moves;
    while (move != NULL && move->id != id)
        move = move->next;
    return move;
}

/* What it had under way ends now; the transfer's reports let go of the blocks. */
void keeper_client_gone(struct client *client)
{
    struct transfer *transfer = client->keeper->transfer;
    for (struct move *move = client->keeper->moves; move != NULL; move = move->next) {
        if (move->client != client)
            continue;
        move->client = NULL;
        if (move->is_get)
            transfer_lease_close(transfer, &move->lease);
        else
            transfer_receive_cancel(transfer, &move->lease);
    }
}

void keeper_moves_close(struct keeper *keeper)
{
    if (keeper->transfers != NULL) {
        for (struct mail *mail = mailbox_take_all(keeper->transfers), *next; mail != NULL;
             mail = next) {
            next = mail->next;
            transfer_report_free((struct transfer_report *)mail);
        }
    }
    if (keeper->disks != NULL) {
        for (struct mail *mail = mailbox_take_all(keeper->disks), *next; mail != NULL;
             mail = next) {
            next = mail->next;
            free(mail);
        }
    }
    while (keeper->moves != NULL)
        move_free(keeper, keeper->moves);
}

static bool client_may_move(struct client *client, uint16_t answer, uint64_t number)
{
    if (client->has_layout)
        return true;
    client_answer(client, answer, number, ERR_REFUSED, 0, "say LAYOUT first, and be welcome");
    return false;
}

/* ---- add ---- */

static struct block_key key_at(const uint8_t *items, uint32_t i, uint32_t item_bytes)
{
    struct block_key key;
    memcpy(key.bytes, items + (size_t)i * item_bytes, BLOCK_KEY_BYTES);
    return key;
}

/* Slots for records first .. first + count; fewer when memory is full of pinned blocks. */
static void add_take_slots(struct keeper *keeper, struct move *move, const uint8_t *records,
                           uint32_t wanted)
{
    uint64_t now = clock_ns();
    for (uint32_t i = 0; i < wanted; i++) {
        const uint8_t *record = records + (size_t)(move->first + i) * WIRE_STORE_RECORD_BYTES;
        struct memory_entry *entry;
        if (memory_take(keeper->memory, &entry) != OK)
            return;
        keeper_reach(keeper, entry->slot);
        memcpy(entry->key.bytes, record, BLOCK_KEY_BYTES);
        memcpy(entry->parent.bytes, record + BLOCK_KEY_BYTES, BLOCK_KEY_BYTES);
        entry->is_first = record[2 * BLOCK_KEY_BYTES] != 0;
        if (move->expiry_ms > 0)
            entry->expiry_ns = now + move->expiry_ms * 1000000u;
        move->entries[move->count++] = entry;
    }
}

static status add_receive(struct keeper *keeper, struct move *move)
{
    const struct client *client = move->client;
    uint32_t *ids = malloc((size_t)move->count * sizeof(*ids));
    if (ids == NULL)
        return error_set(ERR_NO_MEMORY, "the store has no memory for an add");
    for (uint32_t i = 0; i < move->count; i++)
        ids[i] = move->entries[i]->slot;
    const struct transfer_wish wish = {
        .lease = move->lease,
        .request_id = move->id,
        .source = {.incarnation = client->hello.incarnation,
                   .local = client->has_unix ? &client->transfer_unix : NULL,
                   .remote = client->has_tcp ? &client->transfer_tcp : NULL},
        .block_ids = ids,
        .block_count = move->count,
        .deadline_ms = ADD_DEADLINE_MS,
        .keeps_sums = true};
    status st = transfer_receive(keeper->transfer, &wish);
    free(ids);
    return st;
}

/* Those that are not here lie between the first and the last of them. */
static uint32_t add_missing(struct keeper *keeper, const struct wire_store_ask *ask,
                            uint32_t *first_out)
{
    uint32_t first = ask->count, end = 0;
    for (uint32_t i = 0; i < ask->count; i++) {
        struct block_key key = key_at(ask->items, i, WIRE_STORE_RECORD_BYTES);
        if (memory_find(keeper->memory, &key) != NULL)
            continue;
        first = first < i ? first : i;
        end = i + 1;
    }
    *first_out = first;
    keeper->counts.duplicate_blocks += end > first ? ask->count - (end - first) : ask->count;
    return end > first ? end - first : 0;
}

status keeper_on_add(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_ask ask;
    status st = wire_store_ask_decode(payload, bytes, WIRE_STORE_RECORD_BYTES, &ask);
    if (st != OK || !client_may_move(client, FRAME_STORE_ADDED, ask.number))
        return st;
    uint32_t first, wanted = add_missing(keeper, &ask, &first);
    if (wanted == 0) {
        client_answer(client, FRAME_STORE_ADDED, ask.number, OK, ask.count, NULL);
        return OK;
    }
    struct move *move = move_new(client, &ask, false, wanted);
    if (move == NULL) {
        keeper->counts.refused_blocks += wanted;
        client_answer(client, FRAME_STORE_ADDED, ask.number, ERR_FULL, first,
                      "the store has too much under way");
        return OK;
    }
    move->first = first;
    move->expiry_ms = ask.time_ms;
    add_take_slots(keeper, move, ask.items, wanted);
    move->short_of_slots = move->count < wanted;
    keeper->counts.refused_blocks += wanted - move->count;
    if (move->count == 0)
        st = error_set(ERR_FULL, "every block of the store's memory is in use");
    else
        st = add_receive(keeper, move);
    if (st != OK) {
        client_answer(client, FRAME_STORE_ADDED, ask.number, st, first, error_text());
        move_free(keeper, move);
        return OK;
    }
    const struct wire_store_want want = {
        .number = ask.number, .first = first, .count = move->count};
    wire_frame_reset(&keeper->frame);
    wire_store_want_encode(&keeper->frame, &want);
    client_send(client, FRAME_STORE_WANT);
    return OK;
}

static void add_to_disk(struct keeper *keeper, struct memory_entry *entry)
{
    if (keeper->disk == NULL || entry->expiry_ns != 0)
        return;
    const struct disk_record record = {.key = entry->key,
                                       .parent = entry->parent,
                                       .is_first = entry->is_first,
                                       .checksums = entry->checksums};
    /* The pin is dropped by DISK_WRITTEN; what does not fit is counted by the disk. */
    if (disk_write(keeper->disk, (uint64_t)(uintptr_t)entry, &record,
                   keeper_block(keeper, entry->slot)) == OK)
        memory_pin(keeper->memory, entry);
}

/* sums: of its layers, stride apart. */
static void add_publish(struct keeper *keeper, struct memory_entry *entry,
                        const struct checksum *sums, uint32_t stride)
{
    for (uint32_t layer = 0; layer < keeper->shape.layer_count; layer++)
        entry->checksums[layer] = sums[(size_t)layer * stride];
    if (memory_publish(keeper->memory, entry)) {
        keeper->counts.added_blocks++;
        add_to_disk(keeper, entry);
    } else {
        keeper->counts.duplicate_blocks++;
    }
}

static void add_received(struct keeper *keeper, struct move *move,
                         const struct transfer_report *report)
{
    uint32_t landed = report->mail.kind == TRANSFER_RECEIVED ? report->block_count : 0;
    status result = report->status;
    const char *text = report->text;
    for (uint32_t i = 0; i < landed && i < move->count; i++)
        add_publish(keeper, move->entries[i], report->sums + i, move->count);
    keeper->counts.received_bytes += report->bytes;
    uint32_t kept = move->first + landed;
    /* What follows the range was here before, if the range is whole. */
    if (result == OK && landed == move->count && !move->short_of_slots)
        kept = move->asked;
    if (result == OK && landed < move->count) {
        result = ERR_BAD_INPUT;
        text = "fewer blocks were offered than announced";
    }
    if (move->client != NULL)
        client_answer(move->client, FRAME_STORE_ADDED, move->number, result, kept, text);
    move_free(keeper, move);
}

/* ---- get ---- */

static status get_offer_run(struct keeper *keeper, struct move *move, uint32_t count)
{
    struct checksum *sums = malloc((size_t)count * sizeof(*sums));
    uint32_t *ids = malloc((size_t)count * sizeof(*ids));
    if (sums == NULL || ids == NULL) {
        free(sums);
        free(ids);
        return ERR_NO_MEMORY;
    }
    struct memory_entry **entries = move->entries + move->offered;
    for (uint32_t i = 0; i < count; i++)
        ids[i] = entries[i]->slot;
    for (uint32_t layer = 0; layer < keeper->shape.layer_count; layer++) {
        for (uint32_t i = 0; i < count; i++)
            sums[i] = entries[i]->checksums[layer];
        transfer_offer(keeper->transfer, &move->lease, layer, move->offered, ids, count, sums);
    }
    move->offered += count;
    free(sums);
    free(ids);
    return OK;
}

/* Offer what is there by now. A block that cannot be loaded ends the run before it. */
static void get_advance(struct keeper *keeper, struct move *move)
{
    uint32_t ready = move->offered;
    if (move->complete)
        return;
    while (ready < move->count && move->entries[ready]->ready)
        ready++;
    status st = OK;
    if (ready > move->offered)
        st = get_offer_run(keeper, move, ready - move->offered);
    bool over = move->offered == move->count || !move->entries[move->offered]->loading;
    if (st == OK && over) {
        move->complete = true;
        st = transfer_complete(keeper->transfer, &move->lease, move->offered, NULL, 0);
    }
    if (st != OK)
        transfer_lease_close(keeper->transfer, &move->lease);
}

/* Pin and, where needed, begin to load the leading keys that are here. */
static void get_pin(struct keeper *keeper, struct move *move, const struct wire_store_ask *ask)
{
    for (uint32_t i = 0; i < ask->count; i++) {
        struct block_key key = key_at(ask->items, i, WIRE_STORE_KEY_BYTES);
        struct memory_entry *entry = memory_find(keeper->memory, &key);
        if (entry == NULL)
            return;
        memory_pin(keeper->memory, entry);
        if (!entry->ready && !entry->loading) {
            if (memory_load(keeper->memory, entry) != OK) {
                memory_unpin(keeper->memory, entry);
                return;
            }
            keeper_reach(keeper, entry->slot);
            entry->loading = true;
            memory_pin(keeper->memory, entry); /* the disk's, until DISK_READ */
            if (disk_read(keeper->disk, (uint64_t)(uintptr_t)entry, &entry->key, entry->place,
                          entry->checksums, keeper_block(keeper, entry->slot)) != OK) {
                entry->loading = false;
                memory_unload(keeper->memory, entry);
                memory_unpin(keeper->memory, entry);
                memory_unpin(keeper->memory, entry);
                return;
            }
        }
        keeper->counts.hits_memory += entry->ready;
        keeper->counts.hits_disk += entry->loading;
        move->entries[move->count++] = entry;
    }
}

status keeper_on_get(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_ask ask;
    status st = wire_store_ask_decode(payload, bytes, WIRE_STORE_KEY_BYTES, &ask);
    if (st != OK || !client_may_move(client, FRAME_STORE_GOT, ask.number))
        return st;
    struct move *move = ask.count > 0 ? move_new(client, &ask, true, ask.count) : NULL;
    if (move == NULL) {
        client_answer(client, FRAME_STORE_GOT, ask.number, ERR_FULL, 0,
                      "the store has too much under way");
        return OK;
    }
    get_pin(keeper, move, &ask);
    keeper->counts.asked_keys += ask.count;
    keeper->counts.misses += ask.count - move->count;
    uint32_t deadline_ms = ask.time_ms < GET_DEADLINE_MAX_MS ? ask.time_ms : GET_DEADLINE_MAX_MS;
    if (move->count > 0)
        st = transfer_lease_open(keeper->transfer, &move->lease, move->id, 0,
                                 deadline_ms + GET_MARGIN_MS);
    client_answer(client, FRAME_STORE_GOT, ask.number, st, st == OK ? move->count : 0,
                  st == OK ? NULL : error_text());
    if (move->count == 0 || st != OK)
        move_free(keeper, move);
    else
        get_advance(keeper, move);
    return OK;
}

/* Who asked for a get will not subscribe to its lease. */
status keeper_on_leave(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct wire_store_leave leave;
    status st = wire_store_leave_decode(payload, bytes, &leave);
    if (st != OK)
        return st;
    for (struct move *move = client->keeper->moves; move != NULL; move = move->next)
        if (move->client == client && move->is_get && move->number == leave.number)
            transfer_lease_close(client->keeper->transfer, &move->lease);
    return OK;
}

static bool block_matches(const struct keeper *keeper, const struct memory_entry *entry)
{
    const uint8_t *block = keeper_block(keeper, entry->slot);
    bool matches = true;
    for (uint32_t layer = 0; matches && layer < keeper->shape.layer_count; layer++) {
        const struct transfer_slice *slice = &keeper->shape.layers[layer];
        matches = checksum_equal(checksum_of(block + slice->offset, slice->bytes),
                                 entry->checksums[layer]);
    }
    return matches;
}

/* The receiver had blocks that do not match. One that does not match here either is damaged in
 * memory: it is found no more, or on disk only, so that it can be added, or loaded, again. */
static void get_drop_damaged(struct keeper *keeper, const struct move *move)
{
    for (uint32_t i = 0; i < move->offered; i++) {
        struct memory_entry *entry = move->entries[i];
        char key[BLOCK_KEY_TEXT_BYTES];
        bool stored = entry->on_disk;
        if (!entry->indexed || block_matches(keeper, entry))
            continue;
        keeper->counts.checksum_failures++;
        log_warn("block damaged in memory", "key=%s slot=%u next=\"%s\"",
                 block_key_text(&entry->key, key), entry->slot,
                 stored ? "read from the disk again" : "forgotten, and taken when it is added");
        memory_drop(keeper->memory, entry, NULL, NULL); /* the move has it until its end */
        if (stored && memory_add_stored(keeper->memory, &entry->key, &entry->parent,
                                        entry->is_first, entry->checksums, entry->place) == NULL)
            disk_forget(keeper->disk, &entry->key, entry->place);
    }
}

/* ---- what the other threads report ---- */

void keeper_on_transfer(void *ctx, struct mail *mail)
{
    struct keeper *keeper = ctx;
    struct transfer_report *report = (struct transfer_report *)mail;
    struct move *move = move_find(keeper, report->request_id);
    assert(move != NULL && move->is_get == (mail->kind == TRANSFER_HOLDER_DONE));
    if (move->is_get) {
        if (report->status == ERR_CORRUPT)
            get_drop_damaged(keeper, move);
        if (report->status == OK) {
            keeper->counts.sent_blocks += report->block_count;
            keeper->counts.sent_bytes += report->bytes;
        }
        move_free(keeper, move);
    } else {
        keeper->counts.checksum_failures += report->status == ERR_CORRUPT;
        add_received(keeper, move, report);
    }
    transfer_report_free(report);
}

static void keeper_on_written(struct keeper *keeper, const struct disk_report *report)
{
    struct memory_entry *entry = (struct memory_entry *)(uintptr_t)report->ticket;
    if (report->status == OK && entry->indexed) {
        entry->on_disk = true;
        entry->place = report->place;
    } else if (report->status == OK) {
        disk_forget(keeper->disk, &report->key, report->place); /* deleted meanwhile */
    }
    memory_unpin(keeper->memory, entry);
}

static void keeper_on_loaded(struct keeper *keeper, const struct disk_report *report)
{
    struct memory_entry *entry = (struct memory_entry *)(uintptr_t)report->ticket;
    entry->loading = false;
    entry->ready = report->status == OK;
    if (report->status != OK) {
        log_warn("block not loaded", "status=\"%s\" cause=\"%s\"", status_name(report->status),
                 report->text);
        memory_unload(keeper->memory, entry);
        if (entry->indexed && report->status == ERR_CORRUPT)
            memory_drop(keeper->memory, entry, keeper_forget, keeper);
        else if (entry->indexed && report->status == ERR_NOT_FOUND)
            entry->on_disk = false;
    }
    for (struct move *move = keeper->moves; move != NULL; move = move->next) {
        if (move->is_get)
            get_advance(keeper, move);
    }
    memory_unpin(keeper->memory, entry);
}

void keeper_on_disk(void *ctx, struct mail *mail)
{
    struct keeper *keeper = ctx;
    const struct disk_report *report = (const struct disk_report *)mail;
    struct memory_entry *entry;
    switch (mail->kind) {
    case DISK_WRITTEN:
        keeper_on_written(keeper, report);
        break;
    case DISK_READ:
        keeper_on_loaded(keeper, report);
        break;
    default:
        entry = memory_find(keeper->memory, &report->key);
        if (entry == NULL || !entry->on_disk || entry->place.segment != report->old_place.segment ||
            entry->place.record != report->old_place.record)
            break;
        if (mail->kind == DISK_MOVED)
            entry->place = report->place;
        else
            memory_lost_place(keeper->memory, entry);
    }
    free(mail);
}
