/* base/log.h - one line per event on standard error.
 *
 *     2026-11-23T10:00:00.123Z INFO decode-0 request=00f3a1 event="handoff landed" bytes=368640
 *
 * Values that people or peers chose are quoted by the caller's format ("%s" in double quotes) and
 * control characters in a line become '?'. The request id comes first when there is one.
 *
 * Threads: any. A line is one write(2), so lines of several processes do not mix.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Set once at start. name is the process's, for example "decode-0"; copied. */
void log_open(const char *name, enum log_level level);

/* "debug", "info", "warn", "error" to a level; -1 when it is none of these. */
int log_level_parse(const char *text);

/* request_id 0 means no request. event is a constant phrase; format gives key=value pairs. */
void log_line(enum log_level level, uint64_t request_id, const char *event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define log_debug(event, ...) log_line(LOG_DEBUG, 0, event, __VA_ARGS__)
#define log_info(event, ...) log_line(LOG_INFO, 0, event, __VA_ARGS__)
#define log_warn(event, ...) log_line(LOG_WARN, 0, event, __VA_ARGS__)
#define log_error(event, ...) log_line(LOG_ERROR, 0, event, __VA_ARGS__)

#endif
