/* model/jinja/machine.h - what a parse or a render runs on: memory, steps, depth, the way out.
 *
 * Everything that a parse or a render makes lies in one arena, and its output in one buffer, both
 * owned by the caller of machine_run. So a failure, however deep, has nothing to clean up on its
 * way: machine_fail writes the message and jumps out of machine_run, which answers the status. That
 * is why the functions of this folder return values and not statuses.
 *
 *     machine_run(m, body, context)     sets the way out, calls body(m, context)
 *         body -> ... -> machine_fail   message "line N: ...", back to machine_run
 *
 * Threads: one machine, one thread. Memory: the arena is the caller's, and must outlive all values.
 */
#ifndef MODEL_JINJA_MACHINE_H
#define MODEL_JINJA_MACHINE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/arena.h"
#include "base/status.h"

/* A growing buffer of output; the only memory of a machine that is not in the arena. */
struct output {
    char *data;
    size_t used, room;
    size_t limit_bytes;
};

struct machine {
    jmp_buf escape;
    status code; /* of the failure that jumped */
    struct arena *arena;
    struct output output;
    uint64_t steps_left;
    uint32_t depth, depth_limit;
    uint32_t line;        /* of the template, being parsed or evaluated */
    const struct tm *now; /* for strftime_now; NULL: ask the system */
};

/* Call body; OK when it returns, else the status given to machine_fail. */
status machine_run(struct machine *m, void (*body)(struct machine *m, void *context),
                   void *context);

/* Write "chat template line N: ..." as the error and leave. */
_Noreturn void machine_fail(struct machine *m, status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with the text as it is, no line: what raise_exception says. */
_Noreturn void machine_refuse(struct machine *m, const char *message, size_t bytes);

/* Spend steps; leaves with ERR_FULL when none are left. */
void machine_spend(struct machine *m, uint64_t steps);

/* Spend what moving or looking at so many bytes costs. */
void machine_spend_bytes(struct machine *m, size_t bytes);

/* One level deeper and back; leaves with ERR_FULL below the limit. A failure restores nothing:
 * the machine is done then. */
void machine_enter(struct machine *m);
void machine_leave(struct machine *m);

/* Zeroed memory; leaves with ERR_FULL or ERR_NO_MEMORY when there is none. */
void *machine_take(struct machine *m, size_t bytes);
void *machine_take_array(struct machine *m, size_t count, size_t size);

/* An array of count items with room for one more: the same array, or a copy of twice the room.
 * room is 0 and array NULL at first. */
void *machine_grow(struct machine *m, void *array, size_t count, size_t *room, size_t size);

void output_write(struct machine *m, const char *data, size_t bytes);

#endif
