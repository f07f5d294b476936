/* store/redis_value.h - a block as a value in Redis, and the names of keys.
 *
 *     0      4        8           16     32       48         64
 *     +------+--------+-----------+------+--------+----------+------------------+
 *     |"BKV" |version |block bytes| key  | parent | checksum |  the block ...   |
 *     |  u32 |u32     |u64        | 16   | 16     | 16       |                  |
 *     +------+--------+-----------+------+--------+----------+------------------+
 *
 *     baton:b:KEY     the block                                    (KEY: 32 hexadecimal digits)
 *     baton:c:KEY     set of the keys whose parent is KEY          for deletion with descendants
 *     baton:r:MODEL   set of the keys of first blocks              for deletion of a model
 *     baton:models    set of MODELs: 16 bytes of a fingerprint     for operators
 *
 * Little-endian. The key's chain names model, layout, class and tenant, so a value that carries its
 * own key and matches its checksum is the block that was asked for. The checksum is of the 48 bytes
 * before it, and the block behind them as if it followed at once.
 *
 * Threads: any. Memory: none of its own.
 */
#ifndef STORE_REDIS_VALUE_H
#define STORE_REDIS_VALUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_key.h"

#define REDIS_VALUE_HEAD_BYTES 64
#define REDIS_NAME_BYTES 80

/* value: REDIS_VALUE_HEAD_BYTES + block_bytes. parent: NULL for the first block of a chain. */
void redis_value_write(const struct block_key *key, const struct block_key *parent,
                       const void *block, size_t block_bytes, uint8_t *value);

/* Check everything and land the block; to may be written to on failure too. Errors: ERR_NOT_FOUND
 * (of an older version: as good as none, and no damage), ERR_BAD_INPUT (no value of ours, another
 * size or version), ERR_CORRUPT (another key, or the checksum). */
status redis_value_land(const uint8_t *value, size_t bytes, const struct block_key *key, void *to,
                        size_t block_bytes);

const char *redis_block_name(const struct block_key *key, char name_out[REDIS_NAME_BYTES]);
/* Of the set that a block is listed in: its parent's, or its model's when it is a first one. */
const char *redis_link_name(const struct block_key *parent, const uint8_t *fingerprint,
                            char name_out[REDIS_NAME_BYTES]);

#endif
