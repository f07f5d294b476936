/* model/tokenizer_json.h - a tokenizer.json of the `tokenizers` package as a tokenizer_spec.
 *
 *     normalizer       NFC; llama: Prepend and Replace of spaces
 *     pre_tokenizer    Split, Digits, ByteLevel; llama: Metaspace; Sequence of them
 *     model            BPE: vocab, merges, byte_fallback, fuse_unk, ignore_merges
 *     added_tokens     special, normalized, lstrip, rstrip
 *     post_processor   TemplateProcessing with bos in front, eos behind
 *     decoder          what belongs to the rest
 *
 * Anything else would give other ids and is refused by name. ByteLevel makes a tokenizer of model
 * gpt2, its absence one of model llama.
 *
 * Threads: one for a reading. Memory: the spec points into the JSON value and into what is closed.
 * Source:  huggingface/tokenizers 0.22.
 */
#ifndef MODEL_TOKENIZER_JSON_H
#define MODEL_TOKENIZER_JSON_H

#include <jansson.h>

#include "base/arena.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"

struct tokenizer_json {
    struct tokenizer_spec spec;
    struct arena *arena;
    struct token_text *tokens; /* [capacity], as spec.tokens */
    int32_t *types;
    uint8_t *flags;
    struct tokenizer_cut cuts[PRETOKENIZER_CUTS_MAX];
    bool byte_level;  /* ByteLevel was there */
    bool marks;       /* spaces become U+2581 */
    bool bos_decided; /* the post-processor says which tokens go around a text */
};

/* vocabulary: rows of the embedding; ids from the last token up to it become unused tokens, and an
 * id beyond it is refused. 0: as many as there are.
 * Errors: ERR_BAD_INPUT, ERR_UNSUPPORTED (by name), ERR_NO_MEMORY. Close after an error, too. */
status tokenizer_json_read(const json_t *root, uint32_t vocabulary, struct tokenizer_json *out);
void tokenizer_json_close(struct tokenizer_json *read);

/* The id of a token by its spelling, or TOKEN_NONE. */
uint32_t tokenizer_json_id(const json_t *root, const char *text);

/* Between the two files of the reader (tokenizer_json_steps.c): normalizer, pre_tokenizer,
 * post_processor into the spec. */
status tokenizer_json_steps(const json_t *root, struct tokenizer_json *read);

#endif
