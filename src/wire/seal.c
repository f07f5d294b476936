#include "wire/seal.h"

#include <assert.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define NONCE_BYTES 12

_Static_assert(NONCE_BYTES == crypto_aead_aes256gcm_NPUBBYTES, "a nonce fits both");
_Static_assert(NONCE_BYTES == crypto_aead_chacha20poly1305_ietf_NPUBBYTES, "a nonce fits both");
_Static_assert(SEAL_TAG_BYTES == crypto_aead_aes256gcm_ABYTES, "a tag fits both");
_Static_assert(SEAL_TAG_BYTES == crypto_aead_chacha20poly1305_ietf_ABYTES, "a tag fits both");

struct seal {
    crypto_aead_aes256gcm_state aes; /* aligned: first */
    enum seal_cipher cipher;
    uint8_t key[SEAL_KEY_BYTES];
};

bool seal_has_aes(void)
{
    return sodium_init() >= 0 && crypto_aead_aes256gcm_is_available() == 1;
}

status seal_open(enum seal_cipher cipher, const uint8_t key[SEAL_KEY_BYTES], struct seal **seal_out)
{
    struct seal *seal = aligned_alloc(_Alignof(struct seal), sizeof(*seal));
    if (seal == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the key of a connection");
    memset(seal, 0, sizeof(*seal));
    seal->cipher = cipher;
    memcpy(seal->key, key, SEAL_KEY_BYTES);
    if (cipher == SEAL_AES256_GCM)
        crypto_aead_aes256gcm_beforenm(&seal->aes, key);
    *seal_out = seal;
    return OK;
}

void seal_close(struct seal *seal)
{
    if (seal == NULL)
        return;
    sodium_memzero(seal, sizeof(*seal));
    free(seal);
}

static void nonce_write(uint64_t number, uint8_t nonce[NONCE_BYTES])
{
    memset(nonce, 0, NONCE_BYTES);
    store_u64(nonce + NONCE_BYTES - 8, number);
}

void seal_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes, uint8_t *to)
{
    uint8_t nonce[NONCE_BYTES];
    assert(bytes >= 1 && bytes <= SEAL_PLAIN_BYTES_MAX);
    nonce_write(number, nonce);
    if (seal->cipher == SEAL_AES256_GCM)
        crypto_aead_aes256gcm_encrypt_detached_afternm(to, to + bytes, NULL, from, bytes, NULL, 0,
                                                       NULL, nonce, &seal->aes);
    else
        crypto_aead_chacha20poly1305_ietf_encrypt_detached(to, to + bytes, NULL, from, bytes, NULL,
                                                           0, NULL, nonce, seal->key);
}

status seal_open_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes,
                        uint8_t *to)
{
    uint8_t nonce[NONCE_BYTES];
    int rc;
    nonce_write(number, nonce);
    if (seal->cipher == SEAL_AES256_GCM)
        rc = crypto_aead_aes256gcm_decrypt_detached_afternm(to, NULL, from, bytes, from + bytes,
                                                            NULL, 0, nonce, &seal->aes);
    else
        rc = crypto_aead_chacha20poly1305_ietf_decrypt_detached(to, NULL, from, bytes, from + bytes,
                                                                NULL, 0, nonce, seal->key);
    return rc == 0 ? OK
                   : error_set(ERR_BAD_INPUT, "a record does not open: somebody changed, repeated "
                                              "or left out bytes on the way");
}

size_t seal_records(size_t plain)
{
    return plain / SEAL_PLAIN_BYTES_MAX + (plain % SEAL_PLAIN_BYTES_MAX != 0);
}

size_t seal_wire_bytes(size_t plain)
{
    return plain + seal_records(plain) * SEAL_TAG_BYTES;
}

size_t seal_plain_bytes(size_t plain, size_t wire)
{
    if (wire >= seal_wire_bytes(plain))
        return plain;
    return wire / SEAL_RECORD_BYTES_MAX * SEAL_PLAIN_BYTES_MAX;
}
