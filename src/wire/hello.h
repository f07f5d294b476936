/* wire/hello.h - the handshake: who is there, and does its KV mean the same as ours.
 *
 *     connector                                   acceptor
 *        | -- HELLO magic, version, ... ----------> |  checks; on a mismatch REFUSE and close
 *        | <------------------------ HELLO -------- |
 *        |  checks; on a mismatch REFUSE and close  |
 *        | <---- AUTH, with a cluster key ---------- |  proofs over both HELLOs: auth.h
 *        | -- AUTH, with a cluster key ------------> |  from here on tcp is sealed: seal.h
 *        | -- READY ------------------------------> |
 *
 * link.c runs it; a link's user sees its result in on_ready. Nothing but HELLO, REFUSE, AUTH and
 * READY is decoded before it is over, and of a HELLO the magic and the version are looked at first,
 * so that a peer of any other version can be refused by name.
 *
 * Threads: any. Memory: plain values.
 */
#ifndef WIRE_HELLO_H
#define WIRE_HELLO_H

#include <stdint.h>

#include "base/status.h"
#include "wire/frame.h"

#define HELLO_MAGIC 0x4e544142u /* "BATN" */
#define HELLO_NAME_BYTES 64
#define HELLO_CLASS_BYTES 32
#define HELLO_HASH_BYTES 32
#define HELLO_NONCE_BYTES 32
#define HELLO_REFUSE_TEXT_BYTES 768
#define HELLO_PAYLOAD_BYTES_MAX 1024 /* of any frame before the handshake is over */

enum hello_frame {
    FRAME_HELLO = FRAME_LINK_FIRST + 1,
    FRAME_REFUSE, /* text, why */
    FRAME_READY,  /* empty */
    FRAME_AUTH,   /* proof of the cluster key */
};

enum hello_role {
    HELLO_ROUTER = 1,
    HELLO_PREFILL,
    HELLO_DECODE,
    HELLO_COLOCATED, /* a worker of both roles */
    HELLO_STORE,
    HELLO_OPERATOR, /* baton ctl and the like */
};

/* What of a hello is filled in. Two sides are compared in the parts that both have. */
enum hello_parts {
    HELLO_HAS_MODEL = 1, /* fingerprint */
    HELLO_HAS_KV = 2,    /* layout_hash, numerics_class, kv_dtype, block_tokens */
};

/* Both sides have a cluster key, or none has. AES: could seal with it. */
enum hello_auth { HELLO_AUTH_NONE = 0, HELLO_AUTH_CLUSTER_KEY = 1, HELLO_AUTH_AES = 2 };

struct hello {
    uint32_t parts;                        /* enum hello_parts, or-ed */
    uint8_t fingerprint[HELLO_HASH_BYTES]; /* of the model's weights: weights.h */
    uint8_t layout_hash[HELLO_HASH_BYTES]; /* of a block's layout: kv/layout.h */
    char numerics_class[HELLO_CLASS_BYTES];
    uint32_t kv_dtype; /* enum dtype */
    uint32_t block_tokens;
    uint32_t rank, ranks;             /* of a tensor-parallel group; 0, 1 */
    uint32_t role;                    /* enum hello_role */
    uint32_t auth;                    /* enum hello_auth, or-ed; set by link.c */
    uint64_t incarnation;             /* random at process start, never 0 */
    char name[HELLO_NAME_BYTES];      /* "decode-0", for people */
    uint8_t nonce[HELLO_NONCE_BYTES]; /* fresh for every connection, with a cluster key its public
                                       * key; set by link.c */
};

/* A random number that is not 0, for struct hello's incarnation. */
uint64_t hello_incarnation_random(void);

const char *hello_role_name(uint32_t role); /* "prefill"; "unknown" */

/* Bytes written to payload. Texts are cut to their fields. */
uint32_t hello_write(const struct hello *hello, uint8_t payload[HELLO_PAYLOAD_BYTES_MAX]);

/* Errors: ERR_BAD_INPUT (not a baton process; a field out of its range),
 * ERR_REFUSED (another wire version, both named). */
status hello_read(const uint8_t *payload, uint32_t payload_bytes, struct hello *hello_out);

/* May these two talk? Errors: ERR_REFUSED naming the first field that differs, both values and what
 * to do. */
status hello_check(const struct hello *ours, const struct hello *theirs);

#endif
