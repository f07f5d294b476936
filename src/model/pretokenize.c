#include "model/pretokenize.h"

#include <assert.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "base/utf8.h"
#include "model/split_pattern.h"

#define SPACE PATTERN_SPACE

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

static status pattern_compile(const char *pattern, uint32_t options, struct pretokenizer_step *step)
{
    int number;
    PCRE2_SIZE where;
    step->code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | options, &number, &where, NULL);
    if (step->code == NULL) {
        char text[128];
        pcre2_get_error_message(number, (PCRE2_UCHAR *)text, sizeof(text));
        return error_set(ERR_UNSUPPORTED, "a pattern of the pre-tokenizer: %s (at byte %zu of it)",
                         text, (size_t)where);
    }
    /* May be refused (no executable memory allowed): then the interpreter does it, slower. */
    pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE);
    return OK;
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
    pretokenizer_out->name = kind->name;
    pretokenizer_out->ignore_merges = kind->ignore_merges;
    pretokenizer_out->add_bos = kind->add_bos;
    pretokenizer_out->compose = kind->compose;
    pretokenizer_out->steps[0].covers = true;
    pretokenizer_out->step_count = 1;
    return pattern_compile(kind->pattern, PCRE2_ANCHORED, &pretokenizer_out->steps[0]);
}

status pretokenizer_open_cuts(const struct tokenizer_cut *cuts, size_t count,
                              struct pretokenizer *pretokenizer_out)
{
    memset(pretokenizer_out, 0, sizeof(*pretokenizer_out));
    pretokenizer_out->name = "tokenizer.json";
    if (count > PRETOKENIZER_CUTS_MAX)
        return error_set(ERR_UNSUPPORTED, "a pre-tokenizer of %zu steps (supported: at most %u)",
                         count, PRETOKENIZER_CUTS_MAX);
    for (size_t i = 0; i < count; i++) {
        struct pretokenizer_step *step = &pretokenizer_out->steps[i];
        uint32_t empty = 0;
        status code = pattern_compile(cuts[i].pattern, 0, step);
        if (code != OK)
            return code;
        step->drop_gaps = cuts[i].drop_gaps;
        pretokenizer_out->step_count++;
        pcre2_pattern_info(step->code, PCRE2_INFO_MATCHEMPTY, &empty);
        if (empty != 0)
            return error_set(ERR_UNSUPPORTED,
                             "pattern %zu of the pre-tokenizer may match no text at all", i + 1);
    }
    return OK;
}

void pretokenizer_close(struct pretokenizer *pretokenizer)
{
    for (uint32_t i = 0; i < PRETOKENIZER_CUTS_MAX; i++)
        pcre2_code_free(pretokenizer->steps[i].code);
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
    cursor->level = 0;
    cursor->levels[0] = (struct word_level){.text = text};
    /* One step back over a run of spaces costs one; no pattern steps back over the same twice. */
    pcre2_set_match_limit(cursor->match_context, (uint32_t)(100000 + 8 * bytes));
}

/* Find the next match of a level's step at or after its place; none: one of no bytes at the end. */
static status level_match(struct word_cursor *cursor, const struct pretokenizer_step *step,
                          struct word_level *level)
{
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int matches;
    do {
        matches = pcre2_match(step->code, (PCRE2_SPTR)level->text, level->bytes, level->at, options,
                              cursor->match_data, cursor->match_context);
        options |= PCRE2_NO_JIT; /* its stack is small: again, slower */
    } while (matches == PCRE2_ERROR_JIT_STACKLIMIT);
    level->matched = true;
    level->match_start = level->match_end = level->bytes;
    if (matches == PCRE2_ERROR_NOMATCH && !step->covers)
        return OK;
    if (matches < 0)
        return error_set(ERR_BAD_INPUT,
                         "the pre-tokenizer gave up at byte %zu of the text (PCRE2 error %d)",
                         (size_t)(level->text - cursor->text) + level->at, matches);
    const size_t *found = pcre2_get_ovector_pointer(cursor->match_data);
    level->match_start = found[0];
    level->match_end = found[1];
    assert(found[0] >= level->at && found[1] > found[0] && found[1] <= level->bytes);
    return OK;
}

/* The next piece of a level: what lies before the next match, or that; of no bytes when a gap is
 * dropped. */
static status level_cut(struct word_cursor *cursor, uint32_t index, struct word_level *piece_out)
{
    struct word_level *level = &cursor->levels[index];
    const struct pretokenizer_step *step = &cursor->pretokenizer->steps[index];
    status code = level->matched ? OK : level_match(cursor, step, level);
    if (code != OK)
        return code;
    bool gap = level->match_start > level->at;
    size_t end = gap ? level->match_start : level->match_end;
    *piece_out = (struct word_level){.text = level->text + level->at, .bytes = end - level->at};
    if (gap && step->drop_gaps)
        piece_out->bytes = 0;
    level->at = end;
    level->matched = gap && end < level->bytes;
    return OK;
}

/* The next valid UTF-8 of the text into levels[0]; false when a byte that is none comes first. */
static bool text_refill(struct word_cursor *cursor)
{
    size_t valid =
        utf8_valid_prefix((const uint8_t *)cursor->text + cursor->at, cursor->bytes - cursor->at);
    cursor->levels[0] = (struct word_level){.text = cursor->text + cursor->at, .bytes = valid};
    cursor->at += valid > 0 ? valid : 1;
    return valid > 0;
}

status word_cursor_next(struct word_cursor *cursor, const char **word_out, size_t *bytes_out)
{
    uint32_t steps = cursor->pretokenizer->step_count;
    *word_out = cursor->text + cursor->at;
    *bytes_out = 0;
    for (;;) {
        struct word_level *level = &cursor->levels[cursor->level], piece;
        if (level->at == level->bytes && cursor->level > 0) {
            cursor->level--;
            continue;
        }
        if (level->at == level->bytes) {
            if (cursor->at == cursor->bytes)
                return OK;
            *word_out = cursor->text + cursor->at;
            if (!text_refill(cursor)) {
                *bytes_out = 1;
                return OK;
            }
        }
        if (steps == 0) {
            *word_out = level->text;
            *bytes_out = level->bytes;
            level->at = level->bytes;
            return OK;
        }
        status code = level_cut(cursor, cursor->level, &piece);
        if (code != OK)
            return code;
        if (piece.bytes == 0)
            continue;
        if (cursor->level + 1 == steps) {
            *word_out = piece.text;
            *bytes_out = piece.bytes;
            return OK;
        }
        cursor->levels[++cursor->level] = piece;
    }
}
