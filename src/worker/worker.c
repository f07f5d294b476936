#include "worker/worker.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/cpu/limits.h"
#include "backend/device.h"
#include "base/address.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "engine/warm.h"
#include "model/weights.h"
#include "store/store.h"
#include "transfer/transfer.h"
#include "worker/compute.h"
#include "worker/control.h"
#include "worker/mail.h"
#include "worker/nodes.h"
#include "worker/packed_path.h"

#define DRAIN_LOOK_MS 50
#define PREFILL_SEQUENCES_MAX 64 /* prompts in one step */
#define SCORED_ROWS_MIN 64       /* rows with logits that a step has room for, at least */

struct worker {
    const struct worker_options *options;
    uint32_t roles;
    char name[WIRE_NAME_BYTES];
    struct cpus cpus;
    int thread_cpus[CPU_THREADS_MAX];
    uint32_t threads;
    struct model *model;
    struct engine *engine;
    struct prefix_tree *tree;
    struct transfer *transfer;
    struct store *store;
    struct compute *compute;
    struct mailbox *to_compute, *to_loop;
    struct cpu_limits limits;
    struct hello hello;
    struct cluster_key *key; /* NULL: none */
    struct wire_register registration;
    struct address transfer_unix;
    pthread_t thread;
    bool thread_runs;
    /* Written by the compute thread before its first mail, read by the loop thread after it. */
    status opened;
    char opened_text[ERROR_TEXT_BYTES];
    struct loop *loop;
    struct loop_watch *mail_watch, *term_watch, *int_watch;
    struct loop_timer *drain_timer;
    struct control *control;
    bool draining, stopping;
};

/* ---- the device: opened on the compute thread, which its backend is bound to ---- */

void worker_engine_config(const struct worker_options *options, struct engine_config *config_out)
{
    *config_out = (struct engine_config){
        .context_tokens = options->ctx,
        .block_tokens = options->block_tokens,
        .rows_max = options->prefill_chunk + options->decode_batch + options->prefill_chunk,
        .sequences_max = options->decode_batch + PREFILL_SEQUENCES_MAX,
        .outputs_max = options->decode_batch + SCORED_ROWS_MIN,
        .kv_bytes = options->kv_bytes,
        .swap_bytes = options->swap_bytes,
        .kv = engine_kv_choose(options->kv_dtype, options->kernels),
    };
}

/* Which nodes of the host; a GPU's worker leaves it to the kernel. */
static void worker_choose_nodes(const struct worker *worker, const struct engine_plan *plan,
                                struct worker_nodes *nodes_out)
{
    struct topology topology;
    topology_host(&topology);
    worker_nodes_choose(&topology, worker->options->numa, &worker->cpus, plan->weight_bytes,
                        nodes_out);
    worker_nodes_enter(nodes_out, plan->pool_bytes + plan->activation_bytes);
}

static status worker_open_engine(struct worker *worker)
{
    const struct worker_options *options = worker->options;
    struct engine_config config;
    struct engine_plan plan;
    struct device device;
    struct worker_nodes nodes = {.copy = WORKER_NODES_SHARED};
    worker_engine_config(options, &config);
    status st = device_find(options->device, options->cuda_plugin, &device);
    if (st == OK)
        st = device_memory(&device, &config.available_bytes);
    if (st == OK)
        st = engine_plan(worker->model, &config, &plan);
    if (st != OK)
        return st;
    char text[512], path[PACKED_PATH_BYTES];
    log_info("memory", "sum=\"%s\"", engine_plan_text(&plan, text, sizeof(text)));
    if (device.plugin == NULL)
        worker_choose_nodes(worker, &plan, &nodes);
    struct device_options opening = {
        .cpu = {.threads = worker->threads,
                .nodes = nodes.own,
                .cpus = worker->threads <= worker->cpus.count ? worker->thread_cpus : NULL,
                .kernels = options->kernels},
        .deterministic = options->deterministic,
        .staged = strcmp(options->carrier, "cuda-ipc") != 0,
    };
    struct backend_cpu_weights weights = {.path = path,
                                          .model_path = weights_file(worker->model),
                                          .bytes_max = 2 * plan.weight_bytes + (64u << 20)};
    memcpy(weights.key, worker->model->fingerprint, sizeof(weights.key));
    if (device.plugin == NULL && weights.model_path != NULL &&
        packed_path_choose(options->packed_weights, weights.model_path, weights.key, nodes.copy,
                           path))
        opening.cpu.weights = &weights;
    struct backend *backend;
    st = device_open(&device, &plan.shape, &plan.limits, &opening, &backend);
    if (st != OK) {
        engine_plan_close(&plan);
        return st;
    }
    st = engine_open(worker->model, &plan, backend, &worker->engine);
    weights_forget(worker->model);
    return st;
}

static status worker_open_tree(struct worker *worker)
{
    uint64_t block_bytes = engine_block_bytes(worker->engine);
    uint64_t cached = worker->options->prefix_cache_bytes / block_bytes;
    return prefix_tree_open(engine_pool(worker->engine)->block_count,
                            cached < UINT32_MAX ? (uint32_t)cached : UINT32_MAX, &worker->tree);
}

static void worker_fill_hello(struct worker *worker)
{
    struct hello *hello = &worker->hello;
    const struct kv_layout *layout = engine_layout(worker->engine);
    hello->parts = HELLO_HAS_MODEL | HELLO_HAS_KV;
    memcpy(hello->fingerprint, worker->model->fingerprint, sizeof(worker->model->fingerprint));
    memcpy(hello->layout_hash, layout->hash, sizeof(layout->hash));
    snprintf(hello->numerics_class, sizeof(hello->numerics_class), "%s",
             engine_numerics_class(worker->engine));
    hello->kv_dtype = layout->shape.dtype;
    hello->block_tokens = layout->shape.block_tokens;
    hello->ranks = 1;
    hello->role = worker->roles == WIRE_ROLE_PREFILL  ? HELLO_PREFILL
                  : worker->roles == WIRE_ROLE_DECODE ? HELLO_DECODE
                                                      : HELLO_COLOCATED;
    hello->incarnation = hello_incarnation_random();
    snprintf(hello->name, sizeof(hello->name), "%s", worker->name);
}

/* Which Unix sockets can be reached: those of the same kernel and the same file system view. */
static void worker_host_text(char *text, size_t bytes)
{
    char boot[40] = "unknown";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file != NULL) {
        if (fgets(boot, sizeof(boot), file) != NULL)
            boot[strcspn(boot, "\n")] = '\0';
        fclose(file);
    }
    struct stat mounts = {0};
    if (stat("/proc/self/ns/mnt", &mounts) != 0)
        mounts.st_ino = 0;
    snprintf(text, bytes, "%s/%llu", boot, (unsigned long long)mounts.st_ino);
}

static struct transfer_pool worker_pool(const struct worker *worker)
{
    const struct backend_pool *pool = engine_pool(worker->engine);
    return (struct transfer_pool){.device = engine_moving_backend(worker->engine),
                                  .host = pool->host,
                                  .fd = pool->fd,
                                  .block_count = pool->block_count,
                                  .block_bytes = engine_layout(worker->engine)->block_bytes,
                                  .fills = prefix_tree_fills(worker->tree)};
}

static status worker_open_transfer(struct worker *worker)
{
    const struct worker_options *options = worker->options;
    const struct kv_layout *layout = engine_layout(worker->engine);
    uint32_t carriers = transfer_carriers_parse(options->carrier);
    char unix_text[ADDRESS_TEXT_BYTES];
    struct address tcp;
    snprintf(unix_text, sizeof(unix_text), "unix:/tmp/baton-%ld-transfer.sock", (long)getpid());
    status st = address_parse(options->transfer != NULL ? options->transfer : unix_text, 0,
                              &worker->transfer_unix);
    const char *tcp_text = options->transfer_tcp;
    if (tcp_text == NULL && (carriers & TRANSFER_LOCAL) == 0)
        tcp_text = "127.0.0.1:0";
    if (st == OK && tcp_text != NULL)
        st = address_parse(tcp_text, 0, &tcp);
    if (st == OK && tcp_text != NULL)
        st = cluster_key_allows(worker->key, options->trust_network, &tcp, "--transfer-tcp",
                                tcp_text);
    if (st != OK)
        return st;

    struct transfer_slice *layers = calloc(layout->shape.layer_count, sizeof(*layers));
    if (layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the transfer's layers");
    for (uint32_t i = 0; i < layout->shape.layer_count; i++)
        kv_layout_layer(layout, i, &layers[i].offset, &layers[i].bytes);
    struct transfer_options transfer = {
        .hello = &worker->hello,
        .key = worker->key,
        .unix_listen = (carriers & TRANSFER_LOCAL) != 0 ? &worker->transfer_unix : NULL,
        .tcp_listen = tcp_text != NULL ? &tcp : NULL,
        .pool = worker_pool(worker),
        .layers = layers,
        .layer_count = layout->shape.layer_count,
        .carriers = carriers,
        .rdma_transports = options->rdma_transports,
        .reports = worker->to_compute,
    };
    st = transfer_open(&transfer, &worker->transfer);
    free(layers);
    return st;
}

/* What hosts elsewhere connect to, in numbers: they do not ask a resolver. "": none. */
static status worker_advertise(const struct worker *worker, char *text, size_t bytes)
{
    const char *given = worker->options->transfer_advertise;
    struct address bound, told;
    text[0] = '\0';
    if (transfer_tcp_address(worker->transfer, &bound) != OK) {
        if (given != NULL)
            return error_set(ERR_BAD_INPUT,
                             "--transfer-advertise is \"%s\", and there is no "
                             "--transfer-tcp that listens there",
                             given);
        return OK;
    }
    told = bound;
    if (given != NULL) {
        status st = address_parse(given, address_port(&bound), &told);
        if (st == OK)
            st = address_write_numeric(&told);
        if (st != OK)
            return error_prefix(st, "--transfer-advertise");
    }
    if (address_is_wildcard(&told) || address_is_unix(&told))
        return error_set(ERR_BAD_INPUT,
                         "other hosts cannot connect to %s: give an address of this "
                         "host with --transfer-advertise",
                         told.text);
    snprintf(text, bytes, "%s", told.text);
    return OK;
}

static status worker_fill_registration(struct worker *worker)
{
    const struct worker_options *options = worker->options;
    struct wire_register *r = &worker->registration;
    r->roles = worker->roles;
    r->pid = (uint32_t)getpid();
    r->block_count = engine_pool(worker->engine)->block_count;
    r->context_tokens = engine_context_tokens(worker->engine);
    r->decode_batch = options->decode_batch;
    r->incarnation = worker->hello.incarnation;
    r->has_store = options->store != NULL;
    r->limit_operations_per_s = worker->limits.operations_per_s;
    r->limit_bytes_per_s = worker->limits.read_bytes_per_s;
    snprintf(r->name, sizeof(r->name), "%s", worker->name);
    worker_host_text(r->host, sizeof(r->host));
    if ((transfer_carriers_parse(options->carrier) & TRANSFER_LOCAL) != 0)
        snprintf(r->transfer_unix, sizeof(r->transfer_unix), "%s", worker->transfer_unix.text);
    return worker_advertise(worker, r->transfer_tcp, sizeof(r->transfer_tcp));
}

/* The central store fetches what is added where peers fetch too. */
static status worker_open_store(struct worker *worker)
{
    const struct wire_register *r = &worker->registration;
    if (worker->options->store == NULL)
        return worker->options->store_password_file == NULL
                   ? OK
                   : error_set(ERR_BAD_INPUT, "--store-password-file is there, and no --store");
    const struct store_options options = {
        .address = worker->options->store,
        .password_file = worker->options->store_password_file,
        .hello = &worker->hello,
        .layout = engine_layout(worker->engine),
        .transfer = worker->transfer,
        .pool = worker_pool(worker),
        .transfer_unix = r->transfer_unix[0] != '\0' ? r->transfer_unix : NULL,
        .transfer_tcp = r->transfer_tcp[0] != '\0' ? r->transfer_tcp : NULL,
        .key = worker->key,
        .reports = worker->to_compute,
    };
    return store_open(&options, &worker->store);
}

static status worker_open_device(struct worker *worker)
{
    uint64_t start_ns = clock_ns();
    status st =
        cpu_limits_measure(worker->threads, NULL, worker->options->kernels, NULL, &worker->limits);
    if (st == OK)
        st = worker_open_engine(worker);
    if (st == OK)
        st = worker_open_tree(worker);
    if (st == OK && engine_moving_backend(worker->engine) != NULL)
        st = engine_warm(worker->engine);
    if (st != OK)
        return st;
    worker_fill_hello(worker);
    st = worker_open_transfer(worker);
    if (st != OK)
        return st;
    st = worker_fill_registration(worker);
    if (st == OK)
        st = worker_open_store(worker);
    if (st != OK)
        return st;
    struct compute_setup setup = {.options = worker->options,
                                  .model = worker->model,
                                  .engine = worker->engine,
                                  .tree = worker->tree,
                                  .transfer = worker->transfer,
                                  .store = worker->store,
                                  .in = worker->to_compute,
                                  .out = worker->to_loop};
    st = compute_open(&setup, &worker->compute);
    if (st == OK)
        log_info("loaded",
                 "class=%s threads=%u blocks=%u swap_slots=%u ctx=%u read_gb_s=%.1f gop_s=%.0f "
                 "ms=%llu",
                 engine_numerics_class(worker->engine), worker->threads,
                 worker->registration.block_count, engine_swap_slots(worker->engine),
                 worker->registration.context_tokens, worker->limits.read_bytes_per_s / 1e9,
                 worker->limits.operations_per_s / 1e9,
                 (unsigned long long)((clock_ns() - start_ns) / 1000000));
    return st;
}

static void worker_close_device(struct worker *worker)
{
    store_close(worker->store);
    if (worker->transfer != NULL)
        transfer_close(worker->transfer);
    /* What came in after the thread had ended, and the transfer's last reports. */
    struct mail *mail = mailbox_take_all(worker->to_compute);
    while (mail != NULL) {
        struct mail *next = mail->next;
        if (mail->kind >= STORE_ADDED)
            store_report_free((struct store_report *)mail);
        else if (mail->kind >= TRANSFER_HOLDER_DONE)
            transfer_report_free((struct transfer_report *)mail);
        else
            worker_mail_free((struct worker_mail *)mail);
        mail = next;
    }
    compute_close(worker->compute);
    if (worker->tree != NULL)
        prefix_tree_close(worker->tree);
    engine_close(worker->engine);
}

static void *worker_thread(void *ctx)
{
    struct worker *worker = ctx;
    worker->opened = worker_open_device(worker);
    if (worker->opened == OK) {
        compute_run(worker->compute);
    } else {
        memcpy(worker->opened_text, error_text(), sizeof(worker->opened_text));
        struct worker_mail *mail = worker_mail_new(WORKER_STOPPED);
        assert(mail != NULL);
        mailbox_post(worker->to_loop, &mail->mail);
    }
    return NULL;
}

/* ---- the loop thread ---- */

static void worker_stop_compute(struct worker *worker)
{
    struct worker_mail *mail = worker_mail_new(WORKER_STOP);
    assert(mail != NULL);
    if (worker->stopping) {
        worker_mail_free(mail);
        return;
    }
    worker->stopping = true;
    mailbox_post(worker->to_compute, &mail->mail);
}

static void worker_drain_look(void *ctx)
{
    struct worker *worker = ctx;
    if (control_requests(worker->control) == 0)
        worker_stop_compute(worker);
    else
        loop_timer_start(worker->drain_timer, DRAIN_LOOK_MS);
}

/* No new requests, and an end when the last one is done. */
static void worker_drain(struct worker *worker)
{
    worker->draining = true;
    control_leave(worker->control);
    loop_timer_start(worker->drain_timer, 4 * DRAIN_LOOK_MS);
}

static void worker_on_signal(void *ctx, int number)
{
    struct worker *worker = ctx;
    log_info(worker->draining ? "stopping" : "draining", "signal=%d", number);
    if (worker->draining || worker->control == NULL)
        worker_stop_compute(worker);
    else
        worker_drain(worker);
}

static void worker_on_drain(void *ctx)
{
    struct worker *worker = ctx;
    if (worker->draining)
        return;
    log_info("draining", "reason=\"an operator asked for it\"");
    worker_drain(worker);
}

static void worker_on_refused(void *ctx, const char *reason)
{
    struct worker *worker = ctx;
    worker->opened = ERR_REFUSED;
    snprintf(worker->opened_text, sizeof(worker->opened_text), "the router refused it: %s", reason);
    worker_stop_compute(worker);
}

/* The compute thread's first mail says that the device is open: register then. */
static status worker_register(struct worker *worker)
{
    struct control_setup setup = {.loop = worker->loop,
                                  .routers = worker->options->routers,
                                  .hello = &worker->hello,
                                  .key = worker->key,
                                  .registration = &worker->registration,
                                  .heartbeat_ms = worker->options->heartbeat_ms,
                                  .vocabulary = worker->model->vocabulary,
                                  .compute = worker->to_compute,
                                  .store = worker->store,
                                  .transfer = worker->transfer,
                                  .on_refused = worker_on_refused,
                                  .on_drain = worker_on_drain,
                                  .ctx = worker};
    return control_open(&setup, &worker->control);
}

static void worker_take(void *ctx, struct mail *mail)
{
    struct worker *worker = ctx;
    if (mail->kind == WORKER_STOPPED) {
        worker_mail_free((struct worker_mail *)mail);
        loop_stop(worker->loop);
        return;
    }
    if (worker->control == NULL && worker->opened == OK) {
        worker->opened = worker_register(worker);
        if (worker->opened != OK) {
            memcpy(worker->opened_text, error_text(), sizeof(worker->opened_text));
            worker_stop_compute(worker);
        }
    }
    if (worker->control != NULL)
        control_take(worker->control, mail);
    else
        worker_mail_free((struct worker_mail *)mail);
}

static status worker_open_loop(struct worker *worker)
{
    status st = loop_open(&worker->loop);
    if (st == OK)
        st = mailbox_open(&worker->to_compute);
    if (st == OK)
        st = mailbox_open(&worker->to_loop);
    if (st == OK)
        st = loop_mailbox_open(worker->loop, worker->to_loop, worker_take, worker,
                               &worker->mail_watch);
    if (st == OK)
        st = loop_signal_open(worker->loop, SIGTERM, worker_on_signal, worker, &worker->term_watch);
    if (st == OK)
        st = loop_signal_open(worker->loop, SIGINT, worker_on_signal, worker, &worker->int_watch);
    if (st == OK)
        st = loop_timer_open(worker->loop, worker_drain_look, worker, &worker->drain_timer);
    return st;
}

static status worker_choose_cpus(struct worker *worker)
{
    const struct worker_options *options = worker->options;
    status st = OK;
    if (options->cpus != NULL)
        st = cpus_parse(options->cpus, &worker->cpus);
    else
        cpus_allowed(&worker->cpus);
    if (st == OK)
        st = cpus_bind(&worker->cpus);
    if (st != OK)
        return st;
    worker->threads = options->threads != 0 ? options->threads : worker->cpus.count;
    if (worker->threads > CPU_THREADS_MAX)
        worker->threads = CPU_THREADS_MAX;
    for (uint32_t i = 0; i < worker->threads; i++)
        worker->thread_cpus[i] = (int)worker->cpus.ids[i % worker->cpus.count];
    return OK;
}

static status worker_start(struct worker *worker, const char *model_path)
{
    const struct worker_options *options = worker->options;
    if (options->prefill_chunk < options->block_tokens)
        return error_set(ERR_BAD_INPUT,
                         "--prefill-chunk is %u, expected at least --block-tokens "
                         "(%u)",
                         options->prefill_chunk, options->block_tokens);
    status st = cluster_key_open(options->cluster_key, &worker->key);
    if (st == OK)
        st = worker_choose_cpus(worker);
    if (st == OK)
        st = weights_choose(model_path, options->dummy_weights, &worker->model);
    if (st == OK)
        st = worker_open_loop(worker);
    if (st != OK)
        return st;

    st = thread_start("compute", worker_thread, worker, &worker->thread);
    worker->thread_runs = st == OK;
    return st;
}

static void worker_close(struct worker *worker)
{
    if (worker->thread_runs)
        pthread_join(worker->thread, NULL);
    control_close(worker->control);
    if (worker->to_compute != NULL)
        worker_close_device(worker);
    if (worker->to_loop != NULL) {
        struct mail *mail = mailbox_take_all(worker->to_loop);
        while (mail != NULL) {
            struct mail *next = mail->next;
            worker_mail_free((struct worker_mail *)mail);
            mail = next;
        }
    }
    loop_timer_close(worker->drain_timer);
    loop_watch_close(worker->mail_watch);
    loop_watch_close(worker->term_watch);
    loop_watch_close(worker->int_watch);
    loop_close(worker->loop);
    mailbox_close(worker->to_compute);
    mailbox_close(worker->to_loop);
    if (worker->model != NULL)
        weights_close(worker->model);
    cluster_key_close(worker->key);
    free(worker);
}

int worker_run(const char *model_path, uint32_t roles, const struct worker_options *options)
{
    struct worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return 1;
    worker->options = options;
    worker->roles = roles;
    if (options->name != NULL)
        snprintf(worker->name, sizeof(worker->name), "%s", options->name);
    else
        snprintf(worker->name, sizeof(worker->name), "%s-%ld",
                 roles == WIRE_ROLE_PREFILL  ? "prefill"
                 : roles == WIRE_ROLE_DECODE ? "decode"
                                             : "colocated",
                 (long)getpid());
    log_open(worker->name, (enum log_level)log_level_parse(options->log_level));
    status st = worker_start(worker, model_path);
    if (st == OK) {
        loop_run(worker->loop);
        st = worker->opened;
    } else {
        memcpy(worker->opened_text, error_text(), sizeof(worker->opened_text));
    }
    if (st != OK)
        log_error("worker cannot start", "reason=\"%s\"", worker->opened_text);
    worker_close(worker);
    return st == OK ? 0 : 1;
}
