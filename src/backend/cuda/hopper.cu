/* backend/cuda/hopper.cu - is there code for sm_90a; tensor maps, made by the driver. */
#include <cudaTypedefs.h>

#include "backend/cuda/hopper.cuh"

__global__ void code_probe(void)
{
}

bool hopper_has_code(void)
{
    cudaFuncAttributes attributes;
    bool found = cudaFuncGetAttributes(&attributes, code_probe) == cudaSuccess;
    (void)cudaGetLastError();
    return found && attributes.ptxVersion >= 90;
}

bool box_map_make(struct cuda_backend *cuda, void *base, uint64_t columns, uint64_t rows,
                  uint64_t row_bytes, uint32_t box_rows, CUtensorMap *map_out)
{
    static PFN_cuTensorMapEncodeTiled_v12000 encode;
    const cuuint64_t sizes[2] = {columns, rows}, strides[1] = {row_bytes};
    const cuuint32_t box[2] = {CHUNK, box_rows}, steps[2] = {1, 1};
    if (encode == NULL) {
        cudaDriverEntryPointQueryResult found;
        if (!cuda_good(cuda,
                       cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode,
                                                        12000, cudaEnableDefault, &found),
                       "tensor maps of the driver"))
            return false;
    }
    CUresult code = encode(map_out, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, base, sizes, strides, box,
                           steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return code == CUDA_SUCCESS || cuda_good(cuda, cudaErrorInvalidValue, "tensor map");
}

bool pool_has_boxes(const struct cuda_backend *cuda, uint32_t box_rows)
{
    const struct backend_shape *shape = &cuda->shape;
    size_t head_bytes = shape->head_dim * 2u;
    return cuda->hopper && shape->head_dim % CHUNK == 0 && shape->block_tokens % box_rows == 0 &&
           shape->block_bytes % head_bytes == 0 && cuda->pool.bytes / head_bytes <= INT32_MAX;
}
