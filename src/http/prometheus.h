/* http/prometheus.h - counters, gauges and histograms, and their text exposition.
 *
 *     family (name, kind, help, label names)
 *       +-- series (label values) -> one value, or a histogram's buckets, sum and count
 *
 *     id = prometheus_counter(p, "baton_prompt_tokens_total", "Prompt tokens.", "worker");
 *     s = prometheus_series(p, id, "prefill-0");
 *     prometheus_add(p, s, 128);
 *
 * Threads: one. Memory: all of it is taken by prometheus_open; a series beyond the limit is the
 *          family's overflow series (all labels "other"), so nothing is lost and nothing grows.
 * Source:  Prometheus text exposition format 0.0.4.
 */
#ifndef HTTP_PROMETHEUS_H
#define HTTP_PROMETHEUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "http/text.h"

#define PROMETHEUS_LABELS_MAX 4
#define PROMETHEUS_LABEL_BYTES 64 /* of a label's value, cut beyond */
#define PROMETHEUS_BUCKETS_MAX 24
#define PROMETHEUS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct prometheus;

/* Errors: ERR_NO_MEMORY. */
status prometheus_open(uint32_t families_max, uint32_t series_max, struct prometheus **metrics_out);
void prometheus_close(struct prometheus *metrics);

/* Declare a family; name and help are constants. labels: names with commas between
 * ("worker,state"),
 * "" for none. Asserts on a bad or repeated name or a full table: these are the program's own. A
 * family without labels has its series (value 0) at once. */
uint32_t prometheus_counter(struct prometheus *metrics, const char *name, const char *help,
                            const char *labels);
uint32_t prometheus_gauge(struct prometheus *metrics, const char *name, const char *help,
                          const char *labels);
/* bounds: bucket_count ascending upper bounds, without +Inf; kept by pointer. */
uint32_t prometheus_histogram(struct prometheus *metrics, const char *name, const char *help,
                              const char *labels, const double *bounds, uint32_t bucket_count);

/* The series of family with these label values (as many const char * as the family has labels),
 * made at first use. Stays valid until it is dropped. */
uint32_t prometheus_series(struct prometheus *metrics, uint32_t family, ...);

/* Forget all series whose label has this value: a worker that left. */
void prometheus_drop(struct prometheus *metrics, const char *label, const char *value);

void prometheus_add(struct prometheus *metrics, uint32_t series, double value); /* counter, gauge */
void prometheus_set(struct prometheus *metrics, uint32_t series, double value); /* gauge; a counter
                                                                  that is counted elsewhere */
void prometheus_observe(struct prometheus *metrics, uint32_t series, double value); /* histogram */

/* One histogram observed elsewhere: counts per bucket (not cumulative, bucket_count + 1 of them).
 */
void prometheus_set_histogram(struct prometheus *metrics, uint32_t series, const uint64_t *counts,
                              double sum);

/* All families in the order of their declaration. */
void prometheus_write(const struct prometheus *metrics, struct text *text);

#endif
