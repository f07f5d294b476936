#include "store/redis_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/secret_file.h"

#define REDIS_PORT 6379
#define DATABASE_MAX 1023
#define URL_BYTES_MAX 2048

static const char plain[] = "redis://";
static const char cluster[] = "redis-cluster://";
static const char tls[] = "rediss://";

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

bool redis_url_is(const char *text)
{
    return starts_with(text, plain) || starts_with(text, cluster) || starts_with(text, tls);
}

status redis_url_check_file(const char *text, const char *password_file)
{
    if (password_file == NULL || redis_url_is(text))
        return OK;
    return error_set(ERR_BAD_INPUT, "--store-password-file is for a Redis (redis://...); a `baton "
                                    "store` takes --cluster-key");
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* from .. from + bytes with its %XX replaced, as a string. */
static status decode_secret(const char *what, const char *from, size_t bytes,
                            char to[REDIS_SECRET_BYTES])
{
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        int c = (unsigned char)from[i];
        if (c == '%') {
            int high = i + 1 < bytes ? hex_digit(from[i + 1]) : -1;
            int low = i + 2 < bytes ? hex_digit(from[i + 2]) : -1;
            if (high < 0 || low < 0 || high * 16 + low == 0)
                return error_set(ERR_BAD_INPUT,
                                 "the store's %s has a %% that two hexadecimal digits other than "
                                 "00 do not follow; write a %% itself as %%25",
                                 what);
            c = high * 16 + low;
            i += 2;
        }
        if (count + 1 >= REDIS_SECRET_BYTES)
            return error_set(ERR_BAD_INPUT, "the store's %s has over %d characters", what,
                             REDIS_SECRET_BYTES - 1);
        to[count++] = (char)c;
    }
    to[count] = '\0';
    return OK;
}

static status parse_user(const char *from, size_t bytes, bool has_file, struct redis_url *url)
{
    const char *colon = memchr(from, ':', bytes);
    if (colon == NULL && !has_file)
        return error_set(ERR_BAD_INPUT, "the store's address has something before its @ without a "
                                        "colon; expected redis://:password@host or "
                                        "redis://user:password@host, or redis://user@host and "
                                        "--store-password-file");
    size_t user_bytes = colon != NULL ? (size_t)(colon - from) : bytes;
    status st = decode_secret("user", from, user_bytes, url->user);
    if (st == OK && colon != NULL)
        st = decode_secret("password", colon + 1, bytes - user_bytes - 1, url->password);
    if (st == OK && has_file && url->password[0] != '\0')
        st = error_set(ERR_BAD_INPUT, "the store's address has a password, and so has the file of "
                                      "--store-password-file; leave it out of the address");
    return st;
}

static status read_password(const char *path, char password[REDIS_SECRET_BYTES])
{
    char text[REDIS_SECRET_BYTES + 1]; /* a longest one, and its end of line */
    size_t bytes;
    status st = secret_file_read(path, "the store's password file", text, sizeof(text), &bytes);
    if (st != OK)
        return st;
    if (bytes > 0 && text[bytes - 1] == '\n')
        bytes--;
    if (bytes == 0 || bytes >= REDIS_SECRET_BYTES || memchr(text, '\n', bytes) != NULL ||
        memchr(text, '\0', bytes) != NULL)
        st = error_set(ERR_BAD_INPUT,
                       "the store's password file \"%s\" holds no password: expected one line of 1 "
                       "to %d characters",
                       path, REDIS_SECRET_BYTES - 1);
    else
        snprintf(password, REDIS_SECRET_BYTES, "%.*s", (int)bytes, text);
    explicit_bzero(text, sizeof(text));
    return st;
}

static status parse_seeds(char *hosts, struct redis_url *url)
{
    char *rest = hosts;
    for (char *host = strsep(&rest, ","); host != NULL; host = strsep(&rest, ",")) {
        if (url->seed_count == REDIS_SEEDS_MAX)
            return error_set(ERR_BAD_INPUT, "the store's address has over %d hosts",
                             REDIS_SEEDS_MAX);
        if (*host == '\0' || starts_with(host, "unix:"))
            return error_set(ERR_BAD_INPUT,
                             "the store's address: expected host or host:port "
                             "between its commas, found \"%s\"",
                             host);
        struct address *seed = &url->seeds[url->seed_count];
        status st = address_parse(host, REDIS_PORT, seed);
        if (st == OK && address_port(seed) == 0)
            st = error_set(ERR_BAD_INPUT, "expected a port from 1 to 65535, found %s", host);
        if (st == OK)
            st = address_write_numeric(seed);
        if (st != OK)
            return error_prefix(st, "the store's address");
        url->seed_count++;
    }
    return OK;
}

static status parse_database(const char *text, struct redis_url *url)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value > DATABASE_MAX)
        return error_set(ERR_BAD_INPUT,
                         "the store's database: expected a number from 0 to %d after the /, found "
                         "\"%s\"",
                         DATABASE_MAX, text);
    url->database = (uint32_t)value;
    return OK;
}

status redis_url_parse(const char *text, const char *password_file, struct redis_url *url_out)
{
    struct redis_url url = {.must_be_cluster = starts_with(text, cluster)};
    char hosts[URL_BYTES_MAX];
    if (starts_with(text, tls))
        return error_set(ERR_UNSUPPORTED,
                         "rediss:// (Redis over TLS) is not built: use redis:// through a tunnel, "
                         "or baton's own store with a cluster key");
    if (!redis_url_is(text))
        return error_set(ERR_BAD_INPUT, "expected redis:// or redis-cluster://");
    text += strlen(url.must_be_cluster ? cluster : plain);
    status st = OK;
    const char *at = strrchr(text, '@');
    if (at != NULL)
        st = parse_user(text, (size_t)(at - text), password_file != NULL, &url);
    if (at != NULL)
        text = at + 1;
    if (st == OK && strlen(text) >= sizeof(hosts))
        st = error_set(ERR_BAD_INPUT, "the store's address has over %d characters",
                       URL_BYTES_MAX - 1);
    if (st != OK)
        return st;
    snprintf(hosts, sizeof(hosts), "%s", text);
    char *slash = strchr(hosts, '/');
    if (slash != NULL) {
        *slash = '\0';
        if (slash[1] != '\0')
            st = parse_database(slash + 1, &url);
    }
    if (st == OK)
        st = parse_seeds(hosts, &url);
    if (st == OK && url.must_be_cluster && url.database != 0)
        st = error_set(ERR_BAD_INPUT, "a Redis Cluster has only database 0, found /%u",
                       url.database);
    if (st == OK && password_file != NULL)
        st = read_password(password_file, url.password);
    if (st == OK)
        *url_out = url;
    return st;
}
