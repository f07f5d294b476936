/* worker/save.h - what is computed here, added to the central store.
 *
 *     block full --save_block--> pending --save_flush--> store_add ... STORE_ADDED
 *                  referenced      a step's blocks       the reference is dropped, kept() is told
 *
 *     prompt --save_hand_over--> its blocks that are still on their way, then all of them once
 *                                more (what is there already does not move), its last, partial one
 *                                with a short expiry --> handed()
 *
 * Saving is background work: it never waits, and what does not fit (the store's queue, a quarter
 * of the pool held for it, no store) is dropped and counted. A handoff that finds no room in the
 * queue is tried again. A store that acknowledges nothing for SAVE_SILENCE_MS is given up with all
 * that it was given, and gets nothing for as long again: handoffs that wait for it fail.
 *
 * Threads:  the compute thread.
 * Memory:   references on blocks from save_block or save_hand_over to the store's report.
 */
#ifndef WORKER_SAVE_H
#define WORKER_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/prefix_tree.h"
#include "store/store.h"
#include "wire/control.h"

#define SAVE_SILENCE_MS 3000u
#define SAVE_PARTIAL_EXPIRY_MS 60000u /* of a prompt's last, partial block */

struct save;

struct save_calls {
    /* The store has acknowledged the block with this key. */
    void (*kept)(void *ctx, const struct block_key *key);
    void (*handed)(void *ctx, const struct wire_saved *saved);
};

struct save_counters {
    uint64_t saved_blocks, saved_bytes, unsaved_blocks; /* as of wire_heartbeat */
    uint64_t lags[WIRE_LAGS], lag_ns;
    uint32_t saving_blocks, handoffs; /* now */
};

/* store: NULL: none, then nothing is ever saved and a handoff fails at once. Errors:
 * ERR_NO_MEMORY. */
status save_open(struct prefix_tree *tree, uint32_t block_count, struct store *store,
                 const struct save_calls *calls, void *ctx, struct save **save_out);
/* Must be idle. */
void save_close(struct save *save);

/* A block that the caller holds a reference on is full and final. owner: the request that is
 * handed over by the store and waits for it, or 0. parent: NULL for a chain's first. */
void save_block(struct save *save, uint64_t owner, const struct block_key *key,
                const struct block_key *parent, block_id id);

/* A request's prompt is computed. keys, ids: [block_count], copied, as a chain from the first one;
 * partial: the last of them is not full, and its key names exactly its tokens. The references on
 * ids are taken over. handed follows, from this call or later; not after save_end. */
void save_hand_over(struct save *save, uint64_t request_id, const struct block_key *keys,
                    const block_id *ids, uint32_t block_count, bool partial);

/* Nobody waits for the request's handoff any more. */
void save_end(struct save *save, uint64_t request_id);
void save_end_router(struct save *save, uint32_t router); /* all of this router's */

/* Give up all there is, as soon as the store has let go of it. */
void save_end_all(struct save *save);

/* Give what is pending to the store; what waited too long ends. */
void save_flush(struct save *save, uint64_t now_ns);

/* A STORE_ADDED. */
void save_added(struct save *save, const struct store_report *report);

/* Until save_flush should be called again, although nothing was reported, or the store is trusted
 * again; -1: no limit. */
int save_wait_ms(const struct save *save, uint64_t now_ns);

bool save_idle(const struct save *save);
/* False: the store was silent, and gets nothing for a while. */
bool save_trusts_store(const struct save *save);
void save_count(const struct save *save, struct save_counters *counters_out);

#endif
