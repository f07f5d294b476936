#include "base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define ARENA_CHUNK_BYTES 16384

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    size_t bytes;
    alignas(max_align_t) unsigned char data[];
};

struct arena {
    struct arena_chunk *chunks; /* newest first; only the newest has room */
    size_t used_bytes;
    size_t limit_bytes;
};

status arena_open(size_t limit_bytes, struct arena **arena_out)
{
    struct arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an arena");
    arena->limit_bytes = limit_bytes;
    *arena_out = arena;
    return OK;
}

void arena_close(struct arena *arena)
{
    if (arena == NULL)
        return;
    while (arena->chunks != NULL) {
        struct arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    free(arena);
}

void *arena_take(struct arena *arena, size_t bytes)
{
    size_t step = alignof(max_align_t);
    if (bytes > SIZE_MAX / 2)
        return NULL;
    size_t rounded = (bytes + step - 1) / step * step;
    if (rounded > arena->limit_bytes - arena->used_bytes)
        return NULL;

    struct arena_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->bytes - chunk->used < rounded) {
        size_t want = rounded > ARENA_CHUNK_BYTES ? rounded : ARENA_CHUNK_BYTES;
        chunk = malloc(sizeof(*chunk) + want);
        if (chunk == NULL)
            return NULL;
        chunk->used = 0;
        chunk->bytes = want;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    void *piece = chunk->data + chunk->used;
    chunk->used += rounded;
    arena->used_bytes += rounded;
    memset(piece, 0, rounded);
    return piece;
}

void *arena_take_array(struct arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / 2 / size)
        return NULL;
    return arena_take(arena, count * size);
}

char *arena_copy(struct arena *arena, const char *text, size_t bytes)
{
    char *copy = bytes < SIZE_MAX ? arena_take(arena, bytes + 1) : NULL;
    if (copy != NULL && bytes > 0)
        memcpy(copy, text, bytes);
    return copy;
}

size_t arena_used_bytes(const struct arena *arena)
{
    return arena->used_bytes;
}
