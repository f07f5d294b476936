/* model/source_directory.c - a Hugging Face directory as the source of a model.
 *
 *     config.json                            the shape (hf_config.h)
 *     model.safetensors                      all tensors, or
 *     model.safetensors.index.json           tensor -> shard, and the shards
 *     tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json
 *                                            text (hf_text.h)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "model/hf_config.h"
#include "model/hf_text.h"
#include "model/json_file.h"
#include "model/safetensors.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "model/weights.h"

#define SHARDS_MAX 1024u
#define INDEX_NAME "model.safetensors.index.json"
#define TENSOR_TYPES "F32, F16, BF16"

struct directory_tensor {
    const struct safetensors_tensor *found;
    bool used;
};

struct source_directory {
    struct source source;
    char *path;
    char config_path[JSON_FILE_PATH_BYTES];
    char *config_text; /* config.json as it is */
    size_t config_bytes;
    json_t *config;
    struct safetensors *shards[SHARDS_MAX];
    uint32_t shard_count;
    struct directory_tensor *tensors; /* of all shards, sorted by name */
};

static const struct source_directory *directory_of(const struct source *source)
{
    return (const struct source_directory *)source;
}

static void directory_close(struct source *source)
{
    struct source_directory *from = (struct source_directory *)source;
    for (uint32_t i = 0; i < from->shard_count; i++)
        safetensors_close(from->shards[i]);
    json_decref(from->config);
    free(from->config_text);
    free(from->tensors);
    free(from->path);
    free(from);
}

static void directory_forget(const struct source *source)
{
    const struct source_directory *from = directory_of(source);
    for (uint32_t i = 0; i < from->shard_count; i++)
        safetensors_forget(from->shards[i]);
}

/* ---- what config.json answers ---- */

static status directory_architecture(struct source *source, char word_out[SOURCE_WORD_BYTES])
{
    return hf_config_architecture(source, directory_of(source)->config, word_out);
}

static void directory_number_name(const struct source *source, enum source_number number,
                                  char name_out[SOURCE_NAME_BYTES])
{
    (void)source;
    hf_config_number_name(number, name_out);
}

static status directory_u32(const struct source *source, enum source_number number,
                            uint32_t *value_out)
{
    return hf_config_u32(source, directory_of(source)->config, number, value_out);
}

static status directory_f32(const struct source *source, enum source_number number,
                            float *value_out)
{
    return hf_config_f32(source, directory_of(source)->config, number, value_out);
}

static status directory_refuse_unbuilt(const struct source *source, const struct model *model)
{
    return hf_config_refuse_unbuilt(source, directory_of(source)->config, model);
}

static status directory_scale_rope(const struct source *source, const struct model *model,
                                   float *divisors)
{
    return hf_config_scale_rope(source, directory_of(source)->config, model, divisors);
}

/* ---- tensors ---- */

static void directory_tensor_name(const struct source *source, enum source_role role,
                                  uint32_t layer, char name_out[SOURCE_NAME_BYTES])
{
    (void)source;
    hf_config_tensor_name(role, layer, name_out);
}

static int tensor_order(const void *a, const void *b)
{
    const struct directory_tensor *x = a, *y = b;
    return strcmp(x->found->name, y->found->name);
}

static struct directory_tensor *tensor_named(const struct source_directory *from, const char *name)
{
    const struct safetensors_tensor wanted = {.name = name};
    const struct directory_tensor key = {.found = &wanted};
    if (from->source.tensor_count == 0)
        return NULL;
    return bsearch(&key, from->tensors, from->source.tensor_count, sizeof(*from->tensors),
                   tensor_order);
}

/* The dtypes that are computed with; the others have no number here. */
static bool dtype_find(const char *name, enum dtype *type_out)
{
    static const enum dtype built[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t i = 0; i < sizeof(built) / sizeof(built[0]); i++) {
        if (strcmp(name, dtype_name(built[i])) == 0) {
            *type_out = built[i];
            return true;
        }
    }
    return false;
}

/* The last dimension is contiguous there, the first one here. A shape of more than four dimensions
 * is none that a model has: it stays wrong in the four that are kept. */
static void tensor_fill(const struct safetensors_tensor *found, struct source_tensor *tensor_out)
{
    *tensor_out = (struct source_tensor){
        .name = found->name,
        .type_name = found->dtype,
        .dimension_count = found->dimension_count,
        .dimensions = {1, 1, 1, 1},
        .data = found->data,
        .bytes = found->bytes,
    };
    tensor_out->type_known = dtype_find(found->dtype, &tensor_out->type);
    for (uint32_t i = 0; i < found->dimension_count; i++) {
        uint64_t size = found->dimensions[found->dimension_count - 1 - i];
        if (i < 4)
            tensor_out->dimensions[i] = size;
        else
            tensor_out->dimensions[3] = UINT64_MAX;
    }
}

static bool directory_tensor_find(struct source *source, enum source_role role, uint32_t layer,
                                  uint32_t rows, uint32_t columns, struct source_tensor *tensor_out)
{
    char name[SOURCE_NAME_BYTES];
    (void)rows;
    (void)columns;
    hf_config_tensor_name(role, layer, name);
    struct directory_tensor *tensor = tensor_named(directory_of(source), name);
    if (tensor == NULL)
        return false;
    tensor->used = true;
    /* Some checkpoints with a tied head write the embedding twice. */
    if (role == ROLE_OUTPUT && hf_config_tied(directory_of(source)->config))
        return false;
    tensor_fill(tensor->found, tensor_out);
    return true;
}

/* Old checkpoints have the frequencies of the rotation, which follow from config.json. */
static bool tensor_is_idle(const char *name)
{
    static const char end[] = ".rotary_emb.inv_freq";
    size_t bytes = strlen(name);
    return bytes >= sizeof(end) - 1 && strcmp(name + bytes - (sizeof(end) - 1), end) == 0;
}

static const char *directory_tensor_unread(const struct source *source)
{
    const struct source_directory *from = directory_of(source);
    for (size_t i = 0; i < source->tensor_count; i++) {
        if (!from->tensors[i].used && !tensor_is_idle(from->tensors[i].found->name))
            return from->tensors[i].found->name;
    }
    return NULL;
}

static bool directory_tensor_at(const struct source *source, size_t index,
                                struct source_tensor *tensor_out)
{
    if (index >= source->tensor_count)
        return false;
    tensor_fill(directory_of(source)->tensors[index].found, tensor_out);
    return true;
}

/* ---- names ---- */

/* The folder's name; "organisation/model" for a snapshot in a download cache, which is a hash:
 * .../models--organisation--model/snapshots/0123abcd. */
static void directory_name(const struct source *source, char *name_out, size_t bytes)
{
    const char *path = source->path, *start = path, *cache = strstr(path, "models--");
    size_t length = strlen(path);
    if (cache != NULL && strstr(cache, "/snapshots/") != NULL) {
        size_t at = 0;
        for (const char *c = cache + strlen("models--"); *c != '/' && at < bytes - 1; c++) {
            bool cut = c[0] == '-' && c[1] == '-';
            name_out[at++] = cut ? '/' : *c;
            c += cut;
        }
        name_out[at] = '\0';
        return;
    }
    for (size_t i = 0; i < length; i++) {
        if (path[i] == '/' && i + 1 < length)
            start = path + i + 1;
    }
    size_t at = 0;
    for (; start[at] != '\0' && at < bytes - 1; at++)
        name_out[at] = (char)(start[at] >= 0x20 && start[at] <= 0x7e ? start[at] : '?');
    name_out[at] = '\0';
}

static void hash_text(crypto_generichash_state *hash, const char *text, size_t bytes)
{
    uint8_t size[8];
    store_u64(size, bytes);
    crypto_generichash_update(hash, size, sizeof(size));
    crypto_generichash_update(hash, (const unsigned char *)text, bytes);
}

/* config.json, tokenizer.json (when it can be read), and names, dtypes and shapes of the tensors:
 * how they are cut into shards does not matter. */
static void directory_identify(const struct source *source, crypto_generichash_state *hash)
{
    const struct source_directory *from = directory_of(source);
    char path[JSON_FILE_PATH_BYTES];
    char *tokens = NULL;
    size_t bytes = 0;
    hash_text(hash, from->config_text, from->config_bytes);
    if (json_file_path(from->path, HF_TOKENIZER_NAME, path) == OK &&
        json_file_bytes(path, JSON_FILE_BYTES_MAX, &tokens, &bytes) == OK)
        hash_text(hash, tokens, bytes);
    free(tokens);
    for (size_t i = 0; i < source->tensor_count; i++) {
        const struct safetensors_tensor *tensor = from->tensors[i].found;
        hash_text(hash, tensor->name, strlen(tensor->name));
        hash_text(hash, tensor->dtype, strlen(tensor->dtype));
        for (uint32_t d = 0; d < tensor->dimension_count; d++) {
            uint8_t size[8];
            store_u64(size, tensor->dimensions[d]);
            crypto_generichash_update(hash, size, sizeof(size));
        }
    }
}

/* ---- text ---- */

/* Seen when a tokenizer is opened: workers need none. */
static status directory_token_count(const struct source *source, size_t *count_out)
{
    (void)source;
    *count_out = 0;
    return OK;
}

static status directory_tokenizer_open(const struct source *source, uint32_t vocabulary,
                                       struct tokenizer **tokenizer_out)
{
    return hf_tokenizer_open(directory_of(source)->path, vocabulary, tokenizer_out);
}

static status directory_chat_template(const struct source *source, char **text_out,
                                      size_t *bytes_out)
{
    return hf_chat_template(directory_of(source)->path, text_out, bytes_out);
}

static const struct source_calls directory_calls = {
    .close = directory_close,
    .forget = directory_forget,
    .architecture = directory_architecture,
    .number_name = directory_number_name,
    .read_u32 = directory_u32,
    .read_f32 = directory_f32,
    .refuse_unbuilt = directory_refuse_unbuilt,
    .scale_rope = directory_scale_rope,
    .tensor_name = directory_tensor_name,
    .tensor_find = directory_tensor_find,
    .tensor_unread = directory_tensor_unread,
    .tensor_at = directory_tensor_at,
    .name = directory_name,
    .identify = directory_identify,
    .token_count = directory_token_count,
    .tokenizer_open = directory_tokenizer_open,
    .chat_template = directory_chat_template,
};

/* ---- opening ---- */

static bool file_there(const struct source_directory *from, const char *name)
{
    char path[JSON_FILE_PATH_BYTES];
    return json_file_path(from->path, name, path) == OK && access(path, F_OK) == 0;
}

static status open_config(struct source_directory *from)
{
    const char *path = from->config_path;
    status code = json_file_path(from->path, "config.json", from->config_path);
    if (code == OK)
        code = json_file_bytes(path, JSON_FILE_BYTES_MAX, &from->config_text, &from->config_bytes);
    if (code == ERR_NOT_FOUND)
        return source_error(&from->source, ERR_NOT_FOUND,
                            "no config.json: expected a model's directory (config.json, "
                            "*.safetensors, tokenizer.json) or a GGUF file");
    if (code == OK)
        code = json_file_parse(path, from->config_text, from->config_bytes, &from->config);
    return code;
}

/* A shard by its name, opened once. */
static status open_shard(struct source_directory *from, const char *name,
                         const struct safetensors **shard_out)
{
    char path[JSON_FILE_PATH_BYTES];
    status code = json_file_path(from->path, name, path);
    for (uint32_t i = 0; code == OK && i < from->shard_count; i++) {
        if (strcmp(safetensors_path(from->shards[i]), path) == 0) {
            *shard_out = from->shards[i];
            return OK;
        }
    }
    if (code == OK && from->shard_count == SHARDS_MAX)
        return source_error(&from->source, ERR_BAD_INPUT, "more than %u shards", SHARDS_MAX);
    if (code == OK)
        code = safetensors_open(path, &from->shards[from->shard_count]);
    if (code == ERR_NOT_FOUND)
        return source_error(&from->source, ERR_NOT_FOUND,
                            "the shard %s is missing: the download is incomplete; fetch it", name);
    if (code == OK)
        *shard_out = from->shards[from->shard_count++];
    return code;
}

static status open_mapped(struct source_directory *from, const char *tensor, const json_t *file)
{
    const char *name = json_string_value(file);
    const struct safetensors *shard = NULL;
    if (name == NULL || name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL)
        return source_error(&from->source, ERR_BAD_INPUT,
                            INDEX_NAME ": tensor %.100s is in %.100s (expected the name of a file "
                                       "beside it)",
                            tensor, name != NULL ? name : json_file_type(file));
    status code = open_shard(from, name, &shard);
    if (code != OK)
        return code;
    if (safetensors_find(shard, tensor) == NULL)
        return source_error(&from->source, ERR_BAD_INPUT,
                            INDEX_NAME ": tensor %.200s is not in %s: index and shards do not "
                                       "belong together; fetch them again",
                            tensor, name);
    return OK;
}

static status open_index(struct source_directory *from)
{
    char path[JSON_FILE_PATH_BYTES];
    json_t *index = NULL, *file;
    const char *tensor;
    status code = json_file_path(from->path, INDEX_NAME, path);
    if (code == OK)
        code = json_file_open(path, &index);
    if (code != OK)
        return code;
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map))
        code =
            source_error(&from->source, ERR_BAD_INPUT,
                         INDEX_NAME ": weight_map is %s (expected an object)", json_file_type(map));
    json_object_foreach(map, tensor, file)
    {
        if (code == OK)
            code = open_mapped(from, tensor, file);
    }
    json_decref(index);
    return code;
}

static status open_shards(struct source_directory *from)
{
    const struct safetensors *shard;
    if (file_there(from, "model.safetensors"))
        return open_shard(from, "model.safetensors", &shard);
    if (file_there(from, INDEX_NAME))
        return open_index(from);
    bool other =
        file_there(from, "pytorch_model.bin") || file_there(from, "pytorch_model.bin.index.json");
    return source_error(&from->source, other ? ERR_UNSUPPORTED : ERR_NOT_FOUND,
                        "no model.safetensors and no " INDEX_NAME "%s",
                        other ? "; pytorch_model.bin is not read: save the model as safetensors"
                              : ": the download is incomplete, or this is no model's directory");
}

/* All tensors of all shards, by name. */
static status collect_tensors(struct source_directory *from)
{
    size_t count = 0, at = 0;
    for (uint32_t i = 0; i < from->shard_count; i++)
        count += safetensors_count(from->shards[i]);
    from->tensors = calloc(count + 1, sizeof(*from->tensors));
    if (from->tensors == NULL)
        return source_error(&from->source, ERR_NO_MEMORY, "no memory for %zu tensors", count);
    for (uint32_t i = 0; i < from->shard_count; i++) {
        for (size_t t = 0; t < safetensors_count(from->shards[i]); t++)
            from->tensors[at++].found = safetensors_at(from->shards[i], t);
    }
    from->source.tensor_count = count;
    if (count > 0)
        qsort(from->tensors, count, sizeof(*from->tensors), tensor_order);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(from->tensors[i - 1].found->name, from->tensors[i].found->name) == 0)
            return source_error(&from->source, ERR_BAD_INPUT,
                                "tensor %s is in two shards: files of two downloads are mixed",
                                from->tensors[i].found->name);
    }
    return OK;
}

status source_directory_open(const char *path, struct source **source_out)
{
    struct source_directory *from = calloc(1, sizeof(*from));
    char *copy = strdup(path);
    if (from == NULL || copy == NULL) {
        free(from);
        free(copy);
        return error_set(ERR_NO_MEMORY, "%s: no memory to open it", path);
    }
    from->path = copy;
    from->source = (struct source){
        .calls = &directory_calls,
        .path = copy,
        .file = from->config_path,
        .tensor_types = TENSOR_TYPES,
        .rope_halves = true,
        .rows_first = true,
        .vector_types_any = true,
    };
    status code = open_config(from);
    /* Before the shards, which may be of a kind that is not read at all. */
    char word[SOURCE_WORD_BYTES];
    if (code == OK)
        code = directory_architecture(&from->source, word);
    if (code == OK)
        code = open_shards(from);
    if (code == OK)
        code = collect_tensors(from);
    if (code != OK) {
        directory_close(&from->source);
        return code;
    }
    from->source.head_required = !hf_config_tied(from->config);
    *source_out = &from->source;
    return OK;
}
