/* kv/block_key.h - the name of a block's content.
 *
 *     root = H("baton root", fingerprint, layout, dtype, numerics class, tenant salt)
 *     key0 = H("baton block", root, token ids 0 .. 15)
 *     key1 = H("baton block", key0, token ids 16 .. 31)
 *
 * H is BLAKE2b with 16 bytes of output; numbers are little-endian and every variable part carries
 * its length, so no two inputs share an encoding. A key names all tokens up to the end of its
 * block, and everything that makes the bytes differ: whoever holds a block with that key may serve
 * it.
 *
 * Threads:  any.
 * Memory:   nothing is kept.
 */
#ifndef KV_BLOCK_KEY_H
#define KV_BLOCK_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "kv/layout.h"

#define BLOCK_KEY_BYTES 16
#define BLOCK_KEY_TEXT_BYTES 33 /* hex and NUL */
#define BLOCK_KEY_FINGERPRINT_BYTES 32

struct block_key {
    uint8_t bytes[BLOCK_KEY_BYTES];
};

/* fingerprint: BLOCK_KEY_FINGERPRINT_BYTES bytes (the model's); layout_hash: KV_LAYOUT_HASH_BYTES;
 * numerics_class: the backend's; salt: what separates tenants, may be empty. */
struct block_key block_key_root(const uint8_t *fingerprint, const uint8_t *layout_hash,
                                enum dtype kv_dtype, const char *numerics_class, const void *salt,
                                size_t salt_bytes);

/* The key of a block with these token ids after previous. count is 1 .. block_tokens; fewer than
 * block_tokens name a prompt's last, partial block: another key than any full block's. */
struct block_key block_key_next(const struct block_key *previous, const uint32_t *token_ids,
                                uint32_t count);

/* The keys of all full blocks of token_ids. keys_out: token_count / block_tokens keys. Returns
 * their number. About 1 us a block. */
uint32_t block_key_chain(const struct block_key *root, const uint32_t *token_ids,
                         uint32_t token_count, uint32_t block_tokens, struct block_key *keys_out);

bool block_key_equal(const struct block_key *a, const struct block_key *b);

/* For logs. Returns text_out. */
const char *block_key_text(const struct block_key *key, char text_out[BLOCK_KEY_TEXT_BYTES]);

#endif
