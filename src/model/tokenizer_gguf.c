/* model/tokenizer_gguf.c - the tokenizer.ggml.* metadata of a GGUF file as a tokenizer_spec. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#define KEY(name) "tokenizer.ggml." name

/* The arrays that a spec points to; freed once the tokenizer has its copies. */
struct spec_arrays {
    struct token_text *tokens, *merges;
    float *scores;
    int32_t *types;
};

static status read_texts(const struct gguf *gguf, const char *key, struct token_text **texts_out,
                         size_t *count_out)
{
    struct gguf_strings strings;
    status code = gguf_read_strings(gguf, key, &strings);
    if (code != OK)
        return code;
    if (strings.count > TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "%s has %zu entries; at most %u are taken", key,
                         strings.count, TOKENIZER_TOKENS_MAX);
    struct token_text *texts = calloc(strings.count + 1, sizeof(*texts));
    if (texts == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the %zu entries of %s", strings.count, key);
    struct gguf_string string;
    for (size_t i = 0; i < strings.count && gguf_strings_next(&strings, &string); i++)
        texts[i] = (struct token_text){string.text, string.bytes};
    *texts_out = texts;
    *count_out = strings.count;
    return OK;
}

/* The two arrays that go along with the tokens; each may be missing. */
static status read_scores_and_types(const struct gguf *gguf, size_t count,
                                    struct spec_arrays *arrays)
{
    struct gguf_array array;
    status code;
    if (gguf_has(gguf, KEY("scores"))) {
        if ((code = gguf_read_floats(gguf, KEY("scores"), &array)) != OK)
            return code;
        if (array.count != count)
            return error_set(ERR_BAD_INPUT, "%zu tokens but %zu scores", count, array.count);
        arrays->scores = calloc(count + 1, sizeof(*arrays->scores));
        if (arrays->scores == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for %zu scores", count);
        for (size_t i = 0; i < count; i++)
            arrays->scores[i] = (float)gguf_array_float(&array, i);
    }
    if (gguf_has(gguf, KEY("token_type"))) {
        if ((code = gguf_read_integers(gguf, KEY("token_type"), &array)) != OK)
            return code;
        if (array.count != count)
            return error_set(ERR_BAD_INPUT, "%zu tokens but %zu token types", count, array.count);
        arrays->types = calloc(count + 1, sizeof(*arrays->types));
        if (arrays->types == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for %zu token types", count);
        for (size_t i = 0; i < count; i++) {
            int64_t type = gguf_array_integer(&array, i);
            /* Out of range stays so: open refuses it by name. */
            arrays->types[i] = type < 0 || type > INT32_MAX ? INT32_MAX : (int32_t)type;
        }
    }
    return OK;
}

static status read_id(const struct gguf *gguf, const char *key, uint32_t *id_out)
{
    return gguf_has(gguf, key) ? gguf_read_u32(gguf, key, id_out) : OK;
}

static status read_flag(const struct gguf *gguf, const char *key, int *flag_out)
{
    if (!gguf_has(gguf, key))
        return OK;
    bool value;
    status code = gguf_read_bool(gguf, key, &value);
    if (code == OK)
        *flag_out = value;
    return code;
}

static status read_text(const struct gguf *gguf, const char *key, struct token_text *text_out)
{
    struct gguf_string string;
    status code = gguf_read_string(gguf, key, &string);
    if (code == OK)
        *text_out = (struct token_text){string.text, string.bytes};
    return code;
}

static status read_spec(const struct gguf *gguf, struct spec_arrays *arrays,
                        struct tokenizer_spec *spec)
{
    status code = read_text(gguf, KEY("model"), &spec->model);
    if (code == OK && gguf_has(gguf, KEY("pre")))
        code = read_text(gguf, KEY("pre"), &spec->pre);
    if (code == OK)
        code = read_texts(gguf, KEY("tokens"), &arrays->tokens, &spec->token_count);
    if (code == OK && gguf_has(gguf, KEY("merges")))
        code = read_texts(gguf, KEY("merges"), &arrays->merges, &spec->merge_count);
    if (code == OK)
        code = read_scores_and_types(gguf, spec->token_count, arrays);
    if (code == OK)
        code = read_id(gguf, KEY("bos_token_id"), &spec->bos_id);
    if (code == OK)
        code = read_id(gguf, KEY("eos_token_id"), &spec->eos_id);
    if (code == OK)
        code = read_id(gguf, KEY("eot_token_id"), &spec->eot_id);
    if (code == OK)
        code = read_id(gguf, KEY("eom_token_id"), &spec->eom_id);
    if (code == OK)
        code = read_id(gguf, KEY("unknown_token_id"), &spec->unknown_id);
    if (code == OK)
        code = read_id(gguf, KEY("padding_token_id"), &spec->padding_id);
    if (code == OK)
        code = read_flag(gguf, KEY("add_bos_token"), &spec->add_bos);
    if (code == OK)
        code = read_flag(gguf, KEY("add_eos_token"), &spec->add_eos);
    if (code == OK)
        code = read_flag(gguf, KEY("add_space_prefix"), &spec->add_space_prefix);
    spec->tokens = arrays->tokens;
    spec->merges = arrays->merges;
    spec->scores = arrays->scores;
    spec->types = arrays->types;
    return code;
}

status tokenizer_open_gguf(const struct gguf *gguf, struct tokenizer **tokenizer_out)
{
    struct spec_arrays arrays = {0};
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    status code = read_spec(gguf, &arrays, &spec);
    if (code == ERR_NOT_FOUND) /* a key that a tokenizer can't do without */
        code = ERR_BAD_INPUT;
    if (code == OK)
        code = tokenizer_open(&spec, tokenizer_out);
    if (code != OK)
        error_prefix(code, "the tokenizer of %s", gguf_path(gguf));
    free(arrays.tokens);
    free(arrays.merges);
    free(arrays.scores);
    free(arrays.types);
    return code;
}
