/* backend/cuda/line.cuh - what line.cu and line_hopper.cu share: the products of a step of one row
 * that are made by one kernel, one behind another (line_hopper.cu has the words). */
#ifndef BACKEND_CUDA_LINE_CUH
#define BACKEND_CUDA_LINE_CUH

#include "backend/cuda/stream.cuh"

#define CONSUMERS 16u /* warps */
/* One warp cannot ask in time for what comes in small copies, as scales do. */
#define FETCHERS 3u
#define THREADS ((CONSUMERS + FETCHERS) * 32)
#define PHASES 6u
#define SLOTS_MAX 12u
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
    uint32_t count, fetchers, slots, slot_bytes, row_at, groups_at, slots_at;
    float epsilon;
    unsigned long long *met; /* arrivals of blocks, ever: whole rounds when no line runs */
};

struct line_shared {
    uint64_t full[SLOTS_MAX], empty[SLOTS_MAX];
    float sums[2][CONSUMERS][MMA_ROWS];
    float squares[CONSUMERS];
};

/* Bytes of a unit's scales of one row, and from row to row in a stage: no two rows share a bank. */
__host__ __device__ constexpr uint32_t scale_bytes(uint32_t form)
{
    return form == FORM_Q8 ? 4 : form == FORM_Q4K ? 16 : 0;
}
__host__ __device__ constexpr uint32_t scale_pitch(uint32_t form)
{
    return form == FORM_HALVES ? 0 : CONSUMERS * scale_bytes(form) + 16;
}

/* line_hopper.cu: one kernel on the backend's stream. */
void line_hopper(struct cuda_backend *cuda, const struct line_args *args);

#endif
