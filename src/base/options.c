#include "base/options.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/options_value.h"

#define FILE_LINE_BYTES 4096
#define NAME_BYTES_MAX 64

/* Texts read from files and lists of repeated options: kept until exit, because options point into
 * them. The list keeps them reachable. */
struct kept {
    struct kept *next;
    char text[];
};

static struct kept *kept_list;

static void *keep(size_t bytes)
{
    struct kept *kept = malloc(sizeof(*kept) + bytes);
    if (kept == NULL)
        return NULL;
    kept->next = kept_list;
    kept_list = kept;
    return kept->text;
}

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Edits (insert, delete, replace) that turn a into b; both shorter than NAME_BYTES_MAX. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_BYTES_MAX + 1];
    size_t b_bytes = strlen(b);
    for (size_t j = 0; j <= b_bytes; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            size_t above = row[j];
            size_t replaced = diagonal + (a[i - 1] != b[j - 1] ? 1 : 0);
            row[j] = smallest(above + 1, row[j - 1] + 1, replaced);
            diagonal = above;
        }
    }
    return row[b_bytes];
}

const char *options_nearest(const char *text, const char *(*name_at)(const void *ctx, size_t i),
                            const void *ctx, size_t count)
{
    size_t text_bytes = strlen(text);
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    if (text_bytes == 0 || text_bytes >= NAME_BYTES_MAX)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        const char *name = name_at(ctx, i);
        if (name == NULL || strlen(name) >= NAME_BYTES_MAX)
            continue;
        /* A beginning of three letters or more is near, however much is missing. */
        size_t distance =
            text_bytes >= 3 && strncmp(name, text, text_bytes) == 0 ? 1 : edit_distance(text, name);
        if (distance < best_distance) {
            best_distance = distance;
            best = name;
        }
    }
    return best_distance <= 1 + text_bytes / 4 && best_distance < text_bytes ? best : NULL;
}

static const char *option_name_at(const void *ctx, size_t i)
{
    const struct command_spec *command = ctx;
    return command->options[i].help != NULL ? command->options[i].name : NULL;
}

static const struct option_spec *option_find(const struct command_spec *command, const char *name,
                                             size_t name_bytes)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const struct option_spec *spec = &command->options[i];
        if (strlen(spec->name) == name_bytes && strncmp(spec->name, name, name_bytes) == 0)
            return spec;
    }
    return NULL;
}

static status option_unknown(const struct command_spec *command, const char *dashes,
                             const char *name, size_t name_bytes)
{
    char text[NAME_BYTES_MAX + 8];
    snprintf(text, sizeof(text), "%.*s", (int)(name_bytes < 70 ? name_bytes : 70), name);
    const char *near = options_nearest(text, option_name_at, command, command->option_count);
    if (near != NULL)
        return error_set(ERR_BAD_INPUT, "unknown option %s%s; did you mean %s%s?", dashes, text,
                         dashes, near);
    return error_set(ERR_BAD_INPUT, "unknown option %s%s; \"baton %s --help\" lists what there is",
                     dashes, text, command->name);
}

static status texts_add(struct option_texts *texts, const char *text)
{
    const char **items = keep((texts->count + 1) * sizeof(*items));
    if (items == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the options");
    if (texts->count > 0)
        memcpy(items, texts->items, texts->count * sizeof(*items));
    items[texts->count] = text;
    texts->items = items;
    texts->count++;
    return OK;
}

static status option_apply(const struct option_spec *spec, const char *text, void *options)
{
    if (spec->type != OPTION_TEXTS)
        return option_value_parse(spec, text, options);
    return texts_add((struct option_texts *)((char *)options + spec->offset), text);
}

static void options_apply_defaults(const struct command_spec *command, void *options)
{
    memset(options, 0, command->options_bytes);
    for (size_t i = 0; i < command->option_count; i++) {
        const struct option_spec *spec = &command->options[i];
        if (spec->default_text == NULL)
            continue;
        assert(spec->type != OPTION_TEXTS);
        status st = option_value_parse(spec, spec->default_text, options);
        assert(st == OK);
        (void)st;
    }
}

static char *trim(char *text)
{
    text += strspn(text, " \t");
    size_t bytes = strlen(text);
    while (bytes > 0 && strchr(" \t\r\n", text[bytes - 1]) != NULL)
        text[--bytes] = '\0';
    return text;
}

/* One line of the file: nothing, a comment, or name = value (quotes around the value are dropped).
 */
static status options_apply_line(const struct command_spec *command, char *line, void *options)
{
    line = trim(line);
    if (line[0] == '\0' || line[0] == '#')
        return OK;
    char *equals = strchr(line, '=');
    if (equals == NULL)
        return error_set(ERR_BAD_INPUT, "expected name = value, found \"%s\"", line);
    *equals = '\0';
    char *name = trim(line);
    char *value = trim(equals + 1);
    const struct option_spec *spec = option_find(command, name, strlen(name));
    if (spec == NULL)
        return option_unknown(command, "", name, strlen(name));
    size_t bytes = strlen(value);
    if (bytes >= 2 && value[0] == '"' && value[bytes - 1] == '"') {
        value[bytes - 1] = '\0';
        value++;
    }
    char *copy = keep(strlen(value) + 1);
    if (copy == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the options");
    memcpy(copy, value, strlen(value) + 1);
    status st = option_apply(spec, copy, options);
    return st == OK ? OK : error_prefix(st, "%s", spec->name);
}

static status options_apply_file(const struct command_spec *command, const char *path,
                                 void *options)
{
    char line[FILE_LINE_BYTES];
    unsigned number = 0;
    status st = OK;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return error_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO,
                         "cannot read the configuration file \"%s\": %s", path, strerror(errno));
    while (st == OK && fgets(line, sizeof(line), file) != NULL) {
        number++;
        if (strlen(line) == sizeof(line) - 1 && line[sizeof(line) - 2] != '\n')
            st = error_set(ERR_BAD_INPUT, "a line has at most %d bytes", FILE_LINE_BYTES - 2);
        else
            st = options_apply_line(command, line, options);
    }
    if (st == OK && ferror(file))
        st = error_set(ERR_IO, "cannot read the configuration file: %s", strerror(errno));
    fclose(file);
    return st == OK ? OK : error_prefix(st, "%s:%u", path, number);
}

/* One argument, taken apart. */
struct argument {
    const struct option_spec *spec; /* NULL: an operand, or --config */
    const char *value;              /* NULL: an operand */
    bool config;
    int taken; /* how many of argv it was */
};

/* True (and value "yes" or "no") when text, without dashes, is a flag or its --no- form. */
static bool argument_is_flag(const struct command_spec *command, const char *text, size_t bytes,
                             struct argument *argument)
{
    const struct option_spec *spec = option_find(command, text, bytes);
    if (spec != NULL && spec->type == OPTION_FLAG) {
        argument->spec = spec;
        argument->value = "yes";
        return true;
    }
    if (spec != NULL || bytes <= 3 || strncmp(text, "no-", 3) != 0)
        return false;
    spec = option_find(command, text + 3, bytes - 3);
    if (spec == NULL || spec->type != OPTION_FLAG)
        return false;
    argument->spec = spec;
    argument->value = "no";
    return true;
}

/* Take apart argv[0], which begins with "--". */
static status argument_parse(const struct command_spec *command, int argc, char **argv,
                             struct argument *argument_out)
{
    struct argument argument = {.taken = 1};
    const char *text = argv[0] + 2;
    size_t name_bytes = strcspn(text, "=");
    const char *inlined = text[name_bytes] == '=' ? text + name_bytes + 1 : NULL;
    argument.config = name_bytes == 6 && strncmp(text, "config", 6) == 0;
    if (!argument.config && argument_is_flag(command, text, name_bytes, &argument)) {
        if (inlined != NULL && strncmp(text, "no-", 3) == 0 && argument.value[0] == 'n')
            return error_set(ERR_BAD_INPUT, "--%.*s takes no value, found \"%s\"", (int)name_bytes,
                             text, inlined);
        if (inlined != NULL)
            argument.value = inlined;
        *argument_out = argument;
        return OK;
    }
    if (!argument.config) {
        argument.spec = option_find(command, text, name_bytes);
        if (argument.spec == NULL)
            return option_unknown(command, "--", text, name_bytes);
    }
    argument.value = inlined;
    if (inlined == NULL) {
        const char *unit = argument.config ? "FILE" : argument.spec->unit;
        if (argc < 2 || strncmp(argv[1], "--", 2) == 0)
            return error_set(ERR_BAD_INPUT, "--%s needs a value: --%s %s", text, text,
                             unit != NULL ? unit : "VALUE");
        argument.value = argv[1];
        argument.taken = 2;
    }
    *argument_out = argument;
    return OK;
}

static bool argument_is_operand(const char *text, bool operands_only)
{
    return operands_only || text[0] != '-' || text[1] == '\0';
}

/* Walk the command line: pass 0 only looks for --config (and checks the names), pass 1 applies. */
static status options_walk(const struct command_spec *command, int argc, char **argv, bool apply,
                           void *options, const char **operands, uint32_t *operand_count,
                           const char **config_path)
{
    bool replaced[256] = {false}; /* repeated options that the command line has begun to list */
    bool operands_only = false;
    assert(command->option_count <= sizeof(replaced));
    for (int i = 0; i < argc;) {
        if (!operands_only && strcmp(argv[i], "--") == 0) {
            operands_only = true;
            i++;
            continue;
        }
        if (argument_is_operand(argv[i], operands_only)) {
            if (*operand_count == command->operands_max)
                return error_set(ERR_BAD_INPUT, "unexpected \"%s\"; usage: baton %s [options]%s%s",
                                 argv[i], command->name, command->operands[0] != '\0' ? " " : "",
                                 command->operands);
            operands[(*operand_count)++] = argv[i++];
            continue;
        }
        if (argv[i][1] != '-')
            return option_unknown(command, "", argv[i], strlen(argv[i]));
        struct argument argument = {0};
        status st = argument_parse(command, argc - i, argv + i, &argument);
        if (st != OK)
            return st;
        i += argument.taken;
        if (argument.config) {
            *config_path = argument.value;
            continue;
        }
        if (!apply)
            continue;
        size_t index = (size_t)(argument.spec - command->options);
        if (argument.spec->type == OPTION_TEXTS && !replaced[index]) {
            replaced[index] = true;
            memset((char *)options + argument.spec->offset, 0, sizeof(struct option_texts));
        }
        st = option_apply(argument.spec, argument.value, options);
        if (st != OK)
            return error_prefix(st, "--%s", argument.spec->name);
    }
    return OK;
}

static bool options_ask_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

/* Was the option given that does without operands? */
static bool options_given_instead(const struct command_spec *command, const void *options)
{
    for (size_t i = 0; command->operands_instead != NULL && i < command->option_count; i++) {
        const struct option_spec *spec = &command->options[i];
        const char *text = NULL;
        if (strcmp(spec->name, command->operands_instead) != 0)
            continue;
        memcpy(&text, (const char *)options + spec->offset, sizeof(text));
        return text != NULL;
    }
    return false;
}

status options_parse(const struct command_spec *command, int argc, char **argv, void *options,
                     const char **operands_out, uint32_t *operand_count_out, bool *help_out)
{
    const char *config_path = NULL;
    uint32_t operand_count = 0;
    options_apply_defaults(command, options);
    *operand_count_out = 0;
    *help_out = options_ask_help(argc, argv);
    if (*help_out)
        return OK;

    status st = options_walk(command, argc, argv, false, options, operands_out, &operand_count,
                             &config_path);
    if (st != OK)
        return st;
    if (config_path != NULL) {
        st = options_apply_file(command, config_path, options);
        if (st != OK)
            return st;
    }
    operand_count = 0;
    st = options_walk(command, argc, argv, true, options, operands_out, &operand_count,
                      &config_path);
    if (st != OK)
        return st;
    if (operand_count < command->operands_min && !options_given_instead(command, options))
        return error_set(ERR_BAD_INPUT, "%s is missing; usage: baton %s [options] %s",
                         command->operands, command->name, command->operands);
    *operand_count_out = operand_count;
    return OK;
}
