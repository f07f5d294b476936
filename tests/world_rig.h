/* tests/world_rig.h - a pair of stations of which d lends its blocks to p, through real transfers.
 *
 *     station D --lend--> transfer ==== fetches ====> transfer --gathered--> station P
 *
 * The test says who lends what to whom; what the router does with messages it does by calls.
 */
#ifndef TESTS_WORLD_RIG_H
#define TESTS_WORLD_RIG_H

#include "transfer_rig.h"

#include "worker/lend.h"

#define MODEL_PATH TEST_DATA_DIR "/vectors/models/llama-q4_1-tied.gguf"

struct world {
    struct pair pair;
    struct lend *lend;  /* of d */
    void (*also)(void); /* in each turn; NULL: nothing */
};

static inline void world_rig_open(struct world *w, uint32_t carriers, void (*also)(void))
{
    pair_open(&w->pair, MODEL_PATH, NULL, NULL, carriers);
    ASSERT_OK(lend_open(w->pair.d.tree, w->pair.d.block_count,
                        engine_layout(w->pair.d.engine)->shape.layer_count, w->pair.dt.transfer,
                        &w->lend));
    w->also = also;
}

static inline bool world_take(struct world *w, struct transfer_rig *rig, struct station *station)
{
    bool any = false;
    for (struct mail *mail = mailbox_take_all(rig->reports), *next; mail != NULL; mail = next) {
        struct transfer_report *report = (struct transfer_report *)mail;
        next = mail->next;
        any = true;
        if (mail->kind == TRANSFER_HOLDER_DONE)
            assert_true(prefill_released(station->prefill, report) ||
                        (station == &w->pair.d && lend_released(w->lend, report)));
        else
            assert_true(decode_received(station->decode, report) ||
                        prefill_gathered(station->prefill, report));
        transfer_report_free(report);
    }
    return any;
}

static inline void world_turn(struct world *w)
{
    bool any = world_take(w, &w->pair.pt, &w->pair.p);
    any = world_take(w, &w->pair.dt, &w->pair.d) || any;
    any = station_step(&w->pair.p) || any;
    any = station_step(&w->pair.d) || any;
    if (w->also != NULL)
        w->also();
    if (!any)
        usleep(100);
}

static inline void world_run(struct world *w)
{
    uint64_t end_ns = clock_ns() + PAIR_WAIT_MS * 1000000ull;
    while (!pair_idle(&w->pair) || !lend_idle(w->lend)) {
        world_turn(w);
        assert_true(clock_ns() < end_ns);
    }
}

static inline void world_close(struct world *w)
{
    lend_end_all(w->lend);
    world_run(w);
    station_assert_idle(&w->pair.p);
    station_assert_idle(&w->pair.d);
    lend_close(w->lend);
    pair_close(&w->pair);
}

/* Blocks of d's, under a lease of this number. */
static inline struct wire_source world_source(struct world *w, uint8_t number, uint32_t first,
                                              uint32_t count)
{
    struct wire_source source = {.first_block = first, .block_count = count};
    source.holder.incarnation = w->pair.dt.hello.incarnation;
    snprintf(source.holder.name, sizeof(source.holder.name), "d");
    snprintf(source.holder.transfer_unix, sizeof(source.holder.transfer_unix), "%s",
             w->pair.dt.unix_address.text);
    snprintf(source.holder.transfer_tcp, sizeof(source.holder.transfer_tcp), "%s",
             w->pair.dt.tcp_address.text);
    memset(source.lease.bytes, 0x80 + number, sizeof(source.lease.bytes));
    return source;
}

static inline void world_lend(struct world *w, const struct rig_ask *ask,
                              const struct wire_source *source)
{
    struct block_key keys[RIG_PROMPT_MAX];
    const struct kv_layout *layout = engine_layout(w->pair.d.engine);
    struct wire_request *wire = rig_wire(ask);
    struct block_key root =
        block_key_root(w->pair.model->fingerprint, layout->hash, layout->shape.dtype,
                       engine_numerics_class(w->pair.d.engine), wire->salt, sizeof(wire->salt));
    block_key_chain(&root, ask->prompt, ask->prompt_tokens, RIG_BLOCK_TOKENS, keys);
    const struct wire_lend lend = {.request_id = ask->id,
                                   .lease = source->lease,
                                   .epoch = ask->epoch,
                                   .expiry_ms = 5000,
                                   .first_block = source->first_block,
                                   .again = source->again,
                                   .key_count = source->first_block + source->block_count,
                                   .keys = keys[0].bytes};
    ASSERT_OK(lend_take(w->lend, &lend));
    wire_request_free(wire);
}

/* p is asked for the ask's first token, and may fetch. */
static inline void world_ask(struct world *w, const struct rig_ask *ask,
                             const struct wire_source *sources, uint32_t count)
{
    struct wire_frame frame = {0};
    struct sampling sampling = rig_sampling(ask);
    struct wire_request *made, *plain = rig_wire(ask);
    struct wire_request wire = *plain;
    wire.sources = sources;
    wire.source_count = count;
    wire_prefill_encode(&frame, &wire);
    ASSERT_OK(wire_prefill_decode(frame.data, frame.bytes, &made));
    wire_frame_close(&frame);
    wire_request_free(plain);
    prefill_submit(w->pair.p.prefill, made, &sampling);
}

/* The ask after: the same prompt with some more, and only a first token. */
static inline struct rig_ask longer(const struct rig_ask *ask, uint64_t id, uint32_t tokens)
{
    struct rig_ask more = {.id = id, .max_tokens = 1, .epoch = 3};
    rig_fill_prompt(&more, tokens, 77, tokens);
    memcpy(more.prompt, ask->prompt, ask->prompt_tokens * sizeof(ask->prompt[0]));
    return more;
}

static inline const struct wire_first *world_first(struct world *w, const struct rig_ask *ask)
{
    rig_assert_tokens(&w->pair.reference, &w->pair.book, ask);
    return &rig_entry(&w->pair.book, ask->id)->first;
}

#endif
