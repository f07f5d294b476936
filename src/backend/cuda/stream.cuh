/* backend/cuda/stream.cuh - what stream.cu and stream_hopper.cu share: how a product of few rows is
 * described, and how a unit of a weight's row is multiplied.
 *
 *     mma m16n8k16   A = 16 rows of W x 16 columns,  B = 16 columns x 8 rows of x
 *     unit           64 bytes of a row of W: 16 for each of the four threads that share the row
 *                    (quantised.cuh)
 *
 * The columns of a sum may come in any order if W and x agree on it, so a thread's 16 bytes of W
 * are its part of whole mmas: in halves thread t of each four has columns 8t .. 8t+7 of 32, two
 * mmas.
 *
 * Quantised weights stay integers in the mma: the scale of 32
 * columns is applied to their sum. Q4_K's minimum is taken off with the sum of the same 32 of x,
 * which comes from an mma with ones. */
#ifndef BACKEND_CUDA_STREAM_CUH
#define BACKEND_CUDA_STREAM_CUH

#include "backend/cuda/quantised.cuh"

#define WARPS 8 /* that share the columns of a tile */
#define MMA_ROWS 16

struct stream_part { /* of a joint product: one weight */
    const void *data;
    const float *bias;
    void *y;
    uint32_t rows, y_stride, tiles_before;
};

struct stream_args {
    stream_part parts[3];
    uint32_t part_count, tiles;
    const void *x;
    uint32_t x_stride, x_rows, columns;
    bool accumulate, halves;
};

/* All of a product but who makes it. */
void stream_describe(const struct product *product, struct stream_args *args);

/* stream_hopper.cu: it has a kernel for this product; run it. */
bool stream_hopper_can(const struct cuda_backend *cuda, const struct product *product);
void stream_hopper(struct cuda_backend *cuda, const struct stream_args *args);

/* 16-byte pieces of a row of x that a unit's columns are multiplied with. */
__host__ __device__ constexpr uint32_t unit_pieces(int form)
{
    return unit_columns(form) / 32;
}

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

/* Eight nibbles (load.cu: nibble i and i + 4 are columns 2i and 2i + 1) as f16 pairs, exact. */
__device__ inline void nibbles_to_halves(uint32_t nibbles, uint32_t out[4])
{
    const __half2 off = __half2half2(__ushort_as_half(0x6400));      /* 1024 */
    const __half2 sixteenth = __half2half2(__ushort_as_half(0x2c00)); /* 1 / 16 */
    const __half2 off_16 = __half2half2(__ushort_as_half(0xd400));    /* -64 */
#pragma unroll
    for (int i = 0; i < 4; i += 2, nibbles >>= 8) {
        uint32_t even = (nibbles & 0x000f000fu) | 0x64006400u; /* 1024 + n */
        uint32_t odd = (nibbles & 0x00f000f0u) | 0x64006400u;  /* 1024 + 16 n */
        __half2 a = __hsub2(*(__half2 *)&even, off);
        __half2 b = __hfma2(*(__half2 *)&odd, sixteenth, off_16);
        out[i] = *(uint32_t *)&a;
        out[i + 1] = *(uint32_t *)&b;
    }
}

/* 32 columns of integers: eight of rows low and high are this thread's, as f16 in a and b. */
template <int NT>
__device__ inline void group_q8(uint32_t low0, uint32_t low1, uint32_t high0, uint32_t high1,
                                float scale_low, float scale_high, const uint4 v[NT],
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

template <int NT>
__device__ inline void group_q4k(uint32_t low, uint32_t high, uint32_t scales_low,
                                 uint32_t scales_high, const uint4 v[NT], float sums[NT][4])
{
    const uint32_t ones = 0x3c003c00u;
    uint32_t a[4], b[4];
    nibbles_to_halves(low, a);
    nibbles_to_halves(high, b);
    float2 scale_a = __half22float2(*(const __half2 *)&scales_low);
    float2 scale_b = __half22float2(*(const __half2 *)&scales_high);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float c[4] = {0, 0, 0, 0}, s[4] = {0, 0, 0, 0};
        mma<__half>(c, a[0], b[0], a[1], b[1], v[n].x, v[n].y);
        mma<__half>(c, a[2], b[2], a[3], b[3], v[n].z, v[n].w);
        mma<__half>(s, ones, ones, ones, ones, v[n].x, v[n].y);
        mma<__half>(s, ones, ones, ones, ones, v[n].z, v[n].w);
        sums[n][0] += c[0] * scale_a.x - s[0] * scale_a.y;
        sums[n][1] += c[1] * scale_a.x - s[1] * scale_a.y;
        sums[n][2] += c[2] * scale_b.x - s[2] * scale_b.y;
        sums[n][3] += c[3] * scale_b.x - s[3] * scale_b.y;
    }
}

/* One unit of rows low and high (16 bytes of each are this thread's), with their scales (Q8_0: in
 * x; Q4_K: a pair in each word), times NT times 8 rows of x: sums of the mma's form. */
template <typename T, int FORM, int NT>
__device__ inline void unit_add(uint4 low, uint4 high, uint4 scales_low, uint4 scales_high,
                                const uint4 x[][NT], float sums[NT][4])
{
    if constexpr (FORM == FORM_HALVES) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            mma<T>(sums[n], low.x, high.x, low.y, high.y, x[0][n].x, x[0][n].y);
            mma<T>(sums[n], low.z, high.z, low.w, high.w, x[0][n].z, x[0][n].w);
        }
    } else if constexpr (FORM == FORM_Q8) {
        float2 a = __half22float2(*(const __half2 *)&scales_low.x);
        float2 b = __half22float2(*(const __half2 *)&scales_high.x);
        group_q8<NT>(low.x, low.y, high.x, high.y, a.x, b.x, x[0], sums);
        group_q8<NT>(low.z, low.w, high.z, high.w, a.y, b.y, x[1], sums);
    } else {
        group_q4k<NT>(low.x, high.x, scales_low.x, scales_high.x, x[0], sums);
        group_q4k<NT>(low.y, high.y, scales_low.y, scales_high.y, x[1], sums);
        group_q4k<NT>(low.z, high.z, scales_low.z, scales_high.z, x[2], sums);
        group_q4k<NT>(low.w, high.w, scales_low.w, scales_high.w, x[3], sums);
    }
}

/* The weight that a tile belongs to. */
__device__ inline const stream_part &part_of(const stream_args &args, uint32_t tile)
{
    uint32_t which = 0;
    while (which + 1 < args.part_count && tile >= args.parts[which + 1].tiles_before)
        which++;
    return args.parts[which];
}

/* One sum into its place. */
template <typename T>
__device__ inline void sum_store(const stream_args &args, const stream_part &p, uint32_t x_row,
                                 uint32_t w_row, float sum)
{
    if (x_row >= args.x_rows || w_row >= p.rows)
        return;
    if (p.bias != nullptr)
        sum += p.bias[w_row];
    size_t at = (size_t)x_row * p.y_stride + w_row;
    if (args.halves)
        ((T *)p.y)[at] = from_float<T>(sum);
    else
        ((float *)p.y)[at] = args.accumulate ? ((float *)p.y)[at] + sum : sum;
}

/* A warp's sums of 16 rows of W, for the others to add. */
template <int NT>
__device__ inline void sums_show(const float sums[NT][4], float (*shared)[8 * NT + 1])
{
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        shared[g][n * 8 + 2 * t] = sums[n][0];
        shared[g][n * 8 + 2 * t + 1] = sums[n][1];
        shared[g + 8][n * 8 + 2 * t] = sums[n][2];
        shared[g + 8][n * 8 + 2 * t + 1] = sums[n][3];
    }
}

#endif
