#include "worker/save.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define ADD_BLOCKS 256u /* of one store_add: fewer of them are lost when the queue is full */
#define RETRY_MS 2      /* of a handoff that found the queue full */
#define SILENCE_NS (SAVE_SILENCE_MS * UINT64_C(1000000))

/* A prompt that is handed over by the store. */
struct handoff {
    struct handoff *next;
    uint64_t request_id;
    uint64_t started_ns;
    uint32_t block_count, full_count; /* one more than full when the last one is partial */
    uint32_t sent_full;
    bool sent_partial;
    bool blocked;  /* the queue was full */
    bool settled;  /* nobody waits for what becomes of it */
    uint32_t adds; /* not reported */
    uint64_t bytes;
    struct block_key *keys; /* [block_count] */
    block_id *ids;          /* [block_count] the references are its own */
};

/* One store_add. */
struct saving {
    struct saving *next;
    uint64_t ticket;
    uint64_t owner;
    uint64_t full_ns, called_ns; /* since when its blocks are full, and with the store */
    struct handoff *handoff;     /* that holds the references; NULL: they are its own */
    bool partial;
    uint32_t count;
    struct block_key keys[ADD_BLOCKS];
    block_id ids[ADD_BLOCKS];
};

struct pending {
    struct store_block block;
    uint64_t owner;
};

struct save {
    struct prefix_tree *tree;
    struct store *store;
    const struct save_calls *calls;
    void *ctx;
    struct pending *pending; /* [held_max] */
    uint32_t pending_count;
    uint64_t pending_ns;     /* since when the first of them is full */
    uint32_t held, held_max; /* references that are not a handoff's */
    struct saving *savings;
    struct handoff *handoffs;
    uint64_t next_ticket;
    uint64_t heard_ns;       /* when the store last reported, or was given what it has to report */
    uint64_t avoid_until_ns; /* it was silent: it gets nothing until then */
    struct save_counters counters;
};

status save_open(struct prefix_tree *tree, uint32_t block_count, struct store *store,
                 const struct save_calls *calls, void *ctx, struct save **save_out)
{
    struct save *save = calloc(1, sizeof(*save));
    uint32_t held_max = block_count / 4 + 1;
    struct pending *pending = calloc(held_max, sizeof(*pending));
    if (save == NULL || pending == NULL) {
        free(save);
        free(pending);
        return error_set(ERR_NO_MEMORY, "no memory to save blocks");
    }
    *save = (struct save){.tree = tree,
                          .store = store,
                          .calls = calls,
                          .ctx = ctx,
                          .pending = pending,
                          .held_max = held_max};
    *save_out = save;
    return OK;
}

void save_close(struct save *save)
{
    if (save == NULL)
        return;
    assert(save_idle(save));
    free(save->pending);
    free(save);
}

bool save_idle(const struct save *save)
{
    return save->pending_count == 0 && save->savings == NULL && save->handoffs == NULL;
}

void save_count(const struct save *save, struct save_counters *counters_out)
{
    *counters_out = save->counters;
    counters_out->saving_blocks = save->held;
    for (const struct handoff *h = save->handoffs; h != NULL; h = h->next) {
        counters_out->saving_blocks += h->block_count;
        counters_out->handoffs++;
    }
}

bool save_trusts_store(const struct save *save)
{
    return clock_ns() >= save->avoid_until_ns;
}

static bool save_has_store(const struct save *save)
{
    return save->store != NULL && store_is_up(save->store) && save_trusts_store(save);
}

/* ---- one add ---- */

static struct store_block save_store_block(const struct block_key *key,
                                           const struct block_key *parent, block_id id)
{
    struct store_block block = {.key = *key, .is_first = parent == NULL, .id = id};
    if (parent != NULL)
        block.parent = *parent;
    return block;
}

/* as: all but ticket, count and blocks. Errors: those of store_add. */
static status save_add(struct save *save, const struct store_block *blocks, uint32_t count,
                       uint32_t expiry_ms, const struct saving *as)
{
    struct saving *saving = malloc(sizeof(*saving));
    if (saving == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to save %u blocks", count);
    saving->owner = as->owner;
    saving->full_ns = as->full_ns;
    saving->handoff = as->handoff;
    saving->partial = as->partial;
    saving->called_ns = clock_ns();
    saving->ticket = ++save->next_ticket;
    saving->count = count;
    for (uint32_t i = 0; i < count; i++) {
        saving->keys[i] = blocks[i].key;
        saving->ids[i] = blocks[i].id;
    }
    status st = store_add(save->store, saving->ticket, blocks, count, expiry_ms);
    if (st != OK) {
        free(saving);
        return st;
    }
    if (save->savings == NULL)
        save->heard_ns = saving->called_ns;
    saving->next = save->savings;
    save->savings = saving;
    return OK;
}

/* ---- in the background ---- */

static void save_let_go(struct save *save, const block_id *ids, uint32_t count)
{
    prefix_tree_drop(save->tree, ids, count);
    save->held -= count;
}

void save_block(struct save *save, uint64_t owner, const struct block_key *key,
                const struct block_key *parent, block_id id)
{
    if (save->store == NULL)
        return;
    if (!save_has_store(save) || save->held == save->held_max) {
        save->counters.unsaved_blocks++;
        return;
    }
    prefix_tree_share(save->tree, id);
    save->held++;
    if (save->pending_count == 0)
        save->pending_ns = clock_ns();
    save->pending[save->pending_count++] =
        (struct pending){.block = save_store_block(key, parent, id), .owner = owner};
}

/* A run of pending blocks of one owner. */
static void save_send(struct save *save, const struct pending *from, uint32_t count)
{
    struct store_block blocks[ADD_BLOCKS];
    block_id ids[ADD_BLOCKS];
    const struct saving as = {.owner = from->owner, .full_ns = save->pending_ns};
    for (uint32_t i = 0; i < count; i++) {
        blocks[i] = from[i].block;
        ids[i] = from[i].block.id;
    }
    if (save_add(save, blocks, count, 0, &as) == OK)
        return;
    save->counters.unsaved_blocks += count;
    save_let_go(save, ids, count);
}

static void save_send_pending(struct save *save)
{
    for (uint32_t first = 0, end; first < save->pending_count; first = end) {
        end = first + 1;
        while (end < save->pending_count && end - first < ADD_BLOCKS &&
               save->pending[end].owner == save->pending[first].owner)
            end++;
        save_send(save, &save->pending[first], end - first);
    }
    save->pending_count = 0;
}

/* ---- handoffs ---- */

static void handoff_say(struct save *save, struct handoff *handoff, status result, const char *text)
{
    struct wire_saved saved = {.request_id = handoff->request_id,
                               .status = result,
                               .bytes = handoff->bytes,
                               .ns = clock_ns() - handoff->started_ns};
    if (handoff->settled)
        return;
    handoff->settled = true;
    snprintf(saved.text, sizeof(saved.text), "%s", result != OK ? text : "");
    save->calls->handed(save->ctx, &saved);
}

/* Are blocks of it still on their way that were full before the whole of it was? */
static bool handoff_waits(const struct save *save, const struct handoff *handoff)
{
    const struct saving *saving = save->savings;
    while (saving != NULL && (saving->handoff != NULL || saving->owner != handoff->request_id))
        saving = saving->next;
    return saving != NULL;
}

static bool handoff_add(struct save *save, struct handoff *handoff, uint32_t first, uint32_t count,
                        bool partial)
{
    struct store_block blocks[ADD_BLOCKS];
    if (!save_trusts_store(save)) { /* what it waited for was given up: it waits no second time */
        handoff_say(save, handoff, ERR_CLOSED, "the store does not answer");
        return false;
    }
    const struct saving as = {.owner = handoff->request_id,
                              .full_ns = clock_ns(),
                              .handoff = handoff,
                              .partial = partial};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = first + i;
        blocks[i] = save_store_block(&handoff->keys[at], at > 0 ? &handoff->keys[at - 1] : NULL,
                                     handoff->ids[at]);
    }
    status st = save_add(save, blocks, count, partial ? SAVE_PARTIAL_EXPIRY_MS : 0, &as);
    handoff->blocked = st == ERR_FULL;
    if (st == OK)
        handoff->adds++;
    else if (st != ERR_FULL)
        handoff_say(save, handoff, st, error_text());
    return st == OK;
}

/* What can be done for it now. */
static void handoff_go_on(struct save *save, struct handoff *handoff)
{
    uint32_t full = handoff->full_count;
    handoff->blocked = false;
    if (!handoff->settled && !handoff->sent_partial)
        handoff->sent_partial = handoff_add(save, handoff, full, 1, true);
    while (!handoff->settled && !handoff->blocked && handoff->sent_full < full &&
           !handoff_waits(save, handoff)) {
        uint32_t count = full - handoff->sent_full;
        count = count < ADD_BLOCKS ? count : ADD_BLOCKS;
        if (handoff_add(save, handoff, handoff->sent_full, count, false))
            handoff->sent_full += count;
    }
    if (handoff->sent_partial && handoff->sent_full == full && handoff->adds == 0)
        handoff_say(save, handoff, OK, "");
}

static void handoff_free(struct save *save, struct handoff *handoff)
{
    if (handoff->ids != NULL)
        prefix_tree_drop(save->tree, handoff->ids, handoff->block_count);
    free(handoff->keys);
    free(handoff->ids);
    free(handoff);
}

static void save_go_on_all(struct save *save)
{
    for (struct handoff **at = &save->handoffs; *at != NULL;) {
        struct handoff *handoff = *at;
        handoff_go_on(save, handoff);
        if (!handoff->settled || handoff->adds > 0) {
            at = &handoff->next;
            continue;
        }
        *at = handoff->next;
        handoff_free(save, handoff);
    }
}

void save_hand_over(struct save *save, uint64_t request_id, const struct block_key *keys,
                    const block_id *ids, uint32_t block_count, bool partial)
{
    struct handoff *handoff = calloc(1, sizeof(*handoff));
    if (handoff != NULL) {
        handoff->keys = malloc(block_count * sizeof(*keys));
        handoff->ids = malloc(block_count * sizeof(*ids));
    }
    if (handoff == NULL || handoff->keys == NULL || handoff->ids == NULL || !save_has_store(save)) {
        struct handoff none = {.request_id = request_id, .started_ns = clock_ns()};
        bool memory = handoff != NULL && handoff->keys != NULL && handoff->ids != NULL;
        handoff_say(save, &none, memory ? ERR_CLOSED : ERR_NO_MEMORY,
                    memory ? "no store is connected" : "no memory for a handoff by the store");
        prefix_tree_drop(save->tree, ids, block_count);
        if (handoff != NULL) {
            free(handoff->keys);
            free(handoff->ids);
        }
        free(handoff);
        return;
    }
    memcpy(handoff->keys, keys, block_count * sizeof(*keys));
    memcpy(handoff->ids, ids, block_count * sizeof(*ids));
    handoff->request_id = request_id;
    handoff->started_ns = clock_ns();
    handoff->block_count = block_count;
    handoff->full_count = block_count - partial;
    handoff->sent_partial = !partial;
    handoff->next = save->handoffs;
    save->handoffs = handoff;
    save_send_pending(save); /* So that its blocks are not added beside this. */
    save_go_on_all(save);
}

/* ---- what ends ---- */

void save_end(struct save *save, uint64_t request_id)
{
    for (struct handoff *handoff = save->handoffs; handoff != NULL; handoff = handoff->next) {
        if (handoff->request_id == request_id)
            handoff->settled = true;
    }
    save_go_on_all(save);
}

void save_end_router(struct save *save, uint32_t router)
{
    for (struct handoff *handoff = save->handoffs; handoff != NULL; handoff = handoff->next) {
        if (WIRE_ROUTER_OF(handoff->request_id) == router)
            handoff->settled = true;
    }
    save_go_on_all(save);
}

static void save_give_up(struct save *save)
{
    for (uint32_t i = 0; i < save->pending_count; i++)
        save_let_go(save, &save->pending[i].block.id, 1);
    save->counters.unsaved_blocks += save->pending_count;
    save->pending_count = 0;
    if (save->savings != NULL)
        store_give_up_all(save->store);
}

void save_end_all(struct save *save)
{
    for (struct handoff *handoff = save->handoffs; handoff != NULL; handoff = handoff->next)
        handoff->settled = true;
    save_give_up(save);
    save_go_on_all(save);
}

static void save_acknowledged(struct save *save, const struct saving *saving,
                              const struct store_report *report)
{
    struct save_counters *counters = &save->counters;
    uint64_t lag_ns = saving->called_ns - saving->full_ns + (uint64_t)(report->seconds * 1e9);
    counters->saved_bytes += report->bytes;
    if (saving->handoff != NULL) {
        saving->handoff->bytes += report->bytes;
    } else {
        counters->saved_blocks += saving->count;
        counters->lags[wire_lag_of(lag_ns)] += saving->count;
        counters->lag_ns += lag_ns * saving->count;
    }
    for (uint32_t i = 0; i < saving->count && !saving->partial; i++)
        save->calls->kept(save->ctx, &saving->keys[i]);
}

void save_added(struct save *save, const struct store_report *report)
{
    struct saving **at = &save->savings;
    while (*at != NULL && (*at)->ticket != report->ticket)
        at = &(*at)->next;
    struct saving *saving = *at;
    assert(saving != NULL); /* every add is reported once */
    *at = saving->next;
    save->heard_ns = clock_ns();
    bool kept = report->status == OK && report->count == saving->count;
    if (kept)
        save_acknowledged(save, saving, report);
    if (saving->handoff != NULL) {
        saving->handoff->adds--;
        if (!kept)
            handoff_say(save, saving->handoff, report->status != OK ? report->status : ERR_FULL,
                        report->text[0] != '\0' ? report->text : "the store kept a part of it");
    } else {
        if (!kept)
            save->counters.unsaved_blocks += saving->count;
        save_let_go(save, saving->ids, saving->count);
    }
    free(saving);
    save_go_on_all(save);
}

/* ---- time ---- */

void save_flush(struct save *save, uint64_t now_ns)
{
    save_send_pending(save);
    if (save->savings != NULL && now_ns > save->heard_ns + SILENCE_NS) {
        log_warn("store does not answer", "silent_ms=%u", SAVE_SILENCE_MS);
        save->heard_ns = now_ns;
        save->avoid_until_ns = now_ns + SILENCE_NS;
        save_give_up(save);
    }
    save_go_on_all(save);
}

int save_wait_ms(const struct save *save, uint64_t now_ns)
{
    if (save_idle(save))
        return save->avoid_until_ns > now_ns ? (int)((save->avoid_until_ns - now_ns) / 1000000u) + 1
                                             : -1;
    for (const struct handoff *h = save->handoffs; h != NULL; h = h->next) {
        if (h->blocked)
            return RETRY_MS;
    }
    uint64_t end_ns = save->heard_ns + SILENCE_NS;
    return end_ns > now_ns ? (int)((end_ns - now_ns) / 1000000u) + 1 : 0;
}
