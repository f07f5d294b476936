#include <signal.h>
#include <sys/resource.h>

#include "cli/commands.h"

/* A descriptor for each connection; the soft limit is for programs that use select. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    /* A peer that hangs up is an error of one write, never the end of the process. */
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    return commands_run(argc, argv);
}
