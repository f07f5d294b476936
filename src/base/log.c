#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES 2048

static char log_name[32] = "baton";
static enum log_level log_threshold = LOG_INFO;

void log_open(const char *name, enum log_level level)
{
    snprintf(log_name, sizeof(log_name), "%s", name);
    log_threshold = level;
}

int log_level_parse(const char *text)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
    }
    return -1;
}

static size_t log_header(char *line, enum log_level level, uint64_t request_id, const char *event)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARN", "ERROR"};
    struct timespec now;
    struct tm utc;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
    int used = snprintf(line, LOG_LINE_BYTES, "%s.%03ldZ %s %s ", stamp, now.tv_nsec / 1000000,
                        names[level], log_name);
    if (request_id != 0)
        used += snprintf(line + used, LOG_LINE_BYTES - (size_t)used, "request=%016" PRIx64 " ",
                         request_id);
    used += snprintf(line + used, LOG_LINE_BYTES - (size_t)used, "event=\"%.200s\" ", event);
    return (size_t)used;
}

void log_line(enum log_level level, uint64_t request_id, const char *event, const char *format, ...)
{
    if (level < log_threshold)
        return;

    char line[LOG_LINE_BYTES];
    size_t used = log_header(line, level, request_id, event);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    va_end(args);
    if (more > 0)
        used += (size_t)more;
    if (used > sizeof(line) - 2)
        used = sizeof(line) - 2;
    for (size_t i = 0; i < used; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    while (used > 0 && line[used - 1] == ' ')
        used--;
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* A log that cannot be written has nowhere to complain. */
}
