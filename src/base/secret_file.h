/* base/secret_file.h - a short file that only its owner may use: a key, a password.
 *
 * Threads:  any; reads from the disk, so call it at start.
 * Memory:   the text is the caller's, who wipes it.
 */
#ifndef BASE_SECRET_FILE_H
#define BASE_SECRET_FILE_H

#include <stddef.h>

#include "base/status.h"

/* Its bytes, or the first capacity of them, without a NUL. what: the start of messages, such as
 * "the cluster key file"; they name the path, and never what is in it. Errors: ERR_NOT_FOUND,
 * ERR_IO, ERR_BAD_INPUT (no regular file), ERR_REFUSED (others than its owner may read or write it,
 * or its owner is neither this process' user nor root). */
status secret_file_read(const char *path, const char *what, char *text, size_t capacity,
                        size_t *bytes_out);

#endif
