#include "model/hf_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/chat_template.h"
#include "model/json_file.h"
#include "model/tokenizer.h"
#include "model/tokenizer_json.h"

#define END_IDS_MAX 64u

/* A file that may be missing: *root_out is NULL then. */
static status optional_open(const char *folder, const char *name, json_t **root_out)
{
    char path[JSON_FILE_PATH_BYTES];
    *root_out = NULL;
    status code = json_file_path(folder, name, path);
    if (code == OK)
        code = json_file_open(path, root_out);
    return code == ERR_NOT_FOUND ? OK : code;
}

/* The token that tokenizer_config.json names under key: a text, or an object with it. */
static void named_token(const json_t *root, const json_t *config, const char *key, uint32_t *id)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (json_is_string(value) && *id == TOKEN_NONE)
        *id = tokenizer_json_id(root, json_string_value(value));
}

/* eos_token_id of generation_config.json or config.json: a number or several. */
static status end_tokens(const char *folder, const char *file, struct tokenizer_spec *spec,
                         uint32_t ids[END_IDS_MAX])
{
    json_t *config = NULL;
    status code = optional_open(folder, file, &config);
    const json_t *value = json_object_get(config, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : json_is_integer(value);
    for (size_t i = 0; code == OK && i < count; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= (json_int_t)spec->token_count)
            code = error_set(ERR_BAD_INPUT,
                             "%s: eos_token_id is not a token of the tokenizer, which has %zu",
                             file, spec->token_count);
        else if (spec->end_count == END_IDS_MAX)
            code = error_set(ERR_BAD_INPUT, "%s: more than %u end tokens", file, END_IDS_MAX);
        else
            ids[spec->end_count++] = (uint32_t)json_integer_value(id);
    }
    spec->end_ids = ids;
    json_decref(config);
    return code;
}

static status tokenizer_build(const char *folder, const json_t *root, const json_t *config,
                              uint32_t vocabulary, struct tokenizer **tokenizer_out)
{
    struct tokenizer_json read;
    uint32_t ends[END_IDS_MAX];
    status code = tokenizer_json_read(root, vocabulary, &read);
    if (code != OK) {
        tokenizer_json_close(&read);
        return error_prefix(code, HF_TOKENIZER_NAME);
    }
    struct tokenizer_spec *spec = &read.spec;
    named_token(root, config, "bos_token", &spec->bos_id);
    named_token(root, config, "eos_token", &spec->eos_id);
    named_token(root, config, "unk_token", &spec->unknown_id);
    named_token(root, config, "pad_token", &spec->padding_id);
    if (!read.bos_decided) {
        spec->add_bos = json_is_true(json_object_get(config, "add_bos_token"));
        spec->add_eos = json_is_true(json_object_get(config, "add_eos_token"));
    }
    code = end_tokens(folder, "generation_config.json", spec, ends);
    if (code == OK && spec->end_count == 0)
        code = end_tokens(folder, "config.json", spec, ends);
    if (code == OK) {
        code = tokenizer_open(spec, tokenizer_out);
        if (code != OK)
            error_prefix(code, HF_TOKENIZER_NAME);
    }
    tokenizer_json_close(&read);
    return code;
}

status hf_tokenizer_open(const char *folder, uint32_t vocabulary, struct tokenizer **tokenizer_out)
{
    char path[JSON_FILE_PATH_BYTES];
    json_t *root = NULL, *config = NULL;
    status code = json_file_path(folder, HF_TOKENIZER_NAME, path);
    if (code == OK)
        code = json_file_open(path, &root);
    if (code == ERR_NOT_FOUND)
        return error_set(ERR_NOT_FOUND,
                         "%s: no " HF_TOKENIZER_NAME ": fetch it (tokenizer.model and vocab.json "
                         "are not read)",
                         folder);
    if (code != OK)
        return code;
    code = optional_open(folder, "tokenizer_config.json", &config);
    if (code == OK) {
        code = tokenizer_build(folder, root, config, vocabulary, tokenizer_out);
        if (code != OK)
            error_prefix(code, "%s", folder);
    }
    json_decref(root);
    json_decref(config);
    return code;
}

/* chat_template: a text, or a list of named ones, of which "default" counts. */
static const json_t *template_find(const json_t *config)
{
    const json_t *value = json_object_get(config, "chat_template"), *entry;
    size_t i;
    json_array_foreach(value, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0)
            return json_object_get(entry, "template");
    }
    return value;
}

status hf_chat_template(const char *folder, char **text_out, size_t *bytes_out)
{
    char path[JSON_FILE_PATH_BYTES];
    json_t *config = NULL;
    status code = json_file_path(folder, "chat_template.jinja", path);
    if (code == OK)
        code = json_file_bytes(path, CHAT_TEMPLATE_SOURCE_BYTES, text_out, bytes_out);
    if (code != ERR_NOT_FOUND)
        return code;
    code = optional_open(folder, "tokenizer_config.json", &config);
    if (code != OK)
        return code;
    const json_t *text = template_find(config);
    if (!json_is_string(text)) {
        json_decref(config);
        return ERR_NOT_FOUND;
    }
    *bytes_out = json_string_length(text);
    *text_out = malloc(*bytes_out + 1);
    if (*text_out == NULL)
        code = error_set(ERR_NO_MEMORY, "no memory for the chat template");
    else
        memcpy(*text_out, json_string_value(text), *bytes_out + 1);
    json_decref(config);
    return code;
}
