/* base/task_pool.h - a few threads for work that a loop must not wait for.
 *
 *     loop --post--> [ task | task ] --> thread --> task->run(task) --> done mailbox --> loop
 *
 * A task is embedded as the first member of a caller's struct. The pool owns it from post until it
 * arrives in the mailbox, then the loop does.
 *
 * Threads: post from one thread; run is called on one of the pool's.
 * Memory:  the queue is bounded by queue_max; a full pool is an answer, not a wait.
 */
#ifndef BASE_TASK_POOL_H
#define BASE_TASK_POOL_H

#include <stdint.h>

#include "base/mailbox.h"
#include "base/status.h"

struct task {
    struct mail mail; /* first: it comes back as mail */
    void (*run)(struct task *task);
};

struct task_pool;

/* done: where finished tasks go; stays the caller's. Errors: ERR_NO_MEMORY. */
status task_pool_open(uint32_t thread_count, uint32_t queue_max, struct mailbox *done,
                      struct task_pool **pool_out);

/* Finish what is queued and end the threads; finished tasks are in the mailbox then. */
void task_pool_close(struct task_pool *pool);

/* Errors: ERR_FULL (queue_max tasks wait already; the task stays the caller's). */
status task_pool_post(struct task_pool *pool, struct task *task);

#endif
