/* base/loop.h - an event loop for one thread: timers, watched descriptors, a mailbox.
 *
 * Threads: a loop and all that is open on it belong to the thread that runs it; only loop_stop may
 *          be called from elsewhere (it is also safe in a signal handler).
 * Memory:  whoever opens a timer or watch closes it, before loop_close. Closing from inside its own
 *          callback is allowed.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/status.h"

struct event_base; /* libevent's, for http/ */
struct loop;
struct loop_timer;
struct loop_watch;

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

status loop_open(struct loop **loop_out);
void loop_close(struct loop *loop);

/* Run callbacks until loop_stop. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
struct event_base *loop_event_base(struct loop *loop);

/* A timer that is not yet running. Fires once per loop_timer_start; starting again moves it. */
status loop_timer_open(struct loop *loop, void (*fire)(void *ctx), void *ctx,
                       struct loop_timer **timer_out);
void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms);
void loop_timer_stop(struct loop_timer *timer);
void loop_timer_close(struct loop_timer *timer);

/* Call ready with the LOOP_READ / LOOP_WRITE bits that hold, for as long as they hold. The
 * descriptor stays the caller's. events may be 0 (nothing is watched until loop_watch_set). */
status loop_watch_open(struct loop *loop, int fd, int events, void (*ready)(void *ctx, int events),
                       void *ctx, struct loop_watch **watch_out);
void loop_watch_set(struct loop_watch *watch, int events);
void loop_watch_close(struct loop_watch *watch);

/* Call take with each mail of mailbox, oldest first; take owns it. When take closes the watch, the
 * mail that came in the same wake-up is still handed to it. */
status loop_mailbox_open(struct loop *loop, struct mailbox *mailbox,
                         void (*take)(void *ctx, struct mail *mail), void *ctx,
                         struct loop_watch **watch_out);

/* Call fire on a signal number (in the loop, not in signal context). */
status loop_signal_open(struct loop *loop, int number, void (*fire)(void *ctx, int number),
                        void *ctx, struct loop_watch **watch_out);

#endif
