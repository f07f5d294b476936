#include "model/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

status json_file_path(const char *folder, const char *name, char path_out[JSON_FILE_PATH_BYTES])
{
    int bytes = snprintf(path_out, JSON_FILE_PATH_BYTES, "%s/%s", folder, name);
    if (bytes < 0 || bytes >= JSON_FILE_PATH_BYTES)
        return error_set(ERR_BAD_INPUT, "%.200s...: the path is longer than %u bytes", folder,
                         JSON_FILE_PATH_BYTES - 1);
    return OK;
}

static status read_all(const char *path, int fd, size_t bytes, char **data_out)
{
    char *data = malloc(bytes + 1);
    if (data == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory for %zu bytes", path, bytes);
    for (size_t at = 0; at < bytes;) {
        ssize_t got = read(fd, data + at, bytes - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            free(data);
            return error_set(ERR_IO, "%s: cannot read it: %s", path,
                             got < 0 ? strerror(errno) : "it became shorter");
        }
        at += (size_t)got;
    }
    data[bytes] = '\0';
    *data_out = data;
    return OK;
}

status json_file_bytes(const char *path, size_t bytes_max, char **data_out, size_t *bytes_out)
{
    /* O_NONBLOCK: a pipe under that name would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                         "%s: cannot open it: %s", path, strerror(errno));
    struct stat facts;
    status code;
    if (fstat(fd, &facts) != 0)
        code = error_set(ERR_IO, "%s: cannot read it: %s", path, strerror(errno));
    else if (!S_ISREG(facts.st_mode))
        code = error_set(ERR_BAD_INPUT, "%s: not a regular file", path);
    else if ((uint64_t)facts.st_size > bytes_max)
        code = error_set(ERR_BAD_INPUT, "%s: %lld bytes (expected at most %zu)", path,
                         (long long)facts.st_size, bytes_max);
    else
        code = read_all(path, fd, *bytes_out = (size_t)facts.st_size, data_out);
    close(fd);
    return code;
}

status json_file_parse(const char *path, const char *text, size_t bytes, json_t **root_out)
{
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (root == NULL)
        return error_set(ERR_BAD_INPUT, "%s: not JSON: line %d: %s; fetch it again", path,
                         error.line, error.text);
    if (!json_is_object(root)) {
        const char *type = json_file_type(root);
        json_decref(root);
        return error_set(ERR_BAD_INPUT, "%s: %s (expected an object)", path, type);
    }
    *root_out = root;
    return OK;
}

status json_file_open(const char *path, json_t **root_out)
{
    char *text = NULL;
    size_t bytes = 0;
    status code = json_file_bytes(path, JSON_FILE_BYTES_MAX, &text, &bytes);
    if (code == OK)
        code = json_file_parse(path, text, bytes, root_out);
    free(text);
    return code;
}

const char *json_file_type(const json_t *value)
{
    if (value == NULL)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a point";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}
