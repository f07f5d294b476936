#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

/* While the device works the loop looks again and again, for a kernel takes some microseconds. When
 * nothing came for so long, another process has the device: then once a millisecond. */
#define MOVING_SPIN_NS 2000000u
#define MOVING_REST_MS 1
#define MOVING_AWAIT_NS 20000000u
#define MOVING_FORGET_NS 10000000000u

_Static_assert(OFFER_HANDLE_BYTES == POOL_HANDLE_BYTES, "a handle goes into a DEVICE message");
_Static_assert(CALL_BLOCKS <= MOVE_SPANS_MAX, "an offer is one move");

static const struct backend_moves *moving_calls(const struct transfer *transfer)
{
    return transfer->options.pool.device->moves;
}

/* Moves of the two streams overtake each other. */
static bool moving_by_host(const struct moving *moving)
{
    return moving->kind == MOVE_OUT || moving->kind == MOVE_IN;
}

static void moving_unlink(struct transfer *transfer, struct moving **place)
{
    struct moving *moving = *place;
    *place = moving->next;
    if (transfer->moving_tail == &moving->next)
        transfer->moving_tail = place;
}

static status moving_start(struct transfer *transfer, struct moving *moving)
{
    struct pool_move move = {.kind = moving->kind,
                             .map = moving->map,
                             .spans = moving->spans,
                             .span_count = moving->count,
                             .bytes = moving->bytes};
    status st =
        moving_calls(transfer)->start(transfer->options.pool.device, &move, &moving->ticket);
    moving->started = st == OK;
    return st;
}

/* The first one that is over, or cannot be started, taken out of the list; NULL: none is. Starts
 * what can be started. */
static struct moving *moving_take(struct transfer *transfer, status *st_out,
                                  struct move_sum sums[MOVE_SPANS_MAX])
{
    bool waits[2] = {false, false};
    for (struct moving **place = &transfer->moving; *place != NULL; place = &(*place)->next) {
        struct moving *moving = *place;
        bool by_host = moving_by_host(moving), over = false;
        status st = OK;
        if (!moving->started) {
            st = moving_start(transfer, moving);
            if (st == ERR_FULL)
                return NULL;
            over = st != OK;
        } else if (!waits[by_host]) {
            st = moving_calls(transfer)->poll(transfer->options.pool.device, moving->ticket, &over,
                                              sums);
        }
        waits[by_host] = true;
        if (!over)
            continue;
        moving_unlink(transfer, place);
        *st_out = st;
        return moving;
    }
    return NULL;
}

static size_t moving_run(void *owner)
{
    struct transfer *transfer = owner;
    struct move_sum sums[MOVE_SPANS_MAX];
    struct moving *moving;
    status st;
    while ((moving = moving_take(transfer, &st, sums)) != NULL) {
        transfer->moved_ns = clock_ns();
        moving->over(moving, st, sums);
        free(moving);
    }
    uint64_t now_ns = clock_ns();
    bool soon = transfer->moving != NULL && now_ns - transfer->moved_ns < MOVING_SPIN_NS;
    if (soon || now_ns < transfer->awake_ns) {
        work_add(transfer, &transfer->moving_work);
        return TURN_BYTES; /* others' messages before the next look */
    }
    if (transfer->moving != NULL)
        loop_timer_start(transfer->moving_timer, MOVING_REST_MS);
    return 0;
}

void moving_await(struct transfer *transfer)
{
    if (transfer->options.pool.device == NULL)
        return;
    transfer->awake_ns = clock_ns() + MOVING_AWAIT_NS;
    work_add(transfer, &transfer->moving_work);
}

static void moving_on_timer(void *ctx)
{
    struct transfer *transfer = ctx;
    work_add(transfer, &transfer->moving_work);
}

status moving_open(struct transfer *transfer)
{
    transfer->moving_work.run = moving_run;
    transfer->moving_work.owner = transfer;
    return loop_timer_open(transfer->loop, moving_on_timer, transfer, &transfer->moving_timer);
}

status moving_add(struct transfer *transfer, const struct moving_slices *slices)
{
    const struct transfer_slice *layer = &transfer->layers[slices->layer];
    size_t block_bytes = transfer->options.pool.block_bytes;
    for (uint32_t first = 0; first < slices->count;) {
        uint32_t count = slices->count - first;
        count = count < MOVE_SPANS_MAX ? count : MOVE_SPANS_MAX;
        struct moving *moving = calloc(1, sizeof(*moving) + count * sizeof(moving->spans[0]));
        if (moving == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for a move of %u blocks", count);
        moving->transfer = transfer;
        moving->kind = slices->kind;
        moving->map = slices->map;
        moving->owner = slices->owner;
        moving->over = slices->over;
        moving->number = slices->number;
        moving->first = first;
        moving->count = count;
        moving->bytes = layer->bytes;
        for (uint32_t i = 0; i < count; i++)
            moving->spans[i] = (struct move_span){
                .from = slices->from_ids[first + i] * (uint64_t)block_bytes + layer->offset,
                .to = slices->to_ids[first + i] * (uint64_t)block_bytes + layer->offset};
        *transfer->moving_tail = moving;
        transfer->moving_tail = &moving->next;
        first += count;
    }
    transfer->moved_ns = clock_ns();
    /* At once: the loop may have a lot to do before it comes to its work. */
    for (struct moving *moving = transfer->moving; moving != NULL; moving = moving->next) {
        if (!moving->started && moving_start(transfer, moving) != OK)
            break;
    }
    work_add(transfer, &transfer->moving_work);
    return OK;
}

/* Until it is over; a device that does not come to an end is left to who watches the worker. */
static void moving_wait(struct transfer *transfer, struct moving *moving)
{
    struct move_sum sums[MOVE_SPANS_MAX];
    uint64_t start_ns = clock_ns();
    bool over = false;
    while (!over) {
        moving_calls(transfer)->poll(transfer->options.pool.device, moving->ticket, &over, sums);
        uint64_t waited_ns = clock_ns() - start_ns;
        if (!over && waited_ns > MOVING_FORGET_NS) {
            log_error("a move of blocks does not end", "seconds=%u",
                      (unsigned)(MOVING_FORGET_NS / 1000000000u));
            return;
        }
        if (!over && waited_ns > MOVING_SPIN_NS)
            sched_yield();
    }
}

void moving_forget(struct transfer *transfer, const void *owner)
{
    for (struct moving **place = &transfer->moving; *place != NULL;) {
        struct moving *moving = *place;
        if (moving->owner != owner) {
            place = &moving->next;
            continue;
        }
        moving_unlink(transfer, place);
        if (moving->started)
            moving_wait(transfer, moving);
        free(moving);
    }
}

void moving_flip(struct transfer *transfer, uint32_t layer, uint32_t id)
{
    const struct transfer_slice *slice = &transfer->layers[layer];
    const struct transfer_pool *pool = &transfer->options.pool;
    uint64_t at = id * (uint64_t)pool->block_bytes + slice->offset;
    struct move_span span = {.from = at, .to = at};
    struct pool_move move = {
        .kind = MOVE_OUT, .spans = &span, .span_count = 1, .bytes = slice->bytes};
    struct moving moving = {.ticket = 0};
    if (pool->host == NULL ||
        moving_calls(transfer)->start(pool->device, &move, &moving.ticket) != OK)
        return;
    moving_wait(transfer, &moving);
    pool->host[at + slice->bytes / 2] ^= 0x10;
    move.kind = MOVE_IN;
    if (moving_calls(transfer)->start(pool->device, &move, &moving.ticket) == OK)
        moving_wait(transfer, &moving);
}
