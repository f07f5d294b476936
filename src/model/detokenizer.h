/* model/detokenizer.h - the tokens of one sequence as text, while they come.
 *
 *     push(id) -> bytes of the token -> [held: 0..3 bytes of an unfinished character] -> UTF-8 out
 *
 * What comes out is always whole characters: bytes that may still become one are held back until
 * the next tokens finish them, or flush gives them up. Bytes that can't become one are U+FFFD, one
 * for each longest possible beginning of a character (Unicode 15, section 3.9, "maximal subparts"):
 * the same bytes give the same text, however they are spread over tokens.
 *
 * Threads: one at a time for a detokenizer.
 * Memory:  the caller's struct of fixed size, nothing allocated; the tokenizer must outlive it.
 */
#ifndef MODEL_DETOKENIZER_H
#define MODEL_DETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "model/tokenizer.h"

/* Room that one push or flush may need: every byte, and those held, a U+FFFD of three. */
#define DETOKENIZER_PIECE_BYTES_MAX (3 * (TOKENIZER_TOKEN_BYTES_MAX + 3))

enum detokenizer_flags {
    DETOKENIZER_SKIP_SPECIAL = 1, /* control tokens give no text */
    /* The first token is the start of a text, not a continuation: a model with a space prefix has
     * its one leading space taken away. Set by tokenizer_decode; unset for generated tokens. */
    DETOKENIZER_TEXT_START = 2,
};

struct detokenizer {
    const struct tokenizer *tokenizer;
    uint8_t held[4]; /* the beginning of a character */
    uint8_t held_count;
    uint8_t flags;
};

void detokenizer_open(const struct tokenizer *tokenizer, unsigned flags,
                      struct detokenizer *detokenizer_out);

/* Text that id completes, into text_out[DETOKENIZER_PIECE_BYTES_MAX]; may be none. No NUL is added.
 * Errors: ERR_BAD_INPUT (id out of range; nothing changes). */
status detokenizer_push(struct detokenizer *detokenizer, uint32_t id, char *text_out,
                        size_t *bytes_out);

/* The end: what is held becomes U+FFFD. The detokenizer is as after open, without TEXT_START. */
void detokenizer_flush(struct detokenizer *detokenizer, char *text_out, size_t *bytes_out);

/* Nothing to free; says that the sequence is over. */
void detokenizer_close(struct detokenizer *detokenizer);

#endif
