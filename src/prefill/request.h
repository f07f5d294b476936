/* prefill/request.h - a request on its way through the stages of prefill/. Internal to prefill/. */
#ifndef PREFILL_REQUEST_H
#define PREFILL_REQUEST_H

#include "prefill/prefill.h"

enum prefill_state {
    PREFILL_QUEUED,
    PREFILL_PLACING, /* the router was told that it is about to start */
    PREFILL_PLACED,  /* it has somewhere to go */
    PREFILL_RUNNING,
    PREFILL_HELD, /* computed; its blocks stay until the receiver has them */
};

enum prefill_gather_state { PREFILL_UNGATHERED, PREFILL_GATHERING, PREFILL_GATHERED };

/* Blocks that come, or came, from a source of the request or from the store (told.from). */
struct prefill_range {
    struct wire_range told; /* what will be said of it */
    uint32_t source;        /* of wire->sources */
    uint64_t ticket;        /* of the store's fetch */
    bool open;              /* no report yet: its blocks are being written */
    uint32_t landed_blocks; /* leading ones */
    uint64_t started_ns;
};

struct prefill_request {
    struct prefill_request *next; /* in its list, oldest first */
    enum prefill_state state;
    struct wire_request *wire;
    struct sampling sampling;
    struct block_table table;
    block_id *ids;
    struct block_key root, *keys; /* of the prompt's full blocks */
    uint32_t key_count;
    uint32_t sealed_blocks;
    bool hands_over;  /* another worker decodes it, and fetches from here */
    bool saves;       /* another worker decodes it, and fetches from the store */
    bool local_taken; /* room is kept for its sequences here */
    bool lease_open;
    bool retired;            /* nobody waits for it; only its lease is not over yet */
    uint32_t matched_blocks; /* the receiver has these */
    uint32_t offered_blocks; /* leading blocks that are offered in all layers, or matched there */
    enum prefill_gather_state gather;
    bool goes_alone;  /* what a twin was to fetch for it did not come */
    bool lacked_room; /* when it was its turn; nobody behind it takes any before it */
    struct prefill_range ranges[WIRE_RANGES_MAX];
    uint32_t range_count, ranges_open;
    uint32_t sources_used;           /* bits of wire->sources: busy, or of no use any more */
    uint32_t later_first, later_end; /* blocks whose only source is busy with others */
    uint64_t gather_started_ns, gather_ns;
    uint32_t cached_tokens, peer_tokens, store_tokens;
    const struct engine_sequence *step; /* its part of the planned step; NULL: none */
    uint32_t offer_count; /* blocks after offered_blocks that the planned step completes */
    uint64_t arrived_ns, asked_ns, placed_ns, started_ns, finished_ns;
    struct engine_sample *samples; /* [n] */
    struct engine_score score;
    struct sampled *scores; /* [prompt_tokens] when prompt logprobs are wanted */
};

struct prefill_list {
    struct prefill_request *head;
    struct prefill_request **tail;
    uint32_t count;
};

/* How fast blocks came from a peer, or from the store, of late. */
struct prefill_peer {
    uint64_t incarnation;
    uint64_t used_ns;
    double bytes_per_s; /* 0: unknown */
};
#define PREFILL_PEERS_MAX 64

struct prefill {
    struct prefill_options options;
    struct engine *engine;
    struct prefix_tree *tree;
    struct transfer *transfer;
    const struct prefill_calls *calls;
    void *ctx;
    uint32_t block_tokens;
    struct prefill_list waiting; /* queued, placing, placed; in order of arrival */
    struct prefill_list batch;   /* running */
    struct prefill_list held;
    struct prefill_counters counters;
    struct prefill_peer peers[PREFILL_PEERS_MAX];
    struct prefill_peer store;
    uint64_t next_ticket;
    uint64_t hold_until_ns; /* nobody runs before an older one whose blocks come; 0: nobody waits */
    uint64_t planned_ns;    /* when the step under way was planned */
    double tokens_per_s;    /* of late; 0: unknown */
};

/* intake.c */
void prefill_list_push(struct prefill_list *list, struct prefill_request *request);
void prefill_list_remove(struct prefill_list *list, struct prefill_request *request);
/* Give back the room that is kept for its sequences on this worker, if there is any. */
void prefill_drop_local(struct prefill *prefill, struct prefill_request *request);
/* Is there more to generate than the token that the prefill ends with? */
bool prefill_goes_on(const struct wire_request *wire);
/* Drop its blocks and free it; it is in no list and its lease is over. */
void prefill_request_close(struct prefill *prefill, struct prefill_request *request);
/* The same as soon as its lease is over; it is in no list. */
void prefill_request_retire(struct prefill *prefill, struct prefill_request *request);
/* Tell the router why, and retire it. */
void prefill_request_fail(struct prefill *prefill, struct prefill_request *request, status code,
                          const char *text);

/* gather.c */

/* Give the request its blocks: the cached prefix, and new ones for the rest of the prompt, and
 * fetch into these what its sources lend. It may run when it is PREFILL_GATHERED, which may be at
 * once. ERR_FULL: the blocks are not there now. */
status prefill_gather(struct prefill *prefill, struct prefill_request *request);
/* It is given up: its ranges end, each with its report. */
void prefill_gather_cancel(struct prefill *prefill, struct prefill_request *request);
/* Go on behind the blocks that landed where computing has come to. */
void prefill_skip(struct prefill *prefill, struct prefill_request *request);
/* Up to which token it may compute: where landed blocks begin, or the prompt's end. */
uint32_t prefill_hole_end(const struct prefill *prefill, const struct prefill_request *request);
/* Enter the blocks that are full now into the prefix tree. */
void prefill_seal(struct prefill *prefill, struct prefill_request *request);

/* twin.c */

/* Another sequence of the same prompt is fetching it: what comes is for both. */
bool prefill_waits_for_twin(const struct prefill *prefill, const struct prefill_request *request);
/* One that has all of it, as long as that one is not computed; NULL: none. */
const struct prefill_request *prefill_twin(const struct prefill *prefill,
                                           const struct prefill_request *request);
/* Its ranges have ended. When something did not come its twins wait for it no more. */
void prefill_twins_release(struct prefill *prefill, const struct prefill_request *request);

/* batch.c */

/* Rows of a prompt in the next step. A chunk that does not end the prompt ends with a full block:
 * what is computed can be offered. 0: no room for that, wait for the next step. */
uint32_t prefill_chunk(uint32_t position, uint32_t prompt_tokens, uint32_t rows_left,
                       uint32_t block_tokens);

/* offer.c */

/* The prefill starts: open the lease and offer what came from the prefix cache. */
void prefill_offer_start(struct prefill *prefill, struct prefill_request *request);
/* Blocks landed in mid-prefill: offer them too. */
void prefill_offer_landed(struct prefill *prefill, struct prefill_request *request);
/* Which blocks the planned step completes. */
void prefill_offer_plan(struct prefill *prefill, struct prefill_request *request);
/* The first tokens are there: tell the router, complete the handoff or pass it on. Moves the
 * request out of the batch. */
void prefill_finish(struct prefill *prefill, struct prefill_request *request);

#endif
