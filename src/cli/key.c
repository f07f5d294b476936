/* baton key: make the key that the processes of a cluster prove to each other. */
#include <stdio.h>

#include "base/error.h"
#include "cli/commands.h"
#include "wire/auth.h"

struct key_options {
    const char *out;
};

static const struct option_spec key_rows[] = {
    {"out", OPTION_TEXT, "FILE", NULL, 0, 0, offsetof(struct key_options, out),
     "the file to make; one that is there is never overwritten"},
};

static int key_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    const struct key_options *key = options;
    (void)operands, (void)operand_count;
    if (key->out == NULL) {
        fprintf(stderr, "baton key: --out is missing: say which file to make\n");
        return EXIT_USAGE;
    }
    if (cluster_key_make(key->out) != OK) {
        fprintf(stderr, "baton key: %s\n", error_text());
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

const struct command_spec key_command = {
    .name = "key",
    .operands = "",
    .summary = "make a cluster key",
    .details = "Draws 256 random bits and writes them to a new file that only its owner can read. "
               "Give the same file to every process of a cluster with --cluster-key: they then let "
               "in only who holds it, and encrypt what they say to each other over TCP. Copy it "
               "to other hosts by a way that nobody listens to, such as scp.",
    .options = key_rows,
    .option_count = sizeof(key_rows) / sizeof(key_rows[0]),
    .options_bytes = sizeof(struct key_options),
    .run = key_run,
};
