#include "backend/device.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

#define PLUGIN_FILE "baton-cuda.so"
#define PLUGIN_PATHS 2

static const struct backend_plugin_host host = {.version = BACKEND_PLUGIN_VERSION,
                                                .error_write = error_write};

/* Where a plug-in may be: beside the binary, and in the library folder beside the binary's. */
static void paths_fill(char paths[PLUGIN_PATHS][PATH_MAX])
{
    char binary[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", binary, sizeof(binary) - 1);
    binary[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(binary, '/');
    if (slash != NULL)
        *slash = '\0';
    snprintf(paths[0], PATH_MAX, "%s/" PLUGIN_FILE, binary);
    snprintf(paths[1], PATH_MAX, "%s/../lib/baton/" PLUGIN_FILE, binary);
}

static status plugin_take(void *library, const char *path, const struct backend_plugin **plugin_out)
{
    backend_plugin_entry entry;
    void *symbol = dlsym(library, BACKEND_PLUGIN_SYMBOL);
    if (symbol == NULL)
        return error_set(ERR_UNSUPPORTED, "%s: not a backend of baton: it has no %s", path,
                         BACKEND_PLUGIN_SYMBOL);
    memcpy(&entry, &symbol, sizeof(entry));
    const struct backend_plugin *plugin = entry(&host);
    if (plugin == NULL || plugin->version != BACKEND_PLUGIN_VERSION)
        return error_set(ERR_UNSUPPORTED,
                         "%s: expected a backend of version %u, found another; build both together",
                         path, BACKEND_PLUGIN_VERSION);
    *plugin_out = plugin;
    return OK;
}

static status plugin_load(const char *path, const struct backend_plugin **plugin_out)
{
    char paths[PLUGIN_PATHS][PATH_MAX];
    uint32_t count = PLUGIN_PATHS;
    paths_fill(paths);
    if (path != NULL) {
        snprintf(paths[0], PATH_MAX, "%s", path);
        count = 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (access(paths[i], R_OK) != 0)
            continue;
        void *library = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL)
            return error_set(ERR_UNSUPPORTED,
                             "cannot load %s: %s; CUDA's libraries (cublasLt 13) must be where the "
                             "loader looks, for example in LD_LIBRARY_PATH",
                             paths[i], dlerror());
        return plugin_take(library, paths[i], plugin_out);
    }
    return error_set(ERR_NOT_FOUND,
                     "no CUDA backend: expected %s%s%s; build it with make cuda, or say where it "
                     "is with --cuda-plugin",
                     paths[0], count > 1 ? " or " : "", count > 1 ? paths[1] : "");
}

status device_find(const char *word, const char *path, struct device *device_out)
{
    struct device device = {.plugin = NULL};
    if (strcmp(word, "cpu") == 0) {
        *device_out = device;
        return OK;
    }
    char *end = NULL;
    unsigned long index = 0;
    if (strncmp(word, "cuda:", 5) == 0 && word[5] >= '0' && word[5] <= '9')
        index = strtoul(word + 5, &end, 10);
    if (strcmp(word, "cuda") != 0 && (end == NULL || *end != '\0' || index > 1023))
        return error_set(ERR_BAD_INPUT, "--device: expected cpu, cuda or cuda:N, found \"%s\"",
                         word);
    status code = plugin_load(path, &device.plugin);
    if (code != OK)
        return code;
    device.index = (uint32_t)index;
    *device_out = device;
    return OK;
}

status device_memory(const struct device *device, uint64_t *available_out)
{
    if (device->plugin != NULL)
        return device->plugin->memory(device->index, available_out);
    *available_out = 0;
    return OK;
}

status device_open(const struct device *device, const struct backend_shape *shape,
                   const struct backend_limits *limits, const struct device_options *options,
                   struct backend **backend_out)
{
    if (device->plugin == NULL)
        return backend_cpu_open(shape, limits, &options->cpu, backend_out);
    const struct backend_plugin_options plugin = {.device = device->index,
                                                  .deterministic = options->deterministic,
                                                  .staged = options->staged};
    return device->plugin->open(shape, limits, &plugin, backend_out);
}
