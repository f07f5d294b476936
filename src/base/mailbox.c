#include "base/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

struct mailbox {
    pthread_mutex_t lock;
    struct mail *head;  /* oldest */
    struct mail **tail; /* where the next one's address goes */
    int event_fd;       /* readable while head is set */
};

status mailbox_open(struct mailbox **mailbox_out)
{
    struct mailbox *mailbox = calloc(1, sizeof(*mailbox));
    if (mailbox == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a mailbox");
    mailbox->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (mailbox->event_fd < 0) {
        free(mailbox);
        return error_set(ERR_IO, "cannot make an eventfd: %s", strerror(errno));
    }
    pthread_mutex_init(&mailbox->lock, NULL);
    mailbox->tail = &mailbox->head;
    *mailbox_out = mailbox;
    return OK;
}

void mailbox_close(struct mailbox *mailbox)
{
    if (mailbox == NULL)
        return;
    assert(mailbox->head == NULL);
    close(mailbox->event_fd);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}

void mailbox_post(struct mailbox *mailbox, struct mail *mail)
{
    mail->next = NULL;
    pthread_mutex_lock(&mailbox->lock);
    bool was_empty = mailbox->head == NULL;
    *mailbox->tail = mail;
    mailbox->tail = &mail->next;
    if (was_empty) {
        uint64_t one = 1;
        ssize_t written = write(mailbox->event_fd, &one, sizeof(one));
        assert(written == sizeof(one));
        (void)written;
    }
    pthread_mutex_unlock(&mailbox->lock);
}

struct mail *mailbox_take_all(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    struct mail *list = mailbox->head;
    if (list != NULL) {
        uint64_t count;
        ssize_t got = read(mailbox->event_fd, &count, sizeof(count));
        assert(got == sizeof(count));
        (void)got;
    }
    mailbox->head = NULL;
    mailbox->tail = &mailbox->head;
    pthread_mutex_unlock(&mailbox->lock);
    return list;
}

bool mailbox_wait(struct mailbox *mailbox, int timeout_ms)
{
    struct pollfd wait = {.fd = mailbox->event_fd, .events = POLLIN};
    uint64_t end_ns = clock_ns() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000000u;
    for (;;) {
        int rc = poll(&wait, 1, timeout_ms);
        if (rc >= 0)
            return rc == 1;
        assert(errno == EINTR); /* a signal; wait for what is left */
        uint64_t now_ns = clock_ns();
        if (timeout_ms >= 0)
            timeout_ms = now_ns < end_ns ? (int)((end_ns - now_ns + 999999u) / 1000000u) : 0;
    }
}

int mailbox_fd(const struct mailbox *mailbox)
{
    return mailbox->event_fd;
}
