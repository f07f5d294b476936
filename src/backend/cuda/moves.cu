/* backend/cuda/moves.cu - backend/moves.h on a GPU.
 *
 * One kernel for all kinds of move, but for fetches from another GPU on sm_90 (moves_hopper.cu). A
 * warp takes 4 KiB of a span at a time: eight loads of 16 bytes a lane are under way before the
 * first is used, then they are stored and summed. Poll reads the word that the last block of
 * threads writes and calls no driver, so it does not wait for whoever holds the driver's locks.
 *
 * How many blocks: a move inside one GPU takes what it can get; one over NVLink is bound by the
 * link, and a small grid leaves the other multiprocessors to the step that runs beside it.
 *
 * Beside a step a large fetch over NVLink goes by the copy engines instead, for a step waits for
 * each multiprocessor that has something else to do, however little: a sixth of the link's rate,
 * and then a kernel of few microseconds, a block a multiprocessor, that sums what came. A small
 * one, such as a layer of a short prompt, would wait longer for its turn than it costs the step. */
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "backend/cuda/moves.cuh"

#define MOVE_THREADS 256
#define BLOCKS_OF_A_PROCESSOR 4
#ifndef FAR_BLOCKS
#define FAR_BLOCKS 64 /* 32 KiB under way each; NVLink's 400 GB/s times 2 us is 0.8 MB */
#endif
#define HOST_BLOCKS 16 /* PCIe: 60 GB/s times 3 us */
#define ENGINE_BYTES ((size_t)32 << 10) /* of a span: an engine needs 0.6 us for any */
#define ENGINE_MOVE_BYTES ((size_t)1 << 20) /* of a move: it takes some 50 us, of any size */
/* 8 MiB take 20 us over NVLink, and 10 more to begin and to end: the next ones run meanwhile. */
#define NEAR_STREAMS 4
#define LOOK_NS 1000000u /* so long without an answer: ask the driver whether the device failed */
#define POOL_ROUND ((size_t)2 << 20) /* the driver's pages: a handle gives away a whole one */

struct moves_slot {
    bool used;
    uint32_t number, span_count;
    uint32_t parts; /* of a span, which the host is told of one by one; 0: of all at once */
    uint32_t told;  /* parts told of so far */
    cudaStream_t stream;
    uint64_t looked_ns;
};

struct cuda_moves {
    cudaStream_t near_streams[NEAR_STREAMS], host_stream;
    struct answer *answers;        /* [MOVES_MAX], host */
    struct answer *answers_device; /* the same as the device sees it */
    unsigned long long *sums;      /* [MOVES_MAX][MOVE_SPANS_MAX][2]; 0 between moves */
    uint32_t *arrivals;            /* [MOVES_MAX]; 0 between moves */
    struct moves_slot slots[MOVES_MAX];
    uint32_t number, open; /* open: under way */
    uint32_t by_engines;
    cudaError_t failed;
};

/* ---- the kernel ---- */

template <bool copies> __device__ void move_chunk(const struct move_job &job, uint32_t chunk)
{
    uint32_t span = chunk / job.chunks, lane = threadIdx.x % 32;
    uint32_t first = (chunk - span * job.chunks) * WARP_VECTORS;
    uint32_t count = min(job.vectors - first, (uint32_t)WARP_VECTORS);
    const uint4 *from = (const uint4 *)(job.from + job.spans[span].from) + first;
    uint4 v[MOVE_DEEP];
#pragma unroll
    for (uint32_t i = 0; i < MOVE_DEEP; i++)
        v[i] = i * 32 + lane < count ? __ldcs(from + i * 32 + lane) : make_uint4(0, 0, 0, 0);
    if (copies) {
        uint4 *to = (uint4 *)(job.to + job.spans[span].to) + first;
#pragma unroll
        for (uint32_t i = 0; i < MOVE_DEEP; i++)
            if (i * 32 + lane < count)
                __stcs(to + i * 32 + lane, v[i]);
    }
    uint64_t a = 0, b = 0;
#pragma unroll
    for (uint32_t i = 0; i < MOVE_DEEP; i++)
        sum_vector(v[i], 2ull * (first + i * 32 + lane), &a, &b);
    sums_add(&job.sums[2 * span], a, b);
}

template <bool copies>
__global__ void __launch_bounds__(MOVE_THREADS, BLOCKS_OF_A_PROCESSOR)
    move_kernel(const __grid_constant__ struct move_job job)
{
    uint32_t warp = (blockIdx.x * MOVE_THREADS + threadIdx.x) / 32;
    uint32_t warps = gridDim.x * (MOVE_THREADS / 32);
    for (uint32_t chunk = warp; chunk < job.span_count * job.chunks; chunk += warps)
        move_chunk<copies>(job, chunk);
    move_arrive(job);
}

/* ---- start and poll ---- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static status moves_failure(struct cuda_backend *cuda)
{
    return error_set(ERR_IO, "cuda:%u: a move of blocks failed: %s (%s)", cuda->options.device,
                     cudaGetErrorName(cuda->moving->failed),
                     cudaGetErrorString(cuda->moving->failed));
}

static void job_place(const struct cuda_backend *cuda, const struct pool_move *move,
                      struct move_job *job)
{
    job->from = move->kind == MOVE_FETCH ? move->map->base
                : move->kind == MOVE_IN  ? cuda->staging_device
                                         : cuda->pool_device;
    job->to = move->kind == MOVE_OUT ? cuda->staging_device : cuda->pool_device;
    job->to_host = move->kind == MOVE_OUT;
}

static uint32_t job_blocks(const struct cuda_backend *cuda, const struct pool_move *move,
                           const struct move_job *job, bool engines)
{
    uint32_t all = (job->span_count * job->chunks + MOVE_THREADS / 32 - 1) / (MOVE_THREADS / 32);
    uint32_t most = engines ? (uint32_t)cuda->processors
                    : move->kind == MOVE_OUT || move->kind == MOVE_IN ? HOST_BLOCKS
                    : move->kind == MOVE_FETCH && move->map->far
                        ? FAR_BLOCKS
                        : (uint32_t)cuda->processors * BLOCKS_OF_A_PROCESSOR;
    return all < most ? all : most;
}

/* A step waits for the slowest multiprocessor, so beside one a fetch takes few of them. */
static enum move_pace pace_now(const struct cuda_backend *cuda)
{
    if (__atomic_load_n(&cuda->step, __ATOMIC_RELAXED) != NULL)
        return PACE_CALM;
    return cuda->moving->open < 2 ? PACE_ALONE : PACE_BESIDE;
}

/* The job then is to sum what came. */
static cudaError_t engines_start(const struct pool_move *move, struct move_job *job,
                                 cudaStream_t stream)
{
    void *to[MOVE_SPANS_MAX];
    const void *from[MOVE_SPANS_MAX];
    size_t sizes[MOVE_SPANS_MAX], first = 0;
    struct cudaMemcpyAttributes attributes = {};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
    for (uint32_t i = 0; i < move->span_count; i++) {
        to[i] = job->to + move->spans[i].to;
        from[i] = job->from + move->spans[i].from;
        sizes[i] = move->bytes;
        job->spans[i].from = move->spans[i].to;
    }
    job->from = job->to;
    return cudaMemcpyBatchAsync(to, from, sizes, move->span_count, &attributes, &first, 1, stream);
}

static status moves_start(struct backend *backend, const struct pool_move *move,
                          uint32_t *ticket_out)
{
    struct cuda_backend *cuda = cuda_of(backend);
    struct cuda_moves *moves = cuda->moving;
    uint32_t ticket = 0;
    if (moves->failed != cudaSuccess)
        return moves_failure(cuda);
    while (ticket < MOVES_MAX && moves->slots[ticket].used)
        ticket++;
    if (ticket == MOVES_MAX)
        return ERR_FULL;
    struct moves_slot *slot = &moves->slots[ticket];
    struct move_job job;
    job.sums = moves->sums + (size_t)ticket * MOVE_SPANS_MAX * 2;
    job.arrivals = moves->arrivals + ticket;
    job.answer = moves->answers_device + ticket;
    job.number = ++moves->number;
    job.span_count = move->span_count;
    job.vectors = (uint32_t)(move->bytes / sizeof(uint4));
    job.chunks = (job.vectors + WARP_VECTORS - 1) / WARP_VECTORS;
    job_place(cuda, move, &job);
    memcpy(job.spans, move->spans, move->span_count * sizeof(*move->spans));
    enum move_pace pace = pace_now(cuda);
    bool far = move->kind == MOVE_FETCH && move->map->far;
    bool engines = far && pace == PACE_CALM && move->bytes >= ENGINE_BYTES &&
                   move->bytes * move->span_count >= ENGINE_MOVE_BYTES;
    bool bulk = far && !engines && cuda->hopper;
    bool in_turn = engines || (bulk && pace == PACE_CALM);
    slot->stream = moves->near_streams[in_turn ? 0 : job.number % NEAR_STREAMS];
    if (move->kind == MOVE_OUT || move->kind == MOVE_IN)
        slot->stream = moves->host_stream;
    moves->failed = cudaSetDevice((int)cuda->options.device);
    if (moves->failed == cudaSuccess && engines)
        moves->failed = engines_start(move, &job, slot->stream);
    if (moves->failed == cudaSuccess) {
        uint32_t blocks = job_blocks(cuda, move, &job, engines);
        if (bulk)
            moves_hopper_start(job, pace, slot->stream);
        else if (engines || move->kind == MOVE_SUM)
            move_kernel<false><<<blocks, MOVE_THREADS, 0, slot->stream>>>(job);
        else
            move_kernel<true><<<blocks, MOVE_THREADS, 0, slot->stream>>>(job);
        moves->failed = cudaGetLastError();
    }
    if (moves->failed != cudaSuccess)
        return moves_failure(cuda);
    moves->open++;
    moves->by_engines += engines;
    slot->used = true;
    slot->number = job.number;
    slot->span_count = move->span_count;
    slot->parts = bulk ? job.parts : 0;
    slot->told = 0;
    slot->looked_ns = now_ns();
    *ticket_out = ticket;
    return OK;
}

static bool part_told(const uint64_t words[4], uint32_t number, struct move_sum *out)
{
    uint64_t halves[4];
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t word = __atomic_load_n(&words[i], __ATOMIC_ACQUIRE);
        if (word >> 32 != number)
            return false;
        halves[i] = word & UINT32_MAX;
    }
    *out = {halves[0] | halves[1] << 32, halves[2] | halves[3] << 32};
    return true;
}

static void slot_collect(const struct cuda_moves *moves, uint32_t ticket, struct move_sum *sums_out)
{
    const struct moves_slot *slot = &moves->slots[ticket];
    const struct answer *answer = &moves->answers[ticket];
    if (slot->parts == 0) {
        memcpy(sums_out, answer->sums, slot->span_count * sizeof(*sums_out));
        return;
    }
    for (uint32_t span = 0; span < slot->span_count; span++) {
        sums_out[span] = {};
        for (uint32_t i = 0; i < slot->parts; i++) {
            struct move_sum part = {};
            part_told(answer->parts[span * slot->parts + i], slot->number, &part);
            sums_out[span].a += part.a;
            sums_out[span].b += part.b;
        }
    }
}

static bool slot_answered(struct cuda_moves *moves, uint32_t ticket)
{
    struct moves_slot *slot = &moves->slots[ticket];
    struct move_sum part;
    if (slot->parts > 0) {
        while (slot->told < slot->span_count * slot->parts &&
               part_told(moves->answers[ticket].parts[slot->told], slot->number, &part))
            slot->told++;
        return slot->told == slot->span_count * slot->parts;
    }
    return __atomic_load_n(&moves->answers[ticket].number, __ATOMIC_ACQUIRE) ==
           moves->slots[ticket].number;
}

/* Nothing for long: has the device failed? A stream that is done has answered. */
static void slot_look(struct cuda_moves *moves, uint32_t ticket)
{
    struct moves_slot *slot = &moves->slots[ticket];
    uint64_t now = now_ns();
    if (now - slot->looked_ns < LOOK_NS)
        return;
    slot->looked_ns = now;
    cudaError_t code = cudaStreamQuery(slot->stream);
    if (code == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return;
    }
    if (code != cudaSuccess)
        moves->failed = code;
    else if (!slot_answered(moves, ticket))
        moves->failed = cudaErrorUnknown;
}

static status moves_poll(struct backend *backend, uint32_t ticket, bool *over_out,
                         struct move_sum *sums_out)
{
    struct cuda_backend *cuda = cuda_of(backend);
    struct cuda_moves *moves = cuda->moving;
    struct moves_slot *slot = &moves->slots[ticket];
    bool answered = slot_answered(moves, ticket);
    if (!answered && moves->failed == cudaSuccess) {
        slot_look(moves, ticket);
        answered = slot_answered(moves, ticket);
    }
    *over_out = answered || moves->failed != cudaSuccess;
    if (!*over_out)
        return OK;
    slot->used = false;
    moves->open--;
    if (!answered)
        return moves_failure(cuda);
    slot_collect(moves, ticket, sums_out);
    return OK;
}

/* ---- pools of other processes ---- */

/* Of the process: a pool of its own has no other address here, and CUDA does not open it. */
static uint8_t process_mark[16];

struct handle {
    char magic[8];
    uint8_t device[16]; /* UUID: processes may number devices differently */
    uint8_t process[16];
    uint64_t base, bytes;
    cudaIpcMemHandle_t ipc;
};
static_assert(sizeof(struct handle) <= POOL_HANDLE_BYTES, "a handle fits");
static const char handle_magic[8] = {'b', 'a', 't', 'c', 'u', 'd', 'a', '1'};

static bool device_uuid(int device, uint8_t uuid[16])
{
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess)
        return false;
    memcpy(uuid, properties.uuid.bytes, 16);
    return true;
}

static status moves_export(struct backend *backend, uint8_t handle_out[POOL_HANDLE_BYTES])
{
    struct cuda_backend *cuda = cuda_of(backend);
    struct handle handle = {};
    memcpy(handle.magic, handle_magic, sizeof(handle.magic));
    memcpy(handle.process, process_mark, sizeof(process_mark));
    handle.base = (uint64_t)(uintptr_t)cuda->pool_device;
    handle.bytes = cuda->pool.bytes;
    cudaError_t code = cudaSetDevice((int)cuda->options.device);
    if (code == cudaSuccess)
        code = cudaIpcGetMemHandle(&handle.ipc, cuda->pool_device);
    if (code != cudaSuccess || !device_uuid((int)cuda->options.device, handle.device)) {
        (void)cudaGetLastError();
        return error_set(ERR_UNSUPPORTED, "cuda:%u: the pool cannot be shared with processes: %s",
                         cuda->options.device, cudaGetErrorString(code));
    }
    memset(handle_out, 0, POOL_HANDLE_BYTES);
    memcpy(handle_out, &handle, sizeof(handle));
    return OK;
}

/* How much is really there: a handle's word is not enough, a kernel that reads past the end would
 * end all work of this process. */
static bool allocation_holds(char *base, uint64_t bytes)
{
    typedef int (*range_call)(unsigned long long *, size_t *, unsigned long long);
    void *symbol = NULL;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &symbol, 3020, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return false;
    unsigned long long start = 0;
    size_t size = 0;
    unsigned long long at = (unsigned long long)(uintptr_t)base;
    return ((range_call)symbol)(&start, &size, at) == 0 && at - start <= size &&
           bytes <= size - (at - start);
}

/* The number here of the handle's device; -1: not visible here. */
static int handle_device(const struct handle *handle)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess)
        return -1;
    for (int i = 0; i < count; i++) {
        uint8_t uuid[16];
        if (device_uuid(i, uuid) && memcmp(uuid, handle->device, sizeof(uuid)) == 0)
            return i;
    }
    return -1;
}

static cudaError_t map_open(struct cuda_backend *cuda, const struct handle *handle, int device,
                            struct pool_map *map)
{
    int own = (int)cuda->options.device;
    void *base = NULL;
    map->far = device != own;
    if (memcmp(handle->process, process_mark, sizeof(process_mark)) == 0) {
        map->base = (char *)(uintptr_t)handle->base;
        cudaError_t code = map->far ? cudaDeviceEnablePeerAccess(device, 0) : cudaSuccess;
        if (code == cudaErrorPeerAccessAlreadyEnabled) {
            (void)cudaGetLastError();
            code = cudaSuccess;
        }
        return code;
    }
    cudaError_t code = cudaIpcOpenMemHandle(&base, handle->ipc, cudaIpcMemLazyEnablePeerAccess);
    map->base = (char *)base;
    map->opened = code == cudaSuccess;
    return code;
}

static void moves_unmap(struct backend *backend, struct pool_map *map)
{
    if (map == NULL)
        return;
    (void)cudaSetDevice((int)cuda_of(backend)->options.device);
    if (map->opened)
        (void)cudaIpcCloseMemHandle(map->base);
    (void)cudaGetLastError();
    free(map);
}

static status moves_map(struct backend *backend, const uint8_t from[POOL_HANDLE_BYTES],
                        uint64_t bytes, struct pool_map **map_out)
{
    struct cuda_backend *cuda = cuda_of(backend);
    struct handle handle;
    memcpy(&handle, from, sizeof(handle));
    if (memcmp(handle.magic, handle_magic, sizeof(handle.magic)) != 0 || handle.bytes < bytes)
        return error_set(ERR_BAD_INPUT, "not the handle of a pool of %llu bytes on a CUDA device",
                         (unsigned long long)bytes);
    int own = (int)cuda->options.device, reachable = 0;
    cudaError_t code = cudaSetDevice(own);
    int device = handle_device(&handle);
    if (device < 0)
        return error_set(ERR_UNSUPPORTED, "the GPU of the other pool is not visible here: let "
                                          "CUDA_VISIBLE_DEVICES have both");
    if (device != own &&
        (cudaDeviceCanAccessPeer(&reachable, own, device) != cudaSuccess || !reachable))
        return error_set(ERR_UNSUPPORTED, "cuda:%d cannot read the memory of cuda:%d", own, device);
    struct pool_map *map = (struct pool_map *)calloc(1, sizeof(*map));
    if (map == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the map of a pool");
    if (code == cudaSuccess)
        code = map_open(cuda, &handle, device, map);
    if (code != cudaSuccess) {
        (void)cudaGetLastError();
        free(map);
        return error_set(ERR_UNSUPPORTED, "a pool on cuda:%d cannot be mapped on cuda:%d: %s (%s)",
                         device, own, cudaGetErrorName(code), cudaGetErrorString(code));
    }
    if (!allocation_holds(map->base, bytes)) {
        moves_unmap(backend, map);
        return error_set(ERR_BAD_INPUT, "the pool behind a handle is smaller than %llu bytes",
                         (unsigned long long)bytes);
    }
    *map_out = map;
    return OK;
}

uint32_t moves_by_engines(const struct cuda_backend *cuda)
{
    return cuda->moving->by_engines;
}

/* ---- open and close ---- */

static const struct backend_moves cuda_moves_calls = {moves_export, moves_map, moves_unmap,
                                                      moves_start, moves_poll};

size_t moves_pool_bytes(size_t bytes)
{
    return (bytes + POOL_ROUND - 1) / POOL_ROUND * POOL_ROUND;
}

bool moves_open(struct cuda_backend *cuda)
{
    int least, greatest;
    struct cuda_moves *moves = (struct cuda_moves *)calloc(1, sizeof(*moves));
    if (moves == NULL)
        return cuda_good(cuda, cudaErrorMemoryAllocation, "moves");
    cuda->moving = moves;
    size_t sums = (size_t)MOVES_MAX * MOVE_SPANS_MAX * 2 * sizeof(*moves->sums);
    moves->sums = (unsigned long long *)device_take(cuda, sums);
    moves->arrivals = (uint32_t *)device_take(cuda, MOVES_MAX * sizeof(*moves->arrivals));
    if (moves->sums == NULL || moves->arrivals == NULL ||
        (process_mark[0] == 0 && getrandom(process_mark, sizeof(process_mark), 0) < 0))
        return cuda_good(cuda, cudaErrorMemoryAllocation, "moves");
    process_mark[0] |= 1;
    cudaFuncAttributes attributes; /* loads them: later that could stop the device */
    bool good =
        cuda_good(cuda,
                  cudaDeviceGetAttribute(&cuda->processors, cudaDevAttrMultiProcessorCount,
                                         (int)cuda->options.device),
                  "device") &&
        cuda_good(cuda, cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream") &&
        cuda_good(cuda,
                  cudaStreamCreateWithPriority(&moves->host_stream, cudaStreamNonBlocking,
                                               greatest),
                  "stream") &&
        cuda_good(cuda,
                  cudaHostAlloc((void **)&moves->answers, MOVES_MAX * sizeof(*moves->answers),
                                cudaHostAllocMapped),
                  "pinned memory") &&
        cuda_good(cuda,
                  cudaHostGetDevicePointer((void **)&moves->answers_device, moves->answers, 0),
                  "pinned memory") &&
        cuda_good(cuda, cudaMemset(moves->sums, 0, sums), "moves") &&
        cuda_good(cuda, cudaMemset(moves->arrivals, 0, MOVES_MAX * sizeof(*moves->arrivals)),
                  "moves") &&
        cuda_good(cuda, cudaFuncGetAttributes(&attributes, move_kernel<true>), "moves") &&
        cuda_good(cuda, cudaFuncGetAttributes(&attributes, move_kernel<false>), "moves") &&
        (!cuda->hopper || cuda_good(cuda, moves_hopper_open(), "moves"));
    for (int i = 0; i < NEAR_STREAMS && good; i++)
        good = cuda_good(cuda,
                         cudaStreamCreateWithPriority(&moves->near_streams[i],
                                                      cudaStreamNonBlocking, greatest),
                         "stream");
    if (good) {
        memset(moves->answers, 0, MOVES_MAX * sizeof(*moves->answers));
        cuda->backend.moves = &cuda_moves_calls;
    }
    return good;
}

void moves_close(struct cuda_backend *cuda)
{
    struct cuda_moves *moves = cuda->moving;
    if (moves == NULL)
        return;
    for (cudaStream_t stream : moves->near_streams)
        if (stream != NULL)
            (void)cudaStreamDestroy(stream);
    if (moves->host_stream != NULL)
        (void)cudaStreamDestroy(moves->host_stream);
    if (moves->answers != NULL)
        (void)cudaFreeHost(moves->answers);
    free(moves);
    cuda->moving = NULL;
}
