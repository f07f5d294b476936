/* cli/store_options.h - the options that serve and store share, as rows of their tables. */
#ifndef CLI_STORE_OPTIONS_H
#define CLI_STORE_OPTIONS_H

#include <stddef.h>

#include "base/options.h"
#include "cli/worker_options.h"

#define STORE_SILENCE_MS_MIN 1000 /* workers give a sign of life four times in that time */

/* T: a struct whose fields bear the names, and have the types, of struct keeper_options. */
#define STORE_SIZE_ROWS(T)                                                                         \
    {"memory-bytes",                                                                               \
     OPTION_BYTES,                                                                                 \
     "BYTES",                                                                                      \
     "1G",                                                                                         \
     4096,                                                                                         \
     1e15,                                                                                         \
     offsetof(T, memory_bytes),                                                                    \
     "memory of the store's blocks"},                                                              \
        {"disk",                                                                                   \
         OPTION_TEXT,                                                                              \
         "FOLDER",                                                                                 \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         offsetof(T, disk),                                                                        \
         "folder for the store's blocks that outlives it; unset: memory only"},                    \
    {                                                                                              \
        "disk-bytes", OPTION_BYTES, "BYTES", "8G", 4096, 1e15, offsetof(T, disk_bytes),            \
            "most bytes of that folder's files"                                                    \
    }

#endif
