/* worker/control.h - the worker's connections to its routers, on the loop thread.
 *
 *     router A <----> |         | ---- mail (requests, cancels) ----> compute thread
 *     router B <----> | control | <--- mail (frames for one router, or for all) ---
 *
 * Connects, registers, turns frames into mail for the compute thread and the compute thread's mail
 * into frames; heartbeats; and connects again for as long as the process lives. Whose a request is
 * says its id. When a router is lost its requests are cancelled, as nobody is there to take their
 * tokens, and those of the others go on. When no router is left, the worker comes back as another
 * incarnation: they may have declared the old one dead while it was stopped.
 *
 * Threads: the loop's. Memory: owns links and timers.
 */
#ifndef WORKER_CONTROL_H
#define WORKER_CONTROL_H

#include "base/loop.h"
#include "base/mailbox.h"
#include "wire/control.h"
#include "wire/hello.h"

struct control;
struct store;
struct transfer;

struct control_setup {
    struct loop *loop;
    const char *routers;           /* addresses, with commas between them */
    const struct hello *hello;     /* ours; copied, as the registration is */
    const struct cluster_key *key; /* NULL: none */
    const struct wire_register *registration;
    uint64_t heartbeat_ms;
    uint32_t vocabulary;       /* token ids of requests are below it */
    struct mailbox *compute;   /* the compute thread's */
    struct store *store;       /* heartbeats say whether it is of use; NULL: none */
    struct transfer *transfer; /* told of other workers */
    /* No router will have this worker: another model, layout, class or version. No retry. */
    void (*on_refused)(void *ctx, const char *reason);
    /* An operator wants it to leave, as at SIGTERM. */
    void (*on_drain)(void *ctx);
    void *ctx;
};

/* Errors: ERR_BAD_INPUT (an address, or one twice), ERR_NO_MEMORY. A router that is not there yet
 * is no error.
 */
status control_open(const struct control_setup *setup, struct control **control_out);
void control_close(struct control *control);

/* The compute thread's mail; frees it. */
void control_take(struct control *control, struct mail *mail);

/* Tell the router that no new requests are wanted. */
void control_leave(struct control *control);

/* Requests of the last heartbeat's figures: 0 when the worker may go. */
uint64_t control_requests(const struct control *control);

#endif
