#include "transfer/transfer.h"

#include <string.h>

const char *transfer_carrier_name(enum transfer_carrier carrier)
{
    switch (carrier) {
    case TRANSFER_SHM:
        return "shm";
    case TRANSFER_TCP:
        return "tcp";
    case TRANSFER_CUDA_IPC:
        return "cuda-ipc";
    case TRANSFER_RDMA:
        return "rdma";
    }
    return "none";
}

uint32_t transfer_carriers_parse(const char *text)
{
    if (strcmp(text, "auto") == 0)
        return TRANSFER_SHM | TRANSFER_TCP | TRANSFER_CUDA_IPC;
    for (uint32_t i = 0; i < TRANSFER_CARRIERS; i++) {
        if (strcmp(text, transfer_carrier_name((enum transfer_carrier)(1u << i))) == 0)
            return 1u << i;
    }
    return 0;
}
