/* backend/cuda/prefill.cu - attention of chunks of prompts, on the tensor cores.
 *
 *     block (head, tile of 128 rows)    keys from the first to the tile's last position, 64 at a
 *                                       time through shared memory, the next 64 on their way
 *       warp                            16 rows: S = q K, softmax as it goes, o += P V
 *
 * Keys and values come from the blocks of the pool, wherever those lie; a cached prefix is nothing
 * special. Rows of shared memory are swizzled by 16 bytes so that no two of eight collide.
 *
 * Source: Dao 2023, FlashAttention-2 (the order of the loops). */
#include "backend/cuda/state.cuh"

#define WARPS 8
#define KEYS 64

struct prefill_args {
    const uint32_t *tiles, *first_rows, *row_counts, *starts, *table_offsets, *tables;
    const char *pool;
    size_t block_bytes, layer_at, plane_bytes;
    uint32_t block_tokens, group, q_stride, o_stride;
    float scale;
};

__device__ inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <bool TRANSPOSED> __device__ inline void matrices_load(uint32_t out[4], const void *at)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(at);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
}

__device__ inline void copy_async(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from));
}

__device__ inline uint32_t pair(float a, float b)
{
    __half2 v = __floats2half2_rn(a, b);
    return *(uint32_t *)&v;
}

/* 16 bytes of a row in shared memory. */
template <int DIMS> __device__ inline __half *piece_at(__half *base, uint32_t row, uint32_t piece)
{
    return base + row * DIMS + ((piece ^ (row & 7)) * 8);
}

/* Keys first .. first + KEYS of the sequence on their way; those from end on are the last one. */
template <int DIMS>
__device__ static void keys_fetch(const prefill_args &args, const uint32_t *table,
                                  uint32_t kv_head, uint32_t first, uint32_t end, __half *k,
                                  __half *v)
{
    constexpr uint32_t PIECES = DIMS / 8;
#pragma unroll
    for (uint32_t i = threadIdx.x; i < KEYS * PIECES; i += WARPS * 32) {
        uint32_t row = i / PIECES, piece = i % PIECES, key = min(first + row, end - 1);
        uint32_t block = key / args.block_tokens, token = key - block * args.block_tokens;
        const char *from = args.pool + (size_t)__ldg(table + block) * args.block_bytes +
                           args.layer_at +
                           ((size_t)kv_head * args.block_tokens + token) * (DIMS * 2) + piece * 16;
        copy_async(piece_at<DIMS>(k, row, piece), from);
        copy_async(piece_at<DIMS>(v, row, piece), from + args.plane_bytes);
    }
    asm volatile("cp.async.commit_group;");
}

/* S of 16 rows and KEYS keys. */
template <int DIMS>
__device__ static void scores_make(const uint32_t q[DIMS / 16][4], __half *k,
                                   float s[KEYS / 8][4])
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[n][i] = 0;
#pragma unroll
    for (int d = 0; d < DIMS / 16; d++)
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            matrices_load<false>(b, piece_at<DIMS>(k, n * 16 + lane / 16 * 8 + lane % 8,
                                                   d * 2 + lane / 8 % 2));
            mma_f16(s[n * 2], q[d], b[0], b[1]);
            mma_f16(s[n * 2 + 1], q[d], b[2], b[3]);
        }
}

template <int DIMS>
__device__ static void values_add(const float s[KEYS / 8][4], __half *v, float o[DIMS / 8][4])
{
    uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        const uint32_t p[4] = {pair(s[2 * n][0], s[2 * n][1]), pair(s[2 * n][2], s[2 * n][3]),
                               pair(s[2 * n + 1][0], s[2 * n + 1][1]),
                               pair(s[2 * n + 1][2], s[2 * n + 1][3])};
#pragma unroll
        for (int d = 0; d < DIMS / 16; d++) {
            uint32_t b[4];
            matrices_load<true>(b, piece_at<DIMS>(v, n * 16 + lane / 8 % 2 * 8 + lane % 8,
                                                  d * 2 + lane / 16));
            mma_f16(o[2 * d], p, b[0], b[1]);
            mma_f16(o[2 * d + 1], p, b[2], b[3]);
        }
    }
}

template <int DIMS>
__device__ static void softmax_take(float s[KEYS / 8][4], float o[DIMS / 8][4], float most[2],
                                    float sum[2], float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float larger = most[r];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            larger = fmaxf(larger, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 1));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 2));
        float factor = exp2f((most[r] - larger) * scale), base = larger * scale;
        most[r] = larger;
        sum[r] *= factor;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float p = exp2f(fmaf(s[n][2 * r + i], scale, -base));
                s[n][2 * r + i] = p;
                sum[r] += p;
            }
#pragma unroll
        for (int d = 0; d < DIMS / 8; d++) {
            o[d][2 * r] *= factor;
            o[d][2 * r + 1] *= factor;
        }
    }
}

template <typename T, int DIMS>
__global__ void __launch_bounds__(WARPS * 32)
    prefill_kernel(const __grid_constant__ prefill_args args, const __half *q_all, T *o_all)
{
    extern __shared__ __align__(128) __half shared[];
    constexpr uint32_t STAGE = 2 * KEYS * DIMS; /* keys, then values */
    uint32_t head = blockIdx.x, tile = gridDim.y - 1 - blockIdx.y; /* the longest first */
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t sequence = args.tiles[2 * tile], row0 = args.tiles[2 * tile + 1];
    uint32_t rows = min(args.row_counts[sequence] - row0, TILE_ROWS);
    uint32_t start = args.starts[sequence] + row0, end = start + rows, kv_head = head / args.group;
    const uint32_t *table = args.tables + args.table_offsets[sequence];
    size_t first_row = args.first_rows[sequence] + row0;

    uint32_t q[DIMS / 16][4];
#pragma unroll
    for (int d = 0; d < DIMS / 16; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t row = min(warp * 16 + g + i % 2 * 8, rows - 1);
            q[d][i] = *(const uint32_t *)(q_all + (first_row + row) * args.q_stride + head * DIMS +
                                          d * 16 + 2 * t + i / 2 * 8);
        }
    float o[DIMS / 8][4] = {}, most[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};
    uint32_t steps = (end + KEYS - 1) / KEYS;
    keys_fetch<DIMS>(args, table, kv_head, 0, end, shared, shared + KEYS * DIMS);
    for (uint32_t i = 0; i < steps; i++) {
        __half *keys = shared + i % 2 * STAGE, *next = shared + (i + 1) % 2 * STAGE;
        if (i + 1 < steps) {
            keys_fetch<DIMS>(args, table, kv_head, (i + 1) * KEYS, end, next, next + KEYS * DIMS);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        float s[KEYS / 8][4];
        scores_make<DIMS>(q, keys, s);
        if ((i + 1) * KEYS > start + warp * 16 + 1) { /* some key is after some row */
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    uint32_t key = i * KEYS + n * 8 + 2 * t + c % 2;
                    uint32_t position = start + warp * 16 + g + c / 2 * 8;
                    if (key > position || key >= end)
                        s[n][c] = -INFINITY;
                }
        }
        softmax_take<DIMS>(s, o, most, sum, args.scale);
        values_add<DIMS>(s, keys + KEYS * DIMS, o);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        uint32_t row = warp * 16 + g + r * 8;
        if (row >= rows)
            continue;
        float factor = 1.0f / sum[r];
        T *to = o_all + (first_row + row) * args.o_stride + head * DIMS + 2 * t;
#pragma unroll
        for (int d = 0; d < DIMS / 8; d++) {
            to[d * 8] = from_float<T>(o[d][2 * r] * factor);
            to[d * 8 + 1] = from_float<T>(o[d][2 * r + 1] * factor);
        }
    }
}

template <typename T, int DIMS>
static void prefill_launch(struct cuda_backend *cuda, const struct prefill_args *args,
                           const struct backend_buffer *q, struct backend_buffer *o)
{
    size_t bytes = sizeof(__half) * 4 * KEYS * DIMS;
    cuda_good(cuda,
              cudaFuncSetAttribute(prefill_kernel<T, DIMS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
              "shared memory of attention");
    prefill_kernel<T, DIMS><<<dim3(cuda->shape.head_count, cuda->tile_count), WARPS * 32, bytes,
                              cuda->stream>>>(*args, (const __half *)q->data, (T *)o->data);
}

template <typename T>
static void prefill_run(struct cuda_backend *cuda, const struct prefill_args *args,
                        const struct backend_buffer *q, struct backend_buffer *o)
{
    if (cuda->shape.head_dim == 128)
        prefill_launch<T, 128>(cuda, args, q, o);
    else
        prefill_launch<T, 64>(cuda, args, q, o);
}

bool attend_tiles_can(const struct cuda_backend *cuda)
{
    return (cuda->shape.head_dim == 128 || cuda->shape.head_dim == 64) &&
           !cuda->options.deterministic;
}

void attend_tiles(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                  struct backend_buffer *o)
{
    if (attend_hopper_can(cuda, q, o)) {
        attend_hopper(cuda, layer, q, o);
        return;
    }
    const struct backend_shape *shape = &cuda->shape;
    const struct device_step *step = &cuda->device;
    struct prefill_args args = {};
    args.tiles = step->tiles;
    args.first_rows = step->first_rows;
    args.row_counts = step->row_counts;
    args.starts = step->starts;
    args.table_offsets = step->table_offsets;
    args.tables = step->tables;
    args.pool = cuda->pool_device;
    args.block_bytes = shape->block_bytes;
    args.layer_at = layer * shape->layer_bytes;
    args.plane_bytes = shape->layer_bytes / 2;
    args.block_tokens = shape->block_tokens;
    args.group = shape->head_count / shape->kv_head_count;
    args.q_stride = q->stride;
    args.o_stride = o->stride;
    args.scale = (float)(1.4426950408889634 / sqrt((double)shape->head_dim));
    BY_TYPE(cuda, prefill_run, cuda, &args, q, o);
    cuda_good(cuda, cudaGetLastError(), "attention of a prompt");
}
