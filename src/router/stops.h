/* router/stops.h - stop strings in text that comes in pieces.
 *
 *     text so far   | sent to the client | held: might be the beginning of a stop string |
 *
 * Text is held back only as far as it could still become a stop string; the stop string itself, and
 * what comes after it, is never sent.
 *
 * Threads: one. Memory: held text is the stops', until stops_close; strings stay the caller's.
 */
#ifndef ROUTER_STOPS_H
#define ROUTER_STOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct stop_string {
    const char *text;
    size_t bytes; /* at least 1 */
};

struct stops {
    const struct stop_string *strings;
    uint32_t count;
    char *held;
    size_t held_bytes, held_capacity;
};

void stops_open(struct stops *stops, const struct stop_string *strings, uint32_t count);
void stops_close(struct stops *stops);

/* Add text. Afterwards stops->held[0 .. *free_bytes_out) may be sent, and is to be taken away with
 * stops_take. *stopped_out: a stop string is complete; what follows free bytes is never sent.
 * Errors: ERR_NO_MEMORY. */
status stops_push(struct stops *stops, const char *text, size_t bytes, size_t *free_bytes_out,
                  bool *stopped_out);
void stops_take(struct stops *stops, size_t bytes);

#endif
