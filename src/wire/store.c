#include "wire/store.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "wire/codec.h"
#include "wire/control.h"

/* Define NAME_encode and NAME_decode of a fixed-size message from its field list. */
#define STORE_MESSAGE(name)                                                                        \
    void wire_store_##name##_encode(struct wire_frame *frame,                                      \
                                    const struct wire_store_##name *message)                       \
    {                                                                                              \
        struct codec c = {.frame = frame};                                                         \
        struct wire_store_##name copy = *message;                                                  \
        name##_fields(&c, &copy);                                                                  \
    }                                                                                              \
    status wire_store_##name##_decode(const uint8_t *data, size_t bytes,                           \
                                      struct wire_store_##name *message_out)                       \
    {                                                                                              \
        struct codec c = {.from = reader_over(data, bytes)};                                       \
        struct wire_store_##name message;                                                          \
        memset(&message, 0, sizeof(message));                                                      \
        name##_fields(&c, &message);                                                               \
        status st = codec_finish(&c, "store " #name, false);                                       \
        if (st == OK)                                                                              \
            *message_out = message;                                                                \
        return st;                                                                                 \
    }

static void codec_status(struct codec *c, int32_t *field)
{
    uint32_t code = c->frame != NULL ? (uint32_t) - *field : 0;
    codec_u32(c, &code, (uint32_t)-ERR_CANCELLED, "status");
    *field = -(int32_t)code;
}

/* An array of fixed-size items: copied when encoding, pointed to when decoding. */
static void codec_items(struct codec *c, const uint8_t **items, uint32_t count, uint32_t bytes)
{
    size_t all = (size_t)count * bytes;
    if (c->frame == NULL)
        *items = read_bytes(&c->from, all);
    else
        codec_bytes(c, (uint8_t *)(uintptr_t)*items, all); /* encoding only reads it */
}

static void layout_fields(struct codec *c, struct wire_store_layout *m)
{
    codec_status(c, &m->status);
    codec_u64(c, &m->block_bytes);
    codec_u32(c, &m->block_count, UINT32_MAX, "block_count");
    codec_u32(c, &m->layer_count, WIRE_STORE_LAYERS_MAX, "layer_count");
    codec_text(c, m->transfer_unix, sizeof(m->transfer_unix), "transfer_unix");
    codec_text(c, m->transfer_tcp, sizeof(m->transfer_tcp), "transfer_tcp");
    codec_text(c, m->text, sizeof(m->text), "text");
    codec_items(c, &m->layers, m->layer_count, 16);
}
STORE_MESSAGE(layout)

void wire_store_layer(const struct wire_store_layout *message, uint32_t layer, uint64_t *offset_out,
                      uint64_t *bytes_out)
{
    assert(layer < message->layer_count);
    *offset_out = load_u64(message->layers + (size_t)layer * 16);
    *bytes_out = load_u64(message->layers + (size_t)layer * 16 + 8);
}

static void ask_fields(struct codec *c, struct wire_store_ask *m, uint32_t item_bytes)
{
    codec_u64(c, &m->number);
    codec_bytes(c, m->lease.bytes, LEASE_BYTES);
    codec_u32(c, &m->epoch, UINT32_MAX, "epoch");
    codec_u32(c, &m->time_ms, UINT32_MAX, "time_ms");
    codec_u32(c, &m->count, WIRE_STORE_KEYS_MAX, "count");
    codec_items(c, &m->items, m->count, item_bytes);
}

void wire_store_ask_encode(struct wire_frame *frame, const struct wire_store_ask *message,
                           uint32_t item_bytes)
{
    struct codec c = {.frame = frame};
    struct wire_store_ask copy = *message;
    ask_fields(&c, &copy, item_bytes);
}

status wire_store_ask_decode(const uint8_t *data, size_t bytes, uint32_t item_bytes,
                             struct wire_store_ask *message_out)
{
    struct codec c = {.from = reader_over(data, bytes)};
    struct wire_store_ask message;
    memset(&message, 0, sizeof(message));
    ask_fields(&c, &message, item_bytes);
    status st = codec_finish(&c, "store ask", false);
    if (st == OK)
        *message_out = message;
    return st;
}

static void want_fields(struct codec *c, struct wire_store_want *m)
{
    codec_u64(c, &m->number);
    codec_u32(c, &m->first, WIRE_STORE_KEYS_MAX, "first");
    codec_u32(c, &m->count, WIRE_STORE_KEYS_MAX, "count");
}
STORE_MESSAGE(want)

static void leave_fields(struct codec *c, struct wire_store_leave *m)
{
    codec_u64(c, &m->number);
}
STORE_MESSAGE(leave)

static void answer_fields(struct codec *c, struct wire_store_answer *m)
{
    codec_u64(c, &m->number);
    codec_status(c, &m->status);
    codec_u32(c, &m->count, UINT32_MAX, "count");
    codec_text(c, m->text, sizeof(m->text), "text");
}
STORE_MESSAGE(answer)

static void delete_fields(struct codec *c, struct wire_store_delete *m)
{
    codec_u64(c, &m->number);
    codec_u32(c, &m->scope, WIRE_STORE_ALL, "scope");
    codec_bytes(c, m->key, sizeof(m->key));
    codec_bytes(c, m->fingerprint, sizeof(m->fingerprint));
}
STORE_MESSAGE(delete)

static void stats_fields(struct codec *c, struct wire_store_stats *m)
{
    uint64_t fields[sizeof(*m) / sizeof(uint64_t)];
    static_assert(sizeof(fields) == sizeof(*m), "every field is a uint64_t");
    memcpy(fields, m, sizeof(fields));
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        codec_u64(c, &fields[i]);
    memcpy(m, fields, sizeof(fields));
}
STORE_MESSAGE(stats)
