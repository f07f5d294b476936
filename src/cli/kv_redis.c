#include "cli/kv_redis.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/kv_ask.h"
#include "store/redis_links.h"

static status begin(const struct kv_options *options, struct redis_links **links_out)
{
    log_open("kv", LOG_ERROR); /* what goes wrong is said once, at the end */
    return redis_links_open(options->store, options->store_password_file, links_out);
}

/* Say what went wrong, if anything did. */
static int end(struct redis_links *links, const char *name, status result)
{
    if (result != OK)
        fprintf(stderr, "baton kv %s: %s\n", name, error_text());
    redis_links_close(links);
    return result == OK ? EXIT_OK : EXIT_FAILED;
}

static void model_print(const uint8_t *model)
{
    for (uint32_t i = 0; i < REDIS_MODEL_BYTES; i++)
        printf("%02x", model[i]);
}

/* Run each with every model's keys looked at. */
static status for_each_model(struct redis_links *links,
                             void (*each)(const uint8_t *model, const struct redis_links_key *keys,
                                          size_t count))
{
    const uint8_t *models;
    const struct redis_links_key *keys;
    uint32_t model_count;
    size_t count;
    status st = redis_links_models(links, &models, &model_count);
    for (uint32_t i = 0; st == OK && i < model_count; i++) {
        const uint8_t *model = models + (size_t)i * REDIS_MODEL_BYTES;
        st = redis_links_take_model(links, model);
        if (st == OK)
            st = redis_links_look(links, &keys, &count);
        if (st == OK)
            each(model, keys, count);
    }
    return st;
}

/* ---- stat ---- */

static void stat_model(const uint8_t *model, const struct redis_links_key *keys, size_t count)
{
    uint64_t blocks = 0, bytes = 0;
    for (size_t i = 0; i < count; i++) {
        blocks += keys[i].bytes > 0;
        bytes += keys[i].bytes;
    }
    printf("model     ");
    model_print(model);
    printf("...: %" PRIu64 " blocks, %.1f MiB; %zu keys are linked\n", blocks,
           (double)bytes / (1024.0 * 1024.0), count);
}

int kv_redis_stat(const struct kv_options *options)
{
    struct redis_links *links = NULL;
    status st = begin(options, &links);
    if (st == OK)
        st = for_each_model(links, stat_model);
    if (st == OK)
        printf("memory, evictions and connections: redis-cli INFO\n");
    return end(links, "stat", st);
}

/* ---- query ---- */

static void query_model(const uint8_t *model, const struct redis_links_key *keys, size_t count)
{
    char text[BLOCK_KEY_TEXT_BYTES];
    (void)model;
    for (size_t i = 0; i < count; i++) {
        if (keys[i].bytes > 0)
            printf("%s\n", block_key_text(&keys[i].key, text));
    }
}

int kv_redis_query(const struct kv_options *options, const struct block_key *keys, uint32_t count)
{
    struct redis_links *links = NULL;
    const struct redis_links_key *seen;
    size_t leading = 0, all;
    status st = begin(options, &links);
    if (st == OK && count == 0)
        return end(links, "query", for_each_model(links, query_model));
    if (st == OK)
        st = redis_links_take_keys(links, keys, count);
    if (st == OK)
        st = redis_links_look(links, &seen, &all);
    while (st == OK && leading < all && seen[leading].bytes > 0)
        leading++;
    if (st == OK)
        printf("%zu of %u leading keys are there\n", leading, count);
    return end(links, "query", st);
}

/* ---- delete ---- */

static status delete_models(struct redis_links *links, uint64_t *deleted)
{
    uint8_t model[REDIS_MODEL_BYTES];
    const uint8_t *models;
    uint32_t count;
    for (;;) { /* each goes from the list when it is done */
        uint64_t more;
        status st = redis_links_models(links, &models, &count);
        if (st != OK || count == 0)
            return st;
        memcpy(model, models, sizeof(model));
        st = redis_links_take_model(links, model);
        if (st == OK)
            st = redis_links_delete(links, &more);
        if (st != OK)
            return st;
        *deleted += more;
    }
}

int kv_redis_delete(const struct kv_options *options, const struct wire_store_delete *ask)
{
    struct redis_links *links = NULL;
    struct block_key key;
    uint64_t deleted = 0;
    memcpy(key.bytes, ask->key, sizeof(key.bytes));
    status st = begin(options, &links);
    if (st == OK && ask->scope == WIRE_STORE_ALL) {
        st = delete_models(links, &deleted);
    } else if (st == OK) {
        st = ask->scope == WIRE_STORE_ONE    ? redis_links_take_keys(links, &key, 1)
             : ask->scope == WIRE_STORE_TREE ? redis_links_take_tree(links, &key)
                                             : redis_links_take_model(links, ask->fingerprint);
        if (st == OK)
            st = redis_links_delete(links, &deleted);
    }
    if (st == OK)
        printf("%" PRIu64 " blocks deleted\n", deleted);
    return end(links, "delete", st);
}
