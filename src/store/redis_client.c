#include "store/redis_client.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "store/redis_node.h"
#include "store/redis_slots.h"

#define TICK_MS 25
#define MAP_INTERVAL_MS 100
#define NO_NODE UINT16_MAX

enum redis_kind { REDIS_UNKNOWN, REDIS_SINGLE, REDIS_CLUSTER };

struct redis_client {
    struct loop *loop;
    struct redis_url url;
    uint32_t connect_ms;
    const struct redis_client_calls *calls;
    void *ctx;
    struct loop_timer *tick;
    enum redis_kind kind;
    struct redis_node *nodes[REDIS_NODES_MAX];
    uint32_t node_count;
    uint16_t owners[REDIS_SLOTS]; /* index of a node, or NO_NODE */
    bool map_due, map_asked;
    uint64_t map_ns; /* when it was last asked for */
    struct command *all;
    struct command_list delayed; /* to be sent again at the next tick */
    bool up, closing;
    char told[ERROR_TEXT_BYTES]; /* what was logged last */
};

struct loop *redis_client_loop(const struct redis_client *client)
{
    return client->loop;
}

const struct redis_url *redis_client_url(const struct redis_client *client)
{
    return &client->url;
}

uint32_t redis_client_connect_ms(const struct redis_client *client)
{
    return client->connect_ms;
}

bool redis_client_is_up(const struct redis_client *client)
{
    return client->up;
}

/* Once for each reason: a Redis that stays away is asked again four times a second. */
static void client_tell(struct redis_client *client, const char *text)
{
    if (client->closing || strcmp(client->told, text) == 0)
        return;
    snprintf(client->told, sizeof(client->told), "%s", text);
    log_warn("store", "reason=\"%s\"", text);
}

static void client_look(struct redis_client *client)
{
    bool up = false;
    for (uint32_t i = 0; i < client->node_count; i++)
        up = up || (client->nodes[i]->state == NODE_READY && client->kind != REDIS_UNKNOWN &&
                    client->nodes[i]->wanted);
    if (up == client->up || client->closing)
        return;
    client->up = up;
    if (up)
        client->told[0] = '\0';
    client->calls->on_up(client->ctx, up);
}

/* ---- nodes and slots ---- */

static struct redis_node *client_node(struct redis_client *client, const struct address *address)
{
    for (uint32_t i = 0; i < client->node_count; i++) {
        if (strcmp(client->nodes[i]->address.text, address->text) == 0)
            return client->nodes[i];
    }
    if (client->node_count == REDIS_NODES_MAX)
        return NULL;
    struct redis_node *node = malloc(sizeof(*node));
    if (node == NULL)
        return NULL;
    redis_node_open(node, client, address);
    client->nodes[client->node_count++] = node;
    return node;
}

static uint16_t client_index(const struct redis_client *client, const struct redis_node *node)
{
    for (uint32_t i = 0; i < client->node_count; i++) {
        if (client->nodes[i] == node)
            return (uint16_t)i;
    }
    return NO_NODE;
}

/* "" for the host: that of the node which said so. */
static struct redis_node *client_node_named(struct redis_client *client,
                                            const struct redis_node *from, const char *host,
                                            size_t host_bytes, long port)
{
    char text[ADDRESS_TEXT_BYTES];
    struct address address;
    char *last = NULL;
    if (port <= 0 || port > 65535 || host_bytes > 64)
        return NULL;
    if (host_bytes == 0 || host[0] == '?') {
        snprintf(text, sizeof(text), "%s", from->address.text);
        last = strrchr(text, ':');
        if (last == NULL)
            return NULL;
        snprintf(last, sizeof(text) - (size_t)(last - text), ":%ld", port);
    } else {
        bool v6 = memchr(host, ':', host_bytes) != NULL;
        snprintf(text, sizeof(text), v6 ? "[%.*s]:%ld" : "%.*s:%ld", (int)host_bytes, host, port);
    }
    if (address_parse_numeric(text, &address) != OK || address_write_numeric(&address) != OK)
        return NULL;
    return client_node(client, &address);
}

static void client_own_all(struct redis_client *client, uint16_t index)
{
    for (uint32_t i = 0; i < REDIS_SLOTS; i++)
        client->owners[i] = index;
}

/* One line of the map: first slot, last slot, then the primary and its replicas. */
static bool client_read_range(struct redis_client *client, const struct redis_node *from,
                              const redisReply *range)
{
    if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 ||
        range->element[0]->type != REDIS_REPLY_INTEGER ||
        range->element[1]->type != REDIS_REPLY_INTEGER ||
        range->element[2]->type != REDIS_REPLY_ARRAY || range->element[2]->elements < 2)
        return false;
    const redisReply *primary = range->element[2];
    long long first = range->element[0]->integer, last = range->element[1]->integer;
    const redisReply *host = primary->element[0], *port = primary->element[1];
    bool named = host->type == REDIS_REPLY_STRING;
    if (first < 0 || last >= REDIS_SLOTS || first > last || port->type != REDIS_REPLY_INTEGER ||
        (!named && host->type != REDIS_REPLY_NIL))
        return false;
    struct redis_node *node = client_node_named(client, from, named ? host->str : "",
                                                named ? (size_t)host->len : 0, port->integer);
    if (node == NULL)
        return false;
    node->wanted = true;
    for (long long slot = first; slot <= last; slot++)
        client->owners[slot] = client_index(client, node);
    return true;
}

static void client_retry(struct redis_client *client);

static void client_take_map(struct redis_client *client, struct redis_node *from,
                            const redisReply *map)
{
    client->kind = REDIS_CLUSTER;
    client_own_all(client, NO_NODE);
    for (uint32_t i = 0; i < client->node_count; i++)
        client->nodes[i]->wanted = i < client->url.seed_count;
    for (size_t i = 0; i < map->elements; i++) {
        if (!client_read_range(client, from, map->element[i]))
            client_tell(client, "the cluster's map has a line that cannot be read; host names "
                                "must be numbers (cluster-announce-ip)");
    }
    /* Nodes that left the cluster; the seeds stay, to be asked. */
    for (uint32_t i = 0; i < client->node_count; i++) {
        struct redis_node *node = client->nodes[i];
        if (!node->wanted && node->state != NODE_DOWN)
            redis_node_drop(node);
        else if (node->wanted && node->state == NODE_DOWN && clock_ns() > node->retry_ns)
            redis_node_connect(node);
    }
}

static void client_on_map(redisAsyncContext *hiredis, void *answer, void *ctx)
{
    struct redis_client *client = ctx;
    const redisReply *reply = answer;
    struct redis_node *node = hiredis->data;
    client->map_asked = false;
    if (reply == NULL || client->closing) {
        client->map_due = true;
        return;
    }
    if (reply->type == REDIS_REPLY_ARRAY && reply->elements > 0) {
        client_take_map(client, node, reply);
    } else if (reply->type == REDIS_REPLY_ERROR && !client->url.must_be_cluster &&
               (strstr(reply->str, "cluster support disabled") != NULL ||
                strstr(reply->str, "unknown command") != NULL ||
                strncmp(reply->str, "NOPERM", 6) == 0)) {
        client->kind = REDIS_SINGLE;
        node->wanted = true;
        client_own_all(client, client_index(client, node));
    } else {
        char text[ERROR_TEXT_BYTES];
        snprintf(text, sizeof(text), "Redis %s is no cluster that serves: %s", node->address.text,
                 reply->type == REDIS_REPLY_ERROR ? reply->str : "no slots are assigned");
        client_tell(client, text);
        client->map_due = true;
    }
    client_look(client);
    client_retry(client);
}

/* Ask any node that answers, another one each time. */
static void client_ask_map(struct redis_client *client, uint64_t now_ns)
{
    if (client->map_asked || now_ns < client->map_ns + MAP_INTERVAL_MS * 1000000u)
        return;
    for (uint32_t i = 0; i < client->node_count; i++) {
        struct redis_node *node =
            client->nodes[(i + now_ns / (MAP_INTERVAL_MS * 1000000u)) % client->node_count];
        if (node->state != NODE_READY)
            continue;
        client->map_ns = now_ns;
        client->map_due = false;
        client->map_asked = true;
        if (redisAsyncCommand(node->hiredis, client_on_map, client, "CLUSTER SLOTS") != REDIS_OK) {
            client->map_asked = false;
            client->map_due = true;
        }
        return;
    }
}

/* ---- commands ---- */

static void command_close(struct command *command)
{
    redisFreeCommand(command->bytes);
    free(command);
}

/* Tell, and forget but for what hiredis or a list still holds. */
static void command_tell(struct command *command, status st, const redisReply *reply)
{
    *command->all_pointer = command->all_next;
    if (command->all_next != NULL)
        command->all_next->all_pointer = command->all_pointer;
    command->expired = true;
    command->done(command->ctx, st, reply);
}

static void client_dispatch(struct redis_client *client, struct command *command)
{
    uint16_t owner =
        client->kind == REDIS_UNKNOWN ? (uint16_t)NO_NODE : client->owners[command->slot];
    if (owner != NO_NODE && client->nodes[owner]->state != NODE_DOWN && !client->closing) {
        redis_node_send(client->nodes[owner], command);
        return;
    }
    client->map_due = true;
    command_list_push(&client->delayed, command);
}

static void client_retry(struct redis_client *client)
{
    struct command_list delayed = client->delayed;
    if (delayed.head == NULL)
        return;
    command_list_open(&client->delayed);
    for (struct command *c = command_list_pop(&delayed); c != NULL;
         c = command_list_pop(&delayed)) {
        if (c->expired)
            command_close(c);
        else
            client_dispatch(client, c);
    }
}

/* "MOVED 3999 127.0.0.1:6381": the node, or NULL. */
static struct redis_node *client_redirected(struct redis_client *client,
                                            const struct redis_node *from, const char *text)
{
    const char *at = strchr(text, ' ');
    at = at != NULL ? strchr(at + 1, ' ') : NULL;
    const char *colon = at != NULL ? strrchr(at, ':') : NULL;
    if (colon == NULL)
        return NULL;
    return client_node_named(client, from, at + 1, (size_t)(colon - at - 1),
                             strtol(colon + 1, NULL, 10));
}

static void client_redirect(struct redis_client *client, struct command *command,
                            struct redis_node *from, const char *text)
{
    bool asks = strncmp(text, "ASK ", 4) == 0;
    struct redis_node *node = client_redirected(client, from, text);
    if (!asks)
        client->map_due = true;
    if (node == NULL) {
        command_list_push(&client->delayed, command);
        return;
    }
    node->wanted = true;
    if (!asks)
        client->owners[command->slot] = client_index(client, node);
    if (node->state == NODE_DOWN && clock_ns() > node->retry_ns)
        redis_node_connect(node);
    command->asking = asks;
    if (node->state == NODE_DOWN)
        command_list_push(&client->delayed, command);
    else
        redis_node_send(node, command);
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

void redis_command_answered(struct command *command, redisReply *reply)
{
    struct redis_client *client = command->client;
    struct redis_node *node = command->answered_by;
    command->answered_by = NULL;
    if (command->expired) {
        command_close(command);
        return;
    }
    if (reply == NULL) {
        client->map_due = true;
        command_list_push(&client->delayed, command);
        return;
    }
    const char *text = reply->type == REDIS_REPLY_ERROR ? reply->str : "";
    if (starts_with(text, "MOVED ") || starts_with(text, "ASK ")) {
        client_redirect(client, command, node, text);
    } else if (starts_with(text, "TRYAGAIN") || starts_with(text, "CLUSTERDOWN") ||
               starts_with(text, "LOADING") || starts_with(text, "READONLY") ||
               starts_with(text, "MASTERDOWN")) {
        client->map_due = client->map_due || client->kind == REDIS_CLUSTER;
        command_list_push(&client->delayed, command);
    } else {
        status st = OK;
        if (starts_with(text, "OOM "))
            st = error_set(ERR_FULL,
                           "Redis %s has no memory left: %s; give it more, or a policy "
                           "that evicts (maxmemory-policy allkeys-lru)",
                           node->address.text, text);
        else if (reply->type == REDIS_REPLY_ERROR)
            st = error_set(ERR_REFUSED, "Redis %s: %s", node->address.text, text);
        if (st != OK)
            client_tell(client, error_text());
        command_tell(command, st, st == OK ? reply : NULL);
        command_close(command);
    }
}

void redis_node_is_ready(struct redis_node *node)
{
    struct redis_client *client = node->client;
    log_info("store reached", "redis=%s", node->address.text);
    client->map_due = client->map_due || client->kind == REDIS_UNKNOWN;
    if (client->map_due)
        client_ask_map(client, clock_ns());
    client_look(client);
}

void redis_node_is_down(struct redis_node *node, bool refused)
{
    struct redis_client *client = node->client;
    client_tell(client, error_text());
    if (refused) /* Nobody mends a password in a quarter of a second. */
        node->retry_ns = clock_ns() + 2000000000u;
    if (client->kind == REDIS_SINGLE)
        client->kind = REDIS_UNKNOWN;
    client->map_due = true;
    client_look(client);
}

static void client_on_tick(void *ctx)
{
    struct redis_client *client = ctx;
    uint64_t now = clock_ns();
    for (struct command *c = client->all, *next; c != NULL; c = next) {
        next = c->all_next;
        if (now > c->deadline_ns) {
            error_set(ERR_TIMEOUT, "Redis did not answer in time%s%s",
                      client->told[0] != '\0' ? "; last: " : "", client->told);
            command_tell(c, ERR_TIMEOUT, NULL);
        }
    }
    for (uint32_t i = 0; i < client->node_count; i++)
        redis_node_check(client->nodes[i], now);
    if (client->map_due)
        client_ask_map(client, now);
    client_retry(client);
    loop_timer_start(client->tick, TICK_MS);
}

status redis_client_send(struct redis_client *client, uint32_t argument_count,
                         const char *const *arguments, const size_t *bytes, uint32_t deadline_ms,
                         redis_done done, void *ctx)
{
    struct command *command = calloc(1, sizeof(*command));
    const char *pointers[REDIS_ARGUMENTS_MAX];
    if (command == NULL || argument_count < 2 || argument_count > REDIS_ARGUMENTS_MAX) {
        free(command);
        return error_set(ERR_NO_MEMORY, "no memory for a command to Redis");
    }
    memcpy(pointers, arguments, argument_count * sizeof(*pointers));
    int made = redisFormatCommandArgv(&command->bytes, (int)argument_count, (const char **)pointers,
                                      bytes);
    if (made < 0) {
        free(command);
        return error_set(ERR_NO_MEMORY, "no memory for a command to Redis");
    }
    command->byte_count = (size_t)made;
    command->client = client;
    command->slot = redis_slot(arguments[1], bytes[1]);
    command->deadline_ns = clock_ns() + deadline_ms * 1000000ull;
    command->done = done;
    command->ctx = ctx;
    command->all_next = client->all;
    command->all_pointer = &client->all;
    if (client->all != NULL)
        client->all->all_pointer = &command->all_next;
    client->all = command;
    client_dispatch(client, command);
    return OK;
}

status redis_client_open(struct loop *loop, const struct redis_url *url, uint32_t connect_ms,
                         const struct redis_client_calls *calls, void *ctx,
                         struct redis_client **client_out)
{
    struct redis_client *client = calloc(1, sizeof(*client));
    if (client == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a Redis client");
    client->loop = loop;
    client->url = *url;
    client->connect_ms = connect_ms;
    client->calls = calls;
    client->ctx = ctx;
    command_list_open(&client->delayed);
    client_own_all(client, NO_NODE);
    status st = loop_timer_open(loop, client_on_tick, client, &client->tick);
    for (uint32_t i = 0; st == OK && i < url->seed_count; i++) {
        struct redis_node *node = client_node(client, &url->seeds[i]);
        if (node == NULL)
            st = error_set(ERR_NO_MEMORY, "no memory for a Redis client");
        else
            node->wanted = true;
    }
    if (st != OK) {
        redis_client_close(client);
        return st;
    }
    loop_timer_start(client->tick, 0);
    *client_out = client;
    return OK;
}

void redis_client_close(struct redis_client *client)
{
    if (client == NULL)
        return;
    client->closing = true;
    while (client->all != NULL) {
        error_set(ERR_CANCELLED, "the store is closed");
        command_tell(client->all, ERR_CANCELLED, NULL);
    }
    for (uint32_t i = 0; i < client->node_count; i++) {
        struct redis_node *node = client->nodes[i];
        redis_node_drop(node);
        for (struct command *c = command_list_pop(&node->queue); c != NULL;
             c = command_list_pop(&node->queue))
            command_close(c);
    }
    client_retry(client);
    for (uint32_t i = 0; i < client->node_count; i++)
        free(client->nodes[i]);
    loop_timer_close(client->tick);
    free(client);
}
