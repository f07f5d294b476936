/* http/keys.h - the API keys that open a server's routes.
 *
 * Only hashes are kept (BLAKE2b-256 under a key drawn at start), and a candidate is compared with
 * every one of them in constant time, so neither time nor a core dump tells anything of a key.
 *
 * Threads: filling by one; http_keys_match by any after that. Memory: owned by whoever opened it.
 */
#ifndef HTTP_KEYS_H
#define HTTP_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define HTTP_KEYS_MAX 1024
#define HTTP_KEY_BYTES_MAX 512

struct http_keys;

/* Errors: ERR_NO_MEMORY, ERR_IO (libsodium has no randomness). */
status http_keys_open(struct http_keys **keys_out);
void http_keys_close(struct http_keys *keys);

/* One key: 1 to HTTP_KEY_BYTES_MAX printable characters without spaces. Errors: ERR_BAD_INPUT,
 * ERR_FULL. The message never holds the key. */
status http_keys_add(struct http_keys *keys, const char *key);

/* A file with one key a line; empty lines and lines that begin with '#' are skipped; a file without
 * any key is an error. Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT (path and line), ERR_FULL. */
status http_keys_add_file(struct http_keys *keys, const char *path);

/* 0: nobody needs a key. NULL counts as 0. */
uint32_t http_keys_count(const struct http_keys *keys);

/* candidate is bytes long and need not end in NUL. Always compares with all keys. */
bool http_keys_match(const struct http_keys *keys, const char *candidate, size_t bytes);

#define HTTP_TENANT_BYTES 16

/* Whose request bears this Authorization header, which has matched: equal for equal keys, on every
 * server and after every start. All zeros when nobody needs a key. */
void http_keys_tenant(const struct http_keys *keys, const char *value,
                      uint8_t tenant_out[HTTP_TENANT_BYTES]);

/* The value of an Authorization header ("Bearer KEY"; the scheme in any case), or NULL for none. */
bool http_keys_match_authorization(const struct http_keys *keys, const char *value);

#endif
