/* baton bench: options to a plan, the plan to a report. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/bench_interference.h"
#include "cli/bench_load.h"
#include "cli/bench_report.h"
#include "cli/bench_server.h"
#include "cli/bench_trace.h"
#include "cli/commands.h"

enum { ENDPOINT_COMPLETIONS, ENDPOINT_CHAT };
enum { PROMPT_AUTO, PROMPT_TOKENS, PROMPT_TEXT };

struct bench_options {
    const char *base_url, *api_key, *model;
    uint32_t endpoint, prompt;
    bool ignore_eos;
    double temperature;
    uint32_t num_prompts, max_concurrency, input_len, output_len, prefix_len, vocabulary, seed;
    double request_rate, range_ratio;
    const char *trace;
    double speed, length_scale;
    uint32_t limit;
    struct option_texts goodput;
    bool interference;
    uint32_t streams, long_prompts, long_len;
    uint64_t quiet_ms, long_every_ms;
    const char *json;
};

#define FIELD(name) offsetof(struct bench_options, name)

static const struct option_spec specs[] = {
    {"base-url", OPTION_TEXT, "URL", "http://127.0.0.1:8000", 0, 0, FIELD(base_url),
     "the server; /v1 is added"},
    {"api-key", OPTION_TEXT, "KEY", NULL, 0, 0, FIELD(api_key), "sent as a bearer token"},
    {"model", OPTION_TEXT, "NAME", NULL, 0, 0, FIELD(model),
     "the model to ask for; the first of /v1/models when not given"},
    {"endpoint", OPTION_CHOICE, "completions|chat", "completions", 0, 0, FIELD(endpoint),
     "where requests go"},
    {"prompt", OPTION_CHOICE, "auto|tokens|text", "auto", 0, 0, FIELD(prompt),
     "random token ids, or text of as many words; auto is token ids for completions"},
    {"num-prompts", OPTION_UINT, "N", "100", 1, 10000000, FIELD(num_prompts), "requests to send"},
    {"max-concurrency", OPTION_UINT, "N", "0", 0, 65536, FIELD(max_concurrency),
     "most requests at once; 0 is no limit"},
    {"request-rate", OPTION_REAL, "PER-SECOND", "inf", 1e-6, INFINITY, FIELD(request_rate),
     "arrivals as a Poisson process; inf sends all at once"},
    {"input-len", OPTION_UINT, "TOKENS", "1024", 1, TRACE_TOKENS_MAX, FIELD(input_len),
     "length of a prompt, the shared prefix aside"},
    {"output-len", OPTION_UINT, "TOKENS", "128", 1, TRACE_TOKENS_MAX, FIELD(output_len),
     "length of an answer"},
    {"prefix-len", OPTION_UINT, "TOKENS", "0", 0, TRACE_TOKENS_MAX, FIELD(prefix_len),
     "beginning that all prompts share"},
    {"range-ratio", OPTION_REAL, "SHARE", "0", 0, 0.99, FIELD(range_ratio),
     "lengths vary evenly by this share up and down"},
    {"trace", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(trace),
     "replay the requests of a trace (Mooncake JSONL or Azure CSV) at their times"},
    {"speed", OPTION_REAL, "FACTOR", "1", 1e-6, INFINITY, FIELD(speed),
     "how many times faster than it was; inf sends all at once"},
    {"limit", OPTION_UINT, "N", "0", 0, 100000000, FIELD(limit),
     "only the first N requests of the trace; 0 is all"},
    {"length-scale", OPTION_REAL, "FACTOR", "1", 1e-6, 1000, FIELD(length_scale),
     "multiply the lengths in the trace, for a model of a smaller context"},
    {"goodput", OPTION_TEXTS, "NAME:MS", NULL, 0, 0, FIELD(goodput),
     "count as good what keeps to it: ttft:500, tpot:30, e2el:5000"},
    {"ignore-eos", OPTION_FLAG, NULL, "yes", 0, 0, FIELD(ignore_eos),
     "ask for answers of full length; --no-ignore-eos for servers that refuse the parameter"},
    {"temperature", OPTION_REAL, "T", "0", 0, 2, FIELD(temperature), "temperature of the sampling"},
    {"seed", OPTION_UINT, "N", "0", 0, 0, FIELD(seed), "seed of prompts, lengths and arrivals"},
    {"vocabulary", OPTION_UINT, "N", "29000", 2, 10000000, FIELD(vocabulary),
     "random token ids are below this"},
    {"interference", OPTION_FLAG, NULL, NULL, 0, 0, FIELD(interference),
     "measure the ITL of running streams, quiet and while long prompts arrive one after another"},
    {"streams", OPTION_UINT, "N", "4", 1, INTERFERENCE_STREAMS_MAX, FIELD(streams),
     "running streams of --interference"},
    {"quiet", OPTION_SECONDS, "TIME", "10s", 100, 3600000, FIELD(quiet_ms),
     "how long they are measured alone, before the long prompts and again after them"},
    {"long-prompts", OPTION_UINT, "N", "3", 1, 100000, FIELD(long_prompts),
     "how many long prompts arrive"},
    {"long-len", OPTION_UINT, "TOKENS", "2000", 1, TRACE_TOKENS_MAX, FIELD(long_len),
     "length of each"},
    {"long-every", OPTION_SECONDS, "TIME", "0", 0, 3600000, FIELD(long_every_ms),
     "from the start of one to that of the next; 0: when it is done"},
    {"json", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(json),
     "also write the result as JSON; - writes it to standard output instead of the table"},
};

/* The streams of --interference: short prompts, and answers that outlast the measure mostly. */
#define STREAM_INPUT_TOKENS 32
#define STREAM_OUTPUT_TOKENS 1000
#define LONG_OUTPUT_TOKENS 16

/* Ids of pieces: the shared prefix, and apart from it each prompt's own part. */
#define PREFIX_ID UINT64_MAX
#define OWN_ID (1ull << 63)

struct bench_plan {
    struct load_request *requests;
    struct prompt_piece *pieces;
    size_t request_count, piece_count;
};

static status plan_allocate(struct bench_plan *plan, size_t requests, size_t pieces)
{
    plan->requests = calloc(requests, sizeof(*plan->requests));
    plan->pieces = calloc(pieces, sizeof(*plan->pieces));
    if (plan->requests == NULL || plan->pieces == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu requests", requests);
    return OK;
}

static uint32_t vary(struct bench_random *random, uint32_t tokens, double ratio)
{
    double varied = tokens * (1 - ratio + 2 * ratio * bench_random_unit(random));
    return varied < 1 ? 1 : (uint32_t)lround(varied);
}

static status plan_random(const struct bench_options *options, struct bench_plan *plan)
{
    struct bench_random random = {.state = options->seed};
    double at_ms = 0;
    status st = plan_allocate(plan, options->num_prompts, 2 * (size_t)options->num_prompts);
    if (st != OK)
        return st;
    for (uint32_t i = 0; i < options->num_prompts; i++) {
        struct load_request *request = &plan->requests[i];
        request->at_ms = at_ms;
        request->piece_first = plan->piece_count;
        request->output_tokens = vary(&random, options->output_len, options->range_ratio);
        if (options->prefix_len > 0)
            plan->pieces[plan->piece_count++] =
                (struct prompt_piece){PREFIX_ID, options->prefix_len};
        plan->pieces[plan->piece_count++] = (struct prompt_piece){
            OWN_ID + i, vary(&random, options->input_len, options->range_ratio)};
        request->piece_count = plan->piece_count - request->piece_first;
        /* Gaps of a Poisson process are exponential. */
        if (isfinite(options->request_rate))
            at_ms += -log(bench_random_unit(&random)) / options->request_rate * 1000;
    }
    plan->request_count = options->num_prompts;
    return OK;
}

static uint32_t scale_tokens(uint32_t tokens, double scale)
{
    double scaled = round(tokens * scale);
    if (scaled < 1)
        return 1;
    return scaled < TRACE_TOKENS_MAX ? (uint32_t)scaled : TRACE_TOKENS_MAX;
}

/* Blocks by the trace's ids, and what the ids don't reach as the request's own. */
static void plan_trace_request(const struct bench_options *options, const struct trace *trace,
                               size_t index, struct bench_plan *plan)
{
    const struct trace_request *from = &trace->requests[index];
    struct load_request *request = &plan->requests[index];
    uint32_t block_tokens = scale_tokens(TRACE_BLOCK_TOKENS, options->length_scale);
    uint32_t left = scale_tokens(from->input_tokens, options->length_scale);
    request->at_ms = from->at_ms / options->speed;
    request->output_tokens =
        scale_tokens(from->output_tokens > 0 ? from->output_tokens : 1, options->length_scale);
    request->piece_first = plan->piece_count;
    for (uint32_t i = 0; i < from->id_count && left > 0; i++) {
        uint32_t tokens = left < block_tokens ? left : block_tokens;
        plan->pieces[plan->piece_count++] =
            (struct prompt_piece){trace->ids[from->id_first + i], tokens};
        left -= tokens;
    }
    if (left > 0)
        plan->pieces[plan->piece_count++] = (struct prompt_piece){OWN_ID + index, left};
    request->piece_count = plan->piece_count - request->piece_first;
}

static status plan_trace(const struct bench_options *options, struct bench_plan *plan)
{
    struct trace trace;
    status st = trace_open(options->trace, options->limit, &trace);
    if (st != OK)
        return st;
    st = plan_allocate(plan, trace.request_count, trace.id_count + trace.request_count);
    if (st == OK) {
        plan->request_count = trace.request_count;
        for (size_t i = 0; i < trace.request_count; i++)
            plan_trace_request(options, &trace, i, plan);
    }
    trace_close(&trace);
    return st;
}

/* "ttft:500" */
static status parse_goal(const char *text, struct load_goal *goal)
{
    static const char *const names[] = {"ttft:", "tpot:", "e2el:"};
    double *const fields[] = {&goal->ttft_ms, &goal->tpot_ms, &goal->e2el_ms};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strncmp(text, names[i], strlen(names[i])) != 0)
            continue;
        char *end;
        const char *number = text + strlen(names[i]);
        double value = strtod(number, &end);
        if (end == number || *end != '\0' || !isfinite(value) || value <= 0)
            break;
        *fields[i] = value;
        return OK;
    }
    return error_set(ERR_BAD_INPUT, "--goodput: expected ttft:MS, tpot:MS or e2el:MS, found \"%s\"",
                     text);
}

static struct prompt_kind prompt_kind_of(const struct bench_options *options)
{
    return (struct prompt_kind){
        .as_text = options->prompt == PROMPT_TEXT ||
                   (options->prompt == PROMPT_AUTO && options->endpoint == ENDPOINT_CHAT),
        .vocabulary = options->vocabulary,
        .seed = options->seed,
    };
}

static status bench_load(const struct bench_options *options, struct loop *loop,
                         struct bench_server *server, struct report_subject *subject)
{
    struct bench_plan plan = {0};
    struct load_report report;
    struct load_plan load = {
        .prompt = prompt_kind_of(options),
        .concurrency_max = options->max_concurrency,
        .progress = isatty(STDERR_FILENO),
    };
    status st = OK;
    for (uint32_t i = 0; st == OK && i < options->goodput.count; i++)
        st = parse_goal(options->goodput.items[i], &load.goal);
    if (st == OK)
        st = options->trace != NULL ? plan_trace(options, &plan) : plan_random(options, &plan);
    if (st != OK)
        goto out;
    load.requests = plan.requests;
    load.request_count = plan.request_count;
    load.pieces = plan.pieces;
    st = load_run(loop, server, &load, &report);
    if (st != OK)
        goto out;
    subject->request_count = plan.request_count;
    if (options->json == NULL || strcmp(options->json, "-") != 0)
        report_print(subject, &report, stdout);
    if (options->json != NULL)
        st = report_write(subject, &report, options->json);
    if (st == OK && report.completed == 0)
        st = error_set(ERR_REFUSED, "no request was completed; the first failure: %s",
                       report.first_error);
    load_report_close(&report);
out:
    free(plan.requests);
    free(plan.pieces);
    return st;
}

static status bench_interference(const struct bench_options *options, struct loop *loop,
                                 struct bench_server *server, struct report_subject *subject)
{
    struct interference_report report;
    struct interference_plan plan = {
        .streams = options->streams,
        .stream_input_tokens = STREAM_INPUT_TOKENS,
        .stream_output_tokens = STREAM_OUTPUT_TOKENS,
        .quiet_ms = options->quiet_ms,
        .long_prompts = options->long_prompts,
        .long_every_ms = options->long_every_ms,
        .long_input_tokens = options->long_len,
        .long_output_tokens = LONG_OUTPUT_TOKENS,
        .prompt = prompt_kind_of(options),
        .progress = isatty(STDERR_FILENO),
    };
    status st = interference_run(loop, server, &plan, &report);
    if (st != OK)
        return st;
    if (options->json == NULL || strcmp(options->json, "-") != 0)
        report_print_interference(subject, &report, stdout);
    if (options->json != NULL)
        st = report_write_interference(subject, &report, options->json);
    interference_report_close(&report);
    return st;
}

static status bench_all(const struct bench_options *options)
{
    struct loop *loop = NULL;
    struct bench_server *server = NULL;
    struct bench_server_options access = {
        .base_url = options->base_url,
        .api_key = options->api_key,
        .model = options->model,
        .chat = options->endpoint == ENDPOINT_CHAT,
        .ignore_eos = options->ignore_eos,
        .temperature = options->temperature,
    };
    if (options->endpoint == ENDPOINT_CHAT && options->prompt == PROMPT_TOKENS)
        return error_set(ERR_BAD_INPUT, "--endpoint chat takes no token ids; use --prompt text");
    status st = loop_open(&loop);
    if (st == OK)
        st = bench_server_open(loop, &access, &server);
    if (st == OK)
        st = bench_server_find_model(server);
    if (st == OK) {
        struct report_subject subject = {
            .model = bench_server_model(server),
            .endpoint = access.chat ? "chat" : "completions",
            .request_rate = options->trace != NULL ? INFINITY : options->request_rate,
            .concurrency_max = options->max_concurrency,
            .goals = options->goodput.count > 0,
        };
        st = options->interference ? bench_interference(options, loop, server, &subject)
                                   : bench_load(options, loop, server, &subject);
    }
    bench_server_close(server);
    loop_close(loop);
    return st;
}

static int bench_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    (void)operands;
    (void)operand_count;
    status st = bench_all(options);
    if (st == OK)
        return EXIT_OK;
    fprintf(stderr, "baton bench: %s\n", error_text());
    return EXIT_FAILED;
}

const struct command_spec bench_command = {
    .name = "bench",
    .operands = "",
    .summary = "measure any server that speaks the OpenAI API",
    .details =
        "Sends streamed requests and prints what was measured: throughput, time to first token "
        "(TTFT), time per output token (TPOT), inter-token latency (ITL) and end-to-end latency "
        "(E2EL), in the table and with the JSON keys that vllm bench serve has.\n\n"
        "Without --trace the prompts are random: --num-prompts of --input-len tokens, arriving at "
        "--request-rate or all at once, with at most --max-concurrency running. The same --seed "
        "gives the same prompts, lengths and arrivals.\n\n"
        "With --interference it measures what long prompts do to running streams.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct bench_options),
    .run = bench_run,
};
