/* The choice of workers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/choose.h"
#include "wire/control.h"

#define P WIRE_ROLE_PREFILL
#define D WIRE_ROLE_DECODE

static struct route_view view(uint32_t roles, uint64_t queued_tokens, uint32_t decoding)
{
    return (struct route_view){.roles = roles,
                               .usable = true,
                               .queued_tokens = queued_tokens,
                               .decoding = decoding,
                               .decode_batch = 8};
}

static void the_shortest_queue_is_taken(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 100, 0), view(P, 20, 0), view(D, 0, 0), view(P, 20, 0)};
    bool local = true;
    assert_int_equal(route_choose_prefill(views, 4, &local), 1);
    assert_false(local);
    views[1].queued_tokens = 21;
    assert_int_equal(route_choose_prefill(views, 4, &local), 3);
    /* A decode worker has the shortest queue of all and is not asked. */
    views[0].queued_tokens = views[1].queued_tokens = views[3].queued_tokens = UINT64_MAX;
    assert_int_equal(route_choose_prefill(views, 4, &local), 0);
}

/* From a queue to a worker with nothing to do, when that is sooner by a quarter. */
static void a_queue_is_left_for_an_idle_worker(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 1000, 0), view(P, 0, 0), view(D, 0, 0)};
    struct route_ask ask = {.prompt_tokens = 1000, .block_tokens = 16};
    assert_true(route_gains(&ask, views, 3, 0));
    views[0].queued_tokens = 400; /* 1.4 s here, 1 s there: 0.71 */
    assert_true(route_gains(&ask, views, 3, 0));
    views[0].queued_tokens = 300; /* 0.77 */
    assert_false(route_gains(&ask, views, 3, 0));
    /* Nor to one that is not idle, leaves, or does not compute prompts. */
    views[0].queued_tokens = 5000;
    views[1].queued_tokens = 1;
    assert_false(route_gains(&ask, views, 3, 0));
    views[1].queued_tokens = 0;
    views[1].usable = false;
    assert_false(route_gains(&ask, views, 3, 0));
    views[1] = view(D, 0, 0);
    assert_false(route_gains(&ask, views, 3, 0));
    /* What the one that has it holds of it is lost: 60 of 62 blocks are worth the wait. */
    views[1] = view(P, 0, 0);
    views[0].queued_tokens = 500;
    assert_true(route_gains(&ask, views, 3, 0));
    views[0].run_blocks = 60;
    views[0].slot = views[1].slot = views[2].slot = -1;
    assert_false(route_gains(&ask, views, 3, 0));
}

static void equal_queues_go_by_what_they_decode(void **state)
{
    (void)state;
    struct route_view views[] = {view(P | D, 0, 3), view(P | D, 0, 2), view(P | D, 0, 4)};
    bool local = false;
    assert_int_equal(route_choose_prefill(views, 3, &local), 1);
    assert_true(local); /* it does both */
}

static void the_emptiest_batch_is_taken(void **state)
{
    (void)state;
    struct route_view views[] = {view(D, 0, 4), view(D, 0, 3), view(P, 0, 0), view(D, 0, 5)};
    assert_int_equal(route_choose_decode(views, 4), 1);
    views[3].decode_batch = 64; /* 5 of 64 is emptier than 3 of 8 */
    assert_int_equal(route_choose_decode(views, 4), 3);
    views[3].usable = false;
    assert_int_equal(route_choose_decode(views, 4), 1);
    /* Equal parts: the first. No overflow at the ends of the range. */
    views[0] = view(D, 0, UINT32_MAX - 1);
    views[1] = view(D, 0, UINT32_MAX);
    views[0].decode_batch = views[1].decode_batch = UINT32_MAX;
    assert_int_equal(route_choose_decode(views, 2), 0);
}

static void who_leaves_gets_nothing_new(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 0, 0), view(P, 500, 0), view(D, 0, 0), view(D, 0, 7)};
    bool local = true;
    views[0].usable = false;
    views[2].usable = false;
    assert_int_equal(route_choose_prefill(views, 4, &local), 1);
    assert_false(local);
    assert_int_equal(route_choose_decode(views, 4), 3);
}

/* One plus one survives the loss of either. */
static void with_a_role_missing_the_others_do_it(void **state)
{
    (void)state;
    struct route_view views[] = {view(P, 50, 0), view(D, 10, 0)};
    bool local = false;
    views[1].usable = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), 0);
    assert_true(local); /* nobody decodes: where it was computed */
    assert_int_equal(route_choose_decode(views, 2), -1);

    views[0].usable = false;
    views[1].usable = true;
    local = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), 1);
    assert_true(local);

    views[1].usable = false;
    assert_int_equal(route_choose_prefill(views, 2, &local), -1);
    assert_int_equal(route_choose_prefill(views, 0, &local), -1);
    assert_int_equal(route_choose_decode(views, 0), -1);
}

static void one_that_does_both_may_hand_nothing_over(void **state)
{
    (void)state;
    /* A busy colocated worker beside a free prefill worker, and the other way round. */
    struct route_view views[] = {view(P | D, 90, 0), view(P, 10, 0), view(D, 0, 0)};
    bool local = true;
    assert_int_equal(route_choose_prefill(views, 3, &local), 1);
    assert_false(local);
    views[1].queued_tokens = 100;
    assert_int_equal(route_choose_prefill(views, 3, &local), 0);
    assert_true(local);
    /* It may be the receiver of another's handoff. */
    views[2].decoding = 5;
    assert_int_equal(route_choose_decode(views, 3), 0);
}

/* What is in the store goes on where it can be had, while there is room; else as ever. */
static void what_is_saved_goes_on_where_it_is_fetched(void **state)
{
    (void)state;
    struct route_view views[] = {view(D, 0, 1), view(D, 0, 7), view(P, 0, 0), view(D, 0, 6)};
    views[1].store_up = views[2].store_up = views[3].store_up = true;
    assert_int_equal(route_choose_resume(views, 4, true), 3);
    assert_int_equal(route_choose_resume(views, 4, false), 0);
    views[3].usable = false;
    assert_int_equal(route_choose_resume(views, 4, true), 1);
    views[1].decoding = 8; /* it would wait there, nobody knows how long */
    assert_int_equal(route_choose_resume(views, 4, true), 0);
    views[1].decoding = 7;
    views[1].store_up = false;
    assert_int_equal(route_choose_resume(views, 4, true), 0);
    /* With no decode worker left the others do it. */
    views[0].usable = views[1].usable = false;
    assert_int_equal(route_choose_resume(views, 4, true), 2);
    assert_int_equal(route_choose_resume(views, 4, false), 2);
    assert_int_equal(route_choose_resume(views, 0, true), -1);
}

/* Prompts of one length, one after the other: every worker gets the same number. */
static void work_is_balanced(void **state)
{
    (void)state;
    struct route_view views[5] = {view(P, 0, 0), view(P, 0, 0), view(P, 0, 0), view(D, 0, 0),
                                  view(D, 0, 0)};
    bool local;
    for (int i = 0; i < 300; i++) {
        views[route_choose_prefill(views, 5, &local)].queued_tokens += 100;
        views[route_choose_decode(views, 5)].decoding++;
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(views[i].queued_tokens, 10000);
    assert_int_equal(views[3].decoding, 150);
    assert_int_equal(views[4].decoding, 150);
}

/* ---- by predicted time ---- */

static struct route_view holder(uint32_t roles, int slot, uint32_t run_blocks)
{
    struct route_view v = view(roles, 0, 0);
    v.slot = slot;
    v.run_blocks = run_blocks;
    v.cost.token_s = 0.001;
    return v;
}

static void the_soonest_first_token_is_chosen(void **state)
{
    (void)state;
    struct route_choice choice;
    const struct route_pull slow[3] = {[2] = {.rate = 1e6f}}, fast[3] = {[2] = {.rate = 1e9f}};
    const struct route_ask ask = {
        .prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6, .local_tokens_max = 0};
    struct route_view views[] = {holder(P, 0, 0), holder(P, 1, 0), holder(D, 2, 60)};
    views[0].pulls = views[1].pulls = fast;

    /* 60 blocks in 60 ms, against 0.96 s to compute them. */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    assert_int_equal(choice.ways[ROUTE_PULL].holder, 2);
    assert_false(choice.local);
    assert_true(choice.ways[ROUTE_PULL].seconds > 0.1 && choice.ways[ROUTE_PULL].seconds < 0.105);
    assert_true(choice.ways[ROUTE_PREFILL].seconds == 1.0);
    assert_int_equal(choice.ways[ROUTE_LOCAL].worker, -1);

    /* 60 s over a slow link: computed. */
    views[0].pulls = views[1].pulls = slow;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    /* One of the two has a fast link. */
    views[1].pulls = fast;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    assert_int_equal(choice.ways[ROUTE_PULL].worker, 1);
    /* But a long queue. */
    views[1].queued_tokens = 5000;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_int_equal(choice.ways[ROUTE_PREFILL].worker, 0);
    /* Its own prefix is worth waiting for, as long as the queue is short. */
    views[1].queued_tokens = 100;
    views[1].run_blocks = 60;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_int_equal(choice.ways[ROUTE_PREFILL].worker, 1);
}

/* Who computes lends between two steps. */
static void a_busy_holder_keeps_one_waiting(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull fast[3] = {{.rate = 1e9f}, {.rate = 1e9f}, {.rate = 1e9f}};
    const struct route_ask ask = {.prompt_tokens = 280, .block_tokens = 16, .block_bytes = 4e5};
    struct route_view views[] = {holder(P, 0, 16), holder(P, 1, 0), holder(D, 2, 0)};
    views[0].pulls = views[1].pulls = fast;
    views[0].queued_tokens = 300; /* as long as computing it elsewhere, and then its own rest */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_int_equal(choice.ways[ROUTE_PREFILL].worker, 1);
    assert_true(choice.ways[ROUTE_PULL].seconds > 0.32);
    views[2].run_blocks = 16; /* one that does not compute has it too */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    assert_int_equal(choice.ways[ROUTE_PULL].holder, 2);
    /* However much it has to do, it is a step that is waited for. */
    views[2].run_blocks = 0;
    views[0].queued_tokens = 50000;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_true(choice.ways[ROUTE_PULL].seconds < 0.6);
}

/* Who decodes lends when its step is over, as long as those took of late. */
static void a_decoding_holder_keeps_one_waiting(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull fast[2] = {{.rate = 1e9f}, {.rate = 1e9f}};
    const struct route_ask ask = {
        .prompt_tokens = 100, .block_tokens = 16, .block_bytes = 1e5, .saved_blocks = 3};
    struct route_view views[] = {holder(P, 0, 0), holder(D, 1, 3)};
    views[0].pulls = fast;
    views[0].store_up = true;
    views[0].store_rate = 1e9;
    views[1].decoding = 1;
    assert_true(route_choose(&ask, views, 2, &choice)); /* its steps are not known yet */
    assert_int_equal(choice.way, ROUTE_PULL);
    /* 20 ms for its step, 2 for the store. */
    views[1].lend_s = 0.020;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_true(choice.ways[ROUTE_PULL].seconds - choice.ways[ROUTE_PREFILL].seconds > 0.017);
    /* That was long ago; it decodes nothing; it has a prompt, which is another matter. */
    views[1].lend_age_s = 59.9;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    views[1].lend_age_s = 0;
    views[1].decoding = 0;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    views[1].decoding = 1;
    views[1].queued_tokens = 10;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_true(choice.ways[ROUTE_PULL].seconds - choice.ways[ROUTE_PREFILL].seconds < 0.010);
}

static void the_store_counts_too(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull fast[3] = {[2] = {.rate = 1e9f}};
    struct route_ask ask = {
        .prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6, .saved_blocks = 60};
    struct route_view views[] = {holder(P, 0, 0), holder(P, 1, 20), holder(D, 2, 40)};
    views[0].pulls = views[1].pulls = fast;
    /* The longest own prefix, while nobody reaches the store: 20 blocks more from the peer. */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    assert_int_equal(choice.ways[ROUTE_PULL].worker, 1);
    /* The other one does: 60 blocks in 30 ms, and 40 tokens. */
    views[0].store_up = true;
    views[0].store_rate = 2e9;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_int_equal(choice.ways[ROUTE_PREFILL].worker, 0);
    assert_true(choice.ways[ROUTE_PREFILL].seconds > 0.07 &&
                choice.ways[ROUTE_PREFILL].seconds < 0.073);
    /* As slow as the store is: computed, and what was predicted without it. */
    views[0].store_rate = 1e6;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.ways[ROUTE_PULL].worker, 1);
    /* Of a holder and the store, at one rate: the holder. */
    views[0].store_rate = 1e9;
    views[1].store_up = true;
    views[1].store_rate = 1e9;
    views[2].run_blocks = 60;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
}

static void roles_apart_do_not_pull(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull fast[3] = {{0}, {.rate = 1e9f}, {.rate = 1e9f}};
    struct route_ask ask = {
        .prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6, .apart = true};
    struct route_view views[] = {holder(P, 0, 0), holder(P, 1, 10), holder(D, 2, 60)};
    views[0].pulls = fast;
    views[1].cost.token_s = 0.005; /* so slow that it is computed elsewhere */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    assert_int_equal(choice.ways[ROUTE_PULL].holder, 1);
    views[1].run_blocks = 0;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_int_equal(choice.ways[ROUTE_PULL].worker, -1);
}

/* A chat's answer of 1024 tokens on the decode GPU, and a prefill GPU that computes 44,000 a
 * second. */
static void gpus_pull_before_anything_was_measured(void **state)
{
    (void)state;
    struct route_choice choice;
    const struct route_ask ask = {
        .prompt_tokens = 5200, .block_tokens = 16, .block_bytes = 2 << 20, .local_tokens_max = 0};
    struct route_view views[] = {holder(P, 0, 256), holder(D, 1, 320)};
    views[0].cost.token_s = views[1].cost.token_s = 1 / 44000.0;
    struct route_pull rates[2] = {{0}, {.rate = route_pull_guess("cuda-bf16", "cuda-bf16", true)}};
    views[0].pulls = rates;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    /* Not between hosts, nor on CPUs: what nothing is known of is slow. */
    assert_true(route_pull_guess("cuda-bf16", "cuda-bf16", false) == 0);
    assert_true(route_pull_guess("cuda-bf16", "cpu-int8", true) == 0);
    rates[1].rate = route_pull_guess("cpu-int8", "cpu-int8", true);
    assert_true(rates[1].rate == 0);
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
}

static void a_short_rest_is_computed_where_the_prefix_is(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull rates[2] = {{0}, {.rate = 1e9f}};
    struct route_ask ask = {
        .prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6, .local_tokens_max = 64};
    struct route_view views[] = {holder(P, 0, 0), holder(D, 1, 60)};
    views[0].pulls = rates;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_LOCAL);
    assert_int_equal(choice.ways[ROUTE_LOCAL].worker, 1);
    assert_true(choice.local);
    ask.local_tokens_max = 39; /* 40 are left */
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    ask.local_tokens_max = 64;
    views[1].decoding = 8; /* full */
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PULL);
    /* As soon elsewhere: those who decode are left alone. */
    views[1].decoding = 0;
    views[0].run_blocks = 60;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
}

static void a_way_that_is_set_is_taken_where_there_is_one(void **state)
{
    (void)state;
    struct route_choice choice;
    struct route_pull rates[2] = {{0}, {.rate = 1e9f}};
    struct route_ask ask = {
        .prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6, .local_tokens_max = 64};
    struct route_view views[] = {holder(P, 0, 0), holder(D, 1, 60)};
    const enum route_way ways[] = {ROUTE_LOCAL, ROUTE_PREFILL, ROUTE_PULL, ROUTE_LOCAL};
    views[0].pulls = rates;
    for (uint32_t place = ROUTE_PLACE_AUTO; place <= ROUTE_PLACE_DECODE; place++) {
        ask.place = place;
        assert_true(route_choose(&ask, views, 2, &choice));
        assert_int_equal(choice.way, ways[place]);
    }
    views[1].run_blocks = 0; /* nobody holds anything: one way is left */
    for (ask.place = ROUTE_PLACE_AUTO; ask.place <= ROUTE_PLACE_DECODE; ask.place++) {
        assert_true(route_choose(&ask, views, 2, &choice));
        assert_int_equal(choice.way, ROUTE_PREFILL);
    }
}

/* 12 ms a prompt, 1.8 ms a token, and 0.2 us for each token before it. */
static double turn_s(double before, double tokens)
{
    return 0.012 + tokens * (0.0018 + 2e-7 * (before + tokens / 2));
}

static void turn_measure(struct cost_fit *fit, double before, double tokens)
{
    const struct cost_sample sample = {1, tokens, tokens * (before + tokens / 2),
                                       turn_s(before, tokens)};
    cost_measure(fit, &sample);
}

/* After the second turn of a chat the prompt lies at two workers, and a rest is to be computed: the
 * one had long prompts of late, the other only such rests, at the same cost. */
static void what_a_worker_did_of_late_is_no_bias(void **state)
{
    (void)state;
    struct route_choice choice;
    struct cost_fit often_long = {0}, often_short = {0};
    struct route_ask ask = {
        .prompt_tokens = 384, .block_tokens = 16, .block_bytes = 4e5, .local_tokens_max = 4096};
    struct route_view views[] = {holder(P, 0, 16), holder(D, 1, 16)};
    for (int i = 0; i < 60; i++) {
        /* One in four is of another kind than most. */
        turn_measure(&often_long, i % 8 == 0 ? 256 : 0, i % 4 == 0 ? 24 : 512);
        turn_measure(&often_short, i % 8 == 0 ? 0 : 256, i % 4 == 0 ? 512 : 24);
    }
    views[0].cost = cost_of(&often_long);
    views[1].cost = cost_of(&often_short);
    views[0].place_s = 0.003;
    assert_true(route_choose(&ask, views, 2, &choice));
    double truth_s = turn_s(256, 128);
    for (int way = ROUTE_PREFILL; way <= ROUTE_LOCAL; way += ROUTE_LOCAL - ROUTE_PREFILL) {
        assert_true(choice.ways[way].seconds > 0.97 * truth_s);
        assert_true(choice.ways[way].seconds < 1.03 * truth_s + 0.003);
    }
    /* With nothing else between them, it is the one that need not wait for a place. */
    views[1].cost = views[0].cost;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_LOCAL);
    assert_int_equal(choice.compute_tokens, 128);
    /* Somebody decodes there, and would be slowed for the sake of 3 ms. */
    views[1].decoding = 1;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    /* A queue: there is time for the place; and the other one is free. */
    views[1].decoding = 0;
    views[0].queued_tokens = 16;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_LOCAL);
    views[1].queued_tokens = 32;
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
}

/* One slow measurement, and then it was never asked again. */
static void a_worker_that_was_slow_is_tried_again(void **state)
{
    (void)state;
    struct route_choice choice;
    const struct route_ask ask = {.prompt_tokens = 500, .block_tokens = 16};
    struct route_view views[] = {holder(P, 0, 0), holder(P, 1, 0), holder(D, 2, 0)};
    views[0].cost.token_s = 0.0015;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.ways[choice.way].worker, 1);
    views[1].queued_tokens = 100; /* not worth it */
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.ways[choice.way].worker, 1);
    views[0].cost_age_s = 55;
    assert_true(route_choose(&ask, views, 3, &choice));
    assert_int_equal(choice.ways[choice.way].worker, 0);
}

/* One pull over a link that others filled, and then that pair never pulled again. */
static void a_pair_that_was_slow_is_asked_again(void **state)
{
    (void)state;
    const uint64_t second = UINT64_C(1000000000), then = 1000 * second;
    struct route_choice choice;
    struct route_pull pulls[2] = {{0}, {.rate = 1e6f, .measured_ns = then}};
    const struct route_ask ask = {.prompt_tokens = 1000, .block_tokens = 16, .block_bytes = 1e6};
    struct route_view views[] = {holder(P, 0, 0), holder(D, 1, 60)};
    views[0].pulls = pulls;
    views[0].now_ns = then; /* 60 s to fetch what takes 0.96 s to compute */
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    views[0].now_ns = then + 30 * second; /* half of that, and still not worth it */
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
    assert_true(choice.ways[ROUTE_PULL].seconds > 30 && choice.ways[ROUTE_PULL].seconds < 30.2);
    for (uint64_t s = 60; s <= 6000; s *= 10) { /* as one that nothing is known of */
        views[0].now_ns = then + s * second;
        assert_true(route_choose(&ask, views, 2, &choice));
        assert_int_equal(choice.way, ROUTE_PULL);
        assert_true(choice.ways[ROUTE_PULL].seconds > 0.16 &&
                    choice.ways[ROUTE_PULL].seconds < 0.17);
    }
    /* Two GPUs of one host: what was guessed of those, and nothing better than it. */
    pulls[1].guess = route_pull_guess("cuda-bf16", "cuda-bf16", true);
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_true(choice.ways[ROUTE_PULL].seconds > 0.045 && choice.ways[ROUTE_PULL].seconds < 0.05);
    /* A fast one stays fast. */
    pulls[1] = (struct route_pull){.rate = 2e9f, .measured_ns = then};
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_true(choice.ways[ROUTE_PULL].seconds > 0.07 && choice.ways[ROUTE_PULL].seconds < 0.073);
    /* It was slow again: that counts at once. */
    pulls[1] = (struct route_pull){.rate = 1e6f, .measured_ns = views[0].now_ns};
    assert_true(route_choose(&ask, views, 2, &choice));
    assert_int_equal(choice.way, ROUTE_PREFILL);
}

static void without_knowledge_it_is_the_shortest_queue(void **state)
{
    (void)state;
    struct route_choice choice;
    const struct route_ask ask = {.prompt_tokens = 50};
    for (uint32_t i = 0; i < 64; i++) {
        struct route_view views[] = {view(P, i % 4, i % 3), view(P | D, i / 4 % 4, i % 5),
                                     view(P, i / 16, 0), view(D, 0, 0)};
        bool local;
        for (int k = 0; k < 4; k++)
            views[k].slot = k;
        assert_true(route_choose(&ask, views, 4, &choice));
        assert_int_equal(choice.way, ROUTE_PREFILL);
        int expected = route_choose_prefill(views, 4, &local);
        assert_true(views[choice.ways[ROUTE_PREFILL].worker].queued_tokens ==
                    views[expected].queued_tokens);
    }
    struct route_view gone[] = {view(P, 0, 0)};
    gone[0].usable = false;
    assert_false(route_choose(&ask, gone, 1, &choice));
    assert_false(route_choose(&ask, gone, 0, &choice));
    struct route_view only[] = {view(D, 0, 0)};
    assert_true(route_choose(&ask, only, 1, &choice));
    assert_true(choice.local);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_shortest_queue_is_taken),
        cmocka_unit_test(a_queue_is_left_for_an_idle_worker),
        cmocka_unit_test(equal_queues_go_by_what_they_decode),
        cmocka_unit_test(the_emptiest_batch_is_taken),
        cmocka_unit_test(who_leaves_gets_nothing_new),
        cmocka_unit_test(with_a_role_missing_the_others_do_it),
        cmocka_unit_test(one_that_does_both_may_hand_nothing_over),
        cmocka_unit_test(what_is_saved_goes_on_where_it_is_fetched),
        cmocka_unit_test(work_is_balanced),
        cmocka_unit_test(the_soonest_first_token_is_chosen),
        cmocka_unit_test(a_busy_holder_keeps_one_waiting),
        cmocka_unit_test(a_decoding_holder_keeps_one_waiting),
        cmocka_unit_test(the_store_counts_too),
        cmocka_unit_test(roles_apart_do_not_pull),
        cmocka_unit_test(gpus_pull_before_anything_was_measured),
        cmocka_unit_test(a_short_rest_is_computed_where_the_prefix_is),
        cmocka_unit_test(a_way_that_is_set_is_taken_where_there_is_one),
        cmocka_unit_test(what_a_worker_did_of_late_is_no_bias),
        cmocka_unit_test(a_worker_that_was_slow_is_tried_again),
        cmocka_unit_test(a_pair_that_was_slow_is_asked_again),
        cmocka_unit_test(without_knowledge_it_is_the_shortest_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
