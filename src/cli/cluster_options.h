/* cli/cluster_options.h - options of several commands that name a file with a secret. */
#ifndef CLI_CLUSTER_OPTIONS_H
#define CLI_CLUSTER_OPTIONS_H

#include <stddef.h>

#include "base/options.h"

/* T: a struct with `const char *cluster_key`, for cluster_key_open (wire/auth.h). */
#define CLUSTER_KEY_ROW(T)                                                                         \
    {                                                                                              \
        "cluster-key", OPTION_TEXT, "FILE", NULL, 0, 0, offsetof(T, cluster_key),                  \
            "key file that all processes of the cluster prove to each other; `baton key` makes "   \
            "one"                                                                                  \
    }

/* T: a struct with `const char *store_password_file`, for store_open (store/store.h). */
#define STORE_PASSWORD_ROW(T)                                                                      \
    {                                                                                              \
        "store-password-file", OPTION_TEXT, "FILE", NULL, 0, 0, offsetof(T, store_password_file),  \
            "file of mode 0600 with the password of --store redis://..., which no command line "   \
            "shows then; unset: that of the address, if any"                                       \
    }

#endif
