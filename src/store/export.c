#include "store/export.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "store/disk_parts.h"

#define EXPORT_NUMBER UINT32_MAX /* no segment of a folder has it: records of one fit no other */
#define SUFFIX ".part"

struct export
{
    int folder_fd;
    char name[NAME_MAX + 1], part[NAME_MAX + 1];
    struct disk_shape shape; /* layers: ours when reading */
    struct disk_format format;
    struct segment *segment;
    struct checksum *sums; /* [layer_count] */
    bool writes, finished;
};

/* The folder of a path, open, and the name in it. */
static status export_new(const char *path, struct export **export_out)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    if (name[0] == '\0' || strlen(name) + sizeof(SUFFIX) > NAME_MAX || strlen(path) >= PATH_MAX)
        return error_set(ERR_BAD_INPUT, "\"%s\" is no name for a file", path);
    snprintf(folder, sizeof(folder), "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
             slash != NULL ? path : ".");
    struct export *export = calloc(1, sizeof(*export));
    if (export == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an export");
    snprintf(export->name, sizeof(export->name), "%s", name);
    snprintf(export->part, sizeof(export->part), "%s" SUFFIX, name);
    export->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (export->folder_fd < 0) {
        free(export);
        return error_set(ERR_IO, "cannot open the folder of %s: %s", path, strerror(errno));
    }
    *export_out = export;
    return OK;
}

/* Everything that follows from the shape. */
static status export_format(struct export *export)
{
    disk_format_of(&export->shape, INT64_MAX, &export->format);
    export->sums = calloc(export->shape.layer_count, sizeof(*export->sums));
    return export->sums != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for an export");
}

status export_make(const char *path, const struct disk_shape *shape, struct export **export_out)
{
    struct export *export;
    status st = export_new(path, &export);
    if (st != OK)
        return st;
    export->shape = *shape;
    export->writes = true;
    st = export_format(export);
    if (st == OK && unlinkat(export->folder_fd, export->part, 0) != 0 && errno != ENOENT)
        st = error_set(ERR_IO, "cannot replace %s" SUFFIX ": %s", path, strerror(errno));
    if (st == OK)
        st = segment_make_named(&export->format, export->folder_fd, export->part, EXPORT_NUMBER,
                                &export->segment);
    if (st != OK) {
        export_close(export);
        return st;
    }
    *export_out = export;
    return OK;
}

status export_put(struct export *export, const struct block_key *key,
                  const struct block_key *parent, bool is_first, const uint8_t *block)
{
    struct disk_record record = {
        .key = *key, .parent = *parent, .is_first = is_first, .checksums = export->sums};
    uint32_t at;
    if (export->segment->record_count == export->format.records_max)
        return error_set(ERR_FULL, "an export holds at most %u blocks", export->format.records_max);
    for (uint32_t i = 0; i < export->shape.layer_count; i++)
        export->sums[i] =
            checksum_of(block + export->shape.layers[i].offset, export->shape.layers[i].bytes);
    status st = segment_append(&export->format, export->segment, &record, block, &at);
    return st == OK ? OK : error_prefix(st, "%s", export->part);
}

status export_finish(struct export *export)
{
    export->format.records = export->segment->record_count;
    status st = segment_write_head(&export->format, export->segment);
    if (st == OK &&
        (fsync(export->segment->fd) != 0 ||
         renameat(export->folder_fd, export->part, export->folder_fd, export->name) != 0 ||
         fsync(export->folder_fd) != 0))
        st = error_set(ERR_IO, "cannot finish %s: %s", export->name, strerror(errno));
    export->finished = st == OK;
    return st;
}

/* Is the file as long as its head says? */
static status export_check_length(const struct export *export, const char *path)
{
    struct stat about;
    const struct disk_format *format = &export->format;
    uint64_t last = format->record_head_bytes + export->shape.block_bytes;
    if (fstat(export->segment->fd, &about) != 0)
        return error_set(ERR_IO, "cannot look at %s: %s", path, strerror(errno));
    if (format->records == 0)
        return OK;
    uint64_t expected =
        format->head_bytes + (uint64_t)(format->records - 1) * format->record_bytes + last;
    if ((uint64_t)about.st_size >= expected)
        return OK;
    return error_set(ERR_CORRUPT,
                     "%s is cut short: expected %u blocks in %" PRIu64 " bytes, found %" PRIu64
                     " bytes",
                     path, format->records, expected, (uint64_t)about.st_size);
}

status export_open(const char *path, struct export **export_out)
{
    struct export *export;
    uint32_t records = 0;
    status st = export_new(path, &export);
    if (st != OK)
        return st;
    st = segment_learn(export->folder_fd, export->name, &export->shape, &records);
    if (st == OK && export->shape.block_bytes > DISK_BLOCK_BYTES_MAX)
        st = error_set(ERR_CORRUPT, "%s: blocks of %" PRIu64 " bytes", path,
                       export->shape.block_bytes);
    if (st == OK)
        st = export_format(export);
    if (st == OK && records > export->format.records_max)
        st = error_set(ERR_CORRUPT, "%s: %u blocks are more than an export holds", path, records);
    export->format.records = records;
    int fd = st == OK ? openat(export->folder_fd, export->name, O_RDONLY | O_CLOEXEC) : -1;
    if (st == OK && fd < 0)
        st = error_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    export->segment = calloc(1, sizeof(*export->segment));
    if (export->segment == NULL) {
        if (fd >= 0)
            close(fd);
        st = st == OK ? error_set(ERR_NO_MEMORY, "no memory for an export") : st;
    } else {
        *export->segment = (struct segment){.number = EXPORT_NUMBER, .fd = fd};
    }
    if (st == OK)
        st = export_check_length(export, path);
    if (st != OK) {
        export_close(export);
        return st;
    }
    *export_out = export;
    return OK;
}

const struct disk_shape *export_shape(const struct export *export)
{
    return &export->shape;
}

uint32_t export_count(const struct export *export)
{
    return export->format.records;
}

status export_get(struct export *export, uint32_t i, struct disk_record *record_out, uint8_t *block)
{
    status st = segment_read_head(&export->format, export->segment, i, record_out, export->sums);
    if (st == OK)
        st = segment_read_block(&export->format, export->segment, i, export->sums, block);
    record_out->checksums = NULL;
    return st == OK ? OK : error_prefix(st, "%s", export->name);
}

void export_close(struct export *export)
{
    if (export == NULL)
        return;
    if (export->segment != NULL && export->segment->fd < 0)
        free(export->segment);
    else
        segment_close(export->segment);
    if (export->writes && !export->finished)
        unlinkat(export->folder_fd, export->part, 0);
    if (!export->writes)
        free(export->shape.layers);
    free(export->sums);
    close(export->folder_fd);
    free(export);
}
