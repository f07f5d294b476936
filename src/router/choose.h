/* router/choose.h - the choice of workers as pure functions, for tests and the simulation. */
#ifndef ROUTER_CHOOSE_H
#define ROUTER_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

#include "router/cost.h"

#define ROUTE_WORKERS_MAX 256

/* By what it is chosen: the prediction, or one way wherever there is that way, else prefill. */
enum route_place {
    ROUTE_PLACE_AUTO,
    ROUTE_PLACE_PREFILL,
    ROUTE_PLACE_PULL,
    ROUTE_PLACE_DECODE,
};

/* How fast blocks come from one worker to another: bytes/s. */
struct route_pull {
    float rate;           /* of late; 0: unknown */
    float guess;          /* before any were measured (route_pull_guess) */
    uint64_t measured_ns; /* when rate was */
};

/* What the choice looks at. */
struct route_view {
    uint32_t roles;         /* WIRE_ROLE_ bits */
    bool usable;            /* registered, alive, not leaving */
    uint64_t queued_tokens; /* of prompts it has not computed yet */
    uint32_t decoding;      /* sequences given to it and not finished */
    uint32_t decode_batch;  /* most that it decodes at once; at least 1 */
    uint32_t run_blocks;    /* leading blocks of the prompt that it holds */
    struct cost cost;       /* of computing prompts, of late */
    double cost_age_s;      /* since that was measured */
    double place_s;         /* until a decode worker has room for what it is to compute, of late */
    double lend_s;          /* until it lends while it decodes only, of late; 0: unknown */
    double lend_age_s;      /* since that was measured */
    bool store_up;          /* it gets blocks from the store */
    double store_rate;      /* bytes/s of late; 0: unknown */
    int slot;               /* index into pulls of others */
    const struct route_pull *pulls; /* from the worker of that slot; NULL: nothing is known */
    uint64_t now_ns;                /* by the clock of their measured_ns */
};

struct route_ask {
    uint32_t prompt_tokens, block_tokens;
    double block_bytes;
    uint32_t saved_blocks;     /* leading ones that the store had once */
    bool apart;                /* workers of different roles do not fetch from each other */
    uint32_t local_tokens_max; /* most tokens to compute on a decode worker; 0: never there */
    uint32_t place;            /* enum route_place */
};

/* The ways to a first token. */
enum route_way {
    ROUTE_PREFILL, /* on a prefill worker, from what it has */
    ROUTE_PULL,    /* on a prefill worker, with blocks that another one holds */
    ROUTE_LOCAL,   /* on the decode worker that holds the prefix */
    ROUTE_WAYS,
};

struct route_option {
    int worker;     /* -1: there is no such way now */
    int holder;     /* ROUTE_PULL: who lends */
    double seconds; /* predicted, to the first token */
};

struct route_choice {
    struct route_option ways[ROUTE_WAYS]; /* the best of each */
    enum route_way way;                   /* what was chosen */
    bool local;                           /* the same worker decodes */
    uint32_t compute_tokens;              /* of the prompt, when all that is to come does come */
};

/* Where to compute a prompt: of the workers with the role prefill (of all, when there is none) the
 * one with the fewest tokens before it. local: the same worker decodes, because it has both roles
 * or because nobody has the role decode. -1: no worker. */
int route_choose_prefill(const struct route_view *views, uint32_t count, bool *local_out);

/* How and where to compute a prompt: what is predicted to have its first token soonest. The costs
 * are measured ones of late: of computing (cost.h), queued tokens first; bytes over the rate of
 * that pair, or of the worker and the store; what is unknown is taken to be as the best known one.
 * False: no worker. */
bool route_choose(const struct route_ask *ask, const struct route_view *views, uint32_t count,
                  struct route_choice *choice_out);

/* Whether a prompt that waits at views[at], whose queued_tokens are those before it, has its first
 * token sooner, by a quarter at least, with a worker that has nothing to do. */
bool route_gains(const struct route_ask *ask, const struct route_view *views, uint32_t count,
                 uint32_t at);

/* Bytes/s between two workers of these numerics classes, before any were measured; 0: unknown. Two
 * GPUs of one host move blocks past its processor. */
float route_pull_guess(const char *one_class, const char *other_class, bool one_host);

/* Where to decode: of the workers with the role decode the one whose batch is least full. -1: none.
 */
int route_choose_decode(const struct route_view *views, uint32_t count);

/* Where a request goes on after tokens that it has: where it would be decoded; with no such worker
 * left, where it would be computed. saved: its blocks are in the store, so that a worker that gets
 * them there, and has room, computes a few tokens of what another one computes all of. -1: none. */
int route_choose_resume(const struct route_view *views, uint32_t count, bool saved);

#endif
