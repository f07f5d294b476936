/* cli/kv_redis.h - baton kv stat, query and delete for a store in Redis (store/redis_links.h).
 *
 * Each prints its answer, or why there is none to standard error, and returns the exit code.
 */
#ifndef CLI_KV_REDIS_H
#define CLI_KV_REDIS_H

#include <stdint.h>

#include "kv/block_key.h"
#include "wire/store.h"

struct kv_options;

int kv_redis_stat(const struct kv_options *options);

/* keys: [count]; 0: list all. */
int kv_redis_query(const struct kv_options *options, const struct block_key *keys, uint32_t count);

/* ask: scope, and key or fingerprint. */
int kv_redis_delete(const struct kv_options *options, const struct wire_store_delete *ask);

#endif
