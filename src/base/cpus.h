/* base/cpus.h - which cores a process or thread may use. Threads: any. */
#ifndef BASE_CPUS_H
#define BASE_CPUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define CPUS_MAX 1024

struct cpus {
    uint32_t count;
    uint32_t ids[CPUS_MAX]; /* ascending */
};

/* "0-3,8,10-11". Errors: ERR_BAD_INPUT (not such a list, or a core this process may not use). */
status cpus_parse(const char *text, struct cpus *cpus_out);

/* The same list without that question, as the kernel writes it; "" is no core. Errors:
 * ERR_BAD_INPUT. */
status cpus_list(const char *text, struct cpus *cpus_out);

/* What this process may use now. */
void cpus_allowed(struct cpus *cpus_out);

/* Write as text, in the form that cpus_parse reads. */
void cpus_format(const struct cpus *cpus, char *text, size_t bytes);

/* Part number part (0 .. parts - 1) of cpus cut into parts of equal size, as far as that goes; when
 * there are fewer cores than parts, parts share cores. Never empty. */
void cpus_share(const struct cpus *cpus, uint32_t part, uint32_t parts, struct cpus *share_out);

/* Bind the calling thread. Errors: ERR_IO. */
status cpus_bind(const struct cpus *cpus);

#endif
