#include "model/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/token_list.h"

#define PAIR_NONE UINT64_MAX

static size_t pair_hash(uint64_t pair)
{
    pair *= 0x9e3779b97f4a7c15u;
    return (size_t)(pair ^ pair >> 32);
}

/* The slot of pair, or the empty one where it belongs. */
static struct bpe_slot *slot_find(const struct bpe *bpe, uint64_t pair)
{
    size_t at = pair_hash(pair) & bpe->mask;
    while (bpe->slots[at].pair != pair && bpe->slots[at].pair != PAIR_NONE)
        at = (at + 1) & bpe->mask;
    return &bpe->slots[at];
}

static uint32_t bpe_pair(const struct merge_rules *rules, const char *text,
                         const struct merge_symbol *left, const struct merge_symbol *right,
                         uint32_t *product_out)
{
    (void)text;
    const struct bpe *bpe = (const struct bpe *)((const char *)rules - offsetof(struct bpe, rules));
    const struct bpe_slot *slot = slot_find(bpe, (uint64_t)left->id << 32 | right->id);
    if (slot->pair == PAIR_NONE)
        return MERGE_NONE;
    *product_out = slot->product;
    return slot->rank;
}

/* "left right", each a token and their text together, too. */
static status merge_add(struct bpe *bpe, const struct token_text *merge, uint32_t rank)
{
    const struct vocabulary *v = bpe->vocabulary;
    const char *space = merge->bytes > 1 ? memchr(merge->text + 1, ' ', merge->bytes - 1) : NULL;
    if (space == NULL || merge->bytes > 2 * TOKENIZER_TOKEN_BYTES_MAX + 1)
        return error_set(ERR_BAD_INPUT, "merge %u is not two tokens with a space between: \"%.*s\"",
                         rank, (int)(merge->bytes < 100 ? merge->bytes : 100),
                         merge->bytes > 0 ? merge->text : "");
    size_t left_bytes = (size_t)(space - merge->text);
    size_t right_bytes = merge->bytes - left_bytes - 1;
    char joined[2 * TOKENIZER_TOKEN_BYTES_MAX];
    memcpy(joined, merge->text, left_bytes);
    memcpy(joined + left_bytes, space + 1, right_bytes);

    uint32_t left = vocabulary_find_text(v, merge->text, left_bytes);
    uint32_t right = vocabulary_find_text(v, space + 1, right_bytes);
    uint32_t product = vocabulary_find_text(v, joined, left_bytes + right_bytes);
    if (left == TOKEN_NONE || right == TOKEN_NONE || product == TOKEN_NONE)
        return error_set(ERR_BAD_INPUT,
                         "merge %u (\"%.*s\") names a token that the vocabulary does not have",
                         rank, (int)(merge->bytes < 100 ? merge->bytes : 100), merge->text);
    uint64_t pair = (uint64_t)left << 32 | right;
    *slot_find(bpe, pair) = (struct bpe_slot){.pair = pair, .rank = rank, .product = product};
    return OK;
}

/* Which tokens the merges make of their own bytes. */
static status find_whole(struct bpe *bpe)
{
    const struct vocabulary *v = bpe->vocabulary;
    struct merge_scratch scratch = {0};
    struct token_list ids = {0};
    status code = OK;
    for (uint32_t id = 0; id < v->count && code == OK; id++) {
        const char *bytes = (const char *)v->decoded + v->bytes[id].offset;
        size_t count = v->bytes[id].bytes;
        if (vocabulary_find_bytes(v, bytes, count) != id)
            continue; /* control, literal, or the second of its bytes */
        ids.count = 0;
        code = bpe_encode(bpe, bytes, count, &scratch, SIZE_MAX, &ids);
        bpe->whole[id] = code == OK && ids.count == 1 && ids.ids[0] == id;
    }
    merge_close(&scratch);
    token_list_close(&ids);
    return code;
}

status bpe_open(const struct tokenizer_spec *spec, const struct vocabulary *vocabulary,
                bool ignore_merges, struct bpe *bpe_out)
{
    memset(bpe_out, 0, sizeof(*bpe_out));
    bpe_out->vocabulary = vocabulary;
    bpe_out->rules.pair = bpe_pair;
    if (spec->merge_count > TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "a tokenizer has at most %u merges, this one %zu",
                         TOKENIZER_TOKENS_MAX, spec->merge_count);
    size_t slots = 16;
    while (slots < 2 * spec->merge_count)
        slots *= 2;
    bpe_out->slots = malloc(slots * sizeof(*bpe_out->slots));
    bpe_out->whole = calloc(vocabulary->count, 1);
    if (bpe_out->slots == NULL || bpe_out->whole == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for %zu merges", spec->merge_count);
    bpe_out->mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        bpe_out->slots[i].pair = PAIR_NONE;
    for (uint32_t rank = 0; rank < spec->merge_count; rank++) {
        status code = merge_add(bpe_out, &spec->merges[rank], rank);
        if (code != OK)
            return code;
    }
    if (!ignore_merges)
        return find_whole(bpe_out);
    memset(bpe_out->whole, 1, vocabulary->count);
    return OK;
}

void bpe_close(struct bpe *bpe)
{
    free(bpe->slots);
    free(bpe->whole);
    memset(bpe, 0, sizeof(*bpe));
}

status bpe_encode(const struct bpe *bpe, const char *word, size_t bytes,
                  struct merge_scratch *scratch, size_t limit_tokens, struct token_list *list)
{
    assert(bytes > 0);
    uint32_t id = vocabulary_find_bytes(bpe->vocabulary, word, bytes);
    if (id != TOKEN_NONE && bpe->whole[id])
        return token_list_push(list, limit_tokens, id);
    status code = merge_reserve(scratch, bytes);
    if (code != OK)
        return code;
    uint32_t symbols = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t byte_id = bpe->vocabulary->byte_ids[(uint8_t)word[i]];
        if (byte_id == TOKEN_NONE)
            continue; /* dropped; its neighbours may merge */
        scratch->symbols[symbols++] =
            (struct merge_symbol){.id = byte_id, .start = (uint32_t)i, .bytes = 1};
    }
    if (symbols == 0)
        return OK;
    merge_run(scratch, symbols, &bpe->rules, word);
    for (uint32_t at = 0; at != MERGE_NONE && code == OK; at = scratch->symbols[at].next)
        code = token_list_push(list, limit_tokens, scratch->symbols[at].id);
    return code;
}
