#include "store/disk.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "store/disk_parts.h"

#define FLUSH_MS 1000
#define RETRY_MS 10000u
#define SEGMENT_BYTES_MAX (256ull << 20)
#define SEGMENTS_WANTED 16u

enum { JOB_WRITE = 1, JOB_READ, JOB_FORGET, JOB_STOP };

struct disk_job {
    struct mail mail; /* first; kind: JOB_ */
    uint64_t ticket;
    struct disk_record record;
    struct disk_place place;
    uint8_t *block;
    struct disk_report *report;
    struct checksum checksums[];
};

struct disk {
    struct disk_options options;
    struct disk_shape shape; /* its layers are the caller's, who outlives the disk */
    struct disk_format format;
    int folder_fd, lock_fd;
    struct segment *segments, *active; /* by number; active: the last, or NULL */
    uint32_t segment_count, segments_max;
    struct mailbox *jobs;
    pthread_t thread;
    bool runs;
    uint64_t flushed_ns;
    uint8_t *room; /* one block, for moving records */
    struct checksum *sums;
    atomic_uint_fast64_t queued, off_until_ns;
    atomic_uint_fast64_t bytes, records, written, dropped, reads, evicted, compacted, corrupt,
        failures;
};

/* ---- reports ---- */

static void disk_say(struct disk *disk, struct disk_report *report, uint32_t kind, status result)
{
    report->mail.kind = kind;
    report->status = result;
    if (result != OK)
        snprintf(report->text, sizeof(report->text), "%s", error_text());
    mailbox_post(disk->options.reports, &report->mail);
}

/* A record is elsewhere, or nowhere. Without memory for it a get finds out by the record's key. */
static void disk_say_place(struct disk *disk, uint32_t kind, const struct block_key *key,
                           struct disk_place old_place, struct disk_place place)
{
    struct disk_report *report = calloc(1, sizeof(*report));
    if (report == NULL)
        return;
    report->key = *key;
    report->old_place = old_place;
    report->place = place;
    disk_say(disk, report, kind, OK);
}

static void disk_count_now(struct disk *disk)
{
    uint64_t bytes = 0, records = 0;
    for (const struct segment *segment = disk->segments; segment != NULL; segment = segment->next) {
        bytes += disk->format.head_bytes + segment->record_count * disk->format.record_bytes;
        records += segment->live_count;
    }
    atomic_store(&disk->bytes, bytes);
    atomic_store(&disk->records, records);
}

/* ---- segments that come and go ---- */

static struct segment *disk_segment(const struct disk *disk, uint32_t number)
{
    struct segment *segment = disk->segments;
    while (segment != NULL && segment->number != number)
        segment = segment->next;
    return segment;
}

static void disk_link(struct disk *disk, struct segment *segment)
{
    struct segment **place = &disk->segments;
    while (*place != NULL && (*place)->number < segment->number)
        place = &(*place)->next;
    segment->next = *place;
    *place = segment;
    disk->segment_count++;
}

static void disk_remove(struct disk *disk, struct segment *segment)
{
    char name[32];
    struct segment **place = &disk->segments;
    while (*place != segment)
        place = &(*place)->next;
    *place = segment->next;
    disk->segment_count--;
    segment_name(segment->number, name);
    if (unlinkat(disk->folder_fd, name, 0) != 0)
        log_warn("segment not removed", "name=\"%s\" cause=\"%s\"", name, strerror(errno));
    segment_close(segment);
}

static void disk_flush(struct disk *disk)
{
    disk->flushed_ns = clock_ns();
    for (struct segment *segment = disk->segments; segment != NULL; segment = segment->next) {
        if (segment->dirty && fdatasync(segment->fd) != 0) {
            atomic_fetch_add(&disk->failures, 1);
            log_error("disk not flushed", "segment=%u cause=\"%s\"", segment->number,
                      strerror(errno));
        }
        segment->dirty = false;
    }
}

/* Carry a record over to the active segment, which has room. False: it could not be. */
static bool disk_carry(struct disk *disk, const struct segment *from, uint32_t record,
                       const struct disk_record *head)
{
    struct disk_place old_place = {.segment = from->number, .record = record};
    struct disk_place place = {.segment = disk->active->number};
    if (segment_read_block(&disk->format, from, record, disk->sums, disk->room) != OK) {
        atomic_fetch_add(&disk->corrupt, 1);
        return false;
    }
    if (segment_append(&disk->format, disk->active, head, disk->room, &place.record) != OK)
        return false;
    atomic_fetch_add(&disk->compacted, 1);
    disk_say_place(disk, DISK_MOVED, &head->key, old_place, place);
    return true;
}

/* Empty a segment: carry what lives over, or let go of it. */
static void disk_empty(struct disk *disk, struct segment *segment, bool carry)
{
    for (uint32_t i = 0; i < segment->record_count; i++) {
        struct disk_record head;
        if (!segment->live[i])
            continue;
        if (segment_read_head(&disk->format, segment, i, &head, disk->sums) != OK) {
            atomic_fetch_add(&disk->corrupt, 1);
            continue; /* a get of it finds nothing, and says so */
        }
        if (carry && disk_carry(disk, segment, i, &head))
            continue;
        atomic_fetch_add(&disk->evicted, 1);
        disk_say_place(disk, DISK_EVICTED, &head.key,
                       (struct disk_place){.segment = segment->number, .record = i},
                       (struct disk_place){0});
    }
    disk_remove(disk, segment);
}

/* Make room for another segment: at most segments_max, and one that is being emptied. */
static void disk_reclaim(struct disk *disk)
{
    while (disk->segment_count > disk->segments_max) {
        struct segment *least = NULL;
        for (struct segment *s = disk->segments; s != NULL; s = s->next) {
            if (s != disk->active && (least == NULL || s->live_count < least->live_count))
                least = s;
        }
        bool sparse = least->live_count <= disk->format.records_max / 2;
        bool room = disk->active->record_count + least->live_count <= disk->format.records_max;
        if (sparse && room) {
            disk_empty(disk, least, true);
            disk_flush(disk); /* the copies are safe before the next thing is let go */
        } else {
            disk_empty(disk, disk->segments, false);
        }
    }
}

static status disk_make_room(struct disk *disk)
{
    if (disk->active != NULL && disk->active->record_count < disk->format.records_max)
        return OK;
    uint32_t number = disk->active != NULL ? disk->active->number + 1 : 0;
    struct segment *segment;
    disk_flush(disk);
    status st = segment_make(&disk->format, disk->folder_fd, number, &segment);
    if (st != OK)
        return st;
    disk_link(disk, segment);
    disk->active = segment;
    disk_reclaim(disk);
    return OK;
}

/* ---- jobs ---- */

static void disk_do_write(struct disk *disk, struct disk_job *job)
{
    struct disk_report *report = job->report;
    report->key = job->record.key;
    status st = clock_ns() < atomic_load(&disk->off_until_ns)
                    ? error_set(ERR_IO, "the disk tier is off for now")
                    : disk_make_room(disk);
    if (st == OK)
        st = segment_append(&disk->format, disk->active, &job->record, job->block,
                            &report->place.record);
    if (st == OK) {
        report->place.segment = disk->active->number;
        atomic_fetch_add(&disk->written, 1);
        if (atomic_exchange(&disk->off_until_ns, 0) != 0)
            log_info("disk tier back", "folder=\"%s\"", disk->options.folder);
    } else {
        atomic_fetch_add(&disk->failures, 1);
        if (clock_ns() >= atomic_load(&disk->off_until_ns)) {
            log_error("disk tier off",
                      "folder=\"%s\" reason=\"%s\" next=\"memory only, and "
                      "another try in %u s\"",
                      disk->options.folder, error_text(), disk->options.retry_ms / 1000);
            atomic_store(&disk->off_until_ns,
                         clock_ns() + (uint64_t)disk->options.retry_ms * 1000000u);
        }
    }
    atomic_fetch_sub(&disk->queued, 1);
    disk_count_now(disk);
    disk_say(disk, report, DISK_WRITTEN, st);
}

/* The record at a place, if it still holds that key. */
static status disk_look(struct disk *disk, const struct disk_job *job, struct segment **segment_out)
{
    struct disk_record head;
    struct segment *segment = disk_segment(disk, job->place.segment);
    if (segment == NULL || job->place.record >= segment->record_count ||
        !segment->live[job->place.record])
        return error_set(ERR_NOT_FOUND, "the block is not on the disk any more");
    status st = segment_read_head(&disk->format, segment, job->place.record, &head, disk->sums);
    if (st == OK && !block_key_equal(&head.key, &job->record.key))
        st = error_set(ERR_NOT_FOUND, "the block is not on the disk any more");
    if (st == OK)
        *segment_out = segment;
    return st;
}

static void disk_do_read(struct disk *disk, struct disk_job *job)
{
    struct segment *segment = NULL;
    status st = disk_look(disk, job, &segment);
    if (st == OK)
        st = segment_read_block(&disk->format, segment, job->place.record, job->checksums,
                                job->block);
    if (st == OK)
        atomic_fetch_add(&disk->reads, 1);
    else if (st == ERR_CORRUPT)
        atomic_fetch_add(&disk->corrupt, 1);
    job->report->key = job->record.key;
    job->report->place = job->place;
    disk_say(disk, job->report, DISK_READ, st);
}

static void disk_do_forget(struct disk *disk, struct disk_job *job)
{
    struct segment *segment = disk_segment(disk, job->place.segment);
    struct segment *same = NULL;
    status st = disk_look(disk, job, &same);
    if (st == OK)
        st = segment_kill(&disk->format, segment, job->place.record);
    else if (st == ERR_CORRUPT) /* damaged: nobody finds it again */
        st = segment_kill(&disk->format, segment, job->place.record);
    if (st == ERR_IO)
        log_error("block not forgotten", "reason=\"%s\"", error_text());
    disk_count_now(disk);
    free(job->report);
}

static void *disk_thread(void *ctx)
{
    struct disk *disk = ctx;
    for (bool stop = false; !stop;) {
        mailbox_wait(disk->jobs, FLUSH_MS);
        for (struct mail *mail = mailbox_take_all(disk->jobs), *next; mail != NULL; mail = next) {
            struct disk_job *job = (struct disk_job *)mail;
            next = mail->next;
            if (mail->kind == JOB_WRITE)
                disk_do_write(disk, job);
            else if (mail->kind == JOB_READ)
                disk_do_read(disk, job);
            else if (mail->kind == JOB_FORGET)
                disk_do_forget(disk, job);
            else
                stop = true;
            free(job);
        }
        if (stop || clock_ns() - disk->flushed_ns > FLUSH_MS * 1000000ull)
            disk_flush(disk);
    }
    return NULL;
}

/* ---- open ---- */

static bool segment_number_of(const char *name, uint32_t *number_out)
{
    char same[32];
    if (sscanf(name, "segment-%8" SCNu32, number_out) != 1)
        return false;
    segment_name(*number_out, same);
    return strcmp(same, name) == 0;
}

static int number_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The numbers of all segments, in order; malloc'd. */
static status folder_numbers(const char *folder, uint32_t **numbers_out, uint32_t *count_out)
{
    DIR *dir = opendir(folder);
    uint32_t *numbers = NULL, count = 0, capacity = 0;
    if (dir == NULL)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot read %s: %s", folder,
                         strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        uint32_t number;
        if (!segment_number_of(entry->d_name, &number))
            continue;
        if (count == capacity) {
            uint32_t *more = realloc(numbers, (capacity = capacity * 2 + 16) * sizeof(*more));
            if (more == NULL) {
                free(numbers);
                closedir(dir);
                return error_set(ERR_NO_MEMORY, "no memory for the segments of %s", folder);
            }
            numbers = more;
        }
        numbers[count++] = number;
    }
    closedir(dir);
    if (count > 0)
        qsort(numbers, count, sizeof(*numbers), number_order);
    *numbers_out = numbers;
    *count_out = count;
    return OK;
}

status disk_learn(const char *folder, struct disk_shape *shape_out)
{
    uint32_t *numbers = NULL, count = 0;
    char name[32];
    status st = folder_numbers(folder, &numbers, &count);
    if (st != OK)
        return st;
    int folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    st = error_set(ERR_NOT_FOUND, "%s holds no segments", folder);
    for (uint32_t i = 0; i < count && (st == ERR_NOT_FOUND || st == ERR_CORRUPT); i++) {
        segment_name(numbers[i], name);
        st = segment_learn(folder_fd, name, shape_out, NULL);
    }
    if (st == ERR_CORRUPT) /* none can be read: as if there were none; open says so of each */
        st = error_set(ERR_NOT_FOUND, "no segment of %s can be read", folder);
    if (folder_fd >= 0)
        close(folder_fd);
    free(numbers);
    return st;
}

static status disk_lock(struct disk *disk)
{
    if (mkdir(disk->options.folder, 0700) != 0 && errno != EEXIST)
        return error_set(ERR_IO, "cannot make the folder %s: %s", disk->options.folder,
                         strerror(errno));
    disk->folder_fd = open(disk->options.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (disk->folder_fd >= 0)
        disk->lock_fd = openat(disk->folder_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (disk->lock_fd < 0)
        return error_set(ERR_IO, "cannot use the folder %s: %s", disk->options.folder,
                         strerror(errno));
    if (flock(disk->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return error_set(ERR_REFUSED, "the folder %s is in use by another store",
                         disk->options.folder);
    return OK;
}

static status disk_choose_sizes(struct disk *disk)
{
    const struct disk_options *options = &disk->options;
    uint64_t bytes = options->segment_bytes;
    if (bytes == 0)
        bytes = options->bytes_max / SEGMENTS_WANTED;
    bytes = bytes < SEGMENT_BYTES_MAX ? bytes : SEGMENT_BYTES_MAX;
    disk_format_of(&disk->shape, bytes, &disk->format);
    uint64_t segment =
        disk->format.head_bytes + disk->format.records_max * disk->format.record_bytes;
    uint64_t count = options->bytes_max / segment;
    if (count < 3)
        return error_set(ERR_BAD_INPUT,
                         "--disk-bytes is %" PRIu64 ", expected at least %" PRIu64
                         ": three segments of one block each",
                         options->bytes_max, 3 * segment);
    disk->segments_max = (uint32_t)(count < UINT32_MAX ? count : UINT32_MAX) - 1;
    return OK;
}

static status disk_scan(struct disk *disk,
                        void (*found)(void *ctx, const struct disk_record *record,
                                      struct disk_place place),
                        void *ctx)
{
    uint32_t *numbers = NULL, count = 0;
    status st = folder_numbers(disk->options.folder, &numbers, &count);
    for (uint32_t i = 0; st == OK && i < count; i++) {
        struct segment *segment;
        uint64_t corrupt = 0;
        st = segment_open(&disk->format, disk->folder_fd, numbers[i], found, ctx, &segment,
                          &corrupt);
        if (st == ERR_CORRUPT) {
            char name[32];
            segment_name(numbers[i], name);
            log_error("segment thrown away", "folder=\"%s\" reason=\"%s\"", disk->options.folder,
                      error_text());
            atomic_fetch_add(&disk->failures, 1);
            unlinkat(disk->folder_fd, name, 0);
            st = OK;
            continue;
        }
        if (st == OK) {
            atomic_fetch_add(&disk->corrupt, corrupt);
            disk_link(disk, segment);
            disk->active = segment;
        }
    }
    free(numbers);
    return st;
}

static void disk_free(struct disk *disk)
{
    while (disk->segments != NULL) {
        struct segment *segment = disk->segments;
        disk->segments = segment->next;
        segment_close(segment);
    }
    if (disk->jobs != NULL)
        mailbox_close(disk->jobs);
    if (disk->lock_fd >= 0)
        close(disk->lock_fd);
    if (disk->folder_fd >= 0)
        close(disk->folder_fd);
    free(disk->room);
    free(disk->sums);
    free(disk);
}

status disk_open(const struct disk_options *options,
                 void (*found)(void *ctx, const struct disk_record *record,
                               struct disk_place place),
                 void *ctx, struct disk **disk_out)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (disk == NULL || sodium_init() < 0) {
        free(disk);
        return error_set(ERR_NO_MEMORY, "no memory for the disk tier");
    }
    disk->options = *options;
    disk->shape = *options->shape;
    disk->options.shape = &disk->shape;
    disk->folder_fd = disk->lock_fd = -1;
    if (disk->options.retry_ms == 0)
        disk->options.retry_ms = RETRY_MS;
    disk->room = malloc((size_t)disk->shape.block_bytes);
    disk->sums = calloc(disk->shape.layer_count, sizeof(*disk->sums));
    status st = disk->room == NULL || disk->sums == NULL
                    ? error_set(ERR_NO_MEMORY, "no memory for the disk tier")
                    : disk_choose_sizes(disk);
    if (st == OK)
        st = disk_lock(disk);
    if (st == OK)
        st = mailbox_open(&disk->jobs);
    if (st == OK)
        st = disk_scan(disk, found, ctx);
    if (st == OK)
        disk_count_now(disk);
    if (st == OK)
        st = thread_start("store-disk", disk_thread, disk, &disk->thread);
    if (st != OK) {
        disk_free(disk);
        return st;
    }
    *disk_out = disk;
    return OK;
}

void disk_close(struct disk *disk)
{
    struct disk_job *stop = NULL;
    if (disk == NULL)
        return;
    while ((stop = calloc(1, sizeof(*stop))) == NULL)
        continue; /* nothing else can end the thread */
    stop->mail.kind = JOB_STOP;
    mailbox_post(disk->jobs, &stop->mail);
    pthread_join(disk->thread, NULL);
    disk_free(disk);
}

/* ---- calls ---- */

static struct disk_job *disk_job_new(const struct disk *disk, uint32_t kind, uint64_t ticket,
                                     const struct checksum *checksums)
{
    size_t sums_bytes = disk->shape.layer_count * sizeof(*checksums);
    struct disk_job *job = calloc(1, sizeof(*job) + sums_bytes);
    struct disk_report *report = calloc(1, sizeof(*report));
    if (job == NULL || report == NULL) {
        free(job);
        free(report);
        return NULL;
    }
    job->mail.kind = kind;
    job->ticket = report->ticket = ticket;
    job->report = report;
    if (checksums != NULL)
        memcpy(job->checksums, checksums, sums_bytes);
    job->record.checksums = job->checksums;
    return job;
}

status disk_write(struct disk *disk, uint64_t ticket, const struct disk_record *record,
                  const uint8_t *block)
{
    status st = clock_ns() < atomic_load(&disk->off_until_ns)          ? ERR_IO
                : atomic_fetch_add(&disk->queued, 1) >= DISK_QUEUE_MAX ? ERR_FULL
                                                                       : OK;
    struct disk_job *job =
        st == OK ? disk_job_new(disk, JOB_WRITE, ticket, record->checksums) : NULL;
    if (job == NULL) {
        if (st != ERR_IO)
            atomic_fetch_sub(&disk->queued, 1);
        atomic_fetch_add(&disk->dropped, 1);
        return st != OK ? st : ERR_NO_MEMORY;
    }
    job->record.key = record->key;
    job->record.parent = record->parent;
    job->record.is_first = record->is_first;
    job->block = (uint8_t *)(uintptr_t)block; /* only read */
    mailbox_post(disk->jobs, &job->mail);
    return OK;
}

status disk_read(struct disk *disk, uint64_t ticket, const struct block_key *key,
                 struct disk_place place, const struct checksum *checksums, uint8_t *block)
{
    struct disk_job *job = disk_job_new(disk, JOB_READ, ticket, checksums);
    if (job == NULL)
        return ERR_NO_MEMORY;
    job->record.key = *key;
    job->place = place;
    job->block = block;
    mailbox_post(disk->jobs, &job->mail);
    return OK;
}

void disk_forget(struct disk *disk, const struct block_key *key, struct disk_place place)
{
    struct disk_job *job = disk_job_new(disk, JOB_FORGET, 0, NULL);
    if (job == NULL) {
        log_error("block not forgotten", "reason=\"no memory\"");
        return;
    }
    job->record.key = *key;
    job->place = place;
    mailbox_post(disk->jobs, &job->mail);
}

void disk_count(const struct disk *disk, struct disk_counters *counters_out)
{
    *counters_out = (struct disk_counters){
        .bytes = atomic_load(&disk->bytes),
        .bytes_max = disk->options.bytes_max,
        .records = atomic_load(&disk->records),
        .written = atomic_load(&disk->written),
        .dropped = atomic_load(&disk->dropped),
        .read = atomic_load(&disk->reads),
        .evicted = atomic_load(&disk->evicted),
        .compacted = atomic_load(&disk->compacted),
        .corrupt = atomic_load(&disk->corrupt),
        .failures = atomic_load(&disk->failures),
        .up = clock_ns() >= atomic_load(&disk->off_until_ns),
    };
}
