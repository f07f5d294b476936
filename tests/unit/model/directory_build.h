/* tests/unit/model/directory_build.h - a model's directory in a temporary folder, made wrong on
 * purpose.
 *
 *     struct folder folder;
 *     folder_make(&folder, "llama");        config.json and model.safetensors of the least model
 *     json_object_set_new(folder.config, "hidden_size", json_integer(0));
 *     folder_write(&folder);
 *     ... weights_open(folder.path, &model) ...
 *     folder_remove(&folder);
 */
#ifndef UNIT_MODEL_DIRECTORY_BUILD_H
#define UNIT_MODEL_DIRECTORY_BUILD_H

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"

struct folder {
    char path[64];
    json_t *config;
    json_t *header;    /* of model.safetensors */
    size_t data_bytes; /* after it, zeros */
};

static inline void folder_file(const struct folder *folder, const char *name, const void *data,
                               size_t bytes)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder->path, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) || fclose(file) != 0)
        abort();
}

static inline void folder_text(const struct folder *folder, const char *name, const char *text)
{
    folder_file(folder, name, text, strlen(text));
}

static inline void folder_json(const struct folder *folder, const char *name, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    folder_text(folder, name, text);
    free(text);
}

/* A header and zeros behind it, padded so that the data is at a multiple of 8. */
static inline void folder_safetensors(const struct folder *folder, const char *name,
                                      const json_t *header, size_t data_bytes)
{
    char *text = json_dumps(header, JSON_COMPACT);
    size_t bytes = strlen(text), padded = (bytes + 7) / 8 * 8;
    uint8_t *file = calloc(1, 8 + padded + data_bytes);
    store_u64(file, padded);
    memset(file + 8, ' ', padded);
    memcpy(file + 8, text, bytes);
    folder_file(folder, name, file, 8 + padded + data_bytes);
    free(file);
    free(text);
}

/* The next tensor of model.safetensors; rows 0: a vector. BF16. */
static inline void folder_tensor(struct folder *folder, const char *name, size_t rows,
                                 size_t columns)
{
    size_t bytes = 2 * columns * (rows > 0 ? rows : 1);
    json_t *shape = rows > 0 ? json_pack("[I, I]", (json_int_t)rows, (json_int_t)columns)
                             : json_pack("[I]", (json_int_t)columns);
    json_object_set_new(folder->header, name,
                        json_pack("{ss so s[I, I]}", "dtype", "BF16", "shape", shape,
                                  "data_offsets", (json_int_t)folder->data_bytes,
                                  (json_int_t)(folder->data_bytes + bytes)));
    folder->data_bytes += bytes;
}

/* 2 layers, width 32, 4 heads over 2, 48 tokens. */
static inline void folder_make(struct folder *folder, const char *architecture)
{
    static const struct {
        const char *name;
        size_t rows, columns;
    } tensors[] = {
        {"input_layernorm.weight", 0, 32},   {"self_attn.q_proj.weight", 32, 32},
        {"self_attn.k_proj.weight", 16, 32}, {"self_attn.v_proj.weight", 16, 32},
        {"self_attn.o_proj.weight", 32, 32}, {"post_attention_layernorm.weight", 0, 32},
        {"mlp.gate_proj.weight", 64, 32},    {"mlp.up_proj.weight", 64, 32},
        {"mlp.down_proj.weight", 32, 64},    {"self_attn.q_proj.bias", 0, 32},
        {"self_attn.k_proj.bias", 0, 16},    {"self_attn.v_proj.bias", 0, 16},
        {"self_attn.q_norm.weight", 0, 8},   {"self_attn.k_norm.weight", 0, 8},
    };
    size_t first = 9, end = 9;
    if (strcmp(architecture, "qwen2") == 0)
        end = 12;
    if (strcmp(architecture, "qwen3") == 0)
        first = 12, end = 14;
    memset(folder, 0, sizeof(*folder));
    snprintf(folder->path, sizeof(folder->path), "/tmp/baton-test-XXXXXX");
    if (mkdtemp(folder->path) == NULL)
        abort();
    folder->config =
        json_pack("{ss si si si si si si si sf sb}", "model_type", architecture, "hidden_size", 32,
                  "intermediate_size", 64, "num_hidden_layers", 2, "num_attention_heads", 4,
                  "num_key_value_heads", 2, "max_position_embeddings", 256, "vocab_size", 48,
                  "rms_norm_eps", 1e-5, "tie_word_embeddings", 1);
    folder->header = json_object();
    folder_tensor(folder, "model.embed_tokens.weight", 48, 32);
    folder_tensor(folder, "model.norm.weight", 0, 32);
    for (int layer = 0; layer < 2; layer++) {
        for (size_t t = 0; t < end; t++) {
            char name[128];
            if (t >= 9 && t < first)
                continue;
            snprintf(name, sizeof(name), "model.layers.%d.%s", layer, tensors[t].name);
            folder_tensor(folder, name, tensors[t].rows, tensors[t].columns);
        }
    }
}

static inline void folder_write(const struct folder *folder)
{
    folder_json(folder, "config.json", folder->config);
    folder_safetensors(folder, "model.safetensors", folder->header, folder->data_bytes);
}

static inline void folder_unlink(const struct folder *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder->path, name);
    (void)unlink(path);
}

static inline void folder_remove(struct folder *folder)
{
    DIR *list = opendir(folder->path);
    for (struct dirent *entry = list != NULL ? readdir(list) : NULL; entry != NULL;
         entry = readdir(list))
        folder_unlink(folder, entry->d_name);
    if (list != NULL)
        closedir(list);
    (void)rmdir(folder->path);
    json_decref(folder->config);
    json_decref(folder->header);
}

#endif
