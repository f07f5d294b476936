/* prefill/prefill.h - prompts in, first tokens and offered blocks out.
 *
 *     intake.c   a request arrives, waits, asks for its place when its turn is near
 *     batch.c    which of those that have a place are computed together, and which rows next
 *     gather.c   the longest prefix that need not be computed: own tree, then peers, then the store
 *     offer.c    each layer of each chunk to the receiver while the next one is computed; or, when
 *                the store hands it over, all of it when it is computed
 *
 *     queued -> placing -> placed -> gathering -> running -> held -> (gone)
 *                  starting   place     ranges      steps    until the receiver has acknowledged
 *
 * Batches are static: a batch is formed from the oldest placed requests under a token budget, its
 * members run in order, chunk by chunk, and leave one by one; when it is nearly done the next one
 * asks for places. A place is asked for when the prefill is about to start, not when it is queued.
 *
 * Threads:  all calls on the compute thread; layer_ready too (the CPU backend calls it there).
 * Memory:   a request's own pieces are taken when it arrives; nothing is allocated inside a step.
 */
#ifndef PREFILL_PREFILL_H
#define PREFILL_PREFILL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "kv/prefix_tree.h"
#include "wire/control.h"

struct prefill;
struct transfer;
struct transfer_report;

/* What goes out; every call is on the compute thread. */
struct prefill_calls {
    void (*starting)(void *ctx, uint64_t request_id);
    /* tokens: [sequence_count]; prompt_tokens: [first->prompt_logprob_count]. */
    void (*first)(void *ctx, const struct wire_first *first, const struct wire_token *tokens,
                  const struct wire_token *prompt_tokens);
    void (*failed)(void *ctx, uint64_t request_id, status code, const char *text);
    void (*handed)(void *ctx, const struct wire_handed *handed);
    /* Decode it here: the request and the references on ids are the callee's from now on. */
    void (*local)(void *ctx, struct wire_request *request, const struct sampling *sampling,
                  const block_id *ids, uint32_t block_count, const struct wire_token *firsts);
    /* Before a request that decodes here starts: keep room for so many sequences. False: there is
     * none now. It is given back by local, or by local_drop when the request ends before. */
    bool (*local_take)(void *ctx, uint32_t sequence_count);
    void (*local_drop)(void *ctx, uint32_t sequence_count);
    /* A block that was computed here is full and final: worth keeping. owner: the request, when it
     * is handed over by the store, else 0. parent: NULL for a chain's first. */
    void (*sealed)(void *ctx, uint64_t owner, const struct block_key *key,
                   const struct block_key *parent, block_id id);
    /* Have the store fill ids with the blocks of these keys, as many leading ones as it has;
     * prefill_fetched follows, also after fetch_cancel. An error: there is no store now. */
    status (*fetch)(void *ctx, uint64_t ticket, const struct block_key *keys, const block_id *ids,
                    uint32_t count, uint32_t deadline_ms);
    void (*fetch_cancel)(void *ctx, uint64_t ticket);
    /* Hand over by the store. keys, ids: [block_count] to be copied; the references on ids are the
     * callee's from now on. partial: the last block is not full; its key names what it has. */
    void (*save)(void *ctx, uint64_t request_id, const struct block_key *keys, const block_id *ids,
                 uint32_t block_count, bool partial);
};

/* How a fetch from the store ended. */
struct prefill_fetch {
    uint64_t ticket;
    status status;
    const char *text;
    uint32_t block_count; /* leading ones that landed and are as they were added */
    uint64_t bytes;
    double seconds;    /* that it took */
    uint64_t ended_ns; /* of clock_ns; the compute thread hears of it a step later */
};

struct prefill_options {
    uint32_t batch_tokens; /* most prompt tokens of a batch; a longer prompt is one of its own */
    uint32_t chunk_tokens; /* most rows of one step; at least a block */
    uint32_t local_sequences_max; /* most sequences of a request that decodes here */
    uint32_t split_bytes; /* least that each of two peers gives, for both to be asked; 0: 256 KiB,
                             2 ms of a gigabit for a subscription's round trip */
    bool prefix_cache;
    bool offer_late; /* nothing before the prefill is done: to see what the overlap is worth */
    uint8_t fingerprint[BLOCK_KEY_FINGERPRINT_BYTES];
};

struct prefill_counters {
    uint64_t tokens;            /* computed */
    uint64_t context;           /* sum over these of the tokens before each */
    uint64_t prompts;           /* computed to their end */
    uint64_t compute_ns;        /* of the steps in which they were */
    uint64_t recomputed_tokens; /* of resumed requests: what another worker had computed */
    uint64_t prefix_queries, prefix_hits; /* tokens asked of tree, peers and store, and found */
    uint64_t peer_tokens, store_tokens;   /* of these, fetched from there */
    uint64_t gather_failures;             /* ranges that a source did not deliver */
    uint32_t waiting;                     /* queued, placing, placed */
    uint32_t running;
    uint32_t held; /* handed over, not yet acknowledged */
};

/* transfer may be NULL when every request is local. Errors: ERR_NO_MEMORY, ERR_BAD_INPUT (chunks
 * smaller than a block). */
status prefill_open(const struct prefill_options *options, struct engine *engine,
                    struct prefix_tree *tree, struct transfer *transfer,
                    const struct prefill_calls *calls, void *ctx, struct prefill **prefill_out);

/* Every request must be gone: prefill_cancel_all, then wait for prefill_idle. */
void prefill_close(struct prefill *prefill);

/* A request arrives; prefill owns it. sampling is copied; its numbers have been checked. What is
 * wrong with the request is told by failed. */
void prefill_submit(struct prefill *prefill, struct wire_request *request,
                    const struct sampling *sampling);
void prefill_place(struct prefill *prefill, const struct wire_place *place);
void prefill_cancel(struct prefill *prefill, uint64_t request_id);
void prefill_cancel_all(struct prefill *prefill);
/* Those of one router (wire/control.h: WIRE_ROUTER_OF); WIRE_EVERY_ROUTER: all. */
void prefill_cancel_router(struct prefill *prefill, uint32_t router);

/* The transfer says that a lease has ended; true when it was one of ours. Usually that of a held
 * request: its blocks are let go. When it ended before the prefill did, there is nobody to compute
 * for any more, and the request goes without a word: the receiver, or its silence, says why. */
bool prefill_released(struct prefill *prefill, const struct transfer_report *report);

/* The transfer reports on a receive; true when it was a range of a prompt that is gathered here. */
bool prefill_gathered(struct prefill *prefill, const struct transfer_report *report);

/* What fetch was called for has ended. */
void prefill_fetched(struct prefill *prefill, const struct prefill_fetch *fetch);

/* Add this half's rows to the next step: at most rows_max rows, sequences_max sequences and
 * outputs_max rows with logits (at least one). Returns the number of sequences written, which must
 * stay where they are until prefill_stepped. Sends what must be sent before (starting). */
uint32_t prefill_plan(struct prefill *prefill, uint32_t rows_max, uint32_t sequences_max,
                      uint32_t outputs_max, struct engine_sequence *sequences);

/* When nothing was planned: in how many ms to plan again, should nothing be heard; -1: no matter.
 */
int prefill_wait_ms(const struct prefill *prefill, uint64_t now_ns);

/* During the step that was planned: the pool holds this layer. */
void prefill_layer_ready(struct prefill *prefill, uint32_t layer);

/* The planned step ran, and every sequence has its outcome. Those whose outcome is not OK fail,
 * with failure as the reason (NULL when all are OK). */
void prefill_stepped(struct prefill *prefill, const char *failure);

/* Call each with every request that has no first token yet. */
void prefill_each(const struct prefill *prefill,
                  void (*each)(void *ctx, uint64_t request_id, uint32_t prompt_tokens), void *ctx);

/* Nothing queued, running or held. */
bool prefill_idle(const struct prefill *prefill);
void prefill_count(const struct prefill *prefill, struct prefill_counters *counters_out);

#endif
