/* cli/serve_folder.h - the folder of a running serve: the Unix sockets of its router and workers.
 *
 *     $XDG_RUNTIME_DIR or /tmp
 *       baton-aQ3x9Z/      locked (flock) as long as its serve lives
 *         router.sock  prefill-0.sock  decode-0.sock
 *
 * Only its user may enter it. What a serve that was killed left behind is removed by the next one.
 *
 * Threads: one. Memory: a plain struct of the caller.
 */
#ifndef CLI_SERVE_FOLDER_H
#define CLI_SERVE_FOLDER_H

#include "base/status.h"

#define SERVE_FOLDER_BYTES 64 /* leaves room for a socket's name in a Unix address */

struct serve_folder {
    char path[SERVE_FOLDER_BYTES];
    int lock_fd; /* -1: there is no folder */
};

/* Make a new one, after removing those whose serve is gone. Errors: ERR_IO. */
status serve_folder_open(struct serve_folder *folder_out);

/* Remove it, with the sockets of children that were killed. */
void serve_folder_close(struct serve_folder *folder);

#endif
