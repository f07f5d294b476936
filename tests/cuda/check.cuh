/* tests/cuda/check.cuh - what the programs here share: calls that must succeed, and numbers. */
#ifndef CUDA_CHECK_CUH
#define CUDA_CHECK_CUH

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <cuda_runtime.h>

#define CHECK(call)                                                                                \
    do {                                                                                           \
        cudaError_t code_ = (call);                                                                \
        if (code_ != cudaSuccess) {                                                                \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(code_));                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % limit);
}

#endif
