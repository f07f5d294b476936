/* Pools in the memory of a device: over cuda-ipc, and by way of the host over shm and tcp, on a
 * device, from a device and to one. Content is put in before the transfer opens and looked at after
 * it has closed, because only one thread may use a device's moves.
 *
 * With BATON_CUDA_PLUGIN=baton-cuda.so all of it runs on GPUs (BATON_CUDA_DEVICES=cuda:0,cuda:1:
 * holder and receiver on two), and also between processes, where one is killed. */
#include "unit/transfer/device_sample.h"

#include <sys/prctl.h>
#include <sys/stat.h>

#include "backend/device.h"

#define BLOCKS 300u
#define KILLED_WITHIN_MS 1000

static const char *plugin; /* NULL: the sample */
static char device_words[2][16] = {"cuda:0", "cuda:0"};

struct side {
    struct worker worker; /* its pool.host is memory of the host */
    struct backend *device;
    struct sample_device *sample;
    uint8_t *content; /* of the pool, as it was put in or last looked at */
};

static struct shape shape_aligned(uint32_t bytes_max)
{
    struct shape shape = {.layer_count = 1 + random_below(LAYERS_MAX), .block_count = BLOCKS};
    size_t bytes = 16 * (1 + random_below(bytes_max / 16));
    for (uint32_t i = 0; i < shape.layer_count; i++)
        shape.layers[i] = (struct transfer_slice){.offset = i * bytes, .bytes = bytes};
    shape.block_bytes = shape.layer_count * bytes;
    return shape;
}

/* One move for each block, by hand. */
static void side_move(struct side *side, enum move_kind kind)
{
    static struct move_sum sums[MOVE_SPANS_MAX];
    size_t bytes = side->worker.pool.block_bytes;
    for (uint32_t id = 0; id < side->worker.pool.block_count; id++) {
        struct move_span span = {.from = id * bytes, .to = id * bytes};
        struct pool_move move = {.kind = kind, .spans = &span, .span_count = 1, .bytes = bytes};
        uint32_t ticket;
        bool over = false;
        assert_int_equal(side->device->moves->start(side->device, &move, &ticket), OK);
        while (!over)
            assert_int_equal(side->device->moves->poll(side->device, ticket, &over, sums), OK);
        struct checksum sum = checksum_of(side->worker.pool.host + id * bytes, bytes);
        assert_true(sums[0].a == sum.a && sums[0].b == sum.b);
    }
    if (side->sample != NULL)
        side->sample->called = false; /* now another thread's */
}

static void side_open_gpu(struct side *side, const struct shape *shape, const char *word)
{
    struct backend_shape of = {.layer_count = shape->layer_count,
                               .head_count = 2,
                               .kv_head_count = 1,
                               .head_dim = 64,
                               .block_tokens = 16,
                               .kv_dtype = DTYPE_F16,
                               .block_bytes = shape->block_bytes,
                               .layer_bytes = shape->layers[0].bytes,
                               .rope_dims = 64,
                               .rope_theta = 10000,
                               .norm_epsilon = 1e-5f};
    struct backend_limits limits = {
        .rows_max = 16, .sequences_max = 4, .outputs_max = 4, .table_blocks_max = 16};
    struct device device;
    struct device_options options = {.staged = true};
    struct backend_pool pool;
    if (device_find(word, plugin, &device) != OK ||
        device_open(&device, &of, &limits, &options, &side->device) != OK ||
        side->device->calls->pool_open(side->device, shape->block_count, &pool) != OK)
        fail_msg("%s: %s", word, error_text());
    side->worker.pool.host = pool.host;
    side->worker.pool.fd = pool.fd;
}

static void side_open_sample(struct side *side, const struct shape *shape)
{
    struct sample_device *sample = calloc(1, sizeof(*sample));
    sample->backend.moves = &sample_moves;
    sample->bytes = shape->block_bytes * shape->block_count;
    sample->memory = malloc(sample->bytes);
    sample->host = side->worker.pool.host;
    side->sample = sample;
    side->device = &sample->backend;
}

/* on_device: the pool is there. random: content, else poison. */
static void side_open(struct side *side, const char *name, const struct shape *shape,
                      bool on_device, bool random, struct transfer_options options)
{
    static uint32_t opened;
    size_t bytes = shape->block_bytes * shape->block_count;
    memset(side, 0, sizeof(*side));
    worker_prepare(&side->worker, name, shape);
    if (on_device && plugin != NULL) {
        munmap(side->worker.pool.host, bytes);
        close(side->worker.pool.fd);
        side_open_gpu(side, shape, device_words[strcmp(name, "receiver") == 0]);
    } else if (on_device) {
        side_open_sample(side, shape);
    }
    side->worker.pool.device = side->device;
    side->content = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        side->content[i] = random ? (uint8_t)(random_u64() >> 30) : POISON;
    memcpy(side->worker.pool.host, side->content, bytes);
    if (on_device) {
        side_move(side, MOVE_IN);
        memset(side->worker.pool.host, (int)++opened, bytes); /* not what is in the pool */
    }
    worker_start(&side->worker, options);
}

/* Ends the transfer and looks at the pool. */
static void side_look(struct side *side)
{
    transfer_close(side->worker.transfer);
    side->worker.transfer = NULL;
    if (side->sample != NULL)
        side->sample->called = false;
    if (side->device != NULL)
        side_move(side, MOVE_OUT);
    memcpy(side->content, side->worker.pool.host,
           side->worker.pool.block_bytes * side->worker.pool.block_count);
}

static void side_close(struct side *side)
{
    if (side->sample != NULL) {
        assert_int_equal(side->sample->maps, 0);
        free(side->sample->memory);
        free(side->sample);
        worker_close_pool(&side->worker, true);
    } else if (side->device != NULL) {
        worker_close_pool(&side->worker, false);
        side->device->calls->close(side->device);
    } else {
        worker_close_pool(&side->worker, true);
    }
    free(side->content);
}

/* ---- everything arrives ---- */

struct handoff {
    struct lease_id lease;
    uint32_t from[BLOCKS], to[BLOCKS], first, count;
};

static struct transfer_wish wish_local(const struct side *holder, const struct handoff *handoff,
                                       bool local)
{
    struct transfer_wish wish =
        wish_of(&holder->worker, &handoff->lease, local ? TRANSFER_SHM : TRANSFER_TCP, handoff->to,
                handoff->count - handoff->first);
    wish.first_index = handoff->first;
    return wish;
}

/* Several at once, their blocks taken from either end of the pools in no order. */
static void handoffs_run(struct side *holder, struct side *receiver, struct handoff *handoffs,
                         uint32_t count, bool local, enum transfer_carrier expected)
{
    uint32_t from[BLOCKS], to[BLOCKS], used = 0;
    blocks_pick(from, BLOCKS, BLOCKS);
    blocks_pick(to, BLOCKS, BLOCKS);
    for (uint32_t i = 0; i < count; i++) {
        struct handoff *h = &handoffs[i];
        h->count = i == 0 ? 150 : 1 + random_below(130 / (count - 1));
        h->first = random_below(3) == 0 ? random_below(h->count) : 0;
        lease_id_random(&h->lease);
        memcpy(h->from, from + used, h->count * sizeof(uint32_t));
        memcpy(h->to, to + used, h->count * sizeof(uint32_t));
        used += h->count;
        struct transfer_wish wish = wish_local(holder, h, local);
        if (i % 2 == 0)
            assert_int_equal(transfer_receive(receiver->worker.transfer, &wish), OK);
        assert_int_equal(transfer_lease_open(holder->worker.transfer, &h->lease, 9, 3, 20000), OK);
        offer_all(&holder->worker, &h->lease, h->from, h->count);
        assert_int_equal(transfer_complete(holder->worker.transfer, &h->lease, h->count, "x", 1),
                         OK);
        if (i % 2 == 1)
            assert_int_equal(transfer_receive(receiver->worker.transfer, &wish), OK);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct transfer_report *got = worker_expect(&receiver->worker, TRANSFER_RECEIVED, OK);
        assert_int_equal(got->carrier, expected);
        transfer_report_free(got);
        got = worker_expect(&holder->worker, TRANSFER_HOLDER_DONE, OK);
        assert_int_equal(got->carrier, expected);
        transfer_report_free(got);
    }
}

/* What was handed over, and poison around it. */
static void handoffs_compare(struct side *holder, struct side *receiver,
                             const struct handoff *handoffs, uint32_t count)
{
    size_t bytes = holder->worker.pool.block_bytes;
    uint8_t *expected = malloc(bytes * BLOCKS);
    memset(expected, POISON, bytes * BLOCKS);
    side_look(holder);
    side_look(receiver);
    for (uint32_t h = 0; h < count; h++) {
        for (uint32_t i = handoffs[h].first; i < handoffs[h].count; i++)
            memcpy(expected + handoffs[h].to[i - handoffs[h].first] * bytes,
                   holder->content + handoffs[h].from[i] * bytes, bytes);
    }
    assert_memory_equal(receiver->content, expected, bytes * BLOCKS);
    free(expected);
}

/* A step that computes nothing is under way until it is let go. */
static void step_hold(struct side *side)
{
    static const uint32_t token_ids[2];
    static const block_id id;
    static const struct step_sequence sequence = {
        .row_count = 2, .block_ids = &id, .block_count = 1};
    static const struct step step = {
        .row_count = 2, .token_ids = token_ids, .sequence_count = 1, .sequences = &sequence};
    side->device->calls->step_begin(side->device, &step);
}

static void step_let_go(struct side *side)
{
    assert_int_equal(side->device->calls->step_submit(side->device), OK);
    assert_int_equal(side->device->calls->step_wait(side->device), OK);
}

/* beside_step: the receiver, a GPU, has a step under way meanwhile. */
static void all_of_a_shape_arrives(const struct shape *shape, bool from_device, bool to_device,
                                   bool local, bool beside_step, enum transfer_carrier expected)
{
    enum { HANDOFFS = 6 };
    static struct handoff handoffs[HANDOFFS];
    struct side holder, receiver;
    side_open(&holder, "holder", shape, from_device, true, (struct transfer_options){0});
    side_open(&receiver, "receiver", shape, to_device, false, (struct transfer_options){0});
    if (beside_step)
        step_hold(&receiver);
    handoffs_run(&holder, &receiver, handoffs, HANDOFFS, local, expected);
    if (beside_step)
        step_let_go(&receiver);
    struct transfer_counters counters;
    transfer_counters_read(receiver.worker.transfer, &counters);
    assert_int_equal(counters.checksum_failures, 0);
    assert_int_equal(counters.receives, 0);
    handoffs_compare(&holder, &receiver, handoffs, HANDOFFS);
    side_close(&receiver);
    side_close(&holder);
}

static void everything_arrives(bool from_device, bool to_device, bool local,
                               enum transfer_carrier expected)
{
    for (int round = 0; round < 4; round++) {
        struct shape shape = shape_aligned(round % 2 == 0 ? 200 : 20000);
        all_of_a_shape_arrives(&shape, from_device, to_device, local, false, expected);
    }
}

/* Slices around what one block of a GPU's threads takes, and many times that; of a GPU also beside
 * a step, when between two GPUs large moves go by the copy engines. */
static void slices_of_all_sizes(void **state)
{
    (void)state;
    static const size_t bytes[] = {65520, 65536, 65552, 131072, 200016, 524288, 700048};
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        struct shape shape = shape_even(1, BLOCKS, bytes[i]);
        if (plugin != NULL || bytes[i] == 65552) /* the sample takes each as it is */
            all_of_a_shape_arrives(&shape, true, true, true, false, TRANSFER_CUDA_IPC);
        if (plugin != NULL)
            all_of_a_shape_arrives(&shape, true, true, true, true, TRANSFER_CUDA_IPC);
    }
}

static void from_gpu_to_gpu(void **state)
{
    (void)state;
    everything_arrives(true, true, true, TRANSFER_CUDA_IPC);
}

static void by_way_of_the_host(void **state)
{
    (void)state;
    everything_arrives(true, true, false, TRANSFER_TCP);
    everything_arrives(true, false, true, TRANSFER_SHM);
    everything_arrives(true, false, false, TRANSFER_TCP);
    everything_arrives(false, true, true, TRANSFER_SHM);
    everything_arrives(false, true, false, TRANSFER_TCP);
}

/* What is offered while the device is busy goes together: of 24 offers of 8 slices four are begun
 * at once, twelve when they are a large move, and eight when there is room; each slice has its own
 * sums. */
static void small_moves_that_wait_go_together(void **state)
{
    (void)state;
    enum { PART = 8, LAYERS = 8, PARTS = 3 };
    static struct handoff handoffs[1];
    struct handoff *h = &handoffs[0];
    struct shape shape = shape_even(LAYERS, BLOCKS, 16 * (1 + random_below(60)));
    struct side holder, receiver;
    struct transfer_counters counters;
    if (plugin != NULL)
        skip();
    side_open(&holder, "holder", &shape, true, true, (struct transfer_options){0});
    side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
    *h = (struct handoff){.count = PARTS * PART};
    blocks_pick(h->from, h->count, BLOCKS);
    blocks_pick(h->to, h->count, BLOCKS);
    lease_id_random(&h->lease);
    uint64_t before = holder.sample->number;
    holder.sample->held = true;
    assert_int_equal(transfer_lease_open(holder.worker.transfer, &h->lease, 9, 3, 20000), OK);
    for (uint32_t first = 0; first < h->count; first += PART) {
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            transfer_offer(holder.worker.transfer, &h->lease, layer, first, h->from + first, PART,
                           NULL);
    }
    assert_int_equal(transfer_complete(holder.worker.transfer, &h->lease, h->count, "x", 1), OK);
    /* Calls are taken in order: behind this one, all offers are there. */
    struct lease_id behind;
    lease_id_random(&behind);
    assert_int_equal(transfer_lease_open(holder.worker.transfer, &behind, 9, 3, 20000), OK);
    do
        transfer_counters_read(holder.worker.transfer, &counters);
    while (counters.leases < 2);
    holder.sample->held = false;
    struct transfer_wish wish = wish_local(&holder, h, true);
    assert_int_equal(transfer_receive(receiver.worker.transfer, &wish), OK);
    worker_expect_free(&receiver.worker, TRANSFER_RECEIVED, OK);
    worker_expect_free(&holder.worker, TRANSFER_HOLDER_DONE, OK);
    transfer_lease_close(holder.worker.transfer, &behind);
    worker_expect_free(&holder.worker, TRANSFER_HOLDER_DONE, ERR_CANCELLED);
    transfer_counters_read(receiver.worker.transfer, &counters);
    assert_int_equal(counters.checksum_failures, 0);
    uint64_t moves = holder.sample->number - before;
    assert_int_equal(moves, 4 + 1 + 1);
    handoffs_compare(&holder, &receiver, handoffs, 1);
    side_close(&receiver);
    side_close(&holder);
}

/* ---- a mapping that cannot be had ---- */

static void what_cannot_be_mapped_goes_by_the_host(void **state)
{
    (void)state;
    enum { HANDOFFS = 3 };
    static struct handoff handoffs[HANDOFFS];
    for (int round = 0; round < 3; round++) {
        if (plugin != NULL && round == 0)
            continue; /* a GPU that can be mapped */
        struct shape shape = shape_aligned(2000);
        struct side holder, receiver;
        /* The receiver cannot, or the holder does not, or the holder has no device. */
        side_open(
            &holder, "holder", &shape, round < 2, true,
            (struct transfer_options){.carriers = round == 1 ? TRANSFER_SHM | TRANSFER_TCP : 0});
        side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
        if (round == 0)
            receiver.sample->refuses = true;
        handoffs_run(&holder, &receiver, handoffs, HANDOFFS, true, TRANSFER_SHM);
        struct transfer_counters counters;
        transfer_counters_read(receiver.worker.transfer, &counters);
        assert_int_equal(counters.peers, 2); /* asked once, not for each */
        handoffs_compare(&holder, &receiver, handoffs, HANDOFFS);
        side_close(&receiver);
        side_close(&holder);
    }
}

static void wait_mapped(const struct side *side, uint64_t bytes)
{
    struct transfer_counters counters;
    for (int i = 0; i < 5000; i++, usleep(1000)) {
        transfer_counters_read(side->worker.transfer, &counters);
        if (counters.mapped_bytes == bytes)
            return;
    }
    fail_msg("%d bytes mapped, not %d", (int)counters.mapped_bytes, (int)bytes);
}

static void side_meet(struct side *side, const struct side *other)
{
    transfer_meet(side->worker.transfer, other->worker.hello.incarnation,
                  &other->worker.unix_address);
}

/* Who is met is mapped before anything is wanted of it, once, and no longer than it lives. */
static void who_is_met_is_mapped(void **state)
{
    (void)state;
    static struct handoff handoffs[3];
    struct shape shape = shape_aligned(2000);
    struct side holder, receiver;
    struct transfer_counters counters;
    side_open(&holder, "holder", &shape, true, true, (struct transfer_options){0});
    side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
    uint64_t bytes = shape.block_bytes * BLOCKS;
    side_meet(&receiver, &holder);
    wait_mapped(&receiver, bytes);
    side_meet(&receiver, &holder);
    handoffs_run(&holder, &receiver, handoffs, 3, true, TRANSFER_CUDA_IPC);
    transfer_counters_read(receiver.worker.transfer, &counters);
    assert_int_equal(counters.mapped_bytes, bytes);
    assert_int_equal(counters.peers, 1);
    transfer_drop_peer(receiver.worker.transfer, holder.worker.hello.incarnation);
    wait_mapped(&receiver, 0);
    side_meet(&receiver, &holder);
    wait_mapped(&receiver, bytes);
    handoffs_compare(&holder, &receiver, handoffs, 3);
    side_close(&receiver);
    side_close(&holder);
}

/* To meet nobody, one that is dead, one without a device: nothing comes of it. */
static void who_cannot_be_met_harms_nobody(void **state)
{
    (void)state;
    static struct handoff handoffs[2];
    struct shape shape = shape_aligned(2000);
    struct side holder, receiver;
    struct address nobody;
    side_open(&holder, "holder", &shape, false, true, (struct transfer_options){0});
    side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
    assert_int_equal(address_parse("unix:/tmp/baton-nobody-is-here.sock", 0, &nobody), OK);
    transfer_meet(receiver.worker.transfer, 7, &nobody);
    transfer_meet(receiver.worker.transfer, holder.worker.hello.incarnation + 1,
                  &holder.worker.unix_address);
    side_meet(&receiver, &holder);
    side_meet(&holder, &receiver);
    handoffs_run(&holder, &receiver, handoffs, 2, true, TRANSFER_SHM);
    handoffs_compare(&holder, &receiver, handoffs, 2);
    side_close(&receiver);
    side_close(&holder);
}

static void *let_go(void *sample)
{
    usleep(20000);
    ((struct sample_device *)sample)->map_held = false;
    return NULL;
}

static void wait_in_map(const struct side *side)
{
    for (int i = 0; i < 5000 && side->sample->mapping == 0; i++)
        usleep(1000);
    assert_int_equal(side->sample->mapping, 1);
}

/* While a pool is mapped, which takes long, blocks go on to and from others. A peer that is lost
 * meanwhile, or a worker that closes, leaves nothing mapped. */
static void mapping_holds_nobody_up(void **state)
{
    (void)state;
    static struct handoff handoffs[2];
    if (plugin != NULL)
        skip();
    for (int round = 0; round < 3; round++) {
        struct shape shape = shape_aligned(2000);
        struct side holder, receiver;
        side_open(&holder, "holder", &shape, true, true, (struct transfer_options){0});
        side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
        receiver.sample->map_held = true;
        side_meet(&receiver, &holder);
        wait_in_map(&receiver);
        handoffs_run(&holder, &receiver, handoffs, 2, false, TRANSFER_TCP);
        if (round == 1) {
            transfer_drop_peer(receiver.worker.transfer, holder.worker.hello.incarnation);
            side_meet(&receiver, &holder); /* waits behind what nobody wants any more */
        }
        if (round < 2) {
            receiver.sample->map_held = false;
            wait_mapped(&receiver, shape.block_bytes * BLOCKS);
            assert_int_equal(receiver.sample->maps, 1);
        }
        if (round == 2) { /* it closes meanwhile: side_close looks at maps */
            pthread_t lets_go;
            assert_int_equal(pthread_create(&lets_go, NULL, let_go, receiver.sample), 0);
            handoffs_compare(&holder, &receiver, handoffs, 2);
            pthread_join(lets_go, NULL);
        } else {
            handoffs_compare(&holder, &receiver, handoffs, 2);
        }
        side_close(&receiver);
        side_close(&holder);
    }
}

/* A worker that shares by cuda-ipc only refuses others at once. */
static void without_memory_of_the_host(void **state)
{
    (void)state;
    struct shape shape = shape_aligned(2000);
    struct side holder, receiver;
    static struct handoff h = {.count = 4, .from = {1, 2, 3, 4}, .to = {4, 3, 2, 1}};
    side_open(&holder, "holder", &shape, true, true,
              (struct transfer_options){.carriers = TRANSFER_CUDA_IPC});
    side_open(&receiver, "receiver", &shape, false, false, (struct transfer_options){0});
    lease_id_random(&h.lease);
    struct transfer_wish wish = wish_local(&holder, &h, true);
    assert_int_equal(transfer_receive(receiver.worker.transfer, &wish), OK);
    worker_expect_free(&receiver.worker, TRANSFER_FAILED, ERR_BAD_INPUT);
    side_look(&receiver);
    side_look(&holder);
    side_close(&receiver);
    side_close(&holder);
}

/* Nothing that is allowed can move these blocks: said at the start, not at the first handoff. */
static void a_carrier_that_the_pool_has_not(void **state)
{
    (void)state;
    struct shape shape = shape_aligned(2000);
    struct worker worker;
    struct transfer *transfer = NULL;
    worker_prepare(&worker, "holder", &shape);
    const struct transfer_options options = {.hello = &worker.hello,
                                             .key = sample_key,
                                             .unix_listen = &worker.unix_address,
                                             .pool = worker.pool,
                                             .layers = shape.layers,
                                             .layer_count = shape.layer_count,
                                             .carriers = TRANSFER_CUDA_IPC,
                                             .reports = worker.reports};
    assert_int_equal(transfer_open(&options, &transfer), ERR_UNSUPPORTED);
    assert_non_null(strstr(error_text(), "carrier cuda-ipc"));
    assert_null(transfer);
    worker_close_pool(&worker, true);
}

/* ---- damage ---- */

static void a_flipped_bit_is_caught(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        struct shape shape = shape_even(3, BLOCKS, 16 * (1 + random_below(600)));
        struct side holder, receiver;
        bool stored = round % 2 == 0, local = round % 4 < 2;
        static struct handoff h = {.count = 4, .from = {5, 1, 7, 2}, .to = {0, 3, 6, 4}};
        side_open(
            &holder, "holder", &shape, true, true,
            (struct transfer_options){.test_flip_offered = stored ? 1 + random_below(12) : 0});
        side_open(
            &receiver, "receiver", &shape, true, false,
            (struct transfer_options){.test_spoil_landed = stored ? 0 : 1 + random_below(12)});
        lease_id_random(&h.lease);
        struct transfer_wish wish = wish_local(&holder, &h, local);
        transfer_receive(receiver.worker.transfer, &wish);
        transfer_lease_open(holder.worker.transfer, &h.lease, 9, 3, 20000);
        offer_all(&holder.worker, &h.lease, h.from, h.count);
        transfer_complete(holder.worker.transfer, &h.lease, h.count, NULL, 0);
        struct transfer_counters counters;
        if (stored) {
            struct transfer_report *report =
                worker_expect(&receiver.worker, TRANSFER_FAILED, ERR_CORRUPT);
            assert_int_equal(report->carrier, local ? TRANSFER_CUDA_IPC : TRANSFER_TCP);
            assert_non_null(strstr(report->text, "checksum"));
            transfer_report_free(report);
            worker_expect_free(&holder.worker, TRANSFER_HOLDER_DONE, ERR_CORRUPT);
        } else {
            worker_expect_free(&receiver.worker, TRANSFER_RECEIVED, OK);
            worker_expect_free(&holder.worker, TRANSFER_HOLDER_DONE, OK);
        }
        transfer_counters_read(receiver.worker.transfer, &counters);
        assert_int_equal(counters.checksum_failures, stored ? 2 : 1);
        if (stored) {
            side_look(&holder);
            side_look(&receiver);
        } else {
            handoffs_compare(&holder, &receiver, &h, 1);
        }
        side_close(&receiver);
        side_close(&holder);
    }
}

/* ---- giving up ---- */

static void wait_peers(const struct worker *worker, uint64_t count)
{
    struct transfer_counters counters;
    for (int i = 0; i < 5000; i++, usleep(1000)) {
        transfer_counters_read(worker->transfer, &counters);
        if (counters.peers >= count)
            return;
    }
    fail_msg("no %d peers within 5 s", (int)count);
}

static void wait_lease(const struct worker *worker)
{
    struct transfer_counters counters;
    for (int i = 0; i < 5000; i++, usleep(1000)) {
        transfer_counters_read(worker->transfer, &counters);
        if (counters.leases > 0)
            return;
    }
    fail_msg("no lease within 5 s");
}

/* After a report of either side nothing of that lease is under way: the sample looks on unmap, the
 * poison around says the rest, and what follows must not be disturbed. */
static void giving_up_is_quiet(void **state)
{
    (void)state;
    struct shape shape = shape_aligned(8000);
    struct side holder, receiver;
    side_open(&holder, "holder", &shape, true, true, (struct transfer_options){0});
    side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
    if (receiver.sample != NULL)
        receiver.sample->slow_polls = 200;
    static struct handoff kept[2];
    for (int round = 0; round < 40; round++) {
        struct handoff h = {.count = 40};
        bool by_holder = round % 2 == 0;
        blocks_pick(h.from, 40, BLOCKS);
        blocks_pick(h.to, 40, BLOCKS / 2); /* the other half stays for what is kept */
        lease_id_random(&h.lease);
        struct transfer_wish wish = wish_local(&holder, &h, round % 4 < 2);
        wish.deadline_ms = 1000;
        transfer_receive(receiver.worker.transfer, &wish);
        transfer_lease_open(holder.worker.transfer, &h.lease, 9, 3, 20000);
        offer_all(&holder.worker, &h.lease, h.from, h.count);
        /* Cancelled before the pool is mapped, or the lease is open, a receive leaves its lease to
         * whoever opens that. */
        if (!by_holder) {
            wait_lease(&holder.worker);
            wait_peers(&receiver.worker, round < 2 ? 1 : 2);
            worker_wait_peer(&receiver.worker, true);
        }
        usleep(random_below(1500));
        if (by_holder)
            transfer_lease_close(holder.worker.transfer, &h.lease);
        else
            transfer_receive_cancel(receiver.worker.transfer, &h.lease);
        struct transfer_report *report = worker_report(&receiver.worker, 10000);
        assert_non_null(report);
        assert_int_equal(report->mail.kind, by_holder ? TRANSFER_FAILED : TRANSFER_CANCELLED);
        /* Not found: the subscription came after the lease was taken back. */
        assert_true(report->status == ERR_CANCELLED ||
                    (by_holder && report->status == ERR_NOT_FOUND));
        transfer_report_free(report);
        worker_expect_free(&holder.worker, TRANSFER_HOLDER_DONE,
                           by_holder ? ERR_CANCELLED : ERR_CLOSED);
    }
    transfer_drop_peer(receiver.worker.transfer, holder.worker.hello.incarnation);
    struct transfer_counters counters;
    for (int i = 0; i < 1000; i++, usleep(1000)) {
        transfer_counters_read(receiver.worker.transfer, &counters);
        if (counters.mapped_bytes == 0)
            break;
    }
    assert_int_equal(counters.mapped_bytes, 0);
    handoffs_run(&holder, &receiver, kept, 2, true, TRANSFER_CUDA_IPC);
    side_look(&holder);
    side_look(&receiver);
    size_t bytes = shape.block_bytes;
    for (uint32_t h = 0; h < 2; h++) {
        for (uint32_t i = kept[h].first; i < kept[h].count; i++)
            assert_memory_equal(receiver.content + kept[h].to[i - kept[h].first] * bytes,
                                holder.content + kept[h].from[i] * bytes, bytes);
    }
    side_close(&receiver);
    side_close(&holder);
}

/* ---- between processes, on GPUs ---- */

struct told { /* by a child, of its side */
    uint64_t incarnation;
    char unix_text[ADDRESS_TEXT_BYTES];
};

static struct shape shape_of_processes(void)
{
    return shape_even(8, BLOCKS, 32768);
}

static uint8_t pattern(size_t at)
{
    return (uint8_t)((at * 2654435761u) >> 13);
}

/* A holder in a process of its own: lease k has key byte k. Whole, or half of its layers, then it
 * sleeps until it is killed. */
static int child_holder(bool whole)
{
    struct shape shape = shape_of_processes();
    struct side side;
    char name[32];
    snprintf(name, sizeof(name), "child-%ld", (long)getpid());
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(folder, sizeof(folder), "%s", getenv("BATON_TEST_FOLDER"));
    side_open(&side, name, &shape, true, true, (struct transfer_options){0});
    transfer_close(side.worker.transfer);
    for (size_t i = 0; i < shape.block_bytes * BLOCKS; i++)
        side.worker.pool.host[i] = pattern(i);
    side_move(&side, MOVE_IN);
    worker_start(&side.worker, (struct transfer_options){0});
    struct told told = {.incarnation = side.worker.hello.incarnation};
    snprintf(told.unix_text, sizeof(told.unix_text), "%s", side.worker.unix_address.text);
    struct lease_id lease = {{whole ? 1 : 2}};
    uint32_t ids[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++)
        ids[i] = i;
    transfer_lease_open(side.worker.transfer, &lease, 9, 3, 60000);
    for (uint32_t layer = 0; layer < (whole ? 8 : 4); layer++)
        transfer_offer(side.worker.transfer, &lease, layer, 0, ids, BLOCKS, NULL);
    if (whole)
        transfer_complete(side.worker.transfer, &lease, BLOCKS, NULL, 0);
    if (write(STDOUT_FILENO, &told, sizeof(told)) != sizeof(told))
        return 1;
    worker_report(&side.worker, 60000);
    usleep(200000); /* the acknowledgement is older than its last frames */
    return 0;
}

static pid_t child_start(const char *mode, struct told *told)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        setenv("BATON_TEST_FOLDER", folder, 1);
        execl("/proc/self/exe", "device_test", mode, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t got = 0;
    ssize_t part = 1;
    while (got < sizeof(*told) &&
           (part = read(ends[0], (char *)told + got, sizeof(*told) - got)) > 0)
        got += (size_t)part;
    close(ends[0]);
    assert_int_equal(got, sizeof(*told));
    return pid;
}

static void receive_from(struct side *receiver, const struct told *told, uint8_t lease,
                         const uint32_t *ids)
{
    struct address address;
    assert_int_equal(address_parse(told->unix_text, 0, &address), OK);
    struct transfer_wish wish = {.lease = {{lease}},
                                 .epoch = 3,
                                 .block_ids = ids,
                                 .block_count = BLOCKS,
                                 .deadline_ms = 20000,
                                 .source = {.incarnation = told->incarnation, .local = &address}};
    assert_int_equal(transfer_receive(receiver->worker.transfer, &wish), OK);
}

/* The holder is killed with half of its layers fetched: the receiver knows within a second, has
 * nothing mapped, and fetches the next thing from another one. */
static void a_killed_holder_harms_nobody(void **state)
{
    (void)state;
    if (plugin == NULL)
        skip();
    struct shape shape = shape_of_processes();
    struct side receiver;
    struct told told;
    struct transfer_counters counters;
    uint32_t ids[BLOCKS];
    blocks_pick(ids, BLOCKS, BLOCKS);
    side_open(&receiver, "receiver", &shape, true, false, (struct transfer_options){0});
    pid_t pid = child_start("holder-half", &told);
    receive_from(&receiver, &told, 2, ids);
    worker_wait_peer(&receiver.worker, true);
    usleep(20000);
    uint64_t killed_ns = clock_ns();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    worker_expect_free(&receiver.worker, TRANSFER_FAILED, ERR_CLOSED);
    transfer_counters_read(receiver.worker.transfer, &counters);
    assert_int_equal(counters.mapped_bytes, 0);
    assert_true(clock_ns() - killed_ns < KILLED_WITHIN_MS * 1000000u);
    pid = child_start("holder-whole", &told);
    receive_from(&receiver, &told, 1, ids);
    struct transfer_report *report = worker_expect(&receiver.worker, TRANSFER_RECEIVED, OK);
    assert_int_equal(report->carrier, TRANSFER_CUDA_IPC);
    transfer_report_free(report);
    int code;
    waitpid(pid, &code, 0);
    assert_int_equal(code, 0);
    side_look(&receiver);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        for (size_t b = 0; b < shape.block_bytes; b++) {
            if (receiver.content[ids[i] * shape.block_bytes + b] !=
                pattern(i * shape.block_bytes + b))
                fail_msg("byte %zu of block %u is another", b, i);
        }
    }
    side_close(&receiver);
}

int main(int argc, char **argv)
{
    plugin = getenv("BATON_CUDA_PLUGIN");
    const char *words = getenv("BATON_CUDA_DEVICES");
    if (words != NULL)
        sscanf(words, "%15[^,],%15s", device_words[0], device_words[1]);
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1)
        return child_holder(strcmp(argv[1], "holder-whole") == 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_gpu_to_gpu),
        cmocka_unit_test(slices_of_all_sizes),
        cmocka_unit_test(by_way_of_the_host),
        cmocka_unit_test(small_moves_that_wait_go_together),
        cmocka_unit_test(what_cannot_be_mapped_goes_by_the_host),
        cmocka_unit_test(who_is_met_is_mapped),
        cmocka_unit_test(who_cannot_be_met_harms_nobody),
        cmocka_unit_test(mapping_holds_nobody_up),
        cmocka_unit_test(without_memory_of_the_host),
        cmocka_unit_test(a_carrier_that_the_pool_has_not),
        cmocka_unit_test(a_flipped_bit_is_caught),
        cmocka_unit_test(giving_up_is_quiet),
        cmocka_unit_test(a_killed_holder_harms_nobody),
    };
    snprintf(folder, sizeof(folder), "/tmp/baton-device-test-%ld", (long)getpid());
    mkdir(folder, 0700);
    log_open("test", LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
