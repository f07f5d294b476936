/* What peers may say: the first byte of an input picks who hears the rest.
 *     0 frame header   1 hello   2 .. 7 messages of a transfer   8 a new link   9 a link that is
 * ready   10 where a pool is for RDMA   11 what maps a pool in a device. A HELLO of version 1
 * stands for one of ours, so that the corpus outlives versions. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "wire/frame.h"
#include "wire/hello.h"
#include "wire/link.h"
#include "wire/offer.h"

static uint64_t sink; /* so that what was decoded is read */

static void read_messages(unsigned which, const uint8_t *data, uint32_t bytes)
{
    struct subscribe_message subscribe;
    struct pool_message pool;
    struct offer_message offer;
    struct fetch_message fetch;
    struct complete_message complete;
    struct end_message end;
    struct device_message device;
    struct remote_message remote;
    if (which == 2 && subscribe_read(data, bytes, &subscribe) == OK)
        sink += subscribe.first_index + subscribe.block_count;
    if (which == 3 && pool_read(data, bytes, &pool) == OK)
        sink += pool.block_bytes * pool.block_count;
    if (which == 4 && offer_read(data, bytes, &offer) == OK) {
        for (uint32_t i = 0; i < offer.count; i++)
            sink += offer_block_id(&offer, i) + offer_checksum(&offer, i).a;
    }
    if (which == 5 && fetch_read(data, bytes, &fetch) == OK)
        sink += fetch.number;
    if (which == 6 && complete_read(data, bytes, &complete) == OK) {
        for (uint32_t i = 0; i < complete.payload_bytes; i++)
            sink += complete.payload[i];
    }
    if (which == 7 && end_read(data, bytes, &end) == OK)
        sink += strlen(end.text);
    if (which == 11 && device_read(data, bytes, &device) == OK)
        sink += strlen(device.text) + device.handle[OFFER_HANDLE_BYTES - 1];
    if (which == 10 && remote_read(data, bytes, &remote) == OK) {
        for (uint32_t i = 0; i < remote.address_bytes; i++)
            sink += remote.address[i];
        for (uint32_t i = 0; i < remote.key_bytes; i++)
            sink += remote.key[i];
    }
}

/* ---- a whole link ---- */

struct listener {
    struct loop *loop;
    struct link *link;
    uint8_t place[4096];
};

static void on_ready(void *ctx, const struct hello *peer)
{
    struct listener *listener = ctx;
    sink += strlen(peer->name);
    link_send(listener->link, FRAME_PING, NULL, 0);
}

static void on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes)
{
    struct listener *listener = ctx;
    read_messages(2 + type % 6, payload, payload_bytes);
    int fd = link_take_fd(listener->link);
    if (fd >= 0)
        close(fd);
    if (type == FRAME_GONE) {
        link_close(listener->link);
        listener->link = NULL;
        loop_stop(listener->loop);
    }
}

static void on_close(void *ctx, status cause)
{
    struct listener *listener = ctx;
    (void)cause;
    listener->link = NULL;
    loop_stop(listener->loop);
}

static uint32_t on_bulk(void *ctx, uint16_t type, const uint8_t *payload, uint32_t payload_bytes,
                        uint32_t bulk_bytes, struct iovec spans[LINK_SPANS_MAX])
{
    struct listener *listener = ctx;
    (void)payload, (void)payload_bytes;
    if (type % 2 == 0)
        return 0;
    spans[0] = (struct iovec){.iov_base = listener->place, .iov_len = bulk_bytes / 2};
    spans[1] = (struct iovec){.iov_base = listener->place + bulk_bytes / 2,
                              .iov_len = bulk_bytes - bulk_bytes / 2};
    return 2;
}

static void on_landed(void *ctx)
{
    sink += ((struct listener *)ctx)->place[0];
}

static const struct link_calls calls = {.on_ready = on_ready,
                                        .on_frame = on_frame,
                                        .on_close = on_close,
                                        .on_bulk = on_bulk,
                                        .on_landed = on_landed};

static void write_frame(int fd, uint16_t type, uint32_t number, const uint8_t *payload,
                        uint32_t bytes)
{
    uint8_t head[FRAME_HEADER_BYTES];
    struct frame_header header = {.payload_bytes = bytes, .type = type, .number = number};
    frame_header_write(&header, head);
    if (write(fd, head, sizeof(head)) < 0 || (bytes > 0 && write(fd, payload, bytes) < 0))
        abort();
}

static void hear(const uint8_t *data, size_t bytes, int greet)
{
    struct listener listener = {0};
    struct hello hello = {.role = HELLO_DECODE, .ranks = 1, .incarnation = 1};
    int fds[2];
    if (bytes > 60000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) != 0)
        return;
    if (loop_open(&listener.loop) != OK)
        abort();
    struct link_setup setup = {.calls = &calls,
                               .ctx = &listener,
                               .hello = &hello,
                               .limits = {.payload_bytes_max = 65536,
                                          .bulk_bytes_max = sizeof(listener.place),
                                          .pending_bytes_max = 65536,
                                          .handshake_ms = 100,
                                          .idle_ms = 100}};
    if (link_open(listener.loop, fds[0], &setup, &listener.link) == OK) {
        if (greet) {
            uint8_t payload[HELLO_PAYLOAD_BYTES_MAX];
            write_frame(fds[1], FRAME_HELLO, 0, payload, hello_write(&hello, payload));
            write_frame(fds[1], FRAME_READY, 1, NULL, 0);
        }
        ssize_t written = write(fds[1], data, bytes);
        (void)written;
        shutdown(fds[1], SHUT_WR); /* ends the link when all is read */
        loop_run(listener.loop);
        link_close(listener.link);
    }
    close(fds[1]);
    loop_close(listener.loop);
}

/* hello: a HELLO's payload, magic and version first. */
static void make_version_ours(uint8_t *hello, size_t bytes)
{
    if (bytes >= 8 && load_u32(hello + 4) == 1)
        store_u32(hello + 4, WIRE_VERSION);
}

static void hear_all(unsigned which, uint8_t *data, size_t bytes)
{
    struct frame_header header;
    struct hello hello, ours = {.parts = 3, .role = HELLO_DECODE, .ranks = 1, .incarnation = 1};
    if (which == 0 && bytes >= FRAME_HEADER_BYTES &&
        frame_header_read(data, 1000, 1000, 0, &header) == OK && header.payload_bytes > 1000)
        abort();
    size_t hello_at = which == 1 ? 0 : FRAME_HEADER_BYTES;
    if ((which == 1 || which == 8) && bytes > hello_at)
        make_version_ours(data + hello_at, bytes - hello_at);
    if (which == 1 && hello_read(data, (uint32_t)bytes, &hello) == OK)
        sink += (uint64_t)hello_check(&ours, &hello);
    if ((which >= 2 && which <= 7) || which == 10 || which == 11)
        read_messages(which, data, (uint32_t)bytes);
    if (which == 8 || which == 9)
        hear(data, bytes, which == 9);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    uint8_t *copy =
        malloc(bytes > 1 ? bytes - 1 : 1); /* of its own size, so that a read behind it shows */
    if (copy == NULL)
        return 0;
    memcpy(copy, data + 1, bytes - 1);
    hear_all(data[0] % 12, copy, bytes - 1);
    free(copy);
    return 0;
}
