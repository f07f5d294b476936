/* backend/cuda/line.cuh - what line.cu and line_hopper.cu share: the products of a step of one row
 * that are made by one kernel, one behind another (line_hopper.cu has the words). */
#ifndef BACKEND_CUDA_LINE_CUH
#define BACKEND_CUDA_LINE_CUH

#include "backend/cuda/stream.cuh"

#define CONSUMERS 16u /* warps */
/* One warp cannot ask in time for what comes in small copies, as rows of halves do. */
#define FETCHERS 2u
#define THREADS ((CONSUMERS + FETCHERS) * 32)
#define PHASES 6u
#define SLOTS_MAX 12u
/* Stages under way, at most: more of them make everything wait, other stages too. */
#define UNDER_WAY_HALVES 3u
#define UNDER_WAY_QUANTISED 2u
#define ROW_PITCH (CONSUMERS * UNIT_BYTES + 64)
#define NORM_PIECES 4u /* times four values a thread */
#define ROW_BYTES_MAX 40960u
#define SHARED_MOST 231424u

struct line_phase {
    stream_args product;
    const float *norm; /* of x, which is float then; or NULL */
    void *h;           /* where the gate goes, or NULL */
    uint32_t form, first; /* block of tile 0 */
    bool fresh;           /* x is not the phase's before */
};

struct line_args {
    line_phase phases[PHASES];
    uint32_t count, slots, slot_bytes, row_at, groups_at, slots_at;
    uint32_t under_way; /* stages that are asked for and have not come, at most; slots / 2 */
    float epsilon;
    unsigned long long *met; /* arrivals of blocks, ever: whole rounds when no line runs */
};

struct line_shared {
    uint64_t full[SLOTS_MAX], empty[SLOTS_MAX];
    float sums[2][CONSUMERS][MMA_ROWS];
    float squares[CONSUMERS];
    unsigned long long *met, met_wanted; /* of the first thread */
};

/* A stage, and what is copied to it as one: a row, or an octet. */
__host__ __device__ constexpr uint32_t piece_rows(uint32_t form)
{
    return form == FORM_HALVES ? 1 : OCTET;
}
__host__ __device__ constexpr uint32_t piece_pitch(uint32_t form)
{
    return form == FORM_HALVES ? ROW_PITCH : CONSUMERS * octet_bytes((int)form);
}
__host__ __device__ constexpr uint32_t stage_bytes(uint32_t form)
{
    return MMA_ROWS / piece_rows(form) * piece_pitch(form);
}

/* line_hopper.cu: one kernel on the backend's stream. */
void line_hopper(struct cuda_backend *cuda, const struct line_args *args);

#endif
