/* backend/cuda/rope.cuh - what rows.cu and band_hopper.cu share: rotation of queries and keys, and
 * where in the pool keys and values go. */
#ifndef BACKEND_CUDA_ROPE_CUH
#define BACKEND_CUDA_ROPE_CUH

#include "backend/cuda/state.cuh"

struct rope {
    const uint32_t *head, *positions, *row_sequences, *table_offsets, *tables;
    const double *frequencies;
    const float *q_norm, *k_norm;
    char *pool;
    size_t block_bytes, layer_at, plane_bytes;
    uint32_t head_count, kv_head_count, head_dim, block_tokens, half;
    bool pairs;
    float epsilon;
};

/* rows.cu: all of a step's rotation in a layer. */
struct rope rope_describe(const struct cuda_backend *cuda, uint32_t layer,
                          const struct backend_tensor *q_norm, const struct backend_tensor *k_norm);

/* Frequency i at a position; the angle in double, for long contexts need it. */
__device__ inline void rope_angle(const struct rope &r, uint32_t position, uint32_t i, float *sine,
                                  float *cosine)
{
    double angle = (double)position * r.frequencies[i];
    angle -= 6.283185307179586476925 * rint(angle * 0.15915494309189533576888);
    sincosf((float)angle, sine, cosine);
}

/* Where keys of a row lie in its block of the pool, and its place among the block's tokens. */
__device__ inline char *rope_block(const struct rope &r, uint32_t row, uint32_t position,
                                   uint32_t *token_out)
{
    const uint32_t *table = r.tables + r.table_offsets[r.row_sequences[row]];
    *token_out = position % r.block_tokens;
    return r.pool + (size_t)table[position / r.block_tokens] * r.block_bytes + r.layer_at;
}

#endif
