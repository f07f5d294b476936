/* base/error.h - the message that goes with a failed status.
 *
 * One message a thread, written by the first function that knows the cause and read by the owner of
 * the request. A message says what was expected, what was found, and what to do about it.
 *
 * Threads: any; each has its own message.
 * Memory:  ERROR_TEXT_BYTES of thread-local storage; longer messages are cut.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "base/status.h"

#define ERROR_TEXT_BYTES 1024

/* Write the message and return code, so that a caller can say: return error_set(ERR_IO, ...). */
status error_set(status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put words before the message that is there: error_prefix("cannot open %s", path). Returns code. */
status error_prefix(status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The last message of this thread; "" when there was none. Valid until the next error_set. */
const char *error_text(void);

#endif
