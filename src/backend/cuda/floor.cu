/* backend/cuda/floor.cu - what a device can do at most: the best of several tries, by its clock. */
#include "backend/cuda/state.cuh"

#define TRIES 6
#define READ_BYTES ((size_t)4 << 30)
#define SIDE 8192

__global__ void read_kernel(const uint4 *from, size_t count, uint32_t *to)
{
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x;
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; at + 3 * step < count; at += 4 * step) {
        uint4 a = from[at], b = from[at + step], c = from[at + 2 * step], d = from[at + 3 * step];
        sum += a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w;
        sum += c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    if (sum == 0x12345)
        *to = sum;
}

__global__ void noise_kernel(__nv_bfloat16 *to, size_t count)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t x = (uint32_t)i * 2654435761u;
    x = (x ^ x >> 15) * 2246822519u;
    x = (x ^ x >> 13) * 3266489917u;
    if (i < count)
        to[i] = __float2bfloat16_rn((float)(int32_t)(x ^ x >> 16) * 4.6566e-10f);
}

struct floor_bench {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    void *a, *b, *c;
};

/* Seconds between the two events. */
static double took(struct cuda_backend *cuda, struct floor_bench *bench)
{
    float ms = 0;
    cuda_good(cuda, cudaEventRecord(bench->end, bench->stream), "floor");
    cuda_good(cuda, cudaEventSynchronize(bench->end), "floor");
    cuda_good(cuda, cudaEventElapsedTime(&ms, bench->begin, bench->end), "floor");
    return ms > 0 ? ms * 1e-3 : 1e30;
}

static double read_take(struct cuda_backend *cuda, struct floor_bench *bench)
{
    double best = 0;
    for (int i = 0; i < TRIES && cuda->failed == OK; i++) {
        cuda_good(cuda, cudaEventRecord(bench->begin, bench->stream), "floor");
        read_kernel<<<132 * 8, 512, 0, bench->stream>>>((const uint4 *)bench->a, READ_BYTES / 16,
                                                        (uint32_t *)bench->c);
        double rate = (double)READ_BYTES / took(cuda, bench);
        best = rate > best ? rate : best;
    }
    return best;
}

static double product_take(struct cuda_backend *cuda, struct floor_bench *bench)
{
    double best = 0;
    struct backend_tensor w = {};
    struct backend_buffer x = {}, y = {};
    w.rows = w.columns = SIDE;
    w.data = bench->a;
    x.data = (char *)bench->b;
    x.stride = y.stride = SIDE;
    y.data = (char *)bench->c;
    y.halves = true;
    struct product product = {};
    product.weights[0] = &w;
    product.ys[0] = &y;
    product.x = &x;
    product.count = 1;
    product.rows = SIDE;
    size_t count = (size_t)SIDE * SIDE;
    noise_kernel<<<(unsigned)(count / 256), 256, 0, bench->stream>>>((__nv_bfloat16 *)bench->a,
                                                                     count);
    noise_kernel<<<(unsigned)(count / 256), 256, 0, bench->stream>>>((__nv_bfloat16 *)bench->b,
                                                                     count);
    for (int i = 0; i < 2 * TRIES && cuda->failed == OK; i++) {
        cuda_good(cuda, cudaEventRecord(bench->begin, bench->stream), "floor");
        gemm_product(cuda, &product);
        double rate = 2.0 * SIDE * SIDE * SIDE / took(cuda, bench);
        best = rate > best ? rate : best;
    }
    return best;
}

status floor_take(uint32_t device, double *read_bytes_per_s_out, double *operations_per_s_out)
{
    struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof(*cuda));
    struct floor_bench bench = {};
    if (cuda == NULL)
        return error_set(ERR_NO_MEMORY, "no memory");
    cuda->options.device = device;
    cuda->bf16 = true;
    cuda->plans = (struct gemm_plan *)calloc(GEMM_PLANS, sizeof(*cuda->plans));
    size_t square = (size_t)SIDE * SIDE * 2;
    bool good = cuda->plans != NULL &&
                cuda_good(cuda, cudaStreamCreate(&bench.stream), "floor") &&
                cuda_good(cuda, cudaEventCreate(&bench.begin), "floor") &&
                cuda_good(cuda, cudaEventCreate(&bench.end), "floor") &&
                cuda_good(cuda, cudaMalloc(&bench.a, READ_BYTES), "memory for the floor") &&
                cuda_good(cuda, cudaMalloc(&bench.b, square), "memory for the floor") &&
                cuda_good(cuda, cudaMalloc(&bench.c, square), "memory for the floor") &&
                cuda_good(cuda, cudaMalloc(&cuda->workspace, (size_t)64 << 20), "workspace") &&
                cuda_good(cuda, cudaMemset(bench.a, 1, READ_BYTES), "floor") &&
                lt_good(cuda, cublasLtCreate(&cuda->lt), "cuBLASLt");
    cuda->stream = bench.stream;
    if (good) {
        *read_bytes_per_s_out = read_take(cuda, &bench);
        *operations_per_s_out = product_take(cuda, &bench);
    }
    status result = cuda->failed == OK ? OK : error_set(cuda->failed, "%s", cuda->failure);
    void *const taken[] = {bench.a, bench.b, bench.c, cuda->workspace};
    for (size_t i = 0; i < 4; i++)
        (void)cudaFree(taken[i]);
    if (cuda->lt != NULL)
        (void)cublasLtDestroy(cuda->lt);
    if (bench.begin != NULL)
        (void)cudaEventDestroy(bench.begin);
    if (bench.end != NULL)
        (void)cudaEventDestroy(bench.end);
    if (bench.stream != NULL)
        (void)cudaStreamDestroy(bench.stream);
    free(cuda->plans);
    free(cuda);
    return result;
}
