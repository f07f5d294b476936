/* Whole steps of a small model through the calls of the backend. Each operation is held to a
 * float64 reference that reads the same inputs; and a row's logits keep every bit whatever shares
 * its step, however its prompt was chunked, on any number of threads and with any instructions. */
#include "cpu_fixture.h"

#include <math.h>

#define LAYERS 2u
#define VOCABULARY 90u
#define ROWS_MAX 400u
#define SEQUENCES_MAX 8u
#define BLOCKS 160u
#define TABLE_MAX 64u

struct layer_weights {
    struct backend_weight attention_norm, q, k, v, q_bias, k_bias, o, ffn_norm, gate, up, down;
    struct backend_weight q_norm, k_norm;
};

struct toy {
    struct backend_shape shape;
    uint32_t width, ffn;
    bool biases, head_norms;
    struct backend_weight embedding, output_norm;
    struct layer_weights layers[LAYERS];
};

/* The toy model in a backend. */
struct rig {
    const struct toy *toy;
    struct backend *backend;
    struct backend_pool pool;
    struct backend_tensor *embedding, *output_norm;
    struct backend_tensor *tensors[LAYERS][13];
    struct backend_buffer *x, *normed, *q, *k, *v, *o, *gate, *up, *x_out, *logits;
};

static struct backend_weight vector_of(uint32_t columns, float around)
{
    struct backend_weight weight = random_weight(DTYPE_F32, 1, columns);
    float *values = (float *)(void *)(uintptr_t)weight.data;
    for (uint32_t i = 0; i < columns; i++)
        values[i] = around + random_float() * 0.1f;
    return weight;
}

static void toy_make(struct toy *toy, enum dtype type, uint32_t heads, uint32_t kv_heads,
                     uint32_t head_dim, uint32_t block_tokens, bool qwen, enum dtype kv_dtype)
{
    uint32_t unit = dtype_group(type) == 256 ? 256 : 64;
    size_t layer_bytes = (size_t)2 * kv_heads * block_tokens * dtype_row_bytes(kv_dtype, head_dim);
    *toy = (struct toy){
        .shape = {.layer_count = LAYERS,
                  .head_count = heads,
                  .kv_head_count = kv_heads,
                  .head_dim = head_dim,
                  .block_tokens = block_tokens,
                  .kv_dtype = kv_dtype,
                  .block_bytes = layer_bytes * LAYERS,
                  .layer_bytes = layer_bytes,
                  .rope_style = qwen ? ROPE_HALVES : ROPE_PAIRS,
                  .rope_dims = qwen ? head_dim : head_dim / 4 * 2,
                  .rope_theta = 10000,
                  .norm_epsilon = 1e-5f},
        .width = unit,
        .ffn = 2 * unit,
        .biases = qwen,
        .head_norms = qwen,
    };
    uint32_t q = heads * head_dim, kv = kv_heads * head_dim;
    enum dtype o_type = q % dtype_group(type) == 0 ? type : DTYPE_F16;
    toy->embedding = random_weight(type, VOCABULARY, unit);
    toy->output_norm = vector_of(unit, 1);
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct layer_weights *w = &toy->layers[l];
        *w = (struct layer_weights){
            .attention_norm = vector_of(unit, 1),
            .q = random_weight(type, q, unit),
            .k = random_weight(type, kv, unit),
            .v = random_weight(DTYPE_BF16, kv, unit),
            .q_bias = vector_of(q, 0),
            .k_bias = vector_of(kv, 0),
            .o = random_weight(o_type, unit, q),
            .ffn_norm = vector_of(unit, 1),
            .gate = random_weight(type, toy->ffn, unit),
            .up = random_weight(type, toy->ffn, unit),
            .down = random_weight(type, unit, toy->ffn),
            .q_norm = vector_of(head_dim, 1),
            .k_norm = vector_of(head_dim, 1),
        };
    }
}

static void toy_free(struct toy *toy)
{
    free((void *)(uintptr_t)toy->embedding.data);
    free((void *)(uintptr_t)toy->output_norm.data);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const struct backend_weight *all = &toy->layers[l].attention_norm;
        for (size_t i = 0; i < sizeof(toy->layers[l]) / sizeof(*all); i++)
            free((void *)(uintptr_t)all[i].data);
    }
}

static void rig_open(struct rig *rig, const struct toy *toy, const char *kernels,
                     const char *variant, uint32_t threads)
{
    struct backend_limits limits = {ROWS_MAX, SEQUENCES_MAX, ROWS_MAX, TABLE_MAX};
    struct backend_cpu_options options = {
        .threads = threads, .kernels = kernels, .variant = variant};
    memset(rig, 0, sizeof(*rig));
    rig->toy = toy;
    if (backend_cpu_open(&toy->shape, &limits, &options, &rig->backend) != OK)
        fail_msg("%s", error_text());
    struct backend *b = rig->backend;
    const struct backend_calls *calls = b->calls;
    assert_int_equal(calls->tensor_open(b, &toy->embedding, &rig->embedding), OK);
    assert_int_equal(calls->tensor_open(b, &toy->output_norm, &rig->output_norm), OK);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const struct backend_weight *all = &toy->layers[l].attention_norm;
        for (size_t i = 0; i < 13; i++)
            assert_int_equal(calls->tensor_open(b, &all[i], &rig->tensors[l][i]), OK);
    }
    uint32_t q = toy->shape.head_count * toy->shape.head_dim;
    uint32_t kv = toy->shape.kv_head_count * toy->shape.head_dim;
    struct {
        uint32_t width;
        bool outputs;
        struct backend_buffer **buffer;
    } const buffers[] = {{toy->width, false, &rig->x},
                         {toy->width, false, &rig->normed},
                         {q, false, &rig->q},
                         {kv, false, &rig->k},
                         {kv, false, &rig->v},
                         {q, false, &rig->o},
                         {toy->ffn, false, &rig->gate},
                         {toy->ffn, false, &rig->up},
                         {toy->width, true, &rig->x_out},
                         {VOCABULARY, true, &rig->logits}};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        assert_int_equal(
            calls->buffer_open(b, buffers[i].width, buffers[i].outputs, buffers[i].buffer), OK);
    assert_int_equal(calls->pool_open(b, BLOCKS, &rig->pool), OK);
    /* Slots that nobody filled hold NaN. */
    memset(rig->pool.host, 0xff, rig->pool.bytes);
}

static void rig_close(struct rig *rig)
{
    rig->backend->calls->close(rig->backend);
}

static void rig_layer(struct rig *rig, uint32_t l)
{
    struct backend *b = rig->backend;
    const struct backend_calls *calls = b->calls;
    struct backend_tensor **t = rig->tensors[l];
    bool biases = rig->toy->biases, norms = rig->toy->head_norms;
    calls->norm(b, rig->x, t[0], rig->normed);
    const struct backend_projection qkv[] = {{t[1], biases ? t[4] : NULL, rig->q, false},
                                             {t[2], biases ? t[5] : NULL, rig->k, false},
                                             {t[3], NULL, rig->v, false}};
    calls->project(b, rig->normed, qkv, 3);
    calls->rope_store(b, l, rig->q, rig->k, rig->v, norms ? t[11] : NULL, norms ? t[12] : NULL);
    calls->attend(b, l, rig->q, rig->o);
    const struct backend_projection o = {t[6], NULL, rig->x, true};
    calls->project(b, rig->o, &o, 1);
    calls->norm(b, rig->x, t[7], rig->normed);
    const struct backend_projection gate_up[] = {{t[8], NULL, rig->gate, false},
                                                 {t[9], NULL, rig->up, false}};
    calls->project(b, rig->normed, gate_up, 2);
    calls->gate(b, rig->gate, rig->up, rig->gate);
    const struct backend_projection down = {t[10], NULL, rig->x, true};
    calls->project(b, rig->gate, &down, 1);
    calls->layer_done(b, l);
}

static void rig_step(struct rig *rig, const struct step *step)
{
    struct backend *b = rig->backend;
    const struct backend_calls *calls = b->calls;
    calls->step_begin(b, step);
    calls->embed(b, rig->embedding, rig->x);
    for (uint32_t l = 0; l < LAYERS; l++)
        rig_layer(rig, l);
    calls->take_outputs(b, rig->x, rig->x_out);
    calls->norm(b, rig->x_out, rig->output_norm, rig->x_out);
    const struct backend_projection head = {rig->embedding, NULL, rig->logits, false};
    calls->project(b, rig->x_out, &head, 1);
    assert_int_equal(calls->step_submit(b), OK);
    assert_int_equal(calls->step_wait(b), OK);
}

/* ---- sequences and the steps they are cut into ----------------------------------------------- */

#define LENGTH_MAX 330u

struct prompt {
    uint32_t length, done;
    uint32_t tokens[LENGTH_MAX];
    block_id blocks[TABLE_MAX];
    float *logits; /* [length][VOCABULARY] */
};

static void prompt_make(struct prompt *p, const struct toy *toy, uint32_t length, block_id *next)
{
    p->length = length;
    p->done = 0;
    for (uint32_t i = 0; i < length; i++)
        p->tokens[i] = random_below(VOCABULARY);
    for (uint32_t i = 0; i * toy->shape.block_tokens < length; i++)
        p->blocks[i] = (*next)++ * 7 % BLOCKS; /* not in order */
    p->logits = malloc((size_t)length * VOCABULARY * sizeof(float));
    assert_non_null(p->logits);
}

/* One step with rows[i] rows of prompt i; all rows want logits. */
static void run_rows(struct rig *rig, struct prompt *prompts, const uint32_t *rows, uint32_t count)
{
    static uint32_t tokens[ROWS_MAX], outputs[ROWS_MAX];
    struct step_sequence sequences[SEQUENCES_MAX];
    struct step step = {.token_ids = tokens, .sequences = sequences, .output_rows = outputs};
    uint32_t tokens_per = rig->toy->shape.block_tokens;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i] == 0)
            continue;
        struct prompt *p = &prompts[i];
        sequences[step.sequence_count++] = (struct step_sequence){
            .first_row = step.row_count,
            .row_count = rows[i],
            .start_position = p->done,
            .block_ids = p->blocks,
            .block_count = (p->done + rows[i] + tokens_per - 1) / tokens_per};
        memcpy(tokens + step.row_count, p->tokens + p->done, rows[i] * sizeof(uint32_t));
        step.row_count += rows[i];
    }
    step.output_count = step.row_count;
    for (uint32_t i = 0; i < step.row_count; i++)
        outputs[i] = i;
    rig_step(rig, &step);
    uint32_t row = 0;
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t r = 0; r < rows[i]; r++, row++)
            memcpy(prompts[i].logits + (size_t)(prompts[i].done + r) * VOCABULARY,
                   rig->backend->calls->output_row(rig->backend, rig->logits, row),
                   VOCABULARY * sizeof(float));
        prompts[i].done += rows[i];
    }
}

/* ---- float64 attention ----------------------------------------------------------------------- */

static void near(double found, double expected, double size, double tolerance, const char *what)
{
    if (!(fabs(found - expected) <= tolerance * size))
        fail_msg("%s: found %.9g, expected %.9g (scale %.3g)", what, found, expected, size);
}

/* A key or value of the pool, as floats. */
static const uint8_t *token_read(const struct rig *rig, const struct prompt *p, uint32_t layer,
                                 uint32_t plane, uint32_t kv_head, uint32_t token, float *to)
{
    const struct backend_shape *s = &rig->toy->shape;
    const uint8_t *from = rig->pool.host + p->blocks[token / s->block_tokens] * s->block_bytes +
                          layer * s->layer_bytes + plane * s->layer_bytes / 2 +
                          ((size_t)kv_head * s->block_tokens + token % s->block_tokens) *
                              dtype_row_bytes(s->kv_dtype, s->head_dim);
    dequant_row(s->kv_dtype, from, s->head_dim, to);
    return from;
}

/* What rope_store left of x in the pool: f16 exactly; of Q8_0 each number within half a step, and
 * the step is the largest of its group over 127. */
static void stored_check(enum dtype type, const uint8_t *stored, const float *numbers,
                         const float *x, uint32_t dims)
{
    for (uint32_t d = 0; d < dims; d++) {
        if (type == DTYPE_F16) {
            assert_int_equal(load_u16(stored + 2 * d), f32_to_f16(x[d]));
            continue;
        }
        float step = f16_to_f32(load_u16(stored + d / 32 * 34)), most = 0;
        for (uint32_t i = d / 32 * 32; i < d / 32 * 32 + 32; i++)
            most = fmaxf(most, fabsf(x[i]));
        assert_int_equal(f32_to_f16(most / 127), f32_to_f16(step));
        /* The int8 were rounded with the step before it was f16, which is off by 2^-11 at most. */
        near((double)numbers[d], (double)x[d], 0.5 * (double)step + 0x1p-11 * fabs((double)x[d]),
             1.0001, "q8_0");
    }
}

/* The attention of one query head by definition, from the keys and values in the pool. Returns the
 * size that errors are measured by: of the values, and of scores, which exp turns into factors. */
static double attend_exact(const struct rig *rig, const struct prompt *p, uint32_t layer,
                           uint32_t position, uint32_t head, const float *q, double *o)
{
    const struct backend_shape *s = &rig->toy->shape;
    uint32_t kv_head = head / (s->head_count / s->kv_head_count);
    double weights[LENGTH_MAX], total = 0, most = -1e300, size = 0, scores = 1;
    for (uint32_t t = 0; t <= position; t++) {
        float key[256];
        token_read(rig, p, layer, 0, kv_head, t, key);
        double dot = 0;
        for (uint32_t d = 0; d < s->head_dim; d++)
            dot += (double)q[d] * (double)key[d];
        weights[t] = dot / sqrt(s->head_dim);
        most = fmax(most, weights[t]);
        scores = fmax(scores, fabs(weights[t]));
    }
    for (uint32_t t = 0; t <= position; t++) {
        weights[t] = exp(weights[t] - most);
        total += weights[t];
    }
    memset(o, 0, s->head_dim * sizeof(*o));
    for (uint32_t t = 0; t <= position; t++) {
        float value[256];
        token_read(rig, p, layer, 1, kv_head, t, value);
        for (uint32_t d = 0; d < s->head_dim; d++) {
            o[d] += weights[t] / total * (double)value[d];
            size = fmax(size, fabs((double)value[d]));
        }
    }
    return size * scores;
}

static const float *row_of(const struct backend_buffer *buffer, uint32_t row, uint32_t width);

/* y = W x + bias (+ before) in double. */
static void project_exact(const struct backend_weight *weight, const struct backend_weight *bias,
                          const float *x, const float *before, const float *y, double tolerance,
                          const char *what)
{
    float *row = malloc(weight->columns * sizeof(float));
    for (uint32_t n = 0; n < weight->rows; n++) {
        dequant_row(weight->type,
                    (const uint8_t *)weight->data +
                        n * dtype_row_bytes(weight->type, weight->columns),
                    weight->columns, row);
        double sum = bias != NULL ? (double)((const float *)bias->data)[n] : 0, size = fabs(sum);
        for (uint32_t k = 0; k < weight->columns; k++) {
            sum += (double)row[k] * (double)x[k];
            size += fabs((double)row[k] * (double)x[k]);
        }
        if (before != NULL) {
            sum += (double)before[n];
            size += fabs((double)before[n]);
        }
        near((double)y[n], sum, size, tolerance, what);
    }
    free(row);
}

/* The backend's own struct is private; an output buffer's rows are public, so rows are looked at by
 * copying a buffer to an output buffer of its width. */
#include "backend/cpu/cpu_state.h"

static const float *row_of(const struct backend_buffer *buffer, uint32_t row, uint32_t width)
{
    assert_int_equal(buffer->width, width);
    return buffer_row(buffer, row);
}

static void check_operations(const struct toy *toy, const char *kernels, const char *variant,
                             uint32_t threads, double project_tolerance)
{
    struct rig rig;
    rig_open(&rig, toy, kernels, variant, threads);
    block_id next = 0;
    struct prompt p;
    prompt_make(&p, toy, 70, &next);
    uint32_t rows = p.length, outputs[1] = {rows - 1};
    struct step_sequence sequence = {0, rows, 0, p.blocks, TABLE_MAX};
    struct step step = {rows, p.tokens, 1, &sequence, 1, outputs, NULL, NULL, NULL};
    struct backend *b = rig.backend;
    const struct backend_calls *calls = b->calls;
    const struct backend_shape *s = &toy->shape;
    uint32_t q_width = s->head_count * s->head_dim, kv_width = s->kv_head_count * s->head_dim;
    float *before = malloc((size_t)rows * (q_width + kv_width + toy->ffn) * sizeof(float));

    calls->step_begin(b, &step);
    calls->embed(b, rig.embedding, rig.x);
    calls->norm(b, rig.x, rig.tensors[0][0], rig.normed);
    for (uint32_t r = 0; r < rows; r += 7) {
        float row[1024];
        dequant_row(toy->embedding.type,
                    (const uint8_t *)toy->embedding.data +
                        p.tokens[r] * dtype_row_bytes(toy->embedding.type, toy->width),
                    toy->width, row);
        assert_same_bits(row, row_of(rig.x, r, toy->width), toy->width, "embed");
        double squares = 0;
        for (uint32_t i = 0; i < toy->width; i++)
            squares += (double)row[i] * (double)row[i];
        for (uint32_t i = 0; i < toy->width; i++)
            near((double)row_of(rig.normed, r, toy->width)[i],
                 (double)row[i] / sqrt(squares / toy->width + 1e-5) *
                     (double)((const float *)toy->layers[0].attention_norm.data)[i],
                 1 + fabs((double)row[i]), 1e-5, "norm");
    }
    const struct backend_projection qkv[] = {{rig.tensors[0][1], rig.tensors[0][4], rig.q, false},
                                             {rig.tensors[0][2], NULL, rig.k, false},
                                             {rig.tensors[0][3], NULL, rig.v, false}};
    calls->project(b, rig.normed, qkv, 3);
    for (uint32_t r = 0; r < rows; r += 23) {
        const float *x = row_of(rig.normed, r, toy->width);
        project_exact(&toy->layers[0].q, &toy->layers[0].q_bias, x, NULL, row_of(rig.q, r, q_width),
                      project_tolerance, "q");
        project_exact(&toy->layers[0].k, NULL, x, NULL, row_of(rig.k, r, kv_width),
                      project_tolerance, "k");
        project_exact(&toy->layers[0].v, NULL, x, NULL, row_of(rig.v, r, kv_width),
                      project_tolerance, "v");
    }
    for (uint32_t r = 0; r < rows; r++) {
        memcpy(before + r * q_width, row_of(rig.q, r, q_width), q_width * sizeof(float));
        memcpy(before + rows * q_width + r * kv_width, row_of(rig.k, r, kv_width),
               kv_width * sizeof(float));
    }
    calls->rope_store(b, 0, rig.q, rig.k, rig.v, NULL, NULL);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t i = 0; i < s->rope_dims / 2; i++) {
            double angle = r * pow(10000, -2.0 * i / s->rope_dims);
            bool pairs = s->rope_style == ROPE_PAIRS;
            uint32_t a = pairs ? 2 * i : i, c = pairs ? 2 * i + 1 : i + s->rope_dims / 2;
            const float *from = before + r * q_width, *to = row_of(rig.q, r, q_width);
            near((double)to[a], (double)from[a] * cos(angle) - (double)from[c] * sin(angle),
                 fabs((double)from[a]) + fabs((double)from[c]), 3e-7, "rope");
            near((double)to[c], (double)from[a] * sin(angle) + (double)from[c] * cos(angle),
                 fabs((double)from[a]) + fabs((double)from[c]), 3e-7, "rope");
        }
        for (uint32_t plane = 0; plane < 2; plane++) {
            for (uint32_t h = 0; h < s->kv_head_count; h++) {
                float numbers[256];
                const uint8_t *stored = token_read(&rig, &p, 0, plane, h, r, numbers);
                stored_check(s->kv_dtype, stored, numbers,
                             row_of(plane ? rig.v : rig.k, r, kv_width) + h * s->head_dim,
                             s->head_dim);
            }
        }
    }
    calls->attend(b, 0, rig.q, rig.o);
    for (uint32_t r = 0; r < rows; r += 3) {
        for (uint32_t h = 0; h < s->head_count; h++) {
            double exact[256];
            double size =
                attend_exact(&rig, &p, 0, r, h, row_of(rig.q, r, q_width) + h * s->head_dim, exact);
            for (uint32_t d = 0; d < s->head_dim; d++)
                near((double)row_of(rig.o, r, q_width)[h * s->head_dim + d], exact[d], size, 2e-6,
                     "attend");
        }
    }
    for (uint32_t r = 0; r < rows; r++)
        memcpy(before + r * toy->width, row_of(rig.x, r, toy->width), toy->width * sizeof(float));
    const struct backend_projection o = {rig.tensors[0][6], NULL, rig.x, true};
    calls->project(b, rig.o, &o, 1);
    for (uint32_t r = 0; r < rows; r += 23)
        project_exact(&toy->layers[0].o, NULL, row_of(rig.o, r, q_width), before + r * toy->width,
                      row_of(rig.x, r, toy->width), project_tolerance, "o");
    assert_int_equal(calls->step_submit(b), OK);
    assert_int_equal(calls->step_wait(b), OK);
    struct backend_counters counters;
    calls->counters(b, &counters);
    assert_true(counters.operations > 0 && counters.bytes > 0);
    free(before);
    free(p.logits);
    rig_close(&rig);
}

/* All classes; int8's bound is that of its rounding, 1/254 of the largest of 32 activations, bf16's
 * 1/256 of each. */
static void test_operations(void **state)
{
    (void)state;
    const char *names[CPU_VARIANTS_MAX];
    uint32_t variants = backend_cpu_variants(names);
    for (size_t t = 0; t < TYPE_COUNT; t++) {
        struct toy toy;
        toy_make(&toy, all_types[t], 6, 2, 32, 16, t % 2 == 0, t % 3 == 0 ? DTYPE_Q8_0 : DTYPE_F16);
        for (uint32_t v = SLOW_BUILD ? variants - 1 : 0; v < variants; v++) {
            check_operations(&toy, "float", names[v], 1 + v % 2, 1e-5);
            check_operations(&toy, "int8", names[v], 1 + v % 3, 2e-2);
            if (all_types[t] == DTYPE_BF16)
                check_operations(&toy, "bf16", names[v], 1 + v % 3, 0x1p-8 + 1e-5);
        }
        toy_free(&toy);
    }
}

/* ---- the same bits --------------------------------------------------------------------------- */

/* Run prompts in steps: chunk rows of each at a time (0: at random), alone or together. */
static void run_prompts(struct rig *rig, struct prompt *prompts, uint32_t count, uint32_t chunk,
                        bool together)
{
    for (uint32_t i = 0; i < count; i++)
        prompts[i].done = 0;
    for (;;) {
        uint32_t rows[SEQUENCES_MAX] = {0}, sum = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t left = prompts[i].length - prompts[i].done;
            uint32_t take = chunk > 0 ? chunk : 1 + random_below(random_below(3) ? 5 : 120);
            take = take < left ? take : left;
            if (sum + take > ROWS_MAX || (!together && sum > 0))
                take = 0;
            rows[i] = take;
            sum += take;
        }
        if (sum == 0)
            return;
        run_rows(rig, prompts, rows, count);
    }
}

static void same_everywhere(const struct toy *toy, const char *kernels)
{
    enum { PROMPTS = 4 };
    const char *names[CPU_VARIANTS_MAX];
    uint32_t variants = backend_cpu_variants(names);
    struct prompt prompts[PROMPTS];
    const uint32_t lengths[PROMPTS] = {290, 1, 37, 64};
    block_id next = 0;
    for (uint32_t i = 0; i < PROMPTS; i++)
        prompt_make(&prompts[i], toy, lengths[i], &next);

    float *expected[PROMPTS];
    struct rig rig;
    rig_open(&rig, toy, kernels, SLOW_BUILD && variants > 1 ? names[1] : "scalar", 2);
    run_prompts(&rig, prompts, PROMPTS, LENGTH_MAX, false);
    rig_close(&rig);
    for (uint32_t i = 0; i < PROMPTS; i++) {
        expected[i] = prompts[i].logits;
        prompts[i].logits = malloc((size_t)lengths[i] * VOCABULARY * sizeof(float));
        for (uint32_t j = 0; j < lengths[i] * VOCABULARY; j++)
            assert_true(isfinite(expected[i][j]));
    }

    static const struct {
        uint32_t chunk;
        bool together;
    } ways[] = {{LENGTH_MAX, false}, {1, true}, {3, true}, {64, true}, {0, true}, {0, true}};
    for (uint32_t v = SLOW_BUILD ? variants - 1 : 1; v < variants; v++) {
        for (uint32_t threads = SLOW_BUILD ? 3 : 1; threads <= 4; threads++) {
            rig_open(&rig, toy, kernels, names[v], threads);
            for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
                if (ways[way].chunk == 1 && threads > 2)
                    continue;
                memset(rig.pool.host, 0xff, rig.pool.bytes);
                run_prompts(&rig, prompts, PROMPTS, ways[way].chunk, ways[way].together);
                for (uint32_t i = 0; i < PROMPTS; i++) {
                    char what[128];
                    snprintf(what, sizeof(what), "%s %s threads=%u way=%zu prompt=%u", kernels,
                             names[v], threads, way, i);
                    assert_same_bits(expected[i], prompts[i].logits,
                                     (size_t)lengths[i] * VOCABULARY, what);
                }
            }
            rig_close(&rig);
        }
    }
    for (uint32_t i = 0; i < PROMPTS; i++) {
        free(expected[i]);
        free(prompts[i].logits);
    }
}

struct toy_kind {
    enum dtype type;
    uint32_t heads, kv_heads, head_dim, block_tokens;
    bool qwen;
    enum dtype kv_dtype;
};

static void test_same_bits(const char *kernels, const struct toy_kind *kinds, size_t count)
{
    for (size_t i = 0; i < (SLOW_BUILD ? 1 : count); i++) {
        struct toy toy;
        toy_make(&toy, kinds[i].type, kinds[i].heads, kinds[i].kv_heads, kinds[i].head_dim,
                 kinds[i].block_tokens, kinds[i].qwen, kinds[i].kv_dtype);
        same_everywhere(&toy, kernels);
        toy_free(&toy);
    }
}

static void test_same_bits_float(void **state)
{
    (void)state;
    static const struct toy_kind kinds[] = {{DTYPE_Q4_1, 9, 3, 16, 16, false, DTYPE_F16},
                                            {DTYPE_F16, 4, 4, 20, 8, true, DTYPE_F16},
                                            {DTYPE_F32, 5, 1, 8, 16, false, DTYPE_F16}};
    test_same_bits("float", kinds, sizeof(kinds) / sizeof(kinds[0]));
}

static void test_same_bits_int8(void **state)
{
    (void)state;
    static const struct toy_kind kinds[] = {{DTYPE_Q4_1, 9, 3, 16, 16, false, DTYPE_F16},
                                            {DTYPE_Q8_0, 8, 2, 24, 32, true, DTYPE_F16},
                                            {DTYPE_Q6_K, 4, 2, 64, 16, true, DTYPE_F16}};
    test_same_bits("int8", kinds, sizeof(kinds) / sizeof(kinds[0]));
}

static void test_same_bits_bf16(void **state)
{
    (void)state;
    static const struct toy_kind kinds[] = {{DTYPE_BF16, 9, 3, 16, 16, false, DTYPE_F16},
                                            {DTYPE_BF16, 4, 4, 20, 8, true, DTYPE_F16},
                                            {DTYPE_Q8_0, 8, 2, 24, 32, true, DTYPE_F16}};
    test_same_bits("bf16", kinds, sizeof(kinds) / sizeof(kinds[0]));
}

static void test_same_bits_q8_0_pool(void **state)
{
    (void)state;
    static const struct toy_kind kinds[] = {{DTYPE_Q4_1, 9, 3, 64, 16, false, DTYPE_Q8_0},
                                            {DTYPE_Q8_0, 8, 2, 32, 8, true, DTYPE_Q8_0},
                                            {DTYPE_F16, 5, 1, 96, 32, true, DTYPE_Q8_0}};
    test_same_bits("int8", kinds, sizeof(kinds) / sizeof(kinds[0]));
}

/* The bits of a class are the same on every machine and in every version: blocks computed elsewhere
 * or earlier are taken for our own. Who changes the arithmetic on purpose gives the class another
 * name, and this test another number. */
static void check_bits(const char *kernels, enum dtype type, enum dtype kv_dtype, uint64_t expected)
{
    struct toy toy;
    struct rig rig;
    struct prompt prompt;
    block_id next = 0;
    random_state = 42;
    toy_make(&toy, type, 6, 2, kv_dtype == DTYPE_Q8_0 ? 64 : 24, 16, true, kv_dtype);
    prompt_make(&prompt, &toy, 300, &next);
    rig_open(&rig, &toy, kernels, NULL, 2);
    run_prompts(&rig, &prompt, 1, 300, false);
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a over the words */
    for (size_t i = 0; i < (size_t)prompt.length * VOCABULARY; i++)
        hash = (hash ^ float_bits(prompt.logits[i])) * 0x100000001b3u;
    if (hash != expected)
        fail_msg("%s: the bits of the logits hash to 0x%016llx, expected 0x%016llx", kernels,
                 (unsigned long long)hash, (unsigned long long)expected);
    free(prompt.logits);
    rig_close(&rig);
    toy_free(&toy);
}

static void test_known_bits(void **state)
{
    (void)state;
    check_bits("float", DTYPE_Q4_1, DTYPE_F16, 0xbcfef233d74ee748u);
    check_bits("int8", DTYPE_Q4_1, DTYPE_F16, 0xf20f7b2d201aea00u);
    check_bits("int8", DTYPE_Q4_1, DTYPE_Q8_0, 0x92b3aa31648ec76du);
    check_bits("bf16", DTYPE_BF16, DTYPE_F16, 0xcd228933778caeedu);
}

int main(void)
{
    const char *names[CPU_VARIANTS_MAX];
    variants_here(names);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),     cmocka_unit_test(test_same_bits_float),
        cmocka_unit_test(test_same_bits_int8), cmocka_unit_test(test_same_bits_q8_0_pool),
        cmocka_unit_test(test_same_bits_bf16), cmocka_unit_test(test_known_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
