#include "backend/cpu/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define LIMITS_BYTES (64u << 20)
#define LIMITS_THREADS_MAX 256
#define LIMITS_NS 60000000u

typedef float lanes __attribute__((vector_size(32)));

struct limits_part {
    const unsigned char *data;
    size_t bytes;
    double read_bytes_per_s;
    double operations_per_s;
};

/* Stream through the part again and again; the sum keeps the reads alive. */
static void limits_read(struct limits_part *part)
{
    uint64_t start_ns = clock_ns(), elapsed_ns = 0, bytes = 0, sum = 0;
    while (elapsed_ns < LIMITS_NS) {
        const uint64_t *words = (const uint64_t *)(const void *)part->data;
        uint64_t a = 0, b = 0, c = 0, d = 0;
        for (size_t i = 0; i + 4 <= part->bytes / 8; i += 4) {
            a += words[i];
            b += words[i + 1];
            c += words[i + 2];
            d += words[i + 3];
        }
        sum += a + b + c + d;
        bytes += part->bytes;
        elapsed_ns = clock_ns() - start_ns;
    }
    __asm__ volatile("" : : "r"(sum));
    part->read_bytes_per_s = (double)bytes * 1e9 / (double)elapsed_ns;
}

/* Twelve independent chains of multiply and add. */
static void limits_compute(struct limits_part *part)
{
    lanes sums[12];
    memset(sums, 0, sizeof(sums));
    lanes factor = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
    uint64_t start_ns = clock_ns(), elapsed_ns = 0, rounds = 0;
    while (elapsed_ns < LIMITS_NS) {
        for (int i = 0; i < 2000; i++) {
            for (int k = 0; k < 12; k++)
                sums[k] = sums[k] * factor + factor;
            __asm__ volatile("" : "+m"(sums));
        }
        rounds += 2000;
        elapsed_ns = clock_ns() - start_ns;
    }
    part->operations_per_s = (double)rounds * 12 * 8 * 2 * 1e9 / (double)elapsed_ns;
}

static void *limits_thread(void *ctx)
{
    limits_read(ctx);
    limits_compute(ctx);
    return NULL;
}

status cpu_limits_measure(uint32_t threads, const int *cpus, const char *kernels,
                          struct cpu_limits *limits_out)
{
    (void)cpus;
    (void)kernels;
    if (threads == 0 || threads > LIMITS_THREADS_MAX)
        return error_set(ERR_BAD_INPUT, "limits: expected 1 to %d threads, found %u",
                         LIMITS_THREADS_MAX, threads);
    unsigned char *data = malloc(LIMITS_BYTES);
    struct limits_part *parts = calloc(threads, sizeof(*parts));
    pthread_t *ids = calloc(threads, sizeof(*ids));
    status st = data == NULL || parts == NULL || ids == NULL
                    ? error_set(ERR_NO_MEMORY, "no memory to measure the limits of the cores")
                    : OK;
    if (st == OK)
        memset(data, 1, LIMITS_BYTES);
    uint32_t started = 0;
    for (; st == OK && started < threads; started++) {
        size_t share = LIMITS_BYTES / threads / 64 * 64;
        parts[started].data = data + share * started;
        parts[started].bytes = share;
        if (pthread_create(&ids[started], NULL, limits_thread, &parts[started]) != 0)
            break;
    }
    struct cpu_limits limits = {0};
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(ids[i], NULL);
        limits.read_bytes_per_s += parts[i].read_bytes_per_s;
        limits.operations_per_s += parts[i].operations_per_s;
    }
    free(data);
    free(parts);
    free(ids);
    if (st == OK)
        *limits_out = limits;
    return st;
}
