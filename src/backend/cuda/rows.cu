/* backend/cuda/rows.cu - what is done row by row, in float: one block of threads a row. */
#include "backend/cuda/quantised.cuh"
#include "backend/cuda/rope.cuh"

#define ROW_THREADS 256

/* Sum over the block; the order is fixed by the thread numbers. */
__device__ static float block_sum(float value)
{
    __shared__ float sums[32];
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++)
        value += sums[i];
    __syncthreads();
    return value;
}

/* ---- embed ---- */

template <typename S>
__global__ void embed_kernel(const S *table, const uint32_t *token_ids, float *x, uint32_t width,
                             uint32_t stride)
{
    const S *from = table + (size_t)token_ids[blockIdx.x] * width;
    float *to = x + (size_t)blockIdx.x * stride;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = to_float(from[i]);
}

template <int FORM>
__global__ void embed_quantised_kernel(const char *table, const uint32_t *token_ids, float *x,
                                       uint32_t width, uint32_t stride)
{
    float *to = x + (size_t)blockIdx.x * stride;
    for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8];
        eight_read<FORM>(table, token_ids[blockIdx.x], width, i, values);
        for (uint32_t k = 0; k < 8; k++)
            to[i + k] = values[k];
    }
}

void rows_embed(struct cuda_backend *cuda, const struct backend_tensor *table,
                struct backend_buffer *x)
{
    x->halves = false;
    x->data = x->storage;
    x->stride = x->width;
    if (!launches(cuda))
        return;
    float *to = (float *)x->data;
    const uint32_t *ids = cuda->device.token_ids;
    uint32_t rows = cuda->rows;
    if (table->type == DTYPE_BF16)
        embed_kernel<<<rows, ROW_THREADS, 0, cuda->stream>>>((const __nv_bfloat16 *)table->data,
                                                             ids, to, x->width, x->stride);
    else if (table->type == DTYPE_F16)
        embed_kernel<<<rows, ROW_THREADS, 0, cuda->stream>>>((const __half *)table->data, ids, to,
                                                             x->width, x->stride);
    else if (table->type == DTYPE_Q4_K)
        embed_quantised_kernel<FORM_Q4K><<<rows, ROW_THREADS, 0, cuda->stream>>>(
            (const char *)table->data, ids, to, x->width, x->stride);
    else
        embed_quantised_kernel<FORM_Q8><<<rows, ROW_THREADS, 0, cuda->stream>>>(
            (const char *)table->data, ids, to, x->width, x->stride);
    cuda_good(cuda, cudaGetLastError(), "embed");
}

/* ---- norm ---- */

#define NORM_THREADS 1024u

__device__ inline uint32_t bits_of(__half a, __half b)
{
    __half2 v = __halves2half2(a, b);
    return *(uint32_t *)&v;
}

__device__ inline uint32_t bits_of(__nv_bfloat16 a, __nv_bfloat16 b)
{
    __nv_bfloat162 v = __halves2bfloat162(a, b);
    return *(uint32_t *)&v;
}

/* Rows of 4 n values: each is read once; a thread keeps PIECES times four. The block is small, so
 * that it finds room beside the products before and behind it, which then begin in time. */
template <typename T, int PIECES>
__global__ void __launch_bounds__(NORM_THREADS)
    norm_kernel(const float *x, uint32_t x_stride, const float *weight, T *y, uint32_t y_stride,
                uint32_t width, float epsilon)
{
    const float4 *from = (const float4 *)(x + (size_t)blockIdx.x * x_stride);
    uint2 *to = (uint2 *)(y + (size_t)blockIdx.x * y_stride);
    float4 values[PIECES], weights[PIECES];
    float squares = 0;
    chain_next();
#pragma unroll
    for (int n = 0; n < PIECES; n++)
        weights[n] = __ldg((const float4 *)weight +
                           min(threadIdx.x + (uint32_t)n * blockDim.x, width / 4 - 1));
    chain_wait();
#pragma unroll
    for (int n = 0; n < PIECES; n++) {
        uint32_t i = threadIdx.x + (uint32_t)n * blockDim.x;
        values[n] = i < width / 4 ? from[i] : make_float4(0, 0, 0, 0);
        squares += values[n].x * values[n].x + values[n].y * values[n].y +
                   values[n].z * values[n].z + values[n].w * values[n].w;
    }
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)width + epsilon);
#pragma unroll
    for (int n = 0; n < PIECES; n++) {
        uint32_t i = threadIdx.x + (uint32_t)n * blockDim.x;
        if (i >= width / 4)
            break;
        float4 w = weights[n], v = values[n];
        to[i] = make_uint2(
            bits_of(from_float<T>(v.x * scale * w.x), from_float<T>(v.y * scale * w.y)),
            bits_of(from_float<T>(v.z * scale * w.z), from_float<T>(v.w * scale * w.w)));
    }
}

template <typename T>
__global__ void norm_any_kernel(const float *x, uint32_t x_stride, const float *weight, T *y,
                                uint32_t y_stride, uint32_t width, float epsilon)
{
    chain_next();
    chain_wait();
    const float *from = x + (size_t)blockIdx.x * x_stride;
    T *to = y + (size_t)blockIdx.x * y_stride;
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        squares += from[i] * from[i];
    float scale = 1.0f / sqrtf(block_sum(squares) / (float)width + epsilon);
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = from_float<T>(from[i] * scale * weight[i]);
}

template <typename T, int PIECES>
static void norm_pieces(struct cuda_backend *cuda, const struct backend_buffer *x,
                        const struct backend_tensor *weight, struct backend_buffer *y)
{
    uint32_t rows = x->outputs ? cuda->outputs : cuda->rows;
    uint32_t threads = ((x->width / 4 + PIECES - 1) / PIECES + 31) / 32 * 32;
    chain(cuda, norm_kernel<T, PIECES>, rows, threads, 0, (const float *)x->data, x->stride,
          (const float *)weight->data, (T *)y->data, y->stride, x->width,
          cuda->shape.norm_epsilon);
}

template <typename T>
static void norm_run(struct cuda_backend *cuda, const struct backend_buffer *x,
                     const struct backend_tensor *weight, struct backend_buffer *y)
{
    uint32_t rows = x->outputs ? cuda->outputs : cuda->rows, width = x->width;
    bool whole = width % 4 == 0 && x->stride % 4 == 0 && y->stride % 4 == 0;
    if (whole && width <= 4 * 2 * NORM_THREADS)
        norm_pieces<T, 2>(cuda, x, weight, y);
    else if (whole && width <= 4 * 4 * NORM_THREADS)
        norm_pieces<T, 4>(cuda, x, weight, y);
    else
        chain(cuda, norm_any_kernel<T>, rows, ROW_THREADS, 0, (const float *)x->data, x->stride,
              (const float *)weight->data, (T *)y->data, y->stride, width,
              cuda->shape.norm_epsilon);
}

void rows_norm(struct cuda_backend *cuda, const struct backend_buffer *x,
               const struct backend_tensor *weight, struct backend_buffer *y)
{
    y->halves = true;
    y->data = y->storage;
    y->stride = y->width;
    if (!launches(cuda))
        return;
    BY_TYPE(cuda, norm_run, cuda, x, weight, y);
    cuda_good(cuda, cudaGetLastError(), "norm");
}

/* ---- gate ---- */

/* 16 bytes a thread. */
template <typename T>
__global__ void gate_kernel(const T *gate, uint32_t gate_stride, const T *up, uint32_t up_stride,
                            T *h, uint32_t h_stride, uint32_t width)
{
    chain_next();
    chain_wait();
    uint32_t i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= width)
        return;
    uint4 g = *(const uint4 *)(gate + (size_t)blockIdx.y * gate_stride + i);
    uint4 u = *(const uint4 *)(up + (size_t)blockIdx.y * up_stride + i);
    T *a = (T *)&g;
    const T *b = (const T *)&u;
#pragma unroll
    for (int k = 0; k < 8; k++)
        a[k] = gated(a[k], b[k]);
    *(uint4 *)(h + (size_t)blockIdx.y * h_stride + i) = g;
}

template <typename T>
__global__ void gate_any_kernel(const T *gate, uint32_t gate_stride, const T *up,
                                uint32_t up_stride, T *h, uint32_t h_stride, uint32_t width)
{
    chain_next();
    chain_wait();
    const T *g = gate + (size_t)blockIdx.y * gate_stride, *u = up + (size_t)blockIdx.y * up_stride;
    T *to = h + (size_t)blockIdx.y * h_stride;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < width;
         i += gridDim.x * blockDim.x)
        to[i] = gated(g[i], u[i]);
}

static bool in_pieces(const struct backend_buffer *buffer)
{
    return buffer->stride % 8 == 0 && (uintptr_t)buffer->data % 16 == 0;
}

template <typename T>
static void gate_run(struct cuda_backend *cuda, const struct backend_buffer *gate,
                     const struct backend_buffer *up, struct backend_buffer *h)
{
    dim3 grid((gate->width + 2047) / 2048, cuda->rows);
    bool pieces = gate->width % 8 == 0 && in_pieces(gate) && in_pieces(up) && in_pieces(h);
    if (pieces)
        chain(cuda, gate_kernel<T>, grid, ROW_THREADS, 0, (const T *)gate->data, gate->stride,
              (const T *)up->data, up->stride, (T *)h->data, h->stride, gate->width);
    else
        chain(cuda, gate_any_kernel<T>, grid, ROW_THREADS, 0, (const T *)gate->data, gate->stride,
              (const T *)up->data, up->stride, (T *)h->data, h->stride, gate->width);
}

void rows_gate(struct cuda_backend *cuda, const struct backend_buffer *gate,
               const struct backend_buffer *up, struct backend_buffer *h)
{
    if (h != gate) {
        h->halves = true;
        h->data = h->storage;
        h->stride = h->width;
    }
    if (!launches(cuda))
        return;
    BY_TYPE(cuda, gate_run, cuda, gate, up, h);
    cuda_good(cuda, cudaGetLastError(), "gate");
}

/* ---- rope and store ---- */

/* Norm (if any) and rotation of one head by one warp; lane values come back in from. */
__device__ static void head_turn(float *from, const float *norm, const struct rope &r,
                                 const float *cosines, const float *sines)
{
    uint32_t lane = threadIdx.x % 32;
    __syncwarp();
    if (norm != nullptr) {
        float squares = 0;
        for (uint32_t i = lane; i < r.head_dim; i += 32)
            squares += from[i] * from[i];
        for (int step = 16; step > 0; step /= 2)
            squares += __shfl_xor_sync(0xffffffffu, squares, step);
        float scale = 1.0f / sqrtf(squares / (float)r.head_dim + r.epsilon);
        for (uint32_t i = lane; i < r.head_dim; i += 32)
            from[i] = from[i] * scale * norm[i];
        __syncwarp();
    }
    for (uint32_t i = lane; i < r.half; i += 32) {
        uint32_t a = r.pairs ? 2 * i : i, b = r.pairs ? 2 * i + 1 : i + r.half;
        float x = from[a], y = from[b];
        from[a] = x * cosines[i] - y * sines[i];
        from[b] = x * sines[i] + y * cosines[i];
    }
    __syncwarp();
}

/* A head to shared memory and from there, PIECE values a lane at once. */
template <typename T, int PIECE>
__device__ inline void head_read(float *to, const T *from, uint32_t head_dim)
{
    for (uint32_t i = threadIdx.x % 32 * PIECE; i < head_dim; i += 32 * PIECE) {
        __align__(8) T values[PIECE];
        if (PIECE == 4) {
            *(uint2 *)values = *(const uint2 *)(from + i);
            *(float4 *)(to + i) = make_float4(to_float(values[0]), to_float(values[1 % PIECE]),
                                              to_float(values[2 % PIECE]),
                                              to_float(values[3 % PIECE]));
        } else {
            to[i] = to_float(from[i]);
        }
    }
}

template <int PIECE>
__device__ inline void head_write(__half *to, const float *from, uint32_t head_dim)
{
    for (uint32_t i = threadIdx.x % 32 * PIECE; i < head_dim; i += 32 * PIECE) {
        if (PIECE == 4) {
            float4 v = *(const float4 *)(from + i);
            *(uint2 *)(to + i) =
                make_uint2(bits_of(from_float<__half>(v.x), from_float<__half>(v.y)),
                           bits_of(from_float<__half>(v.z), from_float<__half>(v.w)));
        } else {
            to[i] = from_float<__half>(from[i]);
        }
    }
}

template <typename T, int PIECE>
__global__ void rope_kernel(struct rope r, T *q, uint32_t q_stride, const T *k, uint32_t k_stride,
                            const T *v, uint32_t v_stride)
{
    chain_next();
    extern __shared__ float shared[];
    float *cosines = shared, *sines = shared + r.half;
    uint32_t row = blockIdx.x, warp = threadIdx.x / 32;
    uint32_t warps = blockDim.x / 32;
    float *mine = shared + 2 * r.half + warp * r.head_dim;
    if (row >= r.head[0])
        return;
    uint32_t position = r.positions[row]; /* of the descriptor: before the wait */
    for (uint32_t i = threadIdx.x; i < r.half; i += blockDim.x)
        rope_angle(r, position, i, &sines[i], &cosines[i]);
    uint32_t token;
    char *block = rope_block(r, row, position, &token);
    __syncthreads();
    chain_wait();
    for (uint32_t h = blockIdx.y * warps + warp; h < r.head_count + 2 * r.kv_head_count;
         h += gridDim.y * warps) {
        if (h < r.head_count) {
            T *at = q + (size_t)row * q_stride + h * r.head_dim;
            head_read<T, PIECE>(mine, at, r.head_dim);
            head_turn(mine, r.q_norm, r, cosines, sines);
            head_write<PIECE>((__half *)at, mine, r.head_dim);
            __syncwarp();
            continue;
        }
        uint32_t kv = h - r.head_count;
        bool is_k = kv < r.kv_head_count;
        kv -= is_k ? 0 : r.kv_head_count;
        const T *at = is_k ? k + (size_t)row * k_stride + kv * r.head_dim
                           : v + (size_t)row * v_stride + kv * r.head_dim;
        head_read<T, PIECE>(mine, at, r.head_dim);
        if (is_k)
            head_turn(mine, r.k_norm, r, cosines, sines);
        __half *to = (__half *)(block + (is_k ? 0 : r.plane_bytes)) +
                     ((size_t)kv * r.block_tokens + token) * r.head_dim;
        __syncwarp();
        head_write<PIECE>(to, mine, r.head_dim);
        __syncwarp();
    }
}

static bool in_fours(const struct backend_buffer *buffer)
{
    return buffer->stride % 4 == 0 && (uintptr_t)buffer->data % 8 == 0;
}

template <typename T>
static void rope_run(struct cuda_backend *cuda, const struct rope *rope, struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v)
{
    uint32_t heads = rope->head_count + 2 * rope->kv_head_count;
    size_t bytes = sizeof(float) * (2 * rope->half + ROW_THREADS / 32 * rope->head_dim);
    dim3 grid(cuda->rows, cuda->rows < 512 ? (heads + 7) / 8 : 1);
    if (rope->head_dim % 4 == 0 && rope->half % 2 == 0 && in_fours(q) && in_fours(k) && in_fours(v))
        chain(cuda, rope_kernel<T, 4>, grid, ROW_THREADS, bytes, *rope, (T *)q->data, q->stride,
              (const T *)k->data, k->stride, (const T *)v->data, v->stride);
    else
        chain(cuda, rope_kernel<T, 1>, grid, ROW_THREADS, bytes, *rope, (T *)q->data, q->stride,
              (const T *)k->data, k->stride, (const T *)v->data, v->stride);
}

struct rope rope_describe(const struct cuda_backend *cuda, uint32_t layer,
                          const struct backend_tensor *q_norm, const struct backend_tensor *k_norm)
{
    const struct backend_shape *shape = &cuda->shape;
    const struct device_step *step = &cuda->device;
    struct rope rope = {};
    rope.head = step->head;
    rope.positions = step->positions;
    rope.row_sequences = step->row_sequences;
    rope.table_offsets = step->table_offsets;
    rope.tables = step->tables;
    rope.frequencies = cuda->frequencies;
    rope.q_norm = q_norm != NULL ? (const float *)q_norm->data : NULL;
    rope.k_norm = k_norm != NULL ? (const float *)k_norm->data : NULL;
    rope.pool = cuda->pool_device;
    rope.block_bytes = shape->block_bytes;
    rope.layer_at = layer * shape->layer_bytes;
    rope.plane_bytes = shape->layer_bytes / 2;
    rope.head_count = shape->head_count;
    rope.kv_head_count = shape->kv_head_count;
    rope.head_dim = shape->head_dim;
    rope.block_tokens = shape->block_tokens;
    rope.half = shape->rope_dims / 2;
    rope.pairs = shape->rope_style == ROPE_PAIRS;
    rope.epsilon = shape->norm_epsilon;
    return rope;
}

void rows_rope_store(struct cuda_backend *cuda, uint32_t layer, struct backend_buffer *q,
                     const struct backend_buffer *k, const struct backend_buffer *v,
                     const struct backend_tensor *q_norm, const struct backend_tensor *k_norm)
{
    if (!launches(cuda))
        return;
    struct rope rope = rope_describe(cuda, layer, q_norm, k_norm);
    BY_TYPE(cuda, rope_run, cuda, &rope, q, k, v);
    cuda_good(cuda, cudaGetLastError(), "rope");
}

/* The frequencies, in double: angles of long contexts need them. */
bool rope_open(struct cuda_backend *cuda)
{
    const struct backend_shape *shape = &cuda->shape;
    uint32_t half = shape->rope_dims / 2;
    double *host = (double *)malloc((half + 1) * sizeof(double));
    cuda->frequencies = (double *)device_take(cuda, (half + 1) * sizeof(double));
    if (host == NULL || cuda->frequencies == NULL) {
        free(host);
        return false;
    }
    for (uint32_t i = 0; i < half; i++) {
        host[i] = pow((double)shape->rope_theta, -2.0 * i / shape->rope_dims);
        if (shape->rope_factors != NULL)
            host[i] /= (double)shape->rope_factors[i];
    }
    bool good = cuda_good(cuda,
                          cudaMemcpy(cuda->frequencies, host, half * sizeof(double),
                                     cudaMemcpyHostToDevice),
                          "rotation");
    free(host);
    return good;
}

/* ---- outputs, bias ---- */

__global__ void take_kernel(const float *x, uint32_t x_stride, const uint32_t *rows, float *y,
                            uint32_t width)
{
    chain_next();
    chain_wait();
    const float *from = x + (size_t)rows[blockIdx.x] * x_stride;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        y[(size_t)blockIdx.x * width + i] = from[i];
}

void rows_take_outputs(struct cuda_backend *cuda, const struct backend_buffer *x,
                       struct backend_buffer *y)
{
    y->halves = false;
    y->data = y->storage;
    y->stride = y->width;
    if (!launches(cuda))
        return;
    chain(cuda, take_kernel, cuda->outputs, ROW_THREADS, 0, (const float *)x->data, x->stride,
          cuda->device.output_rows, (float *)y->data, x->width);
    cuda_good(cuda, cudaGetLastError(), "take outputs");
}

template <typename T>
__global__ void bias_kernel(const float *bias, T *y, uint32_t stride, uint32_t width)
{
    T *to = y + (size_t)blockIdx.y * stride;
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < width)
        to[i] = from_float<T>(to_float(to[i]) + bias[i]);
}

template <typename T>
static void bias_run(struct cuda_backend *cuda, const float *bias, struct backend_buffer *y)
{
    dim3 grid((y->width + ROW_THREADS - 1) / ROW_THREADS, cuda->rows);
    bias_kernel<T><<<grid, ROW_THREADS, 0, cuda->stream>>>(bias, (T *)y->data, y->stride, y->width);
}

void rows_bias(struct cuda_backend *cuda, const struct backend_tensor *bias,
               struct backend_buffer *y)
{
    if (y->halves)
        BY_TYPE(cuda, bias_run, cuda, (const float *)bias->data, y);
    else
        bias_run<float>(cuda, (const float *)bias->data, y);
    cuda_good(cuda, cudaGetLastError(), "bias");
}
