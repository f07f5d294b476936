#include "store/redis_node.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <hiredis/sds.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define UNSENT_BYTES_MAX (4u << 20) /* hiredis moves all of it at each write */
#define SENT_COMMANDS_MAX 128
#define RETRY_MS 250
#define READS_A_TURN 64 /* of 16 KiB, before the loop looks around again */

void command_list_open(struct command_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

void command_list_push(struct command_list *list, struct command *command)
{
    command->next = NULL;
    *list->tail = command;
    list->tail = &command->next;
}

struct command *command_list_pop(struct command_list *list)
{
    struct command *command = list->head;
    if (command == NULL)
        return NULL;
    list->head = command->next;
    if (list->head == NULL)
        list->tail = &list->head;
    command->next = NULL;
    return command;
}

/* ---- hiredis on our loop ---- */

static void node_watch(struct redis_node *node, int events)
{
    node->events = events;
    if (node->watch != NULL)
        loop_watch_set(node->watch, events);
}

static void node_add_read(void *ctx)
{
    struct redis_node *node = ctx;
    node_watch(node, node->events | LOOP_READ);
}

static void node_del_read(void *ctx)
{
    struct redis_node *node = ctx;
    node_watch(node, node->events & ~LOOP_READ);
}

static void node_add_write(void *ctx)
{
    struct redis_node *node = ctx;
    node_watch(node, node->events | LOOP_WRITE);
}

static void node_del_write(void *ctx)
{
    struct redis_node *node = ctx;
    node_watch(node, node->events & ~LOOP_WRITE);
}

static void node_cleanup(void *ctx)
{
    struct redis_node *node = ctx;
    if (node->watch != NULL)
        loop_watch_close(node->watch);
    node->watch = NULL;
    node->events = 0;
}

static void node_answered(redisAsyncContext *hiredis, void *reply, void *ctx)
{
    struct command *command = ctx;
    struct redis_node *node = command->node;
    (void)hiredis;
    node->sent_count--;
    node->answered_ns = clock_ns();
    command->node = NULL;
    command->answered_by = node;
    redis_command_answered(command, reply);
}

static void node_ignored(redisAsyncContext *hiredis, void *reply, void *ctx)
{
    (void)hiredis;
    (void)reply;
    (void)ctx; /* ASKING says OK, and if it does not, the command after it says why */
}

/* Hand over what waits, as long as little is unsent. */
static void node_feed(struct redis_node *node)
{
    while (node->state == NODE_READY && node->queue.head != NULL &&
           node->sent_count < SENT_COMMANDS_MAX &&
           sdslen(node->hiredis->c.obuf) < UNSENT_BYTES_MAX) {
        struct command *command = command_list_pop(&node->queue);
        if (command->expired) {
            redis_command_answered(command, NULL);
            continue;
        }
        if (command->asking)
            redisAsyncCommand(node->hiredis, node_ignored, NULL, "ASKING");
        command->asking = false;
        command->node = node;
        command->sent_ns = clock_ns();
        if (node->sent_count++ == 0)
            node->answered_ns = command->sent_ns;
        if (redisAsyncFormattedCommand(node->hiredis, node_answered, command, command->bytes,
                                       command->byte_count) != REDIS_OK) {
            node->sent_count--;
            command->node = NULL;
            redis_command_answered(command, NULL);
        }
    }
}

static void node_on_events(void *ctx, int events)
{
    struct redis_node *node = ctx;
    redisAsyncContext *hiredis = node->hiredis;
    /* A handler may end the connection: then node->hiredis is another one, or none. */
    if ((events & LOOP_WRITE) != 0)
        redisAsyncHandleWrite(hiredis);
    for (int i = 0; i < READS_A_TURN && (events & LOOP_READ) != 0 && node->hiredis == hiredis;
         i++) {
        char peek;
        redisAsyncHandleRead(hiredis);
        if (node->hiredis == hiredis && recv(hiredis->c.fd, &peek, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
            break;
    }
    if (node->hiredis == hiredis)
        node_feed(node);
}

/* ---- connecting ---- */

static void node_down(struct redis_node *node, bool refused)
{
    node->hiredis = NULL;
    node->state = NODE_DOWN;
    node->retry_ns = clock_ns() + RETRY_MS * 1000000u;
    struct command_list queue = node->queue;
    if (queue.head == NULL)
        queue.tail = &queue.head;
    command_list_open(&node->queue);
    for (struct command *c = command_list_pop(&queue); c != NULL; c = command_list_pop(&queue))
        redis_command_answered(c, NULL);
    redis_node_is_down(node, refused);
}

static void node_on_disconnect(const redisAsyncContext *hiredis, int code)
{
    struct redis_node *node = hiredis->data;
    if (node->hiredis != hiredis)
        return;
    error_set(ERR_CLOSED, "Redis %s: %s", node->address.text,
              code == REDIS_OK ? "closed" : hiredis->errstr);
    node_down(node, false);
}

static void node_on_connect(const redisAsyncContext *hiredis, int code)
{
    struct redis_node *node = hiredis->data;
    if (code == REDIS_OK)
        return;
    /* hiredis frees the context after this call, and calls nothing else. */
    error_set(ERR_CLOSED, "Redis %s: %s", node->address.text, hiredis->errstr);
    node_down(node, false);
}

/* The first commands: password, database, and whether it answers at all. */
static void node_greeted(redisAsyncContext *hiredis, void *answer, void *ctx)
{
    struct redis_node *node = ctx;
    const redisReply *reply = answer;
    if (reply == NULL || node->hiredis != hiredis || node->state != NODE_CONNECTING)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        /* LOADING goes by itself; the others are somebody's mistake, and are named. */
        error_set(ERR_REFUSED, "Redis %s: %s", node->address.text, reply->str);
        node->hiredis = NULL;
        redisAsyncFree(hiredis); /* as soon as this call returns */
        node_down(node, strncmp(reply->str, "LOADING", 7) != 0);
        return;
    }
    if (strcmp(reply->str != NULL ? reply->str : "", "PONG") != 0)
        return; /* of AUTH or SELECT */
    node->state = NODE_READY;
    redis_node_is_ready(node);
    if (node->hiredis == hiredis)
        node_feed(node);
}

static void node_greet(struct redis_node *node, const struct redis_url *url)
{
    redisAsyncContext *hiredis = node->hiredis;
    if (url->user[0] != '\0')
        redisAsyncCommand(hiredis, node_greeted, node, "AUTH %s %s", url->user, url->password);
    else if (url->password[0] != '\0')
        redisAsyncCommand(hiredis, node_greeted, node, "AUTH %s", url->password);
    if (url->database != 0)
        redisAsyncCommand(hiredis, node_greeted, node, "SELECT %u", url->database);
    redisAsyncCommand(hiredis, node_greeted, node, "PING");
}

static redisAsyncContext *node_dial(const struct address *address)
{
    char host[INET6_ADDRSTRLEN] = "";
    const struct sockaddr_storage *at = &address->socket_address;
    const void *number = at->ss_family == AF_INET6
                             ? (const void *)&((const struct sockaddr_in6 *)at)->sin6_addr
                             : (const void *)&((const struct sockaddr_in *)at)->sin_addr;
    if (inet_ntop(at->ss_family, number, host, sizeof(host)) == NULL)
        return NULL;
    return redisAsyncConnect(host, (int)address_port(address));
}

void redis_node_open(struct redis_node *node, struct redis_client *client,
                     const struct address *address)
{
    *node = (struct redis_node){.client = client, .address = *address};
    command_list_open(&node->queue);
}

void redis_node_connect(struct redis_node *node)
{
    redisAsyncContext *hiredis = node_dial(&node->address);
    int yes = 1;
    node->retry_ns = clock_ns() + RETRY_MS * 1000000u;
    if (hiredis == NULL || hiredis->err != 0) {
        error_set(ERR_CLOSED, "Redis %s: %s", node->address.text,
                  hiredis != NULL ? hiredis->errstr : "no memory");
        if (hiredis != NULL)
            redisAsyncFree(hiredis);
        node_down(node, false);
        return;
    }
    setsockopt(hiredis->c.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    node->hiredis = hiredis;
    node->state = NODE_CONNECTING;
    node->events = 0;
    hiredis->data = node;
    hiredis->ev.data = node;
    if (loop_watch_open(redis_client_loop(node->client), hiredis->c.fd, 0, node_on_events, node,
                        &node->watch) != OK) {
        node->hiredis = NULL;
        redisAsyncFree(hiredis);
        node_down(node, false);
        return;
    }
    hiredis->ev.addRead = node_add_read;
    hiredis->ev.delRead = node_del_read;
    hiredis->ev.addWrite = node_add_write;
    hiredis->ev.delWrite = node_del_write;
    hiredis->ev.cleanup = node_cleanup;
    redisAsyncSetDisconnectCallback(hiredis, node_on_disconnect);
    redisAsyncSetConnectCallback(hiredis, node_on_connect);
    node->connect_deadline_ns =
        clock_ns() + (uint64_t)redis_client_connect_ms(node->client) * 1000000u;
    node_greet(node, redis_client_url(node->client));
}

void redis_node_drop(struct redis_node *node)
{
    redisAsyncContext *hiredis = node->hiredis;
    if (hiredis == NULL)
        return;
    node->hiredis = NULL; /* so that its own farewell is not taken for news */
    redisAsyncFree(hiredis);
    node_down(node, false);
}

void redis_node_send(struct redis_node *node, struct command *command)
{
    command_list_push(&node->queue, command);
    node_feed(node);
}

void redis_node_check(struct redis_node *node, uint64_t now_ns)
{
    if (node->state == NODE_CONNECTING && now_ns > node->connect_deadline_ns) {
        error_set(ERR_TIMEOUT, "Redis %s does not answer", node->address.text);
        redis_node_drop(node);
    } else if (node->state == NODE_READY && node->sent_count > 0 &&
               now_ns > node->answered_ns + REDIS_SILENCE_MS * 1000000ull) {
        error_set(ERR_TIMEOUT, "Redis %s has answered nothing for %d ms", node->address.text,
                  REDIS_SILENCE_MS);
        redis_node_drop(node);
    } else if (node->state == NODE_DOWN && node->wanted && now_ns > node->retry_ns) {
        redis_node_connect(node);
    }
}
