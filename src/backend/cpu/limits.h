/* backend/cpu/limits.h - what this worker's cores can do at most: the denominators of "how near to
 * its limits does it run".
 *
 * Threads: starts and joins its own; call it before the compute thread is busy. Memory: a buffer of
 * 64 to 256 MB for the time of the call.
 */
#ifndef BACKEND_CPU_LIMITS_H
#define BACKEND_CPU_LIMITS_H

#include <stdint.h>

#include "base/status.h"

struct cpu_limits {
    double read_bytes_per_s; /* all threads streaming through memory beyond the caches */
    double operations_per_s; /* multiply and add count as two; of the class asked for */
};

/* kernels: "float", "int8" or "auto", as in cpu.h, or "bf16": products of bf16 numbers, 0 where the
 * machine has no instructions for them. variant: as in cpu.h. cpus: one CPU per thread, or NULL.
 * Cost: under 200 ms. Errors: ERR_NO_MEMORY, ERR_BAD_INPUT. */
status cpu_limits_measure(uint32_t threads, const int *cpus, const char *kernels,
                          const char *variant, struct cpu_limits *limits_out);

#endif
