#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "transfer/carrier.h"

/* ---- holder ---- */

status shm_seal_pool(const struct transfer_pool *pool, int *read_only_fd_out)
{
    int seals = fcntl(pool->fd, F_GET_SEALS);
    if (seals < 0 || ((seals & F_SEAL_SHRINK) == 0 &&
                      fcntl(pool->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0))
        return error_set(ERR_UNSUPPORTED,
                         "the pool's memory cannot be sealed against shrinking (%s); "
                         "make its memfd with MFD_ALLOW_SEALING, or allow tcp only",
                         strerror(errno));
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", pool->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(ERR_IO, "cannot open the pool's memory read-only by %s: %s", path,
                         strerror(errno));
    *read_only_fd_out = fd;
    return OK;
}

status shm_send_pool(struct peer *peer)
{
    const struct transfer *transfer = peer->transfer;
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct pool_message message = {.block_count = transfer->options.pool.block_count,
                                   .block_bytes = transfer->options.pool.block_bytes};
    uint32_t bytes = pool_write(&message, payload);
    if (transfer->pool_fd < 0) /* who waits for it shall not wait */
        return link_send(peer->link, FRAME_POOL, payload, bytes);
    return link_send_fd(peer->link, FRAME_POOL, payload, bytes, transfer->pool_fd);
}

/* ---- receiver ---- */

static void shm_peer_ready(struct peer *peer)
{
    (void)peer; /* POOL comes by itself */
}

static status shm_map(struct peer *peer, const struct pool_message *message, int fd)
{
    size_t bytes;
    struct stat stat;
    if (!size_mul(message->block_count, message->block_bytes, &bytes))
        return error_set(ERR_BAD_INPUT, "a pool larger than memory");
    /* One that may shrink could kill us by SIGBUS in the middle of a copy. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &stat) != 0 || seals < 0 || (seals & F_SEAL_SHRINK) == 0 || stat.st_size < 0 ||
        (uint64_t)stat.st_size < bytes)
        return error_set(ERR_BAD_INPUT,
                         "the pool of \"%s\" should be a sealed memfd of %zu bytes, and "
                         "is not",
                         peer->name, bytes);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return error_set(ERR_IO, "cannot map the pool of \"%s\", %zu bytes: %s", peer->name, bytes,
                         strerror(errno));
    peer->map = map;
    peer->map_bytes = bytes;
    peer->map_blocks = message->block_count;
    atomic_fetch_add(&peer->transfer->mapped_bytes, bytes);
    return OK;
}

static status shm_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    if (type != FRAME_POOL)
        return ERR_UNSUPPORTED;
    struct pool_message message;
    status st = pool_read(payload, bytes, &message);
    if (st != OK)
        return st;
    int fd = link_take_fd(peer->link);
    size_t expected = peer->transfer->options.pool.block_bytes;
    if (fd < 0 || peer->map != NULL)
        st = error_set(ERR_BAD_INPUT, "a POOL message without a descriptor, or a second one");
    else if (message.block_bytes != expected)
        st = error_set(ERR_REFUSED, "block bytes: ours are %zu, those of \"%s\" are %llu", expected,
                       peer->name, (unsigned long long)message.block_bytes);
    else
        st = shm_map(peer, &message, fd);
    if (fd >= 0)
        close(fd);
    if (st == OK)
        peer_set_usable(peer);
    return st;
}

/* Copy entry i and tell. False: the receive may be gone. */
static bool shm_land(struct fetch *fetch, uint32_t i, size_t *bytes_out)
{
    const struct peer *peer = fetch->receive->peer;
    const struct transfer *transfer = peer->transfer;
    uint32_t id = fetch->holder_ids[i];
    *bytes_out = 0;
    if (!receive_wants(fetch, i))
        return true;
    if (id >= peer->map_blocks) {
        char text[OFFER_TEXT_BYTES];
        snprintf(text, sizeof(text), "\"%s\" offers block %u of a pool of %u", peer->name, id,
                 peer->map_blocks);
        receive_end(fetch->receive, TRANSFER_FAILED, ERR_BAD_INPUT, text, true);
        return false;
    }
    if (transfer->options.test_slow_us > 0)
        usleep(transfer->options.test_slow_us);
    uint8_t *to = receive_place(fetch, i, bytes_out);
    const uint8_t *from = peer->map + (size_t)id * transfer->options.pool.block_bytes +
                          transfer->layers[fetch->layer].offset;
    return receive_landed(fetch, i, land_copy(to, from, *bytes_out));
}

static size_t shm_run(void *owner)
{
    struct receive *receive = owner;
    struct transfer *transfer = receive->transfer;
    size_t moved = 0;
    while (receive->fetches != NULL && moved < STEP_BYTES) {
        struct fetch *fetch = receive->fetches;
        if (fetch->done < fetch->count) {
            size_t bytes;
            if (!shm_land(fetch, fetch->done, &bytes))
                return moved;
            fetch->done++;
            moved += bytes;
        }
        if (fetch->done == fetch->count && !receive_fetch_done(receive))
            return moved;
    }
    if (receive->fetches != NULL)
        work_add(transfer, &receive->landing);
    return moved;
}

static void shm_fetch(struct receive *receive)
{
    receive->landing.run = shm_run;
    receive->landing.owner = receive;
    work_add(receive->transfer, &receive->landing);
}

static void shm_forget(struct receive *receive)
{
    work_remove(receive->transfer, &receive->landing);
}

static void shm_peer_end(struct peer *peer)
{
    if (peer->map == NULL)
        return;
    munmap((void *)(uintptr_t)peer->map, peer->map_bytes);
    atomic_fetch_sub(&peer->transfer->mapped_bytes, peer->map_bytes);
    peer->map = NULL;
}

const struct carrier carrier_shm = {
    .id = TRANSFER_SHM,
    .by_host = true,
    .peer_ready = shm_peer_ready,
    .on_frame = shm_on_frame,
    .fetch = shm_fetch,
    .forget = shm_forget,
    .peer_end = shm_peer_end,
};
