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

/* error_set(code, format, ...): write the message and give code, so that a caller can say:
 *     return error_set(ERR_IO, "expected %u bytes, found %u", ...);
 * error_prefix(code, format, ...): put words before the message that is there: "words: message".
 * The arguments may hold error_text() itself. They are macros so that compilers and checkers see
 * which code comes back. */
#define error_set(code, ...) error_code((error_write(__VA_ARGS__), (code)))
#define error_prefix(code, ...) error_code((error_write_prefix(__VA_ARGS__), (code)))

void error_write(const char *format, ...) __attribute__((format(printf, 1, 2)));
void error_write_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline status error_code(status code)
{
    return code;
}

/* The last message of this thread; "" when there was none. Valid until the next error_set. */
const char *error_text(void);

#endif
