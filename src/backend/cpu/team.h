/* backend/cpu/team.h - a team of threads that share out the chunks of one job at a time.
 *
 *     caller     team_run(90 chunks)   0 1 2 ...  29, then 89, 88 ---- all done, returns
 *     worker 1   sees the job          30 31 ...  59, then 87
 *     worker 2   (not scheduled)       60 61 ...  86
 *
 * Each thread has a share of its own, side by side in memory, and works through it from the front;
 * who is done takes what others have not begun, from the back. So nobody waits for a worker that
 * the system has taken its core from: it costs the job nothing but its part, and one that comes
 * late finds the job over and touches nothing of it. Which thread computes a chunk must not matter
 * to its result, but one that is there computes the same chunks of the same job each time, which
 * keeps what it has in its caches.
 *
 * Waiting spins for some microseconds, then sleeps in a futex.
 *
 * Threads:  open, run and close by one thread, which is the team's thread 0.
 * Memory:   the team's own; a run allocates nothing.
 */
#ifndef BACKEND_CPU_TEAM_H
#define BACKEND_CPU_TEAM_H

#include <stdint.h>

#include "base/status.h"

struct team;

/* One chunk of a job, on thread thread (0 .. threads - 1) of the team. */
typedef void team_call(void *ctx, uint32_t chunk, uint32_t thread);

/* threads - 1 workers are started; cpus as in cpu.h. Errors: ERR_NO_MEMORY, ERR_BAD_INPUT (a CPU
 * that cannot be pinned to). */
status team_open(uint32_t threads, const int *cpus, struct team **team_out);
void team_close(struct team *team);

uint32_t team_threads(const struct team *team);

/* Call chunks 0 .. chunk_count - 1 and return when all are done. With one thread, or one chunk,
 * they run in order on the caller with nothing synchronised. */
void team_run(struct team *team, uint32_t chunk_count, team_call *call, void *ctx);

#endif
