/* wire/seal.h - one direction of a connection, encrypted and authenticated in records.
 *
 *     plain   |        <= 64 KiB        |        <= 64 KiB        |  ...
 *     sealed  | same length     |tag 16 | same length     |tag 16 |  ...
 *             number 0                  number 1
 *
 * The number of a record is its nonce, and the key belongs to one direction of one connection: a
 * record that is changed, repeated, left out or moved to another place does not open. AES-256-OCB
 * where both sides have the instructions for it, else ChaCha20-Poly1305: what a handoff costs with
 * a key is this file (Zen 3, one core, GB/s: OCB of libgcrypt 11; GCM of libgcrypt 4, of OpenSSL
 * 2.7, of libsodium 1.4).
 *
 * Threads: one at a time. Memory: the key is wiped when closed. Source: RFC 7253, RFC 8439.
 */
#ifndef WIRE_SEAL_H
#define WIRE_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/status.h"

#define SEAL_KEY_BYTES 32
#define SEAL_TAG_BYTES 16
#define SEAL_PLAIN_BYTES_MAX 65536 /* of one record */
#define SEAL_RECORD_BYTES_MAX (SEAL_PLAIN_BYTES_MAX + SEAL_TAG_BYTES)

enum seal_cipher { SEAL_CHACHA20_POLY1305, SEAL_AES256_OCB };

struct seal;

/* Has this machine instructions for AES? */
bool seal_has_aes(void);

/* Errors: ERR_NO_MEMORY. */
status seal_open(enum seal_cipher cipher, const uint8_t key[SEAL_KEY_BYTES],
                 struct seal **seal_out);
void seal_close(struct seal *seal); /* NULL is allowed */

/* One record of `bytes` plain bytes, with the tag behind it. A number must never come twice. to may
 * be from; else they must not overlap. from may change meanwhile: some of each byte's values are
 * sealed, and the record opens. */
void seal_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes,
                 uint8_t *to);

/* The other way round; from has bytes + SEAL_TAG_BYTES. When the tag is wrong zeros are left
 * at `to`. Errors: ERR_BAD_INPUT. */
status seal_open_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes,
                        uint8_t *to);

/* The same with the plain bytes in several places, whose sum is bytes. */
void seal_record_of(struct seal *seal, uint64_t number, const struct iovec *from, uint32_t count,
                    uint8_t *to);
status seal_open_record_to(struct seal *seal, uint64_t number, uint8_t *from,
                           const struct iovec *to, uint32_t count);

/* How many records `plain` bytes make, and how many bytes on the wire. */
size_t seal_records(size_t plain);
size_t seal_wire_bytes(size_t plain);

/* How many plain bytes lie whole in the first `wire` bytes of them. */
size_t seal_plain_bytes(size_t plain, size_t wire);

#endif
