/* wire/codec.h - one description of a message that both writes and reads it.
 *
 *     static void place_fields(struct codec *c, struct wire_place *m)
 *     {
 *         codec_u64(c, &m->request_id);
 *         codec_u32(c, &m->matched_blocks, UINT32_MAX);
 *     }
 *
 * Encoding appends to a frame that grows; decoding reads from bytes that are not trusted: a field
 * out of its range or past the end makes the codec failed, and later fields read as zero.
 *
 * Threads: one. Memory: the frame is the caller's.
 */
#ifndef WIRE_CODEC_H
#define WIRE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/status.h"

struct wire_frame;

struct codec {
    struct wire_frame *frame; /* encoding when set */
    struct reader from;       /* else decoding */
    const char *wrong;        /* the first field that was not in its range, for the message */
};

void codec_u8(struct codec *c, uint8_t *field);
/* limit: the largest value that is accepted. name is for the message. */
void codec_u32(struct codec *c, uint32_t *field, uint32_t limit, const char *name);
void codec_i32(struct codec *c, int32_t *field);
void codec_u64(struct codec *c, uint64_t *field);
void codec_f32(struct codec *c, float *field, const char *name);  /* refuses NaN */
void codec_f64(struct codec *c, double *field, const char *name); /* refuses NaN */
void codec_bytes(struct codec *c, uint8_t *field, size_t bytes);
/* A text of up to bytes - 1 characters; always ends with NUL. Control characters are sent as
 * question marks, and refused when they come. */
void codec_text(struct codec *c, char *field, size_t bytes, const char *name);

/* After decoding: ERR_BAD_INPUT when anything failed or bytes are left over (unless rest_ok). */
status codec_finish(const struct codec *c, const char *message_name, bool rest_ok);

#endif
