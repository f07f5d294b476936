/* model/json_file.h - a JSON file of a model directory, and typed looks into it.
 *
 * The files come from outside: their size is bounded, an object may name a key once, and every
 * message begins with the path.
 *
 * Threads: any. Memory: the caller drops the value with json_decref.
 */
#ifndef MODEL_JSON_FILE_H
#define MODEL_JSON_FILE_H

#include <stddef.h>

#include <jansson.h>

#include "base/status.h"

#define JSON_FILE_BYTES_MAX ((size_t)128 << 20)
#define JSON_FILE_PATH_BYTES 4096

/* "folder/name". Errors: ERR_BAD_INPUT (too long). */
status json_file_path(const char *folder, const char *name, char path_out[JSON_FILE_PATH_BYTES]);

/* All of a file, NUL-terminated, from malloc. Errors: ERR_NOT_FOUND, ERR_IO, ERR_BAD_INPUT (not a
 * regular file, larger than bytes_max), ERR_NO_MEMORY. */
status json_file_bytes(const char *path, size_t bytes_max, char **data_out, size_t *bytes_out);

/* text as a JSON object; path for messages. Errors: ERR_BAD_INPUT. */
status json_file_parse(const char *path, const char *text, size_t bytes, json_t **root_out);

/* Both. */
status json_file_open(const char *path, json_t **root_out);

/* "an object", "a string", ... for messages; "nothing" for NULL. */
const char *json_file_type(const json_t *value);

#endif
