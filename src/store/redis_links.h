/* store/redis_links.h - what an operator asks of a Redis: which blocks are there, and delete them.
 *
 *     baton:models ---> baton:r:MODEL ---> first blocks ---> baton:c:KEY ---> their children ...
 *
 * Keys are found by the links that were stored with the blocks (redis_value.h), page by page, never
 * by a scan of all keys. Links outlive blocks that Redis evicted, so descendants are found past
 * them. A set that grows while it is read may name a key twice. A delete goes from the leaves to
 * the root: one that is broken off can be asked again.
 *
 * Threads:  one; every call blocks, and every answer of Redis has a deadline.
 * Memory:   about 17 bytes a key, until close.
 */
#ifndef STORE_REDIS_LINKS_H
#define STORE_REDIS_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kv/block_key.h"

#define REDIS_MODEL_BYTES 16 /* of a fingerprint, in names */

struct redis_links;

/* address, password_file: as redis_url.h. Errors: redis_url_parse's, ERR_NO_MEMORY. */
status redis_links_open(const char *address, const char *password_file,
                        struct redis_links **links_out);
void redis_links_close(struct redis_links *links);

/* The models that blocks were added of: [count_out * REDIS_MODEL_BYTES], links's until its next
 * call. Errors of this and all that follow: ERR_TIMEOUT (Redis is down, or does not answer within
 * 10 s), ERR_REFUSED (what it said), ERR_NO_MEMORY, ERR_CORRUPT (links that go in circles). */
status redis_links_models(struct redis_links *links, const uint8_t **models_out,
                          uint32_t *count_out);

/* Which keys the next calls are about: these; key and what continues it; all of a model. */
status redis_links_take_keys(struct redis_links *links, const struct block_key *keys, size_t count);
status redis_links_take_tree(struct redis_links *links, const struct block_key *key);
status redis_links_take_model(struct redis_links *links, const uint8_t *model);

struct redis_links_key {
    struct block_key key;
    uint32_t bytes; /* of its value in Redis; 0: no block is there */
};

/* Look at each. keys_out: [count_out], parents before children. */
status redis_links_look(struct redis_links *links, const struct redis_links_key **keys_out,
                        size_t *count_out);

/* Delete their blocks; of a tree or model their links too. *deleted_out: blocks that were there. */
status redis_links_delete(struct redis_links *links, uint64_t *deleted_out);

#endif
