/* base/options.h - command-line options, one table per subcommand.
 *
 * The table is the only place that knows an option: parsing, range checks, --help, the man page and
 * the configuration file all come from it.
 *
 *     struct decode_options { const char *router; uint64_t kv_bytes; uint32_t decode_batch; };
 *     static const struct option_spec specs[] = {
 *         {"router", OPTION_TEXT, "ADDR", "127.0.0.1:8001", 0, 0,
 *          offsetof(struct decode_options, router), "where the router listens for workers"},
 *         {"decode-batch", OPTION_UINT, "SEQUENCES", "64", 1, 1024,
 *          offsetof(struct decode_options, decode_batch), "most sequences in one decode step"},
 *     };
 *
 * Forms: --name VALUE, --name=VALUE, --flag, --no-flag, --flag=yes; what follows "--" is operands.
 * Every command also takes --config FILE and --help. Order of precedence: the command line, then
 * the configuration file (lines "name = value", '#' comments), then the default. A repeated option
 * on the command line replaces what the file lists. An unknown name, a missing or unparsable value
 * or one out of range is an error that names the option, what was expected and what was found (and
 * the nearest name, if one is near).
 *
 * Threads: the main one, at start. Memory: text values point into argv, into the table's defaults
 * or into what was read from the file; all live until exit.
 */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum option_type {
    OPTION_FLAG,    /* bool */
    OPTION_UINT,    /* uint32_t, min .. max */
    OPTION_BYTES,   /* uint64_t; 512, 64K, 1.5G: powers of 1024; min .. max */
    OPTION_REAL,    /* double, min .. max; "inf" when max allows it */
    OPTION_SECONDS, /* uint64_t milliseconds; written 500ms, 2s, 1m, or a plain number of seconds */
    OPTION_TEXT,    /* const char *; NULL when there is no default */
    OPTION_TEXTS,   /* struct option_texts; may be given several times; no default */
    OPTION_CHOICE,  /* uint32_t: the index of one of unit's words, which '|' separates */
};

/* What a repeated option was given, in order. */
struct option_texts {
    const char **items;
    uint32_t count;
};

struct option_spec {
    const char *name; /* without dashes */
    enum option_type type;
    const char *unit;         /* shown in help: "N", "BYTES", "ADDR"; NULL for a flag */
    const char *default_text; /* NULL: unset (0, false, NULL) */
    double min, max;          /* both 0: no limits but the type's */
    size_t offset;            /* of the field in the caller's struct */
    const char *help;         /* one sentence, lower case, no full stop; NULL: shown nowhere */
};

struct command_spec {
    const char *name;     /* "decode" */
    const char *operands; /* "MODEL", or "" */
    const char *summary;  /* one sentence for the list of commands */
    const char *details;  /* paragraphs for --help and the man page; may be NULL */
    const struct option_spec *options;
    size_t option_count;
    size_t options_bytes; /* size of the struct that the offsets are of */
    uint32_t operands_min, operands_max;
    const char *operands_instead; /* a text option that does without operands; or NULL */
    int (*run)(const void *options, const char *const *operands, uint32_t operand_count);
};

/* Fill options (options_bytes of it) from defaults, file and argv[0 .. argc), which starts after
 * the subcommand. operands_out: pointers into argv, at most operands_max. help_out: --help was
 * given (then nothing else is checked). Errors: ERR_BAD_INPUT, ERR_NOT_FOUND (no such file). */
status options_parse(const struct command_spec *command, int argc, char **argv, void *options,
                     const char **operands_out, uint32_t *operand_count_out, bool *help_out);

/* Word number index of an OPTION_CHOICE's words, which must have it; not ended by a zero. */
const char *option_word(const char *words, uint32_t index, int *bytes_out);

/* The one of count names (name_at gives each) that text was perhaps meant to be; NULL: none is
 * near. For messages that say: did you mean ...? */
const char *options_nearest(const char *text, const char *(*name_at)(const void *ctx, size_t i),
                            const void *ctx, size_t count);

/* Print usage, summary, details and every option with unit, default, limits and help. */
void options_help(const struct command_spec *command, FILE *to);

/* Print the same as a man page (man macros) for baton-NAME(1). */
void options_man(const struct command_spec *command, FILE *to);

/* The name of that page, "baton-COMMAND", as troff. */
void options_man_name(const struct command_spec *command, FILE *to);

#endif
