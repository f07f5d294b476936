#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "wire/link_parts.h"

status link_sealed_begin(struct link *link)
{
    struct link_in *in = &link->in;
    struct link_out *out = &link->out;
    uint8_t send[SEAL_KEY_BYTES], receive[SEAL_KEY_BYTES];
    bool aes = (link->hello.auth & link->peer.auth & HELLO_AUTH_AES) != 0;
    enum seal_cipher cipher = aes ? SEAL_AES256_OCB : SEAL_CHACHA20_POLY1305;
    in->sealed = malloc(LINK_SEALED_BYTES);
    out->sealed = malloc(LINK_SEALED_BYTES);
    status st = in->sealed != NULL && out->sealed != NULL
                    ? OK
                    : error_set(ERR_NO_MEMORY, "no memory for a sealed connection");
    auth_keys(link->auth, send, receive);
    if (st == OK)
        st = seal_open(cipher, receive, &in->seal);
    if (st == OK)
        st = seal_open(cipher, send, &out->seal);
    sodium_memzero(send, sizeof(send));
    sodium_memzero(receive, sizeof(receive));
    if (st != OK)
        return st;
    /* What was read together with the proof is sealed already. */
    in->sealed_end = in->stage_end - in->stage_at;
    memcpy(in->sealed, in->stage + in->stage_at, in->sealed_end);
    in->stage_at = in->stage_end = 0;
    return OK;
}

void link_sealed_free(struct link *link)
{
    seal_close(link->in.seal);
    seal_close(link->out.seal);
    free(link->in.sealed);
    free(link->out.sealed);
}

/* ---- reading ---- */

/* The plain bytes of the record that must come now. */
static size_t link_sealed_expected(const struct link_in *in)
{
    size_t left = in->expect == EXPECT_HEADER    ? FRAME_HEADER_BYTES
                  : in->expect == EXPECT_PAYLOAD ? in->header.payload_bytes - in->payload_got
                                                 : in->bulk_left;
    return left < SEAL_PLAIN_BYTES_MAX ? left : SEAL_PLAIN_BYTES_MAX;
}

struct iovec link_sealed_place(struct link_in *in)
{
    size_t record = link_sealed_expected(in) + SEAL_TAG_BYTES;
    if (in->sealed_at == in->sealed_end)
        in->sealed_at = in->sealed_end = 0;
    if (in->sealed_at + record > LINK_SEALED_BYTES) {
        memmove(in->sealed, in->sealed + in->sealed_at, in->sealed_end - in->sealed_at);
        in->sealed_end -= in->sealed_at;
        in->sealed_at = 0;
    }
    return (struct iovec){.iov_base = in->sealed + in->sealed_end,
                          .iov_len = LINK_SEALED_BYTES - in->sealed_end};
}

/* The next `bytes` of places, in pieces; the count of these. */
static uint32_t link_sealed_pieces(const struct iovec *places, size_t skip, size_t bytes,
                                   struct iovec pieces[LINK_SPANS_MAX])
{
    uint32_t count = 0;
    for (; bytes > 0; places++) {
        if (skip >= places->iov_len) {
            skip -= places->iov_len;
            continue;
        }
        size_t left = places->iov_len - skip;
        pieces[count].iov_base = (uint8_t *)places->iov_base + skip;
        pieces[count].iov_len = left < bytes ? left : bytes;
        bytes -= pieces[count++].iov_len;
        skip = 0;
    }
    return count;
}

/* Into the places that it belongs to. One that is thrown away must be right all the same. */
static status link_sealed_open_bulk(struct link_in *in, uint8_t *from, size_t bytes)
{
    struct iovec pieces[LINK_SPANS_MAX] = {{.iov_base = from, .iov_len = bytes}};
    uint32_t count = 1;
    if (in->span_at < in->span_count)
        count = link_sealed_pieces(in->spans + in->span_at, 0, bytes, pieces);
    status st = seal_open_record_to(in->seal, in->record, from, pieces, count);
    if (st == OK)
        link_in_advance_bulk(in, bytes);
    return st;
}

static status link_sealed_open_record(struct link_in *in, uint8_t *from, size_t bytes)
{
    status st;
    switch (in->expect) {
    case EXPECT_HEADER:
        st = seal_open_record(in->seal, in->record, from, bytes, in->header_bytes);
        in->header_got = FRAME_HEADER_BYTES;
        break;
    case EXPECT_PAYLOAD:
        st = seal_open_record(in->seal, in->record, from, bytes, in->payload + in->payload_got);
        in->payload_got += (uint32_t)bytes;
        break;
    default:
        st = link_sealed_open_bulk(in, from, bytes);
        break;
    }
    in->record++;
    return st;
}

status link_sealed_open(struct link *link)
{
    struct link_in *in = &link->in;
    while (link->phase != LINK_ENDED) {
        size_t bytes = link_sealed_expected(in);
        if (in->sealed_end - in->sealed_at < bytes + SEAL_TAG_BYTES)
            return OK;
        uint8_t *from = in->sealed + in->sealed_at;
        in->sealed_at += bytes + SEAL_TAG_BYTES;
        status st = link_sealed_open_record(in, from, bytes);
        if (st != OK)
            return error_prefix(st, "from \"%s\"", link->peer.name);
        st = link_in_parse(link);
        if (st != OK)
            return st;
    }
    return OK;
}

/* ---- writing ---- */

size_t link_sealed_frame_bytes(uint32_t payload_bytes)
{
    return FRAME_HEADER_BYTES + SEAL_TAG_BYTES + seal_wire_bytes(payload_bytes);
}

void link_sealed_frame(struct link_out *out, const uint8_t header[FRAME_HEADER_BYTES],
                       const uint8_t *payload, uint32_t payload_bytes, uint8_t *to)
{
    seal_record(out->seal, out->record++, header, FRAME_HEADER_BYTES, to);
    to += FRAME_HEADER_BYTES + SEAL_TAG_BYTES;
    for (uint32_t at = 0; at < payload_bytes;) {
        uint32_t left = payload_bytes - at;
        uint32_t bytes = left < SEAL_PLAIN_BYTES_MAX ? left : SEAL_PLAIN_BYTES_MAX;
        seal_record(out->seal, out->record++, payload + at, bytes, to);
        to += bytes + SEAL_TAG_BYTES;
        at += bytes;
    }
}

struct iovec link_sealed_spans(struct link_out *out, const struct link_piece *piece)
{
    if (out->sealed_at == out->sealed_end) {
        /* All that was sealed is sent, so that the piece stands at the beginning of a record. */
        uint64_t number = piece->sent / SEAL_RECORD_BYTES_MAX;
        size_t offset = (size_t)number * SEAL_PLAIN_BYTES_MAX;
        out->sealed_at = out->sealed_end = 0;
        while (offset < piece->plain_bytes &&
               out->sealed_end + SEAL_RECORD_BYTES_MAX <= LINK_SEALED_BYTES) {
            size_t left = piece->plain_bytes - offset;
            size_t bytes = left < SEAL_PLAIN_BYTES_MAX ? left : SEAL_PLAIN_BYTES_MAX;
            struct iovec plain[LINK_SPANS_MAX];
            uint32_t count = link_sealed_pieces(piece->data.spans, offset, bytes, plain);
            seal_record_of(out->seal, piece->record + number, plain, count,
                           out->sealed + out->sealed_end);
            out->sealed_end += bytes + SEAL_TAG_BYTES;
            offset += bytes;
            number++;
        }
    }
    return (struct iovec){.iov_base = out->sealed + out->sealed_at,
                          .iov_len = out->sealed_end - out->sealed_at};
}
