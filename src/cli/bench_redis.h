/* cli/bench_redis.h - SET and GET of a Redis as fast as a client can ask: pipelined over one
 * blocking socket, values straight from and into the caller's memory, nothing checked. What
 * baton bench store compares itself with; a store in Redis is store/redis.c.
 *
 * Threads: the main one. Source: the Redis serialization protocol (RESP2).
 */
#ifndef CLI_BENCH_REDIS_H
#define CLI_BENCH_REDIS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* text: HOST:PORT or unix:PATH. Errors: ERR_BAD_INPUT, ERR_IO. */
status bench_redis_open(const char *text, int *fd_out);

/* count values of value_bytes each, one after another, under keys of the numbers from first on.
 * Errors: ERR_IO (nothing for 30 s included), ERR_BAD_INPUT (an error reply, with its text). */
status bench_redis_set(int fd, uint32_t first, const uint8_t *from, size_t value_bytes,
                       uint32_t count);
status bench_redis_get(int fd, uint32_t first, uint8_t *to, size_t value_bytes, uint32_t count);

/* Forget the values under keys 0 .. count, then close. */
void bench_redis_close(int fd, uint32_t count);

#endif
