/* The decode scheduler over a real engine: who gets room, who runs, who gives way when blocks run
 * out, and what is left behind when a request ends anywhere on its way. */
#include "transfer_rig.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama3-f16.gguf"

/* A colocated worker: what its prefill computes, its decode adopts. */
struct alone {
    struct model *model;
    struct rig_book book;
    struct rig_reference reference;
    struct station s;
};

static void alone_open(struct alone *alone, const struct station_config *config)
{
    struct station_config none = {0};
    const struct station_config *c = config != NULL ? config : &none;
    ASSERT_OK(weights_open(MODEL, &alone->model));
    rig_book_open(&alone->book);
    rig_reference_open(&alone->reference, alone->model);
    station_open(&alone->s, alone->model, &alone->book, c);
    station_start(&alone->s, alone->model, c, NULL);
}

static void alone_run(struct alone *alone)
{
    int steps = 0;
    while (station_step(&alone->s))
        assert_true(++steps < 20000);
    station_assert_idle(&alone->s);
}

static void alone_close(struct alone *alone)
{
    station_close(&alone->s);
    rig_reference_close(&alone->reference);
    rig_book_close(&alone->book);
    weights_close(alone->model);
}

static struct decode_counters counted(struct station *station)
{
    struct decode_counters counters;
    decode_count(station->decode, &counters);
    return counters;
}

static struct prefix_tree_counts blocks(struct station *station)
{
    struct prefix_tree_counts counts;
    prefix_tree_count(station->tree, &counts);
    return counts;
}

static struct rig_ask ask_some(uint64_t id, uint32_t tokens, uint32_t max_tokens)
{
    struct rig_ask ask = {.id = id, .max_tokens = max_tokens, .temperature = 2, .seed = id};
    rig_fill_prompt(&ask, tokens, (uint32_t)id + 500, 0);
    return ask;
}

static struct rig_ask ask_local(uint64_t id, uint32_t tokens, uint32_t max_tokens)
{
    struct rig_ask ask = ask_some(id, tokens, max_tokens);
    ask.flags = WIRE_REQUEST_LOCAL;
    return ask;
}

/* ---- batching ---- */

static void sequences_join_and_leave_at_every_step(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask asks[20];
    uint32_t joined = 0, most = 0;
    for (uint32_t i = 0; i < 20; i++)
        asks[i] = ask_local(i + 1, 3 + i, 2 + i * 7 % 30);
    while (joined < 20 || !prefill_idle(alone.s.prefill) || !decode_idle(alone.s.decode)) {
        /* A newcomer every other step, whatever runs. */
        if (joined < 20 && alone.s.steps % 2 == 0)
            station_submit(&alone.s, &asks[joined++]);
        uint32_t running = counted(&alone.s).running;
        assert_true(station_step(&alone.s));
        assert_int_equal(alone.s.decoded, running); /* every one that runs, in every step */
        most = alone.s.decoded > most ? alone.s.decoded : most;
    }
    assert_true(most >= 4);
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < 20; i++) {
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
        tokens += asks[i].max_tokens - 1;
    }
    assert_int_equal(counted(&alone.s).tokens, tokens);
    assert_int_equal(counted(&alone.s).preemptions, 0);
    assert_int_equal(counted(&alone.s).recomputed_tokens, 0);
    alone_close(&alone);
}

static void no_more_than_the_batch_run(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, &(struct station_config){.decode_batch = 4}, TRANSFER_SHM);
    struct rig_ask asks[10];
    for (uint32_t i = 0; i < 10; i++) {
        asks[i] = ask_some(i + 1, 9 + i, 20);
        asks[i].n = 1 + i % 3;
        pair_submit(&pair, &asks[i]);
    }
    bool waited = false;
    PAIR_UNTIL(&pair, (waited = waited || counted(&pair.d).waiting > 0,
                       assert_true(counted(&pair.d).running <= 4), assert_true(pair.d.decoded <= 4),
                       pair_idle(&pair)));
    assert_true(waited);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

static void n_shares_the_prompt(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    struct rig_ask ask = ask_some(1, 30, 20);
    ask.n = 4;
    pair_submit(&pair, &ask);
    PAIR_UNTIL(&pair, counted(&pair.d).running == 4);
    if (pair.d.decoded == 0) {
        assert_int_equal(blocks(&pair.d).referenced, 8);
        station_step(&pair.d);
    }
    assert_int_equal(blocks(&pair.d).referenced, 8 + 3); /* the partial block: three copies */
    pair_run(&pair);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

/* The same answer four times: what fills up is one block for all of them. */
static void equal_answers_share_their_blocks(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask ask = ask_local(1, 32, 25);
    ask.n = 4;
    ask.temperature = 0;
    station_submit(&alone.s, &ask);
    while (counted(&alone.s).running < 4)
        station_step(&alone.s);
    for (int i = 0; i < 12; i++)
        assert_true(station_step(&alone.s));
    assert_int_equal(blocks(&alone.s).referenced, 8 + 3);
    alone_run(&alone);
    rig_assert_tokens(&alone.reference, &alone.book, &ask);
    alone_close(&alone);
}

/* ---- ends of an answer ---- */

static void answers_end_where_they_should(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask plain = ask_local(1, 12, 30);
    struct rig_tokens expected;
    rig_reference_run(&alone.reference, &plain, &expected);
    struct rig_ask stop = plain, later = plain, over = plain;
    stop.id = 2; /* by its sixth token */
    stop.stop_ids[0] = expected.tokens[0][5];
    stop.stop_ids[1] = expected.tokens[0][9];
    stop.stop_count = 2;
    later = stop;
    later.id = 3; /* which may not come before the tenth */
    later.min_tokens = 9;
    over.id = 4;
    over.max_tokens = 2;
    const struct rig_ask *asks[] = {&plain, &stop, &later, &over};
    for (int i = 0; i < 4; i++) {
        station_submit(&alone.s, asks[i]);
        station_step(&alone.s);
    }
    alone_run(&alone);
    for (int i = 0; i < 4; i++)
        rig_assert_tokens(&alone.reference, &alone.book, asks[i]);
    assert_int_equal(rig_entry(&alone.book, 1)->got.finish[0], WIRE_FINISH_LENGTH);
    assert_int_equal(rig_entry(&alone.book, 2)->got.finish[0], WIRE_FINISH_STOP);
    assert_true(rig_entry(&alone.book, 2)->got.counts[0] <= 6);
    assert_true(rig_entry(&alone.book, 3)->got.counts[0] > 9);
    assert_int_equal(rig_entry(&alone.book, 4)->got.counts[0], 2);
    alone_close(&alone);
}

/* A chat's next turn: prompt and answer of the last one are here. */
static void answers_become_prefixes(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask first = ask_local(1, 30, 20), next = {.id = 2, .max_tokens = 10};
    station_submit(&alone.s, &first);
    alone_run(&alone);
    /* 49 tokens have keys and values: 12 blocks. */
    assert_int_equal(blocks(&alone.s).cached, 12);
    next.flags = WIRE_REQUEST_LOCAL;
    memcpy(next.prompt, first.prompt, sizeof(next.prompt));
    memcpy(next.prompt + 30, rig_entry(&alone.book, 1)->got.tokens[0], 20 * sizeof(uint32_t));
    memset(next.prompt + 50, 9, 5 * sizeof(uint32_t));
    for (int i = 50; i < 55; i++)
        next.prompt[i] = 9;
    next.prompt_tokens = 55;
    station_submit(&alone.s, &next);
    alone_run(&alone);
    assert_int_equal(rig_entry(&alone.book, 2)->first.cached_tokens, 48);
    rig_assert_tokens(&alone.reference, &alone.book, &next);

    /* A request that bypasses the cache leaves nothing in it. */
    uint32_t cached = blocks(&alone.s).cached;
    struct rig_ask apart = ask_local(3, 30, 20);
    apart.flags |= WIRE_REQUEST_NO_PREFIX;
    station_submit(&alone.s, &apart);
    alone_run(&alone);
    assert_int_equal(blocks(&alone.s).cached, cached);
    rig_assert_tokens(&alone.reference, &alone.book, &apart);
    alone_close(&alone);
}

/* ---- reservations ---- */

static void reservations_wait_in_order(void **state)
{
    (void)state;
    struct pair pair;
    /* Room for two sequences, or for one long prompt. */
    pair_open(&pair, MODEL, NULL,
              &(struct station_config){.decode_batch = 2, .context_tokens = 128, .block_count = 40},
              TRANSFER_SHM);
    pair.keep_starting = true;
    struct rig_ask asks[5];
    static const uint32_t tokens[] = {20, 20, 20, 100, 8};
    for (uint32_t i = 0; i < 5; i++) {
        asks[i] = ask_some(i + 1, tokens[i], 20);
        pair.asks[pair.ask_count++] = &asks[i];
        pair_reserve(&pair, &asks[i]);
    }
    pair.keep_starting = false;
    /* Two have room; the others are not answered, the small last one neither. */
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(rig_entry(&pair.book, i + 1)->reserved_count, i < 2);
    assert_int_equal(counted(&pair.d).receiving, 2);
    assert_int_equal(counted(&pair.d).waiting, 3);
    assert_int_equal(counted(&pair.d).reserved_blocks, 10);
    assert_int_equal(blocks(&pair.d).referenced, 10);
    decode_cancel(pair.d.decode, 1, WIRE_ALL_SEQUENCES);
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 3)->reserved_count == 1);
    assert_int_equal(rig_entry(&pair.book, 4)->reserved_count, 0);
    decode_cancel(pair.d.decode, 2, WIRE_ALL_SEQUENCES);
    decode_cancel(pair.d.decode, 3, WIRE_ALL_SEQUENCES);
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 5)->reserved_count == 1);
    assert_int_equal(rig_entry(&pair.book, 4)->reserved_count, 1); /* before the last */
    decode_cancel_all(pair.d.decode);
    pair_run(&pair);
    station_assert_idle(&pair.d);
    pair_close(&pair);
}

static void reservations_go_by_priority(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, &(struct station_config){.decode_batch = 1}, TRANSFER_SHM);
    pair.keep_starting = pair.keep_reserved = true;
    static const int32_t priorities[] = {0, 0, 5, -3, 0, -3};
    static const uint32_t order[] = {1, 4, 6, 2, 5, 3};
    struct rig_ask asks[6];
    for (uint32_t i = 0; i < 6; i++) {
        asks[i] = ask_some(i + 1, 10, 5);
        asks[i].priority = priorities[i];
        pair.asks[pair.ask_count++] = &asks[i];
        pair_reserve(&pair, &asks[i]);
    }
    for (uint32_t i = 0; i < 6; i++) {
        PAIR_UNTIL(&pair, rig_entry(&pair.book, order[i])->reserved_count == 1);
        for (uint32_t k = i + 1; k < 6; k++)
            assert_int_equal(rig_entry(&pair.book, order[k])->reserved_count, 0);
        decode_cancel(pair.d.decode, order[i], WIRE_ALL_SEQUENCES);
    }
    pair_close(&pair);
}

static void what_could_never_run_is_refused(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL,
              &(struct station_config){.decode_batch = 2, .context_tokens = 64, .block_count = 16},
              TRANSFER_SHM);
    pair.keep_reserved = true;
    struct rig_ask many = ask_some(1, 10, 5), longer = ask_some(2, 40, 26), whole = longer;
    many.n = 3;
    whole.id = 3;
    whole.max_tokens = 25; /* the last token of an answer is never computed */
    pair_reserve(&pair, &many);
    pair_reserve(&pair, &longer);
    pair_reserve(&pair, &whole);
    assert_int_equal(rig_entry(&pair.book, 1)->reserved.status, ERR_BAD_INPUT);
    assert_non_null(strstr(rig_entry(&pair.book, 1)->reserved.text, "--decode-batch"));
    assert_int_equal(rig_entry(&pair.book, 2)->reserved.status, ERR_BAD_INPUT);
    assert_non_null(strstr(rig_entry(&pair.book, 2)->reserved.text, "64"));
    assert_int_equal(rig_entry(&pair.book, 3)->reserved.status, OK);
    decode_cancel_all(pair.d.decode);
    pair_close(&pair);
}

/* A whole context, to its last token. */
static void a_context_is_filled_to_its_end(void **state)
{
    (void)state;
    struct pair pair;
    const struct station_config small = {.context_tokens = 64, .block_count = 16};
    pair_open(&pair, MODEL, &small, &small, TRANSFER_SHM);
    const struct rig_ask asks[] = {ask_some(1, 63, 2), ask_some(2, 64, 1), ask_some(3, 40, 25),
                                   ask_some(4, 1, 64)};
    for (int i = 0; i < 4; i++)
        pair_submit(&pair, &asks[i]);
    pair_run(&pair);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

/* ---- preemption ---- */

/* A pool in which a few of many sequences fit: all come to their end with the tokens that they
 * would have had alone. */
static void a_full_pool_delays_and_fails_nobody(void **state)
{
    (void)state;
    /* Nothing is kept of what gives way; a part of it; all of it. */
    static const uint32_t slots[] = {0, 5, 8 * 32};
    for (int round = 0; round < 12; round++) {
        bool hands = round % 4 >= 2;
        const struct station_config small = {.block_count = 32,
                                             .context_tokens = 128,
                                             .decode_batch = 8,
                                             .swap_slots = slots[round / 4],
                                             .no_prefix_cache = round % 2 == 1};
        struct pair pair;
        pair_open(&pair, MODEL, hands ? NULL : &small, &small, TRANSFER_SHM);
        struct station *s = hands ? &pair.d : &pair.p;
        struct rig_ask asks[14];
        for (uint32_t i = 0; i < 14; i++) {
            asks[i] = ask_some(i + 1, 5 + i * 5 % 23, 60 + i % 30);
            asks[i].n = i % 5 == 4 ? 2 : 1;
            asks[i].flags = hands ? 0 : WIRE_REQUEST_LOCAL;
            if (i % 3 == 0)
                asks[i].temperature = 0;
            if (i % 3 == 1)
                asks[i].frequency_penalty = 0.7f; /* a pick that depends on what came before */
            pair_submit(&pair, &asks[i]);
        }
        uint32_t preempted_most = 0, turns_idle = 0;
        uint64_t end_ns = clock_ns() + PAIR_WAIT_MS * 1000000ull;
        while (!pair_idle(&pair)) {
            pair_turn(&pair);
            struct decode_counters c = counted(s);
            struct prefix_tree_counts b = blocks(s);
            preempted_most = c.preempted > preempted_most ? c.preempted : preempted_most;
            assert_int_equal(b.free + b.cached + b.referenced, 32);
            assert_true(c.swapped_blocks <= small.swap_slots);
            /* Nobody waits while nothing runs; the next step brings the oldest back. */
            bool idle = c.preempted > 0 && c.running == 0 && c.receiving == 0 &&
                        prefill_idle(pair.p.prefill);
            turns_idle = idle ? turns_idle + 1 : 0;
            assert_true(turns_idle <= 1);
            if (clock_ns() > end_ns)
                fail_msg("they wait on each other");
        }
        struct decode_counters c = counted(s);
        print_message("prefix cache %d, handed %d, %u slots: %llu preemptions, %u at once, %llu "
                      "blocks out, %llu in, %llu of %llu tokens computed again\n",
                      !small.no_prefix_cache, hands, small.swap_slots,
                      (unsigned long long)c.preemptions, preempted_most,
                      (unsigned long long)c.swap_out_blocks, (unsigned long long)c.swap_in_blocks,
                      (unsigned long long)c.recomputed_tokens, (unsigned long long)c.tokens);
        assert_true(c.preemptions > 0);
        assert_true((c.recomputed_tokens > 0) == (small.swap_slots < 8 * 32));
        assert_true((c.swap_out_blocks > 0) == (small.swap_slots > 0));
        assert_true((c.swap_in_blocks > 0) == (small.swap_slots > 0));
        pair_assert_tokens(&pair);
        uint64_t tokens = 0;
        for (uint32_t i = 0; i < 14; i++)
            tokens += (uint64_t)(asks[i].max_tokens - 1) * asks[i].n;
        assert_int_equal(c.tokens, tokens); /* none was counted twice */
        pair_close(&pair);
    }
}

/* The oldest never gives way. */
static void the_youngest_gives_way(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){.block_count = 32, .context_tokens = 128});
    struct rig_ask asks[3];
    for (uint32_t i = 0; i < 3; i++) {
        asks[i] = ask_local(i + 1, 20, 90);
        station_submit(&alone.s, &asks[i]);
    }
    while (counted(&alone.s).running < 3)
        assert_true(station_step(&alone.s));
    uint32_t before = 0;
    while (rig_entry(&alone.book, 1)->got.finish[0] == WIRE_FINISH_NONE) {
        before = rig_entry(&alone.book, 1)->got.counts[0];
        assert_true(station_step(&alone.s));
        assert_int_equal(rig_entry(&alone.book, 1)->got.counts[0], before + 1);
    }
    assert_true(rig_entry(&alone.book, 2)->got.counts[0] >
                rig_entry(&alone.book, 3)->got.counts[0]);
    alone_run(&alone);
    for (uint32_t i = 0; i < 3; i++)
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    alone_close(&alone);
}

/* By priority first: the eldest of three goes when it matters least. */
static void the_least_important_gives_way(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){
                           .block_count = 32, .context_tokens = 128, .swap_slots = 64});
    struct rig_ask asks[3];
    for (uint32_t i = 0; i < 3; i++) {
        asks[i] = ask_local(i + 1, 20, 90);
        asks[i].priority = i == 0 ? 1 : 0;
        station_submit(&alone.s, &asks[i]);
        while (counted(&alone.s).running < i + 1)
            assert_true(station_step(&alone.s));
    }
    while (rig_entry(&alone.book, 2)->got.finish[0] == WIRE_FINISH_NONE) {
        uint32_t before = rig_entry(&alone.book, 2)->got.counts[0];
        assert_true(station_step(&alone.s));
        assert_int_equal(rig_entry(&alone.book, 2)->got.counts[0], before + 1);
    }
    assert_true(rig_entry(&alone.book, 3)->got.counts[0] >
                rig_entry(&alone.book, 1)->got.counts[0]);
    alone_run(&alone);
    assert_int_equal(counted(&alone.s).recomputed_tokens, 0);
    for (uint32_t i = 0; i < 3; i++)
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    alone_close(&alone);
}

/* Several that give way with one prompt have its blocks in the host's memory once; and who goes
 * again finds what it left there. */
static void shared_blocks_are_copied_once(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){
                           .block_count = 32, .context_tokens = 128, .swap_slots = 64});
    struct rig_ask ask = ask_local(1, 60, 60);
    ask.n = 4; /* 15 blocks of the prompt, shared by four sequences */
    station_submit(&alone.s, &ask);
    while (counted(&alone.s).preempted < 2)
        assert_true(station_step(&alone.s));
    uint64_t copied = counted(&alone.s).swap_out_blocks;
    assert_true(copied >= 15 && copied < 2 * 15);
    assert_int_equal(counted(&alone.s).swapped_blocks, copied);
    alone_run(&alone);
    assert_int_equal(counted(&alone.s).recomputed_tokens, 0);
    assert_true(counted(&alone.s).swap_out_blocks < 15 + 4 * 15);
    rig_assert_tokens(&alone.reference, &alone.book, &ask);
    alone_close(&alone);
}

/* Who was preempted had room before those that come new. */
static void newcomers_wait_for_the_preempted(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL,
              &(struct station_config){.block_count = 32, .context_tokens = 128}, TRANSFER_SHM);
    pair.keep_reserved = true;
    struct rig_ask older = ask_local(1, 60, 60), younger = ask_local(2, 60, 60);
    struct rig_ask newcomer = ask_some(3, 4, 5);
    station_submit(&pair.d, &older);
    station_submit(&pair.d, &younger);
    while (counted(&pair.d).preempted == 0)
        assert_true(station_step(&pair.d));
    assert_true(prefix_tree_available(pair.d.tree) > 8); /* there are blocks for it */
    pair_reserve(&pair, &newcomer);
    while (counted(&pair.d).preempted == 1) {
        assert_int_equal(rig_entry(&pair.book, 3)->reserved_count, 0);
        assert_true(station_step(&pair.d));
    }
    while (rig_entry(&pair.book, 3)->reserved_count == 0)
        assert_true(station_step(&pair.d));
    decode_cancel(pair.d.decode, 3, WIRE_ALL_SEQUENCES);
    pair_run(&pair);
    rig_assert_tokens(&pair.reference, &pair.book, &older);
    rig_assert_tokens(&pair.reference, &pair.book, &younger);
    pair_close(&pair);
}

/* ---- ends on the way ---- */

/* Let all sequences arrive before the first step over them. */
static void run_until_all_joined(struct pair *pair, uint32_t count)
{
    uint64_t end_ns = clock_ns() + PAIR_WAIT_MS * 1000000ull;
    while (counted(&pair->d).running < count) {
        station_step(&pair->p);
        transfer_rig_take(&pair->pt, &pair->p);
        if (!transfer_rig_take(&pair->dt, &pair->d))
            usleep(100);
        assert_true(clock_ns() < end_ns);
    }
}

static void cancelled_in_any_state(void **state)
{
    (void)state;
    static const char *const states[] = {"waiting", "receiving", "running", "preempted", "swapped"};
    for (uint32_t round = 0; round < 5; round++) {
        struct pair pair;
        pair_open(&pair, MODEL, NULL,
                  &(struct station_config){.decode_batch = round == 0 ? 2 : 8,
                                           .swap_slots = round == 4 ? 64 : 0,
                                           .block_count = 32,
                                           .context_tokens = 128},
                  TRANSFER_SHM);
        struct rig_ask asks[3];
        for (uint32_t i = 0; i < 3; i++) {
            asks[i] = ask_some(i + 1, 20, 70);
            pair_submit(&pair, &asks[i]);
            if (round >= 2) /* in this order: the last one is the one that gives way */
                run_until_all_joined(&pair, i + 1);
        }
        struct rig_entry *entry = rig_entry(&pair.book, 3);
        switch (round) {
        case 0:
            PAIR_UNTIL(&pair, counted(&pair.d).waiting == 1);
            break;
        case 1:
            while (entry->reserved_count == 0) {
                station_step(&pair.p);
                transfer_rig_take(&pair.pt, &pair.p);
            }
            assert_int_equal(counted(&pair.d).receiving, 3);
            break;
        case 2:
            break;
        default:
            PAIR_UNTIL(&pair, counted(&pair.d).preempted == 1);
            assert_true((counted(&pair.d).swapped_blocks > 0) == (round == 4));
            break;
        }
        print_message("cancelled when %s\n", states[round]);
        decode_cancel(pair.d.decode, 3, WIRE_ALL_SEQUENCES);
        prefill_cancel(pair.p.prefill, 3);
        decode_cancel(pair.d.decode, 3, WIRE_ALL_SEQUENCES);
        decode_cancel(pair.d.decode, 77, WIRE_ALL_SEQUENCES);
        assert_int_equal(counted(&pair.d).preempted, 0);
        assert_int_equal(counted(&pair.d).swapped_blocks, 0);
        uint32_t count = entry->got.counts[0];
        pair_run(&pair);
        station_assert_idle(&pair.p);
        station_assert_idle(&pair.d);
        assert_int_equal(entry->failed_count, 0);
        if (round != 1) /* the prefill may just have been at its end */
            assert_int_equal(entry->got.counts[0], count);
        assert_int_equal(entry->got.finish[0], WIRE_FINISH_NONE);
        rig_assert_tokens(&pair.reference, &pair.book, &asks[0]);
        rig_assert_tokens(&pair.reference, &pair.book, &asks[1]);
        pair_close(&pair);
    }
}

/* A stop string was found in one of three answers: it alone ends. */
static void one_sequence_can_be_cancelled(void **state)
{
    (void)state;
    struct alone alone;
    struct rig_tokens expected;
    alone_open(&alone, NULL);
    struct rig_ask ask = ask_local(1, 14, 30);
    ask.n = 3;
    station_submit(&alone.s, &ask);
    while (rig_entry(&alone.book, 1)->got.counts[1] < 10)
        assert_true(station_step(&alone.s));
    decode_cancel(alone.s.decode, 1, 1);
    decode_cancel(alone.s.decode, 1, 1);
    decode_cancel(alone.s.decode, 1, 3); /* none of its sequences */
    assert_int_equal(counted(&alone.s).running, 2);
    alone_run(&alone);
    rig_reference_run(&alone.reference, &ask, &expected);
    const struct rig_tokens *got = &rig_entry(&alone.book, 1)->got;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(got->counts[i], i == 1 ? 10 : 30);
        assert_memory_equal(got->tokens[i], expected.tokens[i], got->counts[i] * sizeof(uint32_t));
    }
    /* One after the other: with the last the request is gone. */
    ask.id = 2;
    station_submit(&alone.s, &ask);
    while (counted(&alone.s).running < 3)
        assert_true(station_step(&alone.s));
    for (uint32_t i = 0; i < 3; i++)
        decode_cancel(alone.s.decode, 2, i);
    station_assert_idle(&alone.s);
    alone_close(&alone);
}

static void everything_can_be_cancelled_at_once(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL,
              &(struct station_config){.decode_batch = 4, .block_count = 32, .context_tokens = 128},
              TRANSFER_SHM);
    struct rig_ask asks[12];
    for (uint32_t i = 0; i < 12; i++) {
        asks[i] = ask_some(i + 1, 18, 70);
        asks[i].n = 1 + i % 2;
        pair_submit(&pair, &asks[i]);
    }
    run_until_all_joined(&pair, 4);
    PAIR_UNTIL(&pair, counted(&pair.d).preempted > 0);
    prefill_cancel_all(pair.p.prefill);
    decode_cancel_all(pair.d.decode);
    pair_run(&pair);
    station_assert_idle(&pair.p);
    station_assert_idle(&pair.d);
    pair_close(&pair);
}

static void a_failed_step_fails_its_requests(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask asks[4];
    for (uint32_t i = 0; i < 4; i++) {
        asks[i] = ask_local(i + 1, 10, 20);
        asks[i].n = i == 1 ? 3 : 1;
    }
    for (uint32_t i = 0; i < 3; i++)
        station_submit(&alone.s, &asks[i]);
    while (counted(&alone.s).running < 5)
        assert_true(station_step(&alone.s));

    /* The second's second sequence: the request fails as a whole, the others go on. */
    alone.s.spoil_next = 3;
    assert_true(station_step(&alone.s));
    assert_int_equal(rig_entry(&alone.book, 2)->failed_count, 1);
    assert_int_equal(rig_entry(&alone.book, 2)->failed.status, ERR_CORRUPT);
    assert_int_equal(counted(&alone.s).running, 2);

    /* A whole step: those in it fail, once each; the one that comes later does not. */
    alone.s.fail_next = ERR_IO;
    assert_true(station_step(&alone.s));
    station_submit(&alone.s, &asks[3]);
    assert_int_equal(rig_entry(&alone.book, 1)->failed_count, 1);
    assert_int_equal(rig_entry(&alone.book, 2)->failed_count, 1);
    assert_int_equal(rig_entry(&alone.book, 3)->failed_count, 1);
    assert_string_equal(rig_entry(&alone.book, 3)->failed.text, "the step was made to fail");
    alone_run(&alone);
    rig_assert_tokens(&alone.reference, &alone.book, &asks[3]);
    alone_close(&alone);
}

/* ---- handoffs that go wrong ---- */

static void a_handoff_that_never_comes_ends(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, &(struct station_config){.decode_batch = 1}, TRANSFER_SHM);
    pair.keep_reserved = true;
    struct rig_ask lost = ask_some(1, 20, 10), next = ask_some(2, 20, 10);
    lost.deadline_ms = 150;
    pair_reserve(&pair, &lost);
    pair_reserve(&pair, &next);
    assert_int_equal(rig_entry(&pair.book, 2)->reserved_count, 0);
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 1)->failed_count == 1);
    status code = rig_entry(&pair.book, 1)->failed.status; /* whose clock was first */
    assert_true(code == ERR_TIMEOUT || code == ERR_NOT_FOUND);
    assert_int_equal(rig_entry(&pair.book, 2)->reserved_count, 1); /* its room went on */
    decode_cancel_all(pair.d.decode);
    pair_run(&pair);
    station_assert_idle(&pair.d);
    pair_close(&pair);
}

/* A holder that hands over first tokens which are none, or the wrong number of blocks. */
static void wrong_handoffs_are_refused(void **state)
{
    (void)state;
    static const char *const words[] = {"less than 310", "of sequence 1", "cut short", "out of its",
                                        "blocks came"};
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    pair.keep_reserved = true;
    for (uint32_t round = 0; round < 5; round++) {
        struct rig_ask ask = ask_some(round + 1, 20, 10);
        struct lease_id lease = rig_lease(&ask);
        struct wire_token token = {
            .request_id = ask.id, .token = round == 0 ? 310 : 5, .sequence = round == 1};
        struct wire_frame payload = {0};
        static const uint32_t ids[] = {0, 1, 2, 3, 4};
        uint32_t count = round == 4 ? 4 : 5;
        pair_reserve(&pair, &ask);
        ASSERT_OK(transfer_lease_open(pair.pt.transfer, &lease, ask.id, ask.epoch, 5000));
        for (uint32_t layer = 0; layer < 2; layer++)
            transfer_offer(pair.pt.transfer, &lease, layer, 0, ids, count, NULL);
        wire_token_encode(&payload, &token);
        if (round == 3)
            store_u32(payload.data + 20, 99); /* finish */
        ASSERT_OK(transfer_complete(pair.pt.transfer, &lease, count, payload.data,
                                    (uint32_t)payload.bytes - (round == 2 ? 1 : 0)));
        wire_frame_close(&payload);
        struct rig_entry *entry = rig_entry(&pair.book, ask.id);
        uint64_t end_ns = clock_ns() + 5000000000ull;
        while (entry->failed_count == 0 && clock_ns() < end_ns) {
            transfer_rig_take(&pair.dt, &pair.d);
            usleep(100);
        }
        assert_int_equal(entry->failed_count, 1);
        assert_int_equal(entry->failed.status, ERR_BAD_INPUT);
        if (strstr(entry->failed.text, words[round]) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", entry->failed.text, words[round]);
        station_assert_idle(&pair.d);
        while (!mailbox_wait(pair.pt.reports, 5000))
            ;
        for (struct mail *mail = mailbox_take_all(pair.pt.reports), *next; mail; mail = next) {
            next = mail->next;
            transfer_report_free((struct transfer_report *)mail);
        }
    }
    pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_join_and_leave_at_every_step),
        cmocka_unit_test(no_more_than_the_batch_run),
        cmocka_unit_test(n_shares_the_prompt),
        cmocka_unit_test(equal_answers_share_their_blocks),
        cmocka_unit_test(answers_end_where_they_should),
        cmocka_unit_test(answers_become_prefixes),
        cmocka_unit_test(reservations_wait_in_order),
        cmocka_unit_test(reservations_go_by_priority),
        cmocka_unit_test(what_could_never_run_is_refused),
        cmocka_unit_test(a_context_is_filled_to_its_end),
        cmocka_unit_test(a_full_pool_delays_and_fails_nobody),
        cmocka_unit_test(the_youngest_gives_way),
        cmocka_unit_test(the_least_important_gives_way),
        cmocka_unit_test(shared_blocks_are_copied_once),
        cmocka_unit_test(newcomers_wait_for_the_preempted),
        cmocka_unit_test(cancelled_in_any_state),
        cmocka_unit_test(one_sequence_can_be_cancelled),
        cmocka_unit_test(everything_can_be_cancelled_at_once),
        cmocka_unit_test(a_failed_step_fails_its_requests),
        cmocka_unit_test(a_handoff_that_never_comes_ends),
        cmocka_unit_test(wrong_handoffs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
