/* wire/control.h - what router and workers say to each other.
 *
 *     router                          prefill worker              decode worker
 *       | <-------- register ------------- |                            |
 *       | <-------- register ------------------------------------------ |
 *       | --- prefill (request) ---------> |                            |
 *       | <-- starting ------------------- |  about to compute it       |
 *       | --- reserve (request, holder) ------------------------------> |
 *       | <-- reserved ------------------------------------------------ |  blocks taken
 *       | --- place ---------------------> |  where it goes             |
 *       |                                  | ==== transfer/ ==========> |  layer by layer
 *       | <-- first ---------------------- |  first tokens              |
 *       | <-- tokens -------------------------------------------------- |  one frame a step
 *       | --- cancel --------------------> | -------------------------> |  client gone, stop string
 *       | <-- failed --------------------- | <------------------------- |  named error
 *       | <-- heartbeat, from each ------- | <------------------------- |
 *       | --- alive, to each ------------> | -------------------------> |
 *       | <-- leaving -------------------- | <------------------------- |  draining
 *       | --- peer (holder) -------------> | -------------------------> |  others of its host
 *       | --- lend (keys), to a holder --> |  or to the decode worker:  |  offer blocks by content
 *       | <-- blocks --------------------- | <------------------------- |  what it can match
 *       | --- set roles, drain ----------> | -------------------------> |  an operator asked for it
 *       | <-- roles ---------------------- | <------------------------- |  to all of its routers
 *       | <-- saved ---------------------- |  handed over by the store  |
 *
 * A request whose tokens all come from one worker (colocated, or done with its first token) has no
 * starting, reserve, reserved and place. Every frame of a request starts with its id; a frame for
 * an id that the receiver does not know (any more) is dropped: it crossed a cancel.
 *
 * All numbers are little-endian. Each message has one struct, one encode into a growable frame
 * buffer and one decode that checks every field's range; a decoded struct owns what it points to
 * where that is said, and else points into the frame.
 *
 * Threads: any; no state.
 */
#ifndef WIRE_CONTROL_H
#define WIRE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"
#include "wire/frame.h"
#include "wire/offer.h"

/* Ids of requests are unique across routers: the upper 24 bits are the number of the router, which
 * are the lower ones of its incarnation; the rest it counts. A worker refuses a router whose number
 * another one of its routers has. */
#define WIRE_ROUTER_BITS 24
#define WIRE_ROUTER_NUMBER(incarnation) ((uint32_t)((incarnation) & ((1u << WIRE_ROUTER_BITS) - 1)))
#define WIRE_ROUTER_OF(request_id) ((uint32_t)((request_id) >> (64 - WIRE_ROUTER_BITS)))
#define WIRE_EVERY_ROUTER UINT32_MAX
#define WIRE_ROUTERS_MAX 16 /* of one worker */

#define WIRE_SALT_BYTES 16
#define WIRE_ADDRESS_BYTES 128 /* with its NUL */
#define WIRE_NAME_BYTES 64
#define WIRE_TEXT_BYTES 512
#define WIRE_PROMPT_TOKENS_MAX (1u << 20)
#define WIRE_SEQUENCES_MAX 16 /* n of one request */
#define WIRE_LOGPROBS_MAX 20  /* alternatives shown per token */
#define WIRE_BIAS_MAX 300
#define WIRE_STOP_IDS_MAX 64
#define WIRE_SOURCES_MAX 8 /* peers that one request may fetch from */
#define WIRE_RANGES_MAX 12 /* of one request: every source once, and the store between them */
#define WIRE_KEY_BYTES 16
#define WIRE_EVENT_BYTES (1 + WIRE_KEY_BYTES)
#define WIRE_KEYS_MAX 65536   /* of one lend */
#define WIRE_EVENTS_MAX 65536 /* of one blocks message */
#define WIRE_LAGS 16          /* times up to 1 ms, 2 ms, 4 ms ... 16.384 s, and longer ones */

enum wire_control {
    WIRE_REGISTER = FRAME_CONTROL_FIRST, /* worker to router */
    WIRE_HEARTBEAT,
    WIRE_STARTING,
    WIRE_RESERVED,
    WIRE_FIRST,
    WIRE_TOKENS,
    WIRE_FAILED,
    WIRE_HANDED,
    WIRE_LEAVING, /* empty: no new requests for me; I go when the last one is done */
    WIRE_BLOCKS,
    WIRE_ROLES, /* mine are these from now on */
    WIRE_SAVED,
    WIRE_PREFILL = FRAME_CONTROL_FIRST + 64, /* router to worker */
    WIRE_RESERVE,
    WIRE_PLACE,
    WIRE_CANCEL,
    WIRE_PEER_LOST, /* an incarnation: connections with it and mappings of its memory are to go */
    WIRE_ALIVE,     /* empty: answers a heartbeat, so that a lost router is noticed too */
    WIRE_LEND,
    WIRE_LEND_END,   /* a request id: what was lent for it and not fetched yet is not wanted */
    WIRE_BLOCKS_ASK, /* empty: say all that can be matched there, from the start */
    WIRE_SET_ROLES,  /* be of these roles; what runs goes on, and blocks stay */
    WIRE_DRAIN,      /* empty: leave, as at SIGTERM */
    WIRE_PEER,       /* a holder: it is there, on your host; its blocks may be wanted later */
};

enum wire_role { WIRE_ROLE_PREFILL = 1, WIRE_ROLE_DECODE = 2 }; /* bits; both: colocated */

/* A frame under construction. Memory: malloc'd, kept between frames, freed by wire_frame_close. */
struct wire_frame {
    uint8_t *data;
    size_t bytes, capacity;
    bool failed; /* no memory; the frame must not be sent */
};

void wire_frame_reset(struct wire_frame *frame);
void wire_frame_close(struct wire_frame *frame);

struct wire_register {
    uint32_t roles;
    uint32_t pid;
    uint32_t block_count;
    uint32_t context_tokens; /* most tokens of one sequence here */
    uint32_t decode_batch;   /* most sequences running and reserved */
    uint64_t incarnation;
    char name[WIRE_NAME_BYTES];             /* "decode-0" */
    char transfer_unix[WIRE_ADDRESS_BYTES]; /* "" when there is none */
    char transfer_tcp[WIRE_ADDRESS_BYTES];
    char host[WIRE_NAME_BYTES];    /* which host shm reaches: boot id and mount */
    double limit_operations_per_s; /* measured at start on its own cores */
    double limit_bytes_per_s;
    uint32_t has_store; /* 1: it is connected to a central store, or tries to be */
};

/* What a worker is doing; totals count from its start. */
struct wire_heartbeat {
    uint64_t step_count; /* of the compute thread: progress */
    uint64_t busy;       /* 1: there is work, so step_count must move */
    uint64_t blocks_free, blocks_cached, blocks_referenced, blocks_reserved;
    uint64_t blocks_swapped; /* in memory of the host, beside those above */
    uint64_t sequences_running, sequences_waiting, sequences_preempted;
    uint64_t prefill_tokens, decode_tokens, cached_tokens, preemptions;
    uint64_t swap_out_blocks, swap_out_bytes, swap_in_blocks, swap_in_bytes;
    uint64_t recomputed_tokens;           /* again, of resumed and of preempted sequences */
    uint64_t prefix_queries, prefix_hits; /* tokens asked of and found in the prefix cache */
    uint64_t operations, bytes;           /* as the backend counts them */
    uint64_t step_ns;                     /* time spent inside steps */
    uint64_t handoffs, handoff_bytes, handoff_ns, handoff_exposed_ns;
    uint64_t checksum_failures;
    uint64_t leases;          /* open now, either side */
    uint64_t prefill_ns;      /* of step_ns, the part of prompts: prefill_tokens took so long */
    uint64_t prefill_prompts; /* came to their end */
    uint64_t prefill_context; /* sum over prefill_tokens of the tokens before each */
    uint64_t peer_tokens, store_tokens; /* of cached_tokens: fetched */
    uint64_t gather_failures;           /* ranges that did not come from where they were asked of */
    uint64_t lendings;                  /* open now */
    uint64_t lent_blocks;               /* fetched by others, since the start */
    uint64_t store_up;                  /* 1: the central store is connected */
    uint64_t saving_blocks;             /* held until the store has acknowledged them, now */
    uint64_t saved_blocks, saved_bytes; /* acknowledged; bytes: of those that had to move */
    uint64_t unsaved_blocks;            /* dropped, or refused: the queue was full, or no store */
    uint64_t save_lags[WIRE_LAGS];      /* acknowledged blocks, by the time since they were full */
    uint64_t save_lag_ns;               /* sum of these */
    /* What other routers have given it: to each router the heartbeat says its own. */
    uint64_t others_tokens;    /* of prompts without a first token yet */
    uint64_t others_sequences; /* placed here and not finished */
};

enum wire_request_flags {
    WIRE_REQUEST_LOCAL = 1,           /* decode where it was prefilled; nothing is handed over */
    WIRE_REQUEST_PROMPT_LOGPROBS = 2, /* logprobs of every prompt token, in first */
    WIRE_REQUEST_NO_PREFIX = 4,       /* do not use the prefix cache */
    WIRE_REQUEST_LOGPROBS = 8,        /* logprobs of output tokens */
};

/* How a prompt's blocks get to the worker that decodes, when that is another one. */
enum wire_handoff {
    WIRE_HANDOFF_DIRECT, /* fetched from the worker that computed them */
    WIRE_HANDOFF_STORE,  /* added to the store; saved says when, then a resume gathers them there */
};

struct wire_bias {
    uint32_t token;
    float add;
};

struct wire_sampling {
    float temperature, top_p, min_p;
    float repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t top_k;                  /* 0: off */
    uint32_t logprob_count;          /* alternatives per token, 0 .. WIRE_LOGPROBS_MAX */
    uint32_t min_tokens, max_tokens; /* of output, per sequence; max >= 1 */
    uint64_t seed;
    uint32_t bias_count, stop_count;
    const struct wire_bias *bias; /* [bias_count] */
    const uint32_t *stop_ids;     /* [stop_count] end tokens too: the router knows them */
};

/* A worker that blocks are fetched from; of peer: that they may be. */
struct wire_holder {
    uint64_t incarnation;
    char name[WIRE_NAME_BYTES];
    char transfer_unix[WIRE_ADDRESS_BYTES]; /* "" when the receiver is on another host */
    char transfer_tcp[WIRE_ADDRESS_BYTES];
};

/* Blocks of a request's prompt that a peer lends: it was told by lend, under the request's epoch.
 * Sources whose blocks overlap stand in for each other, the first one first. */
struct wire_source {
    struct wire_holder holder;
    struct lease_id lease;
    uint32_t first_block, block_count; /* count >= 1 */
    uint32_t again;                    /* 1: what was fetched from it may be followed by more */
};

/* prefill and reserve: the request, and for reserve where its blocks will come from. */
struct wire_request {
    uint64_t request_id;
    struct lease_id lease;         /* of its handoff; random */
    uint32_t epoch;                /* of its handoff: counts attempts */
    uint8_t salt[WIRE_SALT_BYTES]; /* tenant, in the root of its block keys */
    uint32_t flags;
    uint32_t sequence_count; /* n */
    uint32_t first_sequence; /* number of the first, for sampling: choices of one request differ */
    int32_t priority;        /* smaller is sooner; equal: in order of arrival */
    uint32_t deadline_ms;    /* for every single wait of it on a worker */
    uint32_t prompt_tokens;
    /* A generation that goes on from where another worker left it: the last resumed_tokens of the
     * prompt are output that the client has. Keys and blocks take them for prompt; sampling (its
     * history, min_tokens, max_tokens, positions) and the indices of new tokens take them for
     * output. Less than prompt_tokens and than max_tokens; then n is 1. */
    uint32_t resumed_tokens;
    const uint32_t *prompt; /* [prompt_tokens] */
    uint32_t source_count;
    const struct wire_source *sources; /* [source_count] */
    uint32_t handoff;                  /* enum wire_handoff */
    uint32_t saved_blocks; /* leading ones that the store had once, as far as the router knows */
    struct wire_sampling sampling;
};

/* One who asks may want the leading blocks of a prompt that have these keys: match them, hold them,
 * and offer those from first_block on under the lease. */
struct wire_lend {
    uint64_t request_id;
    struct lease_id lease;
    uint32_t epoch;
    uint32_t expiry_ms; /* unfetched for so long, it is over; 1 .. an hour */
    uint32_t first_block;
    uint32_t again;      /* 1: it is not over when it was fetched, but when the router says so */
    uint32_t key_count;  /* 1 .. WIRE_KEYS_MAX */
    const uint8_t *keys; /* [key_count][WIRE_KEY_BYTES] decoded: in the frame */
};

enum wire_blocks_flags {
    WIRE_BLOCKS_ALL =
        1, /* forget all that was said before; events of the next messages add to it */
};

enum wire_event {
    WIRE_EVENT_STORED = 1, /* can be matched there */
    WIRE_EVENT_REMOVED,    /* cannot any more */
    WIRE_EVENT_SAVED,      /* the store has acknowledged it */
};

/* Messages are numbered by their sender, one more each: a gap means that some were lost. */
struct wire_blocks {
    uint64_t number;
    uint32_t flags;
    uint32_t event_count;  /* 0 .. WIRE_EVENTS_MAX */
    const uint8_t *events; /* [event_count][WIRE_EVENT_BYTES]: a byte of enum wire_event, the key;
                              decoded: in the frame, every byte of them checked */
};

struct wire_reserved {
    uint64_t request_id;
    int32_t status;          /* of status.h; OK: granted */
    uint32_t matched_blocks; /* leading blocks that the decode worker has; not to be offered */
    char text[WIRE_TEXT_BYTES];
};

struct wire_place {
    uint64_t request_id;
    uint32_t matched_blocks;
};

/* One output token with its logprobs. */
struct wire_token {
    uint64_t request_id;
    uint32_t sequence; /* 0 .. n - 1 */
    uint32_t index;    /* 0: the first output token */
    uint32_t token;
    uint32_t finish; /* enum wire_finish */
    float logprob;
    uint32_t top_count; /* 0 .. WIRE_LOGPROBS_MAX */
    uint32_t top_tokens[WIRE_LOGPROBS_MAX];
    float top_logprobs[WIRE_LOGPROBS_MAX];
};

enum wire_finish { WIRE_FINISH_NONE, WIRE_FINISH_STOP, WIRE_FINISH_LENGTH };

/* Where blocks of a prompt that are not computed come from. */
enum wire_from { WIRE_FROM_PEER = 1, WIRE_FROM_STORE };

/* A range of blocks that was fetched, or was to be. */
struct wire_range {
    uint32_t from;  /* enum wire_from */
    int32_t status; /* of status.h: how it ended */
    uint32_t carrier;
    uint32_t first_block, block_count;
    uint64_t holder; /* incarnation; 0: the store */
    uint64_t bytes;
    uint64_t ns;
    uint64_t wait_ns; /* of that, until its holder began to lend */
};

/* Followed by sequence_count tokens, then prompt_logprob_count tokens (index = position in the
 * prompt; position 0 has no logprob and is not sent). */
struct wire_first {
    uint64_t request_id;
    uint32_t sequence_count;
    uint32_t prompt_logprob_count;
    uint32_t cached_tokens; /* of the prompt, not computed: from the own tree, peers and store */
    uint32_t peer_tokens, store_tokens; /* of these */
    uint64_t queue_ns;    /* from its arrival at the worker to the start of its first step */
    uint64_t place_ns;    /* of that, waiting for a place */
    uint64_t gather_ns;   /* of that, waiting for blocks from peers and store */
    uint64_t prefill_ns;  /* from the start of its first step to its first token */
    uint32_t range_count; /* what was fetched, or tried */
    struct wire_range ranges[WIRE_RANGES_MAX];
};

struct wire_failed {
    uint64_t request_id;
    int32_t status;
    char text[WIRE_TEXT_BYTES];
};

/* A handoff as the holder saw it: one clock for all its times. */
struct wire_handed {
    uint64_t request_id;
    int32_t status;
    uint32_t carrier;
    uint64_t bytes;
    uint64_t total_ns;   /* from the first offer to the acknowledgement */
    uint64_t exposed_ns; /* from the end of the prefill to the acknowledgement */
};

/* A prompt that is handed over by the store is there, all of it (OK), or will not be. */
struct wire_saved {
    uint64_t request_id;
    int32_t status;
    uint64_t bytes; /* that had to move after the first token */
    uint64_t ns;    /* from the first token to the acknowledgement */
    char text[WIRE_TEXT_BYTES];
};

void wire_register_encode(struct wire_frame *frame, const struct wire_register *message);
status wire_register_decode(const uint8_t *data, size_t bytes, struct wire_register *message_out);
void wire_heartbeat_encode(struct wire_frame *frame, const struct wire_heartbeat *message);
status wire_heartbeat_decode(const uint8_t *data, size_t bytes, struct wire_heartbeat *message_out);

/* The decoded request and its arrays are one piece of memory: wire_request_free. */
void wire_prefill_encode(struct wire_frame *frame, const struct wire_request *request);
status wire_prefill_decode(const uint8_t *data, size_t bytes, struct wire_request **request_out);
void wire_reserve_encode(struct wire_frame *frame, const struct wire_request *request,
                         const struct wire_holder *holder);
status wire_reserve_decode(const uint8_t *data, size_t bytes, struct wire_request **request_out,
                           struct wire_holder *holder_out);
void wire_request_free(struct wire_request *request);

/* What of the prompt is the client's own, and how much of the context a sequence may come to. */
uint32_t wire_request_prompt_tokens(const struct wire_request *request);
uint64_t wire_request_tokens_max(const struct wire_request *request);

/* Does a sequence of this request end with token as its output number index (0: the first)? */
enum wire_finish wire_request_finish(const struct wire_request *request, uint32_t token,
                                     uint32_t index);

void wire_reserved_encode(struct wire_frame *frame, const struct wire_reserved *message);
status wire_reserved_decode(const uint8_t *data, size_t bytes, struct wire_reserved *message_out);
void wire_place_encode(struct wire_frame *frame, const struct wire_place *message);
status wire_place_decode(const uint8_t *data, size_t bytes, struct wire_place *message_out);
void wire_failed_encode(struct wire_frame *frame, const struct wire_failed *message);
status wire_failed_decode(const uint8_t *data, size_t bytes, struct wire_failed *message_out);
void wire_handed_encode(struct wire_frame *frame, const struct wire_handed *message);
status wire_handed_decode(const uint8_t *data, size_t bytes, struct wire_handed *message_out);
void wire_saved_encode(struct wire_frame *frame, const struct wire_saved *message);
status wire_saved_decode(const uint8_t *data, size_t bytes, struct wire_saved *message_out);

void wire_lend_encode(struct wire_frame *frame, const struct wire_lend *message);
status wire_lend_decode(const uint8_t *data, size_t bytes, struct wire_lend *message_out);
void wire_blocks_encode(struct wire_frame *frame, const struct wire_blocks *message);
status wire_blocks_decode(const uint8_t *data, size_t bytes, struct wire_blocks *message_out);

/* Which of the WIRE_LAGS a time belongs to. */
uint32_t wire_lag_of(uint64_t ns);

/* sequence: WIRE_ALL_SEQUENCES, or the one that has nobody to read it any more (a stop string). */
#define WIRE_ALL_SEQUENCES UINT32_MAX
struct wire_cancel {
    uint64_t request_id;
    uint32_t sequence;
};
void wire_holder_encode(struct wire_frame *frame, const struct wire_holder *message);
status wire_holder_decode(const uint8_t *data, size_t bytes, struct wire_holder *message_out);
void wire_cancel_encode(struct wire_frame *frame, const struct wire_cancel *message);
status wire_cancel_decode(const uint8_t *data, size_t bytes, struct wire_cancel *message_out);

/* set roles and roles: WIRE_ROLE_ bits, at least one. */
void wire_roles_encode(struct wire_frame *frame, uint32_t roles);
status wire_roles_decode(const uint8_t *data, size_t bytes, uint32_t *roles_out);

/* starting and lend end carry only a request id, peer lost only an incarnation. */
void wire_id_encode(struct wire_frame *frame, uint64_t request_id);
status wire_id_decode(const uint8_t *data, size_t bytes, uint64_t *request_id_out);

/* first: the head, then wire_token_encode for each token. tokens: only wire_token_encode. */
void wire_first_encode(struct wire_frame *frame, const struct wire_first *message);
void wire_token_encode(struct wire_frame *frame, const struct wire_token *token);
status wire_first_decode(struct reader *from, struct wire_first *message_out);
status wire_token_decode(struct reader *from, struct wire_token *token_out);

#endif
