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

/* kernels: "float", "int8", "bf16" or "auto", as in cpu.h: with the instructions that the class's
 * products of BF16 or quantised weights are made of on this machine. variant: as in cpu.h. cpus:
 * one CPU per thread, or NULL. Cost: under 200 ms. Errors: ERR_NO_MEMORY, ERR_BAD_INPUT. */
status cpu_limits_measure(uint32_t threads, const int *cpus, const char *kernels,
                          const char *variant, struct cpu_limits *limits_out);

#endif
