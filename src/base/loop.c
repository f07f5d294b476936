#include "base/loop.h"

#include <assert.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"

struct loop {
    struct event_base *base;
    int stop_fd; /* written by loop_stop, from any thread or a signal handler */
    struct event *stop_event;
};

struct loop_timer {
    struct event *event;
    void (*fire)(void *ctx);
    void *ctx;
};

struct loop_watch {
    struct event_base *base;
    struct event *event;
    int fd;
    int events;
    void (*ready)(void *ctx, int events);
    struct mailbox *mailbox;
    void (*take)(void *ctx, struct mail *mail);
    void (*signal)(void *ctx, int number);
    void *ctx;
};

static void loop_on_stop(evutil_socket_t fd, short events, void *ctx)
{
    (void)events;
    struct loop *loop = ctx;
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count));
    (void)got;
    event_base_loopbreak(loop->base);
}

status loop_open(struct loop **loop_out)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an event loop");
    loop->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop->stop_fd < 0)
        goto err_loop;
    struct event_config *config = event_config_new();
    if (config == NULL)
        goto err_fd;
    /* Each loop has one thread, so libevent needs no locks. Without the cached time a timer that a
     * long callback starts runs from then, not from when the callback began. */
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER |
                                      EVENT_BASE_FLAG_NO_CACHE_TIME);
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    if (loop->base == NULL)
        goto err_fd;
    loop->stop_event =
        event_new(loop->base, loop->stop_fd, EV_READ | EV_PERSIST, loop_on_stop, loop);
    if (loop->stop_event == NULL || event_add(loop->stop_event, NULL) != 0)
        goto err_base;
    *loop_out = loop;
    return OK;

err_base:
    if (loop->stop_event != NULL)
        event_free(loop->stop_event);
    event_base_free(loop->base);
err_fd:
    close(loop->stop_fd);
err_loop:
    free(loop);
    return error_set(ERR_IO, "cannot make an event loop");
}

void loop_close(struct loop *loop)
{
    if (loop == NULL)
        return;
    event_free(loop->stop_event);
    event_base_free(loop->base);
    close(loop->stop_fd);
    free(loop);
}

void loop_run(struct loop *loop)
{
    event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t written = write(loop->stop_fd, &one, sizeof(one));
    (void)written;
}

struct event_base *loop_event_base(struct loop *loop)
{
    return loop->base;
}

static void loop_on_timer(evutil_socket_t fd, short events, void *ctx)
{
    (void)fd;
    (void)events;
    struct loop_timer *timer = ctx;
    timer->fire(timer->ctx);
}

status loop_timer_open(struct loop *loop, void (*fire)(void *ctx), void *ctx,
                       struct loop_timer **timer_out)
{
    struct loop_timer *timer = calloc(1, sizeof(*timer));
    if (timer == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a timer");
    timer->fire = fire;
    timer->ctx = ctx;
    timer->event = event_new(loop->base, -1, 0, loop_on_timer, timer);
    if (timer->event == NULL) {
        free(timer);
        return error_set(ERR_NO_MEMORY, "no memory for a timer");
    }
    *timer_out = timer;
    return OK;
}

void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms)
{
    struct timeval delay = {.tv_sec = (time_t)(delay_ms / 1000),
                            .tv_usec = (suseconds_t)(delay_ms % 1000 * 1000)};
    event_add(timer->event, &delay);
}

void loop_timer_stop(struct loop_timer *timer)
{
    event_del(timer->event);
}

void loop_timer_close(struct loop_timer *timer)
{
    if (timer == NULL)
        return;
    event_free(timer->event);
    free(timer);
}

static void loop_on_watch(evutil_socket_t fd, short events, void *ctx)
{
    struct loop_watch *watch = ctx;
    if (watch->signal != NULL) {
        watch->signal(watch->ctx, (int)fd);
    } else if (watch->mailbox != NULL) {
        /* take may close the watch: nothing of it is touched after the list is taken. */
        void (*take)(void *, struct mail *) = watch->take;
        void *take_ctx = watch->ctx;
        struct mail *mail = mailbox_take_all(watch->mailbox);
        while (mail != NULL) {
            struct mail *next = mail->next;
            take(take_ctx, mail);
            mail = next;
        }
    } else {
        watch->ready(watch->ctx,
                     (events & EV_READ ? LOOP_READ : 0) | (events & EV_WRITE ? LOOP_WRITE : 0));
    }
}

static short loop_event_bits(int events)
{
    return (short)((events & LOOP_READ ? EV_READ : 0) | (events & LOOP_WRITE ? EV_WRITE : 0) |
                   EV_PERSIST);
}

static status loop_watch_make(struct loop *loop, int fd, short bits, const struct loop_watch *from,
                              struct loop_watch **watch_out)
{
    struct loop_watch *watch = malloc(sizeof(*watch));
    if (watch == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a watch");
    *watch = *from;
    watch->base = loop->base;
    watch->fd = fd;
    watch->event = event_new(loop->base, fd, bits, loop_on_watch, watch);
    if (watch->event == NULL) {
        free(watch);
        return error_set(ERR_NO_MEMORY, "no memory for a watch");
    }
    if ((bits & ~EV_PERSIST) != 0 && event_add(watch->event, NULL) != 0) {
        event_free(watch->event);
        free(watch);
        return error_set(ERR_IO, "cannot watch descriptor %d", fd);
    }
    *watch_out = watch;
    return OK;
}

status loop_watch_open(struct loop *loop, int fd, int events, void (*ready)(void *ctx, int events),
                       void *ctx, struct loop_watch **watch_out)
{
    struct loop_watch from = {.events = events, .ready = ready, .ctx = ctx};
    return loop_watch_make(loop, fd, loop_event_bits(events), &from, watch_out);
}

void loop_watch_set(struct loop_watch *watch, int events)
{
    if (watch->events == events)
        return;
    event_del(watch->event);
    watch->events = events;
    if (events == 0)
        return;
    int rc = event_assign(watch->event, watch->base, watch->fd, loop_event_bits(events),
                          loop_on_watch, watch);
    assert(rc == 0);
    event_add(watch->event, NULL);
}

void loop_watch_close(struct loop_watch *watch)
{
    if (watch == NULL)
        return;
    event_free(watch->event);
    free(watch);
}

status loop_mailbox_open(struct loop *loop, struct mailbox *mailbox,
                         void (*take)(void *ctx, struct mail *mail), void *ctx,
                         struct loop_watch **watch_out)
{
    struct loop_watch from = {.events = LOOP_READ, .mailbox = mailbox, .take = take, .ctx = ctx};
    return loop_watch_make(loop, mailbox_fd(mailbox), EV_READ | EV_PERSIST, &from, watch_out);
}

status loop_signal_open(struct loop *loop, int number, void (*fire)(void *ctx, int number),
                        void *ctx, struct loop_watch **watch_out)
{
    struct loop_watch from = {.signal = fire, .ctx = ctx};
    return loop_watch_make(loop, number, EV_SIGNAL | EV_PERSIST, &from, watch_out);
}
