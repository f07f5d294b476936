/* cli/commands.h - the subcommands of the one binary.
 *
 *     baton serve --port 8000 model.gguf
 *           |     `---------+----------'
 *           |               options_parse, from the command's own table
 *           commands_run finds the spec; spec->run does the work and gives the exit code
 *
 * Each command is one file that exports its spec; the list is in commands.c.
 *
 * Threads: the main one.
 */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "base/options.h"

/* Exit codes of the process, and of every command's run. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* The whole program: argv as main gets it. Answers the exit code. */
int commands_run(int argc, char **argv);

#endif
