/* router/router.h - the process that clients talk to.
 *
 *     accept.c    HTTP in: read, template, tokenize (in a pool), check
 *     route.c     which worker computes the prompt, which one the answer
 *     handoff.c   how its blocks get from the one to the other
 *     failover.c  what goes on elsewhere when a worker is lost
 *     relay.c     tokens -> text -> stop strings -> stream
 *     health.c    workers: who is there, who is silent, who is stuck
 *     metrics.c   what an operator watches
 *
 * Threads:  one loop thread; a small pool reads bodies, templates and tokenizes.
 */
#ifndef ROUTER_ROUTER_H
#define ROUTER_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* The words of --handoff, in this order. */
enum router_handoff { ROUTER_HANDOFF_DIRECT, ROUTER_HANDOFF_STORE, ROUTER_HANDOFF_BOTH };

struct router_options {
    const char *config;
    const char *host;
    uint32_t port;
    const char *workers;       /* address where workers connect */
    const char *dummy_weights; /* NULL, or the shape of random weights (model/weights.h) */
    const char *model_name;    /* as clients see it; NULL: from the model file */
    const char *api_key;
    const char *api_key_file;
    const char *log_level;
    const char *handoff;  /* direct, store or both */
    const char *ready_fd; /* NULL, or the number of a descriptor that gets "ready\n" */
    uint32_t queue;       /* most requests that wait for their first token */
    uint32_t pool_threads;
    uint32_t expect_workers; /* "ready" is said when so many are there */
    uint32_t local_tokens;   /* most of a prompt that is computed on the decode worker that holds
                                the rest of it; 0: none */
    uint32_t place;          /* enum route_place */
    uint32_t crashes; /* a request ends when so many workers died of it, one after another; 0:
                         never */
    uint64_t body_bytes;
    uint64_t stream_bytes;       /* most output that a slow client may leave unread */
    uint64_t request_timeout_ms; /* the longest time without progress of a request */
    uint64_t silence_ms;         /* a worker that says nothing for so long is dead */
    uint64_t stuck_ms;           /* a worker that has work and makes no step for so long is dead */
    uint64_t drain_ms;           /* the longest wait for running requests at SIGTERM */
    const char *cluster_key;     /* file of the key that workers must prove; NULL: none */
    bool trust_network;          /* without a key: workers of other hosts may connect */
};

/* enum router_handoff; -1: no such word. */
int router_handoff_parse(const char *word);

/* Run until SIGTERM has drained it. Returns the exit code. */
int router_run(const char *model_path, const struct router_options *options);

#endif
