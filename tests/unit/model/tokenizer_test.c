#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/nfc.h"
#include "model/tokenizer.h"
#include "vectors/token_vocabulary.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const char *const pres[] = {"smollm", "llama-bpe", "qwen2", "gpt-2"};

static struct tokenizer *open_bytes(const char *pre)
{
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("gpt2");
    spec.pre = token_text_of(pre);
    return tokens_open("vocabulary_bytes.json", spec);
}

static struct tokenizer *open_spm(void)
{
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("llama");
    return tokens_open("vocabulary_spm.json", spec);
}

static struct token_list encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                unsigned flags)
{
    struct token_list list = {0};
    if (tokenizer_encode(tokenizer, text, bytes, flags, SIZE_MAX, &list) != OK)
        fail_msg("%s", error_text());
    return list;
}

static void assert_ids(const struct tokenizer *tokenizer, const char *text, unsigned flags,
                       const uint32_t *ids, size_t count)
{
    struct token_list list = encode(tokenizer, text, strlen(text), flags);
    assert_int_equal(count, list.count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ids[i], list.ids[i]);
    token_list_close(&list);
}

/* The bytes of all ids, one after the other. */
static void assert_bytes(const struct tokenizer *tokenizer, const struct token_list *list,
                         const char *text, size_t bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < list->count; i++) {
        size_t token_bytes;
        const uint8_t *token = tokenizer_token_bytes(tokenizer, list->ids[i], &token_bytes);
        assert_true(token_bytes <= bytes - at);
        assert_memory_equal(token, text + at, token_bytes);
        at += token_bytes;
    }
    assert_int_equal(bytes, at);
}

/* A vocabulary of a few tokens, by hand. */
#define HAND_COUNT 12
enum { HAND_A, HAND_B, HAND_C, HAND_AB, HAND_ABC, HAND_S, HAND_BOS, HAND_END, HAND_ENDING, HAND_X };

struct hand {
    struct token_text tokens[HAND_COUNT], merges[2];
    int32_t types[HAND_COUNT];
    float scores[HAND_COUNT];
    struct tokenizer_spec spec;
};

static void hand_make(struct hand *hand, const char *model)
{
    static const char *const texts[HAND_COUNT] = {
        "a",   "b",          "c",           "ab",  "abc",          "\xc4\xa0",
        "<s>", "<|im_end|>", "<|im_end|>>", "<x>", "\xe2\x96\x81", "<unk>"};
    for (int i = 0; i < HAND_COUNT; i++) {
        hand->tokens[i] = token_text_of(texts[i]);
        hand->types[i] = TOKEN_NORMAL;
        hand->scores[i] = (float)-i;
    }
    hand->types[HAND_BOS] = hand->types[HAND_END] = hand->types[HAND_ENDING] = TOKEN_CONTROL;
    hand->types[HAND_X] = TOKEN_USER_DEFINED;
    hand->types[11] = TOKEN_UNKNOWN;
    hand->merges[0] = token_text_of("a b");
    hand->merges[1] = token_text_of("ab c");
    hand->spec = TOKENIZER_SPEC_EMPTY;
    hand->spec.model = token_text_of(model);
    hand->spec.pre = token_text_of("gpt-2");
    hand->spec.token_count = HAND_COUNT;
    hand->spec.tokens = hand->tokens;
    hand->spec.types = hand->types;
    hand->spec.scores = hand->scores;
    hand->spec.merge_count = 2;
    hand->spec.merges = hand->merges;
    hand->spec.bos_id = HAND_BOS;
    hand->spec.unknown_id = 11;
}

static struct tokenizer *hand_open(struct hand *hand)
{
    struct tokenizer *tokenizer = NULL;
    assert_int_equal(OK, tokenizer_open(&hand->spec, &tokenizer));
    return tokenizer;
}

static void hand_refused(struct hand *hand, status code, const char *words)
{
    struct tokenizer *tokenizer = NULL;
    assert_int_equal(code, tokenizer_open(&hand->spec, &tokenizer));
    assert_null(tokenizer);
    if (strstr(error_text(), words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error_text(), words);
}

static void open_refuses_what_is_wrong(void **state)
{
    (void)state;
    struct hand hand;
    static char long_text[TOKENIZER_TOKEN_BYTES_MAX + 1];
    memset(long_text, 'a', sizeof(long_text));

    hand_make(&hand, "bert");
    hand_refused(&hand, ERR_UNSUPPORTED, "bert");
    hand_make(&hand, "gpt2");
    hand.spec.pre = token_text_of("tekken");
    hand_refused(&hand, ERR_UNSUPPORTED, "tekken");
    hand_make(&hand, "gpt2");
    hand.spec.pre = (struct token_text){NULL, 0};
    hand_refused(&hand, ERR_UNSUPPORTED, "pre-tokenizer");
    hand_make(&hand, "gpt2");
    hand.spec.token_count = 0;
    hand.spec.bos_id = hand.spec.unknown_id = TOKEN_NONE;
    hand_refused(&hand, ERR_BAD_INPUT, "tokens");
    hand_make(&hand, "gpt2");
    hand.spec.bos_id = HAND_COUNT;
    hand_refused(&hand, ERR_BAD_INPUT, "bos");
    hand_make(&hand, "gpt2");
    hand.spec.eot_id = 1u << 31;
    hand_refused(&hand, ERR_BAD_INPUT, "eot");
    hand_make(&hand, "gpt2");
    hand.types[3] = 7;
    hand_refused(&hand, ERR_BAD_INPUT, "token 3 has type 7");
    hand_make(&hand, "gpt2");
    hand.types[3] = 0;
    hand_refused(&hand, ERR_BAD_INPUT, "token 3 has type 0");
    hand_make(&hand, "gpt2");
    hand.tokens[4] = (struct token_text){long_text, sizeof(long_text)};
    hand_refused(&hand, ERR_BAD_INPUT, "token 4");

    static const char *const bad_merges[] = {"",    "a",   " ",   "a ",    " a",  "ab",
                                             "a z", "z a", "b c", "a b c", "a  b"};
    for (size_t i = 0; i < COUNT_OF(bad_merges); i++) {
        hand_make(&hand, "gpt2");
        hand.merges[1] = token_text_of(bad_merges[i]);
        hand_refused(&hand, ERR_BAD_INPUT, "merge 1");
    }
    hand_make(&hand, "gpt2");
    hand.merges[1] = (struct token_text){long_text, sizeof(long_text)};
    hand_refused(&hand, ERR_BAD_INPUT, "merge 1");

    hand_make(&hand, "llama");
    hand.spec.scores = NULL;
    hand_refused(&hand, ERR_BAD_INPUT, "scores");
    hand_make(&hand, "llama");
    hand.scores[5] = NAN;
    hand_refused(&hand, ERR_BAD_INPUT, "score of token 5");
    hand_make(&hand, "llama");
    hand.types[0] = TOKEN_BYTE;
    hand_refused(&hand, ERR_BAD_INPUT, "token 0 is of type byte");
}

static void merges_and_specials_by_hand(void **state)
{
    (void)state;
    struct hand hand;
    hand_make(&hand, "gpt2");
    struct tokenizer *t = hand_open(&hand);
    assert_ids(t, "", 0, NULL, 0);
    assert_ids(t, "abc", 0, (uint32_t[]){HAND_ABC}, 1);
    assert_ids(t, "aab", 0, (uint32_t[]){HAND_A, HAND_AB}, 2);
    assert_ids(t, "ab c", 0, (uint32_t[]){HAND_AB, HAND_S, HAND_C}, 3);
    /* A byte without a token is dropped, and its neighbours merge. */
    assert_ids(t, "azb", 0, (uint32_t[]){HAND_AB}, 1);
    assert_ids(t, "\xff", 0, NULL, 0);
    /* The longest of those that begin at the leftmost place. */
    assert_ids(t, "a<|im_end|>>b", TOKENIZER_PARSE_SPECIAL,
               (uint32_t[]){HAND_A, HAND_ENDING, HAND_B}, 3);
    assert_ids(t, "a<|im_end|>b", TOKENIZER_PARSE_SPECIAL, (uint32_t[]){HAND_A, HAND_END, HAND_B},
               3);
    assert_ids(t, "<|im_end|", TOKENIZER_PARSE_SPECIAL, NULL, 0);
    /* Control tokens only when asked; the vocabulary has none of "<|im_end|>" as text. */
    assert_ids(t, "a<|im_end|>", 0, (uint32_t[]){HAND_A}, 1);
    assert_ids(t, "a<x>b", 0, (uint32_t[]){HAND_A, HAND_X, HAND_B}, 3);
    assert_true(tokenizer_is_end(t, HAND_END));
    assert_false(tokenizer_is_end(t, HAND_ENDING));
    assert_true(tokenizer_is_special(t, HAND_END));
    assert_false(tokenizer_is_special(t, HAND_X));
    assert_int_equal(HAND_AB, tokenizer_find(t, "ab", 2));
    assert_int_equal(TOKEN_NONE, tokenizer_find(t, "ba", 2));
    assert_int_equal(TOKEN_NONE, tokenizer_find(t, "", 0));
    size_t bytes;
    assert_memory_equal("\xc4\xa0", tokenizer_token_text(t, HAND_S, &bytes), 2);
    assert_int_equal(2, bytes);
    assert_memory_equal(" ", tokenizer_token_bytes(t, HAND_S, &bytes), 1);
    assert_int_equal(1, bytes);
    assert_int_equal(11, tokenizer_facts(t)->token_bytes_max);
    tokenizer_close(t);
}

static void bos_and_eos_are_added_once(void **state)
{
    (void)state;
    struct hand hand;
    unsigned both = TOKENIZER_ADD_BOS | TOKENIZER_PARSE_SPECIAL;
    hand_make(&hand, "gpt2");
    struct tokenizer *t = hand_open(&hand); /* gpt-2 does not want bos */
    assert_false(tokenizer_facts(t)->add_bos);
    assert_ids(t, "a", TOKENIZER_ADD_BOS, (uint32_t[]){HAND_A}, 1);
    tokenizer_close(t);

    hand.spec.add_bos = 1;
    hand.spec.add_eos = 1;
    hand.spec.eos_id = HAND_END;
    t = hand_open(&hand);
    assert_ids(t, "a", 0, (uint32_t[]){HAND_A}, 1);
    assert_ids(t, "a", TOKENIZER_ADD_BOS, (uint32_t[]){HAND_BOS, HAND_A, HAND_END}, 3);
    assert_ids(t, "", TOKENIZER_ADD_BOS, (uint32_t[]){HAND_BOS, HAND_END}, 2);
    assert_ids(t, "<s>a<|im_end|>", both, (uint32_t[]){HAND_BOS, HAND_A, HAND_END}, 3);
    assert_ids(t, "a<s>", both, (uint32_t[]){HAND_BOS, HAND_A, HAND_BOS, HAND_END}, 4);
    tokenizer_close(t);

    hand_make(&hand, "gpt2"); /* Llama 3 wants it unless the file says no */
    hand.spec.pre = token_text_of("llama3");
    t = hand_open(&hand);
    assert_true(tokenizer_facts(t)->add_bos);
    assert_string_equal("llama-bpe", tokenizer_facts(t)->pre);
    tokenizer_close(t);
    hand.spec.add_bos = 0;
    t = hand_open(&hand);
    assert_false(tokenizer_facts(t)->add_bos);
    tokenizer_close(t);
    hand.spec.add_bos = 1;
    hand.spec.bos_id = TOKEN_NONE;
    t = hand_open(&hand);
    assert_false(tokenizer_facts(t)->add_bos);
    tokenizer_close(t);
}

static void spm_space_prefix(void **state)
{
    (void)state;
    enum { MARK = 10, UNKNOWN = 11 };
    struct hand hand;
    hand_make(&hand, "llama");
    struct tokenizer *t = hand_open(&hand);
    assert_true(tokenizer_facts(t)->add_space_prefix);
    assert_true(tokenizer_facts(t)->add_bos);
    assert_ids(t, "", 0, NULL, 0);
    assert_ids(t, "abc", 0, (uint32_t[]){MARK, HAND_ABC}, 2);
    assert_ids(t, " a", 0, (uint32_t[]){MARK, MARK, HAND_A}, 3);
    assert_ids(t, "<s>a<|im_end|>b", TOKENIZER_PARSE_SPECIAL,
               (uint32_t[]){HAND_BOS, MARK, HAND_A, HAND_END, MARK, HAND_B}, 6);
    assert_ids(t, "a<x>b", 0, (uint32_t[]){MARK, HAND_A, HAND_X, HAND_B}, 4);
    assert_ids(t, "<x>b", 0, (uint32_t[]){MARK, HAND_X, HAND_B}, 3);
    /* No byte tokens: one unknown for a run of what is not there. */
    assert_ids(t, "azzzb", 0, (uint32_t[]){MARK, HAND_A, UNKNOWN, HAND_B}, 4);
    assert_ids(t, "\xff\xfe", 0, (uint32_t[]){MARK, UNKNOWN}, 2);
    tokenizer_close(t);
    hand.spec.add_space_prefix = 0;
    t = hand_open(&hand);
    assert_ids(t, "a b", 0, (uint32_t[]){HAND_A, MARK, HAND_B}, 3);
    tokenizer_close(t);
}

static void limit_leaves_the_list_as_it_was(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes("gpt-2");
    struct token_list list = encode(t, "1 2", 3, 0);
    size_t before = list.count;
    assert_int_equal(OK, tokenizer_encode(t, "3 4", 3, 0, SIZE_MAX, &list)); /* appends */
    assert_int_equal(2 * before, list.count);
    assert_int_equal(ERR_FULL, tokenizer_encode(t, "5 6", 3, 0, 2 * before + 1, &list));
    assert_int_equal(2 * before, list.count);
    assert_int_equal(OK, tokenizer_encode(t, "5 6", 3, 0, 3 * before, &list));
    assert_int_equal(3 * before, list.count);
    token_list_close(&list);

    char *large = malloc(TOKENIZER_TEXT_BYTES_MAX + 1u);
    assert_non_null(large);
    memset(large, ' ', TOKENIZER_TEXT_BYTES_MAX + 1u);
    assert_int_equal(ERR_BAD_INPUT,
                     tokenizer_encode(t, large, TOKENIZER_TEXT_BYTES_MAX + 1u, 0, SIZE_MAX, &list));
    free(large);
    tokenizer_close(t);
}

/* Any bytes come back, whatever they are: here mostly broken UTF-8. */
static void random_bytes_round_trip(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "\xc3", "\xa9", "\xe4\xb8", "\xf0\x9f\x98", "\x80",     "\xed\xa0", "\xff",     "'s",
        "  ",   "\n",   "12",       "abc",          "\xc3\xa9", "<|im",     "\xef\xbb", "\xf4\x90"};
    uint64_t seed = 12345;
    for (size_t p = 0; p <= COUNT_OF(pres); p++) {
        bool spm = p == COUNT_OF(pres);
        struct tokenizer *t = spm ? open_spm() : open_bytes(pres[p]);
        for (int round = 0; round < 400; round++) {
            char text[256];
            size_t bytes = 0;
            for (int i = 0; i < 40 && bytes < 250; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                const char *piece = pieces[seed >> 60];
                if ((seed >> 50 & 3) == 0)
                    text[bytes++] = (char)(seed >> 40);
                else
                    bytes += (size_t)sprintf(text + bytes, "%s", piece);
            }
            size_t text_bytes = bytes;
            struct token_list list = encode(t, text, bytes, TOKENIZER_PARSE_SPECIAL);
            if (spm) {
                char marked[300] = " ";
                memcpy(marked + 1, text, bytes);
                assert_bytes(t, &list, marked, bytes + 1);
            } else {
                char *composed; /* what Qwen's text becomes first */
                assert_int_equal(OK, nfc_compose(text, bytes, &composed, &bytes));
                assert_bytes(t, &list, p == 2 ? composed : text, p == 2 ? bytes : text_bytes);
                free(composed);
            }
            token_list_close(&list);
        }
        tokenizer_close(t);
    }
}

/* Half a million bytes of each; with time that grows with the square this test would not end. */
static void long_texts_take_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a",        "ab",        " ", "\n",           " \n",  "7",
        "<",        "<|im_star", "'", "\xe4\xb8\xad", "\xff", "\xcc\x81\xcc\x96",
        "x\xcc\x81"};
    size_t room = 1u << 19;
    char *text = malloc(room);
    assert_non_null(text);
    for (size_t p = 0; p <= COUNT_OF(pres); p++) {
        bool spm = p == COUNT_OF(pres);
        struct tokenizer *t = spm ? open_spm() : open_bytes(pres[p]);
        for (size_t u = 0; u < COUNT_OF(units); u++) {
            size_t unit_bytes = strlen(units[u]), bytes = 0;
            for (; room - bytes >= unit_bytes; bytes += unit_bytes)
                memcpy(text + bytes, units[u], unit_bytes);
            struct token_list list = encode(t, text, bytes, TOKENIZER_PARSE_SPECIAL);
            if (!spm)
                assert_bytes(t, &list, text, bytes);
            token_list_close(&list);
        }
        tokenizer_close(t);
    }
    free(text);
}

static void composes_for_qwen2(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes("qwen2");
    struct token_list list = encode(t, "e\xcc\x81\xff\xcc\x81 \xe1\x84\x92\xe1\x85\xa1", 13, 0);
    assert_bytes(t, &list, "\xc3\xa9\xff\xcc\x81 \xed\x95\x98", 9);
    token_list_close(&list);
    tokenizer_close(t);
    t = open_bytes("llama-bpe");
    list = encode(t, "e\xcc\x81", 3, 0);
    assert_bytes(t, &list, "e\xcc\x81", 3);
    token_list_close(&list);
    tokenizer_close(t);
}

struct shared_encode {
    const struct tokenizer *tokenizer;
    const json_t *corpus;
    struct token_list ids;
};

static void *encode_corpus(void *argument)
{
    struct shared_encode *job = argument;
    for (int round = 0; round < 5; round++) {
        job->ids.count = 0;
        for (size_t i = 0; i < json_array_size(job->corpus); i++) {
            const json_t *text = json_array_get(job->corpus, i);
            if (tokenizer_encode(job->tokenizer, json_string_value(text), json_string_length(text),
                                 TOKENIZER_PARSE_SPECIAL, SIZE_MAX, &job->ids) != OK)
                return NULL;
        }
    }
    return job;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t = open_bytes("qwen2");
    json_t *corpus = tokens_json("corpus.json");
    struct shared_encode jobs[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct shared_encode){.tokenizer = t, .corpus = corpus};
        assert_int_equal(0, pthread_create(&threads[i], NULL, encode_corpus, &jobs[i]));
    }
    for (int i = 0; i < 4; i++) {
        void *done;
        pthread_join(threads[i], &done);
        assert_ptr_equal(&jobs[i], done);
        assert_int_equal(jobs[0].ids.count, jobs[i].ids.count);
        assert_memory_equal(jobs[0].ids.ids, jobs[i].ids.ids,
                            jobs[0].ids.count * sizeof(jobs[0].ids.ids[0]));
    }
    for (int i = 0; i < 4; i++)
        token_list_close(&jobs[i].ids);
    json_decref(corpus);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_refuses_what_is_wrong),
        cmocka_unit_test(merges_and_specials_by_hand),
        cmocka_unit_test(bos_and_eos_are_added_once),
        cmocka_unit_test(spm_space_prefix),
        cmocka_unit_test(limit_leaves_the_list_as_it_was),
        cmocka_unit_test(random_bytes_round_trip),
        cmocka_unit_test(long_texts_take_linear_time),
        cmocka_unit_test(composes_for_qwen2),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
