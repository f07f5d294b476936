/* model/pretokenize.h - cuts text into the words within which byte-level BPE may merge.
 *
 *     "I'm 42 now"  ->  gpt-2:  I 'm _42 _now       smollm: I 'm _ 4 2 _now
 *
 * Each pre-tokenizer is one PCRE2 pattern in UTF mode, compiled to machine code where the system
 * allows it. A byte that is not part of valid UTF-8 is a word of its own, and the text before it
 * ends there as far as patterns that look ahead are concerned.
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

#include "base/status.h"
#include "model/tokenizer.h"

struct pretokenizer {
    const char *name;   /* "smollm", "llama-bpe", "qwen2", "gpt-2" */
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say */
    bool add_bos;       /* unless the file says otherwise */
    bool compose;       /* text is normalised to NFC before it is cut (nfc.h) */
    void *code;         /* pcre2_code */
};

struct word_cursor {
    const struct pretokenizer *pretokenizer;
    void *match_data, *match_context; /* pcre2 */
    const char *text;
    size_t bytes, at;
    size_t valid_end; /* text[at .. valid_end) is valid UTF-8 */
};

/* name as in tokenizer.ggml.pre. Errors: ERR_UNSUPPORTED (not built), ERR_NO_MEMORY. */
status pretokenizer_open(const struct token_text *name, struct pretokenizer *pretokenizer_out);
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
