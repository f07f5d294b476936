/* backend/cuda/moves_hopper.cu - fetches from another GPU on sm_90: bulk copies.
 *
 *     warp      a ring of stages in shared memory, on its own
 *       lane 0  asks for the next chunks of the other GPU's memory, and has what came copied on
 *       all     add what came to the sums, from shared memory
 *
 * A block has a part of a span after another, its warps the chunks of it in turns: so the sums of a
 * part meet in shared memory, and the block tells the host of its parts when all have landed.
 *
 * Loads to registers get 0.89 of what the driver's copy does over NVLink, whatever there is under
 * way; bulk copies of 8 KiB 0.92.
 *
 * Beside a step, when only small ones come here (moves.cu), the blocks are small, so that they lie
 * beside one of attention (decode_hopper.cu leaves 34 KiB of a multiprocessor), on so few
 * multiprocessors that products keep room for all of their blocks at once, and one move is under
 * way after the other. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/moves.cuh"

#define BULK_WARPS 4
#define FULL_STAGES 2
#define FULL_DEEP 16 /* 8 KiB a stage: 64 KiB under way, of a block */
#define BESIDE_BLOCKS 16
#define ALONE_BLOCKS 32
#define CALM_STAGES 2
#define CALM_DEEP 8 /* 32 KiB under way */
#define CALM_BLOCKS 32

template <int STAGES, int DEEP> struct bulk {
    static constexpr uint32_t VECTORS = 32 * DEEP; /* of a chunk */
    static constexpr uint32_t SHARED = BULK_WARPS * STAGES * VECTORS * 16;
    static constexpr uint32_t BLOCKS_MIN = DEEP == FULL_DEEP ? BESIDE_BLOCKS : CALM_BLOCKS;
    static constexpr uint32_t TURNS = MOVE_SPANS_MAX * MOVE_PARTS_MAX / BLOCKS_MIN; /* of a block */
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* A warp's n-th chunk: where it is in its span, in vectors; none: count 0. */
struct chunk {
    uint32_t turn, span, at, count; /* turn: which of its block's parts */
    bool ends;                      /* the warp's last one of the part */
};

template <int STAGES, int DEEP>
__device__ inline bool chunk_of(const struct move_job &job, uint32_t n, struct chunk *chunk)
{
    constexpr uint32_t VECTORS = bulk<STAGES, DEEP>::VECTORS;
    chunk->turn = n / job.rounds;
    uint32_t round = n - chunk->turn * job.rounds;
    uint32_t part = blockIdx.x + chunk->turn * gridDim.x;
    uint32_t in_part = threadIdx.x / 32 + round * BULK_WARPS;
    chunk->span = part / job.parts;
    chunk->at = ((part - chunk->span * job.parts) * job.part_chunks + in_part) * VECTORS;
    bool there = in_part < job.part_chunks && chunk->at < job.vectors;
    chunk->count = there ? min(job.vectors - chunk->at, VECTORS) : 0;
    chunk->ends = round == job.rounds - 1;
    return chunk->span < job.span_count;
}

/* Lane 0. */
template <int STAGES, int DEEP>
__device__ inline void chunk_ask(const struct move_job &job, uint32_t n, uint4 *ring,
                                 uint64_t *full)
{
    struct chunk chunk;
    uint32_t slot = n % STAGES;
    if (!chunk_of<STAGES, DEEP>(job, n, &chunk))
        return;
    barrier_expect(&full[slot], chunk.count * 16);
    if (chunk.count == 0)
        return;
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::
                 "r"(address_of(ring + slot * bulk<STAGES, DEEP>::VECTORS)),
                 "l"(job.from + job.spans[chunk.span].from + (size_t)chunk.at * 16),
                 "r"(chunk.count * 16), "r"(address_of(&full[slot]))
                 : "memory");
}

/* Lane 0; returns when the chunk before this one has left its stage. */
__device__ inline void chunk_store(const struct move_job &job, const struct chunk &chunk,
                                   const uint4 *stage)
{
    if (chunk.count > 0)
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                         job.to + job.spans[chunk.span].to + (size_t)chunk.at * 16),
                     "r"(address_of(stage)), "r"(chunk.count * 16)
                     : "memory");
    asm volatile("cp.async.bulk.commit_group;\n"
                 "cp.async.bulk.wait_group.read 1;" ::: "memory");
}

/* All threads: tell the host of the block's parts, all of which have landed. */
__device__ inline void parts_tell(const struct move_job &job, const unsigned long long (*sums)[2])
{
    for (uint32_t i = threadIdx.x;; i += blockDim.x) {
        uint32_t turn = i / 2, part = blockIdx.x + turn * gridDim.x;
        if (part >= job.span_count * job.parts)
            return;
        unsigned long long sum = sums[turn][i % 2];
        asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(
                         &job.answer->parts[part][2 * (i % 2)]),
                     "r"((uint32_t)sum), "r"(job.number), "r"((uint32_t)(sum >> 32))
                     : "memory");
    }
}

#endif

template <int STAGES, int DEEP>
__global__ void __launch_bounds__(BULK_WARPS * 32)
    moves_hopper_kernel(const __grid_constant__ struct move_job job)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) uint4 rings[];
    __shared__ uint64_t barriers[BULK_WARPS][STAGES];
    __shared__ unsigned long long sums[bulk<STAGES, DEEP>::TURNS][2];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint4 *ring = rings + warp * STAGES * bulk<STAGES, DEEP>::VECTORS;
    uint64_t *full = barriers[warp];
    struct chunk chunk;
    uint64_t a = 0, b = 0;
    for (int i = 0; lane == 0 && i < STAGES; i++)
        barrier_open(&full[i], 1);
    if (lane == 0)
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncwarp();
    for (uint32_t n = 0; lane == 0 && n < STAGES; n++)
        chunk_ask<STAGES, DEEP>(job, n, ring, full);
    for (uint32_t i = threadIdx.x; i < 2 * bulk<STAGES, DEEP>::TURNS; i += blockDim.x)
        sums[i / 2][i % 2] = 0;
    __syncthreads();
    for (uint32_t n = 0; chunk_of<STAGES, DEEP>(job, n, &chunk); n++) {
        const uint4 *stage = ring + n % STAGES * bulk<STAGES, DEEP>::VECTORS;
        barrier_wait(&full[n % STAGES], n / STAGES & 1);
        if (lane == 0) {
            chunk_store(job, chunk, stage);
            if (n > 0)
                chunk_ask<STAGES, DEEP>(job, n - 1 + STAGES, ring, full);
        }
#pragma unroll
        for (uint32_t i = 0; i < DEEP; i++)
            if (i * 32 + lane < chunk.count)
                sum_vector(stage[i * 32 + lane], 2ull * (chunk.at + i * 32 + lane), &a, &b);
        if (chunk.ends) {
            sums_add(sums[chunk.turn], a, b);
            a = b = 0;
        }
        __syncwarp(); /* nobody reads this stage any more: the next round fills it again */
    }
    if (lane == 0)
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    __threadfence();
    __syncthreads();
    parts_tell(job, sums);
#endif
}

/* most: at least BLOCKS_MIN. */
template <int STAGES, int DEEP>
static void bulk_start(struct move_job &job, uint32_t most, cudaStream_t stream)
{
    typedef bulk<STAGES, DEEP> of;
    uint32_t chunks = (job.vectors + of::VECTORS - 1) / of::VECTORS;
    job.part_chunks = (chunks + MOVE_PARTS_MAX - 1) / MOVE_PARTS_MAX;
    if (job.part_chunks < PART_BYTES / 16 / of::VECTORS)
        job.part_chunks = PART_BYTES / 16 / of::VECTORS;
    job.part_chunks = job.part_chunks < chunks ? job.part_chunks : chunks;
    job.parts = (chunks + job.part_chunks - 1) / job.part_chunks;
    job.rounds = (job.part_chunks + BULK_WARPS - 1) / BULK_WARPS;
    uint32_t all = job.span_count * job.parts;
    moves_hopper_kernel<STAGES, DEEP>
        <<<all < most ? all : most, BULK_WARPS * 32, of::SHARED, stream>>>(job);
}

template <int STAGES, int DEEP> static cudaError_t bulk_open(void)
{
    return cudaFuncSetAttribute(moves_hopper_kernel<STAGES, DEEP>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)bulk<STAGES, DEEP>::SHARED);
}

cudaError_t moves_hopper_open(void)
{
    cudaError_t code = bulk_open<FULL_STAGES, FULL_DEEP>();
    return code == cudaSuccess ? bulk_open<CALM_STAGES, CALM_DEEP>() : code;
}

void moves_hopper_start(struct move_job &job, enum move_pace pace, cudaStream_t stream)
{
    if (pace == PACE_CALM)
        bulk_start<CALM_STAGES, CALM_DEEP>(job, CALM_BLOCKS, stream);
    else
        bulk_start<FULL_STAGES, FULL_DEEP>(job, pace == PACE_ALONE ? ALONE_BLOCKS : BESIDE_BLOCKS,
                                           stream);
}
