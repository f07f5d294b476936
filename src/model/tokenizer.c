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
    /* Tokens that are spelled out in text: before it is normalised, and in what is left of it after
     * that; [1] with control tokens: TOKENIZER_PARSE_SPECIAL. */
    struct special_set early[2], late[2];
    enum space_prefix space_prefix;
    uint32_t *end_ids;
    struct tokenizer_facts facts;
};

/* What one encode needs. */
struct encoding {
    const struct tokenizer *tokenizer;
    bool parse_special;
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
    for (size_t i = 0; i < spec->end_count; i++) {
        if (spec->end_ids[i] >= spec->token_count)
            return error_set(ERR_BAD_INPUT, "an end token is %u, but there are %zu tokens",
                             spec->end_ids[i], spec->token_count);
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
    const uint32_t named[] = {spec->eos_id, spec->eot_id, spec->eom_id};
    size_t count = 0, kept = 0;
    uint32_t *ids = calloc(END_SPELLINGS + 3 + spec->end_count, sizeof(*ids));
    t->end_ids = ids;
    if (ids == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for the end tokens");
    for (size_t i = 0; i < 3; i++) {
        if (named[i] != TOKEN_NONE)
            ids[count++] = named[i];
    }
    for (size_t i = 0; i < spec->end_count; i++)
        ids[count++] = spec->end_ids[i];
    for (size_t i = 0; i < END_SPELLINGS; i++) {
        uint32_t id =
            vocabulary_find_text(&t->vocabulary, end_spellings[i], strlen(end_spellings[i]));
        if (id != TOKEN_NONE && t->vocabulary.types[id] == TOKEN_CONTROL)
            ids[count++] = id;
    }
    qsort(ids, count, sizeof(ids[0]), id_order);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || ids[kept - 1] != ids[i])
            ids[kept++] = ids[i];
    }
    t->facts.end_ids = t->end_ids;
    t->facts.end_count = (uint32_t)kept;
    return OK;
}

/* Is a token found in text before it is normalised (or late, after that)? */
static bool is_spelled_out(const struct vocabulary *v, const struct tokenizer_spec *spec,
                           uint32_t id, bool control, bool late)
{
    bool normalized = spec->flags != NULL && (spec->flags[id] & TOKEN_NORMALIZED) != 0;
    return (v->types[id] == TOKEN_USER_DEFINED || (control && v->types[id] == TOKEN_CONTROL)) &&
           normalized == late;
}

/* The spellings of user-defined tokens (as they decode), and of control tokens with control. */
static status open_specials(const struct vocabulary *v, const struct tokenizer_spec *spec,
                            bool control, bool late, struct special_set *set_out)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < v->count; id++)
        count += is_spelled_out(v, spec, id, control, late);
    struct special_spelling *spellings = calloc(count + 1u, sizeof(*spellings));
    if (spellings == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u special tokens", count);
    uint32_t at = 0;
    for (uint32_t id = 0; id < v->count; id++) {
        if (is_spelled_out(v, spec, id, control, late) && v->bytes[id].bytes > 0)
            spellings[at++] = (struct special_spelling){
                .text = v->decoded + v->bytes[id].offset,
                .bytes = v->bytes[id].bytes,
                .id = id,
                .strip = spec->flags != NULL ? spec->flags[id] : 0,
            };
    }
    special_open(spellings, at, set_out);
    return OK;
}

static status open_all_specials(struct tokenizer *t, const struct tokenizer_spec *spec)
{
    status code = OK;
    for (int control = 0; control < 2 && code == OK; control++) {
        code = open_specials(&t->vocabulary, spec, control != 0, false, &t->early[control]);
        if (code == OK)
            code = open_specials(&t->vocabulary, spec, control != 0, true, &t->late[control]);
    }
    return code;
}

static status open_pretokenizer(struct tokenizer *t, const struct tokenizer_spec *spec)
{
    if (!spec->cuts_given)
        return pretokenizer_open(&spec->pre, &t->pretokenizer);
    status code = pretokenizer_open_cuts(spec->cuts, spec->cut_count, &t->pretokenizer);
    t->pretokenizer.compose = spec->compose;
    t->pretokenizer.ignore_merges = spec->ignore_merges;
    return code;
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
    t->space_prefix = spec->space_prefix;
    status code = check_ids(spec);
    if (code == OK)
        code =
            vocabulary_open(spec, spm ? SPELLING_SPACE_MARK : SPELLING_BYTE_LEVEL, &t->vocabulary);
    if (code == OK && spm)
        code = spm_open(spec, &t->vocabulary, &t->spm);
    if (code == OK && !spm)
        code = open_pretokenizer(t, spec);
    if (code == OK && !spm)
        code = bpe_open(spec, &t->vocabulary, t->pretokenizer.ignore_merges, &t->bpe);
    if (code == OK)
        code = open_all_specials(t, spec);
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
    for (int control = 0; control < 2; control++) {
        special_close(&tokenizer->early[control]);
        special_close(&tokenizer->late[control]);
    }
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

/* A fragment: text between tokens that are spelled out. prefix: it gets a space, if it is llama's.
 */
typedef status (*encode_call)(struct encoding *e, const char *text, size_t bytes, bool prefix);

static status encode_plain(struct encoding *e, const char *text, size_t bytes, bool prefix)
{
    (void)prefix;
    return bytes > 0 ? encode_words(e, text, bytes) : OK;
}

static bool prefix_after(const struct tokenizer *t, uint32_t id)
{
    switch (t->space_prefix) {
    case SPACE_PREFIX_SENTENCEPIECE:
        return t->vocabulary.types[id] == TOKEN_CONTROL;
    case SPACE_PREFIX_FIRST:
        return false;
    default:
        return true;
    }
}

/* Cut out the tokens of a set; what is between them goes to fragment. */
static status encode_spelled_out(struct encoding *e, const struct special_set *set,
                                 encode_call fragment, const char *text, size_t bytes)
{
    const struct tokenizer *t = e->tokenizer;
    status code = OK;
    size_t at = 0;
    bool prefix = true;
    struct special_match match;
    while (code == OK && special_find(set, text, bytes, at, &match)) {
        /* SentencePiece: a text's space goes before its first character, also when that begins a
         * user-defined token, and again after each control token. */
        bool alone = t->space_prefix == SPACE_PREFIX_SENTENCEPIECE && prefix &&
                     t->vocabulary.types[match.id] != TOKEN_CONTROL;
        if (match.start > at || alone)
            code = fragment(e, text + at, match.start - at, prefix);
        if (code == OK)
            code = token_list_push(e->list, e->limit_tokens, match.id);
        prefix = prefix_after(t, match.id);
        at = match.end;
    }
    if (code == OK && at < bytes)
        code = fragment(e, text + at, bytes - at, prefix);
    return code;
}

/* Does a llama text begin with a space, or with what stands for one? */
static bool has_space(const char *text, size_t bytes)
{
    return bytes > 0 && (text[0] == ' ' || (bytes >= 3 && memcmp(text, "\xe2\x96\x81", 3) == 0));
}

static status encode_spm(struct encoding *e, const char *text, size_t bytes, bool prefix)
{
    const struct tokenizer *t = e->tokenizer;
    char *marked;
    size_t marked_bytes;
    prefix = prefix && t->facts.add_space_prefix;
    if (t->space_prefix == SPACE_PREFIX_FIRST || t->space_prefix == SPACE_PREFIX_ALWAYS)
        prefix = prefix && !has_space(text, bytes);
    if (bytes == 0 && !prefix)
        return OK;
    status code = spm_mark_spaces(text, bytes, prefix, &marked, &marked_bytes);
    if (code != OK)
        return code;
    code = spm_encode(&t->spm, marked, marked_bytes, &e->scratch, e->limit_tokens, e->list);
    free(marked);
    return code;
}

/* Normalised text: tokens that are looked for here, then words. */
static status encode_normal(struct encoding *e, const char *text, size_t bytes)
{
    const struct special_set *late = &e->tokenizer->late[e->parse_special];
    if (late->count == 0)
        return encode_words(e, text, bytes);
    return encode_spelled_out(e, late, encode_plain, text, bytes);
}

static status encode_fragment(struct encoding *e, const char *text, size_t bytes, bool prefix)
{
    const struct tokenizer *t = e->tokenizer;
    if (t->model == MODEL_SPM)
        return encode_spm(e, text, bytes, prefix);
    if (bytes == 0)
        return OK;
    if (!t->pretokenizer.compose || nfc_is_sure(text, bytes))
        return encode_normal(e, text, bytes);
    char *composed;
    size_t composed_bytes;
    status code = nfc_compose(text, bytes, &composed, &composed_bytes);
    if (code != OK)
        return code;
    code = encode_normal(e, composed, composed_bytes);
    free(composed);
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
    bool parse = (flags & TOKENIZER_PARSE_SPECIAL) != 0;
    struct encoding e = {.tokenizer = tokenizer,
                         .parse_special = parse,
                         .limit_tokens = limit_tokens,
                         .list = list_out};
    bool bos = (flags & TOKENIZER_ADD_BOS) != 0 && facts->add_bos &&
               !(parse && bytes > 0 && starts_with_token(tokenizer, text, bytes, facts->bos_id));

    status code = OK;
    if (tokenizer->model == MODEL_GPT2)
        code = word_cursor_open(&tokenizer->pretokenizer, &e.words);
    if (code == OK && bos)
        code = token_list_push(list_out, limit_tokens, facts->bos_id);
    if (code == OK && bytes > 0)
        code = encode_spelled_out(&e, &tokenizer->early[parse], encode_fragment, text, bytes);
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
