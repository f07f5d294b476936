/* cli/bench_samples.h - numbers that were measured, and what is said about them.
 *
 * Percentiles are those of numpy's default: linear between the two nearest ranks. The deviation is
 * of the whole population.
 *
 * Threads: one at a time. Memory: samples own their values until samples_close.
 */
#ifndef CLI_BENCH_SAMPLES_H
#define CLI_BENCH_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>

struct samples {
    double *values;
    size_t count, capacity;
    bool sorted;
};

struct samples_summary {
    double mean, median, deviation, p90, p99, max; /* all 0 when there are no samples */
};

/* Starts from {0}. False: no memory, the value is not kept. */
bool samples_add(struct samples *samples, double value);
void samples_close(struct samples *samples);

/* percent in 0 .. 100; 0 when there are no samples. Sorts the samples. */
double samples_percentile(struct samples *samples, double percent);
struct samples_summary samples_summarize(struct samples *samples);

#endif
