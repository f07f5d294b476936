#include "transfer/ucx.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "base/error.h"

/* What UCX reads while it is being loaded. An operator's own words stay. */
static void ucx_set_environment(void)
{
    static const char *const settings[][2] = {
        {"UCX_HANDLE_ERRORS", "none"}, /* no handlers of SIGSEGV and the like */
        {"UCX_DEBUG_SIGNO", "0"},      /* SIGHUP is not for UCX */
        {"UCX_VFS_ENABLE", "n"},       /* no thread */
        {"UCX_MEM_EVENTS", "n"},       /* no hooks in libc: we register our memory, and once */
        {"UCX_LOG_FILE", "stderr"},
        {"UCX_LOG_LEVEL", "fatal"}, /* errors are told to us, and we tell them with their cause */
    };
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        setenv(settings[i][0], settings[i][1], 0);
}

status ucx_load(const struct ucx **ucx_out)
{
    static struct ucx loaded;
    static const struct {
        const char *name;
        void **place;
    } calls[] = {
#define UCX_ROW(name) {#name, (void **)&loaded.name},
        UCX_CALLS(UCX_ROW)
#undef UCX_ROW
    };
    ucx_set_environment();
    void *library = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL)
        return error_set(ERR_UNSUPPORTED,
                         "carrier rdma needs UCX (%s); install libucx0, or use tcp", dlerror());
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        *calls[i].place = dlsym(library, calls[i].name);
        if (*calls[i].place == NULL)
            return error_set(ERR_UNSUPPORTED, "libucp.so.0 has no %s; carrier rdma needs UCX 1.13",
                             calls[i].name);
    }
    *ucx_out = &loaded;
    return OK;
}
