/* tests/fuzz/tokenizer_json_fuzz.c - any bytes as a tokenizer.json: a tokenizer that takes any
 * text, or refused in words. The input's tail is encoded by it, too. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/json_file.h"
#include "model/tokenizer_json.h"

#define TEXT_BYTES 300u
#define VOCABULARY 70000u /* of the embedding: what ids may cost */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(const struct tokenizer *tokenizer, const char *text, size_t bytes)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        struct token_list ids = {0};
        char *back = NULL;
        size_t back_bytes = 0;
        /* A hostile pattern may reach its limit; that is an error with words. */
        if (tokenizer_encode(tokenizer, text, bytes, flags, 1000, &ids) != OK)
            assert(strlen(error_text()) > 0);
        for (size_t i = 0; i < ids.count; i++)
            assert(ids.ids[i] < tokenizer_facts(tokenizer)->vocabulary);
        if (tokenizer_decode(tokenizer, ids.ids, ids.count, flags == 1, &back, &back_bytes) == OK)
            free(back);
        token_list_close(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char fixed[] = "The <|x|> caf\xc3\xa9  42\n\n \xff it's";
    json_t *root = NULL;
    struct tokenizer_json read;
    struct tokenizer *tokenizer = NULL;
    if (json_file_parse("fuzz", (const char *)data, bytes, &root) != OK) {
        assert(strlen(error_text()) > 0);
        return 0;
    }
    status code = tokenizer_json_read(root, VOCABULARY, &read);
    if (code == OK)
        code = tokenizer_open(&read.spec, &tokenizer);
    tokenizer_json_close(&read);
    if (code == OK) {
        size_t tail = bytes < TEXT_BYTES ? bytes : TEXT_BYTES;
        use(tokenizer, (const char *)data + bytes - tail, tail);
        use(tokenizer, fixed, sizeof(fixed) - 1);
    } else {
        assert(strlen(error_text()) > 0);
    }
    tokenizer_close(tokenizer);
    json_decref(root);
    return 0;
}
