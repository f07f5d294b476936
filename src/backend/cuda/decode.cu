/* backend/cuda/decode.cu - attention of single rows: the keys of a row are split in partitions.
 *
 *     block (row, kv head, partition)    128 keys, and all query heads of that kv head
 *       warp w                           keys 16i + ..  of its quarter, 16 at a time
 *     last block of (row, kv head)       adds the partitions, in order of position
 *
 * A warp works on its own, from memory to registers. sm_90 has a kernel of its own, in
 * decode_hopper.cu; decode.cuh has what they share. */
#include "backend/cuda/decode.cuh"

#define WARPS 4

__device__ inline uint4 load_kv(const void *at)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

/* Where the k-plane of one key of this head begins. */
__device__ inline const char *key_at(const decode_args &a, const uint32_t *table, uint32_t kv_head,
                                     uint32_t key, uint32_t head_bytes)
{
    uint32_t block = key / a.block_tokens, token = key - block * a.block_tokens;
    return a.pool + (size_t)__ldg(table + block) * a.block_bytes + a.layer_at +
           ((size_t)kv_head * a.block_tokens + token) * head_bytes;
}

/* Sixteen keys from first on; those from end on do not count. */
template <int PARTS>
__device__ static void keys_take(const decode_args &args, const uint32_t *table, uint32_t kv_head,
                                 uint32_t first, uint32_t end, const uint32_t a[PARTS][2][4],
                                 state<PARTS> &s)
{
    constexpr uint32_t head_bytes = PARTS * 64;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
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
    keys_add<PARTS>(keys, values, first, end, a, s);
}

/* Where the warps' results of a partition meet; beside it shared_o [WARPS][group][dimensions]. */
struct merged {
    float most[WARPS * HEADS], sum[WARPS * HEADS];
    bool last;
};

template <int PARTS>
__device__ static void warps_show(const state<PARTS> &s, uint32_t group, merged &shared,
                                  float *shared_o)
{
    constexpr uint32_t DIMS = PARTS * 32;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = s.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (t == 0) {
            shared.most[warp * HEADS + g + r * 8] = s.most[r];
            shared.sum[warp * HEADS + g + r * 8] = sum;
        }
        if (g + r * 8 >= group)
            continue;
#pragma unroll
        for (int j = 0; j < PARTS * 4; j++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                shared_o[(warp * group + g + r * 8) * DIMS + dimension_of(j, 2 * t + i)] =
                    s.o[j][r * 2 + i];
    }
}

/* One partition's sum: to o when it is the only one; else to the partials, which the
 * last partition to come adds in order of position. */
template <typename T, int PARTS>
__device__ static void partition_finish(const decode_args &args, uint32_t single, uint32_t row,
                                        uint32_t kv_head, uint32_t partition, uint32_t partitions,
                                        merged &shared, const float *shared_o, T *o)
{
    constexpr uint32_t DIMS = PARTS * 32;
    size_t place = ((size_t)single * args.kv_head_count + kv_head) * args.partitions_max;
    size_t step = (size_t)args.group * (DIMS + 2);
    T *to = o + (size_t)row * args.o_stride + (size_t)kv_head * args.group * DIMS;
    for (uint32_t i = threadIdx.x; i < args.group * DIMS; i += WARPS * 32) {
        uint32_t h = i / DIMS, d = i % DIMS;
        float most = -1e30f, sum = 0, value = 0;
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++)
            most = fmaxf(most, shared.most[w * HEADS + h]);
#pragma unroll
        for (uint32_t w = 0; w < WARPS; w++) {
            float factor = exp2f(shared.most[w * HEADS + h] - most);
            sum += shared.sum[w * HEADS + h] * factor;
            value += shared_o[(w * args.group + h) * DIMS + d] * factor;
        }
        if (partitions == 1) {
            to[i] = from_float<T>(value / sum);
            continue;
        }
        float *part = args.partials + (place + partition) * step + h * (DIMS + 2);
        part[d] = value;
        if (d == 0) {
            part[DIMS] = most;
            part[DIMS + 1] = sum;
        }
    }
    if (partitions == 1)
        return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t *arrived = args.arrivals + (size_t)single * args.kv_head_count + kv_head;
        shared.last = atomicAdd(arrived, 1) == partitions - 1;
        if (shared.last)
            *arrived = 0;
    }
    __syncthreads();
    if (!shared.last)
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < args.group * DIMS; i += WARPS * 32) {
        uint32_t h = i / DIMS, d = i % DIMS;
        const float *from = args.partials + place * step + h * (DIMS + 2);
        float most = -1e30f, sum = 0, value = 0;
        for (uint32_t p = 0; p < partitions; p++)
            most = fmaxf(most, __ldcg(from + p * step + DIMS));
        for (uint32_t p = 0; p < partitions; p++) {
            float factor = exp2f(__ldcg(from + p * step + DIMS) - most);
            sum += __ldcg(from + p * step + DIMS + 1) * factor;
            value += __ldcg(from + p * step + d) * factor;
        }
        to[i] = from_float<T>(value / sum);
    }
}

template <typename T, int PARTS>
__global__ void __launch_bounds__(WARPS * 32)
    decode_kernel(const __grid_constant__ decode_args args, const __half *q, T *o)
{
    constexpr uint32_t DIMS = PARTS * 32;
    extern __shared__ float shared_o[];
    __shared__ merged shared;
    uint32_t single = blockIdx.x, kv_head = blockIdx.y, partition = blockIdx.z;
    chain_next();
    chain_wait();
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
    queries_load<PARTS>(q + (size_t)row * args.q_stride + kv_head * args.group * DIMS, args.group,
                        args.scale, a);
    state<PARTS> s = {};
    s.most[0] = s.most[1] = -1e30f;
    for (uint32_t i = 0; i < PARTITION_KEYS / WARPS / CHUNK_KEYS; i++) {
        uint32_t at = first + warp * (PARTITION_KEYS / WARPS) + i * CHUNK_KEYS;
        if (at < end)
            keys_take<PARTS>(args, table, kv_head, at, end, a, s);
    }
    warps_show<PARTS>(s, args.group, shared, shared_o);
    __syncthreads();
    partition_finish<T, PARTS>(args, single, row, kv_head, partition, partitions, shared, shared_o,
                               o);
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
                       T *o)
{
    const struct backend_shape *shape = &cuda->shape;
    dim3 grid(args->singles, shape->kv_head_count, args->partitions_max);
    size_t bytes = sizeof(float) * WARPS * args->group * shape->head_dim;
    bool grouped = args->group <= HEADS && shape->block_tokens > 0;
    if (decode_hopper_can(cuda, args))
        decode_hopper(cuda, args, q, o);
    else if (grouped && shape->head_dim == 128)
        chain(cuda, decode_kernel<T, 4>, grid, WARPS * 32, bytes, *args, q, o);
    else if (grouped && shape->head_dim == 64)
        chain(cuda, decode_kernel<T, 2>, grid, WARPS * 32, bytes, *args, q, o);
    else
        plain_kernel<T>
            <<<dim3(args->singles, shape->head_count), 32, shape->head_dim * sizeof(float),
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
    for (; piece.first < singles; piece.first += most) {
        piece.singles = singles - piece.first < most ? singles - piece.first : most;
        decode_run<T>(cuda, &piece, (const __half *)q->data, (T *)o->data);
    }
}

size_t decode_partial_bytes(const struct cuda_backend *cuda, uint32_t partitions)
{
    return sizeof(float) * partitions * cuda->shape.head_count * (cuda->shape.head_dim + 4u);
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
    args.starts = step->starts;
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
