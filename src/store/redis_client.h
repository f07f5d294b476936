/* store/redis_client.h - commands to a Redis or a Redis Cluster, over a loop, with deadlines.
 *
 *     redis_client_send --> node of the key's slot --> reply --> done(ctx, status, reply)
 *                               |  MOVED: ask for the map again, and the node it names
 *                               |  ASK: once at the node it names, behind ASKING
 *                               |  TRYAGAIN, CLUSTERDOWN, LOADING, READONLY, a lost connection:
 *                               |  again a little later, until the deadline
 *
 * Whether it is a cluster is found out from the first node that answers CLUSTER SLOTS. Nodes come
 * and go with the map; one whose oldest command is not answered for REDIS_SILENCE_MS is taken for
 * dead, its connection is closed and its commands go elsewhere. What a node is sent is bounded;
 * the rest waits here. Commands of one slot may overtake each other when they are tried again.
 *
 * Threads:  the loop's.
 * Memory:   a command's arguments are copied when it is sent; a reply is valid inside done.
 * Source:   hiredis 0.14 (which knows nothing of clusters); the Redis Cluster specification.
 */
#ifndef STORE_REDIS_CLIENT_H
#define STORE_REDIS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/status.h"
#include "store/redis_url.h"

#define REDIS_SILENCE_MS 3000
#define REDIS_NODES_MAX 256
#define REDIS_ARGUMENTS_MAX 8

struct redis_client;
struct redisReply;

struct redis_client_calls {
    /* Commands can be answered (true), or not any more. */
    void (*on_up)(void *ctx, bool up);
};

/* status OK: reply is what Redis said, which is no error. ERR_REFUSED (an error reply, in
 * error_text()), ERR_FULL (Redis is out of memory), ERR_TIMEOUT, ERR_CANCELLED (the client closes);
 * reply is NULL then. */
typedef void (*redis_done)(void *ctx, status status, const struct redisReply *reply);

/* Begins to connect; a Redis that is not there is looked for until close. */
status redis_client_open(struct loop *loop, const struct redis_url *url, uint32_t connect_ms,
                         const struct redis_client_calls *calls, void *ctx,
                         struct redis_client **client_out);
/* Every command that is not done is told ERR_CANCELLED. */
void redis_client_close(struct redis_client *client);

bool redis_client_is_up(const struct redis_client *client);

/* Argument 1 is the key that says where. done is called exactly once, never inside this call.
 * Errors: ERR_NO_MEMORY. */
status redis_client_send(struct redis_client *client, uint32_t argument_count,
                         const char *const *arguments, const size_t *bytes, uint32_t deadline_ms,
                         redis_done done, void *ctx);

#endif
