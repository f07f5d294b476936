#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "wire/link_parts.h"

status link_handshake_open(struct link *link)
{
    link->hello.auth = HELLO_AUTH_NONE;
    if (link->key == NULL) {
        if (getrandom(link->hello.nonce, HELLO_NONCE_BYTES, 0) != HELLO_NONCE_BYTES)
            return error_set(ERR_IO, "the system gives no random bytes: %s", strerror(errno));
        return OK;
    }
    status st = auth_open(link->key, link->accepted, &link->auth);
    if (st != OK)
        return st;
    link->hello.auth = HELLO_AUTH_CLUSTER_KEY | (seal_has_aes() ? HELLO_AUTH_AES : 0u);
    memcpy(link->hello.nonce, auth_public(link->auth), HELLO_NONCE_BYTES);
    return OK;
}

static status link_send_hello(struct link *link)
{
    uint8_t payload[HELLO_PAYLOAD_BYTES_MAX];
    uint32_t bytes = hello_write(&link->hello, payload);
    if (link->auth != NULL)
        auth_hello(link->auth, true, payload, bytes);
    return link_out_queue(link, FRAME_HELLO, payload, bytes, NULL, 0, -1);
}

status link_handshake_begin(struct link *link)
{
    link->phase = LINK_HELLO_WANTED;
    return link_send_hello(link);
}

status link_refuse(struct link *link, status cause)
{
    char text[ERROR_TEXT_BYTES];
    memcpy(text, error_text(), sizeof(text));
    size_t bytes = strnlen(text, HELLO_REFUSE_TEXT_BYTES);
    if (link_out_queue(link, FRAME_REFUSE, text, (uint32_t)bytes, NULL, 0, -1) == OK)
        link_out_write(link);
    return error_set(cause, "%s", text);
}

static status link_check_peer(struct link *link)
{
    if (link->peer_incarnation != 0 && link->peer_incarnation != link->peer.incarnation)
        return error_set(ERR_REFUSED,
                         "incarnation: expected %016llx, \"%s\" is %016llx; that process "
                         "was restarted, or is another one",
                         (unsigned long long)link->peer_incarnation, link->peer.name,
                         (unsigned long long)link->peer.incarnation);
    return hello_check(&link->hello, &link->peer);
}

static status link_send_ready(struct link *link)
{
    status st = link_out_queue(link, FRAME_READY, NULL, 0, NULL, 0, -1);
    if (st == OK)
        link_ready(link);
    return st;
}

static status link_send_proof(struct link *link)
{
    uint8_t proof[AUTH_PROOF_BYTES];
    auth_prove(link->auth, proof);
    return link_out_queue(link, FRAME_AUTH, proof, sizeof(proof), NULL, 0, -1);
}

/* Both HELLOs are known. The acceptor proves first: who connects learns whom it has reached. */
static status link_begin_proof(struct link *link)
{
    status st = auth_agree(link->auth, link->peer.nonce);
    if (st != OK)
        return link_refuse(link, st);
    link->phase = LINK_PROOF_WANTED;
    return link->accepted ? link_send_proof(link) : OK;
}

static status link_on_hello(struct link *link, const uint8_t *payload, uint32_t payload_bytes)
{
    status st = hello_read(payload, payload_bytes, &link->peer);
    if (st == OK)
        st = link_check_peer(link);
    if (st == ERR_BAD_INPUT)
        return st; /* not one of us: no answer */
    if (st != OK)
        return link_refuse(link, st);
    if (link->auth != NULL)
        auth_hello(link->auth, false, payload, payload_bytes);
    if (link->accepted)
        st = link_send_hello(link);
    if (st == OK && link->auth != NULL)
        return link_begin_proof(link);
    if (link->accepted) {
        link->phase = LINK_READY_WANTED;
        return st;
    }
    return link_send_ready(link);
}

static status link_on_proof(struct link *link, const uint8_t *proof, uint32_t proof_bytes)
{
    status st = auth_check(link->auth, proof, proof_bytes, link->peer.name);
    if (st != OK)
        return link_refuse(link, st);
    if (!link->accepted)
        st = link_send_proof(link);
    if (st == OK && !link->is_unix)
        st = link_sealed_begin(link);
    auth_close(link->auth);
    link->auth = NULL;
    if (st != OK)
        return st;
    if (!link->accepted)
        return link_send_ready(link);
    link->phase = LINK_READY_WANTED;
    return OK;
}

static status link_on_refuse(const uint8_t *payload, uint32_t payload_bytes)
{
    char text[HELLO_REFUSE_TEXT_BYTES + 1];
    uint32_t bytes = payload_bytes < sizeof(text) - 1 ? payload_bytes : (uint32_t)sizeof(text) - 1;
    memcpy(text, payload, bytes);
    text[bytes] = '\0';
    for (uint32_t i = 0; i < bytes; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            text[i] = '?';
    }
    return error_set(ERR_REFUSED, "the peer refused: %s", text);
}

status link_handshake_frame(struct link *link, uint16_t type, const uint8_t *payload,
                            uint32_t payload_bytes)
{
    if (link->phase != LINK_OPEN && type == FRAME_REFUSE && payload_bytes > 0)
        return link_on_refuse(payload, payload_bytes);
    if (link->phase == LINK_HELLO_WANTED && type == FRAME_HELLO)
        return link_on_hello(link, payload, payload_bytes);
    if (link->phase == LINK_PROOF_WANTED && type == FRAME_AUTH)
        return link_on_proof(link, payload, payload_bytes);
    if (link->phase == LINK_READY_WANTED && type == FRAME_READY && payload_bytes == 0) {
        link_ready(link);
        return OK;
    }
    return error_set(ERR_BAD_INPUT, "frame of type 0x%04x came %s", type,
                     link->phase == LINK_OPEN ? "after the handshake"
                                              : "before the handshake was over");
}
