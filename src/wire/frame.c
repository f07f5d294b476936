#include "wire/frame.h"

#include "base/bytes.h"
#include "base/error.h"

void frame_header_write(const struct frame_header *header, uint8_t to[FRAME_HEADER_BYTES])
{
    store_u32(to, header->payload_bytes);
    store_u16(to + 4, header->type);
    store_u16(to + 6, header->flags);
    store_u32(to + 8, header->bulk_bytes);
    store_u32(to + 12, header->number);
}

status frame_header_read(const uint8_t from[FRAME_HEADER_BYTES], uint32_t payload_bytes_max,
                         uint32_t bulk_bytes_max, uint32_t number, struct frame_header *header_out)
{
    struct frame_header header = {
        .payload_bytes = load_u32(from),
        .type = load_u16(from + 4),
        .flags = load_u16(from + 6),
        .bulk_bytes = load_u32(from + 8),
        .number = load_u32(from + 12),
    };
    if (header.payload_bytes > payload_bytes_max)
        return error_set(ERR_BAD_INPUT,
                         "frame of type 0x%04x has a payload of %u bytes, expected at "
                         "most %u; the peer does not speak baton's protocol",
                         header.type, header.payload_bytes, payload_bytes_max);
    if (header.bulk_bytes > bulk_bytes_max)
        return error_set(ERR_BAD_INPUT,
                         "frame of type 0x%04x has %u bytes of bulk, expected at most "
                         "%u",
                         header.type, header.bulk_bytes, bulk_bytes_max);
    if ((header.flags & ~FRAME_FLAGS_KNOWN) != 0)
        return error_set(ERR_BAD_INPUT, "frame of type 0x%04x has unknown flags 0x%04x",
                         header.type, header.flags);
    if (header.number != number)
        return error_set(ERR_BAD_INPUT,
                         "frame of type 0x%04x has number %u, expected %u: the stream "
                         "lost frames or its place",
                         header.type, header.number, number);
    *header_out = header;
    return OK;
}
