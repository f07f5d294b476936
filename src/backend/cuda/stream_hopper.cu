/* backend/cuda/stream_hopper.cu - y = W x for few rows on sm_90: memory never waits.
 *
 *     block (one a multiprocessor)     tiles of 16 outputs, one after another
 *       warp 8                         asks for W, stage after stage, as far ahead as there is room
 *       warps 0 .. 7                   each takes units w, w + 8, ... of a stage, adds its own sum
 *     end of a tile                    the eight sums are added in order
 *
 *     stage: the next 1024 bytes of the tile's rows, each copied by one bulk copy to rows that are
 *     64 bytes longer, so that two rows' pieces never share a bank
 *
 * W does not depend on the kernels before, so warp 8 begins while they run: the next product's
 * first stages are there when it may begin. Two blocks fit on a multiprocessor. x is read from the
 * L2 cache, a stage ahead. A row's bits depend on the number of columns only. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/stream.cuh"

#define CONSUMERS (WARPS * 32)
#define THREADS (CONSUMERS + 32)
#define COLUMNS unit_columns(FORM_HALVES)
#define SHARED_PAIR 115712u  /* of two blocks on one multiprocessor */
#define SHARED_ALONE 232448u /* of one */

template <int NT> struct stage_of {
    static constexpr uint32_t BYTES = 1024; /* of a row */
    static constexpr uint32_t PITCH = BYTES + 64;
    static constexpr uint32_t UNITS = BYTES / UNIT_BYTES;
    static constexpr uint32_t EACH = UNITS / WARPS; /* of a warp */
    static constexpr uint32_t ALL = MMA_ROWS * PITCH;
    static constexpr uint32_t SUMS = WARPS * MMA_ROWS * (8 * NT + 1) * 4;
    static constexpr uint32_t ROOM = (NT <= 2 ? SHARED_PAIR : SHARED_ALONE) - SUMS - 256;
    static constexpr uint32_t COUNT = ROOM / ALL > 8 ? 8 : ROOM / ALL;
};

template <int NT> struct stream_shared {
    typedef stage_of<NT> stage;
    char stages[stage::COUNT][stage::ALL];
    float sums[WARPS][MMA_ROWS][8 * NT + 1];
    uint64_t full[stage::COUNT], empty[stage::COUNT];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* Warp 8: all stages of all tiles. */
template <int NT>
__device__ inline void stages_fetch(const stream_args &args, stream_shared<NT> &shared)
{
    typedef stage_of<NT> stage;
    uint32_t lane = threadIdx.x % 32, units = args.columns / COLUMNS;
    uint32_t stages = (units + stage::UNITS - 1) / stage::UNITS;
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (uint32_t tile = blockIdx.x, n = 0; tile < args.tiles; tile += gridDim.x) {
        const stream_part &p = part_of(args, tile);
        uint32_t row0 = (tile - p.tiles_before) * MMA_ROWS;
        uint32_t rows = min((uint32_t)MMA_ROWS, p.rows - row0);
        for (uint32_t s = 0; s < stages; s++, n++) {
            uint32_t slot = n % stage::COUNT, count = min(stage::UNITS, units - s * stage::UNITS);
            uint32_t bytes = count * UNIT_BYTES;
            char *to = shared.stages[slot];
            if (n >= stage::COUNT)
                barrier_wait(&shared.empty[slot], (n / stage::COUNT - 1) & 1);
            if (lane == 0)
                barrier_expect(&shared.full[slot], rows * bytes);
            __syncwarp();
            if (lane < rows)
                row_fetch(to + lane * stage::PITCH,
                          (const char *)p.data +
                              ((size_t)(row0 + lane) * units + s * stage::UNITS) * UNIT_BYTES,
                          bytes, &shared.full[slot], policy);
        }
    }
}

/* The rows of x that are this thread's, at the columns of a warp's units of a stage; at: of their
 * values 8t. */
template <typename T, int NT>
__device__ inline void x_read(const stream_args &args, const uint32_t at[NT], uint32_t unit,
                              uint32_t units, uint4 v[stage_of<NT>::EACH][1][NT])
{
#pragma unroll
    for (uint32_t u = 0; u < stage_of<NT>::EACH; u++) {
        uint32_t column = min(unit + u * WARPS, units - 1) * COLUMNS;
#pragma unroll
        for (int n = 0; n < NT; n++)
            v[u][0][n] = __ldcg((const uint4 *)((const T *)args.x + at[n] + column));
    }
}

__device__ inline void consumers_meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
}

/* A tile's sums, added over the warps. */
template <typename T, int NT>
__device__ inline void tile_store(const stream_args &args, uint32_t tile, uint32_t x_first,
                                  const float sums[NT][4], stream_shared<NT> &shared)
{
    const stream_part &p = part_of(args, tile);
    uint32_t row0 = (tile - p.tiles_before) * MMA_ROWS;
    sums_show<NT>(sums, shared.sums[threadIdx.x / 32]);
    consumers_meet();
    for (uint32_t i = threadIdx.x; i < MMA_ROWS * 8 * NT; i += CONSUMERS) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += shared.sums[w][i % MMA_ROWS][i / MMA_ROWS];
        sum_store<T>(args, p, x_first + i / MMA_ROWS, row0 + i % MMA_ROWS, sum);
    }
    consumers_meet();
}

/* Warps 0 .. 7. x of the next stage is on its way while this one is added. */
template <typename T, int NT>
__device__ inline void stages_take(const stream_args &args, stream_shared<NT> &shared)
{
    typedef stage_of<NT> stage;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t x_first = blockIdx.y * 8 * NT, units = args.columns / COLUMNS;
    uint32_t stages = (units + stage::UNITS - 1) / stage::UNITS;
    uint32_t x[NT];
    uint4 now[stage::EACH][1][NT], next[stage::EACH][1][NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        x[n] = min(x_first + n * 8 + g, args.x_rows - 1) * args.x_stride + t * 8;
    x_read<T, NT>(args, x, warp, units, now);
    for (uint32_t tile = blockIdx.x, n = 0; tile < args.tiles; tile += gridDim.x) {
        float sums[NT][4] = {};
        for (uint32_t s = 0; s < stages; s++, n++) {
            const char *data = shared.stages[n % stage::COUNT] + g * stage::PITCH + t * 16;
            const uint4 none = make_uint4(0, 0, 0, 0);
            x_read<T, NT>(args, x, (s + 1 < stages ? (s + 1) * stage::UNITS : 0) + warp, units,
                          next);
            barrier_wait(&shared.full[n % stage::COUNT], n / stage::COUNT & 1);
#pragma unroll
            for (uint32_t u = 0; u < stage::EACH; u++) {
                uint32_t in = warp + u * WARPS;
                const char *at = data + in * UNIT_BYTES;
                if (s * stage::UNITS + in < units)
                    unit_add<T, FORM_HALVES, NT>(*(const uint4 *)at,
                                                 *(const uint4 *)(at + 8 * stage::PITCH), none,
                                                 none, now[u], sums);
#pragma unroll
                for (int m = 0; m < NT; m++)
                    now[u][0][m] = next[u][0][m];
            }
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&shared.empty[n % stage::COUNT]);
        }
        tile_store<T, NT>(args, tile, x_first, sums, shared);
    }
}

#endif

template <typename T, int NT>
__global__ void __launch_bounds__(THREADS, NT <= 2 ? 2 : 1)
    ring_kernel(const __grid_constant__ stream_args args)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char memory[];
    stream_shared<NT> &shared = *(stream_shared<NT> *)memory;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < stage_of<NT>::COUNT; i++) {
            barrier_open(&shared.full[i], 1);
            barrier_open(&shared.empty[i], WARPS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    chain_next();
    if (threadIdx.x >= CONSUMERS) {
        stages_fetch<NT>(args, shared);
    } else {
        chain_wait();
        stages_take<T, NT>(args, shared);
    }
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

/* ---- the host's side ---- */

/* Quantised weights are not for it: eight warps cannot unpack what memory brings. */
bool stream_hopper_can(const struct cuda_backend *cuda, const struct product *product)
{
    return cuda->hopper && !product->weights[0]->quantised;
}

template <typename T, int NT>
static void ring_run(struct cuda_backend *cuda, const struct stream_args *args)
{
    uint32_t blocks = (uint32_t)cuda->processors;
    size_t bytes = sizeof(stream_shared<NT>);
    cuda_good(cuda,
              cudaFuncSetAttribute(ring_kernel<T, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)bytes),
              "shared memory of a product");
    chain(cuda, ring_kernel<T, NT>,
          dim3(args->tiles < blocks ? args->tiles : blocks, (args->x_rows + 8 * NT - 1) / (8 * NT)),
          THREADS, bytes, *args);
}

template <typename T>
static void rows_run(struct cuda_backend *cuda, const struct stream_args *args)
{
    if (args->x_rows <= 8)
        ring_run<T, 1>(cuda, args);
    else if (args->x_rows <= 16)
        ring_run<T, 2>(cuda, args);
    else
        ring_run<T, 4>(cuda, args);
}

void stream_hopper(struct cuda_backend *cuda, const struct stream_args *args)
{
    BY_TYPE(cuda, rows_run, cuda, args);
}
