/* model/bpe.h - byte-level byte-pair encoding of one word: bytes to tokens, merged by rank.
 *
 * A word that is a token, and that merging its bytes makes that token, is looked up at once
 * (whole): true of nearly all words of a text, and found out for every token at open.
 *
 * Threads: open and close by one; encode by any, each with its own scratch.
 */
#ifndef MODEL_BPE_H
#define MODEL_BPE_H

#include "model/merge.h"
#include "model/vocabulary.h"

struct bpe_slot {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: empty */
    uint32_t rank;
    uint32_t product;
};

struct bpe {
    const struct vocabulary *vocabulary;
    struct merge_rules rules;
    struct bpe_slot *slots; /* [mask + 1] at most half full */
    size_t mask;
    uint8_t *whole; /* [tokens] 1: a word of this token's bytes is this token */
};

/* The vocabulary must outlive it. Errors: ERR_BAD_INPUT (malformed merges), ERR_NO_MEMORY. Close
 * after an error, too. */
status bpe_open(const struct tokenizer_spec *spec, const struct vocabulary *vocabulary,
                bool ignore_merges, struct bpe *bpe_out);
void bpe_close(struct bpe *bpe);

/* Append the ids of word (bytes > 0). Errors: ERR_FULL, ERR_NO_MEMORY. */
status bpe_encode(const struct bpe *bpe, const char *word, size_t bytes,
                  struct merge_scratch *scratch, size_t limit_tokens, struct token_list *list);

#endif
