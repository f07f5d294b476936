#include "model/vocabulary.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/utf8.h"

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define SPACE_MARK_BYTES 3

/* The printable stand-ins of GPT-2: printable Latin-1 stands for itself, the 68 others follow one
 * another from U+0100. */
#define STAND_IN_FIRST 0x100
#define STAND_IN_END 0x144

static bool byte_is_printable(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The byte that a code point stands for, or -1. */
static int stand_in_byte(uint32_t point)
{
    if (point < 0x100)
        return byte_is_printable(point) ? (int)point : -1;
    if (point >= STAND_IN_END)
        return -1;
    uint32_t index = point - STAND_IN_FIRST;
    for (unsigned byte = 0; byte < 0x100; byte++) {
        if (!byte_is_printable(byte) && index-- == 0)
            return (int)byte;
    }
    return -1;
}

static uint64_t hash_bytes(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t hash = 0x9e3779b97f4a7c15u ^ bytes;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        hash = (hash ^ load_u64(at)) * 0xd6e8feb86659fd93u;
        hash ^= hash >> 32;
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < bytes; i++)
        tail |= (uint64_t)at[i] << (8 * i);
    hash = (hash ^ tail) * 0xd6e8feb86659fd93u;
    hash ^= hash >> 29;
    hash *= 0xbf58476d1ce4e5b9u;
    return hash ^ hash >> 32;
}

static uint32_t index_find(const struct vocabulary_index *index,
                           const struct vocabulary_piece *pieces, const void *all, const void *data,
                           size_t bytes)
{
    uint64_t hash = hash_bytes(data, bytes);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t at = hash & index->mask;; at = (at + 1) & index->mask) {
        const struct vocabulary_slot *slot = &index->slots[at];
        if (slot->id == TOKEN_NONE)
            return TOKEN_NONE;
        if (slot->tag == tag && pieces[slot->id].bytes == bytes &&
            memcmp((const uint8_t *)all + pieces[slot->id].offset, data, bytes) == 0)
            return slot->id;
    }
}

static status index_open(uint32_t count, struct vocabulary_index *index_out)
{
    size_t slots = 16;
    while (slots < 2 * (size_t)count)
        slots *= 2;
    index_out->slots = malloc(slots * sizeof(*index_out->slots));
    if (index_out->slots == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for an index of %u tokens", count);
    index_out->mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        index_out->slots[i] = (struct vocabulary_slot){.id = TOKEN_NONE};
    return OK;
}

/* Nothing changes when equal bytes are there already, or when there are none. */
static void index_add(struct vocabulary_index *index, const struct vocabulary_piece *pieces,
                      const void *all, uint32_t id)
{
    const uint8_t *data = (const uint8_t *)all + pieces[id].offset;
    if (pieces[id].bytes == 0 ||
        index_find(index, pieces, all, data, pieces[id].bytes) != TOKEN_NONE)
        return;
    uint64_t hash = hash_bytes(data, pieces[id].bytes);
    size_t at = hash & index->mask;
    while (index->slots[at].id != TOKEN_NONE)
        at = (at + 1) & index->mask;
    index->slots[at] = (struct vocabulary_slot){.tag = (uint32_t)(hash >> 32), .id = id};
}

/* Byte-level spelling into bytes; false when a character stands for no byte: then it is literal. */
static bool decode_byte_level(const char *text, uint32_t text_bytes,
                              const int16_t byte_of[STAND_IN_END], uint8_t *out,
                              uint32_t *bytes_out)
{
    const uint8_t *at = (const uint8_t *)text;
    uint32_t written = 0;
    for (uint32_t i = 0; i < text_bytes;) {
        enum utf8_kind kind;
        unsigned step = utf8_take(at + i, text_bytes - i, &kind);
        uint32_t point = kind == UTF8_WHOLE ? utf8_code_point(at + i, step) : STAND_IN_END;
        if (point >= STAND_IN_END || byte_of[point] < 0)
            return false;
        out[written++] = (uint8_t)byte_of[point];
        i += step;
    }
    *bytes_out = written;
    return true;
}

static uint32_t decode_space_marks(const char *text, uint32_t text_bytes, uint8_t *out)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < text_bytes;) {
        if (text_bytes - i >= SPACE_MARK_BYTES &&
            memcmp(text + i, SPACE_MARK, SPACE_MARK_BYTES) == 0) {
            out[written++] = ' ';
            i += SPACE_MARK_BYTES;
        } else {
            out[written++] = (uint8_t)text[i++];
        }
    }
    return written;
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return -1;
}

/* "<0x0A>" gives 10; anything else -1. */
static int byte_token_value(const char *text, uint32_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Fill decoded, bytes[] and the two ways back from bytes. */
static status decode_all(struct vocabulary *v, enum vocabulary_spelling spelling)
{
    int16_t byte_of[STAND_IN_END];
    for (uint32_t point = 0; point < STAND_IN_END; point++)
        byte_of[point] = (int16_t)stand_in_byte(point);
    for (unsigned byte = 0; byte < 256; byte++)
        v->byte_ids[byte] = TOKEN_NONE;

    uint32_t offset = 0;
    for (uint32_t id = 0; id < v->count; id++) {
        const char *text = v->text + v->texts[id].offset;
        uint32_t text_bytes = v->texts[id].bytes;
        uint8_t *out = v->decoded + offset;
        uint32_t bytes = 0;
        uint8_t type = v->types[id];
        bool mapped = false; /* its bytes may be found in text */
        if (spelling == SPELLING_BYTE_LEVEL && type != TOKEN_CONTROL && type != TOKEN_USER_DEFINED)
            mapped = decode_byte_level(text, text_bytes, byte_of, out, &bytes);
        if (spelling == SPELLING_SPACE_MARK && type == TOKEN_BYTE) {
            int value = byte_token_value(text, text_bytes);
            if (value < 0)
                return error_set(ERR_BAD_INPUT,
                                 "token %u is of type byte but is not spelled <0xNN>: \"%.*s\"", id,
                                 (int)text_bytes, text);
            out[0] = (uint8_t)value;
            bytes = 1;
            if (v->byte_ids[value] == TOKEN_NONE)
                v->byte_ids[value] = id;
        } else if (spelling == SPELLING_SPACE_MARK && type != TOKEN_CONTROL) {
            bytes = decode_space_marks(text, text_bytes, out);
        } else if (!mapped) {
            if (text_bytes > 0)
                memcpy(out, text, text_bytes);
            bytes = text_bytes;
        }
        v->bytes[id] = (struct vocabulary_piece){.offset = offset, .bytes = bytes};
        offset += bytes;
        if (bytes > v->bytes_max)
            v->bytes_max = bytes;
        if (mapped) {
            index_add(&v->by_bytes, v->bytes, v->decoded, id);
            if (bytes == 1 && v->byte_ids[out[0]] == TOKEN_NONE)
                v->byte_ids[out[0]] = id;
        }
    }
    return OK;
}

static status check_tokens(const struct tokenizer_spec *spec, size_t *text_bytes_out)
{
    if (spec->token_count == 0 || spec->token_count > TOKENIZER_TOKENS_MAX)
        return error_set(ERR_BAD_INPUT, "a tokenizer has 1 to %u tokens, this one %zu",
                         TOKENIZER_TOKENS_MAX, spec->token_count);
    size_t sum = 0;
    for (size_t i = 0; i < spec->token_count; i++) {
        if (spec->tokens[i].bytes > TOKENIZER_TOKEN_BYTES_MAX)
            return error_set(ERR_BAD_INPUT, "token %zu is %zu bytes long, at most %u are taken", i,
                             spec->tokens[i].bytes, TOKENIZER_TOKEN_BYTES_MAX);
        sum += spec->tokens[i].bytes;
        if (spec->types != NULL && (spec->types[i] < TOKEN_NORMAL || spec->types[i] > TOKEN_BYTE))
            return error_set(ERR_BAD_INPUT, "token %zu has type %d, known are %d to %d", i,
                             (int)spec->types[i], TOKEN_NORMAL, TOKEN_BYTE);
    }
    if (sum > UINT32_MAX)
        return error_set(ERR_BAD_INPUT, "the tokens' text is %zu bytes, at most %u are taken", sum,
                         UINT32_MAX);
    *text_bytes_out = sum;
    return OK;
}

status vocabulary_open(const struct tokenizer_spec *spec, enum vocabulary_spelling spelling,
                       struct vocabulary *vocabulary_out)
{
    struct vocabulary *v = vocabulary_out;
    memset(v, 0, sizeof(*v));
    size_t text_bytes = 0;
    status code = check_tokens(spec, &text_bytes);
    if (code != OK)
        return code;
    v->count = (uint32_t)spec->token_count;
    v->types = malloc(v->count);
    v->text = malloc(text_bytes + 1);
    v->decoded = malloc(text_bytes + 1);
    v->texts = calloc(v->count, sizeof(*v->texts));
    v->bytes = calloc(v->count, sizeof(*v->bytes));
    if (v->types == NULL || v->text == NULL || v->decoded == NULL || v->texts == NULL ||
        v->bytes == NULL)
        return error_set(ERR_NO_MEMORY, "no memory for a vocabulary of %u tokens", v->count);
    if ((code = index_open(v->count, &v->by_text)) != OK ||
        (code = index_open(v->count, &v->by_bytes)) != OK)
        return code;

    uint32_t offset = 0;
    for (uint32_t id = 0; id < v->count; id++) {
        uint32_t bytes = (uint32_t)spec->tokens[id].bytes;
        if (bytes > 0)
            memcpy(v->text + offset, spec->tokens[id].text, bytes);
        v->texts[id] = (struct vocabulary_piece){.offset = offset, .bytes = bytes};
        v->types[id] = spec->types != NULL ? (uint8_t)spec->types[id] : TOKEN_NORMAL;
        if (bytes > v->text_bytes_max)
            v->text_bytes_max = bytes;
        offset += bytes;
        index_add(&v->by_text, v->texts, v->text, id);
    }
    return decode_all(v, spelling);
}

void vocabulary_close(struct vocabulary *vocabulary)
{
    free(vocabulary->types);
    free(vocabulary->text);
    free(vocabulary->decoded);
    free(vocabulary->texts);
    free(vocabulary->bytes);
    free(vocabulary->by_text.slots);
    free(vocabulary->by_bytes.slots);
    memset(vocabulary, 0, sizeof(*vocabulary));
}

uint32_t vocabulary_find_text(const struct vocabulary *vocabulary, const char *text, size_t bytes)
{
    return index_find(&vocabulary->by_text, vocabulary->texts, vocabulary->text, text, bytes);
}

uint32_t vocabulary_find_bytes(const struct vocabulary *vocabulary, const void *data, size_t bytes)
{
    if (bytes > vocabulary->bytes_max)
        return TOKEN_NONE;
    return index_find(&vocabulary->by_bytes, vocabulary->bytes, vocabulary->decoded, data, bytes);
}
