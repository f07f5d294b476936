/* backend/cuda/memory.cu - memory of the device: taken once, given back at close; buffers.
 *
 *     regions    of 256 MiB or of one large piece; what is taken lies in them one behind the other
 *     scratch    one piece that grows while weights are loaded, for what is used for a moment
 */
#include <stdlib.h>

#include "backend/cuda/state.cuh"

#define REGION_BYTES ((size_t)256 << 20)

void *device_take(struct cuda_backend *cuda, size_t bytes)
{
    size_t size = (bytes + 255) / 256 * 256;
    struct region *region = cuda->regions;
    if (region == NULL || region->bytes - region->used < size) {
        region = (struct region *)malloc(sizeof(*region));
        if (region == NULL)
            return NULL;
        region->next = cuda->regions;
        region->bytes = size > REGION_BYTES ? size : REGION_BYTES;
        region->used = 0;
        void *base;
        cudaError_t code = cudaMalloc(&base, region->bytes);
        if (code == cudaErrorMemoryAllocation && region->bytes > size) {
            (void)cudaGetLastError();
            region->bytes = size;
            code = cudaMalloc(&base, region->bytes);
        }
        if (code != cudaSuccess) {
            (void)cudaGetLastError();
            free(region);
            return NULL;
        }
        region->base = (char *)base;
        cuda->regions = region;
    }
    void *taken = region->base + region->used;
    region->used += size;
    return taken;
}

status scratch_reserve(struct cuda_backend *cuda, size_t bytes)
{
    if (bytes <= cuda->scratch_bytes)
        return OK;
    cuda_good(cuda, cudaStreamSynchronize(cuda->stream), "loading");
    if (cuda->scratch != NULL)
        cuda_good(cuda, cudaFree(cuda->scratch), "scratch");
    cuda->scratch = NULL;
    cuda->scratch_bytes = 0;
    if (!cuda_good(cuda, cudaMalloc(&cuda->scratch, bytes), "scratch for weights"))
        return cuda_failure(cuda);
    cuda->scratch_bytes = bytes;
    return OK;
}

void memory_close(struct cuda_backend *cuda)
{
    (void)cudaFree(cuda->scratch);
    while (cuda->regions != NULL) {
        struct region *next = cuda->regions->next;
        (void)cudaFree(cuda->regions->base);
        free(cuda->regions);
        cuda->regions = next;
    }
}

status buffer_open(struct cuda_backend *cuda, uint32_t width, bool outputs,
                   struct backend_buffer **buffer_out)
{
    struct backend_buffer *buffer = (struct backend_buffer *)calloc(1, sizeof(*buffer));
    if (buffer == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a buffer");
    buffer->width = width;
    buffer->rows = outputs ? cuda->limits.outputs_max : cuda->limits.rows_max;
    buffer->outputs = outputs;
    buffer->stride = width;
    size_t bytes = (size_t)bucket_of(buffer->rows) * width * sizeof(float);
    buffer->storage = buffer->data = (char *)device_take(cuda, bytes);
    if (buffer->storage == NULL) {
        free(buffer);
        return error_set(ERR_NO_MEMORY, "the device has no memory for a buffer of %zu bytes",
                         bytes);
    }
    cuda_good(cuda, cudaMemsetAsync(buffer->storage, 0, bytes, cuda->stream), "buffer");
    if (outputs && width > cuda->row_host_width) {
        if (cuda->row_host != NULL)
            cuda_good(cuda, cudaFreeHost(cuda->row_host), "pinned memory");
        cuda_good(cuda, cudaMallocHost((void **)&cuda->row_host, width * sizeof(float)),
                  "pinned memory");
        cuda->row_host_width = width;
    }
    *buffer_out = buffer;
    return cuda_failure(cuda);
}
