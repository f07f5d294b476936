#include "wire/operator.h"

#include <string.h>

#include "base/error.h"
#include "wire/control_fields.h"

static void status_fields(struct codec *c, struct wire_status *m)
{
    codec_u64(c, &m->incarnation);
    codec_u32(c, &m->requests, UINT32_MAX, "requests");
    codec_u32(c, &m->waiting, UINT32_MAX, "waiting");
    codec_u32(c, &m->draining, 1, "draining");
    codec_u32(c, &m->member_count, WIRE_MEMBERS_MAX, "member_count");
    codec_u64(c, &m->directory_keys);
    codec_u64(c, &m->directory_repairs);
    codec_u64(c, &m->failovers);
}

static void member_fields(struct codec *c, struct wire_member *m)
{
    wire_register_fields(c, &m->registration);
    wire_heartbeat_fields(c, &m->beat);
    codec_u32(c, &m->leaving, 1, "leaving");
    codec_u32(c, &m->beat_age_ms, UINT32_MAX, "beat_age_ms");
    codec_u32(c, &m->decoding, UINT32_MAX, "decoding");
    codec_u64(c, &m->queued_tokens);
}

static void changed_fields(struct codec *c, struct wire_changed *m)
{
    codec_i32(c, &m->status);
    codec_text(c, m->text, sizeof(m->text), "text");
}

WIRE_MESSAGE_HEAD(status, status_fields)
WIRE_MESSAGE_HEAD(member, member_fields)
WIRE_MESSAGE(changed, changed_fields)

static void change_fields(struct codec *c, struct wire_change *m)
{
    codec_u32(c, &m->action, WIRE_CHANGE_DRAIN, "action");
    codec_u32(c, &m->roles, WIRE_ROLE_PREFILL | WIRE_ROLE_DECODE, "roles");
    codec_text(c, m->worker, sizeof(m->worker), "worker");
}

void wire_change_encode(struct wire_frame *frame, const struct wire_change *message)
{
    struct codec c = {.frame = frame};
    struct wire_change copy = *message;
    change_fields(&c, &copy);
}

status wire_change_decode(const uint8_t *data, size_t bytes, struct wire_change *message_out)
{
    struct codec c = {.from = reader_over(data, bytes)};
    struct wire_change message;
    memset(&message, 0, sizeof(message));
    change_fields(&c, &message);
    status st = codec_finish(&c, "change", false);
    if (st == OK &&
        (message.action == 0 || (message.action == WIRE_CHANGE_ROLES && message.roles == 0)))
        st = error_set(ERR_BAD_INPUT, "message change: expected an action, and roles with it");
    if (st == OK)
        *message_out = message;
    return st;
}
