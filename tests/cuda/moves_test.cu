/* Fetches of blocks from another pool, while a step is under way and while none is: every byte of
 * the pool and every sum against the host's, and the step's own numbers against those of a step
 * alone. Beside a step, large fetches must have gone by the copy engines, and no others.
 *
 *     cuda_moves_test
 *
 * The other pool is on each device in turns; on the receiver's own it is taken for a far one.
 * Needs a device: without one it says so and is skipped (status 77). */
#include <time.h>

#include "backend/cuda/moves.cuh"
#include "rig.cuh"

#define WAIT_S 20
#define MOVES 6u
#define POISON 0xa5
#define STEP_ROWS 32u
#define STEP_WIDTH 4096u
#define STEP_PRODUCTS 400u
#define ENGINE_BYTES 32768u /* of a span, and of a move, from which on engines take it */
#define ENGINE_MOVE_BYTES (1u << 20)

struct pools {
    struct rig holder, receiver;
    struct pool_map *map;
    std::vector<uint8_t> source;
    struct backend_tensor *weight;
    struct backend_buffer *x, *y;
    std::vector<double> alone; /* y of a step that nothing was beside */
};

struct fetch {
    std::vector<struct move_span> spans;
    uint32_t ticket;
    bool over;
};

/* As wire/checksum.h says. */
static struct move_sum sum_of(const uint8_t *from, size_t bytes)
{
    struct move_sum sum = {};
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t word;
        memcpy(&word, from + 8 * i, 8);
        word ^= word >> 32;
        sum.a += word;
        sum.b += (i + 1) * word;
    }
    return sum;
}

static void pools_open(struct pools *pools, uint32_t device)
{
    uint8_t handle[POOL_HANDLE_BYTES];
    rig_open(&pools->holder, false, false, 4, 2, 64, 16, false, device);
    rig_open(&pools->receiver, false, false, 4, 2, 64, 16, false);
    struct backend *holder = pools->holder.backend, *receiver = pools->receiver.backend;
    size_t bytes = pools->receiver.cuda->pool.bytes;
    if (holder->moves->pool_export(holder, handle) != OK ||
        receiver->moves->pool_map(receiver, handle, bytes, &pools->map) != OK)
        exit((printf("no map of the pool on cuda:%u\n", device), 1));
    if (pools->map->far != (device != 0))
        exit((printf("WRONG: a pool on cuda:%u is %s\n", device, device != 0 ? "near" : "far"), 1));
    pools->map->far = true;
    pools->source.resize(bytes);
    for (size_t i = 0; i < bytes; i++)
        pools->source[i] = (uint8_t)random_below(256);
    CHECK(cudaMemcpy(pools->holder.cuda->pool_device, pools->source.data(), bytes,
                     cudaMemcpyHostToDevice));
    CHECK(cudaSetDevice(0));
    struct rig *rig = &pools->receiver;
    struct backend_weight weight = weight_make(rig, DTYPE_F16, STEP_WIDTH, STEP_WIDTH);
    pools->weight = tensor_make(rig, &weight);
    pools->x = buffer_make(rig, STEP_WIDTH, false);
    pools->y = buffer_make(rig, STEP_WIDTH, false);
    buffer_fill(rig, pools->x, STEP_ROWS, true);
}

static void pools_close(struct pools *pools)
{
    struct backend *receiver = pools->receiver.backend;
    receiver->moves->pool_unmap(receiver, pools->map);
    rig_close(&pools->receiver);
    rig_close(&pools->holder);
}

static std::vector<uint32_t> order_random(uint32_t count)
{
    std::vector<uint32_t> order(count);
    for (uint32_t i = 0; i < count; i++)
        order[i] = i;
    for (uint32_t i = count; i > 1; i--)
        std::swap(order[i - 1], order[random_below(i)]);
    return order;
}

/* From anywhere to anywhere, no place twice; the first has as many spans as a move may. */
static std::vector<struct fetch> fetches_draw(const struct pools *pools, uint32_t bytes)
{
    uint32_t places = (uint32_t)(pools->source.size() / bytes) - 1, used = 0;
    std::vector<uint32_t> from = order_random(places), to = order_random(places);
    uint32_t shifts[2] = {16 * random_below(bytes / 16), 16 * random_below(bytes / 16)};
    std::vector<struct fetch> fetches(MOVES);
    for (uint32_t i = 0; i < MOVES; i++) {
        uint32_t left = places - used - (MOVES - 1 - i);
        uint32_t most = std::min(left, MOVE_SPANS_MAX);
        uint32_t count = i == 0 ? most : 1 + random_below(most);
        for (uint32_t end = used + count; used < end; used++)
            fetches[i].spans.push_back(
                {(uint64_t)from[used] * bytes + shifts[0], (uint64_t)to[used] * bytes + shifts[1]});
    }
    return fetches;
}

static void fetch_start(struct pools *pools, struct fetch *fetch, uint32_t bytes)
{
    struct backend *receiver = pools->receiver.backend;
    struct pool_move move = {MOVE_FETCH, pools->map, fetch->spans.data(),
                             (uint32_t)fetch->spans.size(), bytes};
    if (receiver->moves->start(receiver, &move, &fetch->ticket) != OK)
        exit((printf("WRONG: a fetch is not started\n"), 1));
    fetch->over = false;
}

/* How many sums are wrong. */
static uint32_t fetches_wait(struct pools *pools, std::vector<struct fetch> *fetches,
                             uint32_t bytes)
{
    struct backend *receiver = pools->receiver.backend;
    struct move_sum sums[MOVE_SPANS_MAX];
    time_t end = time(NULL) + WAIT_S;
    uint32_t open = (uint32_t)fetches->size(), wrong = 0;
    while (open > 0) {
        for (struct fetch &fetch : *fetches) {
            if (fetch.over)
                continue;
            if (receiver->moves->poll(receiver, fetch.ticket, &fetch.over, sums) != OK)
                exit((printf("WRONG: a fetch failed\n"), 1));
            open -= fetch.over;
            for (size_t i = 0; fetch.over && i < fetch.spans.size(); i++) {
                struct move_sum sum = sum_of(&pools->source[fetch.spans[i].from], bytes);
                wrong += sums[i].a != sum.a || sums[i].b != sum.b;
            }
        }
        if (time(NULL) > end)
            exit((printf("WRONG: %u fetches are not over\n", open), 1));
    }
    return wrong;
}

/* How many bytes of the receiver's pool are not what they should be. */
static size_t pool_off(struct pools *pools, const std::vector<struct fetch> &fetches,
                       uint32_t bytes)
{
    std::vector<uint8_t> expected(pools->source.size(), POISON), found(pools->source.size());
    size_t wrong = 0;
    for (const struct fetch &fetch : fetches)
        for (const struct move_span &span : fetch.spans)
            memcpy(&expected[span.to], &pools->source[span.from], bytes);
    CHECK(cudaMemcpy(found.data(), pools->receiver.cuda->pool_device, found.size(),
                     cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < found.size(); i++)
        wrong += found[i] != expected[i];
    return wrong;
}

/* Some milliseconds of products. */
static void step_compute(struct pools *pools)
{
    struct rig *rig = &pools->receiver;
    struct backend_projection projection = {pools->weight, NULL, pools->y, false};
    for (uint32_t i = 0; i < STEP_PRODUCTS; i++)
        rig->calls->project(rig->backend, pools->x, &projection, 1);
}

/* Ends the step: are its numbers those of a step alone? */
static bool step_right(struct pools *pools)
{
    struct rig *rig = &pools->receiver;
    if (rig->calls->step_wait(rig->backend) != OK)
        exit((printf("WRONG: the step failed\n"), 1));
    std::vector<double> found =
        numbers_read(pools->y->data, (size_t)STEP_ROWS * STEP_WIDTH, pools->y->halves, false);
    if (pools->alone.empty())
        pools->alone = found;
    return found == pools->alone;
}

static void fetches_check(struct pools *pools, uint32_t device, uint32_t bytes, bool beside)
{
    struct rig *rig = &pools->receiver;
    std::vector<struct fetch> fetches = fetches_draw(pools, bytes);
    uint32_t before = moves_by_engines(rig->cuda);
    uint32_t expected = 0;
    for (const struct fetch &fetch : fetches)
        expected +=
            beside && bytes >= ENGINE_BYTES && bytes * fetch.spans.size() >= ENGINE_MOVE_BYTES;
    CHECK(cudaMemset(rig->cuda->pool_device, POISON, pools->source.size()));
    CHECK(cudaDeviceSynchronize());
    if (beside)
        step_of_rows(rig, STEP_ROWS);
    for (uint32_t i = 0; i < MOVES; i++) {
        fetch_start(pools, &fetches[i], bytes);
        if (beside && i == MOVES / 2) {
            step_compute(pools);
            if (rig->calls->step_submit(rig->backend) != OK)
                exit((printf("WRONG: the step is not submitted\n"), 1));
        }
    }
    uint32_t sums = fetches_wait(pools, &fetches, bytes);
    bool step = !beside || step_right(pools);
    size_t off = pool_off(pools, fetches, bytes);
    uint32_t engines = moves_by_engines(rig->cuda) - before;
    bool right = sums == 0 && off == 0 && step && engines == expected;
    printf(
        "from cuda:%u, spans of %6u bytes, %s: %zu bytes and %u sums are wrong, by engines %u of "
        "%u%s%s\n",
        device, bytes, beside ? "beside a step" : "alone        ", off, sums, engines, expected,
        step ? "" : ", the step is another", right ? "" : "  WRONG");
    good = good && right;
}

int main(void)
{
    static const uint32_t sizes[] = {16, 4080, 16384, 32752, 32768, 32784, 65536, 200016, 524288};
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    for (uint32_t device = 0; device < (uint32_t)count && device < 2; device++) {
        struct pools pools;
        pools_open(&pools, device);
        step_of_rows(&pools.receiver, STEP_ROWS);
        step_compute(&pools);
        if (pools.receiver.calls->step_submit(pools.receiver.backend) != OK || !step_right(&pools))
            exit((printf("WRONG: a step alone failed\n"), 1));
        for (uint32_t bytes : sizes)
            for (int beside = 0; beside < 2; beside++)
                fetches_check(&pools, device, bytes, beside == 1);
        pools_close(&pools);
    }
    printf("%s\n", good ? "all right" : "WRONG");
    return good ? 0 : 1;
}
