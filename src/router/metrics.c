/* What an operator watches. Names are the field's, behind baton_. */
#include <string.h>

#include "router/request.h"

static const double seconds_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05,
                                        0.075, 0.1,    0.15,  0.2,  0.3,  0.4,  0.5,  0.75,
                                        1,     2.5,    5,     10,   20,   40,   80,   160};
#define SECONDS_BUCKETS (sizeof(seconds_bounds) / sizeof(seconds_bounds[0]))

/* Handoffs are much shorter than requests. */
static const double handoff_bounds[] = {0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005,
                                        0.001,   0.002,   0.005,   0.01,   0.02,   0.05,
                                        0.1,     0.2,     0.5,     1,      2,      5};
#define HANDOFF_BUCKETS (sizeof(handoff_bounds) / sizeof(handoff_bounds[0]))

/* Of a block, from full to acknowledged by the store: the limits of wire_heartbeat's save_lags. */
static const double lag_bounds[WIRE_LAGS - 1] = {0.001, 0.002, 0.004, 0.008, 0.016,
                                                 0.032, 0.064, 0.128, 0.256, 0.512,
                                                 1.024, 2.048, 4.096, 8.192, 16.384};

static uint32_t metrics_seconds(struct router_metrics *m, const char *name, const char *help)
{
    return prometheus_histogram(m->all, name, help, "", seconds_bounds, SECONDS_BUCKETS);
}

static void metrics_open_requests(struct router_metrics *m)
{
    struct prometheus *p = m->all;
    m->ttft = metrics_seconds(m, "baton_time_to_first_token_seconds",
                              "From a request's first byte to its first token.");
    m->itl = metrics_seconds(m, "baton_inter_token_latency_seconds",
                             "Between two tokens of a sequence.");
    m->tpot = metrics_seconds(m, "baton_request_time_per_output_token_seconds",
                              "Mean time per token after the first, per sequence.");
    m->e2e = metrics_seconds(m, "baton_e2e_request_latency_seconds",
                             "From a request's first byte to the end of its answer.");
    m->queue = metrics_seconds(m, "baton_request_queue_time_seconds",
                               "On the prefill worker, before the first step.");
    m->place = metrics_seconds(m, "baton_request_place_time_seconds",
                               "Of the queue time, waiting for room on a decode worker.");
    m->prefill = metrics_seconds(m, "baton_request_prefill_time_seconds",
                                 "From the first step to the first token.");
    m->decode = metrics_seconds(m, "baton_request_decode_time_seconds",
                                "From the first token to the last.");
    m->handoff = prometheus_histogram(p, "baton_handoff_seconds",
                                      "From the first offer to the acknowledgement.", "",
                                      handoff_bounds, HANDOFF_BUCKETS);
    m->exposed = prometheus_histogram(p, "baton_handoff_exposed_seconds",
                                      "Of a handoff, what comes after the end of the prefill.", "",
                                      handoff_bounds, HANDOFF_BUCKETS);
    m->handoffs =
        prometheus_counter(p, "baton_handoffs_total", "Handoffs that arrived.", "carrier");
    m->handoff_bytes = prometheus_counter(p, "baton_handoff_bytes_total",
                                          "Bytes of keys and values handed over.", "carrier");
    m->prompt_tokens =
        prometheus_counter(p, "baton_prompt_tokens_total", "Prompt tokens, computed or found.", "");
    m->cached_tokens = prometheus_counter(p, "baton_prompt_tokens_cached_total",
                                          "Prompt tokens found in the prefill worker's cache.", "");
    m->reused_tokens = prometheus_counter(
        p, "baton_prompt_tokens_reused_total",
        "Prompt tokens that were not computed, by where they came from.", "source");
    m->resumed_tokens = prometheus_counter(
        p, "baton_resumed_tokens_total",
        "Tokens of sequences that went on on another worker, by where their keys and values came "
        "from.",
        "source");
    m->gather = metrics_seconds(m, "baton_request_gather_time_seconds",
                                "Of the queue time, fetching blocks from other workers and the "
                                "store.");
    m->ranges =
        prometheus_counter(p, "baton_gather_ranges_total",
                           "Ranges of blocks that were to be fetched, by how it ended.", "status");
    m->directory = prometheus_gauge(p, "baton_directory_keys",
                                    "Blocks that the router knows a holder of.", "");
    m->generation_tokens =
        prometheus_counter(p, "baton_generation_tokens_total", "Tokens generated.", "");
    m->success = prometheus_counter(p, "baton_request_success_total", "Sequences that ended well.",
                                    "finished_reason");
    m->failed = prometheus_counter(p, "baton_request_failures_total",
                                   "Requests answered with an error.", "type");
    m->rejected = prometheus_counter(p, "baton_requests_rejected_total",
                                     "Requests refused because the queue was full.", "");
    m->failovers = prometheus_counter(
        p, "baton_failovers_total",
        "Times that a sequence, or a request without a token yet, went on on another worker.",
        "phase");
    m->moved = prometheus_counter(p, "baton_prompts_moved_total",
                                  "Prompts taken from a worker's queue for one that was idle.", "");
    m->running = prometheus_gauge(p, "baton_num_requests_running",
                                  "Requests that have their first token.", "");
    m->waiting = prometheus_gauge(p, "baton_num_requests_waiting",
                                  "Requests that wait for their first token.", "");
}

static void metrics_open_http(struct router_metrics *m)
{
    struct prometheus *p = m->all;
    m->http_connections =
        prometheus_gauge(p, "baton_http_connections", "Connections open now.", "");
    m->http_requests =
        prometheus_counter(p, "baton_http_requests_total", "HTTP requests read whole.", "");
    m->http_refused = prometheus_counter(p, "baton_http_refused_total",
                                         "HTTP requests refused before they were looked at.", "");
    m->http_cut = prometheus_counter(p, "baton_http_clients_cut_total",
                                     "Clients cut because they read too slowly.", "");
    m->http_gone = prometheus_counter(p, "baton_http_clients_gone_total",
                                      "Clients that left before their answer was complete.", "");
}

static void metrics_open_workers(struct router_metrics *m)
{
    struct prometheus *p = m->all;
    m->worker_up =
        prometheus_gauge(p, "baton_worker_up", "1 while a worker is connected.", "worker,role");
    m->worker_blocks =
        prometheus_gauge(p, "baton_worker_blocks", "KV blocks by state.", "worker,state");
    m->worker_pool = prometheus_gauge(
        p, "baton_worker_pool_blocks",
        "KV blocks that a worker has: those free, cached, referenced and reserved together.",
        "worker");
    m->kv_usage = prometheus_gauge(p, "baton_kv_cache_usage_perc",
                                   "Share of a worker's blocks that are in use, 0 to 1.", "worker");
    m->worker_sequences =
        prometheus_gauge(p, "baton_worker_sequences", "Sequences by state.", "worker,state");
    m->worker_tokens =
        prometheus_counter(p, "baton_worker_tokens_total", "Tokens computed.", "worker,kind");
    m->worker_operations = prometheus_counter(
        p, "baton_worker_operations_total",
        "Arithmetic operations; a multiplication and an addition are two.", "worker");
    m->worker_bytes = prometheus_counter(p, "baton_worker_bytes_total",
                                         "Bytes of weights, keys and values read.", "worker");
    m->worker_step_seconds =
        prometheus_counter(p, "baton_worker_step_seconds_total", "Time inside steps.", "worker");
    m->worker_compute_ratio = prometheus_gauge(
        p, "baton_worker_compute_ratio",
        "Operations per second inside steps over the limit measured at start.", "worker");
    m->worker_bandwidth_ratio = prometheus_gauge(
        p, "baton_worker_bandwidth_ratio",
        "Bytes read per second inside steps over the limit measured at start.", "worker");
    m->worker_preemptions = prometheus_counter(p, "baton_num_preemptions_total",
                                               "Sequences that gave up their blocks.", "worker");
    m->worker_swap_blocks =
        prometheus_counter(p, "baton_swap_blocks_total",
                           "KV blocks copied to memory of the host when a pool was full, and back.",
                           "worker,direction");
    m->worker_swap_bytes = prometheus_counter(p, "baton_swap_bytes_total", "Bytes of these blocks.",
                                              "worker,direction");
    m->worker_recomputed = prometheus_counter(
        p, "baton_recomputed_tokens_total",
        "Tokens computed again, of sequences that were preempted or came from a lost worker.",
        "worker");
    m->worker_prefix_queries = prometheus_counter(
        p, "baton_prefix_cache_queries_total", "Tokens looked up in the prefix cache.", "worker");
    m->worker_prefix_hits = prometheus_counter(p, "baton_prefix_cache_hits_total",
                                               "Tokens found in the prefix cache.", "worker");
    m->worker_checksum_failures = prometheus_counter(p, "baton_checksum_failures_total",
                                                     "Slices that arrived damaged.", "worker");
    m->worker_leases = prometheus_gauge(p, "baton_worker_leases", "Handoffs under way.", "worker");
    m->worker_lendings = prometheus_gauge(
        p, "baton_worker_lendings", "Times that blocks are lent to other workers now.", "worker");
}

static void metrics_open_saves(struct router_metrics *m)
{
    struct prometheus *p = m->all;
    m->worker_store_up = prometheus_gauge(p, "baton_worker_store_up",
                                          "1 while a worker reaches the central store.", "worker");
    m->worker_save_blocks = prometheus_counter(
        p, "baton_worker_save_blocks_total",
        "Full blocks of a worker by what became of them at the store: acknowledged, or dropped.",
        "worker,result");
    m->worker_saving =
        prometheus_gauge(p, "baton_worker_saving_blocks",
                         "Blocks that wait for the store's acknowledgement.", "worker");
    m->worker_save_bytes = prometheus_counter(p, "baton_worker_save_bytes_total",
                                              "Bytes that moved to the store.", "worker");
    m->worker_save_lag =
        prometheus_histogram(p, "baton_worker_save_lag_seconds",
                             "From the moment that a block is full to the store's acknowledgement.",
                             "worker", lag_bounds, WIRE_LAGS - 1);
}

status metrics_open(struct router *router)
{
    struct router_metrics *m = &router->metrics;
    status st = prometheus_open(96, 8192, &m->all);
    if (st != OK)
        return st;
    metrics_open_requests(m);
    metrics_open_http(m);
    metrics_open_workers(m);
    metrics_open_saves(m);
    return OK;
}

void metrics_close(struct router *router)
{
    if (router->metrics.all != NULL)
        prometheus_close(router->metrics.all);
}

void metrics_worker_gone(struct router *router, const struct worker *worker)
{
    prometheus_drop(router->metrics.all, "worker", worker->registration.name);
}

static void metrics_set(struct router_metrics *m, uint32_t family, const char *worker,
                        const char *label, uint64_t value)
{
    uint32_t series = label != NULL ? prometheus_series(m->all, family, worker, label)
                                    : prometheus_series(m->all, family, worker);
    prometheus_set(m->all, series, (double)value);
}

static void metrics_write_worker(struct router_metrics *m, const struct worker *w)
{
    const struct wire_heartbeat *b = &w->beat;
    const char *name = w->registration.name;
    uint32_t roles = w->registration.roles;
    metrics_set(m, m->worker_up, name,
                roles == WIRE_ROLE_PREFILL  ? "prefill"
                : roles == WIRE_ROLE_DECODE ? "decode"
                                            : "colocated",
                1);
    metrics_set(m, m->worker_blocks, name, "free", b->blocks_free);
    metrics_set(m, m->worker_blocks, name, "cached", b->blocks_cached);
    metrics_set(m, m->worker_blocks, name, "referenced", b->blocks_referenced);
    metrics_set(m, m->worker_blocks, name, "reserved", b->blocks_reserved);
    metrics_set(m, m->worker_blocks, name, "swapped", b->blocks_swapped);
    metrics_set(m, m->worker_pool, name, NULL, w->registration.block_count);
    metrics_set(m, m->worker_sequences, name, "running", b->sequences_running);
    metrics_set(m, m->worker_sequences, name, "waiting", b->sequences_waiting);
    metrics_set(m, m->worker_sequences, name, "preempted", b->sequences_preempted);
    metrics_set(m, m->worker_tokens, name, "prefill", b->prefill_tokens);
    metrics_set(m, m->worker_tokens, name, "decode", b->decode_tokens);
    metrics_set(m, m->worker_operations, name, NULL, b->operations);
    metrics_set(m, m->worker_bytes, name, NULL, b->bytes);
    metrics_set(m, m->worker_preemptions, name, NULL, b->preemptions);
    metrics_set(m, m->worker_swap_blocks, name, "out", b->swap_out_blocks);
    metrics_set(m, m->worker_swap_blocks, name, "in", b->swap_in_blocks);
    metrics_set(m, m->worker_swap_bytes, name, "out", b->swap_out_bytes);
    metrics_set(m, m->worker_swap_bytes, name, "in", b->swap_in_bytes);
    metrics_set(m, m->worker_recomputed, name, NULL, b->recomputed_tokens);
    metrics_set(m, m->worker_prefix_queries, name, NULL, b->prefix_queries);
    metrics_set(m, m->worker_prefix_hits, name, NULL, b->prefix_hits);
    metrics_set(m, m->worker_checksum_failures, name, NULL, b->checksum_failures);
    metrics_set(m, m->worker_leases, name, NULL, b->leases);
    metrics_set(m, m->worker_lendings, name, NULL, b->lendings);
    double step_s = (double)b->step_ns / 1e9;
    double blocks = (double)w->registration.block_count;
    prometheus_set(m->all, prometheus_series(m->all, m->worker_step_seconds, name), step_s);
    prometheus_set(m->all, prometheus_series(m->all, m->kv_usage, name),
                   blocks > 0 ? (double)(b->blocks_referenced + b->blocks_reserved) / blocks : 0);
    /* Of the time since the last look, so that the ratio follows what happens now. */
    double compute = w->recent_step_s > 0 ? w->recent_operations / w->recent_step_s : 0;
    double bandwidth = w->recent_step_s > 0 ? w->recent_bytes / w->recent_step_s : 0;
    double most_operations = w->registration.limit_operations_per_s;
    double most_bytes = w->registration.limit_bytes_per_s;
    prometheus_set(m->all, prometheus_series(m->all, m->worker_compute_ratio, name),
                   most_operations > 0 ? compute / most_operations : 0);
    prometheus_set(m->all, prometheus_series(m->all, m->worker_bandwidth_ratio, name),
                   most_bytes > 0 ? bandwidth / most_bytes : 0);
}

static void metrics_write_saves(struct router_metrics *m, const struct worker *w)
{
    const struct wire_heartbeat *b = &w->beat;
    const char *name = w->registration.name;
    if (!w->registration.has_store)
        return;
    metrics_set(m, m->worker_store_up, name, NULL, b->store_up);
    metrics_set(m, m->worker_save_blocks, name, "acknowledged", b->saved_blocks);
    metrics_set(m, m->worker_save_blocks, name, "dropped", b->unsaved_blocks);
    metrics_set(m, m->worker_saving, name, NULL, b->saving_blocks);
    metrics_set(m, m->worker_save_bytes, name, NULL, b->saved_bytes);
    prometheus_set_histogram(m->all, prometheus_series(m->all, m->worker_save_lag, name),
                             b->save_lags, (double)b->save_lag_ns / 1e9);
}

static void metrics_write_http(struct router *router)
{
    struct router_metrics *m = &router->metrics;
    struct http_server_counts counts;
    http_server_counts(router->http, &counts);
    prometheus_set(m->all, prometheus_series(m->all, m->http_connections), counts.connections);
    prometheus_set(m->all, prometheus_series(m->all, m->http_requests),
                   (double)counts.requests_total);
    prometheus_set(m->all, prometheus_series(m->all, m->http_refused),
                   (double)counts.refused_requests);
    prometheus_set(m->all, prometheus_series(m->all, m->http_cut), (double)counts.cut_slow);
    prometheus_set(m->all, prometheus_series(m->all, m->http_gone), (double)counts.gone);
}

void metrics_write(struct router *router, struct text *text)
{
    struct router_metrics *m = &router->metrics;
    uint32_t running = 0;
    for (const struct answer *a = router->answers; a != NULL; a = a->next)
        running += !a->waiting;
    prometheus_set(m->all, prometheus_series(m->all, m->running), running);
    prometheus_set(m->all, prometheus_series(m->all, m->waiting), router->waiting_count);
    struct directory_counts directory;
    directory_count(router->directory, &directory);
    prometheus_set(m->all, prometheus_series(m->all, m->directory), (double)directory.entries);
    for (const struct worker *w = router->workers; w != NULL; w = w->next) {
        if (!w->registered || w->closed)
            continue;
        metrics_write_worker(m, w);
        metrics_write_saves(m, w);
    }
    metrics_write_http(router);
    prometheus_write(m->all, text);
}
