#include "model/detokenizer.h"

#include <assert.h>
#include <string.h>

#include "base/error.h"
#include "base/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define REPLACEMENT_BYTES 3

void detokenizer_open(const struct tokenizer *tokenizer, unsigned flags,
                      struct detokenizer *detokenizer_out)
{
    *detokenizer_out = (struct detokenizer){.tokenizer = tokenizer, .flags = (uint8_t)flags};
}

/* The token's bytes after the held ones; in room for both. */
static size_t join_held(const struct detokenizer *d, const uint8_t *bytes, size_t count,
                        uint8_t *joined)
{
    memcpy(joined, d->held, d->held_count);
    if (count > 0)
        memcpy(joined + d->held_count, bytes, count);
    return d->held_count + count;
}

status detokenizer_push(struct detokenizer *detokenizer, uint32_t id, char *text_out,
                        size_t *bytes_out)
{
    struct detokenizer *d = detokenizer;
    const struct tokenizer_facts *facts = tokenizer_facts(d->tokenizer);
    if (id >= facts->vocabulary)
        return error_set(ERR_BAD_INPUT, "token id %u is not one of the vocabulary's %u", id,
                         facts->vocabulary);
    *bytes_out = 0;
    if ((d->flags & DETOKENIZER_SKIP_SPECIAL) != 0 && tokenizer_is_special(d->tokenizer, id))
        return OK;

    size_t count;
    const uint8_t *bytes = tokenizer_token_bytes(d->tokenizer, id, &count);
    if ((d->flags & DETOKENIZER_TEXT_START) != 0 && !tokenizer_is_special(d->tokenizer, id)) {
        d->flags &= (uint8_t)~DETOKENIZER_TEXT_START;
        if (facts->add_space_prefix && count > 0 && bytes[0] == ' ') {
            bytes++;
            count--;
        }
    }
    uint8_t joined[sizeof(d->held) + TOKENIZER_TOKEN_BYTES_MAX];
    assert(count <= TOKENIZER_TOKEN_BYTES_MAX);
    size_t left = join_held(d, bytes, count, joined);
    const uint8_t *at = joined;
    size_t written = 0;
    d->held_count = 0;
    while (left > 0) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at, left, &kind);
        if (kind == UTF8_OPEN) {
            memcpy(d->held, at, step);
            d->held_count = (uint8_t)step;
        } else if (kind == UTF8_WHOLE) {
            memcpy(text_out + written, at, step);
            written += step;
        } else {
            memcpy(text_out + written, REPLACEMENT, REPLACEMENT_BYTES);
            written += REPLACEMENT_BYTES;
        }
        at += step;
        left -= step;
    }
    *bytes_out = written;
    return OK;
}

void detokenizer_flush(struct detokenizer *detokenizer, char *text_out, size_t *bytes_out)
{
    *bytes_out = 0;
    if (detokenizer->held_count > 0) {
        memcpy(text_out, REPLACEMENT, REPLACEMENT_BYTES);
        *bytes_out = REPLACEMENT_BYTES;
    }
    detokenizer->held_count = 0;
    detokenizer->flags &= (uint8_t)~DETOKENIZER_TEXT_START;
}

void detokenizer_close(struct detokenizer *detokenizer)
{
    *detokenizer = (struct detokenizer){0};
}
