#include "cli/bench_samples.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

bool samples_add(struct samples *samples, double value)
{
    if (samples->count == samples->capacity) {
        size_t capacity = samples->capacity > 0 ? samples->capacity * 2 : 256;
        double *values = reallocarray(samples->values, capacity, sizeof(*values));
        if (values == NULL)
            return false;
        samples->values = values;
        samples->capacity = capacity;
    }
    samples->values[samples->count++] = value;
    samples->sorted = false;
    return true;
}

void samples_close(struct samples *samples)
{
    free(samples->values);
    *samples = (struct samples){0};
}

static int compare_values(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

double samples_percentile(struct samples *samples, double percent)
{
    assert(percent >= 0 && percent <= 100);
    if (samples->count == 0)
        return 0;
    if (!samples->sorted)
        qsort(samples->values, samples->count, sizeof(*samples->values), compare_values);
    samples->sorted = true;
    double rank = percent / 100 * (double)(samples->count - 1);
    size_t below = (size_t)rank;
    size_t above = below + 1 < samples->count ? below + 1 : below;
    double share = rank - (double)below;
    return samples->values[below] + share * (samples->values[above] - samples->values[below]);
}

struct samples_summary samples_summarize(struct samples *samples)
{
    struct samples_summary summary = {0};
    if (samples->count == 0)
        return summary;
    double sum = 0;
    for (size_t i = 0; i < samples->count; i++)
        sum += samples->values[i];
    summary.mean = sum / (double)samples->count;
    double squares = 0;
    for (size_t i = 0; i < samples->count; i++)
        squares += (samples->values[i] - summary.mean) * (samples->values[i] - summary.mean);
    summary.deviation = sqrt(squares / (double)samples->count);
    summary.median = samples_percentile(samples, 50);
    summary.p90 = samples_percentile(samples, 90);
    summary.p99 = samples_percentile(samples, 99);
    summary.max = samples_percentile(samples, 100);
    return summary;
}
