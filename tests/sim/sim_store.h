/* tests/sim/sim_store.h - a central store. What it knows of its blocks, and which of them it keeps,
 * is the real thing (store/memory.c), its leases included: what moves is pinned.
 *
 *     add    asked -> slots are taken -> lands -> published, and said
 *     get    asked -> the leading run is pinned -> lands -> let go, and said
 *
 * It dies with all that it has and comes back empty, is stopped and goes on, and is slow. Every
 * slot says what it holds, so that a block that landed is the one that was asked for, and that a
 * slot that is pinned is given to nobody else.
 */
#ifndef TESTS_SIM_STORE_H
#define TESTS_SIM_STORE_H

#include "fake_network.h"
#include "store/memory.h"

#define STORE_SLOTS_MAX 1024
#define STORE_MOVES_MAX 1024
#define STORE_MOVE_BLOCKS 40
#define STORE_PARTIAL_EXPIRY_NS (60000 * MS) /* worker/save.h */

struct store_move {
    uint64_t number;      /* 0: free */
    bool is_get, partial; /* partial: the last block is not full, and expires */
    bool (*report)(const struct store_move *move); /* false: the client does not listen now */
    void *client;
    uint64_t client_life, store_life, request_id;
    uint32_t count, taken, landed;
    status status;
    bool is_first;
    struct block_key parent, keys[STORE_MOVE_BLOCKS];
    struct memory_entry *entries[STORE_MOVE_BLOCKS];
};

static struct {
    bool there; /* in this world */
    bool alive, stopped;
    uint64_t life; /* 0: never started; another one after each death */
    uint64_t wakes_ns, lag_ns, moved;
    uint32_t slot_count;
    struct memory *memory;
    struct block_key held[STORE_SLOTS_MAX];
    uint32_t pins[STORE_SLOTS_MAX];
    struct store_move moves[STORE_MOVES_MAX];
    uint64_t evicted; /* of all its lives in this world */
} sim_store;

static bool store_answers(void)
{
    return sim_store.alive && !sim_store.stopped;
}

/* ---- pins ---- */

static void store_pinned(const struct memory_entry *entry, int change)
{
    assert_true(entry->slot < sim_store.slot_count);
    assert_true(change > 0 || sim_store.pins[entry->slot] > 0);
    sim_store.pins[entry->slot] += (uint32_t)change;
}

/* A slot for this block, which is on its way. */
static struct memory_entry *store_take(const struct block_key *key)
{
    struct memory_entry *entry;
    if (memory_take(sim_store.memory, &entry) != OK)
        return NULL;
    if (sim_store.pins[entry->slot] != 0)
        fail_msg("the store gives away slot %u, which is pinned", entry->slot);
    store_pinned(entry, 1);
    sim_store.held[entry->slot] = *key;
    entry->key = *key;
    return entry;
}

static void store_let_go(struct memory_entry *entry)
{
    store_pinned(entry, -1);
    memory_unpin(sim_store.memory, entry);
}

/* ---- moves ---- */

static void store_say(struct net_event *event)
{
    struct store_move *move = event->subject;
    if (!move->report(move))
        net_after(10 * MS, store_say, move, move->number);
    else
        move->number = 0;
}

static void store_end(struct store_move *move, status code)
{
    move->status = code;
    net_after((1 + net_below(3)) * MS, store_say, move, move->number);
}

/* Its client sees the connection break; or it lies there until the store goes on. */
static bool store_is_away(struct store_move *move, void (*again)(struct net_event *))
{
    if (!sim_store.alive || move->store_life != sim_store.life)
        store_end(move, ERR_CLOSED);
    else if (sim_store.stopped)
        net_at(sim_store.wakes_ns, again, move, move->number);
    return !store_answers() || move->store_life != sim_store.life;
}

static void store_landed(struct net_event *event)
{
    struct store_move *move = event->subject;
    if (store_is_away(move, store_landed))
        return;
    for (uint32_t i = 0; i < move->taken; i++) {
        struct memory_entry *entry = move->entries[i];
        assert_true(block_key_equal(&sim_store.held[entry->slot], &entry->key));
        if (!move->is_get)
            memory_publish(sim_store.memory, entry);
        else if (!block_key_equal(&entry->key, &move->keys[i]))
            fail_msg("the store gave another block than it was asked for");
        store_let_go(entry);
    }
    move->taken = 0;
    store_end(move, move->is_get || move->landed == move->count ? OK : ERR_FULL);
}

static void store_begin_add(struct store_move *move)
{
    for (uint32_t i = 0; i < move->count; i++) {
        struct memory_entry *entry = NULL;
        if (memory_find(sim_store.memory, &move->keys[i]) == NULL) {
            entry = store_take(&move->keys[i]);
            if (entry == NULL)
                return;
            entry->is_first = i == 0 && move->is_first;
            entry->parent = i > 0 ? move->keys[i - 1] : move->parent;
            if (move->partial && i + 1 == move->count)
                entry->expiry_ns = net.now_ns + STORE_PARTIAL_EXPIRY_NS;
            move->entries[move->taken++] = entry;
        }
        move->landed++;
    }
}

static void store_begin_get(struct store_move *move)
{
    for (uint32_t i = 0; i < move->count; i++) {
        struct memory_entry *entry = memory_find(sim_store.memory, &move->keys[i]);
        if (entry == NULL)
            return;
        memory_pin(sim_store.memory, entry);
        store_pinned(entry, 1);
        move->entries[move->taken++] = entry;
        move->landed++;
    }
}

static void store_asked(struct net_event *event)
{
    struct store_move *move = event->subject;
    if (store_is_away(move, store_asked))
        return;
    if (move->is_get)
        store_begin_get(move);
    else
        store_begin_add(move);
    net_after(sim_store.lag_ns, store_landed, move, move->number);
}

/* What is asked, without its keys; parent: NULL for a chain's first. Returns its number; 0: so much
 * is under way that it is refused. */
static uint64_t store_ask(const struct store_move *ask, const struct block_key *parent,
                          const struct block_key *keys, uint32_t count)
{
    assert_true(count >= 1 && count <= STORE_MOVE_BLOCKS);
    for (uint32_t i = 0; i < STORE_MOVES_MAX; i++) {
        struct store_move *move = &sim_store.moves[i];
        if (move->number != 0)
            continue;
        *move = *ask;
        move->number = ++sim_store.moved;
        move->count = count;
        move->is_first = parent == NULL;
        if (parent != NULL)
            move->parent = *parent;
        memcpy(move->keys, keys, count * sizeof(*keys));
        net_after((1 + net_below(3)) * MS, store_asked, move, move->number);
        return move->number;
    }
    return 0;
}

/* ---- its life ---- */

/* What moves in this life is let go of, as the keeper does: memory does not know it all. */
static void store_drop_moves(void)
{
    for (uint32_t i = 0; i < STORE_MOVES_MAX; i++) {
        struct store_move *move = &sim_store.moves[i];
        if (move->number == 0 || move->store_life != sim_store.life)
            continue;
        for (uint32_t k = 0; k < move->taken; k++)
            store_let_go(move->entries[k]);
        move->taken = 0;
    }
}

static void store_start(struct net_event *event)
{
    (void)event;
    assert_int_equal(memory_open(sim_store.slot_count, 1, &sim_store.memory), OK);
    memset(sim_store.pins, 0, sizeof(sim_store.pins));
    sim_store.alive = true;
    sim_store.stopped = false;
    sim_store.life++;
}

static void store_close(void)
{
    struct memory_counts counts;
    if (!sim_store.alive)
        return;
    store_drop_moves();
    memory_count(sim_store.memory, &counts);
    sim_store.evicted += counts.evicted;
    memory_close(sim_store.memory);
    sim_store.alive = false;
}

static void store_kill(void)
{
    if (!sim_store.alive)
        return;
    store_close();
    net_after((200 + net_below(2000)) * MS, store_start, NULL, 0);
}

static void store_continue(struct net_event *event)
{
    if (sim_store.life == event->number)
        sim_store.stopped = false;
}

static void store_sleep(uint64_t ms)
{
    if (!store_answers())
        return;
    sim_store.stopped = true;
    sim_store.wakes_ns = net.now_ns + ms * MS;
    net_after(ms * MS, store_continue, NULL, sim_store.life);
}

/* slot_count 0: this world has none. */
static void store_open(uint32_t slot_count, uint64_t lag_ms)
{
    memset(&sim_store, 0, sizeof(sim_store));
    sim_store.there = slot_count > 0;
    sim_store.slot_count = slot_count;
    sim_store.lag_ns = lag_ms * MS;
    if (sim_store.there)
        net_after(1 * MS, store_start, NULL, 0);
}

static void store_tick(void)
{
    if (store_answers())
        memory_expire(sim_store.memory, net.now_ns, NULL, NULL);
}

/* Nothing moves, so nothing is pinned. */
static void store_check_at_rest(void)
{
    struct memory_counts counts;
    for (uint32_t i = 0; i < STORE_MOVES_MAX; i++)
        assert_int_equal(sim_store.moves[i].number, 0);
    if (!sim_store.alive)
        return;
    memory_count(sim_store.memory, &counts);
    assert_int_equal(counts.pinned, 0);
    assert_int_equal(counts.used, counts.entries);
    for (uint32_t i = 0; i < sim_store.slot_count; i++)
        assert_int_equal(sim_store.pins[i], 0);
}

#endif
