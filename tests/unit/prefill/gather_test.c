/* A prompt's blocks come from another worker, through real transfers: all of them, some, or none;
 * whatever happens on the way, the tokens are the same and nothing stays referenced. */
#include "world_rig.h"

#include "prefill/request.h"

static void world_open(struct world *w, uint32_t carriers, uint32_t flip_offered)
{
    transfer_rig_flip_offered = flip_offered;
    world_rig_open(w, carriers, NULL);
    transfer_rig_flip_offered = 0;
}

/* d computes and decodes this by itself: it has the blocks then. */
static void world_teach(struct world *w, struct rig_ask *ask)
{
    ask->flags = WIRE_REQUEST_LOCAL;
    ask->max_tokens = 12;
    station_submit(&w->pair.d, ask);
    world_run(w);
}

static void every_block_comes_from_the_peer(void **state)
{
    (void)state;
    static const uint32_t carriers[] = {TRANSFER_SHM, TRANSFER_TCP};
    for (int i = 0; i < 2; i++) {
        struct world w;
        struct rig_ask first = {.id = 1, .epoch = 1};
        world_open(&w, carriers[i], 0);
        rig_fill_prompt(&first, 101, 5, 101);
        world_teach(&w, &first);
        struct rig_ask second = longer(&first, 2, 150);
        struct wire_source source = world_source(&w, 1, 0, 25);
        world_lend(&w, &second, &source);
        world_ask(&w, &second, &source, 1);
        world_run(&w);
        const struct wire_first *told = world_first(&w, &second);
        assert_int_equal(told->cached_tokens, 100);
        assert_int_equal(told->peer_tokens, 100);
        assert_int_equal(told->range_count, 1);
        assert_int_equal(told->ranges[0].status, OK);
        assert_int_equal(told->ranges[0].carrier, carriers[i]);
        assert_true(told->ranges[0].bytes ==
                    25 * (uint64_t)engine_layout(w.pair.p.engine)->block_bytes);
        assert_int_equal(lend_fetched_blocks(w.lend), 25);
        /* They are the tree's now, as if computed: the next one needs nobody. */
        struct rig_ask third = longer(&first, 3, 120);
        world_ask(&w, &third, NULL, 0);
        world_run(&w);
        assert_int_equal(world_first(&w, &third)->cached_tokens, 116); /* second's too */
        assert_int_equal(world_first(&w, &third)->peer_tokens, 0);
        world_close(&w);
    }
}

/* The holder is in a step when it is asked, and this worker in one when the blocks are there: that
 * says nothing of the link between them. */
static void waiting_is_no_part_of_a_move(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    struct rig_ask second = longer(&first, 2, 150);
    struct wire_source source = world_source(&w, 1, 0, 25);
    uint64_t begun_ns = clock_ns();
    world_ask(&w, &second, &source, 1);
    station_step(&w.pair.p);
    uint64_t asked_ns = clock_ns();
    usleep(50000);
    uint64_t lent_ns = clock_ns();
    world_lend(&w, &second, &source);
    assert_true(mailbox_wait(w.pair.pt.reports, PAIR_WAIT_MS));
    uint64_t landed_ns = clock_ns();
    usleep(50000);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->peer_tokens, 100);
    const struct wire_range *range = &told->ranges[0];
    assert_true(range->wait_ns >= lent_ns - asked_ns);
    assert_true(range->ns <= landed_ns - begun_ns);
    assert_true(range->ns > range->wait_ns && range->ns - range->wait_ns <= landed_ns - lent_ns);
    world_close(&w);
}

/* A prompt whose blocks come does not lose its turn to a long one behind it, which would be
 * computed to its end first: that one waits; but not for long, and not longer than is worth it. */
static void a_long_prompt_waits_for_an_older_ones_blocks(void **state)
{
    (void)state;
    for (int way = 0; way < 3; way++) {
        struct world w;
        struct rig_ask first = {.id = 1, .epoch = 1};
        world_open(&w, TRANSFER_SHM, 0);
        struct prefill *prefill = w.pair.p.prefill;
        rig_fill_prompt(&first, 25, 5, 25);
        world_teach(&w, &first);
        struct rig_ask second = longer(&first, 2, 30);
        struct rig_ask third = {.id = 3, .epoch = 1, .max_tokens = 1};
        rig_fill_prompt(&third, 30, 9, 30);
        struct wire_source source = world_source(&w, 1, 0, 6);
        world_ask(&w, &second, &source, 1);
        station_step(&w.pair.p);
        assert_int_equal(prefill->waiting.count, 1);
        /* 1: it has waited longer than anybody waits; 2: than a quarter of the third's time. */
        uint64_t hour_ns = UINT64_C(3600) * 1000000000;
        prefill->waiting.head->gather_started_ns += way == 0 ? hour_ns : 0;
        prefill->waiting.head->gather_started_ns -= way == 1 ? 500000000u : 0;
        prefill->waiting.head->gather_started_ns -= way == 2 ? 1000000u : 0;
        prefill->tokens_per_s = way == 2 ? 1e9 : 0.001;
        world_ask(&w, &third, NULL, 0);
        for (int i = 0; i < 20; i++)
            world_turn(&w);
        assert_int_equal(rig_entry(&w.pair.book, third.id)->got.counts[0], way != 0);
        assert_int_equal(rig_entry(&w.pair.book, second.id)->got.counts[0], 0);
        assert_true((prefill_wait_ms(prefill, clock_ns()) > 0) == (way == 0));
        world_lend(&w, &second, &source);
        world_run(&w);
        assert_int_equal(world_first(&w, &second)->peer_tokens, 24);
        rig_assert_tokens(&w.pair.reference, &w.pair.book, &third);
        assert_int_equal(prefill_wait_ms(prefill, clock_ns()), -1);
        world_close(&w);
    }
}

/* Own prefix, then two ranges in parallel, then compute. */
static void ranges_move_in_parallel(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1}, own = {.id = 2, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    own = longer(&first, 2, 101);
    own.prompt_tokens = 41;
    world_ask(&w, &own, NULL, 0);
    world_run(&w);
    struct rig_ask second = longer(&first, 3, 150);
    struct wire_source sources[] = {world_source(&w, 1, 10, 6), world_source(&w, 2, 16, 9)};
    world_lend(&w, &second, &sources[0]);
    world_lend(&w, &second, &sources[1]);
    world_ask(&w, &second, sources, 2);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->cached_tokens, 100);
    assert_int_equal(told->peer_tokens, 60);
    assert_int_equal(told->range_count, 2);
    world_close(&w);
}

/* Of what two lend, on other hosts as far as one can see, each gives a part; and one does not, and
 * the other one gives its part as well: it was not lent, or is another incarnation, which is known
 * while the other one's blocks come. */
static void two_peers_give_a_part_each(void **state)
{
    (void)state;
    for (uint32_t way = 0; way < 6; way++) {
        struct world w; /* a new one, which has not seen that computing is quicker here */
        struct rig_ask first = {.id = 1, .epoch = 1};
        struct prefill_counters counters;
        world_open(&w, TRANSFER_TCP, 0);
        rig_fill_prompt(&first, 101, 5, 101);
        world_teach(&w, &first);
        struct rig_ask ask = longer(&first, 10 + way, 150);
        struct wire_source sources[2];
        for (uint32_t i = 0; i < 2; i++) {
            /* 12 blocks of one, 13 of the other; 10, which is all it has, and 15. */
            sources[i] = world_source(&w, (uint8_t)(10 * way + i), 0, i == 1 && way == 1 ? 10 : 25);
            sources[i].holder.transfer_unix[0] = '\0';
            sources[i].again = 1;
            if (way >= 4 && i == way % 2)
                sources[i].holder.incarnation ^= 1;
            if (way < 2 || i != way % 2)
                world_lend(&w, &ask, &sources[i]);
        }
        world_ask(&w, &ask, sources, 2);
        for (uint64_t end_ns = clock_ns() + PAIR_WAIT_MS * 1000000ull;
             !prefill_idle(w.pair.p.prefill);) {
            world_turn(&w);
            assert_true(clock_ns() < end_ns);
        }
        lend_end(w.lend, ask.id);
        world_run(&w);
        const struct wire_first copy = *world_first(&w, &ask), *told = &copy;
        assert_int_equal(told->peer_tokens, 100);
        assert_int_equal(told->range_count, way < 2 ? 2 : 3);
        assert_int_equal(told->ranges[0].first_block, 0);
        assert_int_equal(told->ranges[0].block_count, way == 1 ? 10 : 12);
        assert_int_equal(told->ranges[1].first_block, told->ranges[0].block_count);
        assert_int_equal(told->ranges[1].block_count, 25 - told->ranges[0].block_count);
        prefill_count(w.pair.p.prefill, &counters);
        assert_int_equal(counters.gather_failures, way < 2 ? 0 : 1);
        assert_int_equal(lend_fetched_blocks(w.lend), 25);
        world_close(&w);
        if (way < 2)
            continue;
        /* Source 1 was asked for the beginning, source 0 for the rest. */
        const struct wire_range *lost = &told->ranges[way % 2 == 0];
        assert_true(lost->status != OK && told->ranges[way % 2].status == OK);
        assert_int_equal(told->ranges[2].first_block, lost->first_block);
        assert_int_equal(told->ranges[2].block_count, lost->block_count);
        assert_int_equal(told->ranges[2].status, OK);
    }
}

/* A flipped bit is caught, and what it was in is computed; another source is asked before. */
static void a_flipped_bit_is_caught(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    struct prefill_counters counters;
    world_open(&w, TRANSFER_SHM, 7);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    struct rig_ask second = longer(&first, 2, 150);
    struct wire_source source = world_source(&w, 1, 0, 25);
    world_lend(&w, &second, &source);
    world_ask(&w, &second, &source, 1);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->cached_tokens, 0);
    assert_int_equal(told->ranges[0].status, ERR_CORRUPT);
    prefill_count(w.pair.p.prefill, &counters);
    assert_int_equal(counters.gather_failures, 1);
    world_close(&w);
}

/* d was handed a block that is partly filled, and filled it: what it lends then is summed as it is
 * now, not as it came. */
static void what_was_filled_since_it_came_is_summed_anew(void **state)
{
    (void)state;
    for (uint32_t tokens = 21; tokens <= 24; tokens++) {
        struct world w;
        struct rig_ask first = {.id = 1, .epoch = 1, .max_tokens = 12};
        world_open(&w, TRANSFER_SHM, 0);
        rig_fill_prompt(&first, tokens, 5, tokens);
        pair_submit(&w.pair, &first);
        world_run(&w);
        const struct rig_tokens *got = &rig_entry(&w.pair.book, first.id)->got;
        assert_int_equal(got->counts[0], 12);
        struct rig_ask second = longer(&first, 2, 60);
        memcpy(second.prompt + tokens, got->tokens[0], 12 * sizeof(second.prompt[0]));
        prefix_tree_clear(w.pair.p.tree);
        struct wire_source source = world_source(&w, 1, 0, 8); /* 32 of 21 + 11 tokens and more */
        world_lend(&w, &second, &source);
        world_ask(&w, &second, &source, 1);
        world_run(&w);
        const struct wire_first *told = world_first(&w, &second);
        assert_int_equal(told->range_count, 1);
        assert_int_equal(told->ranges[0].status, OK);
        assert_int_equal(told->peer_tokens, 32);
        world_close(&w);
    }
}

/* The first source is another incarnation by now; the second stands in for it. */
static void another_source_stands_in(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    struct rig_ask second = longer(&first, 2, 150);
    struct wire_source sources[] = {world_source(&w, 1, 0, 25), world_source(&w, 2, 0, 20)};
    sources[0].holder.incarnation ^= 1;
    world_lend(&w, &second, &sources[1]);
    world_ask(&w, &second, sources, 2);
    world_run(&w);
    const struct wire_first *told = world_first(&w, &second);
    assert_int_equal(told->cached_tokens, 80);
    assert_int_equal(told->range_count, 2);
    assert_true(told->ranges[0].status != OK);
    assert_int_equal(told->ranges[1].status, OK);
    world_close(&w);
}

/* Nobody ever lends what was promised: in bounded time it is computed. And a holder that has less
 * than was believed says so. */
static void promises_that_are_not_kept(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 41, 5, 41);
    world_teach(&w, &first);
    struct rig_ask second = longer(&first, 2, 150), third = longer(&first, 3, 150),
                   fourth = longer(&first, 4, 150);
    second.prompt[0] = 299; /* not what d has */
    struct wire_source source = world_source(&w, 1, 0, 25);
    uint64_t start_ns = clock_ns();
    world_ask(&w, &second, &source, 1);
    world_run(&w);
    assert_true(clock_ns() - start_ns < 5000000000u);
    assert_int_equal(world_first(&w, &second)->cached_tokens, 0);
    assert_true(world_first(&w, &second)->ranges[0].status != OK);

    source = world_source(&w, 2, 0, 25);
    world_lend(&w, &third, &source); /* 10 of them are there */
    world_ask(&w, &third, &source, 1);
    world_run(&w);
    assert_int_equal(world_first(&w, &third)->peer_tokens, 40);

    source = world_source(&w, 3, 40, 10); /* behind the own prefix: of no use */
    world_lend(&w, &fourth, &source);
    world_ask(&w, &fourth, &source, 1);
    PAIR_UNTIL(&w.pair, prefill_idle(w.pair.p.prefill));
    assert_int_equal(world_first(&w, &fourth)->range_count, 0);
    lend_end(w.lend, fourth.id); /* nobody came */
    world_close(&w);
}

/* Given up at every moment: while it waits for its blocks, while they come, after. */
static void cancelled_anywhere_nothing_stays(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    for (uint32_t turns = 0; turns < 24; turns++) {
        struct rig_ask ask = longer(&first, 10 + turns, 150);
        struct wire_source source = world_source(&w, (uint8_t)turns, 0, 25);
        prefix_tree_clear(w.pair.p.tree);
        if (turns % 3 != 0)
            world_lend(&w, &ask, &source);
        world_ask(&w, &ask, &source, 1);
        for (uint32_t i = 0; i < turns / 2; i++)
            world_turn(&w);
        prefill_cancel(w.pair.p.prefill, ask.id);
        lend_end(w.lend, ask.id);
        world_run(&w);
        station_assert_idle(&w.pair.p);
        station_assert_idle(&w.pair.d);
    }
    world_close(&w);
}

/* Lending is bounded, by count and by blocks. */
static void lending_is_bounded(void **state)
{
    (void)state;
    struct world w;
    struct rig_ask first = {.id = 1, .epoch = 1};
    world_open(&w, TRANSFER_SHM, 0);
    rig_fill_prompt(&first, 101, 5, 101);
    world_teach(&w, &first);
    uint32_t open = 0;
    status st = OK;
    while (st == OK) {
        struct wire_source source = world_source(&w, 0, 0, 25);
        store_u32(source.lease.bytes, 1000 + open);
        uint8_t keys[25 * WIRE_KEY_BYTES] = {0};
        const struct wire_lend lend = {.request_id = 7,
                                       .lease = source.lease,
                                       .epoch = 1,
                                       .expiry_ms = 5000,
                                       .key_count = 25,
                                       .keys = keys};
        st = lend_take(w.lend, &lend);
        open += st == OK;
        assert_true(open <= LEND_MAX);
    }
    assert_int_equal(st, ERR_FULL);
    assert_int_equal(open, LEND_MAX);
    lend_end(w.lend, 7);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_block_comes_from_the_peer),
        cmocka_unit_test(waiting_is_no_part_of_a_move),
        cmocka_unit_test(a_long_prompt_waits_for_an_older_ones_blocks),
        cmocka_unit_test(ranges_move_in_parallel),
        cmocka_unit_test(two_peers_give_a_part_each),
        cmocka_unit_test(a_flipped_bit_is_caught),
        cmocka_unit_test(what_was_filled_since_it_came_is_summed_anew),
        cmocka_unit_test(another_source_stands_in),
        cmocka_unit_test(promises_that_are_not_kept),
        cmocka_unit_test(cancelled_anywhere_nothing_stays),
        cmocka_unit_test(lending_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
