/* cli/kv_redis.h - baton kv stat, query and delete for a store in Redis (store/redis_links.h).
 *
 * Each prints its answer, or why there is none to standard error, and returns the exit code.
 */
#ifndef CLI_KV_REDIS_H
#define CLI_KV_REDIS_H

#include <stdint.h>

#include "kv/block_key.h"
#include "wire/store.h"

int kv_redis_stat(const char *address);

/* keys: [count]; 0: list all. */
int kv_redis_query(const char *address, const struct block_key *keys, uint32_t count);

/* ask: scope, and key or fingerprint. */
int kv_redis_delete(const char *address, const struct wire_store_delete *ask);

#endif
