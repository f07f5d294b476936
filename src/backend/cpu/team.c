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
#include "base/thread.h"

#define TEAM_MAX 256u

/* How long to spin before sleeping. Longer than the pause between two jobs of a step, far shorter
 * than what another process notices. */
#define SPIN_NS 50000u
#define SPINS_PER_CLOCK 64u

/* What is left of a thread's share of a job: the job's number, and the chunks first .. end. A claim
 * compares all three, so that a chunk of a finished job can never be claimed. */
#define SHARE_BITS 18u
#define SHARE_MAX ((1u << SHARE_BITS) - 1)
#define SHARE(job, first, end)                                                                     \
    ((uint64_t)(job) << 2 * SHARE_BITS | (uint64_t)(first) << SHARE_BITS | (end))
#define SHARE_JOB(share) ((uint32_t)((share) >> 2 * SHARE_BITS))
#define SHARE_FIRST(share) ((uint32_t)((share) >> SHARE_BITS) & SHARE_MAX)
#define SHARE_END(share) ((uint32_t)(share)&SHARE_MAX)
#define JOB_MASK ((1u << (64 - 2 * SHARE_BITS)) - 1)

/* Each on a line of its own: while everyone works on what is his, no line goes back and forth. */
struct share {
    _Alignas(64) _Atomic uint64_t left;
};

struct team {
    uint32_t threads;
    pthread_t workers[TEAM_MAX - 1];
    uint32_t started;

    /* Written by the caller before the job is published, read after a claim that succeeded. */
    team_call *call;
    void *ctx;
    uint32_t chunk_base, chunk_count; /* a job of very many chunks is run in pieces */

    struct share shares[TEAM_MAX];     /* one for each thread */
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

/* Take a chunk of share for job: its owner from the front, in the order of memory, and others from
 * the back. False when none is left. */
static bool chunk_claim(struct share *share, uint32_t job, bool own, uint32_t *chunk_out)
{
    uint64_t left = atomic_load_explicit(&share->left, memory_order_acquire);
    for (;;) {
        uint32_t first = SHARE_FIRST(left), end = SHARE_END(left);
        if (SHARE_JOB(left) != job || first >= end)
            return false;
        uint64_t rest = own ? SHARE(job, first + 1, end) : SHARE(job, first, end - 1);
        if (atomic_compare_exchange_weak_explicit(&share->left, &left, rest, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *chunk_out = own ? first : end - 1;
            return true;
        }
    }
}

static void chunks_report(struct team *team, uint32_t ran, uint32_t count, uint32_t thread)
{
    uint32_t done = atomic_fetch_add(&team->done, ran) + ran;
    if (done == count && thread != 0 && atomic_load(&team->caller_sleeps) != 0)
        futex_wake_all(&team->done);
}

/* Run chunks of job until none is left: the thread's own share, then what others have not begun. */
static void run_chunks(struct team *team, uint32_t job, uint32_t thread)
{
    for (uint32_t i = 0; i < team->threads; i++) {
        uint32_t of = (thread + i) % team->threads, chunk, ran = 0, count = 0;
        while (chunk_claim(&team->shares[of], job, i == 0, &chunk)) {
            count = team->chunk_count;
            team->call(team->ctx, team->chunk_base + chunk, thread);
            ran++;
        }
        if (ran > 0)
            chunks_report(team, ran, count, thread);
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
        run_chunks(team, seen & JOB_MASK, start.thread);
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
    status st = thread_start("compute-team", worker_main, start, worker);
    if (st != OK) {
        free(start);
        return st;
    }
    team->started++;
    return cpus != NULL ? thread_pin(*worker, cpus[thread]) : OK;
}

status team_open(uint32_t threads, const int *cpus, struct team **team_out)
{
    assert(threads >= 1 && threads <= TEAM_MAX);
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

static void job_publish(struct team *team, uint32_t job, uint32_t chunk_count)
{
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    team->chunk_count = chunk_count;
    for (uint32_t thread = 0; thread < team->threads; thread++) {
        uint32_t first = (uint32_t)((uint64_t)chunk_count * thread / team->threads);
        uint32_t end = (uint32_t)((uint64_t)chunk_count * (thread + 1) / team->threads);
        atomic_store_explicit(&team->shares[thread].left, SHARE(job & JOB_MASK, first, end),
                              memory_order_release);
    }
    atomic_store(&team->job, job);
    if (atomic_load(&team->sleepers) != 0)
        futex_wake_all(&team->job);
}

static void job_run(struct team *team, uint32_t chunk_base, uint32_t chunk_count)
{
    uint32_t job = atomic_load_explicit(&team->job, memory_order_relaxed) + 1;
    team->chunk_base = chunk_base;
    job_publish(team, job, chunk_count);
    run_chunks(team, job & JOB_MASK, 0);

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

void team_run(struct team *team, uint32_t chunk_count, team_call *call, void *ctx)
{
    if (team->threads == 1 || chunk_count <= 1) {
        for (uint32_t chunk = 0; chunk < chunk_count; chunk++)
            call(ctx, chunk, 0);
        return;
    }
    team->call = call;
    team->ctx = ctx;
    for (uint32_t base = 0; base < chunk_count; base += SHARE_MAX)
        job_run(team, base, chunk_count - base < SHARE_MAX ? chunk_count - base : SHARE_MAX);
}
