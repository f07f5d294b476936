/* The ids of every text of the corpus are those of the `tokenizers` package for every kind of
 * tokenizer.json that is read (tools/goldens/make_tokenizer_json.py), and what would give other ids
 * is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/tokenizer_json.h"
#include "vectors/token_ids.h"
#include "vectors/token_vocabulary.h"

#define SMOLLM2_PATH MODEL_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"

static const char *const names[] = {
    "smollm",  "digits", "gpt2",  "llama3", "removed",     "cases",     "gaps",       "words",
    "literal", "uncut",  "qwen2", "flags",  "spm-prepend", "spm-first", "spm-always", "spm-never",
};
#define NAME_COUNT (sizeof(names) / sizeof(names[0]))

static json_t *tokenizer_file(const char *name, const char *end)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof(path), "%s/vectors/tokenizers/%s%s", TEST_DATA_DIR, name, end);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (root == NULL)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static struct tokenizer *open_root(const json_t *root)
{
    struct tokenizer_json read;
    struct tokenizer *tokenizer = NULL;
    status code = tokenizer_json_read(root, 0, &read);
    if (code == OK)
        code = tokenizer_open(&read.spec, &tokenizer);
    if (code != OK)
        fail_msg("%s", error_text());
    tokenizer_json_close(&read);
    return tokenizer;
}

static const char *words_at(const json_t *golden, const char *key, size_t index,
                            const char *otherwise)
{
    char number[24];
    snprintf(number, sizeof(number), "%zu", index);
    const json_t *words = json_object_get(json_object_get(golden, key), number);
    return words != NULL ? json_string_value(words) : otherwise;
}

static void ids_of_every_kind(void **state)
{
    (void)state;
    json_t *corpus = tokens_json("corpus.json");
    int wrong = 0;
    assert_true(json_array_size(corpus) > 100);
    for (size_t n = 0; n < NAME_COUNT; n++) {
        json_t *root = tokenizer_file(names[n], ".json");
        json_t *golden = tokenizer_file(names[n], ".ids.json");
        const json_t *parsed = json_object_get(golden, "parsed");
        struct tokenizer *tokenizer = open_root(root);
        assert_int_equal(json_array_size(corpus), json_array_size(parsed));
        for (size_t i = 0; i < json_array_size(corpus); i++) {
            const json_t *text = json_array_get(corpus, i);
            const char *ids = json_string_value(json_array_get(parsed, i));
            wrong += check_ids(tokenizer, names[n], i, text, TOKENIZER_PARSE_SPECIAL, ids);
            wrong += check_ids(tokenizer, names[n], i, text, 0, words_at(golden, "plain", i, ids));
        }
        /* The post-processor's own token, where there is one. */
        const char *whole = words_at(golden, "whole", 0, NULL);
        assert_int_equal(whole != NULL, tokenizer_facts(tokenizer)->add_bos);
        if (whole != NULL)
            wrong += check_ids(tokenizer, names[n], 0, json_array_get(corpus, 0),
                               TOKENIZER_ADD_BOS | TOKENIZER_PARSE_SPECIAL, whole);
        tokenizer_close(tokenizer);
        json_decref(root);
        json_decref(golden);
    }
    json_decref(corpus);
    assert_int_equal(0, wrong);
}

/* SmolLM2's tokenizer.json, made of the GGUF file's arrays. */
static json_t *smollm2_json(const struct gguf *gguf)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    struct gguf_strings texts;
    struct gguf_string text;
    struct gguf_array types;
    assert_int_equal(OK, gguf_read_strings(gguf, "tokenizer.ggml.tokens", &texts));
    assert_int_equal(OK, gguf_read_integers(gguf, "tokenizer.ggml.token_type", &types));
    for (size_t id = 0; gguf_strings_next(&texts, &text); id++) {
        char *copy = strndup(text.text, text.bytes);
        json_object_set_new(vocab, copy, json_integer((json_int_t)id));
        if (gguf_array_integer(&types, id) == TOKEN_CONTROL)
            json_array_append_new(added, json_pack("{sI ss sb sb sb sb sb}", "id", (json_int_t)id,
                                                   "content", copy, "single_word", 0, "lstrip", 0,
                                                   "rstrip", 0, "normalized", 0, "special", 1));
        free(copy);
    }
    assert_int_equal(OK, gguf_read_strings(gguf, "tokenizer.ggml.merges", &texts));
    while (gguf_strings_next(&texts, &text))
        json_array_append_new(merges, json_stringn(text.text, text.bytes));
    return json_pack("{so s{ss s[{ss sb}{ss sb sb}]} s{ss} s{ss so so}}", "added_tokens", added,
                     "pre_tokenizer", "type", "Sequence", "pretokenizers", "type", "Digits",
                     "individual_digits", 1, "type", "ByteLevel", "add_prefix_space", 0,
                     "use_regex", 1, "decoder", "type", "ByteLevel", "model", "type", "BPE",
                     "vocab", vocab, "merges", merges);
}

/* The real vocabulary: the ids of the package, and those of the GGUF reader. */
static void ids_of_smollm2(void **state)
{
    (void)state;
    struct gguf *gguf = NULL;
    struct tokenizer *from_gguf = NULL;
    if (access(SMOLLM2_PATH, R_OK) != 0) {
        printf("skipped: %s is not there; `make model` fetches it\n", SMOLLM2_PATH);
        skip();
    }
    assert_int_equal(OK, gguf_open(SMOLLM2_PATH, &gguf));
    assert_int_equal(OK, tokenizer_open_gguf(gguf, &from_gguf));
    json_t *root = smollm2_json(gguf);
    assert_non_null(root);
    struct tokenizer *tokenizer = open_root(root);
    json_t *corpus = tokens_json("corpus.json"), *golden = tokens_json("ids_smollm2_smollm.json");
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(corpus); i++) {
        const json_t *text = json_array_get(corpus, i);
        const char *ids = json_string_value(json_array_get(json_object_get(golden, "parsed"), i));
        wrong += check_ids(tokenizer, "smollm2", i, text, TOKENIZER_PARSE_SPECIAL, ids);
        wrong += check_ids(tokenizer, "smollm2", i, text, 0, words_at(golden, "plain", i, ids));
        wrong += check_ids(from_gguf, "smollm2", i, text, TOKENIZER_PARSE_SPECIAL, ids);
    }
    assert_int_equal(0, wrong);
    assert_int_equal(tokenizer_facts(tokenizer)->vocabulary,
                     tokenizer_facts(from_gguf)->vocabulary);
    for (uint32_t id = 0; id < tokenizer_facts(tokenizer)->vocabulary; id++) {
        size_t bytes = 0, expected = 0;
        const uint8_t *found = tokenizer_token_bytes(tokenizer, id, &bytes);
        const uint8_t *other = tokenizer_token_bytes(from_gguf, id, &expected);
        assert_int_equal(bytes, expected);
        assert_memory_equal(found, other, bytes);
        assert_int_equal(tokenizer_token_type(tokenizer, id), tokenizer_token_type(from_gguf, id));
    }
    json_decref(corpus);
    json_decref(golden);
    json_decref(root);
    tokenizer_close(tokenizer);
    tokenizer_close(from_gguf);
    gguf_close(gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_of_every_kind),
        cmocka_unit_test(ids_of_smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
