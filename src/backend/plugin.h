/* backend/plugin.h - what a backend that lives in a file of its own looks like to the binary.
 *
 *     baton  --dlopen-->  baton-cuda.so
 *                         baton_backend_plugin(host) -> struct backend_plugin
 *                           .memory(device)             how much can be had there
 *                           .open(shape, limits, ...)   a struct backend
 *
 * C on both sides. Nothing but this table crosses the line: messages go back through
 * host->error_write, so that error_text says on this side what failed on that one. Both sides were
 * built for one BACKEND_PLUGIN_VERSION, which changes whenever backend.h or this file does.
 *
 * Threads: baton_backend_plugin once, before anything else; open and all after it as backend.h
 * says. Memory:  the table is the plug-in's and constant.
 */
#ifndef BACKEND_PLUGIN_H
#define BACKEND_PLUGIN_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/status.h"

#define BACKEND_PLUGIN_VERSION 3u
#define BACKEND_PLUGIN_SYMBOL "baton_backend_plugin"

struct backend_plugin_host {
    uint32_t version;
    void (*error_write)(const char *format, ...); /* base/error.h */
};

struct backend_plugin_options {
    uint32_t device;    /* 0: the first */
    bool deterministic; /* a row's bits do not depend on its batch or chunking */
    bool staged;        /* memory of the host beside the pool, for carriers that start from there */
};

struct backend_plugin {
    uint32_t version;
    const char *name; /* "cuda" */

    /* Bytes that are free on a device now. Errors: ERR_UNSUPPORTED (no such device, or one too old,
     * or no driver for it). */
    status (*memory)(uint32_t device, uint64_t *available_out);

    /* What the device can do at most, measured: bytes read from its memory, and operations of an
     * 8192 x 8192 x 8192 product of bf16 numbers, in a second. */
    status (*floor)(uint32_t device, double *read_bytes_per_s_out, double *operations_per_s_out);

    /* Seconds that one copy of so many bytes takes from another device (or the same) by the
     * driver's own call: alone, from the call until the host knows that it is over, and of many one
     * behind the other. */
    status (*copy_floor)(uint32_t device, uint32_t from, uint64_t bytes, double *alone_s_out,
                         double *behind_s_out);

    /* Errors: as memory; ERR_NO_MEMORY; ERR_UNSUPPORTED (a KV type other than F16). */
    status (*open)(const struct backend_shape *shape, const struct backend_limits *limits,
                   const struct backend_plugin_options *options, struct backend **backend_out);
};

typedef const struct backend_plugin *(*backend_plugin_entry)(
    const struct backend_plugin_host *host);

#endif
