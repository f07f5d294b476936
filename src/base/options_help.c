#include "base/options.h"

#include <ctype.h>
#include <string.h>

#include "base/options_value.h"

#define HELP_COLUMNS 80
#define HELP_INDENT 28

/* What follows the help sentence: "(1 to 1024, default 64)". */
static void option_notes(const struct option_spec *spec, char *text, size_t text_bytes)
{
    char limits[160];
    option_value_limits(spec, limits, sizeof(limits));
    const char *fallback = spec->default_text;
    text[0] = '\0';
    if (limits[0] != '\0' && fallback != NULL)
        snprintf(text, text_bytes, " (%s; default %s)", limits, fallback);
    else if (limits[0] != '\0')
        snprintf(text, text_bytes, " (%s)", limits);
    else if (fallback != NULL && fallback[0] != '\0')
        snprintf(text, text_bytes, " (default %s)", fallback);
    else if (spec->type == OPTION_TEXTS)
        snprintf(text, text_bytes, " (may be repeated)");
}

typedef void print_option_fn(FILE *to, const char *name, const char *unit, const char *help,
                             const char *notes);

/* Those that have a help, and the two that every command has. */
static void print_options(FILE *to, const struct command_spec *command, print_option_fn *print)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const struct option_spec *spec = &command->options[i];
        char notes[256];
        if (spec->help == NULL)
            continue;
        option_notes(spec, notes, sizeof(notes));
        print(to, spec->name, spec->type == OPTION_FLAG ? NULL : spec->unit, spec->help, notes);
    }
    print(to, "config", "FILE",
          "read options from FILE, one \"name = value\" a line; the command line wins", "");
    print(to, "help", NULL, "print a summary and exit", "");
}

/* Print text in columns indent .. HELP_COLUMNS, the cursor being at column. */
static void print_wrapped(FILE *to, const char *text, int indent, int column)
{
    while (*text != '\0') {
        if (*text == '\n') {
            fprintf(to, "\n%s", text[1] == '\n' ? "\n" : "");
            text += text[1] == '\n' ? 2 : 1;
            fprintf(to, "%*s", indent, "");
            column = indent;
            continue;
        }
        int bytes = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + bytes > HELP_COLUMNS) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', to);
            column++;
        }
        fprintf(to, "%.*s", bytes, text);
        column += bytes;
        text += bytes;
        text += *text == ' ' ? 1 : 0;
    }
    fputc('\n', to);
}

static void print_option(FILE *to, const char *name, const char *unit, const char *help,
                         const char *notes)
{
    char left[128];
    char right[1024];
    snprintf(left, sizeof(left), "  --%s%s%s", name, unit != NULL ? " " : "",
             unit != NULL ? unit : "");
    snprintf(right, sizeof(right), "%s%s", help, notes);
    if (strlen(left) >= HELP_INDENT - 1)
        fprintf(to, "%s\n%*s", left, HELP_INDENT, "");
    else
        fprintf(to, "%-*s", HELP_INDENT, left);
    print_wrapped(to, right, HELP_INDENT, HELP_INDENT);
}

void options_help(const struct command_spec *command, FILE *to)
{
    fprintf(to, "usage: baton %s [options]%s%s\n\n", command->name,
            command->operands[0] != '\0' ? " " : "", command->operands);
    print_wrapped(to, command->summary, 0, 0);
    if (command->details != NULL) {
        fputc('\n', to);
        print_wrapped(to, command->details, 0, 0);
    }
    fprintf(to, "\noptions:\n");
    print_options(to, command, print_option);
}

/* Text for troff: no line may begin as a request, and '-' and '\' mean themselves. */
static void print_troff(FILE *to, const char *text)
{
    bool line_start = true;
    for (; *text != '\0'; text++) {
        if (text[0] == '\n' && text[1] == '\n') {
            fputs("\n.PP\n", to);
            text++;
            line_start = true;
            continue;
        }
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", to);
        if (*text == '\\')
            fputs("\\e", to);
        else if (*text == '-')
            fputs("\\-", to);
        else
            fputc(*text, to);
        line_start = *text == '\n';
    }
}

static void man_option(FILE *to, const char *name, const char *unit, const char *help,
                       const char *notes)
{
    fputs(".TP\n.B \\-\\-", to);
    print_troff(to, name);
    if (unit != NULL) {
        fputs(" \\fI", to);
        print_troff(to, unit);
        fputs("\\fR", to);
    }
    fputc('\n', to);
    print_troff(to, help);
    print_troff(to, notes);
    fputs(".\n", to);
}

void options_man_name(const struct command_spec *command, FILE *to)
{
    fputs("baton\\-", to);
    for (const char *c = command->name; *c != '\0'; c++) {
        if (*c == ' ')
            fputs("\\-", to);
        else
            fputc(*c, to);
    }
}

void options_man(const struct command_spec *command, FILE *to)
{
    fputs(".TH BATON\\-", to);
    for (const char *c = command->name; *c != '\0'; c++)
        fputc(*c == ' ' ? '-' : toupper((unsigned char)*c), to);
    fprintf(to, " 1 \"\" \"baton %s\" \"baton\"\n.SH NAME\n", BATON_VERSION);
    options_man_name(command, to);
    fputs(" \\- ", to);
    print_troff(to, command->summary);
    fprintf(to, "\n.SH SYNOPSIS\n.B baton %s\n[\\fIoptions\\fR] ", command->name);
    print_troff(to, command->operands);
    fputc('\n', to);
    if (command->details != NULL) {
        fputs(".SH DESCRIPTION\n", to);
        print_troff(to, command->details);
        fputc('\n', to);
    }
    fputs(".SH OPTIONS\n", to);
    print_options(to, command, man_option);
    fputs(".SH EXIT STATUS\n0 when all went well, 1 after a failure, 2 after a mistake on the "
          "command line.\n.SH SEE ALSO\n.BR baton (1)\n",
          to);
}
