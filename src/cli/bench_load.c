#include "cli/bench_load.h"

#include <assert.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define PROMPT_BYTES_MAX (200u << 20)
#define PROGRESS_MS 200

struct load;

struct load_slot {
    struct load *load;
    struct bench_stream *stream; /* NULL: not running */
    uint32_t input_tokens;       /* as asked for */
};

struct load {
    struct loop *loop;
    struct bench_server *server;
    const struct load_plan *plan;
    struct load_report *report;
    struct load_slot *slots; /* one for each request */
    struct loop_timer *next_timer, *progress_timer;
    struct loop_watch *interrupt;
    struct text prompt;
    size_t started;
    uint32_t running;
    uint64_t start_ns;
    struct samples second_tokens; /* tokens that came in each second since the start */
    status failure;               /* why the run stopped before its end */
};

static double ms_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

static void load_start_due(struct load *load);

static void load_count_token(struct load *load, uint64_t at_ns)
{
    size_t second = at_ns > load->start_ns ? (size_t)((at_ns - load->start_ns) / 1000000000u) : 0;
    while (load->second_tokens.count <= second && samples_add(&load->second_tokens, 0)) {
    }
    if (second < load->second_tokens.count)
        load->second_tokens.values[second] += 1;
}

static void load_on_token(void *ctx, uint64_t at_ns, uint64_t previous_ns)
{
    struct load *load = ((struct load_slot *)ctx)->load;
    load_count_token(load, at_ns);
    if (previous_ns != 0)
        samples_add(&load->report->itl_ms, ms_between(previous_ns, at_ns));
}

static void load_take_result(struct load *load, uint32_t input_tokens,
                             const struct bench_result *result)
{
    struct load_report *report = load->report;
    const struct load_goal *goal = &load->plan->goal;
    if (!result->ok) {
        if (report->failed++ == 0)
            snprintf(report->first_error, sizeof(report->first_error), "%s", result->error);
        return;
    }
    double ttft_ms = ms_between(result->sent_ns, result->first_ns);
    double e2el_ms = ms_between(result->sent_ns, result->last_ns);
    double tpot_ms = 0;
    report->completed++;
    report->input_tokens += result->input_tokens > 0 ? result->input_tokens : input_tokens;
    report->output_tokens += result->output_tokens;
    samples_add(&report->ttft_ms, ttft_ms);
    samples_add(&report->e2el_ms, e2el_ms);
    if (result->output_tokens > 1) {
        tpot_ms = (e2el_ms - ttft_ms) / (result->output_tokens - 1);
        samples_add(&report->tpot_ms, tpot_ms);
    }
    if ((goal->ttft_ms <= 0 || ttft_ms <= goal->ttft_ms) &&
        (goal->tpot_ms <= 0 || tpot_ms <= goal->tpot_ms) &&
        (goal->e2el_ms <= 0 || e2el_ms <= goal->e2el_ms))
        report->good++;
}

static void load_on_done(void *ctx, const struct bench_result *result)
{
    struct load_slot *slot = ctx;
    struct load *load = slot->load;
    slot->stream = NULL;
    load->running--;
    load_take_result(load, slot->input_tokens, result);
    load_start_due(load);
}

static status load_start(struct load *load, size_t index)
{
    const struct load_plan *plan = load->plan;
    const struct load_request *request = &plan->requests[index];
    const struct prompt_piece *pieces = plan->pieces + request->piece_first;
    struct load_slot *slot = &load->slots[index];
    struct bench_stream_calls calls = {load_on_token, load_on_done, slot};
    slot->load = load;
    for (size_t i = 0; i < request->piece_count; i++)
        slot->input_tokens += pieces[i].tokens;
    text_reset(&load->prompt);
    prompt_write(&load->prompt, &plan->prompt, pieces, request->piece_count);
    if (!text_ok(&load->prompt))
        return error_set(ERR_NO_MEMORY, "no memory for a prompt of %u tokens", slot->input_tokens);
    status st = bench_stream_start(load->server, load->prompt.data, request->output_tokens, &calls,
                                   &slot->stream);
    if (st != OK)
        return st;
    load->running++;
    if (load->running > load->report->running_max)
        load->report->running_max = load->running;
    return OK;
}

/* Start what is due and may run; set the timer for what is next; stop when all is done. */
static void load_start_due(struct load *load)
{
    const struct load_plan *plan = load->plan;
    while (load->started < plan->request_count) {
        if (plan->concurrency_max != 0 && load->running >= plan->concurrency_max)
            return; /* the next one that ends comes here again */
        double wait_ms =
            plan->requests[load->started].at_ms - ms_between(load->start_ns, clock_ns());
        if (wait_ms > 0) {
            loop_timer_start(load->next_timer, (uint64_t)ceil(wait_ms));
            return;
        }
        status st = load_start(load, load->started++);
        if (st != OK) {
            load->failure = st;
            loop_stop(load->loop);
            return;
        }
    }
    if (load->running == 0)
        loop_stop(load->loop);
}

static void load_on_next(void *ctx)
{
    load_start_due(ctx);
}

static void load_on_progress(void *ctx)
{
    struct load *load = ctx;
    const struct load_report *report = load->report;
    fprintf(stderr, "\r%zu of %zu done, %u running, %zu failed, %.0f s ", report->completed,
            load->plan->request_count, load->running, report->failed,
            ms_between(load->start_ns, clock_ns()) / 1000);
    loop_timer_start(load->progress_timer, PROGRESS_MS);
}

static void load_on_interrupt(void *ctx, int number)
{
    (void)number;
    struct load *load = ctx;
    loop_stop(load->loop);
}

static status load_open(struct load *load)
{
    load->prompt = text_open(PROMPT_BYTES_MAX);
    load->slots = calloc(load->plan->request_count + 1, sizeof(*load->slots));
    if (load->slots == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu requests", load->plan->request_count);
    status st = loop_timer_open(load->loop, load_on_next, load, &load->next_timer);
    if (st == OK)
        st = loop_timer_open(load->loop, load_on_progress, load, &load->progress_timer);
    if (st == OK)
        st = loop_signal_open(load->loop, SIGINT, load_on_interrupt, load, &load->interrupt);
    return st;
}

static void load_close(struct load *load)
{
    for (size_t i = 0; load->slots != NULL && i < load->started; i++) {
        if (load->slots[i].stream != NULL)
            bench_stream_cancel(load->slots[i].stream);
    }
    loop_watch_close(load->interrupt);
    loop_timer_close(load->progress_timer);
    loop_timer_close(load->next_timer);
    samples_close(&load->second_tokens);
    text_close(&load->prompt);
    free(load->slots);
}

status load_run(struct loop *loop, struct bench_server *server, const struct load_plan *plan,
                struct load_report *report_out)
{
    struct load_report report = {0};
    struct load load = {.loop = loop, .server = server, .plan = plan, .report = &report};
    status st = load_open(&load);
    if (st == OK) {
        load.start_ns = clock_ns();
        if (plan->progress)
            loop_timer_start(load.progress_timer, PROGRESS_MS);
        loop_timer_start(load.next_timer, 0);
        loop_run(loop);
        report.duration_s = ms_between(load.start_ns, clock_ns()) / 1000;
        report.output_tokens_per_s_max = samples_percentile(&load.second_tokens, 100);
        st = load.failure;
        if (plan->progress)
            fprintf(stderr, "\r%-60s\r", "");
    }
    load_close(&load);
    if (st != OK) {
        load_report_close(&report);
        return st;
    }
    *report_out = report;
    return OK;
}

void load_report_close(struct load_report *report)
{
    samples_close(&report->ttft_ms);
    samples_close(&report->tpot_ms);
    samples_close(&report->itl_ms);
    samples_close(&report->e2el_ms);
}
