/* Each operation of a step but a prompt's attention (attend_test.cu) against float64, by the calls
 * of the backend: random shapes, numbers and tables. What an operation does not own is NaN before
 * it, and so is what it writes.
 *
 *     cuda_operations_test
 *
 * Needs a device: without one it says so and is skipped (status 77). */
#include "rig.cuh"

/* ---- norm, gate, embedding ---- */

static void norm_check(struct rig *rig, uint32_t width, uint32_t rows)
{
    struct backend_weight weight = weight_make(rig, DTYPE_F32, 1, width);
    struct backend_tensor *tensor = tensor_make(rig, &weight);
    struct backend_buffer *x = buffer_make(rig, width, false), *y = buffer_make(rig, width, false);
    std::vector<double> expected = buffer_fill(rig, x, rows, false);
    std::vector<float> w = weight_row(&weight, 0);
    for (uint32_t row = 0; row < rows; row++) {
        double squares = 0;
        for (uint32_t i = 0; i < width; i++)
            squares += expected[(size_t)row * width + i] * expected[(size_t)row * width + i];
        double scale = 1 / sqrt(squares / width + (double)rig->shape.norm_epsilon);
        for (uint32_t i = 0; i < width; i++)
            expected[(size_t)row * width + i] *= scale * (double)w[i];
    }
    step_of_rows(rig, rows);
    rig->calls->norm(rig->backend, x, tensor, y);
    told(rig, "norm of " + std::to_string(rows) + " x " + std::to_string(width),
         buffer_off(rig, y, expected), rounding(rig));
}

static void gate_check(struct rig *rig, uint32_t width, uint32_t rows, bool in_place)
{
    struct backend_buffer *gate = buffer_make(rig, width, false);
    struct backend_buffer *up = buffer_make(rig, width, false);
    struct backend_buffer *h = in_place ? gate : buffer_make(rig, width, false);
    std::vector<double> g = buffer_fill(rig, gate, rows, true);
    std::vector<double> u = buffer_fill(rig, up, rows, true);
    for (size_t i = 0; i < g.size(); i++)
        g[i] = g[i] / (1 + exp(-g[i])) * u[i];
    step_of_rows(rig, rows);
    rig->calls->gate(rig->backend, gate, up, h);
    told(rig, "gate of " + std::to_string(rows) + " x " + std::to_string(width),
         buffer_off(rig, h, g), rounding(rig));
}

static void embed_check(struct rig *rig, enum dtype type, uint32_t width, uint32_t rows, bool dummy)
{
    struct backend_weight weight = weight_make(rig, type, 50, width);
    if (dummy) {
        weight.data = NULL;
        weight.synthetic = {random_below(1u << 30), -9, 0.25f};
    }
    struct backend_tensor *tensor = tensor_make(rig, &weight);
    struct backend_buffer *x = buffer_make(rig, width, false), *y = buffer_make(rig, width, true);
    std::vector<double> expected, taken;
    step_of_rows(rig, rows);
    for (uint32_t token : rig->tokens)
        for (float value : weight_row(&weight, token))
            expected.push_back((double)value);
    for (uint32_t row : rig->outputs)
        taken.insert(taken.end(), expected.begin() + row * width,
                     expected.begin() + (row + 1) * width);
    rig->calls->embed(rig->backend, tensor, x);
    rig->calls->take_outputs(rig->backend, x, y);
    std::string what = std::string(" of ") + dtype_name(type) + ", width " + std::to_string(width);
    told(rig, (dummy ? "dummy embedding" : "embedding") + what, buffer_off(rig, x, expected),
         dummy ? 0 : rounding(rig));
    told(rig, "outputs" + what, buffer_off(rig, y, taken), rounding(rig));
}

/* ---- products ---- */

struct product_case {
    enum dtype type;
    uint32_t columns, widths[3], count, rows;
    bool bias, accumulate, outputs;
};

static void product_check(struct rig *rig, const struct product_case &c)
{
    struct backend_weight weights[3], biases[3];
    struct backend_projection projections[3];
    std::vector<double> befores[3];
    step_of_rows(rig, c.rows);
    uint32_t rows = c.outputs ? rig->step.output_count : c.rows;
    struct backend_buffer *x = buffer_make(rig, c.columns, c.outputs);
    std::vector<double> from = buffer_fill(rig, x, rows, true);
    for (uint32_t i = 0; i < c.count; i++) {
        weights[i] = weight_make(rig, c.type, c.widths[i], c.columns);
        biases[i] = weight_make(rig, DTYPE_F32, 1, c.widths[i]);
        projections[i] = {tensor_make(rig, &weights[i]),
                          c.bias ? tensor_make(rig, &biases[i]) : NULL,
                          buffer_make(rig, c.widths[i], c.outputs), c.accumulate};
        if (c.accumulate)
            befores[i] = buffer_fill(rig, projections[i].y, rows, false);
    }
    rig->calls->project(rig->backend, x, projections, c.count);
    double worst = 0;
    for (uint32_t i = 0; i < c.count; i++) {
        std::vector<double> expected((size_t)rows * c.widths[i]);
        std::vector<float> bias = weight_row(&biases[i], 0);
        for (uint32_t n = 0; n < c.widths[i]; n++) {
            std::vector<float> w = weight_row(&weights[i], n);
            for (uint32_t row = 0; row < rows; row++) {
                double sum = c.bias ? (double)bias[n] : 0;
                for (uint32_t k = 0; k < c.columns; k++)
                    sum += (double)w[k] * from[(size_t)row * c.columns + k];
                size_t at = (size_t)row * c.widths[i] + n;
                expected[at] = sum + (c.accumulate ? befores[i][at] : 0);
            }
        }
        worst = fmax(worst, buffer_off(rig, projections[i].y, expected));
    }
    told(rig,
         std::string(dtype_name(c.type)) + " x " + std::to_string(rows) + " rows of " +
             std::to_string(c.columns) + " -> " + std::to_string(c.widths[0]) + " and " +
             std::to_string(c.count - 1) + (c.bias ? ", bias" : "") +
             (c.accumulate ? ", added" : "") + (c.outputs ? ", logits" : ""),
         worst, 2 * rounding(rig));
}

static void products_check(struct rig *rig)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q6_K};
    static const uint32_t rows[] = {2, 3, 8, 16, 17, 64, 130, 300, 1, 24, 32, 41, 48, 63};
    for (enum dtype type : types) {
        for (int i = 0; i < 14; i++) {
            struct product_case c = {type, 256 * (1 + random_below(6)), {0, 0, 0}, 1, rows[i],
                                     false, false, false};
            if (i > 9 && type != DTYPE_Q4_K && type != DTYPE_Q6_K) /* not whole stages */
                c.columns += type == DTYPE_Q8_0 ? 64 : 96;
            for (uint32_t &width : c.widths)
                width = i % 3 == 0 ? 8 * (1 + random_below(40)) : 64 * (1 + random_below(6));
            c.outputs = i == 4 || i == 9;
            c.accumulate = !c.outputs && i % 4 == 3;
            c.count = c.outputs || c.accumulate ? 1 : 1 + random_below(3);
            c.bias = !c.outputs && i % 2 == 1;
            product_check(rig, c);
        }
    }
}

/* ---- rotation and the pool, decode attention ---- */

static void rope_check(struct rig *rig, const std::vector<struct sequence> &sequences, bool norms)
{
    const struct backend_shape *s = &rig->shape;
    uint32_t dims = s->head_dim, q_width = s->head_count * dims, kv_width = s->kv_head_count * dims;
    struct backend_weight weights[2] = {weight_make(rig, DTYPE_F32, 1, dims),
                                        weight_make(rig, DTYPE_F32, 1, dims)};
    struct backend_tensor *tensors[2] = {tensor_make(rig, &weights[0]),
                                         tensor_make(rig, &weights[1])};
    struct backend_buffer *buffers[3] = {buffer_make(rig, q_width, false),
                                         buffer_make(rig, kv_width, false),
                                         buffer_make(rig, kv_width, false)};
    std::vector<float> by[2];
    for (int i = 0; i < 2 && norms; i++)
        by[i] = weight_row(&weights[i], 0);
    step_make(rig, sequences);
    rig_wait(rig);
    CHECK(cudaMemset(rig->cuda->pool_device, 0xff, rig->cuda->pool.bytes));
    std::vector<double> values[3];
    for (int i = 0; i < 3; i++)
        values[i] = buffer_fill(rig, buffers[i], rig->step.row_count, true);
    rig->calls->rope_store(rig->backend, LAYER, buffers[0], buffers[1], buffers[2],
                           norms ? tensors[0] : NULL, norms ? tensors[1] : NULL);
    rig_wait(rig);
    size_t count = rig->cuda->pool.bytes / 2, written = 0;
    std::vector<double> pool = numbers_read(rig->cuda->pool_device, count, true, false);
    double worst = 0;
    for (uint32_t i = 0; i < sequences.size(); i++) {
        for (uint32_t r = 0; r < sequences[i].rows; r++) {
            uint32_t row = rig->sequences[i].first_row + r, position = sequences[i].start + r;
            for (uint32_t h = 0; h < s->head_count; h++) {
                double *expected = &values[0][(size_t)row * q_width + h * dims];
                head_turn(rig, expected, by[0], position);
                auto found = numbers_read(buffers[0]->data + ((size_t)row * q_width + h * dims) * 2,
                                          dims, true, false); /* always f16, as the keys are */
                worst = fmax(worst, off_by(found.data(), expected, dims));
            }
            for (uint32_t plane = 0; plane < 2; plane++) {
                for (uint32_t h = 0; h < s->kv_head_count; h++) {
                    double *expected = &values[1 + plane][(size_t)row * kv_width + h * dims];
                    if (plane == 0)
                        head_turn(rig, expected, by[1], position);
                    worst = fmax(worst, off_by(&pool[pool_at(rig, i, position, plane, h)], expected,
                                               dims));
                    written += dims;
                }
            }
        }
    }
    for (double value : pool) /* and nothing else was written */
        written -= isnan(value) ? 0 : 1;
    told(rig,
         std::string("rotation and store, heads of ") + std::to_string(dims) +
             (norms ? ", normed" : ""),
         written == 0 ? worst : INFINITY, 1.0 / 2048);
}

static void attend_check(struct rig *rig, const std::vector<struct sequence> &sequences)
{
    const struct backend_shape *s = &rig->shape;
    uint32_t dims = s->head_dim, width = s->head_count * dims;
    struct backend_buffer *q = buffer_make(rig, width, false), *o = buffer_make(rig, width, false);
    step_make(rig, sequences);
    size_t count = rig->cuda->pool.bytes / 2;
    std::vector<uint16_t> bits(count, 0xffff), q_bits((size_t)rig->step.row_count * width);
    std::vector<double> pool(count), from(q_bits.size()), expected(q_bits.size());
    for (uint32_t i = 0; i < sequences.size(); i++) {
        for (uint32_t t = 0; t < sequences[i].start + sequences[i].rows; t++) {
            for (uint32_t part = 0; part < 2 * s->kv_head_count; part++) {
                size_t at = pool_at(rig, i, t, part % 2, part / 2);
                for (uint32_t d = 0; d < dims; d++) {
                    __half value = __float2half_rn(random_float() * 2);
                    memcpy(&bits[at + d], &value, 2);
                    pool[at + d] = (double)__half2float(value);
                }
            }
        }
    }
    for (size_t i = 0; i < q_bits.size(); i++) {
        __half value = __float2half_rn(random_float() * 3);
        memcpy(&q_bits[i], &value, 2);
        from[i] = (double)__half2float(value);
    }
    CHECK(cudaMemcpy(rig->cuda->pool_device, bits.data(), count * 2, cudaMemcpyHostToDevice));
    q->halves = true;
    q->data = q->storage;
    q->stride = width;
    CHECK(cudaMemcpy(q->data, q_bits.data(), q_bits.size() * 2, cudaMemcpyHostToDevice));
    CHECK(cudaDeviceSynchronize());
    for (uint32_t i = 0; i < sequences.size(); i++) {
        for (uint32_t r = 0; r < sequences[i].rows; r++) {
            for (uint32_t h = 0; h < s->head_count; h++) {
                uint32_t kv = h / (s->head_count / s->kv_head_count);
                uint32_t length = sequences[i].start + r + 1;
                size_t at = ((size_t)rig->sequences[i].first_row + r) * width + h * dims;
                std::vector<double> scores(length, 0);
                double most = -1e300, sum = 0;
                for (uint32_t t = 0; t < length; t++) {
                    for (uint32_t d = 0; d < dims; d++)
                        scores[t] += from[at + d] * pool[pool_at(rig, i, t, 0, kv) + d];
                    scores[t] /= sqrt((double)dims);
                    most = fmax(most, scores[t]);
                }
                for (double &score : scores)
                    sum += score = exp(score - most);
                for (uint32_t t = 0; t < length; t++)
                    for (uint32_t d = 0; d < dims; d++)
                        expected[at + d] += scores[t] / sum * pool[pool_at(rig, i, t, 1, kv) + d];
            }
        }
    }
    rig->calls->attend(rig->backend, LAYER, q, o);
    told(rig,
         "attention of " + std::to_string(sequences.size()) + " sequences, the first at " +
             std::to_string(sequences[0].start) + ", " + std::to_string(s->head_count) + " and " +
             std::to_string(s->kv_head_count) + " heads of " + std::to_string(dims),
         buffer_off(rig, o, expected), rig->bf16 ? 6e-3 : 1.5e-3);
}

/* Enough outputs that each multiprocessor has several tiles, and some of them of many columns. */
static void large_products_check(struct rig *rig)
{
    static const uint32_t rows[] = {1, 5, 16, 20, 32, 64};
    for (uint32_t count : rows) {
        struct product_case c = {rig->bf16 ? DTYPE_BF16 : DTYPE_F16, 512, {3000, 1500, 1500}, 3,
                                 count, true, false, false};
        product_check(rig, c);
        c = {c.type, 8192, {520, 0, 0}, 1, count, false, true, false};
        product_check(rig, c);
    }
}

/* As many rows as warps: where it can, one has all keys of a row, more than it knows the places of
 * at once. And a single row, in more partitions than it would have of the usual length. */
static void partitions_check(struct rig *rig, uint32_t most, uint32_t kv_heads)
{
    bool shorter = most > 520, chosen = rig->cuda->hopper;
    rig->cuda->processors = (int)kv_heads;
    attend_check(rig, std::vector<struct sequence>(8, {most - 1, 1}));
    if (chosen && rig->cuda->host.head[6] < most)
        exit((printf("partitions of %u keys\n", rig->cuda->host.head[6]), 1));
    rig->cuda->processors = 132;
    attend_check(rig, {{shorter ? 519 : most - 1, 1}});
    if (chosen && shorter && rig->cuda->host.head[6] >= PARTITION_KEYS)
        exit((printf("partitions of %u keys\n", rig->cuda->host.head[6]), 1));
    rig->cuda->processors = 2;
}

static void heads_check(bool bf16, uint32_t heads, uint32_t kv_heads, uint32_t dims,
                        uint32_t block_tokens, bool pairs)
{
    struct rig rig;
    rig_open(&rig, bf16, false, heads, kv_heads, dims, block_tokens, pairs);
    uint32_t most = block_tokens * (TABLE_MAX - 1) < 900 ? block_tokens * (TABLE_MAX - 1) : 900;
    std::vector<struct sequence> singles, ragged = {{0, 5}, {17, 40}, {block_tokens - 1, 2}};
    for (uint32_t i = 0; i < 9; i++)
        singles.push_back({random_below(i < 3 ? 40 : most), 1});
    rope_check(&rig, singles, !pairs);
    rope_check(&rig, ragged, pairs);
    attend_check(&rig, singles);
    attend_check(&rig, {{most - 1, 1}, {255, 1}, {256, 1}, {0, 1}});
    attend_check(&rig, ragged);
    while (singles.size() < SEQUENCES_MAX)
        singles.push_back({random_below(most), 1});
    attend_check(&rig, singles);
    /* One long row among short ones; longer partitions, as with few multiprocessors; no list. */
    for (uint32_t i = 0; i < SEQUENCES_MAX; i++)
        singles[i].start = i == 11 ? most - 1 : random_below(most / 8);
    attend_check(&rig, singles);
    singles.resize(SEQUENCES_MAX / 2);
    for (auto &single : singles)
        single.start = most / 2 + random_below(most / 2);
    rig.cuda->processors = 2;
    attend_check(&rig, singles);
    partitions_check(&rig, most, kv_heads);
    rig.cuda->units_max = 3;
    attend_check(&rig, singles);
    rig_close(&rig);
}

int main(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    for (int kind = 0; kind < 3; kind++) {
        struct rig rig;
        bool bf16 = kind == 1;
        rig_open(&rig, bf16, kind == 2, 4, 2, 64, 16, false);
        static const uint32_t widths[] = {64, 77, 576, 1022, 4096, 8192, 17000};
        for (uint32_t width : widths) {
            norm_check(&rig, width, 1 + random_below(9) * 2 + 1);
            gate_check(&rig, width, 2 + random_below(20), width % 3 == 0);
        }
        embed_check(&rig, bf16 ? DTYPE_BF16 : DTYPE_F16, 576, 33, false);
        embed_check(&rig, bf16 ? DTYPE_BF16 : DTYPE_F16, 577, 33, true);
        embed_check(&rig, DTYPE_Q8_0, 512, 9, false);
        embed_check(&rig, DTYPE_Q4_K, 512, 9, false);
        embed_check(&rig, DTYPE_Q6_K, 768, 9, false);
        products_check(&rig);
        large_products_check(&rig);
        rig_close(&rig);
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        heads_check(bf16 == 1, 8, 2, 128, 16, false);
        heads_check(bf16 == 1, 16, 4, 128, 16, false);
        heads_check(bf16 == 1, 8, 8, 64, 16, false);
        heads_check(bf16 == 1, 9, 3, 64, 16, true);
        heads_check(bf16 == 1, 4, 4, 96, 32, false);
        heads_check(bf16 == 1, 16, 1, 128, 8, true);
        heads_check(bf16 == 1, 6, 2, 40, 16, false); /* not for tiles */
    }
    printf("%s\n", good ? "all right" : "WRONG");
    return good ? 0 : 1;
}
