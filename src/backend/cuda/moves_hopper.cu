/* backend/cuda/moves_hopper.cu - fetches from another GPU on sm_90: bulk copies.
 *
 *     warp      a ring of stages in shared memory, on its own
 *       lane 0  asks for the next chunks of the other GPU's memory, and has what came copied on
 *       all     add what came to the sums, from shared memory
 *
 * Loads to registers get 0.89 of what the driver's copy does over NVLink, whatever there is under
 * way; bulk copies 0.94. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/moves.cuh"

#define BULK_WARPS 4
#define BULK_STAGES 4
#define BULK_BLOCKS 16 /* 64 KiB under way each; of four moves at once: 4 MiB */
#define STAGE_BYTES (WARP_VECTORS * 16)
#define BULK_SHARED (BULK_WARPS * BULK_STAGES * STAGE_BYTES)

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* A warp's n-th chunk: where it is in its span, in vectors. */
struct chunk {
    uint32_t span, at, count;
};

__device__ inline bool chunk_of(const struct move_job &job, uint32_t n, struct chunk *chunk)
{
    uint32_t warp = blockIdx.x * BULK_WARPS + threadIdx.x / 32;
    uint32_t number = warp + n * gridDim.x * BULK_WARPS;
    chunk->span = number / job.chunks;
    chunk->at = (number - chunk->span * job.chunks) * WARP_VECTORS;
    chunk->count = min(job.vectors - chunk->at, (uint32_t)WARP_VECTORS);
    return chunk->span < job.span_count;
}

/* Lane 0. */
__device__ inline void chunk_ask(const struct move_job &job, uint32_t n, uint4 *ring,
                                 uint64_t *full)
{
    struct chunk chunk;
    uint32_t slot = n % BULK_STAGES;
    if (!chunk_of(job, n, &chunk))
        return;
    barrier_expect(&full[slot], chunk.count * 16);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(address_of(ring + slot * WARP_VECTORS)),
                 "l"(job.from + job.spans[chunk.span].from + (size_t)chunk.at * 16),
                 "r"(chunk.count * 16), "r"(address_of(&full[slot]))
                 : "memory");
}

/* Lane 0; returns when the chunk before this one has left its stage. */
__device__ inline void chunk_store(const struct move_job &job, const struct chunk &chunk,
                                   const uint4 *stage)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n"
                 "cp.async.bulk.commit_group;\n"
                 "cp.async.bulk.wait_group.read 1;" ::"l"(job.to + job.spans[chunk.span].to +
                                                          (size_t)chunk.at * 16),
                 "r"(address_of(stage)), "r"(chunk.count * 16)
                 : "memory");
}

#endif

__global__ void __launch_bounds__(BULK_WARPS * 32)
    moves_hopper_kernel(const __grid_constant__ struct move_job job)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) uint4 rings[];
    __shared__ uint64_t barriers[BULK_WARPS][BULK_STAGES];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint4 *ring = rings + warp * BULK_STAGES * WARP_VECTORS;
    uint64_t *full = barriers[warp];
    struct chunk chunk;
    for (int i = 0; lane == 0 && i < BULK_STAGES; i++)
        barrier_open(&full[i], 1);
    if (lane == 0)
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncwarp();
    for (uint32_t n = 0; lane == 0 && n < BULK_STAGES; n++)
        chunk_ask(job, n, ring, full);
    for (uint32_t n = 0; chunk_of(job, n, &chunk); n++) {
        const uint4 *stage = ring + n % BULK_STAGES * WARP_VECTORS;
        uint64_t a = 0, b = 0;
        barrier_wait(&full[n % BULK_STAGES], n / BULK_STAGES & 1);
        if (lane == 0) {
            chunk_store(job, chunk, stage);
            if (n > 0)
                chunk_ask(job, n - 1 + BULK_STAGES, ring, full);
        }
#pragma unroll
        for (uint32_t i = 0; i < MOVE_DEEP; i++)
            if (i * 32 + lane < chunk.count)
                sum_vector(stage[i * 32 + lane], 2ull * (chunk.at + i * 32 + lane), &a, &b);
        sums_add(job, chunk.span, a, b);
        __syncwarp(); /* nobody reads this stage any more: the next round fills it again */
    }
    if (lane == 0)
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    __syncwarp();
    move_arrive(job);
#endif
}

cudaError_t moves_hopper_open(void)
{
    return cudaFuncSetAttribute(moves_hopper_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                BULK_SHARED);
}

void moves_hopper_start(const struct move_job &job, cudaStream_t stream)
{
    uint32_t all = (job.span_count * job.chunks + BULK_WARPS - 1) / BULK_WARPS;
    moves_hopper_kernel<<<all < BULK_BLOCKS ? all : BULK_BLOCKS, BULK_WARPS * 32, BULK_SHARED,
                          stream>>>(job);
}
