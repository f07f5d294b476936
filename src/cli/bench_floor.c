/* baton bench floor: what this machine's cores and memory can do at most. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/cpus.h"
#include "base/error.h"
#include "cli/bench_floor.h"
#include "cli/bench_samples.h"
#include "cli/commands.h"

struct floor_options {
    uint32_t threads, repeat;
    const char *variant, *json;
};

#define FIELD(name) offsetof(struct floor_options, name)

static const struct option_spec specs[] = {
    {"threads", OPTION_UINT, "N", "0", 0, CPU_THREADS_MAX, FIELD(threads),
     "most threads; 0 for all cores that the process may use"},
    {"repeat", OPTION_UINT, "N", "5", 1, 1000, FIELD(repeat), "measurements to take a median of"},
    {"variant", OPTION_TEXT, "NAME", "auto", 0, 0, FIELD(variant),
     "instructions: scalar, avx2, avx512, vnni, bf16, amx, neon, dotprod, or auto, the best that "
     "there are"},
    {"json", OPTION_TEXT, "FILE", NULL, 0, 0, FIELD(json),
     "also write the result as JSON; - writes it to standard output instead of the table"},
};

status floor_measure(uint32_t threads, const char *variant, uint32_t repeat,
                     struct bench_floor *floor_out)
{
    static const char *const classes[] = {"float", "int8", "bf16"};
    struct bench_floor floor = {.threads = threads};
    double *const peaks[] = {&floor.float_per_s, &floor.int8_per_s, &floor.bf16_per_s};
    struct samples read = {0};
    status code = OK;
    for (size_t i = 0; i < 3 && code == OK; i++) {
        struct samples peak = {0};
        for (uint32_t round = 0; round < repeat && code == OK; round++) {
            struct cpu_limits limits;
            code = cpu_limits_measure(threads, NULL, classes[i], variant, &limits);
            if (code == OK && (!samples_add(&peak, limits.operations_per_s) ||
                               !samples_add(&read, limits.read_bytes_per_s)))
                code = error_set(ERR_NO_MEMORY, "no memory for %u measurements", repeat);
        }
        *peaks[i] = samples_percentile(&peak, 50);
        samples_close(&peak);
    }
    floor.read_bytes_per_s = samples_percentile(&read, 50);
    samples_close(&read);
    if (code == OK)
        *floor_out = floor;
    return code;
}

json_t *floor_json(const struct bench_floor *floor)
{
    return json_pack("{si sf sf sf sf}", "threads", (int)floor->threads, "read_bytes_per_s",
                     floor->read_bytes_per_s, "float_operations_per_s", floor->float_per_s,
                     "int8_operations_per_s", floor->int8_per_s, "bf16_operations_per_s",
                     floor->bf16_per_s);
}

status bench_json_write(json_t *root, const char *path)
{
    int failed = 0;
    if (root == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the report");
    if (strcmp(path, "-") == 0) {
        failed = json_dumpf(root, stdout, JSON_INDENT(2)) != 0 || fputc('\n', stdout) == EOF;
    } else {
        failed = json_dump_file(root, path, JSON_INDENT(2)) != 0;
    }
    json_decref(root);
    return failed ? error_set(ERR_IO, "cannot write %s: %s", path, strerror(errno)) : OK;
}

static status floors_print(const struct floor_options *options, uint32_t threads)
{
    bool table = options->json == NULL || strcmp(options->json, "-") != 0;
    json_t *list = json_array();
    status code = OK;
    if (table)
        printf("%8s %12s %14s %14s %14s\n", "threads", "read GB/s", "f32 GFLOP/s", "int8 GOP/s",
               "bf16 GFLOP/s");
    for (uint32_t n = 1; code == OK; n = 2 * n < threads ? 2 * n : threads) {
        struct bench_floor floor;
        code = floor_measure(n, options->variant, options->repeat, &floor);
        if (code != OK)
            break;
        if (table)
            printf("%8u %12.1f %14.1f %14.1f %14.1f\n", n, floor.read_bytes_per_s * 1e-9,
                   floor.float_per_s * 1e-9, floor.int8_per_s * 1e-9, floor.bf16_per_s * 1e-9);
        (void)json_array_append_new(list, floor_json(&floor));
        if (n == threads)
            break;
    }
    if (code == OK && options->json != NULL)
        return bench_json_write(json_pack("{so}", "floors", list), options->json);
    json_decref(list);
    return code;
}

static int floor_run(const void *options_ptr, const char *const *operands, uint32_t operand_count)
{
    const struct floor_options *options = options_ptr;
    (void)operands;
    (void)operand_count;
    status code = floors_print(options, bench_threads(options->threads));
    if (code == OK)
        return EXIT_OK;
    fprintf(stderr, "baton bench floor: %s\n", error_text());
    return EXIT_FAILED;
}

uint32_t bench_threads(uint32_t asked)
{
    struct cpus cpus;
    if (asked != 0)
        return asked;
    cpus_allowed(&cpus);
    return cpus.count > CPU_THREADS_MAX ? CPU_THREADS_MAX : cpus.count;
}

extern const struct command_spec bench_floor_command;
const struct command_spec bench_floor_command = {
    .name = "bench floor",
    .operands = "",
    .summary = "measure what the cores and their memory can do at most",
    .details =
        "For 1, 2, 4, ... threads: bytes read from memory, and multiply-adds (two operations each) "
        "in f32, of int8 and of bf16 numbers, with the instructions that the kernels use, in "
        "registers and nothing else. These are what baton bench engine compares with. Where a "
        "machine has no instructions for bf16, those are f32's.",
    .options = specs,
    .option_count = sizeof(specs) / sizeof(specs[0]),
    .options_bytes = sizeof(struct floor_options),
    .run = floor_run,
};
