/* backend/cuda/batch_hopper.cu - y = W x for 9 to 32 rows on sm_90: weights at memory's rate, by
 * the tensor cores.
 *
 *     cluster        a tile of 128 outputs; each of its blocks sums one part of the columns
 *       a warp       of a block fetches: 64 columns of W's 128 rows and of all rows of x a stage
 *       a warpgroup  D += x W, both from shared memory; of its 64 rows those of x count
 *     end            sums are laid into shared memory; each block adds its columns of all the
 *                    parts, in order, and stores them
 *
 * Memory is kept busy by the blocks of all tiles together, so there are as many parts of columns as
 * it takes to have a block on every multiprocessor, and no tile waits for another. W does not
 * depend on the kernels before: its first stages are asked for while they run. How many parts there
 * are depends on the weight only. */
#include "backend/cuda/wgmma.cuh"

#define OUTPUTS 128u /* of a tile */
#define ROWS_MAX 32u /* with more cuBLASLt is as fast */
#define THREADS (GROUP_THREADS + 32)
#define PITCH (OUTPUTS + 8) /* of sums: rows that a warp writes at once share no bank */
#define STAGES_MAX 8u
#define W_BYTES (OUTPUTS * CHUNK * 2)
#define SHARED_PAIR 115712u /* of two blocks on one multiprocessor */

struct batch_args {
    void *y;
    uint32_t y_stride, outputs, rows, chunks, parts;
    uint32_t stages, x_bytes; /* of a stage's x */
    bool accumulate, halves, pieces; /* y can be written four at a time */
};

struct batch_barriers {
    uint64_t full[STAGES_MAX], empty[STAGES_MAX];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename T>
__device__ inline void product_add(float (&d)[64], uint64_t a, uint64_t b, uint32_t adds);

template <>
__device__ inline void product_add<__half>(float (&d)[64], uint64_t a, uint64_t b, uint32_t adds)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" N64 "}, %64, %65, "
                 "p, 1, 1, 0, 0;\n}"
                 : F16(d, 0), F16(d, 16), F16(d, 32), F16(d, 48)
                 : "l"(a), "l"(b), "r"(adds));
}

template <>
__device__ inline void product_add<__nv_bfloat16>(float (&d)[64], uint64_t a, uint64_t b,
                                                  uint32_t adds)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" N64 "}, %64, %65, "
                 "p, 1, 1, 0, 0;\n}"
                 : F16(d, 0), F16(d, 16), F16(d, 32), F16(d, 48)
                 : "l"(a), "l"(b), "r"(adds));
}

/* Every thread of the cluster, and what each wrote is seen. */
__device__ inline void cluster_meet(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;"
                 ::: "memory");
}

/* Four floats of another block's shared memory. */
__device__ inline float4 cluster_read(const float *mine, uint32_t part)
{
    uint32_t at;
    float4 v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(address_of(mine)),
                 "r"(part));
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

/* One thread: chunks begin .. end of W, and of x once there is one. */
__device__ inline void chunks_fetch(const batch_args &args, const CUtensorMap *w_map,
                                    const CUtensorMap *x_map, uint32_t tile, uint32_t begin,
                                    uint32_t end, char *stages, batch_barriers &barriers)
{
    uint32_t bytes = args.x_bytes + W_BYTES, first = min(end - begin, args.stages);
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (uint32_t s = 0; s < first; s++) {
        barrier_expect(&barriers.full[s], bytes);
        box_fetch_once(stages + s * bytes + args.x_bytes, w_map, (begin + s) * CHUNK,
                       tile * OUTPUTS, &barriers.full[s], policy);
    }
    chain_wait();
    asm volatile("fence.proxy.async;" ::: "memory"); /* x was stored by threads */
    for (uint32_t s = 0; s < first; s++)
        box_fetch(stages + s * bytes, x_map, (begin + s) * CHUNK, 0, &barriers.full[s]);
    for (uint32_t n = first; n < end - begin; n++) {
        uint32_t s = n % args.stages;
        barrier_wait(&barriers.empty[s], (n / args.stages - 1) & 1);
        barrier_expect(&barriers.full[s], bytes);
        box_fetch_once(stages + s * bytes + args.x_bytes, w_map, (begin + n) * CHUNK,
                       tile * OUTPUTS, &barriers.full[s], policy);
        box_fetch(stages + s * bytes, x_map, (begin + n) * CHUNK, 0, &barriers.full[s]);
    }
}

/* The warpgroup: x times the tile; the sums lie where the stages were afterwards. Its 64 rows reach
 * beyond x into W: what they hold there is nobody's sum. */
template <typename T>
__device__ inline void chunks_take(const batch_args &args, uint32_t count, char *stages,
                                   batch_barriers &barriers)
{
    uint32_t lane = threadIdx.x % 32, bytes = args.x_bytes + W_BYTES;
    float d[64];
    uint32_t slot = 0, turn = 0, last = 0;
    for (uint32_t n = 0; n < count; n++) {
        barrier_wait(&barriers.full[slot], turn);
        uint64_t a = tile_of(stages + slot * bytes, 16);
        uint64_t b = tile_of(stages + slot * bytes + args.x_bytes, 16);
        products_begin();
#pragma unroll
        for (int k = 0; k < (int)CHUNK / 16; k++)
            product_add<T>(d, tile_at(a, k * 32), tile_at(b, k * 32), n > 0 || k > 0);
        products_commit();
        products_wait<1>(); /* the stage before is free */
        if (n > 0 && lane == 0)
            barrier_arrive(&barriers.empty[last]);
        last = slot;
        slot = slot + 1 == args.stages ? 0 : slot + 1;
        turn ^= slot == 0;
    }
    products_wait<0>();
    values_settle(d);
    asm volatile("bar.sync 1, %0;" ::"n"(GROUP_THREADS) : "memory"); /* stages are free */
    float *sums = (float *)stages;
    uint32_t row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 32; i++) {
        uint32_t r = row + i % 2 * 8, column = i / 2 * 8 + lane % 4 * 2;
        if (r < args.rows)
            *(float2 *)(sums + r * PITCH + column) = make_float2(d[2 * i], d[2 * i + 1]);
    }
}

/* Four outputs of a row. */
template <typename T>
__device__ inline void sums_store(const batch_args &args, uint32_t row, uint32_t output, float4 sum)
{
    size_t at = (size_t)row * args.y_stride + output;
    float *floats = (float *)args.y + at;
    T *halves = (T *)args.y + at;
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
    if (!args.pieces || output + 4 > args.outputs) {
        for (uint32_t i = 0; i < 4 && output + i < args.outputs; i++) {
            if (args.halves)
                halves[i] = from_float<T>(values[i]);
            else
                floats[i] = args.accumulate ? floats[i] + values[i] : values[i];
        }
    } else if (args.halves) {
        __align__(8) T four[4] = {from_float<T>(sum.x), from_float<T>(sum.y), from_float<T>(sum.z),
                                  from_float<T>(sum.w)};
        *(uint2 *)halves = *(const uint2 *)four;
    } else {
        float4 before = args.accumulate ? *(const float4 *)floats : make_float4(0, 0, 0, 0);
        *(float4 *)floats = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z,
                                        before.w + sum.w);
    }
}

/* This block's columns of all parts. */
template <typename T>
__device__ inline void parts_add(const batch_args &args, uint32_t tile, uint32_t part,
                                 const float *sums)
{
    uint32_t width = OUTPUTS / args.parts, fours = width / 4;
    for (uint32_t i = threadIdx.x; i < args.rows * fours; i += blockDim.x) {
        uint32_t row = i / fours, column = part * width + i % fours * 4;
        const float *at = sums + row * PITCH + column;
        float4 sum = make_float4(0, 0, 0, 0);
        for (uint32_t p = 0; p < args.parts; p++) {
            float4 v = args.parts == 1 ? *(const float4 *)at : cluster_read(at, p);
            sum.x += v.x;
            sum.y += v.y;
            sum.z += v.z;
            sum.w += v.w;
        }
        sums_store<T>(args, row, tile * OUTPUTS + column, sum);
    }
}

#endif

template <typename T>
__global__ void __launch_bounds__(THREADS, 2)
    batch_kernel(const __grid_constant__ batch_args args, const __grid_constant__ CUtensorMap w_map,
                 const __grid_constant__ CUtensorMap x_map)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char memory[];
    __shared__ batch_barriers barriers;
    char *stages = (char *)(((uintptr_t)memory + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    uint32_t tile = blockIdx.x / args.parts, part = blockIdx.x - tile * args.parts;
    uint32_t begin = part * args.chunks / args.parts, end = (part + 1) * args.chunks / args.parts;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < args.stages; i++) {
            barrier_open(&barriers.full[i], 1);
            barrier_open(&barriers.empty[i], GROUP_THREADS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    chain_next();
    if (threadIdx.x >= GROUP_THREADS) {
        if (threadIdx.x % 32 == 0)
            chunks_fetch(args, &w_map, &x_map, tile, begin, end, stages, barriers);
        __syncwarp();
        chain_wait();
    } else {
        chain_wait();
        chunks_take<T>(args, end - begin, stages, barriers);
    }
    __syncwarp();
    if (args.parts > 1)
        cluster_meet();
    else
        __syncthreads();
    parts_add<T>(args, tile, part, (const float *)stages);
    __syncwarp();
    if (args.parts > 1)
        cluster_meet(); /* the others read this block's shared memory */
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

/* ---- the host's side ---- */

bool batch_can(const struct cuda_backend *cuda, const struct product *product)
{
    const struct backend_tensor *w = product->weights[0];
    return cuda->hopper && !w->quantised && product->rows <= ROWS_MAX &&
           w->columns % 8 == 0 && product->x->stride % 8 == 0 &&
           (uintptr_t)product->x->data % 16 == 0 && (product->count == 1 || product_joint(product));
}

/* Into how many parts the columns go: about a block for each multiprocessor, some of them two. */
static uint32_t parts_of(const struct cuda_backend *cuda, uint32_t tiles, uint32_t chunks)
{
    uint32_t parts = 1, most = (uint32_t)cuda->processors * 3 / 2;
    while (parts < 8 && tiles * parts * 2 <= most && chunks >= parts * 2)
        parts *= 2;
    return parts;
}

template <typename T>
static void batch_run(struct cuda_backend *cuda, struct batch_args *args, const CUtensorMap *w_map,
                      const CUtensorMap *x_map)
{
    uint32_t blocks = (args->outputs + OUTPUTS - 1) / OUTPUTS * args->parts;
    uint32_t bytes = args->x_bytes + W_BYTES, fit = (SHARED_PAIR - 2 * ALIGNMENT) / bytes;
    args->stages = fit < STAGES_MAX ? fit : STAGES_MAX;
    cuda_good(cuda,
              cudaFuncSetAttribute(batch_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)SHARED_PAIR),
              "shared memory of a product");
    chain_clusters(cuda, batch_kernel<T>, blocks, args->parts, THREADS,
                   args->stages * bytes + ALIGNMENT, *args, *w_map, *x_map);
}

void batch_product(struct cuda_backend *cuda, const struct product *product)
{
    const struct backend_tensor *w = product->weights[0];
    const struct backend_buffer *x = product->x, *y = product->ys[0];
    struct batch_args args = {};
    CUtensorMap w_map, x_map;
    uint32_t box_rows = (product->rows + 7) / 8 * 8;
    for (uint32_t i = 0; i < product->count; i++)
        args.outputs += product->weights[i]->rows;
    args.y = y->data;
    args.y_stride = y->stride;
    args.rows = product->rows;
    args.chunks = (w->columns + CHUNK - 1) / CHUNK;
    args.parts = parts_of(cuda, (args.outputs + OUTPUTS - 1) / OUTPUTS, args.chunks);
    args.x_bytes = box_rows * CHUNK * 2;
    args.accumulate = product->accumulate;
    args.halves = y->halves;
    args.pieces = y->stride % 4 == 0 && (uintptr_t)y->data % 16 == 0;
    if (!box_map_make(cuda, w->data, w->columns, args.outputs, (uint64_t)w->columns * 2, OUTPUTS,
                      &w_map) ||
        !box_map_make(cuda, x->data, w->columns, product->rows, (uint64_t)x->stride * 2, box_rows,
                      &x_map))
        return;
    BY_TYPE(cuda, batch_run, cuda, &args, &w_map, &x_map);
    for (uint32_t i = 0; i < product->count; i++)
        if (product->biases[i] != NULL)
            rows_bias(cuda, product->biases[i], product->ys[i]);
}
