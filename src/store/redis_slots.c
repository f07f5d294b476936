#include "store/redis_slots.h"

#include <string.h>

static uint32_t crc16(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= (uint32_t)data[i] << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000) != 0 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1 & 0xffff;
    }
    return crc;
}

uint32_t redis_slot(const void *key, size_t bytes)
{
    const uint8_t *from = key;
    const uint8_t *open = memchr(from, '{', bytes);
    if (open != NULL) {
        const uint8_t *inside = open + 1;
        const uint8_t *close = memchr(inside, '}', bytes - (size_t)(inside - from));
        if (close != NULL && close > inside)
            return crc16(inside, (size_t)(close - inside)) % REDIS_SLOTS;
    }
    return crc16(from, bytes) % REDIS_SLOTS;
}
