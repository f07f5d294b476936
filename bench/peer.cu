/* bench/peer.cu - ways to move scattered slices from a GPU to another, and what is left of both.
 *
 *     cuda_peer [HOLDER RECEIVER]      device numbers; 0 and the last one when not given
 *
 *     who moves    receiver: its GPU reads the other's memory; holder: its GPU writes there
 *     how          loads    16 bytes a lane to registers and on, 4 KiB a warp under way
 *                  bulk     bulk copies (cp.async.bulk) to shared memory and on
 *                  engine   cudaMemcpyBatchAsync: the copy engines, one call for 128 slices
 *                  whole    one cudaMemcpyPeerAsync of as many bytes, for comparison
 *
 * A call moves 128 slices of 64 KiB, one from each of 128 blocks of 2 MiB that lie anywhere; some
 * calls are under way on some streams. Beside the rate: the share that is left to each GPU of its
 * own work (reads of memory, bf16 products, of lower priority) while calls go on without a pause,
 * and their rate then. */
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "../tests/cuda/check.cuh"
#include "backend/cuda/hopper.cuh"

#define SLICE ((size_t)64 << 10)
#define BLOCK ((size_t)2 << 20)
#define BLOCKS 1024u
#define CALL_SLICES 128u
#define STREAMS 4
#define PART ((size_t)4 << 10) /* of a slice, that a warp moves at once */
#define PARTS (CALL_SLICES * (uint32_t)(SLICE / PART))
#define BULK_WARPS 4

struct slices {
    const char *from;
    char *to;
    uint64_t from_at[CALL_SLICES], to_at[CALL_SLICES];
};

__device__ inline const char *part_from(const slices &s, uint32_t part)
{
    return s.from + s.from_at[part * PART / SLICE] + part * PART % SLICE;
}

__device__ inline char *part_to(const slices &s, uint32_t part)
{
    return s.to + s.to_at[part * PART / SLICE] + part * PART % SLICE;
}

template <uint32_t THREADS>
static __global__ void __launch_bounds__(THREADS, 1024 / THREADS)
    loads_kernel(const __grid_constant__ slices s)
{
    uint32_t lane = threadIdx.x % 32, warps = gridDim.x * THREADS / 32;
    for (uint32_t p = (blockIdx.x * THREADS + threadIdx.x) / 32; p < PARTS; p += warps) {
        const uint4 *from = (const uint4 *)part_from(s, p) + lane;
        uint4 *to = (uint4 *)part_to(s, p) + lane, v[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __ldcs(from + 32 * i);
#pragma unroll
        for (int i = 0; i < 8; i++)
            __stcs(to + 32 * i, v[i]);
    }
}

template <int STAGES> static __global__ void bulk_kernel(const __grid_constant__ slices s)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char memory[];
    __shared__ uint64_t barriers[BULK_WARPS][STAGES];
    uint32_t warp = threadIdx.x / 32, warps = gridDim.x * BULK_WARPS;
    uint32_t first = blockIdx.x * BULK_WARPS + warp;
    char *ring = memory + warp * STAGES * PART;
    uint64_t *full = barriers[warp];
    if (threadIdx.x % 32 != 0)
        return;
    for (int i = 0; i < STAGES; i++)
        barrier_open(&full[i], 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    auto ask = [&](uint32_t n) {
        uint32_t p = first + n * warps;
        if (p >= PARTS)
            return;
        barrier_expect(&full[n % STAGES], PART);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(address_of(ring + n % STAGES * PART)),
                     "l"(part_from(s, p)), "r"((uint32_t)PART), "r"(address_of(&full[n % STAGES]))
                     : "memory");
    };
    for (uint32_t n = 0; n < STAGES; n++)
        ask(n);
    for (uint32_t n = 0; first + n * warps < PARTS; n++) {
        barrier_wait(&full[n % STAGES], n / STAGES & 1);
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
                     "cp.async.bulk.commit_group;" ::"l"(part_to(s, first + n * warps)),
                     "r"(address_of(ring + n % STAGES * PART)), "r"((uint32_t)PART)
                     : "memory");
        asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
        if (n > 0) /* the one before has been read */
            ask(n - 1 + STAGES);
    }
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
#endif
}

enum how { LOADS, BULK, ENGINE, WHOLE };

struct way {
    const char *who, *name;
    bool by_holder;
    enum how how;
    int streams, blocks, stages; /* of loads: 4 times the threads, when it is 4 */
};

struct bench {
    int holder, receiver;
    char *from, *to;
    cudaStream_t streams[2][STREAMS]; /* of the receiver, of the holder */
    uint32_t calls;
};

static void bulk_start(const way &way, const slices &s, cudaStream_t stream)
{
    int bytes = BULK_WARPS * way.stages * (int)PART;
    auto kernel = way.stages == 4 ? bulk_kernel<4> : bulk_kernel<8>;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    kernel<<<way.blocks, BULK_WARPS * 32, bytes, stream>>>(s);
}

static void engine_start(const slices &s, cudaStream_t stream)
{
    void *to[CALL_SLICES];
    const void *from[CALL_SLICES];
    size_t sizes[CALL_SLICES], first = 0;
    struct cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    for (uint32_t i = 0; i < CALL_SLICES; i++) {
        to[i] = s.to + s.to_at[i];
        from[i] = s.from + s.from_at[i];
        sizes[i] = SLICE;
    }
    CHECK(cudaMemcpyBatchAsync(to, from, sizes, CALL_SLICES, &attributes, &first, 1, stream));
}

/* One call, of other slices than the one before. */
static void call_start(bench *b, const way &way)
{
    uint32_t n = b->calls++;
    cudaStream_t stream = b->streams[way.by_holder][n % way.streams];
    slices s;
    s.from = b->from;
    s.to = b->to;
    for (uint64_t i = 0; i < CALL_SLICES; i++) { /* steps prime to BLOCKS: all different */
        s.from_at[i] = (n * 311 + i * 37) % BLOCKS * BLOCK + n % 32 * SLICE;
        s.to_at[i] = (n * 523 + i * 101) % BLOCKS * BLOCK + n % 32 * SLICE;
    }
    if (way.how == LOADS && way.stages == 4)
        loads_kernel<1024><<<way.blocks, 1024, 0, stream>>>(s);
    else if (way.how == LOADS)
        loads_kernel<256><<<way.blocks, 256, 0, stream>>>(s);
    else if (way.how == BULK)
        bulk_start(way, s, stream);
    else if (way.how == ENGINE)
        engine_start(s, stream);
    else
        CHECK(cudaMemcpyPeerAsync(b->to + n % 32 * CALL_SLICES * SLICE, b->receiver,
                                  b->from + n % 32 * CALL_SLICES * SLICE, b->holder,
                                  CALL_SLICES * SLICE, stream));
    CHECK(cudaGetLastError());
}

static void calls_wait(bench *b, const way &way)
{
    for (int i = 0; i < way.streams; i++)
        CHECK(cudaStreamSynchronize(b->streams[way.by_holder][i]));
}

static double seconds_now(void)
{
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(now).count();
}

/* Seconds of so many calls one behind the other, the median. */
static double calls_time(bench *b, const way &way, int count)
{
    std::vector<double> took;
    CHECK(cudaSetDevice(way.by_holder ? b->holder : b->receiver));
    for (int run = 0; run < 12; run++) {
        double start = seconds_now();
        for (int i = 0; i < count; i++)
            call_start(b, way);
        calls_wait(b, way);
        if (run > 1)
            took.push_back(seconds_now() - start);
    }
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
}

/* ---- what is left of a GPU meanwhile ---- */

#define READ_BYTES ((size_t)2 << 30)
#define SIDE 8192u
#define WORK 30 /* reads or products that are timed */

/* Work on one GPU, as floor.cu has it: reads of memory, products of bf16 matrices. */
struct work {
    struct cuda_backend *cuda;
    char *memory, *result;
    struct backend_tensor w;
    struct backend_buffer x, y;
};

static __global__ void read_kernel(const uint4 *from, size_t count, uint32_t *to)
{
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x; at + 3 * step < count;
         at += 4 * step) {
        uint4 a = from[at], b = from[at + step], c = from[at + 2 * step], d = from[at + 3 * step];
        sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w;
        sum += c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    if (sum == 0x12345)
        *to = sum;
}

static __global__ void noise_kernel(__nv_bfloat16 *to, size_t count)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = __float2bfloat16_rn((float)((int32_t)(i * 2654435761u)) * 4.6566e-10f);
}

static void work_open(work *work, int device)
{
    CHECK(cudaSetDevice(device));
    struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof(*cuda));
    cuda->options.device = (uint32_t)device;
    cuda->bf16 = true;
    cuda->plans = (struct gemm_plan *)calloc(GEMM_PLANS, sizeof(*cuda->plans));
    CHECK(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc(&cuda->workspace, (size_t)64 << 20));
    CHECK(cudaMalloc(&work->memory, READ_BYTES));
    CHECK(cudaMalloc(&work->result, (size_t)SIDE * SIDE * 2));
    if (cublasLtCreate(&cuda->lt) != CUBLAS_STATUS_SUCCESS)
        exit((printf("no cuBLASLt\n"), 1));
    noise_kernel<<<1024, 256>>>((__nv_bfloat16 *)work->memory, READ_BYTES / 2);
    CHECK(cudaDeviceSynchronize());
    work->w.rows = work->w.columns = SIDE;
    work->w.data = work->memory;
    work->x.data = work->memory + (size_t)SIDE * SIDE * 2;
    work->x.stride = work->y.stride = SIDE;
    work->y.data = work->result;
    work->y.halves = true;
    work->cuda = cuda;
}

static double work_time(work *work, bool products)
{
    struct product product = {};
    product.weights[0] = &work->w;
    product.ys[0] = &work->y;
    product.x = &work->x;
    product.count = 1;
    product.rows = SIDE;
    CHECK(cudaSetDevice((int)work->cuda->options.device));
    double start = 0;
    for (int i = -3; i < WORK; i++) {
        if (products)
            gemm_product(work->cuda, &product);
        else
            read_kernel<<<132 * 8, 512, 0, work->cuda->stream>>>(
                (const uint4 *)work->memory, READ_BYTES / 16, (uint32_t *)work->result);
        if (i < 0)
            CHECK(cudaStreamSynchronize(work->cuda->stream));
        if (i == -1)
            start = seconds_now();
    }
    CHECK(cudaStreamSynchronize(work->cuda->stream));
    if (work->cuda->failed != OK)
        exit((printf("failed: %s\n", work->cuda->failure), 1));
    return seconds_now() - start;
}

/* Seconds of reads and products of receiver and holder while calls go on without a pause; rates: of
 * the calls beside each. */
static void left_time(bench *b, work works[2], const way *way, double took[4], double rates[4])
{
    for (int i = 0; i < 4; i++) {
        std::atomic<bool> over{way == NULL};
        std::atomic<uint64_t> moved{0};
        std::thread mover([&] {
            cudaEvent_t ended[32];
            if (way == NULL)
                return;
            CHECK(cudaSetDevice(way->by_holder ? b->holder : b->receiver));
            for (auto &event : ended)
                CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
            for (uint32_t n = 0; !over; n++) {
                if (n >= 16)
                    CHECK(cudaEventSynchronize(ended[(n - 16) % 32]));
                cudaStream_t stream = b->streams[way->by_holder][b->calls % way->streams];
                call_start(b, *way);
                CHECK(cudaEventRecord(ended[n % 32], stream));
                moved++;
            }
            calls_wait(b, *way);
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        uint64_t before = moved;
        double start = seconds_now();
        took[i] = work_time(&works[i / 2], i % 2 == 1);
        rates[i] = (double)(moved - before) * CALL_SLICES * SLICE / (seconds_now() - start);
        over = true;
        mover.join();
    }
}

/* Every word has the place that it is in; all slices of a call, but for those of the whole copy. */
static __global__ void number_kernel(uint64_t *to, size_t count)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = i * 0x9e3779b97f4a7c15ull;
}

static void right_or_end(bench *b, const way &way)
{
    std::vector<char> from(SLICE), to(SLICE);
    uint32_t n = b->calls;
    if (way.how == WHOLE)
        return;
    CHECK(cudaSetDevice(way.by_holder ? b->holder : b->receiver));
    CHECK(cudaMemset(b->to, 0, BLOCKS * BLOCK));
    CHECK(cudaDeviceSynchronize());
    call_start(b, way);
    calls_wait(b, way);
    for (uint64_t i = 0; i < CALL_SLICES; i++) {
        uint64_t at = n % 32 * SLICE;
        CHECK(cudaMemcpy(from.data(), b->from + (n * 311 + i * 37) % BLOCKS * BLOCK + at, SLICE,
                         cudaMemcpyDefault));
        CHECK(cudaMemcpy(to.data(), b->to + (n * 523 + i * 101) % BLOCKS * BLOCK + at, SLICE,
                         cudaMemcpyDefault));
        if (memcmp(from.data(), to.data(), SLICE) != 0)
            exit((printf("%s, %s: slice %u is wrong\n", way.who, way.name, (unsigned)i), 1));
    }
}

static void bench_open(bench *b, int holder, int receiver)
{
    int reachable = 0, least, greatest;
    b->holder = holder;
    b->receiver = receiver;
    if (holder != receiver) {
        CHECK(cudaDeviceCanAccessPeer(&reachable, receiver, holder));
        if (!reachable)
            exit((printf("cuda:%d cannot read cuda:%d\n", receiver, holder), 1));
        CHECK(cudaSetDevice(holder));
        CHECK(cudaDeviceEnablePeerAccess(receiver, 0));
        CHECK(cudaSetDevice(receiver));
        CHECK(cudaDeviceEnablePeerAccess(holder, 0));
    }
    for (int side = 0; side < 2; side++) {
        CHECK(cudaSetDevice(side == 0 ? receiver : holder));
        CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
        for (auto &stream : b->streams[side])
            CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
        CHECK(cudaMalloc(side == 0 ? &b->to : &b->from, BLOCKS * BLOCK));
    }
    number_kernel<<<1024, 256>>>((uint64_t *)b->from, BLOCKS * BLOCK / 8);
    CHECK(cudaDeviceSynchronize());
}

int main(int argc, char **argv)
{
    static const way ways[] = {
        {"", "whole", false, WHOLE, 1, 0, 0},
        {"receiver", "loads, 64 x 256, 4", false, LOADS, 4, 64, 1},
        {"receiver", "loads, 16 x 256, 4", false, LOADS, 4, 16, 1},
        {"receiver", "loads, 16 x 1024, 4", false, LOADS, 4, 16, 4},
        {"receiver", "loads, 8 x 1024, 4", false, LOADS, 4, 8, 4},
        {"receiver", "loads, 4 x 1024, 4", false, LOADS, 4, 4, 4},
        {"receiver", "loads, 2 x 1024, 4", false, LOADS, 4, 2, 4},
        {"receiver", "loads, 8 x 1024, 1", false, LOADS, 1, 8, 4},
        {"receiver", "bulk, 32, 4 stages", false, BULK, 4, 32, 4},
        {"receiver", "bulk, 16, 4 stages", false, BULK, 4, 16, 4},
        {"receiver", "bulk, 8, 4 stages", false, BULK, 4, 8, 4},
        {"receiver", "bulk, 4, 8 stages", false, BULK, 4, 4, 8},
        {"receiver", "engine, 1", false, ENGINE, 1, 0, 0},
        {"receiver", "engine, 4", false, ENGINE, 4, 0, 0},
        {"holder", "loads, 64 x 256, 4", true, LOADS, 4, 64, 1},
        {"holder", "loads, 4 x 1024, 4", true, LOADS, 4, 4, 4},
        {"holder", "loads, 2 x 1024, 4", true, LOADS, 4, 2, 4},
        {"holder", "bulk, 16, 4 stages", true, BULK, 4, 16, 4},
        {"holder", "bulk, 4, 8 stages", true, BULK, 4, 4, 8},
        {"holder", "engine, 1", true, ENGINE, 1, 0, 0},
    };
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0)
        return printf("skipped: no CUDA device\n"), 77;
    bench b = {};
    b.calls = random_below(BLOCKS);
    bench_open(&b, argc == 3 ? atoi(argv[1]) : 0, argc == 3 ? atoi(argv[2]) : count - 1);
    work works[2] = {};
    double alone[4], took[4], rates[4];
    work_open(&works[0], b.receiver);
    work_open(&works[1], b.holder);
    left_time(&b, works, NULL, alone, rates);
    printf("cuda:%d to cuda:%d; slices of 64 KiB; GB/s of 8, 64, 256 MiB; beside work of a GPU: the"
           " share of its rate that is left, GB/s\n%-9s %-22s %5s %5s %5s %13s %13s %13s %13s\n",
           b.holder, b.receiver, "who", "how", "8", "64", "256", "recv reads", "recv products",
           "hold reads", "hold products");
    for (auto &way : ways) {
        printf("%-9s %-22s", way.who, way.name);
        right_or_end(&b, way);
        for (int calls : {1, 8, 32})
            printf(" %5.0f",
                   (double)calls * CALL_SLICES * SLICE / calls_time(&b, way, calls) * 1e-9);
        left_time(&b, works, &way, took, rates);
        for (int i = 0; i < 4; i++)
            printf("   %5.2f %5.0f", alone[i] / took[i], rates[i] * 1e-9);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
