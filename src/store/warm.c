#include "store/warm.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"

/* In one call, which keeps the process's table of mappings locked: a part is made in 0.1 ms, so
 * that nobody waits long for a thread that has little of a busy core. */
#define PART_BYTES (128u << 10)
#define NICENESS 10

struct warm {
    uint8_t *pool;
    size_t pool_bytes, ahead_bytes;
    pthread_t thread;
    sem_t changed;
    atomic_size_t reached;
    atomic_bool stop;
};

static size_t warm_target(struct warm *warm)
{
    size_t reached = atomic_load(&warm->reached);
    size_t left = warm->pool_bytes - reached;
    return reached + (left < warm->ahead_bytes ? left : warm->ahead_bytes);
}

static void *warm_thread(void *ctx)
{
    struct warm *warm = ctx;
    size_t done = 0;
    setpriority(PRIO_PROCESS, 0, NICENESS); /* of this thread; else as everybody */
    while (!atomic_load(&warm->stop)) {
        if (done >= warm_target(warm)) {
            sem_wait(&warm->changed);
            continue;
        }
        size_t left = warm->pool_bytes - done;
        size_t bytes = left < PART_BYTES ? left : PART_BYTES;
        if (madvise(warm->pool + done, bytes, MADV_POPULATE_WRITE) == 0) {
            done += bytes;
        } else if (errno != EINTR && errno != EAGAIN) {
            log_info("no pages ahead", "done_bytes=%zu reason=\"%s\"", done, strerror(errno));
            break;
        }
    }
    return NULL;
}

status warm_open(uint8_t *pool, size_t pool_bytes, size_t ahead_bytes, struct warm **warm_out)
{
    struct warm *warm = calloc(1, sizeof(*warm));
    if (warm == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to make pages ahead");
    warm->pool = pool;
    warm->pool_bytes = pool_bytes;
    warm->ahead_bytes = ahead_bytes;
    sem_init(&warm->changed, 0, 0);
    /* Where the kernel gives large pages to shared memory for the asking, clearing is cheaper. */
    madvise(pool, pool_bytes, MADV_HUGEPAGE);
    status st = thread_start("store-warm", warm_thread, warm, &warm->thread);
    if (st != OK) {
        sem_destroy(&warm->changed);
        free(warm);
        return st;
    }
    *warm_out = warm;
    return OK;
}

void warm_close(struct warm *warm)
{
    if (warm == NULL)
        return;
    atomic_store(&warm->stop, true);
    sem_post(&warm->changed);
    pthread_join(warm->thread, NULL);
    sem_destroy(&warm->changed);
    free(warm);
}

void warm_reach(struct warm *warm, size_t reached_bytes)
{
    if (reached_bytes <= atomic_load(&warm->reached))
        return;
    atomic_store(&warm->reached, reached_bytes);
    sem_post(&warm->changed);
}
