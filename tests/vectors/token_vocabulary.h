/* tests/vectors/token_vocabulary.h - the vocabularies of tests/vectors/tokens/ as tokenizers. */
#ifndef VECTORS_TOKEN_VOCABULARY_H
#define VECTORS_TOKEN_VOCABULARY_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/tokenizer.h"

#define TOKENS_DIR TEST_DATA_DIR "/vectors/tokens/"

/* A file of TOKENS_DIR; the test can't go on without it. */
static inline json_t *tokens_json(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s%s", TOKENS_DIR, name);
    json_error_t error;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (json == NULL) {
        fprintf(stderr, "cannot load %s: %s\n", path, error.text);
        abort();
    }
    return json;
}

static inline struct token_text *token_texts(const json_t *array)
{
    size_t count = json_array_size(array);
    struct token_text *texts = calloc(count + 1, sizeof(*texts));
    for (size_t i = 0; texts != NULL && i < count; i++) {
        const json_t *text = json_array_get(array, i);
        texts[i] = (struct token_text){json_string_value(text), json_string_length(text)};
    }
    return texts;
}

/* The tokenizer of a vocabulary file; spec says the rest (model, pre, flags). Aborts on failure. */
static inline struct tokenizer *tokens_open(const char *vocabulary_name, struct tokenizer_spec spec)
{
    json_t *vocabulary = tokens_json(vocabulary_name);
    const json_t *types = json_object_get(vocabulary, "types");
    const json_t *scores = json_object_get(vocabulary, "scores");
    size_t count = json_array_size(types);
    struct token_text *tokens = token_texts(json_object_get(vocabulary, "tokens"));
    struct token_text *merges = token_texts(json_object_get(vocabulary, "merges"));
    int32_t *type_array = calloc(count, sizeof(*type_array));
    float *score_array = calloc(count, sizeof(*score_array));
    if (tokens == NULL || merges == NULL || type_array == NULL || score_array == NULL)
        abort();
    for (size_t i = 0; i < count; i++) {
        type_array[i] = (int32_t)json_integer_value(json_array_get(types, i));
        score_array[i] = (float)json_number_value(json_array_get(scores, i));
    }
    spec.token_count = count;
    spec.tokens = tokens;
    spec.types = type_array;
    spec.scores = scores != NULL ? score_array : NULL;
    spec.merge_count = json_array_size(json_object_get(vocabulary, "merges"));
    spec.merges = merges;
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open(&spec, &tokenizer) != OK) {
        fprintf(stderr, "cannot open %s: %s\n", vocabulary_name, error_text());
        abort();
    }
    free(tokens);
    free(merges);
    free(type_array);
    free(score_array);
    json_decref(vocabulary);
    return tokenizer;
}

static inline struct token_text token_text_of(const char *text)
{
    return (struct token_text){text, strlen(text)};
}

#endif
