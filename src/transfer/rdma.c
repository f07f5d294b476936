/* Carrier rdma, over UCX.
 *
 *     holder                                        receiver
 *     the pool, registered for remote reading       bounce: a few slices of memory, registered
 *                                        <-- ask ---  (tcp link: handshake, offers, PING, the end)
 *     where it is, its key  ---------------------->  ucp_get into a slot of the bounce memory
 *                                                    landed: copied and summed into the block
 *
 * A get cannot be called back, so it never has a block for its target: it lands in a slot, and who
 * gives up a receive gives up its slots' meaning, at once. The copy is the pass that takes the sum.
 * A slot whose get does not end stays taken until its peer's endpoint is closed, which the link's
 * silence brings about: UCX itself is not asked who lives.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "transfer/carrier.h"
#include "transfer/ucx.h"

#define BOUNCE_BYTES (8u << 20)
#define SLOTS_MIN 4u
#define SLOTS_MAX 64u
#define PROGRESS_ROUNDS 64
#define CLOSE_MS 1000

struct rdma_slot {
    struct rdma_slot *next; /* free, or of its receive, in the order of the fetches */
    struct rdma_peer *peer;
    struct receive *receive; /* NULL: given up */
    struct fetch *fetch;
    uint32_t entry;
    bool landed;
    ucs_status_t cause;
    uint8_t *memory;
};

/* A holder, seen from here. Outlives its peer until UCX has let go of it. */
struct rdma_peer {
    struct rdma_peer *next;
    struct rdma *rdma;
    struct peer *peer; /* NULL: closing */
    ucp_ep_h endpoint;
    ucp_rkey_h key;
    uint64_t base;
    uint32_t block_count, under_way;
    bool connecting; /* a close by force would abort the process (UCX 1.13): it waits */
    bool endpoint_closing, endpoint_closed;
    ucs_status_t broken; /* UCS_OK: it is not */
};

/* Loaded once, for the process. */
static const struct ucx *ucx;

struct rdma {
    struct transfer *transfer;
    ucp_context_h context;
    ucp_worker_h worker;
    struct loop_watch *watch;
    struct work progress;
    /* What a peer is told. */
    ucp_mem_h pool;
    ucp_address_t *address;
    size_t address_bytes;
    void *pool_key;
    size_t pool_key_bytes;
    /* Where gets land. */
    uint8_t *bounce;
    ucp_mem_h bounce_memory;
    struct rdma_slot slots[SLOTS_MAX], *free;
    uint32_t slot_count;
    struct rdma_peer *peers;
    bool starved; /* a receive wanted a slot and there was none */
};

static status rdma_error(status st, ucs_status_t cause, const char *what)
{
    return error_set(st, "UCX cannot %s: %s", what, ucx->ucs_status_string(cause));
}

/* ---- UCX's progress, on the loop ---- */

static void rdma_peer_settle(struct rdma_peer *peer);

/* Break off with peers whose endpoint failed: not inside UCX's callbacks. */
static void rdma_end_broken(struct rdma *rdma)
{
    for (struct rdma_peer *at = rdma->peers, *next; at != NULL; at = next) {
        next = at->next;
        if (at->peer != NULL && at->broken != UCS_OK)
            peer_close(at->peer, error_set(ERR_CLOSED, "UCX lost \"%s\": %s", at->peer->name,
                                           ucx->ucs_status_string(at->broken)));
    }
    for (struct rdma_peer *at = rdma->peers, *next; at != NULL; at = next) {
        next = at->next;
        rdma_peer_settle(at);
    }
}

static size_t rdma_progress(void *owner)
{
    struct rdma *rdma = owner;
    int rounds = 0;
    while (rounds < PROGRESS_ROUNDS && ucx->ucp_worker_progress(rdma->worker) != 0)
        rounds++;
    rdma_end_broken(rdma);
    /* Armed: the watch tells of what comes next. Not: there is more already. */
    if (rounds == PROGRESS_ROUNDS || ucx->ucp_worker_arm(rdma->worker) != UCS_OK)
        work_add(rdma->transfer, &rdma->progress);
    return 0;
}

static void rdma_on_event(void *ctx, int events)
{
    (void)events;
    rdma_progress(ctx);
}

/* ---- holder ---- */

status rdma_on_ask(struct peer *peer)
{
    const struct rdma *rdma = peer->transfer->rdma;
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct remote_message message = {0};
    if (rdma != NULL) {
        peer->carrier = &carrier_rdma;
        message =
            (struct remote_message){.block_count = peer->transfer->options.pool.block_count,
                                    .block_bytes = peer->transfer->options.pool.block_bytes,
                                    .base = (uint64_t)(uintptr_t)peer->transfer->options.pool.host,
                                    .address = (const uint8_t *)rdma->address,
                                    .address_bytes = (uint32_t)rdma->address_bytes,
                                    .key = rdma->pool_key,
                                    .key_bytes = (uint32_t)rdma->pool_key_bytes};
    }
    return link_send(peer->link, FRAME_REMOTE, payload, remote_write(&message, payload));
}

/* ---- receiver: the other side's pool ---- */

static void rdma_on_broken(void *ctx, ucp_ep_h endpoint, ucs_status_t cause)
{
    struct rdma_peer *peer = ctx;
    (void)endpoint;
    peer->broken = cause;
    work_add(peer->rdma->transfer, &peer->rdma->progress);
}

static void rdma_peer_ready(struct peer *peer)
{
    /* What cannot be sent is followed by the connection's end. */
    link_send(peer->link, FRAME_ASK_REMOTE, NULL, 0);
}

/* UCX takes no length of an address or a key: what is cut short must end in zeros. */
struct rdma_told {
    _Alignas(16) uint8_t address[2 * REMOTE_PART_BYTES_MAX], key[2 * REMOTE_PART_BYTES_MAX];
};

static void rdma_on_connected(void *request, ucs_status_t cause, void *ctx)
{
    struct rdma_peer *peer = ctx;
    (void)cause;
    peer->connecting = false;
    work_add(peer->rdma->transfer, &peer->rdma->progress);
    ucx->ucp_request_free(request);
}

/* Learn when the endpoint is connected, or cannot be: nothing was sent, and yet the flush waits. */
static void rdma_peer_flush(struct rdma_peer *peer)
{
    const ucp_request_param_t params = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                        UCP_OP_ATTR_FIELD_USER_DATA,
                                        .cb.send = rdma_on_connected,
                                        .user_data = peer};
    peer->connecting = UCS_PTR_IS_PTR(ucx->ucp_ep_flush_nbx(peer->endpoint, &params));
}

static status rdma_connect(struct peer *peer, const struct remote_message *message)
{
    struct rdma_told told = {0};
    memcpy(told.address, message->address, message->address_bytes);
    memcpy(told.key, message->key, message->key_bytes);
    struct rdma *rdma = peer->transfer->rdma;
    struct rdma_peer *remote = calloc(1, sizeof(*remote));
    if (remote == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a peer");
    remote->rdma = rdma;
    remote->peer = peer;
    remote->base = message->base;
    remote->block_count = message->block_count;
    const ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                                                  UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                                  UCP_EP_PARAM_FIELD_ERR_HANDLER,
                                    .address = (const ucp_address_t *)told.address,
                                    .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                                    .err_handler = {.cb = rdma_on_broken, .arg = remote}};
    ucs_status_t cause = ucx->ucp_ep_create(rdma->worker, &params, &remote->endpoint);
    if (cause != UCS_OK) {
        free(remote);
        return rdma_error(ERR_UNSUPPORTED, cause, "reach the holder by an RDMA transport");
    }
    remote->next = rdma->peers;
    rdma->peers = remote;
    peer->remote = remote; /* peer_end closes it */
    rdma_peer_flush(remote);
    cause = ucx->ucp_ep_rkey_unpack(remote->endpoint, told.key, &remote->key);
    if (cause != UCS_OK) {
        remote->key = NULL;
        return rdma_error(ERR_UNSUPPORTED, cause, "use the key of the holder's pool");
    }
    return OK;
}

static status rdma_on_frame(struct peer *peer, uint16_t type, const uint8_t *payload,
                            uint32_t bytes)
{
    struct remote_message message;
    size_t expected = peer->transfer->options.pool.block_bytes;
    if (type != FRAME_REMOTE)
        return ERR_UNSUPPORTED;
    status st = remote_read(payload, bytes, &message);
    if (st != OK)
        return st;
    if (peer->remote != NULL)
        return error_set(ERR_BAD_INPUT, "\"%s\" told of its pool twice", peer->name);
    if (message.address_bytes == 0)
        return error_set(ERR_REFUSED,
                         "\"%s\" has no carrier rdma; start it with --carrier rdma, or use tcp",
                         peer->name);
    if (message.block_bytes != expected)
        return error_set(ERR_REFUSED, "block bytes: ours are %zu, those of \"%s\" are %llu",
                         expected, peer->name, (unsigned long long)message.block_bytes);
    st = rdma_connect(peer, &message);
    if (st == OK)
        peer_set_usable(peer);
    return st;
}

static void rdma_on_endpoint_closed(void *request, ucs_status_t cause, void *ctx)
{
    struct rdma_peer *peer = ctx;
    (void)cause;
    peer->endpoint_closed = true;
    work_add(peer->rdma->transfer, &peer->rdma->progress);
    ucx->ucp_request_free(request);
}

/* By force: gets under way end with an error, and nothing is sent to a peer that may be gone. */
static void rdma_endpoint_close(struct rdma_peer *peer)
{
    const ucp_request_param_t params = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS |
                                                        UCP_OP_ATTR_FIELD_CALLBACK |
                                                        UCP_OP_ATTR_FIELD_USER_DATA,
                                        .flags = UCP_EP_CLOSE_FLAG_FORCE,
                                        .cb.send = rdma_on_endpoint_closed,
                                        .user_data = peer};
    peer->endpoint_closing = true;
    if (!UCS_PTR_IS_PTR(ucx->ucp_ep_close_nbx(peer->endpoint, &params)))
        peer->endpoint_closed = true;
}

/* Close the endpoint of a peer that ended, then free what nothing of UCX points to any more. */
static void rdma_peer_settle(struct rdma_peer *peer)
{
    if (peer->peer != NULL)
        return;
    if (!peer->endpoint_closing && (!peer->connecting || peer->broken != UCS_OK))
        rdma_endpoint_close(peer);
    if (!peer->endpoint_closed || peer->connecting || peer->under_way > 0)
        return;
    struct rdma_peer **place = &peer->rdma->peers;
    while (*place != peer)
        place = &(*place)->next;
    *place = peer->next;
    free(peer);
}

static void rdma_peer_end(struct peer *peer)
{
    struct rdma_peer *remote = peer->remote;
    if (remote == NULL)
        return;
    peer->remote = NULL;
    remote->peer = NULL;
    if (remote->key != NULL)
        ucx->ucp_rkey_destroy(remote->key);
    work_add(peer->transfer, &remote->rdma->progress);
}

/* ---- receiver: gets ---- */

static void rdma_slot_free(struct rdma *rdma, struct rdma_slot *slot)
{
    slot->receive = NULL;
    slot->next = rdma->free;
    rdma->free = slot;
    if (!rdma->starved)
        return;
    rdma->starved = false;
    for (struct rdma_peer *at = rdma->peers; at != NULL; at = at->next) {
        for (struct receive *receive = at->peer != NULL ? at->peer->receives : NULL;
             receive != NULL; receive = receive->peer_next) {
            if (receive->fetches != NULL)
                work_add(rdma->transfer, &receive->landing);
        }
    }
}

static void rdma_slot_landed(struct rdma_slot *slot, ucs_status_t cause)
{
    struct rdma_peer *peer = slot->peer;
    slot->landed = true;
    slot->cause = cause;
    peer->under_way--;
    if (slot->receive != NULL)
        work_add(peer->rdma->transfer, &slot->receive->landing);
    else
        rdma_slot_free(peer->rdma, slot);
}

static void rdma_on_got(void *request, ucs_status_t cause, void *ctx)
{
    rdma_slot_landed(ctx, cause);
    ucx->ucp_request_free(request);
}

enum rdma_asked { ASKED, NO_SLOT, RECEIVE_OVER };

/* Begin a get of the next entry of this fetch. */
static enum rdma_asked rdma_get(struct receive *receive, struct fetch *fetch, size_t *bytes_out)
{
    struct rdma_peer *peer = receive->peer->remote;
    struct rdma *rdma = peer->rdma;
    struct transfer *transfer = rdma->transfer;
    const struct transfer_slice *layer = &transfer->layers[fetch->layer];
    struct rdma_slot *slot = rdma->free;
    uint32_t id = fetch->holder_ids[fetch->requested];
    if (id >= peer->block_count) {
        char text[OFFER_TEXT_BYTES];
        snprintf(text, sizeof(text), "\"%s\" offers block %u of a pool of %u", receive->peer->name,
                 id, peer->block_count);
        receive_end(receive, TRANSFER_FAILED, ERR_BAD_INPUT, text, true);
        return RECEIVE_OVER;
    }
    /* Half of the slots: one that does not answer must not take them all. */
    if (slot == NULL || peer->under_way >= rdma->slot_count / 2) {
        rdma->starved = true;
        return NO_SLOT;
    }
    rdma->free = slot->next;
    uint8_t *memory = slot->memory;
    *slot = (struct rdma_slot){.peer = peer,
                               .receive = receive,
                               .fetch = fetch,
                               .entry = fetch->requested++,
                               .memory = memory};
    *receive->slots_tail = slot;
    receive->slots_tail = &slot->next;
    peer->under_way++;
    const ucp_request_param_t params = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                        UCP_OP_ATTR_FIELD_USER_DATA |
                                                        UCP_OP_ATTR_FIELD_MEMH,
                                        .cb.send = rdma_on_got,
                                        .user_data = slot,
                                        .memh = rdma->bounce_memory};
    uint64_t from =
        peer->base + (uint64_t)id * transfer->options.pool.block_bytes + (uint64_t)layer->offset;
    ucs_status_ptr_t request =
        ucx->ucp_get_nbx(peer->endpoint, memory, layer->bytes, from, peer->key, &params);
    *bytes_out += layer->bytes;
    if (!UCS_PTR_IS_PTR(request))
        rdma_slot_landed(slot, UCS_PTR_STATUS(request));
    return ASKED;
}

/* Begin gets as far as there are slots; entries that a later offer has replaced are passed over.
 * False: the receive is over. */
static bool rdma_ask(struct receive *receive, size_t *bytes_out)
{
    enum rdma_asked asked = ASKED;
    for (struct fetch *fetch = receive->fetches; fetch != NULL; fetch = fetch->next) {
        while (fetch->requested < fetch->count && *bytes_out < TURN_BYTES) {
            if (!receive_wants(fetch, fetch->requested))
                fetch->requested++;
            else if ((asked = rdma_get(receive, fetch, bytes_out)) != ASKED)
                return asked == NO_SLOT;
        }
    }
    return true;
}

/* Put what has landed into its block. False: the receive may be gone. */
static bool rdma_land(struct receive *receive, struct rdma_slot *slot)
{
    struct transfer *transfer = receive->transfer;
    struct fetch *fetch = slot->fetch;
    size_t bytes;
    receive->slots = slot->next;
    if (receive->slots == NULL)
        receive->slots_tail = &receive->slots;
    if (slot->cause != UCS_OK) {
        char text[OFFER_TEXT_BYTES];
        snprintf(text, sizeof(text), "a get from \"%s\" failed: %s", receive->peer->name,
                 ucx->ucs_status_string(slot->cause));
        rdma_slot_free(transfer->rdma, slot);
        receive_end(receive, TRANSFER_FAILED, ERR_CLOSED, text, true);
        return false;
    }
    if (transfer->options.test_slow_us > 0)
        usleep(transfer->options.test_slow_us);
    bool lives = true;
    if (receive_wants(fetch, slot->entry)) {
        uint8_t *to = receive_place(fetch, slot->entry, &bytes);
        lives = receive_landed(fetch, slot->entry, land_copy(to, slot->memory, bytes));
    }
    rdma_slot_free(transfer->rdma, slot);
    return lives;
}

/* Work: land, in order, then ask for more. */
static size_t rdma_run(void *owner)
{
    struct receive *receive = owner;
    struct transfer *transfer = receive->transfer;
    size_t moved = 0, asked = 0;
    while (receive->fetches != NULL && moved < STEP_BYTES) {
        struct fetch *fetch = receive->fetches;
        struct rdma_slot *slot = receive->slots;
        if (fetch->done == fetch->requested)
            break;
        bool is_next = slot != NULL && slot->fetch == fetch && slot->entry == fetch->done;
        if (is_next && !slot->landed)
            break;
        if (is_next && !rdma_land(receive, slot))
            return moved;
        moved += is_next ? transfer->layers[fetch->layer].bytes : 0;
        if (++fetch->done == fetch->count && !receive_fetch_done(receive))
            return moved;
    }
    if (!rdma_ask(receive, &asked))
        return moved;
    if (asked > 0)
        work_add(transfer, &transfer->rdma->progress);
    if (moved >= STEP_BYTES || asked >= TURN_BYTES)
        work_add(transfer, &receive->landing);
    return moved;
}

static void rdma_fetch(struct receive *receive)
{
    if (receive->slots == NULL)
        receive->slots_tail = &receive->slots;
    receive->landing.run = rdma_run;
    receive->landing.owner = receive;
    work_add(receive->transfer, &receive->landing);
}

static void rdma_forget(struct receive *receive)
{
    while (receive->slots != NULL) {
        struct rdma_slot *slot = receive->slots;
        receive->slots = slot->next;
        slot->receive = NULL;
        if (slot->landed)
            rdma_slot_free(receive->transfer->rdma, slot);
    }
    receive->slots_tail = &receive->slots;
    work_remove(receive->transfer, &receive->landing); /* a slot that is free may have added it */
}

/* ---- life ---- */

/* test: NULL, or TRANSPORTS[@DEVICE]. Those check no key: nobody from outside may reach them unless
 * a device is named. */
static status rdma_open_context(struct rdma *rdma, const char *test)
{
    char list[128];
    snprintf(list, sizeof(list), "%s", test != NULL ? test : TRANSFER_RDMA_TRANSPORTS);
    char *device = strchr(list, '@');
    if (device != NULL)
        *device++ = '\0';
    else if (test != NULL)
        device = "lo";
    ucp_config_t *config;
    ucs_status_t cause = ucx->ucp_config_read(NULL, NULL, &config);
    if (cause != UCS_OK)
        return rdma_error(ERR_IO, cause, "read its configuration");
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                                 .features = UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP};
    cause = ucx->ucp_config_modify(config, "TLS", list);
    if (cause == UCS_OK && device != NULL)
        cause = ucx->ucp_config_modify(config, "NET_DEVICES", device);
    if (cause == UCS_OK)
        cause =
            ucx->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &rdma->context);
    ucx->ucp_config_release(config);
    if (cause == UCS_OK)
        return OK;
    rdma->context = NULL;
    return error_set(ERR_UNSUPPORTED,
                     "UCX finds none of the transports \"%s\" on this host (%s); carrier rdma "
                     "needs an RDMA device and its libraries: see `ucx_info -d`, or use tcp",
                     list, ucx->ucs_status_string(cause));
}

static status rdma_open_worker(struct rdma *rdma)
{
    int fd;
    const ucp_worker_params_t params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                        .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    ucs_status_t cause = ucx->ucp_worker_create(rdma->context, &params, &rdma->worker);
    if (cause != UCS_OK) {
        rdma->worker = NULL;
        return rdma_error(ERR_UNSUPPORTED, cause, "open a worker");
    }
    cause = ucx->ucp_worker_get_address(rdma->worker, &rdma->address, &rdma->address_bytes);
    if (cause != UCS_OK) {
        rdma->address = NULL;
        return rdma_error(ERR_IO, cause, "tell its address");
    }
    cause = ucx->ucp_worker_get_efd(rdma->worker, &fd);
    if (cause != UCS_OK)
        return rdma_error(ERR_UNSUPPORTED, cause, "wake a sleeping thread by these transports");
    return loop_watch_open(rdma->transfer->loop, fd, LOOP_READ, rdma_on_event, rdma, &rdma->watch);
}

static status rdma_map(struct rdma *rdma, void *memory, size_t bytes, unsigned access,
                       ucp_mem_h *memory_out)
{
    const ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_PROT,
        .address = memory,
        .length = bytes,
        .prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE | access};
    ucs_status_t cause = ucx->ucp_mem_map(rdma->context, &params, memory_out);
    if (cause == UCS_OK)
        return OK;
    *memory_out = NULL;
    return error_set(ERR_NO_MEMORY, "UCX cannot register %zu bytes: %s; check `ulimit -l`", bytes,
                     ucx->ucs_status_string(cause));
}

static status rdma_open_memory(struct rdma *rdma)
{
    const struct transfer *transfer = rdma->transfer;
    const struct transfer_pool *pool = &transfer->options.pool;
    size_t slot_bytes = (transfer->layer_bytes_max + 63) / 64 * 64;
    size_t count = BOUNCE_BYTES / slot_bytes;
    rdma->slot_count = count < SLOTS_MIN   ? SLOTS_MIN
                       : count > SLOTS_MAX ? SLOTS_MAX
                                           : (uint32_t)count;
    rdma->bounce = aligned_alloc(64, rdma->slot_count * slot_bytes);
    if (rdma->bounce == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for what RDMA lands");
    for (uint32_t i = 0; i < rdma->slot_count; i++) {
        rdma->slots[i].memory = rdma->bounce + i * slot_bytes;
        rdma->slots[i].next = rdma->free;
        rdma->free = &rdma->slots[i];
    }
    status st =
        rdma_map(rdma, rdma->bounce, rdma->slot_count * slot_bytes, 0, &rdma->bounce_memory);
    if (st == OK)
        st = rdma_map(rdma, pool->host, pool->block_count * pool->block_bytes,
                      UCP_MEM_MAP_PROT_REMOTE_READ, &rdma->pool);
    if (st != OK)
        return st;
    ucs_status_t cause =
        ucx->ucp_rkey_pack(rdma->context, rdma->pool, &rdma->pool_key, &rdma->pool_key_bytes);
    if (cause != UCS_OK) {
        rdma->pool_key = NULL;
        return rdma_error(ERR_IO, cause, "make a key of the pool");
    }
    if (rdma->address_bytes > REMOTE_PART_BYTES_MAX || rdma->pool_key_bytes > REMOTE_PART_BYTES_MAX)
        return error_set(ERR_UNSUPPORTED, "UCX's address or key is larger than %u bytes",
                         REMOTE_PART_BYTES_MAX);
    return OK;
}

status rdma_open(struct transfer *transfer)
{
    struct rdma *rdma = calloc(1, sizeof(*rdma));
    if (rdma == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the carrier rdma");
    transfer->rdma = rdma;
    rdma->transfer = transfer;
    rdma->progress.run = rdma_progress;
    rdma->progress.owner = rdma;
    status st = ucx == NULL ? ucx_load(&ucx) : OK; /* another one may be using it */
    if (st == OK)
        st = rdma_open_context(rdma, transfer->options.rdma_transports);
    if (st == OK)
        st = rdma_open_worker(rdma);
    if (st == OK)
        st = rdma_open_memory(rdma);
    if (st == OK)
        work_add(transfer, &rdma->progress); /* arms it, on the transfer's own thread */
    else
        rdma_close(transfer);
    return st;
}

void rdma_close(struct transfer *transfer)
{
    struct rdma *rdma = transfer->rdma;
    if (rdma == NULL)
        return;
    uint64_t until_ns = clock_ns() + CLOSE_MS * 1000000ull;
    while (rdma->peers != NULL && clock_ns() < until_ns) {
        if (ucx->ucp_worker_progress(rdma->worker) == 0)
            usleep(100);
        rdma_end_broken(rdma);
    }
    work_remove(transfer, &rdma->progress);
    loop_watch_close(rdma->watch);
    if (rdma->address != NULL)
        ucx->ucp_worker_release_address(rdma->worker, rdma->address);
    if (rdma->pool_key != NULL)
        ucx->ucp_rkey_buffer_release(rdma->pool_key);
    if (rdma->worker != NULL)
        ucx->ucp_worker_destroy(rdma->worker);
    while (rdma->peers != NULL) { /* what UCX did not let go of in time went with its worker */
        struct rdma_peer *next = rdma->peers->next;
        free(rdma->peers);
        rdma->peers = next;
    }
    if (rdma->pool != NULL)
        ucx->ucp_mem_unmap(rdma->context, rdma->pool);
    if (rdma->bounce_memory != NULL)
        ucx->ucp_mem_unmap(rdma->context, rdma->bounce_memory);
    if (rdma->context != NULL)
        ucx->ucp_cleanup(rdma->context);
    free(rdma->bounce);
    free(rdma);
    transfer->rdma = NULL;
}

const struct carrier carrier_rdma = {
    .id = TRANSFER_RDMA,
    .by_host = true,
    .peer_ready = rdma_peer_ready,
    .on_frame = rdma_on_frame,
    .fetch = rdma_fetch,
    .forget = rdma_forget,
    .peer_end = rdma_peer_end,
};
