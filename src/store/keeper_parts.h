/* store/keeper_parts.h - what the files of the store's process share; nobody else includes it.
 *
 *     keeper.c        open and close, the layout, connections
 *     keeper_move.c   adds and gets
 *     keeper_ask.c    find, delete, list, stat
 */
#ifndef STORE_KEEPER_PARTS_H
#define STORE_KEEPER_PARTS_H

#include "store/disk.h"
#include "store/keeper.h"
#include "store/memory.h"
#include "store/warm.h"
#include "transfer/transfer.h"
#include "wire/control.h"
#include "wire/link.h"

#define KEEPER_CLIENTS_MAX 1024
#define KEEPER_MOVES_MAX 4096 /* adds and gets under way */

/* A connection. */
struct client {
    struct client *next;
    struct keeper *keeper;
    struct link *link;
    struct hello hello;
    bool ready, has_layout;
    bool has_unix, has_tcp;
    struct address transfer_unix, transfer_tcp;
};

/* An add (a receive of ours) or a get (a lease of ours). */
struct move {
    struct move *next;
    uint64_t id;           /* request_id of the transfer */
    struct client *client; /* NULL: gone */
    uint64_t number;       /* the client's */
    struct lease_id lease;
    bool is_get, complete, short_of_slots; /* the last: an add got fewer than it needs */
    uint32_t asked, first, count;          /* of an add: how many it has, and which are fetched */
    uint32_t offered;                      /* of a get */
    uint64_t expiry_ms;
    struct memory_entry **entries; /* [count], each pinned */
};

struct keeper {
    struct loop *loop;
    struct keeper_options options;
    struct hello hello; /* ours; with KV parts once the layout is known */
    struct cluster_key *key;
    struct address listen;
    struct link_listener *listener;
    struct client *clients;
    uint32_t client_count;
    struct loop_timer *tick;
    struct wire_frame frame;
    /* Once the layout is known: */
    bool known;
    struct disk_shape shape;
    struct transfer_pool pool;
    size_t pool_bytes;
    struct address transfer_unix, transfer_tcp;
    char told_unix[ADDRESS_TEXT_BYTES], told_tcp[ADDRESS_TEXT_BYTES];
    struct transfer *transfer;
    struct memory *memory;
    struct warm *warm;
    struct disk *disk;
    struct mailbox *transfers, *disks;
    struct loop_watch *transfers_watch, *disks_watch;
    struct move *moves;
    uint32_t move_count;
    uint64_t next_move;
    struct wire_store_stats counts; /* those that only grow */
};

static inline uint8_t *keeper_block(const struct keeper *keeper, uint32_t slot)
{
    return keeper->pool.host + (size_t)slot * keeper->pool.block_bytes;
}

/* This slot was taken; those that come next are made ready. */
static inline void keeper_reach(const struct keeper *keeper, uint32_t slot)
{
    warm_reach(keeper->warm, ((size_t)slot + 1) * keeper->pool.block_bytes);
}

/* Send keeper->frame; a client that does not read is cut. */
void client_send(struct client *client, uint16_t type);
void client_answer(struct client *client, uint16_t type, uint64_t number, status result,
                   uint32_t count, const char *text);

/* keeper_move.c */
status keeper_on_add(struct client *client, const uint8_t *payload, uint32_t bytes);
status keeper_on_get(struct client *client, const uint8_t *payload, uint32_t bytes);
status keeper_on_leave(struct client *client, const uint8_t *payload, uint32_t bytes);
void keeper_on_transfer(void *ctx, struct mail *mail);
void keeper_on_disk(void *ctx, struct mail *mail);
void keeper_client_gone(struct client *client);
void keeper_moves_close(struct keeper *keeper); /* transfer and disk are closed */

/* keeper_ask.c */
status keeper_on_find(struct client *client, const uint8_t *payload, uint32_t bytes);
status keeper_on_delete(struct client *client, const uint8_t *payload, uint32_t bytes);
status keeper_on_list(struct client *client, const uint8_t *payload, uint32_t bytes);
status keeper_on_stat(struct client *client, const uint8_t *payload, uint32_t bytes);
void keeper_forget(void *ctx, const struct memory_entry *entry); /* memory_forget */

#endif
