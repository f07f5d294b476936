/* A generation that goes on elsewhere: after any number of tokens, with or without the blocks that
 * it had, it says what it would have said undisturbed. */
#include "scheduler_rig.h"

#define MODEL TEST_DATA_DIR "/vectors/models/llama3-f16.gguf"

struct resume {
    struct model *model;
    struct rig_book book;
    struct rig_reference reference;
    struct station s;
};

static void resume_open(struct resume *resume, const struct station_config *config)
{
    ASSERT_OK(weights_open(MODEL, &resume->model));
    rig_book_open(&resume->book);
    rig_reference_open(&resume->reference, resume->model);
    station_open(&resume->s, resume->model, &resume->book, config);
    station_start(&resume->s, resume->model, config, NULL);
}

static void resume_run(struct resume *resume)
{
    int steps = 0;
    while (station_step(&resume->s))
        assert_true(++steps < 20000);
    station_assert_idle(&resume->s);
}

static void resume_close(struct resume *resume)
{
    station_close(&resume->s);
    rig_reference_close(&resume->reference);
    rig_book_close(&resume->book);
    weights_close(resume->model);
}

static struct rig_ask ask_local(uint64_t id, uint32_t tokens, uint32_t max_tokens)
{
    struct rig_ask ask = {.id = id, .max_tokens = max_tokens, .flags = WIRE_REQUEST_LOCAL};
    rig_fill_prompt(&ask, tokens, 77, 0);
    return ask;
}

static uint64_t recomputed(const struct station *station)
{
    struct prefill_counters counters;
    prefill_count(station->prefill, &counters);
    return counters.recomputed_tokens;
}

/* Every R of one answer, on a worker that has no block of it. */
static void resume_everywhere(struct rig_ask ask, uint32_t sequence)
{
    struct resume resume;
    struct rig_tokens *whole = malloc(sizeof(*whole));
    assert_non_null(whole);
    resume_open(&resume, &(struct station_config){.no_prefix_cache = true});
    rig_reference_run(&resume.reference, &ask, whole);
    for (uint32_t resumed = 1; resumed < whole->counts[sequence]; resumed++) {
        rig_book_clear(&resume.book);
        struct rig_ask again =
            rig_resume(&resume.book, &ask, whole->tokens[sequence], sequence, resumed);
        uint64_t before = recomputed(&resume.s);
        station_submit(&resume.s, &again);
        resume_run(&resume);
        const struct rig_entry *entry = rig_entry(&resume.book, ask.id);
        if (entry->failed_count > 0)
            fail_msg("resumed after %u: %s", resumed, entry->failed.text);
        assert_int_equal(entry->first.sequence_count, 1);
        assert_int_equal(entry->got.counts[0], whole->counts[sequence]);
        assert_int_equal(entry->got.finish[0], whole->finish[sequence]);
        assert_memory_equal(entry->got.tokens[0], whole->tokens[sequence],
                            whole->counts[sequence] * sizeof(uint32_t));
        assert_int_equal(recomputed(&resume.s) - before, again.prompt_tokens - 1);
    }
    free(whole);
    resume_close(&resume);
}

/* ---- tests ---- */

static void greedy_after_every_token(void **state)
{
    (void)state;
    /* Blocks have four tokens: the prompt ends in every place of one. */
    for (uint32_t tokens = 1; tokens <= 5; tokens++)
        resume_everywhere(ask_local(1, tokens, 13), 0);
}

static void sampled_with_penalties_after_every_token(void **state)
{
    (void)state;
    for (uint32_t tokens = 6; tokens <= 9; tokens++) {
        struct rig_ask ask = ask_local(1, tokens, 14);
        ask.temperature = 1.3f;
        ask.seed = 1000 + tokens;
        ask.frequency_penalty = 1.7f; /* counts output, and not the prompt */
        resume_everywhere(ask, 0);
    }
}

static void one_of_several_sequences(void **state)
{
    (void)state;
    struct rig_ask ask = ask_local(1, 10, 9);
    ask.n = 3;
    ask.first_sequence = 6;
    ask.temperature = 1.2f;
    ask.seed = 4711;
    for (uint32_t sequence = 0; sequence < 3; sequence++)
        resume_everywhere(ask, sequence);
}

/* min_tokens and max_tokens count all of the output, and a stop token before the minimum stops
 * nothing. */
static void lengths_count_from_the_first_token(void **state)
{
    (void)state;
    struct resume resume;
    struct rig_tokens whole;
    struct rig_ask ask = ask_local(1, 7, 20);
    ask.temperature = 1;
    ask.seed = 5;
    resume_open(&resume, &(struct station_config){0});
    rig_reference_run(&resume.reference, &ask, &whole);
    resume_close(&resume);
    ask.stop_ids[ask.stop_count++] = whole.tokens[0][9];
    ask.min_tokens = 5;
    resume_everywhere(ask, 0);
    ask.min_tokens = 12;
    resume_everywhere(ask, 0);
}

/* A worker that holds the blocks computes less than one of them again. */
static void what_is_there_is_not_computed(void **state)
{
    (void)state;
    struct resume resume;
    struct rig_tokens whole;
    struct rig_ask ask = ask_local(1, 30, 24);
    resume_open(&resume, &(struct station_config){0});
    rig_reference_run(&resume.reference, &ask, &whole);
    station_submit(&resume.s, &ask);
    resume_run(&resume);
    for (uint32_t resumed = 1; resumed < 24; resumed++) {
        rig_book_clear(&resume.book);
        struct rig_ask again = rig_resume(&resume.book, &ask, whole.tokens[0], 0, resumed);
        uint64_t before = recomputed(&resume.s);
        station_submit(&resume.s, &again);
        resume_run(&resume);
        rig_assert_tokens(&resume.reference, &resume.book, &ask);
        assert_true(recomputed(&resume.s) - before <= RIG_BLOCK_TOKENS - 1);
    }
    resume_close(&resume);
}

/* The longest answer that fits goes on too; and the last token comes alone. */
static void the_context_is_no_smaller(void **state)
{
    (void)state;
    struct resume resume;
    struct rig_tokens whole;
    struct rig_ask ask = ask_local(1, 10, 55); /* the last token has no keys and values */
    resume_open(&resume, &(struct station_config){.context_tokens = 64});
    rig_reference_run(&resume.reference, &ask, &whole);
    static const uint32_t after[] = {1, 30, 53, 54};
    for (uint32_t i = 0; i < 4; i++) {
        rig_book_clear(&resume.book);
        struct rig_ask again = rig_resume(&resume.book, &ask, whole.tokens[0], 0, after[i]);
        station_submit(&resume.s, &again);
        resume_run(&resume);
        rig_assert_tokens(&resume.reference, &resume.book, &ask);
    }
    resume_close(&resume);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_after_every_token),
        cmocka_unit_test(sampled_with_penalties_after_every_token),
        cmocka_unit_test(one_of_several_sequences),
        cmocka_unit_test(lengths_count_from_the_first_token),
        cmocka_unit_test(what_is_there_is_not_computed),
        cmocka_unit_test(the_context_is_no_smaller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
