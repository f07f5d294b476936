#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "engine/sampler.h"

#define VOCABULARY 1000

static uint64_t random_state = 88172645463325252u;

/* xorshift64: the inputs of these tests, the same in every run. */
static double random_uniform(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) * 0x1p-53;
}

static void random_logits(float *logits, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        double sum = 0.0;
        for (int k = 0; k < 6; k++)
            sum += random_uniform();
        logits[i] = (float)((sum - 3.0) * 4.0);
    }
}

static struct sampler *open_sampler(uint32_t vocabulary)
{
    struct sampler *sampler;
    assert_int_equal(sampler_open(vocabulary, &sampler), OK);
    return sampler;
}

static uint32_t pick(struct sampler *sampler, const struct sampling *sampling,
                     const struct sampler_row *row)
{
    struct sampled sampled;
    assert_int_equal(sampler_pick(sampler, sampling, row, &sampled), OK);
    return sampled.token_id;
}

/* The vectors that come with the authors' Random123. */
static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint32_t out[4];
        philox4x32(vectors[i].counter, vectors[i].key, out);
        assert_memory_equal(out, vectors[i].expected, sizeof(out));
    }
    /* Part of the protocol: another worker must draw the same. */
    assert_true(sampler_uniform(0, 0, 0) == (double)(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(1, 1, 0));
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(1, 0, 1));
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(1ull << 32, 0, 0));
}

static void greedy_takes_the_largest_and_the_lowest_id(void **state)
{
    (void)state;
    /* Longer than the lanes of a vector, and no multiple of them. */
    for (uint32_t vocabulary = 1; vocabulary < 70; vocabulary++) {
        struct sampler *sampler = open_sampler(vocabulary);
        float logits[70];
        struct sampling sampling;
        sampling_defaults(&sampling);
        for (uint32_t i = 0; i < vocabulary; i++)
            logits[i] = -5.0f;
        struct sampler_row row = {.logits = logits};
        assert_int_equal(pick(sampler, &sampling, &row), 0);
        for (uint32_t i = vocabulary; i-- > 0;) {
            logits[i] = 2.0f;
            assert_int_equal(pick(sampler, &sampling, &row), i);
        }
        sampler_close(sampler);
    }
}

/* ---- what is drawn, against the definition in float64 ---- */

struct ranked {
    double logit;
    uint32_t id;
};

static int ranked_compare(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static uint32_t reference_draw(const struct sampling *sampling, const float *logits,
                               uint32_t vocabulary, double u)
{
    static struct ranked ranked[VOCABULARY];
    static double p[VOCABULARY];
    static bool keep[VOCABULARY];
    for (uint32_t i = 0; i < vocabulary; i++) {
        ranked[i] = (struct ranked){(double)logits[i], i};
        keep[i] = false;
    }
    qsort(ranked, vocabulary, sizeof(ranked[0]), ranked_compare);
    for (uint32_t i = 0; i < vocabulary; i++)
        p[i] = exp(((double)logits[i] - ranked[0].logit) / (double)sampling->temperature);

    uint32_t count = vocabulary;
    if (sampling->top_k > 0 && sampling->top_k < count)
        count = sampling->top_k;
    double total = 0.0, sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        total += p[ranked[i].id];
    for (uint32_t i = 0; i < count; i++) {
        keep[ranked[i].id] = p[ranked[i].id] >= (double)sampling->min_p;
        sum += p[ranked[i].id];
        if (sampling->top_p < 1.0f && sum >= (double)sampling->top_p * total)
            break;
    }
    total = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++)
        total += keep[i] ? p[i] : 0.0;
    sum = 0.0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        sum += keep[i] ? p[i] : 0.0;
        if (sum > u * total)
            return i;
    }
    return ranked[0].id;
}

static void draws_follow_the_definition(void **state)
{
    (void)state;
    static const uint32_t ks[] = {0, 1, 2, 5, 50, 999, 1000, 5000};
    static const float ps[] = {1.0f, 0.999f, 0.9f, 0.5f, 0.1f, 0.001f};
    static const float mins[] = {0.0f, 0.001f, 0.1f, 0.5f, 1.0f};
    static const float temperatures[] = {1.0f, 0.2f, 0.7f, 1.5f, 5.0f};
    struct sampler *sampler = open_sampler(VOCABULARY);
    float logits[VOCABULARY];
    uint32_t checked = 0;
    for (size_t k = 0; k < 8; k++)
        for (size_t p = 0; p < 6; p++)
            for (size_t m = 0; m < 5; m++)
                for (size_t t = 0; t < 5; t++) {
                    struct sampling sampling;
                    sampling_defaults(&sampling);
                    sampling.top_k = ks[k];
                    sampling.top_p = ps[p];
                    sampling.min_p = mins[m];
                    sampling.temperature = temperatures[t];
                    sampling.seed = 7 + k;
                    random_logits(logits, VOCABULARY);
                    logits[3] = logits[700]; /* a tie */
                    for (uint32_t position = 0; position < 8; position++) {
                        struct sampler_row row = {.logits = logits, .position = position};
                        double u = sampler_uniform(sampling.seed, position, 0);
                        assert_int_equal(pick(sampler, &sampling, &row),
                                         reference_draw(&sampling, logits, VOCABULARY, u));
                        checked++;
                    }
                }
    assert_int_equal(checked, 8 * 6 * 5 * 5 * 8);
    sampler_close(sampler);
}

/* Chi-square of drawn counts against probabilities; 7 degrees of freedom, so above 24.3 has a
 * chance of one in a thousand. Seeds are fixed: it passes always or never. */
static void draws_are_distributed_as_softmax(void **state)
{
    (void)state;
    static const float logits[8] = {0.1f, 2.0f, -1.0f, 1.0f, 0.0f, 1.9f, -0.5f, 0.7f};
    static const float temperatures[] = {1.0f, 0.5f, 2.0f};
    enum { DRAWS = 40000 };
    struct sampler *sampler = open_sampler(8);
    for (size_t t = 0; t < 3; t++)
        for (int by_index = 0; by_index < 2; by_index++) {
            struct sampling sampling;
            uint32_t counts[8] = {0};
            double total = 0.0, chi = 0.0;
            sampling_defaults(&sampling);
            sampling.temperature = temperatures[t];
            sampling.seed = 1234;
            for (uint32_t n = 0; n < DRAWS; n++) {
                struct sampler_row row = {.logits = logits,
                                          .position = by_index ? 5 : n,
                                          .sequence_index = by_index ? n : 0};
                counts[pick(sampler, &sampling, &row)]++;
            }
            for (int i = 0; i < 8; i++)
                total += exp((double)logits[i] / (double)temperatures[t]);
            for (int i = 0; i < 8; i++) {
                double expected = DRAWS * exp((double)logits[i] / (double)temperatures[t]) / total;
                chi += (counts[i] - expected) * (counts[i] - expected) / expected;
            }
            assert_true(chi < 24.3);
        }
    sampler_close(sampler);
}

static void extreme_temperatures_are_no_trap(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(4);
    static const float logits[4] = {-300.0f, 80.0f, 79.0f, -INFINITY};
    struct sampling sampling;
    sampling_defaults(&sampling);
    for (uint32_t position = 0; position < 200; position++) {
        struct sampler_row row = {.logits = logits, .position = position};
        sampling.temperature = 1e-42f;
        assert_int_equal(pick(sampler, &sampling, &row), 1);
        sampling.temperature = 100.0f;
        assert_int_not_equal(pick(sampler, &sampling, &row), 3);
    }
    sampler_close(sampler);
}

/* ---- each stage before the temperature ---- */

static void penalties_count_what_they_should(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(4);
    static const float logits[4] = {3.0f, 2.5f, -1.0f, -1.2f};
    static const uint32_t prompt[] = {0, 0, 2}, output[] = {1, 1, 1, 2};
    struct sampler_row row = {.logits = logits,
                              .prompt_ids = prompt,
                              .prompt_count = 3,
                              .output_ids = output,
                              .output_count = 4};
    struct sampling sampling;
    sampling_defaults(&sampling);
    assert_false(sampling_needs_history(&sampling));
    assert_int_equal(pick(sampler, &sampling, &row), 0);

    /* 3, 2.5, -1, -1.2 become 1.5, 1.25, -2, -1.2: 0 in the prompt counts as much as 1. */
    sampling.repetition_penalty = 2.0f;
    assert_true(sampling_needs_history(&sampling));
    assert_int_equal(pick(sampler, &sampling, &row), 0);
    sampling.repetition_penalty = 10.0f;
    sampling.bias_count = 2; /* 0.3, 0.25 and -10 + -1.2 + 2.2: the penalty comes after the bias */
    sampling.bias[0] = (struct sampling_bias){3, 1.6f};
    sampling.bias[1] = (struct sampling_bias){0, -0.9f};
    assert_int_equal(pick(sampler, &sampling, &row), 3); /* 0.21 0.25 -10 0.4 */

    /* Only the output, once for each time: 3, 2.5 - 3 * 0.6, .. */
    sampling_defaults(&sampling);
    sampling.frequency_penalty = -0.2f;
    assert_int_equal(pick(sampler, &sampling, &row), 1); /* 3.0 3.1 */
    sampling.frequency_penalty = -0.16f;
    assert_int_equal(pick(sampler, &sampling, &row), 0); /* 3.0 2.98 */

    sampling_defaults(&sampling);
    sampling.presence_penalty = -0.6f; /* once, however often */
    assert_int_equal(pick(sampler, &sampling, &row), 1);
    sampling.presence_penalty = -0.4f;
    assert_int_equal(pick(sampler, &sampling, &row), 0);
    sampler_close(sampler);
}

static void bias_bans_and_forces(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(VOCABULARY);
    float logits[VOCABULARY];
    random_logits(logits, VOCABULARY);
    struct sampler_row row = {.logits = logits};
    struct sampling sampling;
    sampling_defaults(&sampling);
    uint32_t first = pick(sampler, &sampling, &row);
    sampling.bias_count = 1;
    sampling.bias[0] = (struct sampling_bias){first, -100.0f};
    assert_int_not_equal(pick(sampler, &sampling, &row), first);
    sampling.bias[0] = (struct sampling_bias){17, 100.0f};
    assert_int_equal(pick(sampler, &sampling, &row), 17);
    sampler_close(sampler);
}

static void end_tokens_wait_for_min_tokens(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(4);
    static const float logits[4] = {1.0f, 9.0f, 3.0f, 8.0f};
    struct sampling sampling;
    sampling_defaults(&sampling);
    sampling.min_tokens = 2;
    sampling.end_id_count = 2;
    sampling.end_ids[0] = 1;
    sampling.end_ids[1] = 3;
    for (uint32_t count = 0; count < 4; count++) {
        struct sampler_row row = {.logits = logits, .output_count = count, .position = count};
        assert_int_equal(pick(sampler, &sampling, &row), count < 2 ? 2 : 1);
        sampling.temperature = 1.0f;
        for (uint32_t seed = 0; seed < 50 && count < 2; seed++) {
            sampling.seed = seed;
            assert_int_not_equal(pick(sampler, &sampling, &row) % 2, 1);
        }
        sampling.temperature = 0.0f;
    }
    sampling.end_id_count = 4;
    sampling.end_ids[2] = 0;
    sampling.end_ids[3] = 2;
    struct sampler_row row = {.logits = logits};
    struct sampled sampled;
    assert_int_equal(sampler_pick(sampler, &sampling, &row, &sampled), ERR_CORRUPT);
    sampler_close(sampler);
}

/* ---- log-probabilities ---- */

static void logprobs_are_the_models_own(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(VOCABULARY);
    float logits[VOCABULARY];
    for (int round = 0; round < 50; round++) {
        random_logits(logits, VOCABULARY);
        logits[11] = logits[900];
        struct sampling sampling;
        sampling_defaults(&sampling);
        sampling.logprobs = true;
        sampling.top_logprobs = (uint32_t)round % (SAMPLING_LOGPROBS_MAX + 1);
        sampling.temperature = 0.3f;
        sampling.top_k = 3;
        sampling.bias_count = 1;
        sampling.bias[0] = (struct sampling_bias){23, 100.0f};
        struct sampler_row row = {.logits = logits, .position = (uint32_t)round};
        struct sampled sampled, scored;
        assert_int_equal(sampler_pick(sampler, &sampling, &row, &sampled), OK);
        assert_int_equal(sampled.token_id, 23);
        assert_int_equal(sampler_score(sampler, logits, 23, sampling.top_logprobs, &scored), OK);
        assert_true(scored.logprob == sampled.logprob);

        static struct ranked ranked[VOCABULARY];
        double sum = 0.0;
        for (uint32_t i = 0; i < VOCABULARY; i++) {
            ranked[i] = (struct ranked){(double)logits[i], i};
            sum += exp((double)logits[i]);
        }
        qsort(ranked, VOCABULARY, sizeof(ranked[0]), ranked_compare);
        assert_true(fabs((double)sampled.logprob - ((double)logits[23] - log(sum))) < 1e-5);
        assert_int_equal(ranked[sampled.rank - 1].id, 23);
        assert_int_equal(sampled.top_count, sampling.top_logprobs);
        for (uint32_t i = 0; i < sampled.top_count; i++) {
            assert_int_equal(sampled.top_ids[i], ranked[i].id);
            assert_true(fabs((double)sampled.top_logprobs[i] - (ranked[i].logit - log(sum))) <
                        1e-5);
        }
    }
    sampler_close(sampler);
}

static void damaged_logits_are_named(void **state)
{
    (void)state;
    struct sampler *sampler = open_sampler(100);
    static const float bad[] = {NAN, -NAN, INFINITY};
    struct sampling sampling;
    struct sampled sampled = {.token_id = 77};
    float logits[100] = {0};
    for (uint32_t at = 0; at < 100; at++)
        for (int kind = 0; kind < 3; kind++) {
            logits[at] = bad[kind];
            struct sampler_row row = {.logits = logits};
            sampling_defaults(&sampling);
            assert_int_equal(sampler_pick(sampler, &sampling, &row, &sampled), ERR_CORRUPT);
            sampling.temperature = 1.0f;
            assert_int_equal(sampler_pick(sampler, &sampling, &row, &sampled), ERR_CORRUPT);
            assert_int_equal(sampler_score(sampler, logits, 0, 3, &sampled), ERR_CORRUPT);
            logits[at] = 0.0f;
        }
    assert_int_equal(sampled.token_id, 77);
    assert_non_null(strstr(error_text(), "NaN"));
    sampler_close(sampler);
}

/* Picks in another order, with others in between, from another sampler: the same tokens. */
static void picks_do_not_depend_on_each_other(void **state)
{
    (void)state;
    enum { ROWS = 40 };
    struct sampler *one = open_sampler(VOCABULARY), *other = open_sampler(VOCABULARY);
    static float logits[ROWS][VOCABULARY];
    static struct sampling sampling[ROWS];
    struct sampler_row rows[ROWS];
    struct sampled first[ROWS], again;
    static const uint32_t history[] = {5, 9, 5, 700, 12};
    for (uint32_t i = 0; i < ROWS; i++) {
        random_logits(logits[i], VOCABULARY);
        sampling_defaults(&sampling[i]);
        sampling[i].seed = i / 2;
        sampling[i].temperature = i % 5 == 0 ? 0.0f : 0.5f + (float)i / 20;
        sampling[i].top_k = i % 3 == 0 ? 20 : 0;
        sampling[i].top_p = i % 4 == 0 ? 0.8f : 1.0f;
        sampling[i].repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f;
        sampling[i].frequency_penalty = i % 7 == 0 ? 1.1f : 0.0f;
        sampling[i].logprobs = i % 2 == 1;
        sampling[i].top_logprobs = 5;
        rows[i] = (struct sampler_row){.logits = logits[i],
                                       .prompt_ids = history,
                                       .prompt_count = 3,
                                       .output_ids = history + i % 3,
                                       .output_count = 2,
                                       .position = 5,
                                       .sequence_index = i % 2};
        assert_int_equal(sampler_pick(one, &sampling[i], &rows[i], &first[i]), OK);
    }
    for (uint32_t n = 0; n < 3 * ROWS; n++) {
        uint32_t i = (n * 17 + 5) % ROWS;
        assert_int_equal(sampler_pick(other, &sampling[i], &rows[i], &again), OK);
        assert_int_equal(again.token_id, first[i].token_id);
        assert_memory_equal(&again.logprob, &first[i].logprob, sizeof(float));
        assert_memory_equal(again.top_logprobs, first[i].top_logprobs,
                            first[i].top_count * sizeof(float));
    }
    sampler_close(one);
    sampler_close(other);
}

static void parameters_out_of_range_are_named(void **state)
{
    (void)state;
    struct sampling good, bad;
    sampling_defaults(&good);
    assert_int_equal(sampling_check(&good, 10), OK);
#define REFUSED(field, value, word)                                                                \
    do {                                                                                           \
        bad = good;                                                                                \
        bad.field = value;                                                                         \
        assert_int_equal(sampling_check(&bad, 10), ERR_BAD_INPUT);                                 \
        assert_non_null(strstr(error_text(), word));                                               \
    } while (0)
    REFUSED(temperature, -0.1f, "temperature");
    REFUSED(temperature, NAN, "temperature");
    REFUSED(temperature, INFINITY, "temperature");
    REFUSED(top_p, 0.0f, "top_p");
    REFUSED(top_p, 1.1f, "top_p");
    REFUSED(min_p, -0.1f, "min_p");
    REFUSED(repetition_penalty, 0.0f, "repetition_penalty");
    REFUSED(frequency_penalty, 2.1f, "frequency_penalty");
    REFUSED(presence_penalty, -2.1f, "presence_penalty");
    REFUSED(top_logprobs, 21, "top_logprobs");
    REFUSED(bias_count, SAMPLING_BIAS_MAX + 1, "logit_bias");
    REFUSED(end_id_count, SAMPLING_END_IDS_MAX + 1, "end token");
    good.bias_count = 1;
    REFUSED(bias[0].token_id, 10, "logit_bias");
    REFUSED(bias[0].bias, 101.0f, "logit_bias");
    good.end_id_count = 1;
    REFUSED(end_ids[0], 10, "end token");
#undef REFUSED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(greedy_takes_the_largest_and_the_lowest_id),
        cmocka_unit_test(draws_follow_the_definition),
        cmocka_unit_test(draws_are_distributed_as_softmax),
        cmocka_unit_test(extreme_temperatures_are_no_trap),
        cmocka_unit_test(penalties_count_what_they_should),
        cmocka_unit_test(bias_bans_and_forces),
        cmocka_unit_test(end_tokens_wait_for_min_tokens),
        cmocka_unit_test(logprobs_are_the_models_own),
        cmocka_unit_test(damaged_logits_are_named),
        cmocka_unit_test(picks_do_not_depend_on_each_other),
        cmocka_unit_test(parameters_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
