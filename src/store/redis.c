/* The calls of store.h over Redis or a Redis Cluster, for the addresses of redis_url.h.
 *
 *     redis_client.h   commands to nodes, redirections, deadlines
 *     redis_node.h     one connection
 *     redis_value.h    a block as a value; names of keys
 *
 *     add    EXISTS, and for what is absent SADD to its parent's set, then SET ... NX
 *     find   EXISTS, pipelined, until the first that is absent
 *     get    GET, pipelined, until the first that is absent; checked while it is landed
 *
 * A SET is atomic and a value carries its key and checksum, so a get is a whole, checked block or
 * absent. There are no leases: what Redis evicts during a get is absent. Let it evict
 * (maxmemory-policy allkeys-lru); what does not fit otherwise is refused and counted. A damaged
 * value is deleted, so that the next add can put a good one there, and so is one of an older
 * version, which is absent to whoever asks.
 *
 * Threads: the store's.
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/parts.h"
#include "store/redis_client.h"
#include "store/redis_value.h"

#define FLIGHT_BYTES_MAX (16u << 20) /* of blocks, on their way for one call */
#define FLIGHT_COMMANDS_MAX 64       /* of one call */

struct redis_store {
    struct store *store;
    struct redis_client *client;
    uint8_t *value; /* scratch: the head and a block */
};

/* A job and its commands. It outlives the job when that is given up with commands under way. */
struct call {
    struct redis_store *redis;
    struct store_job *job; /* NULL: ended */
    uint32_t next_index;   /* first that no command was sent for */
    uint32_t first_absent;
    uint32_t outstanding;
    uint32_t kept; /* add: that are there */
    uint64_t bytes;
    bool *landed;  /* get: [count], in the same piece of memory */
    status status; /* the first thing that went wrong */
    char text[STORE_TEXT_BYTES];
};

/* One block's way through its commands. */
struct part {
    struct call *call;
    uint32_t index;
    enum { PART_LOOK, PART_LINK, PART_SET, PART_GET } stage;
};

static void call_fail(struct call *call, status st, const char *text)
{
    if (call->status != OK)
        return;
    call->status = st;
    snprintf(call->text, sizeof(call->text), "%s", text);
}

/* Leading blocks that landed. */
static uint32_t call_leading(const struct call *call)
{
    uint32_t count = 0;
    while (count < call->job->count && call->landed[count])
        count++;
    return count;
}

static void call_end(struct call *call)
{
    struct store_job *job = call->job;
    uint32_t count = job->mail.kind == STORE_JOB_ADD    ? call->kept
                     : job->mail.kind == STORE_JOB_FIND ? call->first_absent
                                                        : call_leading(call);
    call->job = NULL;
    store_job_end(call->redis->store, job, call->status, call->text, count, call->bytes);
}

/* Nothing is under way and nothing more is to be sent. */
static void call_settle(struct call *call)
{
    if (call->outstanding > 0)
        return;
    if (call->job != NULL)
        call_end(call);
    free(call);
}

/* ---- commands ---- */

static void call_go_on(struct call *call);
static void part_done(void *ctx, status st, const struct redisReply *reply);

static const struct block_key *part_key(const struct part *part)
{
    const struct store_job *job = part->call->job;
    return job->mail.kind == STORE_JOB_ADD ? &job->blocks[part->index].key
                                           : &job->keys[part->index];
}

/* This key is not there, or nobody can say. */
static void call_absent(struct call *call, uint32_t index)
{
    if (index < call->first_absent)
        call->first_absent = index;
}

/* False: it could not be sent, and the part is over. */
static bool part_send(struct part *part, uint32_t count, const char *const *arguments,
                      const size_t *bytes)
{
    struct call *call = part->call;
    uint64_t now = clock_ns(), end = call->job->deadline_ns;
    uint32_t left_ms = now < end ? (uint32_t)((end - now) / 1000000u) + 1 : 1;
    status st =
        redis_client_send(call->redis->client, count, arguments, bytes, left_ms, part_done, part);
    if (st == OK)
        return true;
    call_fail(call, st, error_text());
    call_absent(call, part->index);
    return false;
}

static bool part_send_name(struct part *part, const char *command)
{
    char name[REDIS_NAME_BYTES];
    const char *arguments[] = {command, redis_block_name(part_key(part), name)};
    const size_t bytes[] = {strlen(command), strlen(name)};
    return part_send(part, 2, arguments, bytes);
}

/* Nobody waits for it: the next one will find the place empty, or not. */
static void ignore(void *ctx, status st, const struct redisReply *reply)
{
    (void)ctx;
    (void)st;
    (void)reply;
}

/* For operators, who ask which models are there. */
static void call_name_model(struct call *call)
{
    struct block_key model;
    char hex[BLOCK_KEY_TEXT_BYTES];
    memcpy(model.bytes, call->redis->store->hello.fingerprint, sizeof(model.bytes));
    const char *arguments[] = {"SADD", "baton:models", block_key_text(&model, hex)};
    const size_t bytes[] = {4, strlen(arguments[1]), strlen(hex)};
    (void)redis_client_send(call->redis->client, 3, arguments, bytes, REDIS_SILENCE_MS, ignore,
                            NULL);
}

static bool part_send_link(struct part *part)
{
    struct call *call = part->call;
    const struct store_block *block = &call->job->blocks[part->index];
    const uint8_t *fingerprint = call->redis->store->hello.fingerprint;
    char name[REDIS_NAME_BYTES], hex[BLOCK_KEY_TEXT_BYTES];
    const char *arguments[] = {
        "SADD", redis_link_name(block->is_first ? NULL : &block->parent, fingerprint, name),
        block_key_text(&block->key, hex)};
    const size_t bytes[] = {4, strlen(name), strlen(hex)};
    part->stage = PART_LINK;
    if (block->is_first)
        call_name_model(call);
    return part_send(part, 3, arguments, bytes);
}

static bool part_send_set(struct part *part)
{
    struct call *call = part->call;
    const struct transfer_pool *pool = &call->redis->store->options.pool;
    const struct store_block *block = &call->job->blocks[part->index];
    uint8_t *value = call->redis->value;
    char name[REDIS_NAME_BYTES], expiry[16];
    redis_value_write(&block->key, block->is_first ? NULL : &block->parent,
                      pool->host + block->id * pool->block_bytes, pool->block_bytes, value);
    snprintf(expiry, sizeof(expiry), "%u", call->job->expiry_ms);
    const char *arguments[] = {
        "SET", redis_block_name(&block->key, name), (const char *)value, "NX", "PX", expiry};
    const size_t bytes[] = {3, strlen(name),  REDIS_VALUE_HEAD_BYTES + pool->block_bytes, 2,
                            2, strlen(expiry)};
    part->stage = PART_SET;
    call->bytes += pool->block_bytes;
    return part_send(part, call->job->expiry_ms > 0 ? 6 : 4, arguments, bytes);
}

static void call_land(struct call *call, uint32_t index, const struct redisReply *reply)
{
    struct redis_store *redis = call->redis;
    const struct transfer_pool *pool = &redis->store->options.pool;
    const struct block_key *key = &call->job->keys[index];
    if (reply->type != REDIS_REPLY_STRING) {
        call_absent(call, index);
        return;
    }
    status st =
        redis_value_land((const uint8_t *)reply->str, (size_t)reply->len, key,
                         pool->host + call->job->ids[index] * pool->block_bytes, pool->block_bytes);
    if (st == OK) {
        call->landed[index] = true;
        call->bytes += pool->block_bytes;
        return;
    }
    char name[REDIS_NAME_BYTES];
    const char *arguments[] = {"UNLINK", redis_block_name(key, name)};
    const size_t bytes[] = {6, strlen(name)};
    call_absent(call, index);
    if (st != ERR_NOT_FOUND) { /* an older version is no damage, and stands in a new one's way */
        log_warn("damaged block in the store", "name=%s reason=\"%s\"", name, error_text());
        call_fail(call, st, error_text());
        store_count_checksum_failure(redis->store);
    }
    (void)redis_client_send(redis->client, 2, arguments, bytes, REDIS_SILENCE_MS, ignore, NULL);
}

/* What an answer means for its part. True: the part goes on with another command. */
static bool part_take(struct part *part, const struct redisReply *reply)
{
    struct call *call = part->call;
    switch (part->stage) {
    case PART_LOOK:
        if (reply->type == REDIS_REPLY_INTEGER && reply->integer > 0)
            call->kept++;
        else if (call->job->mail.kind == STORE_JOB_ADD)
            return part_send_link(part);
        else
            call_absent(call, part->index);
        return false;
    case PART_LINK:
        return part_send_set(part);
    case PART_SET:
        call->kept++; /* Set now, or by somebody else in between: the same bytes. */
        return false;
    case PART_GET:
        call_land(call, part->index, reply);
        return false;
    }
    return false;
}

static void part_done(void *ctx, status st, const struct redisReply *reply)
{
    struct part *part = ctx;
    struct call *call = part->call;
    if (st != OK) {
        call_fail(call, st, error_text());
        call_absent(call, part->index);
    } else if (call->job != NULL && part_take(part, reply)) {
        return;
    }
    call->outstanding--;
    free(part);
    call_go_on(call);
}

static uint32_t call_window(const struct call *call)
{
    size_t block_bytes = call->redis->store->options.pool.block_bytes;
    size_t window = FLIGHT_COMMANDS_MAX;
    if (call->job->mail.kind != STORE_JOB_FIND && FLIGHT_BYTES_MAX / block_bytes < window)
        window = FLIGHT_BYTES_MAX / block_bytes;
    return window > 0 ? (uint32_t)window : 1;
}

/* Send what the window lets through. */
static void call_go_on(struct call *call)
{
    struct store_job *job = call->job;
    while (job != NULL && call->status == OK && call->next_index < job->count &&
           call->next_index <= call->first_absent && call->outstanding < call_window(call)) {
        struct part *part = malloc(sizeof(*part));
        if (part == NULL) {
            call_fail(call, ERR_NO_MEMORY, "no memory for a command to Redis");
            break;
        }
        *part = (struct part){.call = call, .index = call->next_index++};
        part->stage = job->mail.kind == STORE_JOB_GET ? PART_GET : PART_LOOK;
        if (part_send_name(part, part->stage == PART_GET ? "GET" : "EXISTS"))
            call->outstanding++;
        else
            free(part);
    }
    if (job != NULL && call->status != OK)
        call_absent(call, call->next_index);
    call_settle(call);
}

/* ---- the kind ---- */

static void redis_take(void *client, struct store_job *job)
{
    struct redis_store *redis = client;
    struct call *call = calloc(1, sizeof(*call) + job->count * sizeof(bool));
    if (call == NULL) {
        store_job_end(redis->store, job, ERR_NO_MEMORY, "no memory for a call to Redis", 0, 0);
        return;
    }
    call->redis = redis;
    call->job = job;
    call->landed = (bool *)(call + 1);
    call->first_absent = job->count;
    job->own = call;
    call_go_on(call);
}

/* What is under way finds no job any more, and so writes nothing. */
static void redis_give_up(void *client, struct store_job *job, status cause, const char *text)
{
    struct call *call = job->own;
    (void)client;
    call_fail(call, cause, text);
    call_absent(call, 0);
    call_end(call);
}

static void redis_on_up(void *ctx, bool up)
{
    struct redis_store *redis = ctx;
    store_set_up(redis->store, up);
}

static const struct redis_client_calls client_calls = {.on_up = redis_on_up};

static void redis_close(void *client)
{
    struct redis_store *redis = client;
    redis_client_close(redis->client);
    free(redis->value);
    free(redis);
}

static status redis_open(struct store *store, void **client_out)
{
    struct redis_url url;
    status st = redis_url_parse(store->address, store->options.password_file, &url);
    if (st == OK && (store->options.pool.host == NULL || store->options.pool.device != NULL))
        st = error_set(ERR_UNSUPPORTED, "a store in Redis needs a pool that the host can reach");
    if (st != OK)
        return st;
    struct redis_store *redis = calloc(1, sizeof(*redis));
    if (redis != NULL)
        redis->value = malloc(REDIS_VALUE_HEAD_BYTES + store->options.pool.block_bytes);
    if (redis == NULL || redis->value == NULL) {
        free(redis);
        return error_set(ERR_NO_MEMORY, "no memory for a store");
    }
    redis->store = store;
    st = redis_client_open(store->loop, &url, store->options.connect_ms, &client_calls, redis,
                           &redis->client);
    if (st != OK) {
        free(redis->value);
        free(redis);
        return st;
    }
    *client_out = redis;
    return OK;
}

const struct store_calls store_redis = {
    .open = redis_open,
    .close = redis_close,
    .take = redis_take,
    .give_up = redis_give_up,
};
