/* tests/vectors/logits_check.h - an engine's logits against a golden file, teacher-forced.
 *
 * float class: every logit of every position that the file keeps, and the log of the sum of exp
 * over the whole vocabulary, within LOGIT_BOUND with the pool that it has by default, and within
 * KV_BOUND with one of f16. other classes: the share of positions with the same top token; every
 * exception is printed with its margin: how far the golden's own top token leads the one that was
 * picked instead.
 */
#ifndef TESTS_LOGITS_CHECK_H
#define TESTS_LOGITS_CHECK_H

#include <math.h>

#include "engine_fixture.h"
#include "golden_file.h"

#define LOGIT_BOUND 0.002 /* 0.02 is promised, 0.00012 found */
#define KV_BOUND 0.1      /* keys and values rounded to f16, which the golden's are not */

struct logits_report {
    uint32_t positions;
    uint32_t top_equal;
    double worst;     /* largest difference of any logit */
    double worst_sum; /* and of any log of the sum of exp */
    double square_sum;
    uint64_t compared;
    char where[128];
};

static inline void compare_one(struct logits_report *report, const char *name, uint32_t position,
                               uint32_t id, float found, float expected)
{
    double off = fabs((double)found - (double)expected);
    report->square_sum += off * off;
    report->compared++;
    if (off > report->worst || isnan(off)) {
        report->worst = isnan(off) ? INFINITY : off;
        snprintf(report->where, sizeof(report->where), "%s position %u token %u: %g for %g", name,
                 position, id, (double)found, (double)expected);
    }
}

static inline uint32_t argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static inline double log_sum_exp(const float *logits, uint32_t count)
{
    double most = (double)logits[argmax(logits, count)], sum = 0.0;
    for (uint32_t i = 0; i < count; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum);
}

static inline void compare_sum(struct logits_report *report, const float *logits, uint32_t count,
                               float expected)
{
    double off = fabs(log_sum_exp(logits, count) - (double)expected);
    if (off > report->worst_sum || isnan(off))
        report->worst_sum = isnan(off) ? INFINITY : off;
}

static inline void compare_position(struct logits_report *report, const struct golden *golden,
                                    const struct golden_sequence *sequence, uint32_t at,
                                    const float *logits)
{
    struct golden_position position;
    golden_position_at(golden, sequence, at, &position);
    compare_sum(report, logits, golden->vocabulary, position.log_sum_exp);
    uint32_t picked = argmax(logits, golden->vocabulary), expected;
    double margin = NAN;
    if (golden->full) {
        expected = argmax(position.logits, golden->vocabulary);
        margin = (double)position.logits[expected] - (double)position.logits[picked];
        for (uint32_t i = 0; i < golden->vocabulary; i++)
            compare_one(report, sequence->name, at, i, logits[i], position.logits[i]);
    } else {
        expected = position.top_ids[0];
        for (uint32_t i = 0; i < golden->top_count; i++) {
            uint32_t id = position.top_ids[i];
            if (id == picked)
                margin = (double)position.top_logits[0] - (double)position.top_logits[i];
            compare_one(report, sequence->name, at, id, logits[id], position.top_logits[i]);
        }
        for (uint32_t i = 0; i < golden->sample_count; i++)
            compare_one(report, sequence->name, at, position.sample_ids[i],
                        logits[position.sample_ids[i]], position.sample_logits[i]);
    }
    report->positions++;
    if (picked == expected) {
        report->top_equal++;
        return;
    }
    print_message("  %s position %u: token %u instead of %u, margin %.4f\n", sequence->name, at,
                  picked, expected, margin);
}

/* One sequence, chunk tokens a step. */
static inline void compare_sequence(struct logits_report *report, struct fixture *fixture,
                                    const struct golden *golden,
                                    const struct golden_sequence *sequence, uint32_t chunk)
{
    struct run run, *runs[] = {&run};
    run_open(&run, fixture);
    for (uint32_t at = 0; at < sequence->token_count;) {
        bool kept = at >= sequence->first_position;
        uint32_t end = kept ? sequence->token_count : sequence->first_position;
        uint32_t count = end - at < chunk ? end - at : chunk;
        struct part part = {sequence->tokens + at, count, kept};
        run_step(fixture, runs, &part, 1);
        for (uint32_t row = 0; kept && row < count; row++)
            compare_position(report, golden, sequence, at + row,
                             engine_logits(fixture->engine, row));
        at += count;
    }
    run_close(&run, fixture);
}

/* Greedy tokens after the sequence are the golden's. */
static inline void compare_greedy(struct fixture *fixture, const struct golden *golden,
                                  const struct golden_sequence *sequence, uint32_t chunk)
{
    struct run run, *runs[] = {&run};
    if (sequence->greedy_count == 0)
        return;
    run_open(&run, fixture);
    for (uint32_t at = 0; at + 1 < sequence->token_count;) {
        uint32_t left = sequence->token_count - 1 - at;
        struct part part = {sequence->tokens + at, left < chunk ? left : chunk, false};
        run_step(fixture, runs, &part, 1);
        at += part.count;
    }
    uint32_t token = sequence->tokens[sequence->token_count - 1];
    for (uint32_t i = 0; i < sequence->greedy_count; i++) {
        struct part part = {&token, 1, true};
        run_step(fixture, runs, &part, 1);
        token = argmax(engine_logits(fixture->engine, 0), golden->vocabulary);
        if (token != sequence->greedy[i])
            fail_msg("%s: greedy token %u is %u, expected %u", sequence->name, i, token,
                     sequence->greedy[i]);
    }
    run_close(&run, fixture);
}

/* The first sequences_max sequences of a golden file. */
static inline void compare_file(struct logits_report *report, const char *golden_path,
                                const struct fixture_config *config, bool greedy,
                                uint32_t sequences_max)
{
    struct fixture fixture;
    struct golden golden;
    struct golden_sequence sequence;
    assert_true(golden_open(golden_path, &golden));
    fixture_open(&fixture, config);
    assert_int_equal(fixture.model->vocabulary, golden.vocabulary);
    for (uint32_t i = 0; i < sequences_max && golden_next_sequence(&golden, &sequence); i++) {
        compare_sequence(report, &fixture, &golden, &sequence, 64);
        if (greedy)
            compare_greedy(&fixture, &golden, &sequence, 64);
    }
    fixture_close(&fixture);
    golden_close(&golden);
}

#endif
