/* tests/sim/fake_transfer.h - transfer/transfer.h without threads, sockets and clock.
 *
 *     holder: lease_open, offer ..., complete          receiver: receive
 *        |  offers, with a copy of what was offered        |  subscribed after a while
 *        +-------- fake_transfer_tick: some slices land ---+
 *     report HOLDER_DONE, some ticks later              report RECEIVED, FAILED or CANCELLED
 *
 * A program that includes this defines the calls of transfer/ itself, so the linker takes nothing
 * from the library's transfer. A millisecond of a deadline is a tick. Beside moving blocks it
 * watches the contract: what is on offer does not change until HOLDER_DONE, nobody but the receive
 * writes into a receive's blocks, every lease and receive is reported once, and a slice that is
 * offered has the bytes that landed or were offered there before, while its block's fill is the
 * same.
 */
#ifndef TESTS_FAKE_TRANSFER_H
#define TESTS_FAKE_TRANSFER_H

#include "scheduler_rig.h"

#define FAKE_LAYERS_MAX 4
#define FAKE_BLOCKS_MAX 64
#define FAKE_POOL_MAX 256
#define FAKE_HANDOFFS_MAX 512
#define FAKE_REPORTS_MAX 2048

/* As transfer/sums.c has it. */
struct fake_sum {
    uint64_t fill;
    struct checksum sum;
};

struct transfer {
    struct station *station;
    struct fake_sum sums[FAKE_LAYERS_MAX][FAKE_POOL_MAX];
    size_t layer_offset[FAKE_LAYERS_MAX], layer_bytes[FAKE_LAYERS_MAX];
    uint32_t layer_count;
};

struct fake_lease {
    struct transfer *holder;
    struct lease_id id;
    uint64_t request_id;
    uint32_t epoch;
    bool open;
    uint64_t expiry;
    uint32_t ids[FAKE_LAYERS_MAX][FAKE_BLOCKS_MAX]; /* UINT32_MAX: not offered */
    uint8_t *copies[FAKE_LAYERS_MAX][FAKE_BLOCKS_MAX];
    bool complete;
    uint32_t block_count;
    uint8_t payload[4096];
    uint32_t payload_bytes;
};

struct fake_receive {
    struct transfer *receiver;
    struct lease_id id;
    uint64_t request_id;
    uint32_t epoch;
    bool open;
    uint64_t subscribed, deadline; /* ticks */
    uint32_t first_index, count;
    uint32_t ids[FAKE_BLOCKS_MAX];
    bool landed[FAKE_LAYERS_MAX][FAKE_BLOCKS_MAX];
    uint8_t *copies[FAKE_LAYERS_MAX][FAKE_BLOCKS_MAX]; /* of what landed: the lease's */
};

struct fake_report {
    struct transfer *to;
    uint64_t due;
    struct transfer_report report;
};

static struct fake_lease fake_leases[FAKE_HANDOFFS_MAX];
static struct fake_receive fake_receives[FAKE_HANDOFFS_MAX];
static struct fake_report fake_reports[FAKE_REPORTS_MAX];
static uint32_t fake_lease_count, fake_receive_count, fake_report_count;
static uint64_t fake_now;
static struct rig_random fake_random;
static uint32_t fake_fault_percent; /* of handoffs that break */
static uint64_t fake_handoffs;      /* completed since the program began */
static uint64_t fake_known;         /* slices offered whose sum was known, since then */

static inline void fake_transfer_open(struct transfer *transfer, struct station *station)
{
    const struct kv_layout *layout = engine_layout(station->engine);
    memset(transfer->sums, 0, sizeof(transfer->sums));
    transfer->station = station;
    assert_true(station->block_count <= FAKE_POOL_MAX);
    transfer->layer_count = layout->shape.layer_count;
    assert_true(transfer->layer_count <= FAKE_LAYERS_MAX);
    for (uint32_t i = 0; i < transfer->layer_count; i++)
        kv_layout_layer(layout, i, &transfer->layer_offset[i], &transfer->layer_bytes[i]);
}

static inline void fake_transfer_reset(uint64_t seed, uint32_t fault_percent)
{
    for (uint32_t i = 0; i < fake_lease_count; i++) {
        for (uint32_t l = 0; l < FAKE_LAYERS_MAX; l++) {
            for (uint32_t b = 0; b < FAKE_BLOCKS_MAX; b++)
                free(fake_leases[i].copies[l][b]);
        }
    }
    memset(fake_leases, 0, fake_lease_count * sizeof(fake_leases[0]));
    memset(fake_receives, 0, fake_receive_count * sizeof(fake_receives[0]));
    fake_lease_count = fake_receive_count = fake_report_count = 0;
    fake_now = 0;
    fake_random = (struct rig_random){seed ^ 0x7a115f3u};
    fake_fault_percent = fault_percent;
}

static inline uint8_t *fake_slice(const struct transfer *transfer, uint32_t layer, uint32_t block)
{
    const struct backend_pool *pool = engine_pool(transfer->station->engine);
    assert_true(block < transfer->station->block_count);
    return pool->host + block * engine_block_bytes(transfer->station->engine) +
           transfer->layer_offset[layer];
}

/* A slice has landed, or is offered. */
static inline void fake_book(struct transfer *transfer, uint32_t layer, uint32_t block, bool landed)
{
    const struct fake_sum now = {
        .fill = prefix_tree_fills(transfer->station->tree)[block],
        .sum = checksum_of(fake_slice(transfer, layer, block), transfer->layer_bytes[layer])};
    struct fake_sum *known = &transfer->sums[layer][block];
    assert_true(now.fill != 0);
    if (!landed && known->fill == now.fill) {
        assert_true(checksum_equal(known->sum, now.sum));
        fake_known++;
    }
    *known = now;
}

/* ---- reports ---- */

static inline void fake_say(struct transfer *to, uint32_t kind, status code, const char *text,
                            const struct lease_id *lease, uint64_t request_id,
                            const struct fake_lease *received)
{
    assert_true(fake_report_count < FAKE_REPORTS_MAX);
    struct fake_report *r = &fake_reports[fake_report_count++];
    *r = (struct fake_report){.to = to, .due = fake_now + rig_below(&fake_random, 12)};
    r->report.mail.kind = kind;
    r->report.status = code;
    r->report.lease = *lease;
    r->report.request_id = request_id;
    r->report.carrier = TRANSFER_SHM;
    snprintf(r->report.text, sizeof(r->report.text), "%s", text);
    if (received != NULL) {
        r->report.payload = malloc(received->payload_bytes);
        assert_non_null(r->report.payload);
        memcpy(r->report.payload, received->payload, received->payload_bytes);
        r->report.payload_bytes = received->payload_bytes;
    }
}

static inline struct fake_lease *fake_lease_find(const struct lease_id *id)
{
    for (uint32_t i = 0; i < fake_lease_count; i++) {
        if (fake_leases[i].open && lease_id_equal(&fake_leases[i].id, id))
            return &fake_leases[i];
    }
    return NULL;
}

static inline struct fake_receive *fake_receive_find(const struct lease_id *id)
{
    for (uint32_t i = 0; i < fake_receive_count; i++) {
        if (fake_receives[i].open && lease_id_equal(&fake_receives[i].id, id))
            return &fake_receives[i];
    }
    return NULL;
}

/* What is on offer is as it was. */
static inline void fake_lease_check(const struct fake_lease *lease)
{
    for (uint32_t l = 0; l < lease->holder->layer_count; l++) {
        for (uint32_t b = 0; b < FAKE_BLOCKS_MAX; b++) {
            if (lease->copies[l][b] != NULL)
                assert_memory_equal(fake_slice(lease->holder, l, lease->ids[l][b]),
                                    lease->copies[l][b], lease->holder->layer_bytes[l]);
        }
    }
}

static inline void fake_lease_end(struct fake_lease *lease, status code, const char *text)
{
    assert_true(lease->open);
    fake_lease_check(lease);
    lease->open = false;
    fake_say(lease->holder, TRANSFER_HOLDER_DONE, code, text, &lease->id, lease->request_id, NULL);
}

static inline void fake_receive_end(struct fake_receive *receive, uint32_t kind, status code,
                                    const char *text, const struct fake_lease *received)
{
    assert_true(receive->open);
    for (uint32_t l = 0; l < receive->receiver->layer_count; l++) {
        for (uint32_t i = 0; i < receive->count; i++) {
            if (receive->landed[l][i])
                assert_memory_equal(fake_slice(receive->receiver, l, receive->ids[i]),
                                    receive->copies[l][i], receive->receiver->layer_bytes[l]);
        }
    }
    receive->open = false;
    fake_say(receive->receiver, kind, code, text, &receive->id, receive->request_id, received);
    fake_reports[fake_report_count - 1].report.block_count = received != NULL ? receive->count : 0;
}

/* ---- the calls of transfer/ ---- */

status transfer_lease_open(struct transfer *transfer, const struct lease_id *lease,
                           uint64_t request_id, uint32_t epoch, uint32_t expiry_ms)
{
    assert_null(fake_lease_find(lease));
    assert_true(fake_lease_count < FAKE_HANDOFFS_MAX);
    struct fake_lease *opened = &fake_leases[fake_lease_count++];
    memset(opened->ids, 0xff, sizeof(opened->ids));
    opened->holder = transfer;
    opened->id = *lease;
    opened->request_id = request_id;
    opened->epoch = epoch;
    opened->open = true;
    opened->expiry = fake_now + expiry_ms;
    return OK;
}

void transfer_offer(struct transfer *transfer, const struct lease_id *lease, uint32_t layer,
                    uint32_t first_index, const uint32_t *block_ids, uint32_t count,
                    const struct checksum *checksums)
{
    struct fake_lease *to = fake_lease_find(lease);
    (void)checksums;
    if (to == NULL)
        return;
    assert_ptr_equal(to->holder, transfer);
    assert_true(!to->complete && layer < transfer->layer_count);
    assert_true(count > 0 && first_index + count <= FAKE_BLOCKS_MAX);
    const struct fake_receive *receive = fake_receive_find(lease);
    assert_true(receive == NULL || first_index >= receive->first_index); /* it has the others */
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(to->ids[layer][first_index + i], UINT32_MAX); /* offered once */
        uint8_t *copy = malloc(transfer->layer_bytes[layer]);
        assert_non_null(copy);
        fake_book(transfer, layer, block_ids[i], false);
        memcpy(copy, fake_slice(transfer, layer, block_ids[i]), transfer->layer_bytes[layer]);
        to->ids[layer][first_index + i] = block_ids[i];
        to->copies[layer][first_index + i] = copy;
    }
}

status transfer_complete(struct transfer *transfer, const struct lease_id *lease,
                         uint32_t block_count, const void *payload, uint32_t payload_bytes)
{
    struct fake_lease *to = fake_lease_find(lease);
    (void)transfer;
    if (to == NULL)
        return OK;
    assert_true(!to->complete && payload_bytes <= sizeof(to->payload));
    to->complete = true;
    to->block_count = block_count;
    memcpy(to->payload, payload, payload_bytes);
    to->payload_bytes = payload_bytes;
    return OK;
}

void transfer_lease_close(struct transfer *transfer, const struct lease_id *lease)
{
    struct fake_lease *closed = fake_lease_find(lease);
    (void)transfer;
    if (closed == NULL)
        return;
    fake_lease_end(closed, ERR_CANCELLED, "the holder took the lease back");
    struct fake_receive *receive = fake_receive_find(lease);
    if (receive != NULL && receive->subscribed <= fake_now)
        fake_receive_end(receive, TRANSFER_FAILED, ERR_CANCELLED, "the holder took it back", NULL);
}

status transfer_receive(struct transfer *transfer, const struct transfer_wish *wish)
{
    assert_null(fake_receive_find(&wish->lease));
    assert_true(fake_receive_count < FAKE_HANDOFFS_MAX);
    assert_true(wish->block_count >= 1 && wish->block_count <= FAKE_BLOCKS_MAX);
    struct fake_receive *receive = &fake_receives[fake_receive_count++];
    *receive = (struct fake_receive){.receiver = transfer,
                                     .id = wish->lease,
                                     .request_id = wish->request_id,
                                     .epoch = wish->epoch,
                                     .open = true,
                                     .subscribed = fake_now + rig_below(&fake_random, 20),
                                     .deadline = fake_now + wish->deadline_ms,
                                     .first_index = wish->first_index,
                                     .count = wish->block_count};
    memcpy(receive->ids, wish->block_ids, wish->block_count * sizeof(*wish->block_ids));
    return OK;
}

void transfer_receive_cancel(struct transfer *transfer, const struct lease_id *lease)
{
    struct fake_receive *receive = fake_receive_find(lease);
    (void)transfer;
    if (receive == NULL)
        return;
    bool subscribed = receive->subscribed <= fake_now;
    fake_receive_end(receive, TRANSFER_CANCELLED, ERR_CANCELLED, "given up", NULL);
    struct fake_lease *holder = fake_lease_find(lease);
    if (holder != NULL && subscribed)
        fake_lease_end(holder, ERR_CLOSED, "the receiver gave up");
}

void transfer_report_free(struct transfer_report *report)
{
    free(report->payload);
}

/* ---- time ---- */

static inline bool fake_land(struct fake_receive *receive, const struct fake_lease *lease,
                             uint32_t slices)
{
    struct transfer *to = receive->receiver, *from = lease->holder;
    bool whole = lease->complete;
    for (uint32_t i = 0; i < receive->count; i++) {
        for (uint32_t l = 0; l < to->layer_count; l++) {
            uint32_t id = lease->ids[l][receive->first_index + i];
            if (receive->landed[l][i])
                continue;
            if (id == UINT32_MAX || slices == 0) {
                whole = false;
                continue;
            }
            slices--;
            memcpy(fake_slice(to, l, receive->ids[i]), fake_slice(from, l, id), to->layer_bytes[l]);
            receive->copies[l][i] = lease->copies[l][receive->first_index + i];
            receive->landed[l][i] = true;
            fake_book(to, l, receive->ids[i], true);
        }
    }
    return whole;
}

static inline void fake_receive_tick(struct fake_receive *receive)
{
    struct fake_lease *lease =
        receive->subscribed <= fake_now ? fake_lease_find(&receive->id) : NULL;
    if (receive->deadline <= fake_now) {
        fake_receive_end(receive, TRANSFER_FAILED, ERR_TIMEOUT, "the deadline passed", NULL);
        if (lease != NULL)
            fake_lease_end(lease, ERR_CLOSED, "the receiver gave up");
        return;
    }
    if (lease == NULL)
        return;
    assert_int_equal(lease->epoch, receive->epoch);
    fake_lease_check(lease);
    if (rig_below(&fake_random, 2000) < fake_fault_percent) {
        bool corrupt = rig_below(&fake_random, 2) == 0;
        fake_receive_end(receive, TRANSFER_FAILED, corrupt ? ERR_CORRUPT : ERR_CLOSED,
                         "the link broke", NULL);
        fake_lease_end(lease, ERR_CLOSED, "the link broke");
    } else if (fake_land(receive, lease, rig_below(&fake_random, 16))) {
        assert_true(lease->block_count == receive->first_index + receive->count);
        fake_receive_end(receive, TRANSFER_RECEIVED, OK, "", lease);
        fake_lease_end(lease, OK, "");
        fake_handoffs++;
    }
}

/* A tick: handoffs get on, deadlines pass, and reports that are due reach their station. */
static inline void fake_transfer_tick(void)
{
    fake_now++;
    for (uint32_t i = 0; i < fake_receive_count; i++) {
        if (fake_receives[i].open)
            fake_receive_tick(&fake_receives[i]);
    }
    for (uint32_t i = 0; i < fake_lease_count; i++) {
        struct fake_lease *lease = &fake_leases[i];
        if (!lease->open || lease->expiry > fake_now)
            continue;
        struct fake_receive *receive = fake_receive_find(&lease->id);
        fake_lease_end(lease, ERR_TIMEOUT, "the lease ran out");
        if (receive != NULL && receive->subscribed <= fake_now)
            fake_receive_end(receive, TRANSFER_FAILED, ERR_CLOSED, "the lease ran out", NULL);
    }
    uint32_t kept = 0, count = fake_report_count;
    for (uint32_t i = 0; i < count; i++) {
        if (fake_reports[i].due > fake_now) {
            fake_reports[kept++] = fake_reports[i];
            continue;
        }
        struct fake_report r = fake_reports[i];
        /* Reports that this makes come after those that are here: move them there afterwards. */
        bool taken = r.report.mail.kind == TRANSFER_HOLDER_DONE
                         ? prefill_released(r.to->station->prefill, &r.report)
                         : decode_received(r.to->station->decode, &r.report);
        assert_true(taken);
        transfer_report_free(&r.report);
    }
    memmove(fake_reports + kept, fake_reports + count,
            (fake_report_count - count) * sizeof(fake_reports[0]));
    fake_report_count = kept + (fake_report_count - count);
}

static inline bool fake_transfer_idle(void)
{
    bool idle = fake_report_count == 0;
    for (uint32_t i = 0; i < fake_lease_count; i++)
        idle = idle && !fake_leases[i].open;
    for (uint32_t i = 0; i < fake_receive_count; i++)
        idle = idle && !fake_receives[i].open;
    return idle;
}

#endif
