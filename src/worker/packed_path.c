#include "worker/packed_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the system's environment says about this user's caches; "" when it says nothing. */
static void cache_folder(char folder_out[PACKED_PATH_BYTES])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char parent[PACKED_PATH_BYTES - 16] = "";
    folder_out[0] = '\0';
    if (cache != NULL && cache[0] == '/')
        snprintf(parent, sizeof(parent), "%s", cache);
    else if (home != NULL && home[0] == '/')
        snprintf(parent, sizeof(parent), "%s/.cache", home);
    if (parent[0] == '\0')
        return;
    (void)mkdir(parent, 0700);
    snprintf(folder_out, PACKED_PATH_BYTES, "%s/baton", parent);
    (void)mkdir(folder_out, 0700);
}

bool packed_path_choose(const char *option, const char *model_path, const uint8_t *fingerprint,
                        int32_t node, char path_out[PACKED_PATH_BYTES])
{
    char folder[PACKED_PATH_BYTES], key[17], copy[24] = "";
    const char *slash = strrchr(model_path, '/');
    const char *name = slash != NULL ? slash + 1 : model_path;
    if (strcmp(option, "off") == 0)
        return false;
    if (strcmp(option, "auto") != 0) {
        snprintf(folder, sizeof(folder), "%s", option);
    } else {
        snprintf(folder, sizeof(folder), "%.*s", slash != NULL ? (int)(slash - model_path) : 1,
                 slash != NULL ? model_path : ".");
        if (access(folder[0] != '\0' ? folder : "/", W_OK) != 0)
            cache_folder(folder);
        if (folder[0] == '\0' && model_path[0] != '/')
            return false;
    }
    for (int i = 0; i < 8; i++)
        snprintf(key + 2 * i, 3, "%02x", fingerprint[i]);
    if (node >= 0)
        snprintf(copy, sizeof(copy), ".node%d", node);
    return snprintf(path_out, PACKED_PATH_BYTES, "%s/%s.%s%s.packed", folder, name, key, copy) <
           PACKED_PATH_BYTES;
}
