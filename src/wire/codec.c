#include "wire/codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "wire/control.h"

void wire_frame_reset(struct wire_frame *frame)
{
    frame->bytes = 0;
    frame->failed = false;
}

void wire_frame_close(struct wire_frame *frame)
{
    free(frame->data);
    memset(frame, 0, sizeof(*frame));
}

/* Room for bytes more at the end of the frame; NULL when there is none. */
static uint8_t *wire_frame_extend(struct wire_frame *frame, size_t bytes)
{
    if (frame->failed)
        return NULL;
    if (bytes > frame->capacity - frame->bytes) {
        size_t capacity = frame->capacity > 0 ? frame->capacity * 2 : 1024;
        while (capacity - frame->bytes < bytes)
            capacity *= 2;
        uint8_t *data = realloc(frame->data, capacity);
        if (data == NULL) {
            frame->failed = true;
            return NULL;
        }
        frame->data = data;
        frame->capacity = capacity;
    }
    uint8_t *at = frame->data + frame->bytes;
    frame->bytes += bytes;
    return at;
}

static void codec_refuse(struct codec *c, const char *name)
{
    if (c->wrong == NULL)
        c->wrong = name;
    c->from.failed = true;
}

void codec_bytes(struct codec *c, uint8_t *field, size_t bytes)
{
    if (bytes == 0)
        return; /* of nothing the field may be NULL, which memcpy may not be given */
    if (c->frame != NULL) {
        uint8_t *to = wire_frame_extend(c->frame, bytes);
        if (to != NULL)
            memcpy(to, field, bytes);
        return;
    }
    const uint8_t *from = read_bytes(&c->from, bytes);
    if (from != NULL)
        memcpy(field, from, bytes);
    else
        memset(field, 0, bytes);
}

void codec_u8(struct codec *c, uint8_t *field)
{
    codec_bytes(c, field, 1);
}

void codec_u32(struct codec *c, uint32_t *field, uint32_t limit, const char *name)
{
    uint8_t raw[4];
    store_u32(raw, *field);
    codec_bytes(c, raw, sizeof(raw));
    if (c->frame != NULL)
        return;
    uint32_t value = load_u32(raw);
    if (value > limit) {
        codec_refuse(c, name);
        value = 0;
    }
    *field = value;
}

void codec_i32(struct codec *c, int32_t *field)
{
    uint32_t bits = (uint32_t)*field;
    codec_u32(c, &bits, UINT32_MAX, "");
    memcpy(field, &bits, sizeof(bits));
}

void codec_u64(struct codec *c, uint64_t *field)
{
    uint8_t raw[8];
    store_u64(raw, *field);
    codec_bytes(c, raw, sizeof(raw));
    *field = load_u64(raw);
}

void codec_f32(struct codec *c, float *field, const char *name)
{
    uint32_t bits;
    memcpy(&bits, field, sizeof(bits));
    codec_u32(c, &bits, UINT32_MAX, name);
    memcpy(field, &bits, sizeof(bits));
    if (c->frame == NULL && isnan(*field)) {
        codec_refuse(c, name);
        *field = 0;
    }
}

void codec_f64(struct codec *c, double *field, const char *name)
{
    uint64_t bits;
    memcpy(&bits, field, sizeof(bits));
    codec_u64(c, &bits);
    memcpy(field, &bits, sizeof(bits));
    if (c->frame == NULL && isnan(*field)) {
        codec_refuse(c, name);
        *field = 0;
    }
}

static bool text_allows(char character)
{
    return (unsigned char)character >= 0x20 && character != 0x7f;
}

void codec_text(struct codec *c, char *field, size_t bytes, const char *name)
{
    uint32_t length = c->frame != NULL ? (uint32_t)strnlen(field, bytes - 1) : 0;
    codec_u32(c, &length, (uint32_t)(bytes - 1), name);
    size_t begin = c->frame != NULL ? c->frame->bytes : 0;
    codec_bytes(c, (uint8_t *)field, length);
    if (c->frame != NULL) {
        for (uint32_t i = 0; i < length && !c->frame->failed; i++) {
            if (!text_allows(field[i]))
                c->frame->data[begin + i] = '?';
        }
        return;
    }
    field[length] = '\0';
    for (uint32_t i = 0; i < length; i++) {
        if (!text_allows(field[i])) {
            codec_refuse(c, name);
            field[0] = '\0';
            return;
        }
    }
}

status codec_finish(const struct codec *c, const char *message_name, bool rest_ok)
{
    if (c->wrong != NULL)
        return error_set(ERR_BAD_INPUT, "message %s: field %s is out of its range", message_name,
                         c->wrong);
    if (c->from.failed)
        return error_set(ERR_BAD_INPUT, "message %s is cut short", message_name);
    if (!rest_ok && c->from.left > 0)
        return error_set(ERR_BAD_INPUT, "message %s has %zu bytes too many", message_name,
                         c->from.left);
    return OK;
}
