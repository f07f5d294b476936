#include "cli/bench_report.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

#define TABLE_COLUMNS 50

static void print_title(FILE *to, const char *title, char line)
{
    int left = (TABLE_COLUMNS - (int)strlen(title)) / 2;
    for (int i = 0; i < left; i++)
        fputc(line, to);
    fputs(title, to);
    for (int i = left + (int)strlen(title); i < TABLE_COLUMNS; i++)
        fputc(line, to);
    fputc('\n', to);
}

static void print_count(FILE *to, const char *name, uint64_t count)
{
    fprintf(to, "%-40s %-10llu\n", name, (unsigned long long)count);
}

static void print_number(FILE *to, const char *name, double number)
{
    fprintf(to, "%-40s %-10.2f\n", name, number);
}

static double per_second(double count, const struct load_report *report)
{
    return report->duration_s > 0 ? count / report->duration_s : 0;
}

static double total_tokens(const struct load_report *report)
{
    return (double)(report->input_tokens + report->output_tokens);
}

static void print_samples(FILE *to, const char *title, const char *name, struct samples *samples)
{
    struct samples_summary summary = samples_summarize(samples);
    char label[64];
    print_title(to, title, '-');
    snprintf(label, sizeof(label), "Mean %s (ms):", name);
    print_number(to, label, summary.mean);
    snprintf(label, sizeof(label), "Median %s (ms):", name);
    print_number(to, label, summary.median);
    snprintf(label, sizeof(label), "P99 %s (ms):", name);
    print_number(to, label, summary.p99);
}

void report_print(const struct report_subject *subject, struct load_report *report, FILE *to)
{
    print_title(to, " Serving Benchmark Result ", '=');
    print_count(to, "Successful requests:", report->completed);
    print_count(to, "Failed requests:", report->failed);
    if (subject->concurrency_max != 0)
        print_count(to, "Maximum request concurrency:", subject->concurrency_max);
    if (isfinite(subject->request_rate))
        print_number(to, "Request rate configured (RPS):", subject->request_rate);
    print_number(to, "Benchmark duration (s):", report->duration_s);
    print_count(to, "Total input tokens:", report->input_tokens);
    print_count(to, "Total generated tokens:", report->output_tokens);
    print_number(to, "Request throughput (req/s):", per_second((double)report->completed, report));
    if (subject->goals)
        print_number(to, "Request goodput (req/s):", per_second((double)report->good, report));
    print_number(
        to, "Output token throughput (tok/s):", per_second((double)report->output_tokens, report));
    print_number(to, "Peak output token throughput (tok/s):", report->output_tokens_per_s_max);
    print_count(to, "Peak concurrent requests:", report->running_max);
    print_number(to, "Total token throughput (tok/s):", per_second(total_tokens(report), report));
    print_samples(to, "Time to First Token", "TTFT", &report->ttft_ms);
    print_samples(to, "Time per Output Token (excl. 1st token)", "TPOT", &report->tpot_ms);
    print_samples(to, "Inter-token Latency", "ITL", &report->itl_ms);
    print_samples(to, "End-to-end Latency", "E2EL", &report->e2el_ms);
    print_title(to, "", '=');
    if (report->failed > 0)
        fprintf(to, "The first failure: %s\n", report->first_error);
}

void report_print_interference(const struct report_subject *subject,
                               struct interference_report *report, FILE *to)
{
    struct samples *rows[] = {&report->quiet_itl_ms, &report->before_itl_ms, &report->after_itl_ms,
                              &report->disturbed_itl_ms};
    static const char *const names[] = {"ITL quiet (ms)", "  before", "  after",
                                        "ITL disturbed (ms)"};
    (void)subject;
    fprintf(to, "%-24s %8s %10s %10s %10s\n", "", "samples", "p50", "p99", "max");
    for (int i = 0; i < 4; i++) {
        struct samples_summary summary = samples_summarize(rows[i]);
        fprintf(to, "%-24s %8zu %10.2f %10.2f %10.2f\n", names[i], rows[i]->count, summary.median,
                summary.p99, summary.max);
    }
    struct samples_summary ttft = samples_summarize(&report->long_ttft_ms);
    fprintf(to, "%-24s %8zu %10.2f %10.2f %10.2f\n", "TTFT of long prompts (ms)",
            report->long_ttft_ms.count, ttft.median, ttft.p99, ttft.max);
    double quiet_p99 = samples_percentile(&report->quiet_itl_ms, 99);
    if (quiet_p99 > 0)
        fprintf(to, "disturbed p99 ITL is %.2f times its quiet value\n",
                samples_percentile(&report->disturbed_itl_ms, 99) / quiet_p99);
}

/* {"mean_ttft_ms": ..., "median_ttft_ms": ..., "std_ttft_ms": ..., "p99_ttft_ms": ...} into object
 */
static void put_samples(json_t *object, const char *name, struct samples *samples)
{
    struct samples_summary summary = samples_summarize(samples);
    const struct {
        const char *prefix;
        double value;
    } figures[] = {{"mean", summary.mean}, {"median", summary.median}, {"std", summary.deviation},
                   {"p90", summary.p90},   {"p99", summary.p99},       {"max", summary.max}};
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        char key[64];
        snprintf(key, sizeof(key), "%s_%s_ms", figures[i].prefix, name);
        json_object_set_new(object, key, json_real(figures[i].value));
    }
}

static json_t *subject_object(const struct report_subject *subject)
{
    char date[32];
    time_t now = time(NULL);
    struct tm local;
    strftime(date, sizeof(date), "%Y%m%d-%H%M%S", localtime_r(&now, &local));
    const char *backend = strcmp(subject->endpoint, "chat") == 0 ? "openai-chat" : "openai";
    json_t *object = json_object();
    json_object_set_new(object, "date", json_string(date));
    json_object_set_new(object, "endpoint_type", json_string(backend)); /* its older name */
    json_object_set_new(object, "backend", json_string(backend));
    json_object_set_new(object, "label", json_null());
    json_object_set_new(object, "model_id", json_string(subject->model));
    /* Tokens are counted by the server's usage, so by the model's own tokenizer. */
    json_object_set_new(object, "tokenizer_id", json_string(subject->model));
    return object;
}

/* Takes object. */
static status write_object(json_t *object, const char *path)
{
    if (object == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the report");
    int rc;
    if (strcmp(path, "-") == 0) {
        rc = json_dumpf(object, stdout, JSON_INDENT(2));
        rc = rc == 0 && puts("") >= 0 && fflush(stdout) == 0 ? 0 : -1;
    } else {
        rc = json_dump_file(object, path, JSON_INDENT(2));
    }
    int cause = errno;
    json_decref(object);
    return rc == 0 ? OK : error_set(ERR_IO, "cannot write %s: %s", path, strerror(cause));
}

status report_write(const struct report_subject *subject, struct load_report *report,
                    const char *path)
{
    json_t *object = subject_object(subject);
    json_object_set_new(object, "num_prompts", json_integer((json_int_t)subject->request_count));
    json_object_set_new(object, "request_rate",
                        isfinite(subject->request_rate) ? json_real(subject->request_rate)
                                                        : json_string("inf"));
    json_object_set_new(object, "burstiness", json_real(1));
    json_object_set_new(object, "max_concurrency",
                        subject->concurrency_max != 0 ? json_integer(subject->concurrency_max)
                                                      : json_null());
    json_object_set_new(object, "duration", json_real(report->duration_s));
    json_object_set_new(object, "completed", json_integer((json_int_t)report->completed));
    json_object_set_new(object, "failed", json_integer((json_int_t)report->failed));
    json_object_set_new(object, "total_input_tokens",
                        json_integer((json_int_t)report->input_tokens));
    json_object_set_new(object, "total_output_tokens",
                        json_integer((json_int_t)report->output_tokens));
    json_object_set_new(object, "request_throughput",
                        json_real(per_second((double)report->completed, report)));
    json_object_set_new(object, "request_goodput",
                        subject->goals ? json_real(per_second((double)report->good, report))
                                       : json_null());
    json_object_set_new(object, "output_throughput",
                        json_real(per_second((double)report->output_tokens, report)));
    json_object_set_new(object, "total_token_throughput",
                        json_real(per_second(total_tokens(report), report)));
    json_object_set_new(object, "max_output_tokens_per_s",
                        json_real(report->output_tokens_per_s_max));
    json_object_set_new(object, "max_concurrent_requests", json_integer(report->running_max));
    put_samples(object, "ttft", &report->ttft_ms);
    put_samples(object, "tpot", &report->tpot_ms);
    put_samples(object, "itl", &report->itl_ms);
    put_samples(object, "e2el", &report->e2el_ms);
    return write_object(object, path);
}

status report_write_interference(const struct report_subject *subject,
                                 struct interference_report *report, const char *path)
{
    json_t *object = subject_object(subject);
    json_t *ttfts = json_array();
    for (size_t i = 0; i < report->long_ttft_ms.count; i++)
        json_array_append_new(ttfts, json_real(report->long_ttft_ms.values[i]));
    json_object_set_new(object, "long_ttfts_ms", ttfts);
    json_object_set_new(object, "long_input_tokens",
                        json_integer((json_int_t)report->long_input_tokens));
    json_object_set_new(object, "quiet_duration", json_real(report->before_s + report->after_s));
    json_object_set_new(object, "disturbed_duration", json_real(report->disturbed_s));
    put_samples(object, "quiet_itl", &report->quiet_itl_ms);
    put_samples(object, "before_itl", &report->before_itl_ms);
    put_samples(object, "after_itl", &report->after_itl_ms);
    put_samples(object, "disturbed_itl", &report->disturbed_itl_ms);
    put_samples(object, "long_ttft", &report->long_ttft_ms);
    return write_object(object, path);
}
