#include "kv/block_key.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "base/bytes.h"

static const char domain_root[] = "baton root 1";
static const char domain_block[] = "baton block 1";

struct block_key block_key_root(const uint8_t *fingerprint, const uint8_t *layout_hash,
                                enum dtype kv_dtype, const char *numerics_class, const void *salt,
                                size_t salt_bytes)
{
    size_t class_bytes = strlen(numerics_class);
    uint8_t numbers[4 + 8 + 8];
    struct block_key key;
    crypto_generichash_state state;

    /* All fixed-size parts first, the lengths of the others among them. */
    store_u32(numbers, (uint32_t)kv_dtype);
    store_u64(numbers + 4, class_bytes);
    store_u64(numbers + 12, salt_bytes);
    crypto_generichash_init(&state, NULL, 0, BLOCK_KEY_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)domain_root, sizeof(domain_root));
    crypto_generichash_update(&state, fingerprint, BLOCK_KEY_FINGERPRINT_BYTES);
    crypto_generichash_update(&state, layout_hash, KV_LAYOUT_HASH_BYTES);
    crypto_generichash_update(&state, numbers, sizeof(numbers));
    crypto_generichash_update(&state, (const uint8_t *)numerics_class, class_bytes);
    if (salt_bytes > 0)
        crypto_generichash_update(&state, salt, salt_bytes);
    crypto_generichash_final(&state, key.bytes, BLOCK_KEY_BYTES);
    return key;
}

struct block_key block_key_next(const struct block_key *previous, const uint32_t *token_ids,
                                uint32_t count)
{
    uint8_t bytes[256];
    struct block_key key;
    crypto_generichash_state state;

    assert(count > 0 && count <= KV_BLOCK_TOKENS_MAX);
    crypto_generichash_init(&state, NULL, 0, BLOCK_KEY_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)domain_block, sizeof(domain_block));
    crypto_generichash_update(&state, previous->bytes, BLOCK_KEY_BYTES);
    store_u32(bytes, count);
    crypto_generichash_update(&state, bytes, 4);
    for (uint32_t done = 0; done < count;) {
        uint32_t part = 0;
        for (; part < sizeof(bytes) / 4 && done < count; part++, done++)
            store_u32(bytes + 4 * (size_t)part, token_ids[done]);
        crypto_generichash_update(&state, bytes, 4 * (size_t)part);
    }
    crypto_generichash_final(&state, key.bytes, BLOCK_KEY_BYTES);
    return key;
}

uint32_t block_key_chain(const struct block_key *root, const uint32_t *token_ids,
                         uint32_t token_count, uint32_t block_tokens, struct block_key *keys_out)
{
    assert(block_tokens > 0);
    uint32_t count = token_count / block_tokens;
    const struct block_key *previous = root;
    for (uint32_t i = 0; i < count; i++) {
        keys_out[i] = block_key_next(previous, token_ids + (size_t)i * block_tokens, block_tokens);
        previous = &keys_out[i];
    }
    return count;
}

bool block_key_equal(const struct block_key *a, const struct block_key *b)
{
    return memcmp(a->bytes, b->bytes, BLOCK_KEY_BYTES) == 0;
}

const char *block_key_text(const struct block_key *key, char text_out[BLOCK_KEY_TEXT_BYTES])
{
    return sodium_bin2hex(text_out, BLOCK_KEY_TEXT_BYTES, key->bytes, BLOCK_KEY_BYTES);
}
