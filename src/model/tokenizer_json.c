#include "model/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/json_file.h"

/* Spellings of unused ids, merges that come in pairs, patterns. */
#define ARENA_BYTES_MAX ((size_t)512 << 20)

uint32_t tokenizer_json_id(const json_t *root, const char *text)
{
    const json_t *id =
        json_object_get(json_object_get(json_object_get(root, "model"), "vocab"), text);
    const json_t *added;
    size_t i;
    json_array_foreach(json_object_get(root, "added_tokens"), i, added)
    {
        const char *content = json_string_value(json_object_get(added, "content"));
        if (id == NULL && content != NULL && strcmp(content, text) == 0)
            id = json_object_get(added, "id");
    }
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= TOKENIZER_TOKENS_MAX)
        return TOKEN_NONE;
    return (uint32_t)json_integer_value(id);
}

/* ---- which model, and what of it is built ---- */

static bool is_empty(const json_t *value)
{
    return value == NULL || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) <= 0);
}

static status check_model(const json_t *model)
{
    static const char *const refused[] = {"dropout", "continuing_subword_prefix",
                                          "end_of_word_suffix"};
    if (!json_is_object(model))
        return error_set(ERR_BAD_INPUT, "model is %s (expected an object)", json_file_type(model));
    const json_t *type = json_object_get(model, "type");
    /* Old files leave the type of a BPE out; no other has merges. */
    if (type == NULL && json_object_get(model, "merges") == NULL)
        return error_set(ERR_UNSUPPORTED, "a model without type and merges (supported: BPE)");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return error_set(ERR_UNSUPPORTED, "model \"%.64s\" is not supported (supported: BPE)",
                         json_is_string(type) ? json_string_value(type) : json_file_type(type));
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        if (!is_empty(json_object_get(model, refused[i])))
            return error_set(ERR_UNSUPPORTED, "%s of the model is not supported (supported: none)",
                             refused[i]);
    }
    if (!json_is_object(json_object_get(model, "vocab")))
        return error_set(ERR_BAD_INPUT, "vocab of the model is %s (expected an object)",
                         json_file_type(json_object_get(model, "vocab")));
    return OK;
}

/* ---- tokens ---- */

/* A token's id, checked; text is its spelling, for messages. */
static status id_take(const json_t *value, const char *text, uint32_t vocabulary, uint32_t *id_out)
{
    long long id = json_is_integer(value) ? (long long)json_integer_value(value) : -1;
    if (id < 0 || id >= (long long)TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "the id of token \"%.100s\" is not a number below %u", text,
                         TOKENIZER_TOKENS_MAX);
    if (vocabulary != 0 && id >= (long long)vocabulary)
        return error_set(ERR_BAD_INPUT,
                         "token \"%.100s\" has id %lld, but the embedding has %u rows: tokenizer "
                         "and weights do not belong together",
                         text, id, vocabulary);
    *id_out = (uint32_t)id;
    return OK;
}

/* The number of tokens: one more than the highest id, and the rows of the embedding. */
static status count_tokens(const json_t *root, uint32_t vocabulary, size_t *count_out)
{
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    const char *text;
    json_t *value;
    size_t i, count = vocabulary;
    uint32_t id = 0;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, value)
    {
        status code = id_take(value, text, vocabulary, &id);
        if (code != OK)
            return code;
        count = id >= count ? (size_t)id + 1 : count;
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, value)
    {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (content == NULL)
            return error_set(ERR_BAD_INPUT, "added token %zu has no content", i);
        status code = id_take(json_object_get(value, "id"), content, vocabulary, &id);
        if (code != OK)
            return code;
        count = id >= count ? (size_t)id + 1 : count;
    }
    if (count == 0 || count > TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "a tokenizer has 1 to %u tokens, this one %zu",
                         TOKENIZER_TOKENS_MAX, count);
    *count_out = count;
    return OK;
}

static status read_vocab(const json_t *vocab, struct tokenizer_json *read)
{
    const char *text;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, value)
    {
        size_t id = (size_t)json_integer_value(value);
        if (read->types[id] != 0)
            return error_set(ERR_BAD_INPUT, "tokens \"%.100s\" and \"%.*s\" both have id %zu", text,
                             (int)(read->tokens[id].bytes < 100 ? read->tokens[id].bytes : 100),
                             read->tokens[id].text, id);
        read->tokens[id] = (struct token_text){text, strlen(text)};
        read->types[id] = TOKEN_NORMAL;
    }
    return OK;
}

static status read_added(const json_t *added, struct tokenizer_json *read)
{
    const json_t *content = json_object_get(added, "content");
    const struct token_text text = {json_string_value(content), json_string_length(content)};
    size_t id = (size_t)json_integer_value(json_object_get(added, "id"));
    const struct token_text *there = &read->tokens[id];
    if (text.bytes == 0)
        return error_set(ERR_BAD_INPUT, "the added token of id %zu has no text", id);
    if (json_is_true(json_object_get(added, "single_word")))
        return error_set(ERR_UNSUPPORTED, "added token \"%.100s\": single_word is not supported",
                         text.text);
    if (read->types[id] != 0 &&
        (there->bytes != text.bytes || memcmp(there->text, text.text, text.bytes) != 0))
        return error_set(ERR_BAD_INPUT, "tokens \"%.*s\" and \"%.100s\" both have id %zu",
                         (int)(there->bytes < 100 ? there->bytes : 100), there->text, text.text,
                         id);
    bool normalized = json_is_true(json_object_get(added, "normalized"));
    if (normalized && !read->byte_level)
        return error_set(ERR_UNSUPPORTED,
                         "added token \"%.100s\": normalized is not supported beside U+2581 for "
                         "spaces",
                         text.text);
    read->tokens[id] = text;
    read->types[id] =
        json_is_true(json_object_get(added, "special")) ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
    read->flags[id] =
        (uint8_t)((json_is_true(json_object_get(added, "lstrip")) ? TOKEN_STRIP_LEFT : 0) |
                  (json_is_true(json_object_get(added, "rstrip")) ? TOKEN_STRIP_RIGHT : 0) |
                  (normalized ? TOKEN_NORMALIZED : 0));
    return OK;
}

/* Ids that nothing has: an embedding may have more rows than there are tokens. */
static status fill_unused(struct tokenizer_json *read)
{
    for (size_t id = 0; id < read->spec.token_count; id++) {
        char text[32];
        if (read->types[id] != 0)
            continue;
        int bytes = snprintf(text, sizeof(text), "[PAD%zu]", id);
        read->tokens[id] =
            (struct token_text){arena_copy(read->arena, text, (size_t)bytes), (size_t)bytes};
        if (read->tokens[id].text == NULL)
            return error_set(ERR_NO_MEMORY, "no memory for %zu tokens", read->spec.token_count);
        read->types[id] = TOKEN_UNUSED;
    }
    return OK;
}

static status read_tokens(const json_t *root, uint32_t vocabulary, struct tokenizer_json *read)
{
    const json_t *added;
    size_t i, count = 0;
    status code = count_tokens(root, vocabulary, &count);
    if (code != OK)
        return code;
    read->tokens = calloc(count, sizeof(*read->tokens));
    read->types = calloc(count, sizeof(*read->types));
    read->flags = calloc(count, sizeof(*read->flags));
    if (read->tokens == NULL || read->types == NULL || read->flags == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu tokens", count);
    read->spec.token_count = count;
    code = read_vocab(json_object_get(json_object_get(root, "model"), "vocab"), read);
    json_array_foreach(json_object_get(root, "added_tokens"), i, added)
    {
        if (code == OK)
            code = read_added(added, read);
    }
    if (code == OK)
        code = fill_unused(read);
    read->spec.tokens = read->tokens;
    read->spec.types = read->types;
    read->spec.flags = read->flags;
    return code;
}

/* ---- merges ---- */

/* "left right", or ["left", "right"]. */
static status read_merge(const json_t *value, size_t index, struct tokenizer_json *read,
                         struct token_text *merge_out)
{
    if (json_is_string(value)) {
        *merge_out = (struct token_text){json_string_value(value), json_string_length(value)};
        return OK;
    }
    const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
    size_t left_bytes = json_string_length(left), right_bytes = json_string_length(right);
    if (json_array_size(value) != 2 || left_bytes == 0 || right_bytes == 0 ||
        left_bytes > TOKENIZER_TOKEN_BYTES_MAX || right_bytes > TOKENIZER_TOKEN_BYTES_MAX)
        return error_set(ERR_BAD_INPUT, "merge %zu is not two tokens", index);
    if (memchr(json_string_value(left), ' ', left_bytes) != NULL ||
        memchr(json_string_value(right), ' ', right_bytes) != NULL)
        return error_set(ERR_UNSUPPORTED,
                         "merge %zu has a token with a space, which is not "
                         "supported",
                         index);
    char joined[2 * TOKENIZER_TOKEN_BYTES_MAX + 1];
    memcpy(joined, json_string_value(left), left_bytes);
    joined[left_bytes] = ' ';
    memcpy(joined + left_bytes + 1, json_string_value(right), right_bytes);
    size_t bytes = left_bytes + 1 + right_bytes;
    *merge_out = (struct token_text){arena_copy(read->arena, joined, bytes), bytes};
    return merge_out->text != NULL ? OK : error_set(ERR_NO_MEMORY, "no memory for the merges");
}

static status read_merges(const json_t *model, struct tokenizer_json *read)
{
    const json_t *merges = json_object_get(model, "merges"), *value;
    size_t i, count = json_array_size(merges);
    if (!json_is_array(merges) || count > TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT,
                         "merges of the model is %s of %zu (expected an array of at most %u)",
                         json_file_type(merges), count, TOKENIZER_TOKENS_MAX);
    struct token_text *texts = arena_take_array(read->arena, count + 1, sizeof(*texts));
    if (texts == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu merges", count);
    json_array_foreach(merges, i, value)
    {
        status code = read_merge(value, i, read, &texts[i]);
        if (code != OK)
            return code;
    }
    read->spec.merges = texts;
    read->spec.merge_count = count;
    return OK;
}

/* ---- what becomes of characters without a token ---- */

/* llama: the bytes' tokens, "<0x00>" to "<0xFF>", when all are there. */
static bool mark_bytes(const json_t *vocab, struct tokenizer_json *read)
{
    char text[8];
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof(text), "<0x%02X>", byte);
        if (json_object_get(vocab, text) == NULL)
            return false;
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof(text), "<0x%02X>", byte);
        size_t id = (size_t)json_integer_value(json_object_get(vocab, text));
        read->types[id] = TOKEN_BYTE;
    }
    return true;
}

static status read_unknown(const json_t *root, struct tokenizer_json *read)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *unknown = json_object_get(model, "unk_token");
    bool bytes = json_is_true(json_object_get(model, "byte_fallback"));
    if (json_is_string(unknown)) {
        uint32_t id = tokenizer_json_id(root, json_string_value(unknown));
        if (id == TOKEN_NONE || id >= read->spec.token_count)
            return error_set(ERR_BAD_INPUT, "the unknown token \"%.100s\" is not in the vocabulary",
                             json_string_value(unknown));
        read->spec.unknown_id = id;
        if (!read->byte_level && read->types[id] == TOKEN_NORMAL)
            read->types[id] = TOKEN_UNKNOWN;
    }
    if (read->byte_level && bytes)
        return error_set(ERR_UNSUPPORTED, "byte_fallback beside ByteLevel is not supported");
    if (read->byte_level)
        return OK;
    if (bytes && !mark_bytes(json_object_get(model, "vocab"), read))
        return error_set(ERR_UNSUPPORTED,
                         "byte_fallback without all of <0x00> to <0xFF> in the vocabulary is not "
                         "supported");
    if (!bytes && !json_is_true(json_object_get(model, "fuse_unk")))
        return error_set(ERR_UNSUPPORTED,
                         "a model with neither byte_fallback nor fuse_unk is not supported");
    return OK;
}

status tokenizer_json_read(const json_t *root, uint32_t vocabulary, struct tokenizer_json *out)
{
    memset(out, 0, sizeof(*out));
    out->spec = TOKENIZER_SPEC_EMPTY;
    out->spec.add_space_prefix = 0;
    const json_t *model = json_object_get(root, "model");
    status code = arena_open(ARENA_BYTES_MAX, &out->arena);
    if (code == OK)
        code = check_model(model);
    if (code == OK)
        code = tokenizer_json_steps(root, out);
    if (code == OK)
        code = read_tokens(root, vocabulary, out);
    if (code == OK)
        code = read_merges(model, out);
    if (code == OK)
        code = read_unknown(root, out);
    if (code != OK)
        return code;
    if (!out->byte_level && out->spec.merge_count == 0)
        return error_set(ERR_BAD_INPUT, "the model has no merges");
    const char *kind = out->byte_level ? "gpt2" : "llama";
    out->spec.model = (struct token_text){kind, strlen(kind)};
    out->spec.ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    out->spec.cuts_given = out->byte_level;
    out->spec.by_rank = !out->byte_level;
    out->spec.cuts = out->cuts;
    return OK;
}

void tokenizer_json_close(struct tokenizer_json *read)
{
    free(read->tokens);
    free(read->types);
    free(read->flags);
    arena_close(read->arena);
    memset(read, 0, sizeof(*read));
}
