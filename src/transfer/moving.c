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

/* While so many moves are under way the device has enough to do, and smaller ones wait: small moves
 * cost a launch each and fill no link, so what waits goes together (16 layers of 8 blocks in one
 * move). One that is large enough, or comes alone, starts at once. */
#define MOVING_AHEAD 4u
#define MOVING_LARGE_SPANS (MOVE_SPANS_MAX * 3 / 4)

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

/* ---- parts that go to the device together ---- */

/* What waits behind first and goes with it, first too: of one owner, kind and size, as far as there
 * is room. Answers how many parts; spans_out: of all of them. */
static uint32_t moving_group(const struct moving *first, uint32_t *spans_out)
{
    uint32_t parts = 0, spans = 0;
    for (const struct moving *part = first;
         part != NULL && part->owner == first->owner && part->kind == first->kind &&
         part->map == first->map && part->bytes == first->bytes &&
         spans + part->count <= MOVE_SPANS_MAX;
         part = part->next) {
        spans += part->count;
        parts++;
    }
    *spans_out = spans;
    return parts;
}

/* Begin this one and what goes with it. False: not now. It is over when it cannot be. */
static bool moving_start(struct transfer *transfer, struct moving *first)
{
    struct move_span spans[MOVE_SPANS_MAX];
    uint32_t count, parts = moving_group(first, &count), at = 0;
    if (transfer->moves_open >= MOVING_AHEAD && count < MOVING_LARGE_SPANS)
        return false;
    for (struct moving *part = first; at < count; part = part->next) {
        for (uint32_t i = 0; i < part->count; i++)
            spans[at++] = part->spans[i].of;
    }
    struct pool_move move = {.kind = first->kind,
                             .map = first->map,
                             .spans = spans,
                             .span_count = count,
                             .bytes = first->bytes};
    status st = moving_calls(transfer)->start(transfer->options.pool.device, &move, &first->ticket);
    if (st == ERR_FULL)
        return false;
    transfer->moves_open += st == OK;
    first->parts = parts;
    for (struct moving *part = first; parts > 0; part = part->next, parts--) {
        part->started = true;
        part->is_over = st != OK;
        part->result = st;
    }
    return true;
}

/* Is it over? Then each part has its own sums. */
static void moving_poll(struct transfer *transfer, struct moving *first)
{
    struct move_sum sums[MOVE_SPANS_MAX], *next = sums;
    bool over = false;
    status st =
        moving_calls(transfer)->poll(transfer->options.pool.device, first->ticket, &over, sums);
    if (!over)
        return;
    transfer->moves_open--;
    struct moving *part = first;
    for (uint32_t n = 0; n < first->parts; n++, part = part->next) {
        part->is_over = true;
        part->result = st;
        for (uint32_t i = 0; i < part->count; i++)
            part->spans[i].sum = *next++;
    }
}

/* The first one that is over, taken out of the list; NULL: none is. Starts what can be started. */
static struct moving *moving_take(struct transfer *transfer)
{
    bool waits[2] = {false, false};
    for (struct moving **place = &transfer->moving; *place != NULL; place = &(*place)->next) {
        struct moving *moving = *place;
        bool by_host = moving_by_host(moving);
        if (!moving->started && !moving_start(transfer, moving))
            return NULL;
        if (moving->parts > 0 && !moving->is_over && !waits[by_host])
            moving_poll(transfer, moving);
        waits[by_host] = true;
        if (!moving->is_over)
            continue;
        moving_unlink(transfer, place);
        return moving;
    }
    return NULL;
}

static size_t moving_run(void *owner)
{
    struct transfer *transfer = owner;
    struct move_sum sums[MOVE_SPANS_MAX];
    struct moving *moving;
    while ((moving = moving_take(transfer)) != NULL) {
        transfer->moved_ns = clock_ns();
        for (uint32_t i = 0; i < moving->count; i++)
            sums[i] = moving->spans[i].sum;
        moving->over(moving, moving->result, sums);
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
            moving->spans[i].of = (struct move_span){
                .from = slices->from_ids[first + i] * (uint64_t)block_bytes + layer->offset,
                .to = slices->to_ids[first + i] * (uint64_t)block_bytes + layer->offset};
        *transfer->moving_tail = moving;
        transfer->moving_tail = &moving->next;
        first += count;
    }
    transfer->moved_ns = clock_ns();
    /* At once: the loop may have a lot to do before it comes to its work. */
    for (struct moving *moving = transfer->moving; moving != NULL; moving = moving->next) {
        if (!moving->started && !moving_start(transfer, moving))
            break;
    }
    work_add(transfer, &transfer->moving_work);
    return OK;
}

/* Until it is over; a device that does not come to an end is left to who watches the worker. */
static void moving_wait(struct transfer *transfer, uint32_t ticket)
{
    struct move_sum sums[MOVE_SPANS_MAX];
    uint64_t start_ns = clock_ns();
    bool over = false;
    while (!over) {
        moving_calls(transfer)->poll(transfer->options.pool.device, ticket, &over, sums);
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
        if (moving->parts > 0 && !moving->is_over) {
            moving_wait(transfer, moving->ticket);
            transfer->moves_open--;
        }
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
    uint32_t ticket;
    if (pool->host == NULL || moving_calls(transfer)->start(pool->device, &move, &ticket) != OK)
        return;
    moving_wait(transfer, ticket);
    pool->host[at + slice->bytes / 2] ^= 0x10;
    move.kind = MOVE_IN;
    if (moving_calls(transfer)->start(pool->device, &move, &ticket) == OK)
        moving_wait(transfer, ticket);
}
