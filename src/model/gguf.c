#include "model/gguf.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/error.h"
#include "model/gguf_file.h"

/* No real file comes near these; they bound what a hostile one may cost. */
#define METADATA_MAX 65536u
#define TENSORS_MAX 1048576u
#define ALIGNMENT_MAX 65536u
#define NAMES_BYTES_MAX ((size_t)512 << 20)

/* The least that an entry takes in the file: counts beyond the file's bytes are refused early. */
#define METADATA_BYTES_MIN (8 + 1 + 4 + 1)
#define TENSOR_BYTES_MIN (8 + 1 + 4 + 8 + 4 + 8)

/* ggml's tensor types, for messages about those that are not built here. */
static const char *const tensor_type_names[] = {
    [0] = "F32",     [1] = "F16",      [2] = "Q4_0",   [3] = "Q4_1",    [6] = "Q5_0",
    [7] = "Q5_1",    [8] = "Q8_0",     [9] = "Q8_1",   [10] = "Q2_K",   [11] = "Q3_K",
    [12] = "Q4_K",   [13] = "Q5_K",    [14] = "Q6_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
    [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
    [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [30] = "BF16",   [34] = "TQ1_0",
    [35] = "TQ2_0",  [39] = "MXFP4",   [40] = "NVFP4",
};

const char *gguf_tensor_type_name(uint32_t type)
{
    size_t count = sizeof(tensor_type_names) / sizeof(tensor_type_names[0]);
    return type < count ? tensor_type_names[type] : NULL;
}

static status gguf_truncated(const struct gguf *gguf, const char *what, size_t index, size_t count)
{
    return gguf_error(gguf, ERR_BAD_INPUT,
                      "%s %zu of %zu runs past the end of the file (%zu bytes): it is truncated or "
                      "corrupt; fetch it again",
                      what, index + 1, count, gguf->bytes);
}

/* Opening: bytes to checked entries. */

static bool printable(const uint8_t *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    }
    return true;
}

/* A string's length and bytes; false when they run past the end. */
static bool read_string(struct reader *r, struct gguf_string *string_out)
{
    uint64_t bytes = read_u64(r);
    if (!reader_ok(r) || bytes > r->left)
        return false;
    string_out->bytes = (size_t)bytes;
    string_out->text = (const char *)read_bytes(r, (size_t)bytes);
    return true;
}

/* A key or a tensor's name: a NUL-terminated copy. what is "metadata key" or "tensor name". */
static status read_name(struct gguf *gguf, struct reader *r, const char *what, size_t index,
                        size_t count, size_t bytes_max, const char **name_out)
{
    struct gguf_string string;
    if (!read_string(r, &string))
        return gguf_truncated(gguf, what, index, count);
    if (string.bytes == 0 || string.bytes > bytes_max)
        return gguf_error(gguf, ERR_BAD_INPUT, "%s %zu has %zu bytes (expected 1 to %zu)", what,
                          index + 1, string.bytes, bytes_max);
    if (!printable((const uint8_t *)string.text, string.bytes))
        return gguf_error(gguf, ERR_BAD_INPUT, "%s %zu is not printable ASCII", what, index + 1);
    *name_out = arena_copy(gguf->arena, string.text, string.bytes);
    if (*name_out == NULL)
        return gguf_error(gguf, ERR_NO_MEMORY, "no memory for %s %zu", what, index + 1);
    return OK;
}

static bool bools_valid(const uint8_t *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (values[i] > 1)
            return false;
    }
    return true;
}

static status read_scalars(struct gguf *gguf, struct reader *r, const char *key,
                           enum gguf_type type, uint64_t count, const uint8_t **value_out)
{
    size_t bytes;
    if (count > SIZE_MAX || !size_mul((size_t)count, gguf_scalar_bytes[type], &bytes) ||
        bytes > r->left)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "metadata %s: %llu values of type %s run past the end of the file (%zu "
                          "bytes): it is truncated or corrupt; fetch it again",
                          key, (unsigned long long)count, gguf_value_type_names[type], gguf->bytes);
    *value_out = read_bytes(r, bytes);
    if (type == GGUF_BOOL && !bools_valid(*value_out, (size_t)count))
        return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s: a bool is neither 0 nor 1", key);
    return OK;
}

static status read_array(struct gguf *gguf, struct reader *r, struct gguf_entry *entry)
{
    uint32_t type = read_u32(r);
    uint64_t count = read_u64(r);
    if (!reader_ok(r))
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "metadata %s: the array's head runs past the end of "
                          "the file (%zu bytes): it is truncated or corrupt; fetch it again",
                          entry->key, gguf->bytes);
    if (type == GGUF_ARRAY)
        return gguf_error(gguf, ERR_UNSUPPORTED,
                          "metadata %s is an array of arrays (expected scalars or strings)",
                          entry->key);
    if (type > GGUF_F64)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "metadata %s: unknown element type %u (expected 0 "
                          "to 12)",
                          entry->key, type);
    entry->element_type = (enum gguf_type)type;
    if (type != GGUF_STRING) {
        status code = read_scalars(gguf, r, entry->key, entry->element_type, count, &entry->value);
        entry->count = (size_t)count;
        return code;
    }

    bool fits = count <= r->left / 8;
    entry->value = r->at;
    for (uint64_t i = 0; fits && i < count; i++) {
        struct gguf_string string;
        fits = read_string(r, &string);
    }
    entry->count = (size_t)count;
    if (!fits)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "metadata %s: %llu strings run past the end of the file (%zu bytes): it "
                          "is truncated or corrupt; fetch it again",
                          entry->key, (unsigned long long)count, gguf->bytes);
    return OK;
}

static status read_entry(struct gguf *gguf, struct reader *r, size_t index,
                         struct gguf_entry *entry)
{
    status code = read_name(gguf, r, "metadata key", index, gguf->entry_count, GGUF_KEY_BYTES_MAX,
                            &entry->key);
    if (code != OK)
        return code;
    uint32_t type = read_u32(r);
    if (!reader_ok(r))
        return gguf_truncated(gguf, "metadata", index, gguf->entry_count);
    if (type > GGUF_F64)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "metadata %s: unknown value type %u (expected 0 to "
                          "12)",
                          entry->key, type);
    entry->type = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        return read_array(gguf, r, entry);
    if (type == GGUF_STRING) {
        struct gguf_string string;
        if (!read_string(r, &string))
            return gguf_truncated(gguf, "metadata", index, gguf->entry_count);
        entry->value = (const uint8_t *)string.text;
        entry->count = string.bytes;
        return OK;
    }
    return read_scalars(gguf, r, entry->key, entry->type, 1, &entry->value);
}

/* Bytes that count values of a known type take over all dimensions; false on overflow. */
static bool tensor_bytes(const struct gguf_tensor *tensor, size_t *bytes_out)
{
    enum dtype type = (enum dtype)tensor->type;
    size_t bytes, values = 1;
    if (!size_mul((size_t)(tensor->dimensions[0] / dtype_group(type)), dtype_group_bytes(type),
                  &bytes))
        return false;
    for (int i = 0; i < GGUF_DIMENSIONS_MAX; i++) {
        if (!size_mul(values, (size_t)tensor->dimensions[i], &values))
            return false;
        if (i > 0 && !size_mul(bytes, (size_t)tensor->dimensions[i], &bytes))
            return false;
    }
    *bytes_out = bytes;
    return true;
}

/* All but the place, which needs the end of the table; the offset is kept in offset_out. */
static status read_tensor(struct gguf *gguf, struct reader *r, size_t index,
                          struct gguf_tensor *tensor, uint64_t *offset_out)
{
    status code = read_name(gguf, r, "tensor name", index, gguf->tensor_count, GGUF_NAME_BYTES_MAX,
                            &tensor->name);
    if (code != OK)
        return code;
    tensor->dimension_count = read_u32(r);
    if (reader_ok(r) &&
        (tensor->dimension_count == 0 || tensor->dimension_count > GGUF_DIMENSIONS_MAX))
        return gguf_error(gguf, ERR_BAD_INPUT, "tensor %s has %u dimensions (expected 1 to 4)",
                          tensor->name, tensor->dimension_count);
    for (uint32_t i = 0; i < GGUF_DIMENSIONS_MAX; i++)
        tensor->dimensions[i] = i < tensor->dimension_count ? read_u64(r) : 1;
    tensor->type = read_u32(r);
    *offset_out = read_u64(r);
    if (!reader_ok(r))
        return gguf_truncated(gguf, "tensor", index, gguf->tensor_count);

    for (uint32_t i = 0; i < tensor->dimension_count; i++) {
        if (tensor->dimensions[i] == 0 || tensor->dimensions[i] > INT64_MAX)
            return gguf_error(gguf, ERR_BAD_INPUT, "tensor %s: dimension %u is %llu", tensor->name,
                              i, (unsigned long long)tensor->dimensions[i]);
    }
    if (!dtype_known(tensor->type))
        return OK; /* only a model that uses it minds */
    enum dtype type = (enum dtype)tensor->type;
    if (tensor->dimensions[0] % dtype_group(type) != 0)
        return gguf_error(
            gguf, ERR_BAD_INPUT,
            "tensor %s of type %s has rows of %llu values (expected a multiple of %u)",
            tensor->name, dtype_name(type), (unsigned long long)tensor->dimensions[0],
            dtype_group(type));
    if (!tensor_bytes(tensor, &tensor->bytes))
        return gguf_error(gguf, ERR_BAD_INPUT, "tensor %s: its dimensions overflow", tensor->name);
    return OK;
}

static status place_tensor(struct gguf *gguf, struct gguf_tensor *tensor, size_t data_start,
                           uint32_t alignment, uint64_t offset)
{
    if (offset % alignment != 0)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "tensor %s lies at offset %llu (expected a multiple of %u)", tensor->name,
                          (unsigned long long)offset, alignment);
    size_t start, end;
    if (!size_add(data_start, (size_t)offset, &start) || !size_add(start, tensor->bytes, &end) ||
        end > gguf->bytes)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "tensor %s (%zu bytes at offset %llu of the data at %zu) runs past the "
                          "end of the file (%zu bytes): it is truncated or corrupt; fetch it again",
                          tensor->name, tensor->bytes, (unsigned long long)offset, data_start,
                          gguf->bytes);
    if (dtype_known(tensor->type))
        tensor->data = gguf->data + start;
    return OK;
}

static int tensor_compare(const void *a, const void *b)
{
    return strcmp((*(const struct gguf_tensor *const *)a)->name,
                  (*(const struct gguf_tensor *const *)b)->name);
}

static status read_metadata(struct gguf *gguf, struct reader *r)
{
    gguf->entries = arena_take_array(gguf->arena, gguf->entry_count + 1, sizeof(*gguf->entries));
    if (gguf->entries == NULL)
        return gguf_error(gguf, ERR_NO_MEMORY, "no memory for %zu metadata", gguf->entry_count);
    for (size_t i = 0; i < gguf->entry_count; i++) {
        status code = read_entry(gguf, r, i, &gguf->entries[i]);
        if (code != OK)
            return code;
    }
    qsort(gguf->entries, gguf->entry_count, sizeof(*gguf->entries), gguf_entry_compare);
    for (size_t i = 1; i < gguf->entry_count; i++) {
        if (gguf_entry_compare(&gguf->entries[i - 1], &gguf->entries[i]) == 0)
            return gguf_error(gguf, ERR_BAD_INPUT, "metadata %s is there twice",
                              gguf->entries[i].key);
    }
    return OK;
}

static status read_alignment(const struct gguf *gguf, uint32_t *alignment_out)
{
    uint32_t alignment = 32;
    status code = gguf_read_u32(gguf, "general.alignment", &alignment);
    if (code != OK && code != ERR_NOT_FOUND)
        return code;
    if (alignment < 8 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)) != 0)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "general.alignment is %u (expected a power of two from 8 to %u)",
                          alignment, ALIGNMENT_MAX);
    *alignment_out = alignment;
    return OK;
}

static status read_tensors(struct gguf *gguf, struct reader *r, uint64_t *offsets)
{
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        status code = read_tensor(gguf, r, i, &gguf->tensors[i], &offsets[i]);
        if (code != OK)
            return code;
        gguf->tensors_by_name[i] = &gguf->tensors[i];
    }
    gguf->header_bytes = gguf->bytes - r->left;
    qsort(gguf->tensors_by_name, gguf->tensor_count, sizeof(*gguf->tensors_by_name),
          tensor_compare);
    for (size_t i = 1; i < gguf->tensor_count; i++) {
        if (tensor_compare(&gguf->tensors_by_name[i - 1], &gguf->tensors_by_name[i]) == 0)
            return gguf_error(gguf, ERR_BAD_INPUT, "tensor %s is there twice",
                              gguf->tensors_by_name[i]->name);
    }

    uint32_t alignment = 0;
    status code = read_alignment(gguf, &alignment);
    if (code != OK)
        return code;
    /* Cannot overflow: the header lies in memory and the alignment is small. */
    size_t data_start = (gguf->header_bytes + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        code = place_tensor(gguf, &gguf->tensors[i], data_start, alignment, offsets[i]);
        if (code != OK)
            return code;
    }
    return OK;
}

static status read_tensor_table(struct gguf *gguf, struct reader *r)
{
    size_t count = gguf->tensor_count;
    gguf->tensors = arena_take_array(gguf->arena, count + 1, sizeof(*gguf->tensors));
    gguf->tensors_by_name = arena_take_array(gguf->arena, count + 1, sizeof(void *));
    uint64_t *offsets = arena_take_array(gguf->arena, count + 1, sizeof(*offsets));
    if (gguf->tensors == NULL || gguf->tensors_by_name == NULL || offsets == NULL)
        return gguf_error(gguf, ERR_NO_MEMORY, "no memory for %zu tensors", count);
    return read_tensors(gguf, r, offsets);
}

static status check_version(const struct gguf *gguf, uint32_t version)
{
    if (version == 2 || version == 3)
        return OK;
    if (version == 2u << 24 || version == 3u << 24)
        return gguf_error(gguf, ERR_UNSUPPORTED,
                          "a big-endian GGUF file (expected little-endian); "
                          "convert it");
    return gguf_error(gguf, ERR_UNSUPPORTED, "GGUF version %u (supported: 2 and 3)", version);
}

static status read_count(const struct gguf *gguf, uint64_t count, uint64_t count_max,
                         size_t entry_bytes, const char *what, size_t *count_out)
{
    if (count > count_max)
        return gguf_error(gguf, ERR_BAD_INPUT, "%llu %s (expected at most %llu)",
                          (unsigned long long)count, what, (unsigned long long)count_max);
    if (count > gguf->bytes / entry_bytes)
        return gguf_error(gguf, ERR_BAD_INPUT,
                          "%llu %s don't fit into the file's %zu bytes: it is truncated or "
                          "corrupt; fetch it again",
                          (unsigned long long)count, what, gguf->bytes);
    *count_out = (size_t)count;
    return OK;
}

/* Reads all of gguf->data. */
static status gguf_parse(struct gguf *gguf)
{
    struct reader r = reader_over(gguf->data, gguf->bytes);
    const uint8_t *magic = read_bytes(&r, 4);
    if (magic == NULL || memcmp(magic, "GGUF", 4) != 0)
        return gguf_error(gguf, ERR_BAD_INPUT, "not a GGUF file (expected it to start with GGUF)");
    uint32_t version = read_u32(&r);
    if (!reader_ok(&r))
        return gguf_truncated(gguf, "header field", 1, 4);
    status code = check_version(gguf, version);
    if (code != OK)
        return code;
    uint64_t tensor_count = read_u64(&r);
    uint64_t entry_count = read_u64(&r);
    if (!reader_ok(&r))
        return gguf_truncated(gguf, "header field", 3, 4);

    code = read_count(gguf, tensor_count, TENSORS_MAX, TENSOR_BYTES_MIN, "tensors",
                      &gguf->tensor_count);
    if (code == OK)
        code = read_count(gguf, entry_count, METADATA_MAX, METADATA_BYTES_MIN, "metadata entries",
                          &gguf->entry_count);
    if (code == OK)
        code = read_metadata(gguf, &r);
    if (code == OK)
        code = read_tensor_table(gguf, &r);
    return code;
}

static status gguf_allocate(const char *path, struct gguf **gguf_out)
{
    struct gguf *gguf = calloc(1, sizeof(*gguf));
    if (gguf == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory to open it", path);
    gguf->path = strdup(path);
    if (gguf->path == NULL || arena_open(NAMES_BYTES_MAX, &gguf->arena) != OK) {
        gguf_close(gguf);
        return error_set(ERR_NO_MEMORY, "%s: no memory to open it", path);
    }
    *gguf_out = gguf;
    return OK;
}

/* Maps gguf->path. */
static status gguf_map(struct gguf *gguf)
{
    /* O_NONBLOCK: a pipe under that name would wait for its writer. */
    int fd = open(gguf->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return gguf_error(gguf, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO,
                          "cannot open the model file: %s", strerror(errno));
    status code = OK;
    struct stat facts;
    if (fstat(fd, &facts) != 0)
        code = gguf_error(gguf, ERR_IO, "cannot read the model file: %s", strerror(errno));
    else if (!S_ISREG(facts.st_mode))
        code = gguf_error(gguf, ERR_BAD_INPUT, "not a regular file (expected a GGUF file)");
    else if (facts.st_size == 0)
        code = gguf_error(gguf, ERR_BAD_INPUT, "the file is empty (expected a GGUF file)");
    else {
        gguf->bytes = (size_t)facts.st_size;
        void *map = mmap(NULL, gguf->bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            code =
                gguf_error(gguf, ERR_IO, "cannot map %zu bytes: %s", gguf->bytes, strerror(errno));
        } else {
            gguf->data = map;
            gguf->mapped = true;
        }
    }
    close(fd);
    return code;
}

status gguf_open(const char *path, struct gguf **gguf_out)
{
    struct gguf *gguf = NULL;
    status code = gguf_allocate(path, &gguf);
    if (code != OK)
        return code;
    code = gguf_map(gguf);
    if (code == OK)
        code = gguf_parse(gguf);
    if (code != OK) {
        gguf_close(gguf);
        return code;
    }
    *gguf_out = gguf;
    return OK;
}

status gguf_open_memory(const char *name, const void *data, size_t bytes, struct gguf **gguf_out)
{
    struct gguf *gguf = NULL;
    status code = gguf_allocate(name, &gguf);
    if (code != OK)
        return code;
    /* As aligned as a map, and exactly as long, so that a sanitizer sees a read past the end. */
    void *copy = NULL;
    if (posix_memalign(&copy, ALIGNMENT_MAX, bytes > 0 ? bytes : 1) != 0) {
        gguf_close(gguf);
        return error_set(ERR_NO_MEMORY, "%s: no memory for %zu bytes", name, bytes);
    }
    if (bytes > 0)
        memcpy(copy, data, bytes);
    gguf->data = copy;
    gguf->bytes = bytes;
    code = gguf_parse(gguf);
    if (code != OK) {
        gguf_close(gguf);
        return code;
    }
    *gguf_out = gguf;
    return OK;
}

void gguf_close(struct gguf *gguf)
{
    if (gguf == NULL)
        return;
    if (gguf->mapped)
        munmap((void *)(uintptr_t)gguf->data, gguf->bytes);
    else
        free((void *)(uintptr_t)gguf->data);
    arena_close(gguf->arena);
    free(gguf->path);
    free(gguf);
}

const char *gguf_path(const struct gguf *gguf)
{
    return gguf->path;
}

const uint8_t *gguf_header(const struct gguf *gguf, size_t *bytes_out)
{
    *bytes_out = gguf->header_bytes;
    return gguf->data;
}

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index)
{
    assert(index < gguf->tensor_count);
    return &gguf->tensors[index];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    struct gguf_tensor wanted = {.name = name};
    const struct gguf_tensor *wanted_at = &wanted;
    const struct gguf_tensor **found = bsearch(&wanted_at, gguf->tensors_by_name,
                                               gguf->tensor_count, sizeof(*found), tensor_compare);
    return found != NULL ? *found : NULL;
}

void gguf_forget(const struct gguf *gguf)
{
    if (gguf->mapped) /* read-only, so nothing is lost */
        (void)madvise((void *)(uintptr_t)gguf->data, gguf->bytes, MADV_DONTNEED);
}
