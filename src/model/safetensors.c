#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/error.h"
#include "model/json_file.h"

/* No real file comes near these; they bound what a hostile one may cost. */
#define HEADER_BYTES_MAX ((size_t)100 << 20) /* the format's own limit */
#define NAME_BYTES_MAX 512u
#define NAMES_BYTES_MAX ((size_t)512 << 20)

struct safetensors {
    char *path;
    const uint8_t *data;
    size_t bytes;
    bool mapped;  /* data is a map, else allocated */
    size_t start; /* of the tensors' data */
    struct arena *arena;
    struct safetensors_tensor *tensors; /* sorted by name */
    size_t count;
};

/* The format's dtypes, all of whole bytes. */
static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    {"F32", 4},  {"F16", 2},     {"BF16", 2},    {"F64", 8},     {"I64", 8}, {"I32", 4},
    {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},     {"U16", 2}, {"U8", 1},
    {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8},
};
#define DTYPES "F32, F16, BF16, F64, I64 to I8, U64 to U8, BOOL, F8_E4M3, F8_E5M2, F8_E8M0, C64"

static status file_error(const struct safetensors *file, status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static status file_error(const struct safetensors *file, status code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(code, "%s: %s", file->path, text);
}

static bool printable(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    }
    return true;
}

/* A whole number of at least 0. */
static bool size_take(const json_t *value, uint64_t *size_out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *size_out = (uint64_t)json_integer_value(value);
    return true;
}

static status read_dtype(const struct safetensors *file, const json_t *entry,
                         struct safetensors_tensor *tensor, size_t *bytes_out)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL)
        return file_error(file, ERR_BAD_INPUT, "tensor %s has no dtype", tensor->name);
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            tensor->dtype = dtypes[i].name;
            *bytes_out = dtypes[i].bytes;
            return OK;
        }
    }
    bool sane = strlen(name) < 32 && printable(name, strlen(name));
    return file_error(file, ERR_UNSUPPORTED, "tensor %s has dtype %s (known: " DTYPES ")",
                      tensor->name, sane ? name : "of an odd name");
}

/* The shape, and the bytes that it takes. */
static status read_shape(const struct safetensors *file, const json_t *entry, size_t number_bytes,
                         struct safetensors_tensor *tensor, size_t *bytes_out)
{
    const json_t *shape = json_object_get(entry, "shape");
    size_t count = json_array_size(shape);
    if (!json_is_array(shape) || count > SAFETENSORS_DIMENSIONS_MAX)
        return file_error(file, ERR_BAD_INPUT,
                          "tensor %s: its shape is %s of %zu (expected an array of at most %u)",
                          tensor->name, json_file_type(shape), count, SAFETENSORS_DIMENSIONS_MAX);
    size_t bytes = number_bytes;
    tensor->dimension_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        if (!size_take(json_array_get(shape, i), &tensor->dimensions[i]))
            return file_error(file, ERR_BAD_INPUT,
                              "tensor %s: dimension %zu is not a whole number of at least 0",
                              tensor->name, i);
        if (!size_mul(bytes, tensor->dimensions[i], &bytes))
            return file_error(file, ERR_BAD_INPUT, "tensor %s: its shape overflows", tensor->name);
    }
    *bytes_out = bytes;
    return OK;
}

static status read_place(const struct safetensors *file, const json_t *entry, size_t number_bytes,
                         size_t bytes, struct safetensors_tensor *tensor)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    size_t space = file->bytes - file->start;
    uint64_t begin, end;
    if (json_array_size(offsets) != 2 || !size_take(json_array_get(offsets, 0), &begin) ||
        !size_take(json_array_get(offsets, 1), &end) || begin > end)
        return file_error(file, ERR_BAD_INPUT,
                          "tensor %s: data_offsets are not two whole numbers in order",
                          tensor->name);
    if (end > space)
        return file_error(file, ERR_BAD_INPUT,
                          "tensor %s ends at byte %llu of the data, but there are %zu: the file is "
                          "truncated or corrupt; fetch it again",
                          tensor->name, (unsigned long long)end, space);
    if (end - begin != bytes)
        return file_error(file, ERR_BAD_INPUT,
                          "tensor %s takes %llu bytes, but its shape and dtype %s make %zu",
                          tensor->name, (unsigned long long)(end - begin), tensor->dtype, bytes);
    if ((file->start + begin) % number_bytes != 0)
        return file_error(file, ERR_BAD_INPUT,
                          "tensor %s is unaligned: it begins at byte %llu of the file (expected a "
                          "multiple of %zu); write the checkpoint anew",
                          tensor->name, (unsigned long long)file->start + begin, number_bytes);
    tensor->data = file->data + file->start + begin;
    tensor->bytes = bytes;
    return OK;
}

static status read_tensor(struct safetensors *file, const char *name, const json_t *entry)
{
    struct safetensors_tensor *tensor = &file->tensors[file->count];
    size_t name_bytes = strlen(name), number_bytes = 0, bytes = 0;
    if (name_bytes == 0 || name_bytes > NAME_BYTES_MAX || !printable(name, name_bytes))
        return file_error(file, ERR_BAD_INPUT,
                          "a tensor's name is empty, longer than %u bytes or not printable",
                          NAME_BYTES_MAX);
    tensor->name = arena_copy(file->arena, name, name_bytes);
    if (tensor->name == NULL)
        return file_error(file, ERR_NO_MEMORY, "no memory for the tensors' names");
    if (!json_is_object(entry))
        return file_error(file, ERR_BAD_INPUT, "tensor %s is %s (expected an object)", name,
                          json_file_type(entry));
    status code = read_dtype(file, entry, tensor, &number_bytes);
    if (code == OK)
        code = read_shape(file, entry, number_bytes, tensor, &bytes);
    if (code == OK)
        code = read_place(file, entry, number_bytes, bytes, tensor);
    file->count++;
    return code;
}

static int place_order(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int name_order(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Every byte of the data belongs to one tensor. */
static status check_places(struct safetensors *file)
{
    const uint8_t *at = file->data + file->start, *end = file->data + file->bytes;
    const char *before = "the header";
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof(*file->tensors), place_order);
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_tensor *tensor = &file->tensors[i];
        if (tensor->data < at)
            return file_error(file, ERR_BAD_INPUT, "tensors %s and %s overlap", before,
                              tensor->name);
        if (tensor->data > at)
            return file_error(file, ERR_BAD_INPUT,
                              "%zu bytes between %s and tensor %s belong to nothing",
                              (size_t)(tensor->data - at), before, tensor->name);
        at = tensor->data + tensor->bytes;
        before = tensor->name;
    }
    if (at != end)
        return file_error(file, ERR_BAD_INPUT, "%zu bytes after %s belong to nothing",
                          (size_t)(end - at), before);
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof(*file->tensors), name_order);
    return OK;
}

static status read_header(struct safetensors *file, json_t *header)
{
    const char *name;
    json_t *entry;
    size_t count = json_object_size(header);
    file->tensors = arena_take_array(file->arena, count + 1, sizeof(*file->tensors));
    if (file->tensors == NULL)
        return file_error(file, ERR_NO_MEMORY, "no memory for %zu tensors", count);
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        status code = read_tensor(file, name, entry);
        if (code != OK)
            return code;
    }
    return check_places(file);
}

static status file_parse(struct safetensors *file)
{
    json_error_t error;
    if (file->bytes < 8)
        return file_error(file, ERR_BAD_INPUT, "%zu bytes are no safetensors file", file->bytes);
    uint64_t header_bytes = load_u64(file->data);
    if (header_bytes > HEADER_BYTES_MAX || header_bytes > file->bytes - 8)
        return file_error(file, ERR_BAD_INPUT,
                          "a header of %llu bytes in a file of %zu (expected at most %zu): not "
                          "safetensors, or truncated; fetch it again",
                          (unsigned long long)header_bytes, file->bytes, HEADER_BYTES_MAX);
    file->start = 8 + (size_t)header_bytes;
    json_t *header = json_loadb((const char *)file->data + 8, (size_t)header_bytes,
                                JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(header)) {
        json_decref(header);
        return file_error(file, ERR_BAD_INPUT,
                          "the header is not a JSON object: %s; fetch the "
                          "file again",
                          header == NULL ? error.text : "something else");
    }
    status code = read_header(file, header);
    json_decref(header);
    return code;
}

static status file_allocate(const char *path, struct safetensors **file_out)
{
    struct safetensors *file = calloc(1, sizeof(*file));
    if (file == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory to open it", path);
    file->path = strdup(path);
    if (file->path == NULL || arena_open(NAMES_BYTES_MAX, &file->arena) != OK) {
        safetensors_close(file);
        return error_set(ERR_NO_MEMORY, "%s: no memory to open it", path);
    }
    *file_out = file;
    return OK;
}

static status file_map(struct safetensors *file)
{
    /* O_NONBLOCK: a pipe under that name would wait for its writer. */
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return file_error(file, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open it: %s",
                          strerror(errno));
    status code = OK;
    struct stat facts;
    if (fstat(fd, &facts) != 0)
        code = file_error(file, ERR_IO, "cannot read it: %s", strerror(errno));
    else if (!S_ISREG(facts.st_mode) || facts.st_size == 0)
        code = file_error(file, ERR_BAD_INPUT, "%s (expected a safetensors file)",
                          S_ISREG(facts.st_mode) ? "the file is empty" : "not a regular file");
    else {
        file->bytes = (size_t)facts.st_size;
        void *map = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) {
            code =
                file_error(file, ERR_IO, "cannot map %zu bytes: %s", file->bytes, strerror(errno));
        } else {
            file->data = map;
            file->mapped = true;
        }
    }
    close(fd);
    return code;
}

/* file belongs to the call. */
static status file_finish(status code, struct safetensors *file, struct safetensors **file_out)
{
    if (code == OK)
        code = file_parse(file);
    if (code == OK)
        *file_out = file;
    else
        safetensors_close(file);
    return code;
}

status safetensors_open(const char *path, struct safetensors **file_out)
{
    struct safetensors *file = NULL;
    status code = file_allocate(path, &file);
    if (code != OK)
        return code;
    return file_finish(file_map(file), file, file_out);
}

status safetensors_open_memory(const char *name, const void *data, size_t bytes,
                               struct safetensors **file_out)
{
    struct safetensors *file = NULL;
    status code = file_allocate(name, &file);
    if (code != OK)
        return code;
    /* Exactly as long, so that a sanitizer sees a read past the end. */
    void *copy = malloc(bytes > 0 ? bytes : 1);
    if (copy == NULL)
        return file_finish(file_error(file, ERR_NO_MEMORY, "no memory for %zu bytes", bytes), file,
                           file_out);
    if (bytes > 0)
        memcpy(copy, data, bytes);
    file->data = copy;
    file->bytes = bytes;
    return file_finish(OK, file, file_out);
}

void safetensors_close(struct safetensors *file)
{
    if (file == NULL)
        return;
    if (file->mapped)
        (void)munmap((void *)(uintptr_t)file->data, file->bytes);
    else
        free((void *)(uintptr_t)file->data);
    arena_close(file->arena);
    free(file->path);
    free(file);
}

void safetensors_forget(const struct safetensors *file)
{
    if (file->mapped) /* read-only, so nothing is lost */
        (void)madvise((void *)(uintptr_t)file->data, file->bytes, MADV_DONTNEED);
}

const char *safetensors_path(const struct safetensors *file)
{
    return file->path;
}

size_t safetensors_count(const struct safetensors *file)
{
    return file->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t index)
{
    return &file->tensors[index];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name)
{
    const struct safetensors_tensor key = {.name = name};
    if (file->count == 0)
        return NULL;
    return bsearch(&key, file->tensors, file->count, sizeof(*file->tensors), name_order);
}
