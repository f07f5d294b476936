#include "http/keys.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"

#define KEY_HASH_BYTES 32

struct http_keys {
    unsigned char secret[crypto_generichash_KEYBYTES];
    uint32_t count;
    unsigned char hashes[HTTP_KEYS_MAX][KEY_HASH_BYTES];
};

status http_keys_open(struct http_keys **keys_out)
{
    if (sodium_init() < 0)
        return error_set(ERR_IO, "libsodium cannot start: the system gives no random bytes");
    struct http_keys *keys = calloc(1, sizeof(*keys));
    if (keys == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for API keys");
    randombytes_buf(keys->secret, sizeof(keys->secret));
    *keys_out = keys;
    return OK;
}

void http_keys_close(struct http_keys *keys)
{
    if (keys == NULL)
        return;
    sodium_memzero(keys, sizeof(*keys));
    free(keys);
}

static void keys_hash(const struct http_keys *keys, const char *key, size_t bytes,
                      unsigned char hash_out[KEY_HASH_BYTES])
{
    int rc = crypto_generichash(hash_out, KEY_HASH_BYTES, (const unsigned char *)key, bytes,
                                keys->secret, sizeof(keys->secret));
    if (rc != 0)
        abort(); /* only wrong sizes fail, and they are constants */
}

status http_keys_add(struct http_keys *keys, const char *key)
{
    size_t bytes = strlen(key);
    if (bytes == 0 || bytes > HTTP_KEY_BYTES_MAX)
        return error_set(ERR_BAD_INPUT, "an API key has 1 to %d characters, this one has %zu",
                         HTTP_KEY_BYTES_MAX, bytes);
    for (size_t i = 0; i < bytes; i++) {
        if (key[i] <= ' ' || key[i] > '~')
            return error_set(ERR_BAD_INPUT,
                             "an API key is made of printable ASCII characters without spaces; "
                             "character %zu of this one is not",
                             i + 1);
    }
    if (keys->count == HTTP_KEYS_MAX)
        return error_set(ERR_FULL, "more than %d API keys", HTTP_KEYS_MAX);
    keys_hash(keys, key, bytes, keys->hashes[keys->count]);
    keys->count++;
    return OK;
}

/* One line of a key file, its end already cut off. */
static status keys_add_line(struct http_keys *keys, char *line, const char *path, unsigned number)
{
    size_t bytes = strcspn(line, "\r\n");
    while (bytes > 0 && (line[bytes - 1] == ' ' || line[bytes - 1] == '\t'))
        bytes--;
    line[bytes] = '\0';
    char *from = line + strspn(line, " \t");
    if (from[0] == '\0' || from[0] == '#')
        return OK;
    status st = http_keys_add(keys, from);
    return st == OK ? OK : error_prefix(st, "%s line %u", path, number);
}

status http_keys_add_file(struct http_keys *keys, const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO,
                         "cannot open the API key file \"%s\": %s", path, strerror(errno));
    char line[HTTP_KEY_BYTES_MAX + 64];
    uint32_t count_before = keys->count;
    unsigned number = 0;
    status st = OK;
    while (st == OK && fgets(line, sizeof(line), file) != NULL) {
        number++;
        if (strchr(line, '\n') == NULL && !feof(file))
            st = error_set(ERR_BAD_INPUT, "%s line %u: longer than the %d characters of a key",
                           path, number, HTTP_KEY_BYTES_MAX);
        else
            st = keys_add_line(keys, line, path, number);
    }
    if (st == OK && ferror(file))
        st = error_set(ERR_IO, "cannot read the API key file \"%s\"", path);
    if (st == OK && keys->count == count_before)
        st = error_set(ERR_BAD_INPUT, "the API key file \"%s\" has no key: expected one a line",
                       path);
    sodium_memzero(line, sizeof(line));
    fclose(file);
    return st;
}

uint32_t http_keys_count(const struct http_keys *keys)
{
    return keys != NULL ? keys->count : 0;
}

bool http_keys_match(const struct http_keys *keys, const char *candidate, size_t bytes)
{
    if (keys == NULL || bytes > HTTP_KEY_BYTES_MAX)
        return false;
    unsigned char hash[KEY_HASH_BYTES];
    keys_hash(keys, candidate, bytes, hash);
    int found = 0;
    for (uint32_t i = 0; i < keys->count; i++)
        found |= sodium_memcmp(hash, keys->hashes[i], KEY_HASH_BYTES) == 0;
    return found != 0;
}

/* The key in an Authorization header; NULL: there is none. */
static const char *keys_of_authorization(const char *value)
{
    if (value == NULL || strncasecmp(value, "Bearer ", 7) != 0)
        return NULL;
    return value + 7 + strspn(value + 7, " ");
}

bool http_keys_match_authorization(const struct http_keys *keys, const char *value)
{
    const char *key = keys_of_authorization(value);
    return key != NULL && http_keys_match(keys, key, strlen(key));
}

void http_keys_tenant(const struct http_keys *keys, const char *value,
                      uint8_t tenant_out[HTTP_TENANT_BYTES])
{
    static const char label[] = "baton tenant 1";
    const char *key = http_keys_count(keys) > 0 ? keys_of_authorization(value) : NULL;
    memset(tenant_out, 0, HTTP_TENANT_BYTES);
    if (key == NULL)
        return;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, HTTP_TENANT_BYTES);
    crypto_generichash_update(&state, (const unsigned char *)label, sizeof(label));
    crypto_generichash_update(&state, (const unsigned char *)key, strlen(key));
    crypto_generichash_final(&state, tenant_out, HTTP_TENANT_BYTES);
}
