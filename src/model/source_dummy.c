/* model/source_dummy.c - random weights in a given shape as the source of a model.
 *
 * No tensor has bytes: each has a seed, made from its name, and the values are those of
 * base/synthetic.h. Matrices are scaled so that activations keep their size through the layers,
 * norms lie around 1. So that a worker starts as with real weights and computes as much, and
 * nothing is downloaded or read.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/error.h"
#include "model/dummy_shapes.h"
#include "model/gguf.h"
#include "model/hf_config.h"
#include "model/hf_text.h"
#include "model/json_file.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "model/weights.h"

#define NAMES_BYTES_MAX ((size_t)16 << 20)
#define BYTE_TOKENS 256u
#define BYTE_DEVIATION 73.9 /* of the signed bytes that values are made of */

struct source_dummy {
    struct source source;
    char *shape, *tokens; /* tokens: NULL for a tokenizer of bytes */
    json_t *config;
    struct arena *arena; /* names of tensors */
    enum dtype type;
};

static const struct source_dummy *dummy_of(const struct source *source)
{
    return (const struct source_dummy *)source;
}

static void dummy_close(struct source *source)
{
    struct source_dummy *from = (struct source_dummy *)source;
    json_decref(from->config);
    arena_close(from->arena);
    free(from->shape);
    free(from->tokens);
    free(from);
}

static void dummy_forget(const struct source *source)
{
    (void)source;
}

static status dummy_architecture(struct source *source, char word_out[SOURCE_WORD_BYTES])
{
    return hf_config_architecture(source, dummy_of(source)->config, word_out);
}

static void dummy_number_name(const struct source *source, enum source_number number,
                              char name_out[SOURCE_NAME_BYTES])
{
    (void)source;
    hf_config_number_name(number, name_out);
}

static status dummy_u32(const struct source *source, enum source_number number, uint32_t *value_out)
{
    return hf_config_u32(source, dummy_of(source)->config, number, value_out);
}

static status dummy_f32(const struct source *source, enum source_number number, float *value_out)
{
    return hf_config_f32(source, dummy_of(source)->config, number, value_out);
}

static status dummy_refuse_unbuilt(const struct source *source, const struct model *model)
{
    return hf_config_refuse_unbuilt(source, dummy_of(source)->config, model);
}

static status dummy_scale_rope(const struct source *source, const struct model *model,
                               float *divisors)
{
    return hf_config_scale_rope(source, dummy_of(source)->config, model, divisors);
}

static void dummy_tensor_name(const struct source *source, enum source_role role, uint32_t layer,
                              char name_out[SOURCE_NAME_BYTES])
{
    (void)source;
    hf_config_tensor_name(role, layer, name_out);
}

/* The first 64 bits of BLAKE2b over the name. */
static uint64_t seed_of(const char *name)
{
    uint8_t hash[crypto_generichash_BYTES];
    crypto_generichash(hash, sizeof(hash), (const unsigned char *)name, strlen(name), NULL, 0);
    return load_u64(hash);
}

/* The optional tensors that an architecture has here: qwen2 its biases, an untied head. */
static bool tensor_wanted(const struct source_dummy *from, enum source_role role)
{
    const char *type = json_string_value(json_object_get(from->config, "model_type"));
    bool bias = role == ROLE_Q_BIAS || role == ROLE_K_BIAS || role == ROLE_V_BIAS;
    if (role == ROLE_ROPE_FACTORS)
        return false;
    if (role == ROLE_OUTPUT)
        return !hf_config_tied(from->config);
    return !bias || (type != NULL && strcmp(type, "qwen2") == 0);
}

/* The exponents and middles leave every value at most 8 significant bits, which F16 and BF16 hold.
 */
static struct synthetic values_of(const char *name, enum source_role role, uint32_t rows,
                                  uint32_t columns)
{
    struct synthetic values = {.seed = seed_of(name)};
    if (rows > 1)
        values.exponent = (int32_t)lround(-log2(BYTE_DEVIATION * sqrt((double)columns)));
    else if (role == ROLE_Q_BIAS || role == ROLE_K_BIAS || role == ROLE_V_BIAS)
        values.exponent = -9;
    else
        values = (struct synthetic){.seed = values.seed, .exponent = -7, .middle = 1.0f};
    return values;
}

static bool dummy_tensor_find(struct source *source, enum source_role role, uint32_t layer,
                              uint32_t rows, uint32_t columns, struct source_tensor *tensor_out)
{
    struct source_dummy *from = (struct source_dummy *)source;
    char name[SOURCE_NAME_BYTES];
    if (!tensor_wanted(from, role))
        return false;
    hf_config_tensor_name(role, layer, name);
    const char *kept = arena_copy(from->arena, name, strlen(name));
    if (kept == NULL)
        return false;
    *tensor_out = (struct source_tensor){
        .name = kept,
        .type_name = dtype_name(from->type),
        .type_known = true,
        .type = from->type,
        .dimension_count = rows == 1 ? 1 : 2,
        .dimensions = {columns, rows, 1, 1},
        .bytes = rows * dtype_row_bytes(from->type, columns),
        .synthetic = values_of(name, role, rows, columns),
    };
    return true;
}

static const char *dummy_tensor_unread(const struct source *source)
{
    (void)source;
    return NULL;
}

static bool dummy_tensor_at(const struct source *source, size_t index,
                            struct source_tensor *tensor_out)
{
    (void)source;
    (void)index;
    (void)tensor_out;
    return false;
}

static void dummy_name(const struct source *source, char *name_out, size_t bytes)
{
    const char *shape = dummy_of(source)->shape;
    int length = snprintf(name_out, bytes, "dummy %s", shape);
    for (int i = 0; i < length && (size_t)i < bytes - 1; i++) {
        if (name_out[i] < 0x20 || name_out[i] > 0x7e)
            name_out[i] = '?';
    }
}

/* The shape as JSON with sorted keys: however the file is laid out, the values are the same. */
static void dummy_identify(const struct source *source, crypto_generichash_state *hash)
{
    static const char version[] = "dummy weights 1";
    char *text = json_dumps(dummy_of(source)->config, JSON_COMPACT | JSON_SORT_KEYS);
    crypto_generichash_update(hash, (const unsigned char *)version, sizeof(version));
    if (text != NULL)
        crypto_generichash_update(hash, (const unsigned char *)text, strlen(text));
    free(text);
}

/* ---- text ---- */

static status dummy_token_count(const struct source *source, size_t *count_out)
{
    (void)source;
    *count_out = 0;
    return OK;
}

/* GPT-2's printable character for a byte, as UTF-8. */
static size_t stand_in(unsigned byte, uint32_t *others, char text[4])
{
    bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    uint32_t point = printable ? byte : 0x100 + (*others)++;
    if (point < 0x80) {
        text[0] = (char)point;
        return 1;
    }
    text[0] = (char)(0xc0 | point >> 6);
    text[1] = (char)(0x80 | (point & 0x3f));
    return 2;
}

/* A token for each byte, three control tokens, and " t<id>" for all other ids: a random model picks
 * any of them, and a client sees text come. */
static status byte_tokenizer_open(uint32_t vocabulary, struct tokenizer **tokenizer_out)
{
    static const char *const controls[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    enum { CONTROLS = sizeof(controls) / sizeof(controls[0]), TEXT_BYTES = 16 };
    if (vocabulary < BYTE_TOKENS + CONTROLS)
        return error_set(ERR_BAD_INPUT,
                         "vocab_size is %u (expected at least %u for a tokenizer of bytes); give "
                         "a MODEL whose tokenizer is used",
                         vocabulary, BYTE_TOKENS + CONTROLS);
    struct token_text *tokens = calloc(vocabulary, sizeof(*tokens));
    int32_t *types = calloc(vocabulary, sizeof(*types));
    char(*texts)[TEXT_BYTES] = calloc(vocabulary, sizeof(*texts));
    status code = OK;
    if (tokens == NULL || types == NULL || texts == NULL)
        code = error_set(ERR_NO_MEMORY, "no memory for %u tokens", vocabulary);
    uint32_t others = 0;
    for (uint32_t id = 0; code == OK && id < vocabulary; id++) {
        types[id] = TOKEN_NORMAL;
        if (id < BYTE_TOKENS) {
            tokens[id] = (struct token_text){texts[id], stand_in(id, &others, texts[id])};
        } else if (id < BYTE_TOKENS + CONTROLS) {
            const char *text = controls[id - BYTE_TOKENS];
            tokens[id] = (struct token_text){text, strlen(text)};
            types[id] = TOKEN_CONTROL;
        } else {
            int bytes = snprintf(texts[id], TEXT_BYTES, "\xc4\xa0t%u", id); /* U+0120: a space */
            tokens[id] = (struct token_text){texts[id], (size_t)bytes};
        }
    }
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = (struct token_text){"gpt2", 4};
    spec.pre = (struct token_text){"gpt-2", 5};
    spec.token_count = vocabulary;
    spec.tokens = tokens;
    spec.types = types;
    spec.bos_id = BYTE_TOKENS;
    spec.eos_id = BYTE_TOKENS + 2;
    spec.add_bos = 0;
    if (code == OK)
        code = tokenizer_open(&spec, tokenizer_out);
    free(tokens);
    free(types);
    free(texts);
    return code;
}

static bool is_directory(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISDIR(facts.st_mode);
}

static status dummy_tokenizer_open(const struct source *source, uint32_t vocabulary,
                                   struct tokenizer **tokenizer_out)
{
    const char *tokens = dummy_of(source)->tokens;
    struct gguf *gguf = NULL;
    if (tokens == NULL)
        return byte_tokenizer_open(vocabulary, tokenizer_out);
    if (is_directory(tokens))
        return hf_tokenizer_open(tokens, vocabulary, tokenizer_out);
    status code = gguf_open(tokens, &gguf);
    if (code == OK)
        code = tokenizer_open_gguf(gguf, tokenizer_out);
    gguf_close(gguf);
    return code;
}

static status dummy_chat_template(const struct source *source, char **text_out, size_t *bytes_out)
{
    static const char chat[] =
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const char *tokens = dummy_of(source)->tokens;
    if (tokens != NULL && is_directory(tokens))
        return hf_chat_template(tokens, text_out, bytes_out);
    if (tokens != NULL) {
        struct gguf *gguf = NULL;
        status code = gguf_open(tokens, &gguf);
        if (code == OK)
            code = gguf_chat_template(gguf, text_out, bytes_out);
        gguf_close(gguf);
        return code;
    }
    *text_out = strdup(chat);
    *bytes_out = sizeof(chat) - 1;
    return *text_out != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for the chat template");
}

static const struct source_calls dummy_calls = {
    .close = dummy_close,
    .forget = dummy_forget,
    .architecture = dummy_architecture,
    .number_name = dummy_number_name,
    .read_u32 = dummy_u32,
    .read_f32 = dummy_f32,
    .refuse_unbuilt = dummy_refuse_unbuilt,
    .scale_rope = dummy_scale_rope,
    .tensor_name = dummy_tensor_name,
    .tensor_find = dummy_tensor_find,
    .tensor_unread = dummy_tensor_unread,
    .tensor_at = dummy_tensor_at,
    .name = dummy_name,
    .identify = dummy_identify,
    .token_count = dummy_token_count,
    .tokenizer_open = dummy_tokenizer_open,
    .chat_template = dummy_chat_template,
};

/* ---- opening ---- */

/* A name, a config.json, or a directory with one. */
static status open_shape(struct source_dummy *from)
{
    char path[JSON_FILE_PATH_BYTES];
    const char *known = dummy_shape_find(from->shape);
    if (known != NULL)
        return json_file_parse(from->shape, known, strlen(known), &from->config);
    status code = json_file_path(from->shape, "config.json", path);
    if (code == OK)
        code = json_file_open(is_directory(from->shape) ? path : from->shape, &from->config);
    if (code == ERR_NOT_FOUND)
        return error_set(ERR_NOT_FOUND,
                         "--dummy-weights %s: neither a config.json, nor a directory with one, nor "
                         "a known shape (%s)",
                         from->shape, dummy_shape_names);
    return code;
}

/* dtype, which version 4 calls torch_dtype; bfloat16 without it. */
static status read_type(struct source_dummy *from)
{
    const json_t *value = json_object_get(from->config, "dtype");
    if (!json_is_string(value))
        value = json_object_get(from->config, "torch_dtype");
    const char *name = json_is_string(value) ? json_string_value(value) : "bfloat16";
    if (strcmp(name, "bfloat16") == 0)
        from->type = DTYPE_BF16;
    else if (strcmp(name, "float16") == 0)
        from->type = DTYPE_F16;
    else if (strcmp(name, "float32") == 0)
        from->type = DTYPE_F32;
    else
        return source_error(&from->source, ERR_UNSUPPORTED,
                            "config.json: dtype is \"%.32s\" (supported: bfloat16, float16, "
                            "float32)",
                            name);
    return OK;
}

/* A shape without rows of the embedding has none to be checked against. */
static status check_vocabulary(const struct source_dummy *from)
{
    uint32_t vocabulary = 0;
    status code = hf_config_u32(&from->source, from->config, NUMBER_VOCABULARY, &vocabulary);
    if (code == ERR_NOT_FOUND || (code == OK && vocabulary == 0))
        return source_error(&from->source, ERR_BAD_INPUT,
                            "config.json: vocab_size is missing or 0 (expected 1 or more)");
    return code;
}

status source_dummy_open(const char *shape, const char *tokens, struct source **source_out)
{
    struct source_dummy *from = calloc(1, sizeof(*from));
    if (from == NULL)
        return error_set(ERR_NO_MEMORY, "%s: no memory for it", shape);
    from->shape = strdup(shape);
    from->tokens = tokens != NULL ? strdup(tokens) : NULL;
    from->source = (struct source){
        .calls = &dummy_calls,
        .path = from->shape,
        .tensor_count = SIZE_MAX,
        .tensor_types = "F32, F16, BF16",
        .rope_halves = true,
        .rows_first = true,
        .vector_types_any = true,
    };
    status code = OK;
    if (from->shape == NULL || (tokens != NULL && from->tokens == NULL))
        code = error_set(ERR_NO_MEMORY, "%s: no memory for it", shape);
    if (code == OK)
        code = arena_open(NAMES_BYTES_MAX, &from->arena);
    if (code == OK)
        code = open_shape(from);
    if (code == OK)
        code = read_type(from);
    if (code == OK)
        code = check_vocabulary(from);
    if (code != OK) {
        dummy_close(&from->source);
        return code;
    }
    *source_out = &from->source;
    return OK;
}
