/* The messages between router and workers: each comes back as it was sent, with any values; and
 * nothing that was cut, lengthened or put out of its range is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "wire/control.h"

#define ROUNDS 200

static uint64_t random_state = 0x2545f4914f6cdd1du;

static uint64_t random_u64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* 0 .. limit, its ends more often than the rest. */
static uint32_t random_to(uint32_t limit)
{
    switch (random_u64() % 4) {
    case 0:
        return 0;
    case 1:
        return limit;
    default:
        return (uint32_t)((random_u64() >> 32) % ((uint64_t)limit + 1));
    }
}

static float random_float(void)
{
    return (float)(int64_t)random_u64() * 0x1p-40f;
}

static void random_text(char *to, size_t bytes)
{
    size_t length = random_to((uint32_t)bytes - 1);
    memset(to, 0, bytes);
    for (size_t i = 0; i < length; i++) {
        do
            to[i] = (char)(0x20 + random_u64() % 0xe0);
        while (to[i] == 0x7f);
    }
}

/* ---- a decoder of any message, over memory of exactly its size ---- */

typedef status (*decode_call)(const uint8_t *data, size_t bytes);

/* Bytes in memory of their own, so that a sanitizer sees the first byte read past them. */
static status decode_exact(decode_call decode, const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(copy);
    memcpy(copy, data, bytes);
    status st = decode(copy, bytes);
    free(copy);
    return st;
}

/* Whole it is taken; cut anywhere, or with a byte more, it is refused with a message. */
static void assert_no_other_length(decode_call decode, const struct wire_frame *frame)
{
    assert_false(frame->failed);
    assert_int_equal(decode_exact(decode, frame->data, frame->bytes), OK);
    size_t step = frame->bytes > 400 ? frame->bytes / 200 : 1;
    for (size_t cut = 0; cut < frame->bytes; cut += step) {
        error_set(OK, "%s", "");
        assert_int_equal(decode_exact(decode, frame->data, cut), ERR_BAD_INPUT);
        assert_true(strlen(error_text()) > 0);
    }
    uint8_t *longer = calloc(1, frame->bytes + 1);
    assert_non_null(longer);
    memcpy(longer, frame->data, frame->bytes);
    assert_int_equal(decode(longer, frame->bytes + 1), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "too many"));
    free(longer);
}

/* The number at offset, set to value, makes the message refused and its field named. */
static void assert_refused_with(decode_call decode, const struct wire_frame *frame, size_t offset,
                                uint32_t value, const char *name)
{
    uint8_t *copy = malloc(frame->bytes);
    assert_non_null(copy);
    assert_true(offset + 4 <= frame->bytes);
    memcpy(copy, frame->data, frame->bytes);
    store_u32(copy + offset, value);
    assert_int_equal(decode(copy, frame->bytes), ERR_BAD_INPUT);
    if (strstr(error_text(), name) == NULL)
        fail_msg("\"%s\" does not name %s", error_text(), name);
    free(copy);
}

#define DECODER(name)                                                                              \
    static status decode_##name(const uint8_t *data, size_t bytes)                                 \
    {                                                                                              \
        struct wire_##name message;                                                                \
        memset(&message, 0x5a, sizeof(message));                                                   \
        struct wire_##name before = message;                                                       \
        status st = wire_##name##_decode(data, bytes, &message);                                   \
        if (st != OK)                                                                              \
            assert_memory_equal(&message, &before, sizeof(before)); /* outputs only on OK */       \
        return st;                                                                                 \
    }

DECODER(register)
DECODER(heartbeat)
DECODER(reserved)
DECODER(place)
DECODER(cancel)
DECODER(failed)
DECODER(handed)
DECODER(lend)
DECODER(blocks)
DECODER(saved)

/* ---- messages of fixed fields ---- */

static void registers_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    for (int round = 0; round < ROUNDS; round++) {
        struct wire_register out, in = {.roles = random_to(3),
                                        .pid = random_to(UINT32_MAX),
                                        .block_count = random_to(UINT32_MAX),
                                        .context_tokens = random_to(WIRE_PROMPT_TOKENS_MAX),
                                        .decode_batch = random_to(1u << 16),
                                        .incarnation = random_u64(),
                                        .has_store = random_to(1),
                                        .limit_operations_per_s = (double)random_float(),
                                        .limit_bytes_per_s = (double)random_float()};
        random_text(in.name, sizeof(in.name));
        random_text(in.transfer_unix, sizeof(in.transfer_unix));
        random_text(in.transfer_tcp, sizeof(in.transfer_tcp));
        random_text(in.host, sizeof(in.host));
        wire_frame_reset(&frame);
        wire_register_encode(&frame, &in);
        assert_int_equal(wire_register_decode(frame.data, frame.bytes, &out), OK);
        assert_int_equal(out.roles, in.roles);
        assert_int_equal(out.pid, in.pid);
        assert_int_equal(out.block_count, in.block_count);
        assert_int_equal(out.context_tokens, in.context_tokens);
        assert_int_equal(out.decode_batch, in.decode_batch);
        assert_int_equal(out.incarnation, in.incarnation);
        assert_int_equal(out.has_store, in.has_store);
        assert_string_equal(out.name, in.name);
        assert_string_equal(out.transfer_unix, in.transfer_unix);
        assert_string_equal(out.transfer_tcp, in.transfer_tcp);
        assert_string_equal(out.host, in.host);
        assert_true(out.limit_operations_per_s == in.limit_operations_per_s);
        assert_true(out.limit_bytes_per_s == in.limit_bytes_per_s);
        if (round < 10)
            assert_no_other_length(decode_register, &frame);
    }
    assert_refused_with(decode_register, &frame, 0, 4, "roles");
    assert_refused_with(decode_register, &frame, 12, WIRE_PROMPT_TOKENS_MAX + 1, "context_tokens");
    assert_refused_with(decode_register, &frame, 16, (1u << 16) + 1, "decode_batch");
    assert_refused_with(decode_register, &frame, 28, WIRE_NAME_BYTES, "name");
    assert_refused_with(decode_register, &frame, frame.bytes - 4, 0x7ff80000u, "limit_bytes_per_s");
    wire_frame_close(&frame);
}

static void heartbeats_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    struct wire_heartbeat in, out;
    uint64_t *fields = (uint64_t *)&in;
    for (size_t i = 0; i < sizeof(in) / 8; i++)
        fields[i] = random_u64();
    wire_heartbeat_encode(&frame, &in);
    assert_int_equal(frame.bytes, sizeof(in));
    assert_int_equal(wire_heartbeat_decode(frame.data, frame.bytes, &out), OK);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_no_other_length(decode_heartbeat, &frame);
    wire_frame_close(&frame);
}

static void answers_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    for (int round = 0; round < ROUNDS; round++) {
        struct wire_reserved reserved, reserved_in = {.request_id = random_u64(),
                                                      .status = (int32_t)random_to(UINT32_MAX),
                                                      .matched_blocks = random_to(1u << 20)};
        random_text(reserved_in.text, sizeof(reserved_in.text));
        wire_frame_reset(&frame);
        wire_reserved_encode(&frame, &reserved_in);
        assert_int_equal(wire_reserved_decode(frame.data, frame.bytes, &reserved), OK);
        assert_int_equal(reserved.request_id, reserved_in.request_id);
        assert_int_equal(reserved.status, reserved_in.status);
        assert_int_equal(reserved.matched_blocks, reserved_in.matched_blocks);
        assert_string_equal(reserved.text, reserved_in.text);
        if (round == 0)
            assert_no_other_length(decode_reserved, &frame);

        struct wire_failed failed,
            failed_in = {.request_id = random_u64(), .status = (int32_t)random_to(UINT32_MAX)};
        random_text(failed_in.text, sizeof(failed_in.text));
        wire_frame_reset(&frame);
        wire_failed_encode(&frame, &failed_in);
        assert_int_equal(wire_failed_decode(frame.data, frame.bytes, &failed), OK);
        assert_int_equal(failed.request_id, failed_in.request_id);
        assert_int_equal(failed.status, failed_in.status);
        assert_string_equal(failed.text, failed_in.text);
        if (round == 0)
            assert_no_other_length(decode_failed, &frame);

        struct wire_handed handed, handed_in = {.request_id = random_u64(),
                                                .status = (int32_t)random_to(UINT32_MAX),
                                                .carrier = random_to(15),
                                                .bytes = random_u64(),
                                                .total_ns = random_u64(),
                                                .exposed_ns = random_u64()};
        wire_frame_reset(&frame);
        wire_handed_encode(&frame, &handed_in);
        assert_int_equal(wire_handed_decode(frame.data, frame.bytes, &handed), OK);
        assert_memory_equal(&handed, &handed_in, sizeof(handed));
        assert_no_other_length(decode_handed, &frame);

        struct wire_saved saved, saved_in = {.request_id = random_u64(),
                                             .status = (int32_t)random_to(UINT32_MAX),
                                             .bytes = random_u64(),
                                             .ns = random_u64()};
        random_text(saved_in.text, sizeof(saved_in.text));
        wire_frame_reset(&frame);
        wire_saved_encode(&frame, &saved_in);
        assert_int_equal(wire_saved_decode(frame.data, frame.bytes, &saved), OK);
        assert_int_equal(saved.request_id, saved_in.request_id);
        assert_int_equal(saved.status, saved_in.status);
        assert_int_equal(saved.bytes, saved_in.bytes);
        assert_int_equal(saved.ns, saved_in.ns);
        assert_string_equal(saved.text, saved_in.text);
        if (round == 0)
            assert_no_other_length(decode_saved, &frame);
        assert_refused_with(decode_handed, &frame, 12, 16, "carrier");

        struct wire_cancel cancel, cancel_in = {random_u64(), random_to(UINT32_MAX)};
        wire_frame_reset(&frame);
        wire_cancel_encode(&frame, &cancel_in);
        assert_int_equal(wire_cancel_decode(frame.data, frame.bytes, &cancel), OK);
        assert_int_equal(cancel.request_id, cancel_in.request_id);
        assert_int_equal(cancel.sequence, cancel_in.sequence);
        assert_no_other_length(decode_cancel, &frame);

        struct wire_place place, place_in = {random_u64(), random_to(1u << 20)};
        wire_frame_reset(&frame);
        wire_place_encode(&frame, &place_in);
        assert_int_equal(wire_place_decode(frame.data, frame.bytes, &place), OK);
        assert_int_equal(place.request_id, place_in.request_id);
        assert_int_equal(place.matched_blocks, place_in.matched_blocks);
        assert_no_other_length(decode_place, &frame);
        assert_refused_with(decode_place, &frame, 8, (1u << 20) + 1, "matched_blocks");
    }
    wire_frame_close(&frame);
}

static status decode_id(const uint8_t *data, size_t bytes)
{
    uint64_t id;
    return wire_id_decode(data, bytes, &id);
}

static void ids_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    uint64_t id = 0, in = random_u64();
    wire_id_encode(&frame, in);
    assert_int_equal(wire_id_decode(frame.data, frame.bytes, &id), OK);
    assert_int_equal(id, in);
    assert_no_other_length(decode_id, &frame);
    wire_frame_close(&frame);
}

/* Words from anywhere (a file's name, a peer's text) get through: what no text may hold is shown
 * as a question mark by the sender, because the receiver refuses the whole message. */
static void texts_are_made_clean_when_sent(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    struct wire_failed out, in = {.request_id = 7, .status = ERR_IO};
    strcpy(in.text, "two\nlines\tand \x7f, \x01; caf\xc3\xa9");
    wire_failed_encode(&frame, &in);
    assert_int_equal(wire_failed_decode(frame.data, frame.bytes, &out), OK);
    assert_string_equal(out.text, "two?lines?and ?, ?; caf\xc3\xa9");

    /* From one who does not: refused. */
    frame.data[16] = '\n';
    assert_int_equal(wire_failed_decode(frame.data, frame.bytes, &out), ERR_BAD_INPUT);
    assert_non_null(strstr(error_text(), "text"));
    frame.data[16] = '\0';
    assert_int_equal(wire_failed_decode(frame.data, frame.bytes, &out), ERR_BAD_INPUT);

    /* A text without its NUL is cut, never read past. */
    memset(in.text, 'x', sizeof(in.text));
    wire_frame_reset(&frame);
    wire_failed_encode(&frame, &in);
    assert_int_equal(wire_failed_decode(frame.data, frame.bytes, &out), OK);
    assert_int_equal(strlen(out.text), sizeof(out.text) - 1);
    wire_frame_close(&frame);
}

/* ---- requests ---- */

struct arrays {
    struct wire_bias bias[WIRE_BIAS_MAX];
    uint32_t stop_ids[WIRE_STOP_IDS_MAX];
    uint32_t prompt[3000];
    struct wire_source sources[WIRE_SOURCES_MAX];
};

static struct wire_request random_request(struct arrays *arrays)
{
    struct wire_request request = {.request_id = random_u64(),
                                   .epoch = random_to(UINT32_MAX),
                                   .flags = random_to(15),
                                   .sequence_count = 1 + random_to(WIRE_SEQUENCES_MAX - 1),
                                   .first_sequence = random_to(1u << 20),
                                   .priority = (int32_t)random_to(UINT32_MAX),
                                   .deadline_ms = random_to(24u * 3600 * 1000),
                                   .prompt_tokens = 1 + random_to(2999),
                                   .prompt = arrays->prompt,
                                   .source_count = random_to(WIRE_SOURCES_MAX),
                                   .handoff = random_to(WIRE_HANDOFF_STORE),
                                   .saved_blocks = random_to(WIRE_PROMPT_TOKENS_MAX),
                                   .sources = arrays->sources};
    for (uint32_t i = 0; i < request.source_count; i++) {
        struct wire_source *source = &arrays->sources[i];
        memset(source, 0, sizeof(*source));
        source->holder.incarnation = random_u64();
        random_text(source->holder.name, sizeof(source->holder.name));
        random_text(source->holder.transfer_unix, sizeof(source->holder.transfer_unix));
        random_text(source->holder.transfer_tcp, sizeof(source->holder.transfer_tcp));
        for (size_t k = 0; k < sizeof(source->lease.bytes); k++)
            source->lease.bytes[k] = (uint8_t)random_u64();
        source->first_block = random_to(WIRE_PROMPT_TOKENS_MAX);
        source->block_count = 1 + random_to(WIRE_PROMPT_TOKENS_MAX - 1);
        source->again = random_to(1);
    }
    request.sampling = (struct wire_sampling){
        .temperature = random_float(),
        .top_p = random_float(),
        .min_p = random_float(),
        .repetition_penalty = random_float(),
        .frequency_penalty = random_float(),
        .presence_penalty = random_float(),
        .top_k = random_to(UINT32_MAX),
        .logprob_count = random_to(WIRE_LOGPROBS_MAX),
        .min_tokens = random_to(WIRE_PROMPT_TOKENS_MAX),
        .max_tokens = 1 + random_to(WIRE_PROMPT_TOKENS_MAX - 1),
        .seed = random_u64(),
        .bias_count = random_to(WIRE_BIAS_MAX),
        .stop_count = random_to(WIRE_STOP_IDS_MAX),
        .bias = arrays->bias,
        .stop_ids = arrays->stop_ids,
    };
    if (random_to(3) == 0) { /* one that goes on after some tokens */
        uint32_t most = request.prompt_tokens < request.sampling.max_tokens
                            ? request.prompt_tokens
                            : request.sampling.max_tokens;
        request.sequence_count = 1;
        request.resumed_tokens = random_to(most - 1);
    }
    for (size_t i = 0; i < sizeof(request.lease.bytes); i++)
        request.lease.bytes[i] = (uint8_t)random_u64();
    for (size_t i = 0; i < sizeof(request.salt); i++)
        request.salt[i] = (uint8_t)random_u64();
    for (uint32_t i = 0; i < request.sampling.bias_count; i++)
        arrays->bias[i] = (struct wire_bias){random_to(UINT32_MAX), random_float()};
    for (uint32_t i = 0; i < request.sampling.stop_count; i++)
        arrays->stop_ids[i] = random_to(UINT32_MAX);
    for (uint32_t i = 0; i < request.prompt_tokens; i++)
        arrays->prompt[i] = random_to(UINT32_MAX);
    return request;
}

static void assert_request_equal(const struct wire_request *a, const struct wire_request *b)
{
    const struct wire_sampling *s = &a->sampling, *t = &b->sampling;
    assert_int_equal(a->request_id, b->request_id);
    assert_true(lease_id_equal(&a->lease, &b->lease));
    assert_memory_equal(a->salt, b->salt, sizeof(a->salt));
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->sequence_count, b->sequence_count);
    assert_int_equal(a->first_sequence, b->first_sequence);
    assert_int_equal(a->priority, b->priority);
    assert_int_equal(a->deadline_ms, b->deadline_ms);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->resumed_tokens, b->resumed_tokens);
    assert_memory_equal(a->prompt, b->prompt, a->prompt_tokens * sizeof(*a->prompt));
    assert_true(s->temperature == t->temperature && s->top_p == t->top_p && s->min_p == t->min_p);
    assert_true(s->repetition_penalty == t->repetition_penalty &&
                s->frequency_penalty == t->frequency_penalty &&
                s->presence_penalty == t->presence_penalty);
    assert_int_equal(s->top_k, t->top_k);
    assert_int_equal(s->logprob_count, t->logprob_count);
    assert_int_equal(s->min_tokens, t->min_tokens);
    assert_int_equal(s->max_tokens, t->max_tokens);
    assert_int_equal(s->seed, t->seed);
    assert_int_equal(s->bias_count, t->bias_count);
    for (uint32_t i = 0; i < s->bias_count; i++)
        assert_true(s->bias[i].token == t->bias[i].token && s->bias[i].add == t->bias[i].add);
    assert_int_equal(s->stop_count, t->stop_count);
    for (uint32_t i = 0; i < s->stop_count; i++)
        assert_int_equal(s->stop_ids[i], t->stop_ids[i]);
    assert_int_equal(a->handoff, b->handoff);
    assert_int_equal(a->saved_blocks, b->saved_blocks);
    assert_int_equal(a->source_count, b->source_count);
    for (uint32_t i = 0; i < a->source_count; i++) {
        const struct wire_source *x = &a->sources[i], *y = &b->sources[i];
        assert_int_equal(x->holder.incarnation, y->holder.incarnation);
        assert_string_equal(x->holder.name, y->holder.name);
        assert_string_equal(x->holder.transfer_unix, y->holder.transfer_unix);
        assert_string_equal(x->holder.transfer_tcp, y->holder.transfer_tcp);
        assert_true(lease_id_equal(&x->lease, &y->lease));
        assert_int_equal(x->first_block, y->first_block);
        assert_int_equal(x->block_count, y->block_count);
        assert_int_equal(x->again, y->again);
    }
}

static status decode_prefill(const uint8_t *data, size_t bytes)
{
    struct wire_request *request = NULL;
    status st = wire_prefill_decode(data, bytes, &request);
    assert_true((st == OK) == (request != NULL));
    wire_request_free(request);
    return st;
}

static status decode_reserve(const uint8_t *data, size_t bytes)
{
    struct wire_request *request = NULL;
    struct wire_holder holder;
    status st = wire_reserve_decode(data, bytes, &request, &holder);
    assert_true((st == OK) == (request != NULL));
    wire_request_free(request);
    return st;
}

static status decode_holder(const uint8_t *data, size_t bytes)
{
    struct wire_holder holder;
    return wire_holder_decode(data, bytes, &holder);
}

static void requests_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    static struct arrays arrays;
    for (int round = 0; round < ROUNDS; round++) {
        struct wire_request in = random_request(&arrays), *out;
        struct wire_holder holder, holder_in = {.incarnation = random_u64()};
        wire_frame_reset(&frame);
        wire_prefill_encode(&frame, &in);
        assert_int_equal(wire_prefill_decode(frame.data, frame.bytes, &out), OK);
        assert_request_equal(&in, out);
        wire_request_free(out);
        if (round < 20)
            assert_no_other_length(decode_prefill, &frame);

        random_text(holder_in.name, sizeof(holder_in.name));
        random_text(holder_in.transfer_unix, sizeof(holder_in.transfer_unix));
        random_text(holder_in.transfer_tcp, sizeof(holder_in.transfer_tcp));
        wire_frame_reset(&frame);
        wire_reserve_encode(&frame, &in, &holder_in);
        assert_int_equal(wire_reserve_decode(frame.data, frame.bytes, &out, &holder), OK);
        assert_request_equal(&in, out);
        assert_int_equal(holder.incarnation, holder_in.incarnation);
        assert_string_equal(holder.name, holder_in.name);
        assert_string_equal(holder.transfer_unix, holder_in.transfer_unix);
        assert_string_equal(holder.transfer_tcp, holder_in.transfer_tcp);
        wire_request_free(out);
        if (round < 20)
            assert_no_other_length(decode_reserve, &frame);

        memset(&holder, 0, sizeof(holder));
        wire_frame_reset(&frame);
        wire_holder_encode(&frame, &holder_in);
        assert_int_equal(wire_holder_decode(frame.data, frame.bytes, &holder), OK);
        assert_int_equal(holder.incarnation, holder_in.incarnation);
        assert_string_equal(holder.name, holder_in.name);
        assert_string_equal(holder.transfer_unix, holder_in.transfer_unix);
        assert_string_equal(holder.transfer_tcp, holder_in.transfer_tcp);
        if (round < 20)
            assert_no_other_length(decode_holder, &frame);
    }
    wire_frame_close(&frame);
}

static void requests_out_of_range_are_refused(void **state)
{
    (void)state;
    static struct arrays arrays;
    static const struct {
        size_t offset;
        uint32_t value;
        const char *name;
    } wrong[] = {
        /* id 0, lease 8, epoch 24, salt 28, then numbers of four bytes, the seed of eight */
        {44, 16, "flags"},
        {48, WIRE_SEQUENCES_MAX + 1, "sequence_count"},
        {48, 0, "at least 1"},
        {52, (1u << 20) + 1, "first_sequence"},
        {60, 24u * 3600 * 1000 + 1, "deadline_ms"},
        {64, WIRE_PROMPT_TOKENS_MAX + 1, "prompt_tokens"},
        {64, 0, "at least 1"},
        {64, WIRE_PROMPT_TOKENS_MAX, "cut short"},
        {68, 0x7fc00000u, "temperature"},
        {72, 0xffc00001u, "top_p"},
        {76, 0x7fc00000u, "min_p"},
        {80, 0x7fc00000u, "repetition_penalty"},
        {84, 0x7fc00000u, "frequency_penalty"},
        {88, 0x7fc00000u, "presence_penalty"},
        {96, WIRE_LOGPROBS_MAX + 1, "logprob_count"},
        {100, WIRE_PROMPT_TOKENS_MAX + 1, "min_tokens"},
        {104, WIRE_PROMPT_TOKENS_MAX + 1, "max_tokens"},
        {104, 0, "at least 1"},
        {116, WIRE_BIAS_MAX + 1, "bias_count"},
        {120, WIRE_STOP_IDS_MAX + 1, "stop_count"},
        {124, WIRE_SOURCES_MAX + 1, "source_count"},
        {128, WIRE_PROMPT_TOKENS_MAX + 1, "resumed_tokens"},
        {128, 60, "60 tokens resumed"}, /* all of the prompt */
        {128, 40, "40 tokens resumed"}, /* all of the answer */
        {132, WIRE_HANDOFF_STORE + 1, "handoff"},
        {136, WIRE_PROMPT_TOKENS_MAX + 1, "saved_blocks"},
    };
    struct wire_frame frame = {0};
    struct wire_request in = random_request(&arrays);
    in.sampling.bias_count = 1;
    in.sequence_count = 1;
    in.prompt_tokens = 60;
    in.sampling.max_tokens = 40;
    in.resumed_tokens = 39;
    arrays.bias[0] = (struct wire_bias){5, 0.5f};
    wire_prefill_encode(&frame, &in);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_refused_with(decode_prefill, &frame, wrong[i].offset, wrong[i].value, wrong[i].name);
    /* The bias after the head of 132 bytes: its number. */
    assert_refused_with(decode_prefill, &frame, 144, 0x7fc00000u, "bias");
    /* A source of no blocks; its count is the last but one of the message. */
    in.source_count = 1;
    arrays.sources[0] = (struct wire_source){.block_count = 3};
    wire_frame_reset(&frame);
    wire_prefill_encode(&frame, &in);
    assert_refused_with(decode_prefill, &frame, frame.bytes - 8, 0, "block_count");
    assert_refused_with(decode_prefill, &frame, frame.bytes - 4, 2, "again");
    assert_refused_with(decode_prefill, &frame, frame.bytes - 12, WIRE_PROMPT_TOKENS_MAX + 1,
                        "first_block");
    /* Of several sequences each one goes on by itself. */
    assert_refused_with(decode_prefill, &frame, 48, 2, "n 2");
    wire_frame_close(&frame);
}

static void a_request_ends_where_it_should(void **state)
{
    (void)state;
    static const uint32_t stop_ids[] = {7, 9};
    struct wire_request request = {
        .sampling = {.min_tokens = 2, .max_tokens = 4, .stop_count = 2, .stop_ids = stop_ids}};
    assert_int_equal(wire_request_finish(&request, 5, 0), WIRE_FINISH_NONE);
    assert_int_equal(wire_request_finish(&request, 7, 0), WIRE_FINISH_NONE);
    assert_int_equal(wire_request_finish(&request, 9, 1), WIRE_FINISH_NONE);
    assert_int_equal(wire_request_finish(&request, 9, 2), WIRE_FINISH_STOP);
    assert_int_equal(wire_request_finish(&request, 8, 2), WIRE_FINISH_NONE);
    assert_int_equal(wire_request_finish(&request, 8, 3), WIRE_FINISH_LENGTH);
    assert_int_equal(wire_request_finish(&request, 7, 3), WIRE_FINISH_STOP);
    request.sampling.min_tokens = 4;
    assert_int_equal(wire_request_finish(&request, 7, 3), WIRE_FINISH_LENGTH);
    request.sampling.min_tokens = 0;
    assert_int_equal(wire_request_finish(&request, 7, 0), WIRE_FINISH_STOP);
}

/* ---- tokens ---- */

static struct wire_token random_token(void)
{
    struct wire_token token = {.request_id = random_u64(),
                               .sequence = random_to(WIRE_SEQUENCES_MAX - 1),
                               .index = random_to(WIRE_PROMPT_TOKENS_MAX),
                               .token = random_to(UINT32_MAX),
                               .finish = random_to(WIRE_FINISH_LENGTH),
                               .logprob = random_float(),
                               .top_count = random_to(WIRE_LOGPROBS_MAX)};
    for (uint32_t i = 0; i < token.top_count; i++) {
        token.top_tokens[i] = random_to(UINT32_MAX);
        token.top_logprobs[i] = random_float();
    }
    return token;
}

static void assert_token_equal(const struct wire_token *a, const struct wire_token *b)
{
    assert_int_equal(a->request_id, b->request_id);
    assert_int_equal(a->sequence, b->sequence);
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->token, b->token);
    assert_int_equal(a->finish, b->finish);
    assert_true(a->logprob == b->logprob);
    assert_int_equal(a->top_count, b->top_count);
    for (uint32_t i = 0; i < a->top_count; i++) {
        assert_int_equal(a->top_tokens[i], b->top_tokens[i]);
        assert_true(a->top_logprobs[i] == b->top_logprobs[i]);
    }
}

static status decode_token(const uint8_t *data, size_t bytes)
{
    struct reader from = reader_over(data, bytes);
    struct wire_token token;
    status st = wire_token_decode(&from, &token);
    if (st == OK && from.left > 0)
        return error_set(ERR_BAD_INPUT, "%zu bytes too many", from.left);
    return st;
}

/* A first and its tokens, one after the other in one frame. */
static void firsts_and_tokens_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    struct wire_token tokens[2 * WIRE_SEQUENCES_MAX];
    for (int round = 0; round < ROUNDS; round++) {
        struct wire_first first, first_in = {.request_id = random_u64(),
                                             .sequence_count = random_to(WIRE_SEQUENCES_MAX),
                                             .prompt_logprob_count = random_to(WIRE_SEQUENCES_MAX),
                                             .cached_tokens = random_to(WIRE_PROMPT_TOKENS_MAX),
                                             .queue_ns = random_u64(),
                                             .place_ns = random_u64(),
                                             .peer_tokens = random_to(WIRE_PROMPT_TOKENS_MAX),
                                             .store_tokens = random_to(WIRE_PROMPT_TOKENS_MAX),
                                             .gather_ns = random_u64(),
                                             .range_count = random_to(WIRE_RANGES_MAX),
                                             .prefill_ns = random_u64()};
        for (uint32_t i = 0; i < first_in.range_count; i++)
            first_in.ranges[i] =
                (struct wire_range){.from = random_to(WIRE_FROM_STORE),
                                    .status = (int32_t)random_to(UINT32_MAX),
                                    .carrier = random_to(15),
                                    .first_block = random_to(WIRE_PROMPT_TOKENS_MAX),
                                    .block_count = random_to(WIRE_PROMPT_TOKENS_MAX),
                                    .holder = random_u64(),
                                    .bytes = random_u64(),
                                    .ns = random_u64(),
                                    .wait_ns = random_u64()};
        uint32_t count = first_in.sequence_count + first_in.prompt_logprob_count;
        wire_frame_reset(&frame);
        wire_first_encode(&frame, &first_in);
        for (uint32_t i = 0; i < count; i++) {
            tokens[i] = random_token();
            wire_token_encode(&frame, &tokens[i]);
        }
        struct reader from = reader_over(frame.data, frame.bytes);
        assert_int_equal(wire_first_decode(&from, &first), OK);
        assert_int_equal(first.request_id, first_in.request_id);
        assert_int_equal(first.sequence_count, first_in.sequence_count);
        assert_int_equal(first.prompt_logprob_count, first_in.prompt_logprob_count);
        assert_int_equal(first.cached_tokens, first_in.cached_tokens);
        assert_int_equal(first.queue_ns, first_in.queue_ns);
        assert_int_equal(first.place_ns, first_in.place_ns);
        assert_int_equal(first.prefill_ns, first_in.prefill_ns);
        assert_int_equal(first.peer_tokens, first_in.peer_tokens);
        assert_int_equal(first.store_tokens, first_in.store_tokens);
        assert_int_equal(first.gather_ns, first_in.gather_ns);
        assert_int_equal(first.range_count, first_in.range_count);
        for (uint32_t i = 0; i < first.range_count; i++) {
            const struct wire_range *a = &first.ranges[i], *b = &first_in.ranges[i];
            assert_true(a->from == b->from && a->status == b->status && a->carrier == b->carrier);
            assert_true(a->first_block == b->first_block && a->block_count == b->block_count);
            assert_true(a->holder == b->holder && a->bytes == b->bytes && a->ns == b->ns);
            assert_true(a->wait_ns == b->wait_ns);
        }
        for (uint32_t i = 0; i < count; i++) {
            struct wire_token token;
            assert_int_equal(wire_token_decode(&from, &token), OK);
            assert_token_equal(&token, &tokens[i]);
        }
        assert_int_equal(from.left, 0);

        struct wire_token token = random_token();
        wire_frame_reset(&frame);
        wire_token_encode(&frame, &token);
        assert_no_other_length(decode_token, &frame);
        assert_refused_with(decode_token, &frame, 8, WIRE_SEQUENCES_MAX, "sequence");
        assert_refused_with(decode_token, &frame, 12, WIRE_PROMPT_TOKENS_MAX + 1, "index");
        assert_refused_with(decode_token, &frame, 20, WIRE_FINISH_LENGTH + 1, "finish");
        assert_refused_with(decode_token, &frame, 24, 0x7fc00000u, "logprob");
        assert_refused_with(decode_token, &frame, 28, WIRE_LOGPROBS_MAX + 1, "top_count");
    }
    wire_frame_close(&frame);
}

/* A reader of a list of tokens stays where it is when the next one is bad. */
static void a_bad_token_is_not_passed(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    struct wire_token token = {.top_count = 0}, out;
    wire_token_encode(&frame, &token);
    wire_token_encode(&frame, &token);
    store_u32(frame.data + frame.bytes - 4, WIRE_LOGPROBS_MAX + 1);
    struct reader from = reader_over(frame.data, frame.bytes);
    assert_int_equal(wire_token_decode(&from, &out), OK);
    size_t left = from.left;
    assert_int_equal(wire_token_decode(&from, &out), ERR_BAD_INPUT);
    assert_int_equal(from.left, left);
    assert_int_equal(wire_token_decode(&from, &out), ERR_BAD_INPUT);
    wire_frame_close(&frame);
}

/* ---- lending, and what can be matched where ---- */

static void lends_and_blocks_come_back(void **state)
{
    (void)state;
    struct wire_frame frame = {0};
    static uint8_t bytes[700 * WIRE_EVENT_BYTES];
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)random_u64();
        struct wire_lend lend, lend_in = {.request_id = random_u64(),
                                          .epoch = random_to(UINT32_MAX),
                                          .expiry_ms = 1 + random_to(3600u * 1000 - 1),
                                          .key_count = 1 + random_to(699),
                                          .keys = bytes};
        lend_in.first_block = random_to(lend_in.key_count - 1);
        memcpy(lend_in.lease.bytes, bytes, sizeof(lend_in.lease.bytes));
        wire_frame_reset(&frame);
        wire_lend_encode(&frame, &lend_in);
        assert_int_equal(wire_lend_decode(frame.data, frame.bytes, &lend), OK);
        assert_int_equal(lend.request_id, lend_in.request_id);
        assert_true(lease_id_equal(&lend.lease, &lend_in.lease));
        assert_int_equal(lend.epoch, lend_in.epoch);
        assert_int_equal(lend.expiry_ms, lend_in.expiry_ms);
        assert_int_equal(lend.first_block, lend_in.first_block);
        assert_int_equal(lend.key_count, lend_in.key_count);
        assert_memory_equal(lend.keys, bytes, lend.key_count * (size_t)WIRE_KEY_BYTES);
        if (round < 20)
            assert_no_other_length(decode_lend, &frame);
        assert_refused_with(decode_lend, &frame, 28, 0, "key_count"); /* no time */
        assert_refused_with(decode_lend, &frame, 28, 3600u * 1000 + 1, "expiry_ms");
        assert_refused_with(decode_lend, &frame, 32, lend.key_count, "key_count");
        assert_refused_with(decode_lend, &frame, 36, 2, "again");
        assert_refused_with(decode_lend, &frame, 40, WIRE_KEYS_MAX + 1, "key_count");
        assert_refused_with(decode_lend, &frame, 40, WIRE_KEYS_MAX, "");

        struct wire_blocks blocks, blocks_in = {.number = random_u64(),
                                                .flags = random_to(1),
                                                .event_count = random_to(700),
                                                .events = bytes};
        for (uint32_t i = 0; i < blocks_in.event_count; i++)
            bytes[i * WIRE_EVENT_BYTES] = (uint8_t)(WIRE_EVENT_STORED + random_to(2));
        wire_frame_reset(&frame);
        wire_blocks_encode(&frame, &blocks_in);
        assert_int_equal(wire_blocks_decode(frame.data, frame.bytes, &blocks), OK);
        assert_int_equal(blocks.number, blocks_in.number);
        assert_int_equal(blocks.flags, blocks_in.flags);
        assert_int_equal(blocks.event_count, blocks_in.event_count);
        assert_memory_equal(blocks.events, bytes, blocks.event_count * (size_t)WIRE_EVENT_BYTES);
        if (round < 20)
            assert_no_other_length(decode_blocks, &frame);
        assert_refused_with(decode_blocks, &frame, 8, 2, "flags");
        assert_refused_with(decode_blocks, &frame, 12, WIRE_EVENTS_MAX + 1, "event_count");
        if (blocks.event_count == 0)
            continue;
        frame.data[frame.bytes - WIRE_EVENT_BYTES] = 0;
        assert_int_equal(decode_blocks(frame.data, frame.bytes), ERR_BAD_INPUT);
        assert_non_null(strstr(error_text(), "event"));
        frame.data[frame.bytes - WIRE_EVENT_BYTES] = WIRE_EVENT_SAVED + 1;
        assert_int_equal(decode_blocks(frame.data, frame.bytes), ERR_BAD_INPUT);
    }
    wire_frame_close(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_come_back),
        cmocka_unit_test(heartbeats_come_back),
        cmocka_unit_test(answers_come_back),
        cmocka_unit_test(ids_come_back),
        cmocka_unit_test(texts_are_made_clean_when_sent),
        cmocka_unit_test(requests_come_back),
        cmocka_unit_test(requests_out_of_range_are_refused),
        cmocka_unit_test(a_request_ends_where_it_should),
        cmocka_unit_test(firsts_and_tokens_come_back),
        cmocka_unit_test(a_bad_token_is_not_passed),
        cmocka_unit_test(lends_and_blocks_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
