/* decode/request.h - a request, and its sequences, on their way through decode/. Internal to it. */
#ifndef DECODE_REQUEST_H
#define DECODE_REQUEST_H

#include "decode/decode.h"

/* One generation in progress.
 *
 *     tokens   [ prompt ............ | generated .... ]   token_count of them are known
 *     table    [ keys and values of the first table.token_count of these ]
 *
 * Running means that exactly the last token is not in the table yet; a preempted sequence has an
 * empty table, or one that is being filled again. */
struct decode_sequence {
    struct decode_sequence *next; /* in running or preempted, oldest first */
    struct decode_request *request;
    uint64_t age;   /* order of admission; smaller is older */
    uint32_t index; /* 0 .. n - 1 */
    bool done;
    bool preempted;
    uint32_t *tokens; /* [prompt + max_tokens] */
    uint32_t token_count;
    struct block_table table;
    block_id *ids;
    uint32_t sealed_blocks;
    struct block_key last_key; /* of the last sealed block */
    bool private_blocks;       /* a key could not be entered: later blocks have no parent there */
    const struct engine_sequence *step; /* its part of the planned step; NULL: none */
    struct engine_sample sample;
};

struct decode_request {
    struct decode_request *next; /* in waiting, receiving or running */
    struct wire_request *wire;
    struct wire_holder holder;
    struct sampling sampling;
    struct block_key root;
    struct block_key *keys; /* of the prompt's full blocks */
    uint32_t key_count;
    block_id *ids; /* of the prompt, while it is received */
    uint32_t block_count, matched_blocks;
    bool retired; /* nobody waits for it; only its receive is not over yet */
    uint32_t sequences_left;
    struct decode_sequence *sequences; /* [n], once admitted */
};

struct decode_requests {
    struct decode_request *head;
    struct decode_request **tail;
    uint32_t count;
};

struct decode_sequences {
    struct decode_sequence *head;
    struct decode_sequence **tail;
    uint32_t count;
};

struct decode {
    struct decode_options options;
    struct engine *engine;
    struct prefix_tree *tree;
    struct transfer *transfer;
    const struct decode_calls *calls;
    void *ctx;
    uint32_t block_tokens;
    uint64_t next_age;
    struct decode_requests waiting;                   /* want room, in order of arrival */
    struct decode_requests receiving;                 /* have blocks, which are being filled */
    struct decode_requests admitted;                  /* have sequences */
    uint32_t receiving_sequences, expected_sequences; /* have room, are not admitted */
    struct decode_sequences running;                  /* by age */
    struct decode_sequences preempted;                /* by age */
    struct wire_token *out;                           /* [batch_sequences] tokens of one step */
    struct decode_counters counters;
};

/* reserve.c */
void decode_requests_push(struct decode_requests *list, struct decode_request *request);
void decode_requests_remove(struct decode_requests *list, struct decode_request *request);
/* Everything but blocks; the request owns wire from then on. */
status decode_request_open(struct decode *decode, struct wire_request *wire,
                           const struct sampling *sampling, struct decode_request **request_out);
void decode_request_close(struct decode *decode, struct decode_request *request);
/* Give room to waiting reservations, oldest first, as far as there is any. */
void decode_grant(struct decode *decode);

/* admit.c */

/* Make the request's sequences over its blocks (whose references they take) and let them run. */
status decode_admit(struct decode *decode, struct decode_request *request,
                    const struct wire_token *firsts);
void decode_sequences_insert(struct decode_sequences *list, struct decode_sequence *sequence);
void decode_sequences_remove(struct decode_sequences *list, struct decode_sequence *sequence);
/* The sequence has come to its end: blocks dropped; the request goes with its last sequence. */
void decode_sequence_finish(struct decode *decode, struct decode_sequence *sequence);
/* The sequences asked for (one, or WIRE_ALL_SEQUENCES) come to their end where they are. */
void decode_stop(struct decode *decode, struct decode_request *request, uint32_t sequence);

/* emit.c */

/* Enter the blocks that are full now into the prefix tree. */
void decode_seal(struct decode *decode, struct decode_sequence *sequence);

#endif
