/* backend/cuda/moves.cuh - what moves.cu and moves_hopper.cu share: how a move is described, its
 * sums, and how the host hears that it is over.
 *
 * A span is cut into chunks of 4 KiB; a warp takes one at a time, and adds its part to the span's
 * sums. The last block of threads to arrive writes the sums and the move's number where the host
 * sees them.
 *
 * moves_hopper.cu gives a part of a span, 64 KiB or an eighth, to one block, which tells the host
 * of it by itself: every half of its sums lies beside the move's number in eight bytes, which are
 * written at once, so nobody waits for blocks to meet, nor for one write over PCIe before the next.
 */
#ifndef BACKEND_CUDA_MOVES_CUH
#define BACKEND_CUDA_MOVES_CUH

#include "backend/cuda/state.cuh"

#define MOVE_DEEP 8
#define WARP_VECTORS (32 * MOVE_DEEP)
#define MOVE_PARTS_MAX 8u /* of a span */
#define PART_BYTES (64u << 10)

/* Pinned memory of the host, written by the device. */
struct answer {
    uint32_t number, pad[3];
    struct move_sum sums[MOVE_SPANS_MAX];
    /* Of a and b the low half and the high half, the number in the upper four bytes of each. */
    alignas(16) uint64_t parts[MOVE_SPANS_MAX * MOVE_PARTS_MAX][4];
};

struct move_job {
    const char *from;
    char *to;
    unsigned long long *sums;
    uint32_t *arrivals;
    struct answer *answer;
    uint32_t number, span_count, vectors, chunks; /* of a span */
    /* moves_hopper.cu: of a span; of a part, at most; of a warp in a part */
    uint32_t parts, part_chunks, rounds;
    bool to_host;
    struct move_span spans[MOVE_SPANS_MAX];
};

struct pool_map {
    char *base;
    bool opened; /* by cudaIpcOpenMemHandle */
    bool far;    /* of another device */
};

/* What goes on beside a fetch: a step, other moves, nothing. */
enum move_pace { PACE_CALM, PACE_BESIDE, PACE_ALONE };

/* moves_hopper.cu, on sm_90. Errors: as cudaFuncSetAttribute. */
cudaError_t moves_hopper_open(void);
void moves_hopper_start(struct move_job &job, enum move_pace pace, cudaStream_t stream);

/* moves.cu: how many fetches went by the copy engines, since open. */
uint32_t moves_by_engines(const struct cuda_backend *cuda);

__device__ inline void sum_vector(uint4 v, uint64_t position, uint64_t *a, uint64_t *b)
{
    uint64_t first = (uint64_t)v.y << 32 | (v.x ^ v.y);
    uint64_t second = (uint64_t)v.w << 32 | (v.z ^ v.w);
    *a += first + second;
    *b += position * (first + second) + first + 2 * second;
}

/* A warp's part of a pair of sums. */
__device__ inline void sums_add(unsigned long long *sums, uint64_t a, uint64_t b)
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (uint32_t step = 16; step > 0; step /= 2) {
        a += __shfl_xor_sync(~0u, a, step);
        b += __shfl_xor_sync(~0u, b, step);
    }
    if (lane < 2)
        atomicAdd(&sums[lane], (unsigned long long)(lane == 0 ? a : b));
}

/* All threads of the block, which is done. */
__device__ inline void move_arrive(const struct move_job &job)
{
    __shared__ bool last;
    if (job.to_host)
        __threadfence_system();
    else
        __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicAdd(job.arrivals, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < 2 * job.span_count; i += blockDim.x) {
        ((unsigned long long *)job.answer->sums)[i] = __ldcg(&job.sums[i]);
        job.sums[i] = 0;
    }
    if (threadIdx.x == 0)
        *job.arrivals = 0;
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0)
        *(volatile uint32_t *)&job.answer->number = job.number;
}

#endif
