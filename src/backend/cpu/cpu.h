/* backend/cpu/cpu.h - the backend of CPU cores.
 *
 *     tensor_open  a matrix of the file -> panels of 16 output columns, still quantised (pack.h)
 *     project      panels x rows        -> y, outputs split among the threads of a team (team.h)
 *     attend       blocks of the pool   -> o, (sequence, kv head, rows) split among the threads
 *
 * The numerics classes are defined by arithmetic, not by instruction set, so that every machine
 * computes the same bits:
 *
 *     cpu-float   y[n] = w[n][0]*x[0], then fma(w[n][k], x[k], y) for k = 1, 2, ... in float, with
 *                 the weights of base/dequant.h
 *     cpu-bf16    x rounded to bf16; k in groups of 32, even and odd ones summed on their own and
 *                 then added to y, subnormal numbers as zeros (bf16_class.h), with BF16 weights;
 *                 all else as in cpu-int8
 *     cpu-int8    x rounded to int8 for every 32 values; per group of 32 (Q6_K: 16) an exact
 * integer dot product, then y = fma(dot, w scale * x scale, y), and fma(w minimum, sum of x, y) for
 * types with a minimum, group after group. F32, F16 and BF16 weights are computed as in cpu-float.
 * kernels_scalar.c has the rounding.
 *
 * Norms, softmax, SiLU and rotations are the same in all classes (elementary.h). Attention
 * is float over partitions of 256 keys, merged in order of position (attend.h).
 *
 * Threads:  see backend.h; the compute thread is one of the team's threads. With threads = 1
 * nothing is synchronised. Memory:   packed weights and buffers belong to the backend; the pool is
 * a sealed memfd.
 */
#ifndef BACKEND_CPU_CPU_H
#define BACKEND_CPU_CPU_H

#include <stdint.h>

#include "backend/backend.h"
#include "base/status.h"

#define CPU_THREADS_MAX 256

#define BACKEND_WEIGHTS_KEY_BYTES 32

/* Where the packed weights of a model are shared among its workers: packed_file.h. */
struct backend_cpu_weights {
    const char *path;                       /* of the file with packed weights */
    const char *model_path;                 /* locked while they are packed */
    uint8_t key[BACKEND_WEIGHTS_KEY_BYTES]; /* names the model's content */
    uint64_t bytes_max;                     /* more than they can take */
};

struct backend_cpu_options {
    uint32_t threads;    /* 1 .. CPU_THREADS_MAX, the compute thread included */
    const int *cpus;     /* [threads] CPU number for each thread, cpus[0] being the caller of
                            backend_cpu_open, which must be the compute thread; NULL: not pinned */
    const char *kernels; /* the class: "float", "int8", "bf16", or "auto" (int8) */
    uint64_t nodes;      /* where pool, swap, buffers and private weights shall lie: placement.h;
                            0: wherever. What the system refuses is logged once and left */
    const struct backend_cpu_weights *weights; /* NULL: packed into private memory */
    const char *variant; /* the instructions: NULL or "auto" for the best that this machine has, or
                            "scalar", "avx2", "avx512", "vnni", "bf16", "amx", "neon", "dotprod"
                            (tests; all compute the same bits) */
};

/* Starts the team and allocates scratch for limits; shape.rope_factors is copied.
 * Errors: ERR_BAD_INPUT (a name or number that is none of the above), ERR_UNSUPPORTED (a variant
 * this machine lacks, a KV type other than F16 or F32), ERR_NO_MEMORY. Weights that cannot be
 * shared are packed into private memory, and the log says why. */
status backend_cpu_open(const struct backend_shape *shape, const struct backend_limits *limits,
                        const struct backend_cpu_options *options, struct backend **backend_out);

/* The variants this machine can run, best last: "scalar", ... Returns how many; names_out has room
 * for CPU_VARIANTS_MAX. */
#define CPU_VARIANTS_MAX 8
uint32_t backend_cpu_variants(const char *names_out[CPU_VARIANTS_MAX]);

#endif
