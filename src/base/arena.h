/* base/arena.h - memory of one request: many small pieces, freed at once.
 *
 * Threads: one at a time. Memory: pieces live until arena_close; there is a limit on their sum.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/status.h"

struct arena;

/* limit_bytes bounds all that will be taken, each piece rounded up to the alignment. Errors:
 * ERR_NO_MEMORY. */
status arena_open(size_t limit_bytes, struct arena **arena_out);
void arena_close(struct arena *arena);

/* bytes of zeroed memory aligned for any type; NULL when the limit or the system refuses. */
void *arena_take(struct arena *arena, size_t bytes);

/* count * size, NULL on overflow too. */
void *arena_take_array(struct arena *arena, size_t count, size_t size);

/* A copy of bytes bytes and a NUL after them. */
char *arena_copy(struct arena *arena, const char *text, size_t bytes);

size_t arena_used_bytes(const struct arena *arena);

#endif
