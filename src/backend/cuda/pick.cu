/* backend/cuda/pick.cu - from logits to tokens on the device: greedy, or drawn at a temperature.
 *
 * One block of threads an output. The weights are those of engine/sampler.c, operation by
 * operation; their sums run in double, each warp over a run of token ids of its own, then over the
 * warps: another order than the sampler's, so a draw could differ where u falls within 1e-13 of
 * the border between two tokens, and nowhere else. */
#include "backend/cuda/state.cuh"

#define PICK_THREADS 1024u
#define PICK_WARPS (PICK_THREADS / 32)

struct best {
    float logit;
    uint32_t id;
};

__device__ static best better(best a, best b)
{
    return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}

__device__ static float weight_of(float logit, float largest, float temperature)
{
    float x = __fdiv_rn(__fsub_rn(logit, largest), temperature);
    int magnitude = __float_as_int(x) & 0x7fffffff;
    const int far = 0x42ae0000;
    if (magnitude >= far)
        return 0.0f;
    x = __int_as_float(magnitude);
    const float magic = 12582912.0f;
    float k = __fsub_rn(__fadd_rn(__fmul_rn(x, -1.44269504f), magic), magic);
    float r = __fsub_rn(__fsub_rn(-x, __fmul_rn(k, 0.693359375f)), __fmul_rn(k, -2.12194440e-4f));
    float p = 1.98412698e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.38888889e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.33333333e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.16666667e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.66666667e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f);
    return __fmul_rn(p, __int_as_float(((int)k + 127) << 23));
}

/* The largest of all, to every thread; false when there is a NaN or +inf, or nothing but -inf. */
__device__ static bool block_best(const float *logits, uint32_t vocabulary, best *best_out)
{
    __shared__ best bests[PICK_WARPS];
    best mine = {-INFINITY, UINT32_MAX};
    bool bad = false;
    for (uint32_t i = threadIdx.x; i < vocabulary; i += PICK_THREADS) {
        float logit = logits[i];
        bad |= !(logit < INFINITY);
        mine = better(mine, best{logit, i});
    }
    for (int step = 16; step > 0; step /= 2)
        mine = better(mine, best{__shfl_xor_sync(0xffffffffu, mine.logit, step),
                                 __shfl_xor_sync(0xffffffffu, mine.id, step)});
    if (threadIdx.x % 32 == 0)
        bests[threadIdx.x / 32] = mine;
    bad = __syncthreads_or(bad);
    mine = bests[0];
    for (uint32_t i = 1; i < PICK_WARPS; i++)
        mine = better(mine, bests[i]);
    *best_out = mine;
    return !bad && mine.logit > -INFINITY;
}

/* The last token whose weight is not 0 before the sum passes target. One warp; begin .. end. */
__device__ static uint32_t warp_walk(const float *logits, uint32_t begin, uint32_t end,
                                     float largest, float temperature, double target)
{
    uint32_t lane = threadIdx.x % 32, last = begin;
    for (uint32_t at = begin; at < end; at += 32) {
        double weight =
            at + lane < end ? (double)weight_of(logits[at + lane], largest, temperature) : 0.0;
        double sum = weight;
        for (int step = 1; step < 32; step *= 2) {
            double before = __shfl_up_sync(0xffffffffu, sum, step);
            sum += (int)lane >= step ? before : 0.0;
        }
        uint32_t some = __ballot_sync(0xffffffffu, weight > 0.0);
        uint32_t passed = __ballot_sync(0xffffffffu, weight > 0.0 && sum > target);
        if (passed != 0)
            return at + __ffs(passed) - 1;
        if (some != 0)
            last = at + 31 - __clz(some);
        target -= __shfl_sync(0xffffffffu, sum, 31);
    }
    return last;
}

__global__ void __launch_bounds__(PICK_THREADS)
    pick_kernel(const float *all, uint32_t vocabulary, const uint32_t *head,
                            const pick_wish *wishes, backend_picked *picked)
{
    chain_next();
    chain_wait();
    __shared__ double sums[PICK_WARPS];
    uint32_t output = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (output >= head[2] || wishes[output].temperature < 0.0f)
        return;
    const float *logits = all + (size_t)output * vocabulary;
    float temperature = wishes[output].temperature;
    best most;
    if (!block_best(logits, vocabulary, &most)) {
        if (threadIdx.x == 0)
            picked[output] = backend_picked{0, true};
        return;
    }
    if (temperature == 0.0f) {
        if (threadIdx.x == 0)
            picked[output] = backend_picked{most.id, false};
        return;
    }
    uint32_t run = ((vocabulary + PICK_WARPS - 1) / PICK_WARPS + 31) / 32 * 32;
    uint32_t begin = min(warp * run, vocabulary), end = min(begin + run, vocabulary);
    double sum = 0;
    for (uint32_t i = begin + lane; i < end; i += 32)
        sum += (double)weight_of(logits[i], most.logit, temperature);
    for (int step = 16; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0)
        sums[warp] = sum;
    __syncthreads();
    double total = 0;
    for (uint32_t i = 0; i < PICK_WARPS; i++)
        total += sums[i];
    double target = wishes[output].uniform * total;
    uint32_t chosen = 0, with_weight = 0;
    bool found = false;
    for (uint32_t i = 0; i < PICK_WARPS && !found; i++) {
        if (sums[i] > 0.0)
            with_weight = i;
        if (sums[i] > target)
            found = true;
        else
            target -= sums[i];
        chosen = i;
    }
    chosen = found ? chosen : with_weight;
    if (warp != chosen)
        return;
    uint32_t id = warp_walk(logits, begin, end, most.logit, temperature, found ? target : INFINITY);
    if (lane == 0)
        picked[output] = backend_picked{id, false};
}

void pick_tokens(struct cuda_backend *cuda, const struct backend_buffer *logits)
{
    if (!launches(cuda))
        return;
    chain(cuda, pick_kernel, cuda->outputs, PICK_THREADS, 0, (const float *)logits->data,
          logits->width, cuda->device.head, cuda->device.wishes, cuda->picked_device);
    if (cuda_good(cuda, cudaGetLastError(), "pick"))
        cuda_good(cuda,
                  cudaMemcpyAsync(cuda->picked_host, cuda->picked_device,
                                  cuda->outputs * sizeof(*cuda->picked_host),
                                  cudaMemcpyDeviceToHost, cuda->stream),
                  "picked tokens");
}
