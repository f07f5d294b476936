/* base/placement.h - ask the kernel for memory on given nodes (base/topology.h), by libnuma.
 *
 *     no node         the kernel's own way: near the thread that touches a page first
 *     one node        there while it has free pages, then elsewhere ("prefer")
 *     several nodes   page by page over them ("interleave")
 *
 * Preferred and not bound: pools are filled page by page as blocks are used, long after the start.
 * Where a strict policy finds the node full the kernel ends the process, though another node has
 * room; a page on another node is only slower.
 *
 * libnuma is loaded when it is first needed, not linked: without it, in a container whose filter
 * forbids the calls, and in a kernel without them, all of this answers ERR_UNSUPPORTED, memory
 * comes from wherever the kernel likes, and nothing else changes.
 *
 * Threads: any.
 */
#ifndef BASE_PLACEMENT_H
#define BASE_PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* For the pages of [base, base + bytes) that are not there yet; base is that of a mapping, and of
 * one of a regular file the kernel takes no notice. Errors: ERR_UNSUPPORTED, ERR_IO (no such node).
 */
status placement_apply(void *base, size_t bytes, uint64_t nodes);

/* For what the calling thread, and threads that it starts from now on, touch first, where no range
 * says otherwise; also for what they have the kernel read into its page cache. Errors: as above. */
status placement_thread(uint64_t nodes);

/* As /proc/PID/numa_maps has it: "default", "prefer:0", "interleave:0-1". */
void placement_text(uint64_t nodes, char *text_out, size_t text_bytes);

#endif
