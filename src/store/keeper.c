#include "store/keeper.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/placement.h"
#include "base/topology.h"
#include "store/keeper_parts.h"

#define WARM_BYTES_MAX (512u << 20) /* of the memory tier, made ahead of its use */
#define TICK_MS 500
#define PENDING_BYTES (16u << 20)

/* ---- sending ---- */

static void client_close(struct client *client, const char *why);

void client_send(struct client *client, uint16_t type)
{
    struct wire_frame *frame = &client->keeper->frame;
    status st = frame->failed ? ERR_NO_MEMORY
                              : link_send(client->link, type, frame->data, (uint32_t)frame->bytes);
    /* ERR_CLOSED: on_close follows. A worker whose answer is lost would wait for its deadline. */
    if (st != OK && st != ERR_CLOSED)
        log_warn("answer lost", "to=\"%s\" status=\"%s\"", client->hello.name, status_name(st));
}

void client_answer(struct client *client, uint16_t type, uint64_t number, status result,
                   uint32_t count, const char *text)
{
    struct wire_store_answer answer = {.number = number, .status = result, .count = count};
    snprintf(answer.text, sizeof(answer.text), "%s", text != NULL ? text : "");
    wire_frame_reset(&client->keeper->frame);
    wire_store_answer_encode(&client->keeper->frame, &answer);
    client_send(client, type);
}

/* ---- what blocks are: learned once ---- */

/* Workers on all nodes read it; else it would fill the one on which pages are made ahead. */
static void keeper_place(void *pool, size_t pool_bytes)
{
    struct topology host;
    topology_host(&host);
    if (placement_apply(pool, pool_bytes, topology_memory_of_all(&host)) != OK)
        log_info("memory is not placed", "reason=\"%s\"", error_text());
}

static status keeper_open_pool(struct keeper *keeper)
{
    uint64_t slots = keeper->options.memory_bytes / keeper->shape.block_bytes;
    if (slots == 0 || slots > UINT32_MAX / 2)
        return error_set(ERR_BAD_INPUT,
                         "--memory-bytes is %" PRIu64 ", expected room for at least one block of "
                         "%" PRIu64 " bytes, and for less than 2^31",
                         keeper->options.memory_bytes, keeper->shape.block_bytes);
    keeper->pool_bytes = (size_t)(slots * keeper->shape.block_bytes);
    keeper->pool.block_count = (uint32_t)slots;
    keeper->pool.block_bytes = (size_t)keeper->shape.block_bytes;
    keeper->pool.fd = memfd_create("baton-store", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (keeper->pool.fd < 0 || ftruncate(keeper->pool.fd, (off_t)keeper->pool_bytes) != 0)
        return error_set(ERR_NO_MEMORY, "cannot make a pool of %zu bytes: %s", keeper->pool_bytes,
                         strerror(errno));
    void *host =
        mmap(NULL, keeper->pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, keeper->pool.fd, 0);
    if (host == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "cannot map a pool of %zu bytes: %s", keeper->pool_bytes,
                         strerror(errno));
    keeper->pool.host = host;
    keeper_place(host, keeper->pool_bytes);
    size_t ahead = keeper->pool_bytes / 4;
    status st = warm_open(host, keeper->pool_bytes, ahead < WARM_BYTES_MAX ? ahead : WARM_BYTES_MAX,
                          &keeper->warm);
    return st == OK
               ? memory_open(keeper->pool.block_count, keeper->shape.layer_count, &keeper->memory)
               : st;
}

static status keeper_open_transfer(struct keeper *keeper)
{
    const struct keeper_options *options = &keeper->options;
    uint32_t carriers = transfer_carriers_parse(options->carrier);
    const char *tcp_text = options->transfer_tcp;
    struct address tcp, bound;
    char unix_text[ADDRESS_TEXT_BYTES];
    snprintf(unix_text, sizeof(unix_text), "unix:/tmp/baton-%ld-store.sock", (long)getpid());
    status st = address_parse(options->transfer != NULL ? options->transfer : unix_text, 0,
                              &keeper->transfer_unix);
    if (tcp_text == NULL && (carriers & TRANSFER_SHM) == 0)
        tcp_text = "127.0.0.1:0";
    if (st == OK && tcp_text != NULL)
        st = address_parse(tcp_text, 0, &tcp);
    if (st == OK)
        st = mailbox_open(&keeper->transfers);
    if (st == OK)
        st = loop_mailbox_open(keeper->loop, keeper->transfers, keeper_on_transfer, keeper,
                               &keeper->transfers_watch);
    if (st != OK)
        return st;
    const struct transfer_options transfer = {
        .hello = &keeper->hello,
        .key = keeper->key,
        .unix_listen = (carriers & TRANSFER_SHM) != 0 ? &keeper->transfer_unix : NULL,
        .tcp_listen = tcp_text != NULL ? &tcp : NULL,
        .pool = keeper->pool,
        .layers = keeper->shape.layers,
        .layer_count = keeper->shape.layer_count,
        .carriers = carriers,
        .rdma_transports = options->rdma_transports,
        .silence_ms = (uint32_t)options->silence_ms,
        .reports = keeper->transfers,
    };
    st = transfer_open(&transfer, &keeper->transfer);
    if (st != OK)
        return st;
    if ((carriers & TRANSFER_SHM) != 0)
        snprintf(keeper->told_unix, sizeof(keeper->told_unix), "%s", keeper->transfer_unix.text);
    if (transfer_tcp_address(keeper->transfer, &bound) == OK) {
        struct address told = bound;
        if (options->transfer_advertise != NULL) {
            st = address_parse(options->transfer_advertise, address_port(&bound), &told);
            if (st == OK)
                st = address_write_numeric(&told);
        }
        if (st == OK && address_is_wildcard(&told))
            st = error_set(ERR_BAD_INPUT,
                           "workers cannot connect to %s: give an address of this host with "
                           "--transfer-advertise",
                           told.text);
        snprintf(keeper->told_tcp, sizeof(keeper->told_tcp), "%s", told.text);
    }
    return st;
}

static void keeper_found(void *ctx, const struct disk_record *record, struct disk_place place)
{
    struct keeper *keeper = ctx;
    memory_add_stored(keeper->memory, &record->key, &record->parent, record->is_first,
                      record->checksums, place);
}

static status keeper_open_disk(struct keeper *keeper)
{
    status st = mailbox_open(&keeper->disks);
    if (st == OK)
        st = loop_mailbox_open(keeper->loop, keeper->disks, keeper_on_disk, keeper,
                               &keeper->disks_watch);
    const struct disk_options options = {.folder = keeper->options.disk,
                                         .bytes_max = keeper->options.disk_bytes,
                                         .shape = &keeper->shape,
                                         .reports = keeper->disks};
    if (st == OK)
        st = disk_open(&options, keeper_found, keeper, &keeper->disk);
    return st;
}

/* keeper->shape is set: everything else follows from it. */
static status keeper_learn(struct keeper *keeper)
{
    const struct hello *learned = &keeper->shape.hello;
    keeper->hello.parts = HELLO_HAS_MODEL | HELLO_HAS_KV;
    memcpy(keeper->hello.fingerprint, learned->fingerprint, HELLO_HASH_BYTES);
    memcpy(keeper->hello.layout_hash, learned->layout_hash, HELLO_HASH_BYTES);
    memcpy(keeper->hello.numerics_class, learned->numerics_class, HELLO_CLASS_BYTES);
    keeper->hello.kv_dtype = learned->kv_dtype;
    keeper->hello.block_tokens = learned->block_tokens;
    keeper->hello.rank = learned->rank;
    keeper->hello.ranks = learned->ranks;
    status st = keeper_open_pool(keeper);
    if (st == OK)
        st = keeper_open_transfer(keeper);
    if (st == OK && keeper->options.disk != NULL)
        st = keeper_open_disk(keeper);
    if (st != OK)
        return st;
    keeper->known = true;
    struct memory_counts counts;
    memory_count(keeper->memory, &counts);
    log_info("layout known", "block_bytes=%" PRIu64 " memory_blocks=%u disk_blocks=%" PRIu64,
             keeper->shape.block_bytes, keeper->pool.block_count, counts.entries);
    return OK;
}

static status layout_check(const struct wire_store_layout *layout)
{
    if (layout->layer_count == 0 || layout->block_bytes == 0 ||
        layout->block_bytes > DISK_BLOCK_BYTES_MAX)
        return error_set(ERR_BAD_INPUT, "a layout of %u layers and blocks of %" PRIu64 " bytes",
                         layout->layer_count, layout->block_bytes);
    for (uint32_t i = 0; i < layout->layer_count; i++) {
        uint64_t offset, bytes;
        wire_store_layer(layout, i, &offset, &bytes);
        if (bytes == 0 || offset > layout->block_bytes || bytes > layout->block_bytes - offset)
            return error_set(ERR_BAD_INPUT,
                             "layer %u of a layout lies outside of its block of %" PRIu64 " bytes",
                             i, layout->block_bytes);
    }
    return OK;
}

static status shape_take(struct disk_shape *shape, const struct hello *hello,
                         const struct wire_store_layout *layout)
{
    struct transfer_slice *layers = calloc(layout->layer_count, sizeof(*layers));
    if (layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a layout");
    for (uint32_t i = 0; i < layout->layer_count; i++) {
        uint64_t offset, bytes;
        wire_store_layer(layout, i, &offset, &bytes);
        layers[i] = (struct transfer_slice){.offset = (size_t)offset, .bytes = (size_t)bytes};
    }
    *shape = (struct disk_shape){.hello = *hello,
                                 .block_bytes = layout->block_bytes,
                                 .layer_count = layout->layer_count,
                                 .layers = layers};
    return OK;
}

/* Is this layout ours? Hashes are compared in the handshake already; these are the numbers. */
static status layout_compare(const struct keeper *keeper, const struct wire_store_layout *layout)
{
    bool equal = layout->block_bytes == keeper->shape.block_bytes &&
                 layout->layer_count == keeper->shape.layer_count;
    for (uint32_t i = 0; equal && i < layout->layer_count; i++) {
        uint64_t offset, bytes;
        wire_store_layer(layout, i, &offset, &bytes);
        equal = offset == keeper->shape.layers[i].offset && bytes == keeper->shape.layers[i].bytes;
    }
    if (equal)
        return OK;
    return error_set(ERR_REFUSED,
                     "block layout: the store's has %u layers in %" PRIu64 " bytes, yours %u in "
                     "%" PRIu64 "; give each model and layout a store of its own",
                     keeper->shape.layer_count, keeper->shape.block_bytes, layout->layer_count,
                     layout->block_bytes);
}

/* Accept a worker, or say why not. */
static status keeper_welcome(struct client *client, const struct wire_store_layout *layout)
{
    struct keeper *keeper = client->keeper;
    if ((client->hello.parts & HELLO_HAS_KV) == 0)
        return error_set(ERR_REFUSED, "a process without a model has no blocks");
    struct hello ours = keeper->hello;
    ours.auth = client->hello.auth; /* the link has seen to that */
    status st = layout_check(layout);
    if (st == OK && keeper->known)
        st = hello_check(&ours, &client->hello);
    if (st == OK && keeper->known)
        st = layout_compare(keeper, layout);
    if (st == OK && !keeper->known && keeper->shape.layers != NULL)
        st = error_set(ERR_REFUSED, "the store could not make its memory for an earlier worker");
    if (st == OK && !keeper->known) {
        st = shape_take(&keeper->shape, &client->hello, layout);
        if (st == OK && (st = keeper_learn(keeper)) != OK)
            log_error("store not usable", "reason=\"%s\"", error_text());
    }
    client->has_unix = layout->transfer_unix[0] != '\0';
    client->has_tcp = layout->transfer_tcp[0] != '\0';
    if (st == OK && client->has_unix)
        st = address_parse_numeric(layout->transfer_unix, &client->transfer_unix);
    if (st == OK && client->has_tcp)
        st = address_parse_numeric(layout->transfer_tcp, &client->transfer_tcp);
    return st;
}

static void keeper_tell_layout(struct client *client, status result, const char *text)
{
    struct keeper *keeper = client->keeper;
    struct wire_store_layout welcome = {.status = result};
    uint8_t *layers = NULL;
    snprintf(welcome.text, sizeof(welcome.text), "%s", text);
    if (keeper->known) {
        layers = malloc((size_t)keeper->shape.layer_count * 16);
        welcome.block_bytes = keeper->shape.block_bytes;
        welcome.block_count = keeper->pool.block_count;
        welcome.layer_count = layers != NULL ? keeper->shape.layer_count : 0;
        for (uint32_t i = 0; i < welcome.layer_count; i++) {
            store_u64(layers + (size_t)i * 16, keeper->shape.layers[i].offset);
            store_u64(layers + (size_t)i * 16 + 8, keeper->shape.layers[i].bytes);
        }
        welcome.layers = layers;
        memcpy(welcome.transfer_unix, keeper->told_unix, sizeof(welcome.transfer_unix));
        memcpy(welcome.transfer_tcp, keeper->told_tcp, sizeof(welcome.transfer_tcp));
    }
    wire_frame_reset(&keeper->frame);
    wire_store_layout_encode(&keeper->frame, &welcome);
    client_send(client, FRAME_STORE_WELCOME);
    free(layers);
}

static status keeper_on_layout(struct client *client, const uint8_t *payload, uint32_t bytes)
{
    struct wire_store_layout layout;
    status st = wire_store_layout_decode(payload, bytes, &layout);
    if (st != OK)
        return st;
    /* An operator asks with an empty layout what the store's is. */
    if (layout.layer_count == 0 && client->hello.role == HELLO_OPERATOR) {
        keeper_tell_layout(client, OK, "");
        return OK;
    }
    st = keeper_welcome(client, &layout);
    client->has_layout = st == OK;
    if (st != OK) {
        client->keeper->counts.refused_links++;
        log_warn("worker refused", "name=\"%s\" reason=\"%s\"", client->hello.name, error_text());
    }
    keeper_tell_layout(client, st, st != OK ? error_text() : "");
    return OK;
}

/* ---- connections ---- */

static void client_forget(struct client *client)
{
    struct keeper *keeper = client->keeper;
    struct client **place = &keeper->clients;
    while (*place != client)
        place = &(*place)->next;
    *place = client->next;
    keeper->client_count--;
    keeper_client_gone(client);
    free(client);
}

static void client_close(struct client *client, const char *why)
{
    log_info("client ended", "name=\"%s\" cause=\"%s\"", client->hello.name, why);
    link_close(client->link);
    client_forget(client);
}

static void client_on_ready(void *ctx, const struct hello *peer)
{
    struct client *client = ctx;
    client->hello = *peer;
    client->ready = true;
    link_limit_payload(client->link, WIRE_STORE_PAYLOAD_BYTES_MAX);
    log_info("client connected", "name=\"%s\" role=%s", peer->name, hello_role_name(peer->role));
}

static status client_on_question(struct client *client, uint16_t type, const uint8_t *payload,
                                 uint32_t bytes)
{
    switch (type) {
    case FRAME_STORE_LAYOUT:
        return keeper_on_layout(client, payload, bytes);
    case FRAME_STORE_ADD:
        return keeper_on_add(client, payload, bytes);
    case FRAME_STORE_GET:
        return keeper_on_get(client, payload, bytes);
    case FRAME_STORE_LEAVE:
        return keeper_on_leave(client, payload, bytes);
    case FRAME_STORE_FIND:
        return keeper_on_find(client, payload, bytes);
    case FRAME_STORE_DELETE:
        return keeper_on_delete(client, payload, bytes);
    case FRAME_STORE_LIST:
        return keeper_on_list(client, payload, bytes);
    case FRAME_STORE_STAT:
        return keeper_on_stat(client, payload, bytes);
    default:
        return error_set(ERR_BAD_INPUT, "frame of type 0x%04x is not for a store", type);
    }
}

static void client_on_frame(void *ctx, uint16_t type, const uint8_t *payload, uint32_t bytes)
{
    struct client *client = ctx;
    if (client_on_question(client, type, payload, bytes) != OK) {
        log_warn("frame refused", "from=\"%s\" cause=\"%s\"", client->hello.name, error_text());
        client_close(client, "a frame that cannot be");
    }
}

static void client_on_close(void *ctx, status cause)
{
    struct client *client = ctx;
    client->keeper->counts.refused_links += cause == ERR_REFUSED;
    log_info("client ended", "name=\"%s\" status=\"%s\" cause=\"%s\"", client->hello.name,
             status_name(cause), error_text());
    client_forget(client);
}

static const struct link_calls client_calls = {
    .on_ready = client_on_ready, .on_frame = client_on_frame, .on_close = client_on_close};

static void keeper_on_accept(void *ctx, int fd)
{
    struct keeper *keeper = ctx;
    struct client *client =
        keeper->client_count < KEEPER_CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
    if (client == NULL) {
        close(fd);
        return;
    }
    client->keeper = keeper;
    const struct link_setup setup = {
        .calls = &client_calls,
        .ctx = client,
        .hello = &keeper->hello,
        .key = keeper->key,
        .limits = {.payload_bytes_max = WIRE_STORE_PAYLOAD_BYTES_MAX,
                   .pending_bytes_max = PENDING_BYTES},
    };
    if (link_open(keeper->loop, fd, &setup, &client->link) != OK) {
        free(client);
        return;
    }
    client->next = keeper->clients;
    keeper->clients = client;
    keeper->client_count++;
}

/* ---- open and close ---- */

static void keeper_on_tick(void *ctx)
{
    struct keeper *keeper = ctx;
    if (keeper->known)
        memory_expire(keeper->memory, clock_ns(), keeper_forget, keeper);
    loop_timer_start(keeper->tick, TICK_MS);
}

static status keeper_check_network(struct keeper *keeper)
{
    const struct keeper_options *options = &keeper->options;
    struct address tcp;
    status st = address_parse(options->listen, 0, &keeper->listen);
    if (st == OK)
        st = cluster_key_allows(keeper->key, options->trust_network, &keeper->listen, "--listen",
                                options->listen);
    if (st == OK && options->transfer_tcp != NULL) {
        st = address_parse(options->transfer_tcp, 0, &tcp);
        if (st == OK)
            st = cluster_key_allows(keeper->key, options->trust_network, &tcp, "--transfer-tcp",
                                    options->transfer_tcp);
    }
    return st;
}

/* A folder with blocks says what they are. */
static status keeper_learn_from_disk(struct keeper *keeper)
{
    status st = disk_learn(keeper->options.disk, &keeper->shape);
    if (st == ERR_NOT_FOUND)
        return OK;
    return st == OK ? keeper_learn(keeper) : st;
}

status keeper_open(struct loop *loop, const struct keeper_options *options,
                   struct keeper **keeper_out)
{
    struct keeper *keeper = calloc(1, sizeof(*keeper));
    if (keeper == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a store");
    keeper->loop = loop;
    keeper->options = *options;
    keeper->pool.fd = -1;
    keeper->hello =
        (struct hello){.role = HELLO_STORE, .ranks = 1, .incarnation = hello_incarnation_random()};
    snprintf(keeper->hello.name, sizeof(keeper->hello.name), "store");
    status st = cluster_key_open(options->cluster_key, &keeper->key);
    if (st == OK)
        st = keeper_check_network(keeper);
    if (st == OK)
        st = loop_timer_open(loop, keeper_on_tick, keeper, &keeper->tick);
    if (st == OK && options->disk != NULL)
        st = keeper_learn_from_disk(keeper);
    if (st == OK)
        st = link_listen(loop, &keeper->listen, keeper_on_accept, keeper, &keeper->listener);
    if (st != OK) {
        keeper_close(keeper);
        return st;
    }
    loop_timer_start(keeper->tick, TICK_MS);
    *keeper_out = keeper;
    return OK;
}

void keeper_close(struct keeper *keeper)
{
    if (keeper == NULL)
        return;
    link_listener_close(keeper->listener);
    while (keeper->clients != NULL)
        client_close(keeper->clients, "the store stops");
    if (keeper->transfer != NULL)
        transfer_close(keeper->transfer);
    disk_close(keeper->disk);
    keeper_moves_close(keeper);
    loop_watch_close(keeper->transfers_watch);
    loop_watch_close(keeper->disks_watch);
    loop_timer_close(keeper->tick);
    if (keeper->transfers != NULL)
        mailbox_close(keeper->transfers);
    if (keeper->disks != NULL)
        mailbox_close(keeper->disks);
    memory_close(keeper->memory);
    warm_close(keeper->warm);
    if (keeper->pool.host != NULL)
        munmap(keeper->pool.host, keeper->pool_bytes);
    if (keeper->pool.fd >= 0)
        close(keeper->pool.fd);
    free(keeper->shape.layers);
    wire_frame_close(&keeper->frame);
    cluster_key_close(keeper->key);
    free(keeper);
}

const struct address *keeper_address(const struct keeper *keeper)
{
    return link_listener_address(keeper->listener);
}
