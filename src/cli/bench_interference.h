/* cli/bench_interference.h - what long prompts do to running streams.
 *
 *     stream 1   |--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|   a gap: one ITL sample
 *     stream K   |--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|--|
 *     prompts                       [ long 1 ][ long 2 ][ long 3 ]
 *                settle |<- quiet ->|<-- disturbed            -->|<- quiet ->|
 *
 * A step takes longer the longer the streams' contexts are, with or without a prompt beside it. So
 * there is a quiet time before and one after, equally long: contexts are then about as long in the
 * quiet as in the disturbed. A gap is quiet when it lies in a quiet time, and disturbed when any
 * part of it lies in the disturbed time: a stream that stood still until the last prompt was done
 * counts with that gap. A stream that ends is started again; their first answers are of different
 * lengths, so that they end one after another.
 *
 * Threads: one; interference_run runs the loop. Memory: the report owns its samples.
 */
#ifndef CLI_BENCH_INTERFERENCE_H
#define CLI_BENCH_INTERFERENCE_H

#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"
#include "cli/bench_prompt.h"
#include "cli/bench_samples.h"
#include "cli/bench_server.h"

#define INTERFERENCE_STREAMS_MAX 1024

struct interference_plan {
    uint32_t streams;
    uint32_t stream_input_tokens, stream_output_tokens;
    uint64_t quiet_ms; /* before and after */
    uint32_t long_prompts;
    uint64_t long_every_ms; /* from one's start to the next one's; 0: each when the last is done */
    uint32_t long_input_tokens, long_output_tokens;
    struct prompt_kind prompt;
    bool progress;
};

struct interference_report {
    struct samples before_itl_ms, after_itl_ms; /* quiet */
    struct samples quiet_itl_ms;                /* both */
    struct samples disturbed_itl_ms;
    struct samples long_ttft_ms; /* one for each long prompt */
    uint64_t long_input_tokens;  /* of all long prompts, as the server counted them */
    double before_s, disturbed_s, after_s;
};

/* Errors: ERR_REFUSED (a stream or a long prompt failed: the server's words), ERR_CANCELLED
 * (SIGINT), ERR_NO_MEMORY, ERR_IO. */
status interference_run(struct loop *loop, struct bench_server *server,
                        const struct interference_plan *plan,
                        struct interference_report *report_out);
void interference_report_close(struct interference_report *report);

#endif
