/* baton kv: what an operator asks of a running store, or of Redis (kv_redis.h): stat, query,
 * delete. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/kv_ask.h"
#include "cli/kv_redis.h"
#include "store/redis_url.h"

#define T struct kv_options

/* ---- stat ---- */

static void stat_print(const struct wire_store_stats *s)
{
    const double mib = 1024.0 * 1024.0;
    uint64_t hits = s->hits_memory + s->hits_disk;
    printf("model     ");
    for (uint32_t i = 0; i < sizeof(s->fingerprint); i++)
        printf("%02x", (unsigned)(s->fingerprint[i / 8] >> (8 * (i % 8)) & 0xff));
    printf("%s\nkeys      %" PRIu64 "\n", s->block_bytes == 0 ? " (none yet)" : "", s->keys);
    printf("memory    %" PRIu64 " of %" PRIu64 " blocks, %.1f of %.1f MiB; %" PRIu64 " pinned\n",
           s->memory_used, s->memory_blocks, (double)(s->memory_used * s->block_bytes) / mib,
           (double)(s->memory_blocks * s->block_bytes) / mib, s->memory_pinned);
    printf("disk      %" PRIu64 " blocks, %.1f of %.1f MiB%s\n", s->disk_blocks,
           (double)s->disk_bytes / mib, (double)s->disk_bytes_max / mib,
           s->disk_bytes_max == 0 ? " (none)"
           : s->disk_up != 0      ? ""
                                  : "; cannot be written to now");
    printf("moving    %" PRIu64 " gets (leases), %" PRIu64 " blocks being added, %" PRIu64
           " connections\n",
           s->leases, s->adding, s->links);
    printf("gets      %" PRIu64 " keys: %" PRIu64 " from memory, %" PRIu64 " from disk, %" PRIu64
           " not there (hit rate %.3f)\n",
           s->asked_keys, s->hits_memory, s->hits_disk, s->misses,
           s->asked_keys > 0 ? (double)hits / (double)s->asked_keys : 0.0);
    printf("adds      %" PRIu64 " blocks, %" PRIu64 " were there, %" PRIu64 " had no room\n",
           s->added_blocks, s->duplicate_blocks, s->refused_blocks);
    printf("bytes     %" PRIu64 " received, %" PRIu64 " sent\n", s->received_bytes, s->sent_bytes);
    printf("gone      %" PRIu64 " evicted from memory, %" PRIu64 " from disk, %" PRIu64
           " expired, %" PRIu64 " deleted\n",
           s->evicted_blocks, s->disk_evicted_blocks, s->expired_blocks, s->deleted_blocks);
    printf("disk i/o  %" PRIu64 " written, %" PRIu64 " dropped, %" PRIu64 " read, %" PRIu64
           " compacted\n",
           s->disk_written_blocks, s->disk_dropped_blocks, s->disk_read_blocks,
           s->disk_compacted_blocks);
    printf("damage    %" PRIu64 " in transit, %" PRIu64 " on disk, %" PRIu64 " disk failures\n",
           s->checksum_failures, s->disk_corrupt_blocks, s->disk_failures);
}

static int stat_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct kv kv = {.ask = FRAME_STORE_STAT, .answer = FRAME_STORE_STATS};
    const struct wire_store_delete ask = {.number = 1};
    const struct kv_options *given = options;
    struct wire_store_stats stats;
    (void)operands, (void)operand_count;
    if (redis_url_is(given->store))
        return kv_redis_stat(given);
    wire_store_delete_encode(&kv.frame, &ask);
    status st = kv_run(&kv, options);
    if (st == OK)
        st = wire_store_stats_decode(kv.payload, kv.bytes, &stats);
    if (st == OK)
        stat_print(&stats);
    return kv_close(&kv, "stat", st);
}

static const struct option_spec stat_rows[] = {KV_ROWS(T)};

const struct command_spec kv_stat_command = {
    .name = "kv stat",
    .operands = "",
    .summary = "print what a store holds and has done",
    .options = stat_rows,
    .option_count = sizeof(stat_rows) / sizeof(stat_rows[0]),
    .options_bytes = sizeof(struct kv_options),
    .run = stat_run,
};

/* ---- query ---- */

/* All keys, when none is given: page by page. */
static int query_list(const struct kv_options *options)
{
    struct wire_store_delete ask = {.number = 1};
    static const uint8_t end[KEY_BYTES];
    for (bool more = true; more;) {
        struct kv kv = {.ask = FRAME_STORE_LIST, .answer = FRAME_STORE_KEYS};
        struct wire_store_ask page;
        wire_store_delete_encode(&kv.frame, &ask);
        status st = kv_run(&kv, options);
        if (st == OK)
            st = wire_store_ask_decode(kv.payload, kv.bytes, KEY_BYTES, &page);
        for (uint32_t i = 0; st == OK && i < page.count; i++) {
            for (uint32_t b = 0; b < KEY_BYTES; b++)
                printf("%02x", page.items[i * KEY_BYTES + b]);
            printf("\n");
        }
        if (st == OK)
            memcpy(ask.key, page.lease.bytes, KEY_BYTES);
        more = st == OK && memcmp(ask.key, end, KEY_BYTES) != 0;
        int rc = kv_close(&kv, "query", st);
        if (rc != EXIT_OK)
            return rc;
    }
    return EXIT_OK;
}

static int query_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct kv kv = {.ask = FRAME_STORE_FIND, .answer = FRAME_STORE_FOUND};
    struct wire_store_answer answer;
    const struct kv_options *given = options;
    bool redis = redis_url_is(given->store);
    if (operand_count == 0)
        return redis ? kv_redis_query(given, NULL, 0) : query_list(options);
    uint8_t *keys = malloc((size_t)operand_count * KEY_BYTES);
    status st = keys != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for the keys");
    for (uint32_t i = 0; st == OK && i < operand_count; i++)
        st = kv_read_hex(operands[i], "a key", keys + (size_t)i * KEY_BYTES, KEY_BYTES);
    if (st == OK && redis) {
        int rc = kv_redis_query(given, (const struct block_key *)keys, operand_count);
        free(keys);
        return rc;
    }
    if (st == OK) {
        const struct wire_store_ask ask = {.number = 1, .count = operand_count, .items = keys};
        wire_store_ask_encode(&kv.frame, &ask, KEY_BYTES);
        st = kv_run(&kv, options);
    }
    if (st == OK)
        st = wire_store_answer_decode(kv.payload, kv.bytes, &answer);
    if (st == OK)
        printf("%u of %u leading keys are there\n", answer.count, operand_count);
    free(keys);
    return kv_close(&kv, "query", st);
}

const struct command_spec kv_query_command = {
    .name = "kv query",
    .operands = "[KEY ...]",
    .summary = "count the leading keys that a store holds, or list all it holds",
    .details = "Keys are 32 hexadecimal digits. With keys: how many of them, from the first on, "
               "are there. Without: every key that is there, one a line.",
    .options = stat_rows,
    .option_count = sizeof(stat_rows) / sizeof(stat_rows[0]),
    .options_bytes = sizeof(struct kv_options),
    .operands_max = 4096,
    .run = query_run,
};

/* ---- delete ---- */

static status delete_read(const struct kv_options *options, const char *const *operands,
                          uint32_t operand_count, struct wire_store_delete *ask_out)
{
    struct wire_store_delete ask = {.number = 1};
    uint32_t ways = operand_count + options->all + (options->fingerprint != NULL);
    if (ways != 1 || (options->tree && operand_count == 0))
        return error_set(ERR_BAD_INPUT, "expected one of: KEY (with --tree: and all that continues "
                                        "it), --model FINGERPRINT, --all");
    ask.scope = options->all                   ? WIRE_STORE_ALL
                : options->fingerprint != NULL ? WIRE_STORE_MODEL
                : options->tree                ? WIRE_STORE_TREE
                                               : WIRE_STORE_ONE;
    status st = OK;
    if (operand_count == 1)
        st = kv_read_hex(operands[0], "the key", ask.key, sizeof(ask.key));
    if (options->fingerprint != NULL)
        st = kv_read_hex(options->fingerprint, "--model", ask.fingerprint, sizeof(ask.fingerprint));
    *ask_out = ask;
    return st;
}

static int delete_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    struct kv kv = {.ask = FRAME_STORE_DELETE, .answer = FRAME_STORE_DELETED};
    struct wire_store_delete ask;
    struct wire_store_answer answer;
    const struct kv_options *given = options;
    status st = delete_read(options, operands, operand_count, &ask);
    if (st == OK && redis_url_is(given->store))
        return kv_redis_delete(given, &ask);
    if (st == OK) {
        wire_store_delete_encode(&kv.frame, &ask);
        st = kv_run(&kv, options);
    }
    if (st == OK)
        st = wire_store_answer_decode(kv.payload, kv.bytes, &answer);
    if (st == OK)
        printf("%u blocks deleted\n", answer.count);
    return kv_close(&kv, "delete", st);
}

static const struct option_spec delete_rows[] = {
    KV_ROWS(T),
    {"tree", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, tree),
     "delete what continues KEY too, whether KEY itself is there or not"},
    {"model", OPTION_TEXT, "FINGERPRINT", NULL, 0, 0, offsetof(T, fingerprint),
     "delete everything, if the store's model has this fingerprint (64 hexadecimal digits)"},
    {"all", OPTION_FLAG, NULL, NULL, 0, 0, offsetof(T, all), "delete everything"},
};

const struct command_spec kv_delete_command = {
    .name = "kv delete",
    .operands = "[KEY]",
    .summary = "delete blocks of a store",
    .details = "A block that is being read stays until its readers have it; nobody finds it any "
               "more.",
    .options = delete_rows,
    .option_count = sizeof(delete_rows) / sizeof(delete_rows[0]),
    .options_bytes = sizeof(struct kv_options),
    .operands_max = 1,
    .run = delete_run,
};
