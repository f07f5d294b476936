/* worker/mail.h - what the loop thread and the compute thread of a worker send each other.
 *
 * Each mail is malloc'd by its sender and freed by its taker (worker_mail_free), with what it
 * points to unless that was taken out. Internal to worker/.
 */
#ifndef WORKER_MAIL_H
#define WORKER_MAIL_H

#include "base/mailbox.h"
#include "engine/sampler.h"
#include "wire/control.h"

enum worker_mail_kind {
    /* loop to compute */
    WORKER_PREFILL = 1, /* request, sampling */
    WORKER_RESERVE,     /* request, holder, sampling */
    WORKER_PLACE,       /* place */
    WORKER_CANCEL,      /* cancel */
    WORKER_PEER_LOST,   /* incarnation */
    WORKER_RENEW,       /* incarnation: cancel everything, then be that one */
    WORKER_LEND,        /* lend, keys */
    WORKER_LEND_END,    /* incarnation: a request's id */
    WORKER_BLOCKS_ASK,  /* the router wants to know all that can be matched here */
    WORKER_STOP,        /* cancel everything, then end the thread */
    /* compute to loop */
    WORKER_FRAME,   /* type, frame: for the router */
    WORKER_STATS,   /* heartbeat */
    WORKER_RENEWED, /* incarnation: nothing of the old one is left */
    WORKER_STOPPED, /* the thread has ended */
};

struct worker_mail {
    struct mail mail; /* first */
    struct wire_request *request;
    struct sampling sampling;
    struct wire_holder holder;
    struct wire_place place;
    struct wire_cancel cancel;
    struct wire_lend lend;
    uint8_t *keys; /* of lend, malloc'd */
    uint64_t incarnation;
    uint16_t type;
    struct wire_frame frame;
    struct wire_heartbeat heartbeat;
};

/* NULL when there is no memory. */
struct worker_mail *worker_mail_new(enum worker_mail_kind kind);
void worker_mail_free(struct worker_mail *mail);

#endif
