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
    WORKER_FORGET,      /* router: cancel all of its requests */
    WORKER_LEND,        /* lend, keys */
    WORKER_LEND_END,    /* incarnation: a request's id */
    WORKER_BLOCKS_ASK,  /* the router wants to know all that can be matched here */
    WORKER_STOP,        /* cancel everything, then end the thread */
    /* compute to loop */
    WORKER_FRAME,   /* router, type, frame */
    WORKER_STATS,   /* heartbeat, loads */
    WORKER_RENEWED, /* incarnation: nothing of the old one is left */
    WORKER_STOPPED, /* the thread has ended */
};

/* What one router has given this worker. */
struct worker_load {
    uint32_t router; /* its number: WIRE_ROUTER_OF its ids */
    uint32_t sequences;
    uint64_t tokens; /* of prompts without a first token yet */
};

struct worker_mail {
    struct mail mail;                           /* first */
    uint32_t router;                            /* its number, or WIRE_EVERY_ROUTER */
    struct worker_load loads[WIRE_ROUTERS_MAX]; /* of those that have given something */
    uint32_t load_count;
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
