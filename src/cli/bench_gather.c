/* baton bench gather: what the carrier cuda-ipc does, between two processes (cli/bench_fetch.h),
 * beside one whole copy. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/options.h"
#include "cli/bench_fetch.h"
#include "cli/bench_samples.h"
#include "cli/commands.h"

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
    struct fetch fetch;
    struct fetch_holder holder;
};

static status gather_time(struct gather *gather, uint32_t blocks, uint32_t repeat, uint32_t times,
                          struct samples *samples)
{
    status st = OK;
    for (uint32_t i = 0; st == OK && i < repeat; i++) {
        uint64_t start_ns = clock_ns();
        st = fetch_slices(&gather->fetch, blocks, times);
        samples_add(samples, (double)(clock_ns() - start_ns) / 1e9 / times);
    }
    return st;
}

static status gather_row(struct gather *gather, uint32_t from, uint32_t blocks, uint32_t repeat)
{
    struct samples alone = {0}, behind = {0};
    double bytes = (double)blocks * FETCH_LAYER_BYTES, copy_alone, copy_behind;
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

static status gather_loaded(struct gather *gather, uint32_t repeat)
{
    struct samples alone = {0};
    status st = fetch_holder_load(&gather->holder, true);
    if (st != OK)
        return st;
    usleep(100000);
    st = gather_time(gather, 128, repeat, 1, &alone);
    if (st == OK)
        st = fetch_holder_load(&gather->holder, false);
    printf("8 MiB while the holder's GPU copies without a pause: p50 %.1f us, p99 %.1f us\n",
           samples_percentile(&alone, 50) * 1e6, samples_percentile(&alone, 99) * 1e6);
    samples_close(&alone);
    return st;
}

static status gather_all(const struct gather_options *options, struct gather *gather)
{
    static const uint32_t blocks[] = {16, 32, 128, 256, 512, 1024, 4096};
    struct device from;
    status st = fetch_holder_start(options->from, options->plugin, &gather->holder);
    if (st == OK)
        st = fetch_open(options->device, options->plugin, &gather->device, &gather->fetch);
    if (st == OK)
        st = device_find(options->from, options->plugin, &from);
    if (st == OK)
        st = fetch_map(&gather->holder, gather->fetch.backend, FETCH_BLOCKS * FETCH_BLOCK_BYTES,
                       &gather->fetch);
    if (st != OK)
        return st;
    printf("%s fetches from %s; slices of %u KiB; us and GB/s, medians of %u\n", options->device,
           options->from, FETCH_LAYER_BYTES >> 10, options->repeat);
    printf("%8s %10s %10s %7s %10s %10s %10s %10s %7s\n", "MiB", "gather", "copy", "ratio",
           "gather", "copy", "gather", "copy", "ratio");
    printf("%8s %29s %32s %29s\n", "", "alone, us", "behind others, us", "GB/s");
    for (size_t i = 0; st == OK && i < sizeof(blocks) / sizeof(blocks[0]); i++)
        st = gather_row(gather, from.index, blocks[i], options->repeat);
    return st == OK ? gather_loaded(gather, options->repeat) : st;
}

static int gather_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct gather gather = {0};
    (void)operands, (void)operand_count;
    status st = gather_all(options, &gather);
    if (st != OK)
        fprintf(stderr, "baton bench gather: %s\n", error_text());
    fetch_unmap(&gather.fetch);
    if (gather.fetch.backend != NULL)
        gather.fetch.backend->calls->close(gather.fetch.backend);
    fetch_holder_stop(&gather.holder);
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
