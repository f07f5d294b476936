#include "base/task_pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/thread.h"

struct task_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct mail *head; /* oldest waiting task */
    struct mail **tail;
    uint32_t waiting, queue_max;
    bool closing;
    struct mailbox *done;
    uint32_t thread_count;
    pthread_t threads[];
};

static void *task_pool_thread(void *ctx)
{
    struct task_pool *pool = ctx;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->head == NULL && !pool->closing)
            pthread_cond_wait(&pool->wake, &pool->lock);
        struct mail *mail = pool->head;
        if (mail == NULL)
            break;
        pool->head = mail->next;
        if (pool->head == NULL)
            pool->tail = &pool->head;
        pool->waiting--;
        pthread_mutex_unlock(&pool->lock);
        struct task *task = (struct task *)mail;
        task->run(task);
        mailbox_post(pool->done, &task->mail);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

status task_pool_open(uint32_t thread_count, uint32_t queue_max, struct mailbox *done,
                      struct task_pool **pool_out)
{
    struct task_pool *pool = calloc(1, sizeof(*pool) + thread_count * sizeof(pool->threads[0]));
    if (pool == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a task pool");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->tail = &pool->head;
    pool->queue_max = queue_max;
    pool->done = done;

    status st = OK;
    while (pool->thread_count < thread_count && st == OK) {
        st = thread_start("pool", task_pool_thread, pool, &pool->threads[pool->thread_count]);
        if (st == OK)
            pool->thread_count++;
    }
    if (st != OK) {
        task_pool_close(pool);
        return st;
    }
    *pool_out = pool;
    return OK;
}

void task_pool_close(struct task_pool *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

status task_pool_post(struct task_pool *pool, struct task *task)
{
    status st = OK;
    task->mail.next = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->waiting >= pool->queue_max) {
        st = error_set(ERR_FULL, "%u requests wait to be read already", pool->waiting);
    } else {
        *pool->tail = &task->mail;
        pool->tail = &task->mail.next;
        pool->waiting++;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return st;
}
