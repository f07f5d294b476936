/* model/gguf_file.h - the inside of a GGUF reader: what gguf.c parses and gguf_values.c reads.
 *
 * Only these two files include it; the contract is model/gguf.h.
 */
#ifndef MODEL_GGUF_FILE_H
#define MODEL_GGUF_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "model/gguf.h"

struct gguf_entry {
    const char *key;
    enum gguf_type type;
    enum gguf_type element_type; /* of an array */
    size_t count;                /* of an array; bytes of a string */
    const uint8_t *value;        /* the scalar, the string's bytes, the array's first element */
};

struct gguf {
    char *path;
    const uint8_t *data;
    size_t bytes;
    bool mapped; /* data is a map, else allocated */
    size_t header_bytes;
    struct arena *arena;        /* names and the arrays below */
    struct gguf_entry *entries; /* sorted by key */
    size_t entry_count;
    struct gguf_tensor *tensors; /* in the file's order */
    const struct gguf_tensor **tensors_by_name;
    size_t tensor_count;
};

extern const uint8_t gguf_scalar_bytes[GGUF_F64 + 1];         /* 0 for strings and arrays */
extern const char *const gguf_value_type_names[GGUF_F64 + 1]; /* "u32" */

/* Orders struct gguf_entry by key, for qsort and bsearch. */
int gguf_entry_compare(const void *a, const void *b);

/* Write the message, after the file's name. Returns code. */
status gguf_error(const struct gguf *gguf, status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
