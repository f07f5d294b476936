/* wire/auth.h - the cluster key, and the proof that both ends of a connection hold it.
 *
 *     connector                                              acceptor
 *        | -- HELLO (nonce: public key of this connection) ----> |
 *        | <----------------------------------------- HELLO -----|
 *        | <------------- AUTH proof(acceptor) ------------------|
 *        | -- AUTH proof(connector) ---------------------------> |   from here on tcp is sealed
 *
 *     master = H(cluster key; X25519(own secret, peer's public), H(HELLO of connector),
 *                H(HELLO of acceptor))
 *     proofs and the two directions' keys are derived from master, each under its own number
 *
 * The pairs are drawn for every connection and wiped after it: a recorded proof fits no other
 * connection, a reflected one has the wrong role, any changed byte of either HELLO changes both
 * proofs, and a key that is stolen later opens nothing that was recorded before.
 *
 * Threads: any, one auth by one at a time. Memory: wiped when closed.
 */
#ifndef WIRE_AUTH_H
#define WIRE_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/status.h"

#define CLUSTER_KEY_BYTES 32
#define AUTH_PUBLIC_BYTES 32
#define AUTH_PROOF_BYTES 32

/* ---- the key, a file of one line: "baton-cluster-key-1 " and 64 hexadecimal digits ---- */

struct cluster_key {
    uint8_t bytes[CLUSTER_KEY_BYTES];
};

/* Draw a key and write it to a new file that only its owner can read. Errors: ERR_IO (the file is
 * there, or cannot be made). */
status cluster_key_make(const char *path);

/* Read it; path NULL: there is none, and *key_out is NULL. Errors: ERR_NOT_FOUND, ERR_IO,
 * ERR_REFUSED (others than its owner may read or write it, or its owner is another user),
 * ERR_BAD_INPUT (no key in it). The message never holds the key. */
status cluster_key_open(const char *path, struct cluster_key **key_out);
void cluster_key_close(struct cluster_key *key); /* NULL is allowed */

/* May a process listen there? Without a key, or trust, only where other hosts cannot come. option
 * ("--workers") and text are for the message. Errors: ERR_REFUSED. */
status cluster_key_allows(const struct cluster_key *key, bool trust_network,
                          const struct address *address, const char *option, const char *text);

/* ---- one connection's proof ---- */

struct auth;

/* Draws this connection's pair. Errors: ERR_NO_MEMORY, ERR_IO (no randomness). */
status auth_open(const struct cluster_key *key, bool accepted, struct auth **auth_out);
void auth_close(struct auth *auth); /* NULL is allowed */

/* Goes into our HELLO as its nonce. */
const uint8_t *auth_public(const struct auth *auth);

/* The payloads of the two HELLOs as they were on the wire, each once. */
void auth_hello(struct auth *auth, bool ours, const uint8_t *payload, uint32_t payload_bytes);

/* After both. Errors: ERR_REFUSED (a public key that leads nowhere). */
status auth_agree(struct auth *auth, const uint8_t peer_public[AUTH_PUBLIC_BYTES]);

/* After auth_agree: ours, and whether the peer's is right. Errors: ERR_REFUSED. */
void auth_prove(const struct auth *auth, uint8_t proof[AUTH_PROOF_BYTES]);
status auth_check(const struct auth *auth, const uint8_t *proof, uint32_t proof_bytes,
                  const char *peer_name);

/* The keys of what is sent and of what is received. */
void auth_keys(const struct auth *auth, uint8_t send[CLUSTER_KEY_BYTES],
               uint8_t receive[CLUSTER_KEY_BYTES]);

#endif
