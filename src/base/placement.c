#include "base/placement.h"

#include <dlfcn.h>
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/cpus.h"
#include "base/error.h"

/* The kernel reads one bit less than it is told of. */
#define MASK_BITS (64u + 1u)

struct calls {
    __typeof__(&numa_available) available;
    __typeof__(&mbind) mbind;
    __typeof__(&set_mempolicy) set_mempolicy;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct calls calls;
static char missing[256]; /* why there are no calls; "" when there are */

static void calls_load(void)
{
    void *library = dlopen("libnuma.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL) {
        snprintf(missing, sizeof(missing), "%s", dlerror());
        return;
    }
    void *found[] = {dlsym(library, "numa_available"), dlsym(library, "mbind"),
                     dlsym(library, "set_mempolicy")};
    if (found[0] == NULL || found[1] == NULL || found[2] == NULL) {
        snprintf(missing, sizeof(missing), "libnuma.so.1 lacks calls");
        return;
    }
    memcpy(&calls.available, &found[0], sizeof(found[0]));
    memcpy(&calls.mbind, &found[1], sizeof(found[1]));
    memcpy(&calls.set_mempolicy, &found[2], sizeof(found[2]));
    if (calls.available() < 0)
        snprintf(missing, sizeof(missing),
                 "libnuma says that it is not available: the kernel lacks memory policies, or does "
                 "not allow them here");
}

static status calls_there(void)
{
    (void)pthread_once(&once, calls_load);
    return missing[0] == '\0' ? OK : error_set(ERR_UNSUPPORTED, "%s", missing);
}

static int mode_of(uint64_t nodes)
{
    if (nodes == 0)
        return MPOL_DEFAULT;
    return (nodes & (nodes - 1)) == 0 ? MPOL_PREFERRED : MPOL_INTERLEAVE;
}

static status refused(const char *call, uint64_t nodes)
{
    char text[256];
    int error = errno;
    placement_text(nodes, text, sizeof(text));
    return error_set(error == EPERM || error == ENOSYS ? ERR_UNSUPPORTED : ERR_IO,
                     "%s refuses %s: %s%s", call, text, strerror(error),
                     error == EPERM ? "; a container needs CAP_SYS_NICE for it" : "");
}

status placement_apply(void *base, size_t bytes, uint64_t nodes)
{
    unsigned long mask = nodes;
    status st = calls_there();
    if (st == OK &&
        calls.mbind(base, bytes, mode_of(nodes), nodes != 0 ? &mask : NULL, MASK_BITS, 0) != 0)
        st = refused("mbind", nodes);
    return st;
}

status placement_thread(uint64_t nodes)
{
    unsigned long mask = nodes;
    status st = calls_there();
    if (st == OK && calls.set_mempolicy(mode_of(nodes), nodes != 0 ? &mask : NULL, MASK_BITS) != 0)
        st = refused("set_mempolicy", nodes);
    return st;
}

void placement_text(uint64_t nodes, char *text_out, size_t text_bytes)
{
    struct cpus list = {.count = 0};
    char numbers[200];
    for (uint32_t id = 0; id < 64; id++) {
        if ((nodes >> id & 1) != 0)
            list.ids[list.count++] = id;
    }
    cpus_format(&list, numbers, sizeof(numbers));
    snprintf(text_out, text_bytes, "%s%s",
             nodes == 0       ? "default"
             : list.count > 1 ? "interleave:"
                              : "prefer:",
             numbers);
}
