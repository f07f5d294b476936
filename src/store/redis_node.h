/* store/redis_node.h - one connection to one Redis process. Internal to store/redis*.
 *
 *     queue    commands for this node            handed to hiredis while little of it is unsent
 *     sent     with hiredis; answered in order
 *
 * Threads: the loop's. Memory: a command belongs to the list it is in.
 */
#ifndef STORE_REDIS_NODE_H
#define STORE_REDIS_NODE_H

#include <hiredis/async.h>

#include "base/loop.h"
#include "store/redis_client.h"

struct command {
    struct command *next;                    /* in its list */
    struct command *all_next, **all_pointer; /* of those that are not done */
    struct redis_client *client;
    struct redis_node *node;        /* that it was handed to hiredis for; NULL: none */
    struct redis_node *answered_by; /* inside redis_command_answered */
    char *bytes;                    /* as it goes out; redisFreeCommand */
    size_t byte_count;
    uint32_t slot;
    uint64_t deadline_ns, sent_ns;
    bool asking;  /* goes out behind ASKING, once */
    bool expired; /* done was called; only hiredis still holds it */
    redis_done done;
    void *ctx;
};

struct command_list {
    struct command *head, **tail;
};

void command_list_open(struct command_list *list);
void command_list_push(struct command_list *list, struct command *command);
struct command *command_list_pop(struct command_list *list);

enum redis_node_state { NODE_DOWN, NODE_CONNECTING, NODE_READY };

struct redis_node {
    struct redis_client *client;
    struct address address;
    enum redis_node_state state;
    bool wanted; /* in the map, or a seed */
    redisAsyncContext *hiredis;
    struct loop_watch *watch;
    int events;
    uint64_t connect_deadline_ns, retry_ns;
    struct command_list queue;
    uint32_t sent_count;
    uint64_t answered_ns; /* when something was last answered, or sent to an idle node */
};

/* What a node asks of its client. */
struct loop *redis_client_loop(const struct redis_client *client);
const struct redis_url *redis_client_url(const struct redis_client *client);
uint32_t redis_client_connect_ms(const struct redis_client *client);

/* What the client is told. */
void redis_node_is_ready(struct redis_node *node);
/* The connection is gone; its commands have come back by redis_command_answered(NULL) and are in
 * queue no more. refused: Redis said so, in error_text(). */
void redis_node_is_down(struct redis_node *node, bool refused);
/* reply NULL: the connection broke. */
void redis_command_answered(struct command *command, redisReply *reply);

void redis_node_open(struct redis_node *node, struct redis_client *client,
                     const struct address *address);
/* Begin to connect, authenticate and select. */
void redis_node_connect(struct redis_node *node);
/* Close it; redis_node_is_down follows. */
void redis_node_drop(struct redis_node *node);
void redis_node_send(struct redis_node *node, struct command *command);
/* Connecting for too long, or silent with commands unanswered: drop it. */
void redis_node_check(struct redis_node *node, uint64_t now_ns);

#endif
