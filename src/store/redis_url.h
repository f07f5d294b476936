/* store/redis_url.h - where a Redis is, as an operator writes it.
 *
 *     redis://[[user]:password@]host[:port][,host[:port]...][/database]
 *     redis-cluster://...           the same, and it must be a cluster
 *
 * With a password file the address is without one (redis://[user@]host...), and the password is the
 * file's one line, as it is: no %XX. Several hosts are places to ask for a cluster's map; any one
 * that answers will do. User and password may hold %XX. Host names are resolved here, once.
 *
 * Threads: any; may ask the resolver, read the file and block: call it at start. Memory: plain
 *          values.
 */
#ifndef STORE_REDIS_URL_H
#define STORE_REDIS_URL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/status.h"

#define REDIS_SEEDS_MAX 16
#define REDIS_SECRET_BYTES 256

struct redis_url {
    struct address seeds[REDIS_SEEDS_MAX];
    uint32_t seed_count;
    char user[REDIS_SECRET_BYTES];     /* "" when none is given */
    char password[REDIS_SECRET_BYTES]; /* "" when none is given */
    uint32_t database;
    bool must_be_cluster;
};

/* Is this an address of a Redis at all (redis:, rediss: or redis-cluster:)? */
bool redis_url_is(const char *text);

/* Errors: ERR_BAD_INPUT: there is a password file, and this is no address of a Redis. */
status redis_url_check_file(const char *text, const char *password_file);

/* password_file: NULL: none. Errors: ERR_BAD_INPUT, ERR_UNSUPPORTED (rediss: TLS is not built), of
 * the file those of base/secret_file.h. Messages never show the password. */
status redis_url_parse(const char *text, const char *password_file, struct redis_url *url_out);

#endif
