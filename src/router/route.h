/* router/route.h - the choice of workers as pure functions, for tests and the simulation. */
#ifndef ROUTER_ROUTE_H
#define ROUTER_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#define ROUTE_WORKERS_MAX 256

/* What the choice looks at. */
struct route_view {
    uint32_t roles;         /* WIRE_ROLE_ bits */
    bool usable;            /* registered, alive, not leaving */
    uint64_t queued_tokens; /* of prompts it has not computed yet */
    uint32_t decoding;      /* sequences given to it and not finished */
    uint32_t decode_batch;  /* most that it decodes at once; at least 1 */
};

/* Where to compute a prompt: of the workers with the role prefill (of all, when there is none) the
 * one with the fewest tokens before it. local: the same worker decodes, because it has both roles
 * or because nobody has the role decode. -1: no worker. */
int route_choose_prefill(const struct route_view *views, uint32_t count, bool *local_out);

/* Where to decode: of the workers with the role decode the one whose batch is least full. -1: none.
 */
int route_choose_decode(const struct route_view *views, uint32_t count);

#endif
