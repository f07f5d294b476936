/* worker/packed_path.h - where the packed weights of a model lie, for all its workers on a host.
 *
 *     off          nowhere: private memory
 *     auto         MODEL's folder, if this process may write there, else
 *                  $XDG_CACHE_HOME/baton, or ~/.cache/baton
 *     FOLDER       there
 *
 * The file is MODEL.KEY.packed, KEY being the first 16 digits of the model's fingerprint; a copy
 * for the workers on memory node N is MODEL.KEY.nodeN.packed.
 *
 * Threads: any. Memory: the caller's.
 */
#ifndef WORKER_PACKED_PATH_H
#define WORKER_PACKED_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define PACKED_PATH_BYTES 4096

/* node: of the copy; below 0: all workers share one. False: nowhere. A cache folder is made if it
 * is not there. */
bool packed_path_choose(const char *option, const char *model_path, const uint8_t *fingerprint,
                        int32_t node, char path_out[PACKED_PATH_BYTES]);

#endif
