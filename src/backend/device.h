/* backend/device.h - from the operator's word (--device) to an open backend.
 *
 *     "cpu"       backend/cpu, part of the binary
 *     "cuda"      baton-cuda.so, loaded at run time: device 0
 *     "cuda:N"    the same, device N
 *
 * The plug-in is looked for at --cuda-plugin when that is given; else beside the binary and in
 * ../lib/baton beside its folder. It stays loaded until the process ends.
 *
 * Threads: device_parse and device_open on the compute thread, or before it starts.
 */
#ifndef BACKEND_DEVICE_H
#define BACKEND_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "backend/plugin.h"
#include "base/status.h"

struct device {
    const struct backend_plugin *plugin; /* NULL: the CPU */
    uint32_t index;
};

/* path: of the plug-in, or NULL. Loads it when the word asks for it. Errors: ERR_BAD_INPUT (no such
 * word), ERR_NOT_FOUND (no plug-in; the message says where it was looked for), ERR_UNSUPPORTED (a
 * plug-in of another version, or one that cannot be loaded). */
status device_find(const char *word, const char *path, struct device *device_out);

/* Memory for an engine: the device's, or 0 for the CPU, whose memory is the system's. */
status device_memory(const struct device *device, uint64_t *available_out);

struct device_options {
    struct backend_cpu_options cpu;
    bool deterministic, staged; /* of a plug-in; see plugin.h */
};

status device_open(const struct device *device, const struct backend_shape *shape,
                   const struct backend_limits *limits, const struct device_options *options,
                   struct backend **backend_out);

#endif
