/* baton serve: all roles on this machine, each a process of its own, supervised. It does nothing
 * that `baton router`, `baton prefill` and `baton decode` could not do when started by hand. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/device.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/options_value.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/router_options.h"
#include "cli/serve_folder.h"
#include "cli/serve_nodes.h"
#include "cli/store_options.h"
#include "cli/supervisor.h"
#include "cli/worker_options.h"
#include "engine/engine.h"
#include "model/weights.h"
#include "router/router.h"
#include "worker/worker.h"

#define SERVE_ARGS_MAX 96
#define SERVE_ARG_BYTES 512

struct serve_options {
    uint32_t prefill_workers, decode_workers, colocated;
    const char *cpus;
    const char *cluster_key, *dummy_weights; /* handed on to all */
    const char *store;                       /* size of a store of ours, or address of another's */
    const char *store_password_file;
    const char *disk;
    uint64_t disk_bytes, memory_bytes; /* of a store of ours */
    /* Handed on to the router. */
    const char *host, *model_name, *api_key, *api_key_file, *handoff;
    uint32_t port, queue, local_tokens, place, crashes;
    uint64_t body_bytes, stream_bytes, request_timeout_ms, silence_ms, stuck_ms, drain_ms;
    /* Handed on to the workers. */
    const char *kernels, *kv_dtype, *packed_weights, *carrier, *rdma_transports, *offer, *log_level;
    const char *device, *cuda_plugin;
    bool deterministic;
    uint32_t numa, ctx, block_tokens, threads, prefill_batch_tokens, prefill_chunk, decode_batch;
    uint64_t kv_bytes, swap_bytes, prefix_cache_bytes, step_delay_ms;
};

#define T struct serve_options

static const struct option_spec serve_rows[] = {
    MODEL_ROWS(T),
    ROUTER_ROWS(T),
    {"prefill-workers", OPTION_UINT, "N", "1", 0, 64, offsetof(T, prefill_workers),
     "workers that compute prompts"},
    {"decode-workers", OPTION_UINT, "N", "1", 0, 64, offsetof(T, decode_workers),
     "workers that generate answers"},
    {"colocated", OPTION_UINT, "N", "0", 0, 64, offsetof(T, colocated),
     "workers that do both; with it, the other two are 0 unless they are given"},
    {"store", OPTION_TEXT, "SIZE|ADDR", NULL, 0, 0, offsetof(T, store),
     "central store of KV blocks: a size (such as 2G) starts one with so much memory, an address "
     "uses one that runs; unset: none"},
    {"store-disk", OPTION_TEXT, "FOLDER", NULL, 0, 0, offsetof(T, disk),
     "folder for blocks of the store that --store SIZE starts; unset: memory only"},
    {"store-disk-bytes", OPTION_BYTES, "BYTES", "8G", 4096, 1e15, offsetof(T, disk_bytes),
     "most bytes of that folder's files"},
    STORE_PASSWORD_ROW(T),
    {"cpus", OPTION_TEXT, "LIST", NULL, 0, 0, offsetof(T, cpus),
     "cores to share out among the workers; unset: all that the process may use"},
    WORKER_SIZE_ROWS(T),
    CLUSTER_KEY_ROW(T),
};

struct serve {
    const struct serve_options *options;
    const char *model_path;
    struct loop *loop;
    struct supervisor *supervisor;
    struct loop_watch *term_watch, *int_watch, *ready_watch;
    int ready_fd; /* the router says that everything is there */
    struct serve_folder folder;
    struct serve_nodes nodes;
    uint32_t worker_count;
    bool failed;
};

/* ---- arguments of the children ---- */

struct serve_args {
    char *argv[SERVE_ARGS_MAX + 1];
    char text[SERVE_ARGS_MAX][SERVE_ARG_BYTES];
    uint32_t count;
    bool too_long;
};

static void args_add(struct serve_args *args, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void args_add(struct serve_args *args, const char *format, ...)
{
    va_list values;
    if (args->count == SERVE_ARGS_MAX) {
        args->too_long = true;
        return;
    }
    char *to = args->text[args->count];
    va_start(values, format);
    int length = vsnprintf(to, SERVE_ARG_BYTES, format, values);
    va_end(values);
    args->too_long = args->too_long || length >= SERVE_ARG_BYTES;
    args->argv[args->count++] = to;
    args->argv[args->count] = NULL;
}

/* One option of the child as it was given to us: whatever its type, by its text form. */
static void args_hand_on(struct serve_args *args, const struct serve_options *options,
                         const struct option_spec *row)
{
    const char *field = (const char *)options + row->offset;
    uint64_t number;
    uint32_t count;
    int bytes;
    bool flag;
    const char *text;
    switch (row->type) {
    case OPTION_FLAG:
        memcpy(&flag, field, sizeof(flag));
        args_add(args, flag ? "--%s" : "--no-%s", row->name);
        break;
    case OPTION_UINT:
        memcpy(&count, field, sizeof(count));
        args_add(args, "--%s=%u", row->name, count);
        break;
    case OPTION_BYTES:
        memcpy(&number, field, sizeof(number));
        args_add(args, "--%s=%llu", row->name, (unsigned long long)number);
        break;
    case OPTION_SECONDS:
        memcpy(&number, field, sizeof(number));
        args_add(args, "--%s=%llums", row->name, (unsigned long long)number);
        break;
    case OPTION_TEXT:
        memcpy(&text, field, sizeof(text));
        if (text != NULL)
            args_add(args, "--%s=%s", row->name, text);
        break;
    case OPTION_CHOICE:
        memcpy(&count, field, sizeof(count));
        text = option_word(row->unit, count, &bytes);
        args_add(args, "--%s=%.*s", row->name, bytes, text);
        break;
    default:
        assert(false && "an option of a type that is not handed on");
    }
}

static void args_hand_on_all(struct serve_args *args, const struct serve_options *options,
                             const struct option_spec *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        args_hand_on(args, options, &rows[i]);
}

static const struct option_spec router_rows[] = {ROUTER_ROWS(T)};
static const struct option_spec worker_rows[] = {WORKER_SIZE_ROWS(T), CLUSTER_KEY_ROW(T),
                                                 STORE_PASSWORD_ROW(T)};
static const struct option_spec cluster_key_row = CLUSTER_KEY_ROW(T);
static const struct option_spec test_rdma_row = TEST_RDMA_ROW(T);
static const struct option_spec model_rows[] = {MODEL_ROWS(T)};

/* The model, last. */
static void args_add_model(struct serve_args *args, const struct serve *serve)
{
    args_hand_on_all(args, serve->options, model_rows, 1);
    if (serve->model_path != NULL)
        args_add(args, "%s", serve->model_path);
}

static status serve_add(struct serve *serve, const char *name, uint32_t stage,
                        const struct serve_args *args, int keep_fd)
{
    if (args->too_long)
        return error_set(ERR_BAD_INPUT, "an argument for %s is longer than %u bytes", name,
                         SERVE_ARG_BYTES - 1);
    return supervisor_add(serve->supervisor, name, stage, args->argv, keep_fd);
}

static status serve_add_router(struct serve *serve, int keep_fd)
{
    struct serve_args *args = calloc(1, sizeof(*args));
    if (args == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the router's arguments");
    args_add(args, "baton");
    args_add(args, "router");
    args_hand_on_all(args, serve->options, router_rows,
                     sizeof(router_rows) / sizeof(router_rows[0]));
    args_hand_on(args, serve->options, &cluster_key_row);
    args_add(args, "--workers=unix:%s/router.sock", serve->folder.path);
    args_add(args, "--expect-workers=%u", serve->worker_count);
    args_add(args, "--ready-fd=%d", keep_fd);
    args_add(args, "--log-level=%s", serve->options->log_level);
    args_add_model(args, serve);
    status st = serve_add(serve, "router", 0, args, keep_fd);
    free(args);
    return st;
}

/* The store ends last: workers still give it blocks while they drain. */
static status serve_add_store(struct serve *serve)
{
    const struct serve_options *options = serve->options;
    struct serve_args *args = calloc(1, sizeof(*args));
    if (args == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the store's arguments");
    args_add(args, "baton");
    args_add(args, "store");
    args_add(args, "--listen=unix:%s/store.sock", serve->folder.path);
    args_add(args, "--transfer=unix:%s/store-transfer.sock", serve->folder.path);
    args_add(args, "--carrier=%s",
             strcmp(options->carrier, "cuda-ipc") == 0 ? "auto" : options->carrier);
    args_hand_on(args, options, &test_rdma_row);
    args_add(args, "--memory-bytes=%llu", (unsigned long long)options->memory_bytes);
    if (options->disk != NULL) {
        args_add(args, "--disk=%s", options->disk);
        args_add(args, "--disk-bytes=%llu", (unsigned long long)options->disk_bytes);
    }
    args_hand_on(args, options, &cluster_key_row);
    uint64_t silence_ms = options->silence_ms;
    if (silence_ms < STORE_SILENCE_MS_MIN)
        silence_ms = STORE_SILENCE_MS_MIN;
    args_add(args, "--silence=%llums", (unsigned long long)silence_ms);
    args_add(args, "--log-level=%s", options->log_level);
    status st = serve_add(serve, "store", 2, args, -1);
    free(args);
    return st;
}

/* Word number of a list with commas; false when there are fewer. */
static bool device_word(const char *list, uint32_t number, char *word, size_t word_bytes)
{
    for (; number > 0 && list != NULL; number--) {
        list = strchr(list, ',');
        list = list != NULL ? list + 1 : NULL;
    }
    if (list == NULL)
        return false;
    snprintf(word, word_bytes, "%.*s", (int)strcspn(list, ","), list);
    return true;
}

static uint32_t device_word_count(const char *list)
{
    uint32_t count = 1;
    for (; *list != '\0'; list++)
        count += *list == ',';
    return count;
}

static status serve_add_worker(struct serve *serve, const char *command, const char *role,
                               uint32_t number, uint32_t part)
{
    char name[64];
    char cpus_text[SERVE_ARG_BYTES - 8];
    struct cpus share;
    struct serve_args *args = calloc(1, sizeof(*args));
    if (args == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a worker's arguments");
    snprintf(name, sizeof(name), "%s-%u", role, number);
    serve_nodes_share(&serve->nodes, serve->options->numa, part, &share);
    cpus_format(&share, cpus_text, sizeof(cpus_text));
    args_add(args, "baton");
    args_add(args, "%s", command);
    args_add(args, "--router=unix:%s/router.sock", serve->folder.path);
    args_add(args, "--name=%s", name);
    args_add(args, "--cpus=%s", cpus_text);
    args_add(args, "--transfer=unix:%s/%s.sock", serve->folder.path, name);
    if (serve->options->memory_bytes > 0)
        args_add(args, "--store=unix:%s/store.sock", serve->folder.path);
    else if (serve->options->store != NULL)
        args_add(args, "--store=%s", serve->options->store);
    if (strcmp(role, "colocated") == 0)
        args_add(args, "--colocated");
    struct serve_options own = *serve->options;
    char device[64];
    device_word(own.device, part % device_word_count(own.device), device, sizeof(device));
    own.device = device;
    args_hand_on_all(args, &own, worker_rows, sizeof(worker_rows) / sizeof(worker_rows[0]));
    args_add_model(args, serve);
    status st = serve_add(serve, name, 1, args, -1);
    free(args);
    return st;
}

static status serve_add_all(struct serve *serve, int keep_fd)
{
    const struct serve_options *options = serve->options;
    uint32_t part = 0;
    status st = serve_add_router(serve, keep_fd);
    if (st == OK && options->memory_bytes > 0)
        st = serve_add_store(serve);
    for (uint32_t i = 0; st == OK && i < options->prefill_workers; i++)
        st = serve_add_worker(serve, "prefill", "prefill", i, part++);
    for (uint32_t i = 0; st == OK && i < options->decode_workers; i++)
        st = serve_add_worker(serve, "decode", "decode", i, part++);
    for (uint32_t i = 0; st == OK && i < options->colocated; i++)
        st = serve_add_worker(serve, "decode", "colocated", i, part++);
    return st;
}

/* ---- running ---- */

static void serve_on_over(void *ctx, bool failed)
{
    struct serve *serve = ctx;
    serve->failed = failed;
    loop_stop(serve->loop);
}

static void serve_on_signal(void *ctx, int number)
{
    struct serve *serve = ctx;
    log_info("ending", "signal=%d", number);
    supervisor_end(serve->supervisor);
}

/* The router's descriptor: a line when everything is there, the end of file when it has died. */
static void serve_on_ready(void *ctx, int events)
{
    struct serve *serve = ctx;
    char line[16];
    (void)events;
    ssize_t got = read(serve->ready_fd, line, sizeof(line));
    if (got > 0) {
        const struct serve_options *options = serve->options;
        const char *auth = options->api_key != NULL || options->api_key_file != NULL
                               ? " -H \"Authorization: Bearer $KEY\""
                               : "";
        supervisor_useful(serve->supervisor);
        printf("ready: http://%s:%u\n"
               "try:   curl -s http://%s:%u/v1/chat/completions%s -H 'Content-Type: "
               "application/json' -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Name the "
               "capital of France.\"}], \"temperature\": 0}'\n",
               options->host, options->port, options->host, options->port, auth);
        fflush(stdout);
    }
    loop_watch_close(serve->ready_watch);
    serve->ready_watch = NULL;
}

static status serve_open(struct serve *serve)
{
    int ready[2];
    status st = serve_folder_open(&serve->folder);
    if (st != OK)
        return st;
    if (pipe2(ready, O_CLOEXEC | O_NONBLOCK) != 0)
        return error_set(ERR_IO, "cannot make a pipe: %s", strerror(errno));
    serve->ready_fd = ready[0];
    st = loop_open(&serve->loop);
    if (st == OK)
        st = supervisor_open(serve->loop, serve_on_over, serve, &serve->supervisor);
    if (st == OK)
        st = loop_signal_open(serve->loop, SIGTERM, serve_on_signal, serve, &serve->term_watch);
    if (st == OK)
        st = loop_signal_open(serve->loop, SIGINT, serve_on_signal, serve, &serve->int_watch);
    if (st == OK)
        st = loop_watch_open(serve->loop, serve->ready_fd, LOOP_READ, serve_on_ready, serve,
                             &serve->ready_watch);
    if (st == OK)
        st = serve_add_all(serve, ready[1]);
    if (st == OK)
        st = supervisor_start(serve->supervisor);
    return st;
}

static void serve_close(struct serve *serve)
{
    supervisor_close(serve->supervisor);
    loop_watch_close(serve->ready_watch);
    loop_watch_close(serve->term_watch);
    loop_watch_close(serve->int_watch);
    loop_close(serve->loop);
    if (serve->ready_fd >= 0)
        close(serve->ready_fd);
    serve_folder_close(&serve->folder);
}

/* ---- before anything starts ---- */

#define MIB (1024.0 * 1024.0)

struct serve_sizes { /* of each worker; kv_bytes 0: what an engine takes by itself */
    uint64_t kv_bytes, swap_bytes;
};

/* What the workers of a device take together. */
static const char *serve_sum_text(const struct engine_plan *plan, uint32_t workers,
                                  uint64_t store_bytes, double sum, char *text_out,
                                  size_t text_bytes)
{
    snprintf(text_out, text_bytes,
             "weights %.1f MiB + %u x (KV pool %.1f MiB + activations %.1f MiB) + store %.1f MiB = "
             "%.1f MiB of %.1f MiB available",
             (double)plan->weight_bytes / MIB, workers, (double)plan->pool_bytes / MIB,
             (double)plan->activation_bytes / MIB, (double)store_bytes / MIB, sum / MIB,
             (double)plan->available_bytes / MIB);
    return text_out;
}

/* Each worker checks what it takes against what is there, but not what the others on its device
 * will take. The weights are mapped once for all on the CPU. Pools of a size that nobody chose
 * shrink to half of what is left. */
static status serve_check_device(struct serve_options *options, const struct serve_nodes *nodes,
                                 const char *word, uint32_t workers, const struct model *model,
                                 struct serve_sizes *least)
{
    struct worker_options sizes = {.ctx = options->ctx,
                                   .block_tokens = options->block_tokens,
                                   .kv_bytes = options->kv_bytes,
                                   .swap_bytes = options->swap_bytes,
                                   .kernels = options->kernels,
                                   .kv_dtype = options->kv_dtype,
                                   .prefill_chunk = options->prefill_chunk,
                                   .decode_batch = options->decode_batch};
    struct engine_config config;
    struct engine_plan plan;
    struct device device;
    char text[256];
    worker_engine_config(&sizes, &config);
    status st = device_find(word, options->cuda_plugin, &device);
    if (st == OK)
        st = device_memory(&device, &config.available_bytes);
    if (st == OK)
        st = engine_plan(model, &config, &plan);
    if (st != OK)
        return st;
    uint64_t block_bytes = plan.layout->block_bytes;
    engine_plan_close(&plan);
    uint64_t store_bytes = device.plugin == NULL ? options->memory_bytes : 0;
    uint64_t other_bytes = store_bytes + workers * (plan.activation_bytes + options->kv_bytes);
    uint32_t copies = workers; /* every worker has weights of its own on a GPU */
    if (device.plugin == NULL)
        copies = serve_nodes_choose(nodes, plan.weight_bytes, other_bytes, plan.available_bytes,
                                    &options->numa);
    plan.weight_bytes *= copies;
    if (plan.weight_bytes + plan.activation_bytes > plan.available_bytes)
        return error_set(ERR_NO_MEMORY,
                         "the workers do not fit on %s together: weights %.1f MiB (%u copies) "
                         "of %.1f MiB available; use fewer workers",
                         word, (double)plan.weight_bytes / MIB, copies,
                         (double)plan.available_bytes / MIB);
    uint64_t left = plan.available_bytes - plan.weight_bytes - plan.activation_bytes;
    left -= store_bytes < left ? store_bytes : left;
    if (options->kv_bytes == 0 && plan.pool_bytes > left / 2 / workers) {
        plan.pool_bytes = left / 2 / workers;
        if (least->kv_bytes == 0 || plan.pool_bytes < least->kv_bytes)
            least->kv_bytes = plan.pool_bytes;
    }
    double sum = (double)plan.weight_bytes + (double)store_bytes +
                 (double)workers * ((double)plan.pool_bytes + (double)plan.activation_bytes);
    if (sum <= (double)plan.available_bytes) {
        uint64_t spare = plan.available_bytes - (uint64_t)sum;
        if (device.plugin == NULL && least->swap_bytes > spare / 4 / workers)
            least->swap_bytes = spare / 4 / workers;
        if (least->swap_bytes < block_bytes) /* a worker refuses less */
            least->swap_bytes = 0;
        if (copies > 1)
            log_info("memory", "device=%s workers=%u copies=%u sum=\"%s\"", word, workers, copies,
                     serve_sum_text(&plan, workers, store_bytes, sum, text, sizeof(text)));
        return OK;
    }
    return error_set(ERR_NO_MEMORY,
                     "the workers do not fit in memory of %s together: %s; use fewer workers or a "
                     "smaller model, context, KV pool or store",
                     word, serve_sum_text(&plan, workers, store_bytes, sum, text, sizeof(text)));
}

static status serve_check_memory(struct serve_options *options, const struct serve_nodes *nodes,
                                 const struct model *model)
{
    uint32_t workers = nodes->workers;
    uint32_t words = device_word_count(options->device);
    struct serve_sizes least = {.kv_bytes = options->kv_bytes, .swap_bytes = options->swap_bytes};
    char word[64];
    for (uint32_t i = 0; i < words && i < workers; i++) {
        uint32_t on_it = (workers - i + words - 1) / words;
        device_word(options->device, i, word, sizeof(word));
        status st = serve_check_device(options, nodes, word, on_it, model, &least);
        if (st != OK)
            return st;
    }
    options->kv_bytes = least.kv_bytes;
    options->swap_bytes = least.swap_bytes;
    return OK;
}

/* The model is looked at once here, so that its faults are told once and before anything starts. */
static status serve_check_model(const struct serve *serve, struct serve_options *options)
{
    struct model *model;
    status st = weights_choose(serve->model_path, options->dummy_weights, &model);
    if (st != OK)
        return st;
    st = serve_check_memory(options, &serve->nodes, model);
    weights_close(model);
    return st;
}

/* --store: what begins with a digit and has no colon is a size. */
static status serve_read_store(struct serve_options *options)
{
    static const struct option_spec size = {
        "store", OPTION_BYTES, "SIZE", NULL, 1 << 20, 1e15, offsetof(T, memory_bytes), NULL};
    const char *text = options->store;
    if (text == NULL || text[0] < '0' || text[0] > '9' || strchr(text, ':') != NULL)
        return OK;
    return option_value_parse(&size, text, options);
}

static status serve_choose_cpus(struct serve *serve)
{
    struct serve_nodes *nodes = &serve->nodes;
    nodes->workers = serve->worker_count;
    topology_host(&nodes->topology);
    if (serve->options->cpus != NULL)
        return cpus_parse(serve->options->cpus, &nodes->cpus);
    cpus_allowed(&nodes->cpus);
    return OK;
}

static int serve_run(const void *options_given, const char *const *operands, uint32_t operand_count)
{
    struct serve_options options = *(const struct serve_options *)options_given;
    struct serve serve = {
        .options = &options, .model_path = operands[0], .folder.lock_fd = -1, .ready_fd = -1};
    (void)operand_count;
    if (!worker_words_known(options.carrier, options.kernels, options.kv_dtype, options.log_level))
        return EXIT_USAGE;
    if (router_handoff_parse(options.handoff) < 0) {
        fprintf(stderr, "baton serve: --handoff is \"%s\", expected direct, store or both\n",
                options.handoff);
        return EXIT_USAGE;
    }
    log_open("serve", (enum log_level)log_level_parse(options.log_level));
    /* 1 and 1 are the defaults; who asks for colocated workers means these instead. */
    if (options.colocated > 0 && options.prefill_workers == 1 && options.decode_workers == 1)
        options.prefill_workers = options.decode_workers = 0;
    serve.worker_count = options.prefill_workers + options.decode_workers + options.colocated;
    status st = OK;
    if (serve.worker_count == 0)
        st = error_set(ERR_BAD_INPUT, "no workers: expected at least one of --prefill-workers, "
                                      "--decode-workers, --colocated above 0");
    if (st == OK)
        st = serve_read_store(&options);
    if (st == OK)
        st = serve_choose_cpus(&serve);
    if (st == OK)
        st = serve_check_model(&serve, &options);
    if (st == OK)
        st = serve_open(&serve);
    if (st == OK)
        loop_run(serve.loop);
    else
        log_error("cannot serve", "reason=\"%s\"", error_text());
    serve_close(&serve);
    return st == OK && !serve.failed ? EXIT_OK : EXIT_FAILED;
}

const struct command_spec serve_command = {
    .name = "serve",
    .operands = "MODEL",
    .summary = "serve a model: router and workers on this machine",
    .details =
        "Starts a router, prefill workers and decode workers, each a process of its own "
        "(baton router, baton prefill, baton decode), shares out the cores among the "
        "workers, and starts again what dies. Their sockets lie in a folder of "
        "$XDG_RUNTIME_DIR, or of /tmp. SIGTERM: requests that run come to their end; a second "
        "SIGTERM ends all at once.",
    .options = serve_rows,
    .option_count = sizeof(serve_rows) / sizeof(serve_rows[0]),
    .options_bytes = sizeof(struct serve_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = serve_run,
};
