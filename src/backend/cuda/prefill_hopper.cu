/* backend/cuda/prefill_hopper.cu - attention of chunks of prompts by Hopper's own means (sm_90a).
 *
 *     block, one a processor   takes (tile of 128 rows, head) after (tile, head), longest first
 *       warpgroup 0            fetches: Q of a tile, then K and V, 128 keys at a time from the last
 *                              to the first, into two stages of shared memory each
 *       warpgroups 1, 2        64 rows each: S = Q K, softmax as it goes, O += P V
 *
 *     turn of 1    | issue S(n-1), O += P(n) V(n) | softmax of S(n-1)            | ...
 *     turn of 2    | softmax                      | issue S(n-1), O += P(n) V(n) | ...
 *
 * A tensor map over the pool has one row for each key of a head, so that a block of the pool is a
 * box of it: keys come from wherever their blocks lie, swizzled as the products want them. Only
 * blocks that hold keys of the sequence are fetched; V's rows behind the last key are zeroed: zero
 * times what another sequence left there need not be zero.
 *
 * Source: Shah et al. 2024, FlashAttention-3 (two warpgroups in turns, S of the next keys issued
 * before P V of these). */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/wgmma.cuh"

#define CONSUMERS 2
#define THREADS ((CONSUMERS + 1) * GROUP_THREADS)
#define ROWS 64   /* of a warpgroup */
#define KEYS 128  /* of a stage */
#define STAGES 2

struct tiles_args {
    const uint32_t *tiles, *first_rows, *row_counts, *starts, *table_offsets, *tables;
    uint32_t tile_count, head_count, group, block_tokens;
    uint32_t block_rows, k_row, v_row; /* of the map: from block to block, of this layer */
    uint32_t o_stride;
    float scale;
};

template <int DIMS> struct tiles_shared {
    __half q[CONSUMERS * ROWS * DIMS]; /* each [chunk of dimensions][row][CHUNK] */
    __half k[STAGES][KEYS * DIMS], v[STAGES][KEYS * DIMS];
    uint64_t q_full, q_empty;
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- turns ---- */

/* Barrier of some warpgroups; an arrival does not wait. */
__device__ inline void turn_wait(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void turn_give(uint32_t id, uint32_t threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- products of a warpgroup ---- */

/* d (+)= a b: 64 rows of a, 16 summed columns, 128 rows of b; both from shared memory. */
__device__ inline void product_qk(float (&d)[64], uint64_t a, uint64_t b, uint32_t adds)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" N64 "}, %64, %65, "
                 "p, 1, 1, 0, 0;\n}"
                 : F16(d, 0), F16(d, 16), F16(d, 32), F16(d, 48)
                 : "l"(a), "l"(b), "r"(adds));
}

/* d += a b: a in registers, b with what is summed down its rows. */
__device__ inline void product_pv(float (&d)[64], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" N64 "}, "
                 "{%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                 : F16(d, 0), F16(d, 16), F16(d, 32), F16(d, 48)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void product_pv(float (&d)[32], const uint32_t *a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" N32 "}, "
                 "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                 : F16(d, 0), F16(d, 16)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

template <int DIMS>
__device__ inline void scores_issue(float (&s)[KEYS / 2], const __half *q, const __half *k)
{
    uint64_t a = tile_of(q, 16), b = tile_of(k, 16);
#pragma unroll
    for (int d = 0; d < DIMS / 16; d++)
        product_qk(s, tile_at(a, d / 4 * (CONSUMERS * ROWS * CHUNK * 2) + d % 4 * 32),
                   tile_at(b, d / 4 * (KEYS * CHUNK * 2) + d % 4 * 32), d > 0);
    products_commit();
}

template <int DIMS>
__device__ inline void values_issue(float (&o)[DIMS / 2], const uint32_t (&p)[KEYS / 4],
                                    const __half *v)
{
    uint64_t b = tile_of(v, KEYS * CHUNK * 2);
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        product_pv(o, p + 4 * i, tile_at(b, i * 16 * CHUNK * 2));
    products_commit();
}

/* ---- one tile ---- */

struct work {
    uint32_t head, first_row, rows, start, end, steps;
    const uint32_t *table;
};

/* The round-th of this block: in turns from the front and from the back of the list, so that who
 * has a long one first has a short one next. */
__device__ inline bool work_find(const tiles_args &args, uint32_t round, work *work_out)
{
    uint32_t place = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    uint32_t index = round * gridDim.x + place;
    if (index >= args.tile_count * args.head_count)
        return false;
    uint32_t tile = args.tile_count - 1 - index / args.head_count;
    uint32_t sequence = args.tiles[2 * tile], row0 = args.tiles[2 * tile + 1];
    work_out->head = index % args.head_count;
    work_out->rows = min(args.row_counts[sequence] - row0, TILE_ROWS);
    work_out->first_row = args.first_rows[sequence] + row0;
    work_out->start = args.starts[sequence] + row0;
    work_out->end = work_out->start + work_out->rows;
    work_out->steps = (work_out->end + KEYS - 1) / KEYS;
    work_out->table = args.tables + args.table_offsets[sequence];
    return true;
}

/* Keys (or values) of step n into stage count % STAGES; a lane a block of the pool. */
template <int DIMS>
__device__ inline void stage_fetch(const tiles_args &args, const work &work,
                                   const CUtensorMap *map, uint32_t plane_row, uint32_t n,
                                   uint32_t count, __half (*stages)[KEYS * DIMS], uint64_t *full,
                                   uint64_t *empty)
{
    uint32_t stage = count % STAGES, lane = threadIdx.x % 32, each = args.block_tokens;
    uint32_t blocks = (min(work.end - n * KEYS, KEYS) + each - 1) / each;
    uint32_t id = 0;
    if (lane < blocks)
        id = __ldg(work.table + n * (KEYS / each) + lane);
    barrier_wait(&empty[stage], (count / STAGES & 1) ^ 1);
    if (lane == 0)
        barrier_expect(&full[stage], blocks * each * DIMS * 2);
    __syncwarp();
    if (lane < blocks) {
        uint32_t row = id * args.block_rows + plane_row + work.head / args.group * each;
#pragma unroll
        for (int chunk = 0; chunk < DIMS / CHUNK; chunk++)
            box_fetch(stages[stage] + (chunk * KEYS + lane * each) * CHUNK, map, chunk * CHUNK,
                      row, &full[stage]);
    }
    __syncwarp();
}

/* By one warp. */
template <int DIMS>
__device__ inline void tiles_fetch(const tiles_args &args, const CUtensorMap *q_map,
                                   const CUtensorMap *pool_map, tiles_shared<DIMS> &shared)
{
    work work;
    for (uint32_t round = 0, count = 0; work_find(args, round, &work); round++) {
        stage_fetch<DIMS>(args, work, pool_map, args.k_row, work.steps - 1, count, shared.k,
                          shared.k_full, shared.k_empty);
        if (threadIdx.x % 32 == 0) {
            barrier_wait(&shared.q_empty, (round & 1) ^ 1);
            barrier_expect(&shared.q_full, sizeof(shared.q));
#pragma unroll
            for (int chunk = 0; chunk < DIMS / CHUNK; chunk++)
                box_fetch(shared.q + chunk * CONSUMERS * ROWS * CHUNK, q_map,
                          work.head * DIMS + chunk * CHUNK, work.first_row, &shared.q_full);
        }
        __syncwarp();
        for (uint32_t n = work.steps; n-- > 0; count++) {
            if (n > 0)
                stage_fetch<DIMS>(args, work, pool_map, args.k_row, n - 1, count + 1, shared.k,
                                  shared.k_full, shared.k_empty);
            stage_fetch<DIMS>(args, work, pool_map, args.v_row, n, count, shared.v, shared.v_full,
                              shared.v_empty);
        }
    }
}

/* The rows of a thread: g and g + 8 of its warp's 16. */
struct rows_state {
    float most[2], sum[2];
    uint32_t last[2]; /* key that each may see */
};

__device__ inline void scores_mask(float (&s)[KEYS / 2], const rows_state &rows, uint32_t n)
{
    uint32_t first = n * KEYS + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        if (first + i / 4 * 8 + i % 2 > rows.last[i / 2 % 2])
            s[i] = -INFINITY;
}

/* 2^x; below 2^-126 it is 0. */
__device__ inline float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* S becomes P; factors: what earlier sums and outputs are to be multiplied with. */
__device__ inline void scores_exp(float (&s)[KEYS / 2], rows_state &rows, float scale,
                                  float factors[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = rows.most[r];
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
            most = fmaxf(most, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        factors[r] = power_of_two((rows.most[r] - most) * scale);
        rows.most[r] = most;
        float base = most * scale, sum = 0;
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) {
            float &value = s[i / 2 * 4 + 2 * r + i % 2];
            value = power_of_two(fmaf(value, scale, -base));
            sum += value;
        }
        rows.sum[r] = rows.sum[r] * factors[r] + sum;
    }
}

__device__ inline void scores_pack(const float (&s)[KEYS / 2], uint32_t (&p)[KEYS / 4])
{
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
        __half2 v = __floats2half2_rn(s[2 * i], s[2 * i + 1]);
        p[i] = *(uint32_t *)&v;
    }
}

/* Values behind the last key count nothing, whatever lies there. */
template <int DIMS> __device__ inline void values_clear(__half *v, uint32_t from, uint32_t group)
{
    uint32_t pieces = (KEYS - from) * (CHUNK / 8);
    for (uint32_t i = threadIdx.x % GROUP_THREADS; i < pieces; i += GROUP_THREADS)
#pragma unroll
        for (int chunk = 0; chunk < DIMS / CHUNK; chunk++)
            ((uint4 *)(v + (chunk * KEYS + from) * CHUNK))[i] = make_uint4(0, 0, 0, 0);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    turn_wait(1 + CONSUMERS + group, GROUP_THREADS);
}

template <typename T> __device__ inline uint32_t pair_of(float a, float b)
{
    T values[2] = {from_float<T>(a), from_float<T>(b)};
    return (uint32_t)*(uint16_t *)&values[0] | (uint32_t)*(uint16_t *)&values[1] << 16;
}

/* Four lanes hold 8 values of each of four columns of tiles: after it each has one column's. */
template <typename T, int DIMS>
__device__ inline void rows_store(const float (&o)[DIMS / 2], rows_state &rows, const work &work,
                                  uint32_t row0, T *o_all, uint32_t o_stride)
{
    uint32_t t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = rows.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float factor = 1.0f / sum;
        uint32_t row = row0 + r * 8;
        T *to = o_all + (size_t)(work.first_row + row) * o_stride + work.head * DIMS;
#pragma unroll
        for (int d = 0; d < DIMS / 32; d++) {
            uint32_t mine[4], out[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                mine[i] = pair_of<T>(o[(4 * d + i) * 4 + 2 * r] * factor,
                                     o[(4 * d + i) * 4 + 2 * r + 1] * factor);
#pragma unroll
            for (int step = 0; step < 4; step++) { /* with lane t ^ step: my tile t ^ step */
                uint32_t give = mine[0];
                give = (t ^ step) == 1 ? mine[1] : give;
                give = (t ^ step) == 2 ? mine[2] : give;
                give = (t ^ step) == 3 ? mine[3] : give;
                uint32_t got = __shfl_xor_sync(0xffffffffu, give, step);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    out[i] = (t ^ step) == i ? got : out[i];
            }
            if (row < work.rows)
                *(uint4 *)(to + d * 32 + t * 8) = make_uint4(out[0], out[1], out[2], out[3]);
        }
    }
}

/* S of step n while P V of step n + 1 is added; P and O are those of n afterwards. */
template <int DIMS, bool MASKED>
__device__ inline void step_take(tiles_shared<DIMS> &shared, uint32_t group, uint32_t n,
                                 uint32_t count, float scale, float (&s)[KEYS / 2],
                                 float (&o)[DIMS / 2], uint32_t (&p)[KEYS / 4], rows_state &rows)
{
    uint32_t k_stage = (count + 1) % STAGES, v_stage = count % STAGES;
    float factors[2];
    barrier_wait(&shared.k_full[k_stage], (count + 1) / STAGES & 1);
    barrier_wait(&shared.v_full[v_stage], count / STAGES & 1);
    turn_wait(1 + group, CONSUMERS * GROUP_THREADS);
    products_begin();
    scores_issue<DIMS>(s, shared.q + group * ROWS * CHUNK, shared.k[k_stage]);
    values_issue<DIMS>(o, p, shared.v[v_stage]);
    turn_give(1 + (group + 1) % CONSUMERS, CONSUMERS * GROUP_THREADS);
    products_wait<1>();
    values_settle(s);
    if (threadIdx.x % 32 == 0) {
        barrier_arrive(&shared.k_empty[k_stage]);
        if (n == 0)
            barrier_arrive(&shared.q_empty);
    }
    if (MASKED)
        scores_mask(s, rows, n);
    scores_exp(s, rows, scale, factors);
    /* Softmax belongs before the wait for P V, but compiler and assembler move the wait up; over a
     * loop they do not. This one has ended. */
    values_settle(s);
    barrier_wait(&shared.v_full[v_stage], count / STAGES & 1);
    products_wait<0>();
    values_settle(o);
    if (threadIdx.x % 32 == 0)
        barrier_arrive(&shared.v_empty[v_stage]);
    scores_pack(s, p);
#pragma unroll
    for (int i = 0; i < DIMS / 2; i++)
        o[i] *= factors[i / 2 % 2];
}

template <typename T, int DIMS>
__device__ inline void tiles_take(const tiles_args &args, tiles_shared<DIMS> &shared, T *o_all)
{
    uint32_t group = threadIdx.x / GROUP_THREADS - 1, lane = threadIdx.x % 32;
    uint32_t row0 = group * ROWS + threadIdx.x / 32 % 4 * 16 + lane / 4;
    float s[KEYS / 2], o[DIMS / 2], factors[2];
    uint32_t p[KEYS / 4];
    work work;
    if (group == 1)
        turn_give(1, CONSUMERS * GROUP_THREADS);
    for (uint32_t round = 0, count = 0; work_find(args, round, &work); round++) {
        rows_state rows = {{-1e30f, -1e30f}, {0, 0}, {}};
        uint32_t n = work.steps - 1, stage = count % STAGES;
#pragma unroll
        for (int r = 0; r < 2; r++)
            rows.last[r] = min(work.start + row0 + r * 8, work.end - 1);
#pragma unroll
        for (int i = 0; i < DIMS / 2; i++)
            o[i] = 0;
        barrier_wait(&shared.q_full, round & 1);
        barrier_wait(&shared.k_full[stage], count / STAGES & 1);
        products_begin();
        scores_issue<DIMS>(s, shared.q + group * ROWS * CHUNK, shared.k[stage]);
        products_wait<0>();
        values_settle(s);
        if (lane == 0) {
            barrier_arrive(&shared.k_empty[stage]);
            if (n == 0)
                barrier_arrive(&shared.q_empty);
        }
        scores_mask(s, rows, n);
        scores_exp(s, rows, args.scale, factors);
        scores_pack(s, p);
        if (work.end % KEYS != 0) {
            barrier_wait(&shared.v_full[stage], count / STAGES & 1);
            values_clear<DIMS>(shared.v[stage], work.end % KEYS, group);
        }
        for (; n > 0 && n * KEYS > work.start + group * ROWS + 1; count++)
            step_take<DIMS, true>(shared, group, --n, count, args.scale, s, o, p, rows);
        for (; n > 0; count++)
            step_take<DIMS, false>(shared, group, --n, count, args.scale, s, o, p, rows);
        stage = count % STAGES;
        barrier_wait(&shared.v_full[stage], count / STAGES & 1);
        products_begin();
        values_issue<DIMS>(o, p, shared.v[stage]);
        products_wait<0>();
        values_settle(o);
        if (lane == 0)
            barrier_arrive(&shared.v_empty[stage]);
        count++;
        rows_store<T, DIMS>(o, rows, work, row0, o_all, args.o_stride);
    }
}

#endif

template <typename T, int DIMS>
__global__ void __launch_bounds__(THREADS, 1)
    tiles_kernel(const __grid_constant__ tiles_args args, const __grid_constant__ CUtensorMap q_map,
                 const __grid_constant__ CUtensorMap pool_map, T *o_all)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char memory[];
    tiles_shared<DIMS> &shared = *(tiles_shared<DIMS> *)(((uintptr_t)memory + ALIGNMENT - 1) /
                                                         ALIGNMENT * ALIGNMENT);
    if (threadIdx.x == 0) {
        barrier_open(&shared.q_full, 1);
        barrier_open(&shared.q_empty, CONSUMERS * 4);
        for (int i = 0; i < STAGES; i++) {
            barrier_open(&shared.k_full[i], 1);
            barrier_open(&shared.v_full[i], 1);
            barrier_open(&shared.k_empty[i], CONSUMERS * 4);
            barrier_open(&shared.v_empty[i], CONSUMERS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < GROUP_THREADS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x < 32)
            tiles_fetch<DIMS>(args, &q_map, &pool_map, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        tiles_take<T, DIMS>(args, shared, o_all);
    }
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

/* ---- the host's side ---- */

bool attend_hopper_can(const struct cuda_backend *cuda, const struct backend_buffer *q,
                       const struct backend_buffer *o)
{
    const struct backend_shape *shape = &cuda->shape;
    return (shape->head_dim == 128 || shape->head_dim == 64) && shape->block_tokens % 8 == 0 &&
           KEYS % shape->block_tokens == 0 && pool_has_boxes(cuda, shape->block_tokens) &&
           q->stride % 8 == 0 && o->stride % 8 == 0 && (uintptr_t)q->data % 16 == 0 &&
           (uintptr_t)o->data % 16 == 0;
}

template <typename T, int DIMS>
static void tiles_launch(struct cuda_backend *cuda, const struct tiles_args *args,
                         const CUtensorMap *q_map, const CUtensorMap *pool_map,
                         struct backend_buffer *o)
{
    size_t bytes = sizeof(struct tiles_shared<DIMS>) + ALIGNMENT;
    uint32_t works = args->tile_count * args->head_count;
    uint32_t blocks = works < (uint32_t)cuda->processors ? works : (uint32_t)cuda->processors;
    cuda_good(cuda,
              cudaFuncSetAttribute(tiles_kernel<T, DIMS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
              "shared memory of attention");
    tiles_kernel<T, DIMS>
        <<<blocks, THREADS, bytes, cuda->stream>>>(*args, *q_map, *pool_map, (T *)o->data);
}

template <typename T>
static void tiles_run(struct cuda_backend *cuda, const struct tiles_args *args,
                      const CUtensorMap *q_map, const CUtensorMap *pool_map,
                      struct backend_buffer *o)
{
    if (cuda->shape.head_dim == 128)
        tiles_launch<T, 128>(cuda, args, q_map, pool_map, o);
    else
        tiles_launch<T, 64>(cuda, args, q_map, pool_map, o);
}

void attend_hopper(struct cuda_backend *cuda, uint32_t layer, const struct backend_buffer *q,
                   struct backend_buffer *o)
{
    const struct backend_shape *shape = &cuda->shape;
    const struct device_step *step = &cuda->device;
    size_t head_bytes = shape->head_dim * 2u;
    struct tiles_args args = {};
    CUtensorMap q_map, pool_map;
    args.tiles = step->tiles;
    args.first_rows = step->first_rows;
    args.row_counts = step->row_counts;
    args.starts = step->starts;
    args.table_offsets = step->table_offsets;
    args.tables = step->tables;
    args.tile_count = cuda->tile_count;
    args.head_count = shape->head_count;
    args.group = shape->head_count / shape->kv_head_count;
    args.block_tokens = shape->block_tokens;
    args.block_rows = (uint32_t)(shape->block_bytes / head_bytes);
    args.k_row = (uint32_t)(layer * shape->layer_bytes / head_bytes);
    args.v_row = args.k_row + (uint32_t)(shape->layer_bytes / 2 / head_bytes);
    args.o_stride = o->stride;
    args.scale = (float)(1.4426950408889634 / sqrt((double)shape->head_dim));
    if (!box_map_make(cuda, q->data, (uint64_t)shape->head_count * shape->head_dim, cuda->rows,
                  (uint64_t)q->stride * 2, CONSUMERS * ROWS, &q_map) ||
        !box_map_make(cuda, cuda->pool_device, shape->head_dim, cuda->pool.bytes / head_bytes,
                  head_bytes, shape->block_tokens, &pool_map))
        return;
    BY_TYPE(cuda, tiles_run, cuda, &args, &q_map, &pool_map, o);
    cuda_good(cuda, cudaGetLastError(), "attention of a prompt");
}
