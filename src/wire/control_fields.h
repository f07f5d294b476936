/* wire/control_fields.h - messages from their field lists, and the lists that are parts of other
 * messages. Internal to wire/. */
#ifndef WIRE_CONTROL_FIELDS_H
#define WIRE_CONTROL_FIELDS_H

#include <string.h>

#include "wire/codec.h"
#include "wire/control.h"

/* Define wire_NAME_encode and wire_NAME_decode of a fixed-size message from its field list.
 * Encoding reads fields through the same pointers that decoding writes; it never changes them. */
#define WIRE_MESSAGE(name, fields)                                                                 \
    void wire_##name##_encode(struct wire_frame *frame, const struct wire_##name *message)         \
    {                                                                                              \
        struct codec c = {.frame = frame};                                                         \
        struct wire_##name copy = *message;                                                        \
        fields(&c, &copy);                                                                         \
    }                                                                                              \
    status wire_##name##_decode(const uint8_t *data, size_t bytes,                                 \
                                struct wire_##name *message_out)                                   \
    {                                                                                              \
        struct codec c = {.from = reader_over(data, bytes)};                                       \
        struct wire_##name message;                                                                \
        memset(&message, 0, sizeof(message));                                                      \
        fields(&c, &message);                                                                      \
        status st = codec_finish(&c, #name, false);                                                \
        if (st == OK)                                                                              \
            *message_out = message;                                                                \
        return st;                                                                                 \
    }

/* The same of one that more follows: decoding takes it off the front. */
#define WIRE_MESSAGE_HEAD(name, fields)                                                            \
    void wire_##name##_encode(struct wire_frame *frame, const struct wire_##name *message)         \
    {                                                                                              \
        struct codec c = {.frame = frame};                                                         \
        struct wire_##name copy = *message;                                                        \
        fields(&c, &copy);                                                                         \
    }                                                                                              \
    status wire_##name##_decode(struct reader *from, struct wire_##name *message_out)              \
    {                                                                                              \
        struct codec c = {.from = *from};                                                          \
        struct wire_##name message;                                                                \
        memset(&message, 0, sizeof(message));                                                      \
        fields(&c, &message);                                                                      \
        status st = codec_finish(&c, #name, true);                                                 \
        if (st != OK)                                                                              \
            return st;                                                                             \
        *from = c.from;                                                                            \
        *message_out = message;                                                                    \
        return OK;                                                                                 \
    }

void wire_register_fields(struct codec *c, struct wire_register *m);
void wire_heartbeat_fields(struct codec *c, struct wire_heartbeat *m);

#endif
