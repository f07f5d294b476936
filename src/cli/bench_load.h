/* cli/bench_load.h - a set of requests sent at their times, and what came of them.
 *
 *     arrivals:  0 ms     12 ms   15 ms        40 ms      (a rate, or a trace)
 *                |        |       |            |
 *     waiting    [ at the limit of concurrency, requests wait here; their clocks start when sent ]
 *     running    [ ... streams ... ]  ->  load_report
 *
 * Threads: one; load_run runs the loop until all is done or it is interrupted (SIGINT: what is
 * done so far is reported).
 * Memory:  the report owns its samples until load_report_close.
 */
#ifndef CLI_BENCH_LOAD_H
#define CLI_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"
#include "cli/bench_prompt.h"
#include "cli/bench_samples.h"
#include "cli/bench_server.h"

/* What a request must keep to be good; 0: no matter. Milliseconds. */
struct load_goal {
    double ttft_ms, tpot_ms, e2el_ms;
};

struct load_request {
    double at_ms; /* when it is sent, at the earliest */
    uint32_t output_tokens;
    size_t piece_first; /* into load_plan.pieces */
    size_t piece_count;
};

struct load_plan {
    const struct load_request *requests; /* in order of at_ms */
    size_t request_count;
    const struct prompt_piece *pieces;
    struct prompt_kind prompt;
    uint32_t concurrency_max; /* 0: no limit */
    struct load_goal goal;
    bool progress; /* draw a line on standard error */
};

struct load_report {
    size_t completed, failed;
    char first_error[256]; /* of the failed ones */
    double duration_s;
    uint64_t input_tokens, output_tokens;
    size_t good;
    uint32_t running_max;
    double output_tokens_per_s_max; /* in the best second */
    struct samples ttft_ms, tpot_ms, itl_ms, e2el_ms;
};

/* Errors: ERR_NO_MEMORY, ERR_IO. */
status load_run(struct loop *loop, struct bench_server *server, const struct load_plan *plan,
                struct load_report *report_out);
void load_report_close(struct load_report *report);

#endif
