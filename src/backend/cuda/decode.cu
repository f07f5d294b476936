/* backend/cuda/decode.cu - attention of single rows: the keys of a row are split in partitions.
 *
 *     block (row, kv head, partition)    256 keys, and all query heads of that kv head
 *       warp w                           keys 16i + ..  of its quarter, 16 at a time
 *     last block of (row, kv head)       adds the partitions, in order of position
 *
 * A warp works on its own, from memory to registers: the query heads are the rows of an mma,
 * padded to 16. K is read like a weight (stream.cu: 16 bytes of a key a thread, the same columns of
 * q). For P x V a thread reads its four keys' values of 8 neighbouring dimensions and pairs them by
 * byte permutation. Partitions and orders are fixed: the bits of a row depend on itself only. */
#include "backend/cuda/state.cuh"

#define WARPS 4
#define HEADS 16 /* rows of an mma */

struct decode_args {
    const uint32_t *head, *rows, *positions, *row_sequences, *table_offsets, *tables;
    const char *pool;
    size_t block_bytes, layer_at, plane_bytes;
    uint32_t block_tokens, group, kv_head_count, partitions_max;
    uint32_t first; /* single row of this launch's first block */
    uint32_t q_stride, o_stride;
    float scale;
    float *partials;
    uint32_t *arrivals;
};

__device__ inline void mma_f16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint4 load_kv(const void *at)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

__device__ inline uint32_t pair(float a, float b)
{
    __half2 v = __floats2half2_rn(a, b);
    return *(uint32_t *)&v;
}

/* Where the k-plane of one key of this head begins. */
__device__ inline const char *key_at(const decode_args &a, const uint32_t *table, uint32_t kv_head,
                                     uint32_t key, uint32_t head_bytes)
{
    uint32_t block = key / a.block_tokens, token = key - block * a.block_tokens;
    return a.pool + (size_t)__ldg(table + block) * a.block_bytes + a.layer_at +
           ((size_t)kv_head * a.block_tokens + token) * head_bytes;
}

/* The queries as A fragments, in the order of columns that K is read in. */
template <int PARTS>
__device__ static void queries_load(const __half *q, uint32_t group, float scale,
                                    uint32_t a[PARTS][2][4])
{
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int part = 0; part < PARTS; part++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t row = g + i % 2 * 8;
                uint32_t column = part * 32 + t * 8 + half * 4 + i / 2 * 2;
                float x = 0, y = 0;
                if (row < group) {
                    x = to_float(q[row * (PARTS * 32) + column]) * scale;
                    y = to_float(q[row * (PARTS * 32) + column + 1]) * scale;
                }
                a[part][half][i] = pair(x, y);
            }
}

template <int PARTS> struct state {
    float o[PARTS * 4][4]; /* tile j: dimension of (j, g); rows g and g + 8 */
    float most[2], sum[2];
};

/* Sixteen keys from first on; those from end on do not count. */
template <int PARTS>
__device__ static void keys_take(const decode_args &args, const uint32_t *table, uint32_t kv_head,
                                 uint32_t first, uint32_t end, const uint32_t a[PARTS][2][4],
                                 state<PARTS> &s)
{
    constexpr uint32_t head_bytes = PARTS * 64;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float scores[2][4] = {};
    const char *k[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        k[i] = key_at(args, table, kv_head, min(first + i * 8 + g, end - 1), head_bytes) + t * 16;
    uint4 keys[2][PARTS];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            keys[i][part] = load_kv(k[i] + part * 64);
    const char *v[4];
    uint4 values[4][PARTS / 2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t key = min(first + i / 2 * 8 + 2 * t + i % 2, end - 1);
        v[i] = key_at(args, table, kv_head, key, head_bytes) + args.plane_bytes + g * 16;
#pragma unroll
        for (int h = 0; h < PARTS / 2; h++)
            values[i][h] = load_kv(v[i] + h * 128);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const uint32_t(*q)[4] = a[part];
            mma_f16(scores[i], q[0][0], q[0][1], q[0][2], q[0][3], keys[i][part].x,
                    keys[i][part].y);
            mma_f16(scores[i], q[1][0], q[1][1], q[1][2], q[1][3], keys[i][part].z,
                    keys[i][part].w);
        }
    float factors[2];
#pragma unroll
    for (int r = 0; r < 2; r++) { /* rows g and g + 8 */
        float most = s.most[r];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t key = first + i / 2 * 8 + 2 * t + i % 2;
            float &score = scores[i / 2][r * 2 + i % 2];
            score = key < end ? score : -INFINITY;
            most = fmaxf(most, score);
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        factors[r] = exp2f(s.most[r] - most);
        s.most[r] = most;
        s.sum[r] *= factors[r];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &score = scores[i / 2][r * 2 + i % 2];
            score = exp2f(score - most);
            s.sum[r] += score;
        }
    }
    uint32_t p0 = pair(scores[0][0], scores[0][1]), p1 = pair(scores[0][2], scores[0][3]);
    uint32_t p2 = pair(scores[1][0], scores[1][1]), p3 = pair(scores[1][2], scores[1][3]);
#pragma unroll
    for (int j = 0; j < PARTS * 4; j++) {
        s.o[j][0] *= factors[0];
        s.o[j][1] *= factors[0];
        s.o[j][2] *= factors[1];
        s.o[j][3] *= factors[1];
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4 &value = values[i][j / 8];
            words[i] = j % 8 / 2 == 0   ? value.x
                       : j % 8 / 2 == 1 ? value.y
                       : j % 8 / 2 == 2 ? value.z
                                        : value.w;
        }
        const uint32_t select = j % 2 == 0 ? 0x5410 : 0x7632;
        mma_f16(s.o[j], p0, p1, p2, p3, __byte_perm(words[0], words[1], select),
                __byte_perm(words[2], words[3], select));
    }
}

/* The dimension that tile j holds in column n. */
__device__ inline uint32_t dimension_of(uint32_t j, uint32_t n)
{
    return j / 8 * 64 + n * 8 + j % 8;
}

/* The four warps' results into shared memory; then this partition's, one dimension a thread. */
template <int PARTS>
__device__ static void warps_merge(const state<PARTS> &s, float *shared_o, float *shared_most,
                                   float *shared_sum)
{
    constexpr uint32_t DIMS = PARTS * 32;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = s.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (t == 0) {
            shared_most[warp * HEADS + g + r * 8] = s.most[r];
            shared_sum[warp * HEADS + g + r * 8] = sum;
        }
    }
#pragma unroll
    for (int j = 0; j < PARTS * 4; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            shared_o[(warp * HEADS + g + i / 2 * 8) * DIMS + dimension_of(j, 2 * t + i % 2)] =
                s.o[j][i];
    __syncthreads();
}

template <typename T, int PARTS>
__global__ void __launch_bounds__(WARPS * 32)
    decode_kernel(const __grid_constant__ decode_args args, const __half *q, T *o)
{
    constexpr uint32_t DIMS = PARTS * 32;
    extern __shared__ float shared_o[];
    __shared__ float shared_most[WARPS * HEADS], shared_sum[WARPS * HEADS];
    __shared__ bool last;
    uint32_t single = blockIdx.x, kv_head = blockIdx.y, partition = blockIdx.z;
    if (args.first + single >= args.head[3])
        return;
    uint32_t row = args.rows[args.first + single], length = args.positions[row] + 1;
    uint32_t first = partition * PARTITION_KEYS;
    if (first >= length)
        return;
    uint32_t partitions = (length + PARTITION_KEYS - 1) / PARTITION_KEYS;
    uint32_t end = min(first + PARTITION_KEYS, length), warp = threadIdx.x / 32;
    const uint32_t *table = args.tables + args.table_offsets[args.row_sequences[row]];
    uint32_t a[PARTS][2][4];
    queries_load<PARTS>(q + (size_t)row * args.q_stride + kv_head * args.group * DIMS,
                           args.group, args.scale, a);
    state<PARTS> s = {};
    s.most[0] = s.most[1] = -1e30f;
    for (uint32_t i = 0; i < PARTITION_KEYS / WARPS / 16; i++) {
        uint32_t at = first + warp * (PARTITION_KEYS / WARPS) + i * 16;
        if (at < end)
            keys_take<PARTS>(args, table, kv_head, at, end, a, s);
    }
    warps_merge<PARTS>(s, shared_o, shared_most, shared_sum);

    size_t place = ((size_t)single * args.kv_head_count + kv_head) * args.partitions_max;
    for (uint32_t i = threadIdx.x; i < args.group * DIMS; i += WARPS * 32) {
        uint32_t h = i / DIMS, d = i % DIMS;
        float most = -1e30f, sum = 0, value = 0;
        for (uint32_t w = 0; w < WARPS; w++)
            most = fmaxf(most, shared_most[w * HEADS + h]);
        for (uint32_t w = 0; w < WARPS; w++) {
            float factor = exp2f(shared_most[w * HEADS + h] - most);
            sum += shared_sum[w * HEADS + h] * factor;
            value += shared_o[(w * HEADS + h) * DIMS + d] * factor;
        }
        if (partitions == 1) {
            o[(size_t)row * args.o_stride + (kv_head * args.group + h) * DIMS + d] =
                from_float<T>(value / sum);
            continue;
        }
        float *to = args.partials + (place + partition) * args.group * (DIMS + 2);
        to[h * (DIMS + 2) + d] = value;
        if (d == 0) {
            to[h * (DIMS + 2) + DIMS] = most;
            to[h * (DIMS + 2) + DIMS + 1] = sum;
        }
    }
    if (partitions == 1)
        return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t *arrived = args.arrivals + (size_t)single * args.kv_head_count + kv_head;
        last = atomicAdd(arrived, 1) == partitions - 1;
        if (last)
            *arrived = 0;
    }
    __syncthreads();
    if (!last)
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < args.group * DIMS; i += WARPS * 32) {
        uint32_t h = i / DIMS, d = i % DIMS;
        const float *from =
            args.partials + place * args.group * (DIMS + 2) + h * (DIMS + 2);
        size_t step = (size_t)args.group * (DIMS + 2);
        float most = -1e30f, sum = 0, value = 0;
        for (uint32_t p = 0; p < partitions; p++)
            most = fmaxf(most, __ldcg(from + p * step + DIMS));
        for (uint32_t p = 0; p < partitions; p++) {
            float factor = exp2f(__ldcg(from + p * step + DIMS) - most);
            sum += __ldcg(from + p * step + DIMS + 1) * factor;
            value += __ldcg(from + p * step + d) * factor;
        }
        o[(size_t)row * args.o_stride + (kv_head * args.group + h) * DIMS + d] =
            from_float<T>(value / sum);
    }
}

/* Any head: one warp a query head, key after key. */
template <typename T>
__global__ void plain_kernel(decode_args args, const __half *q, T *o, uint32_t dims)
{
    extern __shared__ float accumulated[];
    uint32_t single = blockIdx.x, h = blockIdx.y, lane = threadIdx.x;
    if (args.first + single >= args.head[3])
        return;
    uint32_t row = args.rows[args.first + single], length = args.positions[row] + 1;
    const uint32_t *table = args.tables + args.table_offsets[args.row_sequences[row]];
    const __half *from = q + (size_t)row * args.q_stride + h * dims;
    float most = -1e30f, sum = 0;
    for (uint32_t d = lane; d < dims; d += 32)
        accumulated[d] = 0;
    for (uint32_t key = 0; key < length; key++) {
        const __half *k = (const __half *)key_at(args, table, h / args.group, key, dims * 2);
        const __half *v = (const __half *)((const char *)k + args.plane_bytes);
        float dot = 0;
        for (uint32_t d = lane; d < dims; d += 32)
            dot += to_float(from[d]) * args.scale * __half2float(k[d]);
        for (int step = 16; step > 0; step /= 2)
            dot += __shfl_xor_sync(0xffffffffu, dot, step);
        float larger = fmaxf(most, dot), factor = exp2f(most - larger), p = exp2f(dot - larger);
        sum = sum * factor + p;
        for (uint32_t d = lane; d < dims; d += 32)
            accumulated[d] = accumulated[d] * factor + p * __half2float(v[d]);
        most = larger;
    }
    for (uint32_t d = lane; d < dims; d += 32)
        o[(size_t)row * args.o_stride + h * dims + d] = from_float<T>(accumulated[d] / sum);
}

template <typename T>
static void decode_run(struct cuda_backend *cuda, const struct decode_args *args, const __half *q,
                       T *o, uint32_t singles, uint32_t partitions)
{
    const struct backend_shape *shape = &cuda->shape;
    dim3 grid(singles, shape->kv_head_count, partitions);
    size_t bytes = sizeof(float) * WARPS * HEADS * shape->head_dim;
    bool grouped = args->group <= HEADS && shape->block_tokens > 0;
    if (grouped && shape->head_dim == 128)
        decode_kernel<T, 4><<<grid, WARPS * 32, bytes, cuda->stream>>>(*args, q, o);
    else if (grouped && shape->head_dim == 64)
        decode_kernel<T, 2><<<grid, WARPS * 32, bytes, cuda->stream>>>(*args, q, o);
    else
        plain_kernel<T><<<dim3(singles, shape->head_count), 32, shape->head_dim * sizeof(float),
                          cuda->stream>>>(*args, q, o, shape->head_dim);
}

template <typename T>
static void decode_typed(struct cuda_backend *cuda, const struct decode_args *args,
                         const struct backend_buffer *q, struct backend_buffer *o)
{
    uint32_t singles = cuda->mode == STEP_EAGER ? cuda->single_count : cuda->rows;
    size_t single_bytes = decode_partial_bytes(cuda, cuda->partitions);
    size_t fit = DECODE_PARTIALS_BYTES / single_bytes;
    uint32_t most = fit < 1 ? 1 : fit > DECODE_SINGLES_MAX ? DECODE_SINGLES_MAX : (uint32_t)fit;
    struct decode_args piece = *args;
    for (; piece.first < singles; piece.first += most)
        decode_run<T>(cuda, &piece, (const __half *)q->data, (T *)o->data,
                      singles - piece.first < most ? singles - piece.first : most,
                      cuda->partitions);
}

size_t decode_partial_bytes(const struct cuda_backend *cuda, uint32_t partitions)
{
    return sizeof(float) * partitions * cuda->shape.head_count * (cuda->shape.head_dim + 2u);
}

void attend_singles(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                    struct backend_buffer *o)
{
    const struct backend_shape *shape = &cuda->shape;
    const struct device_step *step = &cuda->device;
    struct decode_args args = {};
    args.head = step->head;
    args.rows = step->single_rows;
    args.positions = step->positions;
    args.row_sequences = step->row_sequences;
    args.table_offsets = step->table_offsets;
    args.tables = step->tables;
    args.pool = cuda->pool_device;
    args.block_bytes = shape->block_bytes;
    args.layer_at = layer * shape->layer_bytes;
    args.plane_bytes = shape->layer_bytes / 2;
    args.block_tokens = shape->block_tokens;
    args.group = shape->head_count / shape->kv_head_count;
    args.kv_head_count = shape->kv_head_count;
    args.partitions_max = cuda->partitions;
    args.q_stride = q->stride;
    args.o_stride = o->stride;
    args.scale = (float)(1.4426950408889634 / sqrt((double)shape->head_dim));
    args.partials = cuda->partials;
    args.arrivals = cuda->arrivals;
    BY_TYPE(cuda, decode_typed, cuda, &args, q, o);
    cuda_good(cuda, cudaGetLastError(), "attention of single rows");
}
