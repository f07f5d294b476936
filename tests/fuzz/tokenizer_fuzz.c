/* Any bytes through every tokenizer and back: byte for byte for those that normalise nothing, and
 * always valid UTF-8 from the detokenizer. Input that begins with "GGUF" is a file to open a
 * tokenizer from. The first byte of other input picks tokenizer and flags. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#define BYTE_TOKENS 256
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const char *const pres[] = {"smollm", "llama-bpe", "qwen2", "gpt-2"};
#define QWEN2 2
#define SPM COUNT_OF(pres) /* tokenizers[SPM] is of model llama */

static struct tokenizer *tokenizers[SPM + 1];

static struct token_text text_of(const char *text)
{
    return (struct token_text){text, strlen(text)};
}

/* The bytes, merges that cross all kinds of characters, and tokens to be found in text. */
static struct tokenizer *open_one(size_t which)
{
    static const char *const merges[] = {
        "a b", "ab ab", "\xc4\xa0 a", "\xc4\xa0 \xc4\xa0", "\xc4\x8a \xc4\x8a",
        "1 2", "12 1",  "' s",        "\xc3\xa2 \xc4\xa2"};
    static const char *const joined[] = {"ab",
                                         "abab",
                                         "\xc4\xa0"
                                         "a",
                                         "\xc4\xa0\xc4\xa0",
                                         "\xc4\x8a\xc4\x8a",
                                         "12",
                                         "121",
                                         "'s",
                                         "\xc3\xa2\xc4\xa2",
                                         "\xe2\x96\x81",
                                         "\xe2\x96\x81"
                                         "a",
                                         "b\xe2\x96\x81",
                                         "a",
                                         "b"};
    static const char *const specials[] = {"<s>", "<|a|>", "<|a|>b", "<x>", "<unk>"};
    enum { COUNT = BYTE_TOKENS + COUNT_OF(joined) + COUNT_OF(specials) };
    static char spelled[BYTE_TOKENS][8];
    static struct token_text tokens[COUNT], merge_texts[COUNT_OF(merges)];
    static int32_t types[COUNT];
    static float scores[COUNT];
    uint32_t count = 0, stand_in = 0x100;
    for (unsigned byte = 0; byte < BYTE_TOKENS; byte++) {
        bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        unsigned point = printable ? byte : stand_in++;
        if (which == SPM)
            snprintf(spelled[byte], sizeof(spelled[byte]), "<0x%02X>", byte);
        else if (point < 0x80)
            snprintf(spelled[byte], sizeof(spelled[byte]), "%c", (int)point);
        else
            snprintf(spelled[byte], sizeof(spelled[byte]), "%c%c", (int)(0xc0 | point >> 6),
                     (int)(0x80 | (point & 0x3f)));
        types[count] = which == SPM ? TOKEN_BYTE : TOKEN_NORMAL;
        tokens[count++] = text_of(spelled[byte]);
    }
    for (size_t i = 0; i < COUNT_OF(joined); i++) {
        types[count] = TOKEN_NORMAL;
        scores[count] = -(float)i;
        tokens[count++] = text_of(joined[i]);
    }
    for (size_t i = 0; i < COUNT_OF(specials); i++) {
        types[count] = i == 3 ? TOKEN_USER_DEFINED : i == 4 ? TOKEN_UNKNOWN : TOKEN_CONTROL;
        tokens[count++] = text_of(specials[i]);
    }
    for (size_t i = 0; i < COUNT_OF(merges); i++)
        merge_texts[i] = text_of(merges[i]);
    struct tokenizer_spec spec = TOKENIZER_SPEC_EMPTY;
    spec.model = text_of(which == SPM ? "llama" : "gpt2");
    spec.pre = text_of(which == SPM ? "" : pres[which]);
    spec.token_count = count;
    spec.tokens = tokens;
    spec.types = types;
    spec.scores = scores;
    spec.merge_count = COUNT_OF(merges);
    spec.merges = merge_texts;
    struct tokenizer *tokenizer = NULL;
    status code = tokenizer_open(&spec, &tokenizer);
    assert(code == OK);
    return tokenizer;
}

static void encode_and_back(const struct tokenizer *t, size_t which, unsigned flags,
                            const char *text, size_t bytes)
{
    struct token_list list = {0};
    status code = tokenizer_encode(t, text, bytes, flags, SIZE_MAX, &list);
    assert(code == OK);
    size_t at = 0;
    bool exact = which < SPM && which != QWEN2;
    for (size_t i = 0; i < list.count; i++) {
        size_t token_bytes;
        const uint8_t *token = tokenizer_token_bytes(t, list.ids[i], &token_bytes);
        assert(!exact || (token_bytes <= bytes - at && memcmp(token, text + at, token_bytes) == 0));
        at += token_bytes;
    }
    assert(!exact || at == bytes);
    char *back = NULL;
    size_t back_bytes = 0;
    code = tokenizer_decode(t, list.ids, list.count, false, &back, &back_bytes);
    assert(code == OK);
    assert(utf8_valid_prefix((const uint8_t *)back, back_bytes) == back_bytes);
    free(back);
    token_list_close(&list);
}

static void open_file(const uint8_t *data, size_t bytes)
{
    struct gguf *gguf = NULL;
    if (gguf_open_memory("fuzz", data, bytes, &gguf) != OK)
        return;
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open_gguf(gguf, &tokenizer) == OK) {
        struct token_list list = {0};
        status code = tokenizer_encode(tokenizer, (const char *)data, bytes, 3, SIZE_MAX, &list);
        assert(code == OK);
        token_list_close(&list);
        tokenizer_close(tokenizer);
    }
    gguf_close(gguf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (tokenizers[0] == NULL) {
        for (size_t which = 0; which <= SPM; which++)
            tokenizers[which] = open_one(which);
    }
    if (bytes >= 4 && memcmp(data, "GGUF", 4) == 0) {
        open_file(data, bytes);
    } else if (bytes > 0) {
        size_t which = data[0] % (SPM + 1);
        unsigned flags = (data[0] & 0x40) != 0 ? TOKENIZER_PARSE_SPECIAL : 0;
        encode_and_back(tokenizers[which], which, flags, (const char *)data + 1, bytes - 1);
    }
    return 0;
}
