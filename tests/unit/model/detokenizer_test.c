#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/utf8.h"
#include "model/detokenizer.h"
#include "vectors/token_vocabulary.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static struct tokenizer *bytes_tokenizer, *spm_tokenizer;

static int open_both(void **state)
{
    (void)state;
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = token_text_of("gpt2");
    spec.pre = token_text_of("gpt-2");
    bytes_tokenizer = tokens_open("vocabulary_bytes.json", spec);
    spec.model = token_text_of("llama");
    spm_tokenizer = tokens_open("vocabulary_spm.json", spec);
    return 0;
}

static int close_both(void **state)
{
    (void)state;
    tokenizer_close(bytes_tokenizer);
    tokenizer_close(spm_tokenizer);
    return 0;
}

/* The token of one byte. */
static uint32_t byte_id(const struct tokenizer *tokenizer, uint8_t byte)
{
    for (uint32_t id = 0; id < tokenizer_facts(tokenizer)->vocabulary; id++) {
        size_t bytes;
        const uint8_t *token = tokenizer_token_bytes(tokenizer, id, &bytes);
        if (bytes == 1 && token[0] == byte)
            return id;
    }
    fail_msg("no token for byte %u", byte);
    return TOKEN_NONE;
}

/* Push all, flush, and check that each piece is whole characters. */
static size_t stream(struct detokenizer *detokenizer, const uint32_t *ids, size_t count, char *out)
{
    size_t written = 0;
    for (size_t i = 0; i <= count; i++) {
        char piece[DETOKENIZER_PIECE_BYTES_MAX];
        size_t bytes = SIZE_MAX;
        if (i < count)
            assert_int_equal(OK, detokenizer_push(detokenizer, ids[i], piece, &bytes));
        else
            detokenizer_flush(detokenizer, piece, &bytes);
        assert_true(bytes <= sizeof(piece));
        assert_int_equal(bytes, utf8_valid_prefix((const uint8_t *)piece, bytes));
        memcpy(out + written, piece, bytes);
        written += bytes;
    }
    return written;
}

/* What Python's bytes.decode("utf-8", errors="replace") gives; # is U+FFFD. */
static void broken_utf8_becomes_replacements(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"a\xc3\xa9z", "a\xc3\xa9z"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"\xf0\x9f", "#"},
        {"\xf0\x9f\x98", "#"},
        {"\xf0\x9f"
         "A",
         "#A"},
        {"\xc3", "#"},
        {"\xc3\xc3\xa9", "#\xc3\xa9"},
        {"\x80", "#"},
        {"\xe0\x80", "##"},
        {"\xed\xa0\x80", "###"},
        {"\xc0\xaf", "##"},
        {"\xf4\x90\x80\x80", "####"},
        {"\xf5\x80", "##"},
        {"\xe4\xb8\xe4\xb8\xad", "#\xe4\xb8\xad"},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80\xff", "#\xf0\x9f\x98\x80#"},
        {"\xff\xfe", "##"},
    };
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        char expected[64];
        size_t expected_bytes = 0;
        for (const char *at = cases[c].text; *at != '\0'; at++) {
            size_t step = *at == '#' ? 3 : 1;
            memcpy(expected + expected_bytes, *at == '#' ? "\xef\xbf\xbd" : at, step);
            expected_bytes += step;
        }
        uint32_t ids[16];
        size_t count = strlen(cases[c].bytes);
        for (size_t i = 0; i < count; i++)
            ids[i] = byte_id(bytes_tokenizer, (uint8_t)cases[c].bytes[i]);
        struct detokenizer detokenizer;
        detokenizer_open(bytes_tokenizer, 0, &detokenizer);
        char out[64];
        size_t bytes = stream(&detokenizer, ids, count, out);
        assert_int_equal(expected_bytes, bytes);
        assert_memory_equal(expected, out, bytes);
        detokenizer_close(&detokenizer);
    }
}

static void characters_are_held_until_whole(void **state)
{
    (void)state;
    struct detokenizer d;
    char piece[DETOKENIZER_PIECE_BYTES_MAX];
    size_t bytes;
    const char *emoji = "\xf0\x9f\x98\x80";
    detokenizer_open(bytes_tokenizer, DETOKENIZER_SKIP_SPECIAL, &d);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            OK, detokenizer_push(&d, byte_id(bytes_tokenizer, (uint8_t)emoji[i]), piece, &bytes));
        assert_int_equal(0, bytes);
    }
    /* A control token that is left out is not in the way; an id from nowhere changes nothing. */
    uint32_t control = tokenizer_find(bytes_tokenizer, "<|im_end|>", 10);
    assert_int_equal(OK, detokenizer_push(&d, control, piece, &bytes));
    assert_int_equal(0, bytes);
    uint32_t beyond = tokenizer_facts(bytes_tokenizer)->vocabulary;
    assert_int_equal(ERR_BAD_INPUT, detokenizer_push(&d, beyond, piece, &bytes));
    assert_int_equal(ERR_BAD_INPUT, detokenizer_push(&d, TOKEN_NONE, piece, &bytes));
    assert_int_equal(OK, detokenizer_push(&d, byte_id(bytes_tokenizer, 0x80), piece, &bytes));
    assert_int_equal(4, bytes);
    assert_memory_equal(emoji, piece, 4);
    detokenizer_flush(&d, piece, &bytes);
    assert_int_equal(0, bytes);

    detokenizer_open(bytes_tokenizer, 0, &d);
    assert_int_equal(OK, detokenizer_push(&d, byte_id(bytes_tokenizer, 0xe4), piece, &bytes));
    assert_int_equal(OK, detokenizer_push(&d, control, piece, &bytes));
    assert_int_equal(13, bytes);
    assert_memory_equal("\xef\xbf\xbd<|im_end|>", piece, 13);
}

/* Every text of the corpus, streamed and decoded at once. */
static void streaming_gives_the_whole_text(void **state)
{
    (void)state;
    json_t *corpus = tokens_json("corpus.json");
    struct tokenizer *both[] = {bytes_tokenizer, spm_tokenizer};
    for (size_t i = 0; i < json_array_size(corpus) * 2; i++) {
        const struct tokenizer *t = both[i % 2];
        const json_t *text = json_array_get(corpus, i / 2);
        struct token_list ids = {0};
        assert_int_equal(OK, tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                              0, SIZE_MAX, &ids));
        char *whole, *out = malloc(json_string_length(text) * 3 + 16);
        size_t whole_bytes;
        assert_int_equal(OK, tokenizer_decode(t, ids.ids, ids.count, true, &whole, &whole_bytes));
        struct detokenizer d;
        detokenizer_open(t, DETOKENIZER_TEXT_START | DETOKENIZER_SKIP_SPECIAL, &d);
        assert_int_equal(whole_bytes, stream(&d, ids.ids, ids.count, out));
        assert_memory_equal(whole, out, whole_bytes);
        assert_int_equal('\0', whole[whole_bytes]);
        if (i % 2 == 0) {
            assert_int_equal(json_string_length(text), whole_bytes);
            assert_memory_equal(json_string_value(text), whole, whole_bytes);
        }
        free(whole);
        free(out);
        token_list_close(&ids);
    }
    json_decref(corpus);
}

static void leading_space_of_a_text_start(void **state)
{
    (void)state;
    struct token_list ids = {0};
    assert_int_equal(OK, tokenizer_encode(spm_tokenizer, "the baton", 9, 0, SIZE_MAX, &ids));
    struct detokenizer d;
    char out[64];
    detokenizer_open(spm_tokenizer, DETOKENIZER_TEXT_START, &d);
    assert_int_equal(9, stream(&d, ids.ids, ids.count, out));
    assert_memory_equal("the baton", out, 9);
    /* What goes on after a prompt keeps its space. */
    detokenizer_open(spm_tokenizer, 0, &d);
    assert_int_equal(10, stream(&d, ids.ids, ids.count, out));
    assert_memory_equal(" the baton", out, 10);
    /* A control token in front is not the start. */
    uint32_t control = tokenizer_find(spm_tokenizer, "<s>", 3);
    assert_true(tokenizer_is_special(spm_tokenizer, control));
    char piece[DETOKENIZER_PIECE_BYTES_MAX];
    size_t bytes;
    detokenizer_open(spm_tokenizer, DETOKENIZER_TEXT_START, &d);
    assert_int_equal(OK, detokenizer_push(&d, control, piece, &bytes));
    assert_int_equal(3, bytes);
    assert_int_equal(9, stream(&d, ids.ids, ids.count, out));
    token_list_close(&ids);
}

static void decode_refuses_other_ids(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes = 7;
    uint32_t ids[] = {0, 1u << 30};
    assert_int_equal(ERR_BAD_INPUT,
                     tokenizer_decode(bytes_tokenizer, ids, 2, false, &text, &bytes));
    assert_null(text);
    assert_int_equal(OK, tokenizer_decode(bytes_tokenizer, NULL, 0, false, &text, &bytes));
    assert_string_equal("", text);
    assert_int_equal(0, bytes);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_utf8_becomes_replacements),
        cmocka_unit_test(characters_are_held_until_whole),
        cmocka_unit_test(streaming_gives_the_whole_text),
        cmocka_unit_test(leading_space_of_a_text_start),
        cmocka_unit_test(decode_refuses_other_ids),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
