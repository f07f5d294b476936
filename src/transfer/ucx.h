/* transfer/ucx.h - UCX, loaded when the carrier rdma is asked for and not before.
 *
 *     rdma.c --ucx->ucp_get_nbx(...)--> libucp.so.0
 *
 * It is not linked, because a process that loads it is changed by that: UCX takes SIGHUP and the
 * signals of crashes for itself and writes to stdout. ucx_load tells it not to.
 *
 * Threads: ucx_load from any, by one at a time; it sets environment variables.
 * Memory:  the table is the process's and stays.
 * Source:  ucp/api/ucp.h of UCX 1.13; UCX keeps its ABI within 1.x.
 */
#ifndef TRANSFER_UCX_H
#define TRANSFER_UCX_H

#include <ucp/api/ucp.h>

#include "base/status.h"

#define UCX_CALLS(X)                                                                               \
    X(ucp_config_read)                                                                             \
    X(ucp_config_modify)                                                                           \
    X(ucp_config_release)                                                                          \
    X(ucp_init_version)                                                                            \
    X(ucp_cleanup)                                                                                 \
    X(ucp_worker_create)                                                                           \
    X(ucp_worker_destroy)                                                                          \
    X(ucp_worker_get_address)                                                                      \
    X(ucp_worker_release_address)                                                                  \
    X(ucp_worker_get_efd)                                                                          \
    X(ucp_worker_arm)                                                                              \
    X(ucp_worker_progress)                                                                         \
    X(ucp_mem_map)                                                                                 \
    X(ucp_mem_unmap)                                                                               \
    X(ucp_rkey_pack)                                                                               \
    X(ucp_rkey_buffer_release)                                                                     \
    X(ucp_rkey_destroy)                                                                            \
    X(ucp_ep_create)                                                                               \
    X(ucp_ep_close_nbx)                                                                            \
    X(ucp_ep_flush_nbx)                                                                            \
    X(ucp_ep_rkey_unpack)                                                                          \
    X(ucp_get_nbx)                                                                                 \
    X(ucp_request_free)                                                                            \
    X(ucs_status_string)

struct ucx {
#define UCX_FIELD(name) __typeof__ (&(name))(name);
    UCX_CALLS(UCX_FIELD)
#undef UCX_FIELD
};

/* Errors: ERR_UNSUPPORTED (the library is not here, or lacks a call). */
status ucx_load(const struct ucx **ucx_out);

#endif
