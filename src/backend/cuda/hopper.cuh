/* backend/cuda/hopper.cuh - what sm_90 adds: barriers in shared memory that copies complete, copies
 * of bytes on end, and of boxes by tensor maps.
 *
 *     pool as a matrix    a row for each (block, layer, k or v, head, token): head_dim values
 *     box                 CHUNK values of some rows on end; 128 bytes a row in shared memory, where
 *                         16-byte piece p of row r lies at p ^ r % 8: no two of eight rows collide
 *
 * Memory: shared memory of a box begins at a multiple of ALIGNMENT (of its eight rows).
 */
#ifndef BACKEND_CUDA_HOPPER_CUH
#define BACKEND_CUDA_HOPPER_CUH

#include <cuda.h>

#include "backend/cuda/state.cuh"

#define CHUNK 64 /* values: 128 bytes */
#define ALIGNMENT 1024u

/* base: rows of row_bytes; a box is CHUNK columns of box_rows rows. */
bool box_map_make(struct cuda_backend *cuda, void *base, uint64_t columns, uint64_t rows,
                  uint64_t row_bytes, uint32_t box_rows, CUtensorMap *map_out);

/* The pool can be read in boxes of box_rows tokens. */
bool pool_has_boxes(const struct cuda_backend *cuda, uint32_t box_rows);

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline uint32_t address_of(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

__device__ inline void barrier_open(uint64_t *barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_of(barrier)),
                 "r"(arrivals));
}

__device__ inline void barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address_of(barrier)) : "memory");
}

__device__ inline void barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     address_of(barrier)),
                 "r"(bytes)
                 : "memory");
}

__device__ inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    uint32_t done;
    do
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(address_of(barrier)), "r"(parity)
                     : "memory");
    while (done == 0);
}

struct slot_turn { /* which slot comes next, and in which round */
    uint32_t slot, parity;

    __device__ inline void next(uint32_t slots)
    {
        if (++slot == slots) {
            slot = 0;
            parity ^= 1;
        }
    }
};

__device__ inline void box_fetch(void *to, const CUtensorMap *map, uint32_t column, uint32_t row,
                                 uint64_t *full)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(address_of(to)),
                 "l"(map), "r"(column), "r"(row), "r"(address_of(full))
                 : "memory");
}

/* The same, of what is read once: it does not push others out of the L2 cache. */
__device__ inline void box_fetch_once(void *to, const CUtensorMap *map, uint32_t column,
                                      uint32_t row, uint64_t *full, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(address_of(to)),
                 "l"(map), "r"(column), "r"(row), "r"(address_of(full)), "l"(policy)
                 : "memory");
}

/* Bytes on end, which are read once. */
__device__ inline void row_fetch(void *to, const void *from, uint32_t bytes, uint64_t *full,
                                 uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(address_of(to)),
                 "l"(from), "r"(bytes), "r"(address_of(full)), "l"(policy)
                 : "memory");
}

#endif
#endif
