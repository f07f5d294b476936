/* model/vocabulary.h - the tokens of a model: spelling, bytes, type, and the way back from both.
 *
 *     id -> texts[id]: the spelling in the file         "Ġcaf", "<0x0A>", "▁the"
 *     id -> bytes[id]: what it decodes to               " caf", "\n",     " the"
 *     spelling -> id, bytes -> id: open hash tables, at most half full; of equals the first id wins
 *
 * Threads: open and close by one; the rest by any. Memory: owns copies of all text.
 */
#ifndef MODEL_VOCABULARY_H
#define MODEL_VOCABULARY_H

#include "model/tokenizer.h"

enum vocabulary_spelling {
    SPELLING_BYTE_LEVEL, /* a printable character stands for each byte (GPT-2) */
    SPELLING_SPACE_MARK, /* U+2581 stands for a space, <0xNN> for a byte (SentencePiece) */
};

struct vocabulary_piece {
    uint32_t offset, bytes;
};

struct vocabulary_slot {
    uint32_t tag; /* the hash's upper half */
    uint32_t id;  /* TOKEN_NONE: empty */
};

struct vocabulary_index {
    struct vocabulary_slot *slots; /* [mask + 1] */
    size_t mask;
};

struct vocabulary {
    uint32_t count;
    uint32_t bytes_max; /* the longest of bytes */
    uint32_t text_bytes_max;
    uint8_t *types;                         /* [count] of enum token_type */
    char *text;                             /* all spellings, one after the other */
    uint8_t *decoded;                       /* the same, decoded */
    struct vocabulary_piece *texts, *bytes; /* [count] */
    struct vocabulary_index by_text;
    struct vocabulary_index by_bytes; /* byte level: normal tokens only */
    uint32_t byte_ids[256];           /* the token of each byte, or TOKEN_NONE */
};

/* Errors: ERR_BAD_INPUT (counts, types, lengths), ERR_NO_MEMORY. Close after an error, too. */
status vocabulary_open(const struct tokenizer_spec *spec, enum vocabulary_spelling spelling,
                       struct vocabulary *vocabulary_out);
void vocabulary_close(struct vocabulary *vocabulary);

/* TOKEN_NONE when there is none. */
uint32_t vocabulary_find_text(const struct vocabulary *vocabulary, const char *text, size_t bytes);
uint32_t vocabulary_find_bytes(const struct vocabulary *vocabulary, const void *data, size_t bytes);

#endif
