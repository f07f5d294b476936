#include "model/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/bpe.h"
#include "model/detokenizer.h"
#include "model/nfc.h"
#include "model/pretokenize.h"
#include "model/special.h"
#include "model/spm.h"
#include "model/token_list.h"
#include "model/vocabulary.h"

enum tokenizer_model { MODEL_GPT2, MODEL_SPM };

struct tokenizer {
    enum tokenizer_model model;
    struct vocabulary vocabulary;
    struct pretokenizer pretokenizer; /* gpt2 */
    struct bpe bpe;                   /* gpt2 */
    struct spm spm;                   /* llama */
    struct special_set user_defined;  /* always found */
    struct special_set all;           /* with control tokens: TOKENIZER_PARSE_SPECIAL */
    uint32_t *end_ids;
    struct tokenizer_facts facts;
};

/* What one encode needs. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct word_cursor words;
    struct merge_scratch scratch;
    size_t limit_tokens;
    struct token_list *list;
};

/* Control tokens that end a turn or a text in the families that are built (SmolLM, Llama 3, Qwen,
 * Gemma); files name only some of them as eos, eot or eom. */
static const char *const end_spellings[] = {
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>",
};
#define END_SPELLINGS (sizeof(end_spellings) / sizeof(end_spellings[0]))
#define END_IDS_MAX (END_SPELLINGS + 3)

static bool text_equals(const struct token_text *text, const char *word)
{
    return text->bytes == strlen(word) && memcmp(text->text, word, text->bytes) == 0;
}

static status check_ids(const struct tokenizer_spec *spec)
{
    const struct {
        const char *name;
        uint32_t id;
    } ids[] = {
        {"bos", spec->bos_id}, {"eos", spec->eos_id},         {"eot", spec->eot_id},
        {"eom", spec->eom_id}, {"unknown", spec->unknown_id}, {"padding", spec->padding_id},
    };
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        if (ids[i].id != TOKEN_NONE && ids[i].id >= spec->token_count)
            return error_set(ERR_BAD_INPUT, "the %s token is %u, but there are %zu tokens",
                             ids[i].name, ids[i].id, spec->token_count);
    }
    return OK;
}

static int id_order(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static status find_ends(struct tokenizer *t, const struct tokenizer_spec *spec)
{
    uint32_t ids[END_IDS_MAX] = {spec->eos_id, spec->eot_id, spec->eom_id};
    size_t count = 3;
    for (size_t i = 0; i < END_SPELLINGS; i++) {
        uint32_t id =
            vocabulary_find_text(&t->vocabulary, end_spellings[i], strlen(end_spellings[i]));
        if (id != TOKEN_NONE && t->vocabulary.types[id] == TOKEN_CONTROL)
            ids[count++] = id;
    }
    qsort(ids, count, sizeof(ids[0]), id_order);
    t->end_ids = calloc(END_IDS_MAX, sizeof(*t->end_ids));
    if (t->end_ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the end tokens");
    uint32_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] != TOKEN_NONE && (kept == 0 || t->end_ids[kept - 1] != ids[i]))
            t->end_ids[kept++] = ids[i];
    }
    t->facts.end_ids = t->end_ids;
    t->facts.end_count = kept;
    return OK;
}

/* The spellings of user-defined tokens (as they decode), and of control tokens with control. */
static status open_specials(const struct vocabulary *v, bool control, struct special_set *set_out)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < v->count; id++)
        count += v->types[id] == TOKEN_USER_DEFINED || (control && v->types[id] == TOKEN_CONTROL);
    struct special_spelling *spellings = calloc(count + 1u, sizeof(*spellings));
    if (spellings == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u special tokens", count);
    uint32_t at = 0;
    for (uint32_t id = 0; id < v->count; id++) {
        bool wanted =
            v->types[id] == TOKEN_USER_DEFINED || (control && v->types[id] == TOKEN_CONTROL);
        if (wanted && v->bytes[id].bytes > 0)
            spellings[at++] = (struct special_spelling){
                .text = v->decoded + v->bytes[id].offset, .bytes = v->bytes[id].bytes, .id = id};
    }
    special_open(spellings, at, set_out);
    return OK;
}

static void set_facts(struct tokenizer *t, const struct tokenizer_spec *spec)
{
    bool spm = t->model == MODEL_SPM;
    bool bos = spec->add_bos < 0 ? spm || t->pretokenizer.add_bos : spec->add_bos != 0;
    t->facts = (struct tokenizer_facts){
        .model = spm ? "llama" : "gpt2",
        .pre = spm ? "" : t->pretokenizer.name,
        .vocabulary = t->vocabulary.count,
        .bos_id = spec->bos_id,
        .eos_id = spec->eos_id,
        .unknown_id = spec->unknown_id,
        .padding_id = spec->padding_id,
        .add_bos = bos && spec->bos_id != TOKEN_NONE,
        .add_eos = spec->add_eos > 0 && spec->eos_id != TOKEN_NONE,
        .add_space_prefix = spm && spec->add_space_prefix != 0,
        .token_bytes_max = t->vocabulary.bytes_max,
    };
}

status tokenizer_open(const struct tokenizer_spec *spec, struct tokenizer **tokenizer_out)
{
    bool spm = text_equals(&spec->model, "llama");
    if (!spm && !text_equals(&spec->model, "gpt2"))
        return error_set(ERR_UNSUPPORTED,
                         "tokenizer model \"%.*s\" is not built; there are gpt2 and llama",
                         (int)(spec->model.bytes < 64 ? spec->model.bytes : 64),
                         spec->model.bytes > 0 ? spec->model.text : "");
    struct tokenizer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a tokenizer");
    t->model = spm ? MODEL_SPM : MODEL_GPT2;
    status code = check_ids(spec);
    if (code == OK)
        code =
            vocabulary_open(spec, spm ? SPELLING_SPACE_MARK : SPELLING_BYTE_LEVEL, &t->vocabulary);
    if (code == OK && spm)
        code = spm_open(spec, &t->vocabulary, &t->spm);
    if (code == OK && !spm)
        code = pretokenizer_open(&spec->pre, &t->pretokenizer);
    if (code == OK && !spm)
        code = bpe_open(spec, &t->vocabulary, t->pretokenizer.ignore_merges, &t->bpe);
    if (code == OK)
        code = open_specials(&t->vocabulary, false, &t->user_defined);
    if (code == OK)
        code = open_specials(&t->vocabulary, true, &t->all);
    if (code == OK) {
        set_facts(t, spec);
        code = find_ends(t, spec);
    }
    if (code != OK) {
        tokenizer_close(t);
        return code;
    }
    *tokenizer_out = t;
    return OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    special_close(&tokenizer->all);
    special_close(&tokenizer->user_defined);
    bpe_close(&tokenizer->bpe);
    spm_close(&tokenizer->spm);
    pretokenizer_close(&tokenizer->pretokenizer);
    vocabulary_close(&tokenizer->vocabulary);
    free(tokenizer->end_ids);
    free(tokenizer);
}

const struct tokenizer_facts *tokenizer_facts(const struct tokenizer *tokenizer)
{
    return &tokenizer->facts;
}

static status encode_words(struct encoding *e, const char *text, size_t bytes)
{
    status code = OK;
    word_cursor_start(&e->words, text, bytes);
    while (code == OK) {
        const char *word;
        size_t word_bytes;
        code = word_cursor_next(&e->words, &word, &word_bytes);
        if (code != OK || word_bytes == 0)
            break;
        code =
            bpe_encode(&e->tokenizer->bpe, word, word_bytes, &e->scratch, e->limit_tokens, e->list);
    }
    return code;
}

/* Text between special tokens. prefix: it is where a llama text gets its space. */
static status encode_fragment(struct encoding *e, const char *text, size_t bytes, bool prefix)
{
    const struct tokenizer *t = e->tokenizer;
    if (t->model == MODEL_SPM) {
        prefix = prefix && t->facts.add_space_prefix;
        if (bytes == 0 && !prefix)
            return OK;
        char *marked;
        size_t marked_bytes;
        status code = spm_mark_spaces(text, bytes, prefix, &marked, &marked_bytes);
        if (code != OK)
            return code;
        code = spm_encode(&t->spm, marked, marked_bytes, &e->scratch, e->limit_tokens, e->list);
        free(marked);
        return code;
    }
    if (bytes == 0)
        return OK;
    if (!t->pretokenizer.compose || nfc_is_sure(text, bytes))
        return encode_words(e, text, bytes);
    char *composed;
    size_t composed_bytes;
    status code = nfc_compose(text, bytes, &composed, &composed_bytes);
    if (code != OK)
        return code;
    code = encode_words(e, composed, composed_bytes);
    free(composed);
    return code;
}

static status encode_text(struct encoding *e, const char *text, size_t bytes, bool parse_special)
{
    const struct tokenizer *t = e->tokenizer;
    const struct special_set *specials = parse_special ? &t->all : &t->user_defined;
    status code = OK;
    size_t at = 0;
    /* A llama text's space goes before its first character, also when that begins a user-defined
     * token, and again after each control token. */
    bool prefix = true;
    struct special_match match;
    while (code == OK && special_find(specials, text, bytes, at, &match)) {
        bool control = t->vocabulary.types[match.id] == TOKEN_CONTROL;
        if (match.start > at || (prefix && !control))
            code = encode_fragment(e, text + at, match.start - at, prefix);
        if (code == OK)
            code = token_list_push(e->list, e->limit_tokens, match.id);
        prefix = control;
        at = match.end;
    }
    if (code == OK && at < bytes)
        code = encode_fragment(e, text + at, bytes - at, prefix);
    return code;
}

/* Does text begin with the spelling of id? */
static bool starts_with_token(const struct tokenizer *t, const char *text, size_t bytes,
                              uint32_t id)
{
    size_t token_bytes;
    const uint8_t *token = tokenizer_token_bytes(t, id, &token_bytes);
    return bytes >= token_bytes && memcmp(text, token, token_bytes) == 0;
}

status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                        unsigned flags, size_t limit_tokens, struct token_list *list_out)
{
    const struct tokenizer_facts *facts = &tokenizer->facts;
    if (bytes > TOKENIZER_TEXT_BYTES_MAX)
        return error_set(ERR_BAD_INPUT, "a text of %zu bytes; at most %u are taken", bytes,
                         TOKENIZER_TEXT_BYTES_MAX);
    size_t before = list_out->count;
    struct encoding e = {.tokenizer = tokenizer, .limit_tokens = limit_tokens, .list = list_out};
    bool parse = (flags & TOKENIZER_PARSE_SPECIAL) != 0;
    bool bos = (flags & TOKENIZER_ADD_BOS) != 0 && facts->add_bos &&
               !(parse && bytes > 0 && starts_with_token(tokenizer, text, bytes, facts->bos_id));

    status code = OK;
    if (tokenizer->model == MODEL_GPT2)
        code = word_cursor_open(&tokenizer->pretokenizer, &e.words);
    if (code == OK && bos)
        code = token_list_push(list_out, limit_tokens, facts->bos_id);
    if (code == OK && bytes > 0)
        code = encode_text(&e, text, bytes, parse);
    bool eos = (flags & TOKENIZER_ADD_BOS) != 0 && facts->add_eos &&
               (list_out->count == before || list_out->ids[list_out->count - 1] != facts->eos_id);
    if (code == OK && eos)
        code = token_list_push(list_out, limit_tokens, facts->eos_id);
    if (code != OK)
        list_out->count = before;
    word_cursor_close(&e.words);
    merge_close(&e.scratch);
    return code;
}

status tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count,
                        bool skip_special, char **text_out, size_t *bytes_out)
{
    struct detokenizer detokenizer;
    detokenizer_open(tokenizer,
                     DETOKENIZER_TEXT_START | (skip_special ? DETOKENIZER_SKIP_SPECIAL : 0),
                     &detokenizer);
    size_t capacity = 4 * DETOKENIZER_PIECE_BYTES_MAX, written = 0;
    char *text = malloc(capacity);
    for (size_t i = 0; text != NULL; i++) {
        if (capacity - written <= DETOKENIZER_PIECE_BYTES_MAX) {
            char *more = capacity < SIZE_MAX / 2 ? realloc(text, 2 * capacity) : NULL;
            if (more == NULL) {
                free(text);
                text = NULL;
                break;
            }
            text = more;
            capacity *= 2;
        }
        size_t bytes = 0;
        if (i == count) {
            detokenizer_flush(&detokenizer, text + written, &bytes);
            written += bytes;
            break;
        }
        status code = detokenizer_push(&detokenizer, ids[i], text + written, &bytes);
        if (code != OK) {
            free(text);
            return code;
        }
        written += bytes;
    }
    if (text == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the text of %zu tokens", count);
    text[written] = '\0';
    *text_out = text;
    *bytes_out = written;
    return OK;
}

const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id,
                                     size_t *bytes_out)
{
    const struct vocabulary *v = &tokenizer->vocabulary;
    assert(id < v->count);
    *bytes_out = v->bytes[id].bytes;
    return v->decoded + v->bytes[id].offset;
}

const char *tokenizer_token_text(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes_out)
{
    const struct vocabulary *v = &tokenizer->vocabulary;
    assert(id < v->count);
    *bytes_out = v->texts[id].bytes;
    return v->text + v->texts[id].offset;
}

enum token_type tokenizer_token_type(const struct tokenizer *tokenizer, uint32_t id)
{
    assert(id < tokenizer->vocabulary.count);
    return (enum token_type)tokenizer->vocabulary.types[id];
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes)
{
    return bytes > 0 ? vocabulary_find_text(&tokenizer->vocabulary, text, bytes) : TOKEN_NONE;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id)
{
    for (uint32_t i = 0; i < tokenizer->facts.end_count; i++) {
        if (tokenizer->end_ids[i] == id)
            return true;
    }
    return false;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, uint32_t id)
{
    enum token_type type = tokenizer_token_type(tokenizer, id);
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN;
}
