#include "backend/cpu/team.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

/* How long to spin before sleeping. Longer than the pause between two jobs of a step, far shorter
 * than what another process notices. */
#define SPIN_NS 50000u
#define SPINS_PER_CLOCK 64u

/* Job number in the upper half, chunks not yet claimed in the lower: a claim compares both, so that
 * a chunk of a finished job can never be claimed. */
#define CLAIM(job, left) ((uint64_t)(job) << 32 | (left))

struct team {
    uint32_t threads;
    pthread_t workers[255];
    uint32_t started;

    /* Written by the caller before the job is published, read after a claim that succeeded. */
    team_call *call;
    void *ctx;
    uint32_t chunk_count;

    _Alignas(64) _Atomic uint64_t claim;
    _Alignas(64) _Atomic uint32_t job; /* futex of workers */
    _Atomic uint32_t sleepers;
    _Atomic bool closing;
    _Alignas(64) _Atomic uint32_t done; /* chunks of this job; futex of the caller */
    _Atomic uint32_t caller_sleeps;
};

struct worker_start {
    struct team *team;
    uint32_t thread;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    /* Returns on a wake, a change of the word, or a signal: the callers loop. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* True when *word is no longer expected within the spinning time. */
static bool spin_until_changed(_Atomic uint32_t *word, uint32_t expected)
{
    uint64_t end_ns = clock_ns() + SPIN_NS;
    do {
        for (uint32_t i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != expected)
                return true;
            spin_pause();
        }
    } while (clock_ns() < end_ns);
    return false;
}

/* Claim and run chunks of job until none is left. */
static void run_chunks(struct team *team, uint32_t job, uint32_t thread)
{
    uint64_t claim = atomic_load_explicit(&team->claim, memory_order_acquire);
    for (;;) {
        uint32_t left = (uint32_t)claim;
        if (claim >> 32 != job || left == 0)
            return;
        if (!atomic_compare_exchange_weak_explicit(&team->claim, &claim, claim - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        uint32_t count = team->chunk_count;
        team->call(team->ctx, count - left, thread);
        uint32_t done = atomic_fetch_add(&team->done, 1) + 1;
        if (done == count && thread != 0 && atomic_load(&team->caller_sleeps) != 0)
            futex_wake_all(&team->done);
        claim = atomic_load_explicit(&team->claim, memory_order_acquire);
    }
}

static void *worker_main(void *start_ptr)
{
    struct worker_start start = *(struct worker_start *)start_ptr;
    free(start_ptr);
    struct team *team = start.team;
    uint32_t seen = 0;

    for (;;) {
        while (atomic_load_explicit(&team->job, memory_order_acquire) == seen) {
            if (spin_until_changed(&team->job, seen))
                break;
            atomic_fetch_add(&team->sleepers, 1);
            futex_wait(&team->job, seen);
            atomic_fetch_sub(&team->sleepers, 1);
        }
        seen = atomic_load_explicit(&team->job, memory_order_acquire);
        if (atomic_load(&team->closing))
            return NULL;
        run_chunks(team, seen, start.thread);
    }
}

static status thread_pin(pthread_t thread, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return error_set(ERR_BAD_INPUT, "CPU %d: expected 0 to %d", cpu, CPU_SETSIZE - 1);
    CPU_SET((unsigned)cpu, &set);
    int error = pthread_setaffinity_np(thread, sizeof(set), &set);
    if (error != 0)
        return error_set(ERR_BAD_INPUT,
                         "cannot run a thread on CPU %d: %s; give CPUs this process "
                         "may use",
                         cpu, strerror(error));
    return OK;
}

static status worker_start(struct team *team, uint32_t thread, const int *cpus)
{
    struct worker_start *start = malloc(sizeof(*start));
    if (start == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to start compute thread %u", thread);
    *start = (struct worker_start){.team = team, .thread = thread};
    pthread_t *worker = &team->workers[thread - 1];
    int error = pthread_create(worker, NULL, worker_main, start);
    if (error != 0) {
        free(start);
        return error_set(ERR_NO_MEMORY, "cannot start compute thread %u: %s", thread,
                         strerror(error));
    }
    team->started++;
    return cpus != NULL ? thread_pin(*worker, cpus[thread]) : OK;
}

status team_open(uint32_t threads, const int *cpus, struct team **team_out)
{
    assert(threads >= 1 && threads <= 256);
    struct team *team = aligned_alloc(64, sizeof(struct team));
    if (team == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a team of %u threads", threads);
    memset(team, 0, sizeof(*team));
    team->threads = threads;

    status result = cpus != NULL ? thread_pin(pthread_self(), cpus[0]) : OK;
    for (uint32_t thread = 1; result == OK && thread < threads; thread++)
        result = worker_start(team, thread, cpus);
    if (result != OK) {
        team_close(team);
        return result;
    }
    *team_out = team;
    return OK;
}

void team_close(struct team *team)
{
    if (team == NULL)
        return;
    atomic_store(&team->closing, true);
    atomic_fetch_add(&team->job, 1);
    futex_wake_all(&team->job);
    for (uint32_t i = 0; i < team->started; i++)
        pthread_join(team->workers[i], NULL);
    free(team);
}

uint32_t team_threads(const struct team *team)
{
    return team->threads;
}

void team_run(struct team *team, uint32_t chunk_count, team_call *call, void *ctx)
{
    if (team->threads == 1 || chunk_count <= 1) {
        for (uint32_t chunk = 0; chunk < chunk_count; chunk++)
            call(ctx, chunk, 0);
        return;
    }
    uint32_t job = atomic_load_explicit(&team->job, memory_order_relaxed) + 1;
    team->call = call;
    team->ctx = ctx;
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    team->chunk_count = chunk_count;
    atomic_store_explicit(&team->claim, CLAIM(job, chunk_count), memory_order_release);
    atomic_store(&team->job, job);
    if (atomic_load(&team->sleepers) != 0)
        futex_wake_all(&team->job);

    run_chunks(team, job, 0);

    uint32_t done = atomic_load_explicit(&team->done, memory_order_acquire);
    while (done != chunk_count) {
        if (!spin_until_changed(&team->done, done)) {
            atomic_store(&team->caller_sleeps, 1);
            done = atomic_load(&team->done);
            if (done != chunk_count)
                futex_wait(&team->done, done);
            atomic_store(&team->caller_sleeps, 0);
        }
        done = atomic_load_explicit(&team->done, memory_order_acquire);
    }
}
