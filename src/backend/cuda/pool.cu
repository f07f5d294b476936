/* backend/cuda/pool.cu - the pool of blocks, where carriers of the host put blocks down, and blocks
 * that were swapped out.
 *
 *     pool       memory of the device, exported by moves.cu
 *     staging    a memory file of the same size, pinned: blocks on their way from or to the host
 *     swap       memory of the host for blocks of sequences that wait
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cuda/state.cuh"

/* A memory file, pinned, where carriers that start from the host put blocks down. */
static status staging_open(struct cuda_backend *cuda)
{
    size_t bytes = cuda->pool.bytes;
    int fd = memfd_create("baton-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        status code = error_set(ERR_NO_MEMORY,
                                "no host memory for the copy of a pool of %zu bytes: %s", bytes,
                                strerror(errno));
        if (fd >= 0)
            close(fd);
        return code;
    }
    cuda->pool.host = (uint8_t *)at;
    cuda->pool.fd = fd;
    if (!cuda_good(cuda, cudaHostRegister(at, bytes, cudaHostRegisterMapped), "pinned memory") ||
        !cuda_good(cuda, cudaHostGetDevicePointer((void **)&cuda->staging_device, at, 0),
                   "pinned memory"))
        return cuda_failure(cuda);
    return OK;
}

status pool_open(struct cuda_backend *cuda, uint32_t block_count, struct backend_pool *pool_out)
{
    size_t bytes = (size_t)block_count * cuda->shape.block_bytes;
    if (cuda->shape.layer_bytes % 16 != 0)
        return error_set(ERR_UNSUPPORTED,
                         "cuda:%u: a layer of a block is %zu bytes, expected a multiple of 16",
                         cuda->options.device, cuda->shape.layer_bytes);
    cudaError_t code = cudaMalloc((void **)&cuda->pool_device, moves_pool_bytes(bytes));
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        return error_set(ERR_NO_MEMORY,
                         "cuda:%u has no memory for a KV pool of %zu bytes: give fewer with "
                         "--kv-bytes",
                         cuda->options.device, bytes);
    }
    cuda_good(cuda, cudaMemsetAsync(cuda->pool_device, 0, bytes, cuda->stream), "pool");
    cuda->pool.block_count = block_count;
    cuda->pool.host = NULL;
    cuda->pool.fd = -1;
    cuda->pool.bytes = bytes;
    status result = cuda->options.staged ? staging_open(cuda) : cuda_failure(cuda);
    if (result == OK && !moves_open(cuda))
        result = cuda_failure(cuda);
    *pool_out = cuda->pool;
    return result;
}

void pool_copy(struct cuda_backend *cuda, block_id from, block_id to)
{
    size_t bytes = cuda->shape.block_bytes;
    cuda_good(cuda,
              cudaMemcpyAsync(cuda->pool_device + to * bytes, cuda->pool_device + from * bytes,
                              bytes, cudaMemcpyDeviceToDevice, cuda->stream),
              "copy of a block");
}

/* Pinned, so that the device copies at the speed of its bus. Where that much cannot be pinned the
 * driver copies through a buffer of its own, which is slower and as right. */
status swap_open(struct cuda_backend *cuda, uint32_t slot_count)
{
    size_t bytes = (size_t)slot_count * cuda->shape.block_bytes;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "no memory for %zu bytes of swapped blocks: %s", bytes,
                         strerror(errno));
    cuda->swap = (char *)at;
    cuda->swap_slots = slot_count;
    cuda->swap_pinned = cudaHostRegister(at, bytes, cudaHostRegisterDefault) == cudaSuccess;
    if (!cuda->swap_pinned)
        (void)cudaGetLastError();
    return OK;
}

/* Blocks ids of the pool to slots, or back; done on return. */
static status swap_copy(struct cuda_backend *cuda, const block_id *ids, const block_id *slots,
                        uint32_t count, bool out)
{
    size_t bytes = cuda->shape.block_bytes;
    const char *what = out ? "copy of blocks to the host" : "copy of blocks from the host";
    for (uint32_t i = 0; i < count && cuda->failed == OK; i++) {
        char *block = cuda->pool_device + ids[i] * bytes, *slot = cuda->swap + slots[i] * bytes;
        cuda_good(cuda,
                  cudaMemcpyAsync(out ? slot : block, out ? block : slot, bytes,
                                  out ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice,
                                  cuda->stream),
                  what);
    }
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), what);
    return cuda_failure(cuda);
}

status swap_out(struct cuda_backend *cuda, const block_id *ids, const block_id *slots,
                uint32_t count)
{
    return swap_copy(cuda, ids, slots, count, true);
}

status swap_in(struct cuda_backend *cuda, const block_id *slots, const block_id *ids,
               uint32_t count)
{
    return swap_copy(cuda, ids, slots, count, false);
}

void pool_close(struct cuda_backend *cuda)
{
    if (cuda->pool.host != NULL) {
        (void)cudaHostUnregister(cuda->pool.host);
        (void)munmap(cuda->pool.host, cuda->pool.bytes);
        (void)close(cuda->pool.fd);
    }
    if (cuda->swap != NULL) {
        if (cuda->swap_pinned)
            (void)cudaHostUnregister(cuda->swap);
        (void)munmap(cuda->swap, cuda->swap_slots * cuda->shape.block_bytes);
    }
    (void)cudaFree(cuda->pool_device);
}
