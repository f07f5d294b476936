/* model/safetensors.h - one safetensors file: tensors by name, in a read-only map.
 *
 *     u64 n                 bytes of the header, little-endian
 *     header                a JSON object, spaces behind it
 *       "name": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}
 *       "__metadata__": {"format": "pt", ...}
 *     tensor data           offsets count from here; all bytes belong to one tensor each
 *
 * safetensors_open checks all of it: after it every tensor lies inside the file, apart from every
 * other, as long as its shape and dtype say, at a multiple of its numbers' size.
 *
 * Threads: open and close by one; the rest by any.
 * Memory:  all pointers given out are valid until safetensors_close. A file that another program
 *          cuts while it is mapped kills the reader (SIGBUS); replace model files by renaming.
 * Source:  the format's description in huggingface/safetensors, README.md.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define SAFETENSORS_DIMENSIONS_MAX 8

struct safetensors;

struct safetensors_tensor {
    const char *name;         /* NUL-terminated, printable ASCII */
    const char *dtype;        /* "BF16", as the file spells it; one of those that the format has */
    uint32_t dimension_count; /* 0: one number */
    uint64_t dimensions[SAFETENSORS_DIMENSIONS_MAX]; /* the last is contiguous */
    const uint8_t *data;                             /* aligned to its numbers */
    size_t bytes;
};

/* Errors: ERR_NOT_FOUND and ERR_IO (the file), ERR_BAD_INPUT (truncated, inconsistent),
 * ERR_UNSUPPORTED (an unknown dtype), ERR_NO_MEMORY. */
status safetensors_open(const char *path, struct safetensors **file_out);

/* The same over a copy of bytes bytes of memory. name stands for the path in messages. */
status safetensors_open_memory(const char *name, const void *data, size_t bytes,
                               struct safetensors **file_out);
void safetensors_close(struct safetensors *file);

/* Nothing of the file will be read for a while: its pages need not count as this process'. They
 * come back when they are read. */
void safetensors_forget(const struct safetensors *file);

const char *safetensors_path(const struct safetensors *file);
size_t safetensors_count(const struct safetensors *file);
/* In order of the names; index < safetensors_count. */
const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t index);
/* NULL when there is none of that name. O(log n). */
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name);

#endif
