/* decode/request.h - a request, and its sequences, on their way through decode/. Internal to it. */
#ifndef DECODE_REQUEST_H
#define DECODE_REQUEST_H

#include "decode/decode.h"
#include "decode/pressure.h"

/* One generation in progress.
 *
 *     tokens   [ prompt ............ | generated .... ]   token_count of them are known
 *     table    [ keys and values of the first table.token_count of these ]
 *
 * Running means that exactly the last token is not in the table yet; a preempted sequence has an
 * empty table, and what was swapped out of it in slots:
 *
 *     slots    [ s4 | s7 | s1 ]                           slot_tokens of them, from the first on
 *
 * One that came back without all of its blocks runs too, and fills its table again. */
struct decode_sequence {
    struct decode_sequence *next; /* in running or preempted, by rank */
    struct decode_request *request;
    uint64_t age;   /* order of admission; smaller is older */
    uint32_t index; /* 0 .. n - 1 */
    bool done;
    bool preempted;
    uint32_t *tokens; /* [prompt + max_tokens] */
    uint32_t token_count;
    struct block_table table;
    block_id *ids;
    struct block_key *keys; /* [key_count] of its leading full blocks */
    uint32_t key_count;
    uint32_t sealed_blocks;
    bool private_blocks; /* a key could not be entered: later blocks have no parent there */
    block_id *slots;
    uint32_t slot_count, slot_tokens;
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
    struct decode_sequences running;                  /* by rank */
    struct decode_sequences preempted;                /* by rank */
    struct prefix_tree *slots; /* of the host's memory; NULL: what gives way is computed again */
    struct wire_token *out;    /* [batch_sequences] tokens of one step */
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

struct pressure_rank decode_rank(const struct decode_sequence *sequence);

/* swap.c */

/* Copy what the sequence's table holds to slots, as far as there is room: not again what is there
 * already. The blocks stay the table's. */
void decode_swap_out(struct decode *decode, struct decode_sequence *sequence);
/* The table holds some leading blocks, and has room for all: take those behind them out of the
 * slots. No slot is held any longer. */
void decode_swap_in(struct decode *decode, struct decode_sequence *sequence);
/* It will not come back. */
void decode_swap_drop(struct decode *decode, struct decode_sequence *sequence);

/* emit.c */

/* May its blocks be found, and find others, by their keys? */
bool decode_shares(const struct decode *decode, const struct decode_request *request);
/* Compute the keys of its first count blocks, which are full. */
void decode_keys(const struct decode *decode, struct decode_sequence *sequence, uint32_t count);

/* Enter the blocks that are full now into the prefix tree. computed: here, so nobody else has told
 * of them. */
void decode_seal(struct decode *decode, struct decode_sequence *sequence, bool computed);

#endif
