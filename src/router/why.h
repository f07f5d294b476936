/* router/why.h - the timelines of the last requests: what was chosen and what was not, where blocks
 * came from, and how long each part took.
 *
 * Threads:  the router's loop.
 * Memory:   a ring of 512 records of 3 KiB; what does not fit into a record is cut.
 */
#ifndef ROUTER_WHY_H
#define ROUTER_WHY_H

#include <stdint.h>

#include "base/status.h"
#include "http/text.h"
#include "wire/control.h"

struct router;
struct request;
struct worker;
struct route_choice;

/* What a request notes on its way. */
struct why {
    uint64_t sent_ns; /* to a worker, first */
    char choice[640];
    char moved_from[WIRE_NAME_BYTES]; /* whose queue it left last; "": none */
    char taker[160];                  /* who goes on with it, last; "": who computed it */
    char decode[WIRE_NAME_BYTES];
    uint64_t reserve_ns, placed_ns; /* 0: it was not */
    struct wire_first first;
    struct wire_handed handed; /* request_id 0: nothing was handed over yet */
    struct wire_saved saved;   /* the same of the store */
    struct wire_first taken;   /* by the taker; request_id 0: not yet. first stays as it was */
};

/* Errors: ERR_NO_MEMORY. */
status why_open(struct router *router);
void why_close(struct router *router);

void why_choice(struct request *request, const struct route_choice *choice,
                struct worker *const *workers);
void why_resume(struct request *request, const struct worker *worker, const struct worker *holder);
void why_move(struct request *request, const struct worker *from);
void why_reserve(struct request *request, const struct worker *worker);
void why_first(struct request *request, const struct wire_first *first);
void why_handed(struct request *request, const struct wire_handed *handed);
void why_saved(struct request *request, const struct wire_saved *saved);
/* It is over, in any way: its record is written. */
void why_end(const struct request *request);

/* All records, oldest first: "request ID" on a line, lines that begin with two spaces, an empty
 * line. */
void why_write(const struct router *router, struct text *text);

#endif
