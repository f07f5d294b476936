/* tests/transfer_rig.h - stations that hand over to each other through real transfers of one
 * process.
 *
 *     station P --starting--> glue --reserve--> station D
 *     station P <---place---- glue <--reserved- station D
 *               ======== transfer, shm or tcp ========>
 *
 * The glue does at once what the router does with messages.
 */
#ifndef TESTS_TRANSFER_RIG_H
#define TESTS_TRANSFER_RIG_H

#include <unistd.h>

#include "base/clock.h"
#include "scheduler_rig.h"

#define PAIR_WAIT_MS 20000

struct transfer_rig {
    struct mailbox *reports;
    struct transfer *transfer;
    struct hello hello;
    struct address unix_address, tcp_address;
};

/* A test switch for the next transfers that are opened. */
static uint32_t transfer_rig_flip_offered;

static inline void transfer_rig_open(struct transfer_rig *rig, const struct station *station,
                                     const struct model *model, const char *folder,
                                     uint32_t carriers)
{
    const struct kv_layout *layout = engine_layout(station->engine);
    const struct backend_pool *pool = engine_pool(station->engine);
    struct transfer_slice layers[16];
    struct address any;
    char text[ADDRESS_TEXT_BYTES];
    memset(rig, 0, sizeof(*rig));
    rig->hello = (struct hello){.parts = HELLO_HAS_MODEL | HELLO_HAS_KV,
                                .kv_dtype = layout->shape.dtype,
                                .block_tokens = layout->shape.block_tokens,
                                .ranks = 1,
                                .role = HELLO_PREFILL,
                                .incarnation = hello_incarnation_random()};
    memcpy(rig->hello.fingerprint, model->fingerprint, sizeof(model->fingerprint));
    memcpy(rig->hello.layout_hash, layout->hash, sizeof(layout->hash));
    snprintf(rig->hello.numerics_class, sizeof(rig->hello.numerics_class), "%s",
             engine_numerics_class(station->engine));
    snprintf(rig->hello.name, sizeof(rig->hello.name), "%s", station->name);
    snprintf(text, sizeof(text), "unix:%s/%s", folder, station->name);
    ASSERT_OK(address_parse(text, 0, &rig->unix_address));
    ASSERT_OK(address_parse("127.0.0.1:0", 0, &any));
    ASSERT_OK(mailbox_open(&rig->reports));
    assert_true(layout->shape.layer_count <= 16);
    for (uint32_t i = 0; i < layout->shape.layer_count; i++)
        kv_layout_layer(layout, i, &layers[i].offset, &layers[i].bytes);
    const struct transfer_options options = {
        .hello = &rig->hello,
        .unix_listen = &rig->unix_address,
        .tcp_listen = &any,
        .pool = {.host = pool->host,
                 .fd = pool->fd,
                 .block_count = pool->block_count,
                 .block_bytes = layout->block_bytes,
                 .fills = prefix_tree_fills(station->tree)},
        .layers = layers,
        .layer_count = layout->shape.layer_count,
        .carriers = carriers,
        .reports = rig->reports,
        .test_flip_offered = transfer_rig_flip_offered,
    };
    ASSERT_OK(transfer_open(&options, &rig->transfer));
    if (carriers != TRANSFER_SHM)
        ASSERT_OK(transfer_tcp_address(rig->transfer, &rig->tcp_address));
}

static inline void transfer_rig_close(struct transfer_rig *rig)
{
    transfer_close(rig->transfer);
    for (struct mail *mail = mailbox_take_all(rig->reports), *next; mail != NULL; mail = next) {
        next = mail->next;
        transfer_report_free((struct transfer_report *)mail);
    }
    mailbox_close(rig->reports);
}

/* Give the transfer's reports to the schedulers; false: there were none. */
static inline bool transfer_rig_take(struct transfer_rig *rig, struct station *station)
{
    bool any = false;
    for (struct mail *mail = mailbox_take_all(rig->reports), *next; mail != NULL; mail = next) {
        struct transfer_report *report = (struct transfer_report *)mail;
        next = mail->next;
        any = true;
        if (mail->kind == TRANSFER_HOLDER_DONE)
            assert_true(prefill_released(station->prefill, report));
        else
            assert_true(decode_received(station->decode, report));
        transfer_report_free(report);
    }
    return any;
}

/* The block's sums are in the book, now if they were not, and are of what it holds. */
static inline void transfer_rig_assert_sums(struct transfer_rig *rig, const struct station *station,
                                            block_id id)
{
    const struct kv_layout *layout = engine_layout(station->engine);
    const uint8_t *block = engine_pool(station->engine)->host + id * layout->block_bytes;
    for (uint32_t layer = 0; layer < layout->shape.layer_count; layer++) {
        size_t offset, bytes;
        kv_layout_layer(layout, layer, &offset, &bytes);
        assert_true(checksum_equal(transfer_sum(rig->transfer, layer, id),
                                   checksum_of(block + offset, bytes)));
    }
}

/* Of every block that may be offered next. */
static inline void transfer_rig_assert_book(struct transfer_rig *rig, const struct station *station)
{
    struct block_key key;
    for (block_id id = 0; id < station->block_count; id++) {
        if (prefix_tree_key_of(station->tree, id, &key))
            transfer_rig_assert_sums(rig, station, id);
    }
}

struct pair {
    struct model *model;
    struct rig_book book;
    struct rig_reference reference;
    struct station p, d;
    struct transfer_rig pt, dt;
    const struct rig_ask *asks[RIG_ASKS_MAX]; /* for the glue: the asks by order of submission */
    uint32_t ask_count;
    bool keep_starting; /* the glue leaves starting unanswered */
    bool keep_reserved; /* and reserved */
    char folder[64];
};

static inline const struct rig_ask *pair_ask(const struct pair *pair, uint64_t id)
{
    for (uint32_t i = 0; i < pair->ask_count; i++) {
        if (pair->asks[i]->id == id)
            return pair->asks[i];
    }
    fail_msg("no request %llu", (unsigned long long)id);
    return NULL;
}

/* The router's answer to starting. */
static inline void pair_reserve(struct pair *pair, const struct rig_ask *ask)
{
    struct sampling sampling = rig_sampling(ask);
    struct wire_holder holder = {.incarnation = pair->pt.hello.incarnation};
    snprintf(holder.name, sizeof(holder.name), "%s", pair->p.name);
    snprintf(holder.transfer_unix, sizeof(holder.transfer_unix), "%s", pair->pt.unix_address.text);
    if (pair->pt.tcp_address.text[0] != '\0')
        snprintf(holder.transfer_tcp, sizeof(holder.transfer_tcp), "%s", pair->pt.tcp_address.text);
    decode_reserve(pair->d.decode, rig_wire(ask), &holder, &sampling);
}

static inline void pair_place(struct pair *pair, const struct wire_reserved *reserved)
{
    const struct wire_place place = {.request_id = reserved->request_id,
                                     .matched_blocks = reserved->matched_blocks};
    prefill_place(pair->p.prefill, &place);
}

static inline void pair_heard(void *ctx, struct station *station, enum rig_said said,
                              uint64_t request_id, const void *message)
{
    struct pair *pair = ctx;
    (void)station;
    if (said == RIG_STARTING && !pair->keep_starting) {
        pair_reserve(pair, pair_ask(pair, request_id));
    } else if (said == RIG_RESERVED) {
        const struct wire_reserved *reserved = message;
        if (reserved->status == OK && !pair->keep_reserved)
            pair_place(pair, reserved);
    }
}

static inline void pair_open(struct pair *pair, const char *model_path,
                             const struct station_config *p, const struct station_config *d,
                             uint32_t carriers)
{
    struct station_config p_config = p != NULL ? *p : (struct station_config){0};
    struct station_config d_config = d != NULL ? *d : (struct station_config){0};
    p_config.name = "p";
    d_config.name = "d";
    memset(pair, 0, sizeof(*pair));
    ASSERT_OK(weights_open(model_path, &pair->model));
    rig_book_open(&pair->book);
    rig_reference_open(&pair->reference, pair->model);
    snprintf(pair->folder, sizeof(pair->folder), "/tmp/baton-test-XXXXXX");
    assert_non_null(mkdtemp(pair->folder));
    station_open(&pair->p, pair->model, &pair->book, &p_config);
    station_open(&pair->d, pair->model, &pair->book, &d_config);
    transfer_rig_open(&pair->pt, &pair->p, pair->model, pair->folder, carriers);
    transfer_rig_open(&pair->dt, &pair->d, pair->model, pair->folder, carriers);
    station_start(&pair->p, pair->model, &p_config, pair->pt.transfer);
    station_start(&pair->d, pair->model, &d_config, pair->dt.transfer);
    pair->p.heard = pair->d.heard = pair_heard;
    pair->p.ctx = pair->d.ctx = pair;
}

static inline void pair_submit(struct pair *pair, const struct rig_ask *ask)
{
    assert_true(pair->ask_count < RIG_ASKS_MAX);
    pair->asks[pair->ask_count++] = ask;
    station_submit(&pair->p, ask);
}

/* One turn of both; false: nothing happened. */
static inline bool pair_turn(struct pair *pair)
{
    bool any = transfer_rig_take(&pair->pt, &pair->p);
    any = transfer_rig_take(&pair->dt, &pair->d) || any;
    any = station_step(&pair->p) || any;
    any = station_step(&pair->d) || any;
    if (!any)
        usleep(200);
    return any;
}

static inline bool pair_idle(struct pair *pair)
{
    return prefill_idle(pair->p.prefill) && decode_idle(pair->p.decode) &&
           prefill_idle(pair->d.prefill) && decode_idle(pair->d.decode);
}

/* Turn until condition; in bounded time. */
#define PAIR_UNTIL(pair, condition)                                                                \
    do {                                                                                           \
        uint64_t end_ns_ = clock_ns() + PAIR_WAIT_MS * 1000000ull;                                 \
        while (!(condition)) {                                                                     \
            pair_turn(pair);                                                                       \
            if (clock_ns() > end_ns_)                                                              \
                fail_msg("%s did not come", #condition);                                           \
        }                                                                                          \
    } while (0)

static inline void pair_run(struct pair *pair)
{
    PAIR_UNTIL(pair, pair_idle(pair));
}

static inline void pair_assert_tokens(struct pair *pair)
{
    for (uint32_t i = 0; i < pair->ask_count; i++)
        rig_assert_tokens(&pair->reference, &pair->book, pair->asks[i]);
}

static inline void pair_close(struct pair *pair)
{
    char path[128];
    prefill_cancel_all(pair->p.prefill);
    decode_cancel_all(pair->d.decode);
    pair_run(pair);
    transfer_rig_assert_book(&pair->pt, &pair->p);
    transfer_rig_assert_book(&pair->dt, &pair->d);
    station_close(&pair->p);
    station_close(&pair->d);
    transfer_rig_close(&pair->dt);
    transfer_rig_close(&pair->pt);
    rig_reference_close(&pair->reference);
    rig_book_close(&pair->book);
    weights_close(pair->model);
    snprintf(path, sizeof(path), "%s/p", pair->folder);
    unlink(path);
    snprintf(path, sizeof(path), "%s/d", pair->folder);
    unlink(path);
    rmdir(pair->folder);
}

#endif
