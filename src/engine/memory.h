/* engine/memory.h - how much memory this process may still take.
 *
 * Threads: any. Source: proc(5) MemAvailable; the kernel's cgroup-v2 and cgroup-v1 memory files.
 */
#ifndef ENGINE_MEMORY_H
#define ENGINE_MEMORY_H

#include <stdint.h>

/* The system's MemAvailable, or what the limits of this process' control groups leave (page cache
 * that they can drop counts as left), whichever is less. UINT64_MAX when nothing can be read. */
uint64_t memory_available_bytes(void);

#endif
