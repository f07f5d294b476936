#include "engine/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
#define LINE_BYTES 512

/* A file with one number; UINT64_MAX when it is not there or says "max". */
static uint64_t number_read(const char *folder, const char *name)
{
    char path[PATH_BYTES + 64];
    uint64_t value;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    bool found = fscanf(file, "%" SCNu64, &value) == 1;
    fclose(file);
    return found ? value : UINT64_MAX;
}

/* The number after a word at the start of a line; UINT64_MAX when there is none. */
static uint64_t field_read(const char *path, const char *word)
{
    char line[LINE_BYTES];
    uint64_t value = UINT64_MAX;
    size_t word_bytes = strlen(word);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return UINT64_MAX;
    while (value == UINT64_MAX && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, word, word_bytes) == 0)
            value = strtoull(line + word_bytes, NULL, 10);
    }
    fclose(file);
    return value;
}

static uint64_t group_left(const char *folder, const char *limit_name, const char *used_name,
                           const char *cache_word)
{
    char path[PATH_BYTES + 64];
    uint64_t limit = number_read(folder, limit_name);
    uint64_t used = number_read(folder, used_name);
    if (limit == UINT64_MAX || used == UINT64_MAX)
        return UINT64_MAX;
    snprintf(path, sizeof(path), "%s/memory.stat", folder);
    uint64_t cache = field_read(path, cache_word);
    if (cache != UINT64_MAX)
        used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The group of this process under root and every group above it. */
static uint64_t groups_left(const char *root, const char *own, const char *limit_name,
                            const char *used_name, const char *cache_word)
{
    char folder[PATH_BYTES];
    uint64_t left = UINT64_MAX;
    if (snprintf(folder, sizeof(folder), "%s%s", root, own) >= (int)sizeof(folder))
        return left;
    for (;;) {
        left = least(left, group_left(folder, limit_name, used_name, cache_word));
        char *slash = strrchr(folder, '/');
        if (slash == NULL || (size_t)(slash - folder) < strlen(root))
            return left;
        *slash = '\0';
    }
}

uint64_t memory_available_bytes(void)
{
    char line[LINE_BYTES];
    uint64_t left = field_read("/proc/meminfo", "MemAvailable:");
    if (left != UINT64_MAX)
        left = left > UINT64_MAX / 1024 ? UINT64_MAX : left * 1024;

    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return left;
    while (fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *own = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (own == NULL)
            continue;
        *own++ = '\0';
        controllers++;
        if (controllers[0] == '\0')
            left = least(left, groups_left("/sys/fs/cgroup", own, "memory.max", "memory.current",
                                           "inactive_file "));
        else if (strcmp(controllers, "memory") == 0)
            left = least(left, groups_left("/sys/fs/cgroup/memory", own, "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_inactive_file "));
    }
    fclose(file);
    return left;
}
