/* Messages between router and workers from anybody: the first byte picks the message, the rest is
 * its payload. What is taken comes back the same when it is sent on. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wire/operator.h"

/* Decoded, encoded and decoded once more: the bytes agree. */
#define FUZZ_MESSAGE(name)                                                                         \
    static void fuzz_##name(const uint8_t *data, size_t bytes, struct wire_frame *frame)           \
    {                                                                                              \
        struct wire_##name message;                                                                \
        if (wire_##name##_decode(data, bytes, &message) != OK)                                     \
            return;                                                                                \
        wire_##name##_encode(frame, &message);                                                     \
        assert(frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0);                    \
    }

FUZZ_MESSAGE(register)
FUZZ_MESSAGE(heartbeat)
FUZZ_MESSAGE(reserved)
FUZZ_MESSAGE(place)
FUZZ_MESSAGE(cancel)
FUZZ_MESSAGE(failed)
FUZZ_MESSAGE(handed)
FUZZ_MESSAGE(lend)
FUZZ_MESSAGE(blocks)
FUZZ_MESSAGE(change)
FUZZ_MESSAGE(changed)
FUZZ_MESSAGE(saved)
FUZZ_MESSAGE(holder)

static void fuzz_prefill(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    struct wire_request *request;
    if (wire_prefill_decode(data, bytes, &request) != OK)
        return;
    assert(request->prompt_tokens > 0 && request->sequence_count > 0);
    assert(request->resumed_tokens < request->prompt_tokens);
    wire_prefill_encode(frame, request);
    assert(frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0);
    wire_request_finish(request, request->prompt[request->prompt_tokens - 1], 0);
    for (uint32_t i = 0; i < request->source_count; i++)
        assert(request->sources[i].block_count > 0);
    wire_request_free(request);
}

static void fuzz_reserve(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    struct wire_request *request;
    struct wire_holder holder;
    if (wire_reserve_decode(data, bytes, &request, &holder) != OK)
        return;
    wire_reserve_encode(frame, request, &holder);
    assert(frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0);
    wire_request_free(request);
}

static void fuzz_first(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    struct reader from = reader_over(data, bytes);
    struct wire_first first;
    struct wire_token token;
    if (wire_first_decode(&from, &first) != OK)
        return;
    wire_first_encode(frame, &first);
    while (from.left > 0 && wire_token_decode(&from, &token) == OK) {
        assert(token.top_count <= WIRE_LOGPROBS_MAX && token.sequence < WIRE_SEQUENCES_MAX);
        wire_token_encode(frame, &token);
    }
    assert(frame->bytes == bytes - from.left && memcmp(frame->data, data, frame->bytes) == 0);
}

static void fuzz_id(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    uint64_t id;
    if (wire_id_decode(data, bytes, &id) != OK)
        return;
    wire_id_encode(frame, id);
    assert(frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0);
}

static void fuzz_roles(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    uint32_t roles;
    if (wire_roles_decode(data, bytes, &roles) != OK)
        return;
    assert(roles >= WIRE_ROLE_PREFILL && roles <= (WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE));
    wire_roles_encode(frame, roles);
    assert(frame->bytes == bytes && memcmp(frame->data, data, bytes) == 0);
}

static void fuzz_status(const uint8_t *data, size_t bytes, struct wire_frame *frame)
{
    struct reader from = reader_over(data, bytes);
    struct wire_status head;
    struct wire_member member;
    if (wire_status_decode(&from, &head) != OK)
        return;
    wire_status_encode(frame, &head);
    while (from.left > 0 && wire_member_decode(&from, &member) == OK)
        wire_member_encode(frame, &member);
    assert(frame->bytes == bytes - from.left && memcmp(frame->data, data, frame->bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static void (*const messages[])(const uint8_t *, size_t, struct wire_frame *) = {
        fuzz_register, fuzz_heartbeat, fuzz_reserved, fuzz_place,  fuzz_failed,
        fuzz_handed,   fuzz_prefill,   fuzz_reserve,  fuzz_first,  fuzz_id,
        fuzz_cancel,   fuzz_lend,      fuzz_blocks,   fuzz_change, fuzz_changed,
        fuzz_roles,    fuzz_status,    fuzz_saved,    fuzz_holder};
    struct wire_frame frame = {0};
    if (bytes == 0)
        return 0;
    messages[data[0] % (sizeof(messages) / sizeof(messages[0]))](data + 1, bytes - 1, &frame);
    wire_frame_close(&frame);
    return 0;
}
