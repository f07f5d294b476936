#include "http/prometheus.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define FAMILY_LABELS_BYTES 128
#define SERIES_NONE UINT32_MAX

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct family {
    const char *name;
    const char *help;
    enum metric_kind kind;
    uint32_t label_count;
    char labels[FAMILY_LABELS_BYTES]; /* the names, each with its NUL */
    const char *label_names[PROMETHEUS_LABELS_MAX];
    const double *bounds;
    uint32_t bucket_count;
    uint32_t first, last; /* its series, in the order of their making */
};

struct series {
    uint32_t family;
    uint32_t next; /* of the family, or of the free ones */
    bool used;
    char values[PROMETHEUS_LABELS_MAX][PROMETHEUS_LABEL_BYTES];
    double value; /* a histogram's sum */
    uint64_t counts[PROMETHEUS_BUCKETS_MAX + 1];
};

/* series[0 .. series_max) are handed out; series_max + f is family f's overflow. */
struct prometheus {
    struct family *families;
    uint32_t family_count, families_max;
    struct series *series;
    uint32_t series_max;
    uint32_t free_series;
};

status prometheus_open(uint32_t families_max, uint32_t series_max, struct prometheus **metrics_out)
{
    struct prometheus *metrics = calloc(1, sizeof(*metrics));
    if (metrics == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for metrics");
    metrics->families = calloc(families_max, sizeof(*metrics->families));
    metrics->series = calloc((size_t)series_max + families_max, sizeof(*metrics->series));
    if (metrics->families == NULL || metrics->series == NULL) {
        prometheus_close(metrics);
        return error_set(ERR_NO_MEMORY, "no memory for %u metrics with %u series", families_max,
                         series_max);
    }
    metrics->families_max = families_max;
    metrics->series_max = series_max;
    for (uint32_t i = 0; i < series_max; i++)
        metrics->series[i].next = i + 1 < series_max ? i + 1 : SERIES_NONE;
    metrics->free_series = series_max > 0 ? 0 : SERIES_NONE;
    *metrics_out = metrics;
    return OK;
}

void prometheus_close(struct prometheus *metrics)
{
    if (metrics == NULL)
        return;
    free(metrics->families);
    free(metrics->series);
    free(metrics);
}

/* Letters, digits and '_', not a digit first; no ':', which promtool keeps for recording rules. */
static bool name_valid(const char *name)
{
    if (name[0] == '\0' || isdigit((unsigned char)name[0]))
        return false;
    for (const char *at = name; *at != '\0'; at++) {
        if (!isalnum((unsigned char)*at) && *at != '_')
            return false;
    }
    return true;
}

static void family_labels(struct family *family, const char *labels)
{
    assert(strlen(labels) < sizeof(family->labels));
    memcpy(family->labels, labels, strlen(labels) + 1);
    char *at = family->labels;
    while (*at != '\0') {
        assert(family->label_count < PROMETHEUS_LABELS_MAX);
        family->label_names[family->label_count++] = at;
        at += strcspn(at, ",");
        if (*at == ',')
            *at++ = '\0';
    }
    for (uint32_t i = 0; i < family->label_count; i++)
        assert(name_valid(family->label_names[i]) && strcmp(family->label_names[i], "le") != 0);
}

static uint32_t family_add(struct prometheus *metrics, enum metric_kind kind, const char *name,
                           const char *help, const char *labels, const double *bounds,
                           uint32_t bucket_count)
{
    assert(metrics->family_count < metrics->families_max);
    assert(name_valid(name));
    for (uint32_t i = 0; i < metrics->family_count; i++)
        assert(strcmp(metrics->families[i].name, name) != 0);
    uint32_t id = metrics->family_count++;
    struct family *family = &metrics->families[id];
    family->name = name;
    family->help = help;
    family->kind = kind;
    family->bounds = bounds;
    family->bucket_count = bucket_count;
    family->first = SERIES_NONE;
    family->last = SERIES_NONE;
    family_labels(family, labels);
    if (family->label_count == 0)
        prometheus_series(metrics, id);
    return id;
}

uint32_t prometheus_counter(struct prometheus *metrics, const char *name, const char *help,
                            const char *labels)
{
    return family_add(metrics, METRIC_COUNTER, name, help, labels, NULL, 0);
}

uint32_t prometheus_gauge(struct prometheus *metrics, const char *name, const char *help,
                          const char *labels)
{
    return family_add(metrics, METRIC_GAUGE, name, help, labels, NULL, 0);
}

uint32_t prometheus_histogram(struct prometheus *metrics, const char *name, const char *help,
                              const char *labels, const double *bounds, uint32_t bucket_count)
{
    assert(bucket_count > 0 && bucket_count <= PROMETHEUS_BUCKETS_MAX);
    for (uint32_t i = 1; i < bucket_count; i++)
        assert(bounds[i] > bounds[i - 1]);
    return family_add(metrics, METRIC_HISTOGRAM, name, help, labels, bounds, bucket_count);
}

static void series_link(struct prometheus *metrics, uint32_t family_id, uint32_t id)
{
    struct family *family = &metrics->families[family_id];
    metrics->series[id].family = family_id;
    metrics->series[id].used = true;
    metrics->series[id].next = SERIES_NONE;
    if (family->last == SERIES_NONE)
        family->first = id;
    else
        metrics->series[family->last].next = id;
    family->last = id;
}

static uint32_t series_overflow(struct prometheus *metrics, uint32_t family_id)
{
    uint32_t id = metrics->series_max + family_id;
    struct series *series = &metrics->series[id];
    if (!series->used) {
        for (uint32_t i = 0; i < PROMETHEUS_LABELS_MAX; i++)
            snprintf(series->values[i], PROMETHEUS_LABEL_BYTES, "other");
        series_link(metrics, family_id, id);
    }
    return id;
}

uint32_t prometheus_series(struct prometheus *metrics, uint32_t family_id, ...)
{
    assert(family_id < metrics->family_count);
    const struct family *family = &metrics->families[family_id];
    char values[PROMETHEUS_LABELS_MAX][PROMETHEUS_LABEL_BYTES];
    memset(values, 0, sizeof(values));
    va_list args;
    va_start(args, family_id);
    for (uint32_t i = 0; i < family->label_count; i++)
        snprintf(values[i], PROMETHEUS_LABEL_BYTES, "%s", va_arg(args, const char *));
    va_end(args);

    for (uint32_t id = family->first; id != SERIES_NONE; id = metrics->series[id].next) {
        if (memcmp(metrics->series[id].values, values, sizeof(values)) == 0)
            return id;
    }
    uint32_t id = metrics->free_series;
    if (id == SERIES_NONE)
        return series_overflow(metrics, family_id);
    struct series *series = &metrics->series[id];
    metrics->free_series = series->next;
    memset(series, 0, sizeof(*series));
    memcpy(series->values, values, sizeof(values));
    series_link(metrics, family_id, id);
    return id;
}

static bool series_matches(const struct prometheus *metrics, const struct series *series,
                           const char *label, const char *value)
{
    const struct family *family = &metrics->families[series->family];
    for (uint32_t i = 0; i < family->label_count; i++) {
        if (strcmp(family->label_names[i], label) == 0 && strcmp(series->values[i], value) == 0)
            return true;
    }
    return false;
}

void prometheus_drop(struct prometheus *metrics, const char *label, const char *value)
{
    char cut[PROMETHEUS_LABEL_BYTES];
    snprintf(cut, sizeof(cut), "%s", value);
    for (uint32_t f = 0; f < metrics->family_count; f++) {
        struct family *family = &metrics->families[f];
        uint32_t id = family->first;
        family->first = SERIES_NONE;
        family->last = SERIES_NONE;
        while (id != SERIES_NONE) {
            struct series *series = &metrics->series[id];
            uint32_t next = series->next;
            if (id < metrics->series_max && series_matches(metrics, series, label, cut)) {
                series->used = false;
                series->next = metrics->free_series;
                metrics->free_series = id;
            } else {
                series_link(metrics, f, id);
            }
            id = next;
        }
    }
}

static struct series *series_of(struct prometheus *metrics, uint32_t id, enum metric_kind kind,
                                enum metric_kind or_kind)
{
    assert(id < metrics->series_max + metrics->family_count && metrics->series[id].used);
    enum metric_kind is = metrics->families[metrics->series[id].family].kind;
    assert(is == kind || is == or_kind);
    return &metrics->series[id];
}

void prometheus_add(struct prometheus *metrics, uint32_t id, double value)
{
    series_of(metrics, id, METRIC_COUNTER, METRIC_GAUGE)->value += value;
}

void prometheus_set(struct prometheus *metrics, uint32_t id, double value)
{
    series_of(metrics, id, METRIC_COUNTER, METRIC_GAUGE)->value = value;
}

void prometheus_observe(struct prometheus *metrics, uint32_t id, double value)
{
    struct series *series = series_of(metrics, id, METRIC_HISTOGRAM, METRIC_HISTOGRAM);
    const struct family *family = &metrics->families[series->family];
    uint32_t bucket = 0;
    while (bucket < family->bucket_count && value > family->bounds[bucket])
        bucket++;
    series->counts[bucket]++;
    series->value += value;
}

void prometheus_set_histogram(struct prometheus *metrics, uint32_t id, const uint64_t *counts,
                              double sum)
{
    struct series *series = series_of(metrics, id, METRIC_HISTOGRAM, METRIC_HISTOGRAM);
    const struct family *family = &metrics->families[series->family];
    memcpy(series->counts, counts, (family->bucket_count + 1) * sizeof(*counts));
    series->value = sum;
}

/* ---- text ---- */

static void number_write(struct text *text, double value)
{
    if (isnan(value)) {
        text_put(text, "NaN");
        return;
    }
    if (isinf(value)) {
        text_put(text, value > 0 ? "+Inf" : "-Inf");
        return;
    }
    char digits[40];
    for (int precision = 6; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    text_put(text, digits);
}

static void escaped_write(struct text *text, const char *words, bool quotes)
{
    for (const char *at = words; *at != '\0'; at++) {
        if (*at == '\\')
            text_put(text, "\\\\");
        else if (*at == '\n')
            text_put(text, "\\n");
        else if (*at == '"' && quotes)
            text_put(text, "\\\"");
        else
            text_add(text, at, 1);
    }
}

/* {a="1",b="2"}, with le when bound is not NULL; nothing when there is none of them. */
static void labels_write(struct text *text, const struct family *family,
                         const struct series *series, const double *bound)
{
    if (family->label_count == 0 && bound == NULL)
        return;
    text_put(text, "{");
    for (uint32_t i = 0; i < family->label_count; i++) {
        text_format(text, "%s%s=\"", i > 0 ? "," : "", family->label_names[i]);
        escaped_write(text, series->values[i], true);
        text_put(text, "\"");
    }
    if (bound != NULL) {
        text_put(text, family->label_count > 0 ? ",le=\"" : "le=\"");
        number_write(text, *bound);
        text_put(text, "\"");
    }
    text_put(text, "}");
}

static void histogram_write(struct text *text, const struct family *family,
                            const struct series *series)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i <= family->bucket_count; i++) {
        double bound = i < family->bucket_count ? family->bounds[i] : (double)INFINITY;
        count += series->counts[i];
        text_format(text, "%s_bucket", family->name);
        labels_write(text, family, series, &bound);
        text_format(text, " %llu\n", (unsigned long long)count);
    }
    text_format(text, "%s_sum", family->name);
    labels_write(text, family, series, NULL);
    text_put(text, " ");
    number_write(text, series->value);
    text_format(text, "\n%s_count", family->name);
    labels_write(text, family, series, NULL);
    text_format(text, " %llu\n", (unsigned long long)count);
}

void prometheus_write(const struct prometheus *metrics, struct text *text)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    for (uint32_t f = 0; f < metrics->family_count; f++) {
        const struct family *family = &metrics->families[f];
        if (family->first == SERIES_NONE)
            continue;
        text_format(text, "# HELP %s ", family->name);
        escaped_write(text, family->help, false);
        text_format(text, "\n# TYPE %s %s\n", family->name, kinds[family->kind]);
        for (uint32_t id = family->first; id != SERIES_NONE; id = metrics->series[id].next) {
            const struct series *series = &metrics->series[id];
            if (family->kind == METRIC_HISTOGRAM) {
                histogram_write(text, family, series);
                continue;
            }
            text_put(text, family->name);
            labels_write(text, family, series, NULL);
            text_put(text, " ");
            number_write(text, series->value);
            text_put(text, "\n");
        }
    }
}
