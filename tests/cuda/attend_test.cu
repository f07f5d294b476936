/* Attention of chunks of prompts against float64: random ragged batches, prefixes, blocks anywhere
 * in the pool. What a sequence does not own of the pool is NaN, and so is the output before a run.
 *
 *     cuda_attend_test          every shape by every kernel that the device has
 *     cuda_attend_test bench    TFLOP/s of prompts, whole and behind a cached prefix
 *
 * Needs a device: without one it says so and is skipped (status 77). */
#include <string.h>

#include <vector>

#include "backend/cuda/state.cuh"
#include "check.cuh"

#define LAYERS 2u
#define LAYER 1u /* the one that is computed */

struct batch {
    uint32_t head_dim, heads, kv_heads, block_tokens;
    std::vector<std::pair<uint32_t, uint32_t>> sequences; /* start, rows */
};

/* Nearly normal: the sum of four uniform numbers, of variance 1. */
__global__ void noise_kernel(__half *to, size_t count, uint32_t seed, float size)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count)
        return;
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull ^ (uint64_t)seed * 0xd1342543de82ef95ull;
    float sum = 0;
    for (int k = 0; k < 4; k++) {
        x ^= x >> 30;
        x *= 0xbf58476d1ce4e5b9ull;
        x ^= x >> 27;
        sum += (float)(x >> 40) * (1.0f / 16777216.0f) - 0.5f;
    }
    to[i] = __float2half_rn(sum * 1.7320508f * size);
}

/* Keys and values of tokens that a sequence has: the others stay NaN. */
__global__ void pool_kernel(__half *pool, const uint32_t *table, uint32_t tokens,
                            uint32_t block_tokens, size_t block_values, size_t layer_values,
                            uint32_t kv_heads, uint32_t head_dim, uint32_t seed)
{
    uint32_t token = blockIdx.x;
    size_t base = table[token / block_tokens] * block_values + LAYER * layer_values;
    for (uint32_t i = threadIdx.x; i < 2 * kv_heads * head_dim; i += blockDim.x) {
        uint32_t head = i / head_dim, d = i % head_dim;
        __half value;
        uint64_t x = ((uint64_t)seed << 40) + (uint64_t)token * 65536 + i + 1;
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            x ^= x >> 30;
            x *= 0xbf58476d1ce4e5b9ull;
            x ^= x >> 27;
            x *= 0x94d049bb133111ebull;
            sum += (float)(x >> 40) * (1.0f / 16777216.0f) - 0.5f;
        }
        value = __float2half_rn(sum * 1.7320508f);
        pool[base + ((size_t)head * block_tokens + token % block_tokens) * head_dim + d] = value;
    }
}

/* One row and head, all in float64; scores of the row in `scores`. */
__global__ void reference_kernel(const __half *pool, const __half *q, const uint32_t *table,
                                 uint32_t start, uint32_t first_row, struct backend_shape shape,
                                 uint32_t q_stride, double *scores_all, uint32_t length_max,
                                 double *out)
{
    uint32_t row = blockIdx.x, head = blockIdx.y, dims = shape.head_dim;
    uint32_t length = start + row + 1, kv = head / (shape.head_count / shape.kv_head_count);
    double *scores = scores_all + ((size_t)row * shape.head_count + head) * length_max;
    const __half *from = q + (size_t)(first_row + row) * q_stride + head * dims;
    __shared__ double reduced[256];
    double most = -1e300, sum = 0;
    for (uint32_t key = threadIdx.x; key < length; key += blockDim.x) {
        size_t at = (table[key / shape.block_tokens] * shape.block_bytes +
                     LAYER * shape.layer_bytes) / 2 +
                    ((size_t)kv * shape.block_tokens + key % shape.block_tokens) * dims;
        double dot = 0;
        for (uint32_t d = 0; d < dims; d++)
            dot += (double)__half2float(from[d]) * (double)__half2float(pool[at + d]);
        scores[key] = dot / sqrt((double)dims);
        most = fmax(most, scores[key]);
    }
    reduced[threadIdx.x] = most;
    __syncthreads();
    for (uint32_t i = 0; i < blockDim.x; i++)
        most = fmax(most, reduced[i]);
    __syncthreads();
    for (uint32_t key = threadIdx.x; key < length; key += blockDim.x) {
        scores[key] = exp(scores[key] - most);
        sum += scores[key];
    }
    reduced[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (uint32_t i = 0; i < blockDim.x; i++)
        sum += reduced[i];
    for (uint32_t d = threadIdx.x; d < dims; d += blockDim.x) {
        double value = 0;
        for (uint32_t key = 0; key < length; key++) {
            size_t at = (table[key / shape.block_tokens] * shape.block_bytes +
                         LAYER * shape.layer_bytes + shape.layer_bytes / 2) / 2 +
                        ((size_t)kv * shape.block_tokens + key % shape.block_tokens) * dims;
            value += scores[key] * (double)__half2float(pool[at + d]);
        }
        out[((size_t)(first_row + row) * shape.head_count + head) * dims + d] = value / sum;
    }
}

/* A backend with nothing but what attention reads. */
struct rig {
    struct cuda_backend *cuda;
    struct backend_buffer q, o;
    std::vector<std::vector<uint32_t>> tables;
    std::vector<void *> taken;
    uint32_t *table_device;
    std::vector<uint32_t> table_offsets;
    uint32_t rows;
    double pairs;
};

static void *take(struct rig *rig, size_t bytes)
{
    void *at;
    CHECK(cudaMalloc(&at, bytes));
    rig->taken.push_back(at);
    return at;
}

static uint32_t *upload(struct rig *rig, const std::vector<uint32_t> &values)
{
    uint32_t *at = (uint32_t *)take(rig, values.size() * 4 + 16);
    CHECK(cudaMemcpy(at, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
    return at;
}

static void shape_make(const struct batch &batch, struct backend_shape *shape)
{
    shape->layer_count = LAYERS;
    shape->head_count = batch.heads;
    shape->kv_head_count = batch.kv_heads;
    shape->head_dim = batch.head_dim;
    shape->block_tokens = batch.block_tokens;
    shape->layer_bytes = (size_t)2 * batch.kv_heads * batch.block_tokens * batch.head_dim * 2;
    shape->block_bytes = LAYERS * shape->layer_bytes;
}

static void pool_make(struct rig *rig, const struct batch &batch)
{
    struct backend_shape *shape = &rig->cuda->shape;
    std::vector<uint32_t> flat, ids;
    uint32_t blocks = 0;
    for (auto &s : batch.sequences)
        blocks += (s.first + s.second + batch.block_tokens - 1) / batch.block_tokens;
    blocks += 3;
    for (uint32_t i = 0; i < blocks; i++)
        ids.push_back(i);
    for (uint32_t i = blocks; i > 1; i--)
        std::swap(ids[i - 1], ids[random_below(i)]);
    rig->cuda->pool.bytes = blocks * shape->block_bytes;
    rig->cuda->pool_device = (char *)take(rig, rig->cuda->pool.bytes);
    CHECK(cudaMemset(rig->cuda->pool_device, 0xff, rig->cuda->pool.bytes));
    for (uint32_t i = 0, next = 0; i < batch.sequences.size(); i++) {
        uint32_t tokens = batch.sequences[i].first + batch.sequences[i].second;
        rig->table_offsets.push_back((uint32_t)flat.size());
        for (uint32_t b = 0; b < (tokens + batch.block_tokens - 1) / batch.block_tokens; b++)
            flat.push_back(ids[next++]);
    }
    rig->table_device = upload(rig, flat);
    for (uint32_t i = 0; i < batch.sequences.size(); i++) {
        uint32_t tokens = batch.sequences[i].first + batch.sequences[i].second;
        pool_kernel<<<tokens, 256>>>((__half *)rig->cuda->pool_device,
                                     rig->table_device + rig->table_offsets[i], tokens,
                                     batch.block_tokens, shape->block_bytes / 2,
                                     shape->layer_bytes / 2, batch.kv_heads, batch.head_dim,
                                     random_below(1u << 20));
        CHECK(cudaGetLastError());
    }
}

static void rows_make(struct rig *rig, const struct batch &batch)
{
    struct cuda_backend *cuda = rig->cuda;
    std::vector<uint32_t> tiles, first_rows, row_counts, starts;
    for (uint32_t i = 0; i < batch.sequences.size(); i++) {
        uint32_t start = batch.sequences[i].first, rows = batch.sequences[i].second;
        first_rows.push_back(rig->rows);
        row_counts.push_back(rows);
        starts.push_back(start);
        for (uint32_t row = 0; row < rows; row += TILE_ROWS) {
            tiles.push_back(i);
            tiles.push_back(row);
        }
        rig->rows += rows;
        rig->pairs += (double)rows * start + (double)rows * (rows + 1) / 2;
    }
    cuda->rows = rig->rows;
    cuda->tile_count = (uint32_t)tiles.size() / 2;
    cuda->device.tiles = upload(rig, tiles);
    cuda->device.first_rows = upload(rig, first_rows);
    cuda->device.row_counts = upload(rig, row_counts);
    cuda->device.starts = upload(rig, starts);
    cuda->device.table_offsets = upload(rig, rig->table_offsets);
    cuda->device.tables = rig->table_device;
}

static void rig_open(struct rig *rig, const struct batch &batch, bool bf16)
{
    cudaDeviceProp properties;
    struct cuda_backend *cuda = (struct cuda_backend *)calloc(1, sizeof(*cuda));
    rig->cuda = cuda;
    rig->rows = 0;
    rig->pairs = 0;
    shape_make(batch, &cuda->shape);
    CHECK(cudaGetDeviceProperties(&properties, 0));
    cuda->processors = properties.multiProcessorCount;
    cuda->bf16 = bf16;
    CHECK(cudaStreamCreate(&cuda->stream));
    pool_make(rig, batch);
    rows_make(rig, batch);
    rig->q = {};
    rig->o = {};
    rig->q.width = rig->o.width = batch.heads * batch.head_dim;
    rig->q.stride = rig->q.width + 2 * batch.kv_heads * batch.head_dim; /* k and v beside it */
    rig->o.stride = rig->o.width + 64;
    size_t values = (size_t)rig->rows * rig->q.stride;
    rig->q.data = (char *)take(rig, values * 2);
    rig->o.data = (char *)take(rig, (size_t)rig->rows * rig->o.stride * 2);
    noise_kernel<<<(uint32_t)((values + 255) / 256), 256>>>((__half *)rig->q.data, values,
                                                           random_below(1u << 30), 2.0f);
    CHECK(cudaGetLastError());
}

static void rig_close(struct rig *rig)
{
    CHECK(cudaDeviceSynchronize());
    for (void *at : rig->taken)
        CHECK(cudaFree(at));
    CHECK(cudaStreamDestroy(rig->cuda->stream));
    free(rig->cuda);
}

static std::vector<double> reference_of(struct rig *rig, const struct batch &batch)
{
    const struct backend_shape *shape = &rig->cuda->shape;
    size_t values = (size_t)rig->rows * rig->q.width;
    std::vector<double> expected(values);
    double *out = (double *)take(rig, values * sizeof(double));
    uint32_t first_row = 0;
    for (uint32_t i = 0; i < batch.sequences.size(); i++) {
        uint32_t start = batch.sequences[i].first, rows = batch.sequences[i].second;
        double *scores;
        CHECK(cudaMalloc(&scores,
                         sizeof(double) * rows * shape->head_count * (size_t)(start + rows)));
        reference_kernel<<<dim3(rows, shape->head_count), 128>>>(
            (const __half *)rig->cuda->pool_device, (const __half *)rig->q.data,
            rig->table_device + rig->table_offsets[i], start, first_row, *shape, rig->q.stride,
            scores, start + rows, out);
        CHECK(cudaGetLastError());
        CHECK(cudaDeviceSynchronize());
        CHECK(cudaFree(scores));
        first_row += rows;
    }
    CHECK(cudaMemcpy(expected.data(), out, values * sizeof(double), cudaMemcpyDeviceToHost));
    return expected;
}

/* The largest error of a row and head, as a part of that row's size; infinite for what is not a
 * number or was written where nothing belongs. */
static double error_of(struct rig *rig, const std::vector<double> &expected)
{
    const struct backend_shape *shape = &rig->cuda->shape;
    std::vector<uint16_t> found((size_t)rig->rows * rig->o.stride);
    double worst = 0;
    CHECK(cudaMemcpy(found.data(), rig->o.data, found.size() * 2, cudaMemcpyDeviceToHost));
    for (uint32_t row = 0; row < rig->rows; row++) {
        for (uint32_t i = rig->o.width; i < rig->o.stride; i++)
            if (found[(size_t)row * rig->o.stride + i] != 0xffff)
                return INFINITY;
        for (uint32_t head = 0; head < shape->head_count; head++) {
            double off = 0, size = 0;
            for (uint32_t d = 0; d < shape->head_dim; d++) {
                uint16_t bits = found[(size_t)row * rig->o.stride + head * shape->head_dim + d];
                double value = rig->cuda->bf16 ? (double)__bfloat162float(*(__nv_bfloat16 *)&bits)
                                               : (double)__half2float(*(__half *)&bits);
                double right = expected[((size_t)row * shape->head_count + head) *
                                            shape->head_dim + d];
                off += (value - right) * (value - right);
                size += right * right;
            }
            if (!(off <= size))
                return INFINITY;
            worst = fmax(worst, sqrt(off / size));
        }
    }
    return worst;
}

static bool attend_run(struct rig *rig)
{
    attend_tiles(rig->cuda, LAYER, &rig->q, &rig->o);
    CHECK(cudaStreamSynchronize(rig->cuda->stream));
    if (rig->cuda->failed != OK)
        printf("failed: %s\n", rig->cuda->failure);
    return rig->cuda->failed == OK;
}

static bool batch_check(const struct batch &batch, bool bf16, bool hopper)
{
    struct rig rig;
    bool good = true;
    const double bound = bf16 ? 6e-3 : 1.5e-3; /* of one row: 8 or 11 bits of output, 11 of P */
    rig_open(&rig, batch, bf16);
    std::vector<double> expected = reference_of(&rig, batch);
    for (int kernel = 0; kernel <= (hopper ? 1 : 0) && good; kernel++) {
        rig.cuda->hopper = kernel == 1;
        double worst = 0;
        for (int again = 0; again < 3 && good; again++) {
            CHECK(cudaMemset(rig.o.data, 0xff, (size_t)rig.rows * rig.o.stride * 2));
            good = attend_run(&rig);
            worst = fmax(worst, error_of(&rig, expected));
        }
        good = good && worst <= bound;
        printf("%s dims %u heads %u/%u block %u, %u rows of %zu sequences, %s: off by %.2e%s\n",
               kernel == 1 ? "sm_90" : "mma  ", batch.head_dim, batch.heads, batch.kv_heads,
               batch.block_tokens, rig.rows, batch.sequences.size(), bf16 ? "bf16" : "f16", worst,
               good ? "" : "  WRONG");
    }
    rig_close(&rig);
    return good;
}

static bool check(bool hopper)
{
    std::vector<struct batch> batches = {
        {128, 8, 2, 16, {{0, 2}}},
        {128, 8, 2, 16, {{0, 128}}},
        {128, 4, 4, 16, {{0, 129}, {5, 64}, {127, 3}}},
        {128, 32, 8, 16, {{0, 1024}}},
        {128, 32, 8, 16, {{512, 512}, {0, 300}, {1000, 77}}},
        {128, 16, 2, 32, {{100, 500}, {3, 65}}},
        {128, 12, 1, 8, {{33, 401}}},
        {128, 3, 3, 64, {{200, 200}}},
        {128, 2, 2, 128, {{1, 300}}},
        {128, 2, 1, 48, {{1, 300}}}, /* not for boxes */
        {64, 8, 8, 16, {{0, 777}}},
        {64, 14, 2, 16, {{250, 130}, {0, 2}, {64, 64}, {63, 66}}},
        {64, 32, 4, 16, {{1500, 600}}},
    };
    for (int i = 0; i < 12; i++) { /* ragged */
        static const uint32_t groups[] = {1, 2, 3, 4, 7, 8}, tokens[] = {8, 16, 32, 64};
        struct batch batch;
        batch.head_dim = i % 3 == 0 ? 64 : 128;
        batch.kv_heads = 1 + random_below(4);
        batch.heads = batch.kv_heads * groups[random_below(6)];
        batch.block_tokens = i % 2 == 0 ? 16 : tokens[random_below(4)];
        for (uint32_t s = 0; s < 1 + (uint32_t)i; s++)
            batch.sequences.push_back({random_below(3) == 0 ? 0 : random_below(700),
                                       2 + random_below(i % 2 == 0 ? 300 : 40)});
        batches.push_back(batch);
    }
    bool good = true;
    for (auto &batch : batches)
        for (int bf16 = 0; bf16 < 2; bf16++)
            good = batch_check(batch, bf16 == 1, hopper) && good;
    return good;
}

static double seconds_of(struct rig *rig)
{
    cudaEvent_t begin, end;
    std::vector<float> times;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    for (int i = 0; i < 14; i++) {
        float ms;
        CHECK(cudaEventRecord(begin, rig->cuda->stream));
        attend_tiles(rig->cuda, LAYER, &rig->q, &rig->o);
        CHECK(cudaEventRecord(end, rig->cuda->stream));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (i >= 3)
            times.push_back(ms);
    }
    for (size_t i = 0; i < times.size(); i++)
        for (size_t k = i + 1; k < times.size(); k++)
            if (times[k] < times[i])
                std::swap(times[i], times[k]);
    return times[times.size() / 2] / 1e3;
}

static void bench(bool hopper)
{
    static const uint32_t shapes[][2] = {{0, 512},      {0, 2048},     {0, 8192},    {0, 16384},
                                         {1024, 1024},  {4096, 4096},  {8192, 8192}, {24576, 8192}};
    printf("%-8s %-8s %12s %12s   TFLOP/s, 32 and 8 heads of 128, bf16\n", "prefix", "rows", "mma",
           "sm_90");
    for (auto &shape : shapes) {
        struct batch batch = {128, 32, 8, 16, {{shape[0], shape[1]}}};
        struct rig rig;
        double rates[2] = {0, 0};
        rig_open(&rig, batch, true);
        for (int kernel = 0; kernel <= (hopper ? 1 : 0); kernel++) {
            rig.cuda->hopper = kernel == 1;
            rates[kernel] = rig.pairs * 4 * batch.heads * batch.head_dim / seconds_of(&rig) / 1e12;
        }
        if (rig.cuda->failed != OK)
            printf("failed: %s\n", rig.cuda->failure);
        printf("%-8u %-8u %12.1f %12.1f\n", shape[0], shape[1], rates[0], rates[1]);
        rig_close(&rig);
    }
}

int main(int argc, char **argv)
{
    int count = 0, major = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench(major == 9);
        return 0;
    }
    bool good = check(major == 9);
    printf("%s\n", good ? "all right" : "WRONG");
    return good ? 0 : 1;
}
