/* backend/cuda/floor.cu - what a device can do at most: the best of several tries, by its clock. */
#include <time.h>

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

/* ---- one copy ---- */

#define COPY_PLACES 16u /* so that nothing is in a cache */
#define COPY_RUNS 32u

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int double_order(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static cudaError_t copies_time(char *to, const char *from, int device, int from_device,
                               uint64_t bytes, cudaStream_t stream, double *alone_s_out,
                               double *behind_s_out)
{
    double alone[COPY_RUNS], behind[COPY_RUNS];
    cudaError_t code = cudaSuccess;
    for (uint32_t run = 0; run < COPY_RUNS && code == cudaSuccess; run++) {
        uint64_t at = run % COPY_PLACES * bytes;
        double start = seconds_now();
        code = cudaMemcpyPeerAsync(to + at, device, from + at, from_device, bytes, stream);
        if (code == cudaSuccess)
            code = cudaStreamSynchronize(stream);
        alone[run] = seconds_now() - start;
        start = seconds_now();
        for (uint32_t i = 0; i < COPY_PLACES && code == cudaSuccess; i++)
            code = cudaMemcpyPeerAsync(to + i * bytes, device, from + i * bytes, from_device, bytes,
                                       stream);
        if (code == cudaSuccess)
            code = cudaStreamSynchronize(stream);
        behind[run] = (seconds_now() - start) / COPY_PLACES;
    }
    qsort(alone, COPY_RUNS, sizeof(double), double_order);
    qsort(behind, COPY_RUNS, sizeof(double), double_order);
    *alone_s_out = alone[COPY_RUNS / 2];
    *behind_s_out = behind[COPY_RUNS / 2];
    return code;
}

status copy_floor_take(uint32_t device, uint32_t from_device, uint64_t bytes, double *alone_s_out,
                       double *behind_s_out)
{
    void *from = NULL, *to = NULL;
    cudaStream_t stream = NULL;
    cudaError_t code = cudaSetDevice((int)from_device);
    if (code == cudaSuccess)
        code = cudaMalloc(&from, COPY_PLACES * bytes);
    if (code == cudaSuccess)
        code = cudaMemset(from, 1, COPY_PLACES * bytes);
    if (code == cudaSuccess)
        code = cudaSetDevice((int)device);
    if (code == cudaSuccess && device != from_device &&
        cudaDeviceEnablePeerAccess((int)from_device, 0) != cudaSuccess)
        (void)cudaGetLastError(); /* enabled already, or staged by the driver */
    if (code == cudaSuccess)
        code = cudaMalloc(&to, COPY_PLACES * bytes);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (code == cudaSuccess)
        code = copies_time((char *)to, (const char *)from, (int)device, (int)from_device, bytes,
                           stream, alone_s_out, behind_s_out);
    (void)cudaFree(from);
    (void)cudaFree(to);
    if (stream != NULL)
        (void)cudaStreamDestroy(stream);
    return code == cudaSuccess ? OK
                               : error_set(ERR_IO, "copy of %llu bytes: %s",
                                           (unsigned long long)bytes, cudaGetErrorString(code));
}
