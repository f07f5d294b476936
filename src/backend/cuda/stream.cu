/* backend/cuda/stream.cu - y = W x for few rows: every weight is read once, at memory's rate.
 *
 * A block of 8 warps makes 16 outputs of up to 8 * NT rows of x; each warp sums one eighth of the
 * columns on the tensor cores, and the eight sums are added in order. Which columns a warp takes
 * depends on their number only, and a row of x is a column of its own in every mma: a row's bits do
 * not depend on what else is in the step.
 *
 *     mma m16n8k16   A = 16 rows of W x 16 columns,  B = 16 columns x 8 rows of x
 *
 * The columns of a sum may come in any order if W and x agree on it, so a thread loads 16
 * consecutive bytes of a row of W (8 columns, its part of two mmas) and the same 8 columns of x:
 * thread t of each four takes columns 8t .. 8t+7 of 32, straight from memory to registers.
 *
 * Quantised weights are laid out so by load.cu, and stay integers in the mma: the scale of 32
 * columns is applied to their sum. Q4_K's minimum is taken off with the sum of the same 32 of x,
 * which comes from an mma with ones. */
#include "backend/cuda/state.cuh"

#define WARPS 8
#define MMA_ROWS 16

struct part { /* of a joint product: one weight */
    const void *data;
    const __half *scales;
    const float *bias;
    void *y;
    uint32_t rows, y_stride, tiles_before;
};

struct stream_args {
    part parts[3];
    uint32_t part_count;
    const void *x;
    uint32_t x_stride, x_rows, columns;
    bool accumulate, halves;
};

template <typename T>
__device__ inline void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                           uint32_t b0, uint32_t b1);
template <>
__device__ inline void mma<__nv_bfloat16>(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                          uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ inline void mma<__half>(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint4 load_once(const void *at)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

__device__ inline uint4 load_x(const void *at)
{
    return __ldg((const uint4 *)at);
}

/* ---- bf16 and f16 ---- */

template <typename T, int NT>
__device__ inline void sum_halves(const stream_args &args, const part &p, uint32_t tile,
                                  uint32_t x_first, uint32_t begin, uint32_t end,
                                  float sums[NT][4])
{
    constexpr int U = NT <= 2 ? 4 : 2;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t low = min(tile * MMA_ROWS + g, p.rows - 1);
    uint32_t high = min(tile * MMA_ROWS + g + 8, p.rows - 1);
    const T *w_low = (const T *)p.data + (size_t)low * args.columns + t * 8;
    const T *w_high = (const T *)p.data + (size_t)high * args.columns + t * 8;
    const T *x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        x[n] = (const T *)args.x +
               (size_t)min(x_first + n * 8 + g, args.x_rows - 1) * args.x_stride + t * 8;
    uint32_t at = begin;
    for (; at + U <= end; at += U) {
        uint4 a[U], b[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            a[u] = load_once(w_low + (at + u) * 32);
            b[u] = load_once(w_high + (at + u) * 32);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint4 v = load_x(x[n] + (at + u) * 32);
                mma<T>(sums[n], a[u].x, b[u].x, a[u].y, b[u].y, v.x, v.y);
                mma<T>(sums[n], a[u].z, b[u].z, a[u].w, b[u].w, v.z, v.w);
            }
        }
    }
    for (; at < end; at++) {
        uint4 a = load_once(w_low + at * 32), b = load_once(w_high + at * 32);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint4 v = load_x(x[n] + at * 32);
            mma<T>(sums[n], a.x, b.x, a.y, b.y, v.x, v.y);
            mma<T>(sums[n], a.z, b.z, a.w, b.w, v.z, v.w);
        }
    }
}

/* ---- Q8_0 ---- */

/* Four int8 as four f16, exact. */
__device__ inline void bytes_to_halves(uint32_t bytes, uint32_t *low, uint32_t *high)
{
    bytes ^= 0x80808080u; /* 128 .. -128 as 0 .. 255, then 1024 + that is 0x6400 | it */
    uint32_t a = __byte_perm(bytes, 0x64646464u, 0x4140);
    uint32_t b = __byte_perm(bytes, 0x64646464u, 0x4342);
    const __half2 off = __half2half2(__ushort_as_half(0x6480)); /* 1152 */
    __half2 x = __hsub2(*(__half2 *)&a, off), y = __hsub2(*(__half2 *)&b, off);
    *low = *(uint32_t *)&x;
    *high = *(uint32_t *)&y;
}

template <int NT>
__device__ inline void group_q8(uint32_t low0, uint32_t low1, uint32_t high0, uint32_t high1,
                                float scale_low, float scale_high, const uint4 *v,
                                float sums[NT][4])
{
    uint32_t a[4], b[4];
    bytes_to_halves(low0, &a[0], &a[1]);
    bytes_to_halves(low1, &a[2], &a[3]);
    bytes_to_halves(high0, &b[0], &b[1]);
    bytes_to_halves(high1, &b[2], &b[3]);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float c[4] = {0, 0, 0, 0};
        mma<__half>(c, a[0], b[0], a[1], b[1], v[n].x, v[n].y);
        mma<__half>(c, a[2], b[2], a[3], b[3], v[n].z, v[n].w);
        sums[n][0] = fmaf(c[0], scale_low, sums[n][0]);
        sums[n][1] = fmaf(c[1], scale_low, sums[n][1]);
        sums[n][2] = fmaf(c[2], scale_high, sums[n][2]);
        sums[n][3] = fmaf(c[3], scale_high, sums[n][3]);
    }
}

/* begin and end count 64 columns. */
template <int NT>
__device__ inline void sum_q8(const stream_args &args, const part &p, uint32_t tile,
                              uint32_t x_first, uint32_t begin, uint32_t end, float sums[NT][4])
{
    constexpr int U = NT <= 2 ? 4 : 2;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t low = min(tile * MMA_ROWS + g, p.rows - 1);
    uint32_t high = min(tile * MMA_ROWS + g + 8, p.rows - 1);
    const int8_t *w_low = (const int8_t *)p.data + (size_t)low * args.columns + t * 16;
    const int8_t *w_high = (const int8_t *)p.data + (size_t)high * args.columns + t * 16;
    const __half2 *s_low = (const __half2 *)(p.scales + (size_t)low * (args.columns / 32));
    const __half2 *s_high = (const __half2 *)(p.scales + (size_t)high * (args.columns / 32));
    const __half *x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        x[n] = (const __half *)args.x +
               (size_t)min(x_first + n * 8 + g, args.x_rows - 1) * args.x_stride + t * 8;
    for (uint32_t at = begin; at < end; at += U) {
        uint4 a[U], b[U];
        __half2 sa[U], sb[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            uint32_t k = min(at + u, end - 1);
            a[u] = load_once(w_low + k * 64);
            b[u] = load_once(w_high + k * 64);
            sa[u] = __ldg(s_low + k);
            sb[u] = __ldg(s_high + k);
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (at + u >= end)
                break;
            uint4 v[NT];
#pragma unroll
            for (int n = 0; n < NT; n++)
                v[n] = load_x(x[n] + (at + u) * 64);
            group_q8<NT>(a[u].x, a[u].y, b[u].x, b[u].y, __low2float(sa[u]), __low2float(sb[u]), v,
                         sums);
#pragma unroll
            for (int n = 0; n < NT; n++)
                v[n] = load_x(x[n] + (at + u) * 64 + 32);
            group_q8<NT>(a[u].z, a[u].w, b[u].z, b[u].w, __high2float(sa[u]), __high2float(sb[u]),
                         v, sums);
        }
    }
}

/* ---- Q4_K ---- */

/* Eight nibbles (load.cu: nibble i and i + 4 are columns 2i and 2i + 1) as f16 pairs, exact. */
__device__ inline void nibbles_to_halves(uint32_t nibbles, uint32_t out[4])
{
    const __half2 off = __half2half2(__ushort_as_half(0x6400)); /* 1024 */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t pair = (nibbles >> (4 * i) & 0x000f000fu) | 0x64006400u;
        __half2 v = __hsub2(*(__half2 *)&pair, off);
        out[i] = *(uint32_t *)&v;
    }
}

/* begin and end count 128 columns: 16 bytes a thread, 8 columns of each of four groups. */
template <int NT>
__device__ inline void sum_q4k(const stream_args &args, const part &p, uint32_t tile,
                               uint32_t x_first, uint32_t begin, uint32_t end, float sums[NT][4])
{
    constexpr int U = NT <= 1 ? 2 : 1;
    const uint32_t ones = 0x3c003c00u;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t low = min(tile * MMA_ROWS + g, p.rows - 1);
    uint32_t high = min(tile * MMA_ROWS + g + 8, p.rows - 1);
    size_t row_bytes = args.columns / 2, row_groups = args.columns / 32;
    const char *w_low = (const char *)p.data + low * row_bytes + t * 16;
    const char *w_high = (const char *)p.data + high * row_bytes + t * 16;
    const __half2 *s_low = (const __half2 *)p.scales + low * row_groups;
    const __half2 *s_high = (const __half2 *)p.scales + high * row_groups;
    const __half *x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++)
        x[n] = (const __half *)args.x +
               (size_t)min(x_first + n * 8 + g, args.x_rows - 1) * args.x_stride + t * 8;
    for (uint32_t at = begin; at < end; at += U) {
        uint4 a[U], b[U], sa[U], sb[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            uint32_t k = min(at + u, end - 1);
            a[u] = load_once(w_low + k * 64);
            b[u] = load_once(w_high + k * 64);
            sa[u] = __ldg((const uint4 *)(s_low + k * 4));
            sb[u] = __ldg((const uint4 *)(s_high + k * 4));
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (at + u >= end)
                break;
            const uint32_t la[4] = {a[u].x, a[u].y, a[u].z, a[u].w};
            const uint32_t lb[4] = {b[u].x, b[u].y, b[u].z, b[u].w};
            const uint32_t ga[4] = {sa[u].x, sa[u].y, sa[u].z, sa[u].w};
            const uint32_t gb[4] = {sb[u].x, sb[u].y, sb[u].z, sb[u].w};
#pragma unroll
            for (int group = 0; group < 4; group++) {
                uint32_t wa[4], wb[4];
                nibbles_to_halves(la[group], wa);
                nibbles_to_halves(lb[group], wb);
                float2 scale_a = __half22float2(*(const __half2 *)&ga[group]);
                float2 scale_b = __half22float2(*(const __half2 *)&gb[group]);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    uint4 v = load_x(x[n] + (at + u) * 128 + group * 32);
                    float c[4] = {0, 0, 0, 0}, s[4] = {0, 0, 0, 0};
                    mma<__half>(c, wa[0], wb[0], wa[1], wb[1], v.x, v.y);
                    mma<__half>(c, wa[2], wb[2], wa[3], wb[3], v.z, v.w);
                    mma<__half>(s, ones, ones, ones, ones, v.x, v.y);
                    mma<__half>(s, ones, ones, ones, ones, v.z, v.w);
                    sums[n][0] += c[0] * scale_a.x - s[0] * scale_a.y;
                    sums[n][1] += c[1] * scale_a.x - s[1] * scale_a.y;
                    sums[n][2] += c[2] * scale_b.x - s[2] * scale_b.y;
                    sums[n][3] += c[3] * scale_b.x - s[3] * scale_b.y;
                }
            }
        }
    }
}

/* ---- one product ---- */

enum form { FORM_HALVES, FORM_Q8, FORM_Q4K };

template <typename T, int FORM, int NT>
__global__ void __launch_bounds__(WARPS * 32)
    stream_kernel(const __grid_constant__ stream_args args)
{
    __shared__ float shared[WARPS][MMA_ROWS][8 * NT + 1];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t which = 0;
    while (which + 1 < args.part_count && blockIdx.x >= args.parts[which + 1].tiles_before)
        which++;
    const part &p = args.parts[which];
    uint32_t tile = blockIdx.x - p.tiles_before, x_first = blockIdx.y * 8 * NT;
    float sums[NT][4] = {};
    uint32_t units = args.columns / (FORM == FORM_HALVES ? 32 : FORM == FORM_Q8 ? 64 : 128);
    uint32_t begin = warp * units / WARPS, end = (warp + 1) * units / WARPS;
    if (FORM == FORM_HALVES)
        sum_halves<T, NT>(args, p, tile, x_first, begin, end, sums);
    else if (FORM == FORM_Q8)
        sum_q8<NT>(args, p, tile, x_first, begin, end, sums);
    else
        sum_q4k<NT>(args, p, tile, x_first, begin, end, sums);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        shared[warp][g][n * 8 + 2 * t] = sums[n][0];
        shared[warp][g][n * 8 + 2 * t + 1] = sums[n][1];
        shared[warp][g + 8][n * 8 + 2 * t] = sums[n][2];
        shared[warp][g + 8][n * 8 + 2 * t + 1] = sums[n][3];
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < MMA_ROWS * 8 * NT; i += WARPS * 32) {
        uint32_t out = i % MMA_ROWS, row = i / MMA_ROWS;
        uint32_t to_row = x_first + row, to = tile * MMA_ROWS + out;
        if (to_row >= args.x_rows || to >= p.rows)
            continue;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += shared[w][out][row];
        if (p.bias != nullptr)
            sum += p.bias[to];
        size_t at = (size_t)to_row * p.y_stride + to;
        if (args.halves)
            ((T *)p.y)[at] = from_float<T>(sum);
        else
            ((float *)p.y)[at] = args.accumulate ? ((float *)p.y)[at] + sum : sum;
    }
}

/* Any shape, one warp an output: what the kernel above is not made for. */
template <typename T>
__global__ void plain_kernel(part p, const T *x, uint32_t x_stride, uint32_t columns,
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
static void plain_run(struct cuda_backend *cuda, const struct product *product,
                      const struct stream_args *args)
{
    for (uint32_t i = 0; i < args->part_count; i++) {
        dim3 grid((args->parts[i].rows + 7) / 8, args->x_rows);
        plain_kernel<T><<<grid, 256, 0, cuda->stream>>>(args->parts[i], (const T *)args->x,
                                                        args->x_stride, args->columns,
                                                        args->accumulate, args->halves);
    }
}

template <typename T, int FORM>
static void stream_run(struct cuda_backend *cuda, const struct stream_args *args, uint32_t tiles)
{
    uint32_t rows = args->x_rows;
    if (rows <= 8)
        stream_kernel<T, FORM, 1><<<dim3(tiles, 1), WARPS * 32, 0, cuda->stream>>>(*args);
    else if (rows <= 16)
        stream_kernel<T, FORM, 2><<<dim3(tiles, 1), WARPS * 32, 0, cuda->stream>>>(*args);
    else
        stream_kernel<T, FORM, 4>
            <<<dim3(tiles, (rows + 31) / 32), WARPS * 32, 0, cuda->stream>>>(*args);
}

/* The columns and strides are whole 16-byte pieces for every thread. */
static bool shape_fits(const struct product *product)
{
    enum dtype type = product->weights[0]->type;
    uint32_t unit = type == DTYPE_Q8_0 ? 64 : type == DTYPE_Q4_K ? 128 : 32;
    return product->weights[0]->columns % unit == 0 && product->x->stride % 8 == 0;
}

bool stream_can(const struct cuda_backend *cuda, const struct product *product)
{
    return shape_fits(product) || product->weights[0]->type == DTYPE_F16 ||
           product->weights[0]->type == DTYPE_BF16 || cuda == NULL;
}

void stream_product(struct cuda_backend *cuda, const struct product *product)
{
    struct stream_args args = {};
    uint32_t tiles = 0;
    args.part_count = product->count;
    for (uint32_t i = 0; i < product->count; i++) {
        struct backend_buffer *y = product->ys[i];
        args.parts[i].data = product->weights[i]->data;
        args.parts[i].scales = product->weights[i]->scales;
        args.parts[i].bias =
            product->biases[i] != NULL ? (const float *)product->biases[i]->data : NULL;
        args.parts[i].y = y->data;
        args.parts[i].rows = product->weights[i]->rows;
        args.parts[i].y_stride = y->stride;
        args.parts[i].tiles_before = tiles;
        tiles += (product->weights[i]->rows + MMA_ROWS - 1) / MMA_ROWS;
    }
    args.x = product->x->data;
    args.x_stride = product->x->stride;
    args.x_rows = product->rows;
    args.columns = product->weights[0]->columns;
    args.accumulate = product->accumulate;
    args.halves = product->ys[0]->halves;
    enum dtype type = product->weights[0]->type;
    if (!shape_fits(product))
        BY_TYPE(cuda, plain_run, cuda, product, &args);
    else if (type == DTYPE_Q8_0)
        stream_run<__half, FORM_Q8>(cuda, &args, tiles);
    else if (type == DTYPE_Q4_K)
        stream_run<__half, FORM_Q4K>(cuda, &args, tiles);
    else if (cuda->bf16)
        stream_run<__nv_bfloat16, FORM_HALVES>(cuda, &args, tiles);
    else
        stream_run<__half, FORM_HALVES>(cuda, &args, tiles);
    cuda_good(cuda, cudaGetLastError(), "product of few rows");
}
