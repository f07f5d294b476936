/* model/gguf.h - a GGUF file: metadata by key and tensors by name, in a read-only map.
 *
 *     "GGUF" | version | tensor count | metadata count      24 bytes
 *     metadata: key, type, value                            any order, no key twice
 *     tensor table: name, dimensions, type, offset          no name twice
 *     padding to general.alignment (32)
 *     tensor data                                           each at a multiple of the alignment
 *
 * gguf_open walks all of it once and refuses what does not fit: after it every string, array and
 * tensor that an accessor gives lies inside the file. Values are not copied, so nothing from the
 * file is aligned or NUL-terminated, but keys, tensor names and tensor data.
 *
 * Threads: open and close by one; the rest by any.
 * Memory:  all pointers given out are valid until gguf_close. A file that another program cuts
 *          while it is mapped kills the reader (SIGBUS); replace model files by renaming.
 * Source:  GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
 */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define GGUF_DIMENSIONS_MAX 4
#define GGUF_NAME_BYTES_MAX 64 /* of a tensor's name */
#define GGUF_KEY_BYTES_MAX 65535

struct gguf;

/* The file's own numbers. */
enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

/* Not NUL-terminated; may hold any bytes. */
struct gguf_string {
    const char *text;
    size_t bytes;
};

/* count elements of one scalar type or strings; read by the calls below. */
struct gguf_array {
    enum gguf_type type;
    size_t count;
    const uint8_t *data;
};

/* A walk over an array of strings. */
struct gguf_strings {
    size_t count; /* of all; left falls as they are read */
    size_t left;
    const uint8_t *at;
};

struct gguf_tensor {
    const char *name; /* NUL-terminated, printable ASCII */
    uint32_t type;    /* dtype_known says whether it is a dtype; data is NULL when it is not */
    uint32_t dimension_count;                 /* 1 .. 4 */
    uint64_t dimensions[GGUF_DIMENSIONS_MAX]; /* [0] is contiguous; 1 beyond dimension_count */
    const uint8_t *data;                      /* aligned to general.alignment (8 or more) */
    size_t bytes;
};

/* Errors: ERR_NOT_FOUND and ERR_IO (the file), ERR_BAD_INPUT (not GGUF, truncated, inconsistent),
 * ERR_UNSUPPORTED (version, big-endian), ERR_NO_MEMORY. */
status gguf_open(const char *path, struct gguf **gguf_out);

/* The same over a copy of bytes bytes of memory. name stands for the path in messages. */
status gguf_open_memory(const char *name, const void *data, size_t bytes, struct gguf **gguf_out);
void gguf_close(struct gguf *gguf);

const char *gguf_path(const struct gguf *gguf);

/* Nothing of the file will be read for a while: its pages need not count as this process'. They
 * come back when they are read. */
void gguf_forget(const struct gguf *gguf);

/* From the magic to the end of the tensor table: what a fingerprint covers whole. */
const uint8_t *gguf_header(const struct gguf *gguf, size_t *bytes_out);

bool gguf_has(const struct gguf *gguf, const char *key);

/* The value of key. Integers are taken from any integer type whose value fits; a float from f32 or
 * f64. Errors: ERR_NOT_FOUND (no such key), ERR_BAD_INPUT (another type, or out of range). */
status gguf_read_u32(const struct gguf *gguf, const char *key, uint32_t *value_out);
status gguf_read_u64(const struct gguf *gguf, const char *key, uint64_t *value_out);
status gguf_read_f32(const struct gguf *gguf, const char *key, float *value_out);
status gguf_read_bool(const struct gguf *gguf, const char *key, bool *value_out);
status gguf_read_string(const struct gguf *gguf, const char *key, struct gguf_string *value_out);

/* An array of strings, walked in order. */
status gguf_read_strings(const struct gguf *gguf, const char *key, struct gguf_strings *value_out);

/* The next string; false when none is left. */
bool gguf_strings_next(struct gguf_strings *strings, struct gguf_string *string_out);

/* An array of integers (any integer type), or of floats (f32 or f64). */
status gguf_read_integers(const struct gguf *gguf, const char *key, struct gguf_array *value_out);
status gguf_read_floats(const struct gguf *gguf, const char *key, struct gguf_array *value_out);

/* Element index (< count) of an array that the two calls above gave. A u64 beyond INT64_MAX comes
 * as INT64_MAX. */
int64_t gguf_array_integer(const struct gguf_array *array, size_t index);
double gguf_array_float(const struct gguf_array *array, size_t index);

/* tokenizer.chat_template, copied, from malloc and NUL-terminated. Errors: ERR_NOT_FOUND (none; no
 * message), ERR_BAD_INPUT, ERR_NO_MEMORY. */
status gguf_chat_template(const struct gguf *gguf, char **text_out, size_t *bytes_out);

size_t gguf_tensor_count(const struct gguf *gguf);
/* In the file's order; index < gguf_tensor_count. */
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index);
/* NULL when there is none of that name. O(log n). */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name);

/* "Q2_K" for a tensor type number that ggml defines, built here or not; "type 99" has no name and
 * gives NULL. */
const char *gguf_tensor_type_name(uint32_t type);

#endif
