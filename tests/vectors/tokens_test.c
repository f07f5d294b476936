/* The ids of every text of the corpus are those of the `tokenizers` and `sentencepiece` packages
 * (tools/goldens/make_tokens.py), and decoding gives the text back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "model/pretokenize.h"
#include "vectors/token_ids.h"
#include "vectors/token_vocabulary.h"

#define SMOLLM2_PATH MODEL_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"

static int check_text(const struct tokenizer *tokenizer, const char *golden, size_t index,
                      const char *words, const json_t *expected)
{
    struct token_list ids = parse_ids(words);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(OK, tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text, &bytes));
    int wrong = bytes != json_string_length(expected) ||
                memcmp(text, json_string_value(expected), bytes) != 0;
    if (wrong)
        fprintf(stderr, "%s text %zu decodes to \"%s\"\n", golden, index, text);
    free(text);
    free(ids.ids);
    return wrong;
}

/* decodes: the vocabulary has every byte and the text is not normalised. */
static void check_golden(const char *name, const struct tokenizer *tokenizer, bool decodes)
{
    json_t *corpus = tokens_json("corpus.json"), *golden = tokens_json(name);
    const json_t *parsed = json_object_get(golden, "parsed");
    const json_t *plain = json_object_get(golden, "plain");
    const json_t *decoded = json_object_get(golden, "decoded");
    assert_true(json_array_size(corpus) > 100);
    assert_int_equal(json_array_size(corpus), json_array_size(parsed));
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(corpus); i++) {
        char key[24];
        snprintf(key, sizeof(key), "%zu", i);
        const json_t *text = json_array_get(corpus, i);
        const char *ids = json_string_value(json_array_get(parsed, i));
        const json_t *plain_ids = json_object_get(plain, key);
        if (json_object_get(golden, "add_space_prefix") == NULL)
            wrong += check_ids(tokenizer, name, i, text, TOKENIZER_PARSE_SPECIAL, ids);
        wrong += check_ids(tokenizer, name, i, text, 0,
                           plain_ids != NULL ? json_string_value(plain_ids) : ids);
        const json_t *other = json_object_get(decoded, key);
        if (decodes)
            wrong += check_text(tokenizer, name, i, ids, other != NULL ? other : text);
    }
    assert_int_equal(0, wrong);
    json_decref(corpus);
    json_decref(golden);
}

/* The words alone: what merges can't show. */
static void words_of_each_pre_tokenizer(void **state)
{
    (void)state;
    json_t *corpus = tokens_json("corpus.json"), *all = tokens_json("words.json");
    const char *pre;
    json_t *golden;
    int wrong = 0;
    assert_int_equal(4, json_object_size(all));
    json_object_foreach(all, pre, golden)
    {
        struct pretokenizer pretokenizer;
        struct word_cursor cursor;
        struct token_text name = token_text_of(pre);
        assert_int_equal(OK, pretokenizer_open(&name, &pretokenizer));
        assert_int_equal(OK, word_cursor_open(&pretokenizer, &cursor));
        assert_int_equal(json_array_size(corpus), json_array_size(golden));
        for (size_t i = 0; i < json_array_size(corpus); i++) {
            const json_t *text = json_array_get(corpus, i);
            struct token_list lengths = parse_ids(json_string_value(json_array_get(golden, i)));
            word_cursor_start(&cursor, json_string_value(text), json_string_length(text));
            const char *word;
            size_t bytes = 1, count = 0, same = 0;
            while (bytes > 0) {
                assert_int_equal(OK, word_cursor_next(&cursor, &word, &bytes));
                same += bytes > 0 && count < lengths.count && lengths.ids[count] == bytes;
                count += bytes > 0;
            }
            if (same != lengths.count || count != lengths.count) {
                fprintf(stderr, "%s cuts text %zu into %zu words, expected %zu; %zu are the same\n",
                        pre, i, count, lengths.count, same);
                wrong++;
            }
            free(lengths.ids);
        }
        word_cursor_close(&cursor);
        pretokenizer_close(&pretokenizer);
    }
    assert_int_equal(0, wrong);
    json_decref(corpus);
    json_decref(all);
}

static void check_bytes(const char *pre, const char *name, bool decodes)
{
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("gpt2");
    spec.pre = token_text_of(pre);
    struct tokenizer *tokenizer = tokens_open("vocabulary_bytes.json", spec);
    check_golden(name, tokenizer, decodes);
    tokenizer_close(tokenizer);
}

static void ids_smollm(void **state)
{
    (void)state;
    check_bytes("smollm", "ids_bytes_smollm.json", true);
}

static void ids_llama_bpe(void **state)
{
    (void)state;
    check_bytes("llama-bpe", "ids_bytes_llama-bpe.json", true);
}

static void ids_qwen2(void **state)
{
    (void)state;
    check_bytes("qwen2", "ids_bytes_qwen2.json", false);
}

static void ids_gpt2(void **state)
{
    (void)state;
    check_bytes("gpt-2", "ids_bytes_gpt-2.json", true);
}

static void check_spm(const char *vocabulary, const char *golden_name, int add_space_prefix)
{
    json_t *golden = tokens_json(golden_name);
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("llama");
    spec.add_space_prefix = add_space_prefix;
    spec.unknown_id = (uint32_t)json_integer_value(json_object_get(golden, "unknown_id"));
    struct tokenizer *tokenizer = tokens_open(vocabulary, spec);
    /* What an unknown token decodes to is a matter of taste. */
    check_golden(golden_name, tokenizer, add_space_prefix != 0);
    tokenizer_close(tokenizer);
    json_decref(golden);
}

static void ids_spm(void **state)
{
    (void)state;
    check_spm("vocabulary_spm.json", "ids_spm.json", 1);
}

static void ids_spm_without_byte_tokens(void **state)
{
    (void)state;
    check_spm("vocabulary_spm_unknown.json", "ids_spm_unknown.json", 0);
}

static struct gguf *smollm2_open(void)
{
    struct gguf *gguf = NULL;
    if (access(SMOLLM2_PATH, R_OK) != 0) {
        printf("skipped: %s is not there; `make model` fetches it\n", SMOLLM2_PATH);
        return NULL;
    }
    assert_int_equal(OK, gguf_open(SMOLLM2_PATH, &gguf));
    return gguf;
}

static void ids_smollm2(void **state)
{
    (void)state;
    struct gguf *gguf = smollm2_open();
    if (gguf == NULL)
        skip();
    struct tokenizer *tokenizer;
    assert_int_equal(OK, tokenizer_open_gguf(gguf, &tokenizer));
    gguf_close(gguf); /* the tokenizer has its own copies */
    check_golden("ids_smollm2_smollm.json", tokenizer, false);

    const struct tokenizer_facts *facts = tokenizer_facts(tokenizer);
    assert_string_equal("gpt2", facts->model);
    assert_string_equal("smollm", facts->pre);
    assert_int_equal(49152, facts->vocabulary);
    assert_int_equal(1, facts->bos_id);
    assert_int_equal(2, facts->eos_id);
    assert_false(facts->add_bos);
    assert_true(tokenizer_is_end(tokenizer, 2)); /* <|im_end|> */
    assert_true(tokenizer_is_end(tokenizer, 0)); /* <|endoftext|> */
    assert_false(tokenizer_is_end(tokenizer, 1));
    assert_int_equal(2, tokenizer_find(tokenizer, "<|im_end|>", 10));
    tokenizer_close(tokenizer);
}

/* The same vocabulary cut as Llama 3 cuts. */
static void ids_smollm2_as_llama_bpe(void **state)
{
    (void)state;
    struct gguf *gguf = smollm2_open();
    if (gguf == NULL)
        skip();
    struct gguf_strings strings;
    struct gguf_string string;
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("gpt2");
    spec.pre = token_text_of("llama-bpe");

    assert_int_equal(OK, gguf_read_strings(gguf, "tokenizer.ggml.tokens", &strings));
    struct token_text *tokens = calloc(strings.count, sizeof(*tokens));
    int32_t *types = calloc(strings.count, sizeof(*types));
    struct gguf_array array;
    assert_int_equal(OK, gguf_read_integers(gguf, "tokenizer.ggml.token_type", &array));
    for (; gguf_strings_next(&strings, &string); spec.token_count++) {
        tokens[spec.token_count] = (struct token_text){string.text, string.bytes};
        types[spec.token_count] = (int32_t)gguf_array_integer(&array, spec.token_count);
    }
    assert_int_equal(OK, gguf_read_strings(gguf, "tokenizer.ggml.merges", &strings));
    struct token_text *merges = calloc(strings.count, sizeof(*merges));
    for (; gguf_strings_next(&strings, &string); spec.merge_count++)
        merges[spec.merge_count] = (struct token_text){string.text, string.bytes};
    spec.tokens = tokens;
    spec.types = types;
    spec.merges = merges;
    struct tokenizer *tokenizer;
    assert_int_equal(OK, tokenizer_open(&spec, &tokenizer));
    check_golden("ids_smollm2_llama-bpe.json", tokenizer, false);
    tokenizer_close(tokenizer);
    free(tokens);
    free(types);
    free(merges);
    gguf_close(gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_of_each_pre_tokenizer),
        cmocka_unit_test(ids_smollm),
        cmocka_unit_test(ids_llama_bpe),
        cmocka_unit_test(ids_qwen2),
        cmocka_unit_test(ids_gpt2),
        cmocka_unit_test(ids_spm),
        cmocka_unit_test(ids_spm_without_byte_tokens),
        cmocka_unit_test(ids_smollm2),
        cmocka_unit_test(ids_smollm2_as_llama_bpe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
