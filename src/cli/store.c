/* baton store: the central store of KV blocks, in the foreground. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "cli/store_options.h"
#include "cli/worker_options.h"
#include "engine/memory.h"
#include "http/prometheus.h"
#include "http/server.h"
#include "store/keeper.h"

#define METRICS_BYTES_MAX (64u << 10)

#define T struct keeper_options

static const struct option_spec store_rows[] = {
    {"listen", OPTION_TEXT, "ADDR", "127.0.0.1:8002", 0, 0, offsetof(T, listen),
     "where workers and operators connect: HOST:PORT or unix:PATH"},
    {"transfer", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer),
     "Unix socket (unix:PATH) where workers of this host fetch blocks; unset: one in /tmp"},
    {"transfer-tcp", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_tcp),
     "address where workers of other hosts fetch blocks; unset: none, or any port of 127.0.0.1 "
     "with --carrier tcp"},
    {"transfer-advertise", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_advertise),
     "HOST or HOST:PORT that other hosts are told to connect to; unset: the address that is bound"},
    {"carrier", OPTION_TEXT, "NAME", "auto", 0, 0, offsetof(T, carrier),
     "how blocks move: shm, tcp, rdma (UCX; has not met real hardware), or auto (shm on one host, "
     "else tcp)"},
    TEST_RDMA_ROW(T),
    STORE_SIZE_ROWS(T),
    CLUSTER_KEY_ROW(T),
    {"silence", OPTION_SECONDS, "TIME", "1s", STORE_SILENCE_MS_MIN, 3600000,
     offsetof(T, silence_ms),
     "a worker that is silent for so long is dead: its memory is let go of"},
    {"metrics-port", OPTION_UINT, "PORT", "0", 0, 65535, offsetof(T, metrics_port),
     "port of 127.0.0.1 that serves /metrics; 0: none"},
    {"trust-network", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, trust_network),
     "let other hosts connect, although they do not authenticate"},
    {"log-level", OPTION_TEXT, "LEVEL", "info", 0, 0, offsetof(T, log_level),
     "debug, info, warn or error"},
};

struct store_command {
    struct loop *loop;
    struct keeper *keeper;
    struct http_server *http;
    struct loop_watch *term_watch, *int_watch;
};

/* ---- /metrics ---- */

struct metric {
    const char *name, *help;
    bool grows;
    size_t offset; /* in struct wire_store_stats */
};

#define S(field) offsetof(struct wire_store_stats, field)

static const struct metric metrics[] = {
    {"baton_store_memory_blocks", "Blocks that the memory tier holds at most.", false,
     S(memory_blocks)},
    {"baton_store_memory_used_blocks", "Blocks in the memory tier.", false, S(memory_used)},
    {"baton_store_memory_pinned_blocks", "Blocks that are being read or written.", false,
     S(memory_pinned)},
    {"baton_store_block_bytes", "Bytes of a block.", false, S(block_bytes)},
    {"baton_store_disk_bytes", "Bytes of the disk tier's files.", false, S(disk_bytes)},
    {"baton_store_disk_bytes_max", "Bytes that they may have.", false, S(disk_bytes_max)},
    {"baton_store_disk_blocks", "Blocks in the disk tier.", false, S(disk_blocks)},
    {"baton_store_disk_up", "1: the disk tier can be written to.", false, S(disk_up)},
    {"baton_store_keys", "Keys that can be found.", false, S(keys)},
    {"baton_store_links", "Workers and operators connected.", false, S(links)},
    {"baton_store_leases", "Gets under way, each with a lease.", false, S(leases)},
    {"baton_store_adding_blocks", "Blocks that are on their way here.", false, S(adding)},
    {"baton_store_asked_keys_total", "Keys asked for by gets.", true, S(asked_keys)},
    {"baton_store_hits_memory_total", "Of them, found in memory.", true, S(hits_memory)},
    {"baton_store_hits_disk_total", "Of them, found on disk.", true, S(hits_disk)},
    {"baton_store_misses_total", "Of them, not found.", true, S(misses)},
    {"baton_store_added_blocks_total", "Blocks added.", true, S(added_blocks)},
    {"baton_store_duplicate_blocks_total", "Blocks added that were here.", true,
     S(duplicate_blocks)},
    {"baton_store_refused_blocks_total", "Blocks that there was no room for.", true,
     S(refused_blocks)},
    {"baton_store_sent_blocks_total", "Blocks that receivers acknowledged.", true, S(sent_blocks)},
    {"baton_store_sent_bytes_total", "Bytes of them.", true, S(sent_bytes)},
    {"baton_store_received_bytes_total", "Bytes fetched from workers.", true, S(received_bytes)},
    {"baton_store_evicted_blocks_total", "Blocks that left memory for others.", true,
     S(evicted_blocks)},
    {"baton_store_expired_blocks_total", "Blocks whose time was over.", true, S(expired_blocks)},
    {"baton_store_deleted_blocks_total", "Blocks deleted by request.", true, S(deleted_blocks)},
    {"baton_store_disk_written_blocks_total", "Blocks written to disk.", true,
     S(disk_written_blocks)},
    {"baton_store_disk_dropped_blocks_total", "Blocks not written: queue full or disk off.", true,
     S(disk_dropped_blocks)},
    {"baton_store_disk_read_blocks_total", "Blocks loaded from disk.", true, S(disk_read_blocks)},
    {"baton_store_disk_evicted_blocks_total", "Blocks let go with their segment.", true,
     S(disk_evicted_blocks)},
    {"baton_store_disk_compacted_blocks_total", "Blocks carried to a newer segment.", true,
     S(disk_compacted_blocks)},
    {"baton_store_disk_corrupt_blocks_total", "Blocks damaged on disk, and not used.", true,
     S(disk_corrupt_blocks)},
    {"baton_store_disk_failures_total", "Writes and flushes that failed.", true, S(disk_failures)},
    {"baton_store_checksum_failures_total",
     "Blocks refused or forgotten because their bytes were not theirs.", true,
     S(checksum_failures)},
    {"baton_store_refused_links_total", "Connections refused: another version, model or layout.",
     true, S(refused_links)},
};

static void store_on_metrics(void *ctx, struct http_request *request)
{
    const struct store_command *command = ctx;
    const uint32_t count = sizeof(metrics) / sizeof(metrics[0]);
    struct wire_store_stats stats;
    struct prometheus *prometheus = NULL;
    struct text text = text_open(METRICS_BYTES_MAX);
    keeper_stats(command->keeper, &stats);
    if (prometheus_open(count, count, &prometheus) != OK) {
        http_reply(request, 503, NULL, NULL, 0, NULL, 0);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct metric *m = &metrics[i];
        uint32_t family = m->grows ? prometheus_counter(prometheus, m->name, m->help, "")
                                   : prometheus_gauge(prometheus, m->name, m->help, "");
        uint64_t value;
        memcpy(&value, (const char *)&stats + m->offset, sizeof(value));
        prometheus_set(prometheus, prometheus_series(prometheus, family), (double)value);
    }
    prometheus_write(prometheus, &text);
    http_reply(request, 200, PROMETHEUS_CONTENT_TYPE, NULL, 0, text.data, text.bytes);
    text_close(&text);
    prometheus_close(prometheus);
}

static const struct http_route store_routes[] = {
    {.path = "/metrics", .methods = HTTP_METHOD_GET, .on_request = store_on_metrics},
};

/* ---- running ---- */

static void store_on_signal(void *ctx, int number)
{
    struct store_command *command = ctx;
    log_info("ending", "signal=%d", number);
    loop_stop(command->loop);
}

/* It is taken as blocks come: too much would be noticed when the kernel kills somebody. */
static status store_check_memory(uint64_t bytes)
{
    uint64_t available = memory_available_bytes();
    if (bytes <= available)
        return OK;
    return error_set(ERR_NO_MEMORY,
                     "--memory-bytes does not fit in memory: %.1f MiB of %.1f MiB available; give "
                     "less, and --disk for the rest",
                     (double)bytes / 1048576.0, (double)available / 1048576.0);
}

static status store_command_open(struct store_command *command,
                                 const struct keeper_options *options)
{
    status st = store_check_memory(options->memory_bytes);
    if (st == OK)
        st = loop_open(&command->loop);
    if (st == OK)
        st = loop_signal_open(command->loop, SIGTERM, store_on_signal, command,
                              &command->term_watch);
    if (st == OK)
        st = loop_signal_open(command->loop, SIGINT, store_on_signal, command, &command->int_watch);
    if (st == OK)
        st = keeper_open(command->loop, options, &command->keeper);
    if (st == OK && options->metrics_port != 0) {
        char text[32];
        struct address address;
        const struct http_server_options defaults = {0};
        snprintf(text, sizeof(text), "127.0.0.1:%u", options->metrics_port);
        st = address_parse(text, 0, &address);
        if (st == OK)
            st = http_server_open(command->loop, &address, &defaults, store_routes, 1, command,
                                  &command->http);
    }
    return st;
}

static int store_run(const void *options_given, const char *const *operands, uint32_t operand_count)
{
    const struct keeper_options *options = options_given;
    struct store_command command = {0};
    (void)operands, (void)operand_count;
    if (!worker_words_known(options->carrier, "auto", "f16", options->log_level))
        return EXIT_USAGE;
    log_open("store", (enum log_level)log_level_parse(options->log_level));
    status st = store_command_open(&command, options);
    if (st == OK) {
        log_info("store listens", "address=\"%s\" memory_bytes=%llu disk=\"%s\"",
                 keeper_address(command.keeper)->text, (unsigned long long)options->memory_bytes,
                 options->disk != NULL ? options->disk : "");
        loop_run(command.loop);
    } else {
        log_error("store cannot start", "reason=\"%s\"", error_text());
    }
    http_server_close(command.http);
    keeper_close(command.keeper);
    loop_watch_close(command.term_watch);
    loop_watch_close(command.int_watch);
    if (command.loop != NULL)
        loop_close(command.loop);
    return st == OK ? EXIT_OK : EXIT_FAILED;
}

const struct command_spec store_command = {
    .name = "store",
    .operands = "",
    .summary = "start the central store of KV blocks",
    .details = "Keeps blocks by what they contain, in memory and, with --disk, in files that "
               "outlive it. Workers that are given its address with --store add what they compute "
               "and get what others have computed. It serves one model and block layout, those of "
               "the first worker that connects or of its folder, and refuses others by name. "
               "SIGTERM: what is being written is written, then it ends.",
    .options = store_rows,
    .option_count = sizeof(store_rows) / sizeof(store_rows[0]),
    .options_bytes = sizeof(struct keeper_options),
    .operands_min = 0,
    .operands_max = 0,
    .run = store_run,
};
