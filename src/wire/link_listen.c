#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "wire/link.h"

#define LISTEN_TURN 64      /* connections taken in one turn of the loop */
#define LISTEN_PAUSE_MS 100 /* when no descriptor is left */

struct link_listener {
    int fd;
    struct loop_watch *watch;
    struct loop_timer *pause;
    struct address address;
    void (*on_accept)(void *ctx, int fd);
    void *ctx;
    bool accepting, closed; /* on_accept may close the listener: it is then freed afterwards */
};

static void listener_on_pause_over(void *ctx)
{
    struct link_listener *listener = ctx;
    loop_watch_set(listener->watch, LOOP_READ);
}

static void listener_on_ready(void *ctx, int events)
{
    (void)events;
    struct link_listener *listener = ctx;
    listener->accepting = true;
    for (int i = 0; i < LISTEN_TURN && !listener->closed; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            listener->on_accept(listener->ctx, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warn("accept paused", "address=\"%s\" cause=\"%s\"", listener->address.text,
                     strerror(errno));
            loop_watch_set(listener->watch, 0);
            loop_timer_start(listener->pause, LISTEN_PAUSE_MS);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            break;
    }
    listener->accepting = false;
    if (listener->closed)
        free(listener);
}

status link_listen(struct loop *loop, const struct address *address,
                   void (*on_accept)(void *ctx, int fd), void *ctx,
                   struct link_listener **listener_out)
{
    struct link_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a listener");
    listener->on_accept = on_accept;
    listener->ctx = ctx;
    status st = address_listen(address, &listener->fd);
    if (st != OK)
        goto err_free;
    st = address_of_socket(listener->fd, &listener->address);
    if (st != OK)
        goto err_fd;
    st = loop_timer_open(loop, listener_on_pause_over, listener, &listener->pause);
    if (st != OK)
        goto err_fd;
    st = loop_watch_open(loop, listener->fd, LOOP_READ, listener_on_ready, listener,
                         &listener->watch);
    if (st != OK)
        goto err_timer;
    *listener_out = listener;
    return OK;

err_timer:
    loop_timer_close(listener->pause);
err_fd:
    close(listener->fd);
err_free:
    free(listener);
    return st;
}

const struct address *link_listener_address(const struct link_listener *listener)
{
    return &listener->address;
}

void link_listener_close(struct link_listener *listener)
{
    if (listener == NULL)
        return;
    loop_watch_close(listener->watch);
    loop_timer_close(listener->pause);
    close(listener->fd);
    if (address_is_unix(&listener->address))
        unlink(((struct sockaddr_un *)&listener->address.socket_address)->sun_path);
    listener->closed = true;
    if (!listener->accepting)
        free(listener);
}
