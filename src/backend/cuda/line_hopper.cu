/* backend/cuda/line_hopper.cu - the products of one row, one behind another, in one kernel on
 * sm_90: memory is asked for the next product's weights while the row for it is made.
 *
 *     line       what lies between two layers' attentions: o, then norm, gate and up, then down,
 *                then norm, q and k and v; each product is a phase of it
 *     block      one a multiprocessor, all at once
 *       warps 16, 17      ask for W, by turns: stage, tile, phase after another; of it no more is
 *                         under way than memory's rate needs, whatever room there is
 *       warps 0 .. 15     each takes a unit of every stage and adds its own sum
 *     end of a tile       one of the sixteen adds their sums; the others go on
 *     end of a phase      all blocks meet: the row is whole. Each then has it, normed if so wished,
 *                         in its shared memory
 *     tile       16 outputs; with a gate 8 of it and the 8 of up that belong to them
 *     stage      16 units of a tile's rows (stream.cuh): halves row by row, to rows that are 64
 *                bytes longer, quantised as two octets (quantised.cuh) */
#include <type_traits>

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/line.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ inline uint32_t tile_first(const line_phase &phase)
{
    return (blockIdx.x + gridDim.x - phase.first) % gridDim.x;
}

/* ---- warps 16, 17 ---- */

/* The weights of a norm, which the consumers read themselves, into the L2 cache: behind the stages
 * that are asked for already memory would keep them waiting as long as those take, 8 us. */
__device__ inline void norm_announce(const line_phase &phase)
{
    if (phase.norm == nullptr || threadIdx.x != CONSUMERS * 32)
        return;
    for (uint32_t at = blockIdx.x * 32; at < phase.product.columns; at += gridDim.x * 32)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(phase.norm + at));
}

/* How many stages are under way, of both warps together, and which of them is the oldest. Each warp
 * waits for all of them, also where the next stage is the other's: so neither is ever more stages
 * ahead of the other than that, and no slot is asked for again before both have seen it full. */
struct stages_asked {
    slot_turn oldest;
    uint32_t count;
};

/* One stage in FETCHERS is this warp's. */
__device__ inline void phase_fetch(const line_args &args, const line_phase &phase, char *slots,
                                   line_shared &shared, uint64_t policy, slot_turn &turn,
                                   uint32_t &mine, stages_asked &asked)
{
    const stream_args &product = phase.product;
    norm_announce(phase);
    uint32_t lane = threadIdx.x % 32, rows = piece_rows(phase.form), in = lane * rows % MMA_ROWS;
    uint32_t units = product.columns / unit_columns(phase.form);
    uint32_t each = phase.form == FORM_HALVES ? UNIT_BYTES : octet_bytes(phase.form);
    uint32_t to = lane * piece_pitch(phase.form);
    for (uint32_t tile = tile_first(phase); tile < product.tiles; tile += gridDim.x) {
        const stream_part &p = phase.h != nullptr ? product.parts[in / 8] : part_of(product, tile);
        uint32_t row = phase.h != nullptr ? tile * 8 + in % 8
                                          : (tile - p.tiles_before) * MMA_ROWS + in;
        bool there = lane < MMA_ROWS / rows && row < p.rows;
        const char *from = (const char *)p.data + (size_t)(row / rows) * units * each;
        uint32_t pieces = (uint32_t)__popc(__ballot_sync(0xffffffffu, there));
        for (uint32_t unit = 0; unit < units; unit += CONSUMERS) {
            uint32_t count = min(CONSUMERS, units - unit);
            bool ours = mine++ % FETCHERS == 0, enough = asked.count == args.under_way;
            if (enough)
                barrier_wait(&shared.full[asked.oldest.slot], asked.oldest.parity);
            if (enough)
                asked.oldest.next(args.slots);
            else
                asked.count++;
            if (!ours) {
                turn.next(args.slots);
                continue;
            }
            uint64_t *full = &shared.full[turn.slot];
            barrier_wait(&shared.empty[turn.slot], turn.parity ^ 1);
            if (lane == 0)
                barrier_expect(full, pieces * count * each);
            __syncwarp();
            if (there)
                row_fetch(slots + turn.slot * args.slot_bytes + to, from + unit * each,
                          count * each, full, policy);
            turn.next(args.slots);
        }
    }
}

/* ---- warps 0 .. 15 ---- */

__device__ inline void consumers_meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * 32) : "memory");
}

/* All blocks' consumers: what any of them wrote before, all of them see after. The block's barriers
 * hand on what its first thread releases and acquires. It knows how many arrivals to wait for, so
 * that it looks at once: each way to the L2 cache and back is time in which nothing is added. */
__device__ inline void blocks_meet(line_shared &shared)
{
    consumers_meet();
    if (threadIdx.x == 0) {
        unsigned long long now, wanted = shared.met_wanted += gridDim.x;
        asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(shared.met) : "memory");
        do
            asm volatile("ld.acquire.gpu.global.u64 %0, [%1];"
                         : "=l"(now)
                         : "l"(shared.met)
                         : "memory");
        while (now < wanted);
    }
    consumers_meet();
}

/* Before the first meeting, after the kernels before have ended: no block can be a round ahead of
 * this one, so whole rounds are those kernels'. */
__device__ inline void rounds_take(line_shared &shared)
{
    if (threadIdx.x == 0)
        shared.met_wanted = __ldcg(shared.met) / gridDim.x * gridDim.x;
}

template <typename T> __device__ inline uint2 four_of(float a, float b, float c, float d)
{
    __align__(8) T values[4] = {from_float<T>(a), from_float<T>(b), from_float<T>(c),
                                from_float<T>(d)};
    return *(uint2 *)values;
}

/* x, normed, to shared memory. */
template <typename T>
__device__ inline void row_norm(const line_phase &phase, float epsilon, T *row, line_shared &shared)
{
    const float4 *from = (const float4 *)phase.product.x;
    uint32_t pieces = phase.product.columns / 4;
    float4 values[NORM_PIECES], weights[NORM_PIECES];
    float squares = 0;
#pragma unroll
    for (uint32_t n = 0; n < NORM_PIECES; n++) {
        uint32_t i = threadIdx.x + n * CONSUMERS * 32;
        values[n] = i < pieces ? __ldcg(from + i) : make_float4(0, 0, 0, 0);
        weights[n] = __ldg((const float4 *)phase.norm + min(i, pieces - 1));
    }
#pragma unroll
    for (uint32_t n = 0; n < NORM_PIECES; n++)
        squares += values[n].x * values[n].x + values[n].y * values[n].y +
                   values[n].z * values[n].z + values[n].w * values[n].w;
    for (int step = 16; step > 0; step /= 2)
        squares += __shfl_xor_sync(0xffffffffu, squares, step);
    if (threadIdx.x % 32 == 0)
        shared.squares[threadIdx.x / 32] = squares;
    consumers_meet();
    squares = 0;
#pragma unroll
    for (uint32_t warp = 0; warp < CONSUMERS; warp++)
        squares += shared.squares[warp];
    float scale = 1.0f / sqrtf(squares / (float)phase.product.columns + epsilon);
#pragma unroll
    for (uint32_t n = 0; n < NORM_PIECES; n++) {
        uint32_t i = threadIdx.x + n * CONSUMERS * 32;
        float4 v = values[n], w = weights[n];
        if (i < pieces)
            ((uint2 *)row)[i] = four_of<T>(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z,
                                           v.w * scale * w.w);
    }
}

/* The sums of 32 columns each, for minima to be taken off with. */
template <typename T>
__device__ inline void groups_sum(const T *row, uint32_t columns, float *groups)
{
    for (uint32_t i = threadIdx.x; i < columns / 32; i += CONSUMERS * 32) {
        float sum = 0;
        for (uint32_t k = 0; k < 4; k++) {
            uint4 piece = *(const uint4 *)(row + i * 32 + (k + i) % 4 * 8); /* by turns: banks */
            const T *values = (const T *)&piece;
#pragma unroll
            for (int n = 0; n < 8; n++)
                sum += to_float(values[n]);
        }
        groups[i] = sum;
    }
}

template <typename T>
__device__ inline void row_place(const line_args &args, const line_phase &phase, T *row,
                                 float *groups, line_shared &shared)
{
    uint32_t columns = phase.product.columns;
    if (phase.norm != nullptr)
        row_norm<T>(phase, args.epsilon, row, shared);
    else
        for (uint32_t i = threadIdx.x; i < columns / 8; i += CONSUMERS * 32)
            ((uint4 *)row)[i] = __ldcg((const uint4 *)phase.product.x + i);
    consumers_meet();
    if (groups != nullptr) {
        groups_sum<T>(row, columns, groups);
        consumers_meet();
    }
}

/* Eight columns of a row that are this thread's, as integers of f16, times x. */
__device__ inline void eight_add(float c[4], const uint32_t low[4], const uint32_t high[4],
                                 const uint4 &x)
{
    mma<__half>(c, low[0], high[0], low[1], high[1], x.x, x.y);
    mma<__half>(c, low[2], high[2], low[3], high[3], x.z, x.w);
}

/* One unit of rows g and g + 8 of a stage: sums of both. All columns of an mma are the same x. */
template <typename T, int FORM> struct unit_held {
    uint4 low, high, low_scales, high_scales;

    __device__ inline void load(const char *slot, uint32_t warp, uint32_t g, uint32_t t)
    {
        constexpr uint32_t EIGHT_ROWS = OCTET / piece_rows(FORM) * piece_pitch(FORM);
        const char *unit = slot + warp * (FORM == FORM_HALVES ? UNIT_BYTES : octet_bytes(FORM));
        const char *at = unit + g * (FORM == FORM_HALVES ? ROW_PITCH : UNIT_BYTES) + t * 16;
        const char *scales = unit + scale_at(FORM, g, 0);
        low = *(const uint4 *)at;
        high = *(const uint4 *)(at + EIGHT_ROWS);
        if (FORM == FORM_Q8) {
            low_scales.x = *(const uint32_t *)scales;
            high_scales.x = *(const uint32_t *)(scales + EIGHT_ROWS);
        } else if (FORM == FORM_Q4K) {
            low_scales = *(const uint4 *)scales;
            high_scales = *(const uint4 *)(scales + EIGHT_ROWS);
        }
    }

    __device__ inline void add(const uint4 x[unit_pieces(FORM)], const float4 &sums_of_x,
                               float sums[4]) const
    {
        if constexpr (FORM == FORM_HALVES) {
            mma<T>(sums, low.x, high.x, low.y, high.y, x[0].x, x[0].y);
            mma<T>(sums, low.z, high.z, low.w, high.w, x[0].z, x[0].w);
        } else if constexpr (FORM == FORM_Q8) {
            float2 a = __half22float2(*(const __half2 *)&low_scales.x);
            float2 b = __half22float2(*(const __half2 *)&high_scales.x);
            bytes_add(low.x, low.y, high.x, high.y, a.x, b.x, x[0], sums);
            bytes_add(low.z, low.w, high.z, high.w, a.y, b.y, x[1], sums);
        } else {
            nibbles_add(low.x, high.x, low_scales.x, high_scales.x, sums_of_x.x, x[0], sums);
            nibbles_add(low.y, high.y, low_scales.y, high_scales.y, sums_of_x.y, x[1], sums);
            nibbles_add(low.z, high.z, low_scales.z, high_scales.z, sums_of_x.z, x[2], sums);
            nibbles_add(low.w, high.w, low_scales.w, high_scales.w, sums_of_x.w, x[3], sums);
        }
    }

    __device__ static inline void bytes_add(uint32_t low0, uint32_t low1, uint32_t high0,
                                            uint32_t high1, float low_scale, float high_scale,
                                            const uint4 &x, float sums[4])
    {
        uint32_t a[4], b[4];
        float c[4] = {0, 0, 0, 0};
        bytes_to_halves(low0, &a[0], &a[1]);
        bytes_to_halves(low1, &a[2], &a[3]);
        bytes_to_halves(high0, &b[0], &b[1]);
        bytes_to_halves(high1, &b[2], &b[3]);
        eight_add(c, a, b, x);
        sums[0] = fmaf(c[0], low_scale, sums[0]);
        sums[2] = fmaf(c[2], high_scale, sums[2]);
    }

    __device__ static inline void nibbles_add(uint32_t low, uint32_t high, uint32_t low_scale,
                                              uint32_t high_scale, float sum_of_x, const uint4 &x,
                                              float sums[4])
    {
        uint32_t a[4], b[4];
        float c[4] = {0, 0, 0, 0};
        nibbles_to_halves(low, a);
        nibbles_to_halves(high, b);
        eight_add(c, a, b, x);
        float2 by = __half22float2(*(const __half2 *)&low_scale);
        sums[0] = fmaf(-sum_of_x, by.y, fmaf(c[0], by.x, sums[0]));
        by = __half22float2(*(const __half2 *)&high_scale);
        sums[2] = fmaf(-sum_of_x, by.y, fmaf(c[2], by.x, sums[2]));
    }
};

/* By one warp: a tile's sums into their places. */
template <typename T>
__device__ inline void tile_store(const line_phase &phase, uint32_t tile,
                                  const float (*sums)[MMA_ROWS])
{
    uint32_t lane = threadIdx.x % 32, out = lane % MMA_ROWS;
    float sum = 0;
#pragma unroll
    for (uint32_t warp = 0; warp < CONSUMERS / 2; warp++)
        sum += sums[lane / MMA_ROWS * (CONSUMERS / 2) + warp][out];
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    if (phase.h == nullptr) {
        const stream_part &p = part_of(phase.product, tile);
        if (lane < MMA_ROWS)
            sum_store<T>(phase.product, p, 0, (tile - p.tiles_before) * MMA_ROWS + out, sum);
        return;
    }
    const stream_part &p = phase.product.parts[out / 8];
    uint32_t row = tile * 8 + out % 8;
    if (p.bias != nullptr)
        sum += p.bias[row];
    float up = __shfl_sync(0xffffffffu, sum, out + 8);
    if (lane < 8)
        ((T *)phase.h)[row] = gated(from_float<T>(sum), from_float<T>(up));
}

template <typename T, int FORM>
__device__ inline void phase_take(const line_args &args, const line_phase &phase, const char *slots,
                                  const T *row, const float *groups, line_shared &shared,
                                  slot_turn &turn, uint32_t &tiles_done)
{
    constexpr uint32_t PIECES = unit_pieces(FORM);
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t units = phase.product.columns / unit_columns(FORM);
    for (uint32_t tile = tile_first(phase); tile < phase.product.tiles; tile += gridDim.x) {
        float sums[4] = {0, 0, 0, 0};
        for (uint32_t unit = warp; unit < units + warp; unit += CONSUMERS) {
            uint32_t mine = min(unit, units - 1);
            uint4 x[PIECES];
            float4 of_x = make_float4(0, 0, 0, 0);
#pragma unroll
            for (uint32_t k = 0; k < PIECES; k++)
                x[k] = *(const uint4 *)(row + mine * unit_columns(FORM) + k * 32 + t * 8);
            if (FORM == FORM_Q4K)
                of_x = *(const float4 *)(groups + mine * 4);
            unit_held<T, FORM> w;
            barrier_wait(&shared.full[turn.slot], turn.parity);
            w.load(slots + turn.slot * args.slot_bytes, warp, g, t);
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&shared.empty[turn.slot]);
            turn.next(args.slots);
            if (unit < units)
                w.add(x, of_x, sums);
        }
        float (*to)[MMA_ROWS] = shared.sums[tiles_done % 2];
        if (t == 0) {
            to[warp][g] = sums[0];
            to[warp][g + 8] = sums[2];
        }
        consumers_meet();
        if (warp == tiles_done % CONSUMERS)
            tile_store<T>(phase, tile, to);
        tiles_done++;
    }
}

template <typename T>
__device__ inline void line_take(const line_args &args, char *memory, line_shared &shared)
{
    T *row = (T *)(memory + args.row_at);
    float *groups = args.groups_at != 0 ? (float *)(memory + args.groups_at) : nullptr;
    const char *slots = memory + args.slots_at;
    slot_turn turn = {0, 0};
    uint32_t tiles_done = 0;
    for (uint32_t n = 0; n < args.count; n++) {
        const line_phase &phase = args.phases[n];
        if (phase.fresh) {
            if (n == 0)
                chain_wait();
            else
                blocks_meet(shared);
            row_place<T>(args, phase, row, groups, shared);
            if (n == 0)
                rounds_take(shared);
        }
        if (phase.form == FORM_HALVES)
            phase_take<T, FORM_HALVES>(args, phase, slots, row, groups, shared, turn, tiles_done);
        if constexpr (std::is_same<T, __half>::value) { /* quantised weights' activations */
            if (phase.form == FORM_Q8)
                phase_take<T, FORM_Q8>(args, phase, slots, row, groups, shared, turn, tiles_done);
            if (phase.form == FORM_Q4K)
                phase_take<T, FORM_Q4K>(args, phase, slots, row, groups, shared, turn, tiles_done);
        }
    }
}

#endif

template <typename T>
__global__ void __launch_bounds__(THREADS, 1) line_kernel(const __grid_constant__ line_args args)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char memory[];
    line_shared &shared = *(line_shared *)memory;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < args.slots; i++) {
            barrier_open(&shared.full[i], 1);
            barrier_open(&shared.empty[i], CONSUMERS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        shared.met = args.met;
    }
    __syncthreads();
    chain_next();
    if (threadIdx.x < CONSUMERS * 32) {
        line_take<T>(args, memory, shared);
        return;
    }
    uint64_t policy;
    slot_turn turn = {0, 0};
    uint32_t fetcher = threadIdx.x / 32 - CONSUMERS;
    uint32_t mine = FETCHERS - fetcher; /* a multiple of FETCHERS: its stage */
    stages_asked asked = {{0, 0}, 0};
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (uint32_t n = 0; n < args.count; n++)
        phase_fetch(args, args.phases[n], memory + args.slots_at, shared, policy, turn, mine,
                    asked);
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

template <typename T> static void line_run(struct cuda_backend *cuda, const struct line_args *args)
{
    size_t bytes = args->slots_at + (size_t)args->slots * args->slot_bytes;
    cuda_good(cuda,
              cudaFuncSetAttribute(line_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)bytes),
              "shared memory of products");
    chain(cuda, line_kernel<T>, dim3((uint32_t)cuda->processors), THREADS, bytes, *args);
}

void line_hopper(struct cuda_backend *cuda, const struct line_args *args)
{
    BY_TYPE(cuda, line_run, cuda, args);
}
