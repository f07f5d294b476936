/* cli/cluster_options.h - the option of every process that proves the cluster key (wire/auth.h). */
#ifndef CLI_CLUSTER_OPTIONS_H
#define CLI_CLUSTER_OPTIONS_H

#include <stddef.h>

#include "base/options.h"

/* T: a struct with `const char *cluster_key`, for cluster_key_open. */
#define CLUSTER_KEY_ROW(T)                                                                         \
    {                                                                                              \
        "cluster-key", OPTION_TEXT, "FILE", NULL, 0, 0, offsetof(T, cluster_key),                  \
            "key file that all processes of the cluster prove to each other; `baton key` makes "   \
            "one"                                                                                  \
    }

#endif
