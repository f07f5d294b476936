/* model/spm.h - SentencePiece's BPE over a fragment of text: characters merged by score.
 *
 *     "Hello 中"  ->  ▁ H e l l o ▁ 中  ->  ▁Hello ▁ <0xE4> <0xB8> <0xAD>
 *
 * Any two neighbours whose text together is a normal token may join, the higher score first; a
 * tokenizer.json has merges instead of scores, and those join by rank (bpe.h). What
 * is then no token becomes its bytes' tokens, or, in a vocabulary without those, one unknown token
 * for a run of such characters. Bytes that are not valid UTF-8 stay apart, each a byte token.
 *
 * Threads: any, each with its own scratch; read-only otherwise.
 */
#ifndef MODEL_SPM_H
#define MODEL_SPM_H

#include "model/bpe.h"
#include "model/merge.h"
#include "model/vocabulary.h"

struct spm {
    const struct vocabulary *vocabulary;
    struct merge_rules rules;
    uint32_t *order;  /* [tokens] ascending with falling score */
    struct bpe ranks; /* with merges: its rules are used */
    bool ranked;
    uint32_t unknown_id;
};

/* The vocabulary must outlive it. Errors: ERR_BAD_INPUT (scores missing or not finite),
 * ERR_NO_MEMORY. Close after an error, too. */
status spm_open(const struct tokenizer_spec *spec, const struct vocabulary *vocabulary,
                struct spm *spm_out);
void spm_close(struct spm *spm);

/* U+2581 for each space of text, and one in front with prefix, into memory from malloc.
 * Errors: ERR_NO_MEMORY. */
status spm_mark_spaces(const char *text, size_t bytes, bool prefix, char **marked_out,
                       size_t *bytes_out);

/* Append the ids of marked text (bytes > 0). Errors: ERR_FULL, ERR_NO_MEMORY. */
status spm_encode(const struct spm *spm, const char *marked, size_t bytes,
                  struct merge_scratch *scratch, size_t limit_tokens, struct token_list *list);

#endif
