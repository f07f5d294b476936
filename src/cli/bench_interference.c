#include "cli/bench_interference.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define PROMPT_BYTES_MAX (200u << 20)
#define SETTLE_EVENTS 8      /* tokens of each stream before anything is measured */
#define LAST_GAP_MS 60000    /* how long a stream may stand still after the last long prompt */
#define LONG_ID (1ull << 32) /* apart from the streams' prompts */
#define LONG_READY 64u       /* so many long prompts are written before anything is measured */

enum phase { PHASE_SETTLE, PHASE_QUIET, PHASE_DISTURBED, PHASE_LAST_GAP, PHASE_QUIET_AGAIN };

struct interference;

struct stream_slot {
    struct interference *run;
    struct bench_stream *stream;
    uint32_t events;    /* of all its lives */
    bool last_gap_seen; /* a token came after the last long prompt was done */
};

struct interference {
    struct loop *loop;
    struct bench_server *server;
    const struct interference_plan *plan;
    struct interference_report *report;
    struct stream_slot *slots;
    struct bench_stream *long_stream;
    uint32_t long_started;
    uint64_t long_due_ns; /* the next one, with long_every_ms */
    struct text long_texts[LONG_READY];
    struct loop_timer *timer, *long_timer;
    struct loop_watch *interrupt;
    struct text prompt;
    uint64_t next_id; /* each stream's life has a prompt of its own */
    enum phase phase;
    uint64_t quiet_ns, disturbed_ns, end_ns, again_ns; /* when the phases began */
    status failure;
};

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

static void interference_fail(struct interference *run, status why)
{
    if (run->failure == OK)
        run->failure = why;
    loop_stop(run->loop);
}

static status write_prompt(const struct interference *run, uint64_t id, uint32_t input_tokens,
                           struct text *text)
{
    struct prompt_piece piece = {id, input_tokens};
    text_reset(text);
    prompt_write(text, &run->plan->prompt, &piece, 1);
    if (!text_ok(text))
        return error_set(ERR_NO_MEMORY, "no memory for a prompt of %u tokens", input_tokens);
    return OK;
}

static void on_stream_token(void *ctx, uint64_t at_ns, uint64_t previous_ns);

static void on_stream_done(void *ctx, const struct bench_result *result);

static void slot_start(struct stream_slot *slot, uint32_t output_tokens)
{
    struct interference *run = slot->run;
    struct bench_stream_calls calls = {on_stream_token, on_stream_done, slot};
    status st = write_prompt(run, run->next_id++, run->plan->stream_input_tokens, &run->prompt);
    if (st == OK)
        st =
            bench_stream_start(run->server, run->prompt.data, output_tokens, &calls, &slot->stream);
    if (st != OK)
        interference_fail(run, st);
}

static void on_stream_done(void *ctx, const struct bench_result *result)
{
    struct stream_slot *slot = ctx;
    slot->stream = NULL;
    if (!result->ok)
        interference_fail(slot->run, error_set(ERR_REFUSED, "a stream failed: %s", result->error));
    else
        slot_start(slot, slot->run->plan->stream_output_tokens);
}

static void on_long_done(void *ctx, const struct bench_result *result);

static void long_start(struct interference *run)
{
    struct bench_stream_calls calls = {NULL, on_long_done, run};
    struct text *text = &run->prompt;
    status st = OK;
    if (run->long_started < LONG_READY)
        text = &run->long_texts[run->long_started];
    else
        st = write_prompt(run, LONG_ID + run->long_started, run->plan->long_input_tokens, text);
    if (st == OK)
        st = bench_stream_start(run->server, text->data, run->plan->long_output_tokens, &calls,
                                &run->long_stream);
    run->long_started++;
    run->long_due_ns += run->plan->long_every_ms * 1000000u;
    if (st != OK)
        interference_fail(run, st);
    else if (run->plan->progress)
        fprintf(stderr, "\rlong prompt %u of %u                    ", run->long_started,
                run->plan->long_prompts);
}

/* The next long prompt, or the end of the time in which they come. */
static void on_long_due(void *ctx)
{
    struct interference *run = ctx;
    if (run->long_started < run->plan->long_prompts) {
        long_start(run);
        return;
    }
    run->phase = PHASE_LAST_GAP;
    run->end_ns = clock_ns();
    loop_timer_start(run->timer, LAST_GAP_MS);
}

static void on_long_done(void *ctx, const struct bench_result *result)
{
    struct interference *run = ctx;
    uint64_t now_ns = clock_ns();
    run->long_stream = NULL;
    if (!result->ok) {
        interference_fail(run, error_set(ERR_REFUSED, "a long prompt failed: %s", result->error));
        return;
    }
    samples_add(&run->report->long_ttft_ms, ms_between(result->sent_ns, result->first_ns));
    run->report->long_input_tokens += result->input_tokens;
    if (run->plan->long_every_ms > 0 && run->long_due_ns > now_ns)
        loop_timer_start(run->long_timer, (run->long_due_ns - now_ns + 999999u) / 1000000u);
    else
        on_long_due(run);
}

/* Go on to the quiet phase when every stream has settled. */
static void settle(struct interference *run)
{
    for (uint32_t i = 0; i < run->plan->streams; i++) {
        if (run->slots[i].events < SETTLE_EVENTS)
            return;
    }
    run->phase = PHASE_QUIET;
    run->quiet_ns = clock_ns();
    loop_timer_start(run->timer, run->plan->quiet_ms);
    if (run->plan->progress)
        fprintf(stderr, "\rquiet for %.1f s", (double)run->plan->quiet_ms / 1000);
}

static void last_gap(struct interference *run, struct stream_slot *slot)
{
    slot->last_gap_seen = true;
    for (uint32_t i = 0; i < run->plan->streams; i++) {
        if (!run->slots[i].last_gap_seen)
            return;
    }
    run->phase = PHASE_QUIET_AGAIN;
    run->again_ns = clock_ns();
    loop_timer_start(run->timer, run->plan->quiet_ms);
    if (run->plan->progress)
        fprintf(stderr, "\rquiet again for %.1f s   ", (double)run->plan->quiet_ms / 1000);
}

static void on_stream_token(void *ctx, uint64_t at_ns, uint64_t previous_ns)
{
    struct stream_slot *slot = ctx;
    struct interference *run = slot->run;
    double gap_ms = ms_between(previous_ns, at_ns);
    bool gap = previous_ns != 0;
    slot->events++;
    switch (run->phase) {
    case PHASE_SETTLE:
        settle(run);
        break;
    case PHASE_QUIET:
        if (gap && previous_ns >= run->quiet_ns)
            samples_add(&run->report->before_itl_ms, gap_ms);
        break;
    case PHASE_QUIET_AGAIN:
        if (gap && previous_ns >= run->again_ns)
            samples_add(&run->report->after_itl_ms, gap_ms);
        break;
    case PHASE_DISTURBED:
        if (gap)
            samples_add(&run->report->disturbed_itl_ms, gap_ms);
        break;
    case PHASE_LAST_GAP:
        if (gap && previous_ns < run->end_ns)
            samples_add(&run->report->disturbed_itl_ms, gap_ms);
        if (at_ns >= run->end_ns)
            last_gap(run, slot);
        break;
    }
}

/* The end of a quiet time, or of the wait for the last gaps. */
static void on_timer(void *ctx)
{
    struct interference *run = ctx;
    if (run->phase == PHASE_QUIET) {
        run->phase = PHASE_DISTURBED;
        run->disturbed_ns = run->long_due_ns = clock_ns();
        long_start(run);
        return;
    }
    if (run->phase == PHASE_QUIET_AGAIN) {
        run->report->after_s = ms_between(run->again_ns, clock_ns()) / 1000;
        loop_stop(run->loop);
        return;
    }
    interference_fail(run, error_set(ERR_TIMEOUT,
                                     "a stream stood still for %d s after the last "
                                     "long prompt",
                                     LAST_GAP_MS / 1000));
}

static void on_interrupt(void *ctx, int number)
{
    (void)number;
    interference_fail(ctx, error_set(ERR_CANCELLED, "interrupted"));
}

static status interference_open(struct interference *run)
{
    status st = OK;
    run->prompt = text_open(PROMPT_BYTES_MAX);
    for (uint32_t i = 0; i < LONG_READY; i++)
        run->long_texts[i] = text_open(PROMPT_BYTES_MAX);
    for (uint32_t i = 0; st == OK && i < LONG_READY && i < run->plan->long_prompts; i++)
        st = write_prompt(run, LONG_ID + i, run->plan->long_input_tokens, &run->long_texts[i]);
    run->slots = calloc(run->plan->streams, sizeof(*run->slots));
    if (run->slots == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u streams", run->plan->streams);
    if (st == OK)
        st = loop_timer_open(run->loop, on_timer, run, &run->timer);
    if (st == OK)
        st = loop_timer_open(run->loop, on_long_due, run, &run->long_timer);
    if (st == OK)
        st = loop_signal_open(run->loop, SIGINT, on_interrupt, run, &run->interrupt);
    return st;
}

/* The settled streams' lives are spread over the time that one takes. */
static uint32_t first_answer(const struct interference_plan *plan, uint32_t i)
{
    uint32_t least = 4 * SETTLE_EVENTS, all = plan->stream_output_tokens;
    return all <= least ? all
                        : least + (uint32_t)((uint64_t)(all - least) * (i + 1) / plan->streams);
}

static void interference_close(struct interference *run)
{
    for (uint32_t i = 0; run->slots != NULL && i < run->plan->streams; i++) {
        if (run->slots[i].stream != NULL)
            bench_stream_cancel(run->slots[i].stream);
    }
    if (run->long_stream != NULL)
        bench_stream_cancel(run->long_stream);
    loop_watch_close(run->interrupt);
    loop_timer_close(run->timer);
    loop_timer_close(run->long_timer);
    text_close(&run->prompt);
    for (uint32_t i = 0; i < LONG_READY; i++)
        text_close(&run->long_texts[i]);
    free(run->slots);
}

status interference_run(struct loop *loop, struct bench_server *server,
                        const struct interference_plan *plan,
                        struct interference_report *report_out)
{
    struct interference_report report = {0};
    struct interference run = {.loop = loop, .server = server, .plan = plan, .report = &report};
    assert(plan->streams > 0 && plan->streams <= INTERFERENCE_STREAMS_MAX);
    status st = interference_open(&run);
    if (st == OK) {
        for (uint32_t i = 0; i < plan->streams && run.failure == OK; i++) {
            run.slots[i].run = &run;
            slot_start(&run.slots[i], first_answer(plan, i));
        }
        loop_run(loop);
        st = run.failure;
        report.before_s = ms_between(run.quiet_ns, run.disturbed_ns) / 1000;
        report.disturbed_s = ms_between(run.disturbed_ns, run.end_ns) / 1000;
        if (plan->progress)
            fprintf(stderr, "\r%-40s\r", "");
    }
    interference_close(&run);
    const struct samples *quiet[] = {&report.before_itl_ms, &report.after_itl_ms};
    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < quiet[i]->count; k++)
            samples_add(&report.quiet_itl_ms, quiet[i]->values[k]);
    if (st != OK) {
        interference_report_close(&report);
        return st;
    }
    *report_out = report;
    return OK;
}

void interference_report_close(struct interference_report *report)
{
    samples_close(&report->before_itl_ms);
    samples_close(&report->after_itl_ms);
    samples_close(&report->quiet_itl_ms);
    samples_close(&report->disturbed_itl_ms);
    samples_close(&report->long_ttft_ms);
}
