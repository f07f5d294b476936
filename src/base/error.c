#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_buffer[ERROR_TEXT_BYTES];

const char *status_name(status code)
{
    switch (code) {
    case OK:
        return "ok";
    case ERR_NO_MEMORY:
        return "no memory";
    case ERR_FULL:
        return "full";
    case ERR_BAD_INPUT:
        return "bad input";
    case ERR_NOT_FOUND:
        return "not found";
    case ERR_IO:
        return "input/output error";
    case ERR_CLOSED:
        return "closed";
    case ERR_TIMEOUT:
        return "timeout";
    case ERR_REFUSED:
        return "refused";
    case ERR_UNSUPPORTED:
        return "unsupported";
    case ERR_CORRUPT:
        return "corrupt";
    case ERR_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

void error_write(const char *format, ...)
{
    /* Through a copy: the arguments may hold error_text() itself. */
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    memcpy(error_buffer, text, strlen(text) + 1);
}

void error_write_prefix(const char *format, ...)
{
    char prefix[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof(prefix), format, args);
    va_end(args);

    size_t used = strlen(prefix);
    snprintf(prefix + used, sizeof(prefix) - used, ": %s", error_buffer);
    memcpy(error_buffer, prefix, strlen(prefix) + 1);
}

const char *error_text(void)
{
    return error_buffer;
}
