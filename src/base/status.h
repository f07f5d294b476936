/* base/status.h - what a call may answer.
 *
 * A call that can fail returns a status and sets its outputs only on OK. The first function that
 * knows the cause writes the message (base/error.h): expected, found, what to do.
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

typedef enum {
    OK = 0,
    ERR_NO_MEMORY = -1,   /* the system, or a fixed arena, has no more */
    ERR_FULL = -2,        /* a bounded pool or queue has no room now; try later */
    ERR_BAD_INPUT = -3,   /* bytes from outside that are not what they must be */
    ERR_NOT_FOUND = -4,   /* a file, key or id that nobody has */
    ERR_IO = -5,          /* the system refused a read, write or socket call */
    ERR_CLOSED = -6,      /* the other side is gone */
    ERR_TIMEOUT = -7,     /* a deadline passed */
    ERR_REFUSED = -8,     /* a peer or a rule said no: version, model, key */
    ERR_UNSUPPORTED = -9, /* well-formed, but not built: an architecture, a type, a parameter */
    ERR_CORRUPT = -10,    /* a checksum does not match */
    ERR_CANCELLED = -11,  /* given up by who asked for it */
} status;

/* A constant string, for example "bad input". */
const char *status_name(status code);

#endif
