#include "wire/seal.h"

#include <assert.h>
#include <gcrypt.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define NONCE_BYTES 12
#define CIPHER_BLOCK_BYTES 16
#define OCB_PIECE_BYTES 16384 /* whole cipher blocks */
#define RECORD_DOES_NOT_OPEN                                                                       \
    "a record does not open: somebody changed, repeated or left out bytes on the way"

_Static_assert(NONCE_BYTES == crypto_aead_chacha20poly1305_ietf_NPUBBYTES, "a nonce fits both");
_Static_assert(SEAL_TAG_BYTES == crypto_aead_chacha20poly1305_ietf_ABYTES, "a tag fits both");

struct seal {
    enum seal_cipher cipher;
    gcry_cipher_hd_t ocb;
    uint8_t key[SEAL_KEY_BYTES]; /* of ChaCha20-Poly1305 */
};

static pthread_once_t seal_once = PTHREAD_ONCE_INIT;
static bool seal_gcrypt_ready;

static void seal_begin(void)
{
    /* Keys live as long as a connection, in memory like any other: no locked pages. */
    seal_gcrypt_ready = gcry_check_version(GCRYPT_VERSION) != NULL &&
                        gcry_control(GCRYCTL_DISABLE_SECMEM, 0) == 0 &&
                        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0) == 0;
}

bool seal_has_aes(void)
{
    pthread_once(&seal_once, seal_begin);
    return seal_gcrypt_ready && sodium_init() >= 0 && crypto_aead_aes256gcm_is_available() == 1;
}

status seal_open(enum seal_cipher cipher, const uint8_t key[SEAL_KEY_BYTES], struct seal **seal_out)
{
    struct seal *seal = calloc(1, sizeof(*seal));
    if (seal == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the key of a connection");
    seal->cipher = cipher;
    if (cipher == SEAL_CHACHA20_POLY1305) {
        memcpy(seal->key, key, SEAL_KEY_BYTES);
    } else {
        pthread_once(&seal_once, seal_begin);
        if (gcry_cipher_open(&seal->ocb, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_OCB, 0) != 0 ||
            gcry_cipher_setkey(seal->ocb, key, SEAL_KEY_BYTES) != 0) {
            seal_close(seal);
            return error_set(ERR_NO_MEMORY, "no memory for the key of a connection");
        }
    }
    *seal_out = seal;
    return OK;
}

void seal_close(struct seal *seal)
{
    if (seal == NULL)
        return;
    gcry_cipher_close(seal->ocb); /* wipes it; NULL is allowed */
    sodium_memzero(seal, sizeof(*seal));
    free(seal);
}

static void nonce_write(uint64_t number, uint8_t nonce[NONCE_BYTES])
{
    memset(nonce, 0, NONCE_BYTES);
    store_u64(nonce + NONCE_BYTES - 8, number);
}

/* The next record of this handle. */
static void ocb_begin(struct seal *seal, const uint8_t nonce[NONCE_BYTES])
{
    gcry_error_t error = gcry_cipher_setiv(seal->ocb, nonce, NONCE_BYTES);
    assert(error == 0);
}

/* The next bytes of it: of `last`, any number; before, whole blocks. OCB reads its plaintext twice,
 * for the tag and to encrypt it, and a block of the pool may be filled while it is sent: both read
 * a copy, made where the record will be, as much at a time as stays in the nearest cache. */
static void ocb_encrypt(struct seal *seal, const uint8_t *from, size_t bytes, uint8_t *to,
                        bool last)
{
    size_t at = 0, step;
    do {
        step = bytes - at < OCB_PIECE_BYTES ? bytes - at : OCB_PIECE_BYTES;
        if (from != to)
            memcpy(to + at, from + at, step);
        gcry_error_t error = last && at + step == bytes ? gcry_cipher_final(seal->ocb) : 0;
        if (error == 0)
            error = gcry_cipher_encrypt(seal->ocb, to + at, step, NULL, 0);
        assert(error == 0); /* what is not encrypted must not leave */
        at += step;
    } while (at < bytes);
}

/* libgcrypt takes "in place" as no input. */
static void ocb_decrypt(struct seal *seal, const uint8_t *from, size_t bytes, uint8_t *to,
                        bool last)
{
    gcry_error_t error = last ? gcry_cipher_final(seal->ocb) : 0;
    if (error == 0)
        error = from == to ? gcry_cipher_decrypt(seal->ocb, to, bytes, NULL, 0)
                           : gcry_cipher_decrypt(seal->ocb, to, bytes, from, bytes);
    assert(error == 0);
}

void seal_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes, uint8_t *to)
{
    uint8_t nonce[NONCE_BYTES];
    assert(bytes >= 1 && bytes <= SEAL_PLAIN_BYTES_MAX);
    nonce_write(number, nonce);
    if (seal->cipher == SEAL_CHACHA20_POLY1305) {
        crypto_aead_chacha20poly1305_ietf_encrypt_detached(to, to + bytes, NULL, from, bytes, NULL,
                                                           0, NULL, nonce, seal->key);
        return;
    }
    ocb_begin(seal, nonce);
    ocb_encrypt(seal, from, bytes, to, true);
    gcry_error_t error = gcry_cipher_gettag(seal->ocb, to + bytes, SEAL_TAG_BYTES);
    assert(error == 0);
}

status seal_open_record(struct seal *seal, uint64_t number, const uint8_t *from, size_t bytes,
                        uint8_t *to)
{
    uint8_t nonce[NONCE_BYTES];
    bool opened;
    nonce_write(number, nonce);
    if (seal->cipher == SEAL_CHACHA20_POLY1305) {
        opened = crypto_aead_chacha20poly1305_ietf_decrypt_detached(
                     to, NULL, from, bytes, from + bytes, NULL, 0, nonce, seal->key) == 0;
    } else {
        ocb_begin(seal, nonce);
        ocb_decrypt(seal, from, bytes, to, true);
        opened = gcry_cipher_checktag(seal->ocb, from + bytes, SEAL_TAG_BYTES) == 0;
        if (!opened)
            memset(to, 0, bytes);
    }
    return opened ? OK : error_set(ERR_BAD_INPUT, RECORD_DOES_NOT_OPEN);
}

/* ---- records of several places ---- */

/* Can they be taken one after another, without a copy? */
static bool places_fit(const struct seal *seal, const struct iovec *places, uint32_t count,
                       size_t *bytes_out)
{
    bool whole = true;
    *bytes_out = 0;
    for (uint32_t i = 0; i < count; i++) {
        whole = whole && (i + 1 == count || places[i].iov_len % CIPHER_BLOCK_BYTES == 0);
        *bytes_out += places[i].iov_len;
    }
    assert(*bytes_out >= 1 && *bytes_out <= SEAL_PLAIN_BYTES_MAX);
    return whole && seal->cipher == SEAL_AES256_OCB;
}

void seal_record_of(struct seal *seal, uint64_t number, const struct iovec *from, uint32_t count,
                    uint8_t *to)
{
    uint8_t nonce[NONCE_BYTES], *at = to;
    size_t bytes;
    bool fit = places_fit(seal, from, count, &bytes);
    nonce_write(number, nonce);
    if (fit)
        ocb_begin(seal, nonce);
    for (uint32_t i = 0; i < count; at += from[i].iov_len, i++) {
        if (fit)
            ocb_encrypt(seal, from[i].iov_base, from[i].iov_len, at, i + 1 == count);
        else
            memcpy(at, from[i].iov_base, from[i].iov_len);
    }
    if (!fit) {
        seal_record(seal, number, to, bytes, to);
        return;
    }
    gcry_error_t error = gcry_cipher_gettag(seal->ocb, at, SEAL_TAG_BYTES);
    assert(error == 0);
}

status seal_open_record_to(struct seal *seal, uint64_t number, uint8_t *from,
                           const struct iovec *to, uint32_t count)
{
    uint8_t nonce[NONCE_BYTES], *at = from;
    size_t bytes;
    bool fit = places_fit(seal, to, count, &bytes);
    status st = OK;
    nonce_write(number, nonce);
    if (fit)
        ocb_begin(seal, nonce);
    else
        st = seal_open_record(seal, number, from, bytes, from);
    for (uint32_t i = 0; i < count; at += to[i].iov_len, i++) {
        if (fit)
            ocb_decrypt(seal, at, to[i].iov_len, to[i].iov_base, i + 1 == count);
        else
            memcpy(to[i].iov_base, at, to[i].iov_len);
    }
    if (fit && gcry_cipher_checktag(seal->ocb, at, SEAL_TAG_BYTES) != 0) {
        for (uint32_t i = 0; i < count; i++)
            memset(to[i].iov_base, 0, to[i].iov_len);
        st = error_set(ERR_BAD_INPUT, RECORD_DOES_NOT_OPEN);
    }
    return st;
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
