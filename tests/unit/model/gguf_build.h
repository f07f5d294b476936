/* tests/unit/model/gguf_build.h - writes GGUF files for tests, wrong ones on request.
 *
 *     struct build b;
 *     build_start(&b, 3);
 *     build_string(&b, "general.architecture", "llama");
 *     build_tensor(&b, "token_embd.weight", DTYPE_F32, 2, (uint64_t[]){32, 48});
 *     build_finish(&b);                        b.data, b.bytes are the file
 *
 * Metadata and tensors are kept apart until build_finish; a metadata key or tensor that is given
 * again replaces the first, and build_remove takes one out, so that a test states only what is
 * wrong. Tensor data are small values by a formula. Asserts on misuse.
 */
#ifndef TESTS_GGUF_BUILD_H
#define TESTS_GGUF_BUILD_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/dtype.h"
#include "model/gguf.h"

#define BUILD_ENTRIES 48
#define BUILD_VALUE_BYTES 512
#define BUILD_FILE_BYTES (1 << 20)

struct build_entry {
    char key[80];
    uint32_t type;
    uint8_t value[BUILD_VALUE_BYTES];
    size_t bytes;
};

struct build_tensor {
    char name[80];
    uint32_t type;
    uint32_t dimension_count;
    uint64_t dimensions[8];
    uint64_t offset; /* set by build_finish unless placed */
    bool placed;
    size_t data_bytes; /* 0: as the dimensions say, for known types */
};

struct build {
    uint32_t version;
    uint32_t alignment;
    struct build_entry entries[BUILD_ENTRIES];
    size_t entry_count;
    struct build_tensor tensors[BUILD_ENTRIES];
    size_t tensor_count;
    /* Lies for the header; UINT64_MAX for the truth. */
    uint64_t entry_count_lie, tensor_count_lie;
    uint8_t *data; /* after build_finish; freed by build_end */
    size_t bytes;
    size_t data_start;
};

static inline void build_start(struct build *b, uint32_t version)
{
    memset(b, 0, sizeof(*b));
    b->version = version;
    b->alignment = 32;
    b->entry_count_lie = b->tensor_count_lie = UINT64_MAX;
}

static inline void build_end(struct build *b)
{
    free(b->data);
    b->data = NULL;
}

static inline struct build_entry *build_entry_at(struct build *b, const char *key)
{
    size_t i = 0;
    while (i < b->entry_count && strcmp(b->entries[i].key, key) != 0)
        i++;
    assert(i < BUILD_ENTRIES && strlen(key) < sizeof(b->entries[i].key));
    if (i == b->entry_count)
        b->entry_count++;
    strcpy(b->entries[i].key, key);
    return &b->entries[i];
}

static inline void build_raw(struct build *b, const char *key, uint32_t type, const void *value,
                             size_t bytes)
{
    struct build_entry *entry = build_entry_at(b, key);
    assert(bytes <= BUILD_VALUE_BYTES);
    entry->type = type;
    entry->bytes = bytes;
    memcpy(entry->value, value, bytes);
}

static inline void build_u32(struct build *b, const char *key, uint32_t value)
{
    uint8_t raw[4];
    store_u32(raw, value);
    build_raw(b, key, GGUF_U32, raw, sizeof(raw));
}

static inline void build_f32(struct build *b, const char *key, float value)
{
    build_raw(b, key, GGUF_F32, &value, sizeof(value));
}

static inline void build_string(struct build *b, const char *key, const char *text)
{
    uint8_t raw[BUILD_VALUE_BYTES];
    size_t bytes = strlen(text);
    assert(bytes + 8 <= sizeof(raw));
    store_u64(raw, bytes);
    memcpy(raw + 8, text, bytes);
    build_raw(b, key, GGUF_STRING, raw, bytes + 8);
}

/* An array whose elements are given as they lie in the file. */
static inline void build_array(struct build *b, const char *key, uint32_t element_type,
                               uint64_t count, const void *elements, size_t bytes)
{
    uint8_t raw[BUILD_VALUE_BYTES];
    assert(bytes + 12 <= sizeof(raw));
    store_u32(raw, element_type);
    store_u64(raw + 4, count);
    memcpy(raw + 12, elements, bytes);
    build_raw(b, key, GGUF_ARRAY, raw, bytes + 12);
}

/* count strings of one letter each: "a", "b", ... */
static inline void build_letters(struct build *b, const char *key, uint64_t count)
{
    uint8_t raw[BUILD_VALUE_BYTES];
    assert(count * 9 <= sizeof(raw));
    for (uint64_t i = 0; i < count; i++) {
        store_u64(raw + 9 * i, 1);
        raw[9 * i + 8] = (uint8_t)('a' + i % 26);
    }
    build_array(b, key, GGUF_STRING, count, raw, (size_t)count * 9);
}

static inline struct build_tensor *build_tensor(struct build *b, const char *name, uint32_t type,
                                                uint32_t dimension_count,
                                                const uint64_t *dimensions)
{
    size_t i = 0;
    while (i < b->tensor_count && strcmp(b->tensors[i].name, name) != 0)
        i++;
    assert(i < BUILD_ENTRIES && strlen(name) < sizeof(b->tensors[i].name) && dimension_count <= 8);
    if (i == b->tensor_count)
        b->tensor_count++;
    struct build_tensor *tensor = &b->tensors[i];
    memset(tensor, 0, sizeof(*tensor));
    strcpy(tensor->name, name);
    tensor->type = type;
    tensor->dimension_count = dimension_count;
    for (uint32_t d = 0; d < dimension_count; d++)
        tensor->dimensions[d] = dimensions[d];
    return tensor;
}

static inline void build_vector(struct build *b, const char *name, uint32_t count)
{
    build_tensor(b, name, DTYPE_F32, 1, (uint64_t[]){count});
}

static inline void build_matrix(struct build *b, const char *name, uint32_t type, uint32_t rows,
                                uint32_t columns)
{
    build_tensor(b, name, type, 2, (uint64_t[]){columns, rows});
}

/* Take out a metadata key or a tensor. */
static inline void build_remove(struct build *b, const char *name)
{
    for (size_t i = 0; i < b->entry_count; i++) {
        if (strcmp(b->entries[i].key, name) == 0) {
            b->entries[i] = b->entries[--b->entry_count];
            return;
        }
    }
    for (size_t i = 0; i < b->tensor_count; i++) {
        if (strcmp(b->tensors[i].name, name) == 0) {
            b->tensors[i] = b->tensors[--b->tensor_count];
            return;
        }
    }
    assert(false && "there is something of that name");
}

static inline size_t build_tensor_bytes(const struct build_tensor *tensor)
{
    if (tensor->data_bytes > 0 || !dtype_known(tensor->type))
        return tensor->data_bytes;
    uint64_t values = 1;
    for (uint32_t d = 0; d < tensor->dimension_count; d++)
        values *= tensor->dimensions[d];
    enum dtype type = (enum dtype)tensor->type;
    return (size_t)(values / dtype_group(type) * dtype_group_bytes(type));
}

static inline void build_write_string(struct writer *w, const char *text)
{
    write_u64(w, strlen(text));
    write_bytes(w, text, strlen(text));
}

static inline void build_pad(struct writer *w, const uint8_t *start, uint32_t alignment)
{
    while ((size_t)(w->at - start) % alignment != 0)
        write_u8(w, 0);
}

/* Serialise. May be called again after changes. */
static inline void build_finish(struct build *b)
{
    free(b->data);
    b->data = calloc(1, BUILD_FILE_BYTES);
    assert(b->data != NULL);
    struct writer w = writer_over(b->data, BUILD_FILE_BYTES);
    write_bytes(&w, "GGUF", 4);
    write_u32(&w, b->version);
    write_u64(&w, b->tensor_count_lie != UINT64_MAX ? b->tensor_count_lie : b->tensor_count);
    write_u64(&w, b->entry_count_lie != UINT64_MAX ? b->entry_count_lie : b->entry_count);
    for (size_t i = 0; i < b->entry_count; i++) {
        build_write_string(&w, b->entries[i].key);
        write_u32(&w, b->entries[i].type);
        write_bytes(&w, b->entries[i].value, b->entries[i].bytes);
    }
    uint64_t offset = 0;
    for (size_t i = 0; i < b->tensor_count; i++) {
        struct build_tensor *tensor = &b->tensors[i];
        if (!tensor->placed)
            tensor->offset = offset;
        build_write_string(&w, tensor->name);
        write_u32(&w, tensor->dimension_count);
        for (uint32_t d = 0; d < tensor->dimension_count; d++)
            write_u64(&w, tensor->dimensions[d]);
        write_u32(&w, tensor->type);
        write_u64(&w, tensor->offset);
        if (!tensor->placed)
            offset += (build_tensor_bytes(tensor) + b->alignment - 1) / b->alignment * b->alignment;
    }
    build_pad(&w, b->data, b->alignment);
    b->data_start = (size_t)(w.at - b->data);
    for (size_t i = 0; i < b->tensor_count; i++) {
        if (b->tensors[i].placed)
            continue;
        build_pad(&w, b->data, b->alignment);
        for (size_t at = 0; at < build_tensor_bytes(&b->tensors[i]); at++)
            write_u8(&w, at % 4 == 3 ? 0x3f : (uint8_t)(at * 7 + i)); /* floats from 0.5 to 2 */
    }
    assert(!w.failed);
    b->bytes = (size_t)(w.at - b->data);
}

#endif
