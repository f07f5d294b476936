/* model/pretokenize.h - cuts text into the words within which byte-level BPE may merge.
 *
 *     "I'm 42 now"  ->  gpt-2:  I 'm _42 _now       smollm: I 'm _ 4 2 _now
 *
 * A pre-tokenizer of a GGUF file has a name, and is one PCRE2 pattern here. That of a
 * tokenizer.json is a row of patterns, each of which cuts the pieces that the one before has left:
 *
 *     "ab 42"  --\p{N}-->  "ab " "4" "2"  --GPT-2-->  "ab" " " "4" "2"
 *
 * Patterns run in UTF mode, compiled to machine code where the system allows it. A byte that is not
 * part of valid UTF-8 is a word of its own, and the text before it ends there as far as patterns
 * that look ahead are concerned.
 *
 * \p{L} and \p{N} are those of PCRE2's Unicode version (14 with PCRE2 10.42): characters assigned
 * later are cut as punctuation.
 *
 * Threads: open and close by one; a pretokenizer may serve any number of cursors at once, a cursor
 *          one thread.
 * Source:  the published tokenizer configurations of GPT-2, SmolLM2, Llama 3 and Qwen2.
 */
#ifndef MODEL_PRETOKENIZE_H
#define MODEL_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/tokenizer.h"

#define PRETOKENIZER_CUTS_MAX 8

struct pretokenizer_step {
    void *code;     /* pcre2_code */
    bool covers;    /* every character is part of a match */
    bool drop_gaps; /* what lies between matches is no word */
};

struct pretokenizer {
    const char *name;   /* "smollm", "llama-bpe", "qwen2", "gpt-2"; "tokenizer.json" */
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
    bool add_bos;       /* unless the file says otherwise */
    bool compose;       /* text is normalised to NFC before it is cut (nfc.h) */
    struct pretokenizer_step steps[PRETOKENIZER_CUTS_MAX];
    uint32_t step_count; /* 0: all text is one word */
};

/* A text that one step cuts into pieces. */
struct word_level {
    const char *text;
    size_t bytes, at;
    bool matched; /* the next match is known: */
    size_t match_start, match_end;
};

struct word_cursor {
    const struct pretokenizer *pretokenizer;
    void *match_data, *match_context; /* pcre2 */
    const char *text;
    size_t bytes, at; /* at: the end of what levels[0] has, or had */
    struct word_level levels[PRETOKENIZER_CUTS_MAX];
    uint32_t level; /* the deepest that has text */
};

/* name as in tokenizer.ggml.pre. Errors: ERR_UNSUPPORTED (not built), ERR_NO_MEMORY. */
status pretokenizer_open(const struct token_text *name, struct pretokenizer *pretokenizer_out);

/* The cuts of a tokenizer.json, each in the pieces of the one before. The patterns are PCRE2's.
 * Close after an error, too. Errors: ERR_UNSUPPORTED (a pattern that does not compile, or matches
 * nothing at all), ERR_NO_MEMORY. */
status pretokenizer_open_cuts(const struct tokenizer_cut *cuts, size_t count,
                              struct pretokenizer *pretokenizer_out);
void pretokenizer_close(struct pretokenizer *pretokenizer);

/* Errors: ERR_NO_MEMORY. Close after an error, too. */
status word_cursor_open(const struct pretokenizer *pretokenizer, struct word_cursor *cursor_out);
void word_cursor_close(struct word_cursor *cursor);

/* Begin a text; it must stay while words are taken. */
void word_cursor_start(struct word_cursor *cursor, const char *text, size_t bytes);

/* The next word; *bytes_out is 0 at the end. Errors: ERR_BAD_INPUT (the pattern's limit on steps or
 * memory was reached; the limits grow with the text, so that no text of ours should reach them). */
status word_cursor_next(struct word_cursor *cursor, const char **word_out, size_t *bytes_out);

#endif
