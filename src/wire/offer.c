#include "wire/offer.h"

#include <assert.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"
#include "base/error.h"

void lease_id_random(struct lease_id *lease_out)
{
    ssize_t got = getrandom(lease_out->bytes, LEASE_BYTES, 0);
    assert(got == LEASE_BYTES);
    (void)got;
}

bool lease_id_equal(const struct lease_id *x, const struct lease_id *y)
{
    return memcmp(x->bytes, y->bytes, LEASE_BYTES) == 0;
}

static struct writer offer_writer(uint8_t *to)
{
    return writer_over(to, OFFER_FRAME_BYTES_MAX);
}

static uint32_t offer_written(const struct writer *w)
{
    assert(!w->failed);
    return (uint32_t)(OFFER_FRAME_BYTES_MAX - w->left);
}

static void tag_write(struct writer *w, const struct lease_tag *tag)
{
    write_bytes(w, tag->lease.bytes, LEASE_BYTES);
    write_u32(w, tag->epoch);
    write_u16(w, tag->rank);
    write_u16(w, tag->ranks);
}

static void tag_read(struct reader *r, struct lease_tag *tag)
{
    const uint8_t *lease = read_bytes(r, LEASE_BYTES);
    if (lease != NULL)
        memcpy(tag->lease.bytes, lease, LEASE_BYTES);
    tag->epoch = read_u32(r);
    tag->rank = read_u16(r);
    tag->ranks = read_u16(r);
    if (tag->ranks == 0 || tag->rank >= tag->ranks)
        r->failed = true;
}

static status offer_malformed(const char *message, uint32_t bytes)
{
    return error_set(ERR_BAD_INPUT,
                     "a %s message of %u bytes is malformed: a length or a number is out "
                     "of its range",
                     message, bytes);
}

/* first .. first + count within the blocks of a sequence. */
static bool offer_range_ok(uint32_t first, uint32_t count)
{
    return count >= 1 && first < OFFER_INDEX_MAX && count <= OFFER_INDEX_MAX - first;
}

uint32_t subscribe_write(const struct subscribe_message *message, uint8_t *to)
{
    struct writer w = offer_writer(to);
    tag_write(&w, &message->tag);
    write_u32(&w, message->first_index);
    write_u32(&w, message->block_count);
    write_u32(&w, message->wait_ms);
    return offer_written(&w);
}

status subscribe_read(const uint8_t *from, uint32_t bytes, struct subscribe_message *message_out)
{
    struct subscribe_message message;
    struct reader r = reader_over(from, bytes);
    tag_read(&r, &message.tag);
    message.first_index = read_u32(&r);
    message.block_count = read_u32(&r);
    message.wait_ms = read_u32(&r);
    if (!reader_ok(&r) || r.left != 0 || !offer_range_ok(message.first_index, message.block_count))
        return offer_malformed("SUBSCRIBE", bytes);
    *message_out = message;
    return OK;
}

uint32_t pool_write(const struct pool_message *message, uint8_t *to)
{
    struct writer w = offer_writer(to);
    write_u32(&w, message->block_count);
    write_u64(&w, message->block_bytes);
    return offer_written(&w);
}

status pool_read(const uint8_t *from, uint32_t bytes, struct pool_message *message_out)
{
    struct pool_message message;
    struct reader r = reader_over(from, bytes);
    message.block_count = read_u32(&r);
    message.block_bytes = read_u64(&r);
    size_t total;
    if (!reader_ok(&r) || r.left != 0 || message.block_count == 0 || message.block_bytes == 0 ||
        !size_mul(message.block_count, message.block_bytes, &total))
        return offer_malformed("POOL", bytes);
    *message_out = message;
    return OK;
}

/* A text from a peer: nothing in it moves a terminal's cursor. */
static void text_read(struct reader *r, char text[OFFER_TEXT_BYTES])
{
    uint32_t bytes = read_u32(r);
    const uint8_t *from = read_bytes(r, bytes);
    if (from == NULL || bytes >= OFFER_TEXT_BYTES) {
        r->failed = true;
        return;
    }
    memcpy(text, from, bytes);
    text[bytes] = '\0';
    for (uint32_t i = 0; i < bytes; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            text[i] = '?';
    }
}

static void text_write(struct writer *w, const char *text)
{
    uint32_t bytes = (uint32_t)strnlen(text, OFFER_TEXT_BYTES - 1);
    write_u32(w, bytes);
    write_bytes(w, text, bytes);
}

uint32_t device_write(const struct device_message *message, uint8_t *to)
{
    struct writer w = offer_writer(to);
    write_u32(&w, message->block_count);
    write_u64(&w, message->block_bytes);
    write_bytes(&w, message->handle, OFFER_HANDLE_BYTES);
    text_write(&w, message->text);
    return offer_written(&w);
}

status device_read(const uint8_t *from, uint32_t bytes, struct device_message *message_out)
{
    struct device_message message;
    memset(&message, 0, sizeof(message));
    struct reader r = reader_over(from, bytes);
    message.block_count = read_u32(&r);
    message.block_bytes = read_u64(&r);
    const uint8_t *handle = read_bytes(&r, OFFER_HANDLE_BYTES);
    if (handle != NULL)
        memcpy(message.handle, handle, OFFER_HANDLE_BYTES);
    text_read(&r, message.text);
    size_t total;
    if (!reader_ok(&r) || r.left != 0 || message.block_bytes == 0 ||
        !size_mul(message.block_count, message.block_bytes, &total))
        return offer_malformed("DEVICE", bytes);
    *message_out = message;
    return OK;
}

uint32_t remote_write(const struct remote_message *message, uint8_t *to)
{
    assert(message->address_bytes <= REMOTE_PART_BYTES_MAX &&
           message->key_bytes <= REMOTE_PART_BYTES_MAX);
    struct writer w = offer_writer(to);
    write_u32(&w, message->block_count);
    write_u64(&w, message->block_bytes);
    write_u64(&w, message->base);
    write_u32(&w, message->address_bytes);
    write_u32(&w, message->key_bytes);
    write_bytes(&w, message->address, message->address_bytes);
    write_bytes(&w, message->key, message->key_bytes);
    return offer_written(&w);
}

status remote_read(const uint8_t *from, uint32_t bytes, struct remote_message *message_out)
{
    struct remote_message message;
    struct reader r = reader_over(from, bytes);
    message.block_count = read_u32(&r);
    message.block_bytes = read_u64(&r);
    message.base = read_u64(&r);
    message.address_bytes = read_u32(&r);
    message.key_bytes = read_u32(&r);
    if (!reader_ok(&r) || message.address_bytes > REMOTE_PART_BYTES_MAX ||
        message.key_bytes > REMOTE_PART_BYTES_MAX)
        return offer_malformed("REMOTE", bytes);
    message.address = read_bytes(&r, message.address_bytes);
    message.key = read_bytes(&r, message.key_bytes);
    size_t total, end;
    bool none = message.address_bytes == 0;
    bool sound = none ? message.key_bytes == 0
                      : message.key_bytes > 0 && message.block_count > 0 &&
                            message.block_bytes > 0 &&
                            size_mul(message.block_count, message.block_bytes, &total) &&
                            size_add(message.base, total, &end);
    if (!reader_ok(&r) || r.left != 0 || !sound)
        return offer_malformed("REMOTE", bytes);
    *message_out = message;
    return OK;
}

uint32_t offer_write(const struct lease_tag *tag, uint32_t number, uint32_t layer,
                     uint32_t first_index, const uint32_t *block_ids,
                     const struct checksum *checksums, uint32_t count, uint8_t *to)
{
    assert(count >= 1 && count <= OFFER_BLOCKS_MAX);
    struct writer w = offer_writer(to);
    tag_write(&w, tag);
    write_u32(&w, number);
    write_u32(&w, layer);
    write_u32(&w, first_index);
    write_u32(&w, count);
    for (uint32_t i = 0; i < count; i++)
        write_u32(&w, block_ids[i]);
    for (uint32_t i = 0; i < count; i++) {
        write_u64(&w, checksums[i].a);
        write_u64(&w, checksums[i].b);
    }
    return offer_written(&w);
}

status offer_read(const uint8_t *from, uint32_t bytes, struct offer_message *message_out)
{
    struct offer_message message;
    struct reader r = reader_over(from, bytes);
    tag_read(&r, &message.tag);
    message.number = read_u32(&r);
    message.layer = read_u32(&r);
    message.first_index = read_u32(&r);
    message.count = read_u32(&r);
    if (!reader_ok(&r) || message.count > OFFER_BLOCKS_MAX ||
        !offer_range_ok(message.first_index, message.count))
        return offer_malformed("OFFER", bytes);
    message.block_ids = read_bytes(&r, (size_t)message.count * 4);
    message.checksums = read_bytes(&r, (size_t)message.count * CHECKSUM_BYTES);
    if (!reader_ok(&r) || r.left != 0)
        return offer_malformed("OFFER", bytes);
    *message_out = message;
    return OK;
}

uint32_t offer_block_id(const struct offer_message *message, uint32_t i)
{
    return load_u32(message->block_ids + (size_t)i * 4);
}

struct checksum offer_checksum(const struct offer_message *message, uint32_t i)
{
    const uint8_t *from = message->checksums + (size_t)i * CHECKSUM_BYTES;
    return (struct checksum){.a = load_u64(from), .b = load_u64(from + 8)};
}

uint32_t fetch_write(const struct fetch_message *message, uint8_t *to)
{
    struct writer w = offer_writer(to);
    tag_write(&w, &message->tag);
    write_u32(&w, message->number);
    write_u32(&w, message->from);
    write_u32(&w, message->count);
    return offer_written(&w);
}

status fetch_read(const uint8_t *from, uint32_t bytes, struct fetch_message *message_out)
{
    struct fetch_message message;
    struct reader r = reader_over(from, bytes);
    tag_read(&r, &message.tag);
    message.number = read_u32(&r);
    message.from = read_u32(&r);
    message.count = read_u32(&r);
    if (!reader_ok(&r) || r.left != 0 || message.count == 0 || message.count > OFFER_BLOCKS_MAX ||
        message.from > OFFER_BLOCKS_MAX - message.count)
        return offer_malformed("FETCH or DATA", bytes);
    *message_out = message;
    return OK;
}

uint32_t complete_write(const struct complete_message *message, uint8_t *to)
{
    assert(message->payload_bytes <= OFFER_PAYLOAD_BYTES_MAX);
    struct writer w = offer_writer(to);
    tag_write(&w, &message->tag);
    write_u32(&w, message->block_count);
    write_u32(&w, message->offer_count);
    write_u32(&w, message->payload_bytes);
    write_bytes(&w, message->payload, message->payload_bytes);
    struct checksum sum = checksum_of(to, offer_written(&w));
    write_u64(&w, sum.a);
    write_u64(&w, sum.b);
    return offer_written(&w);
}

status complete_read(const uint8_t *from, uint32_t bytes, struct complete_message *message_out)
{
    struct complete_message message;
    struct reader r = reader_over(from, bytes);
    tag_read(&r, &message.tag);
    message.block_count = read_u32(&r);
    message.offer_count = read_u32(&r);
    message.payload_bytes = read_u32(&r);
    message.payload = read_bytes(&r, message.payload_bytes);
    struct checksum sum = checksum_of(from, bytes - r.left), told;
    told.a = read_u64(&r);
    told.b = read_u64(&r);
    message.whole = checksum_equal(sum, told);
    if (!reader_ok(&r) || r.left != 0 || message.block_count > OFFER_INDEX_MAX ||
        message.payload_bytes > OFFER_PAYLOAD_BYTES_MAX)
        return offer_malformed("COMPLETE", bytes);
    *message_out = message;
    return OK;
}

uint32_t end_write(const struct end_message *message, uint8_t *to)
{
    struct writer w = offer_writer(to);
    tag_write(&w, &message->tag);
    write_u32(&w, (uint32_t)-message->status);
    write_u64(&w, message->bytes);
    text_write(&w, message->text);
    return offer_written(&w);
}

status end_read(const uint8_t *from, uint32_t bytes, struct end_message *message_out)
{
    struct end_message message;
    memset(&message, 0, sizeof(message));
    struct reader r = reader_over(from, bytes);
    tag_read(&r, &message.tag);
    uint32_t code = read_u32(&r);
    message.bytes = read_u64(&r);
    text_read(&r, message.text);
    if (!reader_ok(&r) || r.left != 0 || code > (uint32_t)-ERR_CANCELLED)
        return offer_malformed("ACK, GIVE_UP or GONE", bytes);
    message.status = (status) - (int)code;
    *message_out = message;
    return OK;
}
