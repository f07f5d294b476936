/* backend/cuda/decode_hopper.cu - attention of single rows on sm_90: keys and values stream through
 * shared memory, and every warp works on its own.
 *
 *     the host         lists the partitions that there are, whole ones first: warps have equal
 *                      shares of the list, however unlike the rows are
 *     warp (eight a multiprocessor)   takes (row, partition, kv head), one after another: asks for
 *                                     keys and values 16 at a time, three chunks ahead, whatever
 *                                     partition they belong to, and adds them in order
 *     a second kernel                 adds the partitions of a row, in an order that depends on
 *                                     their number only
 *
 *     chunk: [16 keys][16 values], as they lie in the pool: sixteen tokens of a head lie together
 *
 * A warp that waits for where its next blocks are keeps its copies under way, and holds up nobody.
 * Keys and values of earlier steps are asked for before the kernels before have ended.
 * decode.cuh has the arithmetic. */
#include "backend/cuda/decode.cuh"
#include "backend/cuda/hopper.cuh"

#define WARPS 8
#define THREADS (WARPS * 32)
#define CHUNKS 3u /* of a warp */
#define MERGERS 4 /* warps that add the partitions of a row */
#define MERGED_AT_ONCE 4u
#define MERGED_BY_ONE 16u /* partitions that one warp adds as well */
#define WORK_KEYS 32u   /* what a partition costs beside its keys, in keys */
#define MERGE_KEYS 24u  /* what MERGED_BY_ONE partitions of a row cost, or fewer, to be added */
#define KEYS_LEAST 64u  /* of a partition */
#define KEYS_STEPS 512u /* up to here any number of chunks; else half of a row, or all of it */
#define UNIT_SINGLES 65536u /* a unit: partition * UNIT_SINGLES + single row */

struct decode_work { /* a partition of a row, for one kv head; of one warp */
    uint32_t single, row, kv_head, partition, partitions, keys;
    uint32_t old; /* keys that were there before this step */
    uint32_t first; /* of the sequence's keys */
    const uint32_t *table;
    const char *piece; /* a lane's: where its tokens of the next 32 pieces lie */
};

struct work_list { /* where decode_units put it */
    const uint32_t *units; /* NULL: there was no room; every partition that could be is looked at */
    uint32_t count, keys;  /* keys: of a whole partition */
};

template <int DIMS> struct decode_shared {
    char chunks[WARPS][CHUNKS][CHUNK_KEYS * DIMS * 4];
    uint64_t full[WARPS][CHUNKS];
};

/* Values of a partition: [group][DIMS] in the order that threads have them, [group] of (largest
 * score, sum); steps are whole 16 bytes. */
__host__ __device__ inline size_t partial_step(uint32_t group, uint32_t dims)
{
    return (size_t)group * (dims + 4);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline void piece_fetch(void *to, const void *from, uint32_t bytes, uint64_t *full)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(address_of(to)),
                 "l"(from), "r"(bytes), "r"(address_of(full))
                 : "memory");
}

__device__ inline work_list work_listed(const decode_args &args)
{
    uint32_t count = args.head[5];
    if (count > 0)
        return {args.tables + args.head[4], count, args.head[6]};
    return {NULL, args.singles * args.partitions_max, args.head[6]};
}

__device__ inline uint32_t piece_tokens(const decode_args &args)
{
    return min(args.block_tokens, CHUNK_KEYS);
}

/* Where a lane's piece lies, of the 32 that begin with key at of the partition. */
template <int DIMS>
__device__ inline const char *piece_find(const decode_args &args, const decode_work &work,
                                         uint32_t at)
{
    uint32_t piece = piece_tokens(args), mine = at + threadIdx.x % 32 * piece;
    uint32_t key = work.first + min(mine, work.keys - 1) / piece * piece;
    return args.pool + (size_t)work.table[key / args.block_tokens] * args.block_bytes +
           args.layer_at +
           ((size_t)work.kv_head * args.block_tokens + key % args.block_tokens) * (DIMS * 2);
}

/* The next partition of this launch, from *index on; *index moves behind it. Without a list the
 * first partitions of all rows, then the second. */
template <int DIMS>
__device__ inline bool work_find(const decode_args &args, const work_list &list, uint32_t *index,
                                 uint32_t step, decode_work *work)
{
    uint32_t all = list.count * args.kv_head_count;
    for (; *index < all; *index += step) {
        uint32_t rest = *index / args.kv_head_count;
        work->kv_head = *index - rest * args.kv_head_count;
        if (list.units != NULL) {
            uint32_t unit = list.units[rest];
            work->partition = unit / UNIT_SINGLES;
            work->single = unit % UNIT_SINGLES - args.first;
            if (work->single >= args.singles)
                continue; /* of another launch */
        } else {
            work->partition = rest / args.singles;
            work->single = rest - work->partition * args.singles;
            if (args.first + work->single >= args.head[3])
                continue;
        }
        work->row = args.rows[args.first + work->single];
        uint32_t length = args.positions[work->row] + 1;
        uint32_t first = work->partition * list.keys;
        if (first >= length)
            continue;
        uint32_t sequence = args.row_sequences[work->row];
        uint32_t start = max(args.starts[sequence], first);
        work->partitions = (length + list.keys - 1) / list.keys;
        work->keys = min(list.keys, length - first);
        work->old = min(start - first, work->keys);
        work->first = first;
        work->table = args.tables + args.table_offsets[sequence];
        work->piece = piece_find<DIMS>(args, *work, 0);
        *index += step;
        return true;
    }
    return false;
}

/* A warp's copies: chunk after chunk of work after work. */
template <int DIMS> struct reader {
    const decode_args &args;
    const work_list &list;
    decode_shared<DIMS> &shared;
    uint32_t index, step; /* in the list, for each kv head */
    decode_work work;     /* that is being asked for */
    uint32_t at;          /* its next chunk's first key */
    bool more;
    uint32_t asked; /* chunks, ever */

    __device__ inline void begin(void)
    {
        at = 0;
        asked = 0;
        more = work_find<DIMS>(args, list, &index, step, &work);
    }

    /* The next chunk is of keys and values that no kernel of this step writes. */
    __device__ inline bool old(void) const
    {
        return more && min(at + CHUNK_KEYS, work.keys) <= work.old;
    }

    /* The next chunk, if there is one, into its place, which nobody reads any more. */
    __device__ inline void ask(void)
    {
        constexpr uint32_t head_bytes = DIMS * 2;
        if (!more)
            return;
        uint32_t piece = piece_tokens(args), pieces = 32 * piece; /* tokens of all lanes' */
        uint32_t lane = threadIdx.x % 32;
        uint32_t slot = asked % CHUNKS, keys = min(CHUNK_KEYS, work.keys - at);
        uint64_t *full = &shared.full[threadIdx.x / 32][slot];
        char *to = shared.chunks[threadIdx.x / 32][slot];
        if (lane == 0)
            barrier_expect(full, 2 * keys * head_bytes);
        __syncwarp();
        uint32_t mine = (at & ~(pieces - 1)) + lane * piece; /* its piece's first key */
        if (mine >= at && mine < at + keys) {
            uint32_t bytes = min(piece, work.keys - mine) * head_bytes;
            to += (mine - at) * head_bytes;
            piece_fetch(to, work.piece, bytes, full);
            piece_fetch(to + CHUNK_KEYS * head_bytes, work.piece + args.plane_bytes, bytes, full);
        }
        asked++;
        at += keys;
        if (at == work.keys) {
            at = 0;
            more = work_find<DIMS>(args, list, &index, step, &work);
        } else if ((at & (pieces - 1)) == 0) {
            work.piece = piece_find<DIMS>(args, work, at);
        }
    }
};

/* Sixteen keys from first on, as they lie in a chunk. */
template <int PARTS>
__device__ static void chunk_add(const char *chunk, uint32_t first, uint32_t end,
                                 const uint32_t a[PARTS][2][4], state<PARTS> &s)
{
    constexpr uint32_t head_bytes = PARTS * 64;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 keys[2][PARTS], values[4][PARTS / 2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            keys[i][part] = *(const uint4 *)(chunk + (i * 8 + g) * head_bytes + part * 64 + t * 16);
    /* what is beyond the end was never written: its weight is 0, and 0 times NaN would not be */
    chunk += CHUNK_KEYS * head_bytes + g * 16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t key = min(i / 2 * 8 + 2 * t + i % 2, end - first - 1);
#pragma unroll
        for (int h = 0; h < PARTS / 2; h++)
            values[i][h] = *(const uint4 *)(chunk + key * head_bytes + h * 128);
    }
    keys_add<PARTS>(keys, values, first, end, a, s);
}

/* A partition's sums: to o when it is the only one, else to the partials. */
template <typename T, int PARTS>
__device__ static void work_finish(const decode_args &args, const decode_work &work,
                                   const state<PARTS> &s, T *o)
{
    constexpr uint32_t DIMS = PARTS * 32;
    uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    size_t place = (size_t)work.single * args.kv_head_count + work.kv_head;
    float *part = args.partials +
                  (place * args.partitions_max + work.partition) * partial_step(args.group, DIMS);
    T *to = o + (size_t)work.row * args.o_stride + (size_t)work.kv_head * args.group * DIMS;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t h = g + r * 8;
        float sum = s.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (h >= args.group)
            continue;
#pragma unroll
        for (int j = 0; j < PARTS * 4; j += 2) {
            float4 v = make_float4(s.o[j][r * 2], s.o[j][r * 2 + 1], s.o[j + 1][r * 2],
                                   s.o[j + 1][r * 2 + 1]);
            if (work.partitions > 1) {
                *(float4 *)(part + h * DIMS + (j * 2 + t) * 4) = v;
                continue;
            }
            to[h * DIMS + dimension_of(j, 2 * t)] = from_float<T>(v.x / sum);
            to[h * DIMS + dimension_of(j, 2 * t + 1)] = from_float<T>(v.y / sum);
            to[h * DIMS + dimension_of(j + 1, 2 * t)] = from_float<T>(v.z / sum);
            to[h * DIMS + dimension_of(j + 1, 2 * t + 1)] = from_float<T>(v.w / sum);
        }
        if (work.partitions > 1 && t == 0)
            *(float2 *)(part + args.group * DIMS + h * 2) = make_float2(s.most[r], sum);
    }
}

#endif

template <typename T, int DIMS>
__global__ void __launch_bounds__(THREADS, 1)
    works_kernel(const __grid_constant__ decode_args args, const __half *q, T *o)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr int PARTS = DIMS / 32;
    extern __shared__ __align__(128) char memory[];
    decode_shared<DIMS> &shared = *(decode_shared<DIMS> *)memory;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t index = warp * gridDim.x + blockIdx.x, step = WARPS * gridDim.x;
    if (lane < CHUNKS)
        barrier_open(&shared.full[warp][lane], 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncwarp();
    chain_next();
    const work_list list = work_listed(args);
    reader<DIMS> reader = {args, list, shared, index, step, {}, 0, false, 0};
    decode_work work;
    uint32_t asked = 0;
    reader.begin();
    for (; asked < CHUNKS && reader.old(); asked++)
        reader.ask();
    chain_wait();
    asm volatile("fence.proxy.async;" ::: "memory"); /* the last keys were stored by threads */
    for (; asked < CHUNKS; asked++)
        reader.ask();
    for (uint32_t taken = 0; work_find<DIMS>(args, list, &index, step, &work);) {
        uint32_t a[PARTS][2][4];
        queries_load<PARTS>(q + (size_t)work.row * args.q_stride + work.kv_head * args.group * DIMS,
                            args.group, args.scale, a);
        state<PARTS> s = {};
        s.most[0] = s.most[1] = -1e30f;
        for (uint32_t first = 0; first < work.keys; first += CHUNK_KEYS, taken++) {
            uint32_t slot = taken % CHUNKS;
            barrier_wait(&shared.full[warp][slot], taken / CHUNKS & 1);
            chunk_add<PARTS>(shared.chunks[warp][slot], first, work.keys, a, s);
            __syncwarp();
            reader.ask();
        }
        work_finish<T, PARTS>(args, work, s, o);
    }
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

/* ---- the partitions of a row ---- */

struct merging {
    float most, sum;
    float4 value;
};

__device__ inline void merging_add(merging &m, float most, float sum, float4 value)
{
    float larger = fmaxf(m.most, most);
    float old = exp2f(m.most - larger), factor = exp2f(most - larger);
    m.most = larger;
    m.sum = fmaf(m.sum, old, sum * factor);
    m.value.x = fmaf(m.value.x, old, value.x * factor);
    m.value.y = fmaf(m.value.y, old, value.y * factor);
    m.value.z = fmaf(m.value.z, old, value.z * factor);
    m.value.w = fmaf(m.value.w, old, value.w * factor);
}

/* A lane's four values of a head, which are 4 lane .. in the threads' order: see work_finish. */
template <typename T> __device__ inline void merging_store(const merging &m, T *to)
{
    uint32_t lane = threadIdx.x % 32, j = lane / 4 * 2, n = lane % 4 * 2;
    to[dimension_of(j, n)] = from_float<T>(m.value.x / m.sum);
    to[dimension_of(j, n + 1)] = from_float<T>(m.value.y / m.sum);
    to[dimension_of(j + 1, n)] = from_float<T>(m.value.z / m.sum);
    to[dimension_of(j + 1, n + 1)] = from_float<T>(m.value.w / m.sum);
}

/* A block a (row, head): warp w adds partitions w, w + 4, ... in order, then the four in order. */
template <typename T, int DIMS>
__global__ void __launch_bounds__(MERGERS * 32)
    merge_kernel(const __grid_constant__ decode_args args, T *o)
{
    __shared__ float4 values[MERGERS][DIMS / 4];
    __shared__ float2 weights[MERGERS];
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t kv_head = blockIdx.y / args.group, h = blockIdx.y % args.group;
    chain_next();
    if (blockIdx.x + blockIdx.y == 0)
        chain_wait(); /* also where it adds nothing: the kernels behind wait for this one only */
    if (args.first + blockIdx.x >= args.head[3])
        return;
    uint32_t row = args.rows[args.first + blockIdx.x];
    uint32_t partitions = args.positions[row] / args.head[6] + 1;
    if (partitions == 1)
        return;
    chain_wait();
    size_t step = partial_step(args.group, DIMS);
    const float *from = args.partials + ((size_t)blockIdx.x * args.kv_head_count + kv_head) *
                                            args.partitions_max * step;
    merging m = {-1e30f, 0, make_float4(0, 0, 0, 0)};
    for (uint32_t p = warp; p < partitions; p += MERGERS * MERGED_AT_ONCE) {
        float4 value[MERGED_AT_ONCE];
        float2 weight[MERGED_AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < MERGED_AT_ONCE; i++) {
            const float *part = from + min(p + i * MERGERS, partitions - 1) * step;
            value[i] = __ldcg((const float4 *)(part + h * DIMS) + lane % (DIMS / 4));
            weight[i] = __ldcg((const float2 *)(part + args.group * DIMS + h * 2));
        }
#pragma unroll
        for (uint32_t i = 0; i < MERGED_AT_ONCE; i++)
            if (p + i * MERGERS < partitions)
                merging_add(m, weight[i].x, weight[i].y, value[i]);
    }
    if (lane < DIMS / 4)
        values[warp][lane] = m.value;
    if (lane == 0)
        weights[warp] = make_float2(m.most, m.sum);
    __syncthreads();
    if (threadIdx.x >= DIMS / 4)
        return;
    m = {-1e30f, 0, make_float4(0, 0, 0, 0)};
#pragma unroll
    for (uint32_t w = 0; w < MERGERS; w++)
        merging_add(m, weights[w].x, weights[w].y, values[w][lane]);
    merging_store(m, o + (size_t)row * args.o_stride + blockIdx.y * DIMS);
}

/* The same sums in the same order, by one warp a head: where there are more rows than blocks have
 * room at once, and few partitions. */
template <typename T, int DIMS>
__global__ void __launch_bounds__(MERGERS * 32)
    merge_few_kernel(const __grid_constant__ decode_args args, T *o)
{
    uint32_t head = blockIdx.y * MERGERS + threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t kv_head = head / args.group, h = head % args.group;
    chain_next();
    if (blockIdx.x + blockIdx.y == 0)
        chain_wait(); /* also where it adds nothing: the kernels behind wait for this one only */
    if (args.first + blockIdx.x >= args.head[3] || kv_head >= args.kv_head_count)
        return;
    uint32_t row = args.rows[args.first + blockIdx.x];
    uint32_t partitions = args.positions[row] / args.head[6] + 1;
    if (partitions == 1)
        return;
    chain_wait();
    size_t step = partial_step(args.group, DIMS);
    const float *from = args.partials + ((size_t)blockIdx.x * args.kv_head_count + kv_head) *
                                            args.partitions_max * step;
    merging chains[MERGERS], m = {-1e30f, 0, make_float4(0, 0, 0, 0)};
#pragma unroll
    for (uint32_t w = 0; w < MERGERS; w++)
        chains[w] = m;
    for (uint32_t p = 0; p < partitions; p += MERGERS) {
        float4 value[MERGERS];
        float2 weight[MERGERS];
#pragma unroll
        for (uint32_t w = 0; w < MERGERS; w++) {
            const float *part = from + min(p + w, partitions - 1) * step;
            value[w] = __ldcg((const float4 *)(part + h * DIMS) + lane % (DIMS / 4));
            weight[w] = __ldcg((const float2 *)(part + args.group * DIMS + h * 2));
        }
#pragma unroll
        for (uint32_t w = 0; w < MERGERS; w++)
            if (p + w < partitions)
                merging_add(chains[w], weight[w].x, weight[w].y, value[w]);
    }
#pragma unroll
    for (uint32_t w = 0; w < MERGERS; w++)
        merging_add(m, chains[w].most, chains[w].sum, chains[w].value);
    if (lane >= DIMS / 4)
        return;
    merging_store(m, o + (size_t)row * args.o_stride + head * DIMS);
}

/* ---- the host's side ---- */

bool decode_hopper_can(const struct cuda_backend *cuda, const struct decode_args *args)
{
    const struct backend_shape *shape = &cuda->shape;
    return cuda->hopper && args->group <= HEADS &&
           (shape->head_dim == 128 || shape->head_dim == 64) &&
           (shape->block_tokens == 8 || shape->block_tokens % CHUNK_KEYS == 0);
}

static uint32_t length_of(const struct device_step *step, uint32_t single)
{
    return step->positions[step->single_rows[single]] + 1;
}

/* What the busiest warp has to do when partitions have so many keys: warps take whole ones by
 * turns, then the rests. */
static uint64_t keys_of_busiest(const struct cuda_backend *cuda, uint32_t keys)
{
    uint64_t warps = (uint64_t)cuda->processors * WARPS, whole = 0, rests = 0;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < cuda->single_count; i++) {
        uint32_t length = length_of(&cuda->host, i), rest = length % keys;
        whole += length / keys;
        rests += rest > 0;
        longest = rest > longest ? rest : longest;
    }
    whole *= cuda->shape.kv_head_count;
    rests *= cuda->shape.kv_head_count;
    uint64_t all = whole / warps * (keys + WORK_KEYS), more = whole % warps;
    uint64_t first = more > 0 ? all + keys + WORK_KEYS : all; /* of those with one more */
    uint64_t last = rests > 0 ? all + longest + WORK_KEYS : all;
    if (rests <= warps - more)
        return first > last ? first : last;
    return first + (rests - (warps - more) + warps - 1) / warps * (longest + WORK_KEYS) +
           (more > 0 ? 0 : longest + WORK_KEYS);
}

/* What a step of attention takes when partitions have so many keys, in keys of a warp. */
static uint64_t keys_cost(const struct cuda_backend *cuda, uint32_t keys, uint32_t longest)
{
    uint32_t partitions = (longest + keys - 1) / keys;
    uint64_t merging = (partitions + MERGED_BY_ONE - 1) / MERGED_BY_ONE * MERGE_KEYS;
    return keys_of_busiest(cuda, keys) + (partitions > 1 ? merging : 0);
}

/* How long partitions are: so that no warp has much more to do than the others, and no more of them
 * than the step's graph has room for. Not with --deterministic, where a row's bits must not depend
 * on how many rows there are. */
static uint32_t partition_keys_choose(const struct cuda_backend *cuda, uint32_t longest)
{
    uint32_t best = PARTITION_KEYS, room = 1;
    if (cuda->options.deterministic)
        return best;
    while (room < cuda->partitions)
        room *= 2;
    uint64_t least = keys_cost(cuda, best, longest);
    for (uint32_t keys = KEYS_LEAST; keys <= KEYS_STEPS; keys += CHUNK_KEYS) {
        uint64_t cost = (longest + keys - 1) / keys <= room ? keys_cost(cuda, keys, longest)
                                                            : UINT64_MAX;
        if (cost < least || (cost == least && keys > best)) {
            least = cost;
            best = keys;
        }
    }
    for (uint32_t parts = 1; parts <= 2 && longest / parts > KEYS_STEPS; parts++) {
        uint32_t keys = (longest / parts + CHUNK_KEYS) / CHUNK_KEYS * CHUNK_KEYS;
        uint64_t cost = keys_cost(cuda, keys, longest);
        if (cost < least) {
            least = cost;
            best = keys;
        }
    }
    return best;
}

uint32_t decode_units(struct cuda_backend *cuda, uint32_t at)
{
    struct device_step *to = &cuda->host;
    uint32_t longest = 0, count = 0, *units = to->tables + at;
    uint64_t all = 0;
    for (uint32_t i = 0; i < cuda->single_count; i++)
        longest = length_of(to, i) > longest ? length_of(to, i) : longest;
    uint32_t keys = partition_keys_choose(cuda, longest);
    if ((longest + keys - 1) / keys > cuda->partitions)
        cuda->partitions = (longest + keys - 1) / keys;
    to->head[4] = at;
    to->head[5] = 0;
    to->head[6] = keys;
    for (uint32_t i = 0; i < cuda->single_count; i++)
        all += (length_of(to, i) + keys - 1) / keys;
    if (!cuda->hopper || all > cuda->units_max || cuda->single_count > UNIT_SINGLES)
        return 0;
    for (uint32_t i = 0; i < cuda->single_count; i++)
        for (uint32_t part = 0; part < length_of(to, i) / keys; part++)
            units[count++] = part * UNIT_SINGLES + i;
    for (uint32_t i = 0; i < cuda->single_count; i++)
        if (length_of(to, i) % keys > 0)
            units[count++] = length_of(to, i) / keys * UNIT_SINGLES + i;
    return to->head[5] = count;
}

template <typename T, int DIMS>
static void works_run(struct cuda_backend *cuda, const struct decode_args *args, const __half *q,
                      T *o)
{
    uint32_t works = args->singles * args->partitions_max * args->kv_head_count;
    uint32_t blocks = (uint32_t)cuda->processors;
    size_t bytes = sizeof(decode_shared<DIMS>);
    cuda_good(cuda,
              cudaFuncSetAttribute(works_kernel<T, DIMS>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
              "shared memory of attention");
    chain(cuda, works_kernel<T, DIMS>, works < blocks ? works : blocks, THREADS, bytes, *args, q,
          o);
    uint32_t heads = args->kv_head_count * args->group;
    bool many = args->singles * heads > blocks * (2048 / (MERGERS * 32));
    if (args->partitions_max > 1 && args->partitions_max <= MERGED_BY_ONE && many)
        chain(cuda, merge_few_kernel<T, DIMS>,
              dim3(args->singles, (heads + MERGERS - 1) / MERGERS), MERGERS * 32, 0, *args, o);
    else if (args->partitions_max > 1)
        chain(cuda, merge_kernel<T, DIMS>, dim3(args->singles, heads), MERGERS * 32, 0, *args, o);
}

template <typename T>
static void decode_typed(struct cuda_backend *cuda, const struct decode_args *args, const __half *q,
                         void *o)
{
    if (cuda->shape.head_dim == 128)
        works_run<T, 128>(cuda, args, q, (T *)o);
    else
        works_run<T, 64>(cuda, args, q, (T *)o);
}

void decode_hopper(struct cuda_backend *cuda, const struct decode_args *args, const __half *q,
                   void *o)
{
    BY_TYPE(cuda, decode_typed, cuda, args, q, o);
}
