#include "store/redis_value.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/checksum.h"

#define VALUE_MAGIC 0x00564b42u /* "BKV" */
#define VALUE_VERSION 2u        /* 1: the checksum was of the block alone */
#define VALUE_NAMED_BYTES 48u   /* of the head, before the checksum */

/* Of the head before the checksum, and the block: one piece, as it were. */
static struct checksum value_sum(const uint8_t *head, struct checksum block)
{
    return checksum_join(checksum_of(head, VALUE_NAMED_BYTES), VALUE_NAMED_BYTES / 8, block);
}

void redis_value_write(const struct block_key *key, const struct block_key *parent,
                       const void *block, size_t block_bytes, uint8_t *value)
{
    store_u32(value, VALUE_MAGIC);
    store_u32(value + 4, VALUE_VERSION);
    store_u64(value + 8, block_bytes);
    memcpy(value + 16, key->bytes, BLOCK_KEY_BYTES);
    memset(value + 32, 0, BLOCK_KEY_BYTES);
    if (parent != NULL)
        memcpy(value + 32, parent->bytes, BLOCK_KEY_BYTES);
    struct checksum sum =
        value_sum(value, land_copy(value + REDIS_VALUE_HEAD_BYTES, block, block_bytes));
    store_u64(value + 48, sum.a);
    store_u64(value + 56, sum.b);
}

status redis_value_land(const uint8_t *value, size_t bytes, const struct block_key *key, void *to,
                        size_t block_bytes)
{
    if (bytes < REDIS_VALUE_HEAD_BYTES || load_u32(value) != VALUE_MAGIC)
        return error_set(ERR_BAD_INPUT, "the store's value of %zu bytes is no block of baton's",
                         bytes);
    uint32_t version = load_u32(value + 4);
    if (version != VALUE_VERSION)
        return error_set(version >= 1 && version < VALUE_VERSION ? ERR_NOT_FOUND : ERR_BAD_INPUT,
                         "the store's block has version %u, expected %u", version, VALUE_VERSION);
    if (load_u64(value + 8) != block_bytes || bytes != REDIS_VALUE_HEAD_BYTES + block_bytes)
        return error_set(ERR_BAD_INPUT,
                         "the store's block says %" PRIu64 " bytes and has %zu, expected %zu",
                         load_u64(value + 8), bytes - REDIS_VALUE_HEAD_BYTES, block_bytes);
    if (memcmp(value + 16, key->bytes, BLOCK_KEY_BYTES) != 0)
        return error_set(ERR_CORRUPT, "the store answered with the block of another key");
    struct checksum said = {.a = load_u64(value + 48), .b = load_u64(value + 56)};
    struct checksum found =
        value_sum(value, land_copy(to, value + REDIS_VALUE_HEAD_BYTES, block_bytes));
    if (!checksum_equal(said, found))
        return error_set(ERR_CORRUPT, "the store's block does not match its checksum");
    return OK;
}

const char *redis_block_name(const struct block_key *key, char name_out[REDIS_NAME_BYTES])
{
    char hex[BLOCK_KEY_TEXT_BYTES];
    snprintf(name_out, REDIS_NAME_BYTES, "baton:b:%s", block_key_text(key, hex));
    return name_out;
}

const char *redis_link_name(const struct block_key *parent, const uint8_t *fingerprint,
                            char name_out[REDIS_NAME_BYTES])
{
    char hex[BLOCK_KEY_TEXT_BYTES];
    struct block_key model;
    memcpy(model.bytes, fingerprint, BLOCK_KEY_BYTES);
    snprintf(name_out, REDIS_NAME_BYTES, "baton:%c:%s", parent != NULL ? 'c' : 'r',
             block_key_text(parent != NULL ? parent : &model, hex));
    return name_out;
}
