/* tests/unit/transfer/device_sample.h - memory that only moves can reach, for the tests of
 * transfer/ where there is no GPU: kinds, order and sums as backend/moves.h says, done some polls
 * later, and every misuse of the contract is an assertion. With BATON_CUDA_PLUGIN the tests run on
 * the real one. */
#ifndef DEVICE_SAMPLE_H
#define DEVICE_SAMPLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/backend.h"
#include "unit/transfer/worker_sample.h"

struct sample_slot {
    bool used, done;
    uint64_t number;
    struct pool_move move;
    struct move_span spans[MOVE_SPANS_MAX];
    struct move_sum sums[MOVE_SPANS_MAX];
    uint32_t polls; /* until it is done */
};

struct sample_device {
    struct backend backend;
    uint8_t *memory, *host;
    size_t bytes;
    bool refuses;              /* pool_map says no */
    atomic_bool held;          /* nothing is over */
    atomic_bool map_held;      /* nor is pool_map */
    atomic_uint maps, mapping; /* mapping: in pool_map now */
    uint32_t slow_polls;
    uint64_t number; /* of moves, since the start */
    pthread_t caller;
    bool called;
    struct sample_slot slots[MOVES_MAX];
};

struct pool_map {
    const uint8_t *memory;
    uint64_t bytes;
};

static inline struct sample_device *sample_of(struct backend *backend)
{
    return (struct sample_device *)(void *)backend;
}

static inline void sample_one_thread(struct sample_device *device)
{
    if (!device->called)
        device->caller = pthread_self();
    device->called = true;
    assert_true(pthread_equal(device->caller, pthread_self()));
}

static inline status sample_export(struct backend *backend, uint8_t handle[POOL_HANDLE_BYTES])
{
    struct sample_device *device = sample_of(backend);
    uint64_t parts[3] = {0x53414d504c45, (uint64_t)(uintptr_t)device->memory, device->bytes};
    sample_one_thread(device);
    memset(handle, 0, POOL_HANDLE_BYTES);
    memcpy(handle, parts, sizeof(parts));
    return OK;
}

static inline status sample_map(struct backend *backend, const uint8_t handle[POOL_HANDLE_BYTES],
                                uint64_t bytes, struct pool_map **map_out)
{
    struct sample_device *device = sample_of(backend);
    uint64_t parts[3];
    assert_int_equal(atomic_fetch_add(&device->mapping, 1), 0);
    while (device->map_held)
        usleep(100);
    atomic_fetch_sub(&device->mapping, 1);
    memcpy(parts, handle, sizeof(parts));
    if (device->refuses)
        return error_set(ERR_UNSUPPORTED, "this sample maps nothing");
    if (parts[0] != 0x53414d504c45 || parts[2] < bytes)
        return error_set(ERR_BAD_INPUT, "not a handle");
    *map_out = malloc(sizeof(**map_out));
    **map_out = (struct pool_map){(const uint8_t *)(uintptr_t)parts[1], parts[2]};
    device->maps++;
    return OK;
}

static inline void sample_unmap(struct backend *backend, struct pool_map *map)
{
    struct sample_device *device = sample_of(backend);
    sample_one_thread(device);
    for (uint32_t i = 0; i < MOVES_MAX; i++)
        assert_false(device->slots[i].used && !device->slots[i].done &&
                     device->slots[i].move.map == map);
    device->maps--;
    free(map);
}

static inline status sample_start(struct backend *backend, const struct pool_move *move,
                                  uint32_t *ticket_out)
{
    struct sample_device *device = sample_of(backend);
    sample_one_thread(device);
    uint32_t ticket = 0;
    assert_in_range(move->span_count, 1, MOVE_SPANS_MAX);
    assert_int_equal(move->bytes % 16, 0);
    while (ticket < MOVES_MAX && device->slots[ticket].used)
        ticket++;
    if (ticket == MOVES_MAX)
        return ERR_FULL;
    struct sample_slot *slot = &device->slots[ticket];
    *slot = (struct sample_slot){.used = true,
                                 .number = ++device->number,
                                 .move = *move,
                                 .polls = random_below(4) + device->slow_polls};
    memcpy(slot->spans, move->spans, move->span_count * sizeof(slot->spans[0]));
    *ticket_out = ticket;
    return OK;
}

static inline bool sample_by_host(const struct sample_slot *slot)
{
    return slot->move.kind == MOVE_OUT || slot->move.kind == MOVE_IN;
}

static inline void sample_run(struct sample_device *device, struct sample_slot *slot)
{
    const struct pool_move *move = &slot->move;
    const uint8_t *from = move->kind == MOVE_FETCH ? move->map->memory
                          : move->kind == MOVE_IN  ? device->host
                                                   : device->memory;
    uint8_t *to = move->kind == MOVE_OUT ? device->host : device->memory;
    uint64_t room = move->kind == MOVE_FETCH ? move->map->bytes : device->bytes;
    for (uint32_t i = 0; i < move->span_count; i++) {
        const struct move_span *span = &slot->spans[i];
        assert_true(span->from % 16 == 0 && span->from + move->bytes <= room);
        struct checksum sum = checksum_of(from + span->from, move->bytes);
        slot->sums[i] = (struct move_sum){sum.a, sum.b};
        if (move->kind == MOVE_SUM)
            continue;
        assert_true(span->to % 16 == 0 && span->to + move->bytes <= device->bytes);
        memcpy(to + span->to, from + span->from, move->bytes);
    }
    slot->done = true;
}

static inline status sample_poll(struct backend *backend, uint32_t ticket, bool *over_out,
                                 struct move_sum *sums_out)
{
    struct sample_device *device = sample_of(backend);
    struct sample_slot *slot = &device->slots[ticket];
    sample_one_thread(device);
    assert_true(slot->used);
    *over_out = !device->held && slot->polls == 0;
    if (!*over_out) {
        slot->polls -= slot->polls > 0;
        return OK;
    }
    for (;;) { /* between host and pool: first what was started before it */
        struct sample_slot *next = slot;
        for (uint32_t i = 0; i < MOVES_MAX; i++) {
            struct sample_slot *other = &device->slots[i];
            if (other->used && !other->done && other->number < next->number &&
                sample_by_host(other) && sample_by_host(slot))
                next = other;
        }
        if (!next->done)
            sample_run(device, next);
        if (next == slot)
            break;
    }
    memcpy(sums_out, slot->sums, slot->move.span_count * sizeof(slot->sums[0]));
    slot->used = false;
    return OK;
}

static const struct backend_moves sample_moves = {
    .pool_export = sample_export,
    .pool_map = sample_map,
    .pool_unmap = sample_unmap,
    .start = sample_start,
    .poll = sample_poll,
};

#endif
