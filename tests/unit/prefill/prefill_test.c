/* The prefill scheduler over a real engine: which prompts run together, when places are asked for,
 * what is offered, and what is left behind when a request ends anywhere on its way. */
#include "transfer_rig.h"

#include "prefill/request.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama3-f16.gguf"

/* One station, for requests that need no receiver. */
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
    for (int i = 0; i < 10000 && station_step(&alone->s); i++)
        ;
    station_assert_idle(&alone->s);
}

static void alone_close(struct alone *alone)
{
    station_close(&alone->s);
    rig_reference_close(&alone->reference);
    rig_book_close(&alone->book);
    weights_close(alone->model);
}

static struct prefill_counters counted(struct station *station)
{
    struct prefill_counters counters;
    prefill_count(station->prefill, &counters);
    return counters;
}

static uint32_t referenced(struct station *station)
{
    struct prefix_tree_counts counts;
    prefix_tree_count(station->tree, &counts);
    return counts.referenced;
}

/* A prompt of its own, one token wanted: needs no place and no receiver. */
static struct rig_ask ask_one(uint64_t id, uint32_t tokens)
{
    struct rig_ask ask = {.id = id, .max_tokens = 1};
    rig_fill_prompt(&ask, tokens, (uint32_t)id + 100, 0);
    return ask;
}

static struct rig_ask ask_some(uint64_t id, uint32_t tokens, uint32_t max_tokens)
{
    struct rig_ask ask = ask_one(id, tokens);
    ask.max_tokens = max_tokens;
    ask.temperature = 2; /* at 1 the model is too sure to vary */
    ask.seed = id;
    return ask;
}

/* ---- batches ---- */

static void batches_are_formed_under_the_budget(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){.batch_tokens = 64, .chunk_tokens = 16});
    struct station *s = &alone.s;
    static const uint32_t sizes[] = {30, 34, 1, 20, 100, 10, 64};
    struct rig_ask asks[7];
    for (uint32_t i = 0; i < 7; i++) {
        asks[i] = ask_one(i + 1, sizes[i]);
        station_submit(s, &asks[i]);
    }
    /* 30 and 34 fill the budget; 1 and 20 go together; 100 is more than a budget and goes alone;
     * 10 goes without 64. */
    static const uint32_t running[] = {2, 2, 1, 1, 1};
    uint32_t batch = 0, done = 0;
    uint32_t steps = 0;
    while (counted(s).waiting + counted(s).running > 0) {
        bool fresh = counted(s).running == 0;
        assert_true(station_step(s));
        assert_true(s->rows <= 16);
        steps++;
        if (fresh) {
            assert_int_equal(counted(s).waiting, 7 - done - running[batch]);
            done += running[batch++];
        }
    }
    assert_int_equal(batch, 5);
    /* No step was wasted: 4 + 2 + 7 + 1 + 4 chunks, and one more where 34 begins beside 30. */
    assert_true(steps <= 19);
    for (uint32_t i = 0; i < 7; i++) {
        assert_int_equal(rig_entry(&alone.book, i + 1)->order, i); /* the oldest first */
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    }
    assert_int_equal(counted(s).tokens, 30 + 34 + 1 + 20 + 100 + 10 + 64);
    alone_close(&alone);
}

static void the_more_urgent_run_first(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){.batch_tokens = 16, .chunk_tokens = 16});
    static const int32_t priorities[] = {0, 2, -1, 0, -1, INT32_MIN};
    static const uint32_t order[] = {6, 3, 5, 1, 4, 2};
    struct rig_ask asks[6];
    for (uint32_t i = 0; i < 6; i++) {
        asks[i] = ask_one(i + 1, 16);
        asks[i].priority = priorities[i];
        station_submit(&alone.s, &asks[i]);
    }
    alone_run(&alone);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(rig_entry(&alone.book, order[i])->order, i);
    alone_close(&alone);
}

static void chunks_end_with_blocks(void **state)
{
    (void)state;
    for (uint32_t position = 0; position < 40; position++) {
        for (uint32_t prompt = position + 1; prompt < 60; prompt++) {
            for (uint32_t rows = 0; rows < 40; rows++) {
                uint32_t tokens = prefill_chunk(position, prompt, rows, 4);
                assert_true(tokens <= rows && position + tokens <= prompt);
                assert_true(position + tokens == prompt || tokens == 0 ||
                            (position + tokens) % 4 == 0);
                /* As many as there is room for. */
                assert_true(position + tokens == prompt ||
                            position + tokens + 4 > position + rows || tokens == rows);
            }
        }
    }
    struct alone alone;
    alone_open(&alone, &(struct station_config){.chunk_tokens = 18});
    struct station *s = &alone.s;
    const struct rig_ask asks[] = {ask_one(1, 13), ask_one(2, 37), ask_one(3, 6)};
    for (int i = 0; i < 3; i++)
        station_submit(s, &asks[i]);
    uint32_t ends = 0;
    while (station_step(s)) {
        for (uint32_t i = 0; i < s->prefilled; i++) {
            uint32_t end = s->sequences[i].start_position + s->sequences[i].token_count;
            assert_true(end % RIG_BLOCK_TOKENS == 0 || s->sequences[i].sample_count > 0);
            ends += s->sequences[i].sample_count;
        }
    }
    assert_int_equal(ends, 3);
    for (int i = 0; i < 3; i++)
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    alone_close(&alone);

    struct prefill *none = NULL;
    alone_open(&alone, NULL);
    const struct prefill_options small = {.batch_tokens = 8, .chunk_tokens = RIG_BLOCK_TOKENS - 1};
    assert_int_equal(prefill_open(&small, alone.s.engine, alone.s.tree, NULL, NULL, NULL, &none),
                     ERR_BAD_INPUT);
    alone_close(&alone);
}

/* ---- the prefix cache ---- */

static void a_prefix_is_found(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask asks[5];
    static const uint32_t tokens[] = {40, 50, 40, 21, 40}, cached[] = {0, 28, 36, 20, 0};
    for (uint32_t i = 0; i < 5; i++) {
        asks[i] = (struct rig_ask){.id = i + 1, .max_tokens = 1};
        /* All begin with the same 30 tokens; the third is the first again. */
        rig_fill_prompt(&asks[i], tokens[i], 5, 30);
        if (i == 2)
            memcpy(asks[i].prompt, asks[0].prompt, sizeof(asks[0].prompt));
        asks[i].salt = i == 4 ? 1 : 0; /* another tenant: finds nothing */
        station_submit(&alone.s, &asks[i]);
        alone_run(&alone);
        assert_int_equal(rig_entry(&alone.book, i + 1)->first.cached_tokens, cached[i]);
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    }
    assert_int_equal(counted(&alone.s).prefix_queries, 40 + 50 + 40 + 21 + 40);
    assert_int_equal(counted(&alone.s).prefix_hits, 28 + 36 + 20);
    assert_int_equal(counted(&alone.s).tokens, 40 + 22 + 4 + 1 + 40);
    alone_close(&alone);

    alone_open(&alone, &(struct station_config){.no_prefix_cache = true});
    for (uint32_t i = 0; i < 3; i++) {
        station_submit(&alone.s, &asks[i]);
        alone_run(&alone);
        assert_int_equal(rig_entry(&alone.book, i + 1)->first.cached_tokens, 0);
    }
    alone_close(&alone);
}

/* ---- log-probabilities of the prompt ---- */

static void reference_scores(struct alone *alone, const struct rig_ask *ask, struct sampled *scores)
{
    struct engine_score score = {
        .next_token_id = ENGINE_NO_TOKEN, .top_count = ask->logprob_count, .results = scores};
    block_id ids[64];
    struct block_table table;
    struct block_copy copy;
    struct rig_reference *reference = &alone->reference;
    block_table_open(&table, ids, 64, RIG_BLOCK_TOKENS);
    /* A row at a time: the reference's engine has room for one output in a step. */
    for (uint32_t i = 0; i + 1 < ask->prompt_tokens; i++) {
        ASSERT_OK(block_table_reserve(&table, reference->tree, 1, &copy));
        score.next_token_id = ask->prompt[i + 1];
        score.results = scores + i;
        struct engine_sequence sequence = {.token_ids = ask->prompt + i,
                                           .token_count = 1,
                                           .start_position = i,
                                           .table = &table,
                                           .score = &score};
        ASSERT_OK(engine_step(reference->engine, &sequence, 1, NULL, NULL));
        block_table_advance(&table, 1);
    }
    block_table_drop(&table, reference->tree);
}

static void a_prompt_is_scored_in_chunks(void **state)
{
    (void)state;
    /* Rows with logits: many, as many as a block, fewer than a block. */
    static const uint32_t outputs[] = {40, 4, 3};
    for (int round = 0; round < 3; round++) {
        struct alone alone;
        alone_open(&alone, &(struct station_config){.outputs_max = outputs[round]});
        struct rig_ask before = ask_one(1, 41), ask = before;
        station_submit(&alone.s, &before); /* its prefix is here, and is not used */
        alone_run(&alone);
        struct prefix_tree_counts cached, after;
        prefix_tree_count(alone.s.tree, &cached);
        ask.id = 2;
        ask.flags = WIRE_REQUEST_PROMPT_LOGPROBS | WIRE_REQUEST_NO_PREFIX;
        ask.logprob_count = 3;
        station_submit(&alone.s, &ask);
        alone_run(&alone);
        prefix_tree_count(alone.s.tree, &after);
        assert_int_equal(after.cached, cached.cached);

        struct rig_entry *entry = rig_entry(&alone.book, 2);
        struct sampled scores[41];
        reference_scores(&alone, &ask, scores);
        assert_int_equal(entry->failed_count, 0);
        assert_int_equal(entry->first.cached_tokens, 0);
        assert_int_equal(entry->first.prompt_logprob_count, 40);
        for (uint32_t i = 0; i < 40; i++) {
            const struct wire_token *token = &entry->prompt_tokens[i];
            assert_int_equal(token->index, i + 1);
            assert_int_equal(token->token, ask.prompt[i + 1]);
            assert_true(token->logprob == scores[i].logprob);
            assert_int_equal(token->top_count, 3);
            for (uint32_t k = 0; k < 3; k++) {
                assert_int_equal(token->top_tokens[k], scores[i].top_ids[k]);
                assert_true(token->top_logprobs[k] == scores[i].top_logprobs[k]);
            }
        }
        rig_assert_tokens(&alone.reference, &alone.book, &ask);
        alone_close(&alone);
    }
}

/* ---- handoff ---- */

static void the_first_token_travels_with_the_blocks(void **state)
{
    (void)state;
    static const uint32_t carriers[] = {TRANSFER_SHM, TRANSFER_TCP};
    for (int round = 0; round < 2; round++) {
        struct pair pair;
        pair_open(&pair, MODEL, NULL, NULL, carriers[round]);
        struct rig_ask asks[12];
        for (uint32_t i = 0; i < 12; i++) {
            static const uint32_t tokens[] = {1, 3, 4, 5, 16, 17, 40, 64, 65, 100, 7, 40};
            asks[i] = ask_some(i + 1, tokens[i], 12);
            asks[i].n = 1 + i % 3;
            pair_submit(&pair, &asks[i]);
        }
        pair_run(&pair);
        pair_assert_tokens(&pair);
        for (uint32_t i = 0; i < 12; i++) {
            const struct rig_entry *entry = rig_entry(&pair.book, i + 1);
            assert_int_equal(entry->starting_count, 1);
            assert_int_equal(entry->first_count, 1);
            assert_int_equal(entry->handed_count, 1);
            assert_int_equal(entry->handed.status, OK);
            assert_int_equal(entry->handed.carrier, carriers[round]);
            assert_int_equal(entry->handed.bytes,
                             kv_blocks_for(asks[i].prompt_tokens, RIG_BLOCK_TOKENS) *
                                 engine_block_bytes(pair.p.engine));
        }
        pair_close(&pair);
    }
}

/* What the receiver has already does not travel. */
static void matched_blocks_are_not_offered(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    struct rig_ask asks[4];
    static const uint32_t tokens[] = {40, 50, 40, 33}, fetched[] = {10, 6, 1, 1};
    for (uint32_t i = 0; i < 4; i++) {
        asks[i] = (struct rig_ask){.id = i + 1, .max_tokens = 6};
        rig_fill_prompt(&asks[i], tokens[i], 5, 30);
        if (i >= 2)
            memcpy(asks[i].prompt, asks[0].prompt, sizeof(asks[0].prompt));
        pair_submit(&pair, &asks[i]);
        pair_run(&pair);
        assert_int_equal(rig_entry(&pair.book, i + 1)->handed.bytes,
                         fetched[i] * engine_block_bytes(pair.p.engine));
    }
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

/* The holder's cache may hold more, or less, of a prompt than the receiver's. */
static void either_side_may_know_more_of_the_prompt(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct pair pair;
        pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
        struct rig_ask first = ask_some(1, 60, 8), second;
        pair_submit(&pair, &first);
        pair_run(&pair);
        prefix_tree_clear(round == 0 ? pair.p.tree : pair.d.tree);
        second = first;
        second.id = 2;
        pair_submit(&pair, &second);
        pair_run(&pair);
        const struct rig_entry *entry = rig_entry(&pair.book, 2);
        assert_int_equal(entry->first.cached_tokens, round == 0 ? 0 : 56);
        assert_int_equal(entry->reserved.matched_blocks, round == 0 ? 14 : 0);
        pair_assert_tokens(&pair);
        pair_close(&pair);
    }
}

static void places_are_asked_for_when_the_batch_is_nearly_done(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, &(struct station_config){.batch_tokens = 64, .chunk_tokens = 16}, NULL,
              TRANSFER_SHM);
    const struct rig_ask asks[] = {ask_some(1, 32, 4), ask_some(2, 32, 4), ask_some(3, 30, 4),
                                   ask_some(4, 30, 4), ask_some(5, 30, 4)};
    for (int i = 0; i < 5; i++)
        pair_submit(&pair, &asks[i]);
    station_step(&pair.p); /* nothing runs: the first two are asked for, no more fit a batch */
    assert_int_equal(rig_entry(&pair.book, 1)->starting_count, 1);
    assert_int_equal(rig_entry(&pair.book, 2)->starting_count, 1);
    assert_int_equal(rig_entry(&pair.book, 3)->starting_count, 0);
    for (int steps = 1; steps <= 4; steps++) {
        assert_true(station_step(&pair.p));
        assert_int_equal(pair.p.rows, 16);
        /* Planned with 64, 48, 32, 16 tokens to go. */
        assert_int_equal(rig_entry(&pair.book, 3)->starting_count, steps == 4);
        assert_int_equal(rig_entry(&pair.book, 4)->starting_count, steps == 4);
        assert_int_equal(rig_entry(&pair.book, 5)->starting_count, 0);
    }
    pair_run(&pair);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

/* Each of a batch gives its blocks back when its receiver has them, not when the batch is done. */
static void blocks_come_back_one_by_one(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(
        &pair, MODEL,
        &(struct station_config){
            .block_count = 32, .context_tokens = 128, .batch_tokens = 200, .no_prefix_cache = true},
        NULL, TRANSFER_SHM);
    const struct rig_ask asks[] = {ask_some(1, 16, 4), ask_some(2, 80, 4), ask_some(3, 100, 4)};
    for (int i = 0; i < 3; i++)
        pair_submit(&pair, &asks[i]);
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 1)->first_count == 1);
    assert_int_equal(referenced(&pair.p), 4 + 20);
    assert_int_equal(counted(&pair.p).running, 1);
    while (!transfer_rig_take(&pair.pt, &pair.p)) {
        transfer_rig_take(&pair.dt, &pair.d);
        usleep(100);
    }
    assert_int_equal(referenced(&pair.p), 20);
    /* The third has a place and waits for the second's blocks. */
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 2)->first_count == 1);
    while (counted(&pair.p).held > 0) {
        station_step(&pair.p);
        assert_int_equal(counted(&pair.p).running, 0);
        transfer_rig_take(&pair.dt, &pair.d);
        transfer_rig_take(&pair.pt, &pair.p);
    }
    assert_true(station_step(&pair.p));
    assert_int_equal(counted(&pair.p).running, 1);
    pair_run(&pair);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

static void a_first_token_that_ends_hands_nothing_over(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    /* One token wanted: not even a place is asked for. */
    struct rig_ask one = ask_some(1, 30, 1);
    pair_submit(&pair, &one);
    pair_run(&pair);
    assert_int_equal(rig_entry(&pair.book, 1)->starting_count, 0);

    /* The first token is an end token: there is a place, and nothing goes there. */
    struct rig_ask stop = ask_some(2, 30, 10);
    struct rig_tokens expected;
    rig_reference_run(&pair.reference, &stop, &expected);
    stop.stop_ids[0] = expected.tokens[0][0];
    stop.stop_count = 1;
    pair_submit(&pair, &stop);
    PAIR_UNTIL(&pair, rig_entry(&pair.book, 2)->first_count == 1);
    assert_int_equal(rig_entry(&pair.book, 2)->got.finish[0], WIRE_FINISH_STOP);
    decode_cancel(pair.d.decode, 2, WIRE_ALL_SEQUENCES); /* as the router does */
    pair_run(&pair);
    assert_int_equal(rig_entry(&pair.book, 2)->handed_count, 0);
    assert_int_equal(rig_entry(&pair.book, 2)->got.counts[0], 1);

    /* Of three, two end with their first token: the handoff is for the one that goes on. */
    struct rig_ask three = ask_some(3, 30, 10);
    three.n = 3;
    do { /* three different first tokens */
        three.seed++;
        rig_reference_run(&pair.reference, &three, &expected);
    } while (expected.tokens[1][0] == expected.tokens[0][0] ||
             expected.tokens[1][0] == expected.tokens[2][0]);
    three.stop_ids[0] = expected.tokens[0][0];
    three.stop_ids[1] = expected.tokens[2][0];
    three.stop_count = 2;
    pair_submit(&pair, &three);
    pair_run(&pair);
    assert_int_equal(rig_entry(&pair.book, 3)->handed_count, 1);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

static void n_is_one_prefill(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, NULL);
    struct rig_ask ask = ask_some(1, 30, 20);
    ask.n = 3;
    ask.flags = WIRE_REQUEST_LOCAL;
    station_submit(&alone.s, &ask);
    while (rig_entry(&alone.book, 1)->first_count == 0)
        assert_true(station_step(&alone.s));
    assert_int_equal(counted(&alone.s).tokens, 30);
    assert_int_equal(referenced(&alone.s), 8); /* shared by all three */
    assert_true(station_step(&alone.s));
    assert_int_equal(referenced(&alone.s), 10); /* the partial block: two copies */
    alone_run(&alone);
    rig_assert_tokens(&alone.reference, &alone.book, &ask);
    alone_close(&alone);
}

/* ---- ends on the way ---- */

/* A request that is in the state when it is cancelled leaves nothing, and says nothing more. */
static void cancelled_in_any_state(void **state)
{
    (void)state;
    static const char *const states[] = {"queued", "placing", "placed", "running", "held"};
    for (uint32_t round = 0; round < 5; round++) {
        struct pair pair;
        pair_open(&pair, MODEL, &(struct station_config){.batch_tokens = 32}, NULL, TRANSFER_SHM);
        const struct rig_ask other = ask_some(1, 32, 20), ask = ask_some(2, 32, 20);
        struct rig_entry *entry = rig_entry(&pair.book, 2);
        if (round != 4)
            pair_submit(&pair, &other);
        pair_submit(&pair, &ask);
        pair.keep_reserved = round == 1;
        switch (round) {
        case 0:
            PAIR_UNTIL(&pair, counted(&pair.p).running == 1);
            assert_int_equal(entry->starting_count, 0);
            break;
        case 1:
            station_step(&pair.p);
            pair_place(&pair, &rig_entry(&pair.book, 1)->reserved);
            PAIR_UNTIL(&pair, entry->starting_count == 1);
            break;
        case 2:
            station_step(&pair.p); /* the first is placed */
            station_step(&pair.p); /* and runs */
            station_step(&pair.p); /* the second is asked for, and placed */
            assert_int_equal(entry->reserved_count, 1);
            break;
        case 3:
            PAIR_UNTIL(&pair, rig_entry(&pair.book, 1)->first_count == 1);
            PAIR_UNTIL(&pair, counted(&pair.p).running == 1);
            assert_int_equal(counted(&pair.p).waiting, 0);
            break;
        default:
            while (entry->first_count == 0)
                station_step(&pair.p);
            assert_int_equal(counted(&pair.p).held, 1);
            break;
        }
        uint32_t firsts = entry->first_count;
        print_message("cancelled when %s\n", states[round]);
        prefill_cancel(pair.p.prefill, 2);
        decode_cancel(pair.d.decode, 2, WIRE_ALL_SEQUENCES);
        prefill_cancel(pair.p.prefill, 2); /* once more: unknown */
        prefill_cancel(pair.p.prefill, 99);
        pair.keep_reserved = false;
        pair_run(&pair);
        station_assert_idle(&pair.p);
        station_assert_idle(&pair.d);
        assert_int_equal(entry->first_count, firsts);
        assert_int_equal(entry->failed_count, 0);
        assert_int_equal(entry->handed_count, 0);
        if (round != 4)
            rig_assert_tokens(&pair.reference, &pair.book, &other);
        pair_close(&pair);
    }
}

/* A place for one that was cancelled, or was not asked for, does nothing. */
static void stray_places_are_dropped(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    pair.keep_starting = true;
    const struct rig_ask ask = ask_some(1, 20, 5);
    pair_submit(&pair, &ask);
    prefill_place(pair.p.prefill, &(struct wire_place){.request_id = 1});
    prefill_place(pair.p.prefill, &(struct wire_place){.request_id = 7});
    assert_false(station_step(&pair.p));
    assert_int_equal(rig_entry(&pair.book, 1)->starting_count, 1);
    pair_reserve(&pair, &ask);
    pair_place(&pair, &rig_entry(&pair.book, 1)->reserved); /* twice */
    pair_run(&pair);
    pair_assert_tokens(&pair);
    pair_close(&pair);
}

/* The lease ends while the prompt is being computed: nobody will take the blocks. */
static void a_lost_receiver_ends_the_prefill(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    const struct rig_ask ask = ask_some(1, 100, 5), next = ask_some(2, 20, 5);
    pair_submit(&pair, &ask);
    PAIR_UNTIL(&pair, counted(&pair.p).running == 1);
    /* Let the subscription arrive, then have the receiver give up. */
    while (pair.p.steps < 3)
        pair_turn(&pair);
    usleep(50000);
    decode_cancel(pair.d.decode, 1, WIRE_ALL_SEQUENCES);
    struct rig_entry *entry = rig_entry(&pair.book, 1);
    uint64_t end_ns = clock_ns() + 5000000000ull;
    while (!prefill_idle(pair.p.prefill) && clock_ns() < end_ns) {
        transfer_rig_take(&pair.pt, &pair.p);
        transfer_rig_take(&pair.dt, &pair.d);
        usleep(100);
    }
    assert_int_equal(entry->failed_count, 0); /* the router knows it from the receiver */
    assert_int_equal(entry->first_count, 0);
    station_assert_idle(&pair.p);
    pair_submit(&pair, &next);
    pair_run(&pair);
    rig_assert_tokens(&pair.reference, &pair.book, &next);
    pair_close(&pair);
}

/* And while it is held: the router is told how the handoff ended. */
static void a_lease_that_runs_out_is_told(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, MODEL, NULL, NULL, TRANSFER_SHM);
    pair.keep_starting = true;
    struct rig_ask ask = ask_some(1, 20, 5);
    ask.deadline_ms = 200;
    pair_submit(&pair, &ask);
    station_step(&pair.p);
    prefill_place(pair.p.prefill, &(struct wire_place){.request_id = 1}); /* nobody is there */
    pair_run(&pair);
    const struct rig_entry *entry = rig_entry(&pair.book, 1);
    assert_int_equal(entry->first_count, 1);
    assert_int_equal(entry->handed_count, 1);
    assert_int_equal(entry->handed.status, ERR_TIMEOUT);
    pair_close(&pair);
}

/* Those whose rows were in the step fail; those that waited, or had not come to it, do not. */
static void a_failed_step_fails_its_requests(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){.batch_tokens = 64, .chunk_tokens = 16});
    struct rig_ask asks[5];
    static const uint32_t tokens[] = {8, 12, 24, 20, 10};
    for (uint32_t i = 0; i < 5; i++) {
        asks[i] = ask_one(i + 1, tokens[i]);
        station_submit(&alone.s, &asks[i]);
    }
    alone.s.fail_next = ERR_IO; /* 8 of the first and 8 of the second */
    assert_true(station_step(&alone.s));
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(rig_entry(&alone.book, i + 1)->failed_count, i < 2);
    assert_int_equal(rig_entry(&alone.book, 1)->failed.status, ERR_IO);
    assert_string_equal(rig_entry(&alone.book, 2)->failed.text, "the step was made to fail");
    alone_run(&alone);
    for (uint32_t i = 2; i < 5; i++)
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    alone_close(&alone);

    /* One whose logits are no numbers fails alone. */
    alone_open(&alone, &(struct station_config){.batch_tokens = 64, .chunk_tokens = 32});
    for (uint32_t i = 0; i < 3; i++)
        station_submit(&alone.s, &asks[i]);
    alone.s.spoil_next = 2;
    assert_true(station_step(&alone.s));
    assert_int_equal(rig_entry(&alone.book, 2)->failed.status, ERR_CORRUPT);
    alone_run(&alone);
    assert_int_equal(rig_entry(&alone.book, 2)->failed_count, 1);
    rig_assert_tokens(&alone.reference, &alone.book, &asks[0]);
    rig_assert_tokens(&alone.reference, &alone.book, &asks[2]);
    alone_close(&alone);
}

static void what_could_never_run_is_refused(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){
                           .context_tokens = 64, .block_count = 16, .decode_batch = 2});
    struct rig_ask whole = ask_one(1, 64), more = ask_one(2, 65), many = ask_some(3, 8, 4);
    many.n = 3;
    many.flags = WIRE_REQUEST_LOCAL;
    station_submit(&alone.s, &whole);
    station_submit(&alone.s, &more);
    station_submit(&alone.s, &many);
    alone_run(&alone);
    rig_assert_tokens(&alone.reference, &alone.book, &whole);
    assert_int_equal(rig_entry(&alone.book, 2)->failed.status, ERR_BAD_INPUT);
    assert_non_null(strstr(rig_entry(&alone.book, 2)->failed.text, "65"));
    assert_int_equal(rig_entry(&alone.book, 3)->failed.status, ERR_BAD_INPUT);
    assert_non_null(strstr(rig_entry(&alone.book, 3)->failed.text, "--decode-batch"));
    alone_close(&alone);
}

/* A batch of requests that decode here counts them all against the decode batch. */
static void local_requests_wait_for_room(void **state)
{
    (void)state;
    struct alone alone;
    alone_open(&alone, &(struct station_config){.decode_batch = 4, .batch_tokens = 200});
    struct rig_ask asks[8];
    for (uint32_t i = 0; i < 8; i++) {
        asks[i] = ask_some(i + 1, 10, 8);
        asks[i].n = 1 + i % 2;
        asks[i].flags = WIRE_REQUEST_LOCAL;
        station_submit(&alone.s, &asks[i]);
    }
    struct decode_counters counters;
    while (station_step(&alone.s)) {
        decode_count(alone.s.decode, &counters);
        assert_true(counters.running + counters.preempted <= 4);
    }
    for (uint32_t i = 0; i < 8; i++)
        rig_assert_tokens(&alone.reference, &alone.book, &asks[i]);
    alone_close(&alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_formed_under_the_budget),
        cmocka_unit_test(the_more_urgent_run_first),
        cmocka_unit_test(chunks_end_with_blocks),
        cmocka_unit_test(a_prefix_is_found),
        cmocka_unit_test(a_prompt_is_scored_in_chunks),
        cmocka_unit_test(the_first_token_travels_with_the_blocks),
        cmocka_unit_test(matched_blocks_are_not_offered),
        cmocka_unit_test(either_side_may_know_more_of_the_prompt),
        cmocka_unit_test(places_are_asked_for_when_the_batch_is_nearly_done),
        cmocka_unit_test(blocks_come_back_one_by_one),
        cmocka_unit_test(a_first_token_that_ends_hands_nothing_over),
        cmocka_unit_test(n_is_one_prefill),
        cmocka_unit_test(cancelled_in_any_state),
        cmocka_unit_test(stray_places_are_dropped),
        cmocka_unit_test(a_lost_receiver_ends_the_prefill),
        cmocka_unit_test(a_lease_that_runs_out_is_told),
        cmocka_unit_test(a_failed_step_fails_its_requests),
        cmocka_unit_test(what_could_never_run_is_refused),
        cmocka_unit_test(local_requests_wait_for_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
