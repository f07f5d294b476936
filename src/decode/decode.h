/* decode/decode.h - reservations in, tokens out, one step at a time.
 *
 *     reserve.c   a request asks for room: own prefix matched, blocks taken, the rest fetched
 *     admit.c     its blocks are here: its sequences join the running ones at the next step
 *     step.c      one token per running sequence; who must give way when blocks run out
 *     pressure.c  the rules of that: who, and when it comes back
 *     swap.c      its blocks, to memory of the host and back
 *     emit.c      tokens to the router; blocks that filled up get their keys
 *
 *     reserve -> waiting -> receiving -> running <-> preempted -> (gone)
 *                  room        blocks       steps       blocks
 *
 * Batching is continuous: sequences join and leave at every step. Blocks for output are taken as
 * they are needed; when there is none left the sequence of the lowest priority, among equals the
 * youngest, gives up its blocks. They are copied to memory of the host as far as there is room, and
 * what was not is computed again later, in chunks beside the others' steps. The first by this order
 * never gives way, so one always gets to its end and no two wait for each other.
 *
 * Threads:  all calls on the compute thread.
 * Memory:   a request's pieces are taken when it arrives, a sequence's when it is admitted.
 */
#ifndef DECODE_DECODE_H
#define DECODE_DECODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "kv/prefix_tree.h"
#include "wire/control.h"

struct decode;
struct transfer;
struct transfer_report;

/* What goes out; every call is on the compute thread. */
struct decode_calls {
    void (*reserved)(void *ctx, const struct wire_reserved *reserved);
    /* All tokens of one step. */
    void (*tokens)(void *ctx, const struct wire_token *tokens, uint32_t count);
    void (*failed)(void *ctx, uint64_t request_id, status code, const char *text);
    /* A block that was computed here is full and final: worth keeping. parent: NULL for a chain's
     * first. */
    void (*sealed)(void *ctx, const struct block_key *key, const struct block_key *parent,
                   block_id id);
};

struct decode_options {
    uint32_t batch_sequences; /* most sequences running and reserved */
    uint32_t chunk_tokens;    /* most tokens of a preempted sequence computed again in one step */
    uint32_t swap_slots;      /* of the engine's, for blocks that give way; 0: none */
    bool prefix_cache;
    bool prefers_local; /* peers of this host are reached over their Unix socket */
    uint8_t fingerprint[BLOCK_KEY_FINGERPRINT_BYTES];
};

struct decode_counters {
    uint64_t tokens; /* generated here, first tokens not counted */
    uint64_t recomputed_tokens;
    uint64_t preemptions;
    uint64_t swap_out_blocks, swap_in_blocks; /* copied to and from the host's memory */
    uint32_t swapped_blocks;                  /* there now, for sequences that will come back */
    uint64_t prefix_queries, prefix_hits;
    uint32_t waiting; /* reservations that have no room yet */
    uint32_t receiving;
    uint32_t
        reserved_blocks; /* being filled; matched ones, which others may use too, not counted */
    uint32_t running;    /* sequences */
    uint32_t preempted;
};

/* transfer may be NULL when every request is local. Errors: ERR_NO_MEMORY. */
status decode_open(const struct decode_options *options, struct engine *engine,
                   struct prefix_tree *tree, struct transfer *transfer,
                   const struct decode_calls *calls, void *ctx, struct decode **decode_out);

/* Every request must be gone: decode_cancel_all, then wait for decode_idle. */
void decode_close(struct decode *decode);

/* A request wants room here; decode owns it. Answered by reserved, at once or when there is room.
 */
void decode_reserve(struct decode *decode, struct wire_request *request,
                    const struct wire_holder *holder, const struct sampling *sampling);

/* A request whose prompt was computed here, and that was expected. Request and the references on
 * ids are decode's. */
void decode_adopt(struct decode *decode, struct wire_request *request,
                  const struct sampling *sampling, const block_id *ids, uint32_t block_count,
                  const struct wire_token *firsts);

/* Keep room for so many sequences of a request whose prompt will be computed here; false: there is
 * none now. The room goes to decode_adopt, or comes back by decode_expect_none. */
bool decode_expect(struct decode *decode, uint32_t sequence_count);
void decode_expect_none(struct decode *decode, uint32_t sequence_count);

/* sequence: one that is to end where it is, or WIRE_ALL_SEQUENCES. */
void decode_cancel(struct decode *decode, uint64_t request_id, uint32_t sequence);
void decode_cancel_all(struct decode *decode);
/* Those of one router (wire/control.h: WIRE_ROUTER_OF). */
void decode_cancel_router(struct decode *decode, uint32_t router);

/* Call each with every request that is here, and its sequences that are not finished. */
void decode_each(const struct decode *decode,
                 void (*each)(void *ctx, uint64_t request_id, uint32_t sequences), void *ctx);

/* The transfer reports on a receive; true when it was one of ours. */
bool decode_received(struct decode *decode, const struct transfer_report *report);

/* Add this half's rows to the next step, at most rows_max rows and sequences_max sequences. Returns
 * the number of sequences written, which must stay where they are until decode_stepped. */
uint32_t decode_plan(struct decode *decode, uint32_t rows_max, uint32_t sequences_max,
                     struct engine_sequence *sequences);

/* The planned step ran, and every sequence has its outcome. The requests of those whose outcome is
 * not OK fail, with failure as the reason (NULL when all are OK). */
void decode_stepped(struct decode *decode, const char *failure);

/* Nothing waiting, receiving or running. */
bool decode_idle(const struct decode *decode);
/* Something a step could do now. */
bool decode_has_work(const struct decode *decode);
void decode_count(const struct decode *decode, struct decode_counters *counters_out);

#endif
