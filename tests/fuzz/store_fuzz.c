/* What a store reads from others: the first byte of an input picks who hears the rest.
 *     0 layout   1 keys   2 records   3 want   4 answer   5 delete   6 stats   7 a segment file
 * 8 the same, behind a head that is right: its records   9 an export   10 a value in Redis
 * 11 a value in Redis, behind a head that is right but for its checksum. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "store/disk.h"
#include "store/disk_parts.h"
#include "store/export.h"
#include "store/redis_value.h"
#include "wire/store.h"

static uint64_t sink; /* so that what was decoded is read */
static char folder[] = "/tmp/baton-fuzz-XXXXXX";

static void read_layout(const uint8_t *data, size_t bytes)
{
    struct wire_store_layout layout;
    if (wire_store_layout_decode(data, bytes, &layout) != OK)
        return;
    for (uint32_t i = 0; i < layout.layer_count; i++) {
        uint64_t offset, size;
        wire_store_layer(&layout, i, &offset, &size);
        sink += offset + size;
    }
    sink += strlen(layout.text) + strlen(layout.transfer_unix) + strlen(layout.transfer_tcp);
}

static void read_ask(const uint8_t *data, size_t bytes, uint32_t item_bytes)
{
    struct wire_store_ask ask;
    if (wire_store_ask_decode(data, bytes, item_bytes, &ask) != OK)
        return;
    for (size_t i = 0; i < (size_t)ask.count * item_bytes; i++)
        sink += ask.items[i];
}

static void on_found(void *ctx, const struct disk_record *record, struct disk_place place)
{
    const struct disk_shape *shape = ctx;
    for (uint32_t i = 0; i < shape->layer_count; i++)
        sink += record->checksums[i].a;
    sink += record->key.bytes[0] + place.record;
}

static void read_segment(const uint8_t *data, size_t bytes, bool behind_head)
{
    static struct transfer_slice layers[2] = {{0, 100}, {100, 100}};
    struct disk_shape shape = {.hello = {.parts = HELLO_HAS_MODEL | HELLO_HAS_KV, .ranks = 1},
                               .block_bytes = 200,
                               .layer_count = 2,
                               .layers = layers};
    struct disk_shape learned;
    struct disk_format format;
    struct segment *segment = NULL;
    uint64_t corrupt;
    char name[32];
    disk_format_of(&shape, 1 << 20, &format);
    if (folder[sizeof(folder) - 2] == 'X' && mkdtemp(folder) == NULL)
        return;
    int folder_fd = open(folder, O_RDONLY | O_DIRECTORY);
    segment_name(3, name);
    unlinkat(folder_fd, name, 0);
    if (behind_head && segment_make(&format, folder_fd, 3, &segment) == OK)
        segment_close(segment);
    int fd = openat(folder_fd, name, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0 && pwrite(fd, data, bytes, behind_head ? format.head_bytes : 0) >= 0) {
        if (segment_learn(folder_fd, name, &learned, NULL) == OK)
            free(learned.layers);
        if (segment_open(&format, folder_fd, 3, on_found, &shape, &segment, &corrupt) == OK)
            segment_close(segment);
    }
    if (fd >= 0)
        close(fd);
    unlinkat(folder_fd, name, 0);
    close(folder_fd);
}

static void read_export(const uint8_t *data, size_t bytes)
{
    char path[64];
    struct export *export;
    if (folder[sizeof(folder) - 2] == 'X' && mkdtemp(folder) == NULL)
        return;
    snprintf(path, sizeof(path), "%s/export", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes && export_open(path, &export) == OK) {
        uint8_t *block = malloc((size_t)export_shape(export)->block_bytes);
        for (uint32_t i = 0; block != NULL && i < export_count(export); i++) {
            struct disk_record record;
            if (export_get(export, i, &record, block) == OK)
                sink += record.key.bytes[0] + block[0];
        }
        free(block);
        export_close(export);
    }
    if (fd >= 0)
        close(fd);
    unlink(path);
}

static void read_value(const uint8_t *data, size_t bytes, bool behind_head)
{
    static const struct block_key key;
    uint8_t value[REDIS_VALUE_HEAD_BYTES + 200], to[200];
    if (behind_head) {
        memset(to, 7, sizeof(to));
        redis_value_write(&key, NULL, to, sizeof(to), value);
        memcpy(value + REDIS_VALUE_HEAD_BYTES, data, bytes < sizeof(to) ? bytes : sizeof(to));
        data = value;
        bytes = bytes < sizeof(to) ? REDIS_VALUE_HEAD_BYTES + bytes : sizeof(value);
    }
    if (redis_value_land(data, bytes, &key, to, sizeof(to)) == OK)
        sink += to[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct wire_store_want want;
    struct wire_store_leave leave;
    struct wire_store_answer answer;
    struct wire_store_delete delete;
    struct wire_store_stats stats;
    if (bytes == 0)
        return 0;
    unsigned which = data[0];
    data++;
    bytes--;
    switch (which) {
    case 0:
        read_layout(data, bytes);
        break;
    case 1:
        read_ask(data, bytes, WIRE_STORE_KEY_BYTES);
        break;
    case 2:
        read_ask(data, bytes, WIRE_STORE_RECORD_BYTES);
        break;
    case 3:
        if (wire_store_want_decode(data, bytes, &want) == OK)
            sink += want.first + want.count;
        if (wire_store_leave_decode(data, bytes, &leave) == OK)
            sink += leave.number;
        break;
    case 4:
        if (wire_store_answer_decode(data, bytes, &answer) == OK)
            sink += answer.count + strlen(answer.text);
        break;
    case 5:
        if (wire_store_delete_decode(data, bytes, &delete) == OK)
            sink += delete.scope;
        break;
    case 6:
        if (wire_store_stats_decode(data, bytes, &stats) == OK)
            sink += stats.keys;
        break;
    case 7:
    case 8:
        read_segment(data, bytes, which == 8);
        break;
    case 9:
        read_export(data, bytes);
        break;
    case 10:
    case 11:
        read_value(data, bytes, which == 11);
        break;
    }
    return 0;
}
