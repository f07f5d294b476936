/* cli/bench_report.h - what a measure found, as a table and as JSON.
 *
 * Table and keys are those of the field's tool for the same job (vllm bench serve), so that what
 * reads its results reads these.
 *
 * Threads: one at a time. Memory: the reports stay the caller's; percentiles sort their samples.
 */
#ifndef CLI_BENCH_REPORT_H
#define CLI_BENCH_REPORT_H

#include <stdio.h>

#include "base/status.h"
#include "cli/bench_interference.h"
#include "cli/bench_load.h"

/* What was asked for; it goes into the report. */
struct report_subject {
    const char *model;
    const char *endpoint;     /* "completions" or "chat" */
    size_t request_count;     /* asked for */
    double request_rate;      /* a second; INFINITY: all at once */
    uint32_t concurrency_max; /* 0: no limit */
    bool goals;               /* request_goodput means something */
};

void report_print(const struct report_subject *subject, struct load_report *report, FILE *to);
void report_print_interference(const struct report_subject *subject,
                               struct interference_report *report, FILE *to);

/* path "-" is standard output. Errors: ERR_IO, ERR_NO_MEMORY. */
status report_write(const struct report_subject *subject, struct load_report *report,
                    const char *path);
status report_write_interference(const struct report_subject *subject,
                                 struct interference_report *report, const char *path);

#endif
