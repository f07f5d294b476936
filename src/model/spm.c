#include "model/spm.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/utf8.h"
#include "model/token_list.h"

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define SPACE_MARK_BYTES 3

/* Ascending numbers for falling finite scores; never MERGE_NONE. */
static uint32_t score_order(float score)
{
    score += 0.0f; /* no -0 */
    uint32_t bits;
    memcpy(&bits, &score, sizeof(bits));
    uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

static uint32_t spm_pair(const struct merge_rules *rules, const char *text,
                         const struct merge_symbol *left, const struct merge_symbol *right,
                         uint32_t *product_out)
{
    const struct spm *spm = (const struct spm *)((const char *)rules - offsetof(struct spm, rules));
    size_t bytes = (size_t)left->bytes + right->bytes;
    if (bytes > spm->vocabulary->text_bytes_max)
        return MERGE_NONE;
    uint32_t id = vocabulary_find_text(spm->vocabulary, text + left->start, bytes);
    if (id == TOKEN_NONE || spm->vocabulary->types[id] != TOKEN_NORMAL)
        return MERGE_NONE;
    *product_out = id;
    return spm->order[id];
}

status spm_open(const struct tokenizer_spec *spec, const struct vocabulary *vocabulary,
                struct spm *spm_out)
{
    memset(spm_out, 0, sizeof(*spm_out));
    spm_out->vocabulary = vocabulary;
    spm_out->rules.pair = spm_pair;
    spm_out->unknown_id = spec->unknown_id;
    spm_out->ranked = spec->by_rank;
    if (spm_out->ranked)
        return bpe_open(spec, vocabulary, true, &spm_out->ranks);
    if (spec->scores == NULL)
        return error_set(ERR_BAD_INPUT, "a llama tokenizer needs a score for each token, the file "
                                        "has none (tokenizer.ggml.scores)");
    spm_out->order = malloc(vocabulary->count * sizeof(*spm_out->order));
    if (spm_out->order == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %u scores", vocabulary->count);
    for (uint32_t id = 0; id < vocabulary->count; id++) {
        if (!isfinite(spec->scores[id]))
            return error_set(ERR_BAD_INPUT, "the score of token %u is not a finite number", id);
        spm_out->order[id] = score_order(spec->scores[id]);
    }
    return OK;
}

void spm_close(struct spm *spm)
{
    free(spm->order);
    bpe_close(&spm->ranks);
    memset(spm, 0, sizeof(*spm));
}

status spm_mark_spaces(const char *text, size_t bytes, bool prefix, char **marked_out,
                       size_t *bytes_out)
{
    size_t room = 0;
    char *marked = NULL;
    if (size_mul(bytes, SPACE_MARK_BYTES, &room) && size_add(room, SPACE_MARK_BYTES + 1, &room))
        marked = malloc(room);
    if (marked == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a text of %zu bytes", bytes);
    size_t written = 0;
    if (prefix) {
        memcpy(marked, SPACE_MARK, SPACE_MARK_BYTES);
        written = SPACE_MARK_BYTES;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            memcpy(marked + written, SPACE_MARK, SPACE_MARK_BYTES);
            written += SPACE_MARK_BYTES;
        } else {
            marked[written++] = text[i];
        }
    }
    *marked_out = marked;
    *bytes_out = written;
    return OK;
}

/* One symbol for each character and each byte that is in none. */
static size_t cut_characters(const struct spm *spm, const char *marked, size_t bytes,
                             struct merge_symbol *symbols)
{
    const uint8_t *at = (const uint8_t *)marked;
    size_t count = 0;
    for (size_t i = 0; i < bytes;) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at + i, bytes - i, &kind);
        if (kind != UTF8_WHOLE)
            step = 1;
        uint32_t id = kind == UTF8_WHOLE ? vocabulary_find_text(spm->vocabulary, marked + i, step)
                                         : TOKEN_NONE;
        if (id != TOKEN_NONE && spm->vocabulary->types[id] != TOKEN_NORMAL)
            id = TOKEN_NONE;
        symbols[count++] = (struct merge_symbol){.id = id, .start = (uint32_t)i, .bytes = step};
        i += step;
    }
    return count;
}

/* The tokens of text that is no token: its bytes, else unknown, once for a run. */
static status push_bytes(const struct spm *spm, const uint8_t *text, uint32_t bytes,
                         size_t limit_tokens, bool *unknown, struct token_list *list)
{
    bool known = true;
    for (uint32_t i = 0; i < bytes; i++)
        known = known && spm->vocabulary->byte_ids[text[i]] != TOKEN_NONE;
    status code = OK;
    if (known) {
        *unknown = false;
        for (uint32_t i = 0; i < bytes && code == OK; i++)
            code = token_list_push(list, limit_tokens, spm->vocabulary->byte_ids[text[i]]);
    } else if (!*unknown && spm->unknown_id != TOKEN_NONE) {
        *unknown = true;
        code = token_list_push(list, limit_tokens, spm->unknown_id);
    }
    return code;
}

status spm_encode(const struct spm *spm, const char *marked, size_t bytes,
                  struct merge_scratch *scratch, size_t limit_tokens, struct token_list *list)
{
    assert(bytes > 0);
    status code = merge_reserve(scratch, bytes);
    if (code != OK)
        return code;
    size_t count = cut_characters(spm, marked, bytes, scratch->symbols);
    merge_run(scratch, count, spm->ranked ? &spm->ranks.rules : &spm->rules, marked);
    bool unknown = false;
    for (uint32_t at = 0; at != MERGE_NONE && code == OK; at = scratch->symbols[at].next) {
        const struct merge_symbol *symbol = &scratch->symbols[at];
        if (symbol->id == TOKEN_NONE) {
            code = push_bytes(spm, (const uint8_t *)marked + symbol->start, symbol->bytes,
                              limit_tokens, &unknown, list);
            continue;
        }
        unknown = false;
        code = token_list_push(list, limit_tokens, symbol->id);
    }
    return code;
}
