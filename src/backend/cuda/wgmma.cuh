/* backend/cuda/wgmma.cuh - the tensor cores as a warpgroup of sm_90a uses them: tiles in shared
 * memory, products that run while the threads go on.
 *
 * A tile is rows of 128 swizzled bytes, as hopper.cuh's boxes are. */
#ifndef BACKEND_CUDA_WGMMA_CUH
#define BACKEND_CUDA_WGMMA_CUH

#include "backend/cuda/hopper.cuh"

#define GROUP_THREADS 128 /* a warpgroup */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A tile in shared memory in rows of 128 swizzled bytes; eight rows are 1024 bytes. across: bytes
 * from one chunk of columns to the next, where the columns are not what is summed. */
__device__ inline uint64_t tile_of(const void *at, uint32_t across)
{
    return (uint64_t)(address_of(at) >> 4 & 0x3fff) | (uint64_t)(across >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

__device__ inline void products_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void products_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until no more than LEFT committed groups run. */
template <int LEFT> __device__ inline void products_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

/* These values are computed before here, and read after it. */
template <int N> __device__ inline void values_settle(float (&values)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(values[i])::"memory");
}

#define F4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define F16(d, i) F4(d, i), F4(d, (i) + 4), F4(d, (i) + 8), F4(d, (i) + 12)
#define N32                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,"   \
    "%25,%26,%27,%28,%29,%30,%31"
#define N64                                                                                        \
    N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,"    \
        "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

/* Bytes further on within a tile. */
__device__ inline uint64_t tile_at(uint64_t tile, uint32_t bytes)
{
    return tile + (bytes >> 4);
}

#endif
#endif
