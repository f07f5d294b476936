/* backend/cuda/band.cu - which operations of a step of several rows become a band
 * (band_hopper.cu): as line.cu does for one row, and by its calls.
 *
 * A band begins with a product that is added to its y. What follows belongs to it while it is a
 * norm of that y, products of the normed rows, a gate of these, or another product that is added;
 * it may end with the rotation of q and k. The normed rows are never stored: their buffer holds
 * what band_hopper.cu multiplies. */
#include "backend/cuda/band.cuh"

#define ROWS_MIN 2u

struct cuda_band {
    band_args args;
    float *squares; /* of one phase after another */
    /* of the last phase */
    const struct backend_buffer *y;
    const struct backend_buffer *gate, *up, *k, *v;
    /* the last norm: of products that follow, who read y; else of rows_norm */
    const struct backend_buffer *norm_x;
    const struct backend_tensor *norm_weight;
    struct backend_buffer *norm_y;
    bool norm_taken;
    uint32_t norm_phase;
};

#define SQUARES (BAND_WIDTH_MAX / BAND_TILE * BAND_ROWS) /* of a phase */

bool band_open(struct cuda_backend *cuda)
{
    uint32_t blocks = (uint32_t)cuda->processors;
    size_t met_bytes = (1 + blocks / BAND_PARTS) * sizeof(unsigned long long);
    cuda->band = (struct cuda_band *)calloc(1, sizeof(*cuda->band));
    void *met = device_take(cuda, met_bytes);
    void *squares = device_take(cuda, (size_t)BAND_PHASES * SQUARES * sizeof(float));
    void *sums = device_take(cuda, (size_t)blocks * BAND_PLACES * BAND_SUMS * sizeof(float));
    if (cuda->band == NULL || met == NULL || squares == NULL || sums == NULL)
        return cuda_good(cuda, cudaErrorMemoryAllocation, "memory for steps");
    cuda->band->args.met = (unsigned long long *)met;
    cuda->band->args.sums = (float *)sums;
    cuda->band->squares = (float *)squares;
    return cuda_good(cuda, cudaMemset(met, 0, met_bytes), "memory for steps");
}

void band_close(struct cuda_backend *cuda)
{
    free(cuda->band);
}

/* Steps that become graphs, in bf16: unscaled, what f16 holds might not be enough. */
bool band_can(const struct cuda_backend *cuda)
{
    return cuda->band != NULL && cuda->bf16 && launches(cuda) && cuda->graph != NULL &&
           cuda->rows >= ROWS_MIN && cuda->rows <= BAND_ROWS && cuda->outputs == cuda->rows;
}

static band_phase *phase_last(struct cuda_band *band)
{
    return band->args.count > 0 ? &band->args.phases[band->args.count - 1] : NULL;
}

/* Somebody might still want the normed rows themselves. */
static bool norm_waits(const struct cuda_band *band)
{
    return band->norm_y != NULL && !band->norm_taken;
}

static void band_launch(struct cuda_backend *cuda)
{
    struct cuda_band *band = cuda->band;
    if (band->args.count > 0) {
        band->args.rows = cuda->rows;
        band->args.box_rows = (cuda->rows + 7) / 8 * 8;
        band->args.epsilon = cuda->shape.norm_epsilon;
        band_hopper(cuda, &band->args);
    }
    band->args.count = 0;
    band->y = band->gate = band->k = NULL;
}

void band_flush(struct cuda_backend *cuda)
{
    struct cuda_band *band = cuda->band;
    if (band == NULL)
        return;
    if (cuda->failed == OK)
        band_launch(cuda);
    if (cuda->failed == OK && norm_waits(band))
        rows_norm(cuda, band->norm_x, band->norm_weight, band->norm_y);
    band->args.count = 0;
    band->norm_y = NULL;
}

bool band_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y)
{
    struct cuda_band *band = cuda->band;
    band_phase *last = phase_last(band);
    if (last == NULL || last->kind != BAND_ADD || band->y != x || last->norm != NULL ||
        x->width % BAND_TILE != 0 || last->tiles * BAND_TILE != x->width ||
        norm_waits(band) || y->width != x->width ||
        (uintptr_t)weight->data % 16 != 0) {
        band_flush(cuda);
        return false;
    }
    y->halves = true;
    y->data = y->storage;
    y->stride = y->width;
    last->norm = (const float *)weight->data;
    last->normed = y->data;
    last->normed_stride = y->stride;
    last->squares = band->squares + (size_t)(band->args.count - 1) * SQUARES;
    band->norm_phase = band->args.count - 1;
    band->norm_x = x;
    band->norm_weight = weight;
    band->norm_y = y;
    band->norm_taken = false;
    return true;
}

static bool product_fits(const struct cuda_band *band, const struct product *product,
                         uint32_t outputs)
{
    const struct backend_tensor *w = product->weights[0];
    const struct backend_buffer *x = product->x, *y = product->ys[0];
    bool normed = band->norm_y != NULL && x == band->norm_y;
    for (uint32_t i = 0; i < product->count; i++)
        if (product->biases[i] != NULL)
            return false;
    return w->type == DTYPE_BF16 && w->columns % 8 == 0 && outputs % BAND_TILE == 0 &&
           outputs <= (product->accumulate ? BAND_WIDTH_MAX : UINT32_MAX) && x->halves &&
           !x->outputs && x->stride % 8 == 0 && (uintptr_t)x->data % 16 == 0 &&
           y->halves != product->accumulate && !y->outputs && y->stride % 4 == 0 &&
           (uintptr_t)y->data % 16 == 0 && (product->count == 1 || product_joint(product)) &&
           product->accumulate != normed && (normed || product->accumulate) &&
           (product->count == 1 || !product->accumulate);
}

bool band_product(struct cuda_backend *cuda, const struct product *product)
{
    struct cuda_band *band = cuda->band;
    const struct backend_tensor *w = product->weights[0];
    const struct backend_buffer *x = product->x, *y = product->ys[0];
    uint32_t outputs = 0;
    for (uint32_t i = 0; i < product->count; i++)
        outputs += product->weights[i]->rows;
    if (!product_fits(band, product, outputs)) {
        band->norm_taken = band->norm_taken && x != band->norm_y; /* it reads y */
        band_flush(cuda);
        return false;
    }
    if (band->args.count == BAND_PHASES && !product->accumulate) {
        band->norm_taken = false; /* what it needs of the norm would be gone */
        band_flush(cuda);
        return false;
    }
    if (band->args.count == BAND_PHASES || (product->accumulate && norm_waits(band)))
        band_flush(cuda);
    uint32_t n = band->args.count;
    band_phase *phase = &band->args.phases[n];
    *phase = {};
    if (!box_map_make(cuda, w->data, w->columns, outputs, (uint64_t)w->columns * 2, BAND_TILE / 2,
                      &band->args.w[n]) ||
        !box_map_make(cuda, x->data, w->columns, product->rows, (uint64_t)x->stride * 2,
                      (product->rows + 7) / 8 * 8, &band->args.x[n]))
        return true;
    phase->kind = product->accumulate ? BAND_ADD : BAND_STORE;
    phase->y = y->data;
    phase->y_stride = y->stride;
    phase->tiles = outputs / BAND_TILE;
    phase->chunks = (w->columns + CHUNK - 1) / CHUNK;
    if (!product->accumulate) {
        const band_phase *normed = &band->args.phases[band->norm_phase];
        phase->squares = normed->squares;
        phase->x_tiles = normed->tiles;
        band->norm_taken = true;
    }
    bool two = product->count == 2 && product->weights[0]->rows == product->weights[1]->rows;
    band->y = y;
    band->gate = two ? product->ys[0] : NULL;
    band->up = two ? product->ys[1] : NULL;
    band->k = product->count == 3 ? product->ys[1] : NULL;
    band->v = product->count == 3 ? product->ys[2] : NULL;
    band->args.count++;
    return true;
}

bool band_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h)
{
    struct cuda_band *band = cuda->band;
    band_phase *last = phase_last(band);
    if (last == NULL || last->kind != BAND_STORE || band->gate != gate || band->up != up ||
        gate->width * 2 != last->tiles * BAND_TILE || gate->width % (BAND_TILE / 2) != 0) {
        band_flush(cuda);
        return false;
    }
    if (h != gate) {
        h->halves = true;
        h->data = h->storage;
        h->stride = h->width;
    }
    last->kind = BAND_GATE;
    last->up = gate->width;
    last->y = h->data;
    last->y_stride = h->stride;
    band->gate = NULL;
    return true;
}

bool band_rope_store(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm)
{
    const struct backend_shape *shape = &cuda->shape;
    struct cuda_band *band = cuda->band;
    band_phase *last = phase_last(band);
    if (last == NULL || last->kind != BAND_STORE || band->y != q || band->k != k ||
        band->v != v || shape->head_dim != BAND_TILE || shape->rope_dims != BAND_TILE ||
        last->tiles != shape->head_count + 2 * shape->kv_head_count ||
        q->width != shape->head_count * BAND_TILE)
        return false;
    band->args.rope = rope_describe(cuda, layer, q_norm, k_norm);
    last->kind = BAND_TURN;
    return true;
}
