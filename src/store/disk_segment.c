#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "store/disk_parts.h"

#define SEGMENT_MAGIC 0x47455342u /* "BSEG" */
#define RECORD_LIVE 0x4556494cu   /* "LIVE" */
#define RECORD_DEAD 0xdead5151u   /* far from it in every byte */
#define STEP_BYTES 4096u
#define SUM_BYTES 16u
#define HEAD_FIXED_BYTES (10u * 4 + 2 * 8 + 3 * 32)
#define RECORD_FIXED_BYTES (4u + 16 + 16 + 4)
#define LAYERS_MAX 4096u
#define RECORDS_MAX (1u << 20)

static uint64_t round_up(uint64_t bytes, uint64_t step)
{
    return (bytes + step - 1) / step * step;
}

void segment_name(uint32_t number, char name[32])
{
    snprintf(name, 32, "segment-%08u", number);
}

void disk_format_of(const struct disk_shape *shape, uint64_t segment_bytes,
                    struct disk_format *format_out)
{
    uint64_t head = round_up(HEAD_FIXED_BYTES + 16ull * shape->layer_count + SUM_BYTES, STEP_BYTES);
    uint64_t record_head =
        round_up(RECORD_FIXED_BYTES + 16ull * shape->layer_count + SUM_BYTES, 64);
    uint64_t record = round_up(record_head + shape->block_bytes, STEP_BYTES);
    uint64_t count = segment_bytes > head ? (segment_bytes - head) / record : 0;
    *format_out = (struct disk_format){
        .shape = shape,
        .head_bytes = (uint32_t)head,
        .record_head_bytes = (uint32_t)record_head,
        .record_bytes = record,
        .records_max = (uint32_t)(count < 1             ? 1
                                  : count < RECORDS_MAX ? count
                                                        : RECORDS_MAX),
    };
}

static void sum_of(uint8_t sum[SUM_BYTES], const uint8_t *data, size_t bytes, uint32_t number,
                   uint32_t record)
{
    crypto_generichash_state state;
    uint8_t place[8];
    store_u32(place, number);
    store_u32(place + 4, record);
    crypto_generichash_init(&state, NULL, 0, SUM_BYTES);
    crypto_generichash_update(&state, data, bytes);
    crypto_generichash_update(&state, place, sizeof(place));
    crypto_generichash_final(&state, sum, SUM_BYTES);
}

/* ---- a segment's head ---- */

static uint8_t *head_write(const struct disk_format *format)
{
    const struct disk_shape *shape = format->shape;
    uint8_t *head = calloc(1, format->head_bytes);
    if (head == NULL)
        return NULL;
    struct writer w = writer_over(head, format->head_bytes);
    write_u32(&w, SEGMENT_MAGIC);
    write_u32(&w, DISK_VERSION);
    write_u32(&w, format->head_bytes);
    write_u32(&w, format->record_head_bytes);
    write_u32(&w, shape->layer_count);
    write_u32(&w, shape->hello.kv_dtype);
    write_u32(&w, shape->hello.block_tokens);
    write_u32(&w, shape->hello.rank);
    write_u32(&w, shape->hello.ranks);
    write_u32(&w, format->records);
    write_u64(&w, format->record_bytes);
    write_u64(&w, shape->block_bytes);
    write_bytes(&w, shape->hello.fingerprint, HELLO_HASH_BYTES);
    write_bytes(&w, shape->hello.layout_hash, HELLO_HASH_BYTES);
    write_bytes(&w, shape->hello.numerics_class, HELLO_CLASS_BYTES);
    for (uint32_t i = 0; i < shape->layer_count; i++) {
        write_u64(&w, shape->layers[i].offset);
        write_u64(&w, shape->layers[i].bytes);
    }
    size_t bytes = (size_t)(w.at - head);
    sum_of(w.at, head, bytes, 0, 0);
    return head;
}

static status learn_layers(struct reader *r, struct disk_shape *shape)
{
    shape->layers = calloc(shape->layer_count, sizeof(*shape->layers));
    if (shape->layers == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the layout of a disk folder");
    for (uint32_t i = 0; i < shape->layer_count; i++) {
        uint64_t offset = read_u64(r), bytes = read_u64(r);
        if (bytes == 0 || offset > shape->block_bytes || bytes > shape->block_bytes - offset)
            return error_set(ERR_CORRUPT, "the layout of a segment cannot be");
        shape->layers[i] =
            (struct transfer_slice){.offset = (size_t)offset, .bytes = (size_t)bytes};
    }
    return OK;
}

static status learn_from(const uint8_t *head, size_t bytes, const char *name,
                         struct disk_shape *shape, uint32_t *records_out)
{
    struct reader r = reader_over(head, bytes);
    uint32_t magic = read_u32(&r), version = read_u32(&r);
    if (!reader_ok(&r) || magic != SEGMENT_MAGIC)
        return error_set(ERR_CORRUPT, "%s is no segment of a store: its first bytes are 0x%08x",
                         name, magic);
    if (version != DISK_VERSION)
        return error_set(ERR_REFUSED,
                         "%s is of version %u, this release reads and writes %u; give a store an "
                         "empty folder, and an import a file of this release",
                         name, version, DISK_VERSION);
    read_u32(&r);
    read_u32(&r);
    shape->layer_count = read_u32(&r);
    shape->hello.kv_dtype = read_u32(&r);
    shape->hello.block_tokens = read_u32(&r);
    shape->hello.rank = read_u32(&r);
    shape->hello.ranks = read_u32(&r);
    *records_out = read_u32(&r);
    read_u64(&r);
    shape->block_bytes = read_u64(&r);
    const uint8_t *fingerprint = read_bytes(&r, HELLO_HASH_BYTES);
    const uint8_t *layout_hash = read_bytes(&r, HELLO_HASH_BYTES);
    const uint8_t *class = read_bytes(&r, HELLO_CLASS_BYTES);
    size_t summed = HEAD_FIXED_BYTES + 16ull * shape->layer_count;
    if (!reader_ok(&r) || shape->layer_count == 0 || shape->layer_count > LAYERS_MAX ||
        summed + SUM_BYTES > bytes)
        return error_set(ERR_CORRUPT, "the head of %s is cut short or cannot be", name);
    uint8_t sum[SUM_BYTES];
    sum_of(sum, head, summed, 0, 0);
    if (memcmp(sum, head + summed, SUM_BYTES) != 0)
        return error_set(ERR_CORRUPT, "the head of %s does not match its sum", name);
    memcpy(shape->hello.fingerprint, fingerprint, HELLO_HASH_BYTES);
    memcpy(shape->hello.layout_hash, layout_hash, HELLO_HASH_BYTES);
    memcpy(shape->hello.numerics_class, class, HELLO_CLASS_BYTES);
    shape->hello.numerics_class[HELLO_CLASS_BYTES - 1] = '\0';
    shape->hello.parts = HELLO_HAS_MODEL | HELLO_HAS_KV;
    return learn_layers(&r, shape);
}

/* Read a whole range, or say how much there was. */
static ssize_t read_at(int fd, uint8_t *to, size_t bytes, uint64_t offset)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(fd, to + done, bytes - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static status learn_from_fd(int fd, const char *name, struct disk_shape *shape_out,
                            uint32_t *records_out)
{
    size_t bytes = (size_t)round_up(HEAD_FIXED_BYTES + 16ull * LAYERS_MAX + SUM_BYTES, STEP_BYTES);
    struct disk_shape shape = {0};
    uint8_t *head = malloc(bytes);
    if (head == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the head of %s", name);
    ssize_t got = read_at(fd, head, bytes, 0);
    status st = got < 0 ? error_set(ERR_IO, "cannot read %s: %s", name, strerror(errno))
                        : learn_from(head, (size_t)got, name, &shape, records_out);
    free(head);
    if (st != OK)
        free(shape.layers);
    else
        *shape_out = shape;
    return st;
}

status segment_learn(int folder_fd, const char *name, struct disk_shape *shape_out,
                     uint32_t *records_out)
{
    uint32_t records = 0;
    int fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(ERR_IO, "cannot open %s: %s", name, strerror(errno));
    status st = learn_from_fd(fd, name, shape_out, &records);
    close(fd);
    if (st == OK && records_out != NULL)
        *records_out = records;
    return st;
}

/* Are the blocks of this file ours? */
static status segment_check_shape(const struct disk_format *format, int fd, const char *name)
{
    const struct disk_shape *ours = format->shape;
    struct disk_shape theirs;
    uint32_t records;
    status st = learn_from_fd(fd, name, &theirs, &records);
    if (st != OK)
        return st;
    snprintf(theirs.hello.name, sizeof(theirs.hello.name), "%s", name);
    theirs.hello.auth = ours->hello.auth;
    st = hello_check(&ours->hello, &theirs.hello);
    bool equal = ours->block_bytes == theirs.block_bytes && ours->layer_count == theirs.layer_count;
    for (uint32_t i = 0; equal && i < ours->layer_count; i++)
        equal = ours->layers[i].offset == theirs.layers[i].offset &&
                ours->layers[i].bytes == theirs.layers[i].bytes;
    if (st == OK && !equal)
        st = error_set(ERR_REFUSED,
                       "block layout: that of %s is %u layers in %" PRIu64 " bytes, ours is %u in "
                       "%" PRIu64 "; give the store a folder of its own",
                       name, theirs.layer_count, theirs.block_bytes, ours->layer_count,
                       ours->block_bytes);
    free(theirs.layers);
    return st;
}

/* ---- records ---- */

static uint64_t record_offset(const struct disk_format *format, uint32_t record)
{
    return format->head_bytes + (uint64_t)record * format->record_bytes;
}

static size_t record_summed_bytes(const struct disk_format *format)
{
    return RECORD_FIXED_BYTES - 4 + 16 * (size_t)format->shape->layer_count;
}

static uint8_t *record_head_write(const struct disk_format *format, const struct segment *segment,
                                  uint32_t record, const struct disk_record *from)
{
    uint8_t *head = calloc(1, format->record_head_bytes);
    if (head == NULL)
        return NULL;
    struct writer w = writer_over(head, format->record_head_bytes);
    write_u32(&w, RECORD_LIVE);
    write_bytes(&w, from->key.bytes, BLOCK_KEY_BYTES);
    write_bytes(&w, from->parent.bytes, BLOCK_KEY_BYTES);
    write_u32(&w, from->is_first);
    for (uint32_t i = 0; i < format->shape->layer_count; i++) {
        write_u64(&w, from->checksums[i].a);
        write_u64(&w, from->checksums[i].b);
    }
    sum_of(w.at, head + 4, record_summed_bytes(format), segment->number, record);
    return head;
}

/* state_out: RECORD_LIVE or RECORD_DEAD. */
static status record_head_read(const struct disk_format *format, const struct segment *segment,
                               uint32_t record, const uint8_t *head, struct disk_record *to,
                               struct checksum *checksums, uint32_t *state_out)
{
    uint8_t sum[SUM_BYTES];
    size_t summed = record_summed_bytes(format);
    uint32_t state = load_u32(head);
    sum_of(sum, head + 4, summed, segment->number, record);
    if ((state != RECORD_LIVE && state != RECORD_DEAD) ||
        memcmp(sum, head + 4 + summed, SUM_BYTES) != 0)
        return error_set(ERR_CORRUPT, "the head of record %u of segment %u does not match its sum",
                         record, segment->number);
    struct reader r = reader_over(head + 4, summed);
    memcpy(to->key.bytes, read_bytes(&r, BLOCK_KEY_BYTES), BLOCK_KEY_BYTES);
    memcpy(to->parent.bytes, read_bytes(&r, BLOCK_KEY_BYTES), BLOCK_KEY_BYTES);
    to->is_first = read_u32(&r) != 0;
    for (uint32_t i = 0; i < format->shape->layer_count; i++) {
        checksums[i].a = read_u64(&r);
        checksums[i].b = read_u64(&r);
    }
    to->checksums = checksums;
    *state_out = state;
    return OK;
}

status segment_read_head(const struct disk_format *format, const struct segment *segment,
                         uint32_t record, struct disk_record *head_out, struct checksum *checksums)
{
    uint32_t state;
    uint8_t *head = malloc(format->record_head_bytes);
    if (head == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the head of a record");
    ssize_t got =
        read_at(segment->fd, head, format->record_head_bytes, record_offset(format, record));
    status st = got < (ssize_t)format->record_head_bytes
                    ? error_set(ERR_IO, "cannot read record %u of segment %u: %s", record,
                                segment->number, got < 0 ? strerror(errno) : "it ends before")
                    : record_head_read(format, segment, record, head, head_out, checksums, &state);
    free(head);
    return st;
}

status segment_read_block(const struct disk_format *format, const struct segment *segment,
                          uint32_t record, const struct checksum *checksums, uint8_t *block)
{
    const struct disk_shape *shape = format->shape;
    uint64_t offset = record_offset(format, record) + format->record_head_bytes;
    ssize_t got = read_at(segment->fd, block, (size_t)shape->block_bytes, offset);
    if (got < (ssize_t)shape->block_bytes)
        return error_set(got < 0 ? ERR_IO : ERR_CORRUPT, "cannot read record %u of segment %u: %s",
                         record, segment->number, got < 0 ? strerror(errno) : "it ends before");
    for (uint32_t i = 0; i < shape->layer_count; i++) {
        struct checksum sum = checksum_of(block + shape->layers[i].offset, shape->layers[i].bytes);
        if (!checksum_equal(sum, checksums[i]))
            return error_set(ERR_CORRUPT,
                             "layer %u of record %u of segment %u does not match its checksum", i,
                             record, segment->number);
    }
    return OK;
}

status segment_append(const struct disk_format *format, struct segment *segment,
                      const struct disk_record *record, const uint8_t *block, uint32_t *record_out)
{
    uint32_t at = segment->record_count;
    uint64_t offset = record_offset(format, at);
    uint8_t *head = record_head_write(format, segment, at, record);
    if (head == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the head of a record");
    size_t all = format->record_head_bytes + (size_t)format->shape->block_bytes, done = 0;
    int cause = 0;
    while (done < all && cause == 0) {
        size_t head_done = done < format->record_head_bytes ? done : format->record_head_bytes;
        struct iovec parts[2] = {
            {.iov_base = head + head_done, .iov_len = format->record_head_bytes - head_done},
            {.iov_base = (uint8_t *)(uintptr_t)block + (done - head_done),
             .iov_len = (size_t)format->shape->block_bytes - (done - head_done)}};
        ssize_t put = pwritev(segment->fd, parts, 2, (off_t)(offset + done));
        if (put > 0)
            done += (size_t)put;
        else if (put == 0 || errno != EINTR)
            cause = put == 0 ? ENOSPC : errno;
    }
    free(head);
    if (cause != 0) {
        /* Whatever was written is not a record: take it away, as a scan would. */
        if (ftruncate(segment->fd, (off_t)offset) != 0)
            return error_set(ERR_IO, "cannot write to segment %u: %s, nor shorten it",
                             segment->number, strerror(cause));
        return error_set(ERR_IO, "cannot write to segment %u: %s", segment->number,
                         strerror(cause));
    }
    segment->live[at] = true;
    segment->record_count++;
    segment->live_count++;
    segment->dirty = true;
    *record_out = at;
    return OK;
}

status segment_kill(const struct disk_format *format, struct segment *segment, uint32_t record)
{
    uint8_t state[4];
    store_u32(state, RECORD_DEAD);
    if (segment->live[record]) {
        segment->live[record] = false;
        segment->live_count--;
    }
    if (pwrite(segment->fd, state, sizeof(state), (off_t)record_offset(format, record)) !=
        (ssize_t)sizeof(state))
        return error_set(ERR_IO, "cannot forget record %u of segment %u: %s", record,
                         segment->number, strerror(errno));
    segment->dirty = true;
    return OK;
}

/* ---- files ---- */

static struct segment *segment_new(const struct disk_format *format, uint32_t number, int fd)
{
    struct segment *segment = calloc(1, sizeof(*segment));
    bool *live = calloc(format->records_max, sizeof(*live));
    if (segment == NULL || live == NULL) {
        free(segment);
        free(live);
        close(fd);
        error_set(ERR_NO_MEMORY, "no memory for a segment");
        return NULL;
    }
    segment->number = number;
    segment->fd = fd;
    segment->live = live;
    return segment;
}

void segment_close(struct segment *segment)
{
    if (segment == NULL)
        return;
    close(segment->fd);
    free(segment->live);
    free(segment);
}

status segment_make(const struct disk_format *format, int folder_fd, uint32_t number,
                    struct segment **segment_out)
{
    char name[32];
    segment_name(number, name);
    return segment_make_named(format, folder_fd, name, number, segment_out);
}

status segment_write_head(const struct disk_format *format, const struct segment *segment)
{
    uint8_t *head = head_write(format);
    if (head == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the head of a segment");
    ssize_t put = pwrite(segment->fd, head, format->head_bytes, 0);
    int cause = put < 0 ? errno : ENOSPC;
    free(head);
    return put == (ssize_t)format->head_bytes
               ? OK
               : error_set(ERR_IO, "cannot write the head of segment %u: %s", segment->number,
                           strerror(cause));
}

status segment_make_named(const struct disk_format *format, int folder_fd, const char *name,
                          uint32_t number, struct segment **segment_out)
{
    int fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(ERR_IO, "cannot make %s: %s", name, strerror(errno));
    uint8_t *head = head_write(format);
    ssize_t put = head != NULL ? pwrite(fd, head, format->head_bytes, 0) : -1;
    int cause = head == NULL ? ENOMEM : put < 0 ? errno : ENOSPC;
    bool whole = put == (ssize_t)format->head_bytes;
    free(head);
    if (whole && fsync(folder_fd) != 0) {
        cause = errno;
        whole = false;
    }
    if (!whole) {
        close(fd);
        unlinkat(folder_fd, name, 0);
        return error_set(ERR_IO, "cannot write the head of %s: %s", name, strerror(cause));
    }
    *segment_out = segment_new(format, number, fd);
    if (*segment_out == NULL) {
        unlinkat(folder_fd, name, 0);
        return ERR_NO_MEMORY;
    }
    return OK;
}

/* Every record that is there in full; the last whole one ends the file. */
static status
segment_scan(const struct disk_format *format, struct segment *segment, uint64_t file_bytes,
             void (*found)(void *ctx, const struct disk_record *record, struct disk_place place),
             void *ctx, uint64_t *corrupt_out)
{
    uint64_t whole_bytes = format->record_head_bytes + format->shape->block_bytes;
    struct checksum *checksums = calloc(format->shape->layer_count, sizeof(*checksums));
    uint8_t *head = malloc(format->record_head_bytes);
    uint64_t bad = 0, bad_inside = 0;
    status st = checksums == NULL || head == NULL
                    ? error_set(ERR_NO_MEMORY, "no memory to look at a segment")
                    : OK;
    for (uint32_t i = 0; st == OK && i < format->records_max; i++) {
        uint64_t offset = record_offset(format, i);
        struct disk_record record;
        uint32_t state = RECORD_DEAD;
        if (offset + whole_bytes > file_bytes)
            break;
        if (read_at(segment->fd, head, format->record_head_bytes, offset) !=
            (ssize_t)format->record_head_bytes) {
            st = error_set(ERR_IO, "cannot read segment %u: %s", segment->number, strerror(errno));
            break;
        }
        if (record_head_read(format, segment, i, head, &record, checksums, &state) != OK) {
            bad++;
            continue;
        }
        bad_inside = bad; /* those before it are damaged, not torn */
        segment->record_count = i + 1;
        segment->live[i] = state == RECORD_LIVE;
        segment->live_count += state == RECORD_LIVE;
        if (state == RECORD_LIVE)
            found(ctx, &record, (struct disk_place){.segment = segment->number, .record = i});
    }
    free(checksums);
    free(head);
    uint64_t end = segment->record_count > 0
                       ? record_offset(format, segment->record_count - 1) + whole_bytes
                       : format->head_bytes;
    if (st == OK && file_bytes > end && ftruncate(segment->fd, (off_t)end) != 0)
        st = error_set(ERR_IO, "cannot cut the torn end of segment %u off: %s", segment->number,
                       strerror(errno));
    *corrupt_out = bad_inside;
    return st;
}

status segment_open(const struct disk_format *format, int folder_fd, uint32_t number,
                    void (*found)(void *ctx, const struct disk_record *record,
                                  struct disk_place place),
                    void *ctx, struct segment **segment_out, uint64_t *corrupt_out)
{
    char name[32];
    struct stat about;
    segment_name(number, name);
    int fd = openat(folder_fd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) {
        int cause = errno;
        if (fd >= 0)
            close(fd);
        return error_set(ERR_IO, "cannot open %s: %s", name, strerror(cause));
    }
    status st = segment_check_shape(format, fd, name);
    if (st != OK) {
        close(fd);
        return st;
    }
    struct segment *segment = segment_new(format, number, fd);
    if (segment == NULL)
        return ERR_NO_MEMORY;
    st = segment_scan(format, segment, (uint64_t)about.st_size, found, ctx, corrupt_out);
    if (st != OK) {
        segment_close(segment);
        return st;
    }
    *segment_out = segment;
    return OK;
}
