/* A prompt's blocks come from the store, alone or beside a peer, and go to it: whatever happens on
 * the way, the tokens are the same and nothing stays referenced. The store is a shelf in this
 * program; its answers come a turn later. */
#include "world_rig.h"

#define SHELF_MAX 512

struct book_on_shelf {
    struct block_key key;
    uint8_t *bytes;
};

struct errand { /* a fetch that is not answered */
    struct station *station;
    uint64_t ticket;
    struct block_key keys[64];
    block_id ids[64];
    uint32_t count;
    bool cancelled;
    uint64_t asked_ns;
};

static struct {
    struct pair *pair;
    struct book_on_shelf kept[SHELF_MAX];
    uint32_t kept_count;
    struct errand errands[32];
    uint32_t errand_count;
    uint32_t fetches, asked;
    bool closed, keeps_waiting;
    status fails;
    uint32_t fails_after; /* this many blocks have landed by then */
    bool saved, saved_partial;
    uint32_t heard_late_us; /* an answer, by the compute thread */
    uint64_t ended_ns;      /* the last one */
} shelf;

static uint8_t *shelf_block(struct station *station, block_id id)
{
    return engine_pool(station->engine)->host + id * engine_block_bytes(station->engine);
}

static void shelf_keep(struct station *station, const struct block_key *key, block_id id)
{
    size_t bytes = engine_block_bytes(station->engine);
    assert_true(shelf.kept_count < SHELF_MAX);
    struct book_on_shelf *to = &shelf.kept[shelf.kept_count++];
    to->key = *key;
    to->bytes = malloc(bytes);
    assert_non_null(to->bytes);
    memcpy(to->bytes, shelf_block(station, id), bytes);
}

static void shelf_sealed_p(void *ctx, uint64_t owner, const struct block_key *key,
                           const struct block_key *parent, block_id id)
{
    (void)ctx, (void)owner, (void)parent;
    shelf_keep(&shelf.pair->p, key, id);
}

static void shelf_sealed_d(void *ctx, uint64_t owner, const struct block_key *key,
                           const struct block_key *parent, block_id id)
{
    (void)ctx, (void)owner, (void)parent;
    shelf_keep(&shelf.pair->d, key, id);
}

static void shelf_save(void *ctx, uint64_t request_id, const struct block_key *keys,
                       const block_id *ids, uint32_t block_count, bool partial)
{
    struct station *p = &shelf.pair->p;
    (void)ctx, (void)request_id;
    for (uint32_t i = 0; i < block_count; i++)
        shelf_keep(p, &keys[i], ids[i]);
    prefix_tree_drop(p->tree, ids, block_count);
    shelf.saved = true;
    shelf.saved_partial = partial;
}

static status shelf_fetch(struct station *station, uint64_t ticket, const struct block_key *keys,
                          const block_id *ids, uint32_t count)
{
    if (shelf.closed)
        return error_set(ERR_CLOSED, "no store is connected");
    assert_true(shelf.errand_count < 32 && count > 0 && count <= 64);
    struct errand *errand = &shelf.errands[shelf.errand_count++];
    *errand = (struct errand){
        .station = station, .ticket = ticket, .count = count, .asked_ns = clock_ns()};
    memcpy(errand->keys, keys, count * sizeof(*keys));
    memcpy(errand->ids, ids, count * sizeof(*ids));
    shelf.fetches++;
    shelf.asked += count;
    return OK;
}

static status shelf_fetch_p(void *ctx, uint64_t ticket, const struct block_key *keys,
                            const block_id *ids, uint32_t count, uint32_t deadline_ms)
{
    (void)ctx;
    assert_true(deadline_ms > 0);
    return shelf_fetch(&shelf.pair->p, ticket, keys, ids, count);
}

static status shelf_fetch_d(void *ctx, uint64_t ticket, const struct block_key *keys,
                            const block_id *ids, uint32_t count, uint32_t deadline_ms)
{
    (void)ctx;
    assert_true(deadline_ms > 0);
    return shelf_fetch(&shelf.pair->d, ticket, keys, ids, count);
}

static void shelf_cancel(void *ctx, uint64_t ticket)
{
    (void)ctx;
    for (uint32_t i = 0; i < shelf.errand_count; i++)
        shelf.errands[i].cancelled =
            shelf.errands[i].cancelled || shelf.errands[i].ticket == ticket;
}

static const struct book_on_shelf *shelf_find(const struct block_key *key)
{
    for (uint32_t i = 0; i < shelf.kept_count; i++) {
        if (block_key_equal(&shelf.kept[i].key, key))
            return &shelf.kept[i];
    }
    return NULL;
}

static void shelf_answer(const struct errand *errand)
{
    size_t bytes = engine_block_bytes(errand->station->engine);
    struct transfer_rig *rig =
        errand->station == &shelf.pair->p ? &shelf.pair->pt : &shelf.pair->dt;
    struct prefill_fetch fetch = {.ticket = errand->ticket, .status = shelf.fails, .text = "shelf"};
    const struct book_on_shelf *found;
    uint32_t most = shelf.fails != OK ? shelf.fails_after : errand->count;
    while (!errand->cancelled && fetch.block_count < errand->count && fetch.block_count < most &&
           (found = shelf_find(&errand->keys[fetch.block_count])) != NULL) {
        block_id id = errand->ids[fetch.block_count++];
        memcpy(shelf_block(errand->station, id), found->bytes, bytes);
        transfer_rig_assert_sums(rig, errand->station, id); /* known, as of what lands */
    }
    if (errand->cancelled)
        fetch.status = ERR_CANCELLED;
    fetch.bytes = fetch.block_count * bytes;
    fetch.ended_ns = shelf.ended_ns = clock_ns();
    fetch.seconds = (double)(fetch.ended_ns - errand->asked_ns) / 1e9;
    usleep(shelf.heard_late_us);
    prefill_fetched(errand->station->prefill, &fetch);
}

static void shelf_turn(void)
{
    struct errand errands[32];
    uint32_t count = shelf.errand_count;
    if (shelf.keeps_waiting)
        return;
    memcpy(errands, shelf.errands, sizeof(errands));
    shelf.errand_count = 0;
    for (uint32_t i = 0; i < count; i++)
        shelf_answer(&errands[i]);
}

static void world_open(struct world *w)
{
    world_rig_open(w, TRANSFER_SHM, shelf_turn);
    memset(&shelf, 0, sizeof(shelf));
    shelf.pair = &w->pair;
    w->pair.p.sealed = shelf_sealed_p;
    w->pair.d.sealed = shelf_sealed_d;
    w->pair.p.fetch = shelf_fetch_p;
    w->pair.d.fetch = shelf_fetch_d;
    w->pair.p.fetch_cancel = w->pair.d.fetch_cancel = shelf_cancel;
    w->pair.p.save = shelf_save;
}

static void world_end(struct world *w)
{
    world_close(w);
    for (uint32_t i = 0; i < shelf.kept_count; i++)
        free(shelf.kept[i].bytes);
}

/* d computes this by itself: the shelf has the blocks then. */
static struct rig_ask world_teach(struct world *w, uint32_t tokens)
{
    struct rig_ask ask = {.id = 1, .epoch = 1, .flags = WIRE_REQUEST_LOCAL, .max_tokens = 12};
    rig_fill_prompt(&ask, tokens, 5, tokens);
    station_submit(&w->pair.d, &ask);
    world_run(w);
    return ask;
}

/* Blocks that were computed are told of once, prompt's and output's; those that were fetched not.
 */
static void what_is_computed_is_told_of(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101);
    assert_int_equal(shelf.kept_count, (101 + 11) / RIG_BLOCK_TOKENS);
    struct rig_ask second = longer(&first, 2, 150);
    station_submit(&w.pair.p, &second);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->cached_tokens, 100);
    assert_int_equal(told->store_tokens, 100);
    assert_int_equal(told->peer_tokens, 0);
    assert_int_equal(told->range_count, 1);
    assert_int_equal(told->ranges[0].from, WIRE_FROM_STORE);
    assert_int_equal(told->ranges[0].status, OK);
    assert_int_equal(shelf.kept_count, (101 + 11) / RIG_BLOCK_TOKENS + 37 - 25);
    world_end(&w);
}

/* d lends these, by its Unix socket. */
static struct wire_source lent(struct world *w, const struct rig_ask *ask, uint32_t first,
                               uint32_t count)
{
    struct wire_source source = world_source(w, 1, first, count);
    world_lend(w, ask, &source);
    return source;
}

/* A peer has the first blocks, the store those after it: both at once, each counted for itself. */
static void peer_and_store_at_once(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    struct wire_source source = lent(&w, &second, 0, 10);
    world_ask(&w, &second, &source, 1);
    station_step(&w.pair.p);
    assert_int_equal(shelf.errand_count, 1); /* before the peer has said anything */
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->peer_tokens, 40);
    assert_int_equal(told->store_tokens, 60);
    assert_int_equal(told->cached_tokens, 100);
    assert_int_equal(told->range_count, 2);
    world_end(&w);
}

/* The peer is another incarnation by now: the store stands in for it. */
static void the_store_stands_in_for_a_peer(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    struct wire_source source = lent(&w, &second, 0, 25);
    source.holder.incarnation ^= 1;
    world_ask(&w, &second, &source, 1);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->store_tokens, 100);
    assert_int_equal(told->peer_tokens, 0);
    assert_true(told->ranges[0].from == WIRE_FROM_PEER && told->ranges[0].status != OK);
    world_end(&w);
}

/* What landed before a fetch failed is used, the rest is computed; no store is no failure. */
static void the_rest_is_computed(void **state)
{
    (void)state;
    struct world w;
    struct prefill_counters counters;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    shelf.fails = ERR_TIMEOUT;
    shelf.fails_after = 7;
    station_submit(&w.pair.p, &second);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->store_tokens, 28);
    assert_int_equal(told->ranges[0].status, ERR_TIMEOUT);
    prefill_count(w.pair.p.prefill, &counters);
    assert_int_equal(counters.gather_failures, 1);
    assert_int_equal(counters.store_tokens, 28);
    shelf.closed = true;
    prefix_tree_clear(w.pair.p.tree);
    struct rig_ask third = longer(&first, 3, 150);
    station_submit(&w.pair.p, &third);
    world_run(&w);
    assert_int_equal(world_first(&w, &third)->range_count, 0);
    prefill_count(w.pair.p.prefill, &counters);
    assert_int_equal(counters.gather_failures, 1);
    world_end(&w);
}

/* The store has the first blocks, a peer later ones, nobody those between: these are computed, and
 * no other. */
static void holes_are_computed(void **state)
{
    (void)state;
    struct world w;
    struct prefill_counters before, after;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    uint32_t kept = shelf.kept_count;
    shelf.fails = ERR_TIMEOUT;
    shelf.fails_after = 3;
    prefill_count(w.pair.p.prefill, &before);
    struct wire_source source = lent(&w, &second, 10, 15);
    world_ask(&w, &second, &source, 1);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->store_tokens, 12);
    assert_int_equal(told->peer_tokens, 60);
    assert_int_equal(told->cached_tokens, 72);
    prefill_count(w.pair.p.prefill, &after);
    assert_int_equal(after.tokens - before.tokens, 150 - 72);
    assert_int_equal(after.prefix_hits - before.prefix_hits, 72);
    /* All but what came is told of, holes and the rest. */
    assert_int_equal(shelf.kept_count - kept, 150 / RIG_BLOCK_TOKENS - 3 - 15);
    struct prefix_tree_counts blocks;
    prefix_tree_count(w.pair.p.tree, &blocks);
    assert_int_equal(blocks.cached, 150 / RIG_BLOCK_TOKENS);
    world_end(&w);
}

/* How long a fetch took is not how long the step was in which the compute thread could not hear. */
static void a_step_is_no_part_of_a_fetch(void **state)
{
    (void)state;
    struct world w;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    uint64_t before_ns = clock_ns();
    shelf.heard_late_us = 200000;
    station_submit(&w.pair.p, &second);
    world_run(&w);
    const struct wire_range *range = &world_first(&w, &second)->ranges[0];
    assert_int_equal(range->from, WIRE_FROM_STORE);
    assert_true(range->ns > 0 && range->ns <= shelf.ended_ns - before_ns);
    assert_true(range->wait_ns < range->ns);
    world_end(&w);
}

/* Given up while its blocks come: they are let go when the store says so, and not before. */
static void cancelled_while_it_waits(void **state)
{
    (void)state;
    struct world w;
    struct prefix_tree_counts counts;
    world_open(&w);
    struct rig_ask first = world_teach(&w, 101), second = longer(&first, 2, 150);
    shelf.keeps_waiting = true;
    station_submit(&w.pair.p, &second);
    for (int i = 0; i < 5; i++)
        world_turn(&w);
    assert_int_equal(shelf.errand_count, 1);
    prefill_cancel(w.pair.p.prefill, second.id);
    assert_true(shelf.errands[0].cancelled);
    prefix_tree_count(w.pair.p.tree, &counts);
    assert_int_equal(counts.referenced, 38);
    shelf.keeps_waiting = false;
    world_run(&w);
    prefix_tree_count(w.pair.p.tree, &counts);
    assert_int_equal(counts.referenced, 0);
    world_end(&w);
}

/* p computes, the shelf keeps all, d goes on from there and computes nothing of it again. Prompts
 * that end with a full block, and that do not. */
static void handed_over_by_the_store(void **state)
{
    (void)state;
    for (uint32_t tokens = 1; tokens <= 40; tokens += 3) {
        struct world w;
        struct prefill_counters counters;
        world_open(&w);
        struct rig_ask ask = {.id = 9,
                              .epoch = 1,
                              .max_tokens = 12,
                              .temperature = 0.8f,
                              .seed = tokens,
                              .handoff = WIRE_HANDOFF_STORE};
        rig_fill_prompt(&ask, tokens, 5, tokens);
        struct rig_tokens *whole = malloc(sizeof(*whole));
        assert_non_null(whole);
        rig_reference_run(&w.pair.reference, &ask, whole);
        station_submit(&w.pair.p, &ask);
        world_run(&w);
        assert_int_equal(rig_entry(&w.pair.book, ask.id)->starting_count,
                         0); /* no place is asked */
        assert_int_equal(rig_entry(&w.pair.book, ask.id)->got.counts[0], 1);
        assert_true(shelf.saved);
        assert_int_equal(shelf.saved_partial, tokens % RIG_BLOCK_TOKENS != 0);
        rig_book_clear(&w.pair.book);
        struct rig_ask again = rig_resume(&w.pair.book, &ask, whole->tokens[0], 0, 1);
        again.flags = WIRE_REQUEST_LOCAL;
        station_submit(&w.pair.d, &again);
        world_run(&w);
        const struct rig_entry *entry = rig_entry(&w.pair.book, ask.id);
        assert_int_equal(entry->got.counts[0], whole->counts[0]);
        assert_memory_equal(entry->got.tokens[0], whole->tokens[0],
                            whole->counts[0] * sizeof(uint32_t));
        prefill_count(w.pair.d.prefill, &counters);
        assert_int_equal(counters.recomputed_tokens, 0);
        assert_int_equal(entry->first.store_tokens, tokens);
        free(whole);
        world_end(&w);
    }
}

/* Two have all the room for sequences and wait for the shelf, and one that is more urgent comes and
 * finds none: they run before it, because it waits for what they keep. */
static void room_is_not_kept_from_the_urgent(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask asks[3];
    world_open(&w);
    shelf.keeps_waiting = true;
    for (uint32_t i = 0; i < 3; i++) {
        bool urgent = i == 2;
        asks[i] = (struct rig_ask){.id = 30 + i,
                                   .epoch = 1,
                                   .flags = WIRE_REQUEST_LOCAL,
                                   .n = urgent ? 1 : w.pair.d.decode_batch / 2,
                                   .priority = urgent ? -1 : 0,
                                   .max_tokens = 5};
        rig_fill_prompt(&asks[i], 21, 5 + i, 21);
        station_submit(&w.pair.d, &asks[i]);
        world_turn(&w);
    }
    assert_int_equal(shelf.errand_count, 2); /* no room: the urgent one asks for nothing yet */
    shelf.keeps_waiting = false;
    world_run(&w);
    for (uint32_t i = 0; i < 3; i++)
        rig_assert_tokens(&w.pair.reference, &w.pair.book, &asks[i]);
    world_end(&w);
}

/* As above, and the urgent one has no source: those behind it, whose blocks could come while others
 * run, take no room before it. */
static void who_lacked_room_is_next(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask asks[3];
    world_open(&w);
    struct station *d = &w.pair.d;
    assert_true(decode_expect(d->decode, d->decode_batch - 4)); /* 4 are left */
    shelf.keeps_waiting = true;
    for (uint32_t i = 0; i < 3; i++) {
        bool large = i == 1;
        asks[i] = (struct rig_ask){.id = 30 + i,
                                   .epoch = 1,
                                   .flags = WIRE_REQUEST_LOCAL,
                                   .n = large ? 4 : 2,
                                   .max_tokens = 5};
        rig_fill_prompt(&asks[i], 21, 5 + i, 21);
        struct wire_request *wire = rig_wire(&asks[i]);
        struct sampling sampling = rig_sampling(&asks[i]);
        wire->saved_blocks = large ? 0 : 5;
        prefill_submit(d->prefill, wire, &sampling);
        station_step(d);
    }
    assert_int_equal(shelf.errand_count, 1);
    shelf.keeps_waiting = false;
    shelf_turn();
    shelf.keeps_waiting = true;
    while (rig_entry(&w.pair.book, asks[0].id)->got.counts[0] < asks[0].max_tokens) {
        station_step(d);
        assert_int_equal(shelf.errand_count, 0);
    }
    station_step(d);
    assert_int_equal(shelf.errand_count, 1); /* the large one's: nobody else has room now */
    shelf.keeps_waiting = false;
    while (rig_entry(&w.pair.book, asks[1].id)->got.counts[0] < asks[1].max_tokens)
        world_turn(&w);
    decode_expect_none(d->decode, d->decode_batch - 4);
    world_run(&w);
    for (uint32_t i = 0; i < 3; i++)
        rig_assert_tokens(&w.pair.reference, &w.pair.book, &asks[i]);
    world_end(&w);
}

/* Three sequences of a prompt that p has computed and the shelf has go on at d, each from its
 * own first token; the shelf does not answer yet. */
static void world_go_on(struct world *w, uint32_t tokens, struct rig_ask parts[3])
{
    struct rig_ask ask = {.id = 9, .epoch = 1, .max_tokens = 6, .handoff = WIRE_HANDOFF_STORE};
    rig_fill_prompt(&ask, tokens, 5, tokens);
    station_submit(&w->pair.p, &ask);
    world_run(w);
    shelf.asked = 0;
    shelf.keeps_waiting = true;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t first = 40 + i; /* as if drawn */
        parts[i] =
            (struct rig_ask){.id = 20 + i, .epoch = 1, .max_tokens = 5, .prompt_tokens = tokens};
        memcpy(parts[i].prompt, ask.prompt, sizeof(ask.prompt));
        parts[i] = rig_resume(&w->pair.book, &parts[i], &first, 0, 1);
        parts[i].flags = WIRE_REQUEST_LOCAL;
        station_submit(&w->pair.d, &parts[i]);
        world_turn(w);
    }
}

static void assert_went_on(struct world *w, const struct rig_ask *part)
{
    struct rig_tokens *whole = malloc(sizeof(*whole));
    assert_non_null(whole);
    rig_reference_run(&w->pair.reference, part, whole);
    const struct rig_entry *entry = rig_entry(&w->pair.book, part->id);
    assert_int_equal(entry->got.counts[0], part->max_tokens); /* with its first one */
    assert_memory_equal(entry->got.tokens[0] + 1, whole->tokens[0],
                        (part->max_tokens - 1) * sizeof(uint32_t));
    free(whole);
}

/* What three sequences of one prompt go on from is fetched once, the last, partial block included,
 * whatever fits into a batch; and when the one that fetches is cancelled, the next one does. */
static void one_fetch_for_all_sequences(void **state)
{
    (void)state;
    for (uint32_t way = 0; way < 8; way++) {
        struct world w;
        struct prefill_counters counters;
        struct rig_ask parts[3];
        bool cancels = way >= 4;
        uint32_t tokens = 37 + way % 4, blocks = kv_blocks_for(tokens, RIG_BLOCK_TOKENS);
        world_open(&w);
        world_go_on(&w, tokens, parts);
        assert_int_equal(shelf.asked, blocks);
        if (cancels) {
            prefill_cancel(w.pair.d.prefill, parts[0].id);
            for (int i = 0; i < 4; i++)
                world_turn(&w);
        }
        shelf.keeps_waiting = false;
        world_run(&w);
        assert_int_equal(shelf.asked, cancels ? 2 * blocks : blocks);
        for (uint32_t i = cancels; i < 3; i++) {
            assert_went_on(&w, &parts[i]);
            assert_int_equal(rig_entry(&w.pair.book, parts[i].id)->first.cached_tokens, tokens);
        }
        prefill_count(w.pair.d.prefill, &counters);
        assert_int_equal(counters.recomputed_tokens, 0);
        world_end(&w);
    }
}

/* The one fetch fails: the others do not wait for each other, one after the other. */
static void none_waits_after_a_failed_fetch(void **state)
{
    (void)state;
    for (uint32_t tokens = 17; tokens <= 20; tokens++) {
        struct world w;
        struct rig_ask parts[3];
        uint32_t blocks = kv_blocks_for(tokens, RIG_BLOCK_TOKENS);
        world_open(&w);
        world_go_on(&w, tokens, parts);
        assert_int_equal(shelf.asked, blocks);
        shelf.fails = ERR_TIMEOUT;
        shelf.keeps_waiting = false;
        shelf_turn();
        shelf.keeps_waiting = true;
        station_step(&w.pair.d);
        assert_int_equal(shelf.asked, 3 * blocks);
        shelf.fails = OK;
        shelf.keeps_waiting = false;
        world_run(&w);
        for (uint32_t i = 0; i < 3; i++)
            assert_went_on(&w, &parts[i]);
        world_end(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_fetch_for_all_sequences),
        cmocka_unit_test(none_waits_after_a_failed_fetch),
        cmocka_unit_test(what_is_computed_is_told_of),
        cmocka_unit_test(peer_and_store_at_once),
        cmocka_unit_test(the_store_stands_in_for_a_peer),
        cmocka_unit_test(the_rest_is_computed),
        cmocka_unit_test(holes_are_computed),
        cmocka_unit_test(a_step_is_no_part_of_a_fetch),
        cmocka_unit_test(cancelled_while_it_waits),
        cmocka_unit_test(handed_over_by_the_store),
        cmocka_unit_test(room_is_not_kept_from_the_urgent),
        cmocka_unit_test(who_lacked_room_is_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
