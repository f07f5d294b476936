/* store/redis_slots.h - which node of a Redis Cluster has a key.
 *
 *     slot = CRC16(the key, or what its first {} hold) mod 16384
 *
 * Threads: any; no state. Source: the Redis Cluster specification ("Key distribution model",
 * "Hash tags"); CRC16 is XMODEM's.
 */
#ifndef STORE_REDIS_SLOTS_H
#define STORE_REDIS_SLOTS_H

#include <stddef.h>
#include <stdint.h>

#define REDIS_SLOTS 16384

uint32_t redis_slot(const void *key, size_t bytes);

#endif
