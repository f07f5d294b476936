/* tests/cuda/rig.cuh - what the tests of operations share: a backend with a small model's shape,
 * its steps, buffers of random numbers and NaN, and how far results are off. */
#ifndef CUDA_RIG_CUH
#define CUDA_RIG_CUH

#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backend/cuda/state.cuh"
#include "check.cuh"

extern "C" {
#include "base/dequant.h"
#include "base/synthetic.h"
}

extern "C" const struct backend_plugin *
baton_backend_plugin(const struct backend_plugin_host *host);

#define ROWS_MAX 320u
#define SEQUENCES_MAX 24u
#define BAND_ROWS_MAX 128u
#define TABLE_MAX 80u
#define LAYERS 2u
#define LAYER 1u /* the one that is computed */

static inline float random_float(void) /* -1 .. 1 */
{
    return (float)random_below(1u << 24) / (float)(1u << 23) - 1.0f;
}

static inline void host_error(const char *format, ...)
{
    printf("error: %s\n", format);
}

/* ---- a backend, and a step that is not recorded ---- */

struct sequence {
    uint32_t start, rows;
};

struct rig {
    struct backend *backend;
    const struct backend_calls *calls;
    struct cuda_backend *cuda;
    struct backend_shape shape;
    bool bf16;
    std::vector<std::vector<uint8_t>> kept; /* weights of the host */
    std::vector<struct step_sequence> sequences;
    std::vector<std::vector<uint32_t>> tables;
    std::vector<uint32_t> tokens, outputs;
    struct step step;
};

static bool good = true;

static inline void told(const struct rig *rig, const std::string &what, double worst, double bound)
{
    bool right = worst <= bound;
    printf("%-5s %-64s off by %.1e of %.1e%s\n", rig->bf16 ? "bf16" : "f16", what.c_str(), worst,
           bound, right ? "" : "  WRONG");
    good = good && right;
}

static inline double rounding(const struct rig *rig) /* of one number, of its own size */
{
    return rig->bf16 ? 1.0 / 256 : 1.0 / 2048;
}

static inline struct backend_weight weight_make(struct rig *rig, enum dtype type, uint32_t rows,
                                         uint32_t columns)
{
    struct backend_weight weight = {};
    size_t bytes = dtype_row_bytes(type, columns) * rows;
    rig->kept.push_back(std::vector<uint8_t>(bytes));
    uint8_t *to = rig->kept.back().data();
    size_t unit = type == DTYPE_Q8_0 ? 34 : type == DTYPE_Q4_K ? 144 : type == DTYPE_Q6_K ? 210 : 0;
    for (size_t i = 0; i < bytes && unit != 0; i++)
        to[i] = (uint8_t)random_below(256);
    for (size_t at = 0; at < bytes && unit != 0; at += unit) {
        __half scale = __float2half_rn((1.5f + random_float()) / 4096.0f);
        memcpy(to + at + (type == DTYPE_Q6_K ? 208 : 0), &scale, 2);
        if (type == DTYPE_Q4_K)
            memcpy(to + at + 2, &scale, 2);
    }
    for (size_t i = 0; i < (size_t)rows * columns && unit == 0; i++) {
        float value = random_float() + (rows == 1 ? 1.0f : 0.0f);
        __half half = __float2half_rn(value);
        __nv_bfloat16 brain = __float2bfloat16_rn(value);
        if (type == DTYPE_F32)
            memcpy(to + i * 4, &value, 4);
        else
            memcpy(to + i * 2, type == DTYPE_F16 ? (void *)&half : (void *)&brain, 2);
    }
    weight.name = "random";
    weight.type = type;
    weight.rows = rows;
    weight.columns = columns;
    weight.data = to;
    return weight;
}

static inline std::vector<float> weight_row(const struct backend_weight *weight, uint32_t row)
{
    std::vector<float> values(weight->columns);
    size_t at = row * dtype_row_bytes(weight->type, weight->columns);
    if (weight->data == NULL)
        synthetic_fill(&weight->synthetic, DTYPE_F32, (uint64_t)row * weight->columns,
                       weight->columns, values.data());
    else
        dequant_row(weight->type, (const uint8_t *)weight->data + at, weight->columns,
                    values.data());
    return values;
}

static inline struct backend_tensor *tensor_make(struct rig *rig,
                                                 const struct backend_weight *weight)
{
    struct backend_tensor *tensor = NULL;
    if (rig->calls->tensor_open(rig->backend, weight, &tensor) != OK)
        exit(1);
    return tensor;
}

static inline void rig_open(struct rig *rig, bool bf16, bool deterministic, uint32_t heads,
                     uint32_t kv_heads, uint32_t dims, uint32_t block_tokens, bool pairs,
                     uint32_t device = 0)
{
    static const struct backend_plugin_host host = {BACKEND_PLUGIN_VERSION, host_error};
    const struct backend_plugin_options options = {device, deterministic, false};
    const struct backend_limits limits = {ROWS_MAX, BAND_ROWS_MAX, ROWS_MAX, TABLE_MAX};
    struct backend_pool pool;
    rig->bf16 = bf16;
    rig->shape = {};
    rig->shape.layer_count = LAYERS;
    rig->shape.head_count = heads;
    rig->shape.kv_head_count = kv_heads;
    rig->shape.head_dim = dims;
    rig->shape.block_tokens = block_tokens;
    rig->shape.kv_dtype = DTYPE_F16;
    rig->shape.layer_bytes = (size_t)2 * kv_heads * block_tokens * dims * 2;
    rig->shape.block_bytes = LAYERS * rig->shape.layer_bytes;
    rig->shape.rope_style = pairs ? ROPE_PAIRS : ROPE_HALVES;
    rig->shape.rope_dims = pairs ? dims / 4 * 2 : dims;
    rig->shape.rope_theta = 10000;
    rig->shape.norm_epsilon = 1e-5f;
    if (baton_backend_plugin(&host)->open(&rig->shape, &limits, &options, &rig->backend) != OK)
        exit(1);
    rig->calls = rig->backend->calls;
    rig->cuda = cuda_of(rig->backend);
    struct backend_weight first = weight_make(rig, bf16 ? DTYPE_BF16 : DTYPE_F16, 8, 64);
    tensor_make(rig, &first); /* it is what activations are, too */
    if (rig->calls->pool_open(rig->backend, SEQUENCES_MAX * TABLE_MAX, &pool) != OK)
        exit(1);
    CHECK(cudaMemset(rig->cuda->pool_device, 0xff, pool.bytes));
}

static inline void rig_close(struct rig *rig)
{
    rig->calls->close(rig->backend);
    rig->kept.clear();
}

/* recordable: what becomes a graph when it comes again, which is another one's first time. */
static inline void step_make(struct rig *rig, const std::vector<struct sequence> &sequences,
                      bool recordable = false)
{
    uint32_t tokens = rig->shape.block_tokens, next = random_below(7);
    rig->sequences.clear();
    rig->tables.clear();
    rig->tokens.clear();
    rig->outputs.clear();
    for (auto &s : sequences) {
        rig->tables.push_back({});
        /* 7 is prime to the number of blocks */
        for (uint32_t i = 0; i < (s.start + s.rows + tokens - 1) / tokens; i++, next++)
            rig->tables.back().push_back(next * 7 % (SEQUENCES_MAX * TABLE_MAX));
        struct step_sequence to = {(uint32_t)rig->tokens.size(), s.rows, s.start, NULL, 0};
        rig->sequences.push_back(to);
        for (uint32_t i = 0; i < s.rows; i++)
            rig->tokens.push_back(random_below(50));
    }
    for (size_t i = 0; i < sequences.size(); i++) {
        rig->sequences[i].block_ids = rig->tables[i].data();
        rig->sequences[i].block_count = (uint32_t)rig->tables[i].size();
    }
    for (uint32_t i = 0; i + 1 < rig->tokens.size(); i += 1 + random_below(3))
        rig->outputs.push_back(i);
    if (recordable)
        rig->outputs.clear();
    for (uint32_t i = 0; recordable && i < rig->tokens.size(); i++)
        rig->outputs.push_back(i);
    rig->step = {};
    rig->step.row_count = (uint32_t)rig->tokens.size();
    rig->step.token_ids = rig->tokens.data();
    rig->step.sequence_count = (uint32_t)sequences.size();
    rig->step.sequences = rig->sequences.data();
    rig->step.output_count = (uint32_t)rig->outputs.size(); /* not all: so it is not recorded */
    rig->step.output_rows = rig->outputs.data();
    rig->calls->step_begin(rig->backend, &rig->step);
    if (rig->cuda->mode != STEP_EAGER && !recordable)
        exit((printf("a step that is recorded\n"), 1));
}

static inline void step_of_rows(struct rig *rig, uint32_t rows)
{
    step_make(rig, {{random_below(40), rows}});
}

/* ---- buffers ---- */

static inline struct backend_buffer *buffer_make(struct rig *rig, uint32_t width, bool outputs)
{
    struct backend_buffer *buffer = NULL;
    if (rig->calls->buffer_open(rig->backend, width, outputs, &buffer) != OK)
        exit(1);
    CHECK(cudaDeviceSynchronize()); /* zeros are on their way, by the backend's stream */
    CHECK(cudaMemset(buffer->storage, 0xff, (size_t)ROWS_MAX * width * 4));
    CHECK(cudaDeviceSynchronize());
    return buffer;
}

/* Random rows, as activations (halves) or floats; what they are, exactly. */
static inline std::vector<double> buffer_fill(struct rig *rig, struct backend_buffer *buffer,
                                       uint32_t rows, bool halves)
{
    size_t count = (size_t)rows * buffer->width;
    std::vector<double> values(count);
    std::vector<float> floats(count);
    std::vector<uint16_t> bits(count);
    for (size_t i = 0; i < count; i++) {
        floats[i] = random_float() * 2;
        __half half = __float2half_rn(floats[i]);
        __nv_bfloat16 brain = __float2bfloat16_rn(floats[i]);
        memcpy(&bits[i], rig->bf16 ? (void *)&brain : (void *)&half, 2);
        values[i] = !halves     ? (double)floats[i]
                    : rig->bf16 ? (double)__bfloat162float(brain)
                                : (double)__half2float(half);
    }
    buffer->halves = halves;
    buffer->data = buffer->storage;
    buffer->stride = buffer->width;
    CHECK(cudaMemset(buffer->storage, 0xff, (size_t)ROWS_MAX * buffer->width * 4));
    CHECK(cudaMemcpy(buffer->data, halves ? (void *)bits.data() : (void *)floats.data(),
                     count * (halves ? 2 : 4), cudaMemcpyHostToDevice));
    CHECK(cudaDeviceSynchronize());
    return values;
}

static inline std::vector<double> numbers_read(const char *data, size_t count, bool halves,
                                               bool bf16)
{
    std::vector<uint8_t> bytes(count * (halves ? 2 : 4));
    std::vector<double> values(count);
    CHECK(cudaMemcpy(bytes.data(), data, bytes.size(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < count; i++) {
        __half half;
        __nv_bfloat16 brain;
        float single;
        memcpy(&half, bytes.data() + i * 2, 2);
        memcpy(&brain, bytes.data() + i * 2, 2);
        if (!halves)
            memcpy(&single, bytes.data() + i * 4, 4);
        values[i] = !halves ? (double)single
                    : bf16  ? (double)__bfloat162float(brain)
                            : (double)__half2float(half);
    }
    return values;
}

static inline void rig_wait(struct rig *rig)
{
    CHECK(cudaStreamSynchronize(rig->cuda->stream));
    if (rig->cuda->failed != OK)
        exit((printf("failed: %s\n", rig->cuda->failure), 1));
}

static inline double off_by(const double *found, const double *expected, size_t count)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        off += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return off >= 0 && size > 0 && off <= size ? sqrt(off / size) : INFINITY; /* NaN is neither */
}

/* The largest error of a row, as a part of that row's size. */
static inline double buffer_off(struct rig *rig, const struct backend_buffer *buffer,
                         const std::vector<double> &expected)
{
    size_t rows = expected.size() / buffer->width;
    double worst = 0;
    rig_wait(rig);
    for (size_t row = 0; row < rows; row++) {
        auto found = numbers_read(buffer->data + row * buffer->stride * (buffer->halves ? 2 : 4),
                                  buffer->width, buffer->halves, rig->bf16);
        worst = fmax(worst, off_by(found.data(), &expected[row * buffer->width], buffer->width));
    }
    return worst;
}

/* ---- the pool, and rotation ---- */

static inline size_t pool_at(const struct rig *rig, uint32_t sequence, uint32_t position,
                             uint32_t plane, uint32_t head)
{
    const struct backend_shape *s = &rig->shape;
    return (rig->tables[sequence][position / s->block_tokens] * s->block_bytes +
            LAYER * s->layer_bytes + plane * s->layer_bytes / 2) / 2 +
           ((size_t)head * s->block_tokens + position % s->block_tokens) * s->head_dim;
}

static inline void head_turn(const struct rig *rig, double *x, const std::vector<float> &norm,
                             uint32_t position)
{
    const struct backend_shape *s = &rig->shape;
    uint32_t half = s->rope_dims / 2;
    double squares = 0;
    for (uint32_t i = 0; i < s->head_dim; i++)
        squares += x[i] * x[i];
    double scale = 1 / sqrt(squares / s->head_dim + (double)s->norm_epsilon);
    for (uint32_t i = 0; i < s->head_dim && !norm.empty(); i++)
        x[i] *= scale * (double)norm[i];
    for (uint32_t i = 0; i < half; i++) {
        double angle = position * pow((double)s->rope_theta, -2.0 * i / s->rope_dims);
        double *a = s->rope_style == ROPE_PAIRS ? &x[2 * i] : &x[i];
        double *b = s->rope_style == ROPE_PAIRS ? &x[2 * i + 1] : &x[i + half];
        double u = *a, v = *b;
        *a = u * cos(angle) - v * sin(angle);
        *b = u * sin(angle) + v * cos(angle);
    }
}

#endif
