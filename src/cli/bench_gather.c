/* baton bench gather: what the carrier cuda-ipc does, between two processes, beside one whole copy.
 *
 *     holder (a child)                       this process
 *     a pool on --from, its handle   --->    maps it, and fetches the slices of one layer of blocks
 *     "load": copies in itself               that lie anywhere, by the same calls as a worker
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/device.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/options.h"
#include "cli/bench_samples.h"
#include "cli/commands.h"

#define LAYERS 32u
#define LAYER_BYTES (64u << 10) /* keys and values of 16 tokens: 8 heads of 128, f16 */
#define BLOCK_BYTES ((size_t)LAYERS * LAYER_BYTES)
#define BLOCKS 1024u /* 2 GiB */
#define WAIT_NS 10000000000u
#define BEHIND 8u /* fetches one behind the other */

struct gather_options {
    const char *device, *from, *plugin;
    uint32_t repeat;
};

#define FIELD(name) offsetof(struct gather_options, name)

static const struct option_spec specs[] = {
    {"device", OPTION_TEXT, "NAME", "cuda:0", 0, 0, FIELD(device), "the GPU that fetches"},
    {"from", OPTION_TEXT, "NAME", "cuda:0", 0, 0, FIELD(from), "the GPU that has the blocks"},
    {"cuda-plugin", OPTION_TEXT, "PATH", NULL, 0, 0, FIELD(plugin),
     "the backend; unset: baton-cuda.so beside the binary or in ../lib/baton"},
    {"repeat", OPTION_UINT, "N", "50", 4, 10000, FIELD(repeat), "fetches of each size"},
};

struct gather {
    struct device device;
    struct backend *backend;
    struct pool_map *map;
    uint64_t dice;
};

static uint32_t dice_below(struct gather *gather, uint32_t limit)
{
    gather->dice = gather->dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((gather->dice >> 33) % limit);
}

static status gather_open(struct gather *gather, const char *word, const char *plugin)
{
    const struct backend_shape shape = {.layer_count = LAYERS,
                                        .head_count = 32,
                                        .kv_head_count = 8,
                                        .head_dim = 128,
                                        .block_tokens = 16,
                                        .kv_dtype = DTYPE_F16,
                                        .block_bytes = BLOCK_BYTES,
                                        .layer_bytes = LAYER_BYTES,
                                        .rope_dims = 128,
                                        .rope_theta = 10000,
                                        .norm_epsilon = 1e-5f};
    const struct backend_limits limits = {
        .rows_max = 16, .sequences_max = 4, .outputs_max = 4, .table_blocks_max = 16};
    const struct device_options options = {.staged = false};
    struct backend_pool pool;
    status st = device_find(word, plugin, &gather->device);
    if (st == OK && gather->device.plugin == NULL)
        st = error_set(ERR_BAD_INPUT, "expected a GPU such as cuda:0, found \"%s\"", word);
    if (st == OK)
        st = device_open(&gather->device, &shape, &limits, &options, &gather->backend);
    if (st == OK)
        st = gather->backend->calls->pool_open(gather->backend, BLOCKS, &pool);
    return st;
}

/* One layer of blocks that lie anywhere, count of them for each move; all of them over. */
static status gather_fetch(struct gather *gather, uint32_t blocks, uint32_t times)
{
    const struct backend_moves *moves = gather->backend->moves;
    struct move_span spans[MOVE_SPANS_MAX];
    struct move_sum sums[MOVE_SPANS_MAX];
    uint32_t tickets[MOVES_MAX], started = 0, over = 0;
    uint32_t parts = (blocks + MOVE_SPANS_MAX - 1) / MOVE_SPANS_MAX * times;
    uint32_t size = blocks < MOVE_SPANS_MAX ? blocks : MOVE_SPANS_MAX;
    uint64_t end_ns = clock_ns() + WAIT_NS;
    status st = OK;
    while (st == OK && over < parts) {
        if (started < parts && started - over < MOVES_MAX) {
            uint64_t layer = dice_below(gather, LAYERS) * (uint64_t)LAYER_BYTES;
            uint32_t from = dice_below(gather, BLOCKS), to = dice_below(gather, BLOCKS);
            for (uint32_t i = 0; i < size; i++) /* steps prime to BLOCKS: all different */
                spans[i] =
                    (struct move_span){.from = (from + i * 37ull) % BLOCKS * BLOCK_BYTES + layer,
                                       .to = (to + i * 101ull) % BLOCKS * BLOCK_BYTES + layer};
            const struct pool_move move = {.kind = MOVE_FETCH,
                                           .map = gather->map,
                                           .spans = spans,
                                           .span_count = size,
                                           .bytes = LAYER_BYTES};
            st = moves->start(gather->backend, &move, &tickets[started % MOVES_MAX]);
            started++;
            continue;
        }
        bool is_over = false;
        st = moves->poll(gather->backend, tickets[over % MOVES_MAX], &is_over, sums);
        over += is_over;
        if (st == OK && !is_over && clock_ns() > end_ns)
            st = error_set(ERR_TIMEOUT, "a fetch does not end");
    }
    return st;
}

/* ---- the holder ---- */

/* A handle goes up the pipe; then each byte from below begins or ends a load of the GPU. */
static status holder_serve(struct gather *holder, int up, int down)
{
    uint8_t handle[POOL_HANDLE_BYTES];
    status st = holder->backend->moves->pool_export(holder->backend, handle);
    if (st == OK)
        st = holder->backend->moves->pool_map(holder->backend, handle, BLOCKS * BLOCK_BYTES,
                                              &holder->map);
    if (st == OK && write(up, handle, sizeof(handle)) != (ssize_t)sizeof(handle))
        st = error_set(ERR_IO, "cannot give the handle: %s", strerror(errno));
    char word = 0;
    while (st == OK && read(down, &word, 1) == 1) {
        while (st == OK && word == 'l') {
            st = gather_fetch(holder, MOVE_SPANS_MAX, MOVES_MAX);
            char next;
            fd_set ready;
            struct timeval now = {0, 0};
            FD_ZERO(&ready);
            FD_SET(down, &ready);
            if (select(down + 1, &ready, NULL, NULL, &now) == 1)
                word = read(down, &next, 1) == 1 ? next : 0;
        }
    }
    return st;
}

static pid_t holder_start(const struct gather_options *options, int *up_out, int *down_out)
{
    int up[2], down[2];
    if (pipe(up) != 0 || pipe(down) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        struct gather holder = {.dice = 2};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(up[0]);
        close(down[1]);
        status st = gather_open(&holder, options->from, options->plugin);
        if (st == OK)
            st = holder_serve(&holder, up[1], down[0]);
        if (st != OK)
            fprintf(stderr, "baton bench gather: holder: %s\n", error_text());
        _exit(st == OK ? EXIT_OK : EXIT_FAILED);
    }
    close(up[1]);
    close(down[0]);
    *up_out = up[0];
    *down_out = down[1];
    return pid;
}

/* ---- the figures ---- */

static status gather_time(struct gather *gather, uint32_t blocks, uint32_t repeat, uint32_t times,
                          struct samples *samples)
{
    status st = OK;
    for (uint32_t i = 0; st == OK && i < repeat; i++) {
        uint64_t start_ns = clock_ns();
        st = gather_fetch(gather, blocks, times);
        samples_add(samples, (double)(clock_ns() - start_ns) / 1e9 / times);
    }
    return st;
}

static status gather_row(struct gather *gather, uint32_t from, uint32_t blocks, uint32_t repeat)
{
    struct samples alone = {0}, behind = {0};
    double bytes = (double)blocks * LAYER_BYTES, copy_alone, copy_behind;
    status st = gather_time(gather, blocks, repeat, 1, &alone);
    if (st == OK)
        st = gather_time(gather, blocks, repeat, BEHIND, &behind);
    if (st == OK)
        st = gather->device.plugin->copy_floor(gather->device.index, from, (uint64_t)bytes,
                                               &copy_alone, &copy_behind);
    if (st == OK) {
        double one = samples_percentile(&alone, 50), many = samples_percentile(&behind, 50);
        printf("%8.0f %10.1f %10.1f %7.2f %10.1f %10.1f %10.0f %10.0f %7.2f\n", bytes / (1 << 20),
               one * 1e6, copy_alone * 1e6, copy_alone / one, many * 1e6, copy_behind * 1e6,
               bytes / many * 1e-9, bytes / copy_behind * 1e-9, copy_behind / many);
        fflush(stdout);
    }
    samples_close(&alone);
    samples_close(&behind);
    return st;
}

static status gather_loaded(struct gather *gather, int down, uint32_t repeat)
{
    struct samples alone = {0};
    if (write(down, "l", 1) != 1)
        return error_set(ERR_IO, "the holder is gone");
    usleep(100000);
    status st = gather_time(gather, 128, repeat, 1, &alone);
    if (write(down, "q", 1) != 1)
        st = error_set(ERR_IO, "the holder is gone");
    printf("8 MiB while the holder's GPU copies without a pause: p50 %.1f us, p99 %.1f us\n",
           samples_percentile(&alone, 50) * 1e6, samples_percentile(&alone, 99) * 1e6);
    samples_close(&alone);
    return st;
}

static status gather_all(const struct gather_options *options, int up, int down)
{
    static const uint32_t blocks[] = {16, 32, 128, 256, 512, 1024, 4096};
    uint8_t handle[POOL_HANDLE_BYTES];
    struct gather gather = {.dice = 1};
    struct device from;
    status st = OK;
    if (read(up, handle, sizeof(handle)) != (ssize_t)sizeof(handle))
        return error_set(ERR_CLOSED, "the holder gave no handle");
    st = gather_open(&gather, options->device, options->plugin);
    if (st == OK)
        st = device_find(options->from, options->plugin, &from);
    if (st == OK)
        st = gather.backend->moves->pool_map(gather.backend, handle, BLOCKS * BLOCK_BYTES,
                                             &gather.map);
    if (st != OK)
        return st;
    printf("%s fetches from %s; slices of %u KiB; us and GB/s, medians of %u\n", options->device,
           options->from, LAYER_BYTES >> 10, options->repeat);
    printf("%8s %10s %10s %7s %10s %10s %10s %10s %7s\n", "MiB", "gather", "copy", "ratio",
           "gather", "copy", "gather", "copy", "ratio");
    printf("%8s %29s %32s %29s\n", "", "alone, us", "behind others, us", "GB/s");
    for (size_t i = 0; st == OK && i < sizeof(blocks) / sizeof(blocks[0]); i++)
        st = gather_row(&gather, from.index, blocks[i], options->repeat);
    if (st == OK)
        st = gather_loaded(&gather, down, options->repeat);
    gather.backend->moves->pool_unmap(gather.backend, gather.map);
    gather.backend->calls->close(gather.backend);
    return st;
}

static int gather_run(const void *options_ptr, const char *const *operands, uint32_t operand_count)
{
    const struct gather_options *options = options_ptr;
    int up = -1, down = -1;
    (void)operands, (void)operand_count;
    signal(SIGPIPE, SIG_IGN);
    pid_t pid = holder_start(options, &up, &down);
    status st = pid > 0 ? gather_all(options, up, down)
                        : error_set(ERR_IO, "cannot start the holder: %s", strerror(errno));
    if (st != OK)
        fprintf(stderr, "baton bench gather: %s\n", error_text());
    close(down);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return st == OK ? EXIT_OK : EXIT_FAILED;
}

extern const struct command_spec bench_gather_command;
const struct command_spec bench_gather_command = {
    .name = "bench gather",
    .operands = "",
    .summary = "measure fetches of blocks between two processes on GPUs",
    .details = "One process has a pool on --from, another maps it and fetches one layer of blocks "
               "that lie anywhere, as a decode worker does, into a pool on --device. Beside it: "
               "one copy of as many bytes by the driver. Alone: from the call until the process "
               "knows that it is over; behind others: of several started at once, each.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct gather_options),
    .run = gather_run,
};
