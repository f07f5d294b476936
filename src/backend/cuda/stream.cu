/* backend/cuda/stream.cu - y = W x for few rows: every weight is read once, at memory's rate.
 *
 * A block of 8 warps makes 16 outputs of up to 8 * NT rows of x; each warp sums one eighth of the
 * columns on the tensor cores, and the eight sums are added in order. Which columns a warp takes
 * depends on their number only, and a row of x is a column of its own in every mma: a row's bits do
 * not depend on what else is in the step. stream.cuh has the mma's side of it; here weights go
 * straight from memory to registers. Halves on sm_90 have a kernel of their own, in
 * stream_hopper.cu. */
#include "backend/cuda/stream.cuh"

__device__ inline uint4 load_once(const void *at)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

/* The scales of a unit of one row. */
template <int FORM> __device__ inline uint4 scales_load(const char *at)
{
    if (FORM == FORM_Q8)
        return make_uint4(__ldg((const uint32_t *)at), 0, 0, 0);
    if (FORM == FORM_Q4K)
        return __ldg((const uint4 *)at);
    return make_uint4(0, 0, 0, 0);
}

/* Where a row's first unit lies, and how far it is to the next. */
template <int FORM>
__device__ inline const char *row_at(const stream_part &p, uint32_t row, uint32_t units)
{
    if (FORM == FORM_HALVES)
        return (const char *)p.data + (size_t)row * units * UNIT_BYTES;
    return (const char *)p.data + (size_t)(row / OCTET) * units * octet_bytes(FORM) +
           row % OCTET * UNIT_BYTES;
}
template <int FORM> __device__ constexpr uint32_t unit_step(void)
{
    return FORM == FORM_HALVES ? UNIT_BYTES : octet_bytes(FORM);
}

/* What a thread loads of U units on end of two rows, low and high. */
template <int FORM, int U> struct weights_held {
    uint4 low[U], high[U], scales_low[U], scales_high[U];

    __device__ inline void load(const stream_part &p, uint32_t row_low, uint32_t row_high,
                                uint32_t units, uint32_t at, uint32_t end)
    {
        constexpr uint32_t STEP = unit_step<FORM>();
        uint32_t t = threadIdx.x % 4;
        const char *w_low = row_at<FORM>(p, row_low, units) + t * 16;
        const char *w_high = row_at<FORM>(p, row_high, units) + t * 16;
        /* from a thread's 16 bytes to its row's scales */
        uint32_t to_low = scale_at(FORM, row_low, 0) - row_low % OCTET * UNIT_BYTES - t * 16;
        uint32_t to_high = scale_at(FORM, row_high, 0) - row_high % OCTET * UNIT_BYTES - t * 16;
#pragma unroll
        for (uint32_t u = 0; u < U; u++) {
            uint32_t unit = min(at + u, end - 1);
            low[u] = load_once(w_low + unit * STEP);
            high[u] = load_once(w_high + unit * STEP);
            scales_low[u] = scales_load<FORM>(w_low + unit * STEP + to_low);
            scales_high[u] = scales_load<FORM>(w_high + unit * STEP + to_high);
        }
    }
};

/* Units begin .. end of a tile. EARLY: the first weights are asked for before x is there. */
template <typename T, int FORM, int NT, bool EARLY>
__device__ inline void units_sum(const stream_args &args, const stream_part &p, uint32_t tile,
                                 uint32_t x_first, uint32_t units, uint32_t begin, uint32_t end,
                                 float sums[NT][4])
{
    constexpr uint32_t PIECES = unit_pieces(FORM);
    constexpr uint32_t U = FORM == FORM_Q4K ? (NT <= 1 ? 2 : 1) : NT <= 2 ? 4 : 2;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t low = min(tile * MMA_ROWS + g, p.rows - 1);
    uint32_t high = min(tile * MMA_ROWS + g + 8, p.rows - 1);
    const T *x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        x[n] = (const T *)args.x +
               (size_t)min(x_first + n * 8 + g, args.x_rows - 1) * args.x_stride + t * 8;
    weights_held<FORM, U> w;
    if (EARLY && begin < end)
        w.load(p, low, high, units, begin, end);
    chain_wait();
    for (uint32_t at = begin; at < end; at += U) {
        if (!EARLY || at > begin)
            w.load(p, low, high, units, at, end);
#pragma unroll
        for (uint32_t u = 0; u < U; u++) {
            if (at + u >= end)
                break;
            uint4 v[PIECES][NT];
#pragma unroll
            for (uint32_t k = 0; k < PIECES; k++)
#pragma unroll
                for (int n = 0; n < NT; n++)
                    v[k][n] = *(const uint4 *)(x[n] + (at + u) * unit_columns(FORM) + k * 32);
            unit_add<T, FORM, NT>(w.low[u], w.high[u], w.scales_low[u], w.scales_high[u], v, sums);
        }
    }
}

/* ---- one product ---- */

template <typename T, int FORM, int NT, bool EARLY>
__global__ void __launch_bounds__(WARPS * 32)
    stream_kernel(const __grid_constant__ stream_args args)
{
    __shared__ float shared[WARPS][MMA_ROWS][8 * NT + 1];
    uint32_t warp = threadIdx.x / 32, x_first = blockIdx.y * 8 * NT;
    const stream_part &p = part_of(args, blockIdx.x);
    uint32_t tile = blockIdx.x - p.tiles_before;
    float sums[NT][4] = {};
    uint32_t units = args.columns / unit_columns(FORM);
    chain_next();
    units_sum<T, FORM, NT, EARLY>(args, p, tile, x_first, units, warp * units / WARPS,
                           (warp + 1) * units / WARPS, sums);
    sums_show<NT>(sums, shared[warp]);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < MMA_ROWS * 8 * NT; i += WARPS * 32) {
        uint32_t out = i % MMA_ROWS, row = i / MMA_ROWS;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += shared[w][out][row];
        sum_store<T>(args, p, x_first + row, tile * MMA_ROWS + out, sum);
    }
}

/* Any shape, one warp an output: what the kernel above is not made for. */
template <typename T>
__global__ void plain_kernel(stream_part p, const T *x, uint32_t x_stride, uint32_t columns,
                             bool accumulate, bool halves)
{
    uint32_t out = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (out >= p.rows)
        return;
    const T *w = (const T *)p.data + (size_t)out * columns;
    const T *from = x + (size_t)blockIdx.y * x_stride;
    float sum = 0;
    for (uint32_t k = lane; k < columns; k += 32)
        sum = fmaf(to_float(w[k]), to_float(from[k]), sum);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane != 0)
        return;
    if (p.bias != nullptr)
        sum += p.bias[out];
    size_t at = (size_t)blockIdx.y * p.y_stride + out;
    if (halves)
        ((T *)p.y)[at] = from_float<T>(sum);
    else
        ((float *)p.y)[at] = accumulate ? ((float *)p.y)[at] + sum : sum;
}

template <typename T>
static void plain_run(struct cuda_backend *cuda, const struct stream_args *args)
{
    for (uint32_t i = 0; i < args->part_count; i++) {
        dim3 grid((args->parts[i].rows + 7) / 8, args->x_rows);
        plain_kernel<T><<<grid, 256, 0, cuda->stream>>>(args->parts[i], (const T *)args->x,
                                                        args->x_stride, args->columns,
                                                        args->accumulate, args->halves);
    }
}

template <typename T, int FORM>
static void stream_run(struct cuda_backend *cuda, const struct stream_args *args)
{
    uint32_t rows = args->x_rows;
    if (rows == 1)
        chain(cuda, stream_kernel<T, FORM, 1, true>, dim3(args->tiles, 1), WARPS * 32, 0, *args);
    else if (rows <= 8)
        chain(cuda, stream_kernel<T, FORM, 1, false>, dim3(args->tiles, 1), WARPS * 32, 0, *args);
    else if (rows <= 16)
        chain(cuda, stream_kernel<T, FORM, 2, false>, dim3(args->tiles, 1), WARPS * 32, 0, *args);
    else
        chain(cuda, stream_kernel<T, FORM, 4, false>, dim3(args->tiles, (rows + 31) / 32),
              WARPS * 32, 0, *args);
}

/* The columns and strides are whole 16-byte pieces for every thread. */
static bool shape_fits(const struct product *product)
{
    uint32_t whole = unit_columns(form_of(product->weights[0]->type));
    return product->weights[0]->columns % whole == 0 && product->x->stride % 8 == 0;
}

/* Up to how many rows the products are made here; with stream_hopper.cu more than 8 rows of x are
 * too much for the L2 cache beside W. */
uint32_t stream_rows(const struct cuda_backend *cuda, const struct product *product)
{
    return shape_fits(product) && stream_hopper_can(cuda, product) ? 8 : 16;
}

void stream_describe(const struct product *product, struct stream_args *args)
{
    *args = {};
    args->part_count = product->count;
    args->x = product->x->data;
    args->x_stride = product->x->stride;
    args->x_rows = product->rows;
    args->columns = product->weights[0]->columns;
    args->accumulate = product->accumulate;
    args->halves = product->ys[0]->halves;
    for (uint32_t i = 0; i < product->count; i++) {
        struct backend_buffer *y = product->ys[i];
        struct stream_part *part = &args->parts[i];
        part->data = product->weights[i]->data;
        part->bias = product->biases[i] != NULL ? (const float *)product->biases[i]->data : NULL;
        part->y = y->data;
        part->rows = product->weights[i]->rows;
        part->y_stride = y->stride;
        part->tiles_before = args->tiles;
        args->tiles += (part->rows + MMA_ROWS - 1) / MMA_ROWS;
    }
}

void stream_product(struct cuda_backend *cuda, const struct product *product)
{
    struct stream_args args;
    stream_describe(product, &args);
    enum dtype type = product->weights[0]->type;
    if (!shape_fits(product))
        BY_TYPE(cuda, plain_run, cuda, &args);
    else if (stream_hopper_can(cuda, product))
        stream_hopper(cuda, &args);
    else if (type == DTYPE_Q8_0)
        stream_run<__half, FORM_Q8>(cuda, &args);
    else if (type == DTYPE_Q4_K)
        stream_run<__half, FORM_Q4K>(cuda, &args);
    else if (cuda->bf16)
        stream_run<__nv_bfloat16, FORM_HALVES>(cuda, &args);
    else
        stream_run<__half, FORM_HALVES>(cuda, &args);
    cuda_good(cuda, cudaGetLastError(), "product of few rows");
}
