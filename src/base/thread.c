#include "base/thread.h"

#include <signal.h>
#include <string.h>

#include "base/error.h"

status thread_start(const char *name, void *(*run)(void *ctx), void *ctx, pthread_t *thread_out)
{
    static const int raised[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof(raised) / sizeof(raised[0]); i++)
        sigdelset(&blocked, raised[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int rc = pthread_create(thread_out, NULL, run, ctx);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return error_set(ERR_NO_MEMORY, "cannot start thread %s: %s", name, strerror(rc));
    (void)pthread_setname_np(*thread_out, name);
    return OK;
}
