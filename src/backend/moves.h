/* backend/moves.h - a device moves parts of its pool for the carriers, while steps go on.
 *
 *      memory of the host                   the pool                 another process' pool,
 *      (backend_pool.host)                                           mapped by its handle
 *             | <---------- MOVE_OUT ---------- | <------ MOVE_FETCH -------- |
 *             | ----------- MOVE_IN ----------> |
 *                                           MOVE_SUM
 *
 * A move is of many spans of one length, on a stream that is not the steps', and gives the sums of
 * the bytes that it read, as wire/checksum.h defines them. What a move reads must be done when it
 * is started (layer_ready); what it wrote is there when poll says so. Moves between host and pool
 * happen in the order in which they were started; all others in any order, some at once.
 *
 * Threads: one thread makes all of these calls (the transfer thread), and another one pool_map,
 *          meanwhile; neither need be the compute thread. Before the backend's close every move is
 *          over and every map unmapped.
 * Memory:  what is given is copied.
 */
#ifndef BACKEND_MOVES_H
#define BACKEND_MOVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define MOVE_SPANS_MAX 128u
#define MOVES_MAX 16u         /* under way at once */
#define POOL_HANDLE_BYTES 128 /* what another process needs to map a pool; means nothing else */

struct backend;
struct pool_map; /* another process' pool, here */

enum move_kind {
    MOVE_SUM,   /* the pool; nothing is written */
    MOVE_OUT,   /* pool -> host */
    MOVE_IN,    /* host -> pool */
    MOVE_FETCH, /* map -> pool */
};

/* Bytes from the start of either place; to is not looked at by MOVE_SUM. */
struct move_span {
    uint64_t from, to;
};

struct move_sum {
    uint64_t a, b;
};

struct pool_move {
    enum move_kind kind;
    const struct pool_map *map; /* MOVE_FETCH */
    const struct move_span *spans;
    uint32_t span_count; /* 1 .. MOVE_SPANS_MAX */
    size_t bytes;        /* of each; offsets and it are multiples of 16 */
};

struct backend_moves {
    /* What another process of this host maps our pool with. Errors: ERR_UNSUPPORTED. */
    status (*pool_export)(struct backend *backend, uint8_t handle_out[POOL_HANDLE_BYTES]);

    /* The pool behind a handle, of at least so many bytes, readable by MOVE_FETCH until unmap.
     * May take tens of milliseconds. Errors: ERR_BAD_INPUT (not a handle, or a smaller pool),
     * ERR_UNSUPPORTED (its device is not visible here, or cannot be read from ours). */
    status (*pool_map)(struct backend *backend, const uint8_t handle[POOL_HANDLE_BYTES],
                       uint64_t bytes, struct pool_map **map_out);

    /* No move from it is under way. */
    void (*pool_unmap)(struct backend *backend, struct pool_map *map);

    /* Errors: ERR_FULL (MOVES_MAX are under way: poll them), ERR_IO (the device failed; so do all
     * moves after it). */
    status (*start)(struct backend *backend, const struct pool_move *move, uint32_t *ticket_out);

    /* Is it over? Then the ticket is given back, and sums_out has [span_count]. Costs one look at
     * memory. Errors: ERR_IO: it is over too, and its bytes are not there. */
    status (*poll)(struct backend *backend, uint32_t ticket, bool *over_out,
                   struct move_sum *sums_out);
};

#endif
