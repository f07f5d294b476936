/* bench/operations.cu - how fast the operations of a decode step are, one by one: products of few
 * rows as parts of the read bandwidth, attention of single rows likewise. An 8B Llama shape, bf16;
 * products of Q8_0 and Q4_K weights too.
 *
 *     cuda_operations            prints a table
 *     cuda_operations attention  of attention alone
 *
 * Weights and blocks are random, and many enough that no cache holds them from one run to the next.
 * One kernel follows another without a pause, by the calls of the backend. */
#include <string.h>

#include <algorithm>
#include <vector>

#include "../tests/cuda/check.cuh"
#include "backend/cuda/state.cuh"

extern "C" const struct backend_plugin *
baton_backend_plugin(const struct backend_plugin_host *host);

#define WIDTH 4096u
#define FFN 14336u
#define LAYERS 4u
#define COPIES 6u /* of each weight */
#define ROWS_MAX 256u
#define BLOCK_TOKENS 16u
#define POOL_TOKENS ((size_t)144 * 1040)

struct rig {
    struct backend *backend;
    const struct backend_calls *calls;
    struct cuda_backend *cuda;
    double bytes_per_s;
    std::vector<struct step_sequence> sequences;
    std::vector<uint32_t> tables, tokens;
    struct step step;
};

static void host_error(const char *format, ...)
{
    printf("error: %s\n", format);
}

__global__ void noise_kernel(__half *to, size_t count)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t x = (uint32_t)i * 2654435761u;
    x = (x ^ x >> 15) * 2246822519u;
    x = (x ^ x >> 13) * 3266489917u;
    if (i < count)
        to[i] = __float2half_rn((float)(int32_t)(x ^ x >> 16) * 4.6566e-10f);
}

static void noise(void *to, size_t bytes)
{
    noise_kernel<<<(unsigned)((bytes / 2 + 255) / 256), 256>>>((__half *)to, bytes / 2);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
}

static void rig_open(struct rig *rig, size_t tokens)
{
    static const struct backend_plugin_host host = {BACKEND_PLUGIN_VERSION, host_error};
    const struct backend_plugin *plugin = baton_backend_plugin(&host);
    const struct backend_plugin_options options = {0, false, false};
    const struct backend_limits limits = {ROWS_MAX + 1, ROWS_MAX + 1, ROWS_MAX, 1024};
    struct backend_shape shape = {};
    struct backend_pool pool;
    double operations;
    shape.layer_count = LAYERS;
    shape.head_count = 32;
    shape.kv_head_count = 8;
    shape.head_dim = 128;
    shape.block_tokens = BLOCK_TOKENS;
    shape.kv_dtype = DTYPE_F16;
    shape.layer_bytes = (size_t)2 * 8 * BLOCK_TOKENS * 128 * 2;
    shape.block_bytes = LAYERS * shape.layer_bytes;
    shape.rope_dims = 128;
    shape.rope_theta = 10000;
    shape.norm_epsilon = 1e-5f;
    if (plugin->floor(0, &rig->bytes_per_s, &operations) != OK ||
        plugin->open(&shape, &limits, &options, &rig->backend) != OK)
        exit(1);
    printf("floor: reads %.2f TB/s, products %.0f TFLOP/s\n", rig->bytes_per_s * 1e-12,
           operations * 1e-12);
    rig->calls = rig->backend->calls;
    rig->cuda = cuda_of(rig->backend);
    if (rig->calls->pool_open(rig->backend, (uint32_t)tokens / BLOCK_TOKENS, &pool) != OK)
        exit(1);
    CHECK(cudaDeviceSynchronize());
    noise(rig->cuda->pool_device, pool.bytes);
}

/* Random bytes, with scales that are numbers. */
static const void *quantised_make(enum dtype type, size_t bytes)
{
    static std::vector<uint8_t> kept;
    size_t unit = type == DTYPE_Q8_0 ? 34 : 144;
    kept.resize(bytes);
    for (size_t i = 0; i < bytes; i++)
        kept[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t at = 0; at < bytes; at += unit)
        for (size_t i = 0; i < (type == DTYPE_Q8_0 ? 2u : 4u); i++)
            kept[at + i] = i % 2 == 0 ? kept[at + i] : 0x08;
    return kept.data();
}

static struct backend_tensor *tensor_make(struct rig *rig, enum dtype type, uint32_t rows,
                                          uint32_t columns)
{
    struct backend_weight weight = {};
    struct backend_tensor *tensor = NULL;
    weight.name = "random";
    weight.type = type;
    weight.rows = rows;
    weight.columns = columns;
    weight.synthetic = {random_below(1u << 30), -9, 0};
    if (type == DTYPE_Q8_0 || type == DTYPE_Q4_K)
        weight.data = quantised_make(type, dtype_row_bytes(type, columns) * rows);
    if (rig->calls->tensor_open(rig->backend, &weight, &tensor) != OK)
        exit(1);
    return tensor;
}

static struct backend_buffer *buffer_make(struct rig *rig, uint32_t width)
{
    struct backend_buffer *buffer = NULL;
    if (rig->calls->buffer_open(rig->backend, width, false, &buffer) != OK)
        exit(1);
    CHECK(cudaDeviceSynchronize());
    noise(buffer->storage, (size_t)ROWS_MAX * width * 4);
    buffer->halves = true;
    return buffer;
}

/* rows sequences of depth tokens before their one row, and one of `longer` if that is more than 0;
 * not recorded, for there are no outputs. */
static void step_begin(struct rig *rig, uint32_t rows, uint32_t depth, uint32_t longer = 0)
{
    uint32_t blocks = depth / BLOCK_TOKENS + 1, all = POOL_TOKENS / BLOCK_TOKENS;
    uint32_t more = longer > 0 ? longer / BLOCK_TOKENS + 1 : 0;
    rig->sequences.clear();
    rig->tables.clear();
    for (size_t i = 0; i < (size_t)rows * blocks + more; i++)
        rig->tables.push_back((uint32_t)(i * 7919 % all)); /* a prime: anywhere */
    for (uint32_t i = 0; i < rows; i++)
        rig->sequences.push_back({i, 1, depth, &rig->tables[(size_t)i * blocks], blocks});
    if (longer > 0)
        rig->sequences.push_back({rows, 1, longer, &rig->tables[(size_t)rows * blocks], more});
    rows = (uint32_t)rig->sequences.size();
    rig->tokens.assign(rows, 1);
    rig->step = {};
    rig->step.row_count = rig->step.sequence_count = rows;
    rig->step.token_ids = rig->tokens.data();
    rig->step.sequences = rig->sequences.data();
    rig->calls->step_begin(rig->backend, &rig->step);
}

/* Microseconds of one of `count` calls, the median of five series. */
template <typename F> static double micros_of(struct rig *rig, uint32_t count, F &&call)
{
    cudaEvent_t begin, end;
    std::vector<float> times;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    for (int series = 0; series < 6; series++) {
        float ms;
        CHECK(cudaEventRecord(begin, rig->cuda->stream));
        for (uint32_t i = 0; i < count; i++)
            call(i);
        CHECK(cudaEventRecord(end, rig->cuda->stream));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (series > 0)
            times.push_back(ms * 1e3f / (float)count);
    }
    std::sort(times.begin(), times.end());
    if (rig->cuda->failed != OK)
        exit((printf("failed: %s\n", rig->cuda->failure), 1));
    return (double)times[2];
}

struct shape {
    const char *name;
    uint32_t columns, widths[3], count;
    bool accumulate;
};

static void products(struct rig *rig, enum dtype type, const std::vector<uint32_t> &rows)
{
    static const struct shape shapes[] = {{"q, k, v", WIDTH, {4096, 1024, 1024}, 3, false},
                                          {"o", WIDTH, {4096, 0, 0}, 1, true},
                                          {"gate, up", WIDTH, {FFN, FFN, 0}, 2, false},
                                          {"down", FFN, {4096, 0, 0}, 1, true}};
    printf("%-10s", dtype_name(type));
    for (uint32_t count : rows)
        printf(" %12u", count);
    printf("   rows: us, of the read floor\n");
    for (auto &shape : shapes) {
        struct backend_tensor *weights[COPIES][3];
        struct backend_buffer *x = buffer_make(rig, shape.columns), *ys[3];
        double bytes = 0;
        for (uint32_t i = 0; i < shape.count; i++)
            ys[i] = buffer_make(rig, shape.widths[i]);
        for (auto &copy : weights)
            for (uint32_t i = 0; i < shape.count; i++)
                copy[i] = tensor_make(rig, type, shape.widths[i], shape.columns);
        for (uint32_t i = 0; i < shape.count; i++)
            bytes += (double)weights[0][i]->bytes;
        CHECK(cudaDeviceSynchronize());
        printf("%-10s", shape.name);
        for (uint32_t count : rows) {
            step_begin(rig, count, 0);
            double us = micros_of(rig, 5 * COPIES, [&](uint32_t n) {
                struct backend_projection projections[3];
                for (uint32_t i = 0; i < shape.count; i++)
                    projections[i] = {weights[n % COPIES][i], NULL, ys[i], shape.accumulate};
                for (uint32_t i = 0; i < shape.count; i++)
                    ys[i]->halves = !shape.accumulate;
                rig->calls->project(rig->backend, x, projections, shape.count);
            });
            printf(" %6.1f %5.2f", us, bytes / rig->bytes_per_s * 1e6 / us);
        }
        printf("\n");
    }
}

static void attention(struct rig *rig)
{
    static const uint32_t shapes[][3] = {{1, 1023},   {1, 8191},  {8, 1023},  {16, 1040},
                                         {16, 8191},  {32, 1040}, {64, 1040}, {128, 1040},
                                         {128, 1023}, {128, 255}, {256, 511}, {31, 511, 8191},
                                         {32, 511},   {32, 511, 8191}, {120, 511, 8191}};
    struct backend_buffer *q = buffer_make(rig, WIDTH), *o = buffer_make(rig, WIDTH);
    q->stride = WIDTH;
    printf("%-18s %10s %10s   attention of single rows, one layer\n", "rows, depth, one", "us",
           "of floor");
    for (auto &shape : shapes) {
        step_begin(rig, shape[0], shape[1], shape[2]);
        double keys = (double)shape[0] * (shape[1] + 1) + (shape[2] > 0 ? shape[2] + 1 : 0);
        double bytes = keys * 2 * 8 * 128 * 2;
        double us = micros_of(rig, 4 * LAYERS, [&](uint32_t n) {
            rig->calls->attend(rig->backend, n % LAYERS, q, o);
        });
        printf("%4u, %-5u %-6u %10.1f %10.2f\n", shape[0], shape[1], shape[2], us,
               bytes / rig->bytes_per_s * 1e6 / us);
    }
}

int main(int argc, char **argv)
{
    struct rig rig = {};
    bool products_too = argc < 2 || strcmp(argv[1], "attention") != 0;
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    rig_open(&rig, POOL_TOKENS);
    if (products_too)
        products(&rig, DTYPE_BF16, {1, 8, 16, 24, 32, 48, 64, 96, 128, 256});
    attention(&rig);
    rig.calls->close(rig.backend);
    for (enum dtype type : {DTYPE_Q8_0, DTYPE_Q4_K}) {
        if (!products_too)
            break;
        rig_open(&rig, 8 * BLOCK_TOKENS);
        tensor_make(&rig, DTYPE_F16, 8, 64); /* what activations are, too */
        products(&rig, type, {1, 8});
        rig.calls->close(rig.backend);
    }
    return 0;
}
