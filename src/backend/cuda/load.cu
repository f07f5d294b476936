/* backend/cuda/load.cu - the file's weights in the form that the kernels read.
 *
 *     F16, BF16        as in the file (the other of the two is converted to the model's first)
 *     Q8_0, Q4_K       integers and f16 scales, eight rows together: quantised.cuh (Q4_K's scales
 *                      and minima are multiplied out)
 *     all others       dequantised to f16 (or bf16 in a bf16 model)
 *     vectors          float
 *     dummy weights    made where they lie
 *
 * Bytes go through two pinned buffers, so that the copy of one runs while the other is filled. */
#include <string.h>

#include "backend/cuda/quantised.cuh"

extern "C" {
#include "base/dequant.h"
#include "base/synthetic.h"
}

#define STAGING_BYTES ((size_t)32 << 20)

static bool staging_open(struct cuda_backend *cuda)
{
    for (int i = 0; i < 2; i++) {
        if (cuda->staging[i] != NULL)
            continue;
        if (!cuda_good(cuda, cudaMallocHost((void **)&cuda->staging[i], STAGING_BYTES),
                       "memory to load through") ||
            !cuda_good(cuda, cudaEventCreateWithFlags(&cuda->staged[i], cudaEventDisableTiming),
                       "event"))
            return false;
    }
    return true;
}

void load_close(struct cuda_backend *cuda)
{
    for (int i = 0; i < 2; i++) {
        if (cuda->staging[i] != NULL)
            (void)cudaFreeHost(cuda->staging[i]);
        if (cuda->staged[i] != NULL)
            (void)cudaEventDestroy(cuda->staged[i]);
    }
}

/* The next pinned buffer, once its last copy is over. */
static char *staging_next(struct cuda_backend *cuda, int *index_out)
{
    int index = (int)(cuda->staging_next++ % 2);
    cuda_good(cuda, cudaEventSynchronize(cuda->staged[index]), "copy of weights");
    *index_out = index;
    return cuda->staging[index];
}

static void staging_send(struct cuda_backend *cuda, int index, void *to, size_t bytes)
{
    cuda_good(cuda,
              cudaMemcpyAsync(to, cuda->staging[index], bytes, cudaMemcpyHostToDevice,
                              cuda->stream),
              "copy of weights");
    cuda_good(cuda, cudaEventRecord(cuda->staged[index], cuda->stream), "event");
}

static void bytes_send(struct cuda_backend *cuda, const char *from, void *to, size_t bytes)
{
    for (size_t at = 0; at < bytes && cuda->failed == OK; at += STAGING_BYTES) {
        size_t piece = bytes - at < STAGING_BYTES ? bytes - at : STAGING_BYTES;
        int index;
        char *pinned = staging_next(cuda, &index);
        memcpy(pinned, from + at, piece);
        staging_send(cuda, index, (char *)to + at, piece);
    }
}

template <typename T> __global__ void narrow_kernel(const float *from, T *to, size_t count)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        to[i] = from_float<T>(from[i]);
}

template <typename T>
static void narrow_run(struct cuda_backend *cuda, const float *from, void *to, size_t count)
{
    narrow_kernel<T><<<(unsigned)((count + 255) / 256), 256, 0, cuda->stream>>>(from, (T *)to,
                                                                                count);
}

/* Rows (vectors may be dummy weights) as floats on the host, then as to's type on the device. */
static void floats_send(struct cuda_backend *cuda, const struct backend_weight *weight, void *to,
                        bool as_float)
{
    size_t row_bytes = dtype_row_bytes(weight->type, weight->columns);
    size_t most = STAGING_BYTES / (weight->columns * sizeof(float));
    for (size_t row = 0; row < weight->rows && cuda->failed == OK;) {
        size_t rows = weight->rows - row < most ? weight->rows - row : most;
        int index;
        float *pinned = (float *)staging_next(cuda, &index);
        for (size_t i = 0; i < rows && weight->data != NULL; i++)
            dequant_row(weight->type, (const char *)weight->data + (row + i) * row_bytes,
                        weight->columns, pinned + i * weight->columns);
        size_t count = rows * weight->columns;
        if (weight->data == NULL)
            synthetic_fill(&weight->synthetic, DTYPE_F32, (uint64_t)row * weight->columns, count,
                           pinned);
        void *landing = as_float ? (char *)to + row * weight->columns * 4 : cuda->scratch;
        staging_send(cuda, index, landing, count * sizeof(float));
        if (!as_float) {
            BY_TYPE(cuda, narrow_run, cuda, (const float *)landing,
                    (char *)to + row * weight->columns * 2, count);
            cuda_good(cuda, cudaGetLastError(), "conversion of weights");
        }
        row += rows;
    }
}

/* ---- dummy weights ---- */

/* base/synthetic.h, word for word: one thread makes eight values. */
template <typename T>
__global__ void synthetic_kernel(struct synthetic from, float step, T *to, size_t count)
{
    size_t word = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint64_t z = from.seed + (word + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z = z ^ z >> 31;
    for (size_t i = word * 8; i < word * 8 + 8 && i < count; i++, z >>= 8)
        to[i] = from_float<T>(from.middle + (float)(int8_t)z * step);
}

template <typename T>
static void synthetic_make(struct cuda_backend *cuda, const struct synthetic *from, void *to,
                           size_t count)
{
    unsigned blocks = (unsigned)((count + 2047) / 2048);
    synthetic_kernel<T><<<blocks, 256, 0, cuda->stream>>>(*from, ldexpf(1.0f, from->exponent),
                                                          (T *)to, count);
    cuda_good(cuda, cudaGetLastError(), "dummy weights");
}

/* ---- quantised ---- */

/* One warp a group of 32 columns. */
__global__ void q8_kernel(const uint8_t *raw, char *to, uint32_t columns, size_t groups)
{
    size_t group = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    uint32_t i = threadIdx.x % 32;
    if (group >= groups)
        return;
    const uint8_t *from = raw + group * 34;
    uint32_t row = (uint32_t)(group / (columns / 32));
    uint32_t column = (uint32_t)(group % (columns / 32)) * 32;
    to += octet_at(FORM_Q8, row, columns, column);
    to[eight_at(FORM_Q8, row, column + i) + i % 8] = (char)from[2 + i];
    if (i == 0)
        *(unsigned short *)(to + scale_at(FORM_Q8, row, column)) =
            (unsigned short)(from[0] | from[1] << 8);
}

/* The same: part (0..7) of a 256-group. */
__global__ void q4k_kernel(const uint8_t *raw, char *to, uint32_t columns, size_t groups)
{
    size_t group = (size_t)blockIdx.x * 8 + threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    if (group >= groups)
        return;
    const uint8_t *from = raw + group / 8 * 144, *packed = from + 4;
    uint32_t part = group % 8, shift = part % 2 * 4;
    uint32_t row = (uint32_t)(group / (columns / 32));
    uint32_t column = (uint32_t)(group % (columns / 32)) * 32;
    to += octet_at(FORM_Q4K, row, columns, column);
    if (lane < 4) {
        const uint8_t *nibbles = from + 16 + part / 2 * 32 + lane * 8;
        uint32_t word = 0;
        for (uint32_t c = 0; c < 8; c++)
            word |= (uint32_t)(nibbles[c] >> shift & 15) << (c / 2 * 4 + c % 2 * 16);
        *(uint32_t *)(to + eight_at(FORM_Q4K, row, column + lane * 8)) = word;
    }
    if (lane == 0) {
        uint32_t s, m;
        if (part < 4) {
            s = packed[part] & 63;
            m = packed[part + 4] & 63;
        } else {
            s = (packed[part + 4] & 15) | (packed[part - 4] >> 6) << 4;
            m = packed[part + 4] >> 4 | (packed[part] >> 6) << 4;
        }
        float d = __half2float(__ushort_as_half((unsigned short)(from[0] | from[1] << 8)));
        float dmin = __half2float(__ushort_as_half((unsigned short)(from[2] | from[3] << 8)));
        *(__half2 *)(to + scale_at(FORM_Q4K, row, column)) =
            __floats2half2_rn(d * (float)s, dmin * (float)m);
    }
}

static void quantised_send(struct cuda_backend *cuda, const struct backend_weight *weight,
                           struct backend_tensor *tensor)
{
    size_t groups = (size_t)weight->rows * weight->columns / 32;
    size_t bytes = dtype_row_bytes(weight->type, weight->columns) * weight->rows;
    if (weight->rows % OCTET != 0)
        cuda_good(cuda, cudaMemsetAsync(tensor->data, 0, tensor->bytes, cuda->stream),
                  "rows that are not there");
    bytes_send(cuda, (const char *)weight->data, cuda->scratch, bytes);
    unsigned blocks = (unsigned)((groups + 7) / 8);
    auto *kernel = weight->type == DTYPE_Q8_0 ? q8_kernel : q4k_kernel;
    kernel<<<blocks, 256, 0, cuda->stream>>>((const uint8_t *)cuda->scratch, (char *)tensor->data,
                                             weight->columns, groups);
    cuda_good(cuda, cudaGetLastError(), "layout of weights");
    /* scratch is used again by the next one, in stream order: nothing to wait for */
}

/* A thread makes eight columns; blocks are (row, part of its columns). */
template <int FORM>
__global__ void unpack_kernel(const char *matrix, __half *to, uint32_t columns)
{
    uint32_t row = blockIdx.x, column = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (column >= columns)
        return;
    float values[8];
    __align__(16) __half halves[8];
    eight_read<FORM>(matrix, row, columns, column, values);
#pragma unroll
    for (int i = 0; i < 8; i++)
        halves[i] = __float2half_rn(values[i]);
    *(uint4 *)(to + (size_t)row * columns + column) = *(const uint4 *)halves;
}

void tensor_unpack(struct cuda_backend *cuda, const struct backend_tensor *tensor, void *to)
{
    dim3 grid(tensor->rows, (tensor->columns / 8 + 255) / 256);
    auto *kernel = tensor->type == DTYPE_Q8_0 ? unpack_kernel<FORM_Q8> : unpack_kernel<FORM_Q4K>;
    kernel<<<grid, 256, 0, cuda->stream>>>((const char *)tensor->data, (__half *)to,
                                           tensor->columns);
    cuda_good(cuda, cudaGetLastError(), "dequantisation");
}

/* ---- any ---- */

/* What the device keeps a matrix as. */
static enum dtype type_of(struct cuda_backend *cuda, const struct backend_weight *weight)
{
    if (!cuda->typed) {
        cuda->typed = true;
        cuda->bf16 = weight->type == DTYPE_BF16;
        snprintf(cuda->class_name, sizeof(cuda->class_name), "cuda-%s%s",
                 cuda->bf16 ? "bf16" : "f16", cuda->options.deterministic ? "-fixed" : "");
    }
    bool keeps = !cuda->bf16 && !weight->lookup_only;
    if (keeps && weight->type == DTYPE_Q8_0 && weight->columns % 64 == 0)
        return DTYPE_Q8_0;
    if (keeps && weight->type == DTYPE_Q4_K && weight->columns % 256 == 0)
        return DTYPE_Q4_K;
    return cuda->bf16 ? DTYPE_BF16 : DTYPE_F16;
}

status tensor_load(struct cuda_backend *cuda, const struct backend_weight *weight,
                   struct backend_tensor **tensor_out)
{
    struct backend_tensor tensor = {};
    size_t count = (size_t)weight->rows * weight->columns;
    tensor.rows = weight->rows;
    tensor.columns = weight->columns;
    tensor.type = weight->rows == 1 ? DTYPE_F32 : type_of(cuda, weight);
    int form = form_of(tensor.type);
    tensor.quantised = form != FORM_HALVES;
    if (tensor.quantised)
        tensor.bytes = octet_at(form, (tensor.rows + OCTET - 1) / OCTET * OCTET, tensor.columns, 0);
    else
        tensor.bytes = count * (tensor.type == DTYPE_F32 ? 4 : 2);
    if (!staging_open(cuda))
        return error_set(cuda->failed, "%s", cuda->failure);
    /* raw bytes while loading, the whole matrix in two bytes each for products of many rows */
    if (weight->rows > 1) {
        status code =
            scratch_reserve(cuda, tensor.quantised && 2 * count > STAGING_BYTES ? 2 * count
                                                                         : STAGING_BYTES);
        if (code != OK)
            return code;
    }
    if (weight->columns * sizeof(float) > STAGING_BYTES)
        return error_set(ERR_UNSUPPORTED, "%s: rows of %u values are too long for a device",
                         weight->name, weight->columns);
    tensor.data = device_take(cuda, tensor.bytes);
    if (tensor.data == NULL)
        return error_set(ERR_NO_MEMORY, "%s: the device has no memory for %zu bytes of weights",
                         weight->name, tensor.bytes);
    if (weight->data == NULL && tensor.type != DTYPE_F32)
        BY_TYPE(cuda, synthetic_make, cuda, &weight->synthetic, tensor.data, count);
    else if (tensor.quantised)
        quantised_send(cuda, weight, &tensor);
    else if (weight->data != NULL && weight->type == tensor.type)
        bytes_send(cuda, (const char *)weight->data, tensor.data, tensor.bytes);
    else
        floats_send(cuda, weight, tensor.data, tensor.type == DTYPE_F32);
    if (cuda->failed != OK)
        return error_set(cuda->failed, "%s: %s", weight->name, cuda->failure);
    struct backend_tensor *kept = (struct backend_tensor *)malloc(sizeof(*kept));
    if (kept == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory", weight->name);
    *kept = tensor;
    *tensor_out = kept;
    return OK;
}
