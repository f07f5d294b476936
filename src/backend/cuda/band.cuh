/* backend/cuda/band.cuh - what band.cu and band_hopper.cu share: the products of a step of several
 * rows that are made by one kernel, one behind another (band_hopper.cu has the words). */
#ifndef BACKEND_CUDA_BAND_CUH
#define BACKEND_CUDA_BAND_CUH

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/rope.cuh"

#define BAND_PHASES 4u
#define BAND_ROWS 32u
#define BAND_TILE 128u /* outputs */
#define BAND_WIDTH_MAX 32768u
#define BAND_SUMS (BAND_ROWS * BAND_TILE) /* of a part of a tile */
#define BAND_PLACES 3u                    /* where a block lays sums, by turns */
#define BAND_PARTS 4u                     /* of a product's columns: a block each */

enum band_kind {
    BAND_ADD,   /* y, float, += x W; and y times a norm's weights, where a norm follows */
    BAND_GATE,  /* y = gate(x W), 64 outputs of the gate and the 64 of up a tile */
    BAND_STORE, /* y = x W */
    BAND_TURN,  /* the same of q, k and v, a head a tile: q is turned, k and v go to the pool */
};

struct band_phase {
    void *y;
    const float *norm;  /* of a norm that follows; or NULL */
    void *normed;       /* y times norm: not yet divided by its size */
    float *squares;     /* [tile][BAND_ROWS] of y: written by ADD, else x's */
    uint32_t kind, tiles, chunks, up; /* up: the weight's first row of it */
    uint32_t y_stride, normed_stride;
    uint32_t x_tiles; /* of squares of x; 0: it is not divided by anything */
    uint32_t pad;
};

struct band_args {
    CUtensorMap w[BAND_PHASES], x[BAND_PHASES];
    band_phase phases[BAND_PHASES];
    /* arrivals of blocks, ever: whole rounds when no band runs; then those of each four blocks */
    unsigned long long *met;
    float *sums; /* [block][BAND_PLACES][BAND_SUMS] */
    uint32_t count, rows, box_rows;
    float epsilon;
    struct rope rope; /* of TURN */
};

/* band_hopper.cu: one kernel on the backend's stream. */
void band_hopper(struct cuda_backend *cuda, const struct band_args *args);

#endif
