/* model/source_gguf.c - a GGUF file as the source of a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/gguf.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "model/weights.h"

struct source_gguf {
    struct source source;
    struct gguf *gguf;
    char architecture[SOURCE_WORD_BYTES];
    bool *used; /* [tensors in the file] */
};

/* Keys of the metadata, after "<architecture>." */
static const char *const number_keys[NUMBER_COUNT] = {
    [NUMBER_LAYERS] = "block_count",
    [NUMBER_WIDTH] = "embedding_length",
    [NUMBER_FFN_WIDTH] = "feed_forward_length",
    [NUMBER_CONTEXT] = "context_length",
    [NUMBER_HEADS] = "attention.head_count",
    [NUMBER_KV_HEADS] = "attention.head_count_kv",
    [NUMBER_KEY_DIM] = "attention.key_length",
    [NUMBER_VALUE_DIM] = "attention.value_length",
    [NUMBER_ROPE_DIMS] = "rope.dimension_count",
    [NUMBER_VOCABULARY] = "vocab_size",
    [NUMBER_EPSILON] = "attention.layer_norm_rms_epsilon",
    [NUMBER_ROPE_THETA] = "rope.freq_base",
};

/* Names of tensors; those of layers after "blk.<layer>." */
static const char *const tensor_names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "token_embd.weight",
    [ROLE_OUTPUT_NORM] = "output_norm.weight",
    [ROLE_OUTPUT] = "output.weight",
    [ROLE_ROPE_FACTORS] = "rope_freqs.weight",
    [ROLE_ATTENTION_NORM] = "attn_norm.weight",
    [ROLE_Q] = "attn_q.weight",
    [ROLE_K] = "attn_k.weight",
    [ROLE_V] = "attn_v.weight",
    [ROLE_Q_BIAS] = "attn_q.bias",
    [ROLE_K_BIAS] = "attn_k.bias",
    [ROLE_V_BIAS] = "attn_v.bias",
    [ROLE_ATTENTION_OUTPUT] = "attn_output.weight",
    [ROLE_FFN_NORM] = "ffn_norm.weight",
    [ROLE_GATE] = "ffn_gate.weight",
    [ROLE_UP] = "ffn_up.weight",
    [ROLE_DOWN] = "ffn_down.weight",
    [ROLE_Q_NORM] = "attn_q_norm.weight",
    [ROLE_K_NORM] = "attn_k_norm.weight",
};

static const struct source_gguf *gguf_of(const struct source *source)
{
    return (const struct source_gguf *)source;
}

/* As much of string as fits into text, NUL-terminated; what is not printable ASCII becomes '?'. */
static void text_copy(struct gguf_string string, char *text, size_t text_bytes)
{
    size_t bytes = string.bytes < text_bytes - 1 ? string.bytes : text_bytes - 1;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)string.text[i];
        text[i] = (char)(c >= 0x20 && c <= 0x7e ? c : '?');
    }
    text[bytes] = '\0';
}

static bool string_equals(struct gguf_string string, const char *text)
{
    return string.bytes == strlen(text) && memcmp(string.text, text, string.bytes) == 0;
}

static void key_build(const struct source_gguf *from, const char *name,
                      char key_out[SOURCE_NAME_BYTES])
{
    snprintf(key_out, SOURCE_NAME_BYTES, "%s.%s", from->architecture, name);
}

static void gguf_source_close(struct source *source)
{
    struct source_gguf *from = (struct source_gguf *)source;
    gguf_close(from->gguf);
    free(from->used);
    free(from);
}

static void gguf_source_forget(const struct source *source)
{
    gguf_forget(gguf_of(source)->gguf);
}

static status gguf_architecture(struct source *source, char word_out[SOURCE_WORD_BYTES])
{
    struct source_gguf *from = (struct source_gguf *)source;
    struct gguf_string found = {0};
    status code = gguf_read_string(from->gguf, "general.architecture", &found);
    if (code == ERR_NOT_FOUND)
        return source_error(source, ERR_BAD_INPUT,
                            "metadata general.architecture is missing: not a model file");
    if (code != OK)
        return code;
    text_copy(found, from->architecture, sizeof(from->architecture));
    memcpy(word_out, from->architecture, sizeof(from->architecture));
    return OK;
}

static void gguf_number_name(const struct source *source, enum source_number number,
                             char name_out[SOURCE_NAME_BYTES])
{
    snprintf(name_out, SOURCE_NAME_BYTES, "metadata %s.%s", gguf_of(source)->architecture,
             number_keys[number]);
}

static status gguf_number_u32(const struct source *source, enum source_number number,
                              uint32_t *value_out)
{
    char key[SOURCE_NAME_BYTES];
    key_build(gguf_of(source), number_keys[number], key);
    if (!gguf_has(gguf_of(source)->gguf, key))
        return ERR_NOT_FOUND;
    return gguf_read_u32(gguf_of(source)->gguf, key, value_out);
}

static status gguf_number_f32(const struct source *source, enum source_number number,
                              float *value_out)
{
    char key[SOURCE_NAME_BYTES];
    key_build(gguf_of(source), number_keys[number], key);
    if (!gguf_has(gguf_of(source)->gguf, key))
        return ERR_NOT_FOUND;
    return gguf_read_f32(gguf_of(source)->gguf, key, value_out);
}

/* value_out keeps what it holds when the key is not there. */
static status optional_u32(const struct source_gguf *from, const char *name, uint32_t *value_out)
{
    char key[SOURCE_NAME_BYTES];
    key_build(from, name, key);
    return gguf_has(from->gguf, key) ? gguf_read_u32(from->gguf, key, value_out) : OK;
}

static status gguf_refuse_unbuilt(const struct source *source, const struct model *model)
{
    const struct source_gguf *from = gguf_of(source);
    uint32_t experts = 0, window = 0, parts = 0;
    status code = optional_u32(from, "expert_count", &experts);
    if (code == OK)
        code = optional_u32(from, "attention.sliding_window", &window);
    if (code == OK && gguf_has(from->gguf, "split.count"))
        code = gguf_read_u32(from->gguf, "split.count", &parts);
    if (code != OK)
        return code;
    if (experts > 0)
        return source_error(source, ERR_UNSUPPORTED,
                            "a mixture of %u experts is not supported (supported: dense models)",
                            experts);
    if (window > 0 && window < model->context_tokens)
        return source_error(source, ERR_UNSUPPORTED,
                            "a sliding attention window of %u tokens is not supported "
                            "(supported: full attention)",
                            window);
    if (parts > 1)
        return source_error(source, ERR_UNSUPPORTED,
                            "one of %u parts of a split model (supported: one file); merge the "
                            "parts",
                            parts);
    return OK;
}

/* A factor that divides all frequencies alike; factor_out keeps what it holds without the key. */
static status read_factor(const struct source_gguf *from, const char *name, float *factor_out)
{
    char key[SOURCE_NAME_BYTES];
    key_build(from, name, key);
    if (!gguf_has(from->gguf, key))
        return OK;
    float value = 0;
    status code = gguf_read_f32(from->gguf, key, &value);
    if (code != OK)
        return code;
    if (!(value >= 1e-3f && value <= 1e6f))
        return source_error(&from->source, ERR_BAD_INPUT,
                            "metadata %s is %g (expected 0.001 to 1e+06)", key, (double)value);
    *factor_out = value;
    return OK;
}

/* rope.scaling.*: none, or linear, which divides every frequency by one factor. */
static status read_rope_scaling(const struct source_gguf *from, float *factor_out)
{
    char key[SOURCE_NAME_BYTES], text[SOURCE_WORD_BYTES];
    struct gguf_string type = {0};
    status code = read_factor(from, "rope.scale_linear", factor_out);
    if (code != OK)
        return code;
    key_build(from, "rope.scaling.type", key);
    if (!gguf_has(from->gguf, key))
        return OK;
    code = gguf_read_string(from->gguf, key, &type);
    if (code != OK)
        return code;
    if (string_equals(type, "none"))
        return OK;
    if (string_equals(type, "linear"))
        return read_factor(from, "rope.scaling.factor", factor_out);
    text_copy(type, text, sizeof(text));
    return source_error(&from->source, ERR_UNSUPPORTED,
                        "rope scaling \"%s\" is not supported (supported: none, linear, and "
                        "Llama-3's rope_freqs.weight)",
                        text);
}

static status gguf_scale_rope(const struct source *source, const struct model *model,
                              float *divisors)
{
    float factor = 1.0f;
    status code = read_rope_scaling(gguf_of(source), &factor);
    for (uint32_t i = 0; code == OK && i < model->rope_dims / 2; i++)
        divisors[i] *= factor;
    return code;
}

static void gguf_tensor_name(const struct source *source, enum source_role role, uint32_t layer,
                             char name_out[SOURCE_NAME_BYTES])
{
    (void)source;
    if (role < ROLE_LAYERS)
        snprintf(name_out, SOURCE_NAME_BYTES, "%s", tensor_names[role]);
    else
        snprintf(name_out, SOURCE_NAME_BYTES, "blk.%u.%s", layer, tensor_names[role]);
}

static void tensor_fill(const struct gguf_tensor *found, struct source_tensor *tensor_out)
{
    *tensor_out = (struct source_tensor){
        .name = found->name,
        .type_name = gguf_tensor_type_name(found->type),
        .type_number = found->type,
        .type_known = dtype_known(found->type),
        .type = (enum dtype)found->type,
        .dimension_count = found->dimension_count,
        .data = found->data,
        .bytes = found->bytes,
    };
    memcpy(tensor_out->dimensions, found->dimensions, sizeof(found->dimensions));
}

static bool gguf_source_find(struct source *source, enum source_role role, uint32_t layer,
                             uint32_t rows, uint32_t columns, struct source_tensor *tensor_out)
{
    struct source_gguf *from = (struct source_gguf *)source;
    char name[SOURCE_NAME_BYTES];
    (void)rows;
    (void)columns;
    gguf_tensor_name(source, role, layer, name);
    const struct gguf_tensor *found = gguf_tensor_find(from->gguf, name);
    if (found == NULL)
        return false;
    from->used[found - gguf_tensor_at(from->gguf, 0)] = true;
    tensor_fill(found, tensor_out);
    return true;
}

static const char *gguf_tensor_unread(const struct source *source)
{
    const struct source_gguf *from = gguf_of(source);
    for (size_t i = 0; i < source->tensor_count; i++) {
        if (!from->used[i])
            return gguf_tensor_at(from->gguf, i)->name;
    }
    return NULL;
}

static bool gguf_source_at(const struct source *source, size_t index,
                           struct source_tensor *tensor_out)
{
    if (index >= source->tensor_count)
        return false;
    tensor_fill(gguf_tensor_at(gguf_of(source)->gguf, index), tensor_out);
    return true;
}

/* general.name, else the file's name without .gguf. */
static void gguf_name(const struct source *source, char *name_out, size_t bytes)
{
    const struct gguf *gguf = gguf_of(source)->gguf;
    struct gguf_string name = {0};
    if (gguf_has(gguf, "general.name") && gguf_read_string(gguf, "general.name", &name) == OK &&
        name.bytes > 0) {
        text_copy(name, name_out, bytes);
        return;
    }
    const char *slash = strrchr(source->path, '/');
    name.text = slash != NULL ? slash + 1 : source->path;
    name.bytes = strlen(name.text);
    if (name.bytes > 5 && strcmp(name.text + name.bytes - 5, ".gguf") == 0)
        name.bytes -= 5;
    text_copy(name, name_out, bytes);
}

/* The header: metadata and tensor table. */
static void gguf_identify(const struct source *source, crypto_generichash_state *hash)
{
    size_t bytes;
    const uint8_t *header = gguf_header(gguf_of(source)->gguf, &bytes);
    crypto_generichash_update(hash, header, bytes);
}

static status gguf_token_count(const struct source *source, size_t *count_out)
{
    const struct gguf *gguf = gguf_of(source)->gguf;
    struct gguf_strings tokens = {0};
    *count_out = 0;
    if (!gguf_has(gguf, "tokenizer.ggml.tokens"))
        return OK;
    status code = gguf_read_strings(gguf, "tokenizer.ggml.tokens", &tokens);
    *count_out = tokens.count;
    return code;
}

static status gguf_tokenizer_open(const struct source *source, uint32_t vocabulary,
                                  struct tokenizer **tokenizer_out)
{
    (void)vocabulary;
    return tokenizer_open_gguf(gguf_of(source)->gguf, tokenizer_out);
}

static status gguf_source_template(const struct source *source, char **text_out, size_t *bytes_out)
{
    return gguf_chat_template(gguf_of(source)->gguf, text_out, bytes_out);
}

static const struct source_calls gguf_calls = {
    .close = gguf_source_close,
    .forget = gguf_source_forget,
    .architecture = gguf_architecture,
    .number_name = gguf_number_name,
    .read_u32 = gguf_number_u32,
    .read_f32 = gguf_number_f32,
    .refuse_unbuilt = gguf_refuse_unbuilt,
    .scale_rope = gguf_scale_rope,
    .tensor_name = gguf_tensor_name,
    .tensor_find = gguf_source_find,
    .tensor_unread = gguf_tensor_unread,
    .tensor_at = gguf_source_at,
    .name = gguf_name,
    .identify = gguf_identify,
    .token_count = gguf_token_count,
    .tokenizer_open = gguf_tokenizer_open,
    .chat_template = gguf_source_template,
};

status source_gguf_open(struct gguf *gguf, struct source **source_out)
{
    struct source_gguf *from = calloc(1, sizeof(*from));
    size_t count = gguf_tensor_count(gguf);
    bool *used = calloc(count + 1, sizeof(*used));
    if (from == NULL || used == NULL) {
        free(from);
        free(used);
        gguf_close(gguf);
        return error_set(ERR_NO_MEMORY, "no memory for a model");
    }
    from->gguf = gguf;
    from->used = used;
    from->source = (struct source){
        .calls = &gguf_calls,
        .path = gguf_path(gguf),
        .file = gguf_path(gguf),
        .tensor_count = count,
        .tensor_types = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K",
    };
    *source_out = &from->source;
    return OK;
}
