/* router/request.h - what the router knows of clients, their requests, and workers. Internal.
 *
 *     answer    what one HTTP client waits for                      (one stream, or one body)
 *       request    one prompt of it, as the workers see it          (a chat has one)
 *         sequence    one generation of that prompt                 (n of them)
 *
 * Memory: an answer owns its requests and sequences; it goes when the HTTP request has ended and no
 *         task in the pool works on it. Workers that still run its requests are told to cancel.
 */
#ifndef ROUTER_REQUEST_H
#define ROUTER_REQUEST_H

#include "base/address.h"
#include "base/loop.h"
#include "base/mailbox.h"
#include "base/task_pool.h"
#include "http/openai_request.h"
#include "http/openai_response.h"
#include "http/prometheus.h"
#include "http/server.h"
#include "model/chat_template.h"
#include "model/detokenizer.h"
#include "model/token_list.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "router/choose.h"
#include "router/cost.h"
#include "router/directory.h"
#include "router/router.h"
#include "router/stops.h"
#include "router/why.h"
#include "wire/control.h"
#include "wire/link.h"

#define ROUTER_BUCKETS 4096 /* of the table of requests by id */
#define OPERATOR_FRAME_BYTES_MAX (1u << 20)
#define ROUTER_CORRUPT_MAX 3 /* attempts that end with ERR_CORRUPT, one after another */

struct router;
struct request;
struct answer;

/* ---- workers ---- */

struct worker {
    struct worker *next;
    struct router *router;
    struct link *link;
    struct hello hello;
    struct wire_register registration;
    bool registered;
    bool leaving;
    struct wire_heartbeat beat; /* the last */
    uint64_t beat_ns;           /* when it came */
    uint64_t progress_ns;       /* when step_count last moved, or it was idle */
    /* What we have given it; capacity itself is the worker's to grant. */
    uint64_t queued_tokens; /* of prompts without a first token yet */
    uint64_t ahead_tokens;  /* of these: not cached, so to be computed */
    uint32_t ahead_count;   /* these prompts */
    uint64_t ahead_ns;      /* when the first of them had its turn, as far as we know */
    uint32_t decoding;      /* sequences placed here and not finished */
    bool closed;            /* given up: the next tick lets it go */
    uint32_t marked;        /* lost: requests that it computed, and with which one died before */
    /* Between the last two heartbeats in which steps were made. */
    double recent_operations, recent_bytes, recent_step_s;
    int slot;             /* in the directory; -1: none */
    struct cost_fit cost; /* of computing prompts */
    uint64_t cost_ns;     /* when that was last measured */
    double place_s;       /* until its prompts had a place, of late */
    double lend_s;        /* until it lends while it decodes only, of late */
    uint64_t lend_ns;     /* when that was last measured */
    double store_rate;    /* bytes/s of late from the store; 0: unknown */
    struct route_pull pulls[DIRECTORY_WORKERS_MAX]; /* from another, by its slot */
    /* By the slot of another: until then it is taken to be out of reach (handoff.c). */
    uint64_t apart_until_ns[DIRECTORY_WORKERS_MAX];
};

/* ---- clients ---- */

/* A token that arrived, with all that logprobs may say of it. */
struct sequence_token {
    char *piece; /* bytes of the token */
    struct openai_token shown;
    struct openai_alternative *top;
};

struct sequence {
    struct request *request;
    uint32_t number; /* 0 .. n - 1 */
    uint32_t choice; /* index in the answer */
    struct detokenizer detokenizer;
    struct stops stops;
    uint32_t token_count;     /* arrived in order */
    struct token_list given;  /* these tokens: what another worker goes on from */
    struct wire_token *early; /* tokens that overtook the first one */
    uint32_t early_count;
    bool role_sent;
    bool done;
    const char *finish_reason;
    struct text text;              /* not streamed: all of it; streamed: free to be sent */
    uint32_t text_characters;      /* sent or written, for text_offset */
    struct sequence_token *tokens; /* for logprobs: not yet sent */
    uint32_t shown_count, shown_capacity;
    uint64_t last_ns; /* of its last token */
};

enum request_state {
    REQUEST_WAITING, /* a prefill worker has it; no token yet */
    REQUEST_RUNNING, /* first tokens have come */
    REQUEST_PARKED,  /* lost its worker, and waits for another one */
    REQUEST_DONE,
};

struct request {
    struct request *next_in_bucket;
    struct answer *answer;
    uint64_t id;     /* on workers */
    uint32_t number; /* which prompt of the answer */
    enum request_state state;
    struct token_list prompt;
    struct token_list resumed;  /* the prompt and what its sequence was given, as it was sent */
    struct request *next_piece; /* in answer->pieces */
    struct wire_request wire;   /* as it was sent */
    struct wire_bias *bias;
    uint32_t *stop_ids;
    struct block_key *keys; /* of the prompt's full blocks, as the workers have them */
    uint32_t key_count, block_tokens;
    struct block_key *resumed_keys; /* the same of resumed */
    uint32_t resumed_key_count;
    struct wire_source sources[WIRE_SOURCES_MAX]; /* wire.sources */
    struct worker *prefill;                       /* NULL: none, or done with it */
    struct worker *decode;
    bool handed;  /* decode has all it needs: prefill may go */
    bool stopped; /* a sequence ended by a stop string */
    bool broken;  /* a handoff of it failed: it is computed where it is decoded */
    uint32_t attempts;
    uint32_t tries;    /* of these since its last token */
    uint32_t corrupts; /* of these, ended with ERR_CORRUPT */
    uint32_t deaths;   /* of these, ended with the death of the worker that was computing it */
    uint32_t moves;    /* from a worker that had not begun with it to one with nothing to do */
    bool started;      /* its worker has begun with it, as far as is known */
    uint64_t retry_ns; /* parked: not before */
    uint32_t sequences_left;
    uint32_t first_number;      /* the workers' sequence 0 of it is this one */
    struct sequence *sequences; /* [n] of the prompt; a piece has one of them, its request's others
                                   are another's */
    uint32_t cached_tokens;
    uint32_t ahead_tokens; /* that its worker is taken to compute */
    bool found_idle;       /* that worker had nothing else to compute */
    uint32_t
        holders_decoding; /* bits of wire.sources: who did nothing but decode when it was asked */
    struct why why;
    uint64_t sent_ns, first_ns, progress_ns;
};

struct answer {
    struct task task;    /* first: what the pool runs */
    struct answer *next; /* in router->answers */
    struct router *router;
    struct http_request *http; /* NULL: ended */
    char *body;                /* taken from the HTTP request */
    size_t body_bytes;
    enum openai_kind kind;
    uint8_t tenant[HTTP_TENANT_BYTES]; /* of its API key */
    bool in_pool;
    uint32_t context_tokens; /* the router's, when it arrived */
    struct hello worker;     /* of any worker then: how blocks are keyed; parts 0: there was none */
    struct block_key **keys; /* [prompt_count] made by the pool */
    uint32_t *key_counts;
    uint8_t salt[WIRE_SALT_BYTES];
    status read; /* what the pool found */
    struct openai_error error;
    struct openai_request *openai;
    struct token_list *prompts; /* [prompt_count] what the pool made of them */
    uint32_t prompt_count;
    struct stop_string *stops;
    char id[OPENAI_ID_BYTES];
    struct openai_head head;
    uint64_t arrived_ns, last_sent_ns;
    bool waiting;             /* counted in router->waiting_count */
    bool streaming;           /* the head is out */
    struct request *requests; /* [prompt_count] */
    struct request *pieces;   /* of requests whose sequences went on separately */
    uint32_t requests_left;   /* with pieces */
};

/* ---- the router ---- */

struct router_metrics {
    struct prometheus *all;
    uint32_t ttft, itl, tpot, e2e, queue, prefill, decode, place, handoff, exposed;
    uint32_t failovers, moved;
    uint32_t prompt_tokens, generation_tokens, cached_tokens, success, failed;
    uint32_t reused_tokens, gather, ranges, directory;
    uint32_t running, waiting, handoffs, handoff_bytes, rejected;
    uint32_t http_connections, http_requests, http_refused, http_cut, http_gone;
    uint32_t worker_up, worker_blocks, worker_sequences, worker_tokens, worker_operations,
        worker_bytes, worker_compute_ratio, worker_bandwidth_ratio, worker_preemptions,
        worker_swap_blocks, worker_swap_bytes, worker_recomputed, worker_step_seconds,
        worker_prefix_queries, worker_prefix_hits, worker_checksum_failures, worker_handoff_seconds,
        worker_leases, worker_lendings, worker_pool, kv_usage;
    uint32_t worker_store_up, worker_save_blocks, worker_saving, worker_save_bytes, worker_save_lag;
    uint32_t resumed_tokens;
};

struct router {
    const struct router_options *options;
    struct loop *loop;
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template; /* NULL: only completions */
    char *template_source;
    size_t template_bytes;
    char bos_text[128], eos_text[128];
    const char *model_name;
    enum router_handoff handoff;
    struct http_keys *keys;
    struct http_server *http;
    struct task_pool *pool;
    struct mailbox *pool_done;
    struct loop_watch *pool_watch, *term_watch, *int_watch;
    struct loop_timer *tick;
    struct link_listener *listener;
    struct hello hello;
    struct cluster_key *key; /* NULL: none */
    struct worker *workers;
    struct directory *directory;
    struct why_ring *why;
    struct answer *answers;
    struct request *buckets[ROUTER_BUCKETS];
    uint32_t tracked_count; /* requests in these */
    uint64_t next_request_id;
    uint64_t failover_count, moved_count;
    uint32_t
        suspects_doubled;    /* 2 to this: how many whose workers keep dying are tried at a time */
    uint64_t suspects_ns;    /* when that was last one, because a worker died */
    uint32_t waiting_count;  /* answers without a first token */
    uint32_t context_tokens; /* the least of the workers'; the model's while there is none */
    struct wire_frame frame; /* scratch */
    struct text text;        /* scratch */
    struct router_metrics metrics;
    bool ready_said;
    bool draining, http_draining;
    bool ending; /* it lets go of its workers */
    uint64_t drain_deadline_ns;
    int exit_code;
};

/* accept.c */
extern const struct http_route router_routes[];
extern const uint32_t router_route_count;
void accept_done(void *ctx, struct mail *mail); /* a task came back from the pool */
void answer_error(struct answer *answer, const struct openai_error *error);
/* The client is gone, or the answer is complete: cancel what runs and free it (or let the pool). */
void answer_end(struct answer *answer);

/* route.c */
struct request *request_find(struct router *router, uint64_t id);
void request_track(struct router *router, struct request *request);
void request_untrack(struct router *router, struct request *request);
struct route_view;
uint32_t route_views(struct router *router, struct route_view *views, struct worker **workers);
/* Send it to this worker, which decodes it too, as one more attempt; who holds the most of its
 * blocks lends them. */
void route_resume(struct router *router, struct request *request, struct worker *worker);
/* Nobody has it any more: those of its workers that are not lost are told. It has no id then. */
void route_take_back(struct router *router, struct request *request, const struct worker *lost);
/* Send it to a prefill worker. Errors: ERR_CLOSED (no worker is there). */
status route_prefill(struct router *router, struct request *request);
/* Its prefill is about to start: ask a decode worker for room. */
void route_decode(struct router *router, struct request *request);
void route_reserved(struct router *router, struct worker *worker,
                    const struct wire_reserved *reserved);
/* Its first token is there. */
void route_computed(struct request *request);
/* One of its sequences met a stop string: whoever decodes it may end it. */
void route_stop(struct sequence *sequence);
/* It is over: forget it, and have the workers do so. */
void route_release(struct request *request);
/* A worker is gone: what waited for it goes elsewhere or fails by name. */
void route_worker_lost(struct router *router, struct worker *worker);
/* What time does: workers that hang, requests that wait or come no further. Every 100 ms. */
void route_tick(struct router *router);
/* Whether its worker says so before it begins with it: it asks for a place then. */
bool route_asks(const struct request *request);
void route_send(struct worker *worker, uint16_t type, const struct wire_frame *frame);

/* failover.c */

/* One of its workers is lost, or (lost NULL) a handoff of it failed: its unfinished sequences go on
 * elsewhere after the tokens that they have, now or when a worker is there. The request may be gone
 * (no memory). */
void failover_request(struct router *router, struct request *request, const struct worker *lost);
/* Requests that the lost worker was computing and that have seen a worker die before. */
uint32_t failover_count_marked(const struct router *router, const struct worker *lost);
/* A token came that another worker than a lost one made: it does not take workers down. */
void failover_let_off(struct router *router, struct request *request);
/* A prompt that waits in a worker's queue, given to one as chosen now, under a new id. */
void failover_move(struct router *router, struct request *request);
/* Those that wait for a worker, or for their next attempt. */
void failover_tick(struct router *router, uint64_t now_ns);
void failover_close(struct answer *answer); /* its pieces */

/* Its prompt is in the store: its unfinished sequences fetch it there, and go on. */
void failover_hand_over(struct router *router, struct request *request);

/* handoff.c */

enum handoff_way {
    HANDOFF_DIRECT,
    HANDOFF_BY_STORE,
    HANDOFF_NONE, /* neither works now: compute it where it is decoded */
};

/* How what this worker computes gets to some decode worker, as things are. */
enum handoff_way handoff_choose(const struct worker *prefill);
/* May it fetch from there at all? With --handoff store, roles are apart. */
bool handoff_may_fetch(const struct worker *asker, const struct worker *holder);
/* False: it could not of late, and the store does instead. */
bool handoff_reaches(const struct worker *decode, const struct worker *prefill);
/* The decode worker cannot reach the other one: for a while the store hands over between them. */
void handoff_apart(struct worker *decode, const struct worker *prefill);
/* What a decode worker says of a request. */
void handoff_failed(struct worker *decode, const struct wire_failed *failed);
/* The request goes on, in any case. */
void handoff_saved(struct worker *prefill, const struct wire_saved *saved);

/* sources.c */

/* The keys of a prompt's full blocks, as the workers of that hello make them. Any thread. */
void sources_keys(const struct hello *worker, const uint8_t salt[WIRE_SALT_BYTES],
                  const struct token_list *prompt, struct block_key **keys_out,
                  uint32_t *count_out);
/* After failover made resumed: its keys, from those of the prompt. */
void sources_resume(struct request *request);
/* Of what is sent now. */
const struct block_key *sources_keys_of(const struct request *request, uint32_t *count_out);
/* Have holder (NULL: nobody), and one that can stand in for it, lend to asker. runs: by slot. */
void sources_ask(struct request *request, struct worker *asker, struct worker *holder,
                 const uint32_t *runs);
/* What was lent and not fetched is not wanted any more. */
void sources_end(struct request *request);
void sources_measure(struct worker *asker, const struct request *request,
                     const struct wire_first *first);
void route_holder_fill(const struct worker *holder, const struct worker *asker,
                       struct wire_holder *out);

/* relay.c */
void relay_first(struct worker *worker, struct reader *from);
void relay_tokens(struct router *router, struct reader *from);
void relay_failed(struct router *router, const struct wire_failed *failed);
void request_fail(struct request *request, unsigned http_code, const char *code, const char *text);
void relay_tick(struct router *router); /* often: streams that are silent for 10 s get a comment */

/* health.c */
status health_open(struct router *router);
void health_close(struct router *router);
void health_tick(struct router *router, uint64_t now_ns);
uint32_t health_worker_count(const struct router *router, uint32_t roles);

/* The worker has these roles from now on: new requests are placed by them. */
void health_set_roles(struct worker *worker, uint32_t roles);

/* operator.c */

/* A frame of one that is no worker; false: it is none that an operator sends. */
bool operator_take(struct worker *asker, uint16_t type, const uint8_t *payload, uint32_t bytes);

/* metrics.c */
status metrics_open(struct router *router);
void metrics_close(struct router *router);
void metrics_write(struct router *router, struct text *text);
void metrics_worker_gone(struct router *router, const struct worker *worker);

#endif
