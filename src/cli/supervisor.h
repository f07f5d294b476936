/* cli/supervisor.h - child processes of serve: started, watched, started again, ended in order.
 *
 *     add (name, argv) ... start -> running --dies--> waits (0.25 s, doubled up to 5 s) -> running
 *     end: stage 0 gets SIGTERM; when it has gone, stage 1 does; ...; kill: SIGKILL for all
 *
 * A child that ends with an error before all was ever useful (supervisor_useful), or is killed
 * three times, is given up, and with it everything: its own message on standard error says why.
 *
 * Threads: the loop's. Memory: names and arguments are copied.
 */
#ifndef CLI_SUPERVISOR_H
#define CLI_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"

struct supervisor;

/* on_over(ctx, failed): no child is left, or one was given up (failed). Called once. */
status supervisor_open(struct loop *loop, void (*on_over)(void *ctx, bool failed), void *ctx,
                       struct supervisor **supervisor_out);
/* Kills what is left. */
void supervisor_close(struct supervisor *supervisor);

/* argv: NULL-terminated, argv[0] included; stage: when it is ended, 0 first. keep_fd: a descriptor
 * that this child inherits in its first life, or -1. Errors: ERR_NO_MEMORY. */
status supervisor_add(struct supervisor *supervisor, const char *name, uint32_t stage,
                      char *const *argv, int keep_fd);

/* Start all. Errors: ERR_IO. */
status supervisor_start(struct supervisor *supervisor);

/* The whole works: from now on every death is worth a new start. */
void supervisor_useful(struct supervisor *supervisor);

/* End in order of stages; called again: at once. */
void supervisor_end(struct supervisor *supervisor);

#endif
