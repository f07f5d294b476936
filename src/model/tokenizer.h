/* model/tokenizer.h - text to token ids and back, from what a GGUF file or a tokenizer.json says.
 *
 *     text -> [special tokens cut out] -> fragments -> pieces -> merges -> ids
 *
 *     model gpt2:  the pattern of the pre-tokenizer cuts a fragment into words (pretokenize.h),
 *                  a word's bytes are merged by rank (bpe.h)
 *     model llama: a fragment gets its space prefix, spaces become U+2581, characters are merged by
 *                  score (tokenizer.json: by rank), what has no token becomes byte tokens (spm.h)
 *
 * Any bytes may be encoded. Valid UTF-8 gives the ids that the model's own tokenizer gives. A byte
 * that is not part of valid UTF-8 belongs to no word: it becomes the token of that byte alone, so
 * decoding returns it. Where a vocabulary has no token for a byte (SmolLM2 lacks 21, some of them
 * control characters), the byte is dropped, as the model's own tokenizer does; a llama vocabulary
 * gives its unknown token instead.
 *
 * Threads: open and close by one; everything else by any number at once (a tokenizer is read-only,
 *          an encode has its own scratch).
 * Memory:  a tokenizer copies all it needs: the spec or GGUF may go after open.
 * Source:  Sennrich et al. 2016, arXiv 1508.07909 (BPE); Radford et al. 2019 (byte-level);
 *          Kudo and Richardson 2018, arXiv 1808.06226 (SentencePiece); GGUF specification.
 */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define TOKEN_NONE UINT32_MAX               /* "there is no such token", for example no bos */
#define TOKENIZER_TOKENS_MAX (1u << 22)     /* tokens of a vocabulary, and merges */
#define TOKENIZER_TOKEN_BYTES_MAX 1024u     /* text of one token */
#define TOKENIZER_TEXT_BYTES_MAX (1u << 25) /* text of one encode */

struct gguf;
struct tokenizer;

/* Values of tokenizer.ggml.token_type. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

/* Not NUL-terminated. */
struct token_text {
    const char *text;
    size_t bytes;
};

/* How an added token of a tokenizer.json is found in text. */
enum token_flags {
    TOKEN_STRIP_LEFT = 1, /* takes the spaces before it away */
    TOKEN_STRIP_RIGHT = 2,
    TOKEN_NORMALIZED = 4, /* looked for after the text was normalised, in what is left of it */
};

/* One pattern that cuts text into words. */
struct tokenizer_cut {
    const char *pattern; /* PCRE2, NUL-terminated */
    bool drop_gaps;      /* what lies between matches is left out */
};

/* Which pieces of a llama text get a space in front. */
enum space_prefix {
    SPACE_PREFIX_SENTENCEPIECE, /* the text, and what follows a control token */
    SPACE_PREFIX_EACH,          /* every piece between tokens that are spelled out */
    SPACE_PREFIX_FIRST,         /* the text's beginning, unless there is one */
    SPACE_PREFIX_ALWAYS,        /* every piece, unless there is one */
};

/* What a tokenizer is made from: the tokenizer.ggml.* metadata as arrays, and what tokenizer.json
 * says beyond that. */
struct tokenizer_spec {
    struct token_text model; /* "gpt2" or "llama" */
    struct token_text pre;   /* gpt2: "smollm", "llama-bpe", "qwen2", "gpt-2", or aliases */
    size_t token_count;
    const struct token_text *tokens; /* [token_count] */
    const float *scores;             /* [token_count]; llama only */
    const int32_t *types;            /* [token_count] of enum token_type; NULL: all normal */
    size_t merge_count;
    const struct token_text *merges; /* [merge_count] "left right"; gpt2, and llama by rank */
    uint32_t bos_id, eos_id, eot_id, eom_id, unknown_id, padding_id; /* TOKEN_NONE: not given */
    int add_bos, add_eos, add_space_prefix; /* 0, 1, or -1: not given, the model's default */

    /* tokenizer.json; a GGUF file leaves all of it zero. */
    bool cuts_given; /* gpt2: the cuts are these, whatever pre */
    const struct tokenizer_cut *cuts;
    size_t cut_count;
    bool compose, ignore_merges;
    bool by_rank; /* llama: characters merge by the merges, not by score */
    enum space_prefix space_prefix;
    const uint8_t *flags;    /* [token_count] enum token_flags; NULL: none */
    const uint32_t *end_ids; /* [end_count] beside eos, eot and eom */
    size_t end_count;
};

/* A spec with nothing in it: no ids, no flags. */
#define TOKENIZER_SPEC_EMPTY                                                                       \
    ((struct tokenizer_spec){.bos_id = TOKEN_NONE,                                                 \
                             .eos_id = TOKEN_NONE,                                                 \
                             .eot_id = TOKEN_NONE,                                                 \
                             .eom_id = TOKEN_NONE,                                                 \
                             .unknown_id = TOKEN_NONE,                                             \
                             .padding_id = TOKEN_NONE,                                             \
                             .add_bos = -1,                                                        \
                             .add_eos = -1,                                                        \
                             .add_space_prefix = -1})

struct tokenizer_facts {
    const char *model;   /* "gpt2" or "llama" */
    const char *pre;     /* "smollm", ..., "tokenizer.json"; "" for llama */
    uint32_t vocabulary; /* ids are 0 .. vocabulary - 1 */
    uint32_t bos_id, eos_id, unknown_id, padding_id; /* TOKEN_NONE: there is none */
    bool add_bos; /* the model wants bos before a prompt that is no chat template's */
    bool add_eos;
    bool add_space_prefix;    /* llama: text starts with a space that decoding takes away */
    uint32_t token_bytes_max; /* the longest tokenizer_token_bytes */
    const uint32_t *end_ids;  /* [end_count] ascending: each ends a generation */
    uint32_t end_count;
};

/* Every number is checked. Errors: ERR_BAD_INPUT (ids out of range, malformed merges, sizes),
 * ERR_UNSUPPORTED (model or pre that is not built), ERR_NO_MEMORY. */
status tokenizer_open(const struct tokenizer_spec *spec, struct tokenizer **tokenizer_out);

/* The same from a GGUF file's metadata; a missing or mistyped key is ERR_BAD_INPUT. */
status tokenizer_open_gguf(const struct gguf *gguf, struct tokenizer **tokenizer_out);

void tokenizer_close(struct tokenizer *tokenizer);

/* Valid until close. */
const struct tokenizer_facts *tokenizer_facts(const struct tokenizer *tokenizer);

enum tokenizer_flags {
    /* bos in front, and eos behind, when the model wants them (facts add_bos, add_eos) and the text
     * does not have them there already. Not for the output of chat templates: those write their
     * own. */
    TOKENIZER_ADD_BOS = 1,
    /* Control tokens written in the text ("<|im_start|>") become their ids, leftmost first, of
     * several the longest. Without it they are plain text: set it only for text that is trusted to
     * hold them. User-defined tokens (Qwen's <think>, Gemma's runs of spaces) are vocabulary, not
     * control: they are found with and without it. */
    TOKENIZER_PARSE_SPECIAL = 2,
};

/* Token ids that grow by appending; {0} is empty. */
struct token_list {
    uint32_t *ids; /* [count] */
    size_t count, capacity;
};

void token_list_close(struct token_list *list); /* frees the ids; the list is empty again */

/* Append the ids of text (bytes long, NUL allowed) to list_out, up to a list of limit_tokens.
 * Time is O(bytes * log(longest word)). On an error the list is as it was.
 * Errors: ERR_FULL (more than limit_tokens), ERR_BAD_INPUT (text over TOKENIZER_TEXT_BYTES_MAX),
 * ERR_NO_MEMORY. */
status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                        unsigned flags, size_t limit_tokens, struct token_list *list_out);

/* The whole of ids as valid UTF-8 (see detokenizer.h), NUL-terminated; the caller frees *text_out.
 * skip_special leaves control and unknown tokens out.
 * Errors: ERR_BAD_INPUT (id out of range), ERR_NO_MEMORY. */
status tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count,
                        bool skip_special, char **text_out, size_t *bytes_out);

/* What a token decodes to: raw bytes, maybe a part of a character. Valid until close. id must be in
 * range (tokenizer_facts vocabulary). */
const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id,
                                     size_t *bytes_out);

/* The token as the vocabulary spells it (byte-level: space is U+0120; llama: U+2581). */
const char *tokenizer_token_text(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes_out);

enum token_type tokenizer_token_type(const struct tokenizer *tokenizer, uint32_t id);

/* The id of a token by its spelling in the vocabulary, or TOKEN_NONE. */
uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes);

/* Does this id end a generation: eos, eot, eom of the metadata, and the control tokens that are
 * known to end a turn in their model families (<|im_end|>, <|eot_id|>, <end_of_turn>, ...). */
bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id);

/* Control and unknown tokens: what skip_special leaves out. */
bool tokenizer_is_special(const struct tokenizer *tokenizer, uint32_t id);

#endif
