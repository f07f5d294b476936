#include "store/redis_links.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/loop.h"
#include "store/redis_client.h"
#include "store/redis_value.h"

#define WINDOW 64 /* commands under way */
#define DEADLINE_MS 10000
#define CONNECT_MS 3000
#define PAGE "1000"
#define KEYS_MAX (1u << 24)
#define MODELS_MAX 1024u
#define MODELS_NAME "baton:models"

enum pass { PASS_MODELS, PASS_ROOTS, PASS_CHILDREN, PASS_LOOK, PASS_DELETE, PASS_UNLINK, PASS_END };

struct redis_links {
    struct loop *loop;
    struct redis_client *client;
    struct redis_links_key *keys;
    size_t count, capacity;
    uint8_t models[MODELS_MAX * REDIS_MODEL_BYTES];
    uint32_t model_count;
    bool whole, of_model; /* keys are a tree or a model's, with their links */
    uint8_t model[REDIS_MODEL_BYTES];
    enum pass pass;
    size_t next; /* of this pass: items that a command was sent for */
    uint32_t outstanding;
    uint64_t deleted;
    status status; /* the first thing that went wrong */
    char text[ERROR_TEXT_BYTES];
};

/* One item's way through its commands. */
struct link_step {
    struct redis_links *links;
    size_t index;
};

static void links_fail(struct redis_links *links, status cause)
{
    if (links->status != OK)
        return;
    links->status = cause;
    snprintf(links->text, sizeof(links->text), "%s", error_text());
}

static status links_push(struct redis_links *links, const struct block_key *key)
{
    if (links->count == KEYS_MAX)
        return error_set(ERR_CORRUPT, "more than %u keys are linked, or links go in circles",
                         KEYS_MAX);
    if (links->count == links->capacity) {
        size_t capacity = links->capacity > 0 ? 2 * links->capacity : 1024;
        struct redis_links_key *keys = realloc(links->keys, capacity * sizeof(*keys));
        if (keys == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for %zu keys", capacity);
        links->keys = keys;
        links->capacity = capacity;
    }
    links->keys[links->count++] = (struct redis_links_key){.key = *key};
    return OK;
}

/* A member of a set of links; what is none is passed over. */
static bool member_read(const redisReply *member, uint8_t bytes[BLOCK_KEY_BYTES])
{
    if (member->type != REDIS_REPLY_STRING || member->len != 2 * BLOCK_KEY_BYTES)
        return false;
    for (uint32_t i = 0; i < BLOCK_KEY_BYTES; i++) {
        unsigned value = 0;
        for (uint32_t k = 0; k < 2; k++) {
            char c = member->str[2 * i + k];
            if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
                return false;
            value = value * 16 + (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        bytes[i] = (uint8_t)value;
    }
    return true;
}

/* ---- a pass: one command for each item, some of them at a time ---- */

static size_t pass_items(const struct redis_links *links)
{
    bool single = links->pass == PASS_MODELS || links->pass == PASS_ROOTS;
    if (links->pass == PASS_END)
        return 2;
    return single ? 1 : links->count; /* of children: grows as they are found */
}

static void step_done(void *ctx, status st, const struct redisReply *reply);

static status step_command(struct link_step *step, uint32_t count, const char *const *arguments)
{
    size_t bytes[REDIS_ARGUMENTS_MAX];
    for (uint32_t i = 0; i < count; i++)
        bytes[i] = strlen(arguments[i]);
    return redis_client_send(step->links->client, count, arguments, bytes, DEADLINE_MS, step_done,
                             step);
}

/* cursor: of a set that is read page by page. */
static status step_send(struct link_step *step, const char *cursor)
{
    const struct redis_links *links = step->links;
    char name[REDIS_NAME_BYTES], model[BLOCK_KEY_TEXT_BYTES];
    const struct block_key *key = NULL;
    struct block_key as_key;
    if (links->pass != PASS_MODELS && links->pass != PASS_ROOTS && links->pass != PASS_END) {
        bool backwards = links->pass == PASS_DELETE || links->pass == PASS_UNLINK;
        key = &links->keys[backwards ? links->count - 1 - step->index : step->index].key;
    }
    switch (links->pass) {
    case PASS_MODELS:
        return step_command(step, 5,
                            (const char *const[]){"SSCAN", MODELS_NAME, cursor, "COUNT", PAGE});
    case PASS_ROOTS:
    case PASS_CHILDREN:
        redis_link_name(key, links->model, name);
        return step_command(step, 5, (const char *const[]){"SSCAN", name, cursor, "COUNT", PAGE});
    case PASS_LOOK:
        return step_command(step, 2, (const char *const[]){"STRLEN", redis_block_name(key, name)});
    case PASS_DELETE:
        return step_command(step, 2, (const char *const[]){"UNLINK", redis_block_name(key, name)});
    case PASS_UNLINK:
        return step_command(
            step, 2, (const char *const[]){"UNLINK", redis_link_name(key, links->model, name)});
    case PASS_END: /* nothing of the model is left */
        memcpy(as_key.bytes, links->model, sizeof(as_key.bytes));
        block_key_text(&as_key, model);
        redis_link_name(NULL, links->model, name);
        return step->index == 0
                   ? step_command(step, 2, (const char *const[]){"UNLINK", name})
                   : step_command(step, 3, (const char *const[]){"SREM", MODELS_NAME, model});
    }
    return ERR_BAD_INPUT;
}

/* What a page of a set holds. True: another page was asked for. */
static bool step_take_page(struct link_step *step, const redisReply *reply)
{
    struct redis_links *links = step->links;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_ARRAY) {
        links_fail(links, error_set(ERR_CORRUPT, "Redis answers SSCAN with something else"));
        return false;
    }
    const redisReply *members = reply->element[1];
    for (size_t i = 0; i < members->elements && links->status == OK; i++) {
        struct block_key key;
        if (!member_read(members->element[i], key.bytes))
            continue;
        if (links->pass == PASS_MODELS && links->model_count < MODELS_MAX)
            memcpy(links->models + (size_t)REDIS_MODEL_BYTES * links->model_count++, key.bytes,
                   REDIS_MODEL_BYTES);
        else if (links->pass != PASS_MODELS && links_push(links, &key) != OK)
            links_fail(links, ERR_CORRUPT);
    }
    if (links->status != OK || strcmp(reply->element[0]->str, "0") == 0)
        return false;
    status st = step_send(step, reply->element[0]->str);
    if (st != OK)
        links_fail(links, st);
    return st == OK;
}

static bool step_take(struct link_step *step, const redisReply *reply)
{
    struct redis_links *links = step->links;
    switch (links->pass) {
    case PASS_MODELS:
    case PASS_ROOTS:
    case PASS_CHILDREN:
        return step_take_page(step, reply);
    case PASS_LOOK:
        if (reply->type == REDIS_REPLY_INTEGER && reply->integer > 0)
            links->keys[step->index].bytes =
                reply->integer < UINT32_MAX ? (uint32_t)reply->integer : UINT32_MAX;
        return false;
    case PASS_DELETE:
        links->deleted += reply->type == REDIS_REPLY_INTEGER && reply->integer > 0;
        return false;
    default:
        return false;
    }
}

static void pass_go_on(struct redis_links *links)
{
    while (links->status == OK && links->next < pass_items(links) && links->outstanding < WINDOW) {
        struct link_step *step = malloc(sizeof(*step));
        if (step == NULL) {
            links_fail(links, error_set(ERR_NO_MEMORY, "no memory for a command to Redis"));
            break;
        }
        *step = (struct link_step){.links = links, .index = links->next++};
        status st = step_send(step, "0");
        if (st != OK) {
            links_fail(links, st);
            free(step);
            break;
        }
        links->outstanding++;
    }
}

static void step_done(void *ctx, status st, const struct redisReply *reply)
{
    struct link_step *step = ctx;
    struct redis_links *links = step->links;
    if (st != OK)
        links_fail(links, st);
    else if (links->status == OK && step_take(step, reply))
        return;
    links->outstanding--;
    free(step);
    pass_go_on(links);
    if (links->outstanding == 0)
        loop_stop(links->loop);
}

static status pass_run(struct redis_links *links, enum pass pass)
{
    links->pass = pass;
    links->next = 0;
    links->status = OK;
    if (pass_items(links) == 0)
        return OK;
    pass_go_on(links);
    if (links->outstanding > 0)
        loop_run(links->loop);
    return links->status == OK ? OK : error_set(links->status, "%s", links->text);
}

/* ---- the calls ---- */

static void links_on_up(void *ctx, bool up)
{
    (void)ctx;
    (void)up;
}

status redis_links_open(const char *address, const char *password_file,
                        struct redis_links **links_out)
{
    static const struct redis_client_calls calls = {.on_up = links_on_up};
    struct redis_url url;
    status st = redis_url_parse(address, password_file, &url);
    if (st != OK)
        return st;
    struct redis_links *links = calloc(1, sizeof(*links));
    if (links == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a connection to Redis");
    st = loop_open(&links->loop);
    if (st == OK)
        st = redis_client_open(links->loop, &url, CONNECT_MS, &calls, links, &links->client);
    if (st != OK) {
        redis_links_close(links);
        return st;
    }
    *links_out = links;
    return OK;
}

void redis_links_close(struct redis_links *links)
{
    if (links == NULL)
        return;
    if (links->client != NULL)
        redis_client_close(links->client);
    if (links->loop != NULL)
        loop_close(links->loop);
    free(links->keys);
    free(links);
}

status redis_links_models(struct redis_links *links, const uint8_t **models_out,
                          uint32_t *count_out)
{
    links->model_count = 0;
    status st = pass_run(links, PASS_MODELS);
    *models_out = links->models;
    *count_out = links->model_count;
    return st;
}

status redis_links_take_keys(struct redis_links *links, const struct block_key *keys, size_t count)
{
    status st = OK;
    links->count = 0;
    links->whole = links->of_model = false;
    for (size_t i = 0; st == OK && i < count; i++)
        st = links_push(links, &keys[i]);
    return st;
}

status redis_links_take_tree(struct redis_links *links, const struct block_key *key)
{
    status st = redis_links_take_keys(links, key, 1);
    links->whole = true;
    return st == OK ? pass_run(links, PASS_CHILDREN) : st;
}

status redis_links_take_model(struct redis_links *links, const uint8_t *model)
{
    links->count = 0;
    links->whole = links->of_model = true;
    memcpy(links->model, model, sizeof(links->model));
    status st = pass_run(links, PASS_ROOTS);
    return st == OK ? pass_run(links, PASS_CHILDREN) : st;
}

status redis_links_look(struct redis_links *links, const struct redis_links_key **keys_out,
                        size_t *count_out)
{
    for (size_t i = 0; i < links->count; i++)
        links->keys[i].bytes = 0;
    status st = pass_run(links, PASS_LOOK);
    *keys_out = links->keys;
    *count_out = links->count;
    return st;
}

status redis_links_delete(struct redis_links *links, uint64_t *deleted_out)
{
    links->deleted = 0;
    status st = pass_run(links, PASS_DELETE);
    if (st == OK && links->whole)
        st = pass_run(links, PASS_UNLINK);
    if (st == OK && links->of_model)
        st = pass_run(links, PASS_END);
    *deleted_out = links->deleted;
    return st;
}
