/* base/thread.h - threads that leave the process's signals to its main loop.
 *
 * A thread starts with every signal blocked but those that its own instructions raise (SIGSEGV,
 * SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT): a thread that crashes ends its process. Its name, of
 * at most 15 characters, is what `top -H` and /proc/PID/task/TID/comm show.
 *
 * Threads: any.
 * Source:  pthread_create(3), pthread_sigmask(3), pthread_setname_np(3).
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>

#include "base/status.h"

/* Run run(ctx) in a thread of its own, which the caller joins. Errors: ERR_NO_MEMORY. */
status thread_start(const char *name, void *(*run)(void *ctx), void *ctx, pthread_t *thread_out);

#endif
