#include <signal.h>

#include "cli/commands.h"

int main(int argc, char **argv)
{
    /* A peer that hangs up is an error of one write, never the end of the process. */
    signal(SIGPIPE, SIG_IGN);
    return commands_run(argc, argv);
}
