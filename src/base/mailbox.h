/* base/mailbox.h - the one way threads of a process talk: messages that move ownership.
 *
 *     thread A  --post-->  [ mail | mail | mail ]  --take-->  thread B
 *                                  eventfd wakes B
 *
 * A mail is embedded as the first member of a caller's struct; whoever holds the struct owns it and
 * everything it points to. Order is kept per sender and overall (FIFO).
 *
 * Threads: post from any thread; take and wait from one.
 * Memory:  the mailbox owns what was posted and not yet taken; close wants it empty.
 */
#ifndef BASE_MAILBOX_H
#define BASE_MAILBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct mail {
    struct mail *next;
    uint32_t kind; /* of the caller's choosing */
};

struct mailbox;

/* Errors: ERR_NO_MEMORY, ERR_IO (no eventfd). */
status mailbox_open(struct mailbox **mailbox_out);
void mailbox_close(struct mailbox *mailbox);

/* Hand mail over. Never fails, never blocks for long. */
void mailbox_post(struct mailbox *mailbox, struct mail *mail);

/* Take all mail there is, oldest first, as a list by next; NULL when there is none. */
struct mail *mailbox_take_all(struct mailbox *mailbox);

/* Wait until there is mail or timeout_ms passed (0: only look; -1: no limit). True: there is. */
bool mailbox_wait(struct mailbox *mailbox, int timeout_ms);

/* Readable while there is mail; for a loop. */
int mailbox_fd(const struct mailbox *mailbox);

#endif
