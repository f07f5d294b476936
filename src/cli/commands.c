#include "cli/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

extern const struct command_spec serve_command, router_command, prefill_command, decode_command,
    store_command, kv_stat_command, kv_query_command, kv_delete_command, kv_export_command,
    kv_import_command, bench_store_command, run_command, why_command, ctl_status_command,
    ctl_role_command, ctl_drain_command, key_command, bench_command, bench_engine_command,
    bench_accuracy_command, bench_floor_command, bench_gather_command;
static const struct command_spec man_command;

/* One line each, in the order of --help. */
static const struct command_spec *const commands[] = {
    &serve_command,       &router_command,       &prefill_command,      &decode_command,
    &store_command,       &kv_stat_command,      &kv_query_command,     &kv_delete_command,
    &kv_export_command,   &kv_import_command,    &bench_store_command,  &run_command,
    &why_command,         &ctl_status_command,   &ctl_role_command,     &ctl_drain_command,
    &key_command,         &bench_command,        &bench_engine_command, &bench_accuracy_command,
    &bench_floor_command, &bench_gather_command, &man_command,
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static const struct command_spec *command_find(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static const char *command_name_at(const void *ctx, size_t i)
{
    (void)ctx;
    return commands[i]->name;
}

/* "bench engine": a name of two words goes before one of its first word. */
static const struct command_spec *command_find_words(int argc, char **argv, int *words_out)
{
    char both[64];
    *words_out = 2;
    if (argc > 2 && snprintf(both, sizeof(both), "%s %s", argv[1], argv[2]) < (int)sizeof(both)) {
        const struct command_spec *command = command_find(both);
        if (command != NULL)
            return command;
    }
    *words_out = 1;
    return command_find(argv[1]);
}

static int command_unknown(const char *name)
{
    const char *near = options_nearest(name, command_name_at, NULL, COMMAND_COUNT);
    if (near != NULL)
        fprintf(stderr, "baton: unknown command \"%s\"; did you mean \"%s\"?\n", name, near);
    else
        fprintf(stderr, "baton: unknown command \"%s\"; \"baton --help\" lists what there is\n",
                name);
    return EXIT_USAGE;
}

static void commands_help(FILE *to)
{
    fprintf(to, "usage: baton COMMAND [options]\n\n"
                "An LLM inference server that separates prefill from decode.\n\ncommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(to, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n\"baton COMMAND --help\" describes a command; \"baton --version\" prints the "
                "version.\n");
}

static void commands_man(FILE *to)
{
    fprintf(to,
            ".TH BATON 1 \"\" \"baton %s\" \"baton\"\n.SH NAME\n"
            "baton \\- LLM inference server that separates prefill from decode\n"
            ".SH SYNOPSIS\n.B baton\n\\fICOMMAND\\fR [\\fIoptions\\fR]\n.SH COMMANDS\n",
            BATON_VERSION);
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        fputs(".TP\n.BR ", to);
        options_man_name(commands[i], to);
        fprintf(to, " (1)\n%s.\n", commands[i]->summary);
    }
    fputs(".SH EXIT STATUS\n0 when all went well, 1 after a failure, 2 after a mistake on the "
          "command line.\n",
          to);
}

struct man_options {
    const char *to;
};

static const struct option_spec man_specs[] = {
    {"to", OPTION_TEXT, "FOLDER", NULL, 0, 0, offsetof(struct man_options, to),
     "write the pages of baton and of all commands into FOLDER, as baton.1 and baton-COMMAND.1"},
};

/* command NULL: the page of baton itself. */
static bool man_write(const char *folder, const struct command_spec *command)
{
    char path[4096];
    int at = snprintf(path, sizeof(path), "%s/baton%s", folder, command != NULL ? "-" : "");
    snprintf(path + at, sizeof(path) - (size_t)at, "%s.1", command != NULL ? command->name : "");
    for (char *space = path + at; *space != '\0'; space++)
        *space = *space == ' ' ? '-' : *space;
    FILE *file = fopen(path, "w");
    if (file != NULL) {
        if (command != NULL)
            options_man(command, file);
        else
            commands_man(file);
    }
    if (file == NULL || fclose(file) != 0) {
        fprintf(stderr, "baton man: cannot write %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

static int man_run(const void *options, const char *const *operands, uint32_t operand_count)
{
    const struct man_options *man = options;
    if (man->to != NULL) {
        bool ok = man_write(man->to, NULL);
        for (size_t i = 0; ok && i < COMMAND_COUNT; i++)
            ok = man_write(man->to, commands[i]);
        return ok ? EXIT_OK : EXIT_FAILED;
    }
    if (operand_count == 0) {
        commands_man(stdout);
        return EXIT_OK;
    }
    char name[64]; /* "kv stat" is one command of two words */
    bool two = operand_count > 1;
    snprintf(name, sizeof(name), "%s%s%s", operands[0], two ? " " : "", two ? operands[1] : "");
    const struct command_spec *command = command_find(name);
    if (command == NULL)
        return command_unknown(name);
    options_man(command, stdout);
    return EXIT_OK;
}

static const struct command_spec man_command = {
    .name = "man",
    .operands = "[COMMAND]",
    .summary = "print the man page of baton, or of one of its commands",
    .options = man_specs,
    .option_count = sizeof(man_specs) / sizeof(man_specs[0]),
    .options_bytes = sizeof(struct man_options),
    .operands_max = 2,
    .run = man_run,
};

static int command_run(const struct command_spec *command, int argc, char **argv)
{
    uint32_t operand_count = 0;
    bool help = false;
    int rc = EXIT_FAILED;
    /* argv bounds the operands; one more keeps the sizes above zero. */
    const char **operands = calloc((size_t)argc + 1, sizeof(*operands));
    void *options = calloc(1, command->options_bytes + 1);
    if (operands == NULL || options == NULL) {
        fprintf(stderr, "baton: no memory to start\n");
        goto out;
    }
    status st = options_parse(command, argc, argv, options, operands, &operand_count, &help);
    if (st != OK) {
        fprintf(stderr, "baton %s: %s\n", command->name, error_text());
        rc = EXIT_USAGE;
    } else if (help) {
        options_help(command, stdout);
        rc = EXIT_OK;
    } else {
        rc = command->run(options, operands, operand_count);
    }
out:
    free(options);
    free(operands);
    return rc;
}

int commands_run(int argc, char **argv)
{
    if (argc < 2) {
        commands_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("baton %s\n", BATON_VERSION);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (strcmp(argv[1], "help") == 0 && argc == 2)) {
        commands_help(stdout);
        return EXIT_OK;
    }
    int words;
    const struct command_spec *command = command_find_words(argc, argv, &words);
    if (command == NULL)
        return command_unknown(argv[1]);
    return command_run(command, argc - 1 - words, argv + 1 + words);
}
