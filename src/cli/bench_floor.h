/* cli/bench_floor.h - the floors of this machine, for baton bench floor and baton bench engine.
 *
 * Threads: the main one.
 */
#ifndef CLI_BENCH_FLOOR_H
#define CLI_BENCH_FLOOR_H

#include <jansson.h>
#include <stdint.h>

#include "backend/cpu/limits.h"
#include "base/status.h"

/* Per second, of all threads together; multiply and add count as two. 0: no such instructions. */
struct bench_floor {
    uint32_t threads;
    double read_bytes_per_s, float_per_s, int8_per_s, bf16_per_s;
};

/* Medians of repeat measurements, of 80 ms each. Errors: those of cpu_limits_measure. */
status floor_measure(uint32_t threads, const char *variant, uint32_t repeat,
                     struct bench_floor *floor_out);

/* NULL when there is no memory. */
json_t *floor_json(const struct bench_floor *floor);

/* Write root to path, or to standard output for "-", and drop it. Errors: ERR_IO, ERR_NO_MEMORY
 * (root is NULL). */
status bench_json_write(json_t *root, const char *path);

/* asked, or all cores that the process may use for 0. */
uint32_t bench_threads(uint32_t asked);

#endif
