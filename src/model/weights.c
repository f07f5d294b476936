#include "model/weights.h"

#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/error.h"
#include "model/gguf.h"
#include "model/source.h"
#include "model/tokenizer.h"

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

/* A model while it is read. */
struct weights {
    struct source *source;
    struct model *model;
    const struct architecture *architecture;
};

status source_error(const struct source *source, status code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return error_set(code, "%s: %s", source->path, text);
}

/* The numbers of the shape. */

static status number_read(const struct weights *weights, enum source_number number, uint32_t min,
                          uint32_t max, uint32_t *value_out)
{
    const struct source *source = weights->source;
    char name[SOURCE_NAME_BYTES];
    source->calls->number_name(source, number, name);
    uint32_t value = 0;
    status code = source->calls->read_u32(source, number, &value);
    if (code == ERR_NOT_FOUND)
        return source_error(source, ERR_BAD_INPUT, "%s is missing", name);
    if (code != OK)
        return code;
    if (value < min || value > max)
        return source_error(source, ERR_BAD_INPUT, "%s is %u (expected %u to %u)", name, value, min,
                            max);
    *value_out = value;
    return OK;
}

/* value_out keeps the default that it holds when the number is not given. */
static status number_read_optional(const struct weights *weights, enum source_number number,
                                   uint32_t min, uint32_t max, uint32_t *value_out)
{
    uint32_t value;
    if (weights->source->calls->read_u32(weights->source, number, &value) == ERR_NOT_FOUND)
        return OK;
    return number_read(weights, number, min, max, value_out);
}

static status float_read(const struct weights *weights, enum source_number number, bool optional,
                         float min, float max, float *value_out)
{
    const struct source *source = weights->source;
    char name[SOURCE_NAME_BYTES];
    source->calls->number_name(source, number, name);
    float value = 0;
    status code = source->calls->read_f32(source, number, &value);
    if (code == ERR_NOT_FOUND && optional)
        return OK;
    if (code == ERR_NOT_FOUND)
        return source_error(source, ERR_BAD_INPUT, "%s is missing", name);
    if (code != OK)
        return code;
    if (!(value >= min && value <= max))
        return source_error(source, ERR_BAD_INPUT, "%s is %g (expected %g to %g)", name,
                            (double)value, (double)min, (double)max);
    *value_out = value;
    return OK;
}

static status read_architecture(struct weights *weights)
{
    char word[SOURCE_WORD_BYTES];
    struct source *source = weights->source;
    status code = source->calls->architecture(source, word);
    if (code != OK)
        return code;
    for (size_t i = 0; i < sizeof(architectures) / sizeof(architectures[0]); i++) {
        if (strcmp(word, architectures[i].name) == 0) {
            weights->architecture = &architectures[i];
            weights->model->architecture = (enum model_architecture)i;
            weights->model->rope_halves = source->rope_halves || architectures[i].rope_halves;
            return OK;
        }
    }
    return source_error(source, ERR_UNSUPPORTED,
                        "architecture \"%s\" is not supported (supported: " ARCHITECTURES ")",
                        word);
}

static status read_heads(struct weights *weights)
{
    struct model *model = weights->model;
    const struct source *source = weights->source;
    status code = number_read(weights, NUMBER_HEADS, 1, HEADS_MAX, &model->head_count);
    if (code != OK)
        return code;
    model->kv_head_count = model->head_count;
    code = number_read_optional(weights, NUMBER_KV_HEADS, 1, HEADS_MAX, &model->kv_head_count);
    if (code != OK)
        return code;
    if (model->head_count % model->kv_head_count != 0)
        return source_error(source, ERR_BAD_INPUT,
                            "%u query heads are not a multiple of %u key-value heads",
                            model->head_count, model->kv_head_count);

    model->head_dim = model->width / model->head_count;
    code = number_read_optional(weights, NUMBER_KEY_DIM, 2, HEAD_DIM_MAX, &model->head_dim);
    uint32_t value_dim = model->head_dim;
    if (code == OK)
        code = number_read_optional(weights, NUMBER_VALUE_DIM, 2, HEAD_DIM_MAX, &value_dim);
    model->rope_dims = model->head_dim;
    if (code == OK)
        code = number_read_optional(weights, NUMBER_ROPE_DIMS, 2, HEAD_DIM_MAX, &model->rope_dims);
    if (code != OK)
        return code;
    if (model->head_dim < 2 || model->head_dim > HEAD_DIM_MAX || model->head_dim % 2 != 0)
        return source_error(source, ERR_BAD_INPUT,
                            "heads of %u dimensions (expected an even number from 2 to %u)",
                            model->head_dim, HEAD_DIM_MAX);
    if (value_dim != model->head_dim)
        return source_error(source, ERR_UNSUPPORTED,
                            "values of %u dimensions beside keys of %u are not supported "
                            "(supported: equal)",
                            value_dim, model->head_dim);
    if (model->rope_dims > model->head_dim || model->rope_dims % 2 != 0)
        return source_error(source, ERR_BAD_INPUT,
                            "%u rotated dimensions of a head of %u (expected an even number, at "
                            "most the head's)",
                            model->rope_dims, model->head_dim);
    return OK;
}

static status read_numbers(struct weights *weights)
{
    struct model *model = weights->model;
    status code = number_read(weights, NUMBER_LAYERS, 1, LAYERS_MAX, &model->layer_count);
    if (code == OK)
        code = number_read(weights, NUMBER_WIDTH, 1, WIDTH_MAX, &model->width);
    if (code == OK)
        code = number_read(weights, NUMBER_FFN_WIDTH, 1, WIDTH_MAX, &model->ffn_width);
    if (code == OK)
        code = number_read(weights, NUMBER_CONTEXT, 1, CONTEXT_TOKENS_MAX, &model->context_tokens);
    if (code == OK)
        code = float_read(weights, NUMBER_EPSILON, false, 0.0f, 1.0f, &model->norm_epsilon);
    model->rope_theta = 10000.0f;
    if (code == OK)
        code = float_read(weights, NUMBER_ROPE_THETA, true, 1.0f, 1e12f, &model->rope_theta);
    if (code == OK)
        code = read_heads(weights);
    if (code == OK)
        code = weights->source->calls->refuse_unbuilt(weights->source, model);
    return code;
}

/* Tensors. */

/* The shape as its format writes it. */
static void shape_text(const struct source *source, const struct source_tensor *tensor,
                       uint32_t rows, uint32_t columns, char text[SOURCE_NAME_BYTES])
{
    const uint64_t *d = tensor->dimensions;
    if (source->rows_first)
        snprintf(text, SOURCE_NAME_BYTES,
                 "[%llu, %llu, %llu, %llu] (expected [%u, %u] from the "
                 "configuration)",
                 (unsigned long long)d[3], (unsigned long long)d[2], (unsigned long long)d[1],
                 (unsigned long long)d[0], rows, columns);
    else
        snprintf(text, SOURCE_NAME_BYTES,
                 "[%llu, %llu, %llu, %llu] (expected [%u, %u] from the "
                 "metadata)",
                 (unsigned long long)d[0], (unsigned long long)d[1], (unsigned long long)d[2],
                 (unsigned long long)d[3], columns, rows);
}

static status tensor_check(const struct weights *weights, const struct source_tensor *found,
                           uint32_t rows, uint32_t columns)
{
    const struct source *source = weights->source;
    if (!found->type_known) {
        char number[32];
        snprintf(number, sizeof(number), "number %u", found->type_number);
        return source_error(source, ERR_UNSUPPORTED, "tensor %s has type %s (supported: %s)",
                            found->name, found->type_name != NULL ? found->type_name : number,
                            source->tensor_types);
    }
    bool vector = found->dimension_count == 1 && rows == 1;
    if (vector && found->type != DTYPE_F32 && !source->vector_types_any)
        return source_error(source, ERR_UNSUPPORTED, "vector %s has type %s (supported: F32)",
                            found->name, dtype_name(found->type));
    bool flat = found->dimensions[2] == 1 && found->dimensions[3] == 1;
    if (found->dimensions[0] != columns || found->dimensions[1] != rows || !flat) {
        char text[SOURCE_NAME_BYTES];
        shape_text(source, found, rows, columns, text);
        return source_error(source, ERR_BAD_INPUT, "tensor %s has shape %s", found->name, text);
    }
    return OK;
}

/* The tensor of a role, which must be rows x columns; a vector has rows = 1. */
static status tensor_read(struct weights *weights, enum source_role role, uint32_t layer,
                          uint32_t rows, uint32_t columns, struct model_tensor *tensor_out)
{
    struct source *source = weights->source;
    struct source_tensor found;
    if (!source->calls->tensor_find(source, role, layer, rows, columns, &found)) {
        char name[SOURCE_NAME_BYTES];
        source->calls->tensor_name(source, role, layer, name);
        return source_error(source, ERR_BAD_INPUT, "tensor %s is missing", name);
    }
    status code = tensor_check(weights, &found, rows, columns);
    if (code != OK)
        return code;
    *tensor_out = (struct model_tensor){.name = found.name,
                                        .type = found.type,
                                        .rows = rows,
                                        .columns = columns,
                                        .data = found.data,
                                        .synthetic = found.synthetic};
    weights->model->weight_bytes += found.bytes;
    return OK;
}

static bool tensor_there(struct weights *weights, enum source_role role, uint32_t layer,
                         uint32_t rows, uint32_t columns)
{
    struct source_tensor found;
    return weights->source->calls->tensor_find(weights->source, role, layer, rows, columns, &found);
}

/* What shape a layer's tensor has, and where it goes. */
struct layer_tensor {
    enum source_role role;
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
        {ROLE_ATTENTION_NORM, 1, width, true, &layer->attention_norm},
        {ROLE_Q, q, width, true, &layer->wq},
        {ROLE_K, kv, width, true, &layer->wk},
        {ROLE_V, kv, width, true, &layer->wv},
        {ROLE_Q_BIAS, 1, q, bias, &layer->bq},
        {ROLE_K_BIAS, 1, kv, bias, &layer->bk},
        {ROLE_V_BIAS, 1, kv, bias, &layer->bv},
        {ROLE_ATTENTION_OUTPUT, width, q, true, &layer->wo},
        {ROLE_FFN_NORM, 1, width, true, &layer->ffn_norm},
        {ROLE_GATE, ffn, width, true, &layer->w_gate},
        {ROLE_UP, ffn, width, true, &layer->w_up},
        {ROLE_DOWN, width, ffn, true, &layer->w_down},
        {ROLE_Q_NORM, 1, model->head_dim, norm, norm ? &layer->q_norm : NULL},
        {ROLE_K_NORM, 1, model->head_dim, norm, norm ? &layer->k_norm : NULL},
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        const struct layer_tensor *want = &wanted[i];
        /* A tensor that stays unread here is found by refuse_unread. */
        if (want->tensor == NULL ||
            (!want->needed && !tensor_there(weights, want->role, index, want->rows, want->columns)))
            continue;
        status code =
            tensor_read(weights, want->role, index, want->rows, want->columns, want->tensor);
        if (code != OK)
            return code;
    }
    return OK;
}

/* model->vocabulary: the rows of the embedding, which must be those that the numbers say. */
static status read_vocabulary(struct weights *weights)
{
    struct source *source = weights->source;
    struct model *model = weights->model;
    char embedding[SOURCE_NAME_BYTES], name[SOURCE_NAME_BYTES];
    struct source_tensor table;
    uint32_t declared = 0;
    size_t tokens = 0;
    source->calls->tensor_name(source, ROLE_EMBEDDING, 0, embedding);
    status code = number_read_optional(weights, NUMBER_VOCABULARY, 1, VOCABULARY_MAX, &declared);
    if (code != OK)
        return code;
    if (!source->calls->tensor_find(source, ROLE_EMBEDDING, 0, declared, model->width, &table))
        return source_error(source, ERR_BAD_INPUT, "tensor %s is missing", embedding);
    if (table.dimensions[1] > VOCABULARY_MAX)
        return source_error(source, ERR_BAD_INPUT, "tensor %s has %llu rows (expected at most %u)",
                            embedding, (unsigned long long)table.dimensions[1], VOCABULARY_MAX);
    model->vocabulary = (uint32_t)table.dimensions[1];
    source->calls->number_name(source, NUMBER_VOCABULARY, name);
    if (declared != 0 && declared != model->vocabulary)
        return source_error(source, ERR_BAD_INPUT, "%s is %u, but %s has %u rows", name, declared,
                            embedding, model->vocabulary);
    /* Every token id that a tokenizer may give must have its row. */
    code = source->calls->token_count(source, &tokens);
    if (code == OK && tokens > model->vocabulary)
        return source_error(source, ERR_BAD_INPUT,
                            "tokenizer.ggml.tokens has %zu tokens, but %s has %u rows", tokens,
                            embedding, model->vocabulary);
    return code;
}

static status read_embedding(struct weights *weights)
{
    struct model *model = weights->model;
    status code = read_vocabulary(weights);
    if (code == OK)
        code = tensor_read(weights, ROLE_EMBEDDING, 0, model->vocabulary, model->width,
                           &model->embedding);
    if (code == OK)
        code = tensor_read(weights, ROLE_OUTPUT_NORM, 0, 1, model->width, &model->output_norm);
    if (code != OK)
        return code;
    if (weights->source->head_required ||
        tensor_there(weights, ROLE_OUTPUT, 0, model->vocabulary, model->width))
        return tensor_read(weights, ROLE_OUTPUT, 0, model->vocabulary, model->width,
                           &model->output);
    model->output = model->embedding;
    model->tied = true;
    return OK;
}

/* Llama-3's tensor of divisors, or NULL. */
static status read_rope_table(struct weights *weights, const float **table_out)
{
    uint32_t count = weights->model->rope_dims / 2;
    struct model_tensor tensor = {0};
    *table_out = NULL;
    if (!tensor_there(weights, ROLE_ROPE_FACTORS, 0, 1, count))
        return OK;
    status code = tensor_read(weights, ROLE_ROPE_FACTORS, 0, 1, count, &tensor);
    if (code != OK)
        return code;
    if (tensor.type != DTYPE_F32)
        return source_error(weights->source, ERR_UNSUPPORTED, "%s has type %s (supported: F32)",
                            tensor.name, dtype_name(tensor.type));
    const float *table = tensor.data;
    for (uint32_t i = 0; i < count; i++) {
        if (!(table[i] >= 1e-3f && table[i] <= 1e6f))
            return source_error(weights->source, ERR_BAD_INPUT,
                                "%s[%u] is %g (expected 0.001 to 1000000)", tensor.name, i,
                                (double)table[i]);
    }
    *table_out = table;
    return OK;
}

/* The divisors of the frequencies: Llama-3's tensor, what scaling asks for, or their product. */
static status read_rope_factors(struct weights *weights)
{
    struct model *model = weights->model;
    uint32_t count = model->rope_dims / 2;
    const float *table = NULL;
    status code = read_rope_table(weights, &table);
    if (code != OK)
        return code;
    float *factors = malloc(count * sizeof(*factors));
    if (factors == NULL)
        return source_error(weights->source, ERR_NO_MEMORY, "no memory for %u rope factors", count);
    for (uint32_t i = 0; i < count; i++)
        factors[i] = 1.0f;
    code = weights->source->calls->scale_rope(weights->source, model, factors);
    bool scaled = false;
    for (uint32_t i = 0; i < count; i++) {
        scaled = scaled || !(factors[i] >= 1.0f && factors[i] <= 1.0f);
        factors[i] *= table != NULL ? table[i] : 1.0f;
    }
    if (code != OK || !scaled) {
        free(factors);
        model->rope_factors = table;
        return code;
    }
    model->rope_factors = factors;
    model->rope_factors_own = factors;
    return OK;
}

/* A tensor that nothing reads means arithmetic that is not built. */
static status refuse_unread(const struct weights *weights)
{
    const char *name = weights->source->calls->tensor_unread(weights->source);
    if (name == NULL)
        return OK;
    return source_error(weights->source, ERR_UNSUPPORTED,
                        "tensor %s is not part of a %s model of %u layers as it is built here",
                        name, weights->architecture->name, weights->model->layer_count);
}

static status read_tensors(struct weights *weights)
{
    struct model *model = weights->model;
    size_t count = weights->source->tensor_count;
    /* A hostile layer count allocates nothing: every layer has tensors in the file. */
    if (model->layer_count > count)
        return source_error(weights->source, ERR_BAD_INPUT,
                            "%u layers, but only %zu tensors in the file", model->layer_count,
                            count);
    model->layers = calloc(model->layer_count, sizeof(*model->layers));
    if (model->layers == NULL)
        return source_error(weights->source, ERR_NO_MEMORY, "no memory for %u layers",
                            model->layer_count);
    status code = read_embedding(weights);
    for (uint32_t i = 0; code == OK && i < model->layer_count; i++)
        code = read_layer(weights, i);
    if (code == OK)
        code = read_rope_factors(weights);
    if (code == OK)
        code = refuse_unread(weights);
    return code;
}

/* BLAKE2b-256 over a version word, what the source says about the model (GGUF: metadata and tensor
 * table), and each tensor in the source's order: its size, then all of it or, when it is long,
 * pieces spread over it, the first and the last bytes among them. So a 100 GB model costs a few
 * dozen MB of reads, and a model that was trained further or quantised anew differs in nearly every
 * piece. Generated values are named by their seeds, which the source says. */
static void fingerprint_model(struct weights *weights)
{
    static const char version[] = "baton model fingerprint 1";
    const struct source *source = weights->source;
    struct source_tensor tensor;
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, NULL, 0, MODEL_FINGERPRINT_BYTES);
    crypto_generichash_update(&hash, (const unsigned char *)version, sizeof(version));
    source->calls->identify(source, &hash);
    for (size_t i = 0; source->calls->tensor_at(source, i, &tensor); i++) {
        const uint8_t *data = tensor.data;
        uint8_t size[8];
        store_u64(size, tensor.bytes);
        crypto_generichash_update(&hash, size, sizeof(size));
        if (tensor.bytes <= FINGERPRINT_WHOLE_BYTES) {
            crypto_generichash_update(&hash, data, tensor.bytes);
            continue;
        }
        size_t last = tensor.bytes - FINGERPRINT_SAMPLE_BYTES;
        size_t stride = last / (FINGERPRINT_SAMPLES - 1);
        for (size_t s = 0; s < FINGERPRINT_SAMPLES; s++) {
            size_t at = s + 1 < FINGERPRINT_SAMPLES ? s * stride : last;
            crypto_generichash_update(&hash, data + at, FINGERPRINT_SAMPLE_BYTES);
        }
    }
    crypto_generichash_final(&hash, weights->model->fingerprint, MODEL_FINGERPRINT_BYTES);
}

/* source belongs to the call: it is closed when the call fails, and with the model when not. */
static status model_read(struct source *source, struct model **model_out)
{
    struct model *model = calloc(1, sizeof(*model));
    if (model == NULL || sodium_init() < 0) {
        free(model);
        source->calls->close(source);
        return error_set(ERR_NO_MEMORY, "no memory for a model");
    }
    model->source = source;
    struct weights weights = {.source = source, .model = model};
    status code = read_architecture(&weights);
    if (code == OK)
        code = read_numbers(&weights);
    if (code == OK)
        code = read_tensors(&weights);
    if (code != OK) {
        weights_close(model);
        return code;
    }
    source->calls->name(source, model->name, sizeof(model->name));
    fingerprint_model(&weights);
    source->calls->forget(source); /* a router needs no more of the weights */
    *model_out = model;
    return OK;
}

status weights_read(struct gguf *gguf, struct model **model_out)
{
    struct source *source = NULL;
    status code = source_gguf_open(gguf, &source);
    if (code != OK)
        return code;
    return model_read(source, model_out);
}

status weights_open(const char *path, struct model **model_out)
{
    struct stat facts;
    struct source *source = NULL;
    struct gguf *gguf = NULL;
    status code;
    if (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode)) {
        code = source_directory_open(path, &source);
        return code == OK ? model_read(source, model_out) : code;
    }
    code = gguf_open(path, &gguf);
    return code == OK ? weights_read(gguf, model_out) : code;
}

status weights_choose(const char *path, const char *dummy_weights, struct model **model_out)
{
    struct source *source = NULL;
    if (dummy_weights == NULL && path == NULL)
        return error_set(ERR_BAD_INPUT, "no model: expected a GGUF file, a directory with "
                                        "config.json, or --dummy-weights");
    if (dummy_weights == NULL)
        return weights_open(path, model_out);
    status code = source_dummy_open(dummy_weights, path, &source);
    return code == OK ? model_read(source, model_out) : code;
}

void weights_close(struct model *model)
{
    if (model == NULL)
        return;
    model->source->calls->close(model->source);
    free(model->rope_factors_own);
    free(model->layers);
    free(model);
}

void weights_forget(const struct model *model)
{
    model->source->calls->forget(model->source);
}

const char *weights_file(const struct model *model)
{
    return model->source->file;
}

/* Text. */

status model_tokenizer_open(const struct model *model, struct tokenizer **tokenizer_out)
{
    const struct source *source = model->source;
    struct tokenizer *tokenizer = NULL;
    status code = source->calls->tokenizer_open(source, model->vocabulary, &tokenizer);
    if (code != OK)
        return code;
    uint32_t tokens = tokenizer_facts(tokenizer)->vocabulary;
    if (tokens > model->vocabulary) {
        tokenizer_close(tokenizer);
        return source_error(source, ERR_BAD_INPUT,
                            "the tokenizer has %u tokens, the embedding only %u", tokens,
                            model->vocabulary);
    }
    *tokenizer_out = tokenizer;
    return OK;
}

status model_chat_template(const struct model *model, char **text_out, size_t *bytes_out)
{
    return model->source->calls->chat_template(model->source, text_out, bytes_out);
}
