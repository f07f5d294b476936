#include "router/stops.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void stops_open(struct stops *stops, const struct stop_string *strings, uint32_t count)
{
    *stops = (struct stops){.strings = strings, .count = count};
}

void stops_close(struct stops *stops)
{
    free(stops->held);
    stops->held = NULL;
    stops->held_bytes = stops->held_capacity = 0;
}

/* Where the stop string begins that is complete first (of those that end together, the longest), as
 * if the text had come byte by byte: how it was cut does not matter. held_bytes: there is none. */
static size_t stops_find(const struct stops *stops)
{
    size_t begin = stops->held_bytes, end = SIZE_MAX;
    for (uint32_t i = 0; i < stops->count; i++) {
        const char *at =
            memmem(stops->held, stops->held_bytes, stops->strings[i].text, stops->strings[i].bytes);
        if (at == NULL)
            continue;
        size_t from = (size_t)(at - stops->held), to = from + stops->strings[i].bytes;
        if (to < end || (to == end && from < begin)) {
            begin = from;
            end = to;
        }
    }
    return begin;
}

/* The longest end of what is held that begins a stop string. */
static size_t stops_open_end(const struct stops *stops)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < stops->count; i++) {
        size_t most = stops->strings[i].bytes - 1;
        if (most > stops->held_bytes)
            most = stops->held_bytes;
        for (size_t n = most; n > longest; n--) {
            if (memcmp(stops->held + stops->held_bytes - n, stops->strings[i].text, n) == 0) {
                longest = n;
                break;
            }
        }
    }
    return longest;
}

status stops_push(struct stops *stops, const char *text, size_t bytes, size_t *free_bytes_out,
                  bool *stopped_out)
{
    if (bytes > stops->held_capacity - stops->held_bytes) {
        size_t capacity = (stops->held_bytes + bytes) * 2 + 64;
        char *held = realloc(stops->held, capacity);
        if (held == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for held text");
        stops->held = held;
        stops->held_capacity = capacity;
    }
    if (bytes > 0)
        memcpy(stops->held + stops->held_bytes, text, bytes);
    stops->held_bytes += bytes;

    if (stops->held_bytes == 0) {
        *free_bytes_out = 0;
        *stopped_out = false;
        return OK;
    }
    size_t found = stops_find(stops);
    *stopped_out = found < stops->held_bytes;
    *free_bytes_out = *stopped_out ? found : stops->held_bytes - stops_open_end(stops);
    return OK;
}

void stops_take(struct stops *stops, size_t bytes)
{
    if (bytes == 0)
        return;
    if (bytes == 0)
        return;
    memmove(stops->held, stops->held + bytes, stops->held_bytes - bytes);
    stops->held_bytes -= bytes;
}
