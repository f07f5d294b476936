/* Carrier rdma in a build without UCX: a name that is refused. */
#include "base/error.h"
#include "transfer/carrier.h"

status rdma_open(struct transfer *transfer)
{
    (void)transfer;
    return error_set(ERR_UNSUPPORTED, "carrier rdma is not in this build: install libucx-dev, run "
                                      "cmake again and build");
}

void rdma_close(struct transfer *transfer)
{
    (void)transfer;
}

status rdma_on_ask(struct peer *peer)
{
    uint8_t payload[OFFER_FRAME_BYTES_MAX];
    struct remote_message none = {0};
    return link_send(peer->link, FRAME_REMOTE, payload, remote_write(&none, payload));
}

/* Never reached: rdma_open has failed, so nobody fetches by it. */
const struct carrier carrier_rdma = {.id = TRANSFER_RDMA};
