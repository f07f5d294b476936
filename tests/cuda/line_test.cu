/* What rows go through from one attention to the next, as a line (line.cu) or a band (band.cu)
 * makes it, against float64, by the calls of the backend.
 *
 *     cuda_line_test
 *
 * Needs a device: without one it says so and is skipped (status 77). */
#include "rig.cuh"

struct line_case {
    enum dtype types[7]; /* o, gate, up, down, q, k, v */
    uint32_t width, ffn;
    bool bias;
    uint32_t rows;
};

struct line_weight {
    struct backend_weight weight, bias;
    struct backend_projection projection;
};

static struct line_weight line_weight_make(struct rig *rig, enum dtype type, uint32_t rows,
                                           uint32_t columns, bool bias, bool accumulate)
{
    struct line_weight made;
    made.weight = weight_make(rig, type, rows, columns);
    made.bias = weight_make(rig, DTYPE_F32, 1, rows);
    made.projection = {tensor_make(rig, &made.weight), bias ? tensor_make(rig, &made.bias) : NULL,
                       NULL, accumulate};
    return made;
}

/* Rows on end, as all of these. */
static std::vector<double> line_multiplied(const struct line_weight &by,
                                           const std::vector<double> &x)
{
    uint32_t columns = by.weight.columns, outputs = by.weight.rows;
    std::vector<double> y(x.size() / columns * outputs);
    std::vector<float> bias = weight_row(&by.bias, 0);
    for (uint32_t n = 0; n < outputs; n++) {
        std::vector<float> w = weight_row(&by.weight, n);
        for (size_t row = 0; row < x.size() / columns; row++) {
            double sum = by.projection.bias != NULL ? (double)bias[n] : 0;
            for (uint32_t k = 0; k < columns; k++)
                sum += (double)w[k] * x[row * columns + k];
            y[row * outputs + n] = sum;
        }
    }
    return y;
}

static std::vector<double> line_normed(const struct rig *rig, const struct backend_weight *weight,
                                       std::vector<double> x)
{
    std::vector<float> w = weight_row(weight, 0);
    for (size_t at = 0; at < x.size(); at += w.size()) {
        double squares = 0;
        for (size_t i = 0; i < w.size(); i++)
            squares += x[at + i] * x[at + i];
        double scale = 1 / sqrt(squares / (double)w.size() + (double)rig->shape.norm_epsilon);
        for (size_t i = 0; i < w.size(); i++)
            x[at + i] *= scale * (double)w[i];
    }
    return x;
}

/* Twice: as it is, and recorded. */
static void line_check(bool bf16, const struct line_case &c)
{
    struct rig rig;
    rig_open(&rig, bf16, false, 4, 2, 64, 16, false);
    const uint32_t rows[7] = {c.width, c.ffn, c.ffn, c.width, c.width, c.width / 4, c.width / 4};
    struct line_weight by[7];
    struct backend_buffer *ys[7];
    for (int i = 0; i < 7; i++)
        by[i] = line_weight_make(&rig, c.types[i], rows[i], i == 3 ? c.ffn : c.width,
                                 c.bias && i != 0 && i != 3, i == 0 || i == 3);
    struct backend_weight norms[2] = {weight_make(&rig, DTYPE_F32, 1, c.width),
                                      weight_make(&rig, DTYPE_F32, 1, c.width)};
    struct backend_tensor *norm_tensors[2] = {tensor_make(&rig, &norms[0]),
                                              tensor_make(&rig, &norms[1])};
    struct backend_buffer *x = buffer_make(&rig, c.width, false);
    struct backend_buffer *o = buffer_make(&rig, c.width, false);
    struct backend_buffer *h = buffer_make(&rig, c.width, false);
    for (int i = 0; i < 7; i++)
        ys[i] = i == 0 || i == 3 ? x : buffer_make(&rig, rows[i], false);
    for (int i = 0; i < 7; i++)
        by[i].projection.y = ys[i];
    for (int round = 0; round < 2; round++) {
        std::vector<double> expected = buffer_fill(&rig, x, c.rows, false);
        std::vector<double> attended = buffer_fill(&rig, o, c.rows, true);
        for (int i = 1; i < 7; i++)
            if (i != 3)
                (void)buffer_fill(&rig, ys[i], c.rows, true);
        step_make(&rig, std::vector<struct sequence>(c.rows, {5, 1}), true);
        const struct backend_calls *calls = rig.calls;
        const struct backend_projection in[] = {by[1].projection, by[2].projection};
        const struct backend_projection qkv[] = {by[4].projection, by[5].projection,
                                                 by[6].projection};
        calls->project(rig.backend, o, &by[0].projection, 1);
        calls->norm(rig.backend, x, norm_tensors[0], h);
        calls->project(rig.backend, h, in, 2);
        calls->gate(rig.backend, ys[1], ys[2], ys[1]);
        calls->project(rig.backend, ys[1], &by[3].projection, 1);
        calls->norm(rig.backend, x, norm_tensors[1], h);
        calls->project(rig.backend, h, qkv, 3);
        if (calls->step_submit(rig.backend) != OK || calls->step_wait(rig.backend) != OK)
            exit(1);
        std::vector<double> y = line_multiplied(by[0], attended);
        for (size_t i = 0; i < y.size(); i++)
            expected[i] += y[i];
        std::vector<double> row = line_normed(&rig, &norms[0], expected);
        std::vector<double> gate = line_multiplied(by[1], row), up = line_multiplied(by[2], row);
        for (size_t i = 0; i < gate.size(); i++)
            gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        y = line_multiplied(by[3], gate);
        for (size_t i = 0; i < y.size(); i++)
            expected[i] += y[i];
        double off = buffer_off(&rig, x, expected);
        row = line_normed(&rig, &norms[1], expected);
        for (int i = 4; i < 7; i++)
            off = fmax(off, buffer_off(&rig, ys[i], line_multiplied(by[i], row)));
        told(&rig,
             (c.rows == 1 ? "line of " : std::to_string(c.rows) + " rows, band of ") +
                 dtype_name(c.types[0]) + ", " + dtype_name(c.types[1]) +
                 ", " + dtype_name(c.types[6]) + ", " + std::to_string(c.width) + " and " +
                 std::to_string(c.ffn) + (round == 0 ? "" : ", recorded"),
             off, 3 * rounding(&rig));
    }
    rig_close(&rig);
}

static void lines_check(void)
{
    static const uint32_t shapes[][2] = {{512, 1536}, {2048, 5120}, {576, 1544}, {512, 1540}};
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_K};
    for (enum dtype type : types)
        for (int i = 0; i < (type == DTYPE_F16 || type == DTYPE_BF16 ? 4 : 2); i++)
            line_check(type == DTYPE_BF16, {{type, type, type, type, type, type, type},
                                            shapes[i][0], shapes[i][1], i % 2 == 1, 1});
    line_check(false, {{DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q6_K, DTYPE_Q4_K, DTYPE_Q4_K,
                        DTYPE_Q6_K}, 1024, 2816, false, 1});
    line_check(false, {{DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q8_0, DTYPE_Q4_K,
                        DTYPE_Q6_K}, 1024, 2816, true, 1});
}

/* More tiles than blocks for them and fewer, columns that are not whole quarters, shapes, rows and
 * types that are not for a band, a part of a band. */
static void bands_check(void)
{
    static const uint32_t shapes[][2] = {{512, 2560}, {640, 1472}, {1152, 640}, {576, 1544}};
    static const uint32_t rows[] = {2, 3, 8, 9, 16, 24, 32, 40};
    const enum dtype b = DTYPE_BF16, f = DTYPE_F16;
    for (int i = 0; i < 8; i++)
        line_check(true, {{b, b, b, b, b, b, b}, shapes[i % 3][0], shapes[i % 3][1], false,
                          rows[i]});
    line_check(true, {{b, b, b, b, b, b, b}, 576, 1544, false, 16});
    line_check(true, {{b, b, b, b, b, b, b}, 512, 1536, true, 24});
    line_check(false, {{f, f, f, f, f, f, f}, 512, 1536, false, 32});
}

/* A band that ends with the rotation: o, norm, and q, k, v, of which q is turned where it lies, and
 * k and v go to the pool. Twice: as it is, and recorded. */
static void turn_check(uint32_t rows, bool pairs, bool norms)
{
    struct rig rig;
    rig_open(&rig, true, false, 4, 2, 128, 16, false);
    rig.shape.rope_style = rig.cuda->shape.rope_style = pairs ? ROPE_PAIRS : ROPE_HALVES;
    const uint32_t width = 512, dims = 128, outputs[4] = {width, 4 * dims, 2 * dims, 2 * dims};
    struct line_weight by[4];
    for (int i = 0; i < 4; i++)
        by[i] = line_weight_make(&rig, DTYPE_BF16, outputs[i], width, false, i == 0);
    struct backend_weight norm = weight_make(&rig, DTYPE_F32, 1, width);
    struct backend_weight heads[2] = {weight_make(&rig, DTYPE_F32, 1, dims),
                                      weight_make(&rig, DTYPE_F32, 1, dims)};
    struct backend_tensor *norm_tensor = tensor_make(&rig, &norm);
    struct backend_tensor *head_tensors[2] = {tensor_make(&rig, &heads[0]),
                                              tensor_make(&rig, &heads[1])};
    std::vector<float> head_norms[2];
    for (int i = 0; i < 2 && norms; i++)
        head_norms[i] = weight_row(&heads[i], 0);
    struct backend_buffer *x = buffer_make(&rig, width, false);
    struct backend_buffer *o = buffer_make(&rig, width, false);
    struct backend_buffer *h = buffer_make(&rig, width, false), *ys[4] = {x};
    for (int i = 1; i < 4; i++)
        ys[i] = buffer_make(&rig, outputs[i], false);
    for (int i = 0; i < 4; i++)
        by[i].projection.y = ys[i];
    const struct backend_projection qkv[] = {by[1].projection, by[2].projection,
                                             by[3].projection};
    std::vector<struct sequence> sequences;
    for (uint32_t i = 0; i < rows; i++)
        sequences.push_back({random_below(120), 1});
    for (int round = 0; round < 2; round++) {
        std::vector<double> expected = buffer_fill(&rig, x, rows, false), values[3];
        std::vector<double> attended = buffer_fill(&rig, o, rows, true);
        CHECK(cudaMemset(rig.cuda->pool_device, 0xff, rig.cuda->pool.bytes));
        step_make(&rig, sequences, true);
        rig.calls->project(rig.backend, o, &by[0].projection, 1);
        rig.calls->norm(rig.backend, x, norm_tensor, h);
        rig.calls->project(rig.backend, h, qkv, 3);
        rig.calls->rope_store(rig.backend, LAYER, ys[1], ys[2], ys[3],
                              norms ? head_tensors[0] : NULL, norms ? head_tensors[1] : NULL);
        if (rig.calls->step_submit(rig.backend) != OK || rig.calls->step_wait(rig.backend) != OK)
            exit(1);
        std::vector<double> y = line_multiplied(by[0], attended);
        for (size_t i = 0; i < y.size(); i++)
            expected[i] += y[i];
        double worst = buffer_off(&rig, x, expected);
        for (int i = 0; i < 3; i++)
            values[i] = line_multiplied(by[i + 1], line_normed(&rig, &norm, expected));
        size_t written = 0;
        std::vector<double> pool =
            numbers_read(rig.cuda->pool_device, rig.cuda->pool.bytes / 2, true, false);
        for (uint32_t row = 0; row < rows; row++) {
            uint32_t position = sequences[row].start;
            for (uint32_t head = 0; head < 8; head++) { /* four of q, two of k, two of v */
                uint32_t which = head < 4 ? 0 : head < 6 ? 1 : 2, in = which == 0 ? head : head % 2;
                double *right = &values[which][(size_t)row * outputs[which + 1] + in * dims];
                if (which < 2)
                    head_turn(&rig, right, head_norms[which], position);
                const char *at = ys[1]->data + ((size_t)row * ys[1]->stride + in * dims) * 2;
                auto found = numbers_read(at, dims, true, false);
                const double *is =
                    which == 0 ? found.data()
                               : &pool[pool_at(&rig, row, position, which == 1 ? 0 : 1, in)];
                worst = fmax(worst, off_by(is, right, dims));
                written += which > 0 ? dims : 0;
            }
            const char *unturned = ys[2]->data + (size_t)row * ys[2]->stride * 2;
            auto keys = numbers_read(unturned, dims, true, true);
            if (rig.cuda->hopper && !isnan(keys[0])) /* a band has no use for it */
                worst = INFINITY;
        }
        for (double value : pool) /* and nothing else was written */
            written -= isnan(value) ? 0 : 1;
        told(&rig,
             std::to_string(rows) + " rows, band with rotation of " + (pairs ? "pairs" : "halves") +
                 (norms ? ", normed" : "") + (round == 0 ? "" : ", recorded"),
             written == 0 ? worst : INFINITY, 3 * rounding(&rig));
    }
    rig_close(&rig);
}

int main(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    bands_check();
    static const uint32_t turned[] = {2, 3, 9, 16, 23, 32};
    for (int i = 0; i < 6; i++)
        turn_check(turned[i], i % 2 == 1, i % 3 == 1);
    lines_check();
    printf("%s\n", good ? "all right" : "WRONG");
    return good ? 0 : 1;
}
