/* backend/cuda/decode.cuh - what decode.cu and decode_hopper.cu share: attention of single rows,
 * its arithmetic on sixteen keys and the order in which its parts are added.
 *
 * The query heads of a kv head are the rows of an mma, padded to 16. K is read like a weight
 * (stream.cuh: 16 bytes of a key a thread, the same columns of q). For P x V a thread reads its
 * four keys' values of 8 neighbouring dimensions and pairs them by byte permutation. Partitions and
 * orders are fixed: the bits of a row depend on itself only. */
#ifndef BACKEND_CUDA_DECODE_CUH
#define BACKEND_CUDA_DECODE_CUH

#include "backend/cuda/state.cuh"

#define HEADS 16       /* rows of an mma */
#define CHUNK_KEYS 16u /* that a warp adds at once */

struct decode_args {
    const uint32_t *head, *rows, *positions, *row_sequences, *starts, *table_offsets, *tables;
    const char *pool;
    size_t block_bytes, layer_at, plane_bytes;
    uint32_t block_tokens, group, kv_head_count, partitions_max;
    uint32_t first, singles; /* single rows of this launch */
    uint32_t q_stride, o_stride;
    float scale;
    float *partials;
    uint32_t *arrivals;
};

/* decode_hopper.cu: it has a kernel for these heads; run it. */
bool decode_hopper_can(const struct cuda_backend *cuda, const struct decode_args *args);
void decode_hopper(struct cuda_backend *cuda, const struct decode_args *args, const __half *q,
                   void *o);

__device__ inline void mma_f16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline uint32_t pair(float a, float b)
{
    __half2 v = __floats2half2_rn(a, b);
    return *(uint32_t *)&v;
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

/* Sixteen keys from first on; those from end on do not count. keys: 16 bytes of keys g and g + 8 at
 * columns 32 part + 8t; values: of keys 2t, 2t + 1, 2t + 8, 2t + 9 at dimensions 64 h + 8g. */
template <int PARTS>
__device__ static void keys_add(const uint4 keys[2][PARTS], const uint4 values[4][PARTS / 2],
                                uint32_t first, uint32_t end, const uint32_t a[PARTS][2][4],
                                state<PARTS> &s)
{
    uint32_t t = threadIdx.x % 4;
    float scores[2][4] = {};
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

#endif
