/* wire/operator.h - what an operator (`baton ctl`) and a router say to each other.
 *
 *     operator                      router                        worker
 *       | --- status ask ------------> |                             |
 *       | <-- status (members) ------- |                             |
 *       | --- change (worker) -------> | --- set roles, or drain --> |   control.h
 *       | <-- changed ---------------- | <-- roles ----------------- |   to all of its routers
 *
 * They meet on the port of the workers, and prove the cluster key like those. A router that has
 * been asked for a role places new requests by it at once; the worker tells its other routers.
 *
 * Threads: any; no state.
 */
#ifndef WIRE_OPERATOR_H
#define WIRE_OPERATOR_H

#include "wire/control.h"

#define WIRE_MEMBERS_MAX 256

enum wire_operator {
    WIRE_STATUS_ASK = FRAME_CONTROL_FIRST + 128, /* empty */
    WIRE_STATUS,                                 /* a head, then its members */
    WIRE_CHANGE,
    WIRE_CHANGED,
};

struct wire_status {
    uint64_t incarnation;            /* of the router */
    uint32_t requests, waiting;      /* answers that it owes; of these, without a token */
    uint32_t draining, member_count; /* 0 or 1; 0 .. WIRE_MEMBERS_MAX */
    uint64_t directory_keys, directory_repairs;
    uint64_t failovers;
};

/* A worker as the router sees it. */
struct wire_member {
    struct wire_register registration; /* roles: as they are now */
    struct wire_heartbeat beat;        /* its last */
    uint32_t leaving;                  /* 1: it goes when its last request is done */
    uint32_t beat_age_ms;
    uint32_t decoding;      /* sequences that this router has placed there */
    uint64_t queued_tokens; /* of prompts that this router has given it, without a first token */
};

enum wire_change_action {
    WIRE_CHANGE_ROLES = 1, /* to roles */
    WIRE_CHANGE_DRAIN,     /* no new requests, and an end when the last one is done */
};

struct wire_change {
    uint32_t action;
    uint32_t roles; /* WIRE_ROLE_ bits; of WIRE_CHANGE_ROLES */
    char worker[WIRE_NAME_BYTES];
};

struct wire_changed {
    int32_t status; /* of status.h: OK, or text says why not */
    char text[WIRE_TEXT_BYTES];
};

/* status: the head, then wire_member_encode for each. */
void wire_status_encode(struct wire_frame *frame, const struct wire_status *message);
status wire_status_decode(struct reader *from, struct wire_status *message_out);
void wire_member_encode(struct wire_frame *frame, const struct wire_member *message);
status wire_member_decode(struct reader *from, struct wire_member *message_out);

void wire_change_encode(struct wire_frame *frame, const struct wire_change *message);
status wire_change_decode(const uint8_t *data, size_t bytes, struct wire_change *message_out);
void wire_changed_encode(struct wire_frame *frame, const struct wire_changed *message);
status wire_changed_decode(const uint8_t *data, size_t bytes, struct wire_changed *message_out);

#endif
