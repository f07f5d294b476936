/* worker/worker.h - a worker process: one device, one model, one block pool, a role.
 *
 *     loop thread      control connection to the router, heartbeats, signals
 *          | mail ^
 *          v      |
 *     compute thread   engine, block pool, prefix tree, prefill/ and decode/ schedulers
 *          | mail ^
 *          v      |
 *     transfer thread  carriers (transfer/)
 *
 * Every worker can do both halves; its role says which requests the router sends it.
 *
 * Threads: worker_run is called once, on the thread that becomes the loop thread.
 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct worker_options {
    const char *config;
    const char *routers;             /* addresses of its routers' worker ports, with commas */
    const char *name;                /* in logs and metrics; NULL: role and pid */
    const char *transfer;            /* Unix socket where peers of this host fetch; NULL: made up */
    const char *transfer_tcp;        /* where peers of other hosts fetch; NULL: not at all */
    const char *transfer_advertise;  /* what peers are told; NULL: the bound address */
    const char *carrier;             /* "auto", "shm", "tcp", "cuda-ipc", "rdma" */
    const char *rdma_transports;     /* NULL: those of RDMA; others to test */
    const char *store;               /* address of the central store; NULL: none */
    const char *store_password_file; /* of a store in Redis; NULL: none */
    const char *offer;               /* "early", "late" */
    const char *kernels;             /* "auto", "float", "int8", "bf16" */
    const char *kv_dtype;            /* "auto", "f16", "f32", "q8_0" */
    const char *packed_weights;      /* "auto", "off", or a folder */
    const char *device;              /* "cpu", "cuda", "cuda:N" */
    const char *cuda_plugin;         /* NULL: where backend/device.h says */
    const char *cpus;                /* NULL: all it may use */
    const char *dummy_weights;       /* NULL, or the shape of random weights (model/weights.h) */
    const char *log_level;
    uint32_t numa;    /* enum topology_weights: worker/nodes.h */
    uint32_t threads; /* 0: one per core */
    uint32_t ctx;     /* 0: the model's */
    uint32_t block_tokens;
    uint64_t kv_bytes;           /* 0: chosen from the model and free memory */
    uint64_t swap_bytes;         /* of the host, for blocks of sequences that give way; 0: none */
    uint64_t prefix_cache_bytes; /* UINT64_MAX: all of the pool that is free */
    uint32_t prefill_batch_tokens;
    uint32_t prefill_chunk;
    uint32_t decode_batch;
    uint64_t heartbeat_ms;
    uint64_t step_delay_ms; /* for tests: each step takes so much longer */
    bool colocated;
    bool deterministic; /* of a GPU: bits that do not depend on batch and chunks */
    const char
        *cluster_key;   /* file of the key that all processes prove to each other; NULL: none */
    bool trust_network; /* without a key: other hosts may fetch blocks, unauthenticated */
};

struct engine_config;

/* What the engine of a worker with these options is sized for. */
void worker_engine_config(const struct worker_options *options, struct engine_config *config_out);

/* Run until SIGTERM has drained it, or for good. roles: WIRE_ROLE_ bits. Returns the exit code. */
int worker_run(const char *model_path, uint32_t roles, const struct worker_options *options);

#endif
