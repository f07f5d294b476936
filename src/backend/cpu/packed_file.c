#include "backend/cpu/packed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"

#define MAGIC "BATONPAK"
#define VERSION 2u /* of pack.h's layout too: raise it when that changes; layout_of, for a type */
#define PAGE_BYTES 4096u
#define TENSORS_MAX 65536u
#define LOCK_NS 300000000000u
#define LOCK_LOOK_NS 20000000

struct file_header {
    char magic[8];
    uint32_t version, tensor_count;
    uint8_t key[BACKEND_WEIGHTS_KEY_BYTES];
    uint64_t table_at, file_bytes;
};

struct file_tensor {
    uint32_t type, rows, columns, layout;
    uint64_t at, bytes;
};

struct packed_file {
    char *path, *part_path; /* part_path NULL: only read */
    int fd, lock_fd;
    uint8_t *base;
    size_t bytes; /* mapped */
    size_t used;  /* making: the end of the last tensor */
    uint8_t key[BACKEND_WEIGHTS_KEY_BYTES];
    struct file_tensor *table; /* reading: in the map */
    uint32_t tensor_count, tensor_capacity, next;
    bool full; /* making: no room for more */
};

static size_t page_up(size_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* Which layout of a type this is: files without it need not be made anew when it changes. */
static uint32_t layout_of(uint32_t type)
{
    return type == DTYPE_BF16 ? 1 : 0;
}

/* ---- read ------------------------------------------------------------------------------------ */

/* Does the mapped file say what it must, and does its table lie within it? */
static bool header_valid(const struct packed_file *file, const struct file_header *header)
{
    size_t table_bytes = (size_t)header->tensor_count * sizeof(struct file_tensor);
    return memcmp(header->magic, MAGIC, sizeof(header->magic)) == 0 && header->version == VERSION &&
           memcmp(header->key, file->key, sizeof(file->key)) == 0 &&
           header->file_bytes == file->bytes && header->tensor_count <= TENSORS_MAX &&
           header->table_at % PAGE_BYTES == 0 && header->table_at <= file->bytes &&
           table_bytes <= file->bytes - header->table_at;
}

/* All tensors are laid out as this version does. */
static bool table_valid(const struct packed_file *file, const struct file_header *header)
{
    const struct file_tensor *table = (const void *)(file->base + header->table_at);
    for (uint32_t i = 0; i < header->tensor_count; i++)
        if (table[i].layout != layout_of(table[i].type))
            return false;
    return true;
}

/* Only what this user or root wrote, and nobody else can change, is trusted. */
static bool file_trusted(const struct stat *facts)
{
    return S_ISREG(facts->st_mode) && (facts->st_uid == geteuid() || facts->st_uid == 0) &&
           (facts->st_mode & (S_IWGRP | S_IWOTH)) == 0 && facts->st_size > PAGE_BYTES;
}

/* What is read into the page cache from here on comes in pieces as large as a huge page, where the
 * file system can, and is mapped so: with pages of 4 KB a decode step of a small model took a sixth
 * longer than from private memory. What the cache has in small pages already stays so. */
static void huge_pages_ask(void *base, size_t bytes)
{
    (void)madvise(base, bytes, MADV_HUGEPAGE);
}

/* Map what is at path; false when there is nothing that can be used. */
static bool file_read(struct packed_file *file)
{
    struct stat facts;
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0)
        return false;
    if (fstat(file->fd, &facts) == 0 && file_trusted(&facts)) {
        file->bytes = (size_t)facts.st_size;
        void *base = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, file->fd, 0);
        file->base = base == MAP_FAILED ? NULL : base;
    }
    const struct file_header *header = (const void *)file->base;
    if (file->base != NULL && header_valid(file, header) && table_valid(file, header)) {
        file->table = (struct file_tensor *)(void *)(file->base + header->table_at);
        file->tensor_count = header->tensor_count;
        huge_pages_ask(file->base, file->bytes);
        (void)madvise(file->base, file->bytes, MADV_WILLNEED);
        return true;
    }
    if (file->base != NULL)
        (void)munmap(file->base, file->bytes);
    (void)close(file->fd);
    file->base = NULL;
    file->fd = -1;
    return false;
}

/* ---- make ------------------------------------------------------------------------------------ */

static status model_lock(struct packed_file *file, const char *model_path)
{
    uint64_t end_ns = clock_ns() + LOCK_NS;
    file->lock_fd = open(model_path, O_RDONLY | O_CLOEXEC);
    if (file->lock_fd < 0)
        return error_set(ERR_IO, "packed weights: cannot open %s to lock it: %s", model_path,
                         strerror(errno));
    while (flock(file->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set(ERR_IO, "packed weights: cannot lock %s: %s", model_path,
                             strerror(errno));
        if (clock_ns() > end_ns)
            return error_set(ERR_TIMEOUT,
                             "packed weights: another process has held the lock on %s for %u s",
                             model_path, (unsigned)(LOCK_NS / 1000000000u));
        (void)nanosleep(&(struct timespec){.tv_nsec = LOCK_LOOK_NS}, NULL);
    }
    return OK;
}

static void model_unlock(struct packed_file *file)
{
    if (file->lock_fd >= 0)
        (void)close(file->lock_fd);
    file->lock_fd = -1;
}

/* An empty file with a map that has room for all; blocks of the disk are taken as tensors come. */
static status file_make(struct packed_file *file, size_t bytes_max)
{
    size_t bytes = page_up(bytes_max) + PAGE_BYTES;
    if (asprintf(&file->part_path, "%s.part", file->path) < 0) {
        file->part_path = NULL;
        return error_set(ERR_NO_MEMORY, "packed weights: no memory");
    }
    (void)unlink(file->part_path);
    file->fd = open(file->part_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file->fd < 0 || ftruncate(file->fd, (off_t)bytes) != 0)
        return error_set(ERR_IO, "packed weights: cannot make %s: %s", file->part_path,
                         strerror(errno));
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
    if (base == MAP_FAILED)
        return error_set(ERR_NO_MEMORY, "packed weights: cannot map %zu bytes: %s", bytes,
                         strerror(errno));
    huge_pages_ask(base, bytes);
    file->base = base;
    file->bytes = bytes;
    file->used = PAGE_BYTES;
    return posix_fallocate(file->fd, 0, PAGE_BYTES) == 0
               ? OK
               : error_set(ERR_IO, "packed weights: no room on the disk for %s", file->part_path);
}

status packed_file_open(const struct backend_cpu_weights *weights, struct packed_file **file_out)
{
    struct packed_file *file = calloc(1, sizeof(*file));
    if (file == NULL || (file->path = strdup(weights->path)) == NULL) {
        free(file);
        return error_set(ERR_NO_MEMORY, "packed weights: no memory");
    }
    file->fd = file->lock_fd = -1;
    memcpy(file->key, weights->key, sizeof(file->key));
    status code = OK;
    if (!file_read(file)) {
        code = model_lock(file, weights->model_path);
        if (code == OK && !file_read(file))
            code = file_make(file, weights->bytes_max);
        if (code != OK || file->part_path == NULL)
            model_unlock(file);
    }
    if (code != OK) {
        packed_file_close(file);
        return code;
    }
    *file_out = file;
    return OK;
}

static bool table_room(struct packed_file *file)
{
    if (file->tensor_count < file->tensor_capacity)
        return true;
    uint32_t capacity = file->tensor_capacity == 0 ? 256 : 2 * file->tensor_capacity;
    struct file_tensor *table =
        capacity <= TENSORS_MAX ? realloc(file->table, capacity * sizeof(*table)) : NULL;
    if (table == NULL)
        return false;
    file->table = table;
    file->tensor_capacity = capacity;
    return true;
}

static uint8_t *tensor_append(struct packed_file *file, const struct file_tensor *wanted)
{
    struct file_tensor tensor = *wanted;
    tensor.at = file->used;
    /* Blocks of the disk first: a page of the map that has none kills who writes to it. */
    if (file->full || tensor.bytes > file->bytes - file->used || !table_room(file) ||
        posix_fallocate(file->fd, (off_t)file->used, (off_t)page_up(tensor.bytes)) != 0) {
        file->full = true;
        return NULL;
    }
    file->table[file->tensor_count++] = tensor;
    file->used += page_up(tensor.bytes);
    return file->base + tensor.at;
}

uint8_t *packed_file_take(struct packed_file *file, const struct packed *packed, bool *filled_out)
{
    struct file_tensor wanted = {.type = (uint32_t)packed->type,
                                 .layout = layout_of((uint32_t)packed->type),
                                 .rows = packed->rows,
                                 .columns = packed->columns,
                                 .bytes = pack_bytes(packed)};
    *filled_out = file->part_path == NULL;
    if (file->part_path != NULL)
        return tensor_append(file, &wanted);
    if (file->next >= file->tensor_count)
        return NULL;
    const struct file_tensor *found = &file->table[file->next++];
    if (found->type != wanted.type || found->rows != wanted.rows ||
        found->columns != wanted.columns || found->bytes != wanted.bytes ||
        found->at % PAGE_BYTES != 0 || found->at > file->bytes ||
        found->bytes > file->bytes - found->at)
        return NULL;
    return file->base + found->at;
}

/* The table, then the header that makes the file valid, then its name. */
static status file_finish(struct packed_file *file)
{
    size_t table_bytes = file->tensor_count * sizeof(*file->table);
    struct file_header header = {.version = VERSION,
                                 .tensor_count = file->tensor_count,
                                 .table_at = file->used,
                                 .file_bytes = page_up(file->used + table_bytes)};
    memcpy(header.magic, MAGIC, sizeof(header.magic));
    memcpy(header.key, file->key, sizeof(header.key));
    if (file->full)
        return error_set(ERR_IO, "no room on the disk, or too many tensors");
    if (pwrite(file->fd, file->table, table_bytes, (off_t)file->used) != (ssize_t)table_bytes ||
        ftruncate(file->fd, (off_t)header.file_bytes) != 0 ||
        pwrite(file->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        fdatasync(file->fd) != 0 || rename(file->part_path, file->path) != 0)
        return error_set(ERR_IO, "%s", strerror(errno));
    return OK;
}

status packed_file_done(struct packed_file *file)
{
    if (file->part_path == NULL)
        return OK;
    status code = file_finish(file);
    if (code != OK) {
        (void)unlink(file->part_path);
        code = error_prefix(code, "packed weights: cannot write %s", file->path);
    }
    (void)mprotect(file->base, page_up(file->used), PROT_READ);
    model_unlock(file);
    free(file->table);
    file->table = NULL;
    file->tensor_count = 0;
    free(file->part_path);
    file->part_path = NULL;
    return code;
}

void packed_file_close(struct packed_file *file)
{
    if (file == NULL)
        return;
    if (file->part_path != NULL) { /* never done */
        (void)unlink(file->part_path);
        free(file->table);
    }
    if (file->base != NULL)
        (void)munmap(file->base, file->bytes);
    if (file->fd >= 0)
        (void)close(file->fd);
    model_unlock(file);
    free(file->part_path);
    free(file->path);
    free(file);
}
