#include "wire/auth.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/secret_file.h"

#define KEY_HEAD "baton-cluster-key-1 "
#define KEY_HEX_BYTES (2 * CLUSTER_KEY_BYTES)
#define KEY_TEXT_BYTES (sizeof(KEY_HEAD) - 1 + KEY_HEX_BYTES + 1) /* with the end of line */

/* ---- the key file ---- */

static status auth_start(void)
{
    return sodium_init() < 0
               ? error_set(ERR_IO, "libsodium cannot start: the system gives no random bytes")
               : OK;
}

static status key_file_write(int fd, const char *path, const char *text, size_t bytes)
{
    bool ok = write(fd, text, bytes) == (ssize_t)bytes && fsync(fd) == 0;
    int cause = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        cause = errno;
    }
    if (ok)
        return OK;
    unlink(path);
    return error_set(ERR_IO, "cannot write the cluster key file \"%s\": %s", path, strerror(cause));
}

status cluster_key_make(const char *path)
{
    uint8_t key[CLUSTER_KEY_BYTES];
    char text[KEY_TEXT_BYTES + 1];
    status st = auth_start();
    if (st != OK)
        return st;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST)
        return error_set(ERR_IO,
                         "\"%s\" is there already and is not overwritten: give another name, or "
                         "remove it when no process uses it any more",
                         path);
    if (fd < 0)
        return error_set(ERR_IO, "cannot make the cluster key file \"%s\": %s", path,
                         strerror(errno));
    randombytes_buf(key, sizeof(key));
    memcpy(text, KEY_HEAD, sizeof(KEY_HEAD));
    sodium_bin2hex(text + sizeof(KEY_HEAD) - 1, KEY_HEX_BYTES + 1, key, sizeof(key));
    memcpy(text + KEY_TEXT_BYTES - 1, "\n", 2);
    st = key_file_write(fd, path, text, KEY_TEXT_BYTES);
    sodium_memzero(key, sizeof(key));
    sodium_memzero(text, sizeof(text));
    return st;
}

static status key_file_read(const char *path, uint8_t key[CLUSTER_KEY_BYTES])
{
    char text[KEY_TEXT_BYTES + 8];
    size_t decoded = 0, got;
    status st = secret_file_read(path, "the cluster key file", text, sizeof(text), &got);
    if (st != OK)
        return st;
    bool ok = got == KEY_TEXT_BYTES || got == KEY_TEXT_BYTES - 1;
    ok = ok && memcmp(text, KEY_HEAD, sizeof(KEY_HEAD) - 1) == 0 &&
         (got == KEY_TEXT_BYTES - 1 || text[KEY_TEXT_BYTES - 1] == '\n') &&
         sodium_hex2bin(key, CLUSTER_KEY_BYTES, text + sizeof(KEY_HEAD) - 1, KEY_HEX_BYTES, NULL,
                        &decoded, NULL) == 0 &&
         decoded == CLUSTER_KEY_BYTES;
    sodium_memzero(text, sizeof(text));
    if (!ok)
        return error_set(ERR_BAD_INPUT,
                         "the cluster key file \"%s\" holds no key: expected one line of \"%s\" "
                         "and %d hexadecimal digits, as `baton key` writes it",
                         path, KEY_HEAD, KEY_HEX_BYTES);
    return OK;
}

status cluster_key_open(const char *path, struct cluster_key **key_out)
{
    *key_out = NULL;
    if (path == NULL)
        return OK;
    status st = auth_start();
    if (st != OK)
        return st;
    struct cluster_key *key = calloc(1, sizeof(*key));
    if (key == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the cluster key");
    st = key_file_read(path, key->bytes);
    if (st != OK) {
        cluster_key_close(key);
        return st;
    }
    *key_out = key;
    return OK;
}

void cluster_key_close(struct cluster_key *key)
{
    if (key == NULL)
        return;
    sodium_memzero(key, sizeof(*key));
    free(key);
}

status cluster_key_allows(const struct cluster_key *key, bool trust_network,
                          const struct address *address, const char *option, const char *text)
{
    if (key != NULL || trust_network || address_is_loopback(address))
        return OK;
    return error_set(ERR_REFUSED,
                     "%s %s can be reached from other hosts, and without a cluster key nobody has "
                     "to authenticate there: give all processes the same --cluster-key (`baton "
                     "key` makes one), or use a loopback address, or say --trust-network when "
                     "everybody in that network may read and feed the cache",
                     option, text);
}

/* ---- the proof ---- */

enum auth_number { /* of what is derived from the master */
                   AUTH_CONNECTOR_PROOF = 1,
                   AUTH_ACCEPTOR_PROOF,
                   AUTH_FROM_CONNECTOR,
                   AUTH_FROM_ACCEPTOR,
};

struct auth {
    bool accepted, agreed;
    struct cluster_key key;
    uint8_t secret[crypto_scalarmult_SCALARBYTES];
    uint8_t public[AUTH_PUBLIC_BYTES];
    uint8_t hello_hash[2][32]; /* of the connector, of the acceptor */
    uint8_t master[crypto_kdf_KEYBYTES];
};

_Static_assert(AUTH_PUBLIC_BYTES == crypto_scalarmult_BYTES, "an X25519 point");
_Static_assert(CLUSTER_KEY_BYTES == crypto_generichash_KEYBYTES, "a BLAKE2b key");

status auth_open(const struct cluster_key *key, bool accepted, struct auth **auth_out)
{
    status st = auth_start();
    if (st != OK)
        return st;
    struct auth *auth = calloc(1, sizeof(*auth));
    if (auth == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a handshake");
    auth->accepted = accepted;
    auth->key = *key;
    randombytes_buf(auth->secret, sizeof(auth->secret));
    crypto_scalarmult_base(auth->public, auth->secret);
    *auth_out = auth;
    return OK;
}

void auth_close(struct auth *auth)
{
    if (auth == NULL)
        return;
    sodium_memzero(auth, sizeof(*auth));
    free(auth);
}

const uint8_t *auth_public(const struct auth *auth)
{
    return auth->public;
}

void auth_hello(struct auth *auth, bool ours, const uint8_t *payload, uint32_t payload_bytes)
{
    bool of_acceptor = ours == auth->accepted;
    crypto_generichash(auth->hello_hash[of_acceptor], sizeof(auth->hello_hash[0]), payload,
                       payload_bytes, NULL, 0);
}

status auth_agree(struct auth *auth, const uint8_t peer_public[AUTH_PUBLIC_BYTES])
{
    static const char label[] = "baton link 1";
    uint8_t shared[crypto_scalarmult_BYTES];
    crypto_generichash_state state;
    if (crypto_scalarmult(shared, auth->secret, peer_public) != 0)
        return error_set(ERR_REFUSED, "cluster key: the peer's HELLO bears no usable public key");
    crypto_generichash_init(&state, auth->key.bytes, sizeof(auth->key.bytes), sizeof(auth->master));
    crypto_generichash_update(&state, (const uint8_t *)label, sizeof(label));
    crypto_generichash_update(&state, shared, sizeof(shared));
    crypto_generichash_update(&state, auth->hello_hash[0], sizeof(auth->hello_hash));
    crypto_generichash_final(&state, auth->master, sizeof(auth->master));
    sodium_memzero(shared, sizeof(shared));
    sodium_memzero(&state, sizeof(state));
    sodium_memzero(auth->secret, sizeof(auth->secret));
    sodium_memzero(&auth->key, sizeof(auth->key));
    auth->agreed = true;
    return OK;
}

static void auth_derive(const struct auth *auth, enum auth_number number, uint8_t out[32])
{
    assert(auth->agreed);
    crypto_kdf_derive_from_key(out, 32, number, "batonlnk", auth->master);
}

void auth_prove(const struct auth *auth, uint8_t proof[AUTH_PROOF_BYTES])
{
    auth_derive(auth, auth->accepted ? AUTH_ACCEPTOR_PROOF : AUTH_CONNECTOR_PROOF, proof);
}

status auth_check(const struct auth *auth, const uint8_t *proof, uint32_t proof_bytes,
                  const char *peer_name)
{
    uint8_t expected[AUTH_PROOF_BYTES];
    auth_derive(auth, auth->accepted ? AUTH_CONNECTOR_PROOF : AUTH_ACCEPTOR_PROOF, expected);
    bool same =
        proof_bytes == sizeof(expected) && sodium_memcmp(expected, proof, sizeof(expected)) == 0;
    sodium_memzero(expected, sizeof(expected));
    if (same)
        return OK;
    return error_set(ERR_REFUSED,
                     "cluster key: \"%s\" has another key than this process, or somebody between "
                     "the two changed the handshake; give all processes the same --cluster-key",
                     peer_name);
}

void auth_keys(const struct auth *auth, uint8_t send[CLUSTER_KEY_BYTES],
               uint8_t receive[CLUSTER_KEY_BYTES])
{
    auth_derive(auth, auth->accepted ? AUTH_FROM_ACCEPTOR : AUTH_FROM_CONNECTOR, send);
    auth_derive(auth, auth->accepted ? AUTH_FROM_CONNECTOR : AUTH_FROM_ACCEPTOR, receive);
}
