#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"
#include "transfer/carrier.h"
#include "transfer/parts.h"

#define MAPPING_ADD 1
#define MAPPING_STOP 2

/* A mapping belongs to this thread from to_map to mapped, but for its peer. */
static void *mapping_run(void *ctx)
{
    struct transfer *transfer = ctx;
    struct backend *device = transfer->options.pool.device;
    for (;;) {
        mailbox_wait(transfer->to_map, -1);
        struct mail *mail = mailbox_take_all(transfer->to_map), *next;
        for (; mail != NULL; mail = next) {
            struct mapping *mapping = (struct mapping *)mail;
            next = mail->next;
            if (mail->kind == MAPPING_STOP) /* the last one */
                return NULL;
            mapping->result =
                device->moves->pool_map(device, mapping->handle, mapping->bytes, &mapping->map);
            if (mapping->result != OK)
                snprintf(mapping->text, sizeof(mapping->text), "%s", error_text());
            mailbox_post(transfer->mapped, &mapping->mail);
        }
    }
}

/* Nobody wants it any more. */
static void mapping_drop(struct transfer *transfer, struct mapping *mapping)
{
    struct backend *device = transfer->options.pool.device;
    if (mapping->result == OK)
        device->moves->pool_unmap(device, mapping->map);
    free(mapping);
}

static void mapping_on_mapped(void *ctx, struct mail *mail)
{
    struct transfer *transfer = ctx;
    struct mapping *mapping = (struct mapping *)mail;
    struct peer *peer = mapping->peer;
    if (peer == NULL) {
        mapping_drop(transfer, mapping);
        return;
    }
    peer->mapping = NULL;
    cuda_ipc_mapped(peer, mapping);
    free(mapping);
}

status mapping_open(struct transfer *transfer)
{
    if ((transfer->options.carriers & TRANSFER_CUDA_IPC) == 0)
        return OK;
    status st = mailbox_open(&transfer->to_map);
    if (st == OK)
        st = mailbox_open(&transfer->mapped);
    if (st == OK)
        st = loop_mailbox_open(transfer->loop, transfer->mapped, mapping_on_mapped, transfer,
                               &transfer->mapped_watch);
    if (st == OK)
        st = thread_start("mapping", mapping_run, transfer, &transfer->mapping_thread);
    transfer->maps = st == OK;
    return st;
}

void mapping_stop(struct transfer *transfer)
{
    if (!transfer->maps)
        return;
    transfer->maps = false;
    transfer->stop_mapping.kind = MAPPING_STOP;
    mailbox_post(transfer->to_map, &transfer->stop_mapping);
    pthread_join(transfer->mapping_thread, NULL);
    struct mail *mail = mailbox_take_all(transfer->mapped), *next;
    for (; mail != NULL; mail = next) {
        next = mail->next;
        mapping_drop(transfer, (struct mapping *)mail);
    }
}

void mapping_close(struct transfer *transfer)
{
    mapping_stop(transfer);
    loop_watch_close(transfer->mapped_watch);
    mailbox_close(transfer->to_map);
    mailbox_close(transfer->mapped);
}

status mapping_add(struct peer *peer, const uint8_t handle[POOL_HANDLE_BYTES], uint32_t block_count,
                   uint64_t bytes)
{
    struct mapping *mapping = calloc(1, sizeof(*mapping));
    if (mapping == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to map a pool");
    mapping->mail.kind = MAPPING_ADD;
    mapping->peer = peer;
    memcpy(mapping->handle, handle, POOL_HANDLE_BYTES);
    mapping->block_count = block_count;
    mapping->bytes = bytes;
    peer->mapping = mapping;
    mailbox_post(peer->transfer->to_map, &mapping->mail);
    return OK;
}

void mapping_forget(struct peer *peer)
{
    if (peer->mapping != NULL)
        peer->mapping->peer = NULL;
    peer->mapping = NULL;
}
