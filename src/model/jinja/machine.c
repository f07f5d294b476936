#include "model/jinja/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define BYTES_PER_STEP 64

status machine_run(struct machine *m, void (*body)(struct machine *m, void *context), void *context)
{
    if (setjmp(m->escape) != 0)
        return m->code;
    body(m, context);
    return OK;
}

_Noreturn void machine_fail(struct machine *m, status code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    m->code = error_set(code, "chat template line %u: %s", m->line, text);
    longjmp(m->escape, 1);
}

_Noreturn void machine_refuse(struct machine *m, const char *message, size_t bytes)
{
    int cut = bytes < ERROR_TEXT_BYTES ? (int)bytes : ERROR_TEXT_BYTES;
    m->code = error_set(ERR_REFUSED, "%.*s", cut, message);
    longjmp(m->escape, 1);
}

void machine_spend(struct machine *m, uint64_t steps)
{
    if (steps > m->steps_left) {
        m->steps_left = 0;
        machine_fail(m, ERR_FULL, "more steps than a render may take; shorten the conversation");
    }
    m->steps_left -= steps;
}

void machine_spend_bytes(struct machine *m, size_t bytes)
{
    machine_spend(m, bytes / BYTES_PER_STEP);
}

void machine_enter(struct machine *m)
{
    if (m->depth >= m->depth_limit)
        machine_fail(m, ERR_FULL, "nested more than %u levels deep", m->depth_limit);
    m->depth++;
}

void machine_leave(struct machine *m)
{
    m->depth--;
}

void *machine_take(struct machine *m, size_t bytes)
{
    /* The arena clears what it gives, so large pieces cost time too. */
    machine_spend_bytes(m, bytes);
    void *piece = arena_take(m->arena, bytes);
    if (piece == NULL)
        machine_fail(m, ERR_FULL, "more memory than a render may take (%zu bytes are in use)",
                     arena_used_bytes(m->arena));
    return piece;
}

void *machine_take_array(struct machine *m, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        machine_fail(m, ERR_FULL, "more memory than a render may take");
    return machine_take(m, bytes);
}

void *machine_grow(struct machine *m, void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    size_t wanted = *room == 0 ? 4 : *room * 2;
    void *larger = machine_take_array(m, wanted, size);
    if (count > 0)
        memcpy(larger, array, count * size);
    *room = wanted;
    return larger;
}

void output_write(struct machine *m, const char *data, size_t bytes)
{
    struct output *out = &m->output;
    if (bytes == 0)
        return;
    machine_spend_bytes(m, bytes);
    if (bytes > out->limit_bytes - out->used)
        machine_fail(m, ERR_FULL, "more output than %zu bytes", out->limit_bytes);
    if (bytes > out->room - out->used) {
        size_t room = out->room == 0 ? 4096 : out->room * 2;
        while (room - out->used < bytes)
            room *= 2;
        char *larger = realloc(out->data, room);
        if (larger == NULL)
            machine_fail(m, ERR_NO_MEMORY, "no memory for %zu bytes of output", room);
        out->data = larger;
        out->room = room;
    }
    memcpy(out->data + out->used, data, bytes);
    out->used += bytes;
}
