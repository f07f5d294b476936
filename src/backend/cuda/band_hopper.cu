/* backend/cuda/band_hopper.cu - the products of several rows, one behind another, in one kernel on
 * sm_90: the tensor cores' work, at memory's rate, which does not wait for what is between two
 * products.
 *
 *     band       what lies between two layers' attentions: o, then norm, gate and up, then down,
 *                then norm, q and k and v; each product is a phase of it
 *     four       blocks, one a multiprocessor, all at once: tiles of 128 outputs, one after
 *                another; each block sums a quarter of the columns
 *       two warpgroups        64 outputs each: D += W x, both from shared memory; sums go to
 *                             memory, which is the L2 cache
 *       warp 8                asks for W, chunk after chunk (64 columns), across tiles and phases
 *       warp 9                asks for x
 *       warps 10 .. 13        add the four parts of a tile, in order, for a quarter of the rows
 *     end of a phase          all blocks meet
 *     rotation                q, k and v of heads of 128 are a head a tile: the warps that add turn
 *                             it and put keys and values into the pool
 *
 * Of W no more is under way than memory's rate needs: what is asked for beyond that only makes
 * everything else wait, sums and x. While blocks meet it is one chunk, for that is when sums and x
 * are what all wait for. What has come may fill all of the room.
 *
 * A norm is a factor for each row, so it is applied to the sums: what is multiplied is the row
 * times the norm's weights, and the squares of a tile's outputs are left for the next phase to
 * add. Clusters of four blocks would leave twelve multiprocessors without one. */
#include "backend/cuda/band.cuh"
#include "backend/cuda/wgmma.cuh"

#define GROUPS 2u
#define CONSUMERS (GROUPS * GROUP_THREADS)
#define ADDERS 128u
#define THREADS (CONSUMERS + 64 + ADDERS)
#define ROWS_EACH (BAND_ROWS / BAND_PARTS / (ADDERS / 32)) /* that a warp adds the parts of */
#define ROWS_STEP (BAND_PARTS * (ADDERS / 32))
#define W_BYTES (BAND_TILE * CHUNK * 2)
#define X_BYTES (BAND_ROWS * CHUNK * 2)
#define W_SLOTS 10u
#define X_SLOTS 6u
#define SHARED_BYTES (W_SLOTS * W_BYTES + X_SLOTS * X_BYTES + ALIGNMENT)
#define W_UNDER_WAY 4u /* chunks that are asked for and have not come */
#define W_AHEAD 1u     /* the same of a phase's first, which fill the room while blocks meet */

struct band_barriers {
    uint64_t w_full[W_SLOTS], w_empty[W_SLOTS], x_full[X_SLOTS], x_empty[X_SLOTS];
    uint64_t laid[BAND_PLACES], free[BAND_PLACES]; /* sums of this block, by place */
    uint64_t begun;                   /* warp 9 has looked at met */
    unsigned long long met;
};

typedef __nv_bfloat16 value;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

#define N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"

__device__ inline void product_add(float (&d)[16], uint64_t a, uint64_t b, uint32_t adds)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" N16 "}, %16, %17, "
                 "p, 1, 1, 0, 0;\n}"
                 : F16(d, 0)
                 : "l"(a), "l"(b), "r"(adds));
}

/* ---- meetings ---- */

/* Before this block arrives, after the kernels before have ended: whole rounds are theirs. */
__device__ inline unsigned long long rounds_before(const unsigned long long *met, uint32_t blocks)
{
    return __ldcg(met) / blocks * blocks;
}

__device__ inline void met_arrive(unsigned long long *met)
{
    asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(met) : "memory");
}

__device__ inline void met_wait(const unsigned long long *met, unsigned long long wanted)
{
    unsigned long long now;
    do
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(now) : "l"(met) : "memory");
    while (now < wanted);
}

struct band_share { /* of a phase, for this block: tiles from tile on, chunks begin .. end */
    uint32_t tile, step, begin, end;
};

__device__ inline band_share share_of(const band_phase &phase)
{
    uint32_t part = blockIdx.x % BAND_PARTS;
    return {blockIdx.x / BAND_PARTS, gridDim.x / BAND_PARTS, part * phase.chunks / BAND_PARTS,
            (part + 1) * phase.chunks / BAND_PARTS};
}

/* ---- the warps that ask ---- */

__device__ inline void weights_fetch(const band_args &args, char *slots, band_barriers &barriers)
{
    slot_turn turn = {0, 0}, awaited = {0, 0};
    uint32_t under_way = 0;
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (uint32_t n = 0; n < args.count; n++) {
        const band_phase &phase = args.phases[n];
        const band_share share = share_of(phase);
        uint32_t asked = 0; /* of this phase */
        for (uint32_t tile = share.tile; tile < phase.tiles; tile += share.step) {
            bool gate = phase.kind == BAND_GATE;
            uint32_t low = tile * (gate ? BAND_TILE / 2 : BAND_TILE);
            uint32_t high = low + (gate ? phase.up : BAND_TILE / 2);
            for (uint32_t c = share.begin; c < share.end; c++) {
                uint64_t *full = &barriers.w_full[turn.slot];
                char *to = slots + turn.slot * W_BYTES;
                uint32_t most = n > 0 && asked++ < W_SLOTS ? W_AHEAD : W_UNDER_WAY;
                for (under_way++; under_way > most; under_way--) {
                    barrier_wait(&barriers.w_full[awaited.slot], awaited.parity);
                    awaited.next(W_SLOTS);
                }
                barrier_wait(&barriers.w_empty[turn.slot], turn.parity ^ 1);
                barrier_expect(full, W_BYTES);
                box_fetch_once(to, &args.w[n], c * CHUNK, low, full, policy);
                box_fetch_once(to + W_BYTES / 2, &args.w[n], c * CHUNK, high, full, policy);
                turn.next(W_SLOTS);
            }
        }
    }
}

__device__ inline void rows_fetch(const band_args &args, char *slots, band_barriers &barriers)
{
    slot_turn turn = {0, 0};
    chain_wait();
    unsigned long long met = barriers.met = rounds_before(args.met, gridDim.x);
    barrier_arrive(&barriers.begun);
    for (uint32_t n = 0; n < args.count; n++) {
        const band_phase &phase = args.phases[n];
        const band_share share = share_of(phase);
        if (n > 0)
            met_wait(args.met, met += gridDim.x);
        asm volatile("fence.proxy.async;" ::: "memory"); /* x was stored by threads */
        for (uint32_t tile = share.tile; tile < phase.tiles; tile += share.step)
            for (uint32_t c = share.begin; c < share.end; c++) {
                uint64_t *full = &barriers.x_full[turn.slot];
                barrier_wait(&barriers.x_empty[turn.slot], turn.parity ^ 1);
                barrier_expect(full, args.box_rows * CHUNK * 2);
                box_fetch(slots + turn.slot * X_BYTES, &args.x[n], c * CHUNK, 0, full);
                turn.next(X_SLOTS);
            }
    }
}

/* ---- the warpgroups ---- */

/* A tile's chunks. Of the rows in a slot of x those behind the last may hold anything: what comes
 * of it is nobody's sum. */
__device__ inline void chunks_take(uint32_t count, const char *w_slots, const char *x_slots,
                                   band_barriers &barriers, slot_turn &w, slot_turn &x,
                                   float (&d)[16])
{
    uint32_t lane = threadIdx.x % 32, w_last = 0, x_last = 0;
    uint32_t mine = threadIdx.x / GROUP_THREADS * (W_BYTES / GROUPS);
    for (uint32_t n = 0; n < count; n++) {
        barrier_wait(&barriers.w_full[w.slot], w.parity);
        barrier_wait(&barriers.x_full[x.slot], x.parity);
        uint64_t a = tile_of(w_slots + w.slot * W_BYTES + mine, 16);
        uint64_t b = tile_of(x_slots + x.slot * X_BYTES, 16);
        products_begin();
#pragma unroll
        for (int k = 0; k < (int)CHUNK / 16; k++)
            product_add(d, tile_at(a, k * 32), tile_at(b, k * 32), n > 0 || k > 0);
        products_commit();
        products_wait<1>(); /* the chunk before is free */
        if (n > 0 && lane == 0) {
            barrier_arrive(&barriers.w_empty[w_last]);
            barrier_arrive(&barriers.x_empty[x_last]);
        }
        w_last = w.slot;
        x_last = x.slot;
        w.next(W_SLOTS);
        x.next(X_SLOTS);
    }
    products_wait<0>();
    if (count > 0 && lane == 0) {
        barrier_arrive(&barriers.w_empty[w_last]);
        barrier_arrive(&barriers.x_empty[x_last]);
    }
    values_settle(d);
}

/* A thread's sums to [row][output]: 32 bytes of a row at once. */
__device__ inline void sums_lay(const float (&d)[16], float *sums, uint32_t rows)
{
    uint32_t lane = threadIdx.x % 32, output = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        uint32_t row = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (row < rows)
            __stcg(sums + row * BAND_TILE + output + i / 2 % 2 * 8, d[i]);
    }
}

__device__ inline void band_take(const band_args &args, const char *w_slots, const char *x_slots,
                                 band_barriers &barriers)
{
    slot_turn w = {0, 0}, x = {0, 0}, place = {0, 0};
    for (uint32_t n = 0; n < args.count; n++) {
        const band_phase &phase = args.phases[n];
        const band_share share = share_of(phase);
        for (uint32_t tile = share.tile; tile < phase.tiles; tile += share.step) {
            float d[16] = {};
            float *sums = args.sums + (blockIdx.x * BAND_PLACES + place.slot) * BAND_SUMS;
            chunks_take(share.end - share.begin, w_slots, x_slots, barriers, w, x, d);
            barrier_wait(&barriers.free[place.slot], place.parity ^ 1);
            sums_lay(d, sums, args.rows);
            __syncwarp();
            if (threadIdx.x % 32 == 0)
                barrier_arrive(&barriers.laid[place.slot]);
            place.next(BAND_PLACES);
        }
    }
}

/* ---- the warps that add ---- */

__device__ inline void adders_meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(ADDERS) : "memory");
}

__device__ inline float warp_sum(float sum)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

__device__ inline uint2 four_of(float4 v)
{
    __align__(8) value four[4] = {from_float<value>(v.x), from_float<value>(v.y),
                                  from_float<value>(v.z), from_float<value>(v.w)};
    return *(const uint2 *)four;
}

/* What a warp needs of a row beside its sums: x before, or the size of what was multiplied. */
struct row_extra {
    float4 before;
    float squares;
};

__device__ inline row_extra row_extra_read(const band_args &args, const band_phase &phase,
                                           uint32_t tile, uint32_t row)
{
    uint32_t lane = threadIdx.x % 32;
    row_extra extra = {make_float4(0, 0, 0, 0), 0};
    if (row >= args.rows)
        return extra;
    if (phase.kind == BAND_ADD)
        extra.before = __ldcg((const float4 *)((const float *)phase.y +
                                               (size_t)row * phase.y_stride + tile * BAND_TILE) +
                              lane);
    else
        for (uint32_t i = lane; i < phase.x_tiles; i += 32)
            extra.squares += __ldcg(phase.squares + i * BAND_ROWS + row);
    return extra;
}

/* What a lane needs to turn its four values of a row's heads, and where keys and values go. */
struct row_turn {
    float4 cosines, sines;
    char *block; /* NULL: they go nowhere */
    uint32_t token;
};

__device__ inline row_turn row_turn_make(const struct rope &rope, uint32_t row)
{
    uint32_t lane = threadIdx.x % 32;
    row_turn turn = {};
    if (row >= rope.head[0])
        return turn;
    uint32_t position = rope.positions[row];
    float *cosines = &turn.cosines.x, *sines = &turn.sines.x;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++)
        rope_angle(rope, position, rope.pairs ? lane * 2 + i / 2 : lane % 16 * 4 + i, &sines[i],
                   &cosines[i]);
    turn.block = rope_block(rope, row, position, &turn.token);
    return turn;
}

/* By a warp, four values of a head a lane: in pairs of neighbours, or of the head's halves. */
__device__ inline float4 head_turn(const struct rope &rope, const float *norm, float4 v,
                                   const row_turn &turn)
{
    uint32_t lane = threadIdx.x % 32;
    if (norm != nullptr) {
        float squares = warp_sum(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
        float scale = 1.0f / sqrtf(squares / (float)BAND_TILE + rope.epsilon);
        float4 by = __ldg((const float4 *)norm + lane);
        v = make_float4(v.x * scale * by.x, v.y * scale * by.y, v.z * scale * by.z,
                        v.w * scale * by.w);
    }
    float4 c = turn.cosines, s = turn.sines, other = make_float4(-v.y, v.x, -v.w, v.z);
    if (!rope.pairs) {
        other = make_float4(__shfl_xor_sync(0xffffffffu, v.x, 16),
                            __shfl_xor_sync(0xffffffffu, v.y, 16),
                            __shfl_xor_sync(0xffffffffu, v.z, 16),
                            __shfl_xor_sync(0xffffffffu, v.w, 16));
        if (lane < 16)
            other = make_float4(-other.x, -other.y, -other.z, -other.w);
    }
    return make_float4(fmaf(other.x, s.x, v.x * c.x), fmaf(other.y, s.y, v.y * c.y),
                       fmaf(other.z, s.z, v.z * c.z), fmaf(other.w, s.w, v.w * c.w));
}

/* A head of a row: queries to where the product has them, keys and values to the pool. */
__device__ inline void head_store(const band_args &args, const band_phase &phase, uint32_t tile,
                                  uint32_t row, float4 v, const row_turn &turn)
{
    const struct rope &rope = args.rope;
    uint32_t kv = tile - rope.head_count;
    bool is_q = tile < rope.head_count, is_k = !is_q && kv < rope.kv_head_count;
    if (is_q || is_k)
        v = head_turn(rope, is_q ? rope.q_norm : rope.k_norm, v, turn);
    __align__(8) __half four[4] = {from_float<__half>(v.x), from_float<__half>(v.y),
                                   from_float<__half>(v.z), from_float<__half>(v.w)};
    __half *to = (__half *)phase.y + (size_t)row * phase.y_stride + tile * BAND_TILE;
    if (!is_q) {
        kv -= is_k ? 0 : rope.kv_head_count;
        to = (__half *)(turn.block + (is_k ? 0 : rope.plane_bytes)) +
             ((size_t)kv * rope.block_tokens + turn.token) * BAND_TILE;
    }
    if (is_q || turn.block != nullptr)
        *(uint2 *)(to + threadIdx.x % 32 * 4) = *(const uint2 *)four;
}

/* A warp: 128 sums of a row to where they belong. */
__device__ inline void row_finish(const band_args &args, const band_phase &phase, uint32_t tile,
                                  uint32_t row, float4 v, const row_extra &extra, float4 norm,
                                  const row_turn &turn)
{
    uint32_t lane = threadIdx.x % 32, output = tile * BAND_TILE + lane * 4;
    if (phase.kind == BAND_ADD) {
        float4 b = extra.before;
        v = make_float4(b.x + v.x, b.y + v.y, b.z + v.z, b.w + v.w);
        *(float4 *)((float *)phase.y + (size_t)row * phase.y_stride + output) = v;
        if (phase.norm == nullptr)
            return;
        float squares = warp_sum(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
        if (lane == 0)
            phase.squares[tile * BAND_ROWS + row] = squares;
        v = make_float4(v.x * norm.x, v.y * norm.y, v.z * norm.z, v.w * norm.w);
        *(uint2 *)((value *)phase.normed + (size_t)row * phase.normed_stride + output) = four_of(v);
        return;
    }
    if (phase.x_tiles > 0) {
        float width = (float)(phase.x_tiles * BAND_TILE);
        float scale = 1.0f / sqrtf(warp_sum(extra.squares) / width + args.epsilon);
        v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
    }
    if (phase.kind == BAND_TURN) {
        head_store(args, phase, tile, row, v, turn);
        return;
    }
    uint2 four = four_of(v);
    value *to = (value *)phase.y + (size_t)row * phase.y_stride;
    if (phase.kind == BAND_STORE) {
        *(uint2 *)(to + output) = four;
        return;
    }
    uint2 up = make_uint2(__shfl_down_sync(0xffffffffu, four.x, 16),
                          __shfl_down_sync(0xffffffffu, four.y, 16));
    value *gates = (value *)&four;
    const value *ups = (const value *)&up;
#pragma unroll
    for (int i = 0; i < 4; i++)
        gates[i] = gated(gates[i], ups[i]);
    if (lane < 16)
        *(uint2 *)(to + tile * (BAND_TILE / 2) + lane * 4) = four;
}

/* The sums of a tile, when all four have laid theirs: rows part, part + 4, ... of it. */
__device__ inline void rows_add(const band_args &args, const band_phase &phase, uint32_t tile,
                                const float *sums, uint32_t first,
                                const row_extra extras[ROWS_EACH], float4 norm,
                                const row_turn turns[ROWS_EACH])
{
    uint32_t lane = threadIdx.x % 32;
    float4 laid[ROWS_EACH][BAND_PARTS];
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++)
#pragma unroll
        for (uint32_t p = 0; p < BAND_PARTS; p++)
            if (first + i * ROWS_STEP < args.rows)
                laid[i][p] = __ldcg((const float4 *)(sums + p * (BAND_PLACES * BAND_SUMS) +
                                                     (first + i * ROWS_STEP) * BAND_TILE) +
                                    lane);
#pragma unroll
    for (uint32_t i = 0; i < ROWS_EACH; i++) {
        uint32_t row = first + i * ROWS_STEP;
        if (row >= args.rows)
            break;
        float4 sum = laid[i][0];
#pragma unroll
        for (uint32_t p = 1; p < BAND_PARTS; p++) {
            float4 v = laid[i][p];
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        row_finish(args, phase, tile, row, sum, extras[i], norm, turns[i]);
    }
}

/* What lies in a place may be laid over when the four have met for the next tile: each of them has
 * added it then. */
__device__ inline void band_add(const band_args &args, band_barriers &barriers)
{
    bool first = threadIdx.x % ADDERS == 64; /* of these warps: 10 .. 13 */
    uint32_t row = blockIdx.x % BAND_PARTS + BAND_PARTS * ((threadIdx.x - CONSUMERS - 64) / 32);
    uint32_t before = BAND_PLACES; /* place of the tile before */
    slot_turn place = {0, 0};
    chain_wait();
    barrier_wait(&barriers.begun, 0);
    unsigned long long met = barriers.met, *of_four = args.met + 1 + blockIdx.x / BAND_PARTS;
    unsigned long long wanted = first ? rounds_before(of_four, BAND_PARTS) : 0;
    for (uint32_t n = 0; n < args.count; n++, met += gridDim.x) {
        const band_phase &phase = args.phases[n];
        const band_share share = share_of(phase);
        row_turn turns[ROWS_EACH] = {};
#pragma unroll
        for (uint32_t i = 0; i < ROWS_EACH; i++)
            if (phase.kind == BAND_TURN && row + i * ROWS_STEP < args.rows)
                turns[i] = row_turn_make(args.rope, row + i * ROWS_STEP);
        if (n > 0 && first)
            met_wait(args.met, met);
        adders_meet();
        for (uint32_t tile = share.tile; tile < phase.tiles; tile += share.step) {
            row_extra extras[ROWS_EACH];
            float4 norm = make_float4(0, 0, 0, 0);
            if (phase.kind == BAND_ADD && phase.norm != nullptr)
                norm = __ldg((const float4 *)(phase.norm + tile * BAND_TILE) + threadIdx.x % 32);
#pragma unroll
            for (uint32_t i = 0; i < ROWS_EACH; i++)
                extras[i] = row_extra_read(args, phase, tile, row + i * ROWS_STEP);
            barrier_wait(&barriers.laid[place.slot], place.parity);
            if (first) {
                met_arrive(of_four);
                met_wait(of_four, wanted += BAND_PARTS);
                if (before < BAND_PLACES)
                    barrier_arrive(&barriers.free[before]);
            }
            adders_meet();
            const float *sums = args.sums + (blockIdx.x / BAND_PARTS * BAND_PARTS * BAND_PLACES +
                                             place.slot) * BAND_SUMS;
            rows_add(args, phase, tile, sums, row, extras, norm, turns);
            adders_meet();
            before = place.slot;
            place.next(BAND_PLACES);
        }
        if (first)
            met_arrive(args.met);
    }
}

#endif

__global__ void __launch_bounds__(THREADS, 1) band_kernel(const __grid_constant__ band_args args)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char memory[];
    __shared__ band_barriers barriers;
    char *w_slots = (char *)(((uintptr_t)memory + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    char *x_slots = w_slots + W_SLOTS * W_BYTES;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < W_SLOTS; i++) {
            barrier_open(&barriers.w_full[i], 1);
            barrier_open(&barriers.w_empty[i], CONSUMERS / 32);
        }
        for (uint32_t i = 0; i < X_SLOTS; i++) {
            barrier_open(&barriers.x_full[i], 1);
            barrier_open(&barriers.x_empty[i], CONSUMERS / 32);
        }
        for (uint32_t i = 0; i < BAND_PLACES; i++) {
            barrier_open(&barriers.laid[i], CONSUMERS / 32);
            barrier_open(&barriers.free[i], 1);
        }
        barrier_open(&barriers.begun, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    chain_next();
    if (threadIdx.x < CONSUMERS)
        band_take(args, w_slots, x_slots, barriers);
    else if (threadIdx.x == CONSUMERS)
        weights_fetch(args, w_slots, barriers);
    else if (threadIdx.x == CONSUMERS + 32)
        rows_fetch(args, x_slots, barriers);
    else if (threadIdx.x >= CONSUMERS + 64)
        band_add(args, barriers);
#else
    __trap(); /* hopper_has_code said otherwise */
#endif
}

/* ---- the host's side ---- */

void band_hopper(struct cuda_backend *cuda, const struct band_args *args)
{
    cuda_good(cuda,
              cudaFuncSetAttribute(band_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   (int)SHARED_BYTES),
              "shared memory of products");
    uint32_t blocks = (uint32_t)cuda->processors / BAND_PARTS * BAND_PARTS;
    chain(cuda, band_kernel, blocks, THREADS, SHARED_BYTES, *args);
}
