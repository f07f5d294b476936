#include "model/pretokenize.h"

#include <assert.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "base/utf8.h"

/* Unicode White_Space, inside a class. PCRE2's own \s takes U+180E as well, which has not been a
 * space since Unicode 6.3. */
#define SPACE                                                                                      \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Quantifiers are possessive where giving back could not help. A run of spaces leaves its last one
 * to the word that follows. */
#define GPT2_CONTRACTION "'(?:[sdmt]|ll|ve|re)"
#define TRAILING_SPACES "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

#define GPT2_PATTERN                                                                               \
    GPT2_CONTRACTION "| ?\\p{L}++| ?\\p{N}++| ?[^" SPACE "\\p{L}\\p{N}]++|" TRAILING_SPACES

/* Digits are cut out one by one first, then GPT-2's pattern runs on each piece between them: no
 * space joins a digit, and spaces before a digit are at the end of their piece. */
#define SMOLLM_PATTERN                                                                             \
    "\\p{N}|" GPT2_CONTRACTION "| ?\\p{L}++| ?[^" SPACE "\\p{L}\\p{N}]++|[" SPACE "]+(?![^" SPACE  \
    "\\p{N}])|[" SPACE "]+"

#define LLAMA3_PATTERN(numbers)                                                                    \
    "'(?i:[sdmt]|re|ve|ll)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}++|" numbers "| ?[^" SPACE                  \
    "\\p{L}\\p{N}]++[\\r\\n]*+|[" SPACE "]*[\\r\\n]++|" TRAILING_SPACES

struct pretokenizer_kind {
    const char *name;
    const char *pattern;
    bool ignore_merges, add_bos, compose;
};

static const struct pretokenizer_kind kinds[] = {
    {"smollm", SMOLLM_PATTERN, false, false, false},
    {"llama-bpe", LLAMA3_PATTERN("\\p{N}{1,3}+"), true, true, false},
    {"qwen2", LLAMA3_PATTERN("\\p{N}"), false, false, true},
    {"gpt-2", GPT2_PATTERN, false, false, false},
};

/* Other names that files use for the same. */
static const struct {
    const char *name, *same_as;
} aliases[] = {
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
    {"deepseek-r1-qwen", "qwen2"},
    {"gpt2", "gpt-2"},
};

static bool text_equals(const struct token_text *text, const char *word)
{
    return text->bytes == strlen(word) && memcmp(text->text, word, text->bytes) == 0;
}

static const struct pretokenizer_kind *kind_find(const struct token_text *name)
{
    const char *alias = NULL;
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++) {
        if (text_equals(name, aliases[i].name))
            alias = aliases[i].same_as;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (alias != NULL ? strcmp(alias, kinds[i].name) == 0 : text_equals(name, kinds[i].name))
            return &kinds[i];
    }
    return NULL;
}

status pretokenizer_open(const struct token_text *name, struct pretokenizer *pretokenizer_out)
{
    memset(pretokenizer_out, 0, sizeof(*pretokenizer_out));
    const struct pretokenizer_kind *kind = kind_find(name);
    if (kind == NULL)
        return error_set(ERR_UNSUPPORTED,
                         "pre-tokenizer \"%.*s\" is not built; there are smollm, llama-bpe, qwen2 "
                         "and gpt-2",
                         (int)(name->bytes < 64 ? name->bytes : 64),
                         name->bytes > 0 ? name->text : "");
    int number;
    PCRE2_SIZE where;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)kind->pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &number, &where, NULL);
    if (code == NULL)
        return error_set(ERR_NO_MEMORY, "PCRE2 error %d at %zu of the pattern for %s", number,
                         (size_t)where, kind->name);
    /* May be refused (no executable memory allowed): then the interpreter does it, slower. */
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    pretokenizer_out->name = kind->name;
    pretokenizer_out->ignore_merges = kind->ignore_merges;
    pretokenizer_out->add_bos = kind->add_bos;
    pretokenizer_out->compose = kind->compose;
    pretokenizer_out->code = code;
    return OK;
}

void pretokenizer_close(struct pretokenizer *pretokenizer)
{
    pcre2_code_free(pretokenizer->code);
    memset(pretokenizer, 0, sizeof(*pretokenizer));
}

status word_cursor_open(const struct pretokenizer *pretokenizer, struct word_cursor *cursor_out)
{
    memset(cursor_out, 0, sizeof(*cursor_out));
    cursor_out->pretokenizer = pretokenizer;
    cursor_out->match_data = pcre2_match_data_create(1, NULL);
    cursor_out->match_context = pcre2_match_context_create(NULL);
    if (cursor_out->match_data == NULL || cursor_out->match_context == NULL)
        return error_set(ERR_NO_MEMORY, "no memory to match words");
    return OK;
}

void word_cursor_close(struct word_cursor *cursor)
{
    pcre2_match_data_free(cursor->match_data);
    pcre2_match_context_free(cursor->match_context);
    memset(cursor, 0, sizeof(*cursor));
}

void word_cursor_start(struct word_cursor *cursor, const char *text, size_t bytes)
{
    assert(bytes <= TOKENIZER_TEXT_BYTES_MAX * 4u);
    cursor->text = text;
    cursor->bytes = bytes;
    cursor->at = 0;
    cursor->valid_end = 0;
    /* One step back over a run of spaces costs one; no pattern steps back over the same twice. */
    pcre2_set_match_limit(cursor->match_context, (uint32_t)(100000 + 8 * bytes));
}

status word_cursor_next(struct word_cursor *cursor, const char **word_out, size_t *bytes_out)
{
    *word_out = cursor->text + cursor->at;
    *bytes_out = 0;
    if (cursor->at == cursor->bytes)
        return OK;
    if (cursor->at == cursor->valid_end) {
        cursor->valid_end += utf8_valid_prefix((const uint8_t *)cursor->text + cursor->at,
                                               cursor->bytes - cursor->at);
        if (cursor->at == cursor->valid_end) {
            cursor->at++;
            cursor->valid_end++;
            *bytes_out = 1;
            return OK;
        }
    }
    int matches =
        pcre2_match(cursor->pretokenizer->code, (PCRE2_SPTR)cursor->text, cursor->valid_end,
                    cursor->at, PCRE2_NO_UTF_CHECK, cursor->match_data, cursor->match_context);
    if (matches < 0)
        return error_set(ERR_BAD_INPUT,
                         "the pre-tokenizer gave up at byte %zu of the text (PCRE2 error %d)",
                         cursor->at, matches);
    size_t end = pcre2_get_ovector_pointer(cursor->match_data)[1];
    assert(end > cursor->at && end <= cursor->valid_end);
    *bytes_out = end - cursor->at;
    cursor->at = end;
    return OK;
}
