/* cli/worker_options.h - the options that serve, prefill and decode share.
 *
 * A list of table rows, expanded for the struct that holds the values, so that a worker started by
 * serve and one started by hand mean the same by every name.
 */
#ifndef CLI_WORKER_OPTIONS_H
#define CLI_WORKER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/options.h"
#include "base/topology.h"

/* T: a struct whose fields bear the names, and have the types, of struct worker_options. */
#define TEST_RDMA_ROW(T)                                                                           \
    {                                                                                              \
        "test-rdma-transports", OPTION_TEXT, "LIST", NULL, 0, 0, offsetof(T, rdma_transports),     \
            "UCX TRANSPORTS[@DEVICE] for carrier rdma on a host without RDMA, to test it; they "   \
            "check no keys; DEVICE: lo"                                                            \
    }

#define WORKER_SIZE_ROWS(T)                                                                        \
    {"ctx",                                                                                        \
     OPTION_UINT,                                                                                  \
     "TOKENS",                                                                                     \
     "0",                                                                                          \
     0,                                                                                            \
     1048576,                                                                                      \
     offsetof(T, ctx),                                                                             \
     "most tokens of one sequence, prompt and answer; 0: what the model was trained for"},         \
        {"kv-bytes",                                                                               \
         OPTION_BYTES,                                                                             \
         "BYTES",                                                                                  \
         "0",                                                                                      \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, kv_bytes),                                                                    \
         "memory of a worker's block pool; 0: four whole contexts, but not over a quarter of "     \
         "free "                                                                                   \
         "memory, and never under one context"},                                                   \
        {"swap-bytes",                                                                             \
         OPTION_BYTES,                                                                             \
         "BYTES",                                                                                  \
         "1G",                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, swap_bytes),                                                                  \
         "most memory of the host that a worker moves blocks to when its pool is full, at most a " \
         "quarter of what is free at the start; 0: what gives way is computed again"},             \
        {"block-tokens",                                                                           \
         OPTION_UINT,                                                                              \
         "TOKENS",                                                                                 \
         "16",                                                                                     \
         8,                                                                                        \
         256,                                                                                      \
         offsetof(T, block_tokens),                                                                \
         "tokens of one block; equal on all workers"},                                             \
        {"threads",                                                                                \
         OPTION_UINT,                                                                              \
         "N",                                                                                      \
         "0",                                                                                      \
         0,                                                                                        \
         256,                                                                                      \
         offsetof(T, threads),                                                                     \
         "compute threads of a worker; 0: one per core it has"},                                   \
        {"numa",                                                                                   \
         OPTION_CHOICE,                                                                            \
         TOPOLOGY_WEIGHTS_WORDS,                                                                   \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, numa),                                                                        \
         "on a host with several memory nodes, pools lie on the nodes of a worker's cores, and "   \
         "the packed weights: local (one copy, where it is read first), interleave (one copy "     \
         "over all nodes), copy (one on each node), auto (chosen by distance and free memory); "   \
         "off: nothing is placed"},                                                                \
        {"kernels",                                                                                \
         OPTION_TEXT,                                                                              \
         "CLASS",                                                                                  \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, kernels),                                                                     \
         "numerics class: float, int8, bf16, or auto (int8)"},                                     \
        {"device",                                                                                 \
         OPTION_TEXT,                                                                              \
         "NAME",                                                                                   \
         "cpu",                                                                                    \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, device),                                                                      \
         "what computes: cpu, cuda (the first GPU) or cuda:N; of serve also several with commas, " \
         "which its workers are given in turn, prefill workers first"},                            \
        {"cuda-plugin",                                                                            \
         OPTION_TEXT,                                                                              \
         "PATH",                                                                                   \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, cuda_plugin),                                                                 \
         "the backend for cuda; unset: baton-cuda.so beside the binary or in ../lib/baton"},       \
        {"deterministic",                                                                          \
         OPTION_FLAG,                                                                              \
         NULL,                                                                                     \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, deterministic),                                                               \
         "on a GPU: the same bits for a sequence in any batch and chunks, at a price; a CPU's "    \
         "always are"},                                                                            \
        {"kv-dtype",                                                                               \
         OPTION_TEXT,                                                                              \
         "TYPE",                                                                                   \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, kv_dtype),                                                                    \
         "numbers in the block pool: f16, f32 (twice the memory), q8_0 (0.53 of it), or auto "     \
         "(f32 with --kernels float, else f16); equal on all workers"},                            \
        {"packed-weights",                                                                         \
         OPTION_TEXT,                                                                              \
         "WHERE",                                                                                  \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, packed_weights),                                                              \
         "folder for the file with packed weights that all workers of a host map; auto: beside "   \
         "the model if that folder can be written to, else in the user's cache; off: each worker " \
         "keeps its own in memory"},                                                               \
        {"prefill-batch-tokens",                                                                   \
         OPTION_UINT,                                                                              \
         "TOKENS",                                                                                 \
         "4096",                                                                                   \
         1,                                                                                        \
         1048576,                                                                                  \
         offsetof(T, prefill_batch_tokens),                                                        \
         "most prompt tokens of one prefill batch"},                                               \
        {"prefill-chunk",                                                                          \
         OPTION_UINT,                                                                              \
         "TOKENS",                                                                                 \
         "256",                                                                                    \
         16,                                                                                       \
         8192,                                                                                     \
         offsetof(T, prefill_chunk),                                                               \
         "most prompt tokens of one step"},                                                        \
        {"decode-batch",                                                                           \
         OPTION_UINT,                                                                              \
         "SEQUENCES",                                                                              \
         "64",                                                                                     \
         1,                                                                                        \
         1024,                                                                                     \
         offsetof(T, decode_batch),                                                                \
         "most sequences that one worker decodes at once"},                                        \
        {"prefix-cache-bytes",                                                                     \
         OPTION_BYTES,                                                                             \
         "BYTES",                                                                                  \
         "1024T",                                                                                  \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, prefix_cache_bytes),                                                          \
         "most bytes of unused blocks that a worker keeps for reuse, by default without a limit; " \
         "0 "                                                                                      \
         "switches the prefix cache off"},                                                         \
        {"carrier",                                                                                \
         OPTION_TEXT,                                                                              \
         "NAME",                                                                                   \
         "auto",                                                                                   \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, carrier),                                                                     \
         "how blocks move between workers: shm, tcp, cuda-ipc (GPUs of one host), rdma (UCX; has " \
         "not met real hardware), or auto (the fastest of the first three that two workers have "  \
         "in common)"},                                                                            \
        TEST_RDMA_ROW(T),                                                                          \
        {"offer",                                                                                  \
         OPTION_TEXT,                                                                              \
         "WHEN",                                                                                   \
         "early",                                                                                  \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, offer),                                                                       \
         "when a prefill worker offers blocks: early (each layer as soon as it is computed) or "   \
         "late "                                                                                   \
         "(all after the prefill, to see what the overlap is worth)"},                             \
        {"step-delay",                                                                             \
         OPTION_SECONDS,                                                                           \
         "TIME",                                                                                   \
         "0",                                                                                      \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, step_delay_ms),                                                               \
         "make every step so much longer, to see what a slow device does"},                        \
    {                                                                                              \
        "log-level", OPTION_TEXT, "LEVEL", "info", 0, 0, offsetof(T, log_level),                   \
            "debug, info, warn or error"                                                           \
    }

/* Are these words among those that the options know? If not, standard error has said so. */
bool worker_words_known(const char *carrier, const char *kernels, const char *kv_dtype,
                        const char *log_level);

#endif
