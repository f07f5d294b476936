#include "backend/cpu/limits.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/kernels.h"
#include "base/clock.h"
#include "base/error.h"

/* All threads first read, then compute, each at the same time as the others, in short slices. A
 * thread computes as fast as in its best slice: one in which something else had the core does not
 * count. Memory is shared, and a slice during which the others had not begun is too good: a thread
 * reads as fast as in its median slice. A thread that gets no core until the time is over still
 * measures one slice. The limit is the sum over the threads. */
#define BUFFER_BYTES_MIN (64u << 20)
#define BUFFER_BYTES_MAX (256u << 20)
#define SLICE_BYTES (1u << 20)
#define SLICES_MAX 4096u
#define READ_NS 40000000u
#define COMPUTE_NS 20000000u
#define ROUNDS 20000u

#define GIVE_UP UINT64_MAX

struct measure {
    const struct kernels *kernels;
    uint64_t (*peak)(uint32_t rounds, float *sink_out); /* or NULL */
    const int *cpus;
    uint32_t threads;
    size_t thread_bytes;
    _Atomic uint32_t ready;
    _Atomic uint64_t start_ns; /* 0: wait; GIVE_UP */
};

struct measure_thread {
    struct measure *measure;
    uint32_t thread;
    pthread_t id;
    uint8_t *buffer;
    double read_bytes_per_s, operations_per_s;
    float sink;
};

static double rate(uint64_t amount, uint64_t ns)
{
    return ns == 0 ? 0.0 : (double)amount * 1e9 / (double)ns;
}

static int rate_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void measure_read(struct measure_thread *self, uint64_t end_ns)
{
    size_t bytes = self->measure->thread_bytes, slice = SLICE_BYTES;
    float rates[SLICES_MAX];
    uint32_t count = 0;
    if (slice > bytes)
        slice = bytes;
    size_t at = 0;
    do {
        uint64_t start_ns = clock_ns();
        self->measure->kernels->peak_read(self->buffer + at, slice, &self->sink);
        rates[count++] = (float)rate(slice, clock_ns() - start_ns);
        at = at + 2 * slice <= bytes ? at + slice : 0;
    } while (clock_ns() < end_ns && count < SLICES_MAX);
    qsort(rates, count, sizeof(rates[0]), rate_compare);
    self->read_bytes_per_s = (double)rates[count / 2];
}

static void measure_compute(struct measure_thread *self, uint64_t end_ns)
{
    if (self->measure->peak == NULL)
        return;
    do {
        uint64_t start_ns = clock_ns();
        uint64_t done = self->measure->peak(ROUNDS, &self->sink);
        double found = rate(done, clock_ns() - start_ns);
        if (found > self->operations_per_s)
            self->operations_per_s = found;
    } while (clock_ns() < end_ns);
}

static void pause_shortly(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void *measure_main(void *self_ptr)
{
    struct measure_thread *self = self_ptr;
    const int *cpus = self->measure->cpus;
    if (cpus != NULL && cpus[self->thread] >= 0 && cpus[self->thread] < CPU_SETSIZE) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)cpus[self->thread], &set);
        /* A CPU that cannot be had is an error of the backend's open; here it only blurs. */
        (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    }
    memset(self->buffer, 1, self->measure->thread_bytes);
    atomic_fetch_add(&self->measure->ready, 1);
    uint64_t start_ns;
    while ((start_ns = atomic_load(&self->measure->start_ns)) == 0)
        pause_shortly();
    if (start_ns == GIVE_UP)
        return NULL;
    measure_read(self, start_ns + READ_NS);
    measure_compute(self, start_ns + READ_NS + COMPUTE_NS);
    return NULL;
}

static status measure_run(struct measure *measure, struct measure_thread *all)
{
    uint32_t started = 0;
    while (started < measure->threads &&
           pthread_create(&all[started].id, NULL, measure_main, &all[started]) == 0)
        started++;
    while (started == measure->threads && atomic_load(&measure->ready) < started)
        pause_shortly();
    atomic_store(&measure->start_ns, started == measure->threads ? clock_ns() : GIVE_UP);
    for (uint32_t i = 0; i < started; i++)
        (void)pthread_join(all[i].id, NULL);
    if (started < measure->threads)
        return error_set(ERR_NO_MEMORY, "cannot start %u threads to measure their limits",
                         measure->threads);
    return OK;
}

/* Twice the last cache, so that a pass finds nothing of the one before. */
static size_t buffer_bytes(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = cache > 0 ? 2 * (size_t)cache : 0;
    bytes = bytes < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : bytes;
    return bytes > BUFFER_BYTES_MAX ? BUFFER_BYTES_MAX : bytes;
}

/* NULL for a class that is none. */
static const struct kernels *measure_choose(const char *kernels, const char *variant,
                                            struct measure *measure)
{
    bool known;
    const struct kernels *table = kernels_find(variant, &known);
    measure->kernels = table;
    if (table == NULL)
        return NULL;
    if (strcmp(kernels, "float") == 0)
        measure->peak = table->peak_float;
    else if (strcmp(kernels, "bf16") == 0)
        measure->peak = table->peak_bf16;
    else if (strcmp(kernels, "int8") == 0 || strcmp(kernels, "auto") == 0)
        measure->peak = table->peak_int8;
    else
        return NULL;
    return table;
}

status cpu_limits_measure(uint32_t threads, const int *cpus, const char *kernels,
                          const char *variant, struct cpu_limits *limits_out)
{
    struct measure measure = {.cpus = cpus, .threads = threads};
    if (threads < 1 || threads > CPU_THREADS_MAX ||
        measure_choose(kernels, variant, &measure) == NULL)
        return error_set(ERR_BAD_INPUT,
                         "limits: expected 1 to %u threads, float, int8, auto or bf16 and "
                         "instructions that this machine has, found %u, %s and %s",
                         CPU_THREADS_MAX, threads, kernels, variant != NULL ? variant : "auto");
    size_t bytes = buffer_bytes();
    measure.thread_bytes = bytes / threads / 4096 * 4096;
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct measure_thread *all = calloc(threads, sizeof(*all));
    if (buffer == MAP_FAILED || all == NULL) {
        if (buffer != MAP_FAILED)
            (void)munmap(buffer, bytes);
        free(all);
        return error_set(ERR_NO_MEMORY, "no memory to measure the limits of %u threads", threads);
    }
    (void)madvise(buffer, bytes, MADV_HUGEPAGE);
    for (uint32_t i = 0; i < threads; i++)
        all[i] = (struct measure_thread){.measure = &measure,
                                         .thread = i,
                                         .buffer = (uint8_t *)buffer + i * measure.thread_bytes};

    status result = measure_run(&measure, all);
    struct cpu_limits limits = {0, 0};
    for (uint32_t i = 0; i < threads; i++) {
        limits.read_bytes_per_s += all[i].read_bytes_per_s;
        limits.operations_per_s += all[i].operations_per_s;
    }
    (void)munmap(buffer, bytes);
    free(all);
    if (result == OK)
        *limits_out = limits;
    return result;
}
