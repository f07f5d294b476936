/* backend/cuda/line.cu - which operations of a step of one row become a line (line_hopper.cu).
 *
 * A backend keeps norm, product and gate back when a step has one row, until an operation comes
 * that is none of them: line_flush. A step's bits are others than those of the operations one by
 * one (a norm's and a product's sums have another order), so --deterministic has no lines. */
#include "backend/cuda/line.cuh"

struct cuda_line {
    line_args args;
    unsigned long long *met;
    /* the last norm: of products that follow, who read y; else of rows_norm */
    const struct backend_buffer *norm_x;
    const struct backend_tensor *norm_weight;
    struct backend_buffer *norm_y;
    bool norm_taken;
    const struct backend_buffer *last_x; /* of the last phase */
};

bool line_open(struct cuda_backend *cuda)
{
    if (!cuda->hopper || cuda->options.deterministic)
        return true;
    if (!band_open(cuda))
        return false;
    cuda->line = (struct cuda_line *)calloc(1, sizeof(*cuda->line));
    void *met = device_take(cuda, sizeof(unsigned long long));
    if (cuda->line == NULL || met == NULL)
        return cuda_good(cuda, cudaErrorMemoryAllocation, "memory for steps");
    cuda->line->met = (unsigned long long *)met;
    return cuda_good(cuda, cudaMemset(met, 0, sizeof(unsigned long long)), "memory for steps");
}

void line_close(struct cuda_backend *cuda)
{
    band_close(cuda);
    free(cuda->line);
}

/* Steps that become graphs. */
static bool line_can(const struct cuda_backend *cuda)
{
    return cuda->line != NULL && launches(cuda) && cuda->graph != NULL && cuda->rows == 1 &&
           cuda->outputs == 1;
}

/* What shared memory holds: line_shared, the longest row, its sums, and slots. */
static void places_choose(struct line_args *args)
{
    uint32_t columns = 0, stage = 0, groups = 0, halves = 0;
    for (uint32_t i = 0; i < args->count; i++) {
        const struct line_phase *phase = &args->phases[i];
        columns = phase->product.columns > columns ? phase->product.columns : columns;
        stage = stage_bytes(phase->form) > stage ? stage_bytes(phase->form) : stage;
        groups |= phase->form == FORM_Q4K;
        halves |= phase->form == FORM_HALVES;
    }
    args->row_at = (sizeof(struct line_shared) + 127) / 128 * 128;
    args->slots_at = args->row_at + (columns * 2 + 127) / 128 * 128;
    args->groups_at = groups ? args->slots_at : 0;
    args->slots_at += groups ? (columns / 32 * 4 + 127) / 128 * 128 : 0;
    args->slot_bytes = (stage + 127) / 128 * 128;
    args->slots = (SHARED_MOST - args->slots_at) / args->slot_bytes;
    if (args->slots > SLOTS_MAX)
        args->slots = SLOTS_MAX;
    args->under_way = halves ? UNDER_WAY_HALVES : UNDER_WAY_QUANTISED;
    if (args->under_way > args->slots / 2)
        args->under_way = args->slots / 2; /* as line_hopper.cu needs it */
}

static void line_launch(struct cuda_backend *cuda)
{
    struct line_args *args = &cuda->line->args;
    if (args->count == 0)
        return;
    uint32_t first = 0, blocks = (uint32_t)cuda->processors;
    for (uint32_t i = 0; i < args->count; i++) { /* a phase begins where the one before ended */
        args->phases[i].first = first;
        first = (first + args->phases[i].product.tiles) % blocks;
    }
    places_choose(args);
    args->epsilon = cuda->shape.norm_epsilon;
    args->met = cuda->line->met;
    line_hopper(cuda, args);
    args->count = 0;
}

void line_flush(struct cuda_backend *cuda)
{
    struct cuda_line *line = cuda->line;
    band_flush(cuda);
    if (line == NULL)
        return;
    if (cuda->failed == OK)
        line_launch(cuda);
    if (cuda->failed == OK && line->norm_y != NULL && !line->norm_taken)
        rows_norm(cuda, line->norm_x, line->norm_weight, line->norm_y);
    line->args.count = 0;
    line->norm_y = NULL;
}

void line_rope_store(struct cuda_backend *cuda, uint32_t layer, struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm)
{
    bool done = band_can(cuda) && band_rope_store(cuda, layer, q, k, v, q_norm, k_norm);
    line_flush(cuda);
    if (!done)
        rows_rope_store(cuda, layer, q, k, v, q_norm, k_norm);
}

bool line_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y)
{
    struct cuda_line *line = cuda->line;
    if (band_can(cuda))
        return band_norm(cuda, x, weight, y);
    if (!line_can(cuda))
        return false;
    if (line->norm_y != NULL && !line->norm_taken)
        line_flush(cuda);
    if (x->width % 4 != 0 || x->width > CONSUMERS * 32 * 4 * NORM_PIECES ||
        (uintptr_t)x->data % 16 != 0) {
        line_flush(cuda);
        return false;
    }
    y->halves = true;
    y->data = y->storage;
    y->stride = y->width;
    line->norm_x = x;
    line->norm_weight = weight;
    line->norm_y = y;
    line->norm_taken = false;
    return true;
}

static bool product_fits(const struct product *product, bool normed, int form)
{
    uint32_t columns = product->weights[0]->columns;
    return product->rows == 1 && columns * 2 <= ROW_BYTES_MAX &&
           columns % (form == FORM_HALVES ? 32 : 256) == 0 &&
           (normed || (uintptr_t)product->x->data % 16 == 0);
}

bool line_product(struct cuda_backend *cuda, const struct product *product)
{
    struct cuda_line *line = cuda->line;
    if (band_can(cuda))
        return band_product(cuda, product);
    if (!line_can(cuda))
        return false;
    struct line_args *args = &line->args;
    bool normed = product->x == line->norm_y;
    int form = form_of(product->weights[0]->type);
    if (!product_fits(product, normed, form)) {
        line->norm_taken = false; /* it reads y */
        line_flush(cuda);
        return false;
    }
    if (args->count == PHASES)
        line_launch(cuda);
    struct line_phase *phase = &args->phases[args->count];
    *phase = {};
    stream_describe(product, &phase->product);
    phase->form = (uint32_t)form;
    phase->fresh = args->count == 0 || product->x != line->last_x || (normed && !line->norm_taken);
    if (normed) {
        phase->product.x = line->norm_x->data;
        phase->norm = (const float *)line->norm_weight->data;
        line->norm_taken = true;
    }
    line->last_x = product->x;
    args->count++;
    return true;
}

bool line_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h)
{
    if (band_can(cuda))
        return band_gate(cuda, gate, up, h);
    if (!line_can(cuda))
        return false;
    struct line_args *args = &cuda->line->args;
    struct line_phase *phase = args->count > 0 ? &args->phases[args->count - 1] : NULL;
    struct stream_args *product = phase != NULL ? &phase->product : NULL;
    if (phase == NULL || phase->h != NULL || product->part_count != 2 || product->accumulate ||
        !product->halves || product->parts[0].y != gate->data || product->parts[1].y != up->data ||
        product->parts[0].rows != product->parts[1].rows || product->parts[0].rows % 8 != 0) {
        line_flush(cuda);
        return false;
    }
    if (h != gate) {
        h->halves = true;
        h->data = h->storage;
        h->stride = h->width;
    }
    phase->h = h->data;
    product->tiles = product->parts[0].rows / 8;
    return true;
}
