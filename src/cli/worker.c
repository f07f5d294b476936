/* baton prefill, baton decode: one worker each, in the foreground. */
#include "worker/worker.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/cluster_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/worker_options.h"
#include "wire/control.h"

#define T struct worker_options

static const struct option_spec worker_rows[] = {
    MODEL_ROWS(T),
    {"router", OPTION_TEXT, "ADDR[,ADDR...]", "127.0.0.1:8001", 0, 0, offsetof(T, routers),
     "where the router listens for workers: HOST:PORT or unix:PATH; of several routers, all of "
     "them "
     "with commas: it works for each"},
    {"name", OPTION_TEXT, "NAME", NULL, 0, 0, offsetof(T, name),
     "name in logs and metrics, one per router; unset: role and process id"},
    {"cpus", OPTION_TEXT, "LIST", NULL, 0, 0, offsetof(T, cpus),
     "cores to run on, such as 0-3,8; unset: all that the process may use"},
    {"transfer", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer),
     "Unix socket (unix:PATH) where workers of this host fetch blocks; unset: one in /tmp"},
    {"transfer-tcp", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_tcp),
     "address where workers of other hosts fetch blocks; unset: none, or any port of 127.0.0.1 "
     "with --carrier tcp"},
    {"transfer-advertise", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, transfer_advertise),
     "HOST or HOST:PORT that other hosts are told to connect to; unset: the address that is bound"},
    CLUSTER_KEY_ROW(T),
    {"trust-network", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, trust_network),
     "without a cluster key: let other hosts reach --transfer-tcp, although they do not "
     "authenticate"},
    {"store", OPTION_TEXT, "ADDR", NULL, 0, 0, offsetof(T, store),
     "central store of KV blocks: HOST:PORT or unix:PATH of a `baton store`, or redis://...; "
     "unset: none"},
    STORE_PASSWORD_ROW(T),
    {"heartbeat", OPTION_SECONDS, "TIME", "250ms", 0, 0, offsetof(T, heartbeat_ms),
     "time between two signs of life to the router"},
    {"colocated", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, colocated),
     "prefill and decode in this one worker"},
    WORKER_SIZE_ROWS(T),
};

static bool word_known(const char *option, const char *word, const char *const *words)
{
    char list[128];
    size_t used = 0;
    for (uint32_t i = 0; words[i] != NULL; i++) {
        if (strcmp(word, words[i]) == 0)
            return true;
        used += (size_t)snprintf(list + used, sizeof(list) - used, " %s", words[i]);
    }
    fprintf(stderr, "baton: --%s is \"%s\", expected one of:%s\n", option, word, list);
    return false;
}

bool worker_words_known(const char *carrier, const char *kernels, const char *kv_dtype,
                        const char *log_level)
{
    static const char *const carriers[] = {"auto", "shm", "tcp", "cuda-ipc", "rdma", NULL};
    static const char *const classes[] = {"auto", "float", "int8", "bf16", NULL};
    static const char *const kv_dtypes[] = {"auto", "f16", "f32", "q8_0", NULL};
    static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
    return word_known("carrier", carrier, carriers) && word_known("kernels", kernels, classes) &&
           word_known("kv-dtype", kv_dtype, kv_dtypes) &&
           word_known("log-level", log_level, levels);
}

static int worker_command(const struct worker_options *options, uint32_t role,
                          const char *const *operands)
{
    if (!worker_words_known(options->carrier, options->kernels, options->kv_dtype,
                            options->log_level))
        return EXIT_USAGE;
    uint32_t roles = options->colocated ? WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE : role;
    return worker_run(operands[0], roles, options);
}

static int prefill_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    (void)operand_count;
    return worker_command(options, WIRE_ROLE_PREFILL, operands);
}

static int decode_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    (void)operand_count;
    return worker_command(options, WIRE_ROLE_DECODE, operands);
}

const struct command_spec prefill_command = {
    .name = "prefill",
    .operands = "MODEL",
    .summary = "start a worker that computes prompts",
    .details =
        "Connects to a router and computes the prompts that it is given. The keys and values "
        "go to the decode worker that the router chooses, layer by layer while later ones "
        "are computed. SIGTERM: no new requests, and an end when the last one is done; a "
        "second SIGTERM ends it at once.",
    .options = worker_rows,
    .option_count = sizeof(worker_rows) / sizeof(worker_rows[0]),
    .options_bytes = sizeof(struct worker_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = prefill_run,
};

const struct command_spec decode_command = {
    .name = "decode",
    .operands = "MODEL",
    .summary = "start a worker that generates answers",
    .details = "Connects to a router, fetches the keys and values of prompts from the prefill "
               "workers that computed them, and generates the answers, one token of every running "
               "sequence per step. SIGTERM: no new requests, and an end when the last one is done; "
               "a second SIGTERM ends it at once.",
    .options = worker_rows,
    .option_count = sizeof(worker_rows) / sizeof(worker_rows[0]),
    .options_bytes = sizeof(struct worker_options),
    .operands_min = 1,
    .operands_max = 1,
    .operands_instead = MODEL_INSTEAD,
    .run = decode_run,
};
