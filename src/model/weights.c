#include "model/weights.h"

#include <math.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "model/gguf.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are used where they lie in the file, which is little-endian"
#endif

/* Beyond any model there is; sums and products of them stay far from overflow. */
#define LAYERS_MAX 4096u
#define WIDTH_MAX (1u << 20)
#define HEADS_MAX 4096u
#define HEAD_DIM_MAX 1024u
#define VOCABULARY_MAX (1u << 24)
#define CONTEXT_TOKENS_MAX (1u << 28)

#define KEY_BYTES 128

/* A tensor up to whole bytes is hashed whole, a longer one at SAMPLES evenly spread places. */
#define FINGERPRINT_WHOLE_BYTES 65536u
#define FINGERPRINT_SAMPLE_BYTES 4096u
#define FINGERPRINT_SAMPLES 16u

struct architecture {
    const char *name;
    bool rope_halves;
    bool bias_required; /* of q, k and v */
    bool head_norm;     /* of q and k */
};

static const struct architecture architectures[] = {
    [MODEL_LLAMA] = {"llama", false, false, false},
    [MODEL_QWEN2] = {"qwen2", true, true, false},
    [MODEL_QWEN3] = {"qwen3", true, false, true},
};
#define ARCHITECTURES "llama, qwen2, qwen3"
#define TENSOR_TYPES "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K"

/* A model while it is read. */
struct weights {
    struct gguf *gguf;
    struct model *model;
    const struct architecture *architecture;
    bool *used; /* [tensors in the file] */
};

static status weights_error(const struct weights *weights, status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static status weights_error(const struct weights *weights, status code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(code, "%s: %s", gguf_path(weights->gguf), text);
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

/* Hyper-parameters: "<architecture>.<name>" in the metadata. */

static void key_build(const struct weights *weights, const char *name, char key_out[KEY_BYTES])
{
    snprintf(key_out, KEY_BYTES, "%s.%s", weights->architecture->name, name);
}

static status number_read(const struct weights *weights, const char *name, uint32_t min,
                          uint32_t max, uint32_t *value_out)
{
    char key[KEY_BYTES];
    key_build(weights, name, key);
    uint32_t value = 0;
    status code = gguf_read_u32(weights->gguf, key, &value);
    if (code == ERR_NOT_FOUND)
        return weights_error(weights, ERR_BAD_INPUT, "metadata %s is missing", key);
    if (code != OK)
        return code;
    if (value < min || value > max)
        return weights_error(weights, ERR_BAD_INPUT, "metadata %s is %u (expected %u to %u)", key,
                             value, min, max);
    *value_out = value;
    return OK;
}

/* value_out keeps the default that it holds when the key is not there. */
static status number_read_optional(const struct weights *weights, const char *name, uint32_t min,
                                   uint32_t max, uint32_t *value_out)
{
    char key[KEY_BYTES];
    key_build(weights, name, key);
    if (!gguf_has(weights->gguf, key))
        return OK;
    return number_read(weights, name, min, max, value_out);
}

static status float_read(const struct weights *weights, const char *name, bool optional, float min,
                         float max, float *value_out)
{
    char key[KEY_BYTES];
    key_build(weights, name, key);
    if (!gguf_has(weights->gguf, key)) {
        if (optional)
            return OK;
        return weights_error(weights, ERR_BAD_INPUT, "metadata %s is missing", key);
    }
    float value = 0;
    status code = gguf_read_f32(weights->gguf, key, &value);
    if (code != OK)
        return code;
    if (!(value >= min && value <= max))
        return weights_error(weights, ERR_BAD_INPUT, "metadata %s is %g (expected %g to %g)", key,
                             (double)value, (double)min, (double)max);
    *value_out = value;
    return OK;
}

static status read_architecture(struct weights *weights)
{
    struct gguf_string found = {0};
    status code = gguf_read_string(weights->gguf, "general.architecture", &found);
    if (code == ERR_NOT_FOUND)
        return weights_error(weights, ERR_BAD_INPUT,
                             "metadata general.architecture is missing: not a model file");
    if (code != OK)
        return code;
    for (size_t i = 0; i < sizeof(architectures) / sizeof(architectures[0]); i++) {
        if (string_equals(found, architectures[i].name)) {
            weights->architecture = &architectures[i];
            weights->model->architecture = (enum model_architecture)i;
            weights->model->rope_halves = architectures[i].rope_halves;
            return OK;
        }
    }
    char text[64];
    text_copy(found, text, sizeof(text));
    return weights_error(weights, ERR_UNSUPPORTED,
                         "architecture \"%s\" is not supported (supported: " ARCHITECTURES ")",
                         text);
}

/* Things that change the arithmetic and are not built are refused by name, never ignored. */
static status refuse_unbuilt(const struct weights *weights)
{
    uint32_t experts = 0, window = 0, parts = 0;
    status code = number_read_optional(weights, "expert_count", 0, UINT32_MAX, &experts);
    if (code == OK)
        code = number_read_optional(weights, "attention.sliding_window", 0, UINT32_MAX, &window);
    if (code == OK && gguf_has(weights->gguf, "split.count"))
        code = gguf_read_u32(weights->gguf, "split.count", &parts);
    if (code != OK)
        return code;
    if (experts > 0)
        return weights_error(weights, ERR_UNSUPPORTED,
                             "a mixture of %u experts is not supported (supported: dense models)",
                             experts);
    if (window > 0 && window < weights->model->context_tokens)
        return weights_error(weights, ERR_UNSUPPORTED,
                             "a sliding attention window of %u tokens is not supported "
                             "(supported: full attention)",
                             window);
    if (parts > 1)
        return weights_error(weights, ERR_UNSUPPORTED,
                             "one of %u parts of a split model (supported: one file); merge the "
                             "parts",
                             parts);
    return OK;
}

static status read_heads(struct weights *weights)
{
    struct model *model = weights->model;
    status code = number_read(weights, "attention.head_count", 1, HEADS_MAX, &model->head_count);
    if (code != OK)
        return code;
    model->kv_head_count = model->head_count;
    code = number_read_optional(weights, "attention.head_count_kv", 1, HEADS_MAX,
                                &model->kv_head_count);
    if (code != OK)
        return code;
    if (model->head_count % model->kv_head_count != 0)
        return weights_error(weights, ERR_BAD_INPUT,
                             "%u query heads are not a multiple of %u key-value heads",
                             model->head_count, model->kv_head_count);

    model->head_dim = model->width / model->head_count;
    code = number_read_optional(weights, "attention.key_length", 2, HEAD_DIM_MAX, &model->head_dim);
    uint32_t value_dim = model->head_dim;
    if (code == OK)
        code = number_read_optional(weights, "attention.value_length", 2, HEAD_DIM_MAX, &value_dim);
    model->rope_dims = model->head_dim;
    if (code == OK)
        code = number_read_optional(weights, "rope.dimension_count", 2, HEAD_DIM_MAX,
                                    &model->rope_dims);
    if (code != OK)
        return code;
    if (model->head_dim < 2 || model->head_dim > HEAD_DIM_MAX || model->head_dim % 2 != 0)
        return weights_error(weights, ERR_BAD_INPUT,
                             "heads of %u dimensions (expected an even number from 2 to %u)",
                             model->head_dim, HEAD_DIM_MAX);
    if (value_dim != model->head_dim)
        return weights_error(weights, ERR_UNSUPPORTED,
                             "values of %u dimensions beside keys of %u are not supported "
                             "(supported: equal)",
                             value_dim, model->head_dim);
    if (model->rope_dims > model->head_dim || model->rope_dims % 2 != 0)
        return weights_error(weights, ERR_BAD_INPUT,
                             "%u rotated dimensions of a head of %u (expected an even number, at "
                             "most the head's)",
                             model->rope_dims, model->head_dim);
    return OK;
}

static status read_numbers(struct weights *weights)
{
    struct model *model = weights->model;
    status code = number_read(weights, "block_count", 1, LAYERS_MAX, &model->layer_count);
    if (code == OK)
        code = number_read(weights, "embedding_length", 1, WIDTH_MAX, &model->width);
    if (code == OK)
        code = number_read(weights, "feed_forward_length", 1, WIDTH_MAX, &model->ffn_width);
    if (code == OK)
        code =
            number_read(weights, "context_length", 1, CONTEXT_TOKENS_MAX, &model->context_tokens);
    if (code == OK)
        code = float_read(weights, "attention.layer_norm_rms_epsilon", false, 0.0f, 1.0f,
                          &model->norm_epsilon);
    model->rope_theta = 10000.0f;
    if (code == OK)
        code = float_read(weights, "rope.freq_base", true, 1.0f, 1e12f, &model->rope_theta);
    if (code == OK)
        code = read_heads(weights);
    if (code == OK)
        code = refuse_unbuilt(weights);
    return code;
}

/* Tensors. */

static status tensor_check(struct weights *weights, const struct gguf_tensor *found, bool vector,
                           uint32_t rows, uint32_t columns)
{
    if (!dtype_known(found->type)) {
        const char *name = gguf_tensor_type_name(found->type);
        char number[32];
        snprintf(number, sizeof(number), "number %u", found->type);
        return weights_error(weights, ERR_UNSUPPORTED,
                             "tensor %s has type %s (supported: " TENSOR_TYPES ")", found->name,
                             name != NULL ? name : number);
    }
    if (vector && found->type != DTYPE_F32)
        return weights_error(weights, ERR_UNSUPPORTED, "vector %s has type %s (supported: F32)",
                             found->name, dtype_name((enum dtype)found->type));
    uint64_t rows_found = found->dimensions[1];
    bool flat = found->dimensions[2] == 1 && found->dimensions[3] == 1;
    if (found->dimensions[0] != columns || rows_found != rows || !flat)
        return weights_error(weights, ERR_BAD_INPUT,
                             "tensor %s has shape [%llu, %llu, %llu, %llu] (expected [%u, %u] from "
                             "the metadata)",
                             found->name, (unsigned long long)found->dimensions[0],
                             (unsigned long long)found->dimensions[1],
                             (unsigned long long)found->dimensions[2],
                             (unsigned long long)found->dimensions[3], columns, rows);
    return OK;
}

/* name's tensor, which must be rows x columns; a vector has rows = 1. */
static status tensor_read(struct weights *weights, const char *name, uint32_t rows,
                          uint32_t columns, struct model_tensor *tensor_out)
{
    const struct gguf_tensor *found = gguf_tensor_find(weights->gguf, name);
    if (found == NULL)
        return weights_error(weights, ERR_BAD_INPUT, "tensor %s is missing", name);
    bool vector = found->dimension_count == 1 && rows == 1;
    status code = tensor_check(weights, found, vector, rows, columns);
    if (code != OK)
        return code;
    *tensor_out = (struct model_tensor){.name = found->name,
                                        .type = (enum dtype)found->type,
                                        .rows = rows,
                                        .columns = columns,
                                        .data = found->data};
    weights->model->weight_bytes += found->bytes;
    weights->used[found - gguf_tensor_at(weights->gguf, 0)] = true;
    return OK;
}

/* What a layer's tensor is called, what shape it has, and where it goes. */
struct layer_tensor {
    const char *name;
    uint32_t rows, columns;
    bool needed;
    struct model_tensor *tensor;
};

static status read_layer(struct weights *weights, uint32_t index)
{
    const struct model *model = weights->model;
    const struct architecture *architecture = weights->architecture;
    struct model_layer *layer = &model->layers[index];
    uint32_t width = model->width, ffn = model->ffn_width;
    uint32_t q = model->head_count * model->head_dim, kv = model->kv_head_count * model->head_dim;
    bool bias = architecture->bias_required, norm = architecture->head_norm;
    const struct layer_tensor wanted[] = {
        {"attn_norm.weight", 1, width, true, &layer->attention_norm},
        {"attn_q.weight", q, width, true, &layer->wq},
        {"attn_k.weight", kv, width, true, &layer->wk},
        {"attn_v.weight", kv, width, true, &layer->wv},
        {"attn_q.bias", 1, q, bias, &layer->bq},
        {"attn_k.bias", 1, kv, bias, &layer->bk},
        {"attn_v.bias", 1, kv, bias, &layer->bv},
        {"attn_output.weight", width, q, true, &layer->wo},
        {"ffn_norm.weight", 1, width, true, &layer->ffn_norm},
        {"ffn_gate.weight", ffn, width, true, &layer->w_gate},
        {"ffn_up.weight", ffn, width, true, &layer->w_up},
        {"ffn_down.weight", width, ffn, true, &layer->w_down},
        {"attn_q_norm.weight", 1, model->head_dim, norm, norm ? &layer->q_norm : NULL},
        {"attn_k_norm.weight", 1, model->head_dim, norm, norm ? &layer->k_norm : NULL},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        char name[GGUF_NAME_BYTES_MAX + 1];
        snprintf(name, sizeof(name), "blk.%u.%s", index, wanted[i].name);
        /* A tensor that stays unread here is found by refuse_unread. */
        if (wanted[i].tensor == NULL ||
            (!wanted[i].needed && gguf_tensor_find(weights->gguf, name) == NULL))
            continue;
        status code =
            tensor_read(weights, name, wanted[i].rows, wanted[i].columns, wanted[i].tensor);
        if (code != OK)
            return code;
    }
    return OK;
}

static status read_embedding(struct weights *weights)
{
    struct model *model = weights->model;
    const struct gguf_tensor *table = gguf_tensor_find(weights->gguf, "token_embd.weight");
    if (table == NULL)
        return weights_error(weights, ERR_BAD_INPUT, "tensor token_embd.weight is missing");
    if (table->dimensions[1] > VOCABULARY_MAX)
        return weights_error(weights, ERR_BAD_INPUT,
                             "tensor token_embd.weight has %llu rows (expected at most %u)",
                             (unsigned long long)table->dimensions[1], VOCABULARY_MAX);
    model->vocabulary = (uint32_t)table->dimensions[1];

    uint32_t declared = model->vocabulary;
    status code = number_read_optional(weights, "vocab_size", 1, VOCABULARY_MAX, &declared);
    if (code != OK)
        return code;
    if (declared != model->vocabulary)
        return weights_error(weights, ERR_BAD_INPUT,
                             "metadata %s.vocab_size is %u, but token_embd.weight has %u rows",
                             weights->architecture->name, declared, model->vocabulary);
    /* Every token id that a tokenizer may give must have its row. */
    if (gguf_has(weights->gguf, "tokenizer.ggml.tokens")) {
        struct gguf_strings tokens = {0};
        code = gguf_read_strings(weights->gguf, "tokenizer.ggml.tokens", &tokens);
        if (code != OK)
            return code;
        if (tokens.count > model->vocabulary)
            return weights_error(weights, ERR_BAD_INPUT,
                                 "tokenizer.ggml.tokens has %zu tokens, but token_embd.weight has "
                                 "%u rows",
                                 tokens.count, model->vocabulary);
    }

    code = tensor_read(weights, "token_embd.weight", model->vocabulary, model->width,
                       &model->embedding);
    if (code == OK)
        code = tensor_read(weights, "output_norm.weight", 1, model->width, &model->output_norm);
    if (code != OK)
        return code;
    if (gguf_tensor_find(weights->gguf, "output.weight") != NULL)
        return tensor_read(weights, "output.weight", model->vocabulary, model->width,
                           &model->output);
    model->output = model->embedding;
    return OK;
}

/* rope.scaling.*: none, or linear, which divides every frequency by one factor. */
static status read_rope_scaling(const struct weights *weights, float *factor_out)
{
    char key[KEY_BYTES], text[64];
    struct gguf_string type = {0};
    *factor_out = 1.0f;
    status code = float_read(weights, "rope.scale_linear", true, 1e-3f, 1e6f, factor_out);
    if (code != OK)
        return code;
    key_build(weights, "rope.scaling.type", key);
    if (!gguf_has(weights->gguf, key))
        return OK;
    code = gguf_read_string(weights->gguf, key, &type);
    if (code != OK)
        return code;
    if (string_equals(type, "none"))
        return OK;
    if (string_equals(type, "linear"))
        return float_read(weights, "rope.scaling.factor", true, 1e-3f, 1e6f, factor_out);
    text_copy(type, text, sizeof(text));
    return weights_error(weights, ERR_UNSUPPORTED,
                         "rope scaling \"%s\" is not supported (supported: none, linear, and "
                         "Llama-3's rope_freqs.weight)",
                         text);
}

/* The divisors of the frequencies: Llama-3's tensor, the linear factor, or their product. */
static status read_rope_factors(struct weights *weights)
{
    struct model *model = weights->model;
    float linear = 1.0f;
    status code = read_rope_scaling(weights, &linear);
    if (code != OK)
        return code;
    uint32_t count = model->rope_dims / 2;
    const float *table = NULL;
    if (gguf_tensor_find(weights->gguf, "rope_freqs.weight") != NULL) {
        struct model_tensor tensor = {0};
        code = tensor_read(weights, "rope_freqs.weight", 1, count, &tensor);
        if (code != OK)
            return code;
        if (tensor.type != DTYPE_F32)
            return weights_error(weights, ERR_UNSUPPORTED,
                                 "rope_freqs.weight has type %s (supported: F32)",
                                 dtype_name(tensor.type));
        table = tensor.data;
    }
    for (uint32_t i = 0; table != NULL && i < count; i++) {
        if (!(table[i] >= 1e-3f && table[i] <= 1e6f))
            return weights_error(weights, ERR_BAD_INPUT,
                                 "rope_freqs.weight[%u] is %g (expected 0.001 to 1000000)", i,
                                 (double)table[i]);
    }
    model->rope_factors = table;
    if (linear >= 1.0f && linear <= 1.0f)
        return OK;

    float *factors = malloc(count * sizeof(*factors));
    if (factors == NULL)
        return weights_error(weights, ERR_NO_MEMORY, "no memory for %u rope factors", count);
    for (uint32_t i = 0; i < count; i++)
        factors[i] = linear * (table != NULL ? table[i] : 1.0f);
    model->rope_factors = factors;
    model->rope_factors_own = factors;
    return OK;
}

/* A tensor that nothing reads means arithmetic that is not built. */
static status refuse_unread(const struct weights *weights)
{
    for (size_t i = 0; i < gguf_tensor_count(weights->gguf); i++) {
        if (!weights->used[i])
            return weights_error(weights, ERR_UNSUPPORTED,
                                 "tensor %s is not part of a %s model of %u layers as it is built "
                                 "here",
                                 gguf_tensor_at(weights->gguf, i)->name,
                                 weights->architecture->name, weights->model->layer_count);
    }
    return OK;
}

static status read_tensors(struct weights *weights)
{
    struct model *model = weights->model;
    size_t count = gguf_tensor_count(weights->gguf);
    /* A hostile layer count allocates nothing: every layer has tensors in the file. */
    if (model->layer_count > count)
        return weights_error(weights, ERR_BAD_INPUT, "%u layers, but only %zu tensors in the file",
                             model->layer_count, count);
    model->layers = calloc(model->layer_count, sizeof(*model->layers));
    weights->used = calloc(count, sizeof(*weights->used));
    if (model->layers == NULL || weights->used == NULL)
        return weights_error(weights, ERR_NO_MEMORY, "no memory for %u layers", model->layer_count);
    status code = read_embedding(weights);
    for (uint32_t i = 0; code == OK && i < model->layer_count; i++)
        code = read_layer(weights, i);
    if (code == OK)
        code = read_rope_factors(weights);
    if (code == OK)
        code = refuse_unread(weights);
    return code;
}

/* Name and fingerprint. */

static void name_model(struct weights *weights)
{
    struct model *model = weights->model;
    struct gguf_string name = {0};
    if (gguf_has(weights->gguf, "general.name") &&
        gguf_read_string(weights->gguf, "general.name", &name) == OK && name.bytes > 0) {
        text_copy(name, model->name, sizeof(model->name));
        return;
    }
    const char *path = gguf_path(weights->gguf);
    const char *slash = strrchr(path, '/');
    name.text = slash != NULL ? slash + 1 : path;
    name.bytes = strlen(name.text);
    if (name.bytes > 5 && strcmp(name.text + name.bytes - 5, ".gguf") == 0)
        name.bytes -= 5;
    text_copy(name, model->name, sizeof(model->name));
}

/* BLAKE2b-256 over a version word, the header (metadata and tensor table), and each tensor in the
 * file's order: its size, then all of it or, when it is long, pieces spread over it, the first and
 * the last bytes among them. So a 100 GB model costs a few dozen MB of reads, and a model that was
 * trained further or quantised anew differs in nearly every piece. */
static void fingerprint_model(struct weights *weights)
{
    static const char version[] = "baton model fingerprint 1";
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, NULL, 0, MODEL_FINGERPRINT_BYTES);
    crypto_generichash_update(&hash, (const unsigned char *)version, sizeof(version));

    size_t header_bytes;
    const uint8_t *header = gguf_header(weights->gguf, &header_bytes);
    crypto_generichash_update(&hash, header, header_bytes);
    for (size_t i = 0; i < gguf_tensor_count(weights->gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(weights->gguf, i);
        uint8_t size[8];
        store_u64(size, tensor->bytes);
        crypto_generichash_update(&hash, size, sizeof(size));
        if (tensor->bytes <= FINGERPRINT_WHOLE_BYTES) {
            crypto_generichash_update(&hash, tensor->data, tensor->bytes);
            continue;
        }
        size_t last = tensor->bytes - FINGERPRINT_SAMPLE_BYTES;
        size_t stride = last / (FINGERPRINT_SAMPLES - 1);
        for (size_t s = 0; s < FINGERPRINT_SAMPLES; s++) {
            size_t at = s + 1 < FINGERPRINT_SAMPLES ? s * stride : last;
            crypto_generichash_update(&hash, tensor->data + at, FINGERPRINT_SAMPLE_BYTES);
        }
    }
    crypto_generichash_final(&hash, weights->model->fingerprint, MODEL_FINGERPRINT_BYTES);
}

status weights_read(struct gguf *gguf, struct model **model_out)
{
    struct model *model = calloc(1, sizeof(*model));
    if (model == NULL || sodium_init() < 0) {
        free(model);
        gguf_close(gguf);
        return error_set(ERR_NO_MEMORY, "no memory for a model");
    }
    model->gguf = gguf;
    struct weights weights = {.gguf = gguf, .model = model};
    status code = read_architecture(&weights);
    if (code == OK)
        code = read_numbers(&weights);
    if (code == OK)
        code = read_tensors(&weights);
    free(weights.used);
    if (code != OK) {
        weights_close(model);
        return code;
    }
    name_model(&weights);
    fingerprint_model(&weights);
    *model_out = model;
    return OK;
}

status weights_open(const char *path, struct model **model_out)
{
    struct gguf *gguf = NULL;
    status code = gguf_open(path, &gguf);
    if (code != OK)
        return code;
    return weights_read(gguf, model_out);
}

void weights_close(struct model *model)
{
    if (model == NULL)
        return;
    gguf_close(model->gguf);
    free(model->rope_factors_own);
    free(model->layers);
    free(model);
}
